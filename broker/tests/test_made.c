/* test_made.c -- topics that the node makes by itself, declared or on demand, and limits under many
 * who come at once. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

enum { MANY = 32 };

/* ---- declared ------------------------------------------------------------------------------ */

static const char *const settings[] = {"segment.bytes=20000", "retention.ms=5"};
static const struct brk_declared row_a = {.where = "node.cfg:7: topics[0]",
                                          .name = "a",
                                          .partitions = 3,
                                          .config = {.count = 2, .items = settings}};
static const struct brk_declared row_b = {.where = "node.cfg:8: topics[1]", .name = "b"};

static void declare(struct fixture *fix, const struct brk_declared *const *rows, size_t count)
{
    fix->conf.topics = (struct sti_option_rows){.count = count, .rows = (const void *const *)rows};
}

static int32_t partitions_of(struct fixture *fix, const char *name)
{
    struct brk_topic *topic = brk_topic_get(fix->self, name);
    int32_t count = topic == NULL ? -1 : topic->partition_count;
    brk_topic_unref(topic);
    return count;
}

static void test_declared(void **state)
{
    static const struct brk_declared more = {.where = "node.cfg:7: topics[0]",
                                             .name = "a",
                                             .partitions = 5,
                                             .config = {.count = 2, .items = settings}};
    static const struct brk_declared *const rows[] = {&row_a, &row_b}, *const other[] = {&more};
    (void)state;
    struct fixture *fix = fix_new();
    declare(fix, rows, 2);
    fix_start(fix);
    assert_int_equal(partitions_of(fix, "a"), 3); /* there when start returns */
    assert_int_equal(partitions_of(fix, "b"), 1);
    assert_int_equal(fix->fs->settings.segment_bytes, 128 << 20); /* of b, the newest */
    assert_int_equal(fix_produce(fix, "a", 2, 1), 0);
    assert_int_equal(test_host_logged(fix->th, "topic_declared"), 2);
    fix_restart(fix);
    assert_int_equal(test_host_logged(fix->th, "topic_declared"), 2);
    assert_int_equal(test_host_logged(fix->th, "topic_differs"), 0);
    assert_int_equal(fix_alter(fix, "a", -1, "retention.ms", "6"), STI_OK);
    declare(fix, other, 1);
    fix_restart(fix);
    assert_int_equal(test_host_logged(fix->th, "topic_differs"), 2);
    assert_int_equal(partitions_of(fix, "a"), 3); /* never altered */
    assert_int_equal(fix_produce(fix, "a", 2, 1), 1);
    assert_int_equal(fix_delete(fix, "a"), STI_OK);
    fix_restart(fix);
    assert_int_equal(partitions_of(fix, "a"), 5); /* made anew */
    fix_free(fix);
}

static void test_declared_and_half_deleted(void **state)
{
    static const struct brk_declared *const rows[] = {&row_a};
    (void)state;
    struct fixture *fix = fix_new();
    declare(fix, rows, 1);
    fix_start(fix);
    assert_int_equal(fix_produce(fix, "a", 0, 4), 0);
    assert_int_equal(fix_delete(fix, "a"), STI_OK);
    fm_drop_last(fix->fm); /* the mark that it is gone */
    fix_restart(fix);
    assert_int_equal(partitions_of(fix, "a"), 3);
    assert_int_equal(fix_produce(fix, "a", 0, 1), 0);
    fix_free(fix);
}

static void refused(struct fixture *fix, const struct brk_declared *const *rows, size_t count,
                    const char *text)
{
    struct sti_err err;
    void *self = NULL;
    sti_err_clear(&err);
    declare(fix, rows, count);
    assert_int_equal(sti_broker_plugin.life->create(&fix->host, &fix->conf, &self, &err),
                     STI_E_CONFIG);
    assert_string_equal(err.msg, text);
    assert_null(self);
}

