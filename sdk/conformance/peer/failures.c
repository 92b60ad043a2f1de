/* failures.c -- calls that end otherwise, and connections that break. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peer_suite.h"

enum { SHORT_MS = 150, UNDER_WAY = 50, RANDOM_CALLS = 600, RANDOM_WINDOW = 64 };

PEE_CASE(timeout)
{
    struct pee_world w;
    struct pee_call late = {0}, patient = {0};
    pee_world_start(cfm, &w);
    uint64_t since_us = sti_now_us(w.one.host);
    CFM_STATUS(pee_begin(&w.link, &patient, "hold", "p", 1, 0), STI_OK);
    CFM_STATUS(pee_call(cfm, &w.link, &late, "hold", "x", 1, SHORT_MS), STI_E_TIMED_OUT);
    uint64_t took_us = sti_now_us(w.one.host) - since_us;
    CFM_EXPECT(took_us >= SHORT_MS * 1000u, "a timeout of %d ms came after %" PRIu64 " us",
               SHORT_MS, took_us);
    PEE_UNTIL(cfm, pee_held(&w.service) == 2, "the calls were not handled");
    pee_release(&w.service); /* the answer of the first is dropped */
    CFM_STATUS(pee_wait(cfm, &patient), STI_OK);
    pee_echo(cfm, &w.link, 100);
    CFM_EQ(atomic_load(&late.done), 1);
    CFM_EQ(atomic_load(&w.link.downs), 0);
    for (unsigned i = 0; i < 20; i++) { /* and one that is answered in time is not timed out */
        CFM_STATUS(pee_call(cfm, &w.link, &late, "echo", "x", 1, 600000), STI_OK);
    }
    pee_call_free(&late);
    pee_call_free(&patient);
    pee_world_stop(&w);
}

PEE_CASE(cancel)
{
    struct pee_world w;
    struct pee_call call = {0}, other = {0};
    pee_world_start(cfm, &w);
    CFM_STATUS(pee_begin(&w.link, &other, "hold", "o", 1, 0), STI_OK);
    CFM_STATUS(pee_begin(&w.link, &call, "hold", "x", 1, 60000), STI_OK);
    PEE_UNTIL(cfm, pee_held(&w.service) == 2, "the calls were not handled");
    CFM_CHECK(w.link.vt->cancel(w.link.connection, &call.call));
    CFM_STATUS(pee_wait(cfm, &call), STI_E_CANCELLED);
    CFM_EXPECT(!w.link.vt->cancel(w.link.connection, &call.call), "a call was cancelled twice");
    CFM_EQ(atomic_load(&other.done), 0);
    pee_release(&w.service);
    CFM_STATUS(pee_wait(cfm, &other), STI_OK);
    pee_echo(cfm, &w.link, 100);
    CFM_EQ(atomic_load(&call.done), 1);
    CFM_EXPECT(!w.link.vt->cancel(w.link.connection, &other.call),
               "a call was cancelled after its end");
    pee_call_free(&call);
    pee_call_free(&other);
    pee_world_stop(&w);
}

PEE_CASE(hang_up)
{
    struct pee_world w;
    struct pee_call calls[UNDER_WAY] = {0};
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_STATUS(pee_begin(&w.link, &calls[i], "hold", &i, sizeof i, 0), STI_OK);
    }
    pee_hang_up(&w.link);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_EXPECT(atomic_load(&calls[i].done) == 1, "hang_up returned before a `done`");
        CFM_STATUS(calls[i].status, STI_E_CANCELLED);
        pee_call_free(&calls[i]);
    }
    pee_connect(cfm, &w.link, &w.one, 2, w.address);
    pee_echo(cfm, &w.link, 100);
    pee_world_stop(&w);
}

PEE_CASE(sever)
{
    struct pee_world w;
    struct pee_call calls[UNDER_WAY] = {0};
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_STATUS(pee_begin(&w.link, &calls[i], "hold", &i, sizeof i, 0), STI_OK);
    }
    PEE_UNTIL(cfm, pee_held(&w.service) == UNDER_WAY, "the calls were not handled");
    w.link.vt->sever(w.link.connection);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_E_CONNECTION_LOST);
        CFM_EXPECT((calls[i].err.traits & STI_TRAIT_INDEFINITE) != 0,
                   "CONNECTION_LOST does not say that the outcome is unknown");
        pee_call_free(&calls[i]);
    }
    PEE_UNTIL(cfm, atomic_load(&w.link.downs) > 0, "`state` was not told that it broke");
    CFM_STATUS(pee_why(&w.link).code, STI_E_CONNECTION_LOST);
    PEE_UNTIL(cfm, atomic_load(&w.link.ups) == 2, "it was not connected anew");
    pee_echo(cfm, &w.link, 100);
    CFM_EXPECT(atomic_load(&w.service.begun) == UNDER_WAY + 1, "a call was delivered again");
    pee_release(&w.service); /* answers for nobody */
    pee_echo(cfm, &w.link, 100);
    pee_world_stop(&w);
}

