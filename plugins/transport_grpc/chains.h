/* chains.h -- the order of a produce stream: one sti_produce_chain for each partition on it.
 *
 * A chain is found by topic name (or by topic id, where the request gives no name) and partition.
 * It is kept while rows of it are under way, and beyond that while its last failure has not been
 * read by the sender; then it says nothing any more and may go. One thread at a time.
 */
#ifndef TRANSPORT_GRPC_CHAINS_H
#define TRANSPORT_GRPC_CHAINS_H

#include "produce_decode.h"

struct tgr_chain;

/* All zero is an empty table. */
struct tgr_chains {
    struct tgr_chain **buckets;
    size_t bucket_count; /* a power of two, or 0 */
    size_t count;
};

/* Name the chain in each row, and hold it there until tgr_chains_drop.
 * @param count_max  chains that a table may hold
 * @return STI_OK; STI_E_RESOURCE_EXHAUSTED, STI_E_NO_MEMORY: no row names or holds one */
int tgr_chains_take(struct tgr_chains *chains, struct tgr_produce *produce, size_t count_max,
                    struct sti_err *err);
/* The rows of an answered request let go. */
void tgr_chains_drop(struct tgr_produce *produce);
/* No row may be under way. */
void tgr_chains_fini(struct tgr_chains *chains);

#endif /* TRANSPORT_GRPC_CHAINS_H */
