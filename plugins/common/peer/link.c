/* link.c -- one link: greeting, calls that come in, and their answers. */
#include <stdlib.h>
#include <string.h>

#include "core.h"

/* A call on its way through a handler. */
struct incoming {
    struct sti_peer_incoming pub; /* first */
    struct pco_link *link;
    uint64_t id, bytes;
    char service[STI_PEER_NAME_MAX + 1], method[STI_PEER_NAME_MAX + 1];
    struct sti_slice slices[];
};

/* ---- the link ------------------------------------------------------------------------------- */

static void enlist(struct pco_link *link)
{
    struct pco *core = link->core;
    link->next = core->links;
    link->at = &core->links;
    if (link->next != NULL) {
        link->next->at = &link->next;
    }
    core->links = link;
    link->listed = true;
    core->link_count++;
}

void pco_link_init(struct pco_link *link, struct pco *core, bool incoming)
{
    link->core = core;
    link->incoming = incoming;
    link->node_id = -1;
    atomic_init(&link->refs, 1);
    pthread_mutex_init(&link->mu, NULL);
    if (!incoming) {
        pthread_mutex_lock(&core->mu);
        enlist(link);
        pthread_mutex_unlock(&core->mu);
    }
}

void pco_link_ref(struct pco_link *link)
{
    (void)atomic_fetch_add_explicit(&link->refs, 1, memory_order_relaxed);
}

void pco_link_unref(struct pco_link *link)
{
    if (atomic_fetch_sub_explicit(&link->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    struct pco *core = link->core;
    pthread_mutex_destroy(&link->mu);
    if (!link->listed) { /* was never taken */
        core->ops->free(link);
        return;
    }
    pthread_mutex_lock(&core->mu);
    *link->at = link->next;
    if (link->next != NULL) {
        link->next->at = link->at;
    }
    core->incoming_count -= link->incoming ? 1 : 0;
    pthread_mutex_unlock(&core->mu);
    core->ops->free(link);
    /* Last, since whoever waits may free the core. */
    pthread_mutex_lock(&core->mu);
    core->link_count--;
    pthread_cond_broadcast(&core->changed);
    pthread_mutex_unlock(&core->mu);
}

bool pco_link_accept(struct pco_link *link)
{
    struct pco *core = link->core;
    pthread_mutex_lock(&core->mu);
    bool taken = !atomic_load(&core->stopping) &&
                 core->incoming_count < (uint64_t)core->conf->connections_max;
    if (taken) {
        enlist(link);
        core->incoming_count++;
    }
    pthread_mutex_unlock(&core->mu);
    sti_metric_add(taken ? core->figures[PCO_IN].links : core->refused, 1);
    return taken;
}

bool pco_link_send(struct pco_link *link, struct pco_message *message)
{
    struct pco *core = link->core;
    uint64_t payload_len = message->payload_len, copied = message->copied;
    pthread_mutex_lock(&link->mu);
    bool closed = link->closed;
    if (!closed) {
        link->unsent += message->len;
        core->ops->queue(link, message);
    }
    pthread_mutex_unlock(&link->mu);
    if (closed) {
        pco_message_free(message);
        return false;
    }
    sti_metric_add(core->figures[link->incoming ? PCO_IN : PCO_OUT].bytes, payload_len);
    sti_metric_add(core->copied_bytes, copied);
    return true;
}

bool pco_link_wants(struct pco_link *link)
{
    const struct pco_conf *conf = link->core->conf;
    if (!link->incoming) {
        return true; /* what comes are answers to what was asked for */
    }
    pthread_mutex_lock(&link->mu);
    bool wants = link->held < (uint64_t)conf->calls_in_flight_max &&
                 link->held_bytes < (uint64_t)conf->bytes_in_flight_max &&
                 link->unsent < (uint64_t)conf->bytes_in_flight_max;
    link->paused = !wants;
    pthread_mutex_unlock(&link->mu);
    return wants;
}

/* Something has left: read on when that was what the reading waited for. */
static void maybe_resume(struct pco_link *link)
{
    pthread_mutex_lock(&link->mu);
    bool paused = link->paused && !link->closed;
    pthread_mutex_unlock(&link->mu);
    if (paused && pco_link_wants(link)) {
        link->core->ops->resume(link);
    }
}

void pco_link_sent(struct pco_link *link, uint64_t len)
{
    pthread_mutex_lock(&link->mu);
    link->unsent -= len;
    pthread_mutex_unlock(&link->mu);
    if (link->incoming) {
        maybe_resume(link);
    }
}

void pco_link_closed(struct pco_link *link, const struct sti_err *why)
{
    struct pco *core = link->core;
    pthread_mutex_lock(&link->mu);
    link->closed = true;
    pthread_mutex_unlock(&link->mu);
    if (link->incoming) {
        sti_metric_sub(core->figures[PCO_IN].links, 1);
        sti_log(core->host, STI_LOG_DEBUG, "peer_left", "a connection from another node ended",
                STI_F_INT("node_id", link->node_id), STI_F_STR("reason", why->msg));
    } else {
        pco_connection_closed(link, why);
    }
    pco_link_unref(link);
}

/* ---- greeting ------------------------------------------------------------------------------- */

bool pco_link_hello(struct pco_link *link, int32_t wanted_id, int status, const char *text)
{
    const struct sti_node *node = link->core->host->node;
    struct pco_frame frame = {.kind = PCO_HELLO,
                              .status = status,
                              .id = (uint64_t)link->core->conf->message_bytes_max,
                              .hello = {.major = STI_PEER_MAJOR,
                                        .minor = STI_PEER_MINOR,
                                        .node_id = node->node_id,
                                        .wanted_id = wanted_id}};
    (void)snprintf(frame.hello.cluster_id, sizeof frame.hello.cluster_id, "%s", node->cluster_id);
    (void)snprintf(frame.text, sizeof frame.text, "%s", text);
    struct pco_message *message = pco_message_new(&frame, NULL, 0);
    if (message == NULL || !pco_link_send(link, message)) {
        return false;
    }
    link->core->ops->flush(link);
    return true;
}

/* May the node that says this talk to this one? */
static int check_hello(const struct sti_node *node, const struct pco_hello *hello,
                       struct sti_err *err)
{
    if (hello->major != STI_PEER_MAJOR) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "node %d speaks streamit.peer %u.%u, node %d speaks %d.%d",
                           (int)hello->node_id, hello->major, hello->minor, (int)node->node_id,
                           STI_PEER_MAJOR, STI_PEER_MINOR);
    }
    if (strcmp(hello->cluster_id, node->cluster_id) != 0) {
        return sti_err_set(
            err, STI_E_PERMISSION_DENIED, "node %d is of cluster %s, node %d is of cluster %s",
            (int)hello->node_id, hello->cluster_id, (int)node->node_id, node->cluster_id);
    }
    if (hello->wanted_id != -1 && hello->wanted_id != node->node_id) {
        return sti_err_set(err, STI_E_PRECONDITION, "here is node %d, not node %d",
                           (int)node->node_id, (int)hello->wanted_id);
    }
    return STI_OK;
}

