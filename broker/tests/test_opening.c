/* test_opening.c -- a node that serves while its partitions are still being opened. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fixture.h"

enum { TOPICS = 8 };

static const char *const names[TOPICS] = {"a", "b", "c", "d", "e", "f", "g", "h"};

static pthread_mutex_t health_mu = PTHREAD_MUTEX_INITIALIZER;
static char health[128]; /* what /ready would list */

static void on_health(void *ctx, const char *condition, int level, const char *detail)
{
    (void)ctx;
    pthread_mutex_lock(&health_mu);
    if (strcmp(condition, "opening_partitions") == 0) {
        snprintf(health, sizeof health, "%s", level == STI_HEALTH_OK ? "" : detail);
    }
    pthread_mutex_unlock(&health_mu);
}

static void assert_health(const char *expected)
{
    pthread_mutex_lock(&health_mu);
    assert_string_equal(health, expected);
    pthread_mutex_unlock(&health_mu);
}

static int setup(void **state)
{
    struct fixture *fix = fix_new();
    fix->conf.opening_parallel = 2; /* one in the background, one place for who asks */
    fix->host.health = on_health;
    fix_start(fix);
    *state = fix;
    return 0;
}

/* Topics with two partitions each, three records in partition 0, and a start of which every open of
 * `held` (NULL: of all) waits. */
static struct fixture *restarted(void **state, const char *held, const char *key, const char *value)
{
    struct fixture *fix = *state;
    for (int i = 0; i < TOPICS; i++) {
        assert_int_equal(fix_create(fix, names[i], 2, key, value), STI_OK);
        fix_produce(fix, names[i], 0, 3);
    }
    fix_stop(fix);
    pthread_mutex_lock(&fix->fs->mu);
    fix->fs->hold_opens = true;
    fix->fs->hold_topic = held;
    fix->fs->opens_begun = 0;
    pthread_mutex_unlock(&fix->fs->mu);
    fix->lazy = true;
    fix_start(fix);
    return fix;
}

static void release(struct fixture *fix)
{
    FAKE_SET(fix->fs, hold_opens, false);
}

static void produce_start(struct fixture *fix, struct produce_call *p, const char *topic, int acks)
{
    produce_init(p, acks);
    produce_add(p, topic, 0, 2, 10, 0);
    produce_send(fix, p);
}

static void fetch_start(struct fixture *fix, struct fetch_call *f, const char *topic,
                        uint32_t wait_ms)
{
    fetch_init(f, wait_ms);
    fetch_add(f, topic, 0, 0);
    fetch_send(fix, f);
}

struct offsets_call {
    struct sti_list_offsets call;
    struct sti_list_offsets_row row, *row_ptr;
    struct flag done;
};

static void offsets_done(struct sti_list_offsets *call)
{
    flag_raise(&((struct offsets_call *)call->user)->done);
}

static void offsets_start(struct fixture *fix, struct offsets_call *o, const char *topic)
{
    struct sti_err err;
    *o = (struct offsets_call){
        .call = {.struct_size = sizeof o->call, .row_count = 1, .done = offsets_done},
        .row = {.struct_size = sizeof o->row, .topic = topic, .timestamp_ms = STI_OFFSET_LATEST}};
    o->row_ptr = &o->row;
    o->call.rows = &o->row_ptr;
    o->call.user = o;
    assert_int_equal(fix->vt->list_offsets(fix->self, &o->call, &err), STI_OK);
}

struct await_call {
    struct sti_await call;
    struct flag done;
};

static void await_done(struct sti_await *call)
{
    flag_raise(&((struct await_call *)call->user)->done);
}

static void await_start(struct fixture *fix, struct await_call *a, const char *topic)
{
    struct sti_err err;
    *a = (struct await_call){
        .call = {.struct_size = sizeof a->call, .topic = topic, .done = await_done}};
    a->call.user = a;
    assert_int_equal(fix->vt->await_topic(fix->self, &a->call, &err), STI_OK);
}

