/* truncate.c -- taking records away: retention at the front, truncation at the end.
 *
 * trim   the new start is written to `log-start-offset`, then whole segments below it are unlinked.
 * truncate   a published segment is never shrunk, because readers hold slices of it. The part that
 * stays of the segment that is cut is copied into `<base>.log.swap` and synced; then the file
 * `truncation` says to where the log is cut; then the swap is renamed over the segment, the
 * segments behind are unlinked, and `truncation` is removed. A crash before the file `truncation`
 * stands leaves the old log; after it, the next open finishes the cut. Readers of the retired
 * segments keep them until they are done.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

/* ---- front --------------------------------------------------------------------------------- */

/* Take the segments that end at or below `new_start` off the list, never the active one.
 * @param gone  returned: an array of the segments, or NULL when there are none or no memory */
static uint32_t detach_front(struct sti_storage_partition *part, int64_t new_start,
                             struct smm_segment ***gone)
{
    uint32_t count = 0;
    pthread_mutex_lock(&part->mu);
    while (count + 1 < part->seg_count && part->segs[count + 1]->base_offset <= new_start) {
        count++;
    }
    *gone = count == 0 ? NULL : malloc(count * sizeof(**gone));
    if (*gone == NULL) {
        count = 0;
    } else {
        memcpy(*gone, part->segs, count * sizeof(**gone));
        memmove(part->segs, part->segs + count, (part->seg_count - count) * sizeof(*part->segs));
        part->seg_count -= count;
        for (uint32_t i = 0; i < count; i++) {
            part->bytes -= (*gone)[i]->size;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return count;
}

static void retire(struct sti_storage_partition *part, struct smm_segment *seg)
{
    pthread_mutex_lock(&part->mu);
    struct smm_file *file = smm_file_detach(seg);
    pthread_mutex_unlock(&part->mu);
    smm_file_forget(file);
    free(seg);
}

/* Have the start on disk: under the checksum of the recovery point, which recovery goes by, and in
 * a file of its own for whoever looks. @return 0 or an errno */
int smm_start_write(struct sti_storage_partition *part, int64_t start)
{
    struct sti_recovery_point point = {.recovery_point = part->recovery_point};
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return errno;
    }
    pthread_mutex_lock(&part->side_mu);
    int rc = smm_checkpoint_write(part, &point, true);
    pthread_mutex_unlock(&part->side_mu);
    if (rc == 0) {
        rc = smm_offset_write(dir_fd, STI_FILE_LOG_START, start);
    }
    (void)close(dir_fd);
    return rc;
}

/* Room for a small file on a full disk: the indexes of a segment that goes, which can be made anew
 * should a crash keep it. @return false: no segment goes */
static bool make_room(struct sti_storage_partition *part, int64_t new_start)
{
    char name[SMM_NAME_LEN];
    pthread_mutex_lock(&part->mu);
    bool goes = part->seg_count > 1 && part->segs[1]->base_offset <= new_start;
    int64_t base_offset = part->segs[0]->base_offset;
    pthread_mutex_unlock(&part->mu);
    int dir_fd = goes ? smm_part_dir(part) : -1;
    if (dir_fd >= 0) {
        sti_log_name(name, base_offset, ".index");
        (void)unlinkat(dir_fd, name, 0);
        sti_log_name(name, base_offset, ".timeindex");
        (void)unlinkat(dir_fd, name, 0);
        (void)close(dir_fd);
    }
    return goes;
}

/* The log begins at `new_start` from now on. */
static int move_start(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err)
{
    pthread_mutex_lock(&part->mu);
    int64_t old_start = part->log_start;
    part->log_start = new_start;
    pthread_mutex_unlock(&part->mu);
    int rc = STI_FAULT("trim.before_start");
    if (rc == 0) {
        rc = smm_start_write(part, new_start);
    }
    if (rc != 0 && smm_errno_status(rc) == STI_E_DISK_FULL && make_room(part, new_start)) {
        rc = smm_start_write(part, new_start);
    }
    STI_CRASH_POINT("trim.after_start");
    if (rc != 0) { /* segments that went without it would be missed at the next open */
        pthread_mutex_lock(&part->mu);
        part->log_start = old_start;
        pthread_mutex_unlock(&part->mu);
        int status = smm_errno_status(rc) == STI_E_DISK_FULL ? STI_E_DISK_FULL : STI_E_IO;
        return sti_err_set(err, status, "%s: trim: %s", part->name, strerror(rc));
    }
    return STI_OK;
}

static int trim_locked(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err)
{
    if (new_start > part->written_end) {
        return sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE,
                           "%s: trim to %" PRId64 " passes the end %" PRId64, part->name, new_start,
                           part->written_end);
    }
    /* Segments below a start that was written earlier go too: a crash may have left them, or have
     * brought them back. */
    if (new_start > part->log_start) {
        int rc = move_start(part, new_start, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
    if (new_start == part->written_end && smm_segment_active(part)->size > 0 && !part->poisoned &&
        !part->damaged) {
        (void)smm_roll(part, part->written_end, NULL);
    }
    struct smm_segment **gone;
    uint32_t count = detach_front(part, part->log_start, &gone);
    for (uint32_t i = 0; i < count; i++) {
        (void)smm_segment_unlink(part, gone[i]->base_offset);
        STI_CRASH_POINT("trim.between_unlinks");
        retire(part, gone[i]);
    }
    free(gone);
    return STI_OK;
}

int smm_trim(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err)
{
    pthread_mutex_lock(&part->write_mu);
    int rc = trim_locked(part, new_start, err);
    pthread_mutex_unlock(&part->write_mu);
    return rc;
}

int smm_oldest_segment(struct sti_storage_partition *part, int64_t *end_offset, uint64_t *bytes,
                       int64_t *max_timestamp)
{
    pthread_mutex_lock(&part->mu);
    bool several = part->seg_count > 1;
    bool known = several && part->segs[0]->timestamp_known;
    int64_t base_offset = part->segs[0]->base_offset;
    *end_offset = several ? part->segs[1]->base_offset : -1;
    *bytes = several ? part->segs[0]->size : 0;
    *max_timestamp = known ? part->segs[0]->max_timestamp : -1;
    pthread_mutex_unlock(&part->mu);
    if (several && !known) {
        (void)smm_time_newest(part, base_offset, max_timestamp);
    }
    return several ? STI_OK : STI_E_NOT_FOUND;
}

/* ---- end ----------------------------------------------------------------------------------- */

/* Where in its segment does the batch that begins at `offset` lie? */
static int cut_position(struct sti_storage_partition *part, const struct smm_segment *seg,
                        struct smm_file *file, int64_t offset, uint32_t *pos,
                        struct sti_batch_header *last, struct sti_err *err)
{
    struct smm_walk walk;
    struct sti_batch_header header;
    uint32_t rel;
    *pos = 0;
    last->total_len = 0;
    smm_walk_init(&walk, file->log_fd, seg->size, false);
    if (offset > seg->base_offset && file->index_fd >= 0 && seg->index_count > 0 &&
        seg->index_count != SMM_INDEX_UNKNOWN &&
        smm_index_floor(file->index_fd, seg->index_count, (uint32_t)(offset - 1 - seg->base_offset),
                        false, false, &rel, pos) == STI_OK &&
        (smm_walk_header(&walk, *pos, &header, NULL) != STI_OK ||
         sti_batch_last_offset(&header) != seg->base_offset + (int64_t)rel)) {
        *pos = 0;
    }
    /* What stands at the cut itself is not looked at: it may be the damage that goes. */
    for (int64_t next = seg->base_offset; next != offset; next = sti_batch_last_offset(last) + 1) {
        int rc = smm_walk_header(&walk, *pos, &header, err);
        if (rc == STI_E_END || (rc == STI_OK && header.base_offset >= offset)) {
            break;
        }
        if (rc != STI_OK) {
            return sti_err_wrap(err, STI_E_IO, "%s: truncate to %" PRId64, part->name, offset);
        }
        if (sti_batch_last_offset(&header) >= offset) {
            /* Or it lies: the caller is not told of a mistake that the disk has made. */
            rc = sti_log_walk_prove(&walk.log, *pos, &header, err);
            if (rc != STI_OK) {
                return sti_err_wrap(err, STI_E_IO, "%s: truncate to %" PRId64, part->name, offset);
            }
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "%s: truncate to %" PRId64 ": not where a batch begins", part->name,
                               offset);
        }
        *last = header;
        *pos += (uint32_t)header.total_len;
    }
    return STI_OK;
}

static int copy_bytes(int from, int to, uint64_t len)
{
    off_t in = 0, out = 0;
    char buf[16384];
    bool plain = false;
    while ((uint64_t)in < len) {
        ssize_t n =
            plain ? -1 : copy_file_range(from, &in, to, &out, (size_t)(len - (uint64_t)in), 0);
        if (n > 0 || (n < 0 && errno == EINTR)) {
            continue;
        }
        if (!plain && n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO)) {
            return errno;
        }
        plain = true; /* the file system cannot copy by itself */
        size_t want = len - (uint64_t)in < sizeof buf ? (size_t)(len - (uint64_t)in) : sizeof buf;
        size_t got;
        int rc = smm_pread(from, buf, want, (uint64_t)in, false, &got);
        if (rc != 0 || got == 0) {
            return rc != 0 ? rc : EIO;
        }
        for (size_t done = 0; done < got; done += (size_t)n) {
            n = pwrite(to, buf + done, got - done, out + (off_t)done);
            if (n <= 0) {
                return n == 0 ? EIO : errno;
            }
        }
        in += (off_t)got;
        out += (off_t)got;
    }
    return 0;
}

