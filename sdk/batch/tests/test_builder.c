/* test_builder.c -- building batches: exact bytes, limits, reuse, and what finishing leaves alone.
 */
#include "batch_test.h"

/* Finish and copy, so that a later call of the builder cannot change what is compared. */
static uint8_t *finish_copy(struct sti_batch_builder *builder, size_t *len)
{
    const uint8_t *data;
    uint8_t *copy;
    assert_int_equal(sti_batch_builder_finish(builder, &data, len, NULL), STI_OK);
    copy = malloc(*len);
    assert_non_null(copy);
    memcpy(copy, data, *len);
    return copy;
}

/* Only the leader epoch is the broker's: kcat sent 0 where the builder says -1. */
static void golden_byte_for_byte(void **state)
{
    const struct sti_record_header header = {"h1", "v1", 2, 2};
    struct sti_batch_builder *builder;
    struct sti_batch_header decoded;
    const uint8_t *data;
    uint8_t copy[GOLDEN_LEN];
    size_t len;
    (void)state;
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
    assert_int_equal(
        sti_batch_builder_append(builder, GOLDEN_TIMESTAMP, "k1", 2, "hello", 5, &header, 1, NULL),
        STI_OK);
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    assert_int_equal(len, GOLDEN_LEN);
    assert_int_equal(sti_batch_header_decode(data, len, &decoded, NULL), STI_OK);
    assert_int_equal(decoded.leader_epoch, -1);
    memcpy(copy, data, len);
    sti_batch_patch(copy, 0, len, 0);
    assert_memory_equal(copy, golden, GOLDEN_LEN);
    sti_batch_builder_free(builder);
}

static void null_and_empty_bytes(void **state)
{
    static const uint8_t records[] = {
        12, 0, 0, 0, 1, 1, 0,                 /* null, null                        */
        12, 0, 2, 2, 0, 0, 0,                 /* a millisecond later: empty, empty */
        12, 0, 1, 4, 1, 0, 0,                 /* a millisecond earlier: null, empty */
        22, 0, 0, 6, 0, 1, 4, 0, 1, 2, 'n', 0 /* headers: "" null, "n" empty, and no more */
    };
    const struct sti_record_header headers[2] = {{NULL, NULL, 0, 77}, {"n", "", 1, 0}};
    struct sti_batch_builder *builder;
    const uint8_t *data;
    size_t len;
    (void)state;
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
    /* The lengths of null keys and values say nothing. */
    sti_batch_builder_append(builder, 1000, NULL, 9, NULL, 9, NULL, 0, NULL);
    sti_batch_builder_append(builder, 1001, "", 0, "", 0, NULL, 0, NULL);
    sti_batch_builder_append(builder, 999, NULL, 0, "", 0, NULL, 0, NULL);
    sti_batch_builder_append(builder, 1000, "", 0, NULL, 0, headers, 2, NULL);
    assert_int_equal(sti_batch_builder_count(builder), 4);
    assert_int_equal(sti_batch_builder_len(builder), STI_BATCH_HEADER_LEN + sizeof records);
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    assert_int_equal(len, STI_BATCH_HEADER_LEN + sizeof records);
    assert_memory_equal(data + STI_BATCH_HEADER_LEN, records, sizeof records);
    assert_int_equal(test_check(data, len, 7, NULL), STI_OK);
    sti_batch_builder_free(builder);
}

static void refusals(void **state)
{
    struct sti_batch_builder *builder = (struct sti_batch_builder *)(uintptr_t)1;
    struct sti_err err;
    const uint8_t *data = golden;
    size_t len = 5;
    (void)state;
    assert_int_equal(sti_batch_builder_new(&builder, 5, 0, &err), STI_E_UNSUPPORTED);
    assert_null(builder);
    assert_string_equal(err.msg, "codec 5, expected 0 to 4");
    assert_int_equal(sti_batch_builder_new(&builder, -1, 0, NULL), STI_E_UNSUPPORTED);
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, &err), STI_E_PRECONDITION);
    assert_null(data);
    assert_int_equal(len, 0);
    sti_batch_builder_free(builder);
    sti_batch_builder_free(NULL);
}

/* What is too large is refused before a byte is read: none of these bytes exist. */
static void limits_of_two_gigabytes(void **state)
{
    const size_t max = INT32_MAX;
    struct sti_record_header big[2] = {{"n", golden, 1, INT32_MAX}, {"n", golden, 1, INT32_MAX}};
    struct sti_batch_builder *builder = test_builder(STI_CODEC_NONE, 0, 5, 3);
    size_t before_len, after_len;
    uint8_t *before = finish_copy(builder, &before_len), *after;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_batch_builder_append(builder, 0, golden, max + 1, NULL, 0, NULL, 0, &err),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_non_null(strstr(err.msg, "limit of 2147483647"));
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, golden, SIZE_MAX, NULL, 0, NULL),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_int_equal(sti_batch_builder_append(builder, 0, golden, max, golden, max, NULL, 0, &err),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_non_null(strstr(err.msg, "3 records"));
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, golden,
                                              max - STI_BATCH_HEADER_LEN, NULL, 0, NULL),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, NULL, 0, big, 2, NULL),
                     STI_E_MESSAGE_TOO_LARGE);
    big[0].value_len = UINT32_MAX;
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, NULL, 0, big, 1, NULL),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, NULL, 0, big, max + 1, NULL),
                     STI_E_MESSAGE_TOO_LARGE);
    /* The batch is as it was. */
    assert_int_equal(sti_batch_builder_count(builder), 3);
    after = finish_copy(builder, &after_len);
    assert_int_equal(after_len, before_len);
    assert_memory_equal(after, before, before_len);
    free(before);
    free(after);
    sti_batch_builder_free(builder);
}

