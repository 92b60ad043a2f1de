/* fixture.c -- see fixture.h. */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the broker ---------------------------------------------------------------------------------
 */

static int64_t option_int(const struct sti_option *option)
{
    char *end = NULL;
    long long value = strtoll(option->def, &end, 10);
    return value * (*end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : *end == 'G' ? 1 << 30 : 1);
}

void fix_conf_defaults(struct brk_conf *conf)
{
    memset(conf, 0, sizeof *conf);
    for (const struct sti_option *const *o = sti_broker_plugin.options; *o != NULL; o++) {
        void *at = (char *)conf + (*o)->offset;
        if ((*o)->type == STI_OPT_INT) {
            *(int64_t *)at = option_int(*o);
        } else if ((*o)->type == STI_OPT_STRING) {
            *(const char **)at = (*o)->def;
        } else if ((*o)->type == STI_OPT_BOOL) {
            *(bool *)at = strcmp((*o)->def, "true") == 0;
        } else if ((*o)->type == STI_OPT_ENUM) {
            int32_t i = 0;
            while (strcmp((*o)->choices[i], (*o)->def) != 0) {
                i++;
            }
            *(int32_t *)at = i;
        }
    }
}

struct fixture *fix_new(void)
{
    struct fixture *fix = calloc(1, sizeof *fix);
    assert_non_null(fix);
    fix->th = test_host_new("/nonexistent", 4);
    fix->fs = fs_new();
    fix->fm = fm_new();
    fix->fr = fr_new();
    fix_conf_defaults(&fix->conf);
    fix->host = *test_host_for(fix->th, "broker");
    fix->vt = (const struct sti_broker *)(const void *)sti_broker_plugin.provides[0];
    return fix;
}

void fix_start(struct fixture *fix)
{
    struct sti_err err;
    sti_err_clear(&err);
    if (!fix->provided) {
        test_host_provide(fix->th, "storage_mmap", &fix->fs->vtable.iface, fix->fs);
        test_host_provide(fix->th, "metadata", &fix->fm->vtable.iface, fix->fm);
        test_host_provide(fix->th, "replication", &fix->fr->vtable.iface, fix->fr);
        fix->provided = true;
    }
    assert_int_equal(sti_broker_plugin.life->create(&fix->host, &fix->conf, &fix->self, &err),
                     STI_OK);
    int rc = sti_broker_plugin.life->start(fix->self, &err);
    if (rc != STI_OK) {
        print_error("start: %s\n", err.msg);
    }
    assert_int_equal(rc, STI_OK);
    fix->started = true;
    if (!fix->lazy) {
        fix_wait_idle(fix);
    }
}

void fix_stop(struct fixture *fix)
{
    struct sti_err err;
    sti_err_clear(&err);
    int rc = sti_broker_plugin.life->stop(fix->self, FIX_PATIENCE_S * 1000, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, STI_OK);
    sti_broker_plugin.life->destroy(fix->self);
    fix->self = NULL;
    fix->started = false;
}

void fix_restart(struct fixture *fix)
{
    fix_stop(fix);
    fix_start(fix);
}

void fix_free(struct fixture *fix)
{
    if (fix->started) {
        fix_stop(fix);
    }
    test_host_free(fix->th);
    assert_int_equal(fix->fs->violations, 0);
    assert_int_equal(fix->fs->opens, fix->fs->closes);
    assert_int_equal(fix->fr->opens, fix->fr->closes);
    assert_int_equal(fix->fm->held_count, 0);
    fs_free(fix->fs);
    fm_free(fix->fm);
    fr_free(fix->fr);
    free(fix);
}

int fix_setup(void **state)
{
    struct fixture *fix = fix_new();
    fix_start(fix);
    *state = fix;
    return 0;
}

int fix_teardown(void **state)
{
    fix_free(*state);
    return 0;
}

/* ---- flags
 * --------------------------------------------------------------------------------------- */

static pthread_mutex_t flag_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t flag_cond = PTHREAD_COND_INITIALIZER;

void flag_raise(struct flag *flag)
{
    pthread_mutex_lock(&flag_mu);
    flag->raised++;
    pthread_cond_broadcast(&flag_cond);
    pthread_mutex_unlock(&flag_mu);
}

unsigned flag_get(struct flag *flag)
{
    pthread_mutex_lock(&flag_mu);
    unsigned raised = flag->raised;
    pthread_mutex_unlock(&flag_mu);
    return raised;
}

