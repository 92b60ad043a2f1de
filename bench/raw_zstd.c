/* raw_zstd.c -- the limit of disk use: what `zstd -3` makes of the batches of a log.
 *
 *     raw_zstd FILE.log...     {"batches":N,"records_bytes":N,"zstd_bytes":N,"mb_per_s":N}
 *
 * For each batch of the files, in order: take its records, decompressed if they are zstd, and
 * compress them alone with level 3. `records_bytes` is what went in, `zstd_bytes` what came out,
 * without headers and indexes; the rate is that of the compression.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "raw.h"
#include "streamit/record_batch.h"

enum { LEVEL = 3 };

static struct {
    uint64_t batches, in, out;
    double seconds;
    uint8_t *plain, *packed;
    size_t plain_max, packed_max;
} all;

static size_t zstd_checked(size_t result, const char *what)
{
    if (ZSTD_isError(result)) {
        (void)fprintf(stderr, "error: %s: %s\n", what, ZSTD_getErrorName(result));
        exit(EXIT_FAILURE);
    }
    return result;
}

static uint8_t *grown(uint8_t *buffer, size_t *size, size_t wanted)
{
    if (wanted <= *size) {
        return buffer;
    }
    *size = wanted;
    buffer = realloc(buffer, wanted);
    if (buffer == NULL) {
        raw_die("memory");
    }
    return buffer;
}

/* The records of a batch as they were before they were compressed. */
static size_t inflate_batch(const uint8_t *data, size_t len, const char *path)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_inBuffer in = {.src = data, .size = len};
    ZSTD_outBuffer out = {.dst = all.plain, .size = all.plain_max};
    size_t more = 1;
    while (more != 0 && (in.pos < in.size || out.pos == out.size)) {
        all.plain = grown(all.plain, &all.plain_max, out.pos + (1u << 20));
        out.dst = all.plain;
        out.size = all.plain_max;
        more = zstd_checked(ZSTD_decompressStream(context, &out, &in), path);
    }
    (void)ZSTD_freeDCtx(context);
    return out.pos;
}

static void take(const uint8_t *records, size_t len, uint32_t codec, const char *path)
{
    if (codec != STI_CODEC_NONE && codec != STI_CODEC_ZSTD) {
        (void)fprintf(stderr, "error: %s: a batch is packed with %s\n", path,
                      sti_codec_name((int)codec));
        exit(EXIT_FAILURE);
    }
    if (codec == STI_CODEC_ZSTD) {
        len = inflate_batch(records, len, path);
        records = all.plain;
    }
    all.packed = grown(all.packed, &all.packed_max, ZSTD_compressBound(len));
    double begin = raw_now_s();
    size_t packed =
        zstd_checked(ZSTD_compress(all.packed, all.packed_max, records, len, LEVEL), path);
    all.seconds += raw_now_s() - begin;
    all.batches++;
    all.in += len;
    all.out += packed;
}

static void walk(const char *path)
{
    struct sti_batch_header header;
    struct sti_err err;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        raw_die(path);
    }
    size_t len = (size_t)st.st_size, pos = 0;
    const uint8_t *data = len == 0 ? NULL : mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        raw_die(path);
    }
    while (pos < len) {
        if (sti_batch_header_decode(data + pos, len - pos, &header, &err) != STI_OK ||
            header.total_len > len - pos) {
            (void)fprintf(stderr, "error: %s: position %zu: no whole batch\n", path, pos);
            exit(EXIT_FAILURE);
        }
        take(data + pos + STI_BATCH_HEADER_LEN, header.total_len - STI_BATCH_HEADER_LEN,
             header.attributes & STI_BATCH_CODEC_MASK, path);
        pos += header.total_len;
    }
    if (data != NULL) {
        (void)munmap((void *)(uintptr_t)data, len);
    }
    (void)close(fd);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        raw_usage("raw_zstd FILE.log...");
    }
    for (int i = 1; i < argc; i++) {
        walk(argv[i]);
    }
    (void)printf("{\"batches\":%" PRIu64 ",\"records_bytes\":%" PRIu64 ",\"zstd_bytes\":%" PRIu64
                 ",\"mb_per_s\":%.1f}\n",
                 all.batches, all.in, all.out,
                 all.seconds > 0 ? (double)all.in / all.seconds / 1e6 : 0);
    free(all.plain);
    free(all.packed);
    return EXIT_SUCCESS;
}
