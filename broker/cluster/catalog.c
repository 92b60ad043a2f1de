/* catalog.c -- see catalog.h. */
#include "catalog.h"

#include <stdlib.h>
#include <string.h>

#include "streamit/internal/cluster.pb-c.h"

void cat_init(struct catalog *cat, const struct cat_observer *observer, void *observer_ctx)
{
    memset(cat, 0, sizeof *cat);
    cat->observer = observer;
    cat->observer_ctx = observer_ctx;
}

static void settings_free(struct cat_setting *settings, uint32_t count)
{
    for (uint32_t i = 0; settings != NULL && i < count; i++) {
        free(settings[i].key);
        free(settings[i].value);
    }
    free(settings);
}

static void topic_free(struct cat_topic *topic)
{
    if (topic == NULL) {
        return;
    }
    for (int32_t i = 0; topic->partitions != NULL && i < topic->partition_count; i++) {
        free(topic->partitions[i].replicas);
    }
    settings_free(topic->settings, topic->setting_count);
    free(topic->partitions);
    free(topic->name);
    free(topic);
}

void cat_fini(struct catalog *cat)
{
    while (cat->topics != NULL) {
        struct cat_topic *topic = cat->topics;
        cat->topics = topic->next;
        topic_free(topic);
    }
    memset(cat->by_name, 0, sizeof cat->by_name);
    memset(cat->by_id, 0, sizeof cat->by_id);
    cat->topic_count = 0;
    cat->partition_count = 0;
}

static uint32_t name_bucket(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    }
    return (hash ^ hash >> 16) % CAT_BUCKETS;
}

/* Ids are random but for the bits that say so, which are not among these. */
static uint32_t id_bucket(const uint8_t id[16])
{
    return ((uint32_t)id[0] << 8 | id[1]) % CAT_BUCKETS;
}

struct cat_topic *cat_find(struct catalog *cat, const char *name)
{
    struct cat_topic *topic = cat->by_name[name_bucket(name)];
    while (topic != NULL && strcmp(topic->name, name) != 0) {
        topic = topic->name_next;
    }
    return topic;
}

struct cat_topic *cat_find_id(struct catalog *cat, const uint8_t id[16])
{
    struct cat_topic *topic = cat->by_id[id_bucket(id)];
    while (topic != NULL && memcmp(topic->id, id, sizeof topic->id) != 0) {
        topic = topic->id_next;
    }
    return topic;
}

static int no_memory(struct sti_err *err)
{
    return sti_err_set(err, STI_E_NO_MEMORY, "cluster state: out of memory");
}

/* ---- building blocks ----------------------------------------------------------------------- */

/* Set, or with `value` NULL drop, one override. */
static int setting_put(struct cat_topic *topic, const char *key, const char *value)
{
    uint32_t i = 0;
    while (i < topic->setting_count && strcmp(topic->settings[i].key, key) != 0) {
        i++;
    }
    if (value == NULL) {
        if (i < topic->setting_count) {
            free(topic->settings[i].key);
            free(topic->settings[i].value);
            topic->settings[i] = topic->settings[--topic->setting_count];
        }
        return STI_OK;
    }
    char *copy = strdup(value);
    if (copy != NULL && i < topic->setting_count) {
        free(topic->settings[i].value);
        topic->settings[i].value = copy;
        return STI_OK;
    }
    char *key_copy = strdup(key);
    struct cat_setting *grown =
        copy == NULL || key_copy == NULL
            ? NULL
            : realloc(topic->settings, (topic->setting_count + 1u) * sizeof *grown);
    if (grown == NULL) {
        free(copy);
        free(key_copy);
        return STI_E_NO_MEMORY;
    }
    topic->settings = grown;
    grown[topic->setting_count++] = (struct cat_setting){.key = key_copy, .value = copy};
    return STI_OK;
}

