/* The whole transport over loopback: real gRPC on both sides, a fake broker behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <grpc/support/time.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_broker.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc_client.h"
#include "test_host.h"
#include "transport.h"

#define API    "/streamit.v1.StreamIt/"
#define HEALTH "/grpc.health.v1.Health/"

enum { LARGE_BYTES = 3 << 20, CALLS_MANY = 1000 };

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    struct sti_host host; /* of the plugin; services may be replaced */
    struct fake_broker *fb;
    struct tgr_conf conf;
    struct tgr_transport *t;
    grpc_channel *channel;
    bool stopped;
};

static char announced[320];
static int node_state = STI_NODE_READY;

static void host_announce(void *ctx, const char *address)
{
    (void)ctx;
    snprintf(announced, sizeof announced, "%s", address);
}

static int host_node_state(void *ctx)
{
    (void)ctx;
    return __atomic_load_n(&node_state, __ATOMIC_ACQUIRE);
}

static struct tgr_conf conf_default(void)
{
    return (struct tgr_conf){.host = "127.0.0.1",
                             .advertised_host = "broker.example",
                             .poller_threads = 1,
                             .max_message_bytes = 4 << 20,
                             .max_concurrent_streams = 2048,
                             .calls_in_flight_max = 4096,
                             .partitions_per_call_max = 100,
                             .fetch_response_bytes_max = 8 << 20,
                             .keepalive_ms = 60000,
                             .keepalive_timeout_ms = 20000,
                             .keepalive_min_interval_ms = 10000,
                             .stream_requests_max = 64,
                             .stream_partitions_max = 100};
}

static int setup_with(void **state, struct tgr_conf conf)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sti_err err;
    void *self;
    if (f == NULL) {
        return -1;
    }
    __atomic_store_n(&node_state, STI_NODE_READY, __ATOMIC_RELEASE);
    f->conf = conf;
    f->th = test_host_new("/", 2);
    f->fb = fake_broker_new(test_host_for(f->th, "broker"));
    fake_broker_topic(f->fb, "orders", 2);
    test_host_provide(f->th, "broker", fake_broker_iface(), f->fb);
    f->host = *test_host_for(f->th, "transport_grpc");
    f->host.announce = host_announce;
    f->host.node_state = host_node_state;
    assert_int_equal(sti_plugin.life->create(&f->host, &f->conf, &self, &err), STI_OK);
    f->t = self;
    assert_int_equal(sti_plugin.life->start(self, &err), STI_OK);
    grpc_init();
    f->channel = test_channel_new(f->t->port);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, conf_default());
}

static int setup_pollers(void **state)
{
    struct tgr_conf conf = conf_default();
    conf.poller_threads = 4;
    return setup_with(state, conf);
}

static int setup_small(void **state)
{
    struct tgr_conf conf = conf_default();
    conf.calls_in_flight_max = 3;
    conf.memory_bytes_max = 64 << 20;
    return setup_with(state, conf);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    grpc_channel_destroy(f->channel);
    if (!f->stopped) {
        assert_int_equal(sti_plugin.life->stop(f->t, 5000, &err), STI_OK);
    }
    assert_int_equal(atomic_load(&f->t->active), 0);
    assert_int_equal(atomic_load(&f->t->streams), 0);
    assert_int_equal(
        test_host_metric(f->th, "streamit_grpc_calls_in_flight", "listener=\"transport_grpc\""), 0);
    assert_int_equal(test_host_logged(f->th, "grpc_batch_refused"), 0);
    assert_int_equal(test_host_logged(f->th, "slot_lost"), 0);
    grpc_shutdown();
    assert_int_equal(fake_broker_facts(f->fb).slices_out, 0);
    assert_int_equal(fake_broker_facts(f->fb).waiting, 0);
    sti_plugin.life->destroy(f->t);
    test_host_free(f->th);
    fake_broker_free(f->fb);
    free(f);
    return 0;
}

/* ---- helpers ---- */

