/* describe.c -- the calls that only look: list, describe, find the leader, list offsets. */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

enum { VALUE_MAX = 96 };

int brk_list_topics(void *self, const struct sti_request *request,
                    void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                    struct sti_err *err)
{
    struct broker *broker = self;
    struct brk_topic **topics = NULL;
    uint32_t retry_after_ms;
    int rc = brk_enter(broker, request, sti_now_us(broker->host), &retry_after_ms, err);
    if (rc != STI_OK) {
        return rc;
    }
    int64_t count = brk_table_all(broker, &topics);
    for (int64_t i = 0; i < count; i++) {
        struct brk_table_shard *shard = brk_shard_of(broker, topics[i]->name);
        struct sti_topic_info info = {.struct_size = sizeof info,
                                      .replication = topics[i]->replication,
                                      .name = topics[i]->name};
        memcpy(info.topic_id, topics[i]->id, sizeof info.topic_id);
        pthread_rwlock_rdlock(&shard->lock);
        info.partition_count = (uint32_t)topics[i]->partition_count;
        pthread_rwlock_unlock(&shard->lock);
        /* What a caller may not describe it does not see. */
        if (brk_authorize(broker, request, STI_OP_DESCRIBE, info.name, NULL) == STI_OK) {
            visit(arg, &info);
        }
        brk_topic_unref(topics[i]);
    }
    free(topics);
    return STI_OK;
}

/* Everything that a visit of describe borrows, in one block of rows and one of pointers. */
struct description {
    struct sti_topic_info info;
    struct sti_partition_info *partitions;
    const struct sti_partition_info **partition_rows;
    struct sti_topic_config config[SET_COUNT];
    const struct sti_topic_config *config_rows[SET_COUNT];
    char values[SET_COUNT][VALUE_MAX];
    int32_t self;
};

static void partition_describe(struct brk_partition *part, const int32_t *self,
                               struct sti_partition_info *out)
{
    struct sti_storage_usage usage = {.struct_size = sizeof usage};
    struct sti_storage_partition *store = brk_partition_read_begin(part);
    if (store != NULL) {
        sti_storage_of(&part->storage)->usage(store, &usage);
        brk_partition_read_end(part);
    }
    pthread_mutex_lock(&part->mu);
    bool known = store != NULL;
    *out = (struct sti_partition_info){
        .struct_size = sizeof *out,
        .partition = part->index,
        .leader = *self,
        .leader_epoch = part->leader_epoch,
        .replicas = self,
        .isr = self,
        .replica_count = 1,
        .isr_count = 1,
        .log_start = known ? atomic_load(&part->log_start) : -1,
        .high_watermark = known ? atomic_load(&part->high_watermark) : -1,
        .log_end = known ? atomic_load(&part->written_end) : -1,
        .bytes = usage.bytes,
        .status = part->state == BRK_PART_ONLINE    ? STI_OK
                  : part->state == BRK_PART_OFFLINE ? part->why_code
                                                    : STI_E_UNAVAILABLE};
    pthread_mutex_unlock(&part->mu);
}

/* @locks admin_mu held */
static int description_fill(struct broker *broker, struct cat_topic *cat, struct brk_topic *topic,
                            struct description *d, struct sti_err *err)
{
    size_t count = (size_t)topic->partition_count;
    d->partitions = calloc(count, sizeof *d->partitions);
    d->partition_rows = calloc(count, sizeof(void *));
    if (d->partitions == NULL || d->partition_rows == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "describe: out of memory");
    }
    d->self = broker->host->node->node_id;
    for (size_t i = 0; i < count; i++) {
        partition_describe(topic->partitions[i], &d->self, &d->partitions[i]);
        d->partition_rows[i] = &d->partitions[i];
    }
    for (int i = 0; i < SET_COUNT; i++) {
        set_describe(i, &broker->conf->defaults, cat, d->values[i], VALUE_MAX, &d->config[i]);
        d->config_rows[i] = &d->config[i];
    }
    d->info = (struct sti_topic_info){.struct_size = sizeof d->info,
                                      .replication = topic->replication,
                                      .name = topic->name,
                                      .partition_count = (uint32_t)count,
                                      .config_count = SET_COUNT,
                                      .partitions = d->partition_rows,
                                      .config = d->config_rows};
    memcpy(d->info.topic_id, topic->id, sizeof d->info.topic_id);
    return STI_OK;
}