void flag_wait(struct flag *flag, unsigned at_least)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += FIX_PATIENCE_S;
    pthread_mutex_lock(&flag_mu);
    while (flag->raised < at_least && rc == 0) {
        rc = pthread_cond_timedwait(&flag_cond, &flag_mu, &until);
    }
    unsigned raised = flag->raised;
    pthread_mutex_unlock(&flag_mu);
    assert_true(raised >= at_least);
}

/* ---- topics
 * -------------------------------------------------------------------------------------- */

static void topic_done(struct sti_topic_change *call)
{
    flag_raise(&((struct topic_call *)call->user)->done);
}

void topic_call_init(struct topic_call *t, const char *name, int32_t partitions)
{
    *t = (struct topic_call){.call = {.struct_size = sizeof t->call,
                                      .partitions = partitions,
                                      .replication = -1,
                                      .name = name,
                                      .done = topic_done}};
    t->call.user = t;
    t->call.config = t->rows;
}

void topic_call_set(struct topic_call *t, const char *key, const char *value)
{
    uint32_t i = t->call.config_count++;
    t->entries[i] = (struct sti_config_entry){.key = key, .value = value};
    t->rows[i] = &t->entries[i];
}

void topic_call_send(struct fixture *fix, fix_topic_fn *fn, struct topic_call *t)
{
    int rc = fn(fix->self, &t->call, &t->err);
    assert_int_equal(rc, STI_OK);
}

int topic_call_run(struct fixture *fix, fix_topic_fn *fn, struct topic_call *t)
{
    topic_call_send(fix, fn, t);
    flag_wait(&t->done, 1);
    return t->call.status;
}

static int topic_once(struct fixture *fix, fix_topic_fn *fn, const char *name, int32_t partitions,
                      const char *key, const char *value)
{
    struct topic_call t;
    topic_call_init(&t, name, partitions);
    if (key != NULL) {
        topic_call_set(&t, key, value);
    }
    return topic_call_run(fix, fn, &t);
}

int fix_create(struct fixture *fix, const char *name, int32_t partitions, const char *key,
               const char *value)
{
    return topic_once(fix, fix->vt->create_topic, name, partitions, key, value);
}

int fix_alter(struct fixture *fix, const char *name, int32_t partitions, const char *key,
              const char *value)
{
    return topic_once(fix, fix->vt->alter_topic, name, partitions, key, value);
}

int fix_delete(struct fixture *fix, const char *name)
{
    return topic_once(fix, fix->vt->delete_topic, name, -1, NULL, NULL);
}

/* ---- produce
 * ------------------------------------------------------------------------------------- */

static void produce_done(struct sti_produce *call)
{
    flag_raise(&((struct produce_call *)call->user)->done);
}

void produce_init(struct produce_call *p, int acks)
{
    *p = (struct produce_call){
        .call = {.struct_size = sizeof p->call, .acks = acks, .done = produce_done}};
    p->call.user = p;
    p->call.rows = p->row_ptrs;
}

void produce_add(struct produce_call *p, const char *topic, int32_t partition, int records,
                 size_t value_len, int64_t timestamp_ms)
{
    uint32_t i = p->call.row_count++;
    struct sti_batch_builder *builder = NULL;
    const uint8_t *data = NULL;
    size_t len = 0;
    char *value = calloc(1, value_len + 1);
    assert_non_null(value);
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL), STI_OK);
    for (int r = 0; r < records; r++) {
        assert_int_equal(sti_batch_builder_append(builder, timestamp_ms, NULL, 0, value, value_len,
                                                  NULL, 0, NULL),
                         STI_OK);
    }
    assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
    p->bytes[i] = malloc(len);
    assert_non_null(p->bytes[i]);
    memcpy(p->bytes[i], data, len);
    sti_batch_builder_free(builder);
    free(value);
    p->slices[i] = sti_slice_borrow(p->bytes[i], len);
    p->rows[i] = (struct sti_produce_row){.struct_size = sizeof p->rows[i],
                                          .partition = partition,
                                          .topic = topic,
                                          .slices = &p->slices[i],
                                          .slice_count = 1};
    p->row_ptrs[i] = &p->rows[i];
}

void produce_send(struct fixture *fix, struct produce_call *p)
{
    int rc = fix->vt->produce(fix->self, &p->call, &p->err);
    assert_int_equal(rc, STI_OK);
}

void produce_wait(struct produce_call *p)
{
    flag_wait(&p->done, 1);
}

