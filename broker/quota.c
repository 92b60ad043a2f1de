/* quota.c -- see quota.h.
 *
 * A bucket is one number: the time at which it will be full. An amount moves it on by what the
 * amount takes at the rate of its rule, from now at the least. The bucket is empty when that time
 * lies a window or more ahead; nothing has to be filled by a timer, and an idle entity costs
 * nothing. Times are nanoseconds of the monotonic clock.
 *
 * Rules are immutable, and used under a shard's lock only. A change puts new ones in place, and
 * takes each lock once, one after the other, before it frees the old ones. Each entity finds its
 * new rule when it is used next, and takes what its bucket lacks over to the new rate.
 */
#include "broker/quota.h"

#include <stdlib.h>
#include <string.h>

#include "streamit/status.h"

enum { SLOTS_MIN = 16, TELL_EVERY_S = 10 };

#define NS_PER_S    1000000000u
#define DEBT_MAX_NS ((uint64_t)QUOTA_DEBT_MAX_MS * 1000000u)
#define RATE_OF(k)  offsetof(struct quota_rule, rate[k])
#define RATE_MAX    INT64_C(1000000000000)
#define ANY         "*"

/* ---- options ------------------------------------------------------------------------------- */

#define RATE(name, k, of, text)                                                                    \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_INT,                              \
                                                 .offset = RATE_OF(k),                             \
                                                 .def = "0",                                       \
                                                 .min = 0,                                         \
                                                 .max = RATE_MAX,                                  \
                                                 .unit = of,                                       \
                                                 .flags = STI_OPT_RELOADABLE,                      \
                                                 .help = text}
RATE(produce_bytes_per_s, QUOTA_PRODUCE_BYTES, "bytes",
     "Bytes of record batches that it may produce in a second; 0: no limit.");
RATE(fetch_bytes_per_s, QUOTA_FETCH_BYTES, "bytes",
     "Bytes of record batches that it may fetch in a second; 0: no limit.");
RATE(requests_per_s, QUOTA_REQUESTS, NULL,
     "Calls of any kind that it may make in a second; 0: no limit.");

#define NAME(name, text)                                                                           \
    static const struct sti_option opt_##name = {.struct_size = sizeof(struct sti_option),         \
                                                 .key = #name,                                     \
                                                 .type = STI_OPT_STRING,                           \
                                                 .offset = offsetof(struct quota_rule, name),      \
                                                 .max = QUOTA_NAME_MAX,                            \
                                                 .flags = STI_OPT_RELOADABLE,                      \
                                                 .help = text}
NAME(client_id, "The client id that the quota is of, or \"*\": each one that no other row names.");
NAME(principal, "The principal that the quota is of, or \"*\": each one that no other row names.");

const struct sti_option *const quota_rule_options[] = {
    &opt_client_id,         &opt_principal,      &opt_produce_bytes_per_s,
    &opt_fetch_bytes_per_s, &opt_requests_per_s, NULL};

const char *quota_kind_name(enum quota_kind kind)
{
    static const char *const names[QUOTA_KINDS] = {"produce_bytes_per_s", "fetch_bytes_per_s",
                                                   "requests_per_s"};
    return names[kind];
}

/* ---- rules --------------------------------------------------------------------------------- */

struct named_rule {
    struct named_rule *next; /* in its slot */
    const struct quota_rule *rule;
    uint64_t hash;
};

struct quota_rules {
    uint64_t generation;
    uint64_t window_ns;
    uint32_t active[QUOTA_KINDS];
    const struct quota_rule *any[QUOTA_BYS]; /* NULL: none */
    size_t mask;                             /* slots - 1 */
    struct named_rule **slots;
    struct named_rule named[];
};

static const char *rule_name(const struct quota_rule *rule, enum quota_by by)
{
    return by == QUOTA_CLIENT_ID ? rule->client_id : rule->principal;
}

static uint64_t hash_of(const char *name, size_t len, enum quota_by by)
{
    uint64_t h = UINT64_C(14695981039346656037) + (uint64_t)by; /* FNV-1a */
    for (size_t i = 0; i < len; i++) {
        h = (h ^ (uint8_t)name[i]) * UINT64_C(1099511628211);
    }
    return h ^ (h >> 32);
}

