/* topics.c -- ListOffsets and everything about topics: requests that are small and rare. */
#include <string.h>

#include "status_map.h"
#include "transport.h"

/* ---- list offsets ---- */

struct list_offsets {
    struct sti_list_offsets call;
    struct sti_list_offsets_row **row_pointers;
};

static void on_offsets(struct sti_list_offsets *call)
{
    struct tgr_rpc *rpc = call->user;
    Streamit__V1__ListOffsetsResponse response = STREAMIT__V1__LIST_OFFSETS_RESPONSE__INIT;
    Streamit__V1__ListOffsetsResult *results =
        tgr_arena_alloc(&rpc->arena, call->row_count, sizeof *results);
    response.partitions = (Streamit__V1__ListOffsetsResult **)tgr_arena_alloc(
        &rpc->arena, call->row_count, sizeof(void *));
    bool complete = results != NULL && response.partitions != NULL;
    for (uint32_t i = 0; complete && i < call->row_count; i++) {
        const struct sti_list_offsets_row *row = call->rows[i];
        streamit__v1__list_offsets_result__init(&results[i]);
        results[i].topic = (char *)row->topic;
        results[i].partition = row->partition;
        results[i].offset = row->offset;
        results[i].found_ms = row->found_ms;
        results[i].leader_epoch = row->leader_epoch;
        if (row->status != STI_OK) {
            results[i].error = tgr_error_new(&rpc->arena, row->status, &row->err);
            complete = results[i].error != NULL;
            tgr_error_retry(results[i].error, row->retry_after_ms);
        }
        response.partitions[i] = &results[i];
    }
    response.n_partitions = call->row_count;
    if (complete) {
        tgr_rpc_reply(rpc, &response.base);
    } else {
        tgr_rpc_no_memory(rpc);
    }
    tgr_rpc_unref(rpc);
}

static int offsets_new(struct tgr_rpc *rpc, const Streamit__V1__ListOffsetsRequest *request,
                       struct list_offsets **out, struct sti_err *err)
{
    size_t count = request->n_partitions;
    if (count == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ListOffsetsRequest: it names no partition");
    }
    if (count > (size_t)rpc->t->conf->partitions_per_call_max) {
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "ListOffsetsRequest: %zu partitions, at most %lld in one call", count,
                           (long long)rpc->t->conf->partitions_per_call_max);
    }
    struct list_offsets *list = tgr_arena_alloc(&rpc->arena, 1, sizeof *list);
    struct sti_list_offsets_row *rows = tgr_arena_alloc(&rpc->arena, count, sizeof *rows);
    struct sti_list_offsets_row **pointers =
        (struct sti_list_offsets_row **)tgr_arena_alloc(&rpc->arena, count, sizeof(void *));
    if (list == NULL || rows == NULL || pointers == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request of %zu partitions",
                           count);
    }
    for (size_t i = 0; i < count; i++) {
        const Streamit__V1__ListOffsetsPartition *from = request->partitions[i];
        if (from->topic_id.len != 0 && from->topic_id.len != sizeof rows[i].topic_id) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "ListOffsetsPartition.topic_id: %zu bytes, expected 16",
                               from->topic_id.len);
        }
        rows[i] = (struct sti_list_offsets_row){.struct_size = sizeof rows[i],
                                                .partition = from->partition,
                                                .topic = from->topic,
                                                .timestamp_ms = from->timestamp_ms,
                                                .offset = -1,
                                                .found_ms = -1};
        if (from->topic_id.len != 0) {
            memcpy(rows[i].topic_id, from->topic_id.data, sizeof rows[i].topic_id);
        }
        pointers[i] = &rows[i];
    }
    list->row_pointers = pointers;
    list->call = (struct sti_list_offsets){.struct_size = sizeof list->call,
                                           .row_count = (uint32_t)count,
                                           .request = &rpc->request,
                                           .rows = pointers,
                                           .done = on_offsets,
                                           .user = rpc};
    *out = list;
    return STI_OK;
}

