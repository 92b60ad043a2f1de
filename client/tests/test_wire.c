/* test_wire.c -- messages by hand against protobuf-c, keys against Kafka's partitioner, failures
 * against their traits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "internal.h"

/* Results of org.apache.kafka.common.utils.Utils.murmur2, from its own tests. */
static void test_murmur2_is_kafkas(void **state)
{
    static const struct {
        const char *key;
        int32_t hash;
    } vectors[] = {{"21", -973932308},
                   {"foobar", -790332482},
                   {"a-little-bit-long-string", -985981536},
                   {"a-little-bit-longer-string", -1486304829},
                   {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
                   {"abc", 479470107}};
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        assert_int_equal((int32_t)sti_murmur2(vectors[i].key, strlen(vectors[i].key)),
                         vectors[i].hash);
    }
    for (int i = 0; i < 1000; i++) {
        int32_t partition = sti_partition_of_key(&i, sizeof i, 7);
        assert_in_range(partition, 0, 6);
    }
}

static void check_request(const struct cl_produce_head *head, const char *topic, int32_t partition,
                          size_t len)
{
    Streamit__V1__ProduceStreamRequest request = STREAMIT__V1__PRODUCE_STREAM_REQUEST__INIT;
    Streamit__V1__ProducePartition row = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *rows[] = {&row};
    uint8_t text[CL_PRODUCE_HEAD_MAX + CL_PRODUCE_ROW_MAX];
    uint8_t *batch = malloc(len + 1);
    memset(batch, 0x5a, len);
    request.id = head->id;
    request.answered = head->answered;
    request.acks = (Streamit__V1__Acks)head->acks;
    request.timeout_ms = head->timeout_ms;
    request.replicas_min = head->replicas_min;
    request.replicas_synced_min = head->replicas_synced_min;
    request.n_partitions = 1;
    request.partitions = rows;
    row.topic = (char *)(uintptr_t)topic;
    row.partition = partition;
    row.batch.data = batch;
    row.batch.len = len;
    size_t packed_len = streamit__v1__produce_stream_request__get_packed_size(&request);
    uint8_t *packed = malloc(packed_len);
    streamit__v1__produce_stream_request__pack(&request, packed);
    size_t head_len = cl_encode_produce_head(text, head);
    assert_true(head_len <= CL_PRODUCE_HEAD_MAX);
    head_len += cl_encode_produce_row(text + head_len, topic, partition, len);
    assert_int_equal(head_len + len, packed_len);
    assert_memory_equal(text, packed, head_len);
    free(packed);
    free(batch);
}

static void test_produce_request_is_protobuf(void **state)
{
    char longest[250];
    struct cl_produce_head head = {.id = 1};
    (void)state;
    memset(longest, 't', 249);
    longest[249] = '\0';
    check_request(&head, "t", 0, 100);
    head = (struct cl_produce_head){.id = 300, .answered = 127, .acks = 1, .timeout_ms = 30000};
    check_request(&head, "orders", 3, 61);
    head = (struct cl_produce_head){.id = UINT64_MAX,
                                    .answered = UINT64_MAX - 1,
                                    .acks = 2,
                                    .timeout_ms = UINT32_MAX,
                                    .replicas_min = INT32_MAX,
                                    .replicas_synced_min = INT32_MIN};
    check_request(&head, longest, INT32_MAX, 1 << 20);
    check_request(&head, longest, 1, 127);
    check_request(&head, "t", 128, 128);
}

