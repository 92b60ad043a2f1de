/* cmd_consume.c -- records out: of one partition or all of a topic, by one reader or several.
 *
 * Each reader is a thread with a consumer and a share of the partitions; it formats into a buffer
 * of its own and writes whole records under one lock, so that lines of different partitions never
 * mix. A buffer is written when it is large, and at once when nothing more is ready.
 *
 * --until-end takes the end offsets once, before reading: a partition is through when its next
 * offset reaches that end.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum {
    OPT_TOPIC = CLI_OPT_OWN,
    OPT_PARTITION,
    OPT_PARALLEL,
    OPT_FROM,
    OPT_COUNT,
    OPT_UNTIL_END,
    OPT_FORMAT,
    OPT_QUIET,
    FLUSH_BYTES = 1 << 18,
    POLL_MS = 200
};

struct consume {
    struct cli *cli;
    const char *topic;
    int64_t partition, parallel, count;
    int64_t from_offset, from_ms;
    bool until_end, quiet;
    struct cli_format *format;
    int32_t partition_count;
    int64_t *ends;      /* with until_end: by partition */
    pthread_mutex_t mu; /* output, and all below */
    uint64_t taken;     /* of --count */
    uint64_t records, bytes;
    uint64_t first_us, last_us;
    struct histogram latency_us;
    int status;
    bool pipe_closed;
    struct sti_err err;
};

struct reader {
    struct consume *all;
    pthread_t thread;
    struct sti_assigned *assigned;
    size_t count;
    struct sti_consumer *consumer;
    struct cli_buffer out;
    size_t left; /* partitions that have not reached their end */
    bool *through;
};

static bool stopping(struct consume *c)
{
    pthread_mutex_lock(&c->mu);
    bool stop =
        c->status != STI_OK || c->pipe_closed || (c->count >= 0 && c->taken >= (uint64_t)c->count);
    pthread_mutex_unlock(&c->mu);
    return stop || cli_interrupted;
}

/* Write what a reader has formatted. */
static void output(struct reader *r)
{
    struct consume *c = r->all;
    size_t pos = 0;
    if (r->out.len == 0) {
        return;
    }
    pthread_mutex_lock(&c->mu);
    while (pos < r->out.len && !c->pipe_closed) {
        ssize_t n = write(STDOUT_FILENO, r->out.data + pos, r->out.len - pos);
        if (n >= 0) {
            pos += (size_t)n;
        } else if (errno == EPIPE) {
            c->pipe_closed = true; /* whoever read us has enough: not an error */
        } else if (errno != EINTR) {
            c->pipe_closed = true;
            c->status = sti_err_set(&c->err, STI_E_IO, "standard output: %s", strerror(errno));
        }
    }
    pthread_mutex_unlock(&c->mu);
    r->out.len = 0;
}

/* How many of `count` records may still be taken. */
static size_t take(struct consume *c, size_t count)
{
    pthread_mutex_lock(&c->mu);
    if (c->count >= 0) {
        uint64_t left = (uint64_t)c->count > c->taken ? (uint64_t)c->count - c->taken : 0;
        count = count < left ? count : (size_t)left;
    }
    c->taken += count;
    pthread_mutex_unlock(&c->mu);
    return count;
}

static void tally(struct consume *c, const struct sti_records *records, size_t count)
{
    uint64_t now = cli_now_us(), bytes = 0;
    int64_t real_ms = (int64_t)(cli_real_us() / 1000u);
    pthread_mutex_lock(&c->mu);
    for (size_t i = 0; i < count; i++) {
        int64_t age = real_ms - records->records[i].timestamp;
        bytes += records->records[i].key_len + (uint64_t)records->records[i].value_len;
        histogram_record(&c->latency_us, age > 0 ? (uint64_t)age * 1000u : 0);
    }
    c->records += count;
    c->bytes += bytes;
    c->last_us = now;
    pthread_mutex_unlock(&c->mu);
}

