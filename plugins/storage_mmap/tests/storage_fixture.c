/* storage_fixture.c -- see storage_fixture.h. */
#include "storage_fixture.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "streamit/record_batch.h"

static void on_recovered(void *ctx, const struct sti_batch_header *header)
{
    struct fixture *fx = ctx;
    assert_true(header->total_len >= STI_BATCH_HEADER_LEN);
    fx->recovered_count++;
}

static void on_synced(void *ctx, int64_t synced_end)
{
    struct fixture *fx = ctx;
    fx->synced = synced_end;
    fx->synced_count++;
}

static void on_failed(void *ctx, const struct sti_err *err)
{
    struct fixture *fx = ctx;
    (void)err;
    fx->failed_count++;
}

static void on_damaged(void *ctx, const struct sti_err *err)
{
    struct fixture *fx = ctx;
    memcpy(fx->damage_msg, err->msg, sizeof fx->damage_msg);
    fx->damaged_count++;
}

static int64_t default_of(const struct sti_option *option)
{
    char *end;
    int64_t value = strtoll(option->def, &end, 10);
    return *end == 'K'   ? value * 1024
           : *end == 'M' ? value * 1048576
           : *end == 'G' ? value * 1073741824
                         : value;
}

void fx_option(struct fixture *fx, const char *key, int64_t value)
{
    for (const struct sti_option *const *o = sti_plugin.options; *o != NULL; o++) {
        if (strcmp((*o)->key, key) == 0) {
            memcpy((char *)fx->conf + (*o)->offset, &value, sizeof value);
            return;
        }
    }
    fail_msg("no option %s", key);
}

void fx_init(struct fixture *fx, uint32_t threads)
{
    fx_init_at(fx, test_dir_new("storage"), threads);
}

void fx_init_at(struct fixture *fx, char *dir, uint32_t threads)
{
    memset(fx, 0, sizeof *fx);
    fx->dir = dir;
    fx->th = test_host_new(fx->dir, threads);
    fx->events = (struct sti_storage_events){.struct_size = sizeof fx->events,
                                             .recovered = on_recovered,
                                             .synced = on_synced,
                                             .failed = on_failed,
                                             .damaged = on_damaged};
    fx->settings = (struct sti_storage_settings){.struct_size = sizeof fx->settings,
                                                 .flush_policy = STI_FLUSH_ONROLL,
                                                 .segment_bytes = 16384,
                                                 .flush_interval_ms = 20,
                                                 .index_interval_bytes = 512};
    assert_true(sti_plugin.conf_size <= sizeof fx->conf);
    for (const struct sti_option *const *o = sti_plugin.options; *o != NULL; o++) {
        fx_option(fx, (*o)->key, default_of(*o));
    }
}

void fx_start(struct fixture *fx)
{
    struct sti_err err = {0};
    const struct sti_lifecycle *life = sti_plugin.life;
    assert_int_equal(
        life->create(test_host_for(fx->th, sti_plugin.name), fx->conf, &fx->self, &err), STI_OK);
    if (life->start(fx->self, &err) != STI_OK) {
        fail_msg("start: %s", err.msg);
    }
    fx->api = (const struct sti_storage *)(const void *)sti_plugin.provides[0];
}

void fx_stop(struct fixture *fx)
{
    struct sti_err err = {0};
    if (sti_plugin.life->stop(fx->self, 5000, &err) != STI_OK) {
        fail_msg("stop: %s", err.msg);
    }
    sti_plugin.life->destroy(fx->self);
    fx->self = NULL;
}

void fx_leave(struct fixture *fx)
{
    if (fx->self != NULL) {
        fx_stop(fx);
    }
    test_host_free(fx->th);
    fx->th = NULL;
}

void fx_fini(struct fixture *fx)
{
    fx_leave(fx);
    test_dir_remove(fx->dir);
}

bool fx_durable(const struct fixture *fx)
{
    return (fx->api->iface.caps & STI_STORAGE_DURABLE) != 0;
}

static struct sti_partition_id id_of(const char *topic)
{
    struct sti_partition_id id = {.struct_size = sizeof id, .partition = 0, .topic = topic};
    memset(id.topic_id, topic[0], sizeof id.topic_id);
    return id;
}

