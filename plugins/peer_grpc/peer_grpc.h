/* peer_grpc.h -- peer_grpc inside: an instance, and its links, each one bidirectional stream. See
 * README.md. */
#ifndef PEER_GRPC_PEER_GRPC_H
#define PEER_GRPC_PEER_GRPC_H

#include <grpc/grpc.h>

#include "../common/peer/core.h"

enum { PGR_POLLERS_MAX = 16, PGR_ARGS_MAX = 20, PGR_FRAME_BYTES = 1 << 20 };

#define PGR_METHOD "/streamit.internal.Peer/Connect"

struct pgr_conf {
    const char *host, *advertised_host;
    int64_t port, advertised_port, poller_threads;
    int64_t keepalive_ms, keepalive_timeout_ms;
    struct pco_conf peer;
};

struct pgr_link;
struct pgr_node;

/* What grpc_completion_queue_next gives back. */
struct pgr_tag {
    void (*fn)(struct pgr_tag *tag, bool ok);
    void *of;
};

struct pgr_node {
    struct pco core; /* first */
    const struct pgr_conf *conf;
    grpc_server *server;
    grpc_completion_queue *cq;
    void *method;
    pthread_t pollers[PGR_POLLERS_MAX];
    unsigned poller_count;
    char address[320]; /* that is listened on */
    int port;
    atomic_bool stopping; /* post no slots */
    struct pgr_tag shutdown_tag;
    bool shutdown_begun; /* main thread */
    pthread_mutex_t wait_mu;
    pthread_cond_t wait_cond;
    bool shutdown_done; /* wait_mu */
};

/* One stream, dialed or taken; or the slot that waits for one. */
struct pgr_link {
    struct pco_link base; /* first */
    struct pgr_node *node;
    char *address;         /* dialed; else NULL */
    grpc_channel *channel; /* dialed; else NULL */
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    int cancelled;
    struct pgr_tag tag_new, tag_open, tag_close, tag_read, tag_write, tag_status;

    pthread_mutex_t queue_mu;
    struct pco_message *head, **tail; /* what waits to be sent */

    /* Gives the call's batches their order, and guards what follows. */
    pthread_mutex_t mu;
    grpc_byte_buffer *in, *out;
    uint64_t out_len; /* of frames in `out` */
    unsigned pending; /* batches under way */
    bool reading, writing, opened, finishing, ended;
    bool told;          /* pco_link_closed was called, or is about to be */
    const char *broken; /* why we ended it; NULL: the other side, or the network did */
};

/* A call that nobody here knows; answered by its refusal. */
struct pgr_stranger {
    struct pgr_node *node;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    struct pgr_tag tag_new, tag_done;
    int cancelled;
};

/* link.c */
extern const struct pco_ops pgr_ops;
/* Wait for the next stream of another node. @return false: gRPC or memory refuses */
bool pgr_slot_post(struct pgr_node *node);

/* server.c */
size_t pgr_args(const struct pgr_conf *conf, grpc_arg rows[PGR_ARGS_MAX]);
int pgr_server_start(struct pgr_node *node, struct sti_err *err);
int pgr_server_stop(struct pgr_node *node, uint32_t deadline_ms, struct sti_err *err);

#endif /* PEER_GRPC_PEER_GRPC_H */
