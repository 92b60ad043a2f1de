/* call.c -- one unary call, and what its end means.
 *
 *     start -> connect -> one batch of six operations -> status -> done
 *
 * A server of ours puts a serialized Error into the trailer `streamit-error-bin`; then that is what
 * happened. Otherwise gRPC's own status is mapped, and an UNAVAILABLE of a call that was started
 * means that the connection broke: nobody knows how far it came.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- failures ------------------------------------------------------------------------------ */

bool cl_may_retry(uint32_t traits, bool idempotent)
{
    return (traits & STI_TRAIT_RETRIABLE) != 0 &&
           (idempotent || (traits & STI_TRAIT_INDEFINITE) == 0);
}

void cl_failure_from_error(struct cl_failure *out, const Streamit__V1__Error *error)
{
    const char *text = error->message != NULL && error->message[0] != '\0'
                           ? error->message
                           : sti_status_text((int)error->code);
    sti_err_set(&out->err, -(int)error->code, "%s", text);
    out->err.traits = (error->retriable ? STI_TRAIT_RETRIABLE : 0u) |
                      (error->outcome_unknown ? STI_TRAIT_INDEFINITE : 0u) |
                      (error->refresh ? STI_TRAIT_REFRESH : 0u) |
                      (sti_status_traits((int)error->code) & STI_TRAIT_FATAL);
    out->retry_after_ms = error->retry_after_ms;
}

static int code_of_status(grpc_status_code status)
{
    switch (status) {
    case GRPC_STATUS_CANCELLED:
        return STI_E_CANCELLED;
    case GRPC_STATUS_DEADLINE_EXCEEDED:
        return STI_E_TIMED_OUT;
    case GRPC_STATUS_UNAVAILABLE:
        return STI_E_CONNECTION_LOST;
    case GRPC_STATUS_UNIMPLEMENTED:
        return STI_E_UNSUPPORTED;
    case GRPC_STATUS_RESOURCE_EXHAUSTED:
        return STI_E_MESSAGE_TOO_LARGE; /* gRPC's own: a message over a size limit */
    case GRPC_STATUS_UNAUTHENTICATED:
        return STI_E_UNAUTHENTICATED;
    case GRPC_STATUS_PERMISSION_DENIED:
        return STI_E_PERMISSION_DENIED;
    default:
        return STI_E_INTERNAL;
    }
}

void cl_failure_from_status(struct cl_failure *out, const char *address, grpc_status_code status,
                            const char *details, size_t details_len, const uint8_t *trailer,
                            size_t trailer_len)
{
    Streamit__V1__Error *error =
        trailer_len == 0 ? NULL : streamit__v1__error__unpack(NULL, trailer_len, trailer);
    out->retry_after_ms = 0;
    if (error != NULL && error->code != STREAMIT__V1__ERROR_CODE__OK) {
        cl_failure_from_error(out, error);
    } else {
        sti_err_set(&out->err, code_of_status(status), "%.80s: %.*s", address,
                    (int)(details_len > 150 ? 150 : details_len), details);
    }
    if (error != NULL) {
        streamit__v1__error__free_unpacked(error, NULL);
    }
}

/* ---- messages ------------------------------------------------------------------------------ */

