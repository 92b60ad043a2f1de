/* Records in and out: what is encoded from a request is what a fetch decodes, for every codec and
 * every way in which memory is scattered; damage is told, and what lies before it handed out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <grpc/grpc.h>
#include <string.h>

#include "batches.h"
#include "records.h"
#include "streamit/v1/streamit.pb-c.h"

enum { RECORDS = 40, BYTES_MAX = 65536 };

static uint8_t value_bytes[500];

static void header_set(Streamit__V1__Header *header, const char *key, const char *value)
{
    streamit__v1__header__init(header);
    header->key = (char *)(uintptr_t)key;
    if (value != NULL) {
        header->known_value_case = STREAMIT__V1__HEADER__KNOWN_VALUE_VALUE;
        header->value = (ProtobufCBinaryData){strlen(value), (uint8_t *)(uintptr_t)value};
    }
}

/* Record i: key when odd, no value each fifth, i % 3 headers. */
static size_t request(uint8_t *out, int codec)
{
    static Streamit__V1__Record records[RECORDS];
    static Streamit__V1__Record *pointers[RECORDS];
    static Streamit__V1__Header headers[2];
    static Streamit__V1__Header *header_pointers[2] = {&headers[0], &headers[1]};
    Streamit__V1__ProducePartition part = STREAMIT__V1__PRODUCE_PARTITION__INIT;
    Streamit__V1__ProducePartition *parts[] = {&part};
    Streamit__V1__ProduceRequest message = STREAMIT__V1__PRODUCE_REQUEST__INIT;
    header_set(&headers[0], "name", NULL);
    header_set(&headers[1], "", "v");
    for (size_t i = 0; i < RECORDS; i++) {
        streamit__v1__record__init(&records[i]);
        pointers[i] = &records[i];
        if (i % 2 == 1) {
            records[i].known_key_case = STREAMIT__V1__RECORD__KNOWN_KEY_KEY;
            records[i].key = (ProtobufCBinaryData){i / 2, value_bytes};
        }
        if (i % 5 != 0) {
            records[i].known_value_case = STREAMIT__V1__RECORD__KNOWN_VALUE_VALUE;
            records[i].value = (ProtobufCBinaryData){i * 12, value_bytes};
        }
        records[i].timestamp_ms = i % 4 == 0 ? 0 : (int64_t)i - 100;
        records[i].n_headers = i % 3;
        records[i].headers = header_pointers;
    }
    part.topic = (char *)(uintptr_t) "t";
    part.compression = (Streamit__V1__Compression)codec;
    part.n_records = RECORDS;
    part.records = pointers;
    message.n_partitions = 1;
    message.partitions = parts;
    return streamit__v1__produce_request__pack(&message, out);
}

static void check_record(const Streamit__V1__FetchedRecord *r, size_t i, int64_t base)
{
    assert_int_equal(r->offset, base + (int64_t)i);
    assert_int_equal(r->timestamp_ms, i % 4 == 0 ? 1234 : (int64_t)i - 100);
    assert_int_equal(r->known_key_case != 0, i % 2 == 1);
    assert_int_equal(r->known_value_case != 0, i % 5 != 0);
    assert_int_equal(r->key.len, i % 2 == 1 ? i / 2 : 0);
    if (i % 5 != 0) {
        assert_int_equal(r->value.len, i * 12);
        assert_memory_equal(r->value.data, value_bytes, i * 12);
    }
    assert_int_equal(r->n_headers, i % 3);
    for (size_t h = 0; h < r->n_headers; h++) {
        assert_string_equal(r->headers[h]->key, h == 0 ? "name" : "");
        assert_int_equal(r->headers[h]->known_value_case != 0, h == 1);
    }
}

static Streamit__V1__FetchResult *result_of(const struct tgr_decoding *d)
{
    Streamit__V1__FetchResult *result = streamit__v1__fetch_result__unpack(
        NULL, GRPC_SLICE_LENGTH(d->records), GRPC_SLICE_START_PTR(d->records));
    assert_non_null(result);
    return result;
}

