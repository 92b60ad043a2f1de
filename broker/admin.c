/* admin.c -- creating, altering and deleting topics.
 *
 *     check -> propose -> committed and applied -> partitions open (or close) -> TopicCreated
 * (TopicPurged) committed -> answer
 *
 * Checks here give early, well-worded refusals; those that matter for the state are made again when
 * the command is applied. An answer means that this node serves the change. If a partition cannot
 * be opened the topic exists nevertheless, and the answer says which partition failed and why.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/admin.h"
#include "streamit/fault.h"

/* A change under way: a caller's, or with call NULL the broker's own mark. */
struct brk_change {
    struct sti_proposal proposal;
    struct brk_change *next; /* in topic->waiting */
    struct broker *broker;
    struct sti_topic_change *call;
    struct brk_change *waiting; /* of a mark: who is answered after it */
    struct sti_err failure;
    uint8_t *command;
    uint8_t id[16];
    bool deletion;
    struct brk_change *kept_next;                     /* in broker->kept: @locks admin_mu */
    int32_t kept_topics, kept_partitions, kept_until; /* kept_until: partitions of the topic then */
    bool committed, purged; /* of a deletion: answered when both. @locks admin_mu */
};

/* ---- answering ----------------------------------------------------------------------------- */

/* What a change was granted is no longer kept for it. @locks admin_mu held */
static void kept_release(struct broker *broker, struct brk_change *change)
{
    for (struct brk_change **at = &broker->kept; *at != NULL; at = &(*at)->kept_next) {
        if (*at == change) {
            *at = change->kept_next;
            broker->kept_topics -= change->kept_topics;
            broker->kept_partitions -= change->kept_partitions;
            break;
        }
    }
}

void brk_change_applied(struct broker *broker, const struct cat_topic *topic)
{
    struct brk_change *next;
    for (struct brk_change *change = broker->kept; change != NULL; change = next) {
        next = change->kept_next;
        if (memcmp(change->id, topic->id, sizeof change->id) == 0 &&
            topic->partition_count >= change->kept_until) {
            kept_release(broker, change);
        }
    }
}

static void change_free(struct brk_change *change)
{
    free(change->command);
    free(change);
}

/* state[0]: the broker, state[1]: the operation */
static void call_answer(struct sti_topic_change *call, int status, const struct sti_err *err)
{
    call->status = status;
    if (status != STI_OK && err != NULL) {
        call->err = *err;
    }
    if (status == STI_E_UNAVAILABLE) {
        call->retry_after_ms = BRK_RETRY_AFTER_MS;
    }
    brk_audit(call->state[0], call, (int)(intptr_t)call->state[1], status, err);
    call->done(call);
}

static void waiting_answer(struct brk_change *waiting, const struct sti_err *failure)
{
    while (waiting != NULL) {
        struct brk_change *next = waiting->next;
        call_answer(waiting->call, failure->code, failure);
        change_free(waiting);
        waiting = next;
    }
}

/* Files and name of a deleted topic are gone, or could not be: answer the calls that deleted it. */
static void deletions_answer(struct broker *broker, const uint8_t id[16],
                             const struct sti_err *failure)
{
    struct brk_change *ready = NULL;
    pthread_mutex_lock(&broker->admin_mu);
    for (struct brk_change **at = &broker->deletions; *at != NULL;) {
        struct brk_change *change = *at;
        if (memcmp(change->id, id, sizeof change->id) != 0) {
            at = &change->next;
            continue;
        }
        change->purged = true;
        change->failure = *failure;
        if (change->committed) {
            *at = change->next;
            change->next = ready;
            ready = change;
        } else {
            at = &change->next;
        }
    }
    pthread_mutex_unlock(&broker->admin_mu);
    while (ready != NULL) {
        struct brk_change *next = ready->next;
        call_answer(ready->call, ready->failure.code, &ready->failure);
        change_free(ready);
        ready = next;
    }
}

