/* produce.c -- a produce call: checked row by row, queued at its partitions, answered when its last
 * row is.
 *
 * Everything that can be known without the log is checked on the caller's thread: admission,
 * rights, topic and partition, the batch itself with its CRC. What passes is queued; what does not
 * is answered with its own code, and the other rows go on.
 *
 * Lifetimes. A call has one block of memory. `pending` counts rows without a result, plus one for
 * the submission itself, so that the call cannot be answered while rows are still being queued;
 * `refs` keeps the block for the end of its time, which may be told late.
 *
 * Putting off. A call that the quotas of its client (quota.c) or the bytes under way (admission.c)
 * do not allow now is answered THROTTLED, in every row and without looking at it. A disk that fills
 * puts off or refuses its own rows only (diskspace.c).
 *
 * Chains (broker.h). A row that is not appended is noted in its chain before it is answered, here
 * or under part->mu while it is queued; a row that its chain refuses never gets into a queue, or is
 * taken out of it when an earlier one fails (partition.c).
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

/* ---- the order of streams ------------------------------------------------------------------ */

/* NULL: the row stands alone, or its transport knows no chains. */
static struct sti_produce_chain *chain_of(const struct sti_produce_row *row)
{
    bool told = row->struct_size >=
                offsetof(struct sti_produce_row, chain_answered) + sizeof row->chain_answered;
    return told ? row->chain : NULL;
}

static void chain_fail(const struct sti_produce_row *row)
{
    struct sti_produce_chain *chain = chain_of(row);
    if (chain != NULL) {
        sti_produce_chain_fail(chain, row->chain_id, row->chain_answered);
    }
}

/* Nothing of a call was done. */
static void chains_fail(const struct sti_produce *call)
{
    for (uint32_t i = 0; i < call->row_count; i++) {
        chain_fail(call->rows[i]);
    }
}

void brk_produce_chain_fail(const struct brk_produce_row *row)
{
    if (!row->refused) {
        chain_fail(row->row);
    }
}

bool brk_produce_chain_refuses(struct brk_produce_row *row)
{
    const struct sti_produce_row *in = row->row;
    const struct sti_produce_chain *chain = chain_of(in);
    row->refused =
        chain != NULL && sti_produce_chain_refuses(chain, in->chain_id, in->chain_answered) != 0;
    return row->refused;
}

int brk_produce_chain_err(const struct brk_produce_row *row, struct sti_err *err)
{
    sti_err_set(err, STI_E_PRECONDITION,
                "%.80s-%d: an earlier batch of this stream was not appended", row->row->topic,
                row->row->partition);
    err->traits |= STI_TRAIT_RETRIABLE;
    return STI_E_PRECONDITION;
}

/* ---- answering ----------------------------------------------------------------------------- */

static void produce_unref(struct brk_produce *p)
{
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1) {
        for (uint32_t i = 0; i < p->row_count; i++) {
            if (p->rows[i].part != NULL) {
                brk_partition_unref(p->rows[i].part);
            }
        }
        free(p);
    }
}

