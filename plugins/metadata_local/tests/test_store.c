/* test_store.c -- the folder: restart, snapshots with their logs, damage, and a death at every
 * system call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "faults.h"
#include "file.h"
#include "model.h"
#include "snapshot.h"
#include "store.h"
#include "test_host.h"

enum { RESERVE = 8192 };

static struct fixture {
    char *data_dir, *dir;
    struct mdl_store store;
    struct model model;
    struct sti_err err;
} fx;

static int setup(void **state)
{
    (void)state;
    memset(&fx, 0, sizeof fx);
    fault_reset();
    fx.data_dir = test_dir_new("mdl-store");
    fx.dir = mdl_join(fx.data_dir, "local");
    return fx.dir == NULL;
}

static int teardown(void **state)
{
    (void)state;
    fault_reset();
    test_dir_remove(fx.data_dir);
    free(fx.dir);
    return 0;
}

static int start(void)
{
    memset(&fx.model, 0, sizeof fx.model);
    sti_err_clear(&fx.err);
    bool uncertain;
    int rc =
        mdl_store_open(&fx.store, fx.data_dir, "local", RESERVE, &model_fsm, &fx.model, &fx.err);
    if (rc == STI_OK && fx.store.unborn) {
        assert_int_equal(fx.store.log.fd, -1);
        rc = mdl_store_begin(&fx.store, &uncertain, &fx.err);
        if (rc != STI_OK) {
            mdl_store_close(&fx.store);
        }
    }
    return rc;
}

/* Append and apply the next command. @return as mdl_log_append */
static int put(bool *uncertain)
{
    uint8_t bytes[40] = {0};
    struct mdl_command command = {.data = bytes, .len = sizeof bytes};
    mdl_put32(bytes, (uint32_t)fx.store.log.end_index + 1);
    int rc = mdl_log_append(&fx.store.log, &command, 1, uncertain, &fx.err);
    if (rc == STI_OK) {
        (void)model_fsm.apply(&fx.model, fx.store.log.end_index, bytes, sizeof bytes, NULL);
    }
    return rc;
}

static void put_many(unsigned count)
{
    bool uncertain;
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(put(&uncertain), STI_OK);
    }
}

static void snapshot(void)
{
    bool uncertain;
    assert_int_equal(mdl_store_snapshot(&fx.store, &uncertain, &fx.err), STI_OK);
}

/* The state must be commands 1 to `count`, each with its own number. */
static void check_state(uint64_t count)
{
    assert_false(fx.model.gap);
    assert_int_equal(fx.model.count, count);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(fx.model.values[i], i + 1);
    }
}

static void restart_and_check(uint64_t count)
{
    mdl_store_close(&fx.store);
    int rc = start();
    if (rc != STI_OK) {
        fail_msg("%s", fx.err.msg);
    }
    check_state(count);
}

static void flip(const char *name, size_t pos)
{
    size_t len;
    uint8_t *bytes = model_load(fx.dir, name, &len);
    assert_true(pos < len);
    bytes[pos] ^= 0x10;
    model_store(fx.dir, name, bytes, len);
    free(bytes);
}

