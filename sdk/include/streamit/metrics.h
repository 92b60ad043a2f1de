/* streamit/metrics.h -- interface "streamit.metrics": an exporter. PROVISIONAL: one implementation
 * so far.
 *
 * Metric values belong to the kernel's registry (host->metric, host->histogram) and are incremented
 * inline; no call of this interface stands on a hot path. An exporter visits them with
 * host->metrics_visit when somebody asks, and tells of health with host->health_visit and
 * host->node_state. Its work follows from its lifecycle; the vtable only lets others find it.
 *
 * How others use it. metrics_prom serves text over HTTP, metrics_log writes a line at intervals. In
 * a cluster each node exports its own. A transport or an object store registers its counters like
 * any other plugin.
 *
 * Caveats. Label sets stay bounded: never a client id, a trace id or an unbounded topic list.
 */
#ifndef STREAMIT_METRICS_H
#define STREAMIT_METRICS_H

#include "streamit/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_METRICS_ID    "streamit.metrics"
#define STI_METRICS_MAJOR 0
#define STI_METRICS_MINOR 1

struct sti_metrics {
    struct sti_iface iface; /* id STI_METRICS_ID */

    /* Export once now, in the exporter's own text, through `write`. For tests and for a last line
     * at stop. */
    int (*export_now)(void *self, void (*write)(void *arg, const char *text, size_t len), void *arg,
                      struct sti_err *err);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_METRICS_H */
