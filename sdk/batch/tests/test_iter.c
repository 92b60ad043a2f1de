/* test_iter.c -- reading batches: what a good one gives, and that no bad one does harm. */
#include "batch_test.h"

static void golden_record(void **state)
{
    struct sti_batch_iter iter;
    struct sti_record record;
    const uint8_t *pos, *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    (void)state;
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init(&iter, golden, GOLDEN_LEN, 0, NULL), STI_OK);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
    assert_true(record.offset == 0);
    assert_true(record.timestamp == GOLDEN_TIMESTAMP);
    test_same_bytes(record.key, record.key_len, "k1", 2);
    test_same_bytes(record.value, record.value_len, "hello", 5);
    assert_int_equal(record.header_count, 1);
    pos = record.headers;
    assert_int_equal(sti_record_header_next(&pos, pos + record.headers_len, &name, &name_len,
                                            &value, &value_len),
                     STI_OK);
    test_same_bytes((const uint8_t *)name, name_len, "h1", 2);
    assert_true(value_len == 2);
    test_same_bytes(value, 2, "v1", 2);
    /* The end comes again and again. */
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_E_END);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_E_END);
    sti_batch_iter_fini(&iter);
    sti_batch_iter_fini(&iter);
}

static void offsets_follow_the_base(void **state)
{
    struct sti_batch_builder *builder = test_builder(STI_CODEC_LZ4, 0, 12, 20);
    struct sti_batch_iter iter;
    const uint8_t *data;
    uint8_t *copy;
    size_t len;
    (void)state;
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    copy = malloc(len);
    memcpy(copy, data, len);
    sti_batch_patch(copy, INT64_C(1) << 40, len, 6);
    memset(&iter, 0, sizeof iter);
    test_batch_compare(&iter, copy, len, 12, 20);
    assert_true(iter.header.base_offset == INT64_C(1) << 40);
    assert_int_equal(iter.header.leader_epoch, 6);
    sti_batch_iter_fini(&iter);
    free(copy);
    sti_batch_builder_free(builder);
}

static void log_append_time_wins(void **state)
{
    uint8_t batch[GOLDEN_LEN];
    struct sti_batch_iter iter;
    struct sti_record record;
    (void)state;
    memcpy(batch, golden, sizeof batch);
    batch[22] |= STI_BATCH_LOG_APPEND_TIME;
    memcpy(batch + 35, "\0\0\0\0\0\0\0\x2a", 8);
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init(&iter, batch, sizeof batch, 0, NULL), STI_OK);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
    assert_true(record.timestamp == 42);
    sti_batch_iter_fini(&iter);
}

/* Compaction leaves gaps in the offsets, at the front, between and at the end. */
static void a_thinned_batch(void **state)
{
    static const uint8_t records[] = {12, 0, 0, 2, 1, 1, 0, 12, 0, 0, 10, 1, 1, 0};
    size_t len;
    uint8_t *batch = test_batch(0, 2, records, sizeof records, &len);
    struct sti_batch_iter iter;
    struct sti_record record;
    (void)state;
    test_store32(batch + 23, 9);
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init(&iter, batch, len, 0, NULL), STI_OK);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
    assert_true(record.offset == 1);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
    assert_true(record.offset == 5);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_E_END);
    assert_true(sti_batch_last_offset(&iter.header) == 9);
    sti_batch_iter_fini(&iter);
    free(batch);
}

static void offsets_must_grow(void **state)
{
    static const uint8_t records[] = {12, 0, 0, 2, 1, 1, 0, 12, 0, 0, 2, 1, 1, 0};
    size_t len;
    uint8_t *batch = test_batch(0, 2, records, sizeof records, &len);
    struct sti_batch_iter iter;
    struct sti_record record;
    struct sti_err err;
    (void)state;
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init(&iter, batch, len, 0, NULL), STI_OK);
    assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_OK);
    /* The same verdict again and again. */
    assert_int_equal(sti_batch_iter_next(&iter, &record, &err), STI_E_CORRUPT_BATCH);
    assert_non_null(strstr(err.msg, "record 1 of 2: offset delta 1"));
    assert_int_equal(sti_batch_iter_next(&iter, &record, &err), STI_E_CORRUPT_BATCH);
    assert_non_null(strstr(err.msg, "record 1 of 2: offset delta 1"));
    sti_batch_iter_fini(&iter);
    free(batch);
}

/* A batch that compaction has emptied stays for its producer's sake, whatever its codec bits. */
static void an_empty_batch(void **state)
{
    struct sti_batch_iter iter;
    struct sti_record record;
    int codec;
    (void)state;
    memset(&iter, 0, sizeof iter);
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        size_t len;
        uint8_t *batch = test_batch(codec, 0, NULL, 0, &len);
        assert_int_equal(sti_batch_iter_init(&iter, batch, len, 0, NULL), STI_OK);
        assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_E_END);
        free(batch);
        /* With a record to come, no bytes are too few. */
        batch = test_batch(codec, 1, NULL, 0, &len);
        assert_int_equal(test_read_all(&iter, batch, len, 1000, NULL, NULL), STI_E_CORRUPT_BATCH);
        free(batch);
    }
    sti_batch_iter_fini(&iter);
}

