/* Quotas: how buckets fill and empty, whom a rule is of, what becomes of them under change, and
 * what the calls of the broker say. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

#define S 1000000u

/* ---- buckets alone ------------------------------------------------------------------------- */

struct bench {
    struct test_host *th;
    struct quota q;
    struct quota_rule rules[4];
    const void *rows[4];
    struct quota_conf conf;
};

static struct bench *bench_new(size_t count, const struct quota_rule *rules)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->th = test_host_new("/nonexistent", 1);
    for (size_t i = 0; i < count; i++) {
        b->rules[i] = rules[i];
        b->rows[i] = &b->rules[i];
    }
    b->conf = (struct quota_conf){
        .rules = {.count = count, .rows = b->rows}, .window_ms = 1000, .entities_max = 64};
    quota_init(&b->q, test_host_for(b->th, "broker"));
    quota_metrics(&b->q);
    assert_int_equal(quota_set(&b->q, &b->conf, NULL), STI_OK);
    return b;
}

static void bench_free(struct bench *b)
{
    quota_fini(&b->q);
    test_host_free(b->th);
    free(b);
}

static struct sti_request who(const char *client_id, const char *principal)
{
    return (struct sti_request){.struct_size = sizeof(struct sti_request),
                                .client_id = client_id,
                                .principal = principal,
                                .peer = "127.0.0.1:1",
                                .listener = "test",
                                .trace_id = "",
                                .deadline_us = UINT64_MAX};
}

/* @return 0: taken, else when to ask again */
static uint32_t take(struct bench *b, const struct sti_request *r, enum quota_kind kind,
                     uint64_t amount, uint64_t now_us)
{
    struct quota_refusal refusal = {.kind = QUOTA_KINDS};
    if (quota_take(&b->q, r, kind, amount, now_us, &refusal)) {
        assert_int_equal(refusal.kind, QUOTA_KINDS);
        return 0;
    }
    assert_int_equal(refusal.kind, kind);
    assert_true(refusal.retry_after_ms > 0);
    return refusal.retry_after_ms;
}

static void test_bucket(void **state)
{
    (void)state;
    struct bench *b =
        bench_new(1, (struct quota_rule[]){{.client_id = "*", .rate = {[QUOTA_REQUESTS] = 10}}});
    struct sti_request a = who("a", "User:x"), c = who("c", "User:x");
    uint64_t t = 100 * S;
    for (int i = 0; i < 10; i++) { /* what flows in within the window */
        assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, t), 0);
    }
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, t), 1); /* to the nanosecond full again */
    assert_int_equal(take(b, &c, QUOTA_REQUESTS, 1, t), 0); /* has a bucket of its own */
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 1u << 30, t), 0); /* not limited */
    t += 1000;
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, t), 0);
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, t), 100);
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, t + 100000), 0);
    uint64_t taken = 0;
    for (uint64_t i = 0; i < 60000; i++) { /* a minute of asking every millisecond */
        taken += take(b, &a, QUOTA_REQUESTS, 1, t + 100000 + i * 1000) == 0;
    }
    assert_in_range(taken, 599, 601);
    /* Idle for long, it has one window again, no more. */
    taken = 0;
    for (int i = 0; i < 100; i++) {
        taken += take(b, &a, QUOTA_REQUESTS, 1, t + 1000 * S) == 0;
    }
    assert_int_equal(taken, 10);
    bench_free(b);
}

static void test_credit(void **state)
{
    (void)state;
    struct bench *b = bench_new(
        2, (struct quota_rule[]){{.client_id = "slow", .rate = {[QUOTA_PRODUCE_BYTES] = 1}},
                                 {.client_id = "*", .rate = {[QUOTA_PRODUCE_BYTES] = 1000}}});
    struct sti_request slow = who("slow", ""), other = who("other", "");
    assert_int_equal(take(b, &other, QUOTA_PRODUCE_BYTES, 3000, S), 0);
    assert_int_equal(take(b, &other, QUOTA_PRODUCE_BYTES, 1, S), 2001);
    assert_int_equal(take(b, &other, QUOTA_PRODUCE_BYTES, 1, 3 * S + 1000), 0);
    /* A byte a second, and 16 MiB at once: a day is the longest that anybody is put off. */
    assert_int_equal(take(b, &slow, QUOTA_PRODUCE_BYTES, 16u << 20, S), 0);
    assert_in_range(take(b, &slow, QUOTA_PRODUCE_BYTES, 1, S), 86399000, QUOTA_DEBT_MAX_MS + 1);
    for (int i = 0; i < 10; i++) {
        quota_charge(&b->q, &slow, QUOTA_PRODUCE_BYTES, UINT64_MAX / 2, S);
    }
    assert_in_range(take(b, &slow, QUOTA_PRODUCE_BYTES, 1, S), 86399000, QUOTA_DEBT_MAX_MS + 1);
    assert_int_equal(quota_left(&b->q, &slow, QUOTA_PRODUCE_BYTES, S), 0);
    assert_int_equal(take(b, &slow, QUOTA_PRODUCE_BYTES, 1, (86402u) * (uint64_t)S), 0);
    bench_free(b);
}

