/* test_flush.c -- the synced end is never ahead of the truth, whatever happens beside a sync.
 *
 * The truth is told by the segments: each knows how many of its bytes a sync has covered. The races
 * are made to happen, through the fault points that lie in their windows.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage_fixture.h"

#include "log_fixture.h"
#include "storage_mmap.h"

enum { PAYLOAD = 939, LEN = PAYLOAD + 61 };

static struct fixture fx;
static struct sti_storage_partition *part;

static int setup_with(uint32_t threads)
{
    struct sti_storage_state state;
    fx_init(&fx, threads);
    fx_start(&fx);
    return fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state);
}

static int setup(void **state)
{
    (void)state;
    return setup_with(3);
}

static int setup_one_thread(void **state)
{
    (void)state;
    return setup_with(1);
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    if (part != NULL) {
        (void)fx.api->close(part, NULL);
    }
    part = NULL;
    fx_fini(&fx);
    return 0;
}

static void append(int64_t offset, uint32_t batches)
{
    assert_int_equal(fx_append(&fx, part, offset, 1, PAYLOAD, 1, batches), STI_OK);
}

/* Every byte below the synced end was covered by a sync. @return the synced end */
static int64_t check_truth(void)
{
    bool ok = true;
    pthread_mutex_lock(&part->mu);
    int64_t end = part->synced_end;
    for (uint32_t i = 0; i < part->seg_count; i++) {
        const struct smm_segment *seg = part->segs[i];
        int64_t covered = seg->base_offset + seg->synced_size / LEN;
        int64_t next = i + 1 < part->seg_count ? part->segs[i + 1]->base_offset : part->written_end;
        int64_t claimed = end < next ? end : next;
        ok = ok && (claimed <= seg->base_offset || covered >= claimed);
    }
    pthread_mutex_unlock(&part->mu);
    assert_true(ok);
    return end;
}

/* ---- an append between the search and the publishing --------------------------------------- */

struct sync_twice {
    struct sti_storage_sync op;
    _Atomic int done, seen_syncs, appended;
};
static struct sync_twice twice;

static void twice_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    (void)err;
    assert_int_equal(status, STI_OK);
    ((struct sync_twice *)(void *)op)->done++;
}

/* During the first sync somebody else asks for one: a second round then finds nothing to do. While
 * it is under way, an append is published. */
static int append_in_the_window(const char *point)
{
    if (strcmp(point, "flush.before_sync") == 0 && twice.seen_syncs++ == 0) {
        twice.op = (struct sti_storage_sync){.struct_size = sizeof twice.op, .done = twice_done};
        assert_int_equal(fx.api->sync(part, &twice.op), STI_OK);
    } else if (strcmp(point, "flush.before_publish") == 0 && twice.seen_syncs == 1 &&
               part->synced_end == part->written_end && twice.appended++ == 0) {
        append(part->written_end, 1);
    }
    return 0;
}

static void test_append_beside_an_empty_round(void **state)
{
    (void)state;
    memset(&twice, 0, sizeof twice);
    append(0, 3);
    sti_fault_set_hook(append_in_the_window);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    for (int i = 0; i < 1000 && twice.done == 0; i++) {
        test_host_settle(fx.th, NULL);
    }
    sti_fault_set_hook(NULL);
    assert_int_equal(twice.done, 1);
    assert_int_equal(twice.appended, 1);
    assert_int_equal(check_truth(), 3);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(check_truth(), 4);
}

/* ---- a dirty segment behind synced ones ---------------------------------------------------- */

struct blocker {
    struct sti_task task;
    pthread_mutex_t mu;
};

static void block(struct sti_task *task)
{
    struct blocker *b = (struct blocker *)(void *)task;
    pthread_mutex_lock(&b->mu);
    pthread_mutex_unlock(&b->mu);
}

/* A truncation copies the segment that it cuts, synced, while an older one may be dirty; then the
 * log rolls on before the sync gets a thread. */
static void test_older_segment_is_not_missed(void **state)
{
    (void)state;
    struct blocker blocker = {.task = {.run = block}};
    const struct sti_host *host = test_host_for(fx.th, "storage_mmap");
    pthread_mutex_init(&blocker.mu, NULL);
    pthread_mutex_lock(&blocker.mu);
    host->post(host->ctx, &blocker.task); /* the only thread */
    append(0, 32);                        /* fills two segments */
    assert_int_equal(part->seg_count, 2);
    assert_int_equal(fx.api->truncate(part, 31, NULL), STI_OK);
    assert_int_equal(part->segs[0]->synced_size, 0);
    assert_int_equal(part->segs[1]->synced_size, part->segs[1]->size);
    /* Too large for what is left of the second. */
    assert_int_equal(fx_append(&fx, part, 31, 1, PAYLOAD + 500, 1, 1), STI_OK);
    assert_int_equal(part->seg_count, 3);
    pthread_mutex_unlock(&blocker.mu);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(check_truth(), 32);
    test_host_settle(fx.th, NULL);
    pthread_mutex_destroy(&blocker.mu);
}

