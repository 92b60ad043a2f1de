/* batches.h -- record batches as a fetch hands them out: where they end, and the records in them.
 *
 * Batches lie one behind the other, scattered over slices anywhere.
 */
#ifndef TRANSPORT_GRPC_BATCHES_H
#define TRANSPORT_GRPC_BATCHES_H

#include <grpc/slice.h>
#include <stdbool.h>

#include "streamit/record_batch.h"

/* Which offset follows the last whole batch, and the leader epoch of that. Neither is touched when
 * there is no batch. Only headers are read; one whose offsets lie before its predecessor's end is
 * damaged. @return bytes of whole batches, from the first byte on: all that there are, unless what
 * follows is damaged */
uint64_t tgr_batches_end(const struct sti_slice *slices, size_t count, int64_t *next_offset,
                         int32_t *last_epoch);

/* Is one of the batches compressed? Only headers are read, up to the first that is none. */
bool tgr_batches_compressed(const struct sti_slice *slices, size_t count);

/* What to decode, and what came of it. */
struct tgr_decoding {
    const struct sti_slice *slices;
    size_t slice_count;
    int64_t offset;     /* records before it are left out */
    uint64_t bytes_max; /* of FetchResult.records as encoded */
    bool one_at_least;  /* the first record comes even if it is larger */
    /* out */
    grpc_slice records;  /* repeated field 14 of a FetchResult; empty on failure; unref it */
    int64_t next_offset; /* behind the records; on failure behind what cannot be decoded, as far
                            as its header can be believed */
    int32_t last_epoch;  /* of the batch of the last record, -1: none */
    uint64_t copied;     /* payload bytes */
};

/* Decode records into FetchedRecord messages, CRC first. Batches behind a damaged one are not
 * looked at; records before it are handed out, and the next call comes upon it. Control batches
 * are stepped over.
 * @return STI_OK; STI_E_DATA_LOSS (checksum, header), STI_E_CORRUPT_BATCH (stored as its producer
 * made it, but it holds no records), STI_E_MESSAGE_TOO_LARGE (inflates beyond
 * STI_BATCH_INFLATED_MAX), STI_E_UNSUPPORTED, STI_E_NO_MEMORY */
int tgr_batches_decode(struct tgr_decoding *d, struct sti_err *err);

#endif /* TRANSPORT_GRPC_BATCHES_H */
