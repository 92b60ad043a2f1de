/* plugin.c -- the broker as a built-in plugin: descriptor, options, lifecycle.
 *
 * Start: metadata is opened (restore and replay), then every partition of the catalogue, in
 * parallel; when all are open or offline, calls are taken. Drain: new calls are refused, fetches
 * that wait are answered. Stop: partitions are closed, then metadata.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/broker_plugin.h"
#include "broker/internal.h"

enum { STOP_MS = 10000 /* to close what a start that fails has opened */ };

/* ---- lifecycle ----------------------------------------------------------------------------- */

static int broker_create(const struct sti_host *host, const void *conf, void **self,
                         struct sti_err *err)
{
    struct broker *broker = calloc(1, sizeof *broker);
    const struct brk_conf *limits = conf;
    pthread_condattr_t attr;
    *self = NULL;
    if (broker == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "broker: out of memory");
    }
    broker->produce_room.limit = (uint64_t)limits->inflight_bytes_max;
    broker->fetch_room.limit = (uint64_t)limits->fetch_partitions_max;
    quota_init(&broker->quota, host);
    int rc = brk_declared_check(host, conf, err);
    if (rc == STI_OK) {
        rc = quota_set(&broker->quota, &((const struct brk_conf *)conf)->quota, err);
    }
    if (rc != STI_OK) {
        quota_fini(&broker->quota);
        free(broker);
        return rc;
    }
    broker->host = host;
    broker->conf = conf;
    atomic_init(&broker->state, BRK_CREATED);
    pthread_mutex_init(&broker->admin_mu, NULL);
    pthread_mutex_init(&broker->admit_mu, NULL);
    pthread_mutex_init(&broker->offline_mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&broker->settled_cond, &attr);
    pthread_condattr_destroy(&attr);
    brk_table_init(broker);
    brk_opening_init(broker);
    brk_reopen_init(broker);
    brk_purgatory_init(&broker->purgatory, host);
    brk_metrics_init(broker);
    cat_init(&broker->catalog, &brk_observer, broker);
    *self = broker;
    return STI_OK;
}

static void broker_destroy(void *self)
{
    struct broker *broker = self;
    brk_table_fini(broker);
    brk_opening_fini(broker);
    brk_reopen_fini(broker);
    brk_purgatory_fini(&broker->purgatory);
    brk_metrics_fini(broker);
    cat_fini(&broker->catalog);
    brk_disk_free(broker);
    quota_fini(&broker->quota);
    pthread_cond_destroy(&broker->settled_cond);
    pthread_mutex_destroy(&broker->admin_mu);
    pthread_mutex_destroy(&broker->admit_mu);
    pthread_mutex_destroy(&broker->offline_mu);
    free(broker);
}

static void note_instance(void *arg, const struct sti_binding *binding)
{
    const char **name = arg;
    *name = binding->name;
}

/* The auth plugin that broker.auth names. One that is there and is not named would not be asked:
 * whoever wrote it into the configuration believes otherwise. */
static int bind_auth(struct broker *broker, struct sti_err *err)
{
    const struct sti_host *host = broker->host;
    const char *wanted = broker->conf->auth, *there = NULL;
    if (wanted == NULL || wanted[0] == '\0') {
        host->each(host->ctx, STI_AUTH_ID, note_instance, &there);
        return there == NULL ? STI_OK
                             : sti_err_set(err, STI_E_CONFIG,
                                           "%s is an auth plugin, and broker.auth is not set: set "
                                           "broker.auth = \"%s\", or remove the plugin",
                                           there, there);
    }
    int rc = host->bind(host->ctx, STI_AUTH_ID, wanted, STI_AUTH_MAJOR, STI_AUTH_MINOR,
                        &broker->auth, err);
    broker->has_auth = rc == STI_OK;
    return rc == STI_OK ? rc : sti_err_wrap(err, rc, "broker.auth = \"%s\"", wanted);
}

static int broker_bind(struct broker *broker, struct sti_err *err)
{
    const struct sti_host *host = broker->host;
    int rc = host->bind(host->ctx, STI_METADATA_ID, broker->conf->metadata, STI_METADATA_MAJOR,
                        STI_METADATA_MINOR, &broker->metadata, err);
    if (rc == STI_OK) {
        rc = host->bind(host->ctx, STI_REPLICATION_ID, broker->conf->replication,
                        STI_REPLICATION_MAJOR, STI_REPLICATION_MINOR, &broker->replication, err);
    }
    return rc == STI_OK ? bind_auth(broker, err) : rc;
}

