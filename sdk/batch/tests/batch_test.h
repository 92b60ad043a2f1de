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

#endif /* STREAMIT_BATCH_TEST_H */
