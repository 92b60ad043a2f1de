/* file.c -- open files and maps of segments: opened when needed, counted, closed when idle or when
 * too many are open.
 *
 * A file is referenced by its segment while it is on the store's list, by each operation under way,
 * and by each slice handed out. Letting it go from the segment (eviction, retention, truncation,
 * close) never disturbs those who hold it; the last reference posts the closing to the executor.
 * Our own code reads with pread only; the map is for those who take slices, and is populated before
 * it is handed out, so that a page that a disk cannot give is an error here and not a signal there.
 *
 * Too many open: the list is kept by when a file got its place in it, the latest first. A use only
 * stamps the file, so that readers take no lock for it. Who looks for a victim takes, of a bounded
 * number at the old end, the one used longest ago, and gives those that were used since a new
 * place. That is least recently used as near as it matters, at a bounded cost. Files with unsynced
 * bytes go last, so that a write error of the kernel's is not forgotten with the inode.
 *
 * Files that readers hold after the engine let go of them are outside that bound; their maps count
 * against max_maps, and a read that would need one more is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum {
    RESIDENT_PAGES = 1024,
    VICTIM_LOOKS = 32, /* files looked at to find one to close */
    SWEEP_MAX = 32     /* files that one turn of the idle sweep closes */
};

static _Thread_local uint64_t copied_bytes;

/* Bytes that this thread has read into memory of the engine's own: who takes the difference knows
 * what was copied meanwhile. */
uint64_t smm_pread_total(void)
{
    return copied_bytes;
}

/* Read up to `len` bytes; fewer only at the end of the file.
 * @param nowait  give EAGAIN rather than wait for a disk
 * @return 0 or an errno */
int smm_pread(int fd, void *buf, size_t len, uint64_t pos, bool nowait, size_t *got)
{
    *got = 0;
    int fault = STI_FAULT("file.pread");
    if (fault != 0) {
        return fault;
    }
    while (*got < len) {
        struct iovec iov = {.iov_base = (char *)buf + *got, .iov_len = len - *got};
        ssize_t n = nowait ? preadv2(fd, &iov, 1, (off_t)(pos + *got), RWF_NOWAIT)
                           : pread(fd, iov.iov_base, iov.iov_len, (off_t)(pos + *got));
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EOPNOTSUPP ? EAGAIN : errno;
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
        copied_bytes += (uint64_t)n;
    }
    return 0;
}

/* ---- references ---------------------------------------------------------------------------- */

static void file_close(struct sti_task *task)
{
    struct smm_file *file =
        (struct smm_file *)(void *)((char *)task - offsetof(struct smm_file, task));
    struct smm_store *store = file->store;
    uint8_t *map = atomic_load(&file->map);
    if (map != NULL) {
        (void)munmap(map, file->map_len);
        atomic_fetch_sub(&store->map_count, 1);
        sti_metric_sub(store->metrics.maps, 1);
    }
    if (file->forgotten) {
        sti_metric_sub(store->metrics.held_files, 1);
    }
    (void)close(file->log_fd);
    if (file->index_fd >= 0) {
        (void)close(file->index_fd);
    }
    sti_metric_sub(store->metrics.open_files, 1);
    free(file);
    smm_live_drop(store);
}

struct smm_file *smm_file_ref(struct smm_file *file)
{
    (void)atomic_fetch_add_explicit(&file->refs, 1, memory_order_relaxed);
    return file;
}

void smm_file_unref(struct smm_file *file)
{
    if (file != NULL && atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) == 1) {
        file->store->host->post(file->store->host->ctx, &file->task);
    }
}

static void owner_ref(struct sti_slice_owner *owner)
{
    (void)smm_file_ref((struct smm_file *)(void *)owner);
}

static void owner_unref(struct sti_slice_owner *owner)
{
    smm_file_unref((struct smm_file *)(void *)owner);
}

