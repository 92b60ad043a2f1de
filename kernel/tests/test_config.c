/* test_config.c -- the configuration file: what is taken, and every error by its text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>

#include "kernel/config.h"
#include "test_host.h"

struct row {
    const char *name;
    int64_t partitions;
};

struct conf {
    int64_t port, bytes;
    bool tls;
    const char *host, *password;
    int32_t mode;
    struct sti_option_strings tags;
    struct sti_option_rows topics;
};

#define OPT(k, t, ...)                                                                             \
    {                                                                                              \
        .struct_size = sizeof(struct sti_option), .key = k, .type = t, .help = "Help.",            \
        __VA_ARGS__                                                                                \
    }
static const char *const modes[] = {"commit", "interval", "onroll", NULL};
static const struct sti_option row_name =
    OPT("name", STI_OPT_STRING, .offset = offsetof(struct row, name), .flags = STI_OPT_REQUIRED);
static const struct sti_option row_partitions =
    OPT("partitions", STI_OPT_INT, .offset = offsetof(struct row, partitions), .def = "1", .min = 1,
        .max = 100);
static const struct sti_option *const row_options[] = {&row_name, &row_partitions, NULL};
static const struct sti_option o_port =
    OPT("port", STI_OPT_INT, .def = "8080", .max = 65535, .offset = offsetof(struct conf, port));
static const struct sti_option o_bytes =
    OPT("segment_bytes", STI_OPT_INT, .def = "64M", .min = 1024, .max = INT64_MAX, .unit = "bytes",
        .offset = offsetof(struct conf, bytes));
static const struct sti_option o_tls =
    OPT("tls", STI_OPT_BOOL, .def = "false", .offset = offsetof(struct conf, tls));
static const struct sti_option o_host = OPT("host", STI_OPT_STRING, .def = "0.0.0.0", .min = 1,
                                            .max = 10, .offset = offsetof(struct conf, host));
static const struct sti_option o_password = OPT("password", STI_OPT_STRING, .flags = STI_OPT_SECRET,
                                                .offset = offsetof(struct conf, password));
static const struct sti_option o_mode =
    OPT("flush", STI_OPT_ENUM, .def = "onroll", .choices = modes,
        .offset = offsetof(struct conf, mode));
static const struct sti_option o_tags =
    OPT("tags", STI_OPT_STRINGS, .def = "[ \"a\", \"b\" ]", .offset = offsetof(struct conf, tags));
static const struct sti_option o_topics =
    OPT("topics", STI_OPT_TABLE, .nested = row_options, .nested_size = sizeof(struct row),
        .offset = offsetof(struct conf, topics));
static const struct sti_option *const options[] = {
    &o_port, &o_bytes, &o_tls, &o_host, &o_password, &o_mode, &o_tags, &o_topics, NULL};
static const char *const builtins[] = {"broker", NULL};
static const char *const roots[] = {"topics", NULL};

static apr_pool_t *pool;
static char *dir, main_path[512];

static void write_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Read the text as main.cfg with some overrides and fill plugins.x from it. */
static int fill(const char *text, const char *const *sets, struct conf *out, struct sti_err *err)
{
    struct krn_config *config;
    size_t count = 0;
    void *conf = NULL;
    while (sets != NULL && sets[count] != NULL) {
        count++;
    }
    write_file("main.cfg", text);
    int status = krn_config_read(pool, main_path, sets, count, builtins, roots, &config, err);
    if (status == STI_OK) {
        status = krn_config_section(config, pool, "plugins.x", options, sizeof *out, &conf, err);
    }
    if (status == STI_OK) {
        status = krn_config_finish(config, err);
    }
    if (status == STI_OK) {
        *out = *(struct conf *)conf;
    }
    return status;
}

/* The error of a file, without the folder in front. */
static void expect_error(const char *text, const char *const *sets, const char *error)
{
    struct conf conf;
    struct sti_err err = {0};
    assert_int_equal(fill(text, sets, &conf, &err), STI_E_CONFIG);
    size_t len = strlen(dir) + 1;
    const char *msg = strncmp(err.msg, dir, len - 1) == 0 ? err.msg + len : err.msg;
    assert_string_equal(msg, error);
}

#define IN_X(line) "plugins: {\n  x: {\n    " line "\n  };\n};\n"

