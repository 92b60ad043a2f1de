/* file.h -- bytes to and from files: whole or not at all, and what a failed call means.
 *
 * All integers on disk are big-endian, as in the record batches. Functions that do I/O return 0 or
 * an errno value, so that the caller can say which file and position it was working on.
 */
#ifndef MDL_FILE_H
#define MDL_FILE_H

#include <stddef.h>
#include <stdint.h>

void mdl_put32(uint8_t *out, uint32_t value);
void mdl_put64(uint8_t *out, uint64_t value);
uint32_t mdl_get32(const uint8_t *data);
uint64_t mdl_get64(const uint8_t *data);

/* Write all `len` bytes at `pos`. On failure some of them may have been written.
 * @return 0 or an errno value; a device that takes nothing is ENOSPC */
int mdl_write_all(int fd, const void *data, size_t len, uint64_t pos);
/* Read up to `len` bytes at `pos`; *got is less only at the end of the file.
 * @return 0 or an errno value */
int mdl_read_upto(int fd, void *data, size_t len, uint64_t pos, size_t *got);

/* STI_E_DISK_FULL for no space, quota and file size limit; STI_E_NO_MEMORY; otherwise STI_E_IO. */
int mdl_status_of(int error);

/* The end of a path that is too long for an error message; the path itself when it is not. */
const char *mdl_shown(const char *path);

/* "<a>/<b>" on the heap; the caller frees. NULL: no memory. */
char *mdl_join(const char *a, const char *b);

#endif /* MDL_FILE_H */
