/* world.c -- the machine as a fuzzed plugin sees it, the same at every run and on every machine.
 *
 * There is one thread. What is posted waits in a queue, and runs when the fuzzer gives it a turn or
 * when somebody waits for it: a wait on a condition runs the queue, then lets time pass to the next
 * timer; with neither left it would last for ever, and the process ends. The clock stands still
 * otherwise. The boot, the free space and the order of a folder's files are made up, and what only
 * some kernels offer is refused.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fuzz.h"

enum { START_US = 1000000, ENTRIES_MAX = 64, LISTINGS_MAX = 4 };

static struct {
    uint64_t now_us, random;
    uint32_t turns; /* state of the order in which things happen; 0: what waits runs first */
    struct sti_task *head, *tail;
    struct sti_timer *timers; /* linked by their first word, the earliest first */
} world;

/* ---- work ---------------------------------------------------------------------------------- */

static void world_post(void *ctx, struct sti_task *task)
{
    (void)ctx;
    task->next = NULL;
    if (world.tail != NULL) {
        world.tail->next = task;
    } else {
        world.head = task;
    }
    world.tail = task;
}

/* @return false: nothing waits */
static bool run_one(void)
{
    struct sti_task *task = world.head;
    if (task == NULL) {
        return false;
    }
    world.head = task->next;
    world.tail = world.head == NULL ? NULL : world.tail;
    task->run(task);
    return true;
}

static struct sti_timer **timer_link(struct sti_timer *timer)
{
    return (struct sti_timer **)(void *)&timer->words[0];
}

/* Let time pass to the earliest timer. @return false: there is none */
static bool fire_one(void)
{
    struct sti_timer *timer = world.timers;
    if (timer == NULL) {
        return false;
    }
    world.timers = *timer_link(timer);
    world.now_us = timer->due_us > world.now_us ? timer->due_us : world.now_us;
    timer->words[1] = 0;
    world_post(NULL, &timer->task);
    return true;
}

static void world_timer_arm(void *ctx, struct sti_timer *timer, uint64_t due_us)
{
    struct sti_timer **at = &world.timers;
    (void)ctx;
    FUZZ_EXPECT(timer->words[1] == 0);
    while (*at != NULL && (*at)->due_us <= due_us) {
        at = timer_link(*at);
    }
    timer->due_us = due_us;
    timer->words[1] = 1;
    *timer_link(timer) = *at;
    *at = timer;
}

static bool world_timer_cancel(void *ctx, struct sti_timer *timer)
{
    (void)ctx;
    if (timer->words[1] == 0) {
        return false;
    }
    struct sti_timer **at = &world.timers;
    while (*at != timer) {
        at = timer_link(*at);
    }
    *at = *timer_link(timer);
    timer->words[1] = 0;
    return true;
}

static void world_strand_init(void *ctx, struct sti_strand *strand)
{
    (void)ctx;
    memset(strand, 0, sizeof *strand);
}

static void world_strand_post(void *ctx, struct sti_strand *strand, struct sti_task *task)
{
    (void)strand;
    world_post(ctx, task);
}

static void world_strand_fini(void *ctx, struct sti_strand *strand)
{
    (void)ctx;
    (void)strand;
}

/* ---- the other services -------------------------------------------------------------------- */

static void world_log(void *ctx, int level, const char *event, const char *msg,
                      const struct sti_field *const *fields)
{
    (void)ctx;
    FUZZ_EXPECT(level >= STI_LOG_DEBUG && strlen(event) > 0 && strlen(msg) > 0);
    for (; fields != NULL && *fields != NULL; fields++) {
        FUZZ_EXPECT(strlen((*fields)->key) > 0);
        if ((*fields)->type == STI_FIELD_STR && (*fields)->value.str != NULL) {
            FUZZ_EXPECT(strlen((*fields)->value.str) < 1 << 16);
        }
    }
}

static bool world_log_enabled(void *ctx, int level)
{
    (void)ctx;
    (void)level;
    return true;
}

static uint64_t world_clock_us(void *ctx, int clock_id)
{
    (void)ctx;
    return world.now_us + (clock_id == STI_CLOCK_REALTIME ? UINT64_C(1700000000000000) : 0);
}

static void world_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    for (size_t i = 0; i < len; i++) {
        world.random = world.random * UINT64_C(6364136223846793005) + 1;
        ((uint8_t *)buf)[i] = (uint8_t)(world.random >> 56);
    }
}

static struct sti_metric *world_metric(void *ctx, int type, const char *name, const char *labels,
                                       const char *help)
{
    (void)ctx;
    (void)type;
    (void)name;
    (void)labels;
    (void)help;
    return NULL;
}

static struct sti_histogram *world_histogram(void *ctx, const char *name, const char *labels,
                                             const char *help)
{
    (void)ctx;
    (void)name;
    (void)labels;
    (void)help;
    return NULL;
}

static void world_health(void *ctx, const char *condition, int level, const char *detail)
{
    (void)ctx;
    (void)condition;
    (void)level;
    (void)detail;
}

static int world_node_state(void *ctx)
{
    (void)ctx;
    return STI_NODE_READY;
}

