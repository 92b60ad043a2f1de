/* producer_stream.c -- how batches travel: one ProduceStream to each server that leads something.
 *
 *     closed -> connecting -> open -> ending -> closed
 *
 * A stream is made when a partition has something to send. At most one message is being written at
 * a time; partitions that become ready meanwhile gather, and go together in the next one, at most
 * one batch of each. Answers come in any order, and are matched by the id of their request.
 *
 * When a stream ends, nobody knows what became of the batches that were sent and not answered:
 * they are reported as CONNECTION_LOST and never sent again. Batches that were refused, and those
 * in the queue, go on over the next stream. A server that cannot be connected to was sent nothing.
 */
#include "producer.h"

#include <stdlib.h>
#include <string.h>

/* A refusal asks for no pause, since its cause has gone; a server that only refuses gets one. */
enum { MESSAGE_BYTES = 1 << 20, MESSAGE_ROWS = 512, CLOSE_WAIT_MS = 1000, REFUSALS_FREE = 3 };

static void stream_pump(struct pstream *s);
static void stream_op_done(struct pstream *s);
static void stream_completed(struct pstream *s);

/* ---- which stream -------------------------------------------------------------------------- */

static void stream_retry_fire(struct cl_alarm *alarm, bool cancelled);
static void stream_connected(struct cl_connect *connect, const struct sti_err *err);
static void init_complete(struct cl_tag *tag, bool ok);
static void send_complete(struct cl_tag *tag, bool ok);
static void recv_complete(struct cl_tag *tag, bool ok);
static void status_complete(struct cl_tag *tag, bool ok);

/* NULL: out of memory. */
static struct pstream *stream_get(struct sti_producer *producer, struct cl_conn *conn)
{
    struct pstream *s = producer->streams;
    while (s != NULL && s->conn != conn) {
        s = s->next;
    }
    if (s == NULL && conn != NULL && (s = calloc(1, sizeof *s)) != NULL) {
        s->producer = producer;
        s->conn = conn;
        s->retry.fire = stream_retry_fire;
        s->connect.done = stream_connected;
        s->init_tag.complete = s->close_tag.complete = init_complete;
        s->send_tag.complete = send_complete;
        s->recv_tag.complete = recv_complete;
        s->status_tag.complete = status_complete;
        s->next = producer->streams;
        producer->streams = s;
    }
    return s;
}

/* Where a partition sends; it may change only while nothing of it is under way, for the order.
 * NULL: out of memory. */
static struct pstream *stream_of(struct partition *part)
{
    struct cl_topic *topic = part->topic->topic;
    uint32_t version = atomic_load(&topic->version);
    if (part->stream == NULL || (part->version != version && part->under_way == 0)) {
        struct pstream *s = stream_get(part->topic->producer, cl_topic_leader(topic, part->index));
        if (s != part->stream) {
            part->resume_id = 0; /* the other server's chain knows of no failure */
        }
        part->stream = s;
        part->version = version;
    }
    return part->stream;
}

static void ready_push(struct pstream *s, struct partition *part)
{
    part->listed = true;
    part->ready_next = NULL;
    if (s->ready_tail != NULL) {
        s->ready_tail->ready_next = part;
    } else {
        s->ready = part;
    }
    s->ready_tail = part;
}

static struct partition *ready_pop(struct pstream *s)
{
    struct partition *part = s->ready;
    s->ready = part->ready_next;
    if (s->ready == NULL) {
        s->ready_tail = NULL;
    }
    part->listed = false;
    return part;
}

/* After a failure one batch at a time, until one is stored. */
static bool may_send(struct partition *part)
{
    uint32_t most = part->failures > 0 ? 1u : part->topic->producer->config.max_in_flight;
    return !part->topic->producer->stopped && !part->failed && !part->backing_off &&
           part->under_way < most && producer_has(part);
}

void producer_kick(struct partition *part)
{
    if (part->listed || !may_send(part)) {
        return; /* a listed one is looked at as soon as its stream can take more */
    }
    struct pstream *s = stream_of(part);
    if (s != NULL) {
        ready_push(s, part);
        stream_pump(s);
    }
}

