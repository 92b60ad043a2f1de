/* Batches pass through client, wire and server without being copied in user space: memcpy and
 * memmove of the whole process are counted while a megabyte is produced and fetched, unary and on
 * streams. Not with sanitizers, which have those functions themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "copies.h"
#include "fake_broker.h"
#include "grpc_client.h"
#include "grpc_stream.h"
#include "streamit/record_batch.h"
#include "test_host.h"
#include "transport.h"
#include "wire.h"

#define API "/streamit.v1.StreamIt/"

enum { PAYLOAD = 1 << 20, ROUNDS = 5 };

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    struct fake_broker *fb;
    struct tgr_conf conf;
    struct tgr_transport *t;
    grpc_channel *channel;
};

static const uint8_t *batch; /* one record of PAYLOAD bytes */
static size_t batch_len;
static struct sti_batch_builder *builder;

static int setup(void **state)
{
    static struct fixture f;
    static uint8_t value[PAYLOAD];
    struct sti_err err;
    void *self;
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, &err), STI_OK);
    assert_int_equal(
        sti_batch_builder_append(builder, 1, NULL, 0, value, sizeof value, NULL, 0, &err), STI_OK);
    assert_int_equal(sti_batch_builder_finish(builder, &batch, &batch_len, &err), STI_OK);
    f.conf = (struct tgr_conf){.host = "127.0.0.1",
                               .poller_threads = 1,
                               .max_message_bytes = 4 << 20,
                               .max_concurrent_streams = 64,
                               .calls_in_flight_max = 64,
                               .partitions_per_call_max = 4,
                               .fetch_response_bytes_max = 8 << 20,
                               .stream_requests_max = 8,
                               .stream_partitions_max = 8,
                               .keepalive_ms = 60000,
                               .keepalive_timeout_ms = 20000,
                               .keepalive_min_interval_ms = 10000};
    f.th = test_host_new("/", 2);
    f.fb = fake_broker_new(test_host_for(f.th, "broker"));
    fake_broker_topic(f.fb, "orders", 1);
    test_host_provide(f.th, "broker", fake_broker_iface(), f.fb);
    assert_int_equal(
        sti_plugin.life->create(test_host_for(f.th, "transport_grpc"), &f.conf, &self, &err),
        STI_OK);
    f.t = self;
    assert_int_equal(sti_plugin.life->start(self, &err), STI_OK);
    grpc_init();
    f.channel = test_channel_new(f.t->port);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    grpc_channel_destroy(f->channel);
    assert_int_equal(sti_plugin.life->stop(f->t, 5000, &err), STI_OK);
    grpc_shutdown();
    assert_int_equal(fake_broker_facts(f->fb).slices_out, 0);
    sti_plugin.life->destroy(f->t);
    test_host_free(f->th);
    fake_broker_free(f->fb);
    sti_batch_builder_free(builder);
    return 0;
}

/* `head` holds what comes before the partition; the message ends with the batch, in place. */
static size_t request_slices(const uint8_t *head, size_t head_len, const char *topic,
                             grpc_slice slices[2])
{
    uint8_t part[64], all[128];
    size_t n = 0, len = 0, topic_len = strlen(topic);
    part[n++] = 0x0a;
    part[n++] = (uint8_t)topic_len;
    memcpy(part + n, topic, topic_len);
    n += topic_len;
    part[n++] = 0x7a;
    n += tgr_varint_put(part + n, batch_len);
    memcpy(all, head, head_len);
    len = head_len;
    all[len++] = 0x7a;
    len += tgr_varint_put(all + len, n + batch_len);
    memcpy(all + len, part, n);
    len += n;
    slices[0] = grpc_slice_from_copied_buffer((const char *)all, len);
    slices[1] = grpc_slice_from_static_buffer(batch, batch_len);
    return 2;
}

static size_t fetch_slices(grpc_slice slices[1])
{
    static const char request[] = "\x2a\x08\x0a\x06orders";
    slices[0] = grpc_slice_from_static_buffer(request, sizeof request - 1);
    return 1;
}