static void produce(struct fixture *f, const char *topic, int32_t partition, int acks,
                    const void *batch, size_t len, struct test_call *call)
{
    Streamit__V1__ProducePartition part = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *parts[] = {&part};
    Streamit__V1__ProduceRequest request = STREAMIT__V1__PRODUCE_REQUEST__INIT;
    part.topic = (char *)topic;
    part.partition = partition;
    part.batch = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)batch};
    request.acks = (Streamit__V1__Acks)acks;
    request.n_partitions = 1;
    request.partitions = parts;
    test_call_message(call, f->channel, API "Produce", &request.base);
}

static Streamit__V1__ProduceResponse *produced(const struct test_call *call)
{
    assert_int_equal(call->status, GRPC_STATUS_OK);
    Streamit__V1__ProduceResponse *response =
        streamit__v1__produce_response__unpack(NULL, call->len, call->data);
    assert_non_null(response);
    return response;
}

static size_t fetch_request(uint8_t *out, const char *topic, int64_t offset, uint32_t wait_ms)
{
    Streamit__V1__FetchPartition part = STREAMIT__V1__FETCH_PARTITION__INIT;
    Streamit__V1__FetchPartition *parts[] = {&part};
    Streamit__V1__FetchRequest request = STREAMIT__V1__FETCH_REQUEST__INIT;
    part.topic = (char *)topic;
    part.offset = offset;
    request.max_wait_ms = wait_ms;
    request.n_partitions = 1;
    request.partitions = parts;
    return streamit__v1__fetch_request__pack(&request, out);
}

static Streamit__V1__FetchResponse *fetched(const struct test_call *call)
{
    assert_int_equal(call->status, GRPC_STATUS_OK);
    Streamit__V1__FetchResponse *response =
        streamit__v1__fetch_response__unpack(NULL, call->len, call->data);
    assert_non_null(response);
    return response;
}

/* Wait until the fake broker has seen it; the clock is real, so this cannot be exact. */
static void await(struct fixture *f, size_t field, uint64_t value)
{
    for (int i = 0; i < 5000; i++) {
        struct fake_broker_facts facts = fake_broker_facts(f->fb);
        uint64_t now;
        memcpy(&now, (const char *)&facts + field, sizeof now);
        if (now == value) {
            return;
        }
        usleep(1000);
    }
    fail_msg("field %zu did not become %llu", field, (unsigned long long)value);
}
#define AWAIT(f, field, value) await(f, offsetof(struct fake_broker_facts, field), value)

static int health(struct fixture *f, const char *service, grpc_status_code *status)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct test_call call;
    int out = -1;
    request.service = (char *)service;
    test_call_message(&call, f->channel, HEALTH "Check", &request.base);
    *status = call.status;
    if (call.status == GRPC_STATUS_OK) {
        Grpc__Health__V1__HealthCheckResponse *response =
            grpc__health__v1__health_check_response__unpack(NULL, call.len, call.data);
        assert_non_null(response);
        out = (int)response->status;
        grpc__health__v1__health_check_response__free_unpacked(response, NULL);
    }
    test_call_free(&call);
    return out;
}

/* ---- tests ---- */

static void test_produce_fetch(void **state)
{
    struct fixture *f = *state;
    struct test_call call;
    uint8_t request[256];
    char *batch = malloc(LARGE_BYTES);
    assert_non_null(batch);
    for (size_t i = 0; i < LARGE_BYTES; i++) {
        batch[i] = (char)(i * 7 + (i >> 12));
    }
    for (int acks = 0; acks <= 2; acks++) {
        produce(f, "orders", 0, acks, batch, LARGE_BYTES, &call);
        Streamit__V1__ProduceResponse *response = produced(&call);
        assert_int_equal(response->n_partitions, 1);
        assert_string_equal(response->partitions[0]->topic, "orders");
        assert_null(response->partitions[0]->error);
        assert_int_equal(response->partitions[0]->base_offset, acks);
        assert_int_equal(response->partitions[0]->leader_epoch, 3);
        assert_int_equal(response->partitions[0]->append_time_ms, -1);
        streamit__v1__produce_response__free_unpacked(response, NULL);
        test_call_free(&call);
    }
    size_t len = fetch_request(request, "orders", 1, 0);
    test_call_run(&call, f->channel, API "Fetch", request, len);
    Streamit__V1__FetchResponse *response = fetched(&call);
    assert_int_equal(response->n_partitions, 1);
    assert_int_equal(response->partitions[0]->high_watermark, 3);
    assert_int_equal(response->partitions[0]->batches.len, LARGE_BYTES); /* 3 MiB by default */
    assert_memory_equal(response->partitions[0]->batches.data, batch, LARGE_BYTES);
    streamit__v1__fetch_response__free_unpacked(response, NULL);
    test_call_free(&call);
    free(batch);
    assert_true(test_host_metric(f->th, "streamit_grpc_requests_total",
                                 "listener=\"transport_grpc\",method=\"Produce\",code=\"OK\"") ==
                3);
    assert_true(test_host_metric(f->th, "streamit_grpc_received_bytes_total",
                                 "listener=\"transport_grpc\",method=\"Produce\"") >
                3 * LARGE_BYTES);
    assert_true(test_host_metric(f->th, "streamit_grpc_sent_bytes_total",
                                 "listener=\"transport_grpc\",method=\"Fetch\"") > LARGE_BYTES);
}

