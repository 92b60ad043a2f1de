/* raw_nats.c -- a peer's figures: records published to a JetStream of nats-server, with their acks.
 *
 *     raw_nats PORT RECORDS SIZE WINDOW
 *
 *     {"records":N,"seconds":S,"records_per_s":N,"mb_per_s":N,"p50_us":N,"p99_us":N}
 *
 * Makes a stream `bench` in files, and publishes RECORDS messages of SIZE bytes to it over one
 * connection, each asking for its ack, at most WINDOW of them outstanding. It speaks NATS' text
 * protocol over plain TCP, as their clients do, and writes many messages with one call, as a fast
 * client would. The times are of acks, and given for a WINDOW of 1 only: 0 otherwise.
 *
 * One thread writes, the main one; one reads the acks.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw.h"

enum { OUT_LEN = 1 << 20, IN_LEN = 1 << 18, SIZE_LIMIT = 1 << 19, WINDOW_MAX = 1 << 20 };

static const char usage[] = "raw_nats PORT RECORDS SIZE WINDOW   (SIZE at most 524288)";

static struct {
    int fd;
    uint8_t *out;
    size_t out_len;
    _Atomic uint64_t acks;
    pthread_mutex_t mu;
    pthread_cond_t changed;
} nats = {.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Noreturn void refuse(const char *what, const char *said)
{
    (void)fprintf(stderr, "error: nats-server: %s: %.200s\n", what, said);
    exit(EXIT_FAILURE);
}

static void flush(void)
{
    for (size_t sent = 0; sent < nats.out_len;) {
        ssize_t n = send(nats.fd, nats.out + sent, nats.out_len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            raw_die("send");
        }
        sent += n > 0 ? (size_t)n : 0;
    }
    nats.out_len = 0;
}

static void put(const void *data, size_t len)
{
    if (nats.out_len + len > OUT_LEN) {
        flush();
    }
    memcpy(nats.out + nats.out_len, data, len);
    nats.out_len += len;
}

/* Read until the line that starts with `start` has come, and throw all of it away: before the
 * reader runs, the server only answers. */
static void expect(const char *start)
{
    char text[4096];
    size_t len = 0;
    for (;;) {
        ssize_t n = read(nats.fd, text + len, sizeof text - 1 - len);
        if (n <= 0 || (len += (size_t)n) >= sizeof text - 1) {
            raw_die("nats-server");
        }
        text[len] = '\0';
        if (strstr(text, "-ERR") != NULL || strstr(text, "\"error\"") != NULL) {
            refuse("refused", text);
        }
        const char *at = strstr(text, start);
        if (at != NULL && len >= 2 && memcmp(text + len - 2, "\r\n", 2) == 0) {
            return;
        }
    }
}

/* Count the acks in what has come. @return how many bytes of it were whole messages */
static size_t take(char *text, size_t len, uint64_t *acks)
{
    size_t pos = 0;
    while (pos < len) {
        char *end = memchr(text + pos, '\n', len - pos);
        if (end == NULL) {
            break;
        }
        *end = '\0';
        size_t next = (size_t)(end - text) + 1;
        if (strncmp(text + pos, "MSG ", 4) == 0) {
            const char *last = strrchr(text + pos, ' ');
            size_t body = (size_t)strtoull(last + 1, NULL, 10) + 2;
            if (len - next < body) {
                *end = '\n';
                break;
            }
            if (memmem(text + next, body, "\"error\"", 7) != NULL) {
                text[next + body - 2] = '\0';
                refuse("a record", text + next);
            }
            next += body;
            (*acks)++;
        } else if (strncmp(text + pos, "-ERR", 4) == 0) {
            refuse("refused", text + pos);
        }
        pos = next;
    }
    return pos;
}

