/* inflate.c -- decompressing the records of a batch that anyone may have sent.
 *
 *   gzip    one or more members
 *   snappy  xerial framing, or one raw block
 *   lz4     one or more frames
 *   zstd    one or more frames
 *
 * Nothing that the input claims about its size is believed. Output memory starts small against the
 * input and doubles as output really comes, up to the caller's limit; where a format states its
 * size up front the statement is used only as far as the format could compress. lz4 and zstd state
 * a window too: lz4's is 4 MiB at the most by its format, zstd decodes in one shot into the output
 * itself and needs none. Trailing bytes that are no further frame are corruption.
 */
#include <stdlib.h>

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "batch.h"

#define INFLATE_CAPACITY_MIN ((size_t)16384)
#define GZIP_WINDOW_BITS     (15 + 16)

/* The longest copy of snappy is 64 bytes of output for 2 or 3 of input. */
#define SNAPPY_RATIO_MAX 64u

struct sti_batch_inflater {
    z_stream gzip;
    bool gzip_ready;
    LZ4F_dctx *lz4;
    ZSTD_DCtx *zstd;
};

/* One decompression under way. */
struct inflation {
    struct sti_batch_inflater *state;
    const uint8_t *in;
    size_t len;
    size_t max;
    struct batch_buf *out;
    size_t out_len;
    struct sti_err *err;
};

static int too_large(const struct inflation *inf)
{
    return sti_err_set(inf->err, STI_E_MESSAGE_TOO_LARGE,
                       "the records decompress to more than the limit of %zu bytes", inf->max);
}

/* Make room for output beyond out_len: at least one byte, as a rule as much again.
 * @return STI_OK, STI_E_MESSAGE_TOO_LARGE, STI_E_NO_MEMORY */
static int output_grow(struct inflation *inf)
{
    size_t capacity = inf->out->capacity;
    if (inf->out_len >= inf->max) {
        return too_large(inf);
    }
    if (inf->out_len < capacity) {
        return STI_OK;
    }
    capacity = capacity > SIZE_MAX / 2 ? SIZE_MAX : capacity * 2;
    if (capacity < INFLATE_CAPACITY_MIN) {
        capacity = INFLATE_CAPACITY_MIN;
    }
    return batch_buf_reserve(inf->out, capacity < inf->max ? capacity : inf->max, inf->out_len,
                             inf->err);
}

/* Bytes that may be written at out_len: within the buffer and within the limit. */
static size_t output_room(const struct inflation *inf)
{
    size_t end = inf->out->capacity < inf->max ? inf->out->capacity : inf->max;
    return end - inf->out_len;
}

static int gzip_corrupt(const struct inflation *inf, const char *what)
{
    return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "gzip: %s", what);
}

/* Make the decompressor, or begin the next member with it. */
static int gzip_begin(struct inflation *inf)
{
    z_stream *z = &inf->state->gzip;
    int rc = inf->state->gzip_ready ? inflateReset(z) : inflateInit2(z, GZIP_WINDOW_BITS);
    if (rc != Z_OK) {
        return sti_err_set(inf->err, rc == Z_MEM_ERROR ? STI_E_NO_MEMORY : STI_E_INTERNAL,
                           "gzip: initialisation failed with %d", rc);
    }
    inf->state->gzip_ready = true;
    return STI_OK;
}

/* A full output is only too large if something more comes out: ask for one byte beside the buffer.
 */
static int gzip_step(struct inflation *inf, z_stream *z)
{
    uint8_t beyond;
    size_t room = output_room(inf);
    uInt offered;
    int rc;
    if (room == 0) {
        if (inf->out_len < inf->max) {
            rc = output_grow(inf);
            if (rc != STI_OK) {
                return rc;
            }
            room = output_room(inf);
        }
    }
    offered = room == 0 ? 1u : (uInt)(room < (1u << 30) ? room : (1u << 30));
    z->next_out = room == 0 ? &beyond : inf->out->data + inf->out_len;
    z->avail_out = offered;
    rc = inflate(z, Z_NO_FLUSH);
    if (room == 0 && z->avail_out == 0) {
        return too_large(inf);
    }
    inf->out_len += room == 0 ? 0u : offered - z->avail_out;
    if (rc == Z_STREAM_END) {
        return STI_E_END;
    }
    if (rc == Z_MEM_ERROR) {
        return sti_err_set(inf->err, STI_E_NO_MEMORY, "gzip: no memory");
    }
    if (rc != Z_OK) {
        return gzip_corrupt(inf, rc == Z_BUF_ERROR ? "the data are cut"
                                 : z->msg != NULL  ? z->msg
                                                   : "malformed data");
    }
    return STI_OK;
}

