/* identity.c -- see identity.h for the story. */
#include "kernel/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "streamit/fault.h"

enum { TEXT_BYTES_MAX = 512 };

static const char checksum_key[] = "crc32=";

uint32_t krn_identity_sum(const char *bytes, size_t len)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < len; i++) {
        crc ^= (unsigned char)bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
        }
    }
    return ~crc;
}

static int sync_folder(const char *path, struct sti_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    int cause = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    return rc == 0
               ? STI_OK
               : sti_err_set(err, STI_E_IO, "folder %s: cannot sync it: %s", path, strerror(cause));
}

/* Make the folder and those above it; out->made says from where on they are new. */
static int make_folder(const char *path, struct krn_identity *out, struct sti_err *err)
{
    char part[PATH_MAX];
    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part) {
        return sti_err_set(err, STI_E_IO, "data folder %.100s...: the path is too long", path);
    }
    for (char *slash = part + 1;; slash++) {
        const char *name = path + (slash - part);
        slash = strchr(slash, '/');
        if (slash != NULL) {
            *slash = '\0';
        }
        int rc = mkdir(part, 0750);
        if (rc != 0 && errno != EEXIST) {
            return sti_err_set(err, STI_E_IO, "data folder %s: cannot make %s: %s", path, part,
                               strerror(errno));
        }
        STI_CRASH_POINT("identity.after_mkdir");
        out->made = rc == 0 && out->made == NULL ? name : out->made;
        if (slash == NULL) {
            return STI_OK;
        }
        *slash = '/';
    }
}

/* Make the names of the new folders durable, each in the folder above it. */
static int sync_names(const struct krn_identity *identity, struct sti_err *err)
{
    char parent[PATH_MAX];
    int status = STI_OK;
    /* A life before may have made the folder, and ended before this. */
    const char *last = strrchr(identity->data_dir, '/') + 1;
    for (const char *name = identity->made == NULL ? last : identity->made;
         name != NULL && status == STI_OK;) {
        size_t len = (size_t)(name - identity->data_dir);
        memcpy(parent, identity->data_dir, len); /* ends with its '/' */
        parent[len] = '\0';
        status = sync_folder(parent, err);
        name = strchr(name, '/');
        name = name == NULL ? NULL : name + 1;
    }
    return status;
}

static int take_lock(const char *data_dir, int dir_fd, int *lock_fd, struct sti_err *err)
{
    char pid[32] = "";
    int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
        return sti_err_set(err, STI_E_IO, "data folder %s: cannot open its file lock: %s", data_dir,
                           strerror(errno));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int cause = errno;
        ssize_t len = pread(fd, pid, sizeof pid - 1, 0);
        pid[len > 0 ? (size_t)len : 0] = '\0';
        pid[strcspn(pid, " \n")] = '\0';
        (void)close(fd);
        if (cause != EWOULDBLOCK) {
            return sti_err_set(err, STI_E_IO, "data folder %s: cannot lock it: %s", data_dir,
                               strerror(cause));
        }
        return sti_err_set(err, STI_E_IN_USE,
                           "data folder %s is in use by process %s: stop that daemon, or choose "
                           "another node.data_dir",
                           data_dir, pid[0] == '\0' ? "(unknown)" : pid);
    }
    /* The lock is what counts; the number is for whoever finds it taken. It is written over the old
     * one, in place and padded, since a full disk may have no block for it once that is given up.
     */
    int len = snprintf(pid, sizeof pid, "%-20ld\n", (long)getpid());
    if (pwrite(fd, pid, (size_t)len, 0) != len && errno != ENOSPC && errno != EDQUOT) {
        int cause = errno;
        (void)close(fd);
        return sti_err_set(err, STI_E_IO, "data folder %s: cannot write its file lock: %s",
                           data_dir, strerror(cause));
    }
    STI_CRASH_POINT("identity.after_lock");
    *lock_fd = fd;
    return STI_OK;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int damaged(const char *data_dir, const char *what, struct sti_err *err)
{
    return sti_err_set(err, STI_E_DATA_LOSS,
                       "data folder %s: the file identity is damaged (%s): restore it from a "
                       "backup, or choose another node.data_dir",
                       data_dir, what);
}

/* The value of `key=` at the start of a line, up to its end. */
static bool value_of(const char *text, const char *key, char *out, size_t size)
{
    size_t key_len = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        size_t len = end == NULL ? strlen(line) : (size_t)(end - line);
        if (len >= key_len && strncmp(line, key, key_len) == 0 && len - key_len < size) {
            memcpy(out, line + key_len, len - key_len);
            out[len - key_len] = '\0';
            return true;
        }
        line = end == NULL ? NULL : end + 1;
    }
    return false;
}

