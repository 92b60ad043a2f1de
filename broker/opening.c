/* opening.c -- which partition is opened when, after a start.
 *
 * A node is ready before its partitions are open: opening one recovers its log, and many of them,
 * or one with a long tail, take longer than anybody wants to wait. All that have to be opened stand
 * in two queues. Those that nobody has asked for wait in the background queue and are opened in
 * turn, a few at a time; a call that touches one moves it to the urgent queue, which goes first and
 * has a place of its own, so that it never waits behind a long recovery in the background. Topics
 * that are created have somebody who waits, and are urgent from the beginning.
 *
 *     BACKGROUND --touched--> URGENT --a place is free--> POSTED to its strand --> open or offline
 *
 * At most `parallel` partitions are opened at a time, which bounds the memory of recovery, and the
 * background leaves one place, and threads of the executor, to everything else. A partition that is
 * closed while it waits is posted at once, and its task finds that nothing is to be done.
 *
 * What recovery does is told at most once a second (recovery_progress), and once when all that a
 * start had to open is through (recovery_done); /ready lists how many are still to come.
 */
#include <sched.h>
#include <unistd.h>

#include "broker/internal.h"

enum { PROGRESS_US = 1000000, HEALTH_US = 100000, PARALLEL_LEAST = 2, PARALLEL_MOST = 64 };

void brk_opening_init(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t parallel = broker->conf->opening_parallel;
    if (parallel == 0) {
        parallel = cores < PARALLEL_LEAST  ? PARALLEL_LEAST
                   : cores > PARALLEL_MOST ? PARALLEL_MOST
                                           : cores;
        parallel++; /* the urgent place */
    }
    pthread_mutex_init(&o->mu, NULL);
    o->parallel = (uint32_t)parallel;
}

void brk_opening_fini(struct broker *broker)
{
    pthread_mutex_destroy(&broker->opening.mu);
}

/* ---- the queues: @locks opening.mu held ---------------------------------------------------- */

static struct brk_open_list *list_of(struct brk_opening *o, const struct brk_partition *part)
{
    return part->open_place == BRK_OPEN_URGENT ? &o->urgent : &o->background;
}

static void list_append(struct brk_open_list *list, struct brk_partition *part)
{
    part->open_next = NULL;
    part->open_prev = list->tail;
    if (list->tail != NULL) {
        list->tail->open_next = part;
    } else {
        list->head = part;
    }
    list->tail = part;
}

static void list_remove(struct brk_open_list *list, struct brk_partition *part)
{
    if (part->open_prev != NULL) {
        part->open_prev->open_next = part->open_next;
    } else {
        list->head = part->open_next;
    }
    if (part->open_next != NULL) {
        part->open_next->open_prev = part->open_prev;
    } else {
        list->tail = part->open_prev;
    }
    part->open_next = part->open_prev = NULL;
}

static void place_and_post(struct brk_opening *o, struct brk_partition *part)
{
    const struct sti_host *host = part->broker->host;
    list_remove(list_of(o, part), part);
    part->open_place = BRK_OPEN_POSTED;
    o->running++;
    host->strand_post(host->ctx, &part->strand, &part->open_task);
}

/* Post what has a place. */
static void pump(struct brk_opening *o)
{
    uint32_t background = o->parallel > 1 ? o->parallel - 1 : 1;
    while (!o->held && o->running < o->parallel && o->urgent.head != NULL) {
        place_and_post(o, o->urgent.head);
    }
    while (!o->held && o->running < background && o->background.head != NULL) {
        place_and_post(o, o->background.head);
    }
}

/* ---- telling ------------------------------------------------------------------------------- */

/* Is it that long since `last`? True for one caller only. */
static bool is_due(_Atomic uint64_t *last, uint64_t now, uint64_t period)
{
    uint64_t seen = atomic_load_explicit(last, memory_order_relaxed);
    return now - seen >= period && atomic_compare_exchange_strong(last, &seen, now);
}

static void health_report(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    const struct sti_host *host = broker->host;
    char detail[128];
    uint32_t pending;
    /* Several threads may report at once: whoever told an old number tells the new one too. */
    do {
        pending = atomic_load(&o->pending);
        snprintf(detail, sizeof detail,
                 "%u of %u partitions are still to be opened; one that is asked for goes first",
                 pending, atomic_load(&o->total));
        host->health(host->ctx, "opening_partitions",
                     pending == 0 ? STI_HEALTH_OK : STI_HEALTH_DEGRADED, detail);
        sti_metric_set(broker->metrics.partitions_opening, pending);
    } while (pending != atomic_load(&o->pending));
}

