/* figures.c -- see figures.h for the story. */
#include "figures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

struct mlg_known {
    struct mlg_known *next;
    double value;
    uint64_t visit; /* the last one that met it */
    char key[];
};

bool mlg_match(const char *pattern, const char *text)
{
    const char *star = NULL, *back = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            back = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++back;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

int mlg_figures_init(struct mlg_figures *figures, const char *const *match, size_t match_count,
                     size_t series_max)
{
    *figures =
        (struct mlg_figures){.match = match, .match_count = match_count, .series_max = series_max};
    figures->table = calloc(BUCKETS, sizeof(*figures->table));
    return figures->table == NULL ? STI_E_NO_MEMORY : STI_OK;
}

static void list_clear(struct mlg_figures *figures)
{
    for (size_t i = 0; i < figures->count; i++) {
        free(figures->list[i].key);
    }
    figures->count = 0;
    figures->left_out = 0;
}

void mlg_figures_fini(struct mlg_figures *figures)
{
    for (size_t i = 0; figures->table != NULL && i < BUCKETS; i++) {
        while (figures->table[i] != NULL) {
            struct mlg_known *known = figures->table[i];
            figures->table[i] = known->next;
            free(known);
        }
    }
    list_clear(figures);
    free(figures->list);
    free(figures->table);
}

static size_t hash(const char *key)
{
    uint64_t h = 14695981039346656037u;
    for (; *key != '\0'; key++) {
        h = (h ^ (unsigned char)*key) * 1099511628211u;
    }
    return (size_t)(h ^ (h >> 32)) % BUCKETS;
}

/* The series of that key, made when missing. @return NULL: no place, or no memory */
static struct mlg_known *known_of(struct mlg_figures *figures, const char *key, bool *fresh)
{
    struct mlg_known **bucket = &figures->table[hash(key)], *known = *bucket;
    while (known != NULL && strcmp(known->key, key) != 0) {
        known = known->next;
    }
    *fresh = known == NULL;
    if (known == NULL && figures->known < figures->series_max) {
        size_t len = strlen(key) + 1;
        known = malloc(sizeof *known + len);
        if (known != NULL) {
            memcpy(known->key, key, len);
            known->value = 0;
            known->next = *bucket;
            *bucket = known;
            figures->known++;
        }
    }
    if (known != NULL) {
        known->visit = figures->visit;
    }
    return known;
}

/* Series that this visit did not meet are gone. */
static void forget_old(struct mlg_figures *figures)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        struct mlg_known **at = &figures->table[i];
        while (*at != NULL) {
            struct mlg_known *known = *at;
            if (known->visit == figures->visit) {
                at = &known->next;
                continue;
            }
            *at = known->next;
            free(known);
            figures->known--;
        }
    }
}

static void list_put(struct mlg_figures *figures, const char *key, double value)
{
    if (figures->count == figures->capacity) {
        size_t capacity = figures->capacity == 0 ? 256 : figures->capacity * 2;
        struct mlg_figure *list = realloc(figures->list, capacity * sizeof *list);
        if (list == NULL) {
            figures->left_out++;
            return;
        }
        figures->list = list;
        figures->capacity = capacity;
    }
    char *copy = strdup(key);
    if (copy == NULL) {
        figures->left_out++;
        return;
    }
    figures->list[figures->count++] = (struct mlg_figure){.key = copy, .value = value};
}

static void take(struct mlg_figures *figures, bool grows, const char *key, double value)
{
    bool fresh;
    struct mlg_known *known = known_of(figures, key, &fresh);
    if (known == NULL) {
        figures->left_out++;
        return;
    }
    double before = known->value, tell = value;
    known->value = value;
    if (grows && value >= before) {
        tell = value - before;
    }
    bool quiet = fpclassify(tell) == FP_ZERO && (grows || fresh || fpclassify(before) == FP_ZERO);
    if (!quiet) {
        list_put(figures, key, tell);
    }
}

/* name, a suffix and labels as one key. @return false: left out */
static bool make_key(struct mlg_figures *figures, char key[MLG_KEY_MAX], const char *name,
                     const char *suffix, const char *labels)
{
    bool wanted = false, some = labels != NULL && labels[0] != '\0';
    for (size_t i = 0; i < figures->match_count && !wanted; i++) {
        wanted = mlg_match(figures->match[i], name);
    }
    if (!wanted) {
        return false;
    }
    int len = snprintf(key, MLG_KEY_MAX, "%s%s%s%s%s", name, suffix, some ? "{" : "",
                       some ? labels : "", some ? "}" : "");
    bool fits = len > 0 && len < MLG_KEY_MAX;
    figures->left_out += fits ? 0 : 1;
    return fits;
}

static void visit_value(void *arg, int type, const char *name, const char *labels, const char *help,
                        double value)
{
    char key[MLG_KEY_MAX];
    (void)help;
    if (make_key(arg, key, name, "", labels)) {
        take(arg, type == STI_METRIC_COUNTER, key, value);
    }
}

static void visit_histogram(void *arg, const char *name, const char *labels, const char *help,
                            const struct sti_histogram_totals *totals)
{
    char key[MLG_KEY_MAX];
    size_t len = strlen(name);
    bool seconds = len > 8 && strcmp(name + (len - 8), "_seconds") == 0;
    (void)help;
    if (make_key(arg, key, name, "_count", labels)) {
        take(arg, true, key, (double)totals->count);
    }
    if (make_key(arg, key, name, "_sum", labels)) {
        take(arg, true, key, seconds ? (double)totals->sum / 1e6 : (double)totals->sum);
    }
}

void mlg_figures_visit(struct mlg_figures *figures, const struct sti_host *host)
{
    const struct sti_metrics_visitor visitor = {
        .struct_size = sizeof visitor, .value = visit_value, .histogram = visit_histogram};
    list_clear(figures);
    figures->visit++;
    host->metrics_visit(host->ctx, &visitor, figures);
    forget_old(figures);
}
