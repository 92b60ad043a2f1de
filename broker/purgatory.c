/* purgatory.c -- see purgatory.h for the story. */
#include "broker/purgatory.h"

#include <stddef.h>
#include <string.h>

static struct brk_wheel_shard *shard_of(struct brk_purgatory *p, const struct brk_wait *wait)
{
    uintptr_t where = (uintptr_t)wait;
    return &p->shards[((where >> 6) ^ (where >> 12)) % BRK_WHEEL_SHARDS];
}

/* ---- slots --------------------------------------------------------------------------------- */

/* @locks shard->mu held */
static void slot_link(struct brk_wheel_shard *shard, struct brk_wait *wait)
{
    uint64_t slot = wait->due_tick % BRK_WHEEL_SLOTS;
    wait->prev = NULL;
    wait->next = shard->slots[slot];
    if (wait->next != NULL) {
        wait->next->prev = wait;
    }
    shard->slots[slot] = wait;
    shard->used[slot / 64] |= UINT64_C(1) << (slot % 64);
    shard->count++;
    wait->armed = true;
}

/* @locks shard->mu held */
static void slot_unlink(struct brk_wheel_shard *shard, struct brk_wait *wait)
{
    uint64_t slot = wait->due_tick % BRK_WHEEL_SLOTS;
    if (wait->prev != NULL) {
        wait->prev->next = wait->next;
    } else {
        shard->slots[slot] = wait->next;
    }
    if (wait->next != NULL) {
        wait->next->prev = wait->prev;
    }
    if (shard->slots[slot] == NULL) {
        shard->used[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    }
    shard->count--;
    wait->armed = false;
}

static bool slot_used(const struct brk_wheel_shard *shard, uint64_t tick)
{
    uint64_t slot = tick % BRK_WHEEL_SLOTS;
    return (shard->used[slot / 64] >> (slot % 64) & 1u) != 0;
}

/* Take out what is due by `now`. @return it, linked by next. @locks shard->mu held */
static struct brk_wait *take_due(struct brk_wheel_shard *shard, uint64_t now)
{
    struct brk_wait *due = NULL, **tail = &due;
    uint64_t from = shard->seen_tick + 1;
    if (now >= BRK_WHEEL_SLOTS && from <= now - BRK_WHEEL_SLOTS) {
        from = now - BRK_WHEEL_SLOTS + 1; /* once round is enough */
    }
    for (uint64_t tick = from; tick <= now && shard->count > 0; tick++) {
        struct brk_wait *next =
            slot_used(shard, tick) ? shard->slots[tick % BRK_WHEEL_SLOTS] : NULL;
        while (next != NULL) {
            struct brk_wait *wait = next;
            next = wait->next;
            if (wait->due_tick <= now) {
                slot_unlink(shard, wait);
                wait->next = NULL;
                *tail = wait;
                tail = &wait->next;
            }
        }
    }
    shard->seen_tick = now > shard->seen_tick ? now : shard->seen_tick;
    return due;
}

/* When to look again: at the first tick of this round at which something is due, else once it is
 * over. @return UINT64_MAX: nothing waits. @locks shard->mu held */
static uint64_t next_due(const struct brk_wheel_shard *shard)
{
    uint64_t last = shard->seen_tick + BRK_WHEEL_SLOTS;
    for (uint64_t tick = shard->seen_tick + 1; tick < last && shard->count > 0; tick++) {
        const struct brk_wait *wait =
            slot_used(shard, tick) ? shard->slots[tick % BRK_WHEEL_SLOTS] : NULL;
        while (wait != NULL && wait->due_tick != tick) {
            wait = wait->next;
        }
        if (wait != NULL) {
            return tick;
        }
    }
    return shard->count > 0 ? last : UINT64_MAX;
}

/* ---- the timer ----------------------------------------------------------------------------- */

/* @locks p->mu held */
static void timer_arm(struct brk_purgatory *p, uint64_t tick)
{
    p->armed = true;
    atomic_store(&p->next_tick, tick);
    p->host->timer_arm(p->host->ctx, &p->timer, tick * BRK_TICK_US);
}

/* Have the timer fire at that tick at the latest. */
static void timer_want(struct brk_purgatory *p, uint64_t tick)
{
    pthread_mutex_lock(&p->mu);
    if (p->running || p->stopped || tick >= atomic_load(&p->next_tick)) {
        p->wanted_tick = tick < p->wanted_tick ? tick : p->wanted_tick;
    } else if (!p->armed || p->host->timer_cancel(p->host->ctx, &p->timer)) {
        timer_arm(p, tick);
    } else {
        p->wanted_tick = tick < p->wanted_tick ? tick : p->wanted_tick; /* it fires just now */
    }
    pthread_mutex_unlock(&p->mu);
}

/* Expire what is due in one shard. @return when to look at it again */
static uint64_t shard_run(struct brk_purgatory *p, struct brk_wheel_shard *shard, uint64_t now)
{
    uint64_t expired = 0;
    pthread_mutex_lock(&shard->mu);
    struct brk_wait *due = take_due(shard, now);
    uint64_t next = next_due(shard);
    pthread_mutex_unlock(&shard->mu);
    while (due != NULL) {
        struct brk_wait *wait = due;
        due = wait->next;
        expired++;
        wait->expire(wait); /* and is gone */
    }
    sti_metric_sub(p->waits, expired);
    sti_metric_add(p->expired, expired);
    return next;
}

static void timer_run(struct sti_task *task)
{
    struct brk_purgatory *p =
        (struct brk_purgatory *)(void *)((char *)task - offsetof(struct brk_purgatory, timer.task));
    pthread_mutex_lock(&p->mu);
    p->armed = false;
    p->running = true;
    p->wanted_tick = UINT64_MAX;
    atomic_store(&p->next_tick, UINT64_MAX); /* before the shards: who comes behind one asks anew */
    pthread_mutex_unlock(&p->mu);
    uint64_t now = sti_now_us(p->host) / BRK_TICK_US, next = UINT64_MAX;
    for (int i = 0; i < BRK_WHEEL_SHARDS; i++) {
        uint64_t at = shard_run(p, &p->shards[i], now);
        next = at < next ? at : next;
    }
    pthread_mutex_lock(&p->mu);
    p->running = false;
    next = p->wanted_tick < next ? p->wanted_tick : next;
    if (!p->stopped && next != UINT64_MAX) {
        timer_arm(p, next);
    }
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->mu);
}

