/* test_fetch.c -- fetch calls: at once, waiting, bounded, cancelled. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static struct fixture *with_topic(void **state, int32_t partitions)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", partitions, NULL, NULL), STI_OK);
    return fix;
}

/* First offset of the batch in a slice. */
static int64_t slice_base(const struct sti_slice *slice)
{
    struct sti_batch_header header;
    assert_int_equal(sti_batch_header_decode(slice->data, slice->len, &header, NULL), STI_OK);
    return header.base_offset;
}

static void test_at_once(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 3);
    fix_produce(fix, "t", 0, 2);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 1);
    fetch_send(fix, &f);
    assert_int_equal(flag_get(&f.done), 1); /* on this very thread */
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].slice_count, 2);
    assert_int_equal(slice_base(&f.rows[0].slices[0]), 0); /* the batch that contains 1 */
    assert_int_equal(f.rows[0].high_watermark, 5);
    assert_int_equal(f.rows[0].last_stable, 5);
    assert_int_equal(f.rows[0].log_start, 0);
    assert_int_equal(f.rows[0].current_leader_epoch, 0);
    assert_int_equal(f.rows[0].bytes, f.rows[0].slices[0].len + f.rows[0].slices[1].len);
    fetch_fini(&f);
    assert_int_equal(fs_get(fix->fs, &fix->fs->reads_no_wait), 1);
    fetch_init(&f, 0); /* at the end, and not willing to wait */
    fetch_add(&f, "t", 0, 5);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].bytes, 0);
    fetch_fini(&f);
}

static void test_woken(void **state)
{
    struct fixture *fix = with_topic(state, 2);
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 1, 0);
    fetch_send(fix, &f);
    assert_int_equal(flag_get(&f.done), 0);
    fix_wait_parked(fix, 1);
    fix_produce(fix, "t", 1, 4);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].bytes, 0);
    assert_int_equal(f.rows[1].slice_count, 1);
    assert_int_equal(f.rows[1].high_watermark, 4);
    fetch_fini(&f);
    assert_int_equal(test_host_metric(fix->th, "streamit_fetch_parked", NULL), 0);
}

/* However many wait, news wakes those whom it concerns, and nobody else looks again. */
static void test_only_those_concerned_wake(void **state)
{
    enum { OTHERS = 2000 };
    struct fixture *fix = with_topic(state, 3);
    struct fetch_call *others = calloc(OTHERS, sizeof *others), f;
    assert_non_null(others);
    for (int i = 0; i < OTHERS; i++) {
        fetch_init(&others[i], 60000);
        fetch_add(&others[i], "t", 1 + i % 2, 0);
        fetch_send(fix, &others[i]);
    }
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix_wait_parked(fix, OTHERS + 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_purgatory_waits", NULL), OTHERS + 1);
    unsigned reads = fs_get(fix->fs, &fix->fs->reads);
    fix_produce(fix, "t", 0, 1);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
    assert_int_equal(fs_get(fix->fs, &fix->fs->reads), reads + 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_fetch_parked", NULL), OTHERS);
    for (int i = 0; i < OTHERS; i++) {
        assert_int_equal(flag_get(&others[i].done), 0);
        fix->vt->fetch_cancel(fix->self, &others[i].call);
        fetch_fini(&others[i]);
    }
    assert_int_equal(test_host_metric(fix->th, "streamit_purgatory_waits", NULL), 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_purgatory_expired_total", NULL), 0);
    free(others);
}

static void test_time_is_up(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fetch_init(&f, 1);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].bytes, 0);
    fetch_fini(&f);
    fix->conf.fetch_wait_max_ms = 1; /* the node's limit holds too */
    fetch_init(&f, 4000000000u);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fetch_fini(&f);
}

static void test_min_bytes(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 1);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    f.call.min_bytes = 150; /* a batch of one record has some 80 */
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    assert_int_equal(flag_get(&f.done), 0);
    fix_produce(fix, "t", 0, 1);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 2);
    fetch_fini(&f);
    /* More than max_bytes can never come: no reason to wait. */
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    f.call.min_bytes = 1000;
    f.call.max_bytes = 10;
    fetch_send(fix, &f);
    assert_int_equal(flag_get(&f.done), 1);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
}

