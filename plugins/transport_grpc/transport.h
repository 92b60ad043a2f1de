/* transport.h -- what the files of this folder share: the instance, its methods, and the call
 * object.
 *
 * A call's way: a posted slot (struct tgr_rpc) completes on a poller thread -> slot.c posts the
 * next slot, fills the request context, and runs the method's handler -> the handler decodes and
 * calls the broker -> the broker's `done`, on any thread, encodes and finishes the call with one
 * batch -> the batch's tag comes back on a poller thread, and the last reference frees the call.
 */
#ifndef TRANSPORT_GRPC_TRANSPORT_H
#define TRANSPORT_GRPC_TRANSPORT_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "arena.h"
#include "streamit/broker.h"
#include "streamit/plugin.h"
#include "streamit/transport.h"

#define TGR_SHARDS        16u
#define TGR_CODES         45u /* STI_STATUS_LIST and OK */
#define TGR_POLLERS_MAX   64
#define TGR_CLIENT_ID_MAX 255u
#define TGR_TRACE_ID_MAX  127u
#define TGR_PEER_MAX      127u

struct tgr_conf {
    const char *host;
    const char *advertised_host;
    int64_t port;
    int64_t advertised_port;
    int64_t poller_threads;
    int64_t max_message_bytes;
    int64_t max_concurrent_streams;
    int64_t calls_in_flight_max;
    int64_t partitions_per_call_max;
    int64_t fetch_response_bytes_max;
    int64_t memory_bytes_max;
    int64_t keepalive_ms;
    int64_t connections_max, connections_per_address_max;
    int64_t connection_idle_ms;
    int64_t keepalive_timeout_ms;
    int64_t keepalive_min_interval_ms;
    int64_t stream_requests_max;
    int64_t stream_partitions_max;
};

/* What surrounds the batches of a message of max_message_bytes. */
#define TGR_MESSAGE_SLACK_BYTES (64u << 10)
/* Records of more bytes than this are encoded and decoded by the executor, not by a poller; what is
 * compressed is decoded there in any case. */
#define TGR_INLINE_BYTES (32u << 10)

enum tgr_method {
    TGR_PRODUCE = 0,
    TGR_PRODUCE_STREAM,
    TGR_FETCH,
    TGR_FETCH_STREAM,
    TGR_LIST_OFFSETS,
    TGR_CREATE_TOPIC,
    TGR_ALTER_TOPIC,
    TGR_DELETE_TOPIC,
    TGR_LIST_TOPICS,
    TGR_DESCRIBE_TOPIC,
    TGR_FIND_LEADER,
    TGR_HEALTH_CHECK,
    TGR_HEALTH_WATCH,
    TGR_REFLECTION_V1,
    TGR_REFLECTION_V1ALPHA,
    TGR_UNKNOWN, /* whatever is not registered */
    TGR_METHODS
};

struct tgr_rpc;
struct tgr_transport;

/* What grpc_completion_queue_next gives back. */
struct tgr_tag {
    void (*fn)(struct tgr_tag *tag, bool ok);
    struct tgr_rpc *rpc;
};

struct tgr_method_info {
    const char *path;  /* "/streamit.v1.StreamIt/Produce" */
    const char *label; /* of metrics */
    uint32_t slots;    /* posted at once; 0: not registered with gRPC, see slot.c */
    bool payload;      /* the request message arrives with the call */
    bool broker;       /* refused while draining */
    /* Takes over the caller's reference. @thread poller */
    void (*handle)(struct tgr_rpc *rpc);
};

extern const struct tgr_method_info tgr_methods[TGR_METHODS];

/* Figures of one method. `requests` are registered when a code is first met. */
struct tgr_method_metrics {
    struct sti_metric *_Atomic requests[TGR_CODES];
    struct sti_metric *received_bytes, *sent_bytes;
    struct sti_metric *received_messages, *sent_messages; /* of record streams; else NULL */
    struct sti_metric *open;                              /* of streams; else NULL */
    struct sti_histogram *latency_us, *send_us;
};

/* Calls of some connections: those that wait for data, and produce calls on their way to the
 * broker. */
