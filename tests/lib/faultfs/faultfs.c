/* faultfs.c -- the interposed calls: LD_PRELOAD=libfaultfs.so puts them before libc's for the
 * program and its plugins.
 *
 * FAULTFS_ROOT       the folder that is watched; nothing else is touched
 * FAULTFS_JOURNAL    a file to note every change and sync in (journal.c)
 * FAULTFS_CONTROL    a file of rules: which calls fail or wait (rules.c)
 * FAULTFS_NOSYNC=1   syncs are noted only, no disk is waited for
 * FAULTFS_BOOT_ID    a file that is read in place of the kernel's boot id
 *
 * The calls below go to the kernel by syscall(2). Descriptors are recognised by inode, not by
 * number, since libc closes some by itself (closedir). What changes the folder in a way that the
 * journal cannot say ends the process with a sentence: a shared writable map, links, a sync of
 * everything, files that were not seen to be made. A change by a call that is not interposed at all
 * is found by the test, which holds the journal against the folder after each run.
 */
#undef _FILE_OFFSET_BITS
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "faultfs.h"

#define EXPORT      __attribute__((visibility("default")))
#define ALIAS(name) __attribute__((visibility("default"), alias(#name)))

static char root[PATH_MAX]; /* "" until it is known: everything passes */
static size_t root_len;
static dev_t root_dev;
static char boot_id_file[PATH_MAX];
static bool nosync;

void ffs_fail(const char *what, const char *path)
{
    char line[512];
    int n = snprintf(line, sizeof line,
                     "{\"event\":\"faultfs\",\"msg\":\"%s\",\"path\":\"%.200s\"}\n", what, path);
    (void)!syscall(SYS_write, 2, line, (size_t)n);
    (void)syscall(SYS_exit_group, 86);
    __builtin_unreachable();
}

/* ---- names
 * --------------------------------------------------------------------------------------------------------------
 */

/* The path of a descriptor. @return false: it has none */
static bool fd_path(int fd, char out[FFS_PATH_MAX])
{
    char link[40];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, out, FFS_PATH_MAX - 1);
    out[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

static bool below_root(const char *path)
{
    return root_len > 0 && strncmp(path, root, root_len) == 0 &&
           (path[root_len] == '/' || path[root_len] == '\0');
}

/* The absolute path that a call means, when it lies in the watched folder. */
static bool ours_at(int dir_fd, const char *path, char out[FFS_PATH_MAX])
{
    out[0] = '\0';
    if (root_len == 0) {
        return false;
    }
    if (path[0] == '/') {
        (void)snprintf(out, FFS_PATH_MAX, "%s", path);
    } else {
        char folder[FFS_PATH_MAX];
        bool known = dir_fd == AT_FDCWD ? syscall(SYS_getcwd, folder, sizeof folder) > 0
                                        : fd_path(dir_fd, folder);
        if (!known || snprintf(out, FFS_PATH_MAX, "%s/%s", folder, path) >= FFS_PATH_MAX) {
            return false;
        }
    }
    return below_root(out);
}

static const char *relative(const char *full)
{
    return strlen(full) > root_len ? full + root_len + 1 : "";
}

static const char *leaf_of(const char *full)
{
    const char *slash = strrchr(full, '/');
    return slash == NULL ? full : slash + 1;
}

/* The object of the folder that holds `full`. @locks ffs_lock held */
static uint64_t parent_of(const char *full)
{
    char folder[FFS_PATH_MAX];
    struct stat st;
    (void)snprintf(folder, sizeof folder, "%.*s", (int)(leaf_of(full) - full - 1), full);
    uint64_t id = stat(folder, &st) == 0 ? ffs_id_of(st.st_ino) : 0;
    if (id == 0) {
        ffs_fail("a folder that it has not seen", folder);
    }
    return id;
}

/* The object of a descriptor, 0 when it is not in the watched folder. @locks ffs_lock held */
static uint64_t object_of(int fd, struct stat *st)
{
    if (root_len == 0 || fstat(fd, st) != 0 || st->st_dev != root_dev ||
        (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))) {
        return 0;
    }
    uint64_t id = ffs_id_of(st->st_ino);
    char path[FFS_PATH_MAX];
    if (id == 0 && fd_path(fd, path) && below_root(path)) {
        ffs_fail("a file that it has not seen", path);
    }
    return id;
}

