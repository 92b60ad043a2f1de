/* streamit/client.h -- libstreamit, the C client library of StreamIt: the manual.
 *
 * A program opens one `sti_client` for a cluster, and through it any number of producers, consumers
 * and administrative calls. The client owns one thread (the *poll thread*), which does all network
 * work and runs all callbacks; no other thread is started for producers or consumers.
 *
 *     struct sti_client_config config;
 *     struct sti_producer_config options;
 *     sti_client_config_init(&config);
 *     config.servers = "localhost:8080";
 *     if (sti_client_new(&client, &config, &err) != STI_OK) ...
 *     sti_producer_config_init(&options);
 *     options.on_delivery = delivered;
 *     sti_producer_new(&producer, client, &options, &err);
 *     sti_producer_topic_open(&topic, producer, "orders", &err);
 *     sti_producer_send(topic, &(struct sti_producer_record){.partition = STI_PARTITION_ANY,
 *                       .value = "hello", .value_len = 5, .timestamp_ms = STI_TIMESTAMP_NOW},
 * &err); sti_producer_flush(producer, 30000, &err); sti_producer_close(producer, 0);
 *     sti_client_free(client);
 *
 * Errors. Every function that can fail returns STI_OK or a negative STI_E_* of streamit/status.h,
 * and fills `err` (which may be NULL) with one sentence that names the thing. `err->traits` says
 * whether the same call may succeed later and whether its outcome is known.
 *
 * Threads. All functions may be called from any thread, also at the same time, except where a
 * function says otherwise; an object must not be used once its free or close function has been
 * called. Callbacks run on the poll thread: while one runs, nothing else of this client moves, so
 * it must be short and must not block. A function that would wait returns STI_E_WOULD_BLOCK when
 * it is called from a callback.
 *
 * Memory. What a caller passes is borrowed until the function returns, unless said otherwise;
 * records are copied once, into the batch that travels.
 *
 * Configuration structs. Fill one with its init function, then change what matters. `struct_size`
 * lets a program that was built with an older header run with a newer library.
 *
 * Caveats. gRPC does not survive fork(): a child must exec before it uses a client. Delivery is at
 * least once for what was acknowledged and at most once for what failed with an unknown outcome:
 * see sti_producer_send.
 */
#ifndef STREAMIT_CLIENT_H
#define STREAMIT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/record_batch.h"
#include "streamit/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define STI_CLIENT_API __attribute__((visibility("default")))
#else
#define STI_CLIENT_API
#endif

struct sti_client;
struct sti_producer;
struct sti_producer_topic;
struct sti_consumer;

/* ---- the client: connections and what is known of the cluster ----------------------------------
 */

struct sti_client_config {
    uint32_t struct_size;
    uint32_t timeout_ms;        /* of an administrative call, with its retries; 30000           */
    const char *servers;        /* "host:port,[::1]:8080": whom to ask first; "localhost:8080".
                                   A missing port is 8080                                        */
    const char *client_id;      /* names this program in the servers' logs; "libstreamit"       */
    const char *trace_id;       /* travels with every call as x-trace-id; NULL: none            */
    uint64_t receive_bytes_max; /* a larger answer is refused; 256 MiB                           */
    uint32_t backoff_min_ms; /* pause after a first failure that may be tried again; it doubles  */
    uint32_t backoff_max_ms; /* with each further one up to this; 20 and 1000. A random half is
                                taken off, and never less than a server asks for              */
    uint32_t metadata_refresh_ms;  /* how often what is known of topics is looked up again without
                                      cause; 300000. 0: never                                     */
    uint32_t receive_window_bytes; /* a server sends so far ahead of what is read, on each call;
                                      4 MiB. A long line needs its rate x round trip. 0: gRPC
                                      looks for one that fits, which may grow to 100 MiB         */
};

STI_CLIENT_API void sti_client_config_init(struct sti_client_config *config);

