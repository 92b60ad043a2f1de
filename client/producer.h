/* producer.h -- what the two halves of the producer share: producer.c, where records become batches
 * and batches are reported, and producer_stream.c, where batches travel.
 *
 *     send --copy--> open batch --full, or due--> queue --> sent --answer--> report
 *                                                  ^          |
 *                                                  +--failed--+
 *
 * Order. The batches of a partition are sent in order, several at a time, over one stream of its
 * leader. When one fails without having been appended, the server refuses all later ones that were
 * under way (see ProduceStreamRequest in the .proto); the producer waits until each has its answer,
 * puts them back in front of the queue in their order, and goes on from there.
 *
 * Lock. One mutex a producer; dropped while batches are finished, gRPC is called with messages, and
 * the user's callback runs. `busy` counts who works without it: a close waits for them.
 */
#ifndef CLIENT_PRODUCER_H
#define CLIENT_PRODUCER_H

#include "internal.h"

enum batch_state {
    BATCH_OPEN,      /* takes records */
    BATCH_FINISHING, /* closed, in the queue; a thread computes its checksum */
    BATCH_READY,     /* in the queue */
    BATCH_SENT,      /* among the partition's sent ones, under way */
    BATCH_FAILED     /* the same, answered: it goes again when the others have their answers */
};

/* A batch owns its builder; a message refers to the builder's bytes without a copy, so a batch is
 * used again only after gRPC has let them go (`refs`). */
struct batch {
    struct batch *next;          /* in the queue, among the sent, spare or ended ones */
    struct batch *older, *newer; /* among all that have no report */
    struct partition *part;
    struct sti_batch_builder *builder;
    void **opaques;
    uint32_t count, opaque_capacity;
    uint64_t window_bytes;
    uint64_t first_us;   /* the first record's send */
    const uint8_t *data; /* finished */
    size_t len;
    enum batch_state state;
    bool reported; /* timed out while it was under way: its answer changes nothing */
    int finish_status;
    uint64_t id;           /* of the latest request */
    _Atomic uint32_t refs; /* owner, and the slices of messages */
    struct sti_err last;   /* of the latest attempt */
};

struct batch_list {
    struct batch *head, *tail;
};

struct partition {
    struct sti_producer_topic *topic;
    int32_t index;
    uint32_t version;       /* of the topic, when `stream` was chosen */
    struct pstream *stream; /* where the sent ones are, and the next one goes */
    struct batch *open;
    struct batch_list queue, sent;
    uint32_t under_way; /* sent ones without an answer */
    uint64_t load;      /* bytes without a report */
    /* After a failure. */
    bool failed;      /* nothing is sent until all that is under way has its answer */
    bool backing_off; /* nor until `retry` has fired */
    bool wait;        /* the failure asks for a pause */
    uint32_t retry_after_ms;
    uint32_t failures;  /* in a row */
    uint64_t resume_id; /* nor until the stream's answered id has come so far */
    struct cl_alarm retry;
    struct partition *ready_next; /* among those with something to send on a stream */
    bool listed;
    struct partition *linger_prev, *linger_next; /* among those whose open batch waits for more */
    bool lingering;
};

struct sti_producer_topic {
    struct sti_producer_topic *next;
    struct sti_producer *producer;
    struct cl_topic *topic;
    struct partition **parts; /* grows; entries stay where they are */
    int32_t count;
    int32_t sticky;        /* where keyless records go */
    uint64_t sticky_bytes; /* that left it in batches that were not full */
    uint32_t version;      /* of what was heard of the topic */
    _Atomic uint64_t message_bytes_max;
};

/* Rows that travel together. */
struct request {
    struct request *next;
    uint64_t id;
    size_t count;
    struct batch *rows[];
};

enum pstream_state {
    PSTREAM_CLOSED,
    PSTREAM_CONNECTING,
    PSTREAM_OPEN,
    PSTREAM_ENDING /* the call was cancelled or has a status; completions are outstanding */
};

