/* chunk.c -- runs of anonymous memory that batches are copied into, counted by reference.
 *
 * A chunk is mapped at its full size and costs what has been touched of it; its bytes never move
 * and are never written twice, so readers need no lock once they hold a reference. The bound counts
 * capacities, which is what a chunk can come to cost.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "storage_memory.h"

void sme_live_add(struct sme_store *store)
{
    pthread_mutex_lock(&store->live_mu);
    store->live++;
    pthread_mutex_unlock(&store->live_mu);
}

void sme_live_drop(struct sme_store *store)
{
    pthread_mutex_lock(&store->live_mu);
    if (--store->live == 0) {
        pthread_cond_broadcast(&store->live_zero);
    }
    pthread_mutex_unlock(&store->live_mu);
}

static void chunk_free(struct sti_task *task)
{
    struct sme_chunk *chunk =
        (struct sme_chunk *)(void *)((char *)task - offsetof(struct sme_chunk, task));
    struct sme_store *store = chunk->store;
    (void)munmap(chunk->data, chunk->capacity);
    (void)atomic_fetch_sub(&store->bytes, (int64_t)chunk->capacity);
    sti_metric_sub(store->bytes_metric, chunk->capacity);
    free(chunk->batches);
    free(chunk);
    sme_live_drop(store);
}

static void owner_ref(struct sti_slice_owner *owner)
{
    struct sme_chunk *chunk = (struct sme_chunk *)(void *)owner;
    (void)atomic_fetch_add_explicit(&chunk->refs, 1, memory_order_relaxed);
}

static void owner_unref(struct sti_slice_owner *owner)
{
    sme_chunk_unref((struct sme_chunk *)(void *)owner);
}

void sme_chunk_unref(struct sme_chunk *chunk)
{
    if (chunk != NULL && atomic_fetch_sub_explicit(&chunk->refs, 1, memory_order_acq_rel) == 1) {
        chunk->store->host->post(chunk->store->host->ctx, &chunk->task);
    }
}

/* @param over_bound  out: NULL was returned because bytes_max would be passed
 * @return a chunk with one reference, or NULL */
struct sme_chunk *sme_chunk_new(struct sme_store *store, int64_t base_offset, uint32_t capacity,
                                bool *over_bound)
{
    *over_bound =
        atomic_fetch_add(&store->bytes, (int64_t)capacity) + capacity > store->conf->bytes_max;
    struct sme_chunk *chunk = *over_bound ? NULL : calloc(1, sizeof *chunk);
    uint8_t *data = chunk == NULL ? MAP_FAILED
                                  : mmap(NULL, capacity, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        (void)atomic_fetch_sub(&store->bytes, (int64_t)capacity);
        free(chunk);
        return NULL;
    }
    chunk->owner.ref = owner_ref;
    chunk->owner.unref = owner_unref;
    chunk->task.run = chunk_free;
    atomic_init(&chunk->refs, 1);
    chunk->capacity = capacity;
    chunk->store = store;
    chunk->data = data;
    chunk->base_offset = base_offset;
    chunk->max_timestamp = -1;
    sme_live_add(store);
    sti_metric_add(store->bytes_metric, capacity);
    return chunk;
}

/* Room for the places of more batches. */
bool sme_chunk_room(struct sme_chunk *chunk, uint32_t more)
{
    uint32_t want = chunk->batch_count + more;
    if (want > chunk->batch_capacity) {
        uint32_t capacity = chunk->batch_capacity * 2 < want ? want : chunk->batch_capacity * 2;
        struct sme_batch *batches = realloc(chunk->batches, capacity * sizeof *batches);
        if (batches == NULL) {
            return false;
        }
        chunk->batches = batches;
        chunk->batch_capacity = capacity;
    }
    return true;
}

/* @return subscript of the first batch that ends at or after `offset`, or batch_count */
uint32_t sme_chunk_find(const struct sme_chunk *chunk, int64_t offset)
{
    uint32_t low = 0, high = chunk->batch_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (chunk->batches[mid].last_offset < offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* @return subscript of the last chunk that begins at or below `offset`, or 0 */
uint32_t sme_find(const struct sti_storage_partition *part, int64_t offset)
{
    uint32_t low = 0, high = part->chunk_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (part->chunks[mid]->base_offset <= offset) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return low;
}

bool sme_list_room(struct sti_storage_partition *part, uint32_t more)
{
    uint32_t want = part->chunk_count + more;
    if (want > part->chunk_capacity) {
        uint32_t capacity = part->chunk_capacity * 2 < want ? want : part->chunk_capacity * 2;
        struct sme_chunk **chunks = realloc(part->chunks, capacity * sizeof(*chunks));
        if (chunks == NULL) {
            return false;
        }
        part->chunks = chunks;
        part->chunk_capacity = capacity;
    }
    return true;
}
