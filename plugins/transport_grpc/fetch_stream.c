/* fetch_stream.c -- FetchStream: one fetch after the other, each a message of the stream.
 *
 *     fetch -> done -> [decode] -> message -> written -> fetch ...
 *
 * Everything happens one step after the other: while a message is on its way nothing is read, so a
 * client that does not read pins one message. A row is news when it has batches (or records) or an
 * error; after max_wait_ms without news an empty message says that the stream lives. A row with an
 * error is the last of its partition. Rows take turns at being the first that the broker reads, so
 * that a partition with much to read does not keep the others waiting. THROTTLED is no end: the
 * stream itself waits as it is told, but no longer than max_wait_ms: a longer wait is news.
 *
 * `round` counts calls to the broker: what comes back late from one round must not cancel the next.
 */
#include <string.h>

#include "fetch.h"
#include "status_map.h"

enum { MESSAGE_BYTES_DEFAULT = 1 << 20, WAIT_MS_DEFAULT = 30000 };

static void begin(struct tgr_fetch *fetch);
static void on_written(struct tgr_tag *tag, bool ok);

/* End the stream, once; drops its reference. */
static void end(struct tgr_fetch *fetch, int code, const struct sti_err *err)
{
    struct tgr_rpc *rpc = fetch->rpc;
    tgr_unpark(rpc);
    pthread_mutex_lock(&rpc->mu);
    bool mine = !fetch->ended;
    fetch->ended = true;
    if (mine && rpc->closed) { /* nobody listens */
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
    } else if (mine) {
        tgr_rpc_finish(rpc, NULL, code, err);
    }
    pthread_mutex_unlock(&rpc->mu);
    tgr_arena_fini(&fetch->scratch);
    if (mine) {
        tgr_rpc_unref(rpc);
    }
}

static bool draining(struct tgr_fetch *fetch, struct sti_err *err)
{
    const struct tgr_transport *t = fetch->rpc->t;
    if (!atomic_load(&t->draining)) {
        return false;
    }
    (void)sti_err_set(err, STI_E_UNAVAILABLE, "node %d is shutting down",
                      (int)t->host->node->node_id);
    return true;
}

/* The broker asks for patience: no news of the row yet. For longer than a stream may be silent it
 * is news, and the row leaves with it: whoever shall wait so long is told why. */
static void throttle(struct tgr_fetch *fetch, struct sti_fetch_row *row)
{
    uint32_t ms = row->retry_after_ms == 0 ? TGR_RETRY_AFTER_MS : row->retry_after_ms;
    if (ms > fetch->call.max_wait_ms) {
        return;
    }
    fetch->pause_ms = ms > fetch->pause_ms ? ms : fetch->pause_ms;
    row->status = STI_OK;
    row->high_watermark = -1;
}

static void on_pause_over(struct sti_task *task)
{
    struct tgr_fetch *fetch =
        (struct tgr_fetch *)(void *)((char *)task - offsetof(struct tgr_fetch, pause.task));
    struct tgr_rpc *rpc = fetch->rpc;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    fetch->pausing = false;
    bool closed = rpc->closed;
    pthread_mutex_unlock(&rpc->mu);
    if (closed || draining(fetch, &err)) {
        end(fetch, STI_E_UNAVAILABLE, &err);
    } else {
        begin(fetch);
    }
}

/* The next round, after the pause that was asked for. */
static void begin_later(struct tgr_fetch *fetch)
{
    struct tgr_rpc *rpc = fetch->rpc;
    const struct sti_host *host = rpc->t->host;
    uint64_t due_us = sti_now_us(host) + (uint64_t)fetch->pause_ms * 1000u;
    fetch->pause_ms = 0;
    pthread_mutex_lock(&rpc->mu);
    fetch->pausing = true;
    fetch->pause = (struct sti_timer){.task.run = on_pause_over};
    /* Who closes the call or drains from now on finds it pausing; who did before is found here. */
    bool over = rpc->closed || atomic_load(&rpc->t->draining);
    host->timer_arm(host->ctx, &fetch->pause, over ? 0 : due_us);
    pthread_mutex_unlock(&rpc->mu);
}

/* Have a pause end now. @locks rpc->mu held */
static void pause_cut(struct tgr_fetch *fetch)
{
    const struct sti_host *host = fetch->rpc->t->host;
    if (fetch->pausing && host->timer_cancel(host->ctx, &fetch->pause)) {
        fetch->pause = (struct sti_timer){.task.run = on_pause_over};
        host->timer_arm(host->ctx, &fetch->pause, 0);
    }
}

