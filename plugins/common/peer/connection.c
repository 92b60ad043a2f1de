/* connection.c -- the side that dials: one connection, and the calls that are under way over it.
 *
 * A connection is being connected, UP, or waits for its next attempt. Calls that are made while it
 * is being connected wait with their messages, in order; all others are numbered and queued under
 * connection->mu, which is what gives them their order. One timer serves timeouts, the limit of an
 * attempt, and the next attempt: it is armed for the earliest of them, and looks at all when it
 * fires.
 *
 * Whatever takes a call out of the table, under connection->mu, is the one that runs its `done`.
 * Callbacks run while `running` counts them, which is what hang_up waits for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

enum { PIECES_INLINE = 16, BUCKETS_MIN = 16, BUCKETS_MAX = 4096 };

enum phase { CONNECTING, UP, WAITING };

struct entry {
    struct entry *chain;       /* of a bucket */
    struct entry *prev, *next; /* all, in the order of their numbers */
    struct sti_peer_call *call;
    uint64_t id, bytes;
    uint64_t begun_us, due_us; /* due: UINT64_MAX without a timeout */
    int status;                /* once it is out of the table */
};

struct sti_peer_connection {
    struct pco *core;
    struct sti_peer_connection *next, **at; /* core->mu */
    int32_t node_id;
    char *address;
    void (*state)(void *ctx, struct sti_peer_connection *connection, int state,
                  const struct sti_err *err);
    void *ctx;
    atomic_uint running; /* callbacks; counted up under the link's mu */

    pthread_mutex_t mu;
    pthread_cond_t idle; /* running or armed fell */
    enum phase phase;
    bool gone, armed;
    struct pco_link *link; /* of this attempt; a reference */
    struct sti_err why;    /* how the last attempt ended, or is about to */
    unsigned attempts;     /* that failed in a row */
    uint64_t attempt_us;   /* when this one must have ended, or the next begins */
    struct sti_timer timer;
    uint64_t next_id, bytes;
    uint32_t count, bucket_count;
    struct entry **buckets;
    struct entry *first, *last;
    struct pco_message *waiting, **waiting_end;
};

/* ---- the table ------------------------------------------------------------------------------ */

static void insert(struct sti_peer_connection *c, struct entry *e)
{
    struct entry **bucket = &c->buckets[e->id % c->bucket_count];
    e->chain = *bucket;
    *bucket = e;
    e->prev = c->last;
    e->next = NULL;
    *(c->last == NULL ? &c->first : &c->last->next) = e;
    c->last = e;
    c->count++;
    c->bytes += e->bytes;
}

static struct entry *lookup(const struct sti_peer_connection *c, uint64_t id)
{
    struct entry *e = c->buckets[id % c->bucket_count];
    while (e != NULL && e->id != id) {
        e = e->chain;
    }
    return e;
}

/* Take a call out: from here on it is the caller's to finish. @locks c->mu held */
static void take_out(struct sti_peer_connection *c, struct entry *e, int status)
{
    struct entry **at = &c->buckets[e->id % c->bucket_count];
    while (*at != e) {
        at = &(*at)->chain;
    }
    *at = e->chain;
    *(e->prev == NULL ? &c->first : &e->prev->next) = e->next;
    *(e->next == NULL ? &c->last : &e->next->prev) = e->prev;
    c->count--;
    c->bytes -= e->bytes;
    e->status = status;
    e->chain = NULL;
}

/* @locks none */
static void finish(struct sti_peer_connection *c, struct entry *e, const struct sti_err *err,
                   const struct sti_slice *response, uint32_t response_count)
{
    struct sti_peer_call *call = e->call;
    int status = e->status;
    sti_histogram_record(c->core->seconds, sti_now_us(c->core->host) - e->begun_us);
    free(e);
    call->response = response;
    call->response_count = response_count;
    pco_count(c->core, PCO_OUT, status);
    call->done(call, status, err);
}

/* Finish a chain of calls that were taken out, in order. */
static void finish_all(struct sti_peer_connection *c, struct entry *e, const struct sti_err *err)
{
    while (e != NULL) {
        struct entry *next = e->chain;
        finish(c, e, err, NULL, 0);
        e = next;
    }
}

/* Take all out that are due by then; all: UINT64_MAX. @locks c->mu held. @return a chain */
static struct entry *take_due(struct sti_peer_connection *c, uint64_t now_us, int status)
{
    struct entry *chain = NULL, **end = &chain, *next;
    for (struct entry *e = c->first; e != NULL; e = next) {
        next = e->next;
        if (e->due_us <= now_us) {
            take_out(c, e, status);
            *end = e;
            end = &e->chain;
        }
    }
    return chain;
}

