/* streamit/peer.h -- interface "streamit.peer": calls between brokers. PROVISIONAL: its users, the
 * cluster's plugins, are not built yet.
 *
 * Opaque request and response bytes between nodes. One side serves a service by name; the other
 * dials a node, and calls a method of a service. The plugin knows neither topics nor Raft, and
 * needs nothing of the broker, so that it can serve before the broker does.
 *
 *     serve ---> (handler ---> respond)* ---> withdraw
 *     dial ---> (call ---> done)* ---> hang_up
 *
 * Connections. dial connects at once, and again by itself, with backoff and jitter, until hang_up;
 * one dial is one connection. Both sides begin with who they are: cluster id, node id, version of
 * this interface. Another cluster is refused with STI_E_PERMISSION_DENIED, another node than the
 * one dialed with STI_E_PRECONDITION, another major with STI_E_UNSUPPORTED; the sentence names both
 * sides, and the dialer goes on trying, since the node behind an address may change.
 *
 * Order. Over one connection handlers begin in the order of the calls, one after the other,
 * whatever the service; answers may overtake each other. Whoever does not want heartbeats to wait
 * behind megabytes dials twice. Nothing is promised about the calls of two connections.
 *
 * Loss. A call is delivered at most once and never repeated. STI_E_UNAVAILABLE, and the refusals
 * above, say that nothing was sent: while the node cannot be reached a call fails so at once, and
 * one that was made while it was being connected waits for the outcome, at most for its timeout,
 * and its bytes no longer than it does. A connection that breaks fails every call under way with
 * STI_E_CONNECTION_LOST, outcome unknown; so are STI_E_TIMED_OUT and STI_E_CANCELLED. The other
 * side does not learn of those two: its answer is dropped.
 *
 * Bytes. A slice that has an owner is not copied: a reference is taken for as long as it is needed,
 * which may be longer than the call. Bytes without an owner are copied before the function returns.
 * Either way the caller has its memory back at once. What handlers and `done` are given has an
 * owner, so that they may keep it; one slice pins the message that it came with, so what is kept
 * for long is copied. Messages may arrive in any number of slices, cut anywhere.
 *
 * Bounds. Each an option of the implementation, and told by `info`: message_bytes_max for a request
 * or an answer; calls_max and bytes_max (of requests) under way over one connection, beyond which a
 * call is refused with STI_E_THROTTLED and nothing sent; the side that serves reads no further
 * while that much waits there for its handlers' answers.
 *
 * Threads. All functions may be called on any thread from `start` on. Handlers, `done` and `state`
 * run on a thread of the plugin or of the executor, with no lock held, and must not block; they may
 * call everything but withdraw, hang_up and sever of what they belong to. `done` never runs within
 * `call`; it may run within cancel, hang_up and sever. `state` of a connection is never run twice
 * at a time.
 *
 * End. `drain` refuses new calls in and out with STI_E_UNAVAILABLE. Before `stop` whoever dialed
 * hangs up, and whoever served withdraws and answers what it holds; `stop` breaks what is left, and
 * fails when a call is still not answered at its deadline.
 *
 * How others use it. metadata_raft dials each voter: a heartbeat or AppendEntries is a call with a
 * timeout below the election's, order lets it send several without waiting, and a lost connection
 * only costs a repetition, because entries carry term and index. replication_isr dials the leader
 * over a connection of its own: a fetch waits at the leader as long as nothing is there, and its
 * answer is a megabyte of slices of segments, sent without a copy, and written from the receive
 * buffer. A controller's commands and group coordination are small calls. The Kafka wire and
 * clients never come here: theirs are transports, with listeners of their own. An object store
 * changes nothing but the owner of the slices. peer_sim delivers in process, with seeded delays and
 * cuts, on the host's clock.
 *
 * The suite. What this page promises is proved by `streamit-conform FILE.so`, on peer_sim and
 * peer_grpc.
 *
 * Caveats. A peer is trusted with what it says of itself: the listener belongs into a network of
 * the cluster's own. Larger transfers than message_bytes_max are cut into calls. A handler that
 * never answers keeps its caller until the timeout; without one for ever.
 */
#ifndef STREAMIT_PEER_H
#define STREAMIT_PEER_H

#include "streamit/plugin.h"
#include "streamit/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_PEER_ID    "streamit.peer"
#define STI_PEER_MAJOR 0
#define STI_PEER_MINOR 2

#define STI_PEER_REMOTE 0x1u /* reaches other processes, by "host:port" */

#define STI_PEER_NAME_MAX  63u   /* of a service and of a method; not empty; printable ASCII */
#define STI_PEER_SLICE_MAX 1024u /* of one request or answer */

struct sti_peer_connection; /* the plugin's */

/* ---- serving */

/* A call to answer. The plugin's memory, valid until respond. */
struct sti_peer_incoming {
    uint32_t struct_size;
    int32_t from_node;
    const char *service, *method;
    const struct sti_slice *request; /* valid until respond, or as long as a reference is held */
    uint32_t request_count;
    uint32_t timeout_ms; /* what the caller gave it; 0: no limit */
    void *user;          /* the handler's */
};

/* One service. The struct is borrowed for the call of serve; the name is copied. */
struct sti_peer_service {
    uint32_t struct_size;
    uint32_t reserved;
    const char *name; /* "raft", "replica" */
    /* Takes a call, which must be answered with respond, exactly once: now or later, on any thread.
     */
    void (*handle)(void *ctx, struct sti_peer_incoming *incoming);
    void *ctx;
};