int fx_open(struct fixture *fx, const char *topic, uint32_t flags,
            struct sti_storage_partition **part, struct sti_storage_state *state)
{
    struct sti_err err = {0};
    struct sti_partition_id id = id_of(topic);
    struct sti_storage_open args = {.struct_size = sizeof args,
                                    .flags = flags,
                                    .id = &id,
                                    .settings = &fx->settings,
                                    .events = &fx->events,
                                    .events_ctx = fx};
    int rc = fx->api->open(fx->self, &args, part, state, &err);
    assert_int_equal(rc, err.code);
    return rc;
}

int fx_remove(struct fixture *fx, const char *topic)
{
    struct sti_partition_id id = id_of(topic);
    return fx->api->remove(fx->self, &id, NULL);
}

static void put(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

size_t fx_batch(uint8_t *out, int64_t base_offset, uint32_t count, size_t payload, int32_t epoch,
                int64_t timestamp)
{
    size_t len = STI_BATCH_HEADER_LEN + payload;
    if (out == NULL) {
        return len;
    }
    sti_batch_patch(out, base_offset, len, epoch);
    out[16] = STI_BATCH_MAGIC;
    put(out + 21, 0, 2);
    put(out + 23, count - 1, 4);
    put(out + 27, (uint64_t)timestamp, 8);
    put(out + 35, (uint64_t)timestamp, 8);
    put(out + 43, UINT64_MAX, 8);
    put(out + 51, UINT64_MAX, 2);
    put(out + 53, UINT64_MAX, 4);
    put(out + 57, count, 4);
    for (size_t i = 0; i < payload; i++) {
        out[STI_BATCH_HEADER_LEN + i] = (uint8_t)((size_t)base_offset * 31 + i * 7);
    }
    put(out + 17, sti_crc32c(0, out + 21, len - 21), 4);
    return len;
}

struct append_call {
    struct sti_storage_append op;
    int status;
    bool answered;
};

static void appended(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    struct append_call *call = (struct append_call *)(void *)op;
    assert_false(call->answered);
    assert_true(status == STI_OK || err != NULL);
    call->status = status;
    call->answered = true;
}

int fx_append_epoch(struct fixture *fx, struct sti_storage_partition *part, int64_t base_offset,
                    uint32_t count, size_t payload, int64_t timestamp, uint32_t batches,
                    int32_t epoch, uint64_t *bytes_needed)
{
    size_t len = STI_BATCH_HEADER_LEN + payload;
    uint8_t *bytes = malloc(len * batches);
    struct sti_append_batch *rows = calloc(batches, sizeof *rows);
    struct sti_append_batch **ptrs = calloc(batches, sizeof(*ptrs));
    struct sti_slice *slices = calloc(batches, 2 * sizeof *slices);
    struct append_call call = {.op = {.struct_size = sizeof call.op,
                                      .batch_count = batches,
                                      .batches = ptrs,
                                      .done = appended}};
    assert_non_null(bytes);
    assert_non_null(rows);
    assert_non_null(ptrs);
    assert_non_null(slices);
    for (uint32_t i = 0; i < batches; i++) {
        uint8_t *data = bytes + i * len;
        int64_t base = base_offset + (int64_t)(i * count);
        (void)fx_batch(data, base, count, payload, epoch, timestamp + i);
        size_t half = STI_BATCH_PATCH_LEN + (len - STI_BATCH_PATCH_LEN) / 2;
        slices[2 * i] = sti_slice_borrow(data + STI_BATCH_PATCH_LEN, half - STI_BATCH_PATCH_LEN);
        slices[2 * i + 1] = sti_slice_borrow(data + half, len - half);
        rows[i] = (struct sti_append_batch){.struct_size = sizeof *rows,
                                            .slice_count = 2,
                                            .slices = &slices[2 * i],
                                            .len = len,
                                            .base_offset = base,
                                            .last_offset = base + count - 1,
                                            .max_timestamp = timestamp + i,
                                            .leader_epoch = epoch};
        memcpy(rows[i].head, data, STI_BATCH_PATCH_LEN);
        ptrs[i] = &rows[i];
    }
    int rc = fx->api->append(part, &call.op);
    if (rc == STI_OK) {
        assert_true(call.answered); /* both engines answer before they return */
        rc = call.status;
    } else {
        assert_false(call.answered);
    }
    if (rc == STI_OK) {
        assert_int_equal(call.op.written_end, base_offset + (int64_t)(count * batches));
    }
    if (bytes_needed != NULL) {
        *bytes_needed = call.op.bytes_needed;
    }
    free(slices);
    free(ptrs);
    free(rows);
    free(bytes);
    return rc;
}

int fx_append(struct fixture *fx, struct sti_storage_partition *part, int64_t base_offset,
              uint32_t count, size_t payload, int64_t timestamp, uint32_t batches)
{
    return fx_append_epoch(fx, part, base_offset, count, payload, timestamp, batches, 0, NULL);
}

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    struct fx_read *read = (struct fx_read *)(void *)op;
    assert_false(read->answered);
    read->status = status;
    read->answered = true;
    if (err != NULL) {
        memcpy(read->msg, err->msg, sizeof read->msg);
    }
}

