/* fake_storage.c -- logs as lists of batches in memory. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fakes.h"
#include "fixture.h"

struct fs_batch {
    struct sti_slice_owner owner; /* slices hold references */
    _Atomic uint32_t refs;
    struct fs_batch *next;
    int64_t base, last, max_timestamp;
    uint32_t segment;
    uint64_t len;
    uint8_t bytes[];
};

struct fs_log {
    struct fs_log *next;
    char topic[256];
    int32_t partition;
    uint8_t topic_id[16];
    struct fs_batch *batches;
    int64_t start, end, synced;
    int32_t epoch;
    uint32_t segment, in_segment; /* the newest, and its batches */
    char *blob;
    size_t blob_len;
    struct sti_storage_partition *handle; /* while open */
    bool poisoned;
};

struct sti_storage_partition {
    struct fake_storage *fs;
    struct fs_log *log;
    const struct sti_storage_events *events;
    void *ctx;
    struct sti_storage_append *append; /* held */
    bool appending;
    struct sti_storage_read *reads[16]; /* held */
    unsigned read_count;
    pthread_t thread; /* completes a delayed append */
    bool thread_made;
};

/* ---- batches --------------------------------------------------------------------------------- */

static void batch_ref(struct sti_slice_owner *owner)
{
    struct fs_batch *batch = (struct fs_batch *)(void *)owner;
    atomic_fetch_add(&batch->refs, 1);
}

static void batch_unref(struct sti_slice_owner *owner)
{
    struct fs_batch *batch = (struct fs_batch *)(void *)owner;
    if (atomic_fetch_sub(&batch->refs, 1) == 1) {
        free(batch);
    }
}

static struct fs_batch *batch_new(const struct sti_append_batch *from)
{
    struct fs_batch *batch = calloc(1, sizeof *batch + from->len);
    size_t at = STI_BATCH_PATCH_LEN;
    if (batch == NULL) {
        abort();
    }
    batch->owner = (struct sti_slice_owner){.ref = batch_ref, .unref = batch_unref};
    atomic_init(&batch->refs, 1);
    batch->base = from->base_offset;
    batch->last = from->last_offset;
    batch->max_timestamp = from->max_timestamp;
    batch->len = from->len;
    memcpy(batch->bytes, from->head, STI_BATCH_PATCH_LEN);
    for (uint32_t i = 0; i < from->slice_count; i++) {
        memcpy(batch->bytes + at, from->slices[i].data, (size_t)from->slices[i].len);
        at += (size_t)from->slices[i].len;
    }
    return batch;
}

/* @locks fs->mu held */
static void log_put(struct fake_storage *fs, struct fs_log *log,
                    const struct sti_append_batch *from)
{
    struct fs_batch **at = &log->batches, *batch = batch_new(from);
    while (*at != NULL) {
        at = &(*at)->next;
    }
    if (fs->segment_batches > 0 && log->in_segment == fs->segment_batches) {
        log->segment++;
        log->in_segment = 0;
    }
    log->in_segment++;
    batch->segment = log->segment;
    *at = batch;
    fs->violations += from->base_offset != log->end ? 1u : 0u;
    log->end = batch->last + 1;
    log->epoch = from->leader_epoch;
}

static void log_clear(struct fs_log *log)
{
    while (log->batches != NULL) {
        struct fs_batch *batch = log->batches;
        log->batches = batch->next;
        batch_unref(&batch->owner);
    }
    free(log->blob);
    log->blob = NULL;
}

/* @locks fs->mu held */
static struct fs_log *log_find(struct fake_storage *fs, const char *topic, int32_t partition)
{
    struct fs_log *log = fs->logs;
    while (log != NULL && (log->partition != partition || strcmp(log->topic, topic) != 0)) {
        log = log->next;
    }
    return log;
}

static void log_drop(struct fake_storage *fs, struct fs_log *log)
{
    for (struct fs_log **at = &fs->logs; *at != NULL; at = &(*at)->next) {
        if (*at == log) {
            *at = log->next;
            log_clear(log);
            free(log);
            return;
        }
    }
}

