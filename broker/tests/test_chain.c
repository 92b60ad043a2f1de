/* test_chain.c -- the order of a stream with several produce requests under way: what follows a
 * failed batch is refused until its sender has read of the failure. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static const char REFUSED[] = "t-0: an earlier batch of this stream was not appended";

struct stream {
    struct fixture *fix;
    struct sti_produce_chain chain; /* of t-0 */
    uint64_t id, answered;
};

static struct stream with_topic(void **state)
{
    struct stream stream = {.fix = *state};
    assert_int_equal(fix_create(stream.fix, "t", 2, NULL, NULL), STI_OK);
    return stream;
}

static void add(struct stream *stream, struct produce_call *p, const char *topic)
{
    produce_add(p, topic, 0, 1, 10, 0);
    struct sti_produce_row *row = &p->rows[p->call.row_count - 1];
    row->chain = &stream->chain;
    row->chain_id = stream->id;
    row->chain_answered = stream->answered;
}

static void begin(struct stream *stream, struct produce_call *p)
{
    produce_init(p, STI_ACKS_LEADER);
    stream->id++;
}

static void start(struct stream *stream, struct produce_call *p)
{
    begin(stream, p);
    add(stream, p, "t");
    produce_send(stream->fix, p);
}

static void ends(struct produce_call *p, int status)
{
    produce_wait(p);
    assert_int_equal(p->rows[0].status, status);
    if (status == STI_E_PRECONDITION) {
        assert_string_equal(p->rows[0].err.msg, REFUSED);
        assert_true((p->rows[0].err.traits & STI_TRAIT_RETRIABLE) != 0);
        assert_int_equal(p->rows[0].base_offset, -1);
    }
    produce_fini(p);
}

static void ends_at(struct produce_call *p, int64_t offset)
{
    produce_wait(p);
    assert_int_equal(p->rows[0].base_offset, offset);
    ends(p, STI_OK);
}

/* A batch that is refused at once, for itself. */
static void bad(struct stream *stream)
{
    struct produce_call p;
    begin(stream, &p);
    add(stream, &p, "t");
    p.bytes[0][p.slices[0].len - 1] ^= 1;
    produce_send(stream->fix, &p);
    ends(&p, STI_E_CORRUPT_BATCH);
}

static void test_failed_when_called(void **state)
{
    struct stream stream = with_topic(state);
    struct produce_call p;
    start(&stream, &p);
    ends_at(&p, 0);
    bad(&stream); /* 2 */
    for (int i = 0; i < 3; i++) {
        start(&stream, &p); /* 3 to 5: a refusal is no failure of its own */
        ends(&p, STI_E_PRECONDITION);
    }
    assert_int_equal(stream.chain.failed, 2);
    stream.answered = 1;
    start(&stream, &p);
    ends(&p, STI_E_PRECONDITION);
    stream.answered = 2;
    start(&stream, &p);
    ends_at(&p, 1);
    start(&stream, &p);
    ends_at(&p, 2);
    assert_int_equal(fs_check_dense(stream.fix->fs, "t", 0), 3);
}

