/* plugin.c -- descriptor, options and lifecycle of transport_grpc. */
#include <stdlib.h>

#include "connections.h"
#include "transport.h"

#define OPTION(name, ...)                                                                          \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .offset = offsetof(struct tgr_conf, name),        \
                                                 __VA_ARGS__}

OPTION(host, .type = STI_OPT_STRING, .def = "0.0.0.0", .max = 250,
       .help = "Address to listen on; 0.0.0.0 listens on all, IPv6 included.");
OPTION(port, .type = STI_OPT_INT, .def = "8080", .min = 0, .max = 65535,
       .help = "TCP port to listen on; 0 picks a free one.");
OPTION(advertised_host, .type = STI_OPT_STRING, .max = 250,
       .help = "Host that clients are told to connect to; without it the host, or, when listening "
               "on all addresses, the one that a client dialed.");
OPTION(advertised_port, .type = STI_OPT_INT, .def = "0", .min = 0, .max = 65535,
       .help = "Port that clients are told to connect to; 0: the port that is listened on.");
OPTION(poller_threads, .type = STI_OPT_INT, .def = "1", .min = 1, .max = TGR_POLLERS_MAX,
       .help = "Threads that serve the sockets; one is best up to two cores.");
OPTION(max_message_bytes, .type = STI_OPT_INT, .def = "16777216", .min = 65536, .max = 1 << 30,
       .unit = "bytes",
       .help = "Record batches of one request may be so large; a larger request is refused.");
OPTION(max_concurrent_streams, .type = STI_OPT_INT, .def = "1024", .min = 1, .max = 1 << 20,
       .help = "Calls that one connection may have under way.");
OPTION(calls_in_flight_max, .type = STI_OPT_INT, .def = "65536", .min = 1, .max = 1 << 24,
       .help = "Calls of all connections that may be under way; beyond it calls are refused as "
               "THROTTLED.");
OPTION(partitions_per_call_max, .type = STI_OPT_INT, .def = "4096", .min = 1, .max = 1 << 20,
       .help = "Partitions that one call may name.");
OPTION(fetch_response_bytes_max, .type = STI_OPT_INT, .def = "67108864", .min = 1024,
       .max = 1 << 30, .unit = "bytes",
       .help = "A fetch that asks for more is answered with so much; a first batch that is larger "
               "comes whole.");
OPTION(memory_bytes_max, .type = STI_OPT_INT, .def = "1G", .min = 0, .max = INT64_C(1) << 40,
       .unit = "bytes",
       .help =
           "Memory that gRPC may use for connections and messages; when it is used up, calls whose "
           "messages are still on their way end. 0: without limit.");
OPTION(stream_requests_max, .type = STI_OPT_INT, .def = "64", .min = 1, .max = 65536,
       .help = "Requests of one produce stream that may be under way; with so many the stream is "
               "not read from.");
OPTION(stream_partitions_max, .type = STI_OPT_INT, .def = "16384", .min = 1, .max = 1 << 20,
       .help = "Partitions of one produce stream that may have requests under way, or failures "
               "that its client has not read of; beyond it the stream is ended.");
OPTION(connections_max, .type = STI_OPT_INT, .def = "15000", .min = 0, .max = 1 << 20,
       .help = "Connections that are served; calls on more get RESOURCE_EXHAUSTED, and those that "
               "make none are closed. At most three quarters of the files that the process may "
               "open. 0: no limit.");
OPTION(connections_per_address_max, .type = STI_OPT_INT, .def = "0", .min = 0, .max = 1 << 20,
       .help = "Of them, as many may come from one address; 0: no limit.");
OPTION(connection_idle_ms, .type = STI_OPT_INT, .def = "0", .min = 0, .max = 86400000, .unit = "ms",
       .help = "A connection without a call for so long is closed, politely; clients connect again "
               "by themselves. 0: never.");
OPTION(keepalive_ms, .type = STI_OPT_INT, .def = "60000", .min = 1000, .max = 86400000,
       .unit = "ms", .help = "An idle connection is probed after so long.");
OPTION(keepalive_timeout_ms, .type = STI_OPT_INT, .def = "20000", .min = 100, .max = 3600000,
       .unit = "ms", .help = "A connection that does not answer a probe for so long is closed.");
