/* host.c -- see host.h for the story. */
#include "kernel/host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static struct krn_instance *instance_of(void *ctx)
{
    return ctx;
}

static struct krn_services *services_of(void *ctx)
{
    return instance_of(ctx)->services;
}

/* ---- log, clock, random -------------------------------------------------------------------- */

static void host_log(void *ctx, int level, const char *event, const char *msg,
                     const struct sti_field *const *fields)
{
    krn_log_write(services_of(ctx)->log, level, instance_of(ctx)->name, event, msg, fields);
}

static bool host_log_enabled(void *ctx, int level)
{
    return krn_log_enabled(services_of(ctx)->log, instance_of(ctx)->name, level);
}

static uint64_t host_clock_us(void *ctx, int clock_id)
{
    (void)ctx;
    return krn_clock_us(clock_id);
}

static void host_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    char *at = buf;
    while (len > 0) {
        ssize_t n = getrandom(at, len, 0);
        if (n < 0 && errno != EINTR) {
            abort(); /* a kernel without random numbers: nothing secret may be made here */
        }
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
}

/* ---- executor ------------------------------------------------------------------------------ */

static void host_post(void *ctx, struct sti_task *task)
{
    krn_executor_post(services_of(ctx)->executor, task);
}

static void host_strand_init(void *ctx, struct sti_strand *strand)
{
    krn_strand_init(services_of(ctx)->executor, strand);
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
    krn_timer_arm(services_of(ctx)->executor, timer, due_us);
}

static bool host_timer_cancel(void *ctx, struct sti_timer *timer)
{
    return krn_timer_cancel(services_of(ctx)->executor, timer);
}

/* ---- metrics ------------------------------------------------------------------------------- */

static struct sti_metric *host_metric(void *ctx, int type, const char *name, const char *labels,
                                      const char *help)
{
    return krn_metrics_value(services_of(ctx)->metrics, type, name, labels, help);
}

static struct sti_histogram *host_histogram(void *ctx, const char *name, const char *labels,
                                            const char *help)
{
    return krn_metrics_histogram(services_of(ctx)->metrics, name, labels, help);
}

/* The kernel's own figures are not kept but asked for at each visit; those of the process are
 * the exporter's. */
