/* metrics.c -- see metrics.h for the story. */
#include "kernel/metrics.h"

#include <ctype.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024, CACHE_LINE = 64, TEXT_MAX = 512 };

struct family;

/* One value. Its cells follow it, each on cache lines of its own: a struct sti_metric or a struct
 * sti_histogram, by the family's type. */
struct value {
    struct value *hash_next;           /* under mu                        */
    _Atomic(struct value *) list_next; /* in the family, oldest first     */
    struct family *family;
    char *labels;
};
_Static_assert(sizeof(struct value) <= CACHE_LINE, "cells begin on the next line");

struct family {
    _Atomic(struct family *) next;
    int type;
    char *name, *help;
    _Atomic(struct value *) first;
    struct value *last; /* under mu */
};

struct krn_metrics {
    pthread_mutex_t mu;
    pthread_mutex_t collect_mu; /* collectors; not held while one runs */
    pthread_cond_t collect_idle;
    struct sti_collector *collectors;
    bool collecting; /* a visit walks the list: nothing leaves it */
    struct value *buckets[BUCKETS];
    _Atomic(struct family *) first;
    struct family *last;
    size_t values_max;
    _Atomic size_t count, bytes;
    _Atomic uint64_t refused;
};

struct krn_metrics *krn_metrics_new(size_t values_max)
{
    struct krn_metrics *m = calloc(1, sizeof *m);
    if (m != NULL) {
        pthread_mutex_init(&m->mu, NULL);
        pthread_mutex_init(&m->collect_mu, NULL);
        pthread_cond_init(&m->collect_idle, NULL);
        m->values_max = values_max;
    }
    return m;
}

static void *cells_of(struct value *v)
{
    return (char *)v + CACHE_LINE;
}

static void value_free(struct value *v)
{
    if (v != NULL) {
        free(v->labels);
        free(v);
    }
}

static void family_free(struct family *f)
{
    if (f != NULL) {
        free(f->name);
        free(f->help);
        free(f);
    }
}

void krn_metrics_free(struct krn_metrics *m)
{
    if (m == NULL) {
        return;
    }
    struct family *f = atomic_load(&m->first);
    while (f != NULL) {
        struct family *next = atomic_load(&f->next);
        struct value *v = atomic_load(&f->first);
        while (v != NULL) {
            struct value *v_next = atomic_load(&v->list_next);
            value_free(v);
            v = v_next;
        }
        family_free(f);
        f = next;
    }
    pthread_mutex_destroy(&m->mu);
    pthread_mutex_destroy(&m->collect_mu);
    pthread_cond_destroy(&m->collect_idle);
    free(m);
}

static bool name_is_sound(const char *name)
{
    bool sound = name != NULL && (isalpha((unsigned char)name[0]) || name[0] == '_');
    for (const char *c = name; sound && *c != '\0'; c++) {
        sound = isalnum((unsigned char)*c) || *c == '_' || *c == ':';
    }
    return sound && strlen(name) <= TEXT_MAX;
}

static size_t hash(const char *name, const char *labels)
{
    uint64_t h = 14695981039346656037u;
    for (const char *c = name; *c != '\0'; c++) {
        h = (h ^ (unsigned char)*c) * 1099511628211u;
    }
    for (const char *c = labels; *c != '\0'; c++) {
        h = (h ^ (unsigned char)*c) * 1099511628211u;
    }
    return (size_t)(h ^ (h >> 32)) % BUCKETS;
}

/* @locks m->mu held */
static struct family *family_get(struct krn_metrics *m, int type, const char *name,
                                 const char *help)
{
    for (struct family *f = atomic_load(&m->first); f != NULL; f = atomic_load(&f->next)) {
        if (strcmp(f->name, name) == 0) {
            return f->type == type ? f : NULL;
        }
    }
    struct family *f = calloc(1, sizeof *f);
    if (f == NULL || (f->name = strdup(name)) == NULL ||
        (f->help = strdup(help == NULL ? "" : help)) == NULL) {
        family_free(f);
        return NULL;
    }
    f->type = type;
    if (m->last == NULL) {
        atomic_store_explicit(&m->first, f, memory_order_release);
    } else {
        atomic_store_explicit(&m->last->next, f, memory_order_release);
    }
    m->last = f;
    return f;
}

/* @locks m->mu held */
static struct value *value_add(struct krn_metrics *m, int type, const char *name,
                               const char *labels, const char *help, size_t bucket)
{
    if (atomic_load(&m->count) >= m->values_max) {
        return NULL;
    }
    struct family *f = family_get(m, type, name, help);
    size_t size = CACHE_LINE + (type == STI_METRIC_HISTOGRAM ? sizeof(struct sti_histogram)
                                                             : sizeof(struct sti_metric));
    struct value *v = f == NULL ? NULL : aligned_alloc(CACHE_LINE, size);
    if (v == NULL) {
        return NULL;
    }
    memset(v, 0, size);
    v->labels = strdup(labels);
    if (v->labels == NULL) {
        value_free(v);
        return NULL;
    }
    v->family = f;
    v->hash_next = m->buckets[bucket];
    m->buckets[bucket] = v;
    if (f->last == NULL) {
        atomic_store_explicit(&f->first, v, memory_order_release);
    } else {
        atomic_store_explicit(&f->last->list_next, v, memory_order_release);
    }
    f->last = v;
    atomic_fetch_add(&m->count, 1);
    atomic_fetch_add(&m->bytes, size);
    return v;
}

