/* streamit/record_batch.h -- Kafka record batches v2: check, read, build. Implemented by
 * libstreamit-batch.
 *
 * Records travel, rest and replicate in one encoding, from producer to disk to follower to
 * consumer; a broker never re-encodes. Source of the format: the Kafka protocol documentation,
 * "Record Batch" and "Record" (magic 2). All integers are big-endian.
 *
 *      0  8  base offset            } outside the checksum: written by the broker on append,
 *      8  4  batch length           } "patched" without touching the payload
 *     12  4  partition leader epoch }
 *     16  1  magic (2)
 *     17  4  CRC-32C of bytes 21..end
 *     21  2  attributes: 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
 *     23  4  last offset delta
 *     27  8  base timestamp (ms)
 *     35  8  max timestamp (ms)
 *     43  8  producer id (-1: none)
 *     51  2  producer epoch
 *     53  4  base sequence
 *     57  4  record count
 *     61  .. records, compressed as one block when the codec is not 0
 *
 * A record, all numbers zigzag varints except the one byte of attributes:
 *
 *     length (of what follows), attributes (0), timestamp delta, offset delta,
 *     key length (-1: null), key, value length (-1: null), value, header count,
 *     and for each header: name length, name, value length (-1: null), value
 *
 * Who uses what: the broker checks what producers send (sti_batch_check) and patches
 * (sti_batch_patch); storage walks headers (sti_batch_header_decode); clients build
 * (sti_batch_builder_*) and read (sti_batch_iter_*). Nothing here keeps state between calls, takes
 * a lock or does I/O; objects may be used by one thread at a time.
 *
 * Caveats. Bytes 0-15 are outside the checksum: a checked batch may still carry a wrong base
 * offset, length or epoch, and whoever reads it from disk checks them by their neighbours.
 * Iterating an unchecked batch is safe (every length is bounded) but may give nonsense.
 */
#ifndef STREAMIT_RECORD_BATCH_H
#define STREAMIT_RECORD_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/slice.h"
#include "streamit/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Functions of libstreamit-batch, which exports nothing else. */
#if defined(__GNUC__)
#define STI_API __attribute__((visibility("default")))
#else
#define STI_API
#endif

#define STI_BATCH_HEADER_LEN 61u /* bytes before the first record                            */
#define STI_BATCH_PREFIX_LEN 12u /* base offset and batch length: not counted by batch length */
#define STI_BATCH_PATCH_LEN  16u /* bytes that a broker writes, outside the checksum          */
#define STI_BATCH_MAGIC      2

/* What sti_batch_check lets compressed records grow to, and a sensible inflated_max. */
#define STI_BATCH_INFLATED_MAX ((size_t)128 << 20)

enum sti_codec {
    STI_CODEC_NONE = 0,
    STI_CODEC_GZIP = 1,
    STI_CODEC_SNAPPY = 2,
    STI_CODEC_LZ4 = 3,
    STI_CODEC_ZSTD = 4
};

#define STI_BATCH_CODEC_MASK      0x07u
#define STI_BATCH_LOG_APPEND_TIME 0x08u
#define STI_BATCH_TRANSACTIONAL   0x10u
#define STI_BATCH_CONTROL         0x20u
#define STI_BATCH_DELETE_HORIZON  0x40u

/* A decoded header. `total_len` = 12 + batch_length: bytes of the whole batch. */
struct sti_batch_header {
    int64_t base_offset;
    int32_t batch_length;
    int32_t leader_epoch;
    int32_t magic;
    uint32_t crc;
    uint32_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int64_t producer_id;
    int32_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
    uint32_t reserved;
    uint64_t total_len;
};

static inline int64_t sti_batch_last_offset(const struct sti_batch_header *header)
{
    return header->base_offset + header->last_offset_delta;
}

/* CRC-32C (Castagnoli) of `len` bytes, continuing from `crc`; start with 0. */
STI_API uint32_t sti_crc32c(uint32_t crc, const void *data, size_t len);

/* Decode the header at `data`, of which `len` bytes are there. Checks what can be known from the
 * header alone: magic, batch length >= 49, last offset delta >= 0, record count >= 0, offsets that
 * do not overflow.
 * @return STI_OK; STI_E_WOULD_BLOCK when fewer than 61 bytes are there (*out untouched);
 * STI_E_CORRUPT_BATCH; STI_E_UNSUPPORTED for a magic other than 2 */
STI_API int sti_batch_header_decode(const uint8_t *data, size_t len, struct sti_batch_header *out,
                                    struct sti_err *err);

