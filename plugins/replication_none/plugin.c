/* plugin.c -- replication_none: descriptor and lifecycle. The work is in partition.c. */
#include "streamit/plugin.h"

#include "partition.h"

static int none_open(void *self, const struct sti_replication_open *args,
                     struct sti_replication_partition **part, struct sti_err *err)
{
    (void)self;
    return rno_partition_open(args, part, err);
}

static const struct sti_replication none_replication = {
    .iface = {.struct_size = sizeof(struct sti_replication),
              .major = STI_REPLICATION_MAJOR,
              .minor = STI_REPLICATION_MINOR,
              .id = STI_REPLICATION_ID},
    .open = none_open,
    .progress = rno_partition_progress,
    .configure = rno_partition_configure,
    .in_sync = rno_partition_in_sync,
    .close = rno_partition_close};

/* An instance has no state: all of it lies in the partitions. */
static int none_create(const struct sti_host *host, const void *conf, void **self,
                       struct sti_err *err)
{
    static const char no_state;
    (void)host;
    (void)conf;
    (void)err;
    *self = (void *)(uintptr_t)&no_state;
    return STI_OK;
}

static int none_start(void *self, struct sti_err *err)
{
    (void)self;
    (void)err;
    return STI_OK;
}

static int none_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)self;
    (void)deadline_ms;
    (void)err;
    return STI_OK;
}

static void none_destroy(void *self)
{
    (void)self;
}

static const struct sti_iface *const none_provides[] = {&none_replication.iface, NULL};

static const struct sti_lifecycle none_life = {.struct_size = sizeof(struct sti_lifecycle),
                                               .create = none_create,
                                               .start = none_start,
                                               .stop = none_stop,
                                               .destroy = none_destroy};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .name = "replication_none",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "One replica: what is stored here is safe",
    .provides = none_provides,
    .life = &none_life};
