/* config.c -- see config.h for the story. */
#include "kernel/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>
#include <libconfig.h>

#include "kernel/configtext.h"
#include "kernel/option.h"

/* One --set. */
struct set {
    const char *path;  /* left of the '=' */
    const char *value; /* right of it */
    bool used;
};

struct krn_config {
    apr_pool_t *pool;
    config_t cfg;
    struct krn_configtext text;
    const char *path;
    struct set *sets;
    size_t set_count;
    const char *const *builtins, *const *roots;
    config_setting_t *plugins; /* NULL: none */
};

static const char file_key[] = "file";

/* ---- places and types ---------------------------------------------------------------------- */

static const char *place(struct krn_config *config, apr_pool_t *pool, const config_setting_t *at,
                         const char *path)
{
    struct krn_configline origin = krn_configtext_origin(&config->text, at->line);
    return apr_psprintf(pool, "%s:%u: %s", origin.file, origin.line, path);
}

/* What a setting is, for "found ...". */
static const char *found_text(apr_pool_t *pool, const struct sti_option *opt,
                              const config_setting_t *at)
{
    bool secret = opt != NULL && (opt->flags & STI_OPT_SECRET) != 0;
    switch (at->type) {
    case CONFIG_TYPE_GROUP:
        return "a group";
    case CONFIG_TYPE_INT:
        return secret ? "an integer" : apr_psprintf(pool, "the integer %d", at->value.ival);
    case CONFIG_TYPE_INT64:
        return secret ? "an integer" : apr_psprintf(pool, "the integer %lld", at->value.llval);
    case CONFIG_TYPE_FLOAT:
        return secret ? "a fraction" : apr_psprintf(pool, "the fraction %g", at->value.fval);
    case CONFIG_TYPE_STRING:
        return secret ? "a string" : apr_psprintf(pool, "the string '%s'", at->value.sval);
    case CONFIG_TYPE_BOOL:
        return at->value.ival ? "true" : "false";
    default:
        return "a list";
    }
}

static int wrong_type(apr_pool_t *pool, const struct sti_option *opt, const char *where,
                      const config_setting_t *at, struct sti_err *err)
{
    return sti_err_set(err, STI_E_CONFIG, "%s: expected %s, found %s", where,
                       krn_option_type_text(opt->type), found_text(pool, opt, at));
}

static int unknown_key(const char *where, const char *what, const char *meant, struct sti_err *err)
{
    return sti_err_set(err, STI_E_CONFIG, "%s: unknown %s%s%s%s", where, what,
                       meant == NULL ? "" : "; did you mean '", meant == NULL ? "" : meant,
                       meant == NULL ? "" : "'?");
}

/* ---- one group by its table ---------------------------------------------------------------- */

static int fill_group(struct krn_config *config, apr_pool_t *pool, const char *path,
                      config_setting_t *group, const struct sti_option *const *table, bool has_file,
                      void *conf, struct sti_err *err);

static int fill_strings(struct krn_config *config, apr_pool_t *pool, const struct sti_option *opt,
                        const char *path, config_setting_t *at, void *conf, struct sti_err *err)
{
    const char *where = place(config, pool, at, path);
    if (!config_setting_is_list(at) && !config_setting_is_array(at)) {
        return wrong_type(pool, opt, where, at, err);
    }
    size_t count = (size_t)config_setting_length(at);
    const char **items = apr_pcalloc(pool, (count + 1) * sizeof *items);
    for (unsigned i = 0; i < count; i++) {
        config_setting_t *item = config_setting_get_elem(at, i);
        if (item->type != CONFIG_TYPE_STRING) {
            return wrong_type(pool, opt, where, item, err);
        }
        items[i] = apr_pstrdup(pool, item->value.sval);
    }
    struct sti_option_strings strings = {.count = count, .items = items};
    return krn_option_store_strings(opt, where, strings, conf, err);
}

/* Tell a group of a list where it stands. */
static void fill_places(const struct sti_option *const *table, const char *where, void *row)
{
    for (; *table != NULL; table++) {
        if ((*table)->type == STI_OPT_PLACE) {
            memcpy((char *)row + (*table)->offset, &where, sizeof where);
        }
    }
}