/* Wrap descriptors that are then the file's. One reference is the caller's. NULL: no memory. */
struct smm_file *smm_file_new(struct sti_storage_partition *part, int log_fd, int index_fd,
                              uint32_t size_max)
{
    struct smm_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return NULL;
    }
    file->owner.ref = owner_ref;
    file->owner.unref = owner_unref;
    file->task.run = file_close;
    atomic_init(&file->refs, 1);
    atomic_init(&file->map, NULL);
    atomic_init(&file->used_us, sti_now_us(part->store->host));
    file->log_fd = log_fd;
    file->index_fd = index_fd;
    file->map_len = size_max;
    file->store = part->store;
    smm_live_add(part->store);
    sti_metric_add(part->store->metrics.open_files, 1);
    return file;
}

/* ---- the list of open files ---------------------------------------------------------------- */

/* @locks files_mu held */
static void list_unlink(struct smm_store *store, struct smm_file *file)
{
    *(file->prev != NULL ? &file->prev->next : &store->files) = file->next;
    *(file->next != NULL ? &file->next->prev : &store->files_last) = file->prev;
    file->prev = file->next = NULL;
}

/* @locks files_mu held */
static void list_push(struct smm_store *store, struct smm_file *file)
{
    file->queued_us = atomic_load_explicit(&file->used_us, memory_order_relaxed);
    file->prev = NULL;
    file->next = store->files;
    *(file->next != NULL ? &file->next->prev : &store->files_last) = file;
    store->files = file;
}

/* @locks files_mu held */
static void list_remove(struct smm_file *file)
{
    if (file->part != NULL) {
        list_unlink(file->store, file);
        file->part = NULL;
        file->store->file_count--;
        file->forgotten = true; /* before the segment's reference goes */
        sti_metric_add(file->store->metrics.held_files, 1);
    }
}

/* Let the segment go of its file. The caller passes what is returned to smm_file_forget, without
 * part->mu. @locks part->mu held */
struct smm_file *smm_file_detach(struct smm_segment *seg)
{
    struct smm_file *file = seg->file;
    seg->file = NULL;
    if (file != NULL) {
        file->seg = NULL;
    }
    return file;
}

/* Take a detached file off the list and drop the segment's reference. NULL is ignored. */
void smm_file_forget(struct smm_file *file)
{
    if (file != NULL) {
        pthread_mutex_lock(&file->store->files_mu);
        list_remove(file);
        pthread_mutex_unlock(&file->store->files_mu);
        smm_file_unref(file);
    }
}

/* Take a file from its segment: unless the segment is pinned, or lets go of it already. When no
 * writer is at work its lock is taken and kept: let_go gives reserved space back, which is I/O, and
 * then frees it. @locks files_mu held */
static struct smm_file *evict_one(struct smm_file *file)
{
    struct sti_storage_partition *part = file->part;
    bool writer = pthread_mutex_trylock(&part->write_mu) == 0;
    struct smm_file *gone = NULL;
    pthread_mutex_lock(&part->mu);
    struct smm_segment *seg = file->seg;
    if (seg != NULL && !seg->pinned) {
        gone = smm_file_detach(seg);
    }
    pthread_mutex_unlock(&part->mu);
    if (gone != NULL) {
        list_remove(gone);
    }
    if (writer && gone != NULL && seg->reserved_end > seg->write_size) {
        gone->give_back = seg; /* the writer's lock keeps the segment, and the partition */
        gone->give_back_part = part;
    } else if (writer) {
        pthread_mutex_unlock(&part->write_mu);
    }
    return gone;
}

/* What evict_one took, linked by `next`. @locks files_mu free */
static void let_go(struct smm_file *chain)
{
    while (chain != NULL) {
        struct smm_file *next = chain->next;
        chain->next = NULL;
        if (chain->give_back_part != NULL) {
            smm_segment_give_back(chain->give_back, chain->log_fd);
            pthread_mutex_unlock(&chain->give_back_part->write_mu);
        }
        smm_file_unref(chain);
        chain = next;
    }
}

/* Which file to close? Of those at the old end of the list the one that was used longest ago, one
 * without unsynced bytes if there is one. Those that were used since they got their place get a new
 * one, so that the next search meets others. @locks files_mu held */
