/* option.c -- see option.h for the story. */
#include "kernel/option.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

enum { KEY_MAX = 64, CONF_BYTES_MAX = 1 << 20 };

/* ---- words --------------------------------------------------------------------------------- */

/* Edit distance of two short words, a swap of neighbours counting as one; large when not short. */
static size_t distance(const char *a, const char *b)
{
    enum { SIDE = 40 };
    size_t la = strlen(a), lb = strlen(b);
    if (la >= SIDE || lb >= SIDE) {
        return SIZE_MAX;
    }
    size_t d[SIDE][SIDE];
    for (size_t i = 0; i <= la; i++) {
        for (size_t j = 0; j <= lb; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t best = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best) {
                best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    }
    return d[la][lb];
}

static void suggest_one(const char *word, const char *candidate, const char **best, size_t *least)
{
    size_t d = distance(word, candidate);
    size_t allowed = strlen(candidate) <= 4 ? 1 : strlen(candidate) <= 8 ? 2 : 3;
    if (d <= allowed && d < *least) {
        *best = candidate;
        *least = d;
    }
}

const char *krn_option_suggest(const char *word, const char *const *words)
{
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (; words != NULL && *words != NULL; words++) {
        suggest_one(word, *words, &best, &least);
    }
    return best;
}

const char *krn_option_suggest_key(const char *word, const struct sti_option *const *table)
{
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (; table != NULL && *table != NULL; table++) {
        suggest_one(word, (*table)->key, &best, &least);
    }
    return best;
}

const char *krn_option_type_text(uint32_t type)
{
    switch (type) {
    case STI_OPT_INT:
        return "an integer";
    case STI_OPT_BOOL:
        return "true or false";
    case STI_OPT_STRING:
        return "a string";
    case STI_OPT_ENUM:
        return "a word";
    case STI_OPT_STRINGS:
        return "a list of strings";
    case STI_OPT_TABLE:
        return "a list of groups";
    case STI_OPT_PLACE:
        return "nothing, since the kernel fills it";
    default:
        return "nothing";
    }
}

/* ---- storing one value --------------------------------------------------------------------- */

static void *slot_of(const struct sti_option *opt, void *conf)
{
    return (char *)conf + opt->offset;
}

static const void *slot_of_const(const struct sti_option *opt, const void *conf)
{
    return (const char *)conf + opt->offset;
}

/* A value as it may be shown. */
static const char *shown(const struct sti_option *opt, const char *text)
{
    return (opt->flags & STI_OPT_SECRET) != 0 ? "(secret)" : text;
}

bool krn_option_parse_int(const struct sti_option *opt, const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno != 0 || isspace((unsigned char)text[0])) {
        return false;
    }
    int64_t factor = 1;
    if (*end != '\0' && opt->unit != NULL && strcmp(opt->unit, "bytes") == 0) {
        static const char suffixes[] = "KMG";
        const char *found = strchr(suffixes, toupper((unsigned char)*end));
        if (found == NULL || end[1] != '\0') {
            return false;
        }
        factor = (int64_t)1 << (10 * (found - suffixes + 1));
        end++;
    }
    if (*end != '\0' || __builtin_mul_overflow((int64_t)value, factor, out)) {
        return false;
    }
    return true;
}

int krn_option_store_int(const struct sti_option *opt, const char *where, int64_t value, void *conf,
                         struct sti_err *err)
{
    bool bounded = opt->min != 0 || opt->max != 0;
    if (bounded && (value < opt->min || value > opt->max)) {
        const char *unit = opt->unit == NULL ? "" : opt->unit;
        if ((opt->flags & STI_OPT_SECRET) != 0) {
            return sti_err_set(err, STI_E_CONFIG, "%s: out of range", where);
        }
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: %" PRId64 " is out of range: expected %" PRId64 " to %" PRId64
                           "%s%s",
                           where, value, opt->min, opt->max, *unit == '\0' ? "" : " ", unit);
    }
    memcpy(slot_of(opt, conf), &value, sizeof value);
    return STI_OK;
}

void krn_option_store_bool(const struct sti_option *opt, bool value, void *conf)
{
    memcpy(slot_of(opt, conf), &value, sizeof value);
}

