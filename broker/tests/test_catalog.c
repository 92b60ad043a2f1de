/* test_catalog.c -- the cluster state machine: commands, snapshots, and bytes that are neither. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "streamit/internal/cluster.pb-c.h"

static unsigned created, altered, deleted;

static void on_created(void *ctx, const struct cat_topic *topic)
{
    (void)ctx;
    created += topic->name != NULL ? 1u : 0u;
}

static void on_altered(void *ctx, const struct cat_topic *topic)
{
    (void)ctx;
    altered += topic->name != NULL ? 1u : 0u;
}

static void on_deleted(void *ctx, const struct cat_topic *topic)
{
    (void)ctx;
    deleted += topic->deleted ? 1u : 0u;
}

static const struct cat_observer observer = {on_created, on_altered, on_deleted};
static const uint8_t id_a[16] = {1}, id_b[16] = {2};

static int setup(void **state)
{
    static struct catalog cat;
    created = altered = deleted = 0;
    cat_init(&cat, &observer, NULL);
    *state = &cat;
    return 0;
}

static int teardown(void **state)
{
    cat_fini(*state);
    return 0;
}

/* Apply a command and free it. */
static int apply(struct catalog *cat, uint8_t *command, size_t len, struct sti_err *err)
{
    sti_err_clear(err);
    assert_non_null(command);
    int rc = cat_apply(cat, command, len, err);
    free(command);
    return rc;
}

static uint8_t *create_bytes(const char *name, const uint8_t id[16], int32_t partitions,
                             size_t *len)
{
    static char key[] = "segment.bytes", value[] = "20000", key2[] = "retention.ms", value2[] = "5";
    static const struct cat_setting settings[] = {{key, value}, {key2, value2}};
    struct cat_create create = {.name = name,
                                .id = id,
                                .partitions = partitions,
                                .replication = 1,
                                .leader = 7,
                                .settings = settings,
                                .setting_count = 2};
    return cat_encode_create(&create, len);
}

static int create(struct catalog *cat, const char *name, const uint8_t id[16], int32_t partitions,
                  struct sti_err *err)
{
    size_t len = 0;
    uint8_t *bytes = create_bytes(name, id, partitions, &len);
    return apply(cat, bytes, len, err);
}

static void test_create(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    assert_int_equal(create(cat, "a", id_a, 3, &err), STI_OK);
    struct cat_topic *topic = cat_find(cat, "a");
    assert_non_null(topic);
    assert_ptr_equal(topic, cat_find_id(cat, id_a));
    assert_int_equal(topic->partition_count, 3);
    assert_int_equal(topic->created, 0);
    assert_int_equal(topic->partitions[2].leader, 7);
    assert_int_equal(topic->partitions[2].leader_epoch, 0);
    assert_int_equal(topic->setting_count, 2);
    assert_string_equal(topic->settings[0].value, "20000");
    assert_int_equal(cat->topic_count, 1);
    assert_int_equal(cat->partition_count, 3);
    /* The same command once more changes nothing; another topic of that name is refused. */
    assert_int_equal(create(cat, "a", id_a, 3, &err), STI_OK);
    assert_int_equal(created, 1);
    assert_int_equal(create(cat, "a", id_b, 1, &err), STI_E_ALREADY_EXISTS);
    assert_string_equal(err.msg, "topic a exists already");
    assert_int_equal(cat->topic_count, 1);
    assert_null(cat_find(cat, "b"));
    assert_null(cat_find_id(cat, id_b));
}

