/* snapshot.h -- one snapshot file: the whole state after a command.
 *
 * A header of 64 bytes and the payload, drawn in streamit/command_log.h.
 *
 * Written aside, synced, renamed, folder synced: under its name a snapshot is whole or damaged,
 * never unfinished.
 */
#ifndef MDL_SNAPSHOT_H
#define MDL_SNAPSHOT_H

#include <stddef.h>
#include <stdint.h>

#include "streamit/command_log.h"
#include "streamit/metadata.h"

enum { MDL_SNAPSHOT_HEADER_LEN = STI_COMMAND_SNAPSHOT_HEAD_LEN };

/* "snapshot-<20 digits>" */
void mdl_snapshot_name(char name[32], uint64_t index);
/* Ask the state machine for its state after `index` and store it.
 * @param len  out: bytes of the file
 * @return STI_OK, STI_E_DISK_FULL, STI_E_IO, STI_E_NO_MEMORY, what fsm->snapshot returned; on
 * failure nothing is left under the snapshot's name, or what was there before (after a failed sync
 * of the folder: perhaps a whole one) */
int mdl_snapshot_write(int dir_fd, const char *dir_path, uint64_t index,
                       const struct sti_metadata_fsm *fsm, void *fsm_ctx, uint64_t *len,
                       struct sti_err *err);
/* Read and check a snapshot; *file is the whole file and the caller frees it, its payload begins at
 * MDL_SNAPSHOT_HEADER_LEN.
 * @return STI_OK, STI_E_DATA_LOSS (naming file and position), STI_E_UNSUPPORTED (format version),
 * STI_E_IO, STI_E_NO_MEMORY */
int mdl_snapshot_read(int dir_fd, const char *dir_path, uint64_t index, uint8_t **file,
                      uint64_t *len, struct sti_err *err);

#endif /* MDL_SNAPSHOT_H */
