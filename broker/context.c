/* context.c -- what every call is asked before it does anything, and what is told of it afterwards.
 *
 * The order is fixed: does the node serve, is there still somebody to answer, may this client make
 * one more call (brk_enter); then, for each topic of the call, may this principal do so
 * (brk_authorize), before it is looked up, so that a refusal does not tell what is there.
 *
 * Without an auth plugin and without quotas all of this is three loads and a look at the clock.
 */
#include <stdio.h>
#include <string.h>

#include "broker/internal.h"

int brk_serving(struct broker *broker, struct sti_err *err)
{
    int state = atomic_load_explicit(&broker->state, memory_order_relaxed);
    if (state == BRK_SERVING) {
        return STI_OK;
    }
    return sti_err_set(err, STI_E_UNAVAILABLE,
                       state == BRK_CREATED ? "the node is starting" : "the node is stopping");
}

void brk_retry_after(const struct sti_request *request, uint32_t retry_after_ms)
{
    if (request != NULL && STI_REQUEST_HAS(request, retry_after_ms) &&
        request->retry_after_ms != NULL) {
        *request->retry_after_ms = retry_after_ms;
    }
}

int brk_enter(struct broker *broker, const struct sti_request *request, uint64_t now_us,
              uint32_t *retry_after_ms, struct sti_err *err)
{
    struct quota_refusal refusal;
    *retry_after_ms = 0;
    int rc = brk_serving(broker, err);
    if (rc != STI_OK) {
        *retry_after_ms = BRK_RETRY_AFTER_MS;
        brk_retry_after(request, BRK_RETRY_AFTER_MS);
        return rc;
    }
    if (now_us >= brk_deadline_us(request)) {
        sti_metric_add(broker->metrics.late, 1);
        return sti_err_set(err, STI_E_TIMED_OUT,
                           "the deadline passed before the call was begun; it had no effect");
    }
    if (quota_active(&broker->quota, QUOTA_REQUESTS) &&
        !quota_take(&broker->quota, request, QUOTA_REQUESTS, 1, now_us, &refusal)) {
        *retry_after_ms = refusal.retry_after_ms;
        brk_retry_after(request, refusal.retry_after_ms);
        return brk_quota_refused(broker, request, &refusal, err);
    }
    return STI_OK;
}

static const char *or_nothing(const char *text)
{
    return text == NULL ? "" : text;
}

int brk_quota_refused(struct broker *broker, const struct sti_request *request,
                      const struct quota_refusal *refusal, struct sti_err *err)
{
    const char *what = quota_kind_name(refusal->kind);
    const char *by = refusal->by == QUOTA_CLIENT_ID ? "client id" : "principal";
    const char *name = request == NULL                  ? ""
                       : refusal->by == QUOTA_CLIENT_ID ? or_nothing(request->client_id)
                                                        : or_nothing(request->principal);
    if (refusal->tell && request != NULL) {
        sti_log(broker->host, STI_LOG_INFO, "quota_exceeded",
                "a client is put off until it is within its quota", STI_F_STR("quota", what),
                STI_F_INT("per_s", refusal->rate),
                STI_F_UINT("retry_after_ms", refusal->retry_after_ms),
                STI_F_STR("client_id", request->client_id),
                STI_F_STR("principal", request->principal), STI_F_STR("peer", request->peer),
                STI_F_STR("trace_id", request->trace_id));
    }
    return sti_err_set(err, STI_E_THROTTLED, "%s \"%.60s\" is over its quota of %s = %lld", by,
                       name, what, (long long)refusal->rate);
}

/* ---- rights -------------------------------------------------------------------------------- */

int brk_authenticate(void *self, const struct sti_credentials *credentials, char *principal,
                     size_t principal_max, struct sti_err *err)
{
    struct broker *broker = self;
    if (!broker->has_auth) {
        size_t len = sizeof STI_PRINCIPAL_ANONYMOUS;
        memcpy(principal, STI_PRINCIPAL_ANONYMOUS, len < principal_max ? len : principal_max);
        principal[principal_max - 1] = '\0';
        return STI_OK;
    }
    principal[0] = '\0';
    int rc = sti_auth_of(&broker->auth)
                 ->authenticate(broker->auth.self, credentials, principal, principal_max, err);
    if (rc == STI_OK && principal[0] == '\0') {
        rc = sti_err_set(err, STI_E_UNAUTHENTICATED, "%s names no principal", broker->auth.name);
    }
    if (rc != STI_OK) {
        sti_metric_add(broker->metrics.unauthenticated, 1);
        if (rc != STI_E_UNAUTHENTICATED && rc != STI_E_UNSUPPORTED) {
            rc = sti_err_set(err, STI_E_UNAUTHENTICATED, "the credentials could not be checked");
        }
    }
    return rc;
}

static int refused(struct broker *broker, const struct sti_request *request, int operation,
                   const char *topic, const struct sti_err *why, struct sti_err *err)
{
    sti_metric_add(broker->metrics.denied, 1);
    if (broker->host->log_enabled(broker->host->ctx, STI_LOG_DEBUG)) {
        sti_log(broker->host, STI_LOG_DEBUG, "permission_denied", why->msg,
                STI_F_STR("operation", sti_operation_name(operation)), STI_F_STR("topic", topic),
                STI_F_STR("principal", request->principal), STI_F_STR("peer", request->peer),
                STI_F_STR("trace_id", request->trace_id));
    }
    return sti_err_set(err, STI_E_PERMISSION_DENIED, "%.60s may not %s topic %.120s",
                       or_nothing(request->principal), sti_operation_name(operation), topic);
}

int brk_authorize(struct broker *broker, const struct sti_request *request, int operation,
                  const char *topic, struct sti_err *err)
{
    static const struct sti_request nobody = {.struct_size = sizeof nobody,
                                              .principal = STI_PRINCIPAL_ANONYMOUS,
                                              .client_id = "",
                                              .peer = "",
                                              .listener = "",
                                              .trace_id = ""};
    struct sti_err why;
    if (!broker->has_auth) {
        return STI_OK;
    }
    if (request == NULL) {
        request = &nobody;
    }
    sti_err_clear(&why);
    int rc =
        sti_auth_of(&broker->auth)
            ->authorize(broker->auth.self, request, operation, STI_RESOURCE_TOPIC, topic, &why);
    return rc == STI_OK ? STI_OK : refused(broker, request, operation, topic, &why, err);
}

/* ---- the audit log ------------------------------------------------------------------------- */

void brk_audit(struct broker *broker, const struct sti_topic_change *call, int operation,
               int status, const struct sti_err *err)
{
    const struct sti_request *request = call->request;
    const char *event = operation == STI_OP_CREATE  ? "topic_created"
                        : operation == STI_OP_ALTER ? "topic_altered"
                                                    : "topic_deleted";
    if ((call->flags & STI_TOPIC_VALIDATE_ONLY) != 0 || request == NULL) {
        return;
    }
    bool done = status == STI_OK;
    sti_log(broker->host, done ? STI_LOG_INFO | STI_LOG_EVERY : STI_LOG_INFO,
            done ? event : "topic_change_refused",
            done          ? "a topic was changed as asked"
            : err == NULL ? sti_status_text(status)
                          : err->msg,
            STI_F_STR("topic", call->name), STI_F_STR("operation", sti_operation_name(operation)),
            STI_F_STR("code", sti_status_name(status)), STI_F_STR("principal", request->principal),
            STI_F_STR("client_id", request->client_id), STI_F_STR("peer", request->peer),
            STI_F_STR("listener", request->listener), STI_F_STR("trace_id", request->trace_id));
}
