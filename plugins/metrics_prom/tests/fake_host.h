/* fake_host.h -- a host whose metrics, state and health the test sets. Nothing else works on it. */
#ifndef MPR_TEST_FAKE_HOST_H
#define MPR_TEST_FAKE_HOST_H

#include "streamit/plugin.h"

struct fake_metric {
    int type;
    const char *name, *labels, *help;
    double value;
    const struct sti_histogram *histogram;
};

struct fake_condition {
    const char *instance, *condition;
    int level;
    const char *detail;
};

extern struct fake {
    struct sti_host host;
    struct sti_node node;
    _Atomic int state;
    const struct fake_metric *metrics; /* ended by a null name */
    const struct fake_condition *conditions;
    struct sti_metric counter; /* what host->metric hands out, always the same */
    char announced[128];
} fake;

void fake_reset(void);

#endif /* MPR_TEST_FAKE_HOST_H */