/* A clock that goes back, which the monotonic one never does, or far ahead, costs nobody more than
 * the time that it was off by. */
static void test_clock_steps(void **state)
{
    (void)state;
    struct bench *b =
        bench_new(1, (struct quota_rule[]){{.client_id = "*", .rate = {[QUOTA_REQUESTS] = 1}}});
    struct sti_request a = who("a", "");
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, 1000 * S), 0);
    assert_in_range(take(b, &a, QUOTA_REQUESTS, 1, 990 * S), 10000, 11001);
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, UINT64_MAX / 2000), 0);
    assert_in_range(take(b, &a, QUOTA_REQUESTS, 1, UINT64_MAX / 2000), 1, 1001);
    bench_free(b);
}

static void test_both(void **state)
{
    (void)state;
    struct bench *b = bench_new(
        3, (struct quota_rule[]){{.client_id = "*", .rate = {[QUOTA_REQUESTS] = 10}},
                                 {.client_id = "free"},
                                 {.principal = "User:p", .rate = {[QUOTA_REQUESTS] = 1}}});
    struct sti_request a = who("a", "User:p"), other = who("a", "User:q"),
                       f = who("free", "User:q");
    assert_int_equal(take(b, &a, QUOTA_REQUESTS, 1, S), 0);
    for (int i = 0; i < 50; i++) { /* the principal refuses, and the client id gets its call back */
        assert_true(take(b, &a, QUOTA_REQUESTS, 1, S) > 0);
    }
    for (int i = 0; i < 9; i++) {
        assert_int_equal(take(b, &other, QUOTA_REQUESTS, 1, S), 0);
    }
    assert_true(take(b, &other, QUOTA_REQUESTS, 1, S) > 0);
    for (int i = 0; i < 50; i++) { /* a row of its own without limits */
        assert_int_equal(take(b, &f, QUOTA_REQUESTS, 1, S), 0);
    }
    assert_int_equal(quota_left(&b->q, &f, QUOTA_REQUESTS, S), UINT64_MAX);
    assert_int_equal(test_host_metric(b->th, "streamit_quota_throttled_total",
                                      "quota=\"requests_per_s\",by=\"principal\""),
                     50);
    assert_int_equal(test_host_metric(b->th, "streamit_quota_throttled_total",
                                      "quota=\"requests_per_s\",by=\"client_id\""),
                     1);
    bench_free(b);
}

static void test_bounded(void **state)
{
    (void)state;
    struct bench *b = bench_new(
        2, (struct quota_rule[]){{.client_id = "*", .rate = {[QUOTA_REQUESTS] = 1}},
                                 {.principal = "*", .rate = {[QUOTA_REQUESTS] = 1000000}}});
    char id[300];
    for (int i = 0; i < 10000; i++) {
        snprintf(id, sizeof id, "client-%d", i);
        struct sti_request r = who(id, "User:one");
        assert_int_equal(take(b, &r, QUOTA_REQUESTS, 1, S), 0);
    }
    uint64_t entities = test_host_metric(b->th, "streamit_quota_entities", NULL);
    assert_in_range(entities, 2, 65); /* 64 client ids, one principal */
    assert_int_equal(test_host_metric(b->th, "streamit_quota_evictions_total", NULL),
                     10001 - entities);
    memset(id, 'x', sizeof id - 1); /* longer than any wire lets through, and still one name */
    id[sizeof id - 1] = '\0';
    struct sti_request r = who(id, "User:one");
    assert_int_equal(take(b, &r, QUOTA_REQUESTS, 1, S), 0);
    assert_true(take(b, &r, QUOTA_REQUESTS, 1, S) > 0);
    struct sti_request nobody = who(NULL, NULL);
    assert_int_equal(take(b, &nobody, QUOTA_REQUESTS, 1, S), 0);
    assert_true(take(b, &nobody, QUOTA_REQUESTS, 1, S) > 0);
    assert_true(take(b, NULL, QUOTA_REQUESTS, 1, S) > 0); /* the same nobody */
    bench_free(b);
}

