/* fuzz_config.c -- a configuration of any content: a filled struct, or one sentence with file and
 * line. The input is a folder of a main file, one to include, and overrides, one a line. */
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>

#include "fuzz.h"
#include "kernel/config.h"

static const char *const names[] = {"main.cfg", "more.cfg", "sets", NULL};

struct row {
    const char *name;
    int64_t partitions;
};
struct conf {
    int64_t port, bytes;
    bool tls;
    const char *host, *password;
    struct sti_option_strings tags;
    struct sti_option_rows topics;
};

#define OPT(k, t, ...)                                                                             \
    {                                                                                              \
        .struct_size = sizeof(struct sti_option), .key = k, .type = t, __VA_ARGS__                 \
    }
static const struct sti_option o_name = OPT("name", STI_OPT_STRING, .flags = STI_OPT_REQUIRED,
                                            .offset = offsetof(struct row, name), .help = "h");
static const struct sti_option o_partitions =
    OPT("partitions", STI_OPT_INT, .offset = offsetof(struct row, partitions), .def = "1", .min = 1,
        .max = 10, .help = "h");
static const struct sti_option *const row_options[] = {&o_name, &o_partitions, NULL};
static const struct sti_option o_port =
    OPT("port", STI_OPT_INT, .offset = offsetof(struct conf, port), .def = "8080", .min = 0,
        .max = 65535, .help = "h");
static const struct sti_option o_bytes =
    OPT("bytes", STI_OPT_INT, .offset = offsetof(struct conf, bytes), .def = "1M", .min = 0,
        .max = INT64_MAX, .help = "h");
static const struct sti_option o_tls =
    OPT("tls", STI_OPT_BOOL, .offset = offsetof(struct conf, tls), .def = "false", .help = "h");
static const struct sti_option o_host =
    OPT("host", STI_OPT_STRING, .offset = offsetof(struct conf, host), .def = "h", .help = "h");
static const struct sti_option o_password =
    OPT("password", STI_OPT_STRING, .offset = offsetof(struct conf, password),
        .flags = STI_OPT_SECRET, .help = "h");
static const struct sti_option o_tags =
    OPT("tags", STI_OPT_STRINGS, .offset = offsetof(struct conf, tags), .help = "h");
static const struct sti_option o_topics =
    OPT("topics", STI_OPT_TABLE, .nested = row_options, .nested_size = sizeof(struct row),
        .offset = offsetof(struct conf, topics), .help = "h");
static const struct sti_option *const options[] = {&o_port,     &o_bytes, &o_tls,    &o_host,
                                                   &o_password, &o_tags,  &o_topics, NULL};
static const char *const builtins[] = {"broker", NULL};
static const char *const roots[] = {"topics", NULL};

enum { SETS_MAX = 16 };

static void read_config(apr_pool_t *pool, const char *path, const char *const *sets, size_t count)
{
    struct krn_config *config;
    struct sti_err err;
    void *conf = NULL;
    sti_err_clear(&err);
    int rc = krn_config_read(pool, path, sets, count, builtins, roots, &config, &err);
    if (rc == STI_OK) {
        for (size_t i = 0; i < krn_config_instance_count(config); i++) {
            const char *file, *where, *name = krn_config_instance(config, i);
            (void)krn_config_instance_file(config, pool, name, &file, &where, &err);
        }
        rc = krn_config_section(config, pool, "plugins.x", options, sizeof(struct conf), &conf,
                                &err);
        if (rc == STI_OK) {
            const struct conf *filled = conf;
            FUZZ_EXPECT(filled->port >= 0 && filled->port <= 65535 && filled->bytes >= 0);
            rc = krn_config_finish(config, &err);
        }
    }
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_CONFIG);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static apr_pool_t *root;
    struct fuzz_file files[FUZZ_FILES_MAX];
    const char *sets[SETS_MAX];
    char path[256];
    apr_pool_t *pool;
    size_t set_count = 0;
    if (root == NULL) {
        FUZZ_EXPECT(apr_initialize() == APR_SUCCESS);
        FUZZ_EXPECT(apr_pool_create(&root, NULL) == APR_SUCCESS);
    }
    FUZZ_EXPECT(apr_pool_create(&pool, root) == APR_SUCCESS);
    size_t count = fuzz_files(&data, &len, names, files);
    (void)snprintf(path, sizeof path, "%s/config", fuzz_root());
    fuzz_folder(path, files, count);
    for (size_t i = 0; i < count; i++) {
        char *save = NULL, *text = (char *)files[i].bytes;
        if (strcmp(files[i].name, "sets") == 0) {
            for (char *line = strtok_r(text, "\n", &save); line != NULL && set_count < SETS_MAX;
                 line = strtok_r(NULL, "\n", &save)) {
                sets[set_count++] = line;
            }
        }
    }
    (void)snprintf(path, sizeof path, "%s/config/main.cfg", fuzz_root());
    read_config(pool, path, sets, set_count);
    fuzz_files_free(files, count);
    apr_pool_destroy(pool);
    return 0;
}
