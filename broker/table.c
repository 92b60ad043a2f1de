/* table.c -- topics by name, in shards, so that looking one up takes no lock that all calls share.
 *
 * A lookup holds its shard's lock for reading while it finds the partition and counts a reference;
 * changes hold it for writing while pointers move. Nothing else happens under it.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

int brk_table_init(struct broker *broker)
{
    for (int i = 0; i < BRK_SHARDS; i++) {
        pthread_rwlock_init(&broker->table[i].lock, NULL);
        pthread_mutex_init(&broker->parked[i].mu, NULL);
    }
    return STI_OK;
}

void brk_table_fini(struct broker *broker)
{
    for (int i = 0; i < BRK_SHARDS; i++) {
        struct brk_table_shard *shard = &broker->table[i];
        while (shard->topics != NULL) {
            struct brk_topic *topic = shard->topics;
            shard->topics = topic->next;
            brk_topic_unref(topic);
        }
        pthread_rwlock_destroy(&shard->lock);
        pthread_mutex_destroy(&broker->parked[i].mu);
    }
}

struct brk_table_shard *brk_shard_of(struct broker *broker, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    }
    return &broker->table[hash % BRK_SHARDS];
}

/* @locks shard lock held */
static struct brk_topic *shard_find(struct brk_table_shard *shard, const char *name)
{
    struct brk_topic *topic = shard->topics;
    while (topic != NULL && strcmp(topic->name, name) != 0) {
        topic = topic->next;
    }
    return topic;
}

int brk_lookup(struct broker *broker, const char *name, const uint8_t topic_id[16],
               int32_t partition, struct brk_partition **out, struct sti_err *err)
{
    struct brk_table_shard *shard = brk_shard_of(broker, name);
    int32_t count = -1;
    *out = NULL;
    pthread_rwlock_rdlock(&shard->lock);
    struct brk_topic *topic = shard_find(shard, name);
    if (topic != NULL && (brk_id_is_zero(topic_id) || memcmp(topic->id, topic_id, 16) == 0)) {
        count = topic->partition_count;
        if (partition >= 0 && partition < count) {
            *out = topic->partitions[partition];
            brk_partition_ref(*out);
        }
    }
    pthread_rwlock_unlock(&shard->lock);
    if (*out != NULL) {
        return STI_OK;
    }
    if (count < 0) {
        return sti_err_set(err, STI_E_UNKNOWN_TOPIC,
                           topic == NULL
                               ? "topic %s does not exist"
                               : "topic %s has another id: it was deleted and created anew",
                           name);
    }
    return sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                       "topic %s has %d partitions, not a partition %d", name, count, partition);
}

struct brk_topic *brk_topic_get(struct broker *broker, const char *name)
{
    struct brk_table_shard *shard = brk_shard_of(broker, name);
    pthread_rwlock_rdlock(&shard->lock);
    struct brk_topic *topic = shard_find(shard, name);
    if (topic != NULL) {
        atomic_fetch_add_explicit(&topic->refs, 1, memory_order_relaxed);
    }
    pthread_rwlock_unlock(&shard->lock);
    return topic;
}

struct brk_partition *brk_partition_at(struct brk_topic *topic, int32_t i)
{
    struct brk_table_shard *shard = brk_shard_of(topic->broker, topic->name);
    struct brk_partition *part = NULL;
    pthread_rwlock_rdlock(&shard->lock);
    if (i < topic->partition_count) {
        part = topic->partitions[i];
        brk_partition_ref(part);
    }
    pthread_rwlock_unlock(&shard->lock);
    return part;
}

void brk_topic_unref(struct brk_topic *topic)
{
    if (topic != NULL && atomic_fetch_sub_explicit(&topic->refs, 1, memory_order_acq_rel) == 1) {
        for (int32_t i = 0; i < topic->partition_count; i++) {
            brk_partition_unref(topic->partitions[i]);
        }
        free(topic->partitions);
        free(topic->name);
        free(topic);
    }
}

void brk_table_add(struct broker *broker, struct brk_topic *topic)
{
    struct brk_table_shard *shard = brk_shard_of(broker, topic->name);
    pthread_mutex_lock(&broker->topic_series.mu);
    brk_metrics_topic(broker, topic, true);
    pthread_rwlock_wrlock(&shard->lock);
    topic->next = shard->topics;
    shard->topics = topic;
    pthread_rwlock_unlock(&shard->lock);
    pthread_mutex_unlock(&broker->topic_series.mu);
}

void brk_table_remove(struct broker *broker, struct brk_topic *topic)
{
    struct brk_table_shard *shard = brk_shard_of(broker, topic->name);
    pthread_mutex_lock(&broker->topic_series.mu);
    brk_metrics_topic(broker, topic, false);
    pthread_rwlock_wrlock(&shard->lock);
    for (struct brk_topic **at = &shard->topics; *at != NULL; at = &(*at)->next) {
        if (*at == topic) {
            *at = topic->next;
            break;
        }
    }
    pthread_rwlock_unlock(&shard->lock);
    pthread_mutex_unlock(&broker->topic_series.mu);
}

static int by_name(const void *a, const void *b)
{
    const struct brk_topic *left = *(struct brk_topic *const *)a;
    const struct brk_topic *right = *(struct brk_topic *const *)b;
    return strcmp(left->name, right->name);
}

int64_t brk_table_all(struct broker *broker, struct brk_topic ***out)
{
    size_t count = 0, capacity = 0;
    struct brk_topic **all = NULL;
    for (int i = 0; i < BRK_SHARDS; i++) {
        struct brk_table_shard *shard = &broker->table[i];
        pthread_rwlock_rdlock(&shard->lock);
        for (struct brk_topic *topic = shard->topics; topic != NULL; topic = topic->next) {
            if (count == capacity) {
                size_t grown = capacity == 0 ? 64 : capacity * 2;
                struct brk_topic **more = realloc(all, grown * sizeof(*all));
                if (more == NULL) {
                    break; /* what was collected is given back below */
                }
                all = more;
                capacity = grown;
            }
            atomic_fetch_add_explicit(&topic->refs, 1, memory_order_relaxed);
            all[count++] = topic;
        }
        pthread_rwlock_unlock(&shard->lock);
    }
    if (all != NULL) {
        qsort(all, count, sizeof(*all), by_name);
    }
    *out = all;
    return (int64_t)count;
}
