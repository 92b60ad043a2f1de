/* Rights: every call asks once for each of its topics, before it looks; a refusal names who, what
 * and where; and without an auth plugin nobody is asked. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* Lets "User:root" do everything, others only what `allowed` names, with topics that begin with
 * "open". Counts the questions. */
struct guard {
    struct sti_auth vtable;
    atomic_uint asked, known;
    atomic_int allowed; /* enum sti_operation, 0: nothing */
    char last_client[32];
};

static int guard_authenticate(void *self, const struct sti_credentials *c, char *principal,
                              size_t principal_max, struct sti_err *err)
{
    struct guard *g = self;
    atomic_fetch_add(&g->known, 1);
    if (strcmp(c->mechanism, "bearer") != 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "mechanism %s is not offered", c->mechanism);
    }
    if (c->secret_len == 4 && memcmp(c->secret, "root", 4) == 0) {
        snprintf(principal, principal_max, "User:root");
        return STI_OK;
    }
    if (c->secret_len == 0) {
        return STI_OK; /* says nobody, which is a mistake of the plugin */
    }
    return sti_err_set(err, STI_E_UNAUTHENTICATED, "the token is not known");
}

static int guard_authorize(void *self, const struct sti_request *request, int operation,
                           int resource, const char *name, struct sti_err *err)
{
    struct guard *g = self;
    atomic_fetch_add(&g->asked, 1);
    assert_int_equal(resource, STI_RESOURCE_TOPIC);
    assert_non_null(request);
    if (strcmp(request->principal, "User:root") == 0 ||
        (operation == atomic_load(&g->allowed) && strncmp(name, "open", 4) == 0)) {
        return STI_OK;
    }
    return sti_err_set(err, STI_E_PERMISSION_DENIED, "rule 7 of a secret list");
}

static struct guard guard = {.vtable = {.iface = {.struct_size = sizeof(struct sti_auth),
                                                  .major = STI_AUTH_MAJOR,
                                                  .minor = STI_AUTH_MINOR,
                                                  .id = STI_AUTH_ID},
                                        .authenticate = guard_authenticate,
                                        .authorize = guard_authorize}};

static struct sti_request who(const char *principal)
{
    return (struct sti_request){.struct_size = sizeof(struct sti_request),
                                .principal = principal,
                                .client_id = "c",
                                .peer = "127.0.0.1:1",
                                .listener = "test",
                                .trace_id = "t-1",
                                .deadline_us = UINT64_MAX};
}

static int create(struct fixture *fix, const char *name, const char *principal)
{
    struct topic_call t;
    struct sti_request request = who(principal);
    topic_call_init(&t, name, 1);
    t.call.request = &request;
    return topic_call_run(fix, fix->vt->create_topic, &t);
}

static int setup(void **state)
{
    struct fixture *fix = fix_new();
    test_host_provide(fix->th, "guard", &guard.vtable.iface, &guard);
    fix->conf.auth = "guard";
    fix_start(fix);
    atomic_store(&guard.allowed, 0);
    assert_int_equal(create(fix, "open", "User:root"), STI_OK);
    assert_int_equal(create(fix, "shut", "User:root"), STI_OK);
    atomic_store(&guard.asked, 0);
    *state = fix;
    return 0;
}

static void test_produce(void **state)
{
    struct fixture *fix = *state;
    struct sti_request bob = who("User:bob");
    struct produce_call p;
    atomic_store(&guard.allowed, STI_OP_WRITE);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "open", 0, 1, 10, 0);
    produce_add(&p, "shut", 0, 1, 10, 0);
    produce_add(&p, "nowhere", 0, 1, 10, 0); /* whether it is there is not told */
    produce_add(&p, "open-too", 0, 1, 10, 0);
    p.call.request = &bob;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_OK);
    assert_int_equal(p.rows[1].status, STI_E_PERMISSION_DENIED);
    assert_string_equal(p.rows[1].err.msg, "User:bob may not write to topic shut");
    assert_int_equal(p.rows[2].status, STI_E_PERMISSION_DENIED);
    assert_int_equal(p.rows[3].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(atomic_load(&guard.asked), 4);
    assert_int_equal(test_host_metric(fix->th, "streamit_permission_denied_total", NULL), 2);
    produce_fini(&p);
}

