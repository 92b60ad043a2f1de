/* dump_index.c -- the two indexes of a segment: printed, and held against the log.
 *
 * A cursor stands at an entry and is fed with the batches of the log in their order. An entry of
 * the offset index is right when a batch begins at its position and ends with its offset; one of
 * the time index when a batch ends with its offset, has its timestamp, and no batch before is
 * newer. Entries must ascend. The first wrong one of a file is told, and ends its judgement.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"

static uint64_t entry_len(const struct dump_cursor *cursor)
{
    return cursor->by_time ? STI_TIME_ENTRY_LEN : STI_INDEX_ENTRY_LEN;
}

/* Decode the entry at cursor->at. @return 0, an errno; cursor->more says whether there is one */
static int load(struct dump_cursor *cursor)
{
    uint64_t len = entry_len(cursor);
    cursor->more = cursor->present && cursor->size - cursor->at >= len;
    if (!cursor->more) {
        return 0;
    }
    if (cursor->at < cursor->buf_pos || cursor->at + len > cursor->buf_pos + cursor->buf_len) {
        int rc =
            dump_read(&cursor->fd, cursor->buf, sizeof cursor->buf, cursor->at, &cursor->buf_len);
        cursor->buf_pos = cursor->at;
        if (rc != 0 || cursor->buf_len < len) {
            cursor->more = false;
            return rc;
        }
    }
    const uint8_t *bytes = cursor->buf + (cursor->at - cursor->buf_pos);
    if (cursor->by_time) {
        cursor->time = sti_time_entry_get(bytes);
    } else {
        cursor->index = sti_index_entry_get(bytes);
    }
    return 0;
}

