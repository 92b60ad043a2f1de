/* streamit/plugin.h -- the contract between the kernel and a plugin. No third-party types here.
 *
 * A plugin is a shared object that exports one symbol, `const struct sti_plugin sti_plugin`: what
 * it is, which ABI it was built for, its option table, its lifecycle, the interfaces that it
 * provides and those that it needs. The kernel reads nothing past what it has proved, checks
 * everything before it calls a single function, and refuses with one line that names file, field,
 * expected and found.
 *
 * The version rule: a caller may be older than the callee, never newer, unless it tests first.
 *
 *   - The descriptor's `abi_minor` is the least host minor that the plugin *needs*. A plugin that
 *     needs a newer host is refused; one that needs an older host loads. Anything later than its
 *     abi_minor a plugin guards with STI_HAS(host, service).
 *
 *   - Structs grow at the end only. `struct_size` is the size as the side that filled the struct
 *     knew it; a slot is there when it lies within struct_size and is not null.
 *
 *   - Slots are never reused. A new meaning is a new slot, or a new major.
 *   - While STI_ABI_MAJOR is 0 any change is allowed, and recorded in sdk/ABI_HISTORY.md.
 *
 * Lifecycle of an instance (a `.so` may be instantiated several times under different names):
 *
 *     create ---> start ---> [reload]* ---> drain ---> stop ---> destroy
 *
 *   create   checks its configuration in full and allocates; starts no thread, opens no file, binds
 *            nothing, writes nothing. A failed create leaves nothing to destroy.
 *
 *   start    binds what it needs and begins to serve. Called in the order of requirements. A failed
 *            start undoes itself and is followed by destroy, not by stop.
 *
 *   reload   takes changed reloadable options, all or nothing. Optional.
 *
 *   drain    stops taking new work, and finishes what is under way, at the latest within the
 *            deadline. Reverse order. Optional.
 *
 *   stop     ends everything. After it returns no thread of the plugin runs and no callback of it
 *            fires. Reverse order.
 *
 *   destroy  frees; cannot fail.
 *
 * All of them are called on the kernel's main thread, one at a time over the whole process.
 *
 * Threads. Host services may be called on any thread from `create` on, except where a service says
 * `from start on`. A plugin takes time, randomness, timers and threads from the host only, so that
 * a test or a simulator can drive it; a transport may own I/O threads that its library needs.
 *
 * Caveats. Unloading happens at exit only. A plugin whose library cannot be unmapped (gRPC) says
 * STI_PLUGIN_RESIDENT. The plugin must not touch signal masks, the environment, the working
 * directory, stdout or stderr.
 */
#ifndef STREAMIT_PLUGIN_H
#define STREAMIT_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/option.h"
#include "streamit/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_PLUGIN_MAGIC 0x49545331u /* a StreamIt plugin, and our byte order              */
#define STI_ABI_MAJOR    0           /* layout or meaning changed: rebuild                 */
#define STI_ABI_MINOR    2           /* something was appended: see sdk/ABI_HISTORY.md     */

#define STI_PLUGIN_RESIDENT 0x1u /* stays mapped until the process ends                */
#define STI_PLUGIN_OPTIONAL 0x2u /* may fail to load or start without stopping the node */
#define STI_PLUGIN_FLAGS    (STI_PLUGIN_RESIDENT | STI_PLUGIN_OPTIONAL)

/* Is `slot` of the table behind `table` there? Tests the size that the other side built, then null.
 */
#define STI_HAS(table, slot)                                                                       \
    ((table)->struct_size >= offsetof(__typeof__(*(table)), slot) + sizeof((table)->slot) &&       \
     (table)->slot != NULL)
/* The same of an interface's vtable, whose size stands in its header. */
#define STI_IFACE_HAS(table, slot)                                                                 \
    ((table)->iface.struct_size >= offsetof(__typeof__(*(table)), slot) + sizeof((table)->slot) && \
     (table)->slot != NULL)

/* ---- interfaces */

/* First member of every interface vtable. */
struct sti_iface {
    uint32_t struct_size;  /* of the whole vtable, as its author built it          */
    uint16_t major, minor; /* of the interface, as its author built it             */
    const char *id;        /* "streamit.storage"                                   */
    uint64_t caps;         /* promises, checked at load together with their slots  */
};

/* A looked-up interface of one instance. Callers keep the binding, not the vtable, so that an
 * instance can later be replaced while the process runs; the interface headers have inline wrappers
 * that take one. */
