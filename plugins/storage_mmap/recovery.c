/* recovery.c -- what opening a partition finds on disk, and makes of it.
 *
 * After an orderly close the recovery-point file describes the end of the log; when name and size
 * of the last segment agree, it is believed, and no byte of the log is read. Otherwise every batch
 * from the segment of the recovery point on is read and its checksum proved, in bounded memory;
 * indexes of those segments are made anew.
 *
 * A batch that does not hold ends the log if no batch behind it holds: an unfinished tail, which is
 * cut. With sound batches behind it, it is damage: the range is noted, reads around it go on,
 * appends are refused. After a reboot of the machine, the hole is what a loss of power leaves of
 * bytes that were not synced, and the log is cut there, which is logged and counted: anywhere with
 * the policies onroll and interval, and with commit inside the last group, since the writer never
 * leaves more than that unsynced. Never is anything cut below what is known to have been synced:
 * that is damage too.
 *
 * The checksum does not cover bytes 0 to 15. A base offset holds if it follows the batch before it,
 * a length if the checksum over that many bytes holds, an epoch if neighbours and notes agree.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { SCAN_BUF = 256 * 1024 };

struct scan {
    struct sti_storage_partition *part;
    struct sti_recovery_point point;
    int64_t known_end; /* everything below it was synced */
    bool rebooted;     /* since the log was written: a loss of power may have left holes */
    uint64_t group;    /* with the policy commit: what may have been unsynced then; else no limit */
    bool cancelled;    /* nobody wants the partition any more */
    struct smm_epochs epochs; /* as the broker noted them */
    int32_t epoch;            /* of the last batch, -1: none yet */
    int dir_fd, fd, index_fd;
    struct sti_log_walk walk; /* along the segment under scan, with buf */
    uint8_t *buf;
    int64_t expected; /* base offset of the next batch */
};

/* ---- the folder ---------------------------------------------------------------------------- */

static int add_segment(struct sti_storage_partition *part, int dir_fd, const char *name,
                       int64_t base_offset, struct sti_err *err)
{
    struct stat st;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) {
        return STI_OK; /* not ours */
    }
    if (st.st_size > (off_t)SMM_POS_MAX) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "%s: %s is larger than a segment can be",
                           part->name, name);
    }
    int rc = smm_segment_room(part, 1, err);
    struct smm_segment *seg = rc == STI_OK ? smm_segment_new(part, base_offset) : NULL;
    if (seg == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
    }
    seg->size = seg->write_size = seg->reserved_end = (uint32_t)st.st_size;
    seg->size_max = seg->size_max < seg->size ? seg->size : seg->size_max;
    /* Space that a crash left reserved is known by its blocks. */
    uint64_t allocated = (uint64_t)st.st_blocks * 512u;
    if (allocated > (uint64_t)st.st_size + 65536u) {
        seg->reserved_end = allocated < SMM_POS_MAX ? (uint32_t)allocated : SMM_POS_MAX;
    }
    seg->exists = true;
    smm_segment_append(part, seg);
    return STI_OK;
}

static int by_base(const void *a, const void *b)
{
    int64_t x = (*(struct smm_segment *const *)a)->base_offset;
    int64_t y = (*(struct smm_segment *const *)b)->base_offset;
    return x < y ? -1 : x > y;
}

static void drop_segments(struct sti_storage_partition *part, uint32_t from)
{
    while (part->seg_count > from) {
        free(part->segs[--part->seg_count]);
    }
}

/* @param swaps  out: a truncation has left what it wanted to keep */
static int load_segments(struct sti_storage_partition *part, int dir_fd, bool *swaps,
                         struct sti_err *err)
{
    drop_segments(part, 0);
    *swaps = false;
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int saved = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return sti_err_set(err, smm_errno_status(saved), "%s: %s", part->name, strerror(saved));
    }
    int rc = STI_OK;
    struct dirent *entry;
    while (rc == STI_OK && (entry = readdir(dir)) != NULL) {
        int64_t base_offset;
        if (sti_log_name_parse(entry->d_name, ".log", &base_offset)) {
            rc = add_segment(part, dir_fd, entry->d_name, base_offset, err);
        }
        *swaps = *swaps || sti_log_name_parse(entry->d_name, ".log.swap", &base_offset);
    }
    (void)closedir(dir);
    if (part->seg_count > 1) {
        qsort(part->segs, part->seg_count, sizeof(*part->segs), by_base);
    }
    return rc;
}