/* @locks admin_mu held */
static void deletion_unlink(struct broker *broker, struct brk_change *change)
{
    for (struct brk_change **at = &broker->deletions; *at != NULL; at = &(*at)->next) {
        if (*at == change) {
            *at = change->next;
            break;
        }
    }
}

/* The deletion was committed (or not); its answer waits for the purge. @thread metadata's */
static void deletion_done(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    struct brk_change *change = BRK_CONTAINER_OF(proposal, struct brk_change, proposal);
    struct broker *broker = change->broker;
    pthread_mutex_lock(&broker->admin_mu);
    change->committed = true;
    bool answer = status != STI_OK || change->purged;
    if (answer) {
        deletion_unlink(broker, change);
    }
    pthread_mutex_unlock(&broker->admin_mu);
    if (status != STI_OK) {
        call_answer(change->call, status, err);
        change_free(change);
    } else if (answer) {
        call_answer(change->call, change->failure.code, &change->failure);
        change_free(change);
    }
}

static void mark_done(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    struct brk_change *mark = BRK_CONTAINER_OF(proposal, struct brk_change, proposal);
    if (status != STI_OK) {
        sti_log(mark->broker->host, STI_LOG_WARN, "topic_mark_failed",
                err == NULL ? sti_status_text(status) : err->msg,
                STI_F_STR("code", sti_status_name(status)));
    }
    STI_CRASH_POINT("topics.after_mark");
    /* The change itself is committed and served: that the mark is missing only costs a check at the
     * next start. */
    waiting_answer(mark->waiting, &mark->failure);
    if (mark->deletion) {
        deletions_answer(mark->broker, mark->id, &mark->failure);
    }
    change_free(mark);
}

void brk_change_settled(struct brk_topic *topic, struct brk_change *waiting, bool mark, bool gone,
                        int32_t partitions, const struct sti_err *failure)
{
    struct broker *broker = topic->broker;
    const struct sti_metadata *vt = sti_metadata_of(&broker->metadata);
    struct brk_change *change = mark ? calloc(1, sizeof *change) : NULL;
    size_t len = 0;
    STI_CRASH_POINT("topics.before_mark");
    if (change != NULL) {
        change->broker = broker;
        change->waiting = waiting;
        change->failure = *failure;
        change->deletion = gone;
        memcpy(change->id, topic->id, sizeof change->id);
        change->command = gone ? cat_encode_purged(topic->id, &len)
                               : cat_encode_created(topic->id, partitions, &len);
        change->proposal = (struct sti_proposal){.struct_size = sizeof change->proposal,
                                                 .flags = STI_PROPOSAL_FREES_SPACE, /* or tiny */
                                                 .command = change->command,
                                                 .len = len,
                                                 .done = mark_done};
        if (change->command != NULL &&
            vt->propose(broker->metadata.self, &change->proposal, NULL) == STI_OK) {
            return;
        }
        change_free(change);
    }
    waiting_answer(waiting, failure); /* from here on somebody may delete the topic */
    if (gone) {
        deletions_answer(broker, topic->id, failure);
    }
}

void brk_partition_adopt(struct brk_partition *part)
{
    brk_partition_ref(part);
    atomic_fetch_add_explicit(&part->owner->refs, 1, memory_order_relaxed);
}

/* The command was applied (or not). @thread metadata's */
static void change_done(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    struct brk_change *change = BRK_CONTAINER_OF(proposal, struct brk_change, proposal);
    struct broker *broker = change->broker;
    struct sti_topic_change *call = change->call;
    struct sti_err failure;
    sti_err_clear(&failure);
    pthread_mutex_lock(&broker->admin_mu);
    kept_release(broker, change); /* of one that was not applied */
    if (status != STI_OK) {
        pthread_mutex_unlock(&broker->admin_mu);
        call_answer(call, status, err);
        change_free(change);
        return;
    }
    bool waits = false;
    struct cat_topic *cat = cat_find_id(&broker->catalog, change->id);
    if (cat != NULL) {
        call->partition_count = cat->partition_count;
        call->replication_factor = cat->replication;
        memcpy(call->topic_id, cat->id, sizeof call->topic_id);
        struct brk_topic *topic = brk_topic_get(broker, cat->name);
        if (topic != NULL && topic->under_way > 0) {
            change->next = topic->waiting;
            topic->waiting = change;
            waits = true;
            for (int32_t i = 0; i < topic->partition_count; i++) {
                brk_opening_touch(topic->partitions[i]); /* those that a start has left */
            }
        } else if (topic != NULL) {
            failure = topic->first_failure;
        }
        brk_topic_unref(topic);
    }
    pthread_mutex_unlock(&broker->admin_mu);
    if (!waits) {
        call_answer(call, failure.code, &failure);
        change_free(change);
    }
}

