/* slot.c -- slots that wait for calls, the method table, and the threads that take events.
 *
 * One completion queue serves everything. A poller takes one event at a time with poll_mu held, so
 * that the order of events is known, and lets go of it before the event is handled: with several
 * pollers one polls while the others work. A produce call enters its connection's lane before
 * poll_mu is released. Whoever finds the lane idle hands its calls to the broker one after
 * another, so the calls of one connection reach the broker in the order of their arrival, whichever
 * threads took them.
 *
 * A slot that completes posts its successor before it does anything else, so that a burst does not
 * wait for a slot. The catch-all slot answers unknown methods, which would hang without it.
 * FindLeader comes through it as well: only there gRPC tells the address that the client dialed.
 */
#include <grpc/support/time.h>
#include <string.h>

#include "../common/grpc/thread_check.h"
#include "connections.h"
#include "transport.h"

#define API "/streamit.v1.StreamIt/"

enum { FLUSH_EVENTS_MAX = 32 }; /* that may come before answers which were put off */

const struct tgr_method_info tgr_methods[TGR_METHODS] = {
    [TGR_PRODUCE] = {API "Produce", "Produce", 128, true, true, tgr_produce_handle},
    [TGR_PRODUCE_STREAM] = {API "ProduceStream", "ProduceStream", 16, false, true,
                            tgr_produce_stream_handle},
    [TGR_FETCH] = {API "Fetch", "Fetch", 16, true, true, tgr_fetch_handle},
    [TGR_FETCH_STREAM] = {API "FetchStream", "FetchStream", 16, true, true,
                          tgr_fetch_stream_handle},
    [TGR_LIST_OFFSETS] = {API "ListOffsets", "ListOffsets", 2, true, true, tgr_list_offsets_handle},
    [TGR_CREATE_TOPIC] = {API "CreateTopic", "CreateTopic", 2, true, true, tgr_create_topic_handle},
    [TGR_ALTER_TOPIC] = {API "AlterTopic", "AlterTopic", 2, true, true, tgr_alter_topic_handle},
    [TGR_DELETE_TOPIC] = {API "DeleteTopic", "DeleteTopic", 2, true, true, tgr_delete_topic_handle},
    [TGR_LIST_TOPICS] = {API "ListTopics", "ListTopics", 2, true, true, tgr_list_topics_handle},
    [TGR_DESCRIBE_TOPIC] = {API "DescribeTopic", "DescribeTopic", 2, true, true,
                            tgr_describe_topic_handle},
    [TGR_FIND_LEADER] = {API "FindLeader", "FindLeader", 0, false, true, tgr_find_leader_handle},
    [TGR_HEALTH_CHECK] = {"/grpc.health.v1.Health/Check", "HealthCheck", 2, true, false,
                          tgr_health_check_handle},
    [TGR_HEALTH_WATCH] = {"/grpc.health.v1.Health/Watch", "HealthWatch", 2, true, false,
                          tgr_health_watch_handle},
    [TGR_REFLECTION_V1] = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                           "Reflection", 2, false, false, tgr_reflection_handle},
    [TGR_REFLECTION_V1ALPHA] = {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                "ReflectionAlpha", 2, false, false, tgr_reflection_handle},
    [TGR_UNKNOWN] = {NULL, "unknown", 2, false, false, tgr_unknown_handle},
};

static void on_new(struct tgr_tag *tag, bool ok);

static int post(struct tgr_transport *t, enum tgr_method method)
{
    struct tgr_rpc *rpc = tgr_rpc_new(t, method);
    grpc_call_error rc;
    if (rpc == NULL) {
        return STI_E_NO_MEMORY;
    }
    rpc->tag_new = (struct tgr_tag){.fn = on_new, .rpc = rpc};
    gco_thread_release(&rpc->tag_new);
    if (method == TGR_UNKNOWN) {
        rc = grpc_server_request_call(t->server, &rpc->call, &rpc->details, &rpc->metadata, t->cq,
                                      t->cq, &rpc->tag_new);
    } else {
        rc = grpc_server_request_registered_call(
            t->server, t->registered[method], &rpc->call, &rpc->deadline, &rpc->metadata,
            tgr_methods[method].payload ? &rpc->payload : NULL, t->cq, t->cq, &rpc->tag_new);
    }
    if (rc != GRPC_CALL_OK) {
        tgr_rpc_unref(rpc);
        return STI_E_INTERNAL;
    }
    return STI_OK;
}

int tgr_slots_post(struct tgr_transport *t, struct sti_err *err)
{
    for (int m = 0; m < TGR_METHODS; m++) {
        for (uint32_t i = 0; i < tgr_methods[m].slots; i++) {
            int rc = post(t, (enum tgr_method)m);
            if (rc != STI_OK) {
                return sti_err_set(err, rc, "cannot post a slot for %s", tgr_methods[m].label);
            }
        }
    }
    return STI_OK;
}