static void test_row_errors(void **state)
{
    static const struct {
        const char *topic;
        int code;
    } rows[] = {{"not-leader", STREAMIT__V1__ERROR_CODE__NOT_LEADER},
                {"disk-full", STREAMIT__V1__ERROR_CODE__DISK_FULL},
                {"throttled", STREAMIT__V1__ERROR_CODE__THROTTLED},
                {"nothing", STREAMIT__V1__ERROR_CODE__UNKNOWN_TOPIC}};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct test_call call;
        produce(f, rows[i].topic, 0, 1, "x", 1, &call);
        Streamit__V1__ProduceResponse *response = produced(&call);
        Streamit__V1__Error *error = response->partitions[0]->error;
        assert_non_null(error);
        assert_int_equal(error->code, rows[i].code);
        assert_string_not_equal(error->message, "");
        assert_string_equal(error->leader_hint, i == 0 ? "other.example:9999" : "");
        assert_int_equal(error->bytes_needed, i == 1 ? 4096 : 0);
        assert_int_equal(error->retry_after_ms, i == 2 ? 7 : 0);
        assert_int_equal(error->retriable, i == 0 || i == 2);
        assert_int_equal(error->refresh, i == 0 || i == 3);
        assert_int_equal(response->partitions[0]->base_offset, -1);
        streamit__v1__produce_response__free_unpacked(response, NULL);
        test_call_free(&call);
    }
}

static void expect(struct fixture *f, const char *path, const void *request, size_t len,
                   grpc_status_code status, int code, const char *text)
{
    struct test_call call;
    test_call_run(&call, f->channel, path, request, len);
    assert_int_equal(call.status, status);
    if (text != NULL) {
        assert_non_null(strstr(call.text, text));
    }
    if (code != 0) {
        assert_non_null(call.error);
        assert_int_equal(call.error->code, code);
        assert_int_equal(strncmp(call.text, sti_status_name(code), strlen(sti_status_name(code))),
                         0);
    }
    test_call_free(&call);
}

static void test_call_errors(void **state)
{
    struct fixture *f = *state;
    struct test_call call;
    static const char *const methods[] = {API "Produce",     API "Fetch",         API "ListOffsets",
                                          API "CreateTopic", API "AlterTopic",    API "DeleteTopic",
                                          API "ListTopics",  API "DescribeTopic", API "FindLeader",
                                          HEALTH "Check"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        expect(f, methods[i], "\xff\xff\xff", 3, GRPC_STATUS_INVALID_ARGUMENT,
               -STI_E_INVALID_ARGUMENT, "malformed");
    }
    expect(f, API "Produce", "", 0, GRPC_STATUS_INVALID_ARGUMENT, -STI_E_INVALID_ARGUMENT,
           "no partition");
    expect(f, API "Fetch", "", 0, GRPC_STATUS_INVALID_ARGUMENT, -STI_E_INVALID_ARGUMENT,
           "no partition");
    expect(f, API "Nothing", "", 0, GRPC_STATUS_UNIMPLEMENTED, -STI_E_UNSUPPORTED, "Nothing");
    expect(f, "/other.Service/Method", "x", 1, GRPC_STATUS_UNIMPLEMENTED, -STI_E_UNSUPPORTED, NULL);
    produce(f, "busy", 0, 1, "x", 1, &call);
    assert_int_equal(call.status, GRPC_STATUS_UNAVAILABLE);
    assert_string_equal(call.text, "UNAVAILABLE: the broker is starting");
    assert_true(call.error->retriable);
    test_call_free(&call);
    /* Too large: refused with the limit's name; far too large: by gRPC itself, unread. */
    size_t len = 16u << 20;
    uint8_t *large = calloc(1, len);
    assert_non_null(large);
    expect(f, API "Produce", large, (4u << 20) + (64u << 10) + 1, GRPC_STATUS_INVALID_ARGUMENT,
           -STI_E_MESSAGE_TOO_LARGE, "max_message_bytes");
    expect(f, API "Produce", large, len, GRPC_STATUS_RESOURCE_EXHAUSTED, 0, "larger than max");
    expect(f, API "CreateTopic", large, 2u << 20, GRPC_STATUS_INVALID_ARGUMENT,
           -STI_E_MESSAGE_TOO_LARGE, "at most");
    free(large);
}

