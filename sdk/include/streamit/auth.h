/* streamit/auth.h -- interface "streamit.auth": who may connect, and what they may do. PROVISIONAL:
 * the built-in allow-all is the only implementation outside of tests.
 *
 * The broker asks, nobody else: a transport hands what its wire carries to sti_broker.authenticate,
 * puts the principal into the request context, and makes its call; the broker asks `authorize` once
 * for each resource of the call, with that context. Which plugin is asked is named by the option
 * broker.auth; without it everybody is "User:anonymous" and may do everything, and nothing is
 * called. A node that has an auth plugin in its configuration and no broker.auth does not start:
 * rules that nobody asks for would be worse than none.
 *
 * What is asked, by call:
 *   produce                         WRITE of each topic
 *   fetch                           READ of each topic
 *   list offsets, describe, find leader, await       DESCRIBE of each topic
 *   list topics                     DESCRIBE of each topic; those that are refused are left out
 *   create, alter, delete a topic   CREATE, ALTER, DELETE of it
 *
 * Threads. Both functions are called on hot paths by any thread, several at a time; they answer
 * from memory, without blocking and without calling the broker. What they cache is their own
 * affair: the broker keeps no answer, so a rule that is withdrawn holds from the next call on. A
 * fetch that waits, and records on their way, are not asked about again.
 *
 * How others use it. In a cluster rules travel through the metadata log, so that all nodes decide
 * alike; calls between brokers are CLUSTER_ACTION. The Kafka wire feeds SASL PLAIN and SCRAM
 * exchanges and maps its ACLs onto the operations below; gRPC feeds bearer tokens and certificate
 * names. An object store behind storage has credentials of its own, and never asks.
 *
 * Caveats. The sentence of a refusal is the broker's: it names principal, operation and resource;
 * what the plugin writes to `err` is logged at debug level only, since it may name rules. Whether a
 * topic exists is not told to those who may not touch it: rights are asked first.
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
#define STI_AUTH_MINOR 2

#define STI_PRINCIPAL_MAX       255u /* characters of a principal */
#define STI_PRINCIPAL_ANONYMOUS "User:anonymous"

enum sti_resource { STI_RESOURCE_CLUSTER = 1, STI_RESOURCE_TOPIC = 2, STI_RESOURCE_GROUP = 3 };

enum sti_operation {
    STI_OP_READ = 1,          /* fetch; commit and fetch offsets of a group */
    STI_OP_WRITE = 2,         /* produce */
    STI_OP_CREATE = 3,        /* make it */
    STI_OP_DELETE = 4,        /* delete it */
    STI_OP_ALTER = 5,         /* its settings, its number of partitions */
    STI_OP_DESCRIBE = 6,      /* see that it is there, its settings, offsets, leaders */
    STI_OP_CLUSTER_ACTION = 7 /* what one broker asks of another */
};

/* What a transport knows of a caller. Everything is borrowed for the call. */
struct sti_credentials {
    uint32_t struct_size;
    uint32_t secret_len;
    const char *mechanism; /* "none", "bearer", "plain", "x509" */
    const char *identity;  /* user or certificate name; "" when the mechanism has none */
    const void *secret;    /* secret_len bytes, never logged; NULL: none */
    /* since 0.2: where it comes from, as in the request context */
    const char *peer;
    const char *listener;
    uint64_t connection;
};

struct sti_auth {
    struct sti_iface iface; /* id STI_AUTH_ID */

    /* Write the principal ("User:alice", at most STI_PRINCIPAL_MAX characters of printable ASCII)
     * to `principal`, which has room for principal_max bytes with its end. A caller without
     * credentials has the mechanism "none". @return STI_OK, STI_E_UNAUTHENTICATED,
     * STI_E_UNSUPPORTED (mechanism) */
    int (*authenticate)(void *self, const struct sti_credentials *credentials, char *principal,
                        size_t principal_max, struct sti_err *err);
    /* May request->principal do `operation` on the resource? name "" stands for the cluster.
     * @return STI_OK, STI_E_PERMISSION_DENIED; anything else counts as a refusal too */
    int (*authorize)(void *self, const struct sti_request *request, int operation, int resource,
                     const char *name, struct sti_err *err);
};

/* "write to", for a sentence. */
static inline const char *sti_operation_name(int operation)
{
    static const char *const names[] = {"?",      "read",  "write to", "create",
                                        "delete", "alter", "describe", "act for the cluster on"};
    return operation >= STI_OP_READ && operation <= STI_OP_CLUSTER_ACTION ? names[operation]
                                                                          : names[0];
}

/* "topic", for a sentence. */
static inline const char *sti_resource_name(int resource)
{
    static const char *const names[] = {"?", "cluster", "topic", "group"};
    return resource >= STI_RESOURCE_CLUSTER && resource <= STI_RESOURCE_GROUP ? names[resource]
                                                                              : names[0];
}

/* The vtable behind a binding. */
static inline const struct sti_auth *sti_auth_of(const struct sti_binding *binding)
{
    return (const struct sti_auth *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_AUTH_H */