PEE_CASE(unreachable)
{
    struct pee_world w;
    struct pee_link link;
    struct pee_call call = {0};
    pee_world_start(cfm, &w);
    pee_hang_up(&w.link);
    pee_withdraw(&w.service);
    cfm_node_stop(&w.two);
    pee_dial(&link, &w.one, 2, w.address);
    struct pee_call brief = {0};
    struct pee_bytes *bytes = pee_bytes(100000, 1);
    struct sti_slice slice = pee_slice(bytes, 0, 100000);
    if (pee_begin_slices(&link, &brief, "test", "echo", &slice, 1, 0) == STI_OK) {
        (void)link.vt->cancel(link.connection, &brief.call);
        (void)pee_wait(cfm, &brief);
    }
    pee_unref(bytes); /* what waited for the attempt does not wait on without its call */
    pee_call_free(&brief);
    int rc = pee_begin(&link, &call, "echo", "x", 1, 0); /* it may wait for the attempt */
    rc = rc == STI_OK ? pee_wait(cfm, &call) : rc;
    CFM_STATUS(rc, STI_E_UNAVAILABLE);
    PEE_UNTIL(cfm, atomic_load(&link.downs) > 0, "`state` was not told that nobody is there");
    CFM_STATUS(pee_why(&link).code, STI_E_UNAVAILABLE);
    CFM_EXPECT(strstr(pee_why(&link).msg, w.address) != NULL, "the address is not named: %s",
               pee_why(&link).msg);
    PEE_UNTIL(cfm, atomic_load(&link.downs) >= 3, "it does not try again");
    CFM_EQ(atomic_load(&link.ups), 0);
    pee_hang_up(&link);
    pee_call_free(&call);
    cfm_node_stop(&w.one);
}

PEE_CASE(restart)
{
    struct pee_world w;
    pee_world_start(cfm, &w);
    for (unsigned i = 0; i < 3; i++) {
        struct pee_call call = {0};
        pee_echo(cfm, &w.link, 1000);
        pee_withdraw(&w.service);
        cfm_node_stop(&w.two);
        PEE_UNTIL(cfm, atomic_load(&w.link.downs) > 0, "`state` was not told that it broke");
        int rc = pee_begin(&w.link, &call, "echo", "x", 1, 0);
        rc = rc == STI_OK ? pee_wait(cfm, &call) : rc;
        CFM_STATUS(rc, STI_E_UNAVAILABLE);
        pee_call_free(&call);
        cfm_node_start(cfm, PEE_CLUSTER, 2, pee_at(cfm, w.address), &w.two);
        pee_serve(&w.service, &w.two, "test");
        pee_echo_again(cfm, &w.link);
        atomic_store(&w.link.downs, 0);
    }
    pee_world_stop(&w);
}

/* Dial a node that is not the one; nothing may pass. */
static void refused(struct cfm *cfm, struct pee_world *w, unsigned cluster, int32_t node_id,
                    int32_t wanted, int status, const char *named)
{
    struct pee_link link;
    struct pee_call call = {0};
    struct cfm_node three;
    cfm_node_start(cfm, cluster, node_id, NULL, &three);
    unsigned begun = atomic_load(&w->service.begun);
    pee_dial(&link, &three, wanted, w->address);
    int rc = pee_begin(&link, &call, "echo", "x", 1, 0);
    rc = rc == STI_OK ? pee_wait(cfm, &call) : rc;
    CFM_STATUS(rc, status);
    CFM_EXPECT(strstr(call.err.msg, named) != NULL, "the refusal does not name %s: %s", named,
               call.err.msg);
    PEE_UNTIL(cfm, atomic_load(&link.downs) >= 2, "it does not try again");
    CFM_STATUS(pee_why(&link).code, status);
    CFM_EQ(atomic_load(&link.ups), 0);
    CFM_EXPECT(atomic_load(&w->service.begun) == begun, "a refused node's call was handled");
    pee_hang_up(&link);
    pee_call_free(&call);
    cfm_node_stop(&three);
    pee_echo(cfm, &w->link, 100); /* others go on */
}

PEE_CASE(other_cluster)
{
    struct pee_world w;
    pee_world_start(cfm, &w);
    refused(cfm, &w, PEE_OTHER_CLUSTER, 3, 2, STI_E_PERMISSION_DENIED,
            "00000000000000000000000000000002");
    refused(cfm, &w, PEE_OTHER_CLUSTER, 3, -1, STI_E_PERMISSION_DENIED,
            "00000000000000000000000000000001");
    pee_world_stop(&w);
}

PEE_CASE(other_node)
{
    struct pee_world w;
    pee_world_start(cfm, &w);
    refused(cfm, &w, PEE_CLUSTER, 3, 7, STI_E_PRECONDITION, "node 7");
    pee_world_stop(&w);
}

/* ---- another process ------------------------------------------------------------------------ */