int brk_describe_topic(void *self, const struct sti_request *request, const char *name,
                       void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                       struct sti_err *err)
{
    struct broker *broker = self;
    struct description *d = NULL;
    uint32_t retry_after_ms;
    int rc = brk_enter(broker, request, sti_now_us(broker->host), &retry_after_ms, err);
    if (rc == STI_OK) {
        rc = brk_authorize(broker, request, STI_OP_DESCRIBE, name, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    pthread_mutex_lock(&broker->admin_mu);
    struct cat_topic *cat = cat_find(&broker->catalog, name);
    struct brk_topic *topic = brk_topic_get(broker, name);
    if (cat == NULL || topic == NULL) {
        rc = sti_err_set(err, STI_E_UNKNOWN_TOPIC, "topic %.249s does not exist", name);
    } else if ((d = calloc(1, sizeof *d)) == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "describe: out of memory");
    } else {
        rc = description_fill(broker, cat, topic, d, err);
    }
    pthread_mutex_unlock(&broker->admin_mu);
    if (rc == STI_OK) {
        visit(arg, &d->info);
    }
    if (d != NULL) {
        free(d->partitions);
        free(d->partition_rows);
        free(d);
    }
    brk_topic_unref(topic);
    return rc;
}

int brk_find_leader(void *self, const struct sti_request *request, const char *topic,
                    int32_t partition, struct sti_node_info *out, struct sti_err *err)
{
    static const uint8_t any[16];
    struct broker *broker = self;
    struct brk_partition *part = NULL;
    uint32_t retry_after_ms;
    int rc = brk_enter(broker, request, sti_now_us(broker->host), &retry_after_ms, err);
    if (rc == STI_OK) {
        rc = brk_authorize(broker, request, STI_OP_DESCRIBE, topic, err);
    }
    if (rc == STI_OK) {
        rc = brk_lookup(broker, topic, any, partition, &part, err);
    }
    if (rc == STI_E_UNKNOWN_TOPIC) {
        rc = brk_auto_create(broker, request, topic, err);
        brk_retry_after(request, rc == STI_E_UNAVAILABLE ? BRK_RETRY_AFTER_MS : 0);
        return rc; /* it is not there yet, in any case */
    }
    if (rc == STI_OK) {
        *out = (struct sti_node_info){.struct_size = sizeof *out,
                                      .node_id = broker->host->node->node_id,
                                      .host = "",
                                      .leader_epoch = part->leader_epoch};
        brk_partition_unref(part);
    }
    return rc;
}

/* ---- list offsets -------------------------------------------------------------------------- */

/* Times are looked up in files: on the executor. A partition that is still being opened is waited
 * for, without a thread. */
struct offsets {
    struct sti_task task;
    struct brk_await await;
    struct broker *broker;
    struct sti_list_offsets *call;
    uint32_t next;  /* row */
    uint32_t asked; /* rows before this one may be told */
};

/* Why a partition has no storage handle, as the row's status. */
static void row_not_open(struct brk_partition *part, struct sti_list_offsets_row *row)
{
    pthread_mutex_lock(&part->mu);
    brk_partition_why(part, &row->err);
    row->status = part->why_code;
    pthread_mutex_unlock(&part->mu);
    if (row->status == STI_OK) {
        row->status = sti_err_set(&row->err, STI_E_UNAVAILABLE, "%s-%d is not open", part->topic,
                                  part->index);
    }
}

static void offset_of_time(struct brk_partition *part, struct sti_list_offsets_row *row)
{
    struct sti_storage_partition *store = brk_partition_read_begin(part);
    if (store == NULL) {
        row_not_open(part, row);
        return;
    }
    int rc =
        sti_storage_of(&part->storage)
            ->offset_for_time(store, row->timestamp_ms, &row->offset, &row->found_ms, &row->err);
    brk_partition_read_end(part);
    if (rc == STI_E_NOT_FOUND ||
        (rc == STI_OK && row->offset >= atomic_load(&part->high_watermark))) {
        row->offset = -1; /* none that a consumer may see */
        row->found_ms = -1;
        sti_err_clear(&row->err);
        rc = STI_OK;
    }
    row->status = rc;
}

static void row_retry_after(struct sti_list_offsets_row *row, uint32_t retry_after_ms)
{
    if (row->struct_size >=
        offsetof(struct sti_list_offsets_row, retry_after_ms) + sizeof(uint32_t)) {
        row->retry_after_ms = retry_after_ms;
    }
}

static void row_clear(struct sti_list_offsets_row *row)
{
    row->status = STI_OK;
    row->offset = -1;
    row->found_ms = -1;
    row->leader_epoch = -1;
    sti_err_clear(&row->err);
    row_retry_after(row, 0);
}

/* @return its partition with a reference, or NULL: the row is answered */
static struct brk_partition *row_partition(struct offsets *o, struct sti_list_offsets_row *row)
{
    struct brk_partition *part = NULL;
    row_clear(row);
    if (o->asked <= o->next) { /* once, however often a partition is waited for */
        row->status =
            brk_authorize(o->broker, o->call->request, STI_OP_DESCRIBE, row->topic, &row->err);
        o->asked = o->next + 1;
    }
    if (row->status == STI_OK) {
        row->status =
            brk_lookup(o->broker, row->topic, row->topic_id, row->partition, &part, &row->err);
    }
    return part;
}

static void row_answer(struct brk_partition *part, struct sti_list_offsets_row *row)
{
    row->leader_epoch = part->leader_epoch;
    if (row->timestamp_ms >= 0) {
        offset_of_time(part, row);
    } else if (row->timestamp_ms == STI_OFFSET_LATEST || row->timestamp_ms == STI_OFFSET_EARLIEST) {
        struct sti_storage_partition *store = brk_partition_read_begin(part);
        if (store != NULL) {
            row->offset = row->timestamp_ms == STI_OFFSET_LATEST
                              ? atomic_load(&part->high_watermark)
                              : atomic_load(&part->log_start);
            brk_partition_read_end(part);
        } else {
            row_not_open(part, row);
        }
    } else {
        row->status = sti_err_set(&row->err, STI_E_INVALID_ARGUMENT,
                                  "timestamp %lld: expected -1 (end), -2 (start) or a time",
                                  (long long)row->timestamp_ms);
    }
}

static void offsets_go_on(struct brk_await *await)
{
    struct offsets *o = BRK_CONTAINER_OF(await, struct offsets, await);
    struct sti_list_offsets *call = o->call;
    for (; o->next < call->row_count; o->next++) {
        struct sti_list_offsets_row *row = call->rows[o->next];
        struct brk_partition *part = row_partition(o, row);
        if (part == NULL) {
            continue;
        }
        bool waits = brk_await_partition(await, part);
        if (!waits) {
            row_answer(part, row);
            row_retry_after(row, row->status == STI_E_UNAVAILABLE ? BRK_RETRY_AFTER_MS : 0);
        }
        brk_partition_unref(part);
        if (waits) {
            return; /* the await goes on with this row */
        }
    }
    free(o);
    call->done(call);
}

static void offsets_run(struct sti_task *task)
{
    offsets_go_on(&BRK_CONTAINER_OF(task, struct offsets, task)->await);
}

static void offsets_put_off(struct sti_list_offsets *call, const char *why, uint32_t retry_after_ms)
{
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct sti_list_offsets_row *row = call->rows[i];
        row_clear(row);
        row->status = sti_err_set(&row->err, STI_E_THROTTLED, "%.80s-%d: %s", row->topic,
                                  row->partition, why);
        row_retry_after(row, retry_after_ms);
    }
    call->done(call);
}

int brk_list_offsets(void *self, struct sti_list_offsets *call, struct sti_err *err)
{
    struct broker *broker = self;
    uint32_t retry_after_ms;
    struct sti_err own;
    err = err == NULL ? &own : err;
    int rc = brk_enter(broker, call->request, sti_now_us(broker->host), &retry_after_ms, err);
    if (rc == STI_E_THROTTLED) {
        offsets_put_off(call, err->msg, retry_after_ms);
        return STI_OK;
    }
    if (rc != STI_OK) {
        return rc;
    }
    struct offsets *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "list offsets: out of memory");
    }
    o->task.run = offsets_run;
    o->broker = broker;
    o->call = call;
    brk_await_init(&o->await, broker, brk_deadline_us(call->request), offsets_go_on);
    broker->host->post(broker->host->ctx, &o->task);
    return STI_OK;
}
