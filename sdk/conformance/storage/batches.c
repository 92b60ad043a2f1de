/* batches.c -- batches that can be made again from a few numbers, and the model that lists them.
 *
 * Every batch holds real records, so that an engine which looks inside finds what a producer sends.
 * All bytes follow from base offset, epoch, timestamp and length: what a read returns is compared
 * with the batch made anew, and a batch that was truncated differs from the one in its place.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage_suite.h"

/* ---- encoding ------------------------------------------------------------------------------- */

/* Bytes of a record beyond its key and value, without its own length. */
static size_t record_fixed(uint32_t delta, size_t key_len, size_t value_len)
{
    return 3 + sti_varint_len(delta) + sti_varint_len((int64_t)key_len) +
           sti_varint_len((int64_t)value_len);
}

static size_t record_len(uint32_t delta, size_t key_len, size_t value_len)
{
    size_t body = record_fixed(delta, key_len, value_len) + key_len + value_len;
    return sti_varint_len((int64_t)body) + body;
}

static uint8_t *put_record(uint8_t *out, uint32_t delta, size_t key_len, size_t value_len,
                           uint64_t *random)
{
    out += sti_varint_put(out,
                          (int64_t)(record_fixed(delta, key_len, value_len) + key_len + value_len));
    *out++ = 0;                    /* attributes */
    out += sti_varint_put(out, 0); /* timestamp delta */
    out += sti_varint_put(out, delta);
    out += sti_varint_put(out, (int64_t)key_len);
    memset(out, 'k', key_len);
    out += key_len;
    out += sti_varint_put(out, (int64_t)value_len);
    for (size_t i = 0; i < value_len; i += 8) {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        memcpy(out + i, random, value_len - i < 8 ? value_len - i : 8);
    }
    out += value_len;
    out += sti_varint_put(out, 0); /* headers */
    return out;
}