static void test_change(void **state)
{
    (void)state;
    struct bench *b = bench_new(
        1, (struct quota_rule[]){{.client_id = "*", .rate = {[QUOTA_PRODUCE_BYTES] = 1000}}});
    struct sti_request a = who("a", "");
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 11000, S), 0);
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 1, S), 10001);
    struct quota_rule faster = {.client_id = "*", .rate = {[QUOTA_PRODUCE_BYTES] = 10000}};
    const void *row = &faster;
    struct quota_conf conf = b->conf;
    conf.rules = (struct sti_option_rows){.count = 1, .rows = &row};
    assert_int_equal(quota_set(&b->q, &conf, NULL), STI_OK);
    /* 11000 bytes are lacking; ten times as fast that is 1.1 s, of which 1 s is the window. */
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 1, S), 101);
    struct quota_rule other = {.client_id = "b", .rate = {[QUOTA_PRODUCE_BYTES] = 1}};
    row = &other;
    assert_int_equal(quota_set(&b->q, &conf, NULL), STI_OK);
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 1000000, S), 0); /* nothing limits it now */
    assert_int_equal(take(b, &a, QUOTA_PRODUCE_BYTES, 1000000, S), 0);
    conf.rules.count = 0;
    assert_int_equal(quota_set(&b->q, &conf, NULL), STI_OK);
    assert_false(quota_active(&b->q, QUOTA_PRODUCE_BYTES));
    bench_free(b);
}

static void test_bad_rules(void **state)
{
    (void)state;
    struct sti_err err;
    struct quota_rule twice[] = {{.client_id = "a"}, {.principal = "a"}, {.client_id = "a"}};
    struct quota_rule any[] = {{.client_id = "*"}, {.client_id = "a"}, {.client_id = "*"}};
    struct quota_rule both = {.client_id = "a", .principal = "b"}, none = {.client_id = NULL};
    const void *rows[3] = {&twice[0], &twice[1], &twice[2]};
    struct quota_conf conf = {
        .rules = {.count = 3, .rows = rows}, .window_ms = 1, .entities_max = 64};
    assert_int_equal(quota_check(&conf, &err), STI_E_CONFIG);
    assert_string_equal(err.msg, "broker.quotas: row 3: client_id \"a\" is there twice");
    for (int i = 0; i < 3; i++) {
        rows[i] = &any[i];
    }
    assert_int_equal(quota_check(&conf, &err), STI_E_CONFIG);
    assert_string_equal(err.msg, "broker.quotas: row 3: client_id \"*\" is there twice");
    rows[0] = &both;
    assert_int_equal(quota_check(&conf, &err), STI_E_CONFIG);
    assert_string_equal(err.msg, "broker.quotas: row 1: expected either client_id or principal");
    rows[0] = &none;
    assert_int_equal(quota_check(&conf, &err), STI_E_CONFIG);
    conf.rules.count = 0;
    assert_int_equal(quota_check(&conf, &err), STI_OK);
}

/* Rules change while eight threads use them. */
struct racer {
    pthread_t thread;
    struct bench *b;
    atomic_bool *stop;
    unsigned id;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    char id[32];
    for (unsigned i = r->id; !atomic_load(r->stop); i++) {
        struct quota_refusal refusal;
        snprintf(id, sizeof id, "c%u", i % 200);
        struct sti_request request = who(id, "User:p");
        (void)quota_take(&r->b->q, &request, QUOTA_PRODUCE_BYTES, 10, i, &refusal);
        quota_charge(&r->b->q, &request, QUOTA_FETCH_BYTES, 10, i);
        (void)quota_left(&r->b->q, &request, QUOTA_FETCH_BYTES, i);
    }
    return NULL;
}

