/* host.c -- the node around the plugin: the kernel of the daemon, with a built-in instance that
 * stands in for the broker.
 *
 * This file alone of the SDK reaches down to the kernel (docs/decisions/0007), so that a plugin
 * meets here what the daemon gives it: the same checks of its descriptor, the same parsing of its
 * options, the same threads, strands and timers, and the same refusals, word for word. The suites
 * see struct sti_host only, as any plugin does.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/identity.h"
#include "kernel/node.h"
#include "runner.h"

#define SUBJECT "subject" /* the plugin's instance */

enum { DRAIN_MS = 15000 };

struct cfm_host {
    struct krn_log *log;
    struct krn_node *node;
    const char **sets;
};

static const struct cfm_args *running;
static int log_fd = STDERR_FILENO;

/* ---- the instance that stands in for the broker --------------------------------------------- */

static struct sti_requirement need = {.struct_size = sizeof(struct sti_requirement)};
static const struct sti_host *own_host;
static struct sti_binding subject;

static int own_create(const struct sti_host *host, const void *conf, void **self,
                      struct sti_err *err)
{
    (void)conf;
    (void)err;
    own_host = host;
    *self = &own_host;
    return STI_OK;
}

static int own_start(void *self, struct sti_err *err)
{
    (void)self;
    return own_host->bind(own_host->ctx, need.iface, SUBJECT, need.major, need.minor, &subject,
                          err);
}

static int own_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)self;
    (void)deadline_ms;
    (void)err;
    return STI_OK;
}

static void own_destroy(void *self)
{
    (void)self;
    own_host = NULL;
}

static const struct sti_requirement *const own_needs[] = {&need, NULL};
static const struct sti_lifecycle own_life = {.struct_size = sizeof own_life,
                                              .create = own_create,
                                              .start = own_start,
                                              .stop = own_stop,
                                              .destroy = own_destroy};
static const struct sti_plugin own_plugin = {.magic = STI_PLUGIN_MAGIC,
                                             .struct_size = sizeof own_plugin,
                                             .abi_major = STI_ABI_MAJOR,
                                             .abi_minor = STI_ABI_MINOR,
                                             .name = "conformance",
                                             .version = "0.1.0",
                                             .license = "Apache-2.0",
                                             .summary = "Stands in for the broker.",
                                             .needs = own_needs,
                                             .life = &own_life};

/* ---- the node ------------------------------------------------------------------------------- */

/* A libconfig string. */
static void print_quoted(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            putc('\\', out);
        }
        putc(*text, out);
    }
    putc('"', out);
}

static int write_config(const char *path, const char *data_dir, int32_t node_id,
                        struct sti_err *err)
{
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        return sti_err_set(err, STI_E_IO, "%s: %s", path, strerror(errno));
    }
    fputs("node: { data_dir = ", out);
    print_quoted(out, data_dir);
    fprintf(out,
            "; node_id = %d; executor_threads = %d; drain_timeout_ms = %d; };\nplugins: { " SUBJECT
            ": { file = ",
            (int)node_id, CFM_THREADS, DRAIN_MS);
    print_quoted(out, running->file);
    fputs("; }; };\n", out);
    return fclose(out) == 0 ? STI_OK : sti_err_set(err, STI_E_IO, "%s: %s", path, strerror(errno));
}

static void on_missed(void *arg, const char *instance, const char *phase)
{
    (void)arg;
    CFM_FAIL("%s of '%s' did not return within %d ms", phase, instance, DRAIN_MS);
}

/* --set KEY=VALUE is an override of the instance's section; `more` are those of the suite. */
static const char **make_sets(const char *const *more, size_t *count)
{
    size_t more_count = 0;
    while (more != NULL && more[more_count] != NULL) {
        more_count++;
    }
    *count = running->set_count + more_count;
    const char **sets = calloc(*count + 1, sizeof *sets);
    for (size_t i = 0; sets != NULL && i < *count; i++) {
        char *text;
        if (asprintf(&text, "plugins." SUBJECT ".%s",
                     i < running->set_count ? running->sets[i] : more[i - running->set_count]) <
            0) {
            abort();
        }
        sets[i] = text;
    }
    return sets;
}

static void free_sets(const char **sets)
{
    for (size_t i = 0; sets != NULL && sets[i] != NULL; i++) {
        free((char *)(uintptr_t)sets[i]);
    }
    free((void *)sets);
}

