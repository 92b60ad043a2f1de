/* client.c -- the client object: its poll thread, its connections. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local const struct sti_client *polling;

bool cl_on_poll_thread(const struct sti_client *client)
{
    return polling == client;
}

/* ---- completions --------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define TAG_TAKEN(tag) __tsan_acquire(tag)
#define TAG_GIVEN(tag) __tsan_release(tag)
#else
#define TAG_TAKEN(tag) ((void)0)
#define TAG_GIVEN(tag) ((void)0)
#endif

grpc_call_error cl_batch_start(grpc_call *call, const grpc_op *ops, size_t count,
                               struct cl_tag *tag)
{
    TAG_GIVEN(tag);
    return grpc_call_start_batch(call, ops, count, tag, NULL);
}

static void wake_complete(struct cl_tag *tag, bool ok)
{
    (void)tag;
    (void)ok;
}

void cl_wake(struct sti_client *client)
{
    if (!cl_on_poll_thread(client)) {
        (void)cl_batch_start(client->wake_call, NULL, 0, &client->wake_tag);
    }
}

static void *poll_main(void *arg)
{
    struct sti_client *client = arg;
    polling = client;
    for (;;) {
        uint64_t due = cl_alarms_fire(client, cl_now_us());
        grpc_event event = grpc_completion_queue_next(client->queue, cl_deadline(due), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return NULL;
        }
        if (event.type == GRPC_OP_COMPLETE) {
            struct cl_tag *tag = event.tag;
            TAG_TAKEN(tag);
            tag->complete(tag, event.success != 0);
        }
    }
}

/* ---- connections --------------------------------------------------------------------------- */

static const char *const method_names[CL_METHOD_COUNT] = {
    [CL_PRODUCE_STREAM] = "/streamit.v1.StreamIt/ProduceStream",
    [CL_FETCH_STREAM] = "/streamit.v1.StreamIt/FetchStream",
    [CL_LIST_OFFSETS] = "/streamit.v1.StreamIt/ListOffsets",
    [CL_CREATE_TOPIC] = "/streamit.v1.StreamIt/CreateTopic",
    [CL_ALTER_TOPIC] = "/streamit.v1.StreamIt/AlterTopic",
    [CL_DELETE_TOPIC] = "/streamit.v1.StreamIt/DeleteTopic",
    [CL_LIST_TOPICS] = "/streamit.v1.StreamIt/ListTopics",
    [CL_DESCRIBE_TOPIC] = "/streamit.v1.StreamIt/DescribeTopic",
    [CL_FIND_LEADER] = "/streamit.v1.StreamIt/FindLeader",
};

static grpc_arg int_arg(const char *key, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key};
    arg.value.integer = value;
    return arg;
}

static grpc_channel *channel_create(const struct sti_client *client, const char *address)
{
    uint64_t receive = client->config.receive_bytes_max;
    int receive_max = receive > INT32_MAX ? INT32_MAX : (int)receive;
    uint32_t window = client->config.receive_window_bytes;
    grpc_arg args[] = {
        int_arg("grpc.max_receive_message_length", receive_max),
        int_arg("grpc.max_send_message_length", -1),
        int_arg("grpc.http2.max_frame_size", 1 << 20),
        int_arg("grpc.enable_retries", 0),
        int_arg("grpc.enable_http_proxy", 0),
        int_arg("grpc.enable_channelz", 0),
        int_arg("grpc.per_message_compression", 0),
        int_arg("grpc.per_message_decompression", 0),
        int_arg("grpc.service_config_disable_resolution", 1),
        int_arg("grpc.use_local_subchannel_pool", 1),
        int_arg("grpc.keepalive_time_ms", 60000),
        int_arg("grpc.keepalive_timeout_ms", 20000),
        int_arg("grpc.initial_reconnect_backoff_ms", 100),
        int_arg("grpc.min_reconnect_backoff_ms", 1000),
        int_arg("grpc.max_reconnect_backoff_ms", 1000),
        int_arg("grpc.http2.bdp_probe", window == 0),
        /* The last: left out when gRPC looks for a window. What it finds on a fast line under load
         * is far more than is needed, and no cache holds it. */
        int_arg("grpc.http2.lookahead_bytes", window > INT32_MAX ? INT32_MAX : (int)window),
    };
    size_t count = sizeof args / sizeof *args - (window == 0);
    grpc_channel_args channel_args = {.num_args = count, .args = args};
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, creds, &channel_args);
    grpc_channel_credentials_release(creds);
    return channel;
}

