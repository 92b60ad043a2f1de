/* threads.c -- calls beside each other, and callbacks that find no lock held.
 *
 * Threads of the case post their calls to the node's executor and wait, so that up to CFM_THREADS
 * of them are in the engine at a time, on the threads that the contract names. What a batch holds
 * follows from its number, so that a reader knows what to expect without asking the writer.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cases.h"

enum { RECORDS = 3, THREADS_MAX = 8 };

static struct cs_batch nth(int64_t i)
{
    return (struct cs_batch){.base = i * RECORDS,
                             .records = RECORDS,
                             .len = 200 + (uint32_t)(i * 37 % 900),
                             .timestamp = 1000 + i};
}

struct shared {
    struct cs *cs;
    struct cs_part *p;
    _Atomic int64_t written; /* batches */
    _Atomic bool over;
    int64_t until;
    bool trims; /* the log is trimmed and truncated meanwhile */
};

struct worker {
    pthread_t thread;
    struct shared *s;
    uint64_t random;
    _Atomic unsigned done; /* rounds */
};

static uint32_t dice(struct worker *w, uint32_t below)
{
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(w->random >> 33) % below;
}

static void start(struct worker *w, struct shared *s, uint64_t seed, void *(*run)(void *))
{
    w->s = s;
    w->random = seed;
    atomic_store(&w->done, 0);
    CFM_CHECK(pthread_create(&w->thread, NULL, run, w) == 0);
}

/* Wait until each has been round once: a fast writer may be done before they have begun. */
static void wait_for_all(struct worker *workers, unsigned count)
{
    struct timespec span = {.tv_nsec = 1000000};
    cfm_step("waiting for the threads beside the writer");
    for (unsigned i = 0; i < count; i++) {
        while (atomic_load(&workers[i].done) == 0) {
            (void)nanosleep(&span, NULL); /* the case's own time limit ends this */
        }
    }
}

static void join(struct worker *w)
{
    CFM_CHECK(pthread_join(w->thread, NULL) == 0);
}

/* ---- beside an appending strand ------------------------------------------------------------- */

/* Bytes of batches in a row, compared with what their numbers say. */
static int64_t check_batches(const struct cs_read *read, int64_t offset)
{
    size_t len, pos = 0;
    uint8_t *got = cs_bytes(read, &len);
    static const size_t longest = 1200;
    uint8_t *want = malloc(longest);
    int64_t i = offset / RECORDS;
    CFM_CHECK(want != NULL);
    for (; pos < len; i++) {
        struct cs_batch b = nth(i);
        cs_encode(&b, want);
        CFM_EXPECT(pos + b.len <= len && memcmp(got + pos, want, b.len) == 0,
                   "a read beside appends returned other bytes for the batch at %" PRId64, b.base);
        pos += b.len;
    }
    free(want);
    free(got);
    return i * RECORDS;
}

static void *chase(void *arg)
{
    struct worker *w = arg;
    struct cs_read read;
    int64_t next = 0;
    while (next < w->s->until * RECORDS) {
        int64_t end = atomic_load(&w->s->written) * RECORDS;
        uint32_t flags = dice(w, 2) == 0 ? STI_READ_MEMORY : 0u;
        flags |= dice(w, 3) == 0 ? STI_READ_NO_WAIT : 0u;
        int rc = cs_read(w->s->p, next, end, 1 + dice(w, 9000), flags, &read);
        CFM_CHECK(rc == STI_OK || (rc == STI_E_WOULD_BLOCK && (flags & STI_READ_NO_WAIT) != 0));
        if (rc == STI_OK) {
            int64_t after = check_batches(&read, next);
            CFM_CHECK(after <= end && (after > next || next == end));
            next = after;
            cs_release(&read);
        }
        w->done++;
    }
    return NULL;
}

static void *seek(void *arg)
{
    struct worker *w = arg;
    struct cs_read read;
    int64_t offset, found;
    while (!atomic_load(&w->s->over)) {
        int64_t batches = atomic_load(&w->s->written);
        if (batches == 0) {
            continue;
        }
        int64_t i = dice(w, (uint32_t)batches);
        CFM_STATUS(cs_read(w->s->p, i * RECORDS + 1, batches * RECORDS, 1, STI_READ_MEMORY, &read),
                   STI_OK);
        CFM_EQ(check_batches(&read, i * RECORDS + 1), (i + 1) * RECORDS);
        cs_release(&read);
        CFM_STATUS(cs_time(w->s->p, 1000 + i, &offset, &found), STI_OK);
        CFM_EQ(offset, i * RECORDS);
        CFM_EQ(found, 1000 + i);
        w->done++;
    }
    return NULL;
}