/* The quotas. Their rules point into `conf`, which stays. */
static int broker_reload(void *self, const void *conf, struct sti_err *err)
{
    struct broker *broker = self;
    return quota_set(&broker->quota, &((const struct brk_conf *)conf)->quota, err);
}

static int broker_drain(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct broker *broker = self;
    (void)deadline_ms;
    (void)err;
    atomic_store(&broker->state, BRK_DRAINING);
    brk_retention_stop(broker);
    brk_reopen_stop(broker);
    brk_disk_stop(broker);
    brk_fetch_wake_all(broker);
    brk_drain_all(broker);
    return STI_OK;
}

static int broker_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct broker *broker = self;
    (void)broker_drain(self, deadline_ms, err);
    brk_metrics_stop(broker);
    atomic_store(&broker->state, BRK_STOPPED);
    bool all = brk_close_all(broker, deadline_ms);
    brk_purgatory_stop(&broker->purgatory);
    sti_metadata_of(&broker->metadata)->close(broker->metadata.self);
    return all ? STI_OK
               : sti_err_set(err, STI_E_TIMED_OUT, "partitions were still being closed after %u ms",
                             deadline_ms);
}

static int broker_start(void *self, struct sti_err *err)
{
    struct broker *broker = self;
    int rc = broker_bind(broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    brk_metrics_register(broker);
    rc = sti_metadata_of(&broker->metadata)->open(broker->metadata.self, &brk_fsm, broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    brk_anew(broker);
    rc = brk_disk_start(broker, err);
    if (rc != STI_OK) {
        sti_metadata_of(&broker->metadata)->close(broker->metadata.self);
        return rc;
    }
    brk_boot(broker);
    brk_metrics_start(broker);
    rc = brk_declared_start(broker, err);
    if (rc != STI_OK) {
        struct sti_err stop;
        (void)broker_stop(broker, STOP_MS, &stop);
        return rc;
    }
    brk_retention_start(broker);
    atomic_store(&broker->state, BRK_SERVING);
    return STI_OK;
}

/* ---- options ------------------------------------------------------------------------------- */

#define AT(field)          offsetof(struct brk_conf, field)
#define DECLARED_AT(field) offsetof(struct brk_declared, field)
#define OPT_INT(name, at, default_text, low, high, of, text)                                       \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_INT,                              \
                                                 .offset = AT(at),                                 \
                                                 .def = default_text,                              \
                                                 .min = low,                                       \
                                                 .max = high,                                      \
                                                 .unit = of,                                       \
                                                 .help = text}

/* The node's defaults of the settings of a topic. */
#define OPT_SETTING(key, field, def, low, high, of, help)                                          \
    OPT_INT(field, defaults.field, def, low, high, of, "Default of the topic setting " key ".");
#define OPT_WORD(topic_key, name, default_text, words, text)                                       \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_ENUM,                             \
                                                 .offset = AT(defaults.name),                      \
                                                 .def = default_text,                              \
                                                 .choices = words,                                 \
                                                 .help = "Default of the topic setting " topic_key \
                                                         "."};
#define OPT_NAME(topic_key, name, default_text, text)                                              \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_STRING,                           \
                                                 .offset = AT(defaults.name),                      \
                                                 .def = default_text,                              \
                                                 .min = 1,                                         \
                                                 .max = SET_STORAGE_MAX,                           \
                                                 .iface = STI_STORAGE_ID,                          \
                                                 .help = "Default of the topic setting " topic_key \
                                                         ": the instance that keeps new topics."};
SET_ROWS(OPT_SETTING, OPT_WORD, OPT_NAME, SET_ROW_NONE)

static const struct sti_option declared_where = {.struct_size = sizeof(struct sti_option),
                                                 .key = "where",
                                                 .type = STI_OPT_PLACE,
                                                 .offset = DECLARED_AT(where),
                                                 .help = "Where the group stands."};
static const struct sti_option declared_name = {.struct_size = sizeof(struct sti_option),
                                                .key = "name",
                                                .type = STI_OPT_STRING,
                                                .offset = DECLARED_AT(name),
                                                .flags = STI_OPT_REQUIRED,
                                                .help = "Name of the topic."};
static const struct sti_option declared_partitions = {
    .struct_size = sizeof(struct sti_option),
    .key = "partitions",
    .type = STI_OPT_INT,
    .offset = DECLARED_AT(partitions),
    .def = "0",
    .max = 1000000,
    .help = "Its partitions; 0 stands for broker.default_partitions."};