void tgr_list_offsets_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct list_offsets *list = NULL;
    struct sti_err err;
    Streamit__V1__ListOffsetsRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__list_offsets_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    sti_err_clear(&err);
    int rc = offsets_new(rpc, request, &list, &err);
    if (rc == STI_OK) {
        rc = tgr_broker(t)->list_offsets(t->broker.self, &list->call, &err);
    }
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
        tgr_rpc_unref(rpc);
    }
}

/* ---- create, alter, delete ---- */

typedef int (*change_fn)(void *self, struct sti_topic_change *call, struct sti_err *err);

static struct sti_topic_change *change_new(struct tgr_rpc *rpc, const char *name,
                                           uint32_t timeout_ms, bool validate_only,
                                           void (*done)(struct sti_topic_change *call))
{
    struct sti_topic_change *change = tgr_arena_alloc(&rpc->arena, 1, sizeof *change);
    if (change != NULL) {
        *change = (struct sti_topic_change){.struct_size = sizeof *change,
                                            .partitions = -1,
                                            .replication = -1,
                                            .flags = validate_only ? STI_TOPIC_VALIDATE_ONLY : 0,
                                            .request = &rpc->request,
                                            .name = name,
                                            .timeout_ms = timeout_ms,
                                            .done = done,
                                            .user = rpc};
    }
    return change;
}

static bool config_fill(struct tgr_rpc *rpc, struct sti_topic_change *change, size_t count,
                        Streamit__V1__ConfigEntry *const *entries)
{
    struct sti_config_entry *config = tgr_arena_alloc(&rpc->arena, count, sizeof *config);
    const struct sti_config_entry **pointers =
        (const struct sti_config_entry **)tgr_arena_alloc(&rpc->arena, count, sizeof(void *));
    if (config == NULL || pointers == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        config[i].key = entries[i]->key;
        config[i].value = entries[i]->reset ? NULL : entries[i]->value;
        pointers[i] = &config[i];
    }
    change->config = pointers;
    change->config_count = (uint32_t)count;
    return true;
}

static void change_begin(struct tgr_rpc *rpc, struct sti_topic_change *change, change_fn fn)
{
    struct sti_err err;
    sti_err_clear(&err);
    int rc = fn(rpc->t->broker.self, change, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
        tgr_rpc_unref(rpc);
    }
}

/* Answer a change that failed. @return whether it did */
static bool change_failed(struct tgr_rpc *rpc, const struct sti_topic_change *change)
{
    if (change->status == STI_OK) {
        return false;
    }
    rpc->retry_after_ms = change->retry_after_ms;
    tgr_rpc_finish(rpc, NULL, change->status, &change->err);
    return true;
}

