/* topics.c -- what follows from the catalogue on this node: topics in the table, partitions open or
 * gone.
 *
 * The catalogue says what was decided; the observer here makes it so. Opening and closing run on
 * the strands of the partitions, opening in the order of opening.c; each reports to
 * brk_topic_settled, and when the last one of a topic has, the calls that wait for it go on
 * (admin.c), and the fact is committed: TopicCreated when all storage exists, TopicPurged when all
 * of it is gone.
 *
 * @locks everything here runs under admin_mu unless it says otherwise
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/admin.h"
#include "broker/internal.h"

void brk_fatal(struct broker *broker, const char *what)
{
    sti_log(broker->host, STI_LOG_ERROR, "broker_fatal", what);
    abort();
}

/* ---- making topics ------------------------------------------------------------------------- */

static struct brk_topic *topic_make(struct broker *broker, const struct cat_topic *from)
{
    struct brk_topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL || (topic->name = strdup(from->name)) == NULL) {
        brk_fatal(broker, "out of memory while a committed topic is taken over");
    }
    atomic_init(&topic->refs, 1);
    topic->broker = broker;
    memcpy(topic->id, from->id, sizeof topic->id);
    topic->replication = from->replication;
    return topic;
}

/* Bring the partitions up to what the catalogue says. @return how many are new */
static int32_t topic_grow(struct brk_topic *topic, const struct cat_topic *from)
{
    struct broker *broker = topic->broker;
    struct brk_table_shard *shard = brk_shard_of(broker, topic->name);
    int32_t had = topic->partition_count, count = from->partition_count;
    struct set_values values;
    struct brk_partition **grown = calloc((size_t)count, sizeof(*grown));
    if (grown == NULL) {
        brk_fatal(broker, "out of memory while committed partitions are taken over");
    }
    set_resolve(&broker->conf->defaults, from->settings, from->setting_count, &values);
    for (int32_t i = 0; i < count; i++) {
        grown[i] = i < had ? topic->partitions[i]
                           : brk_partition_new(topic, i, from->partitions[i].leader_epoch, &values,
                                               i >= from->created);
        if (grown[i] == NULL) {
            brk_fatal(broker, "out of memory while committed partitions are taken over");
        }
    }
    pthread_rwlock_wrlock(&shard->lock);
    struct brk_partition **old = topic->partitions;
    topic->partitions = grown;
    topic->partition_count = count;
    pthread_rwlock_unlock(&shard->lock);
    free(old);
    return count - had;
}

static void topic_count(struct brk_topic *topic, uint32_t more)
{
    if (topic->under_way == 0) {
        sti_err_clear(&topic->first_failure);
    }
    topic->under_way += more;
    topic->broker->under_way += more;
}

/* @param urgent  somebody waits for it */
static void topic_open(struct brk_topic *topic, int32_t from, bool urgent)
{
    topic_count(topic, (uint32_t)(topic->partition_count - from));
    for (int32_t i = from; i < topic->partition_count; i++) {
        brk_partition_open(topic->partitions[i], urgent);
    }
}

static void topic_close(struct brk_topic *topic, bool remove)
{
    topic_count(topic, (uint32_t)topic->partition_count);
    for (int32_t i = 0; i < topic->partition_count; i++) {
        brk_partition_close(topic->partitions[i], remove);
    }
}

static void count_metrics(struct broker *broker)
{
    sti_metric_set(broker->metrics.topics, broker->catalog.topic_count);
    sti_metric_set(broker->metrics.partitions, broker->catalog.partition_count);
}

/* ---- the observer -------------------------------------------------------------------------- */

static void topic_take(struct broker *broker, const struct cat_topic *from, bool urgent)
{
    struct brk_topic *topic = topic_make(broker, from);
    (void)topic_grow(topic, from);
    brk_table_add(broker, topic);
    topic_open(topic, 0, urgent);
}

static void on_created(void *ctx, const struct cat_topic *from)
{
    struct broker *broker = ctx;
    brk_change_applied(broker, from);
    if (broker->booted) {
        topic_take(broker, from, true);
        count_metrics(broker);
    }
}

static void on_altered(void *ctx, const struct cat_topic *from)
{
    struct broker *broker = ctx;
    struct set_values values;
    brk_change_applied(broker, from);
    struct brk_topic *topic = broker->booted ? brk_topic_get(broker, from->name) : NULL;
    if (topic == NULL) {
        return;
    }
    int32_t had = topic->partition_count;
    set_resolve(&broker->conf->defaults, from->settings, from->setting_count, &values);
    for (int32_t i = 0; i < had; i++) {
        brk_partition_settings(topic->partitions[i], &values);
    }
    if (topic_grow(topic, from) > 0) {
        topic_open(topic, had, true);
    }
    count_metrics(broker);
    brk_topic_unref(topic);
}

static void on_deleted(void *ctx, const struct cat_topic *from)
{
    struct broker *broker = ctx;
    if (!broker->booted) {
        return;
    }
    struct brk_topic *topic = brk_topic_get(broker, from->name);
    if (topic != NULL) {
        topic->deleted = true;
        sti_err_clear(&topic->first_failure);
        brk_table_remove(broker, topic);
        topic_close(topic, true);
        brk_topic_unref(topic); /* ours */
        brk_topic_unref(topic); /* the table's; the partitions hold theirs until they are closed */
    }
    count_metrics(broker);
}

const struct cat_observer brk_observer = {
    .created = on_created, .altered = on_altered, .deleted = on_deleted};

