/* partition.c -- the appends of one partition, from the queue to the acknowledgement.
 *
 * Rows that were checked wait in a queue. The strand takes all that waits, bounded in number and
 * bytes, gives each batch its offsets, and hands them to storage in one call; meanwhile the next
 * ones gather. That is what combines many small producers into few large writes. Once written, rows
 * wait for their acks in the order of their offsets:
 *
 *     QUEUED --strand--> APPENDING --storage done--> WAITING --ends move--> DONE
 *
 * Tasks are posted to the strand under part->mu, so that none can follow the one that closes the
 * partition. From close_wanted on nothing new is taken from the queue.
 *
 * Inline. When nothing is before a small row, the strand is idle and storage takes it without
 * waiting, it is appended on the thread of its call, and answered there: waking another thread
 * costs more than such a write. `appending` is set before the strand is entered, so that a close is
 * as far away as from any append under way. What cannot be done so is left to the strand
 * (append_again).
 *
 * A row can be withdrawn (timeout, deletion) while it is QUEUED or WAITING; while APPENDING its
 * bytes belong to storage.
 *
 * Chains (broker.h): no row in the queue is one that its chain refuses. A row that leaves QUEUED or
 * APPENDING without having been appended is noted in its chain under part->mu, and what the queue
 * holds behind it on that chain leaves with it.
 *
 * Ends. written_end, synced_end and the high watermark only grow while the partition is open. With
 * durable acks the leader's ack goes by the synced end; the high watermark comes from the
 * replication plugin, which was told to go by synced ends.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

/* ---- references ---------------------------------------------------------------------------- */

void brk_partition_ref(struct brk_partition *part)
{
    atomic_fetch_add_explicit(&part->refs, 1, memory_order_relaxed);
}

