/* support.c -- calls of the storage interface that are made where the contract wants them, and wait
 * for their answer.
 *
 * Every asynchronous call is an object of its own that outlives its answer by many calls, so that a
 * second answer, or one that was not due, is seen when it comes and not as a broken heap.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "storage_suite.h"

enum { ANSWER_S = 30, KEPT_CALLS = 512 };

/* ---- waiting -------------------------------------------------------------------------------- */

struct waiter {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool over;
};

static void waiter_init(struct waiter *w)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w->mu, NULL);
    (void)pthread_cond_init(&w->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    w->over = false;
}

static void waiter_fini(struct waiter *w)
{
    (void)pthread_cond_destroy(&w->cond);
    (void)pthread_mutex_destroy(&w->mu);
}

static void waiter_end(struct waiter *w)
{
    pthread_mutex_lock(&w->mu);
    w->over = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->mu);
}

/* @return false: nothing came in time */
static bool waiter_wait(struct waiter *w)
{
    struct timespec due;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &due);
    due.tv_sec += ANSWER_S;
    pthread_mutex_lock(&w->mu);
    while (!w->over && rc == 0) {
        rc = pthread_cond_timedwait(&w->cond, &w->mu, &due);
    }
    bool over = w->over;
    pthread_mutex_unlock(&w->mu);
    return over;
}

struct job {
    struct sti_task task; /* first */
    struct waiter w;
    void (*fn)(void *arg);
    void *arg;
};

static void job_run(struct sti_task *task)
{
    struct job *job = (struct job *)(void *)task;
    job->fn(job->arg);
    waiter_end(&job->w);
}

void cs_run(struct cs *cs, struct sti_strand *strand, void (*fn)(void *arg), void *arg)
{
    const struct sti_host *host = cs->cfm->host;
    struct job job = {.task = {.run = job_run}, .fn = fn, .arg = arg};
    waiter_init(&job.w);
    if (strand != NULL) {
        host->strand_post(host->ctx, strand, &job.task);
    } else {
        host->post(host->ctx, &job.task);
    }
    CFM_EXPECT(waiter_wait(&job.w), "a call did not return within %d s", ANSWER_S);
    waiter_fini(&job.w);
}

static void nothing(void *arg)
{
    (void)arg;
}

void cs_settle(struct cs *cs)
{
    cs_run(cs, NULL, nothing, NULL);
}

/* ---- the node ------------------------------------------------------------------------------- */

static struct cs_part *parts; /* all of this node, also closed ones: late events are to be seen */

void cs_start(struct cs *cs, struct cfm *cfm)
{
    cs->cfm = cfm;
    cfm_start(cfm);
    cs->api = sti_storage_of(&cfm->subject);
    cs->self = cfm->subject.self;
    cs->settings = (struct sti_storage_settings){.struct_size = sizeof cs->settings,
                                                 .flush_policy = STI_FLUSH_ONROLL,
                                                 .segment_bytes = 16384,
                                                 .flush_interval_ms = 20,
                                                 .index_interval_bytes = 512};
}

bool cs_durable(const struct cs *cs)
{
    return (cs->cfm->caps & STI_STORAGE_DURABLE) != 0;
}

/* ---- answers -------------------------------------------------------------------------------- */

struct call {
    union {
        struct sti_storage_append append;
        struct sti_storage_read read;
        struct sti_storage_sync sync;
    } op; /* first */
    struct cs_part *p;
    const char *what;
    int rc, status;
    struct sti_err err;
    _Atomic int answers;
    bool due; /* the call returned STI_OK */
    struct waiter w;
};

static struct call *kept[KEPT_CALLS];
static unsigned kept_next;
static pthread_mutex_t kept_mu = PTHREAD_MUTEX_INITIALIZER;

static void call_free(struct call *call)
{
    if (call != NULL) {
        CFM_EXPECT(atomic_load(&call->answers) == (call->due ? 1 : 0),
                   "%s returned %s, and `done` was called %d times", call->what,
                   sti_status_name(call->rc), atomic_load(&call->answers));
        waiter_fini(&call->w);
        free(call);
    }
}

