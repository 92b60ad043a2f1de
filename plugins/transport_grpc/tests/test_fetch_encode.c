/* The fetch encoder: the same bytes as protobuf-c, the memory of storage, every reference dropped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <string.h>

#include "fetch.h"

enum { ROWS = 4, BYTES = 300000 };

static int refs;

static void count_ref(struct sti_slice_owner *owner)
{
    (void)owner;
    refs++;
}

static void count_unref(struct sti_slice_owner *owner)
{
    (void)owner;
    refs--;
}

static struct sti_slice_owner owner = {.ref = count_ref, .unref = count_unref};
static uint8_t memory[BYTES];

static void slice_add(struct sti_fetch_row *row, size_t from, size_t len, bool owned)
{
    struct sti_slice *slice = &row->slices[row->slice_count++];
    *slice = sti_slice_borrow(memory + from, len);
    if (owned) {
        slice->owner = &owner;
        sti_slice_ref(slice);
    }
}

/* Each row: a number of slices of a size. */
static void check_layout(const unsigned counts[ROWS], size_t size, bool owned)
{
    static struct sti_fetch_row rows[ROWS];
    struct sti_fetch_row *row_pointers[ROWS];
    struct tgr_fetch_out outs[ROWS];
    Streamit__V1__FetchResult full[ROWS];
    Streamit__V1__FetchResult *full_pointers[ROWS];
    Streamit__V1__FetchResponse response = STREAMIT__V1__FETCH_RESPONSE__INIT;
    struct sti_fetch call = {.row_count = ROWS, .rows = row_pointers};
    struct tgr_arena arena = {.blocks = NULL};
    for (unsigned r = 0; r < ROWS; r++) {
        memset(&rows[r], 0, sizeof rows[r]);
        row_pointers[r] = &rows[r];
        outs[r] = (struct tgr_fetch_out){.row = &rows[r], .records = grpc_empty_slice()};
        Streamit__V1__FetchResult *result = &outs[r].result;
        streamit__v1__fetch_result__init(result);
        result->topic = (char *)(r == 1 ? "" : "orders");
        result->partition = (int32_t)r - 1;
        result->high_watermark = r == 2 ? -1 : 123456789012;
        full[r] = *result;
        full_pointers[r] = &full[r];
        for (unsigned s = 0; s < counts[r]; s++) {
            slice_add(&rows[r], s * size, size, owned);
        }
        full[r].batches = (ProtobufCBinaryData){counts[r] * size, memory};
    }
    response.n_partitions = ROWS;
    response.partitions = full_pointers;
    size_t len = streamit__v1__fetch_response__get_packed_size(&response);
    uint8_t *expected = malloc(len + 1);
    assert_non_null(expected);
    (void)streamit__v1__fetch_response__pack(&response, expected);

    grpc_byte_buffer *buffer = tgr_fetch_encode(&arena, outs, ROWS);
    assert_non_null(buffer);
    tgr_arena_fini(&arena); /* the buffer stands alone */
    grpc_byte_buffer_reader reader;
    assert_true(grpc_byte_buffer_reader_init(&reader, buffer));
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    assert_int_equal(GRPC_SLICE_LENGTH(all), len);
    assert_memory_equal(GRPC_SLICE_START_PTR(all), expected, len);
    grpc_slice_unref(all);
    assert_int_equal(refs, owned ? counts[0] + counts[1] + counts[2] + counts[3] : 0);
    grpc_byte_buffer_destroy(buffer);
    assert_int_equal(refs, 0);
    sti_fetch_release(&call); /* nothing is left to release */
    assert_int_equal(refs, 0);
    free(expected);
}

static void test_layouts(void **state)
{
    static const unsigned layouts[][ROWS] = {{0, 0, 0, 0}, {1, 0, 0, 0}, {0, 0, 0, 1},
                                             {1, 1, 1, 1}, {0, 2, 0, 3}, {16, 0, 16, 16}};
    static const size_t sizes[] = {1, 23, 127, 128, 16384, 18000};
    (void)state;
    for (size_t i = 0; i < sizeof memory; i++) {
        memory[i] = (uint8_t)(i * 31);
    }
    for (size_t l = 0; l < sizeof layouts / sizeof layouts[0]; l++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            check_layout(layouts[l], sizes[s], true);
            check_layout(layouts[l], sizes[s], false);
        }
    }
}

/* A large payload goes out in place. */
static void test_in_place(void **state)
{
    struct sti_fetch_row row;
    struct tgr_fetch_out out = {
        .row = &row, .result = STREAMIT__V1__FETCH_RESULT__INIT, .records = grpc_empty_slice()};
    struct tgr_arena arena = {.blocks = NULL};
    grpc_slice *slice;
    grpc_byte_buffer_reader reader;
    bool seen = false;
    (void)state;
    memset(&row, 0, sizeof row);
    slice_add(&row, 100, 100000, true);
    grpc_byte_buffer *buffer = tgr_fetch_encode(&arena, &out, 1);
    assert_true(grpc_byte_buffer_reader_init(&reader, buffer));
    while (grpc_byte_buffer_reader_peek(&reader, &slice) != 0) {
        seen = seen || GRPC_SLICE_START_PTR(*slice) == memory + 100;
    }
    assert_true(seen);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    tgr_arena_fini(&arena);
    assert_int_equal(refs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layouts),
                                       cmocka_unit_test(test_in_place)};
    grpc_init();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    grpc_shutdown();
    return rc;
}
