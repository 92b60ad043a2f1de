/* internal.h -- what the files of the broker share.
 *
 * Objects. A *broker* has one *topic table*; a topic has *partitions*. A partition owns a strand, a
 * storage handle and a replication handle; everything that changes its log runs on the strand.
 * Topics and partitions are counted: whoever works with one outside the table's lock holds a
 * reference.
 *
 * A record's way in (produce.c, partition.c):
 *     produce: checks on the caller's thread -> row queued at its partition -> strand: all that
 * waits becomes one append -> written end
 *     -> replication.progress -> high watermark -> rows whose acks are reached are answered
 * Its way out (fetch.c): read on the caller's thread if nothing would wait, else on the executor;
 * park at the partitions while there is nothing to send.
 *
 * Locks, in this order; none is held across a callback or I/O:
 *     admin_mu                  one change of topics at a time; the catalogue
 *     table shard lock (rw)     lookup of topics by name
 *     part->mu                  queue, waiters, ends of one partition
 *     parked shard mu           the calls that wait, by address
 *     opening.mu                a leaf: which partition is opened next
 * See docs/LOCKS.md.
 */
#ifndef STREAMIT_BROKER_INTERNAL_H
#define STREAMIT_BROKER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "broker/cluster/catalog.h"
#include "broker/diskspace.h"
#include "broker/purgatory.h"
#include "broker/quota.h"
#include "broker/settings.h"
#include "broker/stages.h"
#include "streamit/auth.h"
#include "streamit/broker.h"
#include "streamit/metadata.h"
#include "streamit/plugin.h"
#include "streamit/replication.h"
#include "streamit/storage.h"

#define BRK_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

enum {
    BRK_SHARDS = 64,
    BRK_APPEND_FEW = 8,             /* batches of an append without an allocation */
    BRK_APPEND_BATCHES_MAX = 512,   /* batches of one storage append */
    BRK_APPEND_BYTES_MAX = 8 << 20, /* and their bytes, unless one is larger */
    BRK_RETRY_AFTER_MS = 20,
    BRK_SHARE_COUNTERS = 2048, /* of a row: admission.c */
    BRK_SHARE_ROWS = 2,
    BRK_STAMP_LEN = STI_BATCH_HEADER_LEN - STI_BATCH_PATCH_LEN,
    BRK_INLINE_ROWS = 4,          /* of a call whose appends may run on its thread */
    BRK_INLINE_SLOW_US = 2000,    /* an append on a caller's thread that took longer than this */
    BRK_INLINE_PAUSE_US = 200000, /* keeps its disk's appends off such threads for so long */
    BRK_STORAGE_MINOR_LEAST = 1   /* of the storage interface */
};

/* A topic that the configuration declares. */
struct brk_declared {
    const char *where; /* "node.cfg:12: topics[0]" */
    const char *name;
    int64_t partitions, replication;  /* 0: the node's default */
    struct sti_option_strings config; /* "segment.bytes=..." */
};

struct brk_conf {
    struct set_defaults defaults;
    struct sti_option_rows topics;      /* struct brk_declared */
    const char *metadata, *replication; /* instances; NULL: the only one */
    bool auto_create_topics;
    int64_t auto_create_parallel;
    int64_t default_partitions, default_replication;
    int64_t partitions_per_topic_max, partitions_max, topics_max;
    const char *auth;
    int64_t inflight_bytes_max, inflight_share_percent, fetch_partitions_max;
    struct quota_conf quota;
    int64_t slow_request_ms, metrics_topics_max;
    int64_t produce_timeout_ms;
    int64_t fetch_bytes_max, fetch_wait_max_ms;
    int64_t retention_check_interval_ms;
    int64_t reopen_min_ms, reopen_max_ms;
    int64_t opening_parallel, opening_wait_max_ms;
    int64_t inline_append_bytes_max;
    struct brk_disk_options disk;
};

/* Of calls that answer partition by partition. */
enum brk_call { BRK_CALL_PRODUCE = 0, BRK_CALL_FETCH, BRK_CALLS };
enum { BRK_CODES = 64 }; /* more than there are status codes */

