/* test_status.c -- the one list of status codes, its twin in the public API, and the error object.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/status.h"

struct row {
    const char *name;
    int number, code;
    uint32_t traits;
    const char *text;
};

static const struct row rows[] = {
#define ROW(name, number, traits, text) {#name, number, STI_E_##name, traits, text},
    STI_STATUS_LIST(ROW)
#undef ROW
};

#define ROWS ((int)(sizeof rows / sizeof rows[0]))

static void numbers_are_dense(void **state)
{
    int i, j;
    (void)state;
    assert_true(ROWS >= 44);
    for (i = 0; i < ROWS; i++) {
        assert_int_equal(rows[i].number, i + 1);
        assert_int_equal(rows[i].code, -(i + 1));
        for (j = 0; j < i; j++) {
            assert_string_not_equal(rows[i].name, rows[j].name);
            assert_string_not_equal(rows[i].text, rows[j].text);
        }
    }
}

/* The codes that existed first, and what a caller may do about them: for ever. */
static void codes_stay(void **state)
{
    static const struct row kept[] = {
        {"UNKNOWN_TOPIC", 1, STI_E_UNKNOWN_TOPIC, STI_TRAIT_REFRESH, NULL},
        {"NOT_LEADER", 3, STI_E_NOT_LEADER, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, NULL},
        {"CORRUPT_BATCH", 5, STI_E_CORRUPT_BATCH, 0, NULL},
        {"TIMED_OUT", 8, STI_E_TIMED_OUT, STI_TRAIT_RETRIABLE | STI_TRAIT_INDEFINITE, NULL},
        {"THROTTLED", 9, STI_E_THROTTLED, STI_TRAIT_RETRIABLE, NULL},
        {"DISK_FULL", 10, STI_E_DISK_FULL, 0, NULL},
        {"FENCED", 14, STI_E_FENCED, STI_TRAIT_FATAL, NULL},
        {"INVALID_ARGUMENT", 20, STI_E_INVALID_ARGUMENT, 0, NULL},
        {"INTERNAL", 29, STI_E_INTERNAL, STI_TRAIT_INDEFINITE, NULL},
        {"CONNECTION_LOST", 34, STI_E_CONNECTION_LOST,
         STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH | STI_TRAIT_INDEFINITE, NULL},
        {"END", 44, STI_E_END, 0, NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        assert_int_equal(kept[i].code, -kept[i].number);
        assert_string_equal(sti_status_name(kept[i].code), kept[i].name);
        assert_int_equal(sti_status_traits(kept[i].code), kept[i].traits);
    }
}

static void lookups_take_both_signs(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        int sign;
        for (sign = -1; sign <= 1; sign += 2) {
            assert_string_equal(sti_status_name(sign * row->number), row->name);
            assert_string_equal(sti_status_text(sign * row->number), row->text);
            assert_int_equal(sti_status_traits(sign * row->number), row->traits);
        }
    }
    assert_string_equal(sti_status_name(STI_OK), "OK");
    assert_string_equal(sti_status_text(STI_OK), "success");
    assert_int_equal(sti_status_traits(STI_OK), 0);
}

/* A code from a newer node, or nonsense from a wire, is treated as INTERNAL. */
static void unknown_codes(void **state)
{
    const int codes[] = {ROWS + 1, -ROWS - 1, 1000000, INT_MAX, -INT_MAX, INT_MIN};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        assert_string_equal(sti_status_name(codes[i]), "INTERNAL");
        assert_non_null(strstr(sti_status_text(codes[i]), "does not know"));
        assert_int_equal(sti_status_traits(codes[i]), sti_status_traits(STI_E_INTERNAL));
    }
}

static void traits_make_sense(void **state)
{
    const uint32_t all =
        STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH | STI_TRAIT_FATAL | STI_TRAIT_INDEFINITE;
    int i;
    (void)state;
    for (i = 0; i < ROWS; i++) {
        assert_int_equal(rows[i].traits & ~all, 0);
        if ((rows[i].traits & STI_TRAIT_FATAL) != 0) {
            assert_int_equal(rows[i].traits & STI_TRAIT_RETRIABLE, 0);
        }
    }
}

