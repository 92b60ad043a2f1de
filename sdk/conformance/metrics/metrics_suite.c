/* metrics_suite.c -- the suite of streamit.metrics: what export_now says of what was counted.
 *
 * A case makes metrics of its own through the host, as any plugin would, exports, and looks for the
 * lines that streamit/metrics.h promises. What else an exporter writes is not looked at, but for
 * its being UTF-8.
 */
#include "streamit/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../conform.h"

enum { MANY = 3000, ROUNDS = 40, WRITERS = 4, READERS = 4 };

struct text {
    char *data;
    size_t len, capacity;
};

static void append(void *arg, const char *piece, size_t len)
{
    struct text *text = arg;
    CFM_EXPECT(piece != NULL || len == 0, "write was called with no piece of %zu bytes", len);
    if (text->len + len + 1 > text->capacity) {
        text->capacity = (text->len + len + 1) * 2;
        text->data = realloc(text->data, text->capacity);
        CFM_CHECK(text->data != NULL);
    }
    memcpy(text->data + text->len, piece, len);
    text->len += len;
    text->data[text->len] = '\0';
}

/* An export, to be freed by the caller. */
static char *export(struct cfm *cfm)
{
    const struct sti_metrics *vt = (const struct sti_metrics *)(const void *)cfm->subject.vtable;
    struct text text = {0};
    struct sti_err err;
    sti_err_clear(&err);
    CFM_STATUS(vt->export_now(cfm->subject.self, append, &text, &err), STI_OK);
    CFM_EXPECT(text.len > 0 && strlen(text.data) == text.len, "an export without a text of lines");
    CFM_EXPECT(text.data[text.len - 1] == '\n', "the last line does not end");
    return text.data;
}

/* How many lines begin with the series, and the value of the last of them. */
static unsigned find(const char *text, const char *series, double *value)
{
    unsigned count = 0;
    size_t len = strlen(series);
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        if (strncmp(line, series, len) == 0 && line[len] == ' ') {
            char *stop = NULL;
            count++;
            *value = strtod(line + len + 1, &stop);
            CFM_EXPECT(stop == end && stop != line + len + 1, "no number ends the line of %s",
                       series);
        }
        line = end == NULL ? NULL : end + 1;
    }
    return count;
}

static void expect(const char *text, const char *series, double want)
{
    double got = 0;
    unsigned count = find(text, series, &got);
    CFM_EXPECT(count == 1, "%u lines of %s, expected one", count, series);
    CFM_EXPECT(got >= want && got <= want, "%s is %.17g, expected %.17g", series, got, want);
}

static struct sti_metric *make(struct cfm *cfm, int type, const char *name, const char *labels)
{
    struct sti_metric *metric =
        cfm->host->metric(cfm->host->ctx, type, name, labels, "Of the suite.");
    CFM_EXPECT(metric != NULL, "the registry has no place for %s", name);
    return metric;
}

/* ---- cases --------------------------------------------------------------------------------- */

static void case_values(struct cfm *cfm)
{
    cfm_start(cfm);
    sti_metric_add(make(cfm, STI_METRIC_COUNTER, "conform_plain_total", NULL), 42);
    sti_metric_add(make(cfm, STI_METRIC_COUNTER, "conform_by_total", "way=\"in\""), 7);
    sti_metric_add(make(cfm, STI_METRIC_COUNTER, "conform_by_total", "way=\"out\",kind=\"b c\""),
                   8);
    (void)make(cfm, STI_METRIC_COUNTER, "conform_nothing_total", NULL);
    struct sti_metric *gauge = make(cfm, STI_METRIC_GAUGE, "conform_level", NULL);
    sti_metric_sub(gauge, 5);
    sti_metric_set(make(cfm, STI_METRIC_GAUGE, "conform_large", NULL), UINT64_C(1) << 52);
    char *text = export(cfm);
    expect(text, "conform_plain_total", 42);
    expect(text, "conform_by_total{way=\"in\"}", 7);
    expect(text, "conform_by_total{way=\"out\",kind=\"b c\"}", 8);
    expect(text, "conform_nothing_total", 0);
    expect(text, "conform_level", -5);
    expect(text, "conform_large", 4503599627370496.0);
    free(text);
    cfm_stop(cfm);
}

