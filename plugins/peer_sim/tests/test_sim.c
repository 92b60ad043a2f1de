/* test_sim.c -- peer_sim on a virtual clock: three nodes in one thread, whose network is cut,
 * healed and lossy, do the same again under the same seed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../sim.h"
#include "virtual_host.h"

extern const struct sti_plugin sti_plugin;

enum { NODES = 3, CALLS_MAX = 64, DETECT_MS = 300 };

#define PEER    ((const struct sti_peer *)(const void *)sti_plugin.provides[0])
#define NETWORK ((const struct sti_peer_sim *)(const void *)sti_plugin.provides[1])

struct call {
    struct sti_peer_call call; /* first */
    bool under_way;
    int status;
    uint64_t ended_us;
    struct world *world;
};

struct world {
    struct virtual_host *vh;
    struct psi_conf conf[NODES];
    void *nodes[NODES];
    struct sti_peer_connection *links[NODES][NODES];
    int states[NODES][NODES];
    unsigned ends[64]; /* calls by status */
    unsigned handled, done;
    struct call calls[CALLS_MAX];
};

static const char *const addresses[NODES] = {"a", "b", "c"};

static void handle(void *ctx, struct sti_peer_incoming *incoming)
{
    ((struct world *)ctx)->handled++;
    PEER->respond(incoming, STI_OK, NULL, incoming->request, incoming->request_count);
}

static void on_done(struct sti_peer_call *given, int status, const struct sti_err *err)
{
    struct call *call = (struct call *)(void *)given;
    (void)err;
    assert_true(call->under_way);
    call->under_way = false;
    call->status = status;
    call->ended_us = virtual_host_now_us(call->world->vh);
    call->world->ends[-status]++;
    call->world->done++;
}

static void on_state(void *ctx, struct sti_peer_connection *connection, int state,
                     const struct sti_err *err)
{
    (void)connection;
    (void)err;
    *(int *)ctx = state;
}

static struct world *world_new(uint64_t seed, int64_t lost_per_million)
{
    struct world *w = calloc(1, sizeof *w);
    struct sti_err err;
    assert_non_null(w);
    w->vh = virtual_host_new(seed);
    for (int i = 0; i < NODES; i++) {
        w->conf[i] = (struct psi_conf){.network = "test",
                                       .address = addresses[i],
                                       .seed = (int64_t)seed,
                                       .delay_min_us = 100,
                                       .delay_max_us = 2000,
                                       .lost_per_million = lost_per_million,
                                       .detect_ms = DETECT_MS,
                                       .peer = {.message_bytes_max = 1 << 20,
                                                .calls_in_flight_max = 100,
                                                .bytes_in_flight_max = 1 << 20,
                                                .connections_max = 16,
                                                .connect_timeout_ms = 1000,
                                                .reconnect_min_ms = 10,
                                                .reconnect_max_ms = 100}};
        const struct sti_host *host = virtual_host_for(w->vh, "peer", i + 1, "c1");
        assert_int_equal(sti_plugin.life->create(host, &w->conf[i], &w->nodes[i], &err), STI_OK);
        assert_int_equal(sti_plugin.life->start(w->nodes[i], &err), STI_OK);
        struct sti_peer_service service = {
            .struct_size = sizeof service, .name = "test", .handle = handle, .ctx = w};
        assert_int_equal(PEER->serve(w->nodes[i], &service, &err), STI_OK);
    }
    for (int i = 0; i < NODES; i++) {
        for (int j = 0; j < NODES; j++) {
            struct sti_peer_dial dial = {.struct_size = sizeof dial,
                                         .node_id = j + 1,
                                         .address = addresses[j],
                                         .state = on_state,
                                         .ctx = &w->states[i][j]};
            assert_int_equal(PEER->dial(w->nodes[i], &dial, &w->links[i][j], &err), STI_OK);
        }
    }
    for (int i = 0; i < CALLS_MAX; i++) {
        w->calls[i].world = w;
    }
    return w;
}

static void world_free(struct world *w)
{
    struct sti_err err;
    for (int i = 0; i < NODES; i++) {
        for (int j = 0; j < NODES; j++) {
            PEER->hang_up(w->links[i][j]);
        }
    }
    NETWORK->heal(w->nodes[0], NULL, NULL, true);
    virtual_host_run(w->vh, 60000000);
    for (int i = 0; i < NODES; i++) {
        assert_int_equal(PEER->withdraw(w->nodes[i], "test", &err), STI_OK);
        assert_int_equal(sti_plugin.life->drain(w->nodes[i], 1000, &err), STI_OK);
        assert_int_equal(sti_plugin.life->stop(w->nodes[i], 1000, &err), STI_OK);
        sti_plugin.life->destroy(w->nodes[i]);
    }
    virtual_host_free(w->vh);
    free(w);
}

static int begin(struct world *w, int from, int to, struct call *call, uint32_t timeout_ms)
{
    uint8_t bytes[300] = {1, 2, 3};
    struct sti_slice slice = sti_slice_borrow(bytes, sizeof bytes);
    struct sti_err err;
    call->call = (struct sti_peer_call){.struct_size = sizeof call->call,
                                        .timeout_ms = timeout_ms,
                                        .service = "test",
                                        .method = "echo",
                                        .request = &slice,
                                        .request_count = 1,
                                        .done = on_done};
    call->under_way = true;
    int rc = PEER->call(w->links[from][to], &call->call, &err);
    call->under_way = rc == STI_OK;
    return rc;
}

