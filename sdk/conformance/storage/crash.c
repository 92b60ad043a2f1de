/* crash.c -- what survives the death of the process, at any moment.
 *
 * A life: a forked process brings a node up, opens the partition and does one thing after another;
 * it tells over a pipe what it is about to do, and that it has been done. The case kills it at a
 * random moment, reads the pipe to its end, and brings up a node of its own over the same folder.
 * Everything that was done must be there, byte for byte; the one thing that was under way may be
 * there or not, but never in between: of an append a first part of its whole batches may have
 * survived, since nobody was told anything.
 *
 * The dead process has lost nothing that it had written, so this says nothing about a loss of
 * power; but whatever an engine keeps in its own memory until a sync is lost, and seen.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

enum kind {
    NOTE_READY,
    NOTE_BATCH, /* of the append that follows */
    NOTE_APPEND,
    NOTE_TRUNCATE,
    NOTE_TRIM,
    NOTE_BLOB,
    NOTE_SYNC,
    NOTE_CREATE,
    NOTE_REMOVE
};

/* Smaller than PIPE_BUF, so that none is ever cut. */
struct note {
    uint32_t kind;
    bool done; /* or about to be */
    struct cs_batch batch;
    int64_t offset;
    uint32_t byte, len; /* of a blob */
};

enum { BATCHES_MAX = 8, OPS_MAX = 400, LIVES = 25 };

/* What the case knows of the partition; forked into each life. */
struct story {
    struct cfm *cfm;
    struct cs cs;
    struct cs_model m;
    bool exists;
    uint8_t topic_id;
    int32_t epoch;
    bool blob_there;
    uint32_t blob_byte, blob_len;
    uint64_t seed; /* of the life */
    int fd;
    /* What was under way when it ended. */
    struct note under_way;
    struct cs_batch batches[BATCHES_MAX];
    uint32_t batch_count;
};

/* ---- the life ------------------------------------------------------------------------------- */

static void tell(struct story *s, struct note note)
{
    ssize_t n = write(s->fd, &note, sizeof note);
    CFM_EXPECT(n == (ssize_t)sizeof note, "a note could not be written: %s", strerror(errno));
}

static void tell_both(struct story *s, struct note *note)
{
    note->done = true;
    tell(s, *note);
}

static void live_append(struct story *s, struct cs_part *p)
{
    struct cfm *cfm = s->cfm;
    struct cs_batch batches[BATCHES_MAX];
    uint32_t count = 1 + cfm_below(cfm, BATCHES_MAX);
    int64_t next = s->m.end;
    s->epoch += cfm_one_in(cfm, 10) ? 1 : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t records = 1 + cfm_below(cfm, 5);
        uint32_t len = cs_len_min(records) + cfm_below(cfm, cfm_one_in(cfm, 20) ? 30000 : 1500);
        batches[i] = (struct cs_batch){.base = next,
                                       .records = records,
                                       .len = cs_len_fit(records, len),
                                       .timestamp = 1000 + next,
                                       .epoch = s->epoch};
        next += records;
        tell(s, (struct note){.kind = NOTE_BATCH, .batch = batches[i]});
    }
    struct note note = {.kind = NOTE_APPEND};
    tell(s, note);
    CFM_STATUS(cs_append(p, batches, count, NULL), STI_OK);
    tell_both(s, &note);
    for (uint32_t i = 0; i < count; i++) {
        cs_model_add(&s->m, &batches[i]);
    }
}

static void live_cut(struct story *s, struct cs_part *p)
{
    struct cs_model *m = &s->m;
    size_t first = cs_model_find(m, m->log_start + 1);
    if (cfm_one_in(s->cfm, 2) || first >= m->count || m->batches[first].base < m->log_start) {
        struct note note = {.kind = NOTE_TRIM};
        note.offset = m->log_start + cfm_below(s->cfm, (uint32_t)(m->end - m->log_start) / 3 + 1);
        tell(s, note);
        CFM_STATUS(cs_trim(p, note.offset), STI_OK);
        tell_both(s, &note);
        m->log_start = note.offset;
    } else {
        struct note note = {.kind = NOTE_TRUNCATE};
        note.offset =
            m->batches[m->count - 1 - cfm_below(s->cfm, (uint32_t)(m->count - first)) / 4].base;
        tell(s, note);
        CFM_STATUS(cs_truncate(p, note.offset), STI_OK);
        tell_both(s, &note);
        cs_model_truncate(m, note.offset);
        s->epoch++;
    }
}

