/* producer.c -- records into batches, batches into requests, answers into reports.
 *
 *     send --copy--> open batch --full, or nothing in flight--> closed, in the partition's queue
 * --> in flight --> report
 *
 * Order. Each partition has at most one request in flight, and a batch that failed in a way that
 * may be repeated is sent again before the next one; so what is stored is in the order of the
 * sends. The price is one round trip a batch, which is why a batch fills while its predecessor
 * travels.
 *
 * Who works. The sending thread fills and, when a batch is full, finishes it (checksum,
 * compression); the poll thread finishes a batch that was not full when its turn came, and reports.
 * A batch that is being finished is in its partition's queue, or in flight, but not `ready`, so
 * that the lock can be dropped meanwhile and order still holds.
 *
 * Lock. One mutex for the producer; dropped around finishing, gRPC and the user's callback.
 *
 * Memory. A batch owns its builder; the request refers to the builder's bytes without a copy, so a
 * batch is used again only after gRPC has let them go (`refs`).
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCHES_SPARE_MAX = 8, STICKY_BYTES = 16384 };

struct batch {
    struct batch *next; /* in the queue, or among the spare ones */
    struct partition *part;
    struct sti_batch_builder *builder;
    void **opaques;
    uint32_t count, opaque_capacity;
    uint64_t window_bytes;
    uint64_t first_us;   /* the first record's send */
    const uint8_t *data; /* finished */
    size_t len;
    bool ready, started;
    int finish_status;
    _Atomic uint32_t refs; /* owner, and the request's slice */
    struct cl_call call;
    uint32_t failures;
    struct sti_err last; /* of the latest attempt */
};

struct partition {
    struct sti_producer_topic *topic;
    int32_t index;
    struct batch *open;
    struct batch *queue_head, *queue_tail;
    struct batch *in_flight;
    struct cl_alarm linger, retry;
    bool lingering, backing_off;
};

struct sti_producer_topic {
    struct sti_producer_topic *next;
    struct sti_producer *producer;
    struct cl_topic *topic;
    struct partition **parts; /* grows; entries stay where they are */
    int32_t count;
    int32_t sticky;        /* where keyless records go */
    uint64_t sticky_bytes; /* that left it in batches that were not full */
    uint64_t message_bytes_max;
};

struct sti_producer {
    struct sti_client *client;
    struct sti_producer_config config;
    pthread_mutex_t mu;
    pthread_cond_t room; /* the window has room, or less is under way */
    struct sti_producer_topic *topics;
    struct batch *spare;
    uint32_t spare_count;
    uint64_t window_used;
    uint64_t outstanding; /* batches without a report, open ones included */
    uint32_t flushing;
    uint32_t busy; /* alarms that have not fired, and completions at work: a close waits for them */
    bool closing;
};

static void kick(struct partition *part);

/* ---- batches ------------------------------------------------------------------------------- */

static void batch_free(struct batch *b)
{
    sti_batch_builder_free(b->builder);
    free(b->opaques);
    free(b);
}

/* The last of owner and request lets go. Any thread; the lock is not held. */
static void batch_unref(void *arg)
{
    struct batch *b = arg;
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    batch_free(b);
}

/* @locks producer->mu held */
static struct batch *batch_get(struct sti_producer *producer, struct partition *part,
                               struct sti_err *err)
{
    struct batch *b = producer->spare;
    if (b != NULL) {
        producer->spare = b->next;
        producer->spare_count--;
        sti_batch_builder_reset(b->builder);
    } else {
        b = calloc(1, sizeof *b);
        if (b == NULL || sti_batch_builder_new(&b->builder, producer->config.codec,
                                               producer->config.codec_level, err) != STI_OK) {
            free(b);
            (void)sti_err_set(err, STI_E_NO_MEMORY, "producer: no memory for a batch");
            return NULL;
        }
    }
    b->next = NULL;
    b->part = part;
    b->count = 0;
    b->window_bytes = 0;
    b->ready = false;
    b->started = false;
    b->failures = 0;
    b->data = NULL;
    b->finish_status = STI_OK;
    sti_err_clear(&b->last);
    atomic_store(&b->refs, 1);
    producer->outstanding++;
    return b;
}