/* Append partitions whose replicas stand one after another in `replicas`; all or nothing. */
static int partitions_add(struct cat_topic *topic, int32_t count, const int32_t *replicas)
{
    size_t per = (size_t)topic->replication;
    struct cat_partition *grown =
        realloc(topic->partitions, (size_t)(topic->partition_count + count) * sizeof *grown);
    if (grown == NULL) {
        return STI_E_NO_MEMORY;
    }
    topic->partitions = grown;
    for (int32_t i = 0; i < count; i++) {
        struct cat_partition *part = &grown[topic->partition_count + i];
        part->replicas = malloc(per * sizeof *part->replicas);
        if (part->replicas == NULL) {
            while (i-- > 0) {
                free(grown[topic->partition_count + i].replicas);
            }
            return STI_E_NO_MEMORY;
        }
        memcpy(part->replicas, replicas + (size_t)i * per, per * sizeof *part->replicas);
        part->leader = part->replicas[0];
        part->leader_epoch = 0;
    }
    topic->partition_count += count;
    return STI_OK;
}

static struct cat_topic *topic_new(const char *name, const ProtobufCBinaryData *id,
                                   int32_t replication)
{
    struct cat_topic *topic = calloc(1, sizeof *topic);
    if (topic != NULL) {
        topic->name = strdup(name);
        memcpy(topic->id, id->data, sizeof topic->id);
        topic->replication = replication;
        if (topic->name == NULL) {
            topic_free(topic);
            topic = NULL;
        }
    }
    return topic;
}

static void topic_link(struct catalog *cat, struct cat_topic *topic)
{
    struct cat_topic **name = &cat->by_name[name_bucket(topic->name)];
    struct cat_topic **id = &cat->by_id[id_bucket(topic->id)];
    topic->name_next = *name;
    *name = topic;
    topic->id_next = *id;
    *id = topic;
    topic->next = cat->topics;
    if (topic->next != NULL) {
        topic->next->prev = topic;
    }
    cat->topics = topic;
    if (!topic->deleted) {
        cat->topic_count++;
        cat->partition_count += (uint32_t)topic->partition_count;
    }
}

/* Of one that is deleted. */
static void topic_unlink(struct catalog *cat, struct cat_topic *topic)
{
    struct cat_topic **name = &cat->by_name[name_bucket(topic->name)];
    struct cat_topic **id = &cat->by_id[id_bucket(topic->id)];
    while (*name != topic) {
        name = &(*name)->name_next;
    }
    *name = topic->name_next;
    while (*id != topic) {
        id = &(*id)->id_next;
    }
    *id = topic->id_next;
    *(topic->prev == NULL ? &cat->topics : &topic->prev->next) = topic->next;
    if (topic->next != NULL) {
        topic->next->prev = topic->prev;
    }
}

/* ---- commands ------------------------------------------------------------------------------ */

static int apply_create(struct catalog *cat, const Streamit__Internal__CreateTopic *c,
                        struct sti_err *err)
{
    struct cat_topic *other = cat_find(cat, c->name);
    if (c->topic_id.len != 16 || c->partitions < 1 || c->replication < 1 ||
        c->n_replicas != (size_t)c->partitions * (size_t)c->replication) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "topic %s: malformed creation", c->name);
    }
    if (other != NULL && memcmp(other->id, c->topic_id.data, 16) == 0) {
        return STI_OK; /* this very command was applied before */
    }
    if (other != NULL) {
        return other->deleted
                   ? sti_err_set(err, STI_E_UNAVAILABLE,
                                 "topic %s: its predecessor is still being deleted", c->name)
                   : sti_err_set(err, STI_E_ALREADY_EXISTS, "topic %s exists already", c->name);
    }
    struct cat_topic *topic = topic_new(c->name, &c->topic_id, c->replication);
    int rc = topic == NULL ? STI_E_NO_MEMORY : partitions_add(topic, c->partitions, c->replicas);
    for (size_t i = 0; rc == STI_OK && i < c->n_settings; i++) {
        rc = setting_put(topic, c->settings[i]->key, c->settings[i]->value);
    }
    if (rc != STI_OK) {
        topic_free(topic);
        return no_memory(err);
    }
    topic_link(cat, topic);
    cat->observer->created(cat->observer_ctx, topic);
    return STI_OK;
}

