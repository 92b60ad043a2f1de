/* test_lifecycle.c -- whole nodes of built-in plugins: order, cycles, unwinding, reload, deadline.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/node.h"
#include "test_host.h"

/* ---- plugins that write down what is done to them ------------------------------------------- */

static char story[2048];

static void tell(const char *what, const char *who)
{
    size_t used = strlen(story);
    snprintf(story + used, sizeof story - used, "%s%s %s", used == 0 ? "" : ", ", what, who);
}

struct actor_conf {
    int64_t level, size;
};

struct actor {
    const struct sti_host *host;
    int64_t level, size;
};

static const char *fail_create, *fail_start, *hang_in_stop, *fail_reload;
static int fail_stop;

static bool is(const char *who, const struct actor *actor)
{
    return who != NULL && strcmp(actor->host->instance, who) == 0;
}

static int actor_create(const struct sti_host *host, const void *conf, void **self,
                        struct sti_err *err)
{
    struct actor *actor = calloc(1, sizeof *actor);
    actor->host = host;
    if (is(fail_create, actor)) {
        free(actor);
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "I do not like it");
    }
    const struct actor_conf *c = conf;
    actor->level = c->level;
    actor->size = c->size;
    struct sti_binding binding;
    assert_int_equal(host->bind(host->ctx, "test.a", NULL, 0, 0, &binding, NULL),
                     STI_E_PRECONDITION);
    tell("create", host->instance);
    *self = actor;
    return STI_OK;
}

static int actor_start(void *self, struct sti_err *err)
{
    struct actor *actor = self;
    if (is(fail_start, actor)) {
        return sti_err_set(err, STI_E_IO, "the port is taken");
    }
    tell("start", actor->host->instance);
    actor->host->announce(actor->host->ctx, "127.0.0.1:1");
    return STI_OK;
}

static int actor_reload(void *self, const void *conf, struct sti_err *err)
{
    struct actor *actor = self;
    const struct actor_conf *c = conf;
    if (is(fail_reload, actor)) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "not now");
    }
    actor->level = c->level;
    assert_int_equal(c->size, actor->size); /* not reloadable: as it was */
    tell(c->level == 7 ? "reload-7" : "reload", actor->host->instance);
    return STI_OK;
}

static int actor_drain(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct actor *actor = self;
    (void)err;
    assert_true(deadline_ms <= 10000);
    tell("drain", actor->host->instance);
    return STI_OK;
}

static int actor_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct actor *actor = self;
    (void)deadline_ms;
    while (is(hang_in_stop, actor)) {
        pause();
    }
    tell("stop", actor->host->instance);
    return fail_stop == 0 ? STI_OK : sti_err_set(err, STI_E_TIMED_OUT, "a thread still runs");
}

static void actor_destroy(void *self)
{
    struct actor *actor = self;
    tell("destroy", actor->host->instance);
    free(actor);
}

static const struct sti_lifecycle life = {.struct_size = sizeof(struct sti_lifecycle),
                                          .create = actor_create,
                                          .start = actor_start,
                                          .reload = actor_reload,
                                          .drain = actor_drain,
                                          .stop = actor_stop,
                                          .destroy = actor_destroy};
static const struct sti_option o_level = {.struct_size = sizeof(struct sti_option),
                                          .key = "level",
                                          .type = STI_OPT_INT,
                                          .def = "1",
                                          .offset = offsetof(struct actor_conf, level),
                                          .flags = STI_OPT_RELOADABLE,
                                          .help = "Level."};
static const struct sti_option o_size = {.struct_size = sizeof(struct sti_option),
                                         .key = "size",
                                         .type = STI_OPT_INT,
                                         .def = "1",
                                         .offset = offsetof(struct actor_conf, size),
                                         .help = "Size."};
static const struct sti_option *const options[] = {&o_level, &o_size, NULL};

static const struct sti_iface if_a = {.struct_size = sizeof(struct sti_iface), .id = "test.a"};
static const struct sti_iface if_b = {
    .struct_size = sizeof(struct sti_iface), .id = "test.b", .minor = 1, .caps = 1};
