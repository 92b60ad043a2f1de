/* The limits on connections: those that call, those that never do, those that are gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connections.h"
#include "fake_broker.h"
#include "grpc_client.h"
#include "test_host.h"
#include "transport.h"

#define LISTENER "listener=\"transport_grpc\""
#define REFUSED  "streamit_grpc_connections_refused_total"

enum { PATIENCE = 2000, PAUSE_US = 10000, IDLE = 40 };

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    struct sti_host host;
    struct fake_broker *fb;
    struct tgr_conf conf;
    struct tgr_transport *t;
    int idle[IDLE];
};

static void host_announce(void *ctx, const char *address)
{
    (void)ctx;
    (void)address;
}

static int setup_with(void **state, int64_t most, int64_t most_per_address)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sti_err err;
    void *self;
    assert_non_null(f);
    f->conf = (struct tgr_conf){.host = "127.0.0.1",
                                .poller_threads = 1,
                                .max_message_bytes = 1 << 20,
                                .max_concurrent_streams = 100,
                                .calls_in_flight_max = 100,
                                .partitions_per_call_max = 100,
                                .fetch_response_bytes_max = 1 << 20,
                                .keepalive_ms = 60000,
                                .stream_requests_max = 64,
                                .stream_partitions_max = 100,
                                .connections_max = most,
                                .connections_per_address_max = most_per_address};
    f->th = test_host_new("/", 2);
    f->fb = fake_broker_new(test_host_for(f->th, "broker"));
    fake_broker_topic(f->fb, "orders", 1);
    test_host_provide(f->th, "broker", fake_broker_iface(), f->fb);
    f->host = *test_host_for(f->th, "transport_grpc");
    f->host.announce = host_announce;
    assert_int_equal(sti_plugin.life->create(&f->host, &f->conf, &self, &err), STI_OK);
    f->t = self;
    assert_int_equal(sti_plugin.life->start(self, &err), STI_OK);
    grpc_init();
    for (int i = 0; i < IDLE; i++) {
        f->idle[i] = -1;
    }
    *state = f;
    return 0;
}

static int setup_three(void **state)
{
    return setup_with(state, 3, 0);
}

static int setup_address(void **state)
{
    return setup_with(state, 0, 2);
}

static int setup_free(void **state)
{
    return setup_with(state, 0, 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    for (int i = 0; i < IDLE; i++) {
        if (f->idle[i] >= 0) {
            (void)close(f->idle[i]);
        }
    }
    assert_int_equal(sti_plugin.life->stop(f->t, 5000, &err), STI_OK);
    grpc_shutdown();
    sti_plugin.life->destroy(f->t);
    test_host_free(f->th);
    fake_broker_free(f->fb);
    free(f);
    return 0;
}

static int dial(const struct fixture *f)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)f->t->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Has the server closed it? What it sends of its own accord is read and dropped. */
static bool is_closed(int fd)
{
    char buffer[4096];
    struct pollfd at = {.fd = fd, .events = POLLIN};
    while (poll(&at, 1, 0) > 0) {
        if (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) <= 0) {
            return true;
        }
    }
    return false;
}

/* One call, with what came of it. */
static grpc_status_code find(grpc_channel *channel, Streamit__V1__Error *error)
{
    Streamit__V1__FindLeaderRequest request = STREAMIT__V1__FIND_LEADER_REQUEST__INIT;
    struct test_call call;
    request.topic = (char *)(uintptr_t) "orders";
    test_call_message(&call, channel, "/streamit.v1.StreamIt/FindLeader", &request.base);
    grpc_status_code status = call.status;
    if (error != NULL && call.error != NULL) {
        *error = *call.error;
        if (status == GRPC_STATUS_RESOURCE_EXHAUSTED) {
            assert_non_null(strstr(call.text, "transport_grpc takes connections_"));
        }
    }
    test_call_free(&call);
    return status;
}

/* Call until the answer is this one. A connection that the census closes in the midst of a call
 * ends it as UNAVAILABLE, which is why once may not be enough. */
