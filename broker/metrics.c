/* metrics.c -- the broker's figures, and those of its topics.
 *
 * Topics. What a partition appends and hands out it counts in its own memory. A visit adds that up
 * by topic, for the first broker.metrics_topics_max topics; what is left is one row with the label
 * topic="*", which is no topic's name. Which row a topic belongs to never changes while it is
 * there, and what deleted topics had brought to "*" stays in it, so that no counter goes back. A
 * topic's name consists of letters, digits, '.', '_' and '-': a label needs no escaping.
 *
 * Cost. A visit looks once at each partition, under its lock: the way of a record pays nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

#define OTHERS "*"

/* ---- figures of the node ------------------------------------------------------------------- */

static const struct {
    const char *name, *help, *event;
} answers[BRK_CALLS] = {{"streamit_produce_partitions_total",
                         "Partitions of produce calls answered, by code", "append_failed"},
                        {"streamit_fetch_partitions_total",
                         "Partitions of fetch calls answered, by code", "read_failed"}};

static struct sti_metric *metric(struct broker *broker, int type, const char *name,
                                 const char *labels, const char *help)
{
    return broker->host->metric(broker->host->ctx, type, name, labels, help);
}

static void rooms_register(struct broker *broker)
{
    static const char produce[] = "Produce calls put off by admission";
    static const char fetch[] = "Fetch calls put off by admission";
    struct brk_room *in = &broker->produce_room, *out = &broker->fetch_room;
    in->gauge = metric(broker, STI_METRIC_GAUGE, "streamit_produce_inflight_bytes", NULL,
                       "Bytes of produce calls not yet answered, with what their rows cost");
    in->refused[BRK_ROOM_FULL] =
        metric(broker, STI_METRIC_COUNTER, "streamit_produce_throttled_total",
               "limit=\"inflight_bytes\"", produce);
    in->refused[BRK_ROOM_SHARE] = metric(
        broker, STI_METRIC_COUNTER, "streamit_produce_throttled_total", "limit=\"share\"", produce);
    out->gauge = metric(broker, STI_METRIC_GAUGE, "streamit_fetch_partitions_in_flight", NULL,
                        "Partitions of fetch calls not yet answered");
    out->refused[BRK_ROOM_FULL] =
        metric(broker, STI_METRIC_COUNTER, "streamit_fetch_throttled_total",
               "limit=\"fetch_partitions_max\"", fetch);
    out->refused[BRK_ROOM_SHARE] = metric(
        broker, STI_METRIC_COUNTER, "streamit_fetch_throttled_total", "limit=\"share\"", fetch);
}

/* What a limit, or a bound of a topic, has refused. */
static void refusals_register(struct broker *broker)
{
    static const char name[] = "streamit_limit_refusals_total";
    static const char help[] = "Requests that a limit refused, by limit";
    const int counter = STI_METRIC_COUNTER;
    struct brk_metrics *m = &broker->metrics;
    m->refused_topics = metric(broker, counter, name, "limit=\"topics_max\"", help);
    m->refused_partitions = metric(broker, counter, name, "limit=\"partitions_max\"", help);
    m->refused_topic_partitions =
        metric(broker, counter, name, "limit=\"partitions_per_topic_max\"", help);
    m->refused_message_bytes = metric(broker, counter, name, "limit=\"max.message.bytes\"", help);
    m->refused_timestamps = metric(broker, counter, "streamit_produce_timestamps_refused_total",
                                   NULL, "Batches whose timestamps lie outside the topic's bounds");
}

