/* peer_mutant.c -- an implementation of streamit.peer with one bug planted.
 *
 * As mutant.c does for storage: the plugin loads a real one, takes over its options and lifecycle,
 * and puts itself between its vtable and whoever calls. BUG_none is the control.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/peer.h"
#include "streamit/plugin.h"

#include "bugs.h"

#define IS(bug) (BUG == BUG_##bug)

static const struct sti_plugin *real_plugin;
static const struct sti_peer *real;
static const struct sti_host *host;

/* ---- calls ---------------------------------------------------------------------------------- */

/* A call on its way through here. */
struct passed {
    struct sti_peer_call call; /* first: the real one's */
    struct sti_peer_call *given;
    int status;
    struct sti_timer timer;
};

static void late_done(struct sti_task *task)
{
    struct passed *p =
        (struct passed *)(void *)((char *)task - offsetof(struct passed, timer.task));
    struct sti_err err;
    (void)sti_err_set(&err, p->status, "late");
    p->given->done(p->given, p->status, &err);
    free(p);
}

static void on_done(struct sti_peer_call *call, int status, const struct sti_err *err)
{
    struct passed *p = (struct passed *)(void *)call;
    struct sti_peer_call *given = p->given;
    struct sti_err other = *err;
    if (IS(peer_lost_as_unavailable) && status == STI_E_CONNECTION_LOST) {
        status = sti_err_set(&other, STI_E_UNAVAILABLE, "nothing was sent");
    }
    if (IS(peer_sentence_lost)) {
        other.msg[0] = '\0';
    }
    if (IS(peer_done_after_hang_up) && status == STI_E_CANCELLED) {
        p->status = status;
        p->timer.task.run = late_done;
        host->timer_arm(host->ctx, &p->timer, sti_now_us(host) + 50000);
        return;
    }
    given->response = call->response;
    given->response_count = call->response_count;
    if (IS(peer_answer_short) && given->response_count > 1) {
        given->response_count--;
    }
    given->done(given, status, &other);
    if (IS(peer_done_twice)) {
        given->done(given, status, &other);
    }
    free(p);
}

static int pass(struct sti_peer_connection *connection, struct passed *p, struct sti_err *err)
{
    int rc = real->call(connection, &p->call, err);
    if (rc != STI_OK) {
        free(p);
    }
    return rc;
}

static int m_call(struct sti_peer_connection *connection, struct sti_peer_call *call,
                  struct sti_err *err)
{
    static struct passed *kept; /* the order is for one connection and thread only */
    static unsigned number;
    struct passed *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory");
    }
    p->given = call;
    p->call = *call;
    p->call.done = on_done;
    if (IS(peer_timeout_ignored)) {
        p->call.timeout_ms = 0;
    } else if (IS(peer_timeout_early)) {
        p->call.timeout_ms = (call->timeout_ms + 1) / 2;
    }
    if (IS(peer_reference_kept) && call->request_count > 0) {
        sti_slice_ref(&call->request[0]);
    }
    if (IS(peer_reference_dropped) && call->request_count > 1 && call->request[0].owner != NULL) {
        call->request[0].owner->unref(call->request[0].owner);
    }
    if (IS(peer_order_swapped)) {
        static uint32_t bytes;
        static struct sti_slice slice;
        if (kept == NULL && ++number % 7 == 0 && call->request_count == 1) {
            memcpy(&bytes, call->request[0].data, sizeof bytes);
            slice = sti_slice_borrow(&bytes, sizeof bytes);
            p->call.request = &slice;
            kept = p;
            return STI_OK;
        }
        struct passed *second = kept;
        kept = NULL;
        int rc = pass(connection, p, err);
        if (second != NULL) {
            (void)pass(connection, second, NULL);
        }
        return rc;
    }
    return pass(connection, p, err);
}

