/* header.c -- the 61 bytes in front of the records: decode, patch, and the names of the codecs. */
#include "batch.h"

/* What can be said of a header without its records. */
static int header_verify(const struct sti_batch_header *header, struct sti_err *err)
{
    if (header->batch_length < (int32_t)(STI_BATCH_HEADER_LEN - STI_BATCH_PREFIX_LEN)) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "batch length %d, expected at least %u",
                           (int)header->batch_length, STI_BATCH_HEADER_LEN - STI_BATCH_PREFIX_LEN);
    }
    if (header->base_offset < 0) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "base offset %lld, expected 0 or more",
                           (long long)header->base_offset);
    }
    if (header->last_offset_delta < 0) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "last offset delta %d, expected 0 or more",
                           (int)header->last_offset_delta);
    }
    if (header->record_count < 0) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "record count %d, expected 0 or more",
                           (int)header->record_count);
    }
    /* The offset after the last record, where the log goes on, must be a number too. */
    if (header->base_offset > INT64_MAX - 1 - header->last_offset_delta) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH,
                           "base offset %lld and last offset delta %d overflow",
                           (long long)header->base_offset, (int)header->last_offset_delta);
    }
    return STI_OK;
}

int sti_batch_header_decode(const uint8_t *data, size_t len, struct sti_batch_header *out,
                            struct sti_err *err)
{
    struct sti_batch_header header;
    int rc;
    if (len < STI_BATCH_HEADER_LEN) {
        return sti_err_set(err, STI_E_WOULD_BLOCK, "%zu bytes of a batch header of %u", len,
                           STI_BATCH_HEADER_LEN);
    }
    header.base_offset = (int64_t)batch_load64(data);
    header.batch_length = (int32_t)batch_load32(data + BATCH_POS_LENGTH);
    header.leader_epoch = (int32_t)batch_load32(data + BATCH_POS_EPOCH);
    header.magic = (int8_t)data[BATCH_POS_MAGIC];
    header.crc = batch_load32(data + BATCH_POS_CRC);
    header.attributes = batch_load16(data + BATCH_POS_ATTRIBUTES);
    header.last_offset_delta = (int32_t)batch_load32(data + BATCH_POS_LAST_DELTA);
    header.base_timestamp = (int64_t)batch_load64(data + BATCH_POS_BASE_TIMESTAMP);
    header.max_timestamp = (int64_t)batch_load64(data + BATCH_POS_MAX_TIMESTAMP);
    header.producer_id = (int64_t)batch_load64(data + BATCH_POS_PRODUCER_ID);
    header.producer_epoch = (int16_t)batch_load16(data + BATCH_POS_PRODUCER_EPOCH);
    header.base_sequence = (int32_t)batch_load32(data + BATCH_POS_BASE_SEQUENCE);
    header.record_count = (int32_t)batch_load32(data + BATCH_POS_RECORD_COUNT);
    header.reserved = 0;
    if (header.magic != STI_BATCH_MAGIC) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "magic %d, expected %d", (int)header.magic,
                           STI_BATCH_MAGIC);
    }
    rc = header_verify(&header, err);
    if (rc != STI_OK) {
        return rc;
    }
    header.total_len = STI_BATCH_PREFIX_LEN + (uint64_t)(uint32_t)header.batch_length;
    *out = header;
    return STI_OK;
}

void sti_batch_patch(uint8_t head[STI_BATCH_PATCH_LEN], int64_t base_offset, uint64_t total_len,
                     int32_t leader_epoch)
{
    batch_store64(head, (uint64_t)base_offset);
    batch_store32(head + BATCH_POS_LENGTH, (uint32_t)(total_len - STI_BATCH_PREFIX_LEN));
    batch_store32(head + BATCH_POS_EPOCH, (uint32_t)leader_epoch);
}

void sti_batch_stamp(uint8_t rest[STI_BATCH_HEADER_LEN - STI_BATCH_PATCH_LEN], uint64_t total_len,
                     int64_t timestamp_ms)
{
    enum { COVERED = STI_BATCH_HEADER_LEN - BATCH_POS_ATTRIBUTES };
    uint8_t *covered = rest + (BATCH_POS_ATTRIBUTES - STI_BATCH_PATCH_LEN);
    uint8_t *crc = rest + (BATCH_POS_CRC - STI_BATCH_PATCH_LEN);
    uint32_t before = sti_crc32c(0, covered, COVERED);
    uint16_t attributes = batch_load16(covered);
    batch_store16(covered, (uint16_t)(attributes | STI_BATCH_LOG_APPEND_TIME));
    batch_store64(rest + (BATCH_POS_MAX_TIMESTAMP - STI_BATCH_PATCH_LEN), (uint64_t)timestamp_ms);
    uint32_t after = sti_crc32c(0, covered, COVERED);
    batch_store32(crc, batch_load32(crc) ^
                           batch_crc_shift(before ^ after, total_len - STI_BATCH_HEADER_LEN));
}

static const char *const codec_names[] = {"none", "gzip", "snappy", "lz4", "zstd"};

#define CODEC_COUNT ((int)(sizeof codec_names / sizeof codec_names[0]))

const char *sti_codec_name(int codec)
{
    return codec >= 0 && codec < CODEC_COUNT ? codec_names[codec] : NULL;
}

int sti_codec_from_name(const char *name)
{
    int i;
    for (i = 0; i < CODEC_COUNT; i++) {
        if (strcmp(name, codec_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}