static bool greeted(struct pco_link *link, const struct pco_frame *frame)
{
    struct sti_err err;
    struct pco *core = link->core;
    uint64_t own_max = (uint64_t)core->conf->message_bytes_max;
    link->node_id = frame->hello.node_id;
    link->payload_max = frame->id < own_max ? frame->id : own_max;
    if (!link->incoming) {
        link->greeted = true;
        pco_connection_greeted(link, frame);
        return true;
    }
    sti_err_clear(&err);
    int rc = check_hello(core->host->node, &frame->hello, &err);
    if (rc == STI_OK && frame->status != STI_OK) {
        return false; /* it refuses what it dialed itself */
    }
    link->greeted = rc == STI_OK;
    link->refused = rc != STI_OK;
    if (rc != STI_OK) {
        sti_metric_add(core->refused, 1);
        sti_log(core->host, STI_LOG_WARN, "peer_refused", "another node was refused",
                STI_F_STR("reason", err.msg), STI_F_STR("code", sti_status_name(rc)));
    }
    return pco_link_hello(link, frame->hello.node_id, rc, err.msg);
}

/* ---- calls that come in --------------------------------------------------------------------- */

static void drop_slices(struct sti_slice *slices, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        sti_slice_release(&slices[i]);
    }
}

static bool take_call(struct pco_link *link, const struct pco_frame *frame,
                      struct pco_cursor *cursor)
{
    struct pco *core = link->core;
    struct sti_err err;
    uint32_t pieces = pco_cursor_pieces(cursor, frame->payload_len);
    struct incoming *call = malloc(sizeof *call + pieces * sizeof(struct sti_slice));
    if (call == NULL) {
        return false; /* the link breaks, which says that the outcome is unknown */
    }
    *call = (struct incoming){.pub = {.struct_size = sizeof call->pub,
                                      .from_node = link->node_id,
                                      .request_count = pieces,
                                      .timeout_ms = frame->timeout_ms},
                              .link = link,
                              .id = frame->id,
                              .bytes = frame->payload_len};
    memcpy(call->service, frame->service, sizeof call->service);
    memcpy(call->method, frame->method, sizeof call->method);
    call->pub.service = call->service;
    call->pub.method = call->method;
    call->pub.request = call->slices;
    pco_cursor_take(cursor, frame->payload_len, call->slices);
    pco_link_ref(link);
    pthread_mutex_lock(&link->mu);
    link->held++;
    link->held_bytes += call->bytes;
    pthread_mutex_unlock(&link->mu);
    pco_begin(core, PCO_IN);
    if (atomic_load(&core->draining)) {
        (void)sti_err_set(&err, STI_E_UNAVAILABLE, "node %d ends", (int)core->host->node->node_id);
        pco_respond(&call->pub, STI_E_UNAVAILABLE, &err, NULL, 0);
    } else if (!pco_handle(core, &call->pub)) {
        (void)sti_err_set(&err, STI_E_UNAVAILABLE, "node %d does not serve %s",
                          (int)core->host->node->node_id, frame->service);
        pco_respond(&call->pub, STI_E_UNAVAILABLE, &err, NULL, 0);
    }
    return true;
}