/* One row, or the submission, is through. */
static void produce_settle(struct brk_produce *p)
{
    struct broker *broker = p->broker;
    const struct sti_host *host = broker->host;
    if (atomic_fetch_sub_explicit(&p->pending, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (p->timer_armed && brk_wait_cancel(&broker->purgatory, &p->wait)) {
        produce_unref(p);
    }
    uint64_t now = sti_now_us(host);
    sti_histogram_record(broker->metrics.produce_us, now - p->started_us);
    brk_stages_produced(p, now);
    struct sti_produce *call = p->call;
    uint64_t cost = p->cost;
    /* Before the answer: once its last call is answered, the broker may be stopped and gone. */
    brk_admission_leave(broker, call->request, cost);
    call->done(call);
    produce_unref(p);
}

void brk_produce_row_done(struct brk_produce_row *row, int status, const struct sti_err *err)
{
    struct brk_produce *p = row->produce;
    struct brk_metrics *m = &p->broker->metrics;
    struct sti_produce_row *out = row->row;
    out->status = status;
    if (status == STI_OK) {
        sti_metric_add(m->produce_rows_ok, 1);
    } else {
        brk_metrics_failed(p->broker, BRK_CALL_PRODUCE, status);
        if (err != NULL && err->msg[0] != '\0') {
            out->err = *err;
        } else {
            sti_err_set(&out->err, status, "%.80s-%d: %s", out->topic, out->partition,
                        sti_status_text(status));
        }
        if (status == STI_E_UNAVAILABLE) {
            out->retry_after_ms = BRK_RETRY_AFTER_MS;
        }
    }
    produce_settle(p);
}

/* Until when a call waits for its acks: as long as it says, and while there is somebody to answer.
 */
static uint64_t produce_due_us(const struct brk_produce *p)
{
    uint64_t due = p->started_us + (uint64_t)p->call->timeout_ms * 1000u;
    uint64_t deadline = brk_deadline_us(p->call->request);
    return due < deadline ? due : deadline;
}

/* The acks did not come in time: take out what storage does not hold. A row that storage works on
 * is answered by storage. */
static void time_is_up(struct brk_wait *wait)
{
    struct brk_produce *p = BRK_CONTAINER_OF(wait, struct brk_produce, wait);
    for (uint32_t i = 0; i < p->row_count; i++) {
        struct brk_produce_row *row = &p->rows[i];
        struct sti_err err;
        struct brk_partition *part = row->part;
        /* The call itself is there only while one of its rows is not done: look at the row first.
         */
        if (part != NULL && brk_partition_withdraw(part, row)) {
            sti_err_set(&err, STI_E_TIMED_OUT,
                        "%s-%d: not acknowledged within %llu ms; the records may be stored",
                        part->topic, part->index,
                        (unsigned long long)(produce_due_us(p) - p->started_us) / 1000u);
            brk_produce_row_done(row, STI_E_TIMED_OUT, &err);
        }
    }
    produce_unref(p);
}

/* ---- checking ------------------------------------------------------------------------------ */

static void row_clear(struct sti_produce_row *row)
{
    row->status = STI_OK;
    row->base_offset = -1;
    row->log_start = -1;
    row->append_time_ms = -1;
    row->leader_epoch = -1;
    row->leader_hint = -1;
    row->replicas = 0;
    row->replicas_synced = 0;
    row->retry_after_ms = 0;
    row->bytes_needed = 0;
    sti_err_clear(&row->err);
}

static int row_check_batch(struct brk_produce_row *row, struct sti_err *err)
{
    const struct sti_produce_row *in = row->row;
    struct brk_partition *part = row->part;
    uint64_t max = (uint64_t)atomic_load_explicit(&part->max_message_bytes, memory_order_relaxed);
    uint64_t len = sti_slices_len(in->slices, in->slice_count);
    if (len > max) {
        sti_metric_add(part->broker->metrics.refused_message_bytes, 1);
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "%s-%d: a batch of %llu bytes exceeds max.message.bytes = %llu",
                           part->topic, part->index, (unsigned long long)len,
                           (unsigned long long)max);
    }
    int rc = sti_batch_check(in->slices, in->slice_count, STI_CHECK_CRC | STI_CHECK_PRODUCER, max,
                             &row->header, err);
    if (rc != STI_OK) {
        return sti_err_wrap(err, rc, "%s-%d", part->topic, part->index);
    }
    if (row->header.producer_id >= 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "%s-%d: batches with a producer id (%lld) need idempotence, which this "
                           "version does not offer yet",
                           part->topic, part->index, (long long)row->header.producer_id);
    }
    if ((row->header.attributes & STI_BATCH_TRANSACTIONAL) != 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "%s-%d: transactions are not offered",
                           part->topic, part->index);
    }
    return brk_timestamp_check(part, &row->header, err);
}

/* Where the payload behind the patched bytes lies. Slices before it are left out; the first may be
 * cut. */
