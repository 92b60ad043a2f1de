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

#define CL_BACKOFF_MIN_US    20000u
#define CL_BACKOFF_MAX_US    1000000u
#define CL_DEADLINE_SLACK_US 500000u /* the server's own TIMED_OUT shall come first */

/* ---- completions, alarms (client.c) ---- */

struct cl_tag {
    void (*complete)(struct cl_tag *tag, bool ok);
};

/* Something to do later on the poll thread. `fire` runs exactly once for each start. */
struct cl_alarm {
    struct cl_alarm *next; /* @locks client->alarm_mu, as due_us and cancelled */
    uint64_t due_us;
    bool cancelled;
    void (*fire)(struct cl_alarm *alarm, bool cancelled);
};

uint64_t cl_now_us(void);
/* How long to wait before attempt `failures` + 1, with jitter. */
uint64_t cl_backoff_us(uint32_t failures);
gpr_timespec cl_deadline(uint64_t due_us);
void cl_alarm_start(struct sti_client *client, struct cl_alarm *alarm, uint64_t due_us);
/* Let it fire now, as cancelled, if it has not fired yet. */
void cl_alarm_cancel(struct sti_client *client, struct cl_alarm *alarm);
bool cl_on_poll_thread(const struct sti_client *client);

/* A condition whose timed waits use the monotonic clock. */
void cl_cond_init(pthread_cond_t *cond);
/* @return false when the time is over */
bool cl_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t due_us);

/* ---- connections (client.c) ---- */

enum cl_method {
    CL_PRODUCE,
    CL_FETCH,
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
/* One of the configured servers, a different one each time. */
struct cl_conn *cl_conn_any(struct sti_client *client);
bool cl_conn_is_ready(struct cl_conn *conn);
/* done runs exactly once, possibly before this returns. */
void cl_connect_start(struct cl_connect *connect, struct cl_conn *conn, uint64_t due_us);
/* "host:port" with the default port added; malloc'ed. NULL: not an address. */
char *cl_address_normalise(const char *server, size_t len);

/* ---- calls (call.c) ---- */

struct cl_failure {
    struct sti_err err;
    uint32_t retry_after_ms;
};

/* One unary call, from connecting to its answer. Owner's memory. */
struct cl_call {
    struct cl_tag tag;
    struct cl_connect connect;
    enum cl_method method;
    uint64_t due_us;
    grpc_call *call; /* @locks client->call_mu */
    bool cancelled;  /* @locks client->call_mu */
    grpc_byte_buffer *out, *in;
    grpc_metadata_array initial, trailing;
    grpc_metadata metadata[2];
    grpc_status_code status;
    grpc_slice details;
    /* Runs once for each start, on the poll thread or inside the start. `in` is borrowed, NULL with
     * a failure. May free the owner's memory. */
    void (*done)(struct cl_call *call, grpc_byte_buffer *in, const struct cl_failure *failure);
};

/* Connect and call. `out` is given. */
void cl_call_start(struct cl_call *call, struct cl_conn *conn, enum cl_method method,
                   grpc_byte_buffer *out, uint64_t due_us);
/* Ask a call that was started to end soon; done still runs. The caller makes sure that it has not
 * freed the memory. */
void cl_call_cancel(struct cl_call *call);
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

/* A call to any server, or to one, repeated until it succeeds, is refused or is out of time.
 * Blocks; not on the poll thread. */
struct cl_ask {
    enum cl_method method;
    const ProtobufCMessage *request;
    bool idempotent;
    uint64_t due_us;
    struct cl_conn *conn; /* NULL: any */
    /* Look at the response. @return STI_OK, or a row's error that may be tried again by its traits
     */
    int (*parse)(struct cl_ask *ask, const uint8_t *data, size_t len, struct cl_failure *failure);
};
int cl_ask_run(struct sti_client *client, struct cl_ask *ask, struct sti_err *err);

/* ---- wire (wire.c) ---- */

#define CL_PRODUCE_HEAD_MAX 320u
/* The bytes of a ProduceRequest with one partition, up to and without the batch itself. @return
 * their number */
size_t cl_encode_produce_head(uint8_t to[CL_PRODUCE_HEAD_MAX], int acks, uint32_t timeout_ms,
                              const char *topic, int32_t partition, size_t batch_len);

/* The row of a FetchResponse with one partition; pointers lead into the message. */
struct cl_fetch_result {
    bool has_error;
    struct cl_failure failure;
    int64_t high_watermark, log_start;
    const uint8_t *batches;
    size_t batches_len;
};
/* @return false when it is no FetchResponse with one row */
bool cl_decode_fetch(const uint8_t *data, size_t len, struct cl_fetch_result *out);

/* ---- topics (topic.c) ---- */

/* What is known of a topic; lives as long as the client. */
struct cl_topic {
    struct cl_topic *next;
    struct sti_client *client;
    char *name;
    pthread_mutex_t mu; /* all below */
    bool known;
    int32_t count;
    uint64_t message_bytes_max;
    int32_t *leaders; /* node ids by partition */
    struct cl_leader {
        int32_t node;
        struct cl_conn *conn;
    } * nodes; /* where leaders are reached */
    size_t node_count;
};

/* NULL: out of memory. */
struct cl_topic *cl_topic_get(struct sti_client *client, const char *name);
/* Look the topic up; blocks; not on the poll thread. */
int cl_topic_refresh(struct cl_topic *topic, uint64_t due_us, struct sti_err *err);
/* Somebody wants to write to a topic that is not there: a server that makes topics on demand does
 * so now, and is waited for. @return STI_OK: it is there; STI_E_UNKNOWN_TOPIC: it will not be; ...
 */
int cl_topic_ask_for(struct cl_topic *topic, uint64_t due_us, struct sti_err *err);
/* The connection to a partition's leader; some server when it is not known. */
struct cl_conn *cl_topic_leader(struct cl_topic *topic, int32_t partition);

/* ---- the client ---- */

struct sti_client {
    uint32_t timeout_ms;
    uint64_t receive_bytes_max;
    char *client_id, *trace_id;
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
    pthread_mutex_t alarm_mu;
    struct cl_alarm *alarms; /* by due_us. @locks alarm_mu */
    grpc_channel *wake_channel;
    grpc_call *wake_call; /* its only use: an empty batch is a completion at once */
    struct cl_tag wake_tag;
};

#endif /* CLIENT_INTERNAL_H */
