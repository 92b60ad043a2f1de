/* listen.c -- see listen.h. */
#include "listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int gco_listen_refused(const char *host, int port_number, const char *address, struct sti_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char port[16];
    char why[128] = "gRPC refused the address";
    int code = STI_E_INVALID_ARGUMENT;
    (void)snprintf(port, sizeof port, "%d", port_number);
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        (void)snprintf(why, sizeof why, "%s", gai_strerror(rc));
    } else {
        int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol);
        int one = 1;
        if (fd >= 0) {
            (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        }
        if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
            code = errno == EADDRINUSE ? STI_E_IN_USE
                   : errno == EACCES   ? STI_E_PERMISSION_DENIED
                                       : STI_E_INVALID_ARGUMENT;
            (void)snprintf(why, sizeof why, "%s", strerror(errno));
        }
        if (fd >= 0) {
            (void)close(fd);
        }
        freeaddrinfo(found);
    }
    return sti_err_set(err, code, "cannot listen on %s: %s", address, why);
}

bool gco_is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || host[0] == '\0';
}

void gco_address(char *out, size_t size, const char *host, int port)
{
    const char *named = host[0] == '\0' ? "0.0.0.0" : host;
    bool bare_ipv6 = strchr(named, ':') != NULL && named[0] != '[';
    (void)snprintf(out, size, bare_ipv6 ? "[%.250s]:%d" : "%.250s:%d", named, port);
}
