/* heartbeat.c -- a minimal plugin to copy: it counts a beat at an interval, and tells the count.
 *
 * Story. `start` arms a timer; each time it is due its task runs on the plugin's strand, counts,
 * and arms it again. `stop` sees to it that the timer is never armed again, lets the strand run
 * dry, and gives it up. Everything that a plugin has is here once: an option table with a
 * reloadable option, a lifecycle, a log line, a metric, a timer on a strand, and an interface that
 * it provides.
 *
 * Threads. The lifecycle runs on the kernel's main thread, `beat` and `leave` on the strand,
 * `export_now` on any thread. `mu` guards `stopping` and `gone`.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "streamit/metrics.h"
#include "streamit/plugin.h"

/* What the option table fills. The kernel hands it to create and keeps it until destroy. */
struct heartbeat_conf {
    int64_t interval_ms;
};

struct heartbeat {
    const struct sti_host *host;
    struct sti_strand strand;
    struct sti_timer timer;
    struct sti_task leave_task;
    struct sti_metric *beats; /* the kernel's; NULL when its registry is full */
    _Atomic uint64_t count, interval_us;
    pthread_mutex_t mu;
    pthread_cond_t left;
    bool stopping; /* the timer is not armed any more */
    bool gone;     /* the strand is given up */
};

/* The structure that a member belongs to. */
#define OWNER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static void arm(struct heartbeat *hb)
{
    const struct sti_host *host = hb->host;
    pthread_mutex_lock(&hb->mu);
    if (!hb->stopping) {
        host->timer_arm(host->ctx, &hb->timer, sti_now_us(host) + atomic_load(&hb->interval_us));
    }
    pthread_mutex_unlock(&hb->mu);
}

static void beat(struct sti_task *task)
{
    struct heartbeat *hb = OWNER_OF(task, struct heartbeat, timer.task);
    atomic_fetch_add(&hb->count, 1u);
    sti_metric_add(hb->beats, 1);
    arm(hb);
}

/* The last task of the strand. */
static void leave(struct sti_task *task)
{
    struct heartbeat *hb = OWNER_OF(task, struct heartbeat, leave_task);
    hb->host->strand_fini(hb->host->ctx, &hb->strand);
    pthread_mutex_lock(&hb->mu);
    hb->gone = true;
    pthread_cond_signal(&hb->left);
    pthread_mutex_unlock(&hb->mu);
}

/* Check everything and allocate; start nothing. A failure leaves nothing to destroy. */
static int heartbeat_create(const struct sti_host *host, const void *conf, void **self,
                            struct sti_err *err)
{
    const struct heartbeat_conf *c = conf;
    struct heartbeat *hb = calloc(1, sizeof *hb);
    *self = hb;
    if (hb == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory to create it", host->instance);
    }
    hb->host = host;
    hb->beats = host->metric(host->ctx, STI_METRIC_COUNTER, "heartbeat_beats_total", NULL,
                             "Beats of the heartbeat plugin.");
    atomic_init(&hb->interval_us, (uint64_t)c->interval_ms * 1000u);
    (void)pthread_mutex_init(&hb->mu, NULL);
    (void)pthread_cond_init(&hb->left, NULL);
    return STI_OK;
}

/* Begin to serve. What a plugin needs of others it looks up here, with host->bind. */
static int heartbeat_start(void *self, struct sti_err *err)
{
    struct heartbeat *hb = self;
    const struct sti_host *host = hb->host;
    (void)err;
    host->strand_init(host->ctx, &hb->strand);
    hb->timer.task.run = beat;
    hb->timer.strand = &hb->strand;
    hb->leave_task.run = leave;
    arm(hb);
    sti_log(host, STI_LOG_INFO, "heartbeat_started", "the heart beats",
            STI_F_UINT("interval_us", atomic_load(&hb->interval_us)));
    return STI_OK;
}

