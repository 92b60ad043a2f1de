/* batch_speed.c -- how fast batches are built, read and checked here: figures for a person, no
 * test.
 *
 *   batch_speed [SECONDS]      of each measurement; 0.5 unless given
 *
 * Records are 100 bytes without key, half of which compress away; a batch has 1 MiB of them. Append
 * includes finishing the batch, iterate includes decompression. Time is that of the process, so
 * that a busy machine blurs less.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "streamit/record_batch.h"

#define VALUE_LEN   100u
#define RECORDS     9500u
#define PATTERN_LEN (VALUE_LEN * RECORDS)

static uint8_t pattern[PATTERN_LEN];
static double limit_s = 0.5;

static double now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void pattern_fill(void)
{
    uint64_t x = 88172645463325252u;
    size_t i;
    for (i = 0; i < sizeof pattern; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = i % VALUE_LEN < VALUE_LEN / 2 ? (uint8_t)x : 'a';
    }
}

static void must(int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        (void)fprintf(stderr, "batch_speed: %s: %s\n", sti_status_name(rc), err->msg);
        exit(1);
    }
}

static void build(struct sti_batch_builder *builder, const uint8_t **batch, size_t *len)
{
    struct sti_err err;
    uint32_t i;
    sti_batch_builder_reset(builder);
    for (i = 0; i < RECORDS; i++) {
        must(sti_batch_builder_append(builder, 1700000000000 + i / 100, NULL, 0,
                                      pattern + i * VALUE_LEN, VALUE_LEN, NULL, 0, &err),
             &err);
    }
    must(sti_batch_builder_finish(builder, batch, len, &err), &err);
}

static uint64_t iterate(struct sti_batch_iter *iter, const uint8_t *batch, size_t len)
{
    struct sti_record record;
    struct sti_err err;
    uint64_t sum = 0;
    int rc;
    must(sti_batch_iter_init(iter, batch, len, STI_BATCH_INFLATED_MAX, &err), &err);
    while ((rc = sti_batch_iter_next(iter, &record, &err)) == STI_OK) {
        sum += record.value[0];
    }
    must(rc == STI_E_END ? STI_OK : rc, &err);
    return sum;
}

static void measure_codec(int codec)
{
    struct sti_batch_builder *builder;
    struct sti_batch_iter iter;
    struct sti_err err;
    const uint8_t *batch;
    size_t len, plain;
    uint64_t rounds = 0, sum = 0;
    double start, spent, append_rate, iterate_rate;
    must(sti_batch_builder_new(&builder, codec, 0, &err), &err);
    build(builder, &batch, &len);
    plain = sti_batch_builder_len(builder);
    start = now_s();
    do {
        build(builder, &batch, &len);
        rounds++;
        spent = now_s() - start;
    } while (spent < limit_s);
    append_rate = (double)rounds * RECORDS / spent;
    memset(&iter, 0, sizeof iter);
    rounds = 0;
    start = now_s();
    do {
        sum += iterate(&iter, batch, len);
        rounds++;
        spent = now_s() - start;
    } while (spent < limit_s);
    iterate_rate = (double)rounds * RECORDS / spent;
    (void)printf("%-7s append %6.2f M records/s   iterate %7.2f M records/s   size %5.1f %%%s\n",
                 sti_codec_name(codec), append_rate / 1e6, iterate_rate / 1e6,
                 100.0 * (double)len / (double)plain, sum == 0 ? " ?" : "");
    sti_batch_iter_fini(&iter);
    sti_batch_builder_free(builder);
}

static void measure_crc(void)
{
    static const size_t sizes[] = {100, 4096, sizeof pattern};
    size_t i;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t rounds = 0;
        uint32_t crc = 0;
        double start = now_s(), spent;
        do {
            size_t n;
            for (n = 0; n < ((size_t)1 << 22); n += sizes[i]) {
                crc = sti_crc32c(crc, pattern, sizes[i]);
                rounds++;
            }
            spent = now_s() - start;
        } while (spent < limit_s);
        (void)printf("CRC-32C of %6zu bytes: %6.2f GB/s (%08x)\n", sizes[i],
                     (double)rounds * (double)sizes[i] / spent / 1e9, crc);
    }
}

int main(int argc, char **argv)
{
    int codec;
    if (argc > 1) {
        limit_s = strtod(argv[1], NULL);
    }
    pattern_fill();
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        measure_codec(codec);
    }
    measure_crc();
    return 0;
}
