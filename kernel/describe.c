/* describe.c -- plugins in words: --list-plugins, and what the kernel says of one file. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_strings.h>
#include <jansson.h>

#include "kernel/loader.h"
#include "kernel/node_internal.h"
#include "kernel/option.h"

static json_t *version_text(unsigned major, unsigned minor)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%u.%u", major, minor);
    return json_string(text);
}

static json_t *interface_json(const char *id, unsigned major, unsigned minor, uint64_t caps)
{
    json_t *row = json_object();
    (void)json_object_set_new(row, "id", json_string(id));
    (void)json_object_set_new(row, "version", version_text(major, minor));
    (void)json_object_set_new(row, "caps", json_integer((json_int_t)caps));
    return row;
}

static json_t *option_json(const struct sti_option *opt)
{
    json_t *row = json_object();
    (void)json_object_set_new(row, "key", json_string(opt->key));
    (void)json_object_set_new(row, "type", json_string(krn_option_type_text(opt->type)));
    (void)json_object_set_new(row, "default",
                              opt->def == NULL ? json_null() : json_string(opt->def));
    (void)json_object_set_new(row, "help", json_string(opt->help));
    return row;
}

/* Everything of one plugin. */
static json_t *plugin_json(const char *instance, const struct krn_plugin *plugin)
{
    const struct sti_plugin *desc = plugin->desc;
    json_t *row = json_object(), *ids = json_array(), *provides = json_array(),
           *needs = json_array(), *options = json_array();
    if (instance != NULL) {
        (void)json_object_set_new(row, "instance", json_string(instance));
    }
    (void)json_object_set_new(row, "file", json_string(plugin->file));
    (void)json_object_set_new(row, "path", json_string(plugin->path));
    (void)json_object_set_new(row, "name", json_string(desc->name));
    (void)json_object_set_new(row, "version", json_string(desc->version));
    (void)json_object_set_new(row, "abi", version_text(desc->abi_major, desc->abi_minor));
    (void)json_object_set_new(row, "license", json_string(desc->license));
    (void)json_object_set_new(row, "summary", json_string(desc->summary));
    for (size_t i = 0; desc->provides != NULL && desc->provides[i] != NULL; i++) {
        const struct sti_iface *f = desc->provides[i];
        (void)json_array_append_new(ids, json_string(f->id));
        (void)json_array_append_new(provides, interface_json(f->id, f->major, f->minor, f->caps));
    }
    for (size_t i = 0; desc->needs != NULL && desc->needs[i] != NULL; i++) {
        const struct sti_requirement *n = desc->needs[i];
        (void)json_array_append_new(needs, interface_json(n->iface, n->major, n->minor, n->caps));
    }
    for (size_t i = 0; desc->options != NULL && desc->options[i] != NULL; i++) {
        (void)json_array_append_new(options, option_json(desc->options[i]));
    }
    (void)json_object_set_new(row, "interfaces", ids);
    (void)json_object_set_new(row, "provides", provides);
    (void)json_object_set_new(row, "needs", needs);
    (void)json_object_set_new(row, "options", options);
    return row;
}

/* `storage_mmap.so  storage_mmap 0.1.0  ABI 0.1  streamit.storage 0.1` */
static void plugin_line(const char *instance, const struct krn_plugin *plugin, FILE *out)
{
    const struct sti_plugin *desc = plugin->desc;
    fprintf(out, "%-24s %s %s  ABI %u.%u ", plugin->file, desc->name, desc->version,
            desc->abi_major, desc->abi_minor);
    for (size_t i = 0; desc->provides != NULL && desc->provides[i] != NULL; i++) {
        const struct sti_iface *f = desc->provides[i];
        fprintf(out, " %s %u.%u", f->id, f->major, f->minor);
    }
    if (instance != NULL && strcmp(instance, desc->name) != 0) {
        fprintf(out, "  (instance %s)", instance);
    }
    fputc('\n', out);
}

