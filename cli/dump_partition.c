/* dump_partition.c -- the folder of a partition: its small files, then segment by segment.
 *
 * What the files promise each other is judged here: segments follow one another without a gap,
 * begin with the offset in their name, and reach as far as the recovery point says; epochs ascend.
 * Files that are not ours are listed and left alone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "dump.h"

enum { EPOCHS_BYTES_MAX = 16 << 20 };

/* ---- leader-epoch-checkpoint --------------------------------------------------------------- */

/* Read the checkpoint into memory. Entries of epochs whose first append failed are in it too, and
 * offsets fall back where a log was cut: the later line counts. */
static int load_epochs(struct dump_partition *part, size_t *pos, struct sti_err *err)
{
    char *text;
    size_t len, at = 0, capacity = 0;
    struct sti_epoch_entry entry;
    int rc = dump_read_small(part->dir_fd, STI_FILE_EPOCHS, EPOCHS_BYTES_MAX, &text, &len);
    free(part->epochs);
    part->epochs = NULL;
    part->epoch_count = 0;
    part->epochs_known = false;
    *pos = 0;
    if (rc != 0) {
        return rc == ENOENT ? STI_E_NOT_FOUND
                            : sti_err_set(err, STI_E_IO, STI_FILE_EPOCHS ": %s", strerror(rc));
    }
    while ((rc = sti_epochs_next(text, len, &at, &entry, err)) == STI_OK) {
        size_t line = at;
        if (part->epoch_count > 0 && entry.epoch <= part->epochs[part->epoch_count - 1].epoch) {
            rc = sti_err_set(err, STI_E_DATA_LOSS, "epoch %" PRId32 " is not above the one before",
                             entry.epoch);
            at = line;
            break;
        }
        if (part->epoch_count == capacity) {
            capacity = capacity == 0 ? 16 : capacity * 2;
            struct sti_epoch_entry *grown = realloc(part->epochs, capacity * sizeof entry);
            if (grown == NULL) {
                rc = sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
                break;
            }
            part->epochs = grown;
        }
        part->epochs[part->epoch_count++] = entry;
    }
    free(text);
    *pos = at;
    part->epochs_known = rc == STI_E_END;
    return rc == STI_E_END ? STI_OK : rc;
}

static int32_t epoch_at(const struct dump_partition *part, int64_t offset)
{
    size_t i = part->epoch_count;
    while (i > 0 && part->epochs[i - 1].start_offset > offset) {
        i--;
    }
    return i == 0 ? -1 : part->epochs[i - 1].epoch;
}

bool dump_epoch_agrees(struct dump_partition *part, int64_t base_offset, int32_t epoch,
                       int32_t *expected)
{
    size_t pos;
    if (!part->epochs_known || (*expected = epoch_at(part, base_offset)) == epoch) {
        return true;
    }
    if (!part->epochs_reloaded) { /* a node may have gone on since */
        part->epochs_reloaded = true;
        if (load_epochs(part, &pos, NULL) != STI_OK) {
            return true;
        }
    }
    return (*expected = epoch_at(part, base_offset)) == epoch;
}

/* ---- small files --------------------------------------------------------------------------- */

/* Read a small text and tell its damage. @return whether it is there; *text is returned then */
static bool small_text(struct dump *dump, const struct dump_partition *part, const char *name,
                       bool show, struct dump_file *file, char **text, size_t *len)
{
    int rc = dump_read_small(part->dir_fd, name, STI_SMALL_FILE_MAX, text, len);
    if (rc == ENOENT) {
        return false;
    }
    dump_file_begin(dump, file, part->dir, name, show ? "text" : NULL, (int64_t)*len);
    if (rc == EFBIG && show) {
        dump_damage(dump, file, STI_SMALL_FILE_MAX, "it is larger than such a file can be");
    } else if (rc != 0 && show) {
        dump_failure(dump, file, rc);
    }
    return rc == 0;
}

/* What a parser said of a small text. @return whether it was right */
static bool judged(struct dump *dump, struct dump_file *file, bool show, int rc, size_t pos,
                   const struct sti_err *err, json_t *members)
{
    if (rc == STI_OK && show && !dump->quiet) {
        dump_line(dump, file, "text", members);
    } else {
        json_decref(members);
    }
    if (rc == STI_E_UNSUPPORTED && show) {
        dump_warning(dump, file, pos, "%s", err->msg);
    } else if (rc != STI_OK && show) {
        dump_damage(dump, file, pos, "%s", err->msg);
    }
    return rc == STI_OK;
}

