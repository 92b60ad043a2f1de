/* open.c -- the coming and going of one partition, on its strand.
 *
 * Opening, when opening.c gives it a place: storage recovers the log, then replication takes charge
 * of it. A partition that cannot be opened is *offline*: it keeps its reason, refuses appends with
 * it, is counted and listed, and never stops the node. If storage could open it for reading
 * (damage), it is read outside the damage.
 *
 * Missing storage. `create` says that the partition's storage may not have been made yet (the
 * command TopicCreated was not committed): then it is made. Otherwise a durable storage that has no
 * such partition has lost it, and the partition is offline with DATA_LOSS. A storage that is not
 * durable begins empty after every start.
 *
 * Closing: the task runs after all others of the strand, with no append under way; if reads are,
 * the last of them posts it once more. It is the strand's last, so it may drop the strand's
 * reference.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

/* One that is offline, and why: whoever looks at /ready is told of the first. */
struct brk_offline {
    struct brk_offline *next;
    const struct brk_partition *part; /* to find it again, never looked into */
    char text[144];
};

/* @locks part->mu held */
static void offline_add(struct brk_partition *part)
{
    struct broker *broker = part->broker;
    struct brk_offline *node = calloc(1, sizeof *node);
    struct sti_err why;
    atomic_fetch_add(&broker->offline, 1);
    if (node == NULL) {
        return; /* counted, if not explained */
    }
    brk_partition_why(part, &why);
    node->part = part;
    snprintf(node->text, sizeof node->text, "%.143s", why.msg);
    pthread_mutex_lock(&broker->offline_mu);
    if (broker->offline_list == NULL) {
        broker->offline_list = node;
    } else { /* the first stays the first */
        node->next = broker->offline_list->next;
        broker->offline_list->next = node;
    }
    pthread_mutex_unlock(&broker->offline_mu);
}

static void offline_drop(const struct brk_partition *part)
{
    struct broker *broker = part->broker;
    struct brk_offline *gone = NULL, **at = &broker->offline_list;
    pthread_mutex_lock(&broker->offline_mu);
    while (*at != NULL && (*at)->part != part) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        gone = *at;
        *at = gone->next;
    }
    pthread_mutex_unlock(&broker->offline_mu);
    free(gone);
    atomic_fetch_sub(&broker->offline, 1);
}

void brk_offline_report(struct broker *broker)
{
    char detail[192];
    uint32_t offline;
    /* Several threads may report at once: whoever told an old number tells the new one too. */
    do {
        offline = atomic_load(&broker->offline);
        pthread_mutex_lock(&broker->offline_mu);
        snprintf(detail, sizeof detail, "%u partitions are offline and take no appends: %s",
                 offline,
                 broker->offline_list == NULL ? "see the log" : broker->offline_list->text);
        pthread_mutex_unlock(&broker->offline_mu);
        broker->host->health(broker->host->ctx, "offline_partitions",
                             offline == 0 ? STI_HEALTH_OK : STI_HEALTH_DEGRADED, detail);
        sti_metric_set(broker->metrics.partitions_offline, offline);
    } while (offline != atomic_load(&broker->offline));
}

int brk_partition_closed(const struct brk_partition *part, struct sti_err *err)
{
    return part->remove_after_close
               ? sti_err_set(err, STI_E_UNKNOWN_TOPIC, "topic %s is being deleted", part->topic)
               : sti_err_set(err, STI_E_UNAVAILABLE, "%s-%d is closed: this node is stopping",
                             part->topic, part->index);
}

void brk_partition_keep_why(struct brk_partition *part, const struct sti_err *why)
{
    part->why_code = why->code;
    if (part->why == NULL && why->code != STI_OK) {
        part->why = malloc(sizeof *part->why); /* without memory the code has to do */
    }
    if (part->why != NULL) {
        *part->why = *why;
    }
}

