/* test_deletion.c -- a topic that goes while calls on it are under way. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fixture.h"

static struct fixture *with_topic(void **state, const char *key, const char *value)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, key, value), STI_OK);
    return fix;
}

static void start(struct fixture *fix, struct produce_call *p, int acks)
{
    produce_init(p, acks);
    produce_add(p, "t", 0, 1, 10, 0);
    produce_send(fix, p);
}

static void delete_start(struct fixture *fix, struct topic_call *t)
{
    topic_call_init(t, "t", -1);
    topic_call_send(fix, fix->vt->delete_topic, t);
}

static void test_wakes_fetches(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct fetch_call f;
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_string_equal(f.rows[0].err.msg, "topic t is being deleted");
    fetch_fini(&f);
    assert_false(fs_has(fix->fs, "t", 0));
    assert_int_equal(fix_delete(fix, "t"), STI_E_UNKNOWN_TOPIC);
}

/* The name is free when the call is answered, and its successor is another topic. */
static void test_create_anew(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(fix_produce(fix, "t", 0, 2), 0);
        assert_int_equal(fix_delete(fix, "t"), STI_OK);
        assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    }
    assert_int_equal(fs_get(fix->fs, &fix->fs->removes), 1 + 29 * 2);
}

/* Rows in every state: queued, appending, waiting. Storage answers for what it holds. */
static void test_rows_in_every_state(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call waiting, appending, queued;
    struct topic_call t;
    start(fix, &waiting, STI_ACKS_QUORUM);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    FAKE_SET(fix->fs, hold_appends, true);
    start(fix, &appending, STI_ACKS_NONE);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    start(fix, &queued, STI_ACKS_NONE);
    delete_start(fix, &t);
    produce_wait(&waiting);
    produce_wait(&queued);
    assert_int_equal(waiting.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(queued.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_string_equal(queued.rows[0].err.msg, "t-0 is being deleted");
    assert_int_equal(flag_get(&appending.done), 0);
    assert_int_equal(flag_get(&t.done), 0);
    fs_release_appends(fix->fs);
    produce_wait(&appending);
    assert_int_equal(appending.rows[0].status, STI_OK);
    flag_wait(&t.done, 1);
    assert_int_equal(t.call.status, STI_OK);
    produce_fini(&waiting);
    produce_fini(&appending);
    produce_fini(&queued);
}

/* An append that ends after the deletion and then waits for an ack that will never come. */
static void test_last_append_is_answered(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    struct topic_call t;
    FAKE_SET(fix->fr, hold, true);
    FAKE_SET(fix->fs, hold_appends, true);
    start(fix, &p, STI_ACKS_QUORUM);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    delete_start(fix, &t);
    fs_release_appends(fix->fs);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_UNKNOWN_TOPIC);
    produce_fini(&p);
    flag_wait(&t.done, 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 0);
}

/* Storage stays open under a read; the deletion waits for it without holding a thread. */
static void test_reads_under_way(void **state)
{
    enum { READS = 8 }; /* more than the host has threads */
    struct fixture *fix = *state;
    struct fetch_call f[READS];
    struct topic_call t[READS];
    char names[READS][8];
    for (int i = 0; i < READS; i++) {
        snprintf(names[i], sizeof names[i], "r%d", i);
        assert_int_equal(fix_create(fix, names[i], 1, NULL, NULL), STI_OK);
        fix_produce(fix, names[i], 0, 1);
    }
    FAKE_SET(fix->fs, hold_reads, true);
    for (int i = 0; i < READS; i++) {
        fetch_init(&f[i], 0);
        fetch_add(&f[i], names[i], 0, 0);
        fetch_send(fix, &f[i]);
        topic_call_init(&t[i], names[i], -1);
        topic_call_send(fix, fix->vt->delete_topic, &t[i]);
    }
    test_host_settle(fix->th, NULL);
    for (int i = 0; i < READS; i++) {
        assert_int_equal(flag_get(&t[i].done), 0);
    }
    assert_int_equal(fs_release_reads(fix->fs), READS);
    for (int i = 0; i < READS; i++) {
        fetch_wait(&f[i]);
        assert_int_equal(f[i].rows[0].slice_count, 1);
        flag_wait(&t[i].done, 1);
        assert_int_equal(t[i].call.status, STI_OK);
        fetch_fini(&f[i]); /* the slice outlives the topic */
    }
}

static void test_close_fails(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    FAKE_SET(fix->fs, close_status, STI_E_IO);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    assert_false(fs_has(fix->fs, "t", 0));
    assert_int_equal(test_host_logged(fix->th, "partition_close_failed"), 1);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
}

static void test_remove_fails(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct topic_call t;
    FAKE_SET(fix->fs, remove_status, STI_E_IO);
    topic_call_init(&t, "t", -1);
    assert_int_equal(topic_call_run(fix, fix->vt->delete_topic, &t), STI_E_IO);
    assert_string_equal(t.call.err.msg, "the fake does not remove");
    topic_call_init(&t, "t", 1);
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_E_UNAVAILABLE);
    assert_string_equal(t.call.err.msg, "topic t: its predecessor is still being deleted");
    FAKE_SET(fix->fs, remove_status, STI_OK); /* the next start goes on with it */
    fix_restart(fix);
    assert_false(fs_has(fix->fs, "t", 0));
    fix_wait_metric(fix, "streamit_topics", 0);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
}

