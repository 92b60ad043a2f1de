/* log.c -- see log.h. */
#include "log.h"

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

enum {
    SCAN_BLOCK = 64 * 1024,
    RESERVE_SLACK = 8192 /* what a file system may count for itself among a file's blocks */
};

void mdl_log_name(char name[32], uint64_t base)
{
    (void)snprintf(name, 32, "log-%020" PRIu64, base);
}

static uint64_t round_up(uint64_t pos)
{
    return (pos + MDL_SECTOR - 1) / MDL_SECTOR * MDL_SECTOR;
}

static int log_error(const struct mdl_log *log, struct sti_err *err, const char *what, int error)
{
    return sti_err_set(err, mdl_status_of(error), "%s: %s: %s", mdl_shown(log->path), what,
                       strerror(error));
}

static int log_damage(const struct mdl_log *log, struct sti_err *err, uint64_t pos,
                      const char *what)
{
    return sti_err_set(err, STI_E_DATA_LOSS, "%s: position %" PRIu64 ": %s", mdl_shown(log->path),
                       pos, what);
}

/* Make the scratch buffer at least `len` bytes. */
static int frame_room(struct mdl_log *log, size_t len, struct sti_err *err)
{
    if (len <= log->frame_capacity) {
        return STI_OK;
    }
    uint8_t *frame = realloc(log->frame, len);
    if (frame == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory for a frame of %zu bytes",
                           mdl_shown(log->path), len);
    }
    log->frame = frame;
    log->frame_capacity = len;
    return STI_OK;
}

/* A file system that cannot reserve is served without; on a full one as much is kept as there is,
 * which is remembered in `low`. */
void mdl_log_reserve(struct mdl_log *log)
{
    uint64_t ahead = log->reserved_pos > log->pos ? log->reserved_pos - log->pos : 0;
    log->low = false;
    if (ahead > log->reserve_bytes / 2) {
        return;
    }
    for (uint64_t len = log->reserve_bytes; len > ahead && len >= MDL_SECTOR; len /= 2) {
        if (fallocate(log->fd, FALLOC_FL_KEEP_SIZE, (off_t)log->pos, (off_t)len) == 0) {
            log->reserved_pos = log->pos + len;
            return;
        }
        if (mdl_status_of(errno) != STI_E_DISK_FULL) {
            return;
        }
        log->low = true;
    }
}

/* Is there room for a frame of `len` bytes? Asked before it is written, since a frame that fits
 * only in part has to be cut off again, and the reserve behind it with it.
 * @return 0, or the errno of a full disk */
static int log_room(struct mdl_log *log, uint64_t len)
{
    if (log->pos + len <= log->reserved_pos ||
        fallocate(log->fd, FALLOC_FL_KEEP_SIZE, (off_t)log->pos, (off_t)len) == 0) {
        return 0;
    }
    return mdl_status_of(errno) == STI_E_DISK_FULL ? errno : 0; /* else the write will tell */
}

static int log_init(struct mdl_log *log, const char *dir_path, uint64_t base,
                    uint64_t reserve_bytes, struct sti_err *err)
{
    char name[32];
    mdl_log_name(name, base);
    *log = (struct mdl_log){.fd = -1,
                            .base = base,
                            .end_index = base,
                            .pos = MDL_LOG_HEADER_LEN,
                            .reserved_pos = MDL_LOG_HEADER_LEN,
                            .reserve_bytes = reserve_bytes};
    log->path = mdl_join(dir_path, name);
    if (log->path == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to open %s", name);
    }
    return STI_OK;
}

