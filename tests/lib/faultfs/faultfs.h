/* faultfs.h -- what the files of the fault layer share. See README.md for the story.
 *
 * The layouts of the journal and of the control file are read and written by ../powerloss.py and
 * ../faultfs.py: change both sides together. All integers are in the machine's order.
 */
#ifndef FAULTFS_H
#define FAULTFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define FFS_JOURNAL_MAGIC UINT64_C(0x314c4e524a534646) /* "FFSJRNL1" */
#define FFS_CONTROL_MAGIC UINT64_C(0x314c52544353464f)
#define FFS_PATH_MAX      4352

/* ---- journal.c: every change of the folder, in order, in a mapped file
 * --------------------------------------------- */

enum ffs_op {
    FFS_INIT_DIR = 1,  /* found at the start: id, other = parent, name */
    FFS_INIT_FILE = 2, /* the same */
    FFS_CREATE = 3,    /* id, other = folder, name */
    FFS_MKDIR = 4,     /* id, other = folder, name */
    FFS_UNLINK = 5,    /* id, other = folder, name */
    FFS_RMDIR = 6,     /* id, other = folder, name */
    FFS_RENAME = 7,    /* id, other = folder, name -> name2 */
    FFS_WRITE = 8,     /* id, pos, data; result = bytes that were taken */
    FFS_TRUNC = 9,     /* id, pos = new size */
    FFS_FALLOC = 10,   /* id, pos, other = length */
    FFS_SYNC = 11,     /* id; begins here */
    FFS_SYNCED = 12    /* id, other = number of the record that began it; result = 0, or a negative
                          errno: data dropped */
};

enum ffs_state { FFS_INTENT = 0, FFS_DONE = 1 };

struct ffs_record {
    uint32_t len; /* of the whole record, a multiple of 8 */
    uint8_t op, state;
    uint16_t name_len;
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint64_t id, other, pos;
    int64_t result;
    uint32_t data_len;
    uint16_t name2_len, unused;
};

struct ffs_journal {
    uint64_t magic, capacity;
    _Atomic uint64_t used;  /* bytes, this header included */
    _Atomic uint64_t count; /* records */
};

bool ffs_journal_open(const char *path);
bool ffs_journal_on(void);
void ffs_lock(void);
void ffs_unlock(void);
/* Write a record down as an intent. @locks ffs_lock held. @return it, and its number */
struct ffs_record *ffs_note(enum ffs_op op, uint64_t id, uint64_t other, uint64_t pos,
                            const char *name, const char *name2, const struct iovec *iov,
                            int iov_count, uint64_t *number);
void ffs_done(struct ffs_record *record, int64_t result);

/* ---- objects: which file or folder is an inode
 * ---------------------------------------------------------------------- */

uint64_t ffs_id_new(uint64_t inode); /* a new object bears this inode. @locks ffs_lock held */
uint64_t ffs_id_of(uint64_t inode);  /* 0: not one of ours. @locks ffs_lock held */

/* ---- rules.c: calls that fail, come short, or take time
 * -------------------------------------------------------------- */

enum ffs_call {
    FFS_CALL_OPEN = 1 << 0,
    FFS_CALL_READ = 1 << 1,
    FFS_CALL_WRITE = 1 << 2,
    FFS_CALL_SYNC = 1 << 3,
    FFS_CALL_MMAP = 1 << 4,
    FFS_CALL_RENAME = 1 << 5,
    FFS_CALL_UNLINK = 1 << 6,
    FFS_CALL_FALLOC = 1 << 7,
    FFS_CALL_TRUNC = 1 << 8,
    FFS_CALL_MKDIR = 1 << 9,
    FFS_CALL_CLOSE = 1 << 10,
    FFS_CALL_ADVISE = 1 << 11 /* madvise: no path */
};

#define FFS_SHORT (-1) /* as `error`: half of the bytes */

struct ffs_rule {
    _Atomic uint32_t active;
    uint32_t calls;       /* bits of enum ffs_call */
    int32_t error;        /* errno, FFS_SHORT, or 0: none */
    uint32_t delay_us;    /* before the call */
    uint32_t per_million; /* 0: every matching call */
    uint32_t kill;        /* end the process instead */
    uint64_t after;       /* so many matching calls pass first */
    uint64_t times;       /* so many are hit; 0: all */
    _Atomic uint64_t seen, hits, random;
    char path[128]; /* pattern of fnmatch over the path below the root, "" for all */
};

enum { FFS_RULES = 16 };
struct ffs_control {
    uint64_t magic, rules_count;
    struct ffs_rule rules[FFS_RULES];
};

bool ffs_control_open(const char *path);
bool ffs_control_on(void);
/* What becomes of this call? @param path  below the root, "" for none @param len  shortened if a
 * rule says so
 * @return 0 or an errno */
int ffs_fault(enum ffs_call call, const char *path, size_t *len);

/* ---- faultfs.c
 * ---------------------------------------------------------------------------------------------------------
 */

/* Say on standard error what cannot be modelled, and end the process. */
void ffs_fail(const char *what, const char *path) __attribute__((noreturn));

#endif /* FAULTFS_H */
