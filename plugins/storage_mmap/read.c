/* read.c -- whole batches out, as slices of segments.
 *
 * A read takes a view of one segment under the short lock (published size, ends, the open file),
 * and does the rest without any: where it begins comes from the cursor that the last read left, or
 * from the index and a walk over headers; where it ends, from the published end when everything
 * fits, else from the index and a short walk. Entries of the index are checked against the header
 * that they point to. A reader that keeps up finds its cursor, and looks at one header to answer.
 *
 * No checksum covers a batch's base offset and length, and after an orderly end nobody has read the
 * log. So every batch that is looked at is held against its place: it begins where the one before
 * ends. Where that does not hold, the reader looks for the next batch whose checksum and neighbours
 * hold; what lies between is answered with DATA_LOSS, and what lies behind is read as ever. The
 * place is handed on to be looked at again (doubt.c), so that appends do not go on for long.
 *
 * Segments may be retired meanwhile: the file that the view holds keeps the bytes; a segment that
 * is gone before its file was open sends the read back to the start.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage_mmap.h"

enum { RETRIES = 8, PROBE_STEP = 64 * 1024 };

struct view {
    struct smm_file *file; /* a reference, or NULL */
    int64_t base_offset;
    int64_t end_offset; /* of what the segment has published */
    uint64_t serial;
    uint32_t size;
    uint32_t index_count;
    uint32_t cursor_pos; /* where `offset` begins, if cursor_hit */
    bool active, cursor_hit, nowait;
    bool at_end; /* the log ends at the offset: there is nothing to find */
};

/* ---- the view ------------------------------------------------------------------------------ */

/* @locks part->mu held */
static int take_view(struct sti_storage_partition *part, int64_t offset, bool nowait,
                     struct view *view, struct sti_err *err)
{
    memset(view, 0, sizeof *view);
    view->nowait = nowait;
    if (offset < part->log_start || offset > part->written_end) {
        return sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE,
                           "%s: offset %" PRId64 " lies outside %" PRId64 "..%" PRId64, part->name,
                           offset, part->log_start, part->written_end);
    }
    for (uint32_t i = 0; i < part->damage_count; i++) {
        const struct smm_damage *d = &part->damage[i];
        if (offset >= d->from_offset && offset < d->to_offset) {
            return sti_err_set(err, STI_E_DATA_LOSS,
                               "%s: offsets %" PRId64 " to %" PRId64
                               " are damaged (segment %020" PRId64 ", position %" PRIu32 ")",
                               part->name, d->from_offset, d->to_offset - 1, d->base_offset,
                               d->from_pos);
        }
    }
    uint32_t i = smm_segment_find(part, offset);
    const struct smm_segment *seg = part->segs[i];
    view->active = i + 1 == part->seg_count;
    view->at_end = offset == part->written_end;
    view->base_offset = seg->base_offset;
    view->serial = seg->serial;
    view->size = seg->size;
    view->index_count = view->active ? part->index.flushed : seg->index_count;
    view->end_offset = view->active ? part->written_end : part->segs[i + 1]->base_offset;
    if (view->end_offset > part->written_end) {
        view->end_offset = part->written_end;
    }
    for (uint32_t d = 0; d < part->damage_count; d++) { /* the end that is lost is not read past */
        if (part->damage[d].base_offset == seg->base_offset &&
            part->damage[d].to_pos >= seg->size && part->damage[d].from_offset < view->end_offset) {
            view->end_offset = part->damage[d].from_offset;
        }
    }
    if (seg->file != NULL) {
        view->file = smm_file_ref(seg->file);
    }
    /* One that stands at the segment's end leads to the next segment, or, when that has been lost,
     * nowhere: then the log is asked. */
    for (uint32_t c = 0; c < SMM_CURSORS; c++) {
        if (part->cursors[c].serial == seg->serial && part->cursors[c].offset == offset &&
            part->cursors[c].pos < seg->size) {
            view->cursor_hit = true;
            view->cursor_pos = part->cursors[c].pos;
        }
    }
    return STI_OK;
}