/* Keep a reported batch for the next one, if gRPC has let its bytes go. @locks producer->mu held */
static bool batch_keep(struct sti_producer *producer, struct batch *b)
{
    if (producer->spare_count >= BATCHES_SPARE_MAX ||
        atomic_load_explicit(&b->refs, memory_order_acquire) != 1) {
        return false;
    }
    b->next = producer->spare;
    producer->spare = b;
    producer->spare_count++;
    return true;
}

static int batch_remember(struct batch *b, void *opaque)
{
    if (b->count == b->opaque_capacity) {
        uint32_t capacity = b->opaque_capacity == 0 ? 256 : b->opaque_capacity * 2;
        void **grown = realloc(b->opaques, capacity * sizeof(void *));
        if (grown == NULL) {
            return STI_E_NO_MEMORY;
        }
        b->opaques = grown;
        b->opaque_capacity = capacity;
    }
    b->opaques[b->count++] = opaque;
    return STI_OK;
}

/* Checksum and compression. @locks none */
static void batch_finish(struct batch *b)
{
    b->finish_status = sti_batch_builder_finish(b->builder, &b->data, &b->len, &b->last);
}

/* ---- reporting ----------------------------------------------------------------------------- */

/* Report a batch and forget it. Poll thread, or the closing thread. @locks producer->mu held,
 * dropped meanwhile */
static void batch_report(struct batch *b, int status, const Streamit__V1__ProduceResult *result,
                         const struct sti_err *err)
{
    struct partition *part = b->part;
    struct sti_producer *producer = part->topic->producer;
    struct sti_delivery delivery = {.struct_size = sizeof delivery,
                                    .partition = part->index,
                                    .topic = part->topic->topic->name,
                                    .status = status,
                                    .count = b->count,
                                    .opaques = b->opaques,
                                    .base_offset = result == NULL ? -1 : result->base_offset,
                                    .err = status == STI_OK ? NULL : err,
                                    .leader_epoch = result == NULL ? -1 : result->leader_epoch,
                                    .replicas = result == NULL ? 0 : result->replicas,
                                    .replicas_synced =
                                        result == NULL ? 0 : result->replicas_synced};
    uint64_t window_bytes = b->window_bytes;
    pthread_mutex_unlock(&producer->mu);
    if (producer->config.on_delivery != NULL) {
        producer->config.on_delivery(producer->config.arg, &delivery);
    }
    pthread_mutex_lock(&producer->mu);
    if (!batch_keep(producer, b)) {
        pthread_mutex_unlock(&producer->mu);
        batch_unref(b);
        pthread_mutex_lock(&producer->mu);
    }
    producer->window_used -= window_bytes;
    producer->outstanding--;
    pthread_cond_broadcast(&producer->room);
}

/* ---- sending ------------------------------------------------------------------------------- */

static uint64_t batch_due_us(const struct batch *b)
{
    return b->first_us + (uint64_t)b->part->topic->producer->config.timeout_ms * 1000u;
}

static void batch_answered(struct cl_call *call, grpc_byte_buffer *in,
                           const struct cl_failure *failure);

/* Make the request and start the call. @locks none */
static void batch_dispatch(struct batch *b)
{
    static const int wire_acks[] = {[STI_PRODUCER_ACKS_QUORUM] = STREAMIT__V1__ACKS__ACKS_QUORUM,
                                    [STI_PRODUCER_ACKS_LEADER] = STREAMIT__V1__ACKS__ACKS_LEADER,
                                    [STI_PRODUCER_ACKS_NONE] = STREAMIT__V1__ACKS__ACKS_NONE};
    struct partition *part = b->part;
    struct sti_producer *producer = part->topic->producer;
    uint64_t now = cl_now_us(), due = batch_due_us(b);
    uint64_t left_ms = due > now ? (due - now) / 1000u + 1u : 1u;
    uint8_t head[CL_PRODUCE_HEAD_MAX];
    grpc_slice slices[2];
    size_t head_len =
        cl_encode_produce_head(head, wire_acks[producer->config.acks], (uint32_t)left_ms,
                               part->topic->topic->name, part->index, b->len);
    atomic_fetch_add(&b->refs, 1); /* the slice's */
    slices[0] = grpc_slice_from_copied_buffer((const char *)head, head_len);
    slices[1] = grpc_slice_new_with_user_data((void *)(uintptr_t)b->data, b->len, batch_unref, b);
    grpc_byte_buffer *out = grpc_raw_byte_buffer_create(slices, 2);
    grpc_slice_unref(slices[0]);
    grpc_slice_unref(slices[1]);
    b->call.done = batch_answered;
    cl_call_start(&b->call, cl_topic_leader(part->topic->topic, part->index), CL_PRODUCE, out,
                  due + CL_DEADLINE_SLACK_US);
}