/* Make a client and start its poll thread. Nothing is sent before the first call: a server that
 * cannot be reached shows there.
 * @return STI_OK; STI_E_INVALID_ARGUMENT (servers); STI_E_NO_MEMORY; STI_E_INTERNAL (no thread) */
STI_CLIENT_API int sti_client_new(struct sti_client **out, const struct sti_client_config *config,
                                  struct sti_err *err);

/* Have every call that waits end soon with STI_E_CANCELLED: administrative calls, lookups of topics
 * and of starting points. Later calls are not touched. For producers and consumers see
 * sti_producer_purge and sti_consumer_wakeup. Any thread, also from a callback. */
STI_CLIENT_API void sti_client_cancel(struct sti_client *client);

/* Stop the poll thread and free everything. Producers and consumers must have been closed, no call
 * may be under way. Not from a callback. NULL is allowed. */
STI_CLIENT_API void sti_client_free(struct sti_client *client);

/* ---- producing --------------------------------------------------------------------------------
 */

#define STI_PARTITION_ANY                                                                          \
    (-1) /* as the producer's `partition` says; else by murmur2 of the key, and                    \
            without key to a partition that changes with the batches, among                        \
            the next ones to that with the least under way */
#define STI_TIMESTAMP_NOW (-1) /* the time of the call                                 */

/* How far a record must be safe before it is acknowledged. */
enum sti_producer_acks {
    STI_PRODUCER_ACKS_QUORUM = 0, /* in the log of every in-sync replica                 */
    STI_PRODUCER_ACKS_LEADER = 1, /* in the leader's log                                 */
    STI_PRODUCER_ACKS_NONE = 2    /* accepted by the leader; nothing is promised         */
};

/* What became of the records of one batch. Everything is borrowed for the callback. */
struct sti_delivery {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    int status;                /* STI_OK: stored as far as `acks` asks; else why not         */
    uint32_t count;            /* records                                                    */
    void *const *opaques;      /* their `opaque`, in the order of their send calls           */
    int64_t base_offset;       /* offset of the first, the i-th has base_offset + i; -1: none */
    const struct sti_err *err; /* with a status: the sentence and traits. INDEFINITE in the
                                  traits: the records may or may not be stored                */
    int32_t leader_epoch;
    int32_t replicas;        /* that hold the batch at the time of the answer              */
    int32_t replicas_synced; /* that have synced it to disk                                */
};

struct sti_producer_record;

/* The first report of a failure ends the producer: nothing is sent any more, in no partition, not
 * even what a server had refused meanwhile because of that failure. So of what was sent to a
 * partition nothing is stored behind a record that is not. What had not been sent is reported with
 * STI_E_CANCELLED, and sti_producer_send returns that first failure from then on. */
#define STI_PRODUCER_STOP_AT_FAILURE 0x1u

struct sti_producer_config {
    uint32_t struct_size;
    int acks;              /* enum sti_producer_acks; quorum                               */
    int codec;             /* enum sti_codec; none                                         */
    int codec_level;       /* 0: the codec's default                                       */
    uint32_t linger_ms;    /* how long a batch may wait for more records when nothing is in
                              flight for its partition; 0. While a request is in flight the
                              next batch fills in any case                                 */
    uint32_t batch_bytes;  /* a batch is closed before it passes this, or the topic's
                              max.message.bytes if that is less; 1 MiB. A larger record
                              travels alone                                                */
    uint64_t window_bytes; /* records not yet acknowledged, over all partitions: a send that
                              would pass it waits; 32 MiB                                  */
    uint32_t timeout_ms;   /* from the send of a record to its delivery report, with all
                              retries; 30000                                               */
    uint32_t flags;        /* STI_PRODUCER_*; 0                                            */
    void (*on_delivery)(void *arg, const struct sti_delivery *delivery); /* may be NULL      */
    void *arg;
    uint32_t max_in_flight;      /* batches of a partition under way at a time; 5               */
    uint32_t window_records;     /* as window_bytes, in records; 1000000                        */
    int32_t replicas_min;        /* a batch that fewer replicas could hold is refused; 0: none  */
    int32_t replicas_synced_min; /* the same for replicas that have synced it; 0: none      */
    /* Chooses for records with STI_PARTITION_ANY, if not NULL: a partition in [0, count), or
     * STI_PARTITION_ANY for the usual way. Runs within sti_producer_send, on its thread, and may
     * run on several at a time; `arg` is that above. */
    int32_t (*partition)(void *arg, const char *topic, const struct sti_producer_record *record,
                         int32_t count);
};

