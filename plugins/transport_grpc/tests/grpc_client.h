/* grpc_client.h -- a plain gRPC client for tests: unary calls, waited for or left under way. */
#ifndef TRANSPORT_GRPC_TEST_CLIENT_H
#define TRANSPORT_GRPC_TEST_CLIENT_H

#include <grpc/grpc.h>
#include <stdint.h>

#include "streamit/v1/streamit.pb-c.h"

struct test_call {
    grpc_completion_queue *cq;
    grpc_call *call;
    grpc_byte_buffer *request, *response;
    grpc_metadata_array initial, trailing;
    grpc_slice details;
    grpc_status_code status;
    uint8_t *data; /* of the response, or NULL */
    size_t len;
    char text[512];             /* the status message */
    Streamit__V1__Error *error; /* of the trailer, or NULL */
};

grpc_channel *test_channel_new(int port);

/* Start a call; `request` goes out in slices of `slice_len` bytes (0: in one).
 * @param headers  key, value, key, value, ..., NULL; or NULL */
void test_call_start(struct test_call *call, grpc_channel *channel, const char *path,
                     const void *request, size_t len, size_t slice_len, int deadline_ms,
                     const char *const *headers);
/* Wait for the end. */
void test_call_wait(struct test_call *call);
void test_call_free(struct test_call *call);

/* start, wait */
void test_call_run(struct test_call *call, grpc_channel *channel, const char *path,
                   const void *request, size_t len);
/* The same with a message. */
void test_call_message(struct test_call *call, grpc_channel *channel, const char *path,
                       const ProtobufCMessage *message);

#endif /* TRANSPORT_GRPC_TEST_CLIENT_H */
