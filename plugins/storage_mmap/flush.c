/* flush.c -- moving the synced end: one sync at a time, for everything that was written by then.
 *
 * Whoever wants bytes synced raises `sync_want` and posts the partition's one sync job unless it is
 * posted or running. The job syncs, in order, every segment that holds unsynced bytes below the
 * want as it stands when it begins, publishes the new synced end, answers those that waited, and
 * goes round while more is wanted: what arrives during a sync shares the next one. That is group
 * commit. By policy:
 *
 *     commit    every append raises the want to the written end; when no sync is under way and
 *               nobody waits, it then does the job's first round on its own thread
 *     interval  an append arms a timer unless it is armed; the timer raises the want
 *     onroll    a roll raises the want to the base of the new segment
 *
 * A sync that fails poisons the partition and is never tried again: the kernel may have dropped the
 * pages and forgotten the error. The recovery point follows the synced end by whole segments.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum {
    ROUNDS_MAX = 16,  /* of one job before others get the thread */
    RETRY_US = 100000 /* after a sync for which there was no descriptor or memory */
};

/* Raise the want and see that a job runs. @locks part->mu held */
static void want_locked(struct sti_storage_partition *part, int64_t want)
{
    if (want > part->written_end) {
        want = part->written_end;
    }
    if (want > part->sync_want) {
        part->sync_want = want;
    }
    if ((part->sync_want > part->synced_end || part->waiters != NULL) && !part->sync_hold &&
        part->sync_job != NULL && atomic_load(&part->sync_job->state) == SMM_JOB_IDLE) {
        smm_job_post(part->sync_job);
    }
}

void smm_flush_want(struct sti_storage_partition *part, int64_t want)
{
    pthread_mutex_lock(&part->mu);
    if (!part->poisoned) {
        want_locked(part, want);
    }
    pthread_mutex_unlock(&part->mu);
}

/* After an append was published.
 * @param claim  the caller may sync by itself, with smm_flush_claimed
 * @return true: it shall, for nobody else is at it or waits. @locks part->mu held */
bool smm_flush_appended(struct sti_storage_partition *part, bool claim)
{
    if (part->settings.flush_policy == STI_FLUSH_COMMIT && claim && !part->sync_hold &&
        part->waiters == NULL && atomic_load(&part->sync_job->state) == SMM_JOB_IDLE) {
        part->sync_want = part->written_end;
        atomic_store(&part->sync_job->state, SMM_JOB_RUNNING);
        return true;
    }
    if (part->settings.flush_policy == STI_FLUSH_COMMIT) {
        want_locked(part, part->written_end);
    } else if (part->settings.flush_policy == STI_FLUSH_INTERVAL && !part->sync_hold &&
               atomic_load(&part->tick_job->state) == SMM_JOB_IDLE) {
        smm_job_arm(part->tick_job, sti_now_us(part->store->host) +
                                        (uint64_t)part->settings.flush_interval_ms * 1000u);
    }
    return false;
}

/* What a crash has left unsynced is synced as the policy has it, also if nothing is appended. */
void smm_flush_opened(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    if (!part->damaged && part->synced_end < part->written_end) {
        want_locked(part, smm_segment_active(part)->base_offset);
        if (part->settings.flush_policy != STI_FLUSH_ONROLL) {
            (void)smm_flush_appended(part, false);
        }
    }
    pthread_mutex_unlock(&part->mu);
}

/* The timer of the interval policy. */
void smm_flush_tick(struct smm_job *job)
{
    struct sti_storage_partition *part = job->part;
    pthread_mutex_lock(&part->mu);
    atomic_store(&job->state, SMM_JOB_IDLE);
    if (!part->poisoned) {
        want_locked(part, part->written_end);
    }
    pthread_cond_broadcast(&part->changed);
    pthread_mutex_unlock(&part->mu);
}

/* ---- syncing ------------------------------------------------------------------------------- */

