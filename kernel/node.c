/* node.c -- see node.h for the story. */
#include "kernel/node.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "streamit_commit.h"

#include "kernel/engine.h"
#include "kernel/node_internal.h"

/* ---- options of group `node` --------------------------------------------------------------- */

enum { PATH_BYTES_MAX = 4000, THREADS_LEAST = 16, THREADS_A_CORE = 2, THREADS_MAX = 1024 };

static const struct sti_option opt_node_id = {
    .struct_size = sizeof(struct sti_option),
    .key = "node_id",
    .type = STI_OPT_INT,
    .offset = offsetof(struct krn_node_conf, node_id),
    .def = "1",
    .min = 1,
    .max = INT32_MAX,
    .help = "Number of this node, unique in its cluster; the data folder remembers it."};
static const struct sti_option opt_data_dir = {
    .struct_size = sizeof(struct sti_option),
    .key = "data_dir",
    .type = STI_OPT_STRING,
    .offset = offsetof(struct krn_node_conf, data_dir),
    .def = "data",
    .min = 1,
    .max = PATH_BYTES_MAX,
    .help = "Folder of everything that the node stores, made when missing; a relative path counts "
            "from the working directory."};
static const struct sti_option opt_plugin_dir = {
    .struct_size = sizeof(struct sti_option),
    .key = "plugin_dir",
    .type = STI_OPT_STRING,
    .offset = offsetof(struct krn_node_conf, plugin_dir),
    .min = 1,
    .max = PATH_BYTES_MAX,
    .help = "Folder in which bare plugin file names are found; ../lib/streamit beside the program "
            "when not given."};
static const struct sti_option opt_drain_timeout_ms = {
    .struct_size = sizeof(struct sti_option),
    .key = "drain_timeout_ms",
    .type = STI_OPT_INT,
    .offset = offsetof(struct krn_node_conf, drain_timeout_ms),
    .def = "10000",
    .min = 100,
    .max = 3600000,
    .unit = "ms",
    .flags = STI_OPT_RELOADABLE,
    .help = "Time to drain and stop in; after it the process ends with status 1."};
static const struct sti_option opt_executor_threads = {
    .struct_size = sizeof(struct sti_option),
    .key = "executor_threads",
    .type = STI_OPT_INT,
    .offset = offsetof(struct krn_node_conf, executor_threads),
    .def = "0",
    .min = 0,
    .max = THREADS_MAX,
    .help = "Most threads that run appends, cold reads and other work, started as needed; 0 stands "
            "for two a core and at least sixteen: they wait for disks more than they run."};
static const struct sti_option opt_metrics_max = {
    .struct_size = sizeof(struct sti_option),
    .key = "metrics_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct krn_node_conf, metrics_max),
    .def = "16384",
    .min = 64,
    .max = 1048576,
    .help = "Most values in the metrics registry; further ones are not counted."};
static const struct sti_option opt_log_level = {
    .struct_size = sizeof(struct sti_option),
    .key = "log_level",
    .type = STI_OPT_ENUM,
    .offset = offsetof(struct krn_node_conf, log_level),
    .def = "info",
    .choices = krn_level_words,
    .flags = STI_OPT_RELOADABLE,
    .help = "Least level of the log lines that are written."};

static const struct sti_option opt_log_levels = {
    .struct_size = sizeof(struct sti_option),
    .key = "log_levels",
    .type = STI_OPT_STRINGS,
    .offset = offsetof(struct krn_node_conf, log_levels),
    .flags = STI_OPT_RELOADABLE,
    .help = "Levels of single components, each \"COMPONENT=LEVEL\": kernel, broker, or an "
            "instance."};

const struct sti_option *const krn_node_options[] = {
    &opt_node_id,          &opt_data_dir,         &opt_plugin_dir,
    &opt_drain_timeout_ms, &opt_executor_threads, &opt_metrics_max,
    &opt_log_level,        &opt_log_levels,       NULL};

const char *krn_version(void)
{
    return STREAMIT_VERSION;
}

const char *krn_commit(void)
{
    return STREAMIT_COMMIT;
}

/* ---- what a start takes -------------------------------------------------------------------- */

