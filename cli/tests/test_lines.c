/* test_lines.c -- every byte of a file comes out in exactly one line, whatever the blocks cut. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lines.h"

static char path[] = "/tmp/streamit-lines-XXXXXX";

static void put(const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    close(fd);
}

static void expect_line(struct lines *lines, const char *text, size_t text_len)
{
    const uint8_t *line;
    size_t len;
    struct sti_err err;
    assert_int_equal(lines_next(lines, &line, &len, &err), STI_OK);
    assert_int_equal(len, text_len);
    assert_memory_equal(line, text, text_len);
}

static void test_empty_lines_and_a_last_one_without_newline(void **state)
{
    struct lines lines;
    struct sti_err err;
    const uint8_t *line;
    size_t len;
    (void)state;
    put("a\n\nb\0c\r\nlast", 12);
    assert_int_equal(lines_open(&lines, path, 100, &err), STI_OK);
    expect_line(&lines, "a", 1);
    expect_line(&lines, "", 0);
    expect_line(&lines, "b\0c\r", 4);
    expect_line(&lines, "last", 4);
    assert_int_equal(lines_next(&lines, &line, &len, &err), STI_E_END);
    lines_close(&lines);
    put("", 0);
    assert_int_equal(lines_open(&lines, path, 100, &err), STI_OK);
    assert_int_equal(lines_next(&lines, &line, &len, &err), STI_E_END);
    lines_close(&lines);
}

static void test_lines_across_blocks(void **state)
{
    size_t total = 5u << 20, at = 0;
    char *data = malloc(total);
    struct lines lines;
    struct sti_err err;
    const uint8_t *line;
    size_t len;
    (void)state;
    for (size_t i = 0; i < total; i++) {
        data[i] = (char)((i * 2654435761u >> 13) % 1000 == 0 ? '\n' : 'x');
    }
    data[total - 1] = '\n';
    put(data, total);
    assert_int_equal(lines_open(&lines, path, total, &err), STI_OK);
    while (lines_next(&lines, &line, &len, &err) == STI_OK) {
        assert_memory_equal(line, data + at, len);
        assert_int_equal(data[at + len], '\n');
        at += len + 1;
    }
    assert_int_equal(at, total);
    lines_close(&lines);
    free(data);
}

static void test_a_line_too_long_is_named(void **state)
{
    struct lines lines;
    struct sti_err err;
    const uint8_t *line;
    size_t len;
    (void)state;
    put("ok\n12345678901\n", 15);
    assert_int_equal(lines_open(&lines, path, 10, &err), STI_OK);
    expect_line(&lines, "ok", 2);
    assert_int_equal(lines_next(&lines, &line, &len, &err), STI_E_MESSAGE_TOO_LARGE);
    assert_non_null(strstr(err.msg, "line 2"));
    assert_non_null(strstr(err.msg, "10 bytes"));
    lines_close(&lines);
}

static void test_files_that_cannot_be_read(void **state)
{
    struct lines lines;
    struct sti_err err;
    (void)state;
    assert_int_equal(lines_open(&lines, "/nonexistent/file", 10, &err), STI_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "/nonexistent/file"));
    assert_int_equal(lines_open(&lines, "/tmp", 10, &err), STI_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.msg, "directory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_lines_and_a_last_one_without_newline),
        cmocka_unit_test(test_lines_across_blocks),
        cmocka_unit_test(test_a_line_too_long_is_named),
        cmocka_unit_test(test_files_that_cannot_be_read),
    };
    int fd = mkstemp(path);
    if (fd < 0) {
        return 1;
    }
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