static uint8_t *fetch_message(size_t *len)
{
    Streamit__V1__FetchResponse response = STREAMIT__V1__FETCH_RESPONSE__INIT;
    Streamit__V1__FetchResult row[2] = {STREAMIT__V1__FETCH_RESULT__INIT,
                                        STREAMIT__V1__FETCH_RESULT__INIT};
    Streamit__V1__Error err = STREAMIT__V1__ERROR__INIT;
    Streamit__V1__FetchResult *rows[] = {&row[0], &row[1]};
    static uint8_t batches[] = "batches";
    static char topic[] = "t", message[] = "gone";
    response.n_partitions = 2;
    response.partitions = rows;
    row[0].topic = row[1].topic = topic;
    row[0].partition = 4;
    row[0].high_watermark = 77;
    row[0].log_start = 5;
    row[0].next_offset = 70;
    row[0].batches.data = batches;
    row[0].batches.len = sizeof batches;
    row[1].partition = 5;
    row[1].high_watermark = -1;
    err.code = STREAMIT__V1__ERROR_CODE__OFFSET_OUT_OF_RANGE;
    err.message = message;
    row[1].error = &err;
    *len = streamit__v1__fetch_response__get_packed_size(&response);
    uint8_t *data = malloc(*len);
    streamit__v1__fetch_response__pack(&response, data);
    return data;
}

/* Lay a message out over slices of `piece` bytes. */
static size_t scatter(const uint8_t *data, size_t len, size_t piece, grpc_slice *out)
{
    size_t count = 0;
    for (size_t pos = 0; pos < len; pos += piece) {
        size_t n = len - pos < piece ? len - pos : piece;
        out[count++] = grpc_slice_from_copied_buffer((const char *)data + pos, n);
    }
    return count;
}

static void unref(grpc_slice *slices, size_t count)
{
    while (count > 0) {
        grpc_slice_unref(slices[--count]);
    }
}

struct seen {
    int rows;
    size_t bytes;
};

static void row_check(void *arg, struct cl_fetch_row *row)
{
    struct seen *seen = arg;
    char batches[8];
    assert_string_equal(row->topic, "t");
    assert_int_equal(row->partition, 4 + seen->rows);
    if (seen->rows++ == 0) {
        assert_false(row->has_error);
        assert_int_equal(row->high_watermark, 77);
        assert_int_equal(row->log_start, 5);
        assert_int_equal(row->batches.left, 8);
        struct sti_slice pieces[8];
        struct cl_cursor behind = row->batches;
        size_t at = 0, count = cl_cursor_take(&behind, 8, pieces);
        for (size_t i = 0; i < count; i++) {
            assert_memory_equal(pieces[i].data, &"batches"[at], pieces[i].len);
            at += pieces[i].len;
        }
        assert_int_equal(at, 8);
        assert_int_equal(behind.left, 0);
        assert_int_equal(cl_cursor_take(&behind, 1, pieces), 0);
        assert_true(cl_cursor_copy(&row->batches, batches, 8));
        assert_string_equal(batches, "batches");
        assert_false(cl_cursor_skip(&row->batches, 1));
    } else {
        assert_true(row->has_error);
        assert_int_equal(row->failure.err.code, STI_E_OFFSET_OUT_OF_RANGE);
        assert_string_equal(row->failure.err.msg, "gone");
        assert_int_equal(row->batches.left, 0);
    }
}

static void test_fetch_response_is_read(void **state)
{
    size_t len;
    (void)state;
    uint8_t *data = fetch_message(&len);
    grpc_slice *slices = calloc(len, sizeof *slices);
    for (size_t piece = 1; piece <= len; piece++) {
        struct seen seen = {0};
        size_t count = scatter(data, len, piece, slices);
        assert_true(cl_decode_fetch(cl_cursor_make(slices, count), row_check, &seen));
        assert_int_equal(seen.rows, 2);
        unref(slices, count);
    }
    free(slices);
    free(data);
}

static void row_touch(void *arg, struct cl_fetch_row *row)
{
    struct seen *seen = arg;
    seen->rows++;
    seen->bytes += row->batches.left;
    while (row->batches.left > 0) {
        uint8_t byte;
        assert_true(cl_cursor_copy(&row->batches, &byte, 1));
    }
}