static struct krn_stage_time stage_now(void)
{
    struct timespec cpu = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct krn_stage_time){.us = krn_clock_us(STI_CLOCK_MONOTONIC),
                                   .cpu_us = (uint64_t)cpu.tv_sec * 1000000u +
                                             (uint64_t)cpu.tv_nsec / 1000u};
}

/* The stage ends here, and the next begins. */
static void stage_end(struct krn_node *node, enum krn_stage stage)
{
    struct krn_stage_time now = stage_now();
    node->stages[stage].us = now.us - node->stage_began.us;
    node->stages[stage].cpu_us = now.cpu_us - node->stage_began.cpu_us;
    node->stage_began = now;
}

static void tell_stages(const struct krn_node *node)
{
    const struct krn_stage_time *s = node->stages;
    krn_log_event(node->args.log, STI_LOG_DEBUG, "start_stages", "what the start took",
                  STI_F_UINT("config_us", s[KRN_STAGE_CONFIG].us),
                  STI_F_UINT("load_us", s[KRN_STAGE_LOAD].us),
                  STI_F_UINT("create_us", s[KRN_STAGE_CREATE].us),
                  STI_F_UINT("data_dir_us", s[KRN_STAGE_DATA_DIR].us),
                  STI_F_UINT("start_us", s[KRN_STAGE_START].us),
                  STI_F_UINT("settle_us", s[KRN_STAGE_SETTLE].us),
                  STI_F_UINT("process_cpu_us", s[KRN_STAGE_PROCESS].cpu_us),
                  STI_F_UINT("config_cpu_us", s[KRN_STAGE_CONFIG].cpu_us),
                  STI_F_UINT("load_cpu_us", s[KRN_STAGE_LOAD].cpu_us),
                  STI_F_UINT("create_cpu_us", s[KRN_STAGE_CREATE].cpu_us),
                  STI_F_UINT("data_dir_cpu_us", s[KRN_STAGE_DATA_DIR].cpu_us),
                  STI_F_UINT("start_cpu_us", s[KRN_STAGE_START].cpu_us));
}

/* ---- open ---------------------------------------------------------------------------------- */

/* Configuration and registry are small and made at start; a node without memory for them ends. */
static int out_of_memory(int status)
{
    (void)status;
    abort();
}

static int absolute(apr_pool_t *pool, const char *path, const char **out, struct sti_err *err)
{
    char here[PATH_MAX];
    *out = path;
    if (path[0] == '/') {
        return STI_OK;
    }
    if (getcwd(here, sizeof here) == NULL) {
        return sti_err_set(err, STI_E_IO, "cannot find the working directory: %s", strerror(errno));
    }
    *out = apr_pstrcat(pool, here, "/", path, NULL);
    return STI_OK;
}

static int read_node_group(struct krn_node *node, struct krn_config *config, struct sti_err *err)
{
    void *conf;
    int status = krn_config_section(config, node->pool, "node", krn_node_options,
                                    sizeof(struct krn_node_conf), &conf, err);
    if (status != STI_OK) {
        return status;
    }
    node->conf = *(struct krn_node_conf *)conf;
    krn_log_level_set(node->args.log, node->conf.log_level);
    status = absolute(node->pool, node->conf.data_dir, &node->data_dir, err);
    if (status == STI_OK && node->conf.plugin_dir == NULL) {
        status = krn_loader_default_dir(node->pool, &node->plugin_dir, err);
    } else if (status == STI_OK) {
        status = absolute(node->pool, node->conf.plugin_dir, &node->plugin_dir, err);
    }
    return status;
}

static struct krn_instance *add_instance(struct krn_node *node, const char *name,
                                         const char *section)
{
    struct krn_instance *item = apr_pcalloc(node->pool, sizeof *item);
    apr_pool_create(&item->pool, node->pool);
    item->name = apr_pstrdup(node->pool, name);
    item->section = apr_pstrdup(node->pool, section);
    item->generation = 1;
    atomic_init(&item->state, KRN_LOADED);
    krn_host_fill(&node->services, item);
    node->registry.items[node->registry.count++] = item;
    return item;
}

static int fill_section(struct krn_config *config, struct krn_instance *item, struct sti_err *err)
{
    const struct sti_plugin *desc = item->plugin.desc;
    return krn_config_section(config, item->pool, item->section, desc->options, desc->conf_size,
                              &item->conf, err);
}