static struct smm_file *pick_victim(struct smm_store *store, const struct smm_file *keep)
{
    struct smm_file *victim = NULL, *file = store->files_last;
    uint64_t victim_us = 0;
    bool victim_dirty = false;
    for (unsigned looks = 0; file != NULL && looks < VICTIM_LOOKS; looks++) {
        struct smm_file *before = file->prev;
        uint64_t used_us = atomic_load_explicit(&file->used_us, memory_order_relaxed);
        bool dirty = atomic_load_explicit(&file->dirty, memory_order_relaxed);
        if (file != keep && (victim == NULL || dirty < victim_dirty ||
                             (dirty == victim_dirty && used_us < victim_us))) {
            victim = file;
            victim_us = used_us;
            victim_dirty = dirty;
        }
        if (used_us > file->queued_us) {
            list_unlink(store, file);
            list_push(store, file);
        }
        file = before;
    }
    return victim;
}

/* While more than the limit are open, close others.
 * @locks files_mu held; returns a chain for let_go */
static struct smm_file *evict_excess(struct smm_store *store, const struct smm_file *keep)
{
    struct smm_file *chain = NULL;
    while (store->file_count > (uint64_t)store->conf->max_open_files) {
        struct smm_file *victim = pick_victim(store, keep);
        struct smm_file *gone = victim == NULL ? NULL : evict_one(victim);
        if (gone == NULL) {
            break; /* in transit; the next opening tries again */
        }
        gone->next = chain;
        chain = gone;
    }
    return chain;
}

/* Count a descriptor that is opened or closed outside the list against its bound. */
void smm_file_charge(struct smm_store *store, int change)
{
    pthread_mutex_lock(&store->files_mu);
    store->file_count = (uint32_t)((int64_t)store->file_count + change);
    struct smm_file *chain = evict_excess(store, NULL);
    pthread_mutex_unlock(&store->files_mu);
    sti_metric_add(store->metrics.open_files, (uint64_t)(int64_t)change);
    let_go(chain);
}

/* Close some of what was not used for idle_close_ms; what is unsynced is synced first and goes the
 * next time. @return a chain for let_go. @locks files_mu held */
static struct smm_file *sweep_some(struct smm_store *store, uint64_t now, uint64_t idle_us,
                                   unsigned *count)
{
    struct smm_file *chain = NULL;
    *count = 0;
    for (struct smm_file *file = store->files_last, *before; file != NULL && *count < SWEEP_MAX;
         file = before) {
        before = file->prev;
        if (atomic_load(&file->used_us) + idle_us > now) {
            continue;
        }
        if (atomic_load(&file->dirty)) {
            smm_flush_want(file->part, INT64_MAX);
            continue;
        }
        struct smm_file *gone = evict_one(file);
        if (gone != NULL) {
            gone->next = chain;
            chain = gone;
            ++*count;
        }
    }
    return chain;
}

static void sweep_run(struct smm_job *job)
{
    struct smm_store *store = job->store;
    uint64_t idle_us = (uint64_t)store->conf->idle_close_ms * 1000u;
    uint64_t now = sti_now_us(store->host);
    unsigned count;
    pthread_mutex_lock(&store->files_mu);
    struct smm_file *chain = sweep_some(store, now, idle_us, &count);
    if (store->stopping || store->file_count == 0) {
        store->sweep = NULL;
        free(job);
    } else {
        smm_job_arm(job, count == SWEEP_MAX ? now + 1000u : now + idle_us / 2);
    }
    pthread_mutex_unlock(&store->files_mu);
    let_go(chain);
}

/* @return the segment with that base offset and serial (0: any), or NULL. @locks part->mu held */
static struct smm_segment *segment_of(struct sti_storage_partition *part, int64_t base_offset,
                                      uint64_t serial)
{
    uint32_t i = smm_segment_find(part, base_offset);
    struct smm_segment *seg = i < part->seg_count ? part->segs[i] : NULL;
    return seg != NULL && seg->base_offset == base_offset &&
                   (serial == 0 || seg->serial == serial) && seg->exists
               ? seg
               : NULL;
}

/* Give a file to the segment that it was opened for, which takes a reference of its own, and see
 * that idle files get closed.
 * @param seg  known to exist, or NULL: found by base offset and serial
 * @return the segment's file, with a reference for the caller: `file`, or the one that somebody
 * else attached first; NULL when the segment is gone. `file` stays the caller's to unref.
 * @locks part->mu and files_mu free */
