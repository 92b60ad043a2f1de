/* store.h -- the folder: which snapshot, which logs, what may be dropped.
 *
 * A snapshot of index N is followed by a log of base N. The snapshot before it and the logs from
 * there on are kept, so that one damaged snapshot costs nothing. At open the newest sound snapshot
 * is restored and all commands behind it are replayed, log after log, without a gap.
 *
 * A store belongs to one thread at a time.
 */
#ifndef MDL_STORE_H
#define MDL_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "log.h"
#include "streamit/metadata.h"

/* What mdl_store_open did, for the log of the node. */
struct mdl_recovery {
    uint64_t snapshot_index;    /* 0: none was there */
    uint64_t commands;          /* replayed behind it */
    uint64_t cut_bytes;         /* of an unfinished tail */
    uint32_t snapshots_damaged; /* newer ones that were passed over */
    struct sti_err damage;      /* of the newest of them */
};

struct mdl_store {
    int dir_fd; /* -1: not open */
    char *path; /* of the folder; owned */
    struct mdl_log log;
    const struct sti_metadata_fsm *fsm;
    void *fsm_ctx;
    uint64_t snapshot_index; /* of the newest sound snapshot; 0: none */
    uint64_t snapshot_len;   /* bytes of its file */
    uint64_t reserve_bytes;
    bool unborn; /* no command was ever taken: there is no log yet */
    struct mdl_recovery recovery;
};

/* Open or make the folder `<data_dir>/<instance>`, restore and replay into the state machine.
 * On failure *store holds nothing.
 * @return STI_OK, STI_E_DATA_LOSS (naming file and position), STI_E_UNSUPPORTED (format version),
 * STI_E_DISK_FULL, STI_E_IO, STI_E_NO_MEMORY, what restore returned, and what apply returned if it
 * is STI_E_NO_MEMORY or STI_E_DATA_LOSS (every other code of apply is a command's verdict) */
int mdl_store_open(struct mdl_store *store, const char *data_dir, const char *instance,
                   uint64_t reserve_bytes, const struct sti_metadata_fsm *fsm, void *fsm_ctx,
                   struct sti_err *err);
/* Begin the first log of a store that is `unborn`, and make it durable with the folder's own name:
 * due before the first command. Not a part of open, for it waits for the disk several times and
 * nobody waits for it. After a failure the store is as before.
 * @param uncertain  out: as mdl_log_create
 * @return STI_OK, STI_E_DISK_FULL, STI_E_IO, STI_E_NO_MEMORY */
int mdl_store_begin(struct mdl_store *store, bool *uncertain, struct sti_err *err);
/* Store the state after the last command, begin a new log, drop what is no longer needed.
 * A failure leaves the present log in use.
 * @param uncertain  out: as mdl_log_create
 * @return STI_OK, STI_E_DISK_FULL, STI_E_IO, STI_E_NO_MEMORY, what fsm->snapshot returned */
int mdl_store_snapshot(struct mdl_store *store, bool *uncertain, struct sti_err *err);
/* Safe on a store that is not open. */
void mdl_store_close(struct mdl_store *store);

#endif /* MDL_STORE_H */
