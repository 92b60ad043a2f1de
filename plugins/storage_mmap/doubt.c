/* doubt.c -- what a reader found bad is looked at again, and if it is bad, it is damage.
 *
 * A reader answers with DATA_LOSS and goes its way; here, on the executor, the headers of the
 * segment are walked from its start to the place, and what does not hold there is proved on bytes
 * read past the page cache, as the scrub does it. Only bytes that could be read and are wrong
 * count: an error of the disk's, a segment that retention or a truncation has replaced meanwhile,
 * or a memory that lied once, mark nothing. It is then damage as if the scrub had come by
 * (damage.c).
 *
 * One look at a time per partition, and one a second: a reader that asks again and again for what
 * cannot be confirmed costs no more than that. What is passed over in between is told by the next
 * reader, or found by the scrub.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { ALIGN = 4096, PAUSE_US = 1000000 };

/* ---- bytes as the disk has them ------------------------------------------------------------ */

/* A reader for sti_log_walk_init; `ctx` is the look. */
int smm_look_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    struct smm_look *look = ctx;
    *got = 0;
    if (look->direct_fd < 0) {
        (void)posix_fadvise(look->fd, (off_t)pos, (off_t)len, POSIX_FADV_DONTNEED);
        return smm_pread(look->fd, buf, len, pos, false, got);
    }
    uint64_t from = pos - pos % ALIGN;
    size_t span = ((size_t)(pos + len - from) + ALIGN - 1) / ALIGN * ALIGN, read_len;
    int rc = smm_pread(look->direct_fd, look->aligned, span, from, false, &read_len);
    if (rc == 0 && read_len > pos - from) {
        *got = read_len - (size_t)(pos - from) < len ? read_len - (size_t)(pos - from) : len;
        memcpy(buf, look->aligned + (pos - from), *got);
    }
    return rc;
}

