/* test_check.c -- sti_batch_check: each rule by itself, slices split anywhere, cut and flipped
 * bytes. */
#include "batch_test.h"

#define ALL_CHECKS (STI_CHECK_CRC | STI_CHECK_PRODUCER | STI_CHECK_RECORDS)

static void golden_passes(void **state)
{
    struct sti_slice slice = sti_slice_borrow(golden, GOLDEN_LEN);
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    sti_err_clear(&err);
    assert_int_equal(sti_batch_check(&slice, 1, ALL_CHECKS, GOLDEN_LEN, &header, &err), STI_OK);
    assert_int_equal(header.crc, GOLDEN_CRC);
    assert_int_equal(header.total_len, GOLDEN_LEN);
    assert_int_equal(err.code, STI_OK);
}

static void size_limit(void **state)
{
    struct sti_slice slices[2] = {sti_slice_borrow(golden, 40), sti_slice_borrow(golden + 40, 41)};
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_batch_check(slices, 2, 0, GOLDEN_LEN - 1, &header, &err),
                     STI_E_MESSAGE_TOO_LARGE);
    assert_non_null(strstr(err.msg, "limit of 80 bytes"));
    assert_int_equal(header.total_len, 0);
    assert_int_equal(sti_batch_check(slices, 2, 0, 0, &header, &err), STI_E_MESSAGE_TOO_LARGE);
    /* Lengths whose sum would wrap. */
    slices[0].len = UINT64_MAX - 3;
    assert_int_equal(sti_batch_check(slices, 2, 0, UINT64_MAX, &header, &err),
                     STI_E_MESSAGE_TOO_LARGE);
}

static void a_slice_must_be_in_memory(void **state)
{
    struct sti_slice slice = sti_slice_borrow(NULL, 81);
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_batch_check(&slice, 1, 0, 1000, &header, &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg, "slice 0 is not in memory");
}

struct mutation {
    size_t pos, len;
    const char *bytes;
    uint32_t checks;
    int rc;
    const char *says;
};

/* Change bytes of the golden batch, make its checksum right again, and see what is said. */
static void run_mutation(const struct mutation *m)
{
    uint8_t *batch = malloc(GOLDEN_LEN);
    struct sti_err err;
    int rc;
    memcpy(batch, golden, GOLDEN_LEN);
    memcpy(batch + m->pos, m->bytes, m->len);
    test_store32(batch + 17, sti_crc32c(0, batch + 21, GOLDEN_LEN - 21));
    rc = test_check(batch, GOLDEN_LEN, m->checks, &err);
    if (rc != m->rc || strstr(err.msg, m->says) == NULL) {
        print_error("byte %zu: expected %d \"%s\", found %d \"%s\"\n", m->pos, m->rc, m->says, rc,
                    err.msg);
        fail();
    }
    free(batch);
}

static void every_header_rule(void **state)
{
    static const struct mutation rows[] = {
        {8, 4, "\0\0\0\x44", 0, STI_E_CORRUPT_BATCH, "batch length 68, but 69 bytes follow"},
        {8, 4, "\0\0\0\x46", 0, STI_E_CORRUPT_BATCH, "batch length 70, but 69 bytes follow"},
        {16, 1, "\1", 0, STI_E_UNSUPPORTED, "magic 1, expected 2"},
        {22, 1, "\5", ALL_CHECKS, STI_E_UNSUPPORTED, "codec 5, expected 0 to 4"},
        {22, 1, "\7", STI_CHECK_RECORDS, STI_E_UNSUPPORTED, "codec 7, expected 0 to 4"},
        {22, 1, "\x80", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "attributes 0x0080"},
        {21, 1, "\x80", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "attributes 0x8000"},
        {22, 1, "\x20", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "control batch"},
        {22, 1, "\x08", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "log append time"},
        {0, 8, "\0\0\0\0\0\0\0\1", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "base offset 1, expected 0"},
        {57, 4, "\0\0\0\0", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "record count 0"},
        {57, 4, "\0\0\0\2", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "record count 2"},
        {23, 4, "\0\0\0\1", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "last offset delta 1"},
        {43, 8, "\0\0\0\0\0\0\0\1", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "producer id 1"},
        {43, 10, "\0\0\0\0\0\0\0\1\0\0", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "base sequence -1"},
        {53, 4, "\0\0\0\7", ALL_CHECKS, STI_E_INVALID_ARGUMENT, "base sequence 7"},
        {43, 8, "\xff\xff\xff\xff\xff\xff\xff\xfe", ALL_CHECKS, STI_E_INVALID_ARGUMENT,
         "producer id -2"},
        {43, 14, "\0\0\0\0\0\0\0\1\0\0\0\0\0\0", ALL_CHECKS, STI_OK, ""},
        {43, 14, "\x7f\xff\xff\xff\xff\xff\xff\xff\x7f\xff\x7f\xff\xff\xff", ALL_CHECKS, STI_OK,
         ""},
        {22, 1, "\x10", ALL_CHECKS, STI_OK, ""}, /* transactional */
        /* What a follower or a log may hold passes without the producer rules. */
        {22, 1, "\x20", STI_CHECK_CRC | STI_CHECK_RECORDS, STI_OK, ""},
        {22, 1, "\x48", STI_CHECK_CRC | STI_CHECK_RECORDS, STI_OK, ""},
        {23, 4, "\0\0\0\5", STI_CHECK_CRC | STI_CHECK_RECORDS, STI_OK, ""},
        {0, 8, "\0\0\0\0\0\0\0\1", STI_CHECK_CRC | STI_CHECK_RECORDS, STI_OK, ""},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_mutation(&rows[i]);
    }
}