static int load_builtins(struct krn_node *node, struct krn_config *config, struct sti_err *err)
{
    for (size_t i = 0; node->builtin_names[i] != NULL; i++) {
        const char *name = node->builtin_names[i];
        struct krn_instance *item = add_instance(node, name, name);
        int status = krn_loader_builtin(item->pool, node->args.builtins[i], &item->plugin, err);
        if (status == STI_OK) {
            status = fill_section(config, item, err);
        }
        if (status != STI_OK) {
            return status;
        }
    }
    return STI_OK;
}

static int load_one(struct krn_node *node, struct krn_config *config, const char *name,
                    struct sti_err *err)
{
    const char *section = apr_pstrcat(node->pool, "plugins.", name, NULL);
    const char *file, *where;
    int status = krn_config_instance_file(config, node->pool, name, &file, &where, err);
    if (status != STI_OK) {
        return status;
    }
    struct krn_instance *item = add_instance(node, name, section);
    struct sti_err cause = {0};
    status = krn_loader_open(item->pool, node->plugin_dir, file, &item->plugin, &cause);
    if (status == STI_OK) {
        return fill_section(config, item, err);
    }
    if (item->plugin.optional) {
        krn_log_event(node->args.log, STI_LOG_WARN, "plugin_left_out",
                      "an optional plugin is refused and left out", STI_F_STR("instance", name),
                      STI_F_STR("error", cause.msg));
        krn_config_skip(config, section);
        node->registry.count--;
        apr_pool_destroy(item->pool);
        return STI_OK;
    }
    return sti_err_set(err, status, "%s  [%s]", cause.msg, where);
}

/* The option names an instance: it must be there and provide what it is named for. A default that
 * nobody has written is nobody's wish: a node without storage_mmap is sound. */
static int check_named(struct krn_node *node, struct krn_config *config,
                       const struct krn_instance *item, const struct sti_option *opt,
                       struct sti_err *err)
{
    const char *name, *known = "";
    const char *where = krn_config_where(config, node->pool, item->section, opt->key);
    memcpy(&name, (const char *)item->conf + opt->offset, sizeof name);
    if (name == NULL || where == NULL) {
        return STI_OK;
    }
    for (size_t i = 0; i < node->registry.count; i++) {
        const struct krn_instance *other = node->registry.items[i];
        if (krn_registry_provides(other, opt->iface) == NULL) {
            continue;
        }
        if (strcmp(other->name, name) == 0) {
            return STI_OK;
        }
        known = apr_pstrcat(node->pool, known, *known == '\0' ? "" : ", ", other->name, NULL);
    }
    return sti_err_set(err, STI_E_CONFIG, "%s: no instance '%s' provides %s; this node has %s",
                       where, name, opt->iface, *known == '\0' ? "none" : known);
}

static int check_names(struct krn_node *node, struct krn_config *config, struct sti_err *err)
{
    for (size_t i = 0; i < node->registry.count; i++) {
        const struct krn_instance *item = node->registry.items[i];
        const struct sti_option *const *opt = item->plugin.desc->options;
        for (; opt != NULL && *opt != NULL; opt++) {
            int status = (*opt)->iface == NULL || (*opt)->type != STI_OPT_STRING
                             ? STI_OK
                             : check_named(node, config, item, *opt, err);
            if (status != STI_OK) {
                return status;
            }
        }
    }
    return STI_OK;
}

static int load_all(struct krn_node *node, struct krn_config *config, struct sti_err *err)
{
    size_t builtins = 0, count = krn_config_instance_count(config);
    while (node->builtin_names[builtins] != NULL) {
        builtins++;
    }
    node->registry.items =
        apr_pcalloc(node->pool, (builtins + count + 1) * sizeof(struct krn_instance *));
    int status = load_builtins(node, config, err);
    for (size_t i = 0; i < count && status == STI_OK; i++) {
        status = load_one(node, config, krn_config_instance(config, i), err);
    }
    if (status == STI_OK) {
        status = krn_config_finish(config, err);
    }
    return status == STI_OK ? check_names(node, config, err) : status;
}