void brk_partition_unref(struct brk_partition *part)
{
    if (atomic_fetch_sub_explicit(&part->refs, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_destroy(&part->mu);
        free(part->topic);
        free(part->why);
        free(part->next_values);
        free(part);
    }
}

/* ---- acknowledgements ---------------------------------------------------------------------- */

/* Is the row as safe as its producer asked? @locks part->mu held */
static bool row_is_safe(const struct brk_partition *part, const struct brk_produce_row *row)
{
    int64_t end = row->batch.last_offset + 1;
    int acks = row->produce->call->acks;
    if (acks != STI_ACKS_NONE && atomic_load(&part->durable) &&
        atomic_load(&part->synced_end) < end) {
        return false; /* whatever the watermark says: it may have moved under another policy */
    }
    return acks != STI_ACKS_QUORUM || atomic_load(&part->high_watermark) >= end;
}

/* The floor that the producer asked for; 0 when it is reached. */
static int row_floor(struct brk_produce_row *row, struct sti_err *err)
{
    const struct sti_produce *call = row->produce->call;
    if (row->row->replicas < call->replicas_min ||
        row->row->replicas_synced < call->replicas_synced_min) {
        sti_err_set(err, STI_E_REPLICAS_LOST,
                    "%s-%d: appended at %lld, but on %d replicas, %d of them synced; asked for %d "
                    "and %d",
                    row->part->topic, row->part->index, (long long)row->row->base_offset,
                    row->row->replicas, row->row->replicas_synced, call->replicas_min,
                    call->replicas_synced_min);
        return STI_E_REPLICAS_LOST;
    }
    return STI_OK;
}

/* Fill what an ack says. @locks part->mu held */
static void row_result(struct brk_partition *part, struct brk_produce_row *row)
{
    int64_t end = row->batch.last_offset + 1;
    bool quorum = atomic_load(&part->high_watermark) >= end;
    bool synced = atomic_load(&part->synced_end) >= end;
    row->row->base_offset = row->batch.base_offset;
    row->row->leader_epoch = row->batch.leader_epoch;
    row->row->log_start = atomic_load(&part->log_start);
    row->row->append_time_ms = row->stamped ? row->batch.max_timestamp : -1;
    row->row->replicas = quorum && part->replicas > 1 ? part->replicas : 1;
    row->row->replicas_synced =
        synced ? (quorum && part->replicas_synced > 1 ? part->replicas_synced : 1) : 0;
}

/* The time, read the first time only. */
static uint64_t clock_once(const struct brk_partition *part, uint64_t *now)
{
    if (*now == 0) {
        *now = sti_now_us(part->broker->host);
    }
    return *now;
}

/* Note when a row that waits for it was synced. @locks part->mu held */
static void row_stamp_synced(const struct brk_partition *part, struct brk_produce_row *row,
                             uint64_t *now)
{
    if (row->at.synced == 0 && row->produce->call->acks != STI_ACKS_NONE &&
        atomic_load(&part->durable) && atomic_load(&part->synced_end) > row->batch.last_offset) {
        row->at.synced = brk_stamp(row->produce->started_us, clock_once(part, now));
    }
}

/* Answer every written row whose acks are reached. */
static void acks_resolve(struct brk_partition *part)
{
    struct brk_produce_row *ready = NULL, **ready_tail = &ready;
    uint64_t now = 0; /* read once, when the first row needs it */
    pthread_mutex_lock(&part->mu);
    struct brk_produce_row **at = &part->acks_head;
    part->acks_tail = NULL;
    while (*at != NULL) {
        struct brk_produce_row *row = *at;
        row_stamp_synced(part, row, &now);
        if (row_is_safe(part, row)) {
            row->at.acked = brk_stamp(row->produce->started_us, clock_once(part, &now));
            *at = row->next;
            row->next = NULL;
            row->state = BRK_ROW_DONE;
            row_result(part, row);
            *ready_tail = row;
            ready_tail = &row->next;
        } else {
            part->acks_tail = row;
            at = &row->next;
        }
    }
    pthread_mutex_unlock(&part->mu);
    while (ready != NULL) {
        struct brk_produce_row *row = ready;
        struct sti_err err;
        ready = row->next;
        sti_metric_sub(part->broker->metrics.acks_waiting, 1);
        int rc = row_floor(row, &err);
        brk_produce_row_done(row, rc, rc == STI_OK ? NULL : &err);
    }
}

/* From the replication plugin: everything below `offset` is safe. Any thread. */
static void set_high_watermark(void *ctx, int64_t offset, int32_t replicas, int32_t synced)
{
    struct brk_partition *part = ctx;
    pthread_mutex_lock(&part->mu);
    bool moved = offset > atomic_load(&part->high_watermark);
    if (moved) {
        atomic_store(&part->high_watermark, offset);
        part->replicas = replicas;
        part->replicas_synced = synced;
    }
    bool waiting = part->acks_head != NULL;
    bool fetches = moved && part->waiters != NULL;
    if (fetches && part->append_inline) {
        part->wake_wanted = true; /* once the append is over: append_ended */
        fetches = false;
    }
    pthread_mutex_unlock(&part->mu);
    if (moved && waiting) {
        acks_resolve(part);
    }
    if (fetches) {
        brk_fetch_wake(part, false);
    }
}

const struct sti_replication_ops brk_replication_ops = {
    .struct_size = sizeof(struct sti_replication_ops),
    .set_high_watermark = set_high_watermark,
};

void brk_partition_progress(struct brk_partition *part, int64_t written_end, int64_t synced_end)
{
    sti_replication_of(&part->broker->replication)->progress(part->repl, written_end, synced_end);
    acks_resolve(part);
}

int brk_partition_quorum(struct brk_partition *part, struct sti_err *err)
{
    int64_t min = atomic_load_explicit(&part->min_insync, memory_order_relaxed);
    int32_t in_sync = 1;
    if (min <= 1) {
        return STI_OK;
    }
    pthread_mutex_lock(&part->mu);
    bool unknown = part->state == BRK_PART_OPENING && part->repl == NULL;
    pthread_mutex_unlock(&part->mu);
    if (unknown) {
        return STI_OK; /* asked again when it has been opened */
    }
    /* A read that is under way keeps storage open, and replication is closed after storage. */
    if (brk_partition_read_begin(part) != NULL) {
        pthread_mutex_lock(&part->mu);
        struct sti_replication_partition *repl = part->repl;
        pthread_mutex_unlock(&part->mu);
        if (repl != NULL) {
            in_sync = sti_replication_of(&part->broker->replication)->in_sync(repl);
        }
        brk_partition_read_end(part);
    }
    if (in_sync >= min) {
        return STI_OK;
    }
    return sti_err_set(err, STI_E_NOT_ENOUGH_REPLICAS,
                       "%s-%d: %d replicas are in sync, min.insync.replicas is %lld", part->topic,
                       part->index, in_sync, (long long)min);
}

/* ---- reading beside the strand ------------------------------------------------------------- */

struct sti_storage_partition *brk_partition_read_begin(struct brk_partition *part)
{
    pthread_mutex_lock(&part->mu);
    struct sti_storage_partition *store = part->store;
    if (store != NULL) {
        part->reads++;
    }
    pthread_mutex_unlock(&part->mu);
    return store;
}

void brk_partition_read_end(struct brk_partition *part)
{
    pthread_mutex_lock(&part->mu);
    if (--part->reads == 0 && part->close_waits) {
        const struct sti_host *host = part->broker->host;
        part->close_waits = false;
        host->strand_post(host->ctx, &part->strand, &part->close_task);
    }
    pthread_mutex_unlock(&part->mu);
}

bool brk_partition_reads_end(struct brk_partition *part)
{
    pthread_mutex_lock(&part->mu);
    part->closing = part->store != NULL ? part->store : part->closing;
    part->store = NULL;
    part->close_waits = part->reads > 0;
    bool ended = !part->close_waits;
    pthread_mutex_unlock(&part->mu);
    return ended;
}

/* ---- appending ----------------------------------------------------------------------------- */

/* Take from the queue what one append may hold. @locks part->mu held */
static struct brk_produce_row *queue_take(struct brk_partition *part, uint32_t *count)
{
    struct brk_produce_row *first = part->queue_head, *last = NULL;
    uint64_t bytes = 0;
    *count = 0;
    for (struct brk_produce_row *row = first; row != NULL; row = row->next) {
        if (*count > 0 &&
            (*count == BRK_APPEND_BATCHES_MAX || bytes + row->batch.len > BRK_APPEND_BYTES_MAX)) {
            break;
        }
        bytes += row->batch.len;
        row->state = BRK_ROW_APPENDING;
        last = row;
        (*count)++;
    }
    if (last != NULL) {
        part->queue_head = last->next;
        if (part->queue_head == NULL) {
            part->queue_tail = NULL;
        }
        last->next = NULL;
    }
    return first;
}

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err);

