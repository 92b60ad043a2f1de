/* mutant.c -- a storage engine with one bug planted.
 *
 * The plugin loads a real engine, takes over its options, lifecycle and promises, and puts itself
 * between its vtable and whoever calls: everything goes through unchanged but for the one thing
 * that BUG names, which each build defines anew. BUG_none is the control: it must pass the suite,
 * so that what the others are caught by is their bug.
 *
 * A partition of ours holds the engine's, and the places of the batches that went through it.
 * Nothing here is meant to be fast.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "streamit/plugin.h"
#include "streamit/storage.h"

#include "bugs.h"

#define IS(bug) (BUG == BUG_##bug)

enum { BATCHES_MAX = 65536, BUFFERS = 4, BUFFER_BYTES = 1 << 20 };

struct sti_storage_partition {
    struct sti_storage_partition *real;
    struct sti_storage_events events; /* the caller's */
    void *events_ctx;
    int64_t bases[BATCHES_MAX]; /* of the batches at the end, as far as they are known */
    uint32_t base_count;
    int32_t highest_epoch;
    int64_t last_recovered;
    pthread_mutex_t mu; /* of the bug that holds one across a callback */
};

static const struct sti_plugin *real_plugin;
static const struct sti_storage *real;
static const struct sti_host *host;

/* ---- events --------------------------------------------------------------------------------- */

static void on_recovered(void *ctx, const struct sti_batch_header *header)
{
    struct sti_storage_partition *part = ctx;
    part->last_recovered = header->base_offset;
    if (part->events.recovered != NULL) {
        part->events.recovered(part->events_ctx, header);
    }
}

struct late_event {
    struct sti_timer timer; /* first: its task is */
    void (*synced)(void *ctx, int64_t synced_end);
    void *ctx;
    int64_t synced_end;
};

static void late_event_run(struct sti_task *task)
{
    struct late_event *late = (struct late_event *)(void *)task;
    late->synced(late->ctx, late->synced_end);
    free(late);
}

static void on_synced(void *ctx, int64_t synced_end)
{
    struct sti_storage_partition *part = ctx;
    if (part->events.synced == NULL) {
        return;
    }
    struct late_event *late = IS(event_after_close) ? calloc(1, sizeof *late) : NULL;
    if (late == NULL) {
        part->events.synced(part->events_ctx, synced_end);
        return;
    }
    *late = (struct late_event){.timer.task.run = late_event_run,
                                .synced = part->events.synced,
                                .ctx = part->events_ctx,
                                .synced_end = synced_end};
    host->timer_arm(host->ctx, &late->timer, sti_now_us(host) + 100000);
}

static void on_failed(void *ctx, const struct sti_err *err)
{
    struct sti_storage_partition *part = ctx;
    if (part->events.failed != NULL) {
        part->events.failed(part->events_ctx, err);
    }
}

static void on_damaged(void *ctx, const struct sti_err *err)
{
    struct sti_storage_partition *part = ctx;
    if (part->events.damaged != NULL) {
        part->events.damaged(part->events_ctx, err);
    }
}

static const struct sti_storage_events own_events = {.struct_size = sizeof own_events,
                                                     .recovered = on_recovered,
                                                     .synced = on_synced,
                                                     .failed = on_failed,
                                                     .damaged = on_damaged};

/* ---- open and close ------------------------------------------------------------------------- */

/* Find the topic id under which a name is really stored. */
static int take_id(void *arg, const struct sti_partition_id *id)
{
    struct sti_partition_id *wanted = arg;
    if (strcmp(id->topic, wanted->topic) == 0 && id->partition == wanted->partition) {
        memcpy(wanted->topic_id, id->topic_id, sizeof wanted->topic_id);
        return 1;
    }
    return 0;
}

static struct sti_storage_settings settings_of(const struct sti_storage_settings *given)
{
    struct sti_storage_settings settings = *given;
    if (IS(segment_too_long)) {
        settings.segment_bytes += settings.segment_bytes / 4;
    }
    return settings;
}

/* What recovery does to a log beyond what it should. */
static void spoil_recovery(struct sti_storage_partition *part, struct sti_storage_state *state)
{
    if (IS(recovery_cuts_more) && state->recovered_bytes > 0 && part->last_recovered >= 0 &&
        part->last_recovered >= state->log_start) {
        (void)real->truncate(part->real, part->last_recovered, NULL);
        real->state(part->real, state);
    }
}

