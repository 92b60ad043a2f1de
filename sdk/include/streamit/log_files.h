/* streamit/log_files.h -- the files of a partition: walk a log, take apart an index entry, read the
 * small text files. Implemented by libstreamit-batch.
 *
 * A partition is a folder of segments in the layout that Kafka documents. docs/FORMAT.md has every
 * byte; the one definition in code is here, used by the storage engine and by `streamit dump`.
 *
 *     <20 digits>.log          record batches, back to back, nothing else
 *     <20 digits>.index        0  4  last offset of a batch, relative to the segment's base offset
 *                              4  4  position of that batch in the .log
 *     <20 digits>.timeindex    0  8  largest batch timestamp so far, ms
 *                              8  4  last offset of the batch that has it, relative
 *     partition.metadata, recovery-point, log-start-offset, truncation, leader-epoch-checkpoint
 *                              lines of text, see below
 *
 * All integers are big-endian.
 *
 * Who does what. The I/O is the caller's: a walk calls back for bytes, so that an engine reads in
 * its own way (pread only, or only what is cached) and a tool in another. The texts are parsed from
 * and formatted into memory. Nothing here takes a lock, allocates, opens or writes a file; an
 * object belongs to one thread at a time.
 *
 * What a walk can say of a log that does not hold at a position: sti_log_walk_prove tells why, and
 * sti_log_walk_find whether a sound batch follows. Without one behind it, the rest is an unfinished
 * tail, unless it lies below what is known to have been synced (recovery point, clean end); with
 * one it is damage. Deciding is the caller's.
 *
 * Caveats. A proved batch has a right checksum. Its bytes 0-15 are outside it: base offset, length
 * and epoch are to be checked by their neighbours. A position that is no batch's beginning may look
 * like one, since records may hold any bytes: walk from a known beginning.
 */
#ifndef STREAMIT_LOG_FILES_H
#define STREAMIT_LOG_FILES_H

#include "streamit/record_batch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- names */

#define STI_LOG_NAME_LEN 48u /* room for the name of a segment's file, with its null */
#define STI_LOG_POS_MAX                                                                            \
    0x7fffffffu /* positions and relative offsets are signed 32-bit in Kafka                       \
                 */

#define STI_FILE_META       "partition.metadata"
#define STI_FILE_RECOVERY   "recovery-point"
#define STI_FILE_LOG_START  "log-start-offset"
#define STI_FILE_TRUNCATION "truncation"
#define STI_FILE_EPOCHS     "leader-epoch-checkpoint"
#define STI_FILE_DAMAGE     "damage"

enum sti_log_file {
    STI_LOG_FILE_OTHER = 0, /* not ours, or a blob of the broker's: left alone */
    STI_LOG_FILE_LOG,
    STI_LOG_FILE_INDEX,
    STI_LOG_FILE_TIME_INDEX,
    STI_LOG_FILE_SWAP, /* .log.swap: what a truncation keeps, until it takes the log's place */
    STI_LOG_FILE_META,
    STI_LOG_FILE_RECOVERY,
    STI_LOG_FILE_LOG_START,
    STI_LOG_FILE_TRUNCATION,
    STI_LOG_FILE_EPOCHS,
    STI_LOG_FILE_TEMPORARY, /* <small file>.tmp: written, not yet renamed */
    STI_LOG_FILE_DAMAGE
};

/* "<20 digits><suffix>", base_offset >= 0, a suffix of at most 27 characters. */
STI_API void sti_log_name(char out[STI_LOG_NAME_LEN], int64_t base_offset, const char *suffix);
/* Is `name` 20 digits, a base offset that fits, and exactly the suffix? */
STI_API bool sti_log_name_parse(const char *name, const char *suffix, int64_t *base_offset);
/* What a file of a partition's folder is by its name, enum sti_log_file.
 * @param base_offset  of a segment's file; else 0 */
STI_API int sti_log_file_kind(const char *name, int64_t *base_offset);

/* ---- walking a log */

