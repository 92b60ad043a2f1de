/* partition.c -- see partition.h. */
#include "partition.h"

#include <stdatomic.h>
#include <stdlib.h>

struct sti_replication_partition {
    const struct sti_replication_ops *ops;
    void *ctx;
    _Atomic int64_t written_end, synced_end; /* the furthest reported */
    _Atomic int64_t high_watermark;          /* the furthest told to the broker */
    atomic_bool durable_ends;
};

/* Raise `value` to `to`. @return whether it was below before */
static bool raise_to(_Atomic int64_t *value, int64_t to)
{
    int64_t seen = atomic_load(value);
    while (seen < to) {
        if (atomic_compare_exchange_weak(value, &seen, to)) {
            return true;
        }
    }
    return false;
}

/* Tell the broker if the watermark has moved. Whoever raises it tells; the broker ignores a smaller
 * one that comes late. */
static void advance(struct sti_replication_partition *part)
{
    int64_t synced_end = atomic_load(&part->synced_end);
    int64_t end = atomic_load(&part->durable_ends) ? synced_end : atomic_load(&part->written_end);
    if (raise_to(&part->high_watermark, end)) {
        part->ops->set_high_watermark(part->ctx, end, 1, synced_end >= end ? 1 : 0);
    }
}

int rno_partition_open(const struct sti_replication_open *args,
                       struct sti_replication_partition **part, struct sti_err *err)
{
    *part = NULL;
    if (args->replica_count > 1) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "partition %s-%d has %u replicas; replication_none keeps 1", args->topic,
                           args->partition, args->replica_count);
    }
    struct sti_replication_partition *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to open partition %s-%d", args->topic,
                           args->partition);
    }
    p->ops = args->ops;
    p->ctx = args->ctx;
    atomic_init(&p->written_end, args->written_end);
    atomic_init(&p->synced_end, args->synced_end);
    atomic_init(&p->high_watermark, -1);
    atomic_init(&p->durable_ends, args->durable_ends);
    *part = p;
    advance(p);
    return STI_OK;
}

void rno_partition_progress(struct sti_replication_partition *part, int64_t written_end,
                            int64_t synced_end)
{
    (void)raise_to(&part->synced_end, synced_end);
    (void)raise_to(&part->written_end, written_end);
    advance(part);
}

void rno_partition_configure(struct sti_replication_partition *part, bool durable_ends,
                             int32_t min_insync)
{
    (void)min_insync; /* the broker's admission holds it against in_sync */
    atomic_store(&part->durable_ends, durable_ends);
    advance(part);
}

int32_t rno_partition_in_sync(struct sti_replication_partition *part)
{
    (void)part;
    return 1;
}

void rno_partition_close(struct sti_replication_partition *part)
{
    free(part);
}
