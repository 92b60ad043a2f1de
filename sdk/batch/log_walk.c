/* log_walk.c -- along the batches of a log file, in bounded memory.
 *
 * The walk keeps one window of the file, in the caller's buffer, and asks for another when bytes
 * outside it are wanted. Walking headers with a small buffer reads little of the log; proving
 * batches reads all of it, window by window, whatever the size of a batch.
 */
#include <errno.h>
#include <inttypes.h>

#include "batch.h"
#include "streamit/log_files.h"

void sti_log_walk_init(struct sti_log_walk *walk, sti_log_read_fn *read, void *ctx, void *buf,
                       size_t capacity, uint64_t limit)
{
    *walk = (struct sti_log_walk){
        .read = read, .ctx = ctx, .buf = buf, .buf_capacity = capacity, .limit = limit};
}

int sti_log_walk_bytes(struct sti_log_walk *walk, uint64_t pos, size_t len, const uint8_t **out,
                       struct sti_err *err)
{
    *out = NULL;
    if (pos > walk->limit || len > walk->limit - pos) {
        return sti_err_set(err, STI_E_DATA_LOSS,
                           "%zu bytes at position %" PRIu64 " pass the end at %" PRIu64, len, pos,
                           walk->limit);
    }
    if (pos < walk->buf_pos || pos - walk->buf_pos > walk->buf_len ||
        len > walk->buf_len - (size_t)(pos - walk->buf_pos)) {
        uint64_t left = walk->limit - pos;
        size_t want = left < walk->buf_capacity ? (size_t)left : walk->buf_capacity;
        int error = walk->read(walk->ctx, walk->buf, want, pos, &walk->buf_len);
        walk->buf_pos = pos;
        if (error != 0) {
            walk->buf_len = 0;
            return error == EAGAIN ? STI_E_WOULD_BLOCK
                                   : sti_err_set(err, STI_E_IO, "read at position %" PRIu64 ": %s",
                                                 pos, strerror(error));
        }
        if (walk->buf_len < len) {
            return sti_err_set(err, STI_E_DATA_LOSS,
                               "%zu of %zu bytes at position %" PRIu64 ", where the file ends",
                               walk->buf_len, len, pos);
        }
    }
    *out = walk->buf + (pos - walk->buf_pos);
    return STI_OK;
}

/* One sentence for a position that holds no batch, with what the decoder said of it. */
static int no_batch(struct sti_err *err, uint64_t pos, const struct sti_err *why)
{
    return sti_err_set(err, STI_E_DATA_LOSS, "no valid batch at position %" PRIu64 ": %s", pos,
                       why->msg);
}

int sti_log_walk_header(struct sti_log_walk *walk, uint64_t pos, struct sti_batch_header *out,
                        struct sti_err *err)
{
    struct sti_err cause;
    struct sti_err *why = err == NULL ? NULL : &cause; /* wording costs more than decoding */
    const uint8_t *data = NULL;
    if (pos >= walk->limit) {
        return STI_E_END;
    }
    int rc = walk->limit - pos < STI_BATCH_HEADER_LEN
                 ? sti_err_set(why, STI_E_DATA_LOSS, "%" PRIu64 " bytes of a batch header of %u",
                               walk->limit - pos, STI_BATCH_HEADER_LEN)
                 : sti_log_walk_bytes(walk, pos, STI_BATCH_HEADER_LEN, &data, why);
    if (data != NULL) {
        rc = sti_batch_header_decode(data, STI_BATCH_HEADER_LEN, out, why);
        if (rc == STI_OK && out->total_len > walk->limit - pos) {
            rc = sti_err_set(why, STI_E_DATA_LOSS, "%" PRIu64 " bytes of a batch of %" PRIu64,
                             walk->limit - pos, out->total_len);
        }
        rc = rc == STI_OK ? rc : STI_E_DATA_LOSS;
    }
    if (rc == STI_E_DATA_LOSS && err != NULL) {
        return no_batch(err, pos, why);
    }
    if (rc == STI_E_IO && err != NULL) {
        *err = cause;
    }
    return rc;
}

int sti_log_walk_prove(struct sti_log_walk *walk, uint64_t pos, struct sti_batch_header *out,
                       struct sti_err *err)
{
    int rc = sti_log_walk_header(walk, pos, out, err);
    if (rc != STI_OK) {
        return rc;
    }
    uint32_t crc = 0;
    for (uint64_t at = pos + BATCH_POS_ATTRIBUTES, end = pos + out->total_len; at < end;) {
        const uint8_t *data;
        uint64_t in_buf = at >= walk->buf_pos && at < walk->buf_pos + walk->buf_len
                              ? walk->buf_pos + walk->buf_len - at
                              : walk->buf_capacity;
        size_t len = end - at < in_buf ? (size_t)(end - at) : (size_t)in_buf;
        rc = sti_log_walk_bytes(walk, at, len, &data, err);
        if (rc != STI_OK) {
            return rc;
        }
        crc = sti_crc32c(crc, data, len);
        at += len;
    }
    if (crc != out->crc) {
        return sti_err_set(err, STI_E_DATA_LOSS,
                           "no valid batch at position %" PRIu64 ": CRC %08x, its bytes have %08x",
                           pos, out->crc, crc);
    }
    return STI_OK;
}
