/* test_acks.c -- when an append is acknowledged, and what becomes of it when it cannot be. */
#include <stdlib.h>
#include <string.h>

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

static void ends(struct produce_call *p, int status)
{
    produce_wait(p);
    assert_int_equal(p->rows[0].status, status);
    produce_fini(p);
}

static void test_none_and_leader(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call none, leader;
    FAKE_SET(fix->fr, hold, true);
    start(fix, &none, STI_ACKS_NONE);
    ends(&none, STI_OK);
    start(fix, &leader, STI_ACKS_LEADER);
    produce_wait(&leader);
    assert_int_equal(leader.rows[0].base_offset, 1);
    assert_int_equal(leader.rows[0].leader_epoch, 0);
    assert_int_equal(leader.rows[0].replicas, 1);
    assert_int_equal(leader.rows[0].replicas_synced, 0);
    assert_int_equal(leader.rows[0].log_start, 0);
    ends(&leader, STI_OK);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 0);
    assert_int_equal(fix_partition(fix, "t", 0).log_end, 2);
}

static void test_quorum_waits_for_the_watermark(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call quorum, leader;
    FAKE_SET(fix->fr, hold, true);
    start(fix, &quorum, STI_ACKS_QUORUM);
    start(fix, &leader, STI_ACKS_LEADER);
    ends(&leader, STI_OK); /* written behind the other one */
    assert_int_equal(flag_get(&quorum.done), 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 1);
    FAKE_SET(fix->fr, replicas, 3);
    FAKE_SET(fix->fr, replicas_synced, 2);
    fr_release(fix->fr);
    produce_wait(&quorum);
    assert_int_equal(quorum.rows[0].replicas, 3);
    ends(&quorum, STI_OK);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 0);
}

static void test_commit_waits_for_the_sync(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call leader, quorum;
    assert_int_equal(fix->fs->settings.flush_policy, STI_FLUSH_COMMIT);
    start(fix, &leader, STI_ACKS_LEADER);
    start(fix, &quorum, STI_ACKS_QUORUM);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 2);
    assert_int_equal(flag_get(&leader.done) + flag_get(&quorum.done), 0);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 0);
    fs_sync(fix->fs, "t", 0);
    produce_wait(&leader);
    assert_int_equal(leader.rows[0].replicas_synced, 1);
    ends(&leader, STI_OK);
    ends(&quorum, STI_OK);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 2);
}

/* Weaker durability releases those that waited for a sync. */
static void test_policy_change_releases(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call p;
    FAKE_SET(fix->fr, hold, true);
    start(fix, &p, STI_ACKS_LEADER);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    assert_int_equal(fix_alter(fix, "t", -1, "flush.policy", "onroll"), STI_OK);
    ends(&p, STI_OK);
}

/* Weaker and at once stronger again: while the strand still takes over the first change, the second
 * one was confirmed, and holds. */
static void test_policy_changes_overtake_nothing(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call before, after;
    FAKE_SET(fix->fs, hold_configures, true);
    assert_int_equal(fix_alter(fix, "t", -1, "flush.policy", "onroll"), STI_OK);
    fs_wait(fix->fs, &fix->fs->configures_begun, 1);
    start(fix, &before, STI_ACKS_NONE); /* posted between the two */
    assert_int_equal(fix_alter(fix, "t", -1, "flush.policy", "commit"), STI_OK);
    start(fix, &after, STI_ACKS_LEADER);
    FAKE_SET(fix->fs, hold_configures, false);
    fs_wait(fix->fs, &fix->fs->configures, 2);
    fix_settle(fix, "t", 0);
    ends(&before, STI_OK);
    assert_int_equal(flag_get(&after.done), 0);
    fs_sync(fix->fs, "t", 0);
    produce_wait(&after);
    assert_int_equal(after.rows[0].replicas_synced, 1);
    ends(&after, STI_OK);
}

static void test_floors(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.replicas_synced_min = 1;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_string_equal(p.rows[0].err.msg,
                        "t-0: appended at 0, but on 1 replicas, 0 of them synced; asked for 0 and "
                        "1");
    ends(&p, STI_E_REPLICAS_LOST);
    produce_init(&p, STI_ACKS_QUORUM);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.replicas_min = 2;
    produce_send(fix, &p);
    ends(&p, STI_E_REPLICAS_LOST);
    FAKE_SET(fix->fs, auto_sync, true);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.replicas_min = p.call.replicas_synced_min = 1;
    produce_send(fix, &p);
    ends(&p, STI_OK);
}

