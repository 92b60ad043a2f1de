/* plugin.c -- metrics_log: the node's figures as log lines, at intervals.
 *
 * A timer's task visits the metrics and writes what figures.h tells of, LINE_FIGURES to a line, so
 * that a collector of logs has them without anybody who asks. The last line is written at the stop.
 *
 * Threads. `mu` guards what the task and a stop share; it is not held while lines are written. One
 * task at a time: it arms the timer again as its last act.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "figures.h"
#include "streamit/metrics.h"

enum { LINE_FIGURES = 128, LINES_MAX = 16 /* below what the log thins out */ };

struct conf {
    int64_t interval_ms, series_max;
    struct sti_option_strings match;
};

struct exporter {
    const struct sti_host *host;
    const struct conf *conf;
    struct sti_metric *left_out, *lines;
    pthread_mutex_t mu;
    pthread_cond_t idle;
    bool stopping, busy; /* @locks mu */
    struct sti_timer timer;
    struct mlg_figures figures; /* of the task, and of the stop when no task runs */
    uint64_t last_us;
};

/* ---- lines --------------------------------------------------------------------------------- */

/* Is it a whole number that a double holds exactly? */
static bool is_whole(double value)
{
    return fabs(value) <= 9007199254740992.0 && fabs(value - trunc(value)) <= 0;
}

static struct sti_field field_of(const struct mlg_figure *figure)
{
    struct sti_field field = {
        .key = figure->key, .type = STI_FIELD_DOUBLE, .value.d = figure->value};
    if (is_whole(figure->value)) {
        field.type = STI_FIELD_INT;
        field.value.i = (int64_t)figure->value;
    }
    return field;
}

/* One line with some of the figures. */
static void line(struct exporter *exporter, const struct mlg_figure *list, size_t count,
                 uint64_t took_us, size_t part)
{
    const struct sti_host *host = exporter->host;
    struct sti_field own[LINE_FIGURES + 2];
    const struct sti_field *fields[LINE_FIGURES + 3];
    size_t n = 0;
    own[n++] = (struct sti_field){
        .key = "interval_s", .type = STI_FIELD_DOUBLE, .value.d = (double)took_us / 1e6};
    own[n++] = (struct sti_field){.key = "part", .type = STI_FIELD_UINT, .value.u = part};
    for (size_t i = 0; i < count; i++) {
        own[n++] = field_of(&list[i]);
    }
    for (size_t i = 0; i < n; i++) {
        fields[i] = &own[i];
    }
    fields[n] = NULL;
    host->log(host->ctx, STI_LOG_INFO, "metrics", "figures of the last interval", fields);
    sti_metric_add(exporter->lines, 1);
}

static void write_lines(struct exporter *exporter)
{
    struct mlg_figures *figures = &exporter->figures;
    uint64_t now = sti_now_us(exporter->host), took = now - exporter->last_us;
    exporter->last_us = now;
    mlg_figures_visit(figures, exporter->host);
    size_t most = (size_t)LINE_FIGURES * LINES_MAX;
    size_t count = figures->count < most ? figures->count : most;
    for (size_t at = 0; at < count; at += LINE_FIGURES) {
        size_t left = count - at < LINE_FIGURES ? count - at : LINE_FIGURES;
        line(exporter, figures->list + at, left, took, at / LINE_FIGURES + 1);
    }
    sti_metric_add(exporter->left_out, figures->left_out + figures->count - count);
}

static void run(struct sti_task *task)
{
    struct exporter *exporter =
        (struct exporter *)(void *)((char *)task - offsetof(struct exporter, timer.task));
    const struct sti_host *host = exporter->host;
    write_lines(exporter);
    pthread_mutex_lock(&exporter->mu);
    exporter->busy = false;
    if (!exporter->stopping) {
        exporter->busy = true;
        host->timer_arm(host->ctx, &exporter->timer,
                        sti_now_us(host) + (uint64_t)exporter->conf->interval_ms * 1000u);
    }
    pthread_cond_signal(&exporter->idle);
    pthread_mutex_unlock(&exporter->mu);
}

/* ---- the interface ------------------------------------------------------------------------- */

struct export
{
    void (*write)(void *arg, const char *text, size_t len);
    void *arg;
};

static void export_one(const struct export *out, const char *name, const char *suffix,
                       const char *labels, double value)
{
    char number[40];
    bool some = labels != NULL && labels[0] != '\0';
    (void)snprintf(number, sizeof number, is_whole(value) ? "%.0f" : "%.17g", value);
    const char *const parts[] = {
        name, suffix, some ? "{" : "", some ? labels : "", some ? "}" : "", " ", number, "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        out->write(out->arg, parts[i], strlen(parts[i]));
    }
}

static void export_value(void *arg, int type, const char *name, const char *labels,
                         const char *help, double value)
{
    (void)type;
    (void)help;
    export_one(arg, name, "", labels, value);
}

static void export_histogram(void *arg, const char *name, const char *labels, const char *help,
                             const struct sti_histogram_totals *totals)
{
    size_t len = strlen(name);
    bool seconds = len > 8 && strcmp(name + (len - 8), "_seconds") == 0;
    (void)help;
    export_one(arg, name, "_count", labels, (double)totals->count);
    export_one(arg, name, "_sum", labels,
               seconds ? (double)totals->sum / 1e6 : (double)totals->sum);
}