/* Read up to `len` bytes at `pos`; *got is less only at the end of the file.
 * @return 0 or an errno; EAGAIN: not without waiting */
typedef int sti_log_read_fn(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got);

/* A walk along a log; the fields are the library's after init. */
struct sti_log_walk {
    sti_log_read_fn *read;
    void *ctx;
    uint8_t *buf; /* the caller's, valid as long as the walk is used */
    size_t buf_capacity;
    uint64_t limit; /* bytes of the log; nothing behind is looked at */
    uint64_t buf_pos;
    size_t buf_len;
};

/* @param buf  where bytes are read to, at least STI_BATCH_HEADER_LEN; small for a walk along
 * headers, 64 KiB or more to prove batches */
STI_API void sti_log_walk_init(struct sti_log_walk *walk, sti_log_read_fn *read, void *ctx,
                               void *buf, size_t capacity, uint64_t limit);
/* `len` bytes at `pos`, at most the capacity; *out is borrowed until the next call.
 * @return STI_OK; STI_E_WOULD_BLOCK; STI_E_IO; STI_E_DATA_LOSS (the file ends before, or the limit
 * lies before the end of them) */
STI_API int sti_log_walk_bytes(struct sti_log_walk *walk, uint64_t pos, size_t len,
                               const uint8_t **out, struct sti_err *err);
/* Decode the header at `pos`, where a batch begins; the next one begins total_len further on.
 * @return STI_OK; STI_E_END at the limit; STI_E_DATA_LOSS (no batch there, or one that passes the
 * limit: the message says the position and why); STI_E_WOULD_BLOCK; STI_E_IO */
STI_API int sti_log_walk_header(struct sti_log_walk *walk, uint64_t pos,
                                struct sti_batch_header *out, struct sti_err *err);
/* The same, and the checksum holds. @return as sti_log_walk_header */
STI_API int sti_log_walk_prove(struct sti_log_walk *walk, uint64_t pos,
                               struct sti_batch_header *out, struct sti_err *err);
/* The first position from `pos` on where a batch can be proved that may follow offset `floor`: its
 * base offset is not below it, nor further above than the log has room for. What the bytes claim
 * bounds neither time nor memory: a position costs two kilobytes at the most.
 * @return STI_OK with *found and *out; STI_E_NOT_FOUND; STI_E_WOULD_BLOCK; STI_E_IO */
STI_API int sti_log_walk_find(struct sti_log_walk *walk, uint64_t pos, int64_t floor,
                              uint64_t *found, struct sti_batch_header *out, struct sti_err *err);

/* ---- index entries */

#define STI_INDEX_ENTRY_LEN 8u
#define STI_TIME_ENTRY_LEN  12u

struct sti_index_entry {
    uint32_t rel_offset; /* last offset of the batch, less the segment's base offset */
    uint32_t pos;        /* where the batch begins */
};

struct sti_time_entry {
    int64_t timestamp;
    uint32_t rel_offset; /* last offset of the batch that has it */
    uint32_t reserved;
};

STI_API void sti_index_entry_put(uint8_t out[STI_INDEX_ENTRY_LEN], uint32_t rel_offset,
                                 uint32_t pos);
STI_API struct sti_index_entry sti_index_entry_get(const uint8_t in[STI_INDEX_ENTRY_LEN]);
STI_API void sti_time_entry_put(uint8_t out[STI_TIME_ENTRY_LEN], int64_t timestamp,
                                uint32_t rel_offset);
STI_API struct sti_time_entry sti_time_entry_get(const uint8_t in[STI_TIME_ENTRY_LEN]);

/* ---- the small text files
 *
 * The format functions write at most `size` bytes with a terminating null, and return the length of
 * the text, or STI_E_INVALID_ARGUMENT when there is no room. The parse functions take `len` bytes
 * behind which a null stands. They return STI_OK; STI_E_UNSUPPORTED (a newer version);
 * STI_E_DATA_LOSS, and then *pos, which may be NULL, is where the text stops making sense; the
 * output is then untouched. */