void brk_partition_why(const struct brk_partition *part, struct sti_err *out)
{
    sti_err_clear(out);
    if (part->why != NULL) {
        *out = *part->why;
    } else if (part->why_code != STI_OK) {
        sti_err_set(out, part->why_code, "%s-%d is offline: %s", part->topic, part->index,
                    sti_status_text(part->why_code));
    }
}

void brk_partition_set_state(struct brk_partition *part, int state, const struct sti_err *why)
{
    bool was = part->state == BRK_PART_OFFLINE, is = state == BRK_PART_OFFLINE;
    part->state = state;
    if (why != NULL) {
        brk_partition_keep_why(part, why);
    }
    if (is && !was) {
        offline_add(part);
    } else if (was && !is) {
        offline_drop(part);
    }
}

/* ---- what storage tells -------------------------------------------------------------------- */

static void on_synced(void *ctx, int64_t synced_end)
{
    struct brk_partition *part = ctx;
    pthread_mutex_lock(&part->mu);
    bool moved = synced_end > atomic_load(&part->synced_end);
    if (moved) {
        atomic_store(&part->synced_end, synced_end);
    }
    bool serving = part->repl != NULL;
    int64_t written = atomic_load(&part->written_end);
    pthread_mutex_unlock(&part->mu);
    if (moved && serving) {
        brk_partition_progress(part, written, synced_end);
    }
}

static void on_failed(void *ctx, const struct sti_err *err)
{
    struct brk_partition *part = ctx;
    struct sti_err why;
    sti_err_set(&why, STI_E_POISONED, "%s-%d takes no appends until it is reopened: %.150s",
                part->topic, part->index, err->msg);
    pthread_mutex_lock(&part->mu);
    part->poisoned = true;
    if (part->state == BRK_PART_ONLINE) {
        brk_partition_set_state(part, BRK_PART_OFFLINE, &why);
    } else if (part->state == BRK_PART_OPENING && !part->damaged) {
        brk_partition_keep_why(part, &why); /* brk_partition_opened goes by it */
    }
    pthread_mutex_unlock(&part->mu);
    sti_log(part->broker->host, STI_LOG_ERROR, "partition_poisoned", why.msg,
            STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index));
    brk_offline_report(part->broker);
    brk_partition_fail_poisoned(part);
    brk_reopen_ask(part->broker);
}

/* Damage that was found while the partition is open: from here on it is what it would be had it
 * been found at the start. What was written before goes on to its acks, and reads go around the
 * range. */
static void on_damaged(void *ctx, const struct sti_err *err)
{
    struct brk_partition *part = ctx;
    struct sti_err why;
    sti_err_set(&why, STI_E_DATA_LOSS, "%s-%d takes no appends: %.180s", part->topic, part->index,
                err->msg);
    pthread_mutex_lock(&part->mu);
    bool first = !part->damaged;
    part->damaged = true;
    if (first && part->state == BRK_PART_ONLINE) {
        brk_partition_set_state(part, BRK_PART_OFFLINE, &why);
    } else if (first && part->state == BRK_PART_OPENING) {
        brk_partition_keep_why(part, &why); /* brk_partition_opened goes by it */
    }
    pthread_mutex_unlock(&part->mu);
    sti_log(part->broker->host, STI_LOG_ERROR, "partition_offline", why.msg,
            STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
            STI_F_STR("code", sti_status_name(STI_E_DATA_LOSS)));
    brk_offline_report(part->broker);
}

/* Recovery goes on, unless the partition is closed meanwhile: a stop, or a deletion, does not wait
 * for a long log to be read. */
static int on_recovering(void *ctx, uint64_t bytes)
{
    struct brk_partition *part = ctx;
    pthread_mutex_lock(&part->mu);
    bool closed = part->close_wanted;
    pthread_mutex_unlock(&part->mu);
    brk_opening_read(part, bytes);
    return closed ? 1 : 0;
}