/* ---- nothing to sync with ------------------------------------------------------------------ */

static _Atomic int refusals;

static int no_descriptors(const char *point)
{
    return strcmp(point, "file.open") == 0 && refusals-- > 0 ? EMFILE : 0;
}

/* A sync that could not begin is no failed sync: it is put off, and those who wait get it. */
static void test_no_descriptor_is_no_failed_sync(void **state)
{
    (void)state;
    append(0, 3);
    pthread_mutex_lock(&part->mu);
    struct smm_file *file = smm_file_detach(part->segs[0]);
    pthread_mutex_unlock(&part->mu);
    smm_file_forget(file);
    refusals = 2;
    sti_fault_set_hook(no_descriptors);
    int64_t synced;
    assert_int_equal(fx_sync(&fx, part, &synced), STI_OK);
    sti_fault_set_hook(NULL);
    assert_int_equal(synced, 3);
    assert_int_equal(check_truth(), 3);
    assert_int_equal(fx.failed_count, 0);
    assert_true(refusals <= 0);
    assert_true(test_host_logged(fx.th, "sync_put_off") > 0);
    append(3, 1);
}

/* ---- many at once -------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *look_up(void *arg)
{
    uint64_t *found = arg;
    while (!stop) {
        int64_t offset, at;
        int rc = fx.api->offset_for_time(part, 1, &offset, &at, NULL);
        assert_true(rc == STI_OK || rc == STI_E_NOT_FOUND);
        struct sti_storage_state state;
        fx.api->state(part, &state);
        assert_true(state.synced_end <= state.written_end);
        *found += rc == STI_OK ? 1 : 0;
    }
    return NULL;
}

/* Appends, rolls, trims, truncations and syncs beside lookups: the ends stay true. */
static void test_truth_under_load(void **state)
{
    (void)state;
    pthread_t thread;
    uint64_t found = 0;
    int64_t end = 0;
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, look_up, &found), 0);
    for (int round = 0; round < 300; round++) {
        append(end, 7);
        end += 7;
        if (round % 3 == 0) {
            assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
        }
        if (round % 5 == 0) {
            assert_int_equal(fx.api->trim(part, end - 30 > 0 ? end - 30 : 0, NULL), STI_OK);
        }
        if (round % 11 == 0) {
            assert_int_equal(fx.api->truncate(part, end - 10 > 0 ? end - 10 : 0, NULL), STI_OK);
            end = end - 10 > 0 ? end - 10 : 0;
        }
        (void)check_truth();
    }
    stop = true;
    pthread_join(thread, NULL);
    assert_true(found > 0);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(check_truth(), end);
}

/* What was written under another policy is synced as soon as the policy is `commit`. */
static void test_commit_holds_for_what_is_written(void **state)
{
    (void)state;
    append(0, 3);
    assert_int_equal(check_truth(), 0);
    struct sti_storage_settings settings = fx.settings;
    settings.flush_policy = STI_FLUSH_COMMIT;
    assert_int_equal(fx.api->configure(part, &settings, NULL), STI_OK);
    const struct timespec moment = {.tv_nsec = 1000000};
    for (int i = 0; i < 10000 && check_truth() < 3; i++) {
        nanosleep(&moment, NULL);
    }
    assert_int_equal(check_truth(), 3);
}

/* ---- a sync of the writer's that fails ----------------------------------------------------- */

static _Atomic int job_syncs, failed_syncs;

static void *append_and_fail(void *arg)
{
    int *rc = arg;
    *rc = fx_append(&fx, part, 3, 1, PAYLOAD, 1, 1);
    return NULL;
}

static int first_sync_fails(const char *point)
{
    if (strcmp(point, "flush.before_sync") != 0) {
        return 0;
    }
    return failed_syncs++ == 0 ? EIO : 0;
}

static void set_policy(int32_t policy)
{
    pthread_mutex_lock(&part->mu);
    part->settings.flush_policy = policy;
    pthread_mutex_unlock(&part->mu);
}

/* The sync before an append fails; the job, which is wanted too, must not try it again and succeed,
 * however long it takes until the writer has come to poison the partition. */