/* Every cut and every changed byte is either read or refused, never read beyond. */
static void test_fetch_response_survives_damage(void **state)
{
    grpc_slice slices[64];
    size_t len, refused = 0, whole = 0;
    (void)state;
    uint8_t *data = fetch_message(&len);
    for (size_t cut = 1; cut < len; cut++) {
        struct seen seen = {0};
        size_t count = scatter(data, cut, 7, slices);
        refused += cl_decode_fetch(cl_cursor_make(slices, count), row_touch, &seen) ? 0 : 1;
        whole += seen.rows == 2 ? 1 : 0;
        unref(slices, count);
    }
    assert_int_equal(refused, len - 2); /* between the rows the message is whole as well */
    assert_int_equal(whole, 0);
    for (size_t i = 0; i < len * 256; i++) {
        struct seen seen = {0};
        uint8_t *copy = malloc(len);
        memcpy(copy, data, len);
        copy[i / 256] = (uint8_t)i;
        size_t count = scatter(copy, len, 5 + i % 9, slices);
        free(copy);
        (void)cl_decode_fetch(cl_cursor_make(slices, count), row_touch, &seen);
        assert_true(seen.bytes <= len);
        unref(slices, count);
    }
    free(data);
}

static void test_only_known_failures_are_repeated(void **state)
{
    (void)state;
    assert_true(cl_may_retry(sti_status_traits(STI_E_THROTTLED), false));
    assert_true(cl_may_retry(sti_status_traits(STI_E_UNAVAILABLE), false));
    assert_true(cl_may_retry(sti_status_traits(STI_E_NOT_LEADER), false));
    assert_false(cl_may_retry(sti_status_traits(STI_E_CONNECTION_LOST), false));
    assert_true(cl_may_retry(sti_status_traits(STI_E_CONNECTION_LOST), true));
    assert_false(cl_may_retry(sti_status_traits(STI_E_TIMED_OUT), false));
    assert_false(cl_may_retry(sti_status_traits(STI_E_DISK_FULL), true));
    assert_false(cl_may_retry(sti_status_traits(STI_E_UNKNOWN_TOPIC), true));
}

static void test_statuses_become_codes(void **state)
{
    struct cl_failure failure;
    uint8_t trailer[64];
    Streamit__V1__Error error = STREAMIT__V1__ERROR__INIT;
    static char message[] = "slow down";
    (void)state;
    cl_failure_from_status(&failure, "h:1", GRPC_STATUS_UNAVAILABLE, "Socket closed", 13, NULL, 0);
    assert_int_equal(failure.err.code, STI_E_CONNECTION_LOST);
    assert_string_equal(failure.err.msg, "h:1: Socket closed");
    cl_failure_from_status(&failure, "h:1", GRPC_STATUS_DEADLINE_EXCEEDED, "", 0, NULL, 0);
    assert_int_equal(failure.err.code, STI_E_TIMED_OUT);
    error.code = STREAMIT__V1__ERROR_CODE__THROTTLED;
    error.message = message;
    error.retriable = 1;
    error.retry_after_ms = 40;
    size_t len = streamit__v1__error__pack(&error, trailer);
    cl_failure_from_status(&failure, "h:1", GRPC_STATUS_UNAVAILABLE, "x", 1, trailer, len);
    assert_int_equal(failure.err.code, STI_E_THROTTLED);
    assert_int_equal(failure.retry_after_ms, 40);
    assert_true(cl_may_retry(failure.err.traits, false));
    cl_failure_from_status(&failure, "h:1", GRPC_STATUS_INTERNAL, "x", 1, trailer, 3);
    assert_int_equal(failure.err.code, STI_E_INTERNAL);
}

/* ---- alarms ---- */

struct test_alarm {
    struct cl_alarm alarm;
    _Atomic bool cancelled;
    _Atomic int fired;
};

static uint64_t fired_latest;

