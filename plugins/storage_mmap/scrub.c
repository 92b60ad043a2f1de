/* scrub.c -- stored bytes are read again in the background, so that a bad disk is found while there
 * still is a copy elsewhere.
 *
 * A pass goes over all open partitions, one segment at a time, and reads what is synced: the
 * checksum of each batch, that offsets follow each other and epochs never fall, that the segment
 * ends where the next begins, and that the entries of its indexes point where they should. Bad
 * batches are read a second time, past the page cache where the file system allows it; if they are
 * bad again, the range up to the next sound batch is damage (damage.c), and the partition is what
 * it would be had its open found it. A bad index is only made anew. A segment that retention or a
 * truncation takes meanwhile is left; one poisoned is too, for its next open reads it anyway.
 *
 * The rate is bounded (scrub_bytes_per_s), and that is all it needs to stay out of the way: at the
 * default a disk that gives 200 MB/s is kept busy for a twelfth of the time, in reads of at most
 * 256 KiB, so that what waits behind one waits a millisecond or two; a scrub that stopped for load
 * would never end on a node that is always busy. Work is charged in bytes: what is read, and
 * something for each segment opened and partition looked at, so that 10,000 small partitions cost
 * no more CPU than one large.
 *
 * No thread of its own: a timer of the host's posts the next step, and between passes there is
 * nothing but that timer. A partition gives four bytes to it. One segment is open at a time, on
 * descriptors of its own, since the read-ahead of the readers' must not be touched; they count
 * against max_open_files.
 *
 * The page cache is left as it was: which pages of a step are in memory is asked before the read
 * (mincore on a mapping that nobody loads from), read-ahead is off, and those that were not are
 * dropped after it. Pages of the indexes, a five-hundredth of the log, are left to the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage_mmap.h"

enum {
    STEP_BYTES = 256 * 1024,   /* read before others get the thread */
    SEGMENT_COST = 128 * 1024, /* of opening one, in bytes read */
    PART_COST = 512,           /* of looking at a partition */
    ALIGN = 4096,              /* a page */
    BAD_READS_MAX = 64,        /* unreadable pages in a row before the rest is given up */
    ENTRIES_BUF = 510 * 8,     /* a window of an index file: whole entries of either kind */
    HOLE_FACTOR = 4,           /* index intervals without an entry are a hole in the index */
    PAGES_MAX = STEP_BYTES / 4096 + 2
};

/* A window of an index file, entry by entry. */
struct entries {
    int fd; /* -1: not looked at */
    uint32_t entry_len;
    uint32_t at, len; /* in buf */
    uint64_t pos;     /* of the window's end in the file */
    uint8_t buf[ENTRIES_BUF];
};

struct smm_scrub {
    struct smm_store *store;

    /* @locks store->table_mu */
    struct smm_job *job;                /* armed or running, NULL: none */
    struct sti_storage_partition *part; /* under scrub, or NULL */
    bool running;                       /* a step is at `part`: who closes it waits */
    bool stopping;
    pthread_cond_t idle;

    /* The rest is the step's, of which there is one at a time. */
    uint32_t pass, bucket;
    bool begun; /* a pass is under way */
    uint64_t begun_us, parts, segments, bytes, damaged, indexes;

    int64_t next_base; /* the segment to look at next begins here or behind */
    int fd;            /* of the segment under scrub, -1: none */
    int64_t base;
    uint64_t serial;
    uint32_t limit;    /* synced bytes of it */
    uint32_t size;     /* published when it was opened */
    bool whole;        /* closed, and all of it synced */
    bool judge;        /* its indexes, for which every batch must be seen */
    uint64_t read_pos; /* bytes up to here were fed */

    uint32_t pos;                       /* where the batch under way begins */
    uint8_t head[STI_BATCH_HEADER_LEN]; /* of it */
    uint32_t got;                       /* bytes of it that were fed */
    uint32_t crc;
    struct sti_batch_header header;
    int64_t expected;         /* its base offset */
    int32_t epoch;            /* of the batch before, -1: none */
    int32_t epoch_max;        /* of the log's last batch: none may be newer */
    struct smm_damage before; /* the batch before, should it turn out to be the bad one */
    int32_t before_epoch;     /* of the batch before that */
    uint64_t careful_until;   /* one page at a time up to here: one of them cannot be read */

