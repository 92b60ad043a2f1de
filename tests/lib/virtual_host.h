/* virtual_host.h -- a host without threads, whose clock moves when nothing is left to do.
 *
 * Tasks and timers run on the thread that calls virtual_host_run, one at a time, in the order in
 * which they are due, those of one moment in the order in which they were posted. Random bytes
 * follow from the seed. Whatever uses nothing but the host's services therefore does the same on
 * every run. One clock serves all instances, so that many nodes live on it. Strands, bindings,
 * health and collectors are not offered; metrics are not kept.
 */
#ifndef STREAMIT_VIRTUAL_HOST_H
#define STREAMIT_VIRTUAL_HOST_H

#include "streamit/plugin.h"

struct virtual_host;

struct virtual_host *virtual_host_new(uint64_t seed);
void virtual_host_free(struct virtual_host *vh);
/* The services of one node's instance; valid until virtual_host_free. At most 16. */
const struct sti_host *virtual_host_for(struct virtual_host *vh, const char *instance,
                                        int32_t node_id, const char *cluster_id);
uint64_t virtual_host_now_us(const struct virtual_host *vh);
/* Run what is due until the clock stands `us` later, or earlier when nothing is left. */
void virtual_host_run(struct virtual_host *vh, uint64_t us);

#endif /* STREAMIT_VIRTUAL_HOST_H */
