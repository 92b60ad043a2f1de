/* out.c -- results, errors and summaries in their two forms, for people and for programs. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

int cli_error(int code, const struct sti_err *err)
{
    bool worded = err != NULL && err->msg[0] != '\0';
    fflush(stdout);
    fprintf(stderr, "error: %s: %s\n", sti_status_name(code),
            worded ? err->msg : sti_status_text(code));
    return CLI_FAILED;
}

int cli_client_new(const struct cli *cli, struct sti_client **out)
{
    struct sti_client_config config;
    struct sti_err err;
    sti_client_config_init(&config);
    config.servers = cli->server;
    config.client_id = "streamit-cli";
    config.trace_id = cli->trace_id;
    config.timeout_ms = cli->timeout_ms;
    int rc = sti_client_new(out, &config, &err);
    return rc == STI_OK ? CLI_OK : cli_error(rc, &err);
}

int cli_connect(struct cli *cli)
{
    return cli->client != NULL ? CLI_OK : cli_client_new(cli, &cli->client);
}

void cli_print_json(json_t *document)
{
    if (document == NULL ||
        json_dumpf(document, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) !=
            0) {
        struct sti_err err;
        sti_err_set(&err, STI_E_INTERNAL, "the result cannot be written as JSON");
        (void)cli_error(err.code, &err);
    }
    fputc('\n', stdout);
    json_decref(document);
}

void cli_uuid(const uint8_t id[16], char out[37])
{
    static const char digits[] = "0123456789abcdef";
    char *p = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *p++ = '-';
        }
        *p++ = digits[id[i] >> 4];
        *p++ = digits[id[i] & 15];
    }
    *p = '\0';
}

json_t *cli_json_text(const uint8_t *data, size_t len)
{
    return json_stringn((const char *)data, len);
}

char *cli_base64(const uint8_t *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((len + 2) / 3 * 4 + 1), *p = out;
    for (size_t i = 0; out != NULL && i < len; i += 3) {
        uint32_t left = len - i > 2 ? 3u : (uint32_t)(len - i);
        uint32_t v = (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) |
                     (left > 2 ? data[i + 2] : 0u);
        *p++ = digits[v >> 18];
        *p++ = digits[v >> 12 & 63];
        *p++ = left > 1 ? digits[v >> 6 & 63] : '=';
        *p++ = left > 2 ? digits[v & 63] : '=';
    }
    if (out != NULL) {
        *p = '\0';
    }
    return out;
}

static double ms(const struct histogram *histogram, double q)
{
    return (double)histogram_quantile(histogram, q) / 1000.0;
}

void cli_print_summary(const struct cli *cli, const struct cli_summary *s)
{
    char text[CLI_SUMMARY_MAX];
    cli_summary_text(s, text);
    fputs(text, cli->json ? stdout : stderr);
    fflush(stdout);
}

void cli_summary_text(const struct cli_summary *s, char out[CLI_SUMMARY_MAX])
{
    const struct histogram *h = s->latency_us;
    double seconds = s->seconds > 0 ? s->seconds : 0;
    double per_s = seconds > 0 ? 1.0 / seconds : 0;
    /* Printed by hand: the order and the digits of the fields are part of the interface. */
    snprintf(out, CLI_SUMMARY_MAX,
             "{\"records\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"records_per_s\":%.0f,"
             "\"mb_per_s\":%.3f,\"errors\":%llu,\"latency_ms\":{\"p50\":%.3f,\"p95\":%.3f,"
             "\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}}\n",
             (unsigned long long)s->records, (unsigned long long)s->bytes, seconds,
             (double)s->records * per_s, (double)s->bytes * per_s / 1e6,
             (unsigned long long)s->errors, ms(h, 0.5), ms(h, 0.95), ms(h, 0.99), ms(h, 0.999),
             (double)h->max / 1000.0);
}

bool cli_reader_gone(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

static uint64_t clock_us(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t cli_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

uint64_t cli_real_us(void)
{
    return clock_us(CLOCK_REALTIME);
}