static void test_request_splits(void **state)
{
    struct fixture *f = *state;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 0);
    for (size_t slice = 1; slice < len; slice += 3) {
        struct test_call call;
        test_call_start(&call, f->channel, API "Fetch", request, len, slice, 10000, NULL);
        test_call_wait(&call);
        assert_int_equal(call.status, GRPC_STATUS_OK);
        test_call_free(&call);
    }
    /* Every cut: an answer, mostly a refusal. */
    for (size_t cut = 0; cut < len; cut++) {
        struct test_call call;
        test_call_run(&call, f->channel, API "Fetch", request, cut);
        assert_true(call.status == GRPC_STATUS_OK || call.status == GRPC_STATUS_INVALID_ARGUMENT);
        test_call_free(&call);
    }
}

static void test_context(void **state)
{
    static const char *const second[] = {
        "traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", NULL};
    struct fixture *f = *state;
    struct test_call call;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 0);
    test_call_start(&call, f->channel, API "Fetch", request, len, 0, 10000, second);
    test_call_wait(&call);
    test_call_free(&call);
    struct fake_broker_facts a = fake_broker_facts(f->fb);
    assert_string_equal(a.trace_id, "0123456789abcdef0123456789abcdef");
    assert_string_equal(a.client_id, "");
    assert_string_equal(a.listener, "transport_grpc");
    assert_int_equal(strncmp(a.peer, "127.0.0.1:", 10), 0);
    assert_true(a.deadline_us > a.received_us + 8000000 &&
                a.deadline_us < a.received_us + 11000000);
    static const char *const plain[] = {"x-client-id", "billing",   "x-trace-id", "trace 7",
                                        "traceparent", "00-broken", NULL};
    test_call_start(&call, f->channel, API "Fetch", request, len, 0, 10000, plain);
    test_call_wait(&call);
    test_call_free(&call);
    struct fake_broker_facts b = fake_broker_facts(f->fb);
    assert_string_equal(b.trace_id, "trace 7");
    assert_string_equal(b.client_id, "billing");
    assert_int_equal(a.connection, b.connection);
    /* Another connection. */
    grpc_channel *other = test_channel_new(f->t->port);
    test_call_run(&call, other, API "Fetch", request, len);
    test_call_free(&call);
    grpc_channel_destroy(other);
    assert_int_not_equal(fake_broker_facts(f->fb).connection, b.connection);
}

static void test_long_poll(void **state)
{
    struct fixture *f = *state;
    struct test_call waiting, call;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 20000);
    test_call_start(&waiting, f->channel, API "Fetch", request, len, 0, 30000, NULL);
    AWAIT(f, waiting, 1);
    produce(f, "orders", 0, 0, "hello", 5, &call);
    test_call_free(&call);
    test_call_wait(&waiting);
    Streamit__V1__FetchResponse *response = fetched(&waiting);
    assert_int_equal(response->partitions[0]->batches.len, 5);
    streamit__v1__fetch_response__free_unpacked(response, NULL);
    test_call_free(&waiting);
    /* Nothing comes: an empty answer after max_wait. */
    len = fetch_request(request, "orders", 1, 30);
    test_call_run(&call, f->channel, API "Fetch", request, len);
    response = fetched(&call);
    assert_int_equal(response->partitions[0]->batches.len, 0);
    assert_int_equal(response->partitions[0]->high_watermark, 1);
    streamit__v1__fetch_response__free_unpacked(response, NULL);
    test_call_free(&call);
    assert_int_equal(fake_broker_facts(f->fb).cancels, 0);
}

