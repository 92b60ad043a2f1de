/* plugin.c -- descriptor, options and lifecycle of peer_sim; see README.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

static const struct sti_option opt_network = {
    .struct_size = sizeof(struct sti_option),
    .key = "network",
    .type = STI_OPT_STRING,
    .offset = offsetof(struct psi_conf, network),
    .def = "default",
    .min = 1,
    .max = PSI_ADDRESS_MAX,
    .help = "Name of the simulated network; instances of a process that name the same one meet."};
static const struct sti_option opt_address = {
    .struct_size = sizeof(struct sti_option),
    .key = "address",
    .type = STI_OPT_STRING,
    .offset = offsetof(struct psi_conf, address),
    .max = PSI_ADDRESS_MAX,
    .help = "Address on that network; without it one that is free."};

#define OPTION(name, ...)                                                                          \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_INT,                              \
                                                 .offset = offsetof(struct psi_conf, name),        \
                                                 __VA_ARGS__}

OPTION(seed, .def = "1", .min = 0, .max = INT64_MAX,
       .help = "Seed of delays and losses; that of the first instance on a network counts, as do "
               "the three options below.");
OPTION(delay_min_us, .def = "0", .min = 0, .max = 60000000, .unit = "us",
       .help = "The least that a message takes.");
OPTION(delay_max_us, .def = "200", .min = 0, .max = 60000000, .unit = "us",
       .help = "The most that it takes.");
OPTION(lost_per_million, .def = "0", .min = 0, .max = 1000000,
       .help = "Of a million messages so many are lost, each of which breaks its connection.");
OPTION(detect_ms, .def = "1000", .min = 1, .max = 3600000, .unit = "ms",
       .help = "A connection through which nothing passes is found broken after so long.");
PCO_OPTIONS(struct psi_conf);

static const struct sti_option *const options[] = {
    &opt_network,      &opt_address,      &opt_seed,
    &opt_delay_min_us, &opt_delay_max_us, &opt_lost_per_million,
    &opt_detect_ms,    PCO_OPTION_ROWS,   NULL};

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    const struct psi_conf *settings = conf;
    *self = NULL;
    if (settings->delay_min_us > settings->delay_max_us) {
        return sti_err_set(err, STI_E_CONFIG, "delay_min_us, %lld, is more than delay_max_us, %lld",
                           (long long)settings->delay_min_us, (long long)settings->delay_max_us);
    }
    struct psi_node *node = calloc(1, sizeof *node);
    if (node == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a simulated node");
    }
    node->conf = conf;
    pco_init(&node->core, host, &settings->peer, &psi_ops, node);
    *self = node;
    return STI_OK;
}

/* @locks network->mu held */
static bool is_taken(const struct psi_network *net, const char *address)
{
    const struct psi_node *node = net->nodes;
    while (node != NULL && strcmp(node->address, address) != 0) {
        node = node->next;
    }
    return node != NULL;
}

static int start(void *self, struct sti_err *err)
{
    struct psi_node *node = self;
    int rc = STI_OK;
    node->network = psi_network_join(node->conf, err);
    if (node->network == NULL) {
        return STI_E_NO_MEMORY;
    }
    pthread_mutex_lock(&node->network->mu);
    if (node->conf->address != NULL && node->conf->address[0] != '\0') {
        (void)snprintf(node->address, sizeof node->address, "%s", node->conf->address);
        if (is_taken(node->network, node->address)) {
            rc = sti_err_set(err, STI_E_IN_USE, "network %s: the address %s is in use",
                             node->conf->network, node->address);
        }
    } else {
        unsigned number = 0;
        do {
            (void)snprintf(node->address, sizeof node->address, "sim-%u", ++number);
        } while (is_taken(node->network, node->address));
    }
    if (rc == STI_OK) {
        node->listening = true;
        node->next = node->network->nodes;
        node->network->nodes = node;
    }
    pthread_mutex_unlock(&node->network->mu);
    if (rc != STI_OK) {
        psi_network_leave(node->network);
        return rc;
    }
    pco_start(&node->core, node->address);
    return STI_OK;
}

static int drain(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    return pco_drain(self, deadline_ms, err);
}

/* Wait until no link of the node is left. */
static bool links_ended(struct psi_node *node, uint32_t deadline_ms)
{
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += deadline_ms / 1000u + 1;
    pthread_mutex_lock(&node->network->mu);
    while (node->live > 0 && rc == 0) {
        rc = pthread_cond_clockwait(&node->network->changed, &node->network->mu, CLOCK_MONOTONIC,
                                    &until);
    }
    bool ended = node->live == 0;
    pthread_mutex_unlock(&node->network->mu);
    return ended;
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct psi_node *node = self;
    struct psi_network *net = node->network;
    pthread_mutex_lock(&net->mu);
    if (node->listening) {
        struct psi_node **at = &net->nodes;
        while (*at != node) {
            at = &(*at)->next;
        }
        *at = node->next;
        node->listening = false;
    }
    pthread_mutex_unlock(&net->mu);
    psi_links_refuse(node);
    int rc = pco_stop(&node->core, deadline_ms, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (!links_ended(node, deadline_ms)) {
        return sti_err_set(err, STI_E_TIMED_OUT, "simulated connections did not end within %u ms",
                           deadline_ms);
    }
    psi_network_leave(net);
    return STI_OK;
}

static void destroy(void *self)
{
    struct psi_node *node = self;
    pco_fini(&node->core);
    free(node);
}

static const struct sti_peer peer = {.iface = {.struct_size = sizeof peer,
                                               .major = STI_PEER_MAJOR,
                                               .minor = STI_PEER_MINOR,
                                               .id = STI_PEER_ID},
                                     PCO_SLOTS};
static const struct sti_peer_sim control = {.iface = {.struct_size = sizeof control,
                                                      .major = STI_PEER_SIM_MAJOR,
                                                      .minor = STI_PEER_SIM_MINOR,
                                                      .id = STI_PEER_SIM_ID},
                                            .weather = psi_weather,
                                            .cut = psi_cut,
                                            .heal = psi_heal,
                                            .trace = psi_trace};
static const struct sti_iface *const provides[] = {&peer.iface, &control.iface, NULL};
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
    .name = "peer_sim",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Calls between nodes of one process, over a simulated network.",
    .options = options,
    .conf_size = sizeof(struct psi_conf),
    .provides = provides,
    .life = &life};
