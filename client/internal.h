/* internal.h -- what the files of libstreamit share: completions, connections, calls, topics.
 *
 * One thread, the *poll thread*, sits in gRPC's completion queue; it alone does network work and
 * runs callbacks. Calls may be started on any thread. Whatever is to be done later is an alarm on
 * the same queue, so there is no other thread and no timer of our own.
 *
 * Locks: the mutex of a producer, consumer or topic; client->mu (connections, topics) is taken
 * inside them. None is held while a gRPC function that may complete inline, or a user's callback,
 * runs.
 *
 * Sent or not sent. A call is started only on a channel that is connected. If it then ends with
 * gRPC's own UNAVAILABLE, its outcome is unknown (CONNECTION_LOST). A channel that never got
 * connected is UNAVAILABLE of ours: nothing was done, and the call may be repeated.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#pragma GCC diagnostic pop

#include <pthread.h>
#include <stdatomic.h>

#include "streamit/client.h"
#include "streamit/v1/streamit.pb-c.h"

#define CL_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define CL_DEADLINE_SLACK_US 500000u /* the server's own TIMED_OUT shall come first */

/* ---- time, alarms (alarm.c) ---- */

/* Something to do later on the poll thread. `fire` runs exactly once for each start. All zero but
 * `fire` before the first start. */
struct cl_alarm {
    struct cl_alarm *child, *next, **link; /* a pairing heap. @locks client->alarm_mu, all */
    uint64_t due_us;
    bool armed, cancelled;
    void (*fire)(struct cl_alarm *alarm, bool cancelled);
};

/* Monotonic; what `due_us` counts in. */
uint64_t cl_now_us(void);
/* `now` + ms, for a timeout given by a caller. */
uint64_t cl_due_us(uint32_t timeout_ms);
/* How long to wait after the first failure, the second, ...: doubling from the client's
 * backoff_min_ms to its backoff_max_ms, of which a random part between half and all; `asked_ms` of
 * a server is the least. */
uint64_t cl_backoff_us(const struct sti_client *client, uint32_t failures, uint32_t asked_ms);
gpr_timespec cl_deadline(uint64_t due_us);
void cl_alarm_start(struct sti_client *client, struct cl_alarm *alarm, uint64_t due_us);
/* Let it fire now, as cancelled, if it has not fired yet. */
void cl_alarm_cancel(struct sti_client *client, struct cl_alarm *alarm);
/* Fire what is due until then. @return when the next one is. @thread poll thread */
uint64_t cl_alarms_fire(struct sti_client *client, uint64_t until_us);

/* ---- completions (client.c) ---- */

struct cl_tag {
    void (*complete)(struct cl_tag *tag, bool ok);
};

/* What a tag is given to gRPC with: the one way, so that a checker of threads can follow. */
grpc_call_error cl_batch_start(grpc_call *call, const grpc_op *ops, size_t count,
                               struct cl_tag *tag);
/* Have the poll thread look at the alarms again. */
void cl_wake(struct sti_client *client);
bool cl_on_poll_thread(const struct sti_client *client);

/* A condition whose timed waits use the monotonic clock. */
void cl_cond_init(pthread_cond_t *cond);
/* @return false when the time is over */
bool cl_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t due_us);

/* ---- connections (client.c) ---- */

enum cl_method {
    CL_PRODUCE_STREAM,
    CL_FETCH_STREAM,
    CL_LIST_OFFSETS,
    CL_CREATE_TOPIC,
    CL_ALTER_TOPIC,
    CL_DELETE_TOPIC,
    CL_LIST_TOPICS,
    CL_DESCRIBE_TOPIC,
    CL_FIND_LEADER,
    CL_METHOD_COUNT
};

/* Made when first needed, kept until the client goes. */
struct cl_conn {
    struct cl_conn *next;
    struct sti_client *client;
    char *address; /* "host:port" */
    grpc_channel *channel;
    void *methods[CL_METHOD_COUNT];
};

/* Waits until a connection is there, or is known not to come. Owner's memory. */
struct cl_connect {
    struct cl_tag tag;
    struct cl_conn *conn;
    grpc_connectivity_state seen;
    uint64_t due_us;
    void (*done)(struct cl_connect *connect, const struct sti_err *err); /* err NULL: connected */
};

/* NULL: out of memory. */
struct cl_conn *cl_conn_get(struct sti_client *client, const char *address);
/* One of the configured servers: a different one each time, and one that just refused a connection
 * only if all did. */