static void test_long_poll_gone(void **state)
{
    struct fixture *f = *state;
    struct test_call waiting;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 20000);
    test_call_start(&waiting, f->channel, API "Fetch", request, len, 0, 30000, NULL);
    AWAIT(f, waiting, 1);
    assert_int_equal(grpc_call_cancel(waiting.call, NULL), GRPC_CALL_OK);
    test_call_wait(&waiting);
    assert_int_equal(waiting.status, GRPC_STATUS_CANCELLED);
    AWAIT(f, waiting, 0);
    AWAIT(f, cancels, 1);
    test_call_free(&waiting);
    /* The client's deadline ends the wait as well. */
    test_call_start(&waiting, f->channel, API "Fetch", request, len, 0, 100, NULL);
    test_call_wait(&waiting);
    assert_int_equal(waiting.status, GRPC_STATUS_DEADLINE_EXCEEDED);
    AWAIT(f, waiting, 0);
    AWAIT(f, cancels, 2);
    test_call_free(&waiting);
}

/* Calls that are cancelled while they arrive, wait and are answered. */
static void test_cancel_races(void **state)
{
    struct fixture *f = *state;
    struct test_call calls[64], call;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 1, 1000);
    produce(f, "orders", 0, 1, "x", 1, &call);
    test_call_free(&call);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 64; i++) {
            test_call_start(&calls[i], f->channel, API "Fetch", request, len, 0, 10000, NULL);
            if (i % 3 == 0) {
                assert_int_equal(grpc_call_cancel(calls[i].call, NULL), GRPC_CALL_OK);
            }
        }
        for (int i = 1; i < 64; i += 3) {
            assert_int_equal(grpc_call_cancel(calls[i].call, NULL), GRPC_CALL_OK);
        }
        produce(f, "orders", 0, 0, "x", 1, &call);
        test_call_free(&call);
        len = fetch_request(request, "orders", round + 2, 1000);
        for (int i = 0; i < 64; i++) {
            test_call_wait(&calls[i]);
            assert_true(calls[i].status == GRPC_STATUS_OK ||
                        calls[i].status == GRPC_STATUS_CANCELLED);
            test_call_free(&calls[i]);
        }
    }
}

static void test_many_in_flight(void **state)
{
    struct fixture *f = *state;
    struct test_call *calls = calloc(CALLS_MANY, sizeof *calls);
    struct test_call call;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 20000);
    assert_non_null(calls);
    for (size_t i = 0; i < CALLS_MANY; i++) {
        test_call_start(&calls[i], f->channel, API "Fetch", request, len, 0, 30000, NULL);
    }
    AWAIT(f, waiting, CALLS_MANY);
    produce(f, "orders", 0, 0, "all of you", 10, &call);
    test_call_free(&call);
    for (size_t i = 0; i < CALLS_MANY; i++) {
        test_call_wait(&calls[i]);
        assert_int_equal(calls[i].status, GRPC_STATUS_OK);
        test_call_free(&calls[i]);
    }
    free(calls);
}

/* What pollers take in an order reaches the broker in that order. */
static void test_order(void **state)
{
    struct fixture *f = *state;
    enum { NUMBERS = 500 };
    struct test_call *calls = calloc(NUMBERS, sizeof *calls);
    grpc_status_code status;
    assert_non_null(calls);
    (void)health(f, "", &status);
    for (uint32_t i = 0; i < NUMBERS; i++) {
        uint32_t number = i + 1;
        uint8_t request[64] = {0x08, 0x01, 0x7a, 13, 0x0a, 5, 'o', 'r', 'd', 'e', 'r', 0x7a, 4};
        memcpy(request + 13, &number, 4);
        test_call_start(&calls[i], f->channel, API "Produce", request, 17, 0, 30000, NULL);
    }
    for (uint32_t i = 0; i < NUMBERS; i++) {
        test_call_wait(&calls[i]);
        assert_int_equal(calls[i].status, GRPC_STATUS_OK);
        test_call_free(&calls[i]);
    }
    assert_int_equal(fake_broker_facts(f->fb).produces, NUMBERS);
    assert_int_equal(fake_broker_facts(f->fb).disorder, 0);
    free(calls);
}

