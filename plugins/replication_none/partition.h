/* partition.h -- the watermark of a partition that has one replica.
 *
 * With one replica everything that counts as stored is safe: the high watermark is the written end
 * of the local log, or with durable_ends the synced end. Nothing is kept but the furthest ends that
 * were reported.
 *
 * Threads. progress and configure may run at the same time on any threads, and a report may
 * overtake an older one; so both ends and the watermark are atomics that only grow, and there is no
 * lock. open and close of one partition never run beside anything else.
 */
#ifndef RNO_PARTITION_H
#define RNO_PARTITION_H

#include "streamit/replication.h"

/* As the slots of struct sti_replication. */
int rno_partition_open(const struct sti_replication_open *args,
                       struct sti_replication_partition **part, struct sti_err *err);
void rno_partition_progress(struct sti_replication_partition *part, int64_t written_end,
                            int64_t synced_end);
void rno_partition_configure(struct sti_replication_partition *part, bool durable_ends,
                             int32_t min_insync);
int32_t rno_partition_in_sync(struct sti_replication_partition *part);
void rno_partition_close(struct sti_replication_partition *part);

#endif /* RNO_PARTITION_H */
