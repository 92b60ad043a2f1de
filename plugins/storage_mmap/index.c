/* index.c -- the sparse indexes of a segment, and the walk over batch headers.
 *
 * Entries (streamit/log_files.h) of the active segment gather in memory and go to the files in
 * runs, at a roll and at close. An index says where to begin to look, never what is there: whoever
 * uses an entry checks it against the header that it points to. A closed segment's index is looked
 * at when it is first needed, and built anew from the headers when it is missing, cut or too short.
 * An entry that could not be kept (memory, disk full) only makes later walks longer.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { PENDING_FIRST = 8, PENDING_MAX = 128, SHORT_FACTOR = 4 };

/* ---- walking ------------------------------------------------------------------------------- */

static int walk_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    const struct smm_walk *walk = ctx;
    return smm_pread(walk->fd, buf, len, pos, walk->nowait, got);
}

void smm_walk_init(struct smm_walk *walk, int fd, uint64_t limit, bool nowait)
{
    walk->fd = fd;
    walk->nowait = nowait;
    sti_log_walk_init(&walk->log, walk_read, walk, walk->buf, sizeof walk->buf, limit);
}

/* Decode the header at `pos`, where a batch begins. @return as sti_log_walk_header */
int smm_walk_header(struct smm_walk *walk, uint64_t pos, struct sti_batch_header *out,
                    struct sti_err *err)
{
    return sti_log_walk_header(&walk->log, pos, out, err);
}

/* ---- the writer's side --------------------------------------------------------------------- */

void smm_index_init(struct smm_index *index)
{
    memset(index, 0, sizeof *index);
    index->max_timestamp = -1;
    index->last_time = -1;
}

void smm_index_fini(struct smm_index *index)
{
    free(index->entries);
    free(index->time_entries);
    smm_index_init(index);
}

bool smm_index_full(const struct smm_index *index)
{
    return index->pending == PENDING_MAX || index->time_pending == PENDING_MAX;
}

/* Room for one more encoded entry, or NULL. */
static uint8_t *slot(uint8_t **entries, uint16_t *count, uint16_t *capacity, size_t entry_len)
{
    if (*count == *capacity) {
        uint16_t more = *capacity == 0 ? PENDING_FIRST : (uint16_t)(*capacity * 2);
        uint8_t *grown = more > PENDING_MAX ? NULL : realloc(*entries, more * entry_len);
        if (grown == NULL) {
            return NULL;
        }
        *entries = grown;
        *capacity = more;
    }
    return *entries + (*count)++ * entry_len;
}

static void note_time(struct smm_index *index, int64_t base_offset)
{
    if (index->max_timestamp > index->last_time) {
        uint8_t *out =
            slot(&index->time_entries, &index->time_pending, &index->time_capacity, SMM_TIME_ENTRY);
        if (out != NULL) {
            sti_time_entry_put(out, index->max_timestamp,
                               (uint32_t)(index->max_timestamp_offset - base_offset));
            index->last_time = index->max_timestamp;
        }
    }
}

/* Take notice of one more batch of the segment. @locks part->mu where the index is the partition's
 */
void smm_index_note(struct smm_index *index, int64_t interval, int64_t base_offset,
                    int64_t last_offset, uint32_t pos, uint64_t len, int64_t max_timestamp)
{
    if (max_timestamp > index->max_timestamp) {
        index->max_timestamp = max_timestamp;
        index->max_timestamp_offset = last_offset;
    }
    if (index->since > (uint64_t)interval) {
        uint8_t *out = slot(&index->entries, &index->pending, &index->capacity, SMM_INDEX_ENTRY);
        if (out != NULL) {
            sti_index_entry_put(out, (uint32_t)(last_offset - base_offset), pos);
            index->since = 0;
        }
        note_time(index, base_offset);
    }
    index->since += len;
}

static int write_run(int fd, const uint8_t *data, size_t len, uint64_t pos)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)pos);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? EIO : errno;
        }
        data += n;
        len -= (size_t)n;
        pos += (uint64_t)n;
    }
    return 0;
}

static int open_time_index(struct sti_storage_partition *part, int64_t base_offset, int flags)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, base_offset, ".timeindex");
    int dir_fd = smm_part_dir(part);
    int fd = dir_fd < 0 ? -1 : openat(dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    return fd;
}

/* Write an index's waiting entries behind those in the files.
 * @return 0, or an errno: the entries are then dropped. */
