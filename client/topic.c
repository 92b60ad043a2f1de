/* topic.c -- what the client knows of a topic: how many partitions, who leads them, how large a
 * batch may be.
 *
 *     refresh -> DescribeTopic -> FindLeader of each node that leads something -> known
 *
 * DescribeTopic tells leaders by node id; FindLeader tells where a node is reached, and is asked
 * once for each node. One refresh of a topic is under way at a time; who needs one meanwhile waits
 * for that. What is known is looked up again when somebody met an error that says so
 * (STI_TRAIT_REFRESH), and every metadata_refresh_ms.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES_DEFAULT (1u << 20)

struct node {
    int32_t id;
    struct cl_conn *conn;
};

/* One refresh under way. */
struct cl_refresh {
    struct cl_topic *topic;
    struct cl_ask ask;
    uint64_t due_us;
    int32_t count;
    int32_t *leaders; /* node ids */
    uint64_t message_bytes_max;
    int32_t at; /* the partition whose leader is asked for */
    char address[300];
    struct node *nodes;
    size_t node_count;
};

static void refresh_free(struct cl_refresh *r)
{
    free(r->leaders);
    free(r->nodes);
    free(r);
}

static struct cl_conn *node_find(const struct cl_refresh *r, int32_t id)
{
    for (size_t i = 0; i < r->node_count; i++) {
        if (r->nodes[i].id == id) {
            return r->nodes[i].conn;
        }
    }
    return NULL;
}

/* It is over: tell those who wait. */
static void refresh_end(struct cl_refresh *r, const struct sti_err *err)
{
    struct cl_topic *topic = r->topic;
    struct cl_conn **leaders = err != NULL ? NULL : calloc((size_t)r->count + 1u, sizeof(void *));
    for (int32_t i = 0; leaders != NULL && i < r->count; i++) {
        leaders[i] = r->leaders[i] < 0 ? NULL : node_find(r, r->leaders[i]);
    }
    pthread_mutex_lock(&topic->mu);
    sti_err_clear(&topic->last);
    if (err != NULL) {
        topic->last = *err;
    } else if (leaders == NULL) {
        sti_err_set(&topic->last, STI_E_NO_MEMORY, "client: out of memory");
    } else {
        free(topic->leaders);
        topic->leaders = leaders;
        topic->message_bytes_max = r->message_bytes_max;
        atomic_store(&topic->count, r->count);
        atomic_fetch_add(&topic->version, 1);
    }
    topic->running = NULL;
    topic->refreshes++;
    pthread_cond_broadcast(&topic->refreshed);
    pthread_mutex_unlock(&topic->mu);
    refresh_free(r);
}

static int leader_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                        struct cl_failure *failure)
{
    struct cl_refresh *r = CL_CONTAINER_OF(ask, struct cl_refresh, ask);
    Streamit__V1__FindLeaderResponse *m =
        streamit__v1__find_leader_response__unpack(NULL, len, data);
    if (m == NULL) {
        return sti_err_set(&failure->err, STI_E_INTERNAL, "FindLeader: malformed response");
    }
    bool bare_v6 = strchr(m->host, ':') != NULL && m->host[0] != '[';
    snprintf(r->address, sizeof r->address, bare_v6 ? "[%s]:%d" : "%s:%d", m->host, m->port);
    r->leaders[r->at] = m->node_id; /* if it has moved just now, this is newer */
    streamit__v1__find_leader_response__free_unpacked(m, NULL);
    return STI_OK;
}

int cl_topic_ask_for(struct cl_topic *topic, uint64_t due_us, struct sti_err *err)
{
    Streamit__V1__FindLeaderRequest request = STREAMIT__V1__FIND_LEADER_REQUEST__INIT;
    int32_t node;
    struct cl_refresh r = {.leaders = &node,
                           .ask = {.method = CL_FIND_LEADER,
                                   .request = &request.base,
                                   .idempotent = true,
                                   .due_us = due_us,
                                   .parse = leader_parse}};
    request.topic = topic->name;
    return cl_ask_run(topic->client, &r.ask, err);
}

