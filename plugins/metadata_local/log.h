/* log.h -- one log file of commands.
 *
 * Its bytes, and how an unfinished tail is told from damage, are drawn in streamit/command_log.h: a
 * header and frames, each at a multiple of 512 bytes. A frame is what one sync made durable: one
 * command, or several that waited together. The next frame is written only after the one before it
 * was synced, so only the last frame of the last file can ever be unfinished.
 *
 * Space is reserved ahead of the end (fallocate, keeping the size), so that a command can still be
 * committed on a full disk. It stays reserved when the log is closed, and when the process dies, so
 * that a start on a full disk finds it. A log belongs to one thread at a time.
 */
#ifndef MDL_LOG_H
#define MDL_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/command_log.h"
#include "streamit/status.h"

enum {
    MDL_SECTOR = STI_COMMAND_SECTOR,
    MDL_LOG_HEADER_LEN = STI_COMMAND_LOG_HEADER_LEN,
    MDL_FRAME_HEADER_LEN = STI_COMMAND_FRAME_HEAD_LEN,
    MDL_FRAME_OVERHEAD = STI_COMMAND_FRAME_OVERHEAD,
    MDL_COMMAND_OVERHEAD = STI_COMMAND_OVERHEAD,
    MDL_GROUP_COUNT_MAX = STI_COMMAND_COUNT_MAX, /* commands of one frame */
    MDL_GROUP_BYTES_MAX = 1024 * 1024 /* ... and bytes of them; a single command may be as large */
};

#define MDL_FRAME_LEN_MAX STI_COMMAND_FRAME_LEN_MAX

/* A command to append; the bytes are borrowed. */
struct mdl_command {
    const void *data;
    size_t len;
};

/* Called for each command that a replay finds. An error ends the replay and is passed on. */
typedef int mdl_visit_fn(void *arg, uint64_t index, const void *command, size_t len,
                         struct sti_err *err);

struct mdl_log {
    int fd;                 /* -1: not open */
    char *path;             /* owned */
    uint64_t base;          /* index of the command before the first one here */
    uint64_t end_index;     /* index of the last command here; base when there is none */
    uint64_t pos;           /* where the next frame goes; a multiple of MDL_SECTOR */
    uint64_t last_pos;      /* where the last frame begins; 0: there is none */
    uint64_t reserved_pos;  /* space is allocated up to here */
    uint64_t reserve_bytes; /* how much to keep allocated ahead of pos */
    uint64_t cut_bytes;     /* of the unfinished tail that the replay found; 0: none */
    uint8_t *frame;         /* owned; scratch for one frame */
    size_t frame_capacity;
    bool low;   /* the reserve could not be refilled */
    bool ready; /* pos is the end for certain: created, or replayed with its tail finished */
};

/* Create an empty log that follows index `base`: written aside, synced, renamed, folder synced.
 * On failure *log holds nothing.
 * @param uncertain  out: the new file may or may not be seen after a crash; nothing may be appended
 * to an older log any more
 * @return STI_OK, STI_E_DISK_FULL, STI_E_IO, STI_E_NO_MEMORY */
int mdl_log_create(struct mdl_log *log, int dir_fd, const char *dir_path, uint64_t base,
                   uint64_t reserve_bytes, bool *uncertain, struct sti_err *err);
/* Open an existing log and check its header. On failure *log holds nothing.
 * @return STI_OK, STI_E_DATA_LOSS, STI_E_UNSUPPORTED (format version), STI_E_IO, STI_E_NO_MEMORY */
int mdl_log_open(struct mdl_log *log, int dir_fd, const char *dir_path, uint64_t base,
                 uint64_t reserve_bytes, struct sti_err *err);
/* Read the log from its beginning, check every frame, visit every command with an index above
 * `after`, and find its end. Changes nothing on disk: see mdl_log_finish_tail.
 * @return STI_OK, STI_E_DATA_LOSS (naming file and position), STI_E_IO, STI_E_NO_MEMORY, what visit
 * returned */
int mdl_log_replay(struct mdl_log *log, uint64_t after, mdl_visit_fn *visit, void *arg,
                   struct sti_err *err);
/* Make a replayed log ready for appends: cut the unfinished tail, make the last frame durable once
 * more (a process whose sync failed may have left it in the page cache alone), reserve space.
 * @return STI_OK, STI_E_IO, STI_E_NO_MEMORY */
int mdl_log_finish_tail(struct mdl_log *log, struct sti_err *err);
/* Append `count` commands as one frame and sync it; they get the indexes from end_index + 1.
 * @param uncertain  out: the sync failed, or a partial frame could not be taken back; nothing more
 * may be appended until a replay has read the file again
 * @return STI_OK, STI_E_DISK_FULL (nothing changed unless *uncertain), STI_E_IO, STI_E_NO_MEMORY */
int mdl_log_append(struct mdl_log *log, const struct mdl_command *commands, size_t count,
                   bool *uncertain, struct sti_err *err);
/* See that space is reserved ahead of the end; mdl_log_append does so by itself. */
void mdl_log_reserve(struct mdl_log *log);
/* Give reserved space back: another log follows. Nothing on a log that is not ready, since what
 * lies behind its position may be wanted yet. */
void mdl_log_give_back(struct mdl_log *log);
/* Close, and leave the file byte for byte as it is. Safe on a log that is not open. */
void mdl_log_close(struct mdl_log *log);
/* "log-<20 digits>" */
void mdl_log_name(char name[32], uint64_t base);

#endif /* MDL_LOG_H */
