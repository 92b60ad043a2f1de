/* varint.c -- zigzag varints as in records: seven bits a byte, least significant first.
 *
 * Small magnitudes of either sign are short: 0 is 00, -1 is 01, 1 is 02. The reader takes at most
 * ten bytes, and refuses a tenth byte that would not fit in 64 bits; a longer than necessary form
 * (80 00) is accepted, as by every other reader of the format.
 */
#include "batch.h"

const uint8_t *batch_varint_get_long(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    uint64_t z = 0;
    unsigned shift = 0;
    while (p < end) {
        uint64_t byte = *p++;
        if (shift == 63u && byte > 1u) {
            return NULL;
        }
        z |= (byte & 0x7fu) << shift;
        if (byte < 0x80u) {
            *out = (int64_t)(z >> 1) ^ -(int64_t)(z & 1u);
            return p;
        }
        shift += 7u;
    }
    return NULL;
}

size_t sti_varint_put(uint8_t *out, int64_t value)
{
    return (size_t)(batch_varint_put(out, value) - out);
}

size_t sti_varint_len(int64_t value)
{
    return batch_varint_len(value);
}

int sti_varint_get(const uint8_t **pos, const uint8_t *end, int64_t *out)
{
    const uint8_t *next = batch_varint_get(*pos, end, out);
    if (next == NULL) {
        return STI_E_CORRUPT_BATCH;
    }
    *pos = next;
    return STI_OK;
}
