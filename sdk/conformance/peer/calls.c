/* calls.c -- calls that go well: what comes back, in which order, and whose memory it is. */
#include <stdlib.h>
#include <string.h>

#include "peer_suite.h"

enum { ORDERED = 2000, THREADS = 8, CALLS_EACH = 300, LINKS = 8, KEPT = 20 };

PEE_CASE(call)
{
    struct pee_world w;
    struct pee_call call = {0};
    pee_world_start(cfm, &w);
    CFM_STATUS(pee_call(cfm, &w.link, &call, "echo", "hello", 5, 0), STI_OK);
    CFM_EXPECT(call.len == 5 && memcmp(call.bytes, "hello", 5) == 0, "the answer is another");
    CFM_EQ(atomic_load(&w.service.from_node), 1);
    CFM_STATUS(pee_call(cfm, &w.link, &call, "echo", NULL, 0, 1000), STI_OK);
    CFM_EQ(call.len, 0);
    CFM_STATUS(pee_call(cfm, &w.link, &call, "drop", "x", 1, 0), STI_OK);
    CFM_EQ(call.len, 0);
    CFM_STATUS(pee_call(cfm, &w.link, &call, "twice", "ab", 2, 0), STI_OK);
    CFM_EXPECT(call.len == 4 && memcmp(call.bytes, "abab", 4) == 0, "the answer is another");
    CFM_STATUS(pee_call(cfm, &w.link, &call, "fail", "x", 1, 0), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(call.err.code, STI_E_OFFSET_OUT_OF_RANGE);
    CFM_EXPECT(strstr(call.err.msg, "no method fail") != NULL, "the handler's sentence is lost: %s",
               call.err.msg);
    CFM_EQ(atomic_load(&w.service.begun), 5);
    pee_call_free(&call);
    pee_world_stop(&w);
}

PEE_CASE(self)
{
    struct cfm_node node;
    struct pee_service service;
    struct pee_link link;
    cfm_node_start(cfm, PEE_CLUSTER, 1, NULL, &node);
    pee_serve(&service, &node, "test");
    pee_connect(cfm, &link, &node, 1, pee_address(&node));
    pee_echo(cfm, &link, 100);
    CFM_EQ(atomic_load(&service.from_node), 1);
    pee_hang_up(&link);
    pee_connect(cfm, &link, &node, -1, pee_address(&node)); /* whoever it is */
    pee_echo(cfm, &link, 100);
    pee_hang_up(&link);
    pee_withdraw(&service);
    cfm_node_stop(&node);
}

PEE_CASE(order)
{
    struct pee_world w;
    struct pee_call *calls = calloc(ORDERED, sizeof *calls);
    pee_world_start(cfm, &w);
    uint32_t window = pee_info(&w.one).calls_max;
    window = window < ORDERED ? window : ORDERED;
    atomic_store(&w.service.numbered, true);
    for (uint32_t i = 0; i < ORDERED; i++) {
        uint32_t number = i + 1;
        if (i >= window) {
            CFM_STATUS(pee_wait(cfm, &calls[i - window]), STI_OK);
        }
        int rc = STI_E_THROTTLED;
        PEE_UNTIL(cfm,
                  (rc = pee_begin(&w.link, &calls[i], "echo", &number, sizeof number, 0)) !=
                      STI_E_THROTTLED,
                  "no call was taken, though others have ended");
        CFM_STATUS(rc, STI_OK);
    }
    for (uint32_t i = 0; i < ORDERED; i++) {
        uint32_t number = i + 1;
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_OK);
        CFM_EXPECT(calls[i].len == 4 && memcmp(calls[i].bytes, &number, 4) == 0,
                   "call %u was answered with another's answer", number);
        pee_call_free(&calls[i]);
    }
    CFM_EQ(atomic_load(&w.service.begun), ORDERED);
    CFM_EXPECT(atomic_load(&w.service.out_of_order) == 0, "%u handlers began out of order",
               atomic_load(&w.service.out_of_order));
    CFM_EXPECT(atomic_load(&w.service.overlapped) == 0,
               "%u handlers of one connection ran beside another",
               atomic_load(&w.service.overlapped));
    free(calls);
    pee_world_stop(&w);
}

