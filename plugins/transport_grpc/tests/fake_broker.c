/* fake_broker.c -- see fake_broker.h. */
#include "fake_broker.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/record_batch.h"

enum { TOPICS_MAX = 64, PARTITIONS_MAX = 8, HELD_MAX = 256 };

struct buffer {
    struct sti_slice_owner owner;
    struct fake_broker *fb;
    unsigned refs;
    uint64_t len;
    uint8_t bytes[];
};

struct partition {
    struct buffer **records;
    size_t count;
};

struct topic {
    char name[STI_TOPIC_NAME_MAX + 1];
    int32_t partition_count;
    struct partition partitions[PARTITIONS_MAX];
};

struct waiter {
    struct sti_timer timer; /* first */
    struct fake_broker *fb;
    struct sti_fetch *call;
    struct waiter *next;
    unsigned refs; /* the list's and the timer's */
};

struct fake_broker {
    const struct sti_host *host;
    pthread_mutex_t mu;
    struct topic *topics[TOPICS_MAX];
    size_t topic_count;
    struct waiter *waiters;
    struct sti_produce *held[HELD_MAX];
    struct sti_admit *waiting_for_room;
    bool no_room;
    struct fake_broker_facts facts;
    uint64_t last_produce_us;
    uint64_t slices_out, cancels; /* atomic; copied to the facts */
};

static void buffer_ref(struct sti_slice_owner *owner)
{
    struct buffer *buffer = (struct buffer *)(void *)owner;
    (void)__atomic_fetch_add(&buffer->refs, 1, __ATOMIC_RELAXED);
    (void)__atomic_fetch_add(&buffer->fb->slices_out, 1, __ATOMIC_RELAXED);
}

static void buffer_drop(struct buffer *buffer)
{
    if (__atomic_sub_fetch(&buffer->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        free(buffer);
    }
}

static void buffer_unref(struct sti_slice_owner *owner)
{
    struct buffer *buffer = (struct buffer *)(void *)owner;
    (void)__atomic_fetch_sub(&buffer->fb->slices_out, 1, __ATOMIC_RELEASE);
    buffer_drop(buffer);
}

static struct buffer *buffer_new(struct fake_broker *fb, const struct sti_slice *slices,
                                 size_t count)
{
    uint64_t len = sti_slices_len(slices, count);
    struct buffer *buffer = malloc(sizeof *buffer + len);
    if (buffer == NULL) {
        abort();
    }
    buffer->owner = (struct sti_slice_owner){.ref = buffer_ref, .unref = buffer_unref};
    buffer->fb = fb;
    buffer->refs = 1;
    buffer->len = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(buffer->bytes + buffer->len, slices[i].data, slices[i].len);
        buffer->len += slices[i].len;
    }
    return buffer;
}

static struct topic *topic_find(struct fake_broker *fb, const char *name)
{
    for (size_t i = 0; i < fb->topic_count; i++) {
        if (strcmp(fb->topics[i]->name, name) == 0) {
            return fb->topics[i];
        }
    }
    return NULL;
}

static struct partition *partition_find(struct fake_broker *fb, const char *name, int32_t number,
                                        int *status, struct sti_err *err)
{
    struct topic *topic = topic_find(fb, name);
    *status = STI_OK;
    if (topic == NULL) {
        *status = sti_err_set(err, STI_E_UNKNOWN_TOPIC, "there is no topic %.200s", name);
    } else if (number < 0 || number >= topic->partition_count) {
        *status = sti_err_set(err, STI_E_UNKNOWN_PARTITION, "topic %.200s has no partition %d",
                              name, (int)number);
    }
    return *status == STI_OK ? &topic->partitions[number] : NULL;
}

static void note_request(struct fake_broker *fb, const struct sti_request *request)
{
    struct fake_broker_facts *f = &fb->facts;
    snprintf(f->client_id, sizeof f->client_id, "%s", request->client_id);
    snprintf(f->trace_id, sizeof f->trace_id, "%s", request->trace_id);
    snprintf(f->peer, sizeof f->peer, "%s", request->peer);
    snprintf(f->listener, sizeof f->listener, "%s", request->listener);
    f->connection = request->connection;
    f->deadline_us = request->deadline_us;
    f->received_us = request->received_us;
}