/* The live topic with an id. */
static struct cat_topic *find_live(struct catalog *cat, const ProtobufCBinaryData *id)
{
    struct cat_topic *topic = id->len == 16 ? cat_find_id(cat, id->data) : NULL;
    return topic != NULL && !topic->deleted ? topic : NULL;
}

static int unknown_topic(struct sti_err *err)
{
    return sti_err_set(err, STI_E_UNKNOWN_TOPIC, "the topic has been deleted meanwhile");
}

static int apply_alter(struct catalog *cat, const Streamit__Internal__AlterTopic *c,
                       struct sti_err *err)
{
    struct cat_topic *topic = find_live(cat, &c->topic_id);
    if (topic == NULL) {
        return unknown_topic(err);
    }
    bool fewer = c->partitions != 0 && c->partitions < topic->partition_count;
    int32_t more = c->partitions == 0 || fewer ? 0 : c->partitions - topic->partition_count;
    if (fewer) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "topic %s has %d partitions, which cannot become %d: partitions are "
                           "only added",
                           topic->name, topic->partition_count, c->partitions);
    }
    if (c->n_replicas != (size_t)more * (size_t)topic->replication) {
        return sti_err_set(err, STI_E_PRECONDITION,
                           "topic %s was altered by somebody else; try again", topic->name);
    }
    int rc = more == 0 ? STI_OK : partitions_add(topic, more, c->replicas);
    if (rc == STI_OK) {
        cat->partition_count += (uint32_t)more;
    }
    for (size_t i = 0; rc == STI_OK && i < c->n_settings; i++) {
        rc = setting_put(topic, c->settings[i]->key,
                         c->settings[i]->reset ? NULL : c->settings[i]->value);
    }
    cat->observer->altered(cat->observer_ctx, topic);
    return rc == STI_OK ? STI_OK : no_memory(err);
}

static int apply_created(struct catalog *cat, const Streamit__Internal__TopicCreated *c,
                         struct sti_err *err)
{
    struct cat_topic *topic = find_live(cat, &c->topic_id);
    if (topic == NULL) {
        return unknown_topic(err);
    }
    if (c->partitions > topic->created && c->partitions <= topic->partition_count) {
        topic->created = c->partitions;
    }
    return STI_OK;
}

static int apply_delete(struct catalog *cat, const Streamit__Internal__DeleteTopic *c,
                        struct sti_err *err)
{
    struct cat_topic *topic = find_live(cat, &c->topic_id);
    if (topic == NULL) {
        return unknown_topic(err);
    }
    topic->deleted = true;
    cat->topic_count--;
    cat->partition_count -= (uint32_t)topic->partition_count;
    cat->observer->deleted(cat->observer_ctx, topic);
    return STI_OK;
}

static int apply_purged(struct catalog *cat, const Streamit__Internal__TopicPurged *c)
{
    struct cat_topic *topic = c->topic_id.len == 16 ? cat_find_id(cat, c->topic_id.data) : NULL;
    if (topic != NULL && topic->deleted) {
        topic_unlink(cat, topic);
        topic_free(topic);
    }
    return STI_OK;
}

static int apply_raise(struct catalog *cat, const Streamit__Internal__RaiseEpochs *c)
{
    for (size_t i = 0; i < c->n_topic_ids; i++) {
        struct cat_topic *topic = find_live(cat, &c->topic_ids[i]);
        bool raised = false;
        for (int32_t k = 0; topic != NULL && k < topic->partition_count; k++) {
            struct cat_partition *part = &topic->partitions[k];
            if (part->leader == c->leader && part->leader_epoch < INT32_MAX) {
                part->leader_epoch++;
                raised = true;
            }
        }
        if (raised) {
            cat->observer->altered(cat->observer_ctx, topic);
        }
    }
    return STI_OK;
}

