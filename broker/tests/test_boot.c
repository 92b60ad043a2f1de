/* test_boot.c -- a node that starts again over what it left behind. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static void test_log_is_there_again(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 2, "flush.policy", "commit"), STI_OK);
    FAKE_SET(fix->fs, auto_sync, true);
    assert_int_equal(fix_produce(fix, "t", 1, 3), 0);
    fix_restart(fix);
    assert_int_equal(fix_partition(fix, "t", 1).high_watermark, 3);
    assert_int_equal(fix->fs->settings.flush_policy, STI_FLUSH_COMMIT);
    assert_int_equal(fix_produce(fix, "t", 1, 1), 3);
    fm_compact(fix->fm); /* the same from a snapshot */
    fix_restart(fix);
    assert_int_equal(fix_partition(fix, "t", 1).high_watermark, 4);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    assert_int_equal(fs_get(fix->fs, &fix->fs->creates), 2);
}

static void test_lost_partition(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    struct fetch_call f;
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 1);
    fix_stop(fix);
    fs_lose(fix->fs, "t", 0);
    fix_start(fix); /* and does start */
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 1);
    assert_int_equal(test_host_logged(fix->th, "partition_offline"), 1);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    produce_add(&p, "t", 1, 1, 10, 0);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_DATA_LOSS);
    assert_string_equal(p.rows[0].err.msg,
                        "t-0: its data is gone from storage storage_mmap: no such "
                        "partition; bring the folder back, or delete the topic");
    assert_int_equal(p.rows[1].status, STI_OK);
    produce_fini(&p);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_DATA_LOSS);
    fetch_fini(&f);
    assert_false(fs_has(fix->fs, "t", 0)); /* nothing was made in its place */
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
}

/* A storage that is not durable begins empty, and that is no loss. */
static void test_lost_memory(void **state)
{
    struct fixture *fix = *state;
    fix->fs->vtable.iface.caps = 0;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 5);
    fix_stop(fix);
    fs_lose(fix->fs, "t", 0);
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

/* What it was made of is told by the epoch: a caller with the old one is refused, whatever offset
 * it asks for. */
static void test_memory_raises_the_epoch(void **state)
{
    struct fixture *fix = *state;
    struct fetch_call f;
    fix->fs->vtable.iface.caps = 0;
    fix->fs->vtable.iface.minor = BRK_STORAGE_MINOR_LEAST; /* also of one that is older */
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 5);
    assert_int_equal(fix_partition(fix, "t", 0).leader_epoch, 0);
    for (int32_t epoch = 1; epoch <= 2; epoch++) {
        if (epoch == 2) {
            fm_compact(fix->fm); /* the same from a snapshot */
        }
        fix_stop(fix);
        fs_lose(fix->fs, "t", 0);
        fs_lose(fix->fs, "t", 1);
        fix_start(fix);
        assert_int_equal(fix_partition(fix, "t", 0).leader_epoch, epoch);
        assert_int_equal(fix_partition(fix, "t", 1).leader_epoch, epoch);
        assert_int_equal(test_host_logged(fix->th, "epochs_raised"), (unsigned)epoch);
    }
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 5);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    fetch_fini(&f);
    assert_int_equal(fix_produce(fix, "t", 0, 9), 0);
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 5); /* there again, and another record */
    f.rows[0].leader_epoch = 0;
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_STALE_EPOCH);
    assert_int_equal(f.rows[0].slice_count, 0);
    fetch_fini(&f);
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 5);
    f.rows[0].last_epoch = 1; /* what it has read is of the log before */
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_OFFSET_OUT_OF_RANGE);
    assert_string_equal(f.rows[0].err.msg,
                        "t-0: the log has begun anew at offset 0 with leader epoch 2; offset 5 of "
                        "epoch 1 is gone");
    assert_int_equal(f.rows[0].current_leader_epoch, 2);
    assert_int_equal(f.rows[0].log_start, 0);
    fetch_fini(&f);
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 5);
    f.rows[0].last_epoch = 2;
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
}

/* A durable log goes on, and so does its epoch: nothing is committed at its start. */
static void test_durable_keeps_the_epoch(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 5);
    fix_restart(fix);
    assert_int_equal(fix_partition(fix, "t", 0).leader_epoch, 0);
    assert_int_equal(test_host_logged(fix->th, "epochs_raised"), 0);
}

