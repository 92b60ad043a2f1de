/* reflection.c -- grpc.reflection, v1 and v1alpha: which services are here, and their descriptors.
 *
 * One request is read, answered, and the answer written before the next is read; the arena is
 * emptied in between, so a stream costs the same however long it lives. The two versions of the
 * protocol have the same bytes, so the messages of v1 serve both.
 */
#include <grpc/byte_buffer.h>
#include <string.h>

#include "descriptors.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "transport.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request_type;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_type;

enum { SERVICES_MAX = 16 };

/* A response and what it points to. */
struct answer {
    response_type response;
    Grpc__Reflection__V1__ErrorResponse error;
    Grpc__Reflection__V1__FileDescriptorResponse files;
    Grpc__Reflection__V1__ListServiceResponse services;
    ProtobufCBinaryData file;
};

static void on_read(struct tgr_tag *tag, bool ok);

static void on_close(struct tgr_tag *tag, bool ok)
{
    (void)ok;
    (void)tgr_rpc_closed(tag->rpc);
    tgr_rpc_unref(tag->rpc);
}

/* End the stream; drops the reference that the stream held. */
static void end(struct tgr_rpc *rpc, int code, const struct sti_err *err)
{
    tgr_unpark(rpc);
    pthread_mutex_lock(&rpc->mu);
    if (rpc->closed) {
        tgr_metrics_count(rpc, STI_E_CANCELLED, 0);
    } else {
        tgr_rpc_finish(rpc, NULL, code, err);
    }
    pthread_mutex_unlock(&rpc->mu);
    tgr_rpc_unref(rpc);
}

static void read_next(struct tgr_rpc *rpc)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &rpc->payload;
    if (tgr_rpc_batch(rpc, &op, 1, &rpc->tag_read, on_read) != STI_OK) {
        end(rpc, STI_E_INTERNAL, NULL);
    }
}

static void on_written(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    grpc_byte_buffer_destroy(rpc->out);
    rpc->out = NULL;
    tgr_arena_fini(&rpc->arena);
    if (ok) {
        read_next(rpc);
    } else {
        end(rpc, STI_E_CANCELLED, NULL);
    }
    tgr_rpc_unref(rpc);
}

static void write_response(struct tgr_rpc *rpc, const response_type *response)
{
    grpc_op ops[2];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!rpc->metadata_sent) {
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
        rpc->metadata_sent = true;
    }
    rpc->out = tgr_pack(&response->base);
    sti_metric_add(rpc->t->metrics[rpc->method].sent_bytes, grpc_byte_buffer_length(rpc->out));
    ops[n].op = GRPC_OP_SEND_MESSAGE;
    ops[n++].data.send_message.send_message = rpc->out;
    if (tgr_rpc_batch(rpc, ops, n, &rpc->tag_write, on_written) != STI_OK) {
        end(rpc, STI_E_INTERNAL, NULL);
    }
}

static void respond_error(struct tgr_rpc *rpc, struct answer *answer, grpc_status_code code,
                          const char *message)
{
    grpc__reflection__v1__error_response__init(&answer->error);
    answer->error.error_code = (int32_t)code;
    answer->error.error_message = (char *)message;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    answer->response.error_response = &answer->error;
    write_response(rpc, &answer->response);
}

static void respond_file(struct tgr_rpc *rpc, struct answer *answer, bool found,
                         const struct sti_slice *file)
{
    if (!found) {
        respond_error(rpc, answer, GRPC_STATUS_NOT_FOUND, "no such file or symbol is served here");
        return;
    }
    answer->file.len = (size_t)file->len;
    answer->file.data = (uint8_t *)(uintptr_t)file->data;
    grpc__reflection__v1__file_descriptor_response__init(&answer->files);
    answer->files.n_file_descriptor_proto = 1;
    answer->files.file_descriptor_proto = &answer->file;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    answer->response.file_descriptor_response = &answer->files;
    write_response(rpc, &answer->response);
}

