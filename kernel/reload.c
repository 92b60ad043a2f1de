/* reload.c -- SIGHUP: the file is read again, and what may change while the node runs does.
 *
 * Story. First everything is read and checked against the tables, as at a start; a fault anywhere
 * refuses the whole. Then the differences are found, section by section. What is not reloadable
 * keeps its value and is logged as waiting for a restart; so are instances that came, went or
 * changed their file. An instance with changed reloadable options gets one call of its reload, all
 * or nothing; if that fails it goes on with what it had.
 *
 * Memory. A struct that an instance has seen stays until its destroy, as plugin.h promises; the
 * others go with their pool. So an idle SIGHUP costs nothing, and each real change a few hundred
 * bytes.
 */
#include <string.h>

#include <apr_strings.h>

#include "kernel/node_internal.h"
#include "kernel/option.h"

static void tell_waiting(struct krn_node *node, const char *path, const char *msg)
{
    krn_log_event(node->args.log, STI_LOG_WARN, "reload_waits", msg, STI_F_STR("option", path));
}

/* Put back what may not change; say so. @return did something reloadable change? */
static bool merge(struct krn_node *node, apr_pool_t *scratch, const char *section,
                  const struct sti_option *const *table, const void *old_conf, void *new_conf)
{
    bool changed = false;
    for (; table != NULL && *table != NULL; table++) {
        const struct sti_option *opt = *table;
        if (krn_option_equal(opt, old_conf, new_conf)) {
            krn_option_copy(opt, new_conf, old_conf);
        } else if ((opt->flags & STI_OPT_RELOADABLE) != 0) {
            changed = true;
        } else {
            krn_option_copy(opt, new_conf, old_conf);
            bool root = (opt->flags & STI_OPT_ROOT) != 0;
            tell_waiting(node, root ? opt->key : apr_pstrcat(scratch, section, ".", opt->key, NULL),
                         "the changed option waits for a restart");
        }
    }
    return changed;
}

/* One instance's new struct, between reading and applying. */
struct change {
    apr_pool_t *pool; /* of the instance */
    void *conf;
};

static struct krn_instance *find_instance(struct krn_node *node, const char *name)
{
    for (size_t i = 0; i < node->registry.count; i++) {
        if (strcmp(node->registry.items[i]->name, name) == 0) {
            return node->registry.items[i];
        }
    }
    return NULL;
}

/* Instances of the file against those that run. Nothing is changed. */
static int compare_instances(struct krn_node *node, apr_pool_t *scratch, struct krn_config *config,
                             struct sti_err *err)
{
    for (size_t i = 0; i < krn_config_instance_count(config); i++) {
        const char *name = krn_config_instance(config, i), *file, *where;
        const char *section = apr_pstrcat(scratch, "plugins.", name, NULL);
        struct krn_instance *item = find_instance(node, name);
        int status = krn_config_instance_file(config, scratch, name, &file, &where, err);
        if (status != STI_OK) {
            return status;
        }
        if (item == NULL) {
            krn_config_skip(config, section);
            tell_waiting(node, section, "the new instance waits for a restart");
            continue;
        }
        const char *path =
            file[0] == '/' ? file : apr_pstrcat(scratch, node->plugin_dir, "/", file, NULL);
        if (strcmp(path, item->plugin.path) != 0) {
            tell_waiting(node, apr_pstrcat(scratch, section, ".file", NULL),
                         "the changed file waits for a restart");
        }
    }
    for (size_t i = 0; i < node->registry.count; i++) {
        const struct krn_instance *item = node->registry.items[i];
        bool there = item->plugin.path[0] == '\0';
        for (size_t k = 0; !there && k < krn_config_instance_count(config); k++) {
            there = strcmp(krn_config_instance(config, k), item->name) == 0;
        }
        if (!there) {
            tell_waiting(node, item->section, "the removed instance waits for a restart");
        }
    }
    return STI_OK;
}

