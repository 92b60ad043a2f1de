/* partition.c -- partitions by name, their settings, state and blobs. They live until they are
 * removed or the instance stops: closing one only lets go of the handle. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage_memory.h"

enum { CHUNK_MIN = 4096 };

struct sme_blob {
    struct sme_blob *next;
    void *data;
    size_t len;
    char name[65];
};

void sme_part_free(struct sti_storage_partition *part)
{
    while (part->blobs != NULL) {
        struct sme_blob *next = part->blobs->next;
        free(part->blobs->data);
        free(part->blobs);
        part->blobs = next;
    }
    for (uint32_t i = 0; i < part->chunk_count; i++) {
        sme_chunk_unref(part->chunks[i]);
    }
    free(part->chunks);
    pthread_mutex_destroy(&part->mu);
    free(part);
}

/* @locks store->mu held */
static struct sti_storage_partition **find_part(struct sme_store *store,
                                                const struct sti_partition_id *id)
{
    struct sti_storage_partition **link = &store->parts;
    while (*link != NULL &&
           ((*link)->partition != id->partition || strcmp((*link)->topic, id->topic) != 0)) {
        link = &(*link)->next;
    }
    return link;
}

static int check_settings(const struct sti_storage_settings *settings, struct sti_err *err)
{
    static const char *const names[] = {"onroll", "interval", "commit"};
    if (settings->flush_policy != STI_FLUSH_ONROLL) {
        bool known = settings->flush_policy > 0 && settings->flush_policy <= STI_FLUSH_COMMIT;
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "flush.policy=%s: storage_memory keeps nothing over a restart",
                           known ? names[settings->flush_policy] : "?");
    }
    if (settings->segment_bytes < 1) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "segment_bytes %" PRId64 ": must be positive",
                           settings->segment_bytes);
    }
    return STI_OK;
}

int sme_configure(struct sti_storage_partition *part, const struct sti_storage_settings *settings,
                  struct sti_err *err)
{
    int rc = check_settings(settings, err);
    if (rc == STI_OK) {
        pthread_mutex_lock(&part->mu);
        part->settings = *settings;
        pthread_mutex_unlock(&part->mu);
    }
    return rc;
}

static struct sti_storage_partition *part_new(struct sme_store *store,
                                              const struct sti_storage_open *args, bool *over)
{
    struct sti_storage_partition *part = calloc(1, sizeof *part + strlen(args->id->topic) + 1);
    *over = false;
    if (part == NULL) {
        return NULL;
    }
    memcpy(part->topic, args->id->topic, strlen(args->id->topic) + 1);
    memcpy(part->topic_id, args->id->topic_id, sizeof part->topic_id);
    part->partition = args->id->partition;
    part->store = store;
    part->last_epoch = -1;
    pthread_mutex_init(&part->mu, NULL);
    struct sme_chunk *first =
        sme_list_room(part, 1) ? sme_chunk_new(store, 0, CHUNK_MIN, over) : NULL;
    if (first == NULL) {
        sme_part_free(part);
        return NULL;
    }
    part->chunks[part->chunk_count++] = first;
    return part;
}

static bool is_topic(const char *topic)
{
    size_t len = strlen(topic);
    return len >= 1 && len <= 249 &&
           strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               len;
}

int sme_open(void *self, const struct sti_storage_open *args, struct sti_storage_partition **out,
             struct sti_storage_state *state, struct sti_err *err)
{
    struct sme_store *store = self;
    const struct sti_partition_id *id = args->id;
    *out = NULL;
    int rc = check_settings(args->settings, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (!is_topic(id->topic) || id->partition < 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%.60s-%" PRId32 ": not a partition's name",
                           id->topic, id->partition);
    }
    bool create = (args->flags & STI_STORAGE_CREATE) != 0, over = false;
    pthread_mutex_lock(&store->mu);
    struct sti_storage_partition *part = *find_part(store, id);
    if (part != NULL && part->open) {
        rc = STI_E_IN_USE;
    } else if (part != NULL && create) {
        rc = STI_E_ALREADY_EXISTS;
    } else if (part != NULL && memcmp(part->topic_id, id->topic_id, sizeof part->topic_id) != 0) {
        rc = STI_E_NOT_FOUND;
    } else if (part == NULL && !create) {
        rc = STI_E_NOT_FOUND;
    } else if (part == NULL) {
        part = part_new(store, args, &over);
        if (part == NULL) {
            rc = over ? STI_E_RESOURCE_EXHAUSTED : STI_E_NO_MEMORY;
        } else {
            part->next = store->parts;
            store->parts = part;
        }
    }
    if (rc == STI_OK) {
        part->settings = *args->settings;
        part->open = true;
    }
    pthread_mutex_unlock(&store->mu);
    if (over) {
        sti_metric_add(store->refused_metric, 1);
        return sti_err_set(err, rc,
                           "%s-%" PRId32 ": bytes_max = %" PRId64 " of storage %s is reached",
                           id->topic, id->partition, store->conf->bytes_max, store->host->instance);
    }
    if (rc != STI_OK) {
        return sti_err_set(err, rc, "%s-%" PRId32 ": %s", id->topic, id->partition,
                           sti_status_text(rc));
    }
    sme_state(part, state);
    *out = part;
    return STI_OK;
}

int sme_close(struct sti_storage_partition *part, struct sti_err *err)
{
    struct sme_store *store = part->store;
    (void)err;
    pthread_mutex_lock(&store->mu);
    part->open = false;
    pthread_mutex_unlock(&store->mu);
    return STI_OK;
}

