/* timestamp.c -- whose clock a topic goes by: the bounds of producers' timestamps, and the node's
 * own.
 *
 * message.timestamp.type=CreateTime: the newest and the first timestamp of a batch, as its header
 * says, must not be further from the node's clock than the topic allows. The records themselves are
 * not decoded for it: time index and retention go by the header as well. -1 stands for no timestamp
 * and is taken.
 *
 * LogAppendTime: a batch gets the time of its append, as Kafka's brokers do: attribute bit 3, the
 * largest timestamp, and the checksum that covers both. These lie in the first 61 bytes, so bytes
 * 16-60 are copied beside the payload, and the records go where they would have gone, untouched
 * and not even read: the checksum follows from the old one. The producer's own times are then
 * looked at by nobody, so no bounds apply to them.
 *
 * @thread brk_timestamp_check: the caller's; brk_timestamp_append: whoever runs the appends of the
 * partition
 */
#include <string.h>

#include "broker/internal.h"

int brk_timestamp_check(struct brk_partition *part, const struct sti_batch_header *header,
                        struct sti_err *err)
{
    int64_t before = atomic_load_explicit(&part->timestamp_before, memory_order_relaxed);
    int64_t after = atomic_load_explicit(&part->timestamp_after, memory_order_relaxed);
    if ((before == INT64_MAX && after == INT64_MAX) ||
        atomic_load_explicit(&part->timestamp_type, memory_order_relaxed) == SET_LOG_APPEND_TIME) {
        return STI_OK;
    }
    int64_t now = sti_now_ms(part->broker->host);
    int64_t newest = header->max_timestamp, first = header->base_timestamp;
    bool late = newest > now && (uint64_t)newest - (uint64_t)now > (uint64_t)after;
    bool early = first != -1 && first < now && (uint64_t)now - (uint64_t)first > (uint64_t)before;
    if (!late && !early) {
        return STI_OK;
    }
    sti_metric_add(part->broker->metrics.refused_timestamps, 1);
    uint64_t away = late ? (uint64_t)newest - (uint64_t)now : (uint64_t)now - (uint64_t)first;
    return sti_err_set(err, STI_E_INVALID_TIMESTAMP,
                       "%s-%d: timestamp %lld is %llu ms %s this node's clock, "
                       "message.timestamp.%s.max.ms is %lld",
                       part->topic, part->index, (long long)(late ? newest : first),
                       (unsigned long long)away, late ? "ahead of" : "behind",
                       late ? "after" : "before", (long long)(late ? after : before));
}

/* Take the first bytes behind the patched ones out of the slices. @return index of the first slice
 * that has any left */
static uint32_t take_head(struct sti_slice *slices, uint8_t out[BRK_STAMP_LEN])
{
    size_t got = 0;
    uint32_t i = 0;
    while (got < BRK_STAMP_LEN) {
        size_t n =
            slices[i].len < BRK_STAMP_LEN - got ? (size_t)slices[i].len : BRK_STAMP_LEN - got;
        memcpy(out + got, slices[i].data, n);
        got += n;
        slices[i].data += n;
        slices[i].len -= n;
        i += slices[i].len == 0 ? 1u : 0u;
    }
    return i;
}

void brk_timestamp_append(struct brk_partition *part, struct brk_produce_row *row)
{
    struct sti_slice *slices = row->produce->slices + row->slice_first;
    if (row->stamped || /* an append that was left to the strand: it keeps the time that it has */
        atomic_load_explicit(&part->timestamp_type, memory_order_relaxed) != SET_LOG_APPEND_TIME) {
        return;
    }
    int64_t now = sti_now_ms(part->broker->host);
    uint32_t at = take_head(slices + 1, row->stamp); /* slices[0] is kept free for this */
    sti_batch_stamp(row->stamp, row->batch.len, now);
    slices[at] = sti_slice_borrow(row->stamp, sizeof row->stamp);
    row->batch.slices = slices + at;
    row->batch.slice_count -= at; /* those that are used up, */
    row->batch.slice_count++;     /* and the stamp */
    row->batch.max_timestamp = now;
    row->stamped = true;
}