/* Copy what stays into the swap file, synced. *fd is then open for the new segment. */
static int make_swap(struct sti_storage_partition *part, int dir_fd, const struct smm_segment *seg,
                     int log_fd, uint32_t len, int *fd, struct sti_err *err)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, seg->base_offset, ".log.swap");
    *fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    int rc = *fd < 0 ? errno : STI_FAULT("truncate.before_copy");
    if (rc == 0) {
        rc = copy_bytes(log_fd, *fd, len);
    }
    if (rc == 0 && fdatasync(*fd) != 0) {
        rc = errno;
    }
    if (rc == 0) {
        rc = STI_FAULT("truncate.after_copy");
    }
    if (rc == 0) {
        return STI_OK;
    }
    if (*fd >= 0) {
        (void)close(*fd);
        *fd = -1;
    }
    (void)unlinkat(dir_fd, name, 0);
    return sti_err_set(err, smm_errno_status(rc), "%s: truncate: %s", part->name, strerror(rc));
}

/* Replace segments from `first` on by `seg` in memory.
 * @param gone  returned: what was replaced; room for all of it. @return how many */
static uint32_t swap_list(struct sti_storage_partition *part, uint32_t first,
                          struct smm_segment *seg, int64_t offset,
                          const struct sti_batch_header *last, struct smm_segment **gone)
{
    pthread_mutex_lock(&part->mu);
    uint32_t count = part->seg_count - first;
    memcpy(gone, part->segs + first, count * sizeof(*gone));
    for (uint32_t i = 0; i < count; i++) {
        part->bytes -= gone[i]->size;
    }
    part->segs[first] = seg;
    part->seg_count = first + 1;
    part->bytes += seg->size;
    part->written_end = offset;
    part->synced_end = part->synced_end < offset ? part->synced_end : offset;
    part->sync_want = part->sync_want < offset ? part->sync_want : offset;
    part->log_start = part->log_start < offset ? part->log_start : offset;
    part->last_epoch = last->total_len > 0 ? last->leader_epoch : -1;
    memset(part->cursors, 0, sizeof part->cursors);
    smm_damage_cut(part, offset);
    smm_index_fini(&part->index);
    pthread_mutex_unlock(&part->mu);
    part->first_ms = seg->size > 0 ? -1 : 0;
    return count;
}