struct brk_metrics {
    struct sti_metric *produce_requests, *produce_rows_ok, *fetch_rows_ok;
    struct sti_metric *denied, *unauthenticated, *late;
    struct sti_metric *produce_bytes, *produce_batches, *produce_records, *appends, *appends_inline;
    struct sti_metric *fetch_requests, *fetch_bytes;
    _Atomic(struct sti_metric *) failed[BRK_CALLS][BRK_CODES]; /* made when first met */
    struct sti_metric *acks_waiting, *fetches_parked;
    struct sti_metric *topics, *partitions, *partitions_offline, *trimmed_segments, *reopened;
    struct sti_metric *partitions_opening, *memory;
    struct sti_metric *refused_topics, *refused_partitions, *refused_topic_partitions;
    struct sti_metric *refused_message_bytes, *refused_timestamps, *auto_created;
    struct sti_histogram *produce_us, *fetch_us;
    struct brk_stages stages;
};

/* What the partitions of a topic count. */
struct brk_counts {
    uint64_t records, bytes; /* appended: @thread strand writes, any reads */
    uint64_t fetched;        /* bytes handed out: any thread */
};

/* metrics.c: which topics have series of their own. */
struct brk_topic_series {
    struct sti_collector collector;
    pthread_mutex_t mu;
    struct brk_counts gone; /* of deleted topics without: @locks mu */
    int64_t own;            /* topics with series: @locks mu */
};

struct brk_fetch;
struct brk_topic;

enum brk_room_verdict { BRK_ROOM_TAKEN = 0, BRK_ROOM_FULL = 1, BRK_ROOM_SHARE = 2 };

/* What calls under way may use, and how much of it each connection does: admission.c. */
struct brk_room {
    uint64_t limit;
    _Atomic uint64_t used;
    _Atomic uint64_t share[BRK_SHARE_ROWS][BRK_SHARE_COUNTERS]; /* by connection */
    struct sti_metric *gauge, *refused[3];                      /* by enum brk_room_verdict */
};

struct brk_table_shard {
    pthread_rwlock_t lock;
    struct brk_topic *topics;
};

struct brk_parked_shard {
    pthread_mutex_t mu;
    struct brk_fetch *fetches;
};

/* Partitions that wait to be opened: opening.c. */
struct brk_open_list {
    struct brk_partition *head, *tail;
};

struct brk_opening {
    pthread_mutex_t mu;
    struct brk_open_list urgent, background; /* @locks mu */
    uint32_t running;                        /* posted, not ended. @locks mu */
    uint32_t parallel;                       /* of those at the most */
    bool held;                               /* nothing is posted yet. @locks mu */
    uint64_t started_us;
    _Atomic uint32_t total, pending, failed; /* of those that a start had to open */
    _Atomic uint64_t bytes, cut_bytes;       /* read and cut by recovery */
    _Atomic uint64_t progress_us, health_us; /* when they were last told of */
};

enum brk_state { BRK_CREATED = 0, BRK_SERVING = 1, BRK_DRAINING = 2, BRK_STOPPED = 3 };

struct broker {
    const struct sti_host *host;
    const struct brk_conf *conf;
    struct brk_metrics metrics;
    struct brk_topic_series topic_series;
    struct sti_binding metadata, replication, auth;
    bool has_auth;
    _Atomic int state; /* enum brk_state */

    pthread_mutex_t admin_mu; /* catalog; changes of the table */
    struct catalog catalog;
    bool booted;                  /* @locks admin_mu: observers act at once */
    struct brk_change *deletions; /* @locks admin_mu: calls that wait for a purge */
    struct brk_change *kept;      /* @locks admin_mu: granted by the limits, not applied yet */
    int64_t kept_topics, kept_partitions; /* @locks admin_mu: of those */
    struct brk_auto *autos; /* @locks admin_mu: topics that are being made on demand */
    int64_t auto_count;     /* @locks admin_mu */
    struct sti_err anew;    /* of anew.c: set once, before any partition is opened */

    struct brk_table_shard table[BRK_SHARDS];
    struct brk_parked_shard parked[BRK_SHARDS];