static const struct sti_storage_events events = {
    .struct_size = sizeof events,
    .synced = on_synced,
    .failed = on_failed,
    .damaged = on_damaged,
    .recovering = on_recovering,
};

/* ---- opening ------------------------------------------------------------------------------- */

static int open_storage(struct brk_partition *part, struct sti_storage_partition **store,
                        struct sti_storage_state *state, struct sti_err *err)
{
    struct sti_partition_id id = {
        .struct_size = sizeof id, .partition = part->index, .topic = part->topic};
    struct sti_storage_settings settings;
    struct sti_storage_open args = {.struct_size = sizeof args,
                                    .id = &id,
                                    .settings = &settings,
                                    .events = &events,
                                    .events_ctx = part};
    const struct sti_host *host = part->broker->host;
    memcpy(id.topic_id, part->topic_id, sizeof id.topic_id);
    set_for_storage(&part->values, &settings);
    int rc = host->bind(host->ctx, STI_STORAGE_ID, part->values.storage, STI_STORAGE_MAJOR,
                        BRK_STORAGE_MINOR_LEAST, &part->storage, err);
    if (rc != STI_OK) {
        return rc;
    }
    const struct sti_storage *vt = sti_storage_of(&part->storage);
    rc = vt->open(part->storage.self, &args, store, state, err);
    if (rc != STI_E_NOT_FOUND) {
        return rc;
    }
    if (!part->create && (vt->iface.caps & STI_STORAGE_DURABLE) != 0) {
        struct sti_err why = *err;
        return sti_err_set(
            err, STI_E_DATA_LOSS,
            "%s-%d: its data is gone from storage %s%s%.100s; bring the folder back, "
            "or delete the topic",
            part->topic, part->index, part->values.storage, why.msg[0] != '\0' ? ": " : "",
            why.msg);
    }
    if ((vt->iface.caps & STI_STORAGE_DURABLE) == 0 && part->broker->anew.code != STI_OK) {
        return sti_err_set(err, part->broker->anew.code,
                           "%s-%d: its log began anew, and its leader epoch could not be raised: "
                           "%.120s",
                           part->topic, part->index, part->broker->anew.msg);
    }
    args.flags = STI_STORAGE_CREATE;
    sti_err_clear(err);
    return vt->open(part->storage.self, &args, store, state, err);
}

static int open_replication(struct brk_partition *part, const struct sti_storage_state *state,
                            struct sti_err *err)
{
    struct broker *broker = part->broker;
    int32_t self = broker->host->node->node_id;
    struct sti_replication_open args = {.struct_size = sizeof args,
                                        .partition = part->index,
                                        .topic = part->topic,
                                        .ops = &brk_replication_ops,
                                        .ctx = part,
                                        .replicas = &self,
                                        .replica_count = 1,
                                        .min_insync = (int32_t)part->values.min_insync_replicas,
                                        .written_end = state->written_end,
                                        .synced_end = state->synced_end,
                                        .durable_ends =
                                            part->values.flush_policy == STI_FLUSH_COMMIT};
    struct sti_replication_partition *repl = NULL;
    memcpy(args.topic_id, part->topic_id, sizeof args.topic_id);
    int rc =
        sti_replication_of(&broker->replication)->open(broker->replication.self, &args, &repl, err);
    pthread_mutex_lock(&part->mu);
    part->repl = repl;
    int64_t written = atomic_load(&part->written_end), synced = atomic_load(&part->synced_end);
    pthread_mutex_unlock(&part->mu);
    if (rc == STI_OK) {
        brk_partition_progress(part, written, synced); /* what was synced meanwhile */
    }
    return rc;
}

/* From here on the partition can be read. One that is opened again in the same run keeps its high
 * watermark, as far as the log still reaches: nobody is told that less is safe than before. */