static void case_histograms(struct cfm *cfm)
{
    cfm_start(cfm);
    const struct sti_host *host = cfm->host;
    struct sti_histogram *bytes =
        host->histogram(host->ctx, "conform_bytes", "kind=\"x\"", "Of the suite.");
    struct sti_histogram *time =
        host->histogram(host->ctx, "conform_time_seconds", NULL, "Of the suite.");
    CFM_CHECK(bytes != NULL && time != NULL);
    sti_histogram_record(bytes, 0);
    sti_histogram_record(bytes, 100);
    sti_histogram_record(bytes, 28);
    sti_histogram_record(time, 1500000);
    sti_histogram_record(time, 250000);
    char *text = export(cfm);
    expect(text, "conform_bytes_count{kind=\"x\"}", 3);
    expect(text, "conform_bytes_sum{kind=\"x\"}", 128);
    expect(text, "conform_time_seconds_count", 2);
    expect(text, "conform_time_seconds_sum", 1.75);
    free(text);
    cfm_stop(cfm);
}

/* An export takes nothing away, and sees what was counted since. */
static void case_again(struct cfm *cfm)
{
    cfm_start(cfm);
    struct sti_metric *counter = make(cfm, STI_METRIC_COUNTER, "conform_again_total", NULL);
    for (unsigned i = 1; i <= 5; i++) {
        sti_metric_add(counter, 3);
        char *text = export(cfm), *same = export(cfm);
        expect(text, "conform_again_total", 3.0 * i);
        expect(same, "conform_again_total", 3.0 * i);
        free(text);
        free(same);
    }
    cfm_stop(cfm);
}

struct gatherer {
    struct sti_collector collector; /* first */
    struct sti_metric *gauge;
    uint64_t runs;
};

static void gather(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                   void *arg)
{
    struct gatherer *g = (struct gatherer *)(void *)collector;
    sti_metric_set(g->gauge, ++g->runs);
    if (visitor->value != NULL) {
        visitor->value(arg, STI_METRIC_COUNTER, "conform_gathered_total", "topic=\"*\"", "Of it.",
                       11);
        visitor->value(arg, STI_METRIC_COUNTER, "conform_gathered_total", "topic=\"t\"", "Of it.",
                       12);
    }
}

static void case_collectors(struct cfm *cfm)
{
    cfm_start(cfm);
    const struct sti_host *host = cfm->host;
    struct gatherer g = {.collector.collect = gather,
                         .gauge = make(cfm, STI_METRIC_GAUGE, "conform_gathered", NULL)};
    double value = 0;
    host->collector_add(host->ctx, &g.collector);
    char *text = export(cfm);
    expect(text, "conform_gathered_total{topic=\"*\"}", 11);
    expect(text, "conform_gathered_total{topic=\"t\"}", 12);
    CFM_EQ(find(text, "conform_gathered", &value), 1);
    CFM_EXPECT(value >= 1, "a gauge that the collector set is told as before");
    free(text);
    host->collector_remove(host->ctx, &g.collector);
    text = export(cfm);
    CFM_EQ(find(text, "conform_gathered_total{topic=\"t\"}", &value), 0);
    free(text);
    cfm_stop(cfm);
}

static void case_many(struct cfm *cfm)
{
    cfm_start(cfm);
    char labels[64], series[96];
    for (unsigned i = 0; i < MANY; i++) {
        (void)snprintf(labels, sizeof labels, "n=\"%u\"", i);
        sti_metric_add(make(cfm, STI_METRIC_COUNTER, "conform_many_total", labels), i + 1);
    }
    char *text = export(cfm);
    for (unsigned i = 0; i < MANY; i += 97) {
        (void)snprintf(series, sizeof series, "conform_many_total{n=\"%u\"}", i);
        expect(text, series, i + 1.0);
    }
    free(text);
    cfm_stop(cfm);
}

/* Once the registry is full the rest is refused, and what is there is exported. */
static void case_full(struct cfm *cfm)
{
    cfm_start(cfm);
    const struct sti_host *host = cfm->host;
    char labels[64];
    struct sti_metric *first = make(cfm, STI_METRIC_COUNTER, "conform_full_total", "n=\"0\"");
    unsigned made = 1;
    for (; made < 1000000; made++) {
        (void)snprintf(labels, sizeof labels, "n=\"%u\"", made);
        if (host->metric(host->ctx, STI_METRIC_COUNTER, "conform_full_total", labels, "Full.") ==
            NULL) {
            break;
        }
    }
    CFM_EXPECT(made < 1000000, "the registry took a million values");
    sti_metric_add(first, 9);
    double refused = 0;
    char *text = export(cfm);
    expect(text, "conform_full_total{n=\"0\"}", 9);
    CFM_EQ(find(text, "streamit_metrics_refused_total", &refused), 1);
    CFM_EXPECT(refused >= 1, "what the registry refused is not counted");
    free(text);
    cfm_stop(cfm);
}