static const struct sti_option declared_replication = {
    .struct_size = sizeof(struct sti_option),
    .key = "replication",
    .type = STI_OPT_INT,
    .offset = DECLARED_AT(replication),
    .def = "0",
    .max = 1000,
    .help = "Replicas of each; 0 stands for broker.default_replication."};
static const struct sti_option declared_config = {
    .struct_size = sizeof(struct sti_option),
    .key = "config",
    .type = STI_OPT_STRINGS,
    .offset = DECLARED_AT(config),
    .help = "Its settings, such as \"segment.bytes=1048576\"."};
static const struct sti_option *const declared_options[] = {
    &declared_name,   &declared_partitions, &declared_replication,
    &declared_config, &declared_where,      NULL};
static const struct sti_option opt_topics = {
    .struct_size = sizeof(struct sti_option),
    .key = "topics",
    .type = STI_OPT_TABLE,
    .offset = AT(topics),
    .flags = STI_OPT_ROOT,
    .nested = declared_options,
    .nested_size = sizeof(struct brk_declared),
    .help = "Topics that a start makes if they are missing, before the node is ready; one that is "
            "there is never changed, and a difference is a warning in the log."};
static const struct sti_option opt_auto_create_topics = {
    .struct_size = sizeof(struct sti_option),
    .key = "auto_create_topics",
    .type = STI_OPT_BOOL,
    .offset = AT(auto_create_topics),
    .def = "false",
    .help = "Whether a topic that somebody writes to, or whose leader somebody asks for, is made "
            "when it is missing, with the node's defaults."};
OPT_INT(auto_create_parallel, auto_create_parallel, "64", 1, 10000, NULL,
        "Topics that are made on demand at a time; who asks for one more is told to try again.");
#define OPT_INSTANCE(name, id, text)                                                               \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_STRING,                           \
                                                 .offset = AT(name),                               \
                                                 .min = 1,                                         \
                                                 .max = SET_STORAGE_MAX,                           \
                                                 .iface = id,                                      \
                                                 .help = text}
OPT_INSTANCE(metadata, STI_METADATA_ID,
             "The metadata instance; needed only where several are configured.");
OPT_INSTANCE(replication, STI_REPLICATION_ID,
             "The replication instance; needed only where several are configured.");

OPT_INT(default_partitions, default_partitions, "1", 1, 1000000, NULL,
        "Partitions of a topic that is created without a number.");
OPT_INT(default_replication, default_replication, "1", 1, 1000, NULL,
        "Replicas of a topic that is created without a number.");
OPT_INT(partitions_per_topic_max, partitions_per_topic_max, "1000", 1, 1000000, NULL,
        "A topic with more partitions is refused.");
OPT_INT(partitions_max, partitions_max, "20000", 1, 10000000, NULL,
        "Partitions of all topics of this node; more are refused.");
OPT_INT(topics_max, topics_max, "10000", 1, 10000000, NULL, "Topics; more are refused.");
OPT_INT(inflight_bytes_max, inflight_bytes_max, "64M", 1, INT64_MAX, "bytes",
        "Bytes of produce calls not yet answered; calls beyond it get THROTTLED.");
OPT_INT(metrics_topics_max, metrics_topics_max, "200", 0, 100000, NULL,
        "Topics with metrics of their own; those of all others are summed under topic=\"*\".");
OPT_INT(slow_request_ms, slow_request_ms, "1000", 0, 3600000, "ms",
        "A produce or fetch call that takes as long, waiting for records left out, is logged as "
        "slow_request with the time of each of its stages; 0: none.");
OPT_INT(fetch_partitions_max, fetch_partitions_max, "200000", 1, 100000000, NULL,
        "Partitions of fetch calls not yet answered, waiting ones too; calls beyond it get "
        "THROTTLED.");
OPT_INT(inflight_share_percent, inflight_share_percent, "100", 0, 10000, "%",
        "Of what is still free of inflight_bytes_max, and of fetch_partitions_max, one connection "
        "may hold so much beside; 100 "
        "lets a lonely connection have half of it, and two a third each. 0: no limit.");
OPT_INT(inline_append_bytes_max, inline_append_bytes_max, "16K", 0, 1 << 20, "bytes",
        "A produce call up to this size may be appended on the thread that serves its connection, "
        "when nothing is before it and no sync is asked for; 0: never.");
OPT_INT(produce_timeout_ms, produce_timeout_ms, "30000", 1, 3600000, "ms",
        "How long a produce call without a timeout of its own waits for its acks.");