static void call_keep(struct call *call)
{
    pthread_mutex_lock(&kept_mu);
    struct call *old = kept[kept_next];
    kept[kept_next] = call;
    kept_next = (kept_next + 1) % KEPT_CALLS;
    pthread_mutex_unlock(&kept_mu);
    call_free(old);
}

void cs_stop(struct cs *cs)
{
    cs_settle(cs);
    cfm_stop(cs->cfm);
    for (unsigned i = 0; i < KEPT_CALLS; i++) {
        call_free(kept[i]);
        kept[i] = NULL;
    }
    while (parts != NULL) {
        struct cs_part *p = parts;
        parts = p->next;
        free(p);
    }
}

void cs_restart(struct cs *cs)
{
    struct sti_storage_settings settings = cs->settings;
    cs_stop(cs);
    cs_start(cs, cs->cfm);
    cs->settings = settings;
}

static struct call *call_new(struct cs_part *p, const char *what)
{
    struct call *call = calloc(1, sizeof *call);
    CFM_CHECK(call != NULL);
    call->p = p;
    call->what = what;
    waiter_init(&call->w);
    return call;
}

static void call_answered(struct call *call, int status, const struct sti_err *err)
{
    if (atomic_fetch_add(&call->answers, 1) != 0) {
        CFM_FAIL("`done` of %s was called twice", call->what);
    }
    call->status = status;
    if (status != STI_OK && status != STI_E_WOULD_BLOCK) {
        CFM_EXPECT(err != NULL, "`done` of %s says %s without an error object", call->what,
                   sti_status_name(status));
    }
    if (err != NULL) {
        call->err = *err;
    }
    waiter_end(&call->w);
}

/* The call was made, and returned call->rc. @return its final status */
static int call_wait(struct call *call)
{
    call->due = call->rc == STI_OK;
    if (!call->due) {
        return call->rc;
    }
    CFM_EXPECT(waiter_wait(&call->w), "%s returned OK, and `done` was not called within %d s",
               call->what, ANSWER_S);
    if (call->status != STI_OK && call->status != STI_E_WOULD_BLOCK) {
        CFM_EXPECT(call->err.code == call->status && call->err.msg[0] != '\0',
                   "%s ended with %s, and its error object says %s \"%s\"", call->what,
                   sti_status_name(call->status), sti_status_name(call->err.code), call->err.msg);
    }
    return call->status;
}

/* A status that the contract does not name for this call is a failure by itself. */
static int documented(const char *what, int status, const int *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == status) {
            return status;
        }
    }
    CFM_EXPECT(status == STI_OK || status == STI_E_NO_MEMORY,
               "%s ended with %s, which storage.h does not name for it", what,
               sti_status_name(status));
    return status;
}

#define DOCUMENTED(what, status, ...)                                                              \
    documented((what), (status), (const int[]){__VA_ARGS__},                                       \
               sizeof(const int[]){__VA_ARGS__} / sizeof(int))

/* The error object of a call that returns its status. */
static int agree(const char *what, int status, const struct sti_err *err)
{
    if (status != STI_OK) {
        CFM_EXPECT(err->code == status && err->msg[0] != '\0',
                   "%s returned %s, and its error object says %s \"%s\"", what,
                   sti_status_name(status), sti_status_name(err->code), err->msg);
    }
    return status;
}

/* ---- events --------------------------------------------------------------------------------- */

static void on_recovered(void *ctx, const struct sti_batch_header *header)
{
    struct cs_part *p = ctx;
    CFM_EXPECT(atomic_load(&p->opening), "a `recovered` event came outside of open");
    CFM_EXPECT(header->base_offset >= p->recovered_next,
               "`recovered` events are not in offset order: %" PRId64 " after %" PRId64,
               header->base_offset, p->recovered_next - 1);
    p->recovered_next = sti_batch_last_offset(header) + 1;
    (void)atomic_fetch_add(&p->recovered_count, 1);
    if (p->on_recovered != NULL) {
        p->on_recovered(p, header);
    }
}