static int gzip_inflate(struct inflation *inf)
{
    z_stream *z = &inf->state->gzip;
    const uint8_t *end = inf->in + inf->len;
    const uint8_t *pos = inf->in;
    if (inf->len == 0) {
        return gzip_corrupt(inf, "no data");
    }
    while (pos < end) {
        int rc = gzip_begin(inf);
        if (rc != STI_OK) {
            return rc;
        }
        z->next_in = (Bytef *)(uintptr_t)pos;
        z->avail_in = (uInt)(end - pos); /* a batch is shorter than 2^31 */
        do {
            rc = gzip_step(inf, z);
        } while (rc == STI_OK);
        if (rc != STI_E_END) {
            return rc;
        }
        pos = end - z->avail_in;
    }
    return STI_OK;
}

/* Append the output of one raw snappy block. */
static int snappy_block(struct inflation *inf, const uint8_t *in, size_t len)
{
    size_t n;
    int rc;
    if (snappy_uncompressed_length((const char *)in, len, &n) != SNAPPY_OK) {
        return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "snappy: malformed length");
    }
    if (n > inf->max - inf->out_len) {
        return too_large(inf);
    }
    if (n / SNAPPY_RATIO_MAX > len) {
        return sti_err_set(inf->err, STI_E_CORRUPT_BATCH,
                           "snappy: a block of %zu bytes cannot hold %zu", len, n);
    }
    rc = batch_buf_reserve(inf->out, inf->out_len + n + (inf->out_len + n == 0), inf->out_len,
                           inf->err);
    if (rc != STI_OK) {
        return rc;
    }
    if (snappy_uncompress((const char *)in, len, (char *)inf->out->data + inf->out_len, &n) !=
        SNAPPY_OK) {
        return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "snappy: malformed block");
    }
    inf->out_len += n;
    return STI_OK;
}

static int snappy_inflate(struct inflation *inf)
{
    const uint8_t *pos = inf->in;
    const uint8_t *end = inf->in + inf->len;
    if (inf->len < BATCH_XERIAL_HEAD_LEN ||
        memcmp(pos, BATCH_XERIAL_MAGIC, BATCH_XERIAL_MAGIC_LEN) != 0) {
        return snappy_block(inf, pos, inf->len);
    }
    pos += BATCH_XERIAL_HEAD_LEN; /* the versions bind writers; every reader ignores them */
    while (pos < end) {
        uint32_t len;
        int rc;
        if (end - pos < 4) {
            return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "snappy: %lld bytes left over",
                               (long long)(end - pos));
        }
        len = batch_load32(pos);
        pos += 4;
        if (len > (uint64_t)(end - pos)) {
            return sti_err_set(inf->err, STI_E_CORRUPT_BATCH,
                               "snappy: a block of %u bytes, but %lld are left", len,
                               (long long)(end - pos));
        }
        rc = snappy_block(inf, pos, len);
        if (rc != STI_OK) {
            return rc;
        }
        pos += len;
    }
    return STI_OK;
}

static int lz4_begin(struct inflation *inf)
{
    if (inf->state->lz4 == NULL) {
        if (LZ4F_isError(LZ4F_createDecompressionContext(&inf->state->lz4, LZ4F_VERSION))) {
            inf->state->lz4 = NULL;
            return sti_err_set(inf->err, STI_E_NO_MEMORY, "lz4: no memory for the decompressor");
        }
    } else {
        LZ4F_resetDecompressionContext(inf->state->lz4);
    }
    return inf->len == 0 ? sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "lz4: no data") : STI_OK;
}

