/* lines.c -- see lines.h. */
#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, WAIT_MS = 100 };

int lines_open(struct lines *lines, const char *path, size_t line_max, struct sti_err *err)
{
    bool standard = strcmp(path, "-") == 0;
    struct stat st;
    memset(lines, 0, sizeof *lines);
    lines->name = standard ? "standard input" : path;
    lines->line_max = line_max;
    lines->fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (lines->fd < 0) {
        int code = errno == ENOENT   ? STI_E_NOT_FOUND
                   : errno == EACCES ? STI_E_PERMISSION_DENIED
                                     : STI_E_IO;
        return sti_err_set(err, code, "%s: %s", path, strerror(errno));
    }
    if (fstat(lines->fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        lines_close(lines);
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: is a directory", path);
    }
    lines->capacity = 2 * BLOCK;
    lines->buf = malloc(lines->capacity);
    if (lines->buf == NULL) {
        lines_close(lines);
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory to read %s", path);
    }
    return STI_OK;
}

void lines_close(struct lines *lines)
{
    if (lines->fd > STDIN_FILENO) {
        close(lines->fd);
    }
    lines->fd = -1;
    free(lines->buf);
    lines->buf = NULL;
}

/* Make room for a block behind the unread bytes. */
static int lines_reserve(struct lines *lines, struct sti_err *err)
{
    if (lines->begin > 0) {
        memmove(lines->buf, lines->buf + lines->begin, lines->end - lines->begin);
        lines->end -= lines->begin;
        lines->begin = 0;
    }
    if (lines->capacity - lines->end >= BLOCK) {
        return STI_OK;
    }
    uint8_t *buf = realloc(lines->buf, lines->capacity * 2);
    if (buf == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: line %llu: no memory for %zu bytes",
                           lines->name, (unsigned long long)lines->number + 1, lines->capacity * 2);
    }
    lines->buf = buf;
    lines->capacity *= 2;
    return STI_OK;
}

static int lines_fill(struct lines *lines, struct sti_err *err)
{
    int rc = lines_reserve(lines, err);
    if (rc != STI_OK) {
        return rc;
    }
    struct pollfd ready = {.fd = lines->fd, .events = POLLIN};
    if (poll(&ready, 1, WAIT_MS) == 0) {
        return STI_E_WOULD_BLOCK;
    }
    ssize_t n = read(lines->fd, lines->buf + lines->end, lines->capacity - lines->end);
    if (n < 0) {
        return errno == EINTR || errno == EAGAIN
                   ? STI_E_WOULD_BLOCK
                   : sti_err_set(err, STI_E_IO, "%s: %s", lines->name, strerror(errno));
    }
    lines->eof = n == 0;
    lines->end += (size_t)n;
    return STI_OK;
}

int lines_next(struct lines *lines, const uint8_t **line, size_t *len, struct sti_err *err)
{
    for (;;) {
        const uint8_t *from = lines->buf + lines->begin;
        size_t have = lines->end - lines->begin;
        const uint8_t *newline = have == lines->scanned
                                     ? NULL
                                     : memchr(from + lines->scanned, '\n', have - lines->scanned);
        size_t found = newline == NULL ? have : (size_t)(newline - from);
        if (found > lines->line_max) {
            return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                               "%s: line %llu is longer than the largest message, %zu bytes",
                               lines->name, (unsigned long long)lines->number + 1, lines->line_max);
        }
        if (newline != NULL || (lines->eof && have > 0)) {
            *line = from;
            *len = found;
            lines->begin += found + (newline != NULL ? 1u : 0u);
            lines->scanned = 0;
            lines->number++;
            return STI_OK;
        }
        if (lines->eof) {
            return STI_E_END;
        }
        lines->scanned = have;
        int rc = lines_fill(lines, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
}