static void on_synced(void *ctx, int64_t synced_end)
{
    struct cs_part *p = ctx;
    CFM_EXPECT(!atomic_load(&p->closed), "a `synced` event came after close had returned");
    CFM_EXPECT(atomic_fetch_add(&p->inside_synced, 1) == 0,
               "two `synced` events of one partition at a time");
    atomic_store(&p->synced, synced_end);
    (void)atomic_fetch_add(&p->synced_count, 1);
    if (p->on_synced != NULL) {
        p->on_synced(p, synced_end);
    }
    (void)atomic_fetch_sub(&p->inside_synced, 1);
}

static void on_failed(void *ctx, const struct sti_err *err)
{
    struct cs_part *p = ctx;
    CFM_EXPECT(!atomic_load(&p->closed), "a `failed` event came after close had returned");
    CFM_EXPECT(atomic_fetch_add(&p->inside_failed, 1) == 0,
               "two `failed` events of one partition at a time");
    CFM_EXPECT(err != NULL && err->code != STI_OK && err->msg[0] != '\0',
               "a `failed` event does not say by what");
    atomic_store(&p->failed_code, err->code);
    (void)atomic_fetch_add(&p->failed_count, 1);
    (void)atomic_fetch_sub(&p->inside_failed, 1);
}

static void on_damaged(void *ctx, const struct sti_err *err)
{
    struct cs_part *p = ctx;
    CFM_EXPECT(!atomic_load(&p->closed), "a `damaged` event came after close had returned");
    CFM_EXPECT(atomic_fetch_add(&p->inside_damaged, 1) == 0,
               "two `damaged` events of one partition at a time");
    CFM_EXPECT(err != NULL && err->code == STI_E_DATA_LOSS && err->msg[0] != '\0',
               "a `damaged` event does not say what is damaged");
    CFM_CHECK(atomic_load(&p->opening) || p->part == NULL ||
              (cs_state(p).flags & STI_STORAGE_STATE_DAMAGED) != 0);
    (void)atomic_fetch_add(&p->damaged_count, 1);
    (void)atomic_fetch_sub(&p->inside_damaged, 1);
}

/* ---- open, close, remove, list -------------------------------------------------------------- */

static struct sti_partition_id id_of(const char *topic, int32_t partition, uint8_t topic_id)
{
    struct sti_partition_id id = {.struct_size = sizeof id, .partition = partition, .topic = topic};
    memset(id.topic_id, topic_id, sizeof id.topic_id);
    return id;
}

struct open_call {
    struct cs *cs;
    struct sti_storage_open args;
    struct sti_storage_partition **part;
    struct sti_storage_state *state;
    struct sti_err err;
    int rc;
};

static void open_run(void *arg)
{
    struct open_call *call = arg;
    call->rc =
        call->cs->api->open(call->cs->self, &call->args, call->part, call->state, &call->err);
}

static int open_part(struct cs *cs, struct cs_part *p, const char *topic, int32_t partition,
                     uint8_t topic_id, uint32_t flags, struct cs_part **out)
{
    struct sti_partition_id id = id_of(topic, partition, topic_id);
    p->cs = cs;
    p->events = (struct sti_storage_events){.struct_size = sizeof p->events,
                                            .recovered = on_recovered,
                                            .synced = on_synced,
                                            .failed = on_failed,
                                            .damaged = on_damaged};
    atomic_store(&p->opening, true);
    struct open_call call = {.cs = cs,
                             .args = {.struct_size = sizeof call.args,
                                      .flags = flags,
                                      .id = &id,
                                      .settings = &cs->settings,
                                      .events = &p->events,
                                      .events_ctx = p},
                             .part = &p->part,
                             .state = &p->opened};
    *out = NULL;
    cs_run(cs, NULL, open_run, &call);
    atomic_store(&p->opening, false);
    int rc = DOCUMENTED("open", agree("open", call.rc, &call.err), STI_E_ALREADY_EXISTS,
                        STI_E_NOT_FOUND, STI_E_DATA_LOSS, STI_E_IO, STI_E_DISK_FULL, STI_E_IN_USE,
                        STI_E_RESOURCE_EXHAUSTED, STI_E_UNSUPPORTED, STI_E_INVALID_ARGUMENT);
    if (rc != STI_OK && rc != STI_E_DATA_LOSS) {
        CFM_EXPECT(p->part == NULL, "a failed open left a partition");
        free(p);
        return rc;
    }
    CFM_EXPECT(p->part != NULL, "open returned %s without a partition", sti_status_name(rc));
    CFM_EQ(rc == STI_E_DATA_LOSS, (p->opened.flags & STI_STORAGE_STATE_DAMAGED) != 0);
    p->open_status = rc;
    cs->cfm->host->strand_init(cs->cfm->host->ctx, &p->strand);
    *out = p;
    return rc;
}

