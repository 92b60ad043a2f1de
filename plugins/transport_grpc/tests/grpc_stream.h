/* grpc_stream.h -- a plain gRPC client of streams for tests: every step waited for, or left. */
#ifndef TRANSPORT_GRPC_TEST_STREAM_H
#define TRANSPORT_GRPC_TEST_STREAM_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stdint.h>

#include "streamit/v1/streamit.pb-c.h"

struct test_stream {
    grpc_completion_queue *cq;
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_slice details;
    grpc_status_code status;
    grpc_byte_buffer *received;
    bool reading; /* a read is under way, since one did not come in time */
};

void test_stream_open(struct test_stream *s, grpc_channel *channel, const char *path,
                      int deadline_ms);
/* Send a message of these slices, which are taken over. @return whether it left within a second:
 * if not, nothing else may be sent */
bool test_stream_send_slices(struct test_stream *s, grpc_slice *slices, size_t count);
/* One record for one partition. */
bool test_stream_produce(struct test_stream *s, uint64_t id, uint64_t answered, const char *topic,
                         int32_t partition, const void *batch, size_t len);
void test_stream_half_close(struct test_stream *s);
/* The next message in one piece, to be freed; NULL: there is none, the stream ends.
 * @param len  out */
uint8_t *test_stream_receive(struct test_stream *s, size_t *len);
/* The same as a message. */
Streamit__V1__ProduceStreamResponse *test_stream_answers(struct test_stream *s);
/* The next message as it came; NULL: the stream ends. */
grpc_byte_buffer *test_stream_receive_buffer(struct test_stream *s);
/* Does a message come within so long? Take it with receive then. */
bool test_stream_poll(struct test_stream *s, int wait_ms);
/* Wait for the status, and free all. */
grpc_status_code test_stream_end(struct test_stream *s, char *text, size_t text_max);

#endif /* TRANSPORT_GRPC_TEST_STREAM_H */