static void open_ends(struct brk_partition *part, struct sti_storage_partition *store,
                      const struct sti_storage_state *state)
{
    pthread_mutex_lock(&part->mu);
    int64_t high = atomic_load(&part->high_watermark);
    high = high < state->written_end ? high : state->written_end;
    part->store = store;
    atomic_store(&part->log_start, state->log_start);
    atomic_store(&part->written_end, state->written_end);
    if (state->synced_end > atomic_load(&part->synced_end)) {
        atomic_store(&part->synced_end, state->synced_end);
    }
    atomic_store(&part->high_watermark, high > state->log_start ? high : state->log_start);
    part->next_offset = state->written_end;
    part->stored_epoch = state->last_epoch;
    part->epoch_start = state->last_epoch < part->leader_epoch ? state->written_end : -1;
    pthread_mutex_unlock(&part->mu);
}

/* Is there nothing to open any more? Storage that has to be made for a topic that was created is
 * made, also while the node stops: its creator waits for it. */
static bool not_wanted(struct brk_partition *part)
{
    pthread_mutex_lock(&part->mu);
    bool closed = part->state == BRK_PART_CLOSED && (!part->create || part->remove_after_close);
    pthread_mutex_unlock(&part->mu);
    return closed;
}

static void open_report(struct brk_partition *part, int rc, const struct sti_storage_state *state,
                        const struct sti_err *err)
{
    const struct sti_host *host = part->broker->host;
    if (rc != STI_OK && rc != STI_E_CANCELLED) {
        sti_log(host, STI_LOG_ERROR, "partition_offline", err->msg, STI_F_STR("topic", part->topic),
                STI_F_INT("partition", part->index), STI_F_STR("code", sti_status_name(rc)));
    } else if (rc == STI_OK && state->truncated_bytes > 0) {
        sti_log(host, STI_LOG_WARN, "tail_cut", "an unfinished tail was cut",
                STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
                STI_F_UINT("bytes", state->truncated_bytes), STI_F_INT("end", state->written_end));
    }
}

static int open_all(struct brk_partition *part, struct sti_storage_state *state,
                    struct sti_err *err)
{
    struct sti_storage_partition *store = NULL;
    int rc = open_storage(part, &store, state, err);
    if (store != NULL) {
        struct sti_err repl_err;
        open_ends(part, store, state);
        int repl_rc = open_replication(part, state, rc == STI_OK ? err : &repl_err);
        rc = rc == STI_OK ? repl_rc : rc;
        part->create = false; /* what is missing from now on was lost */
    }
    return rc;
}

int brk_open_storage(struct brk_partition *part, struct sti_err *err)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    sti_err_clear(err);
    int rc = open_all(part, &state, err);
    open_report(part, rc, &state, err);
    return rc;
}

void brk_open_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, open_task);
    struct broker *broker = part->broker;
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_err err;
    int rc;
    sti_err_clear(&err);
    if (not_wanted(part)) {
        rc = sti_err_set(&err, STI_E_CANCELLED, "%s-%d was closed before it was opened",
                         part->topic, part->index);
    } else {
        rc = open_all(part, &state, &err);
    }
    open_report(part, rc, &state, &err);
    brk_partition_opened(part, rc == STI_OK ? BRK_PART_ONLINE : BRK_PART_OFFLINE, &err);
    if (rc != STI_OK && rc != STI_E_CANCELLED) {
        brk_reopen_ask(broker);
        brk_offline_report(broker); /* before it counts as opened: /ready never knows of neither */
    }
    brk_opening_ended(part, rc != STI_OK && rc != STI_E_CANCELLED, state.truncated_bytes);
    brk_topic_settled(part, false, rc, &err);
}

/* ---- closing ------------------------------------------------------------------------------- */

static void close_report(struct brk_partition *part, int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        sti_log(part->broker->host, STI_LOG_ERROR, "partition_close_failed", err->msg,
                STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index),
                STI_F_STR("code", sti_status_name(rc)));
    }
}