/* ---- calling */

enum sti_peer_state { STI_PEER_DOWN = 0, STI_PEER_UP = 1 };

/* A node to connect to. Borrowed for the call of dial; the strings are copied. */
struct sti_peer_dial {
    uint32_t struct_size;
    int32_t node_id;     /* who must be there; -1: anybody */
    const char *address; /* "host:port", or what the other side's `info` says */
    /* The connection is UP: or it broke, or could not be made (DOWN, err says why): also after each
     * further attempt that failed. May be NULL. */
    void (*state)(void *ctx, struct sti_peer_connection *connection, int state,
                  const struct sti_err *err);
    void *ctx;
};

/* A call to make. Caller's memory until done. */
struct sti_peer_call {
    uint32_t struct_size;
    uint32_t timeout_ms; /* 0: no limit */
    const char *service; /* borrowed until call returns, as are method and the array of slices */
    const char *method;
    const struct sti_slice *request;  /* see "Bytes" above */
    uint32_t request_count;           /* at most STI_PEER_SLICE_MAX */
    uint32_t response_count;          /* out */
    const struct sti_slice *response; /* out: valid until done returns, or as long as a reference is
                                         held; empty unless the status is STI_OK */
    /* status: STI_OK or what the handler answered; STI_E_TIMED_OUT; STI_E_CONNECTION_LOST;
     * STI_E_CANCELLED; STI_E_UNAVAILABLE (not connected, no such service there, or it drains:
     * nothing was done); STI_E_MESSAGE_TOO_LARGE (the answer); STI_E_PERMISSION_DENIED,
     * STI_E_PRECONDITION or STI_E_UNSUPPORTED (refused by the other side, see "Connections").
     * The call may be freed, or made again, in it. */
    void (*done)(struct sti_peer_call *call, int status, const struct sti_err *err);
    void *user;
};

/* Where this side is reached, and its bounds. The string is valid until destroy. */
struct sti_peer_info {
    uint32_t struct_size;
    uint32_t calls_max;
    const char *address;
    uint64_t message_bytes_max, bytes_max;
};

struct sti_peer {
    struct sti_iface iface; /* id STI_PEER_ID */

    /* Take calls of a service. @return STI_OK, STI_E_ALREADY_EXISTS, STI_E_INVALID_ARGUMENT (its
     * name), STI_E_NO_MEMORY */
    int (*serve)(void *self, const struct sti_peer_service *service, struct sti_err *err);
    /* Take no more: when it returns, its handler neither runs nor will. Calls that it was given
     * remain to be answered. @return STI_OK, STI_E_NOT_FOUND */
    int (*withdraw)(void *self, const char *service, struct sti_err *err);
    /* Answer a call, exactly once; `incoming` is gone then. A status other than STI_OK goes with
     * the sentence of `err` (or NULL), and without slices. The slices are borrowed for the call:
     * see "Bytes". An answer larger than message_bytes_max, or in more slices than
     * STI_PEER_SLICE_MAX, becomes STI_E_MESSAGE_TOO_LARGE. */
    void (*respond)(struct sti_peer_incoming *incoming, int status, const struct sti_err *err,
                    const struct sti_slice *response, uint32_t response_count);
    /* Connect to a node. @return STI_OK, STI_E_INVALID_ARGUMENT (the address), STI_E_NO_MEMORY,
     * STI_E_RESOURCE_EXHAUSTED (connections_max), STI_E_UNAVAILABLE (draining) */
    int (*dial)(void *self, const struct sti_peer_dial *args, struct sti_peer_connection **out,
                struct sti_err *err);
    /* @return STI_OK: done runs exactly once. Otherwise never, and nothing was sent:
     * STI_E_UNAVAILABLE, STI_E_PERMISSION_DENIED, STI_E_PRECONDITION or STI_E_UNSUPPORTED (as the
     * last attempt to connect ended; or draining), STI_E_THROTTLED, STI_E_MESSAGE_TOO_LARGE,
     * STI_E_INVALID_ARGUMENT (a name, or too many slices), STI_E_NO_MEMORY */
    int (*call)(struct sti_peer_connection *connection, struct sti_peer_call *call,
                struct sti_err *err);
    /* Wait no longer for a call. @return true: its done runs, or has run, with STI_E_CANCELLED;
     * false: it is not under way here, since its done has been called otherwise */
    bool (*cancel)(struct sti_peer_connection *connection, const struct sti_peer_call *call);
    /* Break the connection, as if the network had, and connect anew: for a failure detector that
     * knows better than the socket. What is under way ends with STI_E_CONNECTION_LOST. */
    void (*sever)(struct sti_peer_connection *connection);
    /* End what is under way with STI_E_CANCELLED, and let go. When it returns no callback of the
     * connection runs or will run, and `connection` is gone. */
    void (*hang_up)(struct sti_peer_connection *connection);
    /* @return STI_OK, STI_E_PRECONDITION (before start) */
    int (*info)(void *self, struct sti_peer_info *out, struct sti_err *err);
};

static inline const struct sti_peer *sti_peer_of(const struct sti_binding *binding)
{
    return (const struct sti_peer *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_PEER_H */