    struct entries index, times;
    bool index_bad;
    int64_t interval, time_last, time_max;
    uint32_t entry_pos, batch_before; /* of the last index entry, of the batch before */
    uint8_t *buf;
};

/* ---- reading ------------------------------------------------------------------------------- */

/* Read, and leave the page cache as it was. @return 0 or an errno */
static int read_quietly(int fd, uint8_t *buf, size_t len, uint64_t pos, size_t *got)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t from = pos - pos % page;
    size_t span = (size_t)(pos + len - from), pages = (span + page - 1) / page;
    unsigned char there[PAGES_MAX];
    bool known = false;
    if (pages <= sizeof there) {
        void *map = mmap(NULL, span, PROT_NONE, MAP_SHARED, fd, (off_t)from);
        if (map != MAP_FAILED) {
            known = mincore(map, span, there) == 0;
            (void)munmap(map, span);
        }
    }
    int rc = STI_FAULT("scrub.read");
    rc = rc == 0 ? smm_pread(fd, buf, len, pos, false, got) : rc;
    for (size_t i = 0; known && i < pages;) {
        size_t run = i;
        while (run < pages && (there[run] & 1u) == 0) {
            run++;
        }
        if (run > i) {
            (void)posix_fadvise(fd, (off_t)(from + i * page), (off_t)((run - i) * page),
                                POSIX_FADV_DONTNEED);
        }
        i = run > i ? run : i + 1;
    }
    return rc;
}

/* ---- the indexes of a closed segment ------------------------------------------------------- */

static void entries_open(struct entries *entries, int dir_fd, int64_t base, const char *suffix,
                         uint32_t entry_len)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, base, suffix);
    entries->fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    entries->entry_len = entry_len;
    entries->at = entries->len = 0;
    entries->pos = 0;
}

/* The next entry, not yet taken. @return NULL: there is none; *bad if half of one is there */
static const uint8_t *entries_peek(struct entries *entries, bool *bad)
{
    if (entries->fd >= 0 && entries->at == entries->len) {
        size_t got = 0;
        size_t want = sizeof entries->buf / entries->entry_len * entries->entry_len;
        int rc = smm_pread(entries->fd, entries->buf, want, entries->pos, false, &got);
        *bad = *bad || rc != 0 || got % entries->entry_len != 0;
        entries->at = 0;
        entries->len = *bad ? 0 : (uint32_t)got;
        entries->pos += entries->len;
    }
    return entries->at < entries->len ? entries->buf + entries->at : NULL;
}

/* Compare the entries that tell of the batch, which was found sound. */
static void check_entries(struct smm_scrub *s)
{
    const struct sti_batch_header *header = &s->header;
    uint32_t rel = (uint32_t)(sti_batch_last_offset(header) - s->base);
    const uint8_t *raw = entries_peek(&s->index, &s->index_bad);
    if (raw != NULL) {
        struct sti_index_entry entry = sti_index_entry_get(raw);
        if (entry.pos == s->pos) {
            s->index_bad = s->index_bad || entry.rel_offset != rel;
            s->entry_pos = s->pos;
            s->index.at += s->index.entry_len;
        } else if (entry.pos < s->pos) {
            s->index_bad = true;
        }
    }
    uint64_t far = (uint64_t)s->entry_pos + HOLE_FACTOR * (uint64_t)s->interval;
    s->index_bad = s->index_bad || (s->batch_before > far && s->pos > far);
    s->batch_before = s->pos;
    raw = entries_peek(&s->times, &s->index_bad);
    if (raw != NULL) {
        struct sti_time_entry entry = sti_time_entry_get(raw);
        if (entry.rel_offset == rel) {
            s->index_bad = s->index_bad || entry.timestamp != header->max_timestamp ||
                           entry.timestamp <= s->time_last;
            s->time_last = entry.timestamp;
            s->times.at += s->times.entry_len;
        } else if (entry.rel_offset < rel) {
            s->index_bad = true;
        }
    }
    s->time_max = header->max_timestamp > s->time_max ? header->max_timestamp : s->time_max;
}