/* The stream to one server. Lives as long as the producer; its call comes and goes. */
struct pstream {
    struct pstream *next;
    struct sti_producer *producer;
    struct cl_conn *conn;
    enum pstream_state state;
    uint32_t failures; /* in a row */
    uint64_t not_before_us;
    struct cl_alarm retry;
    bool backing_off;
    struct cl_connect connect;
    grpc_call *call;
    uint32_t ops; /* completions outstanding */
    bool sending, has_status;
    bool purged; /* the call was cancelled by the user */
    struct cl_tag init_tag, send_tag, recv_tag, status_tag, close_tag;
    grpc_byte_buffer *in, *out;
    grpc_metadata metadata[CL_METADATA_MAX];
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    uint64_t last_id;
    uint64_t opened_id; /* last_id when the call was made: the server knows of none up to it */
    struct request *requests, *requests_tail; /* without answer, by id */
    struct partition *ready, *ready_tail;
    struct sti_err last; /* why it was closed the latest time */
};

struct sti_producer {
    struct sti_client *client;
    struct sti_producer_config config;
    pthread_mutex_t mu;
    pthread_cond_t room; /* the window has room, or less is under way */
    uint32_t waiting;    /* for it */
    struct sti_producer_topic *topics;
    struct pstream *streams;
    struct batch *spare;
    uint64_t spare_bytes;
    struct batch *oldest, *newest; /* without a report */
    struct cl_alarm expiry;
    bool expiry_armed;
    struct partition *linger_head, *linger_tail;
    struct cl_alarm linger;
    bool linger_armed;
    struct batch_list ended; /* failed off the poll thread, to be reported on it */
    struct cl_alarm ended_alarm;
    bool ended_armed;
    uint64_t window_used, window_count;
    uint64_t outstanding; /* batches without a report, open ones included */
    uint32_t flushing;
    uint32_t
        busy; /* alarms that have not fired, and work without the lock: a close waits for them */
    bool closing;
    bool stopped; /* at a failure, see STI_PRODUCER_STOP_AT_FAILURE: nothing more is sent */
    struct sti_err stop_err;
    bool moved; /* a partition has gone to another stream, which must look at it */
};

void batch_list_push(struct batch_list *list, struct batch *b);
/* Take one out, wherever it stands. @return false: it is not there */
bool batch_list_remove(struct batch_list *list, struct batch *b);

/* producer.c. @locks producer->mu held, all; dropped meanwhile where it says so */

/* Checksum and compression. @locks none */
void producer_batch_finish(struct batch *b);
/* A slice that refers to the batch's bytes and keeps it alive. */
grpc_slice producer_batch_slice(struct batch *b);
uint64_t producer_batch_due_us(const struct batch *b);
/* Report a batch and forget it; on the poll thread at once, with the lock dropped meanwhile, else
 * soon. The batch is in no list of its partition. A batch that was reported before is freed.
 * @param result  NULL with a failure   @param err  NULL with success */
void producer_batch_end(struct batch *b, const Streamit__V1__ProduceResult *result,
                        const struct sti_err *err);
/* The next batch that may go now, out of queue or open; NULL: none. */
struct batch *producer_take(struct partition *part);
/* Would producer_take give one? Arms the linger alarm where that is what it waits for. */
bool producer_has(struct partition *part);
/* Start an alarm, which a close then waits for; `producer_alarm_over` at the end of its fire. */
void producer_alarm(struct sti_producer *producer, struct cl_alarm *alarm, uint64_t due_us);
/* One that was busy is no longer: the last thing it does. The lock is released. */
void producer_idle(struct sti_producer *producer);

/* producer_stream.c. @locks producer->mu held, dropped meanwhile */

/* Have a partition send what it can. */
void producer_kick(struct partition *part);
/* All that was under way has its answer and some of it failed: go on behind that. */
void producer_round_end(struct partition *part);
/* What is under way ends soon, with an unknown outcome. */
void producer_streams_cancel(struct sti_producer *producer);
/* End idle streams in order; returns when all are closed. */
void producer_streams_close(struct sti_producer *producer);
void producer_streams_free(struct sti_producer *producer);

#endif /* CLIENT_PRODUCER_H */