struct sti_binding {
    const struct sti_iface *vtable;
    void *self;          /* first argument of every function of the vtable */
    const char *name;    /* the instance's name; valid until the kernel ends */
    uint64_t generation; /* changes when the instance is replaced */
};

#define STI_NEED_OPTIONAL 0x1u /* start without it if nobody provides it */

/* One row of what a plugin needs. It is started after every instance that provides the interface.
 */
struct sti_requirement {
    uint32_t struct_size;
    uint16_t major, minor; /* this major; at least this minor      */
    const char *iface;     /* "streamit.metadata"                  */
    uint64_t caps;         /* promises that it must make, or 0     */
    uint32_t flags;        /* STI_NEED_*                           */
    uint32_t reserved;
};

/* ---- logging */

enum sti_log_level { STI_LOG_DEBUG = 0, STI_LOG_INFO = 1, STI_LOG_WARN = 2, STI_LOG_ERROR = 3 };

/* Or'ed to a level: this line is never thinned. For what must be found again one by one, such as
 * who changed what; only where something else bounds how often it happens. */
#define STI_LOG_EVERY 0x100

enum sti_field_type {
    STI_FIELD_STR = 1,
    STI_FIELD_INT = 2,
    STI_FIELD_UINT = 3,
    STI_FIELD_DOUBLE = 4,
    STI_FIELD_BOOL = 5
};

/* A typed field of a log line. The key "trace_id" ties the line to a request. */
struct sti_field {
    const char *key;
    uint32_t type; /* enum sti_field_type */
    uint32_t reserved;
    union {
        const char *str; /* UTF-8; NULL is written as null; invalid bytes are replaced */
        int64_t i;
        uint64_t u;
        double d;
    } value;
};

/* ---- executor */

/* A unit of work in the caller's memory. Posting never fails and allocates nothing. The task
 * belongs to the executor from the post until `run` is entered; `run` may free it or post it again.
 * `run` may block on file I/O, never for ever. */
struct sti_task {
    struct sti_task *next; /* the executor's; set to anything before posting */
    void (*run)(struct sti_task *task);
};

/* Runs its tasks one at a time, in the order of posting, on any executor thread. Caller's memory,
 * initialised with host->strand_init; costs nothing while idle. Its memory is given up with
 * host->strand_fini, by its last task. A task that runs on a strand may post to it. The words
 * belong to the kernel. */
struct sti_strand {
    uint64_t words[10];
};

/* A one-shot timer in the caller's memory. All of it but `task.run` is zero before the first arm.
 */
struct sti_timer {
    struct sti_task task;      /* posted when due */
    struct sti_strand *strand; /* post there, or NULL: to the executor */
    uint64_t due_us;           /* STI_CLOCK_MONOTONIC; set by timer_arm */
    uint64_t words[3];         /* the kernel's */
};

enum sti_clock { STI_CLOCK_MONOTONIC = 0, STI_CLOCK_REALTIME = 1 };

/* ---- metrics */

enum sti_metric_type { STI_METRIC_COUNTER = 1, STI_METRIC_GAUGE = 2, STI_METRIC_HISTOGRAM = 3 };

#define STI_METRIC_SHARDS     8u
#define STI_HISTOGRAM_BUCKETS 28u

/* One shard of a value on a cache line of its own; threads spread over shards so that counting
 * never contends. */
struct sti_metric_cell {
    uint64_t value;
    uint64_t pad[7];
};

/* A counter (only grows) or gauge (may be set or moved). Values belong to the kernel and live until
 * it ends. */
struct sti_metric {
    struct sti_metric_cell cells[STI_METRIC_SHARDS];
};

/* One shard of a histogram: bucket i counts the values below 2^i that no earlier bucket counts, the
 * last one also all that are larger. */
struct sti_histogram_cell {
    uint64_t sum;
    uint64_t buckets[STI_HISTOGRAM_BUCKETS];
    uint64_t pad[3];
};

/* A histogram of microseconds or bytes, spread over shards as a counter is. A name that ends with
 * _seconds is recorded in microseconds, which exporters scale. */
struct sti_histogram {
    struct sti_histogram_cell cells[STI_METRIC_SHARDS];
};

/* What a histogram held when it was visited. `count` is the sum of the buckets. */
struct sti_histogram_totals {
    uint64_t count, sum;
    uint64_t buckets[STI_HISTOGRAM_BUCKETS];
};