static void leader_next(struct cl_refresh *r);

static void leader_done(struct cl_ask *ask, const struct sti_err *err)
{
    struct cl_refresh *r = CL_CONTAINER_OF(ask, struct cl_refresh, ask);
    struct sti_err own;
    struct cl_conn *conn = err != NULL ? NULL : cl_conn_get(r->topic->client, r->address);
    struct node *grown =
        conn == NULL ? NULL : realloc(r->nodes, (r->node_count + 1) * sizeof *grown);
    if (grown == NULL) {
        if (err == NULL) {
            sti_err_set(&own, STI_E_NO_MEMORY, "client: out of memory");
            err = &own;
        }
        refresh_end(r, err);
        return;
    }
    r->nodes = grown;
    r->nodes[r->node_count++] = (struct node){.id = r->leaders[r->at], .conn = conn};
    leader_next(r);
}

/* Ask for the next node of which it is not known where it is. */
static void leader_next(struct cl_refresh *r)
{
    while (r->at < r->count && (r->leaders[r->at] < 0 || node_find(r, r->leaders[r->at]) != NULL)) {
        r->at++;
    }
    if (r->at == r->count) {
        refresh_end(r, NULL);
        return;
    }
    Streamit__V1__FindLeaderRequest request = STREAMIT__V1__FIND_LEADER_REQUEST__INIT;
    request.topic = r->topic->name;
    request.partition = r->at;
    r->ask = (struct cl_ask){.method = CL_FIND_LEADER,
                             .request = &request.base,
                             .idempotent = true,
                             .due_us = r->due_us,
                             .parse = leader_parse,
                             .done = leader_done};
    cl_ask_start(r->topic->client, &r->ask);
}

static int describe_parse(struct cl_ask *ask, const uint8_t *data, size_t len,
                          struct cl_failure *failure)
{
    struct cl_refresh *r = CL_CONTAINER_OF(ask, struct cl_refresh, ask);
    Streamit__V1__DescribeTopicResponse *m =
        streamit__v1__describe_topic_response__unpack(NULL, len, data);
    if (m == NULL || m->topic == NULL || m->topic->n_partitions == 0 ||
        m->topic->n_partitions >= INT32_MAX) {
        if (m != NULL) {
            streamit__v1__describe_topic_response__free_unpacked(m, NULL);
        }
        return sti_err_set(&failure->err, STI_E_INTERNAL, "DescribeTopic: malformed response");
    }
    r->count = (int32_t)m->topic->n_partitions;
    r->leaders = malloc(m->topic->n_partitions * sizeof *r->leaders);
    r->message_bytes_max = MESSAGE_BYTES_DEFAULT;
    for (size_t i = 0; r->leaders != NULL && i < m->topic->n_partitions; i++) {
        r->leaders[i] = m->topic->partitions[i]->leader;
    }
    for (size_t i = 0; i < m->topic->n_config; i++) {
        if (strcmp(m->topic->config[i]->key, "max.message.bytes") == 0) {
            r->message_bytes_max = strtoull(m->topic->config[i]->value, NULL, 10);
        }
    }
    streamit__v1__describe_topic_response__free_unpacked(m, NULL);
    return r->leaders == NULL ? sti_err_set(&failure->err, STI_E_NO_MEMORY, "client: out of memory")
                              : STI_OK;
}

static void describe_done(struct cl_ask *ask, const struct sti_err *err)
{
    struct cl_refresh *r = CL_CONTAINER_OF(ask, struct cl_refresh, ask);
    if (err != NULL) {
        refresh_end(r, err);
    } else {
        leader_next(r);
    }
}

