/* fetch.h -- a FetchResponse as bytes: a header per partition, then the slices of storage. */
#ifndef TRANSPORT_GRPC_FETCH_H
#define TRANSPORT_GRPC_FETCH_H

#include <grpc/byte_buffer.h>

#include "arena.h"
#include "streamit/broker.h"
#include "streamit/v1/streamit.pb-c.h"

/* Pack `results` (without their batches) and the slices of the call's rows into one buffer that any
 * protobuf reader takes. Takes the rows' slices over: their references drop when the last byte has
 * left, on any thread. NULL when memory ran out; the slices then stay with the caller. */
grpc_byte_buffer *tgr_fetch_encode(struct tgr_arena *arena, struct sti_fetch *call,
                                   const Streamit__V1__FetchResult *results);

#endif /* TRANSPORT_GRPC_FETCH_H */
