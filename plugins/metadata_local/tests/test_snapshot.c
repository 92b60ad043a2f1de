/* test_snapshot.c -- one snapshot file: round trip, every flipped bit, every cut, failing calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "faults.h"
#include "file.h"
#include "model.h"
#include "snapshot.h"
#include "streamit/record_batch.h"
#include "test_host.h"

enum { COMMANDS = 50 };

static struct fixture {
    char *dir;
    int dir_fd;
    struct model model;
    char name[32];
} fx;

static int setup(void **state)
{
    (void)state;
    memset(&fx, 0, sizeof fx);
    fault_reset();
    fx.dir = test_dir_new("mdl-snapshot");
    fx.dir_fd = open(fx.dir, O_RDONLY | O_DIRECTORY);
    fx.model.count = COMMANDS;
    for (uint32_t i = 0; i < COMMANDS; i++) {
        fx.model.values[i] = i * 3;
    }
    mdl_snapshot_name(fx.name, COMMANDS);
    return fx.dir_fd < 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_reset();
    (void)close(fx.dir_fd);
    test_dir_remove(fx.dir);
    return 0;
}

static int take(struct sti_err *err)
{
    uint64_t len;
    sti_err_clear(err);
    return mdl_snapshot_write(fx.dir_fd, fx.dir, COMMANDS, &model_fsm, &fx.model, &len, err);
}

static int check(struct sti_err *err)
{
    uint8_t *file;
    uint64_t len;
    int rc = mdl_snapshot_read(fx.dir_fd, fx.dir, COMMANDS, &file, &len, err);
    assert_true((rc == STI_OK) == (file != NULL));
    free(file);
    return rc;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct sti_err err;
    uint8_t *file;
    uint64_t len, read_len;
    assert_int_equal(
        mdl_snapshot_write(fx.dir_fd, fx.dir, COMMANDS, &model_fsm, &fx.model, &len, &err), STI_OK);
    assert_int_equal(len, MDL_SNAPSHOT_HEADER_LEN + 4 * COMMANDS);
    assert_int_equal(mdl_snapshot_read(fx.dir_fd, fx.dir, COMMANDS, &file, &read_len, &err),
                     STI_OK);
    assert_int_equal(read_len, len);
    assert_int_equal(mdl_get32(file + MDL_SNAPSHOT_HEADER_LEN + 4), 3);
    free(file);
    assert_int_equal(model_files(fx.dir, "snapshot-"), 1);
}

/* A state of several buffers, written in odd pieces. */
static int large_snapshot(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err)
{
    uint8_t piece[1000];
    size_t left = *(size_t *)ctx;
    for (uint8_t fill = 0; left > 0; fill++) {
        size_t len = left < sizeof piece ? left : sizeof piece;
        memset(piece, fill, sizeof piece);
        int rc = sink->write(sink->ctx, piece, len, err);
        if (rc != STI_OK) {
            return rc;
        }
        left -= len;
    }
    return STI_OK;
}

static void test_large_and_empty(void **state)
{
    (void)state;
    const struct sti_metadata_fsm fsm = {.struct_size = sizeof fsm, .snapshot = large_snapshot};
    const size_t sizes[] = {0, 1, 65535, 65536, 65537, 1000003};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i];
        uint8_t *file;
        uint64_t len;
        assert_int_equal(mdl_snapshot_write(fx.dir_fd, fx.dir, 9, &fsm, &size, &len, NULL), STI_OK);
        assert_int_equal(mdl_snapshot_read(fx.dir_fd, fx.dir, 9, &file, &len, NULL), STI_OK);
        assert_int_equal(len, MDL_SNAPSHOT_HEADER_LEN + size);
        for (size_t at = 0; at < size; at += 777) {
            assert_int_equal(file[MDL_SNAPSHOT_HEADER_LEN + at], (uint8_t)(at / 1000));
        }
        free(file);
    }
}

static void test_flip_of_every_byte(void **state)
{
    (void)state;
    struct sti_err err;
    size_t len;
    assert_int_equal(take(&err), STI_OK);
    uint8_t *bytes = model_load(fx.dir, fx.name, &len);
    for (size_t i = 0; i < len; i++) {
        bytes[i] ^= (uint8_t)(1u << (i % 8));
        model_store(fx.dir, fx.name, bytes, len);
        bytes[i] ^= (uint8_t)(1u << (i % 8));
        assert_int_equal(check(&err), STI_E_DATA_LOSS);
        assert_non_null(strstr(err.msg, fx.name));
        assert_non_null(
            strstr(err.msg, i < MDL_SNAPSHOT_HEADER_LEN ? "position 0:" : "position 64:"));
    }
    free(bytes);
}

static void test_every_cut_and_a_tail(void **state)
{
    (void)state;
    struct sti_err err;
    size_t len;
    assert_int_equal(take(&err), STI_OK);
    uint8_t *bytes = model_load(fx.dir, fx.name, &len);
    for (size_t at = 0; at < len; at++) {
        model_store(fx.dir, fx.name, bytes, at);
        assert_int_equal(check(&err), STI_E_DATA_LOSS);
    }
    bytes = realloc(bytes, len + 1);
    bytes[len] = 0;
    model_store(fx.dir, fx.name, bytes, len + 1);
    assert_int_equal(check(&err), STI_E_DATA_LOSS);
    model_store(fx.dir, fx.name, bytes, len);
    assert_int_equal(check(&err), STI_OK);
    free(bytes);
}

static void test_version_from_the_future(void **state)
{
    (void)state;
    struct sti_err err;
    size_t len;
    assert_int_equal(take(&err), STI_OK);
    uint8_t *bytes = model_load(fx.dir, fx.name, &len);
    mdl_put32(bytes + 8, 7);
    mdl_put32(bytes + 60, sti_crc32c(0, bytes, 60));
    model_store(fx.dir, fx.name, bytes, len);
    free(bytes);
    assert_int_equal(check(&err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "format version 7, this release reads 1"));
}

static void test_failing_calls_leave_nothing(void **state)
{
    (void)state;
    struct sti_err err;
    const enum fault_call calls[] = {FAULT_PWRITE, FAULT_PWRITE, FAULT_FDATASYNC, FAULT_RENAMEAT};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        fault_set(calls[i], i == 1 ? 2 : 1, 1, i == 0 ? ENOSPC : EIO);
        assert_int_equal(take(&err), i == 0 ? STI_E_DISK_FULL : STI_E_IO);
        assert_non_null(strstr(err.msg, fx.name));
        assert_int_equal(model_files(fx.dir, "snapshot-"), 0);
    }
    assert_int_equal(take(&err), STI_OK);
}

static int failing_snapshot(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err)
{
    (void)ctx;
    (void)sink;
    return sti_err_set(err, STI_E_INTERNAL, "cannot");
}

static void test_error_of_the_state_machine(void **state)
{
    (void)state;
    const struct sti_metadata_fsm fsm = {.struct_size = sizeof fsm, .snapshot = failing_snapshot};
    uint64_t len;
    struct sti_err err;
    assert_int_equal(mdl_snapshot_write(fx.dir_fd, fx.dir, 3, &fsm, NULL, &len, &err),
                     STI_E_INTERNAL);
    assert_string_equal(err.msg, "cannot");
    assert_int_equal(model_files(fx.dir, "snapshot-"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_and_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flip_of_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_cut_and_a_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version_from_the_future, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_calls_leave_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_error_of_the_state_machine, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
