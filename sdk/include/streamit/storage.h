/* streamit/storage.h -- interface "streamit.storage": the bytes of a partition.
 *
 * A storage instance keeps the logs of many partitions. It knows batches, offsets and files; it
 * knows nothing of leaders, acknowledgements, producers or consumers: the broker owns those and
 * tells storage what to append. Every batch that comes in has been checked, is complete, and
 * carries its final base offset.
 *
 *     open ---> append* / read* / sync* / trim / truncate / blobs ---> close
 *
 * Ends. The *written* end is the offset after the last batch that append completed: a read finds
 * everything below it, and it survives the death of the process. The *synced* end is the offset up
 * to which everything also survives the loss of power. Both only grow, except by truncate, and the
 * synced end is never beyond the written one.
 *
 * Threads and order.
 *
 *   - append, configure, truncate, trim, close of one partition are called one at a time, on the
 *     partition's strand of the host's executor, where blocking on files is allowed. At most one
 *     append is outstanding.
 *
 *   - read, sync, offset_for_time, state, usage and the blobs may run at any time between open and
 *     close, on any executor thread, beside an append, also several at once. read with
 *     STI_READ_NO_WAIT and state may be called on any thread, also a transport's.
 *
 *   - A `done` runs exactly once if and only if the function returned STI_OK, on any thread,
 *     possibly before the function returns. No lock of the plugin is held across it or across an
 *     event.
 *
 * Failure. A failed write or fsync poisons the partition: every later append is refused with
 * STI_E_POISONED until the partition has been closed and opened again, which re-reads the log. A
 * failed fsync is never retried and called success. A full disk is no poison: STI_E_DISK_FULL
 * leaves the log as it was. One bad partition never touches another.
 *
 * The suite. What this page promises is proved by `streamit-conform FILE.so`, which is part of the
 * SDK and of every installation: storage_mmap and storage_memory pass it, and a rule that it does
 * not check is no rule. What an engine does not promise by its capability bits is skipped by name.
 *
 * How others use it. A cluster follower appends batches with the leader's offsets and epochs, reads
 * to its written end, and truncates by epoch. The Kafka wire reads file ranges and never looks at
 * the bytes. An object store completes append when its upload is acknowledged (the broker combines
 * what waits meanwhile into the next call), returns slices of cached memory without a file, and
 * reports written == synced.
 *
 * Caveats. `read` may return a slice that ends at the bound it was given though more is there: it
 * returns whole batches only, and stops at a segment's end. The index is never trusted over the
 * log. Nothing is deleted because it looks orphaned: only `remove` deletes.
 */
#ifndef STREAMIT_STORAGE_H
#define STREAMIT_STORAGE_H

#include "streamit/plugin.h"
#include "streamit/record_batch.h"
#include "streamit/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_STORAGE_ID    "streamit.storage"
#define STI_STORAGE_MAJOR 0
#define STI_STORAGE_MINOR 3

#define STI_STORAGE_DURABLE 0x1u /* survives a restart, and synced ends are true: needs `sync` */
#define STI_STORAGE_FILES   0x2u /* slices carry file descriptors */
#define STI_STORAGE_BLOBS   0x4u /* keeps sidecar blobs: needs blob_put and blob_get */
#define STI_STORAGE_NO_WAIT 0x8u /* since 0.3: append looks at STI_APPEND_NO_WAIT */

/* Opaque; the plugin's own. */
struct sti_storage_partition;

/* Which partition. The strings are borrowed for the call. */
struct sti_partition_id {
    uint32_t struct_size;
    int32_t partition;    /* >= 0 */
    const char *topic;    /* [A-Za-z0-9._-]{1,249} */
    uint8_t topic_id[16]; /* the topic's UUID: a topic created anew under an old name is another
                             topic */
};

enum sti_flush_policy {
    STI_FLUSH_ONROLL =
        0, /* a closed segment is synced in the background; appends never wait for it */
    STI_FLUSH_INTERVAL =
        1, /* everything is synced at the latest flush_interval_ms after it was written */
    STI_FLUSH_COMMIT =
        2 /* every append is followed by a sync; what arrives meanwhile shares the next one */
};

/* Settings of a topic that storage acts on; given at open and whenever they change. */
struct sti_storage_settings {
    uint32_t struct_size;
    int32_t flush_policy;  /* enum sti_flush_policy */
    int64_t segment_bytes; /* a segment is closed before it would pass this */
    int64_t segment_ms;    /* or when its first batch is older than this at an append; 0: never */
    int64_t flush_interval_ms; /* for STI_FLUSH_INTERVAL */
    int64_t index_interval_bytes;
};