static struct smm_file *attach(struct sti_storage_partition *part, struct smm_segment *seg,
                               int64_t base_offset, uint64_t serial, struct smm_file *file)
{
    struct smm_store *store = part->store;
    pthread_mutex_lock(&store->files_mu);
    pthread_mutex_lock(&part->mu);
    if (seg == NULL) {
        seg = segment_of(part, base_offset, serial);
    }
    struct smm_file *now = seg == NULL         ? NULL
                           : seg->file != NULL ? smm_file_ref(seg->file)
                                               : smm_file_ref(file);
    if (now == file) {
        seg->file = smm_file_ref(file);
        file->seg = seg;
    }
    pthread_mutex_unlock(&part->mu);
    if (now != file) {
        pthread_mutex_unlock(&store->files_mu);
        return now;
    }
    file->part = part;
    list_push(store, file);
    store->file_count++;
    if (store->sweep == NULL && !store->stopping) {
        store->sweep = smm_job_new(store, NULL, sweep_run);
        if (store->sweep != NULL) {
            smm_job_arm(store->sweep,
                        sti_now_us(store->host) + (uint64_t)store->conf->idle_close_ms * 1000u);
        }
    }
    struct smm_file *chain = evict_excess(store, file);
    pthread_mutex_unlock(&store->files_mu);
    let_go(chain);
    return now;
}

/* Give a new file to its segment, which has none and takes a reference of its own. */
void smm_file_attach(struct sti_storage_partition *part, struct smm_segment *seg,
                     struct smm_file *file)
{
    smm_file_unref(attach(part, seg, 0, 0, file));
}

/* Open the files by name; an index that is missing is made, and filled when somebody looks into it.
 */
static int open_files(struct sti_storage_partition *part, int64_t base_offset, int *log_fd,
                      int *index_fd)
{
    char name[SMM_NAME_LEN];
    *log_fd = *index_fd = -1;
    int fault = STI_FAULT("file.open");
    int dir_fd = fault != 0 ? -1 : smm_part_dir(part);
    if (dir_fd < 0) {
        return fault != 0 ? fault : errno;
    }
    sti_log_name(name, base_offset, ".log");
    *log_fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (*log_fd < 0 && (errno == EROFS || errno == EACCES)) {
        *log_fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    }
    int rc = *log_fd < 0 ? errno : 0;
    if (rc == 0) {
        sti_log_name(name, base_offset, ".index");
        *index_fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    }
    (void)close(dir_fd);
    return rc;
}

/* Get the file of a segment, opening it if need be.
 * @param out  returned: the caller drops the reference with smm_file_unref
 * @return STI_OK; STI_E_NOT_FOUND (the segment has been replaced or retired: look again);
 * STI_E_DATA_LOSS (its file is gone); STI_E_RESOURCE_EXHAUSTED; STI_E_NO_MEMORY; STI_E_IO
 * @locks part->mu and files_mu free */