struct tgr_shard {
    pthread_mutex_t mu;
    struct tgr_rpc *parked; /* doubly linked through park_prev, park_next */
    struct tgr_rpc *lane_head, *lane_tail;
    struct tgr_rpc *suspended; /* through lane_next: the lanes of their connections wait */
    bool lane_busy;
};

struct tgr_transport {
    const struct sti_host *host;
    const struct tgr_conf *conf;
    struct sti_binding broker;
    grpc_server *server;
    grpc_completion_queue *cq;
    void *registered[TGR_METHODS];
    pthread_t pollers[TGR_POLLERS_MAX];
    unsigned poller_count;
    int port;
    char address[320];         /* host:port, as announced */
    char advertised_host[256]; /* as endpoint gives it */
    int advertised_port;
    bool advertise_dialed; /* clients that ask are told the address that they dialed */

    uint64_t trace_random; /* first half of the trace ids that are made here */
    _Atomic uint64_t trace_number;
    pthread_mutex_t poll_mu; /* who polls: gives produce calls their order */
    atomic_bool draining;    /* answer broker calls with UNAVAILABLE */
    atomic_bool stopping;    /* post no slots */
    atomic_uint active;      /* calls under way */
    atomic_uint streams;     /* of them: health watches and reflection streams */
    pthread_mutex_t wait_mu;
    pthread_cond_t wait_cond; /* active fell, or the server's shutdown is complete */
    atomic_bool waiting;      /* somebody waits on wait_cond */
    bool shutdown_done;       /* under wait_mu */
    struct tgr_tag shutdown_tag;
    bool shutdown_begun; /* main thread */

    struct tgr_shard shards[TGR_SHARDS];
    struct tgr_watch_list *watches;
    struct tgr_connections *connections;

    struct tgr_method_metrics metrics[TGR_METHODS];
    struct sti_metric *calls_in_flight, *poller_loops, *malformed;
    struct sti_metric *stream_requests, *copied_bytes;
};

/* One call, or the slot that waits for one. Reference counted: one for the slot or its handler, one
 * for each batch under way, one while the broker has the call. */
struct tgr_rpc {
    struct tgr_tag tag_new, tag_open, tag_close, tag_read, tag_write, tag_done;
    struct tgr_transport *t;
    enum tgr_method method;
    atomic_uint refs;
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* of methods that are not registered */
    grpc_byte_buffer *payload;
    grpc_byte_buffer *out;
    int cancelled; /* gRPC's, valid after tag_close or tag_done */
    bool active;   /* a call, no longer a slot */
    struct sti_request request;
    uint64_t answered_us;         /* when its answer was given to gRPC; 0: not yet */
    uint32_t retry_after_ms;      /* of the call's own error: the broker's word through `request` */
    const uint8_t *authorization; /* the header, borrowed from `metadata`; NULL: none */
    size_t authorization_len;
    struct tgr_arena arena;

    /* Recursive: fetch_cancel runs under it, and may run `done` on the same thread. Guards what
     * follows and the order of batches of a stream. */
    pthread_mutex_t mu;
    bool metadata_sent;   /* the initial metadata is on its way */
    bool close_requested; /* RECV_CLOSE is under way or done */
    bool closed;          /* the client is gone */
    bool finished;        /* a final status has been sent */
    bool with_broker;     /* a fetch that may be cancelled */
    bool parked;
    struct tgr_rpc *park_prev, *park_next; /* the shard's lock */
    struct tgr_rpc *lane_next;             /* the shard's lock */
    struct tgr_rpc *flush_next;            /* of the poller that puts its answers off */
    bool flush_listed;                     /* it is on such a list, which holds a reference */
    void *state;                           /* the handler's, in the arena */

    char principal[STI_PRINCIPAL_MAX + 1];
    char client_id[TGR_CLIENT_ID_MAX + 1];
    char trace_id[TGR_TRACE_ID_MAX + 1];
    char peer[TGR_PEER_MAX + 1];
};

/* ---- slot.c: slots and pollers ---- */
/* Post all slots of all methods. @thread main, after grpc_server_start */
int tgr_slots_post(struct tgr_transport *t, struct sti_err *err);
/* A poller's body; returns when the queue is shut down and empty. */
void *tgr_poller_main(void *transport);

/* Have tgr_produce_stream_flush called when this thread, a poller, finds nothing else to do.
 * @return false: it is no poller. @locks rpc->mu held */
