/* The streams of records, with a broker that holds back its answers or has no room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake_broker.h"
#include "grpc_client.h"
#include "grpc_stream.h"
#include "streamit/record_batch.h"
#include "test_host.h"
#include "transport.h"

#define API "/streamit.v1.StreamIt/"

enum { UNDER_WAY_MAX = 16, LIMIT_MS = 60000 };

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    struct fake_broker *fb;
    struct tgr_conf conf;
    struct tgr_transport *t;
    grpc_channel *channel;
    bool stopped;
};

static int setup_pollers(void **state, int pollers)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sti_err err;
    void *self;
    assert_non_null(f);
    f->conf = (struct tgr_conf){.host = "127.0.0.1",
                                .poller_threads = pollers,
                                .max_message_bytes = 1 << 20,
                                .max_concurrent_streams = 2048,
                                .calls_in_flight_max = 4096,
                                .partitions_per_call_max = 100,
                                .fetch_response_bytes_max = 8 << 20,
                                .stream_requests_max = UNDER_WAY_MAX,
                                .stream_partitions_max = 4,
                                .keepalive_ms = 60000,
                                .keepalive_timeout_ms = 20000,
                                .keepalive_min_interval_ms = 10000};
    f->th = test_host_new("/", 2);
    f->fb = fake_broker_new(test_host_for(f->th, "broker"));
    fake_broker_topic(f->fb, "orders", 8);
    test_host_provide(f->th, "broker", fake_broker_iface(), f->fb);
    assert_int_equal(
        sti_plugin.life->create(test_host_for(f->th, "transport_grpc"), &f->conf, &self, &err),
        STI_OK);
    f->t = self;
    assert_int_equal(sti_plugin.life->start(self, &err), STI_OK);
    grpc_init();
    f->channel = test_channel_new(f->t->port);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_pollers(state, 1);
}

static int setup_many(void **state)
{
    return setup_pollers(state, 4);
}

static uint64_t gauge(struct fixture *f, const char *name)
{
    return test_host_metric(f->th, name, "listener=\"transport_grpc\"");
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    grpc_channel_destroy(f->channel);
    if (!f->stopped) {
        assert_int_equal(sti_plugin.life->stop(f->t, 10000, &err), STI_OK);
    }
    assert_int_equal(gauge(f, "streamit_grpc_calls_in_flight"), 0);
    assert_int_equal(gauge(f, "streamit_grpc_stream_requests_in_flight"), 0);
    assert_int_equal(test_host_metric(f->th, "streamit_grpc_streams_open",
                                      "listener=\"transport_grpc\",method=\"ProduceStream\""),
                     0);
    assert_int_equal(test_host_logged(f->th, "grpc_batch_refused"), 0);
    grpc_shutdown();
    assert_int_equal(fake_broker_facts(f->fb).slices_out, 0);
    assert_int_equal(fake_broker_facts(f->fb).waiting, 0);
    sti_plugin.life->destroy(f->t);
    test_host_free(f->th);
    fake_broker_free(f->fb);
    free(f);
    return 0;
}

static void await(struct fixture *f, size_t field, uint64_t value)
{
    uint64_t now = 0;
    for (int i = 0; i < 20000; i++) {
        struct fake_broker_facts facts = fake_broker_facts(f->fb);
        memcpy(&now, (const char *)&facts + field, sizeof now);
        if (now == value) {
            return;
        }
        usleep(1000);
    }
    fail_msg("field %zu is %llu and did not become %llu", field, (unsigned long long)now,
             (unsigned long long)value);
}
#define AWAIT(f, field, value) await(f, offsetof(struct fake_broker_facts, field), value)

static void expect_end(struct test_stream *s, grpc_status_code status, const char *part)
{
    char text[512];
    grpc_status_code code = test_stream_end(s, text, sizeof text);
    if (code != status || strstr(text, part) == NULL) {
        fail_msg("ended with %d \"%s\", expected %d \"%s\"", (int)code, text, (int)status, part);
    }
}

/* Take answers until all up to `through` have come. @return messages */
static int take(struct test_stream *s, uint64_t through, uint64_t *results)
{
    uint64_t seen = 0;
    int messages = 0;
    *results = 0;
    while (seen < through) {
        Streamit__V1__ProduceStreamResponse *response = test_stream_answers(s);
        if (response == NULL) {
            char text[256];
            grpc_status_code c = test_stream_end(s, text, sizeof text);
            fail_msg("seen %d results %d status %d %s", (int)seen, (int)*results, (int)c, text);
            return messages;
        }
        assert_true(response->through >= seen);
        seen = response->through;
        *results += response->n_results;
        messages++;
        streamit__v1__produce_stream_response__free_unpacked(response, NULL);
    }
    return messages;
}