static uint64_t log_bytes(const struct fs_log *log)
{
    uint64_t bytes = 0;
    for (const struct fs_batch *batch = log->batches; batch != NULL; batch = batch->next) {
        bytes += batch->len;
    }
    return bytes;
}

/* ---- open, close ------------------------------------------------------------------------------
 */

static void state_fill(struct fs_log *log, struct sti_storage_state *out)
{
    *out = (struct sti_storage_state){.struct_size = sizeof *out,
                                      .last_epoch = log->epoch,
                                      .log_start = log->start,
                                      .written_end = log->end,
                                      .synced_end = log->synced,
                                      .max_timestamp = -1,
                                      .bytes = log_bytes(log),
                                      .segment_count = log->segment + 1};
    for (const struct fs_batch *batch = log->batches; batch != NULL; batch = batch->next) {
        if (batch->segment == log->segment && batch->max_timestamp > out->max_timestamp) {
            out->max_timestamp = batch->max_timestamp;
        }
    }
}

static struct fs_log *log_make(struct fake_storage *fs, const struct sti_partition_id *id)
{
    struct fs_log *log = calloc(1, sizeof *log);
    if (log == NULL) {
        abort();
    }
    snprintf(log->topic, sizeof log->topic, "%s", id->topic);
    log->partition = id->partition;
    memcpy(log->topic_id, id->topic_id, sizeof log->topic_id);
    log->epoch = -1;
    log->next = fs->logs;
    fs->logs = log;
    fs->creates++;
    return log;
}

/* Wait while opens are held, as a recovery that takes its time. @return false: it is not wanted any
 * more. @locks fs->mu held, released while it waits */
static bool open_wait(struct fake_storage *fs, const struct sti_storage_open *args)
{
    const struct timespec moment = {.tv_nsec = 200000};
    int stop = 0;
    while (stop == 0 && fs->hold_opens &&
           (fs->hold_topic == NULL || strcmp(fs->hold_topic, args->id->topic) == 0)) {
        pthread_mutex_unlock(&fs->mu);
        stop = args->events->recovering(args->events_ctx, 1000);
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&fs->mu);
    }
    return stop == 0;
}

static int fake_open(void *self, const struct sti_storage_open *args,
                     struct sti_storage_partition **part, struct sti_storage_state *state,
                     struct sti_err *err)
{
    struct fake_storage *fs = self;
    pthread_mutex_lock(&fs->mu);
    if (fs->opens_begun < sizeof fs->opened / sizeof *fs->opened) {
        snprintf(fs->opened[fs->opens_begun], sizeof *fs->opened, "%.15s", args->id->topic);
    }
    fs->opens_begun++;
    pthread_cond_broadcast(&fs->changed);
    if (!open_wait(fs, args)) {
        fs->opens_cancelled++;
        pthread_mutex_unlock(&fs->mu);
        return sti_err_set(err, STI_E_CANCELLED, "nobody wants it any more");
    }
    bool meant = fs->open_topic == NULL || strcmp(fs->open_topic, args->id->topic) == 0;
    int rc = meant ? fs->open_status : STI_OK;
    struct fs_log *log = log_find(fs, args->id->topic, args->id->partition);
    if (rc != STI_OK && rc != STI_E_DATA_LOSS) {
        sti_err_set(err, rc, "the fake does not open");
    } else if (log == NULL && (args->flags & STI_STORAGE_CREATE) == 0) {
        rc = sti_err_set(err, STI_E_NOT_FOUND, "no such partition");
    } else {
        log = log != NULL ? log : log_make(fs, args->id);
        fs->violations += log->handle != NULL ? 1u : 0u;
        struct sti_storage_partition *p = calloc(1, sizeof *p);
        if (p == NULL) {
            abort();
        }
        p->fs = fs;
        p->log = log;
        p->events = args->events;
        p->ctx = args->events_ctx;
        log->handle = p;
        log->poisoned = false;
        log->synced = fs->unsynced_on_open ? log->start : log->synced;
        fs->settings = *args->settings;
        fs->opens++;
        state_fill(log, state);
        *part = p;
        if (rc == STI_E_DATA_LOSS) {
            sti_err_set(err, rc, "the fake is damaged");
        }
    }
    bool fails = fs->fail_on_open && *part != NULL;
    fs->fail_on_open = fs->fail_on_open && !fails;
    pthread_mutex_unlock(&fs->mu);
    if (fails) {
        fs_fail(fs, args->id->topic, args->id->partition);
    }
    return rc;
}

