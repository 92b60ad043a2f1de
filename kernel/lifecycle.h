/* lifecycle.h -- the order in which instances live and end.
 *
 * Story. `krn_lifecycle_init` turns what each instance needs into an order: an instance comes after
 * every instance that provides an interface it needs, otherwise in the order of the registry.
 * Create all, start all; then drain all, stop all, destroy all in reverse. A failed create or start
 * undoes what was done before it. An instance of an optional plugin that fails is marked FAILED and
 * left out.
 *
 * Deadline. `krn_lifecycle_stop` has one deadline for everything, three quarters of it for
 * draining. A watchdog thread calls `missed` when it has passed: code of a plugin is stuck, nothing
 * may be unmapped any more, and the process has to end (`missed` of the daemon exits with 1). The
 * same holds when a stop returns an error: then nothing is destroyed.
 *
 * Failure. The sentence names instance and file. A refused requirement or a cycle is
 * STI_E_PLUGIN_REFUSED; a failed create is STI_E_CONFIG unless memory ran out. Main thread.
 */
#ifndef STREAMIT_KERNEL_LIFECYCLE_H
#define STREAMIT_KERNEL_LIFECYCLE_H

#include <apr_pools.h>

#include "kernel/registry.h"

struct krn_log;

struct krn_lifecycle {
    struct krn_registry *registry;
    struct krn_instance **order; /* registry->count, providers first */
    struct krn_log *log;
    void (*missed)(void *arg, const char *instance, const char *phase); /* on the watchdog */
    void *missed_arg;
};

/* Check requirements and find the order. */
int krn_lifecycle_init(struct krn_lifecycle *life, apr_pool_t *pool, struct krn_registry *registry,
                       struct krn_log *log, struct sti_err *err);
int krn_lifecycle_create(struct krn_lifecycle *life, struct sti_err *err);
int krn_lifecycle_start(struct krn_lifecycle *life, struct sti_err *err);
/* Stop and destroy after a start that failed; what does not stop is logged, and stays. */
void krn_lifecycle_unwind(struct krn_lifecycle *life);
/* Drain and stop what is started. @return STI_OK, or the first error of a stop: the caller must not
 * destroy, unmap or free anything, and end the process. */
int krn_lifecycle_stop(struct krn_lifecycle *life, uint32_t deadline_ms, struct sti_err *err);
/* Destroy what is created and not running. */
void krn_lifecycle_destroy(struct krn_lifecycle *life);

#endif /* STREAMIT_KERNEL_LIFECYCLE_H */