static int fill_rows(struct krn_config *config, apr_pool_t *pool, const struct sti_option *opt,
                     const char *path, config_setting_t *at, void *conf, struct sti_err *err)
{
    const char *where = place(config, pool, at, path);
    if (!config_setting_is_list(at)) {
        return wrong_type(pool, opt, where, at, err);
    }
    size_t count = (size_t)config_setting_length(at);
    if (opt->max > 0 && ((int64_t)count < opt->min || (int64_t)count > opt->max)) {
        return sti_err_set(err, STI_E_CONFIG, "%s: %zu groups: expected %" PRId64 " to %" PRId64,
                           where, count, opt->min, opt->max);
    }
    const void **rows = apr_pcalloc(pool, (count + 1) * sizeof *rows);
    for (unsigned i = 0; i < count; i++) {
        config_setting_t *item = config_setting_get_elem(at, i);
        const char *row_path = apr_psprintf(pool, "%s[%u]", path, i);
        if (!config_setting_is_group(item)) {
            return wrong_type(pool, opt, place(config, pool, item, row_path), item, err);
        }
        void *row = apr_pcalloc(pool, opt->nested_size);
        fill_places(opt->nested, place(config, pool, item, row_path), row);
        int status = fill_group(config, pool, row_path, item, opt->nested, false, row, err);
        if (status != STI_OK) {
            return status;
        }
        rows[i] = row;
    }
    struct sti_option_rows value = {.count = count, .rows = rows};
    memcpy((char *)conf + opt->offset, &value, sizeof value);
    return STI_OK;
}

static int fill_int(struct krn_config *config, apr_pool_t *pool, const struct sti_option *opt,
                    const char *path, config_setting_t *at, void *conf, struct sti_err *err)
{
    const char *where = place(config, pool, at, path);
    bool bytes = opt->unit != NULL && strcmp(opt->unit, "bytes") == 0;
    int64_t value;
    if (at->type == CONFIG_TYPE_INT) {
        value = at->value.ival;
    } else if (at->type == CONFIG_TYPE_INT64) {
        value = at->value.llval;
    } else if (at->type == CONFIG_TYPE_STRING && bytes) {
        if (!krn_option_parse_int(opt, at->value.sval, &value)) {
            return sti_err_set(err, STI_E_CONFIG,
                               "%s: expected an integer or a string such as '64M', found %s", where,
                               found_text(pool, opt, at));
        }
    } else {
        return wrong_type(pool, opt, where, at, err);
    }
    return krn_option_store_int(opt, where, value, conf, err);
}

static int fill_value(struct krn_config *config, apr_pool_t *pool, const struct sti_option *opt,
                      const char *path, config_setting_t *at, void *conf, struct sti_err *err)
{
    const char *where = place(config, pool, at, path);
    switch (opt->type) {
    case STI_OPT_INT:
        return fill_int(config, pool, opt, path, at, conf, err);
    case STI_OPT_BOOL:
        if (at->type != CONFIG_TYPE_BOOL) {
            return wrong_type(pool, opt, where, at, err);
        }
        krn_option_store_bool(opt, at->value.ival != 0, conf);
        return STI_OK;
    case STI_OPT_STRING:
        if (at->type != CONFIG_TYPE_STRING) {
            return wrong_type(pool, opt, where, at, err);
        }
        return krn_option_store_string(pool, opt, where, at->value.sval, conf, err);
    case STI_OPT_ENUM:
        if (at->type != CONFIG_TYPE_STRING) {
            return wrong_type(pool, opt, where, at, err);
        }
        return krn_option_store_enum(opt, where, at->value.sval, conf, err);
    case STI_OPT_STRINGS:
        return fill_strings(config, pool, opt, path, at, conf, err);
    default:
        return fill_rows(config, pool, opt, path, at, conf, err);
    }
}

static const struct sti_option *find_option(const struct sti_option *const *table, const char *key)
{
    for (; table != NULL && *table != NULL; table++) {
        if ((*table)->type != STI_OPT_PLACE && strcmp((*table)->key, key) == 0) {
            return *table;
        }
    }
    return NULL;
}

static const char *suggest_option(const char *key, const struct sti_option *const *table,
                                  bool has_file)
{
    const char *meant = krn_option_suggest_key(key, table);
    static const char *const file_words[] = {file_key, NULL};
    return meant == NULL && has_file ? krn_option_suggest(key, file_words) : meant;
}

