/* partition.c -- opening and closing a partition, what it tells of itself, and its poisoning. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { INDEX_INTERVAL_DEFAULT = 4096 };

/* "<topic>-<partition>". @return STI_OK, STI_E_INVALID_ARGUMENT */
int smm_name_format(char *out, size_t len, const struct sti_partition_id *id, struct sti_err *err)
{
    size_t topic_len = strlen(id->topic);
    bool ok = topic_len >= 1 && topic_len <= 249 && id->partition >= 0;
    for (const char *p = id->topic; ok && *p != '\0'; p++) {
        ok = isalnum((unsigned char)*p) || *p == '.' || *p == '_' || *p == '-';
    }
    int n = ok ? snprintf(out, len, "%s-%" PRId32, id->topic, id->partition) : -1;
    return n > 0 && (size_t)n < len && n <= NAME_MAX
               ? STI_OK
               : sti_err_set(err, STI_E_INVALID_ARGUMENT,
                             "no folder can bear the name %.60s-%" PRId32, id->topic,
                             id->partition);
}

/* @return a descriptor of the folder, or -1 with errno */
int smm_part_dir(const struct sti_storage_partition *part)
{
    return openat(part->store->dir_fd, part->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* @return 0 or an errno */
int smm_part_dir_sync(const struct sti_storage_partition *part)
{
    int fd = smm_part_dir(part);
    int rc = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) {
        (void)close(fd);
    }
    return rc;
}

/* Refuse appends until the partition has been opened anew. The first to say so tells the log and
 * the owner. Locks of the partition, other than write_mu, are free. */
void smm_poison(struct sti_storage_partition *part, const struct sti_err *err)
{
    pthread_mutex_lock(&part->mu);
    bool first = !part->poisoned;
    part->poisoned = true;
    pthread_mutex_unlock(&part->mu);
    if (first) {
        sti_metric_add(part->store->metrics.poisoned, 1);
        sti_log(part->store->host, STI_LOG_ERROR, "partition_poisoned",
                "a write or sync failed: no appends until the log has been read again",
                STI_F_STR("partition", part->name), STI_F_STR("error", err->msg));
        if (part->events != NULL && part->events->failed != NULL) {
            part->events->failed(part->events_ctx, err);
        }
    }
}

/* ---- settings ------------------------------------------------------------------------------ */

static int check_settings(const struct sti_storage_settings *settings, struct sti_err *err)
{
    if (settings->flush_policy < STI_FLUSH_ONROLL || settings->flush_policy > STI_FLUSH_COMMIT) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "flush policy %" PRId32 " is unknown",
                           settings->flush_policy);
    }
    if (settings->segment_bytes < 1) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "segment_bytes %" PRId64 ": must be positive",
                           settings->segment_bytes);
    }
    if (settings->flush_policy == STI_FLUSH_INTERVAL && settings->flush_interval_ms < 1) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "flush_interval_ms %" PRId64 ": must be positive",
                           settings->flush_interval_ms);
    }
    return STI_OK;
}

static void take_settings(struct sti_storage_partition *part,
                          const struct sti_storage_settings *settings)
{
    part->settings = *settings;
    if (part->settings.index_interval_bytes < 1) {
        part->settings.index_interval_bytes = INDEX_INTERVAL_DEFAULT;
    }
}

int smm_configure(struct sti_storage_partition *part, const struct sti_storage_settings *settings,
                  struct sti_err *err)
{
    int rc = check_settings(settings, err);
    if (rc == STI_OK) {
        pthread_mutex_lock(&part->write_mu);
        pthread_mutex_lock(&part->side_mu);
        pthread_mutex_lock(&part->mu);
        take_settings(part, settings);
        if (part->synced_end < part->written_end && !part->poisoned) {
            (void)smm_flush_appended(
                part, false); /* the new policy holds for what is written already, too */
        }
        pthread_mutex_unlock(&part->mu);
        pthread_mutex_unlock(&part->side_mu);
        pthread_mutex_unlock(&part->write_mu);
    }
    return rc;
}

/* ---- state --------------------------------------------------------------------------------- */