/* The partition's next offset has moved: is it through? */
static void reached(struct reader *r, int32_t partition, int64_t next)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->assigned[i].partition == partition && !r->through[i] &&
            next >= r->all->ends[partition]) {
            r->through[i] = true;
            r->left--;
        }
    }
}

static void handle(struct reader *r, const struct sti_records *records)
{
    struct consume *c = r->all;
    size_t count = records->count;
    int64_t next = records->records[count - 1].offset + 1;
    if (c->until_end) {
        /* What came after the start does not count. */
        while (count > 0 && records->records[count - 1].offset >= c->ends[records->partition]) {
            count--;
        }
    }
    count = take(c, count);
    for (size_t i = 0; !c->quiet && i < count; i++) {
        cli_format_record(c->format, &r->out, records->topic, records->partition,
                          &records->records[i]);
    }
    tally(c, records, count);
    if (c->until_end) {
        reached(r, records->partition, next);
    }
    if (r->out.len >= FLUSH_BYTES) {
        output(r);
    }
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    struct consume *c = r->all;
    struct sti_records records;
    struct sti_err err;
    while (!stopping(c) && (!c->until_end || r->left > 0)) {
        int rc = sti_consumer_poll(r->consumer, 0, &records, &err);
        if (rc == STI_E_WOULD_BLOCK) {
            output(r);
            rc = sti_consumer_poll(r->consumer, POLL_MS, &records, &err);
            if (rc == STI_E_WOULD_BLOCK && !c->quiet && cli_reader_gone()) {
                break; /* no record may come for long that a write could fail with */
            }
        }
        if (rc == STI_OK) {
            handle(r, &records);
        } else if (rc != STI_E_WOULD_BLOCK) {
            output(r);
            pthread_mutex_lock(&c->mu);
            if (c->status == STI_OK) {
                c->status = rc;
                c->err = err;
            }
            pthread_mutex_unlock(&c->mu);
        }
    }
    output(r);
    return NULL;
}

/* ---- beginning and end --------------------------------------------------------------------- */

static int learn(struct consume *c, struct sti_err *err)
{
    struct sti_admin_description *d = NULL;
    int rc = sti_admin_describe_topic(c->cli->client, c->topic, &d, err);
    if (rc != STI_OK) {
        return rc;
    }
    c->partition_count = (int32_t)d->partition_count;
    sti_admin_description_free(d);
    if (c->partition >= c->partition_count) {
        return sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                           "topic %s has %d partitions, not a partition %d", c->topic,
                           c->partition_count, (int)c->partition);
    }
    c->ends = calloc((size_t)c->partition_count, sizeof *c->ends);
    if (c->ends == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (int32_t i = 0; c->until_end && rc == STI_OK && i < c->partition_count; i++) {
        if (c->partition < 0 || c->partition == i) {
            rc =
                sti_admin_list_offset(c->cli->client, c->topic, i, STI_START_END, &c->ends[i], err);
        }
    }
    return rc;
}

/* A starting point as an offset, so that a partition that is empty from there on is through at
 * once. */
static int start_offset(struct consume *c, int32_t partition, int64_t *offset, struct sti_err *err)
{
    int64_t at = c->from_ms >= 0 ? c->from_ms : c->from_offset;
    int rc = STI_OK;
    *offset = c->from_offset;
    if (c->from_ms >= 0 || c->from_offset < 0) {
        rc = sti_admin_list_offset(c->cli->client, c->topic, partition, at, offset, err);
    }
    if (rc == STI_OK && *offset < 0) {
        rc = sti_admin_list_offset(c->cli->client, c->topic, partition, STI_START_END, offset, err);
    }
    return rc;
}

