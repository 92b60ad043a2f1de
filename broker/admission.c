/* admission.c -- how many bytes of produce calls are under way, and whose.
 *
 * Bytes of a call count from its admission until its answer. Beyond broker.inflight_bytes_max a
 * call is refused, except that a single call is always taken when nothing else is in flight: a
 * limit below one message must not be a dead end.
 *
 * Shares. A connection that has something in flight may add to it while it holds no more than
 * inflight_share_percent of what is still free after that. One flood thus stops at half of the
 * room, two at a third each, n at 1/(n+1) each: there always is room for one who has nothing in
 * flight, without knowing how many there are, and a lonely producer has half of it. The bytes of a
 * connection are counted in a sketch: two counters, chosen by two hashes, of which the smaller one
 * is at least the truth, and more only if both are shared with others that send at that moment. It
 * needs no lock and no allocation, and has the same size for 10 connections and for 10,000.
 */
#include "broker/internal.h"

static _Atomic uint64_t *counter(struct broker *broker, const struct sti_request *request, int row)
{
    static const uint64_t factors[BRK_SHARE_ROWS] = {UINT64_C(0x9e3779b97f4a7c15),
                                                     UINT64_C(0xc2b2ae3d27d4eb4f)};
    uint64_t h = ((request == NULL ? 0 : request->connection) + 1) * factors[row];
    return &broker->share[row][(h >> 32) % BRK_SHARE_COUNTERS];
}

/* At least what the connection has in flight. */
static uint64_t share_of(struct broker *broker, const struct sti_request *request)
{
    uint64_t a = atomic_load_explicit(counter(broker, request, 0), memory_order_relaxed);
    uint64_t b = atomic_load_explicit(counter(broker, request, 1), memory_order_relaxed);
    return a < b ? a : b;
}

static bool share_allows(const struct broker *broker, uint64_t own, uint64_t bytes,
                         uint64_t free_after)
{
    uint64_t percent = (uint64_t)broker->conf->inflight_share_percent;
    return own == 0 || percent == 0 || own + bytes <= free_after / 100 * percent + percent;
}

/* May so many bytes be added to `now` in flight, of which `own` are the connection's?
 * @return NULL: yes; or the metric of the limit that says no */
static struct sti_metric *const *limit_reached(struct broker *broker, uint64_t now, uint64_t own,
                                               uint64_t bytes)
{
    uint64_t limit = (uint64_t)broker->conf->inflight_bytes_max;
    if (now == 0) {
        return NULL;
    }
    if (bytes > limit || now > limit - bytes) {
        return &broker->metrics.throttled_node;
    }
    return share_allows(broker, own, bytes, limit - now - bytes) ? NULL
                                                                 : &broker->metrics.throttled_share;
}

const char *brk_admission_enter(struct broker *broker, const struct sti_request *request,
                                uint64_t bytes)
{
    uint64_t own = share_of(broker, request);
    uint64_t now = atomic_load_explicit(&broker->inflight_bytes, memory_order_relaxed);
    do {
        struct sti_metric *const *reached = limit_reached(broker, now, own, bytes);
        if (reached != NULL) {
            sti_metric_add(*reached, 1);
            return reached == &broker->metrics.throttled_node
                       ? "the node holds as many bytes in flight as inflight_bytes_max allows"
                       : "the connection has its share of inflight_bytes_max in flight";
        }
    } while (!atomic_compare_exchange_weak(&broker->inflight_bytes, &now, now + bytes));
    for (int row = 0; row < BRK_SHARE_ROWS; row++) {
        atomic_fetch_add_explicit(counter(broker, request, row), bytes, memory_order_relaxed);
    }
    sti_metric_add(broker->metrics.inflight_bytes, bytes);
    return NULL;
}

void brk_admission_leave(struct broker *broker, const struct sti_request *request, uint64_t bytes)
{
    for (int row = 0; row < BRK_SHARE_ROWS; row++) {
        atomic_fetch_sub_explicit(counter(broker, request, row), bytes, memory_order_relaxed);
    }
    atomic_fetch_sub(&broker->inflight_bytes, bytes);
    sti_metric_sub(broker->metrics.inflight_bytes, bytes);
    if (!atomic_load(&broker->admit_waiting)) {
        return;
    }
    pthread_mutex_lock(&broker->admit_mu);
    struct sti_admit *admit = broker->admit_head;
    broker->admit_head = broker->admit_tail = NULL;
    atomic_store(&broker->admit_waiting, false);
    pthread_mutex_unlock(&broker->admit_mu);
    while (admit != NULL) {
        struct sti_admit *next = admit->next;
        admit->resume(admit);
        admit = next;
    }
}

static bool admit_waits(struct broker *broker, const struct sti_admit *admit)
{
    uint64_t now = atomic_load(&broker->inflight_bytes);
    uint64_t own = admit->request == NULL ? 0 : share_of(broker, admit->request);
    return limit_reached(broker, now, own, admit->bytes) != NULL;
}

/* Whoever finds no room says that somebody waits, and then looks once more: what leaves meanwhile
 * is either seen by that look, or sees that somebody waits. */
int brk_admit(void *self, struct sti_admit *admit)
{
    struct broker *broker = self;
    int rc = STI_OK;
    if (!admit_waits(broker, admit)) {
        return STI_OK;
    }
    pthread_mutex_lock(&broker->admit_mu);
    atomic_store(&broker->admit_waiting, true);
    if (admit_waits(broker, admit)) {
        admit->next = NULL;
        if (broker->admit_tail != NULL) {
            broker->admit_tail->next = admit;
        } else {
            broker->admit_head = admit;
        }
        broker->admit_tail = admit;
        rc = STI_E_THROTTLED;
    }
    pthread_mutex_unlock(&broker->admit_mu);
    return rc;
}
