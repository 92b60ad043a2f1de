/* admin.h -- calls that change topics, between proposal and answer. */
#ifndef STREAMIT_BROKER_ADMIN_H
#define STREAMIT_BROKER_ADMIN_H

#include "broker/internal.h"

struct brk_change;

/* Take the strand's references of a partition that is only closed, never opened. */
void brk_partition_adopt(struct brk_partition *part);
/* All partitions of a topic have opened or closed. With `mark` the fact is committed first; then
 * the calls that wait are answered, with `failure` if it has a code.
 * @param gone  the topic was being deleted, and it was the closes that have ended
 * @locks none */
void brk_change_settled(struct brk_topic *topic, struct brk_change *waiting, bool mark, bool gone,
                        int32_t partitions, const struct sti_err *failure);

#endif /* STREAMIT_BROKER_ADMIN_H */