/* ---- opening ------------------------------------------------------------------------------- */

/* What waits on a stream that is not to be had looks for its leader anew. */
static void stream_release(struct pstream *s)
{
    struct partition *list = s->ready;
    s->ready = s->ready_tail = NULL;
    for (struct partition *part = list; part != NULL; part = part->ready_next) {
        part->listed = false;
    }
    while (list != NULL) {
        struct partition *part = list;
        list = part->ready_next; /* before the kick, which links it anew */
        producer_kick(part);
    }
}

static void stream_retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct pstream *s = CL_CONTAINER_OF(alarm, struct pstream, retry);
    (void)cancelled;
    pthread_mutex_lock(&s->producer->mu);
    s->backing_off = false;
    s->not_before_us = 0;
    stream_release(s);
    producer_idle(s->producer);
}

/* The stream, or the attempt at one, is over. `failure` NULL: in order. */
static void stream_failed(struct pstream *s, const struct cl_failure *failure)
{
    struct sti_client *client = s->producer->client;
    s->state = PSTREAM_CLOSED;
    if (failure == NULL) {
        return;
    }
    s->last = failure->err;
    s->not_before_us = cl_now_us() + cl_backoff_us(client, s->failures++, failure->retry_after_ms);
    for (struct partition *part = s->ready; part != NULL; part = part->ready_next) {
        if (part == s->ready || part->topic != s->ready->topic) {
            cl_topic_refresh_start(part->topic->topic); /* somebody else may lead by now */
        }
    }
}

static void stream_ops(struct pstream *s)
{
    grpc_op init = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    grpc_op recv[2] = {{.op = GRPC_OP_RECV_INITIAL_METADATA}, {.op = GRPC_OP_RECV_MESSAGE}};
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    init.data.send_initial_metadata.count = cl_metadata(s->metadata, s->producer->client);
    init.data.send_initial_metadata.metadata = s->metadata;
    recv[0].data.recv_initial_metadata.recv_initial_metadata = &s->initial;
    recv[1].data.recv_message.recv_message = &s->in;
    status.data.recv_status_on_client.trailing_metadata = &s->trailing;
    status.data.recv_status_on_client.status = &s->status;
    status.data.recv_status_on_client.status_details = &s->details;
    s->ops = 3;
    if (cl_batch_start(s->call, &init, 1, &s->init_tag) != GRPC_CALL_OK ||
        cl_batch_start(s->call, recv, 2, &s->recv_tag) != GRPC_CALL_OK ||
        cl_batch_start(s->call, &status, 1, &s->status_tag) != GRPC_CALL_OK) {
        abort(); /* gRPC refuses only what breaks its rules */
    }
}