/* @param fd  of that segment's log; stays the caller's */
void smm_look_begin(struct smm_look *look, const struct sti_storage_partition *part, int64_t base,
                    int fd)
{
    char name[SMM_NAME_LEN];
    uint8_t probe[ALIGN] __attribute__((aligned(ALIGN)));
    *look = (struct smm_look){.fd = fd, .direct_fd = -1};
    look->aligned = aligned_alloc(ALIGN, SMM_LOOK_BYTES + 2 * ALIGN);
    int dir_fd = look->aligned == NULL ? -1 : smm_part_dir(part);
    if (dir_fd >= 0) {
        sti_log_name(name, base, ".log");
        look->direct_fd = openat(dir_fd, name, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
        (void)close(dir_fd);
    }
    if (look->direct_fd >= 0 && pread(look->direct_fd, probe, sizeof probe, 0) < 0 &&
        errno == EINVAL) {
        (void)close(look->direct_fd); /* it can be opened, not read */
        look->direct_fd = -1;
    }
}

void smm_look_end(struct smm_look *look)
{
    if (look->direct_fd >= 0) {
        (void)close(look->direct_fd);
    }
    free(look->aligned);
}

/* ---- the look ------------------------------------------------------------------------------ */

struct place {
    struct sti_storage_partition *part;
    int64_t base_offset, next_base; /* of the segment, and where the next begins */
    uint64_t serial;
    uint32_t size, target; /* published bytes; where the reader stood */
    uint32_t pos, prev;    /* where the way ends, and the batch before */
    int64_t expected, prev_base;
};

/* @return false: the segment is gone. @locks part->mu held */
static bool take_place(struct sti_storage_partition *part, struct place *p)
{
    uint32_t i = smm_segment_find(part, part->doubt_base);
    const struct smm_segment *seg = part->segs[i];
    *p = (struct place){.part = part,
                        .base_offset = part->doubt_base,
                        .serial = part->doubt_serial,
                        .size = seg->size,
                        .target = part->doubt_pos,
                        .expected = part->doubt_base};
    p->next_base = i + 1 < part->seg_count ? part->segs[i + 1]->base_offset : part->written_end;
    return seg->serial == part->doubt_serial && seg->exists && !part->poisoned;
}

/* Walk from the start of the segment as far as headers follow each other, to where the reader stood
 * at the most. @return STI_OK; STI_E_IO: nothing can be said */
static int walk_there(struct place *p, int fd)
{
    struct smm_walk walk;
    struct sti_batch_header header;
    smm_walk_init(&walk, fd, p->size, false);
    for (;;) {
        if (smm_damage_skip(p->part, p->base_offset, &p->pos, &p->expected)) {
            p->prev = p->pos;
            continue;
        }
        if (p->pos >= p->size || p->pos >= p->target) {
            return STI_OK;
        }
        int rc = smm_walk_header(&walk, p->pos, &header, NULL);
        if (rc == STI_E_DATA_LOSS || (rc == STI_OK && header.base_offset != p->expected)) {
            return STI_OK;
        }
        if (rc != STI_OK) {
            return STI_E_IO;
        }
        p->prev = p->pos;
        p->prev_base = header.base_offset;
        p->pos += (uint32_t)header.total_len;
        p->expected = sti_batch_last_offset(&header) + 1;
    }
}

/* What does not hold: the batch at p->pos, the one before it that has led there, or, at the end of
 * the segment, what should follow it?
 * @param range  out. @return true: it is bad for certain */
static bool is_bad(struct place *p, struct sti_log_walk *walk, struct smm_damage *range)
{
    struct sti_batch_header header;
    uint64_t found;
    int rc = STI_OK;
    if (p->prev < p->pos) {
        rc = sti_log_walk_prove(walk, p->prev, &header, NULL);
        if (rc == STI_E_DATA_LOSS) {
            p->pos = p->prev;
            p->expected = p->prev_base;
        } else if (rc != STI_OK || header.base_offset != p->prev_base ||
                   sti_batch_last_offset(&header) + 1 != p->expected) {
            return false;
        }
    }
    *range = (struct smm_damage){.base_offset = p->base_offset,
                                 .from_offset = p->expected,
                                 .to_offset = p->next_base,
                                 .from_pos = p->pos,
                                 .to_pos = p->size};
    if (p->pos >= p->size) {
        return p->expected < p->next_base;
    }
    if (rc == STI_OK) {
        rc = sti_log_walk_prove(walk, p->pos, &header, NULL);
    }
    if (rc != STI_E_DATA_LOSS && (rc != STI_OK || header.base_offset == p->expected)) {
        return false;
    }
    rc = sti_log_walk_find(walk, (uint64_t)p->pos + 1, p->expected, &found, &header, NULL);
    if (rc == STI_OK) {
        range->to_pos = (uint32_t)found;
        range->to_offset = header.base_offset;
    }
    return (rc == STI_OK || rc == STI_E_NOT_FOUND) && range->to_offset > range->from_offset;
}

static void look_again(struct place *p)
{
    struct sti_log_walk walk;
    struct smm_look look;
    struct smm_file *file;
    struct smm_damage range;
    uint8_t *buf = malloc(SMM_LOOK_BYTES);
    if (buf == NULL ||
        smm_file_acquire(p->part, p->base_offset, p->serial, &file, NULL) != STI_OK) {
        free(buf); /* a file that is gone is the scrub's to judge */
        return;
    }
    if (walk_there(p, file->log_fd) == STI_OK) {
        smm_look_begin(&look, p->part, p->base_offset, file->log_fd);
        sti_log_walk_init(&walk, smm_look_read, &look, buf, SMM_LOOK_BYTES, p->size);
        if (is_bad(p, &walk, &range)) {
            (void)smm_damage_found(p->part, p->serial, file->log_fd, &range);
        }
        smm_look_end(&look);
    }
    smm_file_unref(file);
    free(buf);
}

static void doubt_run(struct smm_job *job)
{
    struct sti_storage_partition *part = job->part;
    struct place place;
    pthread_mutex_lock(&part->mu);
    bool there = take_place(part, &place);
    pthread_mutex_unlock(&part->mu);
    if (there) {
        look_again(&place);
    }
    pthread_mutex_lock(&part->mu);
    atomic_store(&job->state, SMM_JOB_IDLE);
    pthread_cond_broadcast(&part->changed);
    pthread_mutex_unlock(&part->mu);
}

/* A reader stood before bytes at `pos` that are no batch which belongs there, and are not known to
 * be damaged. @thread any; does no I/O    @locks part->mu free */
void smm_doubt(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
               uint32_t pos)
{
    uint64_t now = sti_now_us(part->store->host);
    pthread_mutex_lock(&part->mu);
    if (part->doubt_job == NULL && !part->closing) {
        part->doubt_job = smm_job_new(part->store, part, doubt_run);
    }
    if (part->doubt_job != NULL && atomic_load(&part->doubt_job->state) == SMM_JOB_IDLE &&
        !part->closing && !part->poisoned &&
        (part->doubt_us == 0 || now - part->doubt_us >= PAUSE_US)) {
        part->doubt_base = base_offset;
        part->doubt_serial = serial;
        part->doubt_pos = pos;
        part->doubt_us = now;
        smm_job_post(part->doubt_job);
    }
    pthread_mutex_unlock(&part->mu);
}