int mdl_log_create(struct mdl_log *log, int dir_fd, const char *dir_path, uint64_t base,
                   uint64_t reserve_bytes, bool *uncertain, struct sti_err *err)
{
    char name[32], tmp[40];
    uint8_t header[MDL_LOG_HEADER_LEN];
    const char *what = "creating it";
    *uncertain = false;
    int rc = log_init(log, dir_path, base, reserve_bytes, err);
    if (rc != STI_OK) {
        return rc;
    }
    mdl_log_name(name, base);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
    sti_command_log_header_put(header, base);

    int error = 0;
    log->fd = openat(dir_fd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (log->fd < 0) {
        error = errno;
    }
    if (error == 0) {
        what = "writing its header";
        error = STI_FAULT("metadata.log.before_header");
    }
    if (error == 0) {
        error = mdl_write_all(log->fd, header, sizeof header, 0);
    }
    if (error == 0) {
        what = "syncing it";
        mdl_log_reserve(log);
        error = STI_FAULT("metadata.log.before_sync");
    }
    if (error == 0) {
        error = fdatasync(log->fd) != 0 ? errno : STI_FAULT("metadata.log.before_rename");
    }
    if (error == 0) {
        what = "renaming it";
        error = renameat(dir_fd, tmp, dir_fd, name) != 0 ? errno : 0;
    }
    STI_CRASH_POINT("metadata.log.after_rename");
    if (error == 0 && fsync(dir_fd) != 0) {
        what = "syncing its folder";
        error = errno;
        *uncertain = true;
    }
    if (error == 0) {
        log->ready = true;
        return STI_OK;
    }
    rc = log_error(log, err, what, error);
    if (!*uncertain) {
        (void)unlinkat(dir_fd, tmp, 0);
    }
    mdl_log_close(log);
    return rc;
}

static int log_check_header(const struct mdl_log *log, struct sti_err *err)
{
    uint8_t header[MDL_LOG_HEADER_LEN];
    size_t got;
    int error = mdl_read_upto(log->fd, header, sizeof header, 0, &got);
    if (error != 0) {
        return log_error(log, err, "reading its header", error);
    }
    struct sti_err why;
    uint64_t base;
    size_t pos;
    int rc = sti_command_log_header_get(header, got, &base, &pos, &why);
    if (rc == STI_E_UNSUPPORTED) {
        return sti_err_set(err, rc, "%s: %s", mdl_shown(log->path), why.msg);
    }
    if (rc != STI_OK) {
        return log_damage(log, err, pos, why.msg);
    }
    return base == log->base ? STI_OK
                             : log_damage(log, err, 16, "the header belongs to another file");
}

int mdl_log_open(struct mdl_log *log, int dir_fd, const char *dir_path, uint64_t base,
                 uint64_t reserve_bytes, struct sti_err *err)
{
    char name[32];
    int rc = log_init(log, dir_path, base, reserve_bytes, err);
    if (rc != STI_OK) {
        return rc;
    }
    mdl_log_name(name, base);
    log->fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC);
    if (log->fd < 0) {
        rc = log_error(log, err, "opening it", errno);
    } else {
        rc = log_check_header(log, err);
    }
    if (rc != STI_OK) {
        mdl_log_close(log);
    }
    return rc;
}

static bool all_zero(const uint8_t *data, size_t len)
{
    size_t i = 0;
    while (i < len && data[i] == 0) {
        i++;
    }
    return i == len;
}

/* Read the frame at `pos` into the scratch buffer and judge it by itself.
 * @return STI_OK with *state, STI_E_IO, STI_E_NO_MEMORY */
static int frame_read(struct mdl_log *log, uint64_t pos, struct sti_command_frame *header,
                      int *state, struct sti_err *err)
{
    size_t got;
    *state = STI_FRAME_BAD;
    *header = (struct sti_command_frame){0};
    int rc = frame_room(log, MDL_SECTOR, err);
    if (rc != STI_OK) {
        return rc;
    }
    int error = mdl_read_upto(log->fd, log->frame, MDL_SECTOR, pos, &got);
    if (error != 0) {
        return log_error(log, err, "reading a frame", error);
    }
    *state = sti_command_frame_head(log->frame, got, header);
    if (*state != STI_FRAME_SOUND) {
        return STI_OK;
    }
    rc = frame_room(log, header->len, err);
    if (rc != STI_OK) {
        return rc;
    }
    error = mdl_read_upto(log->fd, log->frame, header->len, pos, &got);
    if (error != 0) {
        return log_error(log, err, "reading a frame", error);
    }
    *state = sti_command_frame_judge(log->frame, got, header);
    return STI_OK;
}

/* Is there anything but zeros from `pos` to the end, and is there a sound frame behind `pos`?
 * @return STI_OK, STI_E_IO, STI_E_NO_MEMORY */
