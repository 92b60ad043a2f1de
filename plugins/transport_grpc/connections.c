/* connections.c -- see connections.h.
 *
 * A connection is known by the number that its calls bear in their request context, which follows
 * from the peer's address and port; the census computes the same from a socket. The table is in
 * shards with a lock each, so that calls of different connections do not meet.
 *
 * Closing. The census must not close a descriptor of gRPC's, nor shut down what has taken its
 * number meanwhile. It duplicates the descriptor, looks at the duplicate once more, and shuts that
 * down: gRPC then reads the end of the connection and lets go of it by itself.
 */
#include "connections.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SHARDS = 16,
    SLOTS = 128,                /* of a shard */
    LOOK_INTERVAL_US = 1000000, /* between two looks, at the least ... */
    LOOK_SHARE = 500,           /* ... and so many times as long as a look takes */
    LOOK_URGENT_US = 50000,     /* after the limit was met, at the least ... */
    LOOK_URGENT_SHARE = 20,
    REFUSED_RETRY_MS = 1000,
    FILES_PERCENT = 75 /* of the files that the process may open */
};

struct conn {
    struct conn *next;
    uint64_t id;
    uint64_t address; /* a hash of the address without the port */
    uint32_t seen;    /* the census that saw it last */
};

struct address {
    struct address *next;
    uint64_t address;
    uint32_t count;
};

struct shard {
    pthread_mutex_t mu;
    struct conn *conns[SLOTS];        /* by id */
    struct address *addresses[SLOTS]; /* by address; only with a limit for each */
};

struct tgr_connections {
    struct sti_timer timer; /* first: its task finds this */
    struct tgr_transport *t;
    uint32_t most, most_per_address; /* 0: no limit */
    _Atomic uint32_t count, census;
    struct shard shards[SHARDS];
    pthread_mutex_t mu; /* what follows */
    pthread_cond_t cond;
    bool armed, urgent, ended, started;
    uint64_t urgent_us; /* how soon after another one a look may be made */
    struct sti_metric *open, *refused, *refused_address;
};

/* ---- the table ----------------------------------------------------------------------------- */

static struct shard *shard_of(struct tgr_connections *c, uint64_t hash)
{
    return &c->shards[(hash >> 32) % SHARDS];
}

static struct conn **conn_find(struct shard *shard, uint64_t id)
{
    struct conn **at = &shard->conns[id % SLOTS];
    while (*at != NULL && (*at)->id != id) {
        at = &(*at)->next;
    }
    return at;
}

/* One more, or one less, of an address. @return false: it has as many as it may */
static bool address_move(struct tgr_connections *c, uint64_t address, bool more)
{
    struct shard *shard = shard_of(c, address);
    bool ok = true;
    if (c->most_per_address == 0) {
        return true;
    }
    pthread_mutex_lock(&shard->mu);
    struct address **at = &shard->addresses[address % SLOTS];
    while (*at != NULL && (*at)->address != address) {
        at = &(*at)->next;
    }
    if (*at == NULL && more && (*at = calloc(1, sizeof **at)) != NULL) {
        (*at)->address = address;
    }
    struct address *found = *at;
    if (found == NULL) {
        ok = !more;
    } else if (more) {
        ok = found->count < c->most_per_address;
        found->count += ok ? 1 : 0;
    } else if (--found->count == 0) {
        *at = found->next;
        free(found);
    }
    pthread_mutex_unlock(&shard->mu);
    return ok;
}

enum verdict { KNOWN, ADDED, TOO_MANY, TOO_MANY_OF_ADDRESS };