static void big(struct fixture *fix, int32_t partition)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", partition, 1, 1000, 0);
    produce_send(fix, &p);
    produce_fini(&p);
}

static void test_limits(void **state)
{
    struct fixture *fix = with_topic(state, 3);
    struct fetch_call f;
    for (int32_t i = 0; i < 3; i++) {
        big(fix, i);
        big(fix, i);
    }
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 1, 0);
    fetch_add(&f, "t", 2, 0);
    f.rows[0].max_bytes = 10; /* of the row: its first batch comes whole */
    f.call.max_bytes = 2500;
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(f.rows[1].slice_count, 1);
    assert_int_equal(f.rows[2].slice_count, 0); /* would pass the call's limit */
    assert_int_equal(f.rows[2].status, STI_OK);
    assert_int_equal(f.rows[2].high_watermark, 2);
    fetch_fini(&f);
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 1, 0);
    f.call.max_bytes = 1;
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(f.rows[1].slice_count, 0);
    fetch_fini(&f);
    fix->conf.fetch_bytes_max = 1500; /* the node's limit */
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 1, 0);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].slice_count + f.rows[1].slice_count, 1);
    fetch_fini(&f);
}

static void test_watermark_bounds(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    FAKE_SET(fix->fr, hold, true);
    fix_produce(fix, "t", 0, 3); /* written, not safe */
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(f.rows[0].high_watermark, 2);
    fetch_fini(&f);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 4); /* between watermark and end: legal, and waits */
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    fr_release(fix->fr);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(f.rows[0].high_watermark, 5);
    fetch_fini(&f);
}

static void test_refusals(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    fetch_init(&f, 60000);
    assert_int_equal(fix->vt->fetch(fix->self, &f.call, &f.err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(f.err.msg, "fetch: no partitions");
    fetch_add(&f, "t", 0, 3);
    fetch_add(&f, "t", 0, -1);
    fetch_add(&f, "nope", 0, 0);
    fetch_add(&f, "t", 1, 0);
    fetch_add(&f, "t", 0, 0);
    f.rows[4].leader_epoch = 1;
    fetch_add(&f, "t", 0, 0);
    f.rows[5].topic_id[0] = 1;
    fetch_add(&f, "t", 0, 0);
    f.rows[6].leader_epoch = 0;
    fetch_send(fix, &f); /* an error answers at once, and the sound row has its data */
    assert_int_equal(flag_get(&f.done), 1);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    assert_string_equal(f.rows[0].err.msg,
                        "t-0: offset 3 lies outside the log, which holds 0 to 2");
    assert_int_equal(f.rows[0].high_watermark, -1);
    assert_int_equal(f.rows[0].log_start, 0);
    assert_int_equal(f.rows[1].status, STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f.rows[2].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(f.rows[3].status, STI_E_UNKNOWN_PARTITION);
    assert_int_equal(f.rows[4].status, STI_E_UNKNOWN_EPOCH);
    assert_string_equal(f.rows[4].err.msg,
                        "t-0: the caller knows leader epoch 1, the current one is 0");
    assert_int_equal(f.rows[5].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(f.rows[6].status, STI_OK);
    assert_int_equal(f.rows[6].slice_count, 1);
    fetch_fini(&f);
}

static void test_storage_errors(void **state)
{
    static const int codes[] = {STI_E_DATA_LOSS, STI_E_IO, STI_E_RESOURCE_EXHAUSTED};
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    for (int i = 0; i < 3; i++) {
        FAKE_SET(fix->fs, read_status, codes[i]);
        fetch_init(&f, 60000);
        fetch_add(&f, "t", 0, 0);
        fetch_send(fix, &f);
        assert_int_equal(f.rows[0].status, codes[i]);
        assert_non_null(strstr(f.rows[0].err.msg, "t-0: offset 0: "));
        fetch_fini(&f);
    }
    FAKE_SET(fix->fs, read_status, STI_E_OFFSET_OUT_OF_RANGE); /* trimmed a moment ago */
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    fetch_fini(&f);
}

/* A trim under way has moved the log's start, and the broker has not heard of it yet: the answer
 * says where the log begins now, and who asks for the earliest offset gets the same. */
static void test_beside_a_trim(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    fix_produce(fix, "t", 0, 2);
    fs_move_start(fix->fs, "t", 0, 2);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    assert_string_equal(f.rows[0].err.msg,
                        "t-0: offset 0 lies outside the log, which holds 2 to 4");
    assert_int_equal(f.rows[0].log_start, 2);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 2);
    fetch_fini(&f);
}

/* What would wait is read on the executor, and only that once. */
static void test_would_block(void **state)
{
    struct fixture *fix = with_topic(state, 2);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    fix_produce(fix, "t", 1, 2);
    FAKE_SET(fix->fs, would_block, 1);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 1, 0);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    assert_int_equal(f.rows[1].slice_count, 1);
    fetch_fini(&f);
    assert_int_equal(fs_get(fix->fs, &fix->fs->reads), 3);
    assert_int_equal(fs_get(fix->fs, &fix->fs->reads_no_wait), 1);
}

static void test_slow_read(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    FAKE_SET(fix->fs, hold_reads, true);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    assert_int_equal(flag_get(&f.done), 0);
    assert_int_equal(fs_release_reads(fix->fs), 1);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count + f.rows[1].slice_count, 2);
    fetch_fini(&f);
}

/* ---- giving up
 * ----------------------------------------------------------------------------------- */

static void test_cancel_parked(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    fix->vt->fetch_cancel(fix->self, &f.call);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_CANCELLED);
    assert_string_equal(f.rows[0].err.msg, "fetch: the caller has gone");
    fetch_fini(&f);
}

