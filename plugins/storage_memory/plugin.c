/* plugin.c -- descriptor, options and lifecycle of storage_memory; see README.md. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "storage_memory.h"

static const struct sti_option opt_bytes = {
    .struct_size = sizeof(struct sti_option),
    .key = "bytes_max",
    .type = STI_OPT_INT,
    .def = "256M",
    .min = 1048576,
    .max = INT64_C(1) << 46,
    .unit = "bytes",
    .offset = offsetof(struct sme_conf, bytes_max),
    .help = "Memory that all partitions of this instance may hold together; an append beyond it is "
            "refused."};
static const struct sti_option *const options[] = {&opt_bytes, NULL};

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    struct sme_store *store = calloc(1, sizeof *store);
    *self = NULL;
    if (store == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", host->instance);
    }
    store->host = host;
    store->conf = conf;
    pthread_mutex_init(&store->mu, NULL);
    pthread_mutex_init(&store->live_mu, NULL);
    pthread_cond_init(&store->live_zero, NULL);
    *self = store;
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    struct sme_store *store = self;
    char labels[128];
    (void)err;
    (void)snprintf(labels, sizeof labels, "storage=\"%.64s\"", store->host->instance);
    store->bytes_metric =
        store->host->metric(store->host->ctx, STI_METRIC_GAUGE, "streamit_storage_memory_bytes",
                            labels, "Memory of segments, also of those that only slices hold.");
    store->refused_metric = store->host->metric(store->host->ctx, STI_METRIC_COUNTER,
                                                "streamit_storage_memory_refused_total", labels,
                                                "Appends refused because bytes_max was reached.");
    return STI_OK;
}

/* Everything is forgotten; slices that are still held are waited for. @thread main */
static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct sme_store *store = self;
    while (store->parts != NULL) {
        struct sti_storage_partition *part = store->parts;
        store->parts = part->next;
        sme_part_free(part);
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(deadline_ms / 1000u) + 1;
    int rc = 0;
    pthread_mutex_lock(&store->live_mu);
    while (store->live > 0 && rc == 0) {
        rc = pthread_cond_timedwait(&store->live_zero, &store->live_mu, &until);
    }
    uint64_t live = store->live;
    pthread_mutex_unlock(&store->live_mu);
    return live == 0
               ? STI_OK
               : sti_err_set(err, STI_E_TIMED_OUT, "%" PRIu64 " segments are still in use", live);
}

static void destroy(void *self)
{
    struct sme_store *store = self;
    pthread_cond_destroy(&store->live_zero);
    pthread_mutex_destroy(&store->live_mu);
    pthread_mutex_destroy(&store->mu);
    free(store);
}

static const struct sti_storage storage = {
    .iface = {.struct_size = sizeof(struct sti_storage),
              .major = STI_STORAGE_MAJOR,
              .minor = STI_STORAGE_MINOR,
              .id = STI_STORAGE_ID,
              .caps = STI_STORAGE_BLOBS | STI_STORAGE_NO_WAIT},
    .open = sme_open,
    .configure = sme_configure,
    .state = sme_state,
    .append = sme_append,
    .read = sme_read,
    .sync = sme_sync,
    .offset_for_time = sme_offset_for_time,
    .truncate = sme_truncate,
    .trim = sme_trim,
    .oldest_segment = sme_oldest_segment,
    .usage = sme_usage,
    .close = sme_close,
    .remove = sme_remove,
    .list = sme_list,
    .blob_put = sme_blob_put,
    .blob_get = sme_blob_get,
    .space = sme_space,
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
    .name = "storage_memory",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Partitions in bounded memory, gone with the process.",
    .options = options,
    .conf_size = sizeof(struct sme_conf),
    .provides = provides,
    .life = &lifecycle,
};