static void drop_waiting(struct sti_peer_connection *c)
{
    while (c->waiting != NULL) {
        struct pco_message *message = c->waiting;
        c->waiting = message->next;
        pco_message_free(message);
    }
    c->waiting_end = &c->waiting;
}

/* Let go of what calls would have sent that ended before there was a link: how much waits is
 * bounded by the calls that are under way. @locks c->mu held */
static void prune_waiting(struct sti_peer_connection *c)
{
    struct pco_message **at = &c->waiting;
    while (*at != NULL) {
        struct pco_message *message = *at;
        if (lookup(c, message->id) != NULL) {
            at = &message->next;
        } else {
            *at = message->next;
            pco_message_free(message);
        }
    }
    c->waiting_end = at;
}

/* ---- callbacks and the timer ---------------------------------------------------------------- */

/* The link's connection, for as long as leave is not called; NULL: it was let go. */
static struct sti_peer_connection *enter(struct pco_link *link)
{
    pthread_mutex_lock(&link->mu);
    struct sti_peer_connection *c = link->connection;
    if (c != NULL) {
        (void)atomic_fetch_add(&c->running, 1);
    }
    pthread_mutex_unlock(&link->mu);
    return c;
}

static void leave(struct sti_peer_connection *c)
{
    pthread_mutex_lock(&c->mu);
    (void)atomic_fetch_sub(&c->running, 1);
    pthread_cond_broadcast(&c->idle);
    pthread_mutex_unlock(&c->mu);
}

/* The timer shall fire at `due_us` at the latest. @locks c->mu held */
static void want_timer(struct sti_peer_connection *c, uint64_t due_us)
{
    const struct sti_host *host = c->core->host;
    if (c->gone || due_us == UINT64_MAX || (c->armed && c->timer.due_us <= due_us)) {
        return;
    }
    if (c->armed && !host->timer_cancel(host->ctx, &c->timer)) {
        return; /* it fires now, and looks */
    }
    c->armed = true;
    host->timer_arm(host->ctx, &c->timer, due_us);
}

static uint64_t earliest(const struct sti_peer_connection *c)
{
    uint64_t due_us = c->phase == UP ? UINT64_MAX : c->attempt_us;
    for (const struct entry *e = c->first; e != NULL; e = e->next) {
        due_us = e->due_us < due_us ? e->due_us : due_us;
    }
    return due_us;
}

/* Begin an attempt. @locks none; `running` is held */
static void attempt(struct sti_peer_connection *c)
{
    struct pco *core = c->core;
    struct pco_link *link = core->ops->new_link(core->engine, c->address);
    pthread_mutex_lock(&c->mu);
    bool gone = c->gone;
    uint64_t now_us = sti_now_us(core->host);
    if (link != NULL) {
        pco_link_ref(link);
        link->connection = gone ? NULL : c;
    }
    if (!gone && link == NULL) {
        (void)sti_err_set(&c->why, STI_E_UNAVAILABLE, "no memory for a connection to %s",
                          c->address);
        c->attempt_us = now_us + (uint64_t)core->conf->reconnect_max_ms * 1000u;
        want_timer(c, c->attempt_us);
    } else if (!gone) {
        pco_link_ref(link);
        c->link = link;
        c->phase = CONNECTING;
        sti_err_clear(&c->why);
        c->attempt_us = now_us + (uint64_t)core->conf->connect_timeout_ms * 1000u;
        want_timer(c, c->attempt_us);
    }
    pthread_mutex_unlock(&c->mu);
    if (link == NULL) {
        return;
    }
    core->ops->open(link);
    if (gone) {
        core->ops->close(link);
    } else if (!pco_link_hello(link, c->node_id, STI_OK, "")) {
        core->ops->close(link);
    }
    pco_link_unref(link);
}

