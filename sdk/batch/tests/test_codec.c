/* test_codec.c -- the codecs: round trips, the dialects that other clients write, bounds, damage.
 */
#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "batch_test.h"

#define PLAIN_COUNT 40u
#define PLAIN_SEED  99u

/* Records of a batch as they are without a codec; the caller frees them. */
static uint8_t *plain_records(size_t *len)
{
    struct sti_batch_builder *builder = test_builder(STI_CODEC_NONE, 0, PLAIN_SEED, PLAIN_COUNT);
    const uint8_t *data;
    uint8_t *copy;
    assert_int_equal(sti_batch_builder_finish(builder, &data, len, NULL), STI_OK);
    *len -= STI_BATCH_HEADER_LEN;
    copy = malloc(*len);
    memcpy(copy, data + STI_BATCH_HEADER_LEN, *len);
    sti_batch_builder_free(builder);
    return copy;
}

/* The batch of `packed` bytes reads as the plain records. */
static void packed_reads_as_plain(int codec, const uint8_t *packed, size_t packed_len)
{
    size_t len;
    uint8_t *batch = test_batch(codec, PLAIN_COUNT, packed, packed_len, &len);
    struct sti_batch_iter iter;
    struct sti_record record;
    struct sti_err err;
    uint32_t i;
    /* The builder's base timestamp is that of its first record. */
    uint64_t seed = PLAIN_SEED;
    struct test_record first;
    test_record_make(&seed, &first);
    for (i = 0; i < 8; i++) {
        batch[27 + i] = (uint8_t)((uint64_t)first.timestamp >> (56 - 8 * i));
    }
    test_seal(batch, len);
    memset(&iter, 0, sizeof iter);
    test_batch_compare(&iter, batch, len, PLAIN_SEED, PLAIN_COUNT);
    assert_int_equal(sti_batch_iter_next(&iter, &record, &err), STI_E_END);
    sti_batch_iter_fini(&iter);
    free(batch);
}

/* What reading the batch of `packed` bytes ends with, under a limit; no buffer grows beyond it. */
static int packed_outcome(int codec, const uint8_t *packed, size_t packed_len, size_t max)
{
    size_t len;
    uint8_t *batch = test_batch(codec, PLAIN_COUNT, packed, packed_len, &len);
    struct sti_batch_iter iter;
    struct sti_err err;
    int rc;
    sti_err_clear(&err);
    memset(&iter, 0, sizeof iter);
    rc = test_read_all(&iter, batch, len, max, NULL, &err);
    assert_int_equal(err.code, rc == STI_E_END ? STI_OK : rc);
    assert_true(iter.inflated_capacity <= max || iter.inflated_capacity == 1);
    sti_batch_iter_fini(&iter);
    free(batch);
    return rc;
}

static void names(void **state)
{
    static const char *const all[] = {"none", "gzip", "snappy", "lz4", "zstd"};
    int i;
    (void)state;
    for (i = 0; i < 5; i++) {
        assert_string_equal(sti_codec_name(i), all[i]);
        assert_int_equal(sti_codec_from_name(all[i]), i);
    }
    assert_null(sti_codec_name(-1));
    assert_null(sti_codec_name(5));
    assert_int_equal(sti_codec_from_name("LZ4"), -1);
    assert_int_equal(sti_codec_from_name(""), -1);
    assert_int_equal(sti_codec_from_name("gzip "), -1);
}

/* Every codec, small batches and large ones, one iterator for all of them. */
static void round_trips(void **state)
{
    static const uint32_t counts[] = {1, 2, 17, 600};
    struct sti_batch_iter iter;
    int codec;
    (void)state;
    memset(&iter, 0, sizeof iter);
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        size_t i;
        for (i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            struct sti_batch_builder *builder = test_builder(codec, 0, 40 + i, counts[i]);
            const uint8_t *data;
            size_t len;
            assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
            assert_int_equal(data[22] & STI_BATCH_CODEC_MASK, codec);
            assert_int_equal(test_check(data, len, 7, NULL), STI_OK);
            test_batch_compare(&iter, data, len, 40 + i, counts[i]);
            sti_batch_builder_free(builder);
        }
    }
    sti_batch_iter_fini(&iter);
}

