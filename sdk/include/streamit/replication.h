/* streamit/replication.h -- interface "streamit.replication": how far a partition is safe.
 * PROVISIONAL: one implementation so far.
 *
 * A replication plugin moves the high watermark. On a leader it learns how far its own log is
 * written and synced, and how far each follower says it is; on a follower it fetches from the
 * leader and appends. It holds an opaque handle of each partition and acts through the operations
 * that the broker gives it; it never touches storage, and it decides no acknowledgement: the
 * broker's purgatory does, when the watermark moves.
 *
 * Which end counts. With flush.policy=commit acks, in-sync progress and the high watermark go by
 * synced ends, also with one replica; otherwise by written ends. `durable_ends` says which.
 *
 * Threads. open, role, close of one partition are called on its strand. `progress` is called on any
 * executor thread, for each append, and must not block or take a lock held over I/O. Operations may
 * be called from any thread, also inside progress.
 *
 * How others use it. replication_none sets the watermark to the local end at once. replication_isr
 * fetches over "streamit.peer". With an object store every replica but one is unnecessary:
 * replication_none again. The Kafka wire sees watermark, leader epoch and in-sync set only.
 *
 * Caveats. The high watermark never moves back while the handle is open. Operations called after
 * close returned are a programmer's error.
 */
#ifndef STREAMIT_REPLICATION_H
#define STREAMIT_REPLICATION_H

#include "streamit/plugin.h"
#include "streamit/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_REPLICATION_ID    "streamit.replication"
#define STI_REPLICATION_MAJOR 0
#define STI_REPLICATION_MINOR 1

#define STI_REPLICATION_MANY 0x1u /* can keep more than one replica */

struct sti_replication_partition; /* the plugin's */

/* The broker's operations on a partition; first argument `ctx` of the open. Append only. */
struct sti_replication_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* Everything below `offset` is safe on `replicas` replicas, of which `synced` have synced it.
     * Ignored when not beyond the present one. */
    void (*set_high_watermark)(void *ctx, int64_t offset, int32_t replicas, int32_t synced);
};

struct sti_replication_open {
    uint32_t struct_size;
    int32_t partition;
    const char *topic;
    uint8_t topic_id[16];
    const struct sti_replication_ops *ops; /* valid until close */
    void *ctx;
    const int32_t *replicas;
    uint32_t replica_count;
    int32_t min_insync;
    int64_t written_end, synced_end; /* of the local log as recovered */
    bool durable_ends;               /* go by synced ends */
};

struct sti_replication {
    struct sti_iface iface; /* id STI_REPLICATION_ID */

    /* Take charge of a partition; may set the high watermark before it returns.
     * @return STI_OK, STI_E_UNSUPPORTED (more than one replica without STI_REPLICATION_MANY),
     * STI_E_NO_MEMORY */
    int (*open)(void *self, const struct sti_replication_open *args,
                struct sti_replication_partition **part, struct sti_err *err);
    /* The local log has grown or was synced. */
    void (*progress)(struct sti_replication_partition *part, int64_t written_end,
                     int64_t synced_end);
    /* The flush policy has changed. */
    void (*configure)(struct sti_replication_partition *part, bool durable_ends,
                      int32_t min_insync);
    /* How many replicas are in sync now. Any thread. */
    int32_t (*in_sync)(struct sti_replication_partition *part);
    void (*close)(struct sti_replication_partition *part);
};

/* The vtable behind a binding. */
static inline const struct sti_replication *sti_replication_of(const struct sti_binding *binding)
{
    return (const struct sti_replication *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_REPLICATION_H */