static void on_timer(struct sti_task *task)
{
    struct sti_peer_connection *c =
        (struct sti_peer_connection *)(void *)((char *)task -
                                               offsetof(struct sti_peer_connection, timer.task));
    struct sti_err err;
    struct pco_link *late = NULL;
    bool begin = false;
    uint64_t now_us = sti_now_us(c->core->host);
    pthread_mutex_lock(&c->mu);
    (void)atomic_fetch_add(&c->running, 1);
    c->armed = false;
    struct entry *expired = c->gone ? NULL : take_due(c, now_us, STI_E_TIMED_OUT);
    prune_waiting(c);
    if (!c->gone && c->phase != UP && c->attempt_us <= now_us) {
        begin = c->phase == WAITING;
        late = c->phase == CONNECTING ? c->link : NULL;
        c->attempt_us = UINT64_MAX;
    }
    if (late != NULL) {
        pco_link_ref(late);
        (void)sti_err_set(&c->why, STI_E_UNAVAILABLE, "%s did not answer within %lld ms",
                          c->address, (long long)c->core->conf->connect_timeout_ms);
    }
    want_timer(c, earliest(c));
    pthread_mutex_unlock(&c->mu);
    (void)sti_err_set(&err, STI_E_TIMED_OUT, "node %d at %s did not answer in time",
                      (int)c->node_id, c->address);
    finish_all(c, expired, &err);
    if (late != NULL) {
        c->core->ops->close(late);
        pco_link_unref(late);
    }
    if (begin) {
        attempt(c);
    }
    leave(c);
}

/* ---- what a link has to say ----------------------------------------------------------------- */

static void tell(struct sti_peer_connection *c, int state, const struct sti_err *err)
{
    if (c->state != NULL) {
        c->state(c->ctx, c, state, err);
    }
}

/* Send what waited. @locks c->mu held. @return those that the other side would not take */
static struct entry *send_waiting(struct sti_peer_connection *c, struct pco_link *link)
{
    struct entry *chain = NULL, **end = &chain;
    while (c->waiting != NULL) {
        struct pco_message *message = c->waiting;
        struct entry *e = lookup(c, message->id);
        c->waiting = message->next;
        if (e != NULL && message->payload_len <= link->payload_max) {
            (void)pco_link_send(link, message);
            continue;
        }
        pco_message_free(message);
        if (e != NULL) {
            take_out(c, e, STI_E_MESSAGE_TOO_LARGE);
            *end = e;
            end = &e->chain;
        }
    }
    c->waiting_end = &c->waiting;
    return chain;
}

void pco_connection_greeted(struct pco_link *link, const struct pco_frame *hello)
{
    struct sti_peer_connection *c = enter(link);
    struct pco *core = link->core;
    struct sti_err err;
    struct entry *refused = NULL;
    int rc = hello->status;
    if (c == NULL) {
        return;
    }
    sti_err_clear(&err);
    if (rc != STI_OK) {
        (void)sti_err_set(&err, rc, "%s refused the connection: %.180s", c->address, hello->text);
    } else if (strcmp(hello->hello.cluster_id, core->host->node->cluster_id) != 0) {
        rc = sti_err_set(&err, STI_E_PERMISSION_DENIED, "%s is of cluster %s, this node of %s",
                         c->address, hello->hello.cluster_id, core->host->node->cluster_id);
    }
    pthread_mutex_lock(&c->mu);
    bool up = rc == STI_OK && c->link == link;
    if (up) {
        c->phase = UP;
        c->attempts = 0;
        refused = send_waiting(c, link);
    } else {
        c->why = err;
    }
    pthread_mutex_unlock(&c->mu);
    if (up) {
        core->ops->flush(link);
        sti_metric_add(core->connects, 1);
        sti_metric_add(core->figures[PCO_OUT].links, 1);
        sti_log(core->host, STI_LOG_INFO, "peer_connected", "connected to another node",
                STI_F_INT("node_id", link->node_id), STI_F_STR("address", c->address));
        tell(c, STI_PEER_UP, &err);
        (void)sti_err_set(&err, STI_E_MESSAGE_TOO_LARGE, "%s takes requests of %llu bytes",
                          c->address, (unsigned long long)link->payload_max);
        finish_all(c, refused, &err);
    } else {
        core->ops->close(link);
    }
    leave(c);
}

