/* test_host.c -- see test_host.h. */
#include "test_host.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "kernel/executor.h"

enum { ENTRIES_MAX = 256, INSTANCES_MAX = 16 };

struct metric_entry {
    char name[128], labels[128];
    struct sti_metric metric;
    struct sti_histogram histogram;
};

struct test_host {
    struct krn_executor *executor;
    struct sti_node node;
    pthread_mutex_t mu;
    struct metric_entry *metrics[ENTRIES_MAX];
    size_t metric_count;
    struct sti_collector *collectors; /* @locks mu */
    char events[ENTRIES_MAX][64];
    unsigned event_counts[ENTRIES_MAX];
    size_t event_count;
    struct sti_binding bindings[INSTANCES_MAX];
    size_t binding_count;
    struct instance {
        struct test_host *th;
        struct sti_host host;
        char name[64];
    } * instances[INSTANCES_MAX];
    size_t instance_count;
};

static struct test_host *host_of(void *ctx)
{
    return ((struct instance *)ctx)->th;
}

static void host_log(void *ctx, int level, const char *event, const char *msg,
                     const struct sti_field *const *fields)
{
    struct test_host *th = host_of(ctx);
    pthread_mutex_lock(&th->mu);
    size_t i = 0;
    while (i < th->event_count && strcmp(th->events[i], event) != 0) {
        i++;
    }
    if (i == th->event_count && i < ENTRIES_MAX) {
        snprintf(th->events[i], sizeof th->events[i], "%s", event);
        th->event_count++;
    }
    if (i < ENTRIES_MAX) {
        th->event_counts[i]++;
    }
    pthread_mutex_unlock(&th->mu);
    if (getenv("STREAMIT_TEST_LOG") == NULL) {
        return;
    }
    fprintf(stderr, "%d %s: %s", level, event, msg);
    for (; fields != NULL && *fields != NULL; fields++) {
        if ((*fields)->type == STI_FIELD_STR) {
            fprintf(stderr, " %s=%s", (*fields)->key, (*fields)->value.str);
        } else {
            fprintf(stderr, " %s=%lld", (*fields)->key, (long long)(*fields)->value.i);
        }
    }
    fputc('\n', stderr);
}

static bool host_log_enabled(void *ctx, int level)
{
    (void)ctx;
    (void)level;
    return true;
}

static uint64_t host_clock_us(void *ctx, int clock_id)
{
    (void)ctx;
    return krn_clock_us(clock_id);
}

static void host_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    if (getrandom(buf, len, 0) != (ssize_t)len) {
        abort();
    }
}

static void host_post(void *ctx, struct sti_task *task)
{
    krn_executor_post(host_of(ctx)->executor, task);
}

static void host_strand_init(void *ctx, struct sti_strand *strand)
{
    krn_strand_init(host_of(ctx)->executor, strand);
}

static void host_strand_post(void *ctx, struct sti_strand *strand, struct sti_task *task)
{
    (void)ctx;
    krn_strand_post(strand, task);
}

static bool host_strand_try_run(void *ctx, struct sti_strand *strand, struct sti_task *task)
{
    (void)ctx;
    return krn_strand_try_run(strand, task);
}

static void host_strand_fini(void *ctx, struct sti_strand *strand)
{
    (void)ctx;
    krn_strand_fini(strand);
}

static void host_timer_arm(void *ctx, struct sti_timer *timer, uint64_t due_us)
{
    krn_timer_arm(host_of(ctx)->executor, timer, due_us);
}

static bool host_timer_cancel(void *ctx, struct sti_timer *timer)
{
    return krn_timer_cancel(host_of(ctx)->executor, timer);
}

static struct metric_entry *metric_find(struct test_host *th, const char *name, const char *labels)
{
    for (size_t i = 0; i < th->metric_count; i++) {
        if (strcmp(th->metrics[i]->name, name) == 0 &&
            strcmp(th->metrics[i]->labels, labels == NULL ? "" : labels) == 0) {
            return th->metrics[i];
        }
    }
    return NULL;
}

static struct metric_entry *metric_get(void *ctx, const char *name, const char *labels)
{
    struct test_host *th = host_of(ctx);
    pthread_mutex_lock(&th->mu);
    struct metric_entry *entry = metric_find(th, name, labels);
    if (entry == NULL && th->metric_count < ENTRIES_MAX) {
        entry = calloc(1, sizeof *entry);
        if (entry == NULL) {
            abort();
        }
        snprintf(entry->name, sizeof entry->name, "%s", name);
        snprintf(entry->labels, sizeof entry->labels, "%s", labels == NULL ? "" : labels);
        th->metrics[th->metric_count++] = entry;
    }
    pthread_mutex_unlock(&th->mu);
    return entry;
}