/* What storage tells about a partition. Offsets are -1 where unknown. */
struct sti_storage_state {
    uint32_t struct_size;
    int32_t last_epoch;    /* leader epoch of the last batch, -1: empty log */
    int64_t log_start;     /* first offset that can be read */
    int64_t written_end;   /* exclusive */
    int64_t synced_end;    /* exclusive */
    int64_t max_timestamp; /* largest batch timestamp of the newest segment, ms; -1: none */
    uint64_t bytes;        /* of log data, without indexes */
    uint32_t segment_count;
    uint32_t flags;           /* STI_STORAGE_STATE_* */
    uint64_t recovered_bytes; /* scanned by the last open */
    uint64_t truncated_bytes; /* unfinished tail cut by the last open */
};

#define STI_STORAGE_STATE_POISONED 0x1u
#define STI_STORAGE_STATE_DAMAGED  0x2u

/* Events from storage to the broker; each may be NULL. They run on an executor thread, which may be
 * that of an append of the same partition, inside the call; never concurrently for one partition
 * and kind, and not after close returned. */
struct sti_storage_events {
    uint32_t struct_size;
    uint32_t reserved;
    /* During open: a batch that recovery read, in offset order, so that the broker can rebuild what
     * it keeps per producer. */
    void (*recovered)(void *ctx, const struct sti_batch_header *header);
    /* The synced end has moved. */
    void (*synced)(void *ctx, int64_t synced_end);
    /* The partition is poisoned; err says by what. */
    void (*failed)(void *ctx, const struct sti_err *err);
    /* Since 0.2. Stored bytes were found bad while the partition was open; err, STI_E_DATA_LOSS,
     * says which. From before the event on it is as after an open that returned STI_E_DATA_LOSS:
     * appends are refused, reads into the range get STI_E_DATA_LOSS, all else goes on, also the
     * syncs of what was written. Once for each range. */
    void (*damaged)(void *ctx, const struct sti_err *err);
    /* Since 0.2. During open: recovery has read so many more bytes of the log. Called at least
     * every few MB. @return 0 to go on; anything else: nobody wants the partition any more, so that
     * open ends soon with STI_E_CANCELLED, having changed nothing that the next one would not do.
     */
    int (*recovering)(void *ctx, uint64_t bytes);
};

#define STI_STORAGE_CREATE 0x1u /* the partition must not exist: STI_E_ALREADY_EXISTS */

struct sti_storage_open {
    uint32_t struct_size;
    uint32_t flags; /* STI_STORAGE_*; without CREATE the partition must exist: STI_E_NOT_FOUND */
    const struct sti_partition_id *id;
    const struct sti_storage_settings *settings;
    const struct sti_storage_events *events; /* valid until close */
    void *events_ctx;
};

/* One batch to append: the patched bytes 0-15 and the payload from byte 16 on, scattered. */
struct sti_append_batch {
    uint32_t struct_size;
    uint32_t slice_count;
    const struct sti_slice *slices; /* borrowed until done; their sum is len - 16 */
    uint64_t len;                   /* bytes of the whole batch */
    int64_t base_offset; /* equals the written end, or the last offset + 1 of the batch before */
    int64_t last_offset;
    int64_t max_timestamp;
    int32_t leader_epoch;
    uint32_t reserved;
    uint8_t head[STI_BATCH_PATCH_LEN];
};

/* Since 0.3, for a small append on a thread that serves others too: only what writes into memory of
 * the operating system is done, to a file that is open and has the space. STI_E_WOULD_BLOCK,
 * returned, with nothing changed, where more is needed: a new segment, a sync, space, a file to be
 * opened, a lock that is held over such. */
#define STI_APPEND_NO_WAIT 0x1u

/* An append of one or more batches, all or nothing. Caller's memory until `done`. */
struct sti_storage_append {
    uint32_t struct_size;
    uint32_t batch_count;
    struct sti_append_batch *const *batches;
    /* status: STI_OK; STI_E_DISK_FULL (nothing changed; bytes_needed is set); STI_E_IO (poisoned);
     * STI_E_POISONED; STI_E_RESOURCE_EXHAUSTED (a bound of a memory engine, or no descriptors;
     * nothing changed); STI_E_INVALID_ARGUMENT (it does not follow the log; nothing changed);
     * STI_E_MESSAGE_TOO_LARGE (no segment can hold the batch; nothing changed); returned only:
     * STI_E_WOULD_BLOCK (with STI_APPEND_NO_WAIT; nothing changed) */
    void (*done)(struct sti_storage_append *op, int status, const struct sti_err *err);
    int64_t written_end;   /* out */
    uint64_t bytes_needed; /* out, with STI_E_DISK_FULL */
    /* since 0.3, looked at with STI_STORAGE_NO_WAIT among the caps */
    uint32_t flags; /* STI_APPEND_* */
    uint32_t reserved;
};