static void alarm_begin(struct partition *part, struct cl_alarm *alarm, uint64_t due_us)
{
    part->topic->producer->busy++;
    cl_alarm_start(part->topic->producer->client, alarm, due_us);
}

static void retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct partition *part = CL_CONTAINER_OF(alarm, struct partition, retry);
    struct sti_producer *producer = part->topic->producer;
    (void)cancelled; /* cancelled by close: then the last try comes at once */
    pthread_mutex_lock(&producer->mu);
    part->backing_off = false;
    struct batch *b = part->in_flight;
    if (producer->closing && b != NULL) {
        struct sti_err err;
        sti_err_set(&err, STI_E_CANCELLED, "%s-%d: the producer was closed: %.150s",
                    part->topic->topic->name, part->index, b->last.msg);
        part->in_flight = NULL;
        batch_report(b, STI_E_CANCELLED, NULL, &err);
        kick(part);
    } else if (b != NULL) {
        pthread_mutex_unlock(&producer->mu);
        batch_dispatch(b);
        pthread_mutex_lock(&producer->mu);
    }
    producer->busy--; /* last: once nothing is under way a close may free everything */
    pthread_cond_broadcast(&producer->room);
    pthread_mutex_unlock(&producer->mu);
}

/* Try again later, if the failure and the time allow. @locks producer->mu held */
static bool batch_retry(struct batch *b, const struct cl_failure *failure)
{
    struct partition *part = b->part;
    uint64_t wait = cl_backoff_us(b->failures++), asked = (uint64_t)failure->retry_after_ms * 1000u;
    wait = asked > wait ? asked : wait;
    b->last = failure->err;
    if (!cl_may_retry(failure->err.traits, false) || part->topic->producer->closing ||
        cl_now_us() + wait >= batch_due_us(b)) {
        return false;
    }
    part->backing_off = true;
    alarm_begin(part, &part->retry, cl_now_us() + wait);
    return true;
}

/* @thread poll thread, or whoever started the call */
static void batch_answered(struct cl_call *call, grpc_byte_buffer *in,
                           const struct cl_failure *failure)
{
    struct batch *b = CL_CONTAINER_OF(call, struct batch, call);
    struct partition *part = b->part;
    struct sti_producer *producer = part->topic->producer;
    Streamit__V1__ProduceResponse *m = NULL;
    const Streamit__V1__ProduceResult *result = NULL;
    struct cl_failure row = {.retry_after_ms = 0};
    if (in != NULL) {
        size_t len = 0;
        uint8_t *data = cl_gather(in, &len);
        m = data == NULL ? NULL : streamit__v1__produce_response__unpack(NULL, len, data);
        free(data);
        if (m == NULL || m->n_partitions != 1) {
            /* It was taken, but what became of it cannot be read. */
            sti_err_set(&row.err, STI_E_INTERNAL, "Produce: malformed response");
            failure = &row;
        } else {
            result = m->partitions[0];
            if (result->error != NULL && result->error->code != STREAMIT__V1__ERROR_CODE__OK) {
                cl_failure_from_error(&row, result->error);
                failure = &row;
            }
        }
    }
    pthread_mutex_lock(&producer->mu);
    producer->busy++;
    if (failure == NULL || !batch_retry(b, failure)) {
        part->in_flight = NULL;
        batch_report(b, failure == NULL ? STI_OK : failure->err.code,
                     failure == NULL ? result : NULL, failure == NULL ? NULL : &failure->err);
        kick(part);
    }
    producer->busy--; /* last, as above */
    pthread_cond_broadcast(&producer->room);
    pthread_mutex_unlock(&producer->mu);
    if (m != NULL) {
        streamit__v1__produce_response__free_unpacked(m, NULL);
    }
}

