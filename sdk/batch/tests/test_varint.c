/* test_varint.c -- zigzag varints: known bytes, every length, and everything that is not one. */
#include "batch_test.h"

static void known_bytes(void **state)
{
    static const struct {
        int64_t value;
        size_t len;
        const char *bytes;
    } rows[] = {
        {0, 1, "\x00"},
        {-1, 1, "\x01"},
        {1, 1, "\x02"},
        {63, 1, "\x7e"},
        {-64, 1, "\x7f"},
        {64, 2, "\x80\x01"},
        {-65, 2, "\x81\x01"},
        {8191, 2, "\xfe\x7f"},
        {8192, 3, "\x80\x80\x01"},
        {INT32_MAX, 5, "\xfe\xff\xff\xff\x0f"},
        {INT32_MIN, 5, "\xff\xff\xff\xff\x0f"},
        {INT64_MAX, 10, "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
        {INT64_MIN, 10, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t buf[10];
        const uint8_t *pos = buf;
        int64_t back = 42;
        assert_int_equal(sti_varint_put(buf, rows[i].value), rows[i].len);
        assert_int_equal(sti_varint_len(rows[i].value), rows[i].len);
        assert_memory_equal(buf, rows[i].bytes, rows[i].len);
        assert_int_equal(sti_varint_get(&pos, buf + rows[i].len, &back), STI_OK);
        assert_true(back == rows[i].value);
        assert_ptr_equal(pos, buf + rows[i].len);
    }
}

static void every_length(void **state)
{
    unsigned bit;
    int delta;
    (void)state;
    for (bit = 0; bit < 63; bit++) {
        for (delta = -2; delta <= 2; delta++) {
            int64_t magnitude = (INT64_C(1) << bit) + delta;
            int64_t values[2] = {magnitude, -magnitude};
            size_t i;
            for (i = 0; i < 2; i++) {
                uint8_t *buf = malloc(sti_varint_len(values[i]));
                const uint8_t *pos = buf;
                int64_t back = 0;
                size_t len = sti_varint_put(buf, values[i]);
                assert_int_equal(len, sti_varint_len(values[i]));
                assert_int_equal(sti_varint_get(&pos, buf + len, &back), STI_OK);
                assert_true(back == values[i]);
                /* One byte less is cut, and moves nothing. */
                pos = buf;
                assert_int_equal(sti_varint_get(&pos, buf + len - 1, &back), STI_E_CORRUPT_BATCH);
                assert_ptr_equal(pos, buf);
                free(buf);
            }
        }
    }
}

static void not_a_varint(void **state)
{
    static const uint8_t eleven[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
                                     0x80, 0x80, 0x80, 0x80, 0x00};
    static const uint8_t too_big[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    static const uint8_t padded[] = {0x82, 0x00};
    const uint8_t *pos = eleven;
    int64_t value = 7;
    (void)state;
    assert_int_equal(sti_varint_get(&pos, eleven + sizeof eleven, &value), STI_E_CORRUPT_BATCH);
    assert_ptr_equal(pos, eleven);
    pos = too_big;
    assert_int_equal(sti_varint_get(&pos, too_big + sizeof too_big, &value), STI_E_CORRUPT_BATCH);
    pos = too_big;
    assert_int_equal(sti_varint_get(&pos, too_big, &value), STI_E_CORRUPT_BATCH);
    /* Longer than needed is no error: all readers of the format take it. */
    pos = padded;
    assert_int_equal(sti_varint_get(&pos, padded + sizeof padded, &value), STI_OK);
    assert_int_equal(value, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_bytes),
        cmocka_unit_test(every_length),
        cmocka_unit_test(not_a_varint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