#define STI_READ_MEMORY                                                                            \
    0x1u /* fill `data` of each slice, populated; otherwise it may be NULL where fd is given */
#define STI_READ_NO_WAIT                                                                           \
    0x2u /* do no I/O that could wait: STI_E_WOULD_BLOCK instead, returned or through `done`; any  \
            thread, and needs no other: the answer is there when read returns */

/* A read of whole batches, from the batch that contains `offset`. Caller's memory until `done`. */
struct sti_storage_read {
    uint32_t struct_size;
    uint32_t flags;     /* STI_READ_* */
    int64_t offset;     /* log_start <= offset <= end_offset */
    int64_t end_offset; /* batches that begin at or after it are left out; one behind the written
                           end stands for the written end */
    uint64_t max_bytes; /* the first batch is returned whole even if it is larger */
    struct sti_slice *slices; /* caller's array */
    uint32_t slice_max;       /* its length, >= 1 */
    uint32_t slice_count;     /* out: each holds a reference for the caller to release */
    uint64_t bytes;           /* out: sum of the slices; 0 when offset == end_offset */
    /* status: STI_OK; STI_E_OFFSET_OUT_OF_RANGE; STI_E_DATA_LOSS (a damaged range: err says which);
     * STI_E_IO; STI_E_WOULD_BLOCK; STI_E_RESOURCE_EXHAUSTED (files or maps) */
    void (*done)(struct sti_storage_read *op, int status, const struct sti_err *err);
};

/* Make everything written by now survive a loss of power. Caller's memory until `done`. */
struct sti_storage_sync {
    uint32_t struct_size;
    uint32_t reserved;
    void (*done)(struct sti_storage_sync *op, int status, const struct sti_err *err);
    int64_t synced_end; /* out */
};

/* Sizes for metrics and limits. */
struct sti_storage_usage {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t bytes;        /* log data */
    uint64_t disk_bytes;   /* allocated, with indexes and reservations; 0 for a memory engine */
    uint64_t memory_bytes; /* anonymous memory held for it */
    uint64_t open_files, maps;
};

/* The room that an instance has, for the owner's decision when to stop taking appends. */
struct sti_storage_space {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t total_bytes; /* size of its file system, or the bound of a memory engine */
    uint64_t free_bytes;  /* of those, what this process may still use */
};

/* The vtable. Slots marked optional may be NULL; all others are required. */
struct sti_storage {
    struct sti_iface iface; /* id STI_STORAGE_ID */

