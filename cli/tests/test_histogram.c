/* test_histogram.c -- buckets keep their promise of 1/64, quantiles and merges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "histogram.h"

static void test_an_empty_one_says_zero(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);
    (void)state;
    assert_int_equal(histogram_quantile(h, 0.5), 0);
    assert_int_equal(h->max, 0);
    free(h);
}

static void test_a_value_comes_back_within_a_64th(void **state)
{
    (void)state;
    for (uint64_t value = 1; value < UINT64_MAX / 3; value = value * 3 / 2 + 1) {
        struct histogram *h = calloc(1, sizeof *h);
        histogram_record(h, value);
        histogram_record(h, value + value); /* so that max does not clip it */
        uint64_t got = histogram_quantile(h, 0.5);
        assert_true(got >= value);
        assert_true(got - value <= value / 64);
        free(h);
    }
}

static void test_quantiles_of_a_known_spread(void **state)
{
    struct histogram *h = calloc(1, sizeof *h), *sum = calloc(1, sizeof *sum);
    (void)state;
    for (uint64_t i = 1; i <= 10000; i++) {
        histogram_record(h, i);
    }
    assert_in_range(histogram_quantile(h, 0.5), 5000, 5100);
    assert_in_range(histogram_quantile(h, 0.99), 9900, 10000);
    assert_int_equal(histogram_quantile(h, 1.0), 10000);
    assert_int_equal(h->max, 10000);
    histogram_merge(sum, h);
    histogram_merge(sum, h);
    assert_int_equal(sum->count, 20000);
    assert_int_equal(histogram_quantile(sum, 0.5), histogram_quantile(h, 0.5));
    free(h);
    free(sum);
}

static void test_buckets_rise(void **state)
{
    unsigned last = 0;
    (void)state;
    for (uint64_t value = 0; value < 1 << 16; value++) {
        unsigned bucket = histogram_bucket(value);
        assert_true(bucket == last || bucket == last + 1);
        last = bucket;
    }
    assert_true(histogram_bucket(UINT64_MAX) < HISTOGRAM_BUCKETS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_one_says_zero),
        cmocka_unit_test(test_a_value_comes_back_within_a_64th),
        cmocka_unit_test(test_quantiles_of_a_known_spread),
        cmocka_unit_test(test_buckets_rise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
