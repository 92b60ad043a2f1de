/* streamit/metrics.h -- interface "streamit.metrics": an exporter.
 *
 * Metric values belong to the kernel's registry (host->metric, host->histogram) and are incremented
 * inline; no call of this interface stands on a hot path. An exporter visits them with
 * host->metrics_visit when somebody asks or in its own time, and may tell of health with
 * host->health_visit and host->node_state. Its work follows from its lifecycle; the vtable only
 * lets others find it, and have an export at once.
 *
 * The suite. `streamit-conform FILE.so` proves what export_now promises; metrics_prom and
 * metrics_log pass it.
 *
 * How others use it. metrics_prom serves text over HTTP, metrics_log writes lines at intervals. In
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
#define STI_METRICS_MINOR 2

struct sti_metrics {
    struct sti_iface iface; /* id STI_METRICS_ID */

    /* Export once now, in the exporter's own text, through `write`, in as many pieces as it likes;
     * the pieces belong to it. From start to stop, on any thread, also on several at once, beside
     * those who count. The text is UTF-8 in lines. Each counter and gauge has a line of its own
     * that begins with its name and its labels in braces, if it has any, and ends with a blank and
     * its value as a decimal number; a histogram has such lines for its count and its sum, with
     * _count and _sum behind its name, the sum of one that is named _seconds in seconds. Values are
     * those of the moment, not what they grew by. Other lines may stand between.
     * @return STI_OK, STI_E_NO_MEMORY */
    int (*export_now)(void *self, void (*write)(void *arg, const char *text, size_t len), void *arg,
                      struct sti_err *err);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_METRICS_H */