static int m_open(void *self, const struct sti_storage_open *args,
                  struct sti_storage_partition **out, struct sti_storage_state *state,
                  struct sti_err *err)
{
    struct sti_storage_partition *part = calloc(1, sizeof *part);
    struct sti_storage_open own = *args;
    struct sti_storage_settings settings = settings_of(args->settings);
    struct sti_partition_id id = *args->id;
    *out = NULL;
    if (part == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "mutant: out of memory");
    }
    (void)pthread_mutex_init(&part->mu, NULL);
    part->last_recovered = -1;
    part->highest_epoch = -1;
    if (args->events != NULL) {
        part->events = *args->events;
        part->events_ctx = args->events_ctx;
    }
    own.events = &own_events;
    own.events_ctx = part;
    own.settings = &settings;
    own.id = &id;
    if (IS(topic_id_ignored) && (args->flags & STI_STORAGE_CREATE) == 0) {
        (void)real->list(self, take_id, &id, NULL);
    }
    int rc = real->open(self, &own, &part->real, state, err);
    if (rc != STI_OK && rc != STI_E_DATA_LOSS) {
        (void)pthread_mutex_destroy(&part->mu);
        free(part);
        return rc;
    }
    spoil_recovery(part, state);
    *out = part;
    return rc;
}

static int m_close(struct sti_storage_partition *part, struct sti_err *err)
{
    if (IS(close_loses_tail) && part->base_count > 0) {
        (void)real->truncate(part->real, part->bases[part->base_count - 1], NULL);
    }
    int rc = real->close(part->real, err);
    (void)pthread_mutex_destroy(&part->mu);
    free(part);
    return rc;
}

static int m_configure(struct sti_storage_partition *part, const struct sti_storage_settings *given,
                       struct sti_err *err)
{
    struct sti_storage_settings settings = settings_of(given);
    if (IS(configure_ignored)) {
        return STI_OK;
    }
    return real->configure(part->real, &settings, err);
}

static void m_state(struct sti_storage_partition *part, struct sti_storage_state *out)
{
    if (IS(lock_across_done)) {
        pthread_mutex_lock(&part->mu);
    }
    real->state(part->real, out);
    if (IS(lock_across_done)) {
        pthread_mutex_unlock(&part->mu);
    }
    if (out->last_epoch > part->highest_epoch) {
        part->highest_epoch = out->last_epoch;
    }
    if (IS(epoch_stays)) {
        out->last_epoch = part->highest_epoch;
    }
    if (IS(synced_too_far)) {
        out->synced_end = out->written_end + 1;
    }
}

/* ---- append --------------------------------------------------------------------------------- */

/* An append of ours under the caller's: what comes back is passed on, or not. */
struct own_append {
    struct sti_storage_append op; /* first */
    struct sti_storage_append *given;
    struct sti_storage_partition *part;
    struct sti_append_batch *rows;
    struct sti_append_batch **ptrs;
};

static void note_batches(struct sti_storage_partition *part, const struct sti_storage_append *op)
{
    for (uint32_t i = 0; i < op->batch_count; i++) {
        if (part->base_count == BATCHES_MAX) {
            memmove(part->bases, part->bases + 1, (BATCHES_MAX - 1) * sizeof part->bases[0]);
            part->base_count--;
        }
        part->bases[part->base_count++] = op->batches[i]->base_offset;
    }
}

static void append_quietly_done(struct sti_storage_append *op, int status,
                                const struct sti_err *err)
{
    (void)op;
    (void)status;
    (void)err;
}

/* All of a refused append but its last batch. */
static void append_part(struct sti_storage_partition *part, const struct sti_storage_append *given)
{
    struct sti_storage_append op = *given;
    op.batch_count--;
    op.done = append_quietly_done;
    (void)real->append(part->real, &op);
}

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    struct own_append *own = (struct own_append *)(void *)op;
    struct sti_storage_append *given = own->given;
    struct sti_storage_partition *part = own->part;
    given->written_end = op->written_end;
    given->bytes_needed = op->bytes_needed;
    if (status == STI_OK) {
        note_batches(part, op);
    } else if (IS(refusal_appends_part) && given->batch_count > 1) {
        append_part(part, given);
    }
    free(own->rows);
    free(own->ptrs);
    free(own);
    if (IS(answer_lost_on_error) && status != STI_OK) {
        return;
    }
    if (IS(lock_across_done)) {
        pthread_mutex_lock(&part->mu);
    }
    given->done(given, status, err);
    if (IS(lock_across_done)) {
        pthread_mutex_unlock(&part->mu);
    }
    if (IS(answer_twice) && status == STI_OK) {
        given->done(given, status, err);
    }
}

