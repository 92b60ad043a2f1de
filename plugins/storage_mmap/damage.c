/* damage.c -- the ranges of a log that are known to be bad: kept sorted, told, and remembered.
 *
 * Recovery finds damage where it reads, which is past the recovery point. What the scrub or a
 * reader finds lies before it, where no open reads again: so it is written down beside the log, and
 * the next open looks at those ranges first. The file holds no truth of its own: a range whose
 * bytes are sound again (the file was brought back from a copy) or that retention has taken is
 * dropped.
 *
 * The CRC of a range is that of its bytes as they were found: as long as they are the same they are
 * bad, whatever it was that told (an epoch that does not fit its neighbours proves well).
 * A file that cannot be understood counts as absent: the next pass of the scrub finds the damage
 * again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { PROVE_BUF = 64 * 1024 };

/* ---- the list ------------------------------------------------------------------------------ */

/* Add a range, in its place.
 * @return false: it is known, or there is no memory. @locks part->mu held */
static bool add_range(struct sti_storage_partition *part, const struct smm_damage *range)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < part->damage_count; i++) {
        const struct smm_damage *d = &part->damage[i];
        if (d->base_offset == range->base_offset && d->from_pos == range->from_pos) {
            return false;
        }
        at += d->from_offset <= range->from_offset ? 1 : 0;
    }
    struct smm_damage *grown =
        realloc(part->damage, (part->damage_count + 1) * sizeof(*part->damage));
    if (grown == NULL) {
        return false;
    }
    memmove(grown + at + 1, grown + at, (part->damage_count - at) * sizeof *grown);
    grown[at] = *range;
    part->damage = grown;
    part->damage_count++;
    part->damaged = true;
    return true;
}

/* Forget the ranges at or behind `offset`, which a truncation has taken. @locks part->mu held */
void smm_damage_cut(struct sti_storage_partition *part, int64_t offset)
{
    while (part->damage_count > 0 && part->damage[part->damage_count - 1].from_offset >= offset) {
        part->damage_count--;
    }
    if (part->damage_count == 0) {
        free(part->damage);
        part->damage = NULL;
        part->damaged = false;
    }
}

