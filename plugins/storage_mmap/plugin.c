/* plugin.c -- descriptor, options and lifecycle of storage_mmap; see README.md. */
#include <stdlib.h>
#include <string.h>

#include "storage_mmap.h"

static const struct sti_option opt_files = {
    .struct_size = sizeof(struct sti_option),
    .key = "max_open_files",
    .type = STI_OPT_INT,
    .def = "1024",
    .min = 8,
    .max = 1000000,
    .offset = offsetof(struct smm_conf, max_open_files),
    .help = "Segments kept open, each with two descriptors and at most one map; the least recently "
            "used is closed first."};
static const struct sti_option opt_idle = {
    .struct_size = sizeof(struct sti_option),
    .key = "idle_close_ms",
    .type = STI_OPT_INT,
    .def = "30000",
    .min = 10,
    .max = 86400000,
    .unit = "ms",
    .offset = offsetof(struct smm_conf, idle_close_ms),
    .help = "A segment that nobody used for so long is synced and closed, and its reserved space "
            "given back."};
static const struct sti_option opt_reserve = {
    .struct_size = sizeof(struct sti_option),
    .key = "reserve_bytes_max",
    .type = STI_OPT_INT,
    .def = "1M",
    .min = 0,
    .max = 1073741824,
    .unit = "bytes",
    .offset = offsetof(struct smm_conf, reserve_bytes_max),
    .help =
        "Space reserved ahead of a segment's writer at the most; 0 reserves none. Much of it slows "
        "ext4, which writes into reserved space at a lower rate."};
static const struct sti_option opt_maps = {
    .struct_size = sizeof(struct sti_option),
    .key = "max_maps",
    .type = STI_OPT_INT,
    .def = "4096",
    .min = 8,
    .max = 1000000,
    .offset = offsetof(struct smm_conf, max_maps),
    .help = "Segments mapped at once, with those that slow readers still hold after they were "
            "closed; a read that needs one more is refused."};
static const struct sti_option opt_scrub_rate = {
    .struct_size = sizeof(struct sti_option),
    .key = "scrub_bytes_per_s",
    .type = STI_OPT_INT,
    .def = "16M",
    .min = 0,
    .max = 1099511627776,
    .unit = "bytes",
    .offset = offsetof(struct smm_conf, scrub_bytes_per_s),
    .help = "Rate at which stored data is read again in the background to find damage early; "
            "16 MiB/s sees 1.3 TiB in a day. 0 switches it off."};
static const struct sti_option opt_scrub_delay = {
    .struct_size = sizeof(struct sti_option),
    .key = "scrub_delay_ms",
    .type = STI_OPT_INT,
    .def = "60000",
    .min = 0,
    .max = 86400000,
    .unit = "ms",
    .offset = offsetof(struct smm_conf, scrub_delay_ms),
    .help = "From the start to the first pass over stored data."};
static const struct sti_option opt_scrub_interval = {
    .struct_size = sizeof(struct sti_option),
    .key = "scrub_interval_ms",
    .type = STI_OPT_INT,
    .def = "86400000",
    .min = 1,
    .max = 31536000000,
    .unit = "ms",
    .offset = offsetof(struct smm_conf, scrub_interval_ms),
    .help = "From the end of a pass over stored data to the next."};
static const struct sti_option opt_group = {
    .struct_size = sizeof(struct sti_option),
    .key = "flush_group_bytes_max",
    .type = STI_OPT_INT,
    .def = "4M",
    .min = 4096,
    .max = 1073741824,
    .unit = "bytes",
    .offset = offsetof(struct smm_conf, flush_group_bytes_max),
    .help = "With flush.policy=commit no more bytes than these, or than one batch, are ever "
            "written and not yet synced. After a loss of power a hole so near to the end of the "
            "log is an "
            "unfinished group, and cut; one further away is damage."};
static const struct sti_option *const options[] = {
    &opt_files,      &opt_group,       &opt_idle,           &opt_reserve, &opt_maps,
    &opt_scrub_rate, &opt_scrub_delay, &opt_scrub_interval, NULL};

