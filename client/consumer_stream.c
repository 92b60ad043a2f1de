/* consumer_stream.c -- how batches come in: one FetchStream to each server that leads something.
 *
 *     closed -> connecting -> open -> ending -> closed
 *
 * The server sends what is new of all partitions of the call, without being asked again; it is read
 * on only while less than prefetch_bytes are ready, so flow control stops a server that is faster
 * than the caller of poll. A message without rows says that the server is there; without any
 * message for max_wait_ms and timeout_ms the call is given up.
 */
#include "consumer.h"

#include <stdlib.h>
#include <string.h>

static void stream_update(struct fstream *s);

void consumer_idle(struct sti_consumer *c)
{
    c->under_way--;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->mu);
}

static void consumer_alarm(struct sti_consumer *c, struct cl_alarm *alarm, uint64_t due_us)
{
    c->under_way++;
    cl_alarm_start(c->client, alarm, due_us);
}

static bool wanted(const struct reader *r)
{
    return !r->paused && !r->stopped && !r->backing_off && !r->removed && !r->consumer->closing;
}

void consumer_drop(struct reader *r, bool told)
{
    struct fstream *s = r->live ? r->stream : NULL;
    r->live = false;
    for (size_t i = 0; s != NULL && i < s->carried_count; i++) {
        if (s->carried[i] == r) {
            s->carried[i] = NULL;
            s->dirty = s->dirty || !told;
        }
    }
}

/* ---- failures ------------------------------------------------------------------------------ */

static void reader_retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct reader *r = CL_CONTAINER_OF(alarm, struct reader, retry);
    struct sti_consumer *c = r->consumer;
    (void)cancelled;
    pthread_mutex_lock(&c->mu);
    r->backing_off = false;
    if (r->removed) {
        free(r);
    } else {
        consumer_route(c);
    }
    consumer_idle(c);
}

/* Is it no use to try again? Nor is it when the server asks for a wait that would end after the
 * time that the consumer gives: better to say so now than to be silent until then. */
static bool hopeless(const struct sti_consumer *c, const struct cl_failure *failure,
                     uint64_t since_us, uint64_t now_us)
{
    uint64_t asked_us = (uint64_t)failure->retry_after_ms * 1000u;
    return !cl_may_retry(failure->err.traits, true) ||
           now_us + asked_us - since_us >= (uint64_t)c->config.timeout_ms * 1000u;
}

/* The row of a partition says why it ends: it is not carried any more. */
static void reader_failed(struct reader *r, const struct cl_failure *failure)
{
    struct sti_consumer *c = r->consumer;
    uint64_t now = cl_now_us();
    consumer_drop(r, true);
    if (r->failures++ == 0) {
        r->failing_since_us = now;
    }
    if (hopeless(c, failure, r->failing_since_us, now)) {
        consumer_stop(r, &failure->err);
        return;
    }
    if ((failure->err.traits & STI_TRAIT_REFRESH) != 0) {
        cl_topic_refresh_start(r->topic);
    }
    r->retry.fire = reader_retry_fire;
    r->backing_off = true;
    consumer_alarm(c, &r->retry,
                   now + cl_backoff_us(c->client, r->failures - 1, failure->retry_after_ms));
}

static void stream_retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct fstream *s = CL_CONTAINER_OF(alarm, struct fstream, retry);
    struct sti_consumer *c = s->consumer;
    (void)cancelled;
    pthread_mutex_lock(&c->mu);
    s->backing_off = false;
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i]->stream == s) {
            c->readers[i]->stream = NULL; /* somebody else may lead by now */
        }
    }
    consumer_route(c);
    consumer_idle(c);
}

