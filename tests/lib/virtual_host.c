/* virtual_host.c -- see virtual_host.h. */
#include "virtual_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INSTANCES_MAX = 16, BEGIN_US = 1000000 };

/* What is to run, in order: a posted task is due at once. */
struct item {
    struct item *next;
    struct sti_task *task;
    uint64_t due_us;
};

struct virtual_host {
    uint64_t now_us, random;
    struct item *items;
    struct instance {
        struct virtual_host *vh;
        struct sti_host host;
        struct sti_node node;
        char name[64], cluster_id[64];
    } instances[INSTANCES_MAX];
    unsigned instance_count;
};

static struct virtual_host *host_of(void *ctx)
{
    return ((struct instance *)ctx)->vh;
}

static void put(struct virtual_host *vh, struct sti_task *task, uint64_t due_us)
{
    struct item *item = malloc(sizeof *item), **at = &vh->items;
    if (item == NULL) {
        abort();
    }
    while (*at != NULL && (*at)->due_us <= due_us) {
        at = &(*at)->next;
    }
    *item = (struct item){.next = *at, .task = task, .due_us = due_us};
    *at = item;
}

static void on_log(void *ctx, int level, const char *event, const char *msg,
                   const struct sti_field *const *fields)
{
    (void)ctx;
    (void)fields;
    if (getenv("STREAMIT_TEST_LOG") != NULL) {
        fprintf(stderr, "%d %s: %s\n", level, event, msg);
    }
}

static uint64_t on_clock(void *ctx, int clock_id)
{
    (void)clock_id;
    return host_of(ctx)->now_us;
}

static void on_random(void *ctx, void *buf, size_t len)
{
    struct virtual_host *vh = host_of(ctx);
    for (size_t i = 0; i < len; i++) {
        vh->random = vh->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ((uint8_t *)buf)[i] = (uint8_t)(vh->random >> 56);
    }
}

static void on_post(void *ctx, struct sti_task *task)
{
    put(host_of(ctx), task, host_of(ctx)->now_us);
}

static void on_timer_arm(void *ctx, struct sti_timer *timer, uint64_t due_us)
{
    struct virtual_host *vh = host_of(ctx);
    timer->due_us = due_us;
    put(vh, &timer->task, due_us > vh->now_us ? due_us : vh->now_us);
}

static bool on_timer_cancel(void *ctx, struct sti_timer *timer)
{
    struct item **at = &host_of(ctx)->items;
    while (*at != NULL && (*at)->task != &timer->task) {
        at = &(*at)->next;
    }
    struct item *item = *at;
    if (item == NULL) {
        return false;
    }
    *at = item->next;
    free(item);
    return true;
}

static struct sti_metric *on_metric(void *ctx, int type, const char *name, const char *labels,
                                    const char *help)
{
    (void)ctx;
    (void)type;
    (void)name;
    (void)labels;
    (void)help;
    return NULL;
}

static struct sti_histogram *on_histogram(void *ctx, const char *name, const char *labels,
                                          const char *help)
{
    (void)ctx;
    (void)name;
    (void)labels;
    (void)help;
    return NULL;
}

struct virtual_host *virtual_host_new(uint64_t seed)
{
    struct virtual_host *vh = calloc(1, sizeof *vh);
    if (vh == NULL) {
        abort();
    }
    vh->now_us = BEGIN_US;
    vh->random = seed;
    return vh;
}

void virtual_host_free(struct virtual_host *vh)
{
    while (vh->items != NULL) {
        struct item *next = vh->items->next;
        free(vh->items);
        vh->items = next;
    }
    free(vh);
}

const struct sti_host *virtual_host_for(struct virtual_host *vh, const char *instance,
                                        int32_t node_id, const char *cluster_id)
{
    if (vh->instance_count == INSTANCES_MAX) {
        abort();
    }
    struct instance *in = &vh->instances[vh->instance_count++];
    in->vh = vh;
    (void)snprintf(in->name, sizeof in->name, "%s", instance);
    (void)snprintf(in->cluster_id, sizeof in->cluster_id, "%s", cluster_id);
    in->node = (struct sti_node){.struct_size = sizeof in->node,
                                 .node_id = node_id,
                                 .version = "0",
                                 .data_dir = "/nonexistent",
                                 .cluster_id = in->cluster_id,
                                 .commit = ""};
    in->host = (struct sti_host){.struct_size = sizeof in->host,
                                 .abi_major = STI_ABI_MAJOR,
                                 .abi_minor = STI_ABI_MINOR,
                                 .ctx = in,
                                 .instance = in->name,
                                 .node = &in->node,
                                 .log = on_log,
                                 .clock_us = on_clock,
                                 .random = on_random,
                                 .post = on_post,
                                 .timer_arm = on_timer_arm,
                                 .timer_cancel = on_timer_cancel,
                                 .metric = on_metric,
                                 .histogram = on_histogram};
    return &in->host;
}

uint64_t virtual_host_now_us(const struct virtual_host *vh)
{
    return vh->now_us;
}

void virtual_host_run(struct virtual_host *vh, uint64_t us)
{
    uint64_t until_us = vh->now_us + us;
    while (vh->items != NULL && vh->items->due_us <= until_us) {
        struct item *item = vh->items;
        struct sti_task *task = item->task;
        vh->items = item->next;
        vh->now_us = item->due_us > vh->now_us ? item->due_us : vh->now_us;
        free(item);
        task->run(task);
    }
    if (vh->items != NULL) {
        vh->now_us = until_us;
    }
}
