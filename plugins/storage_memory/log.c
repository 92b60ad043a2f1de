/* log.c -- append, read, trim, truncate over chunks.
 *
 * Batches are copied into the active chunk, or into new ones where it is full, before anything is
 * published: a refusal in the middle leaves the log as it was. Only the writer copies, without the
 * lock; readers see sizes and places that were published under it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage_memory.h"

enum { CHUNK_MIN = 4096, CHUNK_FIRST = 65536, CHUNK_MAX = 1 << 20 };

static struct sme_chunk *active_of(const struct sti_storage_partition *part)
{
    return part->chunks[part->chunk_count - 1];
}

/* ---- append -------------------------------------------------------------------------------- */

static int check_op(const struct sti_storage_partition *part, const struct sti_storage_append *op,
                    struct sti_err *err)
{
    int64_t next = part->written_end;
    for (uint32_t i = 0; i < op->batch_count; i++) {
        const struct sti_append_batch *batch = op->batches[i];
        if (batch->len > INT32_MAX) {
            return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                               "%s-%" PRId32 ": a batch of %" PRIu64 " bytes fits no segment",
                               part->topic, part->partition, batch->len);
        }
        if (batch->base_offset != next || batch->last_offset < batch->base_offset ||
            batch->len < STI_BATCH_HEADER_LEN ||
            sti_slices_len(batch->slices, batch->slice_count) + STI_BATCH_PATCH_LEN != batch->len) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "%s-%" PRId32 ": the batch at offset %" PRId64
                               " does not follow the log's end %" PRId64,
                               part->topic, part->partition, batch->base_offset, next);
        }
        next = batch->last_offset + 1;
    }
    return STI_OK;
}

/* A chunk for a segment that begins with a batch of `len` bytes: larger as the partition grows, so
 * that small ones cost little. */
static uint32_t chunk_capacity(const struct sti_storage_partition *part, uint64_t len)
{
    int64_t limit =
        part->settings.segment_bytes < CHUNK_MAX ? part->settings.segment_bytes : CHUNK_MAX;
    int64_t want = part->bytes < CHUNK_FIRST ? CHUNK_FIRST : (int64_t)part->bytes;
    want = want < limit ? want : limit;
    return (int64_t)len > want ? (uint32_t)len : (uint32_t)want;
}

static void copy_batch(uint8_t *out, const struct sti_append_batch *batch)
{
    memcpy(out, batch->head, STI_BATCH_PATCH_LEN);
    out += STI_BATCH_PATCH_LEN;
    for (uint32_t i = 0; i < batch->slice_count; i++) {
        if (batch->slices[i].len > 0) {
            memcpy(out, batch->slices[i].data, (size_t)batch->slices[i].len);
            out += batch->slices[i].len;
        }
    }
}

static bool is_aged(const struct sti_storage_partition *part, const struct sme_chunk *chunk)
{
    return part->settings.segment_ms > 0 && chunk->size > 0 &&
           sti_now_ms(part->store->host) - chunk->first_ms >= part->settings.segment_ms;
}

/* Chunks that an append has made, in order, and how far it has filled each: index 0 is the one that
 * was active before. */
struct fill {
    struct sme_chunk **chunks;
    uint32_t *first; /* first batch of the op in it */
    uint32_t count;
};

static int add_chunk(struct sti_storage_partition *part, struct fill *fill, uint32_t batch,
                     const struct sti_append_batch *first, struct sti_err *err)
{
    bool over;
    struct sme_chunk *chunk =
        sme_chunk_new(part->store, first->base_offset, chunk_capacity(part, first->len), &over);
    if (chunk == NULL) {
        if (over) {
            sti_metric_add(part->store->refused_metric, 1);
        }
        return over
                   ? sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                                 "%s-%" PRId32 ": bytes_max = %" PRId64 " of storage %s is reached",
                                 part->topic, part->partition, part->store->conf->bytes_max,
                                 part->store->host->instance)
                   : sti_err_set(err, STI_E_NO_MEMORY, "%s-%" PRId32 ": out of memory", part->topic,
                                 part->partition);
    }
    fill->chunks[fill->count] = chunk;
    fill->first[fill->count++] = batch;
    return STI_OK;
}