static int position_of(struct fixture *fix, const char *topic)
{
    int at = -1;
    pthread_mutex_lock(&fix->fs->mu);
    for (unsigned i = 0; i < fix->fs->opens_begun && i < 32 && at < 0; i++) {
        at = strcmp(fix->fs->opened[i], topic) == 0 ? (int)i : -1;
    }
    pthread_mutex_unlock(&fix->fs->mu);
    return at;
}

/* ---- order --------------------------------------------------------------------------------- */

static void test_a_touch_goes_first(void **state)
{
    struct fixture *fix = restarted(state, NULL, NULL, NULL);
    struct produce_call g, h;
    fs_wait(fix->fs, &fix->fs->opens_begun, 1); /* of the background */
    test_host_settle(fix->th, NULL);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_begun), 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_opening", NULL), 2 * TOPICS);
    assert_health("16 of 16 partitions are still to be opened; one that is asked for goes first");
    const char *first = strcmp(fix->fs->opened[0], "h") == 0 ? "a" : "h";
    const char *second = strcmp(fix->fs->opened[0], "g") == 0 ? "a" : "g";
    produce_start(fix, &g, first, STI_ACKS_LEADER); /* has a place of its own */
    fs_wait(fix->fs, &fix->fs->opens_begun, 2);
    assert_int_equal(position_of(fix, first), 1);
    produce_start(fix, &h, second, STI_ACKS_LEADER); /* before the rest of the background */
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_begun), 2);
    release(fix);
    produce_wait(&g);
    produce_wait(&h);
    assert_int_equal(g.rows[0].base_offset, 3);
    assert_int_equal(h.rows[0].base_offset, 3);
    assert_true(position_of(fix, second) <= 3);
    fix_wait_idle(fix);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_opening", NULL), 0);
    assert_health("");
    assert_int_equal(test_host_logged(fix->th, "recovery_done"), 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_begun), 2 * TOPICS);
    produce_fini(&g);
    produce_fini(&h);
}

/* A long recovery in the background holds up nobody who asks for something else. */
static void test_a_long_recovery_holds_up_nobody(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "long", 2, NULL, NULL), STI_OK);
    restarted(state, "long", NULL, NULL);
    for (int i = 0; i < TOPICS; i++) {
        assert_int_equal(fix_produce(fix, names[i], 0, 1), 3);
        assert_int_equal(fix_partition(fix, names[i], 0).high_watermark, 4);
    }
    assert_int_equal(fix_create(fix, "new", 3, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "new", 2, 1), 0);
    assert_int_equal(fix_partition(fix, "long", 0).status, STI_E_UNAVAILABLE);
    release(fix);
    fix_wait_idle(fix);
    assert_int_equal(fix_partition(fix, "long", 0).status, STI_OK);
}

/* ---- calls that wait ------------------------------------------------------------------------ */

static void test_rows_are_answered_in_order(void **state)
{
    enum { CALLS = 12 };
    struct fixture *fix = restarted(state, "c", NULL, NULL);
    struct produce_call p[CALLS];
    for (int i = 0; i < CALLS; i++) {
        produce_start(fix, &p[i], "c", i % 2 == 0 ? STI_ACKS_LEADER : STI_ACKS_QUORUM);
    }
    fs_wait(fix->fs, &fix->fs->opens_begun, 1);
    for (int i = 0; i < CALLS; i++) {
        assert_int_equal(flag_get(&p[i].done), 0);
    }
    release(fix);
    for (int i = 0; i < CALLS; i++) {
        produce_wait(&p[i]);
        assert_int_equal(p[i].rows[0].status, STI_OK);
        assert_int_equal(p[i].rows[0].base_offset, 3 + 2 * i);
        produce_fini(&p[i]);
    }
    assert_int_equal(fs_check_dense(fix->fs, "c", 0), 3 + 2 * CALLS);
}