static struct value *value_get(struct krn_metrics *m, int type, const char *name,
                               const char *labels, const char *help)
{
    const char *text = labels == NULL ? "" : labels;
    if (!name_is_sound(name) || strlen(text) > TEXT_MAX) {
        atomic_fetch_add(&m->refused, 1);
        return NULL;
    }
    size_t bucket = hash(name, text);
    pthread_mutex_lock(&m->mu);
    struct value *v = m->buckets[bucket];
    while (v != NULL && (strcmp(v->family->name, name) != 0 || strcmp(v->labels, text) != 0)) {
        v = v->hash_next;
    }
    if (v == NULL) {
        v = value_add(m, type, name, text, help, bucket);
    } else if (v->family->type != type) {
        v = NULL;
    }
    pthread_mutex_unlock(&m->mu);
    if (v == NULL) {
        atomic_fetch_add(&m->refused, 1);
    }
    return v;
}

struct sti_metric *krn_metrics_value(struct krn_metrics *m, int type, const char *name,
                                     const char *labels, const char *help)
{
    if (type != STI_METRIC_COUNTER && type != STI_METRIC_GAUGE) {
        atomic_fetch_add(&m->refused, 1);
        return NULL;
    }
    struct value *v = value_get(m, type, name, labels, help);
    return v == NULL ? NULL : cells_of(v);
}

struct sti_histogram *krn_metrics_histogram(struct krn_metrics *m, const char *name,
                                            const char *labels, const char *help)
{
    struct value *v = value_get(m, STI_METRIC_HISTOGRAM, name, labels, help);
    return v == NULL ? NULL : cells_of(v);
}

uint64_t krn_metrics_sum(const struct sti_metric *metric)
{
    uint64_t sum = 0;
    for (unsigned i = 0; metric != NULL && i < STI_METRIC_SHARDS; i++) {
        sum += __atomic_load_n(&metric->cells[i].value, __ATOMIC_RELAXED);
    }
    return sum;
}

void krn_metrics_totals(const struct sti_histogram *histogram, struct sti_histogram_totals *out)
{
    *out = (struct sti_histogram_totals){0};
    for (unsigned i = 0; histogram != NULL && i < STI_METRIC_SHARDS; i++) {
        const struct sti_histogram_cell *cell = &histogram->cells[i];
        out->sum += __atomic_load_n(&cell->sum, __ATOMIC_RELAXED);
        for (unsigned b = 0; b < STI_HISTOGRAM_BUCKETS; b++) {
            uint64_t n = __atomic_load_n(&cell->buckets[b], __ATOMIC_RELAXED);
            out->buckets[b] += n;
            out->count += n;
        }
    }
}

/* A gauge that was moved down below zero shows so. */
static double as_number(int type, const struct sti_metric *metric)
{
    uint64_t sum = krn_metrics_sum(metric);
    return type == STI_METRIC_GAUGE ? (double)(int64_t)sum : (double)sum;
}

/* ---- collectors ---------------------------------------------------------------------------- */

void krn_metrics_collector_add(struct krn_metrics *m, struct sti_collector *collector)
{
    pthread_mutex_lock(&m->collect_mu);
    collector->next = m->collectors;
    m->collectors = collector;
    pthread_mutex_unlock(&m->collect_mu);
}

void krn_metrics_collector_remove(struct krn_metrics *m, struct sti_collector *collector)
{
    pthread_mutex_lock(&m->collect_mu);
    while (m->collecting) {
        pthread_cond_wait(&m->collect_idle, &m->collect_mu);
    }
    for (struct sti_collector **at = &m->collectors; *at != NULL; at = &(*at)->next) {
        if (*at == collector) {
            *at = collector->next;
            break;
        }
    }
    pthread_mutex_unlock(&m->collect_mu);
}

/* One visit at a time; others wait for their turn. */
static void collect(struct krn_metrics *m, const struct sti_metrics_visitor *visitor, void *arg)
{
    pthread_mutex_lock(&m->collect_mu);
    while (m->collecting) {
        pthread_cond_wait(&m->collect_idle, &m->collect_mu);
    }
    m->collecting = true;
    struct sti_collector *c = m->collectors;
    pthread_mutex_unlock(&m->collect_mu);
    for (; c != NULL; c = c->next) {
        c->collect(c, visitor, arg);
    }
    pthread_mutex_lock(&m->collect_mu);
    m->collecting = false;
    pthread_cond_broadcast(&m->collect_idle);
    pthread_mutex_unlock(&m->collect_mu);
}

/* ---- visiting ------------------------------------------------------------------------------ */

static void visit_family(struct family *f, const struct sti_metrics_visitor *visitor, void *arg)
{
    struct value *v = atomic_load_explicit(&f->first, memory_order_acquire);
    for (; v != NULL; v = atomic_load_explicit(&v->list_next, memory_order_acquire)) {
        if (f->type == STI_METRIC_HISTOGRAM && visitor->histogram != NULL) {
            struct sti_histogram_totals totals;
            krn_metrics_totals(cells_of(v), &totals);
            visitor->histogram(arg, f->name, v->labels, f->help, &totals);
        } else if (f->type != STI_METRIC_HISTOGRAM && visitor->value != NULL) {
            visitor->value(arg, f->type, f->name, v->labels, f->help,
                           as_number(f->type, cells_of(v)));
        }
    }
}

void krn_metrics_visit(struct krn_metrics *m, const struct sti_metrics_visitor *visitor, void *arg)
{
    collect(m, visitor, arg);
    struct family *f = atomic_load_explicit(&m->first, memory_order_acquire);
    for (; f != NULL; f = atomic_load_explicit(&f->next, memory_order_acquire)) {
        visit_family(f, visitor, arg);
    }
}

size_t krn_metrics_count(struct krn_metrics *m)
{
    return atomic_load(&m->count);
}

uint64_t krn_metrics_refused(struct krn_metrics *m)
{
    return atomic_load(&m->refused);
}

size_t krn_metrics_bytes(struct krn_metrics *m)
{
    return sizeof *m + atomic_load(&m->bytes);
}
