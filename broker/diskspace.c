/* diskspace.c -- see diskspace.h.
 *
 * When it looks. By the clock, once in disk_check_interval_ms while all is well and four times as
 * often otherwise; and by the bytes: an append looks when as much has been appended since the last
 * look as would take an eighth of the way to the next threshold, so that the fastest writer cannot
 * fill a small disk between two ticks. A look is one call of the instance's `space`.
 *
 * Throttling. The rate that is let through falls in proportion to what is left above the read-only
 * threshold, down to a quarter of where it began, so that from the first slowed append to the first
 * refused one a writer at full speed takes about disk_slowdown_ms whatever the disk's size. Batches
 * that come too early are answered THROTTLED with the time to wait; nothing is held here, so that a
 * slow disk does not use up the room in flight that other instances share.
 *
 * Refusing happens twice: when a batch would join the queue, and on the strand before storage gets
 * it, since what was queued in better times may be more than there is room for.
 */
#include "broker/diskspace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

enum {
    LOOK_SHARE = 8,
    LOOK_BYTES_MIN = 64 * 1024,
    FAST_LOOKS = 4,
    RETRY_MS_MIN = 20,
    RETRY_MS_MAX = 5000,
    RETENTION_EVERY_US = 10000000
};

/* ---- the ladder ---------------------------------------------------------------------------- */

static uint64_t least_of(int64_t percent, int64_t bytes, uint64_t total)
{
    uint64_t share = total / 100u * (uint64_t)percent + total % 100u * (uint64_t)percent / 100u;
    return share < (uint64_t)bytes ? share : (uint64_t)bytes;
}

void brk_disk_limits(const struct brk_disk_options *options, uint64_t total_bytes,
                     struct brk_disk_limits *out)
{
    uint64_t refuse = least_of(options->refuse_percent, options->refuse_bytes, total_bytes);
    uint64_t throttle = least_of(options->throttle_percent, options->throttle_bytes, total_bytes);
    throttle = throttle < refuse ? refuse : throttle;
    uint64_t step = throttle > refuse ? (throttle - refuse) / 4 : refuse / 8;
    *out = (struct brk_disk_limits){.throttle_below = throttle,
                                    .throttle_until = throttle + step,
                                    .refuse_below = refuse,
                                    .refuse_until = refuse + step};
}

int brk_disk_step(int level, uint64_t free_bytes, const struct brk_disk_limits *limits)
{
    if (free_bytes < limits->refuse_below ||
        (level == BRK_DISK_READ_ONLY && free_bytes < limits->refuse_until)) {
        return BRK_DISK_READ_ONLY;
    }
    if (free_bytes < limits->throttle_below ||
        (level != BRK_DISK_NORMAL && free_bytes < limits->throttle_until)) {
        return BRK_DISK_THROTTLED;
    }
    return BRK_DISK_NORMAL;
}

/* ---- looking ------------------------------------------------------------------------------- */

/* What a change of level is to the outside. @thread the one that looks */
static void level_tell(struct brk_disk *disk, int level, uint64_t free_bytes,
                       const struct brk_disk_limits *limits)
{
    static const struct {
        const char *event, *msg;
        int log_level;
    } news[] = {
        [BRK_DISK_NORMAL] = {"disk_room", "there is room again: appends go on at full speed",
                             STI_LOG_INFO},
        [BRK_DISK_THROTTLED] = {"disk_low", "the disk fills: appends are slowed", STI_LOG_WARN},
        [BRK_DISK_READ_ONLY] = {"disk_full",
                                "the disk is full: appends are refused, while reads, "
                                "deletions and retention go on",
                                STI_LOG_ERROR},
    };
    const struct sti_host *host = disk->broker->host;
    const char *name = disk->storage.name;
    char low[64], full[64], detail[192];
    uint64_t until = level == BRK_DISK_READ_ONLY ? limits->refuse_until : limits->throttle_until;
    (void)snprintf(low, sizeof low, "disk_low:%.50s", name);
    (void)snprintf(full, sizeof full, "disk_full:%.50s", name);
    (void)snprintf(detail, sizeof detail,
                   "storage %.50s has %" PRIu64 " bytes free; appends are %s until %" PRIu64
                   " are free",
                   name, free_bytes, level == BRK_DISK_READ_ONLY ? "refused" : "slowed", until);
    host->health(host->ctx, low, level == BRK_DISK_THROTTLED ? STI_HEALTH_DEGRADED : STI_HEALTH_OK,
                 detail);
    host->health(host->ctx, full, level == BRK_DISK_READ_ONLY ? STI_HEALTH_DEGRADED : STI_HEALTH_OK,
                 detail);
    sti_log(host, news[level].log_level, news[level].event, news[level].msg,
            STI_F_STR("storage", name), STI_F_UINT("free_bytes", free_bytes),
            STI_F_UINT("total_bytes", atomic_load(&disk->total_bytes)),
            STI_F_UINT("until_bytes", until));
}