static void append_finish(struct sti_storage_partition *part, struct sti_storage_append *op);

static int fake_close(struct sti_storage_partition *part, struct sti_err *err)
{
    struct fake_storage *fs = part->fs;
    pthread_mutex_lock(&fs->mu);
    fs->violations += part->appending ? 1u : 0u;
    fs->violations += part->read_count > 0 ? 1u : 0u;
    bool joins = part->thread_made, tell = fs->sync_on_close;
    int64_t end = part->log->end;
    pthread_mutex_unlock(&fs->mu);
    if (joins) {
        pthread_join(part->thread, NULL);
    }
    if (tell) {
        part->events->synced(part->ctx, end);
    }
    pthread_mutex_lock(&fs->mu);
    int rc = fs->close_status;
    part->log->handle = NULL;
    fs->closes++;
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mu);
    free(part);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake does not close well");
}

static int fake_remove(void *self, const struct sti_partition_id *id, struct sti_err *err)
{
    struct fake_storage *fs = self;
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, id->topic, id->partition);
    int rc = fs->remove_status;
    if (rc == STI_OK && log != NULL) {
        fs->violations += log->handle != NULL ? 1u : 0u;
        fs->violations += memcmp(log->topic_id, id->topic_id, 16) != 0 ? 1u : 0u;
        log_drop(fs, log);
    }
    fs->removes++;
    pthread_mutex_unlock(&fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake does not remove");
}

static int fake_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id),
                     void *arg, struct sti_err *err)
{
    (void)self;
    (void)visit;
    (void)arg;
    (void)err;
    return STI_OK;
}

static int fake_configure(struct sti_storage_partition *part,
                          const struct sti_storage_settings *settings, struct sti_err *err)
{
    struct fake_storage *fs = part->fs;
    const struct timespec moment = {.tv_nsec = 200000};
    pthread_mutex_lock(&fs->mu);
    fs->configures_begun++;
    pthread_cond_broadcast(&fs->changed);
    while (fs->hold_configures) {
        pthread_mutex_unlock(&fs->mu);
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&fs->mu);
    }
    int rc = fs->configure_status;
    if (rc == STI_OK) {
        fs->settings = *settings;
    }
    fs->configures++;
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake takes no such setting");
}

static void fake_state(struct sti_storage_partition *part, struct sti_storage_state *out)
{
    pthread_mutex_lock(&part->fs->mu);
    state_fill(part->log, out);
    out->flags = part->fs->damage_untold ? STI_STORAGE_STATE_DAMAGED : 0;
    pthread_mutex_unlock(&part->fs->mu);
}

static void fake_usage(struct sti_storage_partition *part, struct sti_storage_usage *out)
{
    pthread_mutex_lock(&part->fs->mu);
    *out = (struct sti_storage_usage){.struct_size = sizeof *out, .bytes = log_bytes(part->log)};
    pthread_mutex_unlock(&part->fs->mu);
}

/* ---- append -----------------------------------------------------------------------------------
 */

/* Complete an append that was taken; called without the lock. */
static void append_finish(struct sti_storage_partition *part, struct sti_storage_append *op)
{
    struct fake_storage *fs = part->fs;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&fs->mu);
    int rc = fs->append_status;
    bool tell = rc == STI_OK && fs->auto_sync;
    if (rc == STI_OK) {
        for (uint32_t i = 0; i < op->batch_count; i++) {
            log_put(fs, part->log, op->batches[i]);
            fs->space_free -= fs->space_shrinks ? op->batches[i]->len : 0;
        }
    } else {
        sti_err_set(&err, rc, "the fake refuses");
        op->bytes_needed = rc == STI_E_DISK_FULL ? fs->bytes_needed : 0;
    }
    op->written_end = part->log->end;
    part->log->synced = tell ? part->log->end : part->log->synced;
    int64_t end = part->log->end;
    const struct sti_storage_events *events = part->events;
    void *ctx = part->ctx;
    part->appending = false;
    pthread_mutex_unlock(&fs->mu);
    if (tell) {
        events->synced(ctx, end);
    }
    op->done(op, rc, &err);
}

