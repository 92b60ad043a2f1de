/* raw_cpu.c -- the limits of one core: checksum, copy, and the building of batches.
 *
 *     raw_cpu SIZE      {"crc32c_mb_per_s":N,"memcpy_mb_per_s":N,"build_mb_per_s":N,
 *                        "build_records_per_s":N}
 *
 * CRC-32C and memcpy run over buffers of 1 MiB, a batch, out of a ring too large for the nearer
 * caches, as bytes from a socket are. Building appends records of SIZE bytes to batches of 1 MiB
 * with libstreamit-batch and finishes each: what a producer must do at least. Each part takes a
 * fifth of a second. Bytes of building count values only.
 */
#include "raw.h"
#include "streamit/record_batch.h"

enum { BATCH = 1 << 20, RING = 32, RECORD_MAX = BATCH / 2 };

static const char usage[] = "raw_cpu SIZE   (of a record, at most 524288)";
static const double part_s = 0.2;

static double crc_rate(const uint8_t *ring)
{
    double begin = raw_now_s(), took = 0;
    uint64_t n = 0;
    uint32_t crc = 0;
    while (took < part_s) {
        crc = sti_crc32c(crc, ring + n++ % RING * BATCH, BATCH);
        took = raw_now_s() - begin;
    }
    __asm__ volatile("" : : "r"(crc)); /* the result is wanted */
    return (double)n * BATCH / took / 1e6;
}

static double copy_rate(uint8_t *ring)
{
    double begin = raw_now_s(), took = 0;
    uint64_t n = 0;
    while (took < part_s) {
        memcpy(ring + (n + RING / 2) % RING * BATCH, ring + n % RING * BATCH, BATCH);
        __asm__ volatile("" : : "r"(ring) : "memory"); /* the copy must happen */
        n++;
        took = raw_now_s() - begin;
    }
    return (double)n * BATCH / took / 1e6;
}

static void check(int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        (void)fprintf(stderr, "error: %s\n", err->msg);
        exit(EXIT_FAILURE);
    }
}

/* @return records a second */
static double build_rate(const uint8_t *ring, size_t size)
{
    struct sti_batch_builder *builder;
    struct sti_err err;
    const uint8_t *data;
    size_t len, pos = 0;
    uint64_t records = 0;
    check(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, &err), &err);
    double begin = raw_now_s(), took = 0;
    while (took < part_s) {
        sti_batch_builder_reset(builder);
        while (sti_batch_builder_len(builder) + sti_batch_record_len_max(0, size, NULL, 0) <=
               BATCH) {
            check(sti_batch_builder_append(builder, 1, NULL, 0, ring + pos, size, NULL, 0, &err),
                  &err);
            pos = (pos + size) % ((size_t)(RING - 1) * BATCH);
            records++;
        }
        check(sti_batch_builder_finish(builder, &data, &len, &err), &err);
        took = raw_now_s() - begin;
    }
    sti_batch_builder_free(builder);
    return (double)records / took;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        raw_usage(usage);
    }
    size_t size = (size_t)raw_number(argv[1], RECORD_MAX, usage);
    uint8_t *ring = raw_buffer((size_t)RING * BATCH);
    double crc = crc_rate(ring), copy = copy_rate(ring), built = build_rate(ring, size);
    (void)printf("{\"crc32c_mb_per_s\":%.0f,\"memcpy_mb_per_s\":%.0f,\"build_mb_per_s\":%.0f,"
                 "\"build_records_per_s\":%.0f}\n",
                 crc, copy, built * (double)size / 1e6, built);
    free(ring);
    return EXIT_SUCCESS;
}
