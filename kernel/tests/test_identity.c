/* test_identity.c -- the data folder's identity and its lock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/identity.h"
#include "test_host.h"

static char *dir, data[512], file[600];

static void write_identity(const char *text)
{
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static void test_made_once_and_kept(void **state)
{
    (void)state;
    struct krn_identity first, again;
    struct sti_err err = {0};
    assert_int_equal(krn_identity_open(data, 7, &first, &err), STI_OK);
    assert_int_equal(first.created, 1);
    assert_int_equal(access(file, F_OK), -1); /* chosen, not written */
    assert_int_equal(krn_identity_settle(&first, &err), STI_OK);
    assert_int_equal(strspn(first.cluster_id, "0123456789abcdef"), KRN_CLUSTER_ID_LEN);
    krn_identity_close(&first);
    assert_int_equal(krn_identity_open(data, 7, &again, &err), STI_OK);
    assert_int_equal(again.created, 0);
    assert_int_equal(krn_identity_settle(&again, &err), STI_OK); /* nothing to do */
    assert_string_equal(again.cluster_id, first.cluster_id);
    krn_identity_close(&again);
}

static void test_second_daemon_is_refused(void **state)
{
    (void)state;
    struct krn_identity first, second;
    struct sti_err err = {0};
    char text[700];
    assert_int_equal(krn_identity_open(data, 7, &first, &err), STI_OK);
    assert_int_equal(krn_identity_open(data, 7, &second, &err), STI_E_IN_USE);
    snprintf(text, sizeof text,
             "data folder %s is in use by process %ld: stop that daemon, or choose another "
             "node.data_dir",
             data, (long)getpid());
    assert_string_equal(err.msg, text);
    assert_int_equal(second.lock_fd, -1);
    krn_identity_close(&first);
    assert_int_equal(krn_identity_open(data, 7, &second, &err), STI_OK);
    krn_identity_close(&second);
}

static void test_other_node_is_refused(void **state)
{
    (void)state;
    struct krn_identity id;
    struct sti_err err = {0};
    assert_int_equal(krn_identity_open(data, 8, &id, &err), STI_E_PRECONDITION);
    assert_non_null(strstr(err.msg, "belongs to node_id 7, node.node_id is 8"));
    assert_int_equal(id.lock_fd, -1);
}

static void test_damage_and_newer_format(void **state)
{
    (void)state;
    struct krn_identity id;
    struct sti_err err = {0};
    write_identity("format_version=1\nnode_id=7\n");
    assert_int_equal(krn_identity_open(data, 7, &id, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "the file identity is damaged (no checksum)"));
    write_identity("format_version=1\nnode_id=7\ncrc32=00000001\n");
    assert_int_equal(krn_identity_open(data, 7, &id, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "checksum 00000001, its content has "));
    write_identity("format_version=9\ncrc32=6eb8b56e\n");
    struct sti_err newer = {0};
    int status = krn_identity_open(data, 7, &id, &newer);
    if (status == STI_E_DATA_LOSS) { /* take the checksum from what was said */
        char text[128], *sum = strstr(newer.msg, "content has ");
        assert_non_null(sum);
        snprintf(text, sizeof text, "format_version=9\ncrc32=%.8s\n", sum + 12);
        write_identity(text);
        status = krn_identity_open(data, 7, &id, &newer);
    }
    assert_int_equal(status, STI_E_PRECONDITION);
    assert_non_null(strstr(newer.msg, "format_version 9, this StreamIt knows 1: upgrade StreamIt"));
}

/* Each bit of each byte, and each cut. */
static void test_every_byte_counts(void **state)
{
    (void)state;
    struct krn_identity id;
    char good[512], bad[512];
    assert_int_equal(unlink(file), 0);
    struct sti_err err = {0};
    assert_int_equal(krn_identity_open(data, 7, &id, &err), STI_OK);
    assert_int_equal(krn_identity_settle(&id, &err), STI_OK);
    krn_identity_close(&id);
    FILE *in = fopen(file, "r");
    assert_non_null(in);
    size_t len = fread(good, 1, sizeof good - 1, in);
    fclose(in);
    assert_true(len > 60);
    for (size_t i = 0; i < 9 * len; i++) {
        memcpy(bad, good, len);
        bad[len] = '\0';
        if (i < 8 * len) {
            bad[i / 8] = (char)(bad[i / 8] ^ 1 << i % 8);
        } else {
            bad[i - 8 * len] = '\0';
        }
        write_identity(bad); /* a null byte cuts */
        assert_int_equal(krn_identity_open(data, 7, &id, &err), STI_E_DATA_LOSS);
        assert_int_equal(id.lock_fd, -1);
    }
    good[len] = '\0';
    write_identity(good);
    assert_int_equal(krn_identity_open(data, 7, &id, &err), STI_OK);
    krn_identity_close(&id);
}

static void test_no_folder_can_be_made(void **state)
{
    (void)state;
    struct krn_identity id;
    struct sti_err err = {0};
    assert_int_equal(krn_identity_open("/proc/nothing/here", 1, &id, &err), STI_E_IO);
    assert_non_null(strstr(err.msg, "data folder /proc/nothing/here: cannot make /proc/nothing"));
}

static int setup(void **state)
{
    (void)state;
    dir = test_dir_new("identity");
    snprintf(data, sizeof data, "%s/a/b", dir);
    snprintf(file, sizeof file, "%s/identity", data);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_dir_remove(dir);
    return 0;
}

/* Folders above it are made as well, and a disk that fails is named when it comes to writing. */
static void test_settling(void **state)
{
    (void)state;
    char deep[600], name[700];
    struct krn_identity id;
    struct sti_err err = {0};
    snprintf(deep, sizeof deep, "%s/a//b/c/", dir);
    snprintf(name, sizeof name, "%s/identity.tmp", deep);
    assert_int_equal(krn_identity_open(deep, 7, &id, &err), STI_OK);
    assert_int_equal(mkdir(name, 0700), 0);
    assert_int_equal(krn_identity_settle(&id, &err), STI_E_IO);
    assert_non_null(strstr(err.msg, "cannot write its file identity: Is a directory"));
    assert_int_equal(rmdir(name), 0);
    assert_int_equal(krn_identity_settle(&id, &err), STI_OK);
    krn_identity_close(&id);
    assert_int_equal(krn_identity_open(deep, 7, &id, &err), STI_OK);
    assert_int_equal(id.created, 0);
    krn_identity_close(&id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_once_and_kept),
        cmocka_unit_test(test_second_daemon_is_refused),
        cmocka_unit_test(test_other_node_is_refused),
        cmocka_unit_test(test_damage_and_newer_format),
        cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_no_folder_can_be_made),
        cmocka_unit_test(test_settling),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