/* ---- checks -------------------------------------------------------------------------------- */

/* Kafka's internal topics, which a node makes by itself if at all. */
static const char *const reserved_names[] = {"__consumer_offsets", "__transaction_state",
                                             "__cluster_metadata", NULL};

int brk_topic_name_check(const char *name, struct sti_err *err)
{
    size_t len = strlen(name);
    if (len == 0 || len > STI_TOPIC_NAME_MAX) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "a topic name has 1 to %u characters, this one %zu", STI_TOPIC_NAME_MAX,
                           len);
    }
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "a topic cannot be named \"%s\"", name);
    }
    size_t good = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (good != len) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "topic name \"%.100s\": character %zu is none of letters, digits, dot, "
                           "underscore and hyphen",
                           name, good + 1);
    }
    return STI_OK;
}

struct find_storage {
    const char *name;
    const struct sti_storage *vt;
    char known[160];
};

static void find_storage_visit(void *arg, const struct sti_binding *binding)
{
    struct find_storage *find = arg;
    size_t len = strlen(find->known);
    if (strcmp(binding->name, find->name) == 0) {
        find->vt = sti_storage_of(binding);
    }
    snprintf(find->known + len, sizeof find->known - len, "%s%s", len == 0 ? "" : ", ",
             binding->name);
}

int brk_topic_storage_check(const struct sti_host *host, const struct set_values *values,
                            struct sti_err *err)
{
    struct find_storage find = {.name = values->storage};
    host->each(host->ctx, STI_STORAGE_ID, find_storage_visit, &find);
    if (find.vt == NULL) {
        return sti_err_set(err, STI_E_NOT_FOUND, "no storage instance \"%s\"; this node has %s",
                           values->storage, find.known[0] == '\0' ? "none" : find.known);
    }
    if (values->flush_policy != STI_FLUSH_ONROLL &&
        (find.vt->iface.caps & STI_STORAGE_DURABLE) == 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "flush.policy=%s: storage %s is not durable and never syncs; use onroll",
                           set_flush_policies[values->flush_policy], values->storage);
    }
    return STI_OK;
}

static int reserved_check(const char *name, struct sti_err *err)
{
    for (size_t i = 0; reserved_names[i] != NULL; i++) {
        if (strcmp(name, reserved_names[i]) == 0) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                               "topic name \"%s\" is reserved for the node itself", name);
        }
    }
    return STI_OK;
}

int brk_topic_settings_check(const struct sti_topic_change *call, bool alter, struct sti_err *err)
{
    for (uint32_t i = 0; i < call->config_count; i++) {
        const struct sti_config_entry *entry = call->config[i];
        int rc = entry->value == NULL ? set_known(entry->key, err)
                                      : set_check(entry->key, entry->value, err);
        if (rc != STI_OK) {
            return rc;
        }
        if (entry->value == NULL && !alter) {
            return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%.80s: a value is missing",
                               entry->key);
        }
        if (alter && strcmp(entry->key, "storage") == 0) {
            return sti_err_set(
                err, STI_E_UNSUPPORTED,
                "storage cannot be altered: a topic stays on the instance that it was "
                "created on");
        }
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(call->config[j]->key, entry->key) == 0) {
                return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%.80s is given twice", entry->key);
            }
        }
    }
    return STI_OK;
}