/* @return NULL: nothing limits it */
static const struct quota_rule *rule_for(const struct quota_rules *rules, enum quota_by by,
                                         const char *name, uint64_t hash)
{
    const struct named_rule *at = rules->slots[hash & rules->mask];
    for (; at != NULL; at = at->next) {
        const char *own = at->hash == hash ? rule_name(at->rule, by) : NULL;
        if (own != NULL && strcmp(own, name) == 0) {
            return at->rule;
        }
    }
    return rules->any[by];
}

static int rule_add(struct quota_rules *rules, const struct quota_rule *rule, size_t i,
                    struct sti_err *err)
{
    if ((rule->client_id == NULL) == (rule->principal == NULL)) {
        return sti_err_set(err, STI_E_CONFIG,
                           "broker.quotas: row %zu: expected either client_id or principal", i + 1);
    }
    enum quota_by by = rule->client_id != NULL ? QUOTA_CLIENT_ID : QUOTA_PRINCIPAL;
    const char *name = rule_name(rule, by);
    bool any = strcmp(name, ANY) == 0;
    uint64_t hash = hash_of(name, strlen(name), by);
    const struct quota_rule *same = rule_for(rules, by, name, hash);
    if (same != NULL && (any || same != rules->any[by])) {
        return sti_err_set(err, STI_E_CONFIG,
                           "broker.quotas: row %zu: %s \"%.100s\" is there twice", i + 1,
                           by == QUOTA_CLIENT_ID ? "client_id" : "principal", name);
    }
    for (int k = 0; k < QUOTA_KINDS; k++) {
        rules->active[k] |= rule->rate[k] > 0 ? 1u << by : 0;
    }
    if (any) {
        rules->any[by] = rule;
        return STI_OK;
    }
    struct named_rule *named = &rules->named[i];
    *named =
        (struct named_rule){.next = rules->slots[hash & rules->mask], .rule = rule, .hash = hash};
    rules->slots[hash & rules->mask] = named;
    return STI_OK;
}

static void rules_free(struct quota_rules *rules)
{
    if (rules != NULL) {
        free(rules->slots);
        free(rules);
    }
}

/* @return NULL: *status and err say why */
static struct quota_rules *rules_new(const struct quota_conf *conf, int *status,
                                     struct sti_err *err)
{
    size_t count = conf->rules.count, slots = SLOTS_MIN;
    while (slots < count) {
        slots *= 2;
    }
    struct quota_rules *rules = calloc(1, sizeof *rules + count * sizeof rules->named[0]);
    *status = STI_OK;
    if (rules == NULL || (rules->slots = calloc(slots, sizeof(struct named_rule *))) == NULL) {
        free(rules);
        *status = sti_err_set(err, STI_E_NO_MEMORY, "broker.quotas: out of memory");
        return NULL;
    }
    rules->mask = slots - 1;
    rules->window_ns = (uint64_t)conf->window_ms * 1000000u;
    for (size_t i = 0; i < count; i++) {
        *status = rule_add(rules, conf->rules.rows[i], i, err);
        if (*status != STI_OK) {
            rules_free(rules);
            return NULL;
        }
    }
    return rules;
}

int quota_check(const struct quota_conf *conf, struct sti_err *err)
{
    int rc;
    rules_free(rules_new(conf, &rc, err));
    return rc;
}

/* ---- entities ------------------------------------------------------------------------------ */

struct quota_entity {
    struct quota_entity *next;          /* in its slot */
    struct quota_entity *newer, *older; /* of its shard, by use */
    const struct quota_rule *rule;      /* of `generation`; NULL: none any more */
    uint64_t generation, hash;
    uint64_t full_ns[QUOTA_KINDS]; /* when the bucket is full again */
    int64_t rate[QUOTA_KINDS];     /* by which that was reckoned */
    uint64_t told_us;              /* when a refusal was logged, 0: never */
    char name[];
};

static void list_remove(struct quota_shard *shard, struct quota_entity *e)
{
    *(e->newer == NULL ? &shard->newest : &e->newer->older) = e->older;
    *(e->older == NULL ? &shard->oldest : &e->older->newer) = e->newer;
}

static void list_push(struct quota_shard *shard, struct quota_entity *e)
{
    e->newer = NULL;
    e->older = shard->newest;
    *(e->older == NULL ? &shard->oldest : &e->older->newer) = e;
    shard->newest = e;
}