int krn_option_store_string(apr_pool_t *pool, const struct sti_option *opt, const char *where,
                            const char *text, void *conf, struct sti_err *err)
{
    int64_t len = (int64_t)strlen(text);
    if (opt->max > 0 && (len < opt->min || len > opt->max)) {
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: a string of %" PRId64 " bytes: expected %" PRId64 " to %" PRId64
                           " bytes",
                           where, len, opt->min, opt->max);
    }
    const char *copy = apr_pstrdup(pool, text);
    memcpy(slot_of(opt, conf), &copy, sizeof copy);
    return STI_OK;
}

int krn_option_store_enum(const struct sti_option *opt, const char *where, const char *word,
                          void *conf, struct sti_err *err)
{
    char list[160] = "";
    size_t used = 0;
    for (int32_t i = 0; opt->choices[i] != NULL; i++) {
        if (strcmp(opt->choices[i], word) == 0) {
            memcpy(slot_of(opt, conf), &i, sizeof i);
            return STI_OK;
        }
        int n =
            snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", opt->choices[i]);
        used += n > 0 && (size_t)n < sizeof list - used ? (size_t)n : 0;
    }
    const char *meant = krn_option_suggest(word, opt->choices);
    return sti_err_set(err, STI_E_CONFIG, "%s: expected one of %s, found '%s'%s%s%s", where, list,
                       shown(opt, word), meant == NULL ? "" : "; did you mean '",
                       meant == NULL ? "" : meant, meant == NULL ? "" : "'?");
}

int krn_option_store_strings(const struct sti_option *opt, const char *where,
                             struct sti_option_strings strings, void *conf, struct sti_err *err)
{
    int64_t count = (int64_t)strings.count;
    if (opt->max > 0 && (count < opt->min || count > opt->max)) {
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: %" PRId64 " strings: expected %" PRId64 " to %" PRId64, where,
                           count, opt->min, opt->max);
    }
    memcpy(slot_of(opt, conf), &strings, sizeof strings);
    return STI_OK;
}

/* One item of `[ "a", "b" ]` or `a,b`: trimmed of blanks and quotes. */
static const char *trimmed(apr_pool_t *pool, const char *from, const char *to)
{
    while (from < to && isspace((unsigned char)*from)) {
        from++;
    }
    while (to > from && isspace((unsigned char)to[-1])) {
        to--;
    }
    if (to - from >= 2 && *from == '"' && to[-1] == '"') {
        from++;
        to--;
    }
    return apr_pstrndup(pool, from, (apr_size_t)(to - from));
}

static struct sti_option_strings split(apr_pool_t *pool, const char *text)
{
    const char *from = text, *end = text + strlen(text);
    if (end - from >= 2 && ((*from == '[' && end[-1] == ']') || (*from == '(' && end[-1] == ')'))) {
        from++;
        end--;
    }
    const char **items = apr_pcalloc(pool, (strlen(text) + 1) * sizeof *items);
    struct sti_option_strings out = {.count = 0, .items = items};
    while (from <= end) {
        const char *comma = memchr(from, ',', (size_t)(end - from));
        const char *stop = comma == NULL ? end : comma;
        const char *item = trimmed(pool, from, stop);
        if (*item != '\0' || comma != NULL) {
            items[out.count++] = item;
        }
        from = stop + 1;
    }
    return out;
}

int krn_option_store_text(apr_pool_t *pool, const struct sti_option *opt, const char *where,
                          const char *text, void *conf, struct sti_err *err)
{
    int64_t number;
    switch (opt->type) {
    case STI_OPT_INT:
        if (!krn_option_parse_int(opt, text, &number)) {
            return sti_err_set(err, STI_E_CONFIG, "%s: expected an integer, found '%s'", where,
                               shown(opt, text));
        }
        return krn_option_store_int(opt, where, number, conf, err);
    case STI_OPT_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return sti_err_set(err, STI_E_CONFIG, "%s: expected true or false, found '%s'", where,
                               shown(opt, text));
        }
        krn_option_store_bool(opt, text[0] == 't', conf);
        return STI_OK;
    case STI_OPT_STRING:
        return krn_option_store_string(pool, opt, where, text, conf, err);
    case STI_OPT_ENUM:
        return krn_option_store_enum(opt, where, text, conf, err);
    case STI_OPT_STRINGS:
        return krn_option_store_strings(opt, where, split(pool, text), conf, err);
    default:
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: a list of groups can only be given in the configuration file",
                           where);
    }
}