/* Overrides as rows; *out is malloc'ed, its strings are borrowed from the call. */
static int settings_rows(const struct sti_topic_change *call, struct cat_setting **out,
                         struct sti_err *err)
{
    *out = calloc(call->config_count + 1u, sizeof **out);
    if (*out == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < call->config_count; i++) {
        (*out)[i].key = (char *)(uintptr_t)call->config[i]->key;
        (*out)[i].value = (char *)(uintptr_t)call->config[i]->value;
    }
    return STI_OK;
}

/* Do so many partitions more fit, with what others were granted that is not in the catalogue yet?
 * @locks admin_mu held */
static int limits_check(struct broker *broker, const char *name, int32_t partitions, int32_t more,
                        bool new_topic, struct sti_err *err)
{
    const struct brk_conf *conf = broker->conf;
    int64_t there = (int64_t)broker->catalog.partition_count + broker->kept_partitions;
    int64_t topics = (int64_t)broker->catalog.topic_count + broker->kept_topics;
    if (partitions > conf->partitions_per_topic_max) {
        sti_metric_add(broker->metrics.refused_topic_partitions, 1);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "topic %s: %d partitions exceed broker.partitions_per_topic_max = %lld",
                           name, partitions, (long long)conf->partitions_per_topic_max);
    }
    if (more > conf->partitions_max - there) {
        sti_metric_add(broker->metrics.refused_partitions, 1);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "topic %s: %d more partitions would pass broker.partitions_max = %lld "
                           "(%lld are there)",
                           name, more, (long long)conf->partitions_max, (long long)there);
    }
    if (new_topic && topics >= conf->topics_max) {
        sti_metric_add(broker->metrics.refused_topics, 1);
        return sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                           "topic %s would pass broker.topics_max = %lld", name,
                           (long long)conf->topics_max);
    }
    return STI_OK;
}

static int counts_check(struct broker *broker, struct sti_topic_change *call, struct sti_err *err)
{
    if (call->partitions == -1) {
        call->partitions = (int32_t)broker->conf->default_partitions;
    }
    if (call->replication == -1) {
        call->replication = (int32_t)broker->conf->default_replication;
    }
    if (call->partitions < 1 || call->replication < 1) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "topic %s: %s must be at least 1, found %d",
                           call->name, call->partitions < 1 ? "partitions" : "replication",
                           call->partitions < 1 ? call->partitions : call->replication);
    }
    if (call->replication > 1 && (broker->replication.vtable->caps & STI_REPLICATION_MANY) == 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED,
                           "topic %s: replication %d needs a replication plugin that keeps several "
                           "replicas; %s keeps 1",
                           call->name, call->replication, broker->replication.name);
    }
    return STI_OK;
}

/* ---- the calls ----------------------------------------------------------------------------- */

static void call_clear(struct broker *broker, struct sti_topic_change *call, int operation)
{
    call->state[0] = broker;
    call->state[1] = (void *)(intptr_t)operation;
    call->status = STI_OK;
    call->partition_count = 0;
    call->replication_factor = 0;
    call->retry_after_ms = 0;
    memset(call->topic_id, 0, sizeof call->topic_id);
    sti_err_clear(&call->err);
}

/* What a change does to the disk: one that adds nothing may use what is kept for a full one. */
enum change_kind { CHANGE_CREATES, CHANGE_ADDS, CHANGE_SETTINGS, CHANGE_DELETES };

/* Look at the limits once more, and keep what the change takes until it is applied: of many that
 * come at once no one passes a limit.
 * @param more  partitions that it adds */