static int open_inner(struct krn_node *node, struct sti_err *err)
{
    struct krn_config *config;
    int status = krn_services_init(&node->services, err);
    if (status == STI_OK) {
        status = krn_config_read(node->pool, node->args.config_path, node->args.sets,
                                 node->args.set_count, node->builtin_names, node->root_keys,
                                 &config, err);
    }
    if (status == STI_OK) {
        status = read_node_group(node, config, err);
    }
    stage_end(node, KRN_STAGE_CONFIG);
    if (status == STI_OK) {
        status = load_all(node, config, err);
    }
    if (status == STI_OK) {
        status = krn_log_levels_apply(node, &node->conf, false, err);
    }
    if (status == STI_OK) {
        status = krn_lifecycle_init(&node->life, node->pool, &node->registry, node->args.log, err);
    }
    stage_end(node, KRN_STAGE_LOAD);
    return status;
}

/* What may stand at the top of the file beside the groups. */
static void find_roots(struct krn_node *node, size_t builtins)
{
    size_t count = 0;
    node->root_keys = apr_pcalloc(node->pool, sizeof *node->root_keys);
    for (int fill = 0; fill < 2; fill++) {
        for (size_t i = 0; i < builtins; i++) {
            const struct sti_option *const *opt = node->args.builtins[i]->options;
            for (; opt != NULL && *opt != NULL; opt++) {
                if (((*opt)->flags & STI_OPT_ROOT) == 0) {
                    continue;
                }
                count += fill == 0 ? 1 : 0;
                if (fill == 1) {
                    node->root_keys[--count] = (*opt)->key;
                }
            }
        }
        if (fill == 0) {
            node->root_keys = apr_pcalloc(node->pool, (count + 1) * sizeof *node->root_keys);
        }
    }
}

int krn_node_open(const struct krn_node_args *args, struct krn_node **out, struct sti_err *err)
{
    apr_pool_t *pool;
    *out = NULL;
    if (apr_initialize() != APR_SUCCESS ||
        apr_pool_create_ex(&pool, NULL, out_of_memory, NULL) != APR_SUCCESS) {
        return sti_err_set(err, STI_E_NO_MEMORY, "kernel: cannot set up memory pools");
    }
    struct krn_node *node = apr_pcalloc(pool, sizeof *node);
    size_t builtins = 0;
    while (args->builtins != NULL && args->builtins[builtins] != NULL) {
        builtins++;
    }
    node->pool = pool;
    node->args = *args;
    node->identity.lock_fd = -1;
    node->builtin_names = apr_pcalloc(pool, (builtins + 1) * sizeof *node->builtin_names);
    for (size_t i = 0; i < builtins; i++) {
        node->builtin_names[i] = args->builtins[i]->name;
    }
    find_roots(node, builtins);
    node->services.log = args->log;
    node->services.registry = &node->registry;
    node->services.started_us = krn_clock_us(STI_CLOCK_MONOTONIC);
    stage_end(node, KRN_STAGE_PROCESS);
    int status = open_inner(node, err);
    if (status != STI_OK) {
        krn_node_free(node);
        return status;
    }
    node->life.missed = args->missed;
    node->life.missed_arg = args->missed_arg;
    node->services.node = (struct sti_node){.struct_size = sizeof(struct sti_node),
                                            .node_id = (int32_t)node->conf.node_id,
                                            .version = krn_version(),
                                            .data_dir = node->data_dir,
                                            .cluster_id = node->services.cluster_id,
                                            .commit = krn_commit(),
                                            .started_us = node->services.started_us};
    *out = node;
    return STI_OK;
}

/* ---- check, start -------------------------------------------------------------------------- */

static int prepare(struct krn_node *node, struct sti_err *err)
{
    int64_t threads = node->conf.executor_threads;
    if (threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        threads = cores * THREADS_A_CORE > THREADS_LEAST ? cores * THREADS_A_CORE : THREADS_LEAST;
        threads = threads > THREADS_MAX ? THREADS_MAX : threads;
    }
    node->services.metrics = krn_metrics_new((size_t)node->conf.metrics_max);
    if (node->services.metrics == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "kernel: out of memory");
    }
    int status = krn_executor_new(&node->services.executor, (uint32_t)threads, err);
    if (status == STI_OK) {
        struct krn_metrics *m = node->services.metrics;
        krn_executor_measure(
            node->services.executor,
            krn_metrics_histogram(m, "streamit_executor_wait_seconds", NULL,
                                  "Time that a task waits for a thread; one in 32 is measured."),
            krn_metrics_histogram(m, "streamit_executor_run_seconds", NULL,
                                  "Time that a task runs; one in 32 is measured."));
    }
    return status;
}