/* Copy all batches to where they will be. Nothing is published. */
static int fill_chunks(struct sti_storage_partition *part, const struct sti_storage_append *op,
                       struct fill *fill, struct sti_err *err)
{
    struct sme_chunk *chunk = active_of(part);
    fill->chunks[0] = chunk;
    fill->first[0] = 0;
    fill->count = 1;
    bool full = is_aged(part, chunk);
    uint64_t used = chunk->size;
    for (uint32_t i = 0; i < op->batch_count; i++) {
        const struct sti_append_batch *batch = op->batches[i];
        uint64_t limit = (uint64_t)part->settings.segment_bytes < chunk->capacity
                             ? (uint64_t)part->settings.segment_bytes
                             : chunk->capacity;
        limit = used == 0 ? chunk->capacity : limit;
        if (full || used + batch->len > limit) {
            int rc = add_chunk(part, fill, i, batch, err);
            if (rc != STI_OK) {
                return rc;
            }
            chunk = fill->chunks[fill->count - 1];
            used = 0;
            full = false;
        }
        copy_batch(chunk->data + used, batch);
        used += batch->len;
    }
    return STI_OK;
}

/* Room for all places beforehand, so that publishing cannot fail. */
static bool reserve(struct sti_storage_partition *part, const struct sti_storage_append *op,
                    const struct fill *fill)
{
    bool ok = sme_list_room(part, fill->count - 1);
    for (uint32_t c = 0; c < fill->count && ok; c++) {
        uint32_t end = c + 1 < fill->count ? fill->first[c + 1] : op->batch_count;
        ok = sme_chunk_room(fill->chunks[c], end - fill->first[c]);
    }
    return ok;
}

/* @locks part->mu held */
static void publish(struct sti_storage_partition *part, const struct sti_storage_append *op,
                    const struct fill *fill)
{
    for (uint32_t c = 0; c < fill->count; c++) {
        struct sme_chunk *chunk = fill->chunks[c];
        uint32_t end = c + 1 < fill->count ? fill->first[c + 1] : op->batch_count;
        if (c > 0 && active_of(part)->size == 0 && part->chunk_count > 0) {
            /* The active chunk was empty and too small: the new one takes its place. */
            sme_chunk_unref(active_of(part));
            part->chunk_count--;
        }
        if (c > 0) {
            part->chunks[part->chunk_count++] = chunk;
        }
        for (uint32_t i = fill->first[c]; i < end; i++) {
            const struct sti_append_batch *batch = op->batches[i];
            if (chunk->size == 0) {
                chunk->first_ms = sti_now_ms(part->store->host);
            }
            chunk->batches[chunk->batch_count++] =
                (struct sme_batch){.base_offset = batch->base_offset,
                                   .last_offset = batch->last_offset,
                                   .max_timestamp = batch->max_timestamp,
                                   .pos = chunk->size,
                                   .len = (uint32_t)batch->len,
                                   .leader_epoch = batch->leader_epoch};
            chunk->size += (uint32_t)batch->len;
            chunk->max_timestamp = batch->max_timestamp > chunk->max_timestamp
                                       ? batch->max_timestamp
                                       : chunk->max_timestamp;
            part->bytes += batch->len;
            part->written_end = batch->last_offset + 1;
            part->last_epoch = batch->leader_epoch;
        }
    }
}

static int append_batches(struct sti_storage_partition *part, struct sti_storage_append *op,
                          struct sti_err *err)
{
    int rc = check_op(part, op, err);
    if (rc != STI_OK || op->batch_count == 0) {
        return rc;
    }
    struct fill fill = {.chunks = calloc(op->batch_count + 1, sizeof(*fill.chunks)),
                        .first = calloc(op->batch_count + 1, sizeof *fill.first)};
    bool memory = fill.chunks != NULL && fill.first != NULL;
    if (memory) {
        rc = fill_chunks(part, op, &fill, err);
    }
    if (memory && rc == STI_OK) {
        pthread_mutex_lock(&part->mu);
        memory = reserve(part, op, &fill);
        if (memory) {
            publish(part, op, &fill);
        }
        pthread_mutex_unlock(&part->mu);
    }
    if (!memory) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "%s-%" PRId32 ": out of memory", part->topic,
                         part->partition);
    }
    for (uint32_t c = 1; rc != STI_OK && c < fill.count; c++) {
        sme_chunk_unref(fill.chunks[c]);
    }
    free(fill.chunks);
    free(fill.first);
    return rc;
}

