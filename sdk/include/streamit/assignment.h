/* streamit/assignment.h -- interface "streamit.assignment": which member of a group reads which
 * partition. PROVISIONAL: nothing implements it yet.
 *
 * A pure, deterministic function: the same input gives the same output on every node and at every
 * time; it keeps no state, does no I/O and reads no clock. The broker's group coordinator calls it
 * when members or partitions change, and drops the result if the group's epoch has moved on
 * meanwhile.
 *
 * How others use it. The native protocol and the Kafka wire's server-side assignment use the same
 * plugin; a cluster runs it on the group's coordinator only. Storage plays no part.
 *
 * Caveats. Every partition of a topic that at least one member subscribes to is assigned exactly
 * once, to a member that subscribes to it. Members and topics come sorted by id, so that order
 * carries no information.
 */
#ifndef STREAMIT_ASSIGNMENT_H
#define STREAMIT_ASSIGNMENT_H

#include "streamit/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_ASSIGNMENT_ID    "streamit.assignment"
#define STI_ASSIGNMENT_MAJOR 0
#define STI_ASSIGNMENT_MINOR 1

struct sti_assignment_topic {
    uint32_t struct_size;
    int32_t partition_count;
    uint8_t topic_id[16];
    const char *name;
};

struct sti_assignment_partition {
    uint32_t topic;    /* subscript in the topics */
    int32_t partition; /* of that topic */
};

struct sti_assignment_member {
    uint32_t struct_size;
    uint32_t topic_count;
    const char *member_id;
    const char *rack;       /* "" when unknown */
    const uint32_t *topics; /* subscripts of the topics that it subscribes to, rising */
    const struct sti_assignment_partition *current; /* what it owns now */
    uint32_t current_count;
    uint32_t reserved;
};

struct sti_assignment_input {
    uint32_t struct_size;
    uint32_t member_count;
    const struct sti_assignment_member *const *members;
    const struct sti_assignment_topic *const *topics;
    uint32_t topic_count;
    uint32_t reserved;
};

struct sti_assignment {
    struct sti_iface iface; /* id STI_ASSIGNMENT_ID */

    /* Call `give` once for each partition to assign. Any executor thread; several groups at once.
     * @return STI_OK, STI_E_NO_MEMORY (nothing given counts) */
    int (*assign)(void *self, const struct sti_assignment_input *input,
                  void (*give)(void *arg, uint32_t member,
                               const struct sti_assignment_partition *partition),
                  void *arg, struct sti_err *err);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_ASSIGNMENT_H */
