/* test_histogram.c -- buckets keep their promise of 1/64, quantiles and merges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* The whole range, not only what a latency has: the lowest and the highest value of each power. */
static void test_the_bound_holds_up_to_the_largest_value(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t low = UINT64_C(1) << bit, high = low + (low - 1);
        const uint64_t values[] = {low, low + low / 3, high - low / 5, high};
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            struct histogram *h = calloc(1, sizeof *h);
            histogram_add(h, values[i], 3);
            histogram_record(h, UINT64_MAX);
            uint64_t got = histogram_quantile(h, 0.5);
            assert_true(got >= values[i]);
            assert_true(got - values[i] <= values[i] / 64);
            free(h);
        }
    }
}

static void test_a_value_seen_often_counts_as_often(void **state)
{
    struct histogram *once = calloc(1, sizeof *once), *many = calloc(1, sizeof *many);
    (void)state;
    for (int i = 0; i < 1000; i++) {
        histogram_record(once, 777);
    }
    histogram_add(many, 777, 1000);
    histogram_add(many, 900, 0);
    assert_memory_equal(once, many, sizeof *once);
    free(once);
    free(many);
}

/* One of the thousand slow ones is the 99.9th percentile, and is not lost in a merge. */
static void test_a_merge_keeps_the_tail(void **state)
{
    struct histogram *fast = calloc(1, sizeof *fast), *slow = calloc(1, sizeof *slow);
    (void)state;
    histogram_add(fast, 100, 9980);
    histogram_add(slow, 50000, 20);
    histogram_merge(fast, slow);
    assert_int_equal(fast->count, 10000);
    assert_int_equal(fast->max, 50000);
    assert_in_range(histogram_quantile(fast, 0.99), 100, 101);
    assert_int_equal(histogram_quantile(fast, 0.999), 50000);
    free(fast);
    free(slow);
}

static void test_what_is_written_is_all_of_it(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    (void)state;
    assert_non_null(out);
    histogram_add(h, 3, 2);
    histogram_record(h, 64);
    histogram_record(h, 130);
    histogram_record(h, 131);
    histogram_write_json(h, out);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, "{\"unit\":\"us\",\"count\":5,\"max\":131,"
                              "\"buckets\":[[3,3,2],[64,64,1],[130,131,2]]}");
    free(text);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_one_says_zero),
        cmocka_unit_test(test_a_value_comes_back_within_a_64th),
        cmocka_unit_test(test_quantiles_of_a_known_spread),
        cmocka_unit_test(test_buckets_rise),
        cmocka_unit_test(test_the_bound_holds_up_to_the_largest_value),
        cmocka_unit_test(test_a_value_seen_often_counts_as_often),
        cmocka_unit_test(test_a_merge_keeps_the_tail),
        cmocka_unit_test(test_what_is_written_is_all_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
