/* sim.h -- peer_sim inside: networks, nodes on them, links between them. See README.md. */
#ifndef PEER_SIM_SIM_H
#define PEER_SIM_SIM_H

#include "../common/peer/core.h"
#include "streamit/peer_sim.h"

enum { PSI_CUTS_MAX = 256, PSI_ADDRESS_MAX = 63 };

struct psi_conf {
    const char *network, *address;
    int64_t seed, delay_min_us, delay_max_us, lost_per_million, detect_ms;
    struct pco_conf peer;
};

struct psi_cut {
    char from[PSI_ADDRESS_MAX + 1], to[PSI_ADDRESS_MAX + 1];
};

/* One lock guards a network, its nodes and all of their links. It is taken under a link's own, and
 * nothing is called under it but the host's timers. */
struct psi_network {
    struct psi_network *next; /* the registry's lock */
    char name[PSI_ADDRESS_MAX + 1];
    unsigned users; /* the registry's lock */

    pthread_mutex_t mu;
    pthread_cond_t changed; /* some node's `live` fell */
    uint64_t random;
    struct sti_peer_sim_weather weather;
    struct psi_cut cuts[PSI_CUTS_MAX];
    unsigned cut_count;
    struct psi_node *nodes;
    struct psi_link *links;
    struct sti_peer_sim_trace trace;
};

/* An instance. */
struct psi_node {
    struct pco core; /* first */
    const struct psi_conf *conf;
    struct psi_network *network;
    char address[PSI_ADDRESS_MAX + 1];
    struct psi_node *next; /* network->mu, as what follows */
    bool listening;
    unsigned live; /* links that exist */
};

enum psi_kind { PSI_OPEN = 1, PSI_MESSAGE = 2, PSI_CLOSE = 3 };

/* On its way to a link. */
struct psi_event {
    struct psi_event *next;
    enum psi_kind kind;
    uint64_t due_us;
    uint64_t frame_len;       /* PSI_MESSAGE: what the sender is to be told of */
    struct psi_link *sender;  /* PSI_MESSAGE: a reference */
    struct sti_slice message; /* PSI_MESSAGE: all of it, with its reference */
    const char *why;          /* PSI_CLOSE */
};

/* One end of a connection. */
struct psi_link {
    struct pco_link base; /* first */
    struct psi_node *node;
    char to[PSI_ADDRESS_MAX + 1]; /* the address of the other end */
    struct sti_timer timer;
    /* network->mu */
    struct psi_link *next, **at;
    struct psi_link *other; /* a reference; NULL: none yet, or gone */
    struct psi_event *events, **events_end;
    uint64_t last_due_us; /* of what was sent to it */
    uint64_t break_us;    /* when a cut is noticed; 0: never */
    const char *broken;   /* why it ends now, whatever is on its way; NULL: it does not */
    bool armed, delivering, paused, accepted, ended;
};

/* network.c */
struct psi_network *psi_network_join(const struct psi_conf *conf, struct sti_err *err);
void psi_network_leave(struct psi_network *network);
/* All under network->mu. */
uint32_t psi_random(struct psi_network *network);
uint64_t psi_delay_us(struct psi_network *network);
bool psi_is_cut(const struct psi_network *network, const char *from, const char *to);
void psi_note(struct psi_network *network, uint64_t now_us, const char *from, const char *to,
              enum psi_kind kind, uint64_t len);
/* The slots of streamit.peer_sim. */
void psi_weather(void *self, const struct sti_peer_sim_weather *weather);
int psi_cut(void *self, const char *from, const char *to, bool both_ways, struct sti_err *err);
void psi_heal(void *self, const char *from, const char *to, bool both_ways);
void psi_trace(void *self, struct sti_peer_sim_trace *out);

/* link.c */
extern const struct pco_ops psi_ops;
/* Have its timer fire when something is due. @locks network->mu held */
void psi_link_arm(struct psi_link *link);
/* Break what has come for a node that ends, and was not taken yet. */
void psi_links_refuse(struct psi_node *node);

#endif /* PEER_SIM_SIM_H */