static void test_fetches_and_looks_wait(void **state)
{
    struct fixture *fix = restarted(state, "d", NULL, NULL);
    struct fetch_call now, later;
    struct offsets_call o;
    struct await_call a;
    fetch_start(fix, &now, "d", 0); /* would not wait for records, but does for the opening */
    fetch_start(fix, &later, "d", 60000);
    offsets_start(fix, &o, "d");
    await_start(fix, &a, "d");
    fix_wait_parked(fix, 2);
    test_host_settle(fix->th, NULL);
    assert_int_equal(
        flag_get(&now.done) + flag_get(&later.done) + flag_get(&o.done) + flag_get(&a.done), 0);
    release(fix);
    fetch_wait(&now);
    fetch_wait(&later);
    flag_wait(&o.done, 1);
    flag_wait(&a.done, 1);
    assert_int_equal(now.rows[0].status, STI_OK);
    assert_int_equal(now.rows[0].slice_count, 1);
    assert_int_equal(later.rows[0].slice_count, 1);
    assert_int_equal(o.row.status, STI_OK);
    assert_int_equal(o.row.offset, 3);
    assert_int_equal(fix_partition(fix, "d", 0).high_watermark, 3);
    assert_int_equal(fix_partition(fix, "d", 1).status, STI_OK); /* of the whole topic */
    fetch_fini(&now);
    fetch_fini(&later);
    await_start(fix, &a, "nope"); /* no error: describe says it */
    flag_wait(&a.done, 1);
}

/* Woken by the opening, a fetch at the end of the log goes on waiting for records. */
static void test_a_fetch_waits_for_both(void **state)
{
    struct fixture *fix = restarted(state, "d", NULL, NULL);
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "d", 0, 3);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    release(fix);
    fix_wait_idle(fix);
    fix_wait_parked(fix, 1);
    assert_int_equal(flag_get(&f.done), 0);
    assert_int_equal(fix_produce(fix, "d", 0, 1), 3);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
}

static void test_the_wait_is_bounded(void **state)
{
    struct fixture *fix = *state;
    struct fetch_call alone, both;
    struct offsets_call o;
    struct await_call a;
    struct produce_call p;
    fix->conf.opening_wait_max_ms = 30;
    restarted(state, "d", NULL, NULL);
    fix_produce(fix, "a", 0, 1);
    fetch_start(fix, &alone, "d", 0);
    fetch_init(&both, 20); /* its own patience ends before the node's */
    fetch_add(&both, "d", 0, 0);
    fetch_add(&both, "a", 0, 0);
    fetch_send(fix, &both); /* what is there is not held back */
    fetch_wait(&both);
    assert_int_equal(both.rows[0].status, STI_E_UNAVAILABLE);
    assert_string_equal(both.rows[0].err.msg, "d-0 is still being opened");
    assert_int_equal(both.rows[1].slice_count, 2);
    offsets_start(fix, &o, "d");
    await_start(fix, &a, "d");
    produce_init(&p, STI_ACKS_LEADER);
    p.call.timeout_ms = 40;
    produce_add(&p, "d", 0, 1, 10, 0);
    produce_send(fix, &p);
    fetch_wait(&alone);
    flag_wait(&o.done, 1);
    flag_wait(&a.done, 1);
    produce_wait(&p);
    assert_int_equal(alone.rows[0].status, STI_E_UNAVAILABLE);
    assert_int_equal(o.row.status, STI_E_UNAVAILABLE);
    assert_int_equal(p.rows[0].status, STI_E_TIMED_OUT);
    fetch_fini(&alone);
    fetch_fini(&both);
    produce_fini(&p);
    release(fix);
    fix_wait_idle(fix);
    assert_int_equal(fix_partition(fix, "d", 0).log_end, 3); /* the row was taken back in time */
}