static void *reader_main(void *arg)
{
    char *text = malloc(IN_LEN + 1);
    size_t len = 0;
    (void)arg;
    if (text == NULL) {
        raw_die("memory");
    }
    for (;;) {
        ssize_t n = read(nats.fd, text + len, IN_LEN - len);
        if (n < 0 && errno != EINTR) {
            raw_die("read");
        }
        if (n == 0) {
            break;
        }
        len += n > 0 ? (size_t)n : 0;
        uint64_t acks = 0;
        size_t used = take(text, len, &acks);
        memmove(text, text + used, len - used);
        len -= used;
        (void)pthread_mutex_lock(&nats.mu);
        nats.acks += acks;
        (void)pthread_cond_signal(&nats.changed);
        (void)pthread_mutex_unlock(&nats.mu);
    }
    free(text);
    return NULL;
}

static void wait_acks(uint64_t wanted)
{
    if (atomic_load(&nats.acks) >= wanted) {
        return;
    }
    flush();
    (void)pthread_mutex_lock(&nats.mu);
    while (nats.acks < wanted) {
        (void)pthread_cond_wait(&nats.changed, &nats.mu);
    }
    (void)pthread_mutex_unlock(&nats.mu);
}

static void set_up(uint16_t port)
{
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n";
    static const char stream[] =
        "{\"name\":\"bench\",\"subjects\":[\"bench\"],\"storage\":\"file\",\"num_replicas\":1}";
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    char request[512];
    int on = 1;
    nats.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (nats.fd < 0 || connect(nats.fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(nats.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        raw_die("connect");
    }
    put(hello, sizeof hello - 1);
    flush();
    expect("PONG");
    int len =
        snprintf(request, sizeof request,
                 "SUB _INBOX.raw 1\r\nPUB $JS.API.STREAM.CREATE.bench _INBOX.raw %zu\r\n%s\r\n",
                 sizeof stream - 1, stream);
    put(request, (size_t)len);
    flush();
    expect("MSG _INBOX.raw");
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    char head[64];
    if (argc != 5) {
        raw_usage(usage);
    }
    uint16_t port = (uint16_t)raw_number(argv[1], 65535, usage);
    size_t records = (size_t)raw_number(argv[2], 1000000000, usage);
    size_t size = (size_t)raw_number(argv[3], SIZE_LIMIT, usage);
    uint64_t window = raw_number(argv[4], WINDOW_MAX, usage);
    double *took = calloc(window == 1 ? records : 1, sizeof *took);
    uint8_t *pool = raw_buffer((4u << 20) + size);
    nats.out = malloc(OUT_LEN);
    if (took == NULL || nats.out == NULL) {
        raw_die("memory");
    }
    set_up(port);
    errno = pthread_create(&thread, NULL, reader_main, NULL);
    if (errno != 0) {
        raw_die("thread");
    }
    int head_len = snprintf(head, sizeof head, "PUB bench _INBOX.raw %zu\r\n", size);
    double begin = raw_now_s(), last = begin;
    for (size_t i = 0; i < records; i++) {
        wait_acks(i < window ? 0 : i + 1 - window);
        put(head, (size_t)head_len);
        put(pool + i * (size + 4093) % (4u << 20), size);
        put("\r\n", 2);
        if (window == 1) {
            wait_acks(i + 1);
            double now = raw_now_s();
            took[i] = (now - last) * 1e6;
            last = now;
        }
    }
    wait_acks(records);
    double seconds = raw_now_s() - begin;
    (void)shutdown(nats.fd, SHUT_RDWR);
    (void)pthread_join(thread, NULL);
    (void)close(nats.fd);
    qsort(took, window == 1 ? records : 1, sizeof *took, by_value);
    (void)printf("{\"records\":%zu,\"seconds\":%.6f,\"records_per_s\":%.0f,\"mb_per_s\":%.1f,"
                 "\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
                 records, seconds, (double)records / seconds,
                 (double)records * (double)size / seconds / 1e6,
                 window == 1 ? took[records / 2] : 0, window == 1 ? took[records * 99 / 100] : 0);
    free(took);
    free(pool);
    free(nats.out);
    return EXIT_SUCCESS;
}