    struct brk_opening opening;
    struct brk_purgatory purgatory;

    struct quota quota;

    struct brk_room produce_room; /* bytes */
    struct brk_room fetch_room;   /* partitions */
    pthread_mutex_t admit_mu;
    struct sti_admit *admit_head, *admit_tail;
    _Atomic bool admit_waiting; /* somebody may be in that list */

    pthread_cond_t settled_cond; /* with admin_mu */
    uint32_t under_way;          /* @locks admin_mu: opens and closes, and the retention timer */

    _Atomic uint32_t offline;
    struct {
        pthread_mutex_t mu; /* a leaf */
        pthread_cond_t ended;
        struct sti_timer timer;
        bool armed, running, stopped; /* @locks mu */
    } reopen;
    pthread_mutex_t offline_mu;
    struct brk_offline *offline_list; /* @locks offline_mu: why; the first one failed first */
    struct sti_timer retention_timer;
    bool retention_armed; /* @locks admin_mu */

    struct brk_disk *disks; /* of each storage instance; constant from start on */
    uint32_t disk_count;
    struct sti_timer disk_timer;
    bool disk_armed; /* @locks admin_mu */
};

/* ---- topics and partitions ---- */

enum brk_part_state {
    BRK_PART_OPENING = 0,
    BRK_PART_ONLINE = 1,
    BRK_PART_OFFLINE = 2, /* takes no appends: `why`; readable if a storage handle is there */
    BRK_PART_CLOSED = 3   /* of a topic that is deleted, or of a node that stops */
};

enum brk_open_place {
    BRK_OPEN_NOWHERE = 0,
    BRK_OPEN_BACKGROUND = 1, /* waits for its turn */
    BRK_OPEN_URGENT = 2,     /* somebody waits for it */
    BRK_OPEN_POSTED = 3      /* its task runs, or will */
};

struct brk_partition {
    _Atomic uint32_t refs;
    struct broker *broker;
    struct brk_topic *owner; /* counted from open to the end of close */
    char *topic;             /* its name; lives as long as the partition */
    uint8_t topic_id[16];
    int32_t index;
    int32_t leader_epoch;
    _Atomic int64_t max_message_bytes, min_insync; /* of `values`, for any thread; so are these */
    _Atomic int64_t timestamp_type, timestamp_before, timestamp_after;
    struct set_values values; /* @thread strand */
    bool create;              /* storage may have to be created: @thread strand */

    struct sti_strand strand;
    struct sti_binding storage;            /* vtable and self of its instance */
    struct brk_disk *disk;                 /* its room; NULL: no such instance */
    struct sti_storage_partition *store;   /* @locks mu; NULL unless open for readers */
    struct sti_storage_partition *closing; /* `store`, while it is closed: @thread strand */
    struct sti_replication_partition *repl;

    struct brk_partition *open_next, *open_prev; /* in its queue: @locks opening.mu */
    int open_place;                              /* enum brk_open_place: @locks opening.mu */
    bool open_counts;                            /* among those that a start had to open */
    struct sti_task open_task, append_task, inline_task, settings_task, retention_task, fail_task,
        close_task;
    struct set_values *next_values; /* @locks mu: for settings_task; NULL: none */
    bool settings_posted;           /* @locks mu */
    bool retention_posted;          /* @locks mu */
    bool remove_after_close;        /* @locks mu */
    bool close_wanted;              /* @locks mu */
    bool close_posted;              /* @locks mu; never while appending or reading */
    bool close_waits;               /* @locks mu: for the last read, which posts the close again */

    struct sti_storage_append append;                    /* the one under way: @thread strand */
    struct sti_append_batch *append_few[BRK_APPEND_FEW]; /* its batches, when they are few */
    struct brk_produce_row *append_rows;                 /* in the same order */
    uint32_t append_count;
    uint64_t append_started_us, append_bytes;
    bool appending;       /* @locks mu */
    bool append_again;    /* rows were taken, and wait for the strand. @locks mu */
    bool append_inline;   /* the append under way runs on a caller's thread. @locks mu */
    bool wake_wanted;     /* fetches are to be woken behind it. @locks mu */
    int64_t next_offset;  /* @thread strand */
    int32_t stored_epoch; /* of the last batch: @thread strand */
    int64_t epoch_start;  /* where the leader epoch began in this log, -1: not known. @locks mu */

