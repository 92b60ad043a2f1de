/* test_storage_memory.c -- what this engine has of its own: the bound, the refusals, memory that
 * outlives its log. The contract that it shares with every engine is tested with the others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage_memory.h"
#include "test_host.h"

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    struct smem_conf conf;
    const struct sti_storage *vt;
    void *self;
    struct sti_storage_settings settings;
    struct sti_partition_id id;
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    int last_status;
};

static struct fixture *done_fixture;

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    (void)op;
    done_fixture->last_status = status;
    if (status != STI_OK) {
        assert_non_null(err);
    }
}

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    (void)op;
    (void)err;
    done_fixture->last_status = status;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sti_err err;
    f->th = test_host_new("/nonexistent", 2);
    f->conf.bytes_max = 1 << 20;
    f->vt = (const struct sti_storage *)(const void *)sti_plugin.provides[0];
    f->settings =
        (struct sti_storage_settings){.struct_size = sizeof f->settings, .segment_bytes = 1 << 20};
    f->id = (struct sti_partition_id){.struct_size = sizeof f->id, .topic = "t", .partition = 3};
    assert_int_equal(
        sti_plugin.life->create(test_host_for(f->th, "storage_memory"), &f->conf, &f->self, &err),
        STI_OK);
    assert_int_equal(sti_plugin.life->start(f->self, &err), STI_OK);
    struct sti_storage_open args = {.struct_size = sizeof args,
                                    .flags = STI_STORAGE_CREATE,
                                    .id = &f->id,
                                    .settings = &f->settings};
    assert_int_equal(f->vt->open(f->self, &args, &f->part, &f->state, &err), STI_OK);
    done_fixture = f;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    assert_int_equal(f->vt->close(f->part, &err), STI_OK);
    assert_int_equal(sti_plugin.life->stop(f->self, 0, &err), STI_OK);
    test_host_free(f->th); /* runs what unref posted; the engine must still be there */
    sti_plugin.life->destroy(f->self);
    free(f);
    return 0;
}

/* Append `count` records as one batch of `len` bytes whose payload is `fill`. */
static int append(struct fixture *f, int64_t base, int32_t count, size_t len, uint8_t fill)
{
    uint8_t *payload = malloc(len);
    memset(payload, fill, len);
    struct sti_slice slice = sti_slice_borrow(payload, len - STI_BATCH_PATCH_LEN);
    struct sti_append_batch batch = {.struct_size = sizeof batch,
                                     .slice_count = 1,
                                     .slices = &slice,
                                     .len = len,
                                     .base_offset = base,
                                     .last_offset = base + count - 1,
                                     .max_timestamp = base,
                                     .leader_epoch = 7};
    struct sti_append_batch *batches[] = {&batch};
    struct sti_storage_append op = {
        .struct_size = sizeof op, .batch_count = 1, .batches = batches, .done = append_done};
    sti_batch_patch(batch.head, base, len, 7);
    assert_int_equal(f->vt->append(f->part, &op), STI_OK);
    free(payload);
    return f->last_status;
}

static uint32_t read_all(struct fixture *f, int64_t offset, int64_t end, uint64_t max_bytes,
                         struct sti_slice *slices, uint32_t slice_max, uint64_t *bytes)
{
    struct sti_storage_read op = {.struct_size = sizeof op,
                                  .flags = STI_READ_MEMORY,
                                  .offset = offset,
                                  .end_offset = end,
                                  .max_bytes = max_bytes,
                                  .slices = slices,
                                  .slice_max = slice_max,
                                  .done = read_done};
    assert_int_equal(f->vt->read(f->part, &op), STI_OK);
    *bytes = op.bytes;
    return op.slice_count;
}

static void test_commit_is_refused_by_name(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    struct sti_storage_settings settings = f->settings;
    settings.flush_policy = STI_FLUSH_COMMIT;
    assert_int_equal(f->vt->configure(f->part, &settings, &err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "flush.policy=commit"));
    settings.flush_policy = STI_FLUSH_INTERVAL;
    assert_int_equal(f->vt->configure(f->part, &settings, &err), STI_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "flush.policy=interval"));
    settings.flush_policy = STI_FLUSH_ONROLL;
    assert_int_equal(f->vt->configure(f->part, &settings, &err), STI_OK);
}