/* The segment was read to its end: what is wrong with its indexes is put right. */
static void settle_indexes(struct smm_scrub *s)
{
    struct sti_storage_partition *part = s->part;
    struct smm_file *file;
    uint32_t count;
    bool missing = s->index.fd < 0 || s->times.fd < 0;
    bool left = entries_peek(&s->index, &s->index_bad) != NULL ||
                entries_peek(&s->times, &s->index_bad) != NULL;
    if (!missing && !left && !s->index_bad && s->time_last == s->time_max) {
        return;
    }
    sti_log(part->store->host, STI_LOG_WARN, "index_damaged",
            "an index does not agree with its log, and is built anew",
            STI_F_STR("partition", part->name), STI_F_INT("segment", s->base));
    if (smm_file_acquire(part, s->base, s->serial, &file, NULL) != STI_OK) {
        return; /* retired, or the next pass tries again */
    }
    if (smm_index_check(part, s->base, s->serial, file, s->size, true, &count, NULL) == STI_OK) {
        s->indexes++;
        sti_metric_add(part->store->metrics.scrub_indexes, 1);
        pthread_mutex_lock(&part->mu);
        uint32_t i = smm_segment_find(part, s->base);
        if (part->segs[i]->serial == s->serial) { /* it may have been taken from a bad entry */
            part->segs[i]->max_timestamp = s->time_max;
            part->segs[i]->timestamp_known = true;
        }
        pthread_mutex_unlock(&part->mu);
    }
    smm_file_unref(file);
}

/* ---- damage -------------------------------------------------------------------------------- */

/* Is the segment still the partition's? @param next_base  out: where the next begins, -1: none */
static bool still_there(struct smm_scrub *s, int64_t *next_base)
{
    struct sti_storage_partition *part = s->part;
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, s->base);
    bool there = part->segs[i]->serial == s->serial && !part->poisoned;
    *next_base = i + 1 < part->seg_count ? part->segs[i + 1]->base_offset : -1;
    if (*next_base < 0) {
        *next_base = part->written_end;
    }
    pthread_mutex_unlock(&part->mu);
    return there;
}

/* Go on with the batch at `pos`, which has base offset `expected`. */
static void resume_at(struct smm_scrub *s, uint32_t pos, int64_t expected)
{
    s->pos = pos;
    s->read_pos = pos;
    s->got = 0;
    s->expected = expected;
    s->judge = false;
    s->before.base_offset = -1;
}

/* The epoch lies outside the checksum: it may not fall, nor pass that of the log's last batch. */
static bool epoch_fits(const struct smm_scrub *s, const struct sti_batch_header *header)
{
    return header->leader_epoch >= s->epoch && header->leader_epoch <= s->epoch_max;
}

/* Where a sound batch begins again behind `pos`. Pages that cannot be read are stepped over.
 * @return false: none does in this segment */
static bool find_sound(struct smm_scrub *s, struct sti_log_walk *walk, uint64_t pos,
                       uint64_t *found, struct sti_batch_header *header)
{
    int rc = STI_E_IO;
    for (int tries = 0; rc == STI_E_IO && tries < BAD_READS_MAX && pos < s->limit; tries++) {
        rc = sti_log_walk_find(walk, pos, s->expected, found, header, NULL);
        pos = pos - pos % ALIGN + ALIGN;
    }
    return rc == STI_OK;
}

static void found_damage(struct smm_scrub *s, uint32_t to_pos, int64_t to_offset)
{
    struct smm_damage range = {.base_offset = s->base,
                               .from_offset = s->expected,
                               .to_offset = to_offset,
                               .from_pos = s->pos,
                               .to_pos = to_pos};
    if (range.to_offset > range.from_offset &&
        smm_damage_found(s->part, s->serial, s->fd, &range)) {
        s->damaged++;
        sti_metric_add(s->store->metrics.scrub_damaged, 1);
    }
    resume_at(s, to_pos, to_offset);
}

/* Two neighbours contradict each other in their epochs. If this one would follow the batch before
 * the last, it is the last that sticks out. @return true: that was it, and was said */
