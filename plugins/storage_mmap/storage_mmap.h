/* storage_mmap.h -- what the files of this plugin share. See README.md for the story.
 *
 * Locks, in the order in which they may nest:
 *     part->write_mu   over I/O: append, trim, truncate, close, giving space back. Readers never
 * take it. part->side_mu    over I/O: small files and indexes of closed segments. Reads without
 * waiting never take it. store->files_mu  short: list of open files part->mu         short:
 * segments, ends, cursors, index entries that wait, jobs store->table_mu and store->live_mu nest
 * inside nothing; under table_mu a write_mu is tried, never waited for (space.c).
 */
#ifndef STORAGE_MMAP_H
#define STORAGE_MMAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "streamit/fault.h"
#include "streamit/log_files.h"
#include "streamit/plugin.h"
#include "streamit/storage.h"

#define SMM_BUCKETS     1024u
#define SMM_NAME_LEN    STI_LOG_NAME_LEN
#define SMM_POS_MAX     STI_LOG_POS_MAX
#define SMM_INDEX_ENTRY STI_INDEX_ENTRY_LEN
#define SMM_TIME_ENTRY  STI_TIME_ENTRY_LEN
#define SMM_INDEX_UNKNOWN                                                                          \
    0xffffffffu /* the index of a closed segment has not been looked at yet                        \
                 */
#define SMM_CURSORS 4u

#define SMM_DELETED_SUFFIX ".deleted"

#define SMM_CRC_FROM    21u         /* the checksum of a batch covers it from this byte on */
#define SMM_SCRUB_NEVER 0xffffffffu /* the scrub does not look at the partition */

struct smm_store;
struct sti_storage_partition;

struct smm_conf {
    int64_t max_open_files;
    int64_t idle_close_ms;
    int64_t reserve_bytes_max;
    int64_t max_maps;
    int64_t scrub_bytes_per_s, scrub_delay_ms, scrub_interval_ms;
    int64_t flush_group_bytes_max;
};

struct smm_metrics {
    struct sti_metric *appended_bytes, *appends, *rolls, *syncs, *sync_errors, *open_files, *maps,
        *recovered_bytes, *truncated_bytes, *index_rebuilds, *poisoned, *damaged, *disk_full,
        *held_files, *read_bytes, *slice_bytes, *scrub_bytes, *scrub_passes, *scrub_damaged,
        *scrub_indexes, *scrub_differs, *scrub_progress, *log_bytes, *memory_bytes, *segments;
    struct sti_histogram *sync_us;
};

/* A task or timer that may outlive whom it works for. `fn` runs in state RUNNING and sets the state
 * to IDLE, or POSTED again, as its last act under part->mu; who goes away first turns POSTED into
 * ABANDONED, and the job then frees itself when its turn comes. */
enum smm_job_state { SMM_JOB_IDLE, SMM_JOB_POSTED, SMM_JOB_RUNNING, SMM_JOB_ABANDONED };
struct smm_job {
    struct sti_timer timer; /* first: timer.task is what runs */
    _Atomic int state;
    struct smm_store *store;
    struct sti_storage_partition *part;
    void (*fn)(struct smm_job *job);
};

/* One instance. */
struct smm_store {
    const struct sti_host *host;
    const struct smm_conf *conf;
    struct smm_metrics metrics;
    struct sti_collector collector;
    int dir_fd;                     /* <data_dir>/<instance>, -1 before start */
    _Atomic bool no_fallocate;      /* the file system cannot reserve */
    _Atomic bool settled;           /* the folder's name was synced in this life */
    char boot_id[37];               /* of this boot of the machine, "" when unknown */
    _Atomic uint64_t free_bytes;    /* as smm_space found it last; UINT64_MAX: never asked */
    _Atomic uint64_t given_back_us; /* when idle reservations were last given back, 0: never */

    pthread_mutex_t table_mu; /* partitions that are open, by name */
    struct sti_storage_partition *table[SMM_BUCKETS];

    pthread_mutex_t files_mu;
    struct smm_file *files, *files_last; /* the longest unused last, more or less: file.c */
    uint32_t file_count;
    _Atomic int64_t map_count;
    struct smm_scrub *scrub; /* NULL: off */
    struct smm_job *sweep;   /* closes what has not been used for a while */
    bool stopping;

