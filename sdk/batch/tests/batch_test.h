/* batch_test.h -- what the tests of libstreamit-batch share: a golden batch, a small deterministic
 * random source, and builders of batches that are wrong in one place only. */
#ifndef STREAMIT_BATCH_TEST_H
#define STREAMIT_BATCH_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "streamit/record_batch.h"

/* A batch of one record (key k1, value hello, header h1=v1) as kcat sent it to a broker. */
#define GOLDEN_LEN 81u
static const uint8_t golden[GOLDEN_LEN] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00,
    0x00, 0x00, 0x02, 0xd7, 0x02, 0x40, 0x25, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0xa2, 0x05, 0x49, 0xb2, 0x34, 0x00, 0x00, 0x01, 0xa2, 0x05, 0x49, 0xb2,
    0x34, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0x00, 0x00, 0x00, 0x01, 0x26, 0x00, 0x00, 0x00, 0x04, 0x6b, 0x31, 0x0a, 0x68,
    0x65, 0x6c, 0x6c, 0x6f, 0x02, 0x04, 0x68, 0x31, 0x04, 0x76, 0x31};
#define GOLDEN_TIMESTAMP INT64_C(0x1a20549b234)
#define GOLDEN_CRC       0xd7024025u

/* xorshift64*: the same numbers in every run. */
static inline uint64_t test_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static inline void test_store32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* Make length and checksum of the `len` bytes at `batch` right again. */
static inline void test_seal(uint8_t *batch, size_t len)
{
    test_store32(batch + 8, (uint32_t)(len - 12));
    test_store32(batch + 17, sti_crc32c(0, batch + 21, len - 21));
}

/* A sealed batch: the golden header with `count` records of encoded `records` under `codec`, on
 * the heap so that a read past its end is caught. */
static inline uint8_t *test_batch(int codec, int32_t count, const void *records, size_t records_len,
                                  size_t *len)
{
    uint8_t *batch;
    *len = STI_BATCH_HEADER_LEN + records_len;
    batch = malloc(*len);
    assert_non_null(batch);
    memcpy(batch, golden, STI_BATCH_HEADER_LEN);
    if (records_len > 0) {
        memcpy(batch + STI_BATCH_HEADER_LEN, records, records_len);
    }
    batch[22] = (uint8_t)codec;
    test_store32(batch + 23, (uint32_t)(count > 0 ? count - 1 : 0));
    test_store32(batch + 57, (uint32_t)count);
    test_seal(batch, *len);
    return batch;
}

/* Check a batch in one piece. */
static inline int test_check(const uint8_t *batch, size_t len, uint32_t checks, struct sti_err *err)
{
    struct sti_slice slice = sti_slice_borrow(batch, len);
    struct sti_batch_header header;
    sti_err_clear(err);
    return sti_batch_check(&slice, 1, checks, 1u << 30, &header, err);
}

/* Read all records and their headers; returns what ended it, counts into *count if not NULL. */
static inline int test_read_all(struct sti_batch_iter *iter, const uint8_t *batch, size_t len,
                                size_t inflated_max, uint32_t *count, struct sti_err *err)
{
    struct sti_record record;
    uint64_t sum = 0;
    uint32_t n = 0;
    int rc = sti_batch_iter_init(iter, batch, len, inflated_max, err);
    while (rc == STI_OK) {
        rc = sti_batch_iter_next(iter, &record, err);
        if (rc == STI_OK) {
            const uint8_t *pos = record.headers;
            const uint8_t *end = pos + record.headers_len;
            const uint8_t *value;
            const char *name;
            uint32_t name_len, i, seen = 0;
            int64_t value_len;
            for (i = 0; i < record.key_len; i++) {
                sum += record.key[i];
            }
            for (i = 0; i < record.value_len; i++) {
                sum += record.value[i];
            }
            while (sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) ==
                   STI_OK) {
                sum += name_len > 0 ? (uint64_t)(unsigned char)name[name_len - 1] : 0u;
                sum += value_len > 0 ? value[value_len - 1] : 0u;
                seen++;
            }
            assert_int_equal(seen, record.header_count);
            n++;
        }
    }
    if (count != NULL) {
        *count = n;
    }
    /* The sum makes every byte read; its value is of no matter. */
    return sum == UINT64_MAX ? STI_E_INTERNAL : rc;
}

/* ---- random records: the same ones for the same seed, so that a reader makes them anew to compare
 */

#define TEST_POOL_LEN    400000u
#define TEST_HEADERS_MAX 4u

/* A record whose bytes lie in the pool. */
struct test_record {
    int64_t timestamp;
    const uint8_t *key, *value;
    size_t key_len, value_len, header_count;
    struct sti_record_header headers[TEST_HEADERS_MAX];
};

/* Bytes of which about half can be compressed away. */
static inline const uint8_t *test_pool(void)
{
    static uint8_t pool[TEST_POOL_LEN];
    if (pool[0] == 0) {
        uint64_t seed = 11;
        size_t i;
        for (i = 0; i < TEST_POOL_LEN; i++) {
            uint64_t r = test_random(&seed);
            pool[i] = (uint8_t)((i / 64) % 2 == 0 ? 1 + r % 255 : 'a' + i % 7);
        }
    }
    return pool;
}