static int change_keep(struct broker *broker, struct brk_change *change, enum change_kind kind,
                       int32_t more, struct sti_err *err)
{
    struct sti_topic_change *call = change->call;
    pthread_mutex_lock(&broker->admin_mu);
    int rc = limits_check(broker, call->name, call->partitions, more, kind == CHANGE_CREATES, err);
    if (rc == STI_OK) {
        change->kept_topics = kind == CHANGE_CREATES ? 1 : 0;
        change->kept_partitions = more;
        change->kept_until = call->partitions;
        change->kept_next = broker->kept;
        broker->kept = change;
        broker->kept_topics += change->kept_topics;
        broker->kept_partitions += more;
    }
    pthread_mutex_unlock(&broker->admin_mu);
    return rc;
}

/* Propose an encoded command; the change owns it from here on. */
static int change_propose(struct broker *broker, struct sti_topic_change *call,
                          const uint8_t id[16], uint8_t *command, size_t len, enum change_kind kind,
                          int32_t more, struct sti_err *err)
{
    struct brk_change *change = command == NULL ? NULL : calloc(1, sizeof *change);
    if (change == NULL) {
        free(command);
        return sti_err_set(err, STI_E_NO_MEMORY, "topic %s: out of memory", call->name);
    }
    change->broker = broker;
    change->call = call;
    change->command = command;
    change->deletion = kind == CHANGE_DELETES;
    memcpy(change->id, id, sizeof change->id);
    change->proposal =
        (struct sti_proposal){.struct_size = sizeof change->proposal,
                              .flags = more > 0 ? 0 : STI_PROPOSAL_FREES_SPACE,
                              .command = command,
                              .len = len,
                              .done = change->deletion ? deletion_done : change_done};
    if (change->deletion) {
        pthread_mutex_lock(&broker->admin_mu);
        change->next = broker->deletions;
        broker->deletions = change;
        pthread_mutex_unlock(&broker->admin_mu);
    }
    int rc = more > 0 ? change_keep(broker, change, kind, more, err) : STI_OK;
    if (rc == STI_OK) {
        rc = sti_metadata_of(&broker->metadata)
                 ->propose(broker->metadata.self, &change->proposal, err);
    }
    if (rc != STI_OK) {
        pthread_mutex_lock(&broker->admin_mu);
        kept_release(broker, change);
        deletion_unlink(broker, change);
        pthread_mutex_unlock(&broker->admin_mu);
        change_free(change);
    }
    return rc;
}

/* What all three calls begin with. @return STI_OK: go on */
static int call_begin(struct broker *broker, struct sti_topic_change *call, int operation,
                      struct sti_err *err)
{
    call_clear(broker, call, operation);
    int rc = brk_enter(broker, call->request, sti_now_us(broker->host), &call->retry_after_ms, err);
    if (rc == STI_OK) {
        rc = brk_topic_name_check(call->name, err);
    }
    return rc != STI_OK ? rc : brk_authorize(broker, call->request, operation, call->name, err);
}

/* Refusals of a call are its own status, not the function's. */
static int call_end(struct sti_topic_change *call, int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        call_answer(call, rc, err);
    }
    return STI_OK;
}

/* A topic stays where it was made, also when the node's default moves on: the instance becomes a
 * setting of its own. The rows have room for it. @return their number */
static uint32_t settings_pin(const struct broker *broker, struct cat_setting *settings,
                             uint32_t count)
{
    static char key[] = "storage";
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(settings[i].key, key) == 0) {
            return count;
        }
    }
    settings[count] = (struct cat_setting){
        .key = key, .value = (char *)(uintptr_t)broker->conf->defaults.storage};
    return count + 1;
}

static int create_check(struct broker *broker, struct sti_topic_change *call,
                        const struct cat_setting *settings, struct sti_err *err)
{
    struct set_values values;
    set_resolve(&broker->conf->defaults, settings, call->config_count, &values);
    int rc = brk_topic_storage_check(broker->host, &values, err);
    if (rc == STI_OK) {
        rc = brk_disk_create(broker, values.storage, call->name, err);
    }
    if (rc == STI_OK) {
        pthread_mutex_lock(&broker->admin_mu);
        struct cat_topic *cat = cat_find(&broker->catalog, call->name);
        if (cat != NULL && !cat->deleted) {
            rc = sti_err_set(err, STI_E_ALREADY_EXISTS, "topic %s exists already", call->name);
        } else {
            rc = limits_check(broker, call->name, call->partitions, call->partitions, true, err);
        }
        pthread_mutex_unlock(&broker->admin_mu);
    }
    return rc;
}

