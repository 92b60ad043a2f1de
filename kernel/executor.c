/* executor.c -- see executor.h for the story. */
#include "kernel/executor.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STRAND_BURST = 64, /* tasks of one strand before others get their turn */
    PROBE_EVERY = 32   /* one in so many tasks is measured                 */
};

struct krn_executor {
    pthread_mutex_t mu; /* queue, threads */
    pthread_cond_t work;
    struct sti_task *head, *tail;
    uint64_t queued;
    uint32_t thread_count, idle, threads_max;
    bool stopping;
    pthread_t *threads;
    _Atomic uint64_t tasks_run;
    struct sti_histogram *wait_us, *run_us; /* of tasks that are measured; constant */
    const struct sti_task *probe;           /* the one on the queue that is: @locks mu */
    uint64_t probe_us, posts;               /* since when; @locks mu */

    pthread_mutex_t timer_mu; /* heap; never taken together with mu */
    pthread_cond_t timer_wake;
    struct sti_timer **heap; /* 1-based */
    size_t heap_count, heap_capacity;
    bool timer_stopping, timer_started;
    pthread_t timer_thread;
};

/* What the words of a struct sti_strand are. */
struct strand {
    struct sti_task task;             /* stands on the executor's queue for the strand     */
    _Atomic(struct sti_task *) inbox; /* newest first; IDLE or ends in BUSY                */
    struct sti_task *ready;           /* oldest first; owned by whoever runs the strand    */
    struct krn_executor *executor;
};
_Static_assert(sizeof(struct strand) <= sizeof(struct sti_strand), "a strand fits its words");

static struct sti_task busy_mark; /* ends an inbox of a strand that is queued or running */
#define BUSY (&busy_mark)
#define IDLE ((struct sti_task *)NULL)

static _Thread_local struct strand *running_strand;

uint64_t krn_clock_us(int clock_id)
{
    struct timespec ts;
    clock_gettime(clock_id == STI_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* ---- pool ---------------------------------------------------------------------------------- */

static void run_measured(struct krn_executor *ex, struct sti_task *task, uint64_t posted_us)
{
    uint64_t begin_us = krn_clock_us(STI_CLOCK_MONOTONIC);
    sti_histogram_record(ex->wait_us, begin_us - posted_us);
    task->run(task);
    sti_histogram_record(ex->run_us, krn_clock_us(STI_CLOCK_MONOTONIC) - begin_us);
}

static void *worker_main(void *arg)
{
    struct krn_executor *ex = arg;
    pthread_mutex_lock(&ex->mu);
    for (;;) {
        while (ex->head == NULL && !ex->stopping) {
            ex->idle++;
            pthread_cond_wait(&ex->work, &ex->mu);
            ex->idle--;
        }
        struct sti_task *task = ex->head;
        if (task == NULL) {
            break;
        }
        ex->head = task->next;
        if (ex->head == NULL) {
            ex->tail = NULL;
        }
        ex->queued--;
        uint64_t posted_us = task == ex->probe ? ex->probe_us : 0;
        ex->probe = task == ex->probe ? NULL : ex->probe;
        pthread_mutex_unlock(&ex->mu);
        atomic_fetch_add_explicit(&ex->tasks_run, 1, memory_order_relaxed);
        if (posted_us == 0) {
            task->run(task);
        } else {
            run_measured(ex, task, posted_us);
        }
        pthread_mutex_lock(&ex->mu);
    }
    pthread_mutex_unlock(&ex->mu);
    return NULL;
}

/* @locks ex->mu held */
static int start_worker(struct krn_executor *ex)
{
    int rc = pthread_create(&ex->threads[ex->thread_count], NULL, worker_main, ex);
    if (rc == 0) {
        ex->thread_count++;
    }
    return rc;
}

int krn_executor_new(struct krn_executor **out, uint32_t threads_max, struct sti_err *err)
{
    *out = NULL;
    struct krn_executor *ex = calloc(1, sizeof *ex);
    if (ex == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "executor: out of memory");
    }
    ex->threads = calloc(threads_max, sizeof *ex->threads);
    if (ex->threads == NULL) {
        free(ex);
        return sti_err_set(err, STI_E_NO_MEMORY, "executor: out of memory");
    }
    ex->threads_max = threads_max;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&ex->mu, NULL);
    pthread_mutex_init(&ex->timer_mu, NULL);
    pthread_cond_init(&ex->work, NULL);
    pthread_cond_init(&ex->timer_wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&ex->mu);
    int rc = start_worker(ex);
    pthread_mutex_unlock(&ex->mu);
    if (rc != 0) {
        krn_executor_free(ex);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "executor: cannot start a thread: %s",
                           strerror(rc));
    }
    *out = ex;
    return STI_OK;
}

