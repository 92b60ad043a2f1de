/* produce_stream.c -- ProduceStream: many requests under way on one call, answered cumulatively.
 *
 *     on_read -> queued -> [one runner: decode, encode records, admission, chains] -> with the
 *     broker -> done (any thread) -> answered -> one message at a time -> written
 *
 * Order. Messages are queued in the order in which they were read, and one runner at a time takes
 * them from the queue, so they reach the broker in that order, whichever threads run it. A runner
 * that would have to wait (for room in the broker) or to work for long (encoding many records)
 * hands its role to the executor and leaves; `busy` stays set.
 *
 * Answers. While a message is being written the answers that come are only gathered; the next one
 * carries all of them. Those that come on a poller, because the broker answered at once, wait until
 * that has nothing else to do (slot.c): requests that have arrived together are answered together.
 *
 * Backpressure. A request counts from when it was read until its answer has been written, so a
 * client that does not read its answers is not read from. With as many as the option allows, with
 * two that wait for the runner, or while the broker has no room, nothing more is read.
 *
 * The end. `ended` is set by the client's half-close, a message that is not valid, drain, or the
 * loss of the call. What is with the broker is waited for, in any case; then `settle` sends the
 * status, once, and drops the stream's reference.
 */
#include <grpc/byte_buffer.h>
#include <string.h>

#include "chains.h"
#include "produce.h"
#include "transport.h"

enum { QUEUED_MAX = 2, RESPONSE_BYTES_MAX = 1 << 20 };

/* One request. */
struct item {
    struct stream *stream;
    struct item *next, *prev; /* of the list that it is on */
    struct tgr_arena arena;
    grpc_byte_buffer *payload; /* until answered */
    struct tgr_produce *produce;
    struct tgr_batches batches;
    struct sti_request request;
    uint32_t retry_after_ms; /* the broker's word when it refuses the whole call */
    bool opened, encoded;
};

struct item_list {
    struct item *head, *tail;
};

struct stream {
    struct sti_task task; /* first: the runner, on the executor */
    struct tgr_rpc *rpc;
    struct sti_admit admit;
    struct item *current; /* that the runner left; only the runner looks */
    /* What follows: rpc->mu. */
    struct item_list queued, open, answered;
    uint32_t queued_count, answered_count;
    uint32_t count;         /* read, and answer not written */
    uint32_t writing_count; /* of them in the message under way */
    bool reading, busy, writing, ended, settled;
    int end_code;
    struct sti_err end_err;
    uint64_t last_id, last_answered, through;
    struct tgr_chains chains;
};

static void run_from(struct stream *stream, bool on_executor);
static void on_read(struct tgr_tag *tag, bool ok);
static void on_written(struct tgr_tag *tag, bool ok);

/* ---- items ---- */

static void list_push(struct item_list *list, struct item *item)
{
    item->next = NULL;
    item->prev = list->tail;
    *(list->tail == NULL ? &list->head : &list->tail->next) = item;
    list->tail = item;
}

static void list_remove(struct item_list *list, struct item *item)
{
    *(item->prev == NULL ? &list->head : &item->prev->next) = item->next;
    *(item->next == NULL ? &list->tail : &item->next->prev) = item->prev;
}

static struct item *list_pop(struct item_list *list)
{
    struct item *item = list->head;
    if (item != NULL) {
        list_remove(list, item);
    }
    return item;
}

/* Takes the payload over. NULL when memory ran out; the payload is then gone. */
static struct item *item_new(struct stream *stream, grpc_byte_buffer *payload)
{
    struct tgr_arena arena = {.blocks = NULL};
    struct item *item = tgr_arena_alloc(&arena, 1, sizeof *item);
    if (item == NULL) {
        grpc_byte_buffer_destroy(payload);
        return NULL;
    }
    item->stream = stream;
    item->arena = arena; /* which holds the item itself */
    item->payload = payload;
    item->request = stream->rpc->request;
    item->request.received_us = sti_now_us(stream->rpc->t->host);
    item->request.retry_after_ms = &item->retry_after_ms;
    return item;
}

