/* fetch.c -- Fetch: a long poll that ends with data, time, the client's departure, or drain.
 *
 * A fetch that may wait first asks gRPC to tell of the call's end, and is listed in its shard. The
 * broker may be asked to cancel only between a successful return of fetch and the run of `done`;
 * rpc->mu makes sure of that: `done` begins with it, and fetch_cancel is called under it. It is
 * recursive because the broker may run `done` from within fetch_cancel.
 */
#include "fetch.h"

#include <string.h>

#include "status_map.h"
#include "transport.h"

#define DEFAULT_RESPONSE_BYTES (3u << 20)

struct fetch {
    struct sti_fetch call;
    struct sti_fetch_row **row_pointers;
    struct sti_fetch_row *rows;
    bool answered; /* done has begun; under rpc->mu */
};

/* @locks rpc->mu held */
static void cancel_locked(struct tgr_rpc *rpc)
{
    struct fetch *fetch = rpc->state;
    if (rpc->with_broker && !fetch->answered) {
        tgr_broker(rpc->t)->fetch_cancel(rpc->t->broker.self, &fetch->call);
    }
}

static void on_close(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    (void)ok;
    pthread_mutex_lock(&rpc->mu);
    rpc->closed = true;
    cancel_locked(rpc);
    pthread_mutex_unlock(&rpc->mu);
    tgr_rpc_unref(rpc);
}

void tgr_fetch_drain(struct tgr_rpc *rpc)
{
    pthread_mutex_lock(&rpc->mu);
    cancel_locked(rpc);
    pthread_mutex_unlock(&rpc->mu);
}

static bool result_fill(struct tgr_rpc *rpc, struct sti_fetch_row *row,
                        Streamit__V1__FetchResult *out)
{
    streamit__v1__fetch_result__init(out);
    out->topic = (char *)row->topic;
    out->partition = row->partition;
    out->high_watermark = row->high_watermark;
    out->last_stable = row->last_stable;
    out->log_start = row->log_start;
    out->leader_epoch = row->current_leader_epoch;
    for (uint32_t s = 0; row->status == STI_OK && s < row->slice_count; s++) {
        if (row->slices[s].data == NULL && row->slices[s].len > 0) {
            row->status = sti_err_set(&row->err, STI_E_INTERNAL,
                                      "topic %s, partition %d: bytes that are not in memory",
                                      row->topic, (int)row->partition);
        }
    }
    if (row->status == STI_OK) {
        return true;
    }
    for (uint32_t s = 0; s < row->slice_count; s++) {
        sti_slice_release(&row->slices[s]);
    }
    row->slice_count = 0;
    out->high_watermark = -1;
    out->error = tgr_error_new(&rpc->arena, row->status, &row->err);
    tgr_error_retry(out->error, row->retry_after_ms);
    if (out->error != NULL && row->status == STI_E_NOT_LEADER) {
        char *hint =
            tgr_leader_hint(rpc, &rpc->arena, row->topic, row->partition, row->leader_hint);
        if (hint != NULL) {
            out->error->leader_hint = hint;
        }
    }
    return out->error != NULL;
}

static int answer(struct tgr_rpc *rpc, struct sti_fetch *call, struct sti_err *err)
{
    Streamit__V1__FetchResult *results =
        tgr_arena_alloc(&rpc->arena, call->row_count, sizeof *results);
    if (results == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    for (uint32_t r = 0; r < call->row_count; r++) {
        if (call->rows[r]->status == STI_E_CANCELLED && atomic_load(&rpc->t->draining)) {
            return sti_err_set(err, STI_E_UNAVAILABLE, "node %d is shutting down",
                               (int)rpc->t->host->node->node_id);
        }
        if (!result_fill(rpc, call->rows[r], &results[r])) {
            return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
        }
    }
    grpc_byte_buffer *out = tgr_fetch_encode(&rpc->arena, call, results);
    if (out == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    tgr_rpc_finish(rpc, out, STI_OK, NULL);
    return STI_OK;
}

static void on_fetched(struct sti_fetch *call)
{
    struct tgr_rpc *rpc = call->user;
    struct fetch *fetch = rpc->state;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    fetch->answered = true;
    bool closed = rpc->closed;
    pthread_mutex_unlock(&rpc->mu);
    tgr_unpark(rpc);
    if (closed) { /* nobody listens */
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
    } else {
        int rc = answer(rpc, call, &err);
        if (rc != STI_OK) {
            tgr_rpc_finish(rpc, NULL, rc, &err);
        }
    }
    sti_fetch_release(call);
    tgr_rpc_unref(rpc);
}

static int row_fill(const Streamit__V1__FetchPartition *from, uint32_t max_bytes,
                    struct sti_fetch_row *row, struct sti_err *err)
{
    *row = (struct sti_fetch_row){.struct_size = sizeof *row,
                                  .partition = from->partition,
                                  .topic = from->topic,
                                  .offset = from->offset,
                                  .max_bytes = max_bytes,
                                  .leader_epoch = -1,
                                  .last_epoch = -1,
                                  .leader_hint = -1,
                                  .high_watermark = -1};
    if (from->max_bytes != 0 && from->max_bytes < max_bytes) {
        row->max_bytes = from->max_bytes;
    }
    if (from->known_leader_epoch_case ==
        STREAMIT__V1__FETCH_PARTITION__KNOWN_LEADER_EPOCH_LEADER_EPOCH) {
        row->leader_epoch = from->leader_epoch;
    }
    if (from->known_last_epoch_case == STREAMIT__V1__FETCH_PARTITION__KNOWN_LAST_EPOCH_LAST_EPOCH) {
        row->last_epoch = from->last_epoch;
    }
    if (from->topic_id.len != 0 && from->topic_id.len != sizeof row->topic_id) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "FetchPartition.topic_id: %zu bytes, expected 16", from->topic_id.len);
    }
    if (from->topic_id.len != 0) {
        memcpy(row->topic_id, from->topic_id.data, sizeof row->topic_id);
    }
    return STI_OK;
}

