/* support.c -- the node of a case, events, and calls of the storage interface that return their
 * status, made where the contract wants them.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support.h"

uint32_t cs_answer_s = 30;

/* ---- waiting -------------------------------------------------------------------------------- */

void cs_waiter_init(struct cs_waiter *w)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w->mu, NULL);
    (void)pthread_cond_init(&w->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    w->over = false;
}

void cs_waiter_fini(struct cs_waiter *w)
{
    (void)pthread_cond_destroy(&w->cond);
    (void)pthread_mutex_destroy(&w->mu);
}

void cs_waiter_end(struct cs_waiter *w)
{
    pthread_mutex_lock(&w->mu);
    w->over = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->mu);
}

/* @return false: nothing came in time */
bool cs_waiter_wait(struct cs_waiter *w)
{
    struct timespec due;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &due);
    due.tv_sec += cs_answer_s;
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
    struct cs_waiter w;
    void (*fn)(void *arg);
    void *arg;
};

static void job_run(struct sti_task *task)
{
    struct job *job = (struct job *)(void *)task;
    job->fn(job->arg);
    cs_waiter_end(&job->w);
}

void cs_run(struct cs *cs, struct sti_strand *strand, void (*fn)(void *arg), void *arg)
{
    const struct sti_host *host = cs->cfm->host;
    struct job job = {.task = {.run = job_run}, .fn = fn, .arg = arg};
    cs_waiter_init(&job.w);
    if (strand != NULL) {
        host->strand_post(host->ctx, strand, &job.task);
    } else {
        host->post(host->ctx, &job.task);
    }
    CFM_EXPECT(cs_waiter_wait(&job.w), "a call did not return within %u s", cs_answer_s);
    cs_waiter_fini(&job.w);
}

static void nothing(void *arg)
{
    (void)arg;
}

void cs_settle(struct cs *cs)
{
    cs_run(cs, NULL, nothing, NULL);
}

/* ---- statuses ------------------------------------------------------------------------------- */

/* A status that the contract does not name for this call is a failure by itself. */
int cs_documented(const char *what, int status, const int *list, size_t count)
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

/* The error object of a call that returns its status. */
int cs_agree(const char *what, int status, const struct sti_err *err)
{
    if (status != STI_OK) {
        CFM_EXPECT(err->code == status && err->msg[0] != '\0',
                   "%s returned %s, and its error object says %s \"%s\"", what,
                   sti_status_name(status), sti_status_name(err->code), err->msg);
    }
    return status;
}

/* ---- the node ------------------------------------------------------------------------------- */

/* Closed ones of this node: late events are to be seen. */
static struct cs_part *parts;
static pthread_mutex_t parts_mu = PTHREAD_MUTEX_INITIALIZER;

void cs_start(struct cs *cs, struct cfm *cfm)
{
    cs->cfm = cfm;
    cs_answer_s = cfm->answer_s;
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

void cs_stop(struct cs *cs)
{
    cs_settle(cs);
    cfm_stop(cs->cfm);
    cs_calls_end();
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
    int rc =
        CS_DOCUMENTED("open", cs_agree("open", call.rc, &call.err), STI_E_ALREADY_EXISTS,
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
    pthread_mutex_lock(&parts_mu);
    p->next = parts; /* kept until the node ends */
    parts = p;
    pthread_mutex_unlock(&parts_mu);
    return CS_DOCUMENTED("close", cs_agree("close", call.rc, &call.err), STI_E_IO);
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
    return CS_DOCUMENTED("remove", cs_agree("remove", call.rc, &call.err), STI_E_IO, STI_E_IN_USE);
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
    return CS_DOCUMENTED("configure", cs_agree("configure", call.rc, &call.err), STI_E_UNSUPPORTED);
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
    return CS_DOCUMENTED("offset_for_time", cs_agree("offset_for_time", call.rc, &call.err),
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
    return CS_DOCUMENTED("truncate", cs_agree("truncate", call.rc, &call.err), STI_E_IO,
                         STI_E_DISK_FULL, STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
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
    return CS_DOCUMENTED("trim", cs_agree("trim", call.rc, &call.err), STI_E_OFFSET_OUT_OF_RANGE,
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
    return CS_DOCUMENTED("oldest_segment", call.rc, STI_E_NOT_FOUND);
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
    return CS_DOCUMENTED("blob_put", cs_agree("blob_put", call.rc, &call.err), STI_E_IO,
                         STI_E_DISK_FULL, STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
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
    return CS_DOCUMENTED("blob_get", cs_agree("blob_get", call.rc, &call.err), STI_E_NOT_FOUND,
                         STI_E_IO, STI_E_INVALID_ARGUMENT, STI_E_RESOURCE_EXHAUSTED);
}