static bool blame_before(struct smm_scrub *s, const struct sti_batch_header *header)
{
    if (header->leader_epoch >= s->epoch || header->leader_epoch < s->before_epoch ||
        s->before.base_offset != s->base) {
        return false;
    }
    struct smm_damage range = s->before;
    uint32_t pos = s->pos;
    int64_t expected = s->expected;
    s->epoch = s->before_epoch;
    s->pos = range.from_pos;
    s->expected = range.from_offset;
    found_damage(s, range.to_pos, range.to_offset);
    resume_at(s, pos, expected);
    return true;
}

/* The batch at s->pos does not hold. Look again, and if it is so, say it. */
static void suspect(struct smm_scrub *s)
{
    struct smm_look look;
    struct sti_log_walk walk;
    struct sti_batch_header header;
    int64_t next_base;
    uint64_t found;
    uint8_t *buf = malloc(SMM_LOOK_BYTES);
    if (buf == NULL || !still_there(s, &next_base)) {
        free(buf);
        s->read_pos = s->limit; /* leave it */
        s->got = 0;
        s->whole = s->judge = false;
        return;
    }
    smm_look_begin(&look, s->part, s->base, s->fd);
    sti_log_walk_init(&walk, smm_look_read, &look, buf, SMM_LOOK_BYTES, s->limit);
    bool sound = sti_log_walk_prove(&walk, s->pos, &header, NULL) == STI_OK &&
                 header.base_offset == s->expected;
    if (sound && epoch_fits(s, &header)) {
        sti_log(s->store->host, STI_LOG_WARN, "scrub_read_differs",
                "a batch was bad at the first look and sound at the second: memory or the way to "
                "the disk is to blame, not what is stored",
                STI_F_STR("partition", s->part->name), STI_F_INT("segment", s->base),
                STI_F_UINT("position", s->pos));
        sti_metric_add(s->store->metrics.scrub_differs, 1);
        resume_at(s, s->pos + (uint32_t)header.total_len, sti_batch_last_offset(&header) + 1);
    } else if (sound && blame_before(s, &header)) {
        /* said, and this one is looked at again */
    } else if (find_sound(s, &walk, (uint64_t)s->pos + 1, &found, &header)) {
        found_damage(s, (uint32_t)found, header.base_offset);
    } else {
        found_damage(s, s->limit, next_base);
    }
    smm_look_end(&look);
    free(buf);
}

/* ---- a segment ----------------------------------------------------------------------------- */

static void close_segment(struct smm_scrub *s)
{
    int fds[] = {s->fd, s->index.fd, s->times.fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    if (s->fd >= 0) {
        smm_file_charge(s->store, -1);
    }
    s->fd = s->index.fd = s->times.fd = -1;
}

/* Pick the next segment with synced bytes. @return false: the partition has none */
static bool pick_segment(struct smm_scrub *s)
{
    struct sti_storage_partition *part = s->part;
    bool found = false;
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, s->next_base);
    for (; i < part->seg_count && !found && !part->poisoned; i++) {
        const struct smm_segment *seg = part->segs[i];
        if (seg->base_offset < s->next_base || !seg->exists || seg->synced_size == 0) {
            continue;
        }
        s->base = seg->base_offset;
        s->serial = seg->serial;
        s->size = seg->size;
        s->limit = seg->synced_size < seg->size ? seg->synced_size : seg->size;
        s->whole = s->judge = i + 1 < part->seg_count && s->limit == seg->size;
        s->epoch_max = part->last_epoch;
        s->interval = part->settings.index_interval_bytes;
        found = true;
    }
    pthread_mutex_unlock(&part->mu);
    return found;
}

