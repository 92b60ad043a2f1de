/* iter.c -- reading the records of a batch, one after the other, without copying them.
 *
 * An uncompressed batch is read where it lies, one piece after the other when it is scattered over
 * slices: `pos` to `end` is what is left of the piece that is being read, `behind` counts what
 * follows. A record that straddles pieces is copied to `joined`, which has room for all records and
 * so never moves while they are in use. A compressed batch is first inflated into the iterator's
 * buffer. Both buffers are kept for the next batch. Every length is compared with what is left
 * before it is used, so any bytes at all may be iterated: the outcome is records or
 * STI_E_CORRUPT_BATCH, and the same error again when asked again.
 *
 * Offset deltas must grow. A batch that has lost records to compaction has gaps in them; in a batch
 * with as many records as offsets growth and bounds together leave only 0, 1, 2 ...
 */
#include <stdlib.h>

#include "batch.h"

/* Where a record is being read: what is left of it, and what to say when it is wrong. */
struct cursor {
    const uint8_t *pos, *end;
    const char *field;
    int64_t found;
};

/* Say which field of which record is wrong. Kept out of the hot function.
 * @param behind  bytes that are left behind cur->end */
__attribute__((noinline, cold)) static int record_error(const struct sti_batch_iter *iter,
                                                        const struct cursor *cur, size_t behind,
                                                        struct sti_err *err)
{
    return sti_err_set(err, STI_E_CORRUPT_BATCH, "record %d of %d: %s %lld, %lld bytes are left",
                       (int)(iter->header.record_count - iter->left),
                       (int)iter->header.record_count, cur->field, (long long)cur->found,
                       (long long)(cur->end - cur->pos) + (long long)behind);
}

/* Read one number; false: it is cut. */
static inline bool cursor_number(struct cursor *cur, const char *field, int64_t *out)
{
    const uint8_t *next = batch_varint_get(cur->pos, cur->end, out);
    if (__builtin_expect(next == NULL, 0)) {
        cur->field = field;
        cur->found = -1;
        return false;
    }
    cur->pos = next;
    return true;
}

/* Read a length and skip its bytes; -1 stands for null. False: cut, or longer than what is left. */
static inline bool cursor_bytes(struct cursor *cur, const char *field, const uint8_t **data,
                                int64_t *len)
{
    if (!cursor_number(cur, field, len)) {
        return false;
    }
    if (__builtin_expect(*len < -1 || *len > cur->end - cur->pos, 0)) {
        cur->field = field;
        cur->found = *len;
        return false;
    }
    *data = NULL;
    if (*len >= 0) {
        *data = cur->pos;
        cur->pos += *len;
    }
    return true;
}

int sti_record_header_next(const uint8_t **pos, const uint8_t *end, const char **name,
                           uint32_t *name_len, const uint8_t **value, int64_t *value_len)
{
    struct cursor cur = {*pos, end, NULL, 0};
    const uint8_t *name_data;
    int64_t len;
    if (*pos >= end) {
        return STI_E_END;
    }
    if (!cursor_bytes(&cur, "header name", &name_data, &len) || len < 0 || len > INT32_MAX ||
        !cursor_bytes(&cur, "header value", value, value_len) || *value_len > INT32_MAX) {
        return STI_E_CORRUPT_BATCH;
    }
    *name = (const char *)name_data;
    *name_len = (uint32_t)len;
    *pos = cur.pos;
    return STI_OK;
}

/* The encoded headers must be exactly `count` and fill the rest of the record. A cursor of its own,
 * since the record's stays at the first header unless something is wrong. */
static bool headers_verify(struct cursor *cur, int64_t count)
{
    struct cursor at = *cur;
    const uint8_t *data;
    int64_t len, i;
    bool ok = true;
    for (i = 0; i < count && ok; i++) {
        ok = cursor_bytes(&at, "header name length", &data, &len);
        if (ok && len < 0) {
            at.field = "header name length";
            at.found = len;
            ok = false;
        }
        ok = ok && cursor_bytes(&at, "header value length", &data, &len);
    }
    if (ok && at.pos != at.end) {
        at.field = "bytes left over after header count";
        at.found = count;
        ok = false;
    }
    if (!ok) {
        *cur = at;
    }
    return ok;
}

