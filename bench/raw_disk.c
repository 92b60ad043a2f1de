/* raw_disk.c -- the limits of the disk: a sync, and a sequential read of what is in no cache.
 *
 *     raw_disk sync FOLDER COUNT SIZE     {"sync_p50_us":N,"sync_p99_us":N,"write_sync_p50_us":N}
 *     raw_disk read FILE...               {"bytes":N,"seconds":S,"mb_per_s":N,"cached_pct":N}
 *     raw_disk drop FILE...               {"bytes":N,"cached_pct":N}
 *
 * sync: COUNT times, SIZE bytes behind the last ones into space that was reserved, and fdatasync.
 * drop: sync the files and ask the kernel to forget their pages (posix_fadvise DONTNEED, which
 * needs no privilege, and leaves pages that somebody has mapped); `cached_pct` is what of them is
 * in memory all the same. read: the same first, then the files one after the other, 1 MiB a call.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "raw.h"

enum { BLOCK = 1 << 20, COUNT_MAX = 1000000, WRITE_MAX = 16 << 20 };

static const char usage[] = "raw_disk sync FOLDER COUNT SIZE | read FILE... | drop FILE...";

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sync_run(const char *folder, size_t count, size_t size)
{
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/raw-disk-XXXXXX", folder);
    int fd = len < 0 || (size_t)len >= sizeof path ? -1 : mkostemp(path, O_CLOEXEC);
    double *sync = calloc(count, sizeof *sync), *both = calloc(count, sizeof *both);
    uint8_t *data = raw_buffer(size);
    if (fd < 0 || unlink(path) != 0) {
        raw_die(folder);
    }
    if (sync == NULL || both == NULL) {
        raw_die("memory");
    }
    /* A file system that cannot reserve is no error: the write allocates. */
    (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(count * size));
    for (size_t i = 0; i < count; i++) {
        double begin = raw_now_s();
        if (pwrite(fd, data, size, (off_t)(i * size)) != (ssize_t)size) {
            raw_die("pwrite");
        }
        double written = raw_now_s();
        if (fdatasync(fd) != 0) {
            raw_die("fdatasync");
        }
        double end = raw_now_s();
        sync[i] = (end - written) * 1e6;
        both[i] = (end - begin) * 1e6;
    }
    qsort(sync, count, sizeof *sync, by_value);
    qsort(both, count, sizeof *both, by_value);
    (void)printf("{\"sync_p50_us\":%.1f,\"sync_p99_us\":%.1f,\"write_sync_p50_us\":%.1f}\n",
                 sync[count / 2], sync[count * 99 / 100], both[count / 2]);
    (void)close(fd);
    free(sync);
    free(both);
    free(data);
}

/* Open a file and drop its pages. @return the descriptor; *len and *cached in bytes */
static int open_dropped(const char *path, size_t *len, size_t *cached)
{
    struct stat st;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || fdatasync(fd) != 0) {
        raw_die(path);
    }
    errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (errno != 0) {
        raw_die(path);
    }
    *len = (size_t)st.st_size;
    *cached = 0;
    if (*len > 0) {
        size_t pages = (*len + page - 1) / page;
        unsigned char *in = calloc(pages, 1);
        void *map = mmap(NULL, *len, PROT_READ, MAP_SHARED, fd, 0);
        if (in == NULL || map == MAP_FAILED || mincore(map, *len, in) != 0) {
            raw_die(path);
        }
        for (size_t i = 0; i < pages; i++) {
            *cached += (in[i] & 1u) * page;
        }
        (void)munmap(map, *len);
        free(in);
    }
    return fd;
}

int main(int argc, char **argv)
{
    size_t bytes = 0, all_cached = 0;
    double seconds = 0;
    if (argc == 5 && strcmp(argv[1], "sync") == 0) {
        sync_run(argv[2], (size_t)raw_number(argv[3], COUNT_MAX, usage),
                 (size_t)raw_number(argv[4], WRITE_MAX, usage));
        return EXIT_SUCCESS;
    }
    if (argc < 3 || (strcmp(argv[1], "read") != 0 && strcmp(argv[1], "drop") != 0)) {
        raw_usage(usage);
    }
    bool reads = strcmp(argv[1], "read") == 0;
    uint8_t *block = raw_buffer(BLOCK);
    for (int i = 2; i < argc; i++) {
        size_t len, cached;
        ssize_t n;
        int fd = open_dropped(argv[i], &len, &cached);
        bytes += len;
        all_cached += cached;
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* the kernel reads further ahead */
        double begin = raw_now_s();
        while (reads && (n = read(fd, block, BLOCK)) != 0) {
            if (n < 0 && errno != EINTR) {
                raw_die(argv[i]);
            }
        }
        seconds += raw_now_s() - begin;
        (void)close(fd);
    }
    double cached_pct = bytes == 0 ? 0 : (double)all_cached / (double)bytes * 100;
    if (reads) {
        (void)printf("{\"bytes\":%zu,\"seconds\":%.6f,\"mb_per_s\":%.1f,\"cached_pct\":%.1f}\n",
                     bytes, seconds, (double)bytes / seconds / 1e6, cached_pct);
    } else {
        (void)printf("{\"bytes\":%zu,\"cached_pct\":%.1f}\n", bytes, cached_pct);
    }
    free(block);
    return EXIT_SUCCESS;
}
