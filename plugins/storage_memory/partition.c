/* partition.c -- the log grows and shrinks: chunks, append, truncate, trim.
 *
 * An append first makes room (the only step that can fail), then copies outside the lock, then
 * publishes all of its batches at once. Copying needs no lock because readers stop at what is
 * published. Truncation copies the prefix that stays into a new chunk: slices of the old one keep
 * reading what they were given.
 */
#include <stdlib.h>
#include <string.h>

#include "storage_memory.h"

static void chunk_free(struct sti_task *task)
{
    struct smem_chunk *chunk =
        (struct smem_chunk *)(void *)((char *)task - offsetof(struct smem_chunk, free_task));
    atomic_fetch_sub_explicit(&chunk->engine->bytes, chunk->capacity, memory_order_relaxed);
    free(chunk->entries);
    free(chunk->data);
    free(chunk);
}

static void chunk_ref(struct sti_slice_owner *owner)
{
    struct smem_chunk *chunk = (struct smem_chunk *)(void *)owner;
    atomic_fetch_add_explicit(&chunk->refs, 1, memory_order_relaxed);
}

/* The last reference may drop on a transport's thread: the executor frees. */
static void chunk_unref(struct sti_slice_owner *owner)
{
    struct smem_chunk *chunk = (struct smem_chunk *)(void *)owner;
    if (atomic_fetch_sub_explicit(&chunk->refs, 1, memory_order_acq_rel) == 1) {
        const struct sti_host *host = chunk->engine->host;
        host->post(host->ctx, &chunk->free_task);
    }
}

/* Reserve `capacity` bytes of the instance's bound. */
static int chunk_new(struct smem_engine *engine, uint64_t capacity, struct smem_chunk **out,
                     struct sti_err *err)
{
    uint64_t bytes_max = (uint64_t)engine->conf->bytes_max;
    uint64_t before = atomic_fetch_add_explicit(&engine->bytes, capacity, memory_order_relaxed);
    *out = NULL;
    if (before > bytes_max || capacity > bytes_max - before) {
        atomic_fetch_sub_explicit(&engine->bytes, capacity, memory_order_relaxed);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "%s: %llu bytes more would pass bytes_max = %llu (%llu in use)",
                           engine->host->instance, (unsigned long long)capacity,
                           (unsigned long long)bytes_max, (unsigned long long)before);
    }
    struct smem_chunk *chunk = calloc(1, sizeof *chunk);
    uint8_t *data = malloc(capacity);
    if (chunk == NULL || data == NULL) {
        free(chunk);
        free(data);
        atomic_fetch_sub_explicit(&engine->bytes, capacity, memory_order_relaxed);
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory for a chunk of %llu bytes",
                           engine->host->instance, (unsigned long long)capacity);
    }
    chunk->owner.ref = chunk_ref;
    chunk->owner.unref = chunk_unref;
    chunk->free_task.run = chunk_free;
    chunk->engine = engine;
    atomic_init(&chunk->refs, 1);
    chunk->capacity = capacity;
    chunk->data = data;
    chunk->max_timestamp = -1;
    chunk->created_ms = sti_now_ms(engine->host);
    *out = chunk;
    return STI_OK;
}

static int entries_reserve(struct smem_chunk *chunk, uint32_t more, struct sti_err *err)
{
    if (chunk->entry_capacity - chunk->entry_count >= more) {
        return STI_OK;
    }
    uint32_t capacity = chunk->entry_capacity * 2;
    if (capacity - chunk->entry_count < more || capacity < chunk->entry_capacity) {
        capacity = chunk->entry_count + more;
    }
    struct smem_entry *entries = realloc(chunk->entries, capacity * sizeof *entries);
    if (entries == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for %u batch entries", capacity);
    }
    chunk->entries = entries;
    chunk->entry_capacity = capacity;
    return STI_OK;
}

static int chunks_reserve(struct smem_partition *part, struct sti_err *err)
{
    if (part->chunk_count < part->chunk_capacity) {
        return STI_OK;
    }
    uint32_t capacity = part->chunk_capacity == 0 ? 4 : part->chunk_capacity * 2;
    struct smem_chunk **chunks = realloc(part->chunks, capacity * sizeof(*chunks));
    if (chunks == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for %u chunks", capacity);
    }
    part->chunks = chunks;
    part->chunk_capacity = capacity;
    return STI_OK;
}