static void repost(struct tgr_transport *t, enum tgr_method method)
{
    if (atomic_load(&t->stopping)) {
        return;
    }
    int rc = post(t, method);
    if (rc != STI_OK) {
        sti_log(t->host, STI_LOG_ERROR, "slot_lost", "a slot could not be posted again",
                STI_F_STR("method", tgr_methods[method].label),
                STI_F_STR("reason", sti_status_name(rc)));
    }
}

/* Refuse what the node does not take now. @return whether the call may go on */
static bool admitted(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct sti_err err;
    int code = STI_OK;
    sti_err_clear(&err);
    if (tgr_methods[rpc->method].broker && atomic_load(&t->draining)) {
        code = sti_err_set(&err, STI_E_UNAVAILABLE, "node %d is shutting down",
                           (int)t->host->node->node_id);
    } else if ((int64_t)atomic_load(&t->active) > t->conf->calls_in_flight_max) {
        code = sti_err_set(&err, STI_E_THROTTLED, "%lld calls are under way, the maximum",
                           (long long)t->conf->calls_in_flight_max);
    } else {
        code = tgr_connection_admit(rpc, &err);
    }
    if (code == STI_OK && tgr_methods[rpc->method].broker) {
        code = tgr_context_authenticate(rpc, &err);
    }
    if (code == STI_OK) {
        return true;
    }
    tgr_rpc_finish(rpc, NULL, code, &err);
    return false;
}

static void dispatch(struct tgr_rpc *rpc)
{
    if (admitted(rpc)) {
        tgr_methods[rpc->method].handle(rpc);
    } else {
        tgr_rpc_unref(rpc);
    }
}

/* Does a call before it on the same connection make it wait? @locks shard->mu held */
static bool lane_waits(const struct tgr_shard *shard, const struct tgr_rpc *rpc)
{
    const struct tgr_rpc *other = shard->suspended;
    while (other != NULL && other->request.connection != rpc->request.connection) {
        other = other->lane_next;
    }
    return other != NULL;
}

/* Take the first call that may go on. @locks shard->mu held */
static struct tgr_rpc *lane_take(struct tgr_shard *shard)
{
    struct tgr_rpc *before = NULL, *rpc = shard->lane_head;
    while (rpc != NULL && lane_waits(shard, rpc)) {
        before = rpc;
        rpc = rpc->lane_next;
    }
    if (rpc != NULL) {
        *(before == NULL ? &shard->lane_head : &before->lane_next) = rpc->lane_next;
        if (rpc == shard->lane_tail) {
            shard->lane_tail = before;
        }
    }
    return rpc;
}

/* Hand the lane's calls to the broker until none is left that may go on, unless another thread
 * does. */
static void lane_run(struct tgr_shard *shard)
{
    struct tgr_rpc *rpc;
    pthread_mutex_lock(&shard->mu);
    if (shard->lane_busy) {
        pthread_mutex_unlock(&shard->mu);
        return;
    }
    shard->lane_busy = true;
    while ((rpc = lane_take(shard)) != NULL) {
        pthread_mutex_unlock(&shard->mu);
        dispatch(rpc);
        pthread_mutex_lock(&shard->mu);
    }
    shard->lane_busy = false;
    pthread_mutex_unlock(&shard->mu);
}

void tgr_lane_suspend(struct tgr_rpc *rpc)
{
    struct tgr_shard *shard = tgr_shard_of(rpc);
    pthread_mutex_lock(&shard->mu);
    rpc->lane_next = shard->suspended;
    shard->suspended = rpc;
    pthread_mutex_unlock(&shard->mu);
}

void tgr_lane_resume(struct tgr_rpc *rpc)
{
    struct tgr_shard *shard = tgr_shard_of(rpc);
    pthread_mutex_lock(&shard->mu);
    struct tgr_rpc **at = &shard->suspended;
    while (*at != rpc) {
        at = &(*at)->lane_next;
    }
    *at = rpc->lane_next;
    pthread_mutex_unlock(&shard->mu);
    lane_run(shard);
}

static void lane_enter(struct tgr_rpc *rpc)
{
    struct tgr_shard *shard = tgr_shard_of(rpc);
    pthread_mutex_lock(&shard->mu);
    rpc->lane_next = NULL;
    if (shard->lane_tail == NULL) {
        shard->lane_head = rpc;
    } else {
        shard->lane_tail->lane_next = rpc;
    }
    shard->lane_tail = rpc;
    pthread_mutex_unlock(&shard->mu);
}