static void test_a_cancelled_fetch_leaves(void **state)
{
    struct fixture *fix = restarted(state, "d", NULL, NULL);
    struct fetch_call f;
    fetch_start(fix, &f, "d", 60000);
    fix_wait_parked(fix, 1);
    fix->vt->fetch_cancel(fix->self, &f.call);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_CANCELLED);
    fetch_fini(&f);
    release(fix);
}

/* Nobody can say before the partition is open how many replicas are in sync. */
static void test_quorum_is_asked_when_open(void **state)
{
    struct fixture *fix = *state;
    struct produce_call quorum, leader;
    FAKE_SET(fix->fr, in_sync, 2);
    restarted(state, NULL, "min.insync.replicas", "2");
    FAKE_SET(fix->fr, in_sync, 1);
    produce_start(fix, &quorum, "c", STI_ACKS_QUORUM);
    produce_start(fix, &leader, "c", STI_ACKS_LEADER);
    assert_int_equal(flag_get(&quorum.done), 0);
    release(fix);
    produce_wait(&quorum);
    produce_wait(&leader);
    assert_int_equal(quorum.rows[0].status, STI_E_NOT_ENOUGH_REPLICAS);
    assert_int_equal(leader.rows[0].status, STI_OK);
    assert_int_equal(leader.rows[0].base_offset, 3);
    produce_fini(&quorum);
    produce_fini(&leader);
}

/* ---- failures, changes, ends ----------------------------------------------------------------- */

static void test_a_failure_is_its_own(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    struct fetch_call f;
    struct offsets_call o;
    fix->fs->open_topic = "e";
    restarted(state, "e", NULL, NULL);
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    produce_start(fix, &p, "e", STI_ACKS_LEADER);
    fetch_start(fix, &f, "e", 60000);
    offsets_start(fix, &o, "e");
    release(fix);
    produce_wait(&p);
    fetch_wait(&f);
    flag_wait(&o.done, 1);
    assert_int_equal(p.rows[0].status, STI_E_IO);
    assert_string_equal(p.rows[0].err.msg, "the fake does not open");
    assert_int_equal(f.rows[0].status, STI_E_IO);
    assert_int_equal(o.row.status, STI_E_IO);
    produce_fini(&p);
    fetch_fini(&f);
    fix_wait_idle(fix);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 2);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_opening", NULL), 0);
    for (int i = 0; i < TOPICS; i++) {
        if (strcmp(names[i], "e") != 0) {
            assert_int_equal(fix_produce(fix, names[i], 0, 1), 3);
        }
    }
    FAKE_SET(fix->fs, open_status, STI_OK);
}

static void test_deleted_while_it_waits(void **state)
{
    struct fixture *fix = restarted(state, NULL, NULL, NULL);
    struct produce_call p;
    struct fetch_call f;
    struct topic_call t;
    fs_wait(fix->fs, &fix->fs->opens_begun, 1);
    const char *running = fix->fs->opened[0];
    const char *urgent = strcmp(running, "b") == 0 ? "a" : "b";
    const char *queued = strcmp(running, "c") == 0 ? "a" : "c";
    produce_start(fix, &p, urgent, STI_ACKS_LEADER); /* its open begins, and is held */
    fetch_start(fix, &f, urgent, 60000);
    fs_wait(fix->fs, &fix->fs->opens_begun, 2);
    /* One whose open has not begun: nothing is opened, everything is removed. */
    assert_int_equal(fix_delete(fix, queued), STI_OK);
    assert_false(fs_has(fix->fs, queued, 0));
    assert_false(fs_has(fix->fs, queued, 1));
    assert_int_equal(position_of(fix, queued), -1);
    /* One that is being opened: its recovery is given up. */
    topic_call_init(&t, urgent, -1);
    assert_int_equal(topic_call_run(fix, fix->vt->delete_topic, &t), STI_OK);
    produce_wait(&p);
    fetch_wait(&f);
    assert_int_equal(p.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(f.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_cancelled), 1);
    assert_false(fs_has(fix->fs, urgent, 0));
    produce_fini(&p);
    fetch_fini(&f);
    release(fix);
    assert_int_equal(fix_create(fix, urgent, 1, NULL, NULL), STI_OK); /* the name is free */
    assert_int_equal(fix_produce(fix, urgent, 0, 1), 0);
    fix_wait_idle(fix);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_opening", NULL), 0);
}