    pthread_mutex_t mu;
    int state;              /* enum brk_part_state: @locks mu; also read relaxed */
    bool damaged;           /* storage has found damage since it was opened; `why` says what */
    bool poisoned;          /* a write or sync has failed: no sync will come. @locks mu */
    bool reopen_posted;     /* @locks mu */
    uint8_t reopen_tries;   /* that failed one after the other. @locks mu */
    uint64_t reopen_due_us; /* not before. @locks mu */
    struct sti_err *why;    /* NULL until there is one: few partitions ever have one. @locks mu */
    int why_code;           /* of it. @locks mu */
    struct brk_produce_row *queue_head, *queue_tail; /* wait for the strand */
    bool append_posted;
    struct brk_produce_row *acks_head, *acks_tail; /* written, wait for their acks; by offset */
    struct brk_fetch_row *waiters;                 /* parked fetches */
    int32_t replicas, replicas_synced;             /* as of the high watermark */
    uint32_t reads;                                /* users of `store` outside the strand */
    _Atomic int64_t written_end, synced_end, high_watermark, log_start;
    _Atomic bool durable; /* acks go by synced ends */
    struct brk_counts counts;
};

struct brk_topic {
    struct brk_topic *next; /* in its shard */
    _Atomic uint32_t refs;
    char *name;
    uint8_t id[16];
    int32_t replication;
    int32_t partition_count;           /* @locks shard lock */
    struct brk_partition **partitions; /* @locks shard lock */
    struct broker *broker;
    bool deleted;                 /* @locks admin_mu */
    bool own_series;              /* @locks topic_series.mu */
    struct brk_change *waiting;   /* @locks admin_mu: calls that wait for opens or closes */
    uint32_t under_way;           /* @locks admin_mu: opens or closes of this topic */
    struct sti_err first_failure; /* @locks admin_mu: of those */
};

/* table.c */
int brk_table_init(struct broker *broker);
void brk_table_fini(struct broker *broker);
/* Find a partition and take a reference. topic_id all zero: by name alone.
 * @return STI_OK, STI_E_UNKNOWN_TOPIC, STI_E_UNKNOWN_PARTITION */
int brk_lookup(struct broker *broker, const char *name, const uint8_t topic_id[16],
               int32_t partition, struct brk_partition **out, struct sti_err *err);
/* With a reference, or NULL. */
struct brk_topic *brk_topic_get(struct broker *broker, const char *name);
void brk_topic_unref(struct brk_topic *topic);
/* The i-th partition with a reference, or NULL behind the last. */
struct brk_partition *brk_partition_at(struct brk_topic *topic, int32_t i);
void brk_table_add(struct broker *broker, struct brk_topic *topic);
void brk_table_remove(struct broker *broker, struct brk_topic *topic);
struct brk_table_shard *brk_shard_of(struct broker *broker, const char *name);
/* All topics with a reference each, sorted by name; *out is malloc'ed, NULL when there are none.
 * @return their count */
int64_t brk_table_all(struct broker *broker, struct brk_topic ***out);

/* partition.c */
struct brk_partition *brk_partition_new(struct brk_topic *owner, int32_t index,
                                        int32_t leader_epoch, const struct set_values *values,
                                        bool create);
void brk_partition_ref(struct brk_partition *part);
void brk_partition_unref(struct brk_partition *part);
/* Queue it to be opened on its strand; brk_topic_settled is called when done. */
void brk_partition_open(struct brk_partition *part, bool urgent);
/* Stop serving and close on the strand, deleting the data if asked; brk_topic_closed is called when
 * done. */
void brk_partition_close(struct brk_partition *part, bool remove);
void brk_partition_settings(struct brk_partition *part, const struct set_values *values);
/* Queue a checked row; it is answered later, or before this returns when it may be appended on this
 * thread and nothing is before it.
 * @param may_inline  the caller can afford a write into memory of the operating system
 * @return STI_OK, or why the partition takes no appends */
