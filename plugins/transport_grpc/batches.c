/* batches.c -- see batches.h.
 *
 *     FetchedRecord { 1 offset | 2 timestamp_ms | 3 key | 4 value | 5 repeated Header { 1 | 2 } }
 *
 * Records are written one behind the other into one block of memory that grows with what comes
 * out, up to the limit, and is then given to gRPC.
 */
#include "batches.h"

#include <stdlib.h>
#include <string.h>

#include "wire.h"

enum { KEY_RECORDS = (14 << 3) | 2, FIRST_BYTES = 4096 };

/* ---- headers only ---- */

/* The header of the batch at the reader's place, which stays. */
static int peek_header(const struct tgr_reader *reader, uint64_t end, struct sti_batch_header *out,
                       struct sti_err *err)
{
    struct tgr_reader at = *reader;
    uint8_t head[STI_BATCH_HEADER_LEN];
    if (!tgr_read_bytes(&at, end, sizeof head, head)) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a batch header is cut");
    }
    int rc = sti_batch_header_decode(head, sizeof head, out, err);
    if (rc == STI_E_CORRUPT_BATCH) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a batch header is damaged");
    }
    return rc;
}

uint64_t tgr_batches_end(const struct sti_slice *slices, size_t count, int64_t *next_offset,
                         int32_t *last_epoch)
{
    uint64_t end = sti_slices_len(slices, count), whole = 0;
    struct tgr_reader reader;
    struct sti_batch_header header = {0};
    tgr_reader_init(&reader, slices, count);
    while (whole < end) {
        if (peek_header(&reader, end, &header, NULL) != STI_OK ||
            (whole > 0 && header.base_offset < *next_offset) ||
            !tgr_read_bytes(&reader, end, header.total_len, NULL)) {
            break;
        }
        whole = reader.pos;
        *next_offset = sti_batch_last_offset(&header) + 1;
        *last_epoch = header.leader_epoch;
    }
    return whole;
}

bool tgr_batches_compressed(const struct sti_slice *slices, size_t count)
{
    uint64_t end = sti_slices_len(slices, count);
    struct tgr_reader reader;
    struct sti_batch_header header = {0};
    bool compressed = false;
    tgr_reader_init(&reader, slices, count);
    while (!compressed && reader.pos < end && peek_header(&reader, end, &header, NULL) == STI_OK &&
           tgr_read_bytes(&reader, end, header.total_len, NULL)) {
        compressed = (header.attributes & STI_BATCH_CODEC_MASK) != STI_CODEC_NONE;
    }
    return compressed;
}

/* ---- records out ---- */

struct writer {
    uint8_t *bytes;
    size_t len, capacity;
};

static bool reserve(struct writer *w, size_t more)
{
    if (w->bytes != NULL && more <= w->capacity - w->len) {
        return true;
    }
    size_t capacity = w->capacity == 0 ? FIRST_BYTES : w->capacity;
    while (capacity - w->len < more) {
        if (capacity > SIZE_MAX / 2) {
            return false;
        }
        capacity *= 2;
    }
    uint8_t *bytes = realloc(w->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    w->bytes = bytes;
    w->capacity = capacity;
    return true;
}

static size_t bytes_len(uint64_t len)
{
    return 1 + tgr_varint_len(len) + (size_t)len;
}

static void put_varint(struct writer *w, unsigned number, uint64_t value)
{
    w->bytes[w->len++] = (uint8_t)(number << 3);
    w->len += tgr_varint_put(w->bytes + w->len, value);
}

static void put_head(struct writer *w, unsigned key, uint64_t len)
{
    w->bytes[w->len++] = (uint8_t)key;
    w->len += tgr_varint_put(w->bytes + w->len, len);
}

static void put_bytes(struct writer *w, unsigned number, const void *data, uint64_t len)
{
    put_head(w, number << 3 | TGR_WIRE_BYTES, len);
    if (len > 0) {
        memcpy(w->bytes + w->len, data, (size_t)len);
        w->len += (size_t)len;
    }
}

static size_t header_len(uint32_t name_len, int64_t value_len)
{
    return bytes_len(name_len) + (value_len < 0 ? 0 : bytes_len((uint64_t)value_len));
}

static size_t record_len(const struct sti_record *record)
{
    const uint8_t *pos = record->headers, *end = record->headers + record->headers_len;
    const uint8_t *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    size_t len = 1 + tgr_varint_len((uint64_t)record->offset) + 1 +
                 tgr_varint_len((uint64_t)record->timestamp);
    len += record->key == NULL ? 0 : bytes_len(record->key_len);
    len += record->value == NULL ? 0 : bytes_len(record->value_len);
    while (sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) == STI_OK) {
        len += bytes_len(header_len(name_len, value_len));
    }
    return len;
}

/* There is room. @param len  of the message, from record_len() */
static void put_record(struct writer *w, const struct sti_record *record, size_t len)
{
    const uint8_t *pos = record->headers, *end = record->headers + record->headers_len;
    const uint8_t *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    put_head(w, KEY_RECORDS, len);
    put_varint(w, 1, (uint64_t)record->offset);
    put_varint(w, 2, (uint64_t)record->timestamp);
    if (record->key != NULL) {
        put_bytes(w, 3, record->key, record->key_len);
    }
    if (record->value != NULL) {
        put_bytes(w, 4, record->value, record->value_len);
    }
    while (sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) == STI_OK) {
        put_head(w, 5 << 3 | TGR_WIRE_BYTES, header_len(name_len, value_len));
        put_bytes(w, 1, name, name_len);
        if (value_len >= 0) {
            put_bytes(w, 2, value, (uint64_t)value_len);
        }
    }
}

