/* space.c -- how much room the file system has, and what this plugin gives back when it is little.
 *
 * Reserved space speeds appends up, but it is space that nobody else can write to. While there is
 * plenty, a partition keeps its reservation until it has been idle for idle_close_ms. When room
 * gets scarce, whoever asks for it here makes partitions that nobody writes to give theirs back,
 * open or not, and new reservations stay below a fraction of what is free (smm_space_step).
 *
 * Nothing here waits for a writer: a partition whose write_mu is taken is at work, and keeps what
 * it has. Any executor thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "storage_mmap.h"

enum {
    SCARCE_SHARE = 8,      /* scarce: less than that part of the file system is free ... */
    STEP_SHARE = 64,       /* of what is free, one reservation takes at most that part */
    IDLE_US = 1000000,     /* a writer that was quiet for so long is idle when room is scarce */
    GIVE_BACK_US = 2000000 /* between two rounds */
};
#define SCARCE_BYTES (UINT64_C(2) << 30) /* ... and less than this */

/* How far ahead of its writer a segment may reserve, as room goes. */
uint64_t smm_space_step(const struct smm_store *store, uint64_t step)
{
    uint64_t most = atomic_load_explicit(&store->free_bytes, memory_order_relaxed) / STEP_SHARE;
    return step < most ? step : most;
}

/* Free what is reserved behind the end of a segment, by name: its file need not be open.
 * @locks part->write_mu held */
static void give_back(struct sti_storage_partition *part, struct smm_segment *seg)
{
    char name[SMM_NAME_LEN];
    int dir_fd = smm_part_dir(part);
    sti_log_name(name, seg->base_offset, ".log");
    int fd = dir_fd < 0 ? -1 : openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0) {
        smm_segment_give_back(seg, fd);
        (void)close(fd);
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
}

/* @locks table_mu held, so that the partition stays; its write_mu is only tried */
static void partition_give_back(struct sti_storage_partition *part, uint64_t now_us)
{
    if (!atomic_load(&part->opened) || pthread_mutex_trylock(&part->write_mu) != 0) {
        return;
    }
    pthread_mutex_lock(&part->mu);
    struct smm_segment *seg = part->seg_count == 0 ? NULL : smm_segment_active(part);
    bool busy =
        seg != NULL && seg->file != NULL && atomic_load(&seg->file->used_us) + IDLE_US > now_us;
    pthread_mutex_unlock(&part->mu);
    if (seg != NULL && !busy && seg->exists && seg->reserved_end > seg->write_size) {
        give_back(part, seg); /* the writer's lock keeps the segment */
    }
    pthread_mutex_unlock(&part->write_mu);
}

/* One round over the open partitions. The table is let go after each bucket. */
static void all_give_back(struct smm_store *store)
{
    uint64_t now_us = sti_now_us(store->host);
    uint64_t last = atomic_load(&store->given_back_us);
    if ((last != 0 && now_us < last + GIVE_BACK_US) ||
        !atomic_compare_exchange_strong(&store->given_back_us, &last, now_us)) {
        return; /* somebody else is at it */
    }
    for (uint32_t i = 0; i < SMM_BUCKETS; i++) {
        pthread_mutex_lock(&store->table_mu);
        for (struct sti_storage_partition *part = store->table[i]; part != NULL;
             part = part->table_next) {
            partition_give_back(part, now_us);
        }
        pthread_mutex_unlock(&store->table_mu);
    }
}

static int ask(struct smm_store *store, struct sti_storage_space *out, struct sti_err *err)
{
    struct statvfs st;
    int rc = STI_FAULT("space.statvfs");
    if (rc == 0 && fstatvfs(store->dir_fd, &st) != 0) {
        rc = errno;
    }
    if (rc != 0) {
        return sti_err_set(err, STI_E_IO, "%s: ask for its free space: %s", store->host->instance,
                           strerror(rc));
    }
    out->total_bytes = (uint64_t)st.f_blocks * st.f_frsize;
    out->free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    atomic_store_explicit(&store->free_bytes, out->free_bytes, memory_order_relaxed);
    return STI_OK;
}

int smm_space(void *self, struct sti_storage_space *out, struct sti_err *err)
{
    struct smm_store *store = self;
    *out = (struct sti_storage_space){.struct_size = sizeof *out};
    int rc = ask(store, out, err);
    if (rc == STI_OK && out->free_bytes < SCARCE_BYTES &&
        out->free_bytes < out->total_bytes / SCARCE_SHARE) {
        all_give_back(store);
        rc = ask(store, out, err);
    }
    return rc;
}
