/* test_admin.c -- creating, altering, deleting, listing and describing topics, and each refusal. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* Run a change that must be refused with this text. */
static void refused(struct fixture *fix, fix_topic_fn *fn, struct topic_call *t, int status,
                    const char *text)
{
    assert_int_equal(topic_call_run(fix, fn, t), status);
    assert_string_equal(t->call.err.msg, text);
    assert_int_equal(t->call.err.code, status);
}

static void test_create(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    topic_call_init(&t, "orders", 3);
    topic_call_set(&t, "segment.bytes", "20000");
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_OK);
    assert_int_equal(t.call.partition_count, 3);
    assert_int_equal(t.call.replication_factor, 1);
    assert_false(brk_id_is_zero(t.call.topic_id));
    assert_int_equal(t.call.topic_id[6] >> 4, 4); /* a UUID of version 4 */
    assert_int_equal(t.call.topic_id[8] >> 6, 2);
    assert_int_equal(fs_get(fix->fs, &fix->fs->creates), 3);
    assert_int_equal(fix->fs->settings.segment_bytes, 20000);
    assert_int_equal(fix_produce(fix, "orders", 2, 1), 0); /* served once it is answered */
    topic_call_init(&t, "orders", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_ALREADY_EXISTS, "topic orders exists already");
    topic_call_init(&t, "defaults", -1);
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_OK);
    assert_int_equal(t.call.partition_count, 1);
    assert_int_equal(test_host_metric(fix->th, "streamit_topics", NULL), 2);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions", NULL), 4);
}

static void test_names(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    char name[251];
    topic_call_init(&t, "", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "a topic name has 1 to 249 characters, this one 0");
    topic_call_init(&t, "..", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "a topic cannot be named \"..\"");
    topic_call_init(&t, "a/b", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "topic name \"a/b\": character 2 is none of letters, digits, dot, underscore and "
            "hyphen");
    memset(name, 'n', sizeof name - 1);
    name[250] = '\0';
    topic_call_init(&t, name, 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "a topic name has 1 to 249 characters, this one 250");
    name[249] = '\0';
    assert_int_equal(fix_create(fix, name, 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, name, 0, 1), 0);
    assert_int_equal(fix_delete(fix, name), STI_OK);
}

static void test_counts_and_limits(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    topic_call_init(&t, "t", 0);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "topic t: partitions must be at least 1, found 0");
    topic_call_init(&t, "t", 1);
    t.call.replication = -2;
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "topic t: replication must be at least 1, found -2");
    topic_call_init(&t, "t", 1);
    t.call.replication = 2;
    refused(fix, fix->vt->create_topic, &t, STI_E_UNSUPPORTED,
            "topic t: replication 2 needs a replication plugin that keeps several replicas; "
            "replication keeps 1");
    topic_call_init(&t, "t", 1001);
    refused(fix, fix->vt->create_topic, &t, STI_E_RESOURCE_EXHAUSTED,
            "topic t: 1001 partitions exceed broker.partitions_per_topic_max = 1000");
    fix->conf.partitions_max = 3;
    assert_int_equal(fix_create(fix, "a", 2, NULL, NULL), STI_OK);
    topic_call_init(&t, "t", 2);
    refused(fix, fix->vt->create_topic, &t, STI_E_RESOURCE_EXHAUSTED,
            "topic t: 2 more partitions would pass broker.partitions_max = 3 (2 are there)");
    fix->conf.topics_max = 1;
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_RESOURCE_EXHAUSTED,
            "topic t would pass broker.topics_max = 1");
    topic_call_init(&t, "a", 4);
    refused(fix, fix->vt->alter_topic, &t, STI_E_RESOURCE_EXHAUSTED,
            "topic a: 2 more partitions would pass broker.partitions_max = 3 (2 are there)");
    fix->conf.partitions_max = fix->conf.partitions_per_topic_max = 1; /* lowered: only growth */
    assert_int_equal(fix_alter(fix, "a", -1, "retention.ms", "5"), STI_OK);
    assert_int_equal(fix_alter(fix, "a", 2, NULL, NULL), STI_OK);
}

static void test_settings(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    topic_call_init(&t, "t", 1);
    topic_call_set(&t, "retention.msec", "1");
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "unknown topic setting \"retention.msec\"; did you mean \"retention.ms\"?");
    topic_call_init(&t, "t", 1);
    topic_call_set(&t, "segment.ms", NULL);
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT,
            "segment.ms: a value is missing");
    topic_call_init(&t, "t", 1);
    topic_call_set(&t, "segment.ms", "1");
    topic_call_set(&t, "segment.ms", "2");
    refused(fix, fix->vt->create_topic, &t, STI_E_INVALID_ARGUMENT, "segment.ms is given twice");
    topic_call_init(&t, "t", 1);
    topic_call_set(&t, "storage", "tape");
    refused(fix, fix->vt->create_topic, &t, STI_E_NOT_FOUND,
            "no storage instance \"tape\"; this node has storage_mmap");
    fix->fs->vtable.iface.caps &= ~(uint64_t)STI_STORAGE_DURABLE;
    topic_call_init(&t, "t", 1);
    topic_call_set(&t, "flush.policy", "commit");
    refused(fix, fix->vt->create_topic, &t, STI_E_UNSUPPORTED,
            "flush.policy=commit: storage storage_mmap is not durable and never syncs; use onroll");
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    topic_call_init(&t, "t", -1);
    topic_call_set(&t, "flush.policy", "interval");
    refused(fix, fix->vt->alter_topic, &t, STI_E_UNSUPPORTED,
            "flush.policy=interval: storage storage_mmap is not durable and never syncs; use "
            "onroll");
    topic_call_init(&t, "t", -1);
    topic_call_set(&t, "storage", "storage_mmap");
    refused(fix, fix->vt->alter_topic, &t, STI_E_UNSUPPORTED,
            "storage cannot be altered: a topic stays on the instance that it was created on");
}

