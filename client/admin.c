/* admin.c -- administrative calls: one request, one answer, told in plain structs. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t admin_due(const struct sti_client *client)
{
    return cl_now_us() + (uint64_t)client->config.timeout_ms * 1000u;
}

static int malformed(struct cl_failure *failure, const char *what)
{
    return sti_err_set(&failure->err, STI_E_INTERNAL, "%s: malformed response", what);
}

/* Settings as rows of a message: pointers and messages in one block, which the caller frees. */
static Streamit__V1__ConfigEntry **settings_rows(const struct sti_admin_setting *settings,
                                                 size_t count)
{
    static char empty[] = "";
    Streamit__V1__ConfigEntry **rows =
        calloc(count + 1, sizeof(void *) + sizeof(Streamit__V1__ConfigEntry));
    Streamit__V1__ConfigEntry *entries = (Streamit__V1__ConfigEntry *)(void *)(rows + count + 1);
    for (size_t i = 0; rows != NULL && i < count; i++) {
        streamit__v1__config_entry__init(&entries[i]);
        entries[i].key = (char *)(uintptr_t)settings[i].key;
        entries[i].value = settings[i].value == NULL ? empty : (char *)(uintptr_t)settings[i].value;
        entries[i].reset = settings[i].value == NULL;
        rows[i] = &entries[i];
    }
    return rows;
}

static int no_memory(struct sti_err *err)
{
    return sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory");
}

/* ---- create, alter, delete ----------------------------------------------------------------- */

struct create_ask {
    struct cl_ask ask;
    struct sti_admin_created *out;
};

static int create_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                        struct cl_failure *failure)
{
    struct create_ask *create = CL_CONTAINER_OF(ask, struct create_ask, ask);
    Streamit__V1__CreateTopicResponse *m =
        streamit__v1__create_topic_response__unpack(NULL, len, data);
    if (m == NULL) {
        return malformed(failure, "CreateTopic");
    }
    if (create->out != NULL) {
        create->out->partitions = m->partitions;
        create->out->replication = m->replication;
        if (m->topic_id.len == sizeof create->out->topic_id) {
            memcpy(create->out->topic_id, m->topic_id.data, sizeof create->out->topic_id);
        }
    }
    streamit__v1__create_topic_response__free_unpacked(m, NULL);
    return STI_OK;
}

static int empty_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                       struct cl_failure *failure)
{
    (void)ask;
    (void)data;
    (void)len;
    (void)failure;
    return STI_OK;
}

int sti_admin_create_topic(struct sti_client *client, const char *name, int32_t partitions,
                           int32_t replication, const struct sti_admin_setting *settings,
                           size_t count, struct sti_admin_created *out, struct sti_err *err)
{
    Streamit__V1__CreateTopicRequest request = STREAMIT__V1__CREATE_TOPIC_REQUEST__INIT;
    struct create_ask create = {.ask = {.method = CL_CREATE_TOPIC,
                                        .request = &request.base,
                                        .due_us = admin_due(client),
                                        .parse = create_parse},
                                .out = out};
    request.name = (char *)(uintptr_t)name;
    request.partitions = partitions;
    request.replication = replication;
    request.timeout_ms = client->config.timeout_ms;
    request.n_config = count;
    request.config = settings_rows(settings, count);
    int rc = request.config == NULL ? no_memory(err) : cl_ask_run(client, &create.ask, err);
    free(request.config);
    return rc;
}

int sti_admin_alter_topic(struct sti_client *client, const char *name, int32_t partitions,
                          const struct sti_admin_setting *settings, size_t count,
                          struct sti_err *err)
{
    Streamit__V1__AlterTopicRequest request = STREAMIT__V1__ALTER_TOPIC_REQUEST__INIT;
    struct cl_ask ask = {.method = CL_ALTER_TOPIC,
                         .request = &request.base,
                         .idempotent = true,
                         .due_us = admin_due(client),
                         .parse = empty_parse};
    request.name = (char *)(uintptr_t)name;
    request.partitions = partitions;
    request.timeout_ms = client->config.timeout_ms;
    request.n_config = count;
    request.config = settings_rows(settings, count);
    int rc = request.config == NULL ? no_memory(err) : cl_ask_run(client, &ask, err);
    free(request.config);
    return rc;
}

