/* partition_rules.c -- the rules of everything around the log: names, open and remove, list, sync,
 * settings, blobs, and on which threads calls may be made.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cases.h"

/* ---- open, remove --------------------------------------------------------------------------- */

void cs_case_open(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *p, *other;
    cs_start(&cs, cfm);
    CFM_STATUS(cs_open(&cs, "t", 0, &p), STI_E_NOT_FOUND);
    p = cs_created(&cs, "t");
    CFM_STATUS(cs_open(&cs, "t", 0, &other), STI_E_IN_USE);
    int rc = cs_open(&cs, "t", STI_STORAGE_CREATE, &other);
    CFM_CHECK(rc == STI_E_IN_USE || rc == STI_E_ALREADY_EXISTS);
    CFM_STATUS(cs_append_like(p, 0, 1, 100, 1, 1, 0), STI_OK); /* the first open is unharmed */
    cs_closed(p);
    CFM_STATUS(cs_open(&cs, "t", STI_STORAGE_CREATE, &p), STI_E_ALREADY_EXISTS);
    p = cs_opened(&cs, "t");
    CFM_EQ(p->opened.written_end, 1);
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_names(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *parts[16];
    char longest[256];
    memset(longest, 'x', 250);
    longest[250] = '\0';
    static const char *const bad[] = {"", "a/b", "a b", "\xc3\xa4", "a\n", "a%"};
    const struct {
        const char *topic;
        int32_t partition;
    } good[] = {{"..", 0},       {".", 0},         {"a-1", 0},
                {"a", 1},        {"a-1", 1},       {"a", 11},
                {"-", 0},        {"a.deleted", 0}, {"__consumer_offsets", 49},
                {"A", 0},        {"t", INT32_MAX}, {"lock", 0},
                {longest + 1, 7}};
    enum { GOOD = sizeof good / sizeof good[0] };
    cs_start(&cs, cfm);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cfm_step("open of the topic \"%s\"", bad[i]);
        CFM_STATUS(cs_open_id(&cs, bad[i], 0, 1, STI_STORAGE_CREATE, &parts[0]),
                   STI_E_INVALID_ARGUMENT);
    }
    CFM_STATUS(cs_open_id(&cs, longest, 0, 1, STI_STORAGE_CREATE, &parts[0]),
               STI_E_INVALID_ARGUMENT);
    CFM_STATUS(cs_open_id(&cs, "t", -1, 1, STI_STORAGE_CREATE, &parts[0]), STI_E_INVALID_ARGUMENT);
    for (unsigned i = 0; i < GOOD; i++) {
        cfm_step("open of %s-%d", good[i].topic, (int)good[i].partition);
        CFM_STATUS(cs_open_id(&cs, good[i].topic, good[i].partition, (uint8_t)(i + 1),
                              STI_STORAGE_CREATE, &parts[i]),
                   STI_OK);
        CFM_STATUS(cs_append_like(parts[i], 0, 1, 100 + i, 1, 1, 0), STI_OK);
    }
    for (unsigned i = 0; i < GOOD; i++) {
        CFM_EQ(cs_state(parts[i]).bytes, 100 + i);
        cs_closed(parts[i]);
    }
    for (unsigned i = 0; i < GOOD; i++) {
        CFM_STATUS(cs_remove_id(&cs, good[i].topic, good[i].partition, (uint8_t)(i + 1)), STI_OK);
    }
    cs_stop(&cs);
}

void cs_case_topic_id(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *p;
    cs_start(&cs, cfm);
    CFM_STATUS(cs_open_id(&cs, "t", 0, 1, STI_STORAGE_CREATE, &p), STI_OK);
    CFM_STATUS(cs_append_like(p, 0, 1, 100, 1, 1, 0), STI_OK);
    cs_closed(p);
    /* A topic created anew under an old name is another topic: its partition is not there. */
    CFM_STATUS(cs_open_id(&cs, "t", 0, 2, 0, &p), STI_E_NOT_FOUND);
    CFM_STATUS(cs_open_id(&cs, "t", 0, 1, 0, &p), STI_OK);
    CFM_EQ(p->opened.written_end, 1);
    cs_closed(p);
    cs_stop(&cs);
}

