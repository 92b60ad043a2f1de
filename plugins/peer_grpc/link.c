/* link.c -- one link: a bidirectional stream of gRPC, on a channel of its own when it was dialed.
 *
 * What is queued while a message is under way goes with the next, many frames in one message; one
 * SEND_MESSAGE and one RECV_MESSAGE are outstanding at most. Payloads are handed to gRPC as slices
 * that hold their owner's reference until the last byte has left, and what arrives is handed on as
 * slices of gRPC's buffer: neither is copied here.
 *
 * The end. tag_close comes when the stream is over, whoever ended it; once no other batch is under
 * way, the core is told, and nothing more happens to the link. The last reference frees the call
 * and the channel.
 *
 * Batches are started under `mu`, which gRPC wants, and never under the core's locks: the core
 * queues under its own, and flushes without.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../common/grpc/thread_check.h"
#include "peer_grpc.h"

enum { SLICES_MAX = 256, COPY_BYTES = 256 };

static struct pgr_link *link_of(struct pco_link *base)
{
    return (struct pgr_link *)(void *)base;
}

/* ---- batches -------------------------------------------------------------------------------- */

/* @locks mu held. @return false: nothing was started */
static bool batch(struct pgr_link *link, const grpc_op *ops, size_t count, struct pgr_tag *tag,
                  void (*fn)(struct pgr_tag *tag, bool ok))
{
    tag->fn = fn;
    tag->of = link;
    gco_thread_release(tag);
    grpc_call_error rc = grpc_call_start_batch(link->call, ops, count, tag, NULL);
    if (rc != GRPC_CALL_OK) {
        sti_log(link->node->core.host, STI_LOG_ERROR, "grpc_batch_refused",
                "gRPC refused an operation; the connection is closed",
                STI_F_STR("reason", grpc_call_error_to_string(rc)));
        (void)grpc_call_cancel(link->call, NULL);
        return false;
    }
    link->pending++;
    return true;
}

/* A batch has come back. Tells the core of the end when it was the last one. @locks none */
static void batch_done(struct pgr_link *link)
{
    struct sti_err err;
    pthread_mutex_lock(&link->mu);
    link->pending--;
    bool over = link->ended && link->pending == 0 && !link->told;
    link->told = link->told || over;
    const char *broken = link->broken;
    pthread_mutex_unlock(&link->mu);
    if (!over) {
        return;
    }
    if (broken != NULL || link->base.incoming) {
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST, "%s",
                          broken != NULL ? broken : "the other side left");
    } else {
        char *text = grpc_slice_to_c_string(link->details);
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST, "%.200s",
                          text[0] == '\0' ? "the other side ended it" : text);
        gpr_free(text);
    }
    pco_link_closed(&link->base, &err);
}

static void break_link(struct pgr_link *link, const char *why)
{
    pthread_mutex_lock(&link->mu);
    if (link->broken == NULL) {
        link->broken = why;
    }
    if (link->call != NULL && !link->ended) {
        (void)grpc_call_cancel(link->call, NULL);
    }
    pthread_mutex_unlock(&link->mu);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void slice_gone(void *owner)
{
    ((struct sti_slice_owner *)owner)->unref(owner);
}

/* Hand a message's bytes to gRPC: small ones are cheaper copied than counted. */
static size_t add_slices(struct pco_message *message, grpc_slice *out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < message->slice_count; i++) {
        struct sti_slice *slice = &message->slices[i];
        if (slice->len <= COPY_BYTES) {
            out[n++] = grpc_slice_from_copied_buffer((const char *)slice->data, (size_t)slice->len);
        } else {
            out[n++] = grpc_slice_new_with_user_data((void *)(uintptr_t)slice->data,
                                                     (size_t)slice->len, slice_gone, slice->owner);
            slice->owner = NULL; /* its reference went along */
        }
    }
    return n;
}

/* Take frames off the queue, up to a message's worth; at least one. */
static struct pco_message *take(struct pgr_link *link, uint64_t *len, size_t *slices)
{
    struct pco_message *first, **end = &first;
    *len = 0;
    *slices = 0;
    pthread_mutex_lock(&link->queue_mu);
    first = link->head;
    while (*end != NULL && (*len == 0 || (*len + (*end)->len <= PGR_FRAME_BYTES &&
                                          *slices + (*end)->slice_count <= SLICES_MAX))) {
        *len += (*end)->len;
        *slices += (*end)->slice_count;
        end = &(*end)->next;
    }
    link->head = *end;
    *end = NULL;
    if (link->head == NULL) {
        link->tail = &link->head;
    }
    pthread_mutex_unlock(&link->queue_mu);
    return first;
}

