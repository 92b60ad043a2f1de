/* cmd_watch.c -- watch: rates of the topics, again and again, the busiest first.
 *
 * A sample is one description of each topic; a rate is what came between two samples. Topics are
 * told apart by their ids, so one that was deleted and made anew counts from nothing. What a server
 * cannot answer for a while is said once for each sample, and the next one spans the gap. Nothing
 * is kept on the server, so the command may be left at any moment. One thread.
 */
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"

enum {
    OPT_TOPIC = CLI_OPT_OWN,
    OPT_INTERVAL,
    OPT_COUNT,
    TOPICS_NAMED_MAX = 64,
    ROWS_DEFAULT = 24,
    COLUMNS_DEFAULT = 80
};

/* A topic in one sample. */
struct row {
    char name[256];
    uint8_t topic_id[16];
    uint32_t partitions, offline; /* offline: that take no appends */
    uint64_t appended;            /* records ever, the sum of the high watermarks */
    uint64_t records;             /* that can be read now */
    uint64_t bytes;               /* that they take on disk */
    double records_per_s, bytes_per_s;
};

struct sample {
    uint64_t at_us; /* monotonic; 0: none yet */
    size_t count;
    struct row *rows; /* in the order of the answers until they are sorted */
};

struct watch {
    struct cli *cli;
    const char *topics[TOPICS_NAMED_MAX]; /* asked for; none: all */
    size_t topic_count;
    int64_t interval_ms, count; /* count 0: without end */
    bool screen;                /* standard output is a terminal: each table replaces the last */
    struct sample last;
};

static void sample_free(struct sample *sample)
{
    free(sample->rows);
    memset(sample, 0, sizeof *sample);
}

/* Describe one topic into the next row. One that was deleted meanwhile is left out, and named if it
 * was asked for. */
static int sample_topic(struct watch *w, const char *name, struct sample *sample,
                        struct sti_err *err)
{
    struct sti_admin_description *d = NULL;
    int rc = sti_admin_describe_topic(w->cli->client, name, &d, err);
    if (rc == STI_E_UNKNOWN_TOPIC && w->last.at_us != 0) {
        if (w->topic_count > 0) {
            (void)cli_error(rc, err);
        }
        return STI_OK;
    }
    if (rc != STI_OK) {
        return rc;
    }
    struct row *row = &sample->rows[sample->count++];
    memset(row, 0, sizeof *row);
    snprintf(row->name, sizeof row->name, "%s", d->name);
    memcpy(row->topic_id, d->topic_id, sizeof row->topic_id);
    row->partitions = (uint32_t)d->partition_count;
    for (size_t i = 0; i < d->partition_count; i++) {
        const struct sti_admin_partition *p = &d->partitions[i];
        row->offline += p->status != STI_OK;
        row->bytes += p->bytes;
        if (p->high_watermark >= 0 && p->log_start >= 0 && p->high_watermark >= p->log_start) {
            row->appended += (uint64_t)p->high_watermark;
            row->records += (uint64_t)(p->high_watermark - p->log_start);
        }
    }
    sti_admin_description_free(d);
    return STI_OK;
}

static int sample_take(struct watch *w, struct sample *sample, struct sti_err *err)
{
    struct sti_admin_topics *topics = NULL;
    size_t count = w->topic_count;
    int rc = STI_OK;
    memset(sample, 0, sizeof *sample);
    if (count == 0) {
        rc = sti_admin_list_topics(w->cli->client, &topics, err);
        count = rc == STI_OK ? topics->count : 0;
    }
    sample->rows = calloc(count + 1, sizeof *sample->rows);
    if (rc == STI_OK && sample->rows == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory for %zu topics", count);
    }
    sample->at_us = cli_now_us();
    for (size_t i = 0; rc == STI_OK && sample->rows != NULL && i < count; i++) {
        rc = sample_topic(w, topics == NULL ? w->topics[i] : topics->topics[i].name, sample, err);
    }
    if (topics != NULL) {
        sti_admin_topics_free(topics);
    }
    if (rc != STI_OK) {
        sample_free(sample);
    }
    return rc;
}

