/* test_fault.c -- the rules of fault points. Rules are read once in a process, so each case plays
 * in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "streamit/fault.h"

enum { KILLED = 1000, REFUSED = 2 };

static char log_path[] = "/tmp/streamit-fault-XXXXXX";

static int first(void)
{
    return STI_FAULT("test.first");
}

static int second(void)
{
    return STI_FAULT("test.second");
}

/* How often of `times` does the first point fail with `error`? */
static int count_failures(int times, int error)
{
    int count = 0;
    for (int i = 0; i < times; i++) {
        int rc = first();
        if (rc != 0 && rc != error) {
            return 255;
        }
        count += rc == error ? 1 : 0;
    }
    return count;
}

/* Run `scene` in a child under these rules. @return what it returned, or KILLED */
static int play(const char *rules, int (*scene)(void))
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)setenv("STREAMIT_FAULT", rules, 1);
        (void)setenv("STREAMIT_FAULT_LOG", log_path, 1);
        _exit(scene());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGKILL ? KILLED : -1;
    }
    return WEXITSTATUS(status);
}

static int ten_eio(void)
{
    return count_failures(10, EIO);
}

static int thousand_enospc(void)
{
    int count = count_failures(1000, ENOSPC);
    return count > 60 && count < 140 ? 1 : 0;
}

static int third_eio_only(void)
{
    static const int wanted[] = {0, 0, EIO, 0};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (first() != wanted[i]) {
            return 0;
        }
    }
    return second() == 0 ? 1 : 0;
}

static int only_second(void)
{
    return first() == 0 && second() == EMFILE ? 1 : 0;
}

static int waits(void)
{
    struct timespec before, after;
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    int rc = first();
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    int64_t ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    return rc == 0 && ms >= 19 ? 1 : 0;
}

static void rules_count(void **state)
{
    (void)state;
    assert_int_equal(play("", ten_eio), 0);
    assert_int_equal(play("test.first:EIO", ten_eio), 1);
    assert_int_equal(play("test.first:EIO@3", third_eio_only), 1);
    assert_int_equal(play("test.first:EIO@11", ten_eio), 0);
    assert_int_equal(play("test.first:EIO@4+", ten_eio), 7);
    assert_int_equal(play("test.first:EIO@2;test.first:EIO@5", ten_eio), 2);
    assert_int_equal(play("test.fir*:EIO@2+", ten_eio), 9);
    assert_int_equal(play("*:EIO@1+", ten_eio), 10);
    assert_int_equal(play("test.second:EMFILE", only_second), 1);
    assert_int_equal(play("test.first:ENOSPC@p0.1", thousand_enospc), 1);
    assert_int_equal(play("test.first:EIO@p0", ten_eio), 0);
    assert_int_equal(play("test.first:EIO@p1", ten_eio), 10);
    assert_int_equal(play("test.first:sleep=20", waits), 1);
}

static void a_death_is_noted_before(void **state)
{
    (void)state;
    char text[200] = "";
    assert_int_equal(truncate(log_path, 0), 0);
    assert_int_equal(play("test.first:kill@7", ten_eio), KILLED);
    int fd = open(log_path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    assert_true(len > 0);
    assert_string_equal(text, "test.first kill 7\n");
    assert_int_equal(play("test.first:kill@11", ten_eio), 0);
}

static void what_cannot_be_understood_ends_the_process(void **state)
{
    (void)state;
    static const char *const wrong[] = {"test.first",
                                        "test.first:",
                                        "test.first:EWHAT",
                                        ":EIO",
                                        "test.first:EIO@",
                                        "test.first:EIO@0",
                                        "test.first:EIO@x",
                                        "test.first:EIO@3-",
                                        "test.first:EIO@p2",
                                        "test.first:EIO@p",
                                        "test.first:sleep=",
                                        "test.first:sleep=1s",
                                        "test.first:sleep",
                                        "test.first:sleep=1@0",
                                        "test.first:sleep=900000"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int got = play(wrong[i], ten_eio);
        if (got != REFUSED) {
            fail_msg("\"%s\": %d", wrong[i], got);
        }
    }
}

static int hook_calls;

static int hook(const char *point)
{
    hook_calls++;
    return strcmp(point, "test.second") == 0 ? EROFS : 0;
}

static void the_hook_decides_instead(void **state)
{
    (void)state;
    sti_fault_set_hook(hook);
    assert_int_equal(first(), 0);
    assert_int_equal(second(), EROFS);
    sti_fault_set_hook(NULL);
    assert_int_equal(second(), 0);
    assert_int_equal(hook_calls, 2);
}

static void the_list_names_every_point_once(void **state)
{
    (void)state;
    int firsts = 0, seconds = 0, others = 0;
    for (const char *p = sti_fault_next(NULL); p != NULL; p = sti_fault_next(p)) {
        firsts += strcmp(p, "test.first") == 0;
        seconds += strcmp(p, "test.second") == 0;
        others += strncmp(p, "test.", 5) != 0;
    }
    assert_int_equal(firsts, 1);
    assert_int_equal(seconds, 1);
    assert_int_equal(others, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_count),
        cmocka_unit_test(a_death_is_noted_before),
        cmocka_unit_test(what_cannot_be_understood_ends_the_process),
        cmocka_unit_test(the_hook_decides_instead),
        cmocka_unit_test(the_list_names_every_point_once),
    };
    int fd = mkstemp(log_path);
    if (fd < 0) {
        perror(log_path);
        return 1;
    }
    close(fd);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(log_path);
    return rc;
}
