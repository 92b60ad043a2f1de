/* node_internal.h -- struct krn_node, shared by node.c and reload.c. */
#ifndef STREAMIT_KERNEL_NODE_INTERNAL_H
#define STREAMIT_KERNEL_NODE_INTERNAL_H

#include <semaphore.h>

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
    struct sti_option_strings log_levels;
};

/* What a start is made of, in order; the names stand in node.c. */
enum krn_stage {
    KRN_STAGE_PROCESS, /* before the node: the program and its libraries; CPU only */
    KRN_STAGE_CONFIG,
    KRN_STAGE_LOAD,
    KRN_STAGE_CREATE,
    KRN_STAGE_DATA_DIR,
    KRN_STAGE_START,
    KRN_STAGE_SETTLE, /* what a new data folder still waits for the disk */
    KRN_STAGES
};

struct krn_stage_time {
    uint64_t us, cpu_us; /* of the clock, and of all threads */
};

/* A new identity becomes durable on the executor while the instances start. */
struct krn_settling {
    struct sti_task task; /* first */
    const struct krn_identity *identity;
    sem_t over;
    bool posted;
    int status;
    struct sti_err err;
};

struct krn_node {
    apr_pool_t *pool; /* root of everything below */
    struct krn_stage_time stages[KRN_STAGES], stage_began;
    struct krn_node_args args;
    const char **builtin_names;
    const char **root_keys; /* of options of built-ins that stand beside the groups */
    struct krn_node_conf conf;
    const char *data_dir, *plugin_dir; /* absolute */
    struct krn_services services;
    struct krn_registry registry;
    struct krn_lifecycle life;
    struct krn_identity identity;
    struct krn_settling settling;
};

/* loglevels.c */
extern const char *const krn_level_words[]; /* by enum sti_log_level; NULL-terminated */
/* Check the levels of a configuration against the instances that there are, and let them hold
 * unless `check_only`. @return STI_OK, STI_E_CONFIG */
int krn_log_levels_apply(struct krn_node *node, const struct krn_node_conf *conf, bool check_only,
                         struct sti_err *err);
/* Copy the rows of node->conf into the node's own pool. */
void krn_log_levels_keep(struct krn_node *node);

#endif /* STREAMIT_KERNEL_NODE_INTERNAL_H */
