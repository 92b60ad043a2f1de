/* streamit/transport.h -- interface "streamit.transport": the client listeners of one wire.
 * PROVISIONAL: one implementation so far.
 *
 * A transport turns bytes on a socket into calls of "streamit.broker" and back. All of its work
 * follows from its lifecycle: it needs the broker, so it starts, and listens, last; `start` returns
 * when it accepts, and announces each address with host->announce; `drain` stops accepting, answers
 * what waits, and lets calls under way finish; `stop` closes everything.
 *
 * Duties. One struct sti_request per call, complete. Limits on connections, frame sizes and bytes
 * in flight, each an option, a metric and a test. A malformed frame costs its sender only. Response
 * order per connection where the wire promises it. Payload stays in the receive buffer, slices go
 * out without a copy.
 *
 * How others use it. transport_grpc and transport_kafka are two instances with ports of their own.
 * In a cluster each broker registers the advertised address of every listener under the instance's
 * name, which must therefore be the same on all nodes. An object store changes nothing here.
 *
 * Caveats. No thread that serves sockets may block on the broker.
 */
#ifndef STREAMIT_TRANSPORT_H
#define STREAMIT_TRANSPORT_H

#include "streamit/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_TRANSPORT_ID    "streamit.transport"
#define STI_TRANSPORT_MAJOR 0
#define STI_TRANSPORT_MINOR 1

/* Where clients shall connect. The strings are valid until stop. */
struct sti_endpoint {
    uint32_t struct_size;
    int32_t port;
    const char *host; /* advertised */
};

struct sti_transport {
    struct sti_iface iface; /* id STI_TRANSPORT_ID */

    /* The advertised address. After start. @return STI_OK, STI_E_PRECONDITION (not started) */
    int (*endpoint)(void *self, struct sti_endpoint *out, struct sti_err *err);
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_TRANSPORT_H */