static void linger_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct partition *part = CL_CONTAINER_OF(alarm, struct partition, linger);
    struct sti_producer *producer = part->topic->producer;
    (void)cancelled;
    pthread_mutex_lock(&producer->mu);
    part->lingering = false;
    kick(part);
    producer->busy--; /* last: once nothing is under way a close may free everything */
    pthread_cond_broadcast(&producer->room);
    pthread_mutex_unlock(&producer->mu);
}

/* May the open batch go although it is not full? @locks producer->mu held */
static bool open_is_due(struct partition *part)
{
    const struct sti_producer *producer = part->topic->producer;
    uint64_t linger = (uint64_t)producer->config.linger_ms * 1000u;
    if (linger == 0 || producer->flushing > 0 || producer->closing ||
        cl_now_us() >= part->open->first_us + linger) {
        return true;
    }
    if (!part->lingering) {
        part->lingering = true;
        alarm_begin(part, &part->linger, part->open->first_us + linger);
    }
    return false;
}

static void queue_push(struct partition *part, struct batch *b)
{
    b->next = NULL;
    if (part->queue_tail != NULL) {
        part->queue_tail->next = b;
    } else {
        part->queue_head = b;
    }
    part->queue_tail = b;
}

/* A batch of `bytes` leaves the partition: keyless records go to the next one, once this one has
 * had its share. Moving on with each batch would make the batches of a slow producer as small as
 * they can be. @locks producer->mu held */
static void sticky_advance(struct partition *part, uint64_t bytes)
{
    struct sti_producer_topic *topic = part->topic;
    if (topic->sticky != part->index) {
        return;
    }
    topic->sticky_bytes =
        bytes > STICKY_BYTES - topic->sticky_bytes ? STICKY_BYTES : topic->sticky_bytes + bytes;
    if (topic->sticky_bytes == STICKY_BYTES) {
        topic->sticky = (part->index + 1) % topic->count;
        topic->sticky_bytes = 0;
    }
}

/* Send the next batch if none is in flight. @locks producer->mu held, dropped meanwhile */
static void kick(struct partition *part)
{
    struct sti_producer *producer = part->topic->producer;
    while (part->in_flight == NULL) {
        struct batch *b = part->queue_head;
        if (b != NULL && b->ready) {
            part->queue_head = b->next;
            if (part->queue_head == NULL) {
                part->queue_tail = NULL;
            }
        } else if (b == NULL && part->open != NULL && open_is_due(part)) {
            b = part->open;
            part->open = NULL;
            sticky_advance(part, b->window_bytes);
        } else {
            return; /* nothing, or its sender is still finishing it and kicks then */
        }
        part->in_flight = b;
        pthread_mutex_unlock(&producer->mu);
        if (!b->ready) {
            batch_finish(b);
            b->ready = true;
        }
        bool late = cl_now_us() >= batch_due_us(b);
        pthread_mutex_lock(&producer->mu);
        if (b->finish_status == STI_OK && !late && !producer->closing) {
            b->started = true;
            pthread_mutex_unlock(&producer->mu);
            batch_dispatch(b);
            pthread_mutex_lock(&producer->mu);
            return;
        }
        part->in_flight = NULL;
        if (producer->closing && b->finish_status == STI_OK) {
            sti_err_set(&b->last, STI_E_CANCELLED, "%s-%d: the producer was closed",
                        part->topic->topic->name, part->index);
            b->last.traits = 0;
        } else if (late && b->finish_status == STI_OK) {
            sti_err_set(&b->last, STI_E_TIMED_OUT, "%s-%d: not sent within %u ms",
                        part->topic->topic->name, part->index, producer->config.timeout_ms);
            b->last.traits = 0; /* it was not sent: nothing is unknown */
        }
        batch_report(b, b->last.code, NULL, &b->last);
    }
}

/* ---- records in ---------------------------------------------------------------------------- */