static void stream_connected(struct cl_connect *connect, const struct sti_err *err)
{
    struct pstream *s = CL_CONTAINER_OF(connect, struct pstream, connect);
    struct sti_producer *producer = s->producer;
    pthread_mutex_lock(&producer->mu);
    if (err != NULL || producer->closing) {
        struct cl_failure failure = {.retry_after_ms = 0};
        failure.err = err != NULL ? *err : s->last;
        stream_failed(s, &failure);
        stream_pump(s); /* arms the next attempt */
    } else {
        s->state = PSTREAM_OPEN;
        s->has_status = s->sending = s->purged = false;
        s->opened_id = s->last_id;
        s->in = s->out = NULL;
        s->details = grpc_empty_slice();
        s->status = GRPC_STATUS_UNKNOWN;
        grpc_metadata_array_init(&s->initial);
        grpc_metadata_array_init(&s->trailing);
        s->call = grpc_channel_create_registered_call(
            s->conn->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->conn->client->queue,
            s->conn->methods[CL_PRODUCE_STREAM], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        stream_ops(s);
        stream_pump(s);
    }
    producer_idle(producer);
}

static void stream_open(struct pstream *s)
{
    struct sti_producer *producer = s->producer;
    if (s->backing_off || producer->closing) {
        return;
    }
    if (cl_now_us() < s->not_before_us) {
        s->backing_off = true;
        producer_alarm(producer, &s->retry, s->not_before_us);
        return;
    }
    s->state = PSTREAM_CONNECTING;
    producer->busy++;
    pthread_mutex_unlock(&producer->mu);
    cl_connect_start(&s->connect, s->conn, cl_due_us(producer->config.timeout_ms));
    pthread_mutex_lock(&producer->mu);
}

/* ---- sending ------------------------------------------------------------------------------- */

static uint64_t stream_answered(const struct pstream *s)
{
    return s->requests == NULL ? s->last_id : s->requests->id - 1;
}

static uint64_t next_len(const struct partition *part)
{
    return part->queue.head != NULL ? part->queue.head->len
                                    : sti_batch_builder_len(part->open->builder);
}

/* May a partition that was ready put a batch into the next message of this stream? Puts it back, or
 * to another stream, if it may later. */
static bool joins(struct pstream *s, struct partition *part)
{
    if (!may_send(part)) {
        return false; /* it is kicked when that changes */
    }
    struct pstream *to = part->under_way == 0 ? stream_of(part) : s;
    if (to == NULL) {
        return false; /* no memory for another stream: the next record or answer tries again */
    }
    if (to != s) { /* its leader has moved: it goes on there */
        ready_push(to, part);
        s->producer->moved = true;
        return false;
    }
    if (part->resume_id > stream_answered(s)) {
        ready_push(s, part); /* an answer that is still to come will let it go */
        return false;
    }
    return true;
}

static void request_add(struct request *req, struct partition *part, uint64_t id)
{
    struct batch *b = producer_take(part);
    b->id = id;
    b->state = b->state == BATCH_READY ? BATCH_SENT : BATCH_FINISHING;
    part->resume_id = 0;
    part->under_way++;
    batch_list_push(&part->sent, b);
    req->rows[req->count++] = b;
}

/* Gather the next message's batches. @return NULL: nothing may go now */
static struct request *request_gather(struct pstream *s)
{
    uint64_t bytes = 0, most = MESSAGE_BYTES;
    struct partition *last = s->ready_tail; /* who is put back comes behind it */
    struct request *req = calloc(1, sizeof *req + MESSAGE_ROWS * sizeof(struct batch *));
    for (bool more = req != NULL; more && req->count < MESSAGE_ROWS;) {
        struct partition *part = ready_pop(s);
        more = part != last;
        if (!joins(s, part)) {
            continue;
        }
        /* No message, names and all, may pass what the servers' limit lets a single batch be. */
        uint64_t len = next_len(part) + CL_PRODUCE_ROW_MAX;
        uint64_t limit = part->topic->message_bytes_max;
        most = limit < most ? limit : most;
        if (req->count > 0 && bytes + len > most) {
            ready_push(s, part);
            break;
        }
        request_add(req, part, s->last_id + 1);
        bytes += len;
        if (may_send(part)) {
            ready_push(s, part);
        }
    }
    if (req == NULL || req->count == 0) {
        free(req);
        return NULL;
    }
    req->id = ++s->last_id;
    if (s->requests_tail != NULL) {
        s->requests_tail->next = req;
    } else {
        s->requests = req;
    }
    s->requests_tail = req;
    return req;
}

/* Make the message. @locks none; the rows are finished */
static grpc_byte_buffer *request_encode(const struct pstream *s, const struct request *req,
                                        uint64_t answered)
{
    static const int wire_acks[] = {[STI_PRODUCER_ACKS_QUORUM] = STREAMIT__V1__ACKS__ACKS_QUORUM,
                                    [STI_PRODUCER_ACKS_LEADER] = STREAMIT__V1__ACKS__ACKS_LEADER,
                                    [STI_PRODUCER_ACKS_NONE] = STREAMIT__V1__ACKS__ACKS_NONE};
    const struct sti_producer_config *config = &s->producer->config;
    uint8_t text[CL_PRODUCE_HEAD_MAX + CL_PRODUCE_ROW_MAX];
    grpc_slice slices[2 * MESSAGE_ROWS];
    size_t len, count = 0;
    uint64_t now = cl_now_us(), due = now;
    for (size_t i = 0; i < req->count; i++) {
        uint64_t mine = producer_batch_due_us(req->rows[i]);
        due = mine > due ? mine : due;
    }
    struct cl_produce_head head = {.id = req->id,
                                   .answered = answered,
                                   .acks = wire_acks[config->acks],
                                   .timeout_ms = (uint32_t)((due - now) / 1000u) + 1u,
                                   .replicas_min = config->replicas_min,
                                   .replicas_synced_min = config->replicas_synced_min};
    len = cl_encode_produce_head(text, &head);
    for (size_t i = 0; i < req->count; i++) {
        struct batch *b = req->rows[i];
        len +=
            cl_encode_produce_row(text + len, b->part->topic->topic->name, b->part->index, b->len);
        slices[count++] = grpc_slice_from_copied_buffer((const char *)text, len);
        slices[count++] = producer_batch_slice(b);
        len = 0;
    }
    grpc_byte_buffer *out = grpc_raw_byte_buffer_create(slices, count);
    while (count > 0) {
        grpc_slice_unref(slices[--count]);
    }
    return out;
}

/* Less of a partition is under way: it may go on. */
static void row_over(struct partition *part)
{
    if (part->under_way == 0 && part->failed) {
        producer_round_end(part);
    } else {
        producer_kick(part);
    }
}

/* Finish what is not finished; drop rows that cannot be. @return false: none is left. @locks
 * dropped meanwhile */
static bool request_finish(struct pstream *s, struct request *req)
{
    size_t kept = 0, count = req->count;
    for (size_t i = 0; i < count; i++) {
        if (req->rows[i]->state == BATCH_FINISHING) {
            pthread_mutex_unlock(&s->producer->mu);
            producer_batch_finish(req->rows[i]);
            pthread_mutex_lock(&s->producer->mu);
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct batch *b = req->rows[i];
        b->state = BATCH_SENT;
        if (b->finish_status == STI_OK) {
            req->rows[kept++] = b;
        } else {
            struct partition *part = b->part;
            struct sti_err err = b->last;
            part->under_way--;
            (void)batch_list_remove(&part->sent, b);
            producer_batch_end(b, NULL, &err);
            row_over(part);
        }
    }
    req->count = kept;
    return kept > 0;
}

static void request_unlink(struct pstream *s, struct request *req)
{
    struct request **at = &s->requests, *before = NULL;
    while (*at != req) {
        before = *at;
        at = &before->next;
    }
    *at = req->next;
    if (s->requests_tail == req) {
        s->requests_tail = before;
    }
}

/* Gather, finish and write one message. @return false: nothing may go now */
static bool stream_write(struct pstream *s)
{
    struct sti_producer *producer = s->producer;
    uint64_t answered = stream_answered(s) > s->opened_id ? stream_answered(s) : 0;
    struct request *req = request_gather(s);
    if (req == NULL) {
        return false;
    }
    s->sending = true;
    s->ops++; /* holds the call while the lock is dropped */
    if (!request_finish(s, req)) {
        request_unlink(s, req);
        free(req);
        s->last_id--; /* the server never hears of it; nothing else was gathered meanwhile */
        s->sending = false;
        stream_op_done(s);
        return true;
    }
    pthread_mutex_unlock(&producer->mu);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    s->out = request_encode(s, req, answered);
    op.data.send_message.send_message = s->out;
    if (cl_batch_start(s->call, &op, 1, &s->send_tag) != GRPC_CALL_OK) {
        abort(); /* gRPC refuses only what breaks its rules */
    }
    pthread_mutex_lock(&producer->mu);
    return true;
}

/* Write the next message, if none is being written. */
static void stream_pump(struct pstream *s)
{
    struct sti_producer *producer = s->producer;
    producer->busy++;
    if (s->state == PSTREAM_CLOSED && s->ready != NULL) {
        stream_open(s);
    }
    while (s->state == PSTREAM_OPEN && !s->sending && s->ready != NULL && stream_write(s)) {
    }
    while (producer->moved) {
        producer->moved = false;
        for (struct pstream *other = producer->streams; other != NULL; other = other->next) {
            if (other != s) {
                stream_pump(other);
            }
        }
    }
    producer->busy--; /* who called is busy as well, and tells a close */
}

static void init_complete(struct cl_tag *tag, bool ok)
{
    (void)ok; /* a failure shows in the status */
    stream_completed(CL_CONTAINER_OF(tag, struct pstream, init_tag));
}

static void close_complete(struct cl_tag *tag, bool ok)
{
    (void)ok;
    stream_completed(CL_CONTAINER_OF(tag, struct pstream, close_tag));
}

static void send_complete(struct cl_tag *tag, bool ok)
{
    struct pstream *s = CL_CONTAINER_OF(tag, struct pstream, send_tag);
    (void)ok;
    grpc_byte_buffer_destroy(s->out);
    pthread_mutex_lock(&s->producer->mu);
    s->producer->busy++;
    s->out = NULL;
    s->sending = false;
    stream_op_done(s);
    stream_pump(s);
    producer_idle(s->producer);
}

/* ---- answers ------------------------------------------------------------------------------- */

/* The failure of a row that was not appended. @return true: it goes again */
static bool row_failed(struct batch *b, const struct cl_failure *failure)
{
    struct partition *part = b->part;
    bool refused =
        failure->err.code == STI_E_PRECONDITION && (failure->err.traits & STI_TRAIT_RETRIABLE) != 0;
    bool again = cl_may_retry(failure->err.traits, false) && !b->reported &&
                 !part->topic->producer->closing && !part->topic->producer->stopped;
    part->failed = true;
    part->resume_id = b->id > part->resume_id ? b->id : part->resume_id;
    if (!refused && again) {
        part->wait = true;
        part->retry_after_ms = failure->retry_after_ms > part->retry_after_ms
                                   ? failure->retry_after_ms
                                   : part->retry_after_ms;
    }
    if ((failure->err.traits & STI_TRAIT_REFRESH) != 0) {
        cl_topic_refresh_start(part->topic->topic);
    }
    if (again) {
        b->state = BATCH_FAILED;
        if (!refused) {
            b->last = failure->err;
        }
    }
    return again;
}

/* `result` NULL: `lost` says why there is none. */
static void row_answered(struct batch *b, const Streamit__V1__ProduceResult *result,
                         const struct cl_failure *lost)
{
    struct partition *part = b->part;
    struct cl_failure failure = {.retry_after_ms = 0};
    if (lost != NULL) {
        failure = *lost;
    } else if (result->error != NULL && result->error->code != STREAMIT__V1__ERROR_CODE__OK) {
        cl_failure_from_error(&failure, result->error);
    } else {
        part->failures = 0;
    }
    part->under_way--;
    bool appended = failure.err.code == STI_OK;
    if (appended || (failure.err.traits & STI_TRAIT_INDEFINITE) != 0 || !row_failed(b, &failure)) {
        (void)batch_list_remove(&part->sent, b);
        producer_batch_end(b, appended ? result : NULL, appended ? NULL : &failure.err);
    }
    row_over(part);
}

static void retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct partition *part = CL_CONTAINER_OF(alarm, struct partition, retry);
    struct sti_producer *producer = part->topic->producer;
    (void)cancelled; /* by close, which fails what is left */
    pthread_mutex_lock(&producer->mu);
    part->backing_off = false;
    producer_kick(part);
    producer_idle(producer);
}

void producer_round_end(struct partition *part)
{
    struct sti_producer *producer = part->topic->producer;
    uint64_t wait = 0, now = cl_now_us();
    bool again = part->sent.head != NULL;
    if (again && (part->wait || part->failures > REFUSALS_FREE)) {
        wait = cl_backoff_us(producer->client, part->failures, part->retry_after_ms);
    }
    part->failures++;
    part->failed = part->wait = false;
    part->retry_after_ms = 0;
    if (again) { /* all that is left among the sent has failed: it goes before what is queued */
        struct batch_list back = part->sent;
        for (struct batch *b = back.head; b != NULL; b = b->next) {
            b->state = BATCH_READY;
        }
        back.tail->next = part->queue.head;
        part->queue.head = back.head;
        part->queue.tail = part->queue.tail == NULL ? back.tail : part->queue.tail;
        part->sent = (struct batch_list){NULL, NULL};
    }
    /* Those for which the wait is too long need not wait for it. */
    while (wait > 0 && part->queue.head != NULL && part->queue.head->last.code != STI_OK &&
           now + wait >= producer_batch_due_us(part->queue.head)) {
        struct batch *b = part->queue.head;
        struct sti_err err = b->last;
        (void)batch_list_remove(&part->queue, b);
        producer_batch_end(b, NULL, &err);
    }
    if (wait > 0 && !part->backing_off && part->queue.head != NULL) {
        part->backing_off = true;
        part->retry.fire = retry_fire;
        producer_alarm(producer, &part->retry, now + wait);
    } else {
        producer_kick(part);
    }
}

/* @return false when the message contradicts what was sent */
static bool answer_take(struct pstream *s, const Streamit__V1__ProduceStreamResponse *m)
{
    for (size_t i = 0; i < m->n_results; i++) {
        const Streamit__V1__ProduceStreamResult *result = m->results[i];
        struct request *req = s->requests;
        while (req != NULL && req->id < result->id) {
            req = req->next;
        }
        if (req == NULL || req->id != result->id || req->count != result->n_partitions) {
            return false;
        }
        request_unlink(s, req);
        s->failures = 0;
        for (size_t row = 0; row < req->count; row++) {
            row_answered(req->rows[row], result->partitions[row], NULL);
        }
        free(req);
    }
    return true;
}

static void recv_complete(struct cl_tag *tag, bool ok)
{
    struct pstream *s = CL_CONTAINER_OF(tag, struct pstream, recv_tag);
    struct sti_producer *producer = s->producer;
    grpc_byte_buffer *in = s->in;
    Streamit__V1__ProduceStreamResponse *m = NULL;
    bool good = ok && in != NULL;
    s->in = NULL;
    if (good) {
        grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
        size_t len = 0;
        uint8_t *data = cl_gather(in, &len);
        op.data.recv_message.recv_message = &s->in;
        m = data == NULL ? NULL : streamit__v1__produce_stream_response__unpack(NULL, len, data);
        free(data);
        if (cl_batch_start(s->call, &op, 1, &s->recv_tag) != GRPC_CALL_OK) {
            abort(); /* gRPC refuses only what breaks its rules */
        }
    }
    if (in != NULL) {
        grpc_byte_buffer_destroy(in);
    }
    pthread_mutex_lock(&producer->mu);
    producer->busy++;
    if (!good) {
        stream_op_done(s);
    } else {
        if ((m == NULL || !answer_take(s, m)) && s->state == PSTREAM_OPEN) {
            s->state = PSTREAM_ENDING;
            (void)grpc_call_cancel_with_status(s->call, GRPC_STATUS_INTERNAL,
                                               "the answer cannot be understood", NULL);
        }
        stream_pump(s);
    }
    producer_idle(producer);
    if (m != NULL) {
        streamit__v1__produce_stream_response__free_unpacked(m, NULL);
    }
}

/* ---- the end of a stream ------------------------------------------------------------------- */

/* What a batch that was sent and not answered is told. */
static void lost_failure(struct pstream *s, struct cl_failure *out)
{
    size_t trailer_len = 0;
    const uint8_t *trailer = cl_trailer(&s->trailing, &trailer_len);
    cl_failure_from_status(out, s->conn->address, s->status,
                           (const char *)GRPC_SLICE_START_PTR(s->details),
                           GRPC_SLICE_LENGTH(s->details), trailer, trailer_len);
    if (s->status == GRPC_STATUS_OK) {
        sti_err_set(&out->err, STI_E_CONNECTION_LOST, "%.100s: the server ended the stream",
                    s->conn->address);
    }
}

/* Answers are not to come any more. */
static void requests_lose(struct pstream *s, const struct cl_failure *failure)
{
    struct request *list = s->requests;
    s->requests = s->requests_tail = NULL;
    while (list != NULL) {
        struct request *req = list;
        list = req->next;
        for (size_t row = 0; row < req->count; row++) {
            struct batch *b = req->rows[row];
            struct cl_failure lost = *failure;
            if (s->purged) {
                (void)sti_err_set(&lost.err, STI_E_CANCELLED,
                                  "%s-%d: cancelled while it was under way",
                                  b->part->topic->topic->name, b->part->index);
            } else if (failure->err.code != STI_E_UNAUTHENTICATED &&
                       failure->err.code != STI_E_PERMISSION_DENIED &&
                       failure->err.code != STI_E_UNSUPPORTED) {
                (void)sti_err_set(&lost.err, STI_E_CONNECTION_LOST,
                                  "%s-%d: the stream ended without an answer: %.150s",
                                  b->part->topic->topic->name, b->part->index, failure->err.msg);
            }
            lost.err.traits |= STI_TRAIT_INDEFINITE;
            row_answered(b, NULL, &lost);
        }
        free(req);
    }
}

static void stream_ended(struct pstream *s)
{
    struct cl_failure failure;
    bool in_order = s->producer->closing && s->requests == NULL;
    lost_failure(s, &failure);
    grpc_call *call = s->call;
    s->call = NULL;
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    grpc_call_unref(call);
    /* As connecting: nothing is opened while batches are reported. */
    s->state = PSTREAM_CONNECTING;
    requests_lose(s, &failure);
    stream_failed(s, in_order ? NULL : &failure);
    stream_pump(s);
}

/* One completion less is outstanding. */
static void stream_op_done(struct pstream *s)
{
    s->ops--;
    if (s->ops == 0 && s->has_status) {
        stream_ended(s);
    }
}

static void stream_completed(struct pstream *s)
{
    pthread_mutex_lock(&s->producer->mu);
    s->producer->busy++;
    stream_op_done(s);
    producer_idle(s->producer);
}

static void status_complete(struct cl_tag *tag, bool ok)
{
    struct pstream *s = CL_CONTAINER_OF(tag, struct pstream, status_tag);
    (void)ok;
    pthread_mutex_lock(&s->producer->mu);
    s->has_status = true;
    s->state = PSTREAM_ENDING;
    pthread_mutex_unlock(&s->producer->mu);
    stream_completed(s);
}

void producer_streams_cancel(struct sti_producer *producer)
{
    for (struct pstream *s = producer->streams; s != NULL; s = s->next) {
        if (s->call != NULL && s->requests != NULL) {
            s->state = PSTREAM_ENDING;
            s->purged = true;
            (void)grpc_call_cancel(s->call, NULL);
        }
    }
}

static bool all_closed(const struct sti_producer *producer)
{
    for (const struct pstream *s = producer->streams; s != NULL; s = s->next) {
        if (s->call != NULL) {
            return false;
        }
    }
    return true;
}

void producer_streams_close(struct sti_producer *producer)
{
    uint64_t due = cl_due_us(CLOSE_WAIT_MS);
    for (struct pstream *s = producer->streams; s != NULL; s = s->next) {
        if (s->backing_off) {
            cl_alarm_cancel(producer->client, &s->retry);
        }
        if (s->call != NULL && s->state == PSTREAM_OPEN && !s->sending) {
            grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
            s->close_tag.complete = close_complete;
            s->state = PSTREAM_ENDING;
            s->ops++;
            if (cl_batch_start(s->call, &op, 1, &s->close_tag) != GRPC_CALL_OK) {
                abort(); /* gRPC refuses only what breaks its rules */
            }
        }
    }
    producer->waiting++;
    while (!all_closed(producer)) {
        if (due != 0 && !cl_cond_wait_until(&producer->room, &producer->mu, due)) {
            for (struct pstream *s = producer->streams; s != NULL; s = s->next) {
                if (s->call != NULL) {
                    (void)grpc_call_cancel(s->call, NULL);
                }
            }
            due = 0;
        } else if (due == 0) {
            pthread_cond_wait(&producer->room, &producer->mu);
        }
    }
    producer->waiting--;
}

void producer_streams_free(struct sti_producer *producer)
{
    while (producer->streams != NULL) {
        struct pstream *s = producer->streams;
        producer->streams = s->next;
        free(s);
    }
}
