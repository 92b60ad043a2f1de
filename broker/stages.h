/* stages.h -- how long a call spends in each stage of its way, and the log line of a slow one.
 *
 * Story. A produce call passes receive (from its arrival to the broker), admit (checks and
 * checksum, until its rows are queued), queue (until the strand takes the row), append (until
 * storage has written it), sync (until it survives a loss of power, when its acks ask for that),
 * ack (until its replicas suffice) and answer (until the slowest row of the call is through). A
 * fetch call passes receive, read (all of its reads together) and wait (parked). Each stage has a
 * histogram; a call whose own time, waiting for records left out, is broker.slow_request_ms or more
 * writes one line `slow_request` with all of its stages and its trace id.
 *
 * Cost. A stamp is 4 bytes in the row: microseconds since the call was taken, and one more, so that
 * 0 stands for never. The times of an append and of an ack are read once for all rows that they
 * concern; a call of one row reads the clock at most four times.
 *
 * Threads. A stamp is written by whoever owns the row then; the histograms take any thread.
 */
#ifndef STREAMIT_BROKER_STAGES_H
#define STREAMIT_BROKER_STAGES_H

#include "streamit/plugin.h"

struct broker;
struct brk_produce;
struct brk_produce_row;
struct sti_request;
struct sti_fetch;

enum brk_produce_stage {
    BRK_PRODUCE_RECEIVE = 0,
    BRK_PRODUCE_ADMIT,
    BRK_PRODUCE_QUEUE,
    BRK_PRODUCE_APPEND,
    BRK_PRODUCE_SYNC,
    BRK_PRODUCE_ACK,
    BRK_PRODUCE_ANSWER,
    BRK_PRODUCE_STAGES
};

enum brk_fetch_stage { BRK_FETCH_RECEIVE = 0, BRK_FETCH_READ, BRK_FETCH_WAIT, BRK_FETCH_STAGES };

/* Of one row, in the order of its way. */
struct brk_stamps {
    uint32_t queued, taken, written, synced, acked;
};

/* Of one fetch call. */
struct brk_fetch_times {
    uint64_t mark_us; /* since when the present stage has been going on */
    uint64_t read_us, wait_us;
};

struct brk_stages {
    struct sti_histogram *produce[BRK_PRODUCE_STAGES], *fetch[BRK_FETCH_STAGES];
    struct sti_metric *slow_produce, *slow_fetch;
};

void brk_stages_register(struct brk_stages *stages, const struct sti_host *host);

static inline uint32_t brk_stamp(uint64_t started_us, uint64_t now_us)
{
    uint64_t since = now_us > started_us ? now_us - started_us : 0;
    return since < UINT32_MAX - 1 ? (uint32_t)since + 1 : UINT32_MAX;
}

/* All rows of a call have their results, and its `done` has not run. */
void brk_stages_produced(const struct brk_produce *produce, uint64_t now_us);
/* The same of a fetch. */
void brk_stages_fetched(struct broker *broker, const struct sti_fetch *call, uint64_t started_us,
                        const struct brk_fetch_times *times, uint64_t bytes, uint64_t now_us);

#endif /* STREAMIT_BROKER_STAGES_H */