/* Must the next batches of `len` bytes go to a new chunk? */
static bool chunk_full(const struct smem_partition *part, const struct smem_chunk *chunk,
                       uint64_t len)
{
    int64_t age = sti_now_ms(part->engine->host) - chunk->created_ms;
    return chunk->capacity - chunk->len < len ||
           (part->settings.segment_ms > 0 && age > part->settings.segment_ms);
}

/* A chunk with room for the whole append: the last one, or a new one that is not in the row yet.
 * @locks part->mu held, because readers look at the tables */
static int append_reserve(struct smem_partition *part, uint64_t len, uint32_t batches,
                          struct smem_chunk **out, struct sti_err *err)
{
    struct smem_chunk *last = part->chunk_count == 0 ? NULL : part->chunks[part->chunk_count - 1];
    int rc = chunks_reserve(part, err);
    *out = last;
    if (rc == STI_OK && (last == NULL || chunk_full(part, last, len))) {
        uint64_t capacity = last == NULL ? SMEM_CHUNK_MIN : last->capacity * 2;
        capacity = capacity > SMEM_CHUNK_MAX ? SMEM_CHUNK_MAX : capacity;
        rc = chunk_new(part->engine, capacity < len ? len : capacity, out, err);
    }
    if (rc == STI_OK) {
        rc = entries_reserve(*out, batches, err);
        if (rc != STI_OK && *out != last) {
            chunk_free(&(*out)->free_task);
        }
    }
    return rc;
}

static uint64_t batch_copy(uint8_t *to, const struct sti_append_batch *batch)
{
    uint64_t pos = sizeof batch->head;
    memcpy(to, batch->head, sizeof batch->head);
    for (uint32_t i = 0; i < batch->slice_count; i++) {
        memcpy(to + pos, batch->slices[i].data, (size_t)batch->slices[i].len);
        pos += batch->slices[i].len;
    }
    return pos;
}

/* @locks part->mu held */
static void append_publish(struct smem_partition *part, struct smem_chunk *chunk,
                           const struct sti_storage_append *op)
{
    if (part->chunk_count == 0 || part->chunks[part->chunk_count - 1] != chunk) {
        part->chunks[part->chunk_count++] = chunk;
    }
    for (uint32_t i = 0; i < op->batch_count; i++) {
        const struct sti_append_batch *batch = op->batches[i];
        chunk->entries[chunk->entry_count++] =
            (struct smem_entry){.base_offset = batch->base_offset,
                                .last_offset = batch->last_offset,
                                .max_timestamp = batch->max_timestamp,
                                .pos = chunk->len,
                                .len = batch->len};
        chunk->len += batch->len;
        part->bytes += batch->len;
        part->written_end = batch->last_offset + 1;
        part->last_epoch = batch->leader_epoch;
        if (batch->max_timestamp > chunk->max_timestamp) {
            chunk->max_timestamp = batch->max_timestamp;
        }
    }
}

int smem_append(struct sti_storage_partition *handle, struct sti_storage_append *op)
{
    struct smem_partition *part = handle->part;
    struct smem_chunk *chunk;
    struct sti_err err;
    uint64_t len = 0;
    sti_err_clear(&err);
    for (uint32_t i = 0; i < op->batch_count; i++) {
        len += op->batches[i]->len;
    }
    pthread_mutex_lock(&part->mu);
    int rc = append_reserve(part, len, op->batch_count, &chunk, &err);
    pthread_mutex_unlock(&part->mu);
    if (rc == STI_OK) {
        uint64_t pos = chunk->len;
        for (uint32_t i = 0; i < op->batch_count; i++) {
            pos += batch_copy(chunk->data + pos, op->batches[i]);
        }
        pthread_mutex_lock(&part->mu);
        append_publish(part, chunk, op);
        pthread_mutex_unlock(&part->mu);
    }
    op->bytes_needed = 0;
    op->written_end = part->written_end;
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    return STI_OK;
}

/* Take the chunks from subscript `from` on out of the row; the caller drops them unlocked.
 * @locks part->mu held */