PEE_CASE(sizes)
{
    struct pee_world w;
    pee_world_start(cfm, &w);
    size_t max = (size_t)pee_info(&w.two).message_bytes_max;
    static const size_t sizes[] = {1,     2,     15,    16,    255,   256,    4095,   4096,
                                   16383, 16384, 16385, 65535, 65536, 100000, 131072, 1000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i] <= max) {
            pee_echo(cfm, &w.link, sizes[i]);
        }
    }
    pee_echo(cfm, &w.link, max);
    for (unsigned i = 0; i < 20; i++) {
        pee_echo(cfm, &w.link, 1 + cfm_below(cfm, (uint32_t)(max < 200000 ? max : 200000)));
    }
    /* As many slices as there may be, some of them empty, with and without an owner. */
    struct pee_bytes *bytes = pee_bytes(STI_PEER_SLICE_MAX * 40, 9);
    struct sti_slice slices[STI_PEER_SLICE_MAX];
    size_t pos = 0;
    for (uint32_t i = 0; i < STI_PEER_SLICE_MAX; i++) {
        size_t len = cfm_below(cfm, 40);
        slices[i] = cfm_one_in(cfm, 2) ? pee_slice(bytes, pos, len)
                                       : sti_slice_borrow(bytes->data + pos, len);
        pos += len;
    }
    struct pee_call call = {0};
    CFM_STATUS(pee_begin_slices(&w.link, &call, "test", "echo", slices, STI_PEER_SLICE_MAX, 0),
               STI_OK);
    CFM_STATUS(pee_wait(cfm, &call), STI_OK);
    CFM_EXPECT(call.len == pos && pee_is(call.bytes, pos, 9, 0), "many slices came back wrong");
    pee_call_free(&call);
    pee_world_stop(&w);
    pee_unref(bytes);
}

/* Handlers that answer later, from another thread, in whatever order. */
PEE_CASE(later)
{
    struct pee_world w;
    struct pee_call held[KEPT] = {0};
    pee_world_start(cfm, &w);
    for (uint32_t i = 0; i < KEPT; i++) {
        CFM_STATUS(pee_begin(&w.link, &held[i], "hold", &i, sizeof i, 0), STI_OK);
        pee_echo(cfm, &w.link, 10); /* overtakes */
    }
    for (uint32_t i = 0; i < KEPT; i++) {
        CFM_EXPECT(atomic_load(&held[i].done) == 0, "a call ended before it was answered");
    }
    pthread_mutex_lock(&w.service.mu);
    CFM_EQ(w.service.held_count, KEPT);
    for (uint32_t i = 0; i < KEPT / 2; i++) { /* from the last to the first */
        struct sti_peer_incoming *swap = w.service.held[i];
        w.service.held[i] = w.service.held[KEPT - 1 - i];
        w.service.held[KEPT - 1 - i] = swap;
    }
    pthread_mutex_unlock(&w.service.mu);
    pee_release(&w.service);
    for (uint32_t i = 0; i < KEPT; i++) {
        CFM_STATUS(pee_wait(cfm, &held[i]), STI_OK);
        CFM_EXPECT(held[i].len == 4 && memcmp(held[i].bytes, &i, 4) == 0,
                   "call %u was answered with another's answer", i);
        pee_call_free(&held[i]);
    }
    pee_world_stop(&w);
}

/* ---- whose memory it is --------------------------------------------------------------------- */

static struct pee_bytes *_Atomic served; /* what "owned" answers with */

static void handle_owned(void *ctx, struct sti_peer_incoming *incoming)
{
    const struct sti_peer *vt = ctx;
    struct pee_bytes *bytes = atomic_load(&served);
    struct sti_slice slices[3] = {pee_slice(bytes, 0, 100), pee_slice(bytes, 100, 70000),
                                  sti_slice_borrow("end", 3)};
    vt->respond(incoming, STI_OK, NULL, slices, 3);
}

