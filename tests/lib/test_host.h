/* test_host.h -- a small stand-in for the kernel, so that plugins and broker can be tested alone.
 *
 * Threads, strands and timers are the kernel's own executor. Metrics are kept in a list that nobody
 * exports; logs go to stderr when STREAMIT_TEST_LOG is set. Interfaces are found among those that
 * the test registered.
 */
#ifndef STREAMIT_TEST_HOST_H
#define STREAMIT_TEST_HOST_H

#include "streamit/plugin.h"

struct test_host;

/* @param data_dir  the node's data folder; the test owns it. Ends the program on failure. */
struct test_host *test_host_new(const char *data_dir, uint32_t threads_max);
/* Runs what is queued, then frees. */
void test_host_free(struct test_host *th);
/* The services, as an instance of that name sees them. Valid until test_host_free. */
const struct sti_host *test_host_for(struct test_host *th, const char *instance);
/* Make an interface known to bind and each. */
void test_host_provide(struct test_host *th, const char *instance, const struct sti_iface *vtable,
                       void *self);
/* Sum of a metric's shards, 0 when nobody made it. labels NULL: without. */
uint64_t test_host_metric(struct test_host *th, const char *name, const char *labels);
/* How many values a histogram holds, 0 when nobody made it. */
uint64_t test_host_histogram(struct test_host *th, const char *name, const char *labels);
/* Run the collectors, on a node that nobody is stopping meanwhile. */
void test_host_collect(struct test_host *th, const struct sti_metrics_visitor *visitor, void *arg);
/* How often an event was logged. */
unsigned test_host_logged(struct test_host *th, const char *event);
/* Post a task that wakes the caller, on a strand or (NULL) the executor, and wait for it. */
void test_host_settle(struct test_host *th, struct sti_strand *strand);

/* A new empty folder under $TMPDIR or /tmp; removed with everything in it by test_dir_remove. */
char *test_dir_new(const char *stem);
void test_dir_remove(char *path);

#endif /* STREAMIT_TEST_HOST_H */
