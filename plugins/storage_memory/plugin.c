/* plugin.c -- storage_memory: a partition that lives and dies with the process.
 *
 * The same contract as every storage engine, less durability: reads, order, trim and truncate
 * behave alike, but nothing is ever synced, so the flush policies `commit` and `interval` are
 * refused by name, and after a restart the engine is empty. Memory is bounded: an append that would
 * pass bytes_max is refused and changes nothing.
 *
 * This file: descriptor, options, lifecycle, and the coming and going of partitions.
 */
#include <stdlib.h>
#include <string.h>

#include "storage_memory.h"

static int smem_create(const struct sti_host *host, const void *conf, void **self,
                       struct sti_err *err)
{
    struct smem_engine *engine = calloc(1, sizeof *engine);
    *self = NULL;
    if (engine == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", host->instance);
    }
    engine->host = host;
    engine->conf = conf;
    pthread_mutex_init(&engine->mu, NULL);
    *self = engine;
    return STI_OK;
}

static int smem_start(void *self, struct sti_err *err)
{
    (void)self;
    (void)err;
    return STI_OK;
}

/* Memory goes back in destroy; slices are gone by then, because whatever serves them has stopped
 * before. */
static int smem_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)self;
    (void)deadline_ms;
    (void)err;
    return STI_OK;
}

static void smem_destroy(void *self)
{
    struct smem_engine *engine = self;
    while (engine->partitions != NULL) {
        struct smem_partition *part = engine->partitions;
        engine->partitions = part->next;
        smem_partition_free(part);
    }
    pthread_mutex_destroy(&engine->mu);
    free(engine);
}

/* ---- partitions ---------------------------------------------------------------------------- */

/* @locks engine->mu held */
static struct smem_partition **partition_find(struct smem_engine *engine,
                                              const struct sti_partition_id *id)
{
    struct smem_partition **at = &engine->partitions;
    while (*at != NULL &&
           !((*at)->partition == id->partition && strcmp((*at)->topic, id->topic) == 0 &&
             memcmp((*at)->topic_id, id->topic_id, sizeof id->topic_id) == 0)) {
        at = &(*at)->next;
    }
    return at;
}

static int settings_check(const struct sti_storage_settings *settings, struct sti_err *err)
{
    if (settings->flush_policy != STI_FLUSH_ONROLL) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "flush.policy=%s: storage_memory never syncs anything; use onroll, or "
                           "a durable storage",
                           settings->flush_policy == STI_FLUSH_COMMIT ? "commit" : "interval");
    }
    return STI_OK;
}

static void state_fill(struct smem_partition *part, struct sti_storage_state *out)
{
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    pthread_mutex_lock(&part->mu);
    out->last_epoch = part->last_epoch;
    out->log_start = part->log_start;
    out->written_end = part->written_end;
    out->synced_end = part->log_start; /* nothing is ever synced */
    out->max_timestamp =
        part->chunk_count == 0 ? -1 : part->chunks[part->chunk_count - 1]->max_timestamp;
    out->bytes = part->bytes;
    out->segment_count = part->chunk_count;
    pthread_mutex_unlock(&part->mu);
}

static struct smem_partition *partition_new(struct smem_engine *engine,
                                            const struct sti_partition_id *id)
{
    struct smem_partition *part = calloc(1, sizeof *part);
    if (part != NULL) {
        part->engine = engine;
        snprintf(part->topic, sizeof part->topic, "%s", id->topic);
        memcpy(part->topic_id, id->topic_id, sizeof part->topic_id);
        part->partition = id->partition;
        part->last_epoch = -1;
        part->handle.engine = engine;
        part->handle.part = part;
        pthread_mutex_init(&part->mu, NULL);
    }
    return part;
}

static int smem_open(void *self, const struct sti_storage_open *args,
                     struct sti_storage_partition **out, struct sti_storage_state *state,
                     struct sti_err *err)
{
    struct smem_engine *engine = self;
    const struct sti_partition_id *id = args->id;
    bool create = (args->flags & STI_STORAGE_CREATE) != 0;
    *out = NULL;
    int rc = settings_check(args->settings, err);
    if (rc != STI_OK) {
        return rc;
    }
    pthread_mutex_lock(&engine->mu);
    struct smem_partition *part = *partition_find(engine, id);
    if (part != NULL && part->open) {
        rc = sti_err_set(err, STI_E_IN_USE, "%s-%d is open already", id->topic, id->partition);
    } else if (part != NULL && create) {
        rc = sti_err_set(err, STI_E_ALREADY_EXISTS, "%s-%d exists already", id->topic,
                         id->partition);
    } else if (part == NULL && !create) {
        rc = sti_err_set(err, STI_E_NOT_FOUND, "%s-%d is not in memory", id->topic, id->partition);
    } else if (part == NULL) {
        part = partition_new(engine, id);
        if (part == NULL) {
            rc =
                sti_err_set(err, STI_E_NO_MEMORY, "%s-%d: out of memory", id->topic, id->partition);
        } else {
            part->next = engine->partitions;
            engine->partitions = part;
        }
    }
    if (rc == STI_OK) {
        part->open = true;
        part->settings = *args->settings;
        *out = &part->handle;
    }
    pthread_mutex_unlock(&engine->mu);
    if (rc == STI_OK) {
        state_fill(part, state);
    }
    return rc;
}