/* Offsets and epoch for each batch, in the order of the queue. */
static void append_prepare(struct brk_partition *part, struct brk_produce_row *rows)
{
    int64_t offset = part->next_offset;
    uint32_t i = 0;
    part->append_bytes = 0;
    part->append_started_us = sti_now_us(part->broker->host);
    for (struct brk_produce_row *row = rows; row != NULL; row = row->next) {
        row->at.taken = brk_stamp(row->produce->started_us, part->append_started_us);
        struct sti_append_batch *batch = &row->batch;
        batch->base_offset = offset;
        batch->last_offset = offset + row->header.last_offset_delta;
        batch->leader_epoch = part->leader_epoch;
        brk_timestamp_append(part, row);
        sti_batch_patch(batch->head, offset, batch->len, part->leader_epoch);
        offset = batch->last_offset + 1;
        part->append_bytes += batch->len;
        ((struct sti_append_batch **)(uintptr_t)part->append.batches)[i++] = batch;
    }
}

/* Hand the rows that were taken to storage. @thread strand */
static void append_start(struct brk_partition *part)
{
    struct sti_err err;
    struct sti_append_batch **batches = part->append_few;
    uint32_t count = part->append_count;
    sti_err_clear(&err);
    part->append = (struct sti_storage_append){
        .struct_size = sizeof part->append, .batch_count = count, .done = append_done};
    if (count > BRK_APPEND_FEW) {
        batches = malloc(count * sizeof(*batches));
        if (batches == NULL) {
            sti_err_set(&err, STI_E_NO_MEMORY, "%s-%d: out of memory", part->topic, part->index);
            part->append.batches = part->append_few;
            append_done(&part->append, STI_E_NO_MEMORY, &err);
            return;
        }
    }
    part->append.batches = batches;
    append_prepare(part, part->append_rows);
    int rc = brk_disk_append(part, part->append_bytes, &err);
    if (rc == STI_OK) {
        rc = brk_epoch_note(part, &err);
    }
    if (rc == STI_OK) {
        rc = sti_storage_of(&part->storage)->append(part->store, &part->append);
        if (rc != STI_OK) {
            sti_err_set(&err, rc, "%s-%d: storage refuses the append: %s", part->topic, part->index,
                        sti_status_text(rc));
        }
    }
    if (rc != STI_OK) {
        append_done(&part->append, rc, &err);
    }
}

