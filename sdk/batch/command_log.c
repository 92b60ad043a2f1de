/* command_log.c -- headers, frames and snapshots of the command log. See command_log.h. */
#include <errno.h>
#include <stdlib.h>

#include "batch.h"
#include "streamit/command_log.h"

static const uint8_t log_magic[8] = {'S', 'T', 'I', 'M', 'D', 'L', 'O', 'G'};
static const uint8_t snapshot_magic[8] = {'S', 'T', 'I', 'M', 'D', 'S', 'N', 'P'};
static const uint8_t frame_mark[4] = {'S', 'T', 'I', 'F'};

enum { END_MARK = 0xA5, HEADER_CRC_POS = 60, FRAME_CRC_POS = 20, FRAME_MARK_POS = 24, DIGITS = 20 };

static bool all_zero(const uint8_t *data, size_t len)
{
    size_t i = 0;
    while (i < len && data[i] == 0) {
        i++;
    }
    return i == len;
}

/* Did a part of the `len` bytes never arrive? `got` of them are there. */
static bool looks_unfinished(const uint8_t *data, size_t got, size_t len)
{
    if (got < len || data[len - 1] == 0) {
        return true;
    }
    for (size_t at = 0; at < len; at += STI_COMMAND_SECTOR) {
        size_t part = len - at < STI_COMMAND_SECTOR ? len - at : STI_COMMAND_SECTOR;
        if (all_zero(data + at, part)) {
            return true;
        }
    }
    return false;
}

/* What log and snapshot share: magic, checksum, version, length of the header. */
static int head_check(const uint8_t *data, size_t len, const uint8_t magic[8], uint32_t head_len,
                      const char *what, size_t *pos, struct sti_err *err)
{
    *pos = 0;
    if (len < head_len) {
        *pos = len;
        return sti_err_set(err, STI_E_DATA_LOSS, "the file ends within its header");
    }
    if (memcmp(data, magic, 8) != 0) {
        return sti_err_set(err, STI_E_DATA_LOSS, "this is not a %s", what);
    }
    if (batch_load32(data + HEADER_CRC_POS) != sti_crc32c(0, data, HEADER_CRC_POS)) {
        return sti_err_set(err, STI_E_DATA_LOSS, "the header's checksum is wrong");
    }
    if (batch_load32(data + 8) != STI_COMMAND_VERSION) {
        *pos = 8;
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "format version %u, this release reads %u: upgrade StreamIt",
                           batch_load32(data + 8), STI_COMMAND_VERSION);
    }
    if (batch_load32(data + 12) != head_len) {
        *pos = 12;
        return sti_err_set(err, STI_E_DATA_LOSS, "the header says another length");
    }
    return STI_OK;
}

void sti_command_log_header_put(uint8_t out[STI_COMMAND_LOG_HEADER_LEN], uint64_t base)
{
    memset(out, 0, STI_COMMAND_LOG_HEADER_LEN);
    memcpy(out, log_magic, sizeof log_magic);
    batch_store32(out + 8, STI_COMMAND_VERSION);
    batch_store32(out + 12, STI_COMMAND_LOG_HEADER_LEN);
    batch_store64(out + 16, base);
    batch_store32(out + HEADER_CRC_POS, sti_crc32c(0, out, HEADER_CRC_POS));
}

int sti_command_log_header_get(const uint8_t *data, size_t len, uint64_t *base, size_t *pos,
                               struct sti_err *err)
{
    int rc = head_check(data, len, log_magic, STI_COMMAND_LOG_HEADER_LEN, "command log", pos, err);
    *base = rc == STI_OK ? batch_load64(data + 16) : 0;
    return rc;
}

void sti_command_frame_seal(uint8_t *out, uint32_t len, uint32_t count, uint64_t first)
{
    out[len - 1] = END_MARK;
    batch_store32(out, len);
    batch_store32(out + 4, count);
    batch_store64(out + 8, first);
    batch_store32(out + 16, sti_crc32c(0, out + STI_COMMAND_FRAME_HEAD_LEN,
                                       (size_t)len - STI_COMMAND_FRAME_OVERHEAD));
    batch_store32(out + FRAME_CRC_POS, sti_crc32c(0, out, FRAME_CRC_POS));
    memcpy(out + FRAME_MARK_POS, frame_mark, sizeof frame_mark);
}