static void test_change_under_load(void **state)
{
    (void)state;
    struct quota_rule rules[] = {
        {.client_id = "*", .rate = {1000, 1000, 1000}},
        {.client_id = "c7", .rate = {1, 1, 1}},
        {.principal = "*", .rate = {1000000, 1000000, 1000000}},
    };
    struct bench *b = bench_new(3, rules);
    struct racer racers[4];
    atomic_bool stop = false;
    for (unsigned i = 0; i < 4; i++) {
        racers[i] = (struct racer){.b = b, .stop = &stop, .id = i * 50};
        assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (size_t i = 0; i < 300; i++) {
        struct quota_conf conf = b->conf;
        conf.rules.count = i % 4;
        conf.window_ms = (int64_t)(i % 50) + 1;
        assert_int_equal(quota_set(&b->q, &conf, NULL), STI_OK);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(racers[i].thread, NULL);
    }
    assert_true(test_host_metric(b->th, "streamit_quota_entities", NULL) <= 64 + 1);
    bench_free(b);
}

/* ---- the calls of the broker --------------------------------------------------------------- */

static struct fixture *with_rules(void **state, const struct quota_rule *rule)
{
    struct fixture *fix = fix_new();
    static const void *row;
    row = rule;
    fix->conf.quota.rules = (struct sti_option_rows){.count = 1, .rows = &row};
    fix_start(fix);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    *state = fix;
    return fix;
}

static void test_produce_and_fetch(void **state)
{
    static const struct quota_rule rule = {
        .client_id = "c", .rate = {[QUOTA_PRODUCE_BYTES] = 1, [QUOTA_FETCH_BYTES] = 1}};
    struct fixture *fix = with_rules(state, &rule);
    struct sti_request c = who("c", "User:p"), other = who("d", "User:p");
    struct produce_call p;
    struct fetch_call f;
    for (int i = 0; i < 3; i++) { /* a burst of one byte: the first batch empties the bucket */
        produce_init(&p, STI_ACKS_LEADER);
        produce_add(&p, "t", 0, 1, 1000, 0);
        p.call.request = i < 2 ? &c : &other;
        produce_send(fix, &p);
        produce_wait(&p);
        assert_int_equal(p.rows[0].status, i == 1 ? STI_E_THROTTLED : STI_OK);
        assert_true((p.rows[0].retry_after_ms > 900000) == (i == 1));
        if (i == 1) {
            assert_string_equal(p.rows[0].err.msg, "t-0: client id \"c\" is over its quota of "
                                                   "produce_bytes_per_s = 1");
        }
        produce_fini(&p);
    }
    for (int i = 0; i < 3; i++) {
        fetch_init(&f, 20000); /* it would wait, but is put off at once */
        fetch_add(&f, "t", 0, i == 1 ? 2 : 0);
        f.call.request = i < 2 ? &c : &other;
        fetch_send(fix, &f);
        fetch_wait(&f);
        assert_int_equal(f.rows[0].status, i == 1 ? STI_E_THROTTLED : STI_OK);
        assert_true((f.rows[0].retry_after_ms > 900000) == (i == 1));
        assert_true((f.rows[0].bytes > 0) == (i != 1));
        /* What is left of the quota bounds the answer, its first batch aside. */
        assert_true(i != 0 || f.rows[0].bytes < 1500);
        assert_true(i != 2 || f.rows[0].bytes > 2000);
        fetch_fini(&f);
    }
    assert_int_equal(test_host_logged(fix->th, "quota_exceeded"), 1); /* now and then */
}

/* Far over its quota, so that no time that a test may take brings it back. */
static void overdraw(struct fixture *fix, const struct sti_request *request)
{
    struct broker *broker = fix->self;
    quota_charge(&broker->quota, request, QUOTA_REQUESTS, 1000, sti_now_us(&fix->host));
}

static void visit_nothing(void *arg, const struct sti_topic_info *topic)
{
    (void)topic;
    ++*(int *)arg;
}

static void on_offsets(struct sti_list_offsets *call)
{
    flag_raise(call->user);
}

static void test_requests(void **state)
{
    static const struct quota_rule rule = {.principal = "User:p", .rate = {[QUOTA_REQUESTS] = 1}};
    struct fixture *fix = with_rules(state, &rule);
    uint32_t retry = 0;
    int visits = 0;
    struct sti_request p = who("c", "User:p");
    struct sti_err err;
    p.retry_after_ms = &retry;
    struct sti_node_info node;
    assert_int_equal(fix->vt->list_topics(fix->self, &p, visit_nothing, &visits, &err), STI_OK);
    assert_int_equal(visits, 1);
    assert_int_equal(retry, 0);
    overdraw(fix, &p);
    assert_int_equal(fix->vt->list_topics(fix->self, &p, visit_nothing, &visits, &err),
                     STI_E_THROTTLED);
    assert_in_range(retry, 900000, 1001000);
    assert_string_equal(err.msg, "principal \"User:p\" is over its quota of requests_per_s = 1");
    assert_int_equal(fix->vt->describe_topic(fix->self, &p, "t", visit_nothing, &visits, &err),
                     STI_E_THROTTLED);
    assert_int_equal(fix->vt->find_leader(fix->self, &p, "t", 0, &node, &err), STI_E_THROTTLED);
    assert_int_equal(visits, 1);
    struct topic_call t;
    topic_call_init(&t, "u", 1);
    t.call.request = &p;
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_E_THROTTLED);
    assert_in_range(t.call.retry_after_ms, 800000, 1001000);
    struct flag done = {0};
    struct sti_list_offsets_row row = {.struct_size = sizeof row, .topic = "t", .timestamp_ms = -1};
    struct sti_list_offsets_row *rows = &row;
    struct sti_list_offsets offsets = {.struct_size = sizeof offsets,
                                       .row_count = 1,
                                       .request = &p,
                                       .rows = &rows,
                                       .done = on_offsets,
                                       .user = &done};
    assert_int_equal(fix->vt->list_offsets(fix->self, &offsets, &err), STI_OK);
    flag_wait(&done, 1);
    assert_int_equal(row.status, STI_E_THROTTLED);
    assert_in_range(row.retry_after_ms, 800000, 1001000);
    struct produce_call pr;
    produce_init(&pr, STI_ACKS_LEADER);
    produce_add(&pr, "t", 0, 1, 10, 0);
    pr.call.request = &p;
    produce_send(fix, &pr);
    assert_int_equal(pr.rows[0].status, STI_E_THROTTLED);
    assert_int_equal(pr.rows[0].base_offset, -1);
    produce_fini(&pr);
    struct fetch_call f;
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    f.call.request = &p;
    fetch_send(fix, &f);
    assert_int_equal(f.rows[0].status, STI_E_THROTTLED);
    assert_in_range(f.rows[0].retry_after_ms, 800000, 1001000);
    fetch_fini(&f);
    /* Others, and nobody in particular, are not concerned. */
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

static void test_reload(void **state)
{
    static const struct quota_rule rule = {.client_id = "c", .rate = {[QUOTA_REQUESTS] = 1}};
    struct fixture *fix = with_rules(state, &rule);
    struct sti_request c = who("c", "User:p");
    struct sti_node_info node;
    struct sti_err err;
    assert_int_equal(fix->vt->find_leader(fix->self, &c, "t", 0, &node, &err), STI_OK);
    overdraw(fix, &c);
    assert_int_equal(fix->vt->find_leader(fix->self, &c, "t", 0, &node, &err), STI_E_THROTTLED);
    struct brk_conf next = fix->conf;
    struct quota_rule bad = {.client_id = "c", .principal = "p"};
    const void *row = &bad;
    next.quota.rules = (struct sti_option_rows){.count = 1, .rows = &row};
    assert_int_equal(sti_broker_plugin.life->reload(fix->self, &next, &err), STI_E_CONFIG);
    assert_int_equal(fix->vt->find_leader(fix->self, &c, "t", 0, &node, &err), STI_E_THROTTLED);
    next.quota.rules.count = 0;
    assert_int_equal(sti_broker_plugin.life->reload(fix->self, &next, &err), STI_OK);
    assert_int_equal(fix->vt->find_leader(fix->self, &c, "t", 0, &node, &err), STI_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, NULL, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bucket),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_clock_steps),
        cmocka_unit_test(test_both),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_change),
        cmocka_unit_test(test_bad_rules),
        cmocka_unit_test(test_change_under_load),
        TEST(produce_and_fetch),
        TEST(requests),
        TEST(reload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