    pthread_mutex_t live_mu; /* tasks posted and files open: stop waits for 0 */
    pthread_cond_t live_zero;
    uint64_t live;
};

/* The open file of a segment, with its map. Lives as long as anybody holds a reference: the segment
 * while the file is open, each read under way, each slice handed out. */
struct smm_file {
    struct sti_slice_owner owner; /* first */
    struct sti_task task;         /* closes, on the executor */
    _Atomic uint32_t refs;
    int log_fd, index_fd;
    _Atomic(uint8_t *) map; /* NULL until a reader wants memory */
    size_t map_len;         /* of the map, present or future; constant */
    _Atomic uint64_t used_us;
    _Atomic bool dirty; /* a hint: has bytes that were not synced */
    struct smm_store *store;
    struct sti_storage_partition *part; /* @locks files_mu; NULL once off the list */
    struct smm_segment *seg;            /* @locks part->mu; NULL once the segment let go */
    struct smm_file *prev, *next;       /* @locks files_mu */
    uint64_t queued_us;                 /* @locks files_mu: used_us when it got its place */
    struct smm_segment
        *give_back; /* evicted: its reserved space goes, and its partition's write_mu */
    struct sti_storage_partition *give_back_part; /* is held until then; else NULL */
    bool forgotten; /* off the list; whoever still holds it is a reader */
};

/* A segment. Fields are written under part->mu; those marked (w) are the writer's alone. */
struct smm_segment {
    int64_t base_offset;
    uint64_t serial; /* tells a segment from a later one with the same base offset */
    struct smm_file *file;
    int64_t max_timestamp; /* closed segments: valid if timestamp_known */
    uint32_t size;         /* published bytes */
    uint32_t write_size;   /* (w) bytes in the file, beyond `size` during an append */
    uint32_t size_max;     /* the segment never grows past it: length of its map */
    uint32_t reserved_end; /* (w) space is allocated up to here */
    uint32_t synced_size;  /* survives a loss of power */
    uint32_t index_count;  /* closed segments: entries of .index, or SMM_INDEX_UNKNOWN */
    bool exists;           /* has files */
    bool timestamp_known;
    bool pinned; /* not to be evicted now */
};

/* Index entries of the active segment. Those that wait have not been written to the files. */
struct smm_index {
    uint8_t *entries, *time_entries; /* encoded, waiting */
    uint32_t flushed, time_flushed;  /* entries in the files */
    uint16_t pending, time_pending, capacity, time_capacity;
    uint64_t since;               /* log bytes since the last entry */
    int64_t max_timestamp;        /* -1: none */
    int64_t max_timestamp_offset; /* last offset of the batch that has it */
    int64_t last_time;            /* timestamp of the last time entry, -1: none */
};

/* Where a sequential reader goes on. */
struct smm_cursor {
    int64_t offset;
    uint64_t serial; /* 0: empty */
    uint32_t pos;
};

/* Bytes that recovery could not make sense of, with valid batches behind them. */
struct smm_damage {
    int64_t base_offset; /* of the segment */
    int64_t from_offset, to_offset;
    uint32_t from_pos, to_pos;
    uint32_t crc; /* of the bytes as they were found, 0 when they could not be read */
};

struct smm_waiter {
    struct smm_waiter *next;
    struct sti_storage_sync *op;
    int64_t want;
};

struct sti_storage_partition {
    struct smm_store *store;
    struct sti_storage_partition *table_next;
    const struct sti_storage_events *events;
    void *events_ctx;
    pthread_mutex_t write_mu, side_mu, mu;
    pthread_cond_t changed; /* a job has left RUNNING */

    /* @locks mu */
    struct sti_storage_settings settings;
    struct smm_segment **segs; /* by base offset; the last is the active one */
    uint32_t seg_count, seg_capacity;
    uint64_t serial_next;
    struct smm_index index; /* changed by the writer, under mu where readers look */
    int64_t log_start, written_end, synced_end;
    int32_t last_epoch;
    uint32_t damage_count;
    struct smm_damage *damage;
    struct smm_cursor cursors[SMM_CURSORS];
    uint32_t cursor_next;
    _Atomic bool poisoned, damaged;
    _Atomic bool opened; /* smm_open is done with it: others may look at its segments */
    bool dir_dirty;
    bool cut_dirty; /* the end of the log was cut off a file, which was not synced since: (w) */
    uint64_t bytes, recovered_bytes, truncated_bytes;