/* The overrides of one section. @return STI_OK, STI_E_CONFIG */
static int apply_sets(struct krn_config *config, apr_pool_t *pool, const char *path,
                      const struct sti_option *const *table, bool has_file, void *conf,
                      struct sti_err *err)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < config->set_count; i++) {
        struct set *set = &config->sets[i];
        if (strncmp(set->path, path, len) != 0 || set->path[len] != '.') {
            continue;
        }
        const char *key = set->path + len + 1;
        const char *where = apr_psprintf(pool, "--set %s", set->path);
        const struct sti_option *opt = find_option(table, key);
        set->used = true;
        if (opt == NULL && has_file && strcmp(key, file_key) == 0) {
            continue;
        }
        if (opt == NULL) {
            const char *what = apr_psprintf(pool, "option '%s'", key);
            return unknown_key(where, what, suggest_option(key, table, has_file), err);
        }
        int status = krn_option_store_text(pool, opt, where, set->value, conf, err);
        if (status != STI_OK) {
            return status;
        }
    }
    return STI_OK;
}

static bool has_set(const struct krn_config *config, const char *path, const char *key)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < config->set_count; i++) {
        const char *set = config->sets[i].path;
        if (strncmp(set, path, len) == 0 && set[len] == '.' && strcmp(set + len + 1, key) == 0) {
            return true;
        }
    }
    return false;
}

/* Everything of one group: defaults, the file's values, unknown keys, what is missing. */
static int fill_group(struct krn_config *config, apr_pool_t *pool, const char *path,
                      config_setting_t *group, const struct sti_option *const *table, bool has_file,
                      void *conf, struct sti_err *err)
{
    int status = krn_option_defaults(pool, table, path, conf, err);
    int count = group == NULL ? 0 : config_setting_length(group);
    for (int i = 0; i < count && status == STI_OK; i++) {
        config_setting_t *at = config_setting_get_elem(group, (unsigned)i);
        const struct sti_option *opt = find_option(table, at->name);
        const char *at_path = apr_pstrcat(pool, path, ".", at->name, NULL);
        if (opt != NULL && (opt->flags & STI_OPT_ROOT) != 0) {
            status = sti_err_set(err, STI_E_CONFIG,
                                 "%s: '%s' stands at the top of the file, beside the groups: move "
                                 "it there",
                                 place(config, pool, at, at_path), at->name);
        } else if (opt != NULL) {
            status = fill_value(config, pool, opt, at_path, at, conf, err);
        } else if (!has_file || strcmp(at->name, file_key) != 0) {
            const char *what =
                apr_psprintf(pool, "option '%s'%s", at->name,
                             table == NULL || *table == NULL ? " (it takes no options)" : "");
            status = unknown_key(place(config, pool, at, at_path), what,
                                 suggest_option(at->name, table, has_file), err);
        }
    }
    for (size_t i = 0; status == STI_OK && table != NULL && table[i] != NULL; i++) {
        const struct sti_option *opt = table[i];
        if ((opt->flags & STI_OPT_REQUIRED) == 0 || has_set(config, path, opt->key) ||
            (group != NULL && config_setting_get_member(group, opt->key) != NULL)) {
            continue;
        }
        const char *where = group == NULL ? apr_psprintf(pool, "%s: %s", config->path, path)
                                          : place(config, pool, group, path);
        return sti_err_set(err, STI_E_CONFIG, "%s: missing option '%s': expected %s, found nothing",
                           where, opt->key, krn_option_type_text(opt->type));
    }
    return status;
}

/* The options of a built-in that stand beside its group. */
static int fill_roots(struct krn_config *config, apr_pool_t *pool,
                      const struct sti_option *const *table, void *conf, struct sti_err *err)
{
    int status = STI_OK;
    for (; status == STI_OK && table != NULL && *table != NULL; table++) {
        const struct sti_option *opt = *table;
        config_setting_t *at =
            (opt->flags & STI_OPT_ROOT) == 0
                ? NULL
                : config_setting_get_member(config_root_setting(&config->cfg), opt->key);
        if (at != NULL) {
            status = fill_value(config, pool, opt, opt->key, at, conf, err);
        }
    }
    return status;
}

/* ---- the whole file ------------------------------------------------------------------------ */

static int parse_sets(struct krn_config *config, const char *const *sets, size_t count,
                      struct sti_err *err)
{
    config->sets = apr_pcalloc(config->pool, (count + 1) * sizeof *config->sets);
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(sets[i], '=');
        if (equals == NULL || equals == sets[i] ||
            memchr(sets[i], '.', (size_t)(equals - sets[i])) == NULL) {
            return sti_err_set(err, STI_E_CONFIG,
                               "--set %s: expected PATH=VALUE, such as node.data_dir=data",
                               sets[i]);
        }
        config->sets[i] = (struct set){
            .path = apr_pstrndup(config->pool, sets[i], (apr_size_t)(equals - sets[i])),
            .value = equals + 1};
    }
    config->set_count = count;
    return STI_OK;
}