/* The stream, or the attempt at one, has failed. */
static void stream_failed(struct fstream *s, const struct cl_failure *failure)
{
    struct sti_consumer *c = s->consumer;
    uint64_t now = cl_now_us();
    const struct cl_topic *told = NULL;
    if (s->failures++ == 0) {
        s->failing_since_us = now;
    }
    bool over = hopeless(c, failure, s->failing_since_us, now);
    for (size_t i = 0; i < c->count; i++) {
        struct reader *r = c->readers[i];
        if (r->stream != s || !wanted(r)) {
            continue;
        }
        if (over) {
            consumer_stop(r, &failure->err);
        } else if (r->topic != told) {
            told = r->topic;
            cl_topic_refresh_start(r->topic);
        }
    }
    if (over) {
        s->failures = 0; /* a partition that is begun anew has its time anew */
        return;
    }
    s->retry.fire = stream_retry_fire;
    s->backing_off = true;
    consumer_alarm(c, &s->retry,
                   now + cl_backoff_us(c->client, s->failures - 1, failure->retry_after_ms));
}

/* ---- what comes in ------------------------------------------------------------------------- */

/* The reader of a row; rows come in the order of the request. NULL: not wanted any more. */
static struct reader *carried_find(struct fstream *s, const struct cl_fetch_row *row)
{
    for (size_t i = 0; i < s->carried_count; i++) {
        size_t at = (s->carried_at + i) % s->carried_count;
        struct reader *r = s->carried[at];
        if (r != NULL && r->partition == row->partition &&
            strcmp(r->topic->name, row->topic) == 0) {
            s->carried_at = at + 1;
            return r;
        }
    }
    return NULL;
}

/* Where the fetch behind these batches begins, and the epoch of the last one. Bytes that are no
 * header, and a batch out of place, end the walk: poll finds and reports them. */
static int64_t offset_after(struct cl_cursor at, int64_t offset, int32_t *epoch)
{
    struct sti_batch_header header;
    for (bool first = true;
         consumer_header(&at, &header, NULL) == STI_OK && consumer_follows(&header, offset, first);
         first = false) {
        offset = sti_batch_last_offset(&header) + 1;
        *epoch = header.leader_epoch;
        (void)cl_cursor_skip(&at, (size_t)header.total_len);
    }
    return offset;
}

struct taking {
    struct fstream *s;
    struct message *message;
};

/* One row of a message. @locks consumer->mu held */
static void row_take(void *arg, struct cl_fetch_row *row)
{
    struct taking *taking = arg;
    struct reader *r = carried_find(taking->s, row);
    if (r == NULL || !r->live) {
        return;
    }
    if (row->has_error) {
        reader_failed(r, &row->failure);
        return;
    }
    r->failures = 0;
    struct ready *ready = row->batches.left == 0 ? NULL : calloc(1, sizeof *ready);
    if (ready == NULL) {
        if (row->batches.left > 0) {
            struct cl_failure failure = {.retry_after_ms = 0};
            sti_err_set(&failure.err, STI_E_NO_MEMORY, "%s-%d: no memory for what came", row->topic,
                        row->partition);
            reader_failed(r, &failure); /* read again after a pause */
        }
        return;
    }
    int64_t after = offset_after(row->batches, r->fetch_offset, &r->fetched_epoch);
    if (after == r->fetch_offset) {
        consumer_drop(r, false); /* bytes that cannot be read: poll says so */
        r->stopped = true;
    }
    r->fetch_offset = after;
    ready->message = taking->message;
    ready->message->refs++;
    ready->batches = row->batches;
    ready->high_watermark = row->high_watermark;
    ready->held = row->batches.left;
    consumer_ready_push(r, ready);
}

static void message_take(struct fstream *s, grpc_byte_buffer *buffer)
{
    struct message *message = calloc(1, sizeof *message);
    struct taking taking = {.s = s, .message = message};
    const grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;
    s->failures = 0;
    bool good = message != NULL;
    if (good) {
        message->buffer = buffer;
        message->refs = 1;
        s->carried_at = 0;
        good = cl_decode_fetch(cl_cursor_make(slices->slices, slices->count), row_take, &taking);
    }
    if (!good) {
        s->state = FSTREAM_ENDING;
        (void)grpc_call_cancel_with_status(s->call, GRPC_STATUS_INTERNAL,
                                           "the answer cannot be understood", NULL);
    }
    if (message == NULL || --message->refs == 0) {
        grpc_byte_buffer_destroy(buffer);
        free(message);
    }
}