static void test_fetch(void **state)
{
    struct fixture *fix = *state;
    struct sti_request bob = who("User:bob");
    struct fetch_call f;
    atomic_store(&guard.allowed, STI_OP_READ);
    fetch_init(&f, 60000); /* a refusal is an answer */
    fetch_add(&f, "open", 0, 0);
    fetch_add(&f, "shut", 0, 0);
    f.call.request = &bob;
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_int_equal(f.rows[1].status, STI_E_PERMISSION_DENIED);
    assert_string_equal(f.rows[1].err.msg, "User:bob may not read topic shut");
    assert_int_equal(f.rows[1].high_watermark, -1);
    assert_int_equal(atomic_load(&guard.asked), 2);
    fetch_fini(&f);
    fetch_init(&f, 0);
    fetch_add(&f, "open", 0, 0); /* without a context nobody is root */
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    fetch_fini(&f);
}

static void count_visit(void *arg, const struct sti_topic_info *topic)
{
    assert_string_equal(topic->name, "open");
    ++*(int *)arg;
}

static void on_offsets(struct sti_list_offsets *call)
{
    flag_raise(call->user);
}

static void on_await(struct sti_await *call)
{
    flag_raise(call->user);
}

static void test_looks(void **state)
{
    struct fixture *fix = *state;
    struct sti_request bob = who("User:bob");
    struct sti_node_info node;
    struct sti_err err;
    int visits = 0;
    atomic_store(&guard.allowed, STI_OP_DESCRIBE);
    assert_int_equal(fix->vt->list_topics(fix->self, &bob, count_visit, &visits, &err), STI_OK);
    assert_int_equal(visits, 1); /* what one may not describe one does not see */
    assert_int_equal(fix->vt->describe_topic(fix->self, &bob, "open", count_visit, &visits, &err),
                     STI_OK);
    assert_int_equal(fix->vt->describe_topic(fix->self, &bob, "shut", count_visit, &visits, &err),
                     STI_E_PERMISSION_DENIED);
    assert_string_equal(err.msg, "User:bob may not describe topic shut");
    assert_int_equal(visits, 2);
    assert_int_equal(fix->vt->find_leader(fix->self, &bob, "open", 0, &node, &err), STI_OK);
    assert_int_equal(fix->vt->find_leader(fix->self, &bob, "shut", 0, &node, &err),
                     STI_E_PERMISSION_DENIED);
    struct flag done = {0};
    struct sti_list_offsets_row rows[2] = {
        {.struct_size = sizeof rows[0], .topic = "open", .timestamp_ms = -1},
        {.struct_size = sizeof rows[0], .topic = "shut", .timestamp_ms = -1}};
    struct sti_list_offsets_row *pointers[2] = {&rows[0], &rows[1]};
    struct sti_list_offsets offsets = {.struct_size = sizeof offsets,
                                       .row_count = 2,
                                       .request = &bob,
                                       .rows = pointers,
                                       .done = on_offsets,
                                       .user = &done};
    assert_int_equal(fix->vt->list_offsets(fix->self, &offsets, &err), STI_OK);
    flag_wait(&done, 1);
    assert_int_equal(rows[0].status, STI_OK);
    assert_int_equal(rows[0].offset, 0);
    assert_int_equal(rows[1].status, STI_E_PERMISSION_DENIED);
    assert_int_equal(rows[1].offset, -1);
    struct sti_await await = {.struct_size = sizeof await,
                              .request = &bob,
                              .topic = "shut",
                              .done = on_await,
                              .user = &done};
    assert_int_equal(fix->vt->await_topic(fix->self, &await, &err), STI_OK);
    flag_wait(&done, 2);
}

static void test_changes(void **state)
{
    struct fixture *fix = *state;
    static const struct {
        int operation;
        const char *refusal;
    } cases[] = {{STI_OP_CREATE, "User:bob may not create topic shut"},
                 {STI_OP_ALTER, "User:bob may not alter topic shut"},
                 {STI_OP_DELETE, "User:bob may not delete topic shut"}};
    fix_topic_fn *const fns[] = {fix->vt->create_topic, fix->vt->alter_topic,
                                 fix->vt->delete_topic};
    struct sti_request bob = who("User:bob");
    for (int i = 0; i < 3; i++) {
        struct topic_call t;
        atomic_store(&guard.allowed, cases[i].operation);
        topic_call_init(&t, "shut", i == 1 ? 2 : 1);
        t.call.request = &bob;
        assert_int_equal(topic_call_run(fix, fns[i], &t), STI_E_PERMISSION_DENIED);
        assert_string_equal(t.call.err.msg, cases[i].refusal);
        topic_call_init(&t, i == 0 ? "open-2" : "open", i == 1 ? 2 : 1);
        t.call.request = &bob;
        assert_int_equal(topic_call_run(fix, fns[i], &t), STI_OK);
    }
    assert_int_equal(atomic_load(&guard.asked), 6);
    assert_int_equal(test_host_logged(fix->th, "topic_change_refused"), 3);
    assert_int_equal(test_host_logged(fix->th, "topic_created"), 3); /* two by setup */
    assert_int_equal(test_host_logged(fix->th, "topic_altered"), 1);
    assert_int_equal(test_host_logged(fix->th, "topic_deleted"), 1);
}

