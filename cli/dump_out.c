/* dump_out.c -- what dump has seen, for people and for programs, and the little reading it does. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"

/* The values of an object as `key: value` pairs. */
static void print_members(json_t *members)
{
    const char *key;
    json_t *value;
    const char *between = "";
    json_object_foreach(members, key, value)
    {
        printf("%s%s: ", between, key);
        if (json_is_string(value) && strpbrk(json_string_value(value), " \"\n\t") == NULL) {
            fputs(json_string_value(value), stdout);
        } else {
            (void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
        }
        between = "  ";
    }
    fputc('\n', stdout);
}

void dump_line(const struct dump *dump, const struct dump_file *file, const char *type,
               json_t *members)
{
    if (members == NULL) {
        exit(cli_error(STI_E_NO_MEMORY, NULL));
    }
    if (dump->cli->json) {
        json_t *line = json_pack("{s:s,s:s}", "type", type, "file", file->path);
        if (line == NULL) { /* a path that is no UTF-8 */
            line = json_pack("{s:s,s:n}", "type", type, "file");
        }
        (void)json_object_update(line, members);
        cli_print_json(line);
    } else {
        printf("  %s  ", type);
        print_members(members);
    }
    json_decref(members);
}

void dump_file_begin(struct dump *dump, struct dump_file *file, const char *dir, const char *name,
                     const char *kind, int64_t size)
{
    size_t len = strlen(dir);
    const char *slash = len > 0 && dir[len - 1] != '/' ? "/" : "";
    if ((size_t)snprintf(file->path, sizeof file->path, "%s%s%s", dir, slash, name) >=
        sizeof file->path) {
        file->path[sizeof file->path - 1] = '\0';
    }
    file->damaged = false;
    if (kind == NULL) {
        return;
    }
    dump->files++;
    if (dump->quiet) {
        return;
    }
    if (dump->cli->json) {
        dump_line(dump, file, "file",
                  size < 0 ? json_pack("{s:s}", "kind", kind)
                           : json_pack("{s:s,s:I}", "kind", kind, "size", (json_int_t)size));
    } else if (size < 0) {
        printf("%s: %s\n", file->path, kind);
    } else {
        printf("%s: %s, %" PRId64 " bytes\n", file->path, kind, size);
    }
}

void dump_damage(struct dump *dump, struct dump_file *file, uint64_t pos, const char *fmt, ...)
{
    char text[512];
    va_list args;
    if (file->damaged) {
        return;
    }
    file->damaged = true;
    dump->damaged++;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (dump->cli->json) {
        dump_line(dump, file, "damage",
                  json_pack("{s:I,s:s}", "position", (json_int_t)pos, "reason", text));
    } else if (!dump->verify) {
        printf("  damage  position: %" PRIu64 "  %s\n", pos, text);
    }
    if (dump->verify) {
        fflush(stdout);
        fprintf(stderr, "error: %s: %s: position %" PRIu64 ": %s\n",
                sti_status_name(STI_E_DATA_LOSS), file->path, pos, text);
    }
}

void dump_warning(struct dump *dump, const struct dump_file *file, uint64_t pos, const char *fmt,
                  ...)
{
    char text[512];
    va_list args;
    dump->warnings++;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (dump->cli->json) {
        dump_line(dump, file, "warning",
                  json_pack("{s:I,s:s}", "position", (json_int_t)pos, "reason", text));
    }
    fflush(stdout);
    fprintf(stderr, "warning: %s: position %" PRIu64 ": %s\n", file->path, pos, text);
}

void dump_failure(struct dump *dump, const struct dump_file *file, int error)
{
    struct sti_err err;
    if (error == ENOENT) {
        dump_warning(dump, file, 0, "it was removed meanwhile");
        return;
    }
    dump->failures++;
    sti_err_set(&err, STI_E_IO, "%.180s: %s", file->path, strerror(error));
    (void)cli_error(err.code, &err);
}

int dump_end(struct dump *dump)
{
    static const char keys[] = "{s:s,s:I,s:I,s:I,s:I,s:I,s:I}";
    if (dump->cli->json) {
        cli_print_json(
            json_pack(keys, "type", "summary", "partitions", (json_int_t)dump->partitions, "files",
                      (json_int_t)dump->files, "batches", (json_int_t)dump->batches, "records",
                      (json_int_t)dump->record_count, "damaged_files", (json_int_t)dump->damaged,
                      "warnings", (json_int_t)dump->warnings));
    } else {
        fflush(stdout);
        fprintf(stderr,
                "%" PRIu64 " partitions, %" PRIu64 " files, %" PRIu64 " batches, %" PRIu64
                " records; %" PRIu64 " damaged files, %" PRIu64 " warnings\n",
                dump->partitions, dump->files, dump->batches, dump->record_count, dump->damaged,
                dump->warnings);
    }
    if (cli_interrupted) {
        return CLI_INTERRUPTED;
    }
    return dump->failures > 0 || (dump->verify && dump->damaged > 0) ? CLI_FAILED : CLI_OK;
}

int dump_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    const int *fd = ctx;
    *got = 0;
    while (*got < len) {
        if (cli_interrupted) {
            return EINTR; /* a search through a large file reads nothing but bytes, and ends here */
        }
        ssize_t n = pread(*fd, (char *)buf + *got, len - *got, (off_t)(pos + *got));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? EIO : errno;
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
    }
    return 0;
}

int dump_read_small(int dir_fd, const char *name, size_t max, char **data, size_t *len)
{
    struct stat st;
    *data = NULL;
    *len = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return errno;
    }
    int rc = fstat(fd, &st) != 0 ? errno : !S_ISREG(st.st_mode) ? EINVAL : 0;
    if (rc == 0 && (uint64_t)st.st_size > max) {
        rc = EFBIG;
    }
    if (rc == 0 && (*data = malloc((size_t)st.st_size + 1)) == NULL) {
        rc = ENOMEM;
    }
    if (rc == 0) {
        rc = dump_read(&fd, *data, (size_t)st.st_size, 0, len);
    }
    if (rc == 0) {
        (*data)[*len] = '\0';
    } else {
        free(*data);
        *data = NULL;
    }
    (void)close(fd);
    return rc;
}
