/* blob.c -- small files of the broker's beside the log, replaced as a whole. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage_mmap.h"

enum { BLOB_BYTES_MAX = 1 << 30, BLOB_NAME_MAX = 64 };

static bool ends_with(const char *text, const char *suffix)
{
    size_t len = strlen(text), suffix_len = strlen(suffix);
    return len >= suffix_len && strcmp(text + len - suffix_len, suffix) == 0;
}

/* Names that are ours, or that could be taken for a path, are no blobs. */
static bool name_ok(const char *name)
{
    static const char *const taken[] = {STI_FILE_META, STI_FILE_RECOVERY, STI_FILE_LOG_START,
                                        STI_FILE_TRUNCATION, STI_FILE_DAMAGE};
    static const char *const suffixes[] = {".log", ".index", ".timeindex", ".swap", ".tmp"};
    size_t len = strlen(name);
    if (len < 1 || len > BLOB_NAME_MAX || name[0] == '.' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != len) {
        return false;
    }
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        if (strcmp(name, taken[i]) == 0) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (ends_with(name, suffixes[i])) {
            return false;
        }
    }
    return true;
}

int smm_blob_put(struct sti_storage_partition *part, const char *name, const void *data, size_t len,
                 struct sti_err *err)
{
    if (!name_ok(name) || len > BLOB_BYTES_MAX) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: \"%.64s\" is no name for a blob",
                           part->name, name);
    }
    pthread_mutex_lock(&part->side_mu);
    int dir_fd = smm_part_dir(part);
    int rc = dir_fd < 0 ? errno : smm_small_write(dir_fd, name, data, len, true);
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    pthread_mutex_unlock(&part->side_mu);
    return rc == 0 ? STI_OK
                   : sti_err_set(err, rc == ENOENT ? STI_E_IO : smm_errno_status(rc),
                                 "%s: write blob %s: %s", part->name, name, strerror(rc));
}

int smm_blob_get(struct sti_storage_partition *part, const char *name, void **data, size_t *len,
                 struct sti_err *err)
{
    char *text = NULL;
    *data = NULL;
    *len = 0;
    if (!name_ok(name)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: \"%.64s\" is no name for a blob",
                           part->name, name);
    }
    int dir_fd = smm_part_dir(part);
    int rc = dir_fd < 0 ? errno : smm_small_read(dir_fd, name, BLOB_BYTES_MAX, &text, len);
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    *data = text;
    return rc == 0 ? STI_OK
                   : sti_err_set(err, rc == EFBIG ? STI_E_IO : smm_errno_status(rc),
                                 "%s: read blob %s: %s", part->name, name, strerror(rc));
}