static int scan_behind(struct mdl_log *log, uint64_t pos, uint64_t size, bool *data_found,
                       bool *frame_found, struct sti_err *err)
{
    struct sti_command_frame header;
    int state;
    uint8_t *block = malloc(SCAN_BLOCK);
    int rc = STI_OK;
    *data_found = false;
    *frame_found = false;
    if (block == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to scan a log");
    }
    for (uint64_t at = pos; rc == STI_OK && !*frame_found && at < size; at += SCAN_BLOCK) {
        size_t got;
        int error = mdl_read_upto(log->fd, block, SCAN_BLOCK, at, &got);
        if (error != 0) {
            rc = log_error(log, err, "scanning it", error);
            break;
        }
        *data_found = *data_found || !all_zero(block, got);
        for (size_t i = at == pos ? MDL_SECTOR : 0;
             rc == STI_OK && !*frame_found && i + MDL_FRAME_HEADER_LEN <= got; i += MDL_SECTOR) {
            if (sti_command_frame_head(block + i, got - i, &header) == STI_FRAME_SOUND &&
                header.first > log->end_index) {
                rc = frame_read(log, at + i, &header, &state, err);
                *frame_found = rc == STI_OK && state == STI_FRAME_SOUND;
            }
        }
    }
    free(block);
    return rc;
}