struct cl_conn *cl_conn_any(struct sti_client *client);
/* done runs exactly once, possibly before this returns. */
void cl_connect_start(struct cl_connect *connect, struct cl_conn *conn, uint64_t due_us);
/* "host:port" with the default port added; malloc'ed. NULL: not an address. */
char *cl_address_normalise(const char *server, size_t len);

/* ---- calls (call.c) ---- */

struct cl_failure {
    struct sti_err err;
    uint32_t retry_after_ms;
};

/* The metadata of every call. @return their number */
#define CL_METADATA_MAX 2u
size_t cl_metadata(grpc_metadata to[CL_METADATA_MAX], const struct sti_client *client);

/* One unary call, from connecting to its answer. Owner's memory, all zero before its first use. */
struct cl_call {
    struct cl_tag tag;
    struct cl_connect connect;
    enum cl_method method;
    uint64_t due_us;
    grpc_call *call; /* @locks client->call_mu */
    bool cancelled;  /* @locks client->call_mu */
    grpc_byte_buffer *out, *in;
    grpc_metadata_array initial, trailing;
    grpc_metadata metadata[CL_METADATA_MAX];
    grpc_status_code status;
    grpc_slice details;
    /* Runs once for each start, on the poll thread or inside the start. `in` is borrowed, NULL with
     * a failure. May free the owner's memory. */
    void (*done)(struct cl_call *call, grpc_byte_buffer *in, const struct cl_failure *failure);
};

/* Connect and call. `out` is given. */
void cl_call_start(struct cl_call *call, struct cl_conn *conn, enum cl_method method,
                   grpc_byte_buffer *out, uint64_t due_us);
/* Ask a call to end soon; done still runs. At any time, also before the start: it then ends as soon
 * as it is connected. The caller makes sure that it has not freed the memory. */
void cl_call_cancel(struct sti_client *client, struct cl_call *call);
/* The serialized Error in the trailing metadata of a call; NULL: none. Borrowed. */
const uint8_t *cl_trailer(const grpc_metadata_array *trailing, size_t *len);
/* Turn a gRPC status into ours; `trailer` holds a serialized Error, or is empty. */
void cl_failure_from_status(struct cl_failure *out, const char *address, grpc_status_code status,
                            const char *details, size_t details_len, const uint8_t *trailer,
                            size_t trailer_len);
void cl_failure_from_error(struct cl_failure *out, const Streamit__V1__Error *error);
/* Is a failure one that may be tried again? An unknown outcome only if the call is idempotent. */
bool cl_may_retry(uint32_t traits, bool idempotent);
grpc_byte_buffer *cl_pack(const ProtobufCMessage *message);
/* All bytes of a message in one malloc'ed block; NULL: out of memory. */
uint8_t *cl_gather(grpc_byte_buffer *buffer, size_t *len);

/* A call to any server, or to one, repeated until it succeeds, is refused or is out of time. */
struct cl_ask {
    enum cl_method method;
    const ProtobufCMessage *request; /* borrowed until the start returns */
    bool idempotent;
    uint64_t due_us;
    struct cl_conn *conn; /* NULL: any */
    /* Look at the response. @return STI_OK, or a row's error that may be tried again by its traits
     */
    int (*parse)(struct cl_ask *ask, const uint8_t *data, size_t len, struct cl_failure *failure);
    /* Runs once for each start, on the poll thread or inside the start. May free the memory. */
    void (*done)(struct cl_ask *ask, const struct sti_err *err); /* err NULL: success */
    void *arg;                                                   /* done's */

    struct sti_client *client; /* ask.c's own from here on */
    struct cl_ask *next, **link;
    struct cl_call call;
    struct cl_alarm retry;
    struct cl_failure failure;
    grpc_slice packed;
    uint32_t failures;
    bool cancelled;
};
void cl_ask_start(struct sti_client *client, struct cl_ask *ask);
/* The same, and wait for it. Not on the poll thread. */
int cl_ask_run(struct sti_client *client, struct cl_ask *ask, struct sti_err *err);
/* Have every ask that is under way end soon, as CANCELLED.
 * @param for_good  none is started any more; returns when all have ended */
void cl_asks_cancel(struct sti_client *client, bool for_good);

/* ---- wire (wire.c) ---- */

/* Of a ProduceStreamRequest what stands before its rows, and of a row what stands before its batch.
 * @return bytes */
#define CL_PRODUCE_HEAD_MAX 64u
#define CL_PRODUCE_ROW_MAX  320u
struct cl_produce_head {
    uint64_t id, answered;
    int acks;
    uint32_t timeout_ms;
    int32_t replicas_min, replicas_synced_min;
};
size_t cl_encode_produce_head(uint8_t to[CL_PRODUCE_HEAD_MAX], const struct cl_produce_head *head);
size_t cl_encode_produce_row(uint8_t to[CL_PRODUCE_ROW_MAX], const char *topic, int32_t partition,
                             size_t batch_len);