void smm_state(struct sti_storage_partition *part, struct sti_storage_state *out)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    pthread_mutex_lock(&part->mu);
    state.last_epoch = part->last_epoch;
    state.log_start = part->log_start;
    state.written_end = part->written_end;
    state.synced_end = part->synced_end;
    state.max_timestamp = part->index.max_timestamp;
    state.bytes = part->bytes;
    state.segment_count = part->seg_count;
    state.flags = (part->poisoned ? STI_STORAGE_STATE_POISONED : 0u) |
                  (part->damaged ? STI_STORAGE_STATE_DAMAGED : 0u);
    state.recovered_bytes = part->recovered_bytes;
    state.truncated_bytes = part->truncated_bytes;
    pthread_mutex_unlock(&part->mu);
    *out = state;
}

/* ---- open ---------------------------------------------------------------------------------- */

static void part_free(struct sti_storage_partition *part)
{
    for (uint32_t i = 0; i < part->seg_count; i++) {
        free(part->segs[i]);
    }
    free(part->segs);
    free(part->damage);
    free(part->sync_job);
    free(part->tick_job);
    smm_index_fini(&part->index);
    pthread_cond_destroy(&part->changed);
    pthread_mutex_destroy(&part->mu);
    pthread_mutex_destroy(&part->side_mu);
    pthread_mutex_destroy(&part->write_mu);
    free(part);
}

static struct sti_storage_partition *part_new(struct smm_store *store, const char *name,
                                              const struct sti_storage_open *args)
{
    struct sti_storage_partition *part = calloc(1, sizeof *part + strlen(name) + 1);
    if (part == NULL) {
        return NULL;
    }
    memcpy(part->name, name, strlen(name) + 1);
    part->store = store;
    part->events = args->events;
    part->events_ctx = args->events_ctx;
    part->partition = args->id->partition;
    part->last_epoch = -1;
    part->scrub_pass = SMM_SCRUB_NEVER;
    memcpy(part->topic_id, args->id->topic_id, sizeof part->topic_id);
    take_settings(part, args->settings);
    smm_index_init(&part->index);
    pthread_mutex_init(&part->write_mu, NULL);
    pthread_mutex_init(&part->side_mu, NULL);
    pthread_mutex_init(&part->mu, NULL);
    pthread_cond_init(&part->changed, NULL);
    part->sync_job = smm_job_new(store, part, smm_flush_run);
    part->tick_job = smm_job_new(store, part, smm_flush_tick);
    if (part->sync_job == NULL || part->tick_job == NULL) {
        part_free(part);
        return NULL;
    }
    return part;
}

/* Is there a log in the folder? @return 0, or an errno: it could not be looked at */
static int find_log(int dir_fd, bool *found)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    *found = false;
    if (dir == NULL) {
        int saved = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return saved;
    }
    while (!*found && (entry = readdir(dir)) != NULL) {
        int64_t base_offset;
        *found = sti_log_name_parse(entry->d_name, ".log", &base_offset);
    }
    (void)closedir(dir);
    return 0;
}

/* Does the folder hold a partition? A folder with neither metadata nor a log is none.
 * @param topic_id  of its metadata. @return 0: yes; ENOENT: none; EPROTO: yes, but its metadata is
 * missing or garbled; EPROTONOSUPPORT; another errno: it could not be looked at */
static int look_at(int dir_fd, uint8_t topic_id[16])
{
    int rc = smm_meta_read(dir_fd, topic_id);
    if (rc == ENOENT) {
        bool found;
        rc = find_log(dir_fd, &found);
        rc = rc != 0 ? rc : found ? EPROTO : ENOENT;
    }
    return rc;
}

