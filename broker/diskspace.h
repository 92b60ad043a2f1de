/* diskspace.h -- the ladder of a disk that fills: normal, throttled, read-only.
 *
 * Each storage instance has a ladder of its own, since each may lie on a file system of its own.
 * The room that is left decides the level; the thresholds scale with the file system:
 *
 *     throttled   below min(disk_throttle_percent, disk_throttle_bytes): appends are slowed
 *     read-only   below min(disk_refuse_percent, disk_refuse_bytes): appends, new topics and new
 *                 partitions are refused with DISK_FULL
 *
 * A level is left a quarter of the way from one threshold to the other above where it was entered,
 * so that it does not flap. Reads, deletions, retention and other changes go on at every level, and
 * that is what the last bytes are kept for.
 *
 * Memory engines have no ladder: their bound is a limit of their own, RESOURCE_EXHAUSTED; their
 * room is only shown.
 */
#ifndef STREAMIT_BROKER_DISKSPACE_H
#define STREAMIT_BROKER_DISKSPACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "streamit/plugin.h"
#include "streamit/storage.h"

struct broker;
struct brk_conf;
struct brk_partition;

enum brk_disk_level { BRK_DISK_NORMAL = 0, BRK_DISK_THROTTLED = 1, BRK_DISK_READ_ONLY = 2 };

struct brk_disk_options {
    int64_t throttle_percent, throttle_bytes;
    int64_t refuse_percent, refuse_bytes;
    int64_t slowdown_ms, check_interval_ms;
};

/* Free bytes at which a level begins and, further up, ends. */
struct brk_disk_limits {
    uint64_t throttle_below, throttle_until;
    uint64_t refuse_below, refuse_until;
};

/* The room of one storage instance. Made at start, gone at the end; its members are the file's. */
struct brk_disk {
    struct broker *broker;
    struct sti_binding storage;
    bool measured; /* the instance tells its room */
    bool ladder;   /* and appends go by it */
    _Atomic int level;
    _Atomic uint64_t total_bytes, free_bytes; /* at the last look */
    _Atomic uint64_t appended_bytes;          /* since then */
    _Atomic uint64_t look_after_bytes;        /* appended: then it is time to look again */
    _Atomic uint64_t next_us;                 /* throttled: when the next append may come */
    _Atomic uint64_t refuse_below, refuse_until, gap_bytes;
    _Atomic uint64_t slow_until_us; /* no appends on a caller's thread before that */
    _Atomic uint32_t looking; /* looks asked for: whoever makes it 1 does them, one at a time */
    bool look_failed;
    uint64_t retention_due_us;
    struct sti_metric *level_metric, *free_metric, *total_metric, *refused, *throttled;
};

void brk_disk_limits(const struct brk_disk_options *options, uint64_t total_bytes,
                     struct brk_disk_limits *out);
/* The level that follows `level` when so many bytes are free. */
int brk_disk_step(int level, uint64_t free_bytes, const struct brk_disk_limits *limits);

/* Find the instances and begin to watch them. Between broker start and the first partition.
 * @return STI_OK, STI_E_NO_MEMORY */
int brk_disk_start(struct broker *broker, struct sti_err *err);
/* No more looks by the clock; what brk_disk_start counted in broker->under_way ends. May be called
 * twice. */
void brk_disk_stop(struct broker *broker);
void brk_disk_free(struct broker *broker);
/* The instance of that name, or NULL. Any thread, from start on. */
struct brk_disk *brk_disk_find(struct broker *broker, const char *storage);

/* May a batch of `bytes` join the queue? Any thread; takes no lock and looks at no disk.
 * @param retry_after_ms  out, with THROTTLED
 * @return STI_OK, STI_E_THROTTLED, STI_E_DISK_FULL */
int brk_disk_admit(struct brk_partition *part, uint64_t bytes, uint32_t *retry_after_ms,
                   struct sti_err *err);
/* May storage be handed an append of `bytes`? Looks at the disk when much has been appended since
 * the last look. @return STI_OK, STI_E_DISK_FULL. @thread strand */
int brk_disk_append(struct brk_partition *part, uint64_t bytes, struct sti_err *err);
/* An append of `bytes` has ended with `status`: counts it, or, when the disk was full, looks and
 * says in *err how many bytes are needed and how many are there. @thread any executor thread */
void brk_disk_appended(struct brk_partition *part, uint64_t bytes, int status, struct sti_err *err);
/* May an append of `bytes` run on a thread that serves others too? Not while the disk was found
 * slow or is due to be looked at. Any thread. */
bool brk_disk_may_inline(const struct brk_partition *part, uint64_t bytes);
/* An append on such a thread has taken so long. */
void brk_disk_inlined(struct brk_partition *part, uint64_t took_us);
/* May a topic or partitions be made on that storage? @return STI_OK, STI_E_DISK_FULL */
int brk_disk_create(struct broker *broker, const char *storage, const char *topic,
                    struct sti_err *err);

#endif /* STREAMIT_BROKER_DISKSPACE_H */
