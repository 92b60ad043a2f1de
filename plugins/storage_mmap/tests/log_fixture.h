/* log_fixture.h -- the files of a partition, read, written and copied by a test of storage_mmap.
 *
 * A kill is played by copying the folder while the partition is open, and opening the copy. */
#ifndef LOG_FIXTURE_H
#define LOG_FIXTURE_H

#include "storage_fixture.h"

/* All bytes of a file; the caller frees. */
uint8_t *fx_slurp(const char *path, size_t *len);
/* Replace a file's bytes. */
void fx_spill(const char *path, const void *data, size_t len);
/* Path of a segment's file. */
void fx_segment_path(const struct fixture *fx, const char *topic, int64_t base, const char *suffix,
                     char *out, size_t len);
/* The folder of `from` as a kill would leave it, under another topic's name. */
void fx_copy_folder(const struct fixture *fx, const char *from, const char *to);
/* Make a folder look as if the machine had been started anew since it was written. */
void fx_reboot(const struct fixture *fx, const char *topic, int64_t recovery_point);

#endif /* LOG_FIXTURE_H */