int sti_admin_delete_topic(struct sti_client *client, const char *name, struct sti_err *err)
{
    Streamit__V1__DeleteTopicRequest request = STREAMIT__V1__DELETE_TOPIC_REQUEST__INIT;
    struct cl_ask ask = {.method = CL_DELETE_TOPIC,
                         .request = &request.base,
                         .due_us = admin_due(client),
                         .parse = empty_parse};
    request.name = (char *)(uintptr_t)name;
    request.timeout_ms = client->config.timeout_ms;
    return cl_ask_run(client, &ask, err);
}

/* ---- list ---------------------------------------------------------------------------------- */

struct list_ask {
    struct cl_ask ask;
    struct sti_admin_topics *topics;
};

/* The result owns the message that its strings lead into. */
struct topics_block {
    struct sti_admin_topics topics;
    Streamit__V1__ListTopicsResponse *message;
    struct sti_admin_topic rows[];
};

static int list_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                      struct cl_failure *failure)
{
    struct list_ask *list = CL_CONTAINER_OF(ask, struct list_ask, ask);
    Streamit__V1__ListTopicsResponse *m =
        streamit__v1__list_topics_response__unpack(NULL, len, data);
    if (m == NULL) {
        return malformed(failure, "ListTopics");
    }
    struct topics_block *block = calloc(1, sizeof *block + m->n_topics * sizeof *block->rows);
    if (block == NULL) {
        streamit__v1__list_topics_response__free_unpacked(m, NULL);
        return no_memory(&failure->err);
    }
    for (size_t i = 0; i < m->n_topics; i++) {
        const Streamit__V1__TopicSummary *t = m->topics[i];
        block->rows[i] = (struct sti_admin_topic){
            .name = t->name, .partitions = t->partitions, .replication = t->replication};
        if (t->topic_id.len == 16) {
            memcpy(block->rows[i].topic_id, t->topic_id.data, 16);
        }
    }
    block->message = m;
    block->topics.count = m->n_topics;
    block->topics.topics = block->rows;
    list->topics = &block->topics;
    return STI_OK;
}

int sti_admin_list_topics(struct sti_client *client, struct sti_admin_topics **out,
                          struct sti_err *err)
{
    Streamit__V1__ListTopicsRequest request = STREAMIT__V1__LIST_TOPICS_REQUEST__INIT;
    struct list_ask list = {.ask = {.method = CL_LIST_TOPICS,
                                    .request = &request.base,
                                    .idempotent = true,
                                    .due_us = admin_due(client),
                                    .parse = list_parse}};
    int rc = cl_ask_run(client, &list.ask, err);
    *out = list.topics;
    return rc;
}

void sti_admin_topics_free(struct sti_admin_topics *topics)
{
    if (topics != NULL) {
        struct topics_block *block = CL_CONTAINER_OF(topics, struct topics_block, topics);
        streamit__v1__list_topics_response__free_unpacked(block->message, NULL);
        free(block);
    }
}

/* ---- describe ------------------------------------------------------------------------------ */

struct describe_ask {
    struct cl_ask ask;
    struct sti_admin_description *description;
};

struct description_block {
    struct sti_admin_description description;
    Streamit__V1__DescribeTopicResponse *message;
    struct sti_admin_partition *partitions;
    struct sti_admin_config *config;
};

static void partition_fill(struct sti_admin_partition *out,
                           const Streamit__V1__PartitionDescription *p)
{
    bool failed = p->error != NULL && p->error->code != STREAMIT__V1__ERROR_CODE__OK;
    *out = (struct sti_admin_partition){.partition = p->partition,
                                        .leader = p->leader,
                                        .leader_epoch = p->leader_epoch,
                                        .replica_count = (uint32_t)p->n_replicas,
                                        .isr_count = (uint32_t)p->n_isr,
                                        .replicas = p->replicas,
                                        .isr = p->isr,
                                        .log_start = p->log_start,
                                        .high_watermark = p->high_watermark,
                                        .log_end = p->log_end,
                                        .bytes = p->bytes,
                                        .status = failed ? -(int)p->error->code : STI_OK,
                                        .status_message = failed ? p->error->message : NULL};
}