struct service_list {
    struct tgr_rpc *rpc;
    size_t count;
    Grpc__Reflection__V1__ServiceResponse rows[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *pointers[SERVICES_MAX];
};

static void service_add(void *arg, const char *name)
{
    struct service_list *list = arg;
    char *copy = tgr_arena_strndup(&list->rpc->arena, name, strlen(name));
    if (copy == NULL || list->count == SERVICES_MAX) {
        return;
    }
    Grpc__Reflection__V1__ServiceResponse *row = &list->rows[list->count];
    grpc__reflection__v1__service_response__init(row);
    row->name = copy;
    list->pointers[list->count++] = row;
}

static void respond_services(struct tgr_rpc *rpc, struct answer *answer)
{
    struct service_list *list = tgr_arena_alloc(&rpc->arena, 1, sizeof *list);
    if (list == NULL) {
        respond_error(rpc, answer, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the list");
        return;
    }
    list->rpc = rpc;
    tgr_descriptor_services(service_add, list);
    grpc__reflection__v1__list_service_response__init(&answer->services);
    answer->services.n_service = list->count;
    answer->services.service = list->pointers;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    answer->response.list_services_response = &answer->services;
    write_response(rpc, &answer->response);
}

static void respond(struct tgr_rpc *rpc, request_type *request)
{
    struct answer answer;
    struct sti_slice file = sti_slice_borrow(NULL, 0);
    grpc__reflection__v1__server_reflection_response__init(&answer.response);
    answer.response.valid_host = request->host;
    answer.response.original_request = request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        respond_file(rpc, &answer, tgr_descriptor_by_name(request->file_by_filename, &file), &file);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        respond_file(rpc, &answer, tgr_descriptor_by_symbol(request->file_containing_symbol, &file),
                     &file);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        respond_services(rpc, &answer);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        respond_error(rpc, &answer, GRPC_STATUS_NOT_FOUND, "proto3 messages have no extensions");
        return;
    default:
        respond_error(rpc, &answer, GRPC_STATUS_INVALID_ARGUMENT, "the request asks for nothing");
        return;
    }
}

static void on_read(struct tgr_tag *tag, bool ok)
{
    struct tgr_rpc *rpc = tag->rpc;
    struct sti_err err;
    sti_err_clear(&err);
    if (!ok || rpc->payload == NULL) { /* the client has said all it wanted */
        end(rpc, STI_OK, NULL);
        tgr_rpc_unref(rpc);
        return;
    }
    sti_metric_add(rpc->t->metrics[rpc->method].received_bytes,
                   grpc_byte_buffer_length(rpc->payload));
    request_type *request = tgr_unpack(
        rpc, rpc->payload, &grpc__reflection__v1__server_reflection_request__descriptor, &err);
    if (request == NULL) {
        sti_metric_add(rpc->t->malformed, 1);
        end(rpc, err.code, &err);
    } else {
        grpc_byte_buffer *payload = rpc->payload;
        rpc->payload = NULL;
        respond(rpc, request);
        grpc_byte_buffer_destroy(payload);
    }
    tgr_rpc_unref(rpc);
}

static void cancel(struct tgr_rpc *rpc)
{
    if (tgr_is_stream(rpc->method)) {
        (void)grpc_call_cancel_with_status(rpc->call, GRPC_STATUS_UNAVAILABLE,
                                           "UNAVAILABLE: the node is shutting down", NULL);
    }
}

void tgr_reflection_handle(struct tgr_rpc *rpc)
{
    if (tgr_rpc_watch_close(rpc, on_close) != STI_OK) {
        tgr_rpc_unref(rpc);
        return;
    }
    tgr_park(rpc);
    if (atomic_load(&rpc->t->stopping)) { /* too late to be found in the list */
        cancel(rpc);
    }
    read_next(rpc);
}

void tgr_reflection_end_all(struct tgr_transport *t)
{
    tgr_parked_each(t, cancel);
}