/* Move appended rows to those that wait for their acks. */
static void append_succeeded(struct brk_partition *part, struct brk_produce_row *rows)
{
    struct brk_metrics *m = &part->broker->metrics;
    uint64_t now = sti_now_us(part->broker->host), records = 0;
    uint32_t count = 0;
    pthread_mutex_lock(&part->mu);
    if (part->acks_tail != NULL) {
        part->acks_tail->next = rows;
    } else {
        part->acks_head = rows;
    }
    for (struct brk_produce_row *row = rows; row != NULL; row = row->next) {
        row->state = BRK_ROW_WAITING;
        part->acks_tail = row;
        part->next_offset = row->batch.last_offset + 1;
        row->at.written = brk_stamp(row->produce->started_us, now);
        records += (uint64_t)row->header.record_count;
        count++;
    }
    __atomic_store_n(&part->counts.records, part->counts.records + records, __ATOMIC_RELAXED);
    __atomic_store_n(&part->counts.bytes, part->counts.bytes + part->append_bytes,
                     __ATOMIC_RELAXED);
    atomic_store(&part->written_end, part->next_offset);
    int64_t synced = atomic_load(&part->synced_end);
    bool poisoned = part->poisoned; /* the sync may have failed before this row could wait for it */
    pthread_mutex_unlock(&part->mu);
    sti_metric_add(m->produce_batches, count);
    sti_metric_add(m->produce_records, records);
    sti_metric_add(m->produce_bytes, part->append_bytes);
    sti_metric_add(m->acks_waiting, count);
    brk_partition_progress(part, part->next_offset, synced);
    if (poisoned) {
        brk_partition_fail_poisoned(part);
    }
}

/* Why storage takes no append: what was queued when damage was found is refused for that, also when
 * the event that tells of it is still under way. The append keeps `store` open. */
static int append_refused(struct brk_partition *part, struct sti_err *err)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    pthread_mutex_lock(&part->mu);
    bool known = part->damaged && part->state == BRK_PART_OFFLINE;
    if (known) {
        brk_partition_why(part, err);
    }
    pthread_mutex_unlock(&part->mu);
    if (known) {
        return err->code;
    }
    sti_storage_of(&part->storage)->state(part->store, &state);
    if ((state.flags & STI_STORAGE_STATE_DAMAGED) != 0) {
        return sti_err_set(err, STI_E_DATA_LOSS,
                           "%s-%d takes no appends: its log is damaged, see the node's log",
                           part->topic, part->index);
    }
    return STI_E_POISONED;
}

/* Take the rows out of the queue that `leaves` picks. @return them, in order @locks part->mu held
 */
static struct brk_produce_row *queue_pick(struct brk_partition *part,
                                          bool (*leaves)(struct brk_produce_row *row))
{
    struct brk_produce_row *out = NULL, **out_tail = &out;
    part->queue_tail = NULL;
    for (struct brk_produce_row **at = &part->queue_head; *at != NULL;) {
        struct brk_produce_row *row = *at;
        if (!leaves(row)) {
            part->queue_tail = row;
            at = &row->next;
            continue;
        }
        *at = row->next;
        row->next = NULL;
        row->state = BRK_ROW_DONE;
        *out_tail = row;
        out_tail = &row->next;
    }
    return out;
}

/* Answer rows that their chains refuse. */
static void rows_refuse(struct brk_produce_row *rows)
{
    while (rows != NULL) {
        struct brk_produce_row *row = rows;
        struct sti_err err;
        rows = row->next;
        brk_produce_row_done(row, brk_produce_chain_err(row, &err), &err);
    }
}

