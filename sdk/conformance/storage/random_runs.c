/* random_runs.c -- long random runs against a plain model.
 *
 * A few partitions of one node live side by side. Every step picks one and does something to it and
 * to its model; afterwards the engine must say what the model says. What has been read is held for
 * a while and looked at again, so that bytes which move or change under a reader are seen.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

enum { PARTITIONS = 3, BLOB_NAMES = 3, HELD = 4, STEPS = 500 };

static const char *const blob_names[BLOB_NAMES] = {"leader-epoch-checkpoint", "a", "0.snapshot-9"};

struct held {
    struct cs_read read;
    uint8_t *bytes; /* as they were; NULL: free */
    size_t len;
};

struct member {
    char topic[8];
    uint8_t topic_id;
    struct cs_part *p;
    struct cs_model m;
    int32_t epoch;
    struct {
        bool there;
        uint8_t byte;
        size_t len;
    } blobs[BLOB_NAMES];
};

struct world {
    struct cs cs;
    struct cfm *cfm;
    bool reopens, blobs;
    struct member members[PARTITIONS];
    struct held held[HELD];
};

/* ---- what is held --------------------------------------------------------------------------- */

static void let_go(struct held *h)
{
    if (h->bytes != NULL) {
        size_t len;
        uint8_t *now = cs_bytes(&h->read, &len);
        CFM_EXPECT(len == h->len && memcmp(now, h->bytes, len) == 0,
                   "bytes of a slice have changed while it was held");
        free(now);
        free(h->bytes);
        h->bytes = NULL;
        cs_release(&h->read);
    }
}

static void hold(struct world *w, struct cs_read *read)
{
    struct held *h = &w->held[cfm_below(w->cfm, HELD)];
    let_go(h);
    h->read = *read;
    h->read.op.slices = h->read.slices;
    h->bytes = cs_bytes(&h->read, &h->len);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void randomize_settings(struct world *w)
{
    static const int64_t segment_bytes[] = {2000, 4096, 16384, 65536, 1 << 20};
    struct cfm *cfm = w->cfm;
    w->cs.settings.segment_bytes = segment_bytes[cfm_below(cfm, 5)];
    w->cs.settings.index_interval_bytes = 1 << (4 + cfm_below(cfm, 10));
    w->cs.settings.flush_policy = cs_durable(&w->cs) ? (int32_t)cfm_below(cfm, 3) : 0;
    w->cs.settings.flush_interval_ms = 1 + cfm_below(cfm, 10);
}

static void step_append(struct world *w, struct member *v)
{
    struct cfm *cfm = w->cfm;
    struct cs_batch batches[40];
    uint32_t count = cfm_one_in(cfm, 10) ? 1 + cfm_below(cfm, 40) : 1 + cfm_below(cfm, 6);
    int64_t next = v->m.end;
    v->epoch += cfm_one_in(cfm, 10) ? 1 : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t records = 1 + cfm_below(cfm, 5), least = cs_len_min(records);
        uint32_t more = cfm_one_in(cfm, 30) ? 20000 : cfm_one_in(cfm, 3) ? 20 : 900;
        batches[i] = (struct cs_batch){.base = next,
                                       .records = records,
                                       .len = cs_len_fit(records, least + cfm_below(cfm, more)),
                                       .timestamp = 1000 + next + cfm_below(cfm, 50),
                                       .epoch = v->epoch};
        next += records;
    }
    cfm_step("append of %u batches at %" PRId64 " to %s", count, v->m.end, v->topic);
    CFM_STATUS(cs_append(v->p, batches, count, NULL), STI_OK);
    for (uint32_t i = 0; i < count; i++) {
        cs_model_add(&v->m, &batches[i]);
    }
}

static void step_read(struct world *w, struct member *v)
{
    struct cfm *cfm = w->cfm;
    const struct cs_model *m = &v->m;
    struct cs_read read;
    int64_t offset = m->log_start + cfm_below(cfm, (uint32_t)(m->end - m->log_start + 1));
    int64_t end =
        cfm_one_in(cfm, 2) ? m->end : offset + cfm_below(cfm, (uint32_t)(m->end - offset + 1));
    uint64_t max_bytes = 1 + cfm_below(cfm, cfm_one_in(cfm, 2) ? 2000 : 100000);
    uint32_t flags = cfm_one_in(cfm, 2) ? STI_READ_MEMORY : 0u;
    uint32_t slices = cfm_one_in(cfm, 4) ? 1 + cfm_below(cfm, 3) : CS_SLICES;
    flags |= cfm_one_in(cfm, 3) ? STI_READ_NO_WAIT : 0u;
    cfm_step("read of %s at %" PRId64 " below %" PRId64 ", %" PRIu64 " bytes, flags %u", v->topic,
             offset, end, max_bytes, flags);
    int rc = cs_read_max(v->p, offset, end, max_bytes, flags, slices, &read);
    if (rc == STI_E_WOULD_BLOCK && (flags & STI_READ_NO_WAIT) != 0) {
        return;
    }
    CFM_STATUS(rc, STI_OK);
    cs_model_check_bytes(m, &read, offset, end, max_bytes);
    if (cfm_one_in(cfm, 4) && read.op.slice_count > 0) {
        hold(w, &read);
    } else {
        cs_release(&read);
    }
}