static void test_limit_of_calls(void **state)
{
    struct fixture *f = *state;
    struct test_call waiting[3], call;
    uint8_t request[256];
    size_t len = fetch_request(request, "orders", 0, 20000);
    for (int i = 0; i < 3; i++) {
        test_call_start(&waiting[i], f->channel, API "Fetch", request, len, 0, 30000, NULL);
    }
    AWAIT(f, waiting, 3);
    test_call_run(&call, f->channel, API "Fetch", request, len);
    assert_int_equal(call.status, GRPC_STATUS_RESOURCE_EXHAUSTED);
    assert_int_equal(call.error->code, STREAMIT__V1__ERROR_CODE__THROTTLED);
    assert_true(call.error->retriable);
    test_call_free(&call);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(grpc_call_cancel(waiting[i].call, NULL), GRPC_CALL_OK);
        test_call_wait(&waiting[i]);
        test_call_free(&waiting[i]);
    }
}

static void test_health(void **state)
{
    struct fixture *f = *state;
    grpc_status_code status;
    assert_int_equal(health(f, "", &status), 1);
    assert_int_equal(health(f, "streamit.v1.StreamIt", &status), 1);
    assert_int_equal(health(f, "other", &status), -1);
    assert_int_equal(status, GRPC_STATUS_NOT_FOUND);
    __atomic_store_n(&node_state, STI_NODE_STARTING, __ATOMIC_RELEASE);
    assert_int_equal(health(f, "", &status), 2);
    __atomic_store_n(&node_state, STI_NODE_READY, __ATOMIC_RELEASE);
    assert_int_equal(health(f, "", &status), 1);
}

static void test_drain(void **state)
{
    struct fixture *f = *state;
    struct test_call waiting, held, call;
    grpc_status_code status;
    struct sti_err err;
    uint8_t request[256];
    static const uint8_t produce_held[] = {0x7a, 9, 0x0a, 4, 'h', 'o', 'l', 'd', 0x7a, 1, 'x'};
    size_t len = fetch_request(request, "orders", 0, 20000);
    test_call_start(&waiting, f->channel, API "Fetch", request, len, 0, 30000, NULL);
    test_call_start(&held, f->channel, API "Produce", produce_held, sizeof produce_held, 0, 30000,
                    NULL);
    AWAIT(f, waiting, 1);
    AWAIT(f, held, 1);
    /* The produce call is not answered: drain says so, and the fetch has been sent home. */
    assert_int_equal(sti_plugin.life->drain(f->t, 50, &err), STI_E_TIMED_OUT);
    assert_non_null(strstr(err.msg, "1 calls"));
    test_call_wait(&waiting);
    assert_int_equal(waiting.status, GRPC_STATUS_OK);
    test_call_free(&waiting);
    assert_int_equal(health(f, "", &status), 2);
    produce(f, "orders", 0, 0, "x", 1, &call);
    assert_int_equal(call.status, GRPC_STATUS_UNAVAILABLE);
    assert_string_equal(call.text, "UNAVAILABLE: node 1 is shutting down");
    test_call_free(&call);
    fake_broker_release(f->fb);
    test_call_wait(&held);
    assert_int_equal(held.status, GRPC_STATUS_OK);
    test_call_free(&held);
    assert_int_equal(sti_plugin.life->drain(f->t, 5000, &err), STI_OK);
}

