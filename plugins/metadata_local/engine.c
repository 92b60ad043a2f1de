/* engine.c -- see engine.h. */
#include "engine.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "store.h"
#include "streamit/fault.h"

/* The only voter is the leader of the only term that there is. */
#define LOCAL_TERM 1u

enum engine_state {
    ENGINE_NEW,     /* never opened */
    ENGINE_OPEN,    /* takes proposals */
    ENGINE_BROKEN,  /* refuses them until a restart */
    ENGINE_CLOSING, /* finishes those that it has */
    ENGINE_CLOSED
};

struct engine_metrics {
    struct sti_metric *commands, *syncs, *sync_failures, *refused, *snapshots, *snapshot_failures;
    struct sti_metric *log_bytes, *index, *tail_bytes, *snapshots_damaged;
    struct sti_histogram *commit_us;
};

struct mdl_engine {
    const struct sti_host *host;
    struct mdl_conf conf;
    struct engine_metrics metrics;
    struct sti_strand strand;
    struct sti_task commit_task, last_task;

    pthread_mutex_t mu;
    pthread_cond_t idle; /* the commit task has ended, or the strand has */
    enum engine_state state;
    bool scheduled;   /* the commit task is posted or runs */
    bool strand_gone; /* its last task has run */
    struct sti_proposal **ring;
    size_t ring_first, ring_count;
    struct sti_err cause; /* why it is broken */

    /* The strand's. */
    struct mdl_store store;
    const struct sti_metadata_fsm *fsm;
    void *fsm_ctx;
    struct sti_proposal *group[MDL_GROUP_COUNT_MAX];
    struct mdl_command commands[MDL_GROUP_COUNT_MAX];
    uint64_t snapshot_retry_pos; /* after a failed snapshot: not before the log is this long */
    bool broken;
    bool disk_low; /* as last reported */
};

static void commit_run(struct sti_task *task);
static void last_run(struct sti_task *task);

static void metrics_init(struct mdl_engine *engine)
{
    const struct sti_host *host = engine->host;
    struct engine_metrics *m = &engine->metrics;
    m->commands = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_commands_total",
                               NULL, "Cluster commands committed.");
    m->syncs = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_syncs_total", NULL,
                            "Syncs of the command log; one may commit several commands.");
    m->sync_failures =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_sync_failures_total", NULL,
                     "Times that the command log could not be made durable.");
    m->refused = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_refused_total",
                              NULL, "Cluster commands refused or failed.");
    m->snapshots = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_snapshots_total",
                                NULL, "Snapshots of the cluster state that were stored.");
    m->snapshot_failures =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_snapshot_failures_total",
                     NULL, "Snapshots of the cluster state that failed.");
    m->snapshots_damaged =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_snapshots_damaged_total",
                     NULL, "Damaged snapshots that a start passed over");
    m->log_bytes = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_metadata_log_bytes", NULL,
                                "Length of the present command log.");
    m->index = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_metadata_index", NULL,
                            "Index of the last cluster command.");
    m->tail_bytes =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_metadata_tail_cut_bytes_total", NULL,
                     "Bytes of unfinished frames cut from the command log at start.");
    m->commit_us = host->histogram(host->ctx, "streamit_metadata_commit_seconds", NULL,
                                   "Time to write and sync one group of cluster commands.");
}

int mdl_engine_new(struct mdl_engine **out, const struct sti_host *host,
                   const struct mdl_conf *conf, struct sti_err *err)
{
    struct mdl_engine *engine = calloc(1, sizeof *engine);
    *out = NULL;
    if (engine != NULL) {
        engine->ring = calloc((size_t)conf->proposals_max, sizeof(struct sti_proposal *));
    }
    if (engine == NULL || engine->ring == NULL) {
        free(engine);
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory to create it", host->instance);
    }
    engine->host = host;
    engine->conf = *conf;
    engine->commit_task.run = commit_run;
    engine->last_task.run = last_run;
    engine->store.dir_fd = -1;
    engine->store.log.fd = -1;
    (void)pthread_mutex_init(&engine->mu, NULL);
    (void)pthread_cond_init(&engine->idle, NULL);
    metrics_init(engine);
    *out = engine;
    return STI_OK;
}

