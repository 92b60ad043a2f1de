/* server.c -- the gRPC server of one instance: open, drain, stop.
 *
 * Start: completion queue, pollers, port, server start, slots; whatever fails is undone in reverse.
 * Drain: broker calls are refused as UNAVAILABLE, health says NOT_SERVING, waiting fetches are
 * cancelled, and what is under way ends; the listener stays open, so that clients get a typed
 * answer rather than a broken connection. Stop: streams end, gRPC closes its ports and tells when
 * the last call and connection have left; past half of the deadline, or soon after the last call,
 * whatever is left is cut off. Only when no call is left is the queue shut down, because a broker
 * that answers late would otherwise start a batch on a dead queue.
 */
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../common/grpc/listen.h"
#include "../common/grpc/thread_check.h"
#include "connections.h"
#include "transport.h"

enum {
    FRAME_BYTES = 1 << 20,
    /* So far beyond what is taken, a request is still read, and refused with our own error. */
    REFUSED_BYTES = 8 << 20,
    ARGS_MAX = 20,
    WAIT_SLICE_MS = 20,
    POLITE_US = 50000 /* for connections to close by themselves once no call is left */
};

struct args {
    grpc_arg rows[ARGS_MAX];
    size_t count;
};

static void arg_add(struct args *args, const char *key, int64_t value)
{
    grpc_arg *arg = &args->rows[args->count++];
    arg->type = GRPC_ARG_INTEGER;
    arg->key = (char *)key;
    arg->value.integer = value > INT32_MAX ? INT32_MAX : (int)value;
}