static void on_write(struct pgr_tag *tag, bool ok);

static void on_status(struct pgr_tag *tag, bool ok)
{
    (void)ok;
    batch_done(tag->of);
}

/* End a stream that was taken. @locks mu held */
static void send_status(struct pgr_link *link)
{
    grpc_op op;
    grpc_slice text = grpc_slice_from_static_string("the node ends");
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    op.data.send_status_from_server.status = GRPC_STATUS_UNAVAILABLE;
    op.data.send_status_from_server.status_details = &text;
    link->finishing = false;
    link->opened = false; /* nothing can be sent behind it */
    (void)batch(link, &op, 1, &link->tag_status, on_status);
}

/* @locks mu held */
static void write_on(struct pgr_link *link)
{
    uint64_t len;
    size_t slice_count, n = 0;
    grpc_op op;
    if (link->writing || link->ended || !link->opened) {
        return;
    }
    struct pco_message *messages = take(link, &len, &slice_count);
    if (messages == NULL) {
        if (link->finishing) {
            send_status(link);
        }
        return;
    }
    grpc_slice few[SLICES_MAX];
    grpc_slice *slices = slice_count > SLICES_MAX ? malloc(slice_count * sizeof *slices) : few;
    while (messages != NULL) {
        struct pco_message *next = messages->next;
        if (slices != NULL) {
            n += add_slices(messages, slices + n);
        }
        pco_message_free(messages);
        messages = next;
    }
    if (slices == NULL) {
        link->broken = "memory ran out";
        (void)grpc_call_cancel(link->call, NULL);
        return;
    }
    link->out = grpc_raw_byte_buffer_create(slices, n);
    link->out_len = len;
    for (size_t i = 0; i < n; i++) {
        grpc_slice_unref(slices[i]);
    }
    if (slices != few) {
        free(slices);
    }
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = link->out;
    link->writing = batch(link, &op, 1, &link->tag_write, on_write);
    if (!link->writing) {
        grpc_byte_buffer_destroy(link->out);
        link->out = NULL;
    }
}

static void on_write(struct pgr_tag *tag, bool ok)
{
    struct pgr_link *link = tag->of;
    pthread_mutex_lock(&link->mu);
    grpc_byte_buffer *out = link->out;
    uint64_t len = link->out_len;
    link->out = NULL;
    link->writing = false;
    if (ok) {
        write_on(link);
    }
    pthread_mutex_unlock(&link->mu);
    grpc_byte_buffer_destroy(out);
    pco_link_sent(&link->base, len);
    batch_done(link);
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* A message of gRPC's, as the owner of the slices that point into it. */
struct received {
    struct sti_slice_owner owner; /* first */
    atomic_uint refs;
    grpc_byte_buffer *buffer;
};

static void received_ref(struct sti_slice_owner *owner)
{
    (void)atomic_fetch_add_explicit(&((struct received *)(void *)owner)->refs, 1,
                                    memory_order_relaxed);
}

static void received_unref(struct sti_slice_owner *owner)
{
    struct received *r = (struct received *)(void *)owner;
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1) {
        grpc_byte_buffer_destroy(r->buffer);
        free(r);
    }
}

/* Hand a message to the core. Takes the buffer. */
static bool deliver(struct pgr_link *link, grpc_byte_buffer *buffer)
{
    struct sti_slice few[SLICES_MAX], *slices = few;
    size_t count = buffer->type == GRPC_BB_RAW ? buffer->data.raw.slice_buffer.count : 0;
    struct received *r = malloc(sizeof *r);
    grpc_byte_buffer_reader reader;
    grpc_slice *piece;
    uint32_t n = 0;
    if (count > SLICES_MAX) {
        slices = malloc(count * sizeof *slices);
    }
    if (r == NULL || slices == NULL || grpc_byte_buffer_reader_init(&reader, buffer) == 0) {
        grpc_byte_buffer_destroy(buffer);
        free(r);
        if (slices != few) {
            free(slices);
        }
        return false;
    }
    *r = (struct received){.owner = {.ref = received_ref, .unref = received_unref},
                           .buffer = buffer};
    atomic_init(&r->refs, 1);
    while (n < count && grpc_byte_buffer_reader_peek(&reader, &piece) != 0) {
        slices[n] = sti_slice_borrow(GRPC_SLICE_START_PTR(*piece), GRPC_SLICE_LENGTH(*piece));
        slices[n++].owner = &r->owner;
    }
    grpc_byte_buffer_reader_destroy(&reader);
    bool ok = pco_link_received(&link->base, slices, n);
    received_unref(&r->owner);
    if (slices != few) {
        free(slices);
    }
    return ok;
}

