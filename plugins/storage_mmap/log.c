/* log.c -- the writer: appends, rolls, and the undoing of an append that failed.
 *
 * An append goes to the active segment in as few pwritev calls as the batches need, and to new
 * segments where it does not fit. Nothing of it is published before all of it is written: readers
 * go by the published sizes and the written end, which move together at the end. When the disk is
 * full, the bytes that were written are cut off again and new segments are removed, and the log is
 * as it was; any other failure poisons the partition.
 *
 * An append that may not wait (STI_APPEND_NO_WAIT) is refused unless one pwritev into the open
 * active segment is all that it needs.
 *
 * Where the writer syncs by itself it holds the sync job off, and where that fails, until the
 * partition is poisoned: of two syncs that meet a write error the kernel tells only one, and the
 * other would call the same bytes synced.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { IOV_COUNT = 1024 };

/* Batches that go to one segment. */
struct run {
    struct run *next, *prev;
    struct smm_segment *seg;
    struct smm_file *file;
    uint32_t first, count; /* of the append's batches */
    uint64_t len;
    bool fresh; /* the segment was made for it, and is not on the list yet */
};

/* ---- writing ------------------------------------------------------------------------------- */

static int write_all(int fd, struct iovec *iov, int count, uint64_t *pos)
{
    while (count > 0) {
        int fault = STI_FAULT("segment.append.write");
        ssize_t n = fault != 0 ? -1
                    : STI_FAULT("segment.append.short") != 0
                        ? pwrite(fd, iov->iov_base, (iov->iov_len + 1) / 2, (off_t)*pos)
                        : pwritev(fd, iov, count, (off_t)*pos);
        if (n <= 0) {
            int rc = fault != 0 ? fault : n == 0 ? EIO : errno;
            if (rc == EINTR) {
                continue;
            }
            return rc;
        }
        *pos += (uint64_t)n;
        while (count > 0 && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (n > 0 && count > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* Write whole batches behind each other. @return 0 or an errno; some bytes may then have been
 * written */
static int write_batches(int fd, struct sti_append_batch *const *batches, uint32_t count,
                         uint64_t pos)
{
    struct iovec iov[IOV_COUNT];
    int used = 0, rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        struct sti_append_batch *batch = batches[i];
        for (uint32_t j = 0; j <= batch->slice_count && rc == 0; j++) {
            const struct sti_slice *slice = j == 0 ? NULL : &batch->slices[j - 1];
            iov[used].iov_base = slice == NULL ? batch->head : (uint8_t *)(uintptr_t)slice->data;
            iov[used].iov_len = slice == NULL ? STI_BATCH_PATCH_LEN : (size_t)slice->len;
            used += iov[used].iov_len > 0 ? 1 : 0;
            if (used == IOV_COUNT) {
                rc = write_all(fd, iov, used, &pos);
                used = 0;
            }
        }
    }
    if (rc == 0 && used > 0) {
        rc = write_all(fd, iov, used, &pos);
    }
    return rc == 0 ? STI_FAULT("segment.append.after_write") : rc;
}

/* ---- rolling ------------------------------------------------------------------------------- */

/* Make a segment with its files. It is pinned and on no list yet. @locks part->write_mu held */
static int make_segment(struct sti_storage_partition *part, int64_t base_offset, uint64_t first_len,
                        struct smm_segment **out, struct sti_err *err)
{
    struct smm_segment *seg = smm_segment_new(part, base_offset);
    *out = NULL;
    if (seg == NULL) {
        sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
        return STI_E_NO_MEMORY;
    }
    seg->pinned = true;
    if (first_len > seg->size_max) {
        seg->size_max = (uint32_t)first_len;
    }
    int rc = smm_segment_create(part, seg, err);
    if (rc != STI_OK) {
        free(seg);
        return rc;
    }
    *out = seg;
    return STI_OK;
}

/* Forget a segment that is on no list. @param unlink_it  also remove its files
 * @return false when they could not be removed */
static bool discard_segment(struct sti_storage_partition *part, struct smm_segment *seg,
                            bool unlink_it)
{
    pthread_mutex_lock(&part->mu);
    struct smm_file *gone = smm_file_detach(seg);
    pthread_mutex_unlock(&part->mu);
    smm_file_forget(gone);
    bool ok = !unlink_it || (STI_FAULT("segment.append.undo_segment") == 0 &&
                             smm_segment_unlink(part, seg->base_offset) == 0);
    pthread_mutex_lock(&part->mu);
    part->dir_dirty = part->dir_dirty || unlink_it; /* nor may the name come back */
    pthread_mutex_unlock(&part->mu);
    free(seg);
    return ok;
}

/* Close the active segment and go on in `seg`, for which the list has room. What the index files
 * refuse to take is rebuilt when it is needed. @locks part->write_mu held */
static void enter_segment(struct sti_storage_partition *part, struct smm_segment *seg)
{
    struct smm_segment *old = smm_segment_active(part);
    struct smm_file *file = NULL;
    STI_CRASH_POINT("roll.before_enter");
    if (old->exists &&
        smm_file_acquire(part, old->base_offset, old->serial, &file, NULL) == STI_OK) {
        smm_segment_give_back(old, file->log_fd);
    }
    smm_index_flush(part, old->base_offset, file == NULL ? -1 : file->index_fd, true);
    smm_file_unref(file);
    pthread_mutex_lock(&part->mu);
    old->index_count = part->index.flushed;
    old->max_timestamp = part->index.max_timestamp;
    old->timestamp_known = true;
    smm_index_fini(&part->index);
    smm_segment_append(part, seg);
    seg->pinned = false;
    pthread_mutex_unlock(&part->mu);
    part->first_ms = 0;
    STI_CRASH_POINT("roll.after_enter");
    sti_metric_add(part->store->metrics.rolls, 1);
}

/* Begin a new active segment at the written end.
 * @return STI_OK, or why it cannot be made: nothing has changed. @locks part->write_mu held */
int smm_roll(struct sti_storage_partition *part, int64_t base_offset, struct sti_err *err)
{
    struct smm_segment *seg;
    int rc = smm_segment_room(part, 1, err);
    if (rc == STI_OK) {
        rc = make_segment(part, base_offset, 0, &seg, err);
    }
    if (rc == STI_OK) {
        enter_segment(part, seg);
    }
    return rc;
}

/* ---- planning ------------------------------------------------------------------------------ */

/* Is the active segment's first batch older than segment_ms? */
static bool is_aged(struct sti_storage_partition *part, const struct smm_segment *seg)
{
    if (part->settings.segment_ms <= 0 || seg->write_size == 0) {
        return false;
    }
    int64_t now = sti_now_ms(part->store->host);
    if (part->first_ms < 0) {
        struct smm_file *file;
        struct smm_walk walk;
        struct sti_batch_header header;
        if (smm_file_acquire(part, seg->base_offset, seg->serial, &file, NULL) != STI_OK) {
            return false;
        }
        smm_walk_init(&walk, file->log_fd, seg->size, false);
        part->first_ms = smm_walk_header(&walk, 0, &header, NULL) == STI_OK &&
                                 header.max_timestamp > 0 && header.max_timestamp < now
                             ? header.max_timestamp
                             : now;
        smm_file_unref(file);
    }
    return now - part->first_ms >= part->settings.segment_ms;
}

static bool fits(const struct sti_storage_partition *part, const struct smm_segment *seg,
                 uint64_t used, const struct sti_append_batch *batch)
{
    uint64_t limit = (uint64_t)part->settings.segment_bytes < seg->size_max
                         ? (uint64_t)part->settings.segment_bytes
                         : seg->size_max;
    return batch->last_offset - seg->base_offset <= (int64_t)SMM_POS_MAX &&
           (used == 0 ? batch->len <= seg->size_max : used + batch->len <= limit);
}

/* Take as many batches as fit into the run's segment. */
static void fill_run(const struct sti_storage_partition *part, const struct sti_storage_append *op,
                     struct run *run)
{
    uint32_t i = run->first;
    while (i < op->batch_count &&
           fits(part, run->seg, run->seg->write_size + run->len, op->batches[i])) {
        run->len += op->batches[i++]->len;
    }
    run->count = i - run->first;
}

/* An empty active segment that is too small for the batch that comes grows: nobody has a map of it
 * yet that matters. */
static void widen_empty(struct sti_storage_partition *part, struct smm_segment *seg, uint64_t len)
{
    if (seg->write_size == 0 && len > seg->size_max) {
        pthread_mutex_lock(&part->mu);
        seg->size_max = (uint32_t)len;
        struct smm_file *gone = smm_file_detach(seg); /* its map would be too short */
        pthread_mutex_unlock(&part->mu);
        smm_file_forget(gone);
    }
}

/* Make what was written of a run survive, in the midst of an append: with the policy commit no more
 * than a group is ever unsynced.
 * @param names  also those of new segments
 * @return 0 or an errno, never one that means a full disk; the job is then held off */
static int sync_group(struct sti_storage_partition *part, const struct run *run, bool names)
{
    smm_flush_hold(part);
    int fault = STI_FAULT("segment.append.sync_group");
    if (fault != 0 || fdatasync(run->file->log_fd) != 0 ||
        (names && smm_part_dir_sync(part) != 0)) {
        return EIO;
    }
    smm_flush_resume(part);
    return 0;
}

/* Write the batches of a run, group by group where the policy wants it. @return 0 or an errno */
static int write_groups(struct sti_storage_partition *part, const struct sti_storage_append *op,
                        const struct run *run)
{
    uint64_t pos = run->seg->write_size, most = UINT64_MAX;
    uint32_t i = run->first, end = run->first + run->count;
    int rc = 0;
    if (part->settings.flush_policy == STI_FLUSH_COMMIT) {
        most = (uint64_t)part->store->conf->flush_group_bytes_max;
    }
    while (rc == 0 && i < end) {
        uint64_t len = 0;
        uint32_t count = 0;
        while (i + count < end && (count == 0 || len + op->batches[i + count]->len <= most)) {
            len += op->batches[i + count++]->len;
        }
        rc = write_batches(run->file->log_fd, op->batches + i, count, pos);
        i += count;
        pos += len;
        if (rc == 0 && i < end) {
            rc = sync_group(part, run, false);
        }
    }
    return rc;
}

static int write_run(struct sti_storage_partition *part, const struct sti_storage_append *op,
                     struct run *run, struct sti_err *err)
{
    struct smm_segment *seg = run->seg;
    if (run->count == 0) {
        return STI_OK;
    }
    if (!seg->exists) {
        int rc = smm_segment_create(part, seg, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
    if (run->fresh) {
        run->file = smm_file_ref(seg->file); /* pinned */
    } else {
        int rc = smm_file_acquire(part, seg->base_offset, seg->serial, &run->file, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
    atomic_store_explicit(&run->file->dirty, true, memory_order_relaxed);
    int rc = smm_segment_reserve(part, seg, run->file->log_fd, run->len);
    if (rc == 0) {
        rc = write_groups(part, op, run);
        /* Again: a sync that began before the write may have taken it back. */
        atomic_store_explicit(&run->file->dirty, true, memory_order_relaxed);
    }
    if (rc != 0) {
        int status = smm_errno_status(rc) == STI_E_DISK_FULL ? STI_E_DISK_FULL : STI_E_IO;
        return sti_err_set(err, status, "%s: write %" PRIu64 " bytes to segment %020" PRId64 ": %s",
                           part->name, run->len, seg->base_offset, strerror(rc));
    }
    seg->write_size += (uint32_t)run->len;
    return STI_OK;
}

/* ---- appending ----------------------------------------------------------------------------- */

/* Refuse what no segment can hold, and what does not follow the log. */
static int check_op(const struct sti_storage_partition *part, const struct sti_storage_append *op,
                    struct sti_err *err)
{
    int64_t next = part->written_end;
    for (uint32_t i = 0; i < op->batch_count; i++) {
        const struct sti_append_batch *batch = op->batches[i];
        if (batch->len > SMM_POS_MAX) {
            return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                               "%s: a batch of %" PRIu64 " bytes fits no segment", part->name,
                               batch->len);
        }
        bool sound =
            batch->base_offset == next && batch->last_offset >= batch->base_offset &&
            batch->len >= STI_BATCH_HEADER_LEN &&
            sti_slices_len(batch->slices, batch->slice_count) + STI_BATCH_PATCH_LEN == batch->len;
        for (uint32_t j = 0; sound && j < batch->slice_count; j++) {
            sound = batch->slices[j].data != NULL || batch->slices[j].len == 0;
        }
        if (!sound) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "%s: batch %" PRIu32 " at offset %" PRId64
                               " does not follow the log's end %" PRId64,
                               part->name, i, batch->base_offset, next);
        }
        next = batch->last_offset + 1;
    }
    return STI_OK;
}

/* Write all batches, each run to its segment. @param runs  the first is the active segment's */
static int write_runs(struct sti_storage_partition *part, const struct sti_storage_append *op,
                      struct run *runs, struct sti_err *err)
{
    struct run *run = runs;
    uint32_t fresh = 0;
    run->seg = smm_segment_active(part);
    if (!is_aged(part, run->seg)) {
        widen_empty(part, run->seg, op->batches[0]->len);
        fill_run(part, op, run);
    }
    for (;;) {
        int rc = write_run(part, op, run, err);
        uint32_t next = run->first + run->count;
        if (rc != STI_OK || next == op->batch_count) {
            return rc != STI_OK ? rc : smm_segment_room(part, fresh, err);
        }
        STI_CRASH_POINT("segment.append.between_runs");
        if (part->settings.flush_policy == STI_FLUSH_COMMIT && run->file != NULL &&
            sync_group(part, run, true) != 0) {
            return sti_err_set(err, STI_E_IO, "%s: sync between two segments failed", part->name);
        }
        run->next = calloc(1, sizeof *run);
        if (run->next == NULL) {
            return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
        }
        run->next->prev = run;
        run = run->next;
        run->first = next;
        run->fresh = true;
        fresh++;
        rc = make_segment(part, op->batches[next]->base_offset, op->batches[next]->len, &run->seg,
                          err);
        if (rc != STI_OK) {
            return rc;
        }
        fill_run(part, op, run);
    }
}

/* Make the log what it was before, from its end backwards, so that a death in between leaves no
 * hole. Where that fails the rest stays, whole batches behind whole batches, for the same reason.
 * @return false when it failed */
static bool undo_runs(struct sti_storage_partition *part, struct run *runs)
{
    struct smm_segment *seg = runs->seg;
    struct run *run = runs;
    STI_CRASH_POINT("segment.append.before_undo");
    while (run->next != NULL) {
        run = run->next;
    }
    bool ok = true;
    for (; run != runs; run = run->prev) {
        if (run->seg != NULL) {
            ok = discard_segment(part, run->seg, ok) && ok;
        }
    }
    if (ok && runs->file != NULL) {
        seg->write_size = seg->size;
        ok = STI_FAULT("segment.append.undo_write") == 0 &&
             ftruncate(runs->file->log_fd, seg->size) == 0;
        part->cut_dirty = true;
        seg->reserved_end = seg->size;
    }
    return ok;
}

/* Let readers see a run: index entries first, then sizes and ends. */
static void publish_run(struct sti_storage_partition *part, const struct sti_storage_append *op,
                        struct run *run)
{
    struct smm_segment *seg = run->seg;
    uint64_t pos = seg->size;
    uint32_t i = 0;
    if (run->fresh) {
        enter_segment(part, seg);
    }
    if (run->count == 0) {
        return;
    }
    if (pos == 0) {
        part->first_ms = sti_now_ms(part->store->host);
    }
    while (i < run->count) {
        if (smm_index_full(&part->index)) {
            smm_index_flush(part, seg->base_offset, run->file->index_fd, false);
        }
        pthread_mutex_lock(&part->mu);
        for (; i < run->count && !smm_index_full(&part->index); i++) {
            const struct sti_append_batch *batch = op->batches[run->first + i];
            smm_index_note(&part->index, part->settings.index_interval_bytes, seg->base_offset,
                           batch->last_offset, (uint32_t)pos, batch->len, batch->max_timestamp);
            pos += batch->len;
        }
        if (i == run->count) {
            const struct sti_append_batch *last = op->batches[run->first + i - 1];
            seg->size = (uint32_t)pos;
            part->written_end = last->last_offset + 1;
            part->last_epoch = last->leader_epoch;
            part->bytes += run->len;
        }
        pthread_mutex_unlock(&part->mu);
    }
}

/* An end that was cut off must not come back after a loss of power, in the midst of what is
 * appended now: the file is synced before anything is written behind the cut. When that fails the
 * job is held off. @locks part->write_mu held */
static int sync_cut(struct sti_storage_partition *part, struct sti_err *err)
{
    struct smm_segment *seg = smm_segment_active(part);
    struct smm_file *file;
    if (!part->cut_dirty || !seg->exists) {
        return STI_OK;
    }
    int rc = smm_file_acquire(part, seg->base_offset, seg->serial, &file, err);
    if (rc != STI_OK) {
        return rc;
    }
    smm_flush_hold(part);
    int saved = STI_FAULT("segment.append.sync_cut");
    if (saved == 0 && fdatasync(file->log_fd) != 0) {
        saved = errno;
    }
    if (saved == 0) {
        smm_flush_resume(part);
    }
    smm_file_unref(file);
    part->cut_dirty = saved != 0;
    return saved == 0
               ? STI_OK
               : sti_err_set(err, STI_E_IO, "%s: sync of the cut: %s", part->name, strerror(saved));
}

/* Would the append need more than one write into reserved space of the open segment? What it finds
 * may change before the append, which then does the rest. @locks part->write_mu held */
static bool would_wait(struct sti_storage_partition *part, const struct sti_storage_append *op,
                       uint64_t len)
{
    const struct smm_segment *seg = smm_segment_active(part);
    if (part->settings.flush_policy == STI_FLUSH_COMMIT || !part->boot_noted || part->cut_dirty ||
        !seg->exists ||
        (part->settings.segment_ms > 0 && seg->write_size > 0 && part->first_ms < 0) ||
        is_aged(part, seg) || (uint64_t)seg->write_size + len > UINT32_MAX) {
        return true;
    }
    bool space = seg->write_size + len <= seg->reserved_end ||
                 part->store->conf->reserve_bytes_max == 0 ||
                 atomic_load(&part->store->no_fallocate);
    const struct sti_append_batch *last = op->batches[op->batch_count - 1];
    if (!space || !fits(part, seg, seg->write_size + len - last->len, last)) {
        return true;
    }
    pthread_mutex_lock(&part->mu);
    bool open = seg->file != NULL && !smm_index_full(&part->index);
    pthread_mutex_unlock(&part->mu);
    return !open;
}

/* @param claimed  out: the caller is to sync, with smm_flush_claimed */
static int append_locked(struct sti_storage_partition *part, struct sti_storage_append *op,
                         bool *claimed, struct sti_err *err)
{
    struct run runs = {0};
    if (part->poisoned || part->damaged) {
        return sti_err_set(err, STI_E_POISONED, "%s: %s", part->name,
                           part->damaged ? "the log is damaged" : "a write or sync failed before");
    }
    int rc = check_op(part, op, err);
    if (rc != STI_OK || op->batch_count == 0) {
        return rc;
    }
    if (!part->boot_noted) {
        struct sti_recovery_point point = {.recovery_point = part->recovery_point};
        pthread_mutex_lock(&part->side_mu);
        (void)smm_checkpoint_write(part, &point, false); /* else the next append tries again */
        pthread_mutex_unlock(&part->side_mu);
    }
    rc = sync_cut(part, err);
    if (rc != STI_OK) {
        return rc;
    }
    rc = write_runs(part, op, &runs, err);
    bool intact = true;
    if (rc == STI_OK) {
        int64_t rolled = -1;
        STI_CRASH_POINT("segment.append.before_publish");
        for (struct run *run = &runs; run != NULL; run = run->next) {
            publish_run(part, op, run);
            rolled = run->fresh ? run->seg->base_offset : rolled;
        }
        STI_CRASH_POINT("segment.append.after_publish");
        pthread_mutex_lock(&part->mu);
        *claimed = smm_flush_appended(part, true);
        pthread_mutex_unlock(&part->mu);
        if (rolled >= 0) {
            smm_flush_want(part, rolled);
        }
    } else {
        intact = undo_runs(part, &runs);
    }
    smm_file_unref(runs.file);
    for (struct run *run = runs.next, *next; run != NULL; run = next) {
        next = run->next;
        smm_file_unref(run->file);
        free(run);
    }
    return intact
               ? rc
               : sti_err_set(err, STI_E_IO, "%s: a failed append could not be undone", part->name);
}

int smm_append(struct sti_storage_partition *part, struct sti_storage_append *op)
{
    struct sti_err err = {0};
    uint64_t len = 0;
    for (uint32_t i = 0; i < op->batch_count; i++) {
        len += op->batches[i]->len;
    }
    bool claimed = false;
    int rc = STI_OK;
    if ((op->flags & STI_APPEND_NO_WAIT) != 0) {
        if (pthread_mutex_trylock(&part->write_mu) != 0) {
            return STI_E_WOULD_BLOCK;
        }
        if (op->batch_count > 0 && would_wait(part, op, len)) {
            pthread_mutex_unlock(&part->write_mu);
            return STI_E_WOULD_BLOCK;
        }
    } else {
        rc = smm_flush_group(part, len, &err);
        pthread_mutex_lock(&part->write_mu);
    }
    if (rc == STI_OK) {
        rc = append_locked(part, op, &claimed, &err);
    }
    int64_t end = part->written_end;
    pthread_mutex_unlock(&part->write_mu);
    op->written_end = end;
    op->bytes_needed = rc == STI_E_DISK_FULL ? len : 0;
    if (rc == STI_E_IO) {
        smm_poison(part, &err);
        smm_flush_resume(part); /* a sync that failed here has held the job off until now */
    } else if (rc == STI_E_DISK_FULL) {
        sti_metric_add(part->store->metrics.disk_full, 1);
    } else if (rc == STI_OK) {
        sti_metric_add(part->store->metrics.appended_bytes, len);
        sti_metric_add(part->store->metrics.appends, 1);
    }
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    if (claimed) { /* the partition stays: a close waits for the strand, which is this thread's */
        smm_flush_claimed(part);
    }
    return STI_OK;
}