static void *append_thread(void *arg)
{
    struct sti_storage_partition *part = arg;
    const struct timespec wait = {.tv_nsec = (long)part->fs->append_delay_us * 1000};
    nanosleep(&wait, NULL);
    append_finish(part, part->append);
    return NULL;
}

static int fake_append(struct sti_storage_partition *part, struct sti_storage_append *op)
{
    struct fake_storage *fs = part->fs;
    pthread_mutex_lock(&fs->mu);
    if (fs->append_slow_us > 0) {
        const struct timespec wait = {.tv_nsec = (long)fs->append_slow_us * 1000};
        pthread_mutex_unlock(&fs->mu);
        nanosleep(&wait, NULL);
        pthread_mutex_lock(&fs->mu);
    }
    if ((op->flags & STI_APPEND_NO_WAIT) != 0) {
        fs->appends_no_wait++;
        if (fs->would_block_appends || fs->hold_appends) {
            pthread_mutex_unlock(&fs->mu);
            return STI_E_WOULD_BLOCK;
        }
    }
    int rc = part->log->poisoned || fs->damage_untold ? STI_E_POISONED : fs->append_refuse;
    fs->violations += part->appending ? 1u : 0u;
    fs->appends++;
    fs->batches_last = op->batch_count;
    fs->batches_max = op->batch_count > fs->batches_max ? op->batch_count : fs->batches_max;
    fs->append_thread = pthread_self();
    bool hold = rc == STI_OK && fs->hold_appends, threaded = !hold && fs->append_delay_us > 0;
    if (hold) {
        part->append = op;
        fs->appends_held++;
    }
    part->appending = rc == STI_OK;
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mu);
    if (rc == STI_OK && threaded) {
        if (part->thread_made) {
            pthread_join(part->thread, NULL);
        }
        part->append = op;
        part->thread_made = pthread_create(&part->thread, NULL, append_thread, part) == 0;
    } else if (rc == STI_OK && !hold) {
        append_finish(part, op);
    }
    return rc;
}

unsigned fs_release_appends(struct fake_storage *fs)
{
    unsigned count = 0;
    pthread_mutex_lock(&fs->mu);
    fs->hold_appends = false;
    for (struct fs_log *log = fs->logs; log != NULL;) {
        struct sti_storage_partition *part = log->handle;
        struct sti_storage_append *op = part == NULL ? NULL : part->append;
        log = log->next;
        if (op != NULL && part->appending && !part->thread_made) {
            part->append = NULL;
            fs->appends_held--;
            pthread_mutex_unlock(&fs->mu);
            append_finish(part, op);
            count++;
            pthread_mutex_lock(&fs->mu);
            log = fs->logs; /* the list may have changed */
        }
    }
    pthread_mutex_unlock(&fs->mu);
    return count;
}

void fs_release_append(struct fake_storage *fs, const char *topic, int32_t partition)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    struct sti_storage_partition *part = log == NULL ? NULL : log->handle;
    struct sti_storage_append *op = part == NULL ? NULL : part->append;
    if (op != NULL) {
        part->append = NULL;
        fs->appends_held--;
    }
    pthread_mutex_unlock(&fs->mu);
    assert_non_null(op);
    if (op != NULL) { /* the analyser does not know what an assertion does */
        append_finish(part, op);
    }
}

/* ---- read -------------------------------------------------------------------------------------
 */

/* @locks fs->mu held */
static int read_fill(struct fs_log *log, struct sti_storage_read *op)
{
    if (op->offset < log->start || op->offset > op->end_offset || op->end_offset > log->end) {
        return STI_E_OFFSET_OUT_OF_RANGE;
    }
    for (struct fs_batch *batch = log->batches; batch != NULL; batch = batch->next) {
        if (batch->last < op->offset || batch->base >= op->end_offset) {
            continue;
        }
        if (op->slice_count == op->slice_max ||
            (op->slice_count > 0 && op->bytes + batch->len > op->max_bytes)) {
            break;
        }
        batch_ref(&batch->owner);
        op->slices[op->slice_count++] = (struct sti_slice){
            .data = batch->bytes, .len = batch->len, .owner = &batch->owner, .fd = -1};
        op->bytes += batch->len;
    }
    return STI_OK;
}

