/* test_loader.c -- every refusal of a plugin, by its text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_general.h>

#include "kernel/interfaces.h"
#include "kernel/loader.h"
#include "kernel/node.h"
#include "streamit/storage.h"
#include "test_host.h"

static char *dir; /* nobody else may write it, whatever the build folder's rights are */
static apr_pool_t *pool;

static void copy_subject(const char *name, mode_t mode, char *path, size_t size)
{
    char from[512], buf[65536];
    snprintf(from, sizeof from, "%s/%s.so", SUBJECT_DIR, name);
    snprintf(path, size, "%s/%s.so", dir, name);
    (void)remove(path); /* a library that is still mapped keeps its bytes */
    FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
    assert_non_null(in);
    assert_non_null(out);
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, in)) > 0) {
        assert_int_equal(fwrite(buf, 1, n, out), n);
    }
    fclose(in);
    fclose(out);
    assert_int_equal(chmod(path, mode), 0);
}

static void expect_refusal(const char *name, int code, const char *text)
{
    char path[512], file[80];
    struct krn_plugin plugin;
    struct sti_err err = {0};
    copy_subject(name, 0644, path, sizeof path);
    snprintf(file, sizeof file, "%s.so", name);
    assert_int_equal(krn_loader_open(pool, dir, file, &plugin, &err), code);
    assert_string_equal(err.msg, text);
    assert_null(plugin.desc);
    assert_int_equal(err.code, code);
}

static void expect_refused(const char *name, const char *text)
{
    expect_refusal(name, STI_E_PLUGIN_REFUSED, text);
}

/* The start of the text only: a sanitizer makes the symbol larger than the descriptor. */
static void expect_refused_so(const char *name, const char *start)
{
    char path[512], file[80];
    struct krn_plugin plugin;
    struct sti_err err = {0};
    copy_subject(name, 0644, path, sizeof path);
    snprintf(file, sizeof file, "%s.so", name);
    assert_int_equal(krn_loader_open(pool, dir, file, &plugin, &err), STI_E_PLUGIN_REFUSED);
    assert_memory_equal(err.msg, start, strlen(start));
    const char *rest = err.msg + strlen(start);
    assert_true(STREAMIT_SANITIZED || strncmp(rest, "88", 2) == 0);
    assert_non_null(strstr(rest, ": rebuild the plugin against this SDK"));
}

static void test_good_loads_by_bare_name_and_by_path(void **state)
{
    (void)state;
    char path[512];
    struct krn_plugin by_name, by_path;
    struct sti_err err = {0};
    copy_subject("good", 0644, path, sizeof path);
    assert_int_equal(krn_loader_open(pool, dir, "good.so", &by_name, &err), STI_OK);
    assert_int_equal(krn_loader_open(pool, "/nowhere", path, &by_path, &err), STI_OK);
    assert_string_equal(by_name.desc->name, "subject");
    assert_ptr_equal(by_name.desc, by_path.desc);
    assert_string_equal(by_path.file, "good.so");
    assert_false(by_name.optional);
    krn_loader_close(&by_name);
    krn_loader_close(&by_path);
}

/* Built when the storage interface was 0.1: the slots that came later are optional. */
static void test_an_older_interface_loads(void **state)
{
    (void)state;
    char path[512];
    struct krn_plugin plugin;
    struct sti_err err = {0};
    copy_subject("storage_old", 0644, path, sizeof path);
    assert_int_equal(krn_loader_open(pool, dir, "storage_old.so", &plugin, &err), STI_OK);
    const struct sti_storage *storage = (const void *)plugin.desc->provides[0];
    assert_int_equal(storage->iface.minor, 1);
    assert_false(storage->iface.struct_size >= sizeof *storage);
    krn_loader_close(&plugin);
}

static void test_rights_come_first(void **state)
{
    (void)state;
    char path[512], text[640];
    struct krn_plugin plugin;
    struct sti_err err = {0};
    copy_subject("magic", 0646, path, sizeof path);
    assert_int_equal(krn_loader_open(pool, dir, "magic.so", &plugin, &err), STI_E_PLUGIN_REFUSED);
    snprintf(text, sizeof text,
             "magic.so: file %s may be written by others (mode 0646, expected 0644): chmod go-w it",
             path);
    assert_string_equal(err.msg, text);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(dir, 0770), 0);
    assert_int_equal(krn_loader_open(pool, dir, "magic.so", &plugin, &err), STI_E_PLUGIN_REFUSED);
    snprintf(
        text, sizeof text,
        "magic.so: folder %s may be written by others (mode 0770, expected 0750): chmod go-w it",
        dir);
    assert_string_equal(err.msg, text);
    assert_int_equal(chmod(dir, 0700), 0);
}

