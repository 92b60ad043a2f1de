/* engine.c -- see engine.h for the story. */
#include "kernel/engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/identity.h"

enum { TEXT_BYTES_MAX = 256, ENGINE_NAME_MAX = 64 };

static const char guide[] = "see \"Changing an engine\" in docs/guides/operators.md";

static int format_text(const char *engine, char *text, size_t size)
{
    int len = snprintf(text, size, "engine=%s\n", engine);
    uint32_t sum = krn_identity_sum(text, (size_t)len);
    return len + snprintf(text + len, size - (size_t)len, "crc32=%08" PRIx32 "\n", sum);
}

/* The engine that a text names. @return false: the text is not what format_text makes of a name */
static bool parse_text(const char *text, size_t len, char engine[ENGINE_NAME_MAX])
{
    char expected[TEXT_BYTES_MAX];
    const char *name = text + strlen("engine=");
    if (len < strlen("engine=") || strncmp(text, "engine=", strlen("engine=")) != 0) {
        return false;
    }
    size_t name_len = strcspn(name, "\n");
    if (name_len == 0 || name_len >= ENGINE_NAME_MAX) {
        return false;
    }
    memcpy(engine, name, name_len);
    engine[name_len] = '\0';
    return format_text(engine, expected, sizeof expected) == (int)len &&
           memcmp(expected, text, len) == 0;
}

/* What the file in an open folder says. @return STI_OK with engine[0] == '\0' when there is none */
static int read_note(const char *data_dir, const char *instance, int dir_fd,
                     char engine[ENGINE_NAME_MAX], struct sti_err *err)
{
    char text[TEXT_BYTES_MAX];
    engine[0] = '\0';
    int fd = openat(dir_fd, KRN_ENGINE_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        return STI_OK;
    }
    ssize_t len = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    int cause = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (len < 0) {
        return sti_err_set(err, STI_E_IO, "%s/%s/" KRN_ENGINE_FILE ": %s", data_dir, instance,
                           strerror(cause));
    }
    text[len] = '\0';
    if (len == 0) {
        return STI_OK; /* what a loss of power leaves of a file that was not synced */
    }
    if (parse_text(text, (size_t)len, engine)) {
        return STI_OK;
    }
    return sti_err_set(err, STI_E_DATA_LOSS,
                       "%.100s/%s/" KRN_ENGINE_FILE " is damaged: restore it, or remove it if the "
                       "folder was written by the plugin that is configured",
                       data_dir, instance);
}

/* Does the folder hold anything but the kernel's own file? */
static bool holds_data(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool found = false;
    struct dirent *entry;
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
                strncmp(entry->d_name, KRN_ENGINE_FILE, strlen(KRN_ENGINE_FILE)) != 0;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    } else if (fd >= 0) {
        (void)close(fd);
    }
    return found;
}

static const struct krn_engine *find(const struct krn_engine *const *engines, size_t count,
                                     const char *instance)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(engines[i]->instance, instance) == 0) {
            return engines[i];
        }
    }
    return NULL;
}

static int check_one(const char *data_dir, const char *name, int dir_fd,
                     const struct krn_engine *configured, struct sti_err *err)
{
    char engine[ENGINE_NAME_MAX];
    int status = read_note(data_dir, name, dir_fd, engine, err);
    if (status != STI_OK || engine[0] == '\0' ||
        (configured != NULL && strcmp(configured->engine, engine) == 0) || !holds_data(dir_fd)) {
        return status;
    }
    if (configured != NULL) {
        return sti_err_set(err, STI_E_CONFIG,
                           "plugins.%s loads %s, but %.80s/%s holds data of %s: load %s there; %s",
                           name, configured->engine, data_dir, name, engine, engine, guide);
    }
    return sti_err_set(err, STI_E_CONFIG,
                       "%.80s/%s holds data of %s, and plugins has no instance %s: configure it; "
                       "%s",
                       data_dir, name, engine, name, guide);
}

int krn_engine_check(const char *data_dir, const struct krn_engine *const *engines, size_t count,
                     struct sti_err *err)
{
    DIR *dir = opendir(data_dir);
    if (dir == NULL) {
        return sti_err_set(err, STI_E_IO, "data folder %s: %s", data_dir, strerror(errno));
    }
    int status = STI_OK;
    struct dirent *entry;
    while (status == STI_OK && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0) {
            status =
                check_one(data_dir, entry->d_name, fd, find(engines, count, entry->d_name), err);
            (void)close(fd);
        }
    }
    (void)closedir(dir);
    return status;
}

/* @return 0 or an errno */
static int write_note(int dir_fd, const char *engine)
{
    char text[TEXT_BYTES_MAX];
    int len = format_text(engine, text, sizeof text), cause = 0;
    int fd = openat(dir_fd, KRN_ENGINE_FILE ".tmp",
                    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
        return errno;
    }
    errno = ENOSPC; /* of a short write */
    /* Synced before it gets its name: a loss of power must not leave a note that nobody
     * understands. */
    if (write(fd, text, (size_t)len) != len || fsync(fd) != 0) {
        cause = errno;
    }
    (void)close(fd);
    if (cause == 0 && renameat(dir_fd, KRN_ENGINE_FILE ".tmp", dir_fd, KRN_ENGINE_FILE) != 0) {
        cause = errno;
    }
    if (cause != 0) {
        (void)unlinkat(dir_fd, KRN_ENGINE_FILE ".tmp", 0);
        return cause;
    }
    return 0; /* without its name in the folder the next start makes it again */
}

int krn_engine_note(const char *data_dir, const struct krn_engine *engine, struct sti_err *err)
{
    char said[ENGINE_NAME_MAX];
    int parent = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = parent < 0 ? -1
                        : openat(parent, engine->instance,
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (parent >= 0) {
        (void)close(parent);
    }
    if (fd < 0) {
        return STI_OK; /* it keeps nothing */
    }
    int cause = 0;
    if (strlen(engine->engine) < ENGINE_NAME_MAX &&
        (read_note(data_dir, engine->instance, fd, said, NULL) != STI_OK ||
         strcmp(said, engine->engine) != 0)) {
        cause = write_note(fd, engine->engine);
    }
    (void)close(fd);
    return cause == 0 ? STI_OK
                      : sti_err_set(err, STI_E_IO, "%s/%s/" KRN_ENGINE_FILE ": %s", data_dir,
                                    engine->instance, strerror(cause));
}
