/* dump.h -- what the files of `streamit dump` share.
 *
 * dump looks at the files of a node, running or not, and changes nothing: it opens read-only, takes
 * no lock, asks no server. Every format comes from the walkers of libstreamit-batch, which the
 * engines use themselves. Memory is bounded whatever the files say: a window of the log, a page of
 * each index, and with --records one batch.
 *
 * A node may be writing. So what promises something about other files (the recovery point) is read
 * before them, sizes are taken from an index before its log, and a file that is gone when its turn
 * comes, or has become shorter, is no damage.
 */
#ifndef STREAMIT_CLI_DUMP_H
#define STREAMIT_CLI_DUMP_H

#include <limits.h>

#include "cli.h"
#include "streamit/log_files.h"

struct dump {
    const struct cli *cli;
    bool verify, records, quiet;
    uint64_t partitions, files, batches, record_count, damaged, warnings, failures;
};

/* A file under the eye. Its first damage is told, what follows from it is not. */
struct dump_file {
    char path[PATH_MAX];
    bool damaged;
};

/* The folder of a partition, as far as files of it are judged by others. */
struct dump_partition {
    const char *dir; /* as the user named it */
    int dir_fd;
    int64_t log_start;    /* -1: not said */
    int64_t truncation;   /* a truncation that is to be finished; -1: none */
    int64_t synced_end;   /* everything below was synced; 0: nothing is known */
    bool clean;           /* the log ended in order there */
    bool epochs_known;    /* there is a leader-epoch-checkpoint */
    bool epochs_reloaded; /* it was read again since, because a node may have written it */
    struct sti_epoch_entry *epochs;
    size_t epoch_count;
};

/* One segment, and where the walk stands that comes from the segment before it. */
struct dump_segment {
    int64_t base_offset; /* -1: the name does not tell */
    bool last;           /* no other segment follows */
    int64_t expected;    /* base offset of the next batch, -1: any */
    int32_t epoch;       /* of the last batch, -1: none */
};

/* ---- dump_out.c */

/* Name a file and say what it is; `size` < 0: not told. */
void dump_file_begin(struct dump *dump, struct dump_file *file, const char *dir, const char *name,
                     const char *kind, int64_t size);
/* A line about a file; takes the object, which gets "type" and "file" in front. */
void dump_line(const struct dump *dump, const struct dump_file *file, const char *type,
               json_t *members);
STI_PRINTF(4, 5)
void dump_damage(struct dump *dump, struct dump_file *file, uint64_t pos, const char *fmt, ...);
STI_PRINTF(4, 5)
void dump_warning(struct dump *dump, const struct dump_file *file, uint64_t pos, const char *fmt,
                  ...);
/* The file could not be looked at: an errno. ENOENT of a file that was listed is no failure. */
void dump_failure(struct dump *dump, const struct dump_file *file, int error);
/* @return the exit status */
int dump_end(struct dump *dump);

/* Up to `len` bytes at `pos` of the descriptor `ctx` points to: an sti_log_read_fn. */
int dump_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got);
/* A whole small file of at most `max` bytes and a null behind; *data is returned: free it.
 * @return 0 or an errno, EFBIG: it is larger */
int dump_read_small(int dir_fd, const char *name, size_t max, char **data, size_t *len);

/* ---- dump_log.c */

/* Print a .log, and hold it and the two indexes beside it against each other. */
void dump_log(struct dump *dump, struct dump_partition *part, const char *name,
              struct dump_segment *seg);
/* Hold one index of a segment against its log, of which nothing is said. */
void dump_log_against_index(struct dump *dump, const struct dump_partition *part,
                            int64_t base_offset, bool by_time);

/* ---- dump_index.c */

/* Print the entries of an .index or .timeindex. */
void dump_index(struct dump *dump, const struct dump_partition *part, const char *name,
                int64_t base_offset, bool by_time);

/* A cursor along an index, fed with the batches of its log. */
struct dump_cursor {
    struct dump_file file;
    int fd, error; /* why there is no descriptor */
    bool by_time, present, more;
    uint64_t size, at; /* bytes; position of the current entry */
    int64_t base_offset;
    struct sti_index_entry index; /* the current entry */
    struct sti_time_entry time;
    struct sti_index_entry index_before;
    struct sti_time_entry time_before;
    int64_t max_timestamp; /* of the batches so far, -1: none */
    size_t buf_len;
    uint64_t buf_pos;
    uint8_t buf[512 * STI_TIME_ENTRY_LEN];
};
void dump_cursor_open(struct dump_cursor *cursor, const struct dump_partition *part,
                      int64_t base_offset, bool by_time);
/* The log has a sound batch at `pos`. */
void dump_cursor_batch(struct dump *dump, struct dump_cursor *cursor, uint64_t pos,
                       const struct sti_batch_header *header);
/* The log is damaged up to `pos` and offset: entries into the gap are not judged. */
void dump_cursor_skip(struct dump *dump, struct dump_cursor *cursor, uint64_t pos, int64_t offset);
/* The log ends.
 * @param lenient  entries behind the end are no damage: recovery makes the index anew
 * @param closed  the segment takes no more appends: the time index tells its newest timestamp */
void dump_cursor_end(struct dump *dump, struct dump_cursor *cursor, bool lenient, bool closed);

/* ---- dump_partition.c */

/* Read what the small files of the folder say; with `show` print and judge them. */
void dump_partition_load(struct dump *dump, struct dump_partition *part, int dir_fd,
                         const char *dir, bool show);
void dump_partition_free(struct dump_partition *part);
/* Does the batch's epoch agree with the checkpoint? *expected: what it says, -1: nothing */
bool dump_epoch_agrees(struct dump_partition *part, int64_t base_offset, int32_t epoch,
                       int32_t *expected);
/* A whole folder. @param names  its files, sorted */
void dump_partition_folder(struct dump *dump, int dir_fd, const char *dir, char *const *names,
                           size_t count);
/* One file of a partition. @return false: by its name it is none */
bool dump_partition_file(struct dump *dump, int dir_fd, const char *dir, const char *name);

/* ---- cmd_dump.c */

/* What a file of a folder is, as sti_log_file_kind; anything but a regular file is a stranger. */
int dump_file_kind(int dir_fd, const char *name, int64_t *base_offset);
/* Does the folder hold a .log with a higher base offset? */
bool dump_has_later_log(int dir_fd, int64_t base_offset);

/* ---- dump_command.c */

/* A log or snapshot of the metadata engine, or a small text of the kernel's (identity, engine).
 * @return false: by its name it is none of them */
bool dump_command_file(struct dump *dump, int dir_fd, const char *dir, const char *name);

#endif /* STREAMIT_CLI_DUMP_H */
