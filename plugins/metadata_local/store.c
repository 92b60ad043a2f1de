/* store.c -- see store.h. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "snapshot.h"
#include "streamit/fault.h"

enum { INDEX_DIGITS = 20 };

static const char log_prefix[] = "log-";
static const char snapshot_prefix[] = "snapshot-";

/* Indexes found in the names of one kind of file, ascending. */
struct index_list {
    uint64_t *items; /* owned */
    size_t count, capacity;
};

struct listing {
    struct index_list logs, snapshots;
};

static int store_error(const struct mdl_store *store, struct sti_err *err, const char *what,
                       int error)
{
    return sti_err_set(err, mdl_status_of(error), "%s: %s: %s", mdl_shown(store->path), what,
                       strerror(error));
}

/* Is `name` the prefix, 20 digits and nothing more (or ".tmp": *tmp)? */
static bool name_index(const char *name, const char *prefix, uint64_t *index, bool *tmp)
{
    size_t prefix_len = strlen(prefix);
    uint64_t value = 0;
    if (strncmp(name, prefix, prefix_len) != 0) {
        return false;
    }
    const char *at = name + prefix_len;
    for (int i = 0; i < INDEX_DIGITS; i++, at++) {
        if (*at < '0' || *at > '9' || value > (UINT64_MAX - 9) / 10) {
            return false;
        }
        value = value * 10 + (uint64_t)(*at - '0');
    }
    *tmp = strcmp(at, ".tmp") == 0;
    *index = value;
    return *tmp || *at == '\0';
}

static int by_index(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static bool list_add(struct index_list *list, uint64_t index)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 8 : 2 * list->capacity;
        uint64_t *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL) {
            return false;
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = index;
    return true;
}

static void listing_fini(struct listing *files)
{
    free(files->logs.items);
    free(files->snapshots.items);
    *files = (struct listing){0};
}

/* Find our files, and remove those that a crash left unfinished. Foreign files are left alone. */
static int store_list(struct mdl_store *store, struct listing *files, struct sti_err *err)
{
    *files = (struct listing){0};
    int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int error = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return store_error(store, err, "listing it", error);
    }
    int rc = STI_OK;
    for (;;) {
        uint64_t index;
        bool tmp, is_log;
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            rc = errno != 0 ? store_error(store, err, "listing it", errno) : STI_OK;
            break;
        }
        is_log = name_index(entry->d_name, log_prefix, &index, &tmp);
        if (!is_log && !name_index(entry->d_name, snapshot_prefix, &index, &tmp)) {
            continue;
        }
        if (tmp) {
            (void)unlinkat(store->dir_fd, entry->d_name, 0);
        } else if (!list_add(is_log ? &files->logs : &files->snapshots, index)) {
            rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory to list %s", mdl_shown(store->path));
            break;
        }
    }
    (void)closedir(dir);
    if (rc != STI_OK) {
        listing_fini(files);
        return rc;
    }
    if (files->logs.count > 0) {
        qsort(files->logs.items, files->logs.count, sizeof(uint64_t), by_index);
    }
    if (files->snapshots.count > 0) {
        qsort(files->snapshots.items, files->snapshots.count, sizeof(uint64_t), by_index);
    }
    return STI_OK;
}

/* Restore the newest sound snapshot. None at all is fine while log 0 is there; a damaged one is
 * passed over and remembered. */
static int store_restore(struct mdl_store *store, const struct listing *files, struct sti_err *err)
{
    struct mdl_recovery *recovery = &store->recovery;
    for (size_t i = files->snapshots.count; i > 0; i--) {
        uint64_t index = files->snapshots.items[i - 1];
        uint8_t *file;
        uint64_t len;
        int rc = mdl_snapshot_read(store->dir_fd, store->path, index, &file, &len, err);
        if (rc == STI_E_DATA_LOSS) {
            if (recovery->snapshots_damaged++ == 0 && err != NULL) {
                recovery->damage = *err;
            }
            continue;
        }
        if (rc != STI_OK) {
            return rc;
        }
        rc = store->fsm->restore(store->fsm_ctx, index, file + MDL_SNAPSHOT_HEADER_LEN,
                                 (size_t)(len - MDL_SNAPSHOT_HEADER_LEN), err);
        free(file);
        store->snapshot_index = index;
        store->snapshot_len = len;
        recovery->snapshot_index = index;
        return rc;
    }
    return STI_OK;
}

