/* test_executor.c -- order of a strand under load, the end of a strand, timers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/executor.h"

/* A gate to wait at. */
struct gate {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    int open;
};
static struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void gate_open(void)
{
    pthread_mutex_lock(&gate.mu);
    gate.open++;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.mu);
}

static void gate_wait(int times)
{
    pthread_mutex_lock(&gate.mu);
    while (gate.open < times) {
        pthread_cond_wait(&gate.cond, &gate.mu);
    }
    gate.open -= times;
    pthread_mutex_unlock(&gate.mu);
}

static struct krn_executor *executor;

enum { POSTERS = 4, TASKS = 20000 };

struct numbered {
    struct sti_task task;
    int poster, number;
};

static int next_number[POSTERS];
static _Atomic int inside;
static _Atomic bool order_broken;
static _Atomic int tasks_done;

static void numbered_run(struct sti_task *task)
{
    struct numbered *n = (struct numbered *)(void *)task;
    if (atomic_fetch_add(&inside, 1) != 0 || next_number[n->poster]++ != n->number) {
        atomic_store(&order_broken, true);
    }
    atomic_fetch_sub(&inside, 1);
    free(n);
    if (atomic_fetch_add(&tasks_done, 1) + 1 == POSTERS * TASKS) {
        gate_open();
    }
}

/* Posts numbered tasks, or enters the strand with them where it can. */
struct poster {
    struct sti_strand *strand;
    bool enters;
    int number;
    pthread_t thread;
};

static void *poster_main(void *arg)
{
    const struct poster *poster = arg;
    for (int i = 0; i < TASKS; i++) {
        struct numbered *n = malloc(sizeof *n);
        *n =
            (struct numbered){.task = {.run = numbered_run}, .poster = poster->number, .number = i};
        if (!poster->enters || !krn_strand_try_run(poster->strand, &n->task)) {
            krn_strand_post(poster->strand, &n->task);
        }
    }
    return NULL;
}

/* Tasks of one thread run in order, and never two of the strand at once. */
static void strand_under_load(struct sti_strand *strand, bool enters)
{
    struct poster posters[POSTERS];
    memset(next_number, 0, sizeof next_number);
    atomic_store(&tasks_done, 0);
    krn_strand_init(executor, strand);
    for (int i = 0; i < POSTERS; i++) {
        posters[i] = (struct poster){.strand = strand, .enters = enters, .number = i};
        assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]), 0);
    }
    for (int i = 0; i < POSTERS; i++) {
        pthread_join(posters[i].thread, NULL);
    }
    gate_wait(1);
    assert_false(atomic_load(&order_broken));
    for (int i = 0; i < POSTERS; i++) {
        assert_int_equal(next_number[i], TASKS);
    }
}

/* Static strands: each is looked at once more after its last task has opened the gate. */
static void test_strand_keeps_order_under_load(void **state)
{
    static struct sti_strand strand;
    (void)state;
    strand_under_load(&strand, false);
    assert_int_equal(atomic_load(&tasks_done), POSTERS * TASKS);
}

static void test_try_run_under_load(void **state)
{
    static struct sti_strand strand;
    (void)state;
    strand_under_load(&strand, true);
    assert_int_equal(atomic_load(&tasks_done), POSTERS * TASKS);
}

/* ---- entering a strand on the caller's thread */

struct entered {
    struct sti_task task, late;
    struct sti_strand *strand;
    pthread_t thread, late_thread;
    bool nested, late_ran;
};

static void behind_run(struct sti_task *task)
{
    struct entered *e = (struct entered *)(void *)((char *)task - offsetof(struct entered, late));
    e->late_thread = pthread_self();
    e->late_ran = true;
    gate_open();
}

static void entered_run(struct sti_task *task)
{
    struct entered *e = (struct entered *)(void *)task;
    e->thread = pthread_self();
    e->nested = krn_strand_try_run(e->strand, &e->late); /* it runs: nothing is done */
    krn_strand_post(e->strand, &e->late);
    assert_false(e->late_ran);
}

static void test_try_run(void **state)
{
    (void)state;
    static struct sti_strand idle;
    static struct entered e;
    e = (struct entered){
        .task = {.run = entered_run}, .late = {.run = behind_run}, .strand = &idle, .nested = true};
    krn_strand_init(executor, &idle);
    assert_true(krn_strand_try_run(&idle, &e.task));
    assert_true(pthread_equal(e.thread, pthread_self()));
    assert_false(e.nested);
    gate_wait(1); /* what was posted meanwhile follows on the executor */
    assert_false(pthread_equal(e.late_thread, pthread_self()));
}

struct mortal {
    struct sti_strand strand;
    struct sti_task first, last;
    int ran;
};

static void mortal_first(struct sti_task *task)
{
    struct mortal *m = (struct mortal *)(void *)((char *)task - offsetof(struct mortal, first));
    m->ran++;
    krn_strand_post(&m->strand, &m->last); /* a task may post to its own strand */
}

static void mortal_last(struct sti_task *task)
{
    struct mortal *m = (struct mortal *)(void *)((char *)task - offsetof(struct mortal, last));
    krn_strand_fini(&m->strand);
    free(m); /* the sanitizers watch that nobody looks at it again */
    gate_open();
}