    /* Flushing. @locks mu */
    struct smm_job *sync_job, *tick_job;
    struct smm_waiter *waiters;
    int64_t sync_want;
    bool sync_hold; /* truncate or close wants no sync under way */

    /* What a reader found bad, and is looked at again. @locks mu */
    struct smm_job *doubt_job; /* NULL: never was */
    bool closing;              /* no new doubts */
    int64_t doubt_base;
    uint64_t doubt_serial, doubt_us; /* when the last one was taken up */
    uint32_t doubt_pos;

    /* The writer's. @locks write_mu */
    int64_t first_ms; /* when the active segment got its first batch, -1: unknown, 0: empty */
    _Atomic int64_t recovery_point; /* what the file says; written under side_mu */
    _Atomic bool boot_noted;        /* the recovery-point file bears this boot */

    int32_t partition;
    uint8_t topic_id[16];
    uint16_t topic_len;
    uint32_t scrub_pass; /* @locks store->table_mu: which saw it last, or SMM_SCRUB_NEVER */
    char name[];         /* "<topic>-<partition>", the folder */
};

/* ---- store.c */
void smm_live_add(struct smm_store *store);
void smm_live_drop(struct smm_store *store);
int smm_store_start(struct smm_store *store, struct sti_err *err);
int smm_store_settle(struct smm_store *store);
int smm_store_stop(struct smm_store *store, uint32_t deadline_ms, struct sti_err *err);
int smm_store_enter(struct smm_store *store, struct sti_storage_partition *part,
                    struct sti_err *err);
void smm_store_leave(struct smm_store *store, struct sti_storage_partition *part);
int smm_store_remove(void *self, const struct sti_partition_id *id, struct sti_err *err);
int smm_store_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id),
                   void *arg, struct sti_err *err);
struct smm_job *smm_job_new(struct smm_store *store, struct sti_storage_partition *part,
                            void (*fn)(struct smm_job *job));
void smm_job_post(struct smm_job *job);
void smm_job_arm(struct smm_job *job, uint64_t due_us);
bool smm_job_cancel(struct smm_job *job);

/* ---- partition.c */
int smm_open(void *self, const struct sti_storage_open *args, struct sti_storage_partition **out,
             struct sti_storage_state *state, struct sti_err *err);
int smm_close(struct sti_storage_partition *part, struct sti_err *err);
int smm_discard(struct sti_storage_partition *part, struct sti_err *err);
int smm_configure(struct sti_storage_partition *part, const struct sti_storage_settings *settings,
                  struct sti_err *err);
void smm_state(struct sti_storage_partition *part, struct sti_storage_state *out);
void smm_usage(struct sti_storage_partition *part, struct sti_storage_usage *out);
void smm_collect(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                 void *arg);
void smm_poison(struct sti_storage_partition *part, const struct sti_err *err);
int smm_name_format(char *out, size_t len, const struct sti_partition_id *id, struct sti_err *err);
int smm_part_dir(const struct sti_storage_partition *part);
int smm_part_dir_sync(const struct sti_storage_partition *part);

/* ---- file.c */
int smm_pread(int fd, void *buf, size_t len, uint64_t pos, bool nowait, size_t *got);
uint64_t smm_pread_total(void);
struct smm_file *smm_file_new(struct sti_storage_partition *part, int log_fd, int index_fd,
                              uint32_t size_max);
void smm_file_attach(struct sti_storage_partition *part, struct smm_segment *seg,
                     struct smm_file *file);
int smm_file_acquire(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
                     struct smm_file **out, struct sti_err *err);
struct smm_file *smm_file_ref(struct smm_file *file);
void smm_file_unref(struct smm_file *file);
void smm_file_charge(struct smm_store *store, int change);
struct smm_file *smm_file_detach(struct smm_segment *seg);
void smm_file_forget(struct smm_file *file);
int smm_file_memory(struct smm_file *file, uint64_t pos, uint64_t len, bool nowait,
                    const uint8_t **out, struct sti_err *err);

