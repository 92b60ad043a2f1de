/* limits.c -- services that come and go, bounds, and the end of a node. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peer_suite.h"

PEE_CASE(no_service)
{
    struct pee_world w;
    struct pee_call call = {0};
    pee_world_start(cfm, &w);
    CFM_STATUS(pee_begin_slices(&w.link, &call, "other", "echo", NULL, 0, 0), STI_OK);
    CFM_STATUS(pee_wait(cfm, &call), STI_E_UNAVAILABLE);
    CFM_EXPECT(strstr(call.err.msg, "other") != NULL, "the service is not named: %s", call.err.msg);
    CFM_EQ(atomic_load(&w.service.begun), 0);
    pee_echo(cfm, &w.link, 10);
    pee_call_free(&call);
    pee_world_stop(&w);
}

PEE_CASE(withdraw)
{
    struct pee_world w;
    struct pee_service again, other;
    struct pee_call call = {0}, held = {0};
    struct sti_err err = {0};
    pee_world_start(cfm, &w);
    struct sti_peer_service same = {.struct_size = sizeof same, .name = "test"};
    CFM_STATUS(w.service.vt->serve(w.service.self, &same, &err), STI_E_ALREADY_EXISTS);
    CFM_STATUS(w.service.vt->withdraw(w.service.self, "nothing", &err), STI_E_NOT_FOUND);
    pee_serve(&other, &w.two, "other");
    CFM_STATUS(pee_begin(&w.link, &held, "hold", "kept", 4, 0), STI_OK);
    PEE_UNTIL(cfm, pee_held(&w.service) == 1, "the call was not handled");
    pee_withdraw(&w.service);
    CFM_STATUS(w.service.vt->withdraw(w.service.self, "test", &err), STI_E_NOT_FOUND);
    CFM_STATUS(pee_call(cfm, &w.link, &call, "echo", "x", 1, 0), STI_E_UNAVAILABLE);
    CFM_EXPECT(atomic_load(&w.service.begun) == 1, "a handler ran after withdraw");
    CFM_STATUS(pee_begin_slices(&w.link, &call, "other", "echo", NULL, 0, 0), STI_OK);
    CFM_STATUS(pee_wait(cfm, &call), STI_OK);
    pee_serve(&again, &w.two, "test");
    pee_echo(cfm, &w.link, 10);
    pee_release(&w.service); /* what it was given remains its own */
    CFM_STATUS(pee_wait(cfm, &held), STI_OK);
    CFM_EQ(held.len, 4);
    pee_withdraw(&again);
    pee_withdraw(&other);
    pee_hang_up(&w.link);
    pee_call_free(&call);
    pee_call_free(&held);
    cfm_node_stop(&w.one);
    cfm_node_stop(&w.two);
}

PEE_CASE(withdraw_waits)
{
    struct pee_world w;
    struct pee_call call = {0};
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < 5; i++) {
        CFM_STATUS(pee_begin(&w.link, &call, "slow", "x", 1, 0), STI_OK);
        PEE_UNTIL(cfm, atomic_load(&w.service.inside) > 0, "the call was not handled");
        pee_withdraw(&w.service);
        CFM_EXPECT(atomic_load(&w.service.inside) == 0, "withdraw returned while a handler ran");
        CFM_STATUS(pee_wait(cfm, &call), STI_OK);
        pee_serve(&w.service, &w.two, "test");
    }
    pee_call_free(&call);
    pee_world_stop(&w);
}