/* Finish a truncation that a crash has interrupted after it was decided; a swap file alone was not
 * decided yet. */
static int finish_truncation(struct sti_storage_partition *part, int dir_fd, bool swaps,
                             struct sti_err *err)
{
    char swap[SMM_NAME_LEN], name[SMM_NAME_LEN];
    int64_t offset;
    bool decided = smm_offset_read(dir_fd, STI_FILE_TRUNCATION, &offset);
    int rc = 0;
    uint32_t count = decided || swaps ? part->seg_count : 0; /* else there is nothing to finish */
    for (uint32_t i = count; i > 0 && rc == 0; i--) {
        int64_t base_offset = part->segs[i - 1]->base_offset;
        bool cut = decided && i - 1 == smm_segment_find(part, offset);
        sti_log_name(swap, base_offset, ".log.swap");
        sti_log_name(name, base_offset, ".log");
        if (decided && !cut && base_offset >= offset) {
            rc = smm_segment_unlink(part, base_offset);
        } else if (cut && ((rc = STI_FAULT("recover.truncation.before_rename")) != 0 ||
                           (renameat(dir_fd, swap, dir_fd, name) != 0 && errno != ENOENT))) {
            rc = rc != 0 ? rc : errno;
        } else if (!cut) {
            (void)unlinkat(dir_fd, swap, 0);
        }
    }
    if (rc == 0 && decided) {
        rc = STI_FAULT("recover.truncation.before_unlink");
        if (rc == 0 && (fsync(dir_fd) != 0 || unlinkat(dir_fd, STI_FILE_TRUNCATION, 0) != 0)) {
            rc = errno;
        }
        if (rc == 0 && (rc = STI_FAULT("recover.truncation.after_unlink")) == 0 &&
            fsync(dir_fd) != 0) {
            rc = errno;
        }
    }
    if (rc != 0) {
        return sti_err_set(err, STI_E_IO, "%s: finish a truncation: %s", part->name, strerror(rc));
    }
    return decided ? load_segments(part, dir_fd, &swaps, err) : STI_OK;
}

static int scan_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    struct scan *s = ctx;
    const struct sti_storage_events *events = s->part->events;
    int rc = smm_pread(s->fd, buf, len, pos, false, got);
    if (rc == 0 && events != NULL && STI_HAS(events, recovering) &&
        events->recovering(s->part->events_ctx, *got) != 0) {
        s->cancelled = true;
        rc = ECANCELED;
    }
    return rc;
}

/* ---- damage -------------------------------------------------------------------------------- */

static int note_damage(struct scan *s, int64_t base_offset, uint64_t from_pos, uint64_t to_pos,
                       int64_t to_offset, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    struct smm_damage *damage =
        realloc(part->damage, (part->damage_count + 1) * sizeof(*part->damage));
    if (damage == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
    }
    part->damage = damage;
    damage[part->damage_count++] = (struct smm_damage){.base_offset = base_offset,
                                                       .from_offset = s->expected,
                                                       .to_offset = to_offset,
                                                       .from_pos = (uint32_t)from_pos,
                                                       .to_pos = (uint32_t)to_pos};
    part->damaged = true;
    sti_metric_add(part->store->metrics.damaged, 1);
    sti_log(
        part->store->host, STI_LOG_ERROR, "log_damaged",
        "a batch is damaged and sound ones follow, or synced bytes are gone: appends are refused",
        STI_F_STR("partition", part->name), STI_F_INT("segment", base_offset),
        STI_F_UINT("position", from_pos), STI_F_INT("from_offset", s->expected),
        STI_F_INT("to_offset", to_offset));
    return STI_OK;
}

/* End the log at position `pos` of segment `i`. What lies behind goes from its end backwards, so
 * that a death in between leaves the same cut to be made, never a gap between segments. */