static int read_changes(struct krn_node *node, apr_pool_t *scratch, struct krn_config *config,
                        struct krn_node_conf **node_conf, struct change *changes,
                        struct sti_err *err)
{
    void *conf;
    int status = krn_config_section(config, scratch, "node", krn_node_options,
                                    sizeof(struct krn_node_conf), &conf, err);
    *node_conf = conf;
    for (size_t i = 0; i < node->registry.count && status == STI_OK; i++) {
        struct krn_instance *item = node->registry.items[i];
        apr_pool_create(&changes[i].pool, item->pool);
        status =
            krn_config_section(config, changes[i].pool, item->section, item->plugin.desc->options,
                               item->plugin.desc->conf_size, &changes[i].conf, err);
    }
    if (status == STI_OK) {
        status = compare_instances(node, scratch, config, err);
    }
    if (status == STI_OK) {
        status = krn_log_levels_apply(node, *node_conf, true, err);
    }
    return status == STI_OK ? krn_config_finish(config, err) : status;
}

/* @return the pool was taken over */
static bool apply_one(struct krn_node *node, apr_pool_t *scratch, struct krn_instance *item,
                      struct change *change, int *first, struct sti_err *err)
{
    const struct sti_plugin *desc = item->plugin.desc;
    if (krn_instance_state(item) != KRN_STARTED || change->conf == NULL ||
        !merge(node, scratch, item->section, desc->options, item->conf, change->conf)) {
        return false;
    }
    if (desc->life->reload == NULL) {
        tell_waiting(node, item->section,
                     "the plugin cannot reload: the change waits for a restart");
        return false;
    }
    struct sti_err cause = {0};
    int status = desc->life->reload(item->self, change->conf, &cause);
    if (status != STI_OK) {
        krn_log_event(node->args.log, STI_LOG_ERROR, "reload_refused",
                      "an instance goes on with its old options", STI_F_STR("instance", item->name),
                      STI_F_STR("error", cause.msg));
        if (*first == STI_OK) {
            *first = sti_err_set(err, status, "%s (%s): reload: %s", item->section,
                                 item->plugin.file, cause.msg);
        }
        return false;
    }
    item->conf = change->conf;
    krn_log_event(node->args.log, STI_LOG_INFO, "plugin_reloaded",
                  "an instance has taken its changed options", STI_F_STR("instance", item->name));
    return true;
}

static void apply_node(struct krn_node *node, apr_pool_t *scratch, struct krn_node_conf *conf)
{
    if (merge(node, scratch, "node", krn_node_options, &node->conf, conf)) {
        node->conf = *conf;
        krn_log_levels_keep(node);
        (void)krn_log_levels_apply(node, &node->conf, false, NULL); /* checked before */
    }
}

int krn_node_reload(struct krn_node *node, struct sti_err *err)
{
    apr_pool_t *scratch;
    struct krn_config *config;
    struct krn_node_conf *node_conf = NULL;
    apr_pool_create(&scratch, node->pool);
    struct change *changes = apr_pcalloc(scratch, (node->registry.count + 1) * sizeof *changes);
    int status =
        krn_config_read(scratch, node->args.config_path, node->args.sets, node->args.set_count,
                        node->builtin_names, node->root_keys, &config, err);
    if (status == STI_OK) {
        status = read_changes(node, scratch, config, &node_conf, changes, err);
    }
    bool sound = status == STI_OK;
    if (sound) {
        apply_node(node, scratch, node_conf);
    } else {
        krn_log_event(node->args.log, STI_LOG_ERROR, "reload_failed",
                      "the configuration is refused: nothing has changed",
                      STI_F_STR("error", err == NULL ? "" : err->msg));
    }
    for (size_t i = 0; i < node->registry.count; i++) {
        struct krn_instance *item = node->registry.items[i];
        bool taken = sound && apply_one(node, scratch, item, &changes[i], &status, err);
        if (!taken && changes[i].pool != NULL) {
            apr_pool_destroy(changes[i].pool);
        }
    }
    if (sound) {
        krn_log_event(node->args.log, STI_LOG_INFO, "reloaded", "the configuration was read again",
                      STI_F_STR("config", node->args.config_path));
    }
    apr_pool_destroy(scratch);
    return status;
}
