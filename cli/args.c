/* args.c -- options in, usage errors out. getopt_long does the parsing; this file words the
 * complaints. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cli_usage(const struct cli *cli, const char *fmt, ...)
{
    va_list args;
    const char *name = cli->command == NULL ? NULL : cli->command->name;
    fprintf(stderr, "streamit%s%s: ", name == NULL ? "" : " ", name == NULL ? "" : name);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nTry `streamit%s%s --help`.\n", name == NULL ? "" : " ",
            name == NULL ? "" : name);
    return CLI_USAGE;
}

void cli_print_help(const struct cli_command *command)
{
    printf(
        "streamit %s: %s\n\n%s\n"
        "Everywhere:\n"
        "  --server HOST:PORT[,...]  whom to ask (default $STREAMIT_SERVER, then localhost:8080)\n"
        "  --json                    results as JSON\n"
        "  --timeout-ms N            give up after so long (default 30000)\n"
        "  --trace-id ID             travels with every request into the server's logs\n",
        command->name, command->summary, command->help);
}

bool cli_number(const struct cli *cli, const char *name, const char *text, int64_t min, int64_t max,
                int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < min || value > max) {
        (void)cli_usage(cli, "--%s: expected a whole number from %lld to %lld, found \"%s\"", name,
                        (long long)min, (long long)max, text);
        return false;
    }
    *out = value;
    return true;
}

int cli_word(const struct cli *cli, const char *name, const char *text, const char *const *words)
{
    char list[256] = "";
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], text) == 0) {
            return i;
        }
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s%s", i == 0 ? "" : ", ", words[i]);
    }
    (void)cli_usage(cli, "--%s: expected one of %s, found \"%s\"", name, list, text);
    return -1;
}

const char *const cli_acks_words[] = {"quorum", "leader", "none", NULL};
const char *const cli_codec_words[] = {"none", "gzip", "snappy", "lz4", "zstd", NULL};

/* gRPC sends nothing else in the value of a header. */
static bool printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text < ' ' || *text > '~') {
            return false;
        }
    }
    return true;
}

bool cli_global_option(struct cli *cli, int option, const char *value, int *status)
{
    int64_t number;
    switch (option) {
    case CLI_OPT_SERVER:
        cli->server = value;
        return true;
    case CLI_OPT_JSON:
        cli->json = true;
        return true;
    case CLI_OPT_TRACE:
        if (!printable(value)) {
            *status = cli_usage(cli, "--trace-id: expected printable ASCII characters");
        }
        cli->trace_id = value;
        return true;
    case CLI_OPT_TIMEOUT:
        if (!cli_number(cli, "timeout-ms", value, 1, INT32_MAX, &number)) {
            *status = CLI_USAGE;
        } else {
            cli->timeout_ms = (uint32_t)number;
        }
        return true;
    default:
        return false;
    }
}

int cli_next_option(struct cli *cli, int argc, char **argv, const struct option *options,
                    int *status)
{
    for (;;) {
        int at = optind;
        *status = -1;
        int option = getopt_long(argc, argv, ":", options, NULL);
        if (option == CLI_OPT_HELP) {
            cli_print_help(cli->command);
            *status = CLI_OK;
            return -2;
        }
        if (option == '?' || option == ':') {
            *status = cli_usage(cli, option == ':' ? "%s needs a value" : "unknown option %s",
                                argv[at > 0 && at < argc ? at : argc - 1]);
            return -2;
        }
        if (option == -1 && optind < argc) {
            *status = cli_usage(cli, "unexpected argument \"%s\"", argv[optind]);
            return -2;
        }
        if (!cli_global_option(cli, option, optarg, status)) {
            return option;
        }
        if (*status >= 0) {
            return -2;
        }
    }
}
