/* loader.h -- from a file name to a plugin that may be called.
 *
 * Story. `krn_loader_open` finds the file, refuses one that others may write, maps it, and checks
 * the descriptor in a fixed order: magic, ABI major, ABI minor, struct_size, flags, name,
 * lifecycle, options, interfaces, requirements. Nothing is read past what has been proved, nothing
 * is written, and no function of the plugin is called. (Constructors of the library run while it is
 * mapped; that cannot be helped.) Built-in descriptors take the same checks.
 *
 * Failure. STI_E_PLUGIN_REFUSED or STI_E_ABI_MISMATCH, one sentence: `file: field found, expected:
 * remedy`. `optional` in the result is true when the descriptor could be read far enough to know
 * that the plugin calls itself optional.
 *
 * Unmapping. krn_loader_close unmaps, unless the plugin is resident or the program is sanitized
 * (reports need the code that they speak of). Main thread.
 */
#ifndef STREAMIT_KERNEL_LOADER_H
#define STREAMIT_KERNEL_LOADER_H

#include <apr_pools.h>

#include "streamit/plugin.h"

struct krn_plugin {
    const struct sti_plugin *desc; /* NULL until loaded                               */
    void *library;                 /* of dlopen; NULL for a built-in                  */
    const char *file;              /* last part of the name, for messages: "x.so"     */
    const char *path;              /* "" for a built-in                               */
    bool optional;
};

/* The folder in which bare names are looked up by default: ../lib/streamit beside the program. */
int krn_loader_default_dir(apr_pool_t *pool, const char **dir, struct sti_err *err);

/* @param file  a bare name, looked up in `dir`, or an absolute path. Fills *out also on failure
 * (file, path, optional). */
int krn_loader_open(apr_pool_t *pool, const char *dir, const char *file, struct krn_plugin *out,
                    struct sti_err *err);
int krn_loader_builtin(apr_pool_t *pool, const struct sti_plugin *desc, struct krn_plugin *out,
                       struct sti_err *err);
void krn_loader_close(struct krn_plugin *plugin);

/* The checks alone. `known` is how many bytes are there for certain (the symbol's size). */
int krn_loader_check(apr_pool_t *scratch, const struct sti_plugin *desc, size_t known,
                     bool *optional, struct sti_err *err);

#endif /* STREAMIT_KERNEL_LOADER_H */
