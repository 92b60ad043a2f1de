/* test_metrics.c -- the registry: identity of values, bounds, order of a visit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/metrics.h"

static void test_same_name_and_labels_same_value(void **state)
{
    (void)state;
    struct krn_metrics *m = krn_metrics_new(100);
    struct sti_metric *a = krn_metrics_value(m, STI_METRIC_COUNTER, "x_total", "a=\"1\"", "X.");
    assert_non_null(a);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_ptr_equal(krn_metrics_value(m, STI_METRIC_COUNTER, "x_total", "a=\"1\"", "X."), a);
    assert_ptr_not_equal(krn_metrics_value(m, STI_METRIC_COUNTER, "x_total", NULL, "X."), a);
    assert_ptr_equal(krn_metrics_value(m, STI_METRIC_COUNTER, "x_total", "", "X."),
                     krn_metrics_value(m, STI_METRIC_COUNTER, "x_total", NULL, "X."));
    sti_metric_add(a, 5);
    sti_metric_sub(a, 2);
    assert_int_equal(krn_metrics_sum(a), 3);
    assert_int_equal(krn_metrics_count(m), 2);
    krn_metrics_free(m);
}

static void test_refusals(void **state)
{
    (void)state;
    struct krn_metrics *m = krn_metrics_new(2);
    assert_non_null(krn_metrics_value(m, STI_METRIC_GAUGE, "g", NULL, "G."));
    assert_null(krn_metrics_value(m, STI_METRIC_COUNTER, "g", NULL, "G."));
    assert_null(krn_metrics_histogram(m, "g", NULL, "G."));
    assert_null(krn_metrics_value(m, STI_METRIC_GAUGE, "9bad", NULL, "G."));
    assert_null(krn_metrics_value(m, STI_METRIC_GAUGE, "a b", NULL, "G."));
    assert_null(krn_metrics_value(m, 77, "c", NULL, "G."));
    assert_non_null(krn_metrics_histogram(m, "h", NULL, "H."));
    assert_null(krn_metrics_value(m, STI_METRIC_GAUGE, "full", NULL, "F."));
    assert_int_equal(krn_metrics_refused(m), 6);
    sti_metric_add(NULL, 1); /* what a caller does with a refusal */
    sti_histogram_record(NULL, 1);
    krn_metrics_free(m);
}

static void note_value(void *arg, int type, const char *name, const char *labels, const char *help,
                       double value)
{
    char *out = arg;
    size_t used = strlen(out);
    (void)type;
    snprintf(out + used, 512 - used, "%s{%s}%s=%g ", name, labels, help, value);
}

static void note_histogram(void *arg, const char *name, const char *labels, const char *help,
                           const struct sti_histogram_totals *totals)
{
    note_value(arg, 0, name, labels, help, (double)totals->sum);
}

static void test_visit_by_family(void **state)
{
    (void)state;
    char out[512] = "";
    struct krn_metrics *m = krn_metrics_new(100);
    sti_metric_add(krn_metrics_value(m, STI_METRIC_COUNTER, "a", "k=\"1\"", "A."), 1);
    sti_metric_sub(krn_metrics_value(m, STI_METRIC_GAUGE, "b", NULL, "B."), 4);
    sti_metric_add(krn_metrics_value(m, STI_METRIC_COUNTER, "a", "k=\"2\"", "A."), 2);
    struct sti_histogram *h = krn_metrics_histogram(m, "h", NULL, "H.");
    sti_histogram_record(h, 0);
    sti_histogram_record(h, 7);
    sti_histogram_record(h, UINT64_C(1) << 60);
    struct sti_histogram_totals totals;
    krn_metrics_totals(h, &totals);
    assert_int_equal(totals.count, 3);
    assert_int_equal(totals.buckets[0], 1);
    assert_int_equal(totals.buckets[3], 1);
    assert_int_equal(totals.buckets[STI_HISTOGRAM_BUCKETS - 1], 1);
    h->cells[sti_metric_shard()].sum = 9;
    struct sti_metrics_visitor visitor = {
        .struct_size = sizeof visitor, .value = note_value, .histogram = note_histogram};
    krn_metrics_visit(m, &visitor, out);
    assert_string_equal(out, "a{k=\"1\"}A.=1 a{k=\"2\"}A.=2 b{}B.=-4 h{}H.=9 ");
    visitor.value = NULL;
    out[0] = '\0';
    krn_metrics_visit(m, &visitor, out);
    assert_string_equal(out, "h{}H.=9 ");
    krn_metrics_free(m);
}

/* A collector that sets a gauge, and hands a family of its own to the visitor. */
struct gatherer {
    struct sti_collector collector;
    struct sti_metric *gauge;
    uint64_t runs;
};

static void gather(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                   void *arg)
{
    struct gatherer *g = (struct gatherer *)(void *)collector;
    sti_metric_set(g->gauge, ++g->runs);
    visitor->value(arg, STI_METRIC_GAUGE, "own", "", "O.", 7);
}

static void test_collectors_run_first(void **state)
{
    (void)state;
    char out[512] = "";
    struct krn_metrics *m = krn_metrics_new(100);
    const struct sti_metrics_visitor visitor = {.struct_size = sizeof visitor, .value = note_value};
    struct gatherer g = {.collector.collect = gather,
                         .gauge = krn_metrics_value(m, STI_METRIC_GAUGE, "g", NULL, "G.")};
    krn_metrics_collector_add(m, &g.collector);
    krn_metrics_visit(m, &visitor, out);
    assert_string_equal(out, "own{}O.=7 g{}G.=1 ");
    krn_metrics_collector_remove(m, &g.collector);
    out[0] = '\0';
    krn_metrics_visit(m, &visitor, out);
    assert_string_equal(out, "g{}G.=1 ");
    krn_metrics_free(m);
}

static void *visit_often(void *arg)
{
    for (int i = 0; i < 200; i++) {
        char out[512] = "";
        const struct sti_metrics_visitor visitor = {.struct_size = sizeof visitor,
                                                    .value = note_value};
        krn_metrics_visit(arg, &visitor, out);
    }
    return NULL;
}

/* Once it is removed nobody runs it any more, also while others visit. */
static void test_a_collector_leaves_while_others_visit(void **state)
{
    (void)state;
    struct krn_metrics *m = krn_metrics_new(100);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, visit_often, m), 0);
    }
    for (int i = 0; i < 100; i++) {
        struct gatherer *g = calloc(1, sizeof *g);
        assert_non_null(g);
        g->collector.collect = gather;
        krn_metrics_collector_add(m, &g->collector);
        krn_metrics_collector_remove(m, &g->collector);
        memset(g, 0, sizeof *g);
        free(g);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    krn_metrics_free(m);
}

enum { THREADS = 4, ADDS = 20000 };

static void *adder(void *arg)
{
    struct krn_metrics *m = arg;
    for (int i = 0; i < ADDS; i++) {
        sti_metric_add(krn_metrics_value(m, STI_METRIC_COUNTER, "c", NULL, "C."), 1);
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state)
{
    (void)state;
    struct krn_metrics *m = krn_metrics_new(100);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, adder, m), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(krn_metrics_sum(krn_metrics_value(m, STI_METRIC_COUNTER, "c", NULL, "C.")),
                     THREADS * ADDS);
    assert_int_equal(krn_metrics_count(m), 1);
    krn_metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_name_and_labels_same_value),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_visit_by_family),
        cmocka_unit_test(test_collectors_run_first),
        cmocka_unit_test(test_a_collector_leaves_while_others_visit),
        cmocka_unit_test(test_threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