/* @locks producer->mu held */
static int choose_partition(struct sti_producer_topic *topic,
                            const struct sti_producer_record *record, struct sti_err *err)
{
    if (record->partition >= 0) {
        if (record->partition >= topic->count) {
            return sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                               "topic %s has %d partitions, not a partition %d", topic->topic->name,
                               topic->count, record->partition);
        }
        return record->partition;
    }
    return record->key != NULL ? sti_partition_of_key(record->key, record->key_len, topic->count)
                               : topic->sticky;
}

/* Close the full open batch of a partition and finish it on this thread. @locks producer->mu held,
 * dropped meanwhile */
static void open_close(struct partition *part)
{
    struct sti_producer *producer = part->topic->producer;
    struct batch *b = part->open;
    part->open = NULL;
    queue_push(part, b);
    sticky_advance(part, UINT64_MAX);
    pthread_mutex_unlock(&producer->mu);
    batch_finish(b);
    pthread_mutex_lock(&producer->mu);
    b->ready = true;
    kick(part);
}

/* Wait for room in the window. @locks producer->mu held */
static int window_wait(struct sti_producer *producer, uint64_t bytes, bool no_wait,
                       struct sti_err *err)
{
    uint64_t due = 0;
    while (producer->window_used > 0 &&
           producer->window_used + bytes > producer->config.window_bytes && !producer->closing) {
        if (no_wait || cl_on_poll_thread(producer->client)) {
            return sti_err_set(err, STI_E_WOULD_BLOCK, "the producer's window is full");
        }
        if (due == 0) {
            due = cl_now_us() + (uint64_t)producer->config.timeout_ms * 1000u;
        }
        if (!cl_cond_wait_until(&producer->room, &producer->mu, due)) {
            return sti_err_set(
                err, STI_E_TIMED_OUT, "no room in the producer's window of %llu bytes for %u ms",
                (unsigned long long)producer->config.window_bytes, producer->config.timeout_ms);
        }
    }
    return producer->closing ? sti_err_set(err, STI_E_CANCELLED, "the producer is being closed")
                             : STI_OK;
}

static int64_t real_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Put a record into the open batch of its partition, which has room. @locks producer->mu held */
static int record_append(struct partition *part, const struct sti_producer_record *record,
                         uint64_t bytes, struct sti_err *err)
{
    struct sti_producer *producer = part->topic->producer;
    bool fresh = part->open == NULL;
    struct batch *b = fresh ? batch_get(producer, part, err) : part->open;
    if (b == NULL) {
        return STI_E_NO_MEMORY;
    }
    int64_t timestamp =
        record->timestamp_ms == STI_TIMESTAMP_NOW ? real_ms() : record->timestamp_ms;
    int rc = batch_remember(b, record->opaque);
    if (rc != STI_OK) {
        sti_err_set(err, rc, "producer: out of memory");
    } else {
        rc = sti_batch_builder_append(b->builder, timestamp, record->key, record->key_len,
                                      record->value, record->value_len, record->headers,
                                      record->header_count, err);
        b->count -= rc == STI_OK ? 0u : 1u;
    }
    if (rc != STI_OK && fresh) {
        producer->outstanding--;
        if (!batch_keep(producer, b)) {
            batch_free(b);
        }
        return rc;
    }
    if (rc == STI_OK) {
        if (fresh) {
            b->first_us = cl_now_us();
            part->open = b;
        }
        b->window_bytes += bytes;
        producer->window_used += bytes;
    }
    return rc;
}

int sti_producer_send(struct sti_producer_topic *topic, const struct sti_producer_record *record,
                      struct sti_err *err)
{
    struct sti_producer *producer = topic->producer;
    uint64_t bytes = sti_batch_record_len_max(record->key_len, record->value_len, record->headers,
                                              record->header_count);
    uint64_t limit = producer->config.batch_bytes < topic->message_bytes_max
                         ? producer->config.batch_bytes
                         : topic->message_bytes_max;
    pthread_mutex_lock(&producer->mu);
    int rc = window_wait(producer, bytes, (record->flags & STI_SEND_NO_WAIT) != 0, err);
    if (rc == STI_OK) {
        rc = choose_partition(topic, record, err);
    }
    if (rc < 0) {
        pthread_mutex_unlock(&producer->mu);
        return rc;
    }
    struct partition *part = topic->parts[rc];
    if (part->open != NULL && sti_batch_builder_len(part->open->builder) + bytes > limit) {
        bool keyless = record->partition < 0 && record->key == NULL;
        open_close(part);
        part = keyless ? topic->parts[topic->sticky] : part;
    }
    rc = record_append(part, record, bytes, err);
    if (rc == STI_OK && part->in_flight == NULL) {
        kick(part);
    }
    pthread_mutex_unlock(&producer->mu);
    return rc;
}

