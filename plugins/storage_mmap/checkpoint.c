/* checkpoint.c -- the small text files of a partition, each replaced as a whole.
 *
 *     partition.metadata         version: 0
 *                                topic_id: <32 hex>
 *     recovery-point             1
 *                                <recovery point> <boot id or ->
 *                                clean <end> <base> <size> <timestamp> <epoch>    or: dirty
 *                                <CRC-32C of the lines above, 8 hex>
 *     log-start-offset           0
 *     and truncation             <offset>
 *
 * A file is written under a temporary name, synced, and renamed over the old one, so that a reader
 * finds the old or the new text, never a mixture. One that cannot be understood counts as absent:
 * each of them only saves work, or (the metadata) is checked against what the caller knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

/* Replace the file `name` of the folder.
 * @param sync  also survive a loss of power
 * @return 0 or an errno; on failure the old file stands */
int smm_small_write(int dir_fd, const char *name, const void *data, size_t len, bool sync)
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
    if (rc == 0 && sync && fdatasync(fd) != 0) {
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
    return sync && fsync(dir_fd) != 0 ? errno : 0;
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

/* Step over `word`, if the text goes on with it. */
static bool take_word(const char **text, const char *word)
{
    size_t len = strlen(word);
    if (strncmp(*text, word, len) != 0) {
        return false;
    }
    *text += len;
    return true;
}

/* Read a decimal number, and step over it and the one character that must stand behind it.
 * @return false for anything else, and for a number that is not from `min` to `max` */
static bool take_number(const char **text, char behind, int64_t min, int64_t max, int64_t *out)
{
    char *end = NULL;
    if (**text != '-' && (**text < '0' || **text > '9')) {
        return false; /* strtoll would pass over spaces and newlines */
    }
    errno = 0;
    long long value = strtoll(*text, &end, 10);
    if (errno != 0 || *end != behind || value < min || value > max) {
        return false;
    }
    *text = end + 1;
    *out = value;
    return true;
}

/* The value of a lower case hexadecimal digit, or -1. */
static int hex_value(char digit)
{
    const char *digits = "0123456789abcdef";
    const char *found = digit == '\0' ? NULL : strchr(digits, digit);
    return found == NULL ? -1 : (int)(found - digits);
}

/* Read `len` bytes of two hexadecimal digits each. */
static bool take_hex(const char **text, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int high = hex_value((*text)[0]);
        int low = high < 0 ? -1 : hex_value((*text)[1]);
        if (low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
        *text += 2;
    }
    return true;
}

int smm_meta_write(int dir_fd, const uint8_t topic_id[16])
{
    char text[80];
    int n = snprintf(text, sizeof text, "version: 0\ntopic_id: ");
    for (unsigned i = 0; i < 16; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "%02x", topic_id[i]);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "\n");
    return smm_small_write(dir_fd, SMM_FILE_META, text, (size_t)n, true);
}

/* @return 0; ENOENT; EPROTO for text that is not ours; EPROTONOSUPPORT for a newer version */
int smm_meta_read(int dir_fd, uint8_t topic_id[16])
{
    char *text;
    size_t len;
    int rc = smm_small_read(dir_fd, SMM_FILE_META, 4096, &text, &len);
    if (rc != 0) {
        return rc == EFBIG ? EPROTO : rc;
    }
    const char *next = text;
    int64_t version = 0;
    uint8_t id[16];
    if (!take_word(&next, "version: ") || !take_number(&next, '\n', 0, INT64_MAX, &version)) {
        rc = EPROTO;
    } else if (version != 0) {
        rc = EPROTONOSUPPORT;
    } else if (!take_word(&next, "topic_id: ") || !take_hex(&next, id, sizeof id)) {
        rc = EPROTO;
    } else {
        memcpy(topic_id, id, sizeof id);
    }
    free(text);
    return rc;
}

/* @param sync  false: to note this boot, which may be lost with it
 * @locks part->side_mu held, except while the partition is opened */