/* A level outside of what a codec knows is brought inside. */
static void levels(void **state)
{
    static const int all[] = {-1000, -1, 1, 3, 9, 1000};
    struct sti_batch_iter iter;
    int codec;
    (void)state;
    memset(&iter, 0, sizeof iter);
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        size_t i;
        for (i = 0; i < sizeof all / sizeof all[0]; i++) {
            struct sti_batch_builder *builder = test_builder(codec, all[i], 2, 5);
            const uint8_t *data;
            size_t len;
            assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
            test_batch_compare(&iter, data, len, 2, 5);
            sti_batch_builder_free(builder);
        }
    }
    sti_batch_iter_fini(&iter);
}

/* What is built is what every other client reads: the first bytes of each format say so. */
static void our_dialects(void **state)
{
    static const struct {
        int codec;
        size_t len;
        const char *bytes;
    } rows[] = {
        {STI_CODEC_GZIP, 3, "\x1f\x8b\x08"},
        {STI_CODEC_SNAPPY, 16, "\x82SNAPPY\0\0\0\0\1\0\0\0\1"},
        /* Version 1, independent blocks of 64 KiB, no checksums, no size. */
        {STI_CODEC_LZ4, 6, "\x04\x22\x4d\x18\x60\x40"},
        {STI_CODEC_ZSTD, 4, "\x28\xb5\x2f\xfd"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sti_batch_builder *builder = test_builder(rows[i].codec, 0, 7, 600);
        const uint8_t *data;
        size_t len;
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        assert_memory_equal(data + STI_BATCH_HEADER_LEN, rows[i].bytes, rows[i].len);
        sti_batch_builder_free(builder);
    }
}

/* ---- the dialects of others */

static void snappy_raw(void **state)
{
    size_t len, packed_len;
    uint8_t *records = plain_records(&len), *packed;
    (void)state;
    packed_len = snappy_max_compressed_length(len);
    packed = malloc(packed_len);
    assert_int_equal(snappy_compress((char *)records, len, (char *)packed, &packed_len), SNAPPY_OK);
    packed_reads_as_plain(STI_CODEC_SNAPPY, packed, packed_len);
    free(packed);
    free(records);
}

/* Xerial framing in blocks of `block` bytes, with other versions than ours writes. */
static uint8_t *xerial(const uint8_t *in, size_t len, size_t block, size_t *out_len)
{
    size_t blocks = (len + block - 1) / block;
    uint8_t *out = malloc(16 + blocks * (4 + snappy_max_compressed_length(block)));
    uint8_t *p = out + 16;
    memcpy(out, "\x82SNAPPY\0\0\0\0\x09\0\0\0\x07", 16);
    while (len > 0) {
        size_t n = len < block ? len : block, packed = snappy_max_compressed_length(block);
        assert_int_equal(snappy_compress((const char *)in, n, (char *)p + 4, &packed), SNAPPY_OK);
        test_store32(p, (uint32_t)packed);
        p += 4 + packed;
        in += n;
        len -= n;
    }
    *out_len = (size_t)(p - out);
    return out;
}

static void snappy_xerial(void **state)
{
    static const size_t blocks[] = {1, 100, 1000, 32768, 1u << 20};
    size_t len, i;
    uint8_t *records = plain_records(&len);
    (void)state;
    for (i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        size_t packed_len;
        uint8_t *packed = xerial(records, len, blocks[i], &packed_len);
        packed_reads_as_plain(STI_CODEC_SNAPPY, packed, packed_len);
        /* A block that claims more than is there, and bytes too few for a length. */
        test_store32(packed + 16, UINT32_MAX);
        assert_int_equal(packed_outcome(STI_CODEC_SNAPPY, packed, packed_len, 1u << 20),
                         STI_E_CORRUPT_BATCH);
        assert_int_equal(packed_outcome(STI_CODEC_SNAPPY, packed, 19, 1u << 20),
                         STI_E_CORRUPT_BATCH);
        free(packed);
    }
    free(records);
}

static void lz4_frames(void **state)
{
    size_t len, half;
    uint8_t *records = plain_records(&len);
    unsigned variant;
    (void)state;
    half = len / 2;
    /* Linked and independent blocks, with and without checksums and content size. */
    for (variant = 0; variant < 16; variant++) {
        LZ4F_preferences_t prefs;
        size_t bound, n, m;
        uint8_t *packed;
        memset(&prefs, 0, sizeof prefs);
        prefs.frameInfo.blockMode = (variant & 1u) != 0 ? LZ4F_blockIndependent : LZ4F_blockLinked;
        prefs.frameInfo.contentChecksumFlag =
            (variant & 2u) != 0 ? LZ4F_contentChecksumEnabled : LZ4F_noContentChecksum;
        prefs.frameInfo.blockChecksumFlag =
            (variant & 4u) != 0 ? LZ4F_blockChecksumEnabled : LZ4F_noBlockChecksum;
        prefs.frameInfo.contentSize = (variant & 8u) != 0 ? half : 0;
        bound = LZ4F_compressFrameBound(len, &prefs) * 2;
        packed = malloc(bound);
        n = LZ4F_compressFrame(packed, bound, records, half, &prefs);
        prefs.frameInfo.contentSize = (variant & 8u) != 0 ? len - half : 0;
        m = LZ4F_compressFrame(packed + n, bound - n, records + half, len - half, &prefs);
        assert_false(LZ4F_isError(n) || LZ4F_isError(m));
        packed_reads_as_plain(STI_CODEC_LZ4, packed, n + m);
        /* Half of a frame's magic behind them is no frame. */
        packed[n + m] = packed[0];
        assert_int_equal(packed_outcome(STI_CODEC_LZ4, packed, n + m + 1, 1u << 20),
                         STI_E_CORRUPT_BATCH);
        free(packed);
    }
    free(records);
}

static size_t gzip_member(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z;
    memset(&z, 0, sizeof z);
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    (void)deflateEnd(&z);
    return z.total_out;
}

static void gzip_members(void **state)
{
    size_t len, half, n;
    uint8_t *records = plain_records(&len);
    uint8_t *packed = malloc(len * 2 + 200);
    (void)state;
    half = len / 2;
    n = gzip_member(records, half, packed, len + 100);
    n += gzip_member(records + half, len - half, packed + n, len + 100);
    packed_reads_as_plain(STI_CODEC_GZIP, packed, n);
    packed[n] = 0x1f;
    assert_int_equal(packed_outcome(STI_CODEC_GZIP, packed, n + 1, 1u << 20), STI_E_CORRUPT_BATCH);
    free(packed);
    free(records);
}

/* Two frames, of which the second does not state its size, as Java's stream writes them. */
static void zstd_frames(void **state)
{
    size_t len, half, n, bound;
    uint8_t *records = plain_records(&len), *packed;
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_inBuffer in;
    ZSTD_outBuffer out;
    (void)state;
    half = len / 2;
    bound = ZSTD_compressBound(len) * 2;
    packed = malloc(bound);
    n = ZSTD_compressCCtx(zstd, packed, bound, records, half, 3);
    assert_false(ZSTD_isError(n));
    in = (ZSTD_inBuffer){records + half, len - half, 0};
    out = (ZSTD_outBuffer){packed, bound, n};
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    assert_int_equal(ZSTD_compressStream2(zstd, &out, &in, ZSTD_e_end), 0);
    packed_reads_as_plain(STI_CODEC_ZSTD, packed, out.pos);
    packed[out.pos] = packed[0];
    assert_int_equal(packed_outcome(STI_CODEC_ZSTD, packed, out.pos + 1, 1u << 20),
                     STI_E_CORRUPT_BATCH);
    ZSTD_freeCCtx(zstd);
    free(packed);
    free(records);
}

/* ---- bounds */

/* A value of `size` equal bytes under a codec. */
static uint8_t *bomb(int codec, size_t size, size_t *len)
{
    struct sti_batch_builder *builder;
    uint8_t *zeros = calloc(1, size), *copy;
    const uint8_t *data;
    assert_non_null(zeros);
    assert_int_equal(sti_batch_builder_new(&builder, codec, 1, NULL), STI_OK);
    assert_int_equal(sti_batch_builder_append(builder, 0, NULL, 0, zeros, size, NULL, 0, NULL),
                     STI_OK);
    assert_int_equal(sti_batch_builder_finish(builder, &data, len, NULL), STI_OK);
    copy = malloc(*len);
    memcpy(copy, data, *len);
    sti_batch_builder_free(builder);
    free(zeros);
    return copy;
}

static void bombs_stay_below_the_limit(void **state)
{
    const size_t size = (size_t)8 << 20, max = (size_t)1 << 20;
    int codec;
    (void)state;
    for (codec = STI_CODEC_GZIP; codec <= STI_CODEC_ZSTD; codec++) {
        size_t len;
        uint8_t *batch = bomb(codec, size, &len);
        struct sti_batch_iter iter;
        struct sti_err err;
        assert_in_range(len, 61, size / 10);
        memset(&iter, 0, sizeof iter);
        assert_int_equal(sti_batch_iter_init(&iter, batch, len, max, &err),
                         STI_E_MESSAGE_TOO_LARGE);
        assert_non_null(strstr(err.msg, "limit of 1048576 bytes"));
        assert_true(iter.inflated_capacity <= max);
        assert_int_equal(sti_batch_iter_init(&iter, batch, len, 0, &err), STI_E_MESSAGE_TOO_LARGE);
        /* The same iterator under a sufficient limit. */
        assert_int_equal(test_read_all(&iter, batch, len, size + 100, NULL, &err), STI_E_END);
        sti_batch_iter_fini(&iter);
        free(batch);
    }
}

/* The limit itself is allowed, one byte less is not. */
static void the_limit_is_exact(void **state)
{
    int codec;
    (void)state;
    for (codec = STI_CODEC_GZIP; codec <= STI_CODEC_ZSTD; codec++) {
        static const size_t sizes[] = {1, 100, 16384, 70000};
        size_t i;
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            size_t len, plain_len;
            uint8_t *batch = bomb(codec, sizes[i], &len);
            uint8_t *plain = bomb(STI_CODEC_NONE, sizes[i], &plain_len);
            struct sti_batch_iter iter;
            plain_len -= STI_BATCH_HEADER_LEN;
            memset(&iter, 0, sizeof iter);
            assert_int_equal(test_read_all(&iter, batch, len, plain_len, NULL, NULL), STI_E_END);
            assert_int_equal(test_read_all(&iter, batch, len, plain_len - 1, NULL, NULL),
                             STI_E_MESSAGE_TOO_LARGE);
            sti_batch_iter_fini(&iter);
            free(plain);
            free(batch);
        }
    }
}