/* ---- the object ---------------------------------------------------------------------------- */

void sti_producer_config_init(struct sti_producer_config *config)
{
    *config = (struct sti_producer_config){.struct_size = sizeof *config,
                                           .acks = STI_PRODUCER_ACKS_QUORUM,
                                           .codec = STI_CODEC_NONE,
                                           .batch_bytes = 1 << 20,
                                           .window_bytes = 32 << 20,
                                           .timeout_ms = 30000};
}

int sti_producer_new(struct sti_producer **out, struct sti_client *client,
                     const struct sti_producer_config *config, struct sti_err *err)
{
    *out = NULL;
    if (config->acks < STI_PRODUCER_ACKS_QUORUM || config->acks > STI_PRODUCER_ACKS_NONE) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "producer: acks %d, expected 0 to 2",
                           config->acks);
    }
    if (sti_codec_name(config->codec) == NULL) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "producer: codec %d, expected 0 to 4",
                           config->codec);
    }
    struct sti_producer *producer = calloc(1, sizeof *producer);
    if (producer == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "producer: out of memory");
    }
    producer->client = client;
    producer->config = *config;
    pthread_mutex_init(&producer->mu, NULL);
    cl_cond_init(&producer->room);
    *out = producer;
    return STI_OK;
}

static struct sti_producer_topic *topic_make(struct sti_producer *producer, struct cl_topic *known)
{
    struct sti_producer_topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&known->mu);
    topic->count = known->count;
    topic->message_bytes_max = known->message_bytes_max;
    pthread_mutex_unlock(&known->mu);
    topic->producer = producer;
    topic->topic = known;
    topic->sticky = (int32_t)(cl_now_us() % (uint64_t)topic->count);
    topic->parts = calloc((size_t)topic->count, sizeof(void *));
    for (int32_t i = 0; topic->parts != NULL && i < topic->count; i++) {
        struct partition *part = calloc(1, sizeof *part);
        if (part == NULL) {
            return topic; /* the caller sees the missing entry */
        }
        part->topic = topic;
        part->index = i;
        part->linger.fire = linger_fire;
        part->retry.fire = retry_fire;
        topic->parts[i] = part;
    }
    return topic;
}

static void topic_free(struct sti_producer_topic *topic)
{
    for (int32_t i = 0; topic->parts != NULL && i < topic->count; i++) {
        free(topic->parts[i]);
    }
    free(topic->parts);
    free(topic);
}