int smm_checkpoint_write(struct sti_storage_partition *part, const struct smm_checkpoint *point,
                         bool sync)
{
    char text[320];
    const char *boot = part->store->boot_id[0] != '\0' ? part->store->boot_id : "-";
    int n = snprintf(text, sizeof text, "1\n%" PRId64 " %s\n", point->recovery_point, boot);
    if (point->clean) {
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "clean %" PRId64 " %" PRId64 " %" PRIu32 " %" PRId64 " %" PRId32 "\n",
                      point->written_end, point->active_base, point->active_size,
                      point->max_timestamp, point->last_epoch);
    } else {
        n += snprintf(text + n, sizeof text - (size_t)n, "dirty\n");
    }
    uint32_t crc = sti_crc32c(0, text, (size_t)n);
    n += snprintf(text + n, sizeof text - (size_t)n, "%08" PRIx32 "\n", crc);
    int dir_fd = smm_part_dir(part);
    if (dir_fd < 0) {
        return errno;
    }
    int rc = smm_small_write(dir_fd, SMM_FILE_RECOVERY, text, (size_t)n, sync);
    (void)close(dir_fd);
    if (rc == 0) {
        part->recovery_point = point->recovery_point;
        part->boot_noted = true;
    }
    return rc;
}

/* Does the text end with its own checksum? */
static bool checksum_holds(const char *text, size_t len)
{
    uint8_t stored[4];
    if (len < 9 || text[len - 1] != '\n') {
        return false;
    }
    const char *hex = text + len - 9;
    if (!take_hex(&hex, stored, sizeof stored)) {
        return false;
    }
    uint32_t crc = (uint32_t)stored[0] << 24 | (uint32_t)stored[1] << 16 |
                   (uint32_t)stored[2] << 8 | stored[3];
    return sti_crc32c(0, text, len - 9) == crc;
}

/* Step over the boot id and the end of its line. */
static bool take_boot_id(const char **text, char out[37])
{
    size_t len = strspn(*text, "0123456789abcdef-");
    if (len == 0 || len > 36 || (*text)[len] != '\n') {
        return false;
    }
    memcpy(out, *text, len);
    out[len] = '\0';
    *text += len + 1;
    return true;
}

/* The line that an orderly end leaves. */
static bool take_clean(const char **text, struct smm_checkpoint *out)
{
    int64_t size = 0, epoch = 0;
    bool ok = take_number(text, ' ', 0, INT64_MAX, &out->written_end) &&
              take_number(text, ' ', 0, INT64_MAX, &out->active_base) &&
              take_number(text, ' ', 0, UINT32_MAX, &size) &&
              take_number(text, ' ', INT64_MIN, INT64_MAX, &out->max_timestamp) &&
              take_number(text, '\n', INT32_MIN, INT32_MAX, &epoch);
    out->active_size = (uint32_t)size;
    out->last_epoch = (int32_t)epoch;
    return ok;
}

/* @return false when there is none, or none that can be believed: *point then says 0 and not clean
 */
bool smm_checkpoint_read(int dir_fd, struct smm_checkpoint *point)
{
    memset(point, 0, sizeof *point);
    point->last_epoch = -1;
    point->max_timestamp = -1;
    char *text;
    size_t len;
    if (smm_small_read(dir_fd, SMM_FILE_RECOVERY, 4096, &text, &len) != 0) {
        return false;
    }
    struct smm_checkpoint got = *point;
    const char *next = text;
    bool ok = checksum_holds(text, len) && take_word(&next, "1\n") &&
              take_number(&next, ' ', 0, INT64_MAX, &got.recovery_point) &&
              take_boot_id(&next, got.boot_id);
    if (ok && take_word(&next, "clean ")) {
        got.clean = take_clean(&next, &got);
        ok = got.clean;
    }
    free(text);
    if (ok) {
        *point = got;
    }
    return ok;
}

int smm_offset_write(int dir_fd, const char *name, int64_t offset)
{
    char text[40];
    int n = snprintf(text, sizeof text, "0\n%" PRId64 "\n", offset);
    return smm_small_write(dir_fd, name, text, (size_t)n, true);
}

bool smm_offset_read(int dir_fd, const char *name, int64_t *offset)
{
    char *text;
    size_t len;
    if (smm_small_read(dir_fd, name, 4096, &text, &len) != 0) {
        return false;
    }
    const char *next = text;
    int64_t value = -1;
    bool ok = take_word(&next, "0\n") && take_number(&next, '\n', 0, INT64_MAX, &value);
    free(text);
    if (ok) {
        *offset = value;
    }
    return ok;
}