static struct cs_part *part_new(void)
{
    struct cs_part *p = calloc(1, sizeof *p);
    CFM_CHECK(p != NULL);
    return p;
}

int cs_open_id(struct cs *cs, const char *topic, int32_t partition, uint8_t topic_id,
               uint32_t flags, struct cs_part **out)
{
    return open_part(cs, part_new(), topic, partition, topic_id, flags, out);
}

int cs_open_hooked(struct cs *cs, const char *topic, uint8_t topic_id, uint32_t flags,
                   void (*on_recovered_batch)(struct cs_part *p,
                                              const struct sti_batch_header *header),
                   void *user, struct cs_part **out)
{
    struct cs_part *p = part_new();
    p->on_recovered = on_recovered_batch;
    p->user = user;
    return open_part(cs, p, topic, 0, topic_id, flags, out);
}

int cs_open(struct cs *cs, const char *topic, uint32_t flags, struct cs_part **out)
{
    return cs_open_id(cs, topic, 0, (uint8_t)topic[0], flags, out);
}

struct cs_part *cs_created(struct cs *cs, const char *topic)
{
    struct cs_part *p;
    CFM_STATUS(cs_open(cs, topic, STI_STORAGE_CREATE, &p), STI_OK);
    CFM_CHECK(p != NULL);
    CFM_EQ(p->opened.written_end, 0);
    CFM_EQ(p->opened.log_start, 0);
    CFM_EQ(p->opened.last_epoch, -1);
    CFM_EQ(p->opened.bytes, 0);
    CFM_EQ(p->opened.flags, 0);
    return p;
}

struct cs_part *cs_opened(struct cs *cs, const char *topic)
{
    struct cs_part *p;
    CFM_STATUS(cs_open(cs, topic, 0, &p), STI_OK);
    return p;
}

struct close_call {
    struct cs_part *p;
    struct sti_err err;
    int rc;
};

static void close_run(void *arg)
{
    struct close_call *call = arg;
    struct cs *cs = call->p->cs;
    call->rc = cs->api->close(call->p->part, &call->err);
    atomic_store(&call->p->closed, true);
    cs->cfm->host->strand_fini(cs->cfm->host->ctx, &call->p->strand);
}

int cs_close(struct cs_part *p)
{
    struct close_call call = {.p = p};
    cs_run(p->cs, &p->strand, close_run, &call);
    p->part = NULL;
    p->next = parts; /* kept until the node ends */
    parts = p;
    return DOCUMENTED("close", agree("close", call.rc, &call.err), STI_E_IO);
}

void cs_closed(struct cs_part *p)
{
    CFM_STATUS(cs_close(p), STI_OK);
}

struct remove_call {
    struct cs *cs;
    struct sti_partition_id id;
    struct sti_err err;
    int rc;
};

static void remove_run(void *arg)
{
    struct remove_call *call = arg;
    call->rc = call->cs->api->remove(call->cs->self, &call->id, &call->err);
}

int cs_remove_id(struct cs *cs, const char *topic, int32_t partition, uint8_t topic_id)
{
    struct remove_call call = {.cs = cs, .id = id_of(topic, partition, topic_id)};
    cs_run(cs, NULL, remove_run, &call);
    return DOCUMENTED("remove", agree("remove", call.rc, &call.err), STI_E_IO, STI_E_IN_USE);
}

int cs_remove(struct cs *cs, const char *topic)
{
    return cs_remove_id(cs, topic, 0, (uint8_t)topic[0]);
}

struct list_call {
    struct cs *cs;
    int (*visit)(void *arg, const struct sti_partition_id *id);
    void *arg;
    struct sti_err err;
    int rc;
};