    /* Open or create a partition, recovering what an unclean end has left: scan past the recovery
     * point, check every CRC, rebuild indexes, cut an unfinished tail. *state is filled. Called on
     * an executor thread, for different partitions in parallel.
     * @return STI_OK; STI_E_ALREADY_EXISTS; STI_E_NOT_FOUND; STI_E_DATA_LOSS (damage: *part is
     * still opened, for reads, with STI_STORAGE_STATE_DAMAGED); STI_E_IO; STI_E_DISK_FULL;
     * STI_E_IN_USE; STI_E_RESOURCE_EXHAUSTED; STI_E_CANCELLED (the event `recovering` said so);
     * STI_E_UNSUPPORTED (a format version, or a setting this engine cannot honour, by name: without
     * STI_STORAGE_DURABLE the policies commit and interval); STI_E_INVALID_ARGUMENT (no topic's
     * name, no partition). A partition of another topic id is not found: it is another topic's. */
    int (*open)(void *self, const struct sti_storage_open *args,
                struct sti_storage_partition **part, struct sti_storage_state *state,
                struct sti_err *err);
    /* New settings take effect from the next append on. @return STI_OK, STI_E_UNSUPPORTED */
    int (*configure)(struct sti_storage_partition *part,
                     const struct sti_storage_settings *settings, struct sti_err *err);
    /* Any thread; takes no lock that is held over I/O. */
    void (*state)(struct sti_storage_partition *part, struct sti_storage_state *out);
    /* @return STI_OK: done runs exactly once. Otherwise it never runs, and the status is one of
     * those of `done`. */
    int (*append)(struct sti_storage_partition *part, struct sti_storage_append *op);
    int (*read)(struct sti_storage_partition *part, struct sti_storage_read *op);
    int (*sync)(struct sti_storage_partition *part, struct sti_storage_sync *op);
    /* The first offset whose batch holds a timestamp >= timestamp_ms, rounded down to that batch's
     * base offset, but not below log_start; *found_ms is the batch's largest timestamp.
     * @return STI_OK, STI_E_NOT_FOUND (all are older), STI_E_IO */
    int (*offset_for_time)(struct sti_storage_partition *part, int64_t timestamp_ms,
                           int64_t *offset, int64_t *found_ms, struct sti_err *err);
    /* Drop every record at or after `offset`, which is not below log_start and lies on a batch
     * boundary. @return STI_OK (also when nothing was to do), STI_E_INVALID_ARGUMENT (inside a
     * batch; nothing changed), STI_E_IO, STI_E_DISK_FULL, STI_E_RESOURCE_EXHAUSTED */
    int (*truncate)(struct sti_storage_partition *part, int64_t offset, struct sti_err *err);
    /* Records below `new_start` are no longer wanted: log_start moves there, and segments that end
     * at or below it are retired.
     * @return STI_OK (also when nothing was to do), STI_E_OFFSET_OUT_OF_RANGE (past the written
     * end), STI_E_IO, STI_E_DISK_FULL (nothing changed: not even a few bytes can be written; a trim
     * that frees a segment is expected to find them) */
    int (*trim)(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err);
    /* For retention: base offset of the second-oldest segment, i.e. where a trim would drop exactly
     * the oldest, with the oldest's bytes and newest timestamp. @return STI_OK, STI_E_NOT_FOUND
     * (only one segment) */
    int (*oldest_segment)(struct sti_storage_partition *part, int64_t *end_offset, uint64_t *bytes,
                          int64_t *max_timestamp);
    void (*usage)(struct sti_storage_partition *part, struct sti_storage_usage *out);
    /* Finish what is under way, sync if durable, and let go. Slices still held stay valid. After it
     * returns the handle is gone, whatever it returns, and no event fires. @return STI_OK, STI_E_IO
     */
    int (*close)(struct sti_storage_partition *part, struct sti_err *err);
    /* Delete a closed partition for good. The name is free, and the deletion survives a crash, when
     * it returns; its space comes back soon after. A partition of another topic id is left alone,
     * open or not: it is another topic's, which has the name now. What cannot say whose it is
     * belongs to whom its name says.
     * @return STI_OK (also when there is none), STI_E_IO, STI_E_IN_USE (still open) */
    int (*remove)(void *self, const struct sti_partition_id *id, struct sti_err *err);
    /* Visit what is stored, whoever made it. `visit` returns 0 to go on. @return STI_OK, STI_E_IO,
     * or what visit returned */
    int (*list)(void *self, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg,
                struct sti_err *err);
    /* Optional, with STI_STORAGE_BLOBS: small files of the broker's beside the log, replaced
     * atomically. name: [a-z0-9.-]{1,64}. blob_get allocates *data with malloc; the caller frees
     * it.
     * @return STI_OK, STI_E_NOT_FOUND, STI_E_IO, STI_E_DISK_FULL, STI_E_RESOURCE_EXHAUSTED,
     * STI_E_INVALID_ARGUMENT (no name for a blob, or one that the engine keeps for itself) */
    int (*blob_put)(struct sti_storage_partition *part, const char *name, const void *data,
                    size_t len, struct sti_err *err);
    int (*blob_get)(struct sti_storage_partition *part, const char *name, void **data, size_t *len,
                    struct sti_err *err);
    /* Optional, since 0.2: how much room there is now. Cheap, since it is asked about once a second
     * and more often while the room shrinks; an engine that is told so that it has little may give
     * back what it holds in reserve. Any executor thread, also several at once.
     * @return STI_OK, STI_E_IO */
    int (*space)(void *self, struct sti_storage_space *out, struct sti_err *err);
    /* Optional, since 0.2: close a partition that will be removed next. As close, but nothing of it
     * has to be kept, so nothing is written or synced, and a deletion takes no longer on a slow
     * disk. Without a removal the next open finds what a death of the process would have left.
     * @return STI_OK, STI_E_IO */
    int (*discard)(struct sti_storage_partition *part, struct sti_err *err);
};

/* The vtable behind a binding. */
static inline const struct sti_storage *sti_storage_of(const struct sti_binding *binding)
{
    return (const struct sti_storage *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_STORAGE_H */