bool tgr_flush_later(struct tgr_rpc *rpc);
/* The calls behind `rpc` on its connection wait until tgr_lane_resume. @thread the handler of a
 * produce call */
void tgr_lane_suspend(struct tgr_rpc *rpc);
/* Any thread; hands them to the broker. */
void tgr_lane_resume(struct tgr_rpc *rpc);

/* ---- rpc.c: the call object ---- */
struct tgr_rpc *tgr_rpc_new(struct tgr_transport *t, enum tgr_method method);
void tgr_rpc_ref(struct tgr_rpc *rpc);
void tgr_rpc_unref(struct tgr_rpc *rpc);
/* Start a batch whose completion runs fn(tag). Every batch of the plugin goes through here: it
 * holds a reference while the batch is under way, and tells the thread checker of the hand-over.
 * @return STI_OK; STI_E_INTERNAL: nothing was started, no completion comes */
int tgr_rpc_batch(struct tgr_rpc *rpc, const grpc_op *ops, size_t count, struct tgr_tag *tag,
                  void (*fn)(struct tgr_tag *tag, bool ok));
/* Ask to be told when the call ends (cancel, deadline, lost connection): sets `closed`, then runs
 * `on_close` if not NULL. */
int tgr_rpc_watch_close(struct tgr_rpc *rpc, void (*fn)(struct tgr_tag *tag, bool ok));
/* Send the initial metadata at once, so that the client of a stream knows that it is open.
 * @locks rpc->mu held */
void tgr_rpc_open(struct tgr_rpc *rpc);
/* Mark the call closed; @return whether it was cancelled rather than answered. From a close tag. */
bool tgr_rpc_closed(struct tgr_rpc *rpc);
/* Answer a unary call with a message (given) or, when `out` is NULL or code is not STI_OK, with the
 * gRPC status of `code`, "CODE: sentence" and the trailer streamit-error-bin. Ends a stream
 * likewise (code STI_OK, out NULL: plain OK). Exactly once per call. Any thread. */
void tgr_rpc_finish(struct tgr_rpc *rpc, grpc_byte_buffer *out, int code,
                    const struct sti_err *err);
/* The same with a serialized message. */
void tgr_rpc_reply(struct tgr_rpc *rpc, const ProtobufCMessage *message);
/* The same with NO_MEMORY. */
void tgr_rpc_no_memory(struct tgr_rpc *rpc);
/* One message in one slice. */
grpc_byte_buffer *tgr_pack(const ProtobufCMessage *message);
/* The request message, in the arena; answers the call itself and returns NULL when it is not valid.
 */
void *tgr_rpc_unpack(struct tgr_rpc *rpc, const ProtobufCMessageDescriptor *type);
/* The same for any buffer; no answer is sent. */
void *tgr_unpack(struct tgr_rpc *rpc, grpc_byte_buffer *buffer,
                 const ProtobufCMessageDescriptor *type, struct sti_err *err);
/* The buffer's memory as borrowed slices in the arena. */
int tgr_spans(struct tgr_arena *arena, grpc_byte_buffer *buffer, struct sti_slice **out,
              size_t *count, struct sti_err *err);

/* ---- context.c: who asks ---- */
void tgr_context_fill(struct tgr_rpc *rpc);
/* Find out the principal. @return STI_OK, STI_E_UNAUTHENTICATED, STI_E_UNSUPPORTED */
int tgr_context_authenticate(struct tgr_rpc *rpc, struct sti_err *err);
/* The number of a connection, from its peer's address and port as text. */
uint64_t tgr_connection_id(const struct tgr_transport *t, const char *peer);
struct tgr_shard *tgr_shard_of(struct tgr_rpc *rpc);

/* ---- park.c: calls that stay, so that drain and stop find them ---- */
void tgr_park(struct tgr_rpc *rpc);
/* Harmless when it was not parked. */
void tgr_unpark(struct tgr_rpc *rpc);
/* Cut off the streams of records that are still there: their clients do not read. */
void tgr_parked_cut(struct tgr_transport *t);
/* Send home what waits and end the streams of records, each in its own way. */
void tgr_parked_drain(struct tgr_transport *t);
/* Call `visit` with each parked call, a reference and no lock held. */
void tgr_parked_each(struct tgr_transport *t, void (*visit)(struct tgr_rpc *rpc));