static void test_names(void **state)
{
    (void)state;
    struct krn_plugin plugin;
    struct sti_err err = {0};
    assert_int_equal(krn_loader_open(pool, dir, "sub/x.so", &plugin, &err), STI_E_PLUGIN_REFUSED);
    assert_string_equal(err.msg, "file 'sub/x.so': expected a bare name or an absolute path");
    assert_int_equal(krn_loader_open(pool, dir, "gone.so", &plugin, &err), STI_E_PLUGIN_REFUSED);
    assert_non_null(strstr(err.msg, "gone.so: file "));
    assert_non_null(strstr(err.msg, "No such file or directory"));
    char path[512];
    snprintf(path, sizeof path, "%s/text.so", dir);
    FILE *out = fopen(path, "w");
    fputs("not a library\n", out);
    fclose(out);
    assert_int_equal(krn_loader_open(pool, dir, "text.so", &plugin, &err), STI_E_PLUGIN_REFUSED);
    assert_non_null(strstr(err.msg, "text.so: cannot be loaded: "));
}

static void test_symbol(void **state)
{
    (void)state;
    expect_refused("no_symbol",
                   "no_symbol.so: it exports no symbol sti_plugin: not a StreamIt plugin");
    expect_refused("function",
                   "function.so: symbol sti_plugin is not a data object: not a StreamIt plugin");
    expect_refused("tiny", "tiny.so: symbol sti_plugin has 8 bytes, expected at least 16: not a "
                           "StreamIt plugin");
}

static void test_versions(void **state)
{
    (void)state;
    expect_refused("magic", "magic.so: magic 0x12345678, kernel expects 0x49545331: not a StreamIt "
                            "plugin, or built for another byte order");
    expect_refusal("abi_major", STI_E_ABI_MISMATCH,
                   "abi_major.so: plugin ABI 3.2, kernel provides 0.2 (abi_major 3, expected 0): "
                   "upgrade StreamIt or rebuild the plugin");
    expect_refusal("abi_minor", STI_E_ABI_MISMATCH,
                   "abi_minor.so: plugin ABI 0.77, kernel provides 0.2 (needs 0.77 or later): "
                   "upgrade StreamIt or rebuild the plugin (abi_minor)");
    expect_refused_so("struct_size", "struct_size.so: struct_size 24, expected at least 88 and at "
                                     "most the symbol's ");
    expect_refused_so("struct_large", "struct_large.so: struct_size 4096, expected at least 88 and "
                                      "at most the symbol's ");
}

static void test_identity(void **state)
{
    (void)state;
    expect_refused("flags", "flags.so: flags 0x80, kernel knows 0x3: upgrade StreamIt or rebuild "
                            "the plugin");
    expect_refused("name",
                   "name.so: name 'Not A Name', expected 1 to 64 lower-case letters, digits "
                   "and '_': rename the plugin");
    expect_refused("version", "version.so: version is null, expected a text: fill it in");
    expect_refused("life", "life.so: life is null, expected a lifecycle table");
    expect_refused("life_size", "life_size.so: life: struct_size 16, expected at least 56: rebuild "
                                "the plugin");
    expect_refused("life_slot",
                   "life_slot.so: life: slot stop is null, expected a function: fill it in");
}

static void test_options(void **state)
{
    (void)state;
    expect_refused("option_size",
                   "option_size.so: option 0: struct_size 24, expected at least 104: "
                   "rebuild the plugin");
    expect_refused("option_key",
                   "option_key.so: option 0: key 'Port-Number', expected 1 to 64 lower-case "
                   "letters, digits and '_': rename it");
    expect_refused("option_twice",
                   "option_twice.so: option 'port': key stands in rows 0 and 1: keep one");
    expect_refused("option_file", "option_file.so: option 'file': key is the kernel's own, "
                                  "expected another: rename it");
    expect_refused("option_type", "option_type.so: option 'port': type 42, kernel knows 1 to 7: "
                                  "upgrade StreamIt or rebuild the plugin");
    expect_refused("option_offset",
                   "option_offset.so: option 'port': offset 64 with 8 bytes lies outside conf_size "
                   "16: correct the table");
    expect_refused("option_default", "option_default.so: option 'port': default: 70000 is out of "
                                     "range: expected 0 to 65535");
    expect_refused("conf_size", "conf_size.so: conf_size 0, expected 1 to 1048576: correct the "
                                "descriptor");
}

