/* histogram.h -- a log-linear histogram of latencies: the only one of the project's programs.
 *
 * Values are microseconds. Below 64 each value has a bucket of its own; above, every power of two
 * is cut into 64 equal buckets, so a reported value is at most 1/64 (1.6 %) above the true one. 58
 * powers are covered, up to 2^63. Recording is a shift and an increment; nothing is allocated.
 *
 * @thread one at a time, or each thread its own and histogram_merge in the end
 */
#ifndef STREAMIT_CLI_HISTOGRAM_H
#define STREAMIT_CLI_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 6u
#define HISTOGRAM_SUB      (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_BUCKETS  ((64u - HISTOGRAM_SUB_BITS) * HISTOGRAM_SUB)

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
    unsigned bucket =
        (shift + 1u) * HISTOGRAM_SUB + (unsigned)((value >> shift) & (HISTOGRAM_SUB - 1u));
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1u;
}

static inline void histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[histogram_bucket(value)]++;
    histogram->count++;
    if (value > histogram->max) {
        histogram->max = value;
    }
}

/* Add what `from` holds to `to`. */
void histogram_merge(struct histogram *to, const struct histogram *from);
/* The value that the fraction `q` (0 to 1) of all values does not pass; 0 when there are none.
 * Never above max. */
uint64_t histogram_quantile(const struct histogram *histogram, double q);

#endif /* STREAMIT_CLI_HISTOGRAM_H */
