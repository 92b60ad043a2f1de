/* producer.c -- records into batches, and what became of them into reports: see producer.h.
 *
 * Who works. The sending thread fills and, when a batch is full, finishes it (checksum,
 * compression); whoever sends a batch that was not full finishes that. Reports are made on the poll
 * thread only.
 */
#include "producer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A batch that is a little too large is left to the server, which may know a newer limit; a much
 * larger one would end the stream, and leave others in doubt. */
enum { STICKY_BYTES = 16384, STICKY_CHOICES = 8, FINISH_WAIT_US = 10000, TOO_LARGE_SLACK = 32768 };

/* ---- batches ------------------------------------------------------------------------------- */

void batch_list_push(struct batch_list *list, struct batch *b)
{
    b->next = NULL;
    if (list->tail != NULL) {
        list->tail->next = b;
    } else {
        list->head = b;
    }
    list->tail = b;
}

bool batch_list_remove(struct batch_list *list, struct batch *b)
{
    struct batch *before = NULL;
    for (struct batch **at = &list->head; *at != NULL; at = &before->next) {
        if (*at == b) {
            *at = b->next;
            list->tail = list->tail == b ? before : list->tail;
            return true;
        }
        before = *at;
    }
    return false;
}

static void batch_free(struct batch *b)
{
    sti_batch_builder_free(b->builder);
    free(b->opaques);
    free(b);
}

/* The last of owner and messages lets go. Any thread, lock held or not. */
static void batch_unref(void *arg)
{
    struct batch *b = arg;
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1) {
        batch_free(b);
    }
}

grpc_slice producer_batch_slice(struct batch *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return grpc_slice_new_with_user_data((void *)(uintptr_t)b->data, b->len, batch_unref, b);
}

uint64_t producer_batch_due_us(const struct batch *b)
{
    return b->first_us + (uint64_t)b->part->topic->producer->config.timeout_ms * 1000u;
}

static void expiry_arm(struct sti_producer *producer, uint64_t due_us)
{
    if (!producer->expiry_armed) {
        producer->expiry_armed = true;
        producer_alarm(producer, &producer->expiry, due_us);
    }
}

/* An empty batch for a partition. @locks producer->mu held */
static struct batch *batch_get(struct partition *part, struct sti_err *err)
{
    struct sti_producer *producer = part->topic->producer;
    struct batch *b = producer->spare;
    if (b != NULL) {
        producer->spare = b->next;
        producer->spare_bytes -= sti_batch_builder_len(b->builder);
        sti_batch_builder_reset(b->builder);
    } else {
        b = calloc(1, sizeof *b);
        if (b == NULL || sti_batch_builder_new(&b->builder, producer->config.codec,
                                               producer->config.codec_level, err) != STI_OK) {
            free(b);
            (void)sti_err_set(err, STI_E_NO_MEMORY, "%s-%d: no memory for a batch",
                              part->topic->topic->name, part->index);
            return NULL;
        }
    }
    b->part = part;
    b->count = 0;
    b->window_bytes = 0;
    b->state = BATCH_OPEN;
    b->reported = false;
    b->data = NULL;
    b->len = 0;
    b->finish_status = STI_OK;
    sti_err_clear(&b->last);
    atomic_store(&b->refs, 1);
    return b;
}

/* Keep a batch for the next one, if gRPC has let its bytes go and there is no need to save memory.
 * @locks producer->mu held */
static void batch_put(struct sti_producer *producer, struct batch *b)
{
    size_t len = sti_batch_builder_len(b->builder);
    if (producer->spare_bytes + len > producer->config.window_bytes ||
        atomic_load_explicit(&b->refs, memory_order_acquire) != 1) {
        batch_unref(b);
        return;
    }
    b->next = producer->spare;
    producer->spare = b;
    producer->spare_bytes += len;
}

