/* main.c -- streamitd: kernel and broker wired together, and the process around them.
 *
 * Story. The command line is read, signals are blocked before any thread exists, the allocator is
 * tuned, the node starts. From then on the main thread waits for signals: SIGHUP reloads, SIGTERM
 * and SIGINT drain and end, a second one of them ends at once. While it waits it gives idle memory
 * back to the system.
 *
 * Exit status. 0 stopped as asked; 2 configuration or plugin refused; 1 anything else.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "broker/broker_plugin.h"
#include "kernel/node.h"
#include "kernel/stdfds.h"

enum { EXIT_STOPPED = 0, EXIT_OTHER = 1, EXIT_REFUSED = 2 };

/* gRPC takes its read blocks from malloc; without these thresholds each block of more than 128 KB
 * costs page faults. Memory goes back by malloc_trim while the node is idle. 32 MB is the most that
 * this allocator takes. */
enum {
    MALLOC_MMAP_BYTES = 32 << 20,
    MALLOC_TRIM_BYTES = 512 << 20,
    MALLOC_TOP_PAD_BYTES = 1 << 20,
    MALLOC_ARENAS = 4,
    TRIM_PERIOD_S = 2,
    TRIM_FREE_BYTES = 2 << 20, /* free memory that is worth the walk   */
    TRIM_TASKS = 200           /* run in one period: then it is not idle */
};

struct args {
    const char *config_path;
    const char **sets; /* argc entries at most */
    size_t set_count;
    bool check, list, json, help, version;
    int log_format; /* -1: by what stderr is */
};

static void print_help(FILE *out)
{
    fputs("usage: streamitd --config FILE [--set PATH=VALUE]... [MODE] [OPTIONS]\n"
          "\n"
          "Runs a StreamIt node.\n"
          "\n"
          "  --config FILE          the configuration (docs/CONFIGURATION.md)\n"
          "  --set PATH=VALUE       override one setting of it; repeatable, the last one wins\n"
          "  --log-format json|text form of the log on stderr (text on a terminal, else json)\n"
          "\n"
          "modes:\n"
          "  --check                load configuration and plugins, say whether they are sound\n"
          "  --list-plugins         file, name, version, ABI and interfaces of each plugin\n"
          "    --json               the same as a JSON array\n"
          "  --version, --help\n"
          "\n"
          "signals: TERM and INT drain and stop (a second one stops at once), HUP reloads.\n"
          "exit status: 0 stopped as asked, 2 configuration or plugin refused, 1 anything else.\n"
          "\n"
          "example: streamitd --config etc/standalone.cfg --set node.data_dir=/tmp/streamit \\\n"
          "                   --set plugins.transport_grpc.port=18080\n",
          out);
}

static int usage(const char *problem)
{
    fprintf(stderr, "streamitd: %s\ntry: streamitd --help\n", problem);
    return EXIT_OTHER;
}

/* @return -1 to go on, or an exit status */
static int parse_args(int argc, char **argv, struct args *args)
{
    enum { CONFIG = 1, SET, CHECK, LIST, JSON, VERSION, LOG_FORMAT };
    static const struct option options[] = {{"config", required_argument, NULL, CONFIG},
                                            {"set", required_argument, NULL, SET},
                                            {"check", no_argument, NULL, CHECK},
                                            {"list-plugins", no_argument, NULL, LIST},
                                            {"json", no_argument, NULL, JSON},
                                            {"version", no_argument, NULL, VERSION},
                                            {"log-format", required_argument, NULL, LOG_FORMAT},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (opt) {
        case CONFIG:
            args->config_path = optarg;
            break;
        case SET:
            args->sets[args->set_count++] = optarg;
            break;
        case CHECK:
            args->check = true;
            break;
        case LIST:
            args->list = true;
            break;
        case JSON:
            args->json = true;
            break;
        case VERSION:
            args->version = true;
            break;
        case 'h':
            args->help = true;
            break;
        case LOG_FORMAT:
            if (strcmp(optarg, "json") != 0 && strcmp(optarg, "text") != 0) {
                return usage("--log-format: expected json or text");
            }
            args->log_format = optarg[0] == 'j' ? KRN_LOG_JSON : KRN_LOG_TEXT;
            break;
        default:
            return usage("unknown or incomplete option");
        }
    }
    if (args->help || args->version) {
        return -1;
    }
    if (optind < argc) {
        return usage("unexpected argument");
    }
    return args->config_path == NULL ? usage("--config FILE is missing") : -1;
}

/* ---- the process --------------------------------------------------------------------------- */

