/* test_space.c -- how much room there is, and what is given back when it is little.
 *
 * The program is linked so that fstatvfs says what a test wants it to say. */
#include "storage_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "../storage_mmap.h"
#include "streamit/fault.h"

int __real_fstatvfs64(int fd, struct statvfs *st);
int __wrap_fstatvfs64(int fd, struct statvfs *st);

static struct {
    bool on;
    uint64_t total, free;
    int error;
} told;

int __wrap_fstatvfs64(int fd, struct statvfs *st)
{
    if (told.error != 0) {
        errno = told.error;
        return -1;
    }
    int rc = __real_fstatvfs64(fd, st);
    if (told.on) {
        st->f_frsize = 4096;
        st->f_blocks = told.total / 4096;
        st->f_bavail = told.free / 4096;
    }
    return rc;
}

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    memset(&told, 0, sizeof told);
    fx_init(&fx, 2);
    fx.settings.segment_bytes = 1 << 24;
    fx_start(&fx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    memset(&told, 0, sizeof told);
    fx_fini(&fx);
    return 0;
}

static struct sti_storage_space space(void)
{
    struct sti_storage_space out;
    struct sti_err err = {0};
    assert_int_equal(fx.api->space(fx.self, &out, &err), STI_OK);
    assert_int_equal(out.struct_size, sizeof out);
    return out;
}

/* Bytes that are allocated behind the end of a partition's only segment. */
static uint64_t reserved(const char *topic)
{
    char path[512];
    struct stat st;
    fx_path(&fx, topic, "00000000000000000000.log", path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    uint64_t blocks = (uint64_t)st.st_blocks * 512u, size = (uint64_t)st.st_size;
    return blocks > size ? blocks - size : 0;
}

static struct sti_storage_partition *partition_with(const char *topic, uint32_t batches)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, 1000, 1000, batches), STI_OK);
    return part;
}

/* Nobody has used it for long. */
static void make_idle(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    struct smm_file *file = smm_segment_active(part)->file;
    assert_non_null(file);
    atomic_store(&file->used_us, 0);
    pthread_mutex_unlock(&part->mu);
}

static void test_tells_the_file_system(void **state)
{
    (void)state;
    told.on = true;
    told.total = UINT64_C(1) << 40;
    told.free = UINT64_C(123) << 20;
    struct sti_storage_space got = space();
    assert_int_equal(got.total_bytes, told.total);
    assert_int_equal(got.free_bytes, told.free);
    struct sti_err err = {0};
    told.error = EIO;
    assert_int_equal(fx.api->space(fx.self, &got, &err), STI_E_IO);
    assert_non_null(strstr(err.msg, "storage_mmap: ask for its free space: "));
    assert_int_equal(got.total_bytes, 0);
}

static void test_quiet_partitions_give_back(void **state)
{
    (void)state;
    struct sti_storage_partition *quiet = partition_with("quiet", 200);
    struct sti_storage_partition *busy = partition_with("busy", 200);
    uint64_t kept = reserved("quiet");
    assert_true(kept >= 65536);
    told.on = true;
    told.total = UINT64_C(1) << 36;
    told.free = UINT64_C(1) << 35;
    make_idle(quiet);
    (void)space(); /* there is plenty: nothing changes */
    assert_int_equal(reserved("quiet"), kept);
    told.free = UINT64_C(1) << 30;
    (void)space();
    assert_true(reserved("quiet") < 4096);
    assert_true(reserved("busy") >= 65536);
    /* What was given back is reserved again by the next append. */
    told.free = told.total;
    (void)space();
    assert_int_equal(fx_append(&fx, quiet, 200, 1, 1000, 1000, 1), STI_OK);
    assert_true(reserved("quiet") >= 65536);
    struct fx_read read;
    assert_int_equal(fx_read(&fx, quiet, 0, 201, 1 << 24, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 201);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(quiet, NULL), STI_OK);
    assert_int_equal(fx.api->close(busy, NULL), STI_OK);
}