/* The frame at log->pos is not sound: end of the log, unfinished tail, or damage? */
static int judge_end(struct mdl_log *log, int state, struct sti_err *err)
{
    struct stat st;
    bool data_found, frame_found;
    if (fstat(log->fd, &st) != 0) {
        return log_error(log, err, "asking its size", errno);
    }
    uint64_t size = (uint64_t)st.st_size;
    int rc = scan_behind(log, log->pos, size, &data_found, &frame_found, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (frame_found) {
        return log_damage(log, err, log->pos, "a damaged frame with sound ones behind it");
    }
    if (state == STI_FRAME_BAD) {
        return log_damage(log, err, log->pos, "the frame's checksum is wrong");
    }
    log->cut_bytes = data_found ? size - log->pos : 0;
    return STI_OK;
}

/* Hand out the commands of the sound frame in the scratch buffer. */
static int frame_visit(struct mdl_log *log, const struct sti_command_frame *header, uint64_t after,
                       mdl_visit_fn *visit, void *arg, struct sti_err *err)
{
    const uint8_t *command;
    size_t at = 0, len;
    uint32_t taken = 0;
    int rc;
    while ((rc = sti_command_next(log->frame, header, &taken, &at, &command, &len)) == STI_OK) {
        uint64_t index = header->first + taken - 1;
        rc = index > after ? visit(arg, index, command, len, err) : STI_OK;
        if (rc != STI_OK) {
            return rc;
        }
    }
    return rc == STI_E_END ? STI_OK
                           : log_damage(log, err, log->pos, "its commands do not fill the frame");
}

int mdl_log_replay(struct mdl_log *log, uint64_t after, mdl_visit_fn *visit, void *arg,
                   struct sti_err *err)
{
    for (;;) {
        struct sti_command_frame header;
        int state;
        int rc = frame_read(log, log->pos, &header, &state, err);
        if (rc != STI_OK) {
            return rc;
        }
        if (state != STI_FRAME_SOUND) {
            return judge_end(log, state, err);
        }
        if (header.first != log->end_index + 1) {
            return log_damage(log, err, log->pos, "the frame's index does not follow");
        }
        rc = frame_visit(log, &header, after, visit, arg, err);
        if (rc != STI_OK) {
            return rc;
        }
        log->end_index += header.count;
        log->last_pos = log->pos;
        log->pos += round_up(header.len);
    }
}

/* How far the file is allocated, at least: a life before may have reserved space, which is there
 * also when the disk is full by now. Nothing but zeros stands in it, since the size ends at pos. */
static uint64_t reserve_found(const struct mdl_log *log)
{
    struct stat st;
    uint64_t blocks = fstat(log->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512u : 0;
    return blocks > log->pos + RESERVE_SLACK ? blocks - RESERVE_SLACK : log->pos;
}

int mdl_log_finish_tail(struct mdl_log *log, struct sti_err *err)
{
    struct stat st;
    if (fstat(log->fd, &st) != 0) {
        return log_error(log, err, "asking its size", errno);
    }
    STI_CRASH_POINT("metadata.tail.before_cut");
    /* Also where nothing but zeros follows: what lies behind the end is then freshly allocated. */
    if ((uint64_t)st.st_size > log->pos && ftruncate(log->fd, (off_t)log->pos) != 0) {
        return log_error(log, err, "cutting its tail", errno);
    }
    STI_CRASH_POINT("metadata.tail.after_cut");
    log->reserved_pos = reserve_found(log);
    mdl_log_reserve(log);
    if (log->last_pos > 0) {
        struct sti_command_frame header;
        int state;
        int rc = frame_read(log, log->last_pos, &header, &state, err);
        if (rc != STI_OK) {
            return rc;
        }
        int error = state == STI_FRAME_SOUND
                        ? mdl_write_all(log->fd, log->frame, header.len, log->last_pos)
                        : EIO;
        if (error != 0) {
            return log_error(log, err, "writing its last frame again", error);
        }
    }
    STI_CRASH_POINT("metadata.tail.before_sync");
    if (fdatasync(log->fd) != 0) {
        return log_error(log, err, "syncing it", errno);
    }
    log->ready = true;
    return STI_OK;
}

/* Build the frame of `count` commands in the scratch buffer. @return its length with padding */
static size_t frame_build(struct mdl_log *log, const struct mdl_command *commands, size_t count,
                          size_t len)
{
    uint8_t *frame = log->frame;
    size_t padded = (size_t)round_up(len);
    uint8_t *at = frame + MDL_FRAME_HEADER_LEN;
    for (size_t i = 0; i < count; i++) {
        mdl_put32(at, (uint32_t)commands[i].len);
        memcpy(at + MDL_COMMAND_OVERHEAD, commands[i].data, commands[i].len);
        at += MDL_COMMAND_OVERHEAD + commands[i].len;
    }
    memset(frame + len, 0, padded - len);
    sti_command_frame_seal(frame, (uint32_t)len, (uint32_t)count, log->end_index + 1);
    return padded;
}

/* Write the frame in the scratch buffer; in two halves when a test wants to see one alone. */
static int append_frame(struct mdl_log *log, size_t len)
{
    size_t half = STI_FAULT("metadata.append.short") == 0 ? 0 : len / 2;
    if (half > 0) {
        int error = mdl_write_all(log->fd, log->frame, half, log->pos);
        if (error != 0 || (error = STI_FAULT("metadata.append.half")) != 0) {
            return error;
        }
    }
    return mdl_write_all(log->fd, log->frame + half, len - half, log->pos + half);
}

int mdl_log_append(struct mdl_log *log, const struct mdl_command *commands, size_t count,
                   bool *uncertain, struct sti_err *err)
{
    size_t len = MDL_FRAME_OVERHEAD;
    *uncertain = false;
    for (size_t i = 0; i < count; i++) {
        len += MDL_COMMAND_OVERHEAD + commands[i].len;
    }
    if (count == 0 || count > MDL_GROUP_COUNT_MAX || len > MDL_FRAME_LEN_MAX) {
        return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE, "%zu commands of %zu bytes in one frame",
                           count, len);
    }
    int rc = frame_room(log, (size_t)round_up(len), err);
    if (rc != STI_OK) {
        return rc;
    }
    size_t padded = frame_build(log, commands, count, len);
    mdl_log_reserve(log);
    int error = log_room(log, padded);
    if (error != 0) {
        return log_error(log, err, "appending to it", error); /* nothing was written */
    }
    error = STI_FAULT("metadata.append.before_write");
    if (error == 0) {
        error = append_frame(log, padded);
    }
    if (error != 0) {
        rc = log_error(log, err, "appending to it", error);
        STI_CRASH_POINT("metadata.append.before_undo");
        /* Take the partial frame back, so that what is refused cannot come up after a restart. */
        if (ftruncate(log->fd, (off_t)log->pos) != 0 || fdatasync(log->fd) != 0) {
            *uncertain = true;
            log->ready = false;
            return rc;
        }
        log->reserved_pos = log->pos;
        mdl_log_reserve(log);
        return rc;
    }
    error = STI_FAULT("metadata.append.before_sync");
    if (error == 0 && fdatasync(log->fd) != 0) {
        error = errno;
    }
    STI_CRASH_POINT("metadata.append.after_sync");
    if (error != 0) {
        *uncertain = true;
        log->ready = false;
        return sti_err_set(err, STI_E_IO, "%s: position %" PRIu64 ": syncing it: %s",
                           mdl_shown(log->path), log->pos, strerror(error));
    }
    log->last_pos = log->pos;
    log->pos += padded;
    log->end_index += count;
    return STI_OK;
}

void mdl_log_give_back(struct mdl_log *log)
{
    if (log->fd >= 0 && log->ready) {
        /* Frees what is allocated behind the end; a failure costs space, nothing else. */
        (void)!ftruncate(log->fd, (off_t)log->pos);
        log->reserved_pos = log->pos;
    }
}

void mdl_log_close(struct mdl_log *log)
{
    if (log->fd >= 0) {
        (void)close(log->fd);
    }
    free(log->path);
    free(log->frame);
    *log = (struct mdl_log){.fd = -1};
}
