/* rpc.c -- the call object: references, batches, decoding its request and sending its answer.
 *
 * gRPC gives back the tag of every batch that it accepted exactly once; each holds a reference
 * until then. All batches start in tgr_rpc_batch(), so that a thread checker, which cannot see into
 * the library, learns of the hand-over between the starting thread and the poller.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdlib.h>
#include <string.h>

#include "../common/grpc/thread_check.h"
#include "status_map.h"
#include "transport.h"
#include "wire.h"

enum {
    SMALL_REQUEST_BYTES_MAX = 1 << 20, /* of every message that is unpacked rather than streamed */
    REQUEST_FIELDS_MAX = 65536,
    TRAILERS_MAX = 2
};

struct tgr_rpc *tgr_rpc_new(struct tgr_transport *t, enum tgr_method method)
{
    pthread_mutexattr_t attr;
    struct tgr_rpc *rpc = calloc(1, sizeof *rpc);
    if (rpc == NULL) {
        return NULL;
    }
    rpc->t = t;
    rpc->method = method;
    atomic_init(&rpc->refs, 1);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&rpc->mu, &attr);
    pthread_mutexattr_destroy(&attr);
    grpc_metadata_array_init(&rpc->metadata);
    grpc_call_details_init(&rpc->details);
    return rpc;
}

void tgr_rpc_ref(struct tgr_rpc *rpc)
{
    (void)atomic_fetch_add_explicit(&rpc->refs, 1, memory_order_relaxed);
}

void tgr_rpc_unref(struct tgr_rpc *rpc)
{
    if (atomic_fetch_sub_explicit(&rpc->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    struct tgr_transport *t = rpc->t;
    bool active = rpc->active;
    enum tgr_method method = rpc->method;
    if (rpc->payload != NULL) {
        grpc_byte_buffer_destroy(rpc->payload);
    }
    if (rpc->out != NULL) {
        grpc_byte_buffer_destroy(rpc->out);
    }
    grpc_metadata_array_destroy(&rpc->metadata);
    grpc_call_details_destroy(&rpc->details);
    if (rpc->call != NULL) {
        grpc_call_unref(rpc->call);
    }
    tgr_arena_fini(&rpc->arena);
    pthread_mutex_destroy(&rpc->mu);
    free(rpc);
    if (active) {
        tgr_active_drop(t, method);
    }
}

int tgr_rpc_batch(struct tgr_rpc *rpc, const grpc_op *ops, size_t count, struct tgr_tag *tag,
                  void (*fn)(struct tgr_tag *tag, bool ok))
{
    tag->fn = fn;
    tag->rpc = rpc;
    tgr_rpc_ref(rpc);
    gco_thread_release(tag);
    grpc_call_error rc = grpc_call_start_batch(rpc->call, ops, count, tag, NULL);
    if (rc == GRPC_CALL_OK) {
        return STI_OK;
    }
    sti_log(rpc->t->host, STI_LOG_ERROR, "grpc_batch_refused",
            "gRPC refused an operation; the call is cancelled",
            STI_F_STR("reason", grpc_call_error_to_string(rc)),
            STI_F_STR("method", tgr_methods[rpc->method].label));
    (void)grpc_call_cancel(rpc->call, NULL);
    tgr_rpc_unref(rpc);
    return STI_E_INTERNAL;
}

static void on_done(struct tgr_tag *tag, bool ok)
{
    (void)ok;
    if (tag == &tag->rpc->tag_done) {
        tgr_metrics_sent(tag->rpc);
    }
    tgr_rpc_unref(tag->rpc);
}

int tgr_rpc_watch_close(struct tgr_rpc *rpc, void (*fn)(struct tgr_tag *tag, bool ok))
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &rpc->cancelled;
    rpc->close_requested = true;
    return tgr_rpc_batch(rpc, &op, 1, &rpc->tag_close, fn);
}

void tgr_rpc_open(struct tgr_rpc *rpc)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_INITIAL_METADATA;
    rpc->metadata_sent = true;
    (void)tgr_rpc_batch(rpc, &op, 1, &rpc->tag_open, on_done);
}

bool tgr_rpc_closed(struct tgr_rpc *rpc)
{
    pthread_mutex_lock(&rpc->mu);
    rpc->closed = true;
    bool cancelled = rpc->cancelled != 0;
    pthread_mutex_unlock(&rpc->mu);
    return cancelled;
}

