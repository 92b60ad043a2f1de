/* produce_decode.c -- see produce_decode.h.
 *
 * Two passes over the keys of the message. The first steps over partitions by their length and
 * counts them, which bounds all memory: a row each, and one slice for every span and every row,
 * since the batches are disjoint ranges of the spans. The second fills the rows.
 */
#include "produce_decode.h"

#include <string.h>

#include "wire.h"

enum { REQUEST_PARTITIONS = 15, PARTITION_BATCH = 15 };

static int malformed(struct sti_err *err)
{
    return sti_err_set(err, STI_E_INVALID_ARGUMENT, "ProduceRequest: it is cut or malformed");
}

static int count_rows(const struct sti_slice *spans, size_t count, uint64_t len, size_t *out,
                      struct sti_err *err)
{
    struct tgr_reader reader;
    tgr_reader_init(&reader, spans, count);
    *out = 0;
    while (reader.pos < len) {
        uint32_t number, type;
        if (!tgr_read_key(&reader, len, &number, &type) || !tgr_skip_field(&reader, len, type)) {
            return malformed(err);
        }
        *out += number == REQUEST_PARTITIONS;
    }
    return STI_OK;
}

static int acks_of(uint64_t value, int32_t *out, struct sti_err *err)
{
    switch (value) {
    case 0:
        *out = STI_ACKS_QUORUM;
        return STI_OK;
    case 1:
        *out = STI_ACKS_LEADER;
        return STI_OK;
    case 2:
        *out = STI_ACKS_NONE;
        return STI_OK;
    default:
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProduceRequest.acks: %llu is none of ACKS_QUORUM, ACKS_LEADER, "
                           "ACKS_NONE",
                           (unsigned long long)value);
    }
}

static int read_name(struct tgr_reader *reader, uint64_t len, uint64_t end,
                     struct tgr_produce_row *row, struct sti_err *err)
{
    if (len > STI_TOPIC_NAME_MAX) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProducePartition.topic: %llu bytes, at most %u",
                           (unsigned long long)len, STI_TOPIC_NAME_MAX);
    }
    if (!tgr_read_bytes(reader, end, len, row->topic)) {
        return malformed(err);
    }
    row->topic[len] = '\0';
    if (!tgr_text_valid((const uint8_t *)row->topic, (size_t)len)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProducePartition.topic: it is not UTF-8 or holds a zero byte");
    }
    return STI_OK;
}

static int read_topic_id(struct tgr_reader *reader, uint64_t len, uint64_t end,
                         struct tgr_produce_row *row, struct sti_err *err)
{
    if (len != 0 && len != sizeof row->row.topic_id) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProducePartition.topic_id: %llu bytes, expected 16",
                           (unsigned long long)len);
    }
    memset(row->row.topic_id, 0, sizeof row->row.topic_id);
    return tgr_read_bytes(reader, end, len, row->row.topic_id) ? STI_OK : malformed(err);
}

/* Fill one row. `slices` has room for `slices_max`; the row's batch takes the first of them. */
static int read_row(struct tgr_reader *reader, uint64_t end, struct tgr_produce_row *row,
                    struct sti_slice *slices, size_t slices_max, struct sti_err *err)
{
    int rc = STI_OK;
    size_t slice_count = 0;
    while (rc == STI_OK && reader->pos < end) {
        uint32_t number, type;
        uint64_t value = 0;
        if (!tgr_read_key(reader, end, &number, &type)) {
            return malformed(err);
        }
        bool known = number <= 3 || number == PARTITION_BATCH;
        uint32_t expected = number == 2 ? TGR_WIRE_VARINT : TGR_WIRE_BYTES;
        if (!known) {
            rc = tgr_skip_field(reader, end, type) ? STI_OK : malformed(err);
        } else if (type != expected) {
            rc = malformed(err);
        } else if (number == 2) {
            rc = tgr_read_varint(reader, end, &value) ? STI_OK : malformed(err);
            row->row.partition = (int32_t)(uint32_t)value;
        } else if (!tgr_read_len(reader, end, &value)) {
            rc = malformed(err);
        } else if (number == 1) {
            rc = read_name(reader, value, end, row, err);
        } else if (number == 3) {
            rc = read_topic_id(reader, value, end, row, err);
        } else if (!tgr_read_slices(reader, end, value, slices, slices_max, &slice_count)) {
            rc = malformed(err);
        }
    }
    row->row.slices = slices;
    row->row.slice_count = (uint32_t)slice_count;
    return rc;
}