static bool answers(grpc_channel *channel, grpc_status_code wanted, Streamit__V1__Error *error)
{
    for (int i = 0; i < PATIENCE; i++) {
        if (find(channel, error) == wanted) {
            return true;
        }
        (void)usleep(PAUSE_US);
    }
    return false;
}

/* Until the census has counted so many. gRPC takes a moment to accept. */
static bool counts(struct fixture *f, uint32_t open)
{
    for (int i = 0; i < PATIENCE; i++) {
        if (tgr_connections_census(f->t) == open) {
            return true;
        }
        (void)usleep(PAUSE_US);
    }
    return false;
}

static void test_limit(void **state)
{
    struct fixture *f = *state;
    Streamit__V1__Error error = STREAMIT__V1__ERROR__INIT;
    grpc_channel *first = test_channel_new(f->t->port), *late = test_channel_new(f->t->port);
    assert_int_equal(find(first, NULL), GRPC_STATUS_OK);
    f->idle[0] = dial(f);
    f->idle[1] = dial(f);
    assert_true(counts(f, 3));
    assert_true(answers(late, GRPC_STATUS_RESOURCE_EXHAUSTED, &error));
    assert_int_equal(error.code, STREAMIT__V1__ERROR_CODE__RESOURCE_EXHAUSTED);
    assert_true(error.retriable);
    assert_true(error.retry_after_ms > 0);
    assert_true(test_host_metric(f->th, REFUSED, LISTENER ",limit=\"connections_max\"") > 0);
    for (int i = 2; i < IDLE; i++) { /* a flood that never says a word */
        f->idle[i] = dial(f);
    }
    for (int i = 2; i < IDLE; i++) {
        bool closed = is_closed(f->idle[i]);
        for (int n = 0; n < PATIENCE && !closed; n++) {
            (void)usleep(PAUSE_US);
            closed = is_closed(f->idle[i]);
        }
        assert_true(closed);
    }
    /* Who was there stays, and is served. */
    assert_int_equal(find(first, NULL), GRPC_STATUS_OK);
    assert_false(is_closed(f->idle[0]));
    assert_false(is_closed(f->idle[1]));
    assert_true(test_host_logged(f->th, "connections_refused") > 0);
    (void)close(f->idle[1]);
    f->idle[1] = -1;
    assert_true(answers(late, GRPC_STATUS_OK, NULL)); /* room for one more */
    assert_int_equal(find(first, NULL), GRPC_STATUS_OK);
    grpc_channel_destroy(first);
    grpc_channel_destroy(late);
}

static void test_limit_of_address(void **state)
{
    struct fixture *f = *state;
    grpc_channel *first = test_channel_new(f->t->port), *late = test_channel_new(f->t->port);
    assert_int_equal(find(first, NULL), GRPC_STATUS_OK);
    f->idle[0] = dial(f);
    assert_true(counts(f, 2));
    assert_true(answers(late, GRPC_STATUS_RESOURCE_EXHAUSTED, NULL));
    assert_true(
        test_host_metric(f->th, REFUSED, LISTENER ",limit=\"connections_per_address_max\"") > 0);
    assert_int_equal(test_host_metric(f->th, REFUSED, LISTENER ",limit=\"connections_max\""), 0);
    (void)close(f->idle[0]);
    f->idle[0] = -1;
    assert_true(answers(late, GRPC_STATUS_OK, NULL));
    grpc_channel_destroy(first);
    grpc_channel_destroy(late);
}

static void test_no_limit(void **state)
{
    struct fixture *f = *state;
    grpc_channel *first = test_channel_new(f->t->port);
    for (int i = 0; i < IDLE; i++) {
        f->idle[i] = dial(f);
    }
    assert_int_equal(find(first, NULL), GRPC_STATUS_OK);
    assert_true(counts(f, IDLE + 1));
    assert_int_equal(test_host_metric(f->th, "streamit_grpc_connections", LISTENER), IDLE + 1);
    for (int i = 0; i < IDLE; i++) {
        assert_false(is_closed(f->idle[i]));
    }
    grpc_channel_destroy(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_limit, setup_three, teardown),
        cmocka_unit_test_setup_teardown(test_limit_of_address, setup_address, teardown),
        cmocka_unit_test_setup_teardown(test_no_limit, setup_free, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