int krn_node_list(struct krn_node *node, FILE *out, bool json, struct sti_err *err)
{
    json_t *rows = json ? json_array() : NULL;
    for (size_t i = 0; i < node->registry.count; i++) {
        const struct krn_instance *item = node->registry.items[i];
        if (json) {
            (void)json_array_append_new(rows, plugin_json(item->name, &item->plugin));
        } else {
            plugin_line(item->name, &item->plugin, out);
        }
    }
    if (json) {
        (void)json_dumpf(rows, out, JSON_INDENT(2));
        fputc('\n', out);
        json_decref(rows);
    }
    if (fflush(out) != 0) {
        return sti_err_set(err, STI_E_IO, "cannot write the list: %s", strerror(errno));
    }
    return STI_OK;
}

static void describe_text(const struct krn_plugin *plugin, FILE *out)
{
    const struct sti_plugin *desc = plugin->desc;
    plugin_line(NULL, plugin, out);
    fprintf(out, "  summary  %s\n  license  %s\n", desc->summary, desc->license);
    for (size_t i = 0; desc->needs != NULL && desc->needs[i] != NULL; i++) {
        const struct sti_requirement *n = desc->needs[i];
        fprintf(out, "  needs    %s %u.%u%s\n", n->iface, n->major, n->minor,
                (n->flags & STI_NEED_OPTIONAL) != 0 ? " (optional)" : "");
    }
    for (size_t i = 0; desc->options != NULL && desc->options[i] != NULL; i++) {
        const struct sti_option *opt = desc->options[i];
        fprintf(out, "  option   %s = %s: %s\n", opt->key, opt->def == NULL ? "(none)" : opt->def,
                opt->help);
    }
}

/* Load the file, show it, unload it. */
static int with_plugin(const char *path, void (*visit)(void *arg, const struct krn_plugin *plugin),
                       void *arg, struct sti_err *err)
{
    apr_pool_t *pool;
    char *full = realpath(path, NULL);
    if (full == NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED, "%s: %s", path, strerror(errno));
    }
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        free(full);
        return sti_err_set(err, STI_E_NO_MEMORY, "kernel: cannot set up memory pools");
    }
    struct krn_plugin plugin;
    int status = krn_loader_open(pool, "", full, &plugin, err);
    if (status == STI_OK) {
        visit(arg, &plugin);
        krn_loader_close(&plugin);
    }
    apr_pool_destroy(pool);
    apr_terminate();
    free(full);
    return status;
}

struct check {
    bool json;
    char *text;
};

static void check_visit(void *arg, const struct krn_plugin *plugin)
{
    struct check *check = arg;
    size_t size = 0;
    if (check->json) {
        json_t *row = plugin_json(NULL, plugin);
        check->text = json_dumps(row, JSON_INDENT(2));
        json_decref(row);
        return;
    }
    FILE *out = open_memstream(&check->text, &size);
    if (out != NULL) {
        describe_text(plugin, out);
        (void)fclose(out);
    }
}

int krn_plugin_check(const char *path, bool json, char **text, struct sti_err *err)
{
    struct check check = {.json = json};
    int status = with_plugin(path, check_visit, &check, err);
    if (status == STI_OK && check.text == NULL) {
        status = sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", path);
    }
    *text = check.text;
    return status;
}

struct show {
    void (*visit)(void *arg, const char *file, const struct sti_plugin *desc);
    void *arg;
};

static void show_visit(void *arg, const struct krn_plugin *plugin)
{
    const struct show *show = arg;
    show->visit(show->arg, plugin->file, plugin->desc);
}

int krn_plugin_visit(const char *path,
                     void (*visit)(void *arg, const char *file, const struct sti_plugin *desc),
                     void *arg, struct sti_err *err)
{
    struct show show = {.visit = visit, .arg = arg};
    return with_plugin(path, show_visit, &show, err);
}
