/* test_plugin.c -- the helpers of plugin.h: metrics, presence of a slot, log fields, clocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "streamit/plugin.h"

/* What an exporter does: the sum over the shards. */
static uint64_t metric_sum(const struct sti_metric *metric)
{
    uint64_t sum = 0;
    size_t i;
    for (i = 0; i < STI_METRIC_SHARDS; i++) {
        sum += metric->cells[i].value;
    }
    return sum;
}

static void a_counter_grows(void **state)
{
    struct sti_metric metric;
    (void)state;
    memset(&metric, 0, sizeof metric);
    sti_metric_add(&metric, 5);
    sti_metric_add(&metric, 0);
    sti_metric_add(&metric, UINT64_C(1) << 40);
    assert_true(metric_sum(&metric) == (UINT64_C(1) << 40) + 5);
}

/* A shard may wrap below zero; the sum does not. */
static void a_gauge_moves(void **state)
{
    struct sti_metric metric;
    (void)state;
    memset(&metric, 0, sizeof metric);
    metric.cells[(sti_metric_shard() + 1) % STI_METRIC_SHARDS].value = 10;
    sti_metric_sub(&metric, 4);
    assert_true(metric.cells[sti_metric_shard()].value == UINT64_MAX - 3);
    assert_int_equal(metric_sum(&metric), 6);
    sti_metric_add(&metric, 1);
    assert_int_equal(metric_sum(&metric), 7);
}

static void a_gauge_is_set(void **state)
{
    struct sti_metric metric;
    (void)state;
    memset(&metric, 0, sizeof metric);
    sti_metric_set(&metric, 12);
    assert_int_equal(metric_sum(&metric), 12);
    sti_metric_set(&metric, 3);
    assert_int_equal(metric_sum(&metric), 3);
}

static void a_plugin_runs_without_metrics(void **state)
{
    (void)state;
    sti_metric_add(NULL, 1);
    sti_metric_sub(NULL, 1);
    sti_metric_set(NULL, 1);
    sti_histogram_record(NULL, 1);
}

#define THREADS 4
#define ROUNDS  20000

struct shared {
    struct sti_metric counter;
    struct sti_histogram histogram;
};

static void *count(void *arg)
{
    struct shared *shared = arg;
    uint64_t i;
    if (sti_metric_shard() >= STI_METRIC_SHARDS) {
        return arg;
    }
    for (i = 0; i < ROUNDS; i++) {
        sti_metric_add(&shared->counter, 3);
        sti_histogram_record(&shared->histogram, i % 100);
    }
    return NULL;
}

static struct sti_histogram_totals totals_of(const struct sti_histogram *histogram)
{
    struct sti_histogram_totals totals = {0};
    for (unsigned i = 0; i < STI_METRIC_SHARDS; i++) {
        totals.sum += histogram->cells[i].sum;
        for (unsigned b = 0; b < STI_HISTOGRAM_BUCKETS; b++) {
            totals.buckets[b] += histogram->cells[i].buckets[b];
            totals.count += histogram->cells[i].buckets[b];
        }
    }
    return totals;
}

static void no_count_is_lost_between_threads(void **state)
{
    static struct shared shared;
    pthread_t threads[THREADS];
    size_t i;
    (void)state;
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count, &shared), 0);
    }
    for (i = 0; i < THREADS; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    struct sti_histogram_totals totals = totals_of(&shared.histogram);
    assert_int_equal(metric_sum(&shared.counter), 3 * THREADS * ROUNDS);
    assert_int_equal(totals.count, THREADS * ROUNDS);
    assert_int_equal(totals.sum, THREADS * (ROUNDS / 100) * 4950);
}

/* Bucket i counts values < 2^i that no bucket before it counts; the last one takes the rest. */
static void histogram_buckets(void **state)
{
    unsigned i;
    (void)state;
    for (i = 0; i < 64; i++) {
        uint64_t low = i == 0 ? 0 : UINT64_C(1) << (i - 1);
        uint64_t high = (UINT64_C(1) << i) - 1;
        unsigned bucket = i < STI_HISTOGRAM_BUCKETS ? i : STI_HISTOGRAM_BUCKETS - 1;
        struct sti_histogram h;
        memset(&h, 0, sizeof h);
        sti_histogram_record(&h, low);
        sti_histogram_record(&h, high);
        struct sti_histogram_totals totals = totals_of(&h);
        assert_int_equal(totals.count, 2);
        assert_true(totals.sum == low + high);
        assert_int_equal(totals.buckets[bucket], 2);
    }
}

