/* produce_decode.c -- see produce_decode.h.
 *
 * Two passes over the keys of the message. The first steps over partitions by their length and
 * counts them, which bounds all memory: a row each, and one slice for every span and every row,
 * since the batches are disjoint ranges of the spans. The second fills the rows. Records are only
 * counted: making a batch of them may be work for another thread.
 */
#include "produce_decode.h"

#include <string.h>

#include "streamit/record_batch.h"

enum {
    REQUEST_PARTITIONS = 15,
    PARTITION_TOPIC = 1,
    PARTITION_NUMBER = 2,
    PARTITION_TOPIC_ID = 3,
    PARTITION_COMPRESSION = 4,
    PARTITION_RECORDS = 14,
    PARTITION_BATCH = 15
};

/* The scalars of the two messages. */
enum scalar { ID, ACKS, TIMEOUT_MS, REPLICAS_MIN, REPLICAS_SYNCED_MIN, ANSWERED, SCALARS };

struct layout {
    const char *name;
    uint8_t numbers[SCALARS]; /* of the fields; 0: it has none */
};

static const struct layout layouts[] = {
    [TGR_PRODUCE_UNARY] = {"ProduceRequest", {0, 1, 2, 3, 4, 0}},
    [TGR_PRODUCE_STREAMED] = {"ProduceStreamRequest", {1, 2, 3, 4, 5, 6}}};

static const char *const scalar_names[SCALARS] = {
    "id", "acks", "timeout_ms", "replicas_min", "replicas_synced_min", "answered"};

static int malformed(struct sti_err *err, const char *message, const char *field)
{
    return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s%s%s: it is cut or malformed", message,
                       field == NULL ? "" : ".", field == NULL ? "" : field);
}

static int count_rows(const struct layout *layout, const struct sti_slice *spans, size_t count,
                      uint64_t len, size_t *out, struct sti_err *err)
{
    struct tgr_reader reader;
    tgr_reader_init(&reader, spans, count);
    *out = 0;
    while (reader.pos < len) {
        uint32_t number, type;
        if (!tgr_read_key(&reader, len, &number, &type)) {
            return malformed(err, layout->name, NULL);
        }
        if (!tgr_skip_field(&reader, len, type)) {
            return malformed(err, layout->name, number == REQUEST_PARTITIONS ? "partitions" : NULL);
        }
        *out += number == REQUEST_PARTITIONS;
    }
    return STI_OK;
}

static int acks_of(const struct layout *layout, uint64_t value, int32_t *out, struct sti_err *err)
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
                           "%s.acks: %llu is none of ACKS_QUORUM, ACKS_LEADER, ACKS_NONE",
                           layout->name, (unsigned long long)value);
    }
}

/* ---- a partition ---- */

static int cut(struct sti_err *err, const char *field)
{
    return malformed(err, "ProducePartition", field);
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
        return cut(err, "topic");
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
    return tgr_read_bytes(reader, end, len, row->row.topic_id) ? STI_OK : cut(err, "topic_id");
}

static int read_number(struct tgr_reader *reader, uint64_t end, uint32_t number,
                       struct tgr_produce_row *row, struct sti_err *err)
{
    uint64_t value = 0;
    bool compression = number == PARTITION_COMPRESSION;
    if (!tgr_read_varint(reader, end, &value)) {
        return cut(err, compression ? "compression" : "partition");
    }
    if (!compression) {
        row->row.partition = (int32_t)(uint32_t)value;
        return STI_OK;
    }
    if (value > STI_CODEC_ZSTD) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProducePartition.compression: %llu is no codec, the last is %d",
                           (unsigned long long)value, STI_CODEC_ZSTD);
    }
    row->codec = (int32_t)value;
    return STI_OK;
}

/* What a field of a partition is called; NULL for one that is not known. */
static const char *field_name(uint32_t number)
{
    static const char *const names[] = {
        [PARTITION_TOPIC] = "topic",       [PARTITION_NUMBER] = "partition",
        [PARTITION_TOPIC_ID] = "topic_id", [PARTITION_COMPRESSION] = "compression",
        [PARTITION_RECORDS] = "records",   [PARTITION_BATCH] = "batch"};
    return number < sizeof names / sizeof names[0] ? names[number] : NULL;
}