int cat_apply(struct catalog *cat, const void *command, size_t len, struct sti_err *err)
{
    int rc;
    Streamit__Internal__Command *c = streamit__internal__command__unpack(NULL, len, command);
    if (c == NULL) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a cluster command of %zu bytes cannot be decoded",
                           len);
    }
    if (c->version != CAT_VERSION) {
        rc = sti_err_set(err, STI_E_UNSUPPORTED,
                         "cluster command version %u, this broker knows %u: upgrade StreamIt",
                         c->version, CAT_VERSION);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_CREATE_TOPIC) {
        rc = apply_create(cat, c->create_topic, err);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_TOPIC_CREATED) {
        rc = apply_created(cat, c->topic_created, err);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_ALTER_TOPIC) {
        rc = apply_alter(cat, c->alter_topic, err);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_DELETE_TOPIC) {
        rc = apply_delete(cat, c->delete_topic, err);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_TOPIC_PURGED) {
        rc = apply_purged(cat, c->topic_purged);
    } else if (c->command_case == STREAMIT__INTERNAL__COMMAND__COMMAND_RAISE_EPOCHS) {
        rc = apply_raise(cat, c->raise_epochs);
    } else {
        rc = sti_err_set(err, STI_E_UNSUPPORTED,
                         "a cluster command of a kind that this broker does not know: upgrade "
                         "StreamIt");
    }
    streamit__internal__command__free_unpacked(c, NULL);
    return rc;
}

/* ---- snapshots ----------------------------------------------------------------------------- */

static Streamit__Internal__Topic *topic_message(const struct cat_topic *topic)
{
    Streamit__Internal__Topic *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return NULL;
    }
    streamit__internal__topic__init(m);
    m->name = strdup(topic->name);
    m->topic_id.data = malloc(16);
    m->settings = calloc(topic->setting_count + 1u, sizeof(void *));
    m->partitions = calloc((size_t)topic->partition_count + 1u, sizeof(void *));
    bool ok =
        m->name != NULL && m->topic_id.data != NULL && m->settings != NULL && m->partitions != NULL;
    if (m->topic_id.data != NULL) {
        m->topic_id.len = 16;
        memcpy(m->topic_id.data, topic->id, 16);
    }
    for (uint32_t i = 0; ok && i < topic->setting_count; i++) {
        Streamit__Internal__Setting *s = calloc(1, sizeof *s);
        if ((ok = s != NULL)) {
            streamit__internal__setting__init(s);
            s->key = strdup(topic->settings[i].key);
            s->value = strdup(topic->settings[i].value);
            m->settings[m->n_settings++] = s;
            ok = s->key != NULL && s->value != NULL;
        }
    }
    size_t per = (size_t)topic->replication;
    for (int32_t i = 0; ok && i < topic->partition_count; i++) {
        Streamit__Internal__Partition *p = calloc(1, sizeof *p);
        if ((ok = p != NULL)) {
            streamit__internal__partition__init(p);
            m->partitions[m->n_partitions++] = p;
            p->leader = topic->partitions[i].leader;
            p->leader_epoch = topic->partitions[i].leader_epoch;
            p->replicas = malloc(per * sizeof *p->replicas);
            if ((ok = p->replicas != NULL)) {
                p->n_replicas = per;
                memcpy(p->replicas, topic->partitions[i].replicas, per * sizeof *p->replicas);
            }
        }
    }
    m->replication = topic->replication;
    m->created = topic->created;
    m->deleted = topic->deleted;
    if (!ok) {
        streamit__internal__topic__free_unpacked(m, NULL);
        m = NULL;
    }
    return m;
}