static void test_declared_wrong(void **state)
{
    static const char *const bad[] = {"segment.bytes=1"}, *const bare[] = {"segment.bytes"};
    static const char *const twice[] = {"segment.ms=1", "segment.ms=2"};
    static const struct brk_declared named = {.where = "f:1: topics[0]", .name = "a b"};
    static const struct brk_declared again = {.where = "f:2: topics[1]", .name = "a"};
    static const struct brk_declared wide = {
        .where = "f:1: topics[0]", .name = "w", .partitions = 1001};
    static const struct brk_declared range = {
        .where = "f:1: topics[0]", .name = "r", .config = {.count = 1, .items = bad}};
    static const struct brk_declared pair = {
        .where = "f:1: topics[0]", .name = "r", .config = {.count = 1, .items = bare}};
    static const struct brk_declared both = {
        .where = "f:1: topics[0]", .name = "r", .config = {.count = 2, .items = twice}};
    static const struct brk_declared *const one[] = {&named}, *const two[] = {&row_a, &again};
    static const struct brk_declared *const three[] = {&wide}, *const four[] = {&range};
    static const struct brk_declared *const five[] = {&pair}, *const six[] = {&both};
    (void)state;
    struct fixture *fix = fix_new();
    fix_start(fix); /* the plugins are known from now on */
    fix_stop(fix);
    refused(fix, one, 1,
            "f:1: topics[0].name: topic name \"a b\": character 2 is none of letters, digits, dot, "
            "underscore and hyphen");
    refused(fix, two, 2, "f:2: topics[1]: topic a is declared twice, see node.cfg:7: topics[0]");
    refused(fix, three, 1,
            "f:1: topics[0]: topic w: 1001 partitions exceed broker.partitions_per_topic_max = "
            "1000");
    refused(fix, four, 1,
            "f:1: topics[0]: topic r: segment.bytes: expected a whole number from 16384 to "
            "1073741824, found \"1\"");
    refused(fix, five, 1, "f:1: topics[0].config: expected KEY=VALUE, found \"segment.bytes\"");
    refused(fix, six, 1, "f:1: topics[0]: topic r: segment.ms is given twice");
    assert_int_equal(fix->fm->proposals, 0);
    fix->conf.topics_max = 1;
    refused(fix, two, 2, "f:2: topics[1]: 2 topics are declared, broker.topics_max = 1");
    fix_free(fix);
}

static void test_declared_where_it_cannot_be(void **state)
{
    static const char *const tape[] = {"storage=tape"};
    static const struct brk_declared lost = {
        .where = "f:1: topics[0]", .name = "a", .config = {.count = 1, .items = tape}};
    static const struct brk_declared *const rows[] = {&lost}, *const plain[] = {&row_b};
    (void)state;
    struct fixture *fix = fix_new();
    struct sti_err err;
    fix_start(fix);
    assert_int_equal(fix_create(fix, "x", 2, NULL, NULL), STI_OK);
    fix_stop(fix);
    refused(fix, rows, 1,
            "f:1: topics[0]: topic a: no storage instance \"tape\"; this node has storage_mmap");
    fix->conf.partitions_max = 2;
    declare(fix, plain, 1); /* what only the start can tell */
    assert_int_equal(sti_broker_plugin.life->create(&fix->host, &fix->conf, &fix->self, &err),
                     STI_OK);
    assert_int_equal(sti_broker_plugin.life->start(fix->self, &err), STI_E_CONFIG);
    assert_string_equal(err.msg, "node.cfg:8: topics[1]: topic b: 1 more partitions would pass "
                                 "broker.partitions_max = 2 (2 are there)");
    sti_broker_plugin.life->destroy(fix->self);
    fix->conf.partitions_max = 20;
    declare(fix, plain, 1); /* a disk that fails stops no start */
    FAKE_SET(fix->fs, open_status, STI_E_IO);
    fix_start(fix);
    assert_int_equal(test_host_logged(fix->th, "topic_declared_failed"), 1);
    FAKE_SET(fix->fs, open_status, STI_OK);
    fix_restart(fix);
    assert_int_equal(fix_produce(fix, "b", 0, 1), 0);
    fix_free(fix);
}

/* ---- on demand ----------------------------------------------------------------------------- */

static int produce_to(struct fixture *fix, const char *topic, struct sti_err *err)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, topic, 0, 1, 10, 1000);
    produce_send(fix, &p);
    produce_wait(&p);
    int status = p.rows[0].status;
    assert_int_equal(p.rows[0].retry_after_ms > 0, status == STI_E_UNAVAILABLE);
    *err = p.rows[0].err;
    produce_fini(&p);
    return status;
}

static void test_auto(void **state)
{
    struct fixture *fix = *state;
    struct sti_node_info node;
    struct fetch_call f;
    struct sti_err err;
    assert_int_equal(produce_to(fix, "t", &err), STI_E_UNKNOWN_TOPIC); /* off by default */
    assert_string_equal(err.msg, "topic t does not exist");
    fix->conf.auto_create_topics = true;
    fix->conf.default_partitions = 3;
    assert_int_equal(produce_to(fix, "t", &err), STI_E_UNAVAILABLE);
    assert_string_equal(err.msg, "topic t is being created; try again");
    fix_wait_metric(fix, "streamit_topics_auto_created_total", 1);
    assert_int_equal(produce_to(fix, "t", &err), STI_OK);
    assert_int_equal(partitions_of(fix, "t"), 3);
    assert_int_equal(fix->vt->find_leader(fix->self, NULL, "u", 0, &node, &err), STI_E_UNAVAILABLE);
    fix_wait_metric(fix, "streamit_topics_auto_created_total", 2);
    assert_int_equal(fix->vt->find_leader(fix->self, NULL, "u", 0, &node, &err), STI_OK);
    fetch_init(&f, 0); /* looking makes nothing */
    fetch_add(&f, "v", 0, 0);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_E_UNKNOWN_TOPIC);
    fetch_fini(&f);
    assert_int_equal(produce_to(fix, "__consumer_offsets", &err), STI_E_UNKNOWN_TOPIC);
    assert_string_equal(err.msg, "topic __consumer_offsets does not exist, and internal names are "
                                 "never created on demand");
    assert_int_equal(produce_to(fix, "..", &err), STI_E_INVALID_ARGUMENT);
    assert_int_equal(produce_to(fix, "t", &err), STI_OK);
    assert_int_equal(test_host_metric(fix->th, "streamit_topics", NULL), 2);
    fix->conf.topics_max = 2;
    assert_int_equal(produce_to(fix, "w", &err), STI_E_RESOURCE_EXHAUSTED);
    assert_string_equal(err.msg, "topic w would pass broker.topics_max = 2");
}