static void on_read(struct pgr_tag *tag, bool ok);

/* @locks mu held */
static void read_on(struct pgr_link *link)
{
    grpc_op op;
    if (link->reading || link->ended) {
        return;
    }
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &link->in;
    link->reading = batch(link, &op, 1, &link->tag_read, on_read);
}

static void on_read(struct pgr_tag *tag, bool ok)
{
    struct pgr_link *link = tag->of;
    pthread_mutex_lock(&link->mu);
    grpc_byte_buffer *buffer = link->in;
    link->in = NULL;
    link->reading = false;
    pthread_mutex_unlock(&link->mu);
    if (!ok || buffer == NULL) {
        if (buffer != NULL) {
            grpc_byte_buffer_destroy(buffer);
        }
        if (link->base.incoming) {
            break_link(link, NULL); /* half-closed: nobody reads our answers */
        }
    } else if (!deliver(link, buffer)) {
        break_link(link, "a message could not be read");
    } else if (pco_link_wants(&link->base)) {
        pthread_mutex_lock(&link->mu);
        read_on(link);
        pthread_mutex_unlock(&link->mu);
    }
    batch_done(link);
}

/* ---- beginning and end ---------------------------------------------------------------------- */

static void on_open(struct pgr_tag *tag, bool ok)
{
    struct pgr_link *link = tag->of;
    (void)ok;
    batch_done(link);
}

static void on_close(struct pgr_tag *tag, bool ok)
{
    struct pgr_link *link = tag->of;
    (void)ok;
    pthread_mutex_lock(&link->mu);
    link->ended = true;
    if (link->reading || link->writing) { /* have them come back */
        (void)grpc_call_cancel(link->call, NULL);
    }
    pthread_mutex_unlock(&link->mu);
    batch_done(link);
}

/* The batches that every stream begins with. @locks mu held */
static void begin(struct pgr_link *link)
{
    grpc_op ops[2], close;
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    memset(&close, 0, sizeof close);
    if (link->base.incoming) {
        close.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        close.data.recv_close_on_server.cancelled = &link->cancelled;
    } else {
        close.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
        close.data.recv_status_on_client.trailing_metadata = &link->trailing;
        close.data.recv_status_on_client.status = &link->status;
        close.data.recv_status_on_client.status_details = &link->details;
    }
    if (!batch(link, &close, 1, &link->tag_close, on_close)) {
        link->ended = true; /* nothing will come */
        return;
    }
    ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (!link->base.incoming) {
        ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
        ops[n++].data.recv_initial_metadata.recv_initial_metadata = &link->initial;
    }
    link->opened = batch(link, ops, n, &link->tag_open, on_open);
    read_on(link);
    write_on(link);
}

static struct pgr_link *link_new(struct pgr_node *node, const char *address)
{
    struct pgr_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return NULL;
    }
    link->node = node;
    link->address = address == NULL ? NULL : strdup(address);
    if (address != NULL && link->address == NULL) {
        free(link);
        return NULL;
    }
    link->details = grpc_empty_slice();
    link->tail = &link->head;
    grpc_metadata_array_init(&link->initial);
    grpc_metadata_array_init(&link->trailing);
    pthread_mutex_init(&link->queue_mu, NULL);
    pthread_mutex_init(&link->mu, NULL);
    pco_link_init(&link->base, &node->core, address == NULL);
    return link;
}

static struct pco_link *new_link(void *engine, const char *address)
{
    struct pgr_link *link = link_new(engine, address);
    return link == NULL ? NULL : &link->base;
}

static void open_link(struct pco_link *base)
{
    struct pgr_link *link = link_of(base);
    grpc_arg rows[PGR_ARGS_MAX];
    grpc_channel_args args = {pgr_args(link->node->conf, rows), rows};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    struct sti_err err;
    pthread_mutex_lock(&link->mu);
    link->channel = grpc_channel_create(link->address, credentials, &args);
    link->call = grpc_channel_create_call(link->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                          link->node->cq, grpc_slice_from_static_string(PGR_METHOD),
                                          NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    begin(link);
    if (link->broken != NULL) { /* closed before it began */
        (void)grpc_call_cancel(link->call, NULL);
    }
    bool nothing = link->ended && link->pending == 0;
    link->told = nothing;
    pthread_mutex_unlock(&link->mu);
    grpc_channel_credentials_release(credentials);
    if (nothing) {
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST, "gRPC takes no operations");
        pco_link_closed(base, &err);
    }
}