static void serve_until_killed(void *arg, int fd)
{
    struct cfm *cfm = arg;
    struct cfm_node two;
    struct pee_service *service = calloc(1, sizeof *service);
    cfm_node_start(cfm, PEE_CLUSTER, 2, NULL, &two);
    pee_serve(service, &two, "test");
    const char *address = pee_address(&two);
    CFM_CHECK(write(fd, address, strlen(address) + 1) == (ssize_t)strlen(address) + 1);
    for (;;) {
        (void)pause();
    }
}

PEE_CASE(killed)
{
    int fd;
    char address[320] = "";
    struct cfm_node one;
    struct pee_link link;
    struct pee_call calls[UNDER_WAY] = {0};
    pid_t pid = cfm_fork(serve_until_killed, cfm, &fd);
    CFM_EXPECT(read(fd, address, sizeof address - 1) > 0, "the other process told no address");
    (void)close(fd);
    cfm_node_start(cfm, PEE_CLUSTER, 1, NULL, &one);
    pee_connect(cfm, &link, &one, 2, address);
    pee_echo(cfm, &link, 100000);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_STATUS(pee_begin(&link, &calls[i], "hold", &i, sizeof i, 0), STI_OK);
    }
    pee_echo(cfm, &link, 10);
    cfm_kill(pid);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        CFM_STATUS(pee_wait(cfm, &calls[i]), STI_E_CONNECTION_LOST);
        pee_call_free(&calls[i]);
    }
    PEE_UNTIL(cfm, atomic_load(&link.downs) >= 2, "it does not try again");
    CFM_STATUS(pee_why(&link).code, STI_E_UNAVAILABLE);
    pee_hang_up(&link);
    cfm_node_stop(&one);
}

/* ---- random runs ---------------------------------------------------------------------------- */

struct run {
    struct pee_call call;
    bool under_way, cancelled;
    uint32_t number, len;
};

static void check_end(struct cfm *cfm, struct run *r)
{
    int rc = pee_wait(cfm, &r->call);
    CFM_EXPECT(rc == STI_OK || rc == STI_E_CONNECTION_LOST || rc == STI_E_UNAVAILABLE ||
                   rc == STI_E_TIMED_OUT || (rc == STI_E_CANCELLED && r->cancelled),
               "a call ended with %s", sti_status_name(rc));
    CFM_EXPECT(rc != STI_OK || (r->call.len == r->len && memcmp(r->call.bytes, &r->number, 4) == 0),
               "a call was answered with another's answer");
    r->under_way = false;
}

PEE_CASE(random_runs)
{
    struct pee_world w;
    struct run *runs = calloc(RANDOM_WINDOW, sizeof *runs);
    uint8_t *bytes = calloc(1, 100000);
    uint32_t taken = 0;
    pee_world_start(cfm, &w);
    for (uint32_t i = 0; i < RANDOM_CALLS * cfm->rounds; i++) {
        struct run *r = &runs[cfm_below(cfm, RANDOM_WINDOW)];
        if (cfm_one_in(cfm, 60)) {
            w.link.vt->sever(w.link.connection);
        }
        if (cfm_one_in(cfm, 8)) {
            pee_release(&w.service);
        }
        if (r->under_way && cfm_one_in(cfm, 4) && atomic_load(&r->call.done) == 0) {
            r->cancelled = true;
            (void)w.link.vt->cancel(w.link.connection, &r->call.call);
        }
        if (r->under_way) {
            while (atomic_load(&r->call.done) == 0) {
                pee_release(&w.service);
                pee_pause(0);
            }
            check_end(cfm, r);
        }
        r->cancelled = false;
        r->number = i + 1;
        r->len = 4 + cfm_below(cfm, cfm_one_in(cfm, 10) ? 99996 : 500);
        memcpy(bytes, &r->number, 4);
        int rc = pee_begin(&w.link, &r->call, cfm_one_in(cfm, 3) ? "hold" : "echo", bytes, r->len,
                           cfm_one_in(cfm, 5) ? 1 + cfm_below(cfm, 30) : 0);
        CFM_EXPECT(rc == STI_OK || rc == STI_E_UNAVAILABLE, "a call is %s", sti_status_name(rc));
        r->under_way = rc == STI_OK;
        taken += rc == STI_OK ? 1 : 0;
        if (rc != STI_OK) {
            pee_echo_again(cfm, &w.link);
            taken++;
        }
    }
    for (unsigned i = 0; i < RANDOM_WINDOW; i++) {
        while (runs[i].under_way && atomic_load(&runs[i].call.done) == 0) {
            pee_release(&w.service);
            pee_pause(0);
        }
        if (runs[i].under_way) {
            check_end(cfm, &runs[i]);
        }
        pee_call_free(&runs[i].call);
    }
    CFM_EXPECT(taken > RANDOM_CALLS / 10, "hardly a call was taken");
    free(runs);
    free(bytes);
    pee_world_stop(&w);
}