/* ---- fetch ---- */

static uint64_t fetch_row(struct fake_broker *fb, struct sti_fetch_row *row)
{
    struct partition *part =
        partition_find(fb, row->topic, row->partition, &row->status, &row->err);
    row->bytes = 0;
    row->slice_count = 0;
    row->high_watermark = -1;
    if (strcmp(row->topic, "not-leader") == 0) {
        row->status = sti_err_set(&row->err, STI_E_NOT_LEADER, "node 2 leads");
        row->leader_hint = 2;
    } else if (strcmp(row->topic, "throttled") == 0) {
        row->status = STI_E_THROTTLED;
        row->retry_after_ms = 8;
    }
    if (part == NULL || row->status != STI_OK) {
        return 0;
    }
    row->high_watermark = row->last_stable = (int64_t)part->count;
    row->current_leader_epoch = 3;
    if (row->offset < 0 || row->offset > (int64_t)part->count) {
        row->status = sti_err_set(&row->err, STI_E_OFFSET_OUT_OF_RANGE, "offset %lld of %zu",
                                  (long long)row->offset, part->count);
        return 0;
    }
    for (size_t i = (size_t)row->offset; i < part->count; i++) {
        struct buffer *buffer = part->records[i];
        if (row->slice_count == STI_FETCH_SLICES_MAX ||
            (row->slice_count > 0 && row->bytes + buffer->len > row->max_bytes)) {
            break;
        }
        buffer->owner.ref(&buffer->owner);
        row->slices[row->slice_count] = sti_slice_borrow(buffer->bytes, buffer->len);
        row->slices[row->slice_count++].owner = &buffer->owner;
        row->bytes += buffer->len;
    }
    return row->bytes;
}

/* Fill the rows. @return whether the call is to be answered now. @locks fb->mu held */
static bool fetch_try(struct fake_broker *fb, struct sti_fetch *call, bool last)
{
    uint64_t bytes = 0;
    bool failed = false;
    for (uint32_t r = 0; r < call->row_count; r++) {
        bytes += fetch_row(fb, call->rows[r]);
        failed = failed || call->rows[r]->status != STI_OK;
    }
    if (failed || bytes >= call->min_bytes || last) {
        return true;
    }
    sti_fetch_release(call);
    return false;
}

static bool waiter_take(struct fake_broker *fb, struct waiter *wanted)
{
    for (struct waiter **at = &fb->waiters; *at != NULL; at = &(*at)->next) {
        if (*at == wanted) {
            *at = wanted->next;
            fb->facts.waiting--;
            return true;
        }
    }
    return false;
}

static void waiter_drop(struct waiter *waiter, unsigned refs)
{
    if (__atomic_sub_fetch(&waiter->refs, refs, __ATOMIC_ACQ_REL) == 0) {
        free(waiter);
    }
}

static void waiter_due(struct sti_task *task)
{
    struct waiter *waiter = (struct waiter *)(void *)task;
    struct fake_broker *fb = waiter->fb;
    pthread_mutex_lock(&fb->mu);
    bool mine = waiter_take(fb, waiter);
    if (mine) {
        (void)fetch_try(fb, waiter->call, true);
    }
    pthread_mutex_unlock(&fb->mu);
    struct sti_fetch *call = waiter->call;
    waiter_drop(waiter, mine ? 2 : 1);
    if (mine) {
        call->done(call);
    }
}

static int fake_fetch(void *self, struct sti_fetch *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    if (strcmp(call->rows[0]->topic, "busy") == 0) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "the broker is starting");
    }
    struct waiter *waiter = calloc(1, sizeof *waiter);
    if (waiter == NULL) {
        abort();
    }
    pthread_mutex_lock(&fb->mu);
    fb->facts.fetches++;
    note_request(fb, call->request);
    bool now = fetch_try(fb, call, call->max_wait_ms == 0);
    if (!now) {
        waiter->fb = fb;
        waiter->refs = 2;
        waiter->call = call;
        waiter->timer.task.run = waiter_due;
        waiter->next = fb->waiters;
        fb->waiters = waiter;
        fb->facts.waiting++;
        call->state[0] = waiter;
        fb->host->timer_arm(fb->host->ctx, &waiter->timer,
                            sti_now_us(fb->host) + call->max_wait_ms * 1000u);
    }
    pthread_mutex_unlock(&fb->mu);
    if (now) {
        free(waiter);
        call->done(call);
    }
    return STI_OK;
}

