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
