/* test_engine.c -- the file that says which engine wrote an instance's folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/engine.h"
#include "test_host.h"

static char *dir;

static const struct krn_engine mapped = {.instance = "store", .engine = "storage_mmap"};
static const struct krn_engine memory = {.instance = "store", .engine = "storage_memory"};
static const struct krn_engine second = {.instance = "cache", .engine = "storage_memory"};

static int check(const struct krn_engine *one, const struct krn_engine *two, struct sti_err *err)
{
    const struct krn_engine *const engines[] = {one, two, NULL};
    *err = (struct sti_err){0};
    return krn_engine_check(dir, engines, (one != NULL ? 1u : 0u) + (two != NULL ? 1u : 0u), err);
}

static void path_of(const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s/%s", dir, name);
}

static void put(const char *name, const char *text, size_t len)
{
    char path[512];
    path_of(name, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
}

static size_t get(const char *name, char *text, size_t size)
{
    char path[512];
    path_of(name, path, sizeof path);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t len = read(fd, text, size);
    assert_true(len >= 0);
    close(fd);
    return (size_t)len;
}

static void folder(const char *name)
{
    char path[512];
    path_of(name, path, sizeof path);
    assert_int_equal(mkdir(path, 0750), 0);
}

/* A folder `store` that storage_mmap has written. */
static void written_by_mapped(void)
{
    struct sti_err err = {0};
    folder("store");
    assert_int_equal(krn_engine_note(dir, &mapped, &err), STI_OK);
    folder("store/t-0");
}

static void test_the_same_engine_is_let_in(void **state)
{
    (void)state;
    struct sti_err err;
    written_by_mapped();
    assert_int_equal(check(&mapped, NULL, &err), STI_OK);
    assert_int_equal(check(&mapped, &second, &err), STI_OK);
    assert_int_equal(krn_engine_note(dir, &mapped, &err), STI_OK);
    assert_int_equal(check(&mapped, NULL, &err), STI_OK);
}

static void test_another_engine_is_refused_by_name(void **state)
{
    (void)state;
    struct sti_err err;
    char text[700];
    written_by_mapped();
    assert_int_equal(check(&memory, NULL, &err), STI_E_CONFIG);
    snprintf(text, sizeof text,
             "plugins.store loads storage_memory, but %.80s/store holds data of storage_mmap: load "
             "storage_mmap there; see \"Changing an engine\" in docs/guides/operators.md",
             dir);
    assert_string_equal(err.msg, text);
}

static void test_an_instance_that_is_gone_is_refused_by_name(void **state)
{
    (void)state;
    struct sti_err err;
    char text[700];
    written_by_mapped();
    assert_int_equal(check(&second, NULL, &err), STI_E_CONFIG);
    snprintf(text, sizeof text,
             "%.80s/store holds data of storage_mmap, and plugins has no instance store: configure "
             "it; see \"Changing an engine\" in docs/guides/operators.md",
             dir);
    assert_string_equal(err.msg, text);
}

static void test_an_empty_folder_binds_nobody(void **state)
{
    (void)state;
    struct sti_err err = {0};
    char text[64] = "";
    folder("store");
    assert_int_equal(krn_engine_note(dir, &mapped, &err), STI_OK);
    assert_int_equal(check(&memory, NULL, &err), STI_OK);
    assert_int_equal(check(NULL, NULL, &err), STI_OK);
    assert_int_equal(krn_engine_note(dir, &memory, &err), STI_OK);
    size_t len = get("store/engine", text, sizeof text - 1);
    assert_true(len > 0);
    assert_int_equal(strncmp(text, "engine=storage_memory\n", 22), 0);
}

static void test_what_keeps_nothing_gets_no_folder(void **state)
{
    (void)state;
    struct sti_err err = {0};
    char path[512];
    assert_int_equal(krn_engine_note(dir, &second, &err), STI_OK);
    path_of("cache", path, sizeof path);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_foreign_folders_and_old_ones_say_nothing(void **state)
{
    (void)state;
    struct sti_err err;
    folder("holiday");
    put("holiday/photo", "x", 1);
    folder("store");
    put("store/t-0", "x", 1);
    put("a-file", "x", 1);
    assert_int_equal(check(&memory, NULL, &err), STI_OK);
}

/* Every byte of the file flipped, and the file cut at every length. */
static void test_damage_of_the_file_is_named(void **state)
{
    (void)state;
    struct sti_err err;
    char text[128], bad[128], where[600];
    written_by_mapped();
    size_t len = get("store/engine", text, sizeof text);
    assert_true(len > 20);
    snprintf(where, sizeof where, "%.100s/store/engine is damaged: restore it, or remove it", dir);
    for (size_t i = 0; i < len; i++) {
        memcpy(bad, text, len);
        bad[i] = (char)(bad[i] ^ 4);
        put("store/engine", bad, len);
        assert_int_equal(check(&mapped, NULL, &err), STI_E_DATA_LOSS);
        assert_non_null(strstr(err.msg, where));
    }
    put("store/engine", text, 0); /* a loss of power before it was on disk: it says nothing */
    assert_int_equal(check(&memory, NULL, &err), STI_OK);
    for (size_t i = 1; i < len; i++) {
        put("store/engine", text, i);
        assert_int_equal(check(&mapped, NULL, &err), STI_E_DATA_LOSS);
    }
    put("store/engine", text, len);
    assert_int_equal(check(&mapped, NULL, &err), STI_OK);
    /* The remedy that the sentence names. */
    put("store/engine", "?", 1);
    char path[512];
    path_of("store/engine", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(check(&mapped, NULL, &err), STI_OK);
    assert_int_equal(krn_engine_note(dir, &mapped, &err), STI_OK);
    assert_int_equal(get("store/engine", bad, sizeof bad), len);
    assert_memory_equal(bad, text, len);
}

static int setup(void **state)
{
    (void)state;
    dir = test_dir_new("engine");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_same_engine_is_let_in, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_engine_is_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_instance_that_is_gone_is_refused_by_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_folder_binds_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_keeps_nothing_gets_no_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_folders_and_old_ones_say_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_damage_of_the_file_is_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