/* Let the clock look at once. */
static void clock_now(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    pthread_mutex_lock(&broker->admin_mu);
    if (broker->disk_armed && host->timer_cancel(host->ctx, &broker->disk_timer)) {
        host->timer_arm(host->ctx, &broker->disk_timer, sti_now_us(host));
    }
    pthread_mutex_unlock(&broker->admin_mu);
}

/* Take in what the instance says. @return true: the level rose. @thread the one that looks */
static bool take_in(struct brk_disk *disk, const struct sti_storage_space *space)
{
    struct brk_disk_limits limits;
    int was = atomic_load(&disk->level);
    brk_disk_limits(&disk->broker->conf->disk, space->total_bytes, &limits);
    int level =
        disk->ladder ? brk_disk_step(was, space->free_bytes, &limits) : (int)BRK_DISK_NORMAL;
    uint64_t next = level == BRK_DISK_NORMAL ? limits.throttle_below : limits.refuse_below;
    uint64_t way = space->free_bytes > next ? (space->free_bytes - next) / LOOK_SHARE : 0;
    atomic_store(&disk->total_bytes, space->total_bytes);
    atomic_store(&disk->free_bytes, space->free_bytes);
    atomic_store(&disk->refuse_below, limits.refuse_below);
    atomic_store(&disk->refuse_until, limits.refuse_until);
    atomic_store(&disk->gap_bytes, limits.throttle_below - limits.refuse_below);
    atomic_store(&disk->look_after_bytes, way < LOOK_BYTES_MIN ? LOOK_BYTES_MIN : way);
    atomic_store(&disk->appended_bytes, 0);
    atomic_store(&disk->level, level);
    sti_metric_set(disk->free_metric, space->free_bytes);
    sti_metric_set(disk->total_metric, space->total_bytes);
    sti_metric_set(disk->level_metric, (uint64_t)level);
    if (level != was) {
        level_tell(disk, level, space->free_bytes, &limits);
    }
    return level > was;
}

static void look_once(struct brk_disk *disk, bool clock)
{
    struct broker *broker = disk->broker;
    struct sti_storage_space space = {.struct_size = sizeof space};
    struct sti_err err;
    sti_err_clear(&err);
    int rc = sti_storage_of(&disk->storage)->space(disk->storage.self, &space, &err);
    bool rose = rc == STI_OK && take_in(disk, &space);
    if ((rc != STI_OK) != disk->look_failed) {
        disk->look_failed = rc != STI_OK;
        sti_log(broker->host, rc != STI_OK ? STI_LOG_WARN : STI_LOG_INFO,
                rc != STI_OK ? "disk_not_measured" : "disk_measured",
                rc != STI_OK ? err.msg : "the room of the storage is known again",
                STI_F_STR("storage", disk->storage.name));
    }
    /* Old segments go first; while little is left they are looked for often. */
    uint64_t now = sti_now_us(broker->host);
    bool retain = clock && atomic_load(&disk->level) != BRK_DISK_NORMAL &&
                  (rose || now >= disk->retention_due_us);
    disk->retention_due_us = retain ? now + RETENTION_EVERY_US : rose ? 0 : disk->retention_due_us;
    if (retain) {
        brk_retention_now(broker, disk);
    } else if (rose) {
        clock_now(broker);
    }
}

/* Look how much room there is. Who comes while another one looks leaves it to that one, which then
 * looks again. @param clock  the clock's look, which also lets retention run
 * @thread any executor thread */
