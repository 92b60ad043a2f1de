/* storage_memory.h -- what the files of this plugin share. See README.md for the story.
 *
 * Locks: part->mu guards a partition and is held for no longer than it takes to copy a batch's
 * place; store->mu guards the table of partitions. They never nest.
 */
#ifndef STORAGE_MEMORY_H
#define STORAGE_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "streamit/plugin.h"
#include "streamit/storage.h"

struct sme_conf {
    int64_t bytes_max;
};

struct sme_store {
    const struct sti_host *host;
    const struct sme_conf *conf;
    struct sti_metric *bytes_metric, *refused_metric;
    _Atomic int64_t bytes; /* of chunks that live, also those that only slices hold */
    pthread_mutex_t mu;
    struct sti_storage_partition *parts;
    /* Tasks posted and chunks alive: stop waits for 0. */
    pthread_mutex_t live_mu;
    pthread_cond_t live_zero;
    uint64_t live;
};

/* Where a batch lies. */
struct sme_batch {
    int64_t base_offset, last_offset, max_timestamp;
    uint32_t pos, len;
    int32_t leader_epoch;
    uint32_t reserved;
};

/* A segment: bytes that never move, counted references, and the places of its batches. */
struct sme_chunk {
    struct sti_slice_owner owner; /* first */
    struct sti_task task;
    _Atomic uint32_t refs;
    uint32_t size, capacity;
    struct sme_store *store;
    uint8_t *data;
    /* @locks part->mu */
    int64_t base_offset, max_timestamp, first_ms;
    struct sme_batch *batches;
    uint32_t batch_count, batch_capacity;
};

struct sti_storage_partition {
    struct sme_store *store;
    struct sti_storage_partition *next; /* @locks store->mu */
    pthread_mutex_t mu;
    struct sti_storage_settings settings;
    struct sme_chunk **chunks; /* by base offset, at least one; the last is the active one */
    uint32_t chunk_count, chunk_capacity;
    int64_t log_start, written_end;
    uint64_t bytes;
    int32_t last_epoch;
    int32_t partition;
    bool open; /* @locks store->mu */
    uint8_t topic_id[16];
    struct sme_blob *blobs;
    char topic[];
};

/* ---- chunk.c */
void sme_live_add(struct sme_store *store);
void sme_live_drop(struct sme_store *store);
struct sme_chunk *sme_chunk_new(struct sme_store *store, int64_t base_offset, uint32_t capacity,
                                bool *over_bound);
void sme_chunk_unref(struct sme_chunk *chunk);
bool sme_chunk_room(struct sme_chunk *chunk, uint32_t more);
uint32_t sme_chunk_find(const struct sme_chunk *chunk, int64_t offset);
uint32_t sme_find(const struct sti_storage_partition *part, int64_t offset);
bool sme_list_room(struct sti_storage_partition *part, uint32_t more);

/* ---- log.c */
int sme_append(struct sti_storage_partition *part, struct sti_storage_append *op);
int sme_read(struct sti_storage_partition *part, struct sti_storage_read *op);
int sme_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err);
int sme_trim(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err);
int sme_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms, int64_t *offset,
                        int64_t *found_ms, struct sti_err *err);
int sme_oldest_segment(struct sti_storage_partition *part, int64_t *end_offset, uint64_t *bytes,
                       int64_t *max_timestamp);

/* ---- partition.c */
int sme_open(void *self, const struct sti_storage_open *args, struct sti_storage_partition **out,
             struct sti_storage_state *state, struct sti_err *err);
int sme_close(struct sti_storage_partition *part, struct sti_err *err);
int sme_configure(struct sti_storage_partition *part, const struct sti_storage_settings *settings,
                  struct sti_err *err);
void sme_state(struct sti_storage_partition *part, struct sti_storage_state *out);
void sme_usage(struct sti_storage_partition *part, struct sti_storage_usage *out);
int sme_sync(struct sti_storage_partition *part, struct sti_storage_sync *op);
int sme_remove(void *self, const struct sti_partition_id *id, struct sti_err *err);
int sme_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg,
             struct sti_err *err);
int sme_blob_put(struct sti_storage_partition *part, const char *name, const void *data, size_t len,
                 struct sti_err *err);
int sme_blob_get(struct sti_storage_partition *part, const char *name, void **data, size_t *len,
                 struct sti_err *err);
int sme_space(void *self, struct sti_storage_space *out, struct sti_err *err);
void sme_part_free(struct sti_storage_partition *part);

#endif /* STORAGE_MEMORY_H */
