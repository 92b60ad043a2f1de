/* identity.h -- whose data folder this is, and that only one daemon uses it.
 *
 * Story. The folder is made when missing. A file `lock` in it is held with flock for as long as the
 * node runs and bears the holder's process id. A file `identity` says format version, cluster id
 * and node id; it is made at the first start, written aside, synced and renamed, and never changed.
 * Making it waits for the disk several times, so opening leaves that to krn_identity_settle, which
 * runs beside the start of the instances; the node is not ready before it has returned.
 *
 *     format_version=1
 *     cluster_id=<32 hex digits>
 *     node_id=1
 *     crc32=<8 hex digits, over the bytes of the lines before>
 *
 * Crash points. Before the rename: the next start makes a new identity; folders of instances may
 * stand there, and nothing in them was acknowledged. After it: the identity stands.
 *
 * Failure. STI_E_IN_USE (another daemon), STI_E_PRECONDITION (another node's folder, or a newer
 * format), STI_E_DATA_LOSS (damaged file: never made anew by itself), STI_E_IO. All name the
 * folder. Main thread, but for krn_identity_settle.
 */
#ifndef STREAMIT_KERNEL_IDENTITY_H
#define STREAMIT_KERNEL_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#include "streamit/status.h"

enum { KRN_IDENTITY_FORMAT = 1, KRN_CLUSTER_ID_LEN = 32 };

struct krn_identity {
    int lock_fd; /* -1: not held */
    int32_t node_id;
    char cluster_id[KRN_CLUSTER_ID_LEN + 1];
    int created;          /* 1: this very call chose it, and krn_identity_settle is due */
    const char *made;     /* in the path: the first folder that was made; NULL: none */
    const char *data_dir; /* the caller's */
};

/* Take the folder, and read its identity or choose one.
 * @param data_dir  absolute; outlives `out` */
int krn_identity_open(const char *data_dir, int32_t node_id, struct krn_identity *out,
                      struct sti_err *err);
/* Make what was chosen, and the names of new folders, durable. Nothing to do: returns at once.
 * @return STI_OK, STI_E_IO. @thread any, one */
int krn_identity_settle(const struct krn_identity *identity, struct sti_err *err);
/* The checksum of such small texts: CRC-32 as of zip and Ethernet. */
uint32_t krn_identity_sum(const char *bytes, size_t len);
/* Let the folder go. The files stay. */
void krn_identity_close(struct krn_identity *identity);

#endif /* STREAMIT_KERNEL_IDENTITY_H */
