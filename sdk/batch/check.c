/* check.c -- is this exactly one sound batch? Asked of bytes that came from outside.
 *
 * The bytes lie in as many slices as the transport received them in; header fields, checksum and
 * records may straddle slices anywhere. Only the header is ever copied, and what the iterator
 * copies when records are checked. From cheap to dear: size, header, length, the producer rules,
 * checksum, records; the first that fails speaks.
 */
#include "batch.h"

void batch_slices_copy(const struct sti_slice *slices, uint8_t *out, size_t len)
{
    for (; len > 0; slices++) {
        size_t n = slices->len < len ? (size_t)slices->len : len;
        if (n > 0) {
            memcpy(out, slices->data, n);
            out += n;
            len -= n;
        }
    }
}

/* Checksum of everything after the first `skip` bytes. */
static uint32_t slices_crc(const struct sti_slice *slices, size_t count, size_t skip)
{
    uint32_t crc = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        if (slices[i].len <= skip) {
            skip -= (size_t)slices[i].len;
            continue;
        }
        crc = sti_crc32c(crc, slices[i].data + skip, (size_t)slices[i].len - skip);
        skip = 0;
    }
    return crc;
}

/* Sum the lengths, each of which must be in memory. */
static int slices_verify(const struct sti_slice *slices, size_t count, uint64_t max_len,
                         uint64_t *total, struct sti_err *err)
{
    size_t i;
    *total = 0;
    for (i = 0; i < count; i++) {
        if (slices[i].len > 0 && slices[i].data == NULL) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT, "slice %zu is not in memory", i);
        }
        if (slices[i].len > max_len - *total) {
            return sti_err_set(err, STI_E_MESSAGE_TOO_LARGE,
                               "the batch is larger than the limit of %llu bytes",
                               (unsigned long long)max_len);
        }
        *total += slices[i].len;
    }
    return STI_OK;
}

/* Producer id, epoch and sequence belong together. */
static int check_identity(const struct sti_batch_header *header, struct sti_err *err)
{
    bool none =
        header->producer_id == -1 && header->producer_epoch == -1 && header->base_sequence == -1;
    bool all =
        header->producer_id >= 0 && header->producer_epoch >= 0 && header->base_sequence >= 0;
    if (!none && !all) {
        return sti_err_set(
            err, STI_E_INVALID_ARGUMENT,
            "producer id %lld, producer epoch %d, base sequence %d: expected all set or all -1",
            (long long)header->producer_id, (int)header->producer_epoch,
            (int)header->base_sequence);
    }
    return STI_OK;
}

/* Are there fewer bytes than so many records take at the least? Then the count is a lie, or the
 * records compress very well: decoding them tells. Unchecked, a count could move the log's offsets
 * by two thousand million with a hundred bytes. */
static bool records_look_few(const struct sti_batch_header *header)
{
    uint64_t bytes = header->total_len - STI_BATCH_HEADER_LEN;
    return bytes / BATCH_RECORD_LEN_MIN < (uint64_t)header->record_count;
}

/* What a client may send; see STI_CHECK_PRODUCER. */
static int check_producer(const struct sti_batch_header *header, struct sti_err *err)
{
    uint32_t codec = header->attributes & STI_BATCH_CODEC_MASK;
    if (sti_codec_name((int)codec) == NULL) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "codec %u, expected 0 to %d", codec,
                           STI_CODEC_ZSTD);
    }
    if ((header->attributes & ~0x7fu) != 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "attributes 0x%04x, expected bits 7 to 15 zero", header->attributes);
    }
    if ((header->attributes & STI_BATCH_CONTROL) != 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "attributes 0x%04x: a client may not send a control batch",
                           header->attributes);
    }
    if ((header->attributes & STI_BATCH_LOG_APPEND_TIME) != 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "attributes 0x%04x: a client may not set the log append time",
                           header->attributes);
    }
    if (header->base_offset != 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "base offset %lld, expected 0",
                           (long long)header->base_offset);
    }
    if (header->record_count <= 0 || header->record_count - 1 != header->last_offset_delta) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "record count %d, expected last offset delta %d + 1 and at least 1",
                           (int)header->record_count, (int)header->last_offset_delta);
    }
    return check_identity(header, err);
}

/* Decode every record. */
static int check_records(const struct sti_slice *slices, size_t count, struct sti_err *err)
{
    struct sti_batch_iter iter;
    struct sti_record record;
    int rc;
    memset(&iter, 0, sizeof iter);
    rc = sti_batch_iter_init_slices(&iter, slices, count, STI_BATCH_INFLATED_MAX, err);
    while (rc == STI_OK) {
        rc = sti_batch_iter_next(&iter, &record, err);
    }
    sti_batch_iter_fini(&iter);
    return rc == STI_E_END ? STI_OK : rc;
}

int sti_batch_check(const struct sti_slice *slices, size_t count, uint32_t checks, uint64_t max_len,
                    struct sti_batch_header *out, struct sti_err *err)
{
    uint8_t head[STI_BATCH_HEADER_LEN];
    struct sti_batch_header header;
    uint64_t total;
    int rc;
    memset(out, 0, sizeof *out);
    rc = slices_verify(slices, count, max_len, &total, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (total < STI_BATCH_HEADER_LEN) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "%llu bytes of a batch header of %u",
                           (unsigned long long)total, STI_BATCH_HEADER_LEN);
    }
    batch_slices_copy(slices, head, sizeof head);
    rc = sti_batch_header_decode(head, sizeof head, &header, err);
    if (rc != STI_OK) {
        return rc;
    }
    if (header.total_len != total) {
        return sti_err_set(
            err, STI_E_CORRUPT_BATCH, "batch length %d, but %llu bytes follow the prefix",
            (int)header.batch_length, (unsigned long long)(total - STI_BATCH_PREFIX_LEN));
    }
    if ((checks & STI_CHECK_PRODUCER) != 0) {
        rc = check_producer(&header, err);
    }
    if (rc == STI_OK && (checks & STI_CHECK_CRC) != 0) {
        uint32_t crc = slices_crc(slices, count, BATCH_POS_ATTRIBUTES);
        if (crc != header.crc) {
            rc = sti_err_set(err, STI_E_CORRUPT_BATCH, "CRC %08x, expected %08x", header.crc, crc);
        }
    }
    if (rc == STI_OK && (checks & STI_CHECK_PRODUCER) != 0 && records_look_few(&header)) {
        checks |= STI_CHECK_RECORDS;
    }
    if (rc == STI_OK && (checks & STI_CHECK_RECORDS) != 0) {
        rc = check_records(slices, count, err);
    }
    if (rc == STI_OK) {
        *out = header;
    }
    return rc;
}
