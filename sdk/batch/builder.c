/* builder.c -- building a batch: each record is encoded once, straight into the final buffer.
 *
 * The buffer begins with room for the header, so that finishing an uncompressed batch writes 61
 * bytes and runs the checksum, and nothing is moved. A compressed batch goes through a second
 * buffer. Both are kept over reset, so that a producer in its stride allocates nothing.
 *
 * Finishing changes no records: the batch may be appended to and finished again.
 */
#include <stdlib.h>

#include "batch.h"

#define BUILDER_CAPACITY_MIN ((size_t)4096)
#define BUILDER_LEN_MAX      ((size_t)INT32_MAX)

struct sti_batch_builder {
    struct batch_buf raw;    /* header room, then the records as appended         */
    struct batch_buf packed; /* header room, then the compressed records          */
    struct batch_deflater *deflater;
    size_t len; /* bytes in `raw`, at least STI_BATCH_HEADER_LEN     */
    int32_t count;
    int codec, level;
    int64_t base_timestamp, max_timestamp;
    int64_t producer_id;
    int32_t producer_epoch, base_sequence;
};

int batch_buf_reserve(struct batch_buf *buf, size_t capacity, size_t keep, struct sti_err *err)
{
    size_t grown = buf->capacity < SIZE_MAX / 2 ? buf->capacity * 2 : SIZE_MAX;
    uint8_t *data;
    if (capacity <= buf->capacity) {
        return STI_OK;
    }
    if (capacity < grown && keep > 0) {
        capacity = grown;
    }
    data = keep > 0 ? realloc(buf->data, capacity) : malloc(capacity);
    if (data == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a buffer of %zu bytes", capacity);
    }
    if (keep == 0) {
        free(buf->data);
    }
    buf->data = data;
    buf->capacity = capacity;
    return STI_OK;
}

int sti_batch_builder_new(struct sti_batch_builder **out, int codec, int level, struct sti_err *err)
{
    struct sti_batch_builder *builder;
    int rc;
    *out = NULL;
    if (sti_codec_name(codec) == NULL) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "codec %d, expected 0 to %d", codec,
                           STI_CODEC_ZSTD);
    }
    builder = calloc(1, sizeof *builder);
    if (builder == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a batch builder");
    }
    rc = batch_buf_reserve(&builder->raw, BUILDER_CAPACITY_MIN, 0, err);
    if (rc != STI_OK) {
        free(builder);
        return rc;
    }
    builder->codec = codec;
    builder->level = level;
    sti_batch_builder_reset(builder);
    *out = builder;
    return STI_OK;
}

void sti_batch_builder_free(struct sti_batch_builder *builder)
{
    if (builder != NULL) {
        batch_deflater_free(builder->deflater);
        free(builder->raw.data);
        free(builder->packed.data);
        free(builder);
    }
}

void sti_batch_builder_reset(struct sti_batch_builder *builder)
{
    builder->len = STI_BATCH_HEADER_LEN;
    builder->count = 0;
    builder->base_timestamp = builder->max_timestamp = -1;
    sti_batch_builder_producer(builder, -1, -1, -1);
}

void sti_batch_builder_producer(struct sti_batch_builder *builder, int64_t producer_id,
                                int32_t epoch, int32_t sequence)
{
    builder->producer_id = producer_id;
    builder->producer_epoch = epoch;
    builder->base_sequence = sequence;
}

uint32_t sti_batch_builder_count(const struct sti_batch_builder *builder)
{
    return (uint32_t)builder->count;
}

size_t sti_batch_builder_len(const struct sti_batch_builder *builder)
{
    return builder->len;
}

size_t sti_batch_record_len_max(size_t key_len, size_t value_len,
                                const struct sti_record_header *headers, size_t header_count)
{
    /* Length, attributes, timestamp delta, offset delta, key length, value length, header count. */
    size_t len = 5u + 1u + BATCH_VARINT_LEN_MAX + 5u + 5u + 5u + 5u + key_len + value_len;
    size_t i;
    for (i = 0; i < header_count; i++) {
        len += 5u + 5u + (size_t)headers[i].name_len + headers[i].value_len;
    }
    return len;
}

/* Bytes of the headers as encoded, without their count; more than BUILDER_LEN_MAX when they cannot
 * fit. */
static size_t headers_len(const struct sti_record_header *headers, size_t count)
{
    size_t len = 0, i;
    for (i = 0; i < count && len <= BUILDER_LEN_MAX; i++) {
        int64_t value_len = headers[i].value == NULL ? -1 : (int64_t)headers[i].value_len;
        len += batch_varint_len(headers[i].name_len) + headers[i].name_len +
               batch_varint_len(value_len) + (value_len < 0 ? 0u : (size_t)value_len);
    }
    return len;
}

/* A length and that many bytes; NULL is written as length -1. */
static inline uint8_t *put_bytes(uint8_t *p, const void *data, size_t len)
{
    if (data == NULL) {
        *p++ = 1; /* zigzag of -1 */
        return p;
    }
    p = batch_varint_put(p, (int64_t)len);
    memcpy(p, data, len);
    return p + len;
}

static uint8_t *put_headers(uint8_t *p, const struct sti_record_header *headers, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        p = put_bytes(p, headers[i].name_len > 0 ? headers[i].name : "", headers[i].name_len);
        p = put_bytes(p, headers[i].value, headers[i].value_len);
    }
    return p;
}

