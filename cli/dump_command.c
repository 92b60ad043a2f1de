/* dump_command.c -- the metadata engine's log and snapshots, and the kernel's small texts.
 *
 * What a command means is the broker's; here it is so many bytes under a checksum. The payload of a
 * snapshot is proved in pieces, a frame of the log is at most 4 MiB.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"
#include "kernel/engine.h"
#include "kernel/identity.h"
#include "streamit/command_log.h"

enum { PIECE = 64 * 1024, TEXT_MAX = 4096 };

static int open_file(struct dump *dump, struct dump_file *file, int dir_fd, const char *dir,
                     const char *name, const char *kind, uint64_t *size)
{
    struct stat st = {0};
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int error = fd < 0 ? errno : fstat(fd, &st) != 0 ? errno : !S_ISREG(st.st_mode) ? EINVAL : 0;
    *size = error == 0 ? (uint64_t)st.st_size : 0;
    dump_file_begin(dump, file, dir, name, kind, (int64_t)*size);
    if (error != 0) {
        dump_failure(dump, file, error);
        if (fd >= 0) {
            (void)close(fd);
        }
        return -1;
    }
    return fd;
}

/* ---- the log of commands ------------------------------------------------------------------- */

/* Read and judge the frame at `pos`. @return enum sti_command_frame_state, or -1 after an I/O error
 */
static int frame_at(struct dump *dump, const struct dump_file *file, int fd, uint64_t pos,
                    uint8_t *buf, struct sti_command_frame *frame)
{
    size_t got;
    int error = dump_read(&fd, buf, STI_COMMAND_SECTOR, pos, &got);
    if (error == 0) {
        int state = sti_command_frame_head(buf, got, frame);
        if (state != STI_FRAME_SOUND) {
            return state;
        }
        error = dump_read(&fd, buf, frame->len, pos, &got);
        if (error == 0) {
            return sti_command_frame_judge(buf, got, frame);
        }
    }
    dump_failure(dump, file, error);
    return -1;
}

/* Is there a sound frame behind `pos`, of an index above `after`? */
static bool sound_behind(struct dump *dump, const struct dump_file *file, int fd, uint64_t pos,
                         uint64_t size, uint64_t after, uint8_t *buf)
{
    struct sti_command_frame frame;
    for (pos += STI_COMMAND_SECTOR; pos < size && !cli_interrupted; pos += STI_COMMAND_SECTOR) {
        if (frame_at(dump, file, fd, pos, buf, &frame) == STI_FRAME_SOUND && frame.first > after) {
            return true;
        }
    }
    return false;
}

/* Print a sound frame. @return whether its commands fill it */
static bool print_frame(const struct dump *dump, const struct dump_file *file, uint64_t pos,
                        const uint8_t *buf, const struct sti_command_frame *frame)
{
    const uint8_t *command;
    size_t at = 0, len;
    uint32_t taken;
    int rc;
    if (!dump->quiet) {
        dump_line(dump, file, "frame",
                  json_pack("{s:I,s:I,s:I,s:I,s:b}", "position", (json_int_t)pos, "length",
                            (json_int_t)frame->len, "first_index", (json_int_t)frame->first,
                            "commands", (json_int_t)frame->count, "crc_ok", 1));
    }
    while ((rc = sti_command_next(buf, frame, &taken, &at, &command, &len)) == STI_OK) {
        if (dump->records && !dump->quiet) {
            char *encoded = cli_base64(command, len);
            dump_line(dump, file, "command",
                      json_pack("{s:I,s:s}", "index", (json_int_t)(frame->first + taken - 1),
                                "base64", encoded == NULL ? "" : encoded));
            free(encoded);
        }
    }
    return rc == STI_E_END;
}

static void walk_frames(struct dump *dump, struct dump_file *file, int fd, uint64_t base,
                        uint64_t size, uint8_t *buf)
{
    uint64_t pos = STI_COMMAND_LOG_HEADER_LEN, index = base;
    while (!cli_interrupted) {
        struct sti_command_frame frame;
        int state = frame_at(dump, file, fd, pos, buf, &frame);
        if (state == STI_FRAME_SOUND && frame.first != index + 1) {
            dump_damage(dump, file, pos, "the frame's index is %" PRIu64 ", expected %" PRIu64,
                        frame.first, index + 1);
        } else if (state == STI_FRAME_SOUND && !print_frame(dump, file, pos, buf, &frame)) {
            dump_damage(dump, file, pos, "its commands do not fill the frame");
        } else if (state > STI_FRAME_SOUND && sound_behind(dump, file, fd, pos, size, index, buf)) {
            dump_damage(dump, file, pos, "a damaged frame with sound ones behind it");
        } else if (state == STI_FRAME_BAD) {
            dump_damage(dump, file, pos, "the frame's checksum is wrong");
        } else if (state == STI_FRAME_TAIL) {
            dump_warning(dump, file, pos, "an unfinished frame: the next start cuts it off");
        }
        if (state != STI_FRAME_SOUND || file->damaged) {
            return;
        }
        index += frame.count;
        pos += (frame.len + STI_COMMAND_SECTOR - 1) / STI_COMMAND_SECTOR * STI_COMMAND_SECTOR;
    }
}