static void more_bytes_than_the_batch(void **state)
{
    uint8_t two[2 * GOLDEN_LEN];
    struct sti_batch_iter iter;
    uint32_t count;
    (void)state;
    memcpy(two, golden, GOLDEN_LEN);
    memcpy(two + GOLDEN_LEN, golden, GOLDEN_LEN);
    memset(&iter, 0, sizeof iter);
    assert_int_equal(test_read_all(&iter, two, sizeof two, 0, &count, NULL), STI_E_END);
    assert_int_equal(count, 1);
    sti_batch_iter_fini(&iter);
}

static void what_cannot_begin(void **state)
{
    struct sti_batch_iter iter;
    struct sti_record record;
    struct sti_err err;
    size_t len;
    int codec;
    (void)state;
    memset(&iter, 0, sizeof iter);
    for (len = 0; len < GOLDEN_LEN; len++) {
        uint8_t *cut = malloc(len + 1);
        memcpy(cut, golden, len);
        assert_int_equal(sti_batch_iter_init(&iter, cut, len, 0, &err), STI_E_CORRUPT_BATCH);
        free(cut);
        /* What could not begin gives no record. */
        assert_int_equal(sti_batch_iter_next(&iter, &record, NULL), STI_E_END);
    }
    for (codec = STI_CODEC_ZSTD + 1; codec <= 7; codec++) {
        uint8_t *batch = test_batch(codec, 1, "1234567", 7, &len);
        assert_int_equal(sti_batch_iter_init(&iter, batch, len, 100, &err), STI_E_UNSUPPORTED);
        free(batch);
    }
    sti_batch_iter_fini(&iter);
}

static void headers_by_themselves(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        int rc;
    } rows[] = {
        {"", 0, STI_E_END},
        {"\x00\x01", 2, STI_OK},                /* empty name, null value */
        {"\x02n\x00", 3, STI_OK},               /* empty value            */
        {"\x01\x01", 2, STI_E_CORRUPT_BATCH},   /* a name cannot be null  */
        {"\x04n", 2, STI_E_CORRUPT_BATCH},      /* name cut               */
        {"\x02n", 2, STI_E_CORRUPT_BATCH},      /* value length missing   */
        {"\x02n\x04v", 4, STI_E_CORRUPT_BATCH}, /* value cut              */
        {"\x02n\x03v", 4, STI_E_CORRUPT_BATCH}, /* length -2              */
        {"\x80", 1, STI_E_CORRUPT_BATCH},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, STI_E_CORRUPT_BATCH},
        {"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, STI_E_CORRUPT_BATCH},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t *bytes = malloc(rows[i].len + (rows[i].len == 0));
        const uint8_t *pos = bytes, *value;
        const char *name;
        uint32_t name_len;
        int64_t value_len;
        memcpy(bytes, rows[i].bytes, rows[i].len);
        assert_int_equal(
            sti_record_header_next(&pos, bytes + rows[i].len, &name, &name_len, &value, &value_len),
            rows[i].rc);
        assert_ptr_equal(pos, rows[i].rc == STI_OK ? bytes + rows[i].len : bytes);
        free(bytes);
    }
}

/* Bytes without sense behind a sound header, under each codec, from one iterator. */
static void noise_never_crashes(void **state)
{
    struct sti_batch_iter iter;
    uint8_t noise[200];
    uint64_t seed = 4;
    int round;
    (void)state;
    memset(&iter, 0, sizeof iter);
    for (round = 0; round < 20000; round++) {
        size_t n = test_random(&seed) % sizeof noise, len, i;
        uint8_t *batch;
        for (i = 0; i < n; i++) {
            /* Small numbers make records that go on for a while. */
            uint64_t r = test_random(&seed);
            noise[i] = (uint8_t)(round % 2 == 0 ? r : r % 16);
        }
        batch = test_batch((int)(test_random(&seed) % 8), 1 + round % 40, noise, n, &len);
        (void)test_read_all(&iter, batch, len, 1u << 20, NULL, NULL);
        free(batch);
    }
    sti_batch_iter_fini(&iter);
}

/* Bytes of a sound batch damaged here and there; the checksum is nobody's business here. */
static void damage_never_crashes(void **state)
{
    struct sti_batch_builder *builder = test_builder(STI_CODEC_NONE, 0, 33, 10);
    struct sti_batch_iter iter;
    const uint8_t *data;
    uint64_t seed = 6;
    size_t len;
    int round;
    (void)state;
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    memset(&iter, 0, sizeof iter);
    for (round = 0; round < 10000; round++) {
        uint8_t *copy = malloc(len);
        int flips = 1 + (int)(test_random(&seed) % 8);
        memcpy(copy, data, len);
        while (flips-- > 0) {
            copy[test_random(&seed) % len] ^= (uint8_t)(1u << (test_random(&seed) % 8));
        }
        (void)test_read_all(&iter, copy, len, 1u << 20, NULL, NULL);
        free(copy);
    }
    /* And it can still read a good one. */
    test_batch_compare(&iter, data, len, 33, 10);
    sti_batch_iter_fini(&iter);
    sti_batch_builder_free(builder);
}