static void live_blob(struct story *s, struct cs_part *p)
{
    struct note note = {.kind = NOTE_BLOB};
    note.byte = cfm_below(s->cfm, 256);
    note.len = cfm_below(s->cfm, 20000);
    uint8_t *data = malloc(note.len + 1u);
    CFM_CHECK(data != NULL);
    memset(data, (int)note.byte, note.len);
    tell(s, note);
    CFM_STATUS(cs_blob_put(p, "leader-epoch-checkpoint", data, note.len), STI_OK);
    tell_both(s, &note);
    free(data);
}

/* Delete it and make it anew under another topic id. */
static struct cs_part *live_remove(struct story *s, struct cs_part *p)
{
    struct note note = {.kind = NOTE_REMOVE};
    cs_closed(p);
    tell(s, note);
    CFM_STATUS(cs_remove_id(&s->cs, "t", 0, s->topic_id), STI_OK);
    tell_both(s, &note);
    cs_model_fini(&s->m);
    s->topic_id++;
    note = (struct note){.kind = NOTE_CREATE};
    tell(s, note);
    CFM_STATUS(cs_open_id(&s->cs, "t", 0, s->topic_id, STI_STORAGE_CREATE, &p), STI_OK);
    tell_both(s, &note);
    return p;
}

static void live(void *arg, int fd)
{
    struct story *s = arg;
    struct cs_part *p;
    s->fd = fd;
    s->cfm->random = s->seed;
    cs_start(&s->cs, s->cfm);
    s->cs.settings.segment_bytes = INT64_C(4096) << cfm_below(s->cfm, 6);
    s->cs.settings.flush_policy = (int32_t)cfm_below(s->cfm, 3);
    s->cs.settings.flush_interval_ms = 5;
    if (!s->exists) {
        tell(s, (struct note){.kind = NOTE_CREATE});
        CFM_STATUS(cs_open_id(&s->cs, "t", 0, s->topic_id, STI_STORAGE_CREATE, &p), STI_OK);
        tell(s, (struct note){.kind = NOTE_CREATE, .done = true});
    } else {
        CFM_STATUS(cs_open_id(&s->cs, "t", 0, s->topic_id, 0, &p), STI_OK);
    }
    tell(s, (struct note){.kind = NOTE_READY, .done = true});
    for (int i = 0; i < OPS_MAX; i++) {
        uint32_t dice = cfm_below(s->cfm, 100);
        if (dice < 70) {
            live_append(s, p);
        } else if (dice < 80) {
            live_cut(s, p);
        } else if (dice < 88) {
            struct note note = {.kind = NOTE_SYNC};
            tell(s, note);
            CFM_STATUS(cs_sync(p, &note.offset), STI_OK);
            tell_both(s, &note);
        } else if (dice < 97) {
            if ((s->cfm->caps & STI_STORAGE_BLOBS) != 0) {
                live_blob(s, p);
            }
        } else {
            p = live_remove(s, p);
        }
    }
    (void)pause(); /* until it is killed */
}

/* ---- after it ------------------------------------------------------------------------------- */

static void note_done(struct story *s, const struct note *note)
{
    switch (note->kind) {
    case NOTE_APPEND:
        for (uint32_t i = 0; i < s->batch_count; i++) {
            cs_model_add(&s->m, &s->batches[i]);
        }
        break;
    case NOTE_TRUNCATE:
        cs_model_truncate(&s->m, note->offset);
        break;
    case NOTE_TRIM:
        s->m.log_start = note->offset;
        break;
    case NOTE_BLOB:
        s->blob_there = true;
        s->blob_byte = note->byte;
        s->blob_len = note->len;
        break;
    case NOTE_REMOVE:
        cs_model_fini(&s->m);
        s->exists = s->blob_there = false;
        break;
    case NOTE_CREATE:
        s->exists = true;
        break;
    default:
        break;
    }
    s->under_way = (struct note){.kind = NOTE_READY};
    s->batch_count = 0;
}