/* @return false: no segment is left */
static bool open_segment(struct smm_scrub *s)
{
    char name[SMM_NAME_LEN];
    if (!pick_segment(s)) {
        return false;
    }
    s->next_base = s->base + 1;
    s->pos = s->got = 0;
    s->read_pos = 0;
    s->expected = s->base;
    s->before.base_offset = -1;
    s->careful_until = 0;
    s->index_bad = false;
    s->entry_pos = s->batch_before = 0;
    s->time_last = s->time_max = -1;
    int dir_fd = smm_part_dir(s->part);
    sti_log_name(name, s->base, ".log");
    s->fd = dir_fd < 0 ? -1 : openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int saved = errno;
    if (s->fd >= 0) {
        smm_file_charge(s->store, 1);
        (void)posix_fadvise(s->fd, 0, 0, POSIX_FADV_RANDOM); /* no read-ahead */
        if (s->judge) {
            entries_open(&s->index, dir_fd, s->base, ".index", STI_INDEX_ENTRY_LEN);
            entries_open(&s->times, dir_fd, s->base, ".timeindex", STI_TIME_ENTRY_LEN);
        }
        s->segments++;
    } else if (dir_fd >= 0 && saved == ENOENT) {
        int64_t next_base;
        if (still_there(s, &next_base)) {
            found_damage(s, s->size, next_base); /* the file itself is gone */
        }
    } else {
        sti_log(s->store->host, STI_LOG_WARN, "scrub_skipped",
                "a segment could not be opened; the next pass tries again",
                STI_F_STR("partition", s->part->name), STI_F_INT("segment", s->base),
                STI_F_STR("error", strerror(saved)));
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    return true;
}

/* The header of the batch is complete: can it be one that belongs here? */
static bool header_holds(struct smm_scrub *s)
{
    bool ok = sti_batch_header_decode(s->head, sizeof s->head, &s->header, NULL) == STI_OK &&
              s->header.total_len <= s->limit - s->pos && s->header.base_offset == s->expected &&
              epoch_fits(s, &s->header);
    if (ok) {
        s->crc = sti_crc32c(0, s->head + SMM_CRC_FROM, sizeof s->head - SMM_CRC_FROM);
    }
    return ok;
}

/* The batch holds: go on behind it. */
static void accept(struct smm_scrub *s)
{
    if (s->judge) {
        check_entries(s);
    }
    s->before = (struct smm_damage){.base_offset = s->base,
                                    .from_offset = s->expected,
                                    .to_offset = sti_batch_last_offset(&s->header) + 1,
                                    .from_pos = s->pos,
                                    .to_pos = s->pos + s->got};
    s->before_epoch = s->epoch;
    s->epoch = s->header.leader_epoch;
    s->expected = s->before.to_offset;
    s->pos = s->before.to_pos;
    s->got = 0;
}

/* Take in bytes that lie at s->read_pos. @return false: the batch under way does not hold */
static bool feed(struct smm_scrub *s, const uint8_t *data, size_t len)
{
    while (len > 0) {
        size_t take;
        if (s->got < sizeof s->head) {
            take = sizeof s->head - s->got < len ? sizeof s->head - s->got : len;
            memcpy(s->head + s->got, data, take);
            s->got += (uint32_t)take;
            if (s->got == sizeof s->head && !header_holds(s)) {
                return false;
            }
        } else {
            uint64_t left = s->header.total_len - s->got;
            take = left < len ? (size_t)left : len;
            s->crc = sti_crc32c(s->crc, data, take);
            s->got += (uint32_t)take;
        }
        data += take;
        len -= take;
        s->read_pos += take;
        if (s->got >= sizeof s->head && s->got == s->header.total_len) {
            if (s->crc != s->header.crc) {
                return false;
            }
            accept(s);
            if (smm_damage_skip(s->part, s->base, &s->pos, &s->expected)) {
                resume_at(s, s->pos, s->expected);
                return true; /* what is left of the data lies in it, or is read again */
            }
        }
    }
    return true;
}

/* The segment is read, or gone. */
static void end_segment(struct smm_scrub *s, bool there, int64_t next_base)
{
    if (there && s->whole && s->pos == s->size && s->expected != next_base) {
        found_damage(s, s->limit, next_base); /* it ends too early */
    } else if (there && s->judge && s->pos == s->size) {
        settle_indexes(s);
    }
    close_segment(s);
}

/* Read on in the segment. @return bytes read */
static size_t read_some(struct smm_scrub *s)
{
    size_t got = 0;
    int64_t next_base;
    if (s->read_pos == 0 && smm_damage_skip(s->part, s->base, &s->pos, &s->expected)) {
        resume_at(s, s->pos, s->expected);
    }
    bool there = still_there(s, &next_base);
    if (there && s->read_pos >= s->limit && s->got > 0) {
        suspect(s); /* it ends within a batch */
        return ALIGN;
    }
    if (s->read_pos >= s->limit || !there) {
        end_segment(s, there, next_base);
        return 0;
    }
    size_t step = s->read_pos < s->careful_until ? ALIGN : STEP_BYTES;
    size_t want = step - s->read_pos % step;
    want = s->limit - s->read_pos < want ? (size_t)(s->limit - s->read_pos) : want;
    uint64_t from = s->read_pos;
    int rc = read_quietly(s->fd, s->buf, want, from, &got);
    if (rc != 0 && want > ALIGN) {
        s->careful_until = from + want; /* which page is it? */
    } else if (rc != 0 || !feed(s, s->buf, got) || (got < want && s->read_pos == from + got)) {
        suspect(s);
    }
    s->bytes += got;
    sti_metric_add(s->store->metrics.scrub_bytes, got);
    return got > 0 ? got : SEGMENT_COST;
}

/* ---- a pass -------------------------------------------------------------------------------- */

/* Work on the partition until `budget` is spent. @return false: it is done */
static bool scrub_part(struct smm_scrub *s, uint64_t budget, uint64_t *spent)
{
    while (*spent < budget) {
        if (s->fd >= 0) {
            *spent += read_some(s);
        } else if (open_segment(s)) {
            *spent += SEGMENT_COST;
        } else {
            return false;
        }
    }
    return true;
}

/* Have a partition to work on, so that nobody closes it. @return false: the pass has seen all */
static bool enter_part(struct smm_scrub *s)
{
    struct smm_store *store = s->store;
    pthread_mutex_lock(&store->table_mu);
    bool fresh = s->part == NULL;
    while (s->part == NULL && s->bucket < SMM_BUCKETS) {
        struct sti_storage_partition *part = store->table[s->bucket];
        while (part != NULL &&
               (part->scrub_pass == SMM_SCRUB_NEVER || part->scrub_pass == s->pass)) {
            part = part->table_next;
        }
        if (part == NULL) {
            s->bucket++;
        } else {
            part->scrub_pass = s->pass;
            s->part = part;
        }
    }
    s->running = s->part != NULL;
    bool found = s->running;
    pthread_mutex_unlock(&store->table_mu);
    if (fresh) {
        close_segment(s); /* of a partition that was closed */
        s->next_base = -1;
        s->epoch = s->before_epoch = -1;
        s->parts += found ? 1 : 0;
    }
    return found;
}

static void leave_part(struct smm_scrub *s, bool done)
{
    pthread_mutex_lock(&s->store->table_mu);
    s->running = false;
    if (done) {
        s->part = NULL;
    }
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->store->table_mu);
}