/* ---- metrics.c ---- */
void tgr_metrics_init(struct tgr_transport *t);
void tgr_metrics_count(struct tgr_rpc *rpc, int code, size_t sent_bytes);
/* Its answer has left, or its client has. */
void tgr_metrics_sent(struct tgr_rpc *rpc);

/* ---- handlers ---- */
void tgr_produce_handle(struct tgr_rpc *rpc);
void tgr_produce_stream_handle(struct tgr_rpc *rpc);
void tgr_fetch_handle(struct tgr_rpc *rpc);
void tgr_fetch_stream_handle(struct tgr_rpc *rpc);
void tgr_list_offsets_handle(struct tgr_rpc *rpc);
void tgr_create_topic_handle(struct tgr_rpc *rpc);
void tgr_alter_topic_handle(struct tgr_rpc *rpc);
void tgr_delete_topic_handle(struct tgr_rpc *rpc);
void tgr_list_topics_handle(struct tgr_rpc *rpc);
void tgr_describe_topic_handle(struct tgr_rpc *rpc);
void tgr_find_leader_handle(struct tgr_rpc *rpc);
void tgr_health_check_handle(struct tgr_rpc *rpc);
void tgr_health_watch_handle(struct tgr_rpc *rpc);
void tgr_reflection_handle(struct tgr_rpc *rpc);
void tgr_unknown_handle(struct tgr_rpc *rpc);

/* fetch.c: cancel a fetch that waits. */
void tgr_fetch_drain(struct tgr_rpc *rpc);
/* fetch_stream.c: end the stream with UNAVAILABLE, behind the message under way. */
void tgr_fetch_stream_drain(struct tgr_rpc *rpc);
/* reflection.c: end every open stream. */
void tgr_reflection_end_all(struct tgr_transport *t);
/* produce_stream.c: write the answers that were put off. */
void tgr_produce_stream_flush(struct tgr_rpc *rpc);
/* produce_stream.c: read no more, answer what is under way, end with UNAVAILABLE. */
void tgr_produce_stream_drain(struct tgr_rpc *rpc);
/* leader.c: "host:port" of who leads, in `arena`, or NULL. */
char *tgr_leader_hint(struct tgr_rpc *rpc, struct tgr_arena *arena, const char *topic,
                      int32_t partition, int32_t node_id);
/* Host and port that clients shall use for a node that the broker named. */
void tgr_node_address(const struct tgr_transport *t, const struct sti_node_info *node,
                      const char **host, int32_t *port);

/* ---- health.c: watches ---- */
int tgr_watches_new(struct tgr_transport *t, struct sti_err *err);
/* Send the present state to all watchers. */
void tgr_watches_tell(struct tgr_transport *t);
/* End all watches and the timer. */
void tgr_watches_end(struct tgr_transport *t);
void tgr_watches_free(struct tgr_transport *t);

/* ---- server.c: lifecycle of the gRPC server ---- */
int tgr_server_start(struct tgr_transport *t, struct sti_err *err);
int tgr_server_drain(struct tgr_transport *t, uint32_t deadline_ms, struct sti_err *err);
int tgr_server_stop(struct tgr_transport *t, uint32_t deadline_ms, struct sti_err *err);
/* A call ended: `active` fell. The last thing that a call does to the transport. */
void tgr_active_drop(struct tgr_transport *t, enum tgr_method method);

static inline const struct sti_broker *tgr_broker(const struct tgr_transport *t)
{
    return sti_broker_of(&t->broker);
}

/* Streams that last as long as the client likes; drain leaves them open. */
static inline bool tgr_is_stream(enum tgr_method method)
{
    return method == TGR_HEALTH_WATCH || method == TGR_REFLECTION_V1 ||
           method == TGR_REFLECTION_V1ALPHA;
}

/* Streams of records: their latency is that of each message, and drain ends them. */
static inline bool tgr_is_record_stream(enum tgr_method method)
{
    return method == TGR_PRODUCE_STREAM || method == TGR_FETCH_STREAM;
}

#endif /* TRANSPORT_GRPC_TRANSPORT_H */
