/* server.h -- the HTTP server: one listener, one thread, bounded.
 *
 * libmicrohttpd runs a single thread on epoll that sleeps while nobody asks. Connections are
 * bounded altogether and for each address, in memory and in idle time, so that a client that sends
 * slowly or nonsense costs itself only. The listener is made here rather than by the library, so
 * that a failure names the address, and so that a port of 0 is known before the first request.
 */
#ifndef MPR_SERVER_H
#define MPR_SERVER_H

#include "streamit/plugin.h"

/* The options of the instance. */
struct mpr_conf {
    const char *address;
    int64_t port;
    int64_t connections_max;
    int64_t connections_per_ip_max;
    int64_t timeout_ms;
};

struct mpr_server;

/* Listen and serve. Announces the address.
 * @return STI_OK, STI_E_IN_USE, STI_E_PERMISSION_DENIED, STI_E_INVALID_ARGUMENT (an address that
 * cannot be resolved), STI_E_UNAVAILABLE (any other failure of the socket), STI_E_NO_MEMORY,
 * STI_E_RESOURCE_EXHAUSTED (no thread) */
int mpr_server_start(struct mpr_server **out, const struct sti_host *host,
                     const struct mpr_conf *conf, struct sti_err *err);
/* The port that it listens on. */
uint16_t mpr_server_port(const struct mpr_server *server);
/* Close listener and connections, end the thread, free. NULL is ignored. */
void mpr_server_stop(struct mpr_server *server);

#endif /* MPR_SERVER_H */