/* Decode the record between cur->pos and cur->end. False: cur says what is wrong. */
static inline bool record_decode(struct sti_batch_iter *iter, struct cursor *cur,
                                 struct sti_record *out)
{
    int64_t timestamp_delta, offset_delta, key_len, value_len, header_count;
    if (__builtin_expect(cur->pos == cur->end, 0)) {
        cur->field = "attributes cut, length";
        cur->found = 0;
        return false;
    }
    cur->pos++; /* attributes of a record: unused by the format */
    if (!cursor_number(cur, "cut timestamp delta", &timestamp_delta) ||
        !cursor_number(cur, "cut offset delta", &offset_delta)) {
        return false;
    }
    if (__builtin_expect(
            offset_delta < iter->delta_min || offset_delta > iter->header.last_offset_delta, 0)) {
        cur->field = "offset delta";
        cur->found = offset_delta;
        return false;
    }
    if (!cursor_bytes(cur, "key length", &out->key, &key_len) ||
        !cursor_bytes(cur, "value length", &out->value, &value_len) ||
        !cursor_number(cur, "cut header count", &header_count)) {
        return false;
    }
    /* A header takes two bytes or more. */
    if (__builtin_expect(header_count < 0 || header_count > (cur->end - cur->pos) / 2, 0)) {
        cur->field = "header count";
        cur->found = header_count;
        return false;
    }
    if (__builtin_expect(cur->pos != cur->end, 0) && !headers_verify(cur, header_count)) {
        return false;
    }
    iter->delta_min = offset_delta + 1;
    out->offset = iter->header.base_offset + offset_delta;
    /* Both ends wrap alike, so that any pair of timestamps survives. */
    out->timestamp =
        (iter->header.attributes & STI_BATCH_LOG_APPEND_TIME) != 0
            ? iter->header.max_timestamp
            : (int64_t)((uint64_t)iter->header.base_timestamp + (uint64_t)timestamp_delta);
    out->key_len = key_len < 0 ? 0u : (uint32_t)key_len;
    out->value_len = value_len < 0 ? 0u : (uint32_t)value_len;
    out->headers = cur->pos;
    out->headers_len = (uint32_t)(cur->end - cur->pos);
    out->header_count = (uint32_t)header_count;
    return true;
}

/* ---- pieces -------------------------------------------------------------------------------- */

/* Bytes of records that are left. */
static size_t bytes_left(const struct sti_batch_iter *iter)
{
    return (size_t)(iter->end - iter->pos) + iter->behind;
}

/* Go on with the next piece; iter->behind > 0. */
static void piece_next(struct sti_batch_iter *iter)
{
    while (iter->slices->len == 0) {
        iter->slices++;
    }
    const struct sti_slice *slice = iter->slices++;
    size_t len = slice->len < iter->behind ? (size_t)slice->len : iter->behind;
    iter->pos = slice->data;
    iter->end = slice->data + len;
    iter->behind -= len;
}

/* Copy the next `len` bytes, at most as many as are left. Does not move. */
static void pieces_copy(const struct sti_batch_iter *iter, uint8_t *out, size_t len)
{
    size_t here = (size_t)(iter->end - iter->pos);
    here = here < len ? here : len;
    memcpy(out, iter->pos, here);
    if (len > here) {
        batch_slices_copy(iter->slices, out + here, len - here);
    }
}

static void pieces_skip(struct sti_batch_iter *iter, size_t len)
{
    while (len > (size_t)(iter->end - iter->pos)) {
        len -= (size_t)(iter->end - iter->pos);
        piece_next(iter);
    }
    iter->pos += len;
}

/* The next record does not end within the piece, which is not the last: copy it. Kept out of the
 * hot function. */
__attribute__((noinline)) static int straddling_next(struct sti_batch_iter *iter,
                                                     struct sti_record *out, struct sti_err *err)
{
    uint8_t head[BATCH_VARINT_LEN_MAX];
    size_t left = bytes_left(iter), head_len = left < sizeof head ? left : sizeof head;
    struct cursor cur = {head, head + head_len, NULL, 0};
    int64_t len;
    pieces_copy(iter, head, head_len);
    if (!cursor_number(&cur, "cut length", &len)) {
        return record_error(iter, &cur, left - head_len, err);
    }
    size_t len_len = (size_t)(cur.pos - head);
    if (len < 0 || (uint64_t)len > left - len_len || len > INT32_MAX) {
        cur.field = "length";
        cur.found = len;
        return record_error(iter, &cur, left - head_len, err);
    }
    uint8_t *whole = iter->joined + iter->joined_len;
    size_t size = len_len + (size_t)len;
    pieces_copy(iter, whole, size);
    cur.pos = whole + len_len;
    cur.end = whole + size;
    if (!record_decode(iter, &cur, out)) {
        return record_error(iter, &cur, 0, err);
    }
    pieces_skip(iter, size);
    iter->joined_len += size;
    iter->left--;
    return STI_OK;
}

int sti_batch_iter_next(struct sti_batch_iter *iter, struct sti_record *out, struct sti_err *err)
{
    struct cursor cur = {iter->pos, iter->end, NULL, 0};
    int64_t len;
    if (__builtin_expect(iter->left == 0, 0)) {
        if (bytes_left(iter) > 0) {
            return sti_err_set(err, STI_E_CORRUPT_BATCH,
                               "%zu bytes left over after record count %d", bytes_left(iter),
                               (int)iter->header.record_count);
        }
        return STI_E_END;
    }
    if (!cursor_number(&cur, "cut length", &len)) {
        return iter->behind > 0 ? straddling_next(iter, out, err)
                                : record_error(iter, &cur, 0, err);
    }
    if (__builtin_expect(len < 0 || len > cur.end - cur.pos || len > INT32_MAX, 0)) {
        if (iter->behind > 0) {
            return straddling_next(iter, out, err);
        }
        cur.field = "length";
        cur.found = len;
        return record_error(iter, &cur, 0, err);
    }
    cur.end = cur.pos + len;
    if (!record_decode(iter, &cur, out)) {
        return record_error(iter, &cur, 0, err);
    }
    iter->pos = cur.end;
    iter->left--;
    return STI_OK;
}