static int describe_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                          struct cl_failure *failure)
{
    static const char *const sources[] = {"default", "node", "topic"};
    struct describe_ask *describe = CL_CONTAINER_OF(ask, struct describe_ask, ask);
    struct description_block *block = calloc(1, sizeof *block);
    if (block == NULL) {
        return no_memory(&failure->err);
    }
    block->message = streamit__v1__describe_topic_response__unpack(NULL, len, data);
    const Streamit__V1__TopicDescription *t = block->message == NULL ? NULL : block->message->topic;
    if (t == NULL) {
        sti_admin_description_free(&block->description);
        return malformed(failure, "DescribeTopic");
    }
    block->partitions = calloc(t->n_partitions + 1, sizeof *block->partitions);
    block->config = calloc(t->n_config + 1, sizeof *block->config);
    if (block->partitions == NULL || block->config == NULL) {
        sti_admin_description_free(&block->description);
        return no_memory(&failure->err);
    }
    for (size_t i = 0; i < t->n_partitions; i++) {
        partition_fill(&block->partitions[i], t->partitions[i]);
    }
    for (size_t i = 0; i < t->n_config; i++) {
        unsigned source = (unsigned)t->config[i]->source;
        block->config[i] = (struct sti_admin_config){.key = t->config[i]->key,
                                                     .value = t->config[i]->value,
                                                     .source = sources[source > 2 ? 0 : source],
                                                     .help = t->config[i]->help};
    }
    block->description = (struct sti_admin_description){.name = t->name,
                                                        .replication = t->replication,
                                                        .partition_count = t->n_partitions,
                                                        .config_count = t->n_config,
                                                        .partitions = block->partitions,
                                                        .config = block->config};
    if (t->topic_id.len == 16) {
        memcpy(block->description.topic_id, t->topic_id.data, 16);
    }
    describe->description = &block->description;
    return STI_OK;
}

static int describe(struct sti_client *client, const char *name, uint64_t due_us,
                    struct sti_admin_description **out, struct sti_err *err)
{
    Streamit__V1__DescribeTopicRequest request = STREAMIT__V1__DESCRIBE_TOPIC_REQUEST__INIT;
    struct describe_ask ask = {.ask = {.method = CL_DESCRIBE_TOPIC,
                                       .request = &request.base,
                                       .idempotent = true,
                                       .due_us = due_us,
                                       .parse = describe_parse}};
    request.name = (char *)(uintptr_t)name;
    int rc = cl_ask_run(client, &ask.ask, err);
    *out = ask.description;
    return rc;
}

int sti_admin_describe_topic(struct sti_client *client, const char *name,
                             struct sti_admin_description **out, struct sti_err *err)
{
    return describe(client, name, admin_due(client), out, err);
}

void sti_admin_description_free(struct sti_admin_description *description)
{
    if (description != NULL) {
        struct description_block *block =
            CL_CONTAINER_OF(description, struct description_block, description);
        if (block->message != NULL) {
            streamit__v1__describe_topic_response__free_unpacked(block->message, NULL);
        }
        free(block->partitions);
        free(block->config);
        free(block);
    }
}

/* What a topic still lacks, as a sentence. @return false: nothing */
static bool topic_lacks(const struct sti_admin_description *topic, struct sti_err *err)
{
    for (size_t i = 0; i < topic->partition_count; i++) {
        const struct sti_admin_partition *p = &topic->partitions[i];
        if (p->leader < 0 || p->status != STI_OK) {
            (void)sti_err_set(err, STI_E_TIMED_OUT, "%s-%d takes no appends yet: %.150s",
                              topic->name, p->partition,
                              p->leader < 0               ? "it has no leader"
                              : p->status_message != NULL ? p->status_message
                                                          : sti_status_text(p->status));
            return true;
        }
    }
    return false;
}

int sti_admin_await_topic(struct sti_client *client, const char *name, uint32_t timeout_ms,
                          struct sti_err *err)
{
    uint64_t due = cl_due_us(timeout_ms);
    uint32_t cancels = atomic_load(&client->cancels);
    struct sti_err own;
    for (uint32_t tries = 0;; tries++) {
        struct sti_admin_description *topic = NULL;
        int rc = describe(client, name, due, &topic, &own);
        if (rc == STI_OK && !topic_lacks(topic, &own)) {
            sti_admin_description_free(topic);
            return STI_OK;
        }
        sti_admin_description_free(topic);
        if (rc == STI_E_UNKNOWN_TOPIC) {
            (void)sti_err_set(&own, STI_E_TIMED_OUT, "topic %.200s is not there yet", name);
        } else if (rc != STI_OK && rc != STI_E_UNAVAILABLE && rc != STI_E_TIMED_OUT) {
            break;
        }
        uint64_t wait = cl_backoff_us(client, tries < 3 ? tries : 3, 0);
        if (atomic_load(&client->cancels) != cancels) {
            (void)sti_err_set(&own, STI_E_CANCELLED, "topic %.200s: the wait was cancelled", name);
            break;
        }
        if (cl_now_us() + wait >= due) {
            break;
        }
        struct timespec pause = {.tv_sec = (time_t)(wait / 1000000u),
                                 .tv_nsec = (long)(wait % 1000000u) * 1000};
        (void)nanosleep(&pause, NULL);
    }
    if (err != NULL) {
        *err = own;
        err->traits &= ~STI_TRAIT_INDEFINITE; /* it changes nothing */
    }
    return own.code;
}