int krn_node_check(struct krn_node *node, struct sti_err *err)
{
    int status = prepare(node, err);
    if (status == STI_OK) {
        status = krn_lifecycle_create(&node->life, err);
    }
    if (status == STI_OK) {
        krn_lifecycle_destroy(&node->life);
    }
    return status;
}

/* `ready`, with the addresses of each instance that announced some. */
static void tell_ready(struct krn_node *node)
{
    struct krn_services *s = &node->services;
    struct krn_log_pair pairs[KRN_LISTENERS_MAX];
    size_t count = 0;
    pthread_mutex_lock(&s->mu);
    for (size_t i = 0; i < s->listener_count; i++) {
        const struct krn_listener *l = &s->listeners[i];
        size_t k = 0;
        while (k < count && strcmp(pairs[k].key, l->instance) != 0) {
            k++;
        }
        if (k < count) {
            pairs[k].value = apr_pstrcat(node->pool, pairs[k].value, ",", l->address, NULL);
        } else {
            pairs[count++] = (struct krn_log_pair){.key = apr_pstrdup(node->pool, l->instance),
                                                   .value = apr_pstrdup(node->pool, l->address)};
        }
    }
    pthread_mutex_unlock(&s->mu);
    uint64_t us = krn_clock_us(STI_CLOCK_MONOTONIC) - s->started_us;
    const struct sti_field *const fields[] = {
        STI_F_STR("version", s->node.version),        STI_F_INT("node_id", s->node.node_id),
        STI_F_STR("cluster_id", s->cluster_id),       STI_F_STR("data_dir", s->node.data_dir),
        STI_F_DOUBLE("startup_ms", (double)us / 1e3), NULL};
    krn_log_write_object(s->log, STI_LOG_INFO, "kernel", "ready", "all listeners accept", fields,
                         "listeners", pairs, count);
}

static int take_data_dir(struct krn_node *node, struct sti_err *err)
{
    int status =
        krn_identity_open(node->data_dir, (int32_t)node->conf.node_id, &node->identity, err);
    if (status != STI_OK) {
        return status;
    }
    memcpy(node->services.cluster_id, node->identity.cluster_id, sizeof node->identity.cluster_id);
    return STI_OK;
}

static void settle_run(struct sti_task *task)
{
    struct krn_settling *s = (struct krn_settling *)(void *)task;
    s->status = krn_identity_settle(s->identity, &s->err);
    (void)sem_post(&s->over);
}

/* Begin to make a new identity durable. */
static void settle_begin(struct krn_node *node)
{
    struct krn_settling *s = &node->settling;
    if (node->identity.created != 0 && sem_init(&s->over, 0, 0) == 0) {
        s->task.run = settle_run;
        s->identity = &node->identity;
        s->posted = true;
        krn_executor_post(node->services.executor, &s->task);
    }
}

/* Wait until it is. @return STI_OK, STI_E_IO */
static int settle_end(struct krn_node *node, struct sti_err *err)
{
    struct krn_settling *s = &node->settling;
    if (!s->posted) {
        return STI_OK;
    }
    while (sem_wait(&s->over) != 0 && errno == EINTR) {
    }
    (void)sem_destroy(&s->over);
    s->posted = false;
    if (s->status == STI_OK) {
        krn_log_event(node->args.log, STI_LOG_INFO, "identity_created",
                      "the data folder has got its identity", STI_F_STR("data_dir", node->data_dir),
                      STI_F_STR("cluster_id", node->services.cluster_id));
    } else if (err != NULL) {
        *err = s->err;
    }
    return s->status;
}

static int check_engines(struct krn_node *node, struct sti_err *err)
{
    size_t count = node->registry.count;
    const struct krn_engine **engines = apr_pcalloc(node->pool, (count + 1) * sizeof *engines);
    for (size_t i = 0; i < count; i++) {
        const struct krn_instance *item = node->registry.items[i];
        struct krn_engine *engine = apr_pcalloc(node->pool, sizeof *engine);
        *engine = (struct krn_engine){.instance = item->name, .engine = item->plugin.desc->name};
        engines[i] = engine;
    }
    return krn_engine_check(node->data_dir, engines, count, err);
}

