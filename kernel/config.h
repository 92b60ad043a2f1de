/* config.h -- the configuration file and the overrides of the command line.
 *
 * Story. `krn_config_read` parses the whole file (configtext.c puts includes in place) and checks
 * its top level: `node`, one group for each built-in plugin, and `plugins` with one group for each
 * instance. Each owner then asks for its section with its option table and gets a filled struct:
 * defaults first, then the file, then --set. At the end `krn_config_finish` refuses overrides that
 * nobody has claimed. Nothing of libconfig is seen outside of config.c.
 *
 * Failure. STI_E_CONFIG, with `FILE:LINE: section.key: what was expected and found`, or `--set
 * section.key: ...`. Memory lives in the pool of the call. Main thread.
 */
#ifndef STREAMIT_KERNEL_CONFIG_H
#define STREAMIT_KERNEL_CONFIG_H

#include <apr_pools.h>

#include "streamit/option.h"
#include "streamit/status.h"

struct krn_config;

/* @param sets      `PATH=VALUE` texts, later ones win; borrowed while the pool lives
 * @param builtins  NULL-terminated names of further top-level groups ("broker")
 * @param roots     NULL-terminated keys of options that stand beside the groups ("topics"), or NULL
 */
int krn_config_read(apr_pool_t *pool, const char *path, const char *const *sets, size_t set_count,
                    const char *const *builtins, const char *const *roots, struct krn_config **out,
                    struct sti_err *err);

/* The instances under `plugins`, in the order of the file; count and i-th name. */
size_t krn_config_instance_count(const struct krn_config *config);
const char *krn_config_instance(const struct krn_config *config, size_t i);
/* Which file an instance is loaded from: its `file`, an override, or `<instance>.so`. `where` is
 * the place for messages. */
int krn_config_instance_file(struct krn_config *config, apr_pool_t *pool, const char *instance,
                             const char **file, const char **where, struct sti_err *err);

/* Fill a struct of `conf_size` bytes from the section ("node", "plugins.storage_mmap") by its
 * table. A section that is not there gives the defaults. *conf is NULL when the table is. */
int krn_config_section(struct krn_config *config, apr_pool_t *pool, const char *section,
                       const struct sti_option *const *table, uint64_t conf_size, void **conf,
                       struct sti_err *err);
/* Take a section as it is, unread: that of an optional plugin which could not be loaded. */
void krn_config_skip(struct krn_config *config, const char *section);
/* Where the value of an option comes from, as it stands in front of an error; NULL: it was not
 * given and is the default. */
const char *krn_config_where(struct krn_config *config, apr_pool_t *pool, const char *section,
                             const char *key);
/* Was every override used? */
int krn_config_finish(struct krn_config *config, struct sti_err *err);

const char *krn_config_path(const struct krn_config *config);

#endif /* STREAMIT_KERNEL_CONFIG_H */
