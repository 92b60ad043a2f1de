/* client.c -- the client object: its poll thread, its alarms, its connections. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static _Thread_local const struct sti_client *polling;

uint64_t cl_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

gpr_timespec cl_deadline(uint64_t due_us)
{
    uint64_t now = cl_now_us();
    if (due_us == UINT64_MAX) {
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    }
    return gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC),
        gpr_time_from_micros(due_us > now ? (int64_t)(due_us - now) : 0, GPR_TIMESPAN));
}

uint64_t cl_backoff_us(uint32_t failures)
{
    uint64_t backoff = (uint64_t)CL_BACKOFF_MIN_US << (failures > 6 ? 6 : failures);
    backoff = backoff > CL_BACKOFF_MAX_US ? CL_BACKOFF_MAX_US : backoff;
    /* Jitter from the clock's low digits: enough to part clients that failed together. */
    return backoff / 2 + cl_now_us() % (backoff / 2 + 1);
}

bool cl_on_poll_thread(const struct sti_client *client)
{
    return polling == client;
}

void cl_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool cl_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t due_us)
{
    struct timespec ts = {.tv_sec = (time_t)(due_us / 1000000u),
                          .tv_nsec = (long)(due_us % 1000000u) * 1000};
    return pthread_cond_timedwait(cond, mu, &ts) != ETIMEDOUT;
}

/* ---- alarms -------------------------------------------------------------------------------- */

static void wake_complete(struct cl_tag *tag, bool ok)
{
    (void)tag;
    (void)ok;
}

/* Have the poll thread look at the alarms again. */
static void wake(struct sti_client *client)
{
    if (!cl_on_poll_thread(client)) {
        (void)grpc_call_start_batch(client->wake_call, NULL, 0, &client->wake_tag, NULL);
    }
}

/* @locks client->alarm_mu held */
static bool alarm_unlink(struct sti_client *client, const struct cl_alarm *alarm)
{
    for (struct cl_alarm **at = &client->alarms; *at != NULL; at = &(*at)->next) {
        if (*at == alarm) {
            *at = alarm->next;
            return true;
        }
    }
    return false;
}

/* @locks client->alarm_mu held. @return true: it is the earliest one */
static bool alarm_insert(struct sti_client *client, struct cl_alarm *alarm)
{
    struct cl_alarm **at = &client->alarms;
    while (*at != NULL && (*at)->due_us <= alarm->due_us) {
        at = &(*at)->next;
    }
    alarm->next = *at;
    *at = alarm;
    return client->alarms == alarm;
}

void cl_alarm_start(struct sti_client *client, struct cl_alarm *alarm, uint64_t due_us)
{
    pthread_mutex_lock(&client->alarm_mu);
    alarm->due_us = due_us;
    alarm->cancelled = false;
    bool first = alarm_insert(client, alarm);
    pthread_mutex_unlock(&client->alarm_mu);
    if (first) {
        wake(client);
    }
}

void cl_alarm_cancel(struct sti_client *client, struct cl_alarm *alarm)
{
    pthread_mutex_lock(&client->alarm_mu);
    bool armed = alarm_unlink(client, alarm);
    if (armed) {
        alarm->due_us = 0;
        alarm->cancelled = true;
        (void)alarm_insert(client, alarm);
    }
    pthread_mutex_unlock(&client->alarm_mu);
    if (armed) {
        wake(client);
    }
}

/* Fire what is due. @return when the next one is. @thread poll thread */
static uint64_t alarms_fire(struct sti_client *client)
{
    for (;;) {
        pthread_mutex_lock(&client->alarm_mu);
        struct cl_alarm *alarm = client->alarms;
        uint64_t due = alarm == NULL ? UINT64_MAX : alarm->due_us;
        bool now = alarm != NULL && due <= cl_now_us();
        bool cancelled = now && alarm->cancelled;
        if (now) {
            client->alarms = alarm->next;
        }
        pthread_mutex_unlock(&client->alarm_mu);
        if (!now) {
            return due;
        }
        alarm->fire(alarm, cancelled);
    }
}