/* A late deletion of a topic that is gone meets the one that has its name now. */
void cs_case_remove_other(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *p;
    cs_start(&cs, cfm);
    CFM_STATUS(cs_open_id(&cs, "t", 0, 1, STI_STORAGE_CREATE, &p), STI_OK);
    CFM_STATUS(cs_append_like(p, 0, 1, 100, 1, 5, 0), STI_OK);
    CFM_STATUS(cs_remove_id(&cs, "t", 0, 2), STI_OK);
    CFM_STATUS(cs_append_like(p, 5, 1, 100, 1, 1, 0), STI_OK);
    cs_closed(p);
    CFM_STATUS(cs_remove_id(&cs, "t", 0, 2), STI_OK);
    int rc = cs_open_id(&cs, "t", 0, 1, 0, &p);
    CFM_EXPECT(rc == STI_OK,
               "remove took the partition of another topic of that name: open ends with %s",
               sti_status_name(rc));
    CFM_EQ(p->opened.written_end, 6);
    cs_closed(p);
    CFM_STATUS(cs_remove_id(&cs, "t", 0, 1), STI_OK);
    CFM_STATUS(cs_open_id(&cs, "t", 0, 1, 0, &p), STI_E_NOT_FOUND);
    cs_stop(&cs);
}

void cs_case_remove(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *p, *other;
    struct cs_read read;
    void *data;
    size_t len;
    bool blobs = (cfm->caps & STI_STORAGE_BLOBS) != 0;
    cs_start(&cs, cfm);
    CFM_STATUS(cs_remove(&cs, "t"), STI_OK); /* there is none */
    other = cs_created(&cs, "u");
    CFM_STATUS(cs_append_like(other, 0, 1, 100, 1, 5, 0), STI_OK);
    for (int round = 0; round < 4; round++) {
        CFM_STATUS(cs_open_id(&cs, "t", 0, (uint8_t)round, STI_STORAGE_CREATE, &p), STI_OK);
        CFM_EQ(p->opened.written_end, 0);
        CFM_EQ(p->opened.last_epoch, -1);
        if (blobs) {
            CFM_STATUS(cs_blob_get(p, "kept", &data, &len), STI_E_NOT_FOUND);
            CFM_STATUS(cs_blob_put(p, "kept", "x", 1), STI_OK);
        }
        CFM_STATUS(cs_append_like(p, 0, 2, 900, 10, 40, round), STI_OK);
        CFM_STATUS(cs_trim(p, 40), STI_OK);
        CFM_STATUS(cs_remove_id(&cs, "t", 0, (uint8_t)round), STI_E_IN_USE);
        CFM_STATUS(cs_read(p, 40, 80, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        cs_closed(p);
        CFM_STATUS(cs_remove_id(&cs, "t", 0, (uint8_t)round), STI_OK);
        CFM_STATUS(cs_remove_id(&cs, "t", 0, (uint8_t)round), STI_OK);
        CFM_EQ(cs_walk(&read, 40), 80);
        cs_release(&read);
        CFM_STATUS(cs_open_id(&cs, "t", 0, (uint8_t)round, 0, &p), STI_E_NOT_FOUND);
        if (round % 2 == 1) {
            cs_closed(other);
            cs_restart(&cs);
            CFM_STATUS(cs_open_id(&cs, "t", 0, (uint8_t)round, 0, &p), STI_E_NOT_FOUND);
            other = cs_durable(&cs) ? cs_opened(&cs, "u") : cs_created(&cs, "u");
        }
    }
    CFM_EQ(cs_state(other).written_end, cs_durable(&cs) ? 5 : 0);
    cs_closed(other);
    cs_stop(&cs);
}

/* ---- list ----------------------------------------------------------------------------------- */

struct listing {
    unsigned count, stop_at;
    bool seen[8];
};

static int note_id(void *arg, const struct sti_partition_id *id)
{
    struct listing *l = arg;
    unsigned i = id->topic_id[0];
    char topic[32];
    CFM_EXPECT(i < 8 && !l->seen[i], "list visits what is not there, or twice: %s-%d", id->topic,
               (int)id->partition);
    (void)snprintf(topic, sizeof topic, "topic.%u-x", i);
    CFM_EXPECT(strcmp(id->topic, topic) == 0, "list visits %s, expected %s", id->topic, topic);
    CFM_EQ(id->partition, i * 3);
    CFM_EQ(id->topic_id[15], i);
    l->seen[i] = true;
    return ++l->count == l->stop_at ? 77 : 0;
}

void cs_case_list(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *parts[5];
    struct listing l = {0};
    cs_start(&cs, cfm);
    CFM_STATUS(cs_list(&cs, note_id, &l), STI_OK);
    CFM_EQ(l.count, 0);
    for (unsigned i = 0; i < 5; i++) {
        char topic[32];
        (void)snprintf(topic, sizeof topic, "topic.%u-x", i);
        CFM_STATUS(
            cs_open_id(&cs, topic, (int32_t)i * 3, (uint8_t)i, STI_STORAGE_CREATE, &parts[i]),
            STI_OK);
    }
    cs_closed(parts[0]);
    CFM_STATUS(cs_list(&cs, note_id, &l), STI_OK); /* open or closed */
    CFM_EQ(l.count, 5);
    l = (struct listing){.stop_at = 2};
    CFM_EQ(cs_list(&cs, note_id, &l), 77);
    CFM_EQ(l.count, 2);
    for (unsigned i = 1; i < 5; i++) {
        cs_closed(parts[i]);
    }
    CFM_STATUS(cs_remove_id(&cs, "topic.3-x", 9, 3), STI_OK);
    l = (struct listing){0};
    CFM_STATUS(cs_list(&cs, note_id, &l), STI_OK);
    CFM_EQ(l.count, 4);
    CFM_CHECK(!l.seen[3]);
    cs_restart(&cs);
    l = (struct listing){0};
    CFM_STATUS(cs_list(&cs, note_id, &l), STI_OK);
    CFM_EQ(l.count, cs_durable(&cs) ? 4 : 0);
    cs_stop(&cs);
}

/* ---- settings, sync ------------------------------------------------------------------------- */

void cs_case_policies(struct cfm *cfm)
{
    struct cs cs;
    struct cs_part *p;
    cs_start(&cs, cfm);
    static const int32_t policies[] = {STI_FLUSH_COMMIT, STI_FLUSH_INTERVAL};
    for (unsigned i = 0; i < 2; i++) {
        cs.settings.flush_policy = policies[i];
        int want = cs_durable(&cs) ? STI_OK : STI_E_UNSUPPORTED;
        CFM_STATUS(cs_open(&cs, "t", STI_STORAGE_CREATE, &p), want);
        if (want == STI_OK) {
            CFM_STATUS(cs_append_like(p, 0, 1, 100, 1, 1, 0), STI_OK);
            cs_closed(p);
            CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
        }
        /* The same at configure. */
        struct sti_storage_settings settings = cs.settings;
        cs.settings.flush_policy = STI_FLUSH_ONROLL;
        p = cs_created(&cs, "t");
        CFM_STATUS(cs_configure(p, &settings), want);
        CFM_STATUS(cs_append_like(p, 0, 1, 100, 1, 1, 0), STI_OK);
        cs_closed(p);
        CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
    }
    cs_stop(&cs);
}

void cs_case_sync(struct cfm *cfm)
{
    struct cs cs;
    int64_t synced = -1;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_sync(p, &synced), STI_OK);
    CFM_EQ(synced, 0);
    for (int round = 1; round <= 10; round++) {
        CFM_STATUS(cs_append_like(p, (round - 1) * 20, 1, 3061, 1, 20, 0), STI_OK);
        CFM_STATUS(cs_sync(p, &synced), STI_OK);
        CFM_EQ(synced, round * 20);
        CFM_EQ(cs_state(p).synced_end, round * 20);
    }
    CFM_STATUS(cs_truncate(p, 50), STI_OK);
    CFM_STATUS(cs_sync(p, &synced), STI_OK);
    CFM_EQ(synced, 50);
    cs_closed(p);
    cs_stop(&cs);
}

/* The synced end follows by itself, and each move is told. */
void cs_case_synced_events(struct cfm *cfm)
{
    struct cs cs;
    cs_start(&cs, cfm);
    static const int32_t policies[] = {STI_FLUSH_COMMIT, STI_FLUSH_INTERVAL};
    for (unsigned i = 0; i < 2; i++) {
        cs.settings.flush_policy = policies[i];
        struct cs_part *p = cs_created(&cs, "t");
        for (int round = 1; round <= 20; round++) {
            CFM_STATUS(cs_append_like(p, round - 1, 1, 900, 1, 1, 0), STI_OK);
            cfm_step("waiting for the synced end %d under policy %d", round, (int)policies[i]);
            while (atomic_load(&p->synced) < round) {
                struct timespec span = {.tv_nsec = 1000000};
                (void)nanosleep(&span, NULL); /* the case's own time limit ends this */
            }
            CFM_EQ(atomic_load(&p->synced), round);
            CFM_CHECK(cs_state(p).synced_end >= round);
        }
        cs_closed(p);
        CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
    }
    cs_stop(&cs);
}

/* ---- blobs ---------------------------------------------------------------------------------- */

static void check_blob(struct cs_part *p, const char *name, uint8_t byte, size_t want_len)
{
    void *data;
    size_t len;
    CFM_STATUS(cs_blob_get(p, name, &data, &len), STI_OK);
    CFM_EXPECT(len == want_len, "blob %s has %zu bytes, expected %zu", name, len, want_len);
    for (size_t i = 0; i < len; i++) {
        CFM_EXPECT(((const uint8_t *)data)[i] == (uint8_t)(byte + i % 251),
                   "byte %zu of blob %s is wrong", i, name);
    }
    free(data);
}

static void put_blob(struct cs_part *p, const char *name, uint8_t byte, size_t len)
{
    uint8_t *data = malloc(len + 1);
    CFM_CHECK(data != NULL);
    for (size_t i = 0; i < len; i++) {
        data[i] = (uint8_t)(byte + i % 251);
    }
    CFM_STATUS(cs_blob_put(p, name, data, len), STI_OK);
    memset(data, 0xdd, len);
    free(data);
}

void cs_case_blobs(struct cfm *cfm)
{
    struct cs cs;
    void *data;
    size_t len;
    char longest[66];
    static const char *const bad[] = {"", "a/b", "../a", "A", "a b", "a_b"};
    memset(longest, 'z', 65);
    longest[65] = '\0';
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t"), *q = cs_created(&cs, "u");
    CFM_STATUS(cs_blob_get(p, "leader-epoch-checkpoint", &data, &len), STI_E_NOT_FOUND);
    CFM_CHECK(data == NULL);
    static const size_t lens[] = {10, 100000, 1, 0, 4096, 3, 1 << 20, 17};
    for (unsigned i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        put_blob(p, "leader-epoch-checkpoint", (uint8_t)i, lens[i]);
        check_blob(p, "leader-epoch-checkpoint", (uint8_t)i, lens[i]);
    }
    put_blob(p, longest + 1, 9, 50);
    put_blob(p, "00000000000000000042.snapshot", 8, 60);
    check_blob(p, longest + 1, 9, 50);
    check_blob(p, "leader-epoch-checkpoint", 7, 17);
    CFM_STATUS(cs_blob_get(q, "leader-epoch-checkpoint", &data, &len), STI_E_NOT_FOUND);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CFM_STATUS(cs_blob_put(p, bad[i], "x", 1), STI_E_INVALID_ARGUMENT);
        CFM_STATUS(cs_blob_get(p, bad[i], &data, &len), STI_E_INVALID_ARGUMENT);
    }
    CFM_STATUS(cs_blob_put(p, longest, "x", 1), STI_E_INVALID_ARGUMENT);
    /* What happens to the log leaves them alone. */
    CFM_STATUS(cs_append_like(p, 0, 1, 900, 1, 60, 0), STI_OK);
    CFM_STATUS(cs_trim(p, 40), STI_OK);
    CFM_STATUS(cs_truncate(p, 50), STI_OK);
    CFM_EQ(cs_state(p).bytes % 900, 0);
    check_blob(p, "leader-epoch-checkpoint", 7, 17);
    cs_closed(p);
    cs_closed(q);
    p = cs_opened(&cs, "t");
    check_blob(p, "00000000000000000042.snapshot", 8, 60);
    cs_closed(p);
    if (cs_durable(&cs)) {
        cs_restart(&cs);
        p = cs_opened(&cs, "t");
        check_blob(p, "leader-epoch-checkpoint", 7, 17);
        check_blob(p, longest + 1, 9, 50);
        cs_closed(p);
    }
    cs_stop(&cs);
}