static void append_failed(struct brk_partition *part, struct brk_produce_row *rows, int status,
                          const struct sti_err *err)
{
    struct sti_err damage;
    if (status == STI_E_POISONED) {
        status = append_refused(part, &damage);
        err = status == STI_E_POISONED ? err : &damage;
    }
    pthread_mutex_lock(&part->mu);
    for (struct brk_produce_row *row = rows; row != NULL; row = row->next) {
        row->row->bytes_needed = part->append.bytes_needed;
        row->state = BRK_ROW_DONE;
        brk_produce_chain_fail(row);
    }
    struct brk_produce_row *refused = queue_pick(part, brk_produce_chain_refuses);
    pthread_mutex_unlock(&part->mu);
    while (rows != NULL) {
        struct brk_produce_row *row = rows;
        rows = row->next;
        brk_produce_row_done(row, status, err);
    }
    rows_refuse(refused);
}

/* The append is over: `appending` goes false last, until then neither the strand nor a close
 * touches it. @return whether fetches wait for what it has brought */
static bool append_ended(struct brk_partition *part)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    bool wake = part->wake_wanted;
    part->appending = part->append_inline = part->wake_wanted = false;
    if (part->queue_head != NULL && !part->append_posted && !part->close_wanted) {
        part->append_posted = true;
        host->strand_post(host->ctx, &part->strand, &part->append_task);
    }
    if (part->close_wanted && !part->close_posted) {
        part->close_posted = true;
        host->strand_post(host->ctx, &part->strand, &part->close_task);
    }
    pthread_mutex_unlock(&part->mu);
    return wake;
}

/* Any thread; often the strand itself, inside the call of append. */
static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    struct brk_partition *part = BRK_CONTAINER_OF(op, struct brk_partition, append);
    struct brk_metrics *m = &part->broker->metrics;
    struct brk_produce_row *rows = part->append_rows;
    uint64_t took_us = sti_now_us(part->broker->host) - part->append_started_us;
    if (op->batches != part->append_few) {
        free((void *)(uintptr_t)op->batches);
    }
    part->append_rows = NULL;
    sti_metric_add(m->appends, 1);
    if ((op->flags & STI_APPEND_NO_WAIT) != 0) {
        sti_metric_add(m->appends_inline, 1);
        brk_disk_inlined(part, took_us);
    }
    struct sti_err why;
    sti_err_clear(&why);
    why = err == NULL ? why : *err;
    brk_disk_appended(part, part->append_bytes, status, &why);
    if (status == STI_OK) {
        append_succeeded(part, rows);
    } else {
        if (status == STI_E_DISK_FULL && op->bytes_needed == 0) {
            op->bytes_needed = part->append_bytes;
        }
        brk_metrics_trouble(part, BRK_CALL_PRODUCE, status, &why);
        append_failed(part, rows, status, &why);
    }
    if (append_ended(part)) {
        brk_fetch_wake_here(part);
    }
}

/* @thread strand */
static void append_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, append_task);
    pthread_mutex_lock(&part->mu);
    bool start = part->append_again;
    part->append_posted = part->append_again = false;
    if (!part->appending && !part->close_wanted) {
        part->append_rows = queue_take(part, &part->append_count);
        part->appending = start = part->append_rows != NULL;
    }
    pthread_mutex_unlock(&part->mu);
    if (start) {
        append_start(part);
    }
}

/* Leave the rows that were taken to the strand. `appending` keeps the close behind them. */
static void append_defer(struct brk_partition *part)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    bool wake = part->wake_wanted; /* by another thread meanwhile: not to wait for this append */
    part->append_inline = part->wake_wanted = false;
    part->append_again = part->append_posted = true;
    host->strand_post(host->ctx, &part->strand, &part->append_task);
    pthread_mutex_unlock(&part->mu);
    if (wake) {
        brk_fetch_wake(part, false);
    }
}

/* Append on the thread of a call. @thread strand, entered by the caller */
static void inline_run(struct sti_task *task)
{
    struct brk_partition *part = BRK_CONTAINER_OF(task, struct brk_partition, inline_task);
    const struct sti_storage *vt = sti_storage_of(&part->storage);
    if ((vt->iface.caps & STI_STORAGE_NO_WAIT) == 0 || part->stored_epoch < part->leader_epoch ||
        !brk_disk_may_inline(part, part->append_rows->batch.len)) {
        append_defer(part);
        return;
    }
    part->append = (struct sti_storage_append){.struct_size = sizeof part->append,
                                               .batch_count = 1,
                                               .batches = part->append_few,
                                               .done = append_done,
                                               .flags = STI_APPEND_NO_WAIT};
    append_prepare(part, part->append_rows);
    struct sti_err err;
    int rc = brk_disk_append(part, part->append_bytes, &err);
    if (rc == STI_OK) {
        rc = vt->append(part->store, &part->append);
    }
    if (rc != STI_OK) {
        append_defer(part); /* there it is told what is wrong */
    }
}