static void finish_twice_and_go_on(void **state)
{
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        struct sti_batch_builder *builder = test_builder(codec, 0, 21, 50);
        struct sti_batch_iter iter;
        struct test_record record;
        uint64_t seed = 21;
        size_t first_len, second_len;
        uint8_t *first = finish_copy(builder, &first_len);
        uint8_t *second = finish_copy(builder, &second_len);
        uint32_t i;
        assert_int_equal(first_len, second_len);
        assert_memory_equal(first, second, first_len);
        for (i = 0; i < 70; i++) {
            test_record_make(&seed, &record);
            if (i >= 50) {
                assert_int_equal(test_record_append(builder, &record), STI_OK);
            }
        }
        free(second);
        second = finish_copy(builder, &second_len);
        memset(&iter, 0, sizeof iter);
        test_batch_compare(&iter, first, first_len, 21, 50);
        test_batch_compare(&iter, second, second_len, 21, 70);
        sti_batch_iter_fini(&iter);
        free(first);
        free(second);
        sti_batch_builder_free(builder);
    }
}

/* A builder that was used is as good as a new one. */
static void reset_forgets_everything(void **state)
{
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        struct sti_batch_builder *used = test_builder(codec, 0, 8, 400);
        struct sti_batch_builder *fresh = test_builder(codec, 0, 9, 30);
        struct test_record record;
        uint64_t seed = 9;
        size_t used_len, fresh_len;
        uint8_t *from_used, *from_fresh = finish_copy(fresh, &fresh_len);
        int i;
        free(finish_copy(used, &used_len));
        sti_batch_builder_producer(used, 7, 3, 11);
        sti_batch_builder_reset(used);
        assert_int_equal(sti_batch_builder_count(used), 0);
        assert_int_equal(sti_batch_builder_len(used), STI_BATCH_HEADER_LEN);
        for (i = 0; i < 30; i++) {
            test_record_make(&seed, &record);
            assert_int_equal(test_record_append(used, &record), STI_OK);
        }
        from_used = finish_copy(used, &used_len);
        assert_int_equal(used_len, fresh_len);
        assert_memory_equal(from_used, from_fresh, fresh_len);
        free(from_used);
        free(from_fresh);
        sti_batch_builder_free(used);
        sti_batch_builder_free(fresh);
    }
}

static void producer_identity(void **state)
{
    struct sti_batch_builder *builder = test_builder(STI_CODEC_NONE, 0, 1, 2);
    struct sti_batch_header header;
    const uint8_t *data;
    size_t len;
    (void)state;
    sti_batch_builder_producer(builder, INT64_C(0x0102030405060708), 32767, INT32_MAX);
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    assert_int_equal(sti_batch_header_decode(data, len, &header, NULL), STI_OK);
    assert_true(header.producer_id == INT64_C(0x0102030405060708));
    assert_int_equal(header.producer_epoch, 32767);
    assert_int_equal(header.base_sequence, INT32_MAX);
    assert_int_equal(test_check(data, len, 7, NULL), STI_OK);
    sti_batch_builder_free(builder);
}

/* Any pair of timestamps survives, whatever their difference. */
static void timestamps(void **state)
{
    static const int64_t rows[][2] = {{0, 0},          {5, 3},         {-1, -1},
                                      {-1, 1000},      {INT64_MIN, 0}, {INT64_MIN, INT64_MAX},
                                      {INT64_MAX, -1}, {0, INT64_MIN}, {-5, -7}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sti_batch_builder *builder;
        struct sti_batch_iter iter;
        struct sti_record record;
        const uint8_t *data;
        size_t len;
        assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
        sti_batch_builder_append(builder, rows[i][0], NULL, 0, "a", 1, NULL, 0, NULL);
        sti_batch_builder_append(builder, rows[i][1], NULL, 0, "b", 1, NULL, 0, NULL);
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        memset(&iter, 0, sizeof iter);
        assert_int_equal(sti_batch_iter_init(&iter, data, len, 0, NULL), STI_OK);
        assert_true(iter.header.base_timestamp == rows[i][0]);
        assert_true(iter.header.max_timestamp ==
                    (rows[i][0] > rows[i][1] ? rows[i][0] : rows[i][1]));
        assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
        assert_true(record.timestamp == rows[i][0]);
        assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
        assert_true(record.timestamp == rows[i][1]);
        sti_batch_iter_fini(&iter);
        sti_batch_builder_free(builder);
    }
}

/* The length is known beforehand: exactly after the append, and bounded before it. */
static void lengths_are_foretold(void **state)
{
    struct sti_batch_builder *builder = test_builder(STI_CODEC_NONE, 0, 1, 0);
    struct test_record record;
    uint64_t seed = 77;
    const uint8_t *data;
    size_t len, i;
    (void)state;
    for (i = 0; i < 300; i++) {
        size_t before = sti_batch_builder_len(builder);
        test_record_make(&seed, &record);
        record.timestamp = i % 2 == 0 ? INT64_MIN : INT64_MAX;
        assert_int_equal(test_record_append(builder, &record), STI_OK);
        assert_in_range(sti_batch_builder_len(builder) - before, 7,
                        sti_batch_record_len_max(record.key_len, record.value_len, record.headers,
                                                 record.header_count));
    }
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    assert_int_equal(len, sti_batch_builder_len(builder));
    sti_batch_builder_free(builder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_byte_for_byte),
        cmocka_unit_test(null_and_empty_bytes),
        cmocka_unit_test(refusals),
        cmocka_unit_test(limits_of_two_gigabytes),
        cmocka_unit_test(finish_twice_and_go_on),
        cmocka_unit_test(reset_forgets_everything),
        cmocka_unit_test(producer_identity),
        cmocka_unit_test(timestamps),
        cmocka_unit_test(lengths_are_foretold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
