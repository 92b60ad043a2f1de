/* records.c -- see records.h.
 *
 *     Record { 1 key | 2 value | 3 timestamp_ms | 4 repeated Header { 1 key | 2 value } }
 *
 * A record that lies in one span of the receive buffer is read where it is; one that straddles
 * spans is gathered in a scratch buffer first. The batch builder then copies keys and values once.
 */
#include "records.h"

#include <stdlib.h>

#include "streamit/record_batch.h"

enum { PARTITION_RECORDS = 14, HEADERS_FIRST = 8 };

/* What the records of a request share. */
struct encoder {
    struct sti_batch_builder *builder;
    uint8_t *scratch;
    size_t scratch_capacity;
    struct sti_record_header *headers;
    size_t headers_capacity;
    uint64_t bytes_max, copied;
    int64_t now_ms;
};

struct record {
    struct sti_slice key, value; /* data NULL: null */
    int64_t timestamp_ms;
    size_t header_count;
};

static int cut(struct sti_err *err, const char *field)
{
    return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: it is cut or malformed", field);
}

/* Grow an array to `wanted` elements at least. */
static bool reserve(void **array, size_t *capacity, size_t wanted, size_t size)
{
    if (wanted <= *capacity) {
        return true;
    }
    size_t larger = wanted > SIZE_MAX / 2 / size ? wanted : wanted * 2;
    void *grown = larger > SIZE_MAX / size ? NULL : realloc(*array, larger * size);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *capacity = larger;
    return true;
}

/* The next `len` bytes in one piece: where they are, or gathered. */
static int gather(struct encoder *enc, struct tgr_reader *reader, uint64_t end, uint64_t len,
                  struct sti_slice *out, struct sti_err *err)
{
    struct sti_slice piece[1];
    struct tgr_reader before = *reader;
    size_t pieces;
    if (tgr_read_slices(reader, end, len, piece, 1, &pieces)) {
        *out = pieces == 1 ? piece[0] : sti_slice_borrow("", 0);
        return STI_OK;
    }
    *reader = before;
    if (!reserve((void **)&enc->scratch, &enc->scratch_capacity, (size_t)len, 1)) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a record of %llu bytes",
                           (unsigned long long)len);
    }
    if (!tgr_read_bytes(reader, end, len, enc->scratch)) {
        return cut(err, "ProducePartition.records");
    }
    enc->copied += len;
    *out = sti_slice_borrow(enc->scratch, (size_t)len);
    return STI_OK;
}

/* A length-delimited value of a message in one piece. */
static bool read_value(struct tgr_reader *reader, const struct sti_slice *message, uint32_t type,
                       struct sti_slice *out)
{
    uint64_t len;
    if (type != TGR_WIRE_BYTES || !tgr_read_len(reader, message->len, &len)) {
        return false;
    }
    *out = sti_slice_borrow(message->data + reader->pos, (size_t)len);
    return tgr_read_bytes(reader, message->len, len, NULL);
}

static int read_header(const struct sti_slice *message, struct sti_record_header *out,
                       struct sti_err *err)
{
    struct tgr_reader reader;
    struct sti_slice name = sti_slice_borrow("", 0), value = sti_slice_borrow(NULL, 0);
    tgr_reader_init(&reader, message, 1);
    while (reader.pos < message->len) {
        uint32_t number, type;
        if (!tgr_read_key(&reader, message->len, &number, &type)) {
            return cut(err, "Header");
        }
        if (number == 1 && !read_value(&reader, message, type, &name)) {
            return cut(err, "Header.key");
        }
        if (number == 2 && !read_value(&reader, message, type, &value)) {
            return cut(err, "Header.value");
        }
        if (number > 2 && !tgr_skip_field(&reader, message->len, type)) {
            return cut(err, "Header");
        }
    }
    if (!tgr_text_valid(name.data, (size_t)name.len)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "Header.key: it is not UTF-8 or holds a zero byte");
    }
    *out = (struct sti_record_header){.name = (const char *)name.data,
                                      .value = value.data,
                                      .name_len = (uint32_t)name.len,
                                      .value_len = (uint32_t)value.len};
    return STI_OK;
}

static int add_header(struct encoder *enc, struct tgr_reader *reader,
                      const struct sti_slice *message, uint32_t type, struct record *record,
                      struct sti_err *err)
{
    struct sti_slice header;
    if (!read_value(reader, message, type, &header)) {
        return cut(err, "Record.headers");
    }
    if (!reserve((void **)&enc->headers, &enc->headers_capacity,
                 record->header_count + HEADERS_FIRST, sizeof *enc->headers)) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for %zu headers of a record",
                           record->header_count);
    }
    return read_header(&header, &enc->headers[record->header_count++], err);
}