static size_t word_count(const char *const *words)
{
    size_t count = 0;
    while (words != NULL && words[count] != NULL) {
        count++;
    }
    return count;
}

static const char **top_words(const struct krn_config *config)
{
    size_t count = word_count(config->builtins), root_count = word_count(config->roots);
    const char **words = apr_pcalloc(config->pool, (count + root_count + 3) * sizeof *words);
    words[0] = "node";
    words[1] = "plugins";
    for (size_t i = 0; i < count; i++) {
        words[i + 2] = config->builtins[i];
    }
    for (size_t i = 0; config->roots != NULL && i < root_count; i++) {
        words[count + 2 + i] = config->roots[i];
    }
    return words;
}

static bool is_word(const char *word, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcmp(*words, word) == 0) {
            return true;
        }
    }
    return false;
}

static int check_top(struct krn_config *config, struct sti_err *err)
{
    config_setting_t *root = config_root_setting(&config->cfg);
    const char **words = top_words(config);
    for (int i = 0; i < config_setting_length(root); i++) {
        config_setting_t *at = config_setting_get_elem(root, (unsigned)i);
        const char *where = place(config, config->pool, at, at->name);
        if (!is_word(at->name, words)) {
            const char *what = apr_psprintf(config->pool, "group '%s'", at->name);
            return unknown_key(where, what, krn_option_suggest(at->name, words), err);
        }
        bool is_root = config->roots != NULL && is_word(at->name, config->roots);
        if (!is_root && !config_setting_is_group(at)) {
            return sti_err_set(err, STI_E_CONFIG, "%s: expected a group, found %s", where,
                               found_text(config->pool, NULL, at));
        }
    }
    config->plugins = config_setting_get_member(root, "plugins");
    for (size_t i = 0; i < krn_config_instance_count(config); i++) {
        config_setting_t *at = config_setting_get_elem(config->plugins, (unsigned)i);
        const char *path = apr_pstrcat(config->pool, "plugins.", at->name, NULL);
        const char *where = place(config, config->pool, at, path);
        if (!config_setting_is_group(at)) {
            return sti_err_set(err, STI_E_CONFIG, "%s: expected a group, found %s", where,
                               found_text(config->pool, NULL, at));
        }
        if (is_word(at->name, words) || strlen(at->name) > 64) {
            return sti_err_set(err, STI_E_CONFIG, "%s: the name is %s: rename the instance", where,
                               is_word(at->name, words) ? "taken" : "longer than 64 bytes");
        }
    }
    return STI_OK;
}

static apr_status_t destroy_cfg(void *arg)
{
    config_destroy(arg);
    return APR_SUCCESS;
}

int krn_config_read(apr_pool_t *pool, const char *path, const char *const *sets, size_t set_count,
                    const char *const *builtins, const char *const *roots, struct krn_config **out,
                    struct sti_err *err)
{
    *out = NULL;
    struct krn_config *config = apr_pcalloc(pool, sizeof *config);
    config->pool = pool;
    config->path = apr_pstrdup(pool, path);
    config->builtins = builtins;
    config->roots = roots;
    int status = krn_configtext_read(pool, path, &config->text, err);
    if (status != STI_OK) {
        return status;
    }
    config_init(&config->cfg);
    apr_pool_cleanup_register(pool, &config->cfg, destroy_cfg, apr_pool_cleanup_null);
    if (config_read_string(&config->cfg, config->text.text) != CONFIG_TRUE) {
        struct krn_configline origin =
            krn_configtext_origin(&config->text, (unsigned)config_error_line(&config->cfg));
        return sti_err_set(err, STI_E_CONFIG, "%s:%u: %s", origin.file, origin.line,
                           config_error_text(&config->cfg));
    }
    status = check_top(config, err);
    if (status == STI_OK) {
        status = parse_sets(config, sets, set_count, err);
    }
    if (status == STI_OK) {
        *out = config;
    }
    return status;
}

size_t krn_config_instance_count(const struct krn_config *config)
{
    return config->plugins == NULL ? 0 : (size_t)config_setting_length(config->plugins);
}

const char *krn_config_instance(const struct krn_config *config, size_t i)
{
    return config_setting_get_elem(config->plugins, (unsigned)i)->name;
}

const char *krn_config_path(const struct krn_config *config)
{
    return config->path;
}