/* A sixty-fourth of what is free at the most; with nothing free, exactly what is written. */
static void test_reserves_less_when_scarce(void **state)
{
    (void)state;
    told.on = true;
    told.total = UINT64_C(64) << 20;
    told.free = UINT64_C(1) << 20;
    (void)space();
    struct sti_storage_partition *part = partition_with("little", 300);
    assert_true(reserved("little") <= 16384 + 4096);
    told.free = 0;
    (void)space();
    assert_int_equal(fx_append(&fx, part, 300, 1, 1000, 1000, 100), STI_OK);
    assert_true(reserved("little") < 4096);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* A partition that is thrown away is not synced: that would take as long as the disk is slow. */
static void test_discard_syncs_nothing(void **state)
{
    (void)state;
    struct sti_storage_partition *part = partition_with("gone", 100);
    const char *labels = "storage=\"storage_mmap\"";
    uint64_t syncs = test_host_metric(fx.th, "streamit_storage_syncs_total", labels);
    assert_int_equal(fx_remove(&fx, "gone"), STI_E_IN_USE);
    struct fx_read read; /* a slice outlives it */
    assert_int_equal(fx_read(&fx, part, 0, 100, 1 << 24, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx.api->discard(part, NULL), STI_OK);
    assert_int_equal(test_host_metric(fx.th, "streamit_storage_syncs_total", labels), syncs);
    assert_int_equal(fx_remove(&fx, "gone"), STI_OK);
    test_host_settle(fx.th, NULL);
    assert_int_equal(fx_read_check(&read, 0), 100);
    fx_read_release(&read);
    /* Without a removal it is what a death of the process leaves: all of it. */
    struct sti_storage_state opened;
    part = partition_with("stays", 100);
    assert_int_equal(fx.api->discard(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "stays", 0, &part, &opened), STI_OK);
    assert_int_equal(opened.written_end, 100);
    assert_true(opened.recovered_bytes > 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_true(test_host_metric(fx.th, "streamit_storage_syncs_total", labels) > syncs);
}

/* No byte can be written: not a small file, not an index entry. */
static int nothing_is_written(const char *point)
{
    return strncmp(point, "small.", 6) == 0 || strncmp(point, "index.", 6) == 0 ? ENOSPC : 0;
}

/* A log opens on a full disk whatever its side files say: clean or not, indexes gone, metadata
 * garbled. What could not be written is, when there is room again. */
static void test_opens_when_nothing_can_be_written(void **state)
{
    (void)state;
    char meta[512], index[512];
    struct sti_storage_state opened;
    struct fx_read read;
    struct sti_storage_partition *part = partition_with("t", 200);
    fx_path(&fx, "t", "partition.metadata", meta, sizeof meta);
    fx_path(&fx, "t", "00000000000000000000.index", index, sizeof index);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    for (int round = 0; round < 3; round++) { /* after an orderly end, then after none */
        FILE *file = fopen(meta, "w");
        assert_non_null(file);
        assert_true(fputs("no such thing\n", file) >= 0);
        assert_int_equal(fclose(file), 0);
        (void)remove(index);
        sti_fault_set_hook(nothing_is_written);
        assert_int_equal(fx_open(&fx, "t", 0, &part, &opened), STI_OK);
        assert_int_equal(opened.written_end, 200);
        assert_int_equal(opened.flags, 0);
        assert_int_equal(fx_read(&fx, part, 100, 200, 1 << 24, STI_READ_MEMORY, &read), STI_OK);
        assert_int_equal(fx_read_check(&read, 100), 200);
        fx_read_release(&read);
        assert_int_equal(round == 2 ? STI_OK : fx.api->discard(part, NULL), STI_OK);
        sti_fault_set_hook(NULL);
    }
    assert_int_equal(fx_append(&fx, part, 200, 1, 1000, 1000, 1), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &opened), STI_OK);
    assert_int_equal(opened.written_end, 201);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tells_the_file_system, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quiet_partitions_give_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserves_less_when_scarce, setup, teardown),
        cmocka_unit_test_setup_teardown(test_opens_when_nothing_can_be_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_discard_syncs_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
