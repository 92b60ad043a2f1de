/* test_log.c -- the command log: round trip, every torn tail, every flipped bit, failing calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "faults.h"
#include "file.h"
#include "log.h"
#include "model.h"
#include "streamit/record_batch.h"
#include "test_host.h"

static const char log_0[] = "log-00000000000000000000";

struct fixture {
    char *dir;
    int dir_fd;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    fault_reset();
    f->dir = test_dir_new("mdl-log");
    f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY);
    *state = f;
    return f->dir_fd < 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fault_reset();
    (void)close(f->dir_fd);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

/* Append one frame of `count` commands of `len` bytes each. */
static int append(struct mdl_log *log, size_t count, size_t len, bool *uncertain)
{
    struct mdl_command commands[8];
    uint8_t *bytes = malloc(count * len);
    assert_non_null(bytes);
    for (size_t i = 0; i < count * len; i++) {
        bytes[i] = (uint8_t)(1 + (i + log->end_index) % 250);
    }
    for (size_t i = 0; i < count; i++) {
        commands[i] = (struct mdl_command){.data = bytes + i * len, .len = len};
        if (len >= 4) {
            mdl_put32(bytes + i * len, (uint32_t)(log->end_index + 1 + i));
        }
    }
    struct sti_err err;
    int rc = mdl_log_append(log, commands, count, uncertain, &err);
    free(bytes);
    return rc;
}

/* A log of frames: one command of 40 bytes, three of 100, and one of `last_len`. */
static void make_log(struct fixture *f, size_t last_len)
{
    struct mdl_log log;
    bool uncertain;
    assert_int_equal(mdl_log_create(&log, f->dir_fd, f->dir, 0, 64 * 1024, &uncertain, NULL),
                     STI_OK);
    assert_int_equal(append(&log, 1, 40, &uncertain), STI_OK);
    assert_int_equal(append(&log, 3, 100, &uncertain), STI_OK);
    assert_int_equal(append(&log, 1, last_len, &uncertain), STI_OK);
    assert_int_equal(log.end_index, 5);
    mdl_log_close(&log);
}

static int visit(void *arg, uint64_t index, const void *command, size_t len, struct sti_err *err)
{
    return model_fsm.apply(arg, index, command, len, err);
}

/* Open and replay. The log is left open only on success. */
static int replay(struct fixture *f, struct mdl_log *log, struct model *model, struct sti_err *err)
{
    memset(model, 0, sizeof *model);
    sti_err_clear(err);
    int rc = mdl_log_open(log, f->dir_fd, f->dir, 0, 64 * 1024, err);
    if (rc == STI_OK) {
        rc = mdl_log_replay(log, 0, visit, model, err);
        if (rc != STI_OK) {
            mdl_log_close(log);
        }
    }
    assert_false(model->gap);
    return rc;
}

static void test_round_trip(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    make_log(f, 1000);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(model.count, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(model.values[i], i + 1);
    }
    assert_int_equal(log.end_index, 5);
    assert_int_equal(log.cut_bytes, 0);
    assert_int_equal(log.pos % MDL_SECTOR, 0);
    bool uncertain;
    assert_int_equal(mdl_log_finish_tail(&log, &err), STI_OK);
    assert_int_equal(append(&log, 2, 10, &uncertain), STI_OK);
    mdl_log_close(&log);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(model.count, 7);
    mdl_log_close(&log);
}

static void test_replay_after_index(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model = {.count = 2};
    struct sti_err err;
    make_log(f, 50);
    assert_int_equal(mdl_log_open(&log, f->dir_fd, f->dir, 0, 4096, &err), STI_OK);
    assert_int_equal(mdl_log_replay(&log, 2, visit, &model, &err), STI_OK);
    assert_int_equal(model.count, 5);
    assert_false(model.gap);
    mdl_log_close(&log);
}

/* Whatever is left of the last frame, it is cut and the log goes on. */
static void check_torn(struct fixture *f, const uint8_t *bytes, size_t len, uint64_t expected)
{
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    bool uncertain;
    model_store(f->dir, log_0, bytes, len);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(model.count, expected);
    assert_int_equal(mdl_log_finish_tail(&log, &err), STI_OK);
    assert_int_equal(append(&log, 1, 30, &uncertain), STI_OK);
    mdl_log_close(&log);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(model.count, expected + 1);
    assert_int_equal(log.cut_bytes, 0);
    mdl_log_close(&log);
}

static void test_torn_at_every_byte(void **state)
{
    struct fixture *f = *state;
    size_t len;
    make_log(f, 700);
    uint8_t *whole = model_load(f->dir, log_0, &len);
    uint8_t *cut = malloc(len);
    size_t last = MDL_LOG_HEADER_LEN + 2 * MDL_SECTOR;
    size_t frame_end = last + MDL_FRAME_OVERHEAD + MDL_COMMAND_OVERHEAD + 700;
    assert_int_equal(len, last + 2 * MDL_SECTOR);
    for (size_t at = last; at <= len; at++) {
        check_torn(f, whole, at, at < frame_end ? 4 : 5);
        memcpy(cut, whole, at);
        memset(cut + at, 0, len - at);
        check_torn(f, cut, len, at < frame_end ? 4 : 5);
    }
    free(cut);
    free(whole);
}

static void test_missing_sector_is_a_tail(void **state)
{
    struct fixture *f = *state;
    size_t len, last = MDL_LOG_HEADER_LEN + 2 * MDL_SECTOR;
    make_log(f, 5000);
    uint8_t *whole = model_load(f->dir, log_0, &len);
    uint8_t *holed = malloc(len);
    for (size_t at = last; at < len; at += MDL_SECTOR) {
        memcpy(holed, whole, len);
        memset(holed + at, 0, MDL_SECTOR);
        check_torn(f, holed, len, 4);
    }
    free(holed);
    free(whole);
}