/* A text that helps, with anything in it, breaks no line. */
static void case_help(struct cfm *cfm)
{
    static const char *const helps[] = {
        "a\nconform_break_total 666\n", "\\", "\"", "", "\\n", "caf\xc3\xa9"};
    cfm_start(cfm);
    for (size_t i = 0; i < sizeof helps / sizeof helps[0]; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "conform_help_%zu_total", i);
        struct sti_metric *metric =
            cfm->host->metric(cfm->host->ctx, STI_METRIC_COUNTER, name, NULL, helps[i]);
        CFM_CHECK(metric != NULL);
        sti_metric_add(metric, i + 1);
    }
    double value = 0;
    char *text = export(cfm);
    CFM_EQ(find(text, "conform_break_total", &value), 0);
    for (size_t i = 0; i < sizeof helps / sizeof helps[0]; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "conform_help_%zu_total", i);
        expect(text, name, (double)i + 1);
    }
    free(text);
    cfm_stop(cfm);
}

static void case_restart(struct cfm *cfm)
{
    for (unsigned i = 0; i < 3; i++) {
        cfm_start(cfm);
        sti_metric_add(make(cfm, STI_METRIC_COUNTER, "conform_restart_total", NULL), i + 1);
        char *text = export(cfm);
        expect(text, "conform_restart_total", i + 1.0); /* of this node, not of the one before */
        free(text);
        cfm_stop(cfm);
    }
}

/* ---- threads ------------------------------------------------------------------------------- */

struct shared {
    struct cfm *cfm;
    struct sti_metric *counter;
    struct sti_histogram *histogram;
    _Atomic bool stop;
};

static void *count(void *arg)
{
    struct shared *s = arg;
    while (!atomic_load(&s->stop)) {
        sti_metric_add(s->counter, 1);
        sti_histogram_record(s->histogram, 1);
    }
    return NULL;
}

static void *read_on(void *arg)
{
    struct shared *s = arg;
    double last = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        double counter = 0, events = 0, sum = 0;
        char *text = export(s->cfm);
        CFM_EQ(find(text, "conform_busy_total", &counter), 1);
        CFM_EQ(find(text, "conform_busy_count", &events), 1);
        CFM_EQ(find(text, "conform_busy_sum", &sum), 1);
        CFM_EXPECT(counter >= last, "a counter went back from %g to %g", last, counter);
        last = counter;
        free(text);
    }
    return NULL;
}

static void case_threads(struct cfm *cfm)
{
    cfm_start(cfm);
    struct shared s = {
        .cfm = cfm,
        .counter = make(cfm, STI_METRIC_COUNTER, "conform_busy_total", NULL),
        .histogram = cfm->host->histogram(cfm->host->ctx, "conform_busy", NULL, "Of the suite.")};
    pthread_t writers[WRITERS], readers[READERS];
    CFM_CHECK(s.histogram != NULL);
    for (unsigned i = 0; i < WRITERS; i++) {
        CFM_EQ(pthread_create(&writers[i], NULL, count, &s), 0);
    }
    for (unsigned i = 0; i < READERS; i++) {
        CFM_EQ(pthread_create(&readers[i], NULL, read_on, &s), 0);
    }
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
    }
    atomic_store(&s.stop, true);
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(writers[i], NULL);
    }
    cfm_stop(cfm);
}

/* ---- the suite ----------------------------------------------------------------------------- */

static const struct cfm_case cases[] = {
    {.name = "values", .promise = "each counter and gauge has one line", .run = case_values},
    {.name = "histograms",
     .promise = "each histogram has its count and its sum, times in seconds",
     .run = case_histograms},
    {.name = "again", .promise = "an export takes nothing away", .run = case_again},
    {.name = "collectors",
     .promise = "what collectors hand out is there, until they leave",
     .run = case_collectors},
    {.name = "many", .promise = "thousands of values are exported whole", .run = case_many},
    {.name = "full", .promise = "a full registry is exported, and says so", .run = case_full},
    {.name = "help", .promise = "no help text breaks a line", .run = case_help},
    {.name = "restart",
     .promise = "it starts and stops again and again, and keeps nothing",
     .run = case_restart},
    {.name = "threads",
     .promise = "exports go on beside each other and beside those who count",
     .run = case_threads},
};
static const char *const cap_names[] = {NULL};

const struct cfm_suite cfm_metrics_suite = {.name = "metrics",
                                            .iface = STI_METRICS_ID,
                                            .major = STI_METRICS_MAJOR,
                                            .minor_min = 2,
                                            .cases = cases,
                                            .case_count = sizeof cases / sizeof cases[0],
                                            .cap_names = cap_names};