/* Ask the rules about a call on a descriptor. */
static int fd_fault(enum ffs_call call, int fd, size_t *len)
{
    char path[FFS_PATH_MAX];
    if (!ffs_control_on() || root_len == 0 || !fd_path(fd, path) || !below_root(path)) {
        return 0;
    }
    return ffs_fault(call, relative(path), len);
}

static int failed(int error)
{
    errno = error;
    return -1;
}

/* ---- opening
 * ------------------------------------------------------------------------------------------------------------
 */

static int open_noted(int dir_fd, const char *path, int flags, mode_t mode, const char *full)
{
    struct stat st = {0};
    struct ffs_record *record = NULL;
    ffs_lock();
    bool was = fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!was && (flags & O_CREAT) != 0) {
        record = ffs_note(FFS_CREATE, 0, parent_of(full), 0, leaf_of(full), NULL, NULL, 0, NULL);
    } else if (was && (flags & O_TRUNC) != 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        record = ffs_note(FFS_TRUNC, ffs_id_of(st.st_ino), 0, 0, NULL, NULL, NULL, 0, NULL);
    }
    long fd = syscall(SYS_openat, dir_fd, path, flags, mode);
    int error = errno;
    if (record != NULL && fd >= 0 && !was && fstat((int)fd, &st) == 0) {
        record->id = ffs_id_new(st.st_ino);
    }
    if (record != NULL) {
        ffs_done(record, fd < 0 ? -error : 0);
    }
    ffs_unlock();
    return fd < 0 ? failed(error) : (int)fd;
}

static int open_any(int dir_fd, const char *path, int flags, mode_t mode)
{
    char full[FFS_PATH_MAX];
    if (boot_id_file[0] != '\0' && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        path = boot_id_file;
    }
    if (ours_at(dir_fd, path, full)) {
        int error = ffs_fault(FFS_CALL_OPEN, relative(full), NULL);
        if (error != 0) {
            return failed(error);
        }
        if (ffs_journal_on() && (flags & O_TMPFILE) == O_TMPFILE) {
            ffs_fail("O_TMPFILE is not modelled", full);
        }
        if (ffs_journal_on() && (flags & (O_CREAT | O_TRUNC)) != 0) {
            return open_noted(dir_fd, path, flags, mode, full);
        }
    }
    return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

static mode_t mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORT int openat(int dir_fd, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(dir_fd, path, flags, mode);
}

EXPORT int creat(const char *path, mode_t mode)
{
    return open_any(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/* What fortified builds call for an open without a mode. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __openat_2(int dir_fd, const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}
EXPORT int __openat_2(int dir_fd, const char *path, int flags)
{
    return open_any(dir_fd, path, flags, 0);
}

ALIAS(open) int open64(const char *path, int flags, ...);
ALIAS(openat) int openat64(int dir_fd, const char *path, int flags, ...);
ALIAS(creat) int creat64(const char *path, mode_t mode);
ALIAS(__open_2) int __open64_2(const char *path, int flags);
ALIAS(__openat_2) int __openat64_2(int dir_fd, const char *path, int flags);

EXPORT int close(int fd)
{
    int error = fd_fault(FFS_CALL_CLOSE, fd, NULL);
    int rc = (int)syscall(SYS_close, fd);
    return error != 0 ? failed(error) : rc;
}

/* ---- writing
 * ------------------------------------------------------------------------------------------------------------
 */

enum { IOV_PART = 1024 };

/* Shorten what is written to `len` bytes. @return how many vectors */
static int iov_cut(const struct iovec *iov, int count, size_t len, struct iovec out[IOV_PART])
{
    int used = 0;
    for (int i = 0; i < count && i < IOV_PART && len > 0; i++) {
        out[used] = iov[i];
        out[used].iov_len = iov[i].iov_len < len ? iov[i].iov_len : len;
        len -= out[used++].iov_len;
    }
    return used;
}

static ssize_t write_raw(int fd, const struct iovec *iov, int count, off_t pos, int flags)
{
    return pos < 0 ? syscall(SYS_writev, fd, iov, count)
                   : syscall(SYS_pwritev2, fd, iov, count, (unsigned long)pos, 0UL, flags);
}

static ssize_t write_any(int fd, const struct iovec *iov, int count, off_t pos, int flags)
{
    struct iovec part[IOV_PART];
    struct stat st;
    size_t len = 0;
    for (int i = 0; i < count; i++) {
        len += iov[i].iov_len;
    }
    size_t want = len;
    int error = fd_fault(FFS_CALL_WRITE, fd, &want);
    if (error != 0) {
        return failed(error);
    }
    if (want < len) {
        count = iov_cut(iov, count, want, part);
        iov = part;
    }
    if (!ffs_journal_on()) {
        return write_raw(fd, iov, count, pos, flags);
    }
    ffs_lock();
    uint64_t id = object_of(fd, &st);
    struct ffs_record *record = NULL;
    if (id != 0) {
        bool append = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
        off_t at = append ? st.st_size : pos < 0 ? lseek(fd, 0, SEEK_CUR) : pos;
        record = ffs_note(FFS_WRITE, id, 0, (uint64_t)at, NULL, NULL, iov, count, NULL);
    } else {
        ffs_unlock(); /* a socket or a pipe may block */
    }
    ssize_t n = write_raw(fd, iov, count, pos, flags);
    error = errno;
    if (record != NULL) {
        ffs_done(record, n < 0 ? -error : n);
        ffs_unlock();
    }
    errno = error;
    return n;
}

EXPORT ssize_t write(int fd, const void *data, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return write_any(fd, &iov, 1, -1, 0);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t len, off_t pos)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return write_any(fd, &iov, 1, pos, 0);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    return write_any(fd, iov, count, -1, 0);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t pos)
{
    return write_any(fd, iov, count, pos, 0);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t pos, int flags)
{
    return write_any(fd, iov, count, pos, flags);
}

ALIAS(pwrite) ssize_t pwrite64(int fd, const void *data, size_t len, off_t pos);
ALIAS(pwritev) ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t pos);
ALIAS(pwritev2)
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off_t pos, int flags);

