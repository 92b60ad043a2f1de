/* segment.c -- segments in memory and their files by name; space reserved ahead of the writer. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { RESERVE_MIN = 64 * 1024 };

/* A segment that has no files yet. NULL: no memory. */
struct smm_segment *smm_segment_new(struct sti_storage_partition *part, int64_t base_offset)
{
    struct smm_segment *seg = calloc(1, sizeof *seg);
    if (seg != NULL) {
        int64_t limit = part->settings.segment_bytes;
        seg->base_offset = base_offset;
        seg->serial = ++part->serial_next;
        seg->max_timestamp = -1;
        seg->size_max = limit < (int64_t)SMM_POS_MAX ? (uint32_t)limit : SMM_POS_MAX;
        seg->index_count = SMM_INDEX_UNKNOWN;
    }
    return seg;
}

/* Make room for that many more segments on the list. @locks part->mu free
 * @return STI_OK, STI_E_NO_MEMORY */
int smm_segment_room(struct sti_storage_partition *part, uint32_t more, struct sti_err *err)
{
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    if (part->seg_count + more > part->seg_capacity) {
        uint32_t capacity = part->seg_capacity * 2;
        capacity = capacity < part->seg_count + more ? part->seg_count + more : capacity;
        struct smm_segment **segs = realloc(part->segs, capacity * sizeof(*segs));
        if (segs == NULL) {
            rc = sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
        } else {
            part->segs = segs;
            part->seg_capacity = capacity;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}

/* Put a segment at the end of the list, which has room; it is the active one from then on.
 * @locks part->mu held */
void smm_segment_append(struct sti_storage_partition *part, struct smm_segment *seg)
{
    part->segs[part->seg_count++] = seg;
}

/* @return subscript of the last segment that begins at or below `offset`, 0 if none does.
 * @locks part->mu held */
uint32_t smm_segment_find(const struct sti_storage_partition *part, int64_t offset)
{
    uint32_t low = 0, high = part->seg_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (part->segs[mid]->base_offset <= offset) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return low;
}

struct smm_segment *smm_segment_active(const struct sti_storage_partition *part)
{
    return part->segs[part->seg_count - 1];
}

/* Make the files of a segment that has none, and open them. An empty file that a crash has left is
 * taken over; one with bytes in it never is.
 * @return STI_OK, STI_E_DISK_FULL, STI_E_RESOURCE_EXHAUSTED, STI_E_NO_MEMORY, STI_E_IO; on failure
 * nothing is left behind
 * @locks part->write_mu held */
int smm_segment_create(struct sti_storage_partition *part, struct smm_segment *seg,
                       struct sti_err *err)
{
    char name[SMM_NAME_LEN];
    int log_fd = -1, index_fd = -1, time_fd = -1;
    int dir_fd = smm_part_dir(part);
    int rc = dir_fd < 0 ? errno : STI_FAULT("segment.create");
    if (rc == 0) {
        sti_log_name(name, seg->base_offset, ".log");
        log_fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
        rc = log_fd < 0 ? errno : lseek(log_fd, 0, SEEK_END) != 0 ? EEXIST : 0;
    }
    if (rc == 0 && (rc = STI_FAULT("segment.create.after_log")) == 0) {
        int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW;
        sti_log_name(name, seg->base_offset, ".index");
        index_fd = openat(dir_fd, name, flags, 0640);
        STI_CRASH_POINT("segment.create.after_index");
        sti_log_name(name, seg->base_offset, ".timeindex");
        time_fd = index_fd < 0 ? -1 : openat(dir_fd, name, flags, 0640);
        rc = time_fd < 0 ? errno : STI_FAULT("segment.create.after_timeindex");
    }
    struct smm_file *file = rc == 0 ? smm_file_new(part, log_fd, index_fd, seg->size_max) : NULL;
    if (rc == 0 && file == NULL) {
        rc = ENOMEM;
    }
    if (time_fd >= 0) {
        (void)close(time_fd);
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    if (rc != 0) {
        if (log_fd >= 0) {
            (void)close(log_fd);
        }
        if (index_fd >= 0) {
            (void)close(index_fd);
        }
        if (rc != EEXIST && log_fd >= 0) {
            (void)smm_segment_unlink(part, seg->base_offset);
        }
        return sti_err_set(err, rc == ENOENT ? STI_E_IO : smm_errno_status(rc),
                           "%s: create segment %020" PRId64 ": %s", part->name, seg->base_offset,
                           strerror(rc));
    }
    pthread_mutex_lock(&part->mu);
    seg->exists = true;
    part->dir_dirty = true;
    pthread_mutex_unlock(&part->mu);
    smm_file_attach(part, seg, file);
    smm_file_unref(file);
    return STI_OK;
}

/* Remove a segment's files by name, the log last: a death in between leaves a segment that the next
 * trim or truncation finds, and no index that nobody looks for. Those that hold it open keep its
 * bytes.
 * @return 0, or an errno: its log is still there */
int smm_segment_unlink(struct sti_storage_partition *part, int64_t base_offset)
{
    static const char *const suffixes[] = {".timeindex", ".index", ".log"};
    char name[SMM_NAME_LEN];
    int rc = 0;
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return errno;
    }
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        sti_log_name(name, base_offset, suffixes[i]);
        rc = unlinkat(dir_fd, name, 0) != 0 && errno != ENOENT ? errno : 0;
        STI_CRASH_POINT("segment.unlink.between");
    }
    (void)close(dir_fd);
    return rc;
}

/* Have space for `len` more bytes behind the writer, and some ahead: as much as the segment holds
 * already, within bounds, so that a small partition reserves little.
 * @return 0 or an errno; ENOSPC means that nothing has changed. @locks part->write_mu held */
int smm_segment_reserve(struct sti_storage_partition *part, struct smm_segment *seg, int fd,
                        uint64_t len)
{
    uint64_t end = seg->write_size + len;
    int64_t step_max = part->store->conf->reserve_bytes_max;
    if (end <= seg->reserved_end || step_max == 0 || atomic_load(&part->store->no_fallocate)) {
        return 0;
    }
    uint64_t step = seg->write_size < RESERVE_MIN ? RESERVE_MIN : seg->write_size;
    step = smm_space_step(part->store, step < (uint64_t)step_max ? step : (uint64_t)step_max);
    uint64_t want = end + step < seg->size_max ? end + step : seg->size_max;
    want = want < end ? end : want;
    int rc = STI_FAULT("segment.reserve");
    for (int attempt = 0; rc == 0 && attempt < 2; attempt++) {
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, seg->write_size, (off_t)(want - seg->write_size)) ==
            0) {
            seg->reserved_end = (uint32_t)want;
            return 0;
        }
        if (errno == EOPNOTSUPP || errno == ENOSYS) {
            atomic_store(&part->store->no_fallocate, true);
            return 0;
        }
        if (errno == EINTR) {
            attempt--;
            continue;
        }
        if (attempt == 1 || (errno != ENOSPC && errno != EFBIG)) {
            rc = errno;
        }
        want = end;
    }
    if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG) {
        smm_segment_give_back(seg, fd);
    }
    return rc;
}

/* Give reserved space behind the last byte back: a truncation to the same size frees it.
 * @locks part->write_mu held */
void smm_segment_give_back(struct smm_segment *seg, int fd)
{
    if (seg->reserved_end > seg->write_size && STI_FAULT("segment.give_back") == 0 &&
        ftruncate(fd, seg->write_size) == 0) {
        seg->reserved_end = seg->write_size;
    }
}