int brk_partition_enqueue(struct brk_partition *part, struct brk_produce_row *row, bool may_inline,
                          struct sti_err *err);
/* Take a row out that has not been handed to storage. @return false: it is too late */
bool brk_partition_withdraw(struct brk_partition *part, struct brk_produce_row *row);
/* For the vtable of replication. */
extern const struct sti_replication_ops brk_replication_ops;
/* The local ends have moved: tell replication, and answer whom it satisfies. Any executor thread.
 */
void brk_partition_progress(struct brk_partition *part, int64_t written_end, int64_t synced_end);
/* Are enough replicas in sync for acks=quorum? @return STI_OK, STI_E_NOT_ENOUGH_REPLICAS */
int brk_partition_quorum(struct brk_partition *part, struct sti_err *err);
/* Use the storage handle outside the strand: it stays open until the read ends. NULL: there is
 * none. */
struct sti_storage_partition *brk_partition_read_begin(struct brk_partition *part);
void brk_partition_read_end(struct brk_partition *part);
/* Take the storage handle away from readers. @return false: reads are under way, and the last one
 * posts close_task again. @thread strand, close_task */
bool brk_partition_reads_end(struct brk_partition *part);

/* The node stops: rows that wait for the partition to be opened are not done. */
void brk_partition_drain(struct brk_partition *part);
/* The partition was opened, or cannot be: rows that waited for it are appended, or fail with `why`.
 * @thread strand */
void brk_partition_opened(struct brk_partition *part, int state, const struct sti_err *why);

/* metrics.c */
void brk_metrics_register(struct broker *broker);
/* A partition of a call was answered with an error. */
void brk_metrics_failed(struct broker *broker, int call, int status);
/* ... because a disk, descriptors or memory failed: say so in the log, where no event has. */
void brk_metrics_trouble(const struct brk_partition *part, int call, int status,
                         const struct sti_err *err);
void brk_metrics_init(struct broker *broker);
void brk_metrics_fini(struct broker *broker);
/* Take part in visits from the start on, until the stop. */
void brk_metrics_start(struct broker *broker);
void brk_metrics_stop(struct broker *broker);
/* A topic comes to, or leaves, the table. @locks topic_series.mu held */
void brk_metrics_topic(struct broker *broker, struct brk_topic *topic, bool there);

/* opening.c: which partition is opened when. No lock but opening.mu is taken, which is a leaf. */
void brk_opening_init(struct broker *broker);
void brk_opening_fini(struct broker *broker);
/* Post none between the two: while the topics of a start are taken over. @thread main */
void brk_opening_hold(struct broker *broker);
void brk_opening_release(struct broker *broker);
/* Queue a partition. Those that are not urgent are what a start has to open, and count as that. */
void brk_opening_add(struct brk_partition *part, bool urgent);
/* Somebody waits for it: it goes before all that nobody waits for. Nothing if it is on its way. */
void brk_opening_touch(struct brk_partition *part);
/* It is being closed: post its task at once, which will find nothing to do. */
void brk_opening_skip(struct brk_partition *part);
/* Recovery has read so much more of it. */
void brk_opening_read(struct brk_partition *part, uint64_t bytes);
/* Its task has ended. The last use of the broker may be over right after it. @thread strand */
void brk_opening_ended(struct brk_partition *part, bool failed, uint64_t cut_bytes);

/* await.c: calls that wait for a partition to be opened, without a thread. */
struct brk_await {
    struct sti_timer timer;
    struct broker *broker;
    uint64_t due_us, pause_us; /* until when it is worth waiting; how long before the next look */
    void (*go_on)(struct brk_await *await); /* look again, owning it. @thread executor */
};
/* @param due_us  or the broker's own limit, if that is earlier */
void brk_await_init(struct brk_await *await, struct broker *broker, uint64_t due_us,
                    void (*go_on)(struct brk_await *await));
/* @return true: the partition is being opened, has gone to the front, and go_on will be called;
 * false: it is open or will not be soon */
