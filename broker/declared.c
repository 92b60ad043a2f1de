/* declared.c -- the topics that the configuration declares.
 *
 * What can be told from the configuration alone is checked when the broker is created, so that
 * `--check` says it too. A
 * topic that is missing is made before the node is ready. One that is there is left as it is,
 * whatever the configuration says: what differs is a warning that names it, because a change of
 * partitions or retention that nobody asked for by its own command would be a surprise.
 *
 * Failures. A declaration that this node can never follow refuses the start (STI_E_CONFIG, with its
 * place). One that fails for a reason outside of it (a full disk, a failing one) is logged, and the
 * start goes on: the other topics are served.
 *
 * A start that dies anywhere in here finds at the next one what was committed, and makes the rest.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/admin.h"
#include "streamit/fault.h"

enum { TEXT_MAX = 96, PURGE_LOOK_MS = 5, PURGE_WAIT_MS = 10000 };

/* A declaration as a call, with room for its settings; `texts` holds their keys and values. */
struct declared_call {
    struct sti_topic_change call;
    pthread_mutex_t mu;
    pthread_cond_t answered;
    bool done; /* @locks mu */
    struct sti_config_entry *entries;
    const struct sti_config_entry **rows;
    char *texts;
};

static const struct brk_declared *row_at(const struct brk_conf *conf, size_t i)
{
    return conf->topics.rows[i];
}

static void call_done(struct sti_topic_change *call)
{
    struct declared_call *d = call->user;
    pthread_mutex_lock(&d->mu);
    d->done = true;
    pthread_cond_signal(&d->answered);
    pthread_mutex_unlock(&d->mu);
}

static void call_fini(struct declared_call *d)
{
    free(d->entries);
    free((void *)d->rows);
    free(d->texts);
    pthread_mutex_destroy(&d->mu);
    pthread_cond_destroy(&d->answered);
}

/* Take "key=value" apart. @return STI_OK, STI_E_CONFIG, STI_E_NO_MEMORY; call_fini after either */
static int call_init(struct declared_call *d, const struct brk_declared *row, struct sti_err *err)
{
    size_t count = row->config.count, bytes = 1;
    for (size_t i = 0; i < count; i++) {
        bytes += strlen(row->config.items[i]) + 1;
    }
    *d = (struct declared_call){.entries = calloc(count + 1, sizeof *d->entries),
                                .rows = calloc(count + 1, sizeof(*d->rows)),
                                .texts = malloc(bytes)};
    pthread_mutex_init(&d->mu, NULL);
    pthread_cond_init(&d->answered, NULL);
    if (d->entries == NULL || d->rows == NULL || d->texts == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: out of memory", row->where);
    }
    d->call = (struct sti_topic_change){
        .struct_size = sizeof d->call,
        .partitions = row->partitions == 0 ? -1 : (int32_t)row->partitions,
        .replication = row->replication == 0 ? -1 : (int32_t)row->replication,
        .name = row->name,
        .config = d->rows,
        .config_count = (uint32_t)count,
        .done = call_done,
        .user = d};
    char *at = d->texts;
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(row->config.items[i]) + 1;
        memcpy(at, row->config.items[i], len);
        char *equals = strchr(at, '=');
        if (equals == NULL) {
            return sti_err_set(err, STI_E_CONFIG, "%s.config: expected KEY=VALUE, found \"%.80s\"",
                               row->where, at);
        }
        *equals = '\0';
        d->entries[i] = (struct sti_config_entry){.key = at, .value = equals + 1};
        d->rows[i] = &d->entries[i];
        at += len;
    }
    return STI_OK;
}

/* Where it is to be kept. */
static int storage_check(const struct sti_host *host, const struct brk_conf *conf,
                         const struct declared_call *d, struct sti_err *err)
{
    struct set_values values;
    uint32_t count = d->call.config_count;
    struct cat_setting *own = calloc(count + 1u, sizeof *own);
    if (own == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        own[i] = (struct cat_setting){.key = (char *)(uintptr_t)d->entries[i].key,
                                      .value = (char *)(uintptr_t)d->entries[i].value};
    }
    set_resolve(&conf->defaults, own, count, &values);
    free(own);
    return brk_topic_storage_check(host, &values, err);
}

/* One declaration by itself. */
static int row_check(const struct sti_host *host, const struct brk_conf *conf, size_t i,
                     struct sti_err *err)
{
    const struct brk_declared *row = row_at(conf, i);
    struct declared_call d;
    struct sti_err why;
    sti_err_clear(&why);
    int rc = brk_topic_name_check(row->name, &why);
    if (rc != STI_OK) {
        return sti_err_set(err, STI_E_CONFIG, "%s.name: %s", row->where, why.msg);
    }
    for (size_t k = 0; k < i; k++) {
        if (strcmp(row_at(conf, k)->name, row->name) == 0) {
            return sti_err_set(err, STI_E_CONFIG, "%s: topic %s is declared twice, see %s",
                               row->where, row->name, row_at(conf, k)->where);
        }
    }
    if (row->partitions > conf->partitions_per_topic_max) {
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: topic %s: %lld partitions exceed broker.partitions_per_topic_max "
                           "= %lld",
                           row->where, row->name, (long long)row->partitions,
                           (long long)conf->partitions_per_topic_max);
    }
    rc = call_init(&d, row, &why);
    if (rc == STI_OK) {
        rc = brk_topic_settings_check(&d.call, false, &why);
        rc = rc == STI_OK ? storage_check(host, conf, &d, &why) : rc;
        if (rc != STI_OK) {
            rc = sti_err_set(err, STI_E_CONFIG, "%s: topic %s: %s", row->where, row->name, why.msg);
        }
    } else if (err != NULL) {
        *err = why;
    }
    call_fini(&d);
    return rc;
}