struct sti_producer_record {
    int32_t partition; /* or STI_PARTITION_ANY                                         */
    uint32_t flags;    /* STI_SEND_*                                                   */
    const void *key;   /* NULL: no key                                                 */
    const void *value; /* NULL: a null value                                           */
    size_t key_len, value_len;
    int64_t timestamp_ms; /* since the Unix epoch, or STI_TIMESTAMP_NOW                   */
    const struct sti_record_header *headers;
    size_t header_count;
    void *opaque; /* comes back in the delivery report                            */
};

#define STI_SEND_NO_WAIT 0x1u /* STI_E_WOULD_BLOCK rather than a wait for room in the window */

STI_CLIENT_API void sti_producer_config_init(struct sti_producer_config *config);

/* @return STI_OK, STI_E_INVALID_ARGUMENT (acks, a limit of 0), STI_E_UNSUPPORTED (codec),
 * STI_E_NO_MEMORY */
STI_CLIENT_API int sti_producer_new(struct sti_producer **out, struct sti_client *client,
                                    const struct sti_producer_config *config, struct sti_err *err);

/* Look a topic up, and keep a handle for sending to it. Waits for the answer, at most the
 * producer's timeout. The handle lives until the producer is closed; a second call with the same
 * name returns the same handle.
 * @return STI_OK, STI_E_UNKNOWN_TOPIC, STI_E_UNAVAILABLE (no server reached), STI_E_TIMED_OUT ...
 */
STI_CLIENT_API int sti_producer_topic_open(struct sti_producer_topic **out,
                                           struct sti_producer *producer, const char *name,
                                           struct sti_err *err);

/* Partitions as last heard; grows when the topic does. */
STI_CLIENT_API int32_t sti_producer_topic_partitions(struct sti_producer_topic *topic);

/* The topic's max.message.bytes as last heard: the largest batch it takes. */
STI_CLIENT_API uint64_t sti_producer_topic_message_bytes_max(struct sti_producer_topic *topic);

/* Put one record into the open batch of its partition. The bytes are copied. Waits while the window
 * is full. STI_OK means that a delivery report will follow, exactly one for each record.
 *
 * Order: records that one thread sends to one partition are stored in the order of the calls, as
 * far as they are stored. Up to max_in_flight batches of a partition travel at a time; when one is
 * refused, the server refuses those behind it as well, and all go again in their order.
 *
 * Retries: only failures of which it is known that nothing was appended are tried again, until the
 * timeout (for example THROTTLED, NOT_LEADER, NOT_ENOUGH_REPLICAS, or a server that cannot be
 * reached). A failure with an unknown outcome (CONNECTION_LOST, TIMED_OUT) is reported at once and
 * never retried, because the records could be stored twice; the batches behind it go on.
 *
 * @return STI_OK; STI_E_WOULD_BLOCK; STI_E_TIMED_OUT (no room in the window for timeout_ms; the
 * record was not taken); STI_E_UNKNOWN_PARTITION; STI_E_MESSAGE_TOO_LARGE (more than 2^31 bytes);
 * STI_E_NO_MEMORY; STI_E_CANCELLED (the producer is closing); with STI_PRODUCER_STOP_AT_FAILURE
 * what ended it */
STI_CLIENT_API int sti_producer_send(struct sti_producer_topic *topic,
                                     const struct sti_producer_record *record, struct sti_err *err);