static int cut_tail(struct scan *s, uint32_t i, uint32_t pos, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    struct smm_segment *seg = part->segs[i];
    uint64_t lost = seg->size - pos;
    int rc = 0;
    for (uint32_t k = part->seg_count; k > i + 1 && rc == 0; k--) {
        STI_CRASH_POINT("recover.before_unlink");
        lost += part->segs[k - 1]->size;
        rc = smm_segment_unlink(part, part->segs[k - 1]->base_offset);
    }
    if (rc == 0 && (rc = STI_FAULT("recover.before_cut")) == 0 && pos < seg->size &&
        ftruncate(s->fd, pos) != 0) {
        rc = errno;
    }
    if (rc != 0) {
        return sti_err_set(err, STI_E_IO, "%s: cut the tail: %s", part->name, strerror(rc));
    }
    STI_CRASH_POINT("recover.after_cut");
    bool names = part->seg_count > i + 1, bytes = pos < seg->size;
    drop_segments(part, i + 1);
    part->cut_dirty = part->cut_dirty || pos < seg->size;
    seg->size = seg->write_size = seg->reserved_end = pos;
    part->dir_dirty = true;
    /* Were names or bytes to come back after another loss of power, they would stand where other
     * records have been acknowledged meanwhile. */
    if ((names && fsync(s->dir_fd) != 0) || (bytes && fdatasync(s->fd) != 0)) {
        return sti_err_set(err, STI_E_IO, "%s: cut the tail: %s", part->name, strerror(errno));
    }
    if (lost > 0) {
        part->truncated_bytes += lost;
        sti_metric_add(part->store->metrics.truncated_bytes, lost);
        sti_log(part->store->host, STI_LOG_WARN, "tail_cut",
                "an unfinished tail was cut off the log", STI_F_STR("partition", part->name),
                STI_F_UINT("bytes", lost), STI_F_INT("end_offset", s->expected));
    }
    return STI_OK;
}

/* ---- scanning ------------------------------------------------------------------------------ */

static void accept(struct scan *s, const struct smm_segment *seg, uint64_t pos,
                   const struct sti_batch_header *header)
{
    struct sti_storage_partition *part = s->part;
    if (smm_index_full(&part->index)) {
        smm_index_flush(part, seg->base_offset, s->index_fd, false);
    }
    smm_index_note(&part->index, part->settings.index_interval_bytes, seg->base_offset,
                   sti_batch_last_offset(header), (uint32_t)pos, header->total_len,
                   header->max_timestamp);
    s->expected = sti_batch_last_offset(header) + 1;
    s->epoch = part->last_epoch = header->leader_epoch;
    if (part->events != NULL && part->events->recovered != NULL) {
        part->events->recovered(part->events_ctx, header);
    }
}

static int open_segment(struct scan *s, const struct smm_segment *seg, struct sti_err *err)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, seg->base_offset, ".log");
    s->fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    sti_log_name(name, seg->base_offset, ".index");
    s->index_fd = s->fd < 0 ? -1 : openat(s->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    sti_log_walk_init(&s->walk, scan_read, s, s->buf, SCAN_BUF, seg->size);
    if (s->fd >= 0) { /* from its start to its end: read twice as far ahead */
        (void)posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    }
    return s->fd >= 0
               ? STI_OK
               : sti_err_set(err,
                             smm_errno_status(errno) == STI_E_NOT_FOUND ? STI_E_IO
                                                                        : smm_errno_status(errno),
                             "%s: open segment %020" PRId64 ": %s", s->part->name, seg->base_offset,
                             strerror(errno));
}

static void close_segment(struct scan *s)
{
    if (s->fd >= 0) {
        (void)close(s->fd);
    }
    if (s->index_fd >= 0) {
        (void)close(s->index_fd);
    }
    s->fd = s->index_fd = -1;
}

static int read_error(const struct scan *s, struct sti_err *err)
{
    return sti_err_set(err, STI_E_IO, "%s: read error", s->part->name);
}

/* How far behind position `pos` of segment `i`, where the log does not go on, do sound batches
 * reach that could belong to it? Leaves segment i open again.
 * @param enough  no need to look further than that
 * @param reach   out: from there to the end of the last sound batch, 0: there is none */
