/* faults.c -- see faults.h. The 64 in three names: what the calls are with 64-bit file offsets. */
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

struct rule {
    unsigned count, from;
    int times, error;
};

static struct {
    pthread_mutex_t mu;
    struct rule rules[FAULT_CALLS];
    size_t partial;
    unsigned changes, die_at;
    void (*hook)(void *arg);
    void *hook_arg;
} faults = {.mu = PTHREAD_MUTEX_INITIALIZER};

ssize_t __real_pwrite64(int fd, const void *data, size_t len, off_t pos);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_fallocate64(int fd, int mode, off_t pos, off_t len);
int __real_ftruncate64(int fd, off_t len);
int __real_renameat(int from_fd, const char *from, int to_fd, const char *to);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t pos);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_fallocate64(int fd, int mode, off_t pos, off_t len);
int __wrap_ftruncate64(int fd, off_t len);
int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to);

void fault_reset(void)
{
    pthread_mutex_lock(&faults.mu);
    for (int i = 0; i < FAULT_CALLS; i++) {
        faults.rules[i] = (struct rule){0};
    }
    faults.partial = 0;
    faults.changes = 0;
    faults.die_at = 0;
    faults.hook = NULL;
    pthread_mutex_unlock(&faults.mu);
}

void fault_set(enum fault_call call, unsigned nth, int times, int error)
{
    pthread_mutex_lock(&faults.mu);
    faults.rules[call].from = faults.rules[call].count + nth;
    faults.rules[call].times = times;
    faults.rules[call].error = error;
    pthread_mutex_unlock(&faults.mu);
}

void fault_partial(size_t bytes)
{
    faults.partial = bytes;
}

void fault_die_at(unsigned nth)
{
    faults.die_at = nth;
}

unsigned fault_changes(void)
{
    return faults.changes;
}

unsigned fault_count(enum fault_call call)
{
    return faults.rules[call].count;
}

void fault_on_sync(void (*hook)(void *arg), void *arg)
{
    faults.hook = hook;
    faults.hook_arg = arg;
}

/* Count the call; the errno value that it must fail with, or 0. */
static int judge(enum fault_call call, bool *dying)
{
    int error = 0;
    pthread_mutex_lock(&faults.mu);
    struct rule *rule = &faults.rules[call];
    rule->count++;
    faults.changes++;
    *dying = false;
    if (faults.die_at > 0 && faults.changes >= faults.die_at) {
        *dying = faults.changes == faults.die_at;
        error = EIO;
    } else if (rule->from > 0 && rule->count >= rule->from && rule->times != 0) {
        error = rule->error;
        rule->times -= rule->times > 0 ? 1 : 0;
    }
    pthread_mutex_unlock(&faults.mu);
    return error;
}

static int fail(int error)
{
    errno = error;
    return -1;
}

ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t pos)
{
    bool dying;
    int error = judge(FAULT_PWRITE, &dying);
    if (error == 0) {
        return __real_pwrite64(fd, data, len, pos);
    }
    size_t partial = dying ? len / 2 : faults.partial < len ? faults.partial : len;
    if (partial > 0 && __real_pwrite64(fd, data, partial, pos) != (ssize_t)partial) {
        perror("pwrite");
    }
    return fail(error);
}

int __wrap_fdatasync(int fd)
{
    bool dying;
    int error = judge(FAULT_FDATASYNC, &dying);
    if (faults.hook != NULL) {
        faults.hook(faults.hook_arg);
    }
    return error != 0 ? fail(error) : __real_fdatasync(fd);
}

int __wrap_fsync(int fd)
{
    bool dying;
    int error = judge(FAULT_FSYNC, &dying);
    return error != 0 ? fail(error) : __real_fsync(fd);
}

int __wrap_fallocate64(int fd, int mode, off_t pos, off_t len)
{
    bool dying;
    int error = judge(FAULT_FALLOCATE, &dying);
    return error != 0 ? fail(error) : __real_fallocate64(fd, mode, pos, len);
}

int __wrap_ftruncate64(int fd, off_t len)
{
    bool dying;
    int error = judge(FAULT_FTRUNCATE, &dying);
    return error != 0 ? fail(error) : __real_ftruncate64(fd, len);
}

int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    bool dying;
    int error = judge(FAULT_RENAMEAT, &dying);
    return error != 0 ? fail(error) : __real_renameat(from_fd, from, to_fd, to);
}
