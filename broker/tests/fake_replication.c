/* fake_replication.c -- as replication_none, unless it is told to hold the watermark back. */
#include <stdlib.h>

#include "fakes.h"

struct sti_replication_partition {
    struct sti_replication_partition *next;
    struct fake_replication *fr;
    struct sti_replication_open args;
    int64_t written, synced;
    bool durable;
};

static int64_t part_end(const struct sti_replication_partition *part)
{
    return part->durable ? part->synced : part->written;
}

static int fake_open(void *self, const struct sti_replication_open *args,
                     struct sti_replication_partition **out, struct sti_err *err)
{
    struct fake_replication *fr = self;
    pthread_mutex_lock(&fr->mu);
    int rc = fr->open_status;
    struct sti_replication_partition *part = rc == STI_OK ? calloc(1, sizeof *part) : NULL;
    if (part != NULL) {
        *part = (struct sti_replication_partition){.next = fr->parts,
                                                   .fr = fr,
                                                   .args = *args,
                                                   .written = args->written_end,
                                                   .synced = args->synced_end,
                                                   .durable = args->durable_ends};
        fr->parts = part;
        fr->opens++;
    }
    pthread_mutex_unlock(&fr->mu);
    if (part == NULL) {
        return sti_err_set(err, rc, "replication does not open");
    }
    args->ops->set_high_watermark(args->ctx, part_end(part), 1, 0);
    *out = part;
    return STI_OK;
}

static void fake_progress(struct sti_replication_partition *part, int64_t written, int64_t synced)
{
    struct fake_replication *fr = part->fr;
    pthread_mutex_lock(&fr->mu);
    part->written = written > part->written ? written : part->written;
    part->synced = synced > part->synced ? synced : part->synced;
    bool hold = fr->hold;
    int64_t end = part_end(part);
    int32_t replicas = fr->replicas, replicas_synced = fr->replicas_synced;
    pthread_mutex_unlock(&fr->mu);
    if (!hold) {
        part->args.ops->set_high_watermark(part->args.ctx, end, replicas, replicas_synced);
    }
}

static void fake_configure(struct sti_replication_partition *part, bool durable, int32_t min)
{
    (void)min;
    pthread_mutex_lock(&part->fr->mu);
    part->durable = durable;
    part->fr->configures++;
    pthread_mutex_unlock(&part->fr->mu);
}

static int32_t fake_in_sync(struct sti_replication_partition *part)
{
    struct fake_replication *fr = part->fr;
    pthread_mutex_lock(&fr->mu);
    int32_t in_sync = fr->in_sync;
    bool reenter = fr->reenter;
    pthread_mutex_unlock(&fr->mu);
    if (reenter) {
        part->args.ops->set_high_watermark(part->args.ctx, 0, 1, 0);
    }
    return in_sync;
}

static void fake_close(struct sti_replication_partition *part)
{
    struct fake_replication *fr = part->fr;
    pthread_mutex_lock(&fr->mu);
    struct sti_replication_partition **at = &fr->parts;
    while (*at != part) {
        at = &(*at)->next;
    }
    *at = part->next;
    fr->closes++;
    pthread_mutex_unlock(&fr->mu);
    free(part);
}

struct fake_replication *fr_new(void)
{
    struct fake_replication *fr = calloc(1, sizeof *fr);
    if (fr == NULL) {
        abort();
    }
    fr->vtable = (struct sti_replication){.iface = {.struct_size = sizeof fr->vtable,
                                                    .major = STI_REPLICATION_MAJOR,
                                                    .minor = STI_REPLICATION_MINOR,
                                                    .id = STI_REPLICATION_ID},
                                          .open = fake_open,
                                          .progress = fake_progress,
                                          .configure = fake_configure,
                                          .in_sync = fake_in_sync,
                                          .close = fake_close};
    fr->in_sync = fr->replicas = fr->replicas_synced = 1;
    pthread_mutex_init(&fr->mu, NULL);
    return fr;
}

void fr_free(struct fake_replication *fr)
{
    pthread_mutex_destroy(&fr->mu);
    free(fr);
}

void fr_release(struct fake_replication *fr)
{
    struct sti_replication_partition *parts[64];
    int64_t ends[64];
    unsigned count = 0;
    pthread_mutex_lock(&fr->mu);
    fr->hold = false;
    for (struct sti_replication_partition *part = fr->parts; part != NULL && count < 64;
         part = part->next) {
        ends[count] = part_end(part);
        parts[count++] = part;
    }
    int32_t replicas = fr->replicas, replicas_synced = fr->replicas_synced;
    pthread_mutex_unlock(&fr->mu);
    for (unsigned i = 0; i < count; i++) {
        parts[i]->args.ops->set_high_watermark(parts[i]->args.ctx, ends[i], replicas,
                                               replicas_synced);
    }
}
