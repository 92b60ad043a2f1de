/* The request context: deadlines, who a log line is about; and the share of each connection in what
 * the node takes at a time. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static struct fixture *with_topic(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    return fix;
}

static struct sti_request from(uint64_t connection)
{
    return (struct sti_request){.struct_size = sizeof(struct sti_request),
                                .principal = "User:anonymous",
                                .client_id = "",
                                .peer = "127.0.0.1:1",
                                .listener = "test",
                                .trace_id = "trace-7",
                                .connection = connection,
                                .deadline_us = UINT64_MAX};
}

static void visit(void *arg, const struct sti_topic_info *topic)
{
    (void)arg;
    (void)topic;
}

static void never_offsets(struct sti_list_offsets *call)
{
    (void)call;
    fail();
}

static void test_late(void **state)
{
    struct fixture *fix = with_topic(state);
    struct sti_request r = from(1);
    struct sti_node_info node;
    struct sti_err err;
    r.deadline_us = sti_now_us(&fix->host);
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.request = &r;
    assert_int_equal(fix->vt->produce(fix->self, &p.call, &err), STI_E_TIMED_OUT);
    assert_string_equal(err.msg, "the deadline passed before the call was begun; it had no effect");
    assert_int_equal(fix->vt->produce(fix->self, &p.call, NULL), STI_E_TIMED_OUT);
    free(p.bytes[0]);
    struct fetch_call f;
    fetch_init(&f, 1000);
    fetch_add(&f, "t", 0, 0);
    f.call.request = &r;
    assert_int_equal(fix->vt->fetch(fix->self, &f.call, &err), STI_E_TIMED_OUT);
    struct sti_list_offsets_row row = {.struct_size = sizeof row, .topic = "t", .timestamp_ms = -1};
    struct sti_list_offsets_row *rows = &row;
    struct sti_list_offsets offsets = {.struct_size = sizeof offsets,
                                       .row_count = 1,
                                       .request = &r,
                                       .rows = &rows,
                                       .done = never_offsets};
    assert_int_equal(fix->vt->list_offsets(fix->self, &offsets, &err), STI_E_TIMED_OUT);
    assert_int_equal(fix->vt->list_topics(fix->self, &r, visit, NULL, &err), STI_E_TIMED_OUT);
    assert_int_equal(fix->vt->describe_topic(fix->self, &r, "t", visit, NULL, &err),
                     STI_E_TIMED_OUT);
    assert_int_equal(fix->vt->find_leader(fix->self, &r, "t", 0, &node, &err), STI_E_TIMED_OUT);
    fix_topic_fn *const fns[] = {fix->vt->create_topic, fix->vt->alter_topic,
                                 fix->vt->delete_topic};
    for (int i = 0; i < 3; i++) {
        struct topic_call t;
        topic_call_init(&t, i == 0 ? "u" : "t", i == 1 ? 3 : 1);
        t.call.request = &r;
        assert_int_equal(topic_call_run(fix, fns[i], &t), STI_E_TIMED_OUT);
    }
    assert_int_equal(fix_partition(fix, "t", 0).log_end, 0); /* nothing of it had an effect */
    assert_int_equal(test_host_metric(fix->th, "streamit_requests_late_total", NULL), 10);
}

/* Acks are not waited for any longer than there is somebody to hear of them, and neither are
 * records. */
static void test_deadline_bounds_waits(void **state)
{
    struct fixture *fix = with_topic(state);
    struct sti_request r = from(1);
    FAKE_SET(fix->fr, hold, true);
    r.deadline_us = sti_now_us(&fix->host) + 30000;
    struct produce_call p;
    produce_init(&p, STI_ACKS_QUORUM);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.timeout_ms = 3600000;
    p.call.request = &r;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_TIMED_OUT);
    produce_fini(&p);
    struct fetch_call f;
    r.deadline_us = sti_now_us(&fix->host) + 30000;
    fetch_init(&f, 300000);
    fetch_add(&f, "t", 0, 0);
    f.call.request = &r;
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].bytes, 0);
    fetch_fini(&f);
}

/* A node that is stopping says when to ask again, whatever is asked. */
static void test_retry_after_while_stopping(void **state)
{
    struct fixture *fix = with_topic(state);
    uint32_t retry = 0;
    struct sti_request r = from(1);
    struct sti_err err;
    r.retry_after_ms = &retry;
    assert_int_equal(sti_broker_plugin.life->drain(fix->self, 1000, &err), STI_OK);
    assert_int_equal(fix->vt->list_topics(fix->self, &r, visit, NULL, &err), STI_E_UNAVAILABLE);
    assert_true(retry > 0);
    r.struct_size = offsetof(struct sti_request, retry_after_ms); /* of an older transport */
    retry = 0;
    assert_int_equal(fix->vt->list_topics(fix->self, &r, visit, NULL, &err), STI_E_UNAVAILABLE);
    assert_int_equal(retry, 0);
}

/* ---- shares -------------------------------------------------------------------------------- */

static int one(struct fixture *fix, struct produce_call *p, const struct sti_request *r, size_t len)
{
    produce_init(p, STI_ACKS_LEADER);
    produce_add(p, "t", 0, 1, len, 0);
    p->call.request = r;
    produce_send(fix, p);
    return p->rows[0].status;
}

static atomic_int resumed;

static void resume(struct sti_admit *admit)
{
    (void)admit;
    atomic_fetch_add(&resumed, 1);
}