static void alarm_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct test_alarm *t = CL_CONTAINER_OF(alarm, struct test_alarm, alarm);
    if (!cancelled) {
        assert_true(alarm->due_us >= fired_latest);
        fired_latest = alarm->due_us;
    }
    t->cancelled = cancelled;
    t->fired++;
}

/* Those that are cancelled fire on the poll thread, the others, which are far away, on this one. */
static void test_alarms_fire_in_order(void **state)
{
    enum { COUNT = 500 };
    struct sti_client_config config;
    struct sti_client *client;
    struct test_alarm *alarms = calloc(COUNT, sizeof *alarms);
    uint64_t seed = 88172645463325252u, now = cl_now_us();
    (void)state;
    sti_client_config_init(&config);
    config.metadata_refresh_ms = 0;
    assert_int_equal(sti_client_new(&client, &config, NULL), STI_OK);
    for (int round = 0; round < 20; round++) {
        fired_latest = 0;
        for (int i = 0; i < COUNT; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            alarms[i] = (struct test_alarm){.alarm.fire = alarm_fire};
            /* An hour away, so that the poll thread leaves them alone. */
            cl_alarm_start(client, &alarms[i].alarm, now + 3600000000u + (seed >> 40));
        }
        for (int i = 0; i < COUNT; i += 3) {
            cl_alarm_cancel(client, &alarms[i].alarm);
        }
        for (int i = 0; i < COUNT; i += 3) {
            while (alarms[i].fired == 0) {
                usleep(100);
            }
        }
        uint64_t due = 0;
        for (int i = 0; i < COUNT; i++) {
            due =
                alarms[i].fired == 0 && alarms[i].alarm.due_us > due ? alarms[i].alarm.due_us : due;
        }
        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(alarms[i].fired, i % 3 == 0 ? 1 : 0);
            assert_int_equal(alarms[i].cancelled, i % 3 == 0);
        }
        (void)cl_alarms_fire(client, due);
        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(alarms[i].fired, 1);
        }
    }
    sti_client_free(client);
    free(alarms);
}

static void test_backoff_grows_and_stays_in_bounds(void **state)
{
    struct sti_client client = {.config = {.backoff_min_ms = 20, .backoff_max_ms = 1000}};
    (void)state;
    for (uint32_t failures = 0; failures < 40; failures++) {
        uint64_t whole = failures < 6 ? 20000u << failures : 1000000u;
        for (int i = 0; i < 100; i++) {
            uint64_t wait = cl_backoff_us(&client, failures, 0);
            assert_in_range(wait, whole / 2, whole);
            wait = cl_backoff_us(&client, failures, 5000);
            assert_in_range(wait, 5000000, 5000000 + 5000000 / 8);
        }
    }
}

static void check_address(const char *in, const char *out)
{
    char *got = cl_address_normalise(in, strlen(in));
    if (out == NULL) {
        assert_null(got);
    } else {
        assert_non_null(got);
        assert_string_equal(got, out);
    }
    free(got);
}

static void test_addresses(void **state)
{
    (void)state;
    check_address("localhost", "localhost:8080");
    check_address(" h:1 ", "h:1");
    check_address("[::1]:9", "[::1]:9");
    check_address("[::1]", "[::1]:8080");
    check_address("", NULL);
    check_address(":80", NULL);
    check_address("h:", NULL);
    check_address("h:x", NULL);
    check_address("h:65536", NULL);
    check_address("[::1", NULL);
    check_address("[::1]9", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_murmur2_is_kafkas),
        cmocka_unit_test(test_produce_request_is_protobuf),
        cmocka_unit_test(test_fetch_response_is_read),
        cmocka_unit_test(test_fetch_response_survives_damage),
        cmocka_unit_test(test_only_known_failures_are_repeated),
        cmocka_unit_test(test_statuses_become_codes),
        cmocka_unit_test(test_alarms_fire_in_order),
        cmocka_unit_test(test_backoff_grows_and_stays_in_bounds),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
