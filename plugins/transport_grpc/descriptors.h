/* descriptors.h -- the descriptors of all .proto files that this listener serves, for reflection.
 */
#ifndef TRANSPORT_GRPC_DESCRIPTORS_H
#define TRANSPORT_GRPC_DESCRIPTORS_H

#include <stdbool.h>

#include "streamit/slice.h"

/* The serialized FileDescriptorProto of a file ("streamit/v1/streamit.proto"); static storage. */
bool tgr_descriptor_by_name(const char *file, struct sti_slice *out);
/* The one that defines a message, enum, value, field, service or method, by its full name. */
bool tgr_descriptor_by_symbol(const char *symbol, struct sti_slice *out);
/* Call `visit` with the full name of every service; the name is borrowed for the visit. */
void tgr_descriptor_services(void (*visit)(void *arg, const char *name), void *arg);

#endif /* TRANSPORT_GRPC_DESCRIPTORS_H */