void sme_state(struct sti_storage_partition *part, struct sti_storage_state *out)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    pthread_mutex_lock(&part->mu);
    state.last_epoch = part->last_epoch;
    state.log_start = part->log_start;
    state.written_end = state.synced_end = part->written_end;
    state.max_timestamp = part->chunks[part->chunk_count - 1]->max_timestamp;
    state.bytes = part->bytes;
    state.segment_count = part->chunk_count;
    pthread_mutex_unlock(&part->mu);
    *out = state;
}

void sme_usage(struct sti_storage_partition *part, struct sti_storage_usage *out)
{
    struct sti_storage_usage usage = {.struct_size = sizeof usage};
    pthread_mutex_lock(&part->mu);
    usage.bytes = part->bytes;
    usage.memory_bytes = sizeof *part + part->chunk_capacity * sizeof(*part->chunks);
    for (uint32_t i = 0; i < part->chunk_count; i++) {
        const struct sme_chunk *chunk = part->chunks[i];
        usage.memory_bytes +=
            sizeof *chunk + chunk->capacity + chunk->batch_capacity * sizeof *chunk->batches;
    }
    pthread_mutex_unlock(&part->mu);
    *out = usage;
}

/* What is written is as safe as it will be. */
int sme_sync(struct sti_storage_partition *part, struct sti_storage_sync *op)
{
    pthread_mutex_lock(&part->mu);
    op->synced_end = part->written_end;
    pthread_mutex_unlock(&part->mu);
    op->done(op, STI_OK, NULL);
    return STI_OK;
}

int sme_remove(void *self, const struct sti_partition_id *id, struct sti_err *err)
{
    struct sme_store *store = self;
    pthread_mutex_lock(&store->mu);
    struct sti_storage_partition **link = find_part(store, id);
    struct sti_storage_partition *part = *link;
    if (part != NULL && memcmp(part->topic_id, id->topic_id, sizeof part->topic_id) != 0) {
        part = NULL; /* another topic's, which has the name now */
    }
    bool open = part != NULL && part->open;
    if (part != NULL && !open) {
        *link = part->next;
    }
    pthread_mutex_unlock(&store->mu);
    if (open) {
        return sti_err_set(err, STI_E_IN_USE, "%s-%" PRId32 ": the partition is still open",
                           id->topic, id->partition);
    }
    if (part != NULL) {
        sme_part_free(part);
    }
    return STI_OK;
}

/* The bound, and what segments that live leave of it. */
int sme_space(void *self, struct sti_storage_space *out, struct sti_err *err)
{
    struct sme_store *store = self;
    int64_t bound = store->conf->bytes_max, used = atomic_load(&store->bytes);
    (void)err;
    *out = (struct sti_storage_space){.struct_size = sizeof *out,
                                      .total_bytes = (uint64_t)bound,
                                      .free_bytes = used < bound ? (uint64_t)(bound - used) : 0};
    return STI_OK;
}

/* The visitor must not open, close or remove. */
int sme_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg,
             struct sti_err *err)
{
    struct sme_store *store = self;
    int rc = STI_OK;
    (void)err;
    pthread_mutex_lock(&store->mu);
    for (struct sti_storage_partition *part = store->parts; part != NULL && rc == STI_OK;
         part = part->next) {
        struct sti_partition_id id = {
            .struct_size = sizeof id, .partition = part->partition, .topic = part->topic};
        memcpy(id.topic_id, part->topic_id, sizeof id.topic_id);
        rc = visit(arg, &id);
    }
    pthread_mutex_unlock(&store->mu);
    return rc;
}

/* ---- blobs --------------------------------------------------------------------------------- */

static bool is_blob_name(const char *name)
{
    size_t len = strlen(name);
    return len >= 1 && len <= 64 && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len;
}

int sme_blob_put(struct sti_storage_partition *part, const char *name, const void *data, size_t len,
                 struct sti_err *err)
{
    if (!is_blob_name(name)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "\"%.64s\" is no name for a blob", name);
    }
    void *copy = malloc(len + 1);
    struct sme_blob *fresh = calloc(1, sizeof *fresh);
    if (copy == NULL || fresh == NULL) {
        free(copy);
        free(fresh);
        return sti_err_set(err, STI_E_NO_MEMORY, "blob %s: out of memory", name);
    }
    if (len > 0) {
        memcpy(copy, data, len);
    }
    pthread_mutex_lock(&part->mu);
    struct sme_blob *blob = part->blobs;
    while (blob != NULL && strcmp(blob->name, name) != 0) {
        blob = blob->next;
    }
    if (blob == NULL) {
        blob = fresh;
        fresh = NULL;
        memcpy(blob->name, name, strlen(name) + 1);
        blob->next = part->blobs;
        part->blobs = blob;
    }
    free(blob->data);
    blob->data = copy;
    blob->len = len;
    pthread_mutex_unlock(&part->mu);
    free(fresh);
    return STI_OK;
}

int sme_blob_get(struct sti_storage_partition *part, const char *name, void **data, size_t *len,
                 struct sti_err *err)
{
    *data = NULL;
    *len = 0;
    if (!is_blob_name(name)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "\"%.64s\" is no name for a blob", name);
    }
    bool found = false;
    pthread_mutex_lock(&part->mu);
    for (struct sme_blob *blob = part->blobs; blob != NULL; blob = blob->next) {
        if (strcmp(blob->name, name) == 0) {
            found = true;
            *data = malloc(blob->len + 1);
            if (*data != NULL) {
                memcpy(*data, blob->data, blob->len);
                *len = blob->len;
            }
        }
    }
    pthread_mutex_unlock(&part->mu);
    if (!found) {
        return sti_err_set(err, STI_E_NOT_FOUND, "there is no blob %.64s", name);
    }
    return *data != NULL ? STI_OK : sti_err_set(err, STI_E_NO_MEMORY, "blob: out of memory");
}