static void block_signals(sigset_t *waited)
{
    sigemptyset(waited);
    sigaddset(waited, SIGTERM);
    sigaddset(waited, SIGINT);
    sigaddset(waited, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, waited, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

static void tune_process(void)
{
    struct rlimit files;
    (void)mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, MALLOC_TRIM_BYTES);
    (void)mallopt(M_TOP_PAD, MALLOC_TOP_PAD_BYTES);
    (void)mallopt(M_ARENA_MAX, MALLOC_ARENAS);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* Give free memory back when little has happened since the last look. */
static void trim_when_idle(struct krn_node *node)
{
    static uint64_t activity;
    static size_t trimmed_to;
    uint64_t now = krn_node_activity(node);
    bool idle = now - activity < TRIM_TASKS;
    activity = now;
    if (!idle) {
        trimmed_to = 0;
        return;
    }
    size_t free_bytes = mallinfo2().fordblks;
    /* What a walk could not give back the next one cannot either: wait until there is more. */
    if (free_bytes > TRIM_FREE_BYTES && free_bytes > trimmed_to + TRIM_FREE_BYTES / 2) {
        (void)malloc_trim(MALLOC_TOP_PAD_BYTES);
        trimmed_to = mallinfo2().fordblks;
    }
}

/* A second TERM or INT while the node drains. */
static void *second_signal(void *arg)
{
    int sig;
    sigset_t set;
    (void)arg;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigwait(&set, &sig) == 0) {
        _exit(EXIT_OTHER);
    }
    return NULL;
}

static void deadline_missed(void *arg, const char *instance, const char *phase)
{
    struct krn_log *log = arg;
    krn_log_event(log, STI_LOG_ERROR, "drain_deadline_missed",
                  "the node did not stop in node.drain_timeout_ms: the process ends",
                  STI_F_STR("instance", instance), STI_F_STR("phase", phase));
    _exit(EXIT_OTHER);
}

static int exit_status(int status)
{
    switch (status) {
    case STI_OK:
        return EXIT_STOPPED;
    case STI_E_CONFIG:
    case STI_E_PLUGIN_REFUSED:
    case STI_E_ABI_MISMATCH:
        return EXIT_REFUSED;
    default:
        return EXIT_OTHER;
    }
}

/* Wait for signals until the node is to stop. */
static void serve(struct krn_node *node, const sigset_t *waited)
{
    const struct timespec period = {.tv_sec = TRIM_PERIOD_S};
    for (;;) {
        int sig = sigtimedwait(waited, NULL, &period);
        if (sig == SIGTERM || sig == SIGINT) {
            return;
        }
        if (sig == SIGHUP) {
            struct sti_err err = {0};
            (void)krn_node_reload(node, &err);
        } else if (sig < 0 && errno == EAGAIN) {
            trim_when_idle(node);
        }
    }
}

static int run(struct krn_node *node, struct krn_log *log, const sigset_t *waited,
               struct sti_err *err)
{
    pthread_t thread;
    int status = krn_node_start(node, err);
    if (status != STI_OK) {
        return status;
    }
    serve(node, waited);
    if (pthread_create(&thread, NULL, second_signal, NULL) == 0) {
        (void)pthread_detach(thread);
    }
    status = krn_node_stop(node, err);
    if (status != STI_OK) {
        krn_log_event(log, STI_LOG_ERROR, "stop_incomplete", err->msg);
        _exit(EXIT_OTHER); /* code of a plugin may still run: nothing may be freed under it */
    }
    return STI_OK;
}

static int run_mode(const struct args *args, struct krn_log *log, const sigset_t *waited)
{
    static const struct sti_plugin *const builtins[] = {&sti_broker_plugin, NULL};
    const struct krn_node_args node_args = {.config_path = args->config_path,
                                            .sets = args->sets,
                                            .set_count = args->set_count,
                                            .builtins = builtins,
                                            .log = log,
                                            .missed = deadline_missed,
                                            .missed_arg = log};
    struct krn_node *node;
    struct sti_err err = {0};
    bool serves = !args->check && !args->list;
    int status = krn_node_open(&node_args, &node, &err);
    if (status == STI_OK && args->check) {
        status = krn_node_check(node, &err);
        if (status == STI_OK) {
            printf("%s is sound: %zu plugins\n", args->config_path, krn_node_instance_count(node));
        }
    } else if (status == STI_OK && args->list) {
        status = krn_node_list(node, stdout, args->json, &err);
    } else if (status == STI_OK) {
        status = run(node, log, waited, &err);
    }
    krn_node_free(node);
    if (status != STI_OK && serves) {
        krn_log_event(log, STI_LOG_ERROR,
                      exit_status(status) == EXIT_REFUSED ? "refused" : "start_failed", err.msg,
                      STI_F_STR("code", sti_status_name(status)));
    } else if (status != STI_OK) {
        fprintf(stderr, "streamitd: %s\n", err.msg);
    }
    return exit_status(status);
}

int main(int argc, char **argv)
{
    struct args args = {.log_format = -1};
    sigset_t waited;
    krn_stdfds_init();
    args.sets = calloc((size_t)argc, sizeof *args.sets);
    if (args.sets == NULL) {
        return EXIT_OTHER;
    }
    int status = parse_args(argc, argv, &args);
    if (status < 0 && args.help) {
        print_help(stdout);
        status = EXIT_STOPPED;
    } else if (status < 0 && args.version) {
        printf("streamitd %s (plugin ABI %d.%d%s%s)\n", krn_version(), STI_ABI_MAJOR, STI_ABI_MINOR,
               krn_commit()[0] == '\0' ? "" : ", commit ", krn_commit());
        status = EXIT_STOPPED;
    } else if (status < 0) {
        int format = args.log_format >= 0         ? args.log_format
                     : isatty(STDERR_FILENO) != 0 ? KRN_LOG_TEXT
                                                  : KRN_LOG_JSON;
        block_signals(&waited);
        tune_process();
        struct krn_log *log = krn_log_new(STDERR_FILENO, format, STI_LOG_INFO);
        status = log == NULL ? EXIT_OTHER : run_mode(&args, log, &waited);
        krn_log_free(log);
    }
    free(args.sets);
    return status;
}