static void test_auto_once_for_many(void **state)
{
    struct fixture *fix = *state;
    struct sti_err err;
    fix->conf.auto_create_topics = true;
    fix->conf.auto_create_parallel = 1;
    FAKE_SET(fix->fm, hold, true);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(produce_to(fix, "t", &err), STI_E_UNAVAILABLE);
    }
    assert_int_equal(fix->fm->held_count, 1);
    assert_int_equal(produce_to(fix, "u", &err), STI_E_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "as many as broker.auto_create_parallel allows"));
    assert_int_equal(fm_release(fix->fm), 1);
    fix_wait_metric(fix, "streamit_topics_auto_created_total", 1);
    assert_int_equal(produce_to(fix, "t", &err), STI_OK);
    FAKE_SET(fix->fm, commit_status, STI_E_DISK_FULL);
    (void)produce_to(fix, "u", &err);
    for (int i = 0; i < 20000 && test_host_logged(fix->th, "topic_auto_create_failed") == 0; i++) {
        test_host_settle(fix->th, NULL);
    }
    assert_int_equal(test_host_logged(fix->th, "topic_auto_create_failed"), 1);
    FAKE_SET(fix->fm, commit_status, STI_OK);
    assert_int_equal(produce_to(fix, "u", &err), STI_E_UNAVAILABLE); /* tried anew */
    fix_wait_metric(fix, "streamit_topics_auto_created_total", 2);
}

/* ---- limits -------------------------------------------------------------------------------- */

/* Many creations that nobody has committed yet: as many as the limit has room for are granted, and
 * what was granted to one that fails is free again. */
static void test_limits_at_once(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t[MANY];
    char names[MANY][8];
    fix->conf.topics_max = 10;
    for (int round = 0; round < 2; round++) {
        int good = 0, exhausted = 0;
        FAKE_SET(fix->fm, hold, true);
        FAKE_SET(fix->fm, commit_status, round == 0 ? STI_E_IO : STI_OK);
        for (int i = 0; i < MANY; i++) {
            snprintf(names[i], sizeof names[i], "t%d", i);
            topic_call_init(&t[i], names[i], 2);
            topic_call_send(fix, fix->vt->create_topic, &t[i]);
        }
        assert_int_equal(fm_release(fix->fm), 10);
        for (int i = 0; i < MANY; i++) {
            flag_wait(&t[i].done, 1);
            good += t[i].call.status == STI_OK ? 1 : 0;
            exhausted += t[i].call.status == STI_E_RESOURCE_EXHAUSTED ? 1 : 0;
        }
        assert_int_equal(good, round == 0 ? 0 : 10);
        assert_int_equal(exhausted, MANY - 10);
    }
    assert_int_equal(
        test_host_metric(fix->th, "streamit_limit_refusals_total", "limit=\"topics_max\""),
        2 * (MANY - 10));
    fix->conf.partitions_max = 25; /* 20 are there */
    FAKE_SET(fix->fm, hold, true);
    for (int i = 0; i < 4; i++) {
        topic_call_init(&t[i], names[i], 4);
        topic_call_send(fix, fix->vt->alter_topic, &t[i]);
    }
    fm_release(fix->fm);
    for (int i = 0; i < 4; i++) {
        flag_wait(&t[i].done, 1);
        assert_int_equal(t[i].call.status, i < 2 ? STI_OK : STI_E_RESOURCE_EXHAUSTED);
    }
    assert_int_equal(
        test_host_metric(fix->th, "streamit_limit_refusals_total", "limit=\"partitions_max\""), 2);
    struct broker *broker = fix->self;
    assert_null(broker->kept);
    assert_int_equal(broker->kept_topics + broker->kept_partitions, 0);
}

static void test_reserved_names(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    topic_call_init(&t, "__consumer_offsets", 1);
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_E_INVALID_ARGUMENT);
    assert_string_equal(t.call.err.msg,
                        "topic name \"__consumer_offsets\" is reserved for the node itself");
    assert_int_equal(fix_create(fix, "__mine", 1, NULL, NULL), STI_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_declared),
        cmocka_unit_test(test_declared_and_half_deleted),
        cmocka_unit_test(test_declared_wrong),
        cmocka_unit_test(test_declared_where_it_cannot_be),
        TEST(auto),
        TEST(auto_once_for_many),
        TEST(limits_at_once),
        TEST(reserved_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