int fx_read(struct fixture *fx, struct sti_storage_partition *part, int64_t offset,
            int64_t end_offset, uint64_t max_bytes, uint32_t flags, struct fx_read *out)
{
    memset(out, 0, sizeof *out);
    out->op = (struct sti_storage_read){.struct_size = sizeof out->op,
                                        .flags = flags,
                                        .offset = offset,
                                        .end_offset = end_offset,
                                        .max_bytes = max_bytes,
                                        .slices = out->slices,
                                        .slice_max = 64,
                                        .done = read_done};
    int rc = fx->api->read(part, &out->op);
    if (rc != STI_OK) {
        assert_false(out->answered);
        return rc;
    }
    assert_true(out->answered);
    if (out->status == STI_OK) {
        assert_int_equal(sti_slices_len(out->slices, out->op.slice_count), out->op.bytes);
    } else {
        assert_int_equal(out->op.slice_count, 0);
    }
    return out->status;
}

void fx_read_release(struct fx_read *read)
{
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        sti_slice_release(&read->slices[i]);
    }
    read->op.slice_count = 0;
}

uint8_t *fx_read_bytes(const struct fx_read *read, size_t *len)
{
    uint8_t *out = malloc((size_t)read->op.bytes + 1);
    *len = 0;
    assert_non_null(out);
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        const struct sti_slice *slice = &read->slices[i];
        if (slice->data != NULL) {
            memcpy(out + *len, slice->data, (size_t)slice->len);
        } else {
            assert_int_equal(
                pread(slice->fd, out + *len, (size_t)slice->len, (off_t)slice->file_pos),
                slice->len);
        }
        *len += (size_t)slice->len;
    }
    return out;
}

int64_t fx_read_check(const struct fx_read *read, int64_t offset)
{
    size_t len, pos = 0;
    uint8_t *data = fx_read_bytes(read, &len);
    int64_t next = -1;
    while (pos < len) {
        struct sti_batch_header header;
        assert_int_equal(sti_batch_header_decode(data + pos, len - pos, &header, NULL), STI_OK);
        assert_true(header.total_len <= len - pos);
        assert_int_equal(sti_crc32c(0, data + pos + 21, (size_t)header.total_len - 21), header.crc);
        if (next < 0) {
            assert_true(header.base_offset <= offset && sti_batch_last_offset(&header) >= offset);
        } else {
            assert_int_equal(header.base_offset, next);
        }
        next = sti_batch_last_offset(&header) + 1;
        pos += (size_t)header.total_len;
    }
    free(data);
    return next < 0 ? offset : next;
}

struct sync_call {
    struct sti_storage_sync op;
    pthread_mutex_t mu;
    pthread_cond_t answered_cond;
    bool answered;
    int status;
};

static void sync_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    struct sync_call *call = (struct sync_call *)(void *)op;
    (void)err;
    pthread_mutex_lock(&call->mu);
    call->answered = true;
    call->status = status;
    pthread_cond_signal(&call->answered_cond);
    pthread_mutex_unlock(&call->mu);
}

int fx_sync(struct fixture *fx, struct sti_storage_partition *part, int64_t *synced_end)
{
    struct sync_call call = {.op = {.struct_size = sizeof call.op, .done = sync_done}};
    pthread_mutex_init(&call.mu, NULL);
    pthread_cond_init(&call.answered_cond, NULL);
    int rc = fx->api->sync(part, &call.op);
    if (rc == STI_OK) {
        pthread_mutex_lock(&call.mu);
        while (!call.answered) {
            pthread_cond_wait(&call.answered_cond, &call.mu);
        }
        pthread_mutex_unlock(&call.mu);
        rc = call.status;
    }
    if (synced_end != NULL) {
        *synced_end = call.op.synced_end;
    }
    pthread_mutex_destroy(&call.mu);
    pthread_cond_destroy(&call.answered_cond);
    return rc;
}

void fx_path(const struct fixture *fx, const char *topic, const char *file, char *out, size_t len)
{
    (void)snprintf(out, len, "%s/%s/%s-0/%s", fx->dir, sti_plugin.name, topic, file);
}