/* Answer one waiter now, or all whose data has come. */
static void waiters_wake(struct fake_broker *fb, struct sti_fetch *cancelled)
{
    struct waiter *ready = NULL;
    pthread_mutex_lock(&fb->mu);
    struct waiter **at = &fb->waiters;
    while (*at != NULL) {
        struct waiter *waiter = *at;
        bool mine = cancelled == NULL ? fetch_try(fb, waiter->call, false)
                                      : waiter->call == cancelled && fetch_try(fb, cancelled, true);
        if (mine) {
            *at = waiter->next;
            fb->facts.waiting--;
            waiter->next = ready;
            ready = waiter;
        } else {
            at = &waiter->next;
        }
    }
    pthread_mutex_unlock(&fb->mu);
    while (ready != NULL) {
        struct waiter *waiter = ready;
        struct sti_fetch *call = waiter->call;
        ready = waiter->next;
        bool cancel = fb->host->timer_cancel(fb->host->ctx, &waiter->timer);
        waiter_drop(waiter, cancel ? 2 : 1); /* else its task drops the timer's */
        call->done(call);
    }
}

static void fake_fetch_cancel(void *self, struct sti_fetch *call)
{
    struct fake_broker *fb = self;
    (void)__atomic_fetch_add(&fb->cancels, 1, __ATOMIC_RELAXED);
    waiters_wake(fb, call);
}

/* ---- produce ---- */

static void produce_row(struct fake_broker *fb, struct sti_produce_row *row)
{
    struct partition *part =
        partition_find(fb, row->topic, row->partition, &row->status, &row->err);
    if (strcmp(row->topic, "not-leader") == 0) {
        row->leader_hint = 2;
        row->status = sti_err_set(&row->err, STI_E_NOT_LEADER, "node 2 leads");
    } else if (strcmp(row->topic, "disk-full") == 0) {
        row->bytes_needed = 4096;
        row->status = sti_err_set(&row->err, STI_E_DISK_FULL, "4096 bytes are needed");
    } else if (strcmp(row->topic, "throttled") == 0) {
        row->retry_after_ms = 7;
        row->status = STI_E_THROTTLED;
    }
    if (row->status == STI_OK && row->chain != NULL &&
        sti_produce_chain_refuses(row->chain, row->chain_id, row->chain_answered) != 0) {
        row->status = sti_err_set(&row->err, STI_E_PRECONDITION, "an earlier batch failed");
        return;
    }
    if (row->status != STI_OK) {
        if (row->chain != NULL) {
            sti_produce_chain_fail(row->chain, row->chain_id, row->chain_answered);
        }
        return;
    }
    if (strcmp(row->topic, "sink") == 0) {
        row->base_offset = 0;
        return;
    }
    part->records =
        (struct buffer **)realloc((void *)part->records, (part->count + 1) * sizeof *part->records);
    if (part->records == NULL) {
        abort();
    }
    struct buffer *buffer = buffer_new(fb, row->slices, row->slice_count);
    struct sti_batch_header header;
    if (sti_batch_header_decode(buffer->bytes, buffer->len, &header, NULL) == STI_OK &&
        header.total_len == buffer->len) {
        sti_batch_patch(buffer->bytes, (int64_t)part->count, buffer->len, 3);
    }
    part->records[part->count] = buffer;
    row->base_offset = (int64_t)part->count++;
    row->leader_epoch = 3;
    row->replicas = 1;
    row->log_start = 0;
}

struct answer {
    struct sti_task task;
    struct sti_produce *call;
};

static void answer_run(struct sti_task *task)
{
    struct answer *answer = (struct answer *)(void *)task;
    struct sti_produce *call = answer->call;
    free(answer);
    call->done(call);
}

