/* test_slice.c -- slices: references are taken and dropped exactly as said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "streamit/broker.h"
#include "streamit/slice.h"

/* An owner that counts. */
struct counted {
    struct sti_slice_owner owner;
    int refs;
};

static void count_up(struct sti_slice_owner *owner)
{
    ((struct counted *)(void *)owner)->refs++;
}

static void count_down(struct sti_slice_owner *owner)
{
    ((struct counted *)(void *)owner)->refs--;
}

static void borrowed(void **state)
{
    struct sti_slice slice = sti_slice_borrow("abc", 3);
    (void)state;
    assert_int_equal(slice.len, 3);
    assert_int_equal(slice.data[2], 'c');
    assert_null(slice.owner);
    assert_int_equal(slice.fd, -1);
    assert_int_equal(slice.reserved, 0);
    sti_slice_ref(&slice);
    sti_slice_release(&slice);
    assert_null(slice.data);
    assert_int_equal(slice.len, 0);
}

static void references(void **state)
{
    struct counted counted = {{count_up, count_down}, 1};
    struct sti_slice slice = sti_slice_borrow("abc", 3), copy;
    (void)state;
    slice.owner = &counted.owner;
    slice.fd = 7;
    copy = slice;
    sti_slice_ref(&copy);
    assert_int_equal(counted.refs, 2);
    sti_slice_release(&slice);
    assert_int_equal(counted.refs, 1);
    assert_int_equal(slice.fd, -1);
    /* A second release of the same slice drops nothing. */
    sti_slice_release(&slice);
    assert_int_equal(counted.refs, 1);
    assert_int_equal(copy.data[0], 'a');
    sti_slice_release(&copy);
    assert_int_equal(counted.refs, 0);
    memset(&slice, 0, sizeof slice);
    sti_slice_release(&slice);
    assert_int_equal(slice.fd, -1);
}

static void lengths(void **state)
{
    const struct sti_slice slices[3] = {sti_slice_borrow("abc", 3), sti_slice_borrow(NULL, 0),
                                        sti_slice_borrow("de", 2)};
    (void)state;
    assert_int_equal(sti_slices_len(slices, 0), 0);
    assert_int_equal(sti_slices_len(slices, 1), 3);
    assert_int_equal(sti_slices_len(slices, 3), 5);
}

static void a_fetch_gives_all_back_once(void **state)
{
    struct counted counted = {{count_up, count_down}, 3};
    struct sti_fetch_row row[2];
    struct sti_fetch_row *rows[2] = {&row[0], &row[1]};
    struct sti_fetch call;
    uint32_t i;
    (void)state;
    memset(row, 0, sizeof row);
    memset(&call, 0, sizeof call);
    call.rows = rows;
    call.row_count = 2;
    for (i = 0; i < 2; i++) {
        row[0].slices[i].owner = &counted.owner;
    }
    row[0].slice_count = 2;
    row[1].slices[0].owner = &counted.owner;
    row[1].slice_count = 1;
    sti_fetch_release(&call);
    assert_int_equal(counted.refs, 0);
    assert_int_equal(row[0].slice_count, 0);
    assert_int_equal(row[1].slice_count, 0);
    sti_fetch_release(&call);
    assert_int_equal(counted.refs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(borrowed),
        cmocka_unit_test(references),
        cmocka_unit_test(lengths),
        cmocka_unit_test(a_fetch_gives_all_back_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