void krn_executor_measure(struct krn_executor *ex, struct sti_histogram *wait_us,
                          struct sti_histogram *run_us)
{
    ex->wait_us = wait_us;
    ex->run_us = run_us;
}

void krn_executor_free(struct krn_executor *ex)
{
    if (ex == NULL) {
        return;
    }
    pthread_mutex_lock(&ex->timer_mu);
    ex->timer_stopping = true;
    pthread_cond_signal(&ex->timer_wake);
    bool timer_started = ex->timer_started;
    pthread_mutex_unlock(&ex->timer_mu);
    if (timer_started) {
        pthread_join(ex->timer_thread, NULL);
    }
    pthread_mutex_lock(&ex->mu);
    ex->stopping = true;
    pthread_cond_broadcast(&ex->work);
    uint32_t count = ex->thread_count;
    pthread_mutex_unlock(&ex->mu);
    for (uint32_t i = 0; i < count; i++) {
        pthread_join(ex->threads[i], NULL);
    }
    pthread_cond_destroy(&ex->work);
    pthread_cond_destroy(&ex->timer_wake);
    pthread_mutex_destroy(&ex->mu);
    pthread_mutex_destroy(&ex->timer_mu);
    free(ex->heap);
    free(ex->threads);
    free(ex);
}

void krn_executor_post(struct krn_executor *ex, struct sti_task *task)
{
    task->next = NULL;
    pthread_mutex_lock(&ex->mu);
    if (ex->tail != NULL) {
        ex->tail->next = task;
    } else {
        ex->head = task;
    }
    ex->tail = task;
    ex->queued++;
    if (ex->wait_us != NULL && ex->posts++ % PROBE_EVERY == 0 && ex->probe == NULL) {
        ex->probe = task;
        ex->probe_us = krn_clock_us(STI_CLOCK_MONOTONIC);
    }
    if (ex->idle > 0) {
        pthread_cond_signal(&ex->work);
    }
    /* A signalled thread stays idle in the count until it runs, hence the comparison with what is
     * queued. */
    if (ex->queued > ex->idle && ex->thread_count < ex->threads_max && !ex->stopping) {
        (void)start_worker(ex);
    }
    pthread_mutex_unlock(&ex->mu);
}

/* ---- strands ------------------------------------------------------------------------------- */

static struct strand *strand_of(struct sti_strand *strand)
{
    return (struct strand *)(void *)strand->words;
}

/* Move the inbox to the ready list, oldest first. */
static void strand_gather(struct strand *s)
{
    struct sti_task *task = atomic_exchange_explicit(&s->inbox, BUSY, memory_order_acquire);
    struct sti_task *ready = NULL;
    while (task != BUSY) {
        struct sti_task *next = task->next;
        task->next = ready;
        ready = task;
        task = next;
    }
    s->ready = ready;
}