/* Do on disk what has been decided. The file `truncation` stands. */
static int finish_on_disk(struct sti_storage_partition *part, int dir_fd, int64_t base_offset,
                          struct smm_segment **gone, uint32_t count)
{
    char swap[SMM_NAME_LEN], name[SMM_NAME_LEN];
    sti_log_name(swap, base_offset, ".log.swap");
    sti_log_name(name, base_offset, ".log");
    int rc = STI_FAULT("truncate.before_rename");
    for (uint32_t i = count; rc == 0 && i > 1; i--) {
        rc = smm_segment_unlink(part, gone[i - 1]->base_offset); /* or it would be back one day */
        STI_CRASH_POINT("truncate.between_unlinks");
    }
    if (rc == 0 && renameat(dir_fd, swap, dir_fd, name) != 0) {
        rc = errno;
    }
    if (rc == 0 && (rc = STI_FAULT("truncate.after_rename")) == 0 && fsync(dir_fd) != 0) {
        rc = errno;
    }
    if (rc == 0 && (rc = STI_FAULT("truncate.before_unlink")) == 0 &&
        unlinkat(dir_fd, STI_FILE_TRUNCATION, 0) != 0) {
        rc = errno;
    }
    /* Were the file to come back, the next open would cut off what is appended from now on. */
    if (rc == 0 && (rc = STI_FAULT("truncate.after_unlink")) == 0 && fsync(dir_fd) != 0) {
        rc = errno;
    }
    return rc;
}