void mdl_engine_free(struct mdl_engine *engine)
{
    (void)pthread_cond_destroy(&engine->idle);
    (void)pthread_mutex_destroy(&engine->mu);
    free(engine->ring);
    free(engine);
}

static void report_log(struct mdl_engine *engine)
{
    const struct sti_host *host = engine->host;
    bool low = engine->store.log.low;
    sti_metric_set(engine->metrics.log_bytes, engine->store.log.pos);
    sti_metric_set(engine->metrics.index, engine->store.log.end_index);
    if (low != engine->disk_low) {
        engine->disk_low = low;
        host->health(host->ctx, "disk", low ? STI_HEALTH_DEGRADED : STI_HEALTH_OK,
                     low ? "the disk is full: only cluster commands that free space are taken, in "
                           "space that is reserved for them"
                         : "");
    }
}

/* Refuse everything from now on. `err` says why. */
static void engine_break(struct mdl_engine *engine, const struct sti_err *err)
{
    const struct sti_host *host = engine->host;
    engine->broken = true;
    pthread_mutex_lock(&engine->mu);
    engine->cause = *err;
    if (engine->state == ENGINE_OPEN) {
        engine->state = ENGINE_BROKEN;
    }
    pthread_mutex_unlock(&engine->mu);
    sti_metric_add(engine->metrics.sync_failures, 1);
    host->health(host->ctx, "metadata", STI_HEALTH_NOT_READY, err->msg);
    sti_log(host, STI_LOG_ERROR, "metadata_broken",
            "the command log could not be made durable; no cluster command is taken until a "
            "restart has read it again",
            STI_F_STR("cause", err->msg));
}

/* Store a snapshot when the log has grown past its limits, or at once when `now`. The limit in
 * bytes follows the size of the state, so that snapshots stay cheap beside what they replace. */
static void engine_snapshot(struct mdl_engine *engine, bool now)
{
    const struct sti_host *host = engine->host;
    struct mdl_store *store = &engine->store;
    uint64_t bytes_max = (uint64_t)engine->conf.snapshot_log_bytes;
    struct sti_err err;
    bool uncertain;
    if (bytes_max < store->snapshot_len) {
        bytes_max = store->snapshot_len;
    }
    bool grown = store->log.pos > bytes_max || store->log.end_index - store->log.base >=
                                                   (uint64_t)engine->conf.snapshot_log_commands;
    if (!now && (!grown || store->log.pos < engine->snapshot_retry_pos)) {
        return;
    }
    sti_err_clear(&err);
    int rc = mdl_store_snapshot(store, &uncertain, &err);
    engine->snapshot_retry_pos = 0;
    if (rc == STI_OK) {
        sti_metric_add(engine->metrics.snapshots, 1);
        sti_log(host, STI_LOG_DEBUG, "metadata_snapshot", "a snapshot of the cluster is stored",
                STI_F_UINT("index", store->snapshot_index),
                STI_F_UINT("bytes", store->snapshot_len));
        return;
    }
    sti_metric_add(engine->metrics.snapshot_failures, 1);
    engine->snapshot_retry_pos = store->log.pos + (uint64_t)engine->conf.snapshot_log_bytes / 4;
    sti_log(host, STI_LOG_WARN, "metadata_snapshot_failed",
            "no snapshot of the cluster could be stored; the command log goes on",
            STI_F_STR("code", sti_status_name(rc)), STI_F_STR("cause", err.msg));
    if (uncertain) {
        engine_break(engine, &err);
    }
}

static void report_recovery(struct mdl_engine *engine)
{
    const struct sti_host *host = engine->host;
    const struct mdl_recovery *recovery = &engine->store.recovery;
    if (recovery->snapshots_damaged > 0) {
        sti_metric_add(engine->metrics.snapshots_damaged, recovery->snapshots_damaged);
        sti_log(host, STI_LOG_WARN, "metadata_snapshot_damaged",
                "a damaged snapshot was passed over; an older one and the logs behind it gave the "
                "same state",
                STI_F_STR("cause", recovery->damage.msg));
    }
    if (recovery->cut_bytes > 0) {
        sti_metric_add(engine->metrics.tail_bytes, recovery->cut_bytes);
        sti_log(host, STI_LOG_WARN, "metadata_tail_cut",
                "an unfinished frame was cut from the end of the command log",
                STI_F_UINT("bytes", recovery->cut_bytes),
                STI_F_UINT("index", engine->store.log.end_index));
    }
    sti_log(host, STI_LOG_INFO, "metadata_open", "the cluster state is restored",
            STI_F_UINT("snapshot_index", recovery->snapshot_index),
            STI_F_UINT("commands_replayed", recovery->commands),
            STI_F_UINT("index", engine->store.log.end_index));
}