/* ---- a message ---- */

/* What was handed out of a row is not read again; a row with an error leaves. */
static void move_on(struct sti_fetch *call, struct tgr_fetch *fetch,
                    const struct tgr_fetch_out *outs, size_t count)
{
    uint32_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        struct sti_fetch_row *row = outs[i].row;
        row->offset = outs[i].result.next_offset;
        if (outs[i].last_epoch >= 0) {
            row->last_epoch = outs[i].last_epoch;
        }
        if (row->status == STI_OK) {
            fetch->row_pointers[kept++] = row;
        }
    }
    if (kept > 1) { /* the next is the first now */
        struct sti_fetch_row *first = fetch->row_pointers[0];
        memmove((void *)fetch->row_pointers, (void *)(fetch->row_pointers + 1),
                (kept - 1) * sizeof(void *));
        fetch->row_pointers[kept - 1] = first;
    }
    call->row_count = kept;
}

/* The rows with news, in front. @return how many */
static size_t sift(struct tgr_fetch_out *outs, struct tgr_fetch_out *news, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (outs[i].row->status != STI_OK || outs[i].row->slice_count > 0 ||
            GRPC_SLICE_LENGTH(outs[i].records) > 0) {
            news[n++] = outs[i];
            outs[i].records = grpc_empty_slice(); /* moved */
        }
    }
    return n;
}

static int send(struct tgr_fetch *fetch, grpc_byte_buffer *out)
{
    struct tgr_rpc *rpc = fetch->rpc;
    struct tgr_method_metrics *metrics = &rpc->t->metrics[rpc->method];
    grpc_op op;
    memset(&op, 0, sizeof op);
    pthread_mutex_lock(&rpc->mu);
    rpc->out = out; /* freed when written, or with the call */
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = out;
    sti_metric_add(metrics->sent_bytes, grpc_byte_buffer_length(out));
    sti_metric_add(metrics->sent_messages, 1);
    fetch->writing = true;
    int rc = tgr_rpc_batch(rpc, &op, 1, &rpc->tag_write, on_written);
    pthread_mutex_unlock(&rpc->mu);
    return rc;
}

/* Make a message of what the broker has answered. @param sent  out: false when there is nothing to
 * say yet */