static void load_meta(struct dump *dump, const struct dump_partition *part, bool show)
{
    struct dump_file file;
    struct sti_err err;
    char *text, id_text[37] = "";
    uint8_t id[16];
    size_t len, pos = 0;
    if (!show) {
        return;
    }
    if (!small_text(dump, part, STI_FILE_META, show, &file, &text, &len)) {
        return;
    }
    int rc = sti_meta_parse(text, len, id, &pos, &err);
    if (rc == STI_OK) {
        cli_uuid(id, id_text);
    }
    (void)judged(dump, &file, show, rc, pos, &err, json_pack("{s:s}", "topic_id", id_text));
    free(text);
}

static void load_recovery(struct dump *dump, struct dump_partition *part, bool show)
{
    struct sti_recovery_point point = {0};
    struct dump_file file;
    struct sti_err err;
    char *text;
    size_t len, pos = 0;
    if (!small_text(dump, part, STI_FILE_RECOVERY, show, &file, &text, &len)) {
        return;
    }
    int rc = sti_recovery_point_parse(text, len, &point, &pos, &err);
    json_t *members = json_pack("{s:I,s:s,s:b}", "recovery_point", (json_int_t)point.recovery_point,
                                "boot_id", point.boot_id, "clean", (int)point.clean);
    if (point.clean) {
        json_object_set_new(members, "end", json_integer(point.written_end));
        json_object_set_new(members, "active_base", json_integer(point.active_base));
        json_object_set_new(members, "active_size", json_integer(point.active_size));
        json_object_set_new(members, "max_timestamp", json_integer(point.max_timestamp));
        json_object_set_new(members, "last_epoch", json_integer(point.last_epoch));
    }
    if (judged(dump, &file, show, rc, pos, &err, members)) {
        part->clean = point.clean;
        part->synced_end = point.clean ? point.written_end : point.recovery_point;
    }
    free(text);
}

/* log-start-offset or truncation. */
static void load_offset(struct dump *dump, const struct dump_partition *part, const char *name,
                        bool show, int64_t *out)
{
    struct dump_file file;
    struct sti_err err;
    char *text;
    size_t len, pos = 0;
    int64_t offset = -1;
    if (!small_text(dump, part, name, show, &file, &text, &len)) {
        return;
    }
    int rc = sti_offset_parse(text, len, &offset, &pos, &err);
    if (judged(dump, &file, show, rc, pos, &err,
               json_pack("{s:I}", "offset", (json_int_t)offset))) {
        *out = offset;
    }
    free(text);
}

/* The ranges that the node has found bad: the log's own judgement tells of what is bad now. */
static void show_damage(struct dump *dump, const struct dump_partition *part)
{
    struct dump_file file;
    struct sti_damage_range range;
    struct sti_err err;
    char *text;
    size_t len, at = 0;
    int rc = dump_read_small(part->dir_fd, STI_FILE_DAMAGE, STI_DAMAGE_FILE_MAX, &text, &len);
    if (rc == ENOENT) {
        return;
    }
    dump_file_begin(dump, &file, part->dir, STI_FILE_DAMAGE, "text", (int64_t)len);
    if (rc != 0 && rc != EFBIG) {
        dump_failure(dump, &file, rc);
        return;
    }
    int found = rc == EFBIG ? sti_err_set(&err, STI_E_DATA_LOSS, "it is larger than it can be") : 0;
    while (found == STI_OK && (found = sti_damage_next(text, len, &at, &range, &err)) == STI_OK) {
        if (!dump->quiet) {
            dump_line(dump, &file, "range",
                      json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "segment",
                                (json_int_t)range.base_offset, "from_position",
                                (json_int_t)range.from_pos, "to_position", (json_int_t)range.to_pos,
                                "from_offset", (json_int_t)range.from_offset, "to_offset",
                                (json_int_t)range.to_offset, "crc", (json_int_t)range.crc));
        }
    }
    if (found == STI_E_UNSUPPORTED) {
        dump_warning(dump, &file, at, "%s", err.msg);
    } else if (found != STI_E_END) {
        dump_damage(dump, &file, at, "%s", err.msg);
    } else {
        dump_warning(dump, &file, 0, "the node has found damage before, and has written it down");
    }
    free(text);
}

