/* main.c -- the `streamit` command: global options, and the way to each command. */
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "kernel/stdfds.h"

volatile sig_atomic_t cli_interrupted;

static const struct cli_command *const commands[] = {
    &cli_create_topic,  &cli_alter_topic,   &cli_describe_topic, &cli_list_topics,
    &cli_delete_topic,  &cli_find_leader,   &cli_produce,        &cli_consume,
    &cli_bench_produce, &cli_bench_consume, &cli_bench_latency,  &cli_bench_end_to_end,
    &cli_watch,         &cli_dump,          &cli_plugin_check,
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

/* Has the command something to bring to its end? Until then it may be left at any moment. */
static volatile sig_atomic_t winds_up;
/* What is said when it is left before; len 0: nothing. */
static struct {
    char text[CLI_SUMMARY_MAX];
    size_t len;
    int fd;
} farewell;

/* The first signal asks, the second insists. */
static void on_signal(int signo)
{
    (void)signo;
    if (cli_interrupted || !winds_up) {
        if (!winds_up && farewell.len > 0 && write(farewell.fd, farewell.text, farewell.len) < 0) {
            /* there is nobody left to tell */
        }
        _exit(CLI_INTERRUPTED);
    }
    cli_interrupted = 1;
}

void cli_wind_up(void)
{
    winds_up = 1;
}

void cli_leave_with_summary(const struct cli *cli)
{
    struct histogram *none = calloc(1, sizeof *none);
    if (none != NULL) {
        cli_summary_text(&(struct cli_summary){.latency_us = none}, farewell.text);
        farewell.fd = cli->json ? STDOUT_FILENO : STDERR_FILENO;
        farewell.len = strlen(farewell.text);
        free(none);
    }
}

static void signals_init(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal; /* no SA_RESTART: a blocked read shall return */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void print_overview(void)
{
    const char *purpose = "";
    printf(
        "streamit: work with a StreamIt node or cluster\n\n"
        "  streamit [--server HOST:PORT[,...]] [--json] [--timeout-ms N] [--trace-id ID] COMMAND "
        "[OPTIONS]\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(purpose, commands[i]->purpose) != 0) {
            purpose = commands[i]->purpose;
            printf("\n%s\n", purpose);
        }
        printf("  %-17s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\n`streamit COMMAND --help` tells the options of a command, with an example.\n"
           "Exit status: 0 done; 1 failed, with `error: CODE: sentence`; 2 wrong usage; 130 "
           "interrupted.\n");
}

/* The command that argv[0] (and for two-word commands argv[1]) names; *words of it. */
static const struct cli_command *command_find(int argc, char **argv, int *words)
{
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *name = commands[i]->name;
        const char *space = strchr(name, ' ');
        if (space == NULL && strcmp(argv[0], name) == 0) {
            *words = 1;
            return commands[i];
        }
        if (space != NULL && argc > 1 && strncmp(argv[0], name, (size_t)(space - name)) == 0 &&
            argv[0][space - name] == '\0' && strcmp(argv[1], space + 1) == 0) {
            *words = 2;
            return commands[i];
        }
    }
    return NULL;
}

/* Is it the first word of commands that have two? Says which ones there are. */
static bool half_a_command(const struct cli *cli, const char *word)
{
    char list[256] = "";
    size_t len = strlen(word);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *name = commands[i]->name;
        if (strncmp(name, word, len) == 0 && name[len] == ' ') {
            size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, "%s%s", used == 0 ? "" : ", ", name);
        }
    }
    if (list[0] != '\0') {
        (void)cli_usage(cli, "\"%s\" is half a command: there is %s", word, list);
    }
    return list[0] != '\0';
}

static int run(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        CLI_GLOBAL_OPTIONS, {"version", no_argument, NULL, CLI_OPT_OWN}, {NULL, 0, NULL, 0}};
    int status, words = 0;
    for (;;) {
        int at = optind == 0 ? 1 : optind;
        status = -1;
        int option = getopt_long(argc, argv, "+:", options, NULL);
        if (option == -1) {
            break;
        }
        if (option == CLI_OPT_HELP) {
            print_overview();
            return CLI_OK;
        }
        if (option == CLI_OPT_OWN) {
            printf("streamit %s\n", STREAMIT_VERSION);
            return CLI_OK;
        }
        if (option == '?' || option == ':') {
            return cli_usage(cli, option == ':' ? "%s needs a value" : "unknown option %s",
                             argv[at]);
        }
        (void)cli_global_option(cli, option, optarg, &status);
        if (status >= 0) {
            return status;
        }
    }
    argc -= optind;
    argv += optind;
    if (argc == 0) {
        return cli_usage(cli, "no command given");
    }
    cli->command = command_find(argc, argv, &words);
    if (cli->command == NULL && half_a_command(cli, argv[0])) {
        return CLI_USAGE;
    }
    if (cli->command == NULL) {
        return cli_usage(cli, "unknown command \"%s\"", argv[0]);
    }
    winds_up = cli->command == &cli_dump || cli->command == &cli_bench_produce ||
               cli->command == &cli_bench_consume || cli->command == &cli_bench_latency ||
               cli->command == &cli_bench_end_to_end;
    optind = 0; /* GNU getopt: start anew, permuting */
    return cli->command->run(cli, argc - words + 1, argv + words - 1);
}

/* What the network brings is a block of memory for each read. Kept at hand, a block costs nothing;
 * given back to the kernel and asked for again, it costs a fault for each of its pages, about a
 * tenth of what a client's CPU does (docs/client.md, Throughput). */
static void keep_memory(void)
{
    enum { MMAP_BYTES = 256 << 20, TRIM_BYTES = 512 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
}

int main(int argc, char **argv)
{
    struct cli cli = {.timeout_ms = 30000, .server = getenv("STREAMIT_SERVER")};
    if (cli.server == NULL || cli.server[0] == '\0') {
        cli.server = "localhost:8080";
    }
    krn_stdfds_init();
    keep_memory();
    signals_init();
    optind = 0;
    int status = run(&cli, argc, argv);
    sti_client_free(cli.client);
    /* An earlier flush may have failed, and has emptied the buffer: the flag remembers. */
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && status == CLI_OK && !cli_reader_gone()) {
        fprintf(stderr, "error: IO: standard output: cannot be written\n");
        status = CLI_FAILED;
    }
    return status;
}
