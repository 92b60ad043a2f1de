/* histogram.c -- see histogram.h. */
#include <inttypes.h>

#include "histogram.h"

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        to->buckets[i] += from->buckets[i];
    }
    to->count += from->count;
    if (from->max > to->max) {
        to->max = from->max;
    }
}

/* How far the values of a bucket go beyond its lowest one: a power of two, less one. */
static uint64_t bucket_reach(unsigned bucket)
{
    return bucket < HISTOGRAM_SUB ? 0
                                  : (UINT64_C(1) << (bucket / HISTOGRAM_SUB - 1u)) - UINT64_C(1);
}

/* The smallest value that falls into a bucket. */
static uint64_t bucket_low(unsigned bucket)
{
    return bucket < HISTOGRAM_SUB ? bucket
                                  : (uint64_t)(HISTOGRAM_SUB + bucket % HISTOGRAM_SUB)
                                        << (bucket / HISTOGRAM_SUB - 1u);
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    return bucket_low(bucket) + bucket_reach(bucket);
}

uint64_t histogram_quantile(const struct histogram *histogram, double q)
{
    if (histogram->count == 0) {
        return 0;
    }
    double wanted = q * (double)histogram->count;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > 0 && (double)seen >= wanted) {
            uint64_t top = bucket_top(i);
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}

void histogram_write_json(const struct histogram *histogram, FILE *out)
{
    const char *separator = "";
    (void)fprintf(out, "{\"unit\":\"us\",\"count\":%" PRIu64 ",\"max\":%" PRIu64 ",\"buckets\":[",
                  histogram->count, histogram->max);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (histogram->buckets[i] != 0) {
            (void)fprintf(out, "%s[%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]", separator, bucket_low(i),
                          bucket_top(i), histogram->buckets[i]);
            separator = ",";
        }
    }
    (void)fputs("]}", out);
}