static void strand_run(struct sti_task *self)
{
    struct strand *s = (struct strand *)(void *)self;
    struct krn_executor *ex = s->executor;
    for (int burst = 0; burst < STRAND_BURST; burst++) {
        if (s->ready == NULL) {
            strand_gather(s);
        }
        if (s->ready == NULL) {
            struct sti_task *expected = BUSY;
            if (atomic_compare_exchange_strong_explicit(
                    &s->inbox, &expected, IDLE, memory_order_acq_rel, memory_order_acquire)) {
                return;
            }
            continue;
        }
        struct sti_task *task = s->ready;
        s->ready = task->next;
        atomic_fetch_add_explicit(&ex->tasks_run, 1, memory_order_relaxed);
        running_strand = s;
        task->run(task);
        if (running_strand == NULL) {
            return; /* the task called krn_strand_fini: the memory is gone */
        }
        running_strand = NULL;
    }
    krn_executor_post(ex, &s->task);
}

void krn_strand_init(struct krn_executor *ex, struct sti_strand *strand)
{
    memset(strand, 0, sizeof *strand);
    struct strand *s = strand_of(strand);
    s->task.run = strand_run;
    s->executor = ex;
    atomic_init(&s->inbox, IDLE);
}

void krn_strand_post(struct sti_strand *strand, struct sti_task *task)
{
    struct strand *s = strand_of(strand);
    struct sti_task *old = atomic_load_explicit(&s->inbox, memory_order_relaxed);
    do {
        task->next = old == IDLE ? BUSY : old;
    } while (!atomic_compare_exchange_weak_explicit(&s->inbox, &old, task, memory_order_acq_rel,
                                                    memory_order_relaxed));
    if (old == IDLE) {
        krn_executor_post(s->executor, &s->task);
    }
}

bool krn_strand_try_run(struct sti_strand *strand, struct sti_task *task)
{
    struct strand *s = strand_of(strand);
    struct krn_executor *ex = s->executor;
    struct strand *outer = running_strand; /* the caller may run on another strand */
    struct sti_task *expected = IDLE;
    if (!atomic_compare_exchange_strong_explicit(&s->inbox, &expected, BUSY, memory_order_acq_rel,
                                                 memory_order_relaxed)) {
        return false;
    }
    atomic_fetch_add_explicit(&ex->tasks_run, 1, memory_order_relaxed);
    running_strand = s;
    task->run(task);
    bool gone = running_strand == NULL; /* the task called krn_strand_fini */
    running_strand = outer;
    expected = BUSY;
    if (!gone && !atomic_compare_exchange_strong_explicit(
                     &s->inbox, &expected, IDLE, memory_order_acq_rel, memory_order_relaxed)) {
        krn_executor_post(ex, &s->task);
    }
    return true;
}

void krn_strand_fini(struct sti_strand *strand)
{
    if (running_strand == strand_of(strand)) {
        running_strand = NULL;
    }
}

/* ---- timers: a binary heap, positions kept in words[0] ------------------------------------- */

static void heap_place(struct krn_executor *ex, size_t pos, struct sti_timer *timer)
{
    ex->heap[pos] = timer;
    timer->words[0] = pos;
}

static void heap_up(struct krn_executor *ex, size_t pos)
{
    struct sti_timer *timer = ex->heap[pos];
    while (pos > 1 && ex->heap[pos / 2]->due_us > timer->due_us) {
        heap_place(ex, pos, ex->heap[pos / 2]);
        pos /= 2;
    }
    heap_place(ex, pos, timer);
}

static void heap_down(struct krn_executor *ex, size_t pos)
{
    struct sti_timer *timer = ex->heap[pos];
    for (;;) {
        size_t child = pos * 2;
        if (child > ex->heap_count) {
            break;
        }
        if (child < ex->heap_count && ex->heap[child + 1]->due_us < ex->heap[child]->due_us) {
            child++;
        }
        if (ex->heap[child]->due_us >= timer->due_us) {
            break;
        }
        heap_place(ex, pos, ex->heap[child]);
        pos = child;
    }
    heap_place(ex, pos, timer);
}