/* Stop without drain: what waits is answered, what the broker keeps is cancelled but waited for. */
static void test_stop_under_load(void **state)
{
    struct fixture *f = *state;
    struct test_call *calls = calloc(CALLS_MANY, sizeof *calls);
    struct test_call held;
    struct sti_err err;
    uint8_t request[256];
    static const uint8_t produce_held[] = {0x7a, 9, 0x0a, 4, 'h', 'o', 'l', 'd', 0x7a, 1, 'x'};
    size_t len = fetch_request(request, "orders", 0, 20000);
    assert_non_null(calls);
    for (size_t i = 0; i < CALLS_MANY; i++) {
        test_call_start(&calls[i], f->channel, API "Fetch", request, len, 0, 30000, NULL);
    }
    AWAIT(f, waiting, CALLS_MANY);
    test_call_start(&held, f->channel, API "Produce", produce_held, sizeof produce_held, 0, 30000,
                    NULL);
    AWAIT(f, held, 1);
    assert_int_equal(sti_plugin.life->stop(f->t, 2000, &err), STI_E_TIMED_OUT);
    assert_non_null(strstr(err.msg, "1 calls"));
    for (size_t i = 0; i < CALLS_MANY; i++) {
        test_call_wait(&calls[i]);
        assert_true(calls[i].status == GRPC_STATUS_OK ||
                    calls[i].status == GRPC_STATUS_UNAVAILABLE ||
                    calls[i].status == GRPC_STATUS_CANCELLED);
        test_call_free(&calls[i]);
    }
    test_call_wait(&held);
    assert_int_not_equal(held.status, GRPC_STATUS_OK);
    test_call_free(&held);
    fake_broker_release(f->fb);
    free(calls);
    /* The kernel would end the process now; the test asks again. */
    assert_int_equal(sti_plugin.life->stop(f->t, 5000, &err), STI_OK);
    f->stopped = true;
}

static void test_topics(void **state)
{
    struct fixture *f = *state;
    struct test_call call;
    Streamit__V1__CreateTopicRequest create = STREAMIT__V1__CREATE_TOPIC_REQUEST__INIT;
    create.name = (char *)"new";
    create.partitions = 2;
    test_call_message(&call, f->channel, API "CreateTopic", &create.base);
    assert_int_equal(call.status, GRPC_STATUS_OK);
    Streamit__V1__CreateTopicResponse *created =
        streamit__v1__create_topic_response__unpack(NULL, call.len, call.data);
    assert_int_equal(created->partitions, 2);
    assert_int_equal(created->replication, 1);
    assert_int_equal(created->topic_id.len, 16);
    streamit__v1__create_topic_response__free_unpacked(created, NULL);
    test_call_free(&call);
    test_call_message(&call, f->channel, API "CreateTopic", &create.base);
    assert_int_equal(call.status, GRPC_STATUS_ALREADY_EXISTS);
    assert_string_equal(call.text, "ALREADY_EXISTS: topic new exists");
    test_call_free(&call);

    Streamit__V1__DescribeTopicRequest describe = STREAMIT__V1__DESCRIBE_TOPIC_REQUEST__INIT;
    describe.name = (char *)"new";
    test_call_message(&call, f->channel, API "DescribeTopic", &describe.base);
    Streamit__V1__DescribeTopicResponse *described =
        streamit__v1__describe_topic_response__unpack(NULL, call.len, call.data);
    assert_int_equal(described->topic->n_partitions, 2);
    assert_null(described->topic->partitions[0]->error);
    assert_int_equal(described->topic->partitions[1]->error->code,
                     STREAMIT__V1__ERROR_CODE__POISONED);
    assert_int_equal(described->topic->partitions[0]->n_isr, 1);
    assert_int_equal(described->topic->config[0]->source, STREAMIT__V1__CONFIG_SOURCE__CONFIG_NODE);
    streamit__v1__describe_topic_response__free_unpacked(described, NULL);
    test_call_free(&call);

    expect(f, API "DeleteTopic", "\x0a\x03new", 5, GRPC_STATUS_OK, 0, NULL);
    expect(f, API "DeleteTopic", "\x0a\x03new", 5, GRPC_STATUS_NOT_FOUND, -STI_E_UNKNOWN_TOPIC,
           NULL);
    expect(f, API "DescribeTopic", "\x0a\x03new", 5, GRPC_STATUS_NOT_FOUND, -STI_E_UNKNOWN_TOPIC,
           "no topic new");
}