/* As many as the option says are under way, no more; one message answers all that gathered. */
static void test_backpressure(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    uint64_t results;
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    for (uint64_t id = 1; id <= UNDER_WAY_MAX + 10; id++) {
        assert_true(test_stream_produce(&s, id, 0, "hold", 0, "x", 1));
    }
    AWAIT(f, held, UNDER_WAY_MAX);
    usleep(20000);
    assert_int_equal(fake_broker_facts(f->fb).held, UNDER_WAY_MAX);
    assert_int_equal(gauge(f, "streamit_grpc_stream_requests_in_flight"), UNDER_WAY_MAX);
    fake_broker_release(f->fb);
    AWAIT(f, produces, UNDER_WAY_MAX + 10);
    while (fake_broker_facts(f->fb).held > 0) {
        fake_broker_release(f->fb);
    }
    int messages = take(&s, UNDER_WAY_MAX + 10, &results);
    assert_int_equal(results, UNDER_WAY_MAX + 10);
    assert_true(messages <= UNDER_WAY_MAX + 10);
    test_stream_half_close(&s);
    expect_end(&s, GRPC_STATUS_OK, "");
    assert_int_equal(fake_broker_facts(f->fb).disorder, 0);
}

/* Answers of other partitions do not wait for one that is held; `through` does. */
static void test_out_of_order(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    assert_true(test_stream_produce(&s, 10, 0, "orders", 0, "x", 1));
    assert_true(test_stream_produce(&s, 20, 0, "hold", 0, "x", 1));
    AWAIT(f, held, 1);
    assert_true(test_stream_produce(&s, 30, 0, "orders", 0, "x", 1));
    uint64_t ids[3] = {0}, through = 0;
    for (size_t n = 0; n < 2;) {
        Streamit__V1__ProduceStreamResponse *response = test_stream_answers(&s);
        assert_non_null(response);
        for (size_t i = 0; i < response->n_results; i++) {
            ids[n++] = response->results[i]->id;
        }
        through = response->through;
        streamit__v1__produce_stream_response__free_unpacked(response, NULL);
    }
    assert_int_equal(ids[0], 10);
    assert_int_equal(ids[1], 30);
    assert_true(through >= 10 && through < 20);
    fake_broker_release(f->fb);
    uint64_t results;
    (void)take(&s, 30, &results);
    assert_int_equal(results, 1);
    /* It has read all of them, and may say so. */
    assert_true(test_stream_produce(&s, 31, 30, "orders", 0, "x", 1));
    (void)take(&s, 31, &results);
    test_stream_half_close(&s);
    expect_end(&s, GRPC_STATUS_OK, "");
}

/* Without room nothing more is read, and all goes on when there is some. */
static void test_no_room(void **state)
{
    struct fixture *f = *state;
    struct test_stream s, other;
    uint64_t results;
    fake_broker_room(f->fb, false);
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    test_stream_open(&other, f->channel, API "ProduceStream", LIMIT_MS);
    for (uint64_t id = 1; id <= 10; id++) {
        assert_true(test_stream_produce(&s, id, 0, "orders", 0, "x", 1));
    }
    assert_true(test_stream_produce(&other, 1, 0, "orders", 1, "x", 1));
    AWAIT(f, no_room, 2);
    assert_int_equal(fake_broker_facts(f->fb).produces, 0);
    assert_true(gauge(f, "streamit_grpc_stream_requests_in_flight") <= 2 * (2 + 1));
    /* One of them goes: it is over once there is room. */
    assert_int_equal(grpc_call_cancel(other.call, NULL), GRPC_CALL_OK);
    expect_end(&other, GRPC_STATUS_CANCELLED, "");
    fake_broker_room(f->fb, true);
    (void)take(&s, 10, &results);
    assert_int_equal(results, 10);
    test_stream_half_close(&s);
    expect_end(&s, GRPC_STATUS_OK, "");
}

static void test_half_close(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    uint64_t results;
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    for (uint64_t id = 1; id <= 5; id++) {
        assert_true(test_stream_produce(&s, id, 0, "hold", 0, "x", 1));
    }
    test_stream_half_close(&s);
    AWAIT(f, held, 5);
    assert_false(test_stream_poll(&s, 20));
    fake_broker_release(f->fb);
    (void)take(&s, 5, &results);
    assert_int_equal(results, 5);
    expect_end(&s, GRPC_STATUS_OK, "");
    /* At once, and without a word. */
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    test_stream_half_close(&s);
    expect_end(&s, GRPC_STATUS_OK, "");
}

