/* core.c -- the life of an instance, its services and its figures. */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAIT_SLICE_MS = 20, POLITE_MS = 1000 };

/* ---- figures -------------------------------------------------------------------------------- */

static const char *const direction_words[] = {"in", "out"};

static struct sti_metric *metric(struct pco *core, int type, const char *name, const char *more,
                                 const char *help)
{
    char labels[192];
    (void)snprintf(labels, sizeof labels, "peer=\"%.64s\"%s%s", core->host->instance,
                   more[0] == '\0' ? "" : ",", more);
    return core->host->metric(core->host->ctx, type, name, labels, help);
}

static struct sti_metric *calls_of(struct pco *core, enum pco_direction direction, int status)
{
    struct pco_figures *f = &core->figures[direction];
    unsigned at = status <= 0 && status > -PCO_STATUS_MAX ? (unsigned)-status : PCO_STATUS_MAX - 1;
    struct sti_metric *calls = atomic_load_explicit(&f->calls[at], memory_order_acquire);
    if (calls == NULL) {
        char label[128];
        (void)snprintf(label, sizeof label, "direction=\"%s\",code=\"%s\"",
                       direction_words[direction], sti_status_name(status));
        calls = metric(core, STI_METRIC_COUNTER, "streamit_peer_calls_total", label,
                       "Calls that ended, by who made them and how.");
        atomic_store_explicit(&f->calls[at], calls, memory_order_release);
    }
    return calls;
}

static void figures_init(struct pco *core)
{
    char label[128];
    for (int i = PCO_IN; i <= PCO_OUT; i++) {
        struct pco_figures *f = &core->figures[i];
        (void)snprintf(label, sizeof label, "direction=\"%s\"", direction_words[i]);
        f->bytes = metric(core, STI_METRIC_COUNTER, "streamit_peer_bytes_total", label,
                          "Bytes of requests and answers, by where they go.");
        f->in_flight = metric(core, STI_METRIC_GAUGE, "streamit_peer_calls_in_flight", label,
                              "Calls without an answer, by who makes them.");
        f->links = metric(core, STI_METRIC_GAUGE, "streamit_peer_connections", label,
                          "Connections that stand, by who dialed them.");
        (void)calls_of(core, (enum pco_direction)i, STI_OK);
    }
    core->connects = metric(core, STI_METRIC_COUNTER, "streamit_peer_connects_total", "",
                            "Connections made, the first time and again.");
    core->connect_failures =
        metric(core, STI_METRIC_COUNTER, "streamit_peer_connect_failures_total", "",
               "Attempts to connect that failed.");
    core->refused = metric(core, STI_METRIC_COUNTER, "streamit_peer_refused_total", "",
                           "Connections refused: another cluster, node or version, or too many.");
    core->copied_bytes = metric(core, STI_METRIC_COUNTER, "streamit_peer_copied_bytes_total", "",
                                "Bytes of requests and answers that had to be copied.");
    (void)snprintf(label, sizeof label, "peer=\"%.64s\"", core->host->instance);
    core->seconds =
        core->host->histogram(core->host->ctx, "streamit_peer_call_seconds", label,
                              "Time from a call to its answer, at the node that makes it.");
}

void pco_begin(struct pco *core, enum pco_direction direction)
{
    (void)atomic_fetch_add(&core->under_way, 1);
    sti_metric_add(core->figures[direction].in_flight, 1);
}

void pco_count(struct pco *core, enum pco_direction direction, int status)
{
    sti_metric_add(calls_of(core, direction, status), 1);
    sti_metric_sub(core->figures[direction].in_flight, 1);
    (void)atomic_fetch_sub(&core->under_way, 1);
    pco_changed(core);
}

/* ---- waiting -------------------------------------------------------------------------------- */

void pco_changed(struct pco *core)
{
    if (atomic_load(&core->waiting)) {
        pthread_mutex_lock(&core->mu);
        pthread_cond_broadcast(&core->changed);
        pthread_mutex_unlock(&core->mu);
    }
}

static bool calls_ended(const struct pco *core)
{
    return atomic_load(&core->under_way) == 0;
}

static bool all_ended(const struct pco *core)
{
    return core->link_count == 0 && calls_ended(core);
}

/* Wait for `reached`, looking again every slice: what ended just as the waiting began wakes nobody.
 */
static bool wait_for(struct pco *core, bool (*reached)(const struct pco *core),
                     uint32_t deadline_ms)
{
    struct timespec now, until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += deadline_ms / 1000u;
    until.tv_nsec += (long)(deadline_ms % 1000u) * 1000000L;
    pthread_mutex_lock(&core->mu);
    atomic_store(&core->waiting, true);
    bool ok = reached(core), late = false;
    while (!ok && !late) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        late = now.tv_sec > until.tv_sec ||
               (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec);
        now.tv_nsec += WAIT_SLICE_MS * 1000000L;
        if (now.tv_nsec >= 1000000000L) {
            now.tv_nsec -= 1000000000L;
            now.tv_sec++;
        }
        (void)pthread_cond_clockwait(&core->changed, &core->mu, CLOCK_MONOTONIC, &now);
        ok = reached(core);
    }
    atomic_store(&core->waiting, false);
    pthread_mutex_unlock(&core->mu);
    return ok;
}

/* ---- services ------------------------------------------------------------------------------- */

/* @locks core->mu held */
static struct pco_service *find(struct pco *core, const char *name)
{
    for (unsigned i = 0; i < PCO_SERVICES_MAX; i++) {
        if (core->services[i].used && strcmp(core->services[i].name, name) == 0) {
            return &core->services[i];
        }
    }
    return NULL;
}

