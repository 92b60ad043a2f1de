/* dump_log.c -- a log, batch by batch.
 *
 * Each batch is proved by its checksum; what the checksum does not cover is proved by its
 * neighbours: the base offset follows the batch before, the epoch does not fall and is the one that
 * the leader-epoch-checkpoint has for that offset. What does not hold is damage, but for an
 * unfinished tail, which recovery cuts and nobody was told was safe: bytes at the end of the last
 * segment, not below what is known to have been synced, that are fewer than a batch there says, or
 * all zero.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"

enum { WINDOW = 256 * 1024 };

struct pass {
    struct dump *dump;
    struct dump_partition *part;
    struct dump_segment *seg;
    struct dump_file file;
    struct dump_cursor *index, *time; /* NULL: not held against the log */
    struct sti_batch_iter *iter;
    bool resync; /* a batch before said a wrong offset: entries in between are not judged */
    int fd;
    struct sti_log_walk walk;
    uint8_t *window, *batch; /* batch: of batch_capacity bytes, for records */
    size_t batch_capacity;
};

static json_t *batch_members(uint64_t pos, const struct sti_batch_header *h, bool sound)
{
    const char *codec = sti_codec_name((int)(h->attributes & STI_BATCH_CODEC_MASK));
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:i,s:s,s:I,s:i,s:i,s:i,s:I,s:I,s:s,s:i,s:b}", "base_offset",
        (json_int_t)h->base_offset, "last_offset", (json_int_t)sti_batch_last_offset(h), "position",
        (json_int_t)pos, "length", (json_int_t)h->total_len, "epoch", (int)h->leader_epoch, "codec",
        codec == NULL ? "unknown" : codec, "producer_id", (json_int_t)h->producer_id,
        "producer_epoch", (int)h->producer_epoch, "base_sequence", (int)h->base_sequence, "count",
        (int)h->record_count, "base_timestamp", (json_int_t)h->base_timestamp, "max_timestamp",
        (json_int_t)h->max_timestamp, "timestamp_type",
        (h->attributes & STI_BATCH_LOG_APPEND_TIME) != 0 ? "append" : "create", "attributes",
        (int)h->attributes, "crc_ok", (int)sound);
}

/* By hand: a log may have millions of batches. */
static void print_batch(const struct pass *p, uint64_t pos, const struct sti_batch_header *h,
                        bool sound)
{
    const char *codec = sti_codec_name((int)(h->attributes & STI_BATCH_CODEC_MASK));
    if (p->dump->quiet) {
        return;
    }
    if (p->dump->cli->json) {
        dump_line(p->dump, &p->file, "batch", batch_members(pos, h, sound));
        return;
    }
    printf("  batch  base_offset: %" PRId64 "  last_offset: %" PRId64 "  position: %" PRIu64
           "  length: %" PRIu64 "  epoch: %" PRId32 "  codec: %s",
           h->base_offset, sti_batch_last_offset(h), pos, h->total_len, h->leader_epoch,
           codec == NULL ? "unknown" : codec);
    if (h->producer_id >= 0) {
        printf("  producer: %" PRId64 "/%" PRId32 "/%" PRId32, h->producer_id, h->producer_epoch,
               h->base_sequence);
    } else {
        fputs("  producer: -", stdout);
    }
    printf("  count: %" PRId32 "  timestamps: %" PRId64 "..%" PRId64 "%s%s%s%s  crc: %s\n",
           h->record_count, h->base_timestamp, h->max_timestamp,
           (h->attributes & STI_BATCH_LOG_APPEND_TIME) != 0 ? " append" : "",
           (h->attributes & STI_BATCH_TRANSACTIONAL) != 0 ? "  transactional" : "",
           (h->attributes & STI_BATCH_CONTROL) != 0 ? "  control" : "",
           (h->attributes & STI_BATCH_DELETE_HORIZON) != 0 ? "  delete_horizon" : "",
           sound ? "ok" : "BAD");
}

/* ---- records ------------------------------------------------------------------------------- */

static void print_record(const struct pass *p, const struct sti_record *record)
{
    if (!p->dump->quiet) {
        json_t *line = json_pack("{s:I,s:I}", "offset", (json_int_t)record->offset, "timestamp",
                                 (json_int_t)record->timestamp);
        cli_json_record(line, record);
        dump_line(p->dump, &p->file, "record", line);
    }
}