static void test_the_bound_refuses_and_changes_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t base = 0;
    int rc;
    while ((rc = append(f, base, 10, 100000, 1)) == STI_OK && base < 1000) {
        base += 10;
    }
    assert_int_equal(rc, STI_E_RESOURCE_EXHAUSTED);
    assert_true(base >= 40);
    f->vt->state(f->part, &f->state);
    assert_int_equal(f->state.written_end, base);
    struct sti_err err;
    assert_int_equal(f->vt->trim(f->part, base, &err), STI_OK);
    test_host_settle(f->th, NULL);
    assert_int_equal(append(f, base, 10, 100000, 2), STI_OK);
}

static void test_slices_outlive_their_log(void **state)
{
    struct fixture *f = *state;
    struct sti_slice slices[4];
    struct sti_err err;
    uint64_t bytes;
    assert_int_equal(append(f, 0, 5, 500, 0xaa), STI_OK);
    assert_int_equal(append(f, 5, 5, 500, 0xbb), STI_OK);
    assert_int_equal(read_all(f, 2, 10, 10000, slices, 4, &bytes), 1);
    assert_int_equal(bytes, 1000);
    assert_int_equal(f->vt->truncate(f->part, 5, &err), STI_OK);
    assert_int_equal(append(f, 5, 1, 500, 0xcc), STI_OK);
    assert_int_equal(slices[0].data[16], 0xaa);
    assert_int_equal(slices[0].data[516], 0xbb);
    sti_slice_release(&slices[0]);
    assert_int_equal(read_all(f, 5, 6, 10000, slices, 4, &bytes), 1);
    assert_int_equal(slices[0].data[16], 0xcc);
    sti_slice_release(&slices[0]);
}

static void test_read_honours_its_bounds(void **state)
{
    struct fixture *f = *state;
    struct sti_slice slices[4];
    uint64_t bytes;
    for (int64_t base = 0; base < 40; base += 10) {
        assert_int_equal(append(f, base, 10, 300, (uint8_t)base), STI_OK);
    }
    assert_int_equal(read_all(f, 0, 40, 1, slices, 4, &bytes), 1); /* first batch whole */
    assert_int_equal(bytes, 300);
    sti_slice_release(&slices[0]);
    assert_int_equal(read_all(f, 15, 40, 650, slices, 4, &bytes), 1);
    assert_int_equal(bytes, 600);
    sti_slice_release(&slices[0]);
    assert_int_equal(read_all(f, 0, 20, 10000, slices, 4, &bytes), 1);
    assert_int_equal(bytes, 600);
    sti_slice_release(&slices[0]);
    assert_int_equal(read_all(f, 40, 40, 10000, slices, 4, &bytes), 0);
    assert_int_equal(bytes, 0);
    read_all(f, 41, 41, 10000, slices, 4, &bytes);
    assert_int_equal(f->last_status, STI_E_OFFSET_OUT_OF_RANGE);
}

static void test_coming_and_going(void **state)
{
    struct fixture *f = *state;
    struct sti_err err;
    struct sti_storage_open args = {.struct_size = sizeof args,
                                    .flags = STI_STORAGE_CREATE,
                                    .id = &f->id,
                                    .settings = &f->settings};
    struct sti_storage_partition *second;
    assert_int_equal(append(f, 0, 5, 500, 1), STI_OK);
    assert_int_equal(f->vt->open(f->self, &args, &second, &f->state, &err), STI_E_IN_USE);
    assert_int_equal(f->vt->remove(f->self, &f->id, &err), STI_E_IN_USE);
    assert_int_equal(f->vt->close(f->part, &err), STI_OK);
    assert_int_equal(f->vt->open(f->self, &args, &second, &f->state, &err), STI_E_ALREADY_EXISTS);
    args.flags = 0;
    assert_int_equal(f->vt->open(f->self, &args, &f->part, &f->state, &err), STI_OK);
    assert_int_equal(f->state.written_end, 5);
    assert_int_equal(f->state.last_epoch, 7);
    assert_int_equal(f->vt->close(f->part, &err), STI_OK);
    assert_int_equal(f->vt->remove(f->self, &f->id, &err), STI_OK);
    assert_int_equal(f->vt->open(f->self, &args, &f->part, &f->state, &err), STI_E_NOT_FOUND);
    args.flags = STI_STORAGE_CREATE;
    assert_int_equal(f->vt->open(f->self, &args, &f->part, &f->state, &err), STI_OK);
    assert_int_equal(f->state.written_end, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commit_is_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_bound_refuses_and_changes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_slices_outlive_their_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_honours_its_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_coming_and_going, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