/* Whatever refuses a row before it is queued. */
static void test_every_way_to_fail_when_called(void **state)
{
    struct stream stream = with_topic(state);
    struct produce_call p, other;
    begin(&stream, &p);
    add(&stream, &p, "nope");
    produce_send(stream.fix, &p);
    ends(&p, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(stream.chain.failed, 1);

    stream.answered = stream.id;
    begin(&stream, &p);
    add(&stream, &p, "t");
    p.call.acks = 7;
    assert_int_equal(stream.fix->vt->produce(stream.fix->self, &p.call, &p.err),
                     STI_E_INVALID_ARGUMENT);
    free(p.bytes[0]);
    assert_int_equal(stream.chain.failed, 2);

    stream.answered = stream.id;
    ((struct broker *)stream.fix->self)->produce_room.limit = 1;
    FAKE_SET(stream.fix->fs, hold_appends, true);
    produce_init(&other, STI_ACKS_LEADER);
    produce_add(&other, "t", 1, 1, 10, 0);
    produce_send(stream.fix, &other);
    start(&stream, &p);
    ends(&p, STI_E_THROTTLED);
    assert_int_equal(stream.chain.failed, 3);
    fs_wait(stream.fix->fs, &stream.fix->fs->appends_held, 1);
    fs_release_appends(stream.fix->fs);
    produce_fini(&other);
    ((struct broker *)stream.fix->self)->produce_room.limit = 1 << 20;

    stream.answered = stream.id;
    assert_int_equal(sti_broker_plugin.life->drain(stream.fix->self, 1000, &p.err), STI_OK);
    begin(&stream, &p);
    add(&stream, &p, "t");
    assert_int_equal(stream.fix->vt->produce(stream.fix->self, &p.call, &p.err), STI_E_UNAVAILABLE);
    free(p.bytes[0]);
    assert_int_equal(stream.chain.failed, 4);
    assert_int_equal(fs_check_dense(stream.fix->fs, "t", 0), 0);
}

/* Two rows of one request are in order as well. */
static void test_rows_of_one_request(void **state)
{
    struct stream stream = with_topic(state);
    struct produce_call p;
    begin(&stream, &p);
    add(&stream, &p, "t");
    add(&stream, &p, "t");
    p.bytes[0][p.slices[0].len - 1] ^= 1;
    produce_send(stream.fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[1].status, STI_E_PRECONDITION);
    ends(&p, STI_E_CORRUPT_BATCH);
}

/* An append of several fails; what was queued meanwhile, and what comes before the failure is read,
 * is not appended; sent again, all is there in order. */
static void test_failed_append(void **state)
{
    enum { TOGETHER = 3, BEHIND = 2 };
    struct stream stream = with_topic(state);
    struct fixture *fix = stream.fix;
    struct produce_call first, p[TOGETHER], behind[BEHIND], late;
    FAKE_SET(fix->fs, hold_appends, true);
    start(&stream, &first); /* 1 */
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    for (int i = 0; i < TOGETHER; i++) {
        start(&stream, &p[i]); /* 2 to 4: one append */
    }
    fs_release_append(fix->fs, "t", 0);
    ends_at(&first, 0);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    for (int i = 0; i < BEHIND; i++) {
        start(&stream, &behind[i]); /* 5 and 6: in the queue */
    }
    FAKE_SET(fix->fs, append_status, STI_E_DISK_FULL);
    fs_release_appends(fix->fs);
    for (int i = 0; i < TOGETHER; i++) {
        ends(&p[i], STI_E_DISK_FULL);
    }
    for (int i = 0; i < BEHIND; i++) {
        ends(&behind[i], STI_E_PRECONDITION);
    }
    assert_int_equal(stream.chain.failed, 2);
    FAKE_SET(fix->fs, append_status, STI_OK);
    FAKE_SET(fix->fs, hold_appends, false);
    start(&stream, &late); /* 7 */
    ends(&late, STI_E_PRECONDITION);
    stream.answered = 2; /* the rest is refused for certain: no need to wait for that */
    for (int i = 0; i < TOGETHER + BEHIND + 1; i++) {
        start(&stream, &p[0]);
        ends_at(&p[0], 1 + i);
    }
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 1 + TOGETHER + BEHIND + 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_inflight_bytes", NULL), 0);
}

/* Other partitions of the stream, and others at the partition, go on. */
static void test_others_are_unharmed(void **state)
{
    struct stream stream = with_topic(state);
    struct fixture *fix = stream.fix;
    struct sti_produce_chain elsewhere = {0};
    struct produce_call first, mine, alone, p;
    FAKE_SET(fix->fs, hold_appends, true);
    start(&stream, &first);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    start(&stream, &mine);
    produce_init(&alone, STI_ACKS_LEADER);
    produce_add(&alone, "t", 0, 1, 10, 0);
    produce_send(fix, &alone);
    FAKE_SET(fix->fs, append_status, STI_E_RESOURCE_EXHAUSTED);
    fs_release_append(fix->fs, "t", 0);
    ends(&first, STI_E_RESOURCE_EXHAUSTED);
    ends(&mine, STI_E_PRECONDITION);
    fs_wait(fix->fs, &fix->fs->appends_held, 1); /* only the one without a chain was left */
    FAKE_SET(fix->fs, append_status, STI_OK);
    fs_release_appends(fix->fs);
    ends_at(&alone, 0);
    FAKE_SET(fix->fs, hold_appends, false);

    begin(&stream, &p);
    add(&stream, &p, "t");
    add(&stream, &p, "t");
    p.rows[1].partition = 1;
    p.rows[1].chain = &elsewhere;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_PRECONDITION);
    assert_int_equal(p.rows[1].status, STI_OK);
    produce_fini(&p);
    assert_int_equal(elsewhere.failed, 0);

    stream.chain = (struct sti_produce_chain){0}; /* another stream */
    start(&stream, &p);
    ends_at(&p, 1);
}

