/* test_load.c -- schedules do not drift, made-up values do not repeat soon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load.h"

/* load.c asks only for the clock of the program. */
uint64_t cli_now_us(void)
{
    return UINT64_MAX;
}

static void test_a_schedule_does_not_drift(void **state)
{
    (void)state;
    assert_int_equal(load_due_us(100, 0, 3), 100);
    assert_int_equal(load_due_us(100, 1, 3), 333433);
    assert_int_equal(load_due_us(100, 3, 3), 1000100);
    /* A day and a half at 20,000 a second: to the microsecond. */
    assert_int_equal(load_due_us(7, UINT64_C(2600000000), 20000), UINT64_C(130000000007));
    load_wait(UINT64_MAX); /* past already */
}

static void test_values_are_new_for_a_turn_of_the_pool(void **state)
{
    enum { SIZE = 1000, COUNT = 4000 };
    struct load_values values;
    struct sti_err err;
    const uint8_t *last = NULL;
    (void)state;
    assert_int_equal(load_values_init(&values, SIZE, &err), STI_OK);
    for (int i = 0; i < COUNT; i++) {
        const uint8_t *value = load_values_next(&values);
        assert_true(last == NULL || value >= last + SIZE);
        last = value;
    }
    load_values_fini(&values);
    assert_null(values.pool);
    load_values_fini(&values);
}

static void test_a_copy_walks_by_itself(void **state)
{
    struct load_values values, copy;
    struct sti_err err;
    (void)state;
    assert_int_equal(load_values_init(&values, 0, &err), STI_OK);
    assert_non_null(load_values_next(&values));
    copy = values;
    const uint8_t *first = load_values_next(&copy);
    assert_ptr_equal(load_values_next(&values), first);
    load_values_fini(&values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_schedule_does_not_drift),
        cmocka_unit_test(test_values_are_new_for_a_turn_of_the_pool),
        cmocka_unit_test(test_a_copy_walks_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
