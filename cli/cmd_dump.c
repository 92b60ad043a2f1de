/* cmd_dump.c -- dump: which files a path means, and the way through folders. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"

enum { DEPTH_MAX = 3 };
enum { OPT_VERIFY = CLI_OPT_OWN, OPT_RECORDS, OPT_QUIET };

/* ---- folders ------------------------------------------------------------------------------- */

struct listing {
    char **names; /* sorted */
    size_t count, capacity;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list_free(struct listing *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->names[i]);
    }
    free(list->names);
    *list = (struct listing){0};
}

static int list_add(struct listing *list, const char *name)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        char **grown = realloc(list->names, capacity * sizeof *grown);
        if (grown == NULL) {
            return ENOMEM;
        }
        list->names = grown;
        list->capacity = capacity;
    }
    list->names[list->count] = strdup(name);
    return list->names[list->count] == NULL ? ENOMEM : (list->count++, 0);
}

/* The names in an open folder. @return 0 or an errno */
static int list_folder(int dir_fd, struct listing *list)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    int rc = dir == NULL ? errno : 0;
    *list = (struct listing){0};
    if (dir == NULL && fd >= 0) {
        (void)close(fd);
    }
    for (struct dirent *entry; dir != NULL && rc == 0 && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = list_add(list, entry->d_name);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    if (list->count > 1) {
        qsort(list->names, list->count, sizeof *list->names, by_name);
    }
    return rc;
}

int dump_file_kind(int dir_fd, const char *name, int64_t *base_offset)
{
    struct stat st;
    int kind = sti_log_file_kind(name, base_offset);
    if (kind != STI_LOG_FILE_OTHER && fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISREG(st.st_mode)) {
        kind = STI_LOG_FILE_OTHER;
    }
    return kind;
}

bool dump_has_later_log(int dir_fd, int64_t base_offset)
{
    struct listing list;
    bool found = false;
    int64_t base;
    if (list_folder(dir_fd, &list) == 0) {
        for (size_t i = list.count; i > 0 && !found; i--) {
            found = dump_file_kind(dir_fd, list.names[i - 1], &base) == STI_LOG_FILE_LOG &&
                    base > base_offset;
        }
    }
    list_free(&list);
    return found;
}

static bool is_partition(int dir_fd, const struct listing *list)
{
    int64_t base;
    for (size_t i = 0; i < list->count; i++) {
        int kind = dump_file_kind(dir_fd, list->names[i], &base);
        if (kind == STI_LOG_FILE_LOG || kind == STI_LOG_FILE_META ||
            kind == STI_LOG_FILE_RECOVERY) {
            return true;
        }
    }
    return false;
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t len = strlen(text), suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(text + len - suffix_len, suffix) == 0;
}

static void dump_folder(struct dump *dump, int dir_fd, const char *path, int depth);

/* A name in a folder that is no partition: a folder to go into, a file of ours, or a stranger. */
static void dump_entry(struct dump *dump, int dir_fd, const char *path, const char *name, int depth)
{
    struct dump_file file;
    struct stat st;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return; /* gone meanwhile */
    }
    if (S_ISREG(st.st_mode) && dump_command_file(dump, dir_fd, path, name)) {
        return;
    }
    dump_file_begin(dump, &file, path, name, NULL, -1);
    if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX && !ends_with(name, ".deleted")) {
        int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
            dump_failure(dump, &file, errno);
        } else {
            dump_folder(dump, fd, file.path, depth + 1);
        }
        return;
    }
    const char *kind = S_ISDIR(st.st_mode) && ends_with(name, ".deleted")
                           ? "a deleted partition, removed at the next start"
                       : strcmp(name, "lock") == 0 ? "the lock of the data folder"
                                                   : "not ours, left alone";
    dump_file_begin(dump, &file, path, name, kind, -1);
}

/* Takes dir_fd. */
static void dump_folder(struct dump *dump, int dir_fd, const char *path, int depth)
{
    struct listing list;
    struct dump_file file;
    int rc = list_folder(dir_fd, &list);
    if (rc != 0) {
        dump_file_begin(dump, &file, path, "", NULL, -1);
        dump_failure(dump, &file, rc);
    } else if (is_partition(dir_fd, &list)) {
        dump_partition_folder(dump, dir_fd, path, list.names, list.count);
    } else {
        for (size_t i = 0; i < list.count && !cli_interrupted; i++) {
            dump_entry(dump, dir_fd, path, list.names[i], depth);
        }
    }
    list_free(&list);
    (void)close(dir_fd);
}

