/* layout.c -- the layouts as a C11 compiler sees them: compiling it is the test. */
#include "layout_core.h"
#include "layout_interfaces.h"

/* Every interface begins with the common head, so that the kernel may check it unseen. */
#define STARTS_WITH_IFACE(type)                                                                    \
    _Static_assert(offsetof(struct type, iface) == 0, #type " does not begin with its interface")

STARTS_WITH_IFACE(sti_storage);
STARTS_WITH_IFACE(sti_broker);
STARTS_WITH_IFACE(sti_metadata);
STARTS_WITH_IFACE(sti_replication);
STARTS_WITH_IFACE(sti_transport);
STARTS_WITH_IFACE(sti_peer);
STARTS_WITH_IFACE(sti_metrics);
STARTS_WITH_IFACE(sti_auth);
STARTS_WITH_IFACE(sti_assignment);

/* The first 16 bytes of a descriptor are all that a host of another major may read. */
_Static_assert(offsetof(struct sti_plugin, flags) + sizeof(((struct sti_plugin *)0)->flags) == 16,
               "the head of a descriptor is 16 bytes");
