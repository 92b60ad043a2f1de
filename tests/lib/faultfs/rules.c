/* rules.c -- which calls fail, come short, or take time. The rules stand in a mapped file that the
 * test writes while the process runs; a rule counts what it has seen and hit, so that a test can
 * tell that its fault was reached. */
#undef _FILE_OFFSET_BITS
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faultfs.h"

static struct ffs_control *control;

bool ffs_control_open(const char *path)
{
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    long map =
        syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
    (void)syscall(SYS_close, (int)fd);
    if (map == -1) {
        return false;
    }
    control = (struct ffs_control *)map;
    return control->magic == FFS_CONTROL_MAGIC && control->rules_count == FFS_RULES;
}

bool ffs_control_on(void)
{
    return control != NULL;
}

/* The next number of the rule's sequence (splitmix64). */
static uint64_t next_random(struct ffs_rule *rule)
{
    uint64_t z = atomic_fetch_add(&rule->random, UINT64_C(0x9e3779b97f4a7c15)) +
                 UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static bool matches(const struct ffs_rule *rule, enum ffs_call call, const char *path)
{
    return atomic_load(&rule->active) != 0 && (rule->calls & (uint32_t)call) != 0 &&
           (rule->path[0] == '\0' || fnmatch(rule->path, path, 0) == 0);
}

static bool hits(struct ffs_rule *rule)
{
    if (atomic_fetch_add(&rule->seen, 1) < rule->after ||
        (rule->per_million != 0 && next_random(rule) % 1000000u >= rule->per_million)) {
        return false;
    }
    if (rule->times != 0 && atomic_load(&rule->hits) >= rule->times) {
        return false;
    }
    (void)atomic_fetch_add(&rule->hits, 1);
    return true;
}

static void wait_us(uint32_t us)
{
    struct timespec left = {.tv_sec = us / 1000000u, .tv_nsec = (long)(us % 1000000u) * 1000};
    while (nanosleep(&left, &left) != 0) {
    }
}

int ffs_fault(enum ffs_call call, const char *path, size_t *len)
{
    int error = 0;
    for (int i = 0; control != NULL && i < FFS_RULES && error == 0; i++) {
        struct ffs_rule *rule = &control->rules[i];
        if (!matches(rule, call, path) || !hits(rule)) {
            continue;
        }
        if (rule->delay_us != 0) {
            wait_us(rule->delay_us);
        }
        if (rule->kill != 0) {
            (void)kill(getpid(), SIGKILL);
        }
        if (rule->error == FFS_SHORT && len != NULL) {
            *len = *len > 1 ? *len / 2 : *len;
        } else if (rule->error > 0) {
            error = rule->error;
        }
    }
    return error;
}
