/* ask.c -- a question to any server, or to one, asked until there is an answer.
 *
 *     start -> attempt -> done, or: failure that may be repeated -> alarm -> attempt ...
 *
 * With several servers no attempt may use up all the time, so that one that hangs does not hide
 * those that work.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define ATTEMPT_MIN_US 2000000u

static void attempt(struct cl_ask *ask);

static void ask_end(struct cl_ask *ask, const struct sti_err *err)
{
    struct sti_client *client = ask->client;
    grpc_slice_unref(ask->packed);
    ask->done(ask, err); /* first: what it starts keeps a free from seeing nothing under way */
    pthread_mutex_lock(&client->mu);
    if (--client->asking == 0) {
        pthread_cond_broadcast(&client->idle);
    }
    pthread_mutex_unlock(&client->mu);
}

static void ask_unlink(struct cl_ask *ask)
{
    pthread_mutex_lock(&ask->client->mu);
    *ask->link = ask->next;
    if (ask->next != NULL) {
        ask->next->link = ask->link;
    }
    pthread_mutex_unlock(&ask->client->mu);
}

static void ask_failed(struct cl_ask *ask)
{
    uint64_t wait = cl_backoff_us(ask->client, ask->failures++, ask->failure.retry_after_ms);
    pthread_mutex_lock(&ask->client->mu);
    bool cancelled = ask->cancelled;
    bool again = !cancelled && cl_may_retry(ask->failure.err.traits, ask->idempotent) &&
                 cl_now_us() + wait < ask->due_us;
    if (again) {
        cl_alarm_start(ask->client, &ask->retry, cl_now_us() + wait);
    }
    pthread_mutex_unlock(&ask->client->mu);
    if (!again) {
        if (cancelled) {
            uint32_t unknown = ask->failure.err.traits & STI_TRAIT_INDEFINITE;
            ask->failure.err.code = STI_E_CANCELLED;
            ask->failure.err.traits = unknown;
        }
        struct sti_err err = ask->failure.err;
        ask_unlink(ask);
        ask_end(ask, &err);
    }
}

static void retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct cl_ask *ask = CL_CONTAINER_OF(alarm, struct cl_ask, retry);
    if (cancelled) {
        ask_failed(ask);
    } else {
        attempt(ask);
    }
}

static void attempt_done(struct cl_call *call, grpc_byte_buffer *in,
                         const struct cl_failure *failure)
{
    struct cl_ask *ask = CL_CONTAINER_OF(call, struct cl_ask, call);
    size_t len = 0;
    memset(&ask->failure, 0, sizeof ask->failure);
    if (failure != NULL) {
        ask->failure = *failure;
        ask_failed(ask);
        return;
    }
    uint8_t *data = cl_gather(in, &len);
    int rc = data == NULL ? sti_err_set(&ask->failure.err, STI_E_NO_MEMORY,
                                        "client: no memory for an answer of %zu bytes", len)
                          : ask->parse(ask, data, len, &ask->failure);
    free(data);
    if (rc != STI_OK) {
        ask_failed(ask);
        return;
    }
    ask_unlink(ask);
    ask_end(ask, NULL);
}

static void attempt(struct cl_ask *ask)
{
    struct cl_conn *conn = ask->conn != NULL ? ask->conn : cl_conn_any(ask->client);
    uint64_t now = cl_now_us(), due = ask->due_us;
    if (conn == NULL) {
        sti_err_set(&ask->failure.err, STI_E_NO_MEMORY, "client: out of memory");
        ask_failed(ask);
        return;
    }
    if (ask->conn == NULL && ask->idempotent && ask->client->server_count > 1 && due > now) {
        uint64_t most = (due - now) / 2 > ATTEMPT_MIN_US ? (due - now) / 2 : ATTEMPT_MIN_US;
        due = now + most < due ? now + most : due;
    }
    ask->call.done = attempt_done;
    cl_call_start(&ask->call, conn, ask->method, grpc_raw_byte_buffer_create(&ask->packed, 1),
                  due + CL_DEADLINE_SLACK_US);
}

/* ---- the interface ------------------------------------------------------------------------- */

void cl_ask_start(struct sti_client *client, struct cl_ask *ask)
{
    size_t len = protobuf_c_message_get_packed_size(ask->request);
    ask->client = client;
    ask->packed = grpc_slice_malloc(len);
    (void)protobuf_c_message_pack(ask->request, GRPC_SLICE_START_PTR(ask->packed));
    memset(&ask->call, 0, sizeof ask->call);
    memset(&ask->retry, 0, sizeof ask->retry);
    ask->retry.fire = retry_fire;
    ask->failures = 0;
    pthread_mutex_lock(&client->mu);
    client->asking++;
    bool refused = ask->cancelled = client->stopping;
    if (!refused) {
        ask->next = client->asks;
        ask->link = &client->asks;
        if (ask->next != NULL) {
            ask->next->link = &ask->next;
        }
        client->asks = ask;
    }
    pthread_mutex_unlock(&client->mu);
    if (refused) {
        struct sti_err err;
        sti_err_set(&err, STI_E_CANCELLED, "client: it is being freed");
        err.traits = 0;
        ask_end(ask, &err);
    } else {
        attempt(ask);
    }
}

void cl_asks_cancel(struct sti_client *client, bool for_good)
{
    pthread_mutex_lock(&client->mu);
    client->stopping = client->stopping || for_good;
    for (struct cl_ask *ask = client->asks; ask != NULL; ask = ask->next) {
        ask->cancelled = true;
        cl_call_cancel(client, &ask->call);
        cl_alarm_cancel(client, &ask->retry);
    }
    while (for_good && client->asking > 0) {
        pthread_cond_wait(&client->idle, &client->mu);
    }
    pthread_mutex_unlock(&client->mu);
}

struct waiter {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool done;
    int rc;
    struct sti_err *err;
};

static void waiter_done(struct cl_ask *ask, const struct sti_err *err)
{
    struct waiter *w = ask->arg;
    pthread_mutex_lock(&w->mu);
    w->rc = err == NULL ? STI_OK : err->code;
    if (err != NULL && w->err != NULL) {
        *w->err = *err;
    }
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mu);
}

int cl_ask_run(struct sti_client *client, struct cl_ask *ask, struct sti_err *err)
{
    struct waiter w = {.rc = STI_OK, .err = err};
    if (cl_on_poll_thread(client)) {
        return sti_err_set(err, STI_E_WOULD_BLOCK, "not from a callback: the call would wait");
    }
    pthread_mutex_init(&w.mu, NULL);
    cl_cond_init(&w.cond);
    ask->done = waiter_done;
    ask->arg = &w;
    cl_ask_start(client, ask);
    pthread_mutex_lock(&w.mu);
    while (!w.done) {
        pthread_cond_wait(&w.cond, &w.mu);
    }
    pthread_mutex_unlock(&w.mu);
    pthread_mutex_destroy(&w.mu);
    pthread_cond_destroy(&w.cond);
    return w.rc;
}