/* A deletion that was committed before the last stop but not finished. */
static void purge_again(struct broker *broker, const struct cat_topic *from)
{
    struct brk_topic *topic = topic_make(broker, from);
    (void)topic_grow(topic, from);
    topic->deleted = true;
    for (int32_t i = 0; i < topic->partition_count; i++) {
        brk_partition_adopt(topic->partitions[i]);
    }
    topic_close(topic, true);
    brk_topic_unref(topic);
}

/* ---- the state machine of the metadata plugin ---------------------------------------------- */

static int fsm_apply(void *ctx, uint64_t index, const void *command, size_t len,
                     struct sti_err *err)
{
    struct broker *broker = ctx;
    (void)index;
    pthread_mutex_lock(&broker->admin_mu);
    int rc = cat_apply(&broker->catalog, command, len, err);
    pthread_mutex_unlock(&broker->admin_mu);
    return rc;
}

static int fsm_snapshot(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err)
{
    struct broker *broker = ctx;
    pthread_mutex_lock(&broker->admin_mu);
    int rc = cat_snapshot(&broker->catalog, sink, err);
    pthread_mutex_unlock(&broker->admin_mu);
    return rc;
}

static int fsm_restore(void *ctx, uint64_t index, const void *data, size_t len, struct sti_err *err)
{
    struct broker *broker = ctx;
    (void)index;
    pthread_mutex_lock(&broker->admin_mu);
    int rc = cat_restore(&broker->catalog, data, len, err);
    pthread_mutex_unlock(&broker->admin_mu);
    return rc;
}

static void fsm_leadership(void *ctx, bool leader, uint64_t term)
{
    struct broker *broker = ctx;
    sti_log(broker->host, STI_LOG_INFO, "metadata_leadership",
            leader ? "this node leads the metadata" : "this node no longer leads the metadata",
            STI_F_UINT("term", term));
}

const struct sti_metadata_fsm brk_fsm = {.struct_size = sizeof(struct sti_metadata_fsm),
                                         .apply = fsm_apply,
                                         .snapshot = fsm_snapshot,
                                         .restore = fsm_restore,
                                         .leadership = fsm_leadership};

/* ---- settling ------------------------------------------------------------------------------ */

void brk_topic_settled(struct brk_partition *part, bool closed, int status,
                       const struct sti_err *err)
{
    struct broker *broker = part->broker;
    struct brk_topic *topic = part->owner;
    pthread_mutex_lock(&broker->admin_mu);
    /* Of a topic that is being deleted only the closes matter. */
    if (status != STI_OK && closed == topic->deleted && topic->first_failure.code == STI_OK) {
        topic->first_failure = *err;
        topic->first_failure.code = status;
    }
    bool last = --topic->under_way == 0;
    struct brk_change *waiting = last ? topic->waiting : NULL;
    struct sti_err failure = topic->first_failure;
    int32_t count = topic->partition_count;
    bool deleted = topic->deleted;
    int64_t created = -1;
    if (last) {
        struct cat_topic *cat = cat_find_id(&broker->catalog, topic->id);
        topic->waiting = NULL;
        created = cat == NULL ? -1 : cat->created;
    }
    pthread_mutex_unlock(&broker->admin_mu);
    brk_offline_report(broker);
    if (last && closed == deleted && atomic_load(&broker->state) != BRK_STOPPED) {
        bool mark = failure.code == STI_OK && created >= 0 && (deleted || created < count);
        brk_change_settled(topic, waiting, mark, deleted, count, &failure);
    } else if (last) {
        brk_change_settled(topic, waiting, false, closed && deleted, count, &failure);
    }
    if (closed) {
        part->owner = NULL;
        brk_topic_unref(topic);
    }
    brk_under_way_end(broker);
}

void brk_under_way_end(struct broker *broker)
{
    pthread_mutex_lock(&broker->admin_mu);
    broker->under_way--;
    pthread_cond_broadcast(&broker->settled_cond);
    pthread_mutex_unlock(&broker->admin_mu);
}

/* ---- all topics at once -------------------------------------------------------------------- */

void brk_boot(struct broker *broker)
{
    pthread_mutex_lock(&broker->admin_mu);
    broker->booted = true;
    brk_opening_hold(broker);
    for (struct cat_topic *cat = broker->catalog.topics; cat != NULL; cat = cat->next) {
        if (cat->deleted) {
            purge_again(broker, cat);
        } else {
            topic_take(broker, cat, false);
        }
    }
    count_metrics(broker);
    pthread_mutex_unlock(&broker->admin_mu);
    brk_opening_release(broker);
}

void brk_drain_all(struct broker *broker)
{
    struct brk_topic **topics = NULL;
    int64_t count = brk_table_all(broker, &topics);
    for (int64_t i = 0; i < count; i++) {
        struct brk_partition *part;
        for (int32_t p = 0; (part = brk_partition_at(topics[i], p)) != NULL; p++) {
            brk_partition_drain(part);
            brk_partition_unref(part);
        }
        brk_topic_unref(topics[i]);
    }
    free(topics);
}

bool brk_close_all(struct broker *broker, uint32_t deadline_ms)
{
    struct brk_topic **topics = NULL;
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(deadline_ms / 1000);
    until.tv_nsec += (long)(deadline_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&broker->admin_mu);
    int64_t count = brk_table_all(broker, &topics);
    for (int64_t i = 0; i < count; i++) {
        topic_close(topics[i], false);
    }
    while (broker->under_way > 0 && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&broker->settled_cond, &broker->admin_mu, &until);
    }
    bool all = broker->under_way == 0;
    pthread_mutex_unlock(&broker->admin_mu);
    for (int64_t i = 0; i < count; i++) {
        brk_topic_unref(topics[i]);
    }
    free(topics);
    return all;
}
