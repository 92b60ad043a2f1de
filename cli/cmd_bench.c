/* cmd_bench.c -- `streamit bench`: load of a known shape against a node, and what came of it.
 *
 * Four commands over one table of options. Whatever is printed has the settings it was measured
 * under beside it. --histogram keeps every latency, so that runs can be merged and asked again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    OPT_TOPIC = CLI_OPT_OWN,
    OPT_PRODUCERS,
    OPT_CONSUMERS,
    OPT_CLIENTS,
    OPT_SIZE,
    OPT_RATE,
    OPT_COUNT,
    OPT_DURATION,
    OPT_WARM_UP,
    OPT_ONE,
    OPT_ACKS,
    OPT_COMPRESSION,
    OPT_LINGER,
    OPT_BATCH,
    OPT_WINDOW,
    OPT_FETCH,
    OPT_PREFETCH,
    OPT_HISTOGRAM
};

static const char *const kind_names[] = {"produce", "consume", "latency", "end-to-end"};

/* ---- the report ---------------------------------------------------------------------------- */

static json_t *latencies(const struct histogram *h)
{
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f}", "p50", (double)histogram_quantile(h, 0.5) / 1e3,
                     "p95", (double)histogram_quantile(h, 0.95) / 1e3, "p99",
                     (double)histogram_quantile(h, 0.99) / 1e3, "p999",
                     (double)histogram_quantile(h, 0.999) / 1e3, "p9999",
                     (double)histogram_quantile(h, 0.9999) / 1e3, "max", (double)h->max / 1e3);
}

static json_t *settings(const struct bench *b)
{
    json_t *out =
        json_pack("{s:s,s:s,s:I,s:I}", "server", b->cli->server, "topic", b->topic, "clients",
                  (json_int_t)b->clients, "timeout_ms", (json_int_t)b->cli->timeout_ms);
    if (b->producers > 0) {
        json_object_update_new(out,
                               json_pack("{s:I,s:I,s:I,s:I,s:b,s:s,s:s,s:I,s:I,s:I}", "producers",
                                         (json_int_t)b->producers, "size", (json_int_t)b->size,
                                         "rate", (json_int_t)b->rate, "warm_up_ms",
                                         (json_int_t)b->warm_up_ms, "one_at_a_time",
                                         b->one_at_a_time, "acks", cli_acks_words[b->producer.acks],
                                         "compression", cli_codec_words[b->producer.codec],
                                         "linger_ms", (json_int_t)b->producer.linger_ms,
                                         "batch_bytes", (json_int_t)b->producer.batch_bytes,
                                         "window_bytes", (json_int_t)b->producer.window_bytes));
    }
    if (b->consumers > 0) {
        json_object_update_new(out,
                               json_pack("{s:I,s:I,s:I}", "consumers", (json_int_t)b->consumers,
                                         "fetch_bytes", (json_int_t)b->consumer.fetch_bytes,
                                         "prefetch_bytes", (json_int_t)b->consumer.prefetch_bytes));
    }
    return out;
}

static json_t *report(const struct bench *b)
{
    double per_s = b->seconds > 0 ? 1.0 / b->seconds : 0;
    json_t *out =
        json_pack("{s:s,s:I,s:I,s:f,s:f,s:f,s:I}", "bench", kind_names[b->kind], "records",
                  (json_int_t)b->records, "bytes", (json_int_t)b->bytes, "seconds", b->seconds,
                  "records_per_s", (double)b->records * per_s, "mb_per_s",
                  (double)b->bytes * per_s / 1e6, "errors", (json_int_t)b->errors);
    if (b->producers > 0) {
        json_object_set_new(out, "latency_ms", latencies(&b->ack_us));
    }
    if (b->late_us.count > 0) {
        json_object_set_new(out, "late_ms", latencies(&b->late_us));
    }
    if (b->kind == BENCH_END_TO_END) {
        json_object_set_new(out, "end_to_end_ms", latencies(&b->delivered_us));
    }
    json_object_set_new(out, "cpu_s",
                        json_pack("{s:f,s:f}", "user", b->user_s, "system", b->system_s));
    json_object_set_new(out, "settings", settings(b));
    return out;
}

static void print_latency(const char *name, const struct histogram *h)
{
    if (h->count > 0) {
        printf("%-12s p50 %.3f  p95 %.3f  p99 %.3f  p99.9 %.3f  p99.99 %.3f  max %.3f ms\n", name,
               (double)histogram_quantile(h, 0.5) / 1e3, (double)histogram_quantile(h, 0.95) / 1e3,
               (double)histogram_quantile(h, 0.99) / 1e3,
               (double)histogram_quantile(h, 0.999) / 1e3,
               (double)histogram_quantile(h, 0.9999) / 1e3, (double)h->max / 1e3);
    }
}