static inline const uint8_t *test_pool_bytes(uint64_t *seed, size_t len)
{
    return test_pool() + test_random(seed) % (TEST_POOL_LEN - len + 1);
}

/* Null, empty, short and (one in two hundred values) big: 300,000 bytes. */
static inline void test_record_make(uint64_t *seed, struct test_record *out)
{
    size_t i;
    uint64_t r = test_random(seed);
    memset(out, 0, sizeof *out);
    out->timestamp = GOLDEN_TIMESTAMP + (int64_t)(r % 2000) - 1000;
    out->key_len = (size_t)(r >> 16) % 4 == 0 ? 0 : (size_t)(r >> 20) % 40;
    out->key = (r >> 32) % 4 == 0 ? NULL : test_pool_bytes(seed, out->key_len);
    out->value_len = (r >> 34) % 8 == 0 ? 0 : (size_t)(r >> 38) % 300;
    if ((r >> 48) % 200 == 0) {
        out->value_len = 300000;
    }
    out->value = (r >> 56) % 8 == 0 ? NULL : test_pool_bytes(seed, out->value_len);
    out->header_count = (r >> 60) < 8 ? 0 : (size_t)(r >> 60) % (TEST_HEADERS_MAX + 1);
    for (i = 0; i < out->header_count; i++) {
        uint64_t h = test_random(seed);
        out->headers[i].name_len = (uint32_t)(h % 12);
        out->headers[i].name = (const char *)test_pool_bytes(seed, 12);
        out->headers[i].value_len = (uint32_t)(h >> 8) % 30;
        out->headers[i].value = (h >> 40) % 4 == 0 ? NULL : test_pool_bytes(seed, 30);
    }
}

static inline int test_record_append(struct sti_batch_builder *builder,
                                     const struct test_record *record)
{
    return sti_batch_builder_append(builder, record->timestamp, record->key, record->key_len,
                                    record->value, record->value_len, record->headers,
                                    record->header_count, NULL);
}

/* The bytes are the same, and null is told from empty. */
static inline void test_same_bytes(const uint8_t *found, size_t found_len, const void *expected,
                                   size_t expected_len)
{
    if (expected == NULL || found == NULL) {
        assert_ptr_equal(found, expected);
        assert_int_equal(found_len, 0);
    } else {
        assert_int_equal(found_len, expected_len);
        assert_int_equal(memcmp(found, expected, expected_len), 0);
    }
}

static inline void test_record_compare(const struct sti_record *found,
                                       const struct test_record *expected, int64_t offset)
{
    const uint8_t *pos = found->headers, *end = pos + found->headers_len, *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    size_t i;
    assert_true(found->offset == offset);
    assert_true(found->timestamp == expected->timestamp);
    test_same_bytes(found->key, found->key_len, expected->key, expected->key_len);
    test_same_bytes(found->value, found->value_len, expected->value, expected->value_len);
    assert_int_equal(found->header_count, expected->header_count);
    for (i = 0; i < expected->header_count; i++) {
        const struct sti_record_header *h = &expected->headers[i];
        assert_int_equal(sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len),
                         STI_OK);
        test_same_bytes((const uint8_t *)name, name_len, h->name, h->name_len);
        assert_true(value_len == (h->value == NULL ? -1 : (int64_t)h->value_len));
        test_same_bytes(value, value_len < 0 ? 0 : (size_t)value_len, h->value, h->value_len);
    }
    assert_int_equal(sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len),
                     STI_E_END);
}

/* Read `batch` and compare it with the `count` records that `seed` makes. */
static inline void test_batch_compare(struct sti_batch_iter *iter, const uint8_t *batch, size_t len,
                                      uint64_t seed, uint32_t count)
{
    struct sti_record found;
    struct test_record expected;
    struct sti_err err;
    uint32_t i;
    sti_err_clear(&err);
    if (sti_batch_iter_init(iter, batch, len, STI_BATCH_INFLATED_MAX, &err) != STI_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(iter->header.record_count, count);
    for (i = 0; i < count; i++) {
        test_record_make(&seed, &expected);
        if (sti_batch_iter_next(iter, &found, &err) != STI_OK) {
            fail_msg("%s", err.msg);
        }
        test_record_compare(&found, &expected, iter->header.base_offset + i);
    }
    assert_int_equal(sti_batch_iter_next(iter, &found, &err), STI_E_END);
}

/* A new builder with the `count` records that `seed` makes. */
static inline struct sti_batch_builder *test_builder(int codec, int level, uint64_t seed,
                                                     uint32_t count)
{
    struct sti_batch_builder *builder;
    struct test_record record;
    uint32_t i;
    assert_int_equal(sti_batch_builder_new(&builder, codec, level, NULL), STI_OK);
    for (i = 0; i < count; i++) {
        test_record_make(&seed, &record);
        assert_int_equal(test_record_append(builder, &record), STI_OK);
    }
    return builder;
}

#endif /* STREAMIT_BATCH_TEST_H */