/* The real one knows another call: find it by asking for each that is on its way. */
static bool m_cancel(struct sti_peer_connection *connection, const struct sti_peer_call *call)
{
    (void)connection;
    (void)call;
    return true; /* peer_cancel_ignored */
}

/* ---- connections and services --------------------------------------------------------------- */

struct watcher {
    struct watcher *next;
    void (*state)(void *ctx, struct sti_peer_connection *connection, int state,
                  const struct sti_err *err);
    void *ctx;
};

static void on_state(void *ctx, struct sti_peer_connection *connection, int state,
                     const struct sti_err *err)
{
    struct watcher *w = ctx;
    if (w->state != NULL && !(IS(peer_down_untold) && state == STI_PEER_DOWN)) {
        w->state(w->ctx, connection, state, err);
    }
}

static int m_dial(void *self, const struct sti_peer_dial *args, struct sti_peer_connection **out,
                  struct sti_err *err)
{
    static struct watcher *all; /* kept until the end */
    struct sti_peer_dial own = *args;
    struct watcher *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory");
    }
    *w = (struct watcher){.next = all, .state = args->state, .ctx = args->ctx};
    all = w;
    own.state = on_state;
    own.ctx = w;
    if (IS(peer_node_ignored)) {
        own.node_id = -1;
    }
    return real->dial(self, &own, out, err);
}

struct leaving {
    void *self;
    char name[STI_PEER_NAME_MAX + 1];
};

static void *withdraw_aside(void *arg)
{
    struct leaving *l = arg;
    (void)real->withdraw(l->self, l->name, NULL);
    free(l);
    return NULL;
}

static int m_withdraw(void *self, const char *name, struct sti_err *err)
{
    struct leaving *l = IS(peer_withdraw_early) ? calloc(1, sizeof *l) : NULL;
    pthread_t thread;
    if (l == NULL) {
        return real->withdraw(self, name, err);
    }
    l->self = self;
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    if (pthread_create(&thread, NULL, withdraw_aside, l) == 0) {
        (void)pthread_detach(thread);
    }
    return STI_OK;
}

/* ---- the descriptor ------------------------------------------------------------------------- */

static int m_create(const struct sti_host *given, const void *conf, void **self,
                    struct sti_err *err)
{
    static struct sti_host hosts[8];
    static struct sti_node nodes[8];
    static unsigned count;
    host = given;
    if (IS(peer_cluster_ignored) && count < 8) {
        nodes[count] = *given->node;
        nodes[count].cluster_id = "all-the-same";
        hosts[count] = *given;
        hosts[count].node = &nodes[count];
        given = &hosts[count++];
    }
    return real_plugin->life->create(given, conf, self, err);
}

static struct sti_peer own_vtable;
static struct sti_lifecycle own_life;
static const struct sti_iface *const own_provides[] = {&own_vtable.iface, NULL};

/* Filled when the library is mapped, from the plugin that it wraps. */
STI_PLUGIN_EXPORT struct sti_plugin sti_plugin;

__attribute__((constructor)) static void load(void)
{
    void *library = dlopen(ENGINE, RTLD_NOW | RTLD_LOCAL);
    real_plugin = library == NULL ? NULL : dlsym(library, "sti_plugin");
    if (real_plugin == NULL) {
        return; /* the descriptor stays empty, and is refused */
    }
    real = (const struct sti_peer *)(const void *)real_plugin->provides[0];
    own_vtable = *real;
    if (!IS(none)) {
        own_vtable.call = m_call;
        own_vtable.dial = m_dial;
        own_vtable.withdraw = m_withdraw;
    }
    if (IS(peer_cancel_ignored)) {
        own_vtable.cancel = m_cancel;
    }
    own_life = *real_plugin->life;
    own_life.create = m_create;
    sti_plugin = *real_plugin;
    sti_plugin.name = "mutant";
    sti_plugin.summary = "Calls between nodes with one bug planted.";
    sti_plugin.provides = own_provides;
    sti_plugin.life = &own_life;
}