static void on_created(struct sti_topic_change *change)
{
    struct tgr_rpc *rpc = change->user;
    if (!change_failed(rpc, change)) {
        Streamit__V1__CreateTopicResponse response = STREAMIT__V1__CREATE_TOPIC_RESPONSE__INIT;
        response.topic_id.data = change->topic_id;
        response.topic_id.len = sizeof change->topic_id;
        response.partitions = change->partition_count;
        response.replication = change->replication_factor;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

void tgr_create_topic_handle(struct tgr_rpc *rpc)
{
    Streamit__V1__CreateTopicRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__create_topic_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    struct sti_topic_change *change =
        change_new(rpc, request->name, request->timeout_ms, request->validate_only, on_created);
    if (change == NULL || !config_fill(rpc, change, request->n_config, request->config)) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    change->partitions = request->partitions == 0 ? -1 : request->partitions;
    change->replication = request->replication == 0 ? -1 : request->replication;
    change_begin(rpc, change, tgr_broker(rpc->t)->create_topic);
}

static void on_altered(struct sti_topic_change *change)
{
    struct tgr_rpc *rpc = change->user;
    if (!change_failed(rpc, change)) {
        Streamit__V1__AlterTopicResponse response = STREAMIT__V1__ALTER_TOPIC_RESPONSE__INIT;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

void tgr_alter_topic_handle(struct tgr_rpc *rpc)
{
    Streamit__V1__AlterTopicRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__alter_topic_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    struct sti_topic_change *change =
        change_new(rpc, request->name, request->timeout_ms, request->validate_only, on_altered);
    if (change == NULL || !config_fill(rpc, change, request->n_config, request->config)) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    change->partitions = request->partitions == 0 ? -1 : request->partitions;
    change_begin(rpc, change, tgr_broker(rpc->t)->alter_topic);
}

static void on_deleted(struct sti_topic_change *change)
{
    struct tgr_rpc *rpc = change->user;
    if (!change_failed(rpc, change)) {
        Streamit__V1__DeleteTopicResponse response = STREAMIT__V1__DELETE_TOPIC_RESPONSE__INIT;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

void tgr_delete_topic_handle(struct tgr_rpc *rpc)
{
    Streamit__V1__DeleteTopicRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__delete_topic_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    struct sti_topic_change *change =
        change_new(rpc, request->name, request->timeout_ms, false, on_deleted);
    if (change == NULL) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    change_begin(rpc, change, tgr_broker(rpc->t)->delete_topic);
}

/* ---- list, describe ---- */

/* What the visits of one call gather. */
struct gather {
    struct tgr_rpc *rpc;
    bool failed; /* memory ran out */
    Streamit__V1__TopicSummary **topics;
    size_t count, capacity;
    Streamit__V1__TopicDescription *description;
};

static char *keep(struct gather *g, const char *text)
{
    char *out = tgr_arena_strndup(&g->rpc->arena, text == NULL ? "" : text,
                                  text == NULL ? 0 : strlen(text));
    g->failed = g->failed || out == NULL;
    return out;
}

static void *room(struct gather *g, size_t count, size_t size)
{
    void *out = tgr_arena_alloc(&g->rpc->arena, count, size);
    g->failed = g->failed || out == NULL;
    return out;
}

static ProtobufCBinaryData keep_id(struct gather *g, const uint8_t id[16])
{
    ProtobufCBinaryData out = {.len = 16, .data = room(g, 16, 1)};
    if (out.data != NULL) {
        memcpy(out.data, id, 16);
    } else {
        out.len = 0;
    }
    return out;
}

static void gather_summary(void *arg, const struct sti_topic_info *topic)
{
    struct gather *g = arg;
    if (g->failed) {
        return;
    }
    if (g->count == g->capacity) {
        size_t capacity = g->capacity == 0 ? 64 : g->capacity * 2;
        Streamit__V1__TopicSummary **larger =
            (Streamit__V1__TopicSummary **)room(g, capacity, sizeof(void *));
        if (larger == NULL) {
            return;
        }
        if (g->count > 0) {
            memcpy((void *)larger, (const void *)g->topics, g->count * sizeof(void *));
        }
        g->topics = larger;
        g->capacity = capacity;
    }
    Streamit__V1__TopicSummary *summary = room(g, 1, sizeof *summary);
    if (summary == NULL) {
        return;
    }
    streamit__v1__topic_summary__init(summary);
    summary->name = keep(g, topic->name);
    summary->topic_id = keep_id(g, topic->topic_id);
    summary->partitions = (int32_t)topic->partition_count;
    summary->replication = topic->replication;
    g->topics[g->count++] = summary;
}

void tgr_list_topics_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct gather g = {.rpc = rpc};
    struct sti_err err;
    if (tgr_rpc_unpack(rpc, &streamit__v1__list_topics_request__descriptor) == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    sti_err_clear(&err);
    int rc = tgr_broker(t)->list_topics(t->broker.self, &rpc->request, gather_summary, &g, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
    } else if (g.failed) {
        tgr_rpc_no_memory(rpc);
    } else {
        Streamit__V1__ListTopicsResponse response = STREAMIT__V1__LIST_TOPICS_RESPONSE__INIT;
        response.n_topics = g.count;
        response.topics = g.topics;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

static int32_t *keep_nodes(struct gather *g, const int32_t *nodes, size_t count)
{
    int32_t *out = room(g, count, sizeof *out);
    if (out != NULL && count > 0) {
        memcpy(out, nodes, count * sizeof *out);
    }
    return out;
}

static Streamit__V1__PartitionDescription *describe_partition(struct gather *g, const char *topic,
                                                              const struct sti_partition_info *info)
{
    Streamit__V1__PartitionDescription *out = room(g, 1, sizeof *out);
    if (out == NULL) {
        return NULL;
    }
    streamit__v1__partition_description__init(out);
    out->partition = info->partition;
    out->leader = info->leader;
    out->leader_epoch = info->leader_epoch;
    out->n_replicas = info->replica_count;
    out->replicas = keep_nodes(g, info->replicas, info->replica_count);
    out->n_isr = info->isr_count;
    out->isr = keep_nodes(g, info->isr, info->isr_count);
    out->log_start = info->log_start;
    out->high_watermark = info->high_watermark;
    out->log_end = info->log_end;
    out->bytes = info->bytes;
    if (info->status != STI_OK) {
        struct sti_err err;
        (void)sti_err_set(&err, info->status, "topic %s, partition %d: %s", topic,
                          (int)info->partition, sti_status_text(info->status));
        out->error = tgr_error_new(&g->rpc->arena, info->status, &err);
        g->failed = g->failed || out->error == NULL;
    }
    return out;
}

static void gather_description(void *arg, const struct sti_topic_info *topic)
{
    struct gather *g = arg;
    Streamit__V1__TopicDescription *out = room(g, 1, sizeof *out);
    if (out == NULL) {
        return;
    }
    streamit__v1__topic_description__init(out);
    out->name = keep(g, topic->name);
    out->topic_id = keep_id(g, topic->topic_id);
    out->replication = topic->replication;
    size_t partitions = topic->partitions == NULL ? 0 : topic->partition_count;
    size_t settings = topic->config == NULL ? 0 : topic->config_count;
    out->partitions = (Streamit__V1__PartitionDescription **)room(g, partitions, sizeof(void *));
    out->config = (Streamit__V1__TopicConfig **)room(g, settings, sizeof(void *));
    for (size_t i = 0; !g->failed && i < partitions; i++) {
        out->partitions[i] = describe_partition(g, topic->name, topic->partitions[i]);
    }
    for (size_t i = 0; !g->failed && i < settings; i++) {
        Streamit__V1__TopicConfig *config = room(g, 1, sizeof *config);
        if (config != NULL) {
            streamit__v1__topic_config__init(config);
            config->key = keep(g, topic->config[i]->key);
            config->value = keep(g, topic->config[i]->value);
            config->help = keep(g, topic->config[i]->help);
            config->source = (Streamit__V1__ConfigSource)topic->config[i]->source;
        }
        out->config[i] = config;
    }
    out->n_partitions = partitions;
    out->n_config = settings;
    g->description = out;
}

static void describe_topic(struct tgr_rpc *rpc, const char *name)
{
    struct tgr_transport *t = rpc->t;
    struct gather g = {.rpc = rpc};
    struct sti_err err;
    sti_err_clear(&err);
    int rc = tgr_broker(t)->describe_topic(t->broker.self, &rpc->request, name, gather_description,
                                           &g, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
    } else if (g.failed) {
        tgr_rpc_no_memory(rpc);
    } else {
        Streamit__V1__DescribeTopicResponse response = STREAMIT__V1__DESCRIBE_TOPIC_RESPONSE__INIT;
        response.topic = g.description;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

static void on_awaited(struct sti_await *await)
{
    describe_topic(await->user, await->topic);
}

/* Offsets are known once the topic's partitions are open: right after a start that takes a moment.
 */
void tgr_describe_topic_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    const struct sti_broker *broker = tgr_broker(t);
    struct sti_err err;
    Streamit__V1__DescribeTopicRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__describe_topic_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    struct sti_await *await = tgr_arena_alloc(&rpc->arena, 1, sizeof *await);
    if (await == NULL) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    *await = (struct sti_await){.struct_size = sizeof *await,
                                .request = &rpc->request,
                                .topic = request->name,
                                .done = on_awaited,
                                .user = rpc};
    sti_err_clear(&err);
    bool can_wait = broker->iface.struct_size > offsetof(struct sti_broker, await_topic) &&
                    broker->await_topic != NULL;
    if (!can_wait || broker->await_topic(t->broker.self, await, &err) != STI_OK) {
        describe_topic(rpc, request->name); /* says why, if it cannot */
    }
}