static int fake_produce(void *self, struct sti_produce *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    if (strcmp(call->rows[0]->topic, "busy") == 0) {
        return sti_err_set(err, STI_E_UNAVAILABLE, "the broker is starting");
    }
    bool hold = strcmp(call->rows[0]->topic, "hold") == 0;
    pthread_mutex_lock(&fb->mu);
    fb->facts.produces++;
    /* One connection only: the transport took the calls in the order of received_us. */
    fb->facts.disorder += call->request->received_us < fb->last_produce_us;
    fb->last_produce_us = call->request->received_us;
    note_request(fb, call->request);
    for (uint32_t r = 0; r < call->row_count; r++) {
        produce_row(fb, call->rows[r]);
    }
    if (hold) {
        fb->held[fb->facts.held++] = call;
    }
    pthread_mutex_unlock(&fb->mu);
    if (!hold) {
        struct answer *answer = calloc(1, sizeof *answer);
        if (answer == NULL) {
            abort();
        }
        waiters_wake(fb, NULL);
        answer->call = call;
        answer->task.run = answer_run;
        if (call->acks == STI_ACKS_LEADER) { /* one kind is answered inline */
            answer_run(&answer->task);
        } else {
            fb->host->post(fb->host->ctx, &answer->task);
        }
    }
    return STI_OK;
}

void fake_broker_release(struct fake_broker *fb)
{
    for (;;) {
        struct sti_produce *call = NULL;
        pthread_mutex_lock(&fb->mu);
        if (fb->facts.held > 0) {
            call = fb->held[--fb->facts.held];
        }
        pthread_mutex_unlock(&fb->mu);
        if (call == NULL) {
            return;
        }
        call->done(call);
    }
}

/* ---- topics ---- */

static int fake_list_offsets(void *self, struct sti_list_offsets *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)err;
    pthread_mutex_lock(&fb->mu);
    for (uint32_t r = 0; r < call->row_count; r++) {
        struct sti_list_offsets_row *row = call->rows[r];
        struct partition *part =
            partition_find(fb, row->topic, row->partition, &row->status, &row->err);
        if (part != NULL) {
            row->offset = row->timestamp_ms == STI_OFFSET_EARLIEST ? 0 : (int64_t)part->count;
            row->leader_epoch = 3;
        }
        if (strcmp(row->topic, "throttled") == 0) {
            row->status = STI_E_THROTTLED;
            row->retry_after_ms = 9;
        }
    }
    pthread_mutex_unlock(&fb->mu);
    call->done(call);
    return STI_OK;
}

void fake_broker_topic(struct fake_broker *fb, const char *name, int32_t partitions)
{
    struct topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL || fb->topic_count == TOPICS_MAX) {
        abort();
    }
    snprintf(topic->name, sizeof topic->name, "%s", name);
    topic->partition_count = partitions;
    fb->topics[fb->topic_count++] = topic;
}

static int fake_create(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)err;
    pthread_mutex_lock(&fb->mu);
    if (topic_find(fb, call->name) != NULL) {
        call->status =
            sti_err_set(&call->err, STI_E_ALREADY_EXISTS, "topic %.200s exists", call->name);
    } else if (call->partitions > PARTITIONS_MAX) {
        call->status = sti_err_set(&call->err, STI_E_INVALID_ARGUMENT, "%d partitions, at most %d",
                                   (int)call->partitions, PARTITIONS_MAX);
    } else {
        call->partition_count = call->partitions < 0 ? 1 : call->partitions;
        call->replication_factor = call->replication < 0 ? 1 : call->replication;
        memset(call->topic_id, 0xab, sizeof call->topic_id);
        if ((call->flags & STI_TOPIC_VALIDATE_ONLY) == 0) {
            fake_broker_topic(fb, call->name, call->partition_count);
        }
    }
    pthread_mutex_unlock(&fb->mu);
    call->done(call);
    return STI_OK;
}

static int fake_alter(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)err;
    pthread_mutex_lock(&fb->mu);
    struct topic *topic = topic_find(fb, call->name);
    if (topic == NULL) {
        call->status = sti_err_set(&call->err, STI_E_UNKNOWN_TOPIC, "no topic %.200s", call->name);
    } else if (call->config_count == 1 && call->config[0]->value != NULL) {
        call->status = sti_err_set(&call->err, STI_E_INVALID_ARGUMENT, "%.80s=%.80s is not taken",
                                   call->config[0]->key, call->config[0]->value);
    } else if (call->partitions > 0 && call->partitions <= PARTITIONS_MAX) {
        topic->partition_count = call->partitions;
    }
    pthread_mutex_unlock(&fb->mu);
    call->done(call);
    return STI_OK;
}

