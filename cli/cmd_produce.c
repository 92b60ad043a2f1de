/* cmd_produce.c -- records in: from lines, or made up at a rate.
 *
 * Latency is open loop: it runs from the moment that a record was due (with --rate by the schedule,
 * else when it was read or made) to its ack, so that a stalled server shows in it. The time when a
 * record was due, and its size, travel as its opaque value.
 *
 * A failed record ends the command: what was sent before is still waited for, nothing after it is
 * sent. An interrupt stops reading, and waits for what was sent.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "lines.h"
#include "load.h"

enum {
    OPT_TOPIC = CLI_OPT_OWN,
    OPT_PARTITION,
    OPT_FILE,
    OPT_SEPARATOR,
    OPT_RATE,
    OPT_SIZE,
    OPT_COUNT,
    OPT_DURATION,
    OPT_ACKS,
    OPT_COMPRESSION,
    OPT_LINGER,
    OPT_BATCH,
    OPT_NO_IDEMPOTENCE
};

struct produce {
    struct cli *cli;
    const char *topic, *file, *separator;
    int64_t partition, rate, size, count, duration_s;
    struct sti_producer_config config;
    struct sti_producer *producer;
    struct sti_producer_topic *handle;
    /* Written by the poll thread, read by progress; final after close. */
    uint64_t acked, acked_bytes;
    _Atomic uint64_t failed;
    uint64_t first_due_us, last_ack_us;
    struct histogram latency_us;
    _Atomic int failing, status; /* first failure; status is set when err holds its sentence */
    struct sti_err err;
    uint64_t sent;
};

/* An opaque value: the low bits are the bytes of key and value, less than the largest message; the
 * others the time when the record was due, in microseconds modulo 4.7 hours: ages up to half of
 * that are told right. */
enum { SIZE_BITS = 30 };
#define SIZE_MASK ((UINT64_C(1) << SIZE_BITS) - 1)

static void *opaque_of(uint64_t due_us, size_t size)
{
    return (void *)(uintptr_t)(due_us << SIZE_BITS | (size & SIZE_MASK));
}

static uint64_t opaque_age_us(uint64_t opaque, uint64_t now_us)
{
    uint64_t age = (now_us << SIZE_BITS) - (opaque & ~SIZE_MASK);
    return age > UINT64_MAX / 2 ? 0
                                : age >> SIZE_BITS; /* not due yet: sent early, answered early */
}

/* The first failure counts; it may come from a report and from a send call at once. */
static void failed(struct produce *p, int status, const struct sti_err *err, uint64_t count)
{
    int none = STI_OK;
    p->failed += count;
    if (atomic_compare_exchange_strong(&p->failing, &none, status)) {
        p->err = *err;
        p->status = status;
    }
}

static void on_delivery(void *arg, const struct sti_delivery *delivery)
{
    struct produce *p = arg;
    uint64_t now = cli_now_us();
    if (delivery->status != STI_OK) {
        failed(p, delivery->status, delivery->err, delivery->count);
        return;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < delivery->count; i++) {
        uint64_t opaque = (uint64_t)(uintptr_t)delivery->opaques[i];
        bytes += opaque & SIZE_MASK;
        histogram_record(&p->latency_us, opaque_age_us(opaque, now));
    }
    p->last_ack_us = now;
    __atomic_fetch_add(&p->acked_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&p->acked, delivery->count, __ATOMIC_RELAXED);
}

/* @return STI_OK: go on */
static int send_one(struct produce *p, struct sti_producer_record *record, uint64_t due_us)
{
    struct sti_err err;
    record->opaque = opaque_of(due_us, record->key_len + record->value_len);
    if (p->first_due_us == 0) {
        p->first_due_us = due_us;
    }
    int rc = sti_producer_send(p->handle, record, &err);
    if (rc == STI_OK) {
        p->sent++;
    } else {
        failed(p, rc, &err, 1);
    }
    return rc;
}

/* May another record be sent? */
static bool wanted(const struct produce *p, uint64_t started_us)
{
    return !cli_interrupted && p->status == STI_OK &&
           (p->count < 0 || p->sent < (uint64_t)p->count) &&
           (p->duration_s < 0 || cli_now_us() < started_us + (uint64_t)p->duration_s * 1000000u);
}

/* With a rate, wait until record number `sent` is due. @return false: it is not wanted any more */
static bool await_due(const struct produce *p, uint64_t started_us, uint64_t *due_us)
{
    if (p->rate <= 0) {
        *due_us = cli_now_us();
        return true;
    }
    *due_us = load_due_us(started_us, p->sent, (double)p->rate);
    if (p->duration_s >= 0 && *due_us >= started_us + (uint64_t)p->duration_s * 1000000u) {
        load_wait(started_us + (uint64_t)p->duration_s * 1000000u);
        return false;
    }
    load_wait(*due_us);
    return !cli_interrupted;
}