/* The calling thread's shard. The address of a thread-local variable differs between threads; that
 * is all it uses. */
static inline unsigned sti_metric_shard(void)
{
    static __thread char here;
    uintptr_t where = (uintptr_t)&here;
    return (unsigned)((where >> 12) ^ (where >> 20)) % STI_METRIC_SHARDS;
}

/* Add to a counter, or move a gauge up. NULL is ignored, so that a plugin runs without metrics. Any
 * thread. */
static inline void sti_metric_add(struct sti_metric *metric, uint64_t n)
{
    if (metric != NULL) {
        (void)__atomic_fetch_add(&metric->cells[sti_metric_shard()].value, n, __ATOMIC_RELAXED);
    }
}

/* Move a gauge down. Any thread. */
static inline void sti_metric_sub(struct sti_metric *metric, uint64_t n)
{
    sti_metric_add(metric, (uint64_t)0 - n);
}

/* Set a gauge. One thread at a time, and never mixed with add on the same gauge. */
static inline void sti_metric_set(struct sti_metric *metric, uint64_t value)
{
    if (metric != NULL) {
        __atomic_store_n(&metric->cells[0].value, value, __ATOMIC_RELAXED);
    }
}

/* Record one value. Any thread. */
static inline void sti_histogram_record(struct sti_histogram *histogram, uint64_t value)
{
    if (histogram != NULL) {
        unsigned bucket = value == 0 ? 0u : 64u - (unsigned)__builtin_clzll(value);
        if (bucket >= STI_HISTOGRAM_BUCKETS) {
            bucket = STI_HISTOGRAM_BUCKETS - 1u;
        }
        struct sti_histogram_cell *cell = &histogram->cells[sti_metric_shard()];
        (void)__atomic_fetch_add(&cell->buckets[bucket], 1u, __ATOMIC_RELAXED);
        (void)__atomic_fetch_add(&cell->sum, value, __ATOMIC_RELAXED);
    }
}

/* ---- the host table: kernel -> plugin */

enum sti_node_state {
    STI_NODE_STARTING = 0,
    STI_NODE_READY = 1,
    STI_NODE_DRAINING = 2,
    STI_NODE_STOPPED = 3
};

enum sti_health_level { STI_HEALTH_OK = 0, STI_HEALTH_DEGRADED = 1, STI_HEALTH_NOT_READY = 2 };

/* Facts of this node, constant while it runs. */
struct sti_node {
    uint32_t struct_size;
    int32_t node_id;
    const char *version;  /* of StreamIt, "0.1.0" */
    const char *data_dir; /* absolute; exists from `start` on */
    const char
        *cluster_id; /* 32 hex digits, from the identity file of data_dir; "" before `start` */
    /* since 0.2 */
    const char *commit;  /* of the source that it was built from, 12 hex digits; "" unknown */
    uint64_t started_us; /* STI_CLOCK_MONOTONIC, when the node was made */
};

/* What metrics_visit calls; either may be NULL. */
struct sti_metrics_visitor {
    uint32_t struct_size;
    uint32_t reserved;
    void (*value)(void *arg, int type, const char *name, const char *labels, const char *help,
                  double value);
    void (*histogram)(void *arg, const char *name, const char *labels, const char *help,
                      const struct sti_histogram_totals *totals);
};

/* Figures that are worked out when somebody asks. `collect` runs at the beginning of each visit: it
 * sets gauges of its own, or hands whole families to the visitor, whose names nobody else uses. It
 * may take short locks, does no I/O, and is called by one visit at a time. The caller's memory. */
struct sti_collector {
    struct sti_collector *next; /* the kernel's */
    void (*collect)(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                    void *arg);
};

/* The kernel's services; append only. `ctx` is the first argument of each and belongs to the
 * instance, so the kernel knows who calls. The table is valid until `destroy` returns. */
struct sti_host {
    uint32_t struct_size;
    uint16_t abi_major, abi_minor;
    void *ctx;
    const char *instance;        /* this instance's name, "storage_mmap" */
    const struct sti_node *node; /* facts of the node                    */

