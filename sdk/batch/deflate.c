/* deflate.c -- compressing the records of a batch, in the dialects that Kafka's Java client writes.
 *
 *   gzip    one member, zlib's default level unless asked
 *   snappy  xerial framing around raw blocks of 32 KiB of input
 *   lz4     one frame of independent 64 KiB blocks without checksums (the Java reader refuses
 *           dependent blocks)
 *   zstd    one frame
 *
 * The state of gzip and zstd is made on first use and kept, since setting it up costs more than
 * compressing a small batch.
 */
#include <stdlib.h>

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "batch.h"

#define GZIP_WINDOW_BITS (15 + 16) /* 32 KiB window, gzip instead of zlib wrapping */
#define GZIP_MEM_LEVEL   8

struct batch_deflater {
    z_stream gzip;
    bool gzip_ready;
    ZSTD_CCtx *zstd;
};

static int gzip_deflate(struct batch_deflater *state, int level, const uint8_t *in, size_t len,
                        size_t head, struct batch_buf *out, size_t *out_len, struct sti_err *err)
{
    z_stream *z = &state->gzip;
    size_t bound;
    int rc;
    if (!state->gzip_ready) {
        if (level == 0 || level < 0) {
            level = Z_DEFAULT_COMPRESSION;
        } else if (level > Z_BEST_COMPRESSION) {
            level = Z_BEST_COMPRESSION;
        }
        rc = deflateInit2(z, level, Z_DEFLATED, GZIP_WINDOW_BITS, GZIP_MEM_LEVEL,
                          Z_DEFAULT_STRATEGY);
        if (rc != Z_OK) {
            return sti_err_set(err, rc == Z_MEM_ERROR ? STI_E_NO_MEMORY : STI_E_INTERNAL,
                               "gzip: initialisation failed with %d", rc);
        }
        state->gzip_ready = true;
    } else {
        (void)deflateReset(z);
    }
    bound = deflateBound(z, len);
    rc = batch_buf_reserve(out, head + bound, 0, err);
    if (rc != STI_OK) {
        return rc;
    }
    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = (uInt)len;
    z->next_out = out->data + head;
    z->avail_out = (uInt)bound;
    rc = deflate(z, Z_FINISH);
    if (rc != Z_STREAM_END) {
        return sti_err_set(err, STI_E_INTERNAL, "gzip: compression failed with %d", rc);
    }
    *out_len = z->total_out;
    return STI_OK;
}

static int snappy_deflate(const uint8_t *in, size_t len, size_t head, struct batch_buf *out,
                          size_t *out_len, struct sti_err *err)
{
    size_t blocks = (len + BATCH_XERIAL_BLOCK_LEN - 1u) / BATCH_XERIAL_BLOCK_LEN;
    size_t block_bound = 4u + snappy_max_compressed_length(BATCH_XERIAL_BLOCK_LEN);
    uint8_t *p;
    int rc = batch_buf_reserve(out, head + BATCH_XERIAL_HEAD_LEN + blocks * block_bound, 0, err);
    if (rc != STI_OK) {
        return rc;
    }
    p = out->data + head;
    memcpy(p, BATCH_XERIAL_MAGIC, BATCH_XERIAL_MAGIC_LEN);
    batch_store32(p + 8, 1);
    batch_store32(p + 12, 1);
    p += BATCH_XERIAL_HEAD_LEN;
    while (len > 0) {
        size_t n = len < BATCH_XERIAL_BLOCK_LEN ? len : BATCH_XERIAL_BLOCK_LEN;
        size_t packed = block_bound - 4u;
        if (snappy_compress((const char *)in, n, (char *)p + 4, &packed) != SNAPPY_OK) {
            return sti_err_set(err, STI_E_INTERNAL, "snappy: compression failed");
        }
        batch_store32(p, (uint32_t)packed);
        p += 4u + packed;
        in += n;
        len -= n;
    }
    *out_len = (size_t)(p - (out->data + head));
    return STI_OK;
}

static int lz4_deflate(int level, const uint8_t *in, size_t len, size_t head, struct batch_buf *out,
                       size_t *out_len, struct sti_err *err)
{
    LZ4F_preferences_t prefs;
    size_t bound, n;
    int rc;
    memset(&prefs, 0, sizeof prefs);
    prefs.frameInfo.blockSizeID = LZ4F_max64KB;
    prefs.frameInfo.blockMode = LZ4F_blockIndependent;
    prefs.compressionLevel = level;
    bound = LZ4F_compressFrameBound(len, &prefs);
    rc = batch_buf_reserve(out, head + bound, 0, err);
    if (rc != STI_OK) {
        return rc;
    }
    n = LZ4F_compressFrame(out->data + head, bound, in, len, &prefs);
    if (LZ4F_isError(n)) {
        return sti_err_set(err, STI_E_INTERNAL, "lz4: %s", LZ4F_getErrorName(n));
    }
    *out_len = n;
    return STI_OK;
}

static int zstd_deflate(struct batch_deflater *state, int level, const uint8_t *in, size_t len,
                        size_t head, struct batch_buf *out, size_t *out_len, struct sti_err *err)
{
    size_t bound = ZSTD_compressBound(len);
    size_t n;
    int rc;
    if (state->zstd == NULL) {
        state->zstd = ZSTD_createCCtx();
        if (state->zstd == NULL) {
            return sti_err_set(err, STI_E_NO_MEMORY, "zstd: no memory for the compressor");
        }
    }
    rc = batch_buf_reserve(out, head + bound, 0, err);
    if (rc != STI_OK) {
        return rc;
    }
    n = ZSTD_compressCCtx(state->zstd, out->data + head, bound, in, len, level);
    if (ZSTD_isError(n)) {
        return sti_err_set(err, STI_E_INTERNAL, "zstd: %s", ZSTD_getErrorName(n));
    }
    *out_len = n;
    return STI_OK;
}

int batch_deflate(struct batch_deflater **state, int codec, int level, const uint8_t *in,
                  size_t len, size_t head, struct batch_buf *out, size_t *out_len,
                  struct sti_err *err)
{
    *out_len = 0;
    if (*state == NULL) {
        *state = calloc(1, sizeof **state);
        if (*state == NULL) {
            return sti_err_set(err, STI_E_NO_MEMORY, "no memory for the compressor");
        }
    }
    switch (codec) {
    case STI_CODEC_GZIP:
        return gzip_deflate(*state, level, in, len, head, out, out_len, err);
    case STI_CODEC_SNAPPY:
        return snappy_deflate(in, len, head, out, out_len, err);
    case STI_CODEC_LZ4:
        return lz4_deflate(level, in, len, head, out, out_len, err);
    case STI_CODEC_ZSTD:
        return zstd_deflate(*state, level, in, len, head, out, out_len, err);
    default:
        return sti_err_set(err, STI_E_INTERNAL, "codec %d cannot compress", codec);
    }
}

void batch_deflater_free(struct batch_deflater *state)
{
    if (state != NULL) {
        if (state->gzip_ready) {
            (void)deflateEnd(&state->gzip);
        }
        ZSTD_freeCCtx(state->zstd);
        free(state);
    }
}