void pco_connection_answered(struct pco_link *link, const struct pco_frame *frame,
                             struct pco_cursor *cursor)
{
    struct sti_slice few[PIECES_INLINE], *slices = few;
    struct sti_err err;
    struct sti_peer_connection *c = enter(link);
    uint32_t pieces = pco_cursor_pieces(cursor, frame->payload_len);
    if (pieces > PIECES_INLINE) {
        slices = malloc(pieces * sizeof *slices);
    }
    struct entry *e = NULL;
    if (c != NULL) {
        pthread_mutex_lock(&c->mu);
        e = lookup(c, frame->id);
        if (e != NULL) {
            take_out(c, e, frame->status);
        }
        pthread_mutex_unlock(&c->mu);
    }
    sti_err_clear(&err);
    if (slices == NULL) {
        pieces = 0;
        cursor->left = 0; /* what follows of this message is lost with the link */
        link->core->ops->close(link);
    } else {
        pco_cursor_take(cursor, frame->payload_len, slices);
    }
    if (e != NULL) {
        if (slices == NULL) {
            e->status = STI_E_NO_MEMORY;
        }
        if (e->status != STI_OK) {
            (void)sti_err_set(&err, e->status, "node %d: %.200s", (int)link->node_id, frame->text);
        }
        sti_metric_add(link->core->figures[PCO_IN].bytes, frame->payload_len);
        finish(c, e, &err, slices, pieces);
    }
    for (uint32_t i = 0; i < pieces; i++) {
        sti_slice_release(&slices[i]);
    }
    if (slices != few) {
        free(slices);
    }
    if (c != NULL) {
        leave(c);
    }
}

/* When to try again: twice as long each time, and anywhere in the second half of it. */
static uint64_t backoff_us(struct sti_peer_connection *c)
{
    const struct pco_conf *conf = c->core->conf;
    uint64_t ms = (uint64_t)conf->reconnect_min_ms << (c->attempts < 20 ? c->attempts : 20);
    uint64_t max = (uint64_t)conf->reconnect_max_ms;
    ms = ms < max ? ms : max;
    c->attempts++;
    return ms * 500u + c->core->ops->random(c->core->engine) % (ms * 500u + 1u);
}

void pco_connection_closed(struct pco_link *link, const struct sti_err *why)
{
    struct sti_peer_connection *c = enter(link);
    struct pco *core = link->core;
    struct sti_err err = *why;
    if (c == NULL) {
        return;
    }
    pthread_mutex_lock(&c->mu);
    bool was_up = c->phase == UP;
    if (was_up) {
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST,
                          "node %d at %s: the connection broke: %.150s", (int)c->node_id,
                          c->address, why->msg);
    } else if (c->why.code != STI_OK) {
        err = c->why;
    } else {
        (void)sti_err_set(&err, STI_E_UNAVAILABLE, "cannot connect to %s: %.200s", c->address,
                          why->msg);
    }
    struct entry *lost = take_due(c, UINT64_MAX, err.code);
    c->phase = WAITING;
    c->attempt_us = UINT64_MAX;
    c->why = err;
    if (was_up) {
        (void)sti_err_set(&c->why, STI_E_UNAVAILABLE, "%s", err.msg);
    }
    bool ours = c->link == link; /* or hang_up has taken it */
    c->link = NULL;
    drop_waiting(c);
    pthread_mutex_unlock(&c->mu);
    if (was_up) {
        sti_metric_sub(core->figures[PCO_OUT].links, 1);
    } else {
        sti_metric_add(core->connect_failures, 1);
    }
    sti_log(core->host, was_up ? STI_LOG_WARN : STI_LOG_DEBUG,
            was_up ? "peer_lost" : "peer_unreachable",
            was_up ? "the connection to another node broke" : "another node cannot be reached",
            STI_F_INT("node_id", c->node_id), STI_F_STR("address", c->address),
            STI_F_STR("reason", err.msg));
    tell(c, STI_PEER_DOWN, &err);
    finish_all(c, lost, &err);
    pthread_mutex_lock(&c->mu);
    if (!c->gone) {
        c->attempt_us = sti_now_us(core->host) + backoff_us(c);
        want_timer(c, c->attempt_us);
    }
    pthread_mutex_unlock(&c->mu);
    if (ours) {
        pco_link_unref(link);
    }
    leave(c);
}

/* ---- the interface -------------------------------------------------------------------------- */