static void visit_own(struct krn_services *s, const struct sti_metrics_visitor *visitor, void *arg)
{
    struct krn_executor_stats ex;
    struct krn_log_stats log;
    char labels[128];
    krn_executor_stats(s->executor, &ex);
    krn_log_stats(s->log, &log);
    (void)snprintf(labels, sizeof labels, "version=\"%s\",commit=\"%s\",node=\"%" PRId32 "\"",
                   s->node.version, s->node.commit, s->node.node_id);
    const struct {
        int type;
        const char *name, *labels, *help;
        double value;
    } rows[] = {
        {STI_METRIC_GAUGE, "streamit_build_info", labels, "Always 1; the labels tell.", 1},
        {STI_METRIC_GAUGE, "streamit_node_state", "", "0 starting, 1 ready, 2 draining, 3 stopped.",
         (double)atomic_load(&s->state)},
        {STI_METRIC_GAUGE, "streamit_uptime_seconds", "", "Since the start of the node.",
         (double)(krn_clock_us(STI_CLOCK_MONOTONIC) - s->started_us) / 1e6},
        {STI_METRIC_GAUGE, "streamit_executor_threads", "", "Executor threads.", ex.threads},
        {STI_METRIC_GAUGE, "streamit_executor_threads_idle", "", "Executor threads without work.",
         ex.threads_idle},
        {STI_METRIC_GAUGE, "streamit_executor_queued", "", "Tasks and strands that wait.",
         (double)ex.queued},
        {STI_METRIC_GAUGE, "streamit_executor_timers", "", "Armed timers.", (double)ex.timers},
        {STI_METRIC_COUNTER, "streamit_executor_tasks_total", "", "Tasks run.",
         (double)ex.tasks_run},
        {STI_METRIC_COUNTER, "streamit_log_lines_total", "", "Log lines written.",
         (double)log.written},
        {STI_METRIC_COUNTER, "streamit_log_lines_dropped_total", "",
         "Log lines that could not be written.", (double)log.dropped},
        {STI_METRIC_COUNTER, "streamit_log_lines_suppressed_total", "",
         "Repeated log lines left out.", (double)log.suppressed},
        {STI_METRIC_GAUGE, "streamit_metrics_bytes", "", "Memory of the metrics registry.",
         (double)krn_metrics_bytes(s->metrics)},
        {STI_METRIC_GAUGE, "streamit_metrics_values", "", "Values in the metrics registry.",
         (double)krn_metrics_count(s->metrics)},
        {STI_METRIC_COUNTER, "streamit_metrics_refused_total", "",
         "Metrics refused: registry full, bad name, or another type.",
         (double)krn_metrics_refused(s->metrics)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        visitor->value(arg, rows[i].type, rows[i].name, rows[i].labels, rows[i].help,
                       rows[i].value);
    }
}

static void host_metrics_visit(void *ctx, const struct sti_metrics_visitor *visitor, void *arg)
{
    struct krn_services *s = services_of(ctx);
    if (visitor->value != NULL) {
        visit_own(s, visitor, arg);
    }
    krn_metrics_visit(s->metrics, visitor, arg);
}

static void host_collector_add(void *ctx, struct sti_collector *collector)
{
    krn_metrics_collector_add(services_of(ctx)->metrics, collector);
}

static void host_collector_remove(void *ctx, struct sti_collector *collector)
{
    krn_metrics_collector_remove(services_of(ctx)->metrics, collector);
}

/* ---- interfaces ---------------------------------------------------------------------------- */

static int host_bind(void *ctx, const char *iface, const char *instance, uint16_t major,
                     uint16_t minor_min, struct sti_binding *out, struct sti_err *err)
{
    return krn_registry_bind(services_of(ctx)->registry, instance_of(ctx), iface, instance, major,
                             minor_min, out, err);
}

static void host_each(void *ctx, const char *iface,
                      void (*visit)(void *arg, const struct sti_binding *binding), void *arg)
{
    krn_registry_each(services_of(ctx)->registry, ctx, iface, visit, arg);
}

/* ---- listeners, health, state -------------------------------------------------------------- */

static void host_announce(void *ctx, const char *address)
{
    struct krn_services *s = services_of(ctx);
    pthread_mutex_lock(&s->mu);
    bool room = s->listener_count < KRN_LISTENERS_MAX;
    if (room) {
        struct krn_listener *l = &s->listeners[s->listener_count++];
        (void)snprintf(l->instance, sizeof l->instance, "%s", instance_of(ctx)->name);
        (void)snprintf(l->address, sizeof l->address, "%s", address);
    }
    pthread_mutex_unlock(&s->mu);
    if (!room) {
        krn_log_event(s->log, STI_LOG_WARN, "listener_not_listed",
                      "too many listeners: this one will not appear in the ready line",
                      STI_F_STR("address", address));
    }
}

/* @locks s->mu held */
static struct krn_condition *find_condition(struct krn_services *s, const char *instance,
                                            const char *name)
{
    for (size_t i = 0; i < s->condition_count; i++) {
        if (strcmp(s->conditions[i].instance, instance) == 0 &&
            strcmp(s->conditions[i].name, name) == 0) {
            return &s->conditions[i];
        }
    }
    return NULL;
}

static void host_health(void *ctx, const char *condition, int level, const char *detail)
{
    struct krn_services *s = services_of(ctx);
    char name[sizeof s->conditions->name];
    (void)snprintf(name, sizeof name, "%s", condition == NULL ? "" : condition);
    bool full = false;
    pthread_mutex_lock(&s->mu);
    struct krn_condition *c = find_condition(s, instance_of(ctx)->name, name);
    if (level == STI_HEALTH_OK) {
        if (c != NULL) {
            *c = s->conditions[--s->condition_count];
        }
    } else {
        if (c == NULL && s->condition_count < KRN_CONDITIONS_MAX) {
            c = &s->conditions[s->condition_count++];
        }
        full = c == NULL;
        if (c != NULL) {
            (void)snprintf(c->instance, sizeof c->instance, "%s", instance_of(ctx)->name);
            (void)snprintf(c->name, sizeof c->name, "%s", name);
            (void)snprintf(c->detail, sizeof c->detail, "%s", detail == NULL ? "" : detail);
            c->level = level;
        }
    }
    pthread_mutex_unlock(&s->mu);
    if (full) {
        krn_log_event(s->log, STI_LOG_ERROR, "health_not_listed",
                      "too many health conditions: this one is not listed",
                      STI_F_STR("condition", condition), STI_F_STR("detail", detail));
    }
}

static void host_health_visit(void *ctx,
                              void (*visit)(void *arg, const char *instance, const char *condition,
                                            int level, const char *detail),
                              void *arg)
{
    struct krn_services *s = services_of(ctx);
    pthread_mutex_lock(&s->mu);
    size_t count = s->condition_count;
    struct krn_condition *copy = count == 0 ? NULL : malloc(count * sizeof *copy);
    if (copy != NULL) {
        memcpy(copy, s->conditions, count * sizeof *copy);
    }
    pthread_mutex_unlock(&s->mu);
    for (size_t i = 0; copy != NULL && i < count; i++) {
        visit(arg, copy[i].instance, copy[i].name, copy[i].level, copy[i].detail);
    }
    if (copy == NULL && count > 0) {
        visit(arg, "kernel", "memory", STI_HEALTH_DEGRADED, "out of memory: conditions unknown");
    }
    free(copy);
}

static int host_node_state(void *ctx)
{
    return atomic_load_explicit(&services_of(ctx)->state, memory_order_acquire);
}

/* ---- the table ----------------------------------------------------------------------------- */

int krn_services_init(struct krn_services *s, struct sti_err *err)
{
    s->conditions = calloc(KRN_CONDITIONS_MAX, sizeof *s->conditions);
    if (s->conditions == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "kernel: out of memory");
    }
    pthread_mutex_init(&s->mu, NULL);
    return STI_OK;
}

void krn_services_fini(struct krn_services *s)
{
    if (s->conditions != NULL) {
        pthread_mutex_destroy(&s->mu);
        free(s->conditions);
        s->conditions = NULL;
    }
}

void krn_host_fill(struct krn_services *services, struct krn_instance *instance)
{
    instance->services = services;
    instance->host = (struct sti_host){.struct_size = sizeof(struct sti_host),
                                       .abi_major = STI_ABI_MAJOR,
                                       .abi_minor = STI_ABI_MINOR,
                                       .ctx = instance,
                                       .instance = instance->name,
                                       .node = &services->node,
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
}

void krn_host_forget(struct krn_services *s, const struct krn_instance *instance)
{
    pthread_mutex_lock(&s->mu);
    for (size_t i = s->condition_count; i > 0; i--) {
        if (strcmp(s->conditions[i - 1].instance, instance->name) == 0) {
            s->conditions[i - 1] = s->conditions[--s->condition_count];
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < s->listener_count; i++) {
        if (strcmp(s->listeners[i].instance, instance->name) != 0) {
            s->listeners[kept++] = s->listeners[i];
        }
    }
    s->listener_count = kept;
    pthread_mutex_unlock(&s->mu);
}