static int sound_behind(struct scan *s, uint32_t i, uint64_t pos, uint64_t enough, uint64_t *reach,
                        struct sti_err *err)
{
    struct sti_batch_header header;
    uint64_t before = 0; /* bytes from there to the start of segment k */
    int rc = STI_OK;
    *reach = 0;
    for (uint32_t k = i; k < s->part->seg_count && *reach <= enough && rc == STI_OK; k++) {
        uint64_t at = k == i ? pos + 1 : 0, from = k == i ? pos : 0, found;
        close_segment(s);
        rc = open_segment(s, s->part->segs[k], err);
        while (rc == STI_OK && *reach <= enough) {
            int hit = sti_log_walk_find(&s->walk, at, s->expected, &found, &header, NULL);
            if (hit != STI_OK) {
                rc = hit == STI_E_NOT_FOUND ? STI_OK : read_error(s, err);
                break;
            }
            at = found + header.total_len;
            *reach = before + at - from;
        }
        before += s->part->segs[k]->size - from;
    }
    close_segment(s);
    return rc == STI_OK ? open_segment(s, s->part->segs[i], err) : rc;
}

/* May the log be cut at `pos` of segment `i`? Never below what was synced. Otherwise, if nothing
 * sound follows, or if a loss of power can have left the hole: anywhere with the policies onroll
 * and interval, inside the last group with commit.
 * @param cut  out; false: it is damage */
static int may_cut(struct scan *s, uint32_t i, uint64_t pos, bool *cut, struct sti_err *err)
{
    uint64_t reach = 0;
    int rc = STI_OK;
    *cut = s->expected >= s->known_end;
    if (*cut && !(s->rebooted && s->group == UINT64_MAX)) {
        uint64_t most = s->rebooted ? s->group : 0;
        rc = sound_behind(s, i, pos, most, &reach, err);
        *cut = reach <= most;
    }
    return rc;
}

/* The next sound batch in the segment behind a bad one at `pos`. The bad one's own length says
 * where to look first: its records may hold bytes that look like batches.
 * @return STI_OK, STI_E_NOT_FOUND, STI_E_IO */
static int next_sound(struct scan *s, uint64_t pos, uint64_t *next, struct sti_batch_header *header)
{
    struct sti_batch_header bad;
    if (sti_log_walk_header(&s->walk, pos, &bad, NULL) == STI_OK &&
        sti_log_walk_prove(&s->walk, pos + bad.total_len, header, NULL) == STI_OK &&
        header->base_offset >= s->expected) {
        *next = pos + bad.total_len;
        return STI_OK;
    }
    return sti_log_walk_find(&s->walk, pos + 1, s->expected, next, header, NULL);
}

/* The batch at *pos does not hold. Decide: skip it as damage (*pos moves on), or end the log.
 * @param ended  out: nothing of the log follows */
