/* alarm.c -- time: now, later, and how much later after failures.
 *
 * Alarms stand in a pairing heap under one small lock; the poll thread sleeps until the first is
 * due. Links are inside the alarms, so starting one cannot fail, and thousands cost no more than
 * their heap.
 */
#include "internal.h"

#include <errno.h>
#include <time.h>

uint64_t cl_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t cl_due_us(uint32_t timeout_ms)
{
    return cl_now_us() + (uint64_t)timeout_ms * 1000u;
}

gpr_timespec cl_deadline(uint64_t due_us)
{
    uint64_t now = cl_now_us();
    if (due_us == UINT64_MAX) {
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    }
    return gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC),
        gpr_time_from_micros(due_us > now ? (int64_t)(due_us - now) : 0, GPR_TIMESPAN));
}

/* A random number; enough to part clients that failed together. */
static uint64_t jitter(void)
{
    static _Thread_local uint64_t state;
    if (state == 0) {
        state = (cl_now_us() ^ (uint64_t)(uintptr_t)&state) | 1u;
    }
    state ^= state << 13; /* xorshift64 */
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

uint64_t cl_backoff_us(const struct sti_client *client, uint32_t failures, uint32_t asked_ms)
{
    uint64_t most = (uint64_t)client->config.backoff_max_ms * 1000u;
    uint64_t backoff = (uint64_t)client->config.backoff_min_ms * 1000u;
    uint64_t asked = (uint64_t)asked_ms * 1000u;
    while (failures-- > 0 && backoff < most) {
        backoff *= 2;
    }
    backoff = backoff > most ? most : backoff;
    backoff = backoff / 2 + jitter() % (backoff / 2 + 1);
    return asked > backoff ? asked + jitter() % (asked / 8 + 1) : backoff;
}

/* ---- the heap: the earliest is the root, and each alarm is not later than its children. `link` is
 * the pointer that leads to an alarm. @locks client->alarm_mu held, all ---- */

/* Join two heaps without siblings. */
static struct cl_alarm *heap_join(struct cl_alarm *a, struct cl_alarm *b)
{
    if (a == NULL || b == NULL) {
        return a == NULL ? b : a;
    }
    if (b->due_us < a->due_us) {
        struct cl_alarm *first = b;
        b = a;
        a = first;
    }
    b->next = a->child;
    b->link = &a->child;
    if (b->next != NULL) {
        b->next->link = &b->next;
    }
    a->child = b;
    return a;
}

/* Make one heap of a list of siblings: in pairs, then all. */
static struct cl_alarm *heap_gather(struct cl_alarm *list)
{
    struct cl_alarm *pairs = NULL, *all = NULL;
    while (list != NULL) {
        struct cl_alarm *a = list, *b = a->next;
        list = b == NULL ? NULL : b->next;
        a->next = NULL;
        if (b != NULL) {
            b->next = NULL;
        }
        a = heap_join(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs != NULL) {
        struct cl_alarm *a = pairs;
        pairs = a->next;
        a->next = NULL;
        all = heap_join(all, a);
    }
    return all;
}

static void heap_root(struct sti_client *client, struct cl_alarm *root)
{
    client->alarms = root;
    if (root != NULL) {
        root->link = &client->alarms;
    }
}

static void heap_add(struct sti_client *client, struct cl_alarm *alarm)
{
    alarm->child = alarm->next = NULL;
    alarm->armed = true;
    heap_root(client, heap_join(client->alarms, alarm));
}

static void heap_remove(struct sti_client *client, struct cl_alarm *alarm)
{
    *alarm->link = alarm->next;
    if (alarm->next != NULL) {
        alarm->next->link = alarm->link;
    }
    alarm->next = NULL;
    alarm->armed = false;
    heap_root(client, heap_join(client->alarms, heap_gather(alarm->child)));
    alarm->child = NULL;
}

/* ---- alarms -------------------------------------------------------------------------------- */

void cl_alarm_start(struct sti_client *client, struct cl_alarm *alarm, uint64_t due_us)
{
    pthread_mutex_lock(&client->alarm_mu);
    alarm->due_us = due_us;
    alarm->cancelled = false;
    heap_add(client, alarm);
    bool first = client->alarms == alarm;
    pthread_mutex_unlock(&client->alarm_mu);
    if (first) {
        cl_wake(client);
    }
}

void cl_alarm_cancel(struct sti_client *client, struct cl_alarm *alarm)
{
    pthread_mutex_lock(&client->alarm_mu);
    bool armed = alarm->armed;
    if (armed) {
        heap_remove(client, alarm);
        alarm->due_us = 0;
        alarm->cancelled = true;
        heap_add(client, alarm);
    }
    pthread_mutex_unlock(&client->alarm_mu);
    if (armed) {
        cl_wake(client);
    }
}

uint64_t cl_alarms_fire(struct sti_client *client, uint64_t until_us)
{
    for (;;) {
        pthread_mutex_lock(&client->alarm_mu);
        struct cl_alarm *alarm = client->alarms;
        uint64_t due = alarm == NULL ? UINT64_MAX : alarm->due_us;
        bool now = alarm != NULL && due <= until_us;
        bool cancelled = now && alarm->cancelled;
        if (now) {
            heap_remove(client, alarm);
        }
        pthread_mutex_unlock(&client->alarm_mu);
        if (!now) {
            return due;
        }
        alarm->fire(alarm, cancelled);
    }
}

/* ---- waiting ------------------------------------------------------------------------------- */

void cl_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool cl_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t due_us)
{
    struct timespec ts = {.tv_sec = (time_t)(due_us / 1000000u),
                          .tv_nsec = (long)(due_us % 1000000u) * 1000};
    return pthread_cond_timedwait(cond, mu, &ts) != ETIMEDOUT;
}
