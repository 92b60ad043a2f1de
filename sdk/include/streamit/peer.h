/* streamit/peer.h -- interface "streamit.peer": calls between brokers. PROVISIONAL: nothing
 * implements it yet.
 *
 * Opaque request and response bytes between nodes: a caller dials a node and calls a method of a
 * service; the other side has a handler for that service. The plugin knows neither topics nor Raft;
 * it needs nothing of the broker, so that it can serve before the broker does.
 *
 * Order and loss. Calls over one connection are delivered at most once; responses may overtake each
 * other. A lost connection fails every call under way with CONNECTION_LOST, outcome unknown.
 *
 * Threads. Handlers and `done` run on any thread, must not block, and may answer later from any
 * other.
 *
 * How others use it. replication_isr fetches and metadata_raft appends over it; peer_sim delivers
 * in process with seeded delays, drops and cuts. The Kafka wire and an object store do not use it.
 *
 * Caveats. Requests and responses are bounded by message_bytes_max of the implementation; larger
 * transfers are cut into calls.
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
#define STI_PEER_MINOR 1

struct sti_peer_connection; /* the plugin's */
struct sti_peer_incoming;   /* the plugin's: one call to answer */

/* A call to make. Caller's memory until done. */
struct sti_peer_call {
    uint32_t struct_size;
    uint32_t timeout_ms;
    const char *service; /* "raft", "replica" */
    const char *method;
    const struct sti_slice *request; /* borrowed until done */
    uint32_t request_count;
    uint32_t response_count; /* out */
    struct sti_slice
        *response; /* out: referenced; valid until done returns unless a reference is taken */
    /* status: STI_OK, what the handler answered, STI_E_TIMED_OUT, STI_E_CONNECTION_LOST,
     * STI_E_UNAVAILABLE (not connected, nothing sent), STI_E_UNSUPPORTED (service or method),
     * STI_E_MESSAGE_TOO_LARGE */
    void (*done)(struct sti_peer_call *call, int status, const struct sti_err *err);
    void *user;
};

/* Handles calls of one service. The request's slices are borrowed until respond. */
typedef void sti_peer_handler(void *ctx, struct sti_peer_incoming *incoming, int32_t from_node,
                              const char *method, const struct sti_slice *request,
                              uint32_t request_count);

struct sti_peer {
    struct sti_iface iface; /* id STI_PEER_ID */

    /* Register a handler. `service` names it for the connecting side. @return STI_OK,
     * STI_E_ALREADY_EXISTS */
    int (*serve)(void *self, const char *service, sti_peer_handler *handler, void *ctx,
                 struct sti_err *err);
    /* Answer an incoming call, exactly once. The response's slices are taken over: each reference
     * is dropped when sent. */
    void (*respond)(void *self, struct sti_peer_incoming *incoming, int status,
                    const struct sti_slice *response, uint32_t response_count);
    /* Prepare a connection to a node at "host:port"; connects when first used, reconnects with
     * backoff. */
    int (*dial)(void *self, int32_t node_id, const char *address, struct sti_peer_connection **out,
                struct sti_err *err);
    /* @return STI_OK: done runs exactly once; otherwise never */
    int (*call)(struct sti_peer_connection *connection, struct sti_peer_call *call,
                struct sti_err *err);
    /* Fail what is under way with CANCELLED, and let go. */
    void (*hang_up)(struct sti_peer_connection *connection);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_PEER_H */
