/* health.c -- grpc.health.v1.Health: Check, and Watch with a list of watchers.
 *
 * SERVING while the node is ready and this listener does not drain. Nobody tells a plugin that the
 * node's state changed, so while somebody watches a timer looks four times a second; without
 * watchers there is no timer. A watcher has at most one message under way; what changed meanwhile
 * is sent when that has left.
 *
 * Lock order: the list's lock, then the call's.
 */
#include <grpc/byte_buffer.h>
#include <stdlib.h>
#include <string.h>

#include "grpc/health/v1/health.pb-c.h"
#include "transport.h"

#define LOOK_INTERVAL_US 250000u

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;

#define SERVING         GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

struct watch {
    struct tgr_rpc *rpc; /* holds a reference while listed */
    struct watch *prev, *next;
    bool listed;  /* the list's lock */
    bool known;   /* the service is ours */
    bool writing; /* rpc->mu */
    int sent;     /* status sent last, or -1; rpc->mu */
};

struct tgr_watch_list {
    struct sti_timer timer; /* first: its task finds the list */
    struct tgr_transport *t;
    pthread_mutex_t mu;
    pthread_cond_t cond; /* the timer's task has run */
    struct watch *first;
    bool armed; /* the timer is armed or its task has not run */
    bool ended;
};

static serving_status current(const struct tgr_transport *t)
{
    bool ready = t->host->node_state(t->host->ctx) == STI_NODE_READY;
    return ready && !atomic_load(&t->draining) ? SERVING : NOT_SERVING;
}

static bool known_service(const char *service)
{
    return service[0] == '\0' || strcmp(service, "streamit.v1.StreamIt") == 0;
}