static int reader_open(struct consume *c, struct reader *r, int32_t index, int32_t readers,
                       struct sti_err *err)
{
    struct sti_consumer_config config;
    int rc = STI_OK;
    r->all = c;
    r->assigned = calloc((size_t)c->partition_count, sizeof *r->assigned);
    r->through = calloc((size_t)c->partition_count, sizeof *r->through);
    if (r->assigned == NULL || r->through == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (int32_t p = index; rc == STI_OK && p < c->partition_count; p += readers) {
        int64_t offset = 0;
        if (c->partition >= 0 && c->partition != p) {
            continue;
        }
        rc = start_offset(c, p, &offset, err);
        /* An offset beyond the end is left to the server, which refuses it by name. */
        if (rc == STI_OK && !(c->until_end && offset == c->ends[p])) {
            r->assigned[r->count++] = (struct sti_assigned){
                .topic = c->topic, .partition = p, .offset = offset, .timestamp_ms = -1};
        }
    }
    r->left = r->count;
    sti_consumer_config_init(&config);
    config.timeout_ms = c->cli->timeout_ms;
    if (rc == STI_OK && r->count > 0) {
        rc = sti_consumer_new(&r->consumer, c->cli->client, &config, r->assigned, r->count, err);
    }
    return rc;
}

static int consume_run(struct consume *c)
{
    struct sti_err err;
    int32_t started = 0;
    cli_leave_with_summary(c->cli);
    int rc = learn(c, &err);
    int64_t most = c->partition >= 0 ? 1 : c->partition_count;
    /* Without a topic there is still the summary to print. */
    int32_t count = rc != STI_OK ? 0 : (int32_t)(c->parallel < most ? c->parallel : most);
    struct reader *readers = calloc((size_t)count + 1u, sizeof *readers);
    if (readers == NULL) {
        return cli_error(STI_E_NO_MEMORY, NULL);
    }
    for (int32_t i = 0; rc == STI_OK && i < count; i++) {
        rc = reader_open(c, &readers[i], i, count, &err);
    }
    cli_wind_up();
    c->first_us = cli_now_us();
    struct cli_progress *progress = rc == STI_OK && (c->quiet || !isatty(STDOUT_FILENO))
                                        ? cli_progress_start("read", &c->records, &c->bytes)
                                        : NULL;
    for (; rc == STI_OK && started < count; started++) {
        if (readers[started].count > 0 &&
            pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]) != 0) {
            rc = sti_err_set(&err, STI_E_INTERNAL, "a thread cannot be started");
            pthread_mutex_lock(&c->mu);
            c->status = rc;
            pthread_mutex_unlock(&c->mu);
            break;
        }
    }
    for (int32_t i = 0; i < started; i++) {
        if (readers[i].count > 0) {
            pthread_join(readers[i].thread, NULL);
        }
    }
    for (int32_t i = 0; i < count; i++) {
        sti_consumer_close(readers[i].consumer);
        free(readers[i].assigned);
        free(readers[i].through);
        free(readers[i].out.data);
    }
    free(readers);
    cli_progress_stop(progress);
    if (rc == STI_OK && c->status != STI_OK) {
        rc = c->status;
        err = c->err;
    }
    if (rc != STI_OK) {
        (void)cli_error(rc, &err);
    }
    struct cli_summary summary = {
        .records = c->records,
        .bytes = c->bytes,
        .errors = rc == STI_OK ? 0 : 1,
        .seconds = c->last_us > c->first_us ? (double)(c->last_us - c->first_us) / 1e6 : 0,
        .latency_us = &c->latency_us};
    cli_print_summary(c->cli, &summary);
    return cli_interrupted ? CLI_INTERRUPTED : rc == STI_OK ? CLI_OK : CLI_FAILED;
}

/* ---- options ------------------------------------------------------------------------------- */

static bool parse_from(struct consume *c, const char *text)
{
    int64_t number;
    if (strcmp(text, "beginning") == 0) {
        c->from_offset = STI_START_BEGINNING;
    } else if (strcmp(text, "end") == 0) {
        c->from_offset = STI_START_END;
    } else {
        bool time = text[0] == '@';
        char *end = NULL;
        errno = 0;
        number = strtoll(text + (time ? 1 : 0), &end, 10);
        if (end == text + (time ? 1 : 0) || *end != '\0' || errno != 0 || number < 0) {
            (void)cli_usage(
                c->cli, "--from: expected beginning, end, OFFSET or @UNIX_MS, found \"%s\"", text);
            return false;
        }
        if (time) {
            c->from_ms = number;
        } else {
            c->from_offset = number;
        }
    }
    return true;
}

