/* test_retention.c -- old segments go, by bytes and by age; and what list-offsets says of it. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* Two batches a segment, looked at every ten milliseconds. */
static int setup_retention(void **state)
{
    struct fixture *fix = fix_new();
    FAKE_SET(fix->fs, segment_batches, 2);
    fix->conf.retention_check_interval_ms = 10;
    fix->conf.defaults.retention_ms = -1;
    fix_start(fix);
    *state = fix;
    return 0;
}

static void produce_at(struct fixture *fix, int64_t timestamp_ms)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 1000, timestamp_ms);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_OK);
    produce_fini(&p);
}

struct offsets_call {
    struct sti_list_offsets call;
    struct sti_list_offsets_row rows[4], *row_ptrs[4];
    struct flag done;
};

static void offsets_done(struct sti_list_offsets *call)
{
    flag_raise(&((struct offsets_call *)call->user)->done);
}

static const struct sti_list_offsets_row *offset_of(struct fixture *fix, struct offsets_call *o,
                                                    const char *topic, int32_t partition,
                                                    int64_t timestamp_ms)
{
    struct sti_err err;
    *o = (struct offsets_call){
        .call = {.struct_size = sizeof o->call, .row_count = 1, .done = offsets_done}};
    o->rows[0] = (struct sti_list_offsets_row){.struct_size = sizeof o->rows[0],
                                               .partition = partition,
                                               .topic = topic,
                                               .timestamp_ms = timestamp_ms};
    o->row_ptrs[0] = &o->rows[0];
    o->call.rows = o->row_ptrs;
    o->call.user = o;
    assert_int_equal(fix->vt->list_offsets(fix->self, &o->call, &err), STI_OK);
    flag_wait(&o->done, 1);
    return &o->rows[0];
}

static void test_by_bytes(void **state)
{
    struct fixture *fix = *state;
    struct offsets_call o;
    struct fetch_call f;
    assert_int_equal(fix_create(fix, "t", 1, "retention.bytes", "3000"), STI_OK);
    for (int i = 0; i < 10; i++) { /* a batch has some 1,070 bytes, a segment two */
        produce_at(fix, 1000 + i);
    }
    fix_wait_metric(fix, "streamit_retention_segments_total", 3);
    const struct sti_list_offsets_row *row = offset_of(fix, &o, "t", 0, STI_OFFSET_EARLIEST);
    assert_int_equal(row->offset, 6); /* dropping one more would leave less than 3,000 */
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 5);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f.rows[0].log_start, 6);
    fetch_fini(&f);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 10);
}

static void test_by_age(void **state)
{
    struct fixture *fix = *state;
    int64_t now = sti_now_ms(&fix->host);
    assert_int_equal(fix_create(fix, "t", 1, "retention.ms", "3600000"), STI_OK);
    produce_at(fix, now - 7200000);
    produce_at(fix, now - 7200000);
    produce_at(fix, now - 7200000);
    produce_at(fix, now); /* the segment's newest record counts */
    produce_at(fix, now - 7200000);
    fix_wait_metric(fix, "streamit_retention_segments_total", 1);
    fix_settle(fix, "t", 0);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 2);
    /* The newest segment stays, however old. */
    assert_int_equal(fix_alter(fix, "t", -1, "retention.ms", "0"), STI_OK);
    produce_at(fix, 5);
    fix_wait_metric(fix, "streamit_retention_segments_total", 2);
    fix_settle(fix, "t", 0);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 4);
}

/* Nothing above the high watermark goes. */
static void test_watermark_bounds(void **state)
{
    struct fixture *fix = *state;
    FAKE_SET(fix->fr, hold, true);
    assert_int_equal(fix_create(fix, "t", 1, "retention.bytes", "0"), STI_OK);
    for (int i = 0; i < 6; i++) {
        produce_at(fix, 1000);
    }
    fix_settle(fix, "t", 0);
    assert_int_equal(fs_get(fix->fs, &fix->fs->trims), 0);
    fr_release(fix->fr);
    fix_wait_metric(fix, "streamit_retention_segments_total", 2);
    fix_settle(fix, "t", 0);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 4);
}

static void test_trim_fails(void **state)
{
    struct fixture *fix = *state;
    FAKE_SET(fix->fs, trim_status, STI_E_IO);
    assert_int_equal(fix_create(fix, "t", 1, "retention.bytes", "0"), STI_OK);
    for (int i = 0; i < 4; i++) {
        produce_at(fix, 1000);
    }
    fs_wait(fix->fs, &fix->fs->trims, 1);
    fix_settle(fix, "t", 0);
    assert_true(test_host_logged(fix->th, "retention_failed") > 0);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 0);
    fix_restart(fix); /* stopping beside a timer that fires is no problem */
}

static void test_offsets(void **state)
{
    struct fixture *fix = *state;
    struct offsets_call o;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    produce_at(fix, 100);
    produce_at(fix, 200);
    produce_at(fix, 300);
    const struct sti_list_offsets_row *row = offset_of(fix, &o, "t", 0, STI_OFFSET_LATEST);
    assert_int_equal(row->offset, 3);
    assert_int_equal(row->found_ms, -1);
    assert_int_equal(row->leader_epoch, 0);
    row = offset_of(fix, &o, "t", 0, 150);
    assert_int_equal(row->offset, 1);
    assert_int_equal(row->found_ms, 200);
    row = offset_of(fix, &o, "t", 0, 301); /* all are older */
    assert_int_equal(row->status, STI_OK);
    assert_int_equal(row->offset, -1);
    FAKE_SET(fix->fr, hold, true);
    produce_at(fix, 400); /* not yet for consumers */
    row = offset_of(fix, &o, "t", 0, 400);
    assert_int_equal(row->status, STI_OK);
    assert_int_equal(row->offset, -1);
    row = offset_of(fix, &o, "t", 0, -3);
    assert_int_equal(row->status, STI_E_INVALID_ARGUMENT);
    assert_string_equal(row->err.msg, "timestamp -3: expected -1 (end), -2 (start) or a time");
    assert_int_equal(offset_of(fix, &o, "t", 1, 0)->status, STI_E_UNKNOWN_PARTITION);
    assert_int_equal(offset_of(fix, &o, "u", 0, 0)->status, STI_E_UNKNOWN_TOPIC);
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    (void)fix_create(fix, "off", 1, NULL, NULL);
    assert_int_equal(offset_of(fix, &o, "off", 0, STI_OFFSET_LATEST)->status, STI_E_IO);
    assert_int_equal(offset_of(fix, &o, "off", 0, 5)->status, STI_E_IO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup_retention, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(by_bytes), TEST(by_age), TEST(watermark_bounds), TEST(trim_fails), TEST(offsets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