static int batch_remember(struct batch *b, void *opaque)
{
    if (b->count == b->opaque_capacity) {
        uint32_t capacity = b->opaque_capacity == 0 ? 16 : b->opaque_capacity * 2;
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

void producer_batch_finish(struct batch *b)
{
    const struct sti_producer_topic *topic = b->part->topic;
    uint64_t most = atomic_load(&topic->message_bytes_max);
    b->finish_status = sti_batch_builder_finish(b->builder, &b->data, &b->len, &b->last);
    if (b->finish_status == STI_OK && b->len > most + TOO_LARGE_SLACK) {
        b->finish_status =
            sti_err_set(&b->last, STI_E_MESSAGE_TOO_LARGE,
                        "%s-%d: the batch has %zu bytes, the topic's max.message.bytes is %llu",
                        topic->topic->name, b->part->index, b->len, (unsigned long long)most);
    }
}

/* ---- reporting ----------------------------------------------------------------------------- */

/* From here on the batch counts as under way no longer. @locks producer->mu held */
static void batch_account(struct batch *b)
{
    struct sti_producer *producer = b->part->topic->producer;
    *(b->older != NULL ? &b->older->newer : &producer->oldest) = b->newer;
    *(b->newer != NULL ? &b->newer->older : &producer->newest) = b->older;
    b->part->load -= b->window_bytes;
    producer->window_used -= b->window_bytes;
    producer->window_count -= b->count;
    producer->outstanding--;
    if (producer->waiting > 0) {
        pthread_cond_broadcast(&producer->room);
    }
}

/* @thread poll thread. @locks producer->mu held, dropped meanwhile */
static void purge_all(struct sti_producer *producer);

/* Is this the failure that ends the producer? */
static bool stops(struct sti_producer *producer, const struct sti_err *err)
{
    if (err == NULL || producer->stopped || producer->closing ||
        (producer->config.flags & STI_PRODUCER_STOP_AT_FAILURE) == 0) {
        return false;
    }
    producer->stopped = true;
    producer->stop_err = *err;
    return true;
}

/* @locks producer->mu held, dropped meanwhile */
static void batch_report(struct batch *b, const Streamit__V1__ProduceResult *result,
                         const struct sti_err *err)
{
    struct partition *part = b->part;
    struct sti_producer *producer = part->topic->producer;
    struct sti_delivery delivery = {.struct_size = sizeof delivery,
                                    .partition = part->index,
                                    .topic = part->topic->topic->name,
                                    .status = err == NULL ? STI_OK : err->code,
                                    .count = b->count,
                                    .opaques = b->opaques,
                                    .base_offset = result == NULL ? -1 : result->base_offset,
                                    .err = err,
                                    .leader_epoch = result == NULL ? -1 : result->leader_epoch,
                                    .replicas = result == NULL ? 0 : result->replicas,
                                    .replicas_synced =
                                        result == NULL ? 0 : result->replicas_synced};
    bool last = stops(producer, err);
    if (producer->config.on_delivery != NULL) {
        producer->busy++;
        pthread_mutex_unlock(&producer->mu);
        producer->config.on_delivery(producer->config.arg, &delivery);
        pthread_mutex_lock(&producer->mu);
        producer->busy--; /* who called is busy as well */
    }
    batch_account(b);
    if (last) {
        purge_all(producer);
    }
}

void producer_batch_end(struct batch *b, const Streamit__V1__ProduceResult *result,
                        const struct sti_err *err)
{
    struct sti_producer *producer = b->part->topic->producer;
    if (b->reported) {
        batch_put(producer, b);
    } else if (cl_on_poll_thread(producer->client)) {
        batch_report(b, result, err);
        batch_put(producer, b);
    } else { /* only failures are met on other threads */
        b->last = *err;
        b->reported = true; /* by nobody else */
        batch_list_push(&producer->ended, b);
        if (!producer->ended_armed) {
            producer->ended_armed = true;
            producer_alarm(producer, &producer->ended_alarm, cl_now_us());
        }
    }
}

static void ended_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct sti_producer *producer = CL_CONTAINER_OF(alarm, struct sti_producer, ended_alarm);
    (void)cancelled;
    pthread_mutex_lock(&producer->mu);
    producer->ended_armed = false;
    while (producer->ended.head != NULL) {
        struct batch *b = producer->ended.head;
        struct sti_err err = b->last;
        (void)batch_list_remove(&producer->ended, b);
        batch_report(b, NULL, &err);
        batch_put(producer, b);
    }
    producer_idle(producer);
}

/* ---- time ---------------------------------------------------------------------------------- */

void producer_alarm(struct sti_producer *producer, struct cl_alarm *alarm, uint64_t due_us)
{
    producer->busy++;
    cl_alarm_start(producer->client, alarm, due_us);
}

void producer_idle(struct sti_producer *producer)
{
    producer->busy--;
    if (producer->waiting > 0) {
        pthread_cond_broadcast(&producer->room);
    }
    pthread_mutex_unlock(&producer->mu);
}

/* Why a batch that was not sent in time was not. */
static void expiry_reason(const struct batch *b, struct sti_err *err)
{
    const struct partition *part = b->part;
    if (b->last.code != STI_OK) {
        *err = b->last;
    } else if (part->stream != NULL && part->stream->last.code != STI_OK && part->under_way == 0) {
        *err = part->stream->last;
    } else {
        (void)sti_err_set(err, STI_E_TIMED_OUT, "%s-%d: not sent within %u ms",
                          part->topic->topic->name, part->index,
                          part->topic->producer->config.timeout_ms);
    }
    err->traits &= ~STI_TRAIT_INDEFINITE; /* it was not sent, or known to have failed */
}

static void linger_remove(struct partition *part);

/* Report a batch whose time is over. @return false: not now. @locks producer->mu held, dropped
 * meanwhile */
static bool batch_expire(struct batch *b)
{
    struct partition *part = b->part;
    struct sti_err err;
    if (b->state == BATCH_FINISHING || b->reported) {
        return false;
    }
    if (b->state == BATCH_SENT) {
        if (cl_now_us() < producer_batch_due_us(b) + CL_DEADLINE_SLACK_US) {
            return false; /* the server's own word shall come first */
        }
        (void)sti_err_set(&err, STI_E_TIMED_OUT, "%s-%d: no answer within %u ms",
                          part->topic->topic->name, part->index,
                          part->topic->producer->config.timeout_ms);
        batch_report(b, NULL, &err);
        b->reported = true; /* it stays among the sent ones until its answer comes */
        return true;
    }
    expiry_reason(b, &err);
    if (b->state == BATCH_OPEN) {
        part->open = NULL;
        linger_remove(part);
    } else if (!batch_list_remove(&part->queue, b)) {
        (void)batch_list_remove(&part->sent, b);
    }
    producer_batch_end(b, NULL, &err);
    return true;
}

static void expiry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct sti_producer *producer = CL_CONTAINER_OF(alarm, struct sti_producer, expiry);
    pthread_mutex_lock(&producer->mu);
    producer->expiry_armed = false;
    uint64_t now = cl_now_us(), due = UINT64_MAX;
    struct batch *b = cancelled ? NULL : producer->oldest;
    while (b != NULL && due == UINT64_MAX) {
        if (producer_batch_due_us(b) > now) {
            due = producer_batch_due_us(b);
        } else if (batch_expire(b)) {
            b = producer->oldest; /* the lock was dropped: begin anew */
            continue;
        } else if (b->state == BATCH_SENT && !b->reported) {
            due = producer_batch_due_us(b) + CL_DEADLINE_SLACK_US;
        } else {
            due = now + FINISH_WAIT_US;
        }
        b = b->newer;
    }
    if (due != UINT64_MAX) {
        expiry_arm(producer, due);
    }
    producer_idle(producer);
}

