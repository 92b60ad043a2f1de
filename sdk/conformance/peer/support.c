/* support.c -- see peer_suite.h. */
#include "peer_suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUICK_TURNS = 50, SLOW_US = 100000 };

void pee_pause(unsigned turn)
{
    (void)usleep(turn < QUICK_TURNS ? 100 : 1000);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

const struct sti_peer *pee_vt(const struct cfm_node *node)
{
    return sti_peer_of(&node->subject);
}

struct sti_peer_info pee_info(const struct cfm_node *node)
{
    struct sti_peer_info info = {.struct_size = sizeof info};
    struct sti_err err = {0};
    CFM_STATUS(pee_vt(node)->info(node->subject.self, &info, &err), STI_OK);
    CFM_EXPECT(info.address != NULL && info.address[0] != '\0', "info tells no address");
    CFM_CHECK(info.calls_max > 0 && info.message_bytes_max > 0 && info.bytes_max > 0);
    return info;
}

const char *pee_address(const struct cfm_node *node)
{
    return pee_info(node).address;
}

const char *const *pee_at(const struct cfm *cfm, const char *address)
{
    static char text[400];
    static const char *const sets[] = {text, NULL};
    if ((cfm->caps & STI_PEER_REMOTE) != 0) {
        const char *colon = strrchr(address, ':');
        CFM_EXPECT(colon != NULL, "%s is not host:port", address);
        (void)snprintf(text, sizeof text, "port=%s", colon + 1);
    } else {
        (void)snprintf(text, sizeof text, "address=%s", address);
    }
    return sets;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static void bytes_ref(struct sti_slice_owner *owner)
{
    int refs = atomic_fetch_add(&((struct pee_bytes *)(void *)owner)->refs, 1);
    CFM_EXPECT(refs > 0, "a reference was taken of bytes that nobody holds");
}

static void bytes_unref(struct sti_slice_owner *owner)
{
    int refs = atomic_fetch_sub(&((struct pee_bytes *)(void *)owner)->refs, 1);
    CFM_EXPECT(refs > 1, "more references were dropped than taken");
}

static uint8_t byte_of(uint32_t seed, size_t pos)
{
    return (uint8_t)(seed + pos * 31u + (pos >> 8) * 17u);
}

struct pee_bytes *pee_bytes(size_t len, uint32_t seed)
{
    struct pee_bytes *bytes = malloc(sizeof *bytes + len);
    CFM_CHECK(bytes != NULL);
    bytes->owner = (struct sti_slice_owner){.ref = bytes_ref, .unref = bytes_unref};
    atomic_init(&bytes->refs, 1);
    bytes->len = len;
    for (size_t i = 0; i < len; i++) {
        bytes->data[i] = byte_of(seed, i);
    }
    return bytes;
}

struct sti_slice pee_slice(struct pee_bytes *bytes, size_t pos, size_t len)
{
    struct sti_slice slice = sti_slice_borrow(bytes->data + pos, len);
    slice.owner = &bytes->owner;
    return slice;
}

bool pee_is(const void *data, size_t len, uint32_t seed, size_t pos)
{
    for (size_t i = 0; i < len; i++) {
        if (((const uint8_t *)data)[i] != byte_of(seed, pos + i)) {
            return false;
        }
    }
    return true;
}

void pee_unref(struct pee_bytes *bytes)
{
    int refs = atomic_load(&bytes->refs);
    CFM_EXPECT(refs == 1, "%d references are still held of bytes that nobody needs", refs - 1);
    free(bytes);
}

/* ---- serving -------------------------------------------------------------------------------- */

static void hold(struct pee_service *s, struct sti_peer_incoming *incoming)
{
    pthread_mutex_lock(&s->mu);
    CFM_CHECK(s->held_count < PEE_HELD_MAX);
    s->held[s->held_count++] = incoming;
    pthread_mutex_unlock(&s->mu);
}

static uint32_t number_of(const struct sti_peer_incoming *incoming)
{
    uint8_t bytes[4] = {0};
    size_t have = 0;
    for (uint32_t i = 0; i < incoming->request_count && have < 4; i++) {
        for (size_t j = 0; j < incoming->request[i].len && have < 4; j++) {
            bytes[have++] = incoming->request[i].data[j];
        }
    }
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

static void answer_twice(struct pee_service *s, struct sti_peer_incoming *incoming)
{
    uint32_t count = incoming->request_count;
    struct sti_slice *slices = calloc(count == 0 ? 1 : (size_t)count * 2, sizeof *slices);
    CFM_CHECK(slices != NULL);
    for (uint32_t i = 0; i < count; i++) {
        slices[i] = slices[count + i] = incoming->request[i];
    }
    s->vt->respond(incoming, STI_OK, NULL, slices, count * 2);
    free(slices);
}

static void answer_size(struct pee_service *s, struct sti_peer_incoming *incoming)
{
    uint32_t len = number_of(incoming);
    uint8_t *bytes = malloc(len == 0 ? 1 : len);
    CFM_CHECK(bytes != NULL);
    for (uint32_t i = 0; i < len; i++) {
        bytes[i] = byte_of(len, i);
    }
    struct sti_slice slice = sti_slice_borrow(bytes, len);
    s->vt->respond(incoming, STI_OK, NULL, &slice, 1);
    memset(bytes, 0xee, len); /* it is ours again */
    free(bytes);
}

static void answer(struct pee_service *s, struct sti_peer_incoming *incoming)
{
    struct sti_err err;
    if (strcmp(incoming->method, "echo") == 0 || strcmp(incoming->method, "slow") == 0) {
        s->vt->respond(incoming, STI_OK, NULL, incoming->request, incoming->request_count);
    } else if (strcmp(incoming->method, "drop") == 0) {
        s->vt->respond(incoming, STI_OK, NULL, NULL, 0);
    } else if (strcmp(incoming->method, "twice") == 0) {
        answer_twice(s, incoming);
    } else if (strcmp(incoming->method, "size") == 0) {
        answer_size(s, incoming);
    } else if (strcmp(incoming->method, "hold") == 0) {
        hold(s, incoming);
    } else {
        (void)sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE, "no method %s", incoming->method);
        s->vt->respond(incoming, STI_E_OFFSET_OUT_OF_RANGE, &err, NULL, 0);
    }
}

static void handle(void *ctx, struct sti_peer_incoming *incoming)
{
    struct pee_service *s = ctx;
    if (atomic_fetch_add(&s->inside, 1) > 0) {
        (void)atomic_fetch_add(&s->overlapped, 1);
    }
    CFM_EXPECT(strcmp(incoming->service, s->name) == 0, "service %s was given a call of %s",
               s->name, incoming->service);
    atomic_store(&s->from_node, incoming->from_node);
    if (atomic_load(&s->numbered)) {
        uint32_t number = number_of(incoming);
        if (number != s->last + 1) {
            (void)atomic_fetch_add(&s->out_of_order, 1);
        }
        s->last = number;
    }
    (void)atomic_fetch_add(&s->begun, 1);
    if (strcmp(incoming->method, "slow") == 0) {
        (void)usleep(SLOW_US);
    }
    (void)atomic_fetch_sub(&s->inside, 1);
    answer(s, incoming);
}

void pee_serve(struct pee_service *s, const struct cfm_node *node, const char *name)
{
    struct sti_err err = {0};
    struct sti_peer_service service = {
        .struct_size = sizeof service, .name = name, .handle = handle, .ctx = s};
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->mu, NULL);
    s->vt = pee_vt(node);
    s->self = node->subject.self;
    s->name = name;
    CFM_STATUS(s->vt->serve(s->self, &service, &err), STI_OK);
}

void pee_withdraw(struct pee_service *s)
{
    struct sti_err err = {0};
    CFM_STATUS(s->vt->withdraw(s->self, s->name, &err), STI_OK);
}

unsigned pee_held(struct pee_service *s)
{
    pthread_mutex_lock(&s->mu);
    unsigned count = s->held_count;
    pthread_mutex_unlock(&s->mu);
    return count;
}

void pee_release(struct pee_service *s)
{
    struct sti_peer_incoming *incoming;
    do {
        incoming = NULL;
        pthread_mutex_lock(&s->mu);
        if (s->held_count > 0) {
            incoming = s->held[0];
            memmove((void *)s->held, (void *)(s->held + 1),
                    --s->held_count * sizeof(struct sti_peer_incoming *));
        }
        pthread_mutex_unlock(&s->mu);
        if (incoming != NULL) {
            s->vt->respond(incoming, STI_OK, NULL, incoming->request, incoming->request_count);
        }
    } while (incoming != NULL);
}

/* ---- calling -------------------------------------------------------------------------------- */

static void on_state(void *ctx, struct sti_peer_connection *connection, int state,
                     const struct sti_err *err)
{
    struct pee_link *link = ctx;
    CFM_EXPECT(atomic_fetch_add(&link->inside, 1) == 0, "`state` runs twice at a time");
    CFM_CHECK(connection != NULL);
    atomic_store(&link->state, state);
    if (state == STI_PEER_UP) {
        (void)atomic_fetch_add(&link->ups, 1);
    } else {
        CFM_EXPECT(err != NULL && err->code != STI_OK && err->msg[0] != '\0',
                   "a connection is DOWN, and nothing says why");
        pthread_mutex_lock(&link->mu);
        link->why = *err;
        pthread_mutex_unlock(&link->mu);
        (void)atomic_fetch_add(&link->downs, 1);
    }
    (void)atomic_fetch_sub(&link->inside, 1);
}

void pee_dial(struct pee_link *link, const struct cfm_node *node, int32_t node_id,
              const char *address)
{
    struct sti_err err = {0};
    struct sti_peer_dial args = {.struct_size = sizeof args,
                                 .node_id = node_id,
                                 .address = address,
                                 .state = on_state,
                                 .ctx = link};
    memset(link, 0, sizeof *link);
    pthread_mutex_init(&link->mu, NULL);
    link->vt = pee_vt(node);
    int rc = link->vt->dial(node->subject.self, &args, &link->connection, &err);
    CFM_EXPECT(rc == STI_OK && link->connection != NULL, "dial %s: %s: %s", address,
               sti_status_name(rc), err.msg);
}

void pee_connect(struct cfm *cfm, struct pee_link *link, const struct cfm_node *node,
                 int32_t node_id, const char *address)
{
    pee_dial(link, node, node_id, address);
    PEE_UNTIL(cfm, atomic_load(&link->ups) > 0, "%s was not connected within %u s: %s", address,
              cfm->answer_s, pee_why(link).msg);
}

struct sti_err pee_why(struct pee_link *link)
{
    pthread_mutex_lock(&link->mu);
    struct sti_err why = link->why;
    pthread_mutex_unlock(&link->mu);
    return why;
}

void pee_hang_up(struct pee_link *link)
{
    link->vt->hang_up(link->connection);
    CFM_EXPECT(atomic_load(&link->inside) == 0, "`state` runs after hang_up returned");
    link->connection = NULL;
}

static void on_done(struct sti_peer_call *given, int status, const struct sti_err *err)
{
    struct pee_call *call = (struct pee_call *)(void *)given;
    call->status = status;
    call->len = (size_t)sti_slices_len(given->response, given->response_count);
    CFM_EXPECT(status == STI_OK || call->len == 0, "%s came with %zu bytes of an answer",
               sti_status_name(status), call->len);
    call->err = (struct sti_err){0};
    if (status != STI_OK) {
        CFM_EXPECT(err != NULL, "%s came without an error", sti_status_name(status));
        call->err = *err;
    }
    free(call->bytes);
    call->bytes = malloc(call->len + 1);
    CFM_CHECK(call->bytes != NULL);
    uint8_t *at = call->bytes;
    for (uint32_t i = 0; i < given->response_count; i++) {
        CFM_EXPECT(given->response[i].owner != NULL, "an answer's slice has no owner");
        memcpy(at, given->response[i].data, (size_t)given->response[i].len);
        at += given->response[i].len;
    }
    CFM_EXPECT(atomic_fetch_add(&call->done, 1) == 0, "`done` of a call was called twice");
}

int pee_begin_slices(struct pee_link *link, struct pee_call *call, const char *service,
                     const char *method, const struct sti_slice *slices, uint32_t count,
                     uint32_t timeout_ms)
{
    struct sti_err err = {0};
    atomic_store(&call->done, 0);
    call->call = (struct sti_peer_call){.struct_size = sizeof call->call,
                                        .timeout_ms = timeout_ms,
                                        .service = service,
                                        .method = method,
                                        .request = slices,
                                        .request_count = count,
                                        .done = on_done};
    int rc = link->vt->call(link->connection, &call->call, &err);
    if (rc != STI_OK) {
        CFM_EXPECT(err.code == rc && err.msg[0] != '\0', "%s came without a sentence",
                   sti_status_name(rc));
        call->err = err;
    }
    return rc;
}

int pee_begin(struct pee_link *link, struct pee_call *call, const char *method, const void *data,
              size_t len, uint32_t timeout_ms)
{
    struct sti_slice slice = sti_slice_borrow(data, len);
    return pee_begin_slices(link, call, "test", method, &slice, len == 0 ? 0 : 1, timeout_ms);
}

int pee_wait(struct cfm *cfm, struct pee_call *call)
{
    PEE_UNTIL(cfm, atomic_load(&call->done) > 0, "`done` was not called within %u s",
              cfm->answer_s);
    return call->status;
}

int pee_call(struct cfm *cfm, struct pee_link *link, struct pee_call *call, const char *method,
             const void *data, size_t len, uint32_t timeout_ms)
{
    int rc = pee_begin(link, call, method, data, len, timeout_ms);
    CFM_EXPECT(rc == STI_OK, "a call of %s is %s: %s", method, sti_status_name(rc), call->err.msg);
    return pee_wait(cfm, call);
}

void pee_call_free(struct pee_call *call)
{
    free(call->bytes);
    call->bytes = NULL;
}

void pee_echo(struct cfm *cfm, struct pee_link *link, size_t len)
{
    struct pee_call call = {0};
    struct pee_bytes *bytes = pee_bytes(len, (uint32_t)len);
    int rc = pee_call(cfm, link, &call, "echo", bytes->data, len, 0);
    CFM_EXPECT(rc == STI_OK, "echo of %zu bytes is %s: %s", len, sti_status_name(rc), call.err.msg);
    CFM_EXPECT(call.len == len && pee_is(call.bytes, len, (uint32_t)len, 0),
               "echo of %zu bytes came back as %zu, or others", len, call.len);
    pee_call_free(&call);
    free(bytes);
}

void pee_echo_again(struct cfm *cfm, struct pee_link *link)
{
    struct pee_call call = {0};
    int rc = STI_E_UNAVAILABLE;
    for (unsigned turn = 0; rc != STI_OK && turn < cfm->answer_s * 1000u; turn++) {
        pee_pause(turn);
        rc = pee_begin(link, &call, "echo", "again", 5, 0);
        rc = rc == STI_OK ? pee_wait(cfm, &call) : rc;
        CFM_EXPECT(rc == STI_OK || rc == STI_E_UNAVAILABLE || rc == STI_E_CONNECTION_LOST,
                   "a call while the connection is made anew is %s: %s", sti_status_name(rc),
                   call.err.msg);
    }
    CFM_EXPECT(rc == STI_OK, "the connection was not made anew within %u s: %s", cfm->answer_s,
               call.err.msg);
    pee_call_free(&call);
}

/* ---- two nodes ------------------------------------------------------------------------------ */

void pee_world_start(struct cfm *cfm, struct pee_world *w)
{
    memset(w, 0, sizeof *w);
    w->cfm = cfm;
    cfm_node_start(cfm, PEE_CLUSTER, 1, NULL, &w->one);
    cfm_node_start(cfm, PEE_CLUSTER, 2, NULL, &w->two);
    (void)snprintf(w->address, sizeof w->address, "%s", pee_address(&w->two));
    CFM_EXPECT(strcmp(w->address, pee_address(&w->one)) != 0, "two nodes have the address %s",
               w->address);
    pee_serve(&w->service, &w->two, "test");
    pee_connect(cfm, &w->link, &w->one, 2, w->address);
}

void pee_world_stop(struct pee_world *w)
{
    pee_hang_up(&w->link);
    pee_withdraw(&w->service);
    pee_release(&w->service);
    cfm_node_stop(&w->one);
    cfm_node_stop(&w->two);
}