static int read_scalar(struct tgr_reader *reader, uint64_t end, uint32_t number, uint32_t type,
                       struct sti_produce *call, struct sti_err *err)
{
    uint64_t value = 0;
    if (number > 4) {
        return tgr_skip_field(reader, end, type) ? STI_OK : malformed(err);
    }
    if (type != TGR_WIRE_VARINT || !tgr_read_varint(reader, end, &value)) {
        return malformed(err);
    }
    switch (number) {
    case 1:
        return acks_of(value, &call->acks, err);
    case 2:
        call->timeout_ms = (uint32_t)value;
        return STI_OK;
    case 3:
        call->replicas_min = (int32_t)(uint32_t)value;
        return STI_OK;
    default:
        call->replicas_synced_min = (int32_t)(uint32_t)value;
        return STI_OK;
    }
}

static struct tgr_produce *produce_new(struct tgr_arena *arena, size_t row_count)
{
    struct tgr_produce *produce = tgr_arena_alloc(arena, 1, sizeof *produce);
    if (produce == NULL) {
        return NULL;
    }
    produce->rows = tgr_arena_alloc(arena, row_count, sizeof *produce->rows);
    produce->row_pointers =
        (struct sti_produce_row **)tgr_arena_alloc(arena, row_count, sizeof(void *));
    if (produce->rows == NULL || produce->row_pointers == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < row_count; i++) {
        struct sti_produce_row *row = &produce->rows[i].row;
        *row = (struct sti_produce_row){.struct_size = sizeof *row,
                                        .topic = produce->rows[i].topic,
                                        .base_offset = -1,
                                        .append_time_ms = -1,
                                        .leader_hint = -1};
        produce->row_pointers[i] = row;
    }
    produce->call = (struct sti_produce){.struct_size = sizeof produce->call,
                                         .acks = STI_ACKS_QUORUM,
                                         .row_count = (uint32_t)row_count,
                                         .rows = produce->row_pointers};
    return produce;
}

static int read_request(struct tgr_reader *reader, uint64_t len, struct tgr_produce *produce,
                        struct sti_slice *slices, size_t slices_max, struct sti_err *err)
{
    size_t row = 0;
    int rc = STI_OK;
    while (rc == STI_OK && reader->pos < len) {
        uint32_t number, type;
        uint64_t row_len;
        if (!tgr_read_key(reader, len, &number, &type)) {
            return malformed(err);
        }
        if (number != REQUEST_PARTITIONS) {
            rc = read_scalar(reader, len, number, type, &produce->call, err);
            continue;
        }
        if (type != TGR_WIRE_BYTES || !tgr_read_len(reader, len, &row_len)) {
            return malformed(err);
        }
        rc = read_row(reader, reader->pos + row_len, &produce->rows[row], slices, slices_max, err);
        slices += produce->rows[row].row.slice_count;
        slices_max -= produce->rows[row].row.slice_count;
        row++;
    }
    return rc;
}

int tgr_produce_decode(struct tgr_arena *arena, const struct sti_slice *spans, size_t count,
                       size_t rows_max, struct tgr_produce **out, struct sti_err *err)
{
    uint64_t len = sti_slices_len(spans, count);
    size_t row_count;
    struct tgr_reader reader;
    *out = NULL;
    int rc = count_rows(spans, count, len, &row_count, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (row_count == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "ProduceRequest: it names no partition");
    }
    if (row_count > rows_max) {
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "ProduceRequest: %zu partitions, at most %zu in one call", row_count,
                           rows_max);
    }
    struct tgr_produce *produce = produce_new(arena, row_count);
    struct sti_slice *slices = tgr_arena_alloc(arena, count + row_count, sizeof *slices);
    if (produce == NULL || slices == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request of %zu partitions",
                           row_count);
    }
    tgr_reader_init(&reader, spans, count);
    rc = read_request(&reader, len, produce, slices, count + row_count, err);
    if (rc == STI_OK) {
        *out = produce;
    }
    return rc;
}