static int remove_storage(struct brk_partition *part, struct sti_err *err)
{
    const struct sti_host *host = part->broker->host;
    struct sti_partition_id id = {
        .struct_size = sizeof id, .partition = part->index, .topic = part->topic};
    int rc = STI_OK;
    if (part->storage.vtable == NULL) {
        rc = host->bind(host->ctx, STI_STORAGE_ID, part->values.storage, STI_STORAGE_MAJOR,
                        BRK_STORAGE_MINOR_LEAST, &part->storage, err);
    }
    if (rc == STI_OK) {
        memcpy(id.topic_id, part->topic_id, sizeof id.topic_id);
        rc = sti_storage_of(&part->storage)->remove(part->storage.self, &id, err);
    }
    return rc;
}

void brk_close_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, close_task);
    const struct sti_host *host = part->broker->host;
    struct sti_err err;
    int rc = STI_OK;
    sti_err_clear(&err);
    if (!brk_partition_reads_end(part)) {
        return; /* the last read posts this task again */
    }
    if (part->closing != NULL) {
        const struct sti_storage *vt = sti_storage_of(&part->storage);
        rc = part->remove_after_close && STI_IFACE_HAS(vt, discard)
                 ? vt->discard(part->closing, &err)
                 : vt->close(part->closing, &err);
        part->closing = NULL;
        close_report(part, rc, &err);
    }
    /* Only now: until storage was closed its events could still reach replication. */
    pthread_mutex_lock(&part->mu);
    struct sti_replication_partition *repl = part->repl;
    part->repl = NULL;
    pthread_mutex_unlock(&part->mu);
    if (repl != NULL) {
        sti_replication_of(&part->broker->replication)->close(repl);
    }
    brk_partition_fail_all(part, true); /* what the last append left waiting */
    if (part->remove_after_close) {
        /* Also when the close has failed: what it could not save is not wanted any more. */
        sti_err_clear(&err);
        rc = remove_storage(part, &err);
        close_report(part, rc, &err);
    }
    brk_topic_settled(part, true, rc, &err); /* the broker may be gone after it */
    host->strand_fini(host->ctx, &part->strand);
    brk_partition_unref(part); /* the strand's: the memory may go with it */
}

/* ---- changed settings ---------------------------------------------------------------------- */

void brk_settings_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, settings_task);
    struct broker *broker = part->broker;
    struct sti_storage_settings settings;
    struct sti_err err;
    pthread_mutex_lock(&part->mu);
    part->settings_posted = false;
    if (part->next_values != NULL) {
        part->values = *part->next_values;
    }
    struct sti_storage_partition *store = part->store;
    pthread_mutex_unlock(&part->mu);
    bool durable = part->values.flush_policy == STI_FLUSH_COMMIT;
    if (store == NULL) {
        atomic_store(&part->durable, durable); /* nothing is written, so nothing waits for a sync */
        return;
    }
    set_for_storage(&part->values, &settings);
    int rc = sti_storage_of(&part->storage)->configure(store, &settings, &err);
    if (rc != STI_OK) {
        sti_log(broker->host, STI_LOG_ERROR, "partition_settings_refused", err.msg,
                STI_F_STR("topic", part->topic), STI_F_INT("partition", part->index));
        return;
    }
    brk_retention_post(part);
    pthread_mutex_lock(&part->mu);
    /* Unless the next change, which was confirmed meanwhile, asks for it again. */
    durable = durable ||
              (part->next_values != NULL && part->next_values->flush_policy == STI_FLUSH_COMMIT);
    atomic_store(&part->durable, durable);
    pthread_mutex_unlock(&part->mu);
    if (part->repl != NULL) {
        sti_replication_of(&broker->replication)
            ->configure(part->repl, durable, (int32_t)part->values.min_insync_replicas);
        /* What waits for a sync may now be safe without. */
        brk_partition_progress(part, atomic_load(&part->written_end),
                               atomic_load(&part->synced_end));
    }
}