/* Print the records of a sound batch; that they can be read is part of the judgement. */
static void dump_records(struct pass *p, uint64_t pos, const struct sti_batch_header *header)
{
    struct sti_record record;
    struct sti_err err;
    size_t got;
    if (header->total_len > STI_BATCH_INFLATED_MAX) {
        dump_warning(p->dump, &p->file, pos, "a batch of %" PRIu64 " bytes: records are not shown",
                     header->total_len);
        return;
    }
    if (header->total_len > p->batch_capacity) {
        uint8_t *grown = realloc(p->batch, (size_t)header->total_len);
        if (grown == NULL) {
            dump_failure(p->dump, &p->file, ENOMEM);
            return;
        }
        p->batch = grown;
        p->batch_capacity = (size_t)header->total_len;
    }
    int rc = dump_read(&p->fd, p->batch, (size_t)header->total_len, pos, &got);
    if (rc != 0 || got < header->total_len) {
        dump_failure(p->dump, &p->file, rc != 0 ? rc : ENOENT);
        return;
    }
    sti_err_clear(&err);
    rc = sti_batch_iter_init(p->iter, p->batch, got, STI_BATCH_INFLATED_MAX, &err);
    while (rc == STI_OK && !cli_interrupted) {
        rc = sti_batch_iter_next(p->iter, &record, &err);
        if (rc == STI_OK) {
            print_record(p, &record);
        }
    }
    if (rc != STI_OK && rc != STI_E_END) {
        dump_damage(p->dump, &p->file, pos, "the records of the batch cannot be read: %s: %s",
                    sti_status_name(rc), err.msg);
    }
}

/* ---- judging ------------------------------------------------------------------------------- */

/* Hold the epoch, which no checksum covers, against the batch before and the checkpoint. */
static void judge_epoch(struct pass *p, uint64_t pos, const struct sti_batch_header *header)
{
    int32_t expected = -1;
    if (header->leader_epoch < p->seg->epoch) {
        dump_damage(p->dump, &p->file, pos,
                    "the batch has epoch %" PRId32 ", one before it had %" PRId32,
                    header->leader_epoch, p->seg->epoch);
    }
    p->seg->epoch = header->leader_epoch;
    if (!dump_epoch_agrees(p->part, header->base_offset, header->leader_epoch, &expected)) {
        dump_damage(p->dump, &p->file, pos,
                    "the batch has epoch %" PRId32 ", offset %" PRId64 " belongs to epoch %" PRId32
                    " in " STI_FILE_EPOCHS,
                    header->leader_epoch, header->base_offset, expected);
        p->seg->epoch = expected;
    }
}

static void feed(struct pass *p, struct dump_cursor *cursor, uint64_t pos,
                 const struct sti_batch_header *header)
{
    if (cursor != NULL && p->resync) {
        dump_cursor_skip(p->dump, cursor, pos, header->base_offset);
    }
    if (cursor != NULL) {
        dump_cursor_batch(p->dump, cursor, pos, header);
    }
}

/* A batch whose checksum holds. */
static void sound_batch(struct pass *p, uint64_t pos, const struct sti_batch_header *header)
{
    struct dump_segment *seg = p->seg;
    p->dump->batches++;
    p->dump->record_count += (uint64_t)header->record_count;
    print_batch(p, pos, header, true);
    if (seg->expected >= 0 && header->base_offset != seg->expected) {
        dump_damage(p->dump, &p->file, pos,
                    "the batch begins with offset %" PRId64 ", expected %" PRId64 "%s",
                    header->base_offset, seg->expected,
                    pos == 0 && seg->expected == seg->base_offset ? ", as the file's name says"
                                                                  : "");
        seg->expected = -1; /* whatever comes next */
        p->resync = true;
    } else {
        judge_epoch(p, pos, header);
        feed(p, p->index, pos, header);
        feed(p, p->time, pos, header);
        p->resync = false;
        seg->expected = sti_batch_last_offset(header) + 1;
    }
    if (p->dump->records) {
        dump_records(p, pos, header);
    }
}

/* Are the bytes from `pos` on what a write that stopped early leaves? */
static bool unfinished(struct pass *p, uint64_t pos)
{
    struct sti_batch_header header;
    const uint8_t *data = NULL;
    uint64_t left = p->walk.limit - pos;
    if (left < STI_BATCH_HEADER_LEN) {
        return true;
    }
    if (sti_log_walk_bytes(&p->walk, pos, STI_BATCH_HEADER_LEN, &data, NULL) == STI_OK &&
        sti_batch_header_decode(data, STI_BATCH_HEADER_LEN, &header, NULL) == STI_OK &&
        header.total_len > left) {
        return true;
    }
    while (left > 0) {
        size_t len = left < WINDOW ? (size_t)left : WINDOW;
        if (sti_log_walk_bytes(&p->walk, pos, len, &data, NULL) != STI_OK) {
            return false;
        }
        for (size_t i = 0; i < len; i++) {
            if (data[i] != 0) {
                return false;
            }
        }
        pos += len;
        left -= len;
    }
    return true;
}

