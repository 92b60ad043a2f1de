/* settings.c -- see settings.h. */
#include "broker/settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const char *const set_flush_policies[] = {"onroll", "interval", "commit", NULL};

enum set_type { SET_INT, SET_WORD, SET_NAME, SET_FIXED };

struct set_row {
    const char *key;
    enum set_type type;
    size_t offset;            /* in struct set_values                                      */
    int64_t min, max;         /* SET_INT                                                   */
    const char *const *words; /* SET_WORD: its values; SET_FIXED: the words that Kafka has */
    const char *fixed;        /* SET_FIXED: the only word that this version honours        */
    const char *help;
};

static const char *const cleanup_words[] = {"delete", "compact", "compact,delete", "delete,compact",
                                            NULL};
static const char *const timestamp_words[] = {"CreateTime", "LogAppendTime", NULL};
static const char *const bool_words[] = {"false", "true", NULL};
static const char *const compression_words[] = {"producer", "uncompressed", "gzip", "snappy",
                                                "lz4",      "zstd",         NULL};

#define AT(field) offsetof(struct set_values, field)

static const struct set_row rows[SET_COUNT] = {
    {"cleanup.policy", SET_FIXED, 0, 0, 0, cleanup_words, "delete",
     "What happens to old records: delete drops whole segments."},
    {"compression.type", SET_FIXED, 0, 0, 0, compression_words, "producer",
     "Batches are stored as their producer compressed them."},
    {"flush.interval.ms", SET_INT, AT(flush_interval_ms), 1, 86400000, NULL, NULL,
     "With flush.policy=interval: everything is synced at the latest after so many ms."},
    {"flush.policy", SET_WORD, AT(flush_policy), 0, 0, set_flush_policies, NULL,
     "When data is synced to disk: onroll, interval, or commit (before the acknowledgement)."},
    {"index.interval.bytes", SET_INT, AT(index_interval_bytes), 64, 1 << 30, NULL, NULL,
     "Log bytes between two entries of the offset index."},
    {"max.message.bytes", SET_INT, AT(max_message_bytes), 1024, 1 << 30, NULL, NULL,
     "The largest record batch that is taken, as sent."},
    {"message.timestamp.type", SET_FIXED, 0, 0, 0, timestamp_words, "CreateTime",
     "Timestamps are those that producers set."},
    {"min.insync.replicas", SET_INT, AT(min_insync_replicas), 1, 1000, NULL, NULL,
     "With acks=quorum: fewer in-sync replicas refuse the append."},
    {"retention.bytes", SET_INT, AT(retention_bytes), -1, INT64_MAX, NULL, NULL,
     "A partition larger than this drops its oldest segments; -1: no limit."},
    {"retention.ms", SET_INT, AT(retention_ms), -1, INT64_MAX, NULL, NULL,
     "Segments whose newest record is older than this are dropped; -1: no limit."},
    {"segment.bytes", SET_INT, AT(segment_bytes), 1 << 14, 1 << 30, NULL, NULL,
     "A segment is closed before it would pass this size."},
    {"segment.ms", SET_INT, AT(segment_ms), 1, INT64_MAX, NULL, NULL,
     "A segment older than this is closed at the next append."},
    {"storage", SET_NAME, AT(storage), 0, 0, NULL, NULL,
     "The storage instance that keeps the topic; chosen when it is created."},
    {"unclean.leader.election.enable", SET_FIXED, 0, 0, 0, bool_words, "false",
     "Whether a replica that may lack records can become leader."},
};

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
    if (row->type == SET_FIXED && strcmp(value, row->fixed) != 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "%s=%.40s is not supported by this version; it knows %s=%s", row->key,
                           value, row->key, row->fixed);
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

void set_resolve(const struct set_defaults *d, const struct cat_setting *settings, uint32_t count,
                 struct set_values *out)
{
    *out = (struct set_values){.segment_bytes = d->segment_bytes,
                               .segment_ms = d->segment_ms,
                               .index_interval_bytes = d->index_interval_bytes,
                               .retention_bytes = d->retention_bytes,
                               .retention_ms = d->retention_ms,
                               .max_message_bytes = d->max_message_bytes,
                               .min_insync_replicas = d->min_insync_replicas,
                               .flush_policy = d->flush_policy,
                               .flush_interval_ms = d->flush_interval_ms};
    snprintf(out->storage, sizeof out->storage, "%s", d->storage);
    for (int i = 0; i < SET_COUNT; i++) {
        const char *value = override_of(settings, count, rows[i].key);
        void *at = (char *)out + rows[i].offset;
        if (value == NULL) {
            continue;
        }
        if (rows[i].type == SET_INT) {
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
        snprintf(text, max, "%s", row->type == SET_NAME ? values->storage : row->fixed);
    }
}

void set_describe(int i, const struct set_defaults *defaults, const struct cat_topic *topic,
                  char *value, size_t value_max, struct sti_topic_config *out)
{
    struct set_values values;
    bool own = override_of(topic->settings, topic->setting_count, rows[i].key) != NULL;
    set_resolve(defaults, topic->settings, topic->setting_count, &values);
    value_text(&rows[i], &values, value, value_max);
    *out = (struct sti_topic_config){.struct_size = sizeof *out,
                                     .source = own                         ? STI_CONFIG_TOPIC
                                               : rows[i].type == SET_FIXED ? STI_CONFIG_DEFAULT
                                                                           : STI_CONFIG_NODE,
                                     .key = rows[i].key,
                                     .value = value,
                                     .help = rows[i].help};
}
