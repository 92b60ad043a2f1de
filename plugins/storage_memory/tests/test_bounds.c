/* test_bounds.c -- what only the memory engine promises: its bound, and what it refuses by name. */
#include <string.h>

#include "storage_fixture.h"

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    fx_init(&fx, 2);
    fx_option(&fx, "bytes_max", 1048576);
    fx_start(&fx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fx_fini(&fx);
    return 0;
}

static void test_bound_is_kept(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    struct sti_storage_usage usage;
    struct fx_read read;
    int64_t next = 0;
    int rc;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state), STI_OK);
    while ((rc = fx_append(&fx, part, next, 1, 5000, 1, 5)) == STI_OK) {
        next += 5;
        assert_true(next < 1000);
    }
    assert_int_equal(rc, STI_E_RESOURCE_EXHAUSTED);
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, next); /* nothing of the refused append is there */
    assert_int_equal(state.flags, 0);
    fx.api->usage(part, &usage);
    assert_true(usage.bytes > 500000 && usage.bytes <= 1048576);
    assert_int_equal(fx_read(&fx, part, 0, next, 1 << 21, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), next);
    fx_read_release(&read);
    assert_int_equal(fx.api->trim(part, next, NULL), STI_OK);
    test_host_settle(fx.th, NULL);
    test_host_settle(fx.th, NULL);
    assert_int_equal(fx_append(&fx, part, next, 1, 5000, 1, 5), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* The bound, and what is left of it. */
static void test_room(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    struct sti_storage_space before, after;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(fx.api->space(fx.self, &before, NULL), STI_OK);
    assert_int_equal(before.total_bytes, 1048576);
    assert_int_equal(fx_append(&fx, part, 0, 1, 100000, 1, 1), STI_OK);
    assert_int_equal(fx.api->space(fx.self, &after, NULL), STI_OK);
    assert_true(after.free_bytes + 90000 <= before.free_bytes); /* an empty segment may have gone */
    int64_t next = 1;
    while (fx_append(&fx, part, next, 1, 5000, 1, 5) == STI_OK) {
        next += 5;
    }
    assert_int_equal(fx.api->space(fx.self, &after, NULL), STI_OK);
    assert_int_equal(after.total_bytes, 1048576);
    assert_true(after.free_bytes < 200000);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    do { /* the segments go on the executor, and stop waits for the last of them */
        test_host_settle(fx.th, NULL);
        assert_int_equal(fx.api->space(fx.self, &after, NULL), STI_OK);
    } while (after.free_bytes < 1048576);
    assert_int_equal(after.free_bytes, 1048576);
}

static void test_policies_are_refused(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_err err = {0};
    struct sti_partition_id id = {.struct_size = sizeof id, .topic = "t"};
    struct sti_storage_settings settings = fx.settings;
    struct sti_storage_state state;
    struct sti_storage_open args = {
        .struct_size = sizeof args, .flags = STI_STORAGE_CREATE, .id = &id, .settings = &settings};
    settings.flush_policy = STI_FLUSH_COMMIT;
    assert_int_equal(fx.api->open(fx.self, &args, &part, &state, &err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "flush.policy=commit"));
    settings.flush_policy = STI_FLUSH_ONROLL;
    assert_int_equal(fx.api->open(fx.self, &args, &part, &state, &err), STI_OK);
    settings.flush_policy = STI_FLUSH_INTERVAL;
    assert_int_equal(fx.api->configure(part, &settings, &err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "flush.policy=interval"));
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_empty_after_a_restart(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(state.written_end, 1);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    fx_stop(&fx);
    fx_start(&fx);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_E_NOT_FOUND);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_bound_is_kept),
        CASE(test_room),
        CASE(test_policies_are_refused),
        CASE(test_empty_after_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
