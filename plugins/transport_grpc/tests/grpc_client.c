/* grpc_client.c -- see grpc_client.h. */
#include "grpc_client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADERS_MAX = 8, SLICES_MAX = 4096 };

grpc_channel *test_channel_new(int port)
{
    char address[64];
    grpc_arg args[2] = {
        {.type = GRPC_ARG_INTEGER, .key = (char *)"grpc.use_local_subchannel_pool"},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH}};
    args[0].value.integer = 1;
    args[1].value.integer = -1;
    grpc_channel_args channel_args = {2, args};
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &channel_args);
    grpc_channel_credentials_release(credentials);
    return channel;
}

static grpc_byte_buffer *buffer_of(const uint8_t *data, size_t len, size_t slice_len)
{
    grpc_slice slices[SLICES_MAX];
    size_t count = 0;
    if (slice_len == 0 || len / slice_len >= SLICES_MAX) {
        slice_len = len;
    }
    for (size_t pos = 0; pos < len; pos += slice_len) {
        size_t n = len - pos < slice_len ? len - pos : slice_len;
        slices[count++] = grpc_slice_from_copied_buffer((const char *)data + pos, n);
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, count);
    for (size_t i = 0; i < count; i++) {
        grpc_slice_unref(slices[i]);
    }
    return buffer;
}

void test_call_start(struct test_call *call, grpc_channel *channel, const char *path,
                     const void *request, size_t len, size_t slice_len, int deadline_ms,
                     const char *const *headers)
{
    grpc_op ops[6];
    grpc_metadata metadata[HEADERS_MAX];
    size_t header_count = 0;
    memset(call, 0, sizeof *call);
    memset(ops, 0, sizeof ops);
    memset(metadata, 0, sizeof metadata);
    for (; headers != NULL && *headers != NULL; headers += 2) {
        metadata[header_count].key = grpc_slice_from_static_string(headers[0]);
        metadata[header_count++].value = grpc_slice_from_static_string(headers[1]);
    }
    call->status = GRPC_STATUS_UNKNOWN;
    call->cq = grpc_completion_queue_create_for_pluck(NULL);
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->details = grpc_empty_slice();
    call->request = buffer_of(request, len, slice_len);
    gpr_timespec deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(deadline_ms, GPR_TIMESPAN));
    call->call =
        grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, call->cq,
                                 grpc_slice_from_static_string(path), NULL, deadline, NULL);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY;
    ops[0].data.send_initial_metadata.count = header_count;
    ops[0].data.send_initial_metadata.metadata = metadata;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = call->request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &call->response;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[5].data.recv_status_on_client.status = &call->status;
    ops[5].data.recv_status_on_client.status_details = &call->details;
    if (grpc_call_start_batch(call->call, ops, 6, call, NULL) != GRPC_CALL_OK) {
        abort();
    }
}

static void read_trailer(struct test_call *call)
{
    for (size_t i = 0; i < call->trailing.count; i++) {
        const grpc_metadata *md = &call->trailing.metadata[i];
        if (grpc_slice_str_cmp(md->key, "streamit-error-bin") == 0) {
            call->error = streamit__v1__error__unpack(NULL, GRPC_SLICE_LENGTH(md->value),
                                                      GRPC_SLICE_START_PTR(md->value));
        }
    }
}

void test_call_wait(struct test_call *call)
{
    grpc_event event =
        grpc_completion_queue_pluck(call->cq, call, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    if (event.type != GRPC_OP_COMPLETE) {
        abort();
    }
    if (call->response != NULL) {
        grpc_byte_buffer_reader reader;
        grpc_byte_buffer_reader_init(&reader, call->response);
        grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
        call->len = GRPC_SLICE_LENGTH(all);
        call->data = malloc(call->len + 1);
        if (call->data == NULL) {
            abort();
        }
        memcpy(call->data, GRPC_SLICE_START_PTR(all), call->len);
        grpc_slice_unref(all);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    snprintf(call->text, sizeof call->text, "%.*s", (int)GRPC_SLICE_LENGTH(call->details),
             (const char *)GRPC_SLICE_START_PTR(call->details));
    read_trailer(call);
}

void test_call_free(struct test_call *call)
{
    grpc_byte_buffer_destroy(call->request);
    if (call->response != NULL) {
        grpc_byte_buffer_destroy(call->response);
    }
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_call_unref(call->call);
    grpc_completion_queue_shutdown(call->cq);
    while (grpc_completion_queue_pluck(call->cq, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL)
               .type != GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(call->cq);
    if (call->error != NULL) {
        streamit__v1__error__free_unpacked(call->error, NULL);
    }
    free(call->data);
}

void test_call_run(struct test_call *call, grpc_channel *channel, const char *path,
                   const void *request, size_t len)
{
    test_call_start(call, channel, path, request, len, 0, 10000, NULL);
    test_call_wait(call);
}

void test_call_message(struct test_call *call, grpc_channel *channel, const char *path,
                       const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(len + 1);
    if (bytes == NULL) {
        abort();
    }
    (void)protobuf_c_message_pack(message, bytes);
    test_call_run(call, channel, path, bytes, len);
    free(bytes);
}
