/* batch.h -- what the files of libstreamit-batch share; nothing of it leaves the library.
 *
 * Big-endian loads and stores, the inline form of the varints that the hot loops use, and the two
 * sides of the codecs. Symbols here start with `batch_` and are hidden by the build.
 */
#ifndef STREAMIT_BATCH_PRIVATE_H
#define STREAMIT_BATCH_PRIVATE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "streamit/record_batch.h"

/* Positions in a batch; see the picture in record_batch.h. */
#define BATCH_POS_LENGTH         8u
#define BATCH_POS_EPOCH          12u
#define BATCH_RECORD_LEN_MIN     7u /* length, attributes, two deltas, two lengths, header count */
#define BATCH_POS_MAGIC          16u
#define BATCH_POS_CRC            17u
#define BATCH_POS_ATTRIBUTES     21u
#define BATCH_POS_LAST_DELTA     23u
#define BATCH_POS_BASE_TIMESTAMP 27u
#define BATCH_POS_MAX_TIMESTAMP  35u
#define BATCH_POS_PRODUCER_ID    43u
#define BATCH_POS_PRODUCER_EPOCH 51u
#define BATCH_POS_BASE_SEQUENCE  53u
#define BATCH_POS_RECORD_COUNT   57u
#define BATCH_VARINT_LEN_MAX     10u

/* How the checksum of bytes changes when others, of any content, follow: for a, a' of one length,
 * crc(a' + b) = crc(a + b) ^ batch_crc_shift(crc(a) ^ crc(a'), length of b). */
uint32_t batch_crc_shift(uint32_t difference, uint64_t len);

static inline uint16_t batch_load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t batch_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t batch_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

static inline void batch_store16(uint8_t *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void batch_store32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void batch_store64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the loads above swap unconditionally");

static inline uint64_t batch_zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}

/* Bytes that `value` takes: one for each seven bits begun. */
static inline size_t batch_varint_len(int64_t value)
{
    unsigned bits = 64u - (unsigned)__builtin_clzll(batch_zigzag(value) | 1u);
    return (bits * 9u + 64u) >> 6; /* ceil(bits / 7) for 1 to 64 */
}

/* Write `value` at `p`, which has room for it. Returns the position after it. */
static inline uint8_t *batch_varint_put(uint8_t *p, int64_t value)
{
    uint64_t z = batch_zigzag(value);
    while (z >= 0x80u) {
        *p++ = (uint8_t)(z | 0x80u);
        z >>= 7;
    }
    *p++ = (uint8_t)z;
    return p;
}

/* The general case of batch_varint_get. */
const uint8_t *batch_varint_get_long(const uint8_t *p, const uint8_t *end, int64_t *out);

/* Read a varint that ends before `end`. Returns the position after it, or NULL when it is cut or
 * does not fit in 64 bits. One and two bytes, nearly all there is in records, stay inline. */
static inline const uint8_t *batch_varint_get(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    if (__builtin_expect(end - p >= 2, 1)) {
        uint32_t a = p[0];
        uint32_t b = p[1];
        if (a < 0x80u) {
            *out = (int64_t)(a >> 1) ^ -(int64_t)(a & 1u);
            return p + 1;
        }
        if (b < 0x80u) {
            a = (a & 0x7fu) | (b << 7);
            *out = (int64_t)(a >> 1) ^ -(int64_t)(a & 1u);
            return p + 2;
        }
    }
    return batch_varint_get_long(p, end, out);
}

/* Copy the first `len` bytes of the slices, which hold as many. */
void batch_slices_copy(const struct sti_slice *slices, uint8_t *out, size_t len);

/* A buffer that only grows; the memory is the library's. */
struct batch_buf {
    uint8_t *data;
    size_t capacity;
};

/* Make room for `capacity` bytes, of which the first `keep` are preserved.
 * @return STI_OK, STI_E_NO_MEMORY with the buffer unchanged */
int batch_buf_reserve(struct batch_buf *buf, size_t capacity, size_t keep, struct sti_err *err);

/* Decompression state of one iterator, made when the first compressed batch comes. */
struct sti_batch_inflater;

/* Decompress `len` bytes into `out`, to at most `max` bytes. Memory grows with what really comes
 * out, never with what the input claims.
 * @param state  made on first use; give it back with batch_inflater_free
 * @return STI_OK with *out_len set, STI_E_CORRUPT_BATCH, STI_E_MESSAGE_TOO_LARGE (more than `max`),
 * STI_E_UNSUPPORTED (codec), STI_E_NO_MEMORY */
int batch_inflate(struct sti_batch_inflater **state, uint32_t codec, const uint8_t *in, size_t len,
                  size_t max, struct batch_buf *out, size_t *out_len, struct sti_err *err);
void batch_inflater_free(struct sti_batch_inflater *state);

/* Compression state of one builder. */
struct batch_deflater;

/* Compress `len` bytes behind the first `head` bytes of `out`.
 * @return STI_OK with *out_len the compressed bytes alone, STI_E_NO_MEMORY, STI_E_INTERNAL */
int batch_deflate(struct batch_deflater **state, int codec, int level, const uint8_t *in,
                  size_t len, size_t head, struct batch_buf *out, size_t *out_len,
                  struct sti_err *err);
void batch_deflater_free(struct batch_deflater *state);

/* The framing that Java's snappy streams put around raw snappy blocks: this magic, version and
 * least compatible version (two big-endian integers, both 1), then blocks of length and data. */
#define BATCH_XERIAL_MAGIC     "\x82SNAPPY"
#define BATCH_XERIAL_MAGIC_LEN 8u
#define BATCH_XERIAL_HEAD_LEN  16u
#define BATCH_XERIAL_BLOCK_LEN 32768u

#endif /* STREAMIT_BATCH_PRIVATE_H */