static void test_flip_of_every_byte(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    size_t len;
    make_log(f, 700);
    uint8_t *bytes = model_load(f->dir, log_0, &len);
    /* Beginning and length of everything that a checksum or mark covers. */
    const size_t parts[][2] = {{0, 64},
                               {512, MDL_FRAME_OVERHEAD + 44},
                               {1024, MDL_FRAME_OVERHEAD + 3 * 104},
                               {1536, MDL_FRAME_OVERHEAD + 704}};
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        for (size_t i = 0; i < parts[p][1]; i++) {
            char position[64];
            uint8_t *byte = &bytes[parts[p][0] + i];
            *byte ^= (uint8_t)(1u << (i % 8));
            model_store(f->dir, log_0, bytes, len);
            *byte ^= (uint8_t)(1u << (i % 8));
            int rc = replay(f, &log, &model, &err);
            assert_int_equal(rc, STI_E_DATA_LOSS);
            snprintf(position, sizeof position, "%s: position %zu:", log_0, parts[p][0]);
            assert_non_null(strstr(err.msg, position));
        }
    }
    free(bytes);
}

static void test_version_from_the_future(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    size_t len;
    make_log(f, 10);
    uint8_t *bytes = model_load(f->dir, log_0, &len);
    mdl_put32(bytes + 8, 2);
    mdl_put32(bytes + 60, sti_crc32c(0, bytes, 60));
    model_store(f->dir, log_0, bytes, len);
    free(bytes);
    assert_int_equal(replay(f, &log, &model, &err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "format version 2, this release reads 1"));
}

static void test_full_disk_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    bool uncertain;
    make_log(f, 700);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(mdl_log_finish_tail(&log, &err), STI_OK);
    for (size_t partial = 0; partial < 600; partial += 37) {
        fault_partial(partial);
        fault_set(FAULT_PWRITE, 1, 1, ENOSPC);
        assert_int_equal(append(&log, 1, 500, &uncertain), STI_E_DISK_FULL);
        assert_false(uncertain);
        assert_int_equal(log.end_index, 5);
    }
    fault_reset();
    assert_int_equal(append(&log, 1, 500, &uncertain), STI_OK);
    mdl_log_close(&log);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    assert_int_equal(model.count, 6);
    mdl_log_close(&log);
}

static void test_failed_sync_is_uncertain(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    bool uncertain;
    make_log(f, 70);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    fault_set(FAULT_FDATASYNC, 1, 1, EIO);
    assert_int_equal(append(&log, 1, 50, &uncertain), STI_E_IO);
    assert_true(uncertain);
    fault_set(FAULT_PWRITE, 1, 1, EIO);
    fault_set(FAULT_FTRUNCATE, 1, 1, EIO);
    assert_int_equal(append(&log, 1, 50, &uncertain), STI_E_IO);
    assert_true(uncertain);
    mdl_log_close(&log);
}

static void test_last_frame_is_written_again(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct model model;
    struct sti_err err;
    make_log(f, 70);
    assert_int_equal(replay(f, &log, &model, &err), STI_OK);
    unsigned writes = fault_count(FAULT_PWRITE), syncs = fault_count(FAULT_FDATASYNC);
    assert_int_equal(mdl_log_finish_tail(&log, &err), STI_OK);
    assert_int_equal(fault_count(FAULT_PWRITE), writes + 1);
    assert_int_equal(fault_count(FAULT_FDATASYNC), syncs + 1);
    fault_set(FAULT_FDATASYNC, 1, 1, EIO);
    assert_int_equal(mdl_log_finish_tail(&log, &err), STI_E_IO);
    mdl_log_close(&log);
}

static void test_reserve(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct sti_err err;
    bool uncertain;
    assert_int_equal(mdl_log_create(&log, f->dir_fd, f->dir, 0, 16384, &uncertain, &err), STI_OK);
    assert_int_equal(log.reserved_pos, MDL_LOG_HEADER_LEN + 16384);
    fault_set(FAULT_FALLOCATE, 1, -1, ENOSPC);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(append(&log, 1, 100, &uncertain), STI_OK);
    }
    assert_true(log.low);
    fault_reset();
    assert_int_equal(append(&log, 1, 100, &uncertain), STI_OK);
    assert_false(log.low);
    fault_set(FAULT_FALLOCATE, 1, -1, EOPNOTSUPP);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(append(&log, 1, 100, &uncertain), STI_OK);
    }
    assert_false(log.low);
    mdl_log_close(&log);
}

static void test_oversized_group(void **state)
{
    struct fixture *f = *state;
    struct mdl_log log;
    struct sti_err err;
    bool uncertain;
    struct mdl_command command = {.data = "x", .len = MDL_FRAME_LEN_MAX};
    assert_int_equal(mdl_log_create(&log, f->dir_fd, f->dir, 0, 4096, &uncertain, &err), STI_OK);
    assert_int_equal(mdl_log_append(&log, &command, 1, &uncertain, &err), STI_E_MESSAGE_TOO_LARGE);
    assert_int_equal(mdl_log_append(&log, &command, 0, &uncertain, &err), STI_E_MESSAGE_TOO_LARGE);
    assert_int_equal(log.end_index, 0);
    mdl_log_close(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay_after_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_sector_is_a_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flip_of_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version_from_the_future, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_sync_is_uncertain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_frame_is_written_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserve, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oversized_group, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
