/* peer_suite.h -- what the cases of streamit.peer share: two nodes, a service that does as it is
 * told, calls that can be waited for, and slices that know who holds them.
 */
#ifndef STREAMIT_CONFORM_PEER_SUITE_H
#define STREAMIT_CONFORM_PEER_SUITE_H

#include <pthread.h>
#include <stdatomic.h>

#include "../conform.h"
#include "streamit/peer.h"

enum { PEE_HELD_MAX = 8192, PEE_CLUSTER = 1, PEE_OTHER_CLUSTER = 2 };

/* A call, and how it ended. Zero before the first use. */
struct pee_call {
    struct sti_peer_call call; /* first */
    atomic_uint done;          /* how often */
    int status;
    struct sti_err err;
    uint8_t *bytes; /* of the answer; freed by pee_call_free */
    size_t len;
};

/* A connection, and what it has said. */
struct pee_link {
    const struct sti_peer *vt;
    struct sti_peer_connection *connection;
    atomic_uint ups, downs, inside;
    atomic_int state;
    pthread_mutex_t mu;
    struct sti_err why; /* of the last DOWN; mu */
};

/* A service. Its methods: "echo" answers with the request, "drop" with nothing, "twice" with the
 * request two times, "fail" with OFFSET_OUT_OF_RANGE and a sentence, "hold" not until
 * pee_release, "slow" after a moment, within the handler, "size" with so many bytes as the
 * request's number says. */
struct pee_service {
    const struct sti_peer *vt;
    void *self;
    const char *name;
    atomic_uint begun, inside, overlapped, out_of_order;
    atomic_int from_node;
    uint32_t last;        /* number that the request of "echo" began with */
    atomic_bool numbered; /* look at them: ascending */
    pthread_mutex_t mu;
    struct sti_peer_incoming *held[PEE_HELD_MAX];
    unsigned held_count;
};

/* Two nodes of one cluster: 1 calls, 2 serves. */
struct pee_world {
    struct cfm *cfm;
    struct cfm_node one, two;
    struct pee_service service; /* "test", of node 2 */
    struct pee_link link;       /* from 1 to 2 */
    char address[320];          /* of node 2 */
};

/* Bytes that know how many references are held. */
struct pee_bytes {
    struct sti_slice_owner owner; /* first */
    atomic_int refs;
    size_t len;
    uint8_t data[];
};

/* Wait until it holds; fails the case with the sentence when it does not in time. */
#define PEE_UNTIL(cfm, cond, ...)                                                                  \
    for (unsigned pee_turn_ = 0; !(cond); pee_turn_++) {                                           \
        pee_pause(pee_turn_);                                                                      \
        if (pee_turn_ > (cfm)->answer_s * 1000u) {                                                 \
            CFM_FAIL(__VA_ARGS__);                                                                 \
        }                                                                                          \
    }
/* A millisecond, or less in the first turns. */
void pee_pause(unsigned turn);

const struct sti_peer *pee_vt(const struct cfm_node *node);
const char *pee_address(const struct cfm_node *node);
struct sti_peer_info pee_info(const struct cfm_node *node);
/* The options under which a node comes up at an address that another node has had. */
const char *const *pee_at(const struct cfm *cfm, const char *address);

void pee_serve(struct pee_service *service, const struct cfm_node *node, const char *name);
void pee_withdraw(struct pee_service *service);
/* How many calls are held. */
unsigned pee_held(struct pee_service *service);
/* Answer what is held: those from `from` on, in order, with their requests. */
void pee_release(struct pee_service *service);

void pee_dial(struct pee_link *link, const struct cfm_node *node, int32_t node_id,
              const char *address);
/* The same, and wait until it is UP. */
void pee_connect(struct cfm *cfm, struct pee_link *link, const struct cfm_node *node,
                 int32_t node_id, const char *address);
void pee_hang_up(struct pee_link *link);
/* Why it was last DOWN. */
struct sti_err pee_why(struct pee_link *link);

/* Make a call of service "test". @return what call returned */
int pee_begin(struct pee_link *link, struct pee_call *call, const char *method, const void *data,
              size_t len, uint32_t timeout_ms);
int pee_begin_slices(struct pee_link *link, struct pee_call *call, const char *service,
                     const char *method, const struct sti_slice *slices, uint32_t count,
                     uint32_t timeout_ms);
/* Wait for its end, which must be the only one. */
int pee_wait(struct cfm *cfm, struct pee_call *call);
/* Both; the call must be taken. */
int pee_call(struct cfm *cfm, struct pee_link *link, struct pee_call *call, const char *method,
             const void *data, size_t len, uint32_t timeout_ms);
void pee_call_free(struct pee_call *call);
/* "echo" of some bytes, which must come back. */
void pee_echo(struct cfm *cfm, struct pee_link *link, size_t len);
/* The same until the connection is UP again. */
void pee_echo_again(struct cfm *cfm, struct pee_link *link);

/* `len` bytes that follow from `seed`, with one reference. */
struct pee_bytes *pee_bytes(size_t len, uint32_t seed);
struct sti_slice pee_slice(struct pee_bytes *bytes, size_t pos, size_t len);
bool pee_is(const void *data, size_t len, uint32_t seed, size_t pos);
void pee_unref(struct pee_bytes *bytes);

void pee_world_start(struct cfm *cfm, struct pee_world *w);
void pee_world_stop(struct pee_world *w);

#define PEE_CASE(name) void pee_case_##name(struct cfm *cfm)
PEE_CASE(call);
PEE_CASE(self);
PEE_CASE(order);
PEE_CASE(sizes);
PEE_CASE(later);
PEE_CASE(released);
PEE_CASE(kept);
PEE_CASE(memory_back);
PEE_CASE(threads);
PEE_CASE(connections);
PEE_CASE(timeout);
PEE_CASE(cancel);
PEE_CASE(hang_up);
PEE_CASE(sever);
PEE_CASE(unreachable);
PEE_CASE(restart);
PEE_CASE(other_cluster);
PEE_CASE(other_node);
PEE_CASE(killed);
PEE_CASE(random_runs);
PEE_CASE(no_service);
PEE_CASE(withdraw);
PEE_CASE(withdraw_waits);
PEE_CASE(names);
PEE_CASE(too_large);
PEE_CASE(calls_max);
PEE_CASE(bytes_max);
PEE_CASE(drain);
PEE_CASE(lifecycle);

#endif /* STREAMIT_CONFORM_PEER_SUITE_H */