static void drop(const char *name)
{
    char *path = mdl_join(fx.dir, name);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void test_restart(void **state)
{
    (void)state;
    assert_int_equal(start(), STI_OK);
    restart_and_check(0);
    put_many(5);
    restart_and_check(5);
    snapshot();
    restart_and_check(5);
    assert_int_equal(fx.model.restores, 1);
    put_many(3);
    restart_and_check(8);
    assert_int_equal(fx.store.recovery.commands, 3);
    mdl_store_close(&fx.store);
}

static void test_old_files_go(void **state)
{
    (void)state;
    assert_int_equal(start(), STI_OK);
    for (unsigned i = 0; i < 5; i++) {
        put_many(4);
        snapshot();
        assert_true(model_files(fx.dir, "snapshot-") <= 2);
        assert_true(model_files(fx.dir, "log-") <= 2);
    }
    put_many(1);
    restart_and_check(21);
    assert_int_equal(model_files(fx.dir, "snapshot-"), 2);
    assert_int_equal(model_files(fx.dir, "log-"), 2);
    snapshot();
    snapshot();
    restart_and_check(21);
    mdl_store_close(&fx.store);
}

static void test_foreign_and_unfinished_files(void **state)
{
    (void)state;
    assert_int_equal(start(), STI_OK);
    put_many(2);
    model_store(fx.dir, "notes.txt", (const uint8_t *)"x", 1);
    model_store(fx.dir, "log-1", (const uint8_t *)"x", 1);
    model_store(fx.dir, "snapshot-00000000000000000009.bak", (const uint8_t *)"x", 1);
    model_store(fx.dir, "snapshot-00000000000000000009.tmp", (const uint8_t *)"x", 1);
    model_store(fx.dir, "log-00000000000000000009.tmp", (const uint8_t *)"x", 1);
    restart_and_check(2);
    assert_int_equal(model_files(fx.dir, "notes.txt"), 1);
    assert_int_equal(model_files(fx.dir, "log-1"), 1);
    assert_int_equal(model_files(fx.dir, "snapshot-00000000000000000009.bak"), 1);
    assert_int_equal(model_files(fx.dir, "snapshot-00000000000000000009.tmp"), 0);
    assert_int_equal(model_files(fx.dir, "log-00000000000000000009.tmp"), 0);
    mdl_store_close(&fx.store);
}

static void test_damaged_snapshot_falls_back(void **state)
{
    (void)state;
    char newest[32], older[32];
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(4);
    snapshot();
    put_many(2);
    mdl_store_close(&fx.store);
    mdl_snapshot_name(newest, 8);
    mdl_snapshot_name(older, 4);
    flip(newest, 70);
    assert_int_equal(start(), STI_OK);
    check_state(10);
    assert_int_equal(fx.store.recovery.snapshots_damaged, 1);
    assert_int_equal(fx.store.recovery.snapshot_index, 4);
    assert_non_null(strstr(fx.store.recovery.damage.msg, newest));
    snapshot();
    assert_int_equal(model_files(fx.dir, newest), 0);
    restart_and_check(10);
    assert_int_equal(fx.store.recovery.snapshots_damaged, 0);
    mdl_store_close(&fx.store);
}

static void test_only_snapshot_damaged_replays_from_the_start(void **state)
{
    (void)state;
    char newest[32];
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(1);
    mdl_store_close(&fx.store);
    mdl_snapshot_name(newest, 4);
    flip(newest, 3);
    assert_int_equal(start(), STI_OK);
    check_state(5);
    mdl_store_close(&fx.store);
}

static void test_both_snapshots_damaged(void **state)
{
    (void)state;
    char newest[32], older[32];
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(4);
    snapshot();
    mdl_store_close(&fx.store);
    mdl_snapshot_name(newest, 8);
    mdl_snapshot_name(older, 4);
    flip(newest, 70);
    flip(older, 70);
    assert_int_equal(start(), STI_E_DATA_LOSS);
    assert_non_null(strstr(fx.err.msg, newest));
    assert_non_null(strstr(fx.err.msg, "position 64:"));
    assert_int_equal(fx.model.count, 0);
}

static void test_missing_log(void **state)
{
    (void)state;
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(4);
    snapshot();
    mdl_store_close(&fx.store);
    drop("log-00000000000000000004");
    drop("log-00000000000000000008");
    assert_int_equal(start(), STI_E_DATA_LOSS);
    assert_non_null(strstr(fx.err.msg, "no log holds the commands behind index 8"));
}

static void test_closed_log_that_lost_its_end(void **state)
{
    (void)state;
    char newest[32];
    size_t len;
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(1);
    mdl_store_close(&fx.store);
    mdl_snapshot_name(newest, 4);
    flip(newest, 70);
    uint8_t *bytes = model_load(fx.dir, "log-00000000000000000000", &len);
    model_store(fx.dir, "log-00000000000000000000", bytes, len - 600);
    free(bytes);
    assert_int_equal(start(), STI_E_DATA_LOSS);
    assert_non_null(strstr(fx.err.msg, "log-00000000000000000000: position"));
}

static void test_no_new_log_for_the_snapshot(void **state)
{
    (void)state;
    bool uncertain;
    assert_int_equal(start(), STI_OK);
    put_many(4);
    fault_set(FAULT_RENAMEAT, 2, 1, ENOSPC); /* the first is the snapshot's */
    assert_int_equal(mdl_store_snapshot(&fx.store, &uncertain, &fx.err), STI_E_DISK_FULL);
    assert_false(uncertain);
    put_many(2);
    restart_and_check(6);
    assert_int_equal(fx.store.recovery.snapshot_index, 4);
    snapshot();
    put_many(1);
    restart_and_check(7);
    mdl_store_close(&fx.store);
}

static void test_log_that_may_not_be_seen(void **state)
{
    (void)state;
    bool uncertain;
    assert_int_equal(start(), STI_OK);
    put_many(4);
    fault_set(FAULT_FSYNC, 2, 1, EIO); /* of the folder, behind the new log's name */
    assert_int_equal(mdl_store_snapshot(&fx.store, &uncertain, &fx.err), STI_E_IO);
    assert_true(uncertain);
    restart_and_check(4);
    mdl_store_close(&fx.store);
}

static void test_bad_log_behind_a_sound_snapshot(void **state)
{
    (void)state;
    assert_int_equal(start(), STI_OK);
    put_many(4);
    snapshot();
    put_many(3);
    mdl_store_close(&fx.store);
    flip("log-00000000000000000004", 512 + 40);
    assert_int_equal(start(), STI_E_DATA_LOSS);
    assert_non_null(strstr(fx.err.msg, "log-00000000000000000004: position 512:"));
    flip("log-00000000000000000004", 512 + 40);
    assert_int_equal(start(), STI_OK);
    check_state(7);
    mdl_store_close(&fx.store);
}

/* Open, write and take snapshots until a call fails. @return commands acknowledged */
static uint64_t live(unsigned *proposed)
{
    bool uncertain;
    uint64_t acked = 0;
    *proposed = 0;
    if (start() != STI_OK) {
        return 0;
    }
    acked = fx.store.log.end_index;
    *proposed = (unsigned)acked;
    for (unsigned i = 0; i < 12; i++) {
        (*proposed)++;
        if (put(&uncertain) != STI_OK) {
            break;
        }
        acked++;
        if (i % 4 == 3 && mdl_store_snapshot(&fx.store, &uncertain, &fx.err) != STI_OK) {
            break;
        }
    }
    mdl_store_close(&fx.store);
    return acked;
}

static void test_death_at_every_call(void **state)
{
    (void)state;
    unsigned proposed, total;
    assert_int_equal(live(&proposed), 12);
    total = fault_changes();
    assert_true(total > 50);
    for (unsigned nth = 1; nth <= total; nth++) {
        test_dir_remove(fx.data_dir);
        free(fx.dir);
        fx.data_dir = test_dir_new("mdl-store");
        fx.dir = mdl_join(fx.data_dir, "local");
        fault_reset();
        fault_die_at(nth);
        uint64_t acked = live(&proposed);
        fault_reset();
        int rc = start();
        if (rc != STI_OK) {
            fail_msg("died at call %u: %s", nth, fx.err.msg);
        }
        assert_true(fx.model.count >= acked && fx.model.count <= proposed);
        check_state(fx.model.count);
        uint64_t count = fx.model.count;
        put_many(6);
        snapshot();
        put_many(1);
        restart_and_check(count + 7);
        mdl_store_close(&fx.store);
    }
}

static void test_error_of_every_call_at_open(void **state)
{
    (void)state;
    unsigned proposed;
    (void)live(&proposed);
    fault_reset();
    assert_int_equal(start(), STI_OK);
    unsigned total = fault_changes();
    mdl_store_close(&fx.store);
    for (unsigned nth = 1; nth <= total; nth++) {
        fault_reset();
        fault_die_at(nth);
        if (start() == STI_OK) {
            mdl_store_close(&fx.store);
        }
        fault_reset();
        assert_int_equal(start(), STI_OK);
        check_state(12);
        mdl_store_close(&fx.store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_files_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_and_unfinished_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_snapshot_falls_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_snapshot_damaged_replays_from_the_start, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_both_snapshots_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_log_that_lost_its_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_new_log_for_the_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_that_may_not_be_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_log_behind_a_sound_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_death_at_every_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_error_of_every_call_at_open, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