static void receive(struct fstream *s)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &s->in;
    s->in = NULL;
    s->receiving = true;
    s->asked_us = cl_now_us();
    s->ops++;
    if (cl_batch_start(s->call, &op, 1, &s->recv_tag) != GRPC_CALL_OK) {
        abort(); /* gRPC refuses only what breaks its rules */
    }
}

void consumer_receive(struct sti_consumer *c)
{
    for (struct fstream *s = c->streams; s != NULL; s = s->next) {
        if (s->state == FSTREAM_OPEN && !s->receiving && !s->has_status &&
            c->held < c->config.prefetch_bytes) {
            receive(s);
        }
    }
}

/* ---- a call -------------------------------------------------------------------------------- */

static void stream_ended(struct fstream *s)
{
    struct cl_failure failure;
    size_t trailer_len = 0;
    const uint8_t *trailer = cl_trailer(&s->trailing, &trailer_len);
    bool ours = s->dirty || s->consumer->closing;
    if (s->overdue) {
        failure.retry_after_ms = 0;
        sti_err_set(&failure.err, STI_E_TIMED_OUT, "%.100s: no word from the server for %u ms",
                    s->conn->address,
                    s->consumer->config.max_wait_ms + s->consumer->config.timeout_ms);
    } else {
        cl_failure_from_status(&failure, s->conn->address, s->status,
                               (const char *)GRPC_SLICE_START_PTR(s->details),
                               GRPC_SLICE_LENGTH(s->details), trailer, trailer_len);
    }
    bool good = s->status == GRPC_STATUS_OK || (ours && s->status == GRPC_STATUS_CANCELLED);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    grpc_call_unref(s->call);
    s->call = NULL;
    for (size_t i = 0; i < s->carried_count; i++) {
        if (s->carried[i] != NULL) {
            s->carried[i]->live = false;
        }
    }
    free(s->carried);
    s->carried = NULL;
    s->carried_count = 0;
    s->state = FSTREAM_CLOSED;
    s->dirty = false;
    if (!good && !s->consumer->closing) {
        stream_failed(s, &failure);
    }
    consumer_route(s->consumer);
}

static void op_done(struct fstream *s)
{
    if (--s->ops == 0 && s->has_status) {
        stream_ended(s);
    }
    consumer_idle(s->consumer);
}

static void send_complete(struct cl_tag *tag, bool ok)
{
    struct fstream *s = CL_CONTAINER_OF(tag, struct fstream, send_tag);
    (void)ok;
    grpc_byte_buffer_destroy(s->out);
    pthread_mutex_lock(&s->consumer->mu);
    s->consumer->under_way++;
    op_done(s);
}

static void recv_complete(struct cl_tag *tag, bool ok)
{
    struct fstream *s = CL_CONTAINER_OF(tag, struct fstream, recv_tag);
    struct sti_consumer *c = s->consumer;
    pthread_mutex_lock(&c->mu);
    c->under_way++;
    grpc_byte_buffer *in = s->in;
    s->in = NULL;
    s->receiving = false;
    if (in != NULL && ok && s->state == FSTREAM_OPEN) {
        message_take(s, in);
        if (s->state == FSTREAM_OPEN && c->held < c->config.prefetch_bytes) {
            receive(s);
        }
        stream_update(s);
    } else if (in != NULL) {
        grpc_byte_buffer_destroy(in);
    }
    op_done(s);
}

static void status_complete(struct cl_tag *tag, bool ok)
{
    struct fstream *s = CL_CONTAINER_OF(tag, struct fstream, status_tag);
    (void)ok;
    pthread_mutex_lock(&s->consumer->mu);
    s->consumer->under_way++;
    s->has_status = true;
    s->state = FSTREAM_ENDING;
    op_done(s);
}

