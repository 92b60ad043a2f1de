/* test_memory.c -- no memory: each allocation of the library fails once, and nothing is lost.
 *
 * The library's files are linked into this program with malloc, calloc and realloc wrapped, so that
 * the Nth call fails; N grows until a whole run succeeds. Every failure must be NO_MEMORY, must
 * leave the object usable, and the leak checker of a sanitizer build must stay quiet.
 */
#include "batch_test.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

static long left = -1; /* allocations that succeed before one fails; negative: all do */

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}

#define COUNT 30u
#define SEED  14u

/* Append the records, each again when memory failed it: the batch must be as if nothing was. */
static int append_all(struct sti_batch_builder *builder)
{
    struct test_record record;
    uint64_t seed = SEED;
    uint32_t i;
    int rc = STI_OK;
    for (i = 0; i < COUNT; i++) {
        test_record_make(&seed, &record);
        if (i == 3) {
            record.value = test_pool();
            record.value_len = 200000;
        }
        if (test_record_append(builder, &record) != STI_OK) {
            rc = STI_E_NO_MEMORY;
            assert_int_equal(sti_batch_builder_count(builder), i);
            assert_int_equal(test_record_append(builder, &record), STI_OK);
        }
    }
    return rc;
}

/* One run in which the allocation number `n` fails. Returns whether one did. */
static bool run(int codec, long n)
{
    struct sti_batch_builder *builder = NULL;
    struct sti_batch_header header;
    struct sti_batch_iter iter;
    struct sti_slice slice[2];
    const uint8_t *batch = NULL;
    uint32_t count;
    size_t len = 0;
    bool failed = false;
    memset(&iter, 0, sizeof iter);
    left = n;
    if (sti_batch_builder_new(&builder, codec, 0, NULL) != STI_OK) {
        assert_null(builder);
        failed = true;
        assert_int_equal(sti_batch_builder_new(&builder, codec, 0, NULL), STI_OK);
    }
    failed = append_all(builder) != STI_OK || failed;
    if (sti_batch_builder_finish(builder, &batch, &len, NULL) != STI_OK) {
        assert_null(batch);
        failed = true;
        assert_int_equal(sti_batch_builder_finish(builder, &batch, &len, NULL), STI_OK);
    }
    slice[0] = sti_slice_borrow(batch, 70);
    slice[1] = sti_slice_borrow(batch + 70, len - 70);
    if (sti_batch_check(slice, 2, 7, INT32_MAX, &header, NULL) != STI_OK) {
        assert_int_equal(header.total_len, 0);
        failed = true;
        assert_int_equal(sti_batch_check(slice, 2, 7, INT32_MAX, &header, NULL), STI_OK);
    }
    if (test_read_all(&iter, batch, len, STI_BATCH_INFLATED_MAX, &count, NULL) != STI_E_END) {
        failed = true;
        assert_int_equal(test_read_all(&iter, batch, len, STI_BATCH_INFLATED_MAX, &count, NULL),
                         STI_E_END);
    }
    left = -1;
    assert_int_equal(count, COUNT);
    assert_int_equal(header.record_count, COUNT);
    sti_batch_iter_fini(&iter);
    sti_batch_builder_free(builder);
    return failed;
}

static void every_allocation_fails_once(void **state)
{
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        long n = 0;
        while (run(codec, n)) {
            n++;
            assert_true(n < 1000);
        }
        /* Builder, its buffer, its growth, and the gathering of the check at the least. */
        assert_true(n >= 4);
    }
}

/* The sentence says what there was no memory for, and the code is the right one. */
static void the_status_says_so(void **state)
{
    struct sti_batch_builder *builder;
    struct sti_err err;
    (void)state;
    left = 0;
    assert_int_equal(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, &err), STI_E_NO_MEMORY);
    left = -1;
    assert_int_equal(err.code, STI_E_NO_MEMORY);
    assert_non_null(strstr(err.msg, "no memory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(the_status_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
