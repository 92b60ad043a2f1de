/* connections.h -- how many connections a listener has, and that they are no more than it may.
 *
 * gRPC tells a server neither of a connection that opens nor of one that ends, and has no limit of
 * its own. So connections are counted twice: when a call arrives on one that is not known yet, and
 * by a census, a look at the sockets of this process, every second, less often while it takes long,
 * and at once when the limit is met. The census finds those that never make a call, drops what is
 * gone, and closes what is too many. A connection that was there before the limit was met stays.
 *
 * What is bounded, then: calls are served on no more than connections_max connections (and
 * connections_per_address_max of one address) at any time; sockets beyond them last until the next
 * census. What is not: what the kernel has accepted, and what gRPC has read, between two looks.
 */
#ifndef TRANSPORT_GRPC_CONNECTIONS_H
#define TRANSPORT_GRPC_CONNECTIONS_H

#include "transport.h"

struct tgr_connections;

int tgr_connections_new(struct tgr_transport *t, struct sti_err *err);
/* Begin to count. @thread main, after the port is known and metrics are registered */
void tgr_connections_start(struct tgr_transport *t);
/* No census runs afterwards. May be called again. @thread main */
void tgr_connections_end(struct tgr_transport *t);
void tgr_connections_free(struct tgr_transport *t);

/* May this call's connection be served? Never no for one that was served before and is still open.
 * @return STI_OK; STI_E_RESOURCE_EXHAUSTED, retriable: the limit is met */
int tgr_connection_admit(struct tgr_rpc *rpc, struct sti_err *err);

/* Look now. For tests; else the timer does it. @return how many connections are open */
uint32_t tgr_connections_census(struct tgr_transport *t);

#endif /* TRANSPORT_GRPC_CONNECTIONS_H */