/* Bytes in pieces of their own, so that a read beyond one is found. */
static size_t scatter(const uint8_t *data, size_t len, size_t piece, struct sti_slice *slices)
{
    size_t count = 0, pos;
    for (pos = 0; pos < len; pos += piece) {
        size_t n = len - pos < piece ? len - pos : piece;
        uint8_t *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, data + pos, n);
        slices[count++] = sti_slice_borrow(NULL, 0); /* empty ones lie between */
        slices[count++] = sti_slice_borrow(copy, n);
    }
    return count;
}

/* A record of a scattered batch, all of which stay until its end. */
struct kept {
    struct sti_record record;
    struct sti_record whole;
};

static void same_record(const struct kept *kept)
{
    const struct sti_record *a = &kept->record, *b = &kept->whole;
    assert_true(a->offset == b->offset && a->timestamp == b->timestamp);
    assert_int_equal(a->header_count, b->header_count);
    assert_true((a->key == NULL) == (b->key == NULL) && (a->value == NULL) == (b->value == NULL));
    test_same_bytes(a->key, a->key_len, b->key, b->key_len);
    test_same_bytes(a->value, a->value_len, b->value, b->value_len);
    test_same_bytes(a->headers, a->headers_len, b->headers, b->headers_len);
}

/* Whatever the bytes are, scattered they give the same records and the same verdict as whole. */
static void same_scattered(struct sti_batch_iter *iter, struct sti_batch_iter *whole,
                           const uint8_t *data, size_t len, size_t piece)
{
    struct sti_slice *slices = calloc(2 * len + 1, sizeof *slices);
    struct kept kept[64];
    struct sti_err err, expected;
    size_t count = scatter(data, len, piece, slices), n = 0, i;
    int rc = sti_batch_iter_init_slices(iter, slices, count, 1u << 20, &err);
    assert_int_equal(sti_batch_iter_init(whole, data, len, 1u << 20, &expected), rc);
    while (rc == STI_OK) {
        assert_true(n < 64);
        rc = sti_batch_iter_next(iter, &kept[n].record, &err);
        assert_int_equal(sti_batch_iter_next(whole, &kept[n].whole, &expected), rc);
        n++;
    }
    if (rc != STI_E_END) {
        assert_string_equal(err.msg, expected.msg);
    }
    for (i = 0; i + 1 < n; i++) {
        same_record(&kept[i]);
    }
    for (i = 1; i < count; i += 2) {
        free((void *)(uintptr_t)slices[i].data);
    }
    free(slices);
}

static void scattered(void **state)
{
    struct sti_batch_iter iter, whole;
    uint64_t seed = 9;
    int codec;
    (void)state;
    memset(&iter, 0, sizeof iter);
    memset(&whole, 0, sizeof whole);
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        struct sti_batch_builder *builder = test_builder(codec, 0, 40 + (uint64_t)codec, 10);
        const uint8_t *data;
        size_t len, piece;
        int round;
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        for (piece = 1; piece < len + 16; piece += piece < 80 ? 1 : 13) {
            same_scattered(&iter, &whole, data, len, piece);
        }
        uint8_t *copy = malloc(len);
        for (round = 0; round < 500; round++) {
            memcpy(copy, data, len);
            copy[test_random(&seed) % len] ^= (uint8_t)(1u << (test_random(&seed) % 8));
            same_scattered(&iter, &whole, copy, len, 1 + test_random(&seed) % 90);
        }
        free(copy);
        sti_batch_builder_free(builder);
    }
    sti_batch_iter_fini(&iter);
    sti_batch_iter_fini(&whole);
}

static void a_slice_that_is_elsewhere(void **state)
{
    const struct sti_slice slices[2] = {sti_slice_borrow(golden, GOLDEN_LEN),
                                        sti_slice_borrow(NULL, 1)};
    struct sti_batch_iter iter;
    struct sti_err err;
    (void)state;
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init_slices(&iter, slices, 2, 0, &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg, "slice 1 is not in memory");
    sti_batch_iter_fini(&iter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_record),
        cmocka_unit_test(offsets_follow_the_base),
        cmocka_unit_test(log_append_time_wins),
        cmocka_unit_test(a_thinned_batch),
        cmocka_unit_test(offsets_must_grow),
        cmocka_unit_test(an_empty_batch),
        cmocka_unit_test(more_bytes_than_the_batch),
        cmocka_unit_test(what_cannot_begin),
        cmocka_unit_test(headers_by_themselves),
        cmocka_unit_test(noise_never_crashes),
        cmocka_unit_test(damage_never_crashes),
        cmocka_unit_test(scattered),
        cmocka_unit_test(a_slice_that_is_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