int mdl_engine_open(struct mdl_engine *engine, const struct sti_metadata_fsm *fsm, void *fsm_ctx,
                    struct sti_err *err)
{
    const struct sti_host *host = engine->host;
    pthread_mutex_lock(&engine->mu);
    bool again = engine->state != ENGINE_NEW;
    pthread_mutex_unlock(&engine->mu);
    if (again) {
        return sti_err_set(err, STI_E_PRECONDITION, "%s: it was opened before", host->instance);
    }
    struct sti_err local;
    sti_err_clear(&local);
    int rc = mdl_store_open(&engine->store, host->node->data_dir, host->instance,
                            (uint64_t)engine->conf.log_reserve_bytes, fsm, fsm_ctx, &local);
    if (rc != STI_OK) {
        if (err != NULL) {
            *err = local;
        }
        return rc;
    }
    engine->fsm = fsm;
    engine->fsm_ctx = fsm_ctx;
    report_recovery(engine);
    host->strand_init(host->ctx, &engine->strand);
    if (engine->store.recovery.snapshots_damaged > 0) {
        engine_snapshot(engine, true);
    }
    report_log(engine);
    pthread_mutex_lock(&engine->mu);
    engine->state = engine->broken ? ENGINE_BROKEN : ENGINE_OPEN;
    engine->scheduled = engine->store.unborn;
    pthread_mutex_unlock(&engine->mu);
    if (engine->store.unborn) {
        host->strand_post(host->ctx, &engine->strand, &engine->commit_task); /* makes the log */
    }
    if (fsm->leadership != NULL) {
        fsm->leadership(fsm_ctx, true, LOCAL_TERM);
    }
    return STI_OK;
}

int mdl_engine_propose(struct mdl_engine *engine, struct sti_proposal *proposal,
                       struct sti_err *err)
{
    const struct sti_host *host = engine->host;
    bool post = false;
    int rc = STI_OK;
    if (proposal->len == 0 || proposal->command == NULL) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "an empty cluster command");
    }
    if (proposal->len > STI_METADATA_COMMAND_MAX) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                           "a cluster command of %" PRIu64 " bytes; at most %u are taken",
                           proposal->len, STI_METADATA_COMMAND_MAX);
    }
    pthread_mutex_lock(&engine->mu);
    if (engine->state == ENGINE_BROKEN) {
        rc = sti_err_set(err, STI_E_UNAVAILABLE, "%s takes no commands until a restart: %.150s",
                         host->instance, engine->cause.msg);
    } else if (engine->state != ENGINE_OPEN) {
        rc = sti_err_set(err, STI_E_UNAVAILABLE, "%s is not open", host->instance);
    } else if (engine->ring_count == (size_t)engine->conf.proposals_max) {
        rc = sti_err_set(err, STI_E_THROTTLED,
                         "%s: %zu cluster commands wait (proposals_max = %" PRId64 ")",
                         host->instance, engine->ring_count, engine->conf.proposals_max);
    } else {
        size_t at = (engine->ring_first + engine->ring_count) % (size_t)engine->conf.proposals_max;
        engine->ring[at] = proposal;
        engine->ring_count++;
        post = !engine->scheduled;
        engine->scheduled = true;
    }
    pthread_mutex_unlock(&engine->mu);
    if (post) {
        host->strand_post(host->ctx, &engine->strand, &engine->commit_task);
    }
    if (rc != STI_OK) {
        sti_metric_add(engine->metrics.refused, 1);
    }
    return rc;
}