/* Everything of a creation but whether the caller may. */
static int create_run(struct broker *broker, struct sti_topic_change *call, struct sti_err *err)
{
    struct cat_setting *settings = NULL;
    int rc = reserved_check(call->name, err);
    if (rc == STI_OK) {
        rc = counts_check(broker, call, err);
    }
    if (rc == STI_OK) {
        rc = brk_topic_settings_check(call, false, err);
    }
    if (rc == STI_OK) {
        rc = settings_rows(call, &settings, err);
    }
    if (rc == STI_OK) {
        rc = create_check(broker, call, settings, err);
    }
    if (rc == STI_OK && (call->flags & STI_TOPIC_VALIDATE_ONLY) != 0) {
        call_answer(call, STI_OK, NULL);
    } else if (rc == STI_OK) {
        uint8_t id[16];
        size_t len = 0;
        uint32_t count = settings_pin(broker, settings, call->config_count);
        broker->host->random(broker->host->ctx, id, sizeof id);
        id[6] = (uint8_t)((id[6] & 0x0f) | 0x40); /* RFC 4122 version 4 */
        id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
        struct cat_create create = {.name = call->name,
                                    .id = id,
                                    .partitions = call->partitions,
                                    .replication = call->replication,
                                    .leader = broker->host->node->node_id,
                                    .settings = settings,
                                    .setting_count = count};
        uint8_t *command = cat_encode_create(&create, &len);
        rc = change_propose(broker, call, id, command, len, CHANGE_CREATES, call->partitions, err);
    }
    free(settings);
    return rc;
}