static void take_note(struct story *s, const struct note *note)
{
    if (note->done) {
        note_done(s, note);
        s->topic_id = (uint8_t)(s->topic_id + (note->kind == NOTE_REMOVE ? 1 : 0));
    } else if (note->kind == NOTE_BATCH) {
        CFM_CHECK(s->batch_count < BATCHES_MAX);
        s->batches[s->batch_count++] = note->batch;
    } else {
        s->under_way = *note;
    }
}

/* Read notes until `most` of them are there, or the pipe ends. @return how many */
static unsigned read_notes(struct story *s, int fd, unsigned most)
{
    struct note note;
    unsigned count = 0;
    while (count < most) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        CFM_EXPECT(poll(&poll_fd, 1, 30000) == 1, "the process to be killed does nothing for 30 s");
        ssize_t n = read(fd, &note, sizeof note);
        if (n == 0) {
            break;
        }
        CFM_CHECK(n == (ssize_t)sizeof note);
        take_note(s, &note);
        count++;
    }
    return count;
}

static void wait_us(uint32_t us)
{
    struct timespec span = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    while (nanosleep(&span, &span) != 0) {
    }
}

/* Recovery shows batches of the log only, in order, up to its end. */
static void check_recovered(struct cs_part *p, const struct sti_batch_header *header)
{
    const struct story *s = p->user;
    size_t i = cs_model_find(&s->m, header->base_offset);
    const struct cs_batch *b = NULL;
    if (i < s->m.count) {
        b = &s->m.batches[i];
    }
    for (uint32_t k = 0; b == NULL && k < s->batch_count; k++) {
        b = s->batches[k].base == header->base_offset ? &s->batches[k] : NULL;
    }
    /* A truncation that was under way may have been finished, or not; both are batches we know. */
    CFM_EXPECT(b != NULL && b->base == header->base_offset && b->len == header->total_len &&
                   b->epoch == header->leader_epoch && cs_last(b) == sti_batch_last_offset(header),
               "recovery shows a batch at %" PRId64 " that was never appended",
               header->base_offset);
}

/* Bring the model to one of the states that what was under way allows, by what the engine says. */
static void settle_ends(struct story *s, const struct sti_storage_state *state)
{
    struct cs_model *m = &s->m;
    const struct note *n = &s->under_way;
    if (n->kind == NOTE_APPEND) {
        for (uint32_t i = 0; i < s->batch_count && state->written_end > m->end; i++) {
            cs_model_add(m, &s->batches[i]);
        }
    } else if (n->kind == NOTE_TRUNCATE && state->written_end == n->offset) {
        cs_model_truncate(m, n->offset);
    } else if (n->kind == NOTE_TRIM && state->log_start == n->offset) {
        m->log_start = n->offset;
    }
    CFM_EXPECT(state->written_end >= m->end,
               "the log ends at %" PRId64 " after a crash; everything below %" PRId64
               " had been appended",
               state->written_end, m->end);
    CFM_EQ(state->written_end, m->end);
    CFM_EQ(state->log_start, m->log_start);
    CFM_EQ(state->flags, 0);
}