static void watch_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct fstream *s = CL_CONTAINER_OF(alarm, struct fstream, watch);
    struct sti_consumer *c = s->consumer;
    uint64_t most = ((uint64_t)c->config.max_wait_ms + c->config.timeout_ms) * 1000u;
    uint64_t now = cl_now_us();
    (void)cancelled;
    pthread_mutex_lock(&c->mu);
    s->watching = false;
    if (!c->closing && s->state == FSTREAM_OPEN) {
        if (s->receiving && now >= s->asked_us + most) {
            s->overdue = true;
            s->state = FSTREAM_ENDING;
            (void)grpc_call_cancel(s->call, NULL);
        } else {
            s->watching = true;
            consumer_alarm(c, &s->watch, (s->receiving ? s->asked_us : now) + most);
        }
    }
    consumer_idle(c);
}

/* The request for all partitions that this stream is to carry. NULL: none, or no memory. */
static grpc_byte_buffer *request_make(struct fstream *s)
{
    struct sti_consumer *c = s->consumer;
    Streamit__V1__FetchRequest request = STREAMIT__V1__FETCH_REQUEST__INIT;
    Streamit__V1__FetchPartition *rows = calloc(c->count + 1, sizeof *rows);
    Streamit__V1__FetchPartition **pointers = calloc(c->count + 1, sizeof(void *));
    s->carried = calloc(c->count + 1, sizeof(void *));
    s->carried_count = 0;
    grpc_byte_buffer *out = NULL;
    for (size_t i = 0; rows != NULL && pointers != NULL && s->carried != NULL && i < c->count;
         i++) {
        struct reader *r = c->readers[i];
        if (r->stream != s || !wanted(r)) {
            continue;
        }
        Streamit__V1__FetchPartition *row = &rows[s->carried_count];
        streamit__v1__fetch_partition__init(row);
        row->topic = r->topic->name;
        row->partition = r->partition;
        row->offset = r->fetch_offset;
        row->max_bytes = c->config.fetch_bytes;
        if (r->fetched_epoch >= 0) {
            row->known_last_epoch_case = STREAMIT__V1__FETCH_PARTITION__KNOWN_LAST_EPOCH_LAST_EPOCH;
            row->last_epoch = r->fetched_epoch;
        }
        pointers[s->carried_count] = row;
        s->carried[s->carried_count++] = r;
        r->live = true;
    }
    if (s->carried_count > 0) {
        request.max_wait_ms = c->config.max_wait_ms;
        request.min_bytes = 1;
        request.max_bytes = c->config.fetch_bytes;
        request.n_partitions = s->carried_count;
        request.partitions = pointers;
        out = cl_pack(&request.base);
    } else {
        free(s->carried);
        s->carried = NULL;
    }
    free(rows);
    free(pointers);
    return out;
}