#define STI_SMALL_FILE_MAX 4096u /* none of these is larger, but for the epochs */

/* partition.metadata:  version: 0
 *                      topic_id: <32 lower case hexadecimal digits> */
STI_API int sti_meta_format(char *out, size_t size, const uint8_t topic_id[16]);
STI_API int sti_meta_parse(const char *text, size_t len, uint8_t topic_id[16], size_t *pos,
                           struct sti_err *err);

/* recovery-point:      1
 *                      <recovery point> <boot id, or ->
 *                      clean <end> <base> <size> <timestamp> <epoch>      or: dirty
 *                      log <log start> <segments>                         or nothing
 *                      <CRC-32C of the lines above, 8 hexadecimal digits> */
struct sti_recovery_point {
    int64_t recovery_point; /* everything below it was synced */
    bool clean;             /* closed in order: the rest describes the end of the log */
    int64_t written_end, active_base, max_timestamp;
    uint32_t active_size;
    int32_t last_epoch;
    char boot_id[37];       /* of the machine when it was written; "-": unknown */
    bool has_log;           /* the two that follow are said */
    uint32_t segment_count; /* .log files at an orderly end; else 0 */
    int64_t log_start;
};
STI_API int sti_recovery_point_format(char *out, size_t size,
                                      const struct sti_recovery_point *point);
STI_API int sti_recovery_point_parse(const char *text, size_t len, struct sti_recovery_point *out,
                                     size_t *pos, struct sti_err *err);

/* log-start-offset and truncation:  0
 *                                   <offset> */
STI_API int sti_offset_format(char *out, size_t size, int64_t offset);
STI_API int sti_offset_parse(const char *text, size_t len, int64_t *offset, size_t *pos,
                             struct sti_err *err);

/* leader-epoch-checkpoint:  0
 *                           <count of lines that follow>
 *                           <epoch> <first offset>      one a line, both ascending */
struct sti_epoch_entry {
    int32_t epoch;
    uint32_t reserved;
    int64_t start_offset;
};
STI_API int sti_epochs_format(char *out, size_t size, const struct sti_epoch_entry *entries,
                              uint32_t count);
/* Begin with *at = 0; each call gives one line and moves *at on.
 * @return STI_OK; STI_E_END after the last; STI_E_UNSUPPORTED; STI_E_DATA_LOSS with *at where it
 * stops making sense. Whether epochs and offsets ascend is the caller's to check. */
STI_API int sti_epochs_next(const char *text, size_t len, size_t *at, struct sti_epoch_entry *out,
                            struct sti_err *err);

/* damage:  0
 *          <segment> <from position> <to position> <from offset> <to offset> <CRC-32C>   one a line
 *          <CRC-32C of the lines above, 8 hexadecimal digits>
 *
 * Ranges that were found bad after they had been synced; ends are exclusive. */
#define STI_DAMAGE_RANGES_MAX 256u
#define STI_DAMAGE_FILE_MAX   (32u + 96u * STI_DAMAGE_RANGES_MAX)
struct sti_damage_range {
    int64_t base_offset; /* of the segment */
    int64_t from_offset, to_offset;
    uint32_t from_pos, to_pos;
    uint32_t crc; /* of the bytes as they were found; 0: they could not be read */
    uint32_t reserved;
};
/* Begin with no ranges at *len = 0; each call adds one line; a NULL range adds the last line, the
 * checksum. `size` of STI_DAMAGE_FILE_MAX has room for as many ranges as there may be.
 * @return STI_OK with *len moved on; STI_E_INVALID_ARGUMENT: no room */
STI_API int sti_damage_put(char *out, size_t size, size_t *len,
                           const struct sti_damage_range *range);
/* The next range, as sti_epochs_next gives lines. */
STI_API int sti_damage_next(const char *text, size_t len, size_t *at, struct sti_damage_range *out,
                            struct sti_err *err);

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_LOG_FILES_H */
