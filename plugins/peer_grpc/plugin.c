/* plugin.c -- descriptor, options and lifecycle of peer_grpc; see README.md. */
#include <stdlib.h>

#include "peer_grpc.h"

#define OPTION(name, ...)                                                                          \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .offset = offsetof(struct pgr_conf, name),        \
                                                 __VA_ARGS__}

OPTION(host, .type = STI_OPT_STRING, .def = "0.0.0.0", .max = 250,
       .help = "Address to listen on for other nodes; 0.0.0.0 listens on all, IPv6 included.");
OPTION(port, .type = STI_OPT_INT, .def = "8081", .min = 0, .max = 65535,
       .help = "TCP port to listen on; 0 picks a free one.");
OPTION(advertised_host, .type = STI_OPT_STRING, .max = 250,
       .help = "Host that other nodes are told to dial; without it the host, or, when listening on "
               "all addresses, the machine's name.");
OPTION(advertised_port, .type = STI_OPT_INT, .def = "0", .min = 0, .max = 65535,
       .help = "Port that other nodes are told to dial; 0: the port that is listened on.");
OPTION(poller_threads, .type = STI_OPT_INT, .def = "1", .min = 1, .max = PGR_POLLERS_MAX,
       .help = "Threads that serve the sockets; one is best up to two cores.");
OPTION(keepalive_ms, .type = STI_OPT_INT, .def = "5000", .min = 100, .max = 3600000, .unit = "ms",
       .help = "A connection on which nothing arrives is probed after so long.");
OPTION(keepalive_timeout_ms, .type = STI_OPT_INT, .def = "5000", .min = 100, .max = 3600000,
       .unit = "ms", .help = "A connection that does not answer a probe for so long is broken.");
PCO_OPTIONS(struct pgr_conf);

static const struct sti_option *const options[] = {&opt_host,
                                                   &opt_port,
                                                   &opt_advertised_host,
                                                   &opt_advertised_port,
                                                   &opt_poller_threads,
                                                   &opt_keepalive_ms,
                                                   &opt_keepalive_timeout_ms,
                                                   PCO_OPTION_ROWS,
                                                   NULL};

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    struct pgr_node *node = calloc(1, sizeof *node);
    *self = NULL;
    if (node == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a listener");
    }
    node->conf = conf;
    pco_init(&node->core, host, &node->conf->peer, &pgr_ops, node);
    pthread_mutex_init(&node->wait_mu, NULL);
    pthread_cond_init(&node->wait_cond, NULL);
    *self = node;
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    return pgr_server_start(self, err);
}

static int drain(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    return pco_drain(self, deadline_ms, err);
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    return pgr_server_stop(self, deadline_ms, err);
}

static void destroy(void *self)
{
    struct pgr_node *node = self;
    pthread_cond_destroy(&node->wait_cond);
    pthread_mutex_destroy(&node->wait_mu);
    pco_fini(&node->core);
    free(node);
}

static const struct sti_peer peer = {.iface = {.struct_size = sizeof peer,
                                               .major = STI_PEER_MAJOR,
                                               .minor = STI_PEER_MINOR,
                                               .id = STI_PEER_ID,
                                               .caps = STI_PEER_REMOTE},
                                     PCO_SLOTS};
static const struct sti_iface *const provides[] = {&peer.iface, NULL};
static const struct sti_lifecycle life = {.struct_size = sizeof life,
                                          .create = create,
                                          .start = start,
                                          .drain = drain,
                                          .stop = stop,
                                          .destroy = destroy};

extern const struct sti_plugin sti_plugin;
STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {.magic = STI_PLUGIN_MAGIC,
                                                        .struct_size = sizeof(struct sti_plugin),
                                                        .abi_major = STI_ABI_MAJOR,
                                                        .abi_minor = STI_ABI_MINOR,
                                                        .flags = STI_PLUGIN_RESIDENT,
                                                        .name = "peer_grpc",
                                                        .version = "0.1.0",
                                                        .license = "Apache-2.0",
                                                        .summary = "Calls between nodes over gRPC.",
                                                        .options = options,
                                                        .conf_size = sizeof(struct pgr_conf),
                                                        .provides = provides,
                                                        .life = &life};