int brk_declared_check(const struct sti_host *host, const struct brk_conf *conf,
                       struct sti_err *err)
{
    int rc = STI_OK;
    if ((int64_t)conf->topics.count > conf->topics_max) {
        return sti_err_set(err, STI_E_CONFIG,
                           "%s: %zu topics are declared, broker.topics_max = %lld",
                           row_at(conf, (size_t)conf->topics_max)->where, conf->topics.count,
                           (long long)conf->topics_max);
    }
    for (size_t i = 0; rc == STI_OK && i < conf->topics.count; i++) {
        rc = row_check(host, conf, i, err);
    }
    return rc;
}

/* ---- at the start -------------------------------------------------------------------------- */

static void differs(struct broker *broker, const struct brk_declared *row, const char *what,
                    const char *is, const char *declared)
{
    sti_log(broker->host, STI_LOG_WARN, "topic_differs",
            "a declared topic is there and differs from the configuration; it is left as it is",
            STI_F_STR("topic", row->name), STI_F_STR("setting", what), STI_F_STR("is", is),
            STI_F_STR("declared", declared), STI_F_STR("where", row->where));
}

static void differs_number(struct broker *broker, const struct brk_declared *row, const char *what,
                           int32_t is, int64_t declared)
{
    char a[TEXT_MAX], b[TEXT_MAX];
    if (declared != 0 && declared != is) {
        snprintf(a, sizeof a, "%d", is);
        snprintf(b, sizeof b, "%lld", (long long)declared);
        differs(broker, row, what, a, b);
    }
}

/* Warn of what differs. What is not declared is nobody's wish. @locks admin_mu held */
static void compare(struct broker *broker, const struct brk_declared *row,
                    const struct declared_call *d, const struct cat_topic *cat)
{
    struct set_values is, declared;
    set_resolve(&broker->conf->defaults, cat->settings, cat->setting_count, &is);
    differs_number(broker, row, "partitions", cat->partition_count, row->partitions);
    differs_number(broker, row, "replication", cat->replication, row->replication);
    for (uint32_t i = 0; i < d->call.config_count; i++) {
        struct cat_setting own = {.key = (char *)(uintptr_t)d->entries[i].key,
                                  .value = (char *)(uintptr_t)d->entries[i].value};
        char a[TEXT_MAX], b[TEXT_MAX];
        set_resolve(&broker->conf->defaults, &own, 1, &declared);
        set_text(own.key, &is, a, sizeof a);
        set_text(own.key, &declared, b, sizeof b);
        if (strcmp(a, b) != 0) {
            differs(broker, row, own.key, a, b);
        }
    }
}

/* The topic of a name that nobody deletes; one that is being deleted is waited for.
 * @return the topic or NULL @locks admin_mu held, given up while waiting */
static const struct cat_topic *find_live(struct broker *broker, const char *name)
{
    const struct timespec moment = {.tv_nsec = PURGE_LOOK_MS * 1000000L};
    const struct cat_topic *cat = cat_find(&broker->catalog, name);
    for (int i = 0; cat != NULL && cat->deleted && i < PURGE_WAIT_MS / PURGE_LOOK_MS; i++) {
        pthread_mutex_unlock(&broker->admin_mu);
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&broker->admin_mu);
        cat = cat_find(&broker->catalog, name);
    }
    return cat != NULL && cat->deleted ? NULL : cat;
}

/* Can the configuration be held to account for it? */
static bool is_fault_of_config(int status)
{
    return status == STI_E_INVALID_ARGUMENT || status == STI_E_UNSUPPORTED ||
           status == STI_E_NOT_FOUND || status == STI_E_RESOURCE_EXHAUSTED;
}

/* Make the topic, and wait until its partitions are open. */
static int make(struct broker *broker, const struct brk_declared *row, struct declared_call *d,
                struct sti_err *err)
{
    brk_topic_create(broker, &d->call);
    pthread_mutex_lock(&d->mu);
    while (!d->done) {
        pthread_cond_wait(&d->answered, &d->mu);
    }
    pthread_mutex_unlock(&d->mu);
    STI_CRASH_POINT("declared.after_create");
    int rc = d->call.status;
    if (rc == STI_OK) {
        sti_log(broker->host, STI_LOG_INFO, "topic_declared", "a declared topic has been made",
                STI_F_STR("topic", row->name), STI_F_INT("partitions", d->call.partition_count));
        return STI_OK;
    }
    if (is_fault_of_config(rc)) {
        return sti_err_set(err, STI_E_CONFIG, "%s: %s", row->where, d->call.err.msg);
    }
    sti_log(broker->host, STI_LOG_ERROR, "topic_declared_failed", d->call.err.msg,
            STI_F_STR("topic", row->name), STI_F_STR("code", sti_status_name(rc)),
            STI_F_STR("where", row->where));
    return STI_OK;
}

int brk_declared_start(struct broker *broker, struct sti_err *err)
{
    const struct brk_conf *conf = broker->conf;
    int rc = STI_OK;
    for (size_t i = 0; rc == STI_OK && i < conf->topics.count; i++) {
        const struct brk_declared *row = row_at(conf, i);
        struct declared_call d;
        rc = call_init(&d, row, err);
        if (rc == STI_OK) {
            STI_CRASH_POINT("declared.before_create");
            pthread_mutex_lock(&broker->admin_mu);
            const struct cat_topic *cat = find_live(broker, row->name);
            if (cat != NULL) {
                compare(broker, row, &d, cat);
            }
            pthread_mutex_unlock(&broker->admin_mu);
            rc = cat != NULL ? STI_OK : make(broker, row, &d, err);
        }
        call_fini(&d);
    }
    return rc;
}