static void test_created(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    size_t len;
    assert_int_equal(create(cat, "a", id_a, 3, &err), STI_OK);
    struct cat_topic *topic = cat_find(cat, "a");
    uint8_t *bytes = cat_encode_created(id_a, 2, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(topic->created, 2);
    bytes = cat_encode_created(id_a, 1, &len); /* never back */
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(topic->created, 2);
    bytes = cat_encode_created(id_a, 4, &len); /* never beyond */
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(topic->created, 2);
    bytes = cat_encode_created(id_b, 1, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_E_UNKNOWN_TOPIC);
}

static void test_raise(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    size_t len;
    static const uint8_t gone[16] = {9};
    const uint8_t *ids[] = {id_a, gone, id_b};
    assert_int_equal(create(cat, "a", id_a, 2, &err), STI_OK);
    assert_int_equal(create(cat, "b", id_b, 1, &err), STI_OK);
    int32_t leader = cat_find(cat, "a")->partitions[0].leader;
    unsigned before = altered;
    uint8_t *bytes = cat_encode_raise(ids, 3, leader, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(cat_find(cat, "a")->partitions[0].leader_epoch, 1);
    assert_int_equal(cat_find(cat, "a")->partitions[1].leader_epoch, 1);
    assert_int_equal(cat_find(cat, "b")->partitions[0].leader_epoch, 1);
    assert_int_equal(altered, before + 2);
    bytes = cat_encode_raise(ids, 1, leader + 1, &len); /* another node's are not touched */
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(cat_find(cat, "a")->partitions[0].leader_epoch, 1);
    bytes = cat_encode_raise(ids, 0, leader, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(altered, before + 2);
}

static int alter(struct catalog *cat, const uint8_t id[16], int32_t partitions, int32_t more,
                 const char *key, const char *value, struct sti_err *err)
{
    struct cat_setting setting = {(char *)(uintptr_t)key, (char *)(uintptr_t)value};
    size_t len = 0;
    uint8_t *bytes = cat_encode_alter(id, partitions, more, 7, &setting, key == NULL ? 0 : 1, &len);
    return apply(cat, bytes, len, err);
}

static void test_alter(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    assert_int_equal(create(cat, "a", id_a, 2, &err), STI_OK);
    struct cat_topic *topic = cat_find(cat, "a");
    assert_int_equal(alter(cat, id_a, 5, 3, NULL, NULL, &err), STI_OK);
    assert_int_equal(topic->partition_count, 5);
    assert_int_equal(cat->partition_count, 5);
    assert_int_equal(alter(cat, id_a, 5, 0, NULL, NULL, &err), STI_OK); /* as it is */
    assert_int_equal(alter(cat, id_a, 4, 0, NULL, NULL, &err), STI_E_INVALID_ARGUMENT);
    assert_string_equal(err.msg, "topic a has 5 partitions, which cannot become 4: partitions are "
                                 "only added");
    assert_int_equal(alter(cat, id_a, INT32_MIN, 0, NULL, NULL, &err), STI_E_INVALID_ARGUMENT);
    assert_int_equal(alter(cat, id_a, 9, 1, NULL, NULL, &err), STI_E_PRECONDITION);
    assert_string_equal(err.msg, "topic a was altered by somebody else; try again");
    assert_int_equal(alter(cat, id_a, 0, 0, "flush.policy", "commit", &err), STI_OK);
    assert_int_equal(topic->setting_count, 3);
    assert_int_equal(alter(cat, id_a, 0, 0, "segment.bytes", "30000", &err), STI_OK);
    assert_string_equal(topic->settings[0].value, "30000");
    assert_int_equal(alter(cat, id_a, 0, 0, "segment.bytes", NULL, &err), STI_OK);
    assert_int_equal(alter(cat, id_a, 0, 0, "segment.bytes", NULL, &err), STI_OK);
    assert_int_equal(topic->setting_count, 2);
    assert_int_equal(alter(cat, id_b, 0, 0, NULL, NULL, &err), STI_E_UNKNOWN_TOPIC);
    assert_string_equal(err.msg, "the topic has been deleted meanwhile");
}

static void test_delete_and_purge(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    size_t len;
    assert_int_equal(create(cat, "a", id_a, 2, &err), STI_OK);
    uint8_t *bytes = cat_encode_purged(id_a, &len); /* not deleted: nothing happens */
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_non_null(cat_find(cat, "a"));
    bytes = cat_encode_delete(id_a, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(deleted, 1);
    assert_int_equal(cat->topic_count, 0);
    assert_int_equal(cat->partition_count, 0);
    bytes = cat_encode_delete(id_a, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_E_UNKNOWN_TOPIC);
    assert_int_equal(alter(cat, id_a, 0, 0, NULL, NULL, &err), STI_E_UNKNOWN_TOPIC);
    assert_int_equal(create(cat, "a", id_b, 1, &err), STI_E_UNAVAILABLE);
    assert_string_equal(err.msg, "topic a: its predecessor is still being deleted");
    bytes = cat_encode_purged(id_a, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_null(cat_find(cat, "a"));
    bytes = cat_encode_purged(id_a, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(create(cat, "a", id_b, 1, &err), STI_OK);
    assert_int_equal(created, 2);
}

/* ---- snapshots
 * ----------------------------------------------------------------------------------- */

struct bytes {
    uint8_t data[4096];
    size_t len;
};

static int bytes_write(void *ctx, const void *data, size_t len, struct sti_err *err)
{
    struct bytes *out = ctx;
    (void)err;
    assert_true(out->len + len <= sizeof out->data);
    memcpy(out->data + out->len, data, len);
    out->len += len;
    return STI_OK;
}

static int full_write(void *ctx, const void *data, size_t len, struct sti_err *err)
{
    (void)ctx;
    (void)data;
    (void)len;
    return sti_err_set(err, STI_E_DISK_FULL, "full");
}

static void snapshot(struct catalog *cat, struct bytes *out)
{
    const struct sti_metadata_sink sink = {.write = bytes_write, .ctx = out};
    out->len = 0;
    assert_int_equal(cat_snapshot(cat, &sink, NULL), STI_OK);
}

static void fill(struct catalog *cat)
{
    struct sti_err err;
    size_t len;
    assert_int_equal(create(cat, "a", id_a, 2, &err), STI_OK);
    uint8_t *bytes = cat_encode_created(id_a, 1, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
    assert_int_equal(create(cat, "b", id_b, 3, &err), STI_OK);
    bytes = cat_encode_delete(id_b, &len);
    assert_int_equal(apply(cat, bytes, len, &err), STI_OK);
}

static void test_snapshot(void **state)
{
    static struct bytes first, second, third;
    struct catalog *cat = *state, again;
    struct sti_err err;
    fill(cat);
    snapshot(cat, &first);
    cat_init(&again, &observer, NULL);
    assert_int_equal(cat_restore(&again, first.data, first.len, &err), STI_OK);
    assert_int_equal(again.topic_count, 1);
    assert_int_equal(again.partition_count, 2);
    struct cat_topic *a = cat_find(&again, "a"), *b = cat_find(&again, "b");
    assert_int_equal(a->created, 1);
    assert_int_equal(a->partitions[1].leader, 7);
    assert_int_equal(a->setting_count, 2);
    assert_true(b->deleted);
    /* A list in no order: twice around is byte for byte the same. */
    snapshot(&again, &second);
    assert_int_equal(second.len, first.len);
    assert_int_equal(cat_restore(&again, second.data, second.len, &err), STI_OK);
    snapshot(&again, &third);
    assert_int_equal(third.len, first.len);
    assert_memory_equal(third.data, first.data, first.len);
    const struct sti_metadata_sink full = {.write = full_write};
    assert_int_equal(cat_snapshot(&again, &full, &err), STI_E_DISK_FULL);
    assert_int_equal(cat_restore(&again, NULL, 0, &err), STI_E_UNSUPPORTED);
    assert_null(again.topics);
    cat_fini(&again);
}

static void test_damaged_snapshots(void **state)
{
    static struct bytes whole, copy;
    struct catalog *cat = *state, again;
    struct sti_err err;
    fill(cat);
    snapshot(cat, &whole);
    cat_init(&again, &observer, NULL);
    for (size_t len = 0; len < whole.len; len++) {
        uint8_t *cut = malloc(len + 1); /* so that a byte too many is seen */
        assert_non_null(cut);
        memcpy(cut, whole.data, len);
        uint8_t *exact = realloc(cut, len == 0 ? 1 : len);
        int rc = cat_restore(&again, exact, len, &err);
        assert_true(rc == STI_OK || rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED);
        assert_true(rc == STI_OK || again.topics == NULL);
        assert_true(again.topic_count <= 1 && again.partition_count <= 2);
        free(exact);
    }
    for (size_t at = 0; at < whole.len; at++) {
        for (int bit = 0; bit < 8; bit++) {
            copy = whole;
            copy.data[at] ^= (uint8_t)(1 << bit);
            int rc = cat_restore(&again, copy.data, copy.len, &err);
            assert_true(rc == STI_OK || again.topics == NULL);
        }
    }
    cat_fini(&again);
}

static void test_damaged_commands(void **state)
{
    struct catalog *cat = *state;
    struct sti_err err;
    size_t len = 0;
    uint8_t *whole = create_bytes("a", id_a, 3, &len);
    assert_int_equal(cat_apply(cat, "\xff\xff\xff", 3, &err), STI_E_DATA_LOSS);
    assert_string_equal(err.msg, "a cluster command of 3 bytes cannot be decoded");
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut == 0 ? 1 : cut);
        assert_non_null(copy);
        memcpy(copy, whole, cut);
        int rc = apply(cat, copy, cut, &err);
        assert_true(rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED);
        assert_null(cat->topics);
    }
    for (size_t at = 0; at < len; at++) {
        uint8_t *copy = malloc(len);
        assert_non_null(copy);
        memcpy(copy, whole, len);
        copy[at] ^= 0x81;
        (void)apply(cat, copy, len, &err);
        cat_fini(cat);
    }
    free(whole);
}

static void test_versions_and_shapes(void **state)
{
    struct catalog *cat = *state;
    Streamit__Internal__Command c = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__CreateTopic topic = STREAMIT__INTERNAL__CREATE_TOPIC__INIT;
    int32_t replicas[] = {1, 2, 3};
    static char name[] = "x";
    uint8_t bytes[256];
    struct sti_err err;
    c.version = 2;
    size_t len = streamit__internal__command__pack(&c, bytes);
    assert_int_equal(cat_apply(cat, bytes, len, &err), STI_E_UNSUPPORTED);
    assert_string_equal(err.msg,
                        "cluster command version 2, this broker knows 1: upgrade StreamIt");
    c.version = CAT_VERSION;
    len = streamit__internal__command__pack(&c, bytes);
    assert_int_equal(cat_apply(cat, bytes, len, &err), STI_E_UNSUPPORTED);
    c.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_CREATE_TOPIC;
    c.create_topic = &topic;
    topic.name = name;
    topic.topic_id = (ProtobufCBinaryData){.len = 15, .data = (uint8_t *)(uintptr_t)id_a};
    topic.partitions = 3;
    topic.replication = 1;
    topic.replicas = replicas;
    topic.n_replicas = 3;
    for (int wrong = 0; wrong < 4; wrong++) {
        topic.topic_id.len = wrong == 0 ? 15 : 16;
        topic.n_replicas = wrong == 1 ? 2 : 3;
        topic.partitions = wrong == 2 ? -3 : 3;
        topic.replication = wrong == 3 ? -1 : 1;
        len = streamit__internal__command__pack(&c, bytes);
        assert_int_equal(cat_apply(cat, bytes, len, &err), STI_E_INVALID_ARGUMENT);
        assert_string_equal(err.msg, "topic x: malformed creation");
    }
    assert_null(cat->topics);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

/* More topics than buckets: every one is found by name and by id, also while others go. */
static void test_many(void **state)
{
    enum { MANY = 3000 };
    struct catalog *cat = *state;
    struct sti_err err;
    char name[16];
    size_t len;
    for (int i = 0; i < MANY; i++) {
        uint8_t id[16] = {(uint8_t)(i >> 8), (uint8_t)i, (uint8_t)(i * 7)};
        snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(create(cat, name, id, 1, &err), STI_OK);
    }
    for (int i = 0; i < MANY; i += 3) {
        uint8_t id[16] = {(uint8_t)(i >> 8), (uint8_t)i, (uint8_t)(i * 7)};
        uint8_t *command = cat_encode_delete(id, &len);
        assert_int_equal(apply(cat, command, len, &err), STI_OK);
        command = cat_encode_purged(id, &len);
        assert_int_equal(apply(cat, command, len, &err), STI_OK);
    }
    int listed = 0;
    for (const struct cat_topic *t = cat->topics; t != NULL; t = t->next) {
        assert_true(t->next == NULL || t->next->prev == t);
        listed++;
    }
    assert_int_equal(listed, MANY - MANY / 3);
    for (int i = 0; i < MANY; i++) {
        uint8_t id[16] = {(uint8_t)(i >> 8), (uint8_t)i, (uint8_t)(i * 7)};
        snprintf(name, sizeof name, "m%d", i);
        struct cat_topic *topic = cat_find(cat, name);
        assert_int_equal(topic == NULL, i % 3 == 0);
        assert_ptr_equal(cat_find_id(cat, id), topic);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(create),
        TEST(created),
        TEST(alter),
        TEST(raise),
        TEST(delete_and_purge),
        TEST(snapshot),
        TEST(many),
        TEST(damaged_snapshots),
        TEST(damaged_commands),
        TEST(versions_and_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