static void test_alter(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    struct topic_call t;
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->alter_topic, &t, STI_E_INVALID_ARGUMENT,
            "topic t has 2 partitions, which cannot become 1: partitions are only added");
    topic_call_init(&t, "u", 1);
    refused(fix, fix->vt->alter_topic, &t, STI_E_UNKNOWN_TOPIC, "topic u does not exist");
    assert_int_equal(fix_alter(fix, "t", 4, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 3, 1), 0);
    assert_int_equal(fix_alter(fix, "t", -1, "max.message.bytes", "1024"), STI_OK);
    produce_init(&p, STI_ACKS_LEADER); /* from the answer on */
    produce_add(&p, "t", 0, 1, 2000, 0);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_MESSAGE_TOO_LARGE);
    produce_fini(&p);
    assert_int_equal(fix_alter(fix, "t", -1, "segment.bytes", "30000"), STI_OK);
    fix_settle(fix, "t", 3);
    assert_int_equal(fix->fs->settings.segment_bytes, 30000);
    assert_int_equal(fix_alter(fix, "t", -1, "segment.bytes", NULL), STI_OK);
    fix_settle(fix, "t", 3);
    for (int i = 0; i < 3; i++) {
        fix_settle(fix, "t", i);
    }
    assert_int_equal(fix->fs->settings.segment_bytes, 128 << 20);
    FAKE_SET(fix->fs, configure_status, STI_E_UNSUPPORTED);
    assert_int_equal(fix_alter(fix, "t", -1, "segment.bytes", "40000"), STI_OK);
    for (int i = 0; i < 4; i++) {
        fix_settle(fix, "t", i);
    }
    assert_int_equal(test_host_logged(fix->th, "partition_settings_refused"), 4);
}

static void test_validate_only(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    topic_call_init(&t, "t", 2);
    t.call.flags = STI_TOPIC_VALIDATE_ONLY;
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_OK);
    assert_int_equal(fix->fm->proposals, 0);
    assert_int_equal(fix_create(fix, "t", 2, NULL, NULL), STI_OK);
    topic_call_init(&t, "t", 3);
    t.call.flags = STI_TOPIC_VALIDATE_ONLY;
    assert_int_equal(topic_call_run(fix, fix->vt->alter_topic, &t), STI_OK);
    topic_call_init(&t, "t", -1);
    t.call.flags = STI_TOPIC_VALIDATE_ONLY;
    assert_int_equal(topic_call_run(fix, fix->vt->delete_topic, &t), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 1, 1), 0);
    topic_call_init(&t, "t", -1);
    t.call.flags = 0;
    assert_int_equal(topic_call_run(fix, fix->vt->delete_topic, &t), STI_OK);
}

/* ---- looking
 * ------------------------------------------------------------------------------------- */

struct names {
    char text[256];
};

static void visit_name(void *arg, const struct sti_topic_info *topic)
{
    struct names *names = arg;
    size_t len = strlen(names->text);
    snprintf(names->text + len, sizeof names->text - len, "%s:%u ", topic->name,
             topic->partition_count);
    assert_null(topic->partitions);
    assert_false(brk_id_is_zero(topic->topic_id));
}

static void visit_whole(void *arg, const struct sti_topic_info *topic)
{
    unsigned *own = arg;
    assert_string_equal(topic->name, "b");
    assert_int_equal(topic->config_count, SET_COUNT);
    for (uint32_t i = 0; i < topic->config_count; i++) {
        *own += topic->config[i]->source == STI_CONFIG_TOPIC ? 1u : 0u;
        assert_true(i == 0 || strcmp(topic->config[i - 1]->key, topic->config[i]->key) < 0);
    }
    const struct sti_partition_info *part = topic->partitions[1];
    assert_int_equal(part->partition, 1);
    assert_int_equal(part->leader, 1);
    assert_int_equal(part->replica_count, 1);
    assert_int_equal(part->isr[0], 1);
    assert_int_equal(part->log_end, 4);
    assert_int_equal(part->high_watermark, 4);
    assert_true(part->bytes > 0);
    assert_int_equal(part->status, STI_OK);
}

