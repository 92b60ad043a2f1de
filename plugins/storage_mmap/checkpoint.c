/* checkpoint.c -- the small text files of a partition, each replaced as a whole.
 *
 * Their texts are those of streamit/log_files.h. A file is written under a temporary name, synced,
 * and renamed over the old one, so that a reader finds the old or the new text, never a mixture.
 * One that cannot be understood counts as absent: each of them only saves work, or (the metadata)
 * is checked against what the caller knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

int smm_errno_status(int err_no)
{
    switch (err_no) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return STI_E_DISK_FULL;
    case EMFILE:
    case ENFILE:
        return STI_E_RESOURCE_EXHAUSTED;
    case ENOMEM:
        return STI_E_NO_MEMORY;
    case ENOENT:
        return STI_E_NOT_FOUND;
    default:
        return STI_E_IO;
    }
}

static int write_full(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? EIO : errno;
        }
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Replace the file `name` of the folder. Its bytes are synced before they get the name, always:
 * after a loss of power the old file or the new one stands there, never one that is empty or half
 * written.
 * @param last  the new one survives a loss of power
 * @return 0 or an errno; on failure the old file stands */
int smm_small_write(int dir_fd, const char *name, const void *data, size_t len, bool last)
{
    char tmp[96];
    int n = snprintf(tmp, sizeof tmp, "%s.tmp", name);
    if (n < 0 || (size_t)n >= sizeof tmp) {
        return ENAMETOOLONG;
    }
    int fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
        return errno;
    }
    int rc = STI_FAULT("small.write");
    if (rc == 0) {
        rc = write_full(fd, data, len);
    }
    if (rc == 0 && (rc = STI_FAULT("small.before_sync")) == 0 && fdatasync(fd) != 0) {
        rc = errno;
    }
    if (close(fd) != 0 && rc == 0) {
        rc = errno;
    }
    if (rc == 0 && (rc = STI_FAULT("small.before_rename")) == 0 &&
        renameat(dir_fd, tmp, dir_fd, name) != 0) {
        rc = errno;
    }
    if (rc != 0) {
        (void)unlinkat(dir_fd, tmp, 0);
        return rc;
    }
    rc = STI_FAULT("small.after_rename");
    return rc == 0 && last && fsync(dir_fd) != 0 ? errno : rc;
}

/* Read a file as a whole, with a terminating null that `len` does not count.
 * @param data  returned: the caller frees it
 * @return 0 or an errno; EFBIG when it is larger than `max` */
int smm_small_read(int dir_fd, const char *name, size_t max, char **data, size_t *len)
{
    *data = NULL;
    *len = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        int why = errno;
        return why != 0 ? why : EIO; /* 0 would promise data */
    }
    struct stat st;
    int rc = fstat(fd, &st) != 0 ? errno : 0;
    if (rc == 0 && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)) {
        rc = EFBIG;
    }
    char *buf = rc == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    if (rc == 0 && buf == NULL) {
        rc = ENOMEM;
    }
    size_t got = 0;
    if (rc == 0) {
        rc = smm_pread(fd, buf, (size_t)st.st_size, 0, false, &got);
    }
    (void)close(fd);
    if (rc != 0) {
        free(buf);
        return rc;
    }
    buf[got] = '\0';
    *data = buf;
    *len = got;
    return 0;
}

int smm_meta_write(int dir_fd, const uint8_t topic_id[16])
{
    char text[80];
    int n = sti_meta_format(text, sizeof text, topic_id);
    return smm_small_write(dir_fd, STI_FILE_META, text, (size_t)n, true);
}

/* @return 0; ENOENT; EPROTO for text that is not ours; EPROTONOSUPPORT for a newer version */
int smm_meta_read(int dir_fd, uint8_t topic_id[16])
{
    char *text;
    size_t len;
    int rc = smm_small_read(dir_fd, STI_FILE_META, STI_SMALL_FILE_MAX, &text, &len);
    if (rc != 0) {
        return rc == EFBIG ? EPROTO : rc;
    }
    int parsed = sti_meta_parse(text, len, topic_id, NULL, NULL);
    free(text);
    return parsed == STI_OK ? 0 : parsed == STI_E_UNSUPPORTED ? EPROTONOSUPPORT : EPROTO;
}

/* @param last  false: to note this boot, which may be lost with it; the note before it stands then
 * @locks part->side_mu held, except while the partition is opened */
int smm_checkpoint_write(struct sti_storage_partition *part, const struct sti_recovery_point *point,
                         bool last)
{
    char text[320];
    struct sti_recovery_point noted = *point;
    memcpy(noted.boot_id, part->store->boot_id, sizeof noted.boot_id);
    pthread_mutex_lock(&part->mu);
    noted.has_log = true;
    noted.log_start = part->log_start;
    for (uint32_t i = 0; point->clean && i < part->seg_count; i++) {
        noted.segment_count += part->segs[i]->exists ? 1 : 0;
    }
    pthread_mutex_unlock(&part->mu);
    int n = sti_recovery_point_format(text, sizeof text, &noted);
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return errno;
    }
    int rc = smm_small_write(dir_fd, STI_FILE_RECOVERY, text, (size_t)n, last);
    (void)close(dir_fd);
    if (rc == 0) {
        part->recovery_point = point->recovery_point;
        part->boot_noted = true;
    }
    return rc;
}

/* @return false when there is none, or none that can be believed: *point then says 0 and not clean
 */
bool smm_checkpoint_read(int dir_fd, struct sti_recovery_point *point)
{
    char *text;
    size_t len;
    *point = (struct sti_recovery_point){.last_epoch = -1, .max_timestamp = -1};
    if (smm_small_read(dir_fd, STI_FILE_RECOVERY, STI_SMALL_FILE_MAX, &text, &len) != 0) {
        return false;
    }
    bool ok = sti_recovery_point_parse(text, len, point, NULL, NULL) == STI_OK;
    free(text);
    return ok;
}

int smm_offset_write(int dir_fd, const char *name, int64_t offset)
{
    char text[40];
    int n = sti_offset_format(text, sizeof text, offset);
    return smm_small_write(dir_fd, name, text, (size_t)n, true);
}

bool smm_offset_read(int dir_fd, const char *name, int64_t *offset)
{
    char *text;
    size_t len;
    if (smm_small_read(dir_fd, name, STI_SMALL_FILE_MAX, &text, &len) != 0) {
        return false;
    }
    bool ok = sti_offset_parse(text, len, offset, NULL, NULL) == STI_OK;
    free(text);
    return ok;
}