/* Put batches that do not follow the log where they would. */
static void close_gaps(struct own_append *own)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    real->state(own->part->real, &state);
    int64_t next = state.written_end;
    for (uint32_t i = 0; i < own->op.batch_count; i++) {
        struct sti_append_batch *row = &own->rows[i];
        row->last_offset = next + (row->last_offset - row->base_offset);
        row->base_offset = next;
        sti_batch_patch(row->head, next, row->len, row->leader_epoch);
        next = row->last_offset + 1;
    }
}

static int m_append(struct sti_storage_partition *part, struct sti_storage_append *given)
{
    struct own_append *own = calloc(1, sizeof *own);
    if (own == NULL) {
        return STI_E_NO_MEMORY;
    }
    own->op = *given;
    own->given = given;
    own->part = part;
    own->op.done = append_done;
    own->rows = calloc((size_t)given->batch_count + 1, sizeof *own->rows);
    own->ptrs = calloc((size_t)given->batch_count + 1, sizeof(*own->ptrs));
    if (own->rows == NULL || own->ptrs == NULL) {
        free(own->rows);
        free(own->ptrs);
        free(own);
        return STI_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < given->batch_count; i++) {
        own->rows[i] = *given->batches[i];
        own->ptrs[i] = &own->rows[i];
    }
    own->op.batches = own->ptrs;
    if (IS(gap_accepted)) {
        close_gaps(own);
    }
    int rc = real->append(part->real, &own->op);
    if (rc != STI_OK) {
        free(own->rows);
        free(own->ptrs);
        free(own);
    }
    return rc;
}

/* ---- read ----------------------------------------------------------------------------------- */

struct own_read {
    struct sti_storage_read op; /* first */
    struct sti_storage_read *given;
    struct sti_storage_partition *part;
    /* Of a read that is carried to another thread. */
    struct sti_task task;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool over;
    int rc;
};

static uint8_t *buffers[BUFFERS];
static unsigned buffer_next;

/* Bytes in memory that belong to nobody for long. */
static void reuse_memory(struct sti_slice *slice)
{
    uint8_t **buffer = &buffers[buffer_next++ % BUFFERS];
    if (*buffer == NULL) {
        *buffer = malloc(BUFFER_BYTES);
    }
    if (slice->data != NULL && *buffer != NULL && slice->len <= BUFFER_BYTES) {
        memcpy(*buffer, slice->data, (size_t)slice->len);
        slice->data = *buffer;
    }
}

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    struct own_read *own = (struct own_read *)(void *)op;
    struct sti_storage_read *given = own->given;
    struct sti_err other;
    given->slice_count = op->slice_count;
    given->bytes = op->bytes;
    if (IS(short_read) && op->slice_count > 0) {
        op->slices[op->slice_count - 1].len--;
        given->bytes--;
    }
    for (uint32_t i = 0; i < op->slice_count && IS(slice_reused); i++) {
        reuse_memory(&op->slices[i]);
    }
    if (IS(status_undocumented) && status == STI_E_OFFSET_OUT_OF_RANGE) {
        status = sti_err_set(&other, STI_E_INTERNAL, "the offset lies outside");
        err = &other;
    }
    free(own);
    given->done(given, status, err);
}

/* The offset at which the batch behind the one that holds `offset` begins, if it is known. */
static int64_t next_base(const struct sti_storage_partition *part, int64_t offset)
{
    for (uint32_t i = 0; i < part->base_count; i++) {
        if (part->bases[i] > offset) {
            return part->bases[i];
        }
    }
    return offset;
}

static void carried_read_run(struct sti_task *task)
{
    struct own_read *own =
        (struct own_read *)(void *)((char *)task - offsetof(struct own_read, task));
    struct sti_storage_read *given = own->given;
    given->slice_count = 0;
    own->rc = real->read(own->part->real, given);
    pthread_mutex_lock(&own->mu);
    own->over = true;
    pthread_cond_signal(&own->cond);
    pthread_mutex_unlock(&own->mu);
}

