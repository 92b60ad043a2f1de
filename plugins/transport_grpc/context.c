/* context.c -- the request context: client, trace, peer, connection, deadline, from gRPC metadata.
 *
 * All strings are copied into the call, cut to their maximum, and hold printable ASCII only: they
 * end up in logs. Credentials are the token of an `authorization: Bearer` header; the broker says
 * whose they are, before a method is run. A trace id is taken from `x-trace-id`, else from a valid
 * W3C `traceparent`, else made here, so that every call has one; it goes back in the trailing
 * metadata. The connection is a hash of the peer's address and port, which no other open connection
 * of this listener has.
 */
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <string.h>
#include <strings.h>

#include "transport.h"

static void copy_text(char *out, size_t out_max, const uint8_t *data, size_t len)
{
    size_t n = len < out_max - 1 ? len : out_max - 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = data[i] >= 0x20 && data[i] < 0x7f ? (char)data[i] : '?';
    }
    out[n] = '\0';
}

/* `len` lower-case hex digits, and not all of them 0 where that is said to be invalid. */
static bool is_hex(const uint8_t *data, size_t len, bool zero_allowed)
{
    bool zero = true;
    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\0' || strchr("0123456789abcdef", data[i]) == NULL) {
            return false;
        }
        zero = zero && data[i] == '0';
    }
    return zero_allowed || !zero;
}

/* W3C Trace Context: version "00", trace-id 32, parent-id 16, flags 2 hex digits, joined by '-'.
 * Later versions may append to it; version ff is invalid, and so is an id of zeros. What is not
 * valid is as if it were not there. */
static void copy_traceparent(char *out, size_t out_max, const uint8_t *data, size_t len)
{
    enum { TRACE = 3, TRACE_LEN = 32, PARENT = 36, PARENT_LEN = 16, FLAGS = 53, LEN = 55 };
    if (len < LEN || !is_hex(data, 2, true) || memcmp(data, "ff", 2) == 0 ||
        data[TRACE - 1] != '-' || !is_hex(data + TRACE, TRACE_LEN, false) ||
        data[PARENT - 1] != '-' || !is_hex(data + PARENT, PARENT_LEN, false) ||
        data[FLAGS - 1] != '-' || !is_hex(data + FLAGS, 2, true)) {
        return;
    }
    if (len > LEN && (memcmp(data, "00", 2) == 0 || data[LEN] != '-')) {
        return;
    }
    copy_text(out, out_max, data + TRACE, TRACE_LEN);
}

/* An id that no other call has: a random part of the instance, and a number. */
static void make_trace_id(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    uint64_t number = atomic_fetch_add_explicit(&t->trace_number, 1, memory_order_relaxed);
    uint64_t parts[2] = {t->trace_random, number};
    char *out = rpc->trace_id;
    for (size_t i = 0; i < 2; i++) {
        for (int shift = 60; shift >= 0; shift -= 4) {
            *out++ = "0123456789abcdef"[(parts[i] >> shift) & 15u];
        }
    }
    *out = '\0';
}

static void read_metadata(struct tgr_rpc *rpc)
{
    bool explicit_trace = false;
    for (size_t i = 0; i < rpc->metadata.count; i++) {
        const grpc_metadata *md = &rpc->metadata.metadata[i];
        const uint8_t *value = GRPC_SLICE_START_PTR(md->value);
        size_t len = GRPC_SLICE_LENGTH(md->value);
        if (grpc_slice_str_cmp(md->key, "x-client-id") == 0) {
            copy_text(rpc->client_id, sizeof rpc->client_id, value, len);
        } else if (grpc_slice_str_cmp(md->key, "x-trace-id") == 0) {
            copy_text(rpc->trace_id, sizeof rpc->trace_id, value, len);
            explicit_trace = len > 0;
        } else if (!explicit_trace && grpc_slice_str_cmp(md->key, "traceparent") == 0) {
            copy_traceparent(rpc->trace_id, sizeof rpc->trace_id, value, len);
        } else if (grpc_slice_str_cmp(md->key, "authorization") == 0) {
            rpc->authorization = value;
            rpc->authorization_len = len;
        }
    }
    if (rpc->trace_id[0] == '\0') {
        make_trace_id(rpc);
    }
}

