/* leader.c -- FindLeader, and the address behind NOT_LEADER.
 *
 * The broker names nodes; only the transport knows how clients reach this one: the advertised
 * address. An empty host from the broker means this node. Where nobody has said what to advertise,
 * and the listener is on all addresses, a client is told the address that it dialed, which is right
 * for it by proof, behind address translation too.
 */
#include <grpc/slice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport.h"
#include "wire.h"

#include "streamit/v1/streamit.pb-c.h"

enum { HOST_MAX = 255 };

void tgr_node_address(const struct tgr_transport *t, const struct sti_node_info *node,
                      const char **host, int32_t *port)
{
    bool self = node->host == NULL || node->host[0] == '\0';
    *host = self ? t->advertised_host : node->host;
    *port = self ? t->advertised_port : node->port;
}

char *tgr_leader_hint(struct tgr_rpc *rpc, struct tgr_arena *arena, const char *topic,
                      int32_t partition, int32_t node_id)
{
    struct tgr_transport *t = rpc->t;
    struct sti_node_info node = {.struct_size = sizeof node};
    const char *host;
    int32_t port;
    char *out = tgr_arena_alloc(arena, 1, sizeof t->advertised_host + 16);
    if (out == NULL || node_id < 0 ||
        tgr_broker(t)->find_leader(t->broker.self, &rpc->request, topic, partition, &node, NULL) !=
            STI_OK ||
        node.node_id != node_id) {
        return NULL;
    }
    tgr_node_address(t, &node, &host, &port);
    (void)snprintf(out, sizeof t->advertised_host + 16, "%s:%d", host, (int)port);
    return out;
}

/* The address that the client dialed, "host:port", "[::1]:port" or "host"; what the listener is
 * called, where the client did not say. */
static const char *dialed_host(struct tgr_rpc *rpc, int32_t *port)
{
    const char *authority = (const char *)GRPC_SLICE_START_PTR(rpc->details.host);
    size_t len = GRPC_SLICE_LENGTH(rpc->details.host);
    char *host = tgr_arena_strndup(&rpc->arena, authority, len);
    if (host == NULL || len == 0 || len > HOST_MAX) {
        return rpc->t->advertised_host;
    }
    char *colon = strrchr(host, ':');
    bool bare_ipv6 = colon != NULL && host[0] != '[' && strchr(host, ':') != colon;
    bool has_port = colon != NULL && !bare_ipv6 && colon[1] != '\0' && strchr(colon, ']') == NULL;
    if (has_port) {
        char *end;
        long number = strtol(colon + 1, &end, 10);
        if (*end == '\0' && number > 0 && number <= 65535) {
            *port = rpc->t->conf->advertised_port > 0 ? *port : (int32_t)number;
            *colon = '\0';
        }
    }
    len = strlen(host);
    if (host[0] == '[' && host[len - 1] == ']') { /* fields of an address have no brackets */
        host[len - 1] = '\0';
        host++;
    }
    return tgr_text_valid((const uint8_t *)host, strlen(host)) ? host : rpc->t->advertised_host;
}

static void answer(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct sti_node_info node = {.struct_size = sizeof node};
    struct sti_err err;
    Streamit__V1__FindLeaderRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__find_leader_request__descriptor);
    if (request == NULL) {
        return;
    }
    sti_err_clear(&err);
    int rc = tgr_broker(t)->find_leader(t->broker.self, &rpc->request, request->topic,
                                        request->partition, &node, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
        return;
    }
    Streamit__V1__FindLeaderResponse response = STREAMIT__V1__FIND_LEADER_RESPONSE__INIT;
    const char *host;
    tgr_node_address(t, &node, &host, &response.port);
    bool self = node.host == NULL || node.host[0] == '\0';
    if (self && t->advertise_dialed) {
        host = dialed_host(rpc, &response.port);
    }
    response.node_id = node.node_id;
    response.host = (char *)host;
    response.leader_epoch = node.leader_epoch;
    tgr_rpc_reply(rpc, &response.base);
}

static void on_read(struct tgr_tag *tag, bool ok)
{
    (void)ok; /* without a message the request is refused */
    answer(tag->rpc);
    tgr_rpc_unref(tag->rpc);
}

void tgr_find_leader_handle(struct tgr_rpc *rpc)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &rpc->payload;
    if (tgr_rpc_batch(rpc, &op, 1, &rpc->tag_read, on_read) != STI_OK) {
        tgr_rpc_finish(rpc, NULL, STI_E_INTERNAL, NULL);
    }
    tgr_rpc_unref(rpc);
}
