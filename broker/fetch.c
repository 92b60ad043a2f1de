/* fetch.c -- a fetch call: read what is there, or wait for it.
 *
 *     fetch -> [rows checked] -> read row by row -> enough, an error, or time is up? -> answer
 *                                       |  no
 *                                       v
 *                              park at every partition  --high watermark moves, timer, cancel,
 * drain-->  read again (executor)
 *
 * Reading is tried on the caller's thread with STI_READ_NO_WAIT; the first row that would wait
 * sends the rest to the executor. Bounds: never beyond the high watermark; the first batch of the
 * answer comes whole, whatever the limits say.
 *
 * Parking. `state` is RUNNING or PARKED; whoever turns PARKED into RUNNING owns the call from then
 * on. The rows stand in the lists of their partitions, the call in a list by address, so that a
 * cancel finds it without trusting a pointer. A timer is armed at the first park and lives until it
 * fires or the call is answered: woken early, a call parks again with the time that is left.
 *
 * Opening. A row whose partition is still being opened after a start moves it to the front and
 * waits for it, also in a call that would not wait for records, for as long as the node lets
 * anybody wait; what comes from other rows meanwhile is not held back by it.
 *
 * Quotas. A call of a client that is over its quota is put off at once, row by row. One that is
 * taken reads no more than what is left of the quota at that moment, its first batch aside, and
 * uses up what it is answered with; a call that waits is looked at again when it wakes.
 *
 * Lifetimes. `refs`: one of the owner, one of the armed timer, one of each wake in progress.
 */
#include <stdlib.h>

#include "broker/internal.h"

enum fetch_state { FETCH_RUNNING = 0, FETCH_PARKED = 1 };

enum { HERE_ROWS = 16 }; /* of a fetch that whoever appends goes on with himself */

struct brk_fetch {
    struct broker *broker;
    struct sti_fetch *call;
    struct brk_fetch *parked_next, *parked_prev; /* @locks parked shard */
    struct sti_task task;                        /* goes on on the executor */
    struct brk_wait wait;
    _Atomic uint32_t refs;
    _Atomic int state;
    _Atomic int read_step; /* see read_rows */
    _Atomic bool cancelled;
    _Atomic bool timer_armed;
    bool may_wait, failed, parked, on_executor, would_block;
    uint32_t row_count, next_row;
    uint64_t started_us, due_us, open_due_us, bytes;
    struct brk_fetch_times times;
    uint64_t quota_left;                 /* when reading was begun */
    struct sti_storage_read read;        /* of row next_row */
    struct sti_storage_partition *store; /* that it reads from */
    struct brk_fetch_row rows[];
};

static void read_rows(struct brk_fetch *f);
static void fetch_again(struct brk_fetch *f);

static void fetch_unref(struct brk_fetch *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) == 1) {
        for (uint32_t i = 0; i < f->row_count; i++) {
            if (f->rows[i].part != NULL) {
                brk_partition_unref(f->rows[i].part);
            }
        }
        free(f);
    }
}

/* ---- answering ----------------------------------------------------------------------------- */

/* Count what a call that is answered hands out. */
static void fetch_count(struct brk_fetch *f)
{
    sti_metric_add(f->broker->metrics.fetch_bytes, f->bytes);
    uint64_t ok = 0;
    for (uint32_t i = 0; i < f->row_count; i++) {
        struct brk_partition *part = f->rows[i].part;
        ok += f->rows[i].row->status == STI_OK ? 1 : 0;
        if (part != NULL && f->rows[i].row->slice_count > 0) {
            (void)__atomic_fetch_add(&part->counts.fetched, f->rows[i].row->bytes,
                                     __ATOMIC_RELAXED);
        }
    }
    sti_metric_add(f->broker->metrics.fetch_rows_ok, ok);
}

static void fetch_answer(struct brk_fetch *f)
{
    struct broker *broker = f->broker;
    const struct sti_host *host = broker->host;
    if (f->timer_armed && brk_wait_cancel(&broker->purgatory, &f->wait)) {
        fetch_unref(f);
    }
    brk_room_leave(&broker->fetch_room, f->call->request, f->row_count);
    uint64_t now = sti_now_us(host);
    if (f->bytes > 0 && quota_active(&broker->quota, QUOTA_FETCH_BYTES)) {
        quota_charge(&broker->quota, f->call->request, QUOTA_FETCH_BYTES, f->bytes, now);
    }
    fetch_count(f);
    sti_histogram_record(broker->metrics.fetch_us, now - f->started_us);
    brk_stages_fetched(broker, f->call, f->started_us, &f->times, f->bytes, now);
    f->call->done(f->call);
    fetch_unref(f);
}

