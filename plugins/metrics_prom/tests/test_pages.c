/* test_pages.c -- exposition, read back strictly, and the states of /ready, without HTTP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "fake_host.h"
#include "pages.h"
#include "promtext.h"

static struct prom_text parsed;

static int setup(void **state)
{
    (void)state;
    fake_reset();
    return 0;
}

static void parse_metrics(void)
{
    struct mpr_page page;
    mpr_page_make(&page, &fake.host, "GET", "/metrics");
    assert_int_equal(page.status, 200);
    assert_string_equal(page.content_type, "text/plain; version=0.0.4; charset=utf-8");
    if (!prom_parse(&parsed, page.body.data, page.body.len)) {
        fail_msg("%s", parsed.error);
    }
    mpr_text_fini(&page.body);
}

#define assert_value(name, labels, expected)                                                       \
    assert_float_equal((float)prom_value(&parsed, name, labels), (float)(expected), 0.0)

static void test_values(void **state)
{
    (void)state;
    static const struct fake_metric metrics[] = {
        {STI_METRIC_COUNTER, "a_total", "acks=\"leader\"", "Requests.", 3, NULL},
        {STI_METRIC_COUNTER, "a_total", "acks=\"quorum\"", "Requests.", 4, NULL},
        {STI_METRIC_COUNTER, "b", NULL, "Unnamed total.", 5, NULL},
        {STI_METRIC_GAUGE, "c", "", "Back\\slash\nand line.", -1.5, NULL},
        {STI_METRIC_GAUGE, "d", NULL, "", 9007199254740991.0, NULL},
        {STI_METRIC_GAUGE, "e", "l=\"quote \\\" and \\\\\"", NULL, 1e300, NULL},
        {0, NULL, NULL, NULL, 0, NULL}};
    fake.metrics = metrics;
    parse_metrics();
    assert_value("a_total", "acks=\"leader\"", 3);
    assert_value("a_total", "acks=\"quorum\"", 4);
    assert_value("b_total", "", 5);
    assert_value("c", "", -1.5);
    assert_true(prom_value(&parsed, "d", "") >= 9007199254740991.0);
    assert_true(prom_value(&parsed, "e", "l=\"quote \\\" and \\\\\"") >= 1e300);
    assert_string_equal(prom_family_of(&parsed, "c")->help, "Back\\\\slash\\nand line.");
    assert_string_equal(prom_family_of(&parsed, "b_total")->type, "counter");
    assert_string_equal(prom_family_of(&parsed, "d")->help, "");
}

static void test_odd_numbers(void **state)
{
    (void)state;
    static struct fake_metric metrics[] = {{STI_METRIC_GAUGE, "nan", NULL, "h", 0, NULL},
                                           {STI_METRIC_GAUGE, "up", NULL, "h", 0, NULL},
                                           {STI_METRIC_GAUGE, "down", NULL, "h", 0, NULL},
                                           {0, NULL, NULL, NULL, 0, NULL}};
    metrics[0].value = (double)NAN;
    metrics[1].value = (double)INFINITY;
    metrics[2].value = (double)-INFINITY;
    fake.metrics = metrics;
    parse_metrics();
    assert_true(isnan(prom_value(&parsed, "nan", "")));
    assert_true(isinf(prom_value(&parsed, "up", "")) && prom_value(&parsed, "up", "") > 0);
    assert_true(isinf(prom_value(&parsed, "down", "")) && prom_value(&parsed, "down", "") < 0);
}

static void test_histograms(void **state)
{
    (void)state;
    static struct sti_histogram bytes, times;
    memset(&bytes, 0, sizeof bytes);
    memset(&times, 0, sizeof times);
    static const struct fake_metric metrics[] = {
        {STI_METRIC_HISTOGRAM, "batch_bytes", "topic=\"t\"", "Sizes.", 0, &bytes},
        {STI_METRIC_HISTOGRAM, "wait_seconds", NULL, "Times.", 0, &times},
        {0, NULL, NULL, NULL, 0, NULL}};
    fake.metrics = metrics;
    const uint64_t values[] = {0, 1, 2, 3, 4, 1000, UINT64_C(1) << 40};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        sti_histogram_record(&bytes, values[i]);
    }
    sti_histogram_record(&times, 1500000);
    parse_metrics();
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"0\"", 1);
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"1\"", 2);
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"3\"", 4);
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"7\"", 5);
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"1023\"", 6);
    assert_value("batch_bytes_bucket", "topic=\"t\",le=\"+Inf\"", 7);
    assert_value("batch_bytes_count", "topic=\"t\"", 7);
    assert_value("wait_seconds_sum", "", 1.5);
    assert_value("wait_seconds_bucket", "le=\"1.048576\"", 0);
    assert_value("wait_seconds_bucket", "le=\"2.097152\"", 1);
    assert_value("wait_seconds_count", "", 1);
}

static void test_process(void **state)
{
    (void)state;
    parse_metrics();
    assert_true(prom_value(&parsed, "process_cpu_seconds_total", "") >= 0);
    assert_true(prom_value(&parsed, "process_resident_memory_bytes", "") > 100000);
    assert_true(prom_value(&parsed, "process_anonymous_memory_bytes", "") > 1000);
    assert_true(prom_value(&parsed, "process_virtual_memory_bytes", "") > 100000);
    assert_true(prom_value(&parsed, "process_open_fds", "") >= 1);
    assert_true(prom_value(&parsed, "process_max_fds", "") >= 3);
    assert_true(prom_value(&parsed, "process_threads", "") >= 1);
    assert_true(prom_value(&parsed, "process_start_time_seconds", "") > 1e9);
}

/* The body and status of a path. */
static void check_page(const char *method, const char *path, unsigned status, const char *body)
{
    struct mpr_page page;
    mpr_page_make(&page, &fake.host, method, path);
    assert_int_equal(page.status, status);
    assert_string_equal(page.body.data, body);
    mpr_text_fini(&page.body);
}