static void list_run(void *arg)
{
    struct list_call *call = arg;
    call->rc = call->cs->api->list(call->cs->self, call->visit, call->arg, &call->err);
}

int cs_list(struct cs *cs, int (*visit)(void *arg, const struct sti_partition_id *id), void *arg)
{
    struct list_call call = {.cs = cs, .visit = visit, .arg = arg};
    cs_run(cs, NULL, list_run, &call);
    return call.rc;
}

/* ---- calls that return their status --------------------------------------------------------- */

struct sti_storage_state cs_state(struct cs_part *p)
{
    struct sti_storage_state state;
    memset(&state, 0xa5, sizeof state);
    state.struct_size = sizeof state;
    p->cs->api->state(p->part, &state);
    return state;
}

/* Arguments and results of everything that is plain. */
struct plain_call {
    struct cs_part *p;
    const struct sti_storage_settings *settings;
    int64_t in, *out_a, *out_b;
    uint64_t *bytes;
    const char *name;
    const void *data;
    void **got;
    size_t len, *got_len;
    struct sti_storage_usage usage;
    struct sti_err err;
    int rc;
};

static void usage_run(void *arg)
{
    struct plain_call *call = arg;
    call->usage.struct_size = sizeof call->usage;
    call->p->cs->api->usage(call->p->part, &call->usage);
}

struct sti_storage_usage cs_usage(struct cs_part *p)
{
    struct plain_call call = {.p = p};
    cs_run(p->cs, NULL, usage_run, &call);
    return call.usage;
}

static void configure_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc = call->p->cs->api->configure(call->p->part, call->settings, &call->err);
}

int cs_configure(struct cs_part *p, const struct sti_storage_settings *settings)
{
    struct plain_call call = {.p = p, .settings = settings};
    cs_run(p->cs, &p->strand, configure_run, &call);
    return DOCUMENTED("configure", agree("configure", call.rc, &call.err), STI_E_UNSUPPORTED);
}

static void time_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc = call->p->cs->api->offset_for_time(call->p->part, call->in, call->out_a, call->out_b,
                                                 &call->err);
}

int cs_time(struct cs_part *p, int64_t timestamp, int64_t *offset, int64_t *found)
{
    struct plain_call call = {.p = p, .in = timestamp, .out_a = offset, .out_b = found};
    cs_run(p->cs, NULL, time_run, &call);
    return DOCUMENTED("offset_for_time", agree("offset_for_time", call.rc, &call.err),
                      STI_E_NOT_FOUND, STI_E_IO, STI_E_DATA_LOSS, STI_E_RESOURCE_EXHAUSTED);
}

static void truncate_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc = call->p->cs->api->truncate(call->p->part, call->in, &call->err);
}

int cs_truncate(struct cs_part *p, int64_t offset)
{
    struct plain_call call = {.p = p, .in = offset};
    cs_run(p->cs, &p->strand, truncate_run, &call);
    return DOCUMENTED("truncate", agree("truncate", call.rc, &call.err), STI_E_IO, STI_E_DISK_FULL,
                      STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
}

static void trim_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc = call->p->cs->api->trim(call->p->part, call->in, &call->err);
}

int cs_trim(struct cs_part *p, int64_t new_start)
{
    struct plain_call call = {.p = p, .in = new_start};
    cs_run(p->cs, &p->strand, trim_run, &call);
    return DOCUMENTED("trim", agree("trim", call.rc, &call.err), STI_E_OFFSET_OUT_OF_RANGE,
                      STI_E_IO, STI_E_DISK_FULL);
}

static void oldest_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc =
        call->p->cs->api->oldest_segment(call->p->part, call->out_a, call->bytes, call->out_b);
}

int cs_oldest(struct cs_part *p, int64_t *end_offset, uint64_t *bytes, int64_t *max_timestamp)
{
    struct plain_call call = {.p = p, .out_a = end_offset, .bytes = bytes, .out_b = max_timestamp};
    cs_run(p->cs, &p->strand, oldest_run, &call);
    return DOCUMENTED("oldest_segment", call.rc, STI_E_NOT_FOUND);
}