/* Note what a copy within the kernel has put into a file, by reading it back. @locks ffs_lock held
 */
static void note_copied(int fd, uint64_t id, off_t pos, ssize_t len)
{
    char *data = len > 0 ? malloc((size_t)len) : NULL;
    struct iovec iov = {.iov_base = data, .iov_len = len > 0 ? (size_t)len : 0};
    if (len > 0 && (data == NULL || syscall(SYS_pread64, fd, data, (size_t)len, pos) != len)) {
        ffs_fail("copied bytes cannot be read back", "");
    }
    if (len > 0) {
        ffs_done(ffs_note(FFS_WRITE, id, 0, (uint64_t)pos, NULL, NULL, &iov, 1, NULL), len);
    }
    free(data);
}

EXPORT ssize_t copy_file_range(int from, off_t *from_pos, int to, off_t *to_pos, size_t len,
                               unsigned flags)
{
    struct stat st;
    int error = fd_fault(FFS_CALL_READ, from, &len);
    error = error != 0 ? error : fd_fault(FFS_CALL_WRITE, to, &len);
    if (error != 0) {
        return failed(error);
    }
    ffs_lock();
    uint64_t id = ffs_journal_on() ? object_of(to, &st) : 0;
    off_t pos = to_pos != NULL ? *to_pos : lseek(to, 0, SEEK_CUR);
    ssize_t n = syscall(SYS_copy_file_range, from, from_pos, to, to_pos, len, flags);
    error = errno;
    if (id != 0) {
        note_copied(to, id, pos, n);
    }
    ffs_unlock();
    errno = error;
    return n;
}

EXPORT ssize_t sendfile(int to, int from, off_t *pos, size_t len)
{
    struct stat st;
    int error = fd_fault(FFS_CALL_READ, from, &len);
    if (error != 0) {
        return failed(error);
    }
    ffs_lock();
    uint64_t id = ffs_journal_on() ? object_of(to, &st) : 0;
    off_t at = id != 0 ? lseek(to, 0, SEEK_CUR) : 0;
    if (id == 0) {
        ffs_unlock(); /* to a socket: it may block */
    }
    ssize_t n = syscall(SYS_sendfile, to, from, pos, len);
    error = errno;
    if (id != 0) {
        note_copied(to, id, at, n);
        ffs_unlock();
    }
    errno = error;
    return n;
}
ALIAS(sendfile) ssize_t sendfile64(int to, int from, off_t *pos, size_t len);

/* ---- size and space
 * ------------------------------------------------------------------------------------------------------
 */

EXPORT int ftruncate(int fd, off_t size)
{
    struct stat st;
    int error = fd_fault(FFS_CALL_TRUNC, fd, NULL);
    if (error != 0) {
        return failed(error);
    }
    ffs_lock();
    uint64_t id = ffs_journal_on() ? object_of(fd, &st) : 0;
    struct ffs_record *record =
        id == 0 ? NULL : ffs_note(FFS_TRUNC, id, 0, (uint64_t)size, NULL, NULL, NULL, 0, NULL);
    long rc = syscall(SYS_ftruncate, fd, size);
    error = errno;
    if (record != NULL) {
        ffs_done(record, rc < 0 ? -error : 0);
    }
    ffs_unlock();
    return rc < 0 ? failed(error) : 0;
}