void tgr_health_check_handle(struct tgr_rpc *rpc)
{
    struct sti_err err;
    Grpc__Health__V1__HealthCheckRequest *request =
        tgr_rpc_unpack(rpc, &grpc__health__v1__health_check_request__descriptor);
    if (request != NULL && !known_service(request->service)) {
        (void)sti_err_set(&err, STI_E_NOT_FOUND, "service %.128s is not served here",
                          request->service);
        tgr_rpc_finish(rpc, NULL, STI_E_NOT_FOUND, &err);
    } else if (request != NULL) {
        Grpc__Health__V1__HealthCheckResponse response =
            GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
        response.status = current(rpc->t);
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}

static void on_written(struct tgr_tag *tag, bool ok);

/* Send the present status unless it is what was sent last. */
static void watch_send(struct watch *watch)
{
    struct tgr_rpc *rpc = watch->rpc;
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    grpc_op ops[2];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    response.status = watch->known ? current(rpc->t) : SERVICE_UNKNOWN;
    pthread_mutex_lock(&rpc->mu);
    if (!rpc->closed && !rpc->finished && !watch->writing && watch->sent != (int)response.status) {
        if (!rpc->metadata_sent) {
            ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
            rpc->metadata_sent = true;
        }
        rpc->out = tgr_pack(&response.base);
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = rpc->out;
        watch->writing = true;
        watch->sent = (int)response.status;
        (void)tgr_rpc_batch(rpc, ops, n, &rpc->tag_write, on_written);
    }
    pthread_mutex_unlock(&rpc->mu);
}

static void on_written(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct watch *watch = rpc->state;
    pthread_mutex_lock(&rpc->mu);
    grpc_byte_buffer_destroy(rpc->out);
    rpc->out = NULL;
    watch->writing = false;
    pthread_mutex_unlock(&rpc->mu);
    if (ok) {
        watch_send(watch);
    }
    tgr_rpc_unref(rpc);
}

/* @locks list->mu held. @return whether it was listed: the caller then drops the list's reference
 */
static bool unlist(struct tgr_watch_list *list, struct watch *watch)
{
    if (!watch->listed) {
        return false;
    }
    watch->listed = false;
    if (watch->prev != NULL) {
        watch->prev->next = watch->next;
    } else {
        list->first = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->prev = watch->prev;
    }
    return true;
}

static void on_close(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct tgr_watch_list *list = rpc->t->watches;
    (void)ok;
    (void)tgr_rpc_closed(rpc);
    pthread_mutex_lock(&list->mu);
    bool listed = unlist(list, rpc->state);
    pthread_mutex_unlock(&list->mu);
    if (listed) {
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
        tgr_rpc_unref(rpc);
    }
    tgr_rpc_unref(rpc);
}

/* @locks list->mu held */
static void arm(struct tgr_watch_list *list)
{
    const struct sti_host *host = list->t->host;
    if (!list->armed && !list->ended && list->first != NULL) {
        list->armed = true;
        host->timer_arm(host->ctx, &list->timer, sti_now_us(host) + LOOK_INTERVAL_US);
    }
}

static void look(struct sti_task *task)
{
    struct tgr_watch_list *list = (struct tgr_watch_list *)(void *)task;
    pthread_mutex_lock(&list->mu);
    list->armed = false;
    for (struct watch *watch = list->first; watch != NULL; watch = watch->next) {
        watch_send(watch);
    }
    arm(list);
    pthread_cond_broadcast(&list->cond);
    pthread_mutex_unlock(&list->mu);
}

void tgr_watches_tell(struct tgr_transport *t)
{
    pthread_mutex_lock(&t->watches->mu);
    for (struct watch *watch = t->watches->first; watch != NULL; watch = watch->next) {
        watch_send(watch);
    }
    pthread_mutex_unlock(&t->watches->mu);
}

/* Add to the list; @return false when the list has ended. Takes over the reference. */
static bool enlist(struct tgr_watch_list *list, struct watch *watch)
{
    pthread_mutex_lock(&list->mu);
    bool open = !list->ended;
    if (open) {
        watch->listed = true;
        watch->next = list->first;
        if (list->first != NULL) {
            list->first->prev = watch;
        }
        list->first = watch;
        arm(list);
    }
    pthread_mutex_unlock(&list->mu);
    return open;
}

/* The client may have gone between the request for news of it and the listing. */
static void drop_if_closed(struct tgr_watch_list *list, struct watch *watch)
{
    struct tgr_rpc *rpc = watch->rpc;
    pthread_mutex_lock(&rpc->mu);
    bool closed = rpc->closed;
    pthread_mutex_unlock(&rpc->mu);
    pthread_mutex_lock(&list->mu);
    bool listed = closed && unlist(list, watch);
    pthread_mutex_unlock(&list->mu);
    if (listed) {
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
        tgr_rpc_unref(rpc);
    }
}

void tgr_health_watch_handle(struct tgr_rpc *rpc)
{
    struct tgr_watch_list *list = rpc->t->watches;
    Grpc__Health__V1__HealthCheckRequest *request =
        tgr_rpc_unpack(rpc, &grpc__health__v1__health_check_request__descriptor);
    struct watch *watch = request == NULL ? NULL : tgr_arena_alloc(&rpc->arena, 1, sizeof *watch);
    if (request != NULL && watch == NULL) {
        tgr_rpc_no_memory(rpc);
    }
    if (watch == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    *watch = (struct watch){.rpc = rpc, .known = known_service(request->service), .sent = -1};
    rpc->state = watch;
    tgr_rpc_ref(rpc); /* until this function is done with it */
    if (tgr_rpc_watch_close(rpc, on_close) != STI_OK) {
        tgr_rpc_unref(rpc);
    } else if (!enlist(list, watch)) {
        tgr_rpc_finish(rpc, NULL, STI_E_UNAVAILABLE, NULL);
        tgr_rpc_unref(rpc);
    } else {
        watch_send(watch);
        drop_if_closed(list, watch);
    }
    tgr_rpc_unref(rpc);
}

int tgr_watches_new(struct tgr_transport *t, struct sti_err *err)
{
    struct tgr_watch_list *list = calloc(1, sizeof *list);
    if (list == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for the list of health watches");
    }
    list->t = t;
    list->timer.task.run = look;
    pthread_mutex_init(&list->mu, NULL);
    pthread_cond_init(&list->cond, NULL);
    t->watches = list;
    return STI_OK;
}

static void watch_end(struct watch *watch)
{
    struct tgr_rpc *rpc = watch->rpc;
    pthread_mutex_lock(&rpc->mu);
    if (rpc->closed) {
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
    } else if (!rpc->finished) {
        tgr_rpc_finish(rpc, NULL, STI_E_UNAVAILABLE, NULL);
    }
    pthread_mutex_unlock(&rpc->mu);
    tgr_rpc_unref(rpc);
}

void tgr_watches_end(struct tgr_transport *t)
{
    struct tgr_watch_list *list = t->watches;
    pthread_mutex_lock(&list->mu);
    list->ended = true;
    if (list->armed && t->host->timer_cancel(t->host->ctx, &list->timer)) {
        list->armed = false;
    }
    while (list->armed) {
        pthread_cond_wait(&list->cond, &list->mu);
    }
    while (list->first != NULL) {
        struct watch *watch = list->first;
        (void)unlist(list, watch);
        pthread_mutex_unlock(&list->mu);
        watch_end(watch);
        pthread_mutex_lock(&list->mu);
    }
    pthread_mutex_unlock(&list->mu);
}

void tgr_watches_free(struct tgr_transport *t)
{
    if (t->watches != NULL) {
        pthread_mutex_destroy(&t->watches->mu);
        pthread_cond_destroy(&t->watches->cond);
        free(t->watches);
        t->watches = NULL;
    }
}