/* The broker has let go of the bytes. */
static void item_release(struct item *item)
{
    if (item->payload != NULL) {
        grpc_byte_buffer_destroy(item->payload);
        item->payload = NULL;
    }
    tgr_batches_free(&item->batches);
}

static void item_free(struct item *item)
{
    item_release(item);
    struct tgr_arena arena = item->arena;
    tgr_arena_fini(&arena);
}

/* ---- the end ---- */

/* Requests that no longer count. @locks rpc->mu held */
static void forget(struct stream *stream, uint32_t count)
{
    stream->count -= count;
    sti_metric_sub(stream->rpc->t->stream_requests, count);
}

/* @locks rpc->mu held */
static void drop_all(struct stream *stream, struct item_list *list, uint32_t *count)
{
    struct item *item;
    while ((item = list_pop(list)) != NULL) {
        item_free(item);
    }
    forget(stream, *count);
    *count = 0;
}

/* Read nothing more; end with `code` once all is answered. The first reason counts.
 * @locks rpc->mu held */
static void end_locked(struct stream *stream, int code, const struct sti_err *err)
{
    if (!stream->ended) {
        stream->ended = true;
        stream->end_code = code;
        if (err != NULL) {
            stream->end_err = *err;
        }
    }
}

/* End the call when nothing is left to do. Unlocks rpc->mu; the stream may be gone afterwards. */
static void settle_unlock(struct stream *stream)
{
    struct tgr_rpc *rpc = stream->rpc;
    bool settled = stream->ended && !stream->busy && !stream->writing && !stream->settled &&
                   stream->queued.head == NULL && stream->open.head == NULL &&
                   stream->answered.head == NULL;
    if (settled) {
        stream->settled = true;
        tgr_chains_fini(&stream->chains);
        if (rpc->closed) { /* nobody listens */
            tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
        } else {
            tgr_rpc_finish(rpc, NULL, stream->end_code, &stream->end_err);
        }
    }
    pthread_mutex_unlock(&rpc->mu);
    if (settled) {
        tgr_unpark(rpc);
        tgr_rpc_unref(rpc);
    }
}

/* ---- reading ---- */

/* @locks rpc->mu held */
static void read_start(struct stream *stream)
{
    struct tgr_rpc *rpc = stream->rpc;
    grpc_op op;
    if (stream->reading || stream->ended || stream->queued_count >= QUEUED_MAX ||
        (int64_t)stream->count >= rpc->t->conf->stream_requests_max) {
        return;
    }
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &rpc->payload;
    stream->reading = tgr_rpc_batch(rpc, &op, 1, &rpc->tag_read, on_read) == STI_OK;
    if (!stream->reading) {
        end_locked(stream, STI_E_INTERNAL, NULL);
    }
}

static void on_read(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct stream *stream = rpc->state;
    pthread_mutex_lock(&rpc->mu);
    grpc_byte_buffer *payload = rpc->payload;
    rpc->payload = NULL;
    stream->reading = false;
    if (!ok || payload == NULL || stream->ended) { /* half-closed, lost, or too late */
        if (payload != NULL) {
            grpc_byte_buffer_destroy(payload);
        }
        end_locked(stream, STI_OK, NULL);
        settle_unlock(stream);
        tgr_rpc_unref(rpc);
        return;
    }
    sti_metric_add(rpc->t->metrics[rpc->method].received_bytes, grpc_byte_buffer_length(payload));
    sti_metric_add(rpc->t->metrics[rpc->method].received_messages, 1);
    struct item *item = item_new(stream, payload);
    if (item == NULL) {
        end_locked(stream, STI_E_NO_MEMORY, NULL);
    } else {
        list_push(&stream->queued, item);
        stream->queued_count++;
        stream->count++;
        sti_metric_add(rpc->t->stream_requests, 1);
    }
    read_start(stream);
    bool busy = stream->busy;
    stream->busy = true;
    if (busy) {
        settle_unlock(stream);
    } else {
        pthread_mutex_unlock(&rpc->mu);
        run_from(stream, false);
    }
    tgr_rpc_unref(rpc);
}

/* ---- answering ---- */

/* Results of the answered items, as many as fit in one message; at least one. NULL when memory ran
 * out. */
