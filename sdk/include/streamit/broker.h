/* streamit/broker.h -- interface "streamit.broker": what a commit log means, for every wire.
 *
 * A transport turns frames into these calls and their results into frames; it decides nothing about
 * topics, offsets, limits or rights. The API is shaped for gRPC, for the Kafka wire and for
 * in-process use alike: produce, fetch and list-offsets take many partitions and answer each by
 * itself.
 *
 * Calls. A call struct is the caller's memory, with everything it points to, from the call until
 * `done`. A function that returns STI_OK runs `done` exactly once, on any thread, possibly before
 * it returns; one that returns an error never runs it. `done` must not block. Each row carries its
 * own status; a call-level error is for what concerns all rows (drain, authentication). Nothing
 * here waits for a disk, or for a lock held over file I/O, on the caller's thread: a small produce
 * call may write into memory of the operating system on it, and then run, before it returns, its
 * own `done` and that of a fetch that waited for the records. So whoever produces holds no lock
 * that a `done` takes.
 *
 * Order. Appends to one partition that arrive over one connection are appended in the order of the
 * produce calls. Answers may complete in any order; a wire that promises response order keeps it
 * itself.
 *
 * Backpressure. The broker takes bytes up to a limit (broker.inflight_bytes_max), and of one
 * connection at most a part of what is still free. A produce call beyond it is answered with
 * THROTTLED and retry_after_ms in every row. A transport that can stop reading asks first with
 * `admit`.
 *
 * Quotas. Bytes in, bytes out and calls of a client id and of a principal may have limits
 * (broker.quotas). A call beyond one is answered with THROTTLED and with the time after which it
 * will be taken: in every row where a call has rows, else as the call's own error, with the time in
 * request->retry_after_ms. Nobody is put off by silence.
 *
 * Rights. Who asks is found with `authenticate`, once a call or once a connection, as the wire has
 * it; what they may do the broker asks itself (auth.h). A row that may not be touched is answered
 * with PERMISSION_DENIED, which names operation and resource.
 *
 * Visibility. Fetch never returns a record at or above the high watermark. With flush.policy=commit
 * neither does it return one that a power cut could take back.
 *
 * How others use it. The Kafka wire maps Produce, Fetch, ListOffsets, Metadata, CreateTopics ...
 * onto these calls one to one; error codes are mapped in that transport only. A cluster answers
 * NOT_LEADER with a leader hint. An object store behind storage changes nothing here.
 *
 * Caveats. Rows are answered individually: a produce call may succeed for one partition and fail
 * for the next. TIMED_OUT means that the acknowledgement did not arrive in time; the records may be
 * stored. topic_id, when not all zero, wins over the name, and a mismatch is UNKNOWN_TOPIC.
 */
#ifndef STREAMIT_BROKER_H
#define STREAMIT_BROKER_H

#include "streamit/auth.h"
#include "streamit/plugin.h"
#include "streamit/request.h"
#include "streamit/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_BROKER_ID    "streamit.broker"
#define STI_BROKER_MAJOR 0
#define STI_BROKER_MINOR 4

#define STI_TOPIC_NAME_MAX 249u

/* ---- produce */

enum sti_acks {
    STI_ACKS_NONE = 0,   /* nothing is promised */
    STI_ACKS_LEADER = 1, /* in the leader's log (synced, with flush.policy=commit) */
    STI_ACKS_QUORUM =
        2 /* in the log of every in-sync replica, and of at least min.insync.replicas */
};

/* Keeps the order of one partition's batches on one stream of requests, of which several are under
 * way: a batch is appended only when its sender had read the answer of every earlier one that was
 * not. Caller's memory, one for each stream and partition, all zero before its first call; it
 * outlives the calls of all rows that name it. Calls of one stream are made one after the other, in
 * the order of their ids; they may be under way together.
 *
 * The word holds the first request that failed since its sender last began anew, 0: none. Rows
 * behind it whose sender had not read its answer are refused with PRECONDITION, retriable, and are
 * not appended; the sender sends the failed one and what followed it again, in order, under new
 * ids. What was appended and got no acknowledgement in time has not failed. */