/* Begin a refresh unless one is under way. */
static void refresh_begin(struct cl_topic *topic, uint64_t due_us)
{
    Streamit__V1__DescribeTopicRequest request = STREAMIT__V1__DESCRIBE_TOPIC_REQUEST__INIT;
    struct cl_refresh *r = calloc(1, sizeof *r);
    pthread_mutex_lock(&topic->mu);
    bool running = topic->running != NULL;
    if (!running && r != NULL) {
        topic->running = r;
    } else if (!running) {
        sti_err_set(&topic->last, STI_E_NO_MEMORY, "client: out of memory");
        topic->refreshes++;
    }
    pthread_mutex_unlock(&topic->mu);
    if (running || r == NULL) {
        free(r);
        return;
    }
    r->topic = topic;
    r->due_us = due_us;
    request.name = topic->name;
    r->ask = (struct cl_ask){.method = CL_DESCRIBE_TOPIC,
                             .request = &request.base,
                             .idempotent = true,
                             .due_us = due_us,
                             .parse = describe_parse,
                             .done = describe_done};
    cl_ask_start(topic->client, &r->ask);
}

int cl_topic_refresh(struct cl_topic *topic, uint64_t due_us, struct sti_err *err)
{
    if (cl_on_poll_thread(topic->client)) {
        return sti_err_set(err, STI_E_WOULD_BLOCK, "topic %s: not from a callback", topic->name);
    }
    pthread_mutex_lock(&topic->mu);
    uint64_t seen = topic->refreshes;
    pthread_mutex_unlock(&topic->mu);
    refresh_begin(topic, due_us);
    pthread_mutex_lock(&topic->mu);
    bool in_time = true;
    while (topic->refreshes == seen && in_time) {
        in_time = cl_cond_wait_until(&topic->refreshed, &topic->mu, due_us + CL_DEADLINE_SLACK_US);
    }
    int rc = STI_OK;
    if (topic->refreshes == seen) {
        rc = sti_err_set(err, STI_E_TIMED_OUT, "topic %s: nobody told about it in time",
                         topic->name);
    } else if (topic->last.code != STI_OK) {
        rc = topic->last.code;
        if (err != NULL) {
            *err = topic->last;
        }
    }
    pthread_mutex_unlock(&topic->mu);
    return rc;
}

void cl_topic_refresh_start(struct cl_topic *topic)
{
    refresh_begin(topic, cl_due_us(topic->client->config.timeout_ms));
}

int cl_topic_need(struct cl_topic *topic, uint64_t due_us, struct sti_err *err)
{
    return atomic_load(&topic->count) > 0 ? STI_OK : cl_topic_refresh(topic, due_us, err);
}

struct cl_conn *cl_topic_leader(struct cl_topic *topic, int32_t partition)
{
    pthread_mutex_lock(&topic->mu);
    struct cl_conn *conn =
        partition < atomic_load(&topic->count) ? topic->leaders[partition] : NULL;
    pthread_mutex_unlock(&topic->mu);
    return conn != NULL ? conn : cl_conn_any(topic->client);
}

/* ---- all topics ---------------------------------------------------------------------------- */

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
            cl_cond_init(&topic->refreshed);
            topic->next = client->topics;
            client->topics = topic;
        }
    }
    pthread_mutex_unlock(&client->mu);
    return topic;
}

static void watch_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct sti_client *client = CL_CONTAINER_OF(alarm, struct sti_client, watch);
    (void)cancelled;
    pthread_mutex_lock(&client->mu);
    struct cl_topic *topic = client->topics;
    pthread_mutex_unlock(&client->mu);
    for (; topic != NULL; topic = topic->next) { /* topics stay, and new ones come before */
        if (atomic_load(&topic->count) > 0) {
            cl_topic_refresh_start(topic);
        }
    }
    cl_topics_watch(client);
}

void cl_topics_watch(struct sti_client *client)
{
    if (client->config.metadata_refresh_ms > 0) {
        client->watch.fire = watch_fire;
        cl_alarm_start(client, &client->watch, cl_due_us(client->config.metadata_refresh_ms));
    }
}

void cl_topics_free(struct sti_client *client)
{
    while (client->topics != NULL) {
        struct cl_topic *topic = client->topics;
        client->topics = topic->next;
        pthread_cond_destroy(&topic->refreshed);
        pthread_mutex_destroy(&topic->mu);
        free(topic->leaders);
        free(topic->name);
        free(topic);
    }
}
