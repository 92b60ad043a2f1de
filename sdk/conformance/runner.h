/* runner.h -- the parts of streamit-conform: arguments (main.c), one process a case and the report
 * (runner.c), and the node around the plugin (host.c).
 */
#ifndef STREAMIT_CONFORM_RUNNER_H
#define STREAMIT_CONFORM_RUNNER_H

#include "conform.h"

struct cfm_args {
    const char *file; /* absolute */
    const char *const *sets;
    size_t set_count;
    const char *suite;        /* NULL: all that apply */
    const char *const *cases; /* names, or none: all */
    size_t case_count;
    uint64_t seed;
    const char *dir;    /* where folders of cases are made */
    uint32_t timeout_s; /* of an answer */
    bool json, full, fail_fast, keep, log;
};

/* What the plugin is, as the kernel's checks have found it. In the shared page. */
struct cfm_subject {
    int status; /* of the load; the rest holds when it is STI_OK */
    char msg[512];
    char name[80], version[80], summary[256];
    struct {
        char id[64];
        uint16_t major, minor;
        uint64_t caps;
    } ifaces[16];
    uint32_t iface_count;
};

/* host.c. The node of the case that this process runs. @param fd  for log lines */
void cfm_host_setup(const struct cfm_args *args, const struct cfm_suite *suite, int fd);
/* Load, check, create and destroy the plugin, as `streamitd --check` does. @param dir  scratch */
void cfm_host_probe(const struct cfm_args *args, const char *dir, struct cfm_subject *out);

/* runner.c. @return the exit status */
int cfm_run(const struct cfm_args *args);
/* Print the cases. */
void cfm_list(void);

#endif /* STREAMIT_CONFORM_RUNNER_H */