struct sti_produce_chain {
    uint64_t failed; /* accessed atomically, by the functions below only */
};

/* Must a row be refused, because an earlier one was not appended? */
static inline int sti_produce_chain_refuses(const struct sti_produce_chain *chain, uint64_t id,
                                            uint64_t answered)
{
    uint64_t failed = __atomic_load_n(&chain->failed, __ATOMIC_ACQUIRE);
    return failed != 0 && failed <= id && answered < failed;
}

/* A row was not appended. The broker says so of every row that it was given; a transport does of
 * those that it refuses itself. Before the row is answered, and never for a refusal by the chain. A
 * failure behind an earlier one that its sender had not read of is one with that; one before it
 * takes its place. Any thread. */
static inline void sti_produce_chain_fail(struct sti_produce_chain *chain, uint64_t id,
                                          uint64_t answered)
{
    uint64_t failed = __atomic_load_n(&chain->failed, __ATOMIC_ACQUIRE);
    do {
        if (failed != 0 && failed <= id && answered < failed) {
            return;
        }
    } while (!__atomic_compare_exchange_n(&chain->failed, &failed, id, 0, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
}

struct sti_produce_row {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    uint8_t topic_id[16];
    const struct sti_slice *slices; /* exactly one record batch v2; borrowed until done */
    uint32_t slice_count;
    /* results */
    int32_t status;
    int64_t base_offset; /* of the batch, -1 when not appended */
    int64_t log_start;
    int64_t append_time_ms; /* -1 unless the topic stamps on append */
    int32_t leader_epoch;
    int32_t leader_hint;     /* node that leads, with NOT_LEADER; else -1 */
    int32_t replicas;        /* how many replicas hold it at the time of the answer */
    int32_t replicas_synced; /* and how many have synced it */
    uint32_t retry_after_ms; /* with THROTTLED, UNAVAILABLE; else 0 */
    uint32_t reserved;
    uint64_t bytes_needed; /* with DISK_FULL; else 0 */
    struct sti_err err;
    /* since 0.3: the order of a stream */
    struct sti_produce_chain *chain; /* NULL: the row stands alone */
    uint64_t chain_id;               /* of its request, > 0, ascending within the stream */
    uint64_t chain_answered; /* the highest id such that the sender had read all answers up to it
                                when it sent this */
};

struct sti_produce {
    uint32_t struct_size;
    int32_t acks;        /* enum sti_acks */
    uint32_t timeout_ms; /* how long to wait for the acks; 0: broker's default */
    uint32_t row_count;  /* >= 1 */
    const struct sti_request *request;
    struct sti_produce_row *const *rows;
    int32_t replicas_min;        /* floor: an error rather than a weaker ack; 0: none */
    int32_t replicas_synced_min; /* floor of synced replicas; 0: none */
    void (*done)(struct sti_produce *call);
    void *user; /* the caller's */
};

/* What a row costs beside its bytes, for as long as its call is under way. */
#define STI_PRODUCE_ROW_COST 1024u

/* What a call takes of broker.inflight_bytes_max, and what `admit` is asked for. */
static inline uint64_t sti_produce_cost(const struct sti_produce *call)
{
    uint64_t cost = (uint64_t)call->row_count * STI_PRODUCE_ROW_COST;
    uint32_t i;
    for (i = 0; i < call->row_count; i++) {
        cost += sti_slices_len(call->rows[i]->slices, call->rows[i]->slice_count);
    }
    return cost;
}

/* ---- fetch */

#define STI_FETCH_SLICES_MAX 16u

enum sti_isolation { STI_READ_UNCOMMITTED = 0, STI_READ_COMMITTED = 1 };

struct sti_fetch_row {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    uint8_t topic_id[16];
    int64_t offset;       /* first wanted */
    uint32_t max_bytes;   /* of this partition */
    int32_t leader_epoch; /* that the caller knows, or -1: checked when given */
    /* results */
    int32_t status;
    int32_t current_leader_epoch;
    int32_t leader_hint; /* with NOT_LEADER; else -1 */
    uint32_t slice_count;
    int64_t high_watermark; /* -1 with an error */
    int64_t last_stable;
    int64_t log_start;
    uint64_t bytes;
    struct sti_slice slices[STI_FETCH_SLICES_MAX]; /* whole batches, from the one that contains
                                                      `offset`; referenced: the caller releases
                                                      each, see sti_fetch_release */
    struct sti_err err;
    /* since 0.2 */
    int32_t last_epoch; /* of the batch that the caller read before `offset`, or -1: when the log
                           has begun anew since (see current_leader_epoch), the row is answered
                           with OFFSET_OUT_OF_RANGE, also if the offset is there again */
    /* since 0.4 */
    uint32_t retry_after_ms; /* result: with THROTTLED, UNAVAILABLE; else 0 */
};

struct sti_fetch {
    uint32_t struct_size;
    uint32_t flags; /* STI_FETCH_* */
    const struct sti_request *request;
    struct sti_fetch_row *const *rows;
    uint32_t row_count;   /* >= 1 */
    uint32_t max_bytes;   /* over all rows; the first batch comes whole even if it is larger */
    uint32_t min_bytes;   /* wait until so many are there ... */
    uint32_t max_wait_ms; /* ... or this has passed; 0: answer at once */
    int32_t isolation;    /* enum sti_isolation */
    uint32_t reserved;
    void (*done)(struct sti_fetch *call);
    void *user;     /* the caller's */
    void *state[2]; /* the broker's; zero before the call */
};

#define STI_FETCH_MEMORY 0x1u /* the wire needs bytes in memory, not file ranges */

/* Release every slice of an answered fetch that has not been handed on. */
static inline void sti_fetch_release(struct sti_fetch *call)
{
    uint32_t r, s;
    for (r = 0; r < call->row_count; r++) {
        for (s = 0; s < call->rows[r]->slice_count; s++) {
            sti_slice_release(&call->rows[r]->slices[s]);
        }
        call->rows[r]->slice_count = 0;
    }
}

/* ---- list offsets */

#define STI_OFFSET_LATEST   (-1) /* the high watermark */
#define STI_OFFSET_EARLIEST (-2) /* the log start      */

struct sti_list_offsets_row {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    uint8_t topic_id[16];
    int64_t timestamp_ms; /* STI_OFFSET_*, or the first batch with a timestamp at or after it */
    /* results */
    int32_t status;
    int32_t leader_epoch;
    int64_t offset;   /* -1: none found */
    int64_t found_ms; /* its timestamp; -1: none, or with STI_OFFSET_* */
    struct sti_err err;
    /* since 0.4 */
    uint32_t retry_after_ms; /* with THROTTLED, UNAVAILABLE; else 0 */
    uint32_t reserved;
};

struct sti_list_offsets {
    uint32_t struct_size;
    uint32_t row_count;
    const struct sti_request *request;
    struct sti_list_offsets_row *const *rows;
    void (*done)(struct sti_list_offsets *call);
    void *user;
    void *state[2]; /* the broker's; zero before the call */
};

/* ---- topics */

struct sti_config_entry {
    const char *key;   /* "segment.bytes" */
    const char *value; /* NULL in an alteration: back to the default */
};

/* A topic to create, alter or delete. */
struct sti_topic_change {
    uint32_t struct_size;
    int32_t partitions;  /* create: >= 1, or -1 for the node's default; alter: the new total, or -1:
                            unchanged */
    int32_t replication; /* create: >= 1, or -1 for the default */
    uint32_t flags;      /* STI_TOPIC_VALIDATE_ONLY */
    const struct sti_request *request;
    const char *name;
    const struct sti_config_entry *const *config; /* config_count entries, or NULL */
    uint32_t config_count;
    uint32_t timeout_ms;
    /* results */
    int32_t status;
    int32_t partition_count;
    int32_t replication_factor;
    uint8_t topic_id[16];
    uint32_t retry_after_ms;
    struct sti_err err;
    void (*done)(struct sti_topic_change *call);
    void *user;
    void *state[2]; /* the broker's; zero before the call */
};

#define STI_TOPIC_VALIDATE_ONLY 0x1u

/* What describe and list visit. Everything is borrowed for the visit. */
struct sti_partition_info {
    uint32_t struct_size;
    int32_t partition;
    int32_t leader; /* node id, -1: none */
    int32_t leader_epoch;
    const int32_t *replicas;
    const int32_t *isr;
    uint32_t replica_count, isr_count;
    int64_t log_start, high_watermark, log_end; /* -1 where this node does not know */
    uint64_t bytes;
    int32_t status; /* STI_OK, or why it takes no appends */
    uint32_t reserved;
};

enum sti_config_source { STI_CONFIG_DEFAULT = 0, STI_CONFIG_NODE = 1, STI_CONFIG_TOPIC = 2 };

struct sti_topic_config {
    uint32_t struct_size;
    int32_t source; /* enum sti_config_source */
    const char *key;
    const char *value;
    const char *help;
};

struct sti_topic_info {
    uint32_t struct_size;
    int32_t replication;
    const char *name;
    uint8_t topic_id[16];
    uint32_t partition_count;
    uint32_t config_count;
    const struct sti_partition_info *const *partitions;
    const struct sti_topic_config *const *config;
};

struct sti_node_info {
    uint32_t struct_size;
    int32_t node_id;
    const char *host; /* of the listener that asks, "" when it is this node: the transport knows its
                         own address best */
    int32_t port;
    int32_t leader_epoch;
};

/* ---- waiting for partitions */

/* After a start the partitions of a topic are opened in the background. Caller's memory until
 * `done`, which runs exactly once, possibly before the call returns. */
struct sti_await {
    uint32_t struct_size;
    uint32_t reserved;
    const struct sti_request *request;
    const char *topic;
    void (*done)(struct sti_await *call); /* any thread */
    void *user;
};

/* ---- admission */

/* A transport that waits for room. Caller's memory until `resume`. */
struct sti_admit {
    struct sti_admit *next;                  /* the broker's */
    uint64_t bytes;                          /* sti_produce_cost */
    void (*resume)(struct sti_admit *admit); /* there may be room now: ask again */
    /* since 0.4 */
    const struct sti_request *request; /* whose connection has a share; valid until admit returns */
};

/* ---- the vtable */

struct sti_broker {
    struct sti_iface iface; /* id STI_BROKER_ID */

    /* Call-level errors: STI_E_UNAVAILABLE (starting or draining), STI_E_INVALID_ARGUMENT (acks, no
     * rows). Row statuses: UNKNOWN_TOPIC, UNKNOWN_PARTITION, NOT_LEADER, CORRUPT_BATCH,
     * MESSAGE_TOO_LARGE, INVALID_ARGUMENT, UNSUPPORTED, NOT_ENOUGH_REPLICAS, REPLICAS_LOST,
     * TIMED_OUT, THROTTLED, DISK_FULL, POISONED, DATA_LOSS, IO, IDEMPOTENT_REPLAY (with the first
     * offset), OUT_OF_ORDER_SEQUENCE, FENCED, UNKNOWN_PRODUCER, PERMISSION_DENIED, PRECONDITION
     * (refused by its chain). After a call-level error the rows count as failed in their chains.
     * With acks none done runs, with the true status, when storage has let go of the payload: a
     * wire that answers nothing simply ignores it. */
    int (*produce)(void *self, struct sti_produce *call, struct sti_err *err);

    /* Long poll. Row statuses: UNKNOWN_TOPIC, UNKNOWN_PARTITION, NOT_LEADER, OFFSET_OUT_OF_RANGE,
     * STALE_EPOCH, UNKNOWN_EPOCH, DATA_LOSS, IO, RESOURCE_EXHAUSTED, PERMISSION_DENIED,
     * UNAVAILABLE (still being opened after a start, and not waited for any longer). Any row with
     * an error, or min_bytes reached, answers the call at once. */
    int (*fetch)(void *self, struct sti_fetch *call, struct sti_err *err);
    /* The caller has lost interest: done runs soon, if it has not run yet. Legal from a successful
     * return of fetch until done has run. */
    void (*fetch_cancel)(void *self, struct sti_fetch *call);

    int (*list_offsets)(void *self, struct sti_list_offsets *call, struct sti_err *err);

    /* done runs when the change is committed and this node serves it. Statuses: ALREADY_EXISTS,
     * INVALID_ARGUMENT, UNSUPPORTED, RESOURCE_EXHAUSTED, NOT_FOUND (a storage instance),
     * UNKNOWN_TOPIC, DISK_FULL, TIMED_OUT, NOT_CONTROLLER, PERMISSION_DENIED. */
    int (*create_topic)(void *self, struct sti_topic_change *call, struct sti_err *err);
    int (*alter_topic)(void *self, struct sti_topic_change *call, struct sti_err *err);
    int (*delete_topic)(void *self, struct sti_topic_change *call, struct sti_err *err);

    /* Visit all topics in the order of their names, or the one named. In list, partitions and
     * config are left out (NULL).
     * @return STI_OK, STI_E_UNKNOWN_TOPIC, STI_E_PERMISSION_DENIED, STI_E_UNAVAILABLE */
    int (*list_topics)(void *self, const struct sti_request *request,
                       void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                       struct sti_err *err);
    int (*describe_topic)(void *self, const struct sti_request *request, const char *name,
                          void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                          struct sti_err *err);
    /* Which node leads a partition. @return STI_OK, STI_E_UNKNOWN_TOPIC, STI_E_UNKNOWN_PARTITION,
     * STI_E_UNAVAILABLE (no leader) */
    int (*find_leader)(void *self, const struct sti_request *request, const char *topic,
                       int32_t partition, struct sti_node_info *out, struct sti_err *err);

    /* May `bytes` more be produced now? @return STI_OK; STI_E_THROTTLED: resume runs once when
     * asking again makes sense */
    int (*admit)(void *self, struct sti_admit *admit);

    /* Since minor 2. Have every partition of a topic opened before those that nobody asks for; done
     * runs when all of them are open or offline, the request's deadline has passed, or they take
     * longer than the node lets anybody wait. A topic that is not there is no error: done runs at
     * once. What describe_topic says after it holds offsets.
     * @return STI_OK; STI_E_NO_MEMORY, STI_E_UNAVAILABLE: done never runs */
    int (*await_topic)(void *self, struct sti_await *call, struct sti_err *err);

    /* Since minor 4. Who is it? Writes the principal that request contexts of this caller bear to
     * `principal`, which has room for principal_max bytes (STI_PRINCIPAL_MAX + 1 hold any). From
     * memory, without blocking. Without an auth plugin everybody is STI_PRINCIPAL_ANONYMOUS,
     * whatever they say, and the credentials are not looked at.
     * @return STI_OK, STI_E_UNAUTHENTICATED, STI_E_UNSUPPORTED (mechanism) */
    int (*authenticate)(void *self, const struct sti_credentials *credentials, char *principal,
                        size_t principal_max, struct sti_err *err);
};

/* The vtable behind a binding. */
static inline const struct sti_broker *sti_broker_of(const struct sti_binding *binding)
{
    return (const struct sti_broker *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_BROKER_H */