static void row_retry_after(struct sti_fetch_row *row, uint32_t retry_after_ms)
{
    if (row->struct_size >= offsetof(struct sti_fetch_row, retry_after_ms) + sizeof(uint32_t)) {
        row->retry_after_ms = retry_after_ms;
    }
}

static void row_fail(struct brk_fetch_row *row, int status, const struct sti_err *err)
{
    row->row->status = status;
    row->row->err = *err;
    row->row->high_watermark = -1;
    row->row->last_stable = -1;
    row_retry_after(row->row, status == STI_E_UNAVAILABLE ? BRK_RETRY_AFTER_MS : 0);
    row->fetch->failed = true;
    brk_metrics_failed(row->fetch->broker, BRK_CALL_FETCH, status);
}

static bool fetch_cancelled(const struct brk_fetch *f)
{
    return __atomic_load_n(&f->call->state[1], __ATOMIC_ACQUIRE) != NULL;
}

static void fetch_fail_cancelled(struct brk_fetch *f)
{
    struct sti_err err;
    sti_err_set(&err, STI_E_CANCELLED, "fetch: the caller has gone");
    sti_fetch_release(f->call);
    f->bytes = 0;
    for (uint32_t i = 0; i < f->row_count; i++) {
        if (f->rows[i].row->status == STI_OK) {
            row_fail(&f->rows[i], STI_E_CANCELLED, &err);
        }
    }
}

/* ---- parking ------------------------------------------------------------------------------- */

static struct brk_parked_shard *parked_shard(struct broker *broker, const struct sti_fetch *call)
{
    return &broker->parked[((uintptr_t)call >> 6) % BRK_SHARDS];
}

static void parked_link(struct brk_fetch *f)
{
    struct brk_parked_shard *shard = parked_shard(f->broker, f->call);
    pthread_mutex_lock(&shard->mu);
    f->parked_prev = NULL;
    f->parked_next = shard->fetches;
    if (shard->fetches != NULL) {
        shard->fetches->parked_prev = f;
    }
    shard->fetches = f;
    pthread_mutex_unlock(&shard->mu);
    sti_metric_add(f->broker->metrics.fetches_parked, 1);
}

static void parked_unlink(struct brk_fetch *f)
{
    struct brk_parked_shard *shard = parked_shard(f->broker, f->call);
    pthread_mutex_lock(&shard->mu);
    if (f->parked_prev != NULL) {
        f->parked_prev->parked_next = f->parked_next;
    } else {
        shard->fetches = f->parked_next;
    }
    if (f->parked_next != NULL) {
        f->parked_next->parked_prev = f->parked_prev;
    }
    pthread_mutex_unlock(&shard->mu);
    sti_metric_sub(f->broker->metrics.fetches_parked, 1);
}

/* Is there a reason not to wait at this partition? @locks part->mu held */
static bool row_has_news(const struct brk_fetch_row *row)
{
    if (row->opening) {
        return row->part->state != BRK_PART_OPENING;
    }
    return row->part->state == BRK_PART_CLOSED ||
           atomic_load(&row->part->high_watermark) > row->seen;
}

/* Does a row wait for its partition to be opened? */
static bool fetch_opening(const struct brk_fetch *f)
{
    bool opening = false;
    for (uint32_t i = 0; i < f->row_count; i++) {
        opening = opening || f->rows[i].opening;
    }
    return opening;
}

/* Until when is it worth waiting? */
static uint64_t fetch_due(const struct brk_fetch *f)
{
    return fetch_opening(f) && f->open_due_us > f->due_us ? f->open_due_us : f->due_us;
}

/* seen: what is no news */
static void row_link(struct brk_fetch_row *row, int64_t seen)
{
    struct brk_partition *part = row->part;
    pthread_mutex_lock(&part->mu);
    row->seen = seen; /* under the lock: who parked this call before may still be looking */
    row->prev = NULL;
    row->next = part->waiters;
    if (part->waiters != NULL) {
        part->waiters->prev = row;
    }
    part->waiters = row;
    row->parked = true;
    pthread_mutex_unlock(&part->mu);
}