/* "ipv4:127.0.0.1:6083" -> "127.0.0.1:6083"; "ipv6:%5B::1%5D:6083" -> "[::1]:6083" */
static void read_peer(struct tgr_rpc *rpc)
{
    char *peer = grpc_call_get_peer(rpc->call);
    const char *from = peer == NULL ? "" : peer;
    size_t n = 0;
    if (strncmp(from, "ipv4:", 5) == 0 || strncmp(from, "ipv6:", 5) == 0) {
        from += 5;
    }
    while (*from != '\0' && n < TGR_PEER_MAX) {
        if (strncmp(from, "%5B", 3) == 0 || strncmp(from, "%5D", 3) == 0) {
            rpc->peer[n++] = from[2] == 'B' ? '[' : ']';
            from += 3;
        } else {
            rpc->peer[n++] = *from++;
        }
    }
    rpc->peer[n] = '\0';
    gpr_free(peer);
}

static uint64_t hash(const char *text)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *text != '\0'; text++) {
        h = (h ^ (uint8_t)*text) * 1099511628211u;
    }
    return h;
}

uint64_t tgr_connection_id(const struct tgr_transport *t, const char *peer)
{
    return hash(peer) ^ hash(t->host->instance);
}

static uint64_t deadline_us(const struct tgr_rpc *rpc, uint64_t now_us)
{
    gpr_timespec at = gpr_convert_clock_type(rpc->deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(at, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) {
        return UINT64_MAX;
    }
    gpr_timespec left = gpr_time_sub(at, gpr_now(GPR_CLOCK_MONOTONIC));
    if (left.tv_sec < 0) {
        return now_us;
    }
    if (left.tv_sec > 365 * 86400) {
        return UINT64_MAX;
    }
    return now_us + (uint64_t)left.tv_sec * 1000000u + (uint64_t)left.tv_nsec / 1000u;
}

void tgr_context_fill(struct tgr_rpc *rpc)
{
    const struct sti_host *host = rpc->t->host;
    read_metadata(rpc);
    read_peer(rpc);
    rpc->request = (struct sti_request){.struct_size = sizeof rpc->request,
                                        .principal = rpc->principal,
                                        .client_id = rpc->client_id,
                                        .peer = rpc->peer,
                                        .listener = host->instance,
                                        .trace_id = rpc->trace_id,
                                        .connection = tgr_connection_id(rpc->t, rpc->peer),
                                        .received_us = sti_now_us(host),
                                        .retry_after_ms = &rpc->retry_after_ms};
    rpc->request.deadline_us = deadline_us(rpc, rpc->request.received_us);
}

int tgr_context_authenticate(struct tgr_rpc *rpc, struct sti_err *err)
{
    static const char scheme[] = "Bearer ";
    const struct sti_broker *broker = tgr_broker(rpc->t);
    size_t scheme_len = sizeof scheme - 1, len = rpc->authorization_len;
    struct sti_credentials from = {.struct_size = sizeof from,
                                   .mechanism = rpc->authorization == NULL ? "none" : "unknown",
                                   .identity = "",
                                   .peer = rpc->request.peer,
                                   .listener = rpc->request.listener,
                                   .connection = rpc->request.connection};
    if (rpc->authorization != NULL && len >= scheme_len &&
        strncasecmp((const char *)rpc->authorization, scheme, scheme_len) == 0) {
        from.mechanism = "bearer";
        from.secret = rpc->authorization + scheme_len;
        from.secret_len = (uint32_t)(len - scheme_len);
    }
    return broker->authenticate(rpc->t->broker.self, &from, rpc->principal, sizeof rpc->principal,
                                err);
}

struct tgr_shard *tgr_shard_of(struct tgr_rpc *rpc)
{
    uint64_t h = rpc->request.connection;
    return &rpc->t->shards[(h ^ (h >> 32)) % TGR_SHARDS];
}