static struct sti_metric *host_metric(void *ctx, int type, const char *name, const char *labels,
                                      const char *help)
{
    (void)type;
    (void)help;
    struct metric_entry *entry = metric_get(ctx, name, labels);
    return entry == NULL ? NULL : &entry->metric;
}

static struct sti_histogram *host_histogram(void *ctx, const char *name, const char *labels,
                                            const char *help)
{
    (void)help;
    struct metric_entry *entry = metric_get(ctx, name, labels);
    return entry == NULL ? NULL : &entry->histogram;
}

static int host_bind(void *ctx, const char *iface, const char *instance, uint16_t major,
                     uint16_t minor_min, struct sti_binding *out, struct sti_err *err)
{
    struct test_host *th = host_of(ctx);
    for (size_t i = 0; i < th->binding_count; i++) {
        const struct sti_binding *b = &th->bindings[i];
        if (strcmp(b->vtable->id, iface) == 0 &&
            (instance == NULL || strcmp(b->name, instance) == 0)) {
            if (b->vtable->major != major || b->vtable->minor < minor_min) {
                return sti_err_set(err, STI_E_ABI_MISMATCH, "%s: version", iface);
            }
            *out = *b;
            return STI_OK;
        }
    }
    return sti_err_set(err, STI_E_NOT_FOUND, "no instance \"%s\" provides %s",
                       instance == NULL ? "" : instance, iface);
}

static void host_each(void *ctx, const char *iface,
                      void (*visit)(void *arg, const struct sti_binding *binding), void *arg)
{
    struct test_host *th = host_of(ctx);
    for (size_t i = 0; i < th->binding_count; i++) {
        if (strcmp(th->bindings[i].vtable->id, iface) == 0) {
            visit(arg, &th->bindings[i]);
        }
    }
}

static void host_announce(void *ctx, const char *address)
{
    (void)ctx;
    (void)address;
}

static void host_health(void *ctx, const char *condition, int level, const char *detail)
{
    (void)ctx;
    (void)condition;
    (void)level;
    (void)detail;
}

static int host_node_state(void *ctx)
{
    (void)ctx;
    return STI_NODE_READY;
}

static void host_metrics_visit(void *ctx, const struct sti_metrics_visitor *visitor, void *arg)
{
    struct test_host *th = host_of(ctx);
    for (size_t i = 0; i < th->metric_count && visitor->value != NULL; i++) {
        visitor->value(arg, STI_METRIC_COUNTER, th->metrics[i]->name, th->metrics[i]->labels, "",
                       0);
    }
}

static void host_collector_add(void *ctx, struct sti_collector *collector)
{
    struct test_host *th = host_of(ctx);
    pthread_mutex_lock(&th->mu);
    collector->next = th->collectors;
    th->collectors = collector;
    pthread_mutex_unlock(&th->mu);
}

static void host_collector_remove(void *ctx, struct sti_collector *collector)
{
    struct test_host *th = host_of(ctx);
    pthread_mutex_lock(&th->mu);
    for (struct sti_collector **at = &th->collectors; *at != NULL; at = &(*at)->next) {
        if (*at == collector) {
            *at = collector->next;
            break;
        }
    }
    pthread_mutex_unlock(&th->mu);
}

void test_host_collect(struct test_host *th, const struct sti_metrics_visitor *visitor, void *arg)
{
    pthread_mutex_lock(&th->mu);
    struct sti_collector *collector = th->collectors;
    pthread_mutex_unlock(&th->mu);
    for (; collector != NULL; collector = collector->next) {
        collector->collect(collector, visitor, arg);
    }
}

static void host_health_visit(void *ctx,
                              void (*visit)(void *arg, const char *instance, const char *condition,
                                            int level, const char *detail),
                              void *arg)
{
    (void)ctx;
    (void)visit;
    (void)arg;
}

struct test_host *test_host_new(const char *data_dir, uint32_t threads_max)
{
    struct test_host *th = calloc(1, sizeof *th);
    struct sti_err err;
    if (th == NULL || krn_executor_new(&th->executor, threads_max, &err) != STI_OK) {
        abort();
    }
    pthread_mutex_init(&th->mu, NULL);
    th->node = (struct sti_node){.struct_size = sizeof(struct sti_node),
                                 .node_id = 1,
                                 .version = "test",
                                 .data_dir = data_dir,
                                 .cluster_id = "00000000000000000000000000000001",
                                 .commit = ""};
    return th;
}

void test_host_free(struct test_host *th)
{
    krn_executor_free(th->executor);
    for (size_t i = 0; i < th->metric_count; i++) {
        free(th->metrics[i]);
    }
    for (size_t i = 0; i < th->instance_count; i++) {
        free(th->instances[i]);
    }
    pthread_mutex_destroy(&th->mu);
    free(th);
}