static grpc_byte_buffer *pack_answers(struct stream *stream, struct tgr_arena *arena,
                                      uint64_t through, size_t *count)
{
    Streamit__V1__ProduceStreamResponse response = STREAMIT__V1__PRODUCE_STREAM_RESPONSE__INIT;
    Streamit__V1__ProduceStreamResult *results = tgr_arena_alloc(arena, *count, sizeof *results);
    response.results =
        (Streamit__V1__ProduceStreamResult **)tgr_arena_alloc(arena, *count, sizeof(void *));
    if (results == NULL || response.results == NULL) {
        return NULL;
    }
    size_t bytes = 0;
    struct item *item = stream->answered.head;
    for (; item != NULL && (response.n_results == 0 || bytes < RESPONSE_BYTES_MAX);
         item = item->next) {
        Streamit__V1__ProduceStreamResult *result = &results[response.n_results];
        streamit__v1__produce_stream_result__init(result);
        result->id = item->produce->id;
        result->n_partitions = item->produce->call.row_count;
        result->partitions = tgr_produce_results(stream->rpc, arena, &item->produce->call);
        if (result->partitions == NULL) {
            return NULL;
        }
        bytes += streamit__v1__produce_stream_result__get_packed_size(result);
        response.results[response.n_results++] = result;
    }
    for (; item != NULL; item = item->next) { /* what does not fit is not answered yet */
        through = item->produce->id - 1 < through ? item->produce->id - 1 : through;
    }
    *count = response.n_results;
    response.through = stream->through = through > stream->through ? through : stream->through;
    return tgr_pack(&response.base);
}

/* Write what has been answered, unless a message is under way. @locks rpc->mu held */
static void write_start(struct stream *stream)
{
    struct tgr_rpc *rpc = stream->rpc;
    struct tgr_arena arena = {.blocks = NULL};
    grpc_op op;
    if (stream->writing || rpc->flush_listed || stream->answered.head == NULL) {
        return;
    }
    if (rpc->closed) {
        drop_all(stream, &stream->answered, &stream->answered_count);
        return;
    }
    size_t count = stream->answered_count;
    uint64_t through =
        stream->open.head != NULL ? stream->open.head->produce->id - 1 : stream->last_id;
    rpc->out = pack_answers(stream, &arena, through, &count);
    tgr_arena_fini(&arena);
    if (rpc->out == NULL) { /* the client shall not take what it does not hear of for answered */
        drop_all(stream, &stream->answered, &stream->answered_count);
        end_locked(stream, STI_E_NO_MEMORY, NULL);
        return;
    }
    uint64_t now_us = sti_now_us(rpc->t->host);
    struct tgr_method_metrics *metrics = &rpc->t->metrics[rpc->method];
    for (size_t i = 0; i < count; i++) {
        struct item *item = list_pop(&stream->answered);
        sti_histogram_record(metrics->latency_us, now_us - item->request.received_us);
        item_free(item);
    }
    stream->answered_count -= (uint32_t)count;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = rpc->out;
    sti_metric_add(metrics->sent_bytes, grpc_byte_buffer_length(rpc->out));
    sti_metric_add(metrics->sent_messages, 1);
    stream->writing_count = (uint32_t)count;
    stream->writing = tgr_rpc_batch(rpc, &op, 1, &rpc->tag_write, on_written) == STI_OK;
    if (!stream->writing) {
        forget(stream, stream->writing_count);
        end_locked(stream, STI_E_INTERNAL, NULL);
    }
}

static void on_written(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct stream *stream = rpc->state;
    (void)ok; /* a lost call is told by its close */
    pthread_mutex_lock(&rpc->mu);
    grpc_byte_buffer_destroy(rpc->out);
    rpc->out = NULL;
    stream->writing = false;
    forget(stream, stream->writing_count);
    write_start(stream);
    read_start(stream);
    settle_unlock(stream);
    tgr_rpc_unref(rpc);
}