static void *sync_often(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(&w->s->over)) {
        int64_t before = atomic_load(&w->s->written) * RECORDS, synced;
        CFM_STATUS(cs_sync(w->s->p, &synced), STI_OK);
        CFM_EXPECT(synced >= before,
                   "a sync ended with synced end %" PRId64 ", though %" PRId64
                   " had been written before it",
                   synced, before);
        w->done++;
    }
    return NULL;
}

static void *watch(void *arg)
{
    struct worker *w = arg;
    int64_t written = 0, synced = 0;
    while (!atomic_load(&w->s->over)) {
        int64_t before = atomic_load(&w->s->written) * RECORDS;
        struct sti_storage_state state = cs_state(w->s->p);
        CFM_CHECK(state.written_end >= before && state.written_end >= written);
        CFM_CHECK(state.synced_end >= synced && state.synced_end <= state.written_end);
        CFM_EQ(state.written_end % RECORDS, 0);
        written = state.written_end;
        synced = state.synced_end;
        CFM_CHECK(cs_usage(w->s->p).bytes > 0 || before == 0);
        w->done++;
    }
    return NULL;
}

/* A blob is all of one writing: every byte, and the length, tell which. */
static void *blob_both(void *arg)
{
    struct worker *w = arg;
    static const size_t longest = 5000;
    uint8_t *data = malloc(longest);
    CFM_CHECK(data != NULL);
    while (!atomic_load(&w->s->over)) {
        uint8_t *got;
        size_t len;
        uint32_t byte = dice(w, 250);
        memset(data, (int)byte, longest);
        CFM_STATUS(cs_blob_put(w->s->p, "checkpoint", data, 10 + byte * 19), STI_OK);
        CFM_STATUS(cs_blob_get(w->s->p, "checkpoint", (void **)&got, &len), STI_OK);
        for (size_t i = 0; i < len; i++) {
            CFM_EXPECT(got[i] == got[0], "a blob mixes two writings");
        }
        CFM_EXPECT(len == 10 + (size_t)got[0] * 19, "a blob has the length of another writing");
        free(got);
        w->done++;
    }
    free(data);
    return NULL;
}

void cs_case_beside_appends(struct cfm *cfm)
{
    struct cs cs;
    struct worker workers[THREADS_MAX];
    static void *(*const runs[])(void *) = {chase, chase,      seek,      sync_often,
                                            watch, sync_often, blob_both, blob_both};
    unsigned count = (cfm->caps & STI_STORAGE_BLOBS) != 0 ? 8 : 6;
    cs_start(&cs, cfm);
    for (uint32_t round = 0; round < cfm->rounds; round++) {
        cs.settings.flush_policy = cs_durable(&cs) ? (int32_t)(round % 3) : 0;
        struct shared s = {.cs = &cs, .p = cs_created(&cs, "t"), .until = 400};
        for (unsigned i = 0; i < count; i++) {
            start(&workers[i], &s, cfm_below(cfm, UINT32_MAX), runs[i]);
        }
        for (int64_t i = 0; i < s.until; i += 2) {
            struct cs_batch pair[2] = {nth(i), nth(i + 1)};
            CFM_STATUS(cs_append(s.p, pair, 2, NULL), STI_OK);
            atomic_store(&s.written, i + 2);
        }
        wait_for_all(workers, count);
        join(&workers[0]);
        join(&workers[1]);
        atomic_store(&s.over, true);
        for (unsigned i = 2; i < count; i++) {
            join(&workers[i]);
        }
        cs_closed(s.p);
        CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
    }
    cs_stop(&cs);
}

/* ---- beside trim and truncate --------------------------------------------------------------- */