/* If a range that is known begins at `*pos` of that segment, go behind it. @return true: it did */
bool smm_damage_skip(struct sti_storage_partition *part, int64_t base_offset, uint32_t *pos,
                     int64_t *next_offset)
{
    bool skipped = false;
    if (!part->damaged) {
        return false;
    }
    pthread_mutex_lock(&part->mu);
    for (uint32_t i = 0; i < part->damage_count; i++) {
        const struct smm_damage *d = &part->damage[i];
        if (d->base_offset == base_offset && d->from_pos == *pos && d->to_pos > *pos) {
            *pos = d->to_pos;
            *next_offset = d->to_offset;
            skipped = true;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return skipped;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* Write down what is known, or remove the file when nothing is. @locks part->side_mu and mu free */
void smm_damage_save(struct sti_storage_partition *part)
{
    char *text = malloc(STI_DAMAGE_FILE_MAX);
    size_t len = 0;
    int rc = text == NULL ? ENOMEM : 0;
    pthread_mutex_lock(&part->side_mu);
    pthread_mutex_lock(&part->mu);
    uint32_t count =
        part->damage_count < STI_DAMAGE_RANGES_MAX ? part->damage_count : STI_DAMAGE_RANGES_MAX;
    if (rc == 0 && count > 0) {
        for (uint32_t i = 0; i < count; i++) {
            const struct smm_damage *d = &part->damage[i];
            const struct sti_damage_range line = {.base_offset = d->base_offset,
                                                  .from_offset = d->from_offset,
                                                  .to_offset = d->to_offset,
                                                  .from_pos = d->from_pos,
                                                  .to_pos = d->to_pos,
                                                  .crc = d->crc};
            (void)sti_damage_put(text, STI_DAMAGE_FILE_MAX, &len, &line);
        }
        (void)sti_damage_put(text, STI_DAMAGE_FILE_MAX, &len, NULL);
    }
    pthread_mutex_unlock(&part->mu);
    int dir_fd = rc == 0 ? smm_part_dir(part) : -1;
    if (rc == 0 && dir_fd < 0) {
        rc = errno;
    } else if (rc == 0 && count > 0) {
        rc = smm_small_write(dir_fd, STI_FILE_DAMAGE, text, len, true);
    } else if (rc == 0 && unlinkat(dir_fd, STI_FILE_DAMAGE, 0) != 0 && errno != ENOENT) {
        rc = errno;
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    pthread_mutex_unlock(&part->side_mu);
    free(text);
    if (rc != 0) {
        sti_log(part->store->host, STI_LOG_WARN, "damage_not_noted",
                "the file " STI_FILE_DAMAGE " could not be written: after a restart the damage is "
                "found by the next pass of the scrub",
                STI_F_STR("partition", part->name), STI_F_STR("error", strerror(rc)));
    }
}

static int walk_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    const struct smm_file *file = ctx;
    return smm_pread(file->log_fd, buf, len, pos, false, got);
}

/* The checksum of the bytes of a range. @return 0 when they cannot be read */
static uint32_t fingerprint(const struct smm_damage *range, int fd, uint8_t *buf)
{
    uint32_t crc = 0;
    for (uint32_t pos = range->from_pos; pos < range->to_pos;) {
        size_t got, want = range->to_pos - pos < PROVE_BUF ? range->to_pos - pos : PROVE_BUF;
        if (smm_pread(fd, buf, want, pos, false, &got) != 0 || got == 0) {
            return 0;
        }
        crc = sti_crc32c(crc, buf, got);
        pos += (uint32_t)got;
    }
    return crc;
}

/* Have the bytes of the range changed, and do they hold now, from its first offset to its last? */
static bool is_sound(struct sti_storage_partition *part, const struct smm_segment *seg,
                     const struct smm_damage *range)
{
    struct smm_file *file;
    struct sti_log_walk walk;
    struct sti_batch_header header;
    uint8_t *buf = malloc(PROVE_BUF);
    uint64_t pos = range->from_pos;
    int64_t next = range->from_offset;
    if (buf == NULL ||
        smm_file_acquire(part, seg->base_offset, seg->serial, &file, NULL) != STI_OK) {
        free(buf);
        return false;
    }
    sti_log_walk_init(&walk, walk_read, file, buf, PROVE_BUF, seg->size);
    bool same = range->crc != 0 && fingerprint(range, file->log_fd, buf) == range->crc;
    while (!same && pos < range->to_pos &&
           sti_log_walk_prove(&walk, pos, &header, NULL) == STI_OK && header.base_offset == next) {
        pos += header.total_len;
        next = sti_batch_last_offset(&header) + 1;
    }
    smm_file_unref(file);
    free(buf);
    return pos == range->to_pos && next == range->to_offset;
}

/* Take up one range of the file. @return false: it is gone or sound, and needs no noting */
static bool take_range(struct sti_storage_partition *part, struct smm_damage range)
{
    uint32_t i = smm_segment_find(part, range.from_offset);
    const struct smm_segment *seg = part->segs[i];
    if (range.to_offset <= part->log_start || range.from_offset >= part->written_end ||
        range.from_offset < seg->base_offset) {
        return false;
    }
    if (range.from_pos == range.to_pos && seg->base_offset == range.from_offset && seg->size > 0) {
        return false; /* a file that was missing is back */
    }
    if (seg->base_offset != range.base_offset) { /* the whole file is gone */
        range.base_offset = seg->base_offset;
        range.from_pos = range.to_pos = seg->size;
    } else if (range.to_pos > seg->size) { /* it was cut off, and still is */
        range.to_pos = seg->size;
        range.from_pos = range.from_pos < seg->size ? range.from_pos : seg->size;
    } else if (is_sound(part, seg, &range)) {
        return false;
    }
    pthread_mutex_lock(&part->mu);
    bool added = add_range(part, &range);
    pthread_mutex_unlock(&part->mu);
    if (added) {
        smm_damage_tell(part, &range);
    }
    return true;
}

/* At an open: look at the ranges that were known when the partition was last open.
 * @thread open; nobody else knows the partition yet */
void smm_damage_load(struct sti_storage_partition *part, int dir_fd)
{
    char *text;
    size_t len;
    bool stale = false;
    if (smm_small_read(dir_fd, STI_FILE_DAMAGE, STI_DAMAGE_FILE_MAX, &text, &len) != 0) {
        return;
    }
    struct sti_damage_range line;
    size_t at = 0;
    int rc;
    while ((rc = sti_damage_next(text, len, &at, &line, NULL)) == STI_OK) {
        struct smm_damage range = {.base_offset = line.base_offset,
                                   .from_offset = line.from_offset,
                                   .to_offset = line.to_offset,
                                   .from_pos = line.from_pos,
                                   .to_pos = line.to_pos,
                                   .crc = line.crc};
        stale = !take_range(part, range) || stale;
    }
    free(text);
    if (rc != STI_E_END || stale) {
        smm_damage_save(part);
    }
}

/* ---- telling ------------------------------------------------------------------------------- */

void smm_damage_text(const struct sti_storage_partition *part, const struct smm_damage *range,
                     struct sti_err *err)
{
    (void)sti_err_set(err, STI_E_DATA_LOSS,
                      "%.120s: offsets %" PRId64 " to %" PRId64 " are damaged: %020" PRId64
                      ".log: position %" PRIu32,
                      part->name, range->from_offset, range->to_offset - 1, range->base_offset,
                      range->from_pos);
}

void smm_damage_tell(struct sti_storage_partition *part, const struct smm_damage *range)
{
    sti_metric_add(part->store->metrics.damaged, 1);
    sti_log(part->store->host, STI_LOG_ERROR, "log_damaged",
            "stored bytes are damaged: appends are refused, reads go around them",
            STI_F_STR("partition", part->name), STI_F_INT("segment", range->base_offset),
            STI_F_UINT("position", range->from_pos), STI_F_INT("from_offset", range->from_offset),
            STI_F_INT("to_offset", range->to_offset));
}

/* Damage was found in a segment of an open partition: from now on it counts, and is told.
 * @param fd  of the segment's log, or -1
 * @return true: it is new
 * @thread any that may do I/O    @locks none */
bool smm_damage_found(struct sti_storage_partition *part, uint64_t serial, int fd,
                      const struct smm_damage *range)
{
    struct sti_err err;
    struct smm_damage noted = *range;
    uint8_t *buf = malloc(PROVE_BUF);
    noted.crc = buf == NULL || fd < 0 ? 0 : fingerprint(range, fd, buf);
    free(buf);
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, range->base_offset);
    bool added = part->segs[i]->serial == serial && !part->poisoned &&
                 range->to_offset > part->log_start && add_range(part, &noted);
    pthread_mutex_unlock(&part->mu);
    if (!added) {
        return false; /* retention, a truncation or a failure was faster; or it is known */
    }
    smm_damage_save(part);
    smm_damage_tell(part, range);
    smm_damage_text(part, range, &err);
    if (part->events != NULL && STI_HAS(part->events, damaged)) {
        part->events->damaged(part->events_ctx, &err);
    }
    return true;
}
