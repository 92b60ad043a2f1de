/* test_copies.c -- a megabyte goes to another node, and another comes back, without being copied in
 * user space: memcpy and memmove of the whole process are counted. Only bytes that have no owner
 * are copied, once, and counted by a metric.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../peer_grpc.h"
#include "copies.h"
#include "test_host.h"

extern const struct sti_plugin sti_plugin;

enum { PAYLOAD = 1 << 20, ROUNDS = 5 };

#define PEER ((const struct sti_peer *)(const void *)sti_plugin.provides[0])

struct bytes {
    struct sti_slice_owner owner; /* first */
    atomic_int refs;
    uint8_t data[PAYLOAD];
};

static void bytes_ref(struct sti_slice_owner *owner)
{
    (void)atomic_fetch_add(&((struct bytes *)(void *)owner)->refs, 1);
}

static void bytes_unref(struct sti_slice_owner *owner)
{
    (void)atomic_fetch_sub(&((struct bytes *)(void *)owner)->refs, 1);
}

static struct bytes request = {.owner = {bytes_ref, bytes_unref}, .refs = 1};
static struct bytes answer = {.owner = {bytes_ref, bytes_unref}, .refs = 1};
static atomic_int ended, up;
static uint64_t answered_bytes, requested_bytes;

static void handle(void *ctx, struct sti_peer_incoming *incoming)
{
    struct sti_slice slice = sti_slice_borrow(answer.data, PAYLOAD);
    (void)ctx;
    slice.owner = &answer.owner;
    requested_bytes = sti_slices_len(incoming->request, incoming->request_count);
    PEER->respond(incoming, STI_OK, NULL, &slice, 1);
}

static void on_done(struct sti_peer_call *call, int status, const struct sti_err *err)
{
    (void)err;
    answered_bytes = sti_slices_len(call->response, call->response_count);
    atomic_store(&ended, status == STI_OK ? 1 : -1);
}

static void on_state(void *ctx, struct sti_peer_connection *connection, int state,
                     const struct sti_err *err)
{
    (void)ctx;
    (void)connection;
    (void)err;
    atomic_store(&up, state == STI_PEER_UP);
}

static void wait_for(atomic_int *value)
{
    for (unsigned i = 0; atomic_load(value) == 0 && i < 30000; i++) {
        (void)usleep(1000);
    }
    assert_int_equal(atomic_load(value), 1);
}

static void call(struct sti_peer_connection *connection, struct sti_slice_owner *owner)
{
    struct sti_slice slice = sti_slice_borrow(request.data, PAYLOAD);
    struct sti_err err;
    slice.owner = owner;
    struct sti_peer_call one = {.struct_size = sizeof one,
                                .service = "test",
                                .method = "x",
                                .request = &slice,
                                .request_count = 1,
                                .done = on_done};
    atomic_store(&ended, 0);
    assert_int_equal(PEER->call(connection, &one, &err), STI_OK);
    wait_for(&ended);
    assert_int_equal(answered_bytes, PAYLOAD);
    assert_int_equal(requested_bytes, PAYLOAD);
}

static void payloads_are_not_copied(void **state)
{
    struct pgr_conf conf = {.host = "127.0.0.1",
                            .poller_threads = 1,
                            .keepalive_ms = 60000,
                            .keepalive_timeout_ms = 20000,
                            .peer = {.message_bytes_max = 4 << 20,
                                     .calls_in_flight_max = 16,
                                     .bytes_in_flight_max = 16 << 20,
                                     .connections_max = 4,
                                     .connect_timeout_ms = 20000,
                                     .reconnect_min_ms = 50,
                                     .reconnect_max_ms = 1000}};
    struct test_host *th = test_host_new("/nonexistent", 2);
    void *self;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_plugin.life->create(test_host_for(th, "peer"), &conf, &self, &err),
                     STI_OK);
    assert_int_equal(sti_plugin.life->start(self, &err), STI_OK);
    struct sti_peer_service service = {
        .struct_size = sizeof service, .name = "test", .handle = handle};
    struct sti_peer_info info = {.struct_size = sizeof info};
    struct sti_peer_connection *connection;
    assert_int_equal(PEER->serve(self, &service, &err), STI_OK);
    assert_int_equal(PEER->info(self, &info, &err), STI_OK);
    struct sti_peer_dial dial = {
        .struct_size = sizeof dial, .node_id = -1, .address = info.address, .state = on_state};
    assert_int_equal(PEER->dial(self, &dial, &connection, &err), STI_OK);
    wait_for(&up);
    call(connection, &request.owner);
    size_t before = copies_bytes();
    for (unsigned i = 0; i < ROUNDS; i++) {
        call(connection, &request.owner);
    }
    size_t copied = copies_bytes() - before;
    if (copied > PAYLOAD / 16) {
        fail_msg("%zu bytes were copied for %d calls of %d both ways", copied, ROUNDS, PAYLOAD);
    }
    assert_int_equal(test_host_metric(th, "streamit_peer_copied_bytes_total", "peer=\"peer\""), 0);
    before = copies_bytes();
    call(connection, NULL); /* nobody owns the request */
    assert_true(copies_bytes() - before >= PAYLOAD);
    assert_int_equal(test_host_metric(th, "streamit_peer_copied_bytes_total", "peer=\"peer\""),
                     PAYLOAD);
    PEER->hang_up(connection);
    assert_int_equal(PEER->withdraw(self, "test", &err), STI_OK);
    assert_int_equal(sti_plugin.life->drain(self, 5000, &err), STI_OK);
    assert_int_equal(sti_plugin.life->stop(self, 5000, &err), STI_OK);
    sti_plugin.life->destroy(self);
    assert_int_equal(atomic_load(&request.refs), 1); /* each reference came back */
    assert_int_equal(atomic_load(&answer.refs), 1);
    test_host_free(th);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(payloads_are_not_copied)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