static void every_record_rule(void **state)
{
    static const struct mutation rows[] = {
        {61, 1, "\x01", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "record 0 of 1: length -1"},
        {61, 1, "\x28", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH,
         "record 0 of 1: length 20, 19 bytes are left"},
        {61, 1, "\x24", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header value length 2, 1 bytes"},
        {61, 1, "\x00", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "attributes cut"},
        {63, 1, "\x80", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "record 0 of 1"},
        {64, 1, "\x02", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "offset delta 1"},
        {64, 1, "\x01", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "offset delta -1"},
        {65, 1, "\x03", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "key length -2"},
        {65, 1, "\x20", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "key length 16, 15 bytes are left"},
        {68, 1, "\x05", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "value length -3"},
        {68, 1, "\x1a", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH,
         "value length 13, 12 bytes are left"},
        {74, 1, "\x01", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header count -1"},
        {74, 1, "\x08", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header count 4, 6 bytes are left"},
        {74, 1, "\x00", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "left over after header count 0"},
        {74, 1, "\x04", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header name length -1, 0 bytes"},
        {75, 1, "\x01", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header name length -1, 5 bytes"},
        {75, 1, "\x0c", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header name length 6, 5 bytes"},
        {78, 1, "\x02", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "left over after header count 1"},
        {78, 1, "\x03", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "header value length -2, 2 bytes"},
        {57, 4, "\0\0\0\0", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH,
         "20 bytes left over after record count 0"},
        {57, 4, "\0\0\0\2", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH, "record 1 of 2: cut length"},
        {57, 4, "\x7f\xff\xff\xff", STI_CHECK_RECORDS, STI_E_CORRUPT_BATCH,
         "record 1 of 2147483647"},
        {62, 1, "\x55", STI_CHECK_RECORDS, STI_OK, ""}, /* attributes of a record mean nothing */
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_mutation(&rows[i]);
    }
}

static void wrong_checksum(void **state)
{
    uint8_t batch[GOLDEN_LEN];
    struct sti_err err;
    size_t i;
    (void)state;
    memcpy(batch, golden, sizeof batch);
    batch[80] ^= 1;
    assert_int_equal(test_check(batch, sizeof batch, ALL_CHECKS, &err), STI_E_CORRUPT_BATCH);
    assert_non_null(strstr(err.msg, "CRC d7024025, expected "));
    assert_int_equal(test_check(batch, sizeof batch, STI_CHECK_RECORDS, &err), STI_OK);
    /* Every single flipped bit under the checksum is found. */
    for (i = 21 * 8; i < GOLDEN_LEN * 8; i++) {
        memcpy(batch, golden, sizeof batch);
        batch[i / 8] ^= (uint8_t)(1u << (i % 8));
        assert_int_not_equal(test_check(batch, sizeof batch, STI_CHECK_CRC, &err), STI_OK);
    }
}

/* Two slices cut at every position, then three, with empty ones between: each on the heap by
 * itself, so that reading one byte too far is caught. */
static void split_everywhere(void **state)
{
    size_t a, b;
    (void)state;
    for (a = 0; a <= GOLDEN_LEN; a++) {
        for (b = a; b <= GOLDEN_LEN; b += 1 + (b - a) / 3) {
            size_t cut[4] = {0, a, b, GOLDEN_LEN};
            struct sti_slice slices[5];
            struct sti_batch_header header;
            struct sti_err err;
            uint8_t *piece[3];
            size_t i;
            for (i = 0; i < 3; i++) {
                size_t len = cut[i + 1] - cut[i];
                piece[i] = malloc(len + (len == 0));
                memcpy(piece[i], golden + cut[i], len);
            }
            slices[0] = sti_slice_borrow(piece[0], cut[1]);
            slices[1] = sti_slice_borrow(NULL, 0);
            slices[2] = sti_slice_borrow(piece[1], cut[2] - cut[1]);
            slices[3] = sti_slice_borrow(piece[2], cut[3] - cut[2]);
            slices[4] = sti_slice_borrow(NULL, 0);
            assert_int_equal(sti_batch_check(slices, 5, ALL_CHECKS, GOLDEN_LEN, &header, &err),
                             STI_OK);
            assert_int_equal(header.crc, GOLDEN_CRC);
            assert_int_equal(header.record_count, 1);
            for (i = 0; i < 3; i++) {
                free(piece[i]);
            }
        }
    }
}

static void one_byte_a_slice(void **state)
{
    struct sti_slice slices[GOLDEN_LEN];
    struct sti_batch_header header;
    size_t i;
    (void)state;
    for (i = 0; i < GOLDEN_LEN; i++) {
        slices[i] = sti_slice_borrow(golden + i, 1);
    }
    assert_int_equal(sti_batch_check(slices, GOLDEN_LEN, ALL_CHECKS, 100, &header, NULL), STI_OK);
    assert_int_equal(sti_batch_check(slices, GOLDEN_LEN - 1, ALL_CHECKS, 100, &header, NULL),
                     STI_E_CORRUPT_BATCH);
    assert_int_equal(sti_batch_check(slices, 0, ALL_CHECKS, 100, &header, NULL),
                     STI_E_CORRUPT_BATCH);
}

/* Cut at every byte, with the length as it was and with the length made to fit. */
static void cut_everywhere(void **state)
{
    size_t len;
    (void)state;
    for (len = 0; len < GOLDEN_LEN; len++) {
        uint8_t *batch = malloc(len + 1);
        struct sti_err err;
        memcpy(batch, golden, len);
        assert_int_equal(test_check(batch, len, ALL_CHECKS, &err), STI_E_CORRUPT_BATCH);
        if (len >= STI_BATCH_HEADER_LEN) {
            test_seal(batch, len);
            /* No record is shorter than seven bytes: with fewer the count cannot be true. */
            assert_int_equal(test_check(batch, len, STI_CHECK_CRC | STI_CHECK_PRODUCER, &err),
                             len < STI_BATCH_HEADER_LEN + 7 ? STI_E_CORRUPT_BATCH : STI_OK);
            assert_int_equal(test_check(batch, len, ALL_CHECKS, &err), STI_E_CORRUPT_BATCH);
        }
        free(batch);
    }
}

/* One byte more than the batch says belongs to nobody. */
static void bytes_left_over(void **state)
{
    uint8_t batch[GOLDEN_LEN + 1];
    struct sti_err err;
    (void)state;
    memcpy(batch, golden, GOLDEN_LEN);
    batch[GOLDEN_LEN] = 0;
    assert_int_equal(test_check(batch, sizeof batch, 0, &err), STI_E_CORRUPT_BATCH);
    test_seal(batch, sizeof batch);
    assert_int_equal(test_check(batch, sizeof batch, ALL_CHECKS, &err), STI_E_CORRUPT_BATCH);
    assert_string_equal(err.msg, "1 bytes left over after record count 1");
}

/* Random damage under a right checksum: any verdict will do, as long as there is one. */
static void random_damage_never_crashes(void **state)
{
    uint64_t seed = 3;
    int round;
    (void)state;
    for (round = 0; round < 20000; round++) {
        size_t len = STI_BATCH_HEADER_LEN + test_random(&seed) % (GOLDEN_LEN - 60);
        uint8_t *batch = malloc(len);
        struct sti_err err;
        int flips = 1 + (int)(test_random(&seed) % 6);
        memcpy(batch, golden, len);
        while (flips-- > 0) {
            batch[16 + test_random(&seed) % (len - 16)] = (uint8_t)test_random(&seed);
        }
        batch[16] = 2;
        test_seal(batch, len);
        (void)test_check(batch, len, STI_CHECK_CRC | STI_CHECK_RECORDS, &err);
        free(batch);
    }
}

/* Records without key and value: seven bytes each as long as offset deltas are short. */
static uint8_t *many_records(int codec, int count, size_t *len)
{
    struct sti_batch_builder *builder;
    const uint8_t *data;
    uint8_t *copy;
    int i;
    assert_int_equal(sti_batch_builder_new(&builder, codec, 0, NULL), STI_OK);
    for (i = 0; i < count; i++) {
        assert_int_equal(sti_batch_builder_append(builder, 1000, NULL, 0, NULL, 0, NULL, 0, NULL),
                         STI_OK);
    }
    assert_int_equal(sti_batch_builder_finish(builder, &data, len, NULL), STI_OK);
    copy = malloc(*len);
    memcpy(copy, data, *len);
    sti_batch_builder_free(builder);
    return copy;
}

static void claim_records(uint8_t *batch, size_t len, uint32_t count)
{
    test_store32(batch + 23, count - 1);
    test_store32(batch + 57, count);
    test_seal(batch, len);
}

/* A hundred bytes must not move the log's offsets by two thousand million. */
static void a_count_that_cannot_be_true(void **state)
{
    static const uint32_t lies[] = {5, 1000, INT32_MAX};
    const uint32_t checks = STI_CHECK_CRC | STI_CHECK_PRODUCER;
    struct sti_err err;
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        size_t len, i;
        uint8_t *batch = many_records(codec, 4, &len);
        assert_int_equal(test_check(batch, len, checks, &err), STI_OK);
        for (i = codec == STI_CODEC_NONE ? 0 : 1; i < sizeof lies / sizeof lies[0]; i++) {
            claim_records(batch, len, lies[i]);
            assert_int_equal(test_check(batch, len, checks, &err), STI_E_CORRUPT_BATCH);
            assert_non_null(strstr(err.msg, "record 4 of "));
            /* A log may hold it: whoever wrote it there has checked. */
            assert_int_equal(test_check(batch, len, STI_CHECK_CRC, &err), STI_OK);
        }
        free(batch);
    }
}

/* Exactly seven bytes a record is as short as a true batch gets, and is not decoded. */
static void a_count_that_is_just_possible(void **state)
{
    const uint32_t checks = STI_CHECK_CRC | STI_CHECK_PRODUCER;
    size_t len;
    uint8_t *batch = many_records(STI_CODEC_NONE, 64, &len);
    struct sti_err err;
    (void)state;
    assert_int_equal(len, STI_BATCH_HEADER_LEN + 64 * 7);
    assert_int_equal(test_check(batch, len, checks, &err), STI_OK);
    claim_records(batch, len, 65);
    assert_int_equal(test_check(batch, len, checks, &err), STI_E_CORRUPT_BATCH);
    free(batch);
}

/* Records that compress to less than seven bytes each are no lie. */
static void a_count_that_compresses_well(void **state)
{
    const uint32_t checks = STI_CHECK_CRC | STI_CHECK_PRODUCER;
    struct sti_err err;
    int codec;
    (void)state;
    for (codec = STI_CODEC_GZIP; codec <= STI_CODEC_ZSTD; codec++) {
        size_t len;
        uint8_t *batch = many_records(codec, 5000, &len);
        assert_in_range(len, STI_BATCH_HEADER_LEN, STI_BATCH_HEADER_LEN + 5000 * 7 - 1);
        assert_int_equal(test_check(batch, len, checks, &err), STI_OK);
        claim_records(batch, len, 4999);
        /* One fewer than there are: bytes are left over. */
        assert_int_equal(test_check(batch, len, checks, &err), STI_E_CORRUPT_BATCH);
        free(batch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_passes),
        cmocka_unit_test(size_limit),
        cmocka_unit_test(a_slice_must_be_in_memory),
        cmocka_unit_test(every_header_rule),
        cmocka_unit_test(every_record_rule),
        cmocka_unit_test(wrong_checksum),
        cmocka_unit_test(split_everywhere),
        cmocka_unit_test(one_byte_a_slice),
        cmocka_unit_test(cut_everywhere),
        cmocka_unit_test(bytes_left_over),
        cmocka_unit_test(random_damage_never_crashes),
        cmocka_unit_test(a_count_that_cannot_be_true),
        cmocka_unit_test(a_count_that_is_just_possible),
        cmocka_unit_test(a_count_that_compresses_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