static void test_find_leader(void **state)
{
    struct fixture *f = *state;
    struct test_call call;
    struct sti_endpoint endpoint = {.struct_size = sizeof endpoint};
    test_call_run(&call, f->channel, API "FindLeader", "\x0a\x06orders", 8);
    Streamit__V1__FindLeaderResponse *response =
        streamit__v1__find_leader_response__unpack(NULL, call.len, call.data);
    assert_int_equal(call.status, GRPC_STATUS_OK);
    assert_string_equal(response->host, "broker.example");
    assert_int_equal(response->port, f->t->port);
    assert_int_equal(response->node_id, 1);
    streamit__v1__find_leader_response__free_unpacked(response, NULL);
    test_call_free(&call);
    const struct sti_transport *vtable =
        (const struct sti_transport *)(const void *)sti_plugin.provides[0];
    assert_int_equal(vtable->endpoint(f->t, &endpoint, NULL), STI_OK);
    assert_string_equal(endpoint.host, "broker.example");
    assert_int_equal(endpoint.port, f->t->port);
}

static void test_port_in_use(void **state)
{
    struct fixture *f = *state;
    struct tgr_conf conf = conf_default();
    struct sti_err err;
    void *second;
    char expected[64];
    conf.port = f->t->port;
    assert_int_equal(sti_plugin.life->create(&f->host, &conf, &second, &err), STI_OK);
    assert_int_equal(sti_plugin.life->start(second, &err), STI_E_IN_USE);
    snprintf(expected, sizeof expected, "cannot listen on 127.0.0.1:%d: Address already in use",
             f->t->port);
    assert_string_equal(err.msg, expected);
    sti_plugin.life->destroy(second);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", f->t->port);
    assert_string_equal(announced, expected);
    /* An address that is not here. */
    conf.host = "192.0.2.1";
    assert_int_equal(sti_plugin.life->create(&f->host, &conf, &second, &err), STI_OK);
    assert_int_equal(sti_plugin.life->start(second, &err), STI_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.msg, "cannot listen on 192.0.2.1"));
    sti_plugin.life->destroy(second);
    /* A second listener beside the first. */
    conf = conf_default();
    assert_int_equal(sti_plugin.life->create(&f->host, &conf, &second, &err), STI_OK);
    assert_int_equal(sti_plugin.life->start(second, &err), STI_OK);
    assert_int_not_equal(((struct tgr_transport *)second)->port, f->t->port);
    assert_int_equal(sti_plugin.life->stop(second, 5000, &err), STI_OK);
    sti_plugin.life->destroy(second);
}

/* Not even HTTP: that connection is dropped, others go on. */
static void test_garbage_on_the_wire(void **state)
{
    struct fixture *f = *state;
    grpc_status_code status;
    uint8_t garbage[4096];
    for (size_t i = 0; i < sizeof garbage; i++) {
        garbage[i] = (uint8_t)(i * 131 + 7);
    }
    for (int round = 0; round < 3; round++) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)f->t->port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
        if (round > 0) { /* a preface that promises HTTP/2 */
            (void)send(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, MSG_NOSIGNAL);
        }
        (void)send(fd, garbage, sizeof garbage, MSG_NOSIGNAL);
        if (round < 2) { /* the last one stays open and silent */
            while (recv(fd, garbage, 64, 0) > 0) {
            }
        }
        assert_int_equal(health(f, "", &status), 1);
        (void)close(fd);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_produce_fetch),
        TEST(test_row_errors),
        TEST(test_call_errors),
        TEST(test_request_splits),
        TEST(test_context),
        TEST(test_long_poll),
        TEST(test_long_poll_gone),
        TEST(test_cancel_races),
        TEST(test_many_in_flight),
        TEST(test_order),
        cmocka_unit_test_setup_teardown(test_order, setup_pollers, teardown),
        cmocka_unit_test_setup_teardown(test_many_in_flight, setup_pollers, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_races, setup_pollers, teardown),
        cmocka_unit_test_setup_teardown(test_limit_of_calls, setup_small, teardown),
        TEST(test_health),
        TEST(test_drain),
        TEST(test_stop_under_load),
        TEST(test_topics),
        TEST(test_find_leader),
        TEST(test_port_in_use),
        TEST(test_garbage_on_the_wire)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
