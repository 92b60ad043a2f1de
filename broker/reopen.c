/* reopen.c -- partitions that a failing disk took out of service, and their way back while the node
 * runs.
 *
 * A write or sync that fails poisons a partition: what its files hold is not known until they have
 * been read again. An open that fails for want of descriptors or memory, or by a read error, leaves
 * one offline. Both may be over soon, and a restart of the node for one partition costs all others.
 * So such a partition is closed and opened anew, which reads its log as a start does; it then
 * serves what the log holds. Damage is not tried again: reading does not mend it.
 *
 * One timer for the node, armed while there is such a partition. When it fires, each gets a task on
 * its strand, unless its own pause, which doubles from `reopen_min_ms` to `reopen_max_ms` with each
 * failure, is not over.
 */
#include <stdlib.h>

#include "broker/internal.h"

enum { TRIES_MAX = 20 }; /* doublings */

/* Is it one that reading again may bring back? @locks part->mu held */
static bool may_return(const struct brk_partition *part)
{
    if (part->state != BRK_PART_OFFLINE || part->close_wanted || part->damaged) {
        return false;
    }
    switch (part->why_code) {
    case STI_E_POISONED:
    case STI_E_IO:
    case STI_E_RESOURCE_EXHAUSTED:
    case STI_E_NO_MEMORY:
    case STI_E_DISK_FULL:
        return true;
    default:
        return false;
    }
}

/* @locks reopen.mu held */
static void arm(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    broker->reopen.armed = true;
    host->timer_arm(host->ctx, &broker->reopen.timer,
                    sti_now_us(host) + (uint64_t)broker->conf->reopen_min_ms * 1000u);
}

void brk_reopen_ask(struct broker *broker)
{
    pthread_mutex_lock(&broker->reopen.mu);
    if (!broker->reopen.armed && !broker->reopen.stopped && broker->conf->reopen_min_ms > 0) {
        arm(broker);
    }
    pthread_mutex_unlock(&broker->reopen.mu);
}

/* ---- one partition ------------------------------------------------------------------------- */

/* Take the partition out of service for the time of its opening.
 * @return false: it is closed, serves again, is appended to, or is read (the next round asks again)
 */
static bool begin(struct brk_partition *part)
{
    pthread_mutex_lock(&part->mu);
    bool ours = may_return(part) && !part->appending && part->reads == 0;
    if (ours) {
        brk_partition_set_state(part, BRK_PART_OPENING, NULL);
        part->closing = part->store;
        part->store = NULL;
    }
    pthread_mutex_unlock(&part->mu);
    return ours;
}

static void let_go(struct brk_partition *part)
{
    struct sti_err err;
    if (part->closing != NULL) {
        /* Its events still come while it is closed. That it could not save everything is known. */
        (void)sti_storage_of(&part->storage)->close(part->closing, &err);
        part->closing = NULL;
    }
    pthread_mutex_lock(&part->mu);
    struct sti_replication_partition *repl = part->repl;
    part->repl = NULL;
    part->poisoned = false;
    atomic_store(&part->synced_end, 0);
    pthread_mutex_unlock(&part->mu);
    if (repl != NULL) {
        sti_replication_of(&part->broker->replication)->close(repl);
    }
}

static void reopen_run(struct sti_task *task)
{
    struct brk_reopen_task *job = BRK_CONTAINER_OF(task, struct brk_reopen_task, task);
    struct brk_partition *part = job->part;
    struct broker *broker = part->broker;
    free(job);
    if (begin(part)) {
        struct sti_err err;
        let_go(part);
        int rc = brk_open_storage(part, &err);
        pthread_mutex_lock(&part->mu);
        uint32_t tries = part->reopen_tries < TRIES_MAX ? part->reopen_tries + 1u : TRIES_MAX;
        uint64_t pause_ms = (uint64_t)broker->conf->reopen_min_ms << tries;
        uint64_t most_ms = (uint64_t)broker->conf->reopen_max_ms;
        part->reopen_tries = rc == STI_OK ? 0 : (uint8_t)tries;
        part->reopen_due_us =
            sti_now_us(broker->host) + (pause_ms < most_ms ? pause_ms : most_ms) * 1000u;
        pthread_mutex_unlock(&part->mu);
        brk_partition_opened(part, rc == STI_OK ? BRK_PART_ONLINE : BRK_PART_OFFLINE, &err);
        brk_offline_report(broker);
        if (rc == STI_OK) {
            sti_metric_add(broker->metrics.reopened, 1);
            sti_log(broker->host, STI_LOG_INFO, "partition_reopened",
                    "the log was read again, and the partition serves",
                    STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
                    STI_F_INT("end", atomic_load(&part->written_end)));
        }
    }
    pthread_mutex_lock(&part->mu);
    part->reopen_posted = false;
    pthread_mutex_unlock(&part->mu);
    brk_partition_unref(part);
}

