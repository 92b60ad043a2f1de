/* status_map.c -- see status_map.h. */
#include "status_map.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Value + 1, so that a hole in the table shows as 0. */
#define MAP(name, grpc) [-STI_E_##name] = (uint8_t)(GRPC_STATUS_##grpc + 1)

static const uint8_t table[TGR_STATUS_NUMBER_MAX + 1] = {
    [0] = GRPC_STATUS_OK + 1,
    MAP(UNKNOWN_TOPIC, NOT_FOUND),
    MAP(UNKNOWN_PARTITION, NOT_FOUND),
    MAP(NOT_LEADER, FAILED_PRECONDITION),
    MAP(OFFSET_OUT_OF_RANGE, OUT_OF_RANGE),
    MAP(CORRUPT_BATCH, INVALID_ARGUMENT),
    MAP(MESSAGE_TOO_LARGE, INVALID_ARGUMENT),
    MAP(NOT_ENOUGH_REPLICAS, UNAVAILABLE),
    MAP(TIMED_OUT, DEADLINE_EXCEEDED),
    MAP(THROTTLED, RESOURCE_EXHAUSTED),
    MAP(DISK_FULL, RESOURCE_EXHAUSTED),
    MAP(DATA_LOSS, DATA_LOSS),
    MAP(IDEMPOTENT_REPLAY, ALREADY_EXISTS),
    MAP(OUT_OF_ORDER_SEQUENCE, FAILED_PRECONDITION),
    MAP(FENCED, FAILED_PRECONDITION),
    MAP(UNKNOWN_PRODUCER, FAILED_PRECONDITION),
    MAP(COORDINATOR_MOVED, FAILED_PRECONDITION),
    MAP(UNKNOWN_MEMBER, FAILED_PRECONDITION),
    MAP(REBALANCE_IN_PROGRESS, ABORTED),
    MAP(STALE_EPOCH, ABORTED),
    MAP(INVALID_ARGUMENT, INVALID_ARGUMENT),
    MAP(ALREADY_EXISTS, ALREADY_EXISTS),
    MAP(NOT_FOUND, NOT_FOUND),
    MAP(RESOURCE_EXHAUSTED, RESOURCE_EXHAUSTED),
    MAP(UNSUPPORTED, UNIMPLEMENTED),
    MAP(UNAUTHENTICATED, UNAUTHENTICATED),
    MAP(PERMISSION_DENIED, PERMISSION_DENIED),
    MAP(UNAVAILABLE, UNAVAILABLE),
    MAP(CANCELLED, CANCELLED),
    MAP(INTERNAL, INTERNAL),
    MAP(IO, INTERNAL),
    MAP(POISONED, FAILED_PRECONDITION),
    MAP(UNKNOWN_EPOCH, ABORTED),
    MAP(NOT_CONTROLLER, FAILED_PRECONDITION),
    MAP(CONNECTION_LOST, UNKNOWN),
    MAP(REPLICAS_LOST, UNKNOWN),
    MAP(INVALID_TIMESTAMP, INVALID_ARGUMENT),
    MAP(CONFIG, INVALID_ARGUMENT),
    MAP(PLUGIN_REFUSED, FAILED_PRECONDITION),
    MAP(ABI_MISMATCH, FAILED_PRECONDITION),
    MAP(PRECONDITION, FAILED_PRECONDITION),
    MAP(WOULD_BLOCK, UNAVAILABLE),
    MAP(NO_MEMORY, RESOURCE_EXHAUSTED),
    MAP(IN_USE, FAILED_PRECONDITION),
    MAP(END, OUT_OF_RANGE),
};

grpc_status_code tgr_grpc_status(int code)
{
    /* INT_MIN has no positive twin; as unsigned it is just another unknown code. */
    unsigned number = code < 0 ? 0u - (unsigned)code : (unsigned)code;
    if (number > TGR_STATUS_NUMBER_MAX || table[number] == 0) {
        return GRPC_STATUS_UNKNOWN;
    }
    return (grpc_status_code)(table[number] - 1);
}

static int same_code(int code, const struct sti_err *err)
{
    return err != NULL && err->msg[0] != '\0' && err->code == code;
}

Streamit__V1__Error *tgr_error_new(struct tgr_arena *arena, int code, const struct sti_err *err)
{
    Streamit__V1__Error *out = tgr_arena_alloc(arena, 1, sizeof *out);
    if (out == NULL) {
        return NULL;
    }
    streamit__v1__error__init(out);
    bool same = same_code(code, err);
    const char *text = same ? err->msg : sti_status_text(code);
    uint32_t traits = same ? err->traits : sti_status_traits(code);
    out->code = (Streamit__V1__ErrorCode)(code < 0 ? -code : code);
    out->message = tgr_arena_strndup(arena, text, strlen(text));
    if (out->message == NULL) {
        return NULL;
    }
    out->retriable = (traits & STI_TRAIT_RETRIABLE) != 0;
    out->refresh = (traits & STI_TRAIT_REFRESH) != 0;
    out->outcome_unknown = (traits & STI_TRAIT_INDEFINITE) != 0;
    bool later = code == STI_E_THROTTLED || code == STI_E_UNAVAILABLE;
    out->retry_after_ms = later ? TGR_RETRY_AFTER_MS : 0;
    return out;
}

void tgr_error_retry(Streamit__V1__Error *error, uint32_t retry_after_ms)
{
    if (error != NULL && retry_after_ms > 0) {
        error->retry_after_ms = retry_after_ms;
    }
}

void tgr_error_text(char *out, size_t out_max, int code, const struct sti_err *err)
{
    const char *text = same_code(code, err) ? err->msg : sti_status_text(code);
    if (snprintf(out, out_max, "%s: %s", sti_status_name(code), text) < 0 && out_max > 0) {
        out[0] = '\0';
    }
}