/* Let an executor thread do it, and wait. */
static int carry_read(struct sti_storage_partition *part, struct sti_storage_read *given)
{
    struct own_read own = {.given = given, .part = part, .task.run = carried_read_run};
    (void)pthread_mutex_init(&own.mu, NULL);
    (void)pthread_cond_init(&own.cond, NULL);
    host->post(host->ctx, &own.task);
    pthread_mutex_lock(&own.mu);
    while (!own.over) {
        pthread_cond_wait(&own.cond, &own.mu);
    }
    pthread_mutex_unlock(&own.mu);
    (void)pthread_cond_destroy(&own.cond);
    (void)pthread_mutex_destroy(&own.mu);
    return own.rc;
}

static int m_read(struct sti_storage_partition *part, struct sti_storage_read *given)
{
    if (IS(no_wait_waits) && (given->flags & STI_READ_NO_WAIT) != 0) {
        return carry_read(part, given);
    }
    if (IS(would_block_always) && given->offset % 7 == 3) {
        return STI_E_WOULD_BLOCK;
    }
    struct own_read *own = calloc(1, sizeof *own);
    if (own == NULL) {
        return STI_E_NO_MEMORY;
    }
    own->op = *given;
    own->given = given;
    own->part = part;
    own->op.done = read_done;
    if (IS(read_skips_batch) && given->offset % 5 == 4) {
        int64_t other = next_base(part, given->offset);
        own->op.offset = other < given->end_offset ? other : given->offset;
    }
    int rc = real->read(part->real, &own->op);
    if (rc != STI_OK) {
        free(own);
    }
    return rc;
}

/* ---- sync ----------------------------------------------------------------------------------- */

struct own_sync {
    struct sti_storage_sync op; /* first */
    struct sti_storage_sync *given;
    int64_t before;
};

static void sync_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    struct own_sync *own = (struct own_sync *)(void *)op;
    struct sti_storage_sync *given = own->given;
    given->synced_end = IS(sync_answers_old_end) ? own->before : op->synced_end;
    free(own);
    given->done(given, status, err);
}

static int m_sync(struct sti_storage_partition *part, struct sti_storage_sync *given)
{
    struct own_sync *own = calloc(1, sizeof *own);
    struct sti_storage_state state = {.struct_size = sizeof state};
    if (own == NULL) {
        return STI_E_NO_MEMORY;
    }
    real->state(part->real, &state);
    own->op = *given;
    own->given = given;
    own->before = state.synced_end < state.written_end ? state.synced_end : state.written_end - 1;
    own->op.done = sync_done;
    int rc = real->sync(part->real, &own->op);
    if (rc != STI_OK) {
        free(own);
    }
    return rc;
}

/* ---- the rest of the log -------------------------------------------------------------------- */

static int m_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms,
                             int64_t *offset, int64_t *found_ms, struct sti_err *err)
{
    int rc = real->offset_for_time(part->real, timestamp_ms, offset, found_ms, err);
    if (IS(time_one_batch_late) && rc == STI_OK) {
        *offset = next_base(part, *offset);
    }
    return rc;
}

static int m_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err)
{
    int64_t cut = IS(truncate_leaves_batch) ? next_base(part, offset) : offset;
    int rc = real->truncate(part->real, cut, err);
    while (rc == STI_OK && part->base_count > 0 && part->bases[part->base_count - 1] >= cut) {
        part->base_count--;
    }
    return rc;
}

static int m_trim(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err)
{
    int64_t end, newest;
    uint64_t bytes;
    int rc = real->trim(part->real, new_start, err);
    if (IS(trim_too_much) && rc == STI_OK && new_start > 0 &&
        real->oldest_segment(part->real, &end, &bytes, &newest) == STI_OK) {
        (void)real->trim(part->real, end, NULL);
    }
    return rc;
}

static int m_oldest_segment(struct sti_storage_partition *part, int64_t *end_offset,
                            uint64_t *bytes, int64_t *max_timestamp)
{
    return real->oldest_segment(part->real, end_offset, bytes, max_timestamp);
}

static void m_usage(struct sti_storage_partition *part, struct sti_storage_usage *out)
{
    real->usage(part->real, out);
}

