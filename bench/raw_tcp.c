/* raw_tcp.c -- the limit of the wire: bytes over loopback TCP, without anything that they mean.
 *
 *     raw_tcp sink BYTES MESSAGE [WINDOW]              a server that drops what it gets
 *     raw_tcp source BYTES MESSAGE [WINDOW]            a server that sends what is in memory
 *     raw_tcp sendfile BYTES MESSAGE WINDOW FILE       a server that sends a file, kernel to kernel
 *
 *     {"bytes":N,"seconds":S,"mb_per_s":N,"round_trips_per_s":N}
 *
 * sink: the client sends a message, the server answers 16 bytes for each, and at most WINDOW
 * (default 1) are unanswered: the shape of a producer. source and sendfile: the client asks with 16
 * bytes, and gets a message; at most WINDOW are asked for ahead: the shape of a consumer. Messages
 * of a few bytes give the cost of a round trip. What is sent lies in a ring of 256 MiB, or in the
 * file, so that it comes from no near cache; what is received goes into one buffer of 256 KiB.
 *
 * The server is a thread with an epoll loop and one connection, the client the main thread.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "raw.h"

enum { ANSWER_LEN = 16, READ_LEN = 256 << 10, RING_LEN = 256 << 20, WINDOW_MAX = 1024 };

static const char usage[] =
    "raw_tcp sink|source|sendfile BYTES MESSAGE [WINDOW [FILE]]   (MESSAGE at most 64 MiB)";

enum mode { SINK, SOURCE, SENDFILE };

struct server {
    enum mode mode;
    int listener, fd, file;
    size_t message, file_len, scratch_len;
    uint8_t *ring, *scratch;
    size_t got;     /* bytes of the message, or of the request, that is coming in */
    uint64_t asked; /* requests, or answers, that are not begun */
    size_t left;    /* bytes of the one that goes out now */
    size_t pos;     /* in the ring or the file */
};

static void no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        raw_die("TCP_NODELAY");
    }
}

/* ---- the server ---------------------------------------------------------------------------- */

/* Take in what is there. @return false at the end of the stream */
static bool server_read(struct server *s)
{
    size_t unit = s->mode == SINK ? s->message : ANSWER_LEN;
    for (;;) {
        ssize_t n = read(s->fd, s->scratch, READ_LEN);
        if (n <= 0) {
            if (n < 0 && errno != EAGAIN && errno != EINTR) {
                raw_die("read");
            }
            return n != 0;
        }
        s->got += (size_t)n;
        s->asked += s->got / unit;
        s->got %= unit;
    }
}

static ssize_t send_some(struct server *s)
{
    if (s->mode == SENDFILE) {
        off_t at = (off_t)s->pos;
        size_t len = s->left < s->file_len - s->pos ? s->left : s->file_len - s->pos;
        return sendfile(s->fd, s->file, &at, len);
    }
    size_t len = s->left < RING_LEN - s->pos ? s->left : RING_LEN - s->pos;
    return send(s->fd, s->ring + s->pos, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Send what is asked for, as far as the socket takes it. @return true when more waits for room */
static bool server_write(struct server *s)
{
    size_t unit = s->mode == SINK ? ANSWER_LEN : s->message;
    size_t end = s->mode == SENDFILE ? s->file_len : RING_LEN;
    while (s->left > 0 || s->asked > 0) {
        if (s->left == 0) {
            s->left = unit;
            s->asked--;
        }
        ssize_t n = send_some(s);
        if (n < 0 && errno == EAGAIN) {
            return true;
        }
        if (n <= 0 && errno != EINTR) {
            raw_die(s->mode == SENDFILE ? "sendfile" : "send");
        }
        s->left -= n > 0 ? (size_t)n : 0;
        s->pos = (s->pos + (n > 0 ? (size_t)n : 0)) % end;
    }
    return false;
}

static void *server_main(void *arg)
{
    struct server *s = arg;
    struct epoll_event event = {.events = EPOLLIN};
    bool waits = false, open = true;
    int poll = epoll_create1(EPOLL_CLOEXEC);
    s->fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (poll < 0 || s->fd < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &event) != 0) {
        raw_die("accept");
    }
    no_delay(s->fd);
    while (open) {
        if (epoll_wait(poll, &event, 1, -1) < 0 && errno != EINTR) {
            raw_die("epoll_wait");
        }
        open = server_read(s);
        bool now = open && server_write(s);
        if (now != waits) {
            waits = now;
            event.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN;
            if (epoll_ctl(poll, EPOLL_CTL_MOD, s->fd, &event) != 0) {
                raw_die("epoll_ctl");
            }
        }
    }
    (void)close(s->fd);
    (void)close(poll);
    return NULL;
}

/* ---- the client ---------------------------------------------------------------------------- */

static void read_all(int fd, uint8_t *scratch, size_t len)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = read(fd, scratch, len - got < READ_LEN ? len - got : READ_LEN);
        if (n == 0) {
            errno = ECONNRESET;
        }
        if (n <= 0 && errno != EINTR) {
            raw_die("read");
        }
        got += n > 0 ? (size_t)n : 0;
    }
}

