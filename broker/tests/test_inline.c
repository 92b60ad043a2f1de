/* test_inline.c -- appends on the thread of their call, and when they are left to the strand. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "kernel/executor.h"

/* The broker's clock. While it stands still no append is a slow one, however busy the machine. */
static _Atomic uint64_t still_us;

static uint64_t clock_read(void *ctx, int clock_id)
{
    uint64_t still = atomic_load(&still_us);
    (void)ctx;
    return clock_id == STI_CLOCK_MONOTONIC && still != 0 ? still : krn_clock_us(clock_id);
}

static void clock_stop(void)
{
    atomic_store(&still_us, krn_clock_us(STI_CLOCK_MONOTONIC));
}

static void clock_go(void)
{
    atomic_store(&still_us, 0);
}

static struct fixture *begin(void **state, uint64_t caps_off)
{
    struct fixture *fix = fix_new();
    *state = fix;
    fix->host.clock_us = clock_read;
    fix->fs->vtable.iface.caps &= ~caps_off;
    clock_stop();
    fix_start(fix);
    return fix;
}

static int setup(void **state)
{
    (void)begin(state, 0);
    return 0;
}

static void nothing(struct sti_task *task)
{
    (void)task;
}

/* Wait until the strand of t-0 is idle: it is left a moment after its last task. */
static void wait_idle(struct fixture *fix)
{
    static const uint8_t any[16];
    struct brk_partition *part = NULL;
    struct sti_task task = {.run = nothing};
    struct sti_err err;
    assert_int_equal(brk_lookup(fix->self, "t", any, 0, &part, &err), STI_OK);
    while (!fix->host.strand_try_run(fix->host.ctx, &part->strand, &task)) {
        sched_yield();
    }
    brk_partition_unref(part);
}

/* A topic whose partition has had its first append, which notes the epoch. */
static struct fixture *with_topic(void **state, const char *key, const char *value)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, key, value), STI_OK);
    FAKE_SET(fix->fs, auto_sync, true);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    wait_idle(fix);
    return fix;
}

static uint64_t inlined(struct fixture *fix)
{
    return test_host_metric(fix->th, "streamit_produce_appends_inline_total", NULL);
}

static void start(struct fixture *fix, struct produce_call *p, size_t value_len)
{
    produce_init(p, STI_ACKS_LEADER);
    produce_add(p, "t", 0, 1, value_len, 0);
    produce_send(fix, p);
}

static void ends_at(struct produce_call *p, int64_t offset)
{
    produce_wait(p);
    assert_int_equal(p->rows[0].status, STI_OK);
    assert_int_equal(p->rows[0].base_offset, offset);
    produce_fini(p);
}

static void test_answered_by_the_caller(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    assert_int_equal(inlined(fix), 0); /* the first one has written the checkpoint of epochs */
    for (int i = 1; i < 10; i++) {
        start(fix, &p, 1000);
        assert_int_equal(flag_get(&p.done), 1);
        pthread_mutex_lock(&fix->fs->mu);
        pthread_t thread = fix->fs->append_thread;
        pthread_mutex_unlock(&fix->fs->mu);
        assert_true(pthread_equal(thread, pthread_self()));
        ends_at(&p, i);
    }
    assert_int_equal(inlined(fix), 9);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 10);
}

static void test_left_to_the_strand(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    FAKE_SET(fix->fs, would_block_appends, true); /* storage would have to wait */
    start(fix, &p, 10);
    ends_at(&p, 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends_no_wait), 1);
    FAKE_SET(fix->fs, would_block_appends, false);
    wait_idle(fix);
    start(fix, &p, 17000); /* large */
    ends_at(&p, 2);
    wait_idle(fix);
    produce_init(&p, STI_ACKS_LEADER); /* many rows */
    for (int i = 0; i < BRK_INLINE_ROWS + 1; i++) {
        produce_add(&p, "t", 0, 1, 10, 0);
    }
    produce_send(fix, &p);
    ends_at(&p, 3);
    wait_idle(fix);
    fix->conf.inline_append_bytes_max = 0; /* not wanted */
    start(fix, &p, 10);
    ends_at(&p, 8);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends_no_wait), 1);
    assert_int_equal(inlined(fix), 0);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 9);
}

/* What was stamped for an append that is then left to the strand is not stamped again. */
static void test_stamped_once(void **state)
{
    struct fixture *fix = with_topic(state, "message.timestamp.type", "LogAppendTime");
    struct produce_call p;
    FAKE_SET(fix->fs, would_block_appends, true);
    start(fix, &p, 100);
    ends_at(&p, 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends_no_wait), 1);
    struct fetch_call f;
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 1);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(sti_batch_check(f.rows[0].slices, 1, STI_CHECK_CRC, 1 << 20,
                                     &(struct sti_batch_header){0}, NULL),
                     STI_OK);
    fetch_fini(&f);
}

/* Nobody who serves others waits for a sync. */
static void test_commit_is_not_inline(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call p;
    start(fix, &p, 10);
    ends_at(&p, 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends_no_wait), 0);
}

static void test_storage_without_the_promise(void **state)
{
    struct fixture *fix = begin(state, STI_STORAGE_NO_WAIT);
    with_topic(state, NULL, NULL);
    struct produce_call p;
    start(fix, &p, 10);
    ends_at(&p, 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends_no_wait), 0);
}

