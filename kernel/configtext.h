/* configtext.h -- a configuration file as one text: its includes in place, its long numbers marked.
 *
 * Story. libconfig cuts an integer of more than 32 bits down without a word unless it ends in L,
 * and reads an @include relative to one fixed folder. So the kernel reads the files itself, puts
 * each include in the place of its line (relative to the folder of the file that names it, or
 * absolute), appends the L where a number needs it, and keeps for each line where it came from.
 * What libconfig then says of line 12 is translated back to file and line.
 *
 * Failure. STI_E_CONFIG names file and line. Bounds: 16 levels, 256 files, 4 MB. Memory comes from
 * the pool. Main thread.
 */
#ifndef STREAMIT_KERNEL_CONFIGTEXT_H
#define STREAMIT_KERNEL_CONFIGTEXT_H

#include <apr_pools.h>

#include "streamit/status.h"

struct krn_configline {
    const char *file;
    unsigned line; /* from 1 */
};

struct krn_configtext {
    char *text; /* NUL-terminated */
    size_t len;
    const struct krn_configline *origin; /* of each line of text */
    size_t line_count;
};

int krn_configtext_read(apr_pool_t *pool, const char *path, struct krn_configtext *out,
                        struct sti_err *err);
/* Where line `line` (from 1) of the text came from; lines past the end belong to the last one. */
struct krn_configline krn_configtext_origin(const struct krn_configtext *text, unsigned line);

#endif /* STREAMIT_KERNEL_CONFIGTEXT_H */