struct target {
    int64_t base_offset, end_offset;
    uint64_t serial;
    uint32_t size;
};

/* The first segment with unsynced bytes. Everything below the synced end is synced, so the search
 * begins there; it must find the *first*, for what lies before its end counts as synced with it.
 * @param out  out->end_offset is set also without a target: everything below it is synced
 * @return false: there is none that begins below `want`
 * @locks part->mu held: sizes and ends are of one moment, whatever is appended next */
static bool next_target(const struct sti_storage_partition *part, int64_t want, struct target *out)
{
    uint32_t i = smm_segment_find(part, part->synced_end);
    while (i < part->seg_count && part->segs[i]->synced_size >= part->segs[i]->size) {
        i++;
    }
    if (i == part->seg_count || part->segs[i]->base_offset >= want) {
        out->end_offset = i == part->seg_count ? part->written_end : part->segs[i]->base_offset;
        return false;
    }
    const struct smm_segment *seg = part->segs[i];
    *out = (struct target){.base_offset = seg->base_offset,
                           .end_offset = i + 1 < part->seg_count ? part->segs[i + 1]->base_offset
                                                                 : part->written_end,
                           .serial = seg->serial,
                           .size = seg->size};
    if (out->end_offset > part->written_end) {
        out->end_offset = part->written_end;
    }
    return true;
}

static int sync_fd(struct sti_storage_partition *part, int fd)
{
    uint64_t begin = sti_now_us(part->store->host);
    int rc = STI_FAULT("flush.before_sync");
    if (rc == 0 && fdatasync(fd) != 0) {
        rc = errno;
    }
    STI_CRASH_POINT("flush.after_sync");
    sti_histogram_record(part->store->metrics.sync_us, sti_now_us(part->store->host) - begin);
    sti_metric_add(rc == 0 ? part->store->metrics.syncs : part->store->metrics.sync_errors, 1);
    return rc;
}

static int sync_segment(struct sti_storage_partition *part, const struct target *target,
                        struct sti_err *err)
{
    struct smm_file *file;
    int rc = smm_file_acquire(part, target->base_offset, target->serial, &file, err);
    if (rc == STI_E_NOT_FOUND) {
        return STI_OK; /* retention was faster */
    }
    if (rc != STI_OK) {
        return rc;
    }
    atomic_store(&file->dirty, false); /* an append meanwhile sets it again */
    rc = sync_fd(part, file->log_fd);
    smm_file_unref(file);
    if (rc != 0) {
        return sti_err_set(err, STI_E_IO, "%s: sync of segment %020lld failed: %s", part->name,
                           (long long)target->base_offset, strerror(rc));
    }
    pthread_mutex_lock(&part->mu);
    uint32_t i = smm_segment_find(part, target->base_offset);
    if (part->segs[i]->serial == target->serial && part->segs[i]->synced_size < target->size) {
        part->segs[i]->synced_size = target->size;
    }
    pthread_mutex_unlock(&part->mu);
    return STI_OK;
}

/* Names of new segments must survive before what is in them counts. */
static int sync_folder(struct sti_storage_partition *part, struct sti_err *err)
{
    pthread_mutex_lock(&part->mu);
    bool dirty = part->dir_dirty;
    part->dir_dirty = false;
    pthread_mutex_unlock(&part->mu);
    int rc = dirty ? STI_FAULT("flush.before_dir_sync") : 0;
    if (dirty && rc == 0) {
        rc = smm_part_dir_sync(part);
    }
    if (rc == 0) {
        return STI_OK;
    }
    if (rc == EMFILE || rc == ENFILE) { /* nothing was tried: it could not be opened */
        pthread_mutex_lock(&part->mu);
        part->dir_dirty = true;
        pthread_mutex_unlock(&part->mu);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "%s: open the folder: %s", part->name,
                           strerror(rc));
    }
    return sti_err_set(err, STI_E_IO, "%s: sync of the folder failed: %s", part->name,
                       strerror(rc));
}