/* The leader epoch of the last batch before the segment, when the cut leaves it empty. */
static void previous_epoch(struct sti_storage_partition *part, uint32_t first,
                           struct sti_batch_header *last)
{
    struct smm_file *file;
    struct smm_walk walk;
    struct sti_batch_header header;
    if (last->total_len > 0 || first == 0) {
        return;
    }
    const struct smm_segment *seg = part->segs[first - 1];
    if (smm_file_acquire(part, seg->base_offset, seg->serial, &file, NULL) != STI_OK) {
        return;
    }
    uint32_t pos = 0, rel, count = seg->index_count;
    smm_walk_init(&walk, file->log_fd, seg->size, false);
    if (count == SMM_INDEX_UNKNOWN) {
        (void)smm_index_check(part, seg->base_offset, seg->serial, file, seg->size, false, &count,
                              NULL);
    }
    if (count > 0 && file->index_fd >= 0) {
        (void)smm_index_floor(file->index_fd, count, seg->size, true, false, &rel, &pos);
    }
    while (smm_walk_header(&walk, pos, &header, NULL) == STI_OK) {
        *last = header;
        pos += (uint32_t)header.total_len;
    }
    smm_file_unref(file);
}

/* Fill the index of the new active segment from its headers. */
static void index_active(struct sti_storage_partition *part, struct smm_segment *seg,
                         struct smm_file *file)
{
    struct smm_walk walk;
    struct sti_batch_header header;
    smm_walk_init(&walk, file->log_fd, seg->size, false);
    if (smm_index_restart(part, seg->base_offset, NULL) != STI_OK) {
        return;
    }
    for (uint64_t pos = 0; smm_walk_header(&walk, pos, &header, NULL) == STI_OK;
         pos += header.total_len) {
        pthread_mutex_lock(&part->mu);
        smm_index_note(&part->index, part->settings.index_interval_bytes, seg->base_offset,
                       sti_batch_last_offset(&header), (uint32_t)pos, header.total_len,
                       header.max_timestamp);
        pthread_mutex_unlock(&part->mu);
        if (smm_index_full(&part->index)) {
            smm_index_flush(part, seg->base_offset, file->index_fd, false);
        }
    }
}

