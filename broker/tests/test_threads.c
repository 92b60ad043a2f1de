/* test_threads.c -- producers, fetchers, topics that come and go, all at once, over storage that
 * completes on threads of its own. Meant for the sanitizers; what it asserts is that every call is
 * answered once, that offsets are dense, and that nothing acknowledged is missing. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

enum { PRODUCERS = 3, FETCHERS = 3, CALLS = 150, PARTITIONS = 2, CHURNS = 12 };

struct worker {
    pthread_t thread;
    struct fixture *fix;
    int number;
    int64_t acked[PARTITIONS]; /* records */
    _Atomic bool *over;
};

static void *producer_main(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < CALLS; i++) {
        struct produce_call p;
        produce_init(&p, i % 3);
        produce_add(&p, "t", i % PARTITIONS, 1 + i % 2, 20, 0);
        produce_add(&p, i % 5 == 0 ? "churn" : "t", 0, 1, 20, 0);
        p.call.timeout_ms = i % 7 == 0 ? 1 : 0;
        produce_send(w->fix, &p);
        produce_wait(&p);
        for (int r = 0; r < 2; r++) {
            if (p.rows[r].status == STI_OK && strcmp(p.rows[r].topic, "t") == 0) {
                w->acked[p.rows[r].partition] += r == 0 ? 1 + i % 2 : 1;
            }
        }
        produce_fini(&p);
    }
    return NULL;
}

static void *fetcher_main(void *arg)
{
    struct worker *w = arg;
    int64_t at[PARTITIONS] = {0};
    while (!atomic_load(w->over)) {
        struct fetch_call f;
        fetch_init(&f, 5);
        fetch_add(&f, "t", 0, at[0]);
        fetch_add(&f, "t", 1, at[1]);
        if (w->number == 0) {
            fetch_add(&f, "churn", 0, 0);
        }
        f.call.min_bytes = w->number == 1 ? 300 : 1;
        fetch_send(w->fix, &f);
        if (w->number == 2) {
            w->fix->vt->fetch_cancel(w->fix->self, &f.call);
        }
        fetch_wait(&f);
        for (int p = 0; p < PARTITIONS; p++) {
            for (uint32_t s = 0; s < f.rows[p].slice_count; s++) {
                struct sti_batch_header h;
                assert_int_equal(sti_batch_check(&f.rows[p].slices[s], 1, STI_CHECK_CRC,
                                                 f.rows[p].slices[s].len, &h, NULL),
                                 STI_OK);
                assert_int_equal(h.base_offset, at[p]);
                at[p] = sti_batch_last_offset(&h) + 1;
            }
            assert_true(f.rows[p].status != STI_OK || at[p] <= f.rows[p].high_watermark);
        }
        fetch_fini(&f);
    }
    return NULL;
}

static void *churn_main(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < CHURNS; i++) {
        assert_int_equal(fix_create(w->fix, "churn", 2, NULL, NULL), STI_OK);
        (void)fix_alter(w->fix, "churn", 3 + i % 2, "retention.ms", "1000");
        (void)fix_alter(w->fix, "t", -1, "max.message.bytes", i % 2 == 0 ? "4096" : "8192");
        (void)fix_partition(w->fix, "t", 0);
        assert_int_equal(fix_delete(w->fix, "churn"), STI_OK);
    }
    return NULL;
}

static void test_all_at_once(void **state)
{
    struct fixture *fix = *state;
    struct worker w[PRODUCERS + FETCHERS + 1];
    _Atomic bool over = false;
    memset(w, 0, sizeof w);
    assert_int_equal(fix_create(fix, "t", PARTITIONS, NULL, NULL), STI_OK);
    for (int i = 0; i < PRODUCERS + FETCHERS + 1; i++) {
        bool producer = i < PRODUCERS, last = i == PRODUCERS + FETCHERS;
        w[i].fix = fix;
        w[i].number = producer ? i : i - PRODUCERS;
        w[i].over = &over;
        assert_int_equal(pthread_create(&w[i].thread, NULL,
                                        last       ? churn_main
                                        : producer ? producer_main
                                                   : fetcher_main,
                                        &w[i]),
                         0);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(w[i].thread, NULL);
    }
    atomic_store(&over, true);
    int64_t acked[PARTITIONS] = {0};
    for (int i = 0; i < PRODUCERS + FETCHERS + 1; i++) {
        if (i >= PRODUCERS) {
            pthread_join(w[i].thread, NULL);
        }
        for (int p = 0; p < PARTITIONS; p++) {
            acked[p] += w[i].acked[p];
        }
    }
    for (int p = 0; p < PARTITIONS; p++) {
        assert_true(fs_check_dense(fix->fs, "t", p) >= acked[p]); /* a timeout may be stored */
        assert_true(acked[p] > 0);
    }
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_inflight_bytes", NULL), 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_fetch_parked", NULL), 0);
}

static int setup_threaded(void **state)
{
    struct fixture *fix = fix_new();
    FAKE_SET(fix->fs, append_delay_us, 300);
    FAKE_SET(fix->fs, auto_sync, true);
    fix->conf.retention_check_interval_ms = 10;
    fix_start(fix);
    *state = fix;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_at_once, setup_threaded, fix_teardown),
        cmocka_unit_test_setup_teardown(test_all_at_once, fix_setup, fix_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