static void the_largest_value(void **state)
{
    struct sti_histogram h;
    (void)state;
    memset(&h, 0, sizeof h);
    sti_histogram_record(&h, UINT64_MAX);
    struct sti_histogram_totals totals = totals_of(&h);
    assert_int_equal(totals.buckets[STI_HISTOGRAM_BUCKETS - 1], 1);
    assert_true(totals.sum == UINT64_MAX);
}

/* ---- the host table */

static void no_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    (void)buf;
    (void)len;
}

/* A slot is there when it lies within the size that the other side built, and is not null. */
static void presence_of_a_slot(void **state)
{
    struct sti_host host;
    const struct sti_host *table = &host;
    (void)state;
    memset(&host, 0, sizeof host);
    host.random = no_random;
    host.struct_size = sizeof host;
    assert_true(STI_HAS(table, random));
    assert_false(STI_HAS(table, post));
    host.struct_size = (uint32_t)(offsetof(struct sti_host, random) + sizeof host.random);
    assert_true(STI_HAS(table, random));
    host.struct_size--;
    assert_false(STI_HAS(table, random));
    host.struct_size = 0;
    assert_false(STI_HAS(table, random));
}

static uint64_t some_clock(void *ctx, int clock_id)
{
    assert_ptr_equal(ctx, &no_random);
    return clock_id == STI_CLOCK_MONOTONIC ? 77 : UINT64_C(1700000000123999);
}

static void clocks(void **state)
{
    struct sti_host host;
    (void)state;
    memset(&host, 0, sizeof host);
    host.ctx = (void *)(uintptr_t)&no_random;
    host.clock_us = some_clock;
    assert_int_equal(sti_now_us(&host), 77);
    assert_true(sti_now_ms(&host) == INT64_C(1700000000123));
}

/* What the last line of the log said. */
static struct {
    int level, fields;
    const char *event, *msg;
    struct sti_field field[5];
} logged;

static void keep_line(void *ctx, int level, const char *event, const char *msg,
                      const struct sti_field *const *fields)
{
    (void)ctx;
    logged.level = level;
    logged.event = event;
    logged.msg = msg;
    for (logged.fields = 0; fields != NULL && fields[logged.fields] != NULL; logged.fields++) {
        assert_true(logged.fields < 5);
        logged.field[logged.fields] = *fields[logged.fields];
    }
}

static void log_fields(void **state)
{
    struct sti_host host;
    (void)state;
    memset(&host, 0, sizeof host);
    host.log = keep_line;
    sti_log(&host, STI_LOG_WARN, "disk_slow", "the disk is slow");
    assert_int_equal(logged.level, STI_LOG_WARN);
    assert_string_equal(logged.event, "disk_slow");
    assert_string_equal(logged.msg, "the disk is slow");
    assert_int_equal(logged.fields, 0);
    sti_log(&host, STI_LOG_INFO, "e", "m", STI_F_STR("s", "text"), STI_F_INT("i", -3),
            STI_F_UINT("u", UINT64_MAX), STI_F_DOUBLE("d", 0.5), STI_F_BOOL("b", 12));
    assert_int_equal(logged.fields, 5);
    assert_int_equal(logged.field[0].type, STI_FIELD_STR);
    assert_string_equal(logged.field[0].key, "s");
    assert_string_equal(logged.field[0].value.str, "text");
    assert_int_equal(logged.field[1].type, STI_FIELD_INT);
    assert_true(logged.field[1].value.i == -3);
    assert_int_equal(logged.field[2].type, STI_FIELD_UINT);
    assert_true(logged.field[2].value.u == UINT64_MAX);
    assert_int_equal(logged.field[3].type, STI_FIELD_DOUBLE);
    assert_true(logged.field[3].value.d > 0.49 && logged.field[3].value.d < 0.51);
    assert_int_equal(logged.field[4].type, STI_FIELD_BOOL);
    assert_true(logged.field[4].value.u == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_counter_grows),
        cmocka_unit_test(a_gauge_moves),
        cmocka_unit_test(a_gauge_is_set),
        cmocka_unit_test(a_plugin_runs_without_metrics),
        cmocka_unit_test(no_count_is_lost_between_threads),
        cmocka_unit_test(histogram_buckets),
        cmocka_unit_test(the_largest_value),
        cmocka_unit_test(presence_of_a_slot),
        cmocka_unit_test(clocks),
        cmocka_unit_test(log_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