/* The new segment, with the swap file as its file. */
static struct smm_segment *new_end(struct sti_storage_partition *part, int64_t base_offset, int fd,
                                   uint32_t len, struct smm_file **file)
{
    struct smm_segment *seg = smm_segment_new(part, base_offset);
    if (seg == NULL) {
        return NULL;
    }
    char name[SMM_NAME_LEN];
    int dir_fd = smm_part_dir(part);
    sti_log_name(name, base_offset, ".index");
    int index_fd = dir_fd < 0 ? -1 : openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    seg->size = seg->write_size = seg->synced_size = seg->reserved_end = len;
    seg->size_max = seg->size_max < len ? len : seg->size_max;
    seg->exists = true;
    seg->pinned = true;
    *file = smm_file_new(part, fd, index_fd, seg->size_max);
    if (*file == NULL) {
        if (index_fd >= 0) {
            (void)close(index_fd);
        }
        free(seg);
        return NULL;
    }
    return seg;
}

/* The cut could not be decided for certain: its note may stand under its name even so, and the next
 * open would cut off what is appended until then. Remove it, or let nothing be appended. */
static void take_back(struct sti_storage_partition *part, int dir_fd, int64_t base_offset,
                      struct sti_err *err)
{
    char swap[SMM_NAME_LEN];
    sti_log_name(swap, base_offset, ".log.swap");
    int rc = STI_FAULT("truncate.before_take_back");
    if (rc == 0 && unlinkat(dir_fd, STI_FILE_TRUNCATION, 0) != 0 && errno != ENOENT) {
        rc = errno;
    }
    if (rc == 0 && fsync(dir_fd) != 0) {
        rc = errno;
    }
    if (rc == 0) {
        (void)unlinkat(dir_fd, swap, 0);
    } else {
        sti_err_set(err, STI_E_IO, "%s: take a truncation back: %s", part->name, strerror(rc));
        smm_poison(part, err);
    }
}

/* Copy what stays of `was` into a new segment, and note on disk that the cut is decided.
 * @param old  the file of `was`, NULL when it has none: nothing stays then
 * @param seg, file  returned: the new end of the log, pinned, on no list yet; set on STI_OK only */
static int prepare(struct sti_storage_partition *part, int dir_fd, const struct smm_segment *was,
                   int64_t offset, uint32_t pos, const struct smm_file *old,
                   struct smm_segment **seg, struct smm_file **file, struct sti_err *err)
{
    int fd = -1;
    int rc = make_swap(part, dir_fd, was, old == NULL ? -1 : old->log_fd, pos, &fd, err);
    if (rc != STI_OK) {
        return rc;
    }
    struct smm_segment *made = new_end(part, was->base_offset, fd, pos, file);
    if (made == NULL) {
        (void)close(fd);
        sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
        return STI_E_NO_MEMORY;
    }
    int saved = smm_offset_write(dir_fd, STI_FILE_TRUNCATION, offset);
    if (saved == 0) {
        saved = STI_FAULT("truncate.after_note");
    }
    if (saved != 0) {
        smm_file_unref(*file);
        *file = NULL;
        free(made);
        sti_err_set(err, smm_errno_status(saved), "%s: truncate: %s", part->name, strerror(saved));
        take_back(part, dir_fd, was->base_offset, err);
        return err->code;
    }
    *seg = made;
    return STI_OK;
}