/* The folders of the instances that serve say from now on whose they are. Nobody waits for it: the
 * node is ready. When it cannot be written (a full disk), the next start tries again. */
static void note_engines(struct krn_node *node)
{
    for (size_t i = 0; i < node->registry.count; i++) {
        const struct krn_instance *item = node->registry.items[i];
        const struct krn_engine engine = {.instance = item->name,
                                          .engine = item->plugin.desc->name};
        struct sti_err err = {0};
        if (krn_engine_note(node->data_dir, &engine, &err) != STI_OK) {
            krn_log_event(node->args.log, STI_LOG_WARN, "engine_not_noted", err.msg,
                          STI_F_STR("instance", item->name));
        }
    }
}

int krn_node_start(struct krn_node *node, struct sti_err *err)
{
    int status = prepare(node, err);
    if (status == STI_OK) {
        status = krn_lifecycle_create(&node->life, err);
    }
    stage_end(node, KRN_STAGE_CREATE);
    if (status != STI_OK) {
        return status;
    }
    status = take_data_dir(node, err);
    if (status == STI_OK) {
        status = check_engines(node, err);
    }
    if (status != STI_OK) {
        krn_lifecycle_destroy(&node->life);
        return status;
    }
    settle_begin(node);
    stage_end(node, KRN_STAGE_DATA_DIR);
    status = krn_lifecycle_start(&node->life, err);
    stage_end(node, KRN_STAGE_START);
    if (status != STI_OK) {
        (void)settle_end(node, NULL);
        return status;
    }
    status = settle_end(node, err);
    stage_end(node, KRN_STAGE_SETTLE);
    if (status != STI_OK) {
        krn_lifecycle_unwind(&node->life);
        return status;
    }
    atomic_store(&node->services.state, STI_NODE_READY);
    tell_ready(node);
    tell_stages(node);
    note_engines(node);
    return STI_OK;
}

/* ---- stop ---------------------------------------------------------------------------------- */

int krn_node_stop(struct krn_node *node, struct sti_err *err)
{
    uint64_t since = krn_clock_us(STI_CLOCK_MONOTONIC);
    atomic_store(&node->services.state, STI_NODE_DRAINING);
    krn_log_event(node->args.log, STI_LOG_INFO, "draining", "the node takes no new work",
                  STI_F_INT("deadline_ms", node->conf.drain_timeout_ms));
    int status = krn_lifecycle_stop(&node->life, (uint32_t)node->conf.drain_timeout_ms, err);
    if (status != STI_OK) {
        return status;
    }
    krn_lifecycle_destroy(&node->life);
    krn_identity_close(&node->identity);
    atomic_store(&node->services.state, STI_NODE_STOPPED);
    krn_log_event(node->args.log, STI_LOG_INFO, "stopped", "the node has stopped as asked",
                  STI_F_UINT("us", krn_clock_us(STI_CLOCK_MONOTONIC) - since));
    return STI_OK;
}

/* Code of an instance that did not stop may still run: nothing may be freed or unmapped under it.
 */
static bool is_at_rest(const struct krn_node *node)
{
    for (size_t i = 0; i < node->registry.count; i++) {
        int state = krn_instance_state(node->registry.items[i]);
        if (state == KRN_STARTED || state == KRN_STOPPED) {
            return false;
        }
    }
    return true;
}

void krn_node_free(struct krn_node *node)
{
    if (node == NULL || !is_at_rest(node)) {
        return;
    }
    krn_executor_free(node->services.executor);
    for (size_t i = node->registry.count; i > 0; i--) {
        krn_loader_close(&node->registry.items[i - 1]->plugin);
    }
    krn_identity_close(&node->identity);
    krn_metrics_free(node->services.metrics);
    krn_services_fini(&node->services);
    apr_pool_destroy(node->pool);
    apr_terminate();
}

size_t krn_node_instance_count(const struct krn_node *node)
{
    return node->registry.count;
}

uint64_t krn_node_activity(struct krn_node *node)
{
    struct krn_executor_stats stats = {0};
    if (node->services.executor != NULL) {
        krn_executor_stats(node->services.executor, &stats);
    }
    return stats.tasks_run;
}