static void test_list_and_describe(void **state)
{
    struct fixture *fix = *state;
    struct names names = {.text = ""};
    struct sti_node_info node;
    struct sti_err err;
    unsigned own = 0;
    assert_int_equal(fix->vt->list_topics(fix->self, NULL, visit_name, &names, &err), STI_OK);
    assert_string_equal(names.text, "");
    assert_int_equal(fix_create(fix, "c", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "a", 2, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "b", 3, "segment.bytes", "20000"), STI_OK);
    fix_produce(fix, "b", 1, 4);
    assert_int_equal(fix->vt->list_topics(fix->self, NULL, visit_name, &names, &err), STI_OK);
    assert_string_equal(names.text, "a:2 b:3 c:1 ");
    assert_int_equal(fix->vt->describe_topic(fix->self, NULL, "b", visit_whole, &own, &err),
                     STI_OK);
    assert_int_equal(own, 2); /* and the storage, which a topic keeps */
    assert_int_equal(fix->vt->describe_topic(fix->self, NULL, "x", visit_whole, &own, &err),
                     STI_E_UNKNOWN_TOPIC);
    assert_string_equal(err.msg, "topic x does not exist");
    assert_int_equal(fix->vt->find_leader(fix->self, NULL, "b", 2, &node, &err), STI_OK);
    assert_int_equal(node.node_id, 1);
    assert_string_equal(node.host, "");
    assert_int_equal(fix->vt->find_leader(fix->self, NULL, "b", 3, &node, &err),
                     STI_E_UNKNOWN_PARTITION);
    assert_int_equal(fix->vt->find_leader(fix->self, NULL, "x", 0, &node, &err),
                     STI_E_UNKNOWN_TOPIC);
}

/* ---- metadata fails, or takes its time
 * ----------------------------------------------------------- */

static void test_metadata_refuses(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    FAKE_SET(fix->fm, propose_status, STI_E_UNAVAILABLE);
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_UNAVAILABLE, "metadata takes no proposal");
    assert_true(t.call.retry_after_ms > 0);
    FAKE_SET(fix->fm, propose_status, STI_OK);
    FAKE_SET(fix->fm, commit_status, STI_E_DISK_FULL);
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_DISK_FULL, "metadata does not commit");
    FAKE_SET(fix->fm, commit_status, STI_OK);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    FAKE_SET(fix->fm, propose_status, STI_E_UNAVAILABLE);
    assert_int_equal(fix_delete(fix, "t"), STI_E_UNAVAILABLE);
    FAKE_SET(fix->fm, propose_status, STI_OK);
    FAKE_SET(fix->fm, commit_status, STI_E_IO);
    assert_int_equal(fix_delete(fix, "t"), STI_E_IO);
    FAKE_SET(fix->fm, commit_status, STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
}

/* Two creations of one name pass the first check; the log decides. */
static void test_the_log_decides(void **state)
{
    struct fixture *fix = *state;
    struct topic_call first, second, gone[2];
    FAKE_SET(fix->fm, hold, true);
    topic_call_init(&first, "t", 1);
    topic_call_init(&second, "t", 2);
    topic_call_send(fix, fix->vt->create_topic, &first);
    topic_call_send(fix, fix->vt->create_topic, &second);
    assert_int_equal(flag_get(&first.done) + flag_get(&second.done), 0);
    fm_release(fix->fm);
    flag_wait(&first.done, 1);
    flag_wait(&second.done, 1);
    assert_int_equal(first.call.status, STI_OK);
    assert_int_equal(second.call.status, STI_E_ALREADY_EXISTS);
    FAKE_SET(fix->fm, hold, true);
    for (int i = 0; i < 2; i++) {
        topic_call_init(&gone[i], "t", -1);
        topic_call_send(fix, fix->vt->delete_topic, &gone[i]);
    }
    fm_release(fix->fm);
    flag_wait(&gone[0].done, 1);
    flag_wait(&gone[1].done, 1);
    assert_int_equal(gone[0].call.status, STI_OK);
    assert_int_equal(gone[1].call.status, STI_E_UNKNOWN_TOPIC);
}

static void test_open_fails(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    struct topic_call t;
    FAKE_SET(fix->fs, open_status, STI_E_DISK_FULL);
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_DISK_FULL, "the fake does not open");
    assert_int_equal(fix_partition(fix, "t", 0).status, STI_E_DISK_FULL); /* it exists */
    assert_int_equal(fix_partition(fix, "t", 0).log_end, -1);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_DISK_FULL);
    produce_fini(&p);
    assert_int_equal(test_host_metric(fix->th, "streamit_partitions_offline", NULL), 1);
    FAKE_SET(fix->fs, open_status, STI_OK);
    fix_restart(fix); /* never marked as created, so it is made now */
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    FAKE_SET(fix->fr, open_status, STI_E_NO_MEMORY);
    topic_call_init(&t, "t", 1);
    refused(fix, fix->vt->create_topic, &t, STI_E_NO_MEMORY, "replication does not open");
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fix_setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(create),          TEST(names),         TEST(counts_and_limits), TEST(settings),
        TEST(alter),           TEST(validate_only), TEST(list_and_describe), TEST(metadata_refuses),
        TEST(the_log_decides), TEST(open_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
