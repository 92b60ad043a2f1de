/* test_partition.c -- the watermark of a single replica: which end, never back, no lock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "partition.h"

enum { THREADS = 4, REPORTS = 20000 };

struct seen {
    _Atomic int64_t high_watermark;
    atomic_int calls, synced, wrong_replicas;
};

/* As the broker: a watermark that is not beyond the present one is ignored. */
static void set_high_watermark(void *ctx, int64_t offset, int32_t replicas, int32_t synced)
{
    struct seen *seen = ctx;
    atomic_fetch_add(&seen->calls, 1);
    atomic_store(&seen->synced, synced);
    atomic_fetch_add(&seen->wrong_replicas, replicas == 1 ? 0 : 1);
    int64_t old = atomic_load(&seen->high_watermark);
    while (old < offset && !atomic_compare_exchange_weak(&seen->high_watermark, &old, offset)) {
    }
}

static const struct sti_replication_ops ops = {.struct_size = sizeof(struct sti_replication_ops),
                                               .set_high_watermark = set_high_watermark};
static const int32_t replicas[] = {1, 2, 3};

static struct sti_replication_open open_args(struct seen *seen, int64_t written, int64_t synced,
                                             bool durable)
{
    return (struct sti_replication_open){.struct_size = sizeof(struct sti_replication_open),
                                         .partition = 4,
                                         .topic = "orders",
                                         .ops = &ops,
                                         .ctx = seen,
                                         .replicas = replicas,
                                         .replica_count = 1,
                                         .min_insync = 1,
                                         .written_end = written,
                                         .synced_end = synced,
                                         .durable_ends = durable};
}

static void test_written_ends(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 10, 10, false);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    assert_int_equal(seen.high_watermark, 10);
    assert_int_equal(seen.synced, 1);
    assert_int_equal(rno_partition_in_sync(part), 1);
    rno_partition_progress(part, 15, 10);
    assert_int_equal(seen.high_watermark, 15);
    assert_int_equal(seen.synced, 0);
    rno_partition_progress(part, 15, 15);
    assert_int_equal(seen.high_watermark, 15);
    assert_int_equal(seen.wrong_replicas, 0);
    rno_partition_close(part);
}

static void test_synced_ends(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 10, 7, true);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    assert_int_equal(seen.high_watermark, 7);
    rno_partition_progress(part, 20, 7);
    assert_int_equal(seen.high_watermark, 7);
    rno_partition_progress(part, 20, 20);
    assert_int_equal(seen.high_watermark, 20);
    assert_int_equal(seen.synced, 1);
    rno_partition_close(part);
}

static void test_an_empty_log_is_told(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 0, 0, true);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.high_watermark, 0);
    rno_partition_close(part);
}

static void test_late_report_moves_nothing(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 10, 10, false);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    rno_partition_progress(part, 30, 10);
    int calls = seen.calls;
    rno_partition_progress(part, 20, 10);
    assert_int_equal(seen.calls, calls);
    assert_int_equal(seen.high_watermark, 30);
    rno_partition_close(part);
}

static void test_policy_change(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 10, 5, true);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    rno_partition_configure(part, false, 1);
    assert_int_equal(seen.high_watermark, 10);
    rno_partition_configure(part, true, 1);
    rno_partition_progress(part, 40, 8);
    assert_int_equal(seen.high_watermark, 10);
    rno_partition_progress(part, 40, 11);
    assert_int_equal(seen.high_watermark, 11);
    rno_partition_close(part);
}

static void test_more_replicas_are_refused(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sti_err err;
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 0, 0, false);
    args.replica_count = 3;
    assert_int_equal(rno_partition_open(&args, &part, &err), STI_E_UNSUPPORTED);
    assert_null(part);
    assert_string_equal(err.msg, "partition orders-4 has 3 replicas; replication_none keeps 1");
    assert_int_equal(seen.calls, 0);
}

struct worker {
    pthread_t thread;
    struct sti_replication_partition *part;
    struct seen *seen;
    _Atomic int64_t *next;
};

static void *report(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < REPORTS; i++) {
        int64_t end = atomic_fetch_add(w->next, 1) + 1;
        rno_partition_progress(w->part, end, end - 1);
    }
    return NULL;
}

static void test_concurrent_progress(void **state)
{
    (void)state;
    struct seen seen = {0};
    _Atomic int64_t next = 0;
    struct worker workers[THREADS];
    struct sti_replication_partition *part;
    struct sti_replication_open args = open_args(&seen, 0, 0, false);
    assert_int_equal(rno_partition_open(&args, &part, NULL), STI_OK);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.part = part, .seen = &seen, .next = &next};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, report, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    assert_int_equal(seen.high_watermark, THREADS * REPORTS);
    assert_true(seen.calls <= THREADS * REPORTS + 1);
    assert_int_equal(seen.wrong_replicas, 0);
    rno_partition_close(part);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_ends),
        cmocka_unit_test(test_synced_ends),
        cmocka_unit_test(test_an_empty_log_is_told),
        cmocka_unit_test(test_late_report_moves_nothing),
        cmocka_unit_test(test_policy_change),
        cmocka_unit_test(test_more_replicas_are_refused),
        cmocka_unit_test(test_concurrent_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