static void look(struct brk_disk *disk, bool clock)
{
    if (!disk->measured || atomic_fetch_add(&disk->looking, 1) > 0) {
        return;
    }
    uint32_t asked;
    do {
        asked = atomic_load(&disk->looking);
        look_once(disk, clock);
    } while (!atomic_compare_exchange_strong(&disk->looking, &asked, 0));
}

/* ---- the clock ----------------------------------------------------------------------------- */

/* @locks admin_mu held */
static void clock_arm(struct broker *broker)
{
    const struct sti_host *host = broker->host;
    uint64_t wait_us = (uint64_t)broker->conf->disk.check_interval_ms * 1000u;
    for (uint32_t i = 0; i < broker->disk_count; i++) {
        if (atomic_load(&broker->disks[i].level) != BRK_DISK_NORMAL) {
            wait_us = (uint64_t)broker->conf->disk.check_interval_ms * (1000u / FAST_LOOKS);
        }
    }
    host->timer_arm(host->ctx, &broker->disk_timer, sti_now_us(host) + wait_us);
}

static void clock_run(struct sti_task *task)
{
    struct broker *broker =
        BRK_CONTAINER_OF(BRK_CONTAINER_OF(task, struct sti_timer, task), struct broker, disk_timer);
    for (uint32_t i = 0; i < broker->disk_count; i++) {
        look(&broker->disks[i], true);
    }
    pthread_mutex_lock(&broker->admin_mu);
    bool again = broker->disk_armed;
    if (again) {
        clock_arm(broker);
    }
    pthread_mutex_unlock(&broker->admin_mu);
    if (!again) {
        brk_under_way_end(broker);
    }
}

static void disk_count(void *arg, const struct sti_binding *binding)
{
    (void)binding;
    (*(uint32_t *)arg)++;
}

static void disk_make(void *arg, const struct sti_binding *binding)
{
    struct broker *broker = arg;
    const struct sti_host *host = broker->host;
    const struct sti_storage *vt = sti_storage_of(binding);
    struct brk_disk *disk = &broker->disks[broker->disk_count++];
    char labels[128];
    (void)snprintf(labels, sizeof labels, "storage=\"%.64s\"", binding->name);
    disk->broker = broker;
    disk->storage = *binding;
    disk->measured = STI_IFACE_HAS(vt, space);
    disk->ladder = disk->measured && (vt->iface.caps & STI_STORAGE_DURABLE) != 0;
    atomic_init(&disk->look_after_bytes, LOOK_BYTES_MIN);
    if (!disk->measured) {
        return;
    }
    disk->level_metric = host->metric(
        host->ctx, STI_METRIC_GAUGE, "streamit_disk_level", labels,
        "Whether a storage's disk is full: 0 normal, 1 appends are slowed, 2 appends are refused");
    disk->free_metric = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_disk_free_bytes",
                                     labels, "Bytes that a storage may still use");
    disk->total_metric = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_disk_total_bytes",
                                      labels, "Size of a storage's file system, or its bound");
    disk->refused = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_disk_full_refused_total",
                                 labels, "Appends refused because the disk is full");
    disk->throttled = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_disk_throttled_total",
                                   labels, "Appends put off because the disk fills");
}

int brk_disk_start(struct broker *broker, struct sti_err *err)
{
    const struct sti_host *host = broker->host;
    uint32_t count = 0;
    host->each(host->ctx, STI_STORAGE_ID, disk_count, &count);
    broker->disks = calloc(count + 1u, sizeof *broker->disks);
    if (broker->disks == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "broker: out of memory");
    }
    host->each(host->ctx, STI_STORAGE_ID, disk_make, broker);
    for (uint32_t i = 0; i < broker->disk_count; i++) {
        look(&broker->disks[i], false);
    }
    broker->disk_timer.task.run = clock_run;
    pthread_mutex_lock(&broker->admin_mu);
    broker->disk_armed = true;
    broker->under_way++; /* until the timer is cancelled, or has fired for the last time */
    clock_arm(broker);
    pthread_mutex_unlock(&broker->admin_mu);
    return STI_OK;
}