static int replay_apply(void *arg, uint64_t index, const void *command, size_t len,
                        struct sti_err *err)
{
    struct mdl_store *store = arg;
    int rc = store->fsm->apply(store->fsm_ctx, index, command, len, err);
    store->recovery.commands++;
    if (rc == STI_E_NO_MEMORY || rc == STI_E_DATA_LOSS) {
        return sti_err_wrap(err, rc, "applying command %" PRIu64, index);
    }
    sti_err_clear(err);
    return STI_OK;
}

/* No log holds the command that must come first: name the damage that led here, or the gap. */
static int store_gap(const struct mdl_store *store, struct sti_err *err)
{
    if (store->recovery.snapshots_damaged > 0 && err != NULL) {
        *err = store->recovery.damage;
        return STI_E_DATA_LOSS;
    }
    return sti_err_set(err, STI_E_DATA_LOSS,
                       "%s: position 0: no log holds the commands behind index %" PRIu64,
                       mdl_shown(store->path), store->snapshot_index);
}

/* Replay every log from the one that follows the snapshot; the last one stays open in store->log.
 */
static int store_replay(struct mdl_store *store, const struct listing *files, struct sti_err *err)
{
    const struct index_list *logs = &files->logs;
    size_t first = 0;
    while (first + 1 < logs->count && logs->items[first + 1] <= store->snapshot_index) {
        first++;
    }
    if (logs->count == 0 || logs->items[first] > store->snapshot_index) {
        return store_gap(store, err);
    }
    for (size_t i = first; i < logs->count; i++) {
        struct mdl_log *log = &store->log;
        int rc = mdl_log_open(log, store->dir_fd, store->path, logs->items[i], store->reserve_bytes,
                              err);
        if (rc == STI_OK) {
            rc = mdl_log_replay(log, store->snapshot_index, replay_apply, store, err);
        }
        if (rc != STI_OK) {
            return rc;
        }
        if (i + 1 == logs->count) {
            return STI_OK;
        }
        if (log->end_index != logs->items[i + 1]) {
            return sti_err_set(err, STI_E_DATA_LOSS,
                               "%s: position %" PRIu64 ": ends with command %" PRIu64
                               ", the next log follows %" PRIu64,
                               mdl_shown(log->path), log->pos, log->end_index, logs->items[i + 1]);
        }
        mdl_log_close(log);
    }
    return STI_OK;
}

/* Begin the log of base `base`; the present one is given up. */
static int store_new_log(struct mdl_store *store, uint64_t base, bool *uncertain,
                         struct sti_err *err)
{
    struct mdl_log log;
    int rc = mdl_log_create(&log, store->dir_fd, store->path, base, store->reserve_bytes, uncertain,
                            err);
    STI_CRASH_POINT("metadata.log.before_switch");
    if (rc == STI_OK) {
        mdl_log_give_back(&store->log);
        mdl_log_close(&store->log);
        store->log = log;
        mdl_log_reserve(&store->log); /* what the old one held may have been lacking */
    }
    return rc;
}

static int store_open_folder(struct mdl_store *store, struct sti_err *err)
{
    bool made = mkdir(store->path, 0750) == 0;
    if (!made && errno != EEXIST) {
        return store_error(store, err, "creating the folder", errno);
    }
    store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0) {
        return store_error(store, err, "opening the folder", errno);
    }
    if (made) {
        STI_CRASH_POINT("metadata.open.after_mkdir");
    }
    return STI_OK;
}

int mdl_store_begin(struct mdl_store *store, bool *uncertain, struct sti_err *err)
{
    *uncertain = false;
    char *above = strdup(store->path);
    if (above == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to begin %s", mdl_shown(store->path));
    }
    *strrchr(above, '/') = '\0';
    int fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) {
        (void)close(fd);
    }
    free(above);
    if (error != 0) {
        return store_error(store, err, "syncing the folder above it", error);
    }
    int rc = store_new_log(store, 0, uncertain, err);
    store->unborn = rc != STI_OK;
    return rc;
}