/* May the only row of the queue be appended on this thread? @locks part->mu held */
static bool may_enter(const struct brk_partition *part)
{
    return part->queue_head == part->queue_tail && !part->close_wanted &&
           !atomic_load_explicit(&part->durable, memory_order_relaxed);
}

int brk_partition_enqueue(struct brk_partition *part, struct brk_produce_row *row, bool may_inline,
                          struct sti_err *err)
{
    const struct sti_host *host = part->broker->host;
    bool enter = false;
    int rc = STI_OK;
    row->at.queued = brk_stamp(row->produce->started_us, sti_now_us(host));
    pthread_mutex_lock(&part->mu);
    bool online = part->state == BRK_PART_ONLINE;
    if (brk_produce_chain_refuses(row)) {
        rc = brk_produce_chain_err(row, err);
    } else if (online || part->state == BRK_PART_OPENING) {
        row->state = BRK_ROW_QUEUED;
        row->next = NULL;
        if (part->queue_tail != NULL) {
            part->queue_tail->next = row;
        } else {
            part->queue_head = row;
        }
        part->queue_tail = row;
        if (online && !part->append_posted && !part->appending && may_inline && may_enter(part)) {
            part->append_rows = queue_take(part, &part->append_count);
            part->appending = part->append_inline = enter = true;
        } else if (online && !part->append_posted && !part->appending) {
            part->append_posted = true;
            host->strand_post(host->ctx, &part->strand, &part->append_task);
        } else if (!online) {
            brk_opening_touch(part); /* brk_partition_opened goes on */
        }
    } else if (part->state == BRK_PART_CLOSED) {
        rc = brk_partition_closed(part, err);
    } else {
        rc = part->why_code;
        brk_partition_why(part, err);
    }
    pthread_mutex_unlock(&part->mu);
    if (enter && !host->strand_try_run(host->ctx, &part->strand, &part->inline_task)) {
        append_defer(part);
    }
    return rc;
}

/* Unlink a row from a list. @locks part->mu held */
static bool list_remove(struct brk_produce_row **head, struct brk_produce_row **tail,
                        const struct brk_produce_row *row)
{
    struct brk_produce_row *before = NULL;
    for (struct brk_produce_row **at = head; *at != NULL; before = *at, at = &(*at)->next) {
        if (*at == row) {
            *at = row->next;
            if (*tail == row) {
                *tail = before;
            }
            return true;
        }
    }
    return false;
}

bool brk_partition_withdraw(struct brk_partition *part, struct brk_produce_row *row)
{
    struct brk_produce_row *refused = NULL;
    bool out = false;
    pthread_mutex_lock(&part->mu);
    if (row->state == BRK_ROW_QUEUED) {
        out = list_remove(&part->queue_head, &part->queue_tail, row);
        brk_produce_chain_fail(row);
        refused = queue_pick(part, brk_produce_chain_refuses);
    } else if (row->state == BRK_ROW_WAITING) {
        out = list_remove(&part->acks_head, &part->acks_tail, row);
        sti_metric_sub(part->broker->metrics.acks_waiting, out ? 1 : 0);
    }
    if (out) {
        row->state = BRK_ROW_DONE;
    }
    pthread_mutex_unlock(&part->mu);
    rows_refuse(refused);
    return out;
}

/* Answer rows that were taken off their list. */
static void rows_fail(struct brk_partition *part, struct brk_produce_row *rows, int status,
                      const char *why)
{
    struct sti_err err;
    sti_err_set(&err, status, "%s-%d %s", part->topic, part->index, why);
    while (rows != NULL) {
        struct brk_produce_row *row = rows;
        rows = row->next;
        brk_produce_row_done(row, status, &err);
    }
}

/* Empty a list of rows. @return their first @locks part->mu held */
static struct brk_produce_row *rows_take(struct brk_produce_row **head,
                                         struct brk_produce_row **tail, uint32_t *count)
{
    struct brk_produce_row *first = *head;
    *count = 0;
    for (struct brk_produce_row *row = first; row != NULL; row = row->next) {
        if (row->state == BRK_ROW_QUEUED) {
            brk_produce_chain_fail(row);
        }
        row->state = BRK_ROW_DONE;
        (*count)++;
    }
    *head = *tail = NULL;
    return first;
}