/* Take changed reloadable options, all or nothing. The next beat follows the new interval. */
static int heartbeat_reload(void *self, const void *conf, struct sti_err *err)
{
    struct heartbeat *hb = self;
    const struct heartbeat_conf *c = conf;
    (void)err;
    atomic_store(&hb->interval_us, (uint64_t)c->interval_ms * 1000u);
    return STI_OK;
}

/* End everything. A timer that could not be cancelled has been posted to the strand before `leave`
 * is, so that its task has run when `leave` runs. */
static int heartbeat_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct heartbeat *hb = self;
    const struct sti_host *host = hb->host;
    (void)deadline_ms;
    (void)err;
    pthread_mutex_lock(&hb->mu);
    hb->stopping = true;
    pthread_mutex_unlock(&hb->mu);
    (void)host->timer_cancel(host->ctx, &hb->timer);
    host->strand_post(host->ctx, &hb->strand, &hb->leave_task);
    pthread_mutex_lock(&hb->mu);
    while (!hb->gone) {
        pthread_cond_wait(&hb->left, &hb->mu);
    }
    pthread_mutex_unlock(&hb->mu);
    return STI_OK;
}

static void heartbeat_destroy(void *self)
{
    struct heartbeat *hb = self;
    (void)pthread_cond_destroy(&hb->left);
    (void)pthread_mutex_destroy(&hb->mu);
    free(hb);
}

/* The interface that it provides: an exporter whose text is one line. */
static int heartbeat_export(void *self, void (*write)(void *arg, const char *text, size_t len),
                            void *arg, struct sti_err *err)
{
    struct heartbeat *hb = self;
    char line[64];
    int len = snprintf(line, sizeof line, "beats %" PRIu64 "\n", atomic_load(&hb->count));
    if (len < 0) {
        return sti_err_set(err, STI_E_INTERNAL, "%s: the count cannot be written",
                           hb->host->instance);
    }
    write(arg, line, (size_t)len);
    return STI_OK;
}

static const struct sti_metrics heartbeat_metrics = {
    .iface = {.struct_size = sizeof(struct sti_metrics),
              .major = STI_METRICS_MAJOR,
              .minor = 1, /* what 0.2 promises of the lines it does not */
              .id = STI_METRICS_ID},
    .export_now = heartbeat_export};

static const struct sti_iface *const heartbeat_provides[] = {&heartbeat_metrics.iface, NULL};

static const struct sti_option opt_interval_ms = {.struct_size = sizeof(struct sti_option),
                                                  .key = "interval_ms",
                                                  .type = STI_OPT_INT,
                                                  .offset =
                                                      offsetof(struct heartbeat_conf, interval_ms),
                                                  .def = "1000",
                                                  .min = 1,
                                                  .max = 3600000,
                                                  .unit = "ms",
                                                  .flags = STI_OPT_RELOADABLE,
                                                  .help = "Time from one beat to the next."};

static const struct sti_option *const heartbeat_options[] = {&opt_interval_ms, NULL};

static const struct sti_lifecycle heartbeat_life = {.struct_size = sizeof(struct sti_lifecycle),
                                                    .create = heartbeat_create,
                                                    .start = heartbeat_start,
                                                    .reload = heartbeat_reload,
                                                    .stop = heartbeat_stop,
                                                    .destroy = heartbeat_destroy};

/* The one symbol that the file exports. abi_minor: the least that the plugin needs, not what its
 * headers offer; whatever is newer is asked for with STI_HAS. */
STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {.magic = STI_PLUGIN_MAGIC,
                                                        .struct_size = sizeof(struct sti_plugin),
                                                        .abi_major = STI_ABI_MAJOR,
                                                        .abi_minor = 1,
                                                        .name = "heartbeat",
                                                        .version = "0.1.0",
                                                        .license = "Apache-2.0",
                                                        .summary = "Counts a beat at an interval",
                                                        .options = heartbeat_options,
                                                        .conf_size = sizeof(struct heartbeat_conf),
                                                        .provides = heartbeat_provides,
                                                        .life = &heartbeat_life};
