/* cases.h -- the list of cases, with what each proves and takes for granted. */
#ifndef STREAMIT_STORAGE_CASES_H
#define STREAMIT_STORAGE_CASES_H

#include "storage_suite.h"

#define DURABLE STI_STORAGE_DURABLE
#define FILES   STI_STORAGE_FILES
#define BLOBS   STI_STORAGE_BLOBS
#define NO_WAIT STI_STORAGE_NO_WAIT

/* X(name, capabilities without which it is skipped, seconds or 0, promise) */
#define CS_CASES(X)                                                                                \
    X(open, 0, 0, "a partition is made once, opened once, and found again")                        \
    X(names, 0, 0, "every allowed topic name is a partition of its own, every other is refused")   \
    X(topic_id, 0, 0, "a topic made anew under an old name does not see the old one's data")       \
    X(remove, 0, 0, "what was removed is gone for good, and its name is free")                     \
    X(remove_other, 0, 0, "and a partition of another topic id is left alone")                     \
    X(list, 0, 0, "list visits each partition once, and ends when the visitor says so")            \
    X(policies, 0, 0, "a flush policy that the engine cannot honour is refused")                   \
    X(append_and_read, 0, 0, "every batch is found at each of its offsets")                        \
    X(append_spans_segments, 0, 0, "one append may fill several segments")                         \
    X(append_refusals, 0, 0, "a batch that does not follow the log is refused, and nothing moves") \
    X(append_no_wait, NO_WAIT, 0, "an append that may not wait is done at once, or not at all")    \
    X(batch_larger_than_segment, 0, 0, "a batch larger than a segment is stored and read whole")   \
    X(read_bounds, 0, 0, "a read returns whole batches, as many as its bounds allow")              \
    X(read_slices, 0, 0, "a read keeps to its array of slices, each within one segment")           \
    X(slices_outlive, 0, 0, "bytes that are held stay through trim, truncate, close and remove")   \
    X(no_wait_tail, 0, 0, "the newest batches are read without waiting")                           \
    X(no_wait_needs_nobody, 0, 0, "reads without waiting and state answer on any thread")          \
    X(rolls_by_size, 0, 0, "a segment is closed before it would pass segment_bytes")               \
    X(rolls_by_age, 0, 0, "a segment is closed when its first batch is older than segment_ms")     \
    X(configure, 0, 0, "new settings hold from the next append on")                                \
    X(time, 0, 0, "a timestamp leads to the first batch that reaches it")                          \
    X(time_disorder, 0, 0, "the same when timestamps go back and forth")                           \
    X(trim, 0, 0, "trim moves the start and drops whole segments")                                 \
    X(truncate, 0, 0, "truncate drops what lies behind, and the log goes on from there")           \
    X(sync, 0, 0, "sync ends when everything written by then is as safe as it gets")               \
    X(synced_events, DURABLE, 0, "commit and interval move the synced end by themselves")          \
    X(blobs, BLOBS, 0, "blobs are kept beside the log, and replaced as a whole")                   \
    X(usage, 0, 0, "usage tells the bytes of the log")                                             \
    X(space, 0, 0, "space tells how much room there is")                                           \
    X(many_partitions, 0, 0, "partitions do not mix")                                              \
    X(reopen, DURABLE, 0, "a log that was closed is found as it was")                              \
    X(random_ops, 0, 0, "random calls on several partitions do what a plain model does")           \
    X(random_reopens, DURABLE, 0, "the same with partitions and nodes that end and begin again")   \
    X(crash, DURABLE, 0, "what was done is there after the process was killed at any moment")      \
    X(file_limit, FILES, 0, "an append that the system refuses leaves the log as it was")          \
    X(file_limit_others, FILES, 0, "so does a truncation, and a blob keeps its old bytes")         \
    X(descriptor_limit, 0, 0, "without descriptors calls are refused by name, and go on later")    \
    X(damage, FILES | DURABLE, 0,                                                                  \
      "damaged files never yield wrong bytes, or a shorter log unsaid")                            \
    X(beside_appends, 0, 0, "reads, syncs, lookups and blobs go on beside appends")                \
    X(beside_cuts, 0, 0, "and beside trims and truncations")                                       \
    X(beside_partitions, 0, 0, "partitions are opened, written and closed beside each other")      \
    X(callbacks_hold_no_lock, 0, 0, "while a callback runs, other calls go on")                    \
    X(events_hold_no_lock, DURABLE, 0, "while an event runs, other calls go on")                   \
    X(close_ends_calls, 0, 0, "when close returns, every call has its answer")

#define CS_DECLARE(case_name, caps_, timeout, promise_) void cs_case_##case_name(struct cfm *cfm);
CS_CASES(CS_DECLARE)

#endif /* STREAMIT_STORAGE_CASES_H */
