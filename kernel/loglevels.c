/* loglevels.c -- the option node.log_levels: lines of some components from another level on.
 *
 * A row is `component=level`; a component is "kernel", a built-in plugin or an instance. Rows are
 * checked as a whole before any of them holds.
 */
#include <string.h>

#include <apr_strings.h>

#include "kernel/node_internal.h"

const char *const krn_level_words[] = {"debug", "info", "warn", "error", NULL};

static bool is_component(const struct krn_node *node, const char *name)
{
    bool found = strcmp(name, "kernel") == 0;
    for (size_t i = 0; i < node->registry.count && !found; i++) {
        found = strcmp(node->registry.items[i]->name, name) == 0;
    }
    return found;
}

static int parse(const struct krn_node *node, const char *row, struct krn_log_component *out,
                 struct sti_err *err)
{
    const char *equals = strchr(row, '=');
    size_t len = equals == NULL ? 0 : (size_t)(equals - row);
    if (len == 0 || len >= sizeof out->name) {
        return sti_err_set(err, STI_E_CONFIG,
                           "node.log_levels: expected COMPONENT=LEVEL, found \"%.80s\"", row);
    }
    memcpy(out->name, row, len);
    out->name[len] = '\0';
    if (!is_component(node, out->name)) {
        return sti_err_set(err, STI_E_CONFIG,
                           "node.log_levels: there is no component \"%s\": expected kernel, or the "
                           "name of an instance",
                           out->name);
    }
    for (out->level = 0; krn_level_words[out->level] != NULL; out->level++) {
        if (strcmp(krn_level_words[out->level], equals + 1) == 0) {
            return STI_OK;
        }
    }
    return sti_err_set(err, STI_E_CONFIG,
                       "node.log_levels: %s: expected debug, info, warn or error, found \"%.40s\"",
                       out->name, equals + 1);
}

int krn_log_levels_apply(struct krn_node *node, const struct krn_node_conf *conf, bool check_only,
                         struct sti_err *err)
{
    struct krn_log_component rows[KRN_LOG_COMPONENTS_MAX];
    size_t count = conf->log_levels.count;
    if (count > KRN_LOG_COMPONENTS_MAX) {
        return sti_err_set(err, STI_E_CONFIG, "node.log_levels: %zu rows, expected at most %d",
                           count, KRN_LOG_COMPONENTS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        int status = parse(node, conf->log_levels.items[i], &rows[i], err);
        if (status != STI_OK) {
            return status;
        }
    }
    if (!check_only) {
        krn_log_levels_set(node->args.log, conf->log_level, rows, count);
    }
    return STI_OK;
}

void krn_log_levels_keep(struct krn_node *node)
{
    struct sti_option_strings *levels = &node->conf.log_levels;
    const char **items = apr_pcalloc(node->pool, (levels->count + 1) * sizeof *items);
    for (size_t i = 0; i < levels->count; i++) {
        items[i] = apr_pstrdup(node->pool, levels->items[i]);
    }
    levels->items = items;
}