void brk_disk_stop(struct broker *broker)
{
    pthread_mutex_lock(&broker->admin_mu);
    bool was = broker->disk_armed;
    broker->disk_armed = false;
    if (was && broker->host->timer_cancel(broker->host->ctx, &broker->disk_timer)) {
        broker->under_way--;
    }
    pthread_mutex_unlock(&broker->admin_mu);
}

void brk_disk_free(struct broker *broker)
{
    free(broker->disks);
}

struct brk_disk *brk_disk_find(struct broker *broker, const char *storage)
{
    for (uint32_t i = 0; i < broker->disk_count; i++) {
        if (strcmp(broker->disks[i].storage.name, storage) == 0) {
            return &broker->disks[i];
        }
    }
    return NULL;
}

/* ---- what the way of a record asks --------------------------------------------------------- */

/* As of now, by what was appended since the last look. */
static uint64_t free_now(const struct brk_disk *disk)
{
    uint64_t free_bytes = atomic_load_explicit(&disk->free_bytes, memory_order_relaxed);
    uint64_t gone = atomic_load_explicit(&disk->appended_bytes, memory_order_relaxed);
    return free_bytes > gone ? free_bytes - gone : 0;
}

/* The one sentence of a full disk. */
static int full(struct brk_partition *part, uint64_t bytes, struct sti_err *err)
{
    struct brk_disk *disk = part->disk;
    uint64_t until = atomic_load(&disk->refuse_until);
    uint64_t room = bytes + atomic_load(&disk->refuse_below);
    if (atomic_load(&disk->level) != BRK_DISK_READ_ONLY && until < room) {
        until = room; /* smaller ones may pass; one of that size will then */
    }
    return sti_err_set(err, STI_E_DISK_FULL,
                       "%.80s-%d: %" PRIu64 " bytes are needed, %" PRIu64
                       " are free on storage %.40s; writes resume at %" PRIu64 " free",
                       part->topic, part->index, bytes, free_now(disk), disk->storage.name, until);
}

/* How long an append of `bytes` takes at the rate that is let through, in microseconds. */
static uint64_t cost_us(const struct brk_disk *disk, uint64_t bytes)
{
    /* From the whole gap down to a quarter of it the rate falls with what is left, which takes
     * tau * ln 4, and the rest goes at that quarter, which takes tau: 2.39 tau is the slowdown. */
    uint64_t tau_us = (uint64_t)disk->broker->conf->disk.slowdown_ms * 419u;
    uint64_t now = free_now(disk), below = atomic_load(&disk->refuse_below);
    uint64_t gap = atomic_load(&disk->gap_bytes), left = now > below ? now - below : 0;
    left = left < gap / 4 ? gap / 4 : left;
    return left == 0 ? 0 : (uint64_t)((double)bytes * (double)tau_us / (double)left);
}

/* A place in time for an append of `bytes`. An append that may go is let through whole, and the
 * next one waits for it, so that no batch is too large to pass. */
static bool place(struct brk_disk *disk, uint64_t bytes, uint32_t *retry_after_ms)
{
    uint64_t now = sti_now_us(disk->broker->host), cost = cost_us(disk, bytes);
    uint64_t next = atomic_load(&disk->next_us);
    do {
        if (next > now) {
            uint64_t wait_ms = (next - now) / 1000u + 1u;
            wait_ms = wait_ms < RETRY_MS_MIN ? RETRY_MS_MIN : wait_ms;
            *retry_after_ms = (uint32_t)(wait_ms < RETRY_MS_MAX ? wait_ms : RETRY_MS_MAX);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&disk->next_us, &next, now + cost));
    return true;
}

int brk_disk_admit(struct brk_partition *part, uint64_t bytes, uint32_t *retry_after_ms,
                   struct sti_err *err)
{
    struct brk_disk *disk = part->disk;
    int level = disk == NULL ? (int)BRK_DISK_NORMAL
                             : atomic_load_explicit(&disk->level, memory_order_relaxed);
    if (level == BRK_DISK_NORMAL) {
        return STI_OK;
    }
    if (level == BRK_DISK_READ_ONLY) {
        sti_metric_add(disk->refused, 1);
        return full(part, bytes, err);
    }
    if (place(disk, bytes, retry_after_ms)) {
        return STI_OK;
    }
    sti_metric_add(disk->throttled, 1);
    return sti_err_set(err, STI_E_THROTTLED,
                       "%.80s-%d: the disk of storage %.40s fills (%" PRIu64
                       " bytes free): appends are slowed",
                       part->topic, part->index, disk->storage.name, free_now(disk));
}

