/* test_metrics.c -- stages of calls, slow requests, figures of topics. */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static uint64_t stage(struct fixture *fix, const char *call, const char *name)
{
    char family[64], labels[64];
    snprintf(family, sizeof family, "streamit_%s_stage_seconds", call);
    snprintf(labels, sizeof labels, "stage=\"%s\"", name);
    return test_host_histogram(fix->th, family, labels);
}

static void test_stages_of_a_produce_call(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "t", 0, 3);
    static const char *const each[] = {"receive", "admit", "queue", "append", "ack", "answer"};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        assert_int_equal(stage(fix, "produce", each[i]), 1);
    }
    assert_int_equal(stage(fix, "produce", "sync"), 0); /* nobody waited for it */
    assert_int_equal(fix_create(fix, "safe", 1, "flush.policy", "commit"), STI_OK);
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "safe", 0, 1, 10, 0);
    produce_send(fix, &p);
    fix_wait_metric(fix, "streamit_produce_acks_waiting", 1);
    fs_sync(fix->fs, "safe", 0);
    produce_wait(&p);
    produce_fini(&p);
    assert_int_equal(stage(fix, "produce", "sync"), 1);
    assert_int_equal(stage(fix, "produce", "answer"), 2);
}

/* A refused row has no later stages, and the call still counts as received. */
static void test_a_refused_row_has_no_stages(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "nobody", 0, 1, 10, 0);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_UNKNOWN_TOPIC);
    assert_int_equal(stage(fix, "produce", "receive"), 1);
    assert_int_equal(stage(fix, "produce", "admit"), 0);
    assert_int_equal(stage(fix, "produce", "answer"), 0);
    produce_fini(&p);
}

static void test_stages_of_a_fetch_call(void **state)
{
    struct fixture *fix = *state;
    struct fetch_call f;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fetch_init(&f, 60000);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fix_wait_parked(fix, 1);
    fix_produce(fix, "t", 0, 1);
    fetch_wait(&f);
    assert_int_equal(stage(fix, "fetch", "receive"), 1);
    assert_int_equal(stage(fix, "fetch", "read"), 1);
    fetch_fini(&f);
}

/* ---- slow requests ------------------------------------------------------------------------- */

/* The last line, as `key=value` in the order of the fields. */
static char line[2048];
static unsigned lines;

static void note_log(void *ctx, int level, const char *event, const char *msg,
                     const struct sti_field *const *fields)
{
    size_t used = 0;
    (void)ctx;
    (void)msg;
    if (strcmp(event, "slow_request") != 0) {
        return;
    }
    assert_int_equal(level, STI_LOG_WARN);
    for (; *fields != NULL; fields++) {
        const struct sti_field *f = *fields;
        used += (size_t)snprintf(line + used, sizeof line - used,
                                 f->type == STI_FIELD_STR ? "%s=%s " : "%s=%.0s%g ", f->key,
                                 f->type == STI_FIELD_STR ? f->value.str : "",
                                 f->type == STI_FIELD_DOUBLE ? f->value.d : (double)f->value.i);
    }
    __atomic_add_fetch(&lines, 1, __ATOMIC_RELEASE);
}

static _Atomic uint64_t now_us;

/* Each look at the clock is 10 ms later. */
static uint64_t slow_clock(void *ctx, int clock_id)
{
    (void)ctx;
    (void)clock_id;
    return atomic_fetch_add(&now_us, 10000) + 10000;
}

static void test_a_slow_call_is_one_line(void **state)
{
    struct fixture *fix = *state;
    const struct sti_request request = {.struct_size = sizeof request,
                                        .principal = "User:alice",
                                        .client_id = "c1",
                                        .peer = "127.0.0.1:1",
                                        .listener = "grpc",
                                        .trace_id = "0af7651916cd43dd",
                                        .received_us = 990000};
    struct produce_call p;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    fix->host.log = note_log;
    fix->host.clock_us = slow_clock;
    atomic_store(&now_us, 990000);
    fix->conf.slow_request_ms = 20;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 10, 0);
    p.call.request = &request;
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(__atomic_load_n(&lines, __ATOMIC_ACQUIRE), 1);
    static const char *const there[] = {"trace_id=0af7651916cd43dd call=produce client_id=c1 ",
                                        "principal=User:alice peer=127.0.0.1:1 listener=grpc ",
                                        "topic=t partition=0 partitions=1 ",
                                        "status=OK ",
                                        "receive_ms=10 ",
                                        "queue_ms=",
                                        "append_ms=",
                                        "ack_ms=",
                                        "answer_ms="};
    for (size_t i = 0; i < sizeof there / sizeof there[0]; i++) {
        if (strstr(line, there[i]) == NULL) {
            fail_msg("no %s in %s", there[i], line);
        }
    }
    assert_int_equal(test_host_metric(fix->th, "streamit_slow_requests_total", "call=\"produce\""),
                     1);
    produce_fini(&p);
    /* 0 switches it off. */
    fix->conf.slow_request_ms = 0;
    fix_produce(fix, "t", 0, 1);
    assert_int_equal(lines, 1);
    fix->host.clock_us = test_host_for(fix->th, "broker")->clock_us;
}