/* ---- segment.c */
struct smm_segment *smm_segment_new(struct sti_storage_partition *part, int64_t base_offset);
int smm_segment_room(struct sti_storage_partition *part, uint32_t more, struct sti_err *err);
void smm_segment_append(struct sti_storage_partition *part, struct smm_segment *seg);
uint32_t smm_segment_find(const struct sti_storage_partition *part, int64_t offset);
struct smm_segment *smm_segment_active(const struct sti_storage_partition *part);
int smm_segment_create(struct sti_storage_partition *part, struct smm_segment *seg,
                       struct sti_err *err);
int smm_segment_unlink(struct sti_storage_partition *part, int64_t base_offset);
int smm_segment_reserve(struct sti_storage_partition *part, struct smm_segment *seg, int fd,
                        uint64_t len);
void smm_segment_give_back(struct smm_segment *seg, int fd);

/* ---- index.c */
struct smm_walk {
    struct sti_log_walk log;
    int fd;
    bool nowait;
    uint8_t buf[512];
};
void smm_walk_init(struct smm_walk *walk, int fd, uint64_t limit, bool nowait);
int smm_walk_header(struct smm_walk *walk, uint64_t pos, struct sti_batch_header *out,
                    struct sti_err *err);
void smm_index_init(struct smm_index *index);
void smm_index_fini(struct smm_index *index);
void smm_index_note(struct smm_index *index, int64_t interval, int64_t base_offset,
                    int64_t last_offset, uint32_t pos, uint64_t len, int64_t max_timestamp);
void smm_index_flush(struct sti_storage_partition *part, int64_t base_offset, int index_fd,
                     bool closing);
bool smm_index_full(const struct smm_index *index);
int smm_index_restart(struct sti_storage_partition *part, int64_t base_offset, struct sti_err *err);
bool smm_index_resume(struct sti_storage_partition *part, const struct smm_segment *seg,
                      int64_t max_timestamp);
int smm_index_floor(int fd, uint32_t count, uint32_t key, bool by_pos, bool nowait,
                    uint32_t *rel_offset, uint32_t *pos);
bool smm_index_floor_pending(const struct smm_index *index, uint32_t key, bool by_pos,
                             uint32_t *rel_offset, uint32_t *pos);
int smm_index_check(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
                    struct smm_file *file, uint32_t size, bool rebuild, uint32_t *count,
                    struct sti_err *err);
int smm_time_last(struct sti_storage_partition *part, int64_t base_offset, int64_t *timestamp,
                  int64_t *offset);
int smm_time_floor(struct sti_storage_partition *part, int64_t base_offset, int64_t timestamp,
                   struct sti_time_entry *floor);

/* ---- log.c */
int smm_append(struct sti_storage_partition *part, struct sti_storage_append *op);
int smm_roll(struct sti_storage_partition *part, int64_t base_offset, struct sti_err *err);

/* ---- truncate.c */
int smm_truncate(struct sti_storage_partition *part, int64_t offset, struct sti_err *err);
int smm_trim(struct sti_storage_partition *part, int64_t new_start, struct sti_err *err);
int smm_start_write(struct sti_storage_partition *part, int64_t start);
int smm_oldest_segment(struct sti_storage_partition *part, int64_t *end_offset, uint64_t *bytes,
                       int64_t *max_timestamp);

/* ---- read.c */
int smm_read(struct sti_storage_partition *part, struct sti_storage_read *op);
int smm_time_newest(struct sti_storage_partition *part, int64_t base_offset, int64_t *timestamp);
int smm_offset_for_time(struct sti_storage_partition *part, int64_t timestamp_ms, int64_t *offset,
                        int64_t *found_ms, struct sti_err *err);

