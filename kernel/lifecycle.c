/* lifecycle.c -- see lifecycle.h for the story. */
#include "kernel/lifecycle.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include <apr_strings.h>

#include "kernel/executor.h"
#include "kernel/host.h"
#include "kernel/log.h"

enum { UNWIND_MS = 2000 }; /* for stopping what was started before a start that failed */

/* ---- requirements -------------------------------------------------------------------------- */

static bool fits(const struct sti_iface *vtable, const struct sti_requirement *need)
{
    return vtable->major == need->major && vtable->minor >= need->minor &&
           (vtable->caps & need->caps) == need->caps;
}

/* Does somebody provide what is needed? `running`: somebody who is started. */
static int check_need(const struct krn_registry *registry, const struct krn_instance *who,
                      const struct sti_requirement *need, bool running, struct sti_err *err)
{
    const struct krn_instance *near = NULL;
    for (size_t i = 0; i < registry->count; i++) {
        const struct krn_instance *item = registry->items[i];
        const struct sti_iface *vtable = krn_registry_provides(item, need->iface);
        int state = krn_instance_state(item);
        if (vtable == NULL || item == who || state == KRN_FAILED ||
            (running && state != KRN_STARTED)) {
            continue;
        }
        if (fits(vtable, need)) {
            return STI_OK;
        }
        near = near == NULL ? item : near;
    }
    if (near == NULL) {
        return (need->flags & STI_NEED_OPTIONAL) != 0
                   ? STI_OK
                   : sti_err_set(err, STI_E_PLUGIN_REFUSED,
                                 "'%s' (%s) needs %s %u.%u, and no instance provides it: add one "
                                 "to plugins",
                                 who->name, who->plugin.file, need->iface, need->major,
                                 need->minor);
    }
    const struct sti_iface *has = krn_registry_provides(near, need->iface);
    if (has->major != need->major || has->minor < need->minor) {
        return sti_err_set(err, STI_E_ABI_MISMATCH,
                           "'%s' (%s) needs %s %u.%u or later, '%s' (%s) provides %u.%u: rebuild "
                           "the older of the two",
                           who->name, who->plugin.file, need->iface, need->major, need->minor,
                           near->name, near->plugin.file, has->major, has->minor);
    }
    return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                       "'%s' (%s) needs %s with caps 0x%" PRIx64 ", '%s' (%s) provides 0x%" PRIx64
                       ": choose another plugin",
                       who->name, who->plugin.file, need->iface, need->caps, near->name,
                       near->plugin.file, has->caps);
}

static int check_needs(const struct krn_registry *registry, const struct krn_instance *who,
                       bool running, struct sti_err *err)
{
    const struct sti_plugin *desc = who->plugin.desc;
    for (size_t i = 0; desc->needs != NULL && desc->needs[i] != NULL; i++) {
        int status = check_need(registry, who, desc->needs[i], running, err);
        if (status != STI_OK) {
            return status;
        }
    }
    return STI_OK;
}

/* Which interface of `provider` does `who` need? NULL: none. */
static const char *need_between(const struct krn_instance *who, const struct krn_instance *provider)
{
    const struct sti_plugin *desc = who->plugin.desc;
    for (size_t i = 0; desc->needs != NULL && desc->needs[i] != NULL; i++) {
        if (who != provider && krn_registry_provides(provider, desc->needs[i]->iface) != NULL) {
            return desc->needs[i]->iface;
        }
    }
    return NULL;
}

static bool is_placed(const struct krn_lifecycle *life, size_t placed,
                      const struct krn_instance *item)
{
    for (size_t i = 0; i < placed; i++) {
        if (life->order[i] == item) {
            return true;
        }
    }
    return false;
}

/* A provider that `who` waits for, NULL: none. */
static struct krn_instance *waits_for(const struct krn_lifecycle *life, size_t placed,
                                      const struct krn_instance *who)
{
    for (size_t i = 0; i < life->registry->count; i++) {
        struct krn_instance *item = life->registry->items[i];
        if (need_between(who, item) != NULL && !is_placed(life, placed, item)) {
            return item;
        }
    }
    return NULL;
}