static void row_payload(struct brk_produce *p, struct brk_produce_row *row)
{
    const struct sti_produce_row *in = row->row;
    struct sti_slice *out = p->slices + row->slice_first + 1; /* one is kept for a stamp */
    uint64_t skip = STI_BATCH_PATCH_LEN;
    uint32_t count = 0;
    for (uint32_t i = 0; i < in->slice_count; i++) {
        if (in->slices[i].len <= skip) {
            skip -= in->slices[i].len;
            continue;
        }
        out[count] = in->slices[i];
        out[count].data += skip;
        out[count].len -= skip;
        skip = 0;
        count++;
    }
    row->batch.struct_size = sizeof row->batch;
    row->batch.slices = out;
    row->batch.slice_count = count;
    row->batch.len = row->header.total_len;
    row->batch.max_timestamp = row->header.max_timestamp;
}

static int row_submit(struct brk_produce *p, struct brk_produce_row *row, bool may_inline,
                      struct sti_err *err)
{
    struct broker *broker = p->broker;
    const struct sti_produce *call = p->call;
    const struct sti_produce_row *in = row->row;
    if (brk_produce_chain_refuses(row)) {
        return brk_produce_chain_err(row, err);
    }
    int rc = brk_authorize(broker, call->request, STI_OP_WRITE, in->topic, err);
    if (rc == STI_OK) {
        rc = brk_lookup(broker, in->topic, in->topic_id, in->partition, &row->part, err);
    }
    if (rc == STI_E_UNKNOWN_TOPIC && brk_id_is_zero(in->topic_id)) {
        rc = brk_auto_create(broker, call->request, in->topic, err);
    }
    if (rc == STI_OK) {
        rc = row_check_batch(row, err);
    }
    if (rc == STI_OK && call->acks == STI_ACKS_QUORUM) {
        rc = brk_partition_quorum(row->part, err);
    }
    if (rc == STI_OK) {
        rc = brk_disk_admit(row->part, row->header.total_len, &row->row->retry_after_ms, err);
        row->row->bytes_needed = rc == STI_E_DISK_FULL ? row->header.total_len : 0;
    }
    if (rc == STI_OK) {
        row_payload(p, row);
        rc = brk_partition_enqueue(row->part, row, may_inline, err);
    }
    return rc;
}

/* ---- the call ------------------------------------------------------------------------------ */

static struct brk_produce *produce_new(struct broker *broker, struct sti_produce *call,
                                       uint64_t now_us)
{
    size_t slices = 0;
    for (uint32_t i = 0; i < call->row_count; i++) {
        slices += call->rows[i]->slice_count + 1u;
    }
    size_t rows_len = call->row_count * sizeof(struct brk_produce_row);
    struct brk_produce *p = calloc(1, sizeof *p + rows_len + slices * sizeof(struct sti_slice));
    if (p == NULL) {
        return NULL;
    }
    p->broker = broker;
    p->call = call;
    p->row_count = call->row_count;
    atomic_init(&p->pending, call->row_count + 1);
    atomic_init(&p->refs, 1);
    p->wait.expire = time_is_up;
    p->started_us = now_us;
    p->slices = (struct sti_slice *)(void *)((char *)p->rows + rows_len);
    uint32_t first = 0;
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct brk_produce_row *row = &p->rows[i];
        row->produce = p;
        row->row = call->rows[i];
        row->slice_first = first;
        first += call->rows[i]->slice_count + 1u;
        p->bytes += sti_slices_len(call->rows[i]->slices, call->rows[i]->slice_count);
    }
    p->cost = sti_produce_cost(call);
    return p;
}

/* Answer every row alike, without an object. */
static void produce_put_off(struct broker *broker, struct sti_produce *call, const char *why,
                            uint32_t retry_after_ms)
{
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct sti_produce_row *row = call->rows[i];
        chain_fail(row);
        row->status = sti_err_set(&row->err, STI_E_THROTTLED, "%.80s-%d: %s", row->topic,
                                  row->partition, why);
        row->retry_after_ms = retry_after_ms;
        brk_metrics_failed(broker, BRK_CALL_PRODUCE, row->status);
    }
    call->done(call);
}