struct cl_conn *cl_conn_get(struct sti_client *client, const char *address)
{
    pthread_mutex_lock(&client->mu);
    struct cl_conn *conn = client->conns;
    while (conn != NULL && strcmp(conn->address, address) != 0) {
        conn = conn->next;
    }
    if (conn == NULL && (conn = calloc(1, sizeof *conn)) != NULL) {
        conn->address = strdup(address);
        conn->client = client;
        conn->channel = conn->address == NULL ? NULL : channel_create(client, address);
        if (conn->channel == NULL) {
            free(conn->address);
            free(conn);
            conn = NULL;
        } else {
            for (int i = 0; i < CL_METHOD_COUNT; i++) {
                conn->methods[i] =
                    grpc_channel_register_call(conn->channel, method_names[i], NULL, NULL);
            }
            conn->next = client->conns;
            client->conns = conn;
        }
    }
    pthread_mutex_unlock(&client->mu);
    return conn;
}

struct cl_conn *cl_conn_any(struct sti_client *client)
{
    struct cl_conn *conn = NULL;
    for (size_t i = 0; i < client->server_count; i++) {
        size_t next = atomic_fetch_add(&client->server_next, 1) % client->server_count;
        conn = cl_conn_get(client, client->servers[next]);
        if (conn == NULL || grpc_channel_check_connectivity_state(conn->channel, 0) !=
                                GRPC_CHANNEL_TRANSIENT_FAILURE) {
            break;
        }
    }
    return conn;
}

static void connect_step(struct cl_connect *connect)
{
    struct cl_conn *conn = connect->conn;
    struct sti_err err;
    connect->seen = grpc_channel_check_connectivity_state(conn->channel, 1);
    if (connect->seen == GRPC_CHANNEL_READY) {
        connect->done(connect, NULL);
    } else if (connect->seen == GRPC_CHANNEL_TRANSIENT_FAILURE ||
               connect->seen == GRPC_CHANNEL_SHUTDOWN || cl_now_us() >= connect->due_us) {
        sti_err_set(&err, STI_E_UNAVAILABLE, "%.120s: cannot connect", conn->address);
        connect->done(connect, &err);
    } else {
        grpc_connectivity_state seen = connect->seen;
        gpr_timespec deadline = cl_deadline(connect->due_us);
        TAG_GIVEN(&connect->tag); /* from here on it is the poll thread's */
        grpc_channel_watch_connectivity_state(conn->channel, seen, deadline, conn->client->queue,
                                              &connect->tag);
    }
}

static void connect_complete(struct cl_tag *tag, bool ok)
{
    (void)ok; /* false: the time is over, which connect_step sees for itself */
    connect_step(CL_CONTAINER_OF(tag, struct cl_connect, tag));
}

void cl_connect_start(struct cl_connect *connect, struct cl_conn *conn, uint64_t due_us)
{
    connect->tag.complete = connect_complete;
    connect->conn = conn;
    connect->due_us = due_us;
    connect_step(connect);
}

/* ---- addresses ----------------------------------------------------------------------------- */

char *cl_address_normalise(const char *server, size_t len)
{
    const char *colon = NULL;
    char *out = NULL;
    while (len > 0 && *server == ' ') {
        server++;
        len--;
    }
    while (len > 0 && server[len - 1] == ' ') {
        len--;
    }
    if (len > 0 && server[0] == '[') { /* [::1] or [::1]:8080 */
        const char *close = memchr(server, ']', len);
        if (close == NULL) {
            return NULL;
        }
        colon = close + 1 < server + len ? close + 1 : NULL;
    } else {
        colon = memchr(server, ':', len);
    }
    if (len == 0 || colon == server || (colon != NULL && *colon != ':')) {
        return NULL;
    }
    if (colon != NULL) {
        size_t digits = len - (size_t)(colon + 1 - server);
        char port[8] = "";
        if (digits == 0 || digits > 5) {
            return NULL;
        }
        memcpy(port, colon + 1, digits);
        if (strspn(port, "0123456789") != digits || strtol(port, NULL, 10) > 65535) {
            return NULL;
        }
    }
    if (asprintf(&out, colon == NULL ? "%.*s:8080" : "%.*s", (int)len, server) < 0) {
        return NULL;
    }
    return out;
}

static int servers_parse(struct sti_client *client, const char *servers, struct sti_err *err)
{
    size_t count = 1;
    for (const char *p = servers; *p != '\0'; p++) {
        count += *p == ',' ? 1u : 0u;
    }
    client->servers = calloc(count, sizeof(char *));
    if (client->servers == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory");
    }
    for (const char *from = servers;;) {
        size_t len = strcspn(from, ",");
        char *address = cl_address_normalise(from, len);
        if (address == NULL) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "server \"%.*s\": expected HOST:PORT, with port 1 to 65535",
                               (int)(len > 100 ? 100 : len), from);
        }
        client->servers[client->server_count++] = address;
        if (from[len] == '\0') {
            return STI_OK;
        }
        from += len + 1;
    }
}

/* ---- the object ---------------------------------------------------------------------------- */

