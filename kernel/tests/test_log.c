/* test_log.c -- what a line looks like, thinning, and a reader that does not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "kernel/log.h"

static uint64_t now_us;

static uint64_t fake_clock(int clock_id)
{
    return clock_id == STI_CLOCK_REALTIME ? UINT64_C(1700000000123456) : now_us;
}

static int pipe_fds[2];
static struct krn_log *log_;

static void open_log(int format, int level)
{
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK), 0);
    log_ = krn_log_new(pipe_fds[1], format, level);
    assert_non_null(log_);
    krn_log_clock_set(log_, fake_clock);
}

static void close_log(void)
{
    krn_log_free(log_);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static size_t read_all(char *buf, size_t size)
{
    ssize_t n = read(pipe_fds[0], buf, size - 1);
    buf[n > 0 ? (size_t)n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

static void test_components_have_levels(void **state)
{
    (void)state;
    char buf[4096];
    const struct krn_log_component rows[] = {{"loud", STI_LOG_DEBUG}, {"quiet", STI_LOG_ERROR}};
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    krn_log_levels_set(log_, STI_LOG_INFO, rows, 2);
    assert_true(krn_log_enabled(log_, "loud", STI_LOG_DEBUG));
    assert_false(krn_log_enabled(log_, "quiet", STI_LOG_WARN));
    assert_true(krn_log_enabled(log_, "quiet", STI_LOG_ERROR));
    assert_false(krn_log_enabled(log_, "other", STI_LOG_DEBUG));
    krn_log_write(log_, STI_LOG_WARN, "quiet", "e", "m", NULL);
    assert_int_equal(read_all(buf, sizeof buf), 0);
    krn_log_write(log_, STI_LOG_DEBUG, "loud", "e", "m", NULL);
    assert_true(read_all(buf, sizeof buf) > 0);
    krn_log_level_set(log_, STI_LOG_WARN); /* for all again */
    assert_true(krn_log_enabled(log_, "quiet", STI_LOG_WARN));
    assert_false(krn_log_enabled(log_, "loud", STI_LOG_INFO));
    close_log();
}

static void test_json_line(void **state)
{
    (void)state;
    char buf[4096];
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    const struct sti_field *const fields[] = {
        STI_F_STR("trace_id", "abc"),   STI_F_INT("offset", -5),
        STI_F_UINT("big", UINT64_MAX),  STI_F_DOUBLE("ratio", 0.5),
        STI_F_DOUBLE("none", NAN),      STI_F_BOOL("ok", true),
        STI_F_STR("bad", "a\xff\"\n"),  STI_F_STR("null", NULL),
        STI_F_STR("time", "mine"),      STI_F_STR("utf8", "\xc3\xa9"),
        STI_F_STR("short", "\xe2\x82"), NULL};
    krn_log_write(log_, STI_LOG_WARN, "storage", "rolled", "A segment.", fields);
    size_t len = read_all(buf, sizeof buf);
    assert_int_equal(buf[len - 1], '\n');
    assert_ptr_equal(strchr(buf, '\n'), buf + len - 1);
    assert_string_equal(
        buf, "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"level\":\"warn\",\"component\":"
             "\"storage\",\"event\":\"rolled\",\"message\":\"A segment.\",\"trace_id\":\"abc\","
             "\"offset\":-5,\"big\":1.84467440737096e19,\"ratio\":0.5,\"none\":null,\"ok\":true,"
             "\"bad\":\"a\xef\xbf\xbd\\\"\\n\",\"null\":null,\"_time\":\"mine\",\"utf8\":"
             "\"\xc3\xa9\",\"short\":\"\xef\xbf\xbd\xef\xbf\xbd\"}\n");
    close_log();
}

static void test_object_text_and_level(void **state)
{
    (void)state;
    char buf[4096];
    const struct krn_log_pair pairs[] = {{"grpc", "1.2.3.4:5"}, {"http", "h:1"}};
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    krn_log_write_object(log_, STI_LOG_INFO, "kernel", "ready", "m", NULL, "listeners", pairs, 2);
    read_all(buf, sizeof buf);
    assert_non_null(strstr(buf, "\"listeners\":{\"grpc\":\"1.2.3.4:5\",\"http\":\"h:1\"}"));
    krn_log_event(log_, STI_LOG_DEBUG, "quiet", "not written");
    assert_int_equal(read_all(buf, sizeof buf), 0);
    krn_log_level_set(log_, STI_LOG_DEBUG);
    assert_true(krn_log_enabled(log_, "kernel", STI_LOG_DEBUG));
    krn_log_event(log_, STI_LOG_DEBUG, "quiet", "written");
    assert_true(read_all(buf, sizeof buf) > 0);
    close_log();
    open_log(KRN_LOG_TEXT, STI_LOG_INFO);
    krn_log_event(log_, STI_LOG_ERROR, "broke", "it broke", STI_F_STR("why", "x y"),
                  STI_F_INT("n", 3));
    read_all(buf, sizeof buf);
    assert_string_equal(buf, "22:13:20.123456 error kernel broke: it broke  why=\"x y\" n=3\n");
    close_log();
}