int sme_append(struct sti_storage_partition *part, struct sti_storage_append *op)
{
    struct sti_err err = {0};
    int rc = append_batches(part, op, &err);
    op->written_end = part->written_end;
    op->bytes_needed = 0;
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    return STI_OK;
}

/* ---- read ---------------------------------------------------------------------------------- */

/* One slice of whole batches from `*offset` on. @return false when nothing more fits.
 * @locks part->mu held */
static bool read_chunk(struct sti_storage_partition *part, struct sti_storage_read *op, int64_t end,
                       int64_t *offset)
{
    struct sme_chunk *chunk = part->chunks[sme_find(part, *offset)];
    uint32_t from = sme_chunk_find(chunk, *offset), to = from;
    uint64_t len = 0;
    while (to < chunk->batch_count && chunk->batches[to].base_offset < end) {
        uint64_t more = chunk->batches[to].len;
        bool first = op->slice_count == 0 && to == from;
        if (!first && op->bytes + len + more > op->max_bytes) {
            break;
        }
        len += more;
        to++;
    }
    if (to == from) {
        return false;
    }
    chunk->owner.ref(&chunk->owner);
    op->slices[op->slice_count++] =
        (struct sti_slice){.data = chunk->data + chunk->batches[from].pos,
                           .len = len,
                           .owner = &chunk->owner,
                           .fd = -1};
    op->bytes += len;
    *offset = chunk->batches[to - 1].last_offset + 1;
    return true;
}

int sme_read(struct sti_storage_partition *part, struct sti_storage_read *op)
{
    struct sti_err err = {0};
    int rc = STI_OK;
    int64_t offset = op->offset;
    op->slice_count = 0;
    op->bytes = 0;
    pthread_mutex_lock(&part->mu);
    int64_t end = op->end_offset < part->written_end ? op->end_offset : part->written_end;
    if (offset < part->log_start || offset > part->written_end) {
        rc = sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE,
                         "%s-%" PRId32 ": offset %" PRId64 " lies outside %" PRId64 "..%" PRId64,
                         part->topic, part->partition, offset, part->log_start, part->written_end);
    }
    while (rc == STI_OK && offset < end && op->slice_count < op->slice_max &&
           (op->bytes < op->max_bytes || op->slice_count == 0)) {
        if (!read_chunk(part, op, end, &offset)) {
            break;
        }
    }
    pthread_mutex_unlock(&part->mu);
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    return STI_OK;
}

int sme_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms, int64_t *offset,
                        int64_t *found_ms, struct sti_err *err)
{
    *offset = *found_ms = -1;
    pthread_mutex_lock(&part->mu);
    for (uint32_t c = 0; c < part->chunk_count && *offset < 0; c++) {
        const struct sme_chunk *chunk = part->chunks[c];
        if (chunk->max_timestamp < timestamp_ms) {
            continue;
        }
        for (uint32_t i = 0; i < chunk->batch_count && *offset < 0; i++) {
            const struct sme_batch *batch = &chunk->batches[i];
            if (batch->max_timestamp >= timestamp_ms && batch->last_offset >= part->log_start) {
                *offset =
                    batch->base_offset < part->log_start ? part->log_start : batch->base_offset;
                *found_ms = batch->max_timestamp;
            }
        }
    }
    pthread_mutex_unlock(&part->mu);
    return *offset >= 0 ? STI_OK
                        : sti_err_set(err, STI_E_NOT_FOUND,
                                      "%s-%" PRId32 ": all batches are older than %" PRId64,
                                      part->topic, part->partition, timestamp_ms);
}

/* ---- taking away --------------------------------------------------------------------------- */

int sme_oldest_segment(struct sti_storage_partition *part, int64_t *end_offset, uint64_t *bytes,
                       int64_t *max_timestamp)
{
    pthread_mutex_lock(&part->mu);
    bool several = part->chunk_count > 1;
    *end_offset = several ? part->chunks[1]->base_offset : -1;
    *bytes = several ? part->chunks[0]->size : 0;
    *max_timestamp = several ? part->chunks[0]->max_timestamp : -1;
    pthread_mutex_unlock(&part->mu);
    return several ? STI_OK : STI_E_NOT_FOUND;
}

