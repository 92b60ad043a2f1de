/* snapshot.c -- see snapshot.h. */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "streamit/fault.h"

enum { BUFFER_LEN = 64 * 1024 };

/* What the sink gathers until it writes. */
struct writer {
    int fd;
    uint64_t pos; /* of the file, behind what was written */
    uint32_t crc;
    size_t buffered;
    uint8_t *buffer;
    const char *path;
};

void mdl_snapshot_name(char name[32], uint64_t index)
{
    (void)snprintf(name, 32, "snapshot-%020" PRIu64, index);
}

static int snapshot_error(const char *path, struct sti_err *err, const char *what, int error)
{
    return sti_err_set(err, mdl_status_of(error), "%s: %s: %s", mdl_shown(path), what,
                       strerror(error));
}

static int writer_flush(struct writer *w, struct sti_err *err)
{
    int error = mdl_write_all(w->fd, w->buffer, w->buffered, w->pos);
    if (error != 0) {
        return snapshot_error(w->path, err, "writing it", error);
    }
    w->pos += w->buffered;
    w->buffered = 0;
    return STI_OK;
}

static int writer_write(void *ctx, const void *data, size_t len, struct sti_err *err)
{
    struct writer *w = ctx;
    const uint8_t *bytes = data;
    w->crc = sti_crc32c(w->crc, data, len);
    while (len > 0) {
        size_t part = BUFFER_LEN - w->buffered;
        part = part < len ? part : len;
        memcpy(w->buffer + w->buffered, bytes, part);
        w->buffered += part;
        bytes += part;
        len -= part;
        int rc = w->buffered == BUFFER_LEN ? writer_flush(w, err) : STI_OK;
        if (rc != STI_OK) {
            return rc;
        }
    }
    return STI_OK;
}

/* Fill the file of `w`: payload first, then the header that closes it, then sync. */
static int snapshot_fill(struct writer *w, uint64_t index, const struct sti_metadata_fsm *fsm,
                         void *fsm_ctx, struct sti_err *err)
{
    uint8_t header[MDL_SNAPSHOT_HEADER_LEN];
    const struct sti_metadata_sink sink = {.write = writer_write, .ctx = w};
    int rc = fsm->snapshot(fsm_ctx, &sink, err);
    if (rc == STI_OK) {
        rc = writer_flush(w, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    sti_command_snapshot_put(
        header, &(struct sti_command_snapshot){.index = index,
                                               .payload_len = w->pos - MDL_SNAPSHOT_HEADER_LEN,
                                               .payload_crc = w->crc});
    int error = STI_FAULT("metadata.snapshot.before_header");
    if (error == 0) {
        error = mdl_write_all(w->fd, header, sizeof header, 0);
    }
    if (error == 0 && (error = STI_FAULT("metadata.snapshot.before_sync")) == 0 &&
        fdatasync(w->fd) != 0) {
        error = errno;
    }
    return error == 0 ? STI_OK : snapshot_error(w->path, err, "closing it", error);
}

int mdl_snapshot_write(int dir_fd, const char *dir_path, uint64_t index,
                       const struct sti_metadata_fsm *fsm, void *fsm_ctx, uint64_t *len,
                       struct sti_err *err)
{
    char name[32], tmp[40];
    mdl_snapshot_name(name, index);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
    char *path = mdl_join(dir_path, name);
    struct writer w = {
        .fd = -1, .pos = MDL_SNAPSHOT_HEADER_LEN, .buffer = malloc(BUFFER_LEN), .path = path};
    int rc = STI_OK;
    *len = 0;
    if (path == NULL || w.buffer == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory to write %s", name);
        goto free_writer;
    }
    w.fd = openat(dir_fd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (w.fd < 0) {
        rc = snapshot_error(path, err, "creating it", errno);
        goto free_writer;
    }
    rc = snapshot_fill(&w, index, fsm, fsm_ctx, err);
    (void)close(w.fd);
    STI_CRASH_POINT("metadata.snapshot.before_rename");
    if (rc == STI_OK && renameat(dir_fd, tmp, dir_fd, name) != 0) {
        rc = snapshot_error(path, err, "renaming it", errno);
    }
    STI_CRASH_POINT("metadata.snapshot.after_rename");
    if (rc != STI_OK) {
        (void)unlinkat(dir_fd, tmp, 0);
    } else if (fsync(dir_fd) != 0) {
        rc = snapshot_error(path, err, "syncing its folder", errno);
    } else {
        *len = w.pos;
    }
free_writer:
    free(w.buffer);
    free(path);
    return rc;
}

static int snapshot_damage(const char *path, struct sti_err *err, uint64_t pos, const char *what)
{
    return sti_err_set(err, STI_E_DATA_LOSS, "%s: position %" PRIu64 ": %s", mdl_shown(path), pos,
                       what);
}

static int snapshot_check(const char *path, const uint8_t *file, uint64_t len, uint64_t index,
                          struct sti_err *err)
{
    struct sti_command_snapshot header;
    struct sti_err why;
    size_t pos;
    int rc = sti_command_snapshot_get(file, (size_t)len, &header, &pos, &why);
    if (rc == STI_E_UNSUPPORTED) {
        return sti_err_set(err, rc, "%s: %s", mdl_shown(path), why.msg);
    }
    if (rc != STI_OK) {
        return snapshot_damage(path, err, pos, why.msg);
    }
    if (header.index != index) {
        return snapshot_damage(path, err, 16, "the header belongs to another file");
    }
    if (header.payload_len != len - MDL_SNAPSHOT_HEADER_LEN) {
        return snapshot_damage(path, err, len, "the file has another length than its header says");
    }
    if (header.payload_crc !=
        sti_crc32c(0, file + MDL_SNAPSHOT_HEADER_LEN, (size_t)(len - MDL_SNAPSHOT_HEADER_LEN))) {
        return snapshot_damage(path, err, MDL_SNAPSHOT_HEADER_LEN,
                               "the payload's checksum is wrong");
    }
    return STI_OK;
}

int mdl_snapshot_read(int dir_fd, const char *dir_path, uint64_t index, uint8_t **file,
                      uint64_t *len, struct sti_err *err)
{
    char name[32];
    struct stat st;
    size_t got = 0;
    uint8_t *bytes = NULL;
    int rc;
    *file = NULL;
    *len = 0;
    mdl_snapshot_name(name, index);
    char *path = mdl_join(dir_path, name);
    if (path == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to read %s", name);
    }
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = snapshot_error(path, err, "opening it", errno);
        goto close_fd;
    }
    bytes = malloc((size_t)st.st_size + 1);
    if (bytes == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory for its %" PRIu64 " bytes",
                         mdl_shown(path), (uint64_t)st.st_size);
        goto close_fd;
    }
    int error = mdl_read_upto(fd, bytes, (size_t)st.st_size, 0, &got);
    rc = error != 0 ? snapshot_error(path, err, "reading it", error)
                    : snapshot_check(path, bytes, got, index, err);
close_fd:
    if (fd >= 0) {
        (void)close(fd);
    }
    free(path);
    if (rc == STI_OK) {
        *file = bytes;
        *len = got;
    } else {
        free(bytes);
    }
    return rc;
}
