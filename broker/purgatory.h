/* purgatory.h -- calls that wait for time to pass: a hashed timer wheel with one timer of the host.
 *
 * Produce calls wait here for their acks and fetches for records, until what they wait for comes or
 * their time is up. Nearly all leave early, so what counts is that coming and going cost the same
 * with ten waits as with ten thousand: a wait is a node in its call's memory, linked into the slot
 * of its tick. A slot is looked at when its tick has passed; what is due in a later round of the
 * wheel stays in it. The host's timer is armed for the earliest tick at which something is due, and
 * at least once a round while anything waits; a wait that leaves does not touch it.
 *
 * Precision. A wait expires up to BRK_TICK_US, and the executor's delay, after it is due, never
 * before.
 *
 * Threads. Waits are spread over shards by their address, each with a lock that is held for list
 * operations only. `expire` runs on an executor thread, with no lock held.
 */
#ifndef STREAMIT_BROKER_PURGATORY_H
#define STREAMIT_BROKER_PURGATORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "streamit/plugin.h"

enum { BRK_TICK_US = 4000, BRK_WHEEL_SLOTS = 1024, BRK_WHEEL_SHARDS = 4 };

/* In the memory of whoever waits; all of it but `expire` is zero before the first use. */
struct brk_wait {
    struct brk_wait *next, *prev; /* in its slot. @locks shard mu */
    uint64_t due_tick;            /* @locks shard mu */
    bool armed;                   /* @locks shard mu */
    void (*expire)(struct brk_wait *wait);
};

struct brk_wheel_shard {
    pthread_mutex_t mu; /* a leaf */
    uint64_t seen_tick; /* everything due by then has expired */
    uint64_t count;
    uint64_t used[BRK_WHEEL_SLOTS / 64]; /* slots that hold something */
    struct brk_wait *slots[BRK_WHEEL_SLOTS];
};

struct brk_purgatory {
    const struct sti_host *host;
    struct sti_metric *waits, *expired;
    struct brk_wheel_shard shards[BRK_WHEEL_SHARDS];
    pthread_mutex_t mu; /* of the timer: a leaf but for the host */
    pthread_cond_t ended;
    struct sti_timer timer;
    _Atomic uint64_t next_tick;   /* when the timer fires; UINT64_MAX: it is not armed */
    uint64_t wanted_tick;         /* asked for while it runs. @locks mu */
    bool armed, running, stopped; /* @locks mu */
};

void brk_purgatory_init(struct brk_purgatory *purgatory, const struct sti_host *host);
/* No wait expires from here on. Nothing waits any more. */
void brk_purgatory_stop(struct brk_purgatory *purgatory);
void brk_purgatory_fini(struct brk_purgatory *purgatory);

/* Have wait->expire called once `due_us` (monotonic) has passed. A wait that is in must not be put
 * in again before it expired or was cancelled. Any thread. */
void brk_wait_arm(struct brk_purgatory *purgatory, struct brk_wait *wait, uint64_t due_us);
/* True: it was in and will not expire. False: it has expired, is about to, or was never in. */
bool brk_wait_cancel(struct brk_purgatory *purgatory, struct brk_wait *wait);

#endif /* STREAMIT_BROKER_PURGATORY_H */