static int read_record(struct encoder *enc, const struct sti_slice *message, struct record *record,
                       struct sti_err *err)
{
    struct tgr_reader reader;
    int rc = STI_OK;
    *record = (struct record){.timestamp_ms = 0};
    tgr_reader_init(&reader, message, 1);
    while (rc == STI_OK && reader.pos < message->len) {
        uint32_t number, type;
        uint64_t value = 0;
        if (!tgr_read_key(&reader, message->len, &number, &type)) {
            return cut(err, "Record");
        }
        if (number == 1) {
            rc = read_value(&reader, message, type, &record->key) ? STI_OK : cut(err, "Record.key");
        } else if (number == 2) {
            rc = read_value(&reader, message, type, &record->value) ? STI_OK
                                                                    : cut(err, "Record.value");
        } else if (number == 3) {
            bool ok = type == TGR_WIRE_VARINT && tgr_read_varint(&reader, message->len, &value);
            rc = ok ? STI_OK : cut(err, "Record.timestamp_ms");
            record->timestamp_ms = (int64_t)value;
        } else if (number == 4) {
            rc = add_header(enc, &reader, message, type, record, err);
        } else {
            rc = tgr_skip_field(&reader, message->len, type) ? STI_OK : cut(err, "Record");
        }
    }
    return rc;
}

static int encode_record(struct encoder *enc, struct tgr_reader *reader, uint64_t end,
                         struct sti_err *err)
{
    struct sti_slice message = sti_slice_borrow("", 0);
    struct record record = {.timestamp_ms = 0};
    uint64_t len;
    if (!tgr_read_len(reader, end, &len)) {
        return cut(err, "ProducePartition.records");
    }
    int rc = gather(enc, reader, end, len, &message, err);
    if (rc == STI_OK) {
        rc = read_record(enc, &message, &record, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    rc = sti_batch_builder_append(enc->builder,
                                  record.timestamp_ms == 0 ? enc->now_ms : record.timestamp_ms,
                                  record.key.data, (size_t)record.key.len, record.value.data,
                                  (size_t)record.value.len, enc->headers, record.header_count, err);
    enc->copied += message.len;
    size_t batch_len = sti_batch_builder_len(enc->builder);
    if (rc == STI_OK && batch_len > enc->bytes_max) {
        rc = sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                         "ProducePartition.records: a batch of the first %u has %zu bytes, at most "
                         "%llu before compression",
                         sti_batch_builder_count(enc->builder), batch_len,
                         (unsigned long long)enc->bytes_max);
    }
    return rc;
}

static int encode_row(struct encoder *enc, struct tgr_produce_row *row, struct sti_slice *out,
                      struct sti_err *err)
{
    struct tgr_reader reader = row->body;
    const uint8_t *data;
    size_t len;
    int rc = STI_OK;
    while (rc == STI_OK && reader.pos < row->body_end) {
        uint32_t number, type;
        bool ok = tgr_read_key(&reader, row->body_end, &number, &type);
        if (ok && number == PARTITION_RECORDS) {
            rc = encode_record(enc, &reader, row->body_end, err);
        } else if (!ok || !tgr_skip_field(&reader, row->body_end, type)) {
            return cut(err, "ProducePartition");
        }
    }
    if (rc == STI_OK) {
        rc = sti_batch_builder_finish(enc->builder, &data, &len, err);
    }
    if (rc == STI_OK) {
        *out = sti_slice_borrow(data, len);
        row->row.slices = out;
        row->row.slice_count = 1;
    }
    return rc;
}

int tgr_records_encode(struct tgr_arena *arena, struct tgr_produce *produce, uint64_t bytes_max,
                       int64_t now_ms, struct tgr_batches *batches, uint64_t *copied,
                       struct sti_err *err)
{
    struct encoder enc = {.bytes_max = bytes_max, .now_ms = now_ms};
    uint32_t rows = produce->call.row_count;
    int rc = STI_OK;
    *batches = (struct tgr_batches){
        .builders = (struct sti_batch_builder **)tgr_arena_alloc(arena, rows, sizeof(void *))};
    struct sti_slice *slices = tgr_arena_alloc(arena, rows, sizeof *slices);
    *copied = 0;
    if (batches->builders == NULL || slices == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for the records of %u partitions",
                           rows);
    }
    for (uint32_t i = 0; rc == STI_OK && i < rows; i++) {
        struct tgr_produce_row *row = &produce->rows[i];
        if (row->record_count == 0) {
            continue;
        }
        rc = sti_batch_builder_new(&enc.builder, row->codec, 0, err);
        if (rc == STI_OK) {
            batches->builders[batches->count++] = enc.builder;
            rc = encode_row(&enc, row, &slices[i], err);
        }
    }
    free(enc.scratch);
    free(enc.headers);
    *copied = enc.copied;
    return rc;
}

void tgr_batches_free(struct tgr_batches *batches)
{
    for (size_t i = 0; i < batches->count; i++) {
        sti_batch_builder_free(batches->builders[i]);
    }
    batches->count = 0;
}