/* ---- connections --------------------------------------------------------------------------- */

static const char *const method_names[CL_METHOD_COUNT] = {
    [CL_PRODUCE] = "/streamit.v1.StreamIt/Produce",
    [CL_FETCH] = "/streamit.v1.StreamIt/Fetch",
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
    int receive_max =
        client->receive_bytes_max > INT32_MAX ? INT32_MAX : (int)client->receive_bytes_max;
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
        int_arg("grpc.min_reconnect_backoff_ms", 100),
        int_arg("grpc.max_reconnect_backoff_ms", 1000),
    };
    grpc_channel_args channel_args = {.num_args = sizeof args / sizeof *args, .args = args};
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
    size_t i = atomic_fetch_add(&client->server_next, 1) % client->server_count;
    return cl_conn_get(client, client->servers[i]);
}

bool cl_conn_is_ready(struct cl_conn *conn)
{
    return grpc_channel_check_connectivity_state(conn->channel, 1) == GRPC_CHANNEL_READY;
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
        grpc_channel_watch_connectivity_state(conn->channel, connect->seen,
                                              cl_deadline(connect->due_us), conn->client->queue,
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

#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *addr);
#define TAG_TAKEN(tag) __tsan_acquire(tag)
#else
#define TAG_TAKEN(tag) ((void)0)
#endif

static void *poll_main(void *arg)
{
    struct sti_client *client = arg;
    polling = client;
    for (;;) {
        uint64_t due = alarms_fire(client);
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

void sti_client_config_init(struct sti_client_config *config)
{
    *config = (struct sti_client_config){.struct_size = sizeof *config,
                                         .timeout_ms = 30000,
                                         .servers = "localhost:8080",
                                         .client_id = "libstreamit",
                                         .receive_bytes_max = UINT64_C(256) << 20};
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
    client->timeout_ms = config->timeout_ms;
    client->receive_bytes_max = config->receive_bytes_max;
    client->client_id = strdup(config->client_id == NULL ? "libstreamit" : config->client_id);
    client->trace_id = config->trace_id == NULL ? NULL : strdup(config->trace_id);
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
    int rc = servers_parse(client, config->servers, err);
    if (rc == STI_OK && pthread_create(&client->thread, NULL, poll_main, client) != 0) {
        rc = sti_err_set(err, STI_E_INTERNAL, "client: the poll thread cannot be started");
    }
    client->thread_started = rc == STI_OK;
    if (rc != STI_OK) {
        sti_client_free(client);
        return rc;
    }
    *out = client;
    return STI_OK;
}

static void topics_free(struct sti_client *client)
{
    while (client->topics != NULL) {
        struct cl_topic *topic = client->topics;
        client->topics = topic->next;
        pthread_mutex_destroy(&topic->mu);
        free(topic->nodes);
        free(topic->leaders);
        free(topic->name);
        free(topic);
    }
}

void sti_client_free(struct sti_client *client)
{
    if (client == NULL) {
        return;
    }
    grpc_call_unref(client->wake_call);
    grpc_completion_queue_shutdown(client->queue);
    if (client->thread_started) {
        pthread_join(client->thread, NULL);
    } else {
        while (grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN) {
        }
    }
    while (client->conns != NULL) {
        struct cl_conn *conn = client->conns;
        client->conns = conn->next;
        grpc_channel_destroy(conn->channel);
        free(conn->address);
        free(conn);
    }
    grpc_channel_destroy(client->wake_channel);
    grpc_completion_queue_destroy(client->queue);
    pthread_mutex_destroy(&client->alarm_mu);
    topics_free(client);
    for (size_t i = 0; i < client->server_count; i++) {
        free(client->servers[i]);
    }
    free(client->servers);
    free(client->client_id);
    free(client->trace_id);
    pthread_mutex_destroy(&client->mu);
    pthread_mutex_destroy(&client->call_mu);
    free(client);
    grpc_shutdown();
}
