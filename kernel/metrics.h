/* metrics.h -- the registry of metric values.
 *
 * Story. Whoever counts asks once for a value by name and labels, keeps the pointer, and adds to it
 * inline (streamit/plugin.h). Values are spread over shards on cache lines of their own and summed
 * when an exporter visits. Names and values live until the registry is freed; nothing is ever
 * removed, so a visit walks without a lock while others add.
 *
 * Bounds. At most `values_max` values; past that, and for a name that is no Prometheus name or was
 * made with another type, the answer is NULL, which every inline function accepts, and the refusal
 * is counted.
 */
#ifndef STREAMIT_KERNEL_METRICS_H
#define STREAMIT_KERNEL_METRICS_H

#include "streamit/plugin.h"

struct krn_metrics;

/* @return NULL: out of memory */
struct krn_metrics *krn_metrics_new(size_t values_max);
void krn_metrics_free(struct krn_metrics *metrics);

/* As the services of struct sti_host. Any thread. */
struct sti_metric *krn_metrics_value(struct krn_metrics *metrics, int type, const char *name,
                                     const char *labels, const char *help);
struct sti_histogram *krn_metrics_histogram(struct krn_metrics *metrics, const char *name,
                                            const char *labels, const char *help);
/* Take part in visits, and no longer: as the services. */
void krn_metrics_collector_add(struct krn_metrics *metrics, struct sti_collector *collector);
void krn_metrics_collector_remove(struct krn_metrics *metrics, struct sti_collector *collector);
/* Collectors first, then family by family, in the order in which families were made. No lock is
 * held while visiting. */
void krn_metrics_visit(struct krn_metrics *metrics, const struct sti_metrics_visitor *visitor,
                       void *arg);
/* Sum over the shards. */
uint64_t krn_metrics_sum(const struct sti_metric *metric);

/* ... and of a histogram. */
void krn_metrics_totals(const struct sti_histogram *histogram, struct sti_histogram_totals *out);

size_t krn_metrics_count(struct krn_metrics *metrics);
uint64_t krn_metrics_refused(struct krn_metrics *metrics);
/* Memory that values take, names and labels aside. */
size_t krn_metrics_bytes(struct krn_metrics *metrics);

#endif /* STREAMIT_KERNEL_METRICS_H */