static void test_interfaces(void **state)
{
    (void)state;
    char text[256];
    expect_refused("iface_size", "iface_size.so: interface: struct_size 8, expected at least 24: "
                                 "rebuild the plugin");
    expect_refused("twice", "twice.so: provides: test.echo stands in rows 0 and 1: keep one");
    snprintf(text, sizeof text,
             "storage_size.so: streamit.storage: struct_size 32, expected at least %zu: rebuild "
             "the plugin against this SDK",
             offsetof(struct sti_storage, space));
    expect_refused("storage_size", text);
    expect_refused("storage_slot", "storage_slot.so: streamit.storage: slot append is null, "
                                   "expected a function: fill it in");
    expect_refused("storage_caps",
                   "storage_caps.so: streamit.storage: caps 0x4 promise 0x4, which needs slot "
                   "blob_get, and that is null: fill it in or withdraw the promise");
    expect_refusal("storage_major", STI_E_ABI_MISMATCH,
                   "storage_major.so: streamit.storage: interface 3.3, kernel expects 0.3 (major "
                   "0): rebuild the plugin against this SDK");
    expect_refusal("storage_minor", STI_E_ABI_MISMATCH,
                   "storage_minor.so: streamit.storage: interface 0.0, kernel needs 0.1 or later: "
                   "rebuild the plugin against this SDK");
}

static void test_needs(void **state)
{
    (void)state;
    expect_refused("need_size", "need_size.so: needs: row 0: struct_size 4, expected at least 32: "
                                "rebuild the plugin");
    expect_refusal("need_major", STI_E_ABI_MISMATCH,
                   "need_major.so: needs streamit.storage 7.0, kernel knows 0.3: upgrade StreamIt "
                   "or rebuild the plugin");
}

static void test_optional_is_known_of_a_refused_one(void **state)
{
    (void)state;
    char path[512];
    struct krn_plugin plugin;
    struct sti_err err = {0};
    copy_subject("iface_id", 0644, path, sizeof path);
    assert_int_equal(krn_loader_open(pool, dir, "iface_id.so", &plugin, &err),
                     STI_E_PLUGIN_REFUSED);
    assert_true(plugin.optional);
    assert_non_null(strstr(err.msg, "interface: id of 0 bytes"));
}

static void test_every_sdk_interface_is_known(void **state)
{
    (void)state;
    size_t count = 0;
    for (; krn_interface_at(count) != NULL; count++) {
        const struct krn_interface *known = krn_interface_at(count);
        assert_ptr_equal(krn_interface_find(known->id), known);
        assert_true(known->slot_count > 0);
        for (size_t i = 0; i < known->slot_count; i++) {
            assert_true(known->slots[i].offset >= sizeof(struct sti_iface));
            assert_true(known->slots[i].offset + sizeof(void *) <= known->size_least);
        }
    }
    assert_int_equal(count, 9);
    assert_null(krn_interface_find("streamit.nothing"));
}

static void test_plugin_check_describes(void **state)
{
    (void)state;
    char path[512], *text;
    struct sti_err err = {0};
    copy_subject("good", 0644, path, sizeof path);
    assert_int_equal(krn_plugin_check(path, false, &text, &err), STI_OK);
    assert_non_null(strstr(text, "good.so"));
    assert_non_null(strstr(text, "subject 0.1.0  ABI 0.2  test.echo 1.2"));
    assert_non_null(strstr(text, "option   port = 8080: TCP port."));
    free(text);
    assert_int_equal(krn_plugin_check(path, true, &text, &err), STI_OK);
    assert_non_null(strstr(text, "\"abi\": \"0.2\""));
    free(text);
    copy_subject("abi_minor", 0644, path, sizeof path);
    assert_int_equal(krn_plugin_check(path, false, &text, &err), STI_E_ABI_MISMATCH);
    assert_null(text);
    assert_non_null(strstr(err.msg, "abi_minor.so: plugin ABI 0.77, kernel provides 0.2"));
}

static int setup(void **state)
{
    (void)state;
    dir = test_dir_new("loader");
    apr_initialize();
    return apr_pool_create(&pool, NULL);
}

static int teardown(void **state)
{
    (void)state;
    apr_pool_destroy(pool);
    apr_terminate();
    test_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_loads_by_bare_name_and_by_path),
        cmocka_unit_test(test_an_older_interface_loads),
        cmocka_unit_test(test_rights_come_first),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_symbol),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_interfaces),
        cmocka_unit_test(test_needs),
        cmocka_unit_test(test_optional_is_known_of_a_refused_one),
        cmocka_unit_test(test_every_sdk_interface_is_known),
        cmocka_unit_test(test_plugin_check_describes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