int sme_trim(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err)
{
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    if (new_start > part->written_end) {
        rc = sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE,
                         "%s-%" PRId32 ": trim to %" PRId64 " passes the end %" PRId64, part->topic,
                         part->partition, new_start, part->written_end);
    } else if (new_start > part->log_start) {
        uint32_t gone = 0;
        part->log_start = new_start;
        while (gone + 1 < part->chunk_count && part->chunks[gone + 1]->base_offset <= new_start) {
            part->bytes -= part->chunks[gone]->size;
            sme_chunk_unref(part->chunks[gone++]);
        }
        memmove(part->chunks, part->chunks + gone,
                (part->chunk_count - gone) * sizeof(*part->chunks));
        part->chunk_count -= gone;
        bool over;
        struct sme_chunk *fresh = new_start == part->written_end && active_of(part)->size > 0
                                      ? sme_chunk_new(part->store, new_start, CHUNK_MIN, &over)
                                      : NULL;
        if (fresh != NULL) { /* the active one ends at the start, too */
            part->bytes -= active_of(part)->size;
            sme_chunk_unref(active_of(part));
            part->chunks[part->chunk_count - 1] = fresh;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}

/* A chunk with the batches below `offset` of another one. */
static struct sme_chunk *copy_prefix(struct sti_storage_partition *part,
                                     const struct sme_chunk *from, uint32_t batch_count, bool *over)
{
    uint32_t len = batch_count == 0
                       ? 0
                       : from->batches[batch_count - 1].pos + from->batches[batch_count - 1].len;
    struct sme_chunk *chunk =
        sme_chunk_new(part->store, from->base_offset, len < CHUNK_MIN ? CHUNK_MIN : len, over);
    if (chunk != NULL && !sme_chunk_room(chunk, batch_count)) {
        sme_chunk_unref(chunk);
        chunk = NULL;
    }
    if (chunk != NULL && batch_count > 0) {
        memcpy(chunk->data, from->data, len);
        memcpy(chunk->batches, from->batches, batch_count * sizeof *chunk->batches);
        chunk->first_ms = from->first_ms;
        chunk->size = len;
        chunk->batch_count = batch_count;
        for (uint32_t i = 0; i < batch_count; i++) {
            if (chunk->batches[i].max_timestamp > chunk->max_timestamp) {
                chunk->max_timestamp = chunk->batches[i].max_timestamp;
            }
        }
    }
    return chunk;
}

/* Readers may hold slices of the chunk that is cut, so what stays of it is copied. */
int sme_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err)
{
    if (offset >= part->written_end) {
        return STI_OK;
    }
    uint32_t first = sme_find(part, offset);
    struct sme_chunk *chunk = part->chunks[first];
    uint32_t batch = sme_chunk_find(chunk, offset);
    if (offset < chunk->base_offset) {
        return sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE,
                           "%s-%" PRId32 ": truncate to %" PRId64 ": the log begins later",
                           part->topic, part->partition, offset);
    }
    if (batch < chunk->batch_count && chunk->batches[batch].base_offset < offset) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "%s-%" PRId32 ": truncate to %" PRId64 ": not where a batch begins",
                           part->topic, part->partition, offset);
    }
    bool over;
    struct sme_chunk *fresh = copy_prefix(part, chunk, batch, &over);
    if (fresh == NULL) {
        return sti_err_set(err, over ? STI_E_RESOURCE_EXHAUSTED : STI_E_NO_MEMORY,
                           "%s-%" PRId32 ": truncate: %s", part->topic, part->partition,
                           over ? "bytes_max is reached" : "out of memory");
    }
    pthread_mutex_lock(&part->mu);
    for (uint32_t i = first; i < part->chunk_count; i++) {
        part->bytes -= part->chunks[i]->size;
        sme_chunk_unref(part->chunks[i]);
    }
    part->chunks[first] = fresh;
    part->chunk_count = first + 1;
    part->bytes += fresh->size;
    part->written_end = offset;
    part->log_start = part->log_start < offset ? part->log_start : offset;
    part->last_epoch = -1;
    for (uint32_t i = first + 1; i > 0 && part->last_epoch < 0; i--) {
        const struct sme_chunk *last = part->chunks[i - 1];
        if (last->batch_count > 0) {
            part->last_epoch = last->batches[last->batch_count - 1].leader_epoch;
        }
    }
    pthread_mutex_unlock(&part->mu);
    return STI_OK;
}
