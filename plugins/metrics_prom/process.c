/* process.c -- figures of this process; see exposition.h.
 *
 * Everything comes from /proc and getrusage at the moment of asking; nothing is kept between calls.
 */
#include "exposition.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A small file of /proc, terminated. @return false when it cannot be read */
static bool read_proc(const char *path, char *out, size_t capacity)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    size_t len = fread(out, 1, capacity - 1, file);
    out[len] = '\0';
    (void)fclose(file);
    return len > 0;
}

/* The number behind `key` at the beginning of a line. */
static bool find_number(const char *text, const char *key, double *out)
{
    size_t key_len = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, key_len) == 0) {
            *out = strtod(line + key_len, NULL);
            return true;
        }
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    return false;
}

static void put(struct mpr_text *text, const char *name, const char *type, const char *help,
                double value)
{
    MPR_TEXT_JOIN(text, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n", name, " ");
    mpr_text_number(text, value);
    mpr_text_str(text, "\n");
}

static void put_memory(struct mpr_text *text)
{
    char status[8192];
    double kib;
    if (!read_proc("/proc/self/status", status, sizeof status)) {
        return;
    }
    if (find_number(status, "VmSize:", &kib)) {
        put(text, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.",
            kib * 1024);
    }
    if (find_number(status, "VmRSS:", &kib)) {
        put(text, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
            kib * 1024);
    }
    if (find_number(status, "RssAnon:", &kib)) {
        put(text, "process_anonymous_memory_bytes", "gauge",
            "Resident memory that is no page of a file, in bytes.", kib * 1024);
    }
    if (find_number(status, "Threads:", &kib)) {
        put(text, "process_threads", "gauge", "Threads of the process.", kib);
    }
}

static void put_files(struct mpr_text *text)
{
    struct rlimit limit;
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (dir != NULL) {
        while (readdir(dir) != NULL) {
            count++;
        }
        (void)closedir(dir);
        /* Without ".", ".." and the one that reads the folder. */
        put(text, "process_open_fds", "gauge", "Open file descriptors.",
            count > 3 ? (double)(count - 3) : 0.0);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        put(text, "process_max_fds", "gauge", "Most file descriptors that may be open.",
            (double)limit.rlim_cur);
    }
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

/* Boot time plus the start in ticks since then: field 22 of stat, counted behind the command name,
 * which may hold anything. */
static bool start_time(double *seconds)
{
    char stat[4096];
    double boot;
    char *at = NULL;
    if (read_proc("/proc/self/stat", stat, sizeof stat)) {
        at = strrchr(stat, ')');
    }
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    if (at == NULL) {
        return false;
    }
    double ticks = strtod(at, NULL);
    FILE *file = fopen("/proc/stat", "re");
    char line[256];
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        found = find_number(line, "btime ", &boot);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    *seconds = found ? boot + ticks / (double)sysconf(_SC_CLK_TCK) : 0;
    return found;
}

void mpr_process(struct mpr_text *text)
{
    struct rusage usage;
    double seconds;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        put(text, "process_cpu_seconds_total", "counter",
            "User and system CPU time spent, in seconds.",
            seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    }
    put_memory(text);
    put_files(text);
    if (start_time(&seconds)) {
        put(text, "process_start_time_seconds", "gauge",
            "Start of the process in seconds since 1970 UTC.", seconds);
    }
}