static int flush_index(struct sti_storage_partition *part, struct smm_index *index,
                       int64_t base_offset, int index_fd)
{
    int rc = STI_FAULT("index.flush");
    if (rc == 0 && index->pending > 0) {
        rc = index_fd < 0 ? EROFS
                          : write_run(index_fd, index->entries, index->pending * SMM_INDEX_ENTRY,
                                      (uint64_t)index->flushed * SMM_INDEX_ENTRY);
    }
    uint32_t flushed = rc == 0 ? index->pending : 0;
    int time_rc = STI_FAULT("index.flush.between");
    if (time_rc == 0 && index->time_pending > 0) {
        int fd = open_time_index(part, base_offset, O_WRONLY | O_CREAT);
        time_rc = fd < 0 ? errno
                         : write_run(fd, index->time_entries, index->time_pending * SMM_TIME_ENTRY,
                                     (uint64_t)index->time_flushed * SMM_TIME_ENTRY);
        if (fd >= 0) {
            (void)close(fd);
        }
    }
    uint32_t time_flushed = time_rc == 0 ? index->time_pending : 0;
    STI_CRASH_POINT("index.flush.after");
    pthread_mutex_lock(&part->mu);
    index->flushed += flushed;
    index->time_flushed += time_flushed;
    index->pending = 0;
    index->time_pending = 0;
    pthread_mutex_unlock(&part->mu);
    return rc != 0 ? rc : time_rc;
}

/* Write the waiting entries of the active segment to its files.
 * @param closing  also end the time index with the segment's newest timestamp
 * @locks part->write_mu held */
void smm_index_flush(struct sti_storage_partition *part, int64_t base_offset, int index_fd,
                     bool closing)
{
    if (closing) {
        pthread_mutex_lock(&part->mu);
        note_time(&part->index, base_offset);
        pthread_mutex_unlock(&part->mu);
    }
    if (part->index.pending == 0 && part->index.time_pending == 0) {
        return;
    }
    int rc = flush_index(part, &part->index, base_offset, index_fd);
    if (rc != 0) {
        sti_log(part->store->host, STI_LOG_WARN, "index_not_written",
                "index entries were dropped; lookups walk further until the index is rebuilt",
                STI_F_STR("partition", part->name), STI_F_STR("error", strerror(rc)));
    }
}

