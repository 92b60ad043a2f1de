/* fetch.h -- what Fetch and FetchStream share: the broker's call, and its rows as a message. */
#ifndef TRANSPORT_GRPC_FETCH_H
#define TRANSPORT_GRPC_FETCH_H

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>

#include "arena.h"
#include "streamit/broker.h"
#include "streamit/v1/streamit.pb-c.h"
#include "transport.h"

/* A fetch under way: in the arena of its call, as the call's state. */
struct tgr_fetch {
    struct sti_task task; /* first: decoding on the executor */
    struct tgr_rpc *rpc;
    struct sti_fetch call;
    struct sti_fetch_row **row_pointers;
    struct sti_fetch_row *rows;
    bool decode;
    bool answered; /* done has begun; under rpc->mu */
    /* FetchStream only */
    bool streamed;
    struct tgr_arena scratch; /* of one message */
    uint64_t round;           /* of calls to the broker; under rpc->mu */
    bool writing;             /* under rpc->mu */
    bool ended;               /* under rpc->mu */
    struct sti_timer pause;   /* until the next round, when a quota says so */
    bool pausing;             /* it is armed; under rpc->mu */
    uint32_t pause_ms;        /* after the message under way */
    uint64_t silent_ms;       /* of pauses, since the last message */
};

/* One row of a message. */
struct tgr_fetch_out {
    Streamit__V1__FetchResult result; /* without batches and records */
    struct sti_fetch_row *row;        /* its slices are the batches */
    bool decoded;
    grpc_slice records; /* when decoded: field 14 as encoded */
    int32_t last_epoch; /* of the last batch that is handed out, -1: none */
};

/* Decode the request of a call. @param bytes_default  max_bytes of a request that names none
 * NULL: the call has been answered. */
struct tgr_fetch *tgr_fetch_new(struct tgr_rpc *rpc, uint32_t bytes_default,
                                void (*done)(struct sti_fetch *call));
/* Ask the broker to give up. @locks rpc->mu held */
void tgr_fetch_cancel(struct tgr_rpc *rpc);
/* Is what the broker has handed out to be decoded, and too much of that for a poller? Whatever is
 * compressed is: it may become any size. */
bool tgr_fetch_is_work(const struct tgr_fetch *fetch);
/* Fill `out` from an answered row, decoding it when asked to. Slices of rows with an error are
 * released. @param left  bytes that the message may still take; lowered
 * @param first  no record is in the message yet: one comes even if it is larger
 * @return STI_OK, STI_E_NO_MEMORY */
int tgr_fetch_out(struct tgr_fetch *fetch, struct tgr_arena *arena, struct sti_fetch_row *row,
                  uint64_t *left, bool first, struct tgr_fetch_out *out, struct sti_err *err);
/* Let go of what tgr_fetch_encode has not taken. */
void tgr_fetch_out_free(struct tgr_fetch_out *outs, size_t count);

/* Pack rows into one buffer that any protobuf reader takes. Takes over the rows' slices and decoded
 * records: references drop when the last byte has left, on any thread. NULL when memory ran out;
 * all of them then stay with the caller. */
grpc_byte_buffer *tgr_fetch_encode(struct tgr_arena *arena, struct tgr_fetch_out *outs,
                                   size_t count);

#endif /* TRANSPORT_GRPC_FETCH_H */