static bool begin_pass(struct smm_scrub *s)
{
    s->buf = malloc(STEP_BYTES);
    if (s->buf == NULL) {
        return false;
    }
    s->begun = true;
    s->pass = s->pass + 1 == SMM_SCRUB_NEVER ? 1 : s->pass + 1;
    s->bucket = 0;
    s->parts = s->segments = s->bytes = s->damaged = s->indexes = 0;
    s->begun_us = sti_now_us(s->store->host);
    sti_log(s->store->host, STI_LOG_INFO, "scrub_begin", "stored data is read again",
            STI_F_UINT("pass", s->pass),
            STI_F_INT("bytes_per_s", s->store->conf->scrub_bytes_per_s));
    return true;
}

static void end_pass(struct smm_scrub *s)
{
    free(s->buf);
    s->buf = NULL;
    s->begun = false;
    sti_metric_add(s->store->metrics.scrub_passes, 1);
    sti_log(s->store->host, s->damaged > 0 ? STI_LOG_ERROR : STI_LOG_INFO, "scrub_end",
            s->damaged > 0 ? "stored data was read again: some is damaged"
                           : "stored data was read again: all of it is sound",
            STI_F_UINT("pass", s->pass), STI_F_UINT("partitions", s->parts),
            STI_F_UINT("segments", s->segments), STI_F_UINT("bytes", s->bytes),
            STI_F_UINT("damaged", s->damaged), STI_F_UINT("indexes_rebuilt", s->indexes),
            STI_F_UINT("ms", (sti_now_us(s->store->host) - s->begun_us) / 1000u));
}