static void blob_put_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc =
        call->p->cs->api->blob_put(call->p->part, call->name, call->data, call->len, &call->err);
}

int cs_blob_put(struct cs_part *p, const char *name, const void *data, size_t len)
{
    struct plain_call call = {.p = p, .name = name, .data = data, .len = len};
    cs_run(p->cs, NULL, blob_put_run, &call);
    return DOCUMENTED("blob_put", agree("blob_put", call.rc, &call.err), STI_E_IO, STI_E_DISK_FULL,
                      STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
}

static void blob_get_run(void *arg)
{
    struct plain_call *call = arg;
    call->rc =
        call->p->cs->api->blob_get(call->p->part, call->name, call->got, call->got_len, &call->err);
}

int cs_blob_get(struct cs_part *p, const char *name, void **data, size_t *len)
{
    struct plain_call call = {.p = p, .name = name, .got = data, .got_len = len};
    *data = NULL;
    *len = 0;
    cs_run(p->cs, NULL, blob_get_run, &call);
    return DOCUMENTED("blob_get", agree("blob_get", call.rc, &call.err), STI_E_NOT_FOUND, STI_E_IO,
                      STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
}

/* ---- append --------------------------------------------------------------------------------- */

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    call_answered((struct call *)(void *)op, status, err);
}

static void append_run(void *arg)
{
    struct call *call = arg;
    call->rc = call->p->cs->api->append(call->p->part, &call->op.append);
}

/* The bytes of an append, each batch in two slices that meet in the middle. */
struct append_bytes {
    uint8_t *data;
    struct sti_append_batch *rows;
    struct sti_append_batch **ptrs;
    struct sti_slice *slices;
};

static void bytes_make(struct append_bytes *a, const struct cs_batch *batches, uint32_t count)
{
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += batches[i].len;
    }
    a->data = malloc(total + 1);
    a->rows = calloc(count + 1, sizeof *a->rows);
    a->ptrs = calloc(count + 1, sizeof(*a->ptrs));
    a->slices = calloc(2 * (size_t)count + 1, sizeof *a->slices);
    CFM_CHECK(a->data != NULL && a->rows != NULL && a->ptrs != NULL && a->slices != NULL);
    uint8_t *data = a->data;
    for (uint32_t i = 0; i < count; i++) {
        const struct cs_batch *b = &batches[i];
        size_t half = STI_BATCH_PATCH_LEN + (b->len - STI_BATCH_PATCH_LEN) / 2;
        cs_encode(b, data);
        a->slices[2 * i] = sti_slice_borrow(data + STI_BATCH_PATCH_LEN, half - STI_BATCH_PATCH_LEN);
        a->slices[2 * i + 1] = sti_slice_borrow(data + half, b->len - half);
        a->rows[i] = (struct sti_append_batch){.struct_size = sizeof *a->rows,
                                               .slice_count = 2,
                                               .slices = &a->slices[2 * i],
                                               .len = b->len,
                                               .base_offset = b->base,
                                               .last_offset = cs_last(b),
                                               .max_timestamp = b->timestamp,
                                               .leader_epoch = b->epoch};
        memcpy(a->rows[i].head, data, STI_BATCH_PATCH_LEN);
        a->ptrs[i] = &a->rows[i];
        data += b->len;
    }
}