/* References are taken for what is sent, and each is dropped once, also of calls that fail. */
PEE_CASE(released)
{
    struct pee_world w;
    struct pee_call calls[KEPT] = {0};
    pee_world_start(cfm, &w);
    struct sti_err err = {0};
    struct sti_peer_service owned = {.struct_size = sizeof owned,
                                     .name = "owned",
                                     .handle = handle_owned,
                                     .ctx = (void *)(uintptr_t)pee_vt(&w.two)};
    CFM_STATUS(pee_vt(&w.two)->serve(w.two.subject.self, &owned, &err), STI_OK);
    struct pee_bytes *bytes = pee_bytes(100000, 3);
    atomic_store(&served, pee_bytes(70100, 4));
    struct sti_slice slices[2] = {pee_slice(bytes, 0, 60000), pee_slice(bytes, 60000, 40000)};
    for (unsigned i = 0; i < KEPT; i++) {
        CFM_STATUS(pee_begin_slices(&w.link, &calls[i], "test", i % 2 == 0 ? "echo" : "hold",
                                    slices, 2, 0),
                   STI_OK);
    }
    struct pee_call answered = {0};
    for (unsigned i = 0; i < KEPT; i++) {
        CFM_STATUS(pee_begin_slices(&w.link, &answered, "owned", "x", NULL, 0, 0), STI_OK);
        CFM_STATUS(pee_wait(cfm, &answered), STI_OK);
        CFM_EXPECT(answered.len == 70103 && pee_is(answered.bytes, 70100, 4, 0),
                   "an answer came back wrong");
    }
    CFM_EXPECT(pee_is(bytes->data, bytes->len, 3, 0), "the bytes of a request changed");
    w.link.vt->sever(w.link.connection);
    for (unsigned i = 0; i < KEPT; i++) {
        int rc = pee_wait(cfm, &calls[i]);
        CFM_EXPECT(rc == STI_E_CONNECTION_LOST || (i % 2 == 0 && rc == STI_OK),
                   "a call ended with %s", sti_status_name(rc));
        pee_call_free(&calls[i]);
    }
    /* Refused ones leave nothing behind either. */
    CFM_STATUS(pee_begin_slices(&w.link, &answered, "", "x", slices, 2, 0), STI_E_INVALID_ARGUMENT);
    pee_call_free(&answered);
    CFM_STATUS(pee_vt(&w.two)->withdraw(w.two.subject.self, "owned", &err), STI_OK);
    pee_world_stop(&w);
    pee_unref(bytes);
    pee_unref(atomic_load(&served));
}

struct keeper {
    struct pee_call call; /* first */
    struct sti_slice slices[64];
    uint32_t count;
};

static void keep(struct sti_peer_call *given, int status, const struct sti_err *err)
{
    struct keeper *k = (struct keeper *)(void *)given;
    (void)err;
    CFM_STATUS(status, STI_OK);
    CFM_CHECK(given->response_count <= 64);
    for (uint32_t i = 0; i < given->response_count; i++) {
        k->slices[i] = given->response[i];
        sti_slice_ref(&k->slices[i]);
    }
    k->count = given->response_count;
    (void)atomic_fetch_add(&k->call.done, 1);
}

/* What a reference was taken of stays, also when the connection and the node are gone. */
PEE_CASE(kept)
{
    struct pee_world w;
    struct keeper keepers[KEPT];
    memset(keepers, 0, sizeof keepers);
    pee_world_start(cfm, &w);
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t len = 1000 + i;
        struct sti_err err = {0};
        struct sti_slice slice = sti_slice_borrow(&len, sizeof len);
        keepers[i].call.call = (struct sti_peer_call){.struct_size = sizeof keepers[i].call.call,
                                                      .service = "test",
                                                      .method = "size",
                                                      .request = &slice,
                                                      .request_count = 1,
                                                      .done = keep};
        CFM_STATUS(w.link.vt->call(w.link.connection, &keepers[i].call.call, &err), STI_OK);
    }
    for (uint32_t i = 0; i < KEPT; i++) {
        PEE_UNTIL(cfm, atomic_load(&keepers[i].call.done) > 0, "`done` was not called");
    }
    pee_echo(cfm, &w.link, 50000); /* would use the memory again */
    pee_hang_up(&w.link);
    for (uint32_t i = 0; i < KEPT; i++) {
        size_t pos = 0;
        for (uint32_t j = 0; j < keepers[i].count; j++) {
            CFM_EXPECT(
                pee_is(keepers[i].slices[j].data, (size_t)keepers[i].slices[j].len, 1000 + i, pos),
                "bytes changed while a reference was held");
            pos += (size_t)keepers[i].slices[j].len;
            sti_slice_release(&keepers[i].slices[j]);
        }
        CFM_EQ(pos, 1000 + i);
    }
    pee_withdraw(&w.service);
    cfm_node_stop(&w.one);
    cfm_node_stop(&w.two);
}