/* Make room for a record of `len` bytes. */
static int builder_reserve(struct sti_batch_builder *builder, size_t len, struct sti_err *err)
{
    if (len > BUILDER_LEN_MAX - builder->len || builder->count == INT32_MAX) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "a record of %zu bytes does not fit behind %zu bytes and %d records",
                           len, builder->len, (int)builder->count);
    }
    return batch_buf_reserve(&builder->raw, builder->len + len, builder->len, err);
}

int sti_batch_builder_append(struct sti_batch_builder *builder, int64_t timestamp_ms,
                             const void *key, size_t key_len, const void *value, size_t value_len,
                             const struct sti_record_header *headers, size_t header_count,
                             struct sti_err *err)
{
    int64_t base = builder->count == 0 ? timestamp_ms : builder->base_timestamp;
    int64_t delta = (int64_t)((uint64_t)timestamp_ms - (uint64_t)base);
    size_t headers_size, body;
    uint8_t *p;
    key_len = key == NULL ? 0 : key_len;
    value_len = value == NULL ? 0 : value_len;
    if (key_len > BUILDER_LEN_MAX || value_len > BUILDER_LEN_MAX ||
        header_count > BUILDER_LEN_MAX) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "key of %zu bytes, value of %zu bytes, %zu headers: over the limit of "
                           "%zu",
                           key_len, value_len, header_count, BUILDER_LEN_MAX);
    }
    headers_size = header_count == 0 ? 0 : headers_len(headers, header_count);
    body = 1u + batch_varint_len(delta) + batch_varint_len(builder->count) +
           (key == NULL ? 1u : batch_varint_len((int64_t)key_len) + key_len) +
           (value == NULL ? 1u : batch_varint_len((int64_t)value_len) + value_len) +
           batch_varint_len((int64_t)header_count) + headers_size;
    if (__builtin_expect(builder->len + body + BATCH_VARINT_LEN_MAX > builder->raw.capacity ||
                             builder->len + body + BATCH_VARINT_LEN_MAX > BUILDER_LEN_MAX ||
                             builder->count == INT32_MAX,
                         0)) {
        int rc = builder_reserve(builder, body + BATCH_VARINT_LEN_MAX, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
    p = batch_varint_put(builder->raw.data + builder->len, (int64_t)body);
    *p++ = 0; /* attributes */
    p = batch_varint_put(p, delta);
    p = batch_varint_put(p, builder->count);
    p = put_bytes(p, key, key_len);
    p = put_bytes(p, value, value_len);
    p = batch_varint_put(p, (int64_t)header_count);
    if (header_count > 0) {
        p = put_headers(p, headers, header_count);
    }
    if (builder->count == 0 || timestamp_ms > builder->max_timestamp) {
        builder->max_timestamp = timestamp_ms;
    }
    builder->base_timestamp = base;
    builder->len = (size_t)(p - builder->raw.data);
    builder->count++;
    return STI_OK;
}

/* Write the header in front of the records of the batch of `len` bytes at `data`. */
static void builder_write_header(const struct sti_batch_builder *builder, uint8_t *data, size_t len)
{
    sti_batch_patch(data, 0, len, -1);
    data[BATCH_POS_MAGIC] = STI_BATCH_MAGIC;
    batch_store16(data + BATCH_POS_ATTRIBUTES, (uint16_t)builder->codec);
    batch_store32(data + BATCH_POS_LAST_DELTA, (uint32_t)builder->count - 1u);
    batch_store64(data + BATCH_POS_BASE_TIMESTAMP, (uint64_t)builder->base_timestamp);
    batch_store64(data + BATCH_POS_MAX_TIMESTAMP, (uint64_t)builder->max_timestamp);
    batch_store64(data + BATCH_POS_PRODUCER_ID, (uint64_t)builder->producer_id);
    batch_store16(data + BATCH_POS_PRODUCER_EPOCH, (uint16_t)builder->producer_epoch);
    batch_store32(data + BATCH_POS_BASE_SEQUENCE, (uint32_t)builder->base_sequence);
    batch_store32(data + BATCH_POS_RECORD_COUNT, (uint32_t)builder->count);
    batch_store32(data + BATCH_POS_CRC,
                  sti_crc32c(0, data + BATCH_POS_ATTRIBUTES, len - BATCH_POS_ATTRIBUTES));
}

int sti_batch_builder_finish(struct sti_batch_builder *builder, const uint8_t **data, size_t *len,
                             struct sti_err *err)
{
    uint8_t *batch = builder->raw.data;
    size_t batch_len = builder->len;
    *data = NULL;
    *len = 0;
    if (builder->count == 0) {
        return sti_err_set(err, STI_E_PRECONDITION, "a batch needs at least one record");
    }
    if (builder->codec != STI_CODEC_NONE) {
        size_t packed_len;
        int rc = batch_deflate(&builder->deflater, builder->codec, builder->level,
                               builder->raw.data + STI_BATCH_HEADER_LEN,
                               builder->len - STI_BATCH_HEADER_LEN, STI_BATCH_HEADER_LEN,
                               &builder->packed, &packed_len, err);
        if (rc != STI_OK) {
            return rc;
        }
        if (packed_len > BUILDER_LEN_MAX - STI_BATCH_HEADER_LEN) {
            return sti_err_set(err, STI_E_INTERNAL, "codec %s made %zu bytes of %zu",
                               sti_codec_name(builder->codec), packed_len, builder->len);
        }
        batch = builder->packed.data;
        batch_len = STI_BATCH_HEADER_LEN + packed_len;
    }
    builder_write_header(builder, batch, batch_len);
    *data = batch;
    *len = batch_len;
    return STI_OK;
}