/* Readers of a log whose ends move: what they get is whole, and stays so while they hold it. */
static void *hold_on(void *arg)
{
    struct worker *w = arg;
    struct cs_read held[4];
    uint8_t *bytes[4] = {NULL};
    size_t lens[4];
    while (!atomic_load(&w->s->over)) {
        struct sti_storage_state state = cs_state(w->s->p);
        unsigned k = dice(w, 4);
        if (bytes[k] != NULL) {
            size_t len;
            uint8_t *now = cs_bytes(&held[k], &len);
            CFM_EXPECT(len == lens[k] && memcmp(now, bytes[k], len) == 0,
                       "bytes of a slice have changed while it was held");
            free(now);
            free(bytes[k]);
            bytes[k] = NULL;
            cs_release(&held[k]);
        }
        if (state.written_end == state.log_start) {
            continue;
        }
        int64_t offset = state.log_start + dice(w, (uint32_t)(state.written_end - state.log_start));
        int rc = cs_read(w->s->p, offset, state.written_end, 1 + dice(w, 20000),
                         dice(w, 2) == 0 ? STI_READ_MEMORY : 0u, &held[k]);
        CFM_EXPECT(rc == STI_OK || rc == STI_E_OFFSET_OUT_OF_RANGE,
                   "a read of %" PRId64 " beside cuts ended with %s: %s", offset,
                   sti_status_name(rc), held[k].err.msg);
        if (rc == STI_OK && held[k].op.slice_count > 0) {
            (void)cs_walk(&held[k], offset);
            bytes[k] = cs_bytes(&held[k], &lens[k]);
        } else if (rc == STI_OK) {
            /* The log ended below the offset meanwhile. */
            CFM_CHECK(w->s->trims);
        }
        w->done++;
    }
    for (unsigned k = 0; k < 4; k++) {
        if (bytes[k] != NULL) {
            free(bytes[k]);
            cs_release(&held[k]);
        }
    }
    return NULL;
}

static void *ask_times(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(&w->s->over)) {
        int64_t offset, found, timestamp = 900 + dice(w, 3000);
        int rc = cs_time(w->s->p, timestamp, &offset, &found);
        CFM_CHECK(rc == STI_OK || rc == STI_E_NOT_FOUND);
        CFM_CHECK(rc != STI_OK || (found >= timestamp && offset >= 0));
        CFM_STATUS(cs_sync(w->s->p, NULL), STI_OK);
        w->done++;
    }
    return NULL;
}

void cs_case_beside_cuts(struct cfm *cfm)
{
    struct cs cs;
    struct worker workers[4];
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 8192;
    for (uint32_t round = 0; round < cfm->rounds; round++) {
        struct shared s = {.cs = &cs, .p = cs_created(&cs, "t"), .trims = true};
        struct cs_model m = {0};
        int32_t epoch = 0;
        for (unsigned i = 0; i < 4; i++) {
            start(&workers[i], &s, cfm_below(cfm, UINT32_MAX), i < 3 ? hold_on : ask_times);
        }
        for (int i = 0; i < 250; i++) {
            struct cs_batch b = {.base = m.end,
                                 .records = 3,
                                 .len = 200 + cfm_below(cfm, 1500),
                                 .timestamp = 1000 + m.end,
                                 .epoch = epoch};
            CFM_STATUS(cs_append(s.p, &b, 1, NULL), STI_OK);
            cs_model_add(&m, &b);
            if (i % 9 == 8) {
                m.log_start += (m.end - m.log_start) / 5;
                CFM_STATUS(cs_trim(s.p, m.log_start), STI_OK);
            }
            if (i % 7 == 6 && m.batches[m.count - 4].base > m.log_start) {
                int64_t cut = m.batches[m.count - 1 - cfm_below(cfm, 4)].base;
                CFM_STATUS(cs_truncate(s.p, cut), STI_OK);
                cs_model_truncate(&m, cut);
                epoch++;
            }
        }
        wait_for_all(workers, 4);
        atomic_store(&s.over, true);
        for (unsigned i = 0; i < 4; i++) {
            join(&workers[i]);
        }
        cs_model_check(&m, s.p);
        cs_closed(s.p);
        if (cs_durable(&cs)) { /* what was read came from where it is kept */
            s.p = cs_opened(&cs, "t");
            cs_model_check(&m, s.p);
            cs_closed(s.p);
        }
        cs_model_fini(&m);
        CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
    }
    cs_stop(&cs);
}