/* A unary call, over a stream's functions: one message each way. */
static void unary(struct fixture *f, const char *path, grpc_slice *slices, size_t count,
                  size_t len_min)
{
    struct test_stream s;
    char text[256];
    test_stream_open(&s, f->channel, path, 30000);
    assert_true(test_stream_send_slices(&s, slices, count));
    test_stream_half_close(&s);
    grpc_byte_buffer *answer = test_stream_receive_buffer(&s);
    assert_non_null(answer);
    assert_true(grpc_byte_buffer_length(answer) >= len_min);
    grpc_byte_buffer_destroy(answer);
    assert_int_equal(test_stream_end(&s, text, sizeof text), GRPC_STATUS_OK);
}

static void check(struct fixture *f, const char *what, size_t before)
{
    size_t now = copies_bytes();
    if (now != before) {
        fail_msg("%s: %zu bytes were copied for %d messages of %zu", what, now - before, ROUNDS,
                 batch_len);
    }
    assert_int_equal(
        test_host_metric(f->th, "streamit_grpc_copied_bytes_total", "listener=\"transport_grpc\""),
        0);
}

static void test_unary(void **state)
{
    static const uint8_t head[] = {0x08, 0x01};
    struct fixture *f = *state;
    grpc_slice slices[2];
    /* The broker of the test copies what it keeps: before counting, once. */
    unary(f, API "Produce", slices, request_slices(head, sizeof head, "orders", slices), 1);
    size_t before = copies_bytes();
    for (int i = 0; i < ROUNDS; i++) {
        unary(f, API "Produce", slices, request_slices(head, sizeof head, "sink", slices), 1);
    }
    check(f, "Produce", before);
    for (int i = 0; i < ROUNDS; i++) {
        unary(f, API "Fetch", slices, fetch_slices(slices), batch_len);
    }
    check(f, "Fetch", before);
    assert_int_equal(fake_broker_facts(f->fb).produces, ROUNDS + 1);
}

static void test_streams(void **state)
{
    struct fixture *f = *state;
    struct test_stream s;
    char text[256];
    size_t before = copies_bytes();
    grpc_slice slices[2];
    test_stream_open(&s, f->channel, API "ProduceStream", 30000);
    for (int i = 1; i <= ROUNDS; i++) {
        const uint8_t head[] = {0x08, (uint8_t)i, 0x10, 0x01};
        assert_true(test_stream_send_slices(&s, slices, request_slices(head, 4, "sink", slices)));
    }
    test_stream_half_close(&s);
    assert_int_equal(test_stream_end(&s, text, sizeof text), GRPC_STATUS_OK);
    check(f, "ProduceStream", before);
    for (int i = 0; i < ROUNDS; i++) {
        test_stream_open(&s, f->channel, API "FetchStream", 30000);
        assert_true(test_stream_send_slices(&s, slices, fetch_slices(slices)));
        test_stream_half_close(&s);
        grpc_byte_buffer *message = test_stream_receive_buffer(&s);
        assert_non_null(message);
        assert_true(grpc_byte_buffer_length(message) >= batch_len);
        grpc_byte_buffer_destroy(message);
        assert_int_equal(grpc_call_cancel(s.call, NULL), GRPC_CALL_OK);
        (void)test_stream_end(&s, text, sizeof text);
    }
    check(f, "FetchStream", before);
}

/* The counting counts. */
static void test_counting(void **state)
{
    static uint8_t from[COPIES_LARGE], to[COPIES_LARGE];
    void *(*volatile copy)(void *restrict, const void *restrict, size_t) = memcpy;
    (void)state;
    size_t before = copies_bytes();
    (void)copy(to, from, sizeof from);
    assert_int_equal(copies_bytes() - before, COPIES_LARGE);
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)from, sizeof from);
    assert_true(copies_bytes() - before >= (size_t)2 * COPIES_LARGE); /* within the library too */
    grpc_slice_unref(slice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counting),
                                       cmocka_unit_test(test_unary),
                                       cmocka_unit_test(test_streams)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
