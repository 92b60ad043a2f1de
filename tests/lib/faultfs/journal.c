/* journal.c -- the journal of a run: every change of the folder and every sync, in order, in a
 * mapped file.
 *
 * A record is written as an intent before the call, and marked done with its result after it. All
 * of it happens under one lock, so the order of records is the order of changes, and at most one
 * record of a killed process is an intent. The file is a shared mapping: what was written into it
 * outlives the process without any call.
 */
#undef _FILE_OFFSET_BITS
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faultfs.h"

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct ffs_journal *journal;

/* Inode -> object, open addressing. An inode may be used again once its file is gone: the newest
 * object wins. */
struct object {
    uint64_t inode, id;
};
static struct object *objects;
static size_t object_count, object_capacity;
static uint64_t id_last;

/* Map a file that the test has made in its full size. Raw calls: the interposed ones would ask
 * whether it is ours. */
bool ffs_journal_open(const char *path)
{
    struct stat st;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0 || fstat((int)fd, &st) != 0) {
        return false;
    }
    long map =
        syscall(SYS_mmap, NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
    (void)syscall(SYS_close, (int)fd);
    if (map == -1) {
        return false;
    }
    journal = (struct ffs_journal *)map;
    journal->magic = FFS_JOURNAL_MAGIC;
    journal->capacity = (uint64_t)st.st_size;
    atomic_store(&journal->count, 0);
    atomic_store(&journal->used, sizeof *journal);
    return true;
}

bool ffs_journal_on(void)
{
    return journal != NULL;
}

void ffs_lock(void)
{
    (void)pthread_mutex_lock(&mu);
}

void ffs_unlock(void)
{
    (void)pthread_mutex_unlock(&mu);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct ffs_record *ffs_note(enum ffs_op op, uint64_t id, uint64_t other, uint64_t pos,
                            const char *name, const char *name2, const struct iovec *iov,
                            int iov_count, uint64_t *number)
{
    size_t name_len = name == NULL ? 0 : strlen(name),
           name2_len = name2 == NULL ? 0 : strlen(name2);
    size_t data_len = 0;
    for (int i = 0; i < iov_count; i++) {
        data_len += iov[i].iov_len;
    }
    size_t len = (sizeof(struct ffs_record) + name_len + name2_len + data_len + 7u) & ~(size_t)7u;
    uint64_t used = atomic_load(&journal->used);
    if (used + len > journal->capacity) {
        ffs_fail("the journal is full", name == NULL ? "" : name);
    }
    struct ffs_record *record = (struct ffs_record *)((char *)journal + used);
    *record = (struct ffs_record){.len = (uint32_t)len,
                                  .op = (uint8_t)op,
                                  .state = FFS_INTENT,
                                  .name_len = (uint16_t)name_len,
                                  .time_ns = now_ns(),
                                  .id = id,
                                  .other = other,
                                  .pos = pos,
                                  .data_len = (uint32_t)data_len,
                                  .name2_len = (uint16_t)name2_len};
    char *at = (char *)(record + 1);
    memcpy(at, name == NULL ? "" : name, name_len);
    at += name_len;
    memcpy(at, name2 == NULL ? "" : name2, name2_len);
    at += name2_len;
    for (int i = 0; i < iov_count; i++) {
        memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    uint64_t count = atomic_load(&journal->count);
    if (number != NULL) {
        *number = count;
    }
    atomic_store(&journal->count, count + 1);
    atomic_store(&journal->used, used + len);
    return record;
}

void ffs_done(struct ffs_record *record, int64_t result)
{
    record->result = result;
    atomic_thread_fence(memory_order_release);
    record->state = FFS_DONE;
}

/* ---- objects
 * ----------------------------------------------------------------------------------------------------------
 */

static struct object *slot_of(struct object *table, size_t capacity, uint64_t inode)
{
    size_t at = (size_t)(inode * UINT64_C(0x9e3779b97f4a7c15) >> 20) % capacity;
    while (table[at].id != 0 && table[at].inode != inode) {
        at = (at + 1) % capacity;
    }
    return &table[at];
}

uint64_t ffs_id_of(uint64_t inode)
{
    return object_capacity == 0 ? 0 : slot_of(objects, object_capacity, inode)->id;
}

uint64_t ffs_id_new(uint64_t inode)
{
    if (2 * (object_count + 1) > object_capacity) {
        size_t capacity = object_capacity == 0 ? 4096 : 2 * object_capacity;
        struct object *table = calloc(capacity, sizeof *table);
        if (table == NULL) {
            ffs_fail("no memory for its table of files", "");
        }
        for (size_t i = 0; i < object_capacity; i++) {
            if (objects[i].id != 0) {
                *slot_of(table, capacity, objects[i].inode) = objects[i];
            }
        }
        free(objects);
        objects = table;
        object_capacity = capacity;
    }
    struct object *slot = slot_of(objects, object_capacity, inode);
    object_count += slot->id == 0 ? 1 : 0;
    *slot = (struct object){.inode = inode, .id = ++id_last};
    return slot->id;
}