/* A batch that fails at once may have an earlier one before it that fails only later: the sender
 * begins anew with that one. */
static void test_earlier_one_fails_later(void **state)
{
    struct stream stream = with_topic(state);
    struct fixture *fix = stream.fix;
    struct produce_call first, p;
    FAKE_SET(fix->fs, hold_appends, true);
    start(&stream, &first); /* 1 */
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    bad(&stream); /* 2 */
    assert_int_equal(stream.chain.failed, 2);
    FAKE_SET(fix->fs, append_status, STI_E_RESOURCE_EXHAUSTED);
    fs_release_appends(fix->fs);
    ends(&first, STI_E_RESOURCE_EXHAUSTED);
    assert_int_equal(stream.chain.failed, 1);
    FAKE_SET(fix->fs, append_status, STI_OK);
    FAKE_SET(fix->fs, hold_appends, false);
    start(&stream, &p); /* 3 */
    ends(&p, STI_E_PRECONDITION);
    stream.answered = 1;
    start(&stream, &p);
    ends_at(&p, 0);
}

/* What is taken out of the queue in time was not appended; what waits for its ack was. */
static void test_timeouts(void **state)
{
    struct stream stream = with_topic(state);
    struct fixture *fix = stream.fix;
    struct produce_call first, timed, behind, p;
    FAKE_SET(fix->fs, hold_appends, true);
    start(&stream, &first); /* 1 */
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    begin(&stream, &timed); /* 2 */
    add(&stream, &timed, "t");
    timed.call.timeout_ms = 1;
    produce_send(fix, &timed);
    start(&stream, &behind); /* 3 */
    ends(&timed, STI_E_TIMED_OUT);
    ends(&behind, STI_E_PRECONDITION);
    assert_int_equal(stream.chain.failed, 2);
    fs_release_appends(fix->fs);
    ends_at(&first, 0);
    FAKE_SET(fix->fs, hold_appends, false);

    stream.answered = 3;
    FAKE_SET(fix->fr, hold, true);
    begin(&stream, &timed); /* 4 */
    add(&stream, &timed, "t");
    timed.call.acks = STI_ACKS_QUORUM;
    timed.call.timeout_ms = 1;
    produce_send(fix, &timed);
    ends(&timed, STI_E_TIMED_OUT);
    start(&stream, &p);
    ends_at(&p, 2); /* the one before is there */
}

/* A partition that cannot be opened refuses what waited for it. */
static void test_waiting_for_the_opening(void **state)
{
    struct stream stream = with_topic(state);
    struct fixture *fix = stream.fix;
    struct produce_call p[3];
    FAKE_SET(fix->fs, hold_opens, true);
    fix->lazy = true;
    fix_restart(fix);
    for (int i = 0; i < 2; i++) {
        start(&stream, &p[i]);
    }
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    FAKE_SET(fix->fs, hold_opens, false);
    ends(&p[0], STI_E_IO);
    ends(&p[1], STI_E_IO);
    assert_int_equal(stream.chain.failed, 1);
    start(&stream, &p[2]);
    ends(&p[2], STI_E_PRECONDITION);
    FAKE_SET(fix->fs, open_status, STI_OK);
}

/* Rows of a transport that was built before there were chains. */
static void test_older_transport(void **state)
{
    struct stream stream = with_topic(state);
    struct produce_call p;
    stream.chain.failed = 1;
    begin(&stream, &p);
    add(&stream, &p, "t");
    p.rows[0].struct_size = offsetof(struct sti_produce_row, chain);
    produce_send(stream.fix, &p);
    ends_at(&p, 0);
    assert_int_equal(stream.chain.failed, 1); /* and is left alone */
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(failed_when_called),
        TEST(every_way_to_fail_when_called),
        TEST(rows_of_one_request),
        TEST(failed_append),
        TEST(others_are_unharmed),
        TEST(earlier_one_fails_later),
        TEST(timeouts),
        TEST(waiting_for_the_opening),
        TEST(older_transport),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