static void check_blob(struct story *s, struct cs_part *p)
{
    uint8_t *data;
    size_t len;
    int rc = cs_blob_get(p, "leader-epoch-checkpoint", (void **)&data, &len);
    bool fresh = s->under_way.kind == NOTE_BLOB;
    if (rc == STI_E_NOT_FOUND) {
        CFM_EXPECT(!s->blob_there, "a blob that had been put is gone after a crash");
        return;
    }
    CFM_STATUS(rc, STI_OK);
    bool is_old = s->blob_there && len == s->blob_len;
    bool is_new = fresh && len == s->under_way.len;
    for (size_t i = 0; i < len; i++) {
        is_old = is_old && data[i] == s->blob_byte;
        is_new = is_new && data[i] == s->under_way.byte;
    }
    CFM_EXPECT(is_old || is_new, "a blob of %zu bytes is there after a crash that nobody has put",
               len);
    if (is_new) {
        s->blob_byte = s->under_way.byte;
        s->blob_len = s->under_way.len;
    }
    s->blob_there = true;
    free(data);
}

/* Open what is there by the rules, or make it. */
static struct cs_part *open_after(struct story *s)
{
    struct cs_part *p = NULL;
    bool creating = s->under_way.kind == NOTE_CREATE, removing = s->under_way.kind == NOTE_REMOVE;
    int rc = cs_open_hooked(&s->cs, "t", s->topic_id, 0, check_recovered, s, &p);
    if (rc == STI_E_NOT_FOUND && (creating || removing || !s->exists)) {
        s->topic_id = (uint8_t)(s->topic_id + (removing ? 1 : 0));
        cs_model_fini(&s->m);
        s->blob_there = false;
        CFM_STATUS(cs_open_id(&s->cs, "t", 0, s->topic_id, STI_STORAGE_CREATE, &p), STI_OK);
    } else {
        CFM_STATUS(rc, STI_OK);
        CFM_EXPECT(s->exists || creating, "a removed partition is there again after a crash");
    }
    s->exists = true;
    return p;
}

static void check_life(struct story *s)
{
    cfm_step("opening after a crash");
    cs_start(&s->cs, s->cfm);
    struct cs_part *p = open_after(s);
    struct sti_storage_state state = p->opened;
    settle_ends(s, &state);
    CFM_EXPECT(state.truncated_bytes == 0 || s->under_way.kind == NOTE_APPEND ||
                   s->batch_count > 0 || s->under_way.kind == NOTE_TRUNCATE,
               "open has cut %" PRIu64 " bytes, though no append was under way",
               state.truncated_bytes);
    cs_model_check(&s->m, p);
    if ((s->cfm->caps & STI_STORAGE_BLOBS) != 0) {
        check_blob(s, p);
    }
    s->under_way = (struct note){.kind = NOTE_READY};
    s->batch_count = 0;
    /* The log goes on, and an ordinary end finds it as it is. */
    s->epoch = cs_model_epoch(&s->m) + 1;
    struct cs_batch b = {
        .base = s->m.end, .records = 2, .len = 300, .timestamp = 5000, .epoch = s->epoch};
    CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
    cs_model_add(&s->m, &b);
    if (cfm_one_in(s->cfm, 3)) {
        cs_closed(p);
        p = NULL;
        CFM_STATUS(cs_open_id(&s->cs, "t", 0, s->topic_id, 0, &p), STI_OK);
        cs_model_check(&s->m, p);
    }
    cs_closed(p);
    cs_stop(&s->cs);
}

void cs_case_crash(struct cfm *cfm)
{
    struct story s = {.cfm = cfm, .topic_id = 1};
    for (uint32_t life = 0; life < LIVES * cfm->rounds; life++) {
        int fd;
        /* Some die while they recover. */
        unsigned most = cfm_one_in(cfm, 4) ? 0 : 1 + cfm_below(cfm, 600);
        uint32_t after_us = cfm_below(cfm, most == 0 ? 30000 : 3000);
        cfm_step("life %u", life);
        s.seed = ((uint64_t)cfm_below(cfm, UINT32_MAX) << 32) + cfm_below(cfm, UINT32_MAX);
        pid_t pid = cfm_fork(live, &s, &fd);
        (void)read_notes(&s, fd, most);
        wait_us(after_us);
        cfm_kill(pid);
        (void)read_notes(&s, fd, UINT32_MAX);
        (void)close(fd);
        check_life(&s);
    }
    cs_model_fini(&s.m);
}