/* Send what waits, and wait until no record is without its report.
 * @return STI_OK (look at the reports for failures), STI_E_TIMED_OUT, STI_E_WOULD_BLOCK */
STI_CLIENT_API int sti_producer_flush(struct sti_producer *producer, uint32_t timeout_ms,
                                      struct sti_err *err);

#define STI_PURGE_QUEUED    0x1u /* records that have not been sent, or are to be sent again */
#define STI_PURGE_IN_FLIGHT 0x2u /* records under way: whether they are stored is unknown     */

/* Give records up: each gets its report with STI_E_CANCELLED soon; those that were under way with
 * STI_TRAIT_INDEFINITE. Does not wait. Records that are sent meanwhile are not touched for sure.
 * Any thread, also from a callback. */
STI_CLIENT_API void sti_producer_purge(struct sti_producer *producer, uint32_t what);

/* Flush for at most `timeout_ms`, fail what is left with STI_E_CANCELLED, and free the producer
 * with its topic handles. All reports have been made when it returns. Sends and flushes that wait
 * on other threads return first; none may begin any more. Not from a callback. NULL is allowed. */
STI_CLIENT_API void sti_producer_close(struct sti_producer *producer, uint32_t timeout_ms);

/* Kafka's murmur2 of a key (seed 0x9747b28c), as its Java client computes it. */
STI_CLIENT_API uint32_t sti_murmur2(const void *data, size_t len);

/* The partition of a key, as Kafka's Java client chooses it: (murmur2 & 0x7fffffff) % count. */
STI_CLIENT_API int32_t sti_partition_of_key(const void *key, size_t len, int32_t count);

/* ---- consuming --------------------------------------------------------------------------------
 */

#define STI_START_END       (-1) /* the high watermark at the time of the call */
#define STI_START_BEGINNING (-2) /* the first offset that the log still holds  */

/* A partition to read, and from where. */
struct sti_assigned {
    const char *topic;
    int32_t partition;
    uint32_t reserved;
    int64_t offset;       /* first wanted, or STI_START_*; ignored with a timestamp               */
    int64_t timestamp_ms; /* >= 0: from the first record with this timestamp or a later one;
                             the end if there is none. -1: by `offset`                            */
};

struct sti_consumer_config {
    uint32_t struct_size;
    uint32_t fetch_bytes;     /* of one message from a server; 1 MiB. A larger batch comes whole */
    uint64_t prefetch_bytes;  /* held ready for poll: beyond it nothing is taken from the network.
                                 At most one message of each server comes on top, and what it
                                 sent ahead, receive_window_bytes of the client; 16 MiB       */
    uint64_t batch_bytes_max; /* a batch that inflates beyond it is refused; 256 MiB          */
    uint32_t max_wait_ms;     /* a server without news says so after this; 5000               */
    uint32_t timeout_ms;      /* a partition that cannot be read for so long is an error; and how
                                 long a start from no offset may take to find; 30000          */
};

/* Some records of one partition, in the order of their offsets: of one batch, at most 1024 at a
 * time. Keys and values lie where they were received or decompressed; everything is borrowed until
 * the next call of sti_consumer_poll or sti_consumer_close. */
struct sti_records {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    const struct sti_record *records;
    size_t count;
    int64_t high_watermark; /* of the partition, when these records were read */
};

STI_CLIENT_API void sti_consumer_config_init(struct sti_consumer_config *config);

/* Make a consumer, and assign partitions to it as sti_consumer_assign does; `count` may be 0. Its
 * functions may be called by one thread at a time, sti_consumer_wakeup by any.
 * @return as sti_consumer_assign; STI_E_INVALID_ARGUMENT also for a limit of 0 */
STI_CLIENT_API int sti_consumer_new(struct sti_consumer **out, struct sti_client *client,
                                    const struct sti_consumer_config *config,
                                    const struct sti_assigned *assignments, size_t count,
                                    struct sti_err *err);

