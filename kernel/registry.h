/* registry.h -- the instances of a node, and the way from an interface to who provides it.
 *
 * Built-in plugins come first, then those of `plugins` in the order of the file. The list is
 * complete before the first instance is created and is not changed after; only states move, on the
 * main thread, and are read by any.
 *
 * An interface can be looked up while its instance is started or draining, by an instance that is
 * itself past `create`.
 */
#ifndef STREAMIT_KERNEL_REGISTRY_H
#define STREAMIT_KERNEL_REGISTRY_H

#include <apr_pools.h>
#include <stdatomic.h>

#include "kernel/loader.h"
#include "streamit/plugin.h"

struct krn_services;

enum krn_instance_state {
    KRN_LOADED = 0,
    KRN_CREATED = 1,
    KRN_STARTING = 2, /* inside start: may bind */
    KRN_STARTED = 3,
    KRN_STOPPED = 4,
    KRN_FAILED = 5, /* an optional one that could not be created or started */
    KRN_DESTROYED = 6
};

struct krn_instance {
    const char *name;    /* "storage_mmap"          */
    const char *section; /* "plugins.storage_mmap"  */
    struct krn_plugin plugin;
    apr_pool_t *pool; /* lives from load to destroy */
    void *conf;       /* what the instance runs with; NULL without options */
    void *self;       /* of create */
    _Atomic int state;
    uint64_t generation;
    struct sti_host host;
    struct krn_services *services;
};

struct krn_registry {
    struct krn_instance **items;
    size_t count;
};

static inline int krn_instance_state(const struct krn_instance *instance)
{
    return atomic_load_explicit(&instance->state, memory_order_acquire);
}

static inline void krn_instance_set(struct krn_instance *instance, int state)
{
    atomic_store_explicit(&instance->state, state, memory_order_release);
}

/* The instance's vtable for an interface, NULL: it does not provide it. */
const struct sti_iface *krn_registry_provides(const struct krn_instance *instance,
                                              const char *iface);
/* As host->bind; `who` asks. Any thread. */
int krn_registry_bind(const struct krn_registry *registry, const struct krn_instance *who,
                      const char *iface, const char *instance, uint16_t major, uint16_t minor_min,
                      struct sti_binding *out, struct sti_err *err);
/* As host->each; `who` asks. Any thread. */
void krn_registry_each(const struct krn_registry *registry, const struct krn_instance *who,
                       const char *iface,
                       void (*visit)(void *arg, const struct sti_binding *binding), void *arg);

#endif /* STREAMIT_KERNEL_REGISTRY_H */