static void test_last_task_frees_its_strand(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct mortal *m = calloc(1, sizeof *m);
        krn_strand_init(executor, &m->strand);
        m->first.run = mortal_first;
        m->last.run = mortal_last;
        krn_strand_post(&m->strand, &m->first);
    }
    gate_wait(200);
    struct krn_executor_stats stats;
    krn_executor_stats(executor, &stats);
    assert_true(stats.tasks_run >= 400);
}

static int fired[8];
static _Atomic int fired_count;

static void fire(struct sti_task *task)
{
    struct sti_timer *timer = (struct sti_timer *)(void *)task;
    fired[atomic_fetch_add(&fired_count, 1)] = (int)timer->words[2];
    gate_open();
}

static void test_timers_fire_in_order_and_cancel(void **state)
{
    (void)state;
    /* Static: the strand is looked at once more after its last task has opened the gate. */
    static struct sti_timer timers[5];
    static struct sti_strand order;
    uint64_t now = krn_clock_us(STI_CLOCK_MONOTONIC);
    krn_strand_init(executor, &order);
    atomic_store(&fired_count, 0);
    for (int i = 0; i < 5; i++) {
        timers[i] = (struct sti_timer){
            .task = {.run = fire}, .strand = &order, .words = {0, 0, (uint64_t)i}};
    }
    assert_false(krn_timer_cancel(executor, &timers[0])); /* never armed */
    krn_timer_arm(executor, &timers[4], now + 3600000000u);
    krn_timer_arm(executor, &timers[0], now + 3000);
    krn_timer_arm(executor, &timers[1], now + 1000);
    krn_timer_arm(executor, &timers[2], now + 2000);
    krn_timer_arm(executor, &timers[3], now + 3600000000u);
    assert_true(krn_timer_cancel(executor, &timers[3]));
    assert_false(krn_timer_cancel(executor, &timers[3]));
    gate_wait(3);
    assert_int_equal(atomic_load(&fired_count), 3);
    assert_int_equal(fired[0], 1);
    assert_int_equal(fired[1], 2);
    assert_int_equal(fired[2], 0);
    assert_true(krn_clock_us(STI_CLOCK_MONOTONIC) >= now + 3000);
    assert_false(krn_timer_cancel(executor, &timers[0])); /* it has fired */
    krn_timer_arm(executor, &timers[0], 0); /* and may be armed again; past: at once */
    gate_wait(1);
    assert_true(krn_timer_cancel(executor, &timers[4]));
}

enum { MANY = 1000 };

static void test_many_timers_cancel_anywhere(void **state)
{
    (void)state;
    struct sti_timer *timers = calloc(MANY, sizeof *timers);
    struct krn_executor_stats stats;
    uint64_t far = krn_clock_us(STI_CLOCK_MONOTONIC) + 3600000000u;
    for (unsigned i = 0; i < MANY; i++) {
        timers[i].task.run = fire;
        krn_timer_arm(executor, &timers[i], far + i * 7919u % MANY);
    }
    krn_executor_stats(executor, &stats);
    assert_int_equal(stats.timers, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(krn_timer_cancel(executor, &timers[i * 271u % MANY]));
    }
    krn_executor_stats(executor, &stats);
    assert_int_equal(stats.timers, 0);
    free(timers);
}

struct blocker {
    struct sti_task task;
};

static struct gate release = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void block(struct sti_task *task)
{
    (void)task;
    gate_open();
    pthread_mutex_lock(&release.mu);
    while (release.open == 0) {
        pthread_cond_wait(&release.cond, &release.mu);
    }
    pthread_mutex_unlock(&release.mu);
    gate_open();
}

static void test_threads_grow_when_tasks_block(void **state)
{
    (void)state;
    static struct blocker blockers[4];
    struct krn_executor_stats stats;
    for (int i = 0; i < 4; i++) {
        blockers[i].task = (struct sti_task){.run = block};
        krn_executor_post(executor, &blockers[i].task);
    }
    gate_wait(4); /* all four run at the same time */
    krn_executor_stats(executor, &stats);
    assert_int_equal(stats.threads, 4);
    pthread_mutex_lock(&release.mu);
    release.open = 1;
    pthread_cond_broadcast(&release.cond);
    pthread_mutex_unlock(&release.mu);
    gate_wait(4);
}

static _Atomic int late;

static void late_run(struct sti_task *task)
{
    (void)task;
    atomic_fetch_add(&late, 1);
}

static void test_free_runs_what_is_queued(void **state)
{
    (void)state;
    struct krn_executor *ex;
    struct sti_err err;
    static struct sti_task tasks[100];
    assert_int_equal(krn_executor_new(&ex, 2, &err), STI_OK);
    for (int i = 0; i < 100; i++) {
        tasks[i].run = late_run;
        krn_executor_post(ex, &tasks[i]);
    }
    krn_executor_free(ex);
    assert_int_equal(atomic_load(&late), 100);
}

static int setup(void **state)
{
    (void)state;
    struct sti_err err;
    return krn_executor_new(&executor, 4, &err);
}

static int teardown(void **state)
{
    (void)state;
    krn_executor_free(executor);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strand_keeps_order_under_load),
        cmocka_unit_test(test_try_run),
        cmocka_unit_test(test_try_run_under_load),
        cmocka_unit_test(test_last_task_frees_its_strand),
        cmocka_unit_test(test_timers_fire_in_order_and_cancel),
        cmocka_unit_test(test_many_timers_cancel_anywhere),
        cmocka_unit_test(test_threads_grow_when_tasks_block),
        cmocka_unit_test(test_free_runs_what_is_queued),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