/* Is it known, or may it be? */
static enum verdict conn_see(struct tgr_connections *c, uint64_t id, uint64_t address)
{
    struct shard *shard = shard_of(c, id);
    uint32_t census = atomic_load_explicit(&c->census, memory_order_relaxed);
    pthread_mutex_lock(&shard->mu);
    struct conn *conn = *conn_find(shard, id);
    if (conn != NULL) {
        conn->seen = census;
    }
    pthread_mutex_unlock(&shard->mu);
    if (conn != NULL) {
        return KNOWN;
    }
    if (atomic_fetch_add(&c->count, 1) >= c->most && c->most > 0) {
        (void)atomic_fetch_sub(&c->count, 1);
        return TOO_MANY;
    }
    if (!address_move(c, address, true)) {
        (void)atomic_fetch_sub(&c->count, 1);
        return TOO_MANY_OF_ADDRESS;
    }
    conn = calloc(1, sizeof *conn);
    pthread_mutex_lock(&shard->mu);
    struct conn **at = conn_find(shard, id);
    bool twice = conn == NULL || *at != NULL; /* two calls met here */
    if (!twice) {
        *conn = (struct conn){.id = id, .address = address, .seen = census};
        *at = conn;
    }
    pthread_mutex_unlock(&shard->mu);
    if (twice) {
        free(conn);
        (void)address_move(c, address, false);
        (void)atomic_fetch_sub(&c->count, 1);
    }
    return ADDED;
}

/* Drop those that a census has not seen. */
static void conns_sweep(struct tgr_connections *c, uint32_t census)
{
    for (int s = 0; s < SHARDS; s++) {
        struct conn *gone = NULL;
        pthread_mutex_lock(&c->shards[s].mu);
        for (int i = 0; i < SLOTS; i++) {
            for (struct conn **at = &c->shards[s].conns[i]; *at != NULL;) {
                struct conn *conn = *at;
                if (conn->seen == census) {
                    at = &conn->next;
                    continue;
                }
                *at = conn->next;
                conn->next = gone;
                gone = conn;
            }
        }
        pthread_mutex_unlock(&c->shards[s].mu);
        while (gone != NULL) {
            struct conn *next = gone->next;
            (void)address_move(c, gone->address, false);
            (void)atomic_fetch_sub(&c->count, 1);
            free(gone);
            gone = next;
        }
    }
}

/* ---- sockets ------------------------------------------------------------------------------- */

static int port_of(const struct sockaddr_storage *at)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)at;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)at;
    return at->ss_family == AF_INET    ? ntohs(v4->sin_port)
           : at->ss_family == AF_INET6 ? ntohs(v6->sin6_port)
                                       : -1;
}

/* As the peer of a call is written: "127.0.0.1:6083", "[::1]:6083". */
static void peer_text(const struct sockaddr_storage *at, char *out, size_t out_max)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)at;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)at;
    char host[INET6_ADDRSTRLEN] = "";
    if (at->ss_family == AF_INET) {
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    } else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
        (void)inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], host, sizeof host);
    } else {
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    }
    (void)snprintf(out, out_max, strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host,
                   port_of(at));
}

/* Is it a connection of this listener? @param peer  out, of at least TGR_PEER_MAX + 1 bytes */
static bool socket_is_ours(const struct tgr_transport *t, int fd, char *peer)
{
    struct sockaddr_storage own = {.ss_family = AF_UNSPEC}, other = {.ss_family = AF_UNSPEC};
    socklen_t own_len = sizeof own, other_len = sizeof other;
    if (getsockname(fd, (struct sockaddr *)&own, &own_len) != 0 || port_of(&own) != t->port ||
        getpeername(fd, (struct sockaddr *)&other, &other_len) != 0 || port_of(&other) < 0) {
        return false;
    }
    peer_text(&other, peer, TGR_PEER_MAX + 1);
    return true;
}

/* @return false: it was another one by now, or gone */
static bool socket_close(const struct tgr_transport *t, int fd, const char *peer)
{
    char now[TGR_PEER_MAX + 1];
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    bool same = own >= 0 && socket_is_ours(t, own, now) && strcmp(now, peer) == 0 &&
                shutdown(own, SHUT_RDWR) == 0;
    if (own >= 0) {
        (void)close(own);
    }
    return same;
}