int krn_option_defaults(apr_pool_t *pool, const struct sti_option *const *table, const char *where,
                        void *conf, struct sti_err *err)
{
    for (; table != NULL && *table != NULL; table++) {
        const struct sti_option *opt = *table;
        if (opt->def == NULL || opt->type == STI_OPT_TABLE || opt->type == STI_OPT_PLACE) {
            continue;
        }
        const char *text = opt->def;
        if (opt->type == STI_OPT_STRING || opt->type == STI_OPT_ENUM) {
            text = trimmed(pool, text, text + strlen(text));
        }
        int status = krn_option_store_text(pool, opt, where, text, conf, err);
        if (status != STI_OK) {
            return status;
        }
    }
    return STI_OK;
}

/* ---- comparing and copying ----------------------------------------------------------------- */

static size_t value_size(const struct sti_option *opt)
{
    switch (opt->type) {
    case STI_OPT_INT:
        return sizeof(int64_t);
    case STI_OPT_BOOL:
        return sizeof(bool);
    case STI_OPT_STRING:
    case STI_OPT_PLACE:
        return sizeof(const char *);
    case STI_OPT_ENUM:
        return sizeof(int32_t);
    case STI_OPT_STRINGS:
        return sizeof(struct sti_option_strings);
    default:
        return sizeof(struct sti_option_rows);
    }
}

static size_t value_align(const struct sti_option *opt)
{
    size_t size = value_size(opt);
    return size > sizeof(void *) ? sizeof(void *) : size;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_rows(const struct sti_option *opt, const void *slot_a, const void *slot_b)
{
    struct sti_option_rows a, b;
    memcpy(&a, slot_a, sizeof a);
    memcpy(&b, slot_b, sizeof b);
    if (a.count != b.count) {
        return false;
    }
    for (size_t i = 0; i < a.count; i++) {
        for (const struct sti_option *const *row = opt->nested; *row != NULL; row++) {
            if (!krn_option_equal(*row, a.rows[i], b.rows[i])) {
                return false;
            }
        }
    }
    return true;
}

bool krn_option_equal(const struct sti_option *opt, const void *conf_a, const void *conf_b)
{
    const void *slot_a = slot_of_const(opt, conf_a), *slot_b = slot_of_const(opt, conf_b);
    if (opt->type == STI_OPT_STRING) {
        const char *a, *b;
        memcpy(&a, slot_a, sizeof a);
        memcpy(&b, slot_b, sizeof b);
        return same_text(a, b);
    }
    if (opt->type == STI_OPT_STRINGS) {
        struct sti_option_strings a, b;
        memcpy(&a, slot_a, sizeof a);
        memcpy(&b, slot_b, sizeof b);
        bool same = a.count == b.count;
        for (size_t i = 0; same && i < a.count; i++) {
            same = same_text(a.items[i], b.items[i]);
        }
        return same;
    }
    if (opt->type == STI_OPT_TABLE) {
        return same_rows(opt, slot_a, slot_b);
    }
    if (opt->type == STI_OPT_PLACE) {
        return true; /* a group that has moved is the same group */
    }
    return memcmp(slot_a, slot_b, value_size(opt)) == 0;
}

void krn_option_copy(const struct sti_option *opt, void *to, const void *from)
{
    memcpy(slot_of(opt, to), slot_of_const(opt, from), value_size(opt));
}

/* ---- checking a table ---------------------------------------------------------------------- */

static bool key_is_sound(const char *key)
{
    size_t len = key == NULL ? 0 : strnlen(key, KEY_MAX + 1);
    if (len == 0 || len > KEY_MAX || !islower((unsigned char)key[0])) {
        return false;
    }
    for (const char *c = key; *c != '\0'; c++) {
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '_') {
            return false;
        }
    }
    return true;
}

