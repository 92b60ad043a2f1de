/* fetch.c -- Fetch: a long poll that ends with data, time, the client's departure, or drain.
 *
 * A fetch that may wait first asks gRPC to tell of the call's end, and is listed in its shard. The
 * broker may be asked to cancel only between a successful return of fetch and the run of `done`;
 * rpc->mu makes sure of that: `done` begins with it, and fetch_cancel is called under it. It is
 * recursive because the broker may run `done` from within fetch_cancel.
 *
 * Many bytes to decode are work for the executor, not for the thread that runs `done`.
 */
#include "fetch.h"

#include <string.h>

#include "batches.h"
#include "status_map.h"

enum {
    RESPONSE_BYTES_DEFAULT = 3 << 20, /* of a whole message: stock clients take 4 MiB */
    RESPONSE_BYTES_MIN = 64 << 10,
    ROW_BYTES = 96 /* of a row without its topic, as a message */
};

/* ---- the request ---- */

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

/* How many bytes of batches or records the message may hold. */
static uint32_t bytes_max(const struct tgr_conf *conf, const Streamit__V1__FetchRequest *request,
                          uint32_t bytes_default)
{
    uint64_t bytes = request->max_bytes;
    if (bytes == 0) { /* the default is of the whole message */
        uint64_t rows = 0;
        for (size_t i = 0; i < request->n_partitions; i++) {
            rows += ROW_BYTES + strlen(request->partitions[i]->topic);
        }
        bytes =
            bytes_default > rows + RESPONSE_BYTES_MIN ? bytes_default - rows : RESPONSE_BYTES_MIN;
    }
    uint64_t most = (uint64_t)conf->fetch_response_bytes_max;
    return (uint32_t)(bytes < most ? bytes : most);
}

static struct tgr_fetch *fetch_make(struct tgr_rpc *rpc, const Streamit__V1__FetchRequest *request,
                                    uint32_t max_bytes, struct sti_err *err)
{
    size_t count = request->n_partitions;
    struct tgr_fetch *fetch = tgr_arena_alloc(&rpc->arena, 1, sizeof *fetch);
    struct sti_fetch_row *rows = tgr_arena_alloc(&rpc->arena, count, sizeof *rows);
    struct sti_fetch_row **pointers =
        (struct sti_fetch_row **)tgr_arena_alloc(&rpc->arena, count, sizeof(void *));
    if (fetch == NULL || rows == NULL || pointers == NULL) {
        (void)sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request of %zu partitions", count);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (row_fill(request->partitions[i], max_bytes, &rows[i], err) != STI_OK) {
            return NULL;
        }
        pointers[i] = &rows[i];
    }
    fetch->rpc = rpc;
    fetch->rows = rows;
    fetch->row_pointers = pointers;
    fetch->decode = request->decode != 0;
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
                                     .user = fetch};
    return fetch;
}

struct tgr_fetch *tgr_fetch_new(struct tgr_rpc *rpc, uint32_t bytes_default,
                                void (*done)(struct sti_fetch *call))
{
    const struct tgr_conf *conf = rpc->t->conf;
    struct tgr_fetch *fetch = NULL;
    struct sti_err err;
    Streamit__V1__FetchRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__fetch_request__descriptor);
    if (request == NULL) {
        return NULL;
    }
    sti_err_clear(&err);
    if (request->n_partitions == 0) {
        (void)sti_err_set(&err, STI_E_INVALID_ARGUMENT,
                          "FetchRequest.partitions: it names no partition");
    } else if (request->n_partitions > (size_t)conf->partitions_per_call_max) {
        (void)sti_err_set(&err, STI_E_RESOURCE_EXHAUSTED,
                          "FetchRequest.partitions: %zu partitions, at most %lld in one call",
                          request->n_partitions, (long long)conf->partitions_per_call_max);
    } else {
        fetch = fetch_make(rpc, request, bytes_max(conf, request, bytes_default), &err);
    }
    if (fetch == NULL) {
        tgr_rpc_finish(rpc, NULL, err.code, &err);
        return NULL;
    }
    fetch->call.done = done;
    rpc->state = fetch;
    return fetch;
}

/* ---- rows out ---- */

static bool in_memory(const struct sti_fetch_row *row)
{
    bool all = true;
    for (uint32_t s = 0; s < row->slice_count; s++) {
        all = all && (row->slices[s].data != NULL || row->slices[s].len == 0);
    }
    return all;
}

bool tgr_fetch_is_work(const struct tgr_fetch *fetch)
{
    const struct sti_fetch *call = &fetch->call;
    uint64_t bytes = 0;
    bool work = false;
    for (uint32_t r = 0; fetch->decode && !work && r < call->row_count; r++) {
        const struct sti_fetch_row *row = call->rows[r];
        bytes += sti_slices_len(row->slices, row->slice_count);
        work = bytes > TGR_INLINE_BYTES || !in_memory(row) ||
               tgr_batches_compressed(row->slices, row->slice_count);
    }
    return work;
}

