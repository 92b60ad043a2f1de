/* fuzz_files.c -- the files of a partition and of the metadata log, taken apart in memory.
 *
 * The first byte chooses: a small text (what is understood and written again is the same text), the
 * name of a file, entries of an index, a walk over a log with a window of any size, frames of the
 * command log.
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "streamit/command_log.h"
#include "streamit/log_files.h"

static void small_texts(const char *text, size_t len)
{
    char again[512];
    uint8_t id[16];
    size_t pos = 0;
    int64_t offset;
    struct sti_err err;
    struct sti_recovery_point point;
    int n;
    if (sti_meta_parse(text, len, id, &pos, &err) == STI_OK) {
        n = sti_meta_format(again, sizeof again, id);
        FUZZ_EXPECT(n == (int)len && memcmp(again, text, len) == 0);
    } else {
        FUZZ_EXPECT(pos <= len);
    }
    if (sti_recovery_point_parse(text, len, &point, &pos, &err) == STI_OK) {
        struct sti_recovery_point second;
        n = sti_recovery_point_format(again, sizeof again, &point);
        FUZZ_EXPECT(n > 0);
        FUZZ_EXPECT(sti_recovery_point_parse(again, (size_t)n, &second, NULL, NULL) == STI_OK);
        FUZZ_EXPECT(second.recovery_point == point.recovery_point && second.clean == point.clean &&
                    second.written_end == point.written_end);
    } else {
        FUZZ_EXPECT(pos <= len);
    }
    if (sti_offset_parse(text, len, &offset, &pos, &err) == STI_OK) {
        FUZZ_EXPECT(offset >= 0);
        FUZZ_EXPECT(sti_offset_format(again, sizeof again, offset) > 0);
    } else {
        FUZZ_EXPECT(pos <= len);
    }
}

static void lists(const char *text, size_t len)
{
    struct sti_epoch_entry entry;
    struct sti_damage_range range;
    struct sti_err err;
    size_t at = 0, before = 0;
    int rc;
    while ((rc = sti_epochs_next(text, len, &at, &entry, &err)) == STI_OK) {
        FUZZ_EXPECT(entry.epoch >= 0 && entry.start_offset >= 0 && at > before && at <= len);
        before = at;
    }
    FUZZ_EXPECT(at <= len && (rc == STI_E_END || rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED));
    at = before = 0;
    while ((rc = sti_damage_next(text, len, &at, &range, &err)) == STI_OK) {
        FUZZ_EXPECT(range.from_pos <= range.to_pos && range.from_offset < range.to_offset);
        FUZZ_EXPECT(at > before && at <= len);
        before = at;
    }
    FUZZ_EXPECT(at <= len && (rc == STI_E_END || rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED));
}

static void names(const char *text)
{
    int64_t base = -1;
    uint64_t index;
    char again[STI_LOG_NAME_LEN];
    if (sti_log_file_kind(text, &base) == STI_LOG_FILE_LOG) {
        sti_log_name(again, base, ".log");
        FUZZ_EXPECT(strcmp(again, text) == 0);
    }
    FUZZ_EXPECT(base >= 0);
    (void)sti_command_file_kind(text, &index);
}

struct bytes {
    const uint8_t *data;
    size_t len;
};

static int read_bytes(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    const struct bytes *from = ctx;
    *got = pos >= from->len ? 0 : from->len - pos < len ? (size_t)(from->len - pos) : len;
    memcpy(buf, from->data + pos, *got);
    return 0;
}

static void walk(const uint8_t *data, size_t len, size_t window)
{
    struct bytes from = {data, len};
    struct sti_log_walk w;
    struct sti_batch_header header;
    struct sti_err err;
    uint64_t pos = 0, found;
    int64_t floor = 0;
    uint8_t *buf = malloc(window);
    FUZZ_EXPECT(buf != NULL);
    sti_log_walk_init(&w, read_bytes, &from, buf, window, len);
    for (;;) {
        int rc = sti_log_walk_prove(&w, pos, &header, &err);
        if (rc == STI_E_DATA_LOSS) {
            rc = sti_log_walk_find(&w, pos + 1, floor, &found, &header, &err);
            FUZZ_EXPECT(rc == STI_OK || rc == STI_E_NOT_FOUND);
            if (rc == STI_OK) {
                FUZZ_EXPECT(found > pos && header.base_offset >= floor);
                FUZZ_EXPECT(sti_log_walk_prove(&w, found, &header, NULL) == STI_OK);
                pos = found;
            }
        }
        if (rc != STI_OK) {
            FUZZ_EXPECT(rc == STI_E_END || rc == STI_E_NOT_FOUND);
            break;
        }
        FUZZ_EXPECT(header.total_len <= len - pos);
        pos += header.total_len;
        floor = sti_batch_last_offset(&header) + 1;
    }
    free(buf);
}

static void commands(const uint8_t *data, size_t len)
{
    struct sti_command_frame frame;
    struct sti_command_snapshot snapshot;
    struct sti_err err;
    uint64_t base;
    size_t pos;
    if (sti_command_log_header_get(data, len, &base, &pos, &err) != STI_OK) {
        FUZZ_EXPECT(pos <= len);
    }
    if (sti_command_snapshot_get(data, len, &snapshot, &pos, &err) != STI_OK) {
        FUZZ_EXPECT(pos <= len);
    }
    int state = sti_command_frame_head(data, len, &frame);
    if (state == STI_FRAME_SOUND && sti_command_frame_judge(data, len < frame.len ? len : frame.len,
                                                            &frame) == STI_FRAME_SOUND) {
        const uint8_t *command;
        size_t at = 0, command_len;
        uint32_t taken;
        while (sti_command_next(data, &frame, &taken, &at, &command, &command_len) == STI_OK) {
            FUZZ_EXPECT(command + command_len <= data + len);
        }
        FUZZ_EXPECT(taken <= frame.count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t what = fuzz_byte(&data, &len), more = fuzz_byte(&data, &len);
    char *text = malloc(len + 1);
    FUZZ_EXPECT(text != NULL);
    memcpy(text, data, len);
    text[len] = '\0';
    switch (what % 6) {
    case 0:
        small_texts(text, len);
        break;
    case 1:
        lists(text, len);
        break;
    case 2:
        names(text);
        break;
    case 3:
        walk(data, len, (size_t)STI_BATCH_HEADER_LEN + 16u * more);
        break;
    case 4:
        commands(data, len);
        break;
    default:
        for (size_t at = 0; len - at >= STI_TIME_ENTRY_LEN; at += STI_TIME_ENTRY_LEN) {
            uint8_t out[STI_TIME_ENTRY_LEN];
            struct sti_time_entry time = sti_time_entry_get(data + at);
            sti_time_entry_put(out, time.timestamp, time.rel_offset);
            FUZZ_EXPECT(memcmp(out, data + at, sizeof out) == 0);
            struct sti_index_entry entry = sti_index_entry_get(data + at);
            sti_index_entry_put(out, entry.rel_offset, entry.pos);
            FUZZ_EXPECT(memcmp(out, data + at, STI_INDEX_ENTRY_LEN) == 0);
        }
        break;
    }
    free(text);
    return 0;
}