static void print_text(const struct bench *b)
{
    double per_s = b->seconds > 0 ? 1.0 / b->seconds : 0;
    json_t *under = settings(b);
    const char *key;
    json_t *value;
    printf("%-12s %llu records, %.1f MB in %.3f s: %.0f records/s, %.1f MB/s, %llu errors\n",
           kind_names[b->kind], (unsigned long long)b->records, (double)b->bytes / 1e6, b->seconds,
           (double)b->records * per_s, (double)b->bytes * per_s / 1e6,
           (unsigned long long)b->errors);
    print_latency("due to ack", &b->ack_us);
    print_latency("end to end", &b->delivered_us);
    print_latency("sent late", &b->late_us);
    printf("%-12s %.2f s user, %.2f s system\nsettings    ", "client CPU", b->user_s, b->system_s);
    json_object_foreach(under, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY);
        printf(" %s=%s", key, json_is_string(value) ? json_string_value(value) : text);
        free(text);
    }
    printf("\n");
    json_decref(under);
}

/* @return CLI_OK, or after printing the error CLI_FAILED */
static int file_error(const char *path)
{
    struct sti_err err;
    (void)sti_err_set(&err, STI_E_IO, "%s: %s", path, strerror(errno));
    return cli_error(STI_E_IO, &err);
}

/* Write all latencies, and close the file. @return as file_error */
static int keep_histograms(const struct bench *b, FILE *file, const char *path)
{
    (void)fputs("{\"ack_us\":", file);
    histogram_write_json(&b->ack_us, file);
    (void)fputs(",\"late_us\":", file);
    histogram_write_json(&b->late_us, file);
    (void)fputs(",\"end_to_end_us\":", file);
    histogram_write_json(&b->delivered_us, file);
    (void)fputs("}\n", file);
    bool bad = ferror(file) != 0;
    return fclose(file) != 0 || bad ? file_error(path) : CLI_OK;
}

/* ---- options ------------------------------------------------------------------------------- */

struct number_option {
    int option;
    const char *name;
    int64_t min, max;
};

static const struct number_option numbers[] = {
    {OPT_PRODUCERS, "producers", 1, BENCH_THREADS_MAX},
    {OPT_CONSUMERS, "consumers", 1, BENCH_THREADS_MAX},
    {OPT_CLIENTS, "clients", 1, BENCH_THREADS_MAX},
    {OPT_SIZE, "size", 0, 1 << 30},
    {OPT_RATE, "rate", 1, 1000000000},
    {OPT_COUNT, "count", 1, INT64_MAX},
    {OPT_DURATION, "duration-s", 1, 1000000},
    {OPT_WARM_UP, "warm-up-ms", 0, 3600000},
    {OPT_LINGER, "linger-ms", 0, 3600000},
    {OPT_BATCH, "batch-bytes", 1, 1 << 30},
    {OPT_WINDOW, "window-bytes", 1, INT64_MAX},
    {OPT_FETCH, "fetch-bytes", 1, 1 << 30},
    {OPT_PREFETCH, "prefetch-bytes", 1, INT64_MAX},
};

static void set_number(struct bench *b, int option, int64_t value)
{
    switch (option) {
    case OPT_PRODUCERS:
        b->producers = value;
        break;
    case OPT_CONSUMERS:
        b->consumers = value;
        break;
    case OPT_CLIENTS:
        b->clients = value;
        break;
    case OPT_SIZE:
        b->size = value;
        break;
    case OPT_RATE:
        b->rate = value;
        break;
    case OPT_COUNT:
        b->count = value;
        break;
    case OPT_DURATION:
        b->duration_s = value;
        break;
    case OPT_WARM_UP:
        b->warm_up_ms = value;
        break;
    case OPT_LINGER:
        b->producer.linger_ms = (uint32_t)value;
        break;
    case OPT_BATCH:
        b->producer.batch_bytes = (uint32_t)value;
        break;
    case OPT_WINDOW:
        b->producer.window_bytes = (uint64_t)value;
        break;
    case OPT_FETCH:
        b->consumer.fetch_bytes = (uint32_t)value;
        break;
    default:
        b->consumer.prefetch_bytes = (uint64_t)value;
        break;
    }
}