/* @return whether the partition is still to be looked at by a later round */
static bool partition_post(struct brk_partition *part)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    bool wanted = may_return(part);
    bool due = wanted && !part->reopen_posted && sti_now_us(host) >= part->reopen_due_us;
    struct brk_reopen_task *job = due ? calloc(1, sizeof *job) : NULL;
    if (job != NULL) {
        job->task.run = reopen_run;
        job->part = part;
        part->reopen_posted = true;
        brk_partition_ref(part);
        /* Under the lock: a close that follows is posted behind this task. */
        host->strand_post(host->ctx, &part->strand, &job->task);
    }
    bool later = wanted || part->reopen_posted;
    pthread_mutex_unlock(&part->mu);
    return later;
}

/* ---- the timer ----------------------------------------------------------------------------- */

static bool post_all(struct broker *broker)
{
    struct brk_topic **topics = NULL;
    int64_t count = brk_table_all(broker, &topics);
    bool later = false;
    for (int64_t i = 0; i < count; i++) {
        struct brk_table_shard *shard = brk_shard_of(broker, topics[i]->name);
        pthread_rwlock_rdlock(&shard->lock);
        for (int32_t p = 0; p < topics[i]->partition_count; p++) {
            later = partition_post(topics[i]->partitions[p]) || later;
        }
        pthread_rwlock_unlock(&shard->lock);
        brk_topic_unref(topics[i]);
    }
    free(topics);
    return later;
}

static void timer_run(struct sti_task *task)
{
    struct broker *broker = BRK_CONTAINER_OF(BRK_CONTAINER_OF(task, struct sti_timer, task),
                                             struct broker, reopen.timer);
    pthread_mutex_lock(&broker->reopen.mu);
    broker->reopen.armed = false; /* who asks from now on arms it anew */
    broker->reopen.running = true;
    bool stopped = broker->reopen.stopped;
    pthread_mutex_unlock(&broker->reopen.mu);
    bool later = !stopped && post_all(broker);
    pthread_mutex_lock(&broker->reopen.mu);
    if (later && !broker->reopen.armed && !broker->reopen.stopped) {
        arm(broker);
    }
    broker->reopen.running = false;
    pthread_cond_broadcast(&broker->reopen.ended);
    pthread_mutex_unlock(&broker->reopen.mu);
}

void brk_reopen_init(struct broker *broker)
{
    pthread_mutex_init(&broker->reopen.mu, NULL);
    pthread_cond_init(&broker->reopen.ended, NULL);
    broker->reopen.timer.task.run = timer_run;
}

/* No task is posted from here on. */
void brk_reopen_stop(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    pthread_mutex_lock(&broker->reopen.mu);
    broker->reopen.stopped = true;
    if (broker->reopen.armed && host->timer_cancel(host->ctx, &broker->reopen.timer)) {
        broker->reopen.armed = false;
    }
    while (broker->reopen.armed || broker->reopen.running) {
        pthread_cond_wait(&broker->reopen.ended, &broker->reopen.mu);
    }
    pthread_mutex_unlock(&broker->reopen.mu);
}

void brk_reopen_fini(struct broker *broker)
{
    pthread_cond_destroy(&broker->reopen.ended);
    pthread_mutex_destroy(&broker->reopen.mu);
}