int pco_dial(void *self, const struct sti_peer_dial *args, struct sti_peer_connection **out,
             struct sti_err *err)
{
    struct pco *core = self;
    uint32_t buckets = BUCKETS_MIN;
    *out = NULL;
    if (args->address == NULL || args->address[0] == '\0' ||
        strnlen(args->address, sizeof core->address) >= sizeof core->address) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: no address to dial",
                           core->host->instance);
    }
    if (atomic_load(&core->draining)) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "this node ends");
    }
    while (buckets < (uint64_t)core->conf->calls_in_flight_max && buckets < BUCKETS_MAX) {
        buckets *= 2;
    }
    struct sti_peer_connection *c = calloc(1, sizeof *c);
    char *address = strdup(args->address);
    struct entry **table = calloc(buckets, sizeof(struct entry *));
    if (c == NULL || address == NULL || table == NULL) {
        free((void *)table);
        free(address);
        free(c);
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a connection to %s", args->address);
    }
    *c = (struct sti_peer_connection){.core = core,
                                      .node_id = args->node_id,
                                      .address = address,
                                      .state = args->state,
                                      .ctx = args->ctx,
                                      .phase = WAITING,
                                      .attempt_us = UINT64_MAX,
                                      .timer = {.task = {.run = on_timer}},
                                      .bucket_count = buckets,
                                      .buckets = table};
    c->waiting_end = &c->waiting;
    pthread_mutex_init(&c->mu, NULL);
    pthread_cond_init(&c->idle, NULL);
    pthread_mutex_lock(&core->mu);
    bool full = core->connection_count >= (uint64_t)core->conf->connections_max;
    if (!full) {
        core->connection_count++;
        c->next = core->connections;
        c->at = &core->connections;
        if (c->next != NULL) {
            c->next->at = &c->next;
        }
        core->connections = c;
    }
    pthread_mutex_unlock(&core->mu);
    if (full) {
        pthread_cond_destroy(&c->idle);
        pthread_mutex_destroy(&c->mu);
        free((void *)table);
        free(address);
        free(c);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "%s: connections_max, %lld, are dialed already", core->host->instance,
                           (long long)core->conf->connections_max);
    }
    (void)atomic_fetch_add(&c->running, 1);
    *out = c;
    attempt(c);
    leave(c);
    return STI_OK;
}

static int check_call(const struct sti_peer_connection *c, const struct sti_peer_call *call,
                      uint64_t len, struct sti_err *err)
{
    const struct pco_conf *conf = c->core->conf;
    if (!pco_name_ok(call->service) || !pco_name_ok(call->method)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "a name of a service or method has 1 to %u printable characters",
                           STI_PEER_NAME_MAX);
    }
    if (call->request_count > STI_PEER_SLICE_MAX) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "a request of %u slices, %u may be given",
                           call->request_count, STI_PEER_SLICE_MAX);
    }
    if (len > (uint64_t)conf->message_bytes_max) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "a request of %llu bytes: message_bytes_max is %lld",
                           (unsigned long long)len, (long long)conf->message_bytes_max);
    }
    return STI_OK;
}

/* Is there room for it, and a node to send it to? @locks c->mu held */
static int admit(const struct sti_peer_connection *c, uint64_t len, struct sti_err *err)
{
    const struct pco_conf *conf = c->core->conf;
    uint64_t bytes_max = (uint64_t)conf->bytes_in_flight_max;
    if (atomic_load(&c->core->draining) || c->gone) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "this node ends");
    }
    if (c->phase == WAITING) {
        return sti_err_set(err, c->why.code, "%s", c->why.msg);
    }
    if (c->count >= (uint64_t)conf->calls_in_flight_max) {
        return sti_err_set(err, STI_E_THROTTLED,
                           "calls_in_flight_max, %lld, are under way to node %d",
                           (long long)conf->calls_in_flight_max, (int)c->node_id);
    }
    uint64_t unsent = 0;
    if (c->link != NULL) {
        pthread_mutex_lock(&c->link->mu);
        unsent = c->link->unsent;
        pthread_mutex_unlock(&c->link->mu);
    }
    if ((c->bytes > 0 && c->bytes + len > bytes_max) ||
        (unsent > 0 && unsent + len > bytes_max + bytes_max / 2)) {
        return sti_err_set(err, STI_E_THROTTLED,
                           "bytes_in_flight_max, %lld, are under way to node %d",
                           (long long)conf->bytes_in_flight_max, (int)c->node_id);
    }
    if (c->phase == UP && c->link != NULL && len > c->link->payload_max) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "a request of %llu bytes: node %d takes %llu", (unsigned long long)len,
                           (int)c->node_id, (unsigned long long)c->link->payload_max);
    }
    return STI_OK;
}