/* Take the next group out of the ring. @locks takes mu */
static size_t group_take(struct mdl_engine *engine)
{
    size_t count = 0, bytes = 0;
    pthread_mutex_lock(&engine->mu);
    while (engine->ring_count > 0 && count < MDL_GROUP_COUNT_MAX) {
        struct sti_proposal *proposal = engine->ring[engine->ring_first];
        if (count > 0 && bytes + proposal->len > MDL_GROUP_BYTES_MAX) {
            break;
        }
        bytes += proposal->len;
        engine->group[count] = proposal;
        engine->commands[count] =
            (struct mdl_command){.data = proposal->command, .len = (size_t)proposal->len};
        count++;
        engine->ring_first = (engine->ring_first + 1) % (size_t)engine->conf.proposals_max;
        engine->ring_count--;
    }
    pthread_mutex_unlock(&engine->mu);
    return count;
}

static void group_refuse(struct mdl_engine *engine, size_t from, size_t count, int status,
                         const struct sti_err *err)
{
    sti_metric_add(engine->metrics.refused, count);
    for (size_t i = from; i < from + count; i++) {
        engine->group[i]->done(engine->group[i], status, err);
    }
}

/* While the disk is full, what is left of the reserve is for commands that free space: refuse the
 * others. @return how many stay, at the front of the group */
static size_t group_spare(struct mdl_engine *engine, size_t count)
{
    size_t kept = 0;
    struct sti_err err;
    if (!engine->broken) {
        mdl_log_reserve(&engine->store.log);
    }
    if (!engine->store.log.low) {
        return count;
    }
    sti_err_set(&err, STI_E_DISK_FULL,
                "%s: the disk is full; what is left of the reserve is kept for commands that free "
                "space",
                engine->host->instance);
    for (size_t i = 0; i < count; i++) {
        struct sti_proposal *proposal = engine->group[i];
        if ((proposal->flags & STI_PROPOSAL_FREES_SPACE) != 0) {
            engine->group[kept] = proposal;
            engine->commands[kept++] = engine->commands[i];
        } else {
            sti_metric_add(engine->metrics.refused, 1);
            proposal->done(proposal, STI_E_DISK_FULL, &err);
        }
    }
    return kept;
}

/* The proposals [from, from + count) of the group are durable: apply and answer each, in order. */
static void group_apply(struct mdl_engine *engine, size_t from, size_t count, uint64_t first_index)
{
    for (size_t i = 0; i < count; i++) {
        struct sti_proposal *proposal = engine->group[from + i];
        struct sti_err err;
        sti_err_clear(&err);
        proposal->index = first_index + i;
        int status = engine->fsm->apply(engine->fsm_ctx, proposal->index, proposal->command,
                                        (size_t)proposal->len, &err);
        proposal->done(proposal, status, &err);
    }
    sti_metric_add(engine->metrics.commands, count);
}

/* Make a part of the group durable. @return STI_OK, or the status that its proposals must get */
static int group_append(struct mdl_engine *engine, size_t from, size_t count, struct sti_err *err)
{
    bool uncertain = false;
    sti_err_clear(err);
    if (engine->broken) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "%s takes no commands until a restart",
                           engine->host->instance);
    }
    uint64_t start_us = sti_now_us(engine->host);
    int rc = mdl_log_append(&engine->store.log, engine->commands + from, count, &uncertain, err);
    if (rc == STI_OK) {
        sti_histogram_record(engine->metrics.commit_us, sti_now_us(engine->host) - start_us);
        sti_metric_add(engine->metrics.syncs, 1);
        return STI_OK;
    }
    if (uncertain) {
        engine_break(engine, err);
        return sti_err_wrap(err, STI_E_IO, "the outcome of the command is unknown");
    }
    return rc;
}

/* Commit, apply and answer [from, from + count) of the group. */
static int group_commit(struct mdl_engine *engine, size_t from, size_t count, bool may_split)
{
    struct sti_err err;
    uint64_t first_index = engine->store.log.end_index + 1;
    int rc = group_append(engine, from, count, &err);
    if (rc == STI_OK) {
        STI_CRASH_POINT("metadata.commit.before_apply");
        group_apply(engine, from, count, first_index);
        STI_CRASH_POINT("metadata.commit.after_apply");
    } else if (rc != STI_E_DISK_FULL || !may_split) {
        err.code = rc;
        err.traits = sti_status_traits(rc);
        group_refuse(engine, from, count, rc, &err);
    }
    return rc;
}