/* Nobody could be placed, so everybody who is not waits for somebody: follow that until somebody
 * comes up twice. */
static int print_cycle(const struct krn_lifecycle *life, size_t placed, apr_pool_t *pool,
                       const struct krn_instance *who, struct sti_err *err)
{
    for (size_t step = 0; step < life->registry->count && who != NULL; step++) {
        who = waits_for(life, placed, who);
    }
    const char *text = "";
    const struct krn_instance *at = who;
    while (at != NULL) {
        const struct krn_instance *next = waits_for(life, placed, at);
        if (next != NULL) {
            text = apr_psprintf(pool, "%s%s'%s' needs %s of '%s'", text, *text == '\0' ? "" : ", ",
                                at->name, need_between(at, next), next->name);
        }
        at = next == who ? NULL : next;
    }
    return sti_err_set(err, STI_E_PLUGIN_REFUSED, "cycle of requirements: %s", text);
}

int krn_lifecycle_init(struct krn_lifecycle *life, apr_pool_t *pool, struct krn_registry *registry,
                       struct krn_log *log, struct sti_err *err)
{
    *life = (struct krn_lifecycle){.registry = registry, .log = log};
    life->order = apr_pcalloc(pool, (registry->count + 1) * sizeof(struct krn_instance *));
    for (size_t i = 0; i < registry->count; i++) {
        int status = check_needs(registry, registry->items[i], false, err);
        if (status != STI_OK) {
            return status;
        }
    }
    size_t placed = 0;
    while (placed < registry->count) {
        struct krn_instance *next = NULL, *stuck = NULL;
        for (size_t i = 0; i < registry->count && next == NULL; i++) {
            struct krn_instance *item = registry->items[i];
            if (is_placed(life, placed, item)) {
                continue;
            }
            stuck = item;
            next = waits_for(life, placed, item) == NULL ? item : NULL;
        }
        if (next == NULL) {
            return print_cycle(life, placed, pool, stuck, err);
        }
        life->order[placed++] = next;
    }
    return STI_OK;
}

/* ---- create and start ---------------------------------------------------------------------- */

/* An optional instance has failed: say so and go on. */
static bool left_out(struct krn_lifecycle *life, struct krn_instance *item, const char *phase,
                     const struct sti_err *err)
{
    if (!item->plugin.optional) {
        return false;
    }
    krn_log_event(life->log, STI_LOG_WARN, "plugin_left_out",
                  "an optional plugin failed and is left out", STI_F_STR("instance", item->name),
                  STI_F_STR("phase", phase), STI_F_STR("error", err->msg));
    krn_instance_set(item, KRN_FAILED);
    return true;
}

static void tell(struct krn_lifecycle *life, const struct krn_instance *item, const char *event,
                 const char *msg, uint64_t since_us)
{
    krn_log_event(life->log, STI_LOG_DEBUG, event, msg, STI_F_STR("instance", item->name),
                  STI_F_UINT("us", krn_clock_us(STI_CLOCK_MONOTONIC) - since_us));
}

static void destroy_one(struct krn_instance *item)
{
    item->plugin.desc->life->destroy(item->self);
    item->self = NULL;
    krn_instance_set(item, KRN_DESTROYED);
}

int krn_lifecycle_create(struct krn_lifecycle *life, struct sti_err *err)
{
    for (size_t i = 0; i < life->registry->count; i++) {
        struct krn_instance *item = life->order[i];
        struct sti_err cause = {0};
        uint64_t since = krn_clock_us(STI_CLOCK_MONOTONIC);
        int status = item->plugin.desc->life->create(&item->host, item->conf, &item->self, &cause);
        if (status == STI_OK) {
            krn_instance_set(item, KRN_CREATED);
            tell(life, item, "plugin_created", "an instance has taken its configuration", since);
            continue;
        }
        item->self = NULL;
        if (left_out(life, item, "create", &cause)) {
            continue;
        }
        krn_lifecycle_destroy(life);
        status = status == STI_E_NO_MEMORY ? status : STI_E_CONFIG;
        return sti_err_set(err, status, "%s (%s): create: %s", item->section, item->plugin.file,
                           cause.msg[0] == '\0' ? sti_status_text(status) : cause.msg);
    }
    return STI_OK;
}