/* ---- beginning ----------------------------------------------------------------------------- */

/* The header of the batch; sound as far as a header can be, and all its bytes are there. */
static int begin_header(struct sti_batch_iter *iter, const struct sti_slice *slices, size_t count,
                        struct sti_err *err)
{
    uint8_t head[STI_BATCH_HEADER_LEN];
    uint64_t len = 0;
    size_t i;
    int rc;
    for (i = 0; i < count; i++) {
        if (slices[i].len > 0 && slices[i].data == NULL) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT, "slice %zu is not in memory", i);
        }
        len += slices[i].len;
    }
    if (len < sizeof head) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "%llu bytes of a batch header of %u",
                           (unsigned long long)len, STI_BATCH_HEADER_LEN);
    }
    batch_slices_copy(slices, head, sizeof head);
    rc = sti_batch_header_decode(head, sizeof head, &iter->header, err);
    if (rc == STI_OK && iter->header.total_len > len) {
        rc = sti_err_set(err, STI_E_CORRUPT_BATCH, "batch length %d, but %llu bytes are there",
                         (int)iter->header.batch_length,
                         (unsigned long long)(len - STI_BATCH_PREFIX_LEN));
    }
    return rc;
}

/* Room for what straddles, or for all that is compressed: as many bytes as there are. */
static int joined_reserve(struct sti_batch_iter *iter, struct sti_err *err)
{
    struct batch_buf buf = {iter->joined, iter->joined_capacity};
    int rc = batch_buf_reserve(&buf, bytes_left(iter), 0, err);
    iter->joined = buf.data;
    iter->joined_capacity = buf.capacity;
    return rc;
}

/* Put the decompressed records in the place of those that are there. */
static int begin_inflated(struct sti_batch_iter *iter, uint32_t codec, size_t inflated_max,
                          struct sti_err *err)
{
    struct batch_buf buf = {iter->inflated, iter->inflated_capacity};
    const uint8_t *records = iter->pos;
    size_t len = bytes_left(iter);
    int rc;
    if (iter->behind > 0) {
        pieces_copy(iter, iter->joined, len);
        records = iter->joined;
    }
    iter->pos = iter->end = NULL;
    iter->behind = 0;
    rc = batch_inflate(&iter->inflater, codec, records, len, inflated_max, &buf, &len, err);
    iter->inflated = buf.data;
    iter->inflated_capacity = buf.capacity;
    if (rc == STI_OK && iter->inflated != NULL) { /* else nothing came out */
        iter->pos = iter->inflated;
        iter->end = iter->inflated + len;
    }
    return rc;
}

int sti_batch_iter_init_slices(struct sti_batch_iter *iter, const struct sti_slice *slices,
                               size_t count, size_t inflated_max, struct sti_err *err)
{
    uint32_t codec;
    int rc;
    iter->pos = iter->end = NULL;
    iter->behind = iter->joined_len = 0;
    iter->left = 0;
    iter->delta_min = 0;
    rc = begin_header(iter, slices, count, err);
    if (rc != STI_OK) {
        return rc;
    }
    iter->slices = slices;
    iter->behind = (size_t)iter->header.total_len;
    piece_next(iter);
    pieces_skip(iter, STI_BATCH_HEADER_LEN);
    rc = iter->behind > 0 ? joined_reserve(iter, err) : STI_OK;
    codec = iter->header.attributes & STI_BATCH_CODEC_MASK;
    /* Compaction may leave an empty batch, whose codec bits then compress nothing at all. */
    if (rc == STI_OK && codec != STI_CODEC_NONE &&
        !(iter->header.record_count == 0 && bytes_left(iter) == 0)) {
        rc = begin_inflated(iter, codec, inflated_max, err);
    }
    if (rc != STI_OK) { /* it gives no record */
        iter->pos = iter->end = NULL;
        iter->behind = 0;
        return rc;
    }
    iter->left = iter->header.record_count;
    return STI_OK;
}

int sti_batch_iter_init(struct sti_batch_iter *iter, const uint8_t *data, size_t len,
                        size_t inflated_max, struct sti_err *err)
{
    const struct sti_slice slice = sti_slice_borrow(data, len);
    return sti_batch_iter_init_slices(iter, &slice, 1, inflated_max, err);
}

void sti_batch_iter_fini(struct sti_batch_iter *iter)
{
    free(iter->inflated);
    free(iter->joined);
    batch_inflater_free(iter->inflater);
    memset(iter, 0, sizeof *iter);
}
