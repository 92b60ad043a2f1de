/* test_figures.c -- what is told of a visit: growth, levels, bounds, patterns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "figures.h"

struct series {
    int type;
    const char *name, *labels;
    double value;
};

static struct series *series;
static struct sti_histogram_totals totals;

static void fake_visit(void *ctx, const struct sti_metrics_visitor *visitor, void *arg)
{
    (void)ctx;
    for (const struct series *s = series; s->name != NULL; s++) {
        if (s->type == STI_METRIC_HISTOGRAM) {
            visitor->histogram(arg, s->name, s->labels, "H.", &totals);
        } else {
            visitor->value(arg, s->type, s->name, s->labels, "V.", s->value);
        }
    }
}

static const struct sti_host host = {.struct_size = sizeof host, .metrics_visit = fake_visit};

/* The figures of a visit in one text. */
static const char *told(struct mlg_figures *figures)
{
    static char out[4096];
    out[0] = '\0';
    mlg_figures_visit(figures, &host);
    for (size_t i = 0; i < figures->count; i++) {
        size_t used = strlen(out);
        snprintf(out + used, sizeof out - used, "%s=%g ", figures->list[i].key,
                 figures->list[i].value);
    }
    return out;
}

static const char *const all[] = {"*"};

static void test_what_is_told(void **state)
{
    struct series now[] = {{STI_METRIC_COUNTER, "c_total", "t=\"a\"", 5},
                           {STI_METRIC_COUNTER, "still_total", NULL, 0},
                           {STI_METRIC_GAUGE, "g", "", -3},
                           {STI_METRIC_GAUGE, "zero", NULL, 0},
                           {STI_METRIC_HISTOGRAM, "h_seconds", NULL, 0},
                           {0, NULL, NULL, 0}};
    struct mlg_figures figures;
    (void)state;
    series = now;
    totals = (struct sti_histogram_totals){.count = 2, .sum = 1500000};
    assert_int_equal(mlg_figures_init(&figures, all, 1, 100), STI_OK);
    assert_string_equal(told(&figures),
                        "c_total{t=\"a\"}=5 g=-3 h_seconds_count=2 h_seconds_sum=1.5 ");
    now[0].value = 12;
    now[2].value = 0; /* that it fell to 0 is told once */
    totals.count = 3;
    assert_string_equal(told(&figures), "c_total{t=\"a\"}=7 g=0 h_seconds_count=1 ");
    assert_string_equal(told(&figures), "");
    now[0].value = 4; /* begun anew */
    assert_string_equal(told(&figures), "c_total{t=\"a\"}=4 ");
    mlg_figures_fini(&figures);
}

static void test_bounds(void **state)
{
    struct series now[] = {{STI_METRIC_COUNTER, "a_total", NULL, 1},
                           {STI_METRIC_COUNTER, "b_total", NULL, 1},
                           {STI_METRIC_COUNTER, "c_total", NULL, 1},
                           {0, NULL, NULL, 0}};
    struct mlg_figures figures;
    (void)state;
    series = now;
    assert_int_equal(mlg_figures_init(&figures, all, 1, 2), STI_OK);
    assert_string_equal(told(&figures), "a_total=1 b_total=1 ");
    assert_int_equal(figures.left_out, 1);
    /* Whoever goes leaves a place. */
    series = now + 1;
    (void)told(&figures);
    assert_string_equal(told(&figures), "c_total=1 ");
    assert_int_equal(figures.left_out, 0);
    char labels[MLG_KEY_MAX + 1];
    memset(labels, 'x', sizeof labels - 1);
    labels[sizeof labels - 1] = '\0';
    now[1].labels = labels;
    (void)told(&figures);
    assert_int_equal(figures.left_out, 1);
    mlg_figures_fini(&figures);
}

static void test_match(void **state)
{
    static const char *const two[] = {"streamit_produce_*", "*_depth"};
    struct series now[] = {{STI_METRIC_COUNTER, "streamit_produce_x_total", NULL, 1},
                           {STI_METRIC_GAUGE, "queue_depth", NULL, 2},
                           {STI_METRIC_GAUGE, "queue_depth_max", NULL, 3},
                           {0, NULL, NULL, 0}};
    struct mlg_figures figures;
    (void)state;
    series = now;
    assert_int_equal(mlg_figures_init(&figures, two, 2, 100), STI_OK);
    assert_string_equal(told(&figures), "streamit_produce_x_total=1 queue_depth=2 ");
    mlg_figures_fini(&figures);
    static const struct {
        const char *pattern, *text;
        bool match;
    } rows[] = {{"", "", true},        {"", "a", false},       {"*", "", true},
                {"a*", "abc", true},   {"*c", "abc", true},    {"a?c", "abc", true},
                {"a?c", "ac", false},  {"*b*", "abc", true},   {"a*b*c", "axxbxxc", true},
                {"a*b", "abc", false}, {"**a**", "bab", true}, {"abc", "ab", false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (mlg_match(rows[i].pattern, rows[i].text) != rows[i].match) {
            fail_msg("%s on %s", rows[i].pattern, rows[i].text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_told),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