bool brk_await_partition(struct brk_await *await, struct brk_partition *part);
int brk_await_topic(void *self, struct sti_await *call, struct sti_err *err);

/* open.c: the coming and going of partitions, on their strands. They return true when the task's
 * last reference was dropped. */
void brk_open_run(struct sti_task *task);
/* Open storage and replication of a partition in the state OPENING, and say how that went. The
 * caller goes on with brk_partition_opened. @thread strand */
int brk_open_storage(struct brk_partition *part, struct sti_err *err);
void brk_close_run(struct sti_task *task);
void brk_settings_run(struct sti_task *task);
/* The state changed; counts offline ones. @locks part->mu held */
void brk_partition_set_state(struct brk_partition *part, int state, const struct sti_err *why);
/* Why a closed partition does nothing more: its topic goes, or the node does. @locks part->mu held
 * @return STI_E_UNKNOWN_TOPIC, STI_E_UNAVAILABLE */
int brk_partition_closed(const struct brk_partition *part, struct sti_err *err);
/* Keep why it takes no appends. @locks part->mu held */
void brk_partition_keep_why(struct brk_partition *part, const struct sti_err *why);
/* Why it takes no appends; code STI_OK when nothing was kept. @locks part->mu held */
void brk_partition_why(const struct brk_partition *part, struct sti_err *out);
void brk_offline_report(struct broker *broker);
/* Answer everything that waits at a partition that is being closed: what is queued was not done,
 * what was written has an unknown outcome unless it was deleted. What was written may still get its
 * acks until storage is `closed`. Wakes the fetches. @thread strand */
void brk_partition_fail_all(struct brk_partition *part, bool closed);
/* No sync will come for what is written: fail those who wait for one. Any executor thread. */
void brk_partition_fail_poisoned(struct brk_partition *part);
/* Fail the rows that were written and wait for their acks. Any executor thread. */
void brk_partition_fail_acks(struct brk_partition *part, int status, const char *why);

/* ---- produce.c ---- */

enum brk_row_state {
    BRK_ROW_IDLE = 0,
    BRK_ROW_QUEUED,
    BRK_ROW_APPENDING,
    BRK_ROW_WAITING,
    BRK_ROW_DONE
};

struct brk_produce;

struct brk_produce_row {
    struct brk_produce_row *next;
    struct brk_produce *produce;
    struct sti_produce_row *row; /* the caller's */
    struct brk_partition *part;  /* holds a reference until the block goes, or NULL */
    int state;                   /* enum brk_row_state: @locks part->mu */
    bool refused;                /* by its chain: nothing failed here */
    struct sti_batch_header header;
    struct sti_append_batch batch;
    uint32_t slice_first; /* in produce->slices; that one is free, the payload begins behind it */
    bool stamped;         /* with the time of the append: timestamp.c */
    uint8_t stamp[BRK_STAMP_LEN];
    struct brk_stamps at; /* of its owner: the caller, then the strand, then who resolves it */
};

struct brk_produce {
    struct broker *broker;
    struct sti_produce *call;
    _Atomic uint32_t pending; /* rows, and one for the submission itself */
    _Atomic uint32_t refs;
    struct brk_wait wait;
    bool timer_armed;
    uint32_t row_count;
    uint64_t started_us, bytes;
    uint64_t cost; /* of the room that it takes */
    struct sti_slice *slices;
    struct brk_produce_row rows[];
};

int brk_produce(void *self, struct sti_produce *call, struct sti_err *err);
/* The row was not appended and will not be: note it in its chain, before it is answered. Rows that
 * were queued are noted under the part->mu under which they are taken out, oldest first. */
void brk_produce_chain_fail(const struct brk_produce_row *row);
/* Must the row be refused, since an earlier one of its stream was not appended? It is marked then.
 */
bool brk_produce_chain_refuses(struct brk_produce_row *row);
/* @return STI_E_PRECONDITION, retriable: what a refused row is answered */
int brk_produce_chain_err(const struct brk_produce_row *row, struct sti_err *err);
/* A row has its result. Called without locks. */
void brk_produce_row_done(struct brk_produce_row *row, int status, const struct sti_err *err);