EXPORT int truncate(const char *path, off_t size)
{
    char full[FFS_PATH_MAX];
    if (ffs_journal_on() && ours_at(AT_FDCWD, path, full)) {
        ffs_fail("truncate by name is not modelled", full);
    }
    return (int)syscall(SYS_truncate, path, size);
}

EXPORT int fallocate(int fd, int mode, off_t pos, off_t len)
{
    struct stat st;
    int error = fd_fault(FFS_CALL_FALLOC, fd, NULL);
    if (error != 0) {
        return failed(error);
    }
    ffs_lock();
    uint64_t id = ffs_journal_on() ? object_of(fd, &st) : 0;
    if (id != 0 && mode != FALLOC_FL_KEEP_SIZE) {
        ffs_fail("only fallocate with KEEP_SIZE is modelled", "");
    }
    struct ffs_record *record =
        id == 0 ? NULL
                : ffs_note(FFS_FALLOC, id, (uint64_t)len, (uint64_t)pos, NULL, NULL, NULL, 0, NULL);
    long rc = syscall(SYS_fallocate, fd, mode, pos, len);
    error = errno;
    if (record != NULL) {
        ffs_done(record, rc < 0 ? -error : 0);
    }
    ffs_unlock();
    return rc < 0 ? failed(error) : 0;
}

EXPORT int posix_fallocate(int fd, off_t pos, off_t len)
{
    struct stat st;
    ffs_lock();
    if (ffs_journal_on() && object_of(fd, &st) != 0) {
        ffs_fail("posix_fallocate is not modelled", "");
    }
    ffs_unlock();
    return syscall(SYS_fallocate, fd, 0, pos, len) < 0 ? errno : 0;
}

ALIAS(ftruncate) int ftruncate64(int fd, off_t size);
ALIAS(truncate) int truncate64(const char *path, off_t size);
ALIAS(fallocate) int fallocate64(int fd, int mode, off_t pos, off_t len);
ALIAS(posix_fallocate) int posix_fallocate64(int fd, off_t pos, off_t len);

/* ---- syncing
 * --------------------------------------------------------------------------------------------------------------
 */

static int sync_any(int fd, long number)
{
    struct stat st;
    uint64_t begun = 0;
    int error = 0;
    ffs_lock();
    uint64_t id = ffs_journal_on() ? object_of(fd, &st) : 0;
    if (id != 0) {
        ffs_done(ffs_note(FFS_SYNC, id, 0, 0, NULL, NULL, NULL, 0, &begun), 0);
    }
    ffs_unlock();
    error = fd_fault(FFS_CALL_SYNC, fd, NULL);
    if (error == 0 && !(nosync && id != 0) && syscall(number, fd) != 0) {
        error = errno;
    }
    if (id != 0) {
        ffs_lock();
        ffs_done(ffs_note(FFS_SYNCED, id, begun, 0, NULL, NULL, NULL, 0, NULL), -error);
        ffs_unlock();
    }
    return error != 0 ? failed(error) : 0;
}

EXPORT int fsync(int fd)
{
    return sync_any(fd, SYS_fsync);
}

EXPORT int fdatasync(int fd)
{
    return sync_any(fd, SYS_fdatasync);
}

/* Starts writing back, and promises nothing: nothing is noted. */
EXPORT int sync_file_range(int fd, off_t pos, off_t len, unsigned flags)
{
    int error = fd_fault(FFS_CALL_SYNC, fd, NULL);
    return error != 0 ? failed(error) : (int)syscall(SYS_sync_file_range, fd, pos, len, flags);
}
ALIAS(sync_file_range) int sync_file_range64(int fd, off_t pos, off_t len, unsigned flags);

EXPORT int syncfs(int fd)
{
    if (ffs_journal_on()) {
        ffs_fail("syncfs is not modelled", "");
    }
    return (int)syscall(SYS_syncfs, fd);
}

EXPORT int msync(void *at, size_t len, int flags)
{
    return (int)syscall(SYS_msync, at, len, flags);
}

/* ---- names changed
 * ---------------------------------------------------------------------------------------------------------
 */