/* A disk that was slow once is kept away from such threads for a while. */
static void test_slow_disk(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    FAKE_SET(fix->fs, append_slow_us, 2 * BRK_INLINE_SLOW_US);
    clock_go();
    start(fix, &p, 10);
    clock_stop();
    assert_int_equal(flag_get(&p.done), 1);
    ends_at(&p, 1);
    assert_int_equal(inlined(fix), 1);
    FAKE_SET(fix->fs, append_slow_us, 0);
    struct brk_disk *disk = brk_disk_find(fix->self, "storage_mmap");
    assert_true(atomic_load(&disk->slow_until_us) > 0);
    atomic_store(&disk->slow_until_us, UINT64_MAX); /* however slow this test is */
    start(fix, &p, 10);
    ends_at(&p, 2);
    assert_int_equal(inlined(fix), 1);
    wait_idle(fix);
    atomic_store(&disk->slow_until_us, 1); /* the while is over */
    start(fix, &p, 10);
    assert_int_equal(flag_get(&p.done), 1);
    ends_at(&p, 3);
    assert_int_equal(inlined(fix), 2);
}

/* Something else runs on the strand: the append comes behind it. */
static void test_busy_strand(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p[3];
    FAKE_SET(fix->fs, hold_configures, true);
    unsigned begun = fs_get(fix->fs, &fix->fs->configures_begun);
    assert_int_equal(fix_alter(fix, "t", -1, "segment.bytes", "65536"), STI_OK);
    fs_wait(fix->fs, &fix->fs->configures_begun, begun + 1);
    for (int i = 0; i < 3; i++) {
        start(fix, &p[i], 10);
    }
    assert_int_equal(flag_get(&p[0].done), 0);
    FAKE_SET(fix->fs, hold_configures, false);
    for (int i = 0; i < 3; i++) {
        ends_at(&p[i], 1 + i);
    }
    assert_int_equal(inlined(fix), 0);
}

/* A fetch that waits for it is answered by the appending thread too, the others are woken. */
static void test_waiting_fetches(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    struct fetch_call f[3];
    for (int i = 0; i < 3; i++) {
        fetch_init(&f[i], 60000);
        fetch_add(&f[i], "t", 0, 1);
        fetch_send(fix, &f[i]);
    }
    fix_wait_parked(fix, 3);
    start(fix, &p, 10);
    unsigned answered = 0;
    for (int i = 0; i < 3; i++) {
        answered += flag_get(&f[i].done);
    }
    assert_true(answered >= 1);
    ends_at(&p, 1);
    for (int i = 0; i < 3; i++) {
        fetch_wait(&f[i]);
        assert_int_equal(f[i].rows[0].slice_count, 1);
        assert_int_equal(f[i].rows[0].high_watermark, 2);
        fetch_fini(&f[i]);
    }
    assert_int_equal(inlined(fix), 1);
}

/* What cannot be read without waiting is read on the executor. */
static void test_waiting_fetch_of_cold_data(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 1);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    FAKE_SET(fix->fs, would_block, 1);
    FAKE_SET(fix->fs, hold_reads, true);
    start(fix, &p, 10);
    ends_at(&p, 1);
    fs_wait(fix->fs, &fix->fs->reads_held, 1);
    assert_int_equal(flag_get(&f.done), 0);
    fs_release_reads(fix->fs);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
}

/* Also a fetch that has been on the executor before reads on this thread without waiting only. */
static void test_waiting_fetch_that_was_cold(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    f.call.min_bytes = STI_BATCH_HEADER_LEN + 40; /* more than one batch, less than two */
    FAKE_SET(fix->fs, would_block, 1);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    FAKE_SET(fix->fs, would_block, 1);
    start(fix, &p, 10);
    ends_at(&p, 1);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].high_watermark, 2);
    assert_int_equal(fix->fs->would_block, 0);
    assert_int_equal(fix->fs->reads_no_wait, 2);
    assert_int_equal(fix->fs->reads, 4);
    fetch_fini(&f);
}

struct producer {
    struct fixture *fix;
    size_t value_len;
};

static void *producer_main(void *arg)
{
    struct producer *producer = arg;
    for (int i = 0; i < 200; i++) {
        struct produce_call p;
        start(producer->fix, &p, producer->value_len);
        produce_wait(&p);
        assert_int_equal(p.rows[0].status, STI_OK);
        produce_fini(&p);
    }
    return NULL;
}

/* Both ways at once, beside changes of settings, ended by a deletion. */
static void test_both_ways(void **state)
{
    enum { THREADS = 4 };
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct producer small = {fix, 10}, large = {fix, 17000};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, producer_main, i % 2 == 0 ? &small : &large), 0);
    }
    for (int i = 0; i < 20; i++) {
        assert_int_equal(fix_alter(fix, "t", -1, "segment.bytes", i % 2 == 0 ? "65536" : "131072"),
                         STI_OK);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 1 + THREADS * 200);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
}

#define TEST(name)  cmocka_unit_test_setup_teardown(test_##name, setup, fix_teardown)
#define ALONE(name) cmocka_unit_test_teardown(test_##name, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(answered_by_the_caller),
        TEST(left_to_the_strand),
        TEST(stamped_once),
        TEST(commit_is_not_inline),
        ALONE(storage_without_the_promise),
        TEST(slow_disk),
        TEST(busy_strand),
        TEST(waiting_fetches),
        TEST(waiting_fetch_of_cold_data),
        TEST(waiting_fetch_that_was_cold),
        TEST(both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