static int node_open(struct cfm_host *host, const char *dir, const char *data_dir, int32_t node_id,
                     const char *const *more, struct sti_err *err)
{
    static const struct sti_plugin *const builtins[] = {&own_plugin, NULL};
    static const struct sti_plugin *const none[] = {NULL};
    size_t set_count;
    char *config;
    if (asprintf(&config, "%s/node-%d.cfg", dir, (int)node_id) < 0) {
        abort();
    }
    host->log = krn_log_new(log_fd, KRN_LOG_TEXT, STI_LOG_DEBUG);
    host->sets = make_sets(more, &set_count);
    if (host->log == NULL || host->sets == NULL) {
        free(config);
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    struct krn_node_args node_args = {.config_path = config,
                                      .sets = host->sets,
                                      .set_count = set_count,
                                      .builtins = need.iface == NULL ? none : builtins,
                                      .log = host->log,
                                      .missed = on_missed};
    int rc = write_config(config, data_dir, node_id, err);
    if (rc == STI_OK) {
        rc = krn_node_open(&node_args, &host->node, err);
    }
    free(config);
    return rc;
}

static void node_free(struct cfm_host *host)
{
    krn_node_free(host->node);
    krn_log_free(host->log);
    free_sets(host->sets);
    *host = (struct cfm_host){0};
}

void cfm_host_setup(const struct cfm_args *args, const struct cfm_suite *suite, int fd)
{
    running = args;
    log_fd = fd;
    need.iface = suite->iface;
    need.major = suite->major;
    need.minor = suite->minor_min;
}

static void node_start(struct cfm_host *host, const char *dir, const char *data_dir,
                       int32_t node_id, const char *const *more)
{
    struct sti_err err = {0};
    int rc = node_open(host, dir, data_dir, node_id, more, &err);
    if (rc == STI_OK) {
        rc = krn_node_start(host->node, &err);
    }
    CFM_EXPECT(rc == STI_OK, "the instance does not start: %s: %s", sti_status_name(rc), err.msg);
}

static void node_stop(struct cfm_host *host)
{
    struct sti_err err = {0};
    int rc = krn_node_stop(host->node, &err);
    CFM_EXPECT(rc == STI_OK, "the instance does not stop: %s: %s", sti_status_name(rc), err.msg);
    node_free(host);
}

void cfm_start(struct cfm *cfm)
{
    static struct cfm_host host;
    node_start(&host, cfm->dir, cfm->data_dir, 1, NULL);
    cfm->node = &host;
    cfm->host = own_host;
    cfm->subject = subject;
}

void cfm_stop(struct cfm *cfm)
{
    node_stop(cfm->node);
    cfm->node = NULL;
    cfm->host = NULL;
    cfm->subject = (struct sti_binding){0};
}

/* ---- several nodes -------------------------------------------------------------------------- */

/* The folder of a node that has a cluster already. */
static void make_identity(const char *data_dir, unsigned cluster, int32_t node_id)
{
    char text[256], *path;
    if (asprintf(&path, "%s/identity", data_dir) < 0) {
        abort();
    }
    int len = snprintf(text, sizeof text, "format_version=%d\ncluster_id=%032x\nnode_id=%d\n",
                       KRN_IDENTITY_FORMAT, cluster, (int)node_id);
    FILE *out = mkdir(data_dir, 0700) == 0 || errno == EEXIST ? fopen(path, "we") : NULL;
    CFM_EXPECT(out != NULL, "%s: %s", path, strerror(errno));
    fprintf(out, "%scrc32=%08x\n", text, krn_identity_sum(text, (size_t)len));
    CFM_EXPECT(fclose(out) == 0, "%s: %s", path, strerror(errno));
    free(path);
}

void cfm_node_start(struct cfm *cfm, unsigned cluster, int32_t node_id, const char *const *sets,
                    struct cfm_node *out)
{
    char *data_dir;
    struct cfm_host *host = calloc(1, sizeof *host);
    if (host == NULL || asprintf(&data_dir, "%s/node-%d", cfm->dir, (int)node_id) < 0) {
        abort();
    }
    make_identity(data_dir, cluster, node_id);
    node_start(host, cfm->dir, data_dir, node_id, sets);
    *out = (struct cfm_node){.host = own_host, .subject = subject, .node = host};
    free(data_dir);
}

void cfm_node_stop(struct cfm_node *node)
{
    node_stop(node->node);
    free(node->node);
    *node = (struct cfm_node){0};
}

/* ---- the probe ------------------------------------------------------------------------------ */

static void describe(void *arg, const char *file, const struct sti_plugin *desc)
{
    struct cfm_subject *out = arg;
    (void)file;
    (void)snprintf(out->name, sizeof out->name, "%s", desc->name);
    (void)snprintf(out->version, sizeof out->version, "%s", desc->version);
    (void)snprintf(out->summary, sizeof out->summary, "%s", desc->summary);
    for (size_t i = 0; desc->provides != NULL && desc->provides[i] != NULL &&
                       i < sizeof out->ifaces / sizeof out->ifaces[0];
         i++) {
        const struct sti_iface *iface = desc->provides[i];
        (void)snprintf(out->ifaces[i].id, sizeof out->ifaces[i].id, "%s", iface->id);
        out->ifaces[i].major = iface->major;
        out->ifaces[i].minor = iface->minor;
        out->ifaces[i].caps = iface->caps;
        out->iface_count++;
    }
}

void cfm_host_probe(const struct cfm_args *args, const char *dir, struct cfm_subject *out)
{
    struct cfm_host host = {0};
    struct sti_err err = {0};
    running = args;
    need.iface = NULL;
    log_fd = args->log ? STDERR_FILENO : open("/dev/null", O_WRONLY | O_CLOEXEC);
    int rc = krn_plugin_visit(args->file, describe, out, &err);
    if (rc == STI_OK) {
        rc = node_open(&host, dir, dir, 1, NULL, &err);
    }
    if (rc == STI_OK) {
        rc = krn_node_check(host.node, &err);
    }
    out->status = rc;
    (void)snprintf(out->msg, sizeof out->msg, "%s", err.msg);
}
