/* produce.c -- Produce: the batches stay in the receive buffer from the socket to the broker.
 *
 * Records are made batches first; many of them by the executor. Meanwhile the calls behind it on
 * the same connection wait in their lane, so that the order stays.
 */
#include "produce.h"

#include "status_map.h"

struct unary {
    struct sti_task task; /* first */
    struct tgr_rpc *rpc;
    struct tgr_produce *produce;
    struct tgr_batches batches;
};

/* ---- shared with produce_stream.c ---- */

int tgr_produce_read(struct tgr_transport *t, struct tgr_arena *arena, enum tgr_produce_kind kind,
                     grpc_byte_buffer *payload, struct tgr_produce **out, struct sti_err *err)
{
    struct sti_slice *spans;
    size_t count;
    *out = NULL;
    int rc = tgr_spans(arena, payload, &spans, &count, err);
    if (rc != STI_OK) {
        return rc;
    }
    uint64_t len = sti_slices_len(spans, count);
    uint64_t max = (uint64_t)t->conf->max_message_bytes + TGR_MESSAGE_SLACK_BYTES;
    if (len > max) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "a request of %llu bytes exceeds the %llu that this listener takes "
                           "(max_message_bytes and 64 KiB)",
                           (unsigned long long)len, (unsigned long long)max);
    }
    return tgr_produce_decode(arena, kind, spans, count, (size_t)t->conf->partitions_per_call_max,
                              out, err);
}

int tgr_produce_encode(struct tgr_transport *t, struct tgr_arena *arena,
                       struct tgr_produce *produce, struct tgr_batches *batches,
                       struct sti_err *err)
{
    uint64_t copied = 0;
    if (produce->record_bytes == 0) {
        return STI_OK;
    }
    int rc = tgr_records_encode(arena, produce, (uint64_t)t->conf->max_message_bytes,
                                sti_now_ms(t->host), batches, &copied, err);
    sti_metric_add(t->copied_bytes, copied);
    return rc;
}

static bool result_fill(struct tgr_rpc *rpc, struct tgr_arena *arena,
                        const struct sti_produce_row *row, Streamit__V1__ProduceResult *out)
{
    streamit__v1__produce_result__init(out);
    out->topic = (char *)row->topic;
    out->partition = row->partition;
    out->base_offset = row->base_offset;
    out->leader_epoch = row->leader_epoch;
    out->replicas = row->replicas;
    out->replicas_synced = row->replicas_synced;
    out->log_start = row->log_start;
    out->append_time_ms = row->append_time_ms;
    if (row->status == STI_OK) {
        return true;
    }
    out->error = tgr_error_new(arena, row->status, &row->err);
    if (out->error == NULL) {
        return false;
    }
    tgr_error_retry(out->error, row->retry_after_ms);
    out->error->bytes_needed = row->bytes_needed;
    if (row->status == STI_E_NOT_LEADER) {
        char *hint = tgr_leader_hint(rpc, arena, row->topic, row->partition, row->leader_hint);
        if (hint != NULL) {
            out->error->leader_hint = hint;
        }
    }
    return true;
}

Streamit__V1__ProduceResult **tgr_produce_results(struct tgr_rpc *rpc, struct tgr_arena *arena,
                                                  const struct sti_produce *call)
{
    Streamit__V1__ProduceResult *results = tgr_arena_alloc(arena, call->row_count, sizeof *results);
    Streamit__V1__ProduceResult **pointers =
        (Streamit__V1__ProduceResult **)tgr_arena_alloc(arena, call->row_count, sizeof(void *));
    if (results == NULL || pointers == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < call->row_count; i++) {
        pointers[i] = &results[i];
        if (!result_fill(rpc, arena, call->rows[i], &results[i])) {
            return NULL;
        }
    }
    return pointers;
}

/* ---- Produce ---- */

static void fail(struct tgr_rpc *rpc, struct unary *unary, int rc, const struct sti_err *err)
{
    tgr_batches_free(&unary->batches);
    tgr_rpc_finish(rpc, NULL, rc, err);
    tgr_rpc_unref(rpc);
}

static void on_produced(struct sti_produce *call)
{
    struct unary *unary = call->user;
    struct tgr_rpc *rpc = unary->rpc;
    Streamit__V1__ProduceResponse response = STREAMIT__V1__PRODUCE_RESPONSE__INIT;
    /* The broker has let go of the batches: the receive buffer need not wait for the client. */
    grpc_byte_buffer_destroy(rpc->payload);
    rpc->payload = NULL;
    tgr_batches_free(&unary->batches);
    response.n_partitions = call->row_count;
    response.partitions = tgr_produce_results(rpc, &rpc->arena, call);
    if (response.partitions == NULL) { /* the batches may be stored: no code says "nothing done" */
        tgr_rpc_finish(rpc, NULL, STI_E_INTERNAL, NULL);
    } else {
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

/* Encode what is to be encoded, and call the broker. */
static void submit(struct tgr_rpc *rpc, struct unary *unary)
{
    struct tgr_transport *t = rpc->t;
    struct sti_err err;
    sti_err_clear(&err);
    int rc = tgr_produce_encode(t, &rpc->arena, unary->produce, &unary->batches, &err);
    if (rc != STI_OK) {
        sti_metric_add(t->malformed, 1);
    } else {
        rc = tgr_broker(t)->produce(t->broker.self, &unary->produce->call, &err);
    }
    if (rc != STI_OK) {
        fail(rpc, unary, rc, &err);
    }
}

static void on_task(struct sti_task *task)
{
    struct unary *unary = (struct unary *)(void *)task;
    struct tgr_rpc *rpc = unary->rpc;
    tgr_rpc_ref(rpc); /* for the lane */
    submit(rpc, unary);
    tgr_lane_resume(rpc);
    tgr_rpc_unref(rpc);
}

void tgr_produce_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct unary *unary = tgr_arena_alloc(&rpc->arena, 1, sizeof *unary);
    struct sti_err err;
    sti_err_clear(&err);
    if (unary == NULL) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    unary->rpc = rpc;
    int rc =
        tgr_produce_read(t, &rpc->arena, TGR_PRODUCE_UNARY, rpc->payload, &unary->produce, &err);
    if (rc != STI_OK || unary->produce == NULL) {
        sti_metric_add(t->malformed, 1);
        fail(rpc, unary, rc, &err);
        return;
    }
    unary->produce->call.request = &rpc->request;
    unary->produce->call.done = on_produced;
    unary->produce->call.user = unary;
    if (unary->produce->record_bytes > TGR_INLINE_BYTES) {
        unary->task.run = on_task;
        tgr_lane_suspend(rpc);
        t->host->post(t->host->ctx, &unary->task);
    } else {
        submit(rpc, unary);
    }
}
