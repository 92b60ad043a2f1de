/* server.c -- see server.h. */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pages.h"

enum {
    BACKLOG = 128,
    MEMORY_PER_CONNECTION = 16 * 1024, /* request line, headers and the head of the answer */
    STACK_BYTES = 256 * 1024,
    ADDRESS_LEN = 80
};

struct mpr_server {
    struct sti_collector collector; /* first */
    struct sti_metric *connections;
    const struct sti_host *host;
    struct MHD_Daemon *daemon;
    struct sti_metric *requests, *errors;
    uint16_t port;
};

static int status_of_socket(int error)
{
    switch (error) {
    case EADDRINUSE:
        return STI_E_IN_USE;
    case EACCES:
    case EPERM:
        return STI_E_PERMISSION_DENIED;
    case EADDRNOTAVAIL:
        return STI_E_INVALID_ARGUMENT;
    case ENOMEM:
        return STI_E_NO_MEMORY;
    default:
        return STI_E_UNAVAILABLE;
    }
}

/* "0.0.0.0:9090", "[::1]:9090", of what the socket is bound to. */
static void address_show(int fd, char out[ADDRESS_LEN], uint16_t *port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } bound;
    socklen_t len = sizeof bound;
    char host[INET6_ADDRSTRLEN] = "?";
    memset(&bound, 0, sizeof bound);
    (void)getsockname(fd, &bound.any, &len);
    if (bound.any.sa_family == AF_INET6) {
        *port = ntohs(bound.in6.sin6_port);
        (void)inet_ntop(AF_INET6, &bound.in6.sin6_addr, host, sizeof host);
        (void)snprintf(out, ADDRESS_LEN, "[%s]:%u", host, *port);
    } else {
        *port = ntohs(bound.in.sin_port);
        (void)inet_ntop(AF_INET, &bound.in.sin_addr, host, sizeof host);
        (void)snprintf(out, ADDRESS_LEN, "%s:%u", host, *port);
    }
}

/* Bind and listen on the first address that the name stands for. SO_REUSEADDR lets a restart take
 * over a port with connections that are closing; a second listener is still refused. */
static int listen_on(const struct mpr_conf *conf, int *out, struct sti_err *err)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char port[16];
    const int on = 1;
    (void)snprintf(port, sizeof port, "%" PRId64, conf->port);
    int problem = getaddrinfo(conf->address, port, &hints, &found);
    if (problem != 0 || found == NULL) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "cannot listen on %s:%s: %s", conf->address,
                           port, gai_strerror(problem));
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        freeaddrinfo(found);
        return sti_err_set(err, status_of_socket(error), "cannot listen on %s:%s: %s",
                           conf->address, port, strerror(error));
    }
    freeaddrinfo(found);
    *out = fd;
    return STI_OK;
}

static enum MHD_Result answer(struct mpr_server *server, struct MHD_Connection *connection,
                              const char *method, const char *url)
{
    struct mpr_page page;
    mpr_page_make(&page, server->host, method, url);
    sti_metric_add(server->requests, 1);
    if (page.status >= 400 && page.status != 503) {
        sti_metric_add(server->errors, 1);
    }
    struct MHD_Response *response =
        page.body.len == 0
            ? MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT)
            : MHD_create_response_from_buffer(page.body.len, page.body.data, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        mpr_text_fini(&page.body);
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page.content_type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (page.allow != NULL) {
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, page.allow);
    }
    enum MHD_Result result = MHD_queue_response(connection, page.status, response);
    MHD_destroy_response(response);
    return result;
}

static bool has_header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name) != NULL;
}

/* Called once when the headers are there, and again when the request is complete. An answer given
 * the first time closes the connection, and so spares reading a body that nobody wants; one given
 * the second time keeps it for the next request. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload_data,
                                  size_t *upload_data_size, void **request)
{
    static char seen;
    (void)version;
    (void)upload_data;
    (void)upload_data_size;
    if (*request == NULL && !has_header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH) &&
        !has_header(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
        *request = &seen;
        return MHD_YES;
    }
    return answer(arg, connection, method, url);
}

static void collect(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                    void *arg)
{
    struct mpr_server *server = (struct mpr_server *)(void *)collector;
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    (void)visitor;
    (void)arg;
    if (info != NULL) {
        sti_metric_set(server->connections, info->num_connections);
    }
}

/* Be part of visits. Hosts before 0.2 have none: the gauge stays 0. */
static void collector_join(struct mpr_server *server)
{
    const struct sti_host *host = server->host;
    if (STI_HAS(host, collector_add)) {
        server->connections = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_http_connections",
                                           NULL, "Connections of the HTTP server that are open.");
        server->collector.collect = collect;
        host->collector_add(host->ctx, &server->collector);
    }
}

int mpr_server_start(struct mpr_server **out, const struct sti_host *host,
                     const struct mpr_conf *conf, struct sti_err *err)
{
    char address[ADDRESS_LEN];
    int fd = -1;
    *out = NULL;
    struct mpr_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory to start", host->instance);
    }
    int rc = listen_on(conf, &fd, err);
    if (rc != STI_OK) {
        free(server);
        return rc;
    }
    server->host = host;
    server->requests = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_http_requests_total",
                                    NULL, "Requests answered by the HTTP server.");
    server->errors = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_http_errors_total", NULL,
                                  "Requests answered with an error.");
    address_show(fd, address, &server->port);
    unsigned timeout_s = (unsigned)((conf->timeout_ms + 999) / 1000);
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET,
        fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)conf->connections_max,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)conf->connections_per_ip_max,
        MHD_OPTION_CONNECTION_TIMEOUT, timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)MEMORY_PER_CONNECTION, MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES,
        MHD_OPTION_END);
    if (server->daemon == NULL) {
        (void)close(fd);
        free(server);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED, "no HTTP server on %s could be started",
                           address);
    }
    collector_join(server);
    host->announce(host->ctx, address);
    *out = server;
    return STI_OK;
}

uint16_t mpr_server_port(const struct mpr_server *server)
{
    return server->port;
}

void mpr_server_stop(struct mpr_server *server)
{
    if (server != NULL) {
        if (STI_HAS(server->host, collector_remove)) {
            server->host->collector_remove(server->host->ctx, &server->collector);
        }
        MHD_stop_daemon(server->daemon);
        free(server);
    }
}
