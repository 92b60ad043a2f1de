/* consumer.h -- what the two halves of the consumer share: consumer.c, where records are handed
 * out, and consumer_stream.c, where they come in.
 *
 *     FetchStream (poll thread) -> message -> rows ready at their partitions -> sti_consumer_poll:
 *     checksum, decode, hand out
 *
 * A stream carries all partitions of one leader. What changes them (seek, pause, an error's pause)
 * ends its call and makes a new one from where each partition stands. Rows lie where gRPC put them
 * until they are handed out; the poll thread only walks their headers.
 *
 * Lock. One mutex a consumer, for all that both threads see. What only the caller of poll uses is
 * marked "poll's own".
 */
#ifndef CLIENT_CONSUMER_H
#define CLIENT_CONSUMER_H

#include "internal.h"

/* A FetchResponse as it came; lives while a row of it does. @locks consumer->mu: refs */
struct message {
    grpc_byte_buffer *buffer;
    uint32_t refs;
};

/* A row of batches, or the error that ends a partition. */
struct ready {
    struct ready *next;
    struct reader *reader;    /* NULL: it was unassigned meanwhile */
    struct message *message;  /* NULL with an error */
    struct cl_cursor batches; /* that are left */
    bool opened;              /* one of them was opened */
    int64_t high_watermark;
    uint64_t held; /* bytes that count against prefetch */
    struct sti_err err;
};

/* A partition that is assigned. */
struct reader {
    struct sti_consumer *consumer;
    struct cl_topic *topic;
    int32_t partition;
    uint32_t version;       /* of the topic, when `stream` was chosen */
    struct fstream *stream; /* of its leader */
    bool live;              /* the stream's call carries it */
    bool paused, stopped, backing_off, removed;
    int64_t fetch_offset;  /* behind what is ready */
    int64_t next_offset;   /* of the next record to hand out; poll's own */
    int32_t fetched_epoch; /* of the last batch that came, -1: none yet */
    uint32_t failures;
    uint64_t failing_since_us;
    struct cl_alarm retry;
    struct ready *head, *tail; /* to be handed out */
    struct reader *turn_next;
    bool turn; /* among those with something ready */
};

enum fstream_state { FSTREAM_CLOSED, FSTREAM_CONNECTING, FSTREAM_OPEN, FSTREAM_ENDING };

/* The stream of one server. Lives as long as the consumer; its call comes and goes. */
struct fstream {
    struct fstream *next;
    struct sti_consumer *consumer;
    struct cl_conn *conn;
    enum fstream_state state;
    bool dirty; /* the call does not carry what it should */
    bool has_status, receiving, overdue;
    uint32_t failures;
    uint64_t failing_since_us, asked_us; /* asked: when the message that is waited for was */
    struct cl_alarm retry, watch;
    bool backing_off, watching;
    struct cl_connect connect;
    grpc_call *call;
    uint32_t ops;
    struct cl_tag send_tag, recv_tag, status_tag;
    grpc_byte_buffer *out, *in;
    grpc_metadata metadata[CL_METADATA_MAX];
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    struct reader **carried; /* in the order of the request; NULL: unassigned */
    size_t carried_count, carried_at;
};

struct sti_consumer {
    struct sti_client *client;
    struct sti_consumer_config config;
    pthread_mutex_t mu;
    pthread_cond_t cond; /* something is ready, or less is under way */
    struct reader **readers;
    size_t count, capacity;
    struct fstream *streams;
    struct reader *turn_head, *turn_tail;
    uint64_t held;
    uint32_t under_way; /* completions, connects and alarms */
    bool closing, woken;
    /* poll's own */
    struct ready *current; /* being handed out */
    bool decoding;         /* `iter` stands in a batch of it */
    struct sti_batch_iter iter;
    struct sti_record *records;
    struct sti_slice *pieces; /* where the open batch lies */
    size_t pieces_capacity;
};

/* consumer.c. @locks consumer->mu held */
void consumer_ready_push(struct reader *r, struct ready *ready);
/* End a partition with an error, behind what is ready. */
void consumer_stop(struct reader *r, const struct sti_err *err);
/* Does a batch stand where it must? (Offsets are dense: no topic is compacted yet.) No checksum
 * covers its base offset: the first batch of a row contains the offset asked for, and each further
 * one begins behind the one before.
 * @param expected  the offset asked for, or behind the batch before: `first` says which */
bool consumer_follows(const struct sti_batch_header *header, int64_t expected, bool first);
/* The header of the batch at the cursor. */
int consumer_header(const struct cl_cursor *at, struct sti_batch_header *header,
                    struct sti_err *err);

/* consumer_stream.c. @locks consumer->mu held, dropped meanwhile */

/* Have every partition that is to be read carried by the stream of its leader. */
void consumer_route(struct sti_consumer *c);
/* There is room again: streams that wait for it go on. Lock not dropped. */
void consumer_receive(struct sti_consumer *c);
/* Forget a partition in the call that carries it, if one does. Lock not dropped.
 * @param told  the server has left it out already */
void consumer_drop(struct reader *r, bool told);
/* End everything; returns when nothing is under way. */
void consumer_streams_close(struct sti_consumer *c);
/* One that was under way is no longer: the last thing it does. The lock is released. */
void consumer_idle(struct sti_consumer *c);

#endif /* CLIENT_CONSUMER_H */
