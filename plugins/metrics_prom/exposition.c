/* exposition.c -- see exposition.h. */
#include "exposition.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The state of one walk. Names live until the kernel ends, so keeping the last one is enough. */
struct walk {
    struct mpr_text *text;
    const char *family;
};

static bool ends_with(const char *str, const char *suffix)
{
    size_t len = strlen(str), suffix_len = strlen(suffix);
    return len >= suffix_len && strcmp(str + (len - suffix_len), suffix) == 0;
}

static const char *type_name(int type)
{
    switch (type) {
    case STI_METRIC_COUNTER:
        return "counter";
    case STI_METRIC_GAUGE:
        return "gauge";
    default:
        return "histogram";
    }
}

/* HELP and TYPE, once for each family. */
static void family_begin(struct walk *walk, const char *name, const char *suffix, const char *help,
                         int type)
{
    if (walk->family != NULL && strcmp(walk->family, name) == 0) {
        return;
    }
    walk->family = name;
    if (help != NULL && help[0] != '\0') {
        MPR_TEXT_JOIN(walk->text, "# HELP ", name, suffix, " ");
        mpr_text_help(walk->text, help);
        mpr_text_str(walk->text, "\n");
    }
    MPR_TEXT_JOIN(walk->text, "# TYPE ", name, suffix, " ", type_name(type), "\n");
}

static bool has_labels(const char *labels)
{
    return labels != NULL && labels[0] != '\0';
}

static void visit_value(void *arg, int type, const char *name, const char *labels, const char *help,
                        double value)
{
    struct walk *walk = arg;
    const char *suffix = type == STI_METRIC_COUNTER && !ends_with(name, "_total") ? "_total" : "";
    family_begin(walk, name, suffix, help, type);
    MPR_TEXT_JOIN(walk->text, name, suffix);
    if (has_labels(labels)) {
        MPR_TEXT_JOIN(walk->text, "{", labels, "}");
    }
    mpr_text_str(walk->text, " ");
    mpr_text_number(walk->text, value);
    mpr_text_str(walk->text, "\n");
}

/* One line of a histogram: name, suffix, labels and perhaps `le`. */
static void histogram_line(struct mpr_text *text, const char *name, const char *suffix,
                           const char *labels, const char *le)
{
    MPR_TEXT_JOIN(text, name, suffix);
    if (has_labels(labels) && le != NULL) {
        MPR_TEXT_JOIN(text, "{", labels, ",le=\"", le, "\"}");
    } else if (le != NULL) {
        MPR_TEXT_JOIN(text, "{le=\"", le, "\"}");
    } else if (has_labels(labels)) {
        MPR_TEXT_JOIN(text, "{", labels, "}");
    }
    mpr_text_str(text, " ");
}

static void visit_histogram(void *arg, const char *name, const char *labels, const char *help,
                            const struct sti_histogram_totals *totals)
{
    struct walk *walk = arg;
    bool seconds = ends_with(name, "_seconds");
    uint64_t below = 0;
    family_begin(walk, name, "", help, STI_METRIC_HISTOGRAM);
    for (unsigned i = 0; i < STI_HISTOGRAM_BUCKETS; i++) {
        char le[40] = "+Inf";
        below += totals->buckets[i];
        if (i + 1 < STI_HISTOGRAM_BUCKETS && seconds) {
            (void)snprintf(le, sizeof le, "%.9g", (double)(UINT64_C(1) << i) / 1e6);
        } else if (i + 1 < STI_HISTOGRAM_BUCKETS) {
            (void)snprintf(le, sizeof le, "%" PRIu64, (UINT64_C(1) << i) - 1);
        }
        histogram_line(walk->text, name, "_bucket", labels, le);
        mpr_text_whole(walk->text, below);
        mpr_text_str(walk->text, "\n");
    }
    double sum = (double)totals->sum;
    histogram_line(walk->text, name, "_sum", labels, NULL);
    mpr_text_number(walk->text, seconds ? sum / 1e6 : sum);
    mpr_text_str(walk->text, "\n");
    histogram_line(walk->text, name, "_count", labels, NULL);
    mpr_text_whole(walk->text, below);
    mpr_text_str(walk->text, "\n");
}

void mpr_exposition(struct mpr_text *text, const struct sti_host *host)
{
    struct walk walk = {.text = text};
    const struct sti_metrics_visitor visitor = {
        .struct_size = sizeof visitor, .value = visit_value, .histogram = visit_histogram};
    host->metrics_visit(host->ctx, &visitor, &walk);
    mpr_process(text);
}