/* ---- flush.c */
void smm_flush_run(struct smm_job *job);
void smm_flush_tick(struct smm_job *job);
bool smm_flush_appended(struct sti_storage_partition *part, bool claim);
void smm_flush_claimed(struct sti_storage_partition *part);
void smm_flush_opened(struct sti_storage_partition *part);
void smm_flush_want(struct sti_storage_partition *part, int64_t want);
int smm_flush_now(struct sti_storage_partition *part, int64_t want, struct sti_err *err);
void smm_flush_hold(struct sti_storage_partition *part);
void smm_flush_resume(struct sti_storage_partition *part);
struct smm_waiter *smm_flush_detach(struct sti_storage_partition *part);
void smm_flush_answer(struct smm_waiter *waiters, int status, int64_t synced_end,
                      const struct sti_err *err);
int smm_flush_group(struct sti_storage_partition *part, uint64_t more, struct sti_err *err);
int smm_sync(struct sti_storage_partition *part, struct sti_storage_sync *op);

/* ---- epochs.c */
struct smm_epochs {
    struct sti_epoch_entry *rows; /* epochs and offsets ascend */
    uint32_t count;
};
void smm_epochs_read(int dir_fd, struct smm_epochs *out);
void smm_epochs_free(struct smm_epochs *epochs);
const struct sti_epoch_entry *smm_epochs_at(const struct smm_epochs *epochs, int64_t offset);
bool smm_epochs_begins(const struct smm_epochs *epochs, int32_t epoch, int64_t offset);

/* ---- recovery.c */
int smm_recover(struct sti_storage_partition *part, struct sti_err *err);

/* ---- checkpoint.c */
int smm_small_write(int dir_fd, const char *name, const void *data, size_t len, bool last);
int smm_small_read(int dir_fd, const char *name, size_t max, char **data, size_t *len);
int smm_meta_write(int dir_fd, const uint8_t topic_id[16]);
int smm_meta_read(int dir_fd, uint8_t topic_id[16]);
int smm_checkpoint_write(struct sti_storage_partition *part, const struct sti_recovery_point *point,
                         bool last);
bool smm_checkpoint_read(int dir_fd, struct sti_recovery_point *point);
int smm_offset_write(int dir_fd, const char *name, int64_t offset);
bool smm_offset_read(int dir_fd, const char *name, int64_t *offset);
int smm_errno_status(int err_no);

/* ---- space.c */
int smm_space(void *self, struct sti_storage_space *out, struct sti_err *err);
uint64_t smm_space_step(const struct smm_store *store, uint64_t step);

/* ---- damage.c */
bool smm_damage_found(struct sti_storage_partition *part, uint64_t serial, int fd,
                      const struct smm_damage *range);
bool smm_damage_skip(struct sti_storage_partition *part, int64_t base_offset, uint32_t *pos,
                     int64_t *next_offset);
void smm_damage_cut(struct sti_storage_partition *part, int64_t offset);
void smm_damage_save(struct sti_storage_partition *part);
void smm_damage_load(struct sti_storage_partition *part, int dir_fd);
void smm_damage_tell(struct sti_storage_partition *part, const struct smm_damage *range);
void smm_damage_text(const struct sti_storage_partition *part, const struct smm_damage *range,
                     struct sti_err *err);

/* ---- scrub.c */
int smm_scrub_start(struct smm_store *store, struct sti_err *err);
void smm_scrub_stop(struct smm_store *store);
void smm_scrub_join(struct sti_storage_partition *part);
void smm_scrub_leave(struct sti_storage_partition *part);

/* ---- doubt.c */
#define SMM_LOOK_BYTES (64 * 1024) /* of one window at the most */
/* Bytes as the disk has them. */
struct smm_look {
    int fd;        /* of the log, the caller's */
    int direct_fd; /* past the page cache, or -1 */
    uint8_t *aligned;
};
void smm_look_begin(struct smm_look *look, const struct sti_storage_partition *part, int64_t base,
                    int fd);
int smm_look_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got);
void smm_look_end(struct smm_look *look);
void smm_doubt(struct sti_storage_partition *part, int64_t base_offset, uint64_t serial,
               uint32_t pos);

/* ---- blob.c */
int smm_blob_put(struct sti_storage_partition *part, const char *name, const void *data, size_t len,
                 struct sti_err *err);
int smm_blob_get(struct sti_storage_partition *part, const char *name, void **data, size_t *len,
                 struct sti_err *err);

#endif /* STORAGE_MMAP_H */
