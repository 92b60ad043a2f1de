/* plugin.c -- metrics_prom: descriptor, options, lifecycle. The work is in server.c and pages.c. */
#include "streamit/plugin.h"

#include <stdlib.h>

#include "exposition.h"
#include "server.h"
#include "streamit/metrics.h"

struct prom {
    const struct sti_host *host;
    const struct mpr_conf *conf;
    struct mpr_server *server; /* while started */
};

static int prom_export_now(void *self, void (*write)(void *arg, const char *text, size_t len),
                           void *arg, struct sti_err *err)
{
    struct prom *prom = self;
    struct mpr_text text = {0};
    int rc = STI_OK;
    mpr_exposition(&text, prom->host);
    if (text.failed) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory to export the metrics");
    } else {
        write(arg, text.data, text.len);
    }
    mpr_text_fini(&text);
    return rc;
}

static const struct sti_metrics prom_metrics = {.iface = {.struct_size = sizeof(struct sti_metrics),
                                                          .major = STI_METRICS_MAJOR,
                                                          .minor = STI_METRICS_MINOR,
                                                          .id = STI_METRICS_ID},
                                                .export_now = prom_export_now};

static int prom_create(const struct sti_host *host, const void *conf, void **self,
                       struct sti_err *err)
{
    struct prom *prom = calloc(1, sizeof *prom);
    *self = prom;
    if (prom == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s: no memory to create it", host->instance);
    }
    prom->host = host;
    prom->conf = conf;
    return STI_OK;
}

static int prom_start(void *self, struct sti_err *err)
{
    struct prom *prom = self;
    return mpr_server_start(&prom->server, prom->host, prom->conf, err);
}

static int prom_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    struct prom *prom = self;
    (void)deadline_ms;
    (void)err;
    mpr_server_stop(prom->server);
    prom->server = NULL;
    return STI_OK;
}

static void prom_destroy(void *self)
{
    free(self);
}

static const struct sti_option opt_address = {
    .struct_size = sizeof(struct sti_option),
    .key = "address",
    .type = STI_OPT_STRING,
    .offset = offsetof(struct mpr_conf, address),
    .def = "0.0.0.0",
    .min = 1,
    .max = 255,
    .help = "Address to listen on; the default is every IPv4 interface, \"::\" is every interface, "
            "127.0.0.1 this machine only."};

static const struct sti_option opt_port = {.struct_size = sizeof(struct sti_option),
                                           .key = "port",
                                           .type = STI_OPT_INT,
                                           .offset = offsetof(struct mpr_conf, port),
                                           .def = "9090",
                                           .min = 0,
                                           .max = 65535,
                                           .help = "TCP port to listen on; 0 picks a free one."};

static const struct sti_option opt_connections_max = {
    .struct_size = sizeof(struct sti_option),
    .key = "connections_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mpr_conf, connections_max),
    .def = "64",
    .min = 1,
    .max = 10000,
    .help = "Connections that may be open at once; further ones wait."};

static const struct sti_option opt_connections_per_ip_max = {
    .struct_size = sizeof(struct sti_option),
    .key = "connections_per_ip_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mpr_conf, connections_per_ip_max),
    .def = "32",
    .min = 1,
    .max = 10000,
    .help = "Connections that one client address may have open; further ones are closed."};

static const struct sti_option opt_timeout_ms = {
    .struct_size = sizeof(struct sti_option),
    .key = "timeout_ms",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mpr_conf, timeout_ms),
    .def = "10000",
    .min = 1000,
    .max = 600000,
    .unit = "ms",
    .help = "A connection that is silent for so long is closed; rounded up to seconds."};

static const struct sti_option *const prom_options[] = {
    &opt_address,    &opt_port, &opt_connections_max, &opt_connections_per_ip_max,
    &opt_timeout_ms, NULL};

static const struct sti_iface *const prom_provides[] = {&prom_metrics.iface, NULL};

static const struct sti_lifecycle prom_life = {.struct_size = sizeof(struct sti_lifecycle),
                                               .create = prom_create,
                                               .start = prom_start,
                                               .stop = prom_stop,
                                               .destroy = prom_destroy};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .name = "metrics_prom",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Metrics for Prometheus and health over HTTP",
    .options = prom_options,
    .conf_size = sizeof(struct mpr_conf),
    .provides = prom_provides,
    .life = &prom_life};