void brk_metrics_register(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    struct brk_metrics *m = &broker->metrics;
    const int counter = STI_METRIC_COUNTER, gauge = STI_METRIC_GAUGE;
    m->produce_requests =
        metric(broker, counter, "streamit_produce_requests_total", NULL, "Produce calls taken");
    m->produce_rows_ok = metric(broker, counter, answers[BRK_CALL_PRODUCE].name, "code=\"OK\"",
                                answers[BRK_CALL_PRODUCE].help);
    m->fetch_rows_ok = metric(broker, counter, answers[BRK_CALL_FETCH].name, "code=\"OK\"",
                              answers[BRK_CALL_FETCH].help);
    m->denied = metric(broker, counter, "streamit_permission_denied_total", NULL,
                       "Operations on a topic that the auth plugin refused");
    m->unauthenticated = metric(broker, counter, "streamit_unauthenticated_total", NULL,
                                "Callers whose credentials the auth plugin refused");
    m->late = metric(broker, counter, "streamit_requests_late_total", NULL,
                     "Calls whose deadline had passed before they were begun");
    quota_metrics(&broker->quota);
    m->produce_bytes = metric(broker, counter, "streamit_produce_bytes_total", NULL,
                              "Bytes of record batches appended");
    m->produce_batches =
        metric(broker, counter, "streamit_produce_batches_total", NULL, "Record batches appended");
    m->produce_records =
        metric(broker, counter, "streamit_produce_records_total", NULL, "Records appended");
    m->appends = metric(broker, counter, "streamit_produce_appends_total", NULL,
                        "Appends handed to storage, each of one or more batches");
    m->appends_inline = metric(broker, counter, "streamit_produce_appends_inline_total", NULL,
                               "Of those, appends done on the thread of their call");
    m->fetch_requests =
        metric(broker, counter, "streamit_fetch_requests_total", NULL, "Fetch calls taken");
    m->fetch_bytes = metric(broker, counter, "streamit_fetch_bytes_total", NULL,
                            "Bytes of record batches handed out");
    m->reopened = metric(broker, counter, "streamit_partitions_reopened_total", NULL,
                         "Partitions that serve again after a failed write, sync or open");
    m->trimmed_segments = metric(broker, counter, "streamit_retention_segments_total", NULL,
                                 "Segments dropped by retention");
    rooms_register(broker);
    m->acks_waiting = metric(broker, gauge, "streamit_produce_acks_waiting", NULL,
                             "Appended batches that wait for their acks");
    m->fetches_parked =
        metric(broker, gauge, "streamit_fetch_parked", NULL, "Fetch calls that wait for data");
    broker->purgatory.waits = metric(broker, gauge, "streamit_purgatory_waits", NULL,
                                     "Calls that wait for records or acks, and have a time limit");
    broker->purgatory.expired = metric(broker, counter, "streamit_purgatory_expired_total", NULL,
                                       "Of such calls, those whose time was up");
    m->topics = metric(broker, gauge, "streamit_topics", NULL, "Topics");
    m->partitions = metric(broker, gauge, "streamit_partitions", NULL, "Partitions");
    m->partitions_offline = metric(broker, gauge, "streamit_partitions_offline", NULL,
                                   "Partitions that take no appends");
    m->partitions_opening =
        metric(broker, gauge, "streamit_partitions_opening", NULL,
               "Partitions that have not been opened yet since the node was started");
    refusals_register(broker);
    m->auto_created = metric(broker, counter, "streamit_topics_auto_created_total", NULL,
                             "Topics made because somebody asked for them");
    m->produce_us = host->histogram(host->ctx, "streamit_produce_seconds", NULL,
                                    "Time from a produce call to its answer");
    m->fetch_us = host->histogram(host->ctx, "streamit_fetch_seconds", NULL,
                                  "Time from a fetch call to its answer, waiting included");
    m->memory = metric(broker, gauge, "streamit_broker_memory_bytes", NULL,
                       "Memory held for topics and partitions");
    brk_stages_register(&m->stages, host);
}

void brk_metrics_failed(struct broker *broker, int call, int status)
{
    unsigned code = status < 0 ? 0u - (unsigned)status : (unsigned)status;
    if (code >= BRK_CODES) {
        code = (unsigned)-STI_E_INTERNAL;
    }
    _Atomic(struct sti_metric *) *slot = &broker->metrics.failed[call][code];
    struct sti_metric *found = atomic_load_explicit(slot, memory_order_acquire);
    if (found == NULL) {
        char labels[64];
        (void)snprintf(labels, sizeof labels, "code=\"%s\"", sti_status_name(-(int)code));
        found = metric(broker, STI_METRIC_COUNTER, answers[call].name, labels, answers[call].help);
        atomic_store_explicit(slot, found, memory_order_release);
    }
    sti_metric_add(found, 1);
}

void brk_metrics_trouble(const struct brk_partition *part, int call, int status,
                         const struct sti_err *err)
{
    if (status == STI_E_IO || status == STI_E_RESOURCE_EXHAUSTED || status == STI_E_NO_MEMORY) {
        sti_log(part->broker->host, STI_LOG_WARN, answers[call].event,
                err == NULL || err->msg[0] == '\0' ? sti_status_text(status) : err->msg,
                STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
                STI_F_STR("code", sti_status_name(status)));
    }
}

/* ---- figures of topics --------------------------------------------------------------------- */

/* One row of what a visit tells. */
struct sums {
    char labels[STI_TOPIC_NAME_MAX + 16];
    struct brk_counts counts;
    uint64_t partitions, offline, bytes;
};

static void counts_add(struct brk_counts *to, const struct brk_counts *from)
{
    to->records += __atomic_load_n(&from->records, __ATOMIC_RELAXED);
    to->bytes += __atomic_load_n(&from->bytes, __ATOMIC_RELAXED);
    to->fetched += __atomic_load_n(&from->fetched, __ATOMIC_RELAXED);
}

static void partition_add(struct sums *to, struct brk_partition *part)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *store = brk_partition_read_begin(part);
    if (store != NULL) {
        sti_storage_of(&part->storage)->state(store, &state);
        brk_partition_read_end(part);
    }
    counts_add(&to->counts, &part->counts);
    to->partitions++;
    to->offline += __atomic_load_n(&part->state, __ATOMIC_RELAXED) == BRK_PART_OFFLINE ? 1 : 0;
    to->bytes += state.bytes;
}