int cs_append(struct cs_part *p, const struct cs_batch *batches, uint32_t count,
              struct cs_append *out)
{
    struct append_bytes bytes;
    struct call *call = call_new(p, "append");
    bytes_make(&bytes, batches, count);
    call->op.append = (struct sti_storage_append){.struct_size = sizeof call->op.append,
                                                  .batch_count = count,
                                                  .batches = bytes.ptrs,
                                                  .done = append_done,
                                                  .written_end = -2};
    cs_run(p->cs, &p->strand, append_run, call);
    int rc = DOCUMENTED("append", call_wait(call), STI_E_DISK_FULL, STI_E_IO, STI_E_POISONED,
                        STI_E_RESOURCE_EXHAUSTED, STI_E_INVALID_ARGUMENT, STI_E_MESSAGE_TOO_LARGE);
    if (rc == STI_OK && count > 0) {
        CFM_EQ(call->op.append.written_end, cs_last(&batches[count - 1]) + 1);
    }
    CFM_EXPECT(rc != STI_E_DISK_FULL || call->op.append.bytes_needed > 0,
               "an append ended with DISK_FULL and does not say how many bytes it needs");
    if (out != NULL) {
        out->err = call->err;
        out->written_end = call->op.append.written_end;
        out->bytes_needed = call->op.append.bytes_needed;
    }
    /* The bytes are the caller's again: an engine that still looks at them finds others. */
    for (uint32_t i = 0, at = 0; i < count; at += batches[i++].len) {
        memset(bytes.data + at, 0xdd, batches[i].len);
    }
    free(bytes.data);
    free(bytes.rows);
    free(bytes.ptrs);
    free(bytes.slices);
    call->op.append.batches = NULL;
    call_keep(call);
    return rc;
}

int cs_append_like(struct cs_part *p, int64_t base, uint32_t records, uint32_t len,
                   int64_t timestamp, uint32_t count, int32_t epoch)
{
    struct cs_batch *batches = calloc(count, sizeof *batches);
    CFM_CHECK(batches != NULL);
    for (uint32_t i = 0; i < count; i++) {
        batches[i] = (struct cs_batch){.base = base + (int64_t)i * records,
                                       .records = records,
                                       .len = len,
                                       .timestamp = timestamp + i,
                                       .epoch = epoch};
    }
    int rc = cs_append(p, batches, count, NULL);
    free(batches);
    return rc;
}

/* ---- read ----------------------------------------------------------------------------------- */

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    call_answered((struct call *)(void *)op, status, err);
}

static void read_run(void *arg)
{
    struct call *call = arg;
    call->rc = call->p->cs->api->read(call->p->part, &call->op.read);
}

static void check_slices(struct cs_part *p, const struct cs_read *read)
{
    const struct sti_storage_read *op = &read->op;
    bool memory = (op->flags & STI_READ_MEMORY) != 0;
    CFM_CHECK(op->slice_count <= op->slice_max);
    CFM_EQ(sti_slices_len(read->slices, op->slice_count), op->bytes);
    for (uint32_t i = 0; i < op->slice_count; i++) {
        const struct sti_slice *slice = &read->slices[i];
        CFM_CHECK(slice->len > 0);
        CFM_EXPECT(slice->data != NULL || (!memory && slice->fd >= 0),
                   "slice %u of a read has neither memory nor a file", i);
        CFM_EXPECT(slice->fd >= 0 || (p->cs->cfm->caps & STI_STORAGE_FILES) == 0,
                   "slice %u of a read has no file, which the plugin promises", i);
    }
}

int cs_read_max(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
                uint32_t flags, uint32_t slice_max, struct cs_read *out)
{
    struct call *call = call_new(p, "read");
    memset(out, 0, sizeof *out);
    call->op.read = (struct sti_storage_read){.struct_size = sizeof call->op.read,
                                              .flags = flags,
                                              .offset = offset,
                                              .end_offset = end_offset,
                                              .max_bytes = max_bytes,
                                              .slices = out->slices,
                                              .slice_max = slice_max,
                                              .done = read_done};
    if ((flags & STI_READ_NO_WAIT) != 0) {
        read_run(call);
        CFM_EXPECT(call->rc != STI_OK || atomic_load(&call->answers) == 1,
                   "a read without waiting has no answer when it returns");
    } else {
        cs_run(p->cs, NULL, read_run, call);
    }
    int rc = DOCUMENTED("read", call_wait(call), STI_E_OFFSET_OUT_OF_RANGE, STI_E_DATA_LOSS,
                        STI_E_IO, STI_E_WOULD_BLOCK, STI_E_RESOURCE_EXHAUSTED);
    CFM_EXPECT(rc != STI_E_WOULD_BLOCK || (flags & STI_READ_NO_WAIT) != 0,
               "a read that may wait ended with WOULD_BLOCK");
    out->op = call->op.read;
    out->err = call->err;
    if (rc == STI_OK) {
        check_slices(p, out);
    } else {
        CFM_EXPECT(call->rc != STI_OK || out->op.slice_count == 0,
                   "a read ended with %s and left %u slices", sti_status_name(rc),
                   out->op.slice_count);
        out->op.slice_count = 0;
    }
    call->op.read.slices = NULL;
    call_keep(call);
    return rc;
}