/* The request's batch, encoded from spans of `piece` bytes. */
static size_t encode(int codec, size_t piece, int64_t base, uint8_t *out)
{
    static uint8_t bytes[BYTES_MAX];
    static struct sti_slice spans[BYTES_MAX];
    struct tgr_arena arena = {.blocks = NULL};
    struct tgr_batches batches;
    struct tgr_produce *produce;
    struct sti_err err;
    uint64_t copied;
    size_t count = 0, len = request(bytes, codec);
    for (size_t at = 0; at < len; at += piece) {
        spans[count++] = sti_slice_borrow(bytes + at, len - at < piece ? len - at : piece);
    }
    assert_int_equal(tgr_produce_decode(&arena, TGR_PRODUCE_UNARY, spans, count, 1, &produce, &err),
                     STI_OK);
    assert_int_equal(produce->rows[0].record_count, RECORDS);
    assert_int_equal(tgr_records_encode(&arena, produce, BYTES_MAX, 1234, &batches, &copied, &err),
                     STI_OK);
    assert_true(copied > 0);
    const struct sti_produce_row *row = &produce->rows[0].row;
    struct sti_batch_header header;
    assert_int_equal(row->slice_count, 1);
    assert_int_equal(sti_batch_check(row->slices, 1,
                                     STI_CHECK_CRC | STI_CHECK_PRODUCER | STI_CHECK_RECORDS,
                                     BYTES_MAX, &header, &err),
                     STI_OK);
    assert_int_equal(header.attributes & STI_BATCH_CODEC_MASK, codec);
    size_t batch_len = (size_t)row->slices[0].len;
    memcpy(out, row->slices[0].data, batch_len);
    sti_batch_patch(out, base, batch_len, 5);
    tgr_batches_free(&batches);
    tgr_arena_fini(&arena);
    return batch_len;
}

static void test_there_and_back(void **state)
{
    static uint8_t batch[BYTES_MAX];
    static const size_t pieces[] = {1, 7, 100, BYTES_MAX};
    struct sti_err err;
    (void)state;
    for (int codec = 0; codec <= STI_CODEC_ZSTD; codec++) {
        for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
            size_t len = encode(codec, pieces[p], 100, batch);
            struct sti_slice halves[2] = {sti_slice_borrow(batch, len / 2),
                                          sti_slice_borrow(batch + len / 2, len - len / 2)};
            struct tgr_decoding d = {
                .slices = halves, .slice_count = 2, .offset = 110, .bytes_max = BYTES_MAX};
            assert_int_equal(tgr_batches_compressed(halves, 2), codec != STI_CODEC_NONE);
            assert_int_equal(tgr_batches_decode(&d, &err), STI_OK);
            assert_int_equal(d.next_offset, 100 + RECORDS);
            assert_int_equal(d.last_epoch, 5);
            Streamit__V1__FetchResult *result = result_of(&d);
            assert_int_equal(result->n_records, RECORDS - 10);
            for (size_t i = 10; i < RECORDS; i++) {
                check_record(result->records[i - 10], i, 100);
            }
            streamit__v1__fetch_result__free_unpacked(result, NULL);
            grpc_slice_unref(d.records);
        }
    }
}

/* Every limit: what fits comes, and going on from there misses nothing. */
static void test_limits(void **state)
{
    static uint8_t batches[2 * BYTES_MAX];
    struct sti_err err;
    (void)state;
    size_t len = encode(STI_CODEC_LZ4, BYTES_MAX, 0, batches);
    struct sti_slice slice = sti_slice_borrow(batches, len - 1);
    assert_false(tgr_batches_compressed(&slice, 1)); /* cut: none that could be decoded */
    len += encode(STI_CODEC_NONE, BYTES_MAX, RECORDS, batches + len);
    slice = sti_slice_borrow(batches, len);
    assert_true(tgr_batches_compressed(&slice, 1));
    for (uint64_t max = 0; max < 4000; max += 37) {
        int64_t offset = 0;
        while (offset < 2 * RECORDS) {
            struct tgr_decoding d = {.slices = &slice,
                                     .slice_count = 1,
                                     .offset = offset,
                                     .bytes_max = max,
                                     .one_at_least = true};
            assert_int_equal(tgr_batches_decode(&d, &err), STI_OK);
            Streamit__V1__FetchResult *result = result_of(&d);
            assert_true(result->n_records == 1 || GRPC_SLICE_LENGTH(d.records) <= max);
            assert_int_equal(d.next_offset, offset + (int64_t)result->n_records);
            check_record(result->records[0], (size_t)(offset % RECORDS),
                         offset / RECORDS * RECORDS);
            offset = d.next_offset;
            streamit__v1__fetch_result__free_unpacked(result, NULL);
            grpc_slice_unref(d.records);
        }
        struct tgr_decoding none = {.slices = &slice, .slice_count = 1, .offset = 3};
        assert_int_equal(tgr_batches_decode(&none, &err), STI_OK);
        assert_int_equal(none.next_offset, 3);
        assert_int_equal(GRPC_SLICE_LENGTH(none.records), 0);
    }
}