/* @return false after saying what is wrong */
static bool take_option(struct bench *b, const char **histogram, int option, const char *value)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t number;
        if (numbers[i].option == option) {
            if (!cli_number(b->cli, numbers[i].name, value, numbers[i].min, numbers[i].max,
                            &number)) {
                return false;
            }
            set_number(b, option, number);
            return true;
        }
    }
    switch (option) {
    case OPT_TOPIC:
        b->topic = value;
        return true;
    case OPT_ONE:
        b->one_at_a_time = true;
        return true;
    case OPT_ACKS:
        b->producer.acks = cli_word(b->cli, "acks", value, cli_acks_words);
        return b->producer.acks >= 0;
    case OPT_COMPRESSION:
        b->producer.codec = cli_word(b->cli, "compression", value, cli_codec_words);
        return b->producer.codec >= 0;
    default:
        *histogram = value;
        return true;
    }
}

/* @return CLI_OK, or CLI_USAGE after saying what does not go together */
static int check(const struct bench *b)
{
    if (b->topic == NULL) {
        return cli_usage(b->cli, "--topic is missing");
    }
    if (b->producers > 0 && b->count < 0 && b->duration_s < 0) {
        return cli_usage(b->cli, "--count or --duration-s is missing: how long shall it run?");
    }
    if (b->kind == BENCH_LATENCY && b->rate == 0 && !b->one_at_a_time) {
        return cli_usage(b->cli, "--rate or --one-at-a-time is missing: at which load?");
    }
    if (b->one_at_a_time && (b->rate > 0 || b->kind != BENCH_LATENCY)) {
        return cli_usage(b->cli, "--one-at-a-time goes with latency only, and without --rate");
    }
    if (b->kind == BENCH_END_TO_END && b->size < BENCH_STAMP_BYTES) {
        return cli_usage(b->cli, "--size: at least %d bytes, which hold the time it was due",
                         BENCH_STAMP_BYTES);
    }
    return CLI_OK;
}

static const struct option options[] = {CLI_GLOBAL_OPTIONS,
                                        {"topic", required_argument, NULL, OPT_TOPIC},
                                        {"clients", required_argument, NULL, OPT_CLIENTS},
                                        {"count", required_argument, NULL, OPT_COUNT},
                                        {"histogram", required_argument, NULL, OPT_HISTOGRAM},
                                        /* of consumers */
                                        {"consumers", required_argument, NULL, OPT_CONSUMERS},
                                        {"fetch-bytes", required_argument, NULL, OPT_FETCH},
                                        {"prefetch-bytes", required_argument, NULL, OPT_PREFETCH},
                                        /* of producers */
                                        {"producers", required_argument, NULL, OPT_PRODUCERS},
                                        {"size", required_argument, NULL, OPT_SIZE},
                                        {"rate", required_argument, NULL, OPT_RATE},
                                        {"duration-s", required_argument, NULL, OPT_DURATION},
                                        {"warm-up-ms", required_argument, NULL, OPT_WARM_UP},
                                        {"one-at-a-time", no_argument, NULL, OPT_ONE},
                                        {"acks", required_argument, NULL, OPT_ACKS},
                                        {"compression", required_argument, NULL, OPT_COMPRESSION},
                                        {"linger-ms", required_argument, NULL, OPT_LINGER},
                                        {"batch-bytes", required_argument, NULL, OPT_BATCH},
                                        {"window-bytes", required_argument, NULL, OPT_WINDOW},
                                        {NULL, 0, NULL, 0}};

/* Does an option mean anything to this kind of run? */
static bool applies(enum bench_kind kind, int option)
{
    bool of_consumers = option == OPT_CONSUMERS || option == OPT_FETCH || option == OPT_PREFETCH;
    bool of_both = option == OPT_TOPIC || option == OPT_CLIENTS || option == OPT_COUNT ||
                   option == OPT_HISTOGRAM;
    return of_both || kind == BENCH_END_TO_END || of_consumers == (kind == BENCH_CONSUME);
}

static const char *option_name(int option)
{
    for (size_t i = 0; options[i].name != NULL; i++) {
        if (options[i].val == option) {
            return options[i].name;
        }
    }
    return "";
}

static int measure(struct bench *b, const char *histogram)
{
    FILE *file = NULL;
    if (cli_connect(b->cli) != CLI_OK) {
        return CLI_FAILED;
    }
    if (histogram != NULL) {
        file = fopen(histogram, "we"); /* now: a run is not worth a name that cannot be written */
        if (file == NULL) {
            return file_error(histogram);
        }
    }
    int rc = bench_run(b), kept = CLI_OK;
    if (rc != STI_OK) {
        (void)cli_error(rc, &b->err);
    }
    if (b->cli->json) {
        cli_print_json(report(b));
    } else {
        print_text(b);
    }
    if (file != NULL) {
        kept = keep_histograms(b, file, histogram);
    }
    return cli_interrupted ? CLI_INTERRUPTED : rc == STI_OK ? kept : CLI_FAILED;
}