/* Decode a frame's head of which `got` bytes are there. */
static bool head_sound(const uint8_t *data, size_t got, struct sti_command_frame *out)
{
    if (got < STI_COMMAND_FRAME_HEAD_LEN ||
        memcmp(data + FRAME_MARK_POS, frame_mark, sizeof frame_mark) != 0 ||
        batch_load32(data + FRAME_CRC_POS) != sti_crc32c(0, data, FRAME_CRC_POS)) {
        return false;
    }
    out->len = batch_load32(data);
    out->count = batch_load32(data + 4);
    out->first = batch_load64(data + 8);
    out->payload_crc = batch_load32(data + 16);
    return out->len >= STI_COMMAND_FRAME_OVERHEAD + STI_COMMAND_OVERHEAD + 1u && out->count >= 1 &&
           out->len <= STI_COMMAND_FRAME_LEN_MAX && out->count <= STI_COMMAND_COUNT_MAX;
}

int sti_command_frame_head(const uint8_t *data, size_t got, struct sti_command_frame *out)
{
    *out = (struct sti_command_frame){0};
    got = got < STI_COMMAND_SECTOR ? got : STI_COMMAND_SECTOR;
    if (got == 0 || all_zero(data, got)) {
        return STI_FRAME_NONE;
    }
    if (head_sound(data, got, out)) {
        return STI_FRAME_SOUND;
    }
    return looks_unfinished(data, got, STI_COMMAND_FRAME_HEAD_LEN) ? STI_FRAME_TAIL : STI_FRAME_BAD;
}

int sti_command_frame_judge(const uint8_t *data, size_t got, const struct sti_command_frame *frame)
{
    if (got >= frame->len && data[frame->len - 1] == END_MARK &&
        sti_crc32c(0, data + STI_COMMAND_FRAME_HEAD_LEN,
                   (size_t)frame->len - STI_COMMAND_FRAME_OVERHEAD) == frame->payload_crc) {
        return STI_FRAME_SOUND;
    }
    return looks_unfinished(data, got, frame->len) ? STI_FRAME_TAIL : STI_FRAME_BAD;
}

int sti_command_next(const uint8_t *data, const struct sti_command_frame *frame, uint32_t *taken,
                     size_t *at, const uint8_t **command, size_t *len)
{
    size_t end = frame->len - 1;
    if (*at == 0) {
        *at = STI_COMMAND_FRAME_HEAD_LEN;
        *taken = 0;
    }
    *command = NULL;
    *len = 0;
    if (*taken == frame->count) {
        return *at == end ? STI_E_END : STI_E_DATA_LOSS;
    }
    size_t left = end - *at;
    if (left < STI_COMMAND_OVERHEAD || left - STI_COMMAND_OVERHEAD < batch_load32(data + *at)) {
        return STI_E_DATA_LOSS;
    }
    *len = batch_load32(data + *at);
    *command = data + *at + STI_COMMAND_OVERHEAD;
    *at += STI_COMMAND_OVERHEAD + *len;
    ++*taken;
    return STI_OK;
}

void sti_command_snapshot_put(uint8_t out[STI_COMMAND_SNAPSHOT_HEAD_LEN],
                              const struct sti_command_snapshot *snapshot)
{
    memset(out, 0, STI_COMMAND_SNAPSHOT_HEAD_LEN);
    memcpy(out, snapshot_magic, sizeof snapshot_magic);
    batch_store32(out + 8, STI_COMMAND_VERSION);
    batch_store32(out + 12, STI_COMMAND_SNAPSHOT_HEAD_LEN);
    batch_store64(out + 16, snapshot->index);
    batch_store64(out + 24, snapshot->payload_len);
    batch_store32(out + 32, snapshot->payload_crc);
    batch_store32(out + HEADER_CRC_POS, sti_crc32c(0, out, HEADER_CRC_POS));
}

int sti_command_snapshot_get(const uint8_t *data, size_t len, struct sti_command_snapshot *out,
                             size_t *pos, struct sti_err *err)
{
    *out = (struct sti_command_snapshot){0};
    int rc =
        head_check(data, len, snapshot_magic, STI_COMMAND_SNAPSHOT_HEAD_LEN, "snapshot", pos, err);
    if (rc == STI_OK) {
        out->index = batch_load64(data + 16);
        out->payload_len = batch_load64(data + 24);
        out->payload_crc = batch_load32(data + 32);
    }
    return rc;
}

int sti_command_file_kind(const char *name, uint64_t *index)
{
    int kind = strncmp(name, "log-", 4) == 0 ? 'l' : strncmp(name, "snapshot-", 9) == 0 ? 's' : 0;
    const char *digits = kind == 'l' ? name + 4 : name + 9;
    *index = 0;
    if (kind == 0 || strspn(digits, "0123456789") != DIGITS || digits[DIGITS] != '\0') {
        return 0;
    }
    errno = 0;
    *index = strtoull(digits, NULL, 10);
    return errno == 0 ? kind : 0;
}