/* Make the folder, or go on with one whose making was interrupted before it got its metadata. */
static int create_folder(struct sti_storage_partition *part, struct sti_err *err)
{
    uint8_t topic_id[16];
    int rc = smm_store_settle(part->store), dir_fd = -1;
    if (rc == 0 && mkdirat(part->store->dir_fd, part->name, 0750) != 0 && errno != EEXIST) {
        rc = errno;
    }
    STI_CRASH_POINT("partition.create.after_mkdir");
    if (rc == 0 && (dir_fd = smm_part_dir(part)) < 0) {
        rc = errno;
    }
    if (rc == 0) {
        int there = look_at(dir_fd, topic_id);
        if (there == 0 || there == EPROTO || there == EPROTONOSUPPORT) {
            (void)close(dir_fd);
            return sti_err_set(err, STI_E_ALREADY_EXISTS, "%s: the partition exists", part->name);
        }
        rc = there == ENOENT ? 0 : there;
    }
    /* The boot is noted from the beginning: a log without a note could not be told from one that
     * never saw a loss of power. Its name lasts with that of the metadata. */
    struct sti_recovery_point point = {.recovery_point = 0};
    if (rc == 0) {
        rc = smm_checkpoint_write(part, &point, false);
    }
    if (rc == 0) {
        rc = smm_meta_write(dir_fd, part->topic_id);
    }
    if (rc == 0 && (rc = STI_FAULT("partition.create.after_metadata")) == 0 &&
        fsync(part->store->dir_fd) != 0) {
        rc = errno;
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    return rc == 0 ? STI_OK
                   : sti_err_set(err, rc == ENOENT ? STI_E_IO : smm_errno_status(rc),
                                 "%s: create: %s", part->name, strerror(rc));
}

/* The folder must be there and be that topic's. Metadata that is gone or garbled beside a log is
 * written again: a topic's folder loses its name before the name can be given again. */
static int check_folder(struct sti_storage_partition *part, struct sti_err *err)
{
    uint8_t topic_id[16];
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return sti_err_set(err, smm_errno_status(errno), "%s: %s", part->name,
                           errno == ENOENT ? "there is no such partition" : strerror(errno));
    }
    int status = STI_OK;
    int rc = look_at(dir_fd, topic_id);
    if (rc == EPROTONOSUPPORT) {
        status = sti_err_set(err, STI_E_UNSUPPORTED,
                             "%s/" STI_FILE_META ": written by a newer version", part->name);
    } else if (rc == ENOENT) {
        status = sti_err_set(err, STI_E_NOT_FOUND, "%s: there is no such partition", part->name);
    } else if (rc == EPROTO) {
        sti_log(part->store->host, STI_LOG_WARN, "metadata_rewritten",
                "the file " STI_FILE_META " was missing or garbled",
                STI_F_STR("partition", part->name));
        rc = smm_meta_write(dir_fd, part->topic_id);
        status = rc == 0 || smm_errno_status(rc) == STI_E_DISK_FULL /* the next open tries again */
                     ? STI_OK
                     : sti_err_set(err, smm_errno_status(rc), "%s: %s", part->name, strerror(rc));
    } else if (rc != 0) {
        status = sti_err_set(err, smm_errno_status(rc), "%s/" STI_FILE_META ": %s", part->name,
                             strerror(rc));
    } else if (memcmp(topic_id, part->topic_id, sizeof topic_id) != 0) {
        status = sti_err_set(err, STI_E_NOT_FOUND,
                             "%s: the folder belongs to another topic of that name", part->name);
    }
    (void)close(dir_fd);
    return status;
}