static void on_produced(struct sti_produce *call)
{
    struct item *item = call->user;
    struct stream *stream = item->stream;
    struct tgr_rpc *rpc = stream->rpc;
    item_release(item);
    tgr_rpc_ref(rpc); /* another thread may settle the stream as soon as the lock is free */
    pthread_mutex_lock(&rpc->mu);
    tgr_chains_drop(item->produce);
    list_remove(&stream->open, item);
    list_push(&stream->answered, item);
    stream->answered_count++;
    if (stream->writing || rpc->flush_listed || !tgr_flush_later(rpc)) {
        write_start(stream);
    }
    settle_unlock(stream);
    tgr_rpc_unref(rpc);
}

void tgr_produce_stream_flush(struct tgr_rpc *rpc)
{
    struct stream *stream = rpc->state;
    pthread_mutex_lock(&rpc->mu);
    rpc->flush_listed = false;
    write_start(stream);
    settle_unlock(stream);
}

/* ---- the runner ---- */

/* What a request must be beyond a message that can be decoded. @locks rpc->mu held */
static int check_numbers(const struct stream *stream, const struct tgr_produce *produce,
                         struct sti_err *err)
{
    unsigned long long id = produce->id, answered = produce->answered;
    if (id <= stream->last_id) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProduceStreamRequest.id: %llu after %llu; each is greater than the one "
                           "before it, and none is 0",
                           id, (unsigned long long)stream->last_id);
    }
    if (answered > stream->through) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProduceStreamRequest.answered: %llu, but answers went up to %llu",
                           answered, (unsigned long long)stream->through);
    }
    if (answered < stream->last_answered) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "ProduceStreamRequest.answered: %llu after %llu; it never goes back",
                           answered, (unsigned long long)stream->last_answered);
    }
    return STI_OK;
}

static int decode(struct stream *stream, struct item *item, struct sti_err *err)
{
    struct tgr_rpc *rpc = stream->rpc;
    const struct tgr_conf *conf = rpc->t->conf;
    int rc = tgr_produce_read(rpc->t, &item->arena, TGR_PRODUCE_STREAMED, item->payload,
                              &item->produce, err);
    if (rc != STI_OK) {
        return rc;
    }
    item->produce->call.request = &item->request;
    item->produce->call.done = on_produced;
    item->produce->call.user = item;
    pthread_mutex_lock(&rpc->mu);
    rc = check_numbers(stream, item->produce, err);
    if (rc == STI_OK) {
        rc = tgr_chains_take(&stream->chains, item->produce, (size_t)conf->stream_partitions_max,
                             err);
    }
    if (rc == STI_OK) {
        stream->last_id = item->produce->id;
        stream->last_answered = item->produce->answered;
        list_push(&stream->open, item);
        item->opened = true;
    }
    pthread_mutex_unlock(&rpc->mu);
    return rc;
}

/* The message ends the stream; it is not answered, nor is what was read behind it. */
static void refuse(struct stream *stream, struct item *item, int rc, const struct sti_err *err)
{
    struct tgr_rpc *rpc = stream->rpc;
    sti_metric_add(rpc->t->malformed, 1);
    pthread_mutex_lock(&rpc->mu);
    end_locked(stream, rc, err);
    if (item->opened) {
        tgr_chains_drop(item->produce);
        list_remove(&stream->open, item);
    }
    item_free(item);
    forget(stream, 1);
    drop_all(stream, &stream->queued, &stream->queued_count);
    pthread_mutex_unlock(&rpc->mu);
}

static void submit(struct stream *stream, struct item *item)
{
    struct tgr_transport *t = stream->rpc->t;
    struct sti_produce *call = &item->produce->call;
    struct sti_err err;
    sti_err_clear(&err);
    int rc = tgr_broker(t)->produce(t->broker.self, call, &err);
    if (rc == STI_OK) {
        return; /* the item may be gone */
    }
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct sti_produce_row *row = call->rows[i];
        sti_produce_chain_fail(row->chain, row->chain_id, row->chain_answered);
        row->status = rc;
        row->err = err;
        row->retry_after_ms = item->retry_after_ms;
    }
    on_produced(call);
}

/* Runs again on the executor, with the role of the runner. */
static void on_task(struct sti_task *task)
{
    run_from((struct stream *)(void *)task, true);
}