/* ---- linger: all wait equally long, so who began first is due first ---- */

static void linger_arm(struct sti_producer *producer)
{
    if (producer->linger_head != NULL && !producer->linger_armed && !producer->closing) {
        producer->linger_armed = true;
        producer_alarm(producer, &producer->linger,
                       producer->linger_head->open->first_us +
                           (uint64_t)producer->config.linger_ms * 1000u);
    }
}

static void linger_add(struct partition *part)
{
    struct sti_producer *producer = part->topic->producer;
    part->lingering = true;
    part->linger_prev = producer->linger_tail;
    part->linger_next = NULL;
    *(part->linger_prev != NULL ? &part->linger_prev->linger_next : &producer->linger_head) = part;
    producer->linger_tail = part;
    linger_arm(producer);
}

static void linger_remove(struct partition *part)
{
    struct sti_producer *producer = part->topic->producer;
    if (part->lingering) {
        part->lingering = false;
        *(part->linger_prev != NULL ? &part->linger_prev->linger_next : &producer->linger_head) =
            part->linger_next;
        *(part->linger_next != NULL ? &part->linger_next->linger_prev : &producer->linger_tail) =
            part->linger_prev;
    }
}

static void linger_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct sti_producer *producer = CL_CONTAINER_OF(alarm, struct sti_producer, linger);
    uint64_t linger_us = (uint64_t)producer->config.linger_ms * 1000u;
    (void)cancelled;
    pthread_mutex_lock(&producer->mu);
    producer->linger_armed = false;
    while (producer->linger_head != NULL &&
           cl_now_us() >= producer->linger_head->open->first_us + linger_us) {
        struct partition *part = producer->linger_head;
        linger_remove(part);
        producer_kick(part);
    }
    linger_arm(producer);
    producer_idle(producer);
}

