/* streamit/peer_sim.h -- interface "streamit.peer_sim": what a test does to the simulated network
 * of the plugin peer_sim. No interface of a node: peer_sim alone provides it, beside streamit.peer.
 *
 * All instances of a process whose option `network` is the same are on one network, under the
 * addresses of their option `address`. What is sent takes a random time, drawn from the network's
 * seed, and nothing else does: on a host with a virtual clock and one thread the same calls give
 * the same trace, event by event.
 *
 * Any thread, from `start` to `stop` of the instance.
 */
#ifndef STREAMIT_PEER_SIM_H
#define STREAMIT_PEER_SIM_H

#include "streamit/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_PEER_SIM_ID    "streamit.peer_sim"
#define STI_PEER_SIM_MAJOR 0
#define STI_PEER_SIM_MINOR 1

/* How the network is from now on. */
struct sti_peer_sim_weather {
    uint32_t struct_size;
    uint32_t lost_per_million; /* messages that are lost, each of which breaks its connection */
    uint64_t delay_min_us, delay_max_us; /* of a message; its order in the connection stays */
    uint64_t detect_us; /* after so long behind a cut a connection is found broken, by both sides */
};

/* What has happened on the network: a hash over every event, with its time, and their number. */
struct sti_peer_sim_trace {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t hash, events, broken;
};

struct sti_peer_sim {
    struct sti_iface iface; /* id STI_PEER_SIM_ID */

    void (*weather)(void *self, const struct sti_peer_sim_weather *weather);
    /* Nothing passes from one address to another any more, nor back with both_ways; what is under
     * way waits. Connections that stand break detect_us later, unless it is healed before. @return
     * STI_OK, STI_E_RESOURCE_EXHAUSTED (too many cuts) */
    int (*cut)(void *self, const char *from, const char *to, bool both_ways, struct sti_err *err);
    /* Undo it; NULL, NULL: undo all. What waited goes on. */
    void (*heal)(void *self, const char *from, const char *to, bool both_ways);
    void (*trace)(void *self, struct sti_peer_sim_trace *out);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_PEER_SIM_H */
