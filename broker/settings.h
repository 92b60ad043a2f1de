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

/* Values in effect. */
struct set_values {
    int64_t segment_bytes, segment_ms, index_interval_bytes;
    int64_t retention_bytes, retention_ms; /* -1: without limit */
    int64_t max_message_bytes;
    int64_t min_insync_replicas;
    int64_t flush_policy; /* enum sti_flush_policy */
    int64_t flush_interval_ms;
    char storage[SET_STORAGE_MAX + 1];
};

/* The node's defaults, in the broker's conf struct; every row of the table has its option. */
struct set_defaults {
    int64_t segment_bytes, segment_ms, index_interval_bytes;
    int64_t retention_bytes, retention_ms;
    int64_t max_message_bytes, min_insync_replicas;
    int32_t flush_policy;
    int64_t flush_interval_ms;
    const char *storage;
};

enum { SET_COUNT = 14 };

/* The i-th setting for describe: key, help, and the value in effect as text. */
void set_describe(int i, const struct set_defaults *defaults, const struct cat_topic *topic,
                  char *value, size_t value_max, struct sti_topic_config *out);
/* Check one override. @return STI_OK, STI_E_INVALID_ARGUMENT (key, type, range, word),
 * STI_E_UNSUPPORTED */
int set_check(const char *key, const char *value, struct sti_err *err);
/* Is there such a key? Otherwise err says so, and which one was perhaps meant. */
int set_known(const char *key, struct sti_err *err);
/* Values in effect of a topic. Overrides have been checked. */
void set_resolve(const struct set_defaults *defaults, const struct cat_setting *settings,
                 uint32_t count, struct set_values *out);
/* What storage acts on. */
void set_for_storage(const struct set_values *values, struct sti_storage_settings *out);

/* The option rows of struct set_defaults at `broker_conf.defaults`: see plugin.c. */
extern const char *const set_flush_policies[];

#endif /* STREAMIT_BROKER_SETTINGS_H */