int smm_file_acquire(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
                     struct smm_file **out, struct sti_err *err)
{
    *out = NULL;
    pthread_mutex_lock(&part->mu);
    struct smm_segment *seg = segment_of(part, base_offset, serial);
    if (seg == NULL) {
        pthread_mutex_unlock(&part->mu);
        return sti_err_set(err, STI_E_NOT_FOUND, "%s: the segment was retired", part->name);
    }
    if (seg->file != NULL) {
        *out = smm_file_ref(seg->file);
        pthread_mutex_unlock(&part->mu);
        atomic_store_explicit(&(*out)->used_us, sti_now_us(part->store->host),
                              memory_order_relaxed);
        return STI_OK;
    }
    serial = seg->serial;
    uint32_t size_max = seg->size_max;
    bool dirty = seg->synced_size < seg->size;
    pthread_mutex_unlock(&part->mu);
    int log_fd, index_fd;
    int rc = open_files(part, base_offset, &log_fd, &index_fd);
    struct smm_file *file = rc == 0 ? smm_file_new(part, log_fd, index_fd, size_max) : NULL;
    if (rc == 0 && file == NULL) {
        (void)close(log_fd);
        (void)close(index_fd);
        rc = ENOMEM;
    }
    if (rc == 0) {
        atomic_store(&file->dirty, dirty);
        *out = attach(part, NULL, base_offset, serial, file);
        smm_file_unref(file);
    } else {
        pthread_mutex_lock(&part->mu);
        bool gone = segment_of(part, base_offset, serial) == NULL;
        pthread_mutex_unlock(&part->mu);
        if (!gone) {
            return sti_err_set(err, rc == ENOENT ? STI_E_DATA_LOSS : smm_errno_status(rc),
                               "%s: open segment %020lld: %s", part->name, (long long)base_offset,
                               strerror(rc));
        }
    }
    return *out != NULL
               ? STI_OK
               : sti_err_set(err, STI_E_NOT_FOUND, "%s: the segment was retired", part->name);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Are all pages in memory, as far as the kernel says? */
static bool is_resident(const uint8_t *from, size_t len, size_t page)
{
    unsigned char vec[RESIDENT_PAGES];
    while (len > 0) {
        size_t part_len = len < RESIDENT_PAGES * page ? len : RESIDENT_PAGES * page;
        if (mincore((void *)(uintptr_t)from, part_len, vec) != 0) {
            return false;
        }
        for (size_t i = 0; i < (part_len + page - 1) / page; i++) {
            if ((vec[i] & 1u) == 0) {
                return false;
            }
        }
        from += part_len;
        len -= part_len;
    }
    return true;
}

/* @return 0 or an errno; EMFILE: the bound on maps is reached */
static int file_map(struct smm_file *file, uint8_t **out)
{
    struct smm_store *store = file->store;
    *out = atomic_load_explicit(&file->map, memory_order_acquire);
    if (*out != NULL) {
        return 0;
    }
    int rc = STI_FAULT("file.mmap");
    if (rc == 0 && atomic_fetch_add(&store->map_count, 1) >= store->conf->max_maps) {
        atomic_fetch_sub(&store->map_count, 1);
        rc = EMFILE;
    }
    if (rc != 0) {
        return rc;
    }
    uint8_t *map = mmap(NULL, file->map_len, PROT_READ, MAP_SHARED, file->log_fd, 0);
    if (map == MAP_FAILED) {
        rc = errno;
        atomic_fetch_sub(&store->map_count, 1);
        return rc;
    }
    uint8_t *expected = NULL;
    if (!atomic_compare_exchange_strong(&file->map, &expected, map)) {
        (void)munmap(map, file->map_len);
        atomic_fetch_sub(&store->map_count, 1);
        *out = expected;
        return 0;
    }
    sti_metric_add(store->metrics.maps, 1);
    *out = map;
    return 0;
}

/* Memory of a published range, populated. The reference of the caller keeps it.
 * @return STI_OK; STI_E_WOULD_BLOCK; STI_E_IO (the disk cannot give it); STI_E_RESOURCE_EXHAUSTED
 */
int smm_file_memory(struct smm_file *file, uint64_t pos, uint64_t len, bool nowait,
                    const uint8_t **out, struct sti_err *err)
{
    uint8_t *map;
    int rc = file_map(file, &map);
    if (rc != 0) {
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "map a segment: %s",
                           rc == EMFILE ? "max_maps are mapped, or held by slow readers"
                                        : strerror(rc));
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t from = pos - pos % page;
    size_t span = (size_t)(pos + len - from);
    if (nowait && !is_resident(map + from, span, page)) {
        return STI_E_WOULD_BLOCK;
    }
    rc = STI_FAULT("file.populate");
    while (rc == 0 && madvise(map + from, span, MADV_POPULATE_READ) != 0) {
        rc = errno == EINTR || errno == EAGAIN ? 0 : errno;
    }
    if (rc != 0) {
        return sti_err_set(err, rc == ENOMEM ? STI_E_NO_MEMORY : STI_E_IO,
                           "read a segment at %llu: %s", (unsigned long long)pos, strerror(rc));
    }
    *out = map + pos;
    return STI_OK;
}
