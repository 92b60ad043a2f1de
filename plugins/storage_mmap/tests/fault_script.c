/* fault_script.c -- see fault_script.h. */
#include "fault_script.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "streamit/fault.h"
#include "streamit/record_batch.h"

static const char topic[] = "t";

void script_reset(struct model *model)
{
    memset(model, 0, sizeof *model);
    model->cut = -1;
}

static int64_t model_end(const struct model *m, uint32_t count)
{
    return count == 0 ? 0 : m->batches[count - 1].base_offset + m->batches[count - 1].count;
}

/* ---- failures ------------------------------------------------------------------------------ */

/* Is that a failure as the contract has them? Then close what can be closed, open anew, compare.
 * What the failed call has left is what a death would have left. */
static void after_failure(struct script *s, int rc)
{
    if (!s->faults) {
        fail_msg("failed with %s, though nothing was to fail", sti_status_name(rc));
    }
    s->failures++;
    bool typed = rc == STI_E_IO || rc == STI_E_DISK_FULL || rc == STI_E_POISONED;
    if (!typed) {
        fail_msg("failed with %s", sti_status_name(rc));
    }
    if (s->part != NULL) {
        struct sti_storage_state state = {.struct_size = sizeof state};
        s->fx->api->state(s->part, &state);
        bool poisoned = (state.flags & STI_STORAGE_STATE_POISONED) != 0;
        if (poisoned) {
            struct sti_storage_partition *again;
            assert_int_equal(fx_append(s->fx, s->part, state.written_end, 1, 10, 1, 1),
                             STI_E_POISONED);
            assert_int_equal(fx_sync(s->fx, s->part, NULL), STI_E_POISONED);
            assert_int_equal(fx_open(s->fx, topic, 0, &again, &state), STI_E_IN_USE);
        }
        int closed = s->fx->api->close(s->part, NULL);
        assert_true(closed == STI_OK || closed == STI_E_IO || closed == STI_E_DISK_FULL);
        assert_true(!poisoned || closed != STI_OK);
        s->part = NULL;
    }
    script_check(s);
    if (s->lasting) {
        sti_fault_set_hook(NULL);
    }
}

/* Bring the partition back into the state in which the script wants to go on. */
static void need_open(struct script *s)
{
    struct sti_storage_state state;
    struct model *m = s->model;
    for (int attempt = 0; s->part == NULL; attempt++) {
        assert_true(attempt < 8);
        bool create = m->exists == MODEL_NONE;
        if (create) {
            m->exists = MODEL_CREATING;
        }
        int rc = fx_open(s->fx, topic, create ? STI_STORAGE_CREATE : 0, &s->part, &state);
        if (rc == STI_OK) {
            m->exists = MODEL_THERE;
            if (create) {
                assert_int_equal(state.written_end, 0);
            }
        } else {
            after_failure(s, rc);
        }
    }
}

/* ---- steps --------------------------------------------------------------------------------- */

static void append(struct script *s, uint32_t count, uint32_t payload, uint32_t batches)
{
    struct model *m = s->model;
    need_open(s);
    int64_t base = model_end(m, m->acked);
    assert_true(m->acked + batches < MODEL_BATCHES);
    for (uint32_t i = 0; i < batches; i++) {
        m->batches[m->acked + i] = (struct model_batch){.base_offset = base + (int64_t)(i * count),
                                                        .timestamp = 1000 + base + (int64_t)i,
                                                        .count = count,
                                                        .payload = payload,
                                                        .epoch = m->epoch};
    }
    m->attempted = m->acked + batches;
    uint64_t needed = 0;
    int rc = fx_append_epoch(s->fx, s->part, base, count, payload, 1000 + base, batches, m->epoch,
                             &needed);
    if (rc == STI_OK) {
        m->acked = m->attempted;
        return;
    }
    struct sti_storage_state state = {.struct_size = sizeof state};
    s->fx->api->state(s->part, &state);
    if (rc == STI_E_DISK_FULL) {
        assert_true(s->disk_full);
        assert_true(needed > 0);
        assert_int_equal(state.written_end, base);
        m->attempted = m->acked; /* nothing has changed */
    }
    after_failure(s, rc);
}

static void sync_all(struct script *s)
{
    int64_t synced;
    need_open(s);
    int rc = fx_sync(s->fx, s->part, &synced);
    if (rc == STI_OK) {
        assert_int_equal(synced, model_end(s->model, s->model->acked));
    } else {
        after_failure(s, rc);
    }
}