static grpc_server *server_new(const struct tgr_transport *t)
{
    const struct tgr_conf *conf = t->conf;
    struct args args = {.count = 0};
    grpc_resource_quota *quota = NULL;
    arg_add(&args, "grpc.so_reuseport", 0);
    arg_add(&args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
            conf->max_message_bytes + TGR_MESSAGE_SLACK_BYTES + REFUSED_BYTES);
    arg_add(&args, GRPC_ARG_HTTP2_MAX_FRAME_SIZE, FRAME_BYTES);
    arg_add(&args, GRPC_ARG_MAX_CONCURRENT_STREAMS, conf->max_concurrent_streams);
    arg_add(&args, GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
    arg_add(&args, GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    arg_add(&args, GRPC_ARG_ENABLE_CHANNELZ, 0);
    arg_add(&args, GRPC_ARG_KEEPALIVE_TIME_MS, conf->keepalive_ms);
    arg_add(&args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, conf->keepalive_timeout_ms);
    arg_add(&args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arg_add(&args, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arg_add(&args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
            conf->keepalive_min_interval_ms);
    if (conf->connection_idle_ms > 0) {
        arg_add(&args, GRPC_ARG_MAX_CONNECTION_IDLE_MS, conf->connection_idle_ms);
    }
    if (conf->memory_bytes_max > 0) {
        quota = grpc_resource_quota_create(t->host->instance);
        grpc_resource_quota_resize(quota, (size_t)conf->memory_bytes_max);
        grpc_arg *arg = &args.rows[args.count++];
        arg->type = GRPC_ARG_POINTER;
        arg->key = (char *)GRPC_ARG_RESOURCE_QUOTA;
        arg->value.pointer.p = quota;
        arg->value.pointer.vtable = grpc_resource_quota_arg_vtable();
    }
    grpc_channel_args channel_args = {args.count, args.rows};
    grpc_server *server = grpc_server_create(&channel_args, NULL);
    if (quota != NULL) {
        grpc_resource_quota_unref(quota);
    }
    return server;
}

/* Listening on all addresses says nothing about where clients reach them: without an option they
 * are told the address that they dialed, and others the machine's name. */
static void advertised_set(struct tgr_transport *t)
{
    const struct tgr_conf *conf = t->conf;
    bool named = conf->advertised_host != NULL && conf->advertised_host[0] != '\0';
    t->advertise_dialed = !named && gco_is_wildcard(conf->host);
    t->advertised_port = conf->advertised_port > 0 ? (int)conf->advertised_port : t->port;
    if (!t->advertise_dialed) {
        (void)snprintf(t->advertised_host, sizeof t->advertised_host, "%s",
                       named ? conf->advertised_host : conf->host);
    } else if (gethostname(t->advertised_host, sizeof t->advertised_host - 1) != 0 ||
               t->advertised_host[0] == '\0') {
        (void)snprintf(t->advertised_host, sizeof t->advertised_host, "localhost");
    }
}

static int port_open(struct tgr_transport *t, struct sti_err *err)
{
    const struct tgr_conf *conf = t->conf;
    gco_address(t->address, sizeof t->address, conf->host, (int)conf->port);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    t->port = grpc_server_add_http2_port(t->server, t->address, credentials);
    grpc_server_credentials_release(credentials);
    if (t->port <= 0) {
        return gco_listen_refused(conf->host, (int)conf->port, t->address, err);
    }
    gco_address(t->address, sizeof t->address, conf->host, t->port);
    advertised_set(t);
    return STI_OK;
}

static int pollers_start(struct tgr_transport *t, struct sti_err *err)
{
    while ((int64_t)t->poller_count < t->conf->poller_threads) {
        int rc = pthread_create(&t->pollers[t->poller_count], NULL, tgr_poller_main, t);
        if (rc != 0) {
            return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "cannot start poller thread %u: %s",
                               t->poller_count + 1, strerror(rc));
        }
        (void)pthread_setname_np(t->pollers[t->poller_count], "grpc-poller");
        t->poller_count++;
    }
    return STI_OK;
}

/* What is left when the server has shut down or was never started. */
static void core_close(struct tgr_transport *t)
{
    grpc_completion_queue_shutdown(t->cq);
    while (t->poller_count > 0) {
        t->poller_count--;
        (void)pthread_join(t->pollers[t->poller_count], NULL);
    }
    grpc_server_destroy(t->server);
    grpc_completion_queue_destroy(t->cq);
    t->server = NULL;
    t->cq = NULL;
    grpc_shutdown();
    gco_log_detach(t->host);
}

int tgr_server_start(struct tgr_transport *t, struct sti_err *err)
{
    gco_log_attach(t->host);
    grpc_init();
    t->server = server_new(t);
    t->cq = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(t->server, t->cq, NULL);
    for (int m = 0; m < TGR_UNKNOWN; m++) {
        if (tgr_methods[m].slots == 0) {
            continue; /* comes through the slots for unknown methods: see slot.c */
        }
        t->registered[m] = grpc_server_register_method(
            t->server, tgr_methods[m].path, NULL,
            tgr_methods[m].payload ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER
                                   : GRPC_SRM_PAYLOAD_NONE,
            0);
    }
    int rc = pollers_start(t, err);
    if (rc == STI_OK) {
        rc = port_open(t, err);
    }
    if (rc != STI_OK) {
        core_close(t);
        return rc;
    }
    grpc_server_start(t->server);
    tgr_connections_start(t);
    rc = tgr_slots_post(t, err);
    if (rc != STI_OK) {
        (void)tgr_server_stop(t, 1000, NULL);
        return rc;
    }
    t->host->announce(t->host->ctx, t->address);
    sti_log(t->host, STI_LOG_INFO, "listening", "gRPC clients may connect",
            STI_F_STR("address", t->address), STI_F_STR("advertised_host", t->advertised_host),
            STI_F_INT("advertised_port", t->advertised_port),
            STI_F_BOOL("advertised_as_dialed", t->advertise_dialed));
    return STI_OK;
}

void tgr_active_drop(struct tgr_transport *t, enum tgr_method method)
{
    sti_metric_sub(t->calls_in_flight, 1);
    sti_metric_sub(t->metrics[method].open, 1);
    if (tgr_is_stream(method)) {
        (void)atomic_fetch_sub(&t->streams, 1);
    }
    if (!atomic_load(&t->waiting)) {
        (void)atomic_fetch_sub(&t->active, 1);
        return;
    }
    pthread_mutex_lock(&t->wait_mu);
    (void)atomic_fetch_sub(&t->active, 1);
    pthread_cond_broadcast(&t->wait_cond);
    pthread_mutex_unlock(&t->wait_mu);
}

static bool quiet(const struct tgr_transport *t)
{
    return atomic_load(&t->active) <= atomic_load(&t->streams);
}

static bool calls_ended(const struct tgr_transport *t)
{
    return atomic_load(&t->active) == 0;
}

static bool all_ended(const struct tgr_transport *t)
{
    return t->shutdown_done && calls_ended(t);
}

/* Wait for `reached`, at most until `until_us` of the host's clock. Looks again every slice: a call
 * that ended just as the waiting began wakes nobody. */
static bool wait_for(struct tgr_transport *t, bool (*reached)(const struct tgr_transport *t),
                     uint64_t until_us)
{
    pthread_mutex_lock(&t->wait_mu);
    atomic_store(&t->waiting, true);
    bool ok = reached(t);
    while (!ok && sti_now_us(t->host) < until_us) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        ts.tv_nsec += WAIT_SLICE_MS * 1000000L;
        if (ts.tv_nsec >= 1000000000L) {
            ts.tv_nsec -= 1000000000L;
            ts.tv_sec++;
        }
        (void)pthread_cond_clockwait(&t->wait_cond, &t->wait_mu, CLOCK_MONOTONIC, &ts);
        ok = reached(t);
    }
    atomic_store(&t->waiting, false);
    pthread_mutex_unlock(&t->wait_mu);
    return ok;
}

int tgr_server_drain(struct tgr_transport *t, uint32_t deadline_ms, struct sti_err *err)
{
    uint64_t until_us = sti_now_us(t->host) + (uint64_t)deadline_ms * 1000u;
    atomic_store(&t->draining, true);
    tgr_watches_tell(t);
    tgr_parked_drain(t);
    uint64_t cut_us = until_us - (uint64_t)deadline_ms * 1000u / 2u;
    if (!wait_for(t, quiet, cut_us)) {
        tgr_parked_cut(t);
    }
    if (!wait_for(t, quiet, until_us)) {
        return sti_err_set(err, STI_E_TIMED_OUT, "%u calls were not answered within %u ms",
                           atomic_load(&t->active) - atomic_load(&t->streams), deadline_ms);
    }
    return STI_OK;
}

static void on_shutdown(struct tgr_tag *tag, bool ok)
{
    struct tgr_transport *t =
        (struct tgr_transport *)(void *)((char *)tag -
                                         offsetof(struct tgr_transport, shutdown_tag));
    (void)ok;
    pthread_mutex_lock(&t->wait_mu);
    t->shutdown_done = true;
    pthread_cond_broadcast(&t->wait_cond);
    pthread_mutex_unlock(&t->wait_mu);
}

int tgr_server_stop(struct tgr_transport *t, uint32_t deadline_ms, struct sti_err *err)
{
    uint64_t now_us = sti_now_us(t->host);
    uint64_t until_us = now_us + (uint64_t)deadline_ms * 1000u;
    atomic_store(&t->draining, true);
    atomic_store(&t->stopping, true);
    tgr_watches_end(t);
    tgr_connections_end(t);
    tgr_reflection_end_all(t);
    tgr_parked_drain(t);
    if (!t->shutdown_begun) { /* a stop that missed its deadline may be asked for again */
        t->shutdown_begun = true;
        t->shutdown_tag = (struct tgr_tag){.fn = on_shutdown, .rpc = NULL};
        gco_thread_release(&t->shutdown_tag);
        grpc_server_shutdown_and_notify(t->server, t->cq, &t->shutdown_tag);
    }
    if (!wait_for(t, calls_ended, now_us + (until_us - now_us) / 2)) {
        sti_log(t->host, STI_LOG_WARN, "calls_cancelled",
                "calls did not end in time and are cancelled",
                STI_F_UINT("calls", atomic_load(&t->active)));
    }
    /* A client that does not look at its socket would hold the shutdown up. */
    uint64_t polite_us = sti_now_us(t->host) + POLITE_US;
    if (!wait_for(t, all_ended, polite_us < until_us ? polite_us : until_us)) {
        grpc_server_cancel_all_calls(t->server);
        if (!wait_for(t, all_ended, until_us)) {
            return sti_err_set(err, STI_E_TIMED_OUT, "%u calls did not end within %u ms",
                               atomic_load(&t->active), deadline_ms);
        }
    }
    core_close(t);
    return STI_OK;
}
