/* park.c -- calls that stay for a while: fetches that wait, reflection streams. Drain and stop find
 * them here. Lists are split by connection, so that no lock is shared by all fetches. */
#include <stdlib.h>

#include "transport.h"

void tgr_park(struct tgr_rpc *rpc)
{
    struct tgr_shard *shard = tgr_shard_of(rpc);
    pthread_mutex_lock(&shard->mu);
    rpc->parked = true;
    rpc->park_prev = NULL;
    rpc->park_next = shard->parked;
    if (shard->parked != NULL) {
        shard->parked->park_prev = rpc;
    }
    shard->parked = rpc;
    pthread_mutex_unlock(&shard->mu);
}

void tgr_unpark(struct tgr_rpc *rpc)
{
    struct tgr_shard *shard = tgr_shard_of(rpc);
    pthread_mutex_lock(&shard->mu);
    if (rpc->parked) {
        rpc->parked = false;
        if (rpc->park_prev != NULL) {
            rpc->park_prev->park_next = rpc->park_next;
        } else {
            shard->parked = rpc->park_next;
        }
        if (rpc->park_next != NULL) {
            rpc->park_next->park_prev = rpc->park_prev;
        }
    }
    pthread_mutex_unlock(&shard->mu);
}

static void shard_each(struct tgr_shard *shard, void (*visit)(struct tgr_rpc *rpc))
{
    size_t count = 0, n = 0;
    pthread_mutex_lock(&shard->mu);
    for (struct tgr_rpc *rpc = shard->parked; rpc != NULL; rpc = rpc->park_next) {
        count++;
    }
    /* Without memory nobody is told: fetches then end by their own max_wait. */
    struct tgr_rpc **rpcs = (struct tgr_rpc **)calloc(count + 1, sizeof(void *));
    for (struct tgr_rpc *rpc = shard->parked; rpcs != NULL && rpc != NULL; rpc = rpc->park_next) {
        tgr_rpc_ref(rpc);
        rpcs[n++] = rpc;
    }
    pthread_mutex_unlock(&shard->mu);
    for (size_t i = 0; i < n; i++) {
        visit(rpcs[i]);
        tgr_rpc_unref(rpcs[i]);
    }
    free(rpcs);
}

static void drain(struct tgr_rpc *rpc)
{
    switch (rpc->method) {
    case TGR_FETCH:
        tgr_fetch_drain(rpc);
        return;
    case TGR_FETCH_STREAM:
        tgr_fetch_stream_drain(rpc);
        return;
    case TGR_PRODUCE_STREAM:
        tgr_produce_stream_drain(rpc);
        return;
    default: /* ended by stop */
        return;
    }
}

static void cut(struct tgr_rpc *rpc)
{
    if (tgr_is_record_stream(rpc->method)) {
        (void)grpc_call_cancel_with_status(rpc->call, GRPC_STATUS_UNAVAILABLE,
                                           "UNAVAILABLE: the node is shutting down", NULL);
    }
}

void tgr_parked_cut(struct tgr_transport *t)
{
    tgr_parked_each(t, cut);
}

void tgr_parked_drain(struct tgr_transport *t)
{
    tgr_parked_each(t, drain);
}

void tgr_parked_each(struct tgr_transport *t, void (*visit)(struct tgr_rpc *rpc))
{
    for (unsigned i = 0; i < TGR_SHARDS; i++) {
        shard_each(&t->shards[i], visit);
    }
}