/* Bytes without an owner, the slices and the names are the caller's again when call returns. */
PEE_CASE(memory_back)
{
    struct pee_world w;
    struct pee_call calls[KEPT] = {0};
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < KEPT; i++) {
        uint8_t *bytes = malloc(30000);
        char *names = malloc(16);
        struct sti_slice *slices = malloc(2 * sizeof *slices);
        CFM_CHECK(bytes != NULL && names != NULL && slices != NULL);
        memset(bytes, (int)i, 30000);
        memcpy(names, "test\0echo", 10);
        slices[0] = sti_slice_borrow(bytes, 10000);
        slices[1] = sti_slice_borrow(bytes + 10000, 20000);
        CFM_STATUS(pee_begin_slices(&w.link, &calls[i], names, names + 5, slices, 2, 0), STI_OK);
        memset(bytes, 0xee, 30000);
        memset(names, 'z', 16);
        memset(slices, 0xee, 2 * sizeof *slices);
        free(bytes);
        free(names);
        free(slices);
    }
    for (unsigned i = 0; i < KEPT; i++) {
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_OK);
        CFM_EXPECT(calls[i].len == 30000 && calls[i].bytes[0] == i && calls[i].bytes[29999] == i,
                   "bytes were read after call had returned");
        pee_call_free(&calls[i]);
    }
    pee_world_stop(&w);
}

/* ---- many ----------------------------------------------------------------------------------- */

static void *call_on(void *arg)
{
    struct pee_world *w = arg;
    for (unsigned i = 0; i < CALLS_EACH; i++) {
        pee_echo(w->cfm, &w->link, 1 + i * 7u % 3000u);
    }
    return NULL;
}

PEE_CASE(threads)
{
    struct pee_world w;
    pthread_t threads[THREADS];
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < THREADS; i++) {
        CFM_EQ(pthread_create(&threads[i], NULL, call_on, &w), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CFM_EQ(atomic_load(&w.service.begun), THREADS * CALLS_EACH);
    pee_world_stop(&w);
}

/* Several connections of two nodes, both ways: one that waits holds up no other. */
PEE_CASE(connections)
{
    struct pee_world w;
    struct pee_link links[LINKS];
    struct pee_service back;
    struct pee_call held = {0};
    pee_world_start(cfm, &w);
    pee_serve(&back, &w.one, "test");
    for (unsigned i = 0; i < LINKS; i++) {
        pee_connect(cfm, &links[i], i % 2 == 0 ? &w.one : &w.two, i % 2 == 0 ? 2 : 1,
                    i % 2 == 0 ? w.address : pee_address(&w.one));
    }
    CFM_STATUS(pee_begin(&w.link, &held, "hold", "x", 1, 0), STI_OK);
    for (unsigned i = 0; i < LINKS; i++) {
        pee_echo(cfm, &links[i], 1000);
    }
    links[0].vt->sever(links[0].connection);
    for (unsigned i = 1; i < LINKS; i++) {
        pee_echo(cfm, &links[i], 1000);
    }
    CFM_EQ(atomic_load(&held.done), 0);
    for (unsigned i = 0; i < LINKS; i++) {
        pee_hang_up(&links[i]);
    }
    PEE_UNTIL(cfm, pee_held(&w.service) > 0, "a call was not handled");
    pee_release(&w.service);
    CFM_STATUS(pee_wait(cfm, &held), STI_OK);
    pee_call_free(&held);
    pee_withdraw(&back);
    pee_world_stop(&w);
}
