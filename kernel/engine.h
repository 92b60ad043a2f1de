/* engine.h -- which engine has written each instance's folder.
 *
 * Story. An instance that keeps data keeps it in <data_dir>/<instance>. Once the node is ready, the
 * kernel puts a file `engine` into that folder, which names the plugin:
 *
 *     engine=storage_mmap
 *     crc32=<8 hex digits, over the bytes of the line before>
 *
 * At the next start, before anything is started, every such file is held against the configuration:
 * another plugin under the same instance name would take the data for its own or for none, and an
 * instance that is gone from the configuration would leave its topics behind. Both are refused by
 * name. A folder that is empty but for the file, or has no such file, says nothing; a folder made
 * before there was such a file gets one.
 *
 * Crash points. The file is written aside, synced and renamed, right after the node is ready, so
 * that no start waits for it. Its name is not synced: a node that dies just then, or a loss of
 * power soon after, may cost the file, which says nothing; the next start makes it again.
 *
 * Failure. STI_E_CONFIG (another engine, or none), STI_E_DATA_LOSS (the file is damaged), STI_E_IO.
 * Main thread.
 */
#ifndef STREAMIT_KERNEL_ENGINE_H
#define STREAMIT_KERNEL_ENGINE_H

#include <stddef.h>

#include "streamit/status.h"

#define KRN_ENGINE_FILE "engine"

struct krn_engine {
    const char *instance; /* the folder's name     */
    const char *engine;   /* the plugin's own name */
};

/* Hold what the data folder says against the instances of the configuration. */
int krn_engine_check(const char *data_dir, const struct krn_engine *const *engines, size_t count,
                     struct sti_err *err);
/* Name the engine in the instance's folder, if there is one and it does not say so already. */
int krn_engine_note(const char *data_dir, const struct krn_engine *engine, struct sti_err *err);

#endif /* STREAMIT_KERNEL_ENGINE_H */