static void test_ready_follows_the_state(void **state)
{
    (void)state;
    check_page("GET", "/ready", 200,
               "{\"status\":\"ready\",\"state\":\"ready\",\"conditions\":[]}\n");
    fake.state = STI_NODE_STARTING;
    check_page("GET", "/ready", 503,
               "{\"status\":\"not_ready\",\"state\":\"starting\",\"conditions\":[]}\n");
    check_page("GET", "/live", 200, "live\n");
    fake.state = STI_NODE_DRAINING;
    check_page("GET", "/ready", 503,
               "{\"status\":\"not_ready\",\"state\":\"draining\",\"conditions\":[]}\n");
    fake.state = STI_NODE_STOPPED;
    check_page("GET", "/ready", 503,
               "{\"status\":\"not_ready\",\"state\":\"stopped\",\"conditions\":[]}\n");
}

static void test_ready_lists_conditions(void **state)
{
    (void)state;
    static struct fake_condition conditions[] = {
        {"storage_mmap", "disk", STI_HEALTH_DEGRADED, "full at \"/data\"\n"},
        {"x", "fine", STI_HEALTH_OK, ""},
        {NULL, NULL, 0, NULL},
        {NULL, NULL, 0, NULL}};
    fake.conditions = conditions;
    check_page("GET", "/ready", 200,
               "{\"status\":\"degraded\",\"state\":\"ready\",\"conditions\":[{\"instance\":"
               "\"storage_mmap\",\"condition\":\"disk\",\"level\":\"degraded\",\"detail\":"
               "\"full at \\\"/data\\\"\\u000a\"}]}\n");
    conditions[2] = (struct fake_condition){"m", "metadata", STI_HEALTH_NOT_READY, NULL};
    check_page("GET", "/ready", 503,
               "{\"status\":\"not_ready\",\"state\":\"ready\",\"conditions\":[{\"instance\":"
               "\"storage_mmap\",\"condition\":\"disk\",\"level\":\"degraded\",\"detail\":"
               "\"full at \\\"/data\\\"\\u000a\"},{\"instance\":\"m\",\"condition\":\"metadata\","
               "\"level\":\"not_ready\",\"detail\":null}]}\n");
}

static void test_version(void **state)
{
    (void)state;
    char expected[256];
    snprintf(expected, sizeof expected,
             "{\"name\":\"streamit\",\"version\":\"1.2.3\",\"commit\":\"0123456789ab\",\"abi\":\"%"
             "d.%d\",\"node_id\":7,"
             "\"cluster_id\":\"0123456789abcdef0123456789abcdef\",\"uptime_seconds\":1.500}\n",
             STI_ABI_MAJOR, STI_ABI_MINOR);
    check_page("GET", "/version", 200, expected);
}

static void test_unknown_paths_and_methods(void **state)
{
    (void)state;
    const char *const paths[] = {"/", "", "/metrics/", "/METRICS", "/readyz", "/../live"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        check_page("GET", paths[i], 404,
                   "There is nothing here. This server knows /metrics, /live, /ready and "
                   "/version.\n");
    }
    check_page("POST", "/metrics", 405, "Only GET and HEAD are answered.\n");
    check_page("get", "/live", 405, "Only GET and HEAD are answered.\n");
    check_page("HEAD", "/live", 200, "live\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_values, setup),
        cmocka_unit_test_setup(test_odd_numbers, setup),
        cmocka_unit_test_setup(test_histograms, setup),
        cmocka_unit_test_setup(test_process, setup),
        cmocka_unit_test_setup(test_ready_follows_the_state, setup),
        cmocka_unit_test_setup(test_ready_lists_conditions, setup),
        cmocka_unit_test_setup(test_version, setup),
        cmocka_unit_test_setup(test_unknown_paths_and_methods, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