/* ---- figures -------------------------------------------------------------------------------- */

void cs_case_usage(struct cfm *cfm)
{
    struct cs cs;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 1; i <= 30; i++) {
        CFM_STATUS(cs_append_like(p, (i - 1) * 4, 1, 1500, 1, 4, 0), STI_OK);
        struct sti_storage_usage usage = cs_usage(p);
        CFM_EQ(usage.bytes, i * 6000);
        CFM_EQ(usage.bytes, cs_state(p).bytes);
        CFM_EXPECT(usage.disk_bytes + usage.memory_bytes > 0, "%d bytes of log cost nothing",
                   i * 6000);
    }
    CFM_STATUS(cs_trim(p, 120), STI_OK);
    CFM_EQ(cs_usage(p).bytes, 0);
    cs_closed(p);
    cs_stop(&cs);
}

struct space_call {
    struct cs *cs;
    struct sti_storage_space space;
    struct sti_err err;
    int rc;
};

static void space_run(void *arg)
{
    struct space_call *call = arg;
    call->rc = call->cs->api->space(call->cs->self, &call->space, &call->err);
}

static struct sti_storage_space space_of(struct cs *cs)
{
    struct space_call call = {.cs = cs, .space = {.struct_size = sizeof call.space}};
    cs_run(cs, NULL, space_run, &call);
    CFM_STATUS(call.rc, STI_OK);
    CFM_CHECK(call.space.total_bytes > 0 && call.space.free_bytes <= call.space.total_bytes);
    return call.space;
}

