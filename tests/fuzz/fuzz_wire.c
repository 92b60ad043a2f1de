/* fuzz_wire.c -- every message that a client may send to transport_grpc, decoded as the server
 * does.
 *
 * The first byte chooses the message, the second into how many spans it is cut, as a network may.
 * Where the cuts lie changes nothing; what was understood is what protobuf-c understands too; and
 * records become batches that hold as many records.
 */
#include <string.h>

#include "fuzz.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "produce_decode.h"
#include "records.h"
#include "streamit/record_batch.h"
#include "streamit/v1/streamit.pb-c.h"
#include "wire.h"

enum { SPANS_MAX = 32, ROWS_MAX = 64, FIELDS_MAX = 65536, BATCH_BYTES_MAX = 65536 };

static const ProtobufCMessageDescriptor *const types[] = {
    &streamit__v1__fetch_request__descriptor,
    &streamit__v1__list_offsets_request__descriptor,
    &streamit__v1__create_topic_request__descriptor,
    &streamit__v1__alter_topic_request__descriptor,
    &streamit__v1__delete_topic_request__descriptor,
    &streamit__v1__list_topics_request__descriptor,
    &streamit__v1__describe_topic_request__descriptor,
    &streamit__v1__find_leader_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor};
enum { TYPES = sizeof types / sizeof types[0] };

/* ---- unpacked messages --------------------------------------------------------------------- */

static uint8_t *pack(const ProtobufCMessage *message, size_t *len)
{
    *len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(*len + 1);
    FUZZ_EXPECT(bytes != NULL && protobuf_c_message_pack(message, bytes) == *len);
    return bytes;
}

static ProtobufCMessage *unpack(struct tgr_arena *arena, const ProtobufCMessageDescriptor *type,
                                const uint8_t *data, size_t len)
{
    struct sti_err err;
    sti_err_clear(&err);
    int rc = tgr_wire_check(type, data, len, FIELDS_MAX, &err);
    FUZZ_EXPECT(rc == STI_OK || (rc == STI_E_INVALID_ARGUMENT && err.msg[0] != '\0'));
    ProtobufCAllocator allocator = tgr_arena_allocator(arena);
    return rc == STI_OK ? protobuf_c_message_unpack(type, &allocator, len, data) : NULL;
}

static void message(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len)
{
    struct tgr_arena arena = {0};
    ProtobufCMessage *first = unpack(&arena, type, data, len);
    if (first != NULL) {
        size_t once_len, twice_len;
        uint8_t *once = pack(first, &once_len);
        ProtobufCMessage *second = unpack(&arena, type, once, once_len);
        FUZZ_EXPECT(second != NULL);
        uint8_t *twice = pack(second, &twice_len);
        FUZZ_EXPECT(twice_len == once_len && memcmp(twice, once, once_len) == 0);
        free(once);
        free(twice);
    }
    tgr_arena_fini(&arena);
}

/* ---- produce ------------------------------------------------------------------------------- */

/* Cut the message into spans of memory of their own. @return their number */
static size_t scatter(const uint8_t *data, size_t len, size_t pieces,
                      struct sti_slice spans[SPANS_MAX])
{
    size_t count = 0;
    for (size_t at = 0; at < len; count++) {
        size_t piece = count + 1 == pieces ? len - at : len / pieces + (count % 2 == 0 ? 1 : 0);
        piece = piece < len - at ? piece : len - at;
        uint8_t *own = malloc(piece);
        FUZZ_EXPECT(own != NULL && count < SPANS_MAX);
        memcpy(own, data + at, piece);
        spans[count] = sti_slice_borrow(own, piece);
        at += piece;
    }
    return count;
}

static void same_rows(const struct tgr_produce *a, const struct tgr_produce *b)
{
    FUZZ_EXPECT(a->call.row_count == b->call.row_count && a->call.acks == b->call.acks &&
                a->call.timeout_ms == b->call.timeout_ms && a->id == b->id &&
                a->answered == b->answered && a->record_bytes == b->record_bytes);
    for (uint32_t i = 0; i < a->call.row_count; i++) {
        const struct tgr_produce_row *x = &a->rows[i], *y = &b->rows[i];
        FUZZ_EXPECT(strcmp(x->topic, y->topic) == 0 && x->row.partition == y->row.partition &&
                    x->record_count == y->record_count && x->codec == y->codec);
        FUZZ_EXPECT(memcmp(x->row.topic_id, y->row.topic_id, sizeof x->row.topic_id) == 0);
        FUZZ_EXPECT(sti_slices_len(x->row.slices, x->row.slice_count) ==
                    sti_slices_len(y->row.slices, y->row.slice_count));
    }
}

