/* anew.c -- logs that begin anew at every start, and the epochs that tell so.
 *
 * A storage that is not durable is empty after a restart, and its offsets begin at 0 again: offset
 * 500 of today is not the record that offset 500 was yesterday. What tells them apart is the leader
 * epoch. So before any partition serves, the node commits one command by which the epochs of all
 * its topics on such storage grow by one; a caller that still bears the old epoch is refused.
 *
 * If the command cannot be committed (a full disk), the node serves all the same: only the topics
 * in question stay offline, with the reason.
 *
 * @thread main, inside start, before the partitions are opened
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"

enum { IDS_MAX = 1000 }; /* of one command */

struct anew {
    struct sti_proposal proposal; /* first */
    pthread_mutex_t mu;
    pthread_cond_t answered;
    bool done;
    int status;
    struct sti_err err;
};

static void anew_done(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    struct anew *anew = BRK_CONTAINER_OF(proposal, struct anew, proposal);
    pthread_mutex_lock(&anew->mu);
    anew->status = status;
    if (status != STI_OK && err != NULL) {
        anew->err = *err;
    }
    anew->done = true;
    pthread_cond_signal(&anew->answered);
    pthread_mutex_unlock(&anew->mu);
}

/* Commit one command, and wait for it. */
static int commit(struct broker *broker, const uint8_t *const *ids, uint32_t count,
                  struct sti_err *err)
{
    struct anew anew = {.mu = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER};
    size_t len = 0;
    uint8_t *command = cat_encode_raise(ids, count, broker->host->node->node_id, &len);
    if (command == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    anew.proposal = (struct sti_proposal){
        .struct_size = sizeof anew.proposal, .command = command, .len = len, .done = anew_done};
    int rc =
        sti_metadata_of(&broker->metadata)->propose(broker->metadata.self, &anew.proposal, err);
    if (rc == STI_OK) {
        pthread_mutex_lock(&anew.mu);
        while (!anew.done) {
            pthread_cond_wait(&anew.answered, &anew.mu);
        }
        pthread_mutex_unlock(&anew.mu);
        rc = anew.status;
        if (rc != STI_OK) {
            sti_err_set(err, rc, "%.200s",
                        anew.err.msg[0] == '\0' ? sti_status_text(rc) : anew.err.msg);
        }
    }
    pthread_mutex_destroy(&anew.mu);
    pthread_cond_destroy(&anew.answered);
    free(command);
    return rc;
}

/* Does the topic lie on an instance that is there and forgets? */
static bool begins_anew(struct broker *broker, const struct cat_topic *topic)
{
    const struct sti_host *host = broker->host;
    struct set_values values;
    struct sti_binding binding;
    if (topic->deleted) {
        return false;
    }
    set_resolve(&broker->conf->defaults, topic->settings, topic->setting_count, &values);
    return host->bind(host->ctx, STI_STORAGE_ID, values.storage, STI_STORAGE_MAJOR,
                      BRK_STORAGE_MINOR_LEAST, &binding, NULL) == STI_OK &&
           (binding.vtable->caps & STI_STORAGE_DURABLE) == 0;
}

/* The ids of the topics that begin anew: malloc'ed rows that point into the catalogue.
 * @locks admin_mu held; the rows stay valid while nothing is applied but what this file proposes */
static const uint8_t **find_topics(struct broker *broker, uint32_t *count)
{
    const uint8_t **ids = calloc(broker->catalog.topic_count + 1u, sizeof *ids);
    *count = 0;
    for (struct cat_topic *cat = broker->catalog.topics; ids != NULL && cat != NULL;
         cat = cat->next) {
        if (begins_anew(broker, cat) && *count < broker->catalog.topic_count) {
            ids[(*count)++] = cat->id;
        }
    }
    return ids;
}

void brk_anew(struct broker *broker)
{
    struct sti_err *err = &broker->anew;
    uint32_t count = 0;
    int rc = STI_OK;
    sti_err_clear(err);
    pthread_mutex_lock(&broker->admin_mu);
    const uint8_t **ids = find_topics(broker, &count);
    pthread_mutex_unlock(&broker->admin_mu);
    if (ids == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < count && rc == STI_OK; i += IDS_MAX) {
        rc = commit(broker, ids + i, count - i < IDS_MAX ? count - i : IDS_MAX, err);
    }
    free(ids);
    if (rc != STI_OK) {
        err->code = rc;
        sti_log(broker->host, STI_LOG_ERROR, "epochs_not_raised", err->msg,
                STI_F_UINT("topics", count), STI_F_STR("code", sti_status_name(rc)));
    } else if (count > 0) {
        sti_log(broker->host, STI_LOG_INFO, "epochs_raised",
                "topics on storage that forgets begin anew", STI_F_UINT("topics", count));
    }
}
