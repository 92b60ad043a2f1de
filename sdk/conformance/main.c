/* main.c -- streamit-conform: does a plugin keep the promises of its interface?
 *
 * Exit status. 0 every case passed or was skipped; 1 a case failed; 2 wrong usage, or a plugin that
 * the kernel refuses; 130 interrupted.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "runner.h"

enum { EXIT_USAGE = 2 };

const struct cfm_suite *const cfm_suites[] = {&cfm_storage_suite, &cfm_metrics_suite,
                                              &cfm_peer_suite, NULL};

static void print_help(void)
{
    fputs(
        "usage: streamit-conform FILE.so [OPTIONS]\n"
        "\n"
        "Proves that a plugin keeps what its interface promises. Each case runs in a process and "
        "a\n"
        "folder of its own, with the plugin loaded by the kernel that streamitd uses. What the\n"
        "plugin does not promise (its capability bits) is skipped, by name.\n"
        "\n"
        "  --set KEY=VALUE   an option of the plugin, as in its section; repeatable\n"
        "  --seed N          seed of the random runs; a random one is taken, and printed, if left\n"
        "                    out\n"
        "  --suite NAME      only this suite; without it every suite whose interface the plugin\n"
        "                    provides\n"
        "  --case NAME       only this case; repeatable\n"
        "  --full            long runs, about twenty times as long\n"
        "  --fail-fast       end with the first case that fails\n"
        "  --json            one JSON document instead of a line a case\n"
        "  --log             the node's and the plugin's log lines on stderr\n"
        "  --keep            leave the folders of failed cases, with their log, and say where\n"
        "  --dir FOLDER      where those folders are made ($TMPDIR, or /tmp)\n"
        "  --list            the suites' cases and what each proves\n"
        "  --help\n"
        "\n"
        "exit status: 0 all passed, 1 a case failed, 2 wrong usage or a plugin that is refused.\n"
        "\n"
        "example: streamit-conform ./storage_s3.so --set endpoint=http://localhost:9000 --seed 7\n",
        stdout);
}

static int usage(const char *problem, const char *what)
{
    fprintf(stderr, "streamit-conform: %s%s\ntry: streamit-conform --help\n", problem, what);
    return EXIT_USAGE;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static bool is_suite(const char *name)
{
    for (size_t i = 0; cfm_suites[i] != NULL; i++) {
        if (strcmp(cfm_suites[i]->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_case(const char *name)
{
    for (size_t i = 0; cfm_suites[i] != NULL; i++) {
        const struct cfm_suite *suite = cfm_suites[i];
        size_t len = strlen(suite->name);
        bool prefixed = strncmp(name, suite->name, len) == 0 && name[len] == '.';
        for (size_t j = 0; j < suite->case_count; j++) {
            if (strcmp(suite->cases[j].name, prefixed ? name + len + 1 : name) == 0) {
                return true;
            }
        }
    }
    return false;
}

enum { SET = 1, SEED, SUITE, CASE, FULL, FAIL_FAST, JSON, LOG, KEEP, DIR_, LIST, TIMEOUT };
static const struct option options[] = {{"set", required_argument, NULL, SET},
                                        {"seed", required_argument, NULL, SEED},
                                        {"suite", required_argument, NULL, SUITE},
                                        {"case", required_argument, NULL, CASE},
                                        {"full", no_argument, NULL, FULL},
                                        {"fail-fast", no_argument, NULL, FAIL_FAST},
                                        {"json", no_argument, NULL, JSON},
                                        {"log", no_argument, NULL, LOG},
                                        {"keep", no_argument, NULL, KEEP},
                                        {"dir", required_argument, NULL, DIR_},
                                        {"timeout-s", required_argument, NULL, TIMEOUT},
                                        {"list", no_argument, NULL, LIST},
                                        {"help", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};

/* Options with a value. @return -1 to go on, or an exit status */
static int take_value(struct cfm_args *args, int opt, const char **sets, const char **cases)
{
    switch (opt) {
    case SET:
        if (strchr(optarg, '=') == NULL || optarg[0] == '=') {
            return usage("--set: expected KEY=VALUE, found ", optarg);
        }
        sets[args->set_count++] = optarg;
        return -1;
    case SEED:
        return parse_number(optarg, &args->seed)
                   ? -1
                   : usage("--seed: expected a number, found ", optarg);
    case SUITE:
        args->suite = optarg;
        return is_suite(optarg) ? -1 : usage("--suite: there is no suite ", optarg);
    case CASE:
        cases[args->case_count++] = optarg;
        return is_case(optarg) ? -1 : usage("--case: there is no case ", optarg);
    case TIMEOUT: {
        uint64_t seconds;
        if (!parse_number(optarg, &seconds) || seconds == 0 || seconds > 3600) {
            return usage("--timeout-s: expected 1 to 3600, found ", optarg);
        }
        args->timeout_s = (uint32_t)seconds;
        return -1;
    }
    case DIR_:
        args->dir = optarg;
        return -1;
    default:
        return usage("unknown or incomplete option", "");
    }
}

/* @param file  out. @return -1 to go on, or an exit status */
static int parse_args(int argc, char **argv, struct cfm_args *args, const char **sets,
                      const char **cases, const char **file)
{
    int opt, status = -1;
    while (status < 0 && (opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (opt) {
        case 'h':
            print_help();
            return 0;
        case LIST:
            cfm_list();
            return 0;
        case FULL:
            args->full = true;
            break;
        case FAIL_FAST:
            args->fail_fast = true;
            break;
        case JSON:
            args->json = true;
            break;
        case LOG:
            args->log = true;
            break;
        case KEEP:
            args->keep = true;
            break;
        default:
            status = take_value(args, opt, sets, cases);
        }
    }
    if (status < 0 && optind != argc - 1) {
        return usage("expected one plugin file", "");
    }
    *file = status < 0 ? argv[optind] : NULL;
    return status;
}

static int run(int argc, char **argv, const char **sets, const char **cases)
{
    const char *tmp = getenv("TMPDIR"), *file;
    char path[PATH_MAX], dir[PATH_MAX];
    struct cfm_args args = {
        .sets = sets, .cases = cases, .dir = tmp == NULL ? "/tmp" : tmp, .timeout_s = 30};
    if (getrandom(&args.seed, sizeof args.seed, 0) != (ssize_t)sizeof args.seed) {
        args.seed = 1;
    }
    args.seed %= 1000000000u; /* short enough to type */
    int status = parse_args(argc, argv, &args, sets, cases, &file);
    if (status >= 0) {
        return status;
    }
    if (realpath(file, path) == NULL) {
        fprintf(stderr, "streamit-conform: %s: %s\n", file, strerror(errno));
        return EXIT_USAGE;
    }
    if (realpath(args.dir, dir) == NULL) {
        fprintf(stderr, "streamit-conform: %s: %s\n", args.dir, strerror(errno));
        return EXIT_USAGE;
    }
    args.file = path;
    args.dir = dir;
    return cfm_run(&args);
}

int main(int argc, char **argv)
{
    const char **sets = calloc((size_t)argc + 1, sizeof *sets);
    const char **cases = calloc((size_t)argc + 1, sizeof *cases);
    int status = sets == NULL || cases == NULL ? 1 : run(argc, argv, sets, cases);
    free(sets);
    free(cases);
    return status;
}
