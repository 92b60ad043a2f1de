/* storage_speed.c -- figures of the storage engine beside the limits measured in the same run. Not
 * a test: run it by hand on a quiet machine, `storage_speed [FOLDER [RESERVE_BYTES_MAX]]` on the
 * file system in question.
 *
 *   append   1 MB batches, onroll, against a bare pwritev loop into a file of the same size
 *   commit   1 KB appends, each waited for, against a bare pwritev + fdatasync loop
 *   read     1 MB reads of a warm log as mapped slices, and at the tail without waiting
 *   open     a partition with many segments after an orderly close, and after a kill
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "storage_fixture.h"

enum { MB = 1 << 20, BATCHES = 1024, SEGMENT_MB = 128, COMMITS = 300, TURN = 8 };

static struct fixture fx;
static uint8_t *batch;

static double now_s(void)
{
    return (double)sti_now_us(test_host_for(fx.th, "storage_mmap")) / 1e6;
}

static void answered(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    (void)op;
    if (status != STI_OK) {
        (void)fprintf(stderr, "append: %s\n", err->msg);
        exit(1);
    }
}

/* Append one batch without making its bytes: only what the engine does is timed. */
static void append_one(struct sti_storage_partition *part, int64_t offset, size_t len)
{
    struct sti_slice slice =
        sti_slice_borrow(batch + STI_BATCH_PATCH_LEN, len - STI_BATCH_PATCH_LEN);
    struct sti_append_batch row = {.struct_size = sizeof row,
                                   .slice_count = 1,
                                   .slices = &slice,
                                   .len = len,
                                   .base_offset = offset,
                                   .last_offset = offset,
                                   .max_timestamp = 1};
    struct sti_append_batch *rows[] = {&row};
    struct sti_storage_append op = {
        .struct_size = sizeof op, .batch_count = 1, .batches = rows, .done = answered};
    sti_batch_patch(row.head, offset, len, 0);
    if (fx.api->append(part, &op) != STI_OK) {
        exit(1);
    }
}

static double our_append(struct sti_storage_partition *part, int64_t first, int count)
{
    double begin = now_s();
    for (int i = 0; i < count; i++) {
        append_one(part, first + i, MB);
    }
    return now_s() - begin;
}

static double bare_append(int fd, int first, int count)
{
    double begin = now_s();
    for (int i = 0; i < count; i++) {
        struct iovec iov[2] = {{batch, 16}, {batch + 16, MB - 16}};
        if (pwritev(fd, iov, 2, (off_t)(first + i) * MB) != MB) {
            exit(1);
        }
    }
    return now_s() - begin;
}

/* Turns are short and alternate, so that both meet the same disk, and the same page cache. */
static void appends(struct sti_storage_partition *part, int round)
{
    double ours = 0, bare = 0;
    char path[300];
    (void)snprintf(path, sizeof path, "%s/bare", fx.dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0640);
    for (int i = 0; i < BATCHES; i += TURN) {
        bare += bare_append(fd, i, TURN);
        ours += our_append(part, (int64_t)round * BATCHES + i, TURN);
    }
    (void)close(fd);
    (void)unlink(path);
    printf("append 1 MB: %.0f MB/s, bare %.0f MB/s: %.0f %%\n", BATCHES / ours, BATCHES / bare,
           bare / ours * 100);
}

static double warm_read(struct sti_storage_partition *part, int64_t end, uint32_t flags)
{
    struct fx_read read;
    double begin = now_s();
    int64_t next = 0;
    uint64_t bytes = 0;
    while (next < end) {
        if (fx_read(&fx, part, next, end, MB, flags, &read) != STI_OK) {
            exit(1);
        }
        bytes += read.op.bytes;
        next += (int64_t)(read.op.bytes / MB);
        fx_read_release(&read);
    }
    return (double)bytes / MB / (now_s() - begin);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void commits(void)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    double ours[COMMITS], bare[COMMITS];
    char path[300];
    fx.settings.flush_policy = STI_FLUSH_COMMIT;
    (void)fx_open(&fx, "commit", STI_STORAGE_CREATE, &part, &state);
    (void)snprintf(path, sizeof path, "%s/bare", fx.dir);
    int fd = open(path, O_RDWR | O_CREAT, 0640);
    for (int i = 0; i < COMMITS; i++) {
        double begin = now_s();
        append_one(part, i, 1024);
        (void)fx_sync(&fx, part, NULL);
        ours[i] = now_s() - begin;
        begin = now_s();
        struct iovec iov = {batch, 1024};
        if (pwritev(fd, &iov, 1, (off_t)i * 1024) != 1024 || fdatasync(fd) != 0) {
            exit(1);
        }
        bare[i] = now_s() - begin;
    }
    close(fd);
    qsort(ours, COMMITS, sizeof *ours, by_value);
    qsort(bare, COMMITS, sizeof *bare, by_value);
    printf("commit 1 KB p50: %.0f us, bare %.0f us\n", ours[COMMITS / 2] * 1e6,
           bare[COMMITS / 2] * 1e6);
    (void)fx.api->close(part, NULL);
}

static void many_segments(void)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    fx.settings.flush_policy = STI_FLUSH_ONROLL;
    fx.settings.segment_bytes = 2000;
    (void)fx_open(&fx, "many", STI_STORAGE_CREATE, &part, &state);
    for (int i = 0; i < 5000; i++) {
        append_one(part, i, 2000);
    }
    (void)fx.api->close(part, NULL);
    double begin = now_s();
    (void)fx_open(&fx, "many", 0, &part, &state);
    printf("open of %u segments: %.1f ms, %llu log bytes read\n", state.segment_count,
           (now_s() - begin) * 1e3, (unsigned long long)state.recovered_bytes);
    (void)fx.api->close(part, NULL);
}

int main(int argc, char **argv)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    if (argc > 1) {
        (void)setenv("TMPDIR", argv[1], 1);
    }
    batch = malloc(MB);
    (void)fx_batch(batch, 0, 1, MB - STI_BATCH_HEADER_LEN, 0, 1);
    fx_init(&fx, 4);
    fx.settings.segment_bytes = (int64_t)SEGMENT_MB * MB;
    fx.settings.index_interval_bytes = 4096;
    if (argc > 2) {
        fx_option(&fx, "reserve_bytes_max", strtoll(argv[2], NULL, 10));
    }
    fx_start(&fx);
    (void)fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state);
    for (int round = 0; round < 5; round++) {
        appends(part, round);
        (void)fx.api->trim(part, (int64_t)round * BATCHES, NULL);
    }
    (void)fx.api->close(part, NULL);
    (void)fx_remove(&fx, "t");
    (void)fx_open(&fx, "r", STI_STORAGE_CREATE, &part, &state);
    (void)our_append(part, 0, BATCHES);
    printf("warm read, mapped: %.0f MB/s\n", warm_read(part, BATCHES, STI_READ_MEMORY));
    printf("again: %.0f MB/s\n", warm_read(part, BATCHES, STI_READ_MEMORY));
    printf("again, no wait: %.0f MB/s\n",
           warm_read(part, BATCHES, STI_READ_MEMORY | STI_READ_NO_WAIT));
    printf("file ranges: %.0f MB/s\n", warm_read(part, BATCHES, 0));
    (void)fx.api->close(part, NULL);
    commits();
    many_segments();
    fx_fini(&fx);
    free(batch);
    return 0;
}