int cs_read(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
            uint32_t flags, struct cs_read *out)
{
    return cs_read_max(p, offset, end_offset, max_bytes, flags, CS_SLICES, out);
}

void cs_release(struct cs_read *read)
{
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        sti_slice_release(&read->slices[i]);
    }
    read->op.slice_count = 0;
}

static void read_file(const struct sti_slice *slice, uint8_t *out)
{
    for (size_t done = 0; done < slice->len;) {
        ssize_t n = pread(slice->fd, out + done, (size_t)slice->len - done,
                          (off_t)(slice->file_pos + done));
        CFM_EXPECT(n > 0, "pread of a slice's file at %" PRIu64 ": %s", slice->file_pos + done,
                   n == 0 ? "it ends there" : strerror(errno));
        done += (size_t)n;
    }
}

uint8_t *cs_bytes(const struct cs_read *read, size_t *len)
{
    uint8_t *out = malloc((size_t)read->op.bytes + 1);
    *len = 0;
    CFM_CHECK(out != NULL);
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        const struct sti_slice *slice = &read->slices[i];
        if (slice->fd >= 0) {
            read_file(slice, out + *len);
            CFM_EXPECT(slice->data == NULL ||
                           memcmp(slice->data, out + *len, (size_t)slice->len) == 0,
                       "memory and file of a slice differ");
        } else {
            memcpy(out + *len, slice->data, (size_t)slice->len);
        }
        *len += (size_t)slice->len;
    }
    return out;
}

int64_t cs_walk(const struct cs_read *read, int64_t offset)
{
    size_t len, pos = 0;
    uint8_t *data = cs_bytes(read, &len);
    int64_t next = -1;
    while (pos < len) {
        struct sti_batch_header header;
        struct sti_err err = {0};
        int rc = sti_batch_header_decode(data + pos, len - pos, &header, &err);
        CFM_EXPECT(rc == STI_OK, "what was read is no batch: %s %s", sti_status_name(rc), err.msg);
        CFM_EXPECT(header.total_len <= len - pos, "a read ends inside the batch at %" PRId64,
                   header.base_offset);
        CFM_EXPECT(sti_crc32c(0, data + pos + 21, (size_t)header.total_len - 21) == header.crc,
                   "the checksum of the batch at %" PRId64 " is wrong", header.base_offset);
        if (next < 0) {
            CFM_EXPECT(header.base_offset <= offset && sti_batch_last_offset(&header) >= offset,
                       "a read at %" PRId64 " begins with the batch at %" PRId64, offset,
                       header.base_offset);
        } else {
            CFM_EXPECT(header.base_offset == next,
                       "the batch at %" PRId64 " stands where that at %" PRId64 " is expected",
                       header.base_offset, next);
        }
        next = sti_batch_last_offset(&header) + 1;
        pos += (size_t)header.total_len;
    }
    free(data);
    return next < 0 ? offset : next;
}

/* ---- sync ----------------------------------------------------------------------------------- */

static void sync_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    call_answered((struct call *)(void *)op, status, err);
}

static void sync_run(void *arg)
{
    struct call *call = arg;
    call->rc = call->p->cs->api->sync(call->p->part, &call->op.sync);
}

int cs_sync(struct cs_part *p, int64_t *synced_end)
{
    struct call *call = call_new(p, "sync");
    call->op.sync = (struct sti_storage_sync){
        .struct_size = sizeof call->op.sync, .done = sync_done, .synced_end = -2};
    cs_run(p->cs, NULL, sync_run, call);
    int rc = DOCUMENTED("sync", call_wait(call), STI_E_IO, STI_E_POISONED, STI_E_DISK_FULL,
                        STI_E_RESOURCE_EXHAUSTED);
    if (synced_end != NULL) {
        *synced_end = call->op.sync.synced_end;
    }
    call_keep(call);
    return rc;
}
