/* test_crc.c -- CRC-32C against published values, a bitwise computation, and itself in pieces. */
#include "batch_test.h"

/* One bit at a time, from the definition. */
static uint32_t crc_bitwise(const uint8_t *data, size_t len)
{
    uint32_t crc = 0xffffffffu;
    size_t i;
    int bit;
    for (i = 0; i < len; i++) {
        crc ^= data[i];
        for (bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82f63b78u : 0u);
        }
    }
    return ~crc;
}

static void published_values(void **state)
{
    uint8_t buf[32];
    (void)state;
    assert_int_equal(sti_crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(sti_crc32c(0, NULL, 0), 0u);
    memset(buf, 0, sizeof buf); /* RFC 3720, B.4 */
    assert_int_equal(sti_crc32c(0, buf, sizeof buf), 0x8a9136aau);
    memset(buf, 0xff, sizeof buf);
    assert_int_equal(sti_crc32c(0, buf, sizeof buf), 0x62a8ab43u);
    assert_int_equal(sti_crc32c(0, golden + 21, GOLDEN_LEN - 21), GOLDEN_CRC);
}

static void every_length_and_alignment(void **state)
{
    uint8_t buf[400];
    uint64_t seed = 1;
    size_t i, at;
    (void)state;
    for (i = 0; i < sizeof buf; i++) {
        buf[i] = (uint8_t)test_random(&seed);
    }
    for (at = 0; at < 16; at++) {
        for (i = 0; i + at <= 300; i += 3) {
            assert_int_equal(sti_crc32c(0, buf + at, i), crc_bitwise(buf + at, i));
        }
    }
}

static void pieces_make_the_whole(void **state)
{
    uint8_t buf[4096];
    uint64_t seed = 2;
    uint32_t whole;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof buf; i++) {
        buf[i] = (uint8_t)test_random(&seed);
    }
    whole = sti_crc32c(0, buf, sizeof buf);
    assert_int_equal(whole, crc_bitwise(buf, sizeof buf));
    for (i = 0; i <= sizeof buf; i += 7) {
        assert_int_equal(sti_crc32c(sti_crc32c(0, buf, i), buf + i, sizeof buf - i), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_values),
        cmocka_unit_test(every_length_and_alignment),
        cmocka_unit_test(pieces_make_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