static int bad_batch(struct scan *s, uint32_t i, uint64_t *pos, bool *ended, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    struct smm_segment *seg = part->segs[i];
    struct sti_batch_header header;
    uint64_t next, reach = 0;
    bool cut;
    *ended = false;
    int rc = may_cut(s, i, *pos, &cut, err);
    if (rc == STI_OK && cut) {
        *ended = true;
        return cut_tail(s, i, (uint32_t)*pos, err);
    }
    if (rc == STI_OK) {
        rc = next_sound(s, *pos, &next, &header);
        if (rc == STI_OK) {
            rc = note_damage(s, seg->base_offset, *pos, next, header.base_offset, err);
            s->expected = header.base_offset;
            *pos = next;
            return rc;
        }
        rc = rc == STI_E_NOT_FOUND ? sound_behind(s, i, seg->size, 0, &reach, err)
                                   : read_error(s, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    if (reach > 0) {
        rc = note_damage(s, seg->base_offset, *pos, seg->size, part->segs[i + 1]->base_offset, err);
        *pos = seg->size;
        return rc;
    }
    *ended = true;
    drop_segments(part, i + 1); /* their bytes stay on disk, unused, beside the damage */
    rc = note_damage(s, seg->base_offset, *pos, seg->size, s->known_end, err);
    s->expected = s->known_end;
    return rc;
}

/* The header of the batch at `*pos` of segment `*i`, or where the next segment begins; both move on
 * to it. @return false: none is there, or one of another offset */
static bool header_behind(struct scan *s, uint32_t *i, uint64_t *pos, int64_t offset,
                          struct sti_batch_header *header)
{
    uint8_t raw[STI_BATCH_HEADER_LEN];
    char name[SMM_NAME_LEN];
    size_t got = 0;
    if (*pos >= s->part->segs[*i]->size) {
        *pos = 0;
        if (++*i >= s->part->seg_count) {
            return false;
        }
    }
    sti_log_name(name, s->part->segs[*i]->base_offset, ".log");
    int fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool found = fd >= 0 && smm_pread(fd, raw, sizeof raw, *pos, false, &got) == 0 &&
                 sti_batch_header_decode(raw, got, header, NULL) == STI_OK;
    if (fd >= 0) {
        (void)close(fd);
    }
    return found && header->base_offset == offset;
}

/* The epoch that follows a batch at `pos` of segment `i`: of the next one, or, if that falls below
 * the batch's and the one after it does not, of that one: then it is the next that is wrong, as far
 * as anybody knows.
 * @param begins  out: the next one begins its epoch just where that was noted
 * @return false: nothing follows */
static bool epoch_behind(struct scan *s, uint32_t i, uint64_t pos,
                         const struct sti_batch_header *header, int32_t *epoch, bool *begins)
{
    struct sti_batch_header next, after;
    *begins = false;
    pos += header->total_len;
    if (!header_behind(s, &i, &pos, sti_batch_last_offset(header) + 1, &next)) {
        return false;
    }
    pos += next.total_len;
    *epoch = next.leader_epoch;
    const struct sti_epoch_entry *noted = smm_epochs_at(&s->epochs, next.base_offset);
    *begins = noted != NULL && noted->epoch == next.leader_epoch &&
              noted->start_offset == next.base_offset;
    if (*epoch < header->leader_epoch && s->epochs.count == 0 && /* notes would know of the rise */
        header_behind(s, &i, &pos, sti_batch_last_offset(&next) + 1, &after) &&
        after.leader_epoch >= header->leader_epoch) {
        *epoch = after.leader_epoch;
    }
    return true;
}

/* Does the epoch of a sound batch, which its checksum does not cover, agree with its neighbours and
 * with what the broker noted? Epochs never fall, and each rise is noted before its first batch. The
 * notes have no checksum either, and must not cost a sound batch: against the log they need the
 * next batch as a second witness, or, at the end of the log, must know neither half of the rise. */
static bool epoch_holds(struct scan *s, uint32_t i, uint64_t pos,
                        const struct sti_batch_header *header)
{
    const struct sti_epoch_entry *noted = smm_epochs_at(&s->epochs, header->base_offset);
    int32_t epoch = header->leader_epoch, next;
    bool first = s->epoch < 0, rises = !first && epoch > s->epoch;
    if (!first && epoch < s->epoch) {
        return false;
    }
    /* Should a higher epoch begin here? If it should have before, the batches before say no. */
    bool too_low = noted != NULL && epoch < noted->epoch &&
                   (first || noted->start_offset == header->base_offset);
    bool as_before = !first && !rises;
    if (!too_low && (as_before || (noted != NULL && epoch == noted->epoch))) {
        return true;
    }
    bool next_begins;
    if (!epoch_behind(s, i, pos, header, &next, &next_begins)) {
        return !rises || smm_epochs_begins(&s->epochs, epoch, header->base_offset);
    }
    if (next_begins && noted != NULL && noted->epoch != epoch) {
        return false; /* the notes are right just behind it, so they are here */
    }
    return too_low ? next < noted->epoch : next >= epoch && (epoch >= 0 || next < 0);
}

/* Read one segment to its end. */
static int scan_segment(struct scan *s, uint32_t i, bool *ended, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    struct smm_segment *seg = part->segs[i];
    struct sti_batch_header header;
    smm_index_fini(&part->index);
    (void)smm_index_restart(part, seg->base_offset, NULL); /* else entries are found wrong, later */
    STI_CRASH_POINT("recover.after_index_restart");
    int rc = open_segment(s, seg, err);
    uint64_t pos = 0;
    while (rc == STI_OK && pos < seg->size && !*ended) {
        rc = sti_log_walk_prove(&s->walk, pos, &header, NULL);
        if (rc == STI_OK && header.base_offset == s->expected && epoch_holds(s, i, pos, &header)) {
            accept(s, seg, pos, &header);
            pos += header.total_len;
        } else if (rc == STI_E_IO) {
            (void)sti_err_set(err, STI_E_IO, "%s: segment %020" PRId64 ": read error at %" PRIu64,
                              part->name, seg->base_offset, pos);
        } else {
            rc = bad_batch(s, i, &pos, ended, err);
        }
    }
    seg = part->segs[i];
    part->recovered_bytes += seg->size;
    seg->max_timestamp = part->index.max_timestamp;
    seg->timestamp_known = true;
    if (rc == STI_OK && i + 1 < part->seg_count) {
        smm_index_flush(part, seg->base_offset, s->index_fd, true);
        seg->index_count = part->index.flushed;
    }
    close_segment(s);
    return rc;
}

/* Nothing that was read holds a batch: the last one is that of the segment before. Its index says
 * where to begin to look, if the log bears it out. */
static void epoch_before(struct scan *s, uint32_t first)
{
    struct sti_storage_partition *part = s->part;
    struct sti_batch_header header;
    uint8_t last[SMM_INDEX_ENTRY];
    struct stat st;
    size_t got;
    uint64_t pos = 0;
    const struct smm_segment *seg = part->segs[first - 1];
    if (open_segment(s, seg, NULL) != STI_OK) {
        close_segment(s);
        return;
    }
    if (s->index_fd >= 0 && fstat(s->index_fd, &st) == 0 && st.st_size >= (off_t)sizeof last &&
        smm_pread(s->index_fd, last, sizeof last, (uint64_t)st.st_size - sizeof last, false,
                  &got) == 0 &&
        got == sizeof last) {
        struct sti_index_entry entry = sti_index_entry_get(last);
        bool holds = sti_log_walk_header(&s->walk, entry.pos, &header, NULL) == STI_OK &&
                     sti_batch_last_offset(&header) == seg->base_offset + entry.rel_offset;
        pos = holds ? entry.pos : 0;
    }
    for (; sti_log_walk_header(&s->walk, pos, &header, NULL) == STI_OK; pos += header.total_len) {
        part->last_epoch = header.leader_epoch;
    }
    close_segment(s);
}

/* Segment `i` does not begin where the one before it ends: what lay between them is gone. */
static int gap(struct scan *s, uint32_t i, bool *ended, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    const struct smm_segment *before = part->segs[i - 1];
    bool cut = false;
    int rc = open_segment(s, before, err);
    if (rc == STI_OK) {
        rc = may_cut(s, i - 1, before->size, &cut, err);
    }
    if (rc == STI_OK && cut) {
        *ended = true;
        rc = cut_tail(s, i - 1, before->size, err);
    } else if (rc == STI_OK) {
        int64_t next = part->segs[i]->base_offset;
        rc = note_damage(s, before->base_offset, before->size, before->size, next, err);
        s->expected = next;
    }
    close_segment(s);
    return rc;
}

static int scan_all(struct scan *s, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    /* Segments below the start are no part of the log any more: a loss of power may have brought
     * their names back without their bytes. */
    uint32_t first =
        smm_segment_find(part, s->point.recovery_point > part->log_start ? s->point.recovery_point
                                                                         : part->log_start);
    bool ended = false;
    int rc = STI_OK;
    s->buf = malloc(SCAN_BUF);
    if (s->buf == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
    }
    for (uint32_t i = 0; i < first; i++) {
        part->segs[i]->synced_size = part->segs[i]->size;
    }
    s->expected = part->segs[first]->base_offset;
    s->epoch = -1;
    smm_epochs_read(s->dir_fd, &s->epochs);
    for (uint32_t i = first; rc == STI_OK && i < part->seg_count && !ended; i++) {
        if (part->segs[i]->base_offset != s->expected) {
            rc = gap(s, i, &ended, err);
        }
        if (rc == STI_OK && !ended) {
            rc = scan_segment(s, i, &ended, err);
        }
    }
    if (s->cancelled) {
        rc = sti_err_set(err, STI_E_CANCELLED, "%s: recovery was given up", part->name);
    } else if (rc == STI_OK && !s->point.clean && !(s->rebooted && s->group == UINT64_MAX) &&
               s->expected == s->known_end &&
               smm_segment_active(part)->base_offset < s->known_end) {
        /* The recovery point is where a segment begins, and that is not there: what it held, and
         * that it held more than nothing, cannot be known. */
        rc = note_damage(s, s->known_end, 0, 0, s->known_end + 1, err);
        s->expected = s->known_end + 1;
    }
    if (rc == STI_OK && s->expected < s->known_end) { /* cut off below what was synced */
        struct smm_segment *seg = smm_segment_active(part);
        rc = note_damage(s, seg->base_offset, seg->size, seg->size, s->known_end, err);
        s->expected = s->known_end;
    }
    if (rc == STI_OK && part->last_epoch < 0 && first > 0) {
        epoch_before(s, first);
    }
    part->written_end = s->expected;
    int64_t synced = part->segs[first < part->seg_count ? first : 0]->base_offset;
    part->synced_end = synced > s->known_end ? synced : s->known_end;
    if (part->synced_end > part->written_end) {
        part->synced_end = part->written_end;
    }
    free(s->buf);
    s->buf = NULL;
    smm_epochs_free(&s->epochs);
    sti_metric_add(part->store->metrics.recovered_bytes, part->recovered_bytes);
    return rc;
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* Index of the last segment from its headers, when the files are not usable after a clean end. */
static void index_from_headers(struct scan *s)
{
    struct sti_storage_partition *part = s->part;
    struct smm_segment *seg = smm_segment_active(part);
    struct smm_walk walk;
    struct sti_batch_header header;
    smm_index_fini(&part->index);
    if (smm_index_restart(part, seg->base_offset, NULL) != STI_OK ||
        open_segment(s, seg, NULL) != STI_OK) {
        return;
    }
    smm_walk_init(&walk, s->fd, seg->size, false);
    int64_t expected = seg->base_offset; /* a batch out of place would mislead all lookups */
    for (uint64_t pos = 0;
         smm_walk_header(&walk, pos, &header, NULL) == STI_OK && header.base_offset == expected;
         pos += header.total_len) {
        expected = sti_batch_last_offset(&header) + 1;
        if (smm_index_full(&part->index)) {
            smm_index_flush(part, seg->base_offset, s->index_fd, false);
        }
        smm_index_note(&part->index, part->settings.index_interval_bytes, seg->base_offset,
                       sti_batch_last_offset(&header), (uint32_t)pos, header.total_len,
                       header.max_timestamp);
    }
    sti_metric_add(part->store->metrics.index_rebuilds, 1);
    close_segment(s);
}

static void believe(struct scan *s)
{
    struct sti_storage_partition *part = s->part;
    for (uint32_t i = 0; i < part->seg_count; i++) {
        part->segs[i]->synced_size = part->segs[i]->size;
    }
    part->written_end = part->synced_end = s->point.written_end;
    part->last_epoch = s->point.last_epoch;
    struct smm_segment *seg = smm_segment_active(part);
    smm_index_init(&part->index);
    if (seg->exists && !smm_index_resume(part, seg, s->point.max_timestamp)) {
        index_from_headers(s);
    }
}

/* Have at least one segment in memory. */
static int first_segment(struct scan *s, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    if (part->seg_count > 0) {
        return STI_OK;
    }
    int64_t base_offset =
        s->point.clean && s->point.active_size == 0 ? s->point.active_base : part->log_start;
    int rc = smm_segment_room(part, 1, err);
    struct smm_segment *seg = rc == STI_OK ? smm_segment_new(part, base_offset) : NULL;
    if (seg == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", part->name);
    }
    smm_segment_append(part, seg);
    return STI_OK;
}

static int recover_log(struct scan *s, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    bool had_log = part->seg_count > 0;
    bool all_there = part->seg_count >= s->point.segment_count;
    int rc = first_segment(s, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (!all_there) { /* nothing but reading all of it tells which are gone */
        s->point.recovery_point = 0;
    }
    const struct smm_segment *last = smm_segment_active(part);
    if (s->point.clean && all_there && last->base_offset == s->point.active_base &&
        last->size == s->point.active_size) {
        believe(s);
    } else if (had_log) {
        rc = scan_all(s, err);
    } else {
        smm_index_init(&part->index);
        s->expected = part->written_end = part->synced_end = last->base_offset;
        if (s->known_end > s->expected) {
            rc = note_damage(s, last->base_offset, 0, 0, s->known_end, err);
            part->written_end = part->synced_end = s->known_end;
        }
    }
    return rc;
}

/* Where the log begins. A start below the oldest segment says that segments are gone which nobody
 * has trimmed: that is damage, and named. Where nothing tells the start, the segments do. */
static int settle_start(struct scan *s, bool told, struct sti_err *err)
{
    struct sti_storage_partition *part = s->part;
    int64_t oldest = part->segs[0]->base_offset;
    int rc = STI_OK;
    if (told && part->log_start < oldest) {
        s->expected = part->log_start;
        rc = note_damage(s, part->log_start, 0, 0, oldest, err);
    } else if (part->log_start < oldest) {
        part->log_start = oldest;
        if (part->segs[0]->exists) {
            sti_log(part->store->host, STI_LOG_WARN, "log_start_unknown",
                    "the log is taken to begin with its oldest segment",
                    STI_F_STR("partition", part->name), STI_F_INT("offset", oldest));
        }
    }
    if (rc == STI_OK && part->log_start > part->written_end) {
        /* Also on disk: else what is appended now would lie below the start at the next open. */
        part->log_start = part->written_end;
        int saved = smm_start_write(part, part->log_start);
        rc = saved == 0 ? STI_OK
                        : sti_err_set(err, smm_errno_status(saved), "%s: start of the log: %s",
                                      part->name, strerror(saved));
    }
    return rc;
}

/* Bring a partition's log from its folder to life.
 * @return STI_OK; STI_E_DATA_LOSS (usable for reads); STI_E_IO; STI_E_NO_MEMORY; ...
 * @thread open; nobody else knows the partition yet */
int smm_recover(struct sti_storage_partition *part, struct sti_err *err)
{
    struct scan s = {.part = part, .fd = -1, .index_fd = -1};
    s.dir_fd = smm_part_dir(part);
    if (s.dir_fd < 0) {
        return sti_err_set(err, smm_errno_status(errno), "%s: %s", part->name, strerror(errno));
    }
    (void)smm_checkpoint_read(s.dir_fd, &s.point);
    s.known_end = s.point.clean ? s.point.written_end : s.point.recovery_point;
    const char *boot = part->store->boot_id;
    part->boot_noted =
        s.point.boot_id[0] != '\0' && strcmp(s.point.boot_id, boot) == 0 && !s.point.clean;
    s.rebooted =
        boot[0] != '\0' && strlen(s.point.boot_id) == 36 && strcmp(s.point.boot_id, boot) != 0;
    s.group = part->settings.flush_policy == STI_FLUSH_COMMIT
                  ? (uint64_t)part->store->conf->flush_group_bytes_max
                  : UINT64_MAX;
    part->recovery_point = s.point.recovery_point;
    part->log_start = 0;
    bool told = smm_offset_read(s.dir_fd, STI_FILE_LOG_START, &part->log_start) || s.point.has_log;
    if (s.point.has_log) { /* under a checksum, which the other file is not */
        part->log_start = s.point.log_start;
    }
    bool swaps;
    int rc = load_segments(part, s.dir_fd, &swaps, err);
    STI_CRASH_POINT("recover.after_load");
    if (rc == STI_OK) {
        rc = finish_truncation(part, s.dir_fd, swaps, err);
    }
    if (rc == STI_OK) {
        rc = recover_log(&s, err);
    }
    if (rc == STI_OK) {
        for (uint32_t i = 0; i < part->seg_count; i++) {
            part->bytes += part->segs[i]->size;
        }
        rc = settle_start(&s, told, err);
    }
    if (rc == STI_OK) {
        part->first_ms = smm_segment_active(part)->size > 0 ? -1 : 0;
        smm_damage_load(part, s.dir_fd);
        /* Also around damage: what is not synced is not read. */
        if (rc == STI_OK && part->settings.flush_policy == STI_FLUSH_COMMIT &&
            part->synced_end < part->written_end) {
            rc = smm_flush_now(part, INT64_MAX, err);
        }
    }
    (void)close(s.dir_fd);
    STI_CRASH_POINT("recover.end");
    if (rc == STI_OK && part->damaged) {
        const struct smm_damage *d = &part->damage[0];
        rc = sti_err_set(err, STI_E_DATA_LOSS,
                         "%s: offsets %" PRId64 " to %" PRId64 " are damaged: %020" PRId64
                         ".log: position %" PRIu32,
                         part->name, d->from_offset, d->to_offset - 1, d->base_offset, d->from_pos);
    }
    return rc;
}
