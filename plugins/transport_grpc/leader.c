/* leader.c -- FindLeader, and the address behind NOT_LEADER.
 *
 * The broker names nodes; only the transport knows how clients reach this one: the advertised
 * address. An empty host from the broker means this node.
 */
#include <stdio.h>

#include "transport.h"

#include "streamit/v1/streamit.pb-c.h"

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

void tgr_find_leader_handle(struct tgr_rpc *rpc)
{
    struct tgr_transport *t = rpc->t;
    struct sti_node_info node = {.struct_size = sizeof node};
    struct sti_err err;
    Streamit__V1__FindLeaderRequest *request =
        tgr_rpc_unpack(rpc, &streamit__v1__find_leader_request__descriptor);
    if (request == NULL) {
        tgr_rpc_unref(rpc);
        return;
    }
    sti_err_clear(&err);
    int rc = tgr_broker(t)->find_leader(t->broker.self, &rpc->request, request->topic,
                                        request->partition, &node, &err);
    if (rc != STI_OK) {
        tgr_rpc_finish(rpc, NULL, rc, &err);
    } else {
        Streamit__V1__FindLeaderResponse response = STREAMIT__V1__FIND_LEADER_RESPONSE__INIT;
        const char *host;
        tgr_node_address(t, &node, &host, &response.port);
        response.node_id = node.node_id;
        response.host = (char *)host;
        response.leader_epoch = node.leader_epoch;
        tgr_rpc_reply(rpc, &response.base);
    }
    tgr_rpc_unref(rpc);
}
