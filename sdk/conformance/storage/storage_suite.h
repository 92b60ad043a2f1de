/* storage_suite.h -- what the files of the storage suite share: the engine under test, batches that
 * can be made again from a few numbers, and calls that are made where the contract wants them and
 * wait for their answer.
 *
 * Threads. A case runs on the process's first thread. append, configure, truncate, trim and close
 * are posted to the partition's strand, everything else to the executor, and the case waits; so
 * what an engine asserts of its threads holds. Calls without waiting and `state` are made directly.
 *
 * Failure. A call that breaks the contract by itself (no answer, two answers, a status that is not
 * documented, an error object that says otherwise) ends the case; a documented status is returned.
 */
#ifndef STREAMIT_STORAGE_SUITE_H
#define STREAMIT_STORAGE_SUITE_H

#include <pthread.h>
#include <stdatomic.h>

#include "streamit/record_batch.h"
#include "streamit/storage.h"

#include "../conform.h"

/* The engine of a case. */
struct cs {
    struct cfm *cfm;
    const struct sti_storage *api;
    void *self;
    struct sti_storage_settings settings; /* of the next open */
};

/* One open partition, and what its events have told. */
struct cs_part {
    struct cs *cs;
    struct sti_storage_partition *part;
    struct sti_storage_state opened; /* what open said */
    int open_status;                 /* STI_OK or STI_E_DATA_LOSS */
    struct sti_strand strand;
    struct sti_storage_events events;
    _Atomic int64_t synced; /* of the last event */
    _Atomic unsigned synced_count, failed_count, recovered_count, damaged_count;
    _Atomic int failed_code;
    _Atomic bool opening, closed;
    _Atomic int inside_synced, inside_failed, inside_damaged;
    int64_t recovered_next; /* last offset of a recovered batch + 1 */
    /* Called on events, besides; may be NULL. */
    void (*on_recovered)(struct cs_part *p, const struct sti_batch_header *header);
    void (*on_synced)(struct cs_part *p, int64_t synced_end);
    void *user;
    struct cs_part *next; /* of those that are closed */
};

/* Bring a node up, with segments of 16 KiB; and down. */
void cs_start(struct cs *cs, struct cfm *cfm);
void cs_stop(struct cs *cs);
void cs_restart(struct cs *cs);
bool cs_durable(const struct cs *cs);

/* Run `fn` on a strand, or with NULL on the executor, and wait for it. */
void cs_run(struct cs *cs, struct sti_strand *strand, void (*fn)(void *arg), void *arg);
/* Wait until what has been posted to the executor so far has had its turn. */
void cs_settle(struct cs *cs);

/* ---- batches */

/* A batch that is made from these numbers alone, record by record. */
struct cs_batch {
    int64_t base;
    uint32_t records;
    uint32_t len; /* of the whole batch */
    int64_t timestamp;
    int32_t epoch;
};

static inline int64_t cs_last(const struct cs_batch *b)
{
    return b->base + b->records - 1;
}

/* The least `len` of a batch of so many records. */
uint32_t cs_len_min(uint32_t records);
/* `len`, or the next greater length that such a batch can have. */
uint32_t cs_len_fit(uint32_t records, uint32_t len);
/* Write its bytes, b->len of them. */
void cs_encode(const struct cs_batch *b, uint8_t *out);

/* ---- calls; statuses that the contract lets them return */

/* @param topic_id  fills the id's bytes; cs_open takes the topic's first letter */
int cs_open_id(struct cs *cs, const char *topic, int32_t partition, uint8_t topic_id,
               uint32_t flags, struct cs_part **out);
int cs_open(struct cs *cs, const char *topic, uint32_t flags, struct cs_part **out);
/* Partition 0 of a topic, with a look at what recovery shows. @param user  becomes p->user */
int cs_open_hooked(struct cs *cs, const char *topic, uint8_t topic_id, uint32_t flags,
                   void (*on_recovered_batch)(struct cs_part *p,
                                              const struct sti_batch_header *header),
                   void *user, struct cs_part **out);
/* Open what must open: CREATE it, or an existing one. */
struct cs_part *cs_created(struct cs *cs, const char *topic);
struct cs_part *cs_opened(struct cs *cs, const char *topic);
int cs_close(struct cs_part *p);
void cs_closed(struct cs_part *p); /* and it must succeed */
int cs_remove(struct cs *cs, const char *topic);
int cs_remove_id(struct cs *cs, const char *topic, int32_t partition, uint8_t topic_id);
int cs_list(struct cs *cs, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg);

