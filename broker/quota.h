/* quota.h -- how much of the node one client may use: bytes in, bytes out, calls.
 *
 * Who. A quota is of a client id or of a principal; a request has both, and must be within both. A
 * rule names one of them, or "*", which stands for each that no rule names, by itself.
 *
 * How much. Each quota is a bucket that fills at its rate and holds what flows in within the
 * window; it is full at first. A request is taken while the bucket is not empty, and then takes all
 * that it needs, if need be on credit: a batch larger than the bucket is a long wait for what comes
 * behind it, not a dead end. Credit is forgiven after QUOTA_DEBT_MAX_MS.
 *
 * What it costs. Nothing is looked up while no rule is there: one load, relaxed. With rules, a hash
 * and one of 64 locks for each of client id and principal, a leaf, held for some instructions.
 *
 * Bounds. Entities are tracked while they are in use: beyond quota_entities_max of either sort the
 * one that has been idle for longest goes, and begins with a full bucket when it comes back. A
 * client may call itself as it likes, so the quota of a client id keeps order among well-behaved
 * clients; that of a principal holds against others, because the auth plugin says who it is.
 *
 * Threads. Everything but init, fini and set may be called by any thread at any time.
 */
#ifndef STREAMIT_BROKER_QUOTA_H
#define STREAMIT_BROKER_QUOTA_H

#include <pthread.h>
#include <stdatomic.h>

#include "streamit/option.h"
#include "streamit/plugin.h"
#include "streamit/request.h"

enum quota_kind {
    QUOTA_PRODUCE_BYTES = 0,
    QUOTA_FETCH_BYTES = 1,
    QUOTA_REQUESTS = 2,
    QUOTA_KINDS = 3
};

enum quota_by { QUOTA_CLIENT_ID = 0, QUOTA_PRINCIPAL = 1, QUOTA_BYS = 2 };

enum { QUOTA_SHARDS = 64, QUOTA_NAME_MAX = 255, QUOTA_DEBT_MAX_MS = 86400000 };

/* One rule, as the configuration has it. */
struct quota_rule {
    const char *client_id, *principal; /* one of them is NULL */
    int64_t rate[QUOTA_KINDS];         /* a second; 0: no limit */
};

struct quota_conf {
    struct sti_option_rows rules; /* of struct quota_rule */
    int64_t window_ms, entities_max;
};

extern const struct sti_option *const quota_rule_options[];

struct quota_rules;
struct quota_entity;

struct quota_shard {
    pthread_mutex_t mu;
    struct quota_entity **slots; /* by hash; NULL until the first entity */
    struct quota_entity *newest, *oldest;
    uint32_t count;
};

struct quota {
    const struct sti_host *host;
    _Atomic uint32_t active[QUOTA_KINDS]; /* bit 1 << enum quota_by: some rule limits that */
    struct quota_rules *_Atomic rules;    /* never NULL after the first set; used under a lock */
    uint32_t shard_max;                   /* entities of a shard */
    struct quota_shard shards[QUOTA_BYS][QUOTA_SHARDS];
    struct sti_metric *throttled[QUOTA_BYS][QUOTA_KINDS], *entities, *evicted;
};

struct quota_refusal {
    enum quota_kind kind;
    enum quota_by by;
    int64_t rate;
    uint32_t retry_after_ms; /* >= 1 */
    bool tell;               /* it has not been logged lately */
};

void quota_init(struct quota *q, const struct sti_host *host);
void quota_metrics(struct quota *q);
void quota_fini(struct quota *q);
/* Take rules over. Those before stay as they are when it fails. Buckets keep what is in them, as
 * time: who waits for 2 s waits for 1 s after its rate was doubled.
 * @param conf  its rules stay until fini, or the next set and all calls that began before it
 * @return STI_OK, STI_E_CONFIG, STI_E_NO_MEMORY */
int quota_set(struct quota *q, const struct quota_conf *conf, struct sti_err *err);
/* Only look whether quota_set would take it. */
int quota_check(const struct quota_conf *conf, struct sti_err *err);

/* Use `amount` of what the request's client id and principal may use; 0: only look whether there is
 * something left. @return true, or false: nothing was used */
bool quota_take(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                uint64_t amount, uint64_t now_us, struct quota_refusal *refusal);
/* Use `amount` in any case, also on credit: what was not known before. */
void quota_charge(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                  uint64_t amount, uint64_t now_us);
/* How much is left; UINT64_MAX: as much as you like. */
uint64_t quota_left(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                    uint64_t now_us);

/* "produce_bytes_per_s" */
const char *quota_kind_name(enum quota_kind kind);

static inline bool quota_active(const struct quota *q, enum quota_kind kind)
{
    return atomic_load_explicit(&q->active[kind], memory_order_relaxed) != 0;
}

#endif /* STREAMIT_BROKER_QUOTA_H */