static void row_unlink(struct brk_fetch_row *row)
{
    struct brk_partition *part = row->part;
    pthread_mutex_lock(&part->mu);
    if (row->parked) {
        if (row->prev != NULL) {
            row->prev->next = row->next;
        } else {
            part->waiters = row->next;
        }
        if (row->next != NULL) {
            row->next->prev = row->prev;
        }
        row->parked = false;
    }
    pthread_mutex_unlock(&part->mu);
}

/* Become the owner of a parked call, if nobody else has. The caller holds a reference or the right
 * to one. */
static bool fetch_claim(struct brk_fetch *f)
{
    int expected = FETCH_PARKED;
    return atomic_compare_exchange_strong(&f->state, &expected, FETCH_RUNNING);
}

/* Go on with a claimed call on the executor. */
static void fetch_resume(struct brk_fetch *f)
{
    const struct sti_host *host = f->broker->host;
    host->post(host->ctx, &f->task);
}

static void time_is_up(struct brk_wait *wait)
{
    struct brk_fetch *f = BRK_CONTAINER_OF(wait, struct brk_fetch, wait);
    atomic_store(&f->timer_armed, false); /* before the claim: whoever parks next arms it anew */
    if (fetch_claim(f)) {
        fetch_resume(f);
    }
    fetch_unref(f);
}

/* Wait, unless something has come since the rows were read. Everything is linked before the call
 * can be claimed; what came before that is found by looking once more after it. From then on only
 * `f` itself may be touched, not the call. */
static void fetch_park(struct brk_fetch *f, bool some)
{
    const struct sti_host *host = f->broker->host;
    bool news = false;
    uint64_t now = sti_now_us(host);
    atomic_fetch_add(&f->refs, 1); /* this function's */
    f->parked = true;
    f->times.read_us += now - f->times.mark_us;
    f->times.mark_us = now;
    parked_link(f);
    for (uint32_t i = 0; i < f->row_count; i++) {
        struct brk_fetch_row *row = &f->rows[i];
        /* With some bytes there but fewer than min_bytes, only growth is news. */
        row_link(row, some ? row->row->high_watermark : row->row->offset);
    }
    uint64_t due = fetch_due(f);
    if (!atomic_load(&f->timer_armed)) {
        atomic_fetch_add(&f->refs, 1);
        atomic_store(&f->timer_armed, true);
        /* The first time is for the records, the last for the opening. */
        brk_wait_arm(&f->broker->purgatory, &f->wait, now < f->due_us ? f->due_us : due);
    }
    bool cancelled = fetch_cancelled(f);
    atomic_store(&f->state, FETCH_PARKED);
    for (uint32_t i = 0; i < f->row_count; i++) {
        struct brk_partition *part = f->rows[i].part;
        pthread_mutex_lock(&part->mu);
        news = news || row_has_news(&f->rows[i]);
        pthread_mutex_unlock(&part->mu);
    }
    if ((news || cancelled || atomic_load(&f->cancelled) || now >= due ||
         !atomic_load(&f->timer_armed) || atomic_load(&f->broker->state) != BRK_SERVING) &&
        fetch_claim(f)) {
        fetch_resume(f);
    }
    fetch_unref(f);
}

void brk_fetch_wake(struct brk_partition *part, bool all)
{
    /* Claimed calls stay in the list until they unlink themselves, so one pass finds all. */
    pthread_mutex_lock(&part->mu);
    for (struct brk_fetch_row *row = part->waiters; row != NULL; row = row->next) {
        if ((all || row_has_news(row)) && fetch_claim(row->fetch)) {
            fetch_resume(row->fetch);
        }
    }
    pthread_mutex_unlock(&part->mu);
}

void brk_fetch_wake_here(struct brk_partition *part)
{
    struct brk_fetch *here = NULL;
    pthread_mutex_lock(&part->mu);
    for (struct brk_fetch_row *row = part->waiters; row != NULL; row = row->next) {
        if (row_has_news(row) && fetch_claim(row->fetch)) {
            if (here == NULL && row->fetch->row_count <= HERE_ROWS) {
                here = row->fetch;
            } else {
                fetch_resume(row->fetch);
            }
        }
    }
    pthread_mutex_unlock(&part->mu);
    if (here != NULL) {
        here->on_executor = false; /* it may have been there before: this thread must not wait */
        fetch_again(here);
    }
}

