/* settings.c -- see settings.h. */
#include "broker/settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const char *const set_flush_policies[] = {"onroll", "interval", "commit", NULL};
const char *const set_timestamp_types[] = {"CreateTime", "LogAppendTime", NULL};

enum set_type { SET_INT, SET_WORD, SET_NAME, SET_FIXED };

struct set_row {
    const char *key;
    enum set_type type;
    size_t offset;            /* in struct set_values                                      */
    size_t node_offset;       /* in struct set_defaults                                    */
    const char *def;          /* of the table; SET_FIXED: the only word that is honoured   */
    int64_t min, max;         /* SET_INT                                                   */
    const char *const *words; /* SET_WORD: its values; SET_FIXED: the words that Kafka has */
    const char *help;
};

static const char *const cleanup_words[] = {"delete", "compact", "compact,delete", "delete,compact",
                                            NULL};
static const char *const bool_words[] = {"false", "true", NULL};
static const char *const compression_words[] = {"producer", "uncompressed", "gzip", "snappy",
                                                "lz4",      "zstd",         NULL};

#define AT(field)      offsetof(struct set_values, field)
#define NODE_AT(field) offsetof(struct set_defaults, field)
#define ROW_INT(key, field, def, min, max, unit, help)                                             \
    {key, SET_INT, AT(field), NODE_AT(field), def, min, max, NULL, help},
#define ROW_WORD(key, field, def, words, help)                                                     \
    {key, SET_WORD, AT(field), NODE_AT(field), def, 0, 0, words, help},
#define ROW_NAME(key, field, def, help)                                                            \
    {key, SET_NAME, AT(field), NODE_AT(field), def, 0, 0, NULL, help},
#define ROW_FIXED(key, words, word, help) {key, SET_FIXED, 0, 0, word, 0, 0, words, help},

static const struct set_row rows[SET_COUNT] = {SET_ROWS(ROW_INT, ROW_WORD, ROW_NAME, ROW_FIXED)};

/* Edit distance, bounded by small strings; for "did you mean". */
static size_t distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), prev[72], row[72];
    if (la >= 72 || lb >= 72) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= lb; j++) {
        prev[j] = j;
    }
    for (size_t i = 1; i <= la; i++) {
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t cost = prev[j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u);
            cost = prev[j] + 1 < cost ? prev[j] + 1 : cost;
            row[j] = row[j - 1] + 1 < cost ? row[j - 1] + 1 : cost;
        }
        memcpy(prev, row, sizeof prev);
    }
    return prev[lb];
}

static const struct set_row *row_find(const char *key)
{
    for (int i = 0; i < SET_COUNT; i++) {
        if (strcmp(rows[i].key, key) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

int set_known(const char *key, struct sti_err *err)
{
    const char *near = NULL;
    size_t best = 6;
    if (row_find(key) != NULL) {
        return STI_OK;
    }
    for (int i = 0; i < SET_COUNT; i++) {
        size_t d = distance(key, rows[i].key);
        if (d < best) {
            best = d;
            near = rows[i].key;
        }
    }
    return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                       near == NULL ? "unknown topic setting \"%.80s\""
                                    : "unknown topic setting \"%.80s\"; did you mean \"%s\"?",
                       key, near);
}

static int word_index(const char *const *words, const char *value)
{
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], value) == 0) {
            return i;
        }
    }
    return -1;
}

static void words_list(const char *const *words, char *out, size_t max)
{
    out[0] = '\0';
    for (int i = 0; words[i] != NULL; i++) {
        size_t len = strlen(out);
        snprintf(out + len, max - len, "%s%s", i == 0 ? "" : ", ", words[i]);
    }
}

/* Digits with perhaps a minus: no blanks or plus, which strtoll would take. */
static bool parse_int(const char *value, int64_t *out)
{
    char *end = NULL;
    *out = 0;
    if (value[0] != '-' && (value[0] < '0' || value[0] > '9')) {
        return false;
    }
    errno = 0;
    long long parsed = strtoll(value, &end, 10);
    *out = parsed;
    return end != value && *end == '\0' && errno == 0;
}

static int check_word(const struct set_row *row, const char *value, struct sti_err *err)
{
    char list[160];
    if (word_index(row->words, value) < 0) {
        words_list(row->words, list, sizeof list);
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: expected one of %s, found \"%.40s\"",
                           row->key, list, value);
    }
    if (row->type == SET_FIXED && strcmp(value, row->def) != 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "%s=%.40s is not supported by this version; it knows %s=%s", row->key,
                           value, row->key, row->def);
    }
    return STI_OK;
}

