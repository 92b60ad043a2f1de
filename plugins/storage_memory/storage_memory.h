/* storage_memory.h -- what the files of this plugin share.
 *
 * A partition is a row of chunks, oldest first. A chunk is one block of memory into which batches
 * are copied one behind the other, and a table of where each begins. Chunks play the part of
 * segments: trim drops whole ones, retention counts them.
 *
 *     partition --> [chunk: batch batch batch] [chunk: batch batch] ... [chunk: batch ......free]
 *                      ^ slices of readers hold a reference             ^ the only one appended to
 *
 * Invariants. Bytes below a chunk's `len` never change. A chunk's memory goes when the partition
 * and the last slice have let go of it. The sum of all chunks of an instance stays within
 * bytes_max.
 *
 * Locks. `part->mu` guards the row of chunks, their tables and the ends; it is held for look-ups
 * and pointer moves only, never while bytes are copied. `engine->mu` guards the list of partitions.
 * part->mu is never taken inside engine->mu.
 */
#ifndef STORAGE_MEMORY_H
#define STORAGE_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>

#include "streamit/storage.h"

enum {
    SMEM_CHUNK_MIN = 4096,    /* an idle partition stays small ...  */
    SMEM_CHUNK_MAX = 1 << 20, /* ... a busy one works in megabytes  */
    SMEM_TOPIC_MAX = 249
};

struct smem_conf {
    int64_t bytes_max;
};

struct smem_engine {
    const struct sti_host *host;
    const struct smem_conf *conf;
    _Atomic uint64_t bytes; /* of all chunks */
    pthread_mutex_t mu;
    struct smem_partition *partitions; /* all that exist, open or closed */
};

struct smem_entry {
    int64_t base_offset, last_offset, max_timestamp;
    uint64_t pos, len;
};

struct smem_chunk {
    struct sti_slice_owner owner; /* first: a slice's owner is its chunk */
    struct sti_task free_task;
    struct smem_engine *engine;
    _Atomic uint32_t refs;
    uint32_t entry_count, entry_capacity;
    struct smem_entry *entries;
    uint64_t len, capacity;
    int64_t created_ms, max_timestamp;
    uint8_t *data;
};

struct sti_storage_partition {
    struct smem_engine *engine;
    struct smem_partition *part;
};

struct smem_partition {
    struct smem_partition *next; /* in engine->partitions */
    struct smem_engine *engine;
    char topic[SMEM_TOPIC_MAX + 1];
    uint8_t topic_id[16];
    int32_t partition;
    bool open;
    struct sti_storage_partition handle;
    struct sti_storage_settings settings;

    pthread_mutex_t mu;
    struct smem_chunk **chunks;
    uint32_t chunk_count, chunk_capacity;
    int64_t log_start, written_end;
    int32_t last_epoch;
    uint64_t bytes;
};

/* partition.c: as the slots of the same names in streamit/storage.h */
int smem_append(struct sti_storage_partition *handle, struct sti_storage_append *op);
int smem_truncate(struct sti_storage_partition *handle, int64_t offset, struct sti_err *err);
int smem_trim(struct sti_storage_partition *handle, int64_t new_start, struct sti_err *err);
void smem_partition_free(struct smem_partition *part);

/* read.c: likewise */
int smem_read(struct sti_storage_partition *handle, struct sti_storage_read *op);
int smem_offset_for_time(struct sti_storage_partition *handle, int64_t timestamp_ms,
                         int64_t *offset, int64_t *found_ms, struct sti_err *err);
int smem_oldest_segment(struct sti_storage_partition *handle, int64_t *end_offset, uint64_t *bytes,
                        int64_t *max_timestamp);
/* Subscript of the chunk that holds `offset`, or chunk_count. @locks part->mu held */
uint32_t smem_chunk_find(const struct smem_partition *part, int64_t offset);
/* Subscript of the entry whose batch holds `offset` or is the first after it. @locks part->mu held
 */
uint32_t smem_entry_find(const struct smem_chunk *chunk, int64_t offset);

/* The offset after the last batch of a chunk, which is never empty once it stands in a row. */
static inline int64_t smem_chunk_end(const struct smem_chunk *chunk)
{
    return chunk->entries[chunk->entry_count - 1].last_offset + 1;
}

#endif /* STORAGE_MEMORY_H */