/* Cut segment `first` at `pos` and drop those behind it. */
static int cut(struct sti_storage_partition *part, uint32_t first, int64_t offset, uint32_t pos,
               const struct sti_batch_header *last, const struct smm_file *old, struct sti_err *err)
{
    int64_t base_offset = part->segs[first]->base_offset;
    struct smm_segment *seg = NULL;
    struct smm_file *file = NULL;
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return sti_err_set(err, STI_E_IO, "%s: %s", part->name, strerror(errno));
    }
    struct smm_segment **gone = calloc(part->seg_count, sizeof(*gone));
    if (gone == NULL) {
        (void)close(dir_fd);
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
    }
    int rc = prepare(part, dir_fd, part->segs[first], offset, pos, old, &seg, &file, err);
    if (seg != NULL) {
        bool damaged = part->damaged;
        /* First its file, then the list: the name still leads to the old file, and a reader who
         * found the segment without one would open that, and give it to the segment. */
        smm_file_attach(part, seg, file);
        uint32_t count = swap_list(part, first, seg, offset, last, gone);
        int saved = finish_on_disk(part, dir_fd, base_offset, gone, count);
        index_active(part, seg, file);
        pthread_mutex_lock(&part->mu);
        seg->pinned = false;
        pthread_mutex_unlock(&part->mu);
        smm_file_unref(file);
        for (uint32_t i = 0; i < count; i++) {
            retire(part, gone[i]);
        }
        if (saved != 0) {
            rc = sti_err_set(err, STI_E_IO, "%s: truncate: %s", part->name, strerror(saved));
            smm_poison(part, err);
        } else if (damaged) {
            smm_damage_save(part);
        }
    }
    (void)close(dir_fd);
    free(gone);
    return rc;
}

static int truncate_locked(struct sti_storage_partition *part, int64_t offset, struct sti_err *err)
{
    struct smm_file *file = NULL;
    struct sti_batch_header last = {0};
    uint32_t pos = 0;
    if (part->poisoned) {
        return sti_err_set(err, STI_E_IO, "%s: poisoned", part->name);
    }
    if (offset >= part->written_end && !part->damaged) {
        return STI_OK;
    }
    uint32_t first = smm_segment_find(part, offset);
    struct smm_segment *seg = part->segs[first];
    if (offset < seg->base_offset) {
        return sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE,
                           "%s: truncate to %" PRId64 ": the log begins at %" PRId64, part->name,
                           offset, seg->base_offset);
    }
    int rc = STI_OK;
    last.total_len = 0;
    if (seg->exists) {
        rc = smm_file_acquire(part, seg->base_offset, seg->serial, &file, err);
        if (rc == STI_OK) {
            rc = cut_position(part, seg, file, offset, &pos, &last, err);
        }
    }
    if (rc == STI_OK) {
        previous_epoch(part, first, &last);
    }
    /* Neither the recovery point nor the mark of a clean end may lie behind the end of the log:
     * what they say is there, and is missing, is damage. */
    if (rc == STI_OK && (part->recovery_point > seg->base_offset || !part->boot_noted)) {
        int64_t was = part->recovery_point;
        struct sti_recovery_point point = {.recovery_point =
                                               was < seg->base_offset ? was : seg->base_offset};
        pthread_mutex_lock(&part->side_mu);
        int saved = smm_checkpoint_write(part, &point, true);
        pthread_mutex_unlock(&part->side_mu);
        if (saved != 0) {
            rc = sti_err_set(err, smm_errno_status(saved), "%s: truncate: %s", part->name,
                             strerror(saved));
        }
    }
    if (rc == STI_OK) {
        rc = cut(part, first, offset, pos, &last, file, err);
    }
    smm_file_unref(file);
    return rc;
}

int smm_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err)
{
    struct sti_err why = {0}; /* a poisoning wants the sentence even if the caller does not */
    pthread_mutex_lock(&part->write_mu);
    smm_flush_hold(part);
    int rc = truncate_locked(part, offset, &why);
    smm_flush_resume(part);
    pthread_mutex_unlock(&part->write_mu);
    if (rc != STI_OK && err != NULL) {
        *err = why;
    }
    return rc;
}