/* Records of --size incompressible bytes. */
static void produce_generated(struct produce *p)
{
    struct load_values values;
    struct sti_err err;
    uint64_t started = cli_now_us(), due_us;
    int rc = load_values_init(&values, (size_t)p->size, &err);
    if (rc != STI_OK) {
        failed(p, rc, &err, 0);
        return;
    }
    while (wanted(p, started) && await_due(p, started, &due_us)) {
        struct sti_producer_record record = {.partition = (int32_t)p->partition,
                                             .value = load_values_next(&values),
                                             .value_len = values.size,
                                             .timestamp_ms = STI_TIMESTAMP_NOW};
        if (send_one(p, &record, due_us) != STI_OK) {
            break;
        }
    }
    load_values_fini(&values);
}

static void line_record(const struct produce *p, const uint8_t *line, size_t len,
                        struct sti_producer_record *record)
{
    size_t separator_len = p->separator == NULL ? 0 : strlen(p->separator);
    const uint8_t *at = separator_len == 0 ? NULL : memmem(line, len, p->separator, separator_len);
    *record = (struct sti_producer_record){.partition = (int32_t)p->partition,
                                           .value = line,
                                           .value_len = len,
                                           .timestamp_ms = STI_TIMESTAMP_NOW};
    if (at != NULL) {
        record->key = line;
        record->key_len = (size_t)(at - line);
        record->value = at + separator_len;
        record->value_len = len - record->key_len - separator_len;
    }
}

static void produce_lines(struct produce *p)
{
    struct lines lines;
    struct sti_err err;
    struct sti_producer_record record;
    const uint8_t *line;
    size_t len;
    uint64_t started = cli_now_us(), due_us;
    uint64_t line_max = sti_producer_topic_message_bytes_max(p->handle);
    int rc = lines_open(&lines, p->file, (size_t)line_max, &err);
    if (rc != STI_OK) {
        failed(p, rc, &err, 0);
        return;
    }
    while (wanted(p, started)) {
        rc = lines_next(&lines, &line, &len, &err);
        if (rc == STI_E_WOULD_BLOCK) {
            continue; /* wanted() tells whether to wait on */
        }
        if (rc != STI_OK && rc != STI_E_END) {
            failed(p, rc, &err, 0);
        }
        if (rc != STI_OK || !await_due(p, started, &due_us)) {
            break;
        }
        line_record(p, line, len, &record);
        if (send_one(p, &record, due_us) != STI_OK) {
            break;
        }
    }
    lines_close(&lines);
}

static int producer_open(struct produce *p, struct sti_err *err)
{
    p->config.timeout_ms = p->cli->timeout_ms;
    p->config.flags = STI_PRODUCER_STOP_AT_FAILURE; /* what is stored is a beginning of the input */
    p->config.on_delivery = on_delivery;
    p->config.arg = p;
    int rc = sti_producer_new(&p->producer, p->cli->client, &p->config, err);
    if (rc == STI_OK) {
        rc = sti_producer_topic_open(&p->handle, p->producer, p->topic, err);
    }
    if (rc == STI_OK && p->partition >= sti_producer_topic_partitions(p->handle)) {
        rc = sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                         "topic %s has %d partitions, not a partition %d", p->topic,
                         sti_producer_topic_partitions(p->handle), (int)p->partition);
    }
    return rc;
}

static int produce_run(struct produce *p)
{
    struct cli *cli = p->cli;
    struct sti_err err;
    cli_leave_with_summary(cli);
    int rc = producer_open(p, &err);
    cli_wind_up();
    if (rc == STI_OK) {
        /* A person who types would see the line written over. */
        bool typed = p->size < 0 && strcmp(p->file, "-") == 0 && isatty(STDIN_FILENO) != 0;
        struct cli_progress *progress =
            typed ? NULL : cli_progress_start("acknowledged", &p->acked, &p->acked_bytes);
        if (p->size >= 0) {
            produce_generated(p);
        } else {
            produce_lines(p);
        }
        (void)sti_producer_flush(p->producer, cli->timeout_ms, NULL);
        sti_producer_close(p->producer, 0);
        cli_progress_stop(progress);
    } else {
        sti_producer_close(p->producer, 0);
        failed(p, rc, &err, 1);
    }
    rc = p->status;
    struct cli_summary summary = {.records = p->acked,
                                  .bytes = p->acked_bytes,
                                  .errors = p->failed,
                                  .seconds = p->last_ack_us > p->first_due_us
                                                 ? (double)(p->last_ack_us - p->first_due_us) / 1e6
                                                 : 0,
                                  .latency_us = &p->latency_us};
    if (rc != STI_OK) {
        (void)cli_error(rc, &p->err);
    }
    cli_print_summary(cli, &summary);
    return cli_interrupted ? CLI_INTERRUPTED : rc == STI_OK ? CLI_OK : CLI_FAILED;
}