/* ---- what may go --------------------------------------------------------------------------- */

/* May the open batch go although it is not full? */
static bool open_is_due(const struct partition *part)
{
    const struct sti_producer *producer = part->topic->producer;
    uint64_t linger_us = (uint64_t)producer->config.linger_ms * 1000u;
    return producer->flushing > 0 ||
           (part->under_way == 0 &&
            (linger_us == 0 ||
             (!part->lingering && cl_now_us() >= part->open->first_us + linger_us)));
}

bool producer_has(struct partition *part)
{
    struct batch *b = part->queue.head;
    if (part->topic->producer->closing) {
        return false;
    }
    return b != NULL ? b->state == BATCH_READY : part->open != NULL && open_is_due(part);
}

/* A batch of `bytes` leaves the partition: once it has had its share, keyless records go to
 * another one, of the next few the one that waits for least. Moving on with each batch would make
 * the batches of a slow producer as small as they can be. */
static void sticky_advance(struct partition *part, uint64_t bytes)
{
    struct sti_producer_topic *topic = part->topic;
    if (topic->sticky != part->index) {
        return;
    }
    topic->sticky_bytes =
        bytes > STICKY_BYTES - topic->sticky_bytes ? STICKY_BYTES : topic->sticky_bytes + bytes;
    if (topic->sticky_bytes < STICKY_BYTES) {
        return;
    }
    int32_t best = (part->index + 1) % topic->count;
    for (int32_t i = 2; i <= STICKY_CHOICES && i < topic->count; i++) {
        int32_t other = (part->index + i) % topic->count;
        if (topic->parts[other]->load < topic->parts[best]->load) {
            best = other;
        }
    }
    topic->sticky = best;
    topic->sticky_bytes = 0;
}

struct batch *producer_take(struct partition *part)
{
    struct batch *b = part->queue.head;
    if (b != NULL) {
        (void)batch_list_remove(&part->queue, b);
        return b;
    }
    b = part->open;
    part->open = NULL;
    linger_remove(part);
    sticky_advance(part, b->window_bytes);
    return b;
}

/* ---- records in ---------------------------------------------------------------------------- */