static int export_now(void *self, void (*write)(void *arg, const char *text, size_t len), void *arg,
                      struct sti_err *err)
{
    const struct exporter *exporter = self;
    struct export out = {.write = write, .arg = arg};
    const struct sti_metrics_visitor visitor = {
        .struct_size = sizeof visitor, .value = export_value, .histogram = export_histogram};
    (void)err;
    exporter->host->metrics_visit(exporter->host->ctx, &visitor, &out);
    return STI_OK;
}

static const struct sti_metrics metrics = {.iface = {.struct_size = sizeof(struct sti_metrics),
                                                     .major = STI_METRICS_MAJOR,
                                                     .minor = STI_METRICS_MINOR,
                                                     .id = STI_METRICS_ID},
                                           .export_now = export_now};

/* ---- lifecycle ----------------------------------------------------------------------------- */

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    const struct conf *options = conf;
    struct exporter *exporter = calloc(1, sizeof *exporter);
    *self = NULL;
    if (exporter == NULL ||
        mlg_figures_init(&exporter->figures, options->match.items, options->match.count,
                         (size_t)options->series_max) != STI_OK) {
        free(exporter);
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", host->instance);
    }
    exporter->host = host;
    exporter->conf = options;
    exporter->timer.task.run = run;
    pthread_mutex_init(&exporter->mu, NULL);
    pthread_cond_init(&exporter->idle, NULL);
    *self = exporter;
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    struct exporter *exporter = self;
    const struct sti_host *host = exporter->host;
    (void)err;
    exporter->left_out = host->metric(
        host->ctx, STI_METRIC_COUNTER, "streamit_metrics_log_left_out_total", NULL,
        "Figures that a log line of metrics had no room for: series_max, or 2048 that moved.");
    exporter->lines =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metrics_log_lines_total", NULL,
                     "Log lines with metrics, also those that the log could not write.");
    exporter->last_us = sti_now_us(host);
    exporter->busy = true;
    host->timer_arm(host->ctx, &exporter->timer,
                    exporter->last_us + (uint64_t)exporter->conf->interval_ms * 1000u);
    return STI_OK;
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct exporter *exporter = self;
    const struct sti_host *host = exporter->host;
    (void)deadline_ms;
    (void)err;
    pthread_mutex_lock(&exporter->mu);
    exporter->stopping = true;
    if (host->timer_cancel(host->ctx, &exporter->timer)) {
        exporter->busy = false;
    }
    while (exporter->busy) {
        pthread_cond_wait(&exporter->idle, &exporter->mu);
    }
    pthread_mutex_unlock(&exporter->mu);
    write_lines(exporter);
    return STI_OK;
}

static void destroy(void *self)
{
    struct exporter *exporter = self;
    mlg_figures_fini(&exporter->figures);
    pthread_cond_destroy(&exporter->idle);
    pthread_mutex_destroy(&exporter->mu);
    free(exporter);
}

/* ---- descriptor ---------------------------------------------------------------------------- */

static const struct sti_option opt_interval = {.struct_size = sizeof(struct sti_option),
                                               .key = "interval_ms",
                                               .type = STI_OPT_INT,
                                               .offset = offsetof(struct conf, interval_ms),
                                               .def = "60000",
                                               .min = 100,
                                               .max = 86400000,
                                               .unit = "ms",
                                               .help = "From one writing to the next."};
static const struct sti_option opt_match = {
    .struct_size = sizeof(struct sti_option),
    .key = "match",
    .type = STI_OPT_STRINGS,
    .offset = offsetof(struct conf, match),
    .def = "[ \"streamit_*\" ]",
    .help = "Names of the metrics that are written: patterns in which * stands for anything and ? "
            "for one character."};
static const struct sti_option opt_series = {
    .struct_size = sizeof(struct sti_option),
    .key = "series_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct conf, series_max),
    .def = "10000",
    .min = 1,
    .max = 1000000,
    .help = "Series whose last value is kept, to tell what they grew by; others are left out, and "
            "counted."};
static const struct sti_option *const options[] = {&opt_interval, &opt_match, &opt_series, NULL};

static const struct sti_iface *const provides[] = {&metrics.iface, NULL};

static const struct sti_lifecycle life = {.struct_size = sizeof(struct sti_lifecycle),
                                          .create = create,
                                          .start = start,
                                          .stop = stop,
                                          .destroy = destroy};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {.magic = STI_PLUGIN_MAGIC,
                                                        .struct_size = sizeof(struct sti_plugin),
                                                        .abi_major = STI_ABI_MAJOR,
                                                        .abi_minor = STI_ABI_MINOR,
                                                        .name = "metrics_log",
                                                        .version = "0.1.0",
                                                        .license = "Apache-2.0",
                                                        .summary =
                                                            "Metrics as log lines, at intervals",
                                                        .options = options,
                                                        .conf_size = sizeof(struct conf),
                                                        .provides = provides,
                                                        .life = &life};