static void test_authenticate(void **state)
{
    struct fixture *fix = *state;
    char principal[STI_PRINCIPAL_MAX + 1];
    struct sti_err err;
    struct sti_credentials c = {
        .struct_size = sizeof c, .mechanism = "bearer", .secret = "root", .secret_len = 4};
    assert_int_equal(fix->vt->authenticate(fix->self, &c, principal, sizeof principal, &err),
                     STI_OK);
    assert_string_equal(principal, "User:root");
    c.secret = "toor";
    assert_int_equal(fix->vt->authenticate(fix->self, &c, principal, sizeof principal, &err),
                     STI_E_UNAUTHENTICATED);
    assert_string_equal(err.msg, "the token is not known");
    c.secret_len = 0;
    assert_int_equal(fix->vt->authenticate(fix->self, &c, principal, sizeof principal, &err),
                     STI_E_UNAUTHENTICATED);
    assert_string_equal(err.msg, "guard names no principal");
    c.mechanism = "none";
    assert_int_equal(fix->vt->authenticate(fix->self, &c, principal, sizeof principal, &err),
                     STI_E_UNSUPPORTED);
    assert_int_equal(test_host_metric(fix->th, "streamit_unauthenticated_total", NULL), 3);
}

/* Start over: the broker of the fixture is not started. @return what start says */
static int start_with(struct fixture *fix, const char *auth, struct sti_err *err)
{
    void *self;
    test_host_provide(fix->th, "storage_mmap", &fix->fs->vtable.iface, fix->fs);
    test_host_provide(fix->th, "metadata", &fix->fm->vtable.iface, fix->fm);
    test_host_provide(fix->th, "replication", &fix->fr->vtable.iface, fix->fr);
    fix->provided = true;
    fix->conf.auth = auth;
    assert_int_equal(sti_broker_plugin.life->create(&fix->host, &fix->conf, &self, err), STI_OK);
    int rc = sti_broker_plugin.life->start(self, err);
    if (rc == STI_OK) {
        assert_int_equal(sti_broker_plugin.life->stop(self, FIX_PATIENCE_S * 1000, err), STI_OK);
    }
    sti_broker_plugin.life->destroy(self);
    return rc;
}

static void test_binding(void **state)
{
    struct sti_err err;
    (void)state;
    struct fixture *fix = fix_new();
    assert_int_equal(start_with(fix, "nobody", &err), STI_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "broker.auth = \"nobody\""));
    fix_free(fix);
    fix = fix_new();
    test_host_provide(fix->th, "guard", &guard.vtable.iface, &guard);
    assert_int_equal(start_with(fix, NULL, &err), STI_E_CONFIG);
    assert_string_equal(err.msg, "guard is an auth plugin, and broker.auth is not set: set "
                                 "broker.auth = \"guard\", or remove the plugin");
    fix_free(fix);
}

static void test_allow_all(void **state)
{
    char principal[STI_PRINCIPAL_MAX + 1];
    struct sti_credentials c = {.struct_size = sizeof c, .mechanism = "bearer", .secret_len = 4};
    struct sti_err err;
    struct fixture *fix = fix_new();
    (void)state;
    fix_start(fix);
    assert_int_equal(fix->vt->authenticate(fix->self, &c, principal, sizeof principal, &err),
                     STI_OK);
    assert_string_equal(principal, STI_PRINCIPAL_ANONYMOUS);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    fix_stop(fix);
    fix_free(fix);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(produce),
        TEST(fetch),
        TEST(looks),
        TEST(changes),
        TEST(authenticate),
        cmocka_unit_test(test_binding),
        cmocka_unit_test(test_allow_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
