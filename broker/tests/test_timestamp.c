/* test_timestamp.c -- whose clock a topic goes by: stamps on append, and bounds for producers'
 * times.
 */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* Fetch the first batch of a partition and prove it. */
static struct sti_batch_header stored(struct fixture *fix, const char *topic, int64_t offset,
                                      int64_t *record_ms)
{
    struct sti_batch_header header;
    struct sti_batch_iter iter;
    struct sti_record record;
    struct sti_err err;
    struct fetch_call f;
    fetch_init(&f, 0);
    fetch_add(&f, topic, 0, offset);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_true(f.rows[0].slice_count >= 1);
    struct sti_slice *s = &f.rows[0].slices[0];
    assert_int_equal(sti_batch_header_decode(s->data, (size_t)s->len, &header, &err), STI_OK);
    struct sti_slice whole = sti_slice_borrow(s->data, header.total_len);
    assert_int_equal(
        sti_batch_check(&whole, 1, STI_CHECK_CRC | STI_CHECK_RECORDS, s->len, &header, &err),
        STI_OK);
    memset(&iter, 0, sizeof iter);
    assert_int_equal(sti_batch_iter_init(&iter, s->data, header.total_len, 1 << 20, &err), STI_OK);
    assert_int_equal(sti_batch_iter_next(&iter, &record, &err), STI_OK);
    *record_ms = record.timestamp;
    sti_batch_iter_fini(&iter);
    fetch_fini(&f);
    return header;
}

static void test_log_append_time(void **state)
{
    struct fixture *fix = *state;
    int64_t record_ms = 0, before = sti_now_ms(&fix->host);
    struct produce_call p;
    assert_int_equal(fix_create(fix, "t", 1, "message.timestamp.type", "LogAppendTime"), STI_OK);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 3, 100, INT64_MAX / 2); /* no bounds on what nobody looks at */
    produce_send(fix, &p);
    produce_wait(&p);
    int64_t after = sti_now_ms(&fix->host);
    assert_int_equal(p.rows[0].status, STI_OK);
    int64_t stamp = p.rows[0].append_time_ms;
    assert_true(stamp >= before && stamp <= after);
    produce_fini(&p);
    struct sti_batch_header header = stored(fix, "t", 0, &record_ms);
    assert_int_equal(header.attributes & STI_BATCH_LOG_APPEND_TIME, STI_BATCH_LOG_APPEND_TIME);
    assert_true(header.max_timestamp == stamp);
    assert_true(header.base_timestamp == INT64_MAX / 2); /* as Kafka leaves it */
    assert_true(record_ms == stamp);
}

/* The header of the batch may be scattered over slices in any way. */
static void test_scattered(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, "message.timestamp.type", "LogAppendTime"), STI_OK);
    for (size_t cut = 1; cut < 70; cut++) {
        struct produce_call p;
        struct sti_slice slices[3];
        int64_t record_ms = 0;
        produce_init(&p, STI_ACKS_LEADER);
        produce_add(&p, "t", 0, 1, 40, 1000);
        uint64_t len = p.slices[0].len;
        slices[0] = sti_slice_borrow(p.bytes[0], cut);
        slices[1] = sti_slice_borrow(p.bytes[0] + cut, 3);
        slices[2] = sti_slice_borrow(p.bytes[0] + cut + 3, len - cut - 3);
        p.rows[0].slices = slices;
        p.rows[0].slice_count = 3;
        produce_send(fix, &p);
        produce_wait(&p);
        assert_int_equal(p.rows[0].status, STI_OK);
        int64_t base = p.rows[0].base_offset, stamp = p.rows[0].append_time_ms;
        produce_fini(&p);
        assert_true(stored(fix, "t", base, &record_ms).max_timestamp == stamp);
        assert_true(record_ms == stamp);
    }
}

static void test_altered_while_it_serves(void **state)
{
    struct fixture *fix = *state;
    int64_t record_ms = 0;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 1);
    assert_int_equal(stored(fix, "t", 0, &record_ms).attributes, 0);
    assert_true(record_ms == 1000);
    assert_int_equal(fix_alter(fix, "t", -1, "message.timestamp.type", "LogAppendTime"), STI_OK);
    fix_produce(fix, "t", 0, 1);
    assert_int_equal(stored(fix, "t", 1, &record_ms).attributes, STI_BATCH_LOG_APPEND_TIME);
    assert_int_equal(fix_alter(fix, "t", -1, "message.timestamp.type", NULL), STI_OK);
    fix_produce(fix, "t", 0, 1);
    assert_int_equal(stored(fix, "t", 2, &record_ms).attributes, 0);
}

/* @return the row's status */
static int produce_at(struct fixture *fix, int64_t timestamp_ms, struct sti_err *err)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, timestamp_ms);
    produce_send(fix, &p);
    produce_wait(&p);
    int status = p.rows[0].status;
    assert_true(status != STI_OK || p.rows[0].append_time_ms == -1);
    *err = p.rows[0].err;
    produce_fini(&p);
    return status;
}

static void test_bounds(void **state)
{
    struct fixture *fix = *state;
    int64_t now = sti_now_ms(&fix->host);
    struct sti_err err;
    char text[160];
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(produce_at(fix, 0, &err), STI_OK); /* as old as can be */
    assert_int_equal(produce_at(fix, now + 3500000, &err), STI_OK);
    assert_int_equal(produce_at(fix, now + 7200000, &err), STI_E_INVALID_TIMESTAMP);
    long long late = (long long)now + 7200000;
    snprintf(text, sizeof text, "t-0: timestamp %lld is ", late);
    assert_non_null(strstr(err.msg, text));
    assert_non_null(strstr(err.msg, "ms ahead of this node's clock, "
                                    "message.timestamp.after.max.ms is 3600000"));
    assert_int_equal(produce_at(fix, INT64_MAX, &err), STI_E_INVALID_TIMESTAMP);
    assert_int_equal(fix_alter(fix, "t", -1, "message.timestamp.before.max.ms", "60000"), STI_OK);
    assert_int_equal(produce_at(fix, now - 30000, &err), STI_OK);
    assert_int_equal(produce_at(fix, -1, &err), STI_OK); /* none */
    assert_int_equal(produce_at(fix, now - 120000, &err), STI_E_INVALID_TIMESTAMP);
    assert_non_null(strstr(err.msg, "ms behind this node's clock, "
                                    "message.timestamp.before.max.ms is 60000"));
    assert_int_equal(produce_at(fix, INT64_MIN, &err), STI_E_INVALID_TIMESTAMP);
    assert_int_equal(
        fix_alter(fix, "t", -1, "message.timestamp.after.max.ms", "9223372036854775807"), STI_OK);
    assert_int_equal(produce_at(fix, INT64_MAX, &err), STI_OK);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_timestamps_refused_total", NULL),
                     4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(log_append_time),
        TEST(scattered),
        TEST(altered_while_it_serves),
        TEST(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