int smm_open(void *self, const struct sti_storage_open *args, struct sti_storage_partition **out,
             struct sti_storage_state *state, struct sti_err *err)
{
    struct smm_store *store = self;
    char name[300];
    *out = NULL;
    int rc = smm_name_format(name, sizeof name, args->id, err);
    if (rc == STI_OK) {
        rc = check_settings(args->settings, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    struct sti_storage_partition *part = part_new(store, name, args);
    if (part == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", name);
    }
    rc = smm_store_enter(store, part, err);
    if (rc != STI_OK) {
        part_free(part);
        return rc;
    }
    rc = (args->flags & STI_STORAGE_CREATE) != 0 ? create_folder(part, err)
                                                 : check_folder(part, err);
    if (rc == STI_OK) {
        rc = smm_recover(part, err);
    }
    if (rc != STI_OK && rc != STI_E_DATA_LOSS) {
        for (uint32_t i = 0; i < part->seg_count; i++) {
            pthread_mutex_lock(&part->mu);
            struct smm_file *file = smm_file_detach(part->segs[i]);
            pthread_mutex_unlock(&part->mu);
            smm_file_forget(file);
        }
        smm_store_leave(store, part);
        part_free(part);
        return rc;
    }
    smm_state(part, state);
    atomic_store(&part->opened, true);
    smm_flush_opened(part);
    smm_scrub_join(part);
    *out = part;
    return rc;
}

/* ---- close --------------------------------------------------------------------------------- */

/* After a failed sync the kernel may hold pages as clean that no disk has: forget them, so that the
 * next recovery reads what is there. */
static void drop_cache(struct sti_storage_partition *part)
{
    for (uint32_t i = 0; i < part->seg_count; i++) {
        struct smm_segment *seg = part->segs[i];
        struct smm_file *file;
        if (seg->exists && seg->synced_size < seg->write_size &&
            smm_file_acquire(part, seg->base_offset, seg->serial, &file, NULL) == STI_OK) {
            (void)posix_fadvise(file->log_fd, 0, 0, POSIX_FADV_DONTNEED);
            smm_file_unref(file);
        }
    }
}

/* Leave the log so that the next open need not read it. */
static int settle(struct sti_storage_partition *part, struct sti_err *err)
{
    struct smm_segment *seg = smm_segment_active(part);
    struct smm_file *file = NULL;
    STI_CRASH_POINT("partition.close.before_sync");
    int rc = smm_flush_now(part, INT64_MAX, err);
    if (rc != STI_OK) {
        return rc;
    }
    bool pending = part->index.pending > 0 || part->index.time_pending > 0 ||
                   part->index.max_timestamp > part->index.last_time;
    if (seg->exists && (pending || seg->reserved_end > seg->write_size) &&
        smm_file_acquire(part, seg->base_offset, seg->serial, &file, NULL) == STI_OK) {
        smm_index_flush(part, seg->base_offset, file->index_fd, true);
        smm_segment_give_back(seg, file->log_fd);
        smm_file_unref(file);
    }
    struct sti_recovery_point point = {.recovery_point = seg->base_offset,
                                       .clean = true,
                                       .written_end = part->written_end,
                                       .active_base = seg->base_offset,
                                       .active_size = seg->size,
                                       .max_timestamp = part->index.max_timestamp,
                                       .last_epoch = part->last_epoch};
    int saved = STI_FAULT("partition.close.before_mark");
    if (saved == 0) {
        saved = smm_checkpoint_write(part, &point, true);
    }
    STI_CRASH_POINT("partition.close.after_mark");
    if (saved != 0) {
        sti_log(part->store->host, STI_LOG_WARN, "clean_mark_not_written",
                "the next open reads the log from its recovery point",
                STI_F_STR("partition", part->name), STI_F_STR("error", strerror(saved)));
    }
    return STI_OK;
}

/* @param keep  false: it will be removed, nothing need survive */
static int let_go(struct sti_storage_partition *part, bool keep, struct sti_err *err)
{
    struct smm_store *store = part->store;
    int rc = STI_OK;
    struct sti_err why = {0};
    smm_scrub_leave(part);
    pthread_mutex_lock(&part->write_mu);
    struct smm_waiter *waiters = smm_flush_detach(part);
    bool untouched =
        part->written_end == 0 && part->recovered_bytes == 0 && !smm_segment_active(part)->exists;
    if (!keep) {
        sti_err_set(&why, STI_E_CANCELLED, "%s: the partition is being deleted", part->name);
    } else if (part->poisoned) {
        rc = sti_err_set(&why, STI_E_IO, "%s: the partition was poisoned", part->name);
        drop_cache(part);
    } else if (!untouched) { /* a damaged log ends unclean: the next open looks again */
        rc = part->damaged ? smm_flush_now(part, INT64_MAX, &why) : settle(part, &why);
        if (rc != STI_OK) {
            drop_cache(part);
        }
    }
    smm_flush_answer(waiters, keep ? rc : STI_E_CANCELLED, part->synced_end, &why);
    for (uint32_t i = 0; i < part->seg_count; i++) {
        pthread_mutex_lock(&part->mu);
        struct smm_file *file = smm_file_detach(part->segs[i]);
        pthread_mutex_unlock(&part->mu);
        smm_file_forget(file);
    }
    pthread_mutex_unlock(&part->write_mu);
    /* Whoever evicts files looks at partitions under this lock: let it leave ours. */
    pthread_mutex_lock(&store->files_mu);
    pthread_mutex_unlock(&store->files_mu);
    smm_store_leave(store, part);
    part_free(part);
    if (rc != STI_OK && err != NULL) {
        *err = why;
    }
    return rc;
}

int smm_close(struct sti_storage_partition *part, struct sti_err *err)
{
    return let_go(part, true, err);
}

int smm_discard(struct sti_storage_partition *part, struct sti_err *err)
{
    return let_go(part, false, err);
}