void sti_client_config_init(struct sti_client_config *config)
{
    *config = (struct sti_client_config){.struct_size = sizeof *config,
                                         .timeout_ms = 30000,
                                         .servers = "localhost:8080",
                                         .client_id = "libstreamit",
                                         .receive_bytes_max = UINT64_C(256) << 20,
                                         .backoff_min_ms = 20,
                                         .backoff_max_ms = 1000,
                                         .metadata_refresh_ms = 300000,
                                         .receive_window_bytes = 4u << 20};
}

int cl_config_copy(void *to, size_t size, const void *from, size_t size_min, const char *what,
                   struct sti_err *err)
{
    uint32_t given;
    memcpy(&given, from, sizeof given); /* struct_size comes first in all of them */
    if (given < size_min) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "%s: struct_size is %u, at least %zu: was it filled by its init "
                           "function?",
                           what, given, size_min);
    }
    memcpy(to, from, given < size ? given : size);
    return STI_OK;
}

static int config_take(struct sti_client *client, const struct sti_client_config *config,
                       struct sti_err *err)
{
    sti_client_config_init(&client->config);
    int rc = cl_config_copy(&client->config, sizeof client->config, config,
                            offsetof(struct sti_client_config, backoff_min_ms), "client", err);
    const char *id = client->config.client_id, *trace = client->config.trace_id;
    const char *servers = client->config.servers;
    client->config.client_id = client->config.trace_id = NULL; /* ours from here on */
    client->config.servers = NULL;
    if (rc != STI_OK) {
        return rc;
    }
    if (servers == NULL || client->config.backoff_min_ms == 0 ||
        client->config.backoff_max_ms < client->config.backoff_min_ms) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "client: servers and 1 <= backoff_min_ms <= backoff_max_ms are needed; "
                           "the backoffs are %u and %u",
                           client->config.backoff_min_ms, client->config.backoff_max_ms);
    }
    client->config.client_id = strdup(id == NULL ? "libstreamit" : id);
    client->config.trace_id = trace == NULL ? NULL : strdup(trace);
    if (client->config.client_id == NULL || (trace != NULL && client->config.trace_id == NULL)) {
        return sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory");
    }
    return servers_parse(client, servers, err);
}

int sti_client_new(struct sti_client **out, const struct sti_client_config *config,
                   struct sti_err *err)
{
    struct sti_client *client = calloc(1, sizeof *client);
    *out = NULL;
    if (client == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "client: out of memory");
    }
    grpc_init();
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->wake_channel =
        grpc_lame_client_channel_create("wake", GRPC_STATUS_UNAVAILABLE, "only for waking");
    client->wake_call = grpc_channel_create_registered_call(
        client->wake_channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
        grpc_channel_register_call(client->wake_channel, "/wake", NULL, NULL),
        gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    client->wake_tag.complete = wake_complete;
    pthread_mutex_init(&client->alarm_mu, NULL);
    pthread_mutex_init(&client->mu, NULL);
    pthread_mutex_init(&client->call_mu, NULL);
    cl_cond_init(&client->idle);
    int rc = config_take(client, config, err);
    if (rc == STI_OK && pthread_create(&client->thread, NULL, poll_main, client) != 0) {
        rc = sti_err_set(err, STI_E_INTERNAL, "client: the poll thread cannot be started");
    }
    client->thread_started = rc == STI_OK;
    if (rc != STI_OK) {
        sti_client_free(client);
        return rc;
    }
    cl_topics_watch(client);
    *out = client;
    return STI_OK;
}

void sti_client_cancel(struct sti_client *client)
{
    atomic_fetch_add(&client->cancels, 1);
    cl_asks_cancel(client, false);
}

static void conns_free(struct sti_client *client)
{
    while (client->conns != NULL) {
        struct cl_conn *conn = client->conns;
        client->conns = conn->next;
        grpc_channel_destroy(conn->channel);
        free(conn->address);
        free(conn);
    }
}

void sti_client_free(struct sti_client *client)
{
    if (client == NULL) {
        return;
    }
    cl_asks_cancel(client, true);
    grpc_call_unref(client->wake_call);
    grpc_completion_queue_shutdown(client->queue);
    if (client->thread_started) {
        pthread_join(client->thread, NULL);
    } else {
        while (grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN) {
        }
    }
    conns_free(client);
    grpc_channel_destroy(client->wake_channel);
    grpc_completion_queue_destroy(client->queue);
    cl_topics_free(client);
    for (size_t i = 0; i < client->server_count; i++) {
        free(client->servers[i]);
    }
    free(client->servers);
    free((char *)(uintptr_t)client->config.client_id);
    free((char *)(uintptr_t)client->config.trace_id);
    pthread_cond_destroy(&client->idle);
    pthread_mutex_destroy(&client->alarm_mu);
    pthread_mutex_destroy(&client->mu);
    pthread_mutex_destroy(&client->call_mu);
    free(client);
    grpc_shutdown();
}