/* @return false after saying what is wrong */
static bool take_option(struct produce *p, int option, const char *value)
{
    struct cli *cli = p->cli;
    int64_t number = 0;
    bool ok = true;
    switch (option) {
    case OPT_TOPIC:
        p->topic = value;
        break;
    case OPT_PARTITION:
        ok = cli_number(cli, "partition", value, 0, INT32_MAX, &p->partition);
        break;
    case OPT_FILE:
        p->file = value;
        break;
    case OPT_SEPARATOR:
        p->separator = value;
        if (value[0] == '\0') {
            (void)cli_usage(cli, "--key-separator: must not be empty");
            ok = false;
        }
        break;
    case OPT_RATE:
        ok = cli_number(cli, "rate", value, 1, 1000000000, &p->rate);
        break;
    case OPT_SIZE:
        ok = cli_number(cli, "size", value, 0, 1 << 30, &p->size);
        break;
    case OPT_COUNT:
        ok = cli_number(cli, "count", value, 0, INT64_MAX, &p->count);
        break;
    case OPT_DURATION:
        ok = cli_number(cli, "duration-s", value, 0, 1000000000, &p->duration_s);
        break;
    case OPT_ACKS:
        p->config.acks = cli_word(cli, "acks", value, cli_acks_words);
        ok = p->config.acks >= 0;
        break;
    case OPT_COMPRESSION:
        p->config.codec = cli_word(cli, "compression", value, cli_codec_words);
        ok = p->config.codec >= 0;
        break;
    case OPT_LINGER:
        ok = cli_number(cli, "linger-ms", value, 0, 3600000, &number);
        p->config.linger_ms = (uint32_t)number;
        break;
    case OPT_BATCH:
        ok = cli_number(cli, "batch-bytes", value, 1, 1 << 30, &number);
        p->config.batch_bytes = (uint32_t)number;
        break;
    default: /* --no-idempotence: there is none yet to switch off */
        break;
    }
    return ok;
}

static int run(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        CLI_GLOBAL_OPTIONS,
        {"topic", required_argument, NULL, OPT_TOPIC},
        {"partition", required_argument, NULL, OPT_PARTITION},
        {"file", required_argument, NULL, OPT_FILE},
        {"key-separator", required_argument, NULL, OPT_SEPARATOR},
        {"rate", required_argument, NULL, OPT_RATE},
        {"size", required_argument, NULL, OPT_SIZE},
        {"count", required_argument, NULL, OPT_COUNT},
        {"duration-s", required_argument, NULL, OPT_DURATION},
        {"acks", required_argument, NULL, OPT_ACKS},
        {"compression", required_argument, NULL, OPT_COMPRESSION},
        {"linger-ms", required_argument, NULL, OPT_LINGER},
        {"batch-bytes", required_argument, NULL, OPT_BATCH},
        {"no-idempotence", no_argument, NULL, OPT_NO_IDEMPOTENCE},
        {NULL, 0, NULL, 0}};
    struct produce *p = calloc(1, sizeof *p);
    int status = CLI_FAILED, option;
    if (p == NULL) {
        return cli_error(STI_E_NO_MEMORY, NULL);
    }
    p->cli = cli;
    p->partition = p->size = p->count = p->duration_s = -1;
    sti_producer_config_init(&p->config);
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        if (!take_option(p, option, optarg)) {
            status = CLI_USAGE;
            option = -2;
            break;
        }
    }
    if (option != -2 && p->topic == NULL) {
        status = cli_usage(cli, "--topic is missing");
    } else if (option != -2 && p->size >= 0 && (p->file != NULL || p->separator != NULL)) {
        status = cli_usage(
            cli, "--size makes records up: it does not go with --file or --key-separator");
    } else if (option != -2) {
        p->file = p->file == NULL ? "-" : p->file;
        status = cli_connect(cli) == CLI_OK ? produce_run(p) : CLI_FAILED;
    }
    free(p);
    return status;
}

const struct cli_command cli_produce = {
    "produce", "Records", "send lines of a file, or made-up records",
    "  --topic T             the topic\n"
    "  --partition P         this partition; otherwise by murmur2 of the key, without key spread "
    "by batches\n"
    "  --file F              records are the lines of F; without it, or with -, of standard input\n"
    "  --key-separator S     a line is KEY S VALUE; the key ends at the first S\n"
    "  --size B              instead of a file: records of B incompressible bytes, without key\n"
    "  --rate N              records a second; flat out if left out\n"
    "  --count N             stop after N records\n"
    "  --duration-s N        stop after N seconds\n"
    "  --acks A              none, leader or quorum (default quorum)\n"
    "  --compression C       none, gzip, snappy, lz4 or zstd (default none)\n"
    "  --linger-ms N         let a batch wait for more records (default 0: only while one is in "
    "flight)\n"
    "  --batch-bytes B       close a batch at B bytes (default 1048576)\n\n"
    "A record that is refused for good, or not acknowledged within --timeout-ms, ends the "
    "command.\n"
    "A summary follows on standard error; with --json it is the last line of standard output.\n\n"
    "Example:\n"
    "  streamit produce --topic orders --file orders.txt --key-separator : --compression zstd\n",
    run};