void cs_case_space(struct cfm *cfm)
{
    struct cs cs;
    cs_start(&cs, cfm);
    if (cs.api->iface.struct_size < offsetof(struct sti_storage, space) + sizeof cs.api->space ||
        cs.api->space == NULL) {
        cfm_skip("the plugin does not tell its space");
    }
    struct sti_storage_space before = space_of(&cs);
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 40; i++) {
        CFM_STATUS(cs_append_like(p, (int64_t)i * 8, 1, 8000, 1, 8, 0), STI_OK);
        CFM_EQ(space_of(&cs).total_bytes, before.total_bytes);
    }
    if ((cfm->caps & STI_STORAGE_FILES) == 0) {
        /* Only this instance uses it; a file system has others. */
        CFM_CHECK(space_of(&cs).free_bytes < before.free_bytes);
    }
    cs_closed(p);
    (void)space_of(&cs);
    cs_stop(&cs);
}

/* ---- threads of calls ----------------------------------------------------------------------- */

struct plug {
    struct sti_task task; /* first */
    pthread_mutex_t *mu;
    pthread_cond_t *cond;
    unsigned *waiting;
    bool *open;
};

static void plug_run(struct sti_task *task)
{
    struct plug *plug = (struct plug *)(void *)task;
    pthread_mutex_lock(plug->mu);
    (*plug->waiting)++;
    pthread_cond_broadcast(plug->cond);
    while (!*plug->open) {
        pthread_cond_wait(plug->cond, plug->mu);
    }
    (*plug->waiting)--;
    pthread_cond_broadcast(plug->cond);
    pthread_mutex_unlock(plug->mu);
}