static void trim(struct script *s, int64_t start)
{
    struct model *m = s->model;
    need_open(s);
    if (start <= m->start) {
        return;
    }
    m->start_next = start;
    m->start_before = m->start;
    struct sti_err err = {0};
    int rc = s->fx->api->trim(s->part, start, &err);
    if (rc == STI_OK) {
        m->start = start;
    } else {
        after_failure(s, rc);
    }
}

/* What retention does: drop the oldest segment. */
static void trim_oldest(struct script *s)
{
    int64_t end, timestamp;
    uint64_t bytes;
    need_open(s);
    if (s->fx->api->oldest_segment(s->part, &end, &bytes, &timestamp) == STI_OK) {
        trim(s, end);
    }
}

static void truncate_to(struct script *s, uint32_t keep)
{
    struct model *m = s->model;
    need_open(s);
    int64_t offset = keep >= m->acked ? model_end(m, m->acked) : m->batches[keep].base_offset;
    if (keep >= m->acked || offset < m->start) {
        return;
    }
    struct sti_err err = {0};
    m->cut = offset;
    int rc = s->fx->api->truncate(s->part, offset, &err);
    if (rc == STI_OK) {
        m->acked = m->attempted = keep;
        m->cut = -1;
        m->epoch++;
    } else {
        after_failure(s, rc);
    }
}

static void blob(struct script *s, int number)
{
    char text[600];
    struct model *m = s->model;
    need_open(s);
    memset(text, 'a' + number, sizeof text);
    m->blob_next = number;
    int rc = s->fx->api->blob_put(s->part, "producers", text, sizeof text, NULL);
    if (rc == STI_OK) {
        m->blob = number;
    } else {
        after_failure(s, rc);
    }
}

static void reopen(struct script *s)
{
    need_open(s);
    int rc = s->fx->api->close(s->part, NULL);
    s->part = NULL;
    if (rc != STI_OK) {
        after_failure(s, rc);
    }
    need_open(s);
}

static void remove_it(struct script *s)
{
    struct model *m = s->model;
    if (s->part != NULL) {
        int rc = s->fx->api->close(s->part, NULL);
        s->part = NULL;
        if (rc != STI_OK) {
            after_failure(s, rc);
        }
    }
    for (int attempt = 0; m->exists != MODEL_NONE; attempt++) {
        assert_true(attempt < 4);
        m->exists = MODEL_REMOVING;
        int rc = fx_remove(s->fx, topic);
        if (rc == STI_OK) {
            script_reset(m);
        } else {
            after_failure(s, rc);
        }
    }
}

static void read_all(struct script *s)
{
    need_open(s);
    for (int64_t at = s->model->start, end = model_end(s->model, s->model->acked); at < end;) {
        struct fx_read read;
        int rc = fx_read(s->fx, s->part, at, end, 8192, STI_READ_MEMORY, &read);
        if (rc != STI_OK) {
            assert_true(s->faults);
            assert_true(rc == STI_E_IO || rc == STI_E_DISK_FULL || rc == STI_E_NO_MEMORY ||
                        rc == STI_E_RESOURCE_EXHAUSTED);
            s->failures++;
            return; /* a read that fails costs nothing else */
        }
        at = fx_read_check(&read, at);
        fx_read_release(&read);
    }
}

/* Remove the oldest segment's index, which a read then builds anew. */
static void lose_index(struct script *s)
{
    char path[400];
    need_open(s);
    fx_path(s->fx, topic, "", path, sizeof path);
    DIR *dir = opendir(path);
    struct dirent *entry;
    char first[32] = "~";
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        const char *suffix = strchr(entry->d_name, '.');
        if (suffix != NULL && strcmp(suffix, ".index") == 0 && strcmp(entry->d_name, first) < 0) {
            (void)snprintf(first, sizeof first, "%.31s", entry->d_name);
        }
    }
    (void)unlinkat(dirfd(dir), first, 0);
    closedir(dir);
}

/* Give the scrub time for a pass. */
static void await_scrub(struct script *s)
{
    static const char passes[] = "streamit_storage_scrub_passes_total";
    static const char labels[] = "storage=\"storage_mmap\"";
    uint64_t before = test_host_metric(s->fx->th, passes, labels);
    for (int i = 0; i < 2000 && test_host_metric(s->fx->th, passes, labels) < before + 2; i++) {
        (void)usleep(500);
    }
}

