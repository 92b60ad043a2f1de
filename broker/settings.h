/* settings.h -- the settings of a topic: one table for names, types, ranges, defaults and help.
 *
 * Names are Kafka's where Kafka has them. A value comes from the topic, else from the node (the
 * option of the same name with underscores in the section `broker`), else from the table. A setting
 * whose value this version cannot honour is refused by name, never taken and ignored.
 */
#ifndef STREAMIT_BROKER_SETTINGS_H
#define STREAMIT_BROKER_SETTINGS_H

#include "broker/cluster/catalog.h"
#include "streamit/broker.h"
#include "streamit/storage.h"

enum { SET_STORAGE_MAX = 64 };

/* The one table, sorted by key. From it come the checks and the defaults of a topic (settings.c),
 * the node's options of the same names (plugin.c) and their documentation.
 *     INT(key, field, default, min, max, unit, help)    a whole number
 *     WORD(key, field, default, words, help)            one of a few words
 *     NAME(key, field, default, help)                   an instance
 *     FIXED(key, words, word, help)                     Kafka's words, of which this version
 * honours one; the node has no option for it
 */
#define SET_ROWS(INT, WORD, NAME, FIXED)                                                           \
    FIXED("cleanup.policy", cleanup_words, "delete",                                               \
          "What happens to old records: delete drops whole segments.")                             \
    FIXED("compression.type", compression_words, "producer",                                       \
          "Batches are stored as their producer compressed them.")                                 \
    INT("flush.interval.ms", flush_interval_ms, "1000", 1, 86400000, "ms",                         \
        "With flush.policy=interval: everything is synced at the latest after so many ms.")        \
    WORD("flush.policy", flush_policy, "onroll", set_flush_policies,                               \
         "When data is synced to disk: onroll, interval, or commit (before the "                   \
         "acknowledgement).")                                                                      \
    INT("index.interval.bytes", index_interval_bytes, "4096", 64, 1 << 30, "bytes",                \
        "Log bytes between two entries of the offset index.")                                      \
    INT("max.message.bytes", max_message_bytes, "2M", 1024, 1 << 30, "bytes",                      \
        "The largest record batch that is taken, as sent.")                                        \
    INT("message.timestamp.after.max.ms", message_timestamp_after_max_ms, "3600000", 0, INT64_MAX, \
        "ms",                                                                                      \
        "With CreateTime: a batch whose newest timestamp is further ahead of the node's clock is " \
        "refused.")                                                                                \
    INT("message.timestamp.before.max.ms", message_timestamp_before_max_ms, "9223372036854775807", \
        0, INT64_MAX, "ms",                                                                        \
        "With CreateTime: a batch whose first timestamp is further behind the node's clock is "    \
        "refused.")                                                                                \
    WORD("message.timestamp.type", message_timestamp_type, "CreateTime", set_timestamp_types,      \
         "Whose clock counts: CreateTime is the producer's, LogAppendTime the node's at the "      \
         "append.")                                                                                \
    INT("min.insync.replicas", min_insync_replicas, "1", 1, 1000, NULL,                            \
        "With acks=quorum: fewer in-sync replicas refuse the append.")                             \
    INT("retention.bytes", retention_bytes, "-1", -1, INT64_MAX, "bytes",                          \
        "A partition larger than this drops its oldest segments; -1: no limit.")                   \
    INT("retention.ms", retention_ms, "604800000", -1, INT64_MAX, "ms",                            \
        "Segments whose newest record is older than this are dropped; -1: no limit.")              \
    INT("segment.bytes", segment_bytes, "128M", 1 << 14, 1 << 30, "bytes",                         \
        "A segment is closed before it would pass this size.")                                     \
    INT("segment.ms", segment_ms, "604800000", 1, INT64_MAX, "ms",                                 \
        "A segment older than this is closed at the next append.")                                 \
    NAME("storage", storage, "storage_mmap",                                                       \
         "The storage instance that keeps the topic; chosen when it is created.")                  \
    FIXED("unclean.leader.election.enable", bool_words, "false",                                   \
          "Whether a replica that may lack records can become leader.")

#define SET_ROW_ONE(...) +1
#define SET_ROW_NONE(...)
enum { SET_COUNT = 0 SET_ROWS(SET_ROW_ONE, SET_ROW_ONE, SET_ROW_ONE, SET_ROW_ONE) };

/* Values in effect. */
struct set_values {
#define SET_INT(key, field, ...)  int64_t field;
#define SET_NAME(key, field, ...) char field[SET_STORAGE_MAX + 1];
    SET_ROWS(SET_INT, SET_INT, SET_NAME, SET_ROW_NONE)
#undef SET_INT
#undef SET_NAME
};

/* The node's defaults, in the broker's conf struct: the options of the section `broker`. */
struct set_defaults {
#define SET_INT(key, field, ...)  int64_t field;
#define SET_WORD(key, field, ...) int32_t field;
#define SET_NAME(key, field, ...) const char *field;
    SET_ROWS(SET_INT, SET_WORD, SET_NAME, SET_ROW_NONE)
#undef SET_INT
#undef SET_WORD
#undef SET_NAME
};

enum set_timestamp_type { SET_CREATE_TIME = 0, SET_LOG_APPEND_TIME = 1 };

/* The i-th setting for describe: key, help, the value in effect as text, and where it comes from:
 * the topic, the node if its option is not the table's default, else the table. */
void set_describe(int i, const struct set_defaults *defaults, const struct cat_topic *topic,
                  char *value, size_t value_max, struct sti_topic_config *out);
/* Check one override. @return STI_OK, STI_E_INVALID_ARGUMENT (key, type, range, word),
 * STI_E_UNSUPPORTED */
int set_check(const char *key, const char *value, struct sti_err *err);
/* Is there such a key? Otherwise err says so, and which one was perhaps meant. */
int set_known(const char *key, struct sti_err *err);
/* The value in effect of the setting `key`, which is known, as text. */
void set_text(const char *key, const struct set_values *values, char *text, size_t max);
/* Values in effect of a topic. Overrides have been checked. */
void set_resolve(const struct set_defaults *defaults, const struct cat_setting *settings,
                 uint32_t count, struct set_values *out);
/* What storage acts on. */
void set_for_storage(const struct set_values *values, struct sti_storage_settings *out);

/* The words of settings whose number is a subscript; NULL-terminated. */
extern const char *const set_flush_policies[];
extern const char *const set_timestamp_types[];

#endif /* STREAMIT_BROKER_SETTINGS_H */
