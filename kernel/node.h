/* node.h -- one node, as the daemon drives it.
 *
 *     open ---> check                    --check: create and destroy, nothing on disk is touched
 *          \--> list                     --list-plugins
 *           \-> start ---> reload* ---> stop
 *     free in every case
 *
 * Built-in plugins are given as descriptors; each becomes an instance that bears its plugin's name
 * and takes the top-level group of that name. Main thread, one node a process.
 *
 * Errors. STI_E_CONFIG, STI_E_PLUGIN_REFUSED and STI_E_ABI_MISMATCH say that configuration or
 * plugins are refused; every other code that the node could not do its work.
 */
#ifndef STREAMIT_KERNEL_NODE_H
#define STREAMIT_KERNEL_NODE_H

#include <stdio.h>

#include "kernel/log.h"
#include "streamit/plugin.h"

struct krn_node;

struct krn_node_args {
    const char *config_path;
    const char *const *sets; /* PATH=VALUE, of --set */
    size_t set_count;
    const struct sti_plugin *const *builtins; /* NULL-terminated */
    struct krn_log *log;                      /* outlives the node */
    /* The drain deadline has passed; called on a watchdog thread. Must end the process. */
    void (*missed)(void *arg, const char *instance, const char *phase);
    void *missed_arg;
};

/* The version of StreamIt, "0.1.0". */
const char *krn_version(void);
/* 12 hex digits of the source's commit, "" when the build did not know. */
const char *krn_commit(void);
/* The table of group `node`, for the generated documents. */
extern const struct sti_option *const krn_node_options[];

/* Read and check the configuration, load and check the plugins, find the order. Calls no plugin. */
int krn_node_open(const struct krn_node_args *args, struct krn_node **out, struct sti_err *err);
/* Create all and destroy all. */
int krn_node_check(struct krn_node *node, struct sti_err *err);
/* One line a plugin, or a JSON array. */
int krn_node_list(struct krn_node *node, FILE *out, bool json, struct sti_err *err);
/* Create, take the data folder, start; the `ready` line is written when it succeeds. A failure
 * leaves nothing running. */
int krn_node_start(struct krn_node *node, struct sti_err *err);
/* Read the file again; check all of it; then hand each instance its changed reloadable options. A
 * refusal of the file changes nothing. */
int krn_node_reload(struct krn_node *node, struct sti_err *err);
/* Drain, stop, destroy, within node.drain_timeout_ms. On an error the process must end;
 * krn_node_free then frees nothing, because code of a plugin may still run. */
int krn_node_stop(struct krn_node *node, struct sti_err *err);
void krn_node_free(struct krn_node *node);

size_t krn_node_instance_count(const struct krn_node *node);
/* Executor tasks run so far: a measure of activity. 0 when not started. */
uint64_t krn_node_activity(struct krn_node *node);

/* What the kernel would say of a plugin file: a description (malloc'ed text, one JSON document with
 * json), or its refusal in err. A relative path counts from the working directory. */
int krn_plugin_check(const char *path, bool json, char **text, struct sti_err *err);

/* Load a plugin file, check it, show its descriptor, unload it. */
int krn_plugin_visit(const char *path,
                     void (*visit)(void *arg, const char *file, const struct sti_plugin *desc),
                     void *arg, struct sti_err *err);

#endif /* STREAMIT_KERNEL_NODE_H */