/* ---- partitions beside each other ----------------------------------------------------------- */

static void *own_partition(void *arg)
{
    struct worker *w = arg;
    struct cs *cs = w->s->cs;
    struct cs_part *p;
    struct cs_model m = {0};
    int32_t index = (int32_t)(w->random % 1000);
    CFM_STATUS(cs_open_id(cs, "own", index, 1, STI_STORAGE_CREATE, &p), STI_OK);
    for (int i = 0; i < 120; i++) {
        struct cs_batch b = {.base = m.end,
                             .records = 2,
                             .len = 200 + dice(w, 2000),
                             .timestamp = 1000 + m.end,
                             .epoch = index};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(&m, &b);
        if (i % 30 == 29) {
            CFM_STATUS(cs_sync(p, NULL), STI_OK);
            m.log_start = m.batches[m.count / 3].base;
            CFM_STATUS(cs_trim(p, m.log_start), STI_OK);
            cs_model_check(&m, p);
        }
        if (i % 50 == 49) {
            cs_closed(p);
            CFM_STATUS(cs_open_id(cs, "own", index, 1, 0, &p), STI_OK);
        }
        w->done++;
    }
    cs_model_check(&m, p);
    cs_closed(p);
    CFM_STATUS(cs_remove_id(cs, "own", index, 1), STI_OK);
    cs_model_fini(&m);
    return NULL;
}

void cs_case_beside_partitions(struct cfm *cfm)
{
    struct cs cs;
    struct worker workers[THREADS_MAX];
    cs_start(&cs, cfm);
    for (uint32_t round = 0; round < cfm->rounds; round++) {
        struct shared s = {.cs = &cs};
        for (unsigned i = 0; i < THREADS_MAX; i++) {
            start(&workers[i], &s, cfm_below(cfm, 1000000) * 1000u + i, own_partition);
        }
        for (unsigned i = 0; i < THREADS_MAX; i++) {
            join(&workers[i]);
        }
    }
    cs_stop(&cs);
}

/* ---- callbacks ------------------------------------------------------------------------------ */

/* A gate that holds a callback inside while the case makes other calls. */
struct gate {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool inside, open;
};

static void gate_hold(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    g->inside = true;
    pthread_cond_broadcast(&g->cond);
    while (!g->open) {
        pthread_cond_wait(&g->cond, &g->mu);
    }
    pthread_mutex_unlock(&g->mu);
}

static void gate_wait(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    while (!g->inside) {
        pthread_cond_wait(&g->cond, &g->mu);
    }
    pthread_mutex_unlock(&g->mu);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    g->open = true;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->mu);
}

/* What needs no strand. */
static void call_the_rest(struct cs_part *p)
{
    struct cs_read read;
    int64_t offset, found;
    void *data;
    size_t len;
    cfm_step("state while a callback is under way");
    (void)cs_state(p);
    cfm_step("a read while a callback is under way");
    CFM_STATUS(cs_read(p, 0, 3, 1, STI_READ_MEMORY, &read), STI_OK);
    CFM_EQ(cs_walk(&read, 0), 3);
    cs_release(&read);
    int rc = cs_read(p, 0, 3, 1, STI_READ_NO_WAIT | STI_READ_MEMORY, &read);
    CFM_CHECK(rc == STI_OK || rc == STI_E_WOULD_BLOCK);
    cs_release(&read);
    cfm_step("offset_for_time while a callback is under way");
    CFM_STATUS(cs_time(p, 1000, &offset, &found), STI_OK);
    (void)cs_usage(p);
    if ((p->cs->cfm->caps & STI_STORAGE_BLOBS) != 0) {
        cfm_step("blobs while a callback is under way");
        CFM_STATUS(cs_blob_put(p, "x", "y", 1), STI_OK);
        CFM_STATUS(cs_blob_get(p, "x", &data, &len), STI_OK);
        free(data);
    }
}

struct gated {
    struct cs_pending op;
    struct gate gate;
};

static void hold_answer(struct cs_pending *op)
{
    struct gated *g = (struct gated *)(void *)op;
    gate_hold(&g->gate);
}

static void gated_init(struct gated *g)
{
    memset(g, 0, sizeof *g);
    (void)pthread_mutex_init(&g->gate.mu, NULL);
    (void)pthread_cond_init(&g->gate.cond, NULL);
    g->op.on_answer = hold_answer;
}