static int m_remove(void *self, const struct sti_partition_id *id, struct sti_err *err)
{
    struct sti_partition_id other = *id;
    if (IS(remove_by_name)) {
        (void)real->list(self, take_id, &other, NULL);
    }
    return IS(remove_keeps_data) ? STI_OK : real->remove(self, &other, err);
}

struct own_list {
    int (*visit)(void *arg, const struct sti_partition_id *id);
    void *arg;
    bool twice;
};

static int visit_twice(void *arg, const struct sti_partition_id *id)
{
    struct own_list *own = arg;
    int rc = own->visit(own->arg, id);
    if (rc == 0 && !own->twice && IS(list_visits_twice)) {
        own->twice = true;
        rc = own->visit(own->arg, id);
    }
    return rc;
}

static int m_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg,
                  struct sti_err *err)
{
    struct own_list own = {.visit = visit, .arg = arg};
    return real->list(self, visit_twice, &own, err);
}

/* ---- blobs ---------------------------------------------------------------------------------- */

static int m_blob_put(struct sti_storage_partition *part, const char *name, const void *data,
                      size_t len, struct sti_err *err)
{
    void *old;
    size_t old_len;
    if (IS(blob_put_in_two_steps)) {
        (void)real->blob_put(part->real, name, data, len / 2, NULL);
        (void)usleep(1000); /* long enough for any machine's readers */
    }
    if (IS(blob_not_replaced) && real->blob_get(part->real, name, &old, &old_len, NULL) == STI_OK) {
        free(old);
        return STI_OK;
    }
    return real->blob_put(part->real, name, data, len, err);
}

static int m_blob_get(struct sti_storage_partition *part, const char *name, void **data,
                      size_t *len, struct sti_err *err)
{
    return real->blob_get(part->real, name, data, len, err);
}

/* ---- the descriptor ------------------------------------------------------------------------- */

static int m_create(const struct sti_host *given, const void *conf, void **self,
                    struct sti_err *err)
{
    host = given;
    return real_plugin->life->create(given, conf, self, err);
}

static void m_destroy(void *self)
{
    real_plugin->life->destroy(self);
    for (unsigned i = 0; i < BUFFERS; i++) {
        free(buffers[i]);
        buffers[i] = NULL;
    }
}

static struct sti_storage own_vtable;
static struct sti_lifecycle own_life;
static const struct sti_iface *const own_provides[] = {&own_vtable.iface, NULL};

/* Filled when the library is mapped, from the engine that it wraps. */
STI_PLUGIN_EXPORT struct sti_plugin sti_plugin;

static void wrap(void)
{
    own_vtable.open = m_open;
    own_vtable.configure = m_configure;
    own_vtable.state = m_state;
    own_vtable.append = m_append;
    own_vtable.read = m_read;
    own_vtable.sync = m_sync;
    own_vtable.offset_for_time = m_offset_for_time;
    own_vtable.truncate = m_truncate;
    own_vtable.trim = m_trim;
    own_vtable.oldest_segment = m_oldest_segment;
    own_vtable.usage = m_usage;
    own_vtable.close = m_close;
    own_vtable.remove = m_remove;
    own_vtable.list = m_list;
    own_vtable.blob_put = m_blob_put;
    own_vtable.blob_get = m_blob_get;
}

__attribute__((constructor)) static void load_engine(void)
{
    void *library = dlopen(ENGINE, RTLD_NOW | RTLD_LOCAL);
    real_plugin = library == NULL ? NULL : dlsym(library, "sti_plugin");
    if (real_plugin == NULL) {
        return; /* the descriptor stays empty, and is refused */
    }
    real = (const struct sti_storage *)(const void *)real_plugin->provides[0];
    size_t size =
        real->iface.struct_size < sizeof own_vtable ? real->iface.struct_size : sizeof own_vtable;
    memcpy(&own_vtable, real, size);
    own_vtable.iface.struct_size = (uint32_t)size;
    wrap();
    own_life = *real_plugin->life;
    own_life.create = m_create;
    own_life.destroy = m_destroy;
    sti_plugin = *real_plugin;
    sti_plugin.name = "mutant";
    sti_plugin.summary = "A storage engine with one bug planted.";
    sti_plugin.provides = own_provides;
    sti_plugin.life = &own_life;
}