static int rename_any(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    char full[FFS_PATH_MAX], target[FFS_PATH_MAX];
    struct stat st = {0};
    bool ours = ours_at(from_dir, from, full);
    if (ours_at(to_dir, to, target) != ours && ffs_journal_on()) {
        ffs_fail("a rename into or out of the folder is not modelled", ours ? full : target);
    }
    int error = ours ? ffs_fault(FFS_CALL_RENAME, relative(full), NULL) : 0;
    if (error != 0) {
        return failed(error);
    }
    if (!ours || !ffs_journal_on()) {
        return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    }
    ffs_lock();
    uint64_t folder = parent_of(full);
    if (flags != 0 || parent_of(target) != folder) {
        ffs_fail("only a plain rename within a folder is modelled", full);
    }
    struct ffs_record *record = NULL;
    if (fstatat(from_dir, from, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        record = ffs_note(FFS_RENAME, ffs_id_of(st.st_ino), folder, 0, leaf_of(full),
                          leaf_of(target), NULL, 0, NULL);
    }
    long rc = syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    error = errno;
    if (record != NULL) {
        ffs_done(record, rc < 0 ? -error : 0);
    }
    ffs_unlock();
    return rc < 0 ? failed(error) : 0;
}

EXPORT int rename(const char *from, const char *to)
{
    return rename_any(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return rename_any(from_dir, from, to_dir, to, 0);
}

EXPORT int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return rename_any(from_dir, from, to_dir, to, flags);
}

static int unlink_any(int dir_fd, const char *path, int flags)
{
    char full[FFS_PATH_MAX];
    struct stat st = {0};
    bool ours = ours_at(dir_fd, path, full);
    int error = ours ? ffs_fault(FFS_CALL_UNLINK, relative(full), NULL) : 0;
    if (error != 0) {
        return failed(error);
    }
    if (!ours || !ffs_journal_on()) {
        return (int)syscall(SYS_unlinkat, dir_fd, path, flags);
    }
    ffs_lock();
    struct ffs_record *record = NULL;
    if (fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        record =
            ffs_note((flags & AT_REMOVEDIR) != 0 ? FFS_RMDIR : FFS_UNLINK, ffs_id_of(st.st_ino),
                     parent_of(full), 0, leaf_of(full), NULL, NULL, 0, NULL);
    }
    long rc = syscall(SYS_unlinkat, dir_fd, path, flags);
    error = errno;
    if (record != NULL) {
        ffs_done(record, rc < 0 ? -error : 0);
    }
    ffs_unlock();
    return rc < 0 ? failed(error) : 0;
}

EXPORT int unlinkat(int dir_fd, const char *path, int flags)
{
    return unlink_any(dir_fd, path, flags);
}

EXPORT int unlink(const char *path)
{
    return unlink_any(AT_FDCWD, path, 0);
}

EXPORT int rmdir(const char *path)
{
    return unlink_any(AT_FDCWD, path, AT_REMOVEDIR);
}

EXPORT int mkdirat(int dir_fd, const char *path, mode_t mode)
{
    char full[FFS_PATH_MAX];
    struct stat st = {0};
    bool ours = ours_at(dir_fd, path, full);
    int error = ours ? ffs_fault(FFS_CALL_MKDIR, relative(full), NULL) : 0;
    if (error != 0) {
        return failed(error);
    }
    if (!ours || !ffs_journal_on()) {
        return (int)syscall(SYS_mkdirat, dir_fd, path, mode);
    }
    ffs_lock();
    bool is_root = strcmp(full, root) == 0, was = fstatat(dir_fd, path, &st, 0) == 0;
    struct ffs_record *record =
        was ? NULL
            : ffs_note(is_root ? FFS_INIT_DIR : FFS_MKDIR, 0, is_root ? 0 : parent_of(full), 0,
                       is_root ? "" : leaf_of(full), NULL, NULL, 0, NULL);
    long rc = syscall(SYS_mkdirat, dir_fd, path, mode);
    error = errno;
    if (record != NULL) {
        if (rc == 0 && stat(full, &st) == 0) {
            root_dev = st.st_dev;
            record->id = ffs_id_new(st.st_ino);
        }
        ffs_done(record, rc < 0 ? -error : 0);
    }
    ffs_unlock();
    return rc < 0 ? failed(error) : 0;
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

EXPORT int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    char full[FFS_PATH_MAX];
    if (ffs_journal_on() && ours_at(to_dir, to, full)) {
        ffs_fail("links are not modelled", full);
    }
    return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

EXPORT int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- reading and maps
 * -------------------------------------------------------------------------------------------------------
 */

EXPORT ssize_t read(int fd, void *buf, size_t len)
{
    int error = fd_fault(FFS_CALL_READ, fd, &len);
    return error != 0 ? failed(error) : syscall(SYS_read, fd, buf, len);
}

EXPORT ssize_t pread(int fd, void *buf, size_t len, off_t pos)
{
    int error = fd_fault(FFS_CALL_READ, fd, &len);
    return error != 0 ? failed(error) : syscall(SYS_pread64, fd, buf, len, pos);
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t pos, int flags)
{
    struct iovec part[IOV_PART];
    size_t len = 0;
    for (int i = 0; i < count; i++) {
        len += iov[i].iov_len;
    }
    size_t want = len;
    int error = fd_fault(FFS_CALL_READ, fd, &want);
    if (error != 0) {
        return failed(error);
    }
    if (want < len) {
        count = iov_cut(iov, count, want, part);
        iov = part;
    }
    return syscall(SYS_preadv2, fd, iov, count, (unsigned long)pos, 0UL, flags);
}

ALIAS(pread) ssize_t pread64(int fd, void *buf, size_t len, off_t pos);
ALIAS(preadv2) ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off_t pos, int flags);

EXPORT void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t pos)
{
    struct stat st;
    if (fd >= 0 && (flags & MAP_ANONYMOUS) == 0) {
        int error = fd_fault(FFS_CALL_MMAP, fd, NULL);
        if (error != 0) {
            errno = error;
            return MAP_FAILED;
        }
        if (ffs_journal_on() && (prot & PROT_WRITE) != 0 && (flags & MAP_TYPE) != MAP_PRIVATE) {
            ffs_lock();
            if (object_of(fd, &st) != 0) {
                ffs_fail("a shared writable map is not modelled", "");
            }
            ffs_unlock();
        }
    }
    return (void *)syscall(SYS_mmap, at, len, prot, flags, fd,
                           pos); // NOLINT(performance-no-int-to-ptr)
}
ALIAS(mmap) void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t pos);