    /* Write one log line. `event` is a stable snake_case id, `msg` a sentence; `fields` is NULL or
     * a NULL-terminated array. Never blocks for long and never fails: a line that cannot be written
     * is counted. The same event repeated too often is thinned, and the next line that passes says
     * how many were left out, unless its level bears STI_LOG_EVERY. Any thread. */
    void (*log)(void *ctx, int level, const char *event, const char *msg,
                const struct sti_field *const *fields);
    /* Would a line of this level be written? Ask before computing costly fields. */
    bool (*log_enabled)(void *ctx, int level);

    /* Microseconds of a clock (enum sti_clock). Monotonic never goes back; real time counts from
     * 1970 UTC. */
    uint64_t (*clock_us)(void *ctx, int clock_id);
    /* Fill `len` bytes with random bytes fit for identifiers and secrets. */
    void (*random)(void *ctx, void *buf, size_t len);

    /* Run a task on an executor thread. From start on. */
    void (*post)(void *ctx, struct sti_task *task);
    void (*strand_init)(void *ctx, struct sti_strand *strand);
    void (*strand_post)(void *ctx, struct sti_strand *strand, struct sti_task *task);
    /* Called by a task that runs on the strand and is its last: when it returns the executor no
     * longer touches the strand's memory, which the task may therefore free. Nothing else may be
     * posted to it. */
    void (*strand_fini)(void *ctx, struct sti_strand *strand);

    /* Post timer->task at `due_us` (monotonic) or soon after. An armed timer must not be armed
     * again before it fired or was cancelled. From start on. */
    void (*timer_arm)(void *ctx, struct sti_timer *timer, uint64_t due_us);
    /* True: it was armed and will not fire. False: it has been posted (its task will run, is
     * running or has run) or was never armed. */
    bool (*timer_cancel)(void *ctx, struct sti_timer *timer);

    /* Find or make a metric. `name` is a Prometheus name ("streamit_produce_bytes_total"), `labels`
     * NULL or a text such as `acks="leader"`. The same name and labels give the same value to all
     * callers. NULL when the registry is full: all inline functions accept that. Not for hot paths;
     * keep the pointer. */
    struct sti_metric *(*metric)(void *ctx, int type, const char *name, const char *labels,
                                 const char *help);
    struct sti_histogram *(*histogram)(void *ctx, const char *name, const char *labels,
                                       const char *help);

    /* Look up an interface: of the instance named, or with instance == NULL of the only one that
     * provides it. Legal from `start` on. STI_E_NOT_FOUND (none, or not that name),
     * STI_E_PRECONDITION (several provide it, and no name was given), STI_E_ABI_MISMATCH (another
     * major, or a lower minor than `minor_min`). */
    int (*bind)(void *ctx, const char *iface, const char *instance, uint16_t major,
                uint16_t minor_min, struct sti_binding *out, struct sti_err *err);
    /* Call `visit` with every instance that provides an interface, in the order of the
     * configuration file. Inside `create` it visits those that will be started, for their names and
     * capabilities only: `self` is NULL then. */
    void (*each)(void *ctx, const char *iface,
                 void (*visit)(void *arg, const struct sti_binding *binding), void *arg);

    /* Say where a listener is reachable, "127.0.0.1:8080"; it appears in the `ready` line under the
     * instance's name. */
    void (*announce)(void *ctx, const char *address);
    /* Report one condition of this instance ("disk", "offline_partitions"). DEGRADED is listed by
     * /ready with 200, NOT_READY makes it 503, OK withdraws it. `detail` is one sentence and is
     * copied. Any thread. */
    void (*health)(void *ctx, const char *condition, int level, const char *detail);
    /* enum sti_node_state. Any thread. */
    int (*node_state)(void *ctx);

    /* For exporters: walk every metric, family by family, and every health condition. The strings
     * live until the kernel ends (metrics) or until the visit returns (health). `value` is a
     * counter's or gauge's sum over its shards. */
    void (*metrics_visit)(void *ctx, const struct sti_metrics_visitor *visitor, void *arg);
    void (*health_visit)(void *ctx,
                         void (*visit)(void *arg, const char *instance, const char *condition,
                                       int level, const char *detail),
                         void *arg);

    /* since 0.2: take part in visits. collector_remove returns when `collect` no longer runs; not
     * to be called in `collect`. From start on. */
    void (*collector_add)(void *ctx, struct sti_collector *collector);
    void (*collector_remove)(void *ctx, struct sti_collector *collector);