int set_check(const char *key, const char *value, struct sti_err *err)
{
    int64_t number;
    int rc = set_known(key, err);
    if (rc != STI_OK) {
        return rc;
    }
    const struct set_row *row = row_find(key);
    switch (row->type) {
    case SET_INT:
        if (!parse_int(value, &number) || number < row->min || number > row->max) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "%s: expected a whole number from %lld to %lld, found \"%.40s\"",
                               key, (long long)row->min, (long long)row->max, value);
        }
        return STI_OK;
    case SET_NAME:
        if (value[0] == '\0' || strlen(value) > SET_STORAGE_MAX) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "%s: expected the name of an instance, found \"%.80s\"", key, value);
        }
        return STI_OK;
    default:
        return check_word(row, value, err);
    }
}

static const char *override_of(const struct cat_setting *settings, uint32_t count, const char *key)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(settings[i].key, key) == 0) {
            return settings[i].value;
        }
    }
    return NULL;
}

/* The node's value of a row, in the values. */
static void take_node(const struct set_row *row, const struct set_defaults *d,
                      struct set_values *out)
{
    const void *from = (const char *)d + row->node_offset;
    void *to = (char *)out + row->offset;
    if (row->type == SET_INT) {
        memcpy(to, from, sizeof(int64_t));
    } else if (row->type == SET_WORD) {
        int32_t word;
        memcpy(&word, from, sizeof word);
        *(int64_t *)to = word;
    } else if (row->type == SET_NAME) {
        snprintf(out->storage, sizeof out->storage, "%s", d->storage);
    }
}

void set_resolve(const struct set_defaults *d, const struct cat_setting *settings, uint32_t count,
                 struct set_values *out)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < SET_COUNT; i++) {
        const char *value = override_of(settings, count, rows[i].key);
        void *at = (char *)out + rows[i].offset;
        if (value == NULL) {
            take_node(&rows[i], d, out);
        } else if (rows[i].type == SET_INT) {
            (void)parse_int(value, at);
        } else if (rows[i].type == SET_WORD) {
            *(int64_t *)at = word_index(rows[i].words, value);
        } else if (rows[i].type == SET_NAME) {
            snprintf(out->storage, sizeof out->storage, "%s", value);
        }
    }
}

void set_for_storage(const struct set_values *values, struct sti_storage_settings *out)
{
    *out = (struct sti_storage_settings){.struct_size = sizeof *out,
                                         .flush_policy = (int32_t)values->flush_policy,
                                         .segment_bytes = values->segment_bytes,
                                         .segment_ms = values->segment_ms,
                                         .flush_interval_ms = values->flush_interval_ms,
                                         .index_interval_bytes = values->index_interval_bytes};
}

/* Text of the value at a row's place. */
static void value_text(const struct set_row *row, const struct set_values *values, char *text,
                       size_t max)
{
    const void *at = (const char *)values + row->offset;
    if (row->type == SET_INT) {
        snprintf(text, max, "%lld", (long long)*(const int64_t *)at);
    } else if (row->type == SET_WORD) {
        snprintf(text, max, "%s", row->words[*(const int64_t *)at]);
    } else {
        snprintf(text, max, "%s", row->type == SET_NAME ? values->storage : row->def);
    }
}

void set_text(const char *key, const struct set_values *values, char *text, size_t max)
{
    value_text(row_find(key), values, text, max);
}

/* A number as a default stands in the table: K, M and G are powers of 1024. */
static int64_t default_number(const char *text)
{
    char *end = NULL;
    long long value = strtoll(text, &end, 10);
    return value * (*end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : *end == 'G' ? 1 << 30 : 1);
}

/* Has the node another default than the table? */
static bool node_differs(const struct set_row *row, const struct set_defaults *defaults)
{
    struct set_values values;
    memset(&values, 0, sizeof values);
    take_node(row, defaults, &values);
    const int64_t *number = (const void *)((const char *)&values + row->offset);
    switch (row->type) {
    case SET_INT:
        return *number != default_number(row->def);
    case SET_WORD:
        return strcmp(row->words[*number], row->def) != 0;
    case SET_NAME:
        return strcmp(values.storage, row->def) != 0;
    default:
        return false;
    }
}

void set_describe(int i, const struct set_defaults *defaults, const struct cat_topic *topic,
                  char *value, size_t value_max, struct sti_topic_config *out)
{
    struct set_values values;
    bool own = override_of(topic->settings, topic->setting_count, rows[i].key) != NULL;
    set_resolve(defaults, topic->settings, topic->setting_count, &values);
    value_text(&rows[i], &values, value, value_max);
    *out =
        (struct sti_topic_config){.struct_size = sizeof *out,
                                  .source = own                                ? STI_CONFIG_TOPIC
                                            : node_differs(&rows[i], defaults) ? STI_CONFIG_NODE
                                                                               : STI_CONFIG_DEFAULT,
                                  .key = rows[i].key,
                                  .value = value,
                                  .help = rows[i].help};
}