static int start_one(struct krn_lifecycle *life, struct krn_instance *item, struct sti_err *err)
{
    struct sti_err cause = {0};
    uint64_t since = krn_clock_us(STI_CLOCK_MONOTONIC);
    int status = check_needs(life->registry, item, true, &cause);
    if (status == STI_OK) {
        krn_instance_set(item, KRN_STARTING);
        status = item->plugin.desc->life->start(item->self, &cause);
    }
    if (status == STI_OK) {
        krn_instance_set(item, KRN_STARTED);
        tell(life, item, "plugin_started", "an instance serves", since);
        return STI_OK;
    }
    krn_instance_set(item, KRN_CREATED);
    krn_host_forget(item->services, item);
    if (item->plugin.optional) {
        destroy_one(item);
        (void)left_out(life, item, "start", &cause);
        return STI_OK;
    }
    return sti_err_set(err, status, "%s (%s): start: %s", item->section, item->plugin.file,
                       cause.msg[0] == '\0' ? sti_status_text(status) : cause.msg);
}

void krn_lifecycle_unwind(struct krn_lifecycle *life)
{
    struct sti_err later = {0};
    if (krn_lifecycle_stop(life, UNWIND_MS, &later) == STI_OK) {
        krn_lifecycle_destroy(life);
        return;
    }
    krn_log_event(life->log, STI_LOG_ERROR, "unwind_failed",
                  "what was started before the failure did not stop",
                  STI_F_STR("error", later.msg));
}

int krn_lifecycle_start(struct krn_lifecycle *life, struct sti_err *err)
{
    for (size_t i = 0; i < life->registry->count; i++) {
        if (krn_instance_state(life->order[i]) != KRN_CREATED) {
            continue;
        }
        int status = start_one(life, life->order[i], err);
        if (status != STI_OK) {
            krn_lifecycle_unwind(life);
            return status;
        }
    }
    return STI_OK;
}

/* ---- stop, under a watchdog ---------------------------------------------------------------- */

struct watchdog {
    pthread_mutex_t mu;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, over;
    uint64_t due_us;
    const char *instance, *phase; /* what is being called; under mu */
    struct krn_lifecycle *life;
};

static void *watchdog_main(void *arg)
{
    struct watchdog *dog = arg;
    struct timespec due = {.tv_sec = (time_t)(dog->due_us / 1000000u),
                           .tv_nsec = (long)(dog->due_us % 1000000u) * 1000};
    pthread_mutex_lock(&dog->mu);
    int rc = 0;
    while (!dog->over && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&dog->wake, &dog->mu, &due);
    }
    bool missed = !dog->over;
    const char *instance = dog->instance, *phase = dog->phase;
    pthread_mutex_unlock(&dog->mu);
    if (missed && dog->life->missed != NULL) {
        dog->life->missed(dog->life->missed_arg, instance, phase);
    }
    return NULL;
}

static void watchdog_start(struct watchdog *dog, struct krn_lifecycle *life, uint64_t due_us)
{
    *dog = (struct watchdog){.due_us = due_us, .instance = "", .phase = "", .life = life};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&dog->mu, NULL);
    pthread_cond_init(&dog->wake, &attr);
    pthread_condattr_destroy(&attr);
    dog->started = pthread_create(&dog->thread, NULL, watchdog_main, dog) == 0;
}

static void watchdog_tell(struct watchdog *dog, const char *instance, const char *phase)
{
    pthread_mutex_lock(&dog->mu);
    dog->instance = instance;
    dog->phase = phase;
    pthread_mutex_unlock(&dog->mu);
}