/* NULL with *err filled when the request is not valid. */
static struct fetch *fetch_new(struct tgr_rpc *rpc, const Streamit__V1__FetchRequest *request,
                               struct sti_err *err)
{
    const struct tgr_conf *conf = rpc->t->conf;
    size_t count = request->n_partitions;
    if (count == 0) {
        (void)sti_err_set(err, STI_E_INVALID_ARGUMENT, "FetchRequest: it names no partition");
        return NULL;
    }
    if (count > (size_t)conf->partitions_per_call_max) {
        (void)sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                          "FetchRequest: %zu partitions, at most %lld in one call", count,
                          (long long)conf->partitions_per_call_max);
        return NULL;
    }
    struct fetch *fetch = tgr_arena_alloc(&rpc->arena, 1, sizeof *fetch);
    struct sti_fetch_row *rows = tgr_arena_alloc(&rpc->arena, count, sizeof *rows);
    struct sti_fetch_row **pointers =
        (struct sti_fetch_row **)tgr_arena_alloc(&rpc->arena, count, sizeof(void *));
    if (fetch == NULL || rows == NULL || pointers == NULL) {
        (void)sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request of %zu partitions", count);
        return NULL;
    }
    uint32_t max_bytes = request->max_bytes == 0 ? DEFAULT_RESPONSE_BYTES : request->max_bytes;
    if ((int64_t)max_bytes > conf->fetch_response_bytes_max) {
        max_bytes = (uint32_t)conf->fetch_response_bytes_max;
    }
    for (size_t i = 0; i < count; i++) {
        if (row_fill(request->partitions[i], max_bytes, &rows[i], err) != STI_OK) {
            return NULL;
        }
        pointers[i] = &rows[i];
    }
    fetch->rows = rows;
    fetch->row_pointers = pointers;
    fetch->call = (struct sti_fetch){.struct_size = sizeof fetch->call,
                                     .flags = STI_FETCH_MEMORY,
                                     .request = &rpc->request,
                                     .rows = pointers,
                                     .row_count = (uint32_t)count,
                                     .max_bytes = max_bytes,
                                     .min_bytes = request->min_bytes == 0 ? 1 : request->min_bytes,
                                     .max_wait_ms = request->max_wait_ms,
                                     .isolation = request->read_committed ? STI_READ_COMMITTED
                                                                          : STI_READ_UNCOMMITTED,
                                     .done = on_fetched,
                                     .user = rpc};
    return fetch;
}

/* Give the call to the broker. Takes over one reference. */
static void fetch_begin(struct tgr_rpc *rpc, struct fetch *fetch)
{
    struct tgr_transport *t = rpc->t;
    struct sti_err err;
    sti_err_clear(&err);
    rpc->state = fetch;
    if (fetch->call.max_wait_ms > 0) {
        if (tgr_rpc_watch_close(rpc, on_close) != STI_OK) {
            tgr_rpc_unref(rpc);
            return;
        }
        tgr_park(rpc);
    }
    tgr_rpc_ref(rpc); /* the broker's */
    int rc = tgr_broker(t)->fetch(t->broker.self, &fetch->call, &err);
    if (rc != STI_OK) {
        tgr_unpark(rpc);
        tgr_rpc_finish(rpc, NULL, rc, &err);
        tgr_rpc_unref(rpc);
    } else {
        pthread_mutex_lock(&rpc->mu);
        rpc->with_broker = true;
        if (rpc->closed || atomic_load(&t->draining)) {
            cancel_locked(rpc);
        }
        pthread_mutex_unlock(&rpc->mu);
    }
    tgr_rpc_unref(rpc);
}

void tgr_fetch_handle(struct tgr_rpc *rpc)
{
    struct sti_err err;
    Streamit__V1__FetchRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__fetch_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    sti_err_clear(&err);
    struct fetch *fetch = fetch_new(rpc, request, &err);
    if (fetch == NULL) {
        tgr_rpc_finish(rpc, NULL, err.code, &err);
        tgr_rpc_unref(rpc);
        return;
    }
    fetch_begin(rpc, fetch);
}