static uint64_t address_of(const char *peer)
{
    const char *colon = strrchr(peer, ':');
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *peer != '\0' && peer != colon; peer++) {
        h = (h ^ (uint8_t)*peer) * 1099511628211u;
    }
    return h ^ (h >> 29);
}

/* ---- the census ---------------------------------------------------------------------------- */

struct tally {
    uint32_t open, closed;
    char last[TGR_PEER_MAX + 1];
};

static void count_socket(struct tgr_connections *c, int fd, struct tally *tally)
{
    char peer[TGR_PEER_MAX + 1];
    if (!socket_is_ours(c->t, fd, peer)) {
        return;
    }
    enum verdict verdict = conn_see(c, tgr_connection_id(c->t, peer), address_of(peer));
    if (verdict == KNOWN || verdict == ADDED) {
        tally->open++;
    } else if (socket_close(c->t, fd, peer)) {
        sti_metric_add(verdict == TOO_MANY ? c->refused : c->refused_address, 1);
        tally->closed++;
        memcpy(tally->last, peer, sizeof peer);
    }
}

uint32_t tgr_connections_census(struct tgr_transport *t)
{
    struct tgr_connections *c = t->connections;
    struct tally tally = {.open = 0};
    uint32_t census = atomic_fetch_add(&c->census, 1) + 1;
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    if (dir == NULL) {
        return atomic_load(&c->count);
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            count_socket(c, (int)strtol(entry->d_name, NULL, 10), &tally);
        }
    }
    (void)closedir(dir);
    conns_sweep(c, census);
    sti_metric_set(c->open, tally.open);
    if (tally.closed > 0) {
        sti_log(t->host, STI_LOG_WARN, "connections_refused",
                "there are more connections than the listener takes; the newest are closed",
                STI_F_UINT("closed", tally.closed), STI_F_UINT("open", tally.open),
                STI_F_UINT("connections_max", c->most),
                STI_F_UINT("connections_per_address_max", c->most_per_address),
                STI_F_STR("peer", tally.last));
    }
    return tally.open;
}

/* @locks c->mu held */
static void arm(struct tgr_connections *c, uint64_t in_us)
{
    const struct sti_host *host = c->t->host;
    if (!c->armed && !c->ended) {
        c->armed = true;
        host->timer_arm(host->ctx, &c->timer, sti_now_us(host) + in_us);
    }
}

static void look(struct sti_task *task)
{
    struct tgr_connections *c = (struct tgr_connections *)(void *)task;
    uint64_t began = sti_now_us(c->t->host);
    (void)tgr_connections_census(c->t);
    uint64_t took = sti_now_us(c->t->host) - began;
    uint64_t pause = took * LOOK_SHARE > LOOK_INTERVAL_US ? took * LOOK_SHARE : LOOK_INTERVAL_US;
    pthread_mutex_lock(&c->mu);
    c->urgent_us =
        took * LOOK_URGENT_SHARE > LOOK_URGENT_US ? took * LOOK_URGENT_SHARE : LOOK_URGENT_US;
    c->armed = false;
    bool urgent = c->urgent;
    c->urgent = false;
    arm(c, urgent ? c->urgent_us : pause);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->mu);
}

/* The limit was met: look soon, for some may be gone. */
static void hurry(struct tgr_connections *c)
{
    const struct sti_host *host = c->t->host;
    pthread_mutex_lock(&c->mu);
    if (c->started && !c->urgent) {
        c->urgent = true; /* until a look was made */
        if (c->armed && host->timer_cancel(host->ctx, &c->timer)) {
            c->armed = false;
            arm(c, c->urgent_us);
        }
    }
    pthread_mutex_unlock(&c->mu);
}