static void test_min_insync(void **state)
{
    struct fixture *fix = with_topic(state, "min.insync.replicas", "2");
    struct produce_call p;
    FAKE_SET(fix->fr, reenter, true); /* a plugin may call the broker back: no lock is held */
    start(fix, &p, STI_ACKS_QUORUM);
    produce_wait(&p);
    assert_string_equal(p.rows[0].err.msg, "t-0: 1 replicas are in sync, min.insync.replicas is 2");
    ends(&p, STI_E_NOT_ENOUGH_REPLICAS);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 0);
    start(fix, &p, STI_ACKS_LEADER);
    ends(&p, STI_OK);
    FAKE_SET(fix->fr, in_sync, 2);
    start(fix, &p, STI_ACKS_QUORUM);
    ends(&p, STI_OK);
    /* An alteration counts from its answer on. */
    FAKE_SET(fix->fr, in_sync, 1);
    assert_int_equal(fix_alter(fix, "t", -1, "min.insync.replicas", "1"), STI_OK);
    start(fix, &p, STI_ACKS_QUORUM);
    ends(&p, STI_OK);
}

/* ---- timeouts
 * ------------------------------------------------------------------------------------ */

static void test_timeout_while_queued_and_appending(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call appending, queued;
    FAKE_SET(fix->fs, hold_appends, true);
    produce_init(&appending, STI_ACKS_LEADER);
    produce_add(&appending, "t", 0, 1, 10, 0);
    appending.call.timeout_ms = 1;
    produce_send(fix, &appending);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    produce_init(&queued, STI_ACKS_LEADER);
    produce_add(&queued, "t", 0, 1, 10, 0);
    queued.call.timeout_ms = 2;
    produce_send(fix, &queued);
    produce_wait(&queued);
    assert_string_equal(queued.rows[0].err.msg, "t-0: not acknowledged within 2 ms; the records "
                                                "may be stored");
    ends(&queued, STI_E_TIMED_OUT);
    /* Storage holds the bytes of the other: its time is up, but it is not answered. */
    test_host_settle(fix->th, NULL);
    assert_int_equal(flag_get(&appending.done), 0);
    fs_release_appends(fix->fs);
    ends(&appending, STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 1);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 2);
}

static void test_timeout_while_waiting(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call p;
    produce_init(&p, STI_ACKS_QUORUM);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.timeout_ms = 1;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_true((p.rows[0].err.traits & STI_TRAIT_INDEFINITE) != 0);
    ends(&p, STI_E_TIMED_OUT);
    fs_sync(fix->fs, "t", 0); /* nobody waits any more */
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 0);
}

/* ---- storage fails
 * ------------------------------------------------------------------------------- */

static void test_errors_pass_through(void **state)
{
    static const int codes[] = {STI_E_DISK_FULL, STI_E_IO, STI_E_RESOURCE_EXHAUSTED,
                                STI_E_POISONED};
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    assert_int_equal(fix_produce(fix, "t", 0, 2), 0);
    FAKE_SET(fix->fs, bytes_needed, 4711);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        FAKE_SET(fix->fs, append_status, codes[i]);
        start(fix, &p, STI_ACKS_LEADER);
        produce_wait(&p);
        assert_int_equal(p.rows[0].bytes_needed, codes[i] == STI_E_DISK_FULL ? 4711 : 0);
        assert_int_equal(p.rows[0].base_offset, -1);
        assert_non_null(strstr(p.rows[0].err.msg, "the fake refuses"));
        ends(&p, codes[i]);
    }
    FAKE_SET(fix->fs, append_status, STI_OK);
    FAKE_SET(fix->fs, append_refuse, STI_E_POISONED);
    start(fix, &p, STI_ACKS_LEADER);
    produce_wait(&p);
    assert_non_null(strstr(p.rows[0].err.msg, "t-0: storage refuses the append: "));
    ends(&p, STI_E_POISONED);
    FAKE_SET(fix->fs, append_refuse, STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 2); /* no offset was lost */
}

static void test_poison(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call waiting, late;
    start(fix, &waiting, STI_ACKS_LEADER);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    fs_fail(fix->fs, "t", 0);
    produce_wait(&waiting);
    assert_string_equal(waiting.rows[0].err.msg,
                        "t-0 is poisoned; the records may be stored: see the node's log");
    ends(&waiting, STI_E_IO);
    start(fix, &late, STI_ACKS_LEADER);
    produce_wait(&late);
    assert_string_equal(late.rows[0].err.msg, "t-0 takes no appends until it is reopened: "
                                              "fdatasync: the fake has failed");
    ends(&late, STI_E_POISONED);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_POISONED);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 1);
    assert_int_equal(test_host_logged(fix->th, "partition_poisoned"), 1);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 0);
}

/* A sync may fail before the append whose bytes it was to sync has been told of. */
static void test_poison_before_the_append_is_done(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call early;
    FAKE_SET(fix->fs, hold_appends, true);
    start(fix, &early, STI_ACKS_LEADER);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    fs_fail(fix->fs, "t", 0);
    assert_int_equal(fs_release_appends(fix->fs), 1);
    ends(&early, STI_E_IO);
    assert_int_equal(test_host_metric(fix->th, "streamit_produce_acks_waiting", NULL), 0);
}