/* Everything of open but the folder itself. */
static int store_recover(struct mdl_store *store, const struct listing *files, struct sti_err *err)
{
    bool uncertain;
    int rc;
    if (files->logs.count == 0 && files->snapshots.count == 0) {
        store->unborn = true;
        return STI_OK;
    }
    rc = store_restore(store, files, err);
    STI_CRASH_POINT("metadata.open.after_restore");
    if (rc == STI_OK) {
        rc = store_replay(store, files, err);
    }
    STI_CRASH_POINT("metadata.open.after_replay");
    if (rc != STI_OK) {
        return rc;
    }
    store->recovery.cut_bytes = store->log.cut_bytes;
    if (store->log.end_index < store->snapshot_index) {
        /* The snapshot came out whole, the tail of the log before it did not. */
        return store_new_log(store, store->snapshot_index, &uncertain, err);
    }
    return mdl_log_finish_tail(&store->log, err);
}

int mdl_store_open(struct mdl_store *store, const char *data_dir, const char *instance,
                   uint64_t reserve_bytes, const struct sti_metadata_fsm *fsm, void *fsm_ctx,
                   struct sti_err *err)
{
    struct listing files = {0};
    *store = (struct mdl_store){.dir_fd = -1,
                                .log = {.fd = -1},
                                .fsm = fsm,
                                .fsm_ctx = fsm_ctx,
                                .reserve_bytes = reserve_bytes,
                                .path = mdl_join(data_dir, instance)};
    if (store->path == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to open %s", instance);
    }
    int rc = store_open_folder(store, err);
    if (rc == STI_OK) {
        rc = store_list(store, &files, err);
    }
    if (rc == STI_OK) {
        rc = store_recover(store, &files, err);
    }
    listing_fini(&files);
    if (rc != STI_OK) {
        mdl_store_close(store);
    }
    return rc;
}

/* Remove all snapshots but the two given, and the logs that end before the older of them. What
 * cannot be removed now is removed with the next snapshot. */
static void store_drop_old(struct mdl_store *store, uint64_t newest, uint64_t older)
{
    struct listing files;
    char name[32];
    if (store_list(store, &files, NULL) != STI_OK) {
        return;
    }
    for (size_t i = 0; i < files.snapshots.count; i++) {
        uint64_t index = files.snapshots.items[i];
        if (index != newest && index != older) {
            mdl_snapshot_name(name, index);
            (void)unlinkat(store->dir_fd, name, 0);
            STI_CRASH_POINT("metadata.drop.after_snapshot");
        }
    }
    for (size_t i = 0; i + 1 < files.logs.count; i++) {
        if (files.logs.items[i + 1] <= older) {
            mdl_log_name(name, files.logs.items[i]);
            (void)unlinkat(store->dir_fd, name, 0);
            STI_CRASH_POINT("metadata.drop.after_log");
        }
    }
    listing_fini(&files);
}

int mdl_store_snapshot(struct mdl_store *store, bool *uncertain, struct sti_err *err)
{
    uint64_t index = store->log.end_index, older = store->snapshot_index, len;
    *uncertain = false;
    int rc = mdl_snapshot_write(store->dir_fd, store->path, index, store->fsm, store->fsm_ctx, &len,
                                err);
    if (rc != STI_OK) {
        return rc;
    }
    store->snapshot_index = index;
    store->snapshot_len = len;
    STI_CRASH_POINT("metadata.snapshot.before_new_log");
    if (store->log.base < index) {
        rc = store_new_log(store, index, uncertain, err);
    }
    if (rc == STI_OK && older < index) {
        store_drop_old(store, index, older);
    }
    return rc;
}

void mdl_store_close(struct mdl_store *store)
{
    mdl_log_close(&store->log);
    if (store->dir_fd >= 0) {
        (void)close(store->dir_fd);
    }
    free(store->path);
    *store = (struct mdl_store){.dir_fd = -1, .log = {.fd = -1}};
}
