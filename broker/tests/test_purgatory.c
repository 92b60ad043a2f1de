/* test_purgatory.c -- the timer wheel under a clock and a timer that the test turns. */
#include <stdlib.h>
#include <string.h>

#include "broker/purgatory.h"
#include "fixture.h"

static uint64_t now_us;
static struct sti_timer *armed;
static unsigned arms;

static uint64_t clock_read(void *ctx, int clock_id)
{
    (void)ctx;
    (void)clock_id;
    return now_us;
}

static void timer_arm(void *ctx, struct sti_timer *timer, uint64_t due_us)
{
    (void)ctx;
    assert_null(armed);
    timer->due_us = due_us;
    armed = timer;
    arms++;
}

static bool timer_cancel(void *ctx, struct sti_timer *timer)
{
    (void)ctx;
    bool was = armed == timer;
    armed = was ? NULL : armed;
    return was;
}

static const struct sti_host host = {.struct_size = sizeof host,
                                     .clock_us = clock_read,
                                     .timer_arm = timer_arm,
                                     .timer_cancel = timer_cancel};

struct call {
    struct brk_wait wait;
    uint64_t due_us, expired_us;
    unsigned expired;
    struct brk_purgatory *again; /* waits once more when it expires */
};

static void expire(struct brk_wait *wait)
{
    struct call *call = (struct call *)(void *)wait;
    call->expired++;
    call->expired_us = now_us;
    if (call->again != NULL && call->expired < 3) {
        call->due_us = now_us + 5000;
        brk_wait_arm(call->again, wait, call->due_us);
    }
}

static struct brk_purgatory *purgatory_new(void)
{
    struct brk_purgatory *p = malloc(sizeof *p);
    assert_non_null(p);
    now_us = 1000000007;
    armed = NULL;
    arms = 0;
    brk_purgatory_init(p, &host);
    return p;
}

static void purgatory_free(struct brk_purgatory *p)
{
    brk_purgatory_stop(p);
    assert_null(armed);
    brk_purgatory_fini(p);
    free(p);
}

/* Let time pass; the timer fires when it is due. */
static void pass_until(uint64_t until_us)
{
    while (armed != NULL && armed->due_us <= until_us) {
        struct sti_timer *timer = armed;
        now_us = timer->due_us > now_us ? timer->due_us : now_us;
        armed = NULL;
        timer->task.run(&timer->task);
    }
    now_us = until_us;
}

static void put(struct brk_purgatory *p, struct call *call, uint64_t in_us)
{
    *call = (struct call){.wait = {.expire = expire}, .due_us = now_us + in_us};
    brk_wait_arm(p, &call->wait, call->due_us);
}

static void in_time(const struct call *call)
{
    assert_int_equal(call->expired, 1);
    assert_true(call->expired_us >= call->due_us);
    assert_true(call->expired_us < call->due_us + 2 * BRK_TICK_US);
}

static void test_expires_once_and_never_early(void **state)
{
    static const uint64_t in_us[] = {0,       1,       3999,     4000,      4001,     50000,
                                     4096000, 4100000, 12345678, 300000000, 40000000, 8192000};
    enum { CALLS = sizeof in_us / sizeof in_us[0] };
    struct brk_purgatory *p = purgatory_new();
    struct call calls[CALLS];
    (void)state;
    for (size_t i = 0; i < CALLS; i++) {
        put(p, &calls[i], in_us[i]);
    }
    for (size_t i = 0; i < CALLS; i++) {
        pass_until(calls[i].due_us > now_us ? calls[i].due_us - 1 : now_us);
        assert_true(calls[i].expired == 0 || calls[i].expired_us >= calls[i].due_us);
    }
    pass_until(now_us + 400000000);
    for (size_t i = 0; i < CALLS; i++) {
        in_time(&calls[i]);
        assert_false(brk_wait_cancel(p, &calls[i].wait));
    }
    assert_null(armed); /* nothing waits: no timer */
    purgatory_free(p);
}

static void test_cancelled(void **state)
{
    enum { CALLS = 300 };
    struct brk_purgatory *p = purgatory_new();
    struct call *calls = calloc(CALLS, sizeof *calls);
    (void)state;
    struct call never = {.wait = {.expire = expire}};
    assert_false(brk_wait_cancel(p, &never.wait));
    for (size_t i = 0; i < CALLS; i++) {
        put(p, &calls[i], 1000000 + i % 7 * 4000); /* many share a slot */
    }
    for (size_t i = 0; i < CALLS; i += 2) {
        assert_true(brk_wait_cancel(p, &calls[i].wait));
        assert_false(brk_wait_cancel(p, &calls[i].wait));
    }
    pass_until(now_us + 2000000);
    for (size_t i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].expired, i % 2);
    }
    free(calls);
    purgatory_free(p);
}

/* Of those that come and go only few touch the host's timer, however many wait. */
static void test_many_waits_one_timer(void **state)
{
    enum { CALLS = 10000 };
    struct brk_purgatory *p = purgatory_new();
    struct call *calls = calloc(CALLS, sizeof *calls);
    (void)state;
    for (size_t i = 0; i < CALLS; i++) {
        put(p, &calls[i], 30000000 + i);
    }
    assert_true(arms <= 2);
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < CALLS; i++) {
            assert_true(brk_wait_cancel(p, &calls[i].wait));
            put(p, &calls[i], 30000000 + i);
        }
        pass_until(now_us + 1000000);
    }
    assert_true(arms <= 10); /* ten seconds: once a round of four */
    pass_until(now_us + 60000000);
    for (size_t i = 0; i < CALLS; i++) {
        in_time(&calls[i]);
    }
    assert_true(arms <= 40);
    free(calls);
    purgatory_free(p);
}

/* An earlier one moves the timer, a wait may be put in again as it expires, and a clock that jumped
 * over several rounds loses nobody. */
static void test_timer_moves(void **state)
{
    struct brk_purgatory *p = purgatory_new();
    struct call late, soon, again, jumped;
    (void)state;
    put(p, &late, 9000000);
    put(p, &soon, 20000);
    assert_true(armed->due_us < soon.due_us + BRK_TICK_US);
    put(p, &again, 8000);
    again.again = p;
    pass_until(now_us + 100000);
    in_time(&soon);
    assert_int_equal(again.expired, 3);
    assert_int_equal(late.expired, 0);
    put(p, &jumped, 5000000);
    now_us += 60000000;
    pass_until(now_us);
    assert_int_equal(late.expired, 1);
    assert_int_equal(jumped.expired, 1);
    purgatory_free(p);
}

static void test_stopped(void **state)
{
    struct brk_purgatory *p = purgatory_new();
    struct call call;
    (void)state;
    put(p, &call, 1000);
    brk_purgatory_stop(p);
    assert_null(armed);
    pass_until(now_us + 1000000);
    assert_int_equal(call.expired, 0);
    assert_true(brk_wait_cancel(p, &call.wait));
    purgatory_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expires_once_and_never_early),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_many_waits_one_timer),
        cmocka_unit_test(test_timer_moves),
        cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