static void show_epochs(struct dump *dump, struct dump_partition *part, bool show)
{
    struct dump_file file;
    struct sti_err err;
    size_t pos;
    sti_err_clear(&err);
    int rc = load_epochs(part, &pos, &err);
    if (!show || rc == STI_E_NOT_FOUND) {
        return;
    }
    dump_file_begin(dump, &file, part->dir, STI_FILE_EPOCHS, "text", -1);
    for (size_t i = 0; i < part->epoch_count && !dump->quiet; i++) {
        dump_line(dump, &file, "epoch",
                  json_pack("{s:I,s:I}", "epoch", (json_int_t)part->epochs[i].epoch, "start_offset",
                            (json_int_t)part->epochs[i].start_offset));
    }
    if (rc == STI_E_IO || rc == STI_E_NO_MEMORY) {
        dump_failure(dump, &file, rc == STI_E_IO ? EIO : ENOMEM);
    } else if (rc == STI_E_UNSUPPORTED) {
        dump_warning(dump, &file, pos, "%s", err.msg);
    } else if (rc != STI_OK) {
        dump_damage(dump, &file, pos, "%s", err.msg);
    }
}

void dump_partition_load(struct dump *dump, struct dump_partition *part, int dir_fd,
                         const char *dir, bool show)
{
    *part =
        (struct dump_partition){.dir = dir, .dir_fd = dir_fd, .log_start = -1, .truncation = -1};
    load_meta(dump, part, show);
    load_recovery(dump, part, show);
    load_offset(dump, part, STI_FILE_LOG_START, show, &part->log_start);
    load_offset(dump, part, STI_FILE_TRUNCATION, show, &part->truncation);
    if (show) {
        show_damage(dump, part);
    }
    show_epochs(dump, part, show);
}

void dump_partition_free(struct dump_partition *part)
{
    free(part->epochs);
    part->epochs = NULL;
}

/* ---- a folder ------------------------------------------------------------------------------ */

/* The base offset of the log behind names[i], -1: none follows. Names are sorted, so that segments
 * stand in the order of their offsets. */
static int64_t next_log(int dir_fd, char *const *names, size_t count, size_t i)
{
    int64_t base;
    while (++i < count) {
        if (dump_file_kind(dir_fd, names[i], &base) == STI_LOG_FILE_LOG) {
            return base;
        }
    }
    return -1;
}

/* How a segment must follow the one before it. */
static void judge_gap(struct dump *dump, const struct dump_partition *part, const char *name,
                      const struct dump_segment *seg, int64_t end_before)
{
    struct dump_file file;
    dump_file_begin(dump, &file, part->dir, name, NULL, -1);
    if (end_before >= 0 && end_before != seg->base_offset) {
        if (part->truncation >= 0 && seg->base_offset >= part->truncation) {
            return; /* told once for the folder */
        }
        dump_damage(dump, &file, 0,
                    "the segment begins with offset %" PRId64
                    ", the one before it ends with offset %" PRId64 ": %s",
                    seg->base_offset, end_before - 1,
                    end_before < seg->base_offset ? "what lay between is missing" : "they overlap");
    }
}

static void segments(struct dump *dump, struct dump_partition *part, char *const *names,
                     size_t count)
{
    int64_t end = -1, base, first = -1;
    int32_t epoch = -1;
    for (size_t i = 0; i < count && !cli_interrupted; i++) {
        int kind = dump_file_kind(part->dir_fd, names[i], &base);
        if (kind == STI_LOG_FILE_LOG) {
            struct dump_segment seg = {.base_offset = base,
                                       .last = next_log(part->dir_fd, names, count, i) < 0,
                                       .expected = base,
                                       .epoch = epoch};
            first = first < 0 ? base : first;
            judge_gap(dump, part, names[i], &seg, end);
            dump_log(dump, part, names[i], &seg);
            end = seg.expected;
            epoch = seg.epoch;
        } else if (kind == STI_LOG_FILE_INDEX || kind == STI_LOG_FILE_TIME_INDEX) {
            dump_index(dump, part, names[i], base, kind == STI_LOG_FILE_TIME_INDEX);
        }
    }
    struct dump_file file;
    if (part->truncation >= 0) {
        dump_file_begin(dump, &file, part->dir, STI_FILE_TRUNCATION, NULL, -1);
        dump_warning(dump, &file, 0,
                     "a truncation to offset %" PRId64 " is under way: the next start finishes it",
                     part->truncation);
    }
    dump_file_begin(dump, &file, part->dir, STI_FILE_LOG_START, NULL, -1);
    if (end >= 0 && part->log_start > end) {
        dump_damage(dump, &file, 2,
                    "the log starts at offset %" PRId64 ", behind its end at %" PRId64,
                    part->log_start, end);
    }
    if (first < 0 && part->synced_end > 0 && part->log_start < part->synced_end && !part->clean) {
        dump_file_begin(dump, &file, part->dir, STI_FILE_RECOVERY, NULL, -1);
        dump_damage(dump, &file, 0,
                    "everything below offset %" PRId64 " was synced, and there is no segment",
                    part->synced_end);
    }
}