void produce_fini(struct produce_call *p)
{
    produce_wait(p);
    assert_int_equal(flag_get(&p->done), 1);
    for (uint32_t i = 0; i < p->call.row_count; i++) {
        free(p->bytes[i]);
    }
}

int64_t fix_produce(struct fixture *fix, const char *topic, int32_t partition, int records)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, topic, partition, records, 10, 1000);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_string_equal(p.rows[0].err.msg, "");
    assert_int_equal(p.rows[0].status, STI_OK);
    int64_t base = p.rows[0].base_offset;
    produce_fini(&p);
    return base;
}

/* ---- fetch
 * --------------------------------------------------------------------------------------- */

static void fetch_done(struct sti_fetch *call)
{
    flag_raise(&((struct fetch_call *)call->user)->done);
}

void fetch_init(struct fetch_call *f, uint32_t max_wait_ms)
{
    *f = (struct fetch_call){.call = {.struct_size = sizeof f->call,
                                      .flags = STI_FETCH_MEMORY,
                                      .max_bytes = 1 << 20,
                                      .max_wait_ms = max_wait_ms,
                                      .done = fetch_done}};
    f->call.user = f;
    f->call.rows = f->row_ptrs;
}

void fetch_add(struct fetch_call *f, const char *topic, int32_t partition, int64_t offset)
{
    uint32_t i = f->call.row_count++;
    f->rows[i] = (struct sti_fetch_row){.struct_size = sizeof f->rows[i],
                                        .partition = partition,
                                        .topic = topic,
                                        .offset = offset,
                                        .max_bytes = 1 << 20,
                                        .leader_epoch = -1,
                                        .last_epoch = -1};
    f->row_ptrs[i] = &f->rows[i];
}

void fetch_send(struct fixture *fix, struct fetch_call *f)
{
    int rc = fix->vt->fetch(fix->self, &f->call, &f->err);
    assert_int_equal(rc, STI_OK);
}

void fetch_wait(struct fetch_call *f)
{
    flag_wait(&f->done, 1);
}

void fetch_fini(struct fetch_call *f)
{
    fetch_wait(f);
    assert_int_equal(flag_get(&f->done), 1);
    sti_fetch_release(&f->call);
}

/* ---- waiting
 * ------------------------------------------------------------------------------------- */

void fix_wait_metric(struct fixture *fix, const char *name, uint64_t value)
{
    const struct timespec moment = {.tv_nsec = 100000};
    for (int i = 0; i < FIX_PATIENCE_S * 10000; i++) {
        if (test_host_metric(fix->th, name, NULL) == value) {
            return;
        }
        nanosleep(&moment, NULL);
    }
    assert_int_equal(test_host_metric(fix->th, name, NULL), value);
}

void fix_wait_idle(struct fixture *fix)
{
    const struct timespec moment = {.tv_nsec = 100000};
    struct broker *broker = fix->self;
    uint32_t under_way = 1;
    for (int i = 0; i < FIX_PATIENCE_S * 10000 && under_way > 0; i++) {
        pthread_mutex_lock(&broker->admin_mu);
        under_way = broker->under_way - (broker->retention_armed ? 1u : 0u) -
                    (broker->disk_armed ? 1u : 0u);
        pthread_mutex_unlock(&broker->admin_mu);
        nanosleep(&moment, NULL);
    }
    assert_int_equal(under_way, 0);
}

void fix_wait_parked(struct fixture *fix, uint64_t count)
{
    fix_wait_metric(fix, "streamit_fetch_parked", count);
}

void fix_settle(struct fixture *fix, const char *topic, int32_t partition)
{
    static const uint8_t any[16];
    struct brk_partition *part = NULL;
    struct sti_err err;
    assert_int_equal(brk_lookup(fix->self, topic, any, partition, &part, &err), STI_OK);
    test_host_settle(fix->th, &part->strand);
    brk_partition_unref(part);
}

struct find_partition {
    int32_t partition;
    struct sti_partition_info found;
};

static void find_visit(void *arg, const struct sti_topic_info *topic)
{
    struct find_partition *find = arg;
    assert_true((uint32_t)find->partition < topic->partition_count);
    find->found = *topic->partitions[find->partition];
}

struct sti_partition_info fix_partition(struct fixture *fix, const char *topic, int32_t partition)
{
    struct find_partition find = {.partition = partition};
    struct sti_err err;
    assert_int_equal(fix->vt->describe_topic(fix->self, NULL, topic, find_visit, &find, &err),
                     STI_OK);
    return find.found;
}