static void test_altered_while_it_waits(void **state)
{
    struct fixture *fix = restarted(state, "long", NULL, NULL);
    FAKE_SET(fix->fs, hold_topic, NULL); /* from here on */
    struct topic_call t;
    release(fix);
    fix_wait_idle(fix);
    fix_stop(fix);
    FAKE_SET(fix->fs, hold_opens, true);
    FAKE_SET(fix->fs, opens_begun, 0);
    fix_start(fix);
    fs_wait(fix->fs, &fix->fs->opens_begun, 1);
    const char *name = strcmp(fix->fs->opened[0], "f") == 0 ? "a" : "f";
    topic_call_init(&t, name, 3);
    topic_call_set(&t, "flush.policy", "commit");
    topic_call_set(&t, "segment.bytes", "65536");
    topic_call_send(fix, fix->vt->alter_topic, &t);
    release(fix);
    flag_wait(&t.done, 1);
    assert_int_equal(t.call.status, STI_OK);
    FAKE_SET(fix->fs, auto_sync, true);
    struct produce_call p;
    produce_start(fix, &p, name, STI_ACKS_LEADER);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_OK);
    assert_int_equal(p.rows[0].replicas_synced, 1); /* it went by what is synced */
    produce_fini(&p);
    assert_int_equal(fix_partition(fix, name, 2).status, STI_OK);
}

/* A stop opens nothing more, and gives up what is being recovered. */
static void test_stopped_while_they_wait(void **state)
{
    struct fixture *fix = restarted(state, NULL, NULL, NULL);
    struct produce_call p;
    struct fetch_call f;
    struct offsets_call o;
    fs_wait(fix->fs, &fix->fs->opens_begun, 1);
    const char *name = strcmp(fix->fs->opened[0], "h") == 0 ? "a" : "h";
    produce_start(fix, &p, name, STI_ACKS_LEADER);
    fetch_start(fix, &f, name, 60000);
    offsets_start(fix, &o, name);
    fs_wait(fix->fs, &fix->fs->opens_begun, 2);
    struct sti_err err;
    assert_int_equal(sti_broker_plugin.life->drain(fix->self, 1000, &err), STI_OK);
    produce_wait(&p); /* what waits for an opening is answered first: a transport waits for it */
    fetch_wait(&f);
    flag_wait(&o.done, 1);
    assert_int_equal(p.rows[0].status, STI_E_UNAVAILABLE); /* so that it is sent again */
    assert_int_equal(f.rows[0].status, STI_E_UNAVAILABLE);
    assert_int_equal(o.row.status, STI_E_UNAVAILABLE);
    fix_stop(fix); /* no open was released */
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_begun), 2);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_cancelled), 2);
    produce_fini(&p);
    fetch_fini(&f);
    release(fix);
    fix->lazy = false;
    fix_start(fix);
    assert_int_equal(fix_produce(fix, "h", 0, 1), 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_touch_goes_first),         TEST(a_long_recovery_holds_up_nobody),
        TEST(rows_are_answered_in_order), TEST(fetches_and_looks_wait),
        TEST(a_fetch_waits_for_both),     TEST(the_wait_is_bounded),
        TEST(a_cancelled_fetch_leaves),   TEST(quorum_is_asked_when_open),
        TEST(a_failure_is_its_own),       TEST(deleted_while_it_waits),
        TEST(altered_while_it_waits),     TEST(stopped_while_they_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