void cs_case_callbacks_hold_no_lock(struct cfm *cfm)
{
    struct cs cs;
    struct gated append, read, sync;
    struct cs_batch b = nth(1), c = nth(2), first = nth(0);
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_append(p, &first, 1, NULL), STI_OK);
    /* An append's. */
    gated_init(&append);
    cs_append_begin(p, &b, &append.op);
    gate_wait(&append.gate);
    call_the_rest(p);
    gate_open(&append.gate);
    CFM_STATUS(cs_pending_end(&append.op), STI_OK);
    /* A read's: the strand is free. */
    gated_init(&read);
    cs_read_begin(p, 0, 3, &read.op);
    gate_wait(&read.gate);
    call_the_rest(p);
    cfm_step("an append while a read's callback is under way");
    CFM_STATUS(cs_append(p, &c, 1, NULL), STI_OK);
    CFM_STATUS(cs_sync(p, NULL), STI_OK);
    CFM_STATUS(cs_truncate(p, c.base), STI_OK);
    CFM_STATUS(cs_append(p, &c, 1, NULL), STI_OK);
    CFM_STATUS(cs_trim(p, 0), STI_OK);
    gate_open(&read.gate);
    CFM_STATUS(cs_pending_end(&read.op), STI_OK);
    /* A sync's. Another sync may wait for it. */
    gated_init(&sync);
    cs_sync_begin(p, &sync.op);
    gate_wait(&sync.gate);
    call_the_rest(p);
    struct cs_batch d = nth(3);
    cfm_step("an append while a sync's callback is under way");
    CFM_STATUS(cs_append(p, &d, 1, NULL), STI_OK);
    gate_open(&sync.gate);
    CFM_STATUS(cs_pending_end(&sync.op), STI_OK);
    cs_closed(p);
    cs_stop(&cs);
}

static void hold_event(struct cs_part *p, int64_t synced_end)
{
    (void)synced_end;
    gate_hold(p->user);
}

void cs_case_events_hold_no_lock(struct cfm *cfm)
{
    struct cs cs;
    struct gate gate = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct cs_pending first = {0};
    cs_start(&cs, cfm);
    cs.settings.flush_policy = STI_FLUSH_COMMIT;
    struct cs_part *p = cs_created(&cs, "t");
    p->user = &gate;
    p->on_synced = hold_event;
    /* The event may run inside the append, and keep the strand: all else goes on. */
    struct cs_batch b = nth(0);
    cs_append_begin(p, &b, &first);
    gate_wait(&gate);
    call_the_rest(p);
    gate_open(&gate);
    CFM_STATUS(cs_pending_end(&first), STI_OK);
    for (int64_t i = 1; i < 4; i++) {
        b = nth(i);
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
    }
    CFM_STATUS(cs_sync(p, NULL), STI_OK);
    cs_closed(p);
    cs_stop(&cs);
}

/* ---- ends ----------------------------------------------------------------------------------- */

void cs_case_close_ends_calls(struct cfm *cfm)
{
    struct cs cs;
    struct cs_pending syncs[8];
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    int64_t end = 0;
    for (uint32_t round = 0; round < 20 * cfm->rounds; round++) {
        CFM_STATUS(cs_append_like(p, end, 1, 1000 + cfm_below(cfm, 500), 1, 30, 0), STI_OK);
        end += 30;
        unsigned count = 1 + cfm_below(cfm, 8);
        memset(syncs, 0, sizeof syncs);
        for (unsigned i = 0; i < count; i++) {
            cs_sync_begin(p, &syncs[i]);
        }
        for (unsigned i = 0; i < count; i++) {
            cs_pending_begun(&syncs[i]);
        }
        cs_closed(p);
        for (unsigned i = 0; i < count; i++) {
            CFM_EXPECT(cs_pending_answered(&syncs[i]),
                       "close returned before a sync had its answer");
            CFM_STATUS(cs_pending_end(&syncs[i]), STI_OK);
        }
        p = cs_opened(&cs, "t");
        CFM_EQ(p->opened.written_end, end);
        CFM_EQ(p->opened.synced_end, end);
    }
    cs_closed(p);
    cs_stop(&cs);
}