static void step_read_outside(struct world *w, struct member *v)
{
    struct cs_read read;
    int64_t below = v->m.log_start - 1 - (int64_t)cfm_below(w->cfm, 10);
    CFM_STATUS(cs_read(v->p, below, v->m.end, 100, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(v->p, v->m.end + 1, v->m.end + 9, 100, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
}

static void step_time(struct world *w, struct member *v)
{
    const struct cs_model *m = &v->m;
    int64_t timestamp = 900 + cfm_below(w->cfm, (uint32_t)(m->end + 200)), offset, found;
    size_t i = cs_model_find(m, m->log_start);
    cfm_step("offset_for_time(%" PRId64 ") of %s", timestamp, v->topic);
    int rc = cs_time(v->p, timestamp, &offset, &found);
    while (i < m->count && m->batches[i].timestamp < timestamp) {
        i++;
    }
    CFM_STATUS(rc, i == m->count ? STI_E_NOT_FOUND : STI_OK);
    if (i < m->count) {
        CFM_EQ(offset, m->batches[i].base < m->log_start ? m->log_start : m->batches[i].base);
        CFM_EQ(found, m->batches[i].timestamp);
    }
}

static void step_trim(struct world *w, struct member *v)
{
    struct cs_model *m = &v->m;
    int64_t all = m->end - m->log_start, end, newest;
    uint64_t bytes;
    int64_t start = m->log_start + cfm_below(w->cfm, (uint32_t)(all + 1));
    if (cfm_one_in(w->cfm, 3) && cs_oldest(v->p, &end, &bytes, &newest) == STI_OK) {
        start = end; /* as retention does */
    } else if (!cfm_one_in(w->cfm, 10)) {
        start = m->log_start + (start - m->log_start) / 8;
    }
    cfm_step("trim of %s to %" PRId64, v->topic, start);
    CFM_STATUS(cs_trim(v->p, start), STI_OK);
    m->log_start = start > m->log_start ? start : m->log_start;
}

static void step_truncate(struct world *w, struct member *v)
{
    struct cs_model *m = &v->m;
    size_t first = cs_model_find(m, m->log_start);
    first += first < m->count && m->batches[first].base < m->log_start ? 1 : 0;
    if (first < m->count) {
        size_t left = m->count - first;
        size_t i = cfm_one_in(w->cfm, 8) ? first + cfm_below(w->cfm, (uint32_t)left)
                                         : m->count - 1 - cfm_below(w->cfm, (uint32_t)left) / 6;
        int64_t offset = m->batches[i].base;
        if (m->batches[i].records > 1) {
            CFM_STATUS(cs_truncate(v->p, offset + 1), STI_E_INVALID_ARGUMENT);
        }
        cfm_step("truncate of %s to %" PRId64, v->topic, offset);
        CFM_STATUS(cs_truncate(v->p, offset), STI_OK);
        cs_model_truncate(m, offset);
        v->epoch++;
    }
}

static void step_sync(struct member *v)
{
    int64_t synced;
    cfm_step("sync of %s", v->topic);
    CFM_STATUS(cs_sync(v->p, &synced), STI_OK);
    CFM_EQ(synced, v->m.end);
}

static void step_blob(struct world *w, struct member *v)
{
    unsigned i = cfm_below(w->cfm, BLOB_NAMES);
    uint8_t *data;
    size_t len;
    cfm_step("blob %s of %s", blob_names[i], v->topic);
    if (cfm_one_in(w->cfm, 2)) {
        v->blobs[i].there = true;
        v->blobs[i].byte = (uint8_t)cfm_below(w->cfm, 256);
        v->blobs[i].len = cfm_below(w->cfm, cfm_one_in(w->cfm, 5) ? 100000 : 300);
        data = malloc(v->blobs[i].len + 1);
        CFM_CHECK(data != NULL);
        memset(data, v->blobs[i].byte, v->blobs[i].len);
        CFM_STATUS(cs_blob_put(v->p, blob_names[i], data, v->blobs[i].len), STI_OK);
        free(data);
        return;
    }
    int rc = cs_blob_get(v->p, blob_names[i], (void **)&data, &len);
    CFM_STATUS(rc, v->blobs[i].there ? STI_OK : STI_E_NOT_FOUND);
    if (rc == STI_OK) {
        CFM_EQ(len, v->blobs[i].len);
        for (size_t at = 0; at < len; at++) {
            CFM_EQ(data[at], v->blobs[i].byte);
        }
        free(data);
    }
}

static void check_state(const struct member *v, const struct sti_storage_state *state)
{
    CFM_EQ(state->written_end, v->m.end);
    CFM_EQ(state->log_start, v->m.log_start);
    CFM_EQ(state->flags, 0);
    CFM_EXPECT(state->synced_end >= 0 && state->synced_end <= v->m.end,
               "the synced end %" PRId64 " lies behind the written end %" PRId64, state->synced_end,
               v->m.end);
}

static void reopen_one(struct world *w, struct member *v, uint32_t flags)
{
    randomize_settings(w);
    cfm_step("open of %s", v->topic);
    CFM_STATUS(cs_open_id(&w->cs, v->topic, 0, v->topic_id, flags, &v->p), STI_OK);
    check_state(v, &v->p->opened);
}

/* Close one, or all and the node with them. */
static void step_reopen(struct world *w, struct member *v)
{
    bool all = cfm_one_in(w->cfm, 3);
    for (unsigned i = 0; i < PARTITIONS; i++) {
        if (all || v == &w->members[i]) {
            cfm_step("close of %s", w->members[i].topic);
            cs_closed(w->members[i].p);
            w->members[i].p = NULL;
        }
    }
    if (all) {
        for (unsigned i = 0; i < HELD; i++) {
            let_go(&w->held[i]);
        }
        cfm_step("restart of the node");
        cs_restart(&w->cs);
    }
    for (unsigned i = 0; i < PARTITIONS; i++) {
        if (w->members[i].p == NULL) {
            reopen_one(w, &w->members[i], 0);
            CFM_EQ(w->members[i].p->opened.synced_end, w->members[i].m.end);
            cs_model_check(&w->members[i].m, w->members[i].p);
        }
    }
}

/* Delete it, and make it anew under another topic id. */
static void step_remove(struct world *w, struct member *v)
{
    struct cs_part *none;
    cfm_step("remove of %s", v->topic);
    cs_closed(v->p);
    CFM_STATUS(cs_remove_id(&w->cs, v->topic, 0, v->topic_id), STI_OK);
    CFM_STATUS(cs_open_id(&w->cs, v->topic, 0, v->topic_id, 0, &none), STI_E_NOT_FOUND);
    v->topic_id++;
    v->epoch = 0;
    cs_model_fini(&v->m);
    memset(v->blobs, 0, sizeof v->blobs);
    reopen_one(w, v, STI_STORAGE_CREATE);
}

static void step(struct world *w)
{
    struct member *v = &w->members[cfm_below(w->cfm, PARTITIONS)];
    uint32_t dice = cfm_below(w->cfm, 1000);
    if (dice < 340) {
        step_append(w, v);
    } else if (dice < 720) {
        step_read(w, v);
    } else if (dice < 740) {
        step_read_outside(w, v);
    } else if (dice < 800) {
        step_time(w, v);
    } else if (dice < 840) {
        step_trim(w, v);
    } else if (dice < 880) {
        step_truncate(w, v);
    } else if (dice < 910) {
        step_sync(v);
    } else if (dice < 950) {
        if (w->blobs) {
            step_blob(w, v);
        }
    } else if (dice < 965) {
        randomize_settings(w);
        cfm_step("configure of %s", v->topic);
        CFM_STATUS(cs_configure(v->p, &w->cs.settings), STI_OK);
    } else if (dice < 995) {
        if (w->reopens) {
            step_reopen(w, v);
        }
    } else {
        step_remove(w, v);
    }
    if (v->p != NULL) {
        struct sti_storage_state state = cs_state(v->p);
        check_state(v, &state);
    }
}

static void run(struct cfm *cfm, bool reopens)
{
    static struct world world;
    struct world *w = &world;
    memset(w, 0, sizeof *w);
    w->cfm = cfm;
    w->reopens = reopens;
    w->blobs = (cfm->caps & STI_STORAGE_BLOBS) != 0;
    cs_start(&w->cs, cfm);
    for (unsigned i = 0; i < PARTITIONS; i++) {
        struct member *v = &w->members[i];
        (void)snprintf(v->topic, sizeof v->topic, "r%u", i);
        v->topic_id = 1;
        reopen_one(w, v, STI_STORAGE_CREATE);
    }
    for (int i = 0; i < STEPS; i++) {
        step(w);
    }
    for (unsigned i = 0; i < PARTITIONS; i++) {
        cs_model_check(&w->members[i].m, w->members[i].p);
        CFM_EQ(atomic_load(&w->members[i].p->failed_count), 0);
        cs_closed(w->members[i].p);
        CFM_STATUS(cs_remove_id(&w->cs, w->members[i].topic, 0, w->members[i].topic_id), STI_OK);
        cs_model_fini(&w->members[i].m);
    }
    for (unsigned i = 0; i < HELD; i++) {
        let_go(&w->held[i]);
    }
    cs_stop(&w->cs);
}

void cs_case_random_ops(struct cfm *cfm)
{
    for (uint32_t i = 0; i < 4 * cfm->rounds; i++) {
        run(cfm, false);
    }
}

void cs_case_random_reopens(struct cfm *cfm)
{
    for (uint32_t i = 0; i < 4 * cfm->rounds; i++) {
        run(cfm, true);
    }
}