static void test_defaults(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    assert_int_equal(fill("", NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.port, 8080);
    assert_int_equal(conf.bytes, 64 << 20);
    assert_false(conf.tls);
    assert_string_equal(conf.host, "0.0.0.0");
    assert_null(conf.password);
    assert_int_equal(conf.mode, 2);
    assert_int_equal(conf.tags.count, 2);
    assert_string_equal(conf.tags.items[1], "b");
    assert_int_equal(conf.topics.count, 0);
}

static void test_every_type(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    static const char text[] =
        "node: { }; broker: { };\n"
        "plugins: { x: { file = \"y.so\"; port = 0; segment_bytes = 10737418240; tls = true;\n"
        "  host = \"h\"; password = \"p\"; flush = \"commit\"; tags = ( \"q\" );\n"
        "  topics: ( { name = \"t\"; partitions = 6; }, { name = \"u\"; } ); }; };\n";
    assert_int_equal(fill(text, NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.port, 0);
    assert_int_equal(conf.bytes, 10737418240);
    assert_true(conf.tls);
    assert_string_equal(conf.password, "p");
    assert_int_equal(conf.mode, 0);
    assert_int_equal(conf.tags.count, 1);
    assert_int_equal(conf.topics.count, 2);
    const struct row *row = conf.topics.rows[0];
    assert_string_equal(row->name, "t");
    assert_int_equal(row->partitions, 6);
    row = conf.topics.rows[1];
    assert_int_equal(row->partitions, 1);
}

static void test_bytes_suffixes(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    assert_int_equal(fill(IN_X("segment_bytes = \"2G\";"), NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.bytes, INT64_C(2) << 30);
    assert_int_equal(fill(IN_X("segment_bytes = \"16K\";"), NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.bytes, 16 << 10);
    expect_error(
        IN_X("segment_bytes = \"64MB\";"), NULL,
        "main.cfg:3: plugins.x.segment_bytes: expected an integer or a string such as '64M', "
        "found the string '64MB'");
    expect_error(
        IN_X("segment_bytes = \"9999999999G\";"), NULL,
        "main.cfg:3: plugins.x.segment_bytes: expected an integer or a string such as '64M', "
        "found the string '9999999999G'");
    expect_error(IN_X("port = \"1K\";"), NULL,
                 "main.cfg:3: plugins.x.port: expected an integer, found the string '1K'");
}

static void test_unknown(void **state)
{
    (void)state;
    expect_error(IN_X("prot = 1;"), NULL,
                 "main.cfg:3: plugins.x.prot: unknown option 'prot'; did you mean 'port'?");
    expect_error(IN_X("quite_else = 1;"), NULL,
                 "main.cfg:3: plugins.x.quite_else: unknown option 'quite_else'");
    expect_error(
        IN_X("topics: ( { name = \"t\"; partition = 2; } );"), NULL,
        "main.cfg:3: plugins.x.topics[0].partition: unknown option 'partition'; did you mean "
        "'partitions'?");
    expect_error("\nnoed: { };\n", NULL,
                 "main.cfg:2: noed: unknown group 'noed'; did you mean 'node'?");
    expect_error("brokr: { };\n", NULL,
                 "main.cfg:1: brokr: unknown group 'brokr'; did you mean 'broker'?");
    expect_error("node = 5;\n", NULL, "main.cfg:1: node: expected a group, found the integer 5");
    expect_error("plugins: { x = true; };\n", NULL,
                 "main.cfg:1: plugins.x: expected a group, found true");
    expect_error("plugins: { broker: { }; };\n", NULL,
                 "main.cfg:1: plugins.broker: the name is taken: rename the instance");
}

static void test_wrong_types(void **state)
{
    (void)state;
    expect_error(IN_X("port = 1.5;"), NULL,
                 "main.cfg:3: plugins.x.port: expected an integer, found the fraction 1.5");
    expect_error(IN_X("tls = 1;"), NULL,
                 "main.cfg:3: plugins.x.tls: expected true or false, found the integer 1");
    expect_error(IN_X("host = 7;"), NULL,
                 "main.cfg:3: plugins.x.host: expected a string, found the integer 7");
    expect_error(IN_X("password = 7;"), NULL,
                 "main.cfg:3: plugins.x.password: expected a string, found an integer");
    expect_error(IN_X("flush = 7;"), NULL,
                 "main.cfg:3: plugins.x.flush: expected a word, found the integer 7");
    expect_error(IN_X("tags = \"a\";"), NULL,
                 "main.cfg:3: plugins.x.tags: expected a list of strings, found the string 'a'");
    expect_error(IN_X("tags = [ 1, 2 ];"), NULL,
                 "main.cfg:3: plugins.x.tags: expected a list of strings, found the integer 1");
    expect_error(IN_X("topics: { };"), NULL,
                 "main.cfg:3: plugins.x.topics: expected a list of groups, found a group");
    expect_error(IN_X("topics: ( 5 );"), NULL,
                 "main.cfg:3: plugins.x.topics[0]: expected a list of groups, found the integer 5");
}

static void test_ranges_and_missing(void **state)
{
    (void)state;
    expect_error(IN_X("port = 70000;"), NULL,
                 "main.cfg:3: plugins.x.port: 70000 is out of range: expected 0 to 65535");
    expect_error(IN_X("port = 4294967297;"), NULL,
                 "main.cfg:3: plugins.x.port: 4294967297 is out of range: expected 0 to 65535");
    expect_error(IN_X("port = 99999999999999999999;"), NULL,
                 "main.cfg:3: the number 99999999999999999999 is out of range: expected "
                 "-9223372036854775808 to 9223372036854775807");
    expect_error(IN_X("segment_bytes = 5;"), NULL,
                 "main.cfg:3: plugins.x.segment_bytes: 5 is out of range: expected 1024 to "
                 "9223372036854775807 bytes");
    expect_error(IN_X("host = \"\";"), NULL,
                 "main.cfg:3: plugins.x.host: a string of 0 bytes: expected 1 to 10 bytes");
    expect_error(
        IN_X("flush = \"commits\";"), NULL,
        "main.cfg:3: plugins.x.flush: expected one of commit, interval, onroll, found 'commits'; "
        "did you mean 'commit'?");
    expect_error(IN_X("topics: ( { partitions = 2; } );"), NULL,
                 "main.cfg:3: plugins.x.topics[0]: missing option 'name': expected a string, found "
                 "nothing");
}

static void test_syntax_and_includes(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    expect_error("plugins: {\n x: { port = ; };\n};", NULL, "main.cfg:2: syntax error");
    expect_error(IN_X("port = 1;\n    port = 2;"), NULL, "main.cfg:4: duplicate setting name");
    write_file("part.cfg", "port = 81;\ntls = 5;\n");
    expect_error(IN_X("host = \"h\";\n  @include \"part.cfg\"\n"), NULL,
                 "part.cfg:2: plugins.x.tls: expected true or false, found the integer 5");
    expect_error(IN_X("\n  @include \"part.cfg\"\n host = 3;"), NULL,
                 "part.cfg:2: plugins.x.tls: expected true or false, found the integer 5");
    write_file("part.cfg", "port = 81;");
    assert_int_equal(fill(IN_X("\n  @include \"part.cfg\"\n"), NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.port, 81);
    expect_error(IN_X("\n  @include \"part.cfg\"\n host = 3;"), NULL,
                 "main.cfg:5: plugins.x.host: expected a string, found the integer 3");
    write_file("loop.cfg", "@include \"loop.cfg\"\n");
    struct sti_err loop = {0};
    assert_int_equal(fill("@include \"loop.cfg\"\n", NULL, &conf, &loop), STI_E_CONFIG);
    assert_non_null(strstr(loop.msg, "loop.cfg:1: @include"));
    assert_non_null(strstr(loop.msg, "more than 16 levels"));
    assert_int_equal(fill("\n@include \"gone.cfg\"\n", NULL, &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "main.cfg:2: @include: cannot read "));
    expect_error("@include gone.cfg\n", NULL,
                 "main.cfg:1: @include: expected a file name in quotes");
}

static void test_numbers_in_words_and_comments(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    static const char text[] = "# 99999999999999999999\n// @include \"gone\"\n"
                               "/* 99999999999999999999\n@include \"gone\" */\n" IN_X(
                                   "host = \"9999999999\"; segment_bytes = 0x100000000;");
    assert_int_equal(fill(text, NULL, &conf, &err), STI_OK);
    assert_string_equal(conf.host, "9999999999");
    assert_int_equal(conf.bytes, INT64_C(1) << 32);
}

static void test_sets(void **state)
{
    (void)state;
    struct conf conf;
    struct sti_err err = {0};
    const char *const sets[] = {"plugins.x.port=1",           "plugins.x.port=2",
                                "plugins.x.segment_bytes=1M", "plugins.x.tags=a, b,c",
                                "plugins.x.host=a=b",         "plugins.x.flush=commit",
                                "plugins.x.tls=true",         NULL};
    assert_int_equal(fill(IN_X("port = 99;"), sets, &conf, &err), STI_OK);
    assert_int_equal(conf.port, 2);
    assert_int_equal(conf.bytes, 1 << 20);
    assert_int_equal(conf.tags.count, 3);
    assert_string_equal(conf.tags.items[1], "b");
    assert_string_equal(conf.host, "a=b");
    assert_int_equal(conf.mode, 0);
    assert_true(conf.tls);
}

static void test_set_errors(void **state)
{
    (void)state;
#define SET(text) (const char *const[]){text, NULL}
    expect_error(IN_X(""), SET("plugins.x.port=abc"),
                 "--set plugins.x.port: expected an integer, found 'abc'");
    expect_error(IN_X(""), SET("plugins.x.port=70000"),
                 "--set plugins.x.port: 70000 is out of range: expected 0 to 65535");
    expect_error(IN_X(""), SET("plugins.x.prt=1"),
                 "--set plugins.x.prt: unknown option 'prt'; did you mean 'port'?");
    expect_error(IN_X(""), SET("plugins.x.tls=yes"),
                 "--set plugins.x.tls: expected true or false, found 'yes'");
    expect_error(
        IN_X(""), SET("plugins.x.topics=t"),
        "--set plugins.x.topics: a list of groups can only be given in the configuration file");
    expect_error(IN_X(""), SET("nonsense"),
                 "--set nonsense: expected PATH=VALUE, such as node.data_dir=data");
    expect_error(IN_X(""), SET("port=1"),
                 "--set port=1: expected PATH=VALUE, such as node.data_dir=data");
    expect_error(IN_X(""), SET("nod.x=1"),
                 "--set nod.x: unknown group 'nod'; did you mean 'node'?");
    struct conf conf;
    struct sti_err err = {0};
    assert_int_equal(fill(IN_X(""), SET("plugins.y.port=1"), &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "--set plugins.y.port: unknown instance 'y' (not in "));
    assert_non_null(strstr(err.msg, "did you mean 'x'?"));
}

static void test_instances_and_files(void **state)
{
    (void)state;
    struct krn_config *config;
    struct sti_err err = {0};
    const char *file, *where;
    const char *const sets[] = {"plugins.c.file=/lib/d.so"};
    write_file("main.cfg", "plugins: { b: { }; a: { file = \"other.so\"; }; c: { }; };\n");
    assert_int_equal(krn_config_read(pool, main_path, sets, 1, builtins, roots, &config, &err),
                     STI_OK);
    assert_int_equal(krn_config_instance_count(config), 3);
    assert_string_equal(krn_config_instance(config, 0), "b");
    assert_int_equal(krn_config_instance_file(config, pool, "b", &file, &where, &err), STI_OK);
    assert_string_equal(file, "b.so");
    assert_int_equal(krn_config_instance_file(config, pool, "a", &file, &where, &err), STI_OK);
    assert_string_equal(file, "other.so");
    assert_int_equal(krn_config_instance_file(config, pool, "c", &file, &where, &err), STI_OK);
    assert_string_equal(file, "/lib/d.so");
    assert_string_equal(where, "--set plugins.c.file");
    assert_int_equal(krn_config_finish(config, &err), STI_E_CONFIG); /* c was never filled */
}

/* ---- options beside the groups, and where the groups of a list stand ---- */

struct placed {
    const char *where, *name;
};

struct root_conf {
    struct sti_option_rows topics;
};

static const struct sti_option placed_where =
    OPT("where", STI_OPT_PLACE, .offset = offsetof(struct placed, where));
static const struct sti_option placed_name =
    OPT("name", STI_OPT_STRING, .offset = offsetof(struct placed, name), .flags = STI_OPT_REQUIRED);
static const struct sti_option *const placed_options[] = {&placed_where, &placed_name, NULL};
static const struct sti_option root_topics =
    OPT("topics", STI_OPT_TABLE, .flags = STI_OPT_ROOT, .nested = placed_options,
        .nested_size = sizeof(struct placed), .offset = offsetof(struct root_conf, topics));
static const struct sti_option *const root_options[] = {&root_topics, NULL};

static int fill_root(const char *text, const char *const *sets, struct root_conf *out,
                     struct sti_err *err)
{
    struct krn_config *config;
    void *conf = NULL;
    write_file("main.cfg", text);
    int status =
        krn_config_read(pool, main_path, sets, sets == NULL ? 0 : 1, builtins, roots, &config, err);
    if (status == STI_OK) {
        status = krn_config_section(config, pool, "broker", root_options, sizeof *out, &conf, err);
    }
    if (status == STI_OK) {
        status = krn_config_finish(config, err);
    }
    if (status == STI_OK) {
        *out = *(struct root_conf *)conf;
    }
    return status;
}

static void test_roots_and_places(void **state)
{
    (void)state;
    const char *const sets[] = {"topics.name=b"}, *const inner[] = {"broker.topics=b"};
    struct root_conf conf = {.topics = {.count = 0}};
    struct sti_err err = {0};
    char text[600];
    assert_int_equal(
        fill_root("topics: (\n  { name = \"a\"; },\n  { name = \"b\"; }\n);\n", NULL, &conf, &err),
        STI_OK);
    assert_int_equal(conf.topics.count, 2);
    snprintf(text, sizeof text, "%s:3: topics[1]", main_path);
    assert_non_null(conf.topics.rows);
    if (conf.topics.rows != NULL) { /* the analyser does not know what an assertion does */
        const struct placed *second = conf.topics.rows[1];
        assert_string_equal(second->name, "b");
        assert_string_equal(second->where, text);
    }
    assert_int_equal(fill_root("", NULL, &conf, &err), STI_OK);
    assert_int_equal(conf.topics.count, 0);
    assert_int_equal(fill_root("topics: { };\n", NULL, &conf, &err), STI_E_CONFIG);
    assert_non_null(
        strstr(err.msg, "main.cfg:1: topics: expected a list of groups, found a group"));
    assert_int_equal(fill_root("topics: ( { where = \"x\"; } );\n", NULL, &conf, &err),
                     STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "main.cfg:1: topics[0].where: unknown option 'where'"));
    assert_int_equal(fill_root("\ntopics: ( { } );\n", NULL, &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "main.cfg:2: topics[0]: missing option 'name'"));
    assert_int_equal(fill_root("broker: { topics = ( ); };\n", NULL, &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "'topics' stands at the top of the file"));
    assert_int_equal(fill_root("", sets, &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "only be given in the configuration file"));
    assert_int_equal(fill_root("", inner, &conf, &err), STI_E_CONFIG);
    assert_non_null(strstr(err.msg, "only be given in the configuration file"));
}

static void test_where_a_value_comes_from(void **state)
{
    (void)state;
    const char *const sets[] = {"broker.b=1"};
    struct krn_config *config;
    struct sti_err err = {0};
    char text[600];
    write_file("main.cfg", "\nbroker: { a = 1; };\n");
    assert_int_equal(krn_config_read(pool, main_path, sets, 1, builtins, roots, &config, &err),
                     STI_OK);
    snprintf(text, sizeof text, "%s:2: broker.a", main_path);
    assert_string_equal(krn_config_where(config, pool, "broker", "a"), text);
    assert_string_equal(krn_config_where(config, pool, "broker", "b"), "--set broker.b");
    assert_null(krn_config_where(config, pool, "broker", "c")); /* the default */
}

static int setup(void **state)
{
    (void)state;
    dir = test_dir_new("config");
    snprintf(main_path, sizeof main_path, "%s/main.cfg", dir);
    apr_initialize();
    return apr_pool_create(&pool, NULL);
}

static int teardown(void **state)
{
    (void)state;
    apr_pool_destroy(pool);
    apr_terminate();
    test_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_bytes_suffixes),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_ranges_and_missing),
        cmocka_unit_test(test_syntax_and_includes),
        cmocka_unit_test(test_numbers_in_words_and_comments),
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_set_errors),
        cmocka_unit_test(test_instances_and_files),
        cmocka_unit_test(test_roots_and_places),
        cmocka_unit_test(test_where_a_value_comes_from),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