static void on_room(struct sti_admit *admit)
{
    struct stream *stream =
        (struct stream *)(void *)((char *)admit - offsetof(struct stream, admit));
    const struct sti_host *host = stream->rpc->t->host;
    host->post(host->ctx, &stream->task); /* not from within the broker's own answer */
}

/* Take one item as far as it goes. @return false: the role has been handed on */
static bool advance(struct stream *stream, struct item *item, bool on_executor)
{
    struct tgr_transport *t = stream->rpc->t;
    struct sti_err err;
    int rc = STI_OK;
    sti_err_clear(&err);
    if (item->produce == NULL) {
        rc = decode(stream, item, &err);
    }
    if (rc == STI_OK && item->produce->record_bytes > TGR_INLINE_BYTES && !item->encoded &&
        !on_executor) {
        stream->current = item;
        t->host->post(t->host->ctx, &stream->task);
        return false;
    }
    if (rc == STI_OK && item->produce->record_bytes > 0 && !item->encoded) {
        rc = tgr_produce_encode(stream->rpc->t, &item->arena, item->produce, &item->batches, &err);
        item->encoded = true;
    }
    if (rc != STI_OK) {
        refuse(stream, item, rc, &err);
        return true;
    }
    stream->admit.bytes = sti_produce_cost(&item->produce->call);
    stream->admit.resume = on_room;
    stream->admit.request = &item->request;
    stream->current = item; /* on_room may come before admit returns */
    if (tgr_broker(t)->admit(t->broker.self, &stream->admit) != STI_OK) {
        return false;
    }
    stream->current = NULL;
    submit(stream, item);
    return true;
}

/* @param stream  its `busy` is the caller's */
static void run_from(struct stream *stream, bool on_executor)
{
    struct tgr_rpc *rpc = stream->rpc;
    struct item *item = stream->current;
    stream->current = NULL;
    for (;;) {
        if (item != NULL && !advance(stream, item, on_executor)) {
            return;
        }
        pthread_mutex_lock(&rpc->mu);
        if (rpc->closed) {
            drop_all(stream, &stream->queued, &stream->queued_count);
        }
        item = list_pop(&stream->queued);
        if (item == NULL) {
            break;
        }
        stream->queued_count--;
        read_start(stream);
        pthread_mutex_unlock(&rpc->mu);
    }
    stream->busy = false;
    settle_unlock(stream);
}

/* ---- the call ---- */

static void on_close(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct stream *stream = rpc->state;
    (void)ok;
    pthread_mutex_lock(&rpc->mu);
    rpc->closed = true;
    end_locked(stream, STI_E_CANCELLED, NULL);
    if (!stream->writing) {
        drop_all(stream, &stream->answered, &stream->answered_count);
    }
    settle_unlock(stream);
    tgr_rpc_unref(rpc);
}

void tgr_produce_stream_drain(struct tgr_rpc *rpc)
{
    struct stream *stream = rpc->state;
    struct sti_err err;
    (void)sti_err_set(&err, STI_E_UNAVAILABLE, "node %d is shutting down",
                      (int)rpc->t->host->node->node_id);
    pthread_mutex_lock(&rpc->mu);
    end_locked(stream, STI_E_UNAVAILABLE, &err);
    settle_unlock(stream);
}

void tgr_produce_stream_handle(struct tgr_rpc *rpc)
{
    struct stream *stream = tgr_arena_alloc(&rpc->arena, 1, sizeof *stream);
    if (stream == NULL) {
        tgr_rpc_no_memory(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    stream->rpc = rpc;
    stream->task.run = on_task;
    rpc->state = stream;
    tgr_rpc_ref(rpc); /* of this function */
    tgr_park(rpc);    /* first: the close may settle the stream at once */
    if (tgr_rpc_watch_close(rpc, on_close) != STI_OK) {
        tgr_unpark(rpc);
        tgr_rpc_unref(rpc);
        tgr_rpc_unref(rpc);
        return;
    }
    pthread_mutex_lock(&rpc->mu);
    tgr_rpc_open(rpc);
    read_start(stream);
    pthread_mutex_unlock(&rpc->mu);
    if (atomic_load(&rpc->t->draining)) { /* too late to be found in the list */
        tgr_produce_stream_drain(rpc);
    }
    tgr_rpc_unref(rpc);
}