static size_t slot_mask(const struct quota *q)
{
    size_t slots = SLOTS_MIN;
    while (slots < q->shard_max) {
        slots *= 2;
    }
    return slots - 1;
}

static void entity_drop(struct quota *q, struct quota_shard *shard, struct quota_entity *e)
{
    struct quota_entity **at = &shard->slots[(e->hash >> 8) & slot_mask(q)];
    while (*at != e) {
        at = &(*at)->next;
    }
    *at = e->next;
    list_remove(shard, e);
    shard->count--;
    free(e);
}

/* @return NULL: memory ran out, and nobody is put off for that */
static struct quota_entity *entity_new(struct quota *q, struct quota_shard *shard, const char *name,
                                       size_t len, uint64_t hash)
{
    if (shard->slots == NULL) {
        shard->slots = calloc(slot_mask(q) + 1, sizeof(struct quota_entity *));
    }
    struct quota_entity *e = shard->slots == NULL ? NULL : calloc(1, sizeof *e + len + 1);
    if (e == NULL) {
        return NULL;
    }
    if (shard->count >= q->shard_max) {
        entity_drop(q, shard, shard->oldest);
        sti_metric_add(q->evicted, 1);
        sti_metric_sub(q->entities, 1);
    }
    struct quota_entity **slot = &shard->slots[(hash >> 8) & slot_mask(q)];
    memcpy(e->name, name, len);
    e->hash = hash;
    e->next = *slot;
    *slot = e;
    list_push(shard, e);
    shard->count++;
    sti_metric_add(q->entities, 1);
    return e;
}

/* The rule may have changed: take what the bucket lacks over to the new rate. */
static void entity_follow(struct quota_entity *e, const struct quota_rules *rules,
                          const struct quota_rule *rule, uint64_t now_ns)
{
    e->rule = rule;
    e->generation = rules->generation;
    for (int k = 0; k < QUOTA_KINDS; k++) {
        int64_t rate = rule == NULL ? 0 : rule->rate[k];
        if (rate <= 0 || e->rate[k] <= 0 || e->full_ns[k] <= now_ns) {
            e->full_ns[k] = now_ns;
        } else if (rate != e->rate[k]) {
            double lacks = (double)(e->full_ns[k] - now_ns) * (double)e->rate[k] / (double)rate;
            e->full_ns[k] = now_ns + (lacks < (double)DEBT_MAX_NS ? (uint64_t)lacks : DEBT_MAX_NS);
        }
        e->rate[k] = rate;
    }
}

/* The entity of a name, as the one used last, its rule up to date. @locks shard->mu held
 * @return NULL: nothing limits it */
static struct quota_entity *entity_use(struct quota *q, const struct quota_rules *rules,
                                       struct quota_shard *shard, enum quota_by by,
                                       const char *name, size_t len, uint64_t hash, uint64_t now_ns)
{
    struct quota_entity *e = shard->slots == NULL ? NULL : shard->slots[(hash >> 8) & slot_mask(q)];
    while (e != NULL && (e->hash != hash || strcmp(e->name, name) != 0)) {
        e = e->next;
    }
    if (e == NULL || e->generation != rules->generation) {
        const struct quota_rule *rule = rule_for(rules, by, name, hash);
        if (e == NULL) {
            e = rule == NULL ? NULL : entity_new(q, shard, name, len, hash);
        }
        if (e == NULL) {
            return NULL;
        }
        entity_follow(e, rules, rule, now_ns);
    }
    if (shard->newest != e) {
        list_remove(shard, e);
        list_push(shard, e);
    }
    return e->rule == NULL ? NULL : e;
}

/* ---- buckets ------------------------------------------------------------------------------- */

/* One bucket, found and locked; to be given back with bucket_close. */
struct bucket {
    struct quota_shard *shard;
    struct quota_entity *entity; /* NULL: nothing limits it */
    uint64_t window_ns, now_ns;
};