static void make_metrics(struct smm_store *store)
{
    const struct sti_host *host = store->host;
    struct smm_metrics *m = &store->metrics;
    char labels[128];
    (void)snprintf(labels, sizeof labels, "storage=\"%.64s\"", host->instance);
    const struct {
        struct sti_metric **out;
        int type;
        const char *name, *help;
    } rows[] = {
        {&m->appended_bytes, STI_METRIC_COUNTER, "streamit_storage_appended_bytes_total",
         "Bytes of batches appended."},
        {&m->appends, STI_METRIC_COUNTER, "streamit_storage_appends_total", "Appends."},
        {&m->rolls, STI_METRIC_COUNTER, "streamit_storage_rolls_total", "Segments closed."},
        {&m->syncs, STI_METRIC_COUNTER, "streamit_storage_syncs_total", "Syncs of segments."},
        {&m->sync_errors, STI_METRIC_COUNTER, "streamit_storage_sync_errors_total",
         "Syncs that failed."},
        {&m->open_files, STI_METRIC_GAUGE, "streamit_storage_open_segments", "Segments open."},
        {&m->maps, STI_METRIC_GAUGE, "streamit_storage_mapped_segments", "Segments mapped."},
        {&m->recovered_bytes, STI_METRIC_COUNTER, "streamit_storage_recovered_bytes_total",
         "Log bytes read by recovery."},
        {&m->truncated_bytes, STI_METRIC_COUNTER, "streamit_storage_truncated_bytes_total",
         "Bytes of unfinished tails that recovery cut."},
        {&m->index_rebuilds, STI_METRIC_COUNTER, "streamit_storage_index_rebuilds_total",
         "Indexes built anew from the log."},
        {&m->poisoned, STI_METRIC_COUNTER, "streamit_storage_poisoned_total",
         "Partitions that a failed write or sync took offline for appends."},
        {&m->damaged, STI_METRIC_COUNTER, "streamit_storage_damaged_ranges_total",
         "Damaged ranges that were found, at an open, by a reader or by the scrub."},
        {&m->disk_full, STI_METRIC_COUNTER, "streamit_storage_disk_full_total",
         "Appends refused by a full disk."},
        {&m->held_files, STI_METRIC_GAUGE, "streamit_storage_held_segments",
         "Segments that were closed or retired and that readers still hold open."},
        {&m->read_bytes, STI_METRIC_COUNTER, "streamit_storage_read_copied_bytes_total",
         "Bytes of files that the engine copied into memory of its own, indexes and headers "
         "included."},
        {&m->slice_bytes, STI_METRIC_COUNTER, "streamit_storage_read_slice_bytes_total",
         "Bytes handed to readers as slices of files, not copied."},
        {&m->scrub_bytes, STI_METRIC_COUNTER, "streamit_storage_scrub_bytes_total",
         "Stored bytes read again by the scrub."},
        {&m->scrub_passes, STI_METRIC_COUNTER, "streamit_storage_scrub_passes_total",
         "Passes of the scrub over all partitions that ended."},
        {&m->scrub_damaged, STI_METRIC_COUNTER, "streamit_storage_scrub_damaged_total",
         "Damaged ranges that the scrub found."},
        {&m->scrub_indexes, STI_METRIC_COUNTER, "streamit_storage_scrub_indexes_total",
         "Bad indexes that the scrub had built anew."},
        {&m->scrub_differs, STI_METRIC_COUNTER, "streamit_storage_scrub_differs_total",
         "Batches that were bad at the scrub's first look and sound at the second."},
        {&m->scrub_progress, STI_METRIC_GAUGE, "streamit_storage_scrub_progress_timestamp_seconds",
         "When the scrub last did something, seconds since 1970."},
        {&m->log_bytes, STI_METRIC_GAUGE, "streamit_storage_log_bytes",
         "Bytes of log, without indexes, of the partitions that are open."},
        {&m->segments, STI_METRIC_GAUGE, "streamit_storage_segments",
         "Segments of the partitions that are open."},
        {&m->memory_bytes, STI_METRIC_GAUGE, "streamit_storage_memory_bytes",
         "Memory held for partitions, maps of files left out."},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *rows[i].out = host->metric(host->ctx, rows[i].type, rows[i].name, labels, rows[i].help);
    }
    m->sync_us =
        host->histogram(host->ctx, "streamit_storage_sync_seconds", labels, "Duration of a sync.");
}

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    struct smm_store *store = calloc(1, sizeof *store);
    *self = NULL;
    if (store == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", host->instance);
    }
    store->host = host;
    store->conf = conf;
    store->dir_fd = -1;
    atomic_init(&store->free_bytes, UINT64_MAX);
    pthread_mutex_init(&store->table_mu, NULL);
    pthread_mutex_init(&store->files_mu, NULL);
    pthread_mutex_init(&store->live_mu, NULL);
    pthread_cond_init(&store->live_zero, NULL);
    *self = store;
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    struct smm_store *store = self;
    make_metrics(store);
    int rc = smm_store_start(store, err);
    if (rc == STI_OK && STI_HAS(store->host, collector_add)) {
        store->collector.collect = smm_collect;
        store->host->collector_add(store->host->ctx, &store->collector);
    }
    return rc;
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct smm_store *store = self;
    if (STI_HAS(store->host, collector_remove)) {
        store->host->collector_remove(store->host->ctx, &store->collector);
    }
    return smm_store_stop(store, deadline_ms, err);
}

static void destroy(void *self)
{
    struct smm_store *store = self;
    pthread_cond_destroy(&store->live_zero);
    pthread_mutex_destroy(&store->live_mu);
    pthread_mutex_destroy(&store->files_mu);
    pthread_mutex_destroy(&store->table_mu);
    free(store);
}

static const struct sti_storage storage = {
    .iface = {.struct_size = sizeof(struct sti_storage),
              .major = STI_STORAGE_MAJOR,
              .minor = STI_STORAGE_MINOR,
              .id = STI_STORAGE_ID,
              .caps = STI_STORAGE_DURABLE | STI_STORAGE_FILES | STI_STORAGE_BLOBS |
                      STI_STORAGE_NO_WAIT},
    .open = smm_open,
    .configure = smm_configure,
    .state = smm_state,
    .append = smm_append,
    .read = smm_read,
    .sync = smm_sync,
    .offset_for_time = smm_offset_for_time,
    .truncate = smm_truncate,
    .trim = smm_trim,
    .oldest_segment = smm_oldest_segment,
    .usage = smm_usage,
    .close = smm_close,
    .remove = smm_store_remove,
    .list = smm_store_list,
    .blob_put = smm_blob_put,
    .blob_get = smm_blob_get,
    .space = smm_space,
    .discard = smm_discard,
};
static const struct sti_iface *const provides[] = {&storage.iface, NULL};
static const struct sti_lifecycle lifecycle = {.struct_size = sizeof(struct sti_lifecycle),
                                               .create = create,
                                               .start = start,
                                               .stop = stop,
                                               .destroy = destroy};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = 1,
    .name = "storage_mmap",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Partitions as segment files, appended with pwritev and read as mapped slices.",
    .options = options,
    .conf_size = sizeof(struct smm_conf),
    .provides = provides,
    .life = &lifecycle,
};