/* Read these partitions as well; one that is assigned already begins anew where this says. Waits
 * until starting points that are no offsets are known, at most timeout_ms. With an error nothing is
 * assigned, except that memory may run out half-way.
 * @return STI_OK, STI_E_INVALID_ARGUMENT (a partition twice), STI_E_UNKNOWN_TOPIC,
 * STI_E_UNKNOWN_PARTITION, STI_E_UNAVAILABLE, STI_E_TIMED_OUT, STI_E_CANCELLED, STI_E_NO_MEMORY */
STI_CLIENT_API int sti_consumer_assign(struct sti_consumer *consumer,
                                       const struct sti_assigned *assignments, size_t count,
                                       struct sti_err *err);

/* Read a partition no further, and forget it with what is ready of it. All functions that name a
 * partition return STI_E_NOT_FOUND for one that is not assigned. */
STI_CLIENT_API int sti_consumer_unassign(struct sti_consumer *consumer, const char *topic,
                                         int32_t partition, struct sti_err *err);

/* Go on elsewhere in a partition that is assigned: what is ready of it is dropped, and one that had
 * ended with an error is read again.
 * @return as sti_consumer_assign; STI_E_NOT_FOUND */
STI_CLIENT_API int sti_consumer_seek(struct sti_consumer *consumer, const struct sti_assigned *to,
                                     struct sti_err *err);

/* Hand nothing out of a partition until it is resumed. What was ready of it is dropped, and read
 * again then. Pausing twice is pausing once. */
STI_CLIENT_API int sti_consumer_pause(struct sti_consumer *consumer, const char *topic,
                                      int32_t partition, struct sti_err *err);
STI_CLIENT_API int sti_consumer_resume(struct sti_consumer *consumer, const char *topic,
                                       int32_t partition, struct sti_err *err);

/* The offset behind the last record that poll handed out: where a later consumer goes on. */
STI_CLIENT_API int sti_consumer_position(struct sti_consumer *consumer, const char *topic,
                                         int32_t partition, int64_t *offset, struct sti_err *err);

/* Get the next records of any partition; waits for them for at most `timeout_ms`. Partitions with
 * records ready take turns.
 *
 * The checksum of every batch is checked before the first of its records is handed out. An error of
 * one partition is returned once, after the records before it; that partition is then read no
 * further until a seek, the others are. `out->topic` and `out->partition` say which one; the
 * message names topic, partition and offset.
 *
 * @return STI_OK with out->count >= 1; STI_E_WOULD_BLOCK (nothing within timeout_ms);
 * STI_E_CANCELLED (sti_consumer_wakeup); STI_E_DATA_LOSS (damaged or lost data);
 * STI_E_OFFSET_OUT_OF_RANGE; STI_E_UNKNOWN_TOPIC; the last error of a partition that could not be
 * read for timeout_ms of the configuration */
STI_CLIENT_API int sti_consumer_poll(struct sti_consumer *consumer, uint32_t timeout_ms,
                                     struct sti_records *out, struct sti_err *err);

/* Have the sti_consumer_poll that waits, or else the next one, return STI_E_CANCELLED. Any thread,
 * also from a callback. */
STI_CLIENT_API void sti_consumer_wakeup(struct sti_consumer *consumer);

/* Stop reading and free the consumer. Not from a callback. NULL is allowed. */
STI_CLIENT_API void sti_consumer_close(struct sti_consumer *consumer);

/* ---- administration ---------------------------------------------------------------------------
 */

/* All of these wait for the answer, at most the client's timeout_ms. A server that cannot be
 * reached is tried again, as are the other ones, until then. Whatever the servers refuse is
 * returned with their code and sentence. None may be called from a callback (STI_E_WOULD_BLOCK). */

/* A setting of a topic; value NULL in an alteration: back to the default. */
struct sti_admin_setting {
    const char *key;
    const char *value;
};