/* Each byte of the second of three batches damaged: told, and never mistaken. */
static void test_damage(void **state)
{
    static uint8_t batches[3 * BYTES_MAX];
    struct sti_err err;
    (void)state;
    size_t first = encode(STI_CODEC_ZSTD, BYTES_MAX, 0, batches);
    size_t second = encode(STI_CODEC_ZSTD, BYTES_MAX, RECORDS, batches + first);
    size_t len =
        first + second + encode(STI_CODEC_NONE, BYTES_MAX, 2 * RECORDS, batches + first + second);
    for (size_t i = 0; i < second; i++) {
        uint8_t *byte = &batches[first + i];
        *byte ^= 0x41;
        for (int from = 0; from <= RECORDS; from += RECORDS) {
            size_t skip = from == 0 ? 0 : first;
            struct sti_slice slice = sti_slice_borrow(batches + skip, len - skip);
            struct tgr_decoding d = {.slices = &slice,
                                     .slice_count = 1,
                                     .offset = from,
                                     .bytes_max = BYTES_MAX * 4,
                                     .one_at_least = true};
            int rc = tgr_batches_decode(&d, &err);
            bool outside_crc = i < 16; /* offset, length, epoch: not covered by the checksum */
            if (from == 0) {
                assert_int_equal(rc, STI_OK);
                assert_true(outside_crc || d.next_offset == RECORDS);
            } else {
                assert_true(outside_crc || rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED);
                assert_true(outside_crc || rc == STI_E_UNSUPPORTED ||
                            d.next_offset == 2 * RECORDS || d.next_offset == RECORDS);
            }
            grpc_slice_unref(d.records);
        }
        *byte ^= 0x41;
    }
}

static void test_control(void **state)
{
    static uint8_t batches[2 * BYTES_MAX];
    struct sti_err err;
    (void)state;
    size_t first = encode(STI_CODEC_NONE, BYTES_MAX, 0, batches);
    size_t len = first + encode(STI_CODEC_NONE, BYTES_MAX, RECORDS, batches + first);
    batches[22] |= STI_BATCH_CONTROL;
    uint32_t crc = sti_crc32c(0, batches + 21, first - 21);
    for (int i = 0; i < 4; i++) {
        batches[17 + i] = (uint8_t)(crc >> (24 - 8 * i));
    }
    struct sti_slice slice = sti_slice_borrow(batches, len);
    struct tgr_decoding d = {
        .slices = &slice, .slice_count = 1, .offset = 0, .bytes_max = BYTES_MAX};
    assert_int_equal(tgr_batches_decode(&d, &err), STI_OK);
    Streamit__V1__FetchResult *result = result_of(&d);
    assert_int_equal(result->n_records, RECORDS);
    assert_int_equal(result->records[0]->offset, RECORDS);
    streamit__v1__fetch_result__free_unpacked(result, NULL);
    grpc_slice_unref(d.records);
    slice.len = first;
    assert_int_equal(tgr_batches_decode(&d, &err), STI_OK);
    assert_int_equal(GRPC_SLICE_LENGTH(d.records), 0);
    assert_int_equal(d.next_offset, RECORDS);
    int64_t next = -1;
    int32_t epoch = -1;
    slice.len = len;
    assert_int_equal(tgr_batches_end(&slice, 1, &next, &epoch), len);
    assert_int_equal(next, 2 * RECORDS);
    assert_int_equal(epoch, 5);
    slice.len = len - 1;
    assert_int_equal(tgr_batches_end(&slice, 1, &next, &epoch), first);
    assert_int_equal(next, RECORDS);
    slice.len = len;
    sti_batch_patch(batches + first, RECORDS - 1, len - first, 6); /* it follows nothing */
    assert_int_equal(tgr_batches_end(&slice, 1, &next, &epoch), first);
    assert_int_equal(next, RECORDS);
    assert_int_equal(epoch, 5);
    batches[16] ^= 1; /* the magic of the first */
    next = -1;
    assert_int_equal(tgr_batches_end(&slice, 1, &next, &epoch), 0);
    assert_int_equal(next, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_damage),
                                       cmocka_unit_test(test_control)};
    grpc_init();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    grpc_shutdown();
    return rc;
}
