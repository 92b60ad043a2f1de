/* core_log.c -- what gRPC's core has to say goes to the node's log, not to stderr.
 *
 * gRPC has one log function in a process. It is set when an instance attaches and stays: plugins
 * with gRPC are never unmapped; that of the plugin that attached last takes the lines of all. Lines
 * go to the host of an instance that runs; without one they are dropped. The lock covers the host's
 * use, because a host table is valid only until destroy.
 */
#include <grpc/support/log.h>
#include <pthread.h>
#include <string.h>

#include "listen.h"

enum { HOSTS_MAX = 16 };

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static const struct sti_host *hosts[HOSTS_MAX]; /* those that are attached; the first one logs */
static size_t host_count;

static void core_log(gpr_log_func_args *args)
{
    int level = args->severity == GPR_LOG_SEVERITY_ERROR  ? STI_LOG_WARN
                : args->severity == GPR_LOG_SEVERITY_INFO ? STI_LOG_INFO
                                                          : STI_LOG_DEBUG;
    const char *slash = strrchr(args->file, '/');
    pthread_mutex_lock(&mu);
    if (host_count > 0) {
        sti_log(hosts[0], level, "grpc_core", args->message,
                STI_F_STR("file", slash == NULL ? args->file : slash + 1),
                STI_F_INT("line", args->line));
    }
    pthread_mutex_unlock(&mu);
}

void gco_log_attach(const struct sti_host *host)
{
    pthread_mutex_lock(&mu);
    if (host_count < HOSTS_MAX) {
        hosts[host_count++] = host;
    }
    pthread_mutex_unlock(&mu);
    gpr_set_log_function(core_log);
}

void gco_log_detach(const struct sti_host *host)
{
    pthread_mutex_lock(&mu);
    for (size_t i = 0; i < host_count; i++) {
        if (hosts[i] == host) {
            host_count--;
            memmove((void *)&hosts[i], (const void *)&hosts[i + 1],
                    (host_count - i) * sizeof hosts[0]);
            break;
        }
    }
    pthread_mutex_unlock(&mu);
}
