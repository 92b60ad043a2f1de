/* Which partitions of a stream share a chain, and which chains are kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "chains.h"

enum { ROWS = 3 };

struct request {
    struct tgr_produce produce;
    struct tgr_produce_row rows[ROWS];
};

static struct request *request_new(uint64_t id, uint64_t answered, const char *topic,
                                   int32_t first_partition)
{
    struct request *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->produce.id = id;
    r->produce.answered = answered;
    r->produce.rows = r->rows;
    r->produce.call.row_count = ROWS;
    for (int32_t i = 0; i < ROWS; i++) {
        (void)snprintf(r->rows[i].topic, sizeof r->rows[i].topic, "%s", topic);
        r->rows[i].row.topic = r->rows[i].topic;
        r->rows[i].row.partition = first_partition + i;
    }
    return r;
}

static void fail_row(struct request *r, int i)
{
    struct sti_produce_row *row = &r->rows[i].row;
    sti_produce_chain_fail(row->chain, row->chain_id, row->chain_answered);
}

static bool refused(struct request *r, int i)
{
    struct sti_produce_row *row = &r->rows[i].row;
    return sti_produce_chain_refuses(row->chain, row->chain_id, row->chain_answered) != 0;
}

static void done(struct request *r)
{
    tgr_chains_drop(&r->produce);
    assert_null(r->rows[0].row.chain);
    free(r);
}

static void test_keys(void **state)
{
    struct tgr_chains chains = {.buckets = NULL};
    struct sti_err err;
    (void)state;
    struct request *a = request_new(1, 0, "a", 0), *b = request_new(2, 0, "b", 0);
    struct request *again = request_new(3, 0, "a", 1);
    struct request *by_id = request_new(4, 0, "", 0), *other_id = request_new(5, 0, "", 0);
    memset(other_id->rows[0].row.topic_id, 7, 16);
    assert_int_equal(tgr_chains_take(&chains, &a->produce, 100, &err), STI_OK);
    assert_int_equal(tgr_chains_take(&chains, &b->produce, 100, &err), STI_OK);
    assert_int_equal(tgr_chains_take(&chains, &again->produce, 100, &err), STI_OK);
    assert_int_equal(tgr_chains_take(&chains, &by_id->produce, 100, &err), STI_OK);
    assert_int_equal(tgr_chains_take(&chains, &other_id->produce, 100, &err), STI_OK);
    assert_ptr_equal(a->rows[1].row.chain, again->rows[0].row.chain);
    assert_ptr_not_equal(a->rows[0].row.chain, b->rows[0].row.chain);
    assert_ptr_not_equal(by_id->rows[0].row.chain, other_id->rows[0].row.chain);
    assert_ptr_equal(by_id->rows[1].row.chain, other_id->rows[1].row.chain);
    assert_int_equal(chains.count, 3 + 3 + 1 + 3 + 1);
    assert_int_equal(again->rows[0].row.chain_id, 3);
    fail_row(a, 1);
    assert_true(refused(again, 0));
    assert_false(refused(again, 1));
    assert_false(refused(b, 1));
    done(a);
    done(b);
    done(again);
    done(by_id);
    done(other_id);
    tgr_chains_fini(&chains);
    assert_int_equal(chains.count, 0);
}

/* 10,000 partitions pass, and few are kept; a failure is, until it was read of. */
static void test_what_is_kept(void **state)
{
    struct tgr_chains chains = {.buckets = NULL};
    struct sti_err err;
    (void)state;
    struct request *failed = request_new(1, 0, "failed", 0);
    assert_int_equal(tgr_chains_take(&chains, &failed->produce, 100, &err), STI_OK);
    fail_row(failed, 2);
    done(failed);
    for (uint64_t id = 2; id < 3500; id++) {
        struct request *r = request_new(id, 0, "t", (int32_t)id * ROWS);
        assert_int_equal(tgr_chains_take(&chains, &r->produce, 100, &err), STI_OK);
        done(r);
        assert_true(chains.count <= 100);
    }
    struct request *late = request_new(4000, 0, "failed", 0);
    assert_int_equal(tgr_chains_take(&chains, &late->produce, 100, &err), STI_OK);
    assert_true(refused(late, 2));
    assert_false(refused(late, 1));
    done(late);
    for (uint64_t id = 4001; id < 5000; id++) {
        struct request *r = request_new(id, 1, "t", (int32_t)id * ROWS);
        assert_int_equal(tgr_chains_take(&chains, &r->produce, 100, &err), STI_OK);
        done(r);
    }
    struct request *after = request_new(6000, 1, "failed", 0);
    assert_int_equal(tgr_chains_take(&chains, &after->produce, 100, &err), STI_OK);
    assert_false(refused(after, 2));
    done(after);
    tgr_chains_fini(&chains);
}

static void test_limit(void **state)
{
    struct tgr_chains chains = {.buckets = NULL};
    struct request *held[33];
    struct sti_err err;
    (void)state;
    for (uint64_t i = 0; i < 33; i++) {
        held[i] = request_new(i + 1, 0, "t", (int32_t)i * ROWS);
        assert_int_equal(tgr_chains_take(&chains, &held[i]->produce, 99, &err), STI_OK);
    }
    struct request *more = request_new(100, 0, "t", 98);
    assert_int_equal(tgr_chains_take(&chains, &more->produce, 99, &err), STI_E_RESOURCE_EXHAUSTED);
    assert_null(more->rows[0].row.chain); /* which exists, and was let go */
    assert_non_null(strstr(err.msg, "99"));
    done(held[0]);
    assert_int_equal(tgr_chains_take(&chains, &more->produce, 99, &err), STI_OK);
    done(more);
    for (size_t i = 1; i < 33; i++) {
        done(held[i]);
    }
    tgr_chains_fini(&chains);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys),
                                       cmocka_unit_test(test_what_is_kept),
                                       cmocka_unit_test(test_limit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