int brk_create_topic(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct broker *broker = self;
    struct sti_err why;
    int rc = brk_serving(broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    sti_err_clear(&why);
    rc = call_begin(broker, call, STI_OP_CREATE, &why);
    if (rc == STI_OK) {
        rc = create_run(broker, call, &why);
    }
    return call_end(call, rc, &why);
}

void brk_topic_create(struct broker *broker, struct sti_topic_change *call)
{
    struct sti_err why;
    sti_err_clear(&why);
    call_clear(broker, call, STI_OP_CREATE);
    int rc = brk_topic_name_check(call->name, &why);
    if (rc == STI_OK) {
        rc = create_run(broker, call, &why);
    }
    (void)call_end(call, rc, &why);
}

/* The flush policy, as it would be, must fit the topic's storage, and new partitions its disk.
 * @locks admin_mu held */
static int alter_fits(struct broker *broker, const struct sti_topic_change *call,
                      const struct cat_setting *settings, const struct cat_topic *cat,
                      struct sti_err *err)
{
    struct set_values values;
    struct cat_topic probe = *cat;
    probe.settings = calloc(cat->setting_count + call->config_count + 1u, sizeof *settings);
    probe.setting_count = 0;
    for (uint32_t i = 0; probe.settings != NULL && i < call->config_count; i++) {
        if (settings[i].value != NULL) {
            probe.settings[probe.setting_count++] = settings[i];
        }
    }
    for (uint32_t i = 0; probe.settings != NULL && i < cat->setting_count; i++) {
        bool changed = false;
        for (uint32_t j = 0; j < call->config_count; j++) {
            changed = changed || strcmp(settings[j].key, cat->settings[i].key) == 0;
        }
        if (!changed) {
            probe.settings[probe.setting_count++] = cat->settings[i];
        }
    }
    set_resolve(&broker->conf->defaults, probe.settings, probe.setting_count, &values);
    int rc = probe.settings == NULL ? sti_err_set(err, STI_E_NO_MEMORY, "out of memory")
                                    : brk_topic_storage_check(broker->host, &values, err);
    if (rc == STI_OK && call->partitions > cat->partition_count) {
        rc = brk_disk_create(broker, values.storage, call->name, err);
    }
    free(probe.settings);
    return rc;
}

/* Check an alteration against the topic as it is. */
static int alter_check(struct broker *broker, struct sti_topic_change *call,
                       const struct cat_setting *settings, uint8_t id[16], int32_t *more,
                       struct sti_err *err)
{
    int rc = STI_OK;
    pthread_mutex_lock(&broker->admin_mu);
    struct cat_topic *cat = cat_find(&broker->catalog, call->name);
    if (cat == NULL || cat->deleted) {
        rc = sti_err_set(err, STI_E_UNKNOWN_TOPIC, "topic %s does not exist", call->name);
    } else if (call->partitions != -1 && call->partitions < cat->partition_count) {
        rc = sti_err_set(err, STI_E_INVALID_ARGUMENT,
                         "topic %s has %d partitions, which cannot become %d: partitions are only "
                         "added",
                         call->name, cat->partition_count, call->partitions);
    } else {
        *more = call->partitions == -1 ? 0 : call->partitions - cat->partition_count;
        memcpy(id, cat->id, 16);
        /* A limit that was lowered since does not bar other changes. */
        rc = *more == 0 ? STI_OK
                        : limits_check(broker, call->name, call->partitions, *more, false, err);
        if (rc == STI_OK) {
            rc = alter_fits(broker, call, settings, cat, err);
        }
    }
    pthread_mutex_unlock(&broker->admin_mu);
    return rc;
}

int brk_alter_topic(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct broker *broker = self;
    struct cat_setting *settings = NULL;
    struct sti_err why;
    uint8_t id[16];
    int32_t more = 0;
    int rc = brk_serving(broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    sti_err_clear(&why);
    rc = call_begin(broker, call, STI_OP_ALTER, &why);
    if (rc == STI_OK) {
        rc = brk_topic_settings_check(call, true, &why);
    }
    if (rc == STI_OK) {
        rc = settings_rows(call, &settings, &why);
    }
    if (rc == STI_OK) {
        rc = alter_check(broker, call, settings, id, &more, &why);
    }
    if (rc == STI_OK && (call->flags & STI_TOPIC_VALIDATE_ONLY) != 0) {
        call_answer(call, STI_OK, NULL);
    } else if (rc == STI_OK) {
        size_t len = 0;
        uint8_t *command =
            cat_encode_alter(id, call->partitions == -1 ? 0 : call->partitions, more,
                             broker->host->node->node_id, settings, call->config_count, &len);
        rc = change_propose(broker, call, id, command, len,
                            more > 0 ? CHANGE_ADDS : CHANGE_SETTINGS, more, &why);
    }
    free(settings);
    return call_end(call, rc, &why);
}

int brk_delete_topic(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct broker *broker = self;
    struct sti_err why;
    uint8_t id[16];
    int rc = brk_serving(broker, err);
    if (rc != STI_OK) {
        return rc;
    }
    sti_err_clear(&why);
    rc = call_begin(broker, call, STI_OP_DELETE, &why);
    if (rc == STI_OK) {
        pthread_mutex_lock(&broker->admin_mu);
        struct cat_topic *cat = cat_find(&broker->catalog, call->name);
        if (cat == NULL || cat->deleted) {
            rc = sti_err_set(&why, STI_E_UNKNOWN_TOPIC, "topic %s does not exist", call->name);
        } else {
            memcpy(id, cat->id, sizeof id);
        }
        pthread_mutex_unlock(&broker->admin_mu);
    }
    if (rc == STI_OK && (call->flags & STI_TOPIC_VALIDATE_ONLY) != 0) {
        call_answer(call, STI_OK, NULL);
    } else if (rc == STI_OK) {
        size_t len = 0;
        uint8_t *command = cat_encode_delete(id, &len);
        rc = change_propose(broker, call, id, command, len, CHANGE_DELETES, 0, &why);
    }
    return call_end(call, rc, &why);
}