OPT_INT(fetch_bytes_max, fetch_bytes_max, "55M", 1024, 1 << 30, "bytes",
        "The most that one fetch call is answered with, whatever it asks for.");
OPT_INT(fetch_wait_max_ms, fetch_wait_max_ms, "300000", 0, 3600000, "ms",
        "The longest that a fetch call may wait for data.");
OPT_INT(opening_parallel, opening_parallel, "0", 0, 64, NULL,
        "Partitions opened, and recovered, at a time; one of these places is kept for those that "
        "somebody asks for. 0 stands for one a core and one more.");
OPT_INT(
    opening_wait_max_ms, opening_wait_max_ms, "10000", 1, 3600000, "ms",
    "The longest that a fetch, a look at offsets or a description waits for a partition that is "
    "still being opened, before it says UNAVAILABLE.");
OPT_INT(reopen_min_ms, reopen_min_ms, "1000", 0, 3600000, "ms",
        "How long a partition that a failed write, sync or open took out of service waits before "
        "its log is read again; doubled with each failure. 0: not before a restart of the node.");
OPT_INT(reopen_max_ms, reopen_max_ms, "60000", 1, 86400000, "ms",
        "The longest that such a partition waits between two attempts.");
OPT_INT(retention_check_interval_ms, retention_check_interval_ms, "300000", 10, 86400000, "ms",
        "How often old segments are looked for.");

OPT_INT(disk_throttle_percent, disk.throttle_percent, "10", 0, 100, "%",
        "Appends are slowed while less than this part of a storage's file system is free, or less "
        "than disk_throttle_bytes if that is less; 0: never.");
OPT_INT(disk_throttle_bytes, disk.throttle_bytes, "1G", 0, INT64_MAX, "bytes",
        "Appends are slowed while fewer bytes are free, or less than disk_throttle_percent if that "
        "is less; 0: never.");
OPT_INT(disk_refuse_percent, disk.refuse_percent, "5", 0, 100, "%",
        "Appends and new partitions are refused with DISK_FULL while less than this part of a "
        "storage's file system is free, or less than disk_refuse_bytes if that is less; 0: only "
        "when the disk refuses them.");
OPT_INT(disk_refuse_bytes, disk.refuse_bytes, "512M", 0, INT64_MAX, "bytes",
        "Appends and new partitions are refused while fewer bytes are free, or less than "
        "disk_refuse_percent if that is less.");
OPT_INT(disk_slowdown_ms, disk.slowdown_ms, "10000", 0, 3600000, "ms",
        "How long a writer at full speed takes from the first slowed append to the first refused "
        "one; 0 slows none.");
OPT_INT(disk_check_interval_ms, disk.check_interval_ms, "1000", 10, 60000, "ms",
        "How often free space is looked at; four times as often while a disk is low or full.");

static const struct sti_option opt_auth = {
    .struct_size = sizeof(struct sti_option),
    .key = "auth",
    .type = STI_OPT_STRING,
    .offset = AT(auth),
    .max = 64,
    .iface = STI_AUTH_ID,
    .help = "Instance of the auth plugin that is asked who a caller is and what it may do; without "
            "it everybody may do everything."};
static const struct sti_option opt_quotas = {
    .struct_size = sizeof(struct sti_option),
    .key = "quotas",
    .type = STI_OPT_TABLE,
    .offset = AT(quota.rules),
    .flags = STI_OPT_RELOADABLE,
    .nested = quota_rule_options,
    .nested_size = sizeof(struct quota_rule),
    .help = "How much a client id or a principal may produce, fetch and ask; beyond it its calls "
            "get THROTTLED with a time to wait."};
static const struct sti_option opt_quota_window_ms = {
    .struct_size = sizeof(struct sti_option),
    .key = "quota_window_ms",
    .type = STI_OPT_INT,
    .offset = AT(quota.window_ms),
    .def = "1000",
    .min = 1,
    .max = 3600000,
    .unit = "ms",
    .flags = STI_OPT_RELOADABLE,
    .help = "A client that was idle may use at once what its quotas give in so long."};
OPT_INT(quota_entities_max, quota.entities_max, "10000", 64, 10000000, NULL,
        "Client ids, and as many principals, whose use is tracked; beyond it the one idle for "
        "longest is forgotten.");