/* A call has arrived. @locks poll_mu held: what must happen in the order of arrival, no more */
static void claim(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    rpc->active = true;
    if (rpc->method == TGR_UNKNOWN) {
        rpc->deadline = rpc->details.deadline;
        if (grpc_slice_str_cmp(rpc->details.method, tgr_methods[TGR_FIND_LEADER].path) == 0) {
            rpc->method = TGR_FIND_LEADER;
        }
    }
    (void)atomic_fetch_add(&t->active, 1);
    if (tgr_is_stream(rpc->method)) {
        (void)atomic_fetch_add(&t->streams, 1);
    }
    sti_metric_add(t->calls_in_flight, 1);
    sti_metric_add(t->metrics[rpc->method].open, 1);
    tgr_context_fill(rpc);
    if (rpc->payload != NULL) {
        sti_metric_add(t->metrics[rpc->method].received_bytes,
                       grpc_byte_buffer_length(rpc->payload));
    }
    if (rpc->method == TGR_PRODUCE) {
        lane_enter(rpc);
    }
}

/* A slot came back. Arrived calls go through arrive(); here are only those that never will be. */
static void on_new(struct tgr_tag *tag, bool ok)
{
    (void)ok;
    tgr_rpc_unref(tag->rpc);
}

/* Handle a claimed call. A produce call may be gone already: another poller serves its lane. */
static void arrive(struct tgr_transport *t, enum tgr_method method, struct tgr_rpc *rpc,
                   struct tgr_shard *shard)
{
    repost(t, method);
    if (method == TGR_PRODUCE) {
        lane_run(shard);
    } else {
        dispatch(rpc);
    }
}

/* ---- pollers ---- */

/* Streams whose answers this thread puts off. Only pollers have a list. */
struct flush_list {
    struct tgr_rpc *head;
    unsigned events; /* handled since the first was listed */
};
static __thread struct flush_list *flush_list;

bool tgr_flush_later(struct tgr_rpc *rpc)
{
    struct flush_list *list = flush_list;
    if (list == NULL) {
        return false;
    }
    tgr_rpc_ref(rpc);
    rpc->flush_listed = true;
    rpc->flush_next = list->head;
    list->head = rpc;
    return true;
}

static void flush(struct flush_list *list)
{
    struct tgr_rpc *rpc = list->head;
    list->head = NULL;
    list->events = 0;
    while (rpc != NULL) {
        struct tgr_rpc *next = rpc->flush_next;
        tgr_produce_stream_flush(rpc);
        tgr_rpc_unref(rpc);
        rpc = next;
    }
}

/* Take one event and handle it. @return false: the queue is shut down and empty */
static bool poll_once(struct tgr_transport *t, struct flush_list *list)
{
    gpr_timespec until = list->head == NULL ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                                            : gpr_inf_past(GPR_CLOCK_MONOTONIC);
    struct tgr_shard *shard = NULL;
    struct tgr_rpc *rpc = NULL;
    enum tgr_method method = TGR_UNKNOWN;
    if (list->head != NULL && pthread_mutex_trylock(&t->poll_mu) != 0) {
        flush(list); /* somebody else polls, perhaps for long */
        return true;
    }
    if (list->head == NULL) {
        pthread_mutex_lock(&t->poll_mu);
    }
    grpc_event event = grpc_completion_queue_next(t->cq, until, NULL);
    struct tgr_tag *tag = event.tag;
    if (event.type == GRPC_OP_COMPLETE) {
        gco_thread_acquire(tag);
        rpc = tag->rpc;
        if (tag->fn == on_new && event.success != 0) {
            method = rpc->method; /* of the slot */
            claim(rpc);
            shard = tgr_shard_of(rpc);
        }
    }
    pthread_mutex_unlock(&t->poll_mu);
    if (event.type != GRPC_OP_COMPLETE) { /* nothing else to do now, or for ever */
        flush(list);
        return event.type != GRPC_QUEUE_SHUTDOWN;
    }
    sti_metric_add(t->poller_loops, 1);
    if (shard != NULL) {
        arrive(t, method, rpc, shard);
    } else {
        tag->fn(tag, event.success != 0);
    }
    if (list->head != NULL && ++list->events >= FLUSH_EVENTS_MAX) {
        flush(list);
    }
    return true;
}

void *tgr_poller_main(void *transport)
{
    struct flush_list list = {.head = NULL};
    flush_list = &list;
    while (poll_once(transport, &list)) {
    }
    flush_list = NULL;
    return NULL;
}

void tgr_unknown_handle(struct tgr_rpc *rpc)
{
    struct sti_err err;
    size_t len = GRPC_SLICE_LENGTH(rpc->details.method);
    (void)sti_err_set(&err, STI_E_UNSUPPORTED, "there is no method %.*s",
                      (int)(len < 128 ? len : 128),
                      (const char *)GRPC_SLICE_START_PTR(rpc->details.method));
    tgr_rpc_finish(rpc, NULL, STI_E_UNSUPPORTED, &err);
    tgr_rpc_unref(rpc);
}
