/* test_recovery.c -- what opening makes of a folder that an unclean end, a bad disk or a stranger
 * has left: cut tails, flipped bytes, missing and garbled small files, interrupted steps.
 *
 * A kill is played by copying the folder while the partition is open, and opening the copy.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_fixture.h"

#include "storage_mmap.h"

enum { BATCHES = 24, PAYLOAD = 300, LEN = PAYLOAD + 61 };

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    fx_init(&fx, 3);
    fx_start(&fx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    fx_fini(&fx);
    return 0;
}

static struct sti_storage_partition *filled(const char *topic)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    for (int i = 0; i < BATCHES; i++) {
        assert_int_equal(fx_append(&fx, part, i * 2, 2, PAYLOAD, 1000 + i, 1), STI_OK);
    }
    return part;
}

static void check_reads(struct sti_storage_partition *part, int64_t end)
{
    struct fx_read read;
    assert_int_equal(fx_read(&fx, part, 0, end, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), end);
    fx_read_release(&read);
}

/* ---- unfinished tails ---------------------------------------------------------------------- */

static void test_tail_cut_at_every_byte(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t"), *copy;
    struct sti_storage_state state;
    char path[300];
    for (size_t cut = 0; cut <= 2 * LEN; cut++) {
        fx_copy_folder(&fx, "t", "k");
        fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
        assert_int_equal(truncate(path, (off_t)(BATCHES * LEN - cut)), 0);
        fx.recovered_count = 0;
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
        int64_t whole = (int64_t)((BATCHES * LEN - cut) / LEN);
        assert_int_equal(state.written_end, whole * 2);
        assert_int_equal(fx.recovered_count, whole);
        assert_int_equal(state.truncated_bytes, (BATCHES * LEN - cut) % LEN);
        if (cut % 90 == 0) {
            check_reads(copy, whole * 2);
            assert_int_equal(fx_append(&fx, copy, whole * 2, 1, 10, 1, 1), STI_OK);
            check_reads(copy, whole * 2 + 1);
        }
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
        cut += cut > 70 && cut < 2 * LEN - 70 ? 6 : 0; /* every byte near the ends of batches */
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_garbage_and_zeros_behind(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t"), *copy;
    struct sti_storage_state state;
    char path[300];
    for (int kind = 0; kind < 3; kind++) {
        fx_copy_folder(&fx, "t", "k");
        fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
        int fd = open(path, O_WRONLY | O_APPEND);
        uint8_t junk[5000];
        for (size_t i = 0; i < sizeof junk; i++) {
            junk[i] = (uint8_t)(kind == 0 ? 0 : kind == 1 ? i * 37 : 2);
        }
        assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
        close(fd);
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
        assert_int_equal(state.written_end, BATCHES * 2);
        assert_int_equal(state.truncated_bytes, sizeof junk);
        check_reads(copy, BATCHES * 2);
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- damage -------------------------------------------------------------------------------- */

static void test_flip_every_byte_class(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t"), *copy;
    struct sti_storage_state state;
    struct fx_read read;
    char path[300];
    size_t len;
    fx_copy_folder(&fx, "t", "k");
    fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
    uint8_t *log = fx_slurp(path, &len);
    assert_int_equal(len, BATCHES * LEN);
    for (size_t at = 0; at < LEN; at += at < 64 ? 1 : 47) {
        size_t pos = 7 * LEN + at; /* in batch 7: offsets 14 and 15 */
        fx_copy_folder(&fx, "t", "k");
        log[pos] ^= 0x41;
        fx_spill(path, log, len);
        log[pos] ^= 0x41;
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_E_DATA_LOSS);
        assert_non_null(copy);
        assert_int_equal(state.flags, STI_STORAGE_STATE_DAMAGED);
        assert_int_equal(state.written_end, BATCHES * 2);
        assert_int_equal(fx_append(&fx, copy, BATCHES * 2, 1, 10, 1, 1), STI_E_POISONED);
        assert_int_equal(fx_read(&fx, copy, 0, 48, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        assert_int_equal(fx_read_check(&read, 0), 14);
        fx_read_release(&read);
        assert_int_equal(fx_read(&fx, copy, 14, 48, 1 << 20, 0, &read), STI_E_DATA_LOSS);
        assert_non_null(strstr(read.msg, "offsets 14 to 15"));
        assert_int_equal(fx_read(&fx, copy, 16, 48, 1 << 20, 0, &read), STI_OK);
        assert_int_equal(fx_read_check(&read, 16), 48);
        fx_read_release(&read);
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
        /* It stays what it is, and nothing was cut. */
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_E_DATA_LOSS);
        assert_int_equal(fx.api->truncate(copy, 14, NULL), STI_OK);
        assert_int_equal(fx_append(&fx, copy, 14, 1, 10, 1, 1), STI_OK);
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
        assert_int_equal(state.written_end, 15);
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
    }
    free(log);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_damage_across_segments(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t"), *copy;
    struct sti_storage_state state;
    struct fx_read read;
    char path[300];
    for (int i = BATCHES; i < 200; i++) {
        assert_int_equal(fx_append(&fx, part, i * 2, 2, PAYLOAD, 1000 + i, 1), STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_true(state.segment_count >= 4);
    int64_t end;
    uint64_t bytes;
    int64_t newest;
    assert_int_equal(fx.api->oldest_segment(part, &end, &bytes, &newest), STI_OK);
    /* A whole segment is gone. */
    fx_copy_folder(&fx, "t", "k");
    fx_path(&fx, "k", STI_FILE_RECOVERY, path, sizeof path);
    (void)unlink(path);
    fx_segment_path(&fx, "k", end, ".log", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_E_DATA_LOSS);
    assert_int_equal(state.written_end, 400);
    assert_int_equal(fx_read(&fx, copy, 0, 400, 1 << 20, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), end);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, copy, end, 400, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    assert_int_equal(fx.api->close(copy, NULL), STI_OK);
    /* The end of a closed segment is cut off. */
    fx_copy_folder(&fx, "t", "k");
    fx_path(&fx, "k", STI_FILE_RECOVERY, path, sizeof path);
    (void)unlink(path);
    fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
    assert_int_equal(truncate(path, (off_t)bytes - 5), 0);
    assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_E_DATA_LOSS);
    assert_int_equal(fx_read(&fx, copy, 0, 400, 1 << 20, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), end - 2);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, copy, end - 1, 400, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    assert_int_equal(fx_read(&fx, copy, end, 400, 1 << 20, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, end), 400);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(copy, NULL), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_synced_bytes_are_never_cut(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    struct fx_read read;
    char path[300];
    assert_int_equal(fx.api->close(part, NULL), STI_OK); /* in order: all of it is synced */
    fx_segment_path(&fx, "t", 0, ".log", path, sizeof path);
    assert_int_equal(truncate(path, BATCHES * LEN - 10), 0);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_E_DATA_LOSS);
    assert_int_equal(state.written_end, 48);
    assert_int_equal(fx_read(&fx, part, 0, 48, 1 << 20, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 46);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 46, 48, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, BATCHES * LEN - 10);
}

/* ---- indexes and small files --------------------------------------------------------------- */

static void test_indexes_are_not_trusted(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    struct fx_read read;
    char path[300];
    for (int i = BATCHES; i < 200; i++) {
        assert_int_equal(fx_append(&fx, part, i * 2, 2, PAYLOAD, 1000 + i, 1), STI_OK);
    }
    for (int kind = 0; kind < 4; kind++) {
        assert_int_equal(fx.api->close(part, NULL), STI_OK);
        int64_t base = 0;
        for (int s = 0; s < 5; s++) {
            for (int t = 0; t < 2; t++) {
                fx_segment_path(&fx, "t", base, t == 0 ? ".index" : ".timeindex", path,
                                sizeof path);
                size_t len;
                uint8_t *data = fx_slurp(path, &len);
                if (kind == 0) {
                    assert_int_equal(unlink(path), 0);
                } else if (kind == 1) {
                    assert_int_equal(truncate(path, (off_t)(len / 2 + 1)), 0);
                } else if (kind == 2) {
                    assert_int_equal(truncate(path, 0), 0);
                } else {
                    for (size_t i = 0; i < len; i++) {
                        data[i] ^= (uint8_t)(i % 8 == 7 || i % 8 == 3 ? 0x15 : 0);
                    }
                    fx_spill(path, data, len);
                }
                free(data);
            }
            base += 16384 / LEN * 2;
            fx_segment_path(&fx, "t", base, ".log", path, sizeof path);
            if (access(path, F_OK) != 0) {
                break;
            }
        }
        assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
        for (int64_t offset = 0; offset < 400; offset += 7) {
            int64_t found, at;
            assert_int_equal(fx_read(&fx, part, offset, 400, 1000, 0, &read), STI_OK);
            assert_true(fx_read_check(&read, offset) > offset);
            fx_read_release(&read);
            if (kind != 3) { /* garbled times may mislead, but only within the log */
                assert_int_equal(
                    fx.api->offset_for_time(part, 1000 + offset / 2, &at, &found, NULL), STI_OK);
                assert_int_equal(at, offset / 2 * 2);
            }
        }
    }
    assert_true(test_host_metric(fx.th, "streamit_storage_index_rebuilds_total",
                                 "storage=\"storage_mmap\"") > 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_clean_end_reads_nothing(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    struct sti_storage_usage usage;
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    fx.recovered_count = 0;
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(fx.recovered_count, 0);
    assert_int_equal(state.recovered_bytes, 0);
    assert_int_equal(state.synced_end, 48);
    assert_int_equal(state.max_timestamp, 1000 + BATCHES - 1);
    fx.api->usage(part, &usage);
    assert_int_equal(usage.open_files, 0);
    assert_int_equal(usage.maps, 0);
    assert_true(usage.memory_bytes <= 2048);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_small_files_garbled(void **unused)
{
    (void)unused;
    static const char *const names[] = {"partition.metadata", "recovery-point", "log-start-offset"};
    struct sti_storage_partition *part = filled("t"), *copy;
    struct sti_storage_state state;
    assert_int_equal(fx.api->trim(part, 4, NULL), STI_OK);
    for (size_t i = 0; i < 3; i++) {
        for (int kind = 0; kind < 3; kind++) {
            char path[300];
            fx_copy_folder(&fx, "t", "k");
            fx_path(&fx, "k", names[i], path, sizeof path);
            if (kind == 0) {
                (void)unlink(path);
            } else {
                fx_spill(path, "\377garbage\0\n", kind == 1 ? 10 : 0);
            }
            fx_path(&fx, "k", "somebody-elses.file", path, sizeof path);
            fx_spill(path, "x", 1);
            assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
            assert_int_equal(state.written_end, 48);
            assert_int_equal(state.log_start, 4); /* both files tell it */
            assert_int_equal(fx.api->close(copy, NULL), STI_OK);
            assert_int_equal(access(path, F_OK), 0);
        }
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- faults -------------------------------------------------------------------------------- */

static const char *fault_point;
static int fault_errno, fault_after;

static int hook(const char *point)
{
    return fault_point != NULL && strcmp(point, fault_point) == 0 && fault_after-- <= 0
               ? fault_errno
               : 0;
}

static void arm(const char *point, int err_no, int after)
{
    fault_point = point;
    fault_errno = err_no;
    fault_after = after;
    sti_fault_set_hook(hook);
}

static void test_disk_full_leaves_the_log(void **unused)
{
    (void)unused;
    static const char *const points[] = {"segment.append.write", "segment.append.after_write",
                                         "segment.reserve", "segment.create"};
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    char path[300];
    struct stat st;
    int64_t next = BATCHES * 2;
    fx_segment_path(&fx, "t", 0, ".log", path, sizeof path);
    for (size_t p = 0; p < 4; p++) {
        for (int after = 0; after < 3; after++) {
            struct sti_storage_state before;
            uint64_t needed = 0;
            fx.api->state(part, &before);
            arm(points[p], ENOSPC, after);
            int rc = fx_append_epoch(&fx, part, next, 1, 9000, 1, 6, 0, &needed);
            sti_fault_set_hook(NULL);
            fx.api->state(part, &state);
            assert_int_equal(state.flags, 0);
            if (rc == STI_OK) {
                next += 6;
                continue;
            }
            assert_int_equal(rc, STI_E_DISK_FULL);
            assert_int_equal(needed, 6 * 9061);
            assert_int_equal(state.written_end, before.written_end);
            assert_int_equal(state.segment_count, before.segment_count);
            assert_int_equal(state.bytes, before.bytes);
        }
        assert_int_equal(fx_append(&fx, part, next, 1, 100, 1, 1), STI_OK);
        next++;
    }
    assert_int_equal(fx.failed_count, 0);
    check_reads(part, next);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    check_reads(part, next);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_write_error_poisons(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    arm("segment.append.write", EIO, 0);
    assert_int_equal(fx_append(&fx, part, 48, 1, 10, 1, 1), STI_E_IO);
    sti_fault_set_hook(NULL);
    assert_int_equal(fx.failed_count, 1);
    assert_int_equal(fx_append(&fx, part, 48, 1, 10, 1, 1), STI_E_POISONED);
    check_reads(part, 48);
    assert_int_equal(fx.api->close(part, NULL), STI_E_IO);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(state.written_end, 48);
    assert_int_equal(fx_append(&fx, part, 48, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_sync_error_poisons(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    int64_t synced;
    arm("flush.before_sync", EIO, 0);
    assert_int_equal(fx_sync(&fx, part, &synced), STI_E_IO);
    sti_fault_set_hook(NULL);
    fx.api->state(part, &state);
    assert_int_equal(state.flags, STI_STORAGE_STATE_POISONED);
    assert_true(state.synced_end < state.written_end);
    assert_int_equal(fx_append(&fx, part, 48, 1, 10, 1, 1), STI_E_POISONED);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_E_POISONED);
    assert_int_equal(fx.api->close(part, NULL), STI_E_IO);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(state.flags, 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* A crash at each step of a truncation leaves the old log or the new one. */
static void test_truncation_interrupted(void **unused)
{
    (void)unused;
    static const char *const points[] = {"truncate.after_copy", "small.before_rename",
                                         "truncate.before_rename", "truncate.before_unlink"};
    for (size_t p = 0; p < 4; p++) {
        struct sti_storage_partition *part, *copy;
        struct sti_storage_state state;
        part = filled("t");
        for (int i = BATCHES; i < 120; i++) {
            assert_int_equal(fx_append(&fx, part, i * 2, 2, PAYLOAD, 1, 1), STI_OK);
        }
        assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
        test_host_settle(fx.th, NULL);
        arm(points[p], EIO, 0);
        assert_int_not_equal(fx.api->truncate(part, 30, NULL), STI_OK);
        sti_fault_set_hook(NULL);
        fx_copy_folder(&fx, "t", "k");
        int rc = fx_open(&fx, "k", 0, &copy, &state);
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, p < 2 ? 240 : 30);
        check_reads(copy, state.written_end);
        assert_int_equal(fx_append(&fx, copy, state.written_end, 1, 10, 1, 1), STI_OK);
        check_reads(copy, state.written_end + 1);
        assert_int_equal(fx.api->close(copy, NULL), STI_OK);
        (void)fx.api->close(part, NULL);
        assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    }
}

static void test_removal_is_finished_at_start(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    char from[300], to[400], foreign[300];
    (void)snprintf(foreign, sizeof foreign, "%s/%s/not-ours.deleted", fx.dir, sti_plugin.name);
    assert_int_equal(mkdir(foreign, 0755), 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    (void)snprintf(from, sizeof from, "%s/%s/t-0", fx.dir, sti_plugin.name);
    (void)snprintf(to, sizeof to, "%s/%s/%s-0.%s.deleted", fx.dir, sti_plugin.name,
                   "0123456789abcdef0123456789abcdef", "0123456789abcdef");
    assert_int_equal(rename(from, to), 0);
    fx_stop(&fx);
    fx_start(&fx);
    fx_stop(&fx); /* waits for what was posted */
    assert_int_equal(access(to, F_OK), -1);
    assert_int_equal(access(foreign, F_OK), 0);
    fx_start(&fx);
}

static void test_blobs(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t");
    struct sti_storage_state state;
    void *data;
    size_t len;
    assert_int_equal(fx.api->blob_get(part, "producers", &data, &len, NULL), STI_E_NOT_FOUND);
    assert_int_equal(fx.api->blob_put(part, "producers", "abc", 3, NULL), STI_OK);
    assert_int_equal(fx.api->blob_put(part, "producers", "defgh", 5, NULL), STI_OK);
    arm("small.before_rename", ENOSPC, 0);
    assert_int_equal(fx.api->blob_put(part, "producers", "x", 1, NULL), STI_E_DISK_FULL);
    sti_fault_set_hook(NULL);
    static const char *const bad[] = {"", "..", "a/b", "A", "recovery-point", "x.log", "x.tmp"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(fx.api->blob_put(part, bad[i], "x", 1, NULL), STI_E_INVALID_ARGUMENT);
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(fx.api->blob_get(part, "producers", &data, &len, NULL), STI_OK);
    assert_int_equal(len, 5);
    assert_memory_equal(data, "defgh", 5);
    free(data);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- files and policies -------------------------------------------------------------------- */

static void test_open_files_are_bounded(void **unused)
{
    (void)unused;
    enum { PARTS = 30 };
    struct sti_storage_partition *parts[PARTS];
    struct sti_storage_state state;
    fx_stop(&fx);
    fx_option(&fx, "max_open_files", 8);
    fx_start(&fx);
    for (int i = 0; i < PARTS; i++) {
        char topic[16];
        (void)snprintf(topic, sizeof topic, "t%d", i);
        assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &parts[i], &state), STI_OK);
    }
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < PARTS; i++) {
            assert_int_equal(fx_append(&fx, parts[i], round * 2, 2, 3000, 1, 1), STI_OK);
            check_reads(parts[i], round * 2 + 2);
        }
    }
    uint64_t open_files = 0;
    for (int i = 0; i < PARTS; i++) {
        struct sti_storage_usage usage;
        fx.api->usage(parts[i], &usage);
        open_files += usage.open_files;
    }
    assert_in_range(open_files, 1, 16);
    for (int i = 0; i < PARTS; i++) {
        assert_int_equal(fx.api->close(parts[i], NULL), STI_OK);
    }
}

static struct sti_storage_partition *sharing;
static _Atomic int shared_appends;

/* What arrives during the first sync, on the thread that does it or on others. */
static int append_meanwhile(const char *point)
{
    if (strcmp(point, "flush.before_sync") == 0 && shared_appends == 0) {
        while (shared_appends < 299) {
            shared_appends++;
            assert_int_equal(fx_append(&fx, sharing, shared_appends, 1, 10, 1, 1), STI_OK);
        }
    }
    return 0;
}

/* An append syncs by itself when nobody is at it; those that come meanwhile share one sync. */
static void test_commit_shares_syncs(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    fx.settings.flush_policy = STI_FLUSH_COMMIT;
    fx.settings.segment_bytes = 1 << 20;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state), STI_OK);
    shared_appends = 0;
    sharing = part;
    sti_fault_set_hook(append_meanwhile);
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    sti_fault_set_hook(NULL);
    fx.api->state(part, &state);
    assert_int_equal(state.synced_end, 300);
    assert_in_range(fx.synced_count, 1, 2);
    uint64_t syncs =
        test_host_metric(fx.th, "streamit_storage_syncs_total", "storage=\"storage_mmap\"");
    assert_in_range(syncs, 1, 3);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx.synced, 300);
}

/* A small file counts only as it is written: nothing cut, added, or out of range is half believed.
 */
static void test_offset_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t offset; /* -1: refused */
    } cases[] = {
        {"0\n7\n", 7},  {"0\n9223372036854775807\n", INT64_MAX},
        {"", -1},       {"0\n9223372036854775808\n", -1},
        {"0\n", -1},    {"0\n-1\n", -1},
        {"0\n-\n", -1}, {"0\n 7\n", -1},
        {"0\n7", -1},   {"0\n7x\n", -1},
        {"1\n7\n", -1}, {"0 7\n", -1},
    };
    char path[512];
    int dir_fd = open(fx.dir, O_RDONLY | O_DIRECTORY);
    assert_true(dir_fd >= 0);
    assert_true(snprintf(path, sizeof path, "%s/offset", fx.dir) < (int)sizeof path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t offset = -1;
        fx_spill(path, cases[i].text, strlen(cases[i].text));
        assert_int_equal(smm_offset_read(dir_fd, "offset", &offset), cases[i].offset >= 0);
        assert_int_equal(offset, cases[i].offset);
    }
    assert_int_equal(close(dir_fd), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_tail_cut_at_every_byte),       CASE(test_garbage_and_zeros_behind),
        CASE(test_flip_every_byte_class),        CASE(test_damage_across_segments),
        CASE(test_synced_bytes_are_never_cut),   CASE(test_indexes_are_not_trusted),
        CASE(test_clean_end_reads_nothing),      CASE(test_small_files_garbled),
        CASE(test_disk_full_leaves_the_log),     CASE(test_write_error_poisons),
        CASE(test_sync_error_poisons),           CASE(test_truncation_interrupted),
        CASE(test_removal_is_finished_at_start), CASE(test_blobs),
        CASE(test_open_files_are_bounded),       CASE(test_offset_texts),
        CASE(test_commit_shares_syncs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