/* One step. @return in how many microseconds the next is due */
static uint64_t scrub_step(struct smm_scrub *s)
{
    const struct smm_conf *conf = s->store->conf;
    uint64_t spent = 0;
    if (!s->begun && !begin_pass(s)) {
        return 1000000u;
    }
    while (spent < STEP_BYTES && enter_part(s)) {
        bool more = scrub_part(s, STEP_BYTES, &spent);
        leave_part(s, !more);
        spent += more ? 0 : PART_COST;
    }
    sti_metric_set(s->store->metrics.scrub_progress, (uint64_t)(sti_now_ms(s->store->host) / 1000));
    if (spent < STEP_BYTES) {
        end_pass(s);
        return (uint64_t)conf->scrub_interval_ms * 1000u;
    }
    return spent * 1000000u / (uint64_t)conf->scrub_bytes_per_s + 1;
}

static void scrub_run(struct smm_job *job)
{
    struct smm_scrub *s = job->store->scrub;
    uint64_t wait_us = scrub_step(s);
    pthread_mutex_lock(&s->store->table_mu);
    if (s->stopping) {
        s->job = NULL;
        pthread_cond_broadcast(&s->idle);
        free(job);
    } else {
        smm_job_arm(job, sti_now_us(job->store->host) + wait_us);
    }
    pthread_mutex_unlock(&s->store->table_mu);
}

/* ---- start, stop, and partitions that go --------------------------------------------------- */

/* @return STI_OK, STI_E_NO_MEMORY */
int smm_scrub_start(struct smm_store *store, struct sti_err *err)
{
    if (store->conf->scrub_bytes_per_s == 0) {
        return STI_OK;
    }
    struct smm_scrub *s = calloc(1, sizeof *s);
    struct smm_job *job = s == NULL ? NULL : smm_job_new(store, NULL, scrub_run);
    if (job == NULL) {
        free(s);
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", store->host->instance);
    }
    s->store = store;
    s->fd = s->index.fd = s->times.fd = -1;
    pthread_cond_init(&s->idle, NULL);
    s->job = job;
    store->scrub = s;
    smm_job_arm(job, sti_now_us(store->host) + (uint64_t)store->conf->scrub_delay_ms * 1000u);
    return STI_OK;
}

/* No step begins any more; one that is under way ends. All partitions are closed. @thread main */
void smm_scrub_stop(struct smm_store *store)
{
    struct smm_scrub *s = store->scrub;
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&store->table_mu);
    s->stopping = true;
    if (s->job != NULL && smm_job_cancel(s->job)) {
        free(s->job);
        s->job = NULL;
    }
    while (s->job != NULL) {
        pthread_cond_wait(&s->idle, &store->table_mu);
    }
    pthread_mutex_unlock(&store->table_mu);
    close_segment(s);
    free(s->buf);
    pthread_cond_destroy(&s->idle);
    store->scrub = NULL;
    free(s);
}

/* The partition may be looked at from now on. */
void smm_scrub_join(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->store->table_mu);
    part->scrub_pass = 0;
    pthread_mutex_unlock(&part->store->table_mu);
}

/* The partition is closed: wait for a step that is at it, which is short, and let no other begin.
 * @locks none that a step may want: files_mu, part->mu, side_mu */
void smm_scrub_leave(struct sti_storage_partition *part)
{
    struct smm_scrub *s = part->store->scrub;
    pthread_mutex_lock(&part->store->table_mu);
    part->scrub_pass = SMM_SCRUB_NEVER;
    while (s != NULL && s->part == part && s->running) {
        pthread_cond_wait(&s->idle, &part->store->table_mu);
    }
    if (s != NULL && s->part == part) {
        s->part = NULL;
    }
    pthread_mutex_unlock(&part->store->table_mu);
}