/* Nothing sound follows `pos`, where no batch holds: a tail, or damage? */
static void judge_rest(struct pass *p, uint64_t pos, const struct sti_err *why)
{
    struct dump_segment *seg = p->seg;
    uint64_t left = p->walk.limit - pos;
    bool tail = seg->last && unfinished(p, pos);
    if (cli_interrupted) {
        return; /* the rest was not read to its end: no judgement */
    }
    if (seg->expected >= 0 && seg->expected < p->part->synced_end) {
        dump_damage(p->dump, &p->file, pos,
                    "%s; everything below offset %" PRId64 " was synced, so recovery cuts nothing "
                    "here and refuses appends",
                    why->msg, p->part->synced_end);
    } else if (!seg->last) {
        dump_damage(p->dump, &p->file, pos, "%s; other segments follow", why->msg);
    } else if (tail) {
        dump_warning(p->dump, &p->file, pos,
                     "an unfinished tail of %" PRIu64 " bytes: recovery cuts it off, and the log "
                     "ends at offset %" PRId64,
                     left, seg->expected < 0 ? 0 : seg->expected);
    } else {
        dump_damage(p->dump, &p->file, pos,
                    "%s; nothing sound follows: recovery cuts %" PRIu64 " bytes off here", why->msg,
                    left);
    }
    seg->expected = p->file.damaged ? -1 : seg->expected; /* the next segment is not to blame */
}

/* No batch can be proved at *pos. Say so, and go on where the next sound one begins.
 * @return false: there is none */
static bool bad_batch(struct pass *p, uint64_t *pos, const struct sti_err *why)
{
    struct sti_batch_header header;
    uint64_t found = 0;
    if (sti_log_walk_header(&p->walk, *pos, &header, NULL) == STI_OK) {
        print_batch(p, *pos, &header, false);
    }
    int64_t floor = p->seg->expected < 0 ? 0 : p->seg->expected;
    int rc = sti_log_walk_find(&p->walk, *pos + 1, floor, &found, &header, NULL);
    if (cli_interrupted) {
        return false;
    }
    if (rc == STI_E_IO) {
        dump_failure(p->dump, &p->file, EIO);
        return false;
    }
    if (rc != STI_OK) {
        judge_rest(p, *pos, why);
        return false;
    }
    dump_damage(p->dump, &p->file, *pos,
                "%s; the next sound batch begins at position %" PRIu64 " with offset %" PRId64,
                why->msg, found, header.base_offset);
    if (p->index != NULL) {
        dump_cursor_skip(p->dump, p->index, found, header.base_offset);
    }
    if (p->time != NULL) {
        dump_cursor_skip(p->dump, p->time, found, header.base_offset);
    }
    p->seg->expected = header.base_offset;
    *pos = found;
    return true;
}

/* Has the file become shorter than the walk believes? Then go on with what is left. */
static bool shrunk(struct pass *p)
{
    struct stat st;
    if (fstat(p->fd, &st) != 0 || (uint64_t)st.st_size >= p->walk.limit) {
        return false;
    }
    sti_log_walk_init(&p->walk, dump_read, &p->fd, p->window, WINDOW, (uint64_t)st.st_size);
    return true;
}