/* A place in a message that lies scattered over slices, and where reading must stop. Borrows the
 * slices. */
struct cl_cursor {
    const grpc_slice *slices;
    size_t count, index, pos; /* pos: in slices[index] */
    size_t left;
};
struct cl_cursor cl_cursor_make(const grpc_slice *slices, size_t count);
/* Move on. @return false when fewer bytes are left (then the place is undefined) */
bool cl_cursor_skip(struct cl_cursor *at, size_t len);
bool cl_cursor_copy(struct cl_cursor *at, void *to, size_t len);
/* Take the next `len` bytes, at most as many as are left, where they lie.
 * @param pieces  out: at most as many as the message has slices; borrowed as those are
 * @return how many */
size_t cl_cursor_take(struct cl_cursor *at, size_t len, struct sti_slice *pieces);

/* One row of a FetchResponse. */
struct cl_fetch_row {
    char topic[256];
    int32_t partition;
    bool has_error;
    struct cl_failure failure;
    int64_t high_watermark, log_start;
    struct cl_cursor batches; /* left 0: none */
};
/* Read a FetchResponse, row by row. @return false when it is malformed; rows before were given */
bool cl_decode_fetch(struct cl_cursor message, void (*row)(void *arg, struct cl_fetch_row *row),
                     void *arg);

/* ---- topics (topic.c) ---- */

/* What is known of a topic; lives as long as the client. */
struct cl_topic {
    struct cl_topic *next;
    struct sti_client *client;
    char *name;
    _Atomic int32_t count;    /* partitions; 0: not known yet */
    _Atomic uint32_t version; /* grows with every answer: leaders may have moved */
    pthread_mutex_t mu;       /* all below */
    pthread_cond_t refreshed; /* a refresh has ended */
    struct cl_refresh *running;
    uint64_t refreshes;  /* that have ended */
    struct sti_err last; /* of the latest one */
    uint64_t message_bytes_max;
    struct cl_conn **leaders; /* by partition; NULL: not known */
};

/* NULL: out of memory. */
struct cl_topic *cl_topic_get(struct sti_client *client, const char *name);
/* Look the topic up, unless that is under way; waits for the answer. Not on the poll thread. */
int cl_topic_refresh(struct cl_topic *topic, uint64_t due_us, struct sti_err *err);
/* The same without waiting. Any thread. */
void cl_topic_refresh_start(struct cl_topic *topic);
/* Somebody wants to write to a topic that is not there: a server that makes topics on demand does
 * so now, and is waited for. @return STI_OK: it is there; STI_E_UNKNOWN_TOPIC: it will not be; ...
 */
int cl_topic_ask_for(struct cl_topic *topic, uint64_t due_us, struct sti_err *err);
/* Look it up if it is not known yet, waiting. */
int cl_topic_need(struct cl_topic *topic, uint64_t due_us, struct sti_err *err);
/* The connection to a partition's leader; some server when it is not known. NULL: out of memory. */
struct cl_conn *cl_topic_leader(struct cl_topic *topic, int32_t partition);
/* Look up again what is known, now and then. */
void cl_topics_watch(struct sti_client *client);
void cl_topics_free(struct sti_client *client);

/* ---- the client ---- */

/* Take a configuration that may be of an older or newer program over the defaults in *to.
 * @param size_min  what the first version of the struct had */
int cl_config_copy(void *to, size_t size, const void *from, size_t size_min, const char *what,
                   struct sti_err *err);

struct sti_client {
    struct sti_client_config config; /* strings: our own copies */
    char **servers;
    size_t server_count;
    _Atomic size_t server_next;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t mu;      /* lists */
    pthread_mutex_t call_mu; /* handles of calls, for cancelling; innermost */
    struct cl_conn *conns;
    struct cl_topic *topics;
    _Atomic uint32_t cancels; /* calls of sti_client_cancel */
    struct cl_ask *asks;      /* under way, for cancelling. @locks mu, as asking and stopping */
    uint32_t asking;          /* whose `done` has not returned */
    bool stopping;
    pthread_cond_t idle; /* no ask is under way. @locks mu */
    struct cl_alarm watch;
    pthread_mutex_t alarm_mu;
    struct cl_alarm *alarms; /* a heap by due_us. @locks alarm_mu */
    grpc_channel *wake_channel;
    grpc_call *wake_call; /* its only use: an empty batch is a completion at once */
    struct cl_tag wake_tag;
};

#endif /* CLIENT_INTERNAL_H */
