/* raw_write.c -- the limit of the disk's page cache: pwritev of 1 MiB after 1 MiB into new files.
 *
 *     raw_write FOLDER BYTES [SEGMENT]     {"bytes":N,"seconds":S,"mb_per_s":N,"slowest_ms":N}
 *
 * Without SEGMENT: one file, nothing else. With SEGMENT: a new file every SEGMENT bytes, space
 * reserved ahead of the writer, the closed file handed to a second thread that syncs it while the
 * next is written: what any log does that syncs on roll, without a log. The clock stops with the
 * last write; what is still to be synced then is waited for outside it. The files are unlinked as
 * soon as they are open, so that nothing stays however the program ends.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <unistd.h>

#include "raw.h"

enum { BLOCK = 1 << 20, RESERVE = 8 << 20, QUEUE_MAX = 4096 };

static const char usage[] = "raw_write FOLDER BYTES [SEGMENT]   (SEGMENT at least 1048576)";

/* Closed files on their way to the syncing thread. -1 ends it. */
struct queue {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int fds[QUEUE_MAX];
    size_t count, taken;
};

static void queue_put(struct queue *queue, int fd)
{
    (void)pthread_mutex_lock(&queue->mu);
    if (queue->count == QUEUE_MAX) {
        errno = ENOSPC;
        raw_die("too many segments");
    }
    queue->fds[queue->count++] = fd;
    (void)pthread_cond_signal(&queue->changed);
    (void)pthread_mutex_unlock(&queue->mu);
}

static void *sync_main(void *arg)
{
    struct queue *queue = arg;
    for (;;) {
        (void)pthread_mutex_lock(&queue->mu);
        while (queue->taken == queue->count) {
            (void)pthread_cond_wait(&queue->changed, &queue->mu);
        }
        int fd = queue->fds[queue->taken++];
        (void)pthread_mutex_unlock(&queue->mu);
        if (fd < 0) {
            return NULL;
        }
        if (fdatasync(fd) != 0) {
            raw_die("fdatasync");
        }
        (void)close(fd);
    }
}

/* A new file without a name in the folder. */
static int open_file(const char *folder)
{
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/raw-write-XXXXXX", folder);
    int fd = len < 0 || (size_t)len >= sizeof path ? -1 : mkostemp(path, O_CLOEXEC);
    if (fd < 0 || unlink(path) != 0) {
        raw_die(folder);
    }
    return fd;
}

static void write_block(int fd, uint8_t *data, uint64_t pos)
{
    struct iovec iov = {.iov_base = data, .iov_len = BLOCK};
    while (iov.iov_len > 0) {
        ssize_t n = pwritev(fd, &iov, 1, (off_t)pos);
        if (n < 0 && errno != EINTR) {
            raw_die("pwritev");
        }
        if (n > 0) {
            iov.iov_base = (uint8_t *)iov.iov_base + n;
            iov.iov_len -= (size_t)n;
            pos += (uint64_t)n;
        }
    }
}

/* Write all, rolling when a segment is full. @return the slowest write in seconds */
static double write_all(const char *folder, uint64_t bytes, uint64_t segment, struct queue *queue)
{
    uint8_t *block = raw_buffer(BLOCK);
    double slowest = 0;
    uint64_t pos = 0, reserved = 0;
    int fd = open_file(folder);
    for (uint64_t done = 0; done < bytes; done += BLOCK) {
        if (segment != 0 && pos + BLOCK > segment) {
            queue_put(queue, fd);
            fd = open_file(folder);
            pos = reserved = 0;
        }
        double begin = raw_now_s();
        if (segment != 0 && pos + BLOCK > reserved) {
            /* A file system that cannot reserve is no error: the write allocates. */
            (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)pos, RESERVE);
            reserved = pos + RESERVE;
        }
        write_block(fd, block, pos);
        pos += BLOCK;
        double took = raw_now_s() - begin;
        slowest = took > slowest ? took : slowest;
    }
    (void)close(fd);
    free(block);
    return slowest;
}

int main(int argc, char **argv)
{
    static struct queue queue = {.mu = PTHREAD_MUTEX_INITIALIZER,
                                 .changed = PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    if (argc != 3 && argc != 4) {
        raw_usage(usage);
    }
    uint64_t bytes = raw_number(argv[2], UINT64_C(1) << 40, usage);
    uint64_t segment = argc == 4 ? raw_number(argv[3], UINT64_C(1) << 40, usage) : 0;
    if (segment != 0 && segment < BLOCK) {
        raw_usage(usage);
    }
    bytes = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    errno = pthread_create(&thread, NULL, sync_main, &queue);
    if (errno != 0) {
        raw_die("thread");
    }
    double begin = raw_now_s();
    double slowest = write_all(argv[1], bytes, segment, &queue);
    double seconds = raw_now_s() - begin;
    queue_put(&queue, -1);
    (void)pthread_join(thread, NULL);
    (void)printf("{\"bytes\":%" PRIu64 ",\"seconds\":%.6f,\"mb_per_s\":%.1f,\"slowest_ms\":%.3f}\n",
                 bytes, seconds, (double)bytes / seconds / 1e6, slowest * 1e3);
    return EXIT_SUCCESS;
}
