/* node_internal.h -- struct krn_node, shared by node.c and reload.c. */
#ifndef STREAMIT_KERNEL_NODE_INTERNAL_H
#define STREAMIT_KERNEL_NODE_INTERNAL_H

#include <apr_pools.h>

#include "kernel/config.h"
#include "kernel/host.h"
#include "kernel/identity.h"
#include "kernel/lifecycle.h"
#include "kernel/node.h"
#include "kernel/registry.h"

/* What the table krn_node_options fills. */
struct krn_node_conf {
    int64_t node_id, drain_timeout_ms, executor_threads, metrics_max;
    const char *data_dir, *plugin_dir;
    int32_t log_level; /* enum sti_log_level */
};

struct krn_node {
    apr_pool_t *pool; /* root of everything below */
    struct krn_node_args args;
    const char **builtin_names;
    const char **root_keys; /* of options of built-ins that stand beside the groups */
    struct krn_node_conf conf;
    const char *data_dir, *plugin_dir; /* absolute */
    struct krn_services services;
    struct krn_registry registry;
    struct krn_lifecycle life;
    struct krn_identity identity;
};

#endif /* STREAMIT_KERNEL_NODE_INTERNAL_H */
