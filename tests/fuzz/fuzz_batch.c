/* fuzz_batch.c -- a batch from anywhere: header, check, records of every codec.
 *
 * The first byte asks: bit 0 makes length and checksum right first, so that the input reaches the
 * records; the second where the bytes are split into slices.
 */
#include <string.h>

#include "fuzz.h"
#include "streamit/record_batch.h"

enum { INFLATED_MAX = 1 << 20 };

static void store32(uint8_t *out, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

/* Every record and header; their bytes are summed, so that each is read. */
static int read_records(const struct sti_slice *slices, size_t pieces, struct sti_batch_iter *iter)
{
    struct sti_record record;
    struct sti_err err;
    int32_t count = 0;
    uint64_t sum = 0;
    int rc = sti_batch_iter_init_slices(iter, slices, pieces, INFLATED_MAX, &err);
    int64_t last = -1;
    while (rc == STI_OK && (rc = sti_batch_iter_next(iter, &record, &err)) == STI_OK) {
        const uint8_t *pos = record.headers, *end = pos + record.headers_len, *value;
        const char *name;
        uint32_t name_len, headers = 0;
        int64_t value_len;
        FUZZ_EXPECT(record.offset >= iter->header.base_offset && record.offset > last);
        FUZZ_EXPECT(record.offset <= sti_batch_last_offset(&iter->header));
        last = record.offset;
        for (uint32_t i = 0; i < record.key_len; i++) {
            sum += record.key[i];
        }
        for (uint32_t i = 0; i < record.value_len; i++) {
            sum += record.value[i];
        }
        while (sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) == STI_OK) {
            sum += name_len > 0 ? (uint8_t)name[name_len - 1] : 0u;
            sum += value_len > 0 ? value[value_len - 1] : 0u;
            headers++;
        }
        FUZZ_EXPECT(headers == record.header_count);
        count++;
    }
    FUZZ_EXPECT(rc != STI_OK && rc != STI_E_INTERNAL && sum != UINT64_MAX);
    if (rc == STI_E_END) {
        FUZZ_EXPECT(count == iter->header.record_count);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct sti_batch_iter iter; /* used again and again, as a consumer does */
    struct sti_batch_header header, checked;
    struct sti_err err;
    uint8_t how = fuzz_byte(&data, &len);
    size_t split = fuzz_byte(&data, &len);
    uint8_t *batch = malloc(len + 1);
    FUZZ_EXPECT(batch != NULL);
    memcpy(batch, data, len);
    if ((how & 1) != 0 && len >= STI_BATCH_HEADER_LEN) {
        store32(batch + 8, (uint32_t)(len - STI_BATCH_PREFIX_LEN));
        batch[16] = STI_BATCH_MAGIC;
        store32(batch + 17, sti_crc32c(0, batch + 21, len - 21));
    }
    int rc = sti_batch_header_decode(batch, len, &header, &err);
    FUZZ_EXPECT((rc == STI_E_WOULD_BLOCK) == (len < STI_BATCH_HEADER_LEN));
    split = split < len ? split : len;
    const struct sti_slice slices[2] = {sti_slice_borrow(batch, split),
                                        sti_slice_borrow(batch + split, len - split)};
    int check = sti_batch_check(slices, 2, how >> 1 & 7u, 1 << 20, &checked, &err);
    if (check == STI_OK) {
        FUZZ_EXPECT(rc == STI_OK && memcmp(&header, &checked, sizeof header) == 0);
        FUZZ_EXPECT(header.total_len == len);
    }
    const struct sti_slice whole = sti_slice_borrow(batch, len);
    int read = read_records(&whole, 1, &iter);
    FUZZ_EXPECT(read_records(slices, 2, &iter) == read);
    free(batch);
    if (len % 16 == 0) { /* and sometimes a new one, so that a leak is one */
        sti_batch_iter_fini(&iter);
        memset(&iter, 0, sizeof iter);
    }
    return 0;
}