static void watchdog_end(struct watchdog *dog)
{
    pthread_mutex_lock(&dog->mu);
    dog->over = true;
    pthread_cond_signal(&dog->wake);
    pthread_mutex_unlock(&dog->mu);
    if (dog->started) {
        pthread_join(dog->thread, NULL);
    }
    pthread_mutex_destroy(&dog->mu);
    pthread_cond_destroy(&dog->wake);
}

static uint32_t left_ms(uint64_t due_us)
{
    uint64_t now = krn_clock_us(STI_CLOCK_MONOTONIC);
    return now >= due_us ? 0 : (uint32_t)((due_us - now) / 1000u);
}

static void drain_one(struct krn_lifecycle *life, struct krn_instance *item, uint64_t due_us)
{
    struct sti_err cause = {0};
    uint64_t since = krn_clock_us(STI_CLOCK_MONOTONIC);
    int status = item->plugin.desc->life->drain(item->self, left_ms(due_us), &cause);
    if (status != STI_OK) {
        krn_log_event(life->log, STI_LOG_WARN, "drain_incomplete",
                      "an instance did not finish its work", STI_F_STR("instance", item->name),
                      STI_F_STR("status", sti_status_name(status)), STI_F_STR("error", cause.msg));
    }
    tell(life, item, "plugin_drained", "an instance takes no new work", since);
}

static int stop_one(struct krn_lifecycle *life, struct krn_instance *item, uint64_t due_us,
                    struct sti_err *err)
{
    struct sti_err cause = {0};
    uint64_t since = krn_clock_us(STI_CLOCK_MONOTONIC);
    int status = item->plugin.desc->life->stop(item->self, left_ms(due_us), &cause);
    krn_instance_set(item, KRN_STOPPED);
    krn_host_forget(item->services, item);
    if (status != STI_OK) {
        krn_log_event(life->log, STI_LOG_ERROR, "stop_failed", "an instance did not stop",
                      STI_F_STR("instance", item->name),
                      STI_F_STR("status", sti_status_name(status)), STI_F_STR("error", cause.msg));
        return sti_err_set(err, status, "'%s' (%s): stop: %s", item->name, item->plugin.file,
                           cause.msg[0] == '\0' ? sti_status_text(status) : cause.msg);
    }
    tell(life, item, "plugin_stopped", "an instance has ended its work", since);
    return STI_OK;
}

int krn_lifecycle_stop(struct krn_lifecycle *life, uint32_t deadline_ms, struct sti_err *err)
{
    uint64_t now = krn_clock_us(STI_CLOCK_MONOTONIC);
    uint64_t drain_due = now + (uint64_t)deadline_ms * 750u,
             stop_due = now + (uint64_t)deadline_ms * 1000u;
    struct watchdog dog;
    int first = STI_OK;
    watchdog_start(&dog, life, stop_due);
    for (size_t i = life->registry->count; i > 0; i--) {
        struct krn_instance *item = life->order[i - 1];
        if (krn_instance_state(item) == KRN_STARTED && item->plugin.desc->life->drain != NULL) {
            watchdog_tell(&dog, item->name, "drain");
            drain_one(life, item, drain_due);
        }
    }
    for (size_t i = life->registry->count; i > 0; i--) {
        struct krn_instance *item = life->order[i - 1];
        if (krn_instance_state(item) == KRN_STARTED) {
            watchdog_tell(&dog, item->name, "stop");
            int status = stop_one(life, item, stop_due, first == STI_OK ? err : NULL);
            first = first == STI_OK ? status : first;
        }
    }
    watchdog_end(&dog);
    return first;
}

void krn_lifecycle_destroy(struct krn_lifecycle *life)
{
    for (size_t i = life->registry->count; i > 0; i--) {
        struct krn_instance *item = life->order[i - 1];
        int state = krn_instance_state(item);
        if (state == KRN_CREATED || state == KRN_STOPPED) {
            destroy_one(item);
        }
    }
}