static void ask_space(struct script *s)
{
    struct sti_storage_space space;
    int rc = s->fx->api->space(s->fx->self, &space, NULL);
    if (rc != STI_OK) {
        assert_true(s->faults);
        assert_int_equal(rc, STI_E_IO);
        s->failures++;
    }
}

void script_play(struct script *s)
{
    struct model *m = s->model;
    for (uint32_t i = 0; i < 6; i++) {
        append(s, 2, 300, 1);
    }
    ask_space(s);
    append(s, 3, 300, 40); /* over three rolls */
    sync_all(s);
    blob(s, 1);
    for (uint32_t i = 0; i < 12; i++) {
        append(s, 1, 700, 1);
    }
    read_all(s);
    trim_oldest(s);
    trim(s, m->start + 5);
    blob(s, 2);
    truncate_to(s, m->acked - 20); /* over a segment or two */
    append(s, 2, 200, 3);
    append(s, 2, 200, 30);
    truncate_to(s, m->acked - 1);
    reopen(s);
    if (s->scrub) {
        await_scrub(s);
    }
    lose_index(s);
    read_all(s);
    truncate_to(s, m->acked - 3); /* first of all after a clean end */
    reopen(s);
    append(s, 1, 1000, 2);
    reopen(s);
    trim(s, model_end(m, m->acked)); /* leaves an empty segment */
    append(s, 4, 500, 1);
    reopen(s);
    append(s, 4, 500, 1);
    remove_it(s);
    append(s, 1, 100, 1);
    append(s, 1, 100, 20);
    need_open(s);
    int rc = s->fx->api->close(s->part, NULL);
    s->part = NULL;
    if (rc != STI_OK) {
        after_failure(s, rc);
    }
}

/* ---- checking ------------------------------------------------------------------------------ */

static void check_ends(struct script *s, const struct sti_storage_state *state)
{
    struct model *m = s->model;
    bool end_ok = m->cut >= 0 && state->written_end == m->cut;
    for (uint32_t i = m->acked; i <= m->attempted && !end_ok; i++) {
        end_ok = state->written_end == model_end(m, i);
    }
    if (!end_ok) {
        fail_msg("the log ends at %lld; acknowledged: %lld, under way: %lld, cut: %lld",
                 (long long)state->written_end, (long long)model_end(m, m->acked),
                 (long long)model_end(m, m->attempted), (long long)m->cut);
    }
    int64_t least = s->disk_full && m->start_before < m->start ? m->start_before : m->start;
    int64_t most = m->start > m->start_next ? m->start : m->start_next;
    if (state->log_start < least || state->log_start > most) {
        fail_msg("the log starts at %lld; acknowledged: %lld, under way: %lld",
                 (long long)state->log_start, (long long)m->start, (long long)m->start_next);
    }
    if (state->flags != 0) {
        fail_msg("state flags %x", state->flags);
    }
    if (state->synced_end > state->written_end) {
        fail_msg("synced end %lld behind the written end", (long long)state->synced_end);
    }
    /* From now on what is there is what was acknowledged. */
    uint32_t count = 0;
    while (count < m->attempted && m->batches[count].base_offset < state->written_end) {
        count++;
    }
    if (count > 0 && state->written_end > state->log_start) {
        assert_int_equal(state->last_epoch, m->batches[count - 1].epoch);
    }
    m->acked = m->attempted = count;
    m->start = m->start_next = m->start_before = state->log_start;
    m->epoch += m->cut >= 0;
    m->cut = -1;
}

static const struct model_batch *batch_at(const struct model *m, int64_t offset)
{
    for (uint32_t i = 0; i < m->acked; i++) {
        if (m->batches[i].base_offset <= offset &&
            offset < m->batches[i].base_offset + m->batches[i].count) {
            return &m->batches[i];
        }
    }
    return NULL;
}

