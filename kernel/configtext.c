/* configtext.c -- see configtext.h for the story. */
#include "kernel/configtext.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

enum { LEVELS_MAX = 16, FILES_MAX = 256, BYTES_MAX = 4 << 20 };

/* The text while it grows; moved to the pool in the end. */
struct builder {
    apr_pool_t *pool;
    char *text;
    size_t len, capacity;
    struct krn_configline *origin;
    size_t line_count, line_capacity;
    unsigned file_count;
    struct sti_err *err;
};

/* One file while it is read. */
struct reader {
    const char *file;
    const char *at, *end;
    unsigned line;
    bool line_start;
};

static int grow(void **array, size_t *capacity, size_t need, size_t item)
{
    if (need <= *capacity) {
        return STI_OK;
    }
    size_t next = *capacity == 0 ? 256 : *capacity;
    while (next < need) {
        next *= 2;
    }
    void *more = realloc(*array, next * item);
    if (more == NULL) {
        return STI_E_NO_MEMORY;
    }
    *array = more;
    *capacity = next;
    return STI_OK;
}

static int put(struct builder *b, const char *bytes, size_t len)
{
    if (b->len + len > BYTES_MAX) {
        return sti_err_set(b->err, STI_E_CONFIG, "configuration of more than %d bytes", BYTES_MAX);
    }
    void *text = b->text;
    if (grow(&text, &b->capacity, b->len + len + 1, 1) != STI_OK) {
        return sti_err_set(b->err, STI_E_NO_MEMORY, "configuration: out of memory");
    }
    b->text = text;
    memcpy(b->text + b->len, bytes, len);
    b->len += len;
    b->text[b->len] = '\0';
    return STI_OK;
}

/* The line that the text now stands at comes from here. */
static int mark_line(struct builder *b, const struct reader *r)
{
    void *origin = b->origin;
    if (grow(&origin, &b->line_capacity, b->line_count + 1, sizeof *b->origin) != STI_OK) {
        return sti_err_set(b->err, STI_E_NO_MEMORY, "configuration: out of memory");
    }
    b->origin = origin;
    b->origin[b->line_count++] = (struct krn_configline){.file = r->file, .line = r->line};
    return STI_OK;
}

/* Copy bytes up to `to`, counting lines. */
static int copy_to(struct builder *b, struct reader *r, const char *to)
{
    while (r->at < to) {
        const char *newline = memchr(r->at, '\n', (size_t)(to - r->at));
        const char *stop = newline == NULL ? to : newline + 1;
        int status = put(b, r->at, (size_t)(stop - r->at));
        r->at = stop;
        r->line_start = newline != NULL;
        if (status == STI_OK && newline != NULL) {
            r->line++;
            status = mark_line(b, r);
        }
        if (status != STI_OK) {
            return status;
        }
    }
    return STI_OK;
}

static const char *end_of_string(const struct reader *r)
{
    const char *p = r->at + 1;
    while (p < r->end && *p != '"') {
        p += *p == '\\' && p + 1 < r->end ? 2 : 1;
    }
    return p < r->end ? p + 1 : r->end;
}

static const char *end_of_line(const struct reader *r)
{
    const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
    return newline == NULL ? r->end : newline;
}

static const char *end_of_comment(const struct reader *r)
{
    for (const char *p = r->at + 2; p + 1 < r->end; p++) {
        if (p[0] == '*' && p[1] == '/') {
            return p + 2;
        }
    }
    return r->end;
}

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '*';
}

/* Copy a number; an integer that 32 bits do not hold gets its L. */
static int copy_number(struct builder *b, struct reader *r)
{
    const char *p = r->at;
    p += *p == '-' || *p == '+' ? 1 : 0;
    bool hex = p + 1 < r->end && p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    const char *digits = p + (hex ? 2 : 0);
    p = digits;
    while (p < r->end && (hex ? isxdigit((unsigned char)*p) : isdigit((unsigned char)*p))) {
        p++;
    }
    bool integer = p > digits && (p == r->end || (!is_name(*p) && *p != '.'));
    char number[72];
    size_t len = (size_t)(p - r->at);
    if (!integer || len >= sizeof number) {
        while (p < r->end && (isalnum((unsigned char)*p) || *p == '.' ||
                              ((*p == '-' || *p == '+') && (p[-1] == 'e' || p[-1] == 'E')))) {
            p++;
        }
        return copy_to(b, r, p);
    }
    memcpy(number, r->at, len);
    number[len] = '\0';
    errno = 0;
    long long value = strtoll(number, NULL, hex ? 16 : 10);
    if (errno != 0) {
        return sti_err_set(b->err, STI_E_CONFIG,
                           "%s:%u: the number %s is out of range: expected %" PRId64 " to %" PRId64,
                           r->file, r->line, number, INT64_MIN, INT64_MAX);
    }
    int status = copy_to(b, r, p);
    if (status == STI_OK && (value > INT32_MAX || value < INT32_MIN)) {
        status = put(b, "L", 1);
    }
    return status;
}

static int read_file(struct builder *b, const char *path, const struct reader *from, int level);