static void command_log(struct dump *dump, int dir_fd, const char *dir, const char *name,
                        uint64_t index)
{
    struct dump_file file;
    struct sti_err err;
    uint64_t size, base;
    size_t got = 0, pos = 0;
    int fd = open_file(dump, &file, dir_fd, dir, name, "metadata log", &size);
    uint8_t *buf = fd < 0 ? NULL : malloc(STI_COMMAND_FRAME_LEN_MAX);
    int error = fd < 0        ? 0
                : buf == NULL ? ENOMEM
                              : dump_read(&fd, buf, STI_COMMAND_SECTOR, 0, &got);
    if (error != 0) {
        dump_failure(dump, &file, error);
    }
    if (fd >= 0 && error == 0) {
        int rc = sti_command_log_header_get(buf, got, &base, &pos, &err);
        if (rc == STI_E_UNSUPPORTED) {
            dump_warning(dump, &file, pos, "%s", err.msg);
        } else if (rc != STI_OK) {
            dump_damage(dump, &file, pos, "%s", err.msg);
        } else if (base != index) {
            dump_damage(dump, &file, 16, "the header says index %" PRIu64 ", its name %" PRIu64,
                        base, index);
        } else {
            walk_frames(dump, &file, fd, base, size, buf);
        }
    }
    free(buf);
    if (fd >= 0) {
        (void)close(fd);
    }
}

/* ---- snapshots ----------------------------------------------------------------------------- */

/* @return 0 with *crc of `len` bytes from `pos` on, or an errno; EPROTO: the file is shorter */
static int crc_of(int fd, uint64_t pos, uint64_t len, uint32_t *crc)
{
    uint8_t piece[PIECE];
    *crc = 0;
    while (len > 0 && !cli_interrupted) {
        size_t got, want = len < PIECE ? (size_t)len : PIECE;
        int error = dump_read(&fd, piece, want, pos, &got);
        if (error != 0 || got < want) {
            return error != 0 ? error : EPROTO;
        }
        *crc = sti_crc32c(*crc, piece, got);
        pos += got;
        len -= got;
    }
    return 0;
}

static void snapshot(struct dump *dump, int dir_fd, const char *dir, const char *name,
                     uint64_t index)
{
    struct dump_file file;
    struct sti_command_snapshot head;
    struct sti_err err;
    uint8_t bytes[STI_COMMAND_SNAPSHOT_HEAD_LEN];
    uint64_t size;
    uint32_t crc = 0;
    size_t got = 0, pos = 0;
    int fd = open_file(dump, &file, dir_fd, dir, name, "metadata snapshot", &size);
    if (fd < 0) {
        return;
    }
    int error = dump_read(&fd, bytes, sizeof bytes, 0, &got);
    int rc = sti_command_snapshot_get(bytes, got, &head, &pos, &err);
    bool whole = rc == STI_OK && head.payload_len == size - STI_COMMAND_SNAPSHOT_HEAD_LEN;
    if (error == 0 && whole) {
        error = crc_of(fd, STI_COMMAND_SNAPSHOT_HEAD_LEN, head.payload_len, &crc);
    }
    if (error != 0) {
        dump_failure(dump, &file, error == EPROTO ? ENOENT : error);
    } else if (rc == STI_E_UNSUPPORTED) {
        dump_warning(dump, &file, pos, "%s", err.msg);
    } else if (rc != STI_OK) {
        dump_damage(dump, &file, pos, "%s", err.msg);
    } else if (head.index != index) {
        dump_damage(dump, &file, 16, "the header says index %" PRIu64 ", its name %" PRIu64,
                    head.index, index);
    } else if (!whole) {
        dump_damage(dump, &file, size, "the file has another length than its header says");
    } else if (crc != head.payload_crc && !cli_interrupted) {
        dump_damage(dump, &file, STI_COMMAND_SNAPSHOT_HEAD_LEN, "the payload's checksum is wrong");
    } else if (!dump->quiet) {
        dump_line(dump, &file, "snapshot",
                  json_pack("{s:I,s:I,s:b}", "index", (json_int_t)head.index, "payload_length",
                            (json_int_t)head.payload_len, "crc_ok", 1));
    }
    (void)close(fd);
}

/* ---- texts that end with their checksum ---------------------------------------------------- */

static void summed_text(struct dump *dump, int dir_fd, const char *dir, const char *name)
{
    static const char key[] = "crc32=";
    struct dump_file file;
    char *text, *end = NULL;
    size_t len;
    int rc = dump_read_small(dir_fd, name, TEXT_MAX, &text, &len);
    dump_file_begin(dump, &file, dir, name, "text", (int64_t)len);
    if (rc != 0) {
        dump_failure(dump, &file, rc);
        return;
    }
    char *sum = strstr(text, key);
    unsigned long said = sum == NULL ? 0 : strtoul(sum + sizeof key - 1, &end, 16);
    if (sum == NULL || end != sum + sizeof key - 1 + 8 || *end != '\n' || end + 1 != text + len) {
        dump_damage(dump, &file, sum == NULL ? len : (uint64_t)(sum - text),
                    "there is no checksum at its end");
    } else if (krn_identity_sum(text, (size_t)(sum - text)) != said) {
        dump_damage(dump, &file, (uint64_t)(sum - text),
                    "checksum %08lx, its content has %08" PRIx32, said,
                    krn_identity_sum(text, (size_t)(sum - text)));
    } else if (!dump->quiet) {
        json_t *members = json_object();
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line != NULL;
             line = strtok_r(NULL, "\n", &save)) {
            char *value = strchr(line, '=');
            if (value != NULL) {
                *value++ = '\0';
                json_object_set_new(members, line, json_string(value));
            }
        }
        dump_line(dump, &file, "text", members);
    }
    free(text);
}

bool dump_command_file(struct dump *dump, int dir_fd, const char *dir, const char *name)
{
    uint64_t index;
    int kind = sti_command_file_kind(name, &index);
    if (kind == 'l') {
        command_log(dump, dir_fd, dir, name, index);
    } else if (kind == 's') {
        snapshot(dump, dir_fd, dir, name, index);
    } else if (strcmp(name, "identity") == 0 || strcmp(name, KRN_ENGINE_FILE) == 0) {
        summed_text(dump, dir_fd, dir, name);
    } else {
        return false;
    }
    return true;
}