static void put(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

uint32_t cs_len_min(uint32_t records)
{
    size_t len = STI_BATCH_HEADER_LEN;
    for (uint32_t i = 0; i < records; i++) {
        len += record_len(i, 0, 0);
    }
    return (uint32_t)len;
}

/* Key and value of the last record, for a record of `room` bytes. Lengths are varints, so the key
 * makes up for their steps; a few lengths no record can have. */
static bool solve(uint32_t delta, size_t room, size_t *key_len, size_t *value_len)
{
    for (*key_len = 0; *key_len < 4; (*key_len)++) {
        size_t least = record_len(delta, *key_len, 0);
        *value_len = room > least ? room - least : 0;
        while (*value_len > 0 && record_len(delta, *key_len, *value_len) > room) {
            (*value_len)--;
        }
        if (record_len(delta, *key_len, *value_len) == room) {
            return true;
        }
    }
    return false;
}

uint32_t cs_len_fit(uint32_t records, uint32_t len)
{
    size_t key_len, value_len,
        others = records == 1 ? STI_BATCH_HEADER_LEN : cs_len_min(records - 1);
    while (len < cs_len_min(records) || !solve(records - 1, len - others, &key_len, &value_len)) {
        len++;
    }
    return len;
}

void cs_encode(const struct cs_batch *b, uint8_t *out)
{
    uint64_t random = ((uint64_t)b->base * UINT64_C(0x9e3779b97f4a7c15)) ^
                      ((uint64_t)b->timestamp << 20) ^ ((uint64_t)(uint32_t)b->epoch << 52) ^
                      b->len ^ UINT64_C(0x5851f42d4c957f2d);
    uint8_t *pos = out + STI_BATCH_HEADER_LEN;
    size_t key_len, value_len;
    for (uint32_t i = 0; i + 1 < b->records; i++) {
        pos = put_record(pos, i, 0, 0, &random);
    }
    CFM_EXPECT(solve(b->records - 1, b->len - (size_t)(pos - out), &key_len, &value_len),
               "the suite cannot make a batch of %u records in %u bytes", b->records, b->len);
    (void)put_record(pos, b->records - 1, key_len, value_len, &random);
    sti_batch_patch(out, b->base, b->len, b->epoch);
    out[16] = STI_BATCH_MAGIC;
    put(out + 21, 0, 2);
    put(out + 23, b->records - 1, 4);
    put(out + 27, (uint64_t)b->timestamp, 8);
    put(out + 35, (uint64_t)b->timestamp, 8);
    memset(out + 43, 0xff, 14); /* no producer */
    put(out + 57, b->records, 4);
    put(out + 17, sti_crc32c(0, out + 21, b->len - 21u), 4);
}

/* ---- the model ------------------------------------------------------------------------------ */

void cs_model_fini(struct cs_model *m)
{
    free(m->batches);
    *m = (struct cs_model){0};
}

void cs_model_add(struct cs_model *m, const struct cs_batch *b)
{
    if (m->count == m->capacity) {
        m->capacity = m->capacity == 0 ? 256 : m->capacity * 2;
        m->batches = realloc(m->batches, m->capacity * sizeof *m->batches);
        CFM_CHECK(m->batches != NULL);
    }
    CFM_EQ(b->base, m->end);
    m->batches[m->count++] = *b;
    m->end = cs_last(b) + 1;
}

size_t cs_model_find(const struct cs_model *m, int64_t offset)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cs_last(&m->batches[mid]) < offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

void cs_model_truncate(struct cs_model *m, int64_t offset)
{
    if (offset < m->end) {
        m->count = cs_model_find(m, offset);
        m->end = offset;
    }
}

int32_t cs_model_epoch(const struct cs_model *m)
{
    return m->count == 0 ? -1 : m->batches[m->count - 1].epoch;
}

/* ---- comparing ------------------------------------------------------------------------------ */

void cs_model_check_bytes(const struct cs_model *m, const struct cs_read *read, int64_t offset,
                          int64_t end_offset, uint64_t max_bytes)
{
    size_t len, pos = 0, i = cs_model_find(m, offset);
    uint8_t *got = cs_bytes(read, &len);
    int64_t end = end_offset < m->end ? end_offset : m->end;
    CFM_EXPECT(len > 0 || offset >= end, "a read at %" PRId64 " below %" PRId64 " returned nothing",
               offset, end);
    CFM_EXPECT(len <= max_bytes || (i < m->count && len == m->batches[i].len),
               "a read of at most %" PRIu64 " bytes returned %zu, and not one batch", max_bytes,
               len);
    for (; pos < len; i++) {
        CFM_EXPECT(i < m->count && m->batches[i].base < end,
                   "a read at %" PRId64 " below %" PRId64 " returned batches behind that", offset,
                   end);
        const struct cs_batch *b = &m->batches[i];
        uint8_t *want = malloc(b->len);
        CFM_CHECK(want != NULL);
        cs_encode(b, want);
        CFM_EXPECT(pos + b->len <= len, "the batch at %" PRId64 " was returned in part", b->base);
        for (size_t at = 0; at < b->len; at++) {
            CFM_EXPECT(got[pos + at] == want[at],
                       "byte %zu of the batch at offset %" PRId64 " is 0x%02x, expected 0x%02x", at,
                       b->base, got[pos + at], want[at]);
        }
        free(want);
        pos += b->len;
    }
    free(got);
}

static void check_time(const struct cs_model *m, struct cs_part *p, int64_t timestamp)
{
    int64_t offset, found;
    size_t i = cs_model_find(m, m->log_start);
    int rc = cs_time(p, timestamp, &offset, &found);
    while (i < m->count && m->batches[i].timestamp < timestamp) {
        i++;
    }
    if (i == m->count) {
        CFM_STATUS(rc, STI_E_NOT_FOUND);
        return;
    }
    int64_t want = m->batches[i].base < m->log_start ? m->log_start : m->batches[i].base;
    CFM_STATUS(rc, STI_OK);
    CFM_EXPECT(offset == want, "offset_for_time(%" PRId64 ") is %" PRId64 ", expected %" PRId64,
               timestamp, offset, want);
    CFM_EQ(found, m->batches[i].timestamp);
}

void cs_model_check(const struct cs_model *m, struct cs_part *p)
{
    struct sti_storage_state state = cs_state(p);
    CFM_EQ(state.written_end, m->end);
    CFM_EQ(state.log_start, m->log_start);
    CFM_EXPECT(state.synced_end <= state.written_end,
               "synced end %" PRId64 " lies behind the written end %" PRId64, state.synced_end,
               state.written_end);
    if (m->log_start < m->end) {
        CFM_EQ(state.last_epoch, cs_model_epoch(m));
    }
    for (int64_t next = m->log_start; next < m->end;) {
        struct cs_read read;
        CFM_STATUS(cs_read(p, next, m->end, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        cs_model_check_bytes(m, &read, next, m->end, 1 << 20);
        next = cs_walk(&read, next);
        cs_release(&read);
    }
    for (size_t i = cs_model_find(m, m->log_start), step = 1 + (m->count - i) / 16; i < m->count;
         i += step) {
        check_time(m, p, m->batches[i].timestamp);
        check_time(m, p, m->batches[i].timestamp + 1);
    }
}