static void names_and_texts_have_a_form(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < ROWS; i++) {
        const char *text = rows[i].text;
        assert_int_equal(strspn(rows[i].name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"), strlen(rows[i].name));
        /* A clause: it completes "the call failed: ...". */
        assert_in_range(strlen(text), 10, 100);
        assert_true(text[0] >= 'a' && text[0] <= 'z');
        assert_int_not_equal(text[strlen(text) - 1], '.');
    }
}

/* enum ErrorCode of the public API is the same list. */
static void the_public_api_has_the_same_codes(void **state)
{
    FILE *proto = fopen(PROTO_FILE, "r");
    char line[512];
    int next = 0, inside = 0;
    (void)state;
    assert_non_null(proto);
    while (fgets(line, sizeof line, proto) != NULL) {
        if (strncmp(line, "enum ErrorCode {", 16) == 0) {
            inside = 1;
        } else if (inside != 0 && line[0] == '}') {
            break;
        } else if (inside != 0 && strstr(line, " = ") != NULL) {
            char *name = line + strspn(line, " ");
            char *number = strstr(name, " = ");
            number[0] = '\0';
            assert_true(next <= ROWS);
            assert_int_equal(strtol(number + 3, NULL, 10), next);
            assert_string_equal(name, sti_status_name(next));
            next++;
        }
    }
    (void)fclose(proto);
    assert_int_equal(next, ROWS + 1);
}

/* ---- the error object */

static void set_fills_all(void **state)
{
    struct sti_err err;
    (void)state;
    assert_int_equal(sizeof err, 256);
    memset(&err, 0xee, sizeof err);
    assert_int_equal(sti_err_set(&err, STI_E_THROTTLED, "%s-%d", "t", 3), STI_E_THROTTLED);
    assert_int_equal(err.code, STI_E_THROTTLED);
    assert_int_equal(err.traits, STI_TRAIT_RETRIABLE);
    assert_string_equal(err.msg, "t-3");
    sti_err_clear(&err);
    assert_int_equal(err.code, STI_OK);
    assert_int_equal(err.traits, 0);
    assert_string_equal(err.msg, "");
}

static void null_is_allowed(void **state)
{
    (void)state;
    sti_err_clear(NULL);
    assert_int_equal(sti_err_set(NULL, STI_E_IO, "%s", "x"), STI_E_IO);
    assert_int_equal(sti_err_wrap(NULL, STI_E_IO, "%s", "x"), STI_E_IO);
}

static void a_long_sentence_is_cut(void **state)
{
    struct sti_err err;
    char text[400];
    (void)state;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)sti_err_set(&err, STI_E_IO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    /* One that just fits is whole. */
    text[sizeof err.msg - 1] = '\0';
    text[sizeof err.msg - 2] = 'z';
    (void)sti_err_set(&err, STI_E_IO, "%s", text);
    assert_string_equal(err.msg, text);
}

static void wrap_puts_the_place_in_front(void **state)
{
    struct sti_err err;
    (void)state;
    (void)sti_err_set(&err, STI_E_DISK_FULL, "no space for %d bytes", 7);
    err.traits = STI_TRAIT_FATAL; /* of this very failure: kept */
    assert_int_equal(sti_err_wrap(&err, err.code, "open %s", "t-3"), STI_E_DISK_FULL);
    assert_string_equal(err.msg, "open t-3: no space for 7 bytes");
    assert_int_equal(err.code, STI_E_DISK_FULL);
    assert_int_equal(err.traits, STI_TRAIT_FATAL);
    /* An object that nobody filled gets the caller's code. */
    sti_err_clear(&err);
    assert_int_equal(sti_err_wrap(&err, STI_E_IO, "read"), STI_E_IO);
    assert_int_equal(err.code, STI_E_IO);
    assert_int_equal(err.traits, STI_TRAIT_INDEFINITE);
}

/* Whatever the lengths: terminated, the place whole as far as it fits, then as much of the cause.
 */
static void wrap_is_cut_at_every_length(void **state)
{
    struct sti_err err;
    char place[400], cause[400];
    size_t n, m;
    (void)state;
    for (n = 0; n < 300; n += 1 + n / 9) {
        for (m = 0; m < 300; m += 1 + m / 9) {
            memset(place, 'p', sizeof place);
            memset(cause, 'c', sizeof cause);
            place[n] = '\0';
            cause[m] = '\0';
            (void)sti_err_set(&err, STI_E_IO, "%s", cause);
            (void)sti_err_wrap(&err, STI_E_IO, "%s", place);
            assert_non_null(memchr(err.msg, '\0', sizeof err.msg));
            assert_int_equal(strspn(err.msg, "p"), n < sizeof err.msg ? n : sizeof err.msg - 1);
            if (n + 2 + m < sizeof err.msg && n + 3 < sizeof err.msg) {
                assert_int_equal(strlen(err.msg), n + 2 + m);
                assert_string_equal(err.msg + n + 2, cause);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_dense),
        cmocka_unit_test(codes_stay),
        cmocka_unit_test(lookups_take_both_signs),
        cmocka_unit_test(unknown_codes),
        cmocka_unit_test(traits_make_sense),
        cmocka_unit_test(names_and_texts_have_a_form),
        cmocka_unit_test(the_public_api_has_the_same_codes),
        cmocka_unit_test(set_fills_all),
        cmocka_unit_test(null_is_allowed),
        cmocka_unit_test(a_long_sentence_is_cut),
        cmocka_unit_test(wrap_puts_the_place_in_front),
        cmocka_unit_test(wrap_is_cut_at_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
