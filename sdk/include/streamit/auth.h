/* streamit/auth.h -- interface "streamit.auth": who may connect, and what they may do. PROVISIONAL:
 * allow-all is the only implementation so far.
 *
 * Transports ask `authenticate` with what their wire carries; the broker asks `authorize` once per
 * call and resource, with the request context. Until an auth plugin is configured everybody is
 * "User:anonymous" and may do everything.
 *
 * Threads. Both functions are called on hot paths by any thread; they answer from memory, without
 * blocking.
 *
 * How others use it. In a cluster rules travel through the metadata log, so that all nodes decide
 * alike. The Kafka wire feeds SASL PLAIN and SCRAM exchanges and maps its ACLs onto the operations
 * below; gRPC feeds bearer tokens and certificate names. Storage of any kind never asks.
 *
 * Caveats. A refusal names operation and resource, never the rule or another principal.
 */
#ifndef STREAMIT_AUTH_H
#define STREAMIT_AUTH_H

#include "streamit/plugin.h"
#include "streamit/request.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_AUTH_ID    "streamit.auth"
#define STI_AUTH_MAJOR 0
#define STI_AUTH_MINOR 1

enum sti_resource { STI_RESOURCE_CLUSTER = 1, STI_RESOURCE_TOPIC = 2, STI_RESOURCE_GROUP = 3 };

enum sti_operation {
    STI_OP_READ = 1,
    STI_OP_WRITE = 2,
    STI_OP_CREATE = 3,
    STI_OP_DELETE = 4,
    STI_OP_ALTER = 5,
    STI_OP_DESCRIBE = 6,
    STI_OP_CLUSTER_ACTION = 7
};

struct sti_credentials {
    uint32_t struct_size;
    uint32_t secret_len;
    const char *mechanism; /* "bearer", "plain", "x509" */
    const char *identity;  /* user or certificate name; "" when the mechanism has none */
    const void *secret;    /* never logged; borrowed */
};

struct sti_auth {
    struct sti_iface iface; /* id STI_AUTH_ID */

    /* Write the principal ("User:alice") to `principal`. @return STI_OK, STI_E_UNAUTHENTICATED,
     * STI_E_UNSUPPORTED (mechanism) */
    int (*authenticate)(void *self, const struct sti_credentials *credentials, char *principal,
                        size_t principal_max, struct sti_err *err);
    /* May request->principal do `operation` on the resource? name "" stands for the cluster.
     * @return STI_OK, STI_E_PERMISSION_DENIED */
    int (*authorize)(void *self, const struct sti_request *request, int operation, int resource,
                     const char *name, struct sti_err *err);
};

/* The vtable behind a binding. */
static inline const struct sti_auth *sti_auth_of(const struct sti_binding *binding)
{
    return (const struct sti_auth *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_AUTH_H */