static void stream_start(struct fstream *s)
{
    struct sti_consumer *c = s->consumer;
    grpc_op send[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                       {.op = GRPC_OP_SEND_MESSAGE},
                       {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
    grpc_op recv[2] = {{.op = GRPC_OP_RECV_INITIAL_METADATA}, {.op = GRPC_OP_RECV_MESSAGE}};
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    s->state = FSTREAM_CLOSED;
    s->dirty = false;
    s->out = request_make(s);
    if (s->out == NULL) {
        return;
    }
    s->state = FSTREAM_OPEN;
    s->has_status = s->overdue = false;
    s->in = NULL;
    s->details = grpc_empty_slice();
    s->status = GRPC_STATUS_UNKNOWN;
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->call = grpc_channel_create_registered_call(
        s->conn->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->conn->client->queue,
        s->conn->methods[CL_FETCH_STREAM], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    send[0].data.send_initial_metadata.count = cl_metadata(s->metadata, c->client);
    send[0].data.send_initial_metadata.metadata = s->metadata;
    send[1].data.send_message.send_message = s->out;
    recv[0].data.recv_initial_metadata.recv_initial_metadata = &s->initial;
    recv[1].data.recv_message.recv_message = &s->in;
    status.data.recv_status_on_client.trailing_metadata = &s->trailing;
    status.data.recv_status_on_client.status = &s->status;
    status.data.recv_status_on_client.status_details = &s->details;
    s->ops = 3;
    s->receiving = true;
    s->asked_us = cl_now_us();
    if (cl_batch_start(s->call, send, 3, &s->send_tag) != GRPC_CALL_OK ||
        cl_batch_start(s->call, recv, 2, &s->recv_tag) != GRPC_CALL_OK ||
        cl_batch_start(s->call, &status, 1, &s->status_tag) != GRPC_CALL_OK) {
        abort(); /* gRPC refuses only what breaks its rules */
    }
    if (!s->watching) {
        s->watching = true;
        consumer_alarm(c, &s->watch,
                       s->asked_us +
                           ((uint64_t)c->config.max_wait_ms + c->config.timeout_ms) * 1000u);
    }
}

static void stream_connected(struct cl_connect *connect, const struct sti_err *err)
{
    struct fstream *s = CL_CONTAINER_OF(connect, struct fstream, connect);
    struct sti_consumer *c = s->consumer;
    pthread_mutex_lock(&c->mu);
    if (err != NULL && !c->closing) {
        struct cl_failure failure = {.err = *err};
        s->state = FSTREAM_CLOSED;
        stream_failed(s, &failure);
    } else {
        stream_start(s);
    }
    consumer_idle(c);
}

/* Bring a stream to what it should be. */
static void stream_update(struct fstream *s)
{
    struct sti_consumer *c = s->consumer;
    if (s->state == FSTREAM_OPEN && s->dirty) {
        s->state = FSTREAM_ENDING;
        (void)grpc_call_cancel(s->call, NULL);
    } else if (s->state == FSTREAM_CLOSED && s->dirty && !s->backing_off && !c->closing) {
        s->state = FSTREAM_CONNECTING;
        c->under_way++;
        pthread_mutex_unlock(&c->mu);
        cl_connect_start(&s->connect, s->conn, cl_due_us(c->config.timeout_ms));
        pthread_mutex_lock(&c->mu);
    }
}

/* NULL: out of memory. */
static struct fstream *stream_get(struct sti_consumer *c, struct cl_conn *conn)
{
    struct fstream *s = c->streams;
    while (s != NULL && s->conn != conn) {
        s = s->next;
    }
    if (s == NULL && conn != NULL && (s = calloc(1, sizeof *s)) != NULL) {
        s->consumer = c;
        s->conn = conn;
        s->watch.fire = watch_fire;
        s->connect.done = stream_connected;
        s->send_tag.complete = send_complete;
        s->recv_tag.complete = recv_complete;
        s->status_tag.complete = status_complete;
        s->next = c->streams;
        c->streams = s;
    }
    return s;
}

void consumer_route(struct sti_consumer *c)
{
    for (size_t i = 0; i < c->count; i++) {
        struct reader *r = c->readers[i];
        if (r->live && !wanted(r)) {
            consumer_drop(r, false);
        } else if (!r->live && wanted(r)) {
            uint32_t version = atomic_load(&r->topic->version);
            if (r->stream == NULL || r->version != version) {
                r->stream = stream_get(c, cl_topic_leader(r->topic, r->partition));
                r->version = version;
            }
            if (r->stream != NULL) {
                r->stream->dirty = true;
            }
        }
    }
    for (struct fstream *s = c->streams; s != NULL; s = s->next) {
        stream_update(s);
    }
}

void consumer_streams_close(struct sti_consumer *c)
{
    c->closing = true;
    for (struct fstream *s = c->streams; s != NULL; s = s->next) {
        if (s->call != NULL) {
            (void)grpc_call_cancel(s->call, NULL);
        }
        if (s->backing_off) {
            cl_alarm_cancel(c->client, &s->retry);
        }
        if (s->watching) {
            cl_alarm_cancel(c->client, &s->watch);
        }
    }
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i]->backing_off) {
            cl_alarm_cancel(c->client, &c->readers[i]->retry);
        }
    }
    for (;;) {
        bool calls = false;
        for (const struct fstream *s = c->streams; s != NULL; s = s->next) {
            calls = calls || s->call != NULL;
        }
        if (!calls && c->under_way == 0) {
            break;
        }
        pthread_cond_wait(&c->cond, &c->mu);
    }
    while (c->streams != NULL) {
        struct fstream *s = c->streams;
        c->streams = s->next;
        free(s);
    }
}
