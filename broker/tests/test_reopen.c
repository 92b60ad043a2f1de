/* test_reopen.c -- partitions that were taken out of service come back by themselves, and those
 * that may not do not. */
#include <string.h>

#include "fixture.h"

static int setup_reopen(void **state)
{
    struct fixture *fix = fix_new();
    fix->conf.reopen_min_ms = 5;
    fix->conf.reopen_max_ms = 20;
    fix_start(fix);
    *state = fix;
    return 0;
}

static void test_a_poisoned_partition_comes_back(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "other", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 3), 0);
    unsigned opens = fs_get(fix->fs, &fix->fs->opens);
    fs_fail(fix->fs, "t", 0);
    fix_wait_metric(fix, "streamit_partitions_reopened_total", 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 0);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens),
                     opens + 1); /* the other one was left alone */
    assert_int_equal(test_host_logged(fix->th, "partition_reopened"), 1);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 3); /* the log as it was read */
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 4);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_OK);
}

static void test_it_is_tried_until_it_works(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 2), 0);
    unsigned opens = fs_get(fix->fs, &fix->fs->opens_begun);
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    fs_fail(fix->fs, "t", 0);
    fs_wait(fix->fs, &fix->fs->opens_begun, opens + 3);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_reopened_total", NULL), 0);
    FAKE_SET(fix->fs, open_status, STI_OK);
    fix_wait_metric(fix, "streamit_partitions_reopened_total", 1);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 2);
}

static void test_damage_is_not_tried_again(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "u", 1, NULL, NULL), STI_OK);
    unsigned opens = fs_get(fix->fs, &fix->fs->opens_begun);
    fs_damage(fix->fs, "t", 0);
    fs_fail(fix->fs, "u", 0); /* several rounds of the timer pass */
    fix_wait_metric(fix, "streamit_partitions_reopened_total", 1);
    assert_int_equal(fs_get(fix->fs, &fix->fs->opens_begun), opens + 1);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
}

/* While the log is read again, nobody is told that less of it is safe than before. */
static void test_the_high_watermark_does_not_move_back(void **state)
{
    struct fixture *fix = *state;
    FAKE_SET(fix->fs, auto_sync, true);
    assert_int_equal(fix_create(fix, "t", 1, "flush.policy", "commit"), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 3), 0);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 3);
    FAKE_SET(fix->fs, unsynced_on_open, true);
    fs_fail(fix->fs, "t", 0);
    fix_wait_metric(fix, "streamit_partitions_reopened_total", 1);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 3);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 3);
    assert_int_equal(fix_partition(fix, "t", 0).high_watermark, 4);
}

/* A sync of what recovery read fails before the broker has taken the partition over. */
static void test_a_failure_while_it_is_opened_is_kept(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 2), 0);
    fix_stop(fix);
    FAKE_SET(fix->fs, fail_on_open, true);
    fix_start(fix);
    fix_wait_metric(fix, "streamit_partitions_reopened_total", 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 0);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 2);
}

/* A partition that was made in this run and whose folder is gone has lost its records. */
static void test_a_lost_folder_is_not_made_anew(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 2), 0);
    unsigned creates = fs_get(fix->fs, &fix->fs->creates);
    unsigned opens = fs_get(fix->fs, &fix->fs->opens_begun);
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    fs_fail(fix->fs, "t", 0);
    fs_wait(fix->fs, &fix->fs->opens_begun, opens + 1);
    fs_lose(fix->fs, "t", 0);
    FAKE_SET(fix->fs, open_status, STI_OK);
    opens = fs_get(fix->fs, &fix->fs->opens_begun);
    fs_wait(fix->fs, &fix->fs->opens_begun, opens + 1);
    fix_settle(fix, "t", 0);
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DATA_LOSS);
    assert_int_equal(fs_get(fix->fs, &fix->fs->creates), creates);
}

static void test_a_deletion_ends_it(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    fs_fail(fix->fs, "t", 0);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    assert_false(fs_has(fix->fs, "t", 0));
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 0);
    FAKE_SET(fix->fs, open_status, STI_OK);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup_reopen, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_poisoned_partition_comes_back),
        TEST(it_is_tried_until_it_works),
        TEST(damage_is_not_tried_again),
        TEST(the_high_watermark_does_not_move_back),
        TEST(a_failure_while_it_is_opened_is_kept),
        TEST(a_lost_folder_is_not_made_anew),
        TEST(a_deletion_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