/* Begin both indexes of a segment anew. @return STI_OK, or the failure to empty the files */
int smm_index_restart(struct sti_storage_partition *part, int64_t base_offset, struct sti_err *err)
{
    char name[SMM_NAME_LEN];
    int rc = 0;
    int dir_fd = smm_part_dir(part);
    for (int i = 0; i < 2 && rc == 0; i++) {
        sti_log_name(name, base_offset, i == 0 ? ".index" : ".timeindex");
        int fd = dir_fd < 0 ? -1
                            : openat(dir_fd, name,
                                     O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
        rc = fd < 0 ? errno : close(fd) == 0 ? STI_FAULT("index.restart.between") : errno;
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    return rc == 0
               ? STI_OK
               : sti_err_set(err, smm_errno_status(rc), "%s: index of segment %020" PRId64 ": %s",
                             part->name, base_offset, strerror(rc));
}

/* After an orderly end: go on behind the entries in the files of the active segment.
 * @return false when they cannot be those of that log. No byte of the log is read. */
bool smm_index_resume(struct sti_storage_partition *part, const struct smm_segment *seg,
                      int64_t max_timestamp)
{
    char name[SMM_NAME_LEN];
    uint8_t last[SMM_TIME_ENTRY];
    struct stat st;
    size_t got;
    bool ok = false;
    smm_index_init(&part->index);
    int dir_fd = smm_part_dir(part);
    sti_log_name(name, seg->base_offset, ".index");
    int fd = dir_fd < 0 ? -1 : openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int time_fd = open_time_index(part, seg->base_offset, O_RDONLY);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size % SMM_INDEX_ENTRY == 0) {
        uint64_t len = (uint64_t)st.st_size;
        part->index.flushed = (uint32_t)(len / SMM_INDEX_ENTRY);
        ok = len == 0 ||
             (smm_pread(fd, last, SMM_INDEX_ENTRY, len - SMM_INDEX_ENTRY, false, &got) == 0 &&
              got == SMM_INDEX_ENTRY && sti_index_entry_get(last).pos < seg->size);
        part->index.since = seg->size - (len == 0 || !ok ? 0 : sti_index_entry_get(last).pos);
    }
    ok = ok && time_fd >= 0 && fstat(time_fd, &st) == 0 && st.st_size % SMM_TIME_ENTRY == 0;
    if (ok && st.st_size > 0) {
        ok = smm_pread(time_fd, last, SMM_TIME_ENTRY, (uint64_t)st.st_size - SMM_TIME_ENTRY, false,
                       &got) == 0 &&
             got == SMM_TIME_ENTRY && sti_time_entry_get(last).timestamp == max_timestamp;
        part->index.time_flushed = (uint32_t)((uint64_t)st.st_size / SMM_TIME_ENTRY);
        part->index.max_timestamp = part->index.last_time = max_timestamp;
        part->index.max_timestamp_offset = seg->base_offset + sti_time_entry_get(last).rel_offset;
    } else {
        ok = ok && max_timestamp < 0;
    }
    int fds[] = {dir_fd, fd, time_fd};
    for (size_t i = 0; i < 3; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    return ok;
}

/* ---- looking up ---------------------------------------------------------------------------- */

/* Find the last of `count` entries whose key is at or below `key`; the key is the relative offset,
 * or with `by_pos` the position. Without one *rel_offset and *pos are 0.
 * @return STI_OK, STI_E_NOT_FOUND, STI_E_WOULD_BLOCK, STI_E_IO */
int smm_index_floor(int fd, uint32_t count, uint32_t key, bool by_pos, bool nowait,
                    uint32_t *rel_offset, uint32_t *pos)
{
    *rel_offset = *pos = 0;
    uint32_t low = 0, high = count; /* entries below low are <= key, those from high on are > key */
    while (low < high) {
        uint8_t entry[SMM_INDEX_ENTRY];
        size_t got;
        uint32_t mid = low + (high - low) / 2;
        int rc = smm_pread(fd, entry, sizeof entry, (uint64_t)mid * SMM_INDEX_ENTRY, nowait, &got);
        if (rc != 0 || got != sizeof entry) {
            return rc == EAGAIN ? STI_E_WOULD_BLOCK : STI_E_IO;
        }
        struct sti_index_entry at = sti_index_entry_get(entry);
        if ((by_pos ? at.pos : at.rel_offset) <= key) {
            *rel_offset = at.rel_offset;
            *pos = at.pos;
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low > 0 ? STI_OK : STI_E_NOT_FOUND;
}

/* The same among the entries that wait. @locks part->mu held */
bool smm_index_floor_pending(const struct smm_index *index, uint32_t key, bool by_pos,
                             uint32_t *rel_offset, uint32_t *pos)
{
    for (uint32_t i = index->pending; i > 0; i--) {
        struct sti_index_entry at = sti_index_entry_get(index->entries + (i - 1) * SMM_INDEX_ENTRY);
        if ((by_pos ? at.pos : at.rel_offset) <= key) {
            *rel_offset = at.rel_offset;
            *pos = at.pos;
            return true;
        }
    }
    return false;
}

/* ---- checking and rebuilding --------------------------------------------------------------- */

/* Does the index reach as far as one of that interval would? Reads its last entry and the headers
 * from there on, as far as a few intervals go. */
static bool index_reaches(struct sti_storage_partition *part, struct smm_file *file, uint64_t len,
                          uint32_t size, int64_t interval)
{
    uint8_t last[SMM_INDEX_ENTRY] = {0};
    size_t got = sizeof last;
    struct smm_walk walk;
    struct sti_batch_header header;
    (void)part;
    if (len % SMM_INDEX_ENTRY != 0 ||
        (len > 0 && smm_pread(file->index_fd, last, sizeof last, len - sizeof last, false, &got)) ||
        got != sizeof last || sti_index_entry_get(last).pos >= size) {
        return false;
    }
    uint64_t pos = sti_index_entry_get(last).pos, far = pos + SHORT_FACTOR * (uint64_t)interval;
    smm_walk_init(&walk, file->log_fd, size, false);
    while (pos < far && pos < size) {
        if (smm_walk_header(&walk, pos, &header, NULL) != STI_OK) {
            return true; /* the log is damaged there: a rebuild would not reach further */
        }
        pos += header.total_len;
    }
    return pos >= size;
}

/* Build both indexes of a closed segment from its headers. A damaged stretch ends it: what lies
 * behind is found by walking. @locks part->side_mu held */
static int rebuild(struct sti_storage_partition *part, int64_t base_offset, struct smm_file *file,
                   uint32_t size, uint32_t *count, struct sti_err *err)
{
    struct smm_index index;
    struct smm_walk walk;
    struct sti_batch_header header;
    int64_t interval = part->settings.index_interval_bytes;
    int64_t expected = base_offset;
    int rc = smm_index_restart(part, base_offset, err);
    smm_index_init(&index);
    smm_walk_init(&walk, file->log_fd, size, false);
    for (uint64_t pos = 0; rc == STI_OK && pos < size; pos += header.total_len) {
        if (smm_walk_header(&walk, pos, &header, NULL) != STI_OK ||
            header.base_offset != expected) {
            break;
        }
        expected = sti_batch_last_offset(&header) + 1;
        smm_index_note(&index, interval, base_offset, sti_batch_last_offset(&header), (uint32_t)pos,
                       header.total_len, header.max_timestamp);
        if (smm_index_full(&index) && flush_index(part, &index, base_offset, file->index_fd) != 0) {
            break;
        }
    }
    STI_CRASH_POINT("index.rebuild.before_flush");
    if (rc == STI_OK) {
        note_time(&index, base_offset);
        (void)flush_index(part, &index, base_offset, file->index_fd);
        sti_metric_add(part->store->metrics.index_rebuilds, 1);
        sti_log(part->store->host, STI_LOG_INFO, "index_rebuilt",
                "the index of a segment was built anew from its log",
                STI_F_STR("partition", part->name), STI_F_INT("base_offset", base_offset));
    }
    *count = index.flushed;
    smm_index_fini(&index);
    return rc;
}

/* Make the index of a closed segment usable, and say how many entries it has.
 * @param rebuild_it  an entry has been found wrong: do not look, build
 * @return STI_OK (count may be 0: the walk begins at the start of the segment), STI_E_* as
 * smm_index_restart
 * @locks part->mu and side_mu free */
int smm_index_check(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
                    struct smm_file *file, uint32_t size, bool rebuild_it, uint32_t *count,
                    struct sti_err *err)
{
    struct stat st;
    int rc = STI_OK;
    *count = 0;
    if (file->index_fd < 0) {
        return STI_OK;
    }
    pthread_mutex_lock(&part->side_mu);
    if (!rebuild_it && fstat(file->index_fd, &st) == 0 &&
        index_reaches(part, file, (uint64_t)st.st_size, size,
                      part->settings.index_interval_bytes)) {
        *count = (uint32_t)((uint64_t)st.st_size / SMM_INDEX_ENTRY);
    } else {
        rc = rebuild(part, base_offset, file, size, count, err);
    }
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, base_offset);
    if (part->segs[i]->serial == serial && part->segs[i] != smm_segment_active(part)) {
        part->segs[i]->index_count = *count;
    }
    pthread_mutex_unlock(&part->mu);
    pthread_mutex_unlock(&part->side_mu);
    return rc;
}

/* ---- the time index of closed segments ----------------------------------------------------- */

/* The last entry: the newest timestamp of a closed segment and the last offset of the batch that
 * has it, if they can be believed. @return STI_OK, STI_E_NOT_FOUND (there is none) */
int smm_time_last(struct sti_storage_partition *part, int64_t base_offset, int64_t *timestamp,
                  int64_t *offset)
{
    uint8_t last[SMM_TIME_ENTRY];
    struct stat st;
    size_t got = 0;
    *timestamp = -1;
    int fd = open_time_index(part, base_offset, O_RDONLY);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size % SMM_TIME_ENTRY == 0 &&
        smm_pread(fd, last, sizeof last, (uint64_t)st.st_size - sizeof last, false, &got) == 0 &&
        got == sizeof last) {
        struct sti_time_entry entry = sti_time_entry_get(last);
        *timestamp = entry.timestamp;
        *offset = base_offset + entry.rel_offset;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return got == sizeof last ? STI_OK : STI_E_NOT_FOUND;
}

/* The last entry that is older than `timestamp`: up to its batch, as the time index has it, all
 * are.
 * @return STI_OK, STI_E_NOT_FOUND (begin at the segment's start) */
int smm_time_floor(struct sti_storage_partition *part, int64_t base_offset, int64_t timestamp,
                   struct sti_time_entry *floor)
{
    struct stat st;
    *floor = (struct sti_time_entry){.timestamp = -1};
    int fd = open_time_index(part, base_offset, O_RDONLY);
    bool ok = fd >= 0 && fstat(fd, &st) == 0;
    uint32_t low = 0, high = ok ? (uint32_t)((uint64_t)st.st_size / SMM_TIME_ENTRY) : 0;
    while (low < high) {
        uint8_t entry[SMM_TIME_ENTRY];
        size_t got;
        uint32_t mid = low + (high - low) / 2;
        if (smm_pread(fd, entry, sizeof entry, (uint64_t)mid * SMM_TIME_ENTRY, false, &got) != 0 ||
            got != sizeof entry) {
            low = 0;
            break;
        }
        struct sti_time_entry at = sti_time_entry_get(entry);
        if (at.timestamp < timestamp) {
            *floor = at;
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return low > 0 ? STI_OK : STI_E_NOT_FOUND;
}
