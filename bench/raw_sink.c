/* raw_sink.c -- the limit of the wire: bytes over loopback TCP into a sink that drops them.
 *
 *     raw_sink BYTES CHUNK       {"bytes":N,"seconds":S,"mb_per_s":N,"round_trips_per_s":N}
 *
 * The sender writes a chunk, waits for an answer of 16 bytes, and writes the next: the shape of a
 * producer with one request in flight, without anything that a request means. A chunk of a few
 * bytes gives the cost of a round trip. Two threads of one process; the kernel copies each byte
 * twice, into the socket and out of it, and that is all that happens to it.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw.h"

enum { ANSWER_LEN = 16, READ_LEN = 256 << 10 };

static const char usage[] = "raw_sink BYTES CHUNK   (CHUNK at most 64 MiB)";

struct sink {
    int listener;
    size_t chunk;
};

/* @return false at the end of the stream, which is an error in the middle of something */
static bool read_all(int fd, uint8_t *to, size_t len, size_t step)
{
    for (size_t got = 0; got < len;) {
        size_t want = len - got < step ? len - got : step;
        ssize_t n = read(fd, step == len ? to + got : to, want);
        if (n < 0 && errno != EINTR) {
            raw_die("read");
        }
        if (n == 0) {
            if (got != 0) {
                errno = ECONNRESET;
                raw_die("read");
            }
            return false;
        }
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void write_all(int fd, const uint8_t *data, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, data + sent, len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            raw_die("send");
        }
        sent += n > 0 ? (size_t)n : 0;
    }
}

static void no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        raw_die("TCP_NODELAY");
    }
}

/* The sink: swallow a chunk, answer, until the sender hangs up. */
static void *sink_main(void *arg)
{
    const struct sink *sink = arg;
    uint8_t answer[ANSWER_LEN] = {0};
    uint8_t *scratch = raw_buffer(READ_LEN);
    int fd = accept4(sink->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        raw_die("accept");
    }
    no_delay(fd);
    while (read_all(fd, scratch, sink->chunk, READ_LEN)) {
        write_all(fd, answer, sizeof answer);
    }
    (void)close(fd);
    free(scratch);
    return NULL;
}

static int listen_on_loopback(struct sockaddr_in *address)
{
    socklen_t len = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)address, len) != 0 || listen(fd, 1) != 0 ||
        getsockname(fd, (struct sockaddr *)address, &len) != 0) {
        raw_die("listen");
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        raw_usage(usage);
    }
    uint64_t bytes = raw_number(argv[1], UINT64_C(1) << 40, usage), trips = 0;
    struct sink sink = {.chunk = (size_t)raw_number(argv[2], RAW_CHUNK_MAX, usage)};
    struct sockaddr_in address;
    uint8_t answer[ANSWER_LEN];
    uint8_t *chunk = raw_buffer(sink.chunk);
    pthread_t thread;
    sink.listener = listen_on_loopback(&address);
    errno = pthread_create(&thread, NULL, sink_main, &sink);
    if (errno != 0) {
        raw_die("thread");
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        raw_die("connect");
    }
    no_delay(fd);
    double begin = raw_now_s();
    for (uint64_t sent = 0; sent < bytes; sent += sink.chunk, trips++) {
        write_all(fd, chunk, sink.chunk);
        if (!read_all(fd, answer, sizeof answer, sizeof answer)) {
            errno = ECONNRESET;
            raw_die("answer");
        }
    }
    double seconds = raw_now_s() - begin;
    (void)close(fd);
    (void)pthread_join(thread, NULL);
    (void)close(sink.listener);
    free(chunk);
    double sent = (double)trips * (double)sink.chunk;
    (void)printf("{\"bytes\":%.0f,\"seconds\":%.6f,\"mb_per_s\":%.1f,\"round_trips_per_s\":%.0f}\n",
                 sent, seconds, sent / seconds / 1e6, (double)trips / seconds);
    return EXIT_SUCCESS;
}