static int parse(const char *data_dir, const char *text, int32_t node_id, struct krn_identity *out,
                 struct sti_err *err)
{
    char value[64], expected[64];
    const char *sum_at = strstr(text, checksum_key);
    if (sum_at == NULL || !value_of(sum_at, checksum_key, value, sizeof value)) {
        return damaged(data_dir, "no checksum", err);
    }
    uint32_t sum = krn_identity_sum(text, (size_t)(sum_at - text));
    (void)snprintf(expected, sizeof expected, "%s%08" PRIx32 "\n", checksum_key, sum);
    if (strcmp(sum_at, expected) != 0) { /* exactly that, and the end of the file */
        char what[80];
        (void)snprintf(what, sizeof what, "checksum %.8s, its content has %08" PRIx32, value, sum);
        return damaged(data_dir, what, err);
    }
    if (!value_of(text, "format_version=", value, sizeof value)) {
        return damaged(data_dir, "no format_version", err);
    }
    long format = strtol(value, NULL, 10);
    if (format > KRN_IDENTITY_FORMAT) {
        return sti_err_set(err, STI_E_PRECONDITION,
                           "data folder %s: format_version %ld, this StreamIt knows %d: upgrade "
                           "StreamIt",
                           data_dir, format, KRN_IDENTITY_FORMAT);
    }
    if (!value_of(text, "node_id=", value, sizeof value)) {
        return damaged(data_dir, "no node_id", err);
    }
    long owner = strtol(value, NULL, 10);
    if (owner != node_id) {
        return sti_err_set(err, STI_E_PRECONDITION,
                           "data folder %s belongs to node_id %ld, node.node_id is %" PRId32
                           ": correct node.node_id or node.data_dir",
                           data_dir, owner, node_id);
    }
    if (!value_of(text, "cluster_id=", value, sizeof value) ||
        strspn(value, "0123456789abcdef") != KRN_CLUSTER_ID_LEN ||
        strlen(value) != KRN_CLUSTER_ID_LEN) {
        return damaged(data_dir, "no cluster_id", err);
    }
    memcpy(out->cluster_id, value, KRN_CLUSTER_ID_LEN + 1);
    out->node_id = node_id;
    return STI_OK;
}

static int choose_new(const char *data_dir, int32_t node_id, struct krn_identity *out,
                      struct sti_err *err)
{
    unsigned char id[KRN_CLUSTER_ID_LEN / 2];
    if (getrandom(id, sizeof id, 0) != (ssize_t)sizeof id) {
        return sti_err_set(err, STI_E_IO, "data folder %s: no random bytes for a cluster id",
                           data_dir);
    }
    for (size_t i = 0; i < sizeof id; i++) {
        (void)snprintf(out->cluster_id + 2 * i, 3, "%02x", id[i]);
    }
    out->node_id = node_id;
    out->created = 1;
    return STI_OK;
}

/* @return 0 or an errno */
static int write_new(const struct krn_identity *identity, int dir_fd)
{
    char text[TEXT_BYTES_MAX];
    int len = snprintf(text, sizeof text, "format_version=%d\ncluster_id=%s\nnode_id=%" PRId32 "\n",
                       KRN_IDENTITY_FORMAT, identity->cluster_id, identity->node_id);
    uint32_t sum = krn_identity_sum(text, (size_t)len);
    len += snprintf(text + len, sizeof text - (size_t)len, "%s%08" PRIx32 "\n", checksum_key, sum);
    int fd = openat(dir_fd, "identity.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    int cause = fd < 0 ? errno : STI_FAULT("identity.before_write");
    if (cause == 0) {
        ssize_t n = write(fd, text, (size_t)len);
        cause = n < 0 ? errno : n < len ? ENOSPC : fsync(fd) != 0 ? errno : 0;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    if (cause == 0 && (cause = STI_FAULT("identity.before_rename")) == 0 &&
        renameat(dir_fd, "identity.tmp", dir_fd, "identity") != 0) {
        cause = errno;
    }
    STI_CRASH_POINT("identity.after_rename");
    return cause;
}

int krn_identity_settle(const struct krn_identity *identity, struct sti_err *err)
{
    const char *data_dir = identity->data_dir;
    if (identity->created == 0) {
        return STI_OK;
    }
    if (sync_names(identity, err) != STI_OK) {
        return STI_E_IO;
    }
    int dir_fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int cause = dir_fd < 0 ? errno : write_new(identity, dir_fd);
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    if (cause != 0) {
        return sti_err_set(err, STI_E_IO, "data folder %s: cannot write its file identity: %s",
                           data_dir, strerror(cause));
    }
    return sync_folder(data_dir, err);
}

static int read_or_make(const char *data_dir, int dir_fd, int32_t node_id, struct krn_identity *out,
                        struct sti_err *err)
{
    char text[TEXT_BYTES_MAX];
    int fd = openat(dir_fd, "identity", O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        return choose_new(data_dir, node_id, out, err);
    }
    ssize_t len = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    int cause = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (len < 0) {
        return sti_err_set(err, STI_E_IO, "data folder %s: cannot read its file identity: %s",
                           data_dir, strerror(cause));
    }
    text[len] = '\0';
    return parse(data_dir, text, node_id, out, err);
}

int krn_identity_open(const char *data_dir, int32_t node_id, struct krn_identity *out,
                      struct sti_err *err)
{
    *out = (struct krn_identity){.lock_fd = -1, .node_id = node_id, .data_dir = data_dir};
    int status = make_folder(data_dir, out, err);
    if (status != STI_OK) {
        return status;
    }
    int dir_fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        return sti_err_set(err, STI_E_IO, "data folder %s: %s", data_dir, strerror(errno));
    }
    status = take_lock(data_dir, dir_fd, &out->lock_fd, err);
    if (status == STI_OK) {
        status = read_or_make(data_dir, dir_fd, node_id, out, err);
    }
    (void)close(dir_fd);
    if (status != STI_OK) {
        krn_identity_close(out);
    }
    return status;
}

void krn_identity_close(struct krn_identity *identity)
{
    if (identity->lock_fd >= 0) {
        (void)close(identity->lock_fd);
        identity->lock_fd = -1;
    }
}