/* From a ring of `ring_len` bytes, beginning at *pos. */
static void write_all(int fd, const uint8_t *ring, size_t ring_len, size_t *pos, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        size_t want = len - sent < ring_len - *pos ? len - sent : ring_len - *pos;
        ssize_t n = send(fd, ring + *pos, want, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            raw_die("send");
        }
        sent += n > 0 ? (size_t)n : 0;
        *pos = (*pos + (n > 0 ? (size_t)n : 0)) % ring_len;
    }
}

/* @return how many messages have gone there, or come here, and were answered */
static uint64_t client_run(int fd, const struct server *s, uint64_t bytes, uint64_t window)
{
    uint64_t messages = (bytes + s->message - 1) / s->message, sent = 0;
    size_t out = s->mode == SINK ? s->message : ANSWER_LEN, pos = 0;
    size_t in = s->mode == SINK ? ANSWER_LEN : s->message;
    uint8_t *scratch = raw_buffer(READ_LEN);
    for (uint64_t done = 0; done < messages; done++) {
        while (sent < messages && sent - done < window) {
            write_all(fd, s->ring, RING_LEN, &pos, out);
            sent++;
        }
        read_all(fd, scratch, in);
    }
    free(scratch);
    return messages;
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

/* A pattern of 4 MiB, again and again: no cache but the last one knows. */
static uint8_t *make_ring(void)
{
    enum { PATTERN = 4 << 20 };
    uint8_t *pattern = raw_buffer(PATTERN), *ring = malloc(RING_LEN);
    if (ring == NULL) {
        raw_die("memory");
    }
    for (size_t pos = 0; pos < RING_LEN; pos += PATTERN) {
        memcpy(ring + pos, pattern, PATTERN);
    }
    free(pattern);
    return ring;
}

static void open_file(struct server *s, const char *path)
{
    struct stat st;
    s->file = open(path, O_RDONLY | O_CLOEXEC);
    if (s->file < 0 || fstat(s->file, &st) != 0) {
        raw_die(path);
    }
    s->file_len = (size_t)st.st_size;
    if (s->file_len == 0) {
        errno = ENODATA;
        raw_die(path);
    }
}

static enum mode parse_mode(const char *text, int argc)
{
    if (strcmp(text, "sink") == 0 && argc <= 5) {
        return SINK;
    }
    if (strcmp(text, "source") == 0 && argc <= 5) {
        return SOURCE;
    }
    if (strcmp(text, "sendfile") != 0 || argc != 6) {
        raw_usage(usage);
    }
    return SENDFILE;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        raw_usage(usage);
    }
    struct server server = {.mode = parse_mode(argv[1], argc), .file = -1};
    uint64_t bytes = raw_number(argv[2], UINT64_C(1) << 40, usage);
    server.message = (size_t)raw_number(argv[3], RAW_CHUNK_MAX, usage);
    uint64_t window = argc > 4 ? raw_number(argv[4], WINDOW_MAX, usage) : 1;
    if (server.mode == SENDFILE) {
        open_file(&server, argv[5]);
    }
    struct sockaddr_in address;
    pthread_t thread;
    server.ring = make_ring();
    server.scratch = raw_buffer(READ_LEN);
    server.listener = listen_on_loopback(&address);
    errno = pthread_create(&thread, NULL, server_main, &server);
    if (errno != 0) {
        raw_die("thread");
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        raw_die("connect");
    }
    no_delay(fd);
    double begin = raw_now_s();
    uint64_t messages = client_run(fd, &server, bytes, window);
    double seconds = raw_now_s() - begin;
    (void)close(fd);
    (void)pthread_join(thread, NULL);
    (void)close(server.listener);
    free(server.ring);
    free(server.scratch);
    double moved = (double)messages * (double)server.message;
    (void)printf("{\"bytes\":%.0f,\"seconds\":%.6f,\"mb_per_s\":%.1f,\"round_trips_per_s\":%.0f}\n",
                 moved, seconds, moved / seconds / 1e6, (double)messages / seconds);
    return EXIT_SUCCESS;
}
