/* retention.c -- dropping old segments: by the size of a partition, by the age of their newest
 * record.
 *
 * One timer for the node. When it fires, each partition that has a limit gets a task on its strand,
 * which asks storage for the oldest segment and trims while that one is no longer wanted. It also
 * runs when the settings of a topic change, and when a disk fills.
 *
 * The newest segment is never dropped, except when the disk is scarce and the newest record in it
 * is older than the topic keeps records: a segment may be larger than the whole disk. Deleting is
 * the broker's decision; storage only obeys.
 */
#include <stdlib.h>

#include "broker/internal.h"

/* Is the oldest segment no longer wanted? @thread strand */
static bool expired(const struct set_values *values, uint64_t total, uint64_t segment,
                    int64_t max_timestamp, int64_t now_ms)
{
    if (values->retention_bytes >= 0 && total - segment >= (uint64_t)values->retention_bytes) {
        return true;
    }
    return values->retention_ms >= 0 && max_timestamp >= 0 &&
           now_ms - max_timestamp > values->retention_ms;
}

/* Where a trim would drop exactly what is no longer wanted first. @thread strand
 * @return false: everything is wanted */
static bool next_trim(struct brk_partition *part, struct sti_storage_partition *store, int64_t *end)
{
    const struct sti_storage *vt = sti_storage_of(&part->storage);
    const struct set_values *values = &part->values;
    struct sti_storage_state state = {.struct_size = sizeof state};
    int64_t now_ms = sti_now_ms(part->broker->host), max_timestamp;
    uint64_t bytes;
    int rc = vt->oldest_segment(store, end, &bytes, &max_timestamp);
    vt->state(store, &state);
    if (rc != STI_OK) { /* the newest one is the only one */
        bool scarce = part->disk != NULL && atomic_load(&part->disk->level) != BRK_DISK_NORMAL;
        *end = state.written_end;
        return scarce && *end > state.log_start && *end <= atomic_load(&part->high_watermark) &&
               values->retention_ms >= 0 && state.max_timestamp >= 0 &&
               now_ms - state.max_timestamp > values->retention_ms;
    }
    return *end <= atomic_load(&part->high_watermark) &&
           expired(values, state.bytes, bytes, max_timestamp, now_ms);
}

void brk_retention_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, retention_task);
    struct broker *broker = part->broker;
    struct sti_err err;
    int64_t end, given_up = -1;
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    part->retention_posted = false;
    struct sti_storage_partition *store = part->state == BRK_PART_ONLINE ? part->store : NULL;
    pthread_mutex_unlock(&part->mu);
    /* The same end again: storage keeps the segment, and the next round asks anew. */
    while (store != NULL && rc == STI_OK && next_trim(part, store, &end) && end != given_up) {
        rc = sti_storage_of(&part->storage)->trim(store, end, &err);
        given_up = end;
        if (rc == STI_OK) {
            /* A segment that a crash had left below the start moves nothing. */
            int64_t before = atomic_load(&part->log_start);
            int64_t start = end > before ? end : before;
            atomic_store(&part->log_start, start);
            sti_metric_add(broker->metrics.trimmed_segments, 1);
            sti_log(broker->host, STI_LOG_INFO, "segment_expired", "the oldest segment was dropped",
                    STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
                    STI_F_INT("log_start", start));
        }
    }
    if (rc != STI_OK) {
        sti_log(broker->host, STI_LOG_ERROR, "retention_failed", err.msg,
                STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index));
    }
    brk_partition_unref(part);
}

void brk_retention_post(struct brk_partition *part)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    bool post = part->state == BRK_PART_ONLINE && !part->retention_posted && !part->close_wanted;
    part->retention_posted = part->retention_posted || post;
    if (post) {
        /* Under the lock: a close that follows is posted behind this task. */
        brk_partition_ref(part);
        host->strand_post(host->ctx, &part->strand, &part->retention_task);
    }
    pthread_mutex_unlock(&part->mu);
}

/* @locks admin_mu held */
static void retention_arm(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    host->timer_arm(host->ctx, &broker->retention_timer,
                    sti_now_us(host) + (uint64_t)broker->conf->retention_check_interval_ms * 1000u);
}

void brk_retention_now(struct broker *broker, const struct brk_disk *disk)
{
    struct brk_topic **topics = NULL;
    int64_t count = brk_table_all(broker, &topics);
    for (int64_t i = 0; i < count; i++) {
        struct brk_table_shard *shard = brk_shard_of(broker, topics[i]->name);
        pthread_rwlock_rdlock(&shard->lock);
        for (int32_t p = 0; p < topics[i]->partition_count; p++) {
            if (disk == NULL || topics[i]->partitions[p]->disk == disk) {
                brk_retention_post(topics[i]->partitions[p]);
            }
        }
        pthread_rwlock_unlock(&shard->lock);
        brk_topic_unref(topics[i]);
    }
    free(topics);
}

static void timer_run(struct sti_task *task)
{
    struct broker *broker = BRK_CONTAINER_OF(BRK_CONTAINER_OF(task, struct sti_timer, task),
                                             struct broker, retention_timer);
    brk_retention_now(broker, NULL);
    pthread_mutex_lock(&broker->admin_mu);
    bool again = broker->retention_armed;
    if (again) {
        retention_arm(broker);
    }
    pthread_mutex_unlock(&broker->admin_mu);
    if (!again) {
        brk_under_way_end(broker);
    }
}

void brk_retention_start(struct broker *broker)
{
    broker->retention_timer.task.run = timer_run;
    pthread_mutex_lock(&broker->admin_mu);
    broker->retention_armed = true;
    broker->under_way++; /* until the timer is cancelled, or has fired for the last time */
    retention_arm(broker);
    pthread_mutex_unlock(&broker->admin_mu);
}

void brk_retention_stop(struct broker *broker)
{
    pthread_mutex_lock(&broker->admin_mu);
    bool was = broker->retention_armed;
    broker->retention_armed = false;
    if (was && broker->host->timer_cancel(broker->host->ctx, &broker->retention_timer)) {
        broker->under_way--;
    }
    pthread_mutex_unlock(&broker->admin_mu);
}
