/* host.h -- the services of struct sti_host, and what stands behind them.
 *
 * One struct krn_services a node; each instance gets a table of its own whose ctx is the instance,
 * so that a log line, a health condition or a listener bears the name of who spoke.
 *
 * Threads. All services on any thread. The mutex guards health conditions and listeners only, and
 * is never held across a call of others: visits work on a copy.
 */
#ifndef STREAMIT_KERNEL_HOST_H
#define STREAMIT_KERNEL_HOST_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernel/executor.h"
#include "kernel/log.h"
#include "kernel/metrics.h"
#include "kernel/registry.h"
#include "streamit/plugin.h"

enum { KRN_CONDITIONS_MAX = 256, KRN_LISTENERS_MAX = 64 };

struct krn_condition {
    char instance[72], name[64], detail[192];
    int level;
};

struct krn_listener {
    char instance[72], address[128];
};

struct krn_services {
    struct krn_log *log;           /* borrowed */
    struct krn_executor *executor; /* owned by the node, as are the next two */
    struct krn_metrics *metrics;
    struct krn_registry *registry;
    struct sti_node node;
    char cluster_id[40];
    _Atomic int state; /* enum sti_node_state */
    uint64_t started_us;

    pthread_mutex_t mu;
    struct krn_condition *conditions; /* KRN_CONDITIONS_MAX, count in use */
    size_t condition_count;
    struct krn_listener listeners[KRN_LISTENERS_MAX];
    size_t listener_count;
};

/* Mutex and the memory of conditions. @return STI_OK, STI_E_NO_MEMORY */
int krn_services_init(struct krn_services *services, struct sti_err *err);
void krn_services_fini(struct krn_services *services);
/* Fill the instance's table. */
void krn_host_fill(struct krn_services *services, struct krn_instance *instance);
/* Forget what an instance announced and reported: it has ended. */
void krn_host_forget(struct krn_services *services, const struct krn_instance *instance);

#endif /* STREAMIT_KERNEL_HOST_H */