void pco_respond(struct sti_peer_incoming *incoming, int status, const struct sti_err *err,
                 const struct sti_slice *response, uint32_t response_count)
{
    struct incoming *call = (struct incoming *)(void *)incoming;
    struct pco_link *link = call->link;
    struct pco *core = link->core;
    struct pco_frame frame = {
        .kind = PCO_ANSWER, .id = call->id, .status = status < 0 ? status : STI_OK};
    if (status < 0) {
        (void)snprintf(frame.text, sizeof frame.text, "%s", err == NULL ? "" : err->msg);
        response_count = 0;
    } else if (response_count > STI_PEER_SLICE_MAX ||
               sti_slices_len(response, response_count) > link->payload_max) {
        frame.status = STI_E_MESSAGE_TOO_LARGE;
        (void)snprintf(frame.text, sizeof frame.text,
                       "the answer to %s has %llu bytes in %u slices, %llu in %u may be sent",
                       call->method, (unsigned long long)sti_slices_len(response, response_count),
                       response_count, (unsigned long long)link->payload_max, STI_PEER_SLICE_MAX);
        response_count = 0;
    }
    struct pco_message *message = pco_message_new(&frame, response, response_count);
    if (message == NULL) {
        core->ops->close(link); /* an answer cannot be left out */
    } else if (pco_link_send(link, message)) {
        core->ops->flush(link);
    }
    drop_slices(call->slices, call->pub.request_count);
    pthread_mutex_lock(&link->mu);
    link->held--;
    link->held_bytes -= call->bytes;
    pthread_mutex_unlock(&link->mu);
    maybe_resume(link);
    free(call);
    pco_count(core, PCO_IN, frame.status);
    pco_link_unref(link);
}

/* ---- what arrives --------------------------------------------------------------------------- */

bool pco_link_received(struct pco_link *link, const struct sti_slice *slices, uint32_t count)
{
    struct pco_cursor cursor;
    struct pco_frame frame;
    struct sti_err err;
    bool ok = true;
    pco_cursor_init(&cursor, slices, count);
    while (ok && cursor.left > 0) {
        ok = pco_frame_read(&cursor, (uint64_t)link->core->conf->message_bytes_max, &frame, &err) ==
             STI_OK;
        if (!ok) {
            sti_log(link->core->host, STI_LOG_WARN, "peer_malformed",
                    "another node sent what cannot be read; the connection is closed",
                    STI_F_INT("node_id", link->node_id), STI_F_STR("reason", err.msg));
        } else if (frame.kind == PCO_HELLO) {
            ok = !link->greeted && !link->refused && greeted(link, &frame);
        } else if (!link->greeted || (frame.kind == PCO_CALL) != link->incoming) {
            ok = false;
        } else if (link->incoming) {
            ok = take_call(link, &frame, &cursor);
        } else {
            pco_connection_answered(link, &frame, &cursor);
        }
    }
    return ok;
}
