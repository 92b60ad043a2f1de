/* The streaming decoder against protobuf-c: equal for every split, and safe for every mutation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "produce_decode.h"
#include "streamit/v1/streamit.pb-c.h"

enum { BYTES_MAX = 1024 };

static uint8_t batch_a[150], batch_b[40];
static uint8_t topic_id[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static size_t sample(uint8_t *out)
{
    Streamit__V1__ProducePartition a = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition b = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *partitions[] = {&a, &b};
    Streamit__V1__ProduceRequest request = STREAMIT__V1__PRODUCE_REQUEST__INIT;
    memset(batch_a, 0xa5, sizeof batch_a);
    memset(batch_b, 0x5a, sizeof batch_b);
    a.topic = (char *)"orders";
    a.partition = 300;
    a.topic_id = (ProtobufCBinaryData){sizeof topic_id, topic_id};
    a.batch = (ProtobufCBinaryData){sizeof batch_a, batch_a};
    b.topic = (char *)"\xc3\xa4";
    b.partition = -7;
    b.batch = (ProtobufCBinaryData){sizeof batch_b, batch_b};
    request.acks = STREAMIT__V1__ACKS__ACKS_LEADER;
    request.timeout_ms = 70000;
    request.replicas_min = 2;
    request.replicas_synced_min = -1;
    request.n_partitions = 2;
    request.partitions = partitions;
    return streamit__v1__produce_request__pack(&request, out);
}

static void assert_batch(const struct sti_produce_row *row, const uint8_t *bytes, size_t len)
{
    size_t pos = 0;
    assert_int_equal(sti_slices_len(row->slices, row->slice_count), len);
    for (uint32_t i = 0; i < row->slice_count; i++) {
        assert_null(row->slices[i].owner);
        assert_memory_equal(row->slices[i].data, bytes + pos, row->slices[i].len);
        pos += row->slices[i].len;
    }
}

static void assert_sample(const struct tgr_produce *produce)
{
    static const uint8_t none[16] = {0};
    const struct sti_produce *call = &produce->call;
    assert_int_equal(call->acks, STI_ACKS_LEADER);
    assert_int_equal(call->timeout_ms, 70000);
    assert_int_equal(call->replicas_min, 2);
    assert_int_equal(call->replicas_synced_min, -1);
    assert_int_equal(call->row_count, 2);
    assert_string_equal(call->rows[0]->topic, "orders");
    assert_int_equal(call->rows[0]->partition, 300);
    assert_memory_equal(call->rows[0]->topic_id, topic_id, 16);
    assert_batch(call->rows[0], batch_a, sizeof batch_a);
    assert_string_equal(call->rows[1]->topic, "\xc3\xa4");
    assert_int_equal(call->rows[1]->partition, -7);
    assert_memory_equal(call->rows[1]->topic_id, none, 16);
    assert_batch(call->rows[1], batch_b, sizeof batch_b);
    assert_int_equal(call->rows[1]->base_offset, -1);
    assert_int_equal(call->rows[1]->leader_hint, -1);
}

static int decode(struct tgr_arena *arena, const struct sti_slice *spans, size_t count,
                  struct tgr_produce **out)
{
    struct sti_err err;
    sti_err_clear(&err);
    int rc = tgr_produce_decode(arena, TGR_PRODUCE_UNARY, spans, count, 100, out, &err);
    assert_int_equal(err.code, rc);
    assert_int_equal(*out == NULL, rc != STI_OK);
    assert_int_equal(err.msg[0] == '\0', rc == STI_OK);
    return rc;
}

static int decode_bytes(const void *bytes, size_t len)
{
    struct sti_slice span = sti_slice_borrow(bytes, len);
    struct tgr_arena arena = {.blocks = NULL};
    struct tgr_produce *produce;
    int rc = decode(&arena, &span, 1, &produce);
    tgr_arena_fini(&arena);
    return rc;
}

static void test_every_split(void **state)
{
    uint8_t bytes[BYTES_MAX];
    size_t len = sample(bytes);
    (void)state;
    for (size_t first = 0; first <= len; first++) {
        size_t second = first + (len - first) / 2;
        struct sti_slice spans[4] = {
            sti_slice_borrow(bytes, first), sti_slice_borrow(bytes + first, second - first),
            sti_slice_borrow(bytes, 0), sti_slice_borrow(bytes + second, len - second)};
        struct tgr_arena arena = {.blocks = NULL};
        struct tgr_produce *produce;
        assert_int_equal(decode(&arena, spans, 4, &produce), STI_OK);
        assert_sample(produce);
        tgr_arena_fini(&arena);
    }
}

static void test_one_byte_spans(void **state)
{
    uint8_t bytes[BYTES_MAX];
    struct sti_slice spans[BYTES_MAX];
    size_t len = sample(bytes);
    struct tgr_arena arena = {.blocks = NULL};
    struct tgr_produce *produce;
    (void)state;
    for (size_t i = 0; i < len; i++) {
        spans[i] = sti_slice_borrow(bytes + i, 1);
    }
    assert_int_equal(decode(&arena, spans, len, &produce), STI_OK);
    assert_sample(produce);
    tgr_arena_fini(&arena);
}

/* The batch is not copied. */
static void test_in_place(void **state)
{
    uint8_t bytes[BYTES_MAX];
    size_t len = sample(bytes);
    struct sti_slice span = sti_slice_borrow(bytes, len);
    struct tgr_arena arena = {.blocks = NULL};
    struct tgr_produce *produce;
    (void)state;
    assert_int_equal(decode(&arena, &span, 1, &produce), STI_OK);
    assert_int_equal(produce->call.rows[0]->slice_count, 1);
    assert_true(produce->call.rows[0]->slices[0].data > bytes);
    assert_true(produce->call.rows[0]->slices[0].data < bytes + len);
    tgr_arena_fini(&arena);
}