static int view_open(struct sti_storage_partition *part, int64_t offset, bool nowait,
                     struct view *view, struct sti_err *err)
{
    for (int attempt = 0;; attempt++) {
        STI_CRASH_POINT("read.before_view");
        pthread_mutex_lock(&part->mu);
        int rc = take_view(part, offset, nowait, view, err);
        pthread_mutex_unlock(&part->mu);
        if (rc != STI_OK) {
            return rc;
        }
        if (view->file != NULL) {
            atomic_store_explicit(&view->file->used_us, sti_now_us(part->store->host),
                                  memory_order_relaxed);
            return STI_OK;
        }
        if (nowait) {
            return STI_E_WOULD_BLOCK;
        }
        rc = smm_file_acquire(part, view->base_offset, view->serial, &view->file, err);
        if (rc != STI_E_NOT_FOUND || attempt == RETRIES) {
            return rc == STI_E_NOT_FOUND ? STI_E_OFFSET_OUT_OF_RANGE : rc;
        }
    }
}

/* If a damaged stretch begins at `pos`, or `pos` lies in one, the position behind it; also says in
 * *clip where the next one begins. */
static uint32_t skip_damage(struct sti_storage_partition *part, const struct view *view,
                            uint32_t pos, uint32_t *clip)
{
    *clip = view->size;
    if (!part->damaged) {
        return pos;
    }
    pthread_mutex_lock(&part->mu);
    for (uint32_t i = 0; i < part->damage_count; i++) {
        const struct smm_damage *d = &part->damage[i];
        if (d->base_offset == view->base_offset && pos >= d->from_pos && pos < d->to_pos) {
            pos = d->to_pos;
        }
    }
    for (uint32_t i = 0; i < part->damage_count; i++) {
        const struct smm_damage *d = &part->damage[i];
        if (d->base_offset == view->base_offset && d->from_pos >= pos && d->from_pos < *clip) {
            *clip = d->from_pos;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return pos;
}

/* ---- index --------------------------------------------------------------------------------- */

/* The floor of `key` among the entries that wait, then those in the file.
 * @return STI_OK with *pos (0: nothing found), STI_E_WOULD_BLOCK */
static int view_floor(struct sti_storage_partition *part, struct view *view, uint32_t key,
                      bool by_pos, uint32_t *rel_offset, uint32_t *pos)
{
    *rel_offset = *pos = 0;
    if (view->active) {
        pthread_mutex_lock(&part->mu);
        bool same = smm_segment_active(part)->serial == view->serial;
        bool found = same && smm_index_floor_pending(&part->index, key, by_pos, rel_offset, pos);
        view->index_count = same ? part->index.flushed : view->index_count;
        pthread_mutex_unlock(&part->mu);
        if (found) {
            return STI_OK;
        }
    } else if (view->index_count == SMM_INDEX_UNKNOWN) {
        if (view->nowait) {
            return STI_E_WOULD_BLOCK;
        }
        (void)smm_index_check(part, view->base_offset, view->serial, view->file, view->size, false,
                              &view->index_count, NULL);
    }
    if (view->index_count == 0 || view->file->index_fd < 0) {
        return STI_OK;
    }
    int rc = smm_index_floor(view->file->index_fd, view->index_count, key, by_pos, view->nowait,
                             rel_offset, pos);
    if (rc == STI_E_IO) {
        *rel_offset = *pos = 0;
    }
    return rc == STI_E_WOULD_BLOCK ? rc : STI_OK;
}

/* Does an entry point to a batch with the last offset that it tells? */
static int entry_holds(struct smm_walk *walk, const struct view *view, uint32_t rel_offset,
                       uint32_t pos, bool *holds)
{
    struct sti_batch_header header;
    int rc = smm_walk_header(walk, pos, &header, NULL);
    *holds =
        rc == STI_OK && sti_batch_last_offset(&header) == view->base_offset + (int64_t)rel_offset;
    return rc == STI_E_WOULD_BLOCK ? rc : STI_OK;
}

/* ---- where a read begins ------------------------------------------------------------------- */

static int index_start(struct sti_storage_partition *part, struct view *view, struct smm_walk *walk,
                       int64_t offset, uint32_t *pos)
{
    bool holds = true;
    uint32_t rel;
    uint32_t key = (uint32_t)(offset - view->base_offset);
    int rc = view_floor(part, view, key, false, &rel, pos);
    if (rc == STI_OK && *pos > 0) {
        rc = entry_holds(walk, view, rel, *pos, &holds);
    }
    if (rc != STI_OK || holds) {
        return rc;
    }
    *pos = 0;
    if (view->active || view->nowait) {
        return STI_OK;
    }
    (void)smm_index_check(part, view->base_offset, view->serial, view->file, view->size, true,
                          &view->index_count, NULL);
    rc = view_floor(part, view, key, false, &rel, pos);
    if (rc == STI_OK && *pos > 0) {
        rc = entry_holds(walk, view, rel, *pos, &holds);
        *pos = holds ? *pos : 0;
    }
    return rc;
}

/* ---- steps from batch to batch ------------------------------------------------------------- */

enum { AROUND_BUF = 64 * 1024 };

/* A way along the headers of a segment. */
struct steps {
    struct smm_walk walk;
    uint32_t pos;     /* of the batch that comes */
    uint32_t prev;    /* of the one before, or pos */
    int64_t expected; /* base offset of the batch that comes, -1: not known */
    int64_t prev_base;
};

static void steps_init(struct steps *s, const struct view *view, uint32_t pos, uint64_t limit)
{
    smm_walk_init(&s->walk, view->file->log_fd, limit, view->nowait);
    s->pos = s->prev = pos;
    s->expected = pos == 0 ? view->base_offset : -1;
}

static void steps_over(struct steps *s, const struct sti_batch_header *header)
{
    s->prev = s->pos;
    s->prev_base = header->base_offset;
    s->pos += (uint32_t)header->total_len;
    s->expected = sti_batch_last_offset(header) + 1;
}

static int view_pread(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    const struct view *view = ctx;
    return smm_pread(view->file->log_fd, buf, len, pos, view->nowait, got);
}

/* Does the next batch begin where this one ends, or the segment end there? */
static bool stands(struct sti_log_walk *walk, const struct view *view, uint64_t pos,
                   const struct sti_batch_header *header)
{
    struct sti_batch_header next;
    int64_t after = sti_batch_last_offset(header) + 1;
    int rc = sti_log_walk_header(walk, pos + header->total_len, &next, NULL);
    return rc == STI_E_END ? after == view->end_offset : rc == STI_OK && next.base_offset == after;
}

/* The next batch from `*pos` on whose checksum and neighbours hold and that may follow `floor`.
 * @return STI_OK; STI_E_NOT_FOUND; STI_E_WOULD_BLOCK; STI_E_IO; STI_E_NO_MEMORY */
static int find_standing(struct view *view, int64_t floor, uint32_t *pos,
                         struct sti_batch_header *header, struct sti_err *err)
{
    struct sti_log_walk walk;
    uint8_t *buf = malloc(AROUND_BUF);
    uint64_t at = *pos, found = 0;
    int rc;
    if (buf == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    sti_log_walk_init(&walk, view_pread, view, buf, AROUND_BUF, view->size);
    do {
        rc = sti_log_walk_find(&walk, at, floor, &found, header, err);
        at = found + 1;
    } while (rc == STI_OK && !stands(&walk, view, found, header));
    *pos = (uint32_t)found;
    free(buf);
    return rc;
}

/* Does the checksum of the batch at `pos` hold? @return STI_OK, STI_E_DATA_LOSS, ... */
static int prove_at(struct view *view, uint32_t pos, struct sti_err *err)
{
    struct sti_log_walk walk;
    struct sti_batch_header header;
    uint8_t *buf = malloc(AROUND_BUF);
    if (buf == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    sti_log_walk_init(&walk, view_pread, view, buf, AROUND_BUF, view->size);
    int rc = sti_log_walk_prove(&walk, pos, &header, err);
    free(buf);
    return rc;
}

static int say_damage(const struct sti_storage_partition *part, const struct view *view,
                      int64_t from, int64_t to, uint32_t pos, struct sti_err *err)
{
    return sti_err_set(err, STI_E_DATA_LOSS,
                       "%s: offsets %" PRId64 " to %" PRId64 " are damaged (segment %020" PRId64
                       ", position %" PRIu32 ")",
                       part->name, from, to - 1, view->base_offset, pos);
}

/* A batch that does not hold. */
struct spoilt {
    uint32_t pos;
    int64_t from; /* its first offset */
};

/* The bytes at s->pos are no batch that belongs there: they are bad, or length or last offset of
 * the one before has led astray. Which? @return STI_OK, or why that cannot be told */
static int spoilt_at(struct view *view, const struct steps *s, struct spoilt *out,
                     struct sti_err *err)
{
    *out =
        (struct spoilt){.pos = s->pos, .from = s->expected >= 0 ? s->expected : view->base_offset};
    if (s->prev < s->pos) {
        int rc = prove_at(view, s->prev, err);
        if (rc == STI_E_DATA_LOSS) {
            *out = (struct spoilt){.pos = s->prev, .from = s->prev_base};
        } else if (rc != STI_OK) {
            return rc;
        }
    }
    return STI_OK;
}

/* Go on behind a batch that does not hold. @return STI_OK with the next that does;
 * STI_E_DATA_LOSS: `offset` lies before it; ... */
static int go_around(struct sti_storage_partition *part, struct view *view, struct steps *s,
                     const struct spoilt *spoilt, int64_t offset, struct sti_batch_header *header,
                     struct sti_err *err)
{
    uint32_t pos = spoilt->pos + 1;
    int rc = find_standing(view, spoilt->from, &pos, header, err);
    if (rc == STI_E_NOT_FOUND) {
        return say_damage(part, view, spoilt->from, view->end_offset, spoilt->pos, err);
    }
    if (rc == STI_OK && offset < header->base_offset) {
        return say_damage(part, view, spoilt->from, header->base_offset, spoilt->pos, err);
    }
    if (rc == STI_OK) {
        s->pos = s->prev = pos;
        s->expected = header->base_offset;
    }
    return rc;
}

/* The batch that comes: its header, with the damage before it stepped over.
 * @param offset  what is sought: DATA_LOSS when it lies in that damage
 * @return STI_OK; STI_E_END; STI_E_WOULD_BLOCK; STI_E_DATA_LOSS; STI_E_IO; STI_E_NO_MEMORY */
static int steps_next(struct sti_storage_partition *part, struct view *view, struct steps *s,
                      int64_t offset, struct sti_batch_header *header, struct sti_err *err)
{
    uint32_t clip, at = skip_damage(part, view, s->pos, &clip);
    if (at != s->pos) { /* recovery knows it, and has proved what lies behind */
        s->pos = s->prev = at;
        s->expected = -1;
    }
    int rc = smm_walk_header(&s->walk, s->pos, header, err);
    bool lies = rc == STI_OK && s->expected >= 0 && header->base_offset != s->expected;
    if (rc != STI_E_DATA_LOSS && !lies) {
        return rc;
    }
    struct spoilt spoilt;
    rc = spoilt_at(view, s, &spoilt, err);
    if (rc != STI_OK) {
        return rc;
    }
    smm_doubt(part, view->base_offset, view->serial, spoilt.pos);
    s->pos = s->prev = spoilt.pos;
    return go_around(part, view, s, &spoilt, offset, header, err);
}

/* The batch at s->pos says that it holds `offset`, behind its first one. Its last offset is under
 * the checksum, which nobody has looked at: does the next batch bear it out, or the checksum?
 * @return as steps_next, with the batch that does hold the offset or lies before it */
static int steps_holds(struct sti_storage_partition *part, struct view *view, struct steps *s,
                       int64_t offset, struct sti_batch_header *header, struct sti_err *err)
{
    if (header->base_offset == offset || stands(&s->walk.log, view, s->pos, header)) {
        return STI_OK;
    }
    int rc = prove_at(view, s->pos, err);
    if (rc != STI_E_DATA_LOSS) {
        return rc;
    }
    smm_doubt(part, view->base_offset, view->serial, s->pos);
    struct spoilt spoilt = {.pos = s->pos, .from = header->base_offset};
    return go_around(part, view, s, &spoilt, offset, header, err);
}

/* Find the batch that contains `offset`, which the view's segment covers.
 * @return STI_OK, STI_E_WOULD_BLOCK, STI_E_DATA_LOSS, STI_E_IO, STI_E_NO_MEMORY */
static int view_locate(struct sti_storage_partition *part, struct view *view, int64_t offset,
                       uint32_t *pos, struct sti_batch_header *header, struct sti_err *err)
{
    struct steps s;
    steps_init(&s, view, 0, view->size);
    *pos = 0;
    int rc = STI_OK;
    if (offset > view->base_offset) {
        rc = index_start(part, view, &s.walk, offset, pos);
        s.pos = s.prev = *pos;
        s.expected = *pos == 0 ? view->base_offset : -1;
    }
    while (rc == STI_OK) {
        rc = steps_next(part, view, &s, offset, header, err);
        if (rc == STI_OK && sti_batch_last_offset(header) >= offset) {
            rc = steps_holds(part, view, &s, offset, header, err);
        }
        if (rc != STI_OK || sti_batch_last_offset(header) >= offset) {
            break;
        }
        steps_over(&s, header);
    }
    *pos = s.pos;
    if (rc == STI_E_END || (rc == STI_OK && header->base_offset > offset)) {
        smm_doubt(part, view->base_offset, view->serial, s.pos);
        rc = say_damage(part, view, s.expected >= 0 && s.expected <= offset ? s.expected : offset,
                        rc == STI_OK ? header->base_offset : view->end_offset, s.pos, err);
    }
    return rc;
}

/* ---- where it ends ------------------------------------------------------------------------- */

struct extent {
    uint32_t from, to;
    int64_t base_offset; /* of the batch at `from` */
    int64_t next_offset; /* behind its last batch */
    bool checked;        /* the header at `from` was looked at */
};

/* Jump from `from` to a batch that surely begins within both bounds, by the index. */
static int jump(struct sti_storage_partition *part, struct view *view, struct smm_walk *walk,
                uint32_t limit, int64_t end_offset, uint32_t *pos)
{
    uint32_t rel, at;
    int rc = view_floor(part, view, limit, true, &rel, &at);
    if (rc == STI_OK && at > *pos && view->base_offset + (int64_t)rel >= end_offset) {
        rc = view_floor(part, view, (uint32_t)(end_offset - 1 - view->base_offset), false, &rel,
                        &at);
    }
    if (rc == STI_OK && at > *pos) {
        bool holds;
        rc = entry_holds(walk, view, rel, at, &holds);
        *pos = rc == STI_OK && holds ? at : *pos;
    }
    return rc;
}

/* The way ends at bytes that are no batch that belongs there: end the extent before the bad one. */
static int extent_spoilt(struct sti_storage_partition *part, struct view *view, struct steps *s,
                         struct extent *extent, struct sti_err *err)
{
    struct sti_batch_header header;
    struct spoilt spoilt;
    int rc = spoilt_at(view, s, &spoilt, err);
    if (rc != STI_OK) {
        return rc;
    }
    smm_doubt(part, view->base_offset, view->serial, spoilt.pos);
    extent->to = spoilt.pos;
    extent->next_offset = spoilt.from;
    return spoilt.pos > extent->from
               ? STI_OK /* what lies before is good; the next read says what is not */
               : go_around(part, view, s, &spoilt, spoilt.from, &header, err);
}

/* How far whole batches reach from extent->from within `max_bytes` and below `end_offset`.
 * @param first_whole  the first batch counts even if it is larger
 * @return STI_OK (extent->to == from: nothing fits), STI_E_WOULD_BLOCK, STI_E_DATA_LOSS, STI_E_IO,
 * STI_E_NO_MEMORY */
static int view_extent(struct sti_storage_partition *part, struct view *view, int64_t end_offset,
                       uint64_t max_bytes, bool first_whole, struct extent *extent,
                       struct sti_err *err)
{
    uint32_t clip;
    struct steps s;
    struct sti_batch_header header;
    (void)skip_damage(part, view, extent->from, &clip);
    uint64_t room = clip - extent->from;
    bool all = room <= max_bytes && end_offset >= view->end_offset && clip == view->size;
    uint32_t limit = room < max_bytes ? clip : extent->from + (uint32_t)max_bytes;
    extent->to = extent->from;
    steps_init(&s, view, extent->from, clip);
    s.expected = extent->base_offset;
    int rc = STI_OK;
    if (all && extent->checked) {
        extent->to = view->size;
        extent->next_offset = view->end_offset;
        return STI_OK;
    }
    if (!all && extent->checked) {
        rc = jump(part, view, &s.walk, limit, end_offset, &s.pos);
        s.expected = s.pos > extent->from ? -1 : s.expected;
        s.prev = s.pos;
    }
    while (rc == STI_OK) {
        rc = smm_walk_header(&s.walk, s.pos, &header, err);
        if (rc == STI_E_DATA_LOSS ||
            (rc == STI_OK && s.expected >= 0 && header.base_offset != s.expected)) {
            return extent_spoilt(part, view, &s, extent, err);
        }
        if (rc == STI_OK && all) { /* a cursor stands where it should */
            extent->to = view->size;
            extent->next_offset = view->end_offset;
            return STI_OK;
        }
        if (rc == STI_OK && s.pos > extent->from) {
            extent->next_offset = header.base_offset;
        }
        if (rc != STI_OK || header.base_offset >= end_offset ||
            (s.pos + header.total_len > limit && !(first_whole && s.pos == extent->from))) {
            break;
        }
        steps_over(&s, &header);
        extent->next_offset = s.expected;
    }
    extent->to = s.pos;
    return rc == STI_E_END ? STI_OK : rc;
}

/* ---- slices -------------------------------------------------------------------------------- */

/* Would sendfile find these bytes in memory? Asks at steps: read-ahead brings more than one page.
 */
static int probe(struct smm_file *file, uint64_t from, uint64_t to)
{
    for (uint64_t pos = from; pos < to;) {
        uint8_t byte;
        size_t got;
        if (smm_pread(file->log_fd, &byte, 1, pos, true, &got) != 0 || got != 1) {
            return STI_E_WOULD_BLOCK;
        }
        pos = pos + PROBE_STEP < to || pos == to - 1 ? pos + PROBE_STEP : to - 1;
    }
    return STI_OK;
}

/* Make a slice that takes over the view's reference. */
static int view_slice(struct view *view, const struct extent *extent, uint32_t flags,
                      struct sti_slice *out, struct sti_err *err)
{
    const uint8_t *data = NULL;
    uint64_t len = extent->to - extent->from;
    int rc = STI_OK;
    if ((flags & STI_READ_MEMORY) != 0) {
        rc = smm_file_memory(view->file, extent->from, len, view->nowait, &data, err);
    } else if (view->nowait) {
        rc = probe(view->file, extent->from, extent->to);
    }
    if (rc == STI_OK) {
        *out = (struct sti_slice){.data = data,
                                  .len = len,
                                  .owner = &view->file->owner,
                                  .file_pos = extent->from,
                                  .fd = view->file->log_fd};
        view->file = NULL;
    }
    return rc;
}

static void leave_cursor(struct sti_storage_partition *part, const struct view *view,
                         int64_t offset, const struct extent *extent)
{
    pthread_mutex_lock(&part->mu);
    struct smm_cursor *cursor = NULL;
    for (uint32_t i = 0; i < SMM_CURSORS; i++) {
        if (part->cursors[i].serial == view->serial && part->cursors[i].offset == offset) {
            cursor = &part->cursors[i];
        }
    }
    if (cursor == NULL) {
        cursor = &part->cursors[part->cursor_next++ % SMM_CURSORS];
    }
    *cursor = (struct smm_cursor){
        .offset = extent->next_offset, .serial = view->serial, .pos = extent->to};
    pthread_mutex_unlock(&part->mu);
}

/* One slice from `*offset` on. Advances *offset; *offset unchanged means that nothing more fits. */
static int read_one(struct sti_storage_partition *part, struct sti_storage_read *op, int64_t end,
                    int64_t *offset, struct sti_err *err)
{
    struct view view;
    struct extent extent = {.next_offset = *offset};
    struct sti_batch_header header;
    bool first = op->slice_count == 0;
    int rc = view_open(part, *offset, (op->flags & STI_READ_NO_WAIT) != 0, &view, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (view.at_end) { /* a truncation was faster than this read */
        smm_file_unref(view.file);
        return STI_OK;
    }
    if (view.cursor_hit) {
        extent.from = view.cursor_pos;
        extent.base_offset = *offset;
    } else {
        rc = view_locate(part, &view, *offset, &extent.from, &header, err);
        extent.base_offset = rc == STI_OK ? header.base_offset : -1;
        extent.checked = true;
    }
    if (rc == STI_OK) {
        rc = view_extent(part, &view, end, op->max_bytes - op->bytes, first, &extent, err);
    }
    if (rc == STI_OK && extent.to == extent.from && view.cursor_hit && first) {
        /* The cursor stands before bad bytes that hold no offset: what is wanted lies behind. */
        rc = view_locate(part, &view, *offset, &extent.from, &header, err);
        if (rc == STI_OK) {
            extent.base_offset = header.base_offset;
            extent.checked = true;
            rc = view_extent(part, &view, end, op->max_bytes - op->bytes, first, &extent, err);
        }
    }
    if (rc == STI_OK && extent.to > extent.from) {
        int64_t from_offset = *offset;
        struct view copy = view;
        rc = view_slice(&view, &extent, op->flags, &op->slices[op->slice_count], err);
        if (rc == STI_OK) {
            op->slice_count++;
            op->bytes += extent.to - extent.from;
            *offset = extent.next_offset;
            leave_cursor(part, &copy, from_offset, &extent);
        }
    }
    smm_file_unref(view.file);
    return rc;
}

/* The whole read happens on the caller's thread. A status that carries a sentence goes through
 * `done`; STI_E_WOULD_BLOCK, which is no failure, is returned. */
int smm_read(struct sti_storage_partition *part, struct sti_storage_read *op)
{
    struct sti_err err = {0};
    int64_t offset = op->offset;
    uint64_t copied = smm_pread_total();
    int rc = STI_OK;
    op->slice_count = 0;
    op->bytes = 0;
    pthread_mutex_lock(&part->mu);
    int64_t end = op->end_offset < part->written_end ? op->end_offset : part->written_end;
    if (offset < part->log_start || offset > part->written_end) {
        rc = sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE,
                         "%s: offset %" PRId64 " lies outside %" PRId64 "..%" PRId64, part->name,
                         offset, part->log_start, part->written_end);
    }
    pthread_mutex_unlock(&part->mu);
    while (rc == STI_OK && offset < end && op->slice_count < op->slice_max &&
           (op->bytes < op->max_bytes || op->slice_count == 0)) {
        int64_t before = offset;
        rc = read_one(part, op, end, &offset, &err);
        if (offset == before) {
            break;
        }
    }
    if (op->slice_count > 0) {
        rc = STI_OK; /* what comes behind it is the next read's */
    }
    sti_metric_add(part->store->metrics.read_bytes, smm_pread_total() - copied);
    if (rc == STI_E_WOULD_BLOCK) {
        return rc;
    }
    sti_metric_add(part->store->metrics.slice_bytes, op->bytes);
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    return STI_OK;
}

/* ---- lookup by time ------------------------------------------------------------------------ */

/* First batch of the view's segment, from `*from` on, with a timestamp at or after `timestamp`. */
static int scan_time(struct sti_storage_partition *part, struct view *view, int64_t timestamp,
                     int64_t log_start, struct sti_batch_header *header, struct sti_err *err)
{
    struct sti_time_entry floor;
    uint32_t pos = 0;
    struct steps s;
    if (smm_time_floor(part, view->base_offset, timestamp, &floor) == STI_OK &&
        view->base_offset + floor.rel_offset < view->end_offset &&
        view_locate(part, view, view->base_offset + floor.rel_offset, &pos, header, NULL) ==
            STI_OK) {
        /* The entry must be that of the batch that has its timestamp. */
        bool holds =
            sti_batch_last_offset(header) == view->base_offset + (int64_t)floor.rel_offset &&
            header->max_timestamp == floor.timestamp;
        pos = holds ? pos : 0;
    } else {
        pos = 0;
    }
    steps_init(&s, view, pos, view->size);
    for (;;) {
        int rc = steps_next(part, view, &s, INT64_MAX, header, err);
        if (rc != STI_OK) {
            /* Behind damage to the end of the segment nothing of it can be found. */
            return rc == STI_E_END || rc == STI_E_DATA_LOSS ? STI_E_NOT_FOUND : rc;
        }
        if (header->max_timestamp >= timestamp && sti_batch_last_offset(header) >= log_start) {
            return STI_OK;
        }
        steps_over(&s, header);
    }
}

/* Is the last entry of a closed segment's time index what the log says? The batch that it names
 * must bear the timestamp, and the segment's last batch must be no newer: an index that a loss of
 * power has emptied, garbled or cut short does not pass. */
static bool newest_holds(struct sti_storage_partition *part, struct view *view, int64_t timestamp,
                         int64_t offset)
{
    struct sti_batch_header header = {0};
    uint32_t pos;
    view->cursor_hit = false;
    return offset >= view->base_offset && offset < view->end_offset &&
           view_locate(part, view, offset, &pos, &header, NULL) == STI_OK &&
           sti_batch_last_offset(&header) == offset && header.max_timestamp == timestamp &&
           view_locate(part, view, view->end_offset - 1, &pos, &header, NULL) == STI_OK &&
           header.max_timestamp <= timestamp;
}

/* The newest timestamp of a closed segment. What hangs on it is whether the segment is deleted, so
 * the time index is believed only where the log confirms it, and made anew from the log once where
 * it does not.
 * @return STI_OK, STI_E_NOT_FOUND: not known. No lock is held */
int smm_time_newest(struct sti_storage_partition *part, int64_t base_offset, int64_t *timestamp)
{
    struct view view;
    int64_t offset = -1;
    pthread_mutex_lock(&part->mu);
    int64_t at = base_offset < part->log_start ? part->log_start : base_offset;
    pthread_mutex_unlock(&part->mu);
    *timestamp = -1;
    if (view_open(part, at, false, &view, NULL) != STI_OK) {
        return STI_E_NOT_FOUND;
    }
    bool ok = false;
    for (int attempt = 0; !ok && attempt < 2 && view.base_offset == base_offset; attempt++) {
        if (attempt > 0) {
            (void)smm_index_check(part, base_offset, view.serial, view.file, view.size, true,
                                  &view.index_count, NULL);
        }
        ok = smm_time_last(part, base_offset, timestamp, &offset) == STI_OK &&
             newest_holds(part, &view, *timestamp, offset);
    }
    smm_file_unref(view.file);
    *timestamp = ok ? *timestamp : -1;
    return ok ? STI_OK : STI_E_NOT_FOUND;
}

struct candidate {
    int64_t base_offset, log_start, newest;
    uint64_t serial;
    bool known; /* `newest` is the newest timestamp of the segment */
};

/* The first segment that begins behind `after`, by offset: a trim meanwhile moves subscripts.
 * @return false: there is none */
static bool next_segment(struct sti_storage_partition *part, int64_t after, struct candidate *out)
{
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, after);
    i += part->segs[i]->base_offset <= after ? 1 : 0;
    bool found = i < part->seg_count && part->written_end > part->log_start;
    if (found) {
        const struct smm_segment *seg = part->segs[i];
        bool active = i + 1 == part->seg_count;
        *out = (struct candidate){.base_offset = seg->base_offset,
                                  .log_start = part->log_start,
                                  .newest = active ? part->index.max_timestamp : seg->max_timestamp,
                                  .serial = seg->serial,
                                  .known = active || seg->timestamp_known};
    }
    pthread_mutex_unlock(&part->mu);
    return found;
}

/* May the segment hold a timestamp at or after `timestamp`? */
static bool may_hold(struct sti_storage_partition *part, struct candidate *seg, int64_t timestamp)
{
    if (!seg->known && smm_time_newest(part, seg->base_offset, &seg->newest) == STI_OK) {
        pthread_mutex_lock(&part->mu);
        uint32_t now = smm_segment_find(part, seg->base_offset);
        if (part->segs[now]->serial == seg->serial) {
            part->segs[now]->max_timestamp = seg->newest;
            part->segs[now]->timestamp_known = true;
        }
        pthread_mutex_unlock(&part->mu);
        seg->known = true;
    }
    return !seg->known || seg->newest >= timestamp;
}

int smm_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms, int64_t *offset,
                        int64_t *found_ms, struct sti_err *err)
{
    struct candidate seg;
    *offset = *found_ms = -1;
    for (int64_t after = -1; next_segment(part, after, &seg); after = seg.base_offset) {
        if (!may_hold(part, &seg, timestamp_ms)) {
            continue;
        }
        struct view view;
        struct sti_batch_header header;
        int64_t at = seg.base_offset < seg.log_start ? seg.log_start : seg.base_offset;
        int rc = view_open(part, at, false, &view, err);
        if (rc == STI_OK && view.size > 0) {
            rc = scan_time(part, &view, timestamp_ms, seg.log_start, &header, err);
        } else {
            rc = rc == STI_OK ? STI_E_NOT_FOUND : rc;
        }
        smm_file_unref(view.file);
        if (rc == STI_OK) {
            *offset = header.base_offset < seg.log_start ? seg.log_start : header.base_offset;
            *found_ms = header.max_timestamp;
            return STI_OK;
        }
        if (rc != STI_E_NOT_FOUND && rc != STI_E_OFFSET_OUT_OF_RANGE) {
            return rc;
        }
    }
    return sti_err_set(err, STI_E_NOT_FOUND, "%s: all batches are older than %" PRId64, part->name,
                       timestamp_ms);
}