/* Sync what is written below `want` and publish the synced end.
 * @return STI_OK; STI_E_IO, STI_E_DATA_LOSS (the caller poisons); STI_E_RESOURCE_EXHAUSTED,
 * STI_E_NO_MEMORY (nothing has failed that was tried: it may be tried again)
 * @thread the sync job, or close and truncate while they hold it off */
int smm_flush_now(struct sti_storage_partition *part, int64_t want, struct sti_err *err)
{
    struct target target;
    int rc = STI_OK;
    bool more;
    do {
        pthread_mutex_lock(&part->mu);
        more = next_target(part, want, &target);
        pthread_mutex_unlock(&part->mu);
        if (more) {
            rc = sync_segment(part, &target, err);
        }
    } while (more && rc == STI_OK && target.end_offset < want);
    if (rc == STI_OK) {
        rc = sync_folder(part, err);
    }
    if (rc == STI_OK && STI_FAULT("flush.before_publish") != 0) {
        rc = sti_err_set(err, STI_E_IO, "%s: fault", part->name);
    }
    pthread_mutex_lock(&part->mu);
    if (rc == STI_OK && !part->poisoned && target.end_offset > part->synced_end) {
        part->synced_end = target.end_offset;
    }
    pthread_mutex_unlock(&part->mu);
    return rc;
}

/* The recovery point follows by whole segments, so that a scan after a crash begins at one. */
static void advance_recovery_point(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    int64_t point = part->segs[smm_segment_find(part, part->synced_end)]->base_offset;
    bool due = point > part->recovery_point && !part->damaged && !part->poisoned;
    pthread_mutex_unlock(&part->mu);
    if (due) {
        struct sti_recovery_point checkpoint = {.recovery_point = point};
        pthread_mutex_lock(&part->side_mu);
        int rc = STI_FAULT("flush.before_recovery_point");
        if (rc == 0) {
            rc = smm_checkpoint_write(part, &checkpoint, true);
        }
        STI_CRASH_POINT("flush.after_recovery_point");
        pthread_mutex_unlock(&part->side_mu);
        if (rc != 0) {
            sti_log(part->store->host, STI_LOG_WARN, "recovery_point_not_written",
                    "a crash would make recovery read more", STI_F_STR("partition", part->name),
                    STI_F_STR("error", strerror(rc)));
        }
    }
}

/* ---- those that wait ----------------------------------------------------------------------- */

void smm_flush_answer(struct smm_waiter *waiters, int status, int64_t synced_end,
                      const struct sti_err *err)
{
    while (waiters != NULL) {
        struct smm_waiter *next = waiters->next;
        waiters->op->synced_end = synced_end;
        waiters->op->done(waiters->op, status, status == STI_OK ? NULL : err);
        free(waiters);
        waiters = next;
    }
}

/* With the policy commit: keep what is written and not synced within one group, so that recovery
 * can tell an unfinished group from damage. Syncs on the spot when `more` bytes would pass it.
 * @return STI_OK; STI_E_IO (the caller poisons, then calls smm_flush_resume: a job that ran before
 * would try the sync again, and succeed); STI_E_RESOURCE_EXHAUSTED, STI_E_NO_MEMORY (nothing has
 * changed)
 * @thread the writer's, before it writes; no lock is held */