const struct sti_host *test_host_for(struct test_host *th, const char *instance)
{
    for (size_t i = 0; i < th->instance_count; i++) {
        if (strcmp(th->instances[i]->name, instance) == 0) {
            return &th->instances[i]->host;
        }
    }
    struct instance *in = calloc(1, sizeof *in);
    if (in == NULL || th->instance_count == INSTANCES_MAX) {
        abort();
    }
    th->instances[th->instance_count++] = in;
    in->th = th;
    snprintf(in->name, sizeof in->name, "%s", instance);
    in->host = (struct sti_host){.struct_size = sizeof(struct sti_host),
                                 .abi_major = STI_ABI_MAJOR,
                                 .abi_minor = STI_ABI_MINOR,
                                 .ctx = in,
                                 .instance = in->name,
                                 .node = &th->node,
                                 .log = host_log,
                                 .log_enabled = host_log_enabled,
                                 .clock_us = host_clock_us,
                                 .random = host_random,
                                 .post = host_post,
                                 .strand_init = host_strand_init,
                                 .strand_post = host_strand_post,
                                 .strand_fini = host_strand_fini,
                                 .timer_arm = host_timer_arm,
                                 .timer_cancel = host_timer_cancel,
                                 .metric = host_metric,
                                 .histogram = host_histogram,
                                 .bind = host_bind,
                                 .each = host_each,
                                 .announce = host_announce,
                                 .health = host_health,
                                 .node_state = host_node_state,
                                 .metrics_visit = host_metrics_visit,
                                 .health_visit = host_health_visit,
                                 .collector_add = host_collector_add,
                                 .collector_remove = host_collector_remove,
                                 .strand_try_run = host_strand_try_run};
    return &in->host;
}

void test_host_provide(struct test_host *th, const char *instance, const struct sti_iface *vtable,
                       void *self)
{
    if (th->binding_count == INSTANCES_MAX) {
        abort();
    }
    const struct sti_host *host = test_host_for(th, instance);
    th->bindings[th->binding_count++] = (struct sti_binding){
        .vtable = vtable, .self = self, .name = host->instance, .generation = 1};
}

uint64_t test_host_histogram(struct test_host *th, const char *name, const char *labels)
{
    uint64_t count = 0;
    pthread_mutex_lock(&th->mu);
    struct metric_entry *entry = metric_find(th, name, labels);
    for (unsigned i = 0; entry != NULL && i < STI_METRIC_SHARDS; i++) {
        for (unsigned b = 0; b < STI_HISTOGRAM_BUCKETS; b++) {
            count += __atomic_load_n(&entry->histogram.cells[i].buckets[b], __ATOMIC_RELAXED);
        }
    }
    pthread_mutex_unlock(&th->mu);
    return count;
}

uint64_t test_host_metric(struct test_host *th, const char *name, const char *labels)
{
    uint64_t sum = 0;
    pthread_mutex_lock(&th->mu);
    struct metric_entry *entry = metric_find(th, name, labels);
    pthread_mutex_unlock(&th->mu);
    for (unsigned i = 0; entry != NULL && i < STI_METRIC_SHARDS; i++) {
        sum += __atomic_load_n(&entry->metric.cells[i].value, __ATOMIC_RELAXED);
    }
    return sum;
}

unsigned test_host_logged(struct test_host *th, const char *event)
{
    unsigned count = 0;
    pthread_mutex_lock(&th->mu);
    for (size_t i = 0; i < th->event_count; i++) {
        if (strcmp(th->events[i], event) == 0) {
            count = th->event_counts[i];
        }
    }
    pthread_mutex_unlock(&th->mu);
    return count;
}

struct settle {
    struct sti_task task;
    pthread_mutex_t mu;
    pthread_cond_t done_cond;
    bool done;
};

static void settle_run(struct sti_task *task)
{
    struct settle *s = (struct settle *)(void *)task;
    pthread_mutex_lock(&s->mu);
    s->done = true;
    pthread_cond_signal(&s->done_cond);
    pthread_mutex_unlock(&s->mu);
}

void test_host_settle(struct test_host *th, struct sti_strand *strand)
{
    struct settle s = {.task = {.run = settle_run}};
    pthread_mutex_init(&s.mu, NULL);
    pthread_cond_init(&s.done_cond, NULL);
    if (strand != NULL) {
        krn_strand_post(strand, &s.task);
    } else {
        krn_executor_post(th->executor, &s.task);
    }
    pthread_mutex_lock(&s.mu);
    while (!s.done) {
        pthread_cond_wait(&s.done_cond, &s.mu);
    }
    pthread_mutex_unlock(&s.mu);
    pthread_mutex_destroy(&s.mu);
    pthread_cond_destroy(&s.done_cond);
}

char *test_dir_new(const char *stem)
{
    const char *base = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/streamit-%s-XXXXXX", base == NULL ? "/tmp" : base, stem) < 0 ||
        mkdtemp(path) == NULL) {
        abort();
    }
    return path;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void test_dir_remove(char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}