int pco_call(struct sti_peer_connection *c, struct sti_peer_call *call, struct sti_err *err)
{
    struct pco *core = c->core;
    struct pco_frame frame = {.kind = PCO_CALL, .timeout_ms = call->timeout_ms};
    uint64_t now_us = sti_now_us(core->host);
    uint64_t len = sti_slices_len(call->request, call->request_count);
    struct pco_link *link = NULL;
    call->response = NULL;
    call->response_count = 0;
    int rc = check_call(c, call, len, err);
    if (rc != STI_OK) {
        return rc;
    }
    (void)snprintf(frame.service, sizeof frame.service, "%s", call->service);
    (void)snprintf(frame.method, sizeof frame.method, "%s", call->method);
    struct entry *e = malloc(sizeof *e);
    struct pco_message *message = pco_message_new(&frame, call->request, call->request_count);
    if (e == NULL || message == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory for a call of %s", call->method);
        goto undo;
    }
    *e = (struct entry){
        .call = call,
        .bytes = len,
        .begun_us = now_us,
        .due_us = call->timeout_ms == 0 ? UINT64_MAX : now_us + call->timeout_ms * UINT64_C(1000)};
    pthread_mutex_lock(&c->mu);
    rc = admit(c, len, err);
    if (rc != STI_OK) {
        pthread_mutex_unlock(&c->mu);
        goto undo;
    }
    e->id = ++c->next_id;
    pco_message_number(message, e->id);
    pco_begin(core, PCO_OUT);
    want_timer(c, e->due_us);
    insert(c, e);
    if (c->phase == UP) {
        link = c->link;
        pco_link_ref(link);
        (void)pco_link_send(link, message); /* a closed one takes the call with it */
    } else {
        message->next = NULL;
        *c->waiting_end = message;
        c->waiting_end = &message->next;
    }
    pthread_mutex_unlock(&c->mu);
    if (link != NULL) {
        core->ops->flush(link);
        pco_link_unref(link);
    }
    return STI_OK;
undo:
    if (message != NULL) {
        pco_message_free(message);
    }
    free(e);
    return rc;
}

bool pco_cancel(struct sti_peer_connection *c, const struct sti_peer_call *call)
{
    struct sti_err err;
    pthread_mutex_lock(&c->mu);
    struct entry *e = c->first;
    while (e != NULL && e->call != call) {
        e = e->next;
    }
    if (e != NULL) {
        take_out(c, e, STI_E_CANCELLED);
        prune_waiting(c);
    }
    pthread_mutex_unlock(&c->mu);
    if (e == NULL) {
        return false;
    }
    (void)sti_err_set(&err, STI_E_CANCELLED, "the call to node %d was cancelled", (int)c->node_id);
    finish(c, e, &err, NULL, 0);
    return true;
}

void pco_sever(struct sti_peer_connection *c)
{
    pthread_mutex_lock(&c->mu);
    struct pco_link *link = c->link;
    if (link != NULL) {
        pco_link_ref(link);
    }
    pthread_mutex_unlock(&c->mu);
    if (link != NULL) {
        c->core->ops->close(link);
        pco_link_unref(link);
    }
}

void pco_hang_up(struct sti_peer_connection *c)
{
    struct pco *core = c->core;
    struct sti_err err;
    pthread_mutex_lock(&c->mu);
    c->gone = true;
    struct pco_link *link = c->link;
    bool was_up = c->phase == UP;
    c->phase = WAITING;
    c->link = NULL;
    drop_waiting(c);
    struct entry *left = take_due(c, UINT64_MAX, STI_E_CANCELLED);
    if (c->armed && core->host->timer_cancel(core->host->ctx, &c->timer)) {
        c->armed = false;
    }
    if (link != NULL) {
        pthread_mutex_lock(&link->mu);
        link->connection = NULL;
        pthread_mutex_unlock(&link->mu);
    }
    pthread_mutex_unlock(&c->mu);
    (void)sti_err_set(&err, STI_E_CANCELLED, "the connection to node %d was hung up",
                      (int)c->node_id);
    finish_all(c, left, &err);
    if (link != NULL) {
        if (was_up) {
            sti_metric_sub(core->figures[PCO_OUT].links, 1);
        }
        core->ops->close(link);
        pco_link_unref(link);
    }
    pthread_mutex_lock(&c->mu);
    while (atomic_load(&c->running) > 0 || c->armed) {
        (void)pthread_cond_wait(&c->idle, &c->mu);
    }
    pthread_mutex_unlock(&c->mu);
    pthread_mutex_lock(&core->mu);
    *c->at = c->next;
    if (c->next != NULL) {
        c->next->at = c->at;
    }
    core->connection_count--;
    pthread_mutex_unlock(&core->mu);
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->mu);
    free((void *)c->buckets);
    free(c->address);
    free(c);
}