static void test_failed_group_is_not_tried_again(void **state)
{
    (void)state;
    pthread_t thread;
    int rc = STI_OK;
    append(0, 3);
    ((struct smm_conf *)(uintptr_t)part->store->conf)->flush_group_bytes_max = 4 * LEN - 1;
    set_policy(STI_FLUSH_COMMIT);
    failed_syncs = 0;
    sti_fault_set_hook(first_sync_fails);
    pthread_mutex_lock(&part->write_mu); /* the writer comes no further than the failure */
    assert_int_equal(pthread_create(&thread, NULL, append_and_fail, &rc), 0);
    const struct timespec moment = {.tv_nsec = 1000000};
    for (int i = 0; i < 100 && failed_syncs < 2; i++) {
        nanosleep(&moment, NULL);
        test_host_settle(fx.th, NULL);
    }
    pthread_mutex_unlock(&part->write_mu);
    pthread_join(thread, NULL);
    test_host_settle(fx.th, NULL);
    sti_fault_set_hook(NULL);
    assert_int_equal(rc, STI_E_IO);
    assert_int_equal(failed_syncs, 1);
    assert_int_equal(check_truth(), 0);
    assert_int_equal(fx.failed_count, 1);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_E_POISONED);
}

static void refused_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    (void)err;
    assert_int_not_equal(status, STI_OK);
    ((struct sync_twice *)(void *)op)->done++;
}

/* Somebody wants a sync while the writer's own is under way, and fails. */
static int group_sync_fails(const char *point)
{
    if (strcmp(point, "flush.before_sync") == 0) {
        job_syncs++;
    } else if (strcmp(point, "segment.append.sync_group") == 0 && failed_syncs++ == 0) {
        const struct timespec moment = {.tv_nsec = 1000000};
        twice.op = (struct sti_storage_sync){.struct_size = sizeof twice.op, .done = refused_done};
        assert_int_equal(fx.api->sync(part, &twice.op), STI_OK);
        for (int i = 0; i < 50 && job_syncs == 0; i++) {
            nanosleep(&moment, NULL);
        }
        return EIO;
    }
    return 0;
}

/* Of two syncs that meet a write error only one is told: none of the job's runs beside the
 * writer's, nor after it has failed. */
static void test_no_job_beside_the_writers_sync(void **state)
{
    (void)state;
    append(0, 12);
    set_policy(STI_FLUSH_COMMIT);
    failed_syncs = job_syncs = 0;
    memset(&twice, 0, sizeof twice);
    sti_fault_set_hook(group_sync_fails);
    assert_int_equal(fx_append(&fx, part, 12, 1, PAYLOAD, 1, 6), STI_E_IO); /* two segments */
    for (int i = 0; i < 1000 && twice.done == 0; i++) {
        test_host_settle(fx.th, NULL);
    }
    sti_fault_set_hook(NULL);
    assert_int_equal(twice.done, 1);
    assert_int_equal(failed_syncs, 1);
    assert_int_equal(job_syncs, 0);
    assert_int_equal(check_truth(), 0);
    assert_int_equal(fx.failed_count, 1);
}

/* A segment that a truncation cannot remove must not pass as removed: its records would be back at
 * the next open. The note stays, by which that open finishes the cut. */
static void test_what_cannot_be_removed_is_not_forgotten(void **state)
{
    char path[512], away[520], note[512];
    struct sti_storage_state st;
    (void)state;
    append(0, 20);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    fx_segment_path(&fx, "t", 16, ".log", path, sizeof path);
    fx_path(&fx, "t", "truncation", note, sizeof note);
    (void)snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(mkdir(path, 0700), 0); /* which nobody can unlink */
    assert_int_equal(fx.api->truncate(part, 10, NULL), STI_E_IO);
    assert_int_equal(fx.failed_count, 1);
    assert_int_equal(access(note, F_OK), 0);
    assert_int_equal(fx.api->close(part, NULL), STI_E_IO);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
    assert_int_equal(st.written_end, 10);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(note, F_OK), -1);
    append(10, 1);
}

#define CASE(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_append_beside_an_empty_round, setup),
        CASE(test_older_segment_is_not_missed, setup_one_thread),
        CASE(test_no_descriptor_is_no_failed_sync, setup),
        CASE(test_truth_under_load, setup),
        CASE(test_commit_holds_for_what_is_written, setup),
        CASE(test_failed_group_is_not_tried_again, setup),
        CASE(test_no_job_beside_the_writers_sync, setup),
        CASE(test_what_cannot_be_removed_is_not_forgotten, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