int smm_flush_group(struct sti_storage_partition *part, uint64_t more, struct sti_err *err)
{
    uint64_t unsynced = 0, most = (uint64_t)part->store->conf->flush_group_bytes_max;
    pthread_mutex_lock(&part->mu);
    bool applies = part->settings.flush_policy == STI_FLUSH_COMMIT && !part->poisoned;
    for (uint32_t i = smm_segment_find(part, part->synced_end); applies && i < part->seg_count;
         i++) {
        const struct smm_segment *seg = part->segs[i];
        /* The name of a segment behind the synced end may not have been synced yet. */
        unsynced += seg->size - (seg->base_offset > part->synced_end ? 0 : seg->synced_size);
    }
    int64_t before = part->synced_end;
    pthread_mutex_unlock(&part->mu);
    if (!applies || unsynced == 0 || unsynced + more <= most) {
        return STI_OK;
    }
    smm_flush_hold(part);
    int rc = smm_flush_now(part, INT64_MAX, err);
    pthread_mutex_lock(&part->mu);
    int64_t end = part->synced_end;
    pthread_mutex_unlock(&part->mu);
    if (rc == STI_OK && end > before) {
        if (part->events != NULL && part->events->synced != NULL) {
            part->events->synced(part->events_ctx, end); /* no job runs that could */
        }
        advance_recovery_point(part);
    }
    if (rc != STI_OK && rc != STI_E_RESOURCE_EXHAUSTED && rc != STI_E_NO_MEMORY) {
        return sti_err_wrap(err, STI_E_IO, "before an append");
    }
    smm_flush_resume(part);
    return rc;
}

int smm_sync(struct sti_storage_partition *part, struct sti_storage_sync *op)
{
    struct smm_waiter *waiter = malloc(sizeof *waiter);
    if (waiter == NULL) {
        return STI_E_NO_MEMORY;
    }
    pthread_mutex_lock(&part->mu);
    bool poisoned = part->poisoned;
    bool synced = part->synced_end >= part->written_end;
    int64_t end = part->synced_end;
    if (!poisoned && !synced) {
        waiter->op = op;
        waiter->want = part->written_end;
        waiter->next = part->waiters;
        part->waiters = waiter;
        want_locked(part, part->written_end);
    }
    pthread_mutex_unlock(&part->mu);
    if (poisoned || synced) {
        free(waiter);
    }
    if (poisoned) {
        return STI_E_POISONED;
    }
    if (synced) {
        op->synced_end = end;
        op->done(op, STI_OK, NULL);
    }
    return STI_OK;
}

/* ---- the job ------------------------------------------------------------------------------- */

/* There was no descriptor or memory to begin with: those who wait go on waiting, for a try a little
 * later. A sync that was tried and failed never comes here.
 * @param waiters  go back on the list */
static void try_later(struct sti_storage_partition *part, struct smm_waiter *waiters,
                      const struct sti_err *err)
{
    sti_log(part->store->host, STI_LOG_WARN, "sync_put_off", err->msg,
            STI_F_STR("partition", part->name));
    pthread_mutex_lock(&part->mu);
    while (waiters != NULL) {
        struct smm_waiter *next = waiters->next;
        waiters->next = part->waiters;
        part->waiters = waiters;
        waiters = next;
    }
    if (!part->sync_hold && atomic_load(&part->tick_job->state) == SMM_JOB_IDLE) {
        smm_job_arm(part->tick_job, sti_now_us(part->store->host) + RETRY_US);
    }
    pthread_mutex_unlock(&part->mu);
}

/* One sync and its news.
 * @return STI_OK; STI_E_RESOURCE_EXHAUSTED (put off); anything else: the partition is poisoned */
static int run_round(struct sti_storage_partition *part, int64_t want, struct smm_waiter *waiters)
{
    struct sti_err err = {0};
    pthread_mutex_lock(&part->mu);
    int64_t before = part->synced_end;
    bool poisoned = part->poisoned;
    pthread_mutex_unlock(&part->mu);
    int rc = poisoned ? sti_err_set(&err, STI_E_POISONED, "%s: poisoned", part->name)
                      : smm_flush_now(part, want, &err);
    if (rc == STI_E_RESOURCE_EXHAUSTED || rc == STI_E_NO_MEMORY) {
        try_later(part, waiters, &err);
        return STI_E_RESOURCE_EXHAUSTED;
    }
    if (rc != STI_OK && !poisoned) {
        smm_poison(part, &err);
    }
    pthread_mutex_lock(&part->mu);
    int64_t end = part->synced_end;
    pthread_mutex_unlock(&part->mu);
    if (rc == STI_OK && end > before) {
        if (part->events != NULL && part->events->synced != NULL) {
            part->events->synced(part->events_ctx, end);
        }
        advance_recovery_point(part);
    }
    smm_flush_answer(waiters, rc, end, &err);
    return rc;
}