static void topic_add(struct sums *to, struct brk_topic *topic)
{
    struct brk_partition *part;
    for (int32_t i = 0; (part = brk_partition_at(topic, i)) != NULL; i++) {
        partition_add(to, part);
        brk_partition_unref(part);
    }
}

void brk_metrics_topic(struct broker *broker, struct brk_topic *topic, bool there)
{
    struct brk_topic_series *series = &broker->topic_series;
    if (there) {
        topic->own_series = series->own < broker->conf->metrics_topics_max;
        series->own += topic->own_series ? 1 : 0;
        return;
    }
    series->own -= topic->own_series ? 1 : 0;
    for (int32_t i = 0; !topic->own_series && i < topic->partition_count; i++) {
        counts_add(&series->gone, &topic->partitions[i]->counts);
    }
}

static void rows_tell(const struct sums *rows, size_t count,
                      const struct sti_metrics_visitor *visitor, void *arg)
{
    static const struct {
        int type;
        size_t at;
        const char *name, *help;
    } families[] = {
        {STI_METRIC_COUNTER, offsetof(struct sums, counts.records),
         "streamit_topic_produced_records_total", "Records appended, by topic"},
        {STI_METRIC_COUNTER, offsetof(struct sums, counts.bytes),
         "streamit_topic_produced_bytes_total", "Bytes of record batches appended, by topic"},
        {STI_METRIC_COUNTER, offsetof(struct sums, counts.fetched),
         "streamit_topic_fetched_bytes_total", "Bytes of record batches handed out, by topic"},
        {STI_METRIC_GAUGE, offsetof(struct sums, bytes), "streamit_topic_log_bytes",
         "Bytes of log that a topic holds, without indexes"},
        {STI_METRIC_GAUGE, offsetof(struct sums, partitions), "streamit_topic_partitions",
         "Partitions of a topic"},
        {STI_METRIC_GAUGE, offsetof(struct sums, offline), "streamit_topic_partitions_offline",
         "Partitions of a topic that take no appends"},
    };
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        for (size_t i = 0; i < count; i++) {
            uint64_t value;
            memcpy(&value, (const char *)&rows[i] + families[f].at, sizeof value);
            visitor->value(arg, families[f].type, families[f].name, rows[i].labels,
                           families[f].help, (double)value);
        }
    }
}

/* Row 0 is that of the others. @locks topic_series.mu held, so that no topic changes its row */
static void collect_topics(struct broker *broker, struct brk_topic **topics, int64_t topic_count,
                           const struct sti_metrics_visitor *visitor, void *arg)
{
    struct sums *rows = calloc((size_t)topic_count + 1, sizeof *rows);
    size_t count = 1;
    if (rows == NULL) {
        return; /* a visit without topics: the next one has them again */
    }
    (void)snprintf(rows[0].labels, sizeof rows[0].labels, "topic=\"" OTHERS "\"");
    rows[0].counts = broker->topic_series.gone;
    for (int64_t i = 0; i < topic_count; i++) {
        struct sums *row = &rows[0];
        if (topics[i]->own_series) {
            row = &rows[count++];
            (void)snprintf(row->labels, sizeof row->labels, "topic=\"%s\"", topics[i]->name);
        }
        topic_add(row, topics[i]);
    }
    rows_tell(rows, count, visitor, arg);
    uint64_t partitions = 0;
    for (size_t i = 0; i < count; i++) {
        partitions += rows[i].partitions;
    }
    free(rows);
    sti_metric_set(broker->metrics.memory,
                   sizeof *broker + (uint64_t)topic_count * sizeof(struct brk_topic) +
                       partitions * (sizeof(struct brk_partition) + sizeof(void *)));
}

static void collect(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                    void *arg)
{
    struct broker *broker = BRK_CONTAINER_OF(collector, struct broker, topic_series.collector);
    struct brk_topic **topics;
    if (visitor->value == NULL) {
        return;
    }
    pthread_mutex_lock(&broker->topic_series.mu);
    int64_t count = brk_table_all(broker, &topics);
    collect_topics(broker, topics, count, visitor, arg);
    pthread_mutex_unlock(&broker->topic_series.mu);
    for (int64_t i = 0; i < count; i++) {
        brk_topic_unref(topics[i]);
    }
    free(topics);
}

void brk_metrics_init(struct broker *broker)
{
    pthread_mutex_init(&broker->topic_series.mu, NULL);
    broker->topic_series.collector.collect = collect;
}

void brk_metrics_fini(struct broker *broker)
{
    pthread_mutex_destroy(&broker->topic_series.mu);
}

void brk_metrics_start(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    if (STI_HAS(host, collector_add)) {
        host->collector_add(host->ctx, &broker->topic_series.collector);
    }
}

void brk_metrics_stop(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    if (STI_HAS(host, collector_remove)) {
        host->collector_remove(host->ctx, &broker->topic_series.collector);
    }
}