static void cursor_open(struct dump_cursor *cursor, const struct dump_partition *part,
                        const char *name, int64_t base_offset, bool by_time)
{
    struct stat st;
    cursor->by_time = by_time;
    cursor->base_offset = base_offset;
    cursor->max_timestamp = -1;
    cursor->size = cursor->at = cursor->buf_pos = cursor->buf_len = 0;
    cursor->fd = openat(part->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    cursor->error = cursor->fd < 0 ? errno : 0;
    cursor->time_before.timestamp = -1;
    cursor->present = cursor->fd >= 0 && fstat(cursor->fd, &st) == 0 && S_ISREG(st.st_mode);
    if (cursor->present) {
        cursor->size = (uint64_t)st.st_size;
    }
    (void)load(cursor);
}

void dump_cursor_open(struct dump_cursor *cursor, const struct dump_partition *part,
                      int64_t base_offset, bool by_time)
{
    char name[STI_LOG_NAME_LEN];
    sti_log_name(name, base_offset, by_time ? ".timeindex" : ".index");
    dump_file_begin(NULL, &cursor->file, part->dir, name, NULL, -1);
    cursor_open(cursor, part, name, base_offset, by_time);
}

/* Go on to the next entry, which must be above this one. */
static void next(struct dump *dump, struct dump_cursor *cursor)
{
    cursor->index_before = cursor->index;
    cursor->time_before = cursor->time;
    cursor->at += entry_len(cursor);
    int rc = load(cursor);
    if (rc != 0) {
        dump_failure(dump, &cursor->file, rc);
    }
    if (!cursor->more) {
        return;
    }
    if (cursor->by_time ? cursor->time.timestamp <= cursor->time_before.timestamp ||
                              cursor->time.rel_offset <= cursor->time_before.rel_offset
                        : cursor->index.pos <= cursor->index_before.pos ||
                              cursor->index.rel_offset <= cursor->index_before.rel_offset) {
        dump_damage(dump, &cursor->file, cursor->at, "the entry is not above the one before it");
    }
}

static int64_t entry_offset(const struct dump_cursor *cursor)
{
    return cursor->base_offset +
           (cursor->by_time ? cursor->time.rel_offset : cursor->index.rel_offset);
}

static void offset_entry(struct dump *dump, struct dump_cursor *cursor, uint64_t pos,
                         int64_t last_offset)
{
    if (cursor->index.pos < pos) {
        dump_damage(dump, &cursor->file, cursor->at,
                    "the entry says position %" PRIu32 ", where no batch begins",
                    cursor->index.pos);
    } else if (entry_offset(cursor) != last_offset) {
        dump_damage(dump, &cursor->file, cursor->at,
                    "the entry says that the batch at position %" PRIu32
                    " ends with offset %" PRId64 ", it ends with %" PRId64,
                    cursor->index.pos, entry_offset(cursor), last_offset);
    }
}

static void time_entry(struct dump *dump, struct dump_cursor *cursor,
                       const struct sti_batch_header *header)
{
    if (entry_offset(cursor) < sti_batch_last_offset(header)) {
        dump_damage(dump, &cursor->file, cursor->at,
                    "the entry says offset %" PRId64 ", with which no batch ends",
                    entry_offset(cursor));
    } else if (cursor->time.timestamp != header->max_timestamp) {
        dump_damage(dump, &cursor->file, cursor->at,
                    "the entry says timestamp %" PRId64 " for offset %" PRId64 ", it is %" PRId64,
                    cursor->time.timestamp, entry_offset(cursor), header->max_timestamp);
    } else if (cursor->time.timestamp < cursor->max_timestamp) {
        dump_damage(dump, &cursor->file, cursor->at,
                    "the entry says timestamp %" PRId64 ", a batch before it has %" PRId64,
                    cursor->time.timestamp, cursor->max_timestamp);
    }
}

void dump_cursor_batch(struct dump *dump, struct dump_cursor *cursor, uint64_t pos,
                       const struct sti_batch_header *header)
{
    int64_t last = sti_batch_last_offset(header);
    while (cursor->more &&
           (cursor->by_time ? entry_offset(cursor) <= last : (uint64_t)cursor->index.pos <= pos)) {
        if (cursor->by_time) {
            time_entry(dump, cursor, header);
        } else {
            offset_entry(dump, cursor, pos, last);
        }
        next(dump, cursor);
    }
    if (header->max_timestamp > cursor->max_timestamp) {
        cursor->max_timestamp = header->max_timestamp;
    }
}

void dump_cursor_skip(struct dump *dump, struct dump_cursor *cursor, uint64_t pos, int64_t offset)
{
    while (cursor->more &&
           (cursor->by_time ? entry_offset(cursor) < offset : (uint64_t)cursor->index.pos < pos)) {
        if (cursor->by_time && cursor->time.timestamp > cursor->max_timestamp) {
            cursor->max_timestamp = cursor->time.timestamp;
        }
        next(dump, cursor);
    }
}

void dump_cursor_end(struct dump *dump, struct dump_cursor *cursor, bool lenient, bool closed)
{
    if (!cursor->present) {
        dump_warning(dump, &cursor->file, 0, "it is missing, and will be made anew");
    } else if (cursor->more && lenient) {
        dump_warning(dump, &cursor->file, cursor->at,
                     "entries point behind the log's end: the index will be made anew");
    } else if (cursor->more) {
        dump_damage(dump, &cursor->file, cursor->at, "the entry points behind the log's end");
    } else if (cursor->at != cursor->size && !cursor->file.damaged) {
        dump_damage(dump, &cursor->file, cursor->at, "%" PRIu64 " bytes of an entry of %" PRIu64,
                    cursor->size - cursor->at, entry_len(cursor));
    } else if (closed && cursor->by_time && !cursor->file.damaged &&
               cursor->time_before.timestamp != cursor->max_timestamp &&
               cursor->max_timestamp >= 0) {
        dump_warning(dump, &cursor->file, cursor->size,
                     "its last entry does not tell the newest timestamp of the segment, %" PRId64,
                     cursor->max_timestamp);
    }
    if (cursor->fd >= 0) {
        (void)close(cursor->fd);
        cursor->fd = -1;
    }
}

static void print_entry(const struct dump *dump, const struct dump_cursor *cursor)
{
    json_int_t relative = cursor->by_time ? cursor->time.rel_offset : cursor->index.rel_offset;
    json_t *line = cursor->by_time
                       ? json_pack("{s:I,s:I}", "timestamp", (json_int_t)cursor->time.timestamp,
                                   "relative_offset", relative)
                       : json_pack("{s:I,s:I}", "relative_offset", relative, "position",
                                   (json_int_t)cursor->index.pos);
    if (cursor->base_offset >= 0) {
        json_object_set_new(line, "offset", json_integer(cursor->base_offset + relative));
    }
    dump_line(dump, &cursor->file, "entry", line);
}

void dump_index(struct dump *dump, const struct dump_partition *part, const char *name,
                int64_t base_offset, bool by_time)
{
    struct dump_cursor cursor = {.fd = -1};
    cursor_open(&cursor, part, name, base_offset, by_time);
    dump_file_begin(dump, &cursor.file, part->dir, name, by_time ? "time index" : "offset index",
                    (int64_t)cursor.size);
    if (cursor.fd < 0) {
        dump_failure(dump, &cursor.file, cursor.error);
        return;
    }
    while (cursor.more && !dump->quiet && !cli_interrupted) {
        print_entry(dump, &cursor);
        cursor.at += entry_len(&cursor);
        int rc = load(&cursor);
        if (rc != 0) {
            dump_failure(dump, &cursor.file, rc);
        }
    }
    (void)close(cursor.fd);
}
