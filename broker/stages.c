/* stages.c -- see stages.h for the story. */
#include "broker/stages.h"

#include <stdio.h>
#include <string.h>

#include "broker/internal.h"

void brk_stages_register(struct brk_stages *stages, const struct sti_host *host)
{
    static const char *const produce[BRK_PRODUCE_STAGES] = {"receive", "admit", "queue", "append",
                                                            "sync",    "ack",   "answer"};
    static const char *const fetch[BRK_FETCH_STAGES] = {"receive", "read", "wait"};
    char labels[64];
    for (int i = 0; i < BRK_PRODUCE_STAGES; i++) {
        (void)snprintf(labels, sizeof labels, "stage=\"%s\"", produce[i]);
        stages->produce[i] = host->histogram(host->ctx, "streamit_produce_stage_seconds", labels,
                                             "Time that produced rows spend in each stage");
    }
    for (int i = 0; i < BRK_FETCH_STAGES; i++) {
        (void)snprintf(labels, sizeof labels, "stage=\"%s\"", fetch[i]);
        stages->fetch[i] = host->histogram(host->ctx, "streamit_fetch_stage_seconds", labels,
                                           "Time that fetch calls spend in each stage");
    }
    const char *help = "Calls that took broker.slow_request_ms or longer";
    stages->slow_produce = host->metric(host->ctx, STI_METRIC_COUNTER,
                                        "streamit_slow_requests_total", "call=\"produce\"", help);
    stages->slow_fetch = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_slow_requests_total",
                                      "call=\"fetch\"", help);
}

/* Is a call that took so long slow? */
static bool is_slow(const struct broker *broker, uint64_t took_us)
{
    int64_t limit_ms = broker->conf->slow_request_ms;
    return limit_ms > 0 && took_us >= (uint64_t)limit_ms * 1000u;
}

/* Microseconds that a call took to reach the broker. A transport may leave its arrival out. */
static uint64_t receive_us(const struct sti_request *request, uint64_t started_us)
{
    bool known = request != NULL && request->received_us != 0 && request->received_us < started_us;
    return known ? started_us - request->received_us : 0;
}

static const char *text(const char *maybe)
{
    return maybe == NULL ? "" : maybe;
}

enum { STAMPS = 5 }; /* of a row, each the end of a stage from ADMIT on */

/* How long each stage of a row took. One that was not acknowledged spent its last stage up to the
 * end of the call. @return when it was through */
static uint32_t row_times(const struct brk_produce_row *row, uint32_t end,
                          uint64_t us[BRK_PRODUCE_STAGES])
{
    const uint32_t stamps[STAMPS] = {row->at.queued, row->at.taken, row->at.written, row->at.synced,
                                     row->at.acked};
    uint32_t last = 1; /* when the call was taken */
    int stage = BRK_PRODUCE_ADMIT;
    memset(us, 0, BRK_PRODUCE_STAGES * sizeof us[0]);
    for (int i = 0; i < STAMPS; i++) {
        if (stamps[i] != 0) {
            us[BRK_PRODUCE_ADMIT + i] = stamps[i] > last ? stamps[i] - last : 0;
            last = stamps[i] > last ? stamps[i] : last;
            stage = BRK_PRODUCE_ADMIT + i + 1;
        }
    }
    if (stage == BRK_PRODUCE_SYNC &&
        !atomic_load_explicit(&row->part->durable, memory_order_relaxed)) {
        stage = BRK_PRODUCE_ACK;
    }
    us[stage] += end > last ? end - last : 0;
    return stage == BRK_PRODUCE_ANSWER ? last : end;
}

static void row_record(const struct brk_stages *stages, const struct brk_stamps *at,
                       const uint64_t us[BRK_PRODUCE_STAGES])
{
    const uint32_t stamps[STAMPS] = {at->queued, at->taken, at->written, at->synced, at->acked};
    for (int i = 0; i < STAMPS; i++) {
        if (stamps[i] != 0) {
            sti_histogram_record(stages->produce[BRK_PRODUCE_ADMIT + i], us[BRK_PRODUCE_ADMIT + i]);
        }
    }
    if (at->acked != 0) {
        sti_histogram_record(stages->produce[BRK_PRODUCE_ANSWER], us[BRK_PRODUCE_ANSWER]);
    }
}

static double ms(uint64_t us)
{
    return (double)us / 1e3;
}

