/* exposition.h -- the kernel's metrics, and a few of the process, as Prometheus text 0.0.4.
 *
 * Names go out as they were registered, with two rules: a counter ends with _total (the suffix is
 * added when missing); and a histogram whose name ends with _seconds was recorded in microseconds
 * and is scaled. Buckets are cumulative. The kernel's bucket i counts values below 2^i, which are
 * whole numbers, so its upper bound is 2^i - 1 (for seconds 2^i / 10^6: a time recorded as n
 * microseconds was less than n + 1).
 */
#ifndef MPR_EXPOSITION_H
#define MPR_EXPOSITION_H

#include "streamit/plugin.h"
#include "text.h"

/* Append every metric of the node. Any thread. */
void mpr_exposition(struct mpr_text *text, const struct sti_host *host);

/* Append the figures of this process as Prometheus clients name them. What the system does not tell
 * is left out. Any thread. */
void mpr_process(struct mpr_text *text);

#endif /* MPR_EXPOSITION_H */