/* @locks producer->mu held */
static int choose_partition(const struct sti_producer_topic *topic, int32_t wanted,
                            const struct sti_producer_record *record, struct sti_err *err)
{
    if (wanted < STI_PARTITION_ANY || wanted >= topic->count) {
        return sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                           "topic %s has %d partitions, not a partition %d", topic->topic->name,
                           topic->count, wanted);
    }
    if (wanted >= 0) {
        return wanted;
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
    linger_remove(part);
    b->state = BATCH_FINISHING;
    batch_list_push(&part->queue, b);
    sticky_advance(part, UINT64_MAX);
    producer->busy++;
    pthread_mutex_unlock(&producer->mu);
    producer_batch_finish(b);
    pthread_mutex_lock(&producer->mu);
    b->state = BATCH_READY;
    if (b->finish_status != STI_OK) {
        struct sti_err err = b->last;
        (void)batch_list_remove(&part->queue, b);
        producer_batch_end(b, NULL, &err);
    }
    producer_kick(part);
    producer->busy--; /* who called is busy as well */
}

static bool window_is_full(const struct sti_producer *producer, uint64_t bytes)
{
    return producer->window_count > 0 &&
           (producer->window_used + bytes > producer->config.window_bytes ||
            producer->window_count >= producer->config.window_records);
}

/* Wait for room in the window. @locks producer->mu held */
static int window_wait(struct sti_producer *producer, uint64_t bytes, bool no_wait,
                       struct sti_err *err)
{
    uint64_t due = cl_due_us(producer->config.timeout_ms);
    bool in_time = true;
    while (window_is_full(producer, bytes) && !producer->closing && !producer->stopped && in_time) {
        if (no_wait || cl_on_poll_thread(producer->client)) {
            return sti_err_set(err, STI_E_WOULD_BLOCK, "the producer's window is full");
        }
        producer->waiting++;
        in_time = cl_cond_wait_until(&producer->room, &producer->mu, due);
        producer->waiting--;
    }
    if (!in_time && !producer->closing && !producer->stopped && window_is_full(producer, bytes)) {
        (void)sti_err_set(err, STI_E_TIMED_OUT,
                          "no room in the producer's window of %llu bytes and %u records for %u ms",
                          (unsigned long long)producer->config.window_bytes,
                          producer->config.window_records, producer->config.timeout_ms);
        if (err != NULL) {
            err->traits &= ~STI_TRAIT_INDEFINITE; /* the record was not taken */
        }
        return STI_E_TIMED_OUT;
    }
    return STI_OK;
}

static int64_t real_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The batch has its first record. @locks producer->mu held */
static void open_begin(struct partition *part, struct batch *b)
{
    struct sti_producer *producer = part->topic->producer;
    b->first_us = cl_now_us();
    part->open = b;
    b->newer = NULL;
    b->older = producer->newest;
    *(b->older != NULL ? &b->older->newer : &producer->oldest) = b;
    producer->newest = b;
    producer->outstanding++;
    expiry_arm(producer, producer_batch_due_us(b));
    if (producer->config.linger_ms > 0) {
        linger_add(part);
    }
}

/* Put a record into the open batch of its partition, which has room. @locks producer->mu held */
static int record_append(struct partition *part, const struct sti_producer_record *record,
                         uint64_t bytes, struct sti_err *err)
{
    struct sti_producer *producer = part->topic->producer;
    struct batch *b = part->open != NULL ? part->open : batch_get(part, err);
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
    if (rc != STI_OK) {
        if (b != part->open) {
            batch_put(producer, b);
        }
        return rc;
    }
    if (b != part->open) {
        open_begin(part, b);
    }
    b->window_bytes += bytes;
    part->load += bytes;
    producer->window_used += bytes;
    producer->window_count++;
    return STI_OK;
}

/* Takes the producer no more records? */
static int over(const struct sti_producer_topic *topic, struct sti_err *err)
{
    const struct sti_producer *producer = topic->producer;
    int rc = STI_OK;
    if (producer->stopped) {
        rc = sti_err_set(err, producer->stop_err.code, "%s", producer->stop_err.msg);
    } else if (producer->closing) {
        rc = sti_err_set(err, STI_E_CANCELLED, "topic %s: the producer is being closed",
                         topic->topic->name);
    }
    if (rc != STI_OK && err != NULL) {
        err->traits = 0; /* the record was not taken */
    }
    return rc;
}