/* What a format claims about its size is not believed: little memory is taken for little data. */
static void lying_sizes(void **state)
{
    static const struct {
        int codec;
        const char *bytes;
        size_t len;
        int rc;
    } rows[] = {
        /* snappy: 2 GiB - 1 and more in a few bytes, a length that does not end, nothing */
        {STI_CODEC_SNAPPY, "\xff\xff\xff\xff\x07\x00", 6, STI_E_MESSAGE_TOO_LARGE},
        {STI_CODEC_SNAPPY, "\xff\xff\xff\xff\x0f\x00", 6, STI_E_MESSAGE_TOO_LARGE},
        {STI_CODEC_SNAPPY, "\x80\x80\x80\x02\x00\x41", 6, STI_E_CORRUPT_BATCH},
        {STI_CODEC_SNAPPY, "\xff\xff\xff\xff\xff\xff", 6, STI_E_CORRUPT_BATCH},
        {STI_CODEC_SNAPPY, "", 0, STI_E_CORRUPT_BATCH},
        /* zstd: a single segment of 4 MiB, of 2^62 bytes; an empty last block */
        {STI_CODEC_ZSTD, "\x28\xb5\x2f\xfd\xa0\x00\x00\x40\x00\x01\x00\x00", 12,
         STI_E_CORRUPT_BATCH},
        {STI_CODEC_ZSTD, "\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x40\x01\0\0", 16, STI_E_CORRUPT_BATCH},
        {STI_CODEC_ZSTD, "", 0, STI_E_CORRUPT_BATCH},
        {STI_CODEC_GZIP, "", 0, STI_E_CORRUPT_BATCH},
        {STI_CODEC_LZ4, "", 0, STI_E_CORRUPT_BATCH},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t len;
        uint8_t *batch = test_batch(rows[i].codec, 1, rows[i].bytes, rows[i].len, &len);
        struct sti_batch_iter iter;
        struct sti_err err;
        memset(&iter, 0, sizeof iter);
        assert_int_equal(test_read_all(&iter, batch, len, (size_t)64 << 20, NULL, &err),
                         rows[i].rc);
        assert_true(iter.inflated_capacity <= 65536);
        sti_batch_iter_fini(&iter);
        free(batch);
    }
}

