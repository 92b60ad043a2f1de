/* admission.c -- how much of produce and fetch calls is under way, and whose.
 *
 * Two rooms. Bytes of produce calls, with what the node spends on each of their rows, count from
 * the admission until the answer, up to broker.inflight_bytes_max. Partitions of fetch calls, which
 * cost memory while they wait, count likewise, up to broker.fetch_partitions_max. A call beyond it
 * is refused, except that a single one is always taken when nothing else is there: a limit below
 * one message must not be a dead end.
 *
 * Shares. A connection that has something under way may add to it while it holds no more than
 * inflight_share_percent of what is still free after that. One flood thus stops at half of the
 * room, two at a third each, n at 1/(n+1) each: there is room for one who has nothing under way,
 * without knowing how many there are, and a lonely client has half of it. (As many connections as
 * fill the room with one call each still fill it: their number is the listener's to bound.) What a
 * connection has is counted in a sketch: two counters, chosen by two hashes, of which the smaller
 * one is at least the truth, and more only if both are shared with others that send at that moment.
 * It needs no lock and no allocation, and has the same size for 10 connections and for 10,000.
 */
#include "broker/internal.h"

static _Atomic uint64_t *counter(struct brk_room *room, const struct sti_request *request, int row)
{
    static const uint64_t factors[BRK_SHARE_ROWS] = {UINT64_C(0x9e3779b97f4a7c15),
                                                     UINT64_C(0xc2b2ae3d27d4eb4f)};
    uint64_t h = ((request == NULL ? 0 : request->connection) + 1) * factors[row];
    return &room->share[row][(h >> 32) % BRK_SHARE_COUNTERS];
}

/* At least what the connection has under way. */
static uint64_t share_of(struct brk_room *room, const struct sti_request *request)
{
    uint64_t a = atomic_load_explicit(counter(room, request, 0), memory_order_relaxed);
    uint64_t b = atomic_load_explicit(counter(room, request, 1), memory_order_relaxed);
    return a < b ? a : b;
}

/* May `amount` be added to `now`, of which `own` are the connection's? */
static enum brk_room_verdict verdict_of(const struct brk_room *room, uint64_t percent, uint64_t now,
                                        uint64_t own, uint64_t amount)
{
    if (now == 0) {
        return BRK_ROOM_TAKEN;
    }
    if (amount > room->limit || now > room->limit - amount) {
        return BRK_ROOM_FULL;
    }
    uint64_t free_after = room->limit - now - amount;
    bool within = own == 0 || percent == 0 ||
                  own + amount <= free_after / 100 * percent + free_after % 100 * percent / 100;
    return within ? BRK_ROOM_TAKEN : BRK_ROOM_SHARE;
}

enum brk_room_verdict brk_room_enter(struct broker *broker, struct brk_room *room,
                                     const struct sti_request *request, uint64_t amount)
{
    uint64_t percent = (uint64_t)broker->conf->inflight_share_percent;
    uint64_t own = share_of(room, request);
    uint64_t now = atomic_load_explicit(&room->used, memory_order_relaxed);
    do {
        enum brk_room_verdict verdict = verdict_of(room, percent, now, own, amount);
        if (verdict != BRK_ROOM_TAKEN) {
            sti_metric_add(room->refused[verdict], 1);
            return verdict;
        }
    } while (!atomic_compare_exchange_weak(&room->used, &now, now + amount));
    for (int row = 0; row < BRK_SHARE_ROWS; row++) {
        atomic_fetch_add_explicit(counter(room, request, row), amount, memory_order_relaxed);
    }
    sti_metric_add(room->gauge, amount);
    return BRK_ROOM_TAKEN;
}

void brk_room_leave(struct brk_room *room, const struct sti_request *request, uint64_t amount)
{
    for (int row = 0; row < BRK_SHARE_ROWS; row++) {
        atomic_fetch_sub_explicit(counter(room, request, row), amount, memory_order_relaxed);
    }
    atomic_fetch_sub(&room->used, amount);
    sti_metric_sub(room->gauge, amount);
}

/* ---- transports that wait for room --------------------------------------------------------- */

void brk_admission_leave(struct broker *broker, const struct sti_request *request, uint64_t bytes)
{
    brk_room_leave(&broker->produce_room, request, bytes);
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
    struct brk_room *room = &broker->produce_room;
    uint64_t percent = (uint64_t)broker->conf->inflight_share_percent;
    uint64_t now = atomic_load(&room->used);
    uint64_t own = admit->request == NULL ? 0 : share_of(room, admit->request);
    return verdict_of(room, percent, now, own, admit->bytes) != BRK_ROOM_TAKEN;
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