/* The rarer part of a send: room has to be waited for, a batch is full, or one may go at once.
 * @locks producer->mu held, dropped meanwhile */
static int send_slow(struct sti_producer_topic *topic, const struct sti_producer_record *record,
                     int32_t wanted, uint64_t bytes, uint64_t limit, struct sti_err *err)
{
    struct sti_producer *producer = topic->producer;
    struct partition *part = NULL;
    bool full;
    do { /* closing a full batch drops the lock: others may have taken the room meanwhile */
        int rc = window_wait(producer, bytes, (record->flags & STI_SEND_NO_WAIT) != 0, err);
        rc = rc == STI_OK ? over(topic, err) : rc;
        if (rc != STI_OK) {
            return rc;
        }
        part = topic->parts[choose_partition(topic, wanted, record, NULL)];
        full = part->open != NULL && sti_batch_builder_len(part->open->builder) + bytes > limit;
        if (full) {
            open_close(part);
        }
    } while (full);
    int rc = record_append(part, record, bytes, err);
    if (rc == STI_OK) {
        producer_kick(part);
    }
    return rc;
}

static void topic_update(struct sti_producer_topic *topic);

int sti_producer_send(struct sti_producer_topic *topic, const struct sti_producer_record *record,
                      struct sti_err *err)
{
    struct sti_producer *producer = topic->producer;
    int32_t wanted = record->partition;
    uint64_t bytes = sti_batch_record_len_max(record->key_len, record->value_len, record->headers,
                                              record->header_count);
    if (wanted < 0 && producer->config.partition != NULL) {
        wanted = producer->config.partition(producer->config.arg, topic->topic->name, record,
                                            atomic_load(&topic->topic->count));
    }
    pthread_mutex_lock(&producer->mu);
    if (topic->version != atomic_load(&topic->topic->version)) {
        topic_update(topic);
    }
    uint64_t limit = atomic_load(&topic->message_bytes_max);
    limit = producer->config.batch_bytes < limit ? producer->config.batch_bytes : limit;
    int rc = choose_partition(topic, wanted, record, err);
    if (rc < 0) {
        pthread_mutex_unlock(&producer->mu);
        return rc;
    }
    struct partition *part = topic->parts[rc];
    bool quick = part->open != NULL && !window_is_full(producer, bytes) && !producer->closing &&
                 !producer->stopped && producer->flushing == 0 &&
                 sti_batch_builder_len(part->open->builder) + bytes <= limit;
    if (quick) { /* whoever may send the open batch has been told so when it was opened */
        rc = record_append(part, record, bytes, err);
        pthread_mutex_unlock(&producer->mu);
        return rc;
    }
    producer->busy++;
    rc = send_slow(topic, record, wanted, bytes, limit, err);
    producer_idle(producer);
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
                                           .timeout_ms = 30000,
                                           .max_in_flight = 5,
                                           .window_records = 1000000};
}

static int config_check(const struct sti_producer_config *config, struct sti_err *err)
{
    if (config->acks < STI_PRODUCER_ACKS_QUORUM || config->acks > STI_PRODUCER_ACKS_NONE) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "producer: acks %d, expected 0 to 2",
                           config->acks);
    }
    if (sti_codec_name(config->codec) == NULL) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "producer: codec %d, expected 0 to 4",
                           config->codec);
    }
    if (config->max_in_flight == 0 || config->window_records == 0 || config->timeout_ms == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "producer: max_in_flight %u, window_records %u, timeout_ms %u: none may "
                           "be 0",
                           config->max_in_flight, config->window_records, config->timeout_ms);
    }
    if ((config->flags & ~STI_PRODUCER_STOP_AT_FAILURE) != 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "producer: flags %#x are not known",
                           config->flags & ~STI_PRODUCER_STOP_AT_FAILURE);
    }
    return STI_OK;
}