/* ---- for those that wait ------------------------------------------------------------------- */

void brk_wait_arm(struct brk_purgatory *p, struct brk_wait *wait, uint64_t due_us)
{
    struct brk_wheel_shard *shard = shard_of(p, wait);
    uint64_t tick = due_us / BRK_TICK_US + (due_us % BRK_TICK_US != 0 ? 1u : 0u);
    sti_metric_add(p->waits, 1);
    pthread_mutex_lock(&shard->mu);
    tick = tick > shard->seen_tick ? tick : shard->seen_tick + 1;
    wait->due_tick = tick;
    slot_link(shard, wait);
    pthread_mutex_unlock(&shard->mu);
    if (tick < atomic_load(&p->next_tick)) {
        timer_want(p, tick);
    }
}

bool brk_wait_cancel(struct brk_purgatory *p, struct brk_wait *wait)
{
    struct brk_wheel_shard *shard = shard_of(p, wait);
    pthread_mutex_lock(&shard->mu);
    bool armed = wait->armed;
    if (armed) {
        slot_unlink(shard, wait);
    }
    pthread_mutex_unlock(&shard->mu);
    sti_metric_sub(p->waits, armed ? 1 : 0);
    return armed;
}

/* ---- lifecycle ----------------------------------------------------------------------------- */

void brk_purgatory_init(struct brk_purgatory *p, const struct sti_host *host)
{
    memset(p, 0, sizeof *p);
    p->host = host;
    p->timer.task.run = timer_run;
    p->wanted_tick = UINT64_MAX;
    atomic_init(&p->next_tick, UINT64_MAX);
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->ended, NULL);
    for (int i = 0; i < BRK_WHEEL_SHARDS; i++) {
        pthread_mutex_init(&p->shards[i].mu, NULL);
        p->shards[i].seen_tick = sti_now_us(host) / BRK_TICK_US;
    }
}

void brk_purgatory_stop(struct brk_purgatory *p)
{
    pthread_mutex_lock(&p->mu);
    p->stopped = true;
    if (p->armed && p->host->timer_cancel(p->host->ctx, &p->timer)) {
        p->armed = false;
    }
    while (p->armed || p->running) {
        pthread_cond_wait(&p->ended, &p->mu);
    }
    pthread_mutex_unlock(&p->mu);
}

void brk_purgatory_fini(struct brk_purgatory *p)
{
    for (int i = 0; i < BRK_WHEEL_SHARDS; i++) {
        pthread_mutex_destroy(&p->shards[i].mu);
    }
    pthread_cond_destroy(&p->ended);
    pthread_mutex_destroy(&p->mu);
}