EXPORT int madvise(void *at, size_t len, int advice)
{
    int error = advice == MADV_POPULATE_READ ? ffs_fault(FFS_CALL_ADVISE, "", NULL) : 0;
    return error != 0 ? failed(error) : (int)syscall(SYS_madvise, at, len, advice);
}

/* ---- start
 * ------------------------------------------------------------------------------------------------------------------
 */

/* Give an object to everything that stands in a folder already. */
static void scan(const char *path, uint64_t id)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        ffs_fail("a folder that cannot be listed", path);
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char full[FFS_PATH_MAX];
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            snprintf(full, sizeof full, "%s/%s", path, entry->d_name) >= FFS_PATH_MAX ||
            lstat(full, &st) != 0) {
            continue;
        }
        uint64_t child = ffs_id_new(st.st_ino);
        ffs_done(ffs_note(S_ISDIR(st.st_mode) ? FFS_INIT_DIR : FFS_INIT_FILE, child, id, 0,
                          entry->d_name, NULL, NULL, 0, NULL),
                 0);
        if (S_ISDIR(st.st_mode)) {
            scan(full, child);
        }
    }
    (void)closedir(dir);
}

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("FAULTFS_ROOT"), *journal = getenv("FAULTFS_JOURNAL");
    const char *control = getenv("FAULTFS_CONTROL"), *boot_id = getenv("FAULTFS_BOOT_ID");
    struct stat st;
    nosync = getenv("FAULTFS_NOSYNC") != NULL;
    if (boot_id != NULL) {
        (void)snprintf(boot_id_file, sizeof boot_id_file, "%s", boot_id);
    }
    if (folder == NULL) {
        return;
    }
    if (control != NULL && !ffs_control_open(control)) {
        ffs_fail("its control file cannot be used", control);
    }
    if (journal != NULL && !ffs_journal_open(journal)) {
        ffs_fail("its journal cannot be used", journal);
    }
    (void)snprintf(root, sizeof root, "%s", folder);
    if (journal != NULL && stat(root, &st) == 0) {
        ffs_lock();
        root_dev = st.st_dev;
        uint64_t id = ffs_id_new(st.st_ino);
        ffs_done(ffs_note(FFS_INIT_DIR, id, 0, 0, "", NULL, NULL, 0, NULL), 0);
        scan(root, id);
        ffs_unlock();
    }
    root_len = strlen(root);
    (void)unsetenv("LD_PRELOAD"); /* for this process only */
}
