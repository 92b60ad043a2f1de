/* network.c -- the networks of this process: who is on them, their weather, and their cuts. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t registry_mu = PTHREAD_MUTEX_INITIALIZER;
static struct psi_network *registry;

struct psi_network *psi_network_join(const struct psi_conf *conf, struct sti_err *err)
{
    pthread_mutex_lock(&registry_mu);
    struct psi_network *net = registry;
    while (net != NULL && strcmp(net->name, conf->network) != 0) {
        net = net->next;
    }
    if (net == NULL) {
        net = calloc(1, sizeof *net);
        if (net == NULL) {
            pthread_mutex_unlock(&registry_mu);
            (void)sti_err_set(err, STI_E_NO_MEMORY, "no memory for network %s", conf->network);
            return NULL;
        }
        (void)snprintf(net->name, sizeof net->name, "%s", conf->network);
        pthread_mutex_init(&net->mu, NULL);
        pthread_cond_init(&net->changed, NULL);
        net->random = (uint64_t)conf->seed;
        net->weather =
            (struct sti_peer_sim_weather){.struct_size = sizeof net->weather,
                                          .lost_per_million = (uint32_t)conf->lost_per_million,
                                          .delay_min_us = (uint64_t)conf->delay_min_us,
                                          .delay_max_us = (uint64_t)conf->delay_max_us,
                                          .detect_us = (uint64_t)conf->detect_ms * 1000u};
        net->trace = (struct sti_peer_sim_trace){.struct_size = sizeof net->trace,
                                                 .hash = UINT64_C(14695981039346656037)};
        net->next = registry;
        registry = net;
    }
    net->users++;
    pthread_mutex_unlock(&registry_mu);
    return net;
}

void psi_network_leave(struct psi_network *net)
{
    pthread_mutex_lock(&registry_mu);
    if (--net->users == 0) {
        struct psi_network **at = &registry;
        while (*at != net) {
            at = &(*at)->next;
        }
        *at = net->next;
        pthread_cond_destroy(&net->changed);
        pthread_mutex_destroy(&net->mu);
        free(net);
    }
    pthread_mutex_unlock(&registry_mu);
}

uint32_t psi_random(struct psi_network *net)
{
    /* splitmix64 */
    uint64_t z = (net->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint64_t psi_delay_us(struct psi_network *net)
{
    const struct sti_peer_sim_weather *w = &net->weather;
    uint64_t range = w->delay_max_us > w->delay_min_us ? w->delay_max_us - w->delay_min_us : 0;
    return w->delay_min_us + psi_random(net) % (range + 1);
}

bool psi_is_cut(const struct psi_network *net, const char *from, const char *to)
{
    for (unsigned i = 0; i < net->cut_count; i++) {
        if (strcmp(net->cuts[i].from, from) == 0 && strcmp(net->cuts[i].to, to) == 0) {
            return true;
        }
    }
    return false;
}

static void hash_bytes(uint64_t *hash, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        *hash = (*hash ^ ((const uint8_t *)bytes)[i]) * UINT64_C(1099511628211);
    }
}

static void hash_number(uint64_t *hash, uint64_t number)
{
    for (unsigned i = 0; i < 8; i++, number >>= 8) {
        uint8_t byte = (uint8_t)number;
        hash_bytes(hash, &byte, 1);
    }
}

void psi_note(struct psi_network *net, uint64_t now_us, const char *from, const char *to,
              enum psi_kind kind, uint64_t len)
{
    hash_number(&net->trace.hash, now_us);
    hash_number(&net->trace.hash, (uint64_t)kind);
    hash_number(&net->trace.hash, len);
    hash_bytes(&net->trace.hash, from, strlen(from) + 1);
    hash_bytes(&net->trace.hash, to, strlen(to) + 1);
    net->trace.events++;
}

/* ---- streamit.peer_sim ---------------------------------------------------------------------- */

void psi_weather(void *self, const struct sti_peer_sim_weather *weather)
{
    struct psi_network *net = ((struct psi_node *)self)->network;
    pthread_mutex_lock(&net->mu);
    net->weather = *weather;
    pthread_mutex_unlock(&net->mu);
}

static int cut_one(struct psi_network *net, const char *from, const char *to, struct sti_err *err)
{
    if (psi_is_cut(net, from, to)) {
        return STI_OK;
    }
    if (net->cut_count == PSI_CUTS_MAX) {
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "network %s has %d cuts already",
                           net->name, PSI_CUTS_MAX);
    }
    struct psi_cut *cut = &net->cuts[net->cut_count++];
    (void)snprintf(cut->from, sizeof cut->from, "%s", from);
    (void)snprintf(cut->to, sizeof cut->to, "%s", to);
    return STI_OK;
}

static void heal_one(struct psi_network *net, const char *from, const char *to)
{
    for (unsigned i = 0; i < net->cut_count; i++) {
        if (strcmp(net->cuts[i].from, from) == 0 && strcmp(net->cuts[i].to, to) == 0) {
            net->cuts[i] = net->cuts[--net->cut_count];
            return;
        }
    }
}

/* Each link learns when it will be found broken, or that it goes on. */
static void look_at_links(struct psi_network *net)
{
    for (struct psi_link *link = net->links; link != NULL; link = link->next) {
        bool cut = psi_is_cut(net, link->to, link->node->address) ||
                   psi_is_cut(net, link->node->address, link->to);
        if (!cut) {
            link->break_us = 0;
        } else if (link->break_us == 0) {
            link->break_us = sti_now_us(link->node->core.host) + net->weather.detect_us;
        }
        psi_link_arm(link);
    }
}

int psi_cut(void *self, const char *from, const char *to, bool both_ways, struct sti_err *err)
{
    struct psi_network *net = ((struct psi_node *)self)->network;
    pthread_mutex_lock(&net->mu);
    int rc = cut_one(net, from, to, err);
    if (rc == STI_OK && both_ways) {
        rc = cut_one(net, to, from, err);
    }
    look_at_links(net);
    pthread_mutex_unlock(&net->mu);
    return rc;
}

void psi_heal(void *self, const char *from, const char *to, bool both_ways)
{
    struct psi_network *net = ((struct psi_node *)self)->network;
    pthread_mutex_lock(&net->mu);
    if (from == NULL || to == NULL) {
        net->cut_count = 0;
    } else {
        heal_one(net, from, to);
        if (both_ways) {
            heal_one(net, to, from);
        }
    }
    look_at_links(net);
    pthread_mutex_unlock(&net->mu);
}

void psi_trace(void *self, struct sti_peer_sim_trace *out)
{
    struct psi_network *net = ((struct psi_node *)self)->network;
    pthread_mutex_lock(&net->mu);
    *out = net->trace;
    pthread_mutex_unlock(&net->mu);
}