struct sti_storage_state cs_state(struct cs_part *p);
struct sti_storage_usage cs_usage(struct cs_part *p);
int cs_configure(struct cs_part *p, const struct sti_storage_settings *settings);

struct cs_append {
    struct sti_storage_append op; /* first */
    struct sti_err err;
    int64_t written_end;
    uint64_t bytes_needed;
};
/* Append batches as they are, also wrong ones. @param out  may be NULL */
int cs_append(struct cs_part *p, const struct cs_batch *batches, uint32_t count,
              struct cs_append *out);
/* The same with STI_APPEND_*. */
int cs_append_flags(struct cs_part *p, const struct cs_batch *batches, uint32_t count,
                    uint32_t flags, struct cs_append *out);
/* Append `count` like batches, the first at `base`, each `records` records and `len` bytes, with
 * timestamps that grow by one. */
int cs_append_like(struct cs_part *p, int64_t base, uint32_t records, uint32_t len,
                   int64_t timestamp, uint32_t count, int32_t epoch);

enum { CS_SLICES = 64 };
struct cs_read {
    struct sti_storage_read op; /* first */
    struct sti_slice slices[CS_SLICES];
    struct sti_err err;
};
/* With STI_READ_NO_WAIT the call is made on this thread. Release what it gave with cs_release. */
int cs_read(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
            uint32_t flags, struct cs_read *out);
int cs_read_max(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
                uint32_t flags, uint32_t slice_max, struct cs_read *out);
void cs_release(struct cs_read *read);
/* All bytes of the slices, from memory and from the file, which must agree. free() them. */
uint8_t *cs_bytes(const struct cs_read *read, size_t *len);
/* Whole batches with sound checksums, dense from the one that holds `offset` on.
 * @return the offset behind the last; `offset` itself when there is none */
int64_t cs_walk(const struct cs_read *read, int64_t offset);

int cs_sync(struct cs_part *p, int64_t *synced_end);

/* A call that is begun here and ended there. Zero it, set `on_answer` if wanted, begin, end. */
struct cs_call;
struct cs_pending {
    struct cs_call *call;
    void (*on_answer)(struct cs_pending *op); /* inside of `done`; may be NULL */
};
void cs_append_begin(struct cs_part *p, const struct cs_batch *batch, struct cs_pending *op);
void cs_read_begin(struct cs_part *p, int64_t offset, int64_t end_offset, struct cs_pending *op);
void cs_sync_begin(struct cs_part *p, struct cs_pending *op);
/* Wait until the call has returned; its answer may be still to come. */
void cs_pending_begun(const struct cs_pending *op);
bool cs_pending_answered(const struct cs_pending *op);
/* Wait for it. Slices of a read are released. */
int cs_pending_end(struct cs_pending *op);

int cs_time(struct cs_part *p, int64_t timestamp, int64_t *offset, int64_t *found);
int cs_truncate(struct cs_part *p, int64_t offset);
int cs_trim(struct cs_part *p, int64_t new_start);
int cs_oldest(struct cs_part *p, int64_t *end_offset, uint64_t *bytes, int64_t *max_timestamp);
int cs_blob_put(struct cs_part *p, const char *name, const void *data, size_t len);
/* @param data  free() it */
int cs_blob_get(struct cs_part *p, const char *name, void **data, size_t *len);

/* ---- the model: a plain list of what the log must hold */

struct cs_model {
    struct cs_batch *batches;
    size_t count, capacity;
    int64_t log_start, end;
};

void cs_model_fini(struct cs_model *m);
void cs_model_add(struct cs_model *m, const struct cs_batch *b);
/* The batch that holds `offset` or the first behind it; count when there is none. */
size_t cs_model_find(const struct cs_model *m, int64_t offset);
void cs_model_truncate(struct cs_model *m, int64_t offset);
int32_t cs_model_epoch(const struct cs_model *m);
/* Is the batch that starts here the model's, byte for byte? */
void cs_model_check_bytes(const struct cs_model *m, const struct cs_read *read, int64_t offset,
                          int64_t end_offset, uint64_t max_bytes);
/* Ends, epoch, bytes of the whole log, lookups by time: all as the model says. */
void cs_model_check(const struct cs_model *m, struct cs_part *p);

#endif /* STREAMIT_STORAGE_SUITE_H */