static void row_release(struct sti_fetch_row *row)
{
    for (uint32_t s = 0; s < row->slice_count; s++) {
        sti_slice_release(&row->slices[s]);
    }
    row->slice_count = 0;
}

/* Bytes that cannot be sent are an error of the row. */
static void row_check(const struct tgr_transport *t, struct sti_fetch_row *row)
{
    uint64_t copied = 0;
    for (uint32_t s = 0; row->status == STI_OK && s < row->slice_count; s++) {
        const struct sti_slice *slice = &row->slices[s];
        copied += slice->owner == NULL ? slice->len : 0; /* see fetch_encode.c */
    }
    if (row->status == STI_OK && !in_memory(row)) {
        row->status = sti_err_set(&row->err, STI_E_INTERNAL,
                                  "topic %s, partition %d: bytes that are not in memory",
                                  row->topic, (int)row->partition);
    }
    sti_metric_add(t->copied_bytes, copied);
}

static void row_decode(const struct tgr_transport *t, struct sti_fetch_row *row, uint64_t left,
                       bool first, struct tgr_fetch_out *out)
{
    struct tgr_decoding d = {.slices = row->slices,
                             .slice_count = row->slice_count,
                             .offset = row->offset,
                             .bytes_max = row->max_bytes < left ? row->max_bytes : left,
                             .one_at_least = first};
    int rc = tgr_batches_decode(&d, &row->err);
    if (rc != STI_OK) {
        row->status =
            sti_err_wrap(&row->err, rc, "topic %s, partition %d", row->topic, (int)row->partition);
    }
    sti_metric_add(t->copied_bytes, d.copied);
    out->records = d.records;
    out->result.next_offset = d.next_offset;
    out->last_epoch = d.last_epoch;
    row_release(row);
}

/* Keep the first `len` bytes. */
static void row_cut(struct sti_fetch_row *row, uint64_t len)
{
    uint32_t kept = 0;
    while (kept < row->slice_count && len > 0) {
        struct sti_slice *slice = &row->slices[kept++];
        slice->len = slice->len < len ? slice->len : len;
        len -= slice->len;
    }
    for (uint32_t s = kept; s < row->slice_count; s++) {
        sti_slice_release(&row->slices[s]);
    }
    row->slice_count = kept;
}

/* Where to go on. A stream goes on by itself: the whole batches before a damaged one leave alone,
 * and the next round, which begins at that one, finds no going on behind it. */
static void row_walk(const struct tgr_fetch *fetch, struct sti_fetch_row *row,
                     struct tgr_fetch_out *out)
{
    uint64_t whole =
        tgr_batches_end(row->slices, row->slice_count, &out->result.next_offset, &out->last_epoch);
    bool stuck = row->slice_count > 0 && out->result.next_offset <= row->offset;
    if (fetch->streamed && !stuck) {
        row_cut(row, whole);
    } else if (fetch->streamed) {
        row->status = sti_err_set(&row->err, STI_E_DATA_LOSS,
                                  "topic %s, partition %d: damaged batches at offset %lld",
                                  row->topic, (int)row->partition, (long long)row->offset);
        out->result.next_offset = row->offset;
    }
}

static int error_fill(struct tgr_rpc *rpc, struct tgr_arena *arena, struct sti_fetch_row *row,
                      Streamit__V1__FetchResult *result, struct sti_err *err)
{
    row_release(row);
    result->high_watermark = -1;
    result->error = tgr_error_new(arena, row->status, &row->err);
    if (result->error == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    tgr_error_retry(result->error, row->retry_after_ms);
    if (row->status == STI_E_NOT_LEADER) {
        char *hint = tgr_leader_hint(rpc, arena, row->topic, row->partition, row->leader_hint);
        if (hint != NULL) {
            result->error->leader_hint = hint;
        }
    }
    return STI_OK;
}

int tgr_fetch_out(struct tgr_fetch *fetch, struct tgr_arena *arena, struct sti_fetch_row *row,
                  uint64_t *left, bool first, struct tgr_fetch_out *out, struct sti_err *err)
{
    struct tgr_rpc *rpc = fetch->rpc;
    Streamit__V1__FetchResult *result = &out->result;
    *out = (struct tgr_fetch_out){
        .row = row, .decoded = fetch->decode, .records = grpc_empty_slice(), .last_epoch = -1};
    streamit__v1__fetch_result__init(result);
    result->topic = (char *)row->topic;
    result->partition = row->partition;
    result->high_watermark = row->high_watermark;
    result->last_stable = row->last_stable;
    result->log_start = row->log_start;
    result->leader_epoch = row->current_leader_epoch;
    result->next_offset = row->offset;
    row_check(rpc->t, row);
    if (row->status == STI_OK && fetch->decode && row->slice_count > 0) {
        row_decode(rpc->t, row, *left, first, out);
    } else if (row->status == STI_OK) {
        row_walk(fetch, row, out);
    }
    uint64_t used = GRPC_SLICE_LENGTH(out->records);
    *left -= used < *left ? used : *left;
    return row->status == STI_OK ? STI_OK : error_fill(rpc, arena, row, result, err);
}

void tgr_fetch_out_free(struct tgr_fetch_out *outs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        grpc_slice_unref(outs[i].records);
        outs[i].records = grpc_empty_slice();
    }
}