static unsigned count_lines(const char *buf)
{
    unsigned lines = 0;
    for (; *buf != '\0'; buf++) {
        lines += *buf == '\n' ? 1 : 0;
    }
    return lines;
}

static void test_repeats_are_thinned(void **state)
{
    (void)state;
    static char buf[65536];
    struct krn_log_stats stats;
    now_us = 5000000;
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    for (int i = 0; i < 100; i++) {
        krn_log_event(log_, STI_LOG_INFO, "again", "m");
    }
    read_all(buf, sizeof buf);
    assert_int_equal(count_lines(buf), KRN_LOG_BURST);
    krn_log_event(log_, STI_LOG_INFO, "other", "m"); /* another event is not held back */
    assert_true(read_all(buf, sizeof buf) > 0);
    now_us += 1000000;
    krn_log_event(log_, STI_LOG_INFO, "again", "m");
    read_all(buf, sizeof buf);
    assert_non_null(strstr(buf, "\"suppressed\":80"));
    krn_log_event(log_, STI_LOG_INFO, "again", "m");
    read_all(buf, sizeof buf);
    assert_null(strstr(buf, "suppressed"));
    for (int i = 0; i < 100; i++) { /* each of these is wanted */
        krn_log_event(log_, STI_LOG_INFO | STI_LOG_EVERY, "again", "m");
    }
    read_all(buf, sizeof buf);
    assert_int_equal(count_lines(buf), 100);
    assert_non_null(strstr(buf, "\"level\":\"info\""));
    assert_true(krn_log_enabled(log_, "kernel", STI_LOG_INFO | STI_LOG_EVERY));
    assert_false(krn_log_enabled(log_, "kernel", STI_LOG_DEBUG | STI_LOG_EVERY));
    krn_log_stats(log_, &stats);
    assert_int_equal(stats.suppressed, 80);
    assert_int_equal(stats.dropped, 0);
    close_log();
}

static void test_full_pipe_is_counted(void **state)
{
    (void)state;
    static char text[4000], buf[1 << 20];
    struct krn_log_stats stats;
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < 200; i++) {
        now_us += 1000000;
        krn_log_event(log_, STI_LOG_INFO, "full", text);
    }
    krn_log_stats(log_, &stats);
    assert_true(stats.dropped > 0);
    assert_int_equal(stats.dropped + stats.written, 200);
    read_all(buf, sizeof buf);
    assert_non_null(strstr(buf, "xxx...\"}\n")); /* cut at its bound */
    now_us += 1000000;
    krn_log_event(log_, STI_LOG_INFO, "full", "room again");
    assert_true(read_all(buf, sizeof buf) > 0);
    const char *last = strstr(buf, "{\"time\"");
    assert_non_null(last);
    assert_non_null(strstr(last, "room again"));
    json_t *line = json_loads(last, JSON_DISABLE_EOF_CHECK, NULL);
    assert_non_null(line);
    json_decref(line);
    close_log();
}

static void test_closed_reader_is_counted(void **state)
{
    (void)state;
    struct krn_log_stats stats;
    open_log(KRN_LOG_JSON, STI_LOG_INFO);
    close(pipe_fds[1]); /* a file descriptor that is not there */
    krn_log_event(log_, STI_LOG_INFO, "lost", "m");
    krn_log_stats(log_, &stats);
    assert_int_equal(stats.dropped, 1);
    pipe_fds[1] = dup(pipe_fds[0]);
    close_log();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_components_have_levels),
        cmocka_unit_test(test_json_line),
        cmocka_unit_test(test_object_text_and_level),
        cmocka_unit_test(test_repeats_are_thinned),
        cmocka_unit_test(test_full_pipe_is_counted),
        cmocka_unit_test(test_closed_reader_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