static void shard_wake(struct brk_parked_shard *shard, const struct sti_fetch *only)
{
    pthread_mutex_lock(&shard->mu);
    for (struct brk_fetch *f = shard->fetches; f != NULL; f = f->parked_next) {
        if (only != NULL && f->call != only) {
            continue;
        }
        if (only != NULL) {
            atomic_store(&f->cancelled, true);
        }
        if (fetch_claim(f)) {
            fetch_resume(f);
        }
    }
    pthread_mutex_unlock(&shard->mu);
}

void brk_fetch_wake_all(struct broker *broker)
{
    for (int i = 0; i < BRK_SHARDS; i++) {
        shard_wake(&broker->parked[i], NULL);
    }
}

void brk_fetch_cancel(void *self, struct sti_fetch *call)
{
    struct broker *broker = self;
    __atomic_store_n(&call->state[1], call, __ATOMIC_RELEASE);
    shard_wake(parked_shard(broker, call), call);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* The most bytes that the call is answered with, its first batch aside. At least 1. */
static uint64_t fetch_limit(const struct brk_fetch *f)
{
    uint64_t asked = f->call->max_bytes, most = (uint64_t)f->broker->conf->fetch_bytes_max;
    uint64_t limit = asked < most ? asked : most;
    limit = limit < f->quota_left ? limit : f->quota_left;
    return limit == 0 ? 1 : limit;
}

/* The call is answered, and waits for no opening any more. */
static void fetch_fail_opening(struct brk_fetch *f)
{
    for (uint32_t i = 0; i < f->row_count; i++) {
        struct brk_fetch_row *row = &f->rows[i];
        struct sti_err err;
        if (row->opening && row->row->status == STI_OK) {
            sti_err_set(&err, STI_E_UNAVAILABLE, "%s-%d is still being opened", row->part->topic,
                        row->part->index);
            row_fail(row, STI_E_UNAVAILABLE, &err);
        }
    }
}

/* Everything is read: answer, or wait for more. */
static void fetch_finish(struct brk_fetch *f)
{
    uint64_t min = f->call->min_bytes == 0 ? 1 : f->call->min_bytes, limit = fetch_limit(f);
    min = min < limit ? min : limit; /* more will never be there */
    bool serving = atomic_load(&f->broker->state) == BRK_SERVING;
    bool may_wait = f->may_wait || fetch_opening(f);
    if (fetch_cancelled(f)) {
        fetch_fail_cancelled(f);
    } else if (!f->failed && f->bytes < min && may_wait && serving &&
               sti_now_us(f->broker->host) < fetch_due(f)) {
        bool some = f->bytes > 0;
        sti_fetch_release(f->call);
        f->bytes = 0;
        fetch_park(f, some);
        return;
    }
    fetch_fail_opening(f);
    fetch_answer(f);
}

static void row_range(struct brk_fetch_row *row, int64_t log_start, int64_t end)
{
    struct sti_err err;
    sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE,
                "%s-%d: offset %lld lies outside the log, which holds %lld to %lld",
                row->part->topic, row->part->index, (long long)row->row->offset,
                (long long)log_start, (long long)end);
    row_fail(row, STI_E_OFFSET_OUT_OF_RANGE, &err);
    row->row->log_start = log_start;
}

/* Has the log begun anew since the caller read from it? Then its offset names another record now,
 * if any. @param start  where the partition's epoch began, -1: not known */
static bool row_is_of_old(struct brk_fetch_row *row, int64_t start)
{
    const struct sti_fetch_row *in = row->row;
    struct sti_err err;
    bool told = in->struct_size >= offsetof(struct sti_fetch_row, last_epoch) + sizeof(int32_t);
    if (!told || in->last_epoch < 0 || start < 0 || in->offset <= start ||
        in->last_epoch >= row->part->leader_epoch) {
        return false;
    }
    sti_err_set(&err, STI_E_OFFSET_OUT_OF_RANGE,
                "%s-%d: the log has begun anew at offset %lld with leader epoch %d; offset %lld "
                "of epoch %d is gone",
                row->part->topic, row->part->index, (long long)start, row->part->leader_epoch,
                (long long)in->offset, in->last_epoch);
    row_fail(row, STI_E_OFFSET_OUT_OF_RANGE, &err);
    return true;
}

/* Fill what a row says of its partition, and decide whether there is something to read.
 * @return true: `end` is where reading stops */
