/* server.c -- the gRPC server of one instance, and the queue that its clients share: start, stop.
 *
 * Stop: gRPC closes the port, the core breaks every link and waits for what handlers hold, and only
 * then is the queue shut down, because an answer that comes late would otherwise start a batch on a
 * dead one.
 */
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../common/grpc/listen.h"
#include "../common/grpc/thread_check.h"
#include "peer_grpc.h"

static void arg_add(grpc_arg *rows, size_t *count, const char *key, int64_t value)
{
    grpc_arg *arg = &rows[(*count)++];
    arg->type = GRPC_ARG_INTEGER;
    arg->key = (char *)(uintptr_t)key;
    arg->value.integer = value > INT32_MAX ? INT32_MAX : (int)value;
}

/* Of both sides alike: a node is both. */
size_t pgr_args(const struct pgr_conf *conf, grpc_arg rows[PGR_ARGS_MAX])
{
    size_t n = 0;
    int64_t message = conf->peer.message_bytes_max > PGR_FRAME_BYTES ? conf->peer.message_bytes_max
                                                                     : PGR_FRAME_BYTES;
    arg_add(rows, &n, "grpc.so_reuseport", 0);
    arg_add(rows, &n, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, message + PCO_MESSAGE_SLACK);
    arg_add(rows, &n, GRPC_ARG_HTTP2_MAX_FRAME_SIZE, PGR_FRAME_BYTES);
    arg_add(rows, &n, GRPC_ARG_MAX_CONCURRENT_STREAMS, 16);
    arg_add(rows, &n, GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
    arg_add(rows, &n, GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    arg_add(rows, &n, GRPC_ARG_ENABLE_CHANNELZ, 0);
    arg_add(rows, &n, GRPC_ARG_ENABLE_RETRIES, 0);
    arg_add(rows, &n, GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arg_add(rows, &n, GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    arg_add(rows, &n, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arg_add(rows, &n, GRPC_ARG_KEEPALIVE_TIME_MS, conf->keepalive_ms);
    arg_add(rows, &n, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, conf->keepalive_timeout_ms);
    arg_add(rows, &n, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arg_add(rows, &n, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arg_add(rows, &n, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10);
    return n;
}

static void *poller_main(void *arg)
{
    struct pgr_node *node = arg;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(node->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return NULL;
        }
        if (event.type == GRPC_OP_COMPLETE) {
            struct pgr_tag *tag = event.tag;
            gco_thread_acquire(tag);
            tag->fn(tag, event.success != 0);
        }
    }
}

static int pollers_start(struct pgr_node *node, struct sti_err *err)
{
    while ((int64_t)node->poller_count < node->conf->poller_threads) {
        int rc = pthread_create(&node->pollers[node->poller_count], NULL, poller_main, node);
        if (rc != 0) {
            return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "cannot start poller thread %u: %s",
                               node->poller_count + 1, strerror(rc));
        }
        (void)pthread_setname_np(node->pollers[node->poller_count], "peer-poller");
        node->poller_count++;
    }
    return STI_OK;
}

/* Where others are told to dial: a listener on all addresses says nothing of that. */
static void advertise(const struct pgr_node *node, char *out, size_t size)
{
    const struct pgr_conf *conf = node->conf;
    const char *host = conf->advertised_host;
    char machine[256] = "localhost";
    if (host == NULL || host[0] == '\0') {
        host = conf->host;
        if (gco_is_wildcard(host)) {
            (void)gethostname(machine, sizeof machine - 1);
            host = machine;
        }
    }
    gco_address(out, size, host,
                conf->advertised_port > 0 ? (int)conf->advertised_port : node->port);
}

static int port_open(struct pgr_node *node, struct sti_err *err)
{
    const struct pgr_conf *conf = node->conf;
    gco_address(node->address, sizeof node->address, conf->host, (int)conf->port);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    node->port = grpc_server_add_http2_port(node->server, node->address, credentials);
    grpc_server_credentials_release(credentials);
    if (node->port <= 0) {
        return gco_listen_refused(conf->host, (int)conf->port, node->address, err);
    }
    gco_address(node->address, sizeof node->address, conf->host, node->port);
    return STI_OK;
}

/* What is left when the server has shut down or was never started. */
static void core_close(struct pgr_node *node)
{
    grpc_completion_queue_shutdown(node->cq);
    while (node->poller_count > 0) {
        node->poller_count--;
        (void)pthread_join(node->pollers[node->poller_count], NULL);
    }
    grpc_server_destroy(node->server);
    grpc_completion_queue_destroy(node->cq);
    node->server = NULL;
    node->cq = NULL;
    grpc_shutdown();
    gco_log_detach(node->core.host);
}

/* ---- calls that nobody knows ---------------------------------------------------------------- */

static void stranger_free(struct pgr_stranger *s)
{
    if (s->call != NULL) {
        grpc_call_unref(s->call);
    }
    grpc_call_details_destroy(&s->details);
    grpc_metadata_array_destroy(&s->metadata);
    free(s);
}

static bool stranger_post(struct pgr_node *node);

static void on_stranger_done(struct pgr_tag *tag, bool ok)
{
    (void)ok;
    stranger_free(tag->of);
}

static void on_stranger(struct pgr_tag *tag, bool ok)
{
    struct pgr_stranger *s = tag->of;
    grpc_op ops[3];
    grpc_slice text = grpc_slice_from_static_string("a node's peers connect here, nobody else");
    if (!ok) {
        stranger_free(s);
        return;
    }
    if (!atomic_load(&s->node->stopping)) {
        (void)stranger_post(s->node);
    }
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[1].data.send_status_from_server.status = GRPC_STATUS_UNIMPLEMENTED;
    ops[1].data.send_status_from_server.status_details = &text;
    ops[2].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[2].data.recv_close_on_server.cancelled = &s->cancelled;
    s->tag_done = (struct pgr_tag){.fn = on_stranger_done, .of = s};
    gco_thread_release(&s->tag_done);
    if (grpc_call_start_batch(s->call, ops, 3, &s->tag_done, NULL) != GRPC_CALL_OK) {
        stranger_free(s);
    }
}

/* Without it a call of an unknown method would hang for ever. */
static bool stranger_post(struct pgr_node *node)
{
    struct pgr_stranger *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return false;
    }
    s->node = node;
    grpc_call_details_init(&s->details);
    grpc_metadata_array_init(&s->metadata);
    s->tag_new = (struct pgr_tag){.fn = on_stranger, .of = s};
    gco_thread_release(&s->tag_new);
    if (grpc_server_request_call(node->server, &s->call, &s->details, &s->metadata, node->cq,
                                 node->cq, &s->tag_new) != GRPC_CALL_OK) {
        stranger_free(s);
        return false;
    }
    return true;
}

/* ---- start and stop ------------------------------------------------------------------------- */

int pgr_server_start(struct pgr_node *node, struct sti_err *err)
{
    grpc_arg rows[PGR_ARGS_MAX];
    grpc_channel_args args = {pgr_args(node->conf, rows), rows};
    char address[320];
    gco_log_attach(node->core.host);
    grpc_init();
    node->server = grpc_server_create(&args, NULL);
    node->cq = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(node->server, node->cq, NULL);
    node->method =
        grpc_server_register_method(node->server, PGR_METHOD, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
    int rc = pollers_start(node, err);
    if (rc == STI_OK) {
        rc = port_open(node, err);
    }
    if (rc != STI_OK) {
        core_close(node);
        return rc;
    }
    advertise(node, address, sizeof address);
    pco_start(&node->core, address);
    grpc_server_start(node->server);
    if (!pgr_slot_post(node) || !stranger_post(node)) {
        (void)pgr_server_stop(node, 1000, NULL);
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to listen on %s", node->address);
    }
    node->core.host->announce(node->core.host->ctx, node->address);
    sti_log(node->core.host, STI_LOG_INFO, "listening", "other nodes may connect",
            STI_F_STR("address", node->address), STI_F_STR("advertised", address));
    return STI_OK;
}

static void on_shutdown(struct pgr_tag *tag, bool ok)
{
    struct pgr_node *node = tag->of;
    (void)ok;
    pthread_mutex_lock(&node->wait_mu);
    node->shutdown_done = true;
    pthread_cond_broadcast(&node->wait_cond);
    pthread_mutex_unlock(&node->wait_mu);
}

static bool wait_shutdown(struct pgr_node *node, uint32_t ms)
{
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000u;
    until.tv_nsec += (long)(ms % 1000u) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&node->wait_mu);
    while (!node->shutdown_done && rc == 0) {
        rc = pthread_cond_clockwait(&node->wait_cond, &node->wait_mu, CLOCK_MONOTONIC, &until);
    }
    bool done = node->shutdown_done;
    pthread_mutex_unlock(&node->wait_mu);
    return done;
}

int pgr_server_stop(struct pgr_node *node, uint32_t deadline_ms, struct sti_err *err)
{
    enum { POLITE_MS = 50 };
    atomic_store(&node->stopping, true);
    if (!node->shutdown_begun) { /* a stop that missed its deadline may be asked for again */
        node->shutdown_begun = true;
        node->shutdown_tag = (struct pgr_tag){.fn = on_shutdown, .of = node};
        gco_thread_release(&node->shutdown_tag);
        grpc_server_shutdown_and_notify(node->server, node->cq, &node->shutdown_tag);
    }
    int rc = pco_stop(&node->core, deadline_ms, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (!wait_shutdown(node, POLITE_MS)) { /* connections that carry no stream of ours */
        grpc_server_cancel_all_calls(node->server);
        if (!wait_shutdown(node, deadline_ms)) {
            return sti_err_set(err, STI_E_TIMED_OUT, "connections did not end within %u ms",
                               deadline_ms);
        }
    }
    core_close(node);
    return STI_OK;
}
