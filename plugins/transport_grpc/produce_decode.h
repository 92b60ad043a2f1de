/* produce_decode.h -- a ProduceRequest or ProduceStreamRequest from the receive buffer, without
 * copying its batches. */
#ifndef TRANSPORT_GRPC_PRODUCE_DECODE_H
#define TRANSPORT_GRPC_PRODUCE_DECODE_H

#include "arena.h"
#include "streamit/broker.h"
#include "wire.h"

struct tgr_produce_row {
    struct sti_produce_row row;
    char topic[STI_TOPIC_NAME_MAX + 1];
    /* Records that are still to be made a batch of: see records.h. Their fields lie between
     * `body.pos` and `body_end`, among the partition's others. */
    struct tgr_reader body;
    uint64_t body_end;
    uint32_t record_count; /* 0: the row carries a batch */
    int32_t codec;         /* enum sti_codec, for the records */
};

/* The broker's call and all that it points to, except the batches' bytes. */
struct tgr_produce {
    struct sti_produce call;
    struct sti_produce_row **row_pointers;
    struct tgr_produce_row *rows;
    uint64_t id, answered; /* of a ProduceStreamRequest */
    uint64_t record_bytes; /* of all partitions with records: what is to be encoded; 0: nothing */
};

/* Which of the two messages it is: they differ in their scalars only. */
enum tgr_produce_kind { TGR_PRODUCE_UNARY, TGR_PRODUCE_STREAMED };

/* Decode the message that lies scattered over `spans`. Rows point into the spans, which must stay
 * until the broker has answered; the rest comes from the arena. As in every proto3 reader the last
 * of several equal fields counts, and unknown fields are stepped over.
 * @return STI_OK; STI_E_INVALID_ARGUMENT (malformed, no partition, a name that is too long or not
 * UTF-8, a topic id of another length, unknown acks or compression, records beside a batch), with
 * the field's name; STI_E_RESOURCE_EXHAUSTED (more than rows_max partitions); STI_E_NO_MEMORY */
int tgr_produce_decode(struct tgr_arena *arena, enum tgr_produce_kind kind,
                       const struct sti_slice *spans, size_t count, size_t rows_max,
                       struct tgr_produce **out, struct sti_err *err);

#endif /* TRANSPORT_GRPC_PRODUCE_DECODE_H */