int sti_producer_topic_open(struct sti_producer_topic **out, struct sti_producer *producer,
                            const char *name, struct sti_err *err)
{
    uint64_t due = cl_now_us() + (uint64_t)producer->config.timeout_ms * 1000u;
    struct sti_producer_topic *topic;
    *out = NULL;
    pthread_mutex_lock(&producer->mu);
    for (topic = producer->topics; topic != NULL && strcmp(topic->topic->name, name) != 0;
         topic = topic->next) {
    }
    pthread_mutex_unlock(&producer->mu);
    if (topic != NULL) {
        *out = topic;
        return STI_OK;
    }
    struct cl_topic *known = cl_topic_get(producer->client, name);
    if (known == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "producer: out of memory");
    }
    int rc = cl_topic_refresh(known, due, err);
    if (rc == STI_E_UNKNOWN_TOPIC && cl_topic_ask_for(known, due, err) == STI_OK) {
        rc = cl_topic_refresh(known, due, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    topic = topic_make(producer, known);
    if (topic == NULL || topic->parts == NULL || topic->parts[topic->count - 1] == NULL) {
        if (topic != NULL) {
            topic_free(topic);
        }
        return sti_err_set(err, STI_E_NO_MEMORY, "producer: out of memory");
    }
    pthread_mutex_lock(&producer->mu);
    topic->next = producer->topics;
    producer->topics = topic;
    pthread_mutex_unlock(&producer->mu);
    *out = topic;
    return STI_OK;
}

int32_t sti_producer_topic_partitions(struct sti_producer_topic *topic)
{
    return topic->count;
}

uint64_t sti_producer_topic_message_bytes_max(struct sti_producer_topic *topic)
{
    return topic->message_bytes_max;
}

/* @locks producer->mu held, dropped meanwhile */
static void kick_all(struct sti_producer *producer)
{
    for (struct sti_producer_topic *topic = producer->topics; topic != NULL; topic = topic->next) {
        for (int32_t i = 0; i < topic->count; i++) {
            kick(topic->parts[i]);
        }
    }
}

int sti_producer_flush(struct sti_producer *producer, uint32_t timeout_ms, struct sti_err *err)
{
    uint64_t due = cl_now_us() + (uint64_t)timeout_ms * 1000u;
    bool in_time = true;
    if (cl_on_poll_thread(producer->client)) {
        return sti_err_set(err, STI_E_WOULD_BLOCK, "flush: not from a callback");
    }
    pthread_mutex_lock(&producer->mu);
    producer->flushing++;
    kick_all(producer);
    while (producer->outstanding > 0 && in_time) {
        in_time = cl_cond_wait_until(&producer->room, &producer->mu, due);
    }
    producer->flushing--;
    uint64_t left = producer->outstanding;
    pthread_mutex_unlock(&producer->mu);
    return left == 0 ? STI_OK
                     : sti_err_set(err, STI_E_TIMED_OUT,
                                   "flush: %llu batches are not acknowledged after %u ms",
                                   (unsigned long long)left, timeout_ms);
}

/* Fail what has not been sent, and have what is under way end soon. @locks producer->mu held,
 * dropped meanwhile */
static void cancel_partition(struct partition *part)
{
    struct sti_err err;
    sti_err_set(&err, STI_E_CANCELLED, "%s-%d: the producer was closed before the record was sent",
                part->topic->topic->name, part->index);
    err.traits = 0;
    if (part->backing_off) {
        cl_alarm_cancel(part->topic->producer->client, &part->retry);
    } else if (part->in_flight != NULL && part->in_flight->started) {
        cl_call_cancel(&part->in_flight->call);
    }
    if (part->lingering) {
        cl_alarm_cancel(part->topic->producer->client, &part->linger);
    }
    if (part->open != NULL) {
        queue_push(part, part->open);
        part->open = NULL;
    }
    while (part->queue_head != NULL) {
        struct batch *b = part->queue_head;
        part->queue_head = b->next;
        if (part->queue_head == NULL) {
            part->queue_tail = NULL;
        }
        batch_report(b, STI_E_CANCELLED, NULL, &err);
    }
}

void sti_producer_close(struct sti_producer *producer, uint32_t timeout_ms)
{
    if (producer == NULL) {
        return;
    }
    (void)sti_producer_flush(producer, timeout_ms, NULL);
    pthread_mutex_lock(&producer->mu);
    producer->closing = true;
    pthread_cond_broadcast(&producer->room);
    for (struct sti_producer_topic *topic = producer->topics; topic != NULL; topic = topic->next) {
        for (int32_t i = 0; i < topic->count; i++) {
            cancel_partition(topic->parts[i]);
        }
    }
    while (producer->outstanding > 0 || producer->busy > 0) {
        pthread_cond_wait(&producer->room, &producer->mu);
    }
    pthread_mutex_unlock(&producer->mu);
    while (producer->spare != NULL) {
        struct batch *b = producer->spare;
        producer->spare = b->next;
        batch_free(b);
    }
    while (producer->topics != NULL) {
        struct sti_producer_topic *topic = producer->topics;
        producer->topics = topic->next;
        topic_free(topic);
    }
    pthread_cond_destroy(&producer->room);
    pthread_mutex_destroy(&producer->mu);
    free(producer);
}