static void chunks_cut(struct smem_partition *part, uint32_t from)
{
    for (uint32_t i = from; i < part->chunk_count; i++) {
        part->bytes -= part->chunks[i]->len;
        chunk_unref(&part->chunks[i]->owner);
    }
    part->chunk_count = from;
}

/* A new chunk with the first `entries` batches of `old`. */
static int chunk_prefix(const struct smem_chunk *old, uint32_t entries, struct smem_chunk **out,
                        struct sti_err *err)
{
    const struct smem_entry *last = &old->entries[entries - 1];
    int rc = chunk_new(old->engine, last->pos + last->len, out, err);
    if (rc != STI_OK) {
        return rc;
    }
    struct smem_chunk *chunk = *out;
    rc = entries_reserve(chunk, entries, err);
    if (rc != STI_OK) {
        chunk_free(&chunk->free_task);
        return rc;
    }
    memcpy(chunk->data, old->data, (size_t)(last->pos + last->len));
    memcpy(chunk->entries, old->entries, entries * sizeof *chunk->entries);
    chunk->entry_count = entries;
    chunk->len = last->pos + last->len;
    for (uint32_t i = 0; i < entries; i++) {
        if (chunk->entries[i].max_timestamp > chunk->max_timestamp) {
            chunk->max_timestamp = chunk->entries[i].max_timestamp;
        }
    }
    return STI_OK;
}

/* Leader epoch of the last batch that stays: its header says. @locks part->mu held */
static int32_t last_epoch_of(const struct smem_partition *part)
{
    if (part->chunk_count == 0) {
        return -1;
    }
    const struct smem_chunk *chunk = part->chunks[part->chunk_count - 1];
    const uint8_t *p = chunk->data + chunk->entries[chunk->entry_count - 1].pos + 12;
    return (int32_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 |
                     (uint32_t)p[3]);
}

int smem_truncate(struct sti_storage_partition *handle, int64_t offset, struct sti_err *err)
{
    struct smem_partition *part = handle->part;
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    if (offset < part->written_end) {
        uint32_t from = smem_chunk_find(part, offset);
        struct smem_chunk *kept = NULL;
        uint32_t entries =
            from == part->chunk_count ? 0 : smem_entry_find(part->chunks[from], offset);
        if (entries > 0) {
            rc = chunk_prefix(part->chunks[from], entries, &kept, err);
        }
        if (rc == STI_OK) {
            chunks_cut(part, from);
            if (kept != NULL) {
                part->chunks[part->chunk_count++] = kept;
                part->bytes += kept->len;
            }
            part->written_end = offset;
            part->log_start = offset < part->log_start ? offset : part->log_start;
            part->last_epoch = last_epoch_of(part);
        }
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}

int smem_trim(struct sti_storage_partition *handle, int64_t new_start, struct sti_err *err)
{
    struct smem_partition *part = handle->part;
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    if (new_start > part->written_end) {
        rc = sti_err_set(err, STI_E_OFFSET_OUT_OF_RANGE, "trim to %lld, but the log ends at %lld",
                         (long long)new_start, (long long)part->written_end);
    } else if (new_start > part->log_start) {
        uint32_t gone = 0;
        while (gone < part->chunk_count && smem_chunk_end(part->chunks[gone]) <= new_start) {
            part->bytes -= part->chunks[gone]->len;
            chunk_unref(&part->chunks[gone]->owner);
            gone++;
        }
        memmove(part->chunks, part->chunks + gone,
                (part->chunk_count - gone) * sizeof(*part->chunks));
        part->chunk_count -= gone;
        part->log_start = new_start;
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}

/* Chunks that no slice holds any more are freed here and now: the executor may have gone already.
 */
void smem_partition_free(struct smem_partition *part)
{
    for (uint32_t i = 0; i < part->chunk_count; i++) {
        struct smem_chunk *chunk = part->chunks[i];
        if (atomic_fetch_sub_explicit(&chunk->refs, 1, memory_order_acq_rel) == 1) {
            chunk_free(&chunk->free_task);
        }
    }
    pthread_mutex_destroy(&part->mu);
    free(part->chunks);
    free(part);
}