struct sti_admin_created {
    uint8_t topic_id[16];
    int32_t partitions;
    int32_t replication;
};

/* @param partitions, replication  0: the server's default
 * @return STI_OK, STI_E_ALREADY_EXISTS, STI_E_INVALID_ARGUMENT, STI_E_UNSUPPORTED ... */
STI_CLIENT_API int sti_admin_create_topic(struct sti_client *client, const char *name,
                                          int32_t partitions, int32_t replication,
                                          const struct sti_admin_setting *settings, size_t count,
                                          struct sti_admin_created *out, struct sti_err *err);

/* @param partitions  the new total, never less than before; 0: unchanged */
STI_CLIENT_API int sti_admin_alter_topic(struct sti_client *client, const char *name,
                                         int32_t partitions,
                                         const struct sti_admin_setting *settings, size_t count,
                                         struct sti_err *err);

STI_CLIENT_API int sti_admin_delete_topic(struct sti_client *client, const char *name,
                                          struct sti_err *err);

struct sti_admin_topic {
    const char *name;
    uint8_t topic_id[16];
    int32_t partitions;
    int32_t replication;
};

struct sti_admin_topics {
    size_t count;
    const struct sti_admin_topic *topics; /* in the order of their names */
};

/* List all topics. *out is returned: free it with sti_admin_topics_free. */
STI_CLIENT_API int sti_admin_list_topics(struct sti_client *client, struct sti_admin_topics **out,
                                         struct sti_err *err);
STI_CLIENT_API void sti_admin_topics_free(struct sti_admin_topics *topics);

struct sti_admin_partition {
    int32_t partition;
    int32_t leader; /* node id; -1: none */
    int32_t leader_epoch;
    uint32_t replica_count, isr_count;
    const int32_t *replicas;
    const int32_t *isr;
    int64_t log_start, high_watermark, log_end; /* -1: not known to the node that answered */
    uint64_t bytes;
    int status; /* STI_OK, or why it takes no appends */
    uint32_t reserved;
    const char *status_message; /* NULL: none */
};

struct sti_admin_config {
    const char *key;
    const char *value;
    const char *source; /* "default", "node" or "topic" */
    const char *help;
};

struct sti_admin_description {
    const char *name;
    uint8_t topic_id[16];
    int32_t replication;
    uint32_t reserved;
    size_t partition_count, config_count;
    const struct sti_admin_partition *partitions;
    const struct sti_admin_config *config;
};

/* Describe a topic. *out is returned: free it with sti_admin_description_free. */
STI_CLIENT_API int sti_admin_describe_topic(struct sti_client *client, const char *name,
                                            struct sti_admin_description **out,
                                            struct sti_err *err);
STI_CLIENT_API void sti_admin_description_free(struct sti_admin_description *description);

/* Wait until every partition of a topic has a leader and takes appends, for example after it was
 * created in a cluster, or after a node's start; a topic that is not there is waited for.
 * @return STI_OK; STI_E_TIMED_OUT (the message says what is missing); STI_E_CANCELLED; what the
 * servers refuse for good */
STI_CLIENT_API int sti_admin_await_topic(struct sti_client *client, const char *name,
                                         uint32_t timeout_ms, struct sti_err *err);

struct sti_admin_leader {
    int32_t node_id;
    int32_t port;
    int32_t leader_epoch;
    char host[256];
};

STI_CLIENT_API int sti_admin_find_leader(struct sti_client *client, const char *topic,
                                         int32_t partition, struct sti_admin_leader *out,
                                         struct sti_err *err);

/* Find an offset of a partition.
 * @param timestamp_ms  STI_START_END, STI_START_BEGINNING, or a time: the first batch at or after
 * it
 * @param offset  -1 when there is none at or after the time */
STI_CLIENT_API int sti_admin_list_offset(struct sti_client *client, const char *topic,
                                         int32_t partition, int64_t timestamp_ms, int64_t *offset,
                                         struct sti_err *err);

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_CLIENT_H */