static void test_every_cut(void **state)
{
    uint8_t bytes[BYTES_MAX];
    size_t len = sample(bytes);
    unsigned refused = 0;
    (void)state;
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut + 1); /* so that a read beyond the cut is seen */
        assert_non_null(copy);
        memcpy(copy, bytes, cut);
        refused += decode_bytes(copy, cut) == STI_E_INVALID_ARGUMENT;
        free(copy);
    }
    /* Only a cut between two partitions leaves a whole message with a partition. */
    assert_int_equal(refused, len - 1);
}

static void test_refusals(void **state)
{
    uint8_t bytes[BYTES_MAX];
    uint8_t name[260];
    (void)state;
    assert_int_equal(decode_bytes("", 0), STI_E_INVALID_ARGUMENT);
    assert_int_equal(decode_bytes("\x08\x01", 2), STI_E_INVALID_ARGUMENT); /* no partition */
    assert_int_equal(decode_bytes("\x7a\x00", 2), STI_OK);                 /* an empty one */
    assert_int_equal(decode_bytes("\x08\x03\x7a\x00", 4), STI_E_INVALID_ARGUMENT); /* acks 3 */
    assert_int_equal(decode_bytes("\x7a\x02\x1a\x00", 4), STI_OK); /* id of 0 bytes */
    assert_int_equal(decode_bytes("\x7a\x03\x1a\x01\x05", 5), STI_E_INVALID_ARGUMENT);
    assert_int_equal(decode_bytes("\x7a\x03\x0a\x01\xff", 5), STI_E_INVALID_ARGUMENT); /* UTF-8 */
    assert_int_equal(decode_bytes("\x7a\x03\x0a\x01\x00", 5), STI_E_INVALID_ARGUMENT); /* zero */
    assert_int_equal(decode_bytes("\x78\x00", 2), STI_E_INVALID_ARGUMENT); /* wrong wire type */
    assert_int_equal(decode_bytes("\x7a\x02\x08\x00", 4), STI_E_INVALID_ARGUMENT);
    assert_int_equal(decode_bytes("\x7a\x01\x7a", 3), STI_E_INVALID_ARGUMENT);
    assert_int_equal(decode_bytes("\x7a\x02\x7a\x01\x00", 5), STI_E_INVALID_ARGUMENT); /* beyond */
    assert_int_equal(decode_bytes("\x7b\x7c", 2), STI_E_INVALID_ARGUMENT);             /* a group */
    assert_int_equal(decode_bytes("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11),
                     STI_E_INVALID_ARGUMENT);
    /* A name of 249 bytes passes, of 250 does not. */
    for (size_t len = 249; len <= 250; len++) {
        memset(name, 'x', sizeof name);
        bytes[0] = 0x7a;
        bytes[1] = (uint8_t)((len + 3) | 0x80u);
        bytes[2] = (uint8_t)((len + 3) >> 7);
        bytes[3] = 0x0a;
        bytes[4] = (uint8_t)(len | 0x80u);
        bytes[5] = (uint8_t)(len >> 7);
        memcpy(bytes + 6, name, len);
        assert_int_equal(decode_bytes(bytes, len + 6),
                         len == 249 ? STI_OK : STI_E_INVALID_ARGUMENT);
    }
    for (size_t i = 0; i < 101; i++) {
        memcpy(bytes + 2 * i, "\x7a", 2);
    }
    assert_int_equal(decode_bytes(bytes, 200), STI_OK);
    assert_int_equal(decode_bytes(bytes, 202), STI_E_RESOURCE_EXHAUSTED);
}

/* Unknown fields of every type are stepped over; of equal fields the last counts. */
static void test_unknown_and_repeated(void **state)
{
    static const uint8_t bytes[] = {
        0x50, 0x05,                                     /* 10: varint */
        0x59, 1,    2,    3,    4,   5,    6,    7,  8, /* 11: eight bytes */
        0x62, 0x02, 'x',  'y',                          /* 12: bytes */
        0x6d, 1,    2,    3,    4,                      /* 13: four bytes */
        0x08, 0x02, 0x08, 0x01,                         /* acks none, then leader */
        0x7a, 0x11,                                     /* a partition: */
        0x7a, 0x02, 'a',  'b',                          /* batch "ab" */
        0x0a, 0x01, 't',                                /* topic t */
        0x50, 0x09,                                     /* unknown */
        0x7a, 0x03, 'c',  'd',  'e', 0x0a, 0x01, 'u'    /* batch "cde", topic u */
    };
    struct sti_slice span = sti_slice_borrow(bytes, sizeof bytes);
    struct tgr_arena arena = {.blocks = NULL};
    struct tgr_produce *produce;
    (void)state;
    assert_int_equal(decode(&arena, &span, 1, &produce), STI_OK);
    assert_int_equal(produce->call.acks, STI_ACKS_LEADER);
    assert_string_equal(produce->call.rows[0]->topic, "u");
    assert_batch(produce->call.rows[0], (const uint8_t *)"cde", 3);
    tgr_arena_fini(&arena);
}

/* Whatever happens to the bytes: an answer, in bounds. What both accept they read alike. */
static void test_mutations(void **state)
{
    uint8_t bytes[BYTES_MAX], mutated[BYTES_MAX];
    size_t len = sample(bytes);
    uint32_t seed = 42;
    unsigned compared = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct tgr_arena arena = {.blocks = NULL};
        struct tgr_produce *produce;
        memcpy(mutated, bytes, len);
        for (int i = 0; i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            mutated[(seed >> 8) % len] = (uint8_t)(seed >> 24);
        }
        size_t split = (seed >> 10) % len;
        struct sti_slice spans[2] = {sti_slice_borrow(mutated, split),
                                     sti_slice_borrow(mutated + split, len - split)};
        Streamit__V1__ProduceRequest *other =
            streamit__v1__produce_request__unpack(NULL, len, mutated);
        if (decode(&arena, spans, 2, &produce) == STI_OK && other != NULL) {
            assert_int_equal(other->n_partitions, produce->call.row_count);
            assert_int_equal(other->timeout_ms, produce->call.timeout_ms);
            for (size_t i = 0; i < other->n_partitions; i++) {
                assert_int_equal(other->partitions[i]->partition, produce->call.rows[i]->partition);
                assert_string_equal(other->partitions[i]->topic, produce->call.rows[i]->topic);
                assert_batch(produce->call.rows[i], other->partitions[i]->batch.data,
                             other->partitions[i]->batch.len);
            }
            compared++;
        }
        if (other != NULL) {
            streamit__v1__produce_request__free_unpacked(other, NULL);
        }
        tgr_arena_fini(&arena);
    }
    assert_true(compared > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_split), cmocka_unit_test(test_one_byte_spans),
        cmocka_unit_test(test_in_place),    cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_unknown_and_repeated),
        cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