static bool row_prepare(struct brk_fetch_row *row, int64_t *end)
{
    struct brk_partition *part = row->part;
    struct sti_fetch_row *out = row->row;
    struct sti_err err;
    pthread_mutex_lock(&part->mu);
    int state = part->state;
    int64_t start = atomic_load(&part->log_start), high = atomic_load(&part->high_watermark);
    int64_t written = atomic_load(&part->written_end);
    bool readable = part->store != NULL;
    int64_t epoch_start = part->epoch_start;
    if (state == BRK_PART_CLOSED) {
        (void)brk_partition_closed(part, &err);
    } else {
        brk_partition_why(part, &err);
    }
    row->opening = state == BRK_PART_OPENING; /* until it is through, its ends are not all known */
    pthread_mutex_unlock(&part->mu);
    *end = high;
    out->current_leader_epoch = part->leader_epoch;
    if (state == BRK_PART_CLOSED) {
        row_fail(row, err.code, &err);
        return false;
    }
    if (row->opening) {
        brk_opening_touch(part);
        return false;
    }
    if (!readable) {
        row_fail(row, err.code, &err);
        return false;
    }
    out->high_watermark = high;
    out->last_stable = high;
    out->log_start = start;
    if (row_is_of_old(row, epoch_start)) {
        out->log_start = start;
        return false;
    }
    if (out->offset < start || out->offset > written) {
        row_range(row, start, high);
        return false;
    }
    return out->offset < high;
}

/* A trim that is under way has moved the start of the log, and the strand tells it only when the
 * files are gone: ask storage, so that whoever begins anew at the start is not sent back there.
 * A read is under way, which keeps `store` open. */
static void start_learn(struct brk_partition *part, struct sti_storage_partition *store)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    sti_storage_of(&part->storage)->state(store, &state);
    pthread_mutex_lock(&part->mu);
    if (state.log_start > atomic_load(&part->log_start)) {
        atomic_store(&part->log_start, state.log_start);
    }
    pthread_mutex_unlock(&part->mu);
}

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    struct brk_fetch *f = BRK_CONTAINER_OF(op, struct brk_fetch, read);
    struct brk_fetch_row *row = &f->rows[f->next_row];
    struct sti_err own;
    if (status == STI_E_OFFSET_OUT_OF_RANGE) {
        start_learn(row->part, f->store);
    }
    brk_partition_read_end(row->part);
    if (status == STI_OK && f->bytes > 0 && f->bytes + op->bytes > fetch_limit(f)) {
        /* A batch larger than what is left: only the first of the answer comes whole. */
        for (uint32_t i = 0; i < op->slice_count; i++) {
            sti_slice_release(&op->slices[i]);
        }
    } else if (status == STI_OK) {
        row->row->slice_count = op->slice_count;
        row->row->bytes = op->bytes;
        f->bytes += op->bytes;
    } else if (status == STI_E_OFFSET_OUT_OF_RANGE) {
        row_range(row, atomic_load(&row->part->log_start), op->end_offset);
    } else if (status != STI_E_WOULD_BLOCK) {
        if (err == NULL || err->msg[0] == '\0') {
            sti_err_set(&own, status, "%s-%d: offset %lld: %s", row->part->topic, row->part->index,
                        (long long)op->offset, sti_status_text(status));
            err = &own;
        }
        brk_metrics_trouble(row->part, BRK_CALL_FETCH, status, err);
        row_fail(row, status, err);
    }
    f->would_block = status == STI_E_WOULD_BLOCK;
    f->next_row += f->would_block ? 0 : 1;
    /* Whoever comes second goes on: the loop that started the read, or this completion. */
    if (atomic_exchange(&f->read_step, 1) == 1) {
        read_rows(f);
    }
}

/* Start the read of row next_row. @return false: it was answered without a read */
static bool read_start(struct brk_fetch *f, uint32_t flags)
{
    struct brk_fetch_row *row = &f->rows[f->next_row];
    struct sti_fetch_row *out = row->row;
    uint64_t limit = fetch_limit(f);
    int64_t end;
    if (out->status != STI_OK || !row_prepare(row, &end)) {
        return false;
    }
    uint64_t left = f->bytes < limit ? limit - f->bytes : 0;
    if (f->bytes > 0 && left == 0) {
        return false;
    }
    struct sti_storage_partition *store = brk_partition_read_begin(row->part);
    if (store == NULL) {
        return false; /* closed a moment ago: an empty answer is true enough */
    }
    f->store = store;
    f->read = (struct sti_storage_read){.struct_size = sizeof f->read,
                                        .flags = flags,
                                        .offset = out->offset,
                                        .end_offset = end,
                                        .max_bytes = out->max_bytes < left ? out->max_bytes : left,
                                        .slices = out->slices,
                                        .slice_max = STI_FETCH_SLICES_MAX,
                                        .done = read_done};
    int rc = sti_storage_of(&row->part->storage)->read(store, &f->read);
    if (rc != STI_OK) {
        read_done(&f->read, rc, NULL);
    }
    return true;
}