int sti_producer_new(struct sti_producer **out, struct sti_client *client,
                     const struct sti_producer_config *config, struct sti_err *err)
{
    struct sti_producer_config own;
    *out = NULL;
    sti_producer_config_init(&own);
    int rc = cl_config_copy(&own, sizeof own, config,
                            offsetof(struct sti_producer_config, max_in_flight), "producer", err);
    rc = rc == STI_OK ? config_check(&own, err) : rc;
    if (rc != STI_OK) {
        return rc;
    }
    struct sti_producer *producer = calloc(1, sizeof *producer);
    if (producer == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "producer: out of memory");
    }
    producer->client = client;
    producer->config = own;
    producer->expiry.fire = expiry_fire;
    producer->linger.fire = linger_fire;
    producer->ended_alarm.fire = ended_fire;
    pthread_mutex_init(&producer->mu, NULL);
    cl_cond_init(&producer->room);
    *out = producer;
    return STI_OK;
}

/* Take over what was heard of the topic since. What cannot be taken for lack of memory is tried
 * again with the next record. @locks producer->mu held */
static void topic_update(struct sti_producer_topic *topic)
{
    struct cl_topic *known = topic->topic;
    pthread_mutex_lock(&known->mu);
    int32_t count = atomic_load(&known->count);
    uint32_t version = atomic_load(&known->version);
    atomic_store(&topic->message_bytes_max, known->message_bytes_max);
    pthread_mutex_unlock(&known->mu);
    struct partition **grown =
        count <= topic->count ? NULL : realloc(topic->parts, (size_t)count * sizeof(void *));
    if (grown == NULL) {
        topic->version = count <= topic->count ? version : topic->version;
        return;
    }
    topic->parts = grown;
    while (topic->count < count) {
        struct partition *part = calloc(1, sizeof *part);
        if (part == NULL) {
            return;
        }
        part->topic = topic;
        part->index = topic->count;
        topic->parts[topic->count++] = part;
    }
    topic->version = version;
}

static void topic_free(struct sti_producer_topic *topic)
{
    for (int32_t i = 0; i < topic->count; i++) {
        free(topic->parts[i]);
    }
    free(topic->parts);
    free(topic);
}

static struct sti_producer_topic *topic_find(struct sti_producer *producer, const char *name)
{
    struct sti_producer_topic *topic = producer->topics;
    while (topic != NULL && strcmp(topic->topic->name, name) != 0) {
        topic = topic->next;
    }
    return topic;
}