/* ---- what runs inside done
 * ----------------------------------------------------------------------- */

static int admin_free; /* 0: a lock of the broker was held */

static void done_looks_for_locks(struct sti_produce *call)
{
    struct produce_call *p = call->user;
    struct broker *broker = NULL;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    memcpy(&broker, p->rows[7].topic_id, sizeof broker);
    admin_free = pthread_mutex_timedlock(&broker->admin_mu, &until) == 0;
    if (admin_free) {
        pthread_mutex_unlock(&broker->admin_mu);
    }
    flag_raise(&p->done);
}

static void test_no_lock_across_done(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.done = done_looks_for_locks;
    memcpy(p.rows[7].topic_id, &fix->self, sizeof fix->self);
    produce_send(fix, &p);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    produce_fini(&p);
    assert_true(admin_free);
}

/* ---- stopping
 * ------------------------------------------------------------------------------------ */

static void test_stop_with_rows(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call waiting, saved;
    start(fix, &waiting, STI_ACKS_LEADER);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    fix_stop(fix);
    /* Written, but nothing told: the outcome is unknown, and no "nothing was done". */
    assert_int_equal(waiting.rows[0].status, STI_E_TIMED_OUT);
    assert_true((waiting.rows[0].err.traits & STI_TRAIT_INDEFINITE) != 0);
    produce_fini(&waiting);
    fix_start(fix);
    FAKE_SET(fix->fs, sync_on_close, true);
    start(fix, &saved, STI_ACKS_LEADER);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    fix_stop(fix);
    assert_int_equal(saved.rows[0].status, STI_OK); /* the close has synced it */
    produce_fini(&saved);
}

static void test_slow_health(void *ctx, const char *condition, int level, const char *detail)
{
    const struct timespec moment = {.tv_nsec = 2000000};
    (void)ctx;
    (void)condition;
    (void)level;
    (void)detail;
    nanosleep(&moment, NULL);
}

/* Whatever a closing partition still does, it does before the stop returns. */
static void test_stop_waits_for_the_last_word(void **state)
{
    struct fixture *fix = *state;
    fix->host.health = test_slow_health;
    fix->conf.retention_check_interval_ms = 10;
    assert_int_equal(fix_create(fix, "t", 4, NULL, NULL), STI_OK);
    for (int i = 0; i < 5; i++) {
        fix_restart(fix);
    }
    assert_int_equal(fix_produce(fix, "t", 3, 1), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(wakes_fetches),       TEST(create_anew),
        TEST(rows_in_every_state), TEST(last_append_is_answered),
        TEST(reads_under_way),     TEST(close_fails),
        TEST(remove_fails),        TEST(no_lock_across_done),
        TEST(stop_with_rows),      TEST(stop_waits_for_the_last_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
