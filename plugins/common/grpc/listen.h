/* listen.h -- what every plugin with a gRPC listener needs of its start and end. */
#ifndef GRPC_COMMON_LISTEN_H
#define GRPC_COMMON_LISTEN_H

#include "streamit/plugin.h"

/* gRPC only says that it could not listen: find out why. @return STI_E_IN_USE,
 * STI_E_PERMISSION_DENIED, STI_E_INVALID_ARGUMENT; err names `address` */
int gco_listen_refused(const char *host, int port_number, const char *address, struct sti_err *err);

/* Does it stand for all addresses? */
bool gco_is_wildcard(const char *host);
/* "host:port", an IPv6 address in brackets. */
void gco_address(char *out, size_t size, const char *host, int port);

/* What gRPC itself has to say goes to the node's log while an instance is attached. */
void gco_log_attach(const struct sti_host *host);
void gco_log_detach(const struct sti_host *host);

#endif /* GRPC_COMMON_LISTEN_H */
