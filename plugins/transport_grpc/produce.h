/* produce.h -- what Produce and ProduceStream share. */
#ifndef TRANSPORT_GRPC_PRODUCE_H
#define TRANSPORT_GRPC_PRODUCE_H

#include "produce_decode.h"
#include "records.h"
#include "streamit/v1/streamit.pb-c.h"
#include "transport.h"

/* Decode the message of a call. @return as tgr_produce_decode; STI_E_MESSAGE_TOO_LARGE when it is
 * larger than the listener takes; STI_E_UNSUPPORTED (compressed by gRPC) */
int tgr_produce_read(struct tgr_transport *t, struct tgr_arena *arena, enum tgr_produce_kind kind,
                     grpc_byte_buffer *payload, struct tgr_produce **out, struct sti_err *err);
/* Make batches of records, if it has any: see tgr_records_encode. More than TGR_INLINE_BYTES of
 * them are work for the executor. */
int tgr_produce_encode(struct tgr_transport *t, struct tgr_arena *arena,
                       struct tgr_produce *produce, struct tgr_batches *batches,
                       struct sti_err *err);
/* The answered rows as messages, which point to them. NULL when memory ran out. */
Streamit__V1__ProduceResult **tgr_produce_results(struct tgr_rpc *rpc, struct tgr_arena *arena,
                                                  const struct sti_produce *call);

#endif /* TRANSPORT_GRPC_PRODUCE_H */