/* Appended so much since the last look that it is time for the next one. */
static bool look_due(const struct brk_disk *disk, uint64_t bytes)
{
    return atomic_load_explicit(&disk->appended_bytes, memory_order_relaxed) + bytes >=
           atomic_load_explicit(&disk->look_after_bytes, memory_order_relaxed);
}

bool brk_disk_may_inline(const struct brk_partition *part, uint64_t bytes)
{
    const struct brk_disk *disk = part->disk;
    if (disk == NULL) {
        return false;
    }
    uint64_t slow_until = atomic_load_explicit(&disk->slow_until_us, memory_order_relaxed);
    return (slow_until == 0 || sti_now_us(disk->broker->host) >= slow_until) &&
           !(disk->ladder && look_due(disk, bytes));
}

void brk_disk_inlined(struct brk_partition *part, uint64_t took_us)
{
    _Atomic uint64_t *until = &part->disk->slow_until_us;
    uint64_t was = atomic_load_explicit(until, memory_order_relaxed);
    if (took_us > BRK_INLINE_SLOW_US) {
        atomic_store_explicit(until, sti_now_us(part->broker->host) + BRK_INLINE_PAUSE_US,
                              memory_order_relaxed);
    } else if (was != 0 && sti_now_us(part->broker->host) >= was) {
        /* Over; before that another append, which began earlier, says nothing about the pause. */
        atomic_store_explicit(until, 0, memory_order_relaxed);
    }
}

int brk_disk_append(struct brk_partition *part, uint64_t bytes, struct sti_err *err)
{
    struct brk_disk *disk = part->disk;
    if (disk == NULL || !disk->ladder) {
        return STI_OK;
    }
    if (look_due(disk, bytes)) {
        look(disk, false);
    }
    if (atomic_load(&disk->level) != BRK_DISK_READ_ONLY) {
        return STI_OK;
    }
    return full(part, bytes, err); /* counted as an append that failed */
}

/* Storage had no room although the level is below read-only: for that append there was too little
 * left, or what is lacking is something else than bytes, and then only storage knows the sentence.
 */
static void refused_by_storage(struct brk_partition *part, uint64_t bytes, struct sti_err *err)
{
    char cause[sizeof err->msg];
    if (atomic_load(&part->disk->level) == BRK_DISK_READ_ONLY ||
        free_now(part->disk) < bytes + atomic_load(&part->disk->refuse_below)) {
        (void)full(part, bytes, err);
        return;
    }
    memcpy(cause, err->msg, sizeof cause);
    sti_err_set(err, STI_E_DISK_FULL,
                "%.60s-%d: %" PRIu64 " bytes are needed, %" PRIu64 " are free: %.90s", part->topic,
                part->index, bytes, free_now(part->disk), cause);
}

void brk_disk_appended(struct brk_partition *part, uint64_t bytes, int status, struct sti_err *err)
{
    struct brk_disk *disk = part->disk;
    if (disk == NULL || !disk->ladder) {
        return;
    }
    if (status == STI_OK) {
        atomic_fetch_add_explicit(&disk->appended_bytes, bytes, memory_order_relaxed);
    } else if (status == STI_E_DISK_FULL) {
        look(disk, false);
        sti_metric_add(disk->refused, 1);
        refused_by_storage(part, bytes, err);
    }
}

int brk_disk_create(struct broker *broker, const char *storage, const char *topic,
                    struct sti_err *err)
{
    struct brk_disk *disk = brk_disk_find(broker, storage);
    if (disk == NULL || atomic_load(&disk->level) != BRK_DISK_READ_ONLY) {
        return STI_OK;
    }
    return sti_err_set(err, STI_E_DISK_FULL,
                       "topic %.80s: no partitions are made while the disk of storage %.40s is "
                       "full: %" PRIu64 " bytes are free, writes resume at %" PRIu64 " free",
                       topic, disk->storage.name, free_now(disk), atomic_load(&disk->refuse_until));
}
