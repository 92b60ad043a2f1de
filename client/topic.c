/* topic.c -- what the client knows of a topic: how many partitions, who leads them, how large a
 * batch may be.
 *
 * DescribeTopic tells partitions and leaders by node id; FindLeader tells where a node is reached,
 * and is asked once for each node.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct cl_topic *cl_topic_get(struct sti_client *client, const char *name)
{
    pthread_mutex_lock(&client->mu);
    struct cl_topic *topic = client->topics;
    while (topic != NULL && strcmp(topic->name, name) != 0) {
        topic = topic->next;
    }
    if (topic == NULL && (topic = calloc(1, sizeof *topic)) != NULL) {
        topic->client = client;
        topic->name = strdup(name);
        if (topic->name == NULL) {
            free(topic);
            topic = NULL;
        } else {
            pthread_mutex_init(&topic->mu, NULL);
            topic->next = client->topics;
            client->topics = topic;
        }
    }
    pthread_mutex_unlock(&client->mu);
    return topic;
}

struct leader_ask {
    struct cl_ask ask;
    char address[300];
    int32_t node;
};

static int leader_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                        struct cl_failure *failure)
{
    struct leader_ask *leader = CL_CONTAINER_OF(ask, struct leader_ask, ask);
    Streamit__V1__FindLeaderResponse *m =
        streamit__v1__find_leader_response__unpack(NULL, len, data);
    if (m == NULL) {
        return sti_err_set(&failure->err, STI_E_INTERNAL, "FindLeader: malformed response");
    }
    bool bare_v6 = strchr(m->host, ':') != NULL && m->host[0] != '[';
    snprintf(leader->address, sizeof leader->address, bare_v6 ? "[%s]:%d" : "%s:%d", m->host,
             m->port);
    leader->node = m->node_id;
    streamit__v1__find_leader_response__free_unpacked(m, NULL);
    return STI_OK;
}

/* Learn where the leader of `partition` is reached. */
static int find_leader(struct cl_topic *topic, int32_t partition, uint64_t due_us,
                       struct cl_leader *out, struct sti_err *err)
{
    Streamit__V1__FindLeaderRequest request = STREAMIT__V1__FIND_LEADER_REQUEST__INIT;
    struct leader_ask leader = {.ask = {.method = CL_FIND_LEADER,
                                        .request = &request.base,
                                        .idempotent = true,
                                        .due_us = due_us,
                                        .parse = leader_parse}};
    request.topic = topic->name;
    request.partition = partition;
    int rc = cl_ask_run(topic->client, &leader.ask, err);
    if (rc == STI_OK) {
        out->node = leader.node;
        out->conn = cl_conn_get(topic->client, leader.address);
        rc =
            out->conn == NULL ? sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory") : STI_OK;
    }
    return rc;
}

int cl_topic_ask_for(struct cl_topic *topic, uint64_t due_us, struct sti_err *err)
{
    struct cl_leader leader;
    return find_leader(topic, 0, due_us, &leader, err);
}

struct describe_ask {
    struct cl_ask ask;
    int32_t count;
    int32_t *leaders;
    uint64_t message_bytes_max;
};

static int describe_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                          struct cl_failure *failure)
{
    struct describe_ask *d = CL_CONTAINER_OF(ask, struct describe_ask, ask);
    Streamit__V1__DescribeTopicResponse *m =
        streamit__v1__describe_topic_response__unpack(NULL, len, data);
    if (m == NULL || m->topic == NULL || m->topic->n_partitions > INT32_MAX) {
        if (m != NULL) {
            streamit__v1__describe_topic_response__free_unpacked(m, NULL);
        }
        return sti_err_set(&failure->err, STI_E_INTERNAL, "DescribeTopic: malformed response");
    }
    d->count = (int32_t)m->topic->n_partitions;
    d->leaders = malloc((m->topic->n_partitions + 1) * sizeof *d->leaders);
    d->message_bytes_max = 1u << 20;
    for (size_t i = 0; d->leaders != NULL && i < m->topic->n_partitions; i++) {
        d->leaders[i] = m->topic->partitions[i]->leader;
    }
    for (size_t i = 0; i < m->topic->n_config; i++) {
        if (strcmp(m->topic->config[i]->key, "max.message.bytes") == 0) {
            d->message_bytes_max = strtoull(m->topic->config[i]->value, NULL, 10);
        }
    }
    streamit__v1__describe_topic_response__free_unpacked(m, NULL);
    return d->leaders == NULL ? sti_err_set(&failure->err, STI_E_NO_MEMORY, "client: out of memory")
                              : STI_OK;
}

static bool node_is_known(const struct cl_leader *nodes, size_t count, int32_t node)
{
    for (size_t i = 0; i < count; i++) {
        if (nodes[i].node == node) {
            return true;
        }
    }
    return false;
}

int cl_topic_refresh(struct cl_topic *topic, uint64_t due_us, struct sti_err *err)
{
    Streamit__V1__DescribeTopicRequest request = STREAMIT__V1__DESCRIBE_TOPIC_REQUEST__INIT;
    struct describe_ask d = {.ask = {.method = CL_DESCRIBE_TOPIC,
                                     .request = &request.base,
                                     .idempotent = true,
                                     .due_us = due_us,
                                     .parse = describe_parse}};
    struct cl_leader *nodes = NULL;
    size_t node_count = 0;
    request.name = topic->name;
    int rc = cl_ask_run(topic->client, &d.ask, err);
    for (int32_t i = 0; rc == STI_OK && i < d.count; i++) {
        if (d.leaders[i] < 0 || node_is_known(nodes, node_count, d.leaders[i])) {
            continue;
        }
        struct cl_leader *grown = realloc(nodes, (node_count + 1) * sizeof *nodes);
        if (grown == NULL) {
            rc = sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory");
            break;
        }
        nodes = grown;
        rc = find_leader(topic, i, due_us, &nodes[node_count], err);
        node_count += rc == STI_OK ? 1u : 0u;
    }
    if (rc != STI_OK) {
        free(nodes);
        free(d.leaders);
        return rc;
    }
    pthread_mutex_lock(&topic->mu);
    free(topic->leaders);
    free(topic->nodes);
    topic->known = true;
    topic->count = d.count;
    topic->message_bytes_max = d.message_bytes_max;
    topic->leaders = d.leaders;
    topic->nodes = nodes;
    topic->node_count = node_count;
    pthread_mutex_unlock(&topic->mu);
    return STI_OK;
}

struct cl_conn *cl_topic_leader(struct cl_topic *topic, int32_t partition)
{
    struct cl_conn *conn = NULL;
    pthread_mutex_lock(&topic->mu);
    for (size_t i = 0; partition < topic->count && i < topic->node_count; i++) {
        if (topic->nodes[i].node == topic->leaders[partition]) {
            conn = topic->nodes[i].conn;
        }
    }
    pthread_mutex_unlock(&topic->mu);
    return conn != NULL ? conn : cl_conn_any(topic->client);
}
