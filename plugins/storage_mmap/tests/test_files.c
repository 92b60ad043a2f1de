/* test_files.c -- open files and maps: how many, which go first, and what readers hold of them. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_fixture.h"

#include "storage_mmap.h"

enum { OPEN_MAX = 8, SEGMENTS = 20, PAYLOAD = 16000, LEN = PAYLOAD + 61 };

static struct fixture fx;
static struct sti_storage_partition *part;

/* One batch a segment; all synced, so that no file is kept for its unsynced bytes. */
static int setup(void **state)
{
    struct sti_storage_state st;
    (void)state;
    fx_init(&fx, 3);
    fx_option(&fx, "max_open_files", OPEN_MAX);
    fx_option(&fx, "max_maps", 12);
    fx_option(&fx, "idle_close_ms", 86400000);
    fx_option(&fx, "scrub_bytes_per_s", 0);
    fx_start(&fx);
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    for (int i = 0; i < SEGMENTS; i++) {
        assert_int_equal(fx_append(&fx, part, i, 1, PAYLOAD, 1 + i, 1), STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(part->seg_count, SEGMENTS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    fx_fini(&fx);
    return 0;
}

static uint64_t metric(const char *name)
{
    return test_host_metric(fx.th, name, "storage=\"storage_mmap\"");
}

static void touch(int64_t offset)
{
    struct fx_read read;
    assert_int_equal(fx_read(&fx, part, offset, offset + 1, LEN, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, LEN);
    fx_read_release(&read);
}

static bool is_open(int segment)
{
    pthread_mutex_lock(&part->mu);
    bool open = part->segs[segment]->file != NULL;
    pthread_mutex_unlock(&part->mu);
    return open;
}

static unsigned open_count(void)
{
    unsigned count = 0;
    for (int i = 0; i < SEGMENTS; i++) {
        count += is_open(i) ? 1 : 0;
    }
    return count;
}

/* A file that is used now and then outlives any number that are used once. */
static void test_what_is_used_stays_open(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        for (int i = 2; i < SEGMENTS; i++) {
            touch(0);
            touch(1);
            assert_true(is_open(0) && is_open(1));
            touch(i);
            assert_true(is_open(i));
            assert_true(open_count() <= OPEN_MAX);
        }
    }
    assert_int_equal(metric("streamit_storage_mapped_segments"), 0);
}

/* Everything in between was read later than these: they are the ones that were closed. */
static void test_the_longest_unused_goes(void **state)
{
    (void)state;
    for (int i = 0; i < OPEN_MAX; i++) {
        touch(i);
    }
    (void)usleep(2000);
    for (int i = 2; i < OPEN_MAX; i++) {
        touch(i);
    }
    touch(OPEN_MAX);
    touch(OPEN_MAX + 1);
    assert_false(is_open(0));
    assert_false(is_open(1));
    for (int i = 2; i <= OPEN_MAX + 1; i++) {
        assert_true(is_open(i));
    }
}

/* What slow readers hold is counted, and its maps are bounded: the next read is refused by name,
 * and goes on when one of them is done. */
static void test_maps_held_by_readers(void **state)
{
    enum { HELD = 12 };
    struct fx_read held[HELD], read;
    (void)state;
    for (int i = 0; i < HELD; i++) {
        assert_int_equal(fx_read(&fx, part, i, i + 1, LEN, STI_READ_MEMORY, &held[i]), STI_OK);
    }
    assert_int_equal(metric("streamit_storage_mapped_segments"), HELD);
    assert_true(open_count() <= OPEN_MAX);
    assert_in_range(metric("streamit_storage_held_segments"), HELD - OPEN_MAX, HELD);
    assert_int_equal(fx_read(&fx, part, HELD, HELD + 1, LEN, STI_READ_MEMORY, &read),
                     STI_E_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(read.msg, "max_maps"));
    touch(HELD); /* without a map it goes on */
    for (int i = 0; i < HELD; i++) {
        assert_int_equal(fx_read_check(&held[i], i), i + 1);
        fx_read_release(&held[i]);
    }
    for (int i = 0; i < 2000 && metric("streamit_storage_held_segments") > 0; i++) {
        test_host_settle(fx.th, NULL);
    }
    assert_int_equal(metric("streamit_storage_held_segments"), 0);
    assert_int_equal(fx_read(&fx, part, HELD, HELD + 1, LEN, STI_READ_MEMORY, &read), STI_OK);
    fx_read_release(&read);
}

/* The bytes of a slice are those of the map, and the engine reads none of them into memory of its
 * own: headers, and entries of the index, are all that it looks at. */
static void test_slices_are_not_copied(void **state)
{
    struct fx_read read;
    (void)state;
    for (int round = 0; round < 2; round++) {
        uint64_t copied = metric("streamit_storage_read_copied_bytes_total");
        uint64_t sliced = metric("streamit_storage_read_slice_bytes_total");
        for (int64_t at = 0; at < SEGMENTS; at++) {
            assert_int_equal(fx_read(&fx, part, at, at + 1, LEN, STI_READ_MEMORY, &read), STI_OK);
            struct smm_file *file = (struct smm_file *)(void *)read.slices[0].owner;
            assert_ptr_equal(read.slices[0].data, file->map + read.slices[0].file_pos);
            fx_read_release(&read);
            for (int i = 0; i < 2000 && metric("streamit_storage_held_segments") > 0; i++) {
                test_host_settle(fx.th, NULL);
            }
        }
        copied = metric("streamit_storage_read_copied_bytes_total") - copied;
        sliced = metric("streamit_storage_read_slice_bytes_total") - sliced;
        assert_int_equal(sliced, SEGMENTS * LEN);
        assert_true(copied <= SEGMENTS * 2048);
    }
}

/* A segment that is evicted gives its reserved space back. */
static void test_eviction_gives_space_back(void **state)
{
    struct sti_storage_partition *parts[OPEN_MAX + 2];
    struct sti_storage_state st;
    (void)state;
    fx.settings.segment_bytes = 1 << 20;
    for (int i = 0; i < OPEN_MAX + 2; i++) {
        char topic[8];
        (void)snprintf(topic, sizeof topic, "p%d", i);
        assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &parts[i], &st), STI_OK);
        assert_int_equal(fx_append(&fx, parts[i], 0, 1, 100, 1, 1), STI_OK);
        assert_true(parts[i]->segs[0]->reserved_end > parts[i]->segs[0]->size);
        assert_int_equal(fx_sync(&fx, parts[i], NULL), STI_OK);
    }
    assert_null(parts[0]->segs[0]->file);
    assert_int_equal(parts[0]->segs[0]->reserved_end, parts[0]->segs[0]->size);
    for (int i = 0; i < OPEN_MAX + 2; i++) {
        assert_int_equal(fx_append(&fx, parts[i], 1, 1, 100, 1, 1), STI_OK);
        assert_int_equal(fx.api->close(parts[i], NULL), STI_OK);
    }
}

/* A segment never stands on the list without the file that it was made with: whoever found it so
 * would open by name what a truncation is about to replace, and from then on the log would be
 * written to a file that no name leads to. Here nobody can be given a file for a while. */
static void *cut_it(void *arg)
{
    (void)arg;
    return (void *)(intptr_t)fx.api->truncate(part, SEGMENTS - 1, NULL);
}

static bool stands_without_file(void)
{
    pthread_mutex_lock(&part->mu);
    struct smm_segment *seg = smm_segment_active(part);
    bool bare = seg->exists && seg->pinned && seg->file == NULL;
    pthread_mutex_unlock(&part->mu);
    return bare;
}

static void test_a_cut_brings_its_file(void **state)
{
    pthread_t thread;
    void *rc;
    bool bare = false;
    struct stat by_name, by_file;
    char name[64], path[400];
    struct sti_storage_state st;
    struct fx_read read;
    (void)state;
    touch(SEGMENTS - 1); /* its file is open */
    pthread_mutex_lock(&part->store->files_mu);
    assert_int_equal(pthread_create(&thread, NULL, cut_it, NULL), 0);
    for (int i = 0; i < 200 && !bare; i++) {
        bare = stands_without_file();
        (void)usleep(1000);
    }
    pthread_mutex_unlock(&part->store->files_mu);
    assert_int_equal(pthread_join(thread, &rc), 0);
    assert_int_equal((intptr_t)rc, STI_OK);
    assert_false(bare);
    assert_int_equal(fx_append(&fx, part, SEGMENTS - 1, 1, PAYLOAD, 1, 1), STI_OK);
    (void)snprintf(name, sizeof name, "%020d.log", SEGMENTS - 1);
    fx_path(&fx, "t", name, path, sizeof path);
    assert_int_equal(fx_read(&fx, part, SEGMENTS - 1, SEGMENTS, LEN, 0, &read), STI_OK);
    assert_int_equal(fstat(read.slices[0].fd, &by_file), 0);
    assert_int_equal(stat(path, &by_name), 0);
    assert_int_equal(by_file.st_ino, by_name.st_ino);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
    assert_int_equal(st.written_end, SEGMENTS);
    touch(SEGMENTS - 1);
}

static int cut_before_view(const char *point)
{
    if (strcmp(point, "read.before_view") == 0) {
        sti_fault_set_hook(NULL);
        assert_int_equal(fx.api->truncate(part, SEGMENTS - 1, NULL), STI_OK);
    }
    return 0;
}

/* The log ends at the very offset by the time the read looks: nothing is there, and no damage. */
static void test_a_read_that_a_cut_overtakes(void **state)
{
    struct fx_read read;
    (void)state;
    sti_fault_set_hook(cut_before_view);
    assert_int_equal(fx_read(&fx, part, SEGMENTS - 1, SEGMENTS, LEN, 0, &read), STI_OK);
    assert_null(sti_fault_set_hook(NULL));
    assert_int_equal(read.op.slice_count, 0);
    assert_int_equal(read.op.bytes, 0);
    fx_read_release(&read);
    touch(SEGMENTS - 2);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_what_is_used_stays_open),     CASE(test_the_longest_unused_goes),
        CASE(test_maps_held_by_readers),        CASE(test_slices_are_not_copied),
        CASE(test_eviction_gives_space_back),   CASE(test_a_cut_brings_its_file),
        CASE(test_a_read_that_a_cut_overtakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