OPTION(keepalive_min_interval_ms, .type = STI_OPT_INT, .def = "10000", .min = 0, .max = 3600000,
       .unit = "ms",
       .help = "A client that probes more often while nothing is sent is sent away "
               "(too_many_pings).");

static const struct sti_option *const options[] = {&opt_host,
                                                   &opt_port,
                                                   &opt_advertised_host,
                                                   &opt_advertised_port,
                                                   &opt_poller_threads,
                                                   &opt_max_message_bytes,
                                                   &opt_max_concurrent_streams,
                                                   &opt_calls_in_flight_max,
                                                   &opt_partitions_per_call_max,
                                                   &opt_fetch_response_bytes_max,
                                                   &opt_memory_bytes_max,
                                                   &opt_stream_requests_max,
                                                   &opt_stream_partitions_max,
                                                   &opt_connections_max,
                                                   &opt_connections_per_address_max,
                                                   &opt_connection_idle_ms,
                                                   &opt_keepalive_ms,
                                                   &opt_keepalive_timeout_ms,
                                                   &opt_keepalive_min_interval_ms,
                                                   NULL};

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    struct tgr_transport *t = calloc(1, sizeof *t);
    *self = NULL;
    if (t == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a listener");
    }
    t->host = host;
    t->conf = conf;
    int rc = tgr_watches_new(t, err);
    if (rc == STI_OK) {
        rc = tgr_connections_new(t, err);
    }
    if (rc != STI_OK) {
        tgr_watches_free(t);
        free(t);
        return rc;
    }
    pthread_mutex_init(&t->poll_mu, NULL);
    pthread_mutex_init(&t->wait_mu, NULL);
    pthread_cond_init(&t->wait_cond, NULL);
    for (unsigned i = 0; i < TGR_SHARDS; i++) {
        pthread_mutex_init(&t->shards[i].mu, NULL);
    }
    *self = t;
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    struct tgr_transport *t = self;
    int rc = t->host->bind(t->host->ctx, STI_BROKER_ID, NULL, STI_BROKER_MAJOR, STI_BROKER_MINOR,
                           &t->broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    t->host->random(t->host->ctx, &t->trace_random, sizeof t->trace_random);
    tgr_metrics_init(t);
    return tgr_server_start(t, err);
}

static int drain(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    return tgr_server_drain(self, deadline_ms, err);
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    return tgr_server_stop(self, deadline_ms, err);
}

static void destroy(void *self)
{
    struct tgr_transport *t = self;
    for (unsigned i = 0; i < TGR_SHARDS; i++) {
        pthread_mutex_destroy(&t->shards[i].mu);
    }
    pthread_cond_destroy(&t->wait_cond);
    pthread_mutex_destroy(&t->wait_mu);
    pthread_mutex_destroy(&t->poll_mu);
    tgr_watches_free(t);
    tgr_connections_free(t);
    free(t);
}

static int endpoint(void *self, struct sti_endpoint *out, struct sti_err *err)
{
    struct tgr_transport *t = self;
    if (t->server == NULL) {
        return sti_err_set(err, STI_E_PRECONDITION, "%s has not started", t->host->instance);
    }
    out->host = t->advertised_host;
    out->port = t->advertised_port;
    return STI_OK;
}

static const struct sti_transport transport = {.iface = {.struct_size = sizeof transport,
                                                         .major = STI_TRANSPORT_MAJOR,
                                                         .minor = STI_TRANSPORT_MINOR,
                                                         .id = STI_TRANSPORT_ID},
                                               .endpoint = endpoint};

static const struct sti_iface *const provides[] = {&transport.iface, NULL};

static const struct sti_requirement need_broker = {.struct_size = sizeof need_broker,
                                                   .major = STI_BROKER_MAJOR,
                                                   .minor = STI_BROKER_MINOR,
                                                   .iface = STI_BROKER_ID};
static const struct sti_requirement *const needs[] = {&need_broker, NULL};

static const struct sti_lifecycle life = {.struct_size = sizeof life,
                                          .create = create,
                                          .start = start,
                                          .drain = drain,
                                          .stop = stop,
                                          .destroy = destroy};

extern const struct sti_plugin sti_plugin;
STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .flags = STI_PLUGIN_RESIDENT,
    .name = "transport_grpc",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "The public API over gRPC, with health and reflection.",
    .options = options,
    .conf_size = sizeof(struct tgr_conf),
    .provides = provides,
    .needs = needs,
    .life = &life};