/* Read the rows that are left, on a transport's thread without waiting, else on the executor. */
static void read_rows(struct brk_fetch *f)
{
    uint32_t memory = (f->call->flags & STI_FETCH_MEMORY) != 0 ? STI_READ_MEMORY : 0u;
    while (f->next_row < f->row_count) {
        if (f->would_block && !f->on_executor) {
            fetch_resume(f);
            return;
        }
        f->would_block = false;
        atomic_store(&f->read_step, 0);
        if (!read_start(f, memory | (f->on_executor ? 0u : STI_READ_NO_WAIT))) {
            f->next_row++;
        } else if (atomic_exchange(&f->read_step, 1) == 0) {
            return; /* the completion goes on */
        }
    }
    fetch_finish(f);
}

/* Read all rows, from the first one on. */
static void read_begin(struct brk_fetch *f)
{
    struct quota *quota = &f->broker->quota;
    f->next_row = 0;
    f->quota_left = UINT64_MAX;
    if (quota_active(quota, QUOTA_FETCH_BYTES)) {
        f->quota_left =
            quota_left(quota, f->call->request, QUOTA_FETCH_BYTES, sti_now_us(f->broker->host));
    }
    read_rows(f);
}

/* A parked call that was claimed begins anew, one that would have waited goes on. */
static void fetch_again(struct brk_fetch *f)
{
    if (f->parked) {
        uint64_t now = sti_now_us(f->broker->host);
        f->parked = false;
        f->times.wait_us += now - f->times.mark_us;
        f->times.mark_us = now;
        for (uint32_t i = 0; i < f->row_count; i++) {
            row_unlink(&f->rows[i]);
        }
        parked_unlink(f);
        read_begin(f);
    } else {
        read_rows(f);
    }
}

static void fetch_task_run(struct sti_task *task)
{
    struct brk_fetch *f = BRK_CONTAINER_OF(task, struct brk_fetch, task);
    f->on_executor = true;
    fetch_again(f);
}

/* ---- the call ------------------------------------------------------------------------------ */

static void row_clear(struct sti_fetch_row *row)
{
    row->status = STI_OK;
    row->current_leader_epoch = -1;
    row->leader_hint = -1;
    row->slice_count = 0;
    row->high_watermark = -1;
    row->last_stable = -1;
    row->log_start = -1;
    row->bytes = 0;
    sti_err_clear(&row->err);
    row_retry_after(row, 0);
}

static int row_check_epoch(const struct brk_fetch_row *row, struct sti_err *err)
{
    int32_t known = row->row->leader_epoch, current = row->part->leader_epoch;
    if (known < 0 || known == current) {
        return STI_OK;
    }
    return sti_err_set(err, known < current ? STI_E_STALE_EPOCH : STI_E_UNKNOWN_EPOCH,
                       "%s-%d: the caller knows leader epoch %d, the current one is %d",
                       row->part->topic, row->part->index, known, current);
}

static void row_open(struct brk_fetch *f, struct brk_fetch_row *row)
{
    struct broker *broker = f->broker;
    struct sti_fetch_row *in = row->row;
    struct sti_err err;
    row_clear(in);
    int rc = brk_authorize(broker, f->call->request, STI_OP_READ, in->topic, &err);
    if (rc == STI_OK) {
        rc = brk_lookup(broker, in->topic, in->topic_id, in->partition, &row->part, &err);
    }
    if (rc == STI_OK) {
        rc = row_check_epoch(row, &err);
    }
    if (rc != STI_OK) {
        row_fail(row, rc, &err);
    }
}

/* Answer every row alike, without an object. */
static void fetch_put_off(struct broker *broker, struct sti_fetch *call, const char *why,
                          uint32_t retry_after_ms)
{
    for (uint32_t i = 0; i < call->row_count; i++) {
        struct sti_fetch_row *row = call->rows[i];
        row_clear(row);
        row->status = sti_err_set(&row->err, STI_E_THROTTLED, "%.80s-%d: %s", row->topic,
                                  row->partition, why);
        row_retry_after(row, retry_after_ms);
        brk_metrics_failed(broker, BRK_CALL_FETCH, row->status);
    }
    call->done(call);
}