static void test_flood_leaves_room(void **state)
{
    enum { LEN = 1000, ROOM = 40, FLOODS = 3 };
    struct fixture *fix = with_topic(state);
    static struct produce_call calls[ROOM * 2], polite, refused;
    struct sti_request floods[FLOODS] = {from(11), from(12), from(13)}, other = from(77);
    int held = 0, each[FLOODS] = {0};
    FAKE_SET(fix->fs, hold_appends, true);
    ((struct broker *)fix->self)->produce_room.limit =
        (uint64_t)ROOM * (LEN + 72 + STI_PRODUCE_ROW_COST);
    for (int f = 0; f < FLOODS; f++) {
        for (;;) { /* as much as the node takes of it */
            bool taken = one(fix, &calls[held], &floods[f], LEN) == STI_OK;
            if (!taken) {
                assert_int_equal(calls[held].rows[0].status, STI_E_THROTTLED);
                assert_string_equal(calls[held].rows[0].err.msg,
                                    "t-0: the connection has its share of inflight_bytes_max in "
                                    "flight");
                assert_true(calls[held].rows[0].retry_after_ms > 0);
                produce_fini(&calls[held]);
                break;
            }
            held++;
            each[f]++;
            assert_true(held < ROOM);
        }
    }
    assert_in_range(each[0], ROOM / 2 - 3, ROOM / 2);
    assert_in_range(each[1], ROOM / 4 - 3, ROOM / 4 + 1); /* of what the first has left */
    assert_true(each[2] >= 2);
    struct sti_admit full = {.bytes = LEN, .resume = resume, .request = &floods[0]};
    struct sti_admit room = {.bytes = LEN, .resume = resume, .request = &other};
    resumed = 0;
    assert_int_equal(fix->vt->admit(fix->self, &full), STI_E_THROTTLED);
    assert_int_equal(fix->vt->admit(fix->self, &room), STI_OK);
    assert_int_equal(one(fix, &polite, &other, LEN), STI_OK); /* in the midst of three floods */
    assert_int_equal(one(fix, &refused, &floods[0], LEN), STI_E_THROTTLED);
    produce_fini(&refused);
    fs_release_appends(fix->fs);
    for (int i = 0; i < held; i++) {
        produce_wait(&calls[i]);
        assert_int_equal(calls[i].rows[0].status, STI_OK);
        produce_fini(&calls[i]);
    }
    produce_wait(&polite);
    produce_fini(&polite);
    assert_int_equal(atomic_load(&resumed), 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_inflight_bytes", NULL), 0);
    assert_int_equal(
        test_host_metric(fix->th, "streamit_produce_throttled_total", "limit=\"share\""), 4);
    struct broker *broker = fix->self;
    for (int row = 0; row < BRK_SHARE_ROWS; row++) {
        for (int i = 0; i < BRK_SHARE_COUNTERS; i++) {
            assert_int_equal(atomic_load(&broker->produce_room.share[row][i]), 0);
        }
    }
}

/* Fetches that wait cost memory too. */
static void test_waiting_fetches_are_bounded(void **state)
{
    enum { ROOM = 20 };
    struct fixture *fix = with_topic(state);
    static struct fetch_call calls[ROOM + 1], refused, polite;
    struct sti_request flood = from(5), other = from(6);
    struct broker *broker = fix->self;
    broker->fetch_room.limit = ROOM;
    int held = 0;
    for (;; held++) {
        assert_true(held <= ROOM);
        fetch_init(&calls[held], 60000);
        fetch_add(&calls[held], "t", 0, 0);
        calls[held].call.request = &flood;
        fetch_send(fix, &calls[held]);
        if (calls[held].rows[0].status == STI_E_THROTTLED) {
            break;
        }
    }
    assert_int_equal(held, ROOM / 2);
    assert_string_equal(calls[held].rows[0].err.msg,
                        "t-0: the connection has its share of fetch_partitions_max under way");
    assert_true(calls[held].rows[0].retry_after_ms > 0);
    fetch_init(&polite, 60000);
    for (int i = 0; i < FIX_ROWS; i++) {
        fetch_add(&polite, "t", 0, 0);
    }
    polite.call.request = &other;
    fetch_send(fix, &polite); /* as much as is there, at once */
    fix_wait_parked(fix, ROOM / 2 + 1);
    fetch_init(&refused, 0);
    for (int i = 0; i < FIX_ROWS; i++) {
        fetch_add(&refused, "t", 0, 0);
    }
    fetch_send(fix, &refused);
    assert_int_equal(refused.rows[0].status, STI_E_THROTTLED);
    assert_string_equal(refused.rows[0].err.msg, "t-0: the node has as many partitions to fetch as "
                                                 "fetch_partitions_max allows");
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0); /* wakes all of them */
    for (int i = 0; i < held; i++) {
        fetch_wait(&calls[i]);
        fetch_fini(&calls[i]);
    }
    fetch_wait(&polite);
    fetch_fini(&polite);
    fetch_fini(&refused);
    fetch_fini(&calls[held]);
    fix_wait_metric(fix, "streamit_fetch_partitions_in_flight", 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_fetch_throttled_total", "limit=\"share\""),
                     1);
    assert_int_equal(test_host_metric(fix->th, "streamit_fetch_throttled_total",
                                      "limit=\"fetch_partitions_max\""),
                     1);
}

static void test_share_can_be_off(void **state)
{
    struct fixture *fix = with_topic(state);
    struct produce_call a, b;
    struct sti_request r = from(1);
    FAKE_SET(fix->fs, hold_appends, true);
    ((struct broker *)fix->self)->produce_room.limit = 6000;
    fix->conf.inflight_share_percent = 0;
    assert_int_equal(one(fix, &a, &r, 1300), STI_OK);
    assert_int_equal(one(fix, &b, &r, 1300), STI_OK);
    fs_release_appends(fix->fs);
    produce_fini(&a);
    produce_fini(&b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(late),
        TEST(deadline_bounds_waits),
        TEST(retry_after_while_stopping),
        TEST(flood_leaves_room),
        TEST(share_can_be_off),
        TEST(waiting_fetches_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