/* A frame of lz4 that states more, or less, than it holds. */
static void lz4_states_another_size(void **state)
{
    size_t len, n, bound;
    uint8_t *records = plain_records(&len), *packed;
    LZ4F_preferences_t prefs;
    (void)state;
    memset(&prefs, 0, sizeof prefs);
    prefs.frameInfo.contentSize = len;
    bound = LZ4F_compressFrameBound(len, &prefs);
    packed = malloc(bound);
    n = LZ4F_compressFrame(packed, bound, records, len, &prefs);
    assert_false(LZ4F_isError(n));
    packed[6]++; /* the size stands in bytes 6 to 13, under the checksum of the header */
    assert_int_equal(packed_outcome(STI_CODEC_LZ4, packed, n, 1u << 20), STI_E_CORRUPT_BATCH);
    free(packed);
    free(records);
}

/* ---- damage */

static void cut_anywhere_is_corrupt(void **state)
{
    size_t len;
    int codec;
    (void)state;
    for (codec = STI_CODEC_NONE; codec <= STI_CODEC_ZSTD; codec++) {
        struct sti_batch_builder *builder = test_builder(codec, 0, 3, 12);
        struct sti_batch_iter iter;
        const uint8_t *data;
        size_t cut;
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        memset(&iter, 0, sizeof iter);
        for (cut = STI_BATCH_HEADER_LEN; cut < len; cut++) {
            uint8_t *batch = malloc(cut);
            struct sti_err err;
            memcpy(batch, data, cut);
            test_seal(batch, cut);
            sti_err_clear(&err);
            assert_int_equal(test_read_all(&iter, batch, cut, 1u << 20, NULL, &err),
                             STI_E_CORRUPT_BATCH);
            assert_string_not_equal(err.msg, "");
            free(batch);
        }
        test_batch_compare(&iter, data, len, 3, 12);
        sti_batch_iter_fini(&iter);
        sti_batch_builder_free(builder);
    }
}