static void topic_free(struct topic *topic)
{
    for (size_t p = 0; p < PARTITIONS_MAX; p++) {
        for (size_t i = 0; i < topic->partitions[p].count; i++) {
            buffer_drop(topic->partitions[p].records[i]);
        }
        free((void *)topic->partitions[p].records);
    }
    free(topic);
}

static int fake_delete(void *self, struct sti_topic_change *call, struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)err;
    pthread_mutex_lock(&fb->mu);
    call->status = STI_E_UNKNOWN_TOPIC;
    for (size_t i = 0; i < fb->topic_count; i++) {
        if (strcmp(fb->topics[i]->name, call->name) == 0) {
            topic_free(fb->topics[i]);
            fb->topics[i] = fb->topics[--fb->topic_count];
            call->status = STI_OK;
            break;
        }
    }
    pthread_mutex_unlock(&fb->mu);
    call->done(call);
    return STI_OK;
}

static void topic_visit(const struct topic *topic, bool in_full,
                        void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg)
{
    static const int32_t nodes[] = {1};
    static const struct sti_topic_config setting = {.struct_size = sizeof setting,
                                                    .source = STI_CONFIG_NODE,
                                                    .key = "segment.bytes",
                                                    .value = "1024",
                                                    .help = "Size of a segment."};
    static const struct sti_topic_config *const settings[] = {&setting};
    struct sti_partition_info infos[PARTITIONS_MAX];
    const struct sti_partition_info *pointers[PARTITIONS_MAX];
    for (int32_t p = 0; p < topic->partition_count; p++) {
        infos[p] =
            (struct sti_partition_info){.struct_size = sizeof infos[p],
                                        .partition = p,
                                        .leader = 1,
                                        .leader_epoch = 3,
                                        .replicas = nodes,
                                        .isr = nodes,
                                        .replica_count = 1,
                                        .isr_count = 1,
                                        .high_watermark = (int64_t)topic->partitions[p].count,
                                        .log_end = (int64_t)topic->partitions[p].count,
                                        .status = p == 1 ? STI_E_POISONED : STI_OK};
        pointers[p] = &infos[p];
    }
    struct sti_topic_info info = {.struct_size = sizeof info,
                                  .replication = 1,
                                  .name = topic->name,
                                  .partition_count = (uint32_t)topic->partition_count,
                                  .config_count = in_full ? 1 : 0,
                                  .partitions = in_full ? pointers : NULL,
                                  .config = in_full ? settings : NULL};
    memset(info.topic_id, 0xab, sizeof info.topic_id);
    visit(arg, &info);
}

static int fake_list(void *self, const struct sti_request *request,
                     void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                     struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)request;
    (void)err;
    pthread_mutex_lock(&fb->mu);
    for (size_t i = 0; i < fb->topic_count; i++) {
        topic_visit(fb->topics[i], false, visit, arg);
    }
    pthread_mutex_unlock(&fb->mu);
    return STI_OK;
}

static int fake_describe(void *self, const struct sti_request *request, const char *name,
                         void (*visit)(void *arg, const struct sti_topic_info *topic), void *arg,
                         struct sti_err *err)
{
    struct fake_broker *fb = self;
    (void)request;
    pthread_mutex_lock(&fb->mu);
    struct topic *topic = topic_find(fb, name);
    if (topic != NULL) {
        topic_visit(topic, true, visit, arg);
    }
    pthread_mutex_unlock(&fb->mu);
    return topic != NULL ? STI_OK
                         : sti_err_set(err, STI_E_UNKNOWN_TOPIC, "there is no topic %.200s", name);
}

static int fake_find_leader(void *self, const struct sti_request *request, const char *topic,
                            int32_t partition, struct sti_node_info *out, struct sti_err *err)
{
    struct fake_broker *fb = self;
    int status;
    if (strcmp(topic, "throttled") == 0) {
        *request->retry_after_ms = 10;
        return sti_err_set(err, STI_E_THROTTLED, "%s is over its quota", request->principal);
    }
    if (strcmp(topic, "not-leader") == 0) {
        out->node_id = 2;
        out->host = "other.example";
        out->port = 9999;
        return STI_OK;
    }
    pthread_mutex_lock(&fb->mu);
    (void)partition_find(fb, topic, partition, &status, err);
    pthread_mutex_unlock(&fb->mu);
    out->node_id = 1;
    out->host = "";
    out->leader_epoch = 3;
    return status;
}

