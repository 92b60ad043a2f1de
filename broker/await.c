/* await.c -- calls that wait for a partition to be opened.
 *
 * Right after a start, and only then, a partition may not be open yet when somebody asks where its
 * log begins and ends. Such a call moves it to the front (opening.c), and looks again after a
 * millisecond, then ever less often: no thread waits, and whatever becomes of the partition
 * meanwhile, be it opened, deleted or closed, is found at the next look. The wait ends with the
 * request's deadline, after opening_wait_max_ms, or when the node stops.
 */
#include <stdlib.h>

#include "broker/internal.h"

enum { PAUSE_FIRST_US = 1000, PAUSE_MOST_US = 16000 };

static void timer_run(struct sti_task *task)
{
    struct brk_await *await = BRK_CONTAINER_OF(task, struct brk_await, timer.task);
    await->go_on(await);
}

void brk_await_init(struct brk_await *await, struct broker *broker, uint64_t due_us,
                    void (*go_on)(struct brk_await *await))
{
    uint64_t most = sti_now_us(broker->host) + (uint64_t)broker->conf->opening_wait_max_ms * 1000u;
    *await = (struct brk_await){.broker = broker,
                                .due_us = due_us > most ? most : due_us,
                                .pause_us = PAUSE_FIRST_US,
                                .go_on = go_on};
    await->timer.task.run = timer_run;
}

bool brk_await_partition(struct brk_await *await, struct brk_partition *part)
{
    const struct sti_host *host = await->broker->host;
    pthread_mutex_lock(&part->mu);
    bool opening = part->state == BRK_PART_OPENING;
    pthread_mutex_unlock(&part->mu);
    if (!opening) {
        return false;
    }
    brk_opening_touch(part);
    uint64_t now = sti_now_us(host);
    if (now >= await->due_us || atomic_load(&await->broker->state) != BRK_SERVING) {
        return false;
    }
    uint64_t pause = await->pause_us;
    pause = pause < await->due_us - now ? pause : await->due_us - now;
    await->pause_us = await->pause_us * 2 < PAUSE_MOST_US ? await->pause_us * 2 : PAUSE_MOST_US;
    host->timer_arm(host->ctx, &await->timer, now + pause);
    return true;
}

/* ---- a whole topic ------------------------------------------------------------------------- */

struct topic_await {
    struct brk_await await;
    struct sti_await *call;
    struct brk_topic *topic; /* with a reference */
    int32_t next;            /* those before it are not being opened any more */
};

static void topic_go_on(struct brk_await *await)
{
    struct topic_await *t = BRK_CONTAINER_OF(await, struct topic_await, await);
    struct sti_await *call = t->call;
    struct brk_partition *part;
    bool waits = false;
    while (!waits && (part = brk_partition_at(t->topic, t->next)) != NULL) {
        waits = brk_await_partition(await, part);
        t->next += waits ? 0 : 1;
        brk_partition_unref(part);
    }
    if (!waits) {
        brk_topic_unref(t->topic);
        free(t);
        call->done(call);
    }
}

int brk_await_topic(void *self, struct sti_await *call, struct sti_err *err)
{
    struct broker *broker = self;
    int rc = brk_serving(broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    /* Whoever may not look waits for nothing; the look itself says why. */
    bool may = brk_authorize(broker, call->request, STI_OP_DESCRIBE, call->topic, NULL) == STI_OK;
    struct brk_topic *topic = may ? brk_topic_get(broker, call->topic) : NULL;
    if (topic == NULL) {
        call->done(call);
        return STI_OK;
    }
    struct topic_await *t = calloc(1, sizeof *t);
    if (t == NULL) {
        brk_topic_unref(topic);
        return sti_err_set(err, STI_E_NO_MEMORY, "topic %.249s: out of memory", call->topic);
    }
    brk_await_init(&t->await, broker, brk_deadline_us(call->request), topic_go_on);
    t->call = call;
    t->topic = topic;
    struct brk_partition *part;
    for (int32_t i = 0; (part = brk_partition_at(topic, i)) != NULL; i++) {
        brk_opening_touch(part); /* all of them at once */
        brk_partition_unref(part);
    }
    topic_go_on(&t->await);
    return STI_OK;
}
