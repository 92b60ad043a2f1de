/* fakes.h -- the plugins that the broker needs, plain and in memory, with knobs that a test turns.
 *
 * They keep the contracts of their headers and count what the broker does to them. `violations`
 * counts what the broker must never do (two appends at once, a close under an append, a use after
 * close): every test ends with a look at it. Knobs may be turned at any time with FAKE_SET.
 */
#ifndef STREAMIT_BROKER_TESTS_FAKES_H
#define STREAMIT_BROKER_TESTS_FAKES_H

#include <pthread.h>

#include "streamit/metadata.h"
#include "streamit/replication.h"
#include "streamit/storage.h"

/* Turn a knob. */
#define FAKE_SET(fake, knob, to)                                                                   \
    do {                                                                                           \
        pthread_mutex_lock(&(fake)->mu);                                                           \
        (fake)->knob = (to);                                                                       \
        pthread_mutex_unlock(&(fake)->mu);                                                         \
    } while (0)

/* ---- storage -------------------------------------------------------------------------------- */

struct fs_log;

struct fake_storage {
    struct sti_storage vtable; /* its caps are a knob until the broker starts */
    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct fs_log *logs; /* survive a restart of the broker */
    /* knobs, @locks mu */
    bool hold_appends, hold_reads, auto_sync;
    bool hold_opens; /* opens wait; they end early when the broker does not want them any more */
    const char *hold_topic;   /* only those of this topic; NULL: all */
    bool sync_on_close;       /* close tells a last synced end */
    bool fail_on_open;        /* the next open is poisoned before it returns */
    bool hold_configures;     /* configure waits */
    bool damage_untold;       /* the log is damaged, and the event is still under way */
    bool unsynced_on_open;    /* open knows of nothing that it was synced */
    int append_status;        /* of the next appends */
    int append_refuse;        /* returned by append itself */
    bool would_block_appends; /* those that may not wait are refused */
    int read_status, blob_status;
    const char *open_topic; /* open_status is for this topic only; NULL: for all */
    int open_status, close_status, remove_status, configure_status, trim_status;
    int would_block;                  /* so many reads with NO_WAIT are refused */
    uint64_t bytes_needed;            /* with DISK_FULL */
    uint32_t segment_batches;         /* a segment holds so many; 0: all */
    unsigned append_slow_us;          /* the call of append takes so long */
    unsigned append_delay_us;         /* with hold_appends false: complete on a thread of its own */
    uint64_t space_total, space_free; /* what `space` tells; */
    bool space_shrinks;               /* by what is appended */
    int space_status;
    /* what happened, @locks mu */
    unsigned appends, appends_no_wait, appends_held, batches_max, reads, reads_no_wait, reads_held,
        violations;
    unsigned opens_begun, opens_cancelled, configures_begun;
    char opened[32][16]; /* the first opens that began: topics */
    unsigned opens, creates, closes, removes, trims, configures, spaces, discards;
    uint64_t batches_last;                /* of the newest append */
    struct sti_storage_settings settings; /* the newest given */
    pthread_t append_thread;              /* of the newest append */
};

struct fake_storage *fs_new(void);
void fs_free(struct fake_storage *fs);
/* Complete every held append, in the order of arrival. @return how many */
unsigned fs_release_appends(struct fake_storage *fs);
/* Complete the held append of one partition; the next ones are held again. */
void fs_release_append(struct fake_storage *fs, const char *topic, int32_t partition);
unsigned fs_release_reads(struct fake_storage *fs);
/* Wait until a counter of `fs` has reached a value; fails the test after ten seconds. */
void fs_wait(struct fake_storage *fs, const unsigned *counter, unsigned at_least);
unsigned fs_get(struct fake_storage *fs, const unsigned *counter);
/* Everything written of a partition is synced: tell the broker. */
void fs_sync(struct fake_storage *fs, const char *topic, int32_t partition);
/* Poison a partition and tell the broker. */
void fs_fail(struct fake_storage *fs, const char *topic, int32_t partition);
/* The log begins at `start` from now on, which the broker has not been told yet: a trim is under
 * way. */
void fs_move_start(struct fake_storage *fs, const char *topic, int32_t partition, int64_t start);
/* Tell of a damaged range, as a scrub would; appends are refused from then on, syncs go on. */
void fs_damage(struct fake_storage *fs, const char *topic, int32_t partition);
/* Forget a partition, as if somebody had removed its folder. */
void fs_lose(struct fake_storage *fs, const char *topic, int32_t partition);
bool fs_has(struct fake_storage *fs, const char *topic, int32_t partition);
/* Offsets are dense from the log's start? @return the written end, -1 without such a partition */
int64_t fs_check_dense(struct fake_storage *fs, const char *topic, int32_t partition);
/* A copy of a blob, NULL without; the caller frees. */
char *fs_blob(struct fake_storage *fs, const char *topic, int32_t partition);
void fs_blob_set(struct fake_storage *fs, const char *topic, int32_t partition, const char *text);

/* ---- metadata ------------------------------------------------------------------------------- */

struct fm_command;

struct fake_metadata {
    struct sti_metadata vtable;
    pthread_mutex_t mu;       /* knobs, lists */
    pthread_mutex_t apply_mu; /* one apply at a time; held over it */
    const struct sti_metadata_fsm *fsm;
    void *fsm_ctx;
    struct fm_command *commands; /* committed, oldest first */
    struct sti_proposal *held[64];
    unsigned held_count;
    uint64_t index;
    void *snapshot;
    size_t snapshot_len;
    bool hold;
    int propose_status; /* returned by propose */
    int commit_status;  /* told to done, nothing applied */
    int open_status;
    unsigned proposals;
    bool opened;
};

struct fake_metadata *fm_new(void);
void fm_free(struct fake_metadata *fm);
/* Commit what was held. @return how many */
unsigned fm_release(struct fake_metadata *fm);
/* Take a snapshot of the broker's state and drop the commands before it. */
void fm_compact(struct fake_metadata *fm);
/* Append a command for the next open, as a broker of another version might have left it. */
void fm_append(struct fake_metadata *fm, const void *command, size_t len);
/* Drop the newest command, as if the node had died before it was committed. */
void fm_drop_last(struct fake_metadata *fm);

/* ---- replication ---------------------------------------------------------------------------- */

struct fake_replication {
    struct sti_replication vtable;
    pthread_mutex_t mu;
    struct sti_replication_partition *parts;
    bool hold;    /* progress does not move the high watermark */
    bool reenter; /* in_sync calls the broker back, as progress may */
    int32_t in_sync, replicas, replicas_synced;
    int open_status;
    unsigned opens, closes, configures;
};

struct fake_replication *fr_new(void);
void fr_free(struct fake_replication *fr);
/* Move the watermark of every partition to its local end (durable: synced end). */
void fr_release(struct fake_replication *fr);

#endif /* STREAMIT_BROKER_TESTS_FAKES_H */