void dump_partition_folder(struct dump *dump, int dir_fd, const char *dir, char *const *names,
                           size_t count)
{
    struct dump_partition part;
    struct dump_file file;
    bool has_log = false, has_meta = false;
    int64_t base;
    dump->partitions++;
    dump_partition_load(dump, &part, dir_fd, dir, true);
    segments(dump, &part, names, count);
    for (size_t i = 0; i < count; i++) {
        int kind = dump_file_kind(dir_fd, names[i], &base);
        has_log = has_log || kind == STI_LOG_FILE_LOG;
        has_meta = has_meta || kind == STI_LOG_FILE_META;
        if (kind == STI_LOG_FILE_SWAP || kind == STI_LOG_FILE_TEMPORARY) {
            dump_file_begin(dump, &file, dir, names[i], "unfinished, replaced or removed later",
                            -1);
        } else if (kind == STI_LOG_FILE_OTHER) {
            dump_file_begin(dump, &file, dir, names[i], "not a file of the log, left alone", -1);
        }
    }
    if (has_log && !has_meta) {
        dump_file_begin(dump, &file, dir, STI_FILE_META, NULL, -1);
        dump_warning(dump, &file, 0, "it is missing, and is written anew at the next start");
    }
    if (has_log && !part.epochs_known) {
        dump_file_begin(dump, &file, dir, STI_FILE_EPOCHS, NULL, -1);
        dump_warning(dump, &file, 0, "there is none that can be read: epochs are not compared");
    }
    dump_partition_free(&part);
}

/* ---- one file ------------------------------------------------------------------------------ */

static bool ends_with(const char *text, const char *suffix)
{
    size_t len = strlen(text), suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(text + len - suffix_len, suffix) == 0;
}

/* Is there a segment behind this one? Its siblings tell, by name alone. */
static bool is_last(int dir_fd, const struct dump_segment *seg)
{
    return seg->base_offset < 0 || !dump_has_later_log(dir_fd, seg->base_offset);
}

bool dump_partition_file(struct dump *dump, int dir_fd, const char *dir, const char *name)
{
    struct dump_partition part;
    int64_t base;
    int kind = sti_log_file_kind(name, &base);
    bool named = kind != STI_LOG_FILE_OTHER;
    if (!named) { /* a copy under another name */
        kind = ends_with(name, ".log") || ends_with(name, ".log.swap") ? STI_LOG_FILE_LOG
               : ends_with(name, ".timeindex")                         ? STI_LOG_FILE_TIME_INDEX
               : ends_with(name, ".index")                             ? STI_LOG_FILE_INDEX
                                                                       : STI_LOG_FILE_OTHER;
        base = -1;
    }
    if (kind == STI_LOG_FILE_OTHER || kind == STI_LOG_FILE_TEMPORARY) {
        return false;
    }
    dump_partition_load(dump, &part, dir_fd, dir, false);
    if (kind == STI_LOG_FILE_LOG || kind == STI_LOG_FILE_SWAP) {
        struct dump_segment seg = {
            .base_offset = kind == STI_LOG_FILE_LOG ? base : -1, .expected = base, .epoch = -1};
        seg.last = is_last(dir_fd, &seg);
        if (seg.base_offset < 0) { /* no word of its neighbours is about this one */
            part.synced_end = 0;
            part.epochs_known = false;
        }
        dump_log(dump, &part, name, &seg);
    } else if (kind == STI_LOG_FILE_INDEX || kind == STI_LOG_FILE_TIME_INDEX) {
        bool by_time = kind == STI_LOG_FILE_TIME_INDEX;
        dump_index(dump, &part, name, base, by_time);
        if (dump->verify && named) {
            dump_log_against_index(dump, &part, base, by_time);
        }
    } else if (kind == STI_LOG_FILE_META) {
        load_meta(dump, &part, true);
    } else if (kind == STI_LOG_FILE_RECOVERY) {
        load_recovery(dump, &part, true);
    } else if (kind == STI_LOG_FILE_EPOCHS) {
        show_epochs(dump, &part, true);
    } else if (kind == STI_LOG_FILE_DAMAGE) {
        show_damage(dump, &part);
    } else {
        load_offset(dump, &part, name, true, &base);
    }
    dump_partition_free(&part);
    return true;
}