void brk_partition_fail_acks(struct brk_partition *part, int status, const char *why)
{
    uint32_t count;
    pthread_mutex_lock(&part->mu);
    struct brk_produce_row *rows = rows_take(&part->acks_head, &part->acks_tail, &count);
    pthread_mutex_unlock(&part->mu);
    sti_metric_sub(part->broker->metrics.acks_waiting, count);
    rows_fail(part, rows, status, why);
}

static bool wants_quorum(struct brk_produce_row *row)
{
    return row->produce->call->acks == STI_ACKS_QUORUM;
}

/* Take the rows out that ask for more replicas in sync than there are: nobody could tell before the
 * partition was open. @param refused  out: those that their chains refuse then @return them */
static struct brk_produce_row *queue_refuse(struct brk_partition *part,
                                            struct brk_produce_row **refused, struct sti_err *err)
{
    *refused = NULL;
    if (brk_partition_quorum(part, err) == STI_OK) {
        return NULL;
    }
    pthread_mutex_lock(&part->mu);
    struct brk_produce_row *out = queue_pick(part, wants_quorum);
    for (struct brk_produce_row *row = out; row != NULL; row = row->next) {
        brk_produce_chain_fail(row);
    }
    *refused = queue_pick(part, brk_produce_chain_refuses);
    pthread_mutex_unlock(&part->mu);
    return out;
}

void brk_partition_drain(struct brk_partition *part)
{
    struct brk_produce_row *rows = NULL;
    uint32_t count;
    pthread_mutex_lock(&part->mu);
    if (part->state == BRK_PART_OPENING) {
        rows = rows_take(&part->queue_head, &part->queue_tail, &count);
    }
    pthread_mutex_unlock(&part->mu);
    rows_fail(part, rows, STI_E_UNAVAILABLE, "was not opened yet: this node is stopping");
}

void brk_partition_opened(struct brk_partition *part, int state, const struct sti_err *why)
{
    const struct sti_host *host = part->broker->host;
    struct brk_produce_row *failed = NULL, *refused = NULL;
    struct sti_err err;
    uint32_t count;
    bool poisoned = false;
    if (state == BRK_PART_ONLINE) {
        failed = queue_refuse(part, &refused, &err);
    } else {
        err = *why;
    }
    pthread_mutex_lock(&part->mu);
    if (part->state == BRK_PART_OPENING) {
        struct sti_err found;
        brk_partition_why(part, &found);
        brk_partition_set_state(part, state, why);
        if (state != BRK_PART_ONLINE) {
            failed = rows_take(&part->queue_head, &part->queue_tail, &count);
        } else if (part->queue_head != NULL && !part->append_posted) {
            part->append_posted = true;
            host->strand_post(host->ctx, &part->strand, &part->append_task);
        }
        poisoned = part->poisoned;
        if (state == BRK_PART_ONLINE && (part->damaged || poisoned)) {
            /* Found between the two; the queue gets it. */
            brk_partition_set_state(part, BRK_PART_OFFLINE, &found);
        }
    }
    pthread_mutex_unlock(&part->mu);
    if (poisoned) {
        brk_reopen_ask(part->broker);
    }
    while (failed != NULL) {
        struct brk_produce_row *row = failed;
        failed = row->next;
        brk_produce_row_done(row, err.code, &err);
    }
    rows_refuse(refused);
    brk_fetch_wake(part, true);
}

void brk_partition_fail_poisoned(struct brk_partition *part)
{
    brk_partition_fail_acks(part, STI_E_IO,
                            "is poisoned; the records may be stored: see the node's log");
}

void brk_partition_fail_all(struct brk_partition *part, bool closed)
{
    uint32_t count;
    pthread_mutex_lock(&part->mu);
    struct brk_produce_row *queued = rows_take(&part->queue_head, &part->queue_tail, &count);
    bool remove = part->remove_after_close;
    pthread_mutex_unlock(&part->mu);
    if (closed || remove) {
        brk_partition_fail_acks(part, remove ? STI_E_UNKNOWN_TOPIC : STI_E_TIMED_OUT,
                                remove ? "is being deleted"
                                       : "was closed before the acknowledgement, since this node "
                                         "is stopping; the records may be stored");
    }
    rows_fail(part, queued, remove ? STI_E_UNKNOWN_TOPIC : STI_E_UNAVAILABLE,
              remove ? "is being deleted" : "is closed: this node is stopping");
    brk_fetch_wake(part, true);
}