    /* Since 0.2. When nothing runs or waits on the strand, run `task` on the calling thread, as one
     * of the strand's, and return true when it has ended; what is posted meanwhile follows on the
     * executor. Otherwise nothing is done. For short tasks of a caller to whom waking another
     * thread would cost more than the task; the caller answers for how long it blocks, and holds no
     * lock that the task or whoever posts to the strand takes. */
    bool (*strand_try_run)(void *ctx, struct sti_strand *strand, struct sti_task *task);
};

/* ---- the descriptor: plugin -> kernel */

/* Append only, reached by pointer. `host` and `conf` stay valid until destroy returns. */
struct sti_lifecycle {
    uint32_t struct_size;
    uint32_t reserved;
    int (*create)(const struct sti_host *host, const void *conf, void **self, struct sti_err *err);
    int (*start)(void *self, struct sti_err *err);
    int (*reload)(void *self, const void *conf, struct sti_err *err);    /* optional */
    int (*drain)(void *self, uint32_t deadline_ms, struct sti_err *err); /* optional */
    int (*stop)(void *self, uint32_t deadline_ms, struct sti_err *err);
    void (*destroy)(void *self);
};

/* Exported as `const struct sti_plugin sti_plugin`. The first 16 bytes never change. */
struct sti_plugin {
    uint32_t magic, struct_size;   /* STI_PLUGIN_MAGIC, sizeof(struct sti_plugin)          */
    uint16_t abi_major, abi_minor; /* STI_ABI_MAJOR, the least host minor that it needs    */
    uint32_t flags;                /* STI_PLUGIN_*                                         */
    const char *name;              /* lower-case letters, digits, '_', at most 64          */
    const char *version;           /* "0.1.0"                                              */
    const char *license;           /* an SPDX expression                                   */
    const char *summary;           /* one line                                             */
    const struct sti_option *const *options; /* NULL-terminated; NULL: takes none            */
    uint64_t conf_size; /* of the struct that the options fill                  */
    const struct sti_iface *const *provides;    /* NULL-terminated; NULL: none                  */
    const struct sti_requirement *const *needs; /* NULL-terminated; NULL: none               */
    const struct sti_lifecycle *life;
};

#if defined(__GNUC__)
#define STI_PLUGIN_EXPORT __attribute__((visibility("default")))
#else
#define STI_PLUGIN_EXPORT
#endif

/* ---- conveniences */

#ifndef __cplusplus
/* sti_log(host, STI_LOG_INFO, "segment_rolled", "a new segment begins", STI_F_STR("topic", t),
 * STI_F_INT("offset", o)) */
#define STI_F_STR(k, v) (&(struct sti_field){.key = (k), .type = STI_FIELD_STR, .value.str = (v)})
#define STI_F_INT(k, v)                                                                            \
    (&(struct sti_field){.key = (k), .type = STI_FIELD_INT, .value.i = (int64_t)(v)})
#define STI_F_UINT(k, v)                                                                           \
    (&(struct sti_field){.key = (k), .type = STI_FIELD_UINT, .value.u = (uint64_t)(v)})
#define STI_F_DOUBLE(k, v)                                                                         \
    (&(struct sti_field){.key = (k), .type = STI_FIELD_DOUBLE, .value.d = (v)})
#define STI_F_BOOL(k, v)                                                                           \
    (&(struct sti_field){.key = (k), .type = STI_FIELD_BOOL, .value.u = (v) ? 1u : 0u})
#define sti_log(host, level, event, ...)                                                           \
    sti_log_((host), (level), (event), STI_LOG_FIRST_(__VA_ARGS__, NULL),                          \
             (const struct sti_field *const[]){STI_LOG_REST_(__VA_ARGS__, NULL)})
#define STI_LOG_FIRST_(first, ...) first
#define STI_LOG_REST_(first, ...)  __VA_ARGS__

static inline void sti_log_(const struct sti_host *host, int level, const char *event,
                            const char *msg, const struct sti_field *const *fields)
{
    host->log(host->ctx, level, event, msg, fields);
}
#endif

static inline uint64_t sti_now_us(const struct sti_host *host)
{
    return host->clock_us(host->ctx, STI_CLOCK_MONOTONIC);
}

/* Milliseconds since 1970 UTC, the unit of record timestamps. */
static inline int64_t sti_now_ms(const struct sti_host *host)
{
    return (int64_t)(host->clock_us(host->ctx, STI_CLOCK_REALTIME) / 1000u);
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_PLUGIN_H */
