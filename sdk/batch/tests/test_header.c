/* test_header.c -- the header of a batch: every field, every refusal, and what a broker patches. */
#include "batch_test.h"

static void golden_fields(void **state)
{
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_batch_header_decode(golden, GOLDEN_LEN, &header, &err), STI_OK);
    assert_int_equal(header.base_offset, 0);
    assert_int_equal(header.batch_length, 69);
    assert_int_equal(header.leader_epoch, 0);
    assert_int_equal(header.magic, 2);
    assert_int_equal(header.crc, GOLDEN_CRC);
    assert_int_equal(header.attributes, 0);
    assert_int_equal(header.last_offset_delta, 0);
    assert_true(header.base_timestamp == GOLDEN_TIMESTAMP);
    assert_true(header.max_timestamp == GOLDEN_TIMESTAMP);
    assert_true(header.producer_id == -1);
    assert_int_equal(header.producer_epoch, -1);
    assert_int_equal(header.base_sequence, -1);
    assert_int_equal(header.record_count, 1);
    assert_int_equal(header.total_len, GOLDEN_LEN);
    assert_int_equal(sti_batch_last_offset(&header), 0);
}

static void every_field_is_where_it_belongs(void **state)
{
    uint8_t bytes[STI_BATCH_HEADER_LEN];
    struct sti_batch_header h;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)i;
    }
    bytes[16] = 2;
    assert_int_equal(sti_batch_header_decode(bytes, sizeof bytes, &h, NULL), STI_OK);
    assert_true(h.base_offset == INT64_C(0x0001020304050607));
    assert_int_equal(h.batch_length, 0x08090a0b);
    assert_int_equal(h.leader_epoch, 0x0c0d0e0f);
    assert_int_equal(h.crc, 0x11121314);
    assert_int_equal(h.attributes, 0x1516);
    assert_int_equal(h.last_offset_delta, 0x1718191a);
    assert_true(h.base_timestamp == INT64_C(0x1b1c1d1e1f202122));
    assert_true(h.max_timestamp == INT64_C(0x232425262728292a));
    assert_true(h.producer_id == INT64_C(0x2b2c2d2e2f303132));
    assert_int_equal(h.producer_epoch, 0x3334);
    assert_int_equal(h.base_sequence, 0x35363738);
    assert_int_equal(h.record_count, 0x393a3b3c);
    assert_int_equal(h.total_len, 0x08090a0b + 12);
}

/* A stamp leaves a batch that proves, whatever the length of its records; nothing else moves. */
static void a_stamped_batch_proves(void **state)
{
    static const size_t lens[] = {0, 1, 7, 300, 65536, 1000003};
    (void)state;
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        struct sti_batch_builder *builder = NULL;
        const uint8_t *data = NULL;
        size_t len = 0;
        char *value = calloc(1, lens[i] + 1);
        assert_non_null(value);
        assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
        assert_int_equal(
            sti_batch_builder_append(builder, 5, "k", 1, value, lens[i], NULL, 0, NULL), STI_OK);
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        uint8_t *bytes = malloc(len), *before = malloc(len);
        if (bytes == NULL || before == NULL) {
            abort();
        }
        memcpy(bytes, data, len);
        memcpy(before, data, len);
        sti_batch_stamp(bytes + STI_BATCH_PATCH_LEN, len, INT64_C(1700000000123));
        struct sti_slice slice = sti_slice_borrow(bytes, len);
        struct sti_batch_header header;
        struct sti_err err;
        assert_int_equal(sti_batch_check(&slice, 1, STI_CHECK_CRC, len, &header, &err), STI_OK);
        assert_int_equal(header.attributes, STI_BATCH_LOG_APPEND_TIME);
        assert_true(header.max_timestamp == INT64_C(1700000000123));
        assert_true(header.base_timestamp == 5);
        assert_memory_equal(bytes, before, 17);
        assert_memory_equal(bytes + 23, before + 23, 12);
        assert_memory_equal(bytes + 43, before + 43, len - 43);
        sti_batch_stamp(bytes + STI_BATCH_PATCH_LEN, len, INT64_C(1700000000124)); /* and again */
        assert_int_equal(sti_batch_check(&slice, 1, STI_CHECK_CRC, len, &header, &err), STI_OK);
        sti_batch_builder_free(builder);
        free(before);
        free(bytes);
        free(value);
    }
}

static void a_cut_header_waits(void **state)
{
    struct sti_batch_header header;
    size_t len;
    (void)state;
    memset(&header, 0x5a, sizeof header);
    for (len = 0; len < STI_BATCH_HEADER_LEN; len++) {
        uint8_t *bytes = malloc(len + 1);
        struct sti_batch_header before = header;
        memcpy(bytes, golden, len);
        assert_int_equal(sti_batch_header_decode(bytes, len, &header, NULL), STI_E_WOULD_BLOCK);
        assert_memory_equal(&before, &header, sizeof header);
        free(bytes);
    }
}