static void bucket_open(struct quota *q, const struct sti_request *request, enum quota_by by,
                        uint64_t now_us, struct bucket *b)
{
    const char *name = request == NULL         ? NULL
                       : by == QUOTA_CLIENT_ID ? request->client_id
                                               : request->principal;
    name = name == NULL ? "" : name;
    size_t len = strlen(name);
    uint64_t hash = hash_of(name, len, by);
    b->shard = &q->shards[by][hash % QUOTA_SHARDS];
    b->now_ns = now_us * 1000u;
    pthread_mutex_lock(&b->shard->mu);
    const struct quota_rules *rules = atomic_load_explicit(&q->rules, memory_order_acquire);
    b->window_ns = rules->window_ns;
    b->entity = entity_use(q, rules, b->shard, by, name, len, hash, b->now_ns);
}

static void bucket_close(struct bucket *b)
{
    pthread_mutex_unlock(&b->shard->mu);
}

static bool bucket_limits(const struct bucket *b, enum quota_kind kind)
{
    return b->entity != NULL && b->entity->rate[kind] > 0;
}

static bool bucket_empty(const struct bucket *b, enum quota_kind kind)
{
    return b->entity->full_ns[kind] >= b->now_ns + b->window_ns;
}

static uint64_t cost_ns(const struct bucket *b, enum quota_kind kind, uint64_t amount)
{
    double cost = (double)amount * NS_PER_S / (double)b->entity->rate[kind];
    return cost < (double)DEBT_MAX_NS ? (uint64_t)(cost + 0.5) : DEBT_MAX_NS;
}

static void bucket_use(struct bucket *b, enum quota_kind kind, uint64_t amount)
{
    uint64_t *full = &b->entity->full_ns[kind];
    uint64_t most = b->now_ns + b->window_ns + DEBT_MAX_NS;
    *full = (*full > b->now_ns ? *full : b->now_ns) + cost_ns(b, kind, amount);
    *full = *full < most ? *full : most;
}

static void bucket_refuse(struct bucket *b, enum quota_by by, enum quota_kind kind, uint64_t now_us,
                          struct quota_refusal *out)
{
    struct quota_entity *e = b->entity;
    uint64_t wait_ns = e->full_ns[kind] - b->window_ns - b->now_ns;
    *out = (struct quota_refusal){.kind = kind,
                                  .by = by,
                                  .rate = e->rate[kind],
                                  .retry_after_ms = (uint32_t)(wait_ns / 1000000u + 1u)};
    out->tell = e->told_us == 0 || now_us - e->told_us >= TELL_EVERY_S * UINT64_C(1000000);
    e->told_us = out->tell ? now_us : e->told_us;
}

/* Take back what a bucket gave to a request that the other one refused. */
static void refund(struct quota *q, const struct sti_request *request, enum quota_by by,
                   enum quota_kind kind, uint64_t amount, uint64_t now_us)
{
    struct bucket b;
    bucket_open(q, request, by, now_us, &b);
    if (bucket_limits(&b, kind)) {
        uint64_t cost = cost_ns(&b, kind, amount), *full = &b.entity->full_ns[kind];
        *full -= cost < *full ? cost : *full;
    }
    bucket_close(&b);
}

bool quota_take(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                uint64_t amount, uint64_t now_us, struct quota_refusal *refusal)
{
    uint32_t active = atomic_load_explicit(&q->active[kind], memory_order_relaxed);
    bool taken[QUOTA_BYS] = {false, false};
    for (int by = 0; by < QUOTA_BYS; by++) {
        struct bucket b;
        if ((active & (1u << by)) == 0) {
            continue;
        }
        bucket_open(q, request, (enum quota_by)by, now_us, &b);
        bool limits = bucket_limits(&b, kind), empty = limits && bucket_empty(&b, kind);
        if (empty) {
            bucket_refuse(&b, (enum quota_by)by, kind, now_us, refusal);
        } else if (limits) {
            bucket_use(&b, kind, amount);
            taken[by] = true;
        }
        bucket_close(&b);
        if (empty) {
            if (taken[QUOTA_CLIENT_ID]) {
                refund(q, request, QUOTA_CLIENT_ID, kind, amount, now_us);
            }
            sti_metric_add(q->throttled[by][kind], 1);
            return false;
        }
    }
    return true;
}

void quota_charge(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                  uint64_t amount, uint64_t now_us)
{
    uint32_t active = atomic_load_explicit(&q->active[kind], memory_order_relaxed);
    for (int by = 0; by < QUOTA_BYS; by++) {
        struct bucket b;
        if ((active & (1u << by)) == 0) {
            continue;
        }
        bucket_open(q, request, (enum quota_by)by, now_us, &b);
        if (bucket_limits(&b, kind)) {
            bucket_use(&b, kind, amount);
        }
        bucket_close(&b);
    }
}