static const struct sti_option *const options[] = {&opt_auth,
                                                   &opt_auto_create_parallel,
                                                   &opt_auto_create_topics,
                                                   &opt_default_partitions,
                                                   &opt_default_replication,
                                                   &opt_disk_check_interval_ms,
                                                   &opt_disk_refuse_bytes,
                                                   &opt_disk_refuse_percent,
                                                   &opt_disk_slowdown_ms,
                                                   &opt_disk_throttle_bytes,
                                                   &opt_disk_throttle_percent,
                                                   &opt_fetch_bytes_max,
                                                   &opt_fetch_partitions_max,
                                                   &opt_fetch_wait_max_ms,
                                                   &opt_flush_interval_ms,
                                                   &opt_flush_policy,
                                                   &opt_index_interval_bytes,
                                                   &opt_inflight_bytes_max,
                                                   &opt_inflight_share_percent,
                                                   &opt_inline_append_bytes_max,
                                                   &opt_max_message_bytes,
                                                   &opt_message_timestamp_after_max_ms,
                                                   &opt_message_timestamp_before_max_ms,
                                                   &opt_message_timestamp_type,
                                                   &opt_metadata,
                                                   &opt_metrics_topics_max,
                                                   &opt_min_insync_replicas,
                                                   &opt_opening_parallel,
                                                   &opt_opening_wait_max_ms,
                                                   &opt_partitions_max,
                                                   &opt_partitions_per_topic_max,
                                                   &opt_produce_timeout_ms,
                                                   &opt_quota_entities_max,
                                                   &opt_quota_window_ms,
                                                   &opt_quotas,
                                                   &opt_reopen_max_ms,
                                                   &opt_reopen_min_ms,
                                                   &opt_replication,
                                                   &opt_retention_bytes,
                                                   &opt_retention_check_interval_ms,
                                                   &opt_retention_ms,
                                                   &opt_segment_bytes,
                                                   &opt_segment_ms,
                                                   &opt_slow_request_ms,
                                                   &opt_storage,
                                                   &opt_topics,
                                                   &opt_topics_max,
                                                   NULL};

/* ---- descriptor ---------------------------------------------------------------------------- */

static const struct sti_broker vtable = {
    .iface = {.struct_size = sizeof(struct sti_broker),
              .major = STI_BROKER_MAJOR,
              .minor = STI_BROKER_MINOR,
              .id = STI_BROKER_ID},
    .produce = brk_produce,
    .fetch = brk_fetch,
    .fetch_cancel = brk_fetch_cancel,
    .list_offsets = brk_list_offsets,
    .create_topic = brk_create_topic,
    .alter_topic = brk_alter_topic,
    .delete_topic = brk_delete_topic,
    .list_topics = brk_list_topics,
    .describe_topic = brk_describe_topic,
    .find_leader = brk_find_leader,
    .admit = brk_admit,
    .await_topic = brk_await_topic,
    .authenticate = brk_authenticate,
};
static const struct sti_iface *const provides[] = {&vtable.iface, NULL};

#define NEED(name, id, prefix, how)                                                                \
    static const struct sti_requirement need_##name = {.struct_size =                              \
                                                           sizeof(struct sti_requirement),         \
                                                       .major = prefix##_MAJOR,                    \
                                                       .minor = prefix##_MINOR,                    \
                                                       .iface = id,                                \
                                                       .flags = how}
/* Storage of 0.1 is taken: what came later is asked for with STI_IFACE_HAS. */
#define BRK_STORAGE_MAJOR STI_STORAGE_MAJOR
#define BRK_STORAGE_MINOR BRK_STORAGE_MINOR_LEAST
NEED(storage, STI_STORAGE_ID, BRK_STORAGE, 0);
NEED(metadata, STI_METADATA_ID, STI_METADATA, 0);
NEED(replication, STI_REPLICATION_ID, STI_REPLICATION, 0);
NEED(auth, STI_AUTH_ID, STI_AUTH, STI_NEED_OPTIONAL);
static const struct sti_requirement *const needs[] = {&need_storage, &need_metadata,
                                                      &need_replication, &need_auth, NULL};

static const struct sti_lifecycle life = {
    .struct_size = sizeof(struct sti_lifecycle),
    .create = broker_create,
    .start = broker_start,
    .reload = broker_reload,
    .drain = broker_drain,
    .stop = broker_stop,
    .destroy = broker_destroy,
};

const struct sti_plugin sti_broker_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .flags = 0,
    .name = "broker",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Topics, partitions, produce and fetch",
    .options = options,
    .conf_size = sizeof(struct brk_conf),
    .provides = provides,
    .needs = needs,
    .life = &life,
};