const struct sti_host *fuzz_world(const char *instance, uint8_t turns)
{
    static struct sti_node node = {.struct_size = sizeof node,
                                   .node_id = 1,
                                   .version = "test",
                                   .cluster_id = "00000000000000000000000000000001"};
    static struct sti_host host = {.struct_size = sizeof host,
                                   .abi_major = STI_ABI_MAJOR,
                                   .abi_minor = STI_ABI_MINOR,
                                   .node = &node,
                                   .log = world_log,
                                   .log_enabled = world_log_enabled,
                                   .clock_us = world_clock_us,
                                   .random = world_random,
                                   .post = world_post,
                                   .strand_init = world_strand_init,
                                   .strand_post = world_strand_post,
                                   .strand_fini = world_strand_fini,
                                   .timer_arm = world_timer_arm,
                                   .timer_cancel = world_timer_cancel,
                                   .metric = world_metric,
                                   .histogram = world_histogram,
                                   .health = world_health,
                                   .node_state = world_node_state};
    FUZZ_EXPECT(world.head == NULL && world.timers == NULL);
    world.now_us = START_US;
    world.random = 1;
    world.turns = turns;
    node.data_dir = fuzz_root();
    host.instance = instance;
    return &host;
}

void fuzz_turn(void)
{
    if (world.turns == 0) {
        fuzz_settle();
        return;
    }
    world.turns = world.turns * 1103515245u + 12345u;
    uint32_t drawn = world.turns >> 16;
    if (drawn % 8 == 0) {
        (void)fire_one();
    }
    for (uint32_t left = drawn / 8 % 4; left > 0 && run_one(); left--) {
    }
}

void fuzz_settle(void)
{
    while (run_one()) {
    }
}

/* ---- the C library ------------------------------------------------------------------------- */

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until);
/* With a mode also where the caller gave none: then nobody looks at it. */
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_openat64(int dir_fd, const char *path, int flags, mode_t mode);
int __wrap_fstatvfs64(int fd, struct statvfs *out);
int __wrap_fallocate64(int fd, int mode, off_t pos, off_t len);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_mincore(void *from, size_t len, unsigned char *pages);
ssize_t __wrap_copy_file_range(int in, off_t *in_pos, int out, off_t *out_pos, size_t len,
                               unsigned flags);
struct dirent *__wrap_readdir64(DIR *dir);
int __wrap_closedir(DIR *dir);
int __real_open64(const char *path, int flags, ...);
int __real_openat64(int dir_fd, const char *path, int flags, ...);
struct dirent *__real_readdir64(DIR *dir);
int __real_closedir(DIR *dir);

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    (void)cond;
    pthread_mutex_unlock(mutex);
    bool anything_left = run_one() || fire_one();
    FUZZ_EXPECT(anything_left);
    pthread_mutex_lock(mutex);
    return 0;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    (void)until;
    return __wrap_pthread_cond_wait(cond, mutex);
}

static int open_boot_id(void)
{
    int fd = memfd_create("boot_id", MFD_CLOEXEC);
    FUZZ_EXPECT(fd >= 0 && write(fd, FUZZ_BOOT_ID "\n", 37) == 37 && lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

int __wrap_open64(const char *path, int flags, mode_t mode)
{
    return strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? open_boot_id()
                                                                : __real_open64(path, flags, mode);
}

int __wrap_openat64(int dir_fd, const char *path, int flags, mode_t mode)
{
    if ((flags & O_DIRECT) != 0) {
        errno = EINVAL;
        return -1;
    }
    return __real_openat64(dir_fd, path, flags, mode);
}

int __wrap_fstatvfs64(int fd, struct statvfs *out)
{
    (void)fd;
    *out = (struct statvfs){.f_bsize = 4096,
                            .f_frsize = 4096,
                            .f_blocks = 1 << 22,
                            .f_bfree = 1 << 21,
                            .f_bavail = 1 << 21};
    return 0;
}

/* Space is reserved everywhere, and costs nothing. */
int __wrap_fallocate64(int fd, int mode, off_t pos, off_t len)
{
    (void)mode;
    (void)pos;
    (void)len;
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

/* No power is lost here. */
int __wrap_fsync(int fd)
{
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

int __wrap_fdatasync(int fd)
{
    return __wrap_fsync(fd);
}

/* All is in memory. */
int __wrap_mincore(void *from, size_t len, unsigned char *pages)
{
    (void)from;
    memset(pages, 1, (len + 4095) / 4096);
    return 0;
}

ssize_t __wrap_copy_file_range(int in, off_t *in_pos, int out, off_t *out_pos, size_t len,
                               unsigned flags)
{
    (void)in;
    (void)in_pos;
    (void)out;
    (void)out_pos;
    (void)len;
    (void)flags;
    errno = ENOSYS;
    return -1;
}

static struct listing {
    DIR *dir; /* NULL: not in use */
    struct dirent *entries;
    size_t count, at;
} listings[LISTINGS_MAX];

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct dirent *)a)->d_name, ((const struct dirent *)b)->d_name);
}

static struct listing *listing_of(const DIR *dir)
{
    for (size_t i = 0; i < LISTINGS_MAX; i++) {
        if (listings[i].dir == dir) {
            return &listings[i];
        }
    }
    return NULL;
}

struct dirent *__wrap_readdir64(DIR *dir)
{
    struct listing *list = listing_of(dir);
    if (list == NULL) {
        const struct dirent *entry;
        list = listing_of(NULL);
        FUZZ_EXPECT(list != NULL);
        *list = (struct listing){.dir = dir, .entries = calloc(ENTRIES_MAX, sizeof *list->entries)};
        FUZZ_EXPECT(list->entries != NULL);
        while ((entry = __real_readdir64(dir)) != NULL) {
            FUZZ_EXPECT(list->count < ENTRIES_MAX);
            memcpy(&list->entries[list->count++], entry, entry->d_reclen);
        }
        qsort(list->entries, list->count, sizeof *list->entries, by_name);
    }
    return list->at < list->count ? &list->entries[list->at++] : NULL;
}

int __wrap_closedir(DIR *dir)
{
    struct listing *list = listing_of(dir);
    if (list != NULL) {
        free(list->entries);
        *list = (struct listing){0};
    }
    return __real_closedir(dir);
}