grpc_byte_buffer *tgr_pack(const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(len);
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* The trailer with the typed error. False when memory ran out: the status then goes without. */
static bool error_trailer(struct tgr_rpc *rpc, int code, const struct sti_err *err,
                          grpc_metadata *out)
{
    Streamit__V1__Error *error = tgr_error_new(&rpc->arena, code, err);
    if (error == NULL) {
        return false;
    }
    tgr_error_retry(error, rpc->retry_after_ms);
    out->key = grpc_slice_from_static_string("streamit-error-bin");
    out->value = grpc_slice_malloc(streamit__v1__error__get_packed_size(error));
    (void)streamit__v1__error__pack(error, GRPC_SLICE_START_PTR(out->value));
    return true;
}

/* Trailing metadata of every answer. @return how many */
static size_t trailers(struct tgr_rpc *rpc, int code, const struct sti_err *err,
                       grpc_metadata out[TRAILERS_MAX])
{
    size_t n = 0;
    memset(out, 0, TRAILERS_MAX * sizeof *out);
    if (rpc->trace_id[0] != '\0') {
        out[n].key = grpc_slice_from_static_string("x-trace-id");
        out[n++].value = grpc_slice_from_copied_string(rpc->trace_id);
    }
    if (code != STI_OK && error_trailer(rpc, code, err, &out[n])) {
        n++;
    }
    return n;
}

void tgr_rpc_finish(struct tgr_rpc *rpc, grpc_byte_buffer *out, int code, const struct sti_err *err)
{
    grpc_op ops[4];
    size_t n = 0;
    char text[320];
    grpc_slice details = grpc_empty_slice();
    grpc_metadata metadata[TRAILERS_MAX];
    memset(ops, 0, sizeof ops);
    pthread_mutex_lock(&rpc->mu);
    rpc->finished = true;
    tgr_metrics_count(rpc, code, out == NULL ? 0 : grpc_byte_buffer_length(out));
    if (!rpc->metadata_sent) {
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
        rpc->metadata_sent = true;
    }
    if (code == STI_OK && out != NULL) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = out;
        rpc->out = out;
    }
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[n].data.send_status_from_server.status = tgr_grpc_status(code);
    if (code != STI_OK) {
        tgr_error_text(text, sizeof text, code, err);
        details = grpc_slice_from_copied_string(text);
        ops[n].data.send_status_from_server.status_details = &details;
    }
    size_t metadata_count = trailers(rpc, code, err, metadata);
    ops[n].data.send_status_from_server.trailing_metadata = metadata;
    ops[n++].data.send_status_from_server.trailing_metadata_count = metadata_count;
    if (!rpc->close_requested) {
        ops[n].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        ops[n++].data.recv_close_on_server.cancelled = &rpc->cancelled;
        rpc->close_requested = true;
    }
    (void)tgr_rpc_batch(rpc, ops, n, &rpc->tag_done, on_done);
    pthread_mutex_unlock(&rpc->mu);
    grpc_slice_unref(details);
    for (size_t i = 0; i < metadata_count; i++) {
        grpc_slice_unref(metadata[i].value);
    }
}

void tgr_rpc_reply(struct tgr_rpc *rpc, const ProtobufCMessage *message)
{
    tgr_rpc_finish(rpc, tgr_pack(message), STI_OK, NULL);
}

void tgr_rpc_no_memory(struct tgr_rpc *rpc)
{
    tgr_rpc_finish(rpc, NULL, STI_E_NO_MEMORY, NULL);
}

int tgr_spans(struct tgr_arena *arena, grpc_byte_buffer *buffer, struct sti_slice **out,
              size_t *count, struct sti_err *err)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *slice;
    *out = NULL;
    *count = 0;
    if (buffer == NULL) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "the call carries no request message");
    }
    if (buffer->type != GRPC_BB_RAW || buffer->data.raw.compression != GRPC_COMPRESS_NONE) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "compressed messages are not accepted; compress the record batch");
    }
    size_t capacity = buffer->data.raw.slice_buffer.count;
    struct sti_slice *spans = tgr_arena_alloc(arena, capacity + 1, sizeof *spans);
    if (spans == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request");
    }
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "the request message cannot be read");
    }
    while (*count < capacity && grpc_byte_buffer_reader_peek(&reader, &slice) != 0) {
        spans[*count] = sti_slice_borrow(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
        (*count)++;
    }
    grpc_byte_buffer_reader_destroy(&reader);
    *out = spans;
    return STI_OK;
}

void *tgr_unpack(struct tgr_rpc *rpc, grpc_byte_buffer *buffer,
                 const ProtobufCMessageDescriptor *type, struct sti_err *err)
{
    struct sti_slice *spans;
    size_t count;
    if (tgr_spans(&rpc->arena, buffer, &spans, &count, err) != STI_OK) {
        return NULL;
    }
    uint64_t len = sti_slices_len(spans, count);
    if (len > SMALL_REQUEST_BYTES_MAX) {
        (void)sti_err_set(err, STI_E_MESSAGE_TOO_LARGE, "%s: %llu bytes, at most %d",
                          type->short_name, (unsigned long long)len, SMALL_REQUEST_BYTES_MAX);
        return NULL;
    }
    const uint8_t *data = count == 1 ? spans[0].data : NULL;
    if (count != 1) {
        uint8_t *copy = tgr_arena_alloc(&rpc->arena, (size_t)len + 1, 1);
        struct tgr_reader reader;
        tgr_reader_init(&reader, spans, count);
        if (copy == NULL || !tgr_read_bytes(&reader, len, len, copy)) {
            (void)sti_err_set(err, STI_E_NO_MEMORY, "no memory for a request");
            return NULL;
        }
        data = copy;
    }
    if (tgr_wire_check(type, data, (size_t)len, REQUEST_FIELDS_MAX, err) != STI_OK) {
        return NULL;
    }
    ProtobufCAllocator allocator = tgr_arena_allocator(&rpc->arena);
    void *message = protobuf_c_message_unpack(type, &allocator, (size_t)len, data);
    if (message == NULL) {
        (void)sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: it is malformed", type->short_name);
    }
    return message;
}

void *tgr_rpc_unpack(struct tgr_rpc *rpc, const ProtobufCMessageDescriptor *type)
{
    struct sti_err err;
    sti_err_clear(&err);
    void *message = tgr_unpack(rpc, rpc->payload, type, &err);
    if (message == NULL) {
        sti_metric_add(rpc->t->malformed, 1);
        tgr_rpc_finish(rpc, NULL, err.code, &err);
    }
    return message;
}
