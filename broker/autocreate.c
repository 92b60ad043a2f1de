/* autocreate.c -- topics that are made because somebody wants to write to them.
 *
 * With broker.auto_create_topics a produce row, or a question for a leader, that names a topic
 * which is not there starts its creation with the node's defaults, and is answered UNAVAILABLE with
 * retry_after_ms: nothing was done, and the next try finds the topic. So nobody waits in here, rows
 * of one connection keep their order, and a wire needs nothing for it. Describing, listing,
 * fetching and looking at offsets never make a topic: looking must not leave anything behind.
 *
 * One creation for all who ask at the same time: an entry in broker->autos for each name. What
 * bounds topics and partitions bounds these too, and so many are made at a time as
 * broker.auto_create_parallel says. Names that begin with two underscores are internal by custom
 * and are never made on demand.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/admin.h"

/* A creation under way: one reference of its call, one of whoever started it. */
struct brk_auto {
    struct sti_topic_change call;
    struct brk_auto *next; /* @locks admin_mu */
    struct broker *broker;
    uint32_t refs; /* @locks admin_mu */
    bool answered; /* @locks admin_mu */
    char name[STI_TOPIC_NAME_MAX + 1];
};

static struct brk_auto *auto_find(struct broker *broker, const char *name)
{
    struct brk_auto *at = broker->autos;
    while (at != NULL && strcmp(at->name, name) != 0) {
        at = at->next;
    }
    return at;
}

/* @locks admin_mu held; not by whom frees it */
static bool auto_unref(struct brk_auto *entry)
{
    return --entry->refs == 0;
}

static void auto_done(struct sti_topic_change *call)
{
    struct brk_auto *entry = call->user;
    struct broker *broker = entry->broker;
    if (call->status == STI_OK) {
        sti_metric_add(broker->metrics.auto_created, 1);
        sti_log(broker->host, STI_LOG_INFO, "topic_auto_created",
                "a topic has been made, since somebody asked for it",
                STI_F_STR("topic", entry->name), STI_F_INT("partitions", call->partition_count));
    } else if (call->status != STI_E_ALREADY_EXISTS) {
        sti_log(broker->host, STI_LOG_WARN, "topic_auto_create_failed", call->err.msg,
                STI_F_STR("topic", entry->name), STI_F_STR("code", sti_status_name(call->status)));
    }
    pthread_mutex_lock(&broker->admin_mu);
    for (struct brk_auto **at = &broker->autos; *at != NULL; at = &(*at)->next) {
        if (*at == entry) {
            *at = entry->next;
            broker->auto_count--;
            break;
        }
    }
    entry->answered = true;
    bool last = auto_unref(entry);
    pthread_mutex_unlock(&broker->admin_mu);
    if (last) {
        free(entry);
    }
}

/* An entry for the name, or NULL with *rc: somebody is at it already, or there are too many. */
static struct brk_auto *auto_begin(struct broker *broker, const char *name, int *rc,
                                   struct sti_err *err)
{
    struct brk_auto *entry = NULL;
    pthread_mutex_lock(&broker->admin_mu);
    if (auto_find(broker, name) != NULL || cat_find(&broker->catalog, name) != NULL) {
        *rc = sti_err_set(err, STI_E_UNAVAILABLE, "topic %s is being created; try again", name);
    } else if (broker->auto_count >= broker->conf->auto_create_parallel) {
        *rc = sti_err_set(err, STI_E_UNAVAILABLE,
                          "topic %s: %lld topics are being created at the moment, as many as "
                          "broker.auto_create_parallel allows; try again",
                          name, (long long)broker->auto_count);
    } else if ((entry = calloc(1, sizeof *entry)) == NULL) {
        *rc = sti_err_set(err, STI_E_NO_MEMORY, "topic %s: out of memory", name);
    } else {
        entry->refs = 2;
        entry->broker = broker;
        memcpy(entry->name, name, strlen(name) + 1);
        entry->call = (struct sti_topic_change){.struct_size = sizeof entry->call,
                                                .partitions = -1,
                                                .replication = -1,
                                                .name = entry->name,
                                                .done = auto_done,
                                                .user = entry};
        entry->next = broker->autos;
        broker->autos = entry;
        broker->auto_count++;
    }
    pthread_mutex_unlock(&broker->admin_mu);
    return entry;
}

int brk_auto_create(struct broker *broker, const struct sti_request *request, const char *name,
                    struct sti_err *err)
{
    int rc;
    if (!broker->conf->auto_create_topics || brk_serving(broker, NULL) != STI_OK) {
        return STI_E_UNKNOWN_TOPIC;
    }
    rc = brk_topic_name_check(name, err);
    if (rc == STI_OK && strncmp(name, "__", 2) == 0) {
        return sti_err_set(err, STI_E_UNKNOWN_TOPIC,
                           "topic %s does not exist, and internal names are never created on "
                           "demand",
                           name);
    }
    if (rc == STI_OK) {
        rc = brk_authorize(broker, request, STI_OP_CREATE, name, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    struct brk_auto *entry = auto_begin(broker, name, &rc, err);
    if (entry == NULL) {
        return rc;
    }
    if (request != NULL) {
        sti_log(broker->host, STI_LOG_INFO, "topic_auto_create",
                "somebody asks for a topic that is not there; it is being made",
                STI_F_STR("topic", name), STI_F_STR("principal", request->principal),
                STI_F_STR("client_id", request->client_id), STI_F_STR("peer", request->peer),
                STI_F_STR("trace_id", request->trace_id));
    }
    brk_topic_create(broker, &entry->call);
    rc = sti_err_set(err, STI_E_UNAVAILABLE, "topic %s is being created; try again", name);
    pthread_mutex_lock(&broker->admin_mu);
    if (entry->answered && entry->call.status != STI_OK &&
        entry->call.status != STI_E_ALREADY_EXISTS) {
        rc = entry->call.status;
        if (err != NULL) {
            *err = entry->call.err;
        }
    }
    bool last = auto_unref(entry);
    pthread_mutex_unlock(&broker->admin_mu);
    if (last) {
        free(entry);
    }
    return rc;
}