static void read_finish(struct sti_storage_partition *part, struct sti_storage_read *op)
{
    struct fake_storage *fs = part->fs;
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&fs->mu);
    int rc = fs->read_status != STI_OK ? fs->read_status : read_fill(part->log, op);
    pthread_mutex_unlock(&fs->mu);
    op->done(op, rc, &err);
}

static int fake_read(struct sti_storage_partition *part, struct sti_storage_read *op)
{
    struct fake_storage *fs = part->fs;
    int rc = STI_OK;
    pthread_mutex_lock(&fs->mu);
    fs->reads++;
    fs->reads_no_wait += (op->flags & STI_READ_NO_WAIT) != 0 ? 1u : 0u;
    if ((op->flags & STI_READ_NO_WAIT) != 0 && fs->would_block > 0) {
        fs->would_block--;
        rc = STI_E_WOULD_BLOCK;
    }
    bool hold = rc == STI_OK && fs->hold_reads;
    if (hold) {
        part->reads[part->read_count++] = op;
        fs->reads_held++;
    }
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mu);
    if (rc == STI_OK && !hold) {
        read_finish(part, op);
    }
    return rc;
}

unsigned fs_release_reads(struct fake_storage *fs)
{
    unsigned count = 0;
    pthread_mutex_lock(&fs->mu);
    fs->hold_reads = false;
    for (struct fs_log *log = fs->logs; log != NULL;) {
        struct sti_storage_partition *part = log->handle;
        log = log->next;
        if (part != NULL && part->read_count > 0) {
            struct sti_storage_read *op = part->reads[--part->read_count];
            pthread_mutex_unlock(&fs->mu);
            read_finish(part, op);
            count++;
            pthread_mutex_lock(&fs->mu);
            log = fs->logs;
        }
    }
    pthread_mutex_unlock(&fs->mu);
    return count;
}

static int fake_sync(struct sti_storage_partition *part, struct sti_storage_sync *op)
{
    pthread_mutex_lock(&part->fs->mu);
    op->synced_end = part->log->synced = part->log->end;
    pthread_mutex_unlock(&part->fs->mu);
    op->done(op, STI_OK, NULL);
    return STI_OK;
}

static int fake_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms,
                                int64_t *offset, int64_t *found_ms, struct sti_err *err)
{
    int rc = STI_E_NOT_FOUND;
    pthread_mutex_lock(&part->fs->mu);
    for (struct fs_batch *b = part->log->batches; b != NULL && rc != STI_OK; b = b->next) {
        if (b->max_timestamp >= timestamp_ms) {
            *offset = b->base;
            *found_ms = b->max_timestamp;
            rc = STI_OK;
        }
    }
    pthread_mutex_unlock(&part->fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "all are older");
}

/* ---- trimming, blobs --------------------------------------------------------------------------
 */

static int fake_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err)
{
    (void)part;
    (void)offset;
    return sti_err_set(err, STI_E_IO, "the fake does not truncate");
}

