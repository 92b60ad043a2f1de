/* cli.h -- what the commands of `streamit` share.
 *
 * Conventions of every command. Results go to standard output, everything else to standard error.
 * Exit status: 0 done; 1 the operation failed, after one line `error: CODE: sentence`; 2 wrong
 * usage; 130 interrupted. With --json a result is one JSON document, a stream one a line. The
 * global options may stand before or behind the command.
 */
#ifndef STREAMIT_CLI_H
#define STREAMIT_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "histogram.h"
#include "streamit/client.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* Short-less options count from here, so that they never meet a character. */
enum {
    CLI_OPT_SERVER = 256,
    CLI_OPT_JSON,
    CLI_OPT_TIMEOUT,
    CLI_OPT_TRACE,
    CLI_OPT_HELP,
    CLI_OPT_OWN
};

/* Rows of a command's option table that every command has. */
#define CLI_GLOBAL_OPTIONS                                                                         \
    {"server", required_argument, NULL, CLI_OPT_SERVER},                                           \
        {"json", no_argument, NULL, CLI_OPT_JSON},                                                 \
        {"timeout-ms", required_argument, NULL, CLI_OPT_TIMEOUT},                                  \
        {"trace-id", required_argument, NULL, CLI_OPT_TRACE},                                      \
    {                                                                                              \
        "help", no_argument, NULL, CLI_OPT_HELP                                                    \
    }

struct cli_command;

struct cli {
    const char *server;
    const char *trace_id;
    uint32_t timeout_ms;
    bool json;
    const struct cli_command *command;
    struct sti_client *client;
};

struct cli_command {
    const char *name;                                   /* "create-topic", "plugin check" */
    const char *purpose;                                /* heading in the list of commands */
    const char *summary;                                /* one line */
    const char *help;                                   /* options and an example */
    int (*run)(struct cli *cli, int argc, char **argv); /* argv[0] is the command */
};

extern const struct cli_command cli_create_topic, cli_alter_topic, cli_describe_topic,
    cli_list_topics, cli_delete_topic, cli_find_leader, cli_produce, cli_consume, cli_dump,
    cli_plugin_check, cli_bench_produce, cli_bench_consume, cli_bench_latency, cli_bench_end_to_end,
    cli_watch;

/* Set by SIGINT and SIGTERM once the command winds up; a second signal ends the process at once. */
extern volatile sig_atomic_t cli_interrupted;
/* From now on the command has something to bring to its end: the first signal only asks it to.
 * Before, a signal ends the process at once. */
void cli_wind_up(void);
/* A signal that ends the process at once prints the summary of nothing before. */
void cli_leave_with_summary(const struct cli *cli);

/* ---- args.c ---- */

/* The next option of a command's own; global ones are taken care of.
 * @return the option's value, -1 at the end, -2 when the command shall return *status (help was
 * asked, or wrong usage) */
int cli_next_option(struct cli *cli, int argc, char **argv, const struct option *options,
                    int *status);
/* Take a global option. @return true if it was one; *status is set when the command shall end */
bool cli_global_option(struct cli *cli, int option, const char *value, int *status);
/* Parse a whole number within [min, max]. On failure says what is wrong and returns false. */
bool cli_number(const struct cli *cli, const char *name, const char *text, int64_t min, int64_t max,
                int64_t *out);
/* Index of `text` in the NULL-terminated `words`, or -1 after saying what is wrong. */
int cli_word(const struct cli *cli, const char *name, const char *text, const char *const *words);
/* Words of --acks and --compression, each at the number of its sti_producer_acks and sti_codec. */
extern const char *const cli_acks_words[], *const cli_codec_words[];
/* Say what is wrong and how to get help; returns CLI_USAGE. */
STI_PRINTF(2, 3) int cli_usage(const struct cli *cli, const char *fmt, ...);
void cli_print_help(const struct cli_command *command);

/* ---- out.c ---- */

/* Print `error: CODE: sentence`; returns CLI_FAILED. */
int cli_error(int code, const struct sti_err *err);
/* A client of the command's settings. @return CLI_OK, or after printing the error CLI_FAILED */
int cli_client_new(const struct cli *cli, struct sti_client **out);
/* Connect lazily. @return CLI_OK, or after printing the error CLI_FAILED */
int cli_connect(struct cli *cli);
/* Print one JSON document and free it. */
void cli_print_json(json_t *document);
/* Text of a topic id, 8-4-4-4-12. */
void cli_uuid(const uint8_t id[16], char out[37]);
/* A JSON string of bytes, or NULL when they are no UTF-8. */
json_t *cli_json_text(const uint8_t *data, size_t len);
/* Base64 of bytes (RFC 4648, with padding); malloc, NULL without memory. */
char *cli_base64(const uint8_t *data, size_t len);

/* What produce and consume say in the end. */
struct cli_summary {
    uint64_t records, bytes, errors;
    double seconds;
    const struct histogram *latency_us;
};
enum { CLI_SUMMARY_MAX = 512 };
/* The summary as a line, newline included. */
void cli_summary_text(const struct cli_summary *summary, char out[CLI_SUMMARY_MAX]);
/* On stderr, or with --json as the last line of stdout. */
void cli_print_summary(const struct cli *cli, const struct cli_summary *summary);

/* Has whoever read standard output through a pipe gone? Then they have enough: not an error. */
bool cli_reader_gone(void);

/* Monotonic and real time, microseconds. */
uint64_t cli_now_us(void);
uint64_t cli_real_us(void);

/* ---- progress.c: a live line on a terminal ---- */

struct cli_progress;
/* NULL when stderr is no terminal. The counters are read while they change. */
struct cli_progress *cli_progress_start(const char *verb, const uint64_t *records,
                                        const uint64_t *bytes);
void cli_progress_stop(struct cli_progress *progress);

/* ---- format.c: how consume prints a record ---- */

struct cli_format; /* a parsed --format */

/* "value", "json", or a pattern of %t %p %o %k %v %T %% and \n \t. NULL after saying what is wrong.
 */
struct cli_format *cli_format_parse(const struct cli *cli, const char *text);
void cli_format_free(struct cli_format *format);

/* Bytes to print, grown as needed. */
struct cli_buffer {
    uint8_t *data;
    size_t len, capacity;
};
/* Append to a buffer; without memory the program ends with an error. */
void cli_buffer_add(struct cli_buffer *buffer, const void *data, size_t len);
/* Add key, value and headers of a record to an object; bytes that are no UTF-8 as NAME_base64. */
void cli_json_record(json_t *object, const struct sti_record *record);
/* Append one record, newline included. */
void cli_format_record(const struct cli_format *format, struct cli_buffer *out, const char *topic,
                       int32_t partition, const struct sti_record *record);

#endif /* STREAMIT_CLI_H */