/* What sti_batch_check looks at beyond the header.
 *
 * CRC: the checksum.
 *
 * PRODUCER: what a client may send. Base offset 0; record count = last offset delta + 1 > 0; no
 * control bit, no log append time bit; codec 0-4; bits 7-15 of the attributes zero; producer id,
 * epoch and sequence all set or all -1. A record takes at least seven bytes: where the count asks
 * for more than are there, the records are decoded as under RECORDS, and decide.
 *
 * RECORDS: decode every record. Lengths, count, no byte left over, offset deltas that grow and end
 * at the last offset delta at most: 0, 1, 2 ... in a batch that compaction has not thinned. */
#define STI_CHECK_CRC      0x1u
#define STI_CHECK_PRODUCER 0x2u
#define STI_CHECK_RECORDS  0x4u

/* Check exactly one batch that lies scattered over `count` slices, and decode its header. Fields
 * may straddle slices anywhere. The slices must be in memory and are borrowed until return. Where
 * records are decoded memory is taken for what straddles slices (at most max_len bytes) and to
 * decompress a batch (at most STI_BATCH_INFLATED_MAX); otherwise none is.
 * @param max_len  a larger batch is refused, bytes
 * @param out  filled on success, all zero otherwise
 * @return STI_OK; STI_E_CORRUPT_BATCH (malformed, bytes missing or left over, wrong CRC);
 * STI_E_INVALID_ARGUMENT (a rule of STI_CHECK_PRODUCER, or a slice not in memory);
 * STI_E_MESSAGE_TOO_LARGE; STI_E_UNSUPPORTED (magic, codec); STI_E_NO_MEMORY. The message says
 * which field, expected and found. */
STI_API int sti_batch_check(const struct sti_slice *slices, size_t count, uint32_t checks,
                            uint64_t max_len, struct sti_batch_header *out, struct sti_err *err);

/* Write bytes 0-15 of a batch: base offset, batch length (total_len - 12), leader epoch. */
STI_API void sti_batch_patch(uint8_t head[STI_BATCH_PATCH_LEN], int64_t base_offset,
                             uint64_t total_len, int32_t leader_epoch);

/* Stamp a batch with the time of its append, as Kafka does for LogAppendTime: attribute bit 3, the
 * largest timestamp, and the checksum, which follows from the old one without a look at the
 * records.
 * @param rest       bytes 16-60 of a batch whose checksum holds
 * @param total_len  of the whole batch, up to 2^31 */
STI_API void sti_batch_stamp(uint8_t rest[STI_BATCH_HEADER_LEN - STI_BATCH_PATCH_LEN],
                             uint64_t total_len, int64_t timestamp_ms);

/* ---- reading */

/* One record; all pointers are borrowed, from the batch or from the iterator's buffers, until its
 * next init or fini. */
struct sti_record {
    int64_t offset;
    int64_t timestamp;      /* ms; the batch's max timestamp when its type is log append */
    const uint8_t *key;     /* NULL: null key */
    const uint8_t *value;   /* NULL: null value */
    const uint8_t *headers; /* encoded headers; see sti_record_header_next */
    uint32_t key_len, value_len, headers_len, header_count;
};

struct sti_batch_inflater; /* decompression state; the library's */

/* All zero before its first use. Callers read `header` only. */
struct sti_batch_iter {
    struct sti_batch_header header;
    const uint8_t *pos, *end; /* encoded records that are left in one piece */
    uint8_t *inflated;        /* owned; decompressed records, or NULL */
    size_t inflated_capacity;
    struct sti_batch_inflater *inflater; /* owned; kept from batch to batch, or NULL */
    int64_t delta_min;                   /* least offset delta that the next record may have */
    int32_t left;                        /* records that are left */
    uint32_t reserved;
    const struct sti_slice *slices; /* borrowed; the pieces behind this one */
    size_t behind;                  /* bytes of records in them */
    uint8_t *joined;                /* owned; what straddled pieces, or NULL */
    size_t joined_len, joined_capacity;
};

/* Begin to read the whole batch at `data` (exactly its bytes, or more; borrowed until the last
 * record has been used). Decompresses if needed, into at most `inflated_max` bytes; memory grows
 * with what comes out, never with what the batch claims. A zeroed or earlier used iterator may be
 * given, after any outcome: its buffers are reused. Does not check the CRC: see sti_batch_check.
 * @return STI_OK, STI_E_CORRUPT_BATCH, STI_E_UNSUPPORTED, STI_E_MESSAGE_TOO_LARGE, STI_E_NO_MEMORY
 */
STI_API int sti_batch_iter_init(struct sti_batch_iter *iter, const uint8_t *data, size_t len,
                                size_t inflated_max, struct sti_err *err);
/* The same for a batch that lies scattered over `count` slices, in memory all of them; slices and
 * bytes are borrowed until the last record has been used. A record is read where it lies; only one
 * that straddles slices is copied, and a compressed batch before it is decompressed. Memory is
 * reserved for as many bytes as the records have, and touched as far as they straddle.
 * @return as sti_batch_iter_init, and STI_E_INVALID_ARGUMENT (a slice not in memory) */
