/* raw_open.c -- the least that any node must do to look at its partitions again after a crash.
 *
 *     raw_open FOLDER [--stat]
 *
 * For each folder in FOLDER: open it, list it, read its small files, and read its `.log` files to
 * the end; with --stat, only ask for the sizes of those. One thread, no checks. Prints one line of
 * JSON: folders, files, bytes read, seconds.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUF = 256 * 1024 };

static struct {
    uint64_t folders, files, bytes;
} seen;
static char buf[BUF];

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool is_log(const char *name)
{
    size_t len = strlen(name);
    return len > 4 && strcmp(name + len - 4, ".log") == 0;
}

static void look_at(int dir_fd, const char *name, bool only_stat)
{
    struct stat st;
    ssize_t n;
    if (only_stat && is_log(name)) {
        seen.files += fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        return;
    }
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    seen.files++;
    while ((n = read(fd, buf, sizeof buf)) > 0) {
        seen.bytes += (uint64_t)n;
    }
    (void)close(fd);
}

static void folder(int parent, const char *name, bool only_stat)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (dir == NULL) {
        return;
    }
    seen.folders++;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_type == DT_REG && strstr(entry->d_name, "index") == NULL) {
            look_at(fd, entry->d_name, only_stat);
        }
    }
    (void)closedir(dir);
}

int main(int argc, char **argv)
{
    bool only_stat = argc > 2 && strcmp(argv[2], "--stat") == 0;
    DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    if (dir == NULL) {
        fputs("usage: raw_open FOLDER [--stat]\n", stderr);
        return 2;
    }
    double begin = now();
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
            folder(dirfd(dir), entry->d_name, only_stat);
        }
    }
    double seconds = now() - begin;
    (void)closedir(dir);
    printf("{\"folders\":%llu,\"files\":%llu,\"bytes\":%llu,\"seconds\":%.6f}\n",
           (unsigned long long)seen.folders, (unsigned long long)seen.files,
           (unsigned long long)seen.bytes, seconds);
    return 0;
}