static bool take_option(struct consume *c, const char **format, int option, const char *value)
{
    switch (option) {
    case OPT_TOPIC:
        c->topic = value;
        return true;
    case OPT_PARTITION:
        return cli_number(c->cli, "partition", value, 0, INT32_MAX, &c->partition);
    case OPT_PARALLEL:
        return cli_number(c->cli, "parallel", value, 1, 256, &c->parallel);
    case OPT_FROM:
        return parse_from(c, value);
    case OPT_COUNT:
        return cli_number(c->cli, "count", value, 0, INT64_MAX, &c->count);
    case OPT_UNTIL_END:
        c->until_end = true;
        return true;
    case OPT_FORMAT:
        *format = value;
        return true;
    default:
        c->quiet = true;
        return true;
    }
}

static int run(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS,
                                            {"topic", required_argument, NULL, OPT_TOPIC},
                                            {"partition", required_argument, NULL, OPT_PARTITION},
                                            {"parallel", required_argument, NULL, OPT_PARALLEL},
                                            {"from", required_argument, NULL, OPT_FROM},
                                            {"count", required_argument, NULL, OPT_COUNT},
                                            {"until-end", no_argument, NULL, OPT_UNTIL_END},
                                            {"format", required_argument, NULL, OPT_FORMAT},
                                            {"quiet", no_argument, NULL, OPT_QUIET},
                                            {NULL, 0, NULL, 0}};
    struct consume *c = calloc(1, sizeof *c);
    const char *format = NULL;
    int status = CLI_FAILED, option;
    if (c == NULL) {
        return cli_error(STI_E_NO_MEMORY, NULL);
    }
    c->cli = cli;
    c->partition = c->count = c->from_ms = -1;
    c->parallel = 1;
    c->from_offset = STI_START_END;
    pthread_mutex_init(&c->mu, NULL);
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        if (!take_option(c, &format, option, optarg)) {
            status = CLI_USAGE;
            option = -2;
            break;
        }
    }
    if (option != -2 && c->topic == NULL) {
        status = cli_usage(cli, "--topic is missing");
    } else if (option != -2) {
        c->format = cli_format_parse(cli, format != NULL ? format : cli->json ? "json" : "value");
        status = c->format == NULL            ? CLI_USAGE
                 : cli_connect(cli) == CLI_OK ? consume_run(c)
                                              : CLI_FAILED;
        cli_format_free(c->format);
    }
    pthread_mutex_destroy(&c->mu);
    free(c->ends);
    free(c);
    return status;
}

const struct cli_command cli_consume = {
    "consume", "Records", "read records of a topic",
    "  --topic T             the topic\n"
    "  --partition P         this partition only\n"
    "  --from W              beginning, end, OFFSET or @UNIX_MS (default end: what comes from now "
    "on)\n"
    "  --count N             stop after N records\n"
    "  --until-end           stop at the end offsets seen at the start\n"
    "  --parallel N          so many readers share the partitions (default 1)\n"
    "  --format F            value (default), json, or a pattern: %t topic, %p partition, %o "
    "offset,\n"
    "                        %k key, %v value, %T timestamp, %% a percent sign, \\n, \\t.\n"
    "                        In JSON a key or value that is no UTF-8 becomes key_base64, "
    "value_base64\n"
    "  --quiet               count and time, print no records\n\n"
    "A summary follows on standard error; with --json it is the last line of standard output.\n"
    "Its latency runs from a record's timestamp to its receipt.\n\n"
    "Example:\n"
    "  streamit consume --topic orders --from beginning --until-end --format '%p %o %k=%v'\n",
    run};