static int answer(struct tgr_fetch *fetch, bool *sent, struct sti_err *err)
{
    struct sti_fetch *call = &fetch->call;
    struct tgr_arena *arena = &fetch->scratch;
    uint64_t left = call->max_bytes;
    bool first = true, progress = false;
    size_t count = 0;
    struct tgr_fetch_out *outs = tgr_arena_alloc(arena, call->row_count, sizeof *outs);
    struct tgr_fetch_out *news = tgr_arena_alloc(arena, call->row_count, sizeof *news);
    int rc = STI_OK;
    if (outs == NULL || news == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    for (; rc == STI_OK && count < call->row_count; count++) {
        struct sti_fetch_row *row = call->rows[count];
        if (row->status == STI_E_THROTTLED) {
            throttle(fetch, row);
        }
        rc = tgr_fetch_out(fetch, arena, row, &left, first, &outs[count], err);
        first = first && GRPC_SLICE_LENGTH(outs[count].records) == 0;
        progress = progress || outs[count].result.next_offset != row->offset;
    }
    size_t n = rc == STI_OK ? sift(outs, news, count) : 0;
    uint64_t silent_ms = fetch->silent_ms + fetch->pause_ms;
    *sent = n > 0 || (!progress && fetch->pause_ms == 0) || silent_ms > call->max_wait_ms;
    fetch->silent_ms = *sent ? 0 : silent_ms; /* not sent: go on reading */
    grpc_byte_buffer *out = rc == STI_OK && *sent ? tgr_fetch_encode(arena, news, n) : NULL;
    if (rc == STI_OK && *sent && out == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory for a response");
    }
    if (rc == STI_OK) {
        move_on(call, fetch, outs, count);
    }
    tgr_fetch_out_free(outs, count);
    tgr_fetch_out_free(news, n);
    sti_fetch_release(call);
    tgr_arena_fini(arena);
    if (rc == STI_OK && *sent) {
        rc = send(fetch, out);
    }
    return rc;
}

static void on_begin_task(struct sti_task *task)
{
    begin((struct tgr_fetch *)(void *)task);
}

/* The broker is done with this round. */
static void step(struct tgr_fetch *fetch)
{
    struct tgr_rpc *rpc = fetch->rpc;
    const struct sti_host *host = rpc->t->host;
    struct sti_err err;
    bool sent = false;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    bool closed = rpc->closed;
    pthread_mutex_unlock(&rpc->mu);
    bool stop = closed || draining(fetch, &err);
    int rc = stop ? STI_E_UNAVAILABLE : answer(fetch, &sent, &err);
    if (rc != STI_OK) {
        sti_fetch_release(&fetch->call);
        end(fetch, rc, &err);
    } else if (!sent && fetch->pause_ms > 0) {
        begin_later(fetch);
    } else if (!sent) {
        fetch->task.run = on_begin_task; /* not from here: the broker may answer at once again */
        host->post(host->ctx, &fetch->task);
    }
}

static void on_step_task(struct sti_task *task)
{
    step((struct tgr_fetch *)(void *)task);
}

static void on_fetched(struct sti_fetch *call)
{
    struct tgr_fetch *fetch = call->user;
    struct tgr_rpc *rpc = fetch->rpc;
    const struct sti_host *host = rpc->t->host;
    pthread_mutex_lock(&rpc->mu);
    fetch->answered = true;
    pthread_mutex_unlock(&rpc->mu);
    if (tgr_fetch_is_work(fetch)) {
        fetch->task.run = on_step_task;
        host->post(host->ctx, &fetch->task);
    } else {
        step(fetch);
    }
}

static void on_written(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct tgr_fetch *fetch = rpc->state;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    grpc_byte_buffer_destroy(rpc->out);
    rpc->out = NULL;
    fetch->writing = false;
    bool closed = rpc->closed || !ok;
    pthread_mutex_unlock(&rpc->mu);
    if (closed) {
        end(fetch, STI_E_CANCELLED, NULL);
    } else if (draining(fetch, &err)) {
        end(fetch, STI_E_UNAVAILABLE, &err);
    } else if (fetch->call.row_count == 0) { /* no partition is left */
        end(fetch, STI_OK, NULL);
    } else if (fetch->pause_ms > 0) {
        begin_later(fetch);
    } else {
        begin(fetch);
    }
    tgr_rpc_unref(rpc);
}

/* ---- a round ---- */

static void begin(struct tgr_fetch *fetch)
{
    struct tgr_rpc *rpc = fetch->rpc;
    struct tgr_transport *t = rpc->t;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&rpc->mu);
    fetch->answered = false;
    rpc->with_broker = false;
    uint64_t round = ++fetch->round;
    pthread_mutex_unlock(&rpc->mu);
    fetch->call.state[0] = fetch->call.state[1] = NULL;
    tgr_rpc_ref(rpc); /* the stream may end within the call */
    int rc = tgr_broker(t)->fetch(t->broker.self, &fetch->call, &err);
    if (rc != STI_OK) {
        end(fetch, rc, &err);
    } else {
        pthread_mutex_lock(&rpc->mu);
        if (fetch->round == round && !fetch->answered) {
            rpc->with_broker = true;
            if (rpc->closed || atomic_load(&t->draining)) {
                tgr_fetch_cancel(rpc);
            }
        }
        pthread_mutex_unlock(&rpc->mu);
    }
    tgr_rpc_unref(rpc);
}

static void on_close(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    (void)ok;
    pthread_mutex_lock(&rpc->mu);
    rpc->closed = true;
    tgr_fetch_cancel(rpc);
    pause_cut(rpc->state);
    pthread_mutex_unlock(&rpc->mu);
    tgr_rpc_unref(rpc);
}

void tgr_fetch_stream_drain(struct tgr_rpc *rpc)
{
    pthread_mutex_lock(&rpc->mu);
    tgr_fetch_cancel(rpc);
    pause_cut(rpc->state);
    pthread_mutex_unlock(&rpc->mu);
}

void tgr_fetch_stream_handle(struct tgr_rpc *rpc)
{
    struct tgr_fetch *fetch = tgr_fetch_new(rpc, MESSAGE_BYTES_DEFAULT, on_fetched);
    if (fetch == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    fetch->streamed = true;
    if (fetch->call.max_wait_ms == 0) {
        fetch->call.max_wait_ms = WAIT_MS_DEFAULT;
    }
    if (tgr_rpc_watch_close(rpc, on_close) != STI_OK) {
        tgr_rpc_unref(rpc);
        return;
    }
    tgr_park(rpc);
    pthread_mutex_lock(&rpc->mu);
    tgr_rpc_open(rpc);
    pthread_mutex_unlock(&rpc->mu);
    begin(fetch);
}
