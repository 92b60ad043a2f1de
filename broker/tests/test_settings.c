/* test_settings.c -- every setting of a topic: default, override, refusal. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

struct row {
    const char *key, *option; /* option of the node, or NULL */
    const char *def, *good, *bad, *text;
    int code;
};

static const struct row rows[] = {
    {"cleanup.policy", NULL, "delete", "delete", "compact",
     "cleanup.policy=compact is not supported by this version; it knows cleanup.policy=delete",
     STI_E_UNSUPPORTED},
    {"cleanup.policy", NULL, "delete", "delete", "shred",
     "cleanup.policy: expected one of delete, compact, compact,delete, delete,compact, found "
     "\"shred\"",
     STI_E_INVALID_ARGUMENT},
    {"compression.type", NULL, "producer", "producer", "zstd",
     "compression.type=zstd is not supported by this version; it knows compression.type=producer",
     STI_E_UNSUPPORTED},
    {"flush.interval.ms", "flush_interval_ms", "1000", "1", "0",
     "flush.interval.ms: expected a whole number from 1 to 86400000, found \"0\"",
     STI_E_INVALID_ARGUMENT},
    {"flush.policy", "flush_policy", "onroll", "commit", "Commit",
     "flush.policy: expected one of onroll, interval, commit, found \"Commit\"",
     STI_E_INVALID_ARGUMENT},
    {"index.interval.bytes", "index_interval_bytes", "4096", "64", "63",
     "index.interval.bytes: expected a whole number from 64 to 1073741824, found \"63\"",
     STI_E_INVALID_ARGUMENT},
    {"max.message.bytes", "max_message_bytes", "2097152", "1024", "1k",
     "max.message.bytes: expected a whole number from 1024 to 1073741824, found \"1k\"",
     STI_E_INVALID_ARGUMENT},
    {"message.timestamp.after.max.ms", "message_timestamp_after_max_ms", "3600000", "0", "-1",
     "message.timestamp.after.max.ms: expected a whole number from 0 to 9223372036854775807, found "
     "\"-1\"",
     STI_E_INVALID_ARGUMENT},
    {"message.timestamp.before.max.ms", "message_timestamp_before_max_ms", "9223372036854775807",
     "0", "1h",
     "message.timestamp.before.max.ms: expected a whole number from 0 to 9223372036854775807, "
     "found "
     "\"1h\"",
     STI_E_INVALID_ARGUMENT},
    {"message.timestamp.type", "message_timestamp_type", "CreateTime", "LogAppendTime",
     "AppendTime",
     "message.timestamp.type: expected one of CreateTime, LogAppendTime, found \"AppendTime\"",
     STI_E_INVALID_ARGUMENT},
    {"min.insync.replicas", "min_insync_replicas", "1", "1000", "1001",
     "min.insync.replicas: expected a whole number from 1 to 1000, found \"1001\"",
     STI_E_INVALID_ARGUMENT},
    {"retention.bytes", "retention_bytes", "-1", "0", "-2",
     "retention.bytes: expected a whole number from -1 to 9223372036854775807, found \"-2\"",
     STI_E_INVALID_ARGUMENT},
    {"retention.ms", "retention_ms", "604800000", "-1", "99999999999999999999",
     "retention.ms: expected a whole number from -1 to 9223372036854775807, found "
     "\"99999999999999999999\"",
     STI_E_INVALID_ARGUMENT},
    {"segment.bytes", "segment_bytes", "134217728", "16384", "",
     "segment.bytes: expected a whole number from 16384 to 1073741824, found \"\"",
     STI_E_INVALID_ARGUMENT},
    {"segment.ms", "segment_ms", "604800000", "1", " 1",
     "segment.ms: expected a whole number from 1 to 9223372036854775807, found \" 1\"",
     STI_E_INVALID_ARGUMENT},
    {"segment.ms", "segment_ms", "604800000", "9223372036854775807", "+1",
     "segment.ms: expected a whole number from 1 to 9223372036854775807, found \"+1\"",
     STI_E_INVALID_ARGUMENT},
    {"storage", "storage", "storage_mmap", "other", "",
     "storage: expected the name of an instance, found \"\"", STI_E_INVALID_ARGUMENT},
    {"unclean.leader.election.enable", NULL, "false", "false", "true",
     "unclean.leader.election.enable=true is not supported by this version; it knows "
     "unclean.leader.election.enable=false",
     STI_E_UNSUPPORTED},
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static int setting_index(const struct set_defaults *defaults, const char *key)
{
    struct cat_topic none = {.setting_count = 0};
    for (int i = 0; i < SET_COUNT; i++) {
        struct sti_topic_config out;
        char value[96];
        set_describe(i, defaults, &none, value, sizeof value, &out);
        if (strcmp(out.key, key) == 0) {
            return i;
        }
    }
    return -1;
}

static void test_defaults_and_overrides(void **state)
{
    struct brk_conf conf;
    (void)state;
    fix_conf_defaults(&conf);
    for (int r = 0; r < ROWS; r++) {
        struct cat_setting own = {.key = (char *)(uintptr_t)rows[r].key,
                                  .value = (char *)(uintptr_t)rows[r].good};
        struct cat_topic topic = {.setting_count = 0, .settings = &own};
        struct sti_topic_config out;
        char value[96];
        int i = setting_index(&conf.defaults, rows[r].key);
        assert_true(i >= 0);
        set_describe(i, &conf.defaults, &topic, value, sizeof value, &out);
        assert_string_equal(value, rows[r].def);
        assert_string_equal(out.value, rows[r].def);
        assert_int_equal(out.source, STI_CONFIG_DEFAULT);
        assert_true(strlen(out.help) > 10);
        topic.setting_count = 1;
        set_describe(i, &conf.defaults, &topic, value, sizeof value, &out);
        assert_string_equal(value, rows[r].good);
        assert_int_equal(out.source, STI_CONFIG_TOPIC);
    }
}

/* Whose value it is: the node's only when its option is not what the table says. */
static void test_source(void **state)
{
    static const struct {
        const char *key, *value;
    } changed[] = {{"retention.ms", "5"}, {"flush.policy", "commit"}, {"storage", "other"}};
    struct brk_conf conf;
    struct cat_topic none = {.setting_count = 0};
    (void)state;
    fix_conf_defaults(&conf);
    conf.defaults.retention_ms = 5;
    conf.defaults.flush_policy = STI_FLUSH_COMMIT;
    conf.defaults.storage = "other";
    int node = 0;
    for (int i = 0; i < SET_COUNT; i++) {
        struct sti_topic_config out;
        char value[96];
        set_describe(i, &conf.defaults, &none, value, sizeof value, &out);
        node += out.source == STI_CONFIG_NODE ? 1 : 0;
        for (size_t c = 0; c < 3; c++) {
            if (strcmp(out.key, changed[c].key) == 0) {
                assert_string_equal(value, changed[c].value);
                assert_int_equal(out.source, STI_CONFIG_NODE);
            }
        }
    }
    assert_int_equal(node, 3);
}

static void test_refusals(void **state)
{
    (void)state;
    for (int r = 0; r < ROWS; r++) {
        struct sti_err err;
        assert_int_equal(set_check(rows[r].key, rows[r].good, &err), STI_OK);
        assert_int_equal(set_check(rows[r].key, rows[r].bad, &err), rows[r].code);
        assert_string_equal(err.msg, rows[r].text);
        assert_int_equal(err.code, rows[r].code);
    }
}

static void test_every_setting_is_covered(void **state)
{
    struct brk_conf conf;
    struct cat_topic none = {.setting_count = 0};
    (void)state;
    fix_conf_defaults(&conf);
    for (int i = 0; i < SET_COUNT; i++) {
        struct sti_topic_config out;
        char value[96];
        bool found = false;
        set_describe(i, &conf.defaults, &none, value, sizeof value, &out);
        for (int r = 0; r < ROWS; r++) {
            found = found || strcmp(rows[r].key, out.key) == 0;
        }
        assert_true(found);
    }
    /* and each that the node can default has its option */
    for (int r = 0; r < ROWS; r++) {
        bool found = rows[r].option == NULL;
        for (const struct sti_option *const *o = sti_broker_plugin.options; *o != NULL; o++) {
            found = found || strcmp((*o)->key, rows[r].option) == 0;
        }
        assert_true(found);
    }
}

static void test_did_you_mean(void **state)
{
    char long_key[200];
    struct sti_err err;
    (void)state;
    assert_int_equal(set_known("retention.ms", &err), STI_OK);
    assert_int_equal(set_known("retention.mss", &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg,
                        "unknown topic setting \"retention.mss\"; did you mean \"retention.ms\"?");
    assert_int_equal(set_known("segment_bytes", &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg,
                        "unknown topic setting \"segment_bytes\"; did you mean \"segment.bytes\"?");
    assert_int_equal(set_known("completely.different.thing", &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg, "unknown topic setting \"completely.different.thing\"");
    assert_int_equal(set_known("", &err), STI_E_INVALID_ARGUMENT);
    memset(long_key, 'k', sizeof long_key - 1);
    long_key[sizeof long_key - 1] = '\0';
    assert_int_equal(set_known(long_key, &err), STI_E_INVALID_ARGUMENT);
    assert_null(strstr(err.msg, "did you mean"));
}

static void test_resolve(void **state)
{
    static char policy_key[] = "flush.policy", policy[] = "interval", storage_key[] = "storage";
    static char storage[] = "fast", segment_key[] = "segment.bytes", segment[] = "20000";
    struct cat_setting own[] = {
        {policy_key, policy}, {storage_key, storage}, {segment_key, segment}};
    struct sti_storage_settings out;
    struct set_values values;
    struct brk_conf conf;
    (void)state;
    fix_conf_defaults(&conf);
    conf.defaults.segment_ms = 77;
    set_resolve(&conf.defaults, own, 3, &values);
    assert_int_equal(values.flush_policy, STI_FLUSH_INTERVAL);
    assert_string_equal(values.storage, "fast");
    assert_int_equal(values.segment_bytes, 20000);
    assert_int_equal(values.segment_ms, 77);
    set_for_storage(&values, &out);
    assert_int_equal(out.struct_size, sizeof out);
    assert_int_equal(out.flush_policy, STI_FLUSH_INTERVAL);
    assert_int_equal(out.segment_bytes, 20000);
    assert_int_equal(out.segment_ms, 77);
    assert_int_equal(out.flush_interval_ms, 1000);
    assert_int_equal(out.index_interval_bytes, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_and_overrides),
        cmocka_unit_test(test_source),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_every_setting_is_covered),
        cmocka_unit_test(test_did_you_mean),
        cmocka_unit_test(test_resolve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
