/* histogram.h -- a log-linear histogram of latencies: the only one of the project's programs.
 *
 * Values are microseconds. Below 64 each value has a bucket of its own; above, every power of two
 * is cut into 64 equal buckets, so a reported value is at most 1/64 (1.6 %) above the true one,
 * whatever 64 bits can hold. Recording is a shift and an increment; nothing is allocated.
 *
 * @thread one at a time, or each thread its own and histogram_merge in the end
 */
#ifndef STREAMIT_CLI_HISTOGRAM_H
#define STREAMIT_CLI_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

#define HISTOGRAM_SUB_BITS 6u
#define HISTOGRAM_SUB      (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_BUCKETS  ((65u - HISTOGRAM_SUB_BITS) * HISTOGRAM_SUB)

struct histogram {
    uint64_t count, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* The bucket of a value. */
static inline unsigned histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_SUB) {
        return (unsigned)value;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return (shift + 1u) * HISTOGRAM_SUB + (unsigned)((value >> shift) & (HISTOGRAM_SUB - 1u));
}

/* Record a value that was seen `times` times. */
static inline void histogram_add(struct histogram *histogram, uint64_t value, uint64_t times)
{
    histogram->buckets[histogram_bucket(value)] += times;
    histogram->count += times;
    if (value > histogram->max && times > 0) {
        histogram->max = value;
    }
}

static inline void histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram_add(histogram, value, 1);
}

/* Add what `from` holds to `to`. */
void histogram_merge(struct histogram *to, const struct histogram *from);
/* The value that the fraction `q` (0 to 1) of all values does not pass; 0 when there are none.
 * Never above max. */
uint64_t histogram_quantile(const struct histogram *histogram, double q);

/* Write all of it as one JSON object, on one line without a newline, so that it can be kept, merged
 * and asked again elsewhere:
 *
 *     {"unit":"us","count":N,"max":N,"buckets":[[LOW,HIGH,COUNT],...]}
 *
 * Buckets hold the values LOW to HIGH, both included; those without a value are left out. What the
 * stream says of errors is the caller's to look at. */
void histogram_write_json(const struct histogram *histogram, FILE *out);

#endif /* STREAMIT_CLI_HISTOGRAM_H */
