/* raw.h -- what the limit programs share: a clock, numbers from the command line, and a way to end.
 *
 * A limit program does one bare thing that a commit log cannot avoid, for a bounded time, and
 * prints one JSON object. Errors end the program with exit status 1, wrong usage with 2.
 */
#ifndef STREAMIT_BENCH_RAW_H
#define STREAMIT_BENCH_RAW_H

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RAW_USAGE = 2, RAW_CHUNK_MAX = 64 << 20 };

static inline double raw_now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Say what failed, with errno, and end the program. */
static inline _Noreturn void raw_die(const char *what)
{
    (void)fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static inline _Noreturn void raw_usage(const char *text)
{
    (void)fprintf(stderr, "usage: %s\n", text);
    exit(RAW_USAGE);
}

/* A number from 1 to `max`; anything else ends the program with the usage. */
static inline uint64_t raw_number(const char *text, uint64_t max, const char *usage)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value == 0 || value > max) {
        raw_usage(usage);
    }
    return value;
}

/* Memory whose every page is there, filled with bytes that do not repeat soon. Free with free(). */
static inline uint8_t *raw_buffer(size_t len)
{
    uint8_t *data = malloc(len);
    uint64_t state = 0x9e3779b97f4a7c15u;
    if (data == NULL) {
        raw_die("memory");
    }
    for (size_t i = 0; i < len; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data[i] = (uint8_t)state;
    }
    return data;
}

#endif /* STREAMIT_BENCH_RAW_H */