uint64_t quota_left(struct quota *q, const struct sti_request *request, enum quota_kind kind,
                    uint64_t now_us)
{
    uint32_t active = atomic_load_explicit(&q->active[kind], memory_order_relaxed);
    uint64_t least = UINT64_MAX;
    for (int by = 0; by < QUOTA_BYS; by++) {
        struct bucket b;
        if ((active & (1u << by)) == 0) {
            continue;
        }
        bucket_open(q, request, (enum quota_by)by, now_us, &b);
        if (bucket_limits(&b, kind)) {
            uint64_t full = b.entity->full_ns[kind], now = b.now_ns;
            uint64_t left_ns = bucket_empty(&b, kind) ? 0
                               : full <= now          ? b.window_ns
                                                      : now + b.window_ns - full;
            double left = (double)left_ns * (double)b.entity->rate[kind] / NS_PER_S;
            least = (uint64_t)left < least ? (uint64_t)left : least;
        }
        bucket_close(&b);
    }
    return least;
}

/* ---- the whole ----------------------------------------------------------------------------- */

void quota_init(struct quota *q, const struct sti_host *host)
{
    q->host = host;
    for (int by = 0; by < QUOTA_BYS; by++) {
        for (int i = 0; i < QUOTA_SHARDS; i++) {
            pthread_mutex_init(&q->shards[by][i].mu, NULL);
        }
    }
}

void quota_metrics(struct quota *q)
{
    static const char *const by_names[QUOTA_BYS] = {"client_id", "principal"};
    const struct sti_host *host = q->host;
    for (int by = 0; by < QUOTA_BYS; by++) {
        for (int k = 0; k < QUOTA_KINDS; k++) {
            char labels[64];
            (void)snprintf(labels, sizeof labels, "quota=\"%s\",by=\"%s\"",
                           quota_kind_name((enum quota_kind)k), by_names[by]);
            q->throttled[by][k] =
                host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_quota_throttled_total",
                             labels, "Calls put off because a client was over its quota");
        }
    }
    q->entities = host->metric(host->ctx, STI_METRIC_GAUGE, "streamit_quota_entities", NULL,
                               "Client ids and principals whose use is tracked");
    q->evicted = host->metric(host->ctx, STI_METRIC_COUNTER, "streamit_quota_evictions_total", NULL,
                              "Client ids and principals forgotten to make room for others");
}

void quota_fini(struct quota *q)
{
    for (int by = 0; by < QUOTA_BYS; by++) {
        for (int i = 0; i < QUOTA_SHARDS; i++) {
            struct quota_shard *shard = &q->shards[by][i];
            while (shard->newest != NULL) {
                entity_drop(q, shard, shard->newest);
            }
            free(shard->slots);
            pthread_mutex_destroy(&shard->mu);
        }
    }
    rules_free(atomic_load(&q->rules));
}

/* Wait until nobody uses the rules that were replaced: they are used under a shard's lock only. */
static void grace(struct quota *q)
{
    for (int by = 0; by < QUOTA_BYS; by++) {
        for (int i = 0; i < QUOTA_SHARDS; i++) {
            pthread_mutex_lock(&q->shards[by][i].mu);
            pthread_mutex_unlock(&q->shards[by][i].mu);
        }
    }
}

int quota_set(struct quota *q, const struct quota_conf *conf, struct sti_err *err)
{
    int rc;
    struct quota_rules *rules = rules_new(conf, &rc, err);
    if (rules == NULL) {
        return rc;
    }
    struct quota_rules *old = atomic_load(&q->rules);
    if (old == NULL) { /* the number of slots is fixed from the first entity on */
        q->shard_max = (uint32_t)((conf->entities_max + QUOTA_SHARDS - 1) / QUOTA_SHARDS);
    }
    rules->generation = old == NULL ? 1 : old->generation + 1;
    atomic_store(&q->rules, rules);
    for (int k = 0; k < QUOTA_KINDS; k++) {
        atomic_store(&q->active[k], rules->active[k]);
    }
    grace(q);
    rules_free(old);
    return STI_OK;
}