static void progress_report(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    uint32_t total = atomic_load(&o->total), pending = atomic_load(&o->pending);
    sti_log(broker->host, STI_LOG_INFO, "recovery_progress", "partitions are being opened",
            STI_F_UINT("partitions", total - pending), STI_F_UINT("of", total),
            STI_F_UINT("bytes", atomic_load(&o->bytes)));
}

static void done_report(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    sti_log(broker->host, STI_LOG_INFO, "recovery_done",
            "every partition has been opened or is offline",
            STI_F_UINT("partitions", atomic_load(&o->total)),
            STI_F_UINT("offline", atomic_load(&o->failed)),
            STI_F_UINT("bytes", atomic_load(&o->bytes)),
            STI_F_UINT("cut_bytes", atomic_load(&o->cut_bytes)),
            STI_F_UINT("ms", (sti_now_us(broker->host) - o->started_us) / 1000u));
}

/* ---- the way of a partition ---------------------------------------------------------------- */

void brk_opening_hold(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    pthread_mutex_lock(&o->mu);
    o->held = true;
    pthread_mutex_unlock(&o->mu);
    o->started_us = sti_now_us(broker->host);
    atomic_store(&o->progress_us, o->started_us);
}

void brk_opening_release(struct broker *broker)
{
    struct brk_opening *o = &broker->opening;
    if (atomic_load(&o->pending) > 0) {
        health_report(broker);
    }
    pthread_mutex_lock(&o->mu);
    o->held = false;
    pump(o);
    pthread_mutex_unlock(&o->mu);
}

void brk_opening_add(struct brk_partition *part, bool urgent)
{
    struct brk_opening *o = &part->broker->opening;
    pthread_mutex_lock(&o->mu);
    part->open_place = urgent ? BRK_OPEN_URGENT : BRK_OPEN_BACKGROUND;
    part->open_counts = !urgent;
    if (!urgent) {
        atomic_fetch_add(&o->total, 1);
        atomic_fetch_add(&o->pending, 1);
    }
    list_append(list_of(o, part), part);
    pump(o);
    pthread_mutex_unlock(&o->mu);
}

void brk_opening_touch(struct brk_partition *part)
{
    struct brk_opening *o = &part->broker->opening;
    pthread_mutex_lock(&o->mu);
    if (part->open_place == BRK_OPEN_BACKGROUND) {
        list_remove(&o->background, part);
        part->open_place = BRK_OPEN_URGENT;
        list_append(&o->urgent, part);
        pump(o);
    }
    pthread_mutex_unlock(&o->mu);
}

void brk_opening_skip(struct brk_partition *part)
{
    struct brk_opening *o = &part->broker->opening;
    pthread_mutex_lock(&o->mu);
    if (part->open_place == BRK_OPEN_BACKGROUND || part->open_place == BRK_OPEN_URGENT) {
        place_and_post(o, part);
    }
    pthread_mutex_unlock(&o->mu);
}

void brk_opening_read(struct brk_partition *part, uint64_t bytes)
{
    struct broker *broker = part->broker;
    struct brk_opening *o = &broker->opening;
    atomic_fetch_add(&o->bytes, bytes);
    if (part->open_counts && is_due(&o->progress_us, sti_now_us(broker->host), PROGRESS_US)) {
        progress_report(broker);
    }
}

void brk_opening_ended(struct brk_partition *part, bool failed, uint64_t cut_bytes)
{
    struct broker *broker = part->broker;
    struct brk_opening *o = &broker->opening;
    bool counts = part->open_counts, last = false;
    pthread_mutex_lock(&o->mu);
    part->open_place = BRK_OPEN_NOWHERE;
    o->running--;
    pump(o);
    pthread_mutex_unlock(&o->mu);
    if (!counts) {
        return;
    }
    atomic_fetch_add(&o->failed, failed ? 1 : 0);
    atomic_fetch_add(&o->cut_bytes, cut_bytes);
    last = atomic_fetch_sub(&o->pending, 1) == 1;
    uint64_t now = sti_now_us(broker->host);
    if (last || is_due(&o->health_us, now, HEALTH_US)) {
        health_report(broker);
    }
    if (last && atomic_load(&broker->state) != BRK_STOPPED) {
        done_report(broker);
    } else if (!last && is_due(&o->progress_us, now, PROGRESS_US)) {
        progress_report(broker);
    }
    /* Whoever touches a partition now need not wait for this thread's turn to end. */
    (void)sched_yield();
}