/* ---- decoding ---- */

/* One batch. @return STI_OK; STI_E_END: no room for the next record; else as tgr_batches_decode */
static int decode_batch(struct tgr_decoding *d, struct writer *w, struct sti_batch_iter *iter,
                        const uint8_t *data, size_t len, struct sti_err *err)
{
    struct sti_record record;
    int rc = sti_batch_iter_init(iter, data, len, STI_BATCH_INFLATED_MAX, err);
    while (rc == STI_OK && (rc = sti_batch_iter_next(iter, &record, err)) == STI_OK) {
        if (record.offset < d->offset) {
            continue;
        }
        size_t size = record_len(&record);
        size_t whole = bytes_len(size);
        bool must = w->len == 0 && d->one_at_least;
        if (!must && w->len + whole > d->bytes_max) {
            d->next_offset = record.offset;
            return STI_E_END;
        }
        if (!reserve(w, whole)) {
            return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a record of %zu bytes", whole);
        }
        put_record(w, &record, size);
        d->copied += whole;
        d->next_offset = record.offset + 1;
        d->last_epoch = iter->header.leader_epoch;
    }
    return rc == STI_E_END ? STI_OK : rc;
}

/* The next `len` bytes in one piece: where they are, or gathered. NULL: they are not there, or no
 * memory. @param owned  out: to be freed */
static const uint8_t *one_piece(struct tgr_reader *reader, uint64_t end, uint64_t len,
                                uint8_t **owned)
{
    struct tgr_reader before = *reader;
    struct sti_slice piece;
    size_t pieces;
    *owned = NULL;
    if (tgr_read_slices(reader, end, len, &piece, 1, &pieces)) {
        return piece.data;
    }
    *reader = before;
    if (len > end - before.pos) {
        return NULL;
    }
    *owned = malloc((size_t)len);
    if (*owned != NULL) {
        (void)tgr_read_bytes(reader, end, len, *owned);
    }
    return *owned;
}

static int next_batch(struct tgr_decoding *d, struct writer *w, struct sti_batch_iter *iter,
                      struct tgr_reader *reader, uint64_t end, struct sti_err *err)
{
    struct sti_batch_header header = {0};
    uint8_t *owned;
    int64_t begin = d->next_offset;
    int rc = peek_header(reader, end, &header, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (header.total_len > end - reader->pos) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a batch is cut");
    }
    const uint8_t *data = one_piece(reader, end, header.total_len, &owned);
    if (data == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a batch of %llu bytes",
                           (unsigned long long)header.total_len);
    }
    int64_t base = header.base_offset, behind = sti_batch_last_offset(&header) + 1;
    bool agrees = header.record_count == (int64_t)header.last_offset_delta + 1;
    struct sti_slice batch = sti_slice_borrow(data, (size_t)header.total_len);
    d->copied += owned == NULL ? 0 : header.total_len;
    rc = sti_batch_check(&batch, 1, STI_CHECK_CRC, header.total_len, &header, err);
    if (rc == STI_E_CORRUPT_BATCH) {
        rc = sti_err_set(err, STI_E_DATA_LOSS, "the batch at offset %lld fails its checksum",
                         (long long)base);
    }
    if (rc == STI_OK && (header.attributes & STI_BATCH_CONTROL) == 0) {
        rc = decode_batch(d, w, iter, data, (size_t)header.total_len, err);
    }
    free(owned);
    /* A header whose checksum fails is believed only where it agrees with itself. */
    bool told = rc != STI_E_DATA_LOSS || agrees;
    bool passed = rc == STI_OK || (w->len == 0 && rc != STI_E_END && rc != STI_E_NO_MEMORY && told);
    if (passed) {
        d->next_offset = behind > begin ? behind : begin;
    }
    return rc;
}

int tgr_batches_decode(struct tgr_decoding *d, struct sti_err *err)
{
    uint64_t end = sti_slices_len(d->slices, d->slice_count);
    struct writer writer = {.bytes = NULL};
    struct sti_batch_iter iter;
    struct tgr_reader reader;
    int rc = STI_OK;
    memset(&iter, 0, sizeof iter);
    tgr_reader_init(&reader, d->slices, d->slice_count);
    d->records = grpc_empty_slice();
    d->next_offset = d->offset;
    d->last_epoch = -1;
    d->copied = 0;
    while (rc == STI_OK && reader.pos < end) {
        rc = next_batch(d, &writer, &iter, &reader, end, err);
    }
    sti_batch_iter_fini(&iter);
    if (rc != STI_OK && rc != STI_E_END && writer.len == 0) {
        free(writer.bytes);
        return rc;
    }
    if (writer.len > 0) {
        d->records = grpc_slice_new(writer.bytes, writer.len, free);
    } else {
        free(writer.bytes);
    }
    return STI_OK;
}