static int lz4_inflate(struct inflation *inf)
{
    const uint8_t *pos = inf->in;
    const uint8_t *end = inf->in + inf->len;
    size_t hint = 1;
    int rc = lz4_begin(inf);
    /* `hint` is 0 exactly at the end of a frame. */
    while (rc == STI_OK && (pos < end || hint != 0)) {
        uint8_t beyond;
        size_t consumed = (size_t)(end - pos);
        size_t room, produced;
        if (inf->out_len < inf->max) {
            rc = output_grow(inf);
            if (rc != STI_OK) {
                return rc;
            }
        }
        room = output_room(inf);
        produced = room == 0 ? 1u : room;
        hint = LZ4F_decompress(inf->state->lz4, room == 0 ? &beyond : inf->out->data + inf->out_len,
                               &produced, pos, &consumed, NULL);
        if (LZ4F_isError(hint)) {
            return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "lz4: %s", LZ4F_getErrorName(hint));
        }
        if (room == 0 && produced > 0) {
            return too_large(inf);
        }
        if (consumed == 0 && produced == 0) {
            return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "lz4: the data are cut");
        }
        pos += consumed;
        inf->out_len += produced;
    }
    return rc;
}

/* How much to offer zstd at first: what the frame states, unless that is far more than is likely.
 */
static size_t zstd_guess(const struct inflation *inf)
{
    unsigned long long stated = ZSTD_getFrameContentSize(inf->in, inf->len);
    size_t guess = inf->len * 8u > INFLATE_CAPACITY_MIN ? inf->len * 8u : INFLATE_CAPACITY_MIN;
    if (stated != ZSTD_CONTENTSIZE_UNKNOWN && stated != ZSTD_CONTENTSIZE_ERROR &&
        stated < guess * 8u) {
        guess = stated == 0 ? 1u : (size_t)stated;
    }
    return guess < inf->max ? guess : inf->max;
}

static int zstd_inflate(struct inflation *inf)
{
    size_t capacity = zstd_guess(inf);
    if (inf->len == 0) {
        return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "zstd: no data");
    }
    if (inf->state->zstd == NULL) {
        inf->state->zstd = ZSTD_createDCtx();
        if (inf->state->zstd == NULL) {
            return sti_err_set(inf->err, STI_E_NO_MEMORY, "zstd: no memory for the decompressor");
        }
    }
    for (;;) {
        size_t room, n;
        int rc = batch_buf_reserve(inf->out, capacity, 0, inf->err);
        if (rc != STI_OK) {
            return rc;
        }
        room = inf->out->capacity < inf->max ? inf->out->capacity : inf->max;
        n = ZSTD_decompressDCtx(inf->state->zstd, inf->out->data, room, inf->in, inf->len);
        if (!ZSTD_isError(n)) {
            inf->out_len = n;
            return STI_OK;
        }
        if (ZSTD_getErrorCode(n) != ZSTD_error_dstSize_tooSmall) {
            return sti_err_set(inf->err, STI_E_CORRUPT_BATCH, "zstd: %s", ZSTD_getErrorName(n));
        }
        if (room >= inf->max) {
            return too_large(inf);
        }
        capacity = room > inf->max / 4u ? inf->max : room * 4u;
    }
}

int batch_inflate(struct sti_batch_inflater **state, uint32_t codec, const uint8_t *in, size_t len,
                  size_t max, struct batch_buf *out, size_t *out_len, struct sti_err *err)
{
    struct inflation inf = {NULL, in, len, max, out, 0, err};
    int rc;
    *out_len = 0;
    if (*state == NULL) {
        *state = calloc(1, sizeof **state);
        if (*state == NULL) {
            return sti_err_set(err, STI_E_NO_MEMORY, "no memory for the decompressor");
        }
    }
    inf.state = *state;
    switch (codec) {
    case STI_CODEC_GZIP:
        rc = gzip_inflate(&inf);
        break;
    case STI_CODEC_SNAPPY:
        rc = snappy_inflate(&inf);
        break;
    case STI_CODEC_LZ4:
        rc = lz4_inflate(&inf);
        break;
    case STI_CODEC_ZSTD:
        rc = zstd_inflate(&inf);
        break;
    default:
        return sti_err_set(err, STI_E_UNSUPPORTED, "codec %u, expected 0 to %d", codec,
                           STI_CODEC_ZSTD);
    }
    *out_len = rc == STI_OK ? inf.out_len : 0;
    return rc;
}

void batch_inflater_free(struct sti_batch_inflater *state)
{
    if (state != NULL) {
        if (state->gzip_ready) {
            (void)inflateEnd(&state->gzip);
        }
        if (state->lz4 != NULL) {
            (void)LZ4F_freeDecompressionContext(state->lz4);
        }
        ZSTD_freeDCtx(state->zstd);
        free(state);
    }
}