int krn_config_instance_file(struct krn_config *config, apr_pool_t *pool, const char *instance,
                             const char **file, const char **where, struct sti_err *err)
{
    config_setting_t *group = config_setting_get_member(config->plugins, instance);
    config_setting_t *at = config_setting_get_member(group, file_key);
    const char *path = apr_pstrcat(pool, "plugins.", instance, NULL);
    const char *file_path = apr_pstrcat(pool, path, ".", file_key, NULL);
    *file = apr_pstrcat(pool, instance, ".so", NULL);
    *where = place(config, pool, at == NULL ? group : at, at == NULL ? path : file_path);
    if (at != NULL && at->type != CONFIG_TYPE_STRING) {
        return sti_err_set(err, STI_E_CONFIG, "%s: expected a string, found %s", *where,
                           found_text(pool, NULL, at));
    }
    if (at != NULL) {
        *file = apr_pstrdup(pool, at->value.sval);
    }
    for (size_t i = 0; i < config->set_count; i++) {
        if (strcmp(config->sets[i].path, file_path) == 0) {
            *file = config->sets[i].value;
            *where = apr_psprintf(pool, "--set %s", file_path);
        }
    }
    return STI_OK;
}

int krn_config_section(struct krn_config *config, apr_pool_t *pool, const char *section,
                       const struct sti_option *const *table, uint64_t conf_size, void **conf,
                       struct sti_err *err)
{
    static const char prefix[] = "plugins.";
    config_setting_t *group = config_setting_get_member(config_root_setting(&config->cfg), section);
    bool is_instance = strncmp(section, prefix, sizeof prefix - 1) == 0;
    if (is_instance && config->plugins != NULL) {
        group = config_setting_get_member(config->plugins, section + sizeof prefix - 1);
    }
    void *filled = table == NULL || *table == NULL ? NULL : apr_pcalloc(pool, conf_size);
    int status = fill_group(config, pool, section, group, table, is_instance, filled, err);
    if (status == STI_OK && !is_instance) {
        status = fill_roots(config, pool, table, filled, err);
    }
    if (status == STI_OK) {
        status = apply_sets(config, pool, section, table, is_instance, filled, err);
    }
    *conf = status == STI_OK ? filled : NULL;
    return status;
}

const char *krn_config_where(struct krn_config *config, apr_pool_t *pool, const char *section,
                             const char *key)
{
    const char *path = apr_pstrcat(pool, section, ".", key, NULL);
    config_setting_t *at = config_lookup(&config->cfg, path);
    if (has_set(config, section, key)) {
        return apr_pstrcat(pool, "--set ", path, NULL);
    }
    return at == NULL ? NULL : place(config, pool, at, path);
}

void krn_config_skip(struct krn_config *config, const char *section)
{
    size_t len = strlen(section);
    for (size_t i = 0; i < config->set_count; i++) {
        if (strncmp(config->sets[i].path, section, len) == 0 && config->sets[i].path[len] == '.') {
            config->sets[i].used = true;
        }
    }
}

int krn_config_finish(struct krn_config *config, struct sti_err *err)
{
    for (size_t i = 0; i < config->set_count; i++) {
        const struct set *set = &config->sets[i];
        if (set->used) {
            continue;
        }
        const char *where = apr_psprintf(config->pool, "--set %s", set->path);
        char *head = apr_pstrdup(config->pool, set->path);
        char *dot = strchr(head, '.');
        *dot = '\0';
        if (config->roots != NULL && is_word(head, config->roots)) {
            return sti_err_set(err, STI_E_CONFIG,
                               "%s: a list of groups can only be given in the configuration file",
                               where);
        }
        if (strcmp(head, "plugins") != 0) {
            const char *what = apr_psprintf(config->pool, "group '%s'", head);
            return unknown_key(where, what, krn_option_suggest(head, top_words(config)), err);
        }
        char *end = strchr(dot + 1, '.');
        if (end != NULL) {
            *end = '\0';
        }
        size_t count = krn_config_instance_count(config);
        const char **names = apr_pcalloc(config->pool, (count + 1) * sizeof *names);
        for (size_t k = 0; k < count; k++) {
            names[k] = krn_config_instance(config, k);
            if (end == NULL && strcmp(names[k], dot + 1) == 0) {
                return sti_err_set(err, STI_E_CONFIG,
                                   "%s: it names an instance: expected %s.OPTION=VALUE", where,
                                   where);
            }
        }
        const char *what =
            apr_psprintf(config->pool, "instance '%s' (not in %s)", dot + 1, config->path);
        return unknown_key(where, what, krn_option_suggest(dot + 1, names), err);
    }
    return STI_OK;
}