PEE_CASE(names)
{
    struct pee_world w;
    struct pee_call call = {0};
    struct sti_err err = {0};
    char longest[STI_PEER_NAME_MAX + 1], too_long[STI_PEER_NAME_MAX + 2];
    memset(longest, 'n', sizeof longest - 1);
    memset(too_long, 'n', sizeof too_long - 1);
    longest[sizeof longest - 1] = too_long[sizeof too_long - 1] = '\0';
    const char *const bad[] = {"", too_long, "with space", "line\n", "caf\xc3\xa9"};
    struct sti_slice many[STI_PEER_SLICE_MAX + 1];
    pee_world_start(cfm, &w);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct sti_peer_service service = {.struct_size = sizeof service, .name = bad[i]};
        CFM_STATUS(w.service.vt->serve(w.service.self, &service, &err), STI_E_INVALID_ARGUMENT);
        CFM_STATUS(pee_begin_slices(&w.link, &call, bad[i], "echo", NULL, 0, 0),
                   STI_E_INVALID_ARGUMENT);
        CFM_STATUS(pee_begin_slices(&w.link, &call, "test", bad[i], NULL, 0, 0),
                   STI_E_INVALID_ARGUMENT);
    }
    for (size_t i = 0; i <= STI_PEER_SLICE_MAX; i++) {
        many[i] = sti_slice_borrow("x", 1);
    }
    CFM_STATUS(pee_begin_slices(&w.link, &call, "test", "echo", many, STI_PEER_SLICE_MAX + 1, 0),
               STI_E_INVALID_ARGUMENT);
    struct sti_peer_connection *none = NULL;
    struct sti_peer_dial dial = {.struct_size = sizeof dial, .node_id = 2, .address = ""};
    CFM_STATUS(w.link.vt->dial(w.one.subject.self, &dial, &none, &err), STI_E_INVALID_ARGUMENT);
    CFM_CHECK(none == NULL);
    struct pee_service service;
    pee_serve(&service, &w.two, longest);
    CFM_STATUS(pee_begin_slices(&w.link, &call, longest, longest, NULL, 0, 0), STI_OK);
    CFM_STATUS(pee_wait(cfm, &call), STI_E_OFFSET_OUT_OF_RANGE);
    pee_withdraw(&service);
    pee_echo(cfm, &w.link, 10);
    pee_call_free(&call);
    pee_world_stop(&w);
}

PEE_CASE(too_large)
{
    struct pee_world w;
    struct pee_call call = {0};
    pee_world_start(cfm, &w);
    size_t max = (size_t)pee_info(&w.one).message_bytes_max;
    uint8_t *bytes = calloc(1, max + 1);
    CFM_CHECK(bytes != NULL && max < UINT32_MAX);
    CFM_STATUS(pee_begin(&w.link, &call, "echo", bytes, max + 1, 0), STI_E_MESSAGE_TOO_LARGE);
    uint32_t size = (uint32_t)max + 1;
    CFM_STATUS(pee_call(cfm, &w.link, &call, "size", &size, sizeof size, 0),
               STI_E_MESSAGE_TOO_LARGE);
    CFM_EQ(call.len, 0);
    size--;
    CFM_STATUS(pee_call(cfm, &w.link, &call, "size", &size, sizeof size, 0), STI_OK);
    CFM_EXPECT(call.len == size && pee_is(call.bytes, size, size, 0), "an answer came back wrong");
    CFM_EQ(atomic_load(&w.link.downs), 0);
    pee_call_free(&call);
    free(bytes);
    pee_world_stop(&w);
}

PEE_CASE(calls_max)
{
    struct pee_world w;
    struct pee_link other;
    pee_world_start(cfm, &w);
    uint32_t max = pee_info(&w.one).calls_max;
    if (max >= PEE_HELD_MAX) {
        cfm_skip("calls_max is %u: the case holds %d calls", max, PEE_HELD_MAX - 1);
    }
    struct pee_call *calls = calloc((size_t)max + 1, sizeof *calls);
    for (uint32_t i = 0; i < max; i++) {
        int rc = pee_begin(&w.link, &calls[i], "hold", &i, sizeof i, 0);
        CFM_EXPECT(rc == STI_OK, "call %u of %u is %s", i + 1, max, sti_status_name(rc));
    }
    CFM_STATUS(pee_begin(&w.link, &calls[max], "echo", "x", 1, 0), STI_E_THROTTLED);
    CFM_EXPECT((calls[max].err.traits & STI_TRAIT_RETRIABLE) != 0, "it may be tried again");
    pee_connect(cfm, &other, &w.one, 2, w.address);
    pee_echo(cfm, &other, 100); /* a bound of one connection */
    PEE_UNTIL(cfm, pee_held(&w.service) == max, "%u of %u calls were handled", pee_held(&w.service),
              max);
    pee_release(&w.service);
    for (uint32_t i = 0; i < max; i++) {
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_OK);
        pee_call_free(&calls[i]);
    }
    pee_echo(cfm, &w.link, 10);
    pee_hang_up(&other);
    free(calls);
    pee_world_stop(&w);
}