grpc_byte_buffer *cl_pack(const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(len);
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

uint8_t *cl_gather(grpc_byte_buffer *buffer, size_t *len)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *slice;
    *len = grpc_byte_buffer_length(buffer);
    uint8_t *data = malloc(*len + 1);
    if (data == NULL || !grpc_byte_buffer_reader_init(&reader, buffer)) {
        free(data);
        return NULL;
    }
    size_t pos = 0;
    while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
        memcpy(data + pos, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
        pos += GRPC_SLICE_LENGTH(*slice);
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return data;
}

size_t cl_metadata(grpc_metadata to[CL_METADATA_MAX], const struct sti_client *client)
{
    size_t count = 0;
    memset(to, 0, CL_METADATA_MAX * sizeof *to);
    to[count].key = grpc_slice_from_static_string("x-client-id");
    to[count++].value = grpc_slice_from_static_string(client->config.client_id);
    if (client->config.trace_id != NULL) {
        to[count].key = grpc_slice_from_static_string("x-trace-id");
        to[count++].value = grpc_slice_from_static_string(client->config.trace_id);
    }
    return count;
}

const uint8_t *cl_trailer(const grpc_metadata_array *trailing, size_t *len)
{
    const uint8_t *data = NULL;
    *len = 0;
    for (size_t i = 0; i < trailing->count; i++) {
        if (grpc_slice_str_cmp(trailing->metadata[i].key, "streamit-error-bin") == 0) {
            data = GRPC_SLICE_START_PTR(trailing->metadata[i].value);
            *len = GRPC_SLICE_LENGTH(trailing->metadata[i].value);
        }
    }
    return data;
}

/* ---- the call ------------------------------------------------------------------------------ */

static void call_release(struct cl_call *call)
{
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    struct sti_client *client = call->connect.conn->client;
    pthread_mutex_lock(&client->call_mu);
    grpc_call *handle = call->call;
    call->call = NULL;
    pthread_mutex_unlock(&client->call_mu);
    if (handle != NULL) {
        grpc_call_unref(handle);
    }
    if (call->out != NULL) {
        grpc_byte_buffer_destroy(call->out);
        call->out = NULL;
    }
}

static void call_complete(struct cl_tag *tag, bool ok)
{
    struct cl_call *call = CL_CONTAINER_OF(tag, struct cl_call, tag);
    struct cl_failure failure;
    grpc_byte_buffer *in = call->in;
    bool good = ok && call->status == GRPC_STATUS_OK && in != NULL;
    call->in = NULL;
    if (!good) {
        size_t trailer_len = 0;
        const uint8_t *trailer = cl_trailer(&call->trailing, &trailer_len);
        cl_failure_from_status(&failure, call->connect.conn->address, call->status,
                               (const char *)GRPC_SLICE_START_PTR(call->details),
                               GRPC_SLICE_LENGTH(call->details), trailer, trailer_len);
    }
    call_release(call);
    call->done(call, good ? in : NULL, good ? NULL : &failure);
    if (in != NULL) {
        grpc_byte_buffer_destroy(in);
    }
}

static void call_fail(struct cl_call *call, int code, const char *why)
{
    struct cl_failure failure = {.retry_after_ms = 0};
    sti_err_set(&failure.err, code, "%.100s: %s", call->connect.conn->address, why);
    call_release(call);
    call->done(call, NULL, &failure);
}

static void call_connected(struct cl_connect *connect, const struct sti_err *err)
{
    struct cl_call *call = CL_CONTAINER_OF(connect, struct cl_call, connect);
    struct cl_conn *conn = connect->conn;
    if (err != NULL) {
        struct cl_failure failure = {.err = *err};
        call_release(call);
        call->done(call, NULL, &failure);
        return;
    }
    grpc_call *handle = grpc_channel_create_registered_call(
        conn->channel, NULL, GRPC_PROPAGATE_DEFAULTS, conn->client->queue,
        conn->methods[call->method], cl_deadline(call->due_us), NULL);
    pthread_mutex_lock(&conn->client->call_mu);
    call->call = handle;
    bool cancelled = call->cancelled;
    pthread_mutex_unlock(&conn->client->call_mu);
    if (cancelled) {
        call_fail(call, STI_E_CANCELLED, "the call was cancelled before it was sent");
        return;
    }
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = cl_metadata(call->metadata, conn->client);
    ops[0].data.send_initial_metadata.metadata = call->metadata;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = call->out;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &call->in;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[5].data.recv_status_on_client.status = &call->status;
    ops[5].data.recv_status_on_client.status_details = &call->details;
    if (cl_batch_start(handle, ops, 6, &call->tag) != GRPC_CALL_OK) {
        call_fail(call, STI_E_INTERNAL, "gRPC refuses the call");
    }
}

void cl_call_start(struct cl_call *call, struct cl_conn *conn, enum cl_method method,
                   grpc_byte_buffer *out, uint64_t due_us)
{
    call->tag.complete = call_complete;
    call->method = method;
    call->due_us = due_us;
    call->out = out;
    call->in = NULL;
    call->details = grpc_empty_slice();
    call->status = GRPC_STATUS_UNKNOWN;
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->connect.done = call_connected;
    cl_connect_start(&call->connect, conn, due_us);
}

void cl_call_cancel(struct sti_client *client, struct cl_call *call)
{
    pthread_mutex_lock(&client->call_mu);
    call->cancelled = true;
    if (call->call != NULL) {
        (void)grpc_call_cancel(call->call, NULL);
    }
    pthread_mutex_unlock(&client->call_mu);
}