static int smem_configure(struct sti_storage_partition *handle,
                          const struct sti_storage_settings *settings, struct sti_err *err)
{
    int rc = settings_check(settings, err);
    if (rc == STI_OK) {
        handle->part->settings = *settings;
    }
    return rc;
}

static void smem_state(struct sti_storage_partition *handle, struct sti_storage_state *out)
{
    state_fill(handle->part, out);
}

static int smem_sync(struct sti_storage_partition *handle, struct sti_storage_sync *op)
{
    (void)handle;
    (void)op;
    return STI_E_UNSUPPORTED;
}

static void smem_usage(struct sti_storage_partition *handle, struct sti_storage_usage *out)
{
    struct smem_partition *part = handle->part;
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    pthread_mutex_lock(&part->mu);
    out->bytes = part->bytes;
    for (uint32_t i = 0; i < part->chunk_count; i++) {
        out->memory_bytes +=
            part->chunks[i]->capacity + part->chunks[i]->entry_capacity * sizeof(struct smem_entry);
    }
    pthread_mutex_unlock(&part->mu);
}

/* The bytes stay until remove or the end of the process: closing is not deleting. */
static int smem_close(struct sti_storage_partition *handle, struct sti_err *err)
{
    struct smem_engine *engine = handle->engine;
    (void)err;
    pthread_mutex_lock(&engine->mu);
    handle->part->open = false;
    pthread_mutex_unlock(&engine->mu);
    return STI_OK;
}

static int smem_remove(void *self, const struct sti_partition_id *id, struct sti_err *err)
{
    struct smem_engine *engine = self;
    int rc = STI_OK;
    pthread_mutex_lock(&engine->mu);
    struct smem_partition **at = partition_find(engine, id);
    struct smem_partition *part = *at;
    if (part != NULL && part->open) {
        rc = sti_err_set(err, STI_E_IN_USE, "%s-%d is still open", id->topic, id->partition);
        part = NULL;
    } else if (part != NULL) {
        *at = part->next;
    }
    pthread_mutex_unlock(&engine->mu);
    if (part != NULL) {
        smem_partition_free(part);
    }
    return rc;
}

static int smem_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id),
                     void *arg, struct sti_err *err)
{
    struct smem_engine *engine = self;
    int rc = STI_OK;
    (void)err;
    pthread_mutex_lock(&engine->mu);
    for (struct smem_partition *part = engine->partitions; part != NULL && rc == STI_OK;
         part = part->next) {
        struct sti_partition_id id = {
            .struct_size = sizeof id, .partition = part->partition, .topic = part->topic};
        memcpy(id.topic_id, part->topic_id, sizeof id.topic_id);
        rc = visit(arg, &id);
    }
    pthread_mutex_unlock(&engine->mu);
    return rc;
}

/* ---- descriptor ---------------------------------------------------------------------------- */

static const struct sti_storage vtable = {
    .iface = {.struct_size = sizeof(struct sti_storage),
              .major = STI_STORAGE_MAJOR,
              .minor = STI_STORAGE_MINOR,
              .id = STI_STORAGE_ID,
              .caps = 0},
    .open = smem_open,
    .configure = smem_configure,
    .state = smem_state,
    .append = smem_append,
    .read = smem_read,
    .sync = smem_sync,
    .offset_for_time = smem_offset_for_time,
    .truncate = smem_truncate,
    .trim = smem_trim,
    .oldest_segment = smem_oldest_segment,
    .usage = smem_usage,
    .close = smem_close,
    .remove = smem_remove,
    .list = smem_list,
};
static const struct sti_iface *const provides[] = {&vtable.iface, NULL};

static const struct sti_option opt_bytes_max = {
    .struct_size = sizeof(struct sti_option),
    .key = "bytes_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct smem_conf, bytes_max),
    .def = "256M",
    .min = 1 << 20,
    .max = INT64_C(1) << 46,
    .unit = "bytes",
    .help = "Memory that all partitions of this instance may hold together; an append beyond it "
            "is refused."};
static const struct sti_option *const options[] = {&opt_bytes_max, NULL};

static const struct sti_lifecycle life = {
    .struct_size = sizeof(struct sti_lifecycle),
    .create = smem_create,
    .start = smem_start,
    .stop = smem_stop,
    .destroy = smem_destroy,
};

STI_PLUGIN_EXPORT extern const struct sti_plugin sti_plugin;
const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .flags = 0,
    .name = "storage_memory",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Partitions in bounded memory, gone with the process",
    .options = options,
    .conf_size = sizeof(struct smem_conf),
    .provides = provides,
    .life = &life,
};