int pco_serve(void *self, const struct sti_peer_service *service, struct sti_err *err)
{
    struct pco *core = self;
    int rc = STI_OK;
    if (!pco_name_ok(service->name)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "a service's name has 1 to %u printable characters", STI_PEER_NAME_MAX);
    }
    pthread_mutex_lock(&core->mu);
    struct pco_service *free_one = NULL;
    for (unsigned i = 0; i < PCO_SERVICES_MAX && free_one == NULL; i++) {
        free_one = core->services[i].used ? NULL : &core->services[i];
    }
    if (find(core, service->name) != NULL) {
        rc = sti_err_set(err, STI_E_ALREADY_EXISTS, "%s: the service %s is served already",
                         core->host->instance, service->name);
    } else if (free_one == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "%s: no place for a service more than %d",
                         core->host->instance, PCO_SERVICES_MAX);
    } else {
        *free_one =
            (struct pco_service){.handle = service->handle, .ctx = service->ctx, .used = true};
        (void)snprintf(free_one->name, sizeof free_one->name, "%s", service->name);
    }
    pthread_mutex_unlock(&core->mu);
    return rc;
}

int pco_withdraw(void *self, const char *name, struct sti_err *err)
{
    struct pco *core = self;
    pthread_mutex_lock(&core->mu);
    struct pco_service *service = find(core, name);
    if (service == NULL || service->leaving) {
        pthread_mutex_unlock(&core->mu);
        return sti_err_set(err, STI_E_NOT_FOUND, "%s: no service %s is served",
                           core->host->instance, name);
    }
    service->leaving = true;
    while (service->running > 0) {
        (void)pthread_cond_wait(&core->changed, &core->mu);
    }
    service->used = false;
    pthread_mutex_unlock(&core->mu);
    return STI_OK;
}

bool pco_handle(struct pco *core, struct sti_peer_incoming *incoming)
{
    pthread_mutex_lock(&core->mu);
    struct pco_service *service = find(core, incoming->service);
    if (service == NULL || service->leaving) {
        pthread_mutex_unlock(&core->mu);
        return false;
    }
    service->running++;
    void (*handle)(void *, struct sti_peer_incoming *) = service->handle;
    void *ctx = service->ctx;
    pthread_mutex_unlock(&core->mu);
    handle(ctx, incoming);
    pthread_mutex_lock(&core->mu);
    service->running--;
    if (service->leaving) {
        pthread_cond_broadcast(&core->changed);
    }
    pthread_mutex_unlock(&core->mu);
    return true;
}

int pco_info(void *self, struct sti_peer_info *out, struct sti_err *err)
{
    struct pco *core = self;
    if (!atomic_load(&core->started)) {
        return sti_err_set(err, STI_E_PRECONDITION, "%s has not started", core->host->instance);
    }
    out->address = core->address;
    out->calls_max = (uint32_t)core->conf->calls_in_flight_max;
    out->message_bytes_max = (uint64_t)core->conf->message_bytes_max;
    out->bytes_max = (uint64_t)core->conf->bytes_in_flight_max;
    return STI_OK;
}

/* ---- lifecycle ------------------------------------------------------------------------------ */

void pco_init(struct pco *core, const struct sti_host *host, const struct pco_conf *conf,
              const struct pco_ops *ops, void *engine)
{
    core->host = host;
    core->conf = conf;
    core->ops = ops;
    core->engine = engine;
    pthread_mutex_init(&core->mu, NULL);
    pthread_cond_init(&core->changed, NULL);
}

void pco_fini(struct pco *core)
{
    pthread_cond_destroy(&core->changed);
    pthread_mutex_destroy(&core->mu);
}

void pco_start(struct pco *core, const char *address)
{
    (void)snprintf(core->address, sizeof core->address, "%s", address);
    figures_init(core);
    atomic_store(&core->started, true);
}

int pco_drain(struct pco *core, uint32_t deadline_ms, struct sti_err *err)
{
    atomic_store(&core->draining, true);
    if (!wait_for(core, calls_ended, deadline_ms)) {
        return sti_err_set(err, STI_E_TIMED_OUT, "%u calls between nodes did not end within %u ms",
                           atomic_load(&core->under_way), deadline_ms);
    }
    return STI_OK;
}

/* End each link, with a reference held and no lock. */
static void end_links(struct pco *core, void (*end)(struct pco_link *link))
{
    pthread_mutex_lock(&core->mu);
    struct pco_link **links = calloc(core->link_count + 1, sizeof(struct pco_link *));
    unsigned count = 0;
    for (struct pco_link *link = core->links; link != NULL && links != NULL; link = link->next) {
        pco_link_ref(link);
        links[count++] = link;
    }
    pthread_mutex_unlock(&core->mu);
    for (unsigned i = 0; i < count; i++) {
        end(links[i]);
        pco_link_unref(links[i]);
    }
    free(links);
}

int pco_stop(struct pco *core, uint32_t deadline_ms, struct sti_err *err)
{
    atomic_store(&core->draining, true);
    atomic_store(&core->stopping, true);
    while (core->connections != NULL) { /* nobody dials any more */
        sti_log(core->host, STI_LOG_WARN, "peer_not_hung_up",
                "a connection to another node is still held while its plugin stops");
        pco_hang_up(core->connections);
    }
    end_links(core, core->ops->finish); /* answers that are on their way arrive */
    if (!wait_for(core, all_ended, deadline_ms / 2 < POLITE_MS ? deadline_ms / 2 : POLITE_MS)) {
        end_links(core, core->ops->close);
    }
    if (!wait_for(core, all_ended, deadline_ms)) {
        return sti_err_set(err, STI_E_TIMED_OUT,
                           "%u calls from other nodes are not answered within %u ms, %u "
                           "connections are left",
                           atomic_load(&core->under_way), deadline_ms, core->link_count);
    }
    return STI_OK;
}