static int by_id(const void *left, const void *right)
{
    const struct row *a = left, *b = right;
    return memcmp(a->topic_id, b->topic_id, sizeof a->topic_id);
}

/* What came since the sample before; a log that got shorter by retention brings no negative rate.
 */
static void sample_rates(struct sample *now, struct sample *before)
{
    qsort(before->rows, before->count, sizeof *before->rows, by_id);
    double seconds = (double)(now->at_us - before->at_us) / 1e6;
    for (size_t i = 0; i < now->count; i++) {
        struct row *row = &now->rows[i];
        const struct row *was =
            bsearch(row, before->rows, before->count, sizeof *before->rows, by_id);
        uint64_t appended = was == NULL ? 0 : was->appended, bytes = was == NULL ? 0 : was->bytes;
        row->records_per_s =
            row->appended > appended ? (double)(row->appended - appended) / seconds : 0;
        row->bytes_per_s = row->bytes > bytes ? (double)(row->bytes - bytes) / seconds : 0;
    }
}

static int busiest_first(const void *left, const void *right)
{
    const struct row *a = left, *b = right;
    if (a->records_per_s != b->records_per_s) {
        return a->records_per_s > b->records_per_s ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

static struct row sample_total(const struct sample *sample)
{
    struct row total;
    memset(&total, 0, sizeof total);
    snprintf(total.name, sizeof total.name, "%zu topic%s", sample->count,
             sample->count == 1 ? "" : "s");
    for (size_t i = 0; i < sample->count; i++) {
        const struct row *row = &sample->rows[i];
        total.partitions += row->partitions;
        total.offline += row->offline;
        total.records += row->records;
        total.bytes += row->bytes;
        total.records_per_s += row->records_per_s;
        total.bytes_per_s += row->bytes_per_s;
    }
    return total;
}

static json_t *row_json(const struct row *row)
{
    return json_pack("{s:i,s:i,s:f,s:f,s:I,s:I}", "partitions", (int)row->partitions, "offline",
                     (int)row->offline, "records_per_s", row->records_per_s, "bytes_per_s",
                     row->bytes_per_s, "records", (json_int_t)row->records, "bytes",
                     (json_int_t)row->bytes);
}

static void print_json(const struct sample *sample)
{
    json_t *topics = json_array();
    struct row total = sample_total(sample);
    for (size_t i = 0; i < sample->count; i++) {
        json_t *row = row_json(&sample->rows[i]);
        json_object_set_new(row, "name", json_string(sample->rows[i].name));
        json_array_append_new(topics, row);
    }
    cli_print_json(json_pack("{s:I,s:o,s:o}", "time_ms", (json_int_t)(cli_real_us() / 1000u),
                             "total", row_json(&total), "topics", topics));
}

/* How much of a table is shown: on a terminal what fits, elsewhere all. */
struct extent {
    size_t rows, columns;
    int name_width, name_max;
};

static struct extent extent(const struct watch *w)
{
    enum { FIGURES = 66, NAME_MIN = 12, NAME_WIDTH = 32 }; /* columns */
    struct winsize size;
    if (!w->screen) {
        return (struct extent){SIZE_MAX, SIZE_MAX, NAME_WIDTH, INT_MAX};
    }
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) {
        size.ws_row = ROWS_DEFAULT;
        size.ws_col = COLUMNS_DEFAULT;
    }
    int name = size.ws_col - FIGURES;
    name = name < NAME_MIN ? NAME_MIN : name > NAME_WIDTH ? NAME_WIDTH : name;
    /* Heading, total, a line for an error and the cursor's. */
    return (struct extent){size.ws_row > 5 ? (size_t)size.ws_row - 4u : 1u, size.ws_col, name,
                           name};
}

/* A line of a table, cut where the terminal ends, so that one stays one. */
STI_PRINTF(2, 3) static void print_line(const struct extent *e, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    printf("%.*s\n", e->columns < sizeof line ? (int)e->columns : (int)sizeof line, line);
}

static void print_row(const struct extent *e, const struct row *row)
{
    print_line(e, "%-*.*s %10u %7u %11.0f %9.2f %12llu %11.1f", e->name_width, e->name_max,
               row->name, row->partitions, row->offline, row->records_per_s, row->bytes_per_s / 1e6,
               (unsigned long long)row->records, (double)row->bytes / 1e6);
}

static void print_table(const struct watch *w, const struct sample *sample)
{
    struct row total = sample_total(sample);
    struct extent e = extent(w);
    if (w->screen) {
        fputs("\033[H\033[J", stdout); /* to the upper left corner, and clear what is below */
    }
    print_line(&e, "%-*s %10s %7s %11s %9s %12s %11s", e.name_width, "TOPIC", "PARTITIONS",
               "OFFLINE", "RECORDS/S", "MB/S", "RECORDS", "MB");
    for (size_t i = 0; i < sample->count && i < e.rows; i++) {
        print_row(&e, &sample->rows[i]);
    }
    print_row(&e, &total);
    if (!w->screen) {
        putchar('\n');
    }
}

/* One look, printed when there is one before it to compare with. */
static int look(struct watch *w, struct sti_err *err)
{
    struct sample now;
    int rc = sample_take(w, &now, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (w->last.at_us != 0) {
        sample_rates(&now, &w->last);
        qsort(now.rows, now.count, sizeof *now.rows, busiest_first);
        if (w->cli->json) {
            print_json(&now);
        } else {
            print_table(w, &now);
        }
        fflush(stdout);
    }
    sample_free(&w->last);
    w->last = now;
    return STI_OK;
}

static int watch_loop(struct watch *w)
{
    struct sti_err err;
    int rc = look(w, &err);
    if (rc != STI_OK) { /* never answered: a wrong address or name rather than a pause */
        return cli_error(rc, &err);
    }
    for (int64_t i = 0; w->count == 0 || i < w->count; i++) {
        (void)poll(NULL, 0, (int)w->interval_ms);
        rc = look(w, &err);
        if (rc != STI_OK) {
            (void)cli_error(rc, &err);
        }
        if (ferror(stdout)) {
            return CLI_OK; /* main says what that means */
        }
    }
    return rc == STI_OK ? CLI_OK : CLI_FAILED;
}

static int run_watch(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS,
                                            {"topic", required_argument, NULL, OPT_TOPIC},
                                            {"interval-ms", required_argument, NULL, OPT_INTERVAL},
                                            {"count", required_argument, NULL, OPT_COUNT},
                                            {NULL, 0, NULL, 0}};
    struct watch w = {.cli = cli, .interval_ms = 1000};
    int status, option;
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        bool ok = true;
        if (option == OPT_INTERVAL) {
            ok = cli_number(cli, "interval-ms", optarg, 10, 3600000, &w.interval_ms);
        } else if (option == OPT_COUNT) {
            ok = cli_number(cli, "count", optarg, 1, INT64_MAX, &w.count);
        } else if (w.topic_count == TOPICS_NAMED_MAX) {
            return cli_usage(cli, "--topic: more than %d topics", TOPICS_NAMED_MAX);
        } else {
            w.topics[w.topic_count++] = optarg;
        }
        if (!ok) {
            return CLI_USAGE;
        }
    }
    if (option == -2) {
        return status;
    }
    if (cli_connect(cli) != CLI_OK) {
        return CLI_FAILED;
    }
    w.screen = !cli->json && isatty(STDOUT_FILENO);
    status = watch_loop(&w);
    sample_free(&w.last);
    return status;
}

const struct cli_command cli_watch = {
    "watch", "Measurement", "rates of the topics, the busiest first, again and again",
    "  --topic T           only this topic, repeatable; all of them if left out\n"
    "  --interval-ms N     between two looks (default 1000)\n"
    "  --count N           end after N tables; until an interrupt if left out\n\n"
    "RECORDS/S is what became readable since the look before, MB/S how much the logs grew on "
    "disk,\n"
    "OFFLINE how many partitions take no appends. On a terminal each table replaces the last, and\n"
    "shows what fits; with --json each is one line.\n\n"
    "Example:\n"
    "  streamit watch --interval-ms 2000\n",
    run_watch};
