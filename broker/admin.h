/* admin.h -- calls that change topics, between proposal and answer. */
#ifndef STREAMIT_BROKER_ADMIN_H
#define STREAMIT_BROKER_ADMIN_H

#include "broker/internal.h"

struct brk_change;

/* A topic that the node makes by itself: one of the configuration, or one that somebody wants to
 * write to. As sti_broker.create_topic, but nobody's rights are asked for, and the node need not
 * serve yet. The answer comes through call->done, always. */
void brk_topic_create(struct broker *broker, struct sti_topic_change *call);
/* Is it a name that a topic may have? @return STI_OK, STI_E_INVALID_ARGUMENT */
int brk_topic_name_check(const char *name, struct sti_err *err);
/* Settings by themselves: known, in range, none twice; in an alteration a NULL value stands for the
 * default. @return STI_OK, STI_E_INVALID_ARGUMENT, STI_E_UNSUPPORTED */
int brk_topic_settings_check(const struct sti_topic_change *call, bool alter, struct sti_err *err);
/* The instance that keeps a topic of these settings must be there, and keep what their flush policy
 * promises. From `create` on. @return STI_OK, STI_E_NOT_FOUND, STI_E_UNSUPPORTED */
int brk_topic_storage_check(const struct sti_host *host, const struct set_values *values,
                            struct sti_err *err);
/* A creation or alteration was applied: what it takes is in the catalogue now and no longer kept
 * for it. @locks admin_mu held */
void brk_change_applied(struct broker *broker, const struct cat_topic *topic);

/* Take the strand's references of a partition that is only closed, never opened. */
void brk_partition_adopt(struct brk_partition *part);
/* All partitions of a topic have opened or closed. With `mark` the fact is committed first; then
 * the calls that wait are answered, with `failure` if it has a code.
 * @param gone  the topic was being deleted, and it was the closes that have ended
 * @locks none */
void brk_change_settled(struct brk_topic *topic, struct brk_change *waiting, bool mark, bool gone,
                        int32_t partitions, const struct sti_err *failure);

#endif /* STREAMIT_BROKER_ADMIN_H */