static void heap_remove(struct krn_executor *ex, struct sti_timer *timer)
{
    size_t pos = (size_t)timer->words[0];
    struct sti_timer *last = ex->heap[ex->heap_count--];
    timer->words[0] = 0;
    if (last != timer) {
        heap_place(ex, pos, last);
        heap_up(ex, pos);
        heap_down(ex, (size_t)last->words[0]);
    }
}

static void timer_wait(struct krn_executor *ex)
{
    if (ex->heap_count == 0) {
        pthread_cond_wait(&ex->timer_wake, &ex->timer_mu);
        return;
    }
    uint64_t due = ex->heap[1]->due_us;
    struct timespec ts = {.tv_sec = (time_t)(due / 1000000u),
                          .tv_nsec = (long)(due % 1000000u) * 1000};
    pthread_cond_timedwait(&ex->timer_wake, &ex->timer_mu, &ts);
}

static void *timer_main(void *arg)
{
    struct krn_executor *ex = arg;
    pthread_mutex_lock(&ex->timer_mu);
    while (!ex->timer_stopping) {
        if (ex->heap_count == 0 || ex->heap[1]->due_us > krn_clock_us(STI_CLOCK_MONOTONIC)) {
            timer_wait(ex);
            continue;
        }
        struct sti_timer *timer = ex->heap[1];
        struct sti_strand *strand = timer->strand;
        heap_remove(ex, timer);
        /* Unlocked before the post; from here on the timer belongs to its task. */
        pthread_mutex_unlock(&ex->timer_mu);
        if (strand != NULL) {
            krn_strand_post(strand, &timer->task);
        } else {
            krn_executor_post(ex, &timer->task);
        }
        pthread_mutex_lock(&ex->timer_mu);
    }
    pthread_mutex_unlock(&ex->timer_mu);
    return NULL;
}

/* Room for one more timer. The heap doubles; memory for pointers that cannot be had is a
 * programmer's limit, not a caller's error, because arming cannot fail: the process then ends with
 * a core.
 * @locks ex->timer_mu held */
static void heap_reserve(struct krn_executor *ex)
{
    if (ex->heap_count + 1 < ex->heap_capacity) {
        return;
    }
    size_t capacity = ex->heap_capacity == 0 ? 64 : ex->heap_capacity * 2;
    struct sti_timer **heap = realloc(ex->heap, capacity * sizeof(*heap));
    if (heap == NULL) {
        abort();
    }
    ex->heap = heap;
    ex->heap_capacity = capacity;
}

void krn_timer_arm(struct krn_executor *ex, struct sti_timer *timer, uint64_t due_us)
{
    pthread_mutex_lock(&ex->timer_mu);
    heap_reserve(ex);
    timer->due_us = due_us;
    ex->heap[++ex->heap_count] = timer;
    heap_up(ex, ex->heap_count);
    if (!ex->timer_started && !ex->timer_stopping) {
        ex->timer_started = pthread_create(&ex->timer_thread, NULL, timer_main, ex) == 0;
    } else if (timer->words[0] == 1) {
        pthread_cond_signal(&ex->timer_wake);
    }
    pthread_mutex_unlock(&ex->timer_mu);
}

bool krn_timer_cancel(struct krn_executor *ex, struct sti_timer *timer)
{
    pthread_mutex_lock(&ex->timer_mu);
    bool armed = timer->words[0] != 0;
    if (armed) {
        heap_remove(ex, timer);
    }
    pthread_mutex_unlock(&ex->timer_mu);
    return armed;
}

void krn_executor_stats(struct krn_executor *ex, struct krn_executor_stats *out)
{
    pthread_mutex_lock(&ex->mu);
    out->threads = ex->thread_count;
    out->threads_idle = ex->idle;
    out->queued = ex->queued;
    pthread_mutex_unlock(&ex->mu);
    pthread_mutex_lock(&ex->timer_mu);
    out->timers = ex->heap_count;
    pthread_mutex_unlock(&ex->timer_mu);
    out->tasks_run = atomic_load_explicit(&ex->tasks_run, memory_order_relaxed);
}