/* ---- Fetch ---- */

void tgr_fetch_cancel(struct tgr_rpc *rpc)
{
    struct tgr_fetch *fetch = rpc->state;
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
    tgr_fetch_cancel(rpc);
    pthread_mutex_unlock(&rpc->mu);
    tgr_rpc_unref(rpc);
}

void tgr_fetch_drain(struct tgr_rpc *rpc)
{
    pthread_mutex_lock(&rpc->mu);
    tgr_fetch_cancel(rpc);
    pthread_mutex_unlock(&rpc->mu);
}

static int answer(struct tgr_rpc *rpc, struct tgr_fetch *fetch, struct sti_err *err)
{
    struct sti_fetch *call = &fetch->call;
    uint64_t left = call->max_bytes;
    uint32_t count = 0;
    bool first = true;
    struct tgr_fetch_out *outs = tgr_arena_alloc(&rpc->arena, call->row_count, sizeof *outs);
    int rc = STI_OK;
    if (outs == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    for (; rc == STI_OK && count < call->row_count; count++) {
        struct sti_fetch_row *row = call->rows[count];
        if (row->status == STI_E_CANCELLED && atomic_load(&rpc->t->draining)) {
            rc = sti_err_set(err, STI_E_UNAVAILABLE, "node %d is shutting down",
                             (int)rpc->t->host->node->node_id);
            break;
        }
        rc = tgr_fetch_out(fetch, &rpc->arena, row, &left, first, &outs[count], err);
        first = first && GRPC_SLICE_LENGTH(outs[count].records) == 0;
    }
    grpc_byte_buffer *out = rc == STI_OK ? tgr_fetch_encode(&rpc->arena, outs, count) : NULL;
    tgr_fetch_out_free(outs, count);
    if (rc == STI_OK && out == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    if (rc == STI_OK) {
        tgr_rpc_finish(rpc, out, STI_OK, NULL);
    }
    return rc;
}

/* The broker is done with the call: answer it. */
static void finish(struct tgr_fetch *fetch)
{
    struct tgr_rpc *rpc = fetch->rpc;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    bool closed = rpc->closed;
    pthread_mutex_unlock(&rpc->mu);
    if (closed) { /* nobody listens */
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
    } else {
        int rc = answer(rpc, fetch, &err);
        if (rc != STI_OK) {
            tgr_rpc_finish(rpc, NULL, rc, &err);
        }
    }
    sti_fetch_release(&fetch->call);
    tgr_rpc_unref(rpc);
}

static void on_task(struct sti_task *task)
{
    finish((struct tgr_fetch *)(void *)task);
}

static void on_fetched(struct sti_fetch *call)
{
    struct tgr_fetch *fetch = call->user;
    struct tgr_rpc *rpc = fetch->rpc;
    const struct sti_host *host = rpc->t->host;
    pthread_mutex_lock(&rpc->mu);
    fetch->answered = true;
    pthread_mutex_unlock(&rpc->mu);
    tgr_unpark(rpc);
    if (tgr_fetch_is_work(fetch)) {
        fetch->task.run = on_task;
        host->post(host->ctx, &fetch->task);
    } else {
        finish(fetch);
    }
}

/* Give the call to the broker. Takes over one reference. */
static void fetch_begin(struct tgr_rpc *rpc, struct tgr_fetch *fetch)
{
    struct tgr_transport *t = rpc->t;
    struct sti_err err;
    sti_err_clear(&err);
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
            tgr_fetch_cancel(rpc);
        }
        pthread_mutex_unlock(&rpc->mu);
    }
    tgr_rpc_unref(rpc);
}

void tgr_fetch_handle(struct tgr_rpc *rpc)
{
    struct tgr_fetch *fetch = tgr_fetch_new(rpc, RESPONSE_BYTES_DEFAULT, on_fetched);
    if (fetch == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    fetch_begin(rpc, fetch);
}