/* A topic stays where it was made, also when the node's default names another instance. */
static void test_a_topic_stays_on_its_storage(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 5);
    fix_stop(fix);
    fix->conf.defaults.storage = "elsewhere";
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_OK);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 5);
}

/* Created in the log, but the node died before the storage was made, or before that was noted. */
static void test_unfinished_creation(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    fix_stop(fix);
    fm_drop_last(fix->fm); /* TopicCreated */
    fs_lose(fix->fs, "t", 1);
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 1).status, STI_OK);
    assert_true(fs_has(fix->fs, "t", 1));
    fix_produce(fix, "t", 1, 1);
    fix_stop(fix); /* noted by now: from here on it is a loss */
    fs_lose(fix->fs, "t", 1);
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 1).status, STI_E_DATA_LOSS);
}

static void test_unfinished_growth(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_alter(fix, "t", 3, NULL, NULL), STI_OK);
    fix_stop(fix);
    fm_drop_last(fix->fm);
    fs_lose(fix->fs, "t", 0); /* existed before the growth */
    fs_lose(fix->fs, "t", 2);
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
    assert_int_equal(fix_partition(fix, "t", 1).status, STI_OK);
    assert_int_equal(fix_partition(fix, "t", 2).status, STI_OK);
}

static void test_unfinished_deletion(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 1);
    FAKE_SET(fix->fs, remove_status, STI_E_IO); /* as if the node had died in between */
    assert_int_equal(fix_delete(fix, "t"), STI_E_IO);
    fm_compact(fix->fm);
    fix_stop(fix);
    assert_true(fs_has(fix->fs, "t", 0));
    FAKE_SET(fix->fs, remove_status, STI_OK);
    unsigned removes = fs_get(fix->fs, &fix->fs->removes);
    fix_start(fix); /* does not wait for it */
    fs_wait(fix->fs, &fix->fs->removes, removes + 2);
    fix_wait_idle(fix);
    assert_false(fs_has(fix->fs, "t", 0));
    assert_false(fs_has(fix->fs, "t", 1));
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

static void test_damaged_is_readable(void **state)
{
    struct fixture *fix = *state;
    struct fetch_call f;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 2);
    fix_stop(fix);
    FAKE_SET(fix->fs, open_status, STI_E_DATA_LOSS);
    fix_start(fix);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[0].slice_count, 1);
    fetch_fini(&f);
    FAKE_SET(fix->fs, open_status, STI_OK);
}

static void start_fails(struct fixture *fix, int status)
{
    struct sti_err err;
    sti_err_clear(&err);
    assert_int_equal(sti_broker_plugin.life->create(&fix->host, &fix->conf, &fix->self, &err),
                     STI_OK);
    assert_int_equal(sti_broker_plugin.life->start(fix->self, &err), status);
    assert_int_equal(err.code, status);
    sti_broker_plugin.life->destroy(fix->self);
    fix->self = NULL;
}

static void test_metadata_does_not_open(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_stop(fix);
    FAKE_SET(fix->fm, open_status, STI_E_DATA_LOSS);
    start_fails(fix, STI_E_DATA_LOSS);
    FAKE_SET(fix->fm, open_status, STI_OK);
    fm_append(fix->fm, "\xff", 1);
    start_fails(fix, STI_E_DATA_LOSS);
    fm_drop_last(fix->fm);
    fix_start(fix);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

static void test_many_topics(void **state)
{
    enum { MANY = 200 };
    struct fixture *fix = *state;
    char name[16];
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "topic-%03d", i);
        assert_int_equal(fix_create(fix, name, 2, NULL, NULL), STI_OK);
    }
    fix_restart(fix);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions", NULL), 2 * MANY);
    assert_int_equal(fix_produce(fix, "topic-123", 1, 1), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(log_is_there_again),
        TEST(lost_partition),
        TEST(lost_memory),
        TEST(unfinished_creation),
        TEST(unfinished_growth),
        TEST(unfinished_deletion),
        TEST(damaged_is_readable),
        TEST(metadata_does_not_open),
        TEST(many_topics),
        TEST(memory_raises_the_epoch),
        TEST(durable_keeps_the_epoch),
        TEST(a_topic_stays_on_its_storage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