PEE_CASE(bytes_max)
{
    struct pee_world w;
    pee_world_start(cfm, &w);
    struct sti_peer_info info = pee_info(&w.one);
    uint32_t count = (uint32_t)(info.bytes_max / info.message_bytes_max);
    if (info.bytes_max > 256u << 20 || count >= info.calls_max) {
        cfm_skip("bytes_max is %llu", (unsigned long long)info.bytes_max);
    }
    struct pee_call *calls = calloc((size_t)count + 2, sizeof *calls);
    struct pee_bytes *bytes = pee_bytes((size_t)info.message_bytes_max, 5);
    struct sti_slice slice = pee_slice(bytes, 0, bytes->len);
    uint32_t taken = 0;
    int rc = STI_OK;
    for (; rc == STI_OK && taken < count + 2; taken += rc == STI_OK ? 1 : 0) {
        rc = pee_begin_slices(&w.link, &calls[taken], "test", "hold", &slice, 1, 0);
    }
    CFM_STATUS(rc, STI_E_THROTTLED);
    CFM_EXPECT(taken >= 1 && taken <= count + 1, "%u calls of %llu bytes are under way", taken,
               (unsigned long long)info.message_bytes_max);
    for (uint32_t i = 0; i < taken; i++) {
        while (atomic_load(&calls[i].done) == 0) {
            pee_release(&w.service); /* the other side reads on only as room comes free */
            pee_pause(10);
        }
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_OK);
        CFM_EXPECT(calls[i].len == bytes->len && pee_is(calls[i].bytes, bytes->len, 5, 0),
                   "an answer came back wrong");
        pee_call_free(&calls[i]);
    }
    pee_echo(cfm, &w.link, 10);
    free(calls);
    pee_world_stop(&w);
    pee_unref(bytes);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void *release_soon(void *arg)
{
    (void)usleep(200000);
    pee_release(arg);
    return NULL;
}

/* A node that ends answers what it was asked before. */
PEE_CASE(drain)
{
    struct pee_world w;
    struct pee_call calls[20] = {0};
    pthread_t thread;
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < 20; i++) {
        CFM_STATUS(pee_begin(&w.link, &calls[i], "hold", &i, sizeof i, 0), STI_OK);
    }
    PEE_UNTIL(cfm, pee_held(&w.service) == 20, "the calls were not handled");
    pee_withdraw(&w.service);
    CFM_EQ(pthread_create(&thread, NULL, release_soon, &w.service), 0);
    cfm_node_stop(&w.two);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < 20; i++) {
        int rc = pee_wait(cfm, &calls[i]);
        CFM_EXPECT(rc == STI_OK, "a call that was handled before the drain is %s",
                   sti_status_name(rc));
        pee_call_free(&calls[i]);
    }
    pee_hang_up(&w.link);
    cfm_node_stop(&w.one);
}

/* Start and stop, over and over, connected and not. */
PEE_CASE(lifecycle)
{
    struct pee_world w;
    for (unsigned i = 0; i < 5; i++) {
        pee_world_start(cfm, &w);
        pee_echo(cfm, &w.link, 1000);
        if (i % 2 == 0) {
            pee_world_stop(&w);
            continue;
        }
        pee_withdraw(&w.service);
        cfm_node_stop(&w.two); /* the one that serves first, with its connections */
        pee_hang_up(&w.link);
        cfm_node_stop(&w.one);
    }
}