/* What protobuf-c makes of the same bytes, which knows the message by its descriptor. */
static void as_protobuf(enum tgr_produce_kind kind, const struct tgr_produce *produce,
                        const uint8_t *data, size_t len)
{
    struct tgr_arena arena = {0};
    ProtobufCMessage *whole =
        unpack(&arena,
               kind == TGR_PRODUCE_UNARY ? &streamit__v1__produce_request__descriptor
                                         : &streamit__v1__produce_stream_request__descriptor,
               data, len);
    if (whole != NULL) {
        const Streamit__V1__ProduceRequest *unary = (const void *)whole;
        const Streamit__V1__ProduceStreamRequest *streamed = (const void *)whole;
        size_t rows = kind == TGR_PRODUCE_UNARY ? unary->n_partitions : streamed->n_partitions;
        Streamit__V1__ProducePartition **partitions =
            kind == TGR_PRODUCE_UNARY ? unary->partitions : streamed->partitions;
        FUZZ_EXPECT(rows == produce->call.row_count);
        FUZZ_EXPECT(kind == TGR_PRODUCE_UNARY || streamed->id == produce->id);
        for (size_t i = 0; i < rows; i++) {
            const struct tgr_produce_row *row = &produce->rows[i];
            FUZZ_EXPECT(strcmp(partitions[i]->topic, row->topic) == 0);
            FUZZ_EXPECT(partitions[i]->partition == row->row.partition);
            FUZZ_EXPECT(partitions[i]->batch.len ==
                        sti_slices_len(row->row.slices, row->row.slice_count));
            FUZZ_EXPECT(partitions[i]->n_records == row->record_count);
        }
    }
    tgr_arena_fini(&arena);
}

static void records(struct tgr_arena *arena, struct tgr_produce *produce)
{
    struct tgr_batches batches;
    struct sti_err err;
    uint64_t copied;
    sti_err_clear(&err);
    int rc =
        tgr_records_encode(arena, produce, BATCH_BYTES_MAX, 1700000000000, &batches, &copied, &err);
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_INVALID_ARGUMENT || rc == STI_E_MESSAGE_TOO_LARGE);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
    for (uint32_t i = 0; rc == STI_OK && i < produce->call.row_count; i++) {
        const struct tgr_produce_row *row = &produce->rows[i];
        struct sti_batch_header header;
        if (row->record_count > 0) {
            FUZZ_EXPECT(row->row.slice_count == 1);
            FUZZ_EXPECT(sti_batch_header_decode(row->row.slices[0].data,
                                                (size_t)row->row.slices[0].len, &header,
                                                NULL) == STI_OK);
            FUZZ_EXPECT((uint32_t)header.record_count == row->record_count);
        }
    }
    tgr_batches_free(&batches);
}

static void produce(enum tgr_produce_kind kind, const uint8_t *data, size_t len, size_t pieces)
{
    struct tgr_arena arena = {0};
    struct sti_slice whole = sti_slice_borrow(data, len), spans[SPANS_MAX];
    struct tgr_produce *a = NULL, *b = NULL;
    struct sti_err err;
    sti_err_clear(&err);
    size_t count = scatter(data, len, pieces, spans);
    int rc = tgr_produce_decode(&arena, kind, &whole, 1, ROWS_MAX, &a, &err);
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_INVALID_ARGUMENT || rc == STI_E_RESOURCE_EXHAUSTED);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
    FUZZ_EXPECT(tgr_produce_decode(&arena, kind, spans, count, ROWS_MAX, &b, &err) == rc);
    if (rc == STI_OK) {
        same_rows(a, b);
        as_protobuf(kind, a, data, len);
        records(&arena, a);
        records(&arena, b);
    }
    for (size_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)spans[i].data);
    }
    tgr_arena_fini(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t which = fuzz_byte(&data, &len) % (TYPES + 2);
    size_t pieces = 1 + fuzz_byte(&data, &len) % (SPANS_MAX - 2);
    if (which < TYPES) {
        message(types[which], data, len);
    } else {
        produce(which == TYPES ? TGR_PRODUCE_UNARY : TGR_PRODUCE_STREAMED, data, len, pieces);
    }
    return 0;
}
