/* test_template.c -- the template, built by its own Makefile, loaded and led through its life. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/metrics.h"
#include "streamit/plugin.h"
#include "test_host.h"

static void *library;
static const struct sti_plugin *plugin;

static int load(void **state)
{
    (void)state;
    library = dlopen(TEMPLATE_SO, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        print_error("%s\n", dlerror());
        return 1;
    }
    plugin = dlsym(library, "sti_plugin");
    return plugin == NULL;
}

static int unload(void **state)
{
    (void)state;
    return dlclose(library);
}

static void test_descriptor(void **state)
{
    (void)state;
    assert_int_equal(plugin->magic, STI_PLUGIN_MAGIC);
    assert_int_equal(plugin->struct_size, sizeof(struct sti_plugin));
    assert_int_equal(plugin->abi_major, STI_ABI_MAJOR);
    assert_true(plugin->abi_minor <= STI_ABI_MINOR);
    assert_string_equal(plugin->name, "heartbeat");
    assert_string_equal(plugin->options[0]->key, "interval_ms");
    assert_null(plugin->options[1]);
    assert_int_equal(plugin->conf_size, sizeof(int64_t));
    assert_string_equal(plugin->provides[0]->id, STI_METRICS_ID);
}

static void keep_line(void *arg, const char *text, size_t len)
{
    char *line = arg;
    assert_true(len < 64);
    memcpy(line, text, len);
    line[len] = '\0';
}

static unsigned long beats_told(void *self)
{
    char line[64] = "";
    const struct sti_metrics *metrics =
        (const struct sti_metrics *)(const void *)plugin->provides[0];
    assert_int_equal(metrics->export_now(self, keep_line, line, NULL), STI_OK);
    assert_memory_equal(line, "beats ", 6);
    return strtoul(line + 6, NULL, 10);
}

static void test_life(void **state)
{
    (void)state;
    int64_t interval_ms = 1;
    void *self;
    struct sti_err err;
    char *dir = test_dir_new("template");
    struct test_host *th = test_host_new(dir, 2);
    const struct sti_host *host = test_host_for(th, "heartbeat");
    assert_int_equal(plugin->life->create(host, &interval_ms, &self, &err), STI_OK);
    assert_int_equal(beats_told(self), 0);
    assert_int_equal(plugin->life->start(self, &err), STI_OK);
    assert_int_equal(test_host_logged(th, "heartbeat_started"), 1);
    while (beats_told(self) < 3) {
        test_host_settle(th, NULL);
    }
    interval_ms = 3600000;
    assert_int_equal(plugin->life->reload(self, &interval_ms, &err), STI_OK);
    assert_int_equal(plugin->life->stop(self, 1000, &err), STI_OK);
    unsigned long beats = beats_told(self);
    assert_true(beats >= 3);
    assert_int_equal(test_host_metric(th, "heartbeat_beats_total", NULL), beats);
    plugin->life->destroy(self);
    test_host_free(th);
    test_dir_remove(dir);
}

static void test_create_and_destroy_alone(void **state)
{
    (void)state;
    int64_t interval_ms = 1;
    void *self;
    char *dir = test_dir_new("template");
    struct test_host *th = test_host_new(dir, 2);
    const struct sti_host *host = test_host_for(th, "heartbeat");
    assert_int_equal(plugin->life->create(host, &interval_ms, &self, NULL), STI_OK);
    plugin->life->destroy(self);
    assert_int_equal(test_host_metric(th, "heartbeat_beats_total", NULL), 0);
    test_host_free(th);
    test_dir_remove(dir);
}

/* Stop right behind start, many times over: the timer may be armed, posted or running. */
static void test_stop_at_any_moment(void **state)
{
    (void)state;
    int64_t interval_ms = 1;
    char *dir = test_dir_new("template");
    struct test_host *th = test_host_new(dir, 2);
    const struct sti_host *host = test_host_for(th, "heartbeat");
    for (int i = 0; i < 200; i++) {
        void *self;
        assert_int_equal(plugin->life->create(host, &interval_ms, &self, NULL), STI_OK);
        assert_int_equal(plugin->life->start(self, NULL), STI_OK);
        for (int j = 0; j < i; j++) {
            test_host_settle(th, NULL);
        }
        assert_int_equal(plugin->life->stop(self, 1000, NULL), STI_OK);
        plugin->life->destroy(self);
    }
    test_host_free(th);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_create_and_destroy_alone),
        cmocka_unit_test(test_stop_at_any_moment),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