int sti_producer_topic_open(struct sti_producer_topic **out, struct sti_producer *producer,
                            const char *name, struct sti_err *err)
{
    uint64_t due = cl_due_us(producer->config.timeout_ms);
    pthread_mutex_lock(&producer->mu);
    *out = topic_find(producer, name);
    pthread_mutex_unlock(&producer->mu);
    if (*out != NULL) {
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
    struct sti_producer_topic *topic = calloc(1, sizeof *topic);
    if (topic != NULL) {
        topic->producer = producer;
        topic->topic = known;
        topic_update(topic);
    }
    if (topic == NULL || topic->count == 0) {
        free(topic);
        return sti_err_set(err, STI_E_NO_MEMORY, "producer: out of memory");
    }
    topic->sticky = (int32_t)(cl_now_us() % (uint64_t)topic->count);
    pthread_mutex_lock(&producer->mu);
    *out = topic_find(producer, name); /* another thread may have been faster */
    if (*out == NULL) {
        *out = topic;
        topic->next = producer->topics;
        producer->topics = topic;
        topic = NULL;
    }
    pthread_mutex_unlock(&producer->mu);
    if (topic != NULL) {
        topic_free(topic);
    }
    return STI_OK;
}

int32_t sti_producer_topic_partitions(struct sti_producer_topic *topic)
{
    return atomic_load(&topic->topic->count);
}

uint64_t sti_producer_topic_message_bytes_max(struct sti_producer_topic *topic)
{
    return atomic_load(&topic->message_bytes_max);
}

/* @locks producer->mu held, dropped meanwhile */
static void for_all(struct sti_producer *producer, void (*what)(struct partition *part))
{
    for (struct sti_producer_topic *topic = producer->topics; topic != NULL; topic = topic->next) {
        for (int32_t i = 0; i < topic->count; i++) {
            what(topic->parts[i]);
        }
    }
}

int sti_producer_flush(struct sti_producer *producer, uint32_t timeout_ms, struct sti_err *err)
{
    uint64_t due = cl_due_us(timeout_ms);
    bool in_time = true;
    if (cl_on_poll_thread(producer->client)) {
        return sti_err_set(err, STI_E_WOULD_BLOCK, "flush: not from a callback");
    }
    pthread_mutex_lock(&producer->mu);
    producer->busy++;
    producer->flushing++;
    for_all(producer, producer_kick);
    while (producer->outstanding > 0 && in_time) {
        producer->waiting++;
        in_time = cl_cond_wait_until(&producer->room, &producer->mu, due);
        producer->waiting--;
    }
    producer->flushing--;
    uint64_t left = producer->outstanding;
    producer_idle(producer);
    if (left == 0) {
        return STI_OK;
    }
    (void)sti_err_set(err, STI_E_TIMED_OUT, "flush: %llu batches are not acknowledged after %u ms",
                      (unsigned long long)left, timeout_ms);
    return STI_E_TIMED_OUT;
}

static void purge_list(struct partition *part, struct batch_list *list, enum batch_state state)
{
    struct sti_err err;
    (void)sti_err_set(&err, STI_E_CANCELLED, "%s-%d: cancelled before it was sent",
                      part->topic->topic->name, part->index);
    err.traits = 0;
    for (struct batch *b = list->head, *next; b != NULL; b = next) {
        next = b->next;
        if (b->state == state) {
            (void)batch_list_remove(list, b);
            producer_batch_end(b, NULL, &err);
            next = list->head; /* the lock may have been dropped: begin anew */
        }
    }
}

/* Fail what has not been sent, or is to be sent again. */
static void purge_queued(struct partition *part)
{
    struct batch_list open = {part->open, part->open};
    part->open = NULL;
    linger_remove(part);
    purge_list(part, &part->sent, BATCH_FAILED);
    purge_list(part, &part->queue, BATCH_READY);
    purge_list(part, &open, BATCH_OPEN);
}

static void purge_all(struct sti_producer *producer)
{
    for_all(producer, purge_queued);
}

void sti_producer_purge(struct sti_producer *producer, uint32_t what)
{
    pthread_mutex_lock(&producer->mu);
    producer->busy++;
    if ((what & STI_PURGE_QUEUED) != 0) {
        purge_all(producer);
    }
    if ((what & STI_PURGE_IN_FLIGHT) != 0) {
        producer_streams_cancel(producer);
    }
    producer_idle(producer);
}

static void cancel_retry(struct partition *part)
{
    if (part->backing_off) {
        cl_alarm_cancel(part->topic->producer->client, &part->retry);
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
    pthread_cond_broadcast(&producer->room); /* sends that wait give up */
    producer->waiting++;
    do {
        for_all(producer, purge_queued); /* again: a batch may have been about to go */
        for_all(producer, cancel_retry);
        producer_streams_cancel(producer);
        if (producer->outstanding > 0) {
            (void)cl_cond_wait_until(&producer->room, &producer->mu, cl_due_us(10));
        }
    } while (producer->outstanding > 0);
    producer->waiting--;
    producer_streams_close(producer);
    if (producer->expiry_armed) {
        cl_alarm_cancel(producer->client, &producer->expiry);
    }
    if (producer->linger_armed) {
        cl_alarm_cancel(producer->client, &producer->linger);
    }
    producer->waiting++;
    while (producer->busy > 0) {
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
    producer_streams_free(producer);
    pthread_cond_destroy(&producer->room);
    pthread_mutex_destroy(&producer->mu);
    free(producer);
}