/* Some flips decompress to other bytes, or change nothing: any outcome but a crash will do, and it
 * stays below the limit. */
static void flips_never_crash(void **state)
{
    const size_t max = (size_t)1 << 20;
    uint64_t seed = 17;
    int codec;
    (void)state;
    for (codec = STI_CODEC_GZIP; codec <= STI_CODEC_ZSTD; codec++) {
        struct sti_batch_builder *builder = test_builder(codec, 0, 3, 12);
        struct sti_batch_iter iter;
        const uint8_t *data;
        size_t len;
        int round;
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        memset(&iter, 0, sizeof iter);
        for (round = 0; round < 3000; round++) {
            uint8_t *batch = malloc(len);
            int flips = 1 + (int)(test_random(&seed) % 3), rc;
            memcpy(batch, data, len);
            while (flips-- > 0) {
                /* Every other round close to the front, where the formats have their headers. */
                size_t range = round % 2 == 0 ? len - 61 : 24;
                batch[61 + test_random(&seed) % range] ^= (uint8_t)(1u << (test_random(&seed) % 8));
            }
            rc = test_read_all(&iter, batch, len, max, NULL, NULL);
            assert_true(rc == STI_E_END || rc == STI_E_CORRUPT_BATCH ||
                        rc == STI_E_MESSAGE_TOO_LARGE);
            assert_true(iter.inflated_capacity <= max);
            free(batch);
        }
        test_batch_compare(&iter, data, len, 3, 12);
        sti_batch_iter_fini(&iter);
        sti_batch_builder_free(builder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(levels),
        cmocka_unit_test(our_dialects),
        cmocka_unit_test(snappy_raw),
        cmocka_unit_test(snappy_xerial),
        cmocka_unit_test(lz4_frames),
        cmocka_unit_test(gzip_members),
        cmocka_unit_test(zstd_frames),
        cmocka_unit_test(bombs_stay_below_the_limit),
        cmocka_unit_test(the_limit_is_exact),
        cmocka_unit_test(lying_sizes),
        cmocka_unit_test(lz4_states_another_size),
        cmocka_unit_test(cut_anywhere_is_corrupt),
        cmocka_unit_test(flips_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