/* ---- admission.c ---- */

/* @return BRK_ROOM_TAKEN, until brk_room_leave; or which limit says no, which was counted */
enum brk_room_verdict brk_room_enter(struct broker *broker, struct brk_room *room,
                                     const struct sti_request *request, uint64_t amount);
void brk_room_leave(struct brk_room *room, const struct sti_request *request, uint64_t amount);
/* The same of broker->produce_room, for which transports may wait. */
void brk_admission_leave(struct broker *broker, const struct sti_request *request, uint64_t bytes);
int brk_admit(void *self, struct sti_admit *admit);

/* ---- fetch.c ---- */

struct brk_fetch_row {
    struct brk_fetch_row *next, *prev; /* in part->waiters: @locks part->mu */
    struct brk_fetch *fetch;
    struct sti_fetch_row *row;
    struct brk_partition *part; /* holds a reference, or NULL */
    bool parked;                /* @locks part->mu */
    bool opening;               /* when last looked at, its partition was being opened */
    int64_t seen;               /* while parked: a watermark that is no news. @locks part->mu */
};

int brk_fetch(void *self, struct sti_fetch *call, struct sti_err *err);
void brk_fetch_cancel(void *self, struct sti_fetch *call);
/* Wake the fetches that wait at a partition for records below its high watermark, or all. */
void brk_fetch_wake(struct brk_partition *part, bool all);
/* The same of those that have news, and go on with one of them on this thread. No lock is held. */
void brk_fetch_wake_here(struct brk_partition *part);
/* Wake every parked fetch of the node. */
void brk_fetch_wake_all(struct broker *broker);

/* ---- the other calls ---- */

int brk_list_offsets(void *self, struct sti_list_offsets *call, struct sti_err *err);
int brk_create_topic(void *self, struct sti_topic_change *call, struct sti_err *err);
int brk_alter_topic(void *self, struct sti_topic_change *call, struct sti_err *err);
int brk_delete_topic(void *self, struct sti_topic_change *call, struct sti_err *err);
int brk_list_topics(void *self, const struct sti_request *request,
                    void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                    struct sti_err *err);
int brk_describe_topic(void *self, const struct sti_request *request, const char *name,
                       void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                       struct sti_err *err);
int brk_find_leader(void *self, const struct sti_request *request, const char *topic,
                    int32_t partition, struct sti_node_info *out, struct sti_err *err);

/* reopen.c: partitions that were taken out of service and may come back */
struct brk_reopen_task {
    struct sti_task task;
    struct brk_partition *part; /* a reference */
};
void brk_reopen_init(struct broker *broker);
void brk_reopen_stop(struct broker *broker);
void brk_reopen_fini(struct broker *broker);
/* A partition went offline: look after it. Any thread, under any lock but reopen.mu. */
void brk_reopen_ask(struct broker *broker);

/* topics.c */
extern const struct cat_observer brk_observer;
extern const struct sti_metadata_fsm brk_fsm;
/* A partition of a topic has finished opening or closing. After a close the partition's reference
 * on its topic is gone. When it returns the broker may be gone too. */
void brk_topic_settled(struct brk_partition *part, bool closed, int status,
                       const struct sti_err *err);
/* Something counted in broker->under_way has ended. The caller touches the broker no more: a stop
 * may have waited for just this. */
void brk_under_way_end(struct broker *broker);
/* Act on what the catalogue holds. Partitions are opened from then on. */
void brk_boot(struct broker *broker);
/* Answer what waits for partitions to be opened. */
void brk_drain_all(struct broker *broker);
/* Close everything, and wait until the deadline. @return false: something still runs */
bool brk_close_all(struct broker *broker, uint32_t deadline_ms);
/* Without memory for a change that was committed the node cannot go on truthfully: says so and
 * ends. */
_Noreturn void brk_fatal(struct broker *broker, const char *what);

/* epochs.c: note the partition's leader epoch beside its log, unless it is noted. @return STI_OK,
 * what storage says of its blobs, STI_E_NO_MEMORY */
int brk_epoch_note(struct brk_partition *part, struct sti_err *err);