/* Size, key, type: what must hold before any other field is read. */
static int check_head(const struct sti_option *const *table, size_t index, struct sti_err *err)
{
    const struct sti_option *opt = table[index];
    if (opt->struct_size < sizeof *opt) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option %zu: struct_size %" PRIu32
                           ", expected at least %zu: rebuild the "
                           "plugin",
                           index, opt->struct_size, sizeof *opt);
    }
    if (!key_is_sound(opt->key)) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option %zu: key '%.64s', expected 1 to 64 lower-case letters, digits "
                           "and '_': rename it",
                           index, opt->key == NULL ? "" : opt->key);
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(table[i]->key, opt->key) == 0) {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                               "option '%s': key stands in rows %zu and %zu: keep one", opt->key, i,
                               index);
        }
    }
    if (opt->type < STI_OPT_INT || opt->type > STI_OPT_PLACE) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': type %" PRIu32 ", kernel knows %d to %d: upgrade StreamIt "
                           "or rebuild the plugin",
                           opt->key, opt->type, STI_OPT_INT, STI_OPT_PLACE);
    }
    return STI_OK;
}

static int check_body(const struct sti_option *opt, uint64_t conf_size, struct sti_err *err)
{
    size_t size = value_size(opt);
    if (opt->offset > conf_size || size > conf_size - opt->offset) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': offset %" PRIu64 " with %zu bytes lies outside conf_size "
                           "%" PRIu64 ": correct the table",
                           opt->key, opt->offset, size, conf_size);
    }
    if (opt->offset % value_align(opt) != 0) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': offset %" PRIu64 " is not a multiple of %zu: correct the "
                           "table",
                           opt->key, opt->offset, value_align(opt));
    }
    if (opt->min > opt->max) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': min %" PRId64 " exceeds max %" PRId64
                           ": correct the table",
                           opt->key, opt->min, opt->max);
    }
    if (opt->help == NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': help is null, expected a sentence: add it", opt->key);
    }
    if (opt->type == STI_OPT_PLACE && (opt->def != NULL || (opt->flags & STI_OPT_REQUIRED) != 0)) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': a place takes no default and cannot be required: correct "
                           "the table",
                           opt->key);
    }
    if (opt->type == STI_OPT_ENUM && (opt->choices == NULL || opt->choices[0] == NULL)) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': choices is empty, expected at least 1 word: add them",
                           opt->key);
    }
    if ((opt->flags & STI_OPT_REQUIRED) != 0 && opt->def != NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "option '%s': required and with default '%s': keep one of the two",
                           opt->key, opt->def);
    }
    return STI_OK;
}

static int check_level(apr_pool_t *scratch, const struct sti_option *const *table,
                       uint64_t conf_size, int depth, struct sti_err *err)
{
    if (depth > KRN_OPTION_DEPTH_MAX) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "options: nested %d deep, expected at most %d", depth,
                           KRN_OPTION_DEPTH_MAX);
    }
    if (table == NULL || table[0] == NULL) {
        return STI_OK;
    }
    if (conf_size == 0 || conf_size > CONF_BYTES_MAX) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "conf_size %" PRIu64 ", expected 1 to %d: correct the descriptor",
                           conf_size, CONF_BYTES_MAX);
    }
    for (size_t i = 0; table[i] != NULL; i++) {
        int status = check_head(table, i, err);
        if (status == STI_OK) {
            status = check_body(table[i], conf_size, err);
        }
        if (status == STI_OK && table[i]->type == STI_OPT_TABLE) {
            if (table[i]->nested == NULL || table[i]->nested[0] == NULL) {
                return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                                   "option '%s': nested is empty, expected at least 1 row",
                                   table[i]->key);
            }
            status = check_level(scratch, table[i]->nested, table[i]->nested_size, depth + 1, err);
            if (status != STI_OK) {
                return sti_err_wrap(err, status, "option '%s'", table[i]->key);
            }
        }
        if (status == STI_OK) {
            const struct sti_option *const row[] = {table[i], NULL};
            const char *where = apr_psprintf(scratch, "option '%s': default", table[i]->key);
            void *conf = apr_pcalloc(scratch, conf_size);
            status = krn_option_defaults(scratch, row, where, conf, err);
        }
        if (status != STI_OK) {
            if (err != NULL) {
                err->code = STI_E_PLUGIN_REFUSED;
            }
            return STI_E_PLUGIN_REFUSED;
        }
    }
    return STI_OK;
}

int krn_option_check_table(apr_pool_t *scratch, const struct sti_option *const *table,
                           uint64_t conf_size, struct sti_err *err)
{
    return check_level(scratch, table, conf_size, 1, err);
}