/* The first log of a folder that this start has made. @return STI_OK, or what a command must get */
static int engine_begin(struct mdl_engine *engine, struct sti_err *err)
{
    bool uncertain;
    if (engine->broken || !engine->store.unborn) {
        return STI_OK;
    }
    int rc = mdl_store_begin(&engine->store, &uncertain, err);
    if (rc != STI_OK) {
        sti_log(engine->host, STI_LOG_WARN, "metadata_log_not_begun",
                "the first command log could not be made; the next cluster command tries again",
                STI_F_STR("code", sti_status_name(rc)), STI_F_STR("cause", err->msg));
    }
    if (uncertain) {
        engine_break(engine, err);
    }
    if (rc == STI_OK) {
        sti_log(engine->host, STI_LOG_DEBUG, "metadata_log_begun", "the first command log is made");
    }
    return rc;
}

static void commit_run(struct sti_task *task)
{
    struct mdl_engine *engine =
        (struct mdl_engine *)(void *)((char *)task - offsetof(struct mdl_engine, commit_task));
    const struct sti_host *host = engine->host;
    struct sti_err err;
    sti_err_clear(&err);
    size_t count = group_take(engine);
    int begun = engine_begin(engine, &err);
    if (begun != STI_OK) {
        group_refuse(engine, 0, count, begun, &err);
        count = 0;
    } else {
        count = group_spare(engine, count);
    }
    if (count > 0 && group_commit(engine, 0, count, count > 1) == STI_E_DISK_FULL && count > 1) {
        /* Together they do not fit; some may by themselves. */
        for (size_t i = 0; i < count; i++) {
            (void)group_commit(engine, i, 1, false);
        }
    }
    if (!engine->broken) {
        engine_snapshot(engine, false);
        report_log(engine);
    }
    pthread_mutex_lock(&engine->mu);
    bool more = engine->ring_count > 0;
    engine->scheduled = more;
    if (!more) {
        pthread_cond_broadcast(&engine->idle);
    }
    pthread_mutex_unlock(&engine->mu);
    if (more) {
        host->strand_post(host->ctx, &engine->strand, &engine->commit_task);
    }
}

bool mdl_engine_is_leader(struct mdl_engine *engine, uint64_t *term, int32_t *leader_id)
{
    pthread_mutex_lock(&engine->mu);
    bool open = engine->state == ENGINE_OPEN || engine->state == ENGINE_BROKEN;
    pthread_mutex_unlock(&engine->mu);
    if (term != NULL) {
        *term = open ? LOCAL_TERM : 0;
    }
    if (leader_id != NULL) {
        *leader_id = open ? engine->host->node->node_id : -1;
    }
    return open;
}

static void last_run(struct sti_task *task)
{
    struct mdl_engine *engine =
        (struct mdl_engine *)(void *)((char *)task - offsetof(struct mdl_engine, last_task));
    engine->host->strand_fini(engine->host->ctx, &engine->strand);
    pthread_mutex_lock(&engine->mu);
    engine->strand_gone = true;
    pthread_cond_broadcast(&engine->idle);
    pthread_mutex_unlock(&engine->mu);
}

void mdl_engine_close(struct mdl_engine *engine)
{
    const struct sti_host *host = engine->host;
    pthread_mutex_lock(&engine->mu);
    bool was_open = engine->state == ENGINE_OPEN || engine->state == ENGINE_BROKEN;
    if (was_open) {
        engine->state = ENGINE_CLOSING;
        while (engine->scheduled) {
            pthread_cond_wait(&engine->idle, &engine->mu);
        }
    }
    pthread_mutex_unlock(&engine->mu);
    if (!was_open) {
        return;
    }
    host->strand_post(host->ctx, &engine->strand, &engine->last_task);
    pthread_mutex_lock(&engine->mu);
    while (!engine->strand_gone) {
        pthread_cond_wait(&engine->idle, &engine->mu);
    }
    engine->state = ENGINE_CLOSED;
    pthread_mutex_unlock(&engine->mu);
    mdl_store_close(&engine->store);
}
