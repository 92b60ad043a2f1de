/* conform.h -- what a suite may use, and what it has to bring.
 *
 * Story. streamit-conform runs every case in a process of its own: a plugin that crashes, hangs or
 * leaks costs one case, and a case may change limits, fork and be killed as it likes. The case
 * begins without a node. cfm_start brings one up by the kernel that the daemon uses: the plugin is
 * loaded, its options are filled from --set, its instance is created and started, and beside it
 * stands an instance of ours that stands in for the broker, whose host table the case may use.
 *
 * Failure. The first check that does not hold ends the case, on whatever thread: the reason goes to
 * a page shared with the runner, and the process exits. So a case cleans up only what it must for
 * a passing run; its folder is removed by the runner.
 *
 * Randomness. cfm_below is seeded from --seed and the case's name, so that a case alone replays
 * what it did among others. Calls on one thread replay; the interleaving of threads does not.
 *
 * A suite includes headers of the SDK, this one, and links libstreamit-batch, nothing else.
 */
#ifndef STREAMIT_CONFORM_H
#define STREAMIT_CONFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "streamit/plugin.h"

struct cfm_host;

#define CFM_THREADS 8 /* of the node's executor */

/* What a case is given. */
struct cfm {
    const char *dir;             /* an empty folder of the case's own */
    const char *data_dir;        /* the node's, inside it; made by cfm_start */
    const char *instance_dir;    /* where the plugin may keep files: data_dir/subject */
    const struct sti_host *host; /* of the instance that stands in for the broker; NULL: no node */
    struct sti_binding subject;  /* the plugin under test; valid while a node runs */
    uint64_t random;
    uint64_t caps;     /* what the plugin promises */
    uint32_t answer_s; /* how long an answer may take */
    uint32_t rounds;   /* how many times as long as in a quick run: 1, or more with --full */
    struct cfm_host *node;
};

struct cfm_case {
    const char *name;    /* [a-z0-9_]+ */
    const char *promise; /* one clause: what the plugin must do */
    void (*run)(struct cfm *cfm);
    uint64_t caps;      /* skipped unless the plugin promises all of them */
    uint32_t timeout_s; /* 0: a minute; ten times that with --full */
};

struct cfm_suite {
    const char *name;  /* "storage" */
    const char *iface; /* "streamit.storage" */
    uint16_t major, minor_min;
    const struct cfm_case *cases;
    size_t case_count;
    const char *const *cap_names; /* name of bit 0, 1, ...; NULL-terminated */
};

/* NULL-terminated. */
extern const struct cfm_suite *const cfm_suites[];
extern const struct cfm_suite cfm_storage_suite, cfm_metrics_suite, cfm_peer_suite;

/* Bring a node up, over what data_dir holds, and take it down. Both fail the case when the plugin
 * does not follow. No thread is left after cfm_stop, so that the case may fork. */
void cfm_start(struct cfm *cfm);
void cfm_stop(struct cfm *cfm);

/* One node of several, for interfaces between nodes; nothing of struct cfm is filled by it. */
struct cfm_node {
    const struct sti_host *host;
    struct sti_binding subject;
    struct cfm_host *node;
};

/* The same for a node of `cluster` (any number) with an id of its own. @param sets  "key=value" of
 * the instance, NULL-terminated, over those of the command line; NULL: none. A node that was
 * stopped may be started again. @thread the first of the process */
void cfm_node_start(struct cfm *cfm, unsigned cluster, int32_t node_id, const char *const *sets,
                    struct cfm_node *out);
void cfm_node_stop(struct cfm_node *node);

/* A number below `below`, which is not 0. */
uint32_t cfm_below(struct cfm *cfm, uint32_t below);
/* True once in `n` times. */
bool cfm_one_in(struct cfm *cfm, uint32_t n);

/* What the case is at, for the report of a crash or a hang. Any thread. */
void cfm_step(const char *fmt, ...) STI_PRINTF(1, 2);
/* End the case. Any thread, also of a process that the case has forked. */
_Noreturn void cfm_fail(const char *file, int line, const char *fmt, ...) STI_PRINTF(3, 4);
_Noreturn void cfm_skip(const char *fmt, ...) STI_PRINTF(1, 2);

/* Fork a process that ends with this one, for work that is to be killed: `run` is called in it,
 * and the process exits 0 when it returns. @param out  the reading end of a pipe whose writing end
 * `run` is given */
pid_t cfm_fork(void (*run)(void *arg, int fd), void *arg, int *out);
/* Kill it, and wait. Fails the case when the process had already failed by itself. */
void cfm_kill(pid_t pid);
/* Wait for it to end by itself, with status 0. */
void cfm_join(pid_t pid);

#define CFM_FAIL(...) cfm_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CFM_CHECK(cond)                                                                            \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            cfm_fail(__FILE__, __LINE__, "expected %s", #cond);                                    \
        }                                                                                          \
    } while (0)
/* The same with a sentence of its own. */
#define CFM_EXPECT(cond, ...)                                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            cfm_fail(__FILE__, __LINE__, __VA_ARGS__);                                             \
        }                                                                                          \
    } while (0)
/* Two integers. */
#define CFM_EQ(got, want) cfm_check_eq(__FILE__, __LINE__, #got, (int64_t)(got), (int64_t)(want))
/* A status code, shown by name. */
#define CFM_STATUS(got, want) cfm_check_status(__FILE__, __LINE__, #got, (got), (want))

void cfm_check_eq(const char *file, int line, const char *what, int64_t got, int64_t want);
void cfm_check_status(const char *file, int line, const char *what, int got, int want);

#endif /* STREAMIT_CONFORM_H */
