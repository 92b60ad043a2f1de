/* cmd_plugin.c -- plugin check: what the kernel would say of a file. */
#include <stdlib.h>

#include "cli.h"
#include "kernel/node.h"

static int run(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS, {NULL, 0, NULL, 0}};
    struct sti_err err;
    char *text = NULL;
    int status = CLI_OK, option;
    /* One argument that is no option. */
    for (;;) {
        option = getopt_long(argc, argv, ":", options, NULL);
        if (option == -1) {
            break;
        }
        if (option == CLI_OPT_HELP) {
            cli_print_help(cli->command);
            return CLI_OK;
        }
        status = -1;
        if (option == '?' || option == ':' || !cli_global_option(cli, option, optarg, &status)) {
            return cli_usage(cli, "unknown option %s", argv[optind - 1]);
        }
        if (status >= 0) {
            return status;
        }
    }
    if (optind != argc - 1) {
        return cli_usage(cli, "expected one plugin file");
    }
    sti_err_clear(&err);
    int rc = krn_plugin_check(argv[optind], cli->json, &text, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    fputs(text, stdout);
    free(text);
    return CLI_OK;
}

const struct cli_command cli_plugin_check = {
    "plugin check", "Plugins", "would this node load a plugin file?",
    "  FILE.so               the plugin\n\n"
    "Prints what it is, or the refusal that streamitd would end with.\n\n"
    "Example:\n"
    "  streamit plugin check build/lib/streamit/storage_mmap.so\n",
    run};