static int run_kind(enum bench_kind kind, struct cli *cli, int argc, char **argv)
{
    const char *histogram = NULL;
    int status = CLI_FAILED, option;
    struct bench *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return cli_error(STI_E_NO_MEMORY, NULL);
    }
    b->cli = cli;
    b->kind = kind;
    b->producers = kind != BENCH_CONSUME;
    b->consumers = kind == BENCH_CONSUME || kind == BENCH_END_TO_END;
    b->clients = 1;
    b->size = 1024;
    b->count = b->duration_s = -1;
    sti_producer_config_init(&b->producer);
    sti_consumer_config_init(&b->consumer);
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        if (!applies(kind, option)) {
            status = cli_usage(cli, "--%s means nothing here", option_name(option));
            break;
        }
        if (!take_option(b, &histogram, option, optarg)) {
            status = CLI_USAGE;
            break;
        }
    }
    if (option == -1) {
        status = check(b);
        status = status == CLI_OK ? measure(b, histogram) : status;
    }
    free(b);
    return status;
}

static int run_produce(struct cli *cli, int argc, char **argv)
{
    return run_kind(BENCH_PRODUCE, cli, argc, argv);
}

static int run_consume(struct cli *cli, int argc, char **argv)
{
    return run_kind(BENCH_CONSUME, cli, argc, argv);
}

static int run_latency(struct cli *cli, int argc, char **argv)
{
    return run_kind(BENCH_LATENCY, cli, argc, argv);
}

static int run_end_to_end(struct cli *cli, int argc, char **argv)
{
    return run_kind(BENCH_END_TO_END, cli, argc, argv);
}

#define COMMON_HELP                                                                                \
    "  --topic T             the topic, which must be there\n"                                     \
    "  --clients N           connected clients that the others share (default 1)\n"                \
    "  --histogram F         keep every latency in the file F, as JSON\n"
#define PRODUCER_HELP                                                                              \
    "  --producers N         each with a thread; number i writes to partition i (default 1)\n"     \
    "  --size B              incompressible bytes of a record (default 1024)\n"                    \
    "  --rate N              records a second, of all producers; flat out if left out\n"           \
    "  --count N             stop after N records\n"                                               \
    "  --duration-s N        stop after N seconds\n"                                               \
    "  --warm-up-ms N        records that were due in the first N ms are not measured (default "   \
    "0)\n"                                                                                         \
    "  --acks A              none, leader or quorum (default quorum)\n"                            \
    "  --compression C       none, gzip, snappy, lz4 or zstd (default none)\n"                     \
    "  --linger-ms N, --batch-bytes B, --window-bytes B    as in libstreamit\n"
#define CONSUMER_HELP                                                                              \
    "  --consumers N         each with a thread and its share of the partitions (default 1)\n"     \
    "  --fetch-bytes B, --prefetch-bytes B                 as in libstreamit\n"

const struct cli_command cli_bench_produce = {
    "bench produce", "Measurement", "how fast records go in",
    COMMON_HELP PRODUCER_HELP
    "\nExample:\n  streamit bench produce --topic t --size 100 --count 5000000 --acks leader\n",
    run_produce};

const struct cli_command cli_bench_consume = {
    "bench consume", "Measurement", "how fast the records of a topic come out, from the beginning",
    COMMON_HELP CONSUMER_HELP "  --count N             stop after N records, not at the end\n"
                              "\nExample:\n  streamit bench consume --topic t --consumers 4\n",
    run_consume};

const struct cli_command cli_bench_latency = {
    "bench latency", "Measurement", "from when a record was due to its ack, at a rate",
    COMMON_HELP PRODUCER_HELP
    "  --one-at-a-time       instead of a rate: the next record when the last is acknowledged\n"
    "\nAt a rate the load is an open loop: a node that stalls does not slow it down, and every\n"
    "record that was due meanwhile counts from then.\n"
    "\nExample:\n  streamit bench latency --topic t --rate 20000 --duration-s 10 --acks leader\n",
    run_latency};

const struct cli_command cli_bench_end_to_end = {
    "bench end-to-end", "Measurement", "from when a record was due to a waiting consumer",
    COMMON_HELP PRODUCER_HELP CONSUMER_HELP "\nEverything acknowledged must arrive, or it is an "
                                            "error. A record carries when it was due, so\n"
                                            "only one such run may write to a topic at a time.\n"
                                            "\nExample:\n  streamit bench end-to-end --topic t "
                                            "--rate 20000 --duration-s 10 --acks leader\n",
    run_end_to_end};