/* With every thread of the executor taken, reads without waiting and `state` still answer: they
 * need nobody. */
void cs_case_no_wait_needs_nobody(struct cfm *cfm)
{
    enum { PLUGS = CFM_THREADS };
    struct cs cs;
    struct cs_read read;
    pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    unsigned waiting = 0;
    bool open = false;
    struct plug plugs[PLUGS];
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_append_like(p, 0, 1, 900, 1, 60, 0), STI_OK);
    cs_settle(&cs);
    for (unsigned i = 0; i < PLUGS; i++) {
        plugs[i] = (struct plug){
            .task.run = plug_run, .mu = &mu, .cond = &cond, .waiting = &waiting, .open = &open};
        cfm->host->post(cfm->host->ctx, &plugs[i].task);
    }
    pthread_mutex_lock(&mu);
    while (waiting < PLUGS) {
        pthread_cond_wait(&cond, &mu);
    }
    pthread_mutex_unlock(&mu);
    cfm_step("a read without waiting while the executor is busy");
    for (int64_t offset = 0; offset < 60; offset++) {
        int rc = cs_read(p, offset, 60, 5000, STI_READ_MEMORY | STI_READ_NO_WAIT, &read);
        CFM_CHECK(rc == STI_OK || rc == STI_E_WOULD_BLOCK);
        if (rc == STI_OK) {
            (void)cs_walk(&read, offset);
            cs_release(&read);
        }
        CFM_EQ(cs_state(p).written_end, 60);
    }
    cfm_step("ending");
    pthread_mutex_lock(&mu);
    open = true;
    pthread_cond_broadcast(&cond);
    while (waiting > 0) {
        pthread_cond_wait(&cond, &mu);
    }
    pthread_mutex_unlock(&mu);
    cs_closed(p);
    cs_stop(&cs);
}

/* ---- many ----------------------------------------------------------------------------------- */

void cs_case_many_partitions(struct cfm *cfm)
{
    enum { COUNT = 300 };
    struct cs cs;
    static struct cs_part *parts[COUNT];
    struct cs_read read;
    cs_start(&cs, cfm);
    for (int i = 0; i < COUNT; i++) {
        CFM_STATUS(cs_open_id(&cs, "many", i, 1, STI_STORAGE_CREATE, &parts[i]), STI_OK);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            CFM_STATUS(cs_append_like(parts[i], round * 2, 2, 200 + (uint32_t)i, i, 1, i), STI_OK);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        CFM_STATUS(cs_read(parts[i], 0, 6, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        CFM_EQ(read.op.bytes, 3 * (200 + i));
        CFM_EQ(cs_walk(&read, 0), 6);
        CFM_EQ(cs_state(parts[i]).last_epoch, i);
        cs_release(&read);
    }
    for (int i = 0; i < COUNT; i++) {
        cs_closed(parts[i]);
    }
    cs_stop(&cs);
}