/* @return position behind the last sound batch */
static uint64_t walk_log(struct pass *p)
{
    uint64_t pos = 0;
    while (!cli_interrupted) {
        struct sti_batch_header header;
        struct sti_err why;
        sti_err_clear(&why);
        int rc = sti_log_walk_prove(&p->walk, pos, &header, &why);
        if (rc == STI_OK) {
            sound_batch(p, pos, &header);
            pos += header.total_len;
        } else if (rc == STI_E_DATA_LOSS) {
            if (!shrunk(p) && !bad_batch(p, &pos, &why)) {
                break;
            }
        } else {
            if (rc != STI_E_END) {
                dump_failure(p->dump, &p->file, EIO);
            }
            break;
        }
    }
    return pos;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int open_log(struct pass *p, const char *name, uint64_t *size)
{
    struct stat st = {0};
    p->fd = openat(p->part->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    *size = 0;
    if (p->fd < 0) {
        return errno;
    }
    int rc = fstat(p->fd, &st) != 0 ? errno : !S_ISREG(st.st_mode) ? EINVAL : 0;
    *size = rc == 0 ? (uint64_t)st.st_size : 0;
    p->window = rc == 0 ? malloc(WINDOW) : NULL;
    if (rc == 0 && p->window == NULL) {
        rc = ENOMEM;
    }
    if (rc == 0) {
        (void)posix_fadvise(p->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        sti_log_walk_init(&p->walk, dump_read, &p->fd, p->window, WINDOW, *size);
    }
    return rc;
}

static void close_log(struct pass *p)
{
    if (p->fd >= 0) {
        (void)close(p->fd);
    }
    free(p->window);
    free(p->batch);
}

void dump_log(struct dump *dump, struct dump_partition *part, const char *name,
              struct dump_segment *seg)
{
    struct dump_cursor index = {.fd = -1}, time = {.fd = -1};
    struct sti_batch_iter iter;
    struct pass p = {.dump = dump, .part = part, .seg = seg, .fd = -1, .iter = &iter};
    uint64_t size;
    memset(&iter, 0, sizeof iter);
    if (dump->verify && seg->base_offset >= 0) { /* before the log, which a node may be writing */
        dump_cursor_open(p.index = &index, part, seg->base_offset, false);
        dump_cursor_open(p.time = &time, part, seg->base_offset, true);
    }
    int rc = open_log(&p, name, &size);
    dump_file_begin(dump, &p.file, part->dir, name, "log", (int64_t)size);
    if (rc != 0) {
        dump_failure(dump, &p.file, rc);
    } else {
        (void)walk_log(&p);
        if (!cli_interrupted && seg->last && seg->expected >= 0 && !p.file.damaged &&
            seg->expected < part->synced_end) {
            dump_damage(dump, &p.file, p.walk.limit,
                        "the log ends with offset %" PRId64 ", but everything below offset %" PRId64
                        " was synced",
                        seg->expected - 1, part->synced_end);
        }
    }
    /* A gap in front of this segment is no fault of its indexes, damage in it may be the cause. */
    bool lenient = p.file.damaged || (seg->last && !part->clean) || rc != 0 || cli_interrupted;
    if (p.index != NULL && size + index.size + time.size > 0) {
        dump_cursor_end(dump, &index, lenient, false);
        dump_cursor_end(dump, &time, lenient, !seg->last && !p.file.damaged);
    }
    for (int i = 0; i < 2; i++) {
        struct dump_cursor *cursor = i == 0 ? &index : &time;
        if (cursor->fd >= 0) {
            (void)close(cursor->fd);
        }
    }
    sti_batch_iter_fini(&iter);
    close_log(&p);
}

void dump_log_against_index(struct dump *dump, const struct dump_partition *part,
                            int64_t base_offset, bool by_time)
{
    struct dump_cursor cursor = {.fd = -1};
    struct dump_partition quiet_part = *part;
    struct pass p = {.dump = dump, .part = &quiet_part, .fd = -1};
    char name[STI_LOG_NAME_LEN];
    uint64_t size, pos = 0;
    int64_t floor = base_offset;
    dump_cursor_open(&cursor, part, base_offset, by_time);
    sti_log_name(name, base_offset, ".log");
    int rc = open_log(&p, name, &size);
    if (rc != 0) {
        dump_warning(dump, &cursor.file, 0, "%s: %s: the entries are not compared", name,
                     strerror(rc));
    }
    while (rc == 0 && !cli_interrupted) {
        struct sti_batch_header header;
        int found = sti_log_walk_header(&p.walk, pos, &header, NULL);
        if (found == STI_E_DATA_LOSS) {
            uint64_t from = pos + 1;
            found = sti_log_walk_find(&p.walk, from, floor, &pos, &header, NULL);
            if (found == STI_OK) {
                dump_cursor_skip(dump, &cursor, pos, header.base_offset);
            }
        }
        if (found != STI_OK) {
            break;
        }
        dump_cursor_batch(dump, &cursor, pos, &header);
        pos += header.total_len;
        floor = sti_batch_last_offset(&header) + 1;
    }
    if (rc == 0) {
        dump_cursor_end(dump, &cursor, false, false);
    } else if (cursor.fd >= 0) {
        (void)close(cursor.fd);
    }
    close_log(&p);
}