static void refusals_name_the_field(void **state)
{
    static const struct {
        size_t pos, len;
        const char *bytes;
        int rc;
        const char *says;
    } rows[] = {
        {16, 1, "\x01", STI_E_UNSUPPORTED, "magic 1, expected 2"},
        {16, 1, "\x00", STI_E_UNSUPPORTED, "magic 0, expected 2"},
        {16, 1, "\xff", STI_E_UNSUPPORTED, "magic -1, expected 2"},
        {8, 4, "\x00\x00\x00\x30", STI_E_CORRUPT_BATCH, "batch length 48, expected at least 49"},
        {8, 4, "\xff\xff\xff\xff", STI_E_CORRUPT_BATCH, "batch length -1, expected at least 49"},
        {0, 8, "\xff\xff\xff\xff\xff\xff\xff\xff", STI_E_CORRUPT_BATCH,
         "base offset -1, expected 0 or more"},
        {23, 4, "\xff\xff\xff\xff", STI_E_CORRUPT_BATCH,
         "last offset delta -1, expected 0 or more"},
        {57, 4, "\x80\x00\x00\x00", STI_E_CORRUPT_BATCH,
         "record count -2147483648, expected 0 or more"},
        {0, 8, "\x7f\xff\xff\xff\xff\xff\xff\xff", STI_E_CORRUPT_BATCH,
         "base offset 9223372036854775807 and last offset delta 0 overflow"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t bytes[GOLDEN_LEN];
        struct sti_batch_header header;
        struct sti_err err;
        memcpy(bytes, golden, sizeof bytes);
        memcpy(bytes + rows[i].pos, rows[i].bytes, rows[i].len);
        assert_int_equal(sti_batch_header_decode(bytes, sizeof bytes, &header, &err), rows[i].rc);
        assert_string_equal(err.msg, rows[i].says);
        assert_int_equal(err.code, rows[i].rc);
    }
}

static void the_largest_offset(void **state)
{
    uint8_t bytes[GOLDEN_LEN];
    struct sti_batch_header header;
    (void)state;
    memcpy(bytes, golden, sizeof bytes);
    memcpy(bytes, "\x7f\xff\xff\xff\xff\xff\xff\xfe", 8);
    assert_int_equal(sti_batch_header_decode(bytes, sizeof bytes, &header, NULL), STI_OK);
    assert_true(sti_batch_last_offset(&header) == INT64_MAX - 1);
}

static void patch_leaves_the_checksum_right(void **state)
{
    uint8_t bytes[GOLDEN_LEN];
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    memcpy(bytes, golden, sizeof bytes);
    sti_batch_patch(bytes, INT64_C(0x0102030405060708), GOLDEN_LEN, 0x11223344);
    assert_int_equal(sti_batch_header_decode(bytes, sizeof bytes, &header, &err), STI_OK);
    assert_true(header.base_offset == INT64_C(0x0102030405060708));
    assert_int_equal(header.leader_epoch, 0x11223344);
    assert_int_equal(header.total_len, GOLDEN_LEN);
    assert_memory_equal(bytes + STI_BATCH_PATCH_LEN, golden + STI_BATCH_PATCH_LEN,
                        GOLDEN_LEN - STI_BATCH_PATCH_LEN);
    assert_int_equal(test_check(bytes, sizeof bytes, STI_CHECK_CRC | STI_CHECK_RECORDS, &err),
                     STI_OK);
    assert_int_equal(test_check(bytes, sizeof bytes, STI_CHECK_PRODUCER, &err),
                     STI_E_INVALID_ARGUMENT);
}

static void codec_names(void **state)
{
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        assert_int_equal(sti_codec_from_name(sti_codec_name(codec)), codec);
    }
    assert_string_equal(sti_codec_name(STI_CODEC_LZ4), "lz4");
    assert_null(sti_codec_name(-1));
    assert_null(sti_codec_name(5));
    assert_int_equal(sti_codec_from_name("brotli"), -1);
    assert_int_equal(sti_codec_from_name(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_fields),
        cmocka_unit_test(every_field_is_where_it_belongs),
        cmocka_unit_test(a_stamped_batch_proves),
        cmocka_unit_test(a_cut_header_waits),
        cmocka_unit_test(refusals_name_the_field),
        cmocka_unit_test(the_largest_offset),
        cmocka_unit_test(patch_leaves_the_checksum_right),
        cmocka_unit_test(codec_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