/* ---- leaders and offsets ------------------------------------------------------------------- */

struct leader_ask {
    struct cl_ask ask;
    struct sti_admin_leader *out;
};

static int leader_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                        struct cl_failure *failure)
{
    struct leader_ask *leader = CL_CONTAINER_OF(ask, struct leader_ask, ask);
    Streamit__V1__FindLeaderResponse *m =
        streamit__v1__find_leader_response__unpack(NULL, len, data);
    if (m == NULL) {
        return malformed(failure, "FindLeader");
    }
    leader->out->node_id = m->node_id;
    leader->out->port = m->port;
    leader->out->leader_epoch = m->leader_epoch;
    snprintf(leader->out->host, sizeof leader->out->host, "%s", m->host);
    streamit__v1__find_leader_response__free_unpacked(m, NULL);
    return STI_OK;
}

int sti_admin_find_leader(struct sti_client *client, const char *topic, int32_t partition,
                          struct sti_admin_leader *out, struct sti_err *err)
{
    Streamit__V1__FindLeaderRequest request = STREAMIT__V1__FIND_LEADER_REQUEST__INIT;
    struct leader_ask leader = {.ask = {.method = CL_FIND_LEADER,
                                        .request = &request.base,
                                        .idempotent = true,
                                        .due_us = admin_due(client),
                                        .parse = leader_parse},
                                .out = out};
    request.topic = (char *)(uintptr_t)topic;
    request.partition = partition;
    return cl_ask_run(client, &leader.ask, err);
}

struct offset_ask {
    struct cl_ask ask;
    int64_t offset;
};

static int offset_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                        struct cl_failure *failure)
{
    struct offset_ask *offset = CL_CONTAINER_OF(ask, struct offset_ask, ask);
    Streamit__V1__ListOffsetsResponse *m =
        streamit__v1__list_offsets_response__unpack(NULL, len, data);
    int rc = STI_OK;
    if (m == NULL || m->n_partitions != 1) {
        rc = malformed(failure, "ListOffsets");
    } else if (m->partitions[0]->error != NULL &&
               m->partitions[0]->error->code != STREAMIT__V1__ERROR_CODE__OK) {
        cl_failure_from_error(failure, m->partitions[0]->error);
        rc = failure->err.code;
    } else {
        offset->offset = m->partitions[0]->offset;
    }
    if (m != NULL) {
        streamit__v1__list_offsets_response__free_unpacked(m, NULL);
    }
    return rc;
}

int sti_admin_list_offset(struct sti_client *client, const char *topic, int32_t partition,
                          int64_t timestamp_ms, int64_t *offset, struct sti_err *err)
{
    Streamit__V1__ListOffsetsRequest request = STREAMIT__V1__LIST_OFFSETS_REQUEST__INIT;
    Streamit__V1__ListOffsetsPartition row = STREAMIT__V1__LIST_OFFSETS_PARTITION__INIT;
    Streamit__V1__ListOffsetsPartition *rows[] = {&row};
    struct offset_ask ask = {.ask = {.method = CL_LIST_OFFSETS,
                                     .request = &request.base,
                                     .idempotent = true,
                                     .due_us = admin_due(client),
                                     .parse = offset_parse},
                             .offset = -1};
    row.topic = (char *)(uintptr_t)topic;
    row.partition = partition;
    row.timestamp_ms = timestamp_ms;
    request.n_partitions = 1;
    request.partitions = rows;
    int rc = cl_ask_run(client, &ask.ask, err);
    *offset = ask.offset;
    return rc;
}
