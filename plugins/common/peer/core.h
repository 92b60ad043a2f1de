/* core.h -- what the engines of streamit.peer share: services, connections, calls.
 *
 * The core is the interface's whole meaning: who may connect, order, bounds, timeouts, that `done`
 * runs exactly once. An engine brings links: ordered, reliable carriers of messages between two
 * sides, which break as a whole or not at all. It calls pco_link_received for what arrives, one
 * message at a time and link, and pco_link_closed once, as the last.
 *
 * An engine's link begins with struct pco_link. References: one is the engine's, until
 * pco_link_closed has returned; one is held by each call that a handler has not answered, and by
 * whoever uses the link of a connection. The last one calls ops->free.
 *
 * Locks, in order: connection->mu > link->mu > the engine's own of a link. core->mu and the links'
 * and connections' others nest in nothing, but that core->mu is taken under connection->mu or
 * link->mu as the last. None is held across a callback or an engine's open, flush, close, resume.
 */
#ifndef PEER_COMMON_CORE_H
#define PEER_COMMON_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "frame.h"

enum { PCO_STATUS_MAX = 64, PCO_SERVICES_MAX = 32, PCO_MESSAGE_SLACK = 64 << 10 };

/* Options that every engine has; see PCO_OPTIONS. */
struct pco_conf {
    int64_t message_bytes_max, calls_in_flight_max, bytes_in_flight_max, connections_max;
    int64_t connect_timeout_ms, reconnect_min_ms, reconnect_max_ms;
};

struct pco;

/* One link, of the side that dialed or of the one that was dialed. */
struct pco_link {
    struct pco *core;
    atomic_uint refs;
    bool incoming;
    int32_t node_id;             /* of the other side, once it has said hello */
    bool greeted;                /* receiving thread: hello came, and was taken */
    bool refused;                /* receiving thread: it was not */
    uint64_t payload_max;        /* that both sides take; set with `greeted` */
    bool listed;                 /* is one of core->links, until it is freed */
    struct pco_link *next, **at; /* core->mu */

    pthread_mutex_t mu;
    struct sti_peer_connection *connection; /* that dialed it; NULL: let go */
    bool closed, paused;
    uint32_t held;       /* calls that handlers have not answered */
    uint64_t held_bytes; /* of their requests */
    uint64_t unsent;     /* bytes that the engine has not reported as sent */
};

struct pco_ops {
    /* A link to `address`, not yet under way. @return NULL: no memory */
    struct pco_link *(*new_link)(void *engine, const char *address);
    /* Set off. Whatever fails comes as pco_link_closed, also before this returns. */
    void (*open)(struct pco_link *link);
    /* Queue a message, which is the engine's from here on; closed or not. @locks link->mu held */
    void (*queue)(struct pco_link *link, struct pco_message *message);
    /* Send what is queued. */
    void (*flush)(struct pco_link *link);
    /* Break it: pco_link_closed comes soon, if it has not come. */
    void (*close)(struct pco_link *link);
    /* End one that was taken, behind what is queued. */
    void (*finish)(struct pco_link *link);
    /* pco_link_wants was false; now it is not. */
    void (*resume)(struct pco_link *link);
    void (*free)(struct pco_link *link);
    /* For jitter. */
    uint32_t (*random)(void *engine);
};

struct pco_service {
    char name[STI_PEER_NAME_MAX + 1];
    void (*handle)(void *ctx, struct sti_peer_incoming *incoming);
    void *ctx;
    unsigned running;
    bool used, leaving;
};

/* Figures of calls in one direction; `calls` are registered when a status is first met. */
struct pco_figures {
    struct sti_metric *_Atomic calls[PCO_STATUS_MAX];
    struct sti_metric *bytes, *in_flight, *links;
};

enum pco_direction { PCO_IN = 0, PCO_OUT = 1 };

struct pco {
    const struct sti_host *host;
    const struct pco_conf *conf;
    const struct pco_ops *ops;
    void *engine;
    char address[320];
    atomic_bool started, draining, stopping;
    atomic_uint under_way; /* calls, of both directions */
    atomic_bool waiting;   /* somebody waits for `changed` */

    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct pco_service services[PCO_SERVICES_MAX];
    struct pco_link *links;
    unsigned link_count, incoming_count;
    struct sti_peer_connection *connections;
    unsigned connection_count;

    struct pco_figures figures[2];
    struct sti_histogram *seconds;
    struct sti_metric *copied_bytes, *connects, *connect_failures, *refused;
};

/* ---- core.c: the life of an instance ---- */
void pco_init(struct pco *core, const struct sti_host *host, const struct pco_conf *conf,
              const struct pco_ops *ops, void *engine);
void pco_fini(struct pco *core);
/* After the engine listens. @param address  how others reach it */
void pco_start(struct pco *core, const char *address);
int pco_drain(struct pco *core, uint32_t deadline_ms, struct sti_err *err);
/* Break everything, and wait until no link and no call is left. */
int pco_stop(struct pco *core, uint32_t deadline_ms, struct sti_err *err);
/* Wake whoever waits, after something has ended. */
void pco_changed(struct pco *core);
/* A call has ended, or begun. */
void pco_count(struct pco *core, enum pco_direction direction, int status);
void pco_begin(struct pco *core, enum pco_direction direction);
/* The interface's. `self` is the instance of the engine, which begins with struct pco. */
int pco_serve(void *self, const struct sti_peer_service *service, struct sti_err *err);
int pco_withdraw(void *self, const char *name, struct sti_err *err);
int pco_info(void *self, struct sti_peer_info *out, struct sti_err *err);
/* Run the handler of the call. @return false: nobody serves it */
bool pco_handle(struct pco *core, struct sti_peer_incoming *incoming);

