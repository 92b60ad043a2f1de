/* crc.c -- CRC-32C by ISA-L, which picks the fastest code for the processor at run time.
 *
 * ISA-L's function is the bare polynomial division: it neither inverts what it starts from nor what
 * it returns, and counts in int. Kafka (like iSCSI, ext4 and SSE4.2 users) starts from all ones and
 * inverts the result; doing both here makes sti_crc32c(sti_crc32c(0, a), b) the checksum of a
 * followed by b.
 */
#include <isa-l/crc.h>

#include "batch.h"

#define CRC_CHUNK ((size_t)1 << 30)

uint32_t sti_crc32c(uint32_t crc, const void *data, size_t len)
{
    /* The declaration lacks a const; the function only reads. */
    unsigned char *p = (unsigned char *)(uintptr_t)data;
    uint32_t state = ~crc;
    while (len > CRC_CHUNK) {
        state = crc32_iscsi(p, (int)CRC_CHUNK, state);
        p += CRC_CHUNK;
        len -= CRC_CHUNK;
    }
    if (len > 0) {
        state = crc32_iscsi(p, (int)len, state);
    }
    return ~state;
}

/* Product of two polynomials modulo that of CRC-32C, bits reversed as the checksum's are. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if ((a & bit) != 0) {
            product ^= b;
        }
        b = (b & 1u) != 0 ? (b >> 1) ^ 0x82f63b78u : b >> 1;
    }
    return product;
}

uint32_t batch_crc_shift(uint32_t difference, uint64_t len)
{
    /* x to the power 2^n; from n = 31 on they repeat. */
    static const uint32_t powers[31] = {
        0x40000000, 0x20000000, 0x08000000, 0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c,
        0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7, 0x88e56f72, 0x74c360a4, 0xe4172b16,
        0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc, 0xfe7740e6, 0xf946610b,
        0x3c204f8f, 0x538586e3, 0x59726915, 0x734d5309, 0xbc1ac763, 0x7d0722cc, 0xd289cabe,
        0xe94ca9bc, 0x05b74f3f, 0xa51e1f42};
    for (unsigned n = 3; len != 0; n++, len >>= 1) { /* a byte is 2^3 bits */
        difference = (len & 1u) != 0 ? multiply(powers[n % 31u], difference) : difference;
    }
    return difference;
}