/* timestamp.c: timestamps of batches */
/* Do the producer's timestamps lie in the topic's bounds? @return STI_OK, STI_E_INVALID_TIMESTAMP
 */
int brk_timestamp_check(struct brk_partition *part, const struct sti_batch_header *header,
                        struct sti_err *err);
/* Give the batch of a row the time of its append, if the topic goes by that. */
void brk_timestamp_append(struct brk_partition *part, struct brk_produce_row *row);

/* declared.c: the topics that the configuration declares. Checked by themselves (create), then made
 * where they are missing (start). @return STI_OK, STI_E_CONFIG: the message begins with the place
 */
int brk_declared_check(const struct sti_host *host, const struct brk_conf *conf,
                       struct sti_err *err);
int brk_declared_start(struct broker *broker, struct sti_err *err);

/* autocreate.c: a topic is not there. With broker.auto_create_topics it is made in the background,
 * once for all who ask.
 * @param err  says that the topic is unknown, and is replaced
 * @return STI_E_UNAVAILABLE: it is being made, ask again; STI_E_UNKNOWN_TOPIC: it will not be;
 * STI_E_PERMISSION_DENIED; or why it cannot be */
int brk_auto_create(struct broker *broker, const struct sti_request *request, const char *name,
                    struct sti_err *err);

/* anew.c: raise the leader epochs of topics on storage that forgets, and wait for it. A failure is
 * left in broker->anew: those topics stay offline. */
void brk_anew(struct broker *broker);

/* retention.c */
void brk_retention_start(struct broker *broker);
void brk_retention_stop(struct broker *broker);
/* Look for old segments now, of the partitions on that disk. No lock is held. */
void brk_retention_now(struct broker *broker, const struct brk_disk *disk);
/* ... of one partition. */
void brk_retention_post(struct brk_partition *part);
void brk_retention_run(struct sti_task *task);

/* ---- context.c: what every call is asked, and what is told of it ---- */

/* May this request do so with the topic? Without an auth plugin: yes. */
int brk_authorize(struct broker *broker, const struct sti_request *request, int operation,
                  const char *topic, struct sti_err *err);
int brk_authenticate(void *self, const struct sti_credentials *credentials, char *principal,
                     size_t principal_max, struct sti_err *err);
/* STI_OK, or STI_E_UNAVAILABLE while starting, draining or stopped. */
int brk_serving(struct broker *broker, struct sti_err *err);
/* What every call begins with: the node serves, the deadline has not passed, the quota of calls is
 * not used up. The whole call is refused with what it says, and request->retry_after_ms is set; a
 * call with rows may put THROTTLED and that time into them instead.
 * @param request  may be NULL: nobody in particular
 * @param now_us   STI_CLOCK_MONOTONIC
 * @return STI_OK, STI_E_UNAVAILABLE, STI_E_TIMED_OUT, STI_E_THROTTLED */
int brk_enter(struct broker *broker, const struct sti_request *request, uint64_t now_us,
              uint32_t *retry_after_ms, struct sti_err *err);
/* A quota refused a call: say so in `err`, and in the log now and then. */
int brk_quota_refused(struct broker *broker, const struct sti_request *request,
                      const struct quota_refusal *refusal, struct sti_err *err);
/* Until when is there somebody to answer? UINT64_MAX: for ever. */
static inline uint64_t brk_deadline_us(const struct sti_request *request)
{
    return request == NULL || request->deadline_us == 0 ? UINT64_MAX : request->deadline_us;
}
/* Put a time to try again at where the caller asked for it. */
void brk_retry_after(const struct sti_request *request, uint32_t retry_after_ms);
/* One line about a change of topics, with who asked for it. */
void brk_audit(struct broker *broker, const struct sti_topic_change *call, int operation,
               int status, const struct sti_err *err);

static inline bool brk_id_is_zero(const uint8_t id[16])
{
    uint8_t any = 0;
    for (int i = 0; i < 16; i++) {
        any |= id[i];
    }
    return any == 0;
}

#endif /* STREAMIT_BROKER_INTERNAL_H */