static const struct sti_iface *const provides_a[] = {&if_a, NULL};
static const struct sti_iface *const provides_b[] = {&if_b, NULL};
#define NEED(name, id, ...)                                                                        \
    static const struct sti_requirement name##_row = {                                             \
        .struct_size = sizeof(struct sti_requirement), .iface = id, __VA_ARGS__};                  \
    static const struct sti_requirement *const name[] = {&name##_row, NULL}
NEED(need_a, "test.a", .minor = 0);
NEED(need_b, "test.b", .minor = 1);
NEED(need_b_later, "test.b", .minor = 4);
NEED(need_b_caps, "test.b", .caps = 3);
#define PLUGIN(id, n, p, ...)                                                                      \
    static const struct sti_plugin id = {.magic = STI_PLUGIN_MAGIC,                                \
                                         .struct_size = sizeof(struct sti_plugin),                 \
                                         .abi_major = STI_ABI_MAJOR,                               \
                                         .abi_minor = STI_ABI_MINOR,                               \
                                         .name = #id,                                              \
                                         .version = "1",                                           \
                                         .license = "Apache-2.0",                                  \
                                         .summary = "An actor",                                    \
                                         .options = options,                                       \
                                         .conf_size = sizeof(struct actor_conf),                   \
                                         .needs = n,                                               \
                                         .provides = p,                                            \
                                         .life = &life,                                            \
                                         __VA_ARGS__}
PLUGIN(top, need_b, NULL, .flags = 0);
PLUGIN(middle, need_a, provides_b, .flags = 0);
PLUGIN(base, NULL, provides_a, .flags = 0);
PLUGIN(ring, need_b, provides_a, .flags = 0);
PLUGIN(late, need_b_later, NULL, .flags = 0);
PLUGIN(greedy, need_b_caps, NULL, .flags = 0);
PLUGIN(extra, need_a, NULL, .flags = STI_PLUGIN_OPTIONAL);

#define PLUGINS(...)                                                                               \
    (const struct sti_plugin *const[])                                                             \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* ---- a node in a folder of its own ----------------------------------------------------------- */

static char *dir, config_path[512], data_set[512];
static struct krn_log *log_;
static int null_fd;

static void write_config(const char *text)
{
    FILE *file = fopen(config_path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int open_node(const struct sti_plugin *const *builtins, struct krn_node **node,
                     struct sti_err *err)
{
    static const char *sets[1];
    sets[0] = data_set;
    struct krn_node_args args = {.config_path = config_path,
                                 .sets = sets,
                                 .set_count = 1,
                                 .builtins = builtins,
                                 .log = log_};
    story[0] = '\0';
    return krn_node_open(&args, node, err);
}

static void expect_refused(const struct sti_plugin *const *builtins, int code, const char *text)
{
    struct krn_node *node;
    struct sti_err err = {0};
    assert_int_equal(open_node(builtins, &node, &err), code);
    assert_string_equal(err.msg, text);
    assert_null(node);
    assert_string_equal(story, "");
}

static void test_order(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    assert_int_equal(open_node(PLUGINS(&top, &middle, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_OK);
    assert_string_equal(story, "create base, create middle, create top, "
                               "start base, start middle, start top");
    story[0] = '\0';
    assert_int_equal(krn_node_stop(node, &err), STI_OK);
    assert_string_equal(story, "drain top, drain middle, drain base, stop top, stop middle, "
                               "stop base, destroy top, destroy middle, destroy base");
    krn_node_free(node);
}

static void test_check_touches_nothing(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    char data[600];
    struct stat st;
    snprintf(data, sizeof data, "%s", strchr(data_set, '=') + 1);
    test_dir_remove(strdup(data));
    assert_int_equal(open_node(PLUGINS(&top, &middle, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_check(node, &err), STI_OK);
    assert_string_equal(story, "create base, create middle, create top, "
                               "destroy top, destroy middle, destroy base");
    krn_node_free(node);
    assert_int_not_equal(stat(data, &st), 0);
}

static void test_requirements(void **state)
{
    (void)state;
    expect_refused(PLUGINS(&middle, &ring, &top), STI_E_PLUGIN_REFUSED,
                   "cycle of requirements: 'middle' needs test.a of 'ring', 'ring' needs test.b of "
                   "'middle'");
    expect_refused(PLUGINS(&top), STI_E_PLUGIN_REFUSED,
                   "'top' (built in) needs test.b 0.1, and no instance provides it: add one to "
                   "plugins");
    expect_refused(PLUGINS(&base, &middle, &late), STI_E_ABI_MISMATCH,
                   "'late' (built in) needs test.b 0.4 or later, 'middle' (built in) provides "
                   "0.1: rebuild the older of the two");
    expect_refused(PLUGINS(&base, &middle, &greedy), STI_E_PLUGIN_REFUSED,
                   "'greedy' (built in) needs test.b with caps 0x3, 'middle' (built in) "
                   "provides 0x1: choose another plugin");
}

static void test_failed_create_unwinds(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    fail_create = "top";
    assert_int_equal(open_node(PLUGINS(&top, &middle, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_E_CONFIG);
    fail_create = NULL;
    assert_string_equal(err.msg, "top (built in): create: I do not like it");
    assert_string_equal(story, "create base, create middle, destroy middle, destroy base");
    krn_node_free(node);
}

static void test_failed_start_unwinds(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    fail_start = "middle";
    assert_int_equal(open_node(PLUGINS(&top, &middle, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_E_IO);
    fail_start = NULL;
    assert_string_equal(err.msg, "middle (built in): start: the port is taken");
    assert_string_equal(story, "create base, create middle, create top, start base, drain base, "
                               "stop base, destroy top, destroy middle, destroy base");
    krn_node_free(node);
    /* the data folder is free again */
    assert_int_equal(open_node(PLUGINS(&base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_OK);
    assert_int_equal(krn_node_stop(node, &err), STI_OK);
    krn_node_free(node);
}

static void test_optional_is_left_out(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    fail_start = "extra";
    assert_int_equal(open_node(PLUGINS(&extra, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_OK);
    fail_start = NULL;
    assert_string_equal(story, "create base, create extra, start base, destroy extra");
    assert_int_equal(krn_node_stop(node, &err), STI_OK);
    krn_node_free(node);
}

static void test_reload(void **state)
{
    (void)state;
    struct krn_node *node;
    struct sti_err err = {0};
    write_config("base: { level = 1; size = 5; };\n");
    assert_int_equal(open_node(PLUGINS(&middle, &base), &node, &err), STI_OK);
    assert_int_equal(krn_node_start(node, &err), STI_OK);
    story[0] = '\0';
    assert_int_equal(krn_node_reload(node, &err), STI_OK);
    assert_string_equal(story, ""); /* nothing has changed */
    write_config("base: { level = 7; size = 6; };\n");
    assert_int_equal(krn_node_reload(node, &err), STI_OK);
    assert_string_equal(story, "reload-7 base");
    write_config("base: { level = 8; };\nmiddle: { level = \"x\"; };\n");
    assert_int_equal(krn_node_reload(node, &err), STI_E_CONFIG);
    assert_string_equal(story, "reload-7 base"); /* refused as a whole */
    write_config("base: { level = 9; };\nmiddle: { level = 7; };\n");
    fail_reload = "base";
    assert_int_equal(krn_node_reload(node, &err), STI_E_UNAVAILABLE);
    assert_string_equal(err.msg, "base (built in): reload: not now");
    assert_string_equal(story, "reload-7 base, reload-7 middle");
    fail_reload = NULL;
    assert_int_equal(krn_node_reload(node, &err), STI_OK); /* base is still to be changed */
    assert_string_equal(story, "reload-7 base, reload-7 middle, reload base");
    assert_int_equal(krn_node_stop(node, &err), STI_OK);
    krn_node_free(node);
    write_config("");
}

static void missed(void *arg, const char *instance, const char *phase)
{
    (void)arg;
    _exit(strcmp(instance, "base") == 0 && strcmp(phase, "stop") == 0 ? 41 : 42);
}

static void test_deadline(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct krn_node *node;
        struct sti_err err;
        const char *const sets[] = {data_set, "node.drain_timeout_ms=100"};
        struct krn_node_args args = {.config_path = config_path,
                                     .sets = sets,
                                     .set_count = 2,
                                     .builtins = PLUGINS(&base),
                                     .log = log_,
                                     .missed = missed};
        hang_in_stop = "base";
        if (krn_node_open(&args, &node, &err) == STI_OK && krn_node_start(node, &err) == STI_OK) {
            (void)krn_node_stop(node, &err);
        }
        _exit(43);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 41);
}

static void test_failed_stop_frees_nothing(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct krn_node *node;
        struct sti_err err = {0};
        int rc = 1;
        fail_stop = 1;
        if (open_node(PLUGINS(&base), &node, &err) == STI_OK &&
            krn_node_start(node, &err) == STI_OK && krn_node_stop(node, &err) == STI_E_TIMED_OUT &&
            strcmp(err.msg, "'base' (built in): stop: a thread still runs") == 0 &&
            strstr(story, "destroy") == NULL) {
            krn_node_free(node);
            rc = strstr(story, "destroy") == NULL ? 0 : 2;
        }
        _exit(rc);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int setup(void **state)
{
    (void)state;
    dir = test_dir_new("lifecycle");
    snprintf(config_path, sizeof config_path, "%s/main.cfg", dir);
    snprintf(data_set, sizeof data_set, "node.data_dir=%s/data", dir);
    write_config("");
    null_fd = open("/dev/null", O_WRONLY);
    log_ = krn_log_new(null_fd, KRN_LOG_JSON, STI_LOG_DEBUG);
    return log_ == NULL;
}

static int teardown(void **state)
{
    (void)state;
    krn_log_free(log_);
    close(null_fd);
    test_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_check_touches_nothing),
        cmocka_unit_test(test_requirements),
        cmocka_unit_test(test_failed_create_unwinds),
        cmocka_unit_test(test_failed_start_unwinds),
        cmocka_unit_test(test_optional_is_left_out),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_failed_stop_frees_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