static void queue(struct pco_link *base, struct pco_message *message)
{
    struct pgr_link *link = link_of(base);
    message->next = NULL;
    pthread_mutex_lock(&link->queue_mu);
    *link->tail = message;
    link->tail = &message->next;
    pthread_mutex_unlock(&link->queue_mu);
}

static void flush(struct pco_link *base)
{
    struct pgr_link *link = link_of(base);
    pthread_mutex_lock(&link->mu);
    write_on(link);
    pthread_mutex_unlock(&link->mu);
}

static void close_link(struct pco_link *base)
{
    break_link(link_of(base), "it was closed");
}

static void finish(struct pco_link *base)
{
    struct pgr_link *link = link_of(base);
    if (!base->incoming) {
        close_link(base);
        return;
    }
    pthread_mutex_lock(&link->mu);
    link->finishing = true;
    write_on(link);
    pthread_mutex_unlock(&link->mu);
}

static void resume(struct pco_link *base)
{
    struct pgr_link *link = link_of(base);
    pthread_mutex_lock(&link->mu);
    read_on(link);
    pthread_mutex_unlock(&link->mu);
}

static void free_link(struct pco_link *base)
{
    struct pgr_link *link = link_of(base);
    while (link->head != NULL) {
        struct pco_message *next = link->head->next;
        pco_message_free(link->head);
        link->head = next;
    }
    if (link->call != NULL) {
        grpc_call_unref(link->call);
    }
    if (link->channel != NULL) {
        grpc_channel_destroy(link->channel);
    }
    grpc_slice_unref(link->details);
    grpc_metadata_array_destroy(&link->initial);
    grpc_metadata_array_destroy(&link->trailing);
    pthread_mutex_destroy(&link->mu);
    pthread_mutex_destroy(&link->queue_mu);
    free(link->address);
    free(link);
}

static uint32_t random_of(void *engine)
{
    const struct sti_host *host = ((struct pgr_node *)engine)->core.host;
    uint32_t number;
    host->random(host->ctx, &number, sizeof number);
    return number;
}

const struct pco_ops pgr_ops = {.new_link = new_link,
                                .open = open_link,
                                .queue = queue,
                                .flush = flush,
                                .close = close_link,
                                .finish = finish,
                                .resume = resume,
                                .free = free_link,
                                .random = random_of};

/* ---- streams that come ---------------------------------------------------------------------- */

static void on_new(struct pgr_tag *tag, bool ok)
{
    struct pgr_link *link = tag->of;
    struct pgr_node *node = link->node;
    if (!ok) {
        pco_link_unref(&link->base); /* the server ends */
        return;
    }
    if (!atomic_load(&node->stopping) && !pgr_slot_post(node)) {
        sti_log(node->core.host, STI_LOG_ERROR, "peer_slot_lost",
                "no further connection of another node can be taken");
    }
    if (!pco_link_accept(&link->base)) {
        (void)grpc_call_cancel_with_status(link->call, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                           "the node takes no more connections", NULL);
        pco_link_unref(&link->base);
        return;
    }
    struct sti_err err;
    pthread_mutex_lock(&link->mu);
    begin(link);
    if (link->broken != NULL) {
        (void)grpc_call_cancel(link->call, NULL);
    }
    bool nothing = link->ended && link->pending == 0;
    link->told = nothing;
    pthread_mutex_unlock(&link->mu);
    if (nothing) {
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST, "gRPC takes no operations");
        pco_link_closed(&link->base, &err);
    }
}

bool pgr_slot_post(struct pgr_node *node)
{
    struct pgr_link *link = link_new(node, NULL);
    if (link == NULL) {
        return false;
    }
    link->tag_new = (struct pgr_tag){.fn = on_new, .of = link};
    gco_thread_release(&link->tag_new);
    grpc_call_error rc = grpc_server_request_registered_call(
        node->server, node->method, &link->call, &link->deadline, &link->initial, NULL, node->cq,
        node->cq, &link->tag_new);
    if (rc != GRPC_CALL_OK) {
        pco_link_unref(&link->base);
    }
    return rc == GRPC_CALL_OK;
}
