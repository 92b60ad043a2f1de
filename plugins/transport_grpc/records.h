/* records.h -- decoded records of a request, made into the record batches that the broker takes. */
#ifndef TRANSPORT_GRPC_RECORDS_H
#define TRANSPORT_GRPC_RECORDS_H

#include "produce_decode.h"

/* Batches under construction or waiting for their answer. All zero is an empty list. */
struct tgr_batches {
    struct sti_batch_builder **builders;
    size_t count;
};

/* Make one batch of each row's records; the row then carries it, borrowed from `batches`, which
 * must stay until the broker has answered. Rows that came with a batch are left alone.
 * @param bytes_max  of one batch before compression
 * @param now_ms  timestamp of records without one
 * @param copied  out: payload bytes that were copied
 * @return STI_OK; STI_E_INVALID_ARGUMENT (malformed, with the field's name);
 * STI_E_MESSAGE_TOO_LARGE (more than bytes_max); STI_E_NO_MEMORY, STI_E_INTERNAL. Free `batches` in
 * any case. */
int tgr_records_encode(struct tgr_arena *arena, struct tgr_produce *produce, uint64_t bytes_max,
                       int64_t now_ms, struct tgr_batches *batches, uint64_t *copied,
                       struct sti_err *err);
void tgr_batches_free(struct tgr_batches *batches);

#endif /* TRANSPORT_GRPC_RECORDS_H */