/* ---- topics -------------------------------------------------------------------------------- */

struct rows {
    char text[4096];
    const char *name;
};

static void note_row(void *arg, int type, const char *name, const char *labels, const char *help,
                     double value)
{
    struct rows *rows = arg;
    (void)type;
    assert_non_null(help);
    if (strcmp(name, rows->name) == 0) {
        size_t used = strlen(rows->text);
        snprintf(rows->text + used, sizeof rows->text - used, "%s=%g ", labels, value);
    }
}

static const char *topic_rows(struct fixture *fix, const char *name)
{
    static struct rows rows;
    const struct sti_metrics_visitor visitor = {.struct_size = sizeof visitor, .value = note_row};
    rows = (struct rows){.name = name};
    test_host_collect(fix->th, &visitor, &rows);
    return rows.text;
}

static void test_topics_beyond_the_bound_are_summed(void **state)
{
    struct fixture *fix = *state;
    const char *records = "streamit_topic_produced_records_total";
    fix->conf.metrics_topics_max = 2;
    assert_int_equal(fix_create(fix, "a.b-c_d", 2, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "b", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "c", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "d", 1, NULL, NULL), STI_OK);
    fix_produce(fix, "a.b-c_d", 0, 1);
    fix_produce(fix, "a.b-c_d", 1, 2);
    fix_produce(fix, "c", 0, 5);
    fix_produce(fix, "d", 0, 7);
    assert_string_equal(topic_rows(fix, records),
                        "topic=\"*\"=12 topic=\"a.b-c_d\"=3 topic=\"b\"=0 ");
    assert_string_equal(topic_rows(fix, "streamit_topic_partitions"),
                        "topic=\"*\"=2 topic=\"a.b-c_d\"=2 topic=\"b\"=1 ");
    /* A counter never goes back: what is deleted stays in the sum. */
    assert_int_equal(fix_delete(fix, "d"), STI_OK);
    assert_string_equal(topic_rows(fix, records),
                        "topic=\"*\"=12 topic=\"a.b-c_d\"=3 topic=\"b\"=0 ");
    /* A place that became free goes to the next that comes, not to one that is summed already. */
    assert_int_equal(fix_delete(fix, "b"), STI_OK);
    assert_int_equal(fix_create(fix, "e", 1, NULL, NULL), STI_OK);
    assert_string_equal(topic_rows(fix, records),
                        "topic=\"*\"=12 topic=\"a.b-c_d\"=3 topic=\"e\"=0 ");
}

/* What a label would have to escape is no topic's name. */
static void test_no_topic_name_needs_escaping(void **state)
{
    struct fixture *fix = *state;
    for (int c = 1; c < 256; c++) {
        char name[4] = {'a', (char)c, 'b', '\0'};
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '_' || c == '-';
        int rc = fix_create(fix, name, 1, NULL, NULL);
        if (!plain) {
            assert_int_not_equal(rc, STI_OK);
        }
    }
    assert_int_not_equal(fix_create(fix, "*", 1, NULL, NULL), STI_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stages_of_a_produce_call, fix_setup, fix_teardown),
        cmocka_unit_test_setup_teardown(test_a_refused_row_has_no_stages, fix_setup, fix_teardown),
        cmocka_unit_test_setup_teardown(test_stages_of_a_fetch_call, fix_setup, fix_teardown),
        cmocka_unit_test_setup_teardown(test_a_slow_call_is_one_line, fix_setup, fix_teardown),
        cmocka_unit_test_setup_teardown(test_topics_beyond_the_bound_are_summed, fix_setup,
                                        fix_teardown),
        cmocka_unit_test_setup_teardown(test_no_topic_name_needs_escaping, fix_setup, fix_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