static void test_gone(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    for (int how = 0; how < 2; how++) {
        test_stream_open(&s, f->channel, API "ProduceStream", how == 0 ? LIMIT_MS : 300);
        for (uint64_t id = 1; id <= 5; id++) {
            assert_true(test_stream_produce(&s, id, 0, "hold", 0, "x", 1));
        }
        AWAIT(f, held, 5);
        if (how == 0) {
            assert_int_equal(grpc_call_cancel(s.call, NULL), GRPC_CALL_OK);
        }
        expect_end(&s, how == 0 ? GRPC_STATUS_CANCELLED : GRPC_STATUS_DEADLINE_EXCEEDED, "");
        fake_broker_release(f->fb);
        AWAIT(f, held, 0);
    }
    test_stream_open(&s, f->channel, API "FetchStream", 300);
    grpc_slice request = grpc_slice_from_static_string("\x2a\x08\x0a\x06orders");
    assert_true(test_stream_send_slices(&s, &request, 1));
    expect_end(&s, GRPC_STATUS_DEADLINE_EXCEEDED, "");
    AWAIT(f, waiting, 0);
}

static void test_drain(void **state)
{
    struct fixture *f = *state;
    struct test_stream s, follow;
    struct sti_err err;
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_true(test_stream_produce(&s, id, 0, "hold", 0, "x", 1));
    }
    AWAIT(f, held, 3);
    test_stream_open(&follow, f->channel, API "FetchStream", LIMIT_MS);
    grpc_slice request = grpc_slice_from_static_string("\x2a\x08\x0a\x06orders");
    assert_true(test_stream_send_slices(&follow, &request, 1));
    AWAIT(f, waiting, 1);
    assert_int_equal(sti_plugin.life->drain(f->t, 100, &err), STI_E_TIMED_OUT);
    expect_end(&follow, GRPC_STATUS_UNAVAILABLE, "shutting down");
    /* Half of that time is over, so the stream was cut off; what it had sent is still answered by
     * the broker, and then it is gone. */
    fake_broker_release(f->fb);
    expect_end(&s, GRPC_STATUS_UNAVAILABLE, "shutting down");
    assert_int_equal(sti_plugin.life->drain(f->t, 5000, &err), STI_OK);
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    expect_end(&s, GRPC_STATUS_UNAVAILABLE, "shutting down");
}

/* Nothing is lost or stuck when streams are many, short, and cancelled at any moment. */
static void test_many(void **state)
{
    struct fixture *f = *state;
    enum { STREAMS = 300 };
    struct test_stream *streams = calloc(STREAMS, sizeof *streams);
    uint64_t results;
    char text[256];
    assert_non_null(streams);
    for (size_t i = 0; i < STREAMS; i++) {
        test_stream_open(&streams[i], f->channel, API "ProduceStream", LIMIT_MS);
        for (uint64_t id = 1; id <= 4; id++) {
            assert_true(
                test_stream_produce(&streams[i], id, 0, "orders", (int32_t)(i % 8), "x", 1));
        }
        if (i % 3 == 0) {
            assert_int_equal(grpc_call_cancel(streams[i].call, NULL), GRPC_CALL_OK);
        } else {
            test_stream_half_close(&streams[i]);
        }
    }
    for (size_t i = 0; i < STREAMS; i++) {
        if (i % 3 != 0) {
            (void)take(&streams[i], 4, &results);
            assert_int_equal(results, 4);
            expect_end(&streams[i], GRPC_STATUS_OK, "");
        } else {
            (void)test_stream_end(&streams[i], text, sizeof text);
        }
    }
    free(streams);
}

/* The partitions of a stream are bounded while failures on them have not been read of. */
static void test_partitions(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    uint64_t results, id = 0;
    test_stream_open(&s, f->channel, API "ProduceStream", LIMIT_MS);
    for (int32_t p = 0; p < 100; p++) { /* what succeeds is forgotten */
        assert_true(test_stream_produce(&s, ++id, 0, "orders", p % 8, "x", 1));
    }
    (void)take(&s, id, &results);
    for (int32_t p = 0; p < 20; p++) { /* and so are failures that were read of */
        assert_true(test_stream_produce(&s, id + 1, id, "orders", 100 + p, "x", 1));
        (void)take(&s, ++id, &results);
    }
    for (uint64_t p = 0; p < 10; p++) {
        if (!test_stream_produce(&s, id + 1 + p, id, "orders", 200 + (int32_t)p, "x", 1)) {
            break;
        }
    }
    expect_end(&s, GRPC_STATUS_RESOURCE_EXHAUSTED, "more than 4 partitions");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_backpressure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backpressure, setup_many, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_close, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup_many, teardown),
        cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup_many, teardown),
        cmocka_unit_test_setup_teardown(test_partitions, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