/* ---- a path -------------------------------------------------------------------------------- */

static int dump_one_file(struct dump *dump, const char *path)
{
    struct sti_err err;
    char *dir_copy = strdup(path), *name_copy = strdup(path);
    int status = CLI_OK;
    if (dir_copy == NULL || name_copy == NULL) {
        free(dir_copy);
        free(name_copy);
        return cli_error(STI_E_NO_MEMORY, NULL);
    }
    const char *dir = dirname(dir_copy), *name = basename(name_copy);
    const char *shown = strchr(path, '/') == NULL ? "" : dir; /* as the user wrote it */
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        sti_err_set(&err, STI_E_IO, "%.180s: %s", dir, strerror(errno));
        status = cli_error(err.code, &err);
    } else if (!dump_partition_file(dump, dir_fd, shown, name) &&
               !dump_command_file(dump, dir_fd, shown, name)) {
        sti_err_set(&err, STI_E_INVALID_ARGUMENT,
                    "%.180s: by its name this is no file of a partition or of the metadata log",
                    path);
        status = cli_error(err.code, &err);
    }
    if (dir_fd >= 0) {
        (void)close(dir_fd);
    }
    free(dir_copy);
    free(name_copy);
    return status;
}

static int dump_path(struct dump *dump, const char *path)
{
    struct sti_err err;
    struct stat st;
    if (stat(path, &st) != 0) {
        int code = errno == ENOENT ? STI_E_NOT_FOUND : STI_E_IO;
        sti_err_set(&err, code, "%.180s: %s", path, strerror(errno));
        return cli_error(code, &err);
    }
    if (S_ISREG(st.st_mode)) {
        return dump_one_file(dump, path);
    }
    int fd = S_ISDIR(st.st_mode) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0) {
        sti_err_set(&err, STI_E_IO, "%.180s: %s", path,
                    S_ISDIR(st.st_mode) ? strerror(errno) : "neither a file nor a folder");
        return cli_error(STI_E_IO, &err);
    }
    dump_folder(dump, fd, path, 0);
    return CLI_OK;
}

static int run(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS,
                                            {"verify", no_argument, NULL, OPT_VERIFY},
                                            {"records", no_argument, NULL, OPT_RECORDS},
                                            {"quiet", no_argument, NULL, OPT_QUIET},
                                            {NULL, 0, NULL, 0}};
    struct dump dump = {.cli = cli};
    int status = CLI_OK, option;
    while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (option == CLI_OPT_HELP) {
            cli_print_help(cli->command);
            return CLI_OK;
        }
        status = -1;
        dump.verify = dump.verify || option == OPT_VERIFY;
        dump.records = dump.records || option == OPT_RECORDS;
        dump.quiet = dump.quiet || option == OPT_QUIET;
        if (option == '?' || option == ':' ||
            (option < CLI_OPT_OWN && !cli_global_option(cli, option, optarg, &status))) {
            return cli_usage(cli, option == ':' ? "%s needs a value" : "unknown option %s",
                             argv[optind - 1]);
        }
        if (status >= 0) {
            return status;
        }
    }
    if (optind == argc) {
        return cli_usage(cli, "expected a file or a folder");
    }
    status = CLI_OK;
    for (int i = optind; i < argc && !cli_interrupted && ferror(stdout) == 0; i++) {
        if (dump_path(&dump, argv[i]) != CLI_OK) {
            status = CLI_FAILED;
        }
    }
    int verdict = dump_end(&dump);
    return verdict != CLI_OK ? verdict : status;
}

const struct cli_command cli_dump = {
    "dump", "Files of a node", "look at batches, indexes and small files, offline",
    "  PATH...               a .log, .index, .timeindex or small file; the folder of a partition; "
    "or one\n"
    "                        that holds such folders, up to a node's whole data folder\n"
    "  --verify              judge what is there, and end with exit status 1 if anything is "
    "damaged\n"
    "  --records             also the records of each batch, decompressed\n"
    "  --quiet               say only what is wrong, and the totals\n\n"
    "Asks no server, takes no lock and changes nothing; a node may be running. Each damaged file "
    "is\n"
    "one line on standard error, for its first damage:\n"
    "  error: DATA_LOSS: FILE: position N: sentence\n"
    "An unfinished tail, which the next start cuts off, is a warning.\n\n"
    "Example:\n"
    "  streamit dump --verify --quiet /var/lib/streamit\n",
    run};