static void test_cancel_while_reading(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fix_produce(fix, "t", 0, 2);
    FAKE_SET(fix->fs, hold_reads, true);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix->vt->fetch_cancel(fix->self, &f.call);
    assert_int_equal(flag_get(&f.done), 0);
    fs_release_reads(fix->fs);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_CANCELLED);
    assert_int_equal(f.rows[0].slice_count, 0); /* what was read has been released */
    fetch_fini(&f);
}

static void test_drain_wakes(void **state)
{
    struct fixture *fix = with_topic(state, 1);
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    assert_int_equal(sti_broker_plugin.life->drain(fix->self, 1000, &f.err), STI_OK);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].bytes, 0);
    fetch_fini(&f);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    assert_int_equal(fix->vt->fetch(fix->self, &f.call, &f.err), STI_E_UNAVAILABLE);
}

static void test_many_wait(void **state)
{
    enum { MANY = 100 };
    struct fixture *fix = with_topic(state, 2);
    struct fetch_call *f = calloc(MANY, sizeof *f);
    assert_non_null(f);
    for (int i = 0; i < MANY; i++) {
        fetch_init(&f[i], 60000);
        fetch_add(&f[i], "t", 0, 0);
        if (i % 2 == 0) {
            fetch_add(&f[i], "t", 1, 0);
        }
        f[i].call.min_bytes = i % 4 == 0 ? 150 : 1; /* a quarter wants more than one batch */
        fetch_send(fix, &f[i]);
    }
    fix_wait_parked(fix, MANY);
    fix_produce(fix, "t", 0, 1);
    fix_wait_parked(fix, MANY / 4);
    fix_produce(fix, "t", 1, 1);
    for (int i = 0; i < MANY; i++) {
        fetch_fini(&f[i]);
    }
    free(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(at_once),
        TEST(woken),
        TEST(only_those_concerned_wake),
        TEST(time_is_up),
        TEST(min_bytes),
        TEST(limits),
        TEST(refusals),
        TEST(storage_errors),
        TEST(watermark_bounds),
        TEST(beside_a_trim),
        TEST(would_block),
        TEST(slow_read),
        TEST(cancel_parked),
        TEST(cancel_while_reading),
        TEST(drain_wakes),
        TEST(many_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