int cat_snapshot(const struct catalog *cat, const struct sti_metadata_sink *sink,
                 struct sti_err *err)
{
    size_t count = 0;
    uint8_t *data = NULL;
    int rc = STI_OK;
    for (const struct cat_topic *t = cat->topics; t != NULL; t = t->next) {
        count++;
    }
    Streamit__Internal__Snapshot *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return no_memory(err);
    }
    streamit__internal__snapshot__init(m);
    m->version = CAT_VERSION;
    m->topics = calloc(count + 1u, sizeof(void *));
    for (const struct cat_topic *t = cat->topics; m->topics != NULL && t != NULL; t = t->next) {
        Streamit__Internal__Topic *topic = topic_message(t);
        if (topic == NULL) {
            break;
        }
        m->topics[m->n_topics++] = topic;
    }
    size_t len = streamit__internal__snapshot__get_packed_size(m);
    if (m->topics == NULL || m->n_topics != count || (data = malloc(len)) == NULL) {
        rc = no_memory(err);
    } else {
        (void)streamit__internal__snapshot__pack(m, data);
        rc = sink->write(sink->ctx, data, len, err);
    }
    free(data);
    streamit__internal__snapshot__free_unpacked(m, NULL);
    return rc;
}

static struct cat_topic *topic_restored(const Streamit__Internal__Topic *m)
{
    if (m->topic_id.len != 16 || m->replication < 1 || m->n_partitions == 0 || m->created < 0 ||
        (size_t)m->created > m->n_partitions) {
        return NULL;
    }
    struct cat_topic *topic = topic_new(m->name, &m->topic_id, m->replication);
    int rc = topic == NULL ? STI_E_NO_MEMORY : STI_OK;
    for (size_t i = 0; rc == STI_OK && i < m->n_partitions; i++) {
        const Streamit__Internal__Partition *p = m->partitions[i];
        rc = p->n_replicas == (size_t)m->replication ? partitions_add(topic, 1, p->replicas)
                                                     : STI_E_DATA_LOSS;
        if (rc == STI_OK) {
            topic->partitions[i].leader = p->leader;
            topic->partitions[i].leader_epoch = p->leader_epoch;
        }
    }
    for (size_t i = 0; rc == STI_OK && i < m->n_settings; i++) {
        rc = setting_put(topic, m->settings[i]->key, m->settings[i]->value);
    }
    if (rc != STI_OK) {
        topic_free(topic);
        return NULL;
    }
    topic->created = m->created;
    topic->deleted = m->deleted;
    return topic;
}

int cat_restore(struct catalog *cat, const void *data, size_t len, struct sti_err *err)
{
    int rc = STI_OK;
    cat_fini(cat);
    Streamit__Internal__Snapshot *m = streamit__internal__snapshot__unpack(NULL, len, data);
    if (m == NULL) {
        return sti_err_set(err, STI_E_DATA_LOSS,
                           "a cluster snapshot of %zu bytes cannot be decoded", len);
    }
    if (m->version != CAT_VERSION) {
        rc = sti_err_set(err, STI_E_UNSUPPORTED,
                         "cluster snapshot version %u, this broker knows %u: upgrade StreamIt",
                         m->version, CAT_VERSION);
    }
    for (size_t i = 0; rc == STI_OK && i < m->n_topics; i++) {
        struct cat_topic *topic = topic_restored(m->topics[i]);
        if (topic == NULL) {
            rc = sti_err_set(err, STI_E_DATA_LOSS, "topic %s of a cluster snapshot is malformed",
                             m->topics[i]->name);
            cat_fini(cat);
        } else {
            topic_link(cat, topic);
            if (topic->deleted) {
                cat->observer->deleted(cat->observer_ctx, topic);
            } else {
                cat->observer->created(cat->observer_ctx, topic);
            }
        }
    }
    streamit__internal__snapshot__free_unpacked(m, NULL);
    return rc;
}