/* Fill one row. `slices` has room for `slices_max`; the row's batch takes the first of them. */
static int read_row(struct tgr_reader *reader, uint64_t end, struct tgr_produce_row *row,
                    struct sti_slice *slices, size_t slices_max, struct sti_err *err)
{
    int rc = STI_OK;
    size_t slice_count = 0;
    row->body = *reader;
    row->body_end = end;
    while (rc == STI_OK && reader->pos < end) {
        uint32_t number, type;
        uint64_t len = 0;
        if (!tgr_read_key(reader, end, &number, &type)) {
            return cut(err, NULL);
        }
        const char *name = field_name(number);
        bool scalar = number == PARTITION_NUMBER || number == PARTITION_COMPRESSION;
        if (name == NULL) {
            rc = tgr_skip_field(reader, end, type) ? STI_OK : cut(err, NULL);
        } else if (type != (scalar ? TGR_WIRE_VARINT : TGR_WIRE_BYTES)) {
            rc = cut(err, name);
        } else if (scalar) {
            rc = read_number(reader, end, number, row, err);
        } else if (!tgr_read_len(reader, end, &len)) {
            rc = cut(err, name);
        } else if (number == PARTITION_TOPIC) {
            rc = read_name(reader, len, end, row, err);
        } else if (number == PARTITION_TOPIC_ID) {
            rc = read_topic_id(reader, len, end, row, err);
        } else if (number == PARTITION_RECORDS) {
            row->record_count++;
            rc = tgr_read_bytes(reader, end, len, NULL) ? STI_OK : cut(err, name);
        } else if (!tgr_read_slices(reader, end, len, slices, slices_max, &slice_count)) {
            rc = cut(err, name);
        }
    }
    if (rc == STI_OK && row->record_count > 0 && slice_count > 0) {
        rc = sti_err_set(err, STI_E_INVALID_ARGUMENT,
                         "ProducePartition.records: they come beside a batch; send one of them");
    }
    row->row.slices = slices;
    row->row.slice_count = (uint32_t)slice_count;
    return rc;
}

/* ---- the message ---- */

static int read_scalar(const struct layout *layout, struct tgr_reader *reader, uint64_t end,
                       uint32_t number, uint32_t type, struct tgr_produce *produce,
                       struct sti_err *err)
{
    uint64_t value = 0;
    unsigned which = 0;
    while (which < SCALARS && layout->numbers[which] != number) {
        which++;
    }
    if (which == SCALARS) {
        return tgr_skip_field(reader, end, type) ? STI_OK : malformed(err, layout->name, NULL);
    }
    if (type != TGR_WIRE_VARINT || !tgr_read_varint(reader, end, &value)) {
        return malformed(err, layout->name, scalar_names[which]);
    }
    switch (which) {
    case ID:
        produce->id = value;
        return STI_OK;
    case ACKS:
        return acks_of(layout, value, &produce->call.acks, err);
    case TIMEOUT_MS:
        produce->call.timeout_ms = (uint32_t)value;
        return STI_OK;
    case REPLICAS_MIN:
        produce->call.replicas_min = (int32_t)(uint32_t)value;
        return STI_OK;
    case REPLICAS_SYNCED_MIN:
        produce->call.replicas_synced_min = (int32_t)(uint32_t)value;
        return STI_OK;
    default:
        produce->answered = value;
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

static int read_request(const struct layout *layout, struct tgr_reader *reader, uint64_t len,
                        struct tgr_produce *produce, struct sti_slice *slices, size_t slices_max,
                        struct sti_err *err)
{
    size_t i = 0;
    int rc = STI_OK;
    while (rc == STI_OK && reader->pos < len) {
        uint32_t number, type;
        uint64_t row_len;
        if (!tgr_read_key(reader, len, &number, &type)) {
            return malformed(err, layout->name, NULL);
        }
        if (number != REQUEST_PARTITIONS) {
            rc = read_scalar(layout, reader, len, number, type, produce, err);
            continue;
        }
        if (type != TGR_WIRE_BYTES || !tgr_read_len(reader, len, &row_len)) {
            return malformed(err, layout->name, "partitions");
        }
        struct tgr_produce_row *row = &produce->rows[i++];
        rc = read_row(reader, reader->pos + row_len, row, slices, slices_max, err);
        slices += row->row.slice_count;
        slices_max -= row->row.slice_count;
        produce->record_bytes += row->record_count > 0 ? row_len : 0;
    }
    return rc;
}

int tgr_produce_decode(struct tgr_arena *arena, enum tgr_produce_kind kind,
                       const struct sti_slice *spans, size_t count, size_t rows_max,
                       struct tgr_produce **out, struct sti_err *err)
{
    const struct layout *layout = &layouts[kind];
    uint64_t len = sti_slices_len(spans, count);
    size_t row_count;
    struct tgr_reader reader;
    *out = NULL;
    int rc = count_rows(layout, spans, count, len, &row_count, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (row_count == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s.partitions: it names no partition",
                           layout->name);
    }
    if (row_count > rows_max) {
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "%s.partitions: %zu partitions, at most %zu in one call", layout->name,
                           row_count, rows_max);
    }
    struct tgr_produce *produce = produce_new(arena, row_count);
    struct sti_slice *slices = tgr_arena_alloc(arena, count + row_count, sizeof *slices);
    if (produce == NULL || slices == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request of %zu partitions",
                           row_count);
    }
    tgr_reader_init(&reader, spans, count);
    rc = read_request(layout, &reader, len, produce, slices, count + row_count, err);
    if (rc == STI_OK) {
        *out = produce;
    }
    return rc;
}