/* A second of calls, cuts and heals, drawn from the seed. */
static struct sti_peer_sim_trace scenario(uint64_t seed)
{
    struct world *w = world_new(seed, 2000);
    struct sti_peer_sim_trace trace = {.struct_size = sizeof trace};
    uint64_t random = seed * 2654435761u + 1;
    for (unsigned round = 0; round < 2000; round++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        unsigned r = (unsigned)(random >> 40);
        int from = (int)(r % NODES), to = (int)(r / NODES % NODES);
        struct call *call = &w->calls[r / 16 % CALLS_MAX];
        if (r % 97 == 0) {
            assert_int_equal(
                NETWORK->cut(w->nodes[0], addresses[from], addresses[to], r % 2 == 0, NULL),
                STI_OK);
        } else if (r % 31 == 0) {
            NETWORK->heal(w->nodes[0], NULL, NULL, true);
        } else if (!call->under_way) {
            (void)begin(w, from, to, call, r % 5 == 0 ? 5 : 0);
        }
        virtual_host_run(w->vh, 500);
    }
    NETWORK->heal(w->nodes[0], NULL, NULL, true);
    virtual_host_run(w->vh, 5000000);
    for (unsigned i = 0; i < CALLS_MAX; i++) {
        assert_false(w->calls[i].under_way);
    }
    assert_true(w->ends[0] > 100);
    assert_true(w->ends[-STI_E_TIMED_OUT] > 0);
    assert_true(w->ends[-STI_E_CONNECTION_LOST] > 0);
    assert_true(w->handled >= w->ends[0]); /* every answer was made by a handler */
    for (int i = 0; i < NODES; i++) {
        for (int j = 0; j < NODES; j++) {
            assert_int_equal(w->states[i][j], STI_PEER_UP); /* all is well again */
        }
    }
    NETWORK->trace(w->nodes[0], &trace);
    world_free(w);
    return trace;
}

static void same_seed_same_trace(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct sti_peer_sim_trace first = scenario(seed), again = scenario(seed);
        struct sti_peer_sim_trace other = scenario(seed + 100);
        assert_true(first.events > 1000);
        assert_true(first.hash == again.hash);
        assert_int_equal(first.events, again.events);
        assert_int_equal(first.broken, again.broken);
        assert_true(first.hash != other.hash);
    }
}

static void a_cut_is_noticed_and_heals(void **state)
{
    (void)state;
    struct world *w = world_new(7, 0);
    virtual_host_run(w->vh, 100000);
    assert_int_equal(w->states[0][1], STI_PEER_UP);
    assert_int_equal(NETWORK->cut(w->nodes[0], "a", "b", true, NULL), STI_OK);
    uint64_t since_us = virtual_host_now_us(w->vh);
    assert_int_equal(begin(w, 0, 1, &w->calls[0], 0), STI_OK);
    assert_int_equal(begin(w, 0, 2, &w->calls[1], 0), STI_OK); /* beside the cut */
    virtual_host_run(w->vh, DETECT_MS * 900);
    assert_true(w->calls[0].under_way);
    assert_int_equal(w->calls[1].status, STI_OK);
    virtual_host_run(w->vh, DETECT_MS * 200);
    assert_int_equal(w->calls[0].status, STI_E_CONNECTION_LOST);
    assert_true(w->calls[0].ended_us - since_us >= DETECT_MS * 1000u);
    assert_int_equal(w->states[0][1], STI_PEER_DOWN);
    assert_int_equal(w->states[1][0], STI_PEER_DOWN);
    assert_int_equal(w->states[0][2], STI_PEER_UP);
    virtual_host_run(w->vh, 3000000);
    assert_int_equal(w->states[0][1], STI_PEER_DOWN); /* attempts do not pass either */
    NETWORK->heal(w->nodes[0], "a", "b", true);
    virtual_host_run(w->vh, 3000000);
    assert_int_equal(w->states[0][1], STI_PEER_UP);
    assert_int_equal(begin(w, 0, 1, &w->calls[0], 0), STI_OK);
    virtual_host_run(w->vh, 10000);
    assert_int_equal(w->calls[0].status, STI_OK);
    world_free(w);
}

/* What waits behind a short cut goes on, once, as TCP would have it. */
static void a_short_cut_only_delays(void **state)
{
    (void)state;
    struct world *w = world_new(8, 0);
    virtual_host_run(w->vh, 100000);
    unsigned handled = w->handled;
    assert_int_equal(NETWORK->cut(w->nodes[0], "a", "b", false, NULL), STI_OK);
    assert_int_equal(begin(w, 0, 1, &w->calls[0], 0), STI_OK);
    virtual_host_run(w->vh, DETECT_MS * 500);
    assert_int_equal(w->handled, handled);
    NETWORK->heal(w->nodes[0], "a", "b", false);
    virtual_host_run(w->vh, 10000);
    assert_int_equal(w->calls[0].status, STI_OK);
    assert_int_equal(w->handled, handled + 1);
    assert_int_equal(w->states[0][1], STI_PEER_UP);
    world_free(w);
}

/* One way: the request arrives, its answer does not. */
static void a_one_way_cut_loses_the_answer(void **state)
{
    (void)state;
    struct world *w = world_new(9, 0);
    virtual_host_run(w->vh, 100000);
    unsigned handled = w->handled;
    assert_int_equal(NETWORK->cut(w->nodes[0], "b", "a", false, NULL), STI_OK);
    assert_int_equal(begin(w, 0, 1, &w->calls[0], 50), STI_OK);
    virtual_host_run(w->vh, 100000);
    assert_int_equal(w->calls[0].status, STI_E_TIMED_OUT);
    assert_int_equal(w->handled, handled + 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_trace),
        cmocka_unit_test(a_cut_is_noticed_and_heals),
        cmocka_unit_test(a_short_cut_only_delays),
        cmocka_unit_test(a_one_way_cut_loses_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