static int fetch_room_enter(struct broker *broker, const struct sti_fetch *call,
                            uint32_t *retry_after_ms, struct sti_err *err)
{
    enum brk_room_verdict verdict =
        brk_room_enter(broker, &broker->fetch_room, call->request, call->row_count);
    *retry_after_ms = verdict == BRK_ROOM_TAKEN ? 0 : BRK_RETRY_AFTER_MS;
    return verdict == BRK_ROOM_TAKEN ? STI_OK
           : verdict == BRK_ROOM_FULL
               ? sti_err_set(err, STI_E_THROTTLED,
                             "the node has as many partitions to fetch as fetch_partitions_max "
                             "allows")
               : sti_err_set(err, STI_E_THROTTLED,
                             "the connection has its share of fetch_partitions_max under way");
}

/* What a call must pass before it is looked at; it then has room. @return STI_E_THROTTLED: its rows
 * say so */
static int fetch_enter(struct broker *broker, const struct sti_fetch *call, uint64_t now_us,
                       uint32_t *retry_after_ms, struct sti_err *err)
{
    struct quota_refusal refusal;
    if (call->row_count == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "fetch: no partitions");
    }
    int rc = brk_enter(broker, call->request, now_us, retry_after_ms, err);
    if (rc == STI_OK && quota_active(&broker->quota, QUOTA_FETCH_BYTES) &&
        !quota_take(&broker->quota, call->request, QUOTA_FETCH_BYTES, 0, now_us, &refusal)) {
        *retry_after_ms = refusal.retry_after_ms;
        rc = brk_quota_refused(broker, call->request, &refusal, err);
    }
    return rc != STI_OK ? rc : fetch_room_enter(broker, call, retry_after_ms, err);
}

static struct brk_fetch *fetch_new(struct broker *broker, struct sti_fetch *call, uint64_t now_us)
{
    const struct brk_conf *conf = broker->conf;
    struct brk_fetch *f = calloc(1, sizeof *f + call->row_count * sizeof(struct brk_fetch_row));
    if (f == NULL) {
        return NULL;
    }
    uint64_t wait_ms = call->max_wait_ms < (uint64_t)conf->fetch_wait_max_ms
                           ? call->max_wait_ms
                           : (uint64_t)conf->fetch_wait_max_ms;
    uint64_t deadline = brk_deadline_us(call->request);
    atomic_init(&f->refs, 1);
    f->broker = broker;
    f->call = call;
    f->row_count = call->row_count;
    f->task.run = fetch_task_run;
    f->wait.expire = time_is_up;
    f->started_us = now_us;
    f->times.mark_us = now_us;
    f->due_us = now_us + wait_ms * 1000u;
    f->due_us = f->due_us < deadline ? f->due_us : deadline;
    f->open_due_us = now_us + (uint64_t)conf->opening_wait_max_ms * 1000u;
    f->open_due_us = f->open_due_us < deadline ? f->open_due_us : deadline;
    f->may_wait = wait_ms > 0;
    return f;
}

int brk_fetch(void *self, struct sti_fetch *call, struct sti_err *err)
{
    struct broker *broker = self;
    uint64_t now = sti_now_us(broker->host);
    uint32_t retry_after_ms = 0;
    struct sti_err own;
    err = err == NULL ? &own : err;
    int rc = fetch_enter(broker, call, now, &retry_after_ms, err);
    if (rc == STI_E_THROTTLED) {
        fetch_put_off(broker, call, err->msg, retry_after_ms);
        return STI_OK;
    }
    if (rc != STI_OK) {
        return rc;
    }
    struct brk_fetch *f = fetch_new(broker, call, now);
    if (f == NULL) {
        brk_room_leave(&broker->fetch_room, call->request, call->row_count);
        return sti_err_set(err, STI_E_NO_MEMORY, "fetch: out of memory");
    }
    sti_metric_add(broker->metrics.fetch_requests, 1);
    for (uint32_t i = 0; i < call->row_count; i++) {
        f->rows[i].fetch = f;
        f->rows[i].row = call->rows[i];
        row_open(f, &f->rows[i]);
    }
    read_begin(f);
    return STI_OK;
}
