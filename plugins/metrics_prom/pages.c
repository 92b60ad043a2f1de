/* pages.c -- see pages.h. */
#include "pages.h"

#include <stdio.h>
#include <string.h>

#include "exposition.h"

static const char type_text[] = "text/plain; charset=utf-8";
static const char type_json[] = "application/json";
static const char type_metrics[] = "text/plain; version=0.0.4; charset=utf-8";

static void page_metrics(struct mpr_page *page, const struct sti_host *host)
{
    page->content_type = type_metrics;
    mpr_exposition(&page->body, host);
}

/* Alive is whoever can answer; a wedged node shows by no answer. */
static void page_live(struct mpr_page *page, const struct sti_host *host)
{
    (void)host;
    page->content_type = type_text;
    mpr_text_str(&page->body, "live\n");
}

static const char *state_name(int state)
{
    switch (state) {
    case STI_NODE_STARTING:
        return "starting";
    case STI_NODE_READY:
        return "ready";
    case STI_NODE_DRAINING:
        return "draining";
    default:
        return "stopped";
    }
}

static const char *level_name(int level)
{
    switch (level) {
    case STI_HEALTH_OK:
        return "ok";
    case STI_HEALTH_DEGRADED:
        return "degraded";
    default:
        return "not_ready";
    }
}

/* The conditions as a JSON list, and the worst of them. */
struct conditions {
    struct mpr_text list;
    unsigned count;
    int worst;
};

static void visit_condition(void *arg, const char *instance, const char *condition, int level,
                            const char *detail)
{
    struct conditions *conditions = arg;
    struct mpr_text *list = &conditions->list;
    if (level == STI_HEALTH_OK) {
        return;
    }
    mpr_text_str(list, conditions->count++ > 0 ? ",{\"instance\":" : "{\"instance\":");
    mpr_text_json(list, instance);
    mpr_text_str(list, ",\"condition\":");
    mpr_text_json(list, condition);
    mpr_text_str(list, ",\"level\":");
    mpr_text_json(list, level_name(level));
    mpr_text_str(list, ",\"detail\":");
    mpr_text_json(list, detail);
    mpr_text_str(list, "}");
    if (level > conditions->worst) {
        conditions->worst = level;
    }
}

static void page_ready(struct mpr_page *page, const struct sti_host *host)
{
    struct conditions conditions = {0};
    int state = host->node_state(host->ctx);
    host->health_visit(host->ctx, visit_condition, &conditions);
    bool ready = state == STI_NODE_READY && conditions.worst < STI_HEALTH_NOT_READY;
    const char *status = !ready                              ? "not_ready"
                         : conditions.worst == STI_HEALTH_OK ? "ready"
                                                             : "degraded";
    page->status = ready ? 200 : 503;
    page->content_type = type_json;
    MPR_TEXT_JOIN(&page->body, "{\"status\":\"", status, "\",\"state\":\"", state_name(state),
                  "\",\"conditions\":[");
    if (conditions.list.len > 0) {
        mpr_text_put(&page->body, conditions.list.data, conditions.list.len);
    }
    mpr_text_str(&page->body, "]}\n");
    page->body.failed = page->body.failed || conditions.list.failed;
    mpr_text_fini(&conditions.list);
}

static void page_version(struct mpr_page *page, const struct sti_host *host)
{
    char abi_and_node[64], uptime[64];
    uint64_t up_us = host->clock_us(host->ctx, STI_CLOCK_MONOTONIC) - host->node->started_us;
    page->content_type = type_json;
    mpr_text_str(&page->body, "{\"name\":\"streamit\",\"version\":");
    mpr_text_json(&page->body, host->node->version);
    mpr_text_str(&page->body, ",\"commit\":");
    mpr_text_json(&page->body, host->node->commit);
    (void)snprintf(abi_and_node, sizeof abi_and_node, ",\"abi\":\"%u.%u\",\"node_id\":%d",
                   host->abi_major, host->abi_minor, host->node->node_id);
    MPR_TEXT_JOIN(&page->body, abi_and_node, ",\"cluster_id\":");
    mpr_text_json(&page->body, host->node->cluster_id);
    (void)snprintf(uptime, sizeof uptime, ",\"uptime_seconds\":%.3f}\n", (double)up_us / 1e6);
    mpr_text_str(&page->body, uptime);
}

static const struct {
    const char *path;
    void (*make)(struct mpr_page *page, const struct sti_host *host);
} routes[] = {{"/metrics", page_metrics},
              {"/live", page_live},
              {"/ready", page_ready},
              {"/version", page_version}};

static const char hint[] = "This server knows /metrics, /live, /ready and /version.\n";

void mpr_page_make(struct mpr_page *page, const struct sti_host *host, const char *method,
                   const char *path)
{
    size_t i = 0;
    *page = (struct mpr_page){.status = 200, .content_type = type_text};
    while (i < sizeof routes / sizeof routes[0] && strcmp(path, routes[i].path) != 0) {
        i++;
    }
    if (i == sizeof routes / sizeof routes[0]) {
        page->status = 404;
        mpr_text_str(&page->body, "There is nothing here. ");
        mpr_text_str(&page->body, hint);
    } else if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        page->status = 405;
        page->allow = "GET, HEAD";
        mpr_text_str(&page->body, "Only GET and HEAD are answered.\n");
    } else {
        routes[i].make(page, host);
    }
    if (page->body.failed) {
        page->status = 500;
        mpr_text_fini(&page->body);
    }
}