static void log_produce(const struct brk_produce *p, const struct brk_produce_row *slowest,
                        uint64_t took_us, const uint64_t us[BRK_PRODUCE_STAGES])
{
    const struct sti_host *host = p->broker->host;
    const struct sti_request *request = p->call->request;
    const struct sti_produce_row *row = slowest->row;
    sti_log(host, STI_LOG_WARN, "slow_request", "a produce call took long",
            STI_F_STR("trace_id", request == NULL ? "" : text(request->trace_id)),
            STI_F_STR("call", "produce"),
            STI_F_STR("client_id", request == NULL ? "" : text(request->client_id)),
            STI_F_STR("principal", request == NULL ? "" : text(request->principal)),
            STI_F_STR("peer", request == NULL ? "" : text(request->peer)),
            STI_F_STR("listener", request == NULL ? "" : text(request->listener)),
            STI_F_STR("topic", row->topic), STI_F_INT("partition", row->partition),
            STI_F_UINT("partitions", p->row_count), STI_F_UINT("bytes", p->bytes),
            STI_F_INT("acks", p->call->acks), STI_F_STR("status", sti_status_name(row->status)),
            STI_F_DOUBLE("total_ms", ms(took_us)),
            STI_F_DOUBLE("receive_ms", ms(us[BRK_PRODUCE_RECEIVE])),
            STI_F_DOUBLE("admit_ms", ms(us[BRK_PRODUCE_ADMIT])),
            STI_F_DOUBLE("queue_ms", ms(us[BRK_PRODUCE_QUEUE])),
            STI_F_DOUBLE("append_ms", ms(us[BRK_PRODUCE_APPEND])),
            STI_F_DOUBLE("sync_ms", ms(us[BRK_PRODUCE_SYNC])),
            STI_F_DOUBLE("ack_ms", ms(us[BRK_PRODUCE_ACK])),
            STI_F_DOUBLE("answer_ms", ms(us[BRK_PRODUCE_ANSWER])));
}

void brk_stages_produced(const struct brk_produce *p, uint64_t now_us)
{
    const struct brk_stages *stages = &p->broker->metrics.stages;
    const struct brk_produce_row *slowest = &p->rows[0];
    uint64_t us[BRK_PRODUCE_STAGES], slowest_us[BRK_PRODUCE_STAGES] = {0};
    uint32_t latest = 0;
    uint64_t received = receive_us(p->call->request, p->started_us);
    uint32_t end = brk_stamp(p->started_us, now_us);
    sti_histogram_record(stages->produce[BRK_PRODUCE_RECEIVE], received);
    for (uint32_t i = 0; i < p->row_count; i++) {
        uint32_t through = row_times(&p->rows[i], end, us);
        row_record(stages, &p->rows[i].at, us);
        if (through > latest) {
            latest = through;
            slowest = &p->rows[i];
            memcpy(slowest_us, us, sizeof us);
        }
    }
    uint64_t took = received + end - 1;
    if (is_slow(p->broker, took)) {
        slowest_us[BRK_PRODUCE_RECEIVE] = received;
        sti_metric_add(stages->slow_produce, 1);
        log_produce(p, slowest, took, slowest_us);
    }
}

static void log_fetch(const struct broker *broker, const struct sti_fetch *call, uint64_t received,
                      uint64_t read, const struct brk_fetch_times *times, uint64_t bytes)
{
    const struct sti_request *request = call->request;
    const struct sti_fetch_row *row = call->rows[0];
    for (uint32_t i = 0; i < call->row_count; i++) {
        row = call->rows[i]->bytes > row->bytes ? call->rows[i] : row;
    }
    sti_log(broker->host, STI_LOG_WARN, "slow_request", "a fetch call took long",
            STI_F_STR("trace_id", request == NULL ? "" : text(request->trace_id)),
            STI_F_STR("call", "fetch"),
            STI_F_STR("client_id", request == NULL ? "" : text(request->client_id)),
            STI_F_STR("principal", request == NULL ? "" : text(request->principal)),
            STI_F_STR("peer", request == NULL ? "" : text(request->peer)),
            STI_F_STR("listener", request == NULL ? "" : text(request->listener)),
            STI_F_STR("topic", row->topic), STI_F_INT("partition", row->partition),
            STI_F_UINT("partitions", call->row_count), STI_F_UINT("bytes", bytes),
            STI_F_STR("status", sti_status_name(row->status)),
            STI_F_DOUBLE("total_ms", ms(received + read + times->wait_us)),
            STI_F_DOUBLE("receive_ms", ms(received)), STI_F_DOUBLE("read_ms", ms(read)),
            STI_F_DOUBLE("wait_ms", ms(times->wait_us)));
}

void brk_stages_fetched(struct broker *broker, const struct sti_fetch *call, uint64_t started_us,
                        const struct brk_fetch_times *times, uint64_t bytes, uint64_t now_us)
{
    const struct brk_stages *stages = &broker->metrics.stages;
    uint64_t received = receive_us(call->request, started_us);
    uint64_t read = times->read_us + (now_us > times->mark_us ? now_us - times->mark_us : 0);
    sti_histogram_record(stages->fetch[BRK_FETCH_RECEIVE], received);
    sti_histogram_record(stages->fetch[BRK_FETCH_READ], read);
    if (times->wait_us > 0) {
        sti_histogram_record(stages->fetch[BRK_FETCH_WAIT], times->wait_us);
    }
    if (is_slow(broker, received + read)) {
        sti_metric_add(stages->slow_fetch, 1);
        log_fetch(broker, call, received, read, times, bytes);
    }
}