static void check_bytes(struct script *s)
{
    const struct model *m = s->model;
    int64_t offset = m->start, end = model_end(m, m->acked);
    uint8_t want[2048];
    while (offset < end) {
        struct fx_read read;
        size_t len, pos = 0;
        assert_int_equal(fx_read(s->fx, s->part, offset, end, 65536, STI_READ_MEMORY, &read),
                         STI_OK);
        uint8_t *data = fx_read_bytes(&read, &len);
        assert_true(len > 0);
        while (pos < len) {
            const struct model_batch *b = batch_at(m, offset);
            assert_non_null(b);
            size_t want_len = fx_batch(NULL, 0, b->count, b->payload, b->epoch, 0);
            assert_true(want_len <= sizeof want && want_len <= len - pos);
            (void)fx_batch(want, b->base_offset, b->count, b->payload, b->epoch, b->timestamp);
            assert_memory_equal(data + pos, want, want_len);
            pos += want_len;
            offset = b->base_offset + b->count;
        }
        free(data);
        fx_read_release(&read);
    }
    assert_int_equal(offset, end > m->start ? end : m->start);
}

static void check_blob(struct script *s)
{
    struct model *m = s->model;
    void *data;
    size_t len;
    int rc = s->fx->api->blob_get(s->part, "producers", &data, &len, NULL);
    int found = 0;
    if (rc == STI_OK) {
        assert_int_equal(len, 600);
        found = ((const char *)data)[0] - 'a';
        assert_int_equal(((const char *)data)[599], 'a' + found);
    } else {
        assert_int_equal(rc, STI_E_NOT_FOUND);
    }
    free(data);
    assert_true(found == m->blob || found == m->blob_next);
    m->blob = m->blob_next = found;
}

/* Retention may go on where it was interrupted, and then nothing lies about that no log needs. */
static void check_folder(struct script *s)
{
    const struct sti_storage *api = s->fx->api;
    int64_t end, timestamp;
    uint64_t bytes;
    for (int round = 0;
         api->oldest_segment(s->part, &end, &bytes, &timestamp) == STI_OK && end <= s->model->start;
         round++) {
        assert_true(round < 100);
        assert_int_equal(api->trim(s->part, end, NULL), STI_OK);
    }
    char path[400], log[500];
    fx_path(s->fx, topic, "", path, sizeof path);
    DIR *dir = opendir(path);
    struct dirent *entry;
    unsigned logs = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        const char *suffix = strchr(entry->d_name, '.');
        bool index =
            suffix != NULL && (strcmp(suffix, ".index") == 0 || strcmp(suffix, ".timeindex") == 0);
        logs += suffix != NULL && strcmp(suffix, ".log") == 0;
        (void)snprintf(log, sizeof log, "%s/%.20s.log", path, entry->d_name);
        if ((index && access(log, F_OK) != 0) || strcmp(entry->d_name, "truncation") == 0 ||
            (suffix != NULL && strcmp(suffix, ".log.swap") == 0)) {
            fail_msg("%s is left over", entry->d_name);
        }
    }
    closedir(dir);
    struct sti_storage_state state = {.struct_size = sizeof state};
    api->state(s->part, &state);
    assert_true(logs <= state.segment_count);
}

/* The partition takes appends, syncs and closes as if nothing had been. */
static void check_service(struct script *s)
{
    bool faults = s->faults;
    struct sti_storage_state state = {.struct_size = sizeof state};
    s->faults = false;
    append(s, 2, 250, 1);
    append(s, 1, 250, 14);
    sync_all(s);
    s->fx->api->state(s->part, &state);
    assert_int_equal(state.synced_end, state.written_end);
    check_bytes(s);
    assert_int_equal(s->fx->api->close(s->part, NULL), STI_OK);
    s->part = NULL;
    s->faults = faults;
}

void script_check(struct script *s)
{
    struct model *m = s->model;
    struct sti_storage_state state;
    int (*hook)(const char *point) = sti_fault_set_hook(NULL); /* what has failed is over */
    int rc = fx_open(s->fx, topic, 0, &s->part, &state);
    if (rc == STI_E_NOT_FOUND) {
        assert_int_not_equal(m->exists, MODEL_THERE);
        script_reset(m);
    } else {
        assert_int_equal(rc, STI_OK);
        assert_int_not_equal(m->exists, MODEL_NONE);
        m->exists = MODEL_THERE;
        check_ends(s, &state);
        check_bytes(s);
        check_blob(s);
        check_folder(s);
        check_service(s);
    }
    sti_fault_set_hook(hook);
}

void script_reopen(struct script *s)
{
    if (s->model->exists == MODEL_THERE) {
        struct sti_storage_state state;
        if (fx_open(s->fx, topic, 0, &s->part, &state) == STI_OK) {
            check_ends(s, &state);
            append(s, 2, 300, 2);
            (void)s->fx->api->close(s->part, NULL);
            s->part = NULL;
        }
    }
}
