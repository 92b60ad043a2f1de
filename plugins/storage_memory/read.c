/* read.c -- finding batches: by offset, by time, and as slices.
 *
 * Every batch has an entry, so each look-up is two binary searches; a read hands out one slice a
 * chunk, from one batch boundary to another.
 */
#include <string.h>

#include "storage_memory.h"

uint32_t smem_chunk_find(const struct smem_partition *part, int64_t offset)
{
    uint32_t low = 0, high = part->chunk_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (smem_chunk_end(part->chunks[mid]) <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

uint32_t smem_entry_find(const struct smem_chunk *chunk, int64_t offset)
{
    uint32_t low = 0, high = chunk->entry_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (chunk->entries[mid].last_offset < offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* The end (exclusive entry) of what one chunk gives from entry `from` on: within max_bytes, but at
 * least one batch if `first`. */
static uint32_t entries_within(const struct smem_chunk *chunk, uint32_t from, int64_t end_offset,
                               uint64_t max_bytes, bool first)
{
    uint64_t start = chunk->entries[from].pos;
    uint32_t low = from, high = chunk->entry_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct smem_entry *e = &chunk->entries[mid];
        if (e->base_offset < end_offset && e->pos + e->len - start <= max_bytes) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (low == from && first && chunk->entries[from].base_offset < end_offset) {
        low = from + 1;
    }
    return low;
}

/* @locks part->mu held */
static void read_slices(const struct smem_partition *part, struct sti_storage_read *op)
{
    int64_t offset = op->offset;
    for (uint32_t c = smem_chunk_find(part, offset);
         c < part->chunk_count && op->slice_count < op->slice_max; c++) {
        struct smem_chunk *chunk = part->chunks[c];
        uint32_t from = smem_entry_find(chunk, offset);
        uint64_t left = op->bytes < op->max_bytes ? op->max_bytes - op->bytes : 0;
        uint32_t to = entries_within(chunk, from, op->end_offset, left, op->bytes == 0);
        if (to == from) {
            break;
        }
        const struct smem_entry *last = &chunk->entries[to - 1];
        struct sti_slice *slice = &op->slices[op->slice_count++];
        *slice = sti_slice_borrow(chunk->data + chunk->entries[from].pos,
                                  (size_t)(last->pos + last->len - chunk->entries[from].pos));
        slice->owner = &chunk->owner;
        sti_slice_ref(slice);
        op->bytes += slice->len;
        offset = last->last_offset + 1;
        if (to < chunk->entry_count) {
            break;
        }
    }
}

int smem_read(struct sti_storage_partition *handle, struct sti_storage_read *op)
{
    struct smem_partition *part = handle->part;
    struct sti_err err;
    int rc = STI_OK;
    op->slice_count = 0;
    op->bytes = 0;
    pthread_mutex_lock(&part->mu);
    if (op->offset < part->log_start || op->offset > part->written_end) {
        rc = sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE,
                         "%s-%d: offset %lld lies outside %lld to %lld", part->topic,
                         part->partition, (long long)op->offset, (long long)part->log_start,
                         (long long)part->written_end);
    } else {
        read_slices(part, op);
    }
    pthread_mutex_unlock(&part->mu);
    op->done(op, rc, rc == STI_OK ? NULL : &err);
    return STI_OK;
}

int smem_offset_for_time(struct sti_storage_partition *handle, int64_t timestamp_ms,
                         int64_t *offset, int64_t *found_ms, struct sti_err *err)
{
    struct smem_partition *part = handle->part;
    int rc = STI_E_NOT_FOUND;
    pthread_mutex_lock(&part->mu);
    for (uint32_t c = 0; c < part->chunk_count && rc != STI_OK; c++) {
        const struct smem_chunk *chunk = part->chunks[c];
        for (uint32_t i = 0; chunk->max_timestamp >= timestamp_ms && i < chunk->entry_count; i++) {
            const struct smem_entry *e = &chunk->entries[i];
            if (e->max_timestamp >= timestamp_ms && e->last_offset >= part->log_start) {
                *offset = e->base_offset < part->log_start ? part->log_start : e->base_offset;
                *found_ms = e->max_timestamp;
                rc = STI_OK;
                break;
            }
        }
    }
    pthread_mutex_unlock(&part->mu);
    return rc == STI_OK ? rc
                        : sti_err_set(err, rc, "%s-%d: every record is older than %lld ms",
                                      part->topic, part->partition, (long long)timestamp_ms);
}

int smem_oldest_segment(struct sti_storage_partition *handle, int64_t *end_offset, uint64_t *bytes,
                        int64_t *max_timestamp)
{
    struct smem_partition *part = handle->part;
    int rc = STI_E_NOT_FOUND;
    pthread_mutex_lock(&part->mu);
    if (part->chunk_count > 1) {
        *end_offset = smem_chunk_end(part->chunks[0]);
        *bytes = part->chunks[0]->len;
        *max_timestamp = part->chunks[0]->max_timestamp;
        rc = STI_OK;
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}