static int fake_admit(void *self, struct sti_admit *admit)
{
    struct fake_broker *fb = self;
    pthread_mutex_lock(&fb->mu);
    bool no_room = fb->no_room;
    if (no_room) {
        admit->next = fb->waiting_for_room;
        fb->waiting_for_room = admit;
        fb->facts.no_room++;
    }
    pthread_mutex_unlock(&fb->mu);
    return no_room ? STI_E_THROTTLED : STI_OK;
}

void fake_broker_room(struct fake_broker *fb, bool room)
{
    pthread_mutex_lock(&fb->mu);
    struct sti_admit *admit = room ? fb->waiting_for_room : NULL;
    fb->no_room = !room;
    if (room) {
        fb->waiting_for_room = NULL;
        fb->facts.no_room = 0;
    }
    pthread_mutex_unlock(&fb->mu);
    while (admit != NULL) {
        struct sti_admit *next = admit->next;
        admit->resume(admit);
        admit = next;
    }
}

/* A token is the name of who bears it, but for "bad". */
static int fake_authenticate(void *self, const struct sti_credentials *from, char *principal,
                             size_t principal_max, struct sti_err *err)
{
    (void)self;
    if (strcmp(from->mechanism, "unknown") == 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "mechanism %s", from->mechanism);
    }
    bool token = strcmp(from->mechanism, "bearer") == 0;
    if (token && from->secret_len == 3 && memcmp(from->secret, "bad", 3) == 0) {
        return sti_err_set(err, STI_E_UNAUTHENTICATED, "the token of %s is bad", from->peer);
    }
    snprintf(principal, principal_max, "User:%.*s", token ? (int)from->secret_len : 9,
             token ? (const char *)from->secret : "anonymous");
    return STI_OK;
}

static const struct sti_broker fake_vtable = {.iface = {.struct_size = sizeof fake_vtable,
                                                        .major = STI_BROKER_MAJOR,
                                                        .minor = STI_BROKER_MINOR,
                                                        .id = STI_BROKER_ID},
                                              .produce = fake_produce,
                                              .fetch = fake_fetch,
                                              .fetch_cancel = fake_fetch_cancel,
                                              .list_offsets = fake_list_offsets,
                                              .create_topic = fake_create,
                                              .alter_topic = fake_alter,
                                              .delete_topic = fake_delete,
                                              .list_topics = fake_list,
                                              .describe_topic = fake_describe,
                                              .find_leader = fake_find_leader,
                                              .admit = fake_admit,
                                              .authenticate = fake_authenticate};

const struct sti_iface *fake_broker_iface(void)
{
    return &fake_vtable.iface;
}

struct fake_broker *fake_broker_new(const struct sti_host *host)
{
    static const char *const names[] = {"not-leader", "disk-full", "throttled",
                                        "hold",       "order",     "sink"};
    struct fake_broker *fb = calloc(1, sizeof *fb);
    if (fb == NULL) {
        abort();
    }
    fb->host = host;
    pthread_mutex_init(&fb->mu, NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        fake_broker_topic(fb, names[i], 1);
    }
    return fb;
}

void fake_broker_free(struct fake_broker *fb)
{
    for (size_t i = 0; i < fb->topic_count; i++) {
        topic_free(fb->topics[i]);
    }
    pthread_mutex_destroy(&fb->mu);
    free(fb);
}

struct fake_broker_facts fake_broker_facts(struct fake_broker *fb)
{
    pthread_mutex_lock(&fb->mu);
    struct fake_broker_facts facts = fb->facts;
    pthread_mutex_unlock(&fb->mu);
    facts.slices_out = __atomic_load_n(&fb->slices_out, __ATOMIC_ACQUIRE);
    facts.cancels = __atomic_load_n(&fb->cancels, __ATOMIC_ACQUIRE);
    return facts;
}
