/* grpc_stream.c -- see grpc_stream.h. */
#include "grpc_stream.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEND_MS = 1000 };

/* Tags: the address of these members stands for what is under way. */
static void *tag_of(struct test_stream *s, int kind)
{
    return (char *)s + kind;
}
enum { TAG_OPEN, TAG_STATUS, TAG_READ, TAG_SEND, TAG_CLOSE };

static gpr_timespec in_ms(int ms)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

static bool wait_tag(struct test_stream *s, int kind, gpr_timespec until)
{
    grpc_event event = grpc_completion_queue_pluck(s->cq, tag_of(s, kind), until, NULL);
    return event.type == GRPC_OP_COMPLETE;
}

static void start(struct test_stream *s, const grpc_op *ops, size_t count, int kind)
{
    if (grpc_call_start_batch(s->call, ops, count, tag_of(s, kind), NULL) != GRPC_CALL_OK) {
        abort();
    }
}

void test_stream_open(struct test_stream *s, grpc_channel *channel, const char *path,
                      int deadline_ms)
{
    grpc_op ops[2];
    memset(s, 0, sizeof *s);
    memset(ops, 0, sizeof ops);
    s->cq = grpc_completion_queue_create_for_pluck(NULL);
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->details = grpc_empty_slice();
    s->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->cq,
                                       grpc_slice_from_static_string(path), NULL,
                                       in_ms(deadline_ms), NULL);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->initial;
    start(s, ops, 2, TAG_OPEN);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &s->trailing;
    ops[0].data.recv_status_on_client.status = &s->status;
    ops[0].data.recv_status_on_client.status_details = &s->details;
    start(s, ops, 1, TAG_STATUS);
}

bool test_stream_send_slices(struct test_stream *s, grpc_slice *slices, size_t count)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, count);
    for (size_t i = 0; i < count; i++) {
        grpc_slice_unref(slices[i]);
    }
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = buffer;
    start(s, &op, 1, TAG_SEND);
    bool sent = wait_tag(s, TAG_SEND, in_ms(SEND_MS));
    grpc_byte_buffer_destroy(buffer);
    return sent;
}

bool test_stream_produce(struct test_stream *s, uint64_t id, uint64_t answered, const char *topic,
                         int32_t partition, const void *batch, size_t len)
{
    Streamit__V1__ProducePartition part = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *parts[] = {&part};
    Streamit__V1__ProduceStreamRequest request = STREAMIT__V1__PRODUCE_STREAM_REQUEST__INIT;
    part.topic = (char *)(uintptr_t)topic;
    part.partition = partition;
    part.batch = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)batch};
    request.id = id;
    request.answered = answered;
    request.acks = STREAMIT__V1__ACKS__ACKS_LEADER;
    request.n_partitions = 1;
    request.partitions = parts;
    grpc_slice slice =
        grpc_slice_malloc(streamit__v1__produce_stream_request__get_packed_size(&request));
    (void)streamit__v1__produce_stream_request__pack(&request, GRPC_SLICE_START_PTR(slice));
    return test_stream_send_slices(s, &slice, 1);
}

void test_stream_half_close(struct test_stream *s)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    start(s, &op, 1, TAG_CLOSE);
    (void)wait_tag(s, TAG_CLOSE, gpr_inf_future(GPR_CLOCK_MONOTONIC));
}

static void read_start(struct test_stream *s)
{
    grpc_op op;
    if (s->reading) {
        return;
    }
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->received;
    s->reading = true;
    start(s, &op, 1, TAG_READ);
}

bool test_stream_poll(struct test_stream *s, int wait_ms)
{
    if (s->received != NULL && !s->reading) {
        return true;
    }
    read_start(s);
    if (!wait_tag(s, TAG_READ, in_ms(wait_ms))) {
        return false;
    }
    s->reading = false;
    return s->received != NULL;
}

grpc_byte_buffer *test_stream_receive_buffer(struct test_stream *s)
{
    if (s->received == NULL || s->reading) {
        read_start(s);
        (void)wait_tag(s, TAG_READ, gpr_inf_future(GPR_CLOCK_MONOTONIC));
        s->reading = false;
    }
    grpc_byte_buffer *buffer = s->received;
    s->received = NULL;
    return buffer;
}

uint8_t *test_stream_receive(struct test_stream *s, size_t *len)
{
    grpc_byte_buffer_reader reader;
    grpc_byte_buffer *buffer = test_stream_receive_buffer(s);
    *len = 0;
    if (buffer == NULL) {
        return NULL;
    }
    grpc_byte_buffer_reader_init(&reader, buffer);
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    *len = GRPC_SLICE_LENGTH(all);
    uint8_t *data = malloc(*len + 1);
    if (data == NULL) {
        abort();
    }
    memcpy(data, GRPC_SLICE_START_PTR(all), *len);
    grpc_slice_unref(all);
    return data;
}

Streamit__V1__ProduceStreamResponse *test_stream_answers(struct test_stream *s)
{
    size_t len;
    uint8_t *data = test_stream_receive(s, &len);
    if (data == NULL) {
        return NULL;
    }
    Streamit__V1__ProduceStreamResponse *response =
        streamit__v1__produce_stream_response__unpack(NULL, len, data);
    free(data);
    return response;
}

grpc_status_code test_stream_end(struct test_stream *s, char *text, size_t text_max)
{
    grpc_byte_buffer *buffer;
    while ((buffer = test_stream_receive_buffer(s)) != NULL) { /* the status comes behind them */
        grpc_byte_buffer_destroy(buffer);
    }
    (void)wait_tag(s, TAG_STATUS, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    (void)wait_tag(s, TAG_OPEN, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    snprintf(text, text_max, "%.*s", (int)GRPC_SLICE_LENGTH(s->details),
             (const char *)GRPC_SLICE_START_PTR(s->details));
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    grpc_call_unref(s->call);
    grpc_completion_queue_shutdown(s->cq);
    while (
        grpc_completion_queue_pluck(s->cq, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
        GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(s->cq);
    return s->status;
}