/* Sync while more is wanted, for so many rounds; then the job goes on by itself.
 * @locks none; the job is RUNNING, on this thread */
static void run_rounds(struct sti_storage_partition *part, int rounds_max)
{
    struct smm_job *job = part->sync_job;
    int rc = STI_OK;
    pthread_mutex_lock(&part->mu);
    for (int round = 0;; round++) {
        bool wanted = part->sync_want > part->synced_end || part->waiters != NULL;
        if (part->sync_hold || !wanted || rc == STI_E_RESOURCE_EXHAUSTED) {
            atomic_store(&job->state, SMM_JOB_IDLE);
            break;
        }
        if (round == rounds_max) {
            smm_job_post(job);
            break;
        }
        int64_t want = part->sync_want;
        struct smm_waiter *waiters = part->waiters;
        part->waiters = NULL;
        pthread_mutex_unlock(&part->mu);
        rc = run_round(part, want, waiters);
        pthread_mutex_lock(&part->mu);
        if (rc != STI_OK && rc != STI_E_RESOURCE_EXHAUSTED) {
            part->sync_want = part->synced_end;
        }
    }
    pthread_cond_broadcast(&part->changed);
    pthread_mutex_unlock(&part->mu);
}

void smm_flush_run(struct smm_job *job)
{
    run_rounds(job->part, ROUNDS_MAX);
}

/* What smm_flush_appended gave to the writer: one sync on its own thread. Handing it to another
 * costs a wake-up, a quarter of what a quick disk takes for the sync; and what arrives meanwhile
 * waits for the strand instead of the job, and shares the next sync in the same way.
 * @thread strand    @locks none */
void smm_flush_claimed(struct sti_storage_partition *part)
{
    run_rounds(part, 1);
}

/* Let no sync begin, and wait for one that is under way; its thread is at work, so this ends. */
void smm_flush_hold(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    part->sync_hold = true;
    while (atomic_load(&part->sync_job->state) == SMM_JOB_RUNNING) {
        pthread_cond_wait(&part->changed, &part->mu);
    }
    pthread_mutex_unlock(&part->mu);
}

void smm_flush_resume(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    part->sync_hold = false;
    if (part->sync_want > part->written_end) {
        part->sync_want = part->written_end;
    }
    want_locked(part, part->sync_want);
    if (part->synced_end < part->written_end) {
        (void)smm_flush_appended(part, false);
    }
    pthread_mutex_unlock(&part->mu);
}

/* Let go of a job for good. @locks part->mu held, released while it waits */
static void let_go(struct sti_storage_partition *part, struct smm_job **job)
{
    for (;;) {
        int expected = SMM_JOB_POSTED;
        if (atomic_load(&(*job)->state) == SMM_JOB_IDLE) {
            free(*job);
            break;
        }
        if (atomic_compare_exchange_strong(&(*job)->state, &expected, SMM_JOB_ABANDONED)) {
            break; /* it frees itself */
        }
        pthread_cond_wait(&part->changed, &part->mu);
    }
    *job = NULL;
}

/* End all flushing of a partition that is closed; the close syncs by itself.
 * @return those that still wait for a sync */
struct smm_waiter *smm_flush_detach(struct sti_storage_partition *part)
{
    pthread_mutex_lock(&part->mu);
    part->sync_hold = true;
    (void)smm_job_cancel(part->tick_job);
    let_go(part, &part->tick_job);
    let_go(part, &part->sync_job);
    part->closing = true;
    if (part->doubt_job != NULL) {
        let_go(part, &part->doubt_job);
    }
    struct smm_waiter *waiters = part->waiters;
    part->waiters = NULL;
    pthread_mutex_unlock(&part->mu);
    return waiters;
}