/* `@include "other.cfg"` at the start of a line. */
static int copy_include(struct builder *b, struct reader *r, const char *word, int level)
{
    const char *p = word + strlen("@include");
    while (p < r->end && (*p == ' ' || *p == '\t')) {
        p++;
    }
    const char *close =
        p < r->end && *p == '"' ? memchr(p + 1, '"', (size_t)(r->end - p - 1)) : NULL;
    if (close == NULL || memchr(p, '\n', (size_t)(close - p)) != NULL) {
        return sti_err_set(b->err, STI_E_CONFIG, "%s:%u: @include: expected a file name in quotes",
                           r->file, r->line);
    }
    char *name = apr_pstrndup(b->pool, p + 1, (apr_size_t)(close - p - 1));
    const char *slash = strrchr(r->file, '/');
    if (name[0] != '/' && slash != NULL) {
        name = apr_pstrcat(
            b->pool, apr_pstrndup(b->pool, r->file, (apr_size_t)(slash - r->file + 1)), name, NULL);
    }
    if (level + 1 >= LEVELS_MAX) {
        return sti_err_set(b->err, STI_E_CONFIG,
                           "%s:%u: @include '%s': more than %d levels: a file "
                           "includes itself",
                           r->file, r->line, name, LEVELS_MAX);
    }
    r->at = close + 1;
    r->line_start = false;
    int status = read_file(b, name, r, level + 1);
    if (status == STI_OK) {
        status = put(b, "\n", 1);
    }
    return status == STI_OK ? mark_line(b, r) : status;
}

static const char *include_here(const struct reader *r)
{
    const char *p = r->at;
    while (p < r->end && (*p == ' ' || *p == '\t')) {
        p++;
    }
    return (size_t)(r->end - p) > 8 && strncmp(p, "@include", 8) == 0 ? p : NULL;
}

static int scan(struct builder *b, struct reader *r, int level)
{
    int status = mark_line(b, r);
    while (status == STI_OK && r->at < r->end) {
        const char *word = r->line_start ? include_here(r) : NULL;
        char c = *r->at, next = r->at + 1 < r->end ? r->at[1] : '\0';
        if (word != NULL) {
            status = copy_include(b, r, word, level);
        } else if (c == '"') {
            status = copy_to(b, r, end_of_string(r));
        } else if (c == '#' || (c == '/' && next == '/')) {
            status = copy_to(b, r, end_of_line(r));
        } else if (c == '/' && next == '*') {
            status = copy_to(b, r, end_of_comment(r));
        } else if (isdigit((unsigned char)c) ||
                   ((c == '-' || c == '+') && isdigit((unsigned char)next))) {
            status = copy_number(b, r);
        } else if (isalpha((unsigned char)c) || c == '*') {
            const char *p = r->at;
            while (p < r->end && is_name(*p)) {
                p++;
            }
            status = copy_to(b, r, p);
        } else {
            status = copy_to(b, r, r->at + 1);
        }
    }
    return status;
}

/* @return the file's bytes (malloc), NULL with *status set */
static char *slurp(struct builder *b, const char *path, const struct reader *from, size_t *len,
                   int *status)
{
    char where[160] = "";
    if (from != NULL) {
        (void)snprintf(where, sizeof where, "%s:%u: @include: ", from->file, from->line);
    }
    FILE *file = fopen(path, "re");
    char *bytes = file == NULL ? NULL : malloc(BYTES_MAX + 1);
    *status = STI_E_CONFIG;
    if (bytes == NULL) {
        sti_err_set(b->err, STI_E_CONFIG, "%scannot read %s: %s", where, path, strerror(errno));
    } else {
        *len = fread(bytes, 1, BYTES_MAX + 1, file);
        if (ferror(file) || *len > BYTES_MAX || memchr(bytes, '\0', *len) != NULL) {
            sti_err_set(b->err, STI_E_CONFIG, "%scannot read %s: %s", where, path,
                        ferror(file) ? strerror(errno) : "not a text of at most 4 MB");
            free(bytes);
            bytes = NULL;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return bytes;
}

static int read_file(struct builder *b, const char *path, const struct reader *from, int level)
{
    if (++b->file_count > FILES_MAX) {
        return sti_err_set(b->err, STI_E_CONFIG, "configuration of more than %d files", FILES_MAX);
    }
    size_t len = 0;
    int status = STI_OK;
    char *bytes = slurp(b, path, from, &len, &status);
    if (bytes == NULL) {
        return status;
    }
    if (b->line_count > 0) {
        b->line_count--; /* the line of the @include itself becomes the file's first */
    }
    struct reader r = {.file = apr_pstrdup(b->pool, path),
                       .at = bytes,
                       .end = bytes + len,
                       .line = 1,
                       .line_start = true};
    status = scan(b, &r, level);
    free(bytes);
    return status;
}

int krn_configtext_read(apr_pool_t *pool, const char *path, struct krn_configtext *out,
                        struct sti_err *err)
{
    *out = (struct krn_configtext){0};
    struct builder b = {.pool = pool, .err = err};
    int status = read_file(&b, path, NULL, 0);
    if (status == STI_OK) {
        status = put(&b, "", 0);
    }
    if (status == STI_OK) {
        out->text = apr_pmemdup(pool, b.text, b.len + 1);
        out->len = b.len;
        out->origin = apr_pmemdup(pool, b.origin, b.line_count * sizeof *b.origin);
        out->line_count = b.line_count;
    }
    free(b.text);
    free(b.origin);
    return status;
}

struct krn_configline krn_configtext_origin(const struct krn_configtext *text, unsigned line)
{
    size_t index = line == 0 ? 0 : line - 1u;
    if (text->line_count == 0) {
        return (struct krn_configline){.file = "", .line = 0};
    }
    return text->origin[index < text->line_count ? index : text->line_count - 1];
}