STI_API int sti_batch_iter_init_slices(struct sti_batch_iter *iter, const struct sti_slice *slices,
                                       size_t count, size_t inflated_max, struct sti_err *err);
/* @return STI_OK with *out filled, STI_E_END after the last (*err is untouched),
 * STI_E_CORRUPT_BATCH, again and again */
STI_API int sti_batch_iter_next(struct sti_batch_iter *iter, struct sti_record *out,
                                struct sti_err *err);
/* Free the buffers. Safe on a zeroed iterator. */
STI_API void sti_batch_iter_fini(struct sti_batch_iter *iter);

/* Take the next header of a record from *pos, which starts as record.headers and ends at
 * record.headers + record.headers_len. Name and value are borrowed; a null value has value_len -1.
 * @return STI_OK with *pos advanced, STI_E_END, STI_E_CORRUPT_BATCH (never for headers of a record
 * that sti_batch_iter_next gave) */
STI_API int sti_record_header_next(const uint8_t **pos, const uint8_t *end, const char **name,
                                   uint32_t *name_len, const uint8_t **value, int64_t *value_len);

/* ---- building */

struct sti_batch_builder;

/* A header of a record to append. A NULL value is a null value, whatever its length says. */
struct sti_record_header {
    const char *name;
    const void *value;
    uint32_t name_len, value_len;
};

/* Make a builder: *out is returned, free it with sti_batch_builder_free.
 * @param codec  enum sti_codec
 * @param level  compression level in the codec's own terms, 0: its default; ignored by snappy
 * @return STI_OK, STI_E_UNSUPPORTED (codec), STI_E_NO_MEMORY */
STI_API int sti_batch_builder_new(struct sti_batch_builder **out, int codec, int level,
                                  struct sti_err *err);
STI_API void sti_batch_builder_free(struct sti_batch_builder *builder);
/* Forget the records, keep the buffers. */
STI_API void sti_batch_builder_reset(struct sti_batch_builder *builder);
/* Append one record. key NULL: null key; value NULL: null value. Bytes are copied.
 * @return STI_OK, STI_E_MESSAGE_TOO_LARGE (the batch would pass 2^31 - 1 bytes or records),
 * STI_E_NO_MEMORY; the batch is then unchanged */
STI_API int sti_batch_builder_append(struct sti_batch_builder *builder, int64_t timestamp_ms,
                                     const void *key, size_t key_len, const void *value,
                                     size_t value_len, const struct sti_record_header *headers,
                                     size_t header_count, struct sti_err *err);
STI_API uint32_t sti_batch_builder_count(const struct sti_batch_builder *builder);
/* Bytes of the batch as it stands, before compression. */
STI_API size_t sti_batch_builder_len(const struct sti_batch_builder *builder);
/* Bytes that one more record would add at the most. */
STI_API size_t sti_batch_record_len_max(size_t key_len, size_t value_len,
                                        const struct sti_record_header *headers,
                                        size_t header_count);
/* Producer identity for idempotence; -1, -1, -1 (the default) for none. Kept until reset. */
STI_API void sti_batch_builder_producer(struct sti_batch_builder *builder, int64_t producer_id,
                                        int32_t epoch, int32_t sequence);
/* Finish the batch: compress, write header and CRC, base offset 0, leader epoch -1. *data is
 * borrowed until the next append, finish, reset or free; the records stay, so that more may be
 * appended and the batch finished again. A batch that compression would enlarge is still stored
 * compressed, as asked.
 * @return STI_OK, STI_E_PRECONDITION (no records), STI_E_NO_MEMORY, STI_E_INTERNAL (codec failure)
 */
STI_API int sti_batch_builder_finish(struct sti_batch_builder *builder, const uint8_t **data,
                                     size_t *len, struct sti_err *err);

/* ---- codecs */

/* "none", "gzip", "snappy", "lz4", "zstd"; NULL for an unknown number, -1 for an unknown name. */
STI_API const char *sti_codec_name(int codec);
STI_API int sti_codec_from_name(const char *name);

/* ---- varints: zigzag, base 128, as in records */

/* @return bytes written, at most 10 */
STI_API size_t sti_varint_put(uint8_t *out, int64_t value);
STI_API size_t sti_varint_len(int64_t value);
/* Take a varint from *pos. @return STI_OK with *pos advanced, STI_E_CORRUPT_BATCH (cut or longer
 * than 10 bytes) */
STI_API int sti_varint_get(const uint8_t **pos, const uint8_t *end, int64_t *out);

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_RECORD_BATCH_H */