/* ---- link.c: both sides ---- */
void pco_link_init(struct pco_link *link, struct pco *core, bool incoming);
void pco_link_ref(struct pco_link *link);
void pco_link_unref(struct pco_link *link);
/* A link that was dialed has come. @return false: there are too many, or the node ends; the engine
 * lets it go, and calls nothing more for it */
bool pco_link_accept(struct pco_link *link);
/* A message. The slices have owners; references are taken of what is kept. @return false: it is
 * malformed; the engine closes the link. */
bool pco_link_received(struct pco_link *link, const struct sti_slice *slices, uint32_t count);
/* Shall the engine read on? After false it waits for ops->resume. */
bool pco_link_wants(struct pco_link *link);
/* So much of what was queued has left. */
void pco_link_sent(struct pco_link *link, uint64_t len);
/* The link is gone, or was never made. Takes the engine's reference. */
void pco_link_closed(struct pco_link *link, const struct sti_err *why);
/* Queue under link->mu and send. Takes the message; false: the link was closed, and it is freed. */
bool pco_link_send(struct pco_link *link, struct pco_message *message);
/* Say hello. @param status, text  a refusal, or STI_OK and "" */
bool pco_link_hello(struct pco_link *link, int32_t wanted_id, int status, const char *text);
void pco_respond(struct sti_peer_incoming *incoming, int status, const struct sti_err *err,
                 const struct sti_slice *response, uint32_t response_count);

/* ---- connection.c: the side that dials ---- */
int pco_dial(void *self, const struct sti_peer_dial *args, struct sti_peer_connection **out,
             struct sti_err *err);
int pco_call(struct sti_peer_connection *connection, struct sti_peer_call *call,
             struct sti_err *err);
bool pco_cancel(struct sti_peer_connection *connection, const struct sti_peer_call *call);
void pco_sever(struct sti_peer_connection *connection);
void pco_hang_up(struct sti_peer_connection *connection);
/* What a link has for its connection. @thread the link's receiving one */
void pco_connection_greeted(struct pco_link *link, const struct pco_frame *hello);
void pco_connection_answered(struct pco_link *link, const struct pco_frame *frame,
                             struct pco_cursor *cursor);
void pco_connection_closed(struct pco_link *link, const struct sti_err *why);

/* The vtable's slots, and the rows of the options: `conf` is a member of the engine's struct. */
#define PCO_SLOTS                                                                                  \
    .serve = pco_serve, .withdraw = pco_withdraw, .respond = pco_respond, .dial = pco_dial,        \
    .call = pco_call, .cancel = pco_cancel, .sever = pco_sever, .hang_up = pco_hang_up,            \
    .info = pco_info

#define PCO_OPTION(owner, name, ...)                                                               \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_INT,                              \
                                                 .offset = offsetof(owner, peer) +                 \
                                                           offsetof(struct pco_conf, name),        \
                                                 __VA_ARGS__}

#define PCO_OPTIONS(owner)                                                                         \
    PCO_OPTION(owner, message_bytes_max, .def = "8M", .min = 1024, .max = 1 << 30,                 \
               .unit = "bytes",                                                                    \
               .help = "A request or an answer may be so large; a larger one is refused.");        \
    PCO_OPTION(owner, calls_in_flight_max, .def = "1024", .min = 1, .max = 1 << 20,                \
               .help = "Calls that one connection may have under way; more are refused, and no "   \
                       "more are read from a peer.");                                              \
    PCO_OPTION(owner, bytes_in_flight_max, .def = "64M", .min = 1024, .max = INT64_C(1) << 40,     \
               .unit = "bytes",                                                                    \
               .help = "Bytes of their requests, likewise; a first request is taken whatever its " \
                       "size.");                                                                   \
    PCO_OPTION(owner, connections_max, .def = "256", .min = 1, .max = 1 << 16,                     \
               .help = "Connections that are dialed, and as many that are taken.");                \
    PCO_OPTION(owner, connect_timeout_ms, .def = "5000", .min = 10, .max = 600000, .unit = "ms",   \
               .help = "A connection that is not made and greeted in so long has failed.");        \
    PCO_OPTION(owner, reconnect_min_ms, .def = "50", .min = 1, .max = 60000, .unit = "ms",         \
               .help = "After a failure the next attempt comes so much later, then twice as "      \
                       "much, and so on, each with jitter.");                                      \
    PCO_OPTION(owner, reconnect_max_ms, .def = "2000", .min = 1, .max = 600000, .unit = "ms",      \
               .help = "The most that is waited between two attempts.")

#define PCO_OPTION_ROWS                                                                            \
    &opt_message_bytes_max, &opt_calls_in_flight_max, &opt_bytes_in_flight_max,                    \
        &opt_connections_max, &opt_connect_timeout_ms, &opt_reconnect_min_ms,                      \
        &opt_reconnect_max_ms

#endif /* PEER_COMMON_CORE_H */