static int fake_trim(struct sti_storage_partition *part, int64_t start, struct sti_err *err)
{
    struct fs_log *log = part->log;
    pthread_mutex_lock(&part->fs->mu);
    int rc = part->fs->trim_status;
    while (rc == STI_OK && log->batches != NULL && log->batches->last < start) {
        struct fs_batch *batch = log->batches;
        log->batches = batch->next;
        batch_unref(&batch->owner);
    }
    log->start = rc == STI_OK && start > log->start ? start : log->start;
    part->fs->trims++;
    pthread_cond_broadcast(&part->fs->changed);
    pthread_mutex_unlock(&part->fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake does not trim");
}

static int fake_oldest(struct sti_storage_partition *part, int64_t *end, uint64_t *bytes,
                       int64_t *max_timestamp)
{
    struct fs_log *log = part->log;
    int rc = STI_E_NOT_FOUND;
    *bytes = 0;
    *max_timestamp = -1;
    pthread_mutex_lock(&part->fs->mu);
    for (struct fs_batch *batch = log->batches; batch != NULL; batch = batch->next) {
        if (batch->segment != log->batches->segment) {
            *end = batch->base;
            rc = STI_OK;
            break;
        }
        *bytes += batch->len;
        *max_timestamp =
            batch->max_timestamp > *max_timestamp ? batch->max_timestamp : *max_timestamp;
    }
    pthread_mutex_unlock(&part->fs->mu);
    return rc;
}

static int fake_blob_put(struct sti_storage_partition *part, const char *name, const void *data,
                         size_t len, struct sti_err *err)
{
    struct fake_storage *fs = part->fs;
    (void)name;
    pthread_mutex_lock(&fs->mu);
    int rc = fs->blob_status;
    if (rc == STI_OK) {
        free(part->log->blob);
        part->log->blob = malloc(len + 1);
        if (part->log->blob == NULL) {
            abort();
        }
        memcpy(part->log->blob, data, len);
        part->log->blob[len] = '\0';
        part->log->blob_len = len;
    }
    pthread_mutex_unlock(&fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake keeps no blob");
}

static int fake_blob_get(struct sti_storage_partition *part, const char *name, void **data,
                         size_t *len, struct sti_err *err)
{
    int rc = STI_E_NOT_FOUND;
    (void)name;
    pthread_mutex_lock(&part->fs->mu);
    if (part->log->blob != NULL) {
        *data = strndup(part->log->blob, part->log->blob_len);
        *len = part->log->blob_len;
        rc = STI_OK;
    }
    pthread_mutex_unlock(&part->fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "no blob");
}

static int fake_discard(struct sti_storage_partition *part, struct sti_err *err)
{
    pthread_mutex_lock(&part->fs->mu);
    part->fs->discards++;
    pthread_mutex_unlock(&part->fs->mu);
    return fake_close(part, err);
}

static int fake_space(void *self, struct sti_storage_space *out, struct sti_err *err)
{
    struct fake_storage *fs = self;
    pthread_mutex_lock(&fs->mu);
    int rc = fs->space_status;
    *out = (struct sti_storage_space){.struct_size = sizeof *out,
                                      .total_bytes = rc == STI_OK ? fs->space_total : 0,
                                      .free_bytes = rc == STI_OK ? fs->space_free : 0};
    fs->spaces++;
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mu);
    return rc == STI_OK ? rc : sti_err_set(err, rc, "the fake does not know its room");
}

/* ---- the test's side ----------------------------------------------------------------------------
 */

struct fake_storage *fs_new(void)
{
    struct fake_storage *fs = calloc(1, sizeof *fs);
    if (fs == NULL) {
        abort();
    }
    fs->vtable = (struct sti_storage){
        .iface = {.struct_size = sizeof fs->vtable,
                  .major = STI_STORAGE_MAJOR,
                  .minor = STI_STORAGE_MINOR,
                  .id = STI_STORAGE_ID,
                  .caps = STI_STORAGE_DURABLE | STI_STORAGE_BLOBS | STI_STORAGE_NO_WAIT},
        .open = fake_open,
        .configure = fake_configure,
        .state = fake_state,
        .append = fake_append,
        .read = fake_read,
        .sync = fake_sync,
        .offset_for_time = fake_offset_for_time,
        .truncate = fake_truncate,
        .trim = fake_trim,
        .oldest_segment = fake_oldest,
        .usage = fake_usage,
        .close = fake_close,
        .remove = fake_remove,
        .list = fake_list,
        .blob_put = fake_blob_put,
        .blob_get = fake_blob_get,
        .space = fake_space,
        .discard = fake_discard,
    };
    fs->space_total = fs->space_free = UINT64_C(1) << 40;
    pthread_mutex_init(&fs->mu, NULL);
    pthread_cond_init(&fs->changed, NULL);
    return fs;
}

void fs_free(struct fake_storage *fs)
{
    while (fs->logs != NULL) {
        log_drop(fs, fs->logs);
    }
    pthread_cond_destroy(&fs->changed);
    pthread_mutex_destroy(&fs->mu);
    free(fs);
}

void fs_wait(struct fake_storage *fs, const unsigned *counter, unsigned at_least)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += FIX_PATIENCE_S;
    pthread_mutex_lock(&fs->mu);
    while (*counter < at_least && rc == 0) {
        rc = pthread_cond_timedwait(&fs->changed, &fs->mu, &until);
    }
    bool reached = *counter >= at_least;
    pthread_mutex_unlock(&fs->mu);
    assert_true(reached);
}

