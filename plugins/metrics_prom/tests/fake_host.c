/* fake_host.c -- see fake_host.h. */
#include "fake_host.h"

struct fake fake;

static struct sti_metric *fake_metric(void *ctx, int type, const char *name, const char *labels,
                                      const char *help)
{
    (void)ctx;
    (void)type;
    (void)name;
    (void)labels;
    (void)help;
    return &fake.counter;
}

static void fake_announce(void *ctx, const char *address)
{
    (void)ctx;
    (void)snprintf(fake.announced, sizeof fake.announced, "%s", address);
}

static uint64_t fake_clock_us(void *ctx, int clock_id)
{
    (void)ctx;
    (void)clock_id;
    return 1500000;
}

static int fake_node_state(void *ctx)
{
    (void)ctx;
    return fake.state;
}

static void fake_metrics_visit(void *ctx, const struct sti_metrics_visitor *visitor, void *arg)
{
    (void)ctx;
    for (const struct fake_metric *m = fake.metrics; m != NULL && m->name != NULL; m++) {
        if (m->type == STI_METRIC_HISTOGRAM) {
            struct sti_histogram_totals totals = {0};
            for (unsigned i = 0; i < STI_METRIC_SHARDS; i++) {
                totals.sum += m->histogram->cells[i].sum;
                for (unsigned b = 0; b < STI_HISTOGRAM_BUCKETS; b++) {
                    totals.buckets[b] += m->histogram->cells[i].buckets[b];
                    totals.count += m->histogram->cells[i].buckets[b];
                }
            }
            visitor->histogram(arg, m->name, m->labels, m->help, &totals);
        } else {
            visitor->value(arg, m->type, m->name, m->labels, m->help, m->value);
        }
    }
}

static void fake_health_visit(void *ctx,
                              void (*visit)(void *arg, const char *instance, const char *condition,
                                            int level, const char *detail),
                              void *arg)
{
    (void)ctx;
    for (const struct fake_condition *c = fake.conditions; c != NULL && c->instance != NULL; c++) {
        visit(arg, c->instance, c->condition, c->level, c->detail);
    }
}

void fake_reset(void)
{
    memset(&fake, 0, sizeof fake);
    fake.node = (struct sti_node){.struct_size = sizeof(struct sti_node),
                                  .node_id = 7,
                                  .version = "1.2.3",
                                  .data_dir = "/nowhere",
                                  .cluster_id = "0123456789abcdef0123456789abcdef",
                                  .commit = "0123456789ab"};
    fake.state = STI_NODE_READY;
    fake.host = (struct sti_host){.struct_size = sizeof(struct sti_host),
                                  .abi_major = STI_ABI_MAJOR,
                                  .abi_minor = STI_ABI_MINOR,
                                  .instance = "metrics_prom",
                                  .node = &fake.node,
                                  .clock_us = fake_clock_us,
                                  .metric = fake_metric,
                                  .announce = fake_announce,
                                  .node_state = fake_node_state,
                                  .metrics_visit = fake_metrics_visit,
                                  .health_visit = fake_health_visit};
}
