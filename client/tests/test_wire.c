/* test_wire.c -- messages by hand against protobuf-c, keys against Kafka's partitioner, failures
 * against their traits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

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

static void check_head(int acks, uint32_t timeout, const char *topic, int32_t partition, size_t len)
{
    Streamit__V1__ProduceRequest request = STREAMIT__V1__PRODUCE_REQUEST__INIT;
    Streamit__V1__ProducePartition row = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *rows[] = {&row};
    uint8_t head[CL_PRODUCE_HEAD_MAX];
    uint8_t *batch = malloc(len + 1);
    memset(batch, 0x5a, len);
    request.acks = (Streamit__V1__Acks)acks;
    request.timeout_ms = timeout;
    request.n_partitions = 1;
    request.partitions = rows;
    row.topic = (char *)(uintptr_t)topic;
    row.partition = partition;
    row.batch.data = batch;
    row.batch.len = len;
    size_t packed_len = streamit__v1__produce_request__get_packed_size(&request);
    uint8_t *packed = malloc(packed_len);
    streamit__v1__produce_request__pack(&request, packed);
    size_t head_len = cl_encode_produce_head(head, acks, timeout, topic, partition, len);
    assert_int_equal(head_len + len, packed_len);
    assert_memory_equal(head, packed, head_len);
    free(packed);
    free(batch);
}

static void test_produce_head_is_protobuf(void **state)
{
    char longest[250];
    (void)state;
    memset(longest, 't', 249);
    longest[249] = '\0';
    check_head(0, 0, "t", 0, 100);
    check_head(1, 30000, "orders", 3, 61);
    check_head(2, UINT32_MAX, longest, INT32_MAX, 1 << 20);
    check_head(0, 1, longest, 1, 127);
    check_head(0, 1, "t", 128, 128);
}

static uint8_t *fetch_message(size_t *len, bool error)
{
    Streamit__V1__FetchResponse response = STREAMIT__V1__FETCH_RESPONSE__INIT;
    Streamit__V1__FetchResult row = STREAMIT__V1__FETCH_RESULT__INIT;
    Streamit__V1__Error err = STREAMIT__V1__ERROR__INIT;
    Streamit__V1__FetchResult *rows[] = {&row};
    static uint8_t batches[] = "batches";
    static char topic[] = "t", message[] = "gone";
    response.n_partitions = 1;
    response.partitions = rows;
    row.topic = topic;
    row.partition = 4;
    row.high_watermark = error ? -1 : 77;
    row.log_start = 5;
    row.batches.data = batches;
    row.batches.len = error ? 0 : sizeof batches;
    if (error) {
        err.code = STREAMIT__V1__ERROR_CODE__OFFSET_OUT_OF_RANGE;
        err.message = message;
        row.error = &err;
    }
    *len = streamit__v1__fetch_response__get_packed_size(&response);
    uint8_t *data = malloc(*len);
    streamit__v1__fetch_response__pack(&response, data);
    return data;
}

static void test_fetch_response_is_read(void **state)
{
    struct cl_fetch_result result;
    size_t len;
    (void)state;
    uint8_t *data = fetch_message(&len, false);
    assert_true(cl_decode_fetch(data, len, &result));
    assert_false(result.has_error);
    assert_int_equal(result.high_watermark, 77);
    assert_int_equal(result.log_start, 5);
    assert_int_equal(result.batches_len, 8);
    assert_string_equal((const char *)result.batches, "batches");
    free(data);
    data = fetch_message(&len, true);
    assert_true(cl_decode_fetch(data, len, &result));
    assert_true(result.has_error);
    assert_int_equal(result.failure.err.code, STI_E_OFFSET_OUT_OF_RANGE);
    assert_string_equal(result.failure.err.msg, "gone");
    free(data);
}

/* Every cut and every changed byte is either read or refused, never read beyond. */
static void test_fetch_response_survives_damage(void **state)
{
    struct cl_fetch_result result;
    size_t len, refused = 0;
    (void)state;
    uint8_t *data = fetch_message(&len, false);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut + 1);
        memcpy(copy, data, cut);
        refused += cl_decode_fetch(copy, cut, &result) ? 0 : 1;
        free(copy);
    }
    assert_int_equal(refused, len);
    for (size_t i = 0; i < len * 256; i++) {
        uint8_t *copy = malloc(len);
        memcpy(copy, data, len);
        copy[i / 256] = (uint8_t)i;
        if (cl_decode_fetch(copy, len, &result) && result.batches_len > 0) {
            assert_true(result.batches >= copy &&
                        result.batches + result.batches_len <= copy + len);
        }
        free(copy);
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
        cmocka_unit_test(test_produce_head_is_protobuf),
        cmocka_unit_test(test_fetch_response_is_read),
        cmocka_unit_test(test_fetch_response_survives_damage),
        cmocka_unit_test(test_only_known_failures_are_repeated),
        cmocka_unit_test(test_statuses_become_codes),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