int tgr_connection_admit(struct tgr_rpc *rpc, struct sti_err *err)
{
    struct tgr_connections *c = rpc->t->connections;
    if (c->most == 0 && c->most_per_address == 0) {
        return STI_OK;
    }
    enum verdict verdict = conn_see(c, rpc->request.connection, address_of(rpc->peer));
    if (verdict == KNOWN || verdict == ADDED) {
        return STI_OK;
    }
    bool address = verdict == TOO_MANY_OF_ADDRESS;
    sti_metric_add(address ? c->refused_address : c->refused, 1);
    hurry(c);
    rpc->retry_after_ms = REFUSED_RETRY_MS;
    (void)sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                      address ? "%s takes connections_per_address_max = %u connections of one "
                                "address, and has them"
                              : "%s takes connections_max = %u connections, and has them",
                      rpc->t->host->instance, address ? c->most_per_address : c->most);
    if (err != NULL) {
        err->traits |= STI_TRAIT_RETRIABLE;
    }
    return STI_E_RESOURCE_EXHAUSTED;
}

/* ---- life ---------------------------------------------------------------------------------- */

int tgr_connections_new(struct tgr_transport *t, struct sti_err *err)
{
    struct tgr_connections *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a listener");
    }
    c->t = t;
    c->timer.task.run = look;
    c->urgent_us = LOOK_URGENT_US;
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&c->shards[i].mu, NULL);
    }
    pthread_mutex_init(&c->mu, NULL);
    pthread_cond_init(&c->cond, NULL);
    t->connections = c;
    return STI_OK;
}

/* Connections are files: leave some for everything else. */
static uint32_t within_files(const struct tgr_transport *t, int64_t most)
{
    struct rlimit files;
    if (most == 0 || getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY ||
        (uint64_t)most <= files.rlim_cur / 100 * FILES_PERCENT) {
        return (uint32_t)most;
    }
    uint32_t fit = (uint32_t)(files.rlim_cur * FILES_PERCENT / 100);
    sti_log(t->host, STI_LOG_INFO, "connections_limited",
            "the process may open fewer files than connections_max asks for",
            STI_F_INT("connections_max", most), STI_F_UINT("open_files_max", files.rlim_cur),
            STI_F_UINT("connections", fit));
    return fit;
}

void tgr_connections_start(struct tgr_transport *t)
{
    struct tgr_connections *c = t->connections;
    const struct sti_host *host = t->host;
    char labels[192];
    c->most = within_files(t, t->conf->connections_max);
    c->most_per_address = (uint32_t)t->conf->connections_per_address_max;
    (void)snprintf(labels, sizeof labels, "listener=\"%s\"", host->instance);
    c->open = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_grpc_connections", labels,
                           "Connections that were open when they were last counted.");
    (void)snprintf(labels, sizeof labels, "listener=\"%s\",limit=\"connections_max\"",
                   host->instance);
    c->refused =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_grpc_connections_refused_total",
                     labels, "Connections closed, and calls on them refused, beyond a limit.");
    (void)snprintf(labels, sizeof labels, "listener=\"%s\",limit=\"connections_per_address_max\"",
                   host->instance);
    c->refused_address =
        host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_grpc_connections_refused_total",
                     labels, "Connections closed, and calls on them refused, beyond a limit.");
    pthread_mutex_lock(&c->mu);
    c->started = true;
    arm(c, LOOK_INTERVAL_US);
    pthread_mutex_unlock(&c->mu);
}

void tgr_connections_end(struct tgr_transport *t)
{
    struct tgr_connections *c = t->connections;
    pthread_mutex_lock(&c->mu);
    c->ended = true;
    c->started = false;
    if (c->armed && t->host->timer_cancel(t->host->ctx, &c->timer)) {
        c->armed = false;
    }
    while (c->armed) {
        pthread_cond_wait(&c->cond, &c->mu);
    }
    pthread_mutex_unlock(&c->mu);
}

void tgr_connections_free(struct tgr_transport *t)
{
    struct tgr_connections *c = t->connections;
    if (c == NULL) {
        return;
    }
    conns_sweep(c, atomic_load(&c->census) + 1);
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_destroy(&c->shards[i].mu);
    }
    pthread_mutex_destroy(&c->mu);
    pthread_cond_destroy(&c->cond);
    free(c);
    t->connections = NULL;
}