static void fail_run(struct sti_task *task)
{
    brk_partition_fail_all(BRK_CONTAINER_OF(task, struct brk_partition, fail_task), false);
}

/* ---- making and posting -------------------------------------------------------------------- */

/* What any thread looks at. */
static void values_publish(struct brk_partition *part, const struct set_values *values)
{
    atomic_store(&part->max_message_bytes, values->max_message_bytes);
    atomic_store(&part->min_insync, values->min_insync_replicas);
    atomic_store(&part->timestamp_type, values->message_timestamp_type);
    atomic_store(&part->timestamp_before, values->message_timestamp_before_max_ms);
    atomic_store(&part->timestamp_after, values->message_timestamp_after_max_ms);
}

struct brk_partition *brk_partition_new(struct brk_topic *owner, int32_t index,
                                        int32_t leader_epoch, const struct set_values *values,
                                        bool create)
{
    struct broker *broker = owner->broker;
    struct brk_partition *part = calloc(1, sizeof *part);
    if (part == NULL || (part->topic = strdup(owner->name)) == NULL) {
        free(part);
        return NULL;
    }
    atomic_init(&part->refs, 1);
    part->broker = broker;
    part->owner = owner;
    part->disk = brk_disk_find(broker, values->storage);
    memcpy(part->topic_id, owner->id, sizeof part->topic_id);
    part->index = index;
    part->leader_epoch = leader_epoch;
    part->epoch_start = -1;
    part->values = *values;
    values_publish(part, values);
    atomic_init(&part->durable, values->flush_policy == STI_FLUSH_COMMIT);
    part->create = create;
    part->open_task.run = brk_open_run;
    part->append_task.run = append_run;
    part->inline_task.run = inline_run;
    part->settings_task.run = brk_settings_run;
    part->retention_task.run = brk_retention_run;
    part->fail_task.run = fail_run;
    part->close_task.run = brk_close_run;
    pthread_mutex_init(&part->mu, NULL);
    broker->host->strand_init(broker->host->ctx, &part->strand);
    return part;
}

void brk_partition_open(struct brk_partition *part, bool urgent)
{
    brk_partition_ref(part); /* the strand's, until the close has run */
    atomic_fetch_add_explicit(&part->owner->refs, 1, memory_order_relaxed);
    brk_opening_add(part, urgent);
}

void brk_partition_close(struct brk_partition *part, bool remove)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    part->close_wanted = true;
    part->remove_after_close = remove;
    brk_partition_set_state(part, BRK_PART_CLOSED, NULL);
    brk_opening_skip(part);
    /* Those who wait are answered on the strand: the caller holds admin_mu. */
    host->strand_post(host->ctx, &part->strand, &part->fail_task);
    if (!part->close_posted && !part->appending) {
        part->close_posted = true;
        host->strand_post(host->ctx, &part->strand, &part->close_task);
    }
    pthread_mutex_unlock(&part->mu);
}

void brk_partition_settings(struct brk_partition *part, const struct set_values *values)
{
    const struct sti_host *host = part->broker->host;
    pthread_mutex_lock(&part->mu);
    if (part->next_values == NULL) {
        part->next_values = malloc(sizeof *part->next_values);
        if (part->next_values == NULL) {
            brk_fatal(part->broker, "out of memory while committed settings are taken over");
        }
    }
    *part->next_values = *values;
    /* What the broker checks by itself counts from now on, the rest from the next append on. */
    values_publish(part, values);
    if (values->flush_policy == STI_FLUSH_COMMIT) {
        /* Also what is appended before the strand has come to the rest is acknowledged when it is
         * synced. */
        atomic_store(&part->durable, true);
    }
    if (!part->settings_posted && !part->close_wanted) {
        part->settings_posted = true;
        host->strand_post(host->ctx, &part->strand, &part->settings_task);
    }
    pthread_mutex_unlock(&part->mu);
}