unsigned fs_get(struct fake_storage *fs, const unsigned *counter)
{
    pthread_mutex_lock(&fs->mu);
    unsigned value = *counter;
    pthread_mutex_unlock(&fs->mu);
    return value;
}

void fs_sync(struct fake_storage *fs, const char *topic, int32_t partition)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    log->synced = log->end;
    int64_t end = log->end;
    struct sti_storage_partition *part = log->handle;
    pthread_mutex_unlock(&fs->mu);
    part->events->synced(part->ctx, end);
}

void fs_fail(struct fake_storage *fs, const char *topic, int32_t partition)
{
    struct sti_err err;
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    log->poisoned = true;
    struct sti_storage_partition *part = log->handle;
    pthread_mutex_unlock(&fs->mu);
    sti_err_set(&err, STI_E_IO, "fdatasync: the fake has failed");
    part->events->failed(part->ctx, &err);
}

void fs_move_start(struct fake_storage *fs, const char *topic, int32_t partition, int64_t start)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    log->start = start;
    pthread_mutex_unlock(&fs->mu);
}

void fs_damage(struct fake_storage *fs, const char *topic, int32_t partition)
{
    struct sti_err err;
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    log->poisoned = true; /* refuses appends; syncs go on */
    struct sti_storage_partition *part = log->handle;
    pthread_mutex_unlock(&fs->mu);
    sti_err_set(&err, STI_E_DATA_LOSS, "offsets 0 to 0 are damaged");
    if (part->events->damaged == NULL) {
        fail(); /* the broker listens */
    } else {
        part->events->damaged(part->ctx, &err);
    }
}

void fs_lose(struct fake_storage *fs, const char *topic, int32_t partition)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    assert_null(log->handle);
    log_drop(fs, log);
    pthread_mutex_unlock(&fs->mu);
}

bool fs_has(struct fake_storage *fs, const char *topic, int32_t partition)
{
    pthread_mutex_lock(&fs->mu);
    bool has = log_find(fs, topic, partition) != NULL;
    pthread_mutex_unlock(&fs->mu);
    return has;
}

int64_t fs_check_dense(struct fake_storage *fs, const char *topic, int32_t partition)
{
    int64_t at = -1;
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    if (log != NULL) {
        at = log->start;
        for (struct fs_batch *b = log->batches; b != NULL; b = b->next) {
            struct sti_slice slice = sti_slice_borrow(b->bytes, (size_t)b->len);
            struct sti_batch_header header;
            struct sti_err err;
            assert_int_equal(b->base, at);
            assert_int_equal(sti_batch_check(&slice, 1, STI_CHECK_CRC, b->len, &header, &err), 0);
            assert_int_equal(header.base_offset, at);
            assert_int_equal(sti_batch_last_offset(&header), b->last);
            at = b->last + 1;
        }
        assert_int_equal(at, log->end);
    }
    pthread_mutex_unlock(&fs->mu);
    return at;
}

void fs_blob_set(struct fake_storage *fs, const char *topic, int32_t partition, const char *text)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    assert_non_null(log);
    free(log->blob);
    log->blob = strdup(text);
    assert_non_null(log->blob);
    log->blob_len = strlen(text);
    pthread_mutex_unlock(&fs->mu);
}

char *fs_blob(struct fake_storage *fs, const char *topic, int32_t partition)
{
    pthread_mutex_lock(&fs->mu);
    struct fs_log *log = log_find(fs, topic, partition);
    char *copy = log == NULL || log->blob == NULL ? NULL : strndup(log->blob, log->blob_len);
    pthread_mutex_unlock(&fs->mu);
    return copy;
}