/* May so many bytes come in now? @return false: the call was answered */
static bool produce_admit(struct broker *broker, struct brk_produce *p, struct sti_err *err)
{
    const struct sti_request *request = p->call->request;
    struct quota_refusal refusal;
    enum brk_room_verdict room = brk_room_enter(broker, &broker->produce_room, request, p->cost);
    const char *why = room == BRK_ROOM_FULL
                          ? "the node holds as many bytes in flight as inflight_bytes_max allows"
                      : room == BRK_ROOM_SHARE
                          ? "the connection has its share of inflight_bytes_max in flight"
                          : NULL;
    uint32_t retry_after_ms = BRK_RETRY_AFTER_MS;
    if (why == NULL && quota_active(&broker->quota, QUOTA_PRODUCE_BYTES) &&
        !quota_take(&broker->quota, request, QUOTA_PRODUCE_BYTES, p->bytes, p->started_us,
                    &refusal)) {
        brk_admission_leave(broker, request, p->cost);
        (void)brk_quota_refused(broker, request, &refusal, err);
        why = err->msg;
        retry_after_ms = refusal.retry_after_ms;
    }
    if (why != NULL) {
        struct sti_produce *call = p->call;
        free(p);
        produce_put_off(broker, call, why, retry_after_ms);
    }
    return why == NULL;
}

static int produce_check(const struct sti_produce *call, struct sti_err *err)
{
    if (call->row_count == 0 || call->acks < STI_ACKS_NONE || call->acks > STI_ACKS_QUORUM) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           call->row_count == 0 ? "produce: no partitions"
                                                : "produce: acks %d, expected 0 to 2",
                           call->acks);
    }
    return STI_OK;
}

int brk_produce(void *self, struct sti_produce *call, struct sti_err *err)
{
    struct broker *broker = self;
    const struct sti_host *host = broker->host;
    uint64_t now = sti_now_us(host);
    uint32_t retry_after_ms = 0;
    struct sti_err own;
    err = err == NULL ? &own : err;
    int rc = produce_check(call, err);
    if (rc == STI_OK) {
        rc = brk_enter(broker, call->request, now, &retry_after_ms, err);
    }
    for (uint32_t i = 0; i < call->row_count; i++) {
        row_clear(call->rows[i]);
    }
    if (rc == STI_E_THROTTLED) {
        produce_put_off(broker, call, err->msg, retry_after_ms);
        return STI_OK;
    }
    if (rc != STI_OK) {
        chains_fail(call);
        return rc;
    }
    sti_metric_add(broker->metrics.produce_requests, 1);
    struct brk_produce *p = produce_new(broker, call, now);
    if (p == NULL) {
        chains_fail(call);
        return sti_err_set(err, STI_E_NO_MEMORY, "produce: out of memory");
    }
    if (!produce_admit(broker, p, err)) {
        return STI_OK;
    }
    if (call->timeout_ms == 0) {
        call->timeout_ms = (uint32_t)broker->conf->produce_timeout_ms;
    }
    bool may_inline = p->row_count <= BRK_INLINE_ROWS &&
                      p->bytes <= (uint64_t)broker->conf->inline_append_bytes_max;
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct sti_err row_err;
        sti_err_clear(&row_err);
        rc = row_submit(p, &p->rows[i], may_inline, &row_err);
        if (rc != STI_OK) {
            brk_produce_chain_fail(&p->rows[i]);
            brk_produce_row_done(&p->rows[i], rc, &row_err);
        }
    }
    if (atomic_load(&p->pending) > 1) {
        atomic_fetch_add(&p->refs, 1); /* the timer's */
        p->timer_armed = true;
        brk_wait_arm(&broker->purgatory, &p->wait, produce_due_us(p));
    }
    produce_settle(p);
    return STI_OK;
}