/* Damage that is found while the partition is open refuses what comes, not what was written. */
static void test_damage(void **state)
{
    struct fixture *fix = with_topic(state, "flush.policy", "commit");
    struct produce_call waiting, late;
    start(fix, &waiting, STI_ACKS_LEADER);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    fs_damage(fix->fs, "t", 0);
    fs_damage(fix->fs, "t", 0); /* a second range changes nothing */
    start(fix, &late, STI_ACKS_LEADER);
    produce_wait(&late);
    assert_string_equal(late.rows[0].err.msg, "t-0 takes no appends: offsets 0 to 0 are damaged");
    ends(&late, STI_E_DATA_LOSS);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 1);
    assert_int_equal(test_host_logged(fix->th, "partition_offline"), 2);
    fs_sync(fix->fs, "t", 0);
    produce_wait(&waiting);
    assert_int_equal(waiting.rows[0].base_offset, 0);
    ends(&waiting, STI_OK);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 0);
}

/* What waits for the strand when damage is found is refused with the damage, not as poisoned. */
static void test_damage_beside_an_append(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call first, queued;
    FAKE_SET(fix->fs, hold_appends, true);
    start(fix, &first, STI_ACKS_LEADER);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    start(fix, &queued, STI_ACKS_LEADER);
    fs_damage(fix->fs, "t", 0);
    fs_release_appends(fix->fs);
    produce_wait(&first);
    assert_int_equal(first.rows[0].base_offset, 0);
    ends(&first, STI_OK);
    produce_wait(&queued);
    assert_int_equal(queued.rows[0].base_offset, -1);
    ends(&queued, STI_E_DATA_LOSS);
}

/* ---- the checkpoint of epochs
 * -------------------------------------------------------------------- */

/* Storage refuses before the event that says why has reached the broker. */
static void test_damage_before_its_event(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    FAKE_SET(fix->fs, damage_untold, true);
    start(fix, &p, STI_ACKS_LEADER);
    produce_wait(&p);
    assert_string_equal(p.rows[0].err.msg,
                        "t-0 takes no appends: its log is damaged, see the node's log");
    ends(&p, STI_E_DATA_LOSS);
}

static void checkpoint_is(struct fixture *fix, const char *text)
{
    char *blob = fs_blob(fix->fs, "t", 0);
    assert_non_null(blob);
    assert_string_equal(blob, text);
    free(blob);
}

/* A loss of power may take the end of a log, not what was noted of it; a disk may garble the note.
 */
static void test_epoch_checkpoint_ahead(void **state)
{
    static const struct {
        const char *found, *left;
    } cases[] = {{"0\n1\n0 40\n", "0\n1\n0 0\n"},
                 {"0\n1\n0 0\n", "0\n1\n0 0\n"},
                 {"0\n1\n0 0", "0\n1\n0 0\n"},
                 {"garbled", "0\n1\n0 0\n"},
                 {"", "0\n1\n0 0\n"}};
    struct fixture *fix = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
        fs_blob_set(fix->fs, "t", 0, cases[i].found);
        assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
        checkpoint_is(fix, cases[i].left);
        assert_int_equal(fix_delete(fix, "t"), STI_OK);
    }
}

static void test_epoch_checkpoint(void **state)
{
    struct fixture *fix = with_topic(state, NULL, NULL);
    struct produce_call p;
    assert_null(fs_blob(fix->fs, "t", 0));
    FAKE_SET(fix->fs, blob_status, STI_E_DISK_FULL);
    start(fix, &p, STI_ACKS_LEADER);
    ends(&p, STI_E_DISK_FULL);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 0);
    FAKE_SET(fix->fs, blob_status, STI_OK);
    FAKE_SET(fix->fs, append_status, STI_E_DISK_FULL);
    start(fix, &p, STI_ACKS_LEADER);
    ends(&p, STI_E_DISK_FULL);
    checkpoint_is(fix, "0\n1\n0 0\n");
    FAKE_SET(fix->fs, append_status, STI_OK);
    fix_restart(fix); /* the log is empty, the checkpoint is not: no epoch stands twice in it */
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    checkpoint_is(fix, "0\n1\n0 0\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(none_and_leader),
        TEST(quorum_waits_for_the_watermark),
        TEST(commit_waits_for_the_sync),
        TEST(policy_change_releases),
        TEST(policy_changes_overtake_nothing),
        TEST(floors),
        TEST(min_insync),
        TEST(timeout_while_queued_and_appending),
        TEST(timeout_while_waiting),
        TEST(errors_pass_through),
        TEST(damage_before_its_event),
        TEST(poison),
        TEST(poison_before_the_append_is_done),
        TEST(damage),
        TEST(damage_beside_an_append),
        TEST(epoch_checkpoint),
        TEST(epoch_checkpoint_ahead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
