/* produce.c -- Produce: the batches stay in the receive buffer from the socket to the broker. */
#include "produce_decode.h"
#include "status_map.h"
#include "transport.h"

static bool result_fill(struct tgr_rpc *rpc, const struct sti_produce_row *row,
                        Streamit__V1__ProduceResult *out)
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
    out->error = tgr_error_new(&rpc->arena, row->status, &row->err);
    if (out->error == NULL) {
        return false;
    }
    out->error->retry_after_ms = row->retry_after_ms;
    out->error->bytes_needed = row->bytes_needed;
    if (row->status == STI_E_NOT_LEADER) {
        char *hint = tgr_leader_hint(rpc, row->topic, row->partition, row->leader_hint);
        if (hint != NULL) {
            out->error->leader_hint = hint;
        }
    }
    return true;
}

static void answer(struct tgr_rpc *rpc, const struct sti_produce *call)
{
    Streamit__V1__ProduceResponse response = STREAMIT__V1__PRODUCE_RESPONSE__INIT;
    Streamit__V1__ProduceResult *results =
        tgr_arena_alloc(&rpc->arena, call->row_count, sizeof *results);
    response.n_partitions = call->row_count;
    response.partitions = (Streamit__V1__ProduceResult **)tgr_arena_alloc(
        &rpc->arena, call->row_count, sizeof(void *));
    if (results == NULL || response.partitions == NULL) {
        tgr_rpc_finish(rpc, NULL, STI_E_INTERNAL, NULL);
        return;
    }
    for (uint32_t i = 0; i < call->row_count; i++) {
        response.partitions[i] = &results[i];
        if (!result_fill(rpc, call->rows[i], &results[i])) {
            tgr_rpc_finish(rpc, NULL, STI_E_INTERNAL, NULL);
            return;
        }
    }
    tgr_rpc_reply(rpc, &response.base);
}

static void on_produced(struct sti_produce *call)
{
    struct tgr_rpc *rpc = call->user;
    /* The broker has let go of the batches: the receive buffer need not wait for the client. */
    grpc_byte_buffer_destroy(rpc->payload);
    rpc->payload = NULL;
    answer(rpc, call);
    tgr_rpc_unref(rpc);
}

void tgr_produce_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct tgr_produce *produce = NULL;
    struct sti_slice *spans;
    struct sti_err err;
    size_t count;
    sti_err_clear(&err);
    int rc = tgr_spans(&rpc->arena, rpc->payload, &spans, &count, &err);
    if (rc == STI_OK) {
        rc = tgr_produce_decode(&rpc->arena, spans, count, (size_t)t->conf->partitions_per_call_max,
                                &produce, &err);
    }
    if (rc != STI_OK) {
        sti_metric_add(t->malformed, 1);
        tgr_rpc_finish(rpc, NULL, rc, &err);
        tgr_rpc_unref(rpc);
        return;
    }
    produce->call.request = &rpc->request;
    produce->call.done = on_produced;
    produce->call.user = rpc;
    rc = tgr_broker(t)->produce(t->broker.self, &produce->call, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
        tgr_rpc_unref(rpc);
    }
}
