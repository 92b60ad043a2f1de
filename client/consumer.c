/* consumer.c -- handing records out, and which partitions are read: see consumer.h.
 *
 * Partitions with something ready take turns, a row at a time. Of a row one batch is opened at a
 * time: its checksum is computed where its bytes lie, scattered over what the network brought.
 * Records are handed out as pointers into that place, a limited number at a time, until the next
 * poll.
 */
#include "consumer.h"

#include <stdlib.h>
#include <string.h>

enum { RECORDS_MAX = 1024 };

/* ---- what is ready ------------------------------------------------------------------------- */

/* @locks consumer->mu held */
static void ready_free(struct ready *ready)
{
    struct message *message = ready->message;
    if (message != NULL && --message->refs == 0) {
        grpc_byte_buffer_destroy(message->buffer);
        free(message);
    }
    free(ready);
}

static void turn_push(struct reader *r)
{
    struct sti_consumer *c = r->consumer;
    r->turn = true;
    r->turn_next = NULL;
    *(c->turn_tail != NULL ? &c->turn_tail->turn_next : &c->turn_head) = r;
    c->turn_tail = r;
}

static void turn_remove(struct reader *r)
{
    struct sti_consumer *c = r->consumer;
    struct reader *before = NULL;
    for (struct reader **at = &c->turn_head; r->turn && *at != NULL; at = &before->turn_next) {
        if (*at == r) {
            *at = r->turn_next;
            c->turn_tail = c->turn_tail == r ? before : c->turn_tail;
            r->turn = false;
            return;
        }
        before = *at;
    }
}

void consumer_ready_push(struct reader *r, struct ready *ready)
{
    struct sti_consumer *c = r->consumer;
    ready->reader = r;
    ready->next = NULL;
    *(r->tail != NULL ? &r->tail->next : &r->head) = ready;
    r->tail = ready;
    c->held += ready->held;
    if (!r->turn) {
        turn_push(r);
    }
    pthread_cond_signal(&c->cond);
}

void consumer_stop(struct reader *r, const struct sti_err *err)
{
    struct ready *ready = calloc(1, sizeof *ready);
    r->stopped = true;
    if (ready != NULL) {
        ready->err = *err;
        consumer_ready_push(r, ready);
    }
}

/* Forget what is ready of a partition, also what is being handed out: its bytes stay until the next
 * poll. @locks consumer->mu held */
static void ready_drop(struct reader *r)
{
    struct sti_consumer *c = r->consumer;
    turn_remove(r);
    while (r->head != NULL) {
        struct ready *ready = r->head;
        r->head = ready->next;
        c->held -= ready->held;
        ready_free(ready);
    }
    r->tail = NULL;
    if (c->current != NULL && c->current->reader == r) {
        c->current->reader = NULL;
    }
}

/* What was being handed out is used up: its room goes to those who wait for it. */
static void current_done(struct sti_consumer *c)
{
    pthread_mutex_lock(&c->mu);
    c->held -= c->current->held;
    ready_free(c->current);
    c->current = NULL;
    consumer_receive(c);
    pthread_mutex_unlock(&c->mu);
    c->decoding = false;
}

/* Make c->current the next row. @return STI_OK, STI_E_WOULD_BLOCK (nothing in time),
 * STI_E_CANCELLED */
static int current_wait(struct sti_consumer *c, uint64_t due_us, struct sti_err *err)
{
    bool in_time = true;
    int rc = STI_OK;
    pthread_mutex_lock(&c->mu);
    while (c->turn_head == NULL && !c->woken && in_time) {
        in_time = cl_cond_wait_until(&c->cond, &c->mu, due_us);
    }
    struct reader *r = c->turn_head;
    if (c->woken) {
        c->woken = false;
        rc = sti_err_set(err, STI_E_CANCELLED, "the consumer was woken up");
    } else if (r == NULL) {
        rc = STI_E_WOULD_BLOCK;
    } else {
        turn_remove(r);
        c->current = r->head;
        r->head = r->head->next;
        if (r->head != NULL) {
            turn_push(r);
        } else {
            r->tail = NULL;
        }
    }
    pthread_mutex_unlock(&c->mu);
    return rc;
}

/* ---- opening batches ----------------------------------------------------------------------- */

bool consumer_follows(const struct sti_batch_header *header, int64_t expected, bool first)
{
    return first ? header->base_offset >= 0 && header->base_offset <= expected &&
                       sti_batch_last_offset(header) >= expected
                 : header->base_offset == expected;
}

int consumer_header(const struct cl_cursor *at, struct sti_batch_header *header,
                    struct sti_err *err)
{
    uint8_t bytes[STI_BATCH_HEADER_LEN];
    struct cl_cursor copy = *at;
    if (!cl_cursor_copy(&copy, bytes, sizeof bytes)) {
        return sti_err_set(err, STI_E_CORRUPT_BATCH, "it is cut short");
    }
    int rc = sti_batch_header_decode(bytes, sizeof bytes, header, err);
    if (rc == STI_OK && header->total_len > at->left) {
        rc = sti_err_set(err, STI_E_CORRUPT_BATCH, "it is cut short");
    }
    return rc;
}

static int data_loss(const struct reader *r, int64_t offset, const struct sti_err *cause,
                     struct sti_err *err)
{
    return sti_err_set(err, STI_E_DATA_LOSS, "%s-%d: the batch at offset %lld is damaged: %.120s",
                       r->topic->name, r->partition, (long long)offset, cause->msg);
}

/* Room for the pieces of any batch of a message. @return false: out of memory */
static bool pieces_reserve(struct sti_consumer *c, size_t count)
{
    if (count > c->pieces_capacity) {
        struct sti_slice *grown = malloc(2 * count * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        free(c->pieces);
        c->pieces = grown;
        c->pieces_capacity = 2 * count;
    }
    return true;
}

/* Check the next batch of a row and begin to decode it. */
static int batch_open(struct sti_consumer *c, struct ready *ready, struct sti_err *err)
{
    struct reader *r = ready->reader;
    struct sti_batch_header header = {.total_len = 0};
    struct sti_err cause;
    struct cl_cursor behind = ready->batches;
    size_t count = 0;
    int rc = consumer_header(&behind, &header, &cause);
    if (rc == STI_OK && !pieces_reserve(c, behind.count)) {
        return sti_err_set(err, STI_E_NO_MEMORY, "%s-%d: no memory for a batch of %llu bytes",
                           r->topic->name, r->partition, (unsigned long long)header.total_len);
    }
    if (rc == STI_OK) {
        count = cl_cursor_take(&behind, (size_t)header.total_len, c->pieces);
        rc = sti_batch_check(c->pieces, count, STI_CHECK_CRC, UINT64_MAX, &header, &cause);
    }
    if (rc == STI_OK && !consumer_follows(&header, r->next_offset, !ready->opened)) {
        rc = sti_err_set(&cause, STI_E_CORRUPT_BATCH, "it says that it holds %lld to %lld",
                         (long long)header.base_offset, (long long)sti_batch_last_offset(&header));
    }
    if (rc == STI_OK) {
        rc = sti_batch_iter_init_slices(&c->iter, c->pieces, count,
                                        (size_t)c->config.batch_bytes_max, &cause);
    }
    if (rc != STI_OK) {
        return data_loss(r, r->next_offset, &cause, err);
    }
    ready->batches = behind;
    ready->opened = true;
    c->decoding = true;
    return STI_OK;
}

/* Decode the next records of the open batch. @return STI_OK with *count, 0 at its end */
static int batch_decode(struct sti_consumer *c, struct ready *ready, size_t *count,
                        struct sti_err *err)
{
    struct reader *r = ready->reader;
    const struct sti_batch_header *header = &c->iter.header;
    bool skipped = (header->attributes & STI_BATCH_CONTROL) != 0;
    struct sti_err cause;
    size_t n = 0;
    int rc = STI_OK;
    while (n < RECORDS_MAX &&
           (rc = sti_batch_iter_next(&c->iter, &c->records[n], &cause)) == STI_OK) {
        n += c->records[n].offset >= r->next_offset && !skipped ? 1u : 0u;
    }
    *count = n;
    if (rc != STI_OK && rc != STI_E_END && n == 0) {
        return data_loss(r, header->base_offset, &cause, err);
    }
    if (rc == STI_E_END) {
        c->decoding = false;
        r->next_offset = sti_batch_last_offset(header) + 1;
    } else if (n > 0) { /* after damage behind these records the next poll meets it again */
        r->next_offset = c->records[n - 1].offset + 1;
    }
    return STI_OK;
}

/* An error ends the partition: nothing behind it is handed out. */
static void current_fail(struct sti_consumer *c)
{
    struct reader *r = c->current->reader;
    pthread_mutex_lock(&c->mu);
    r->stopped = true;
    ready_drop(r);
    consumer_drop(r, false);
    consumer_route(c);
    pthread_mutex_unlock(&c->mu);
}

int sti_consumer_poll(struct sti_consumer *c, uint32_t timeout_ms, struct sti_records *out,
                      struct sti_err *err)
{
    uint64_t due = cl_on_poll_thread(c->client) ? 0 : cl_due_us(timeout_ms);
    for (;;) {
        struct ready *ready = c->current;
        if (ready != NULL &&
            (ready->reader == NULL || (!c->decoding && ready->batches.left == 0))) {
            current_done(c);
            ready = NULL;
        }
        int rc = ready == NULL ? current_wait(c, due, err) : STI_OK;
        if (rc != STI_OK) {
            return rc;
        }
        size_t count = 0;
        ready = c->current;
        struct reader *r = ready->reader;
        *out = (struct sti_records){.struct_size = sizeof *out,
                                    .partition = r->partition,
                                    .topic = r->topic->name,
                                    .records = c->records,
                                    .high_watermark = ready->high_watermark};
        rc = ready->err.code;
        if (rc != STI_OK && err != NULL) {
            *err = ready->err;
        }
        if (rc == STI_OK && !c->decoding && ready->batches.left > 0) {
            rc = batch_open(c, ready, err);
        }
        if (rc == STI_OK && c->decoding) {
            rc = batch_decode(c, ready, &count, err);
        }
        if (rc != STI_OK) {
            current_fail(c);
            return rc;
        }
        if (count > 0) {
            out->count = count;
            return STI_OK;
        }
    }
}

void sti_consumer_wakeup(struct sti_consumer *c)
{
    pthread_mutex_lock(&c->mu);
    c->woken = true;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->mu);
}

/* ---- which partitions ---------------------------------------------------------------------- */

static struct reader *reader_find(const struct sti_consumer *c, const char *topic,
                                  int32_t partition)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i]->partition == partition &&
            strcmp(c->readers[i]->topic->name, topic) == 0) {
            return c->readers[i];
        }
    }
    return NULL;
}

static int reader_need(const struct sti_consumer *c, const char *topic, int32_t partition,
                       struct reader **out, struct sti_err *err)
{
    *out = reader_find(c, topic, partition);
    return *out != NULL ? STI_OK
                        : sti_err_set(err, STI_E_NOT_FOUND, "consumer: %s-%d is not assigned",
                                      topic, partition);
}

/* The offset that a starting point means. Waits for the leader's word where it must. */
static int start_offset(struct sti_consumer *c, const struct sti_assigned *from, uint64_t due_us,
                        int64_t *offset, struct sti_err *err)
{
    struct cl_topic *topic = cl_topic_get(c->client, from->topic);
    if (topic == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    int rc = cl_topic_need(topic, due_us, err);
    int32_t count = atomic_load(&topic->count);
    if (rc == STI_OK && from->partition >= count) { /* it may have grown */
        rc = cl_topic_refresh(topic, due_us, err);
        count = atomic_load(&topic->count);
    }
    if (rc == STI_OK && (from->partition < 0 || from->partition >= count)) {
        rc = sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                         "topic %s has %d partitions, not a partition %d", from->topic, count,
                         from->partition);
    }
    *offset = from->offset;
    if (rc == STI_OK && from->timestamp_ms >= 0) {
        rc = sti_admin_list_offset(c->client, from->topic, from->partition, from->timestamp_ms,
                                   offset, err);
        *offset = rc == STI_OK && *offset < 0 ? STI_START_END : *offset;
    }
    if (rc == STI_OK && *offset < 0) {
        rc = sti_admin_list_offset(
            c->client, from->topic, from->partition,
            *offset == STI_START_BEGINNING ? STI_START_BEGINNING : STI_START_END, offset, err);
    }
    return rc;
}

/* Let a partition go on from `offset`, as if it were new. @locks consumer->mu held */
static void reader_begin(struct reader *r, int64_t offset)
{
    ready_drop(r);
    consumer_drop(r, false);
    if (r->backing_off) {
        cl_alarm_cancel(r->consumer->client, &r->retry);
    }
    r->fetch_offset = r->next_offset = offset;
    r->fetched_epoch = -1;
    r->stopped = false;
    r->failures = 0;
}

static struct reader *reader_new(struct sti_consumer *c, const struct sti_assigned *from)
{
    struct reader *r = calloc(1, sizeof *r);
    if (r != NULL && c->count == c->capacity) {
        size_t capacity = c->capacity == 0 ? 16 : c->capacity * 2;
        struct reader **grown = realloc(c->readers, capacity * sizeof(void *));
        if (grown == NULL) {
            free(r);
            return NULL;
        }
        c->readers = grown;
        c->capacity = capacity;
    }
    if (r != NULL) {
        r->consumer = c;
        r->topic = cl_topic_get(c->client, from->topic);
        r->partition = from->partition;
        c->readers[c->count++] = r;
    }
    return r;
}

static int assigned_check(const struct sti_assigned *assigned, size_t count, struct sti_err *err)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (assigned[i].partition == assigned[j].partition &&
                strcmp(assigned[i].topic, assigned[j].topic) == 0) {
                return sti_err_set(err, STI_E_INVALID_ARGUMENT, "consumer: %s-%d is assigned twice",
                                   assigned[i].topic, assigned[i].partition);
            }
        }
    }
    return STI_OK;
}

int sti_consumer_assign(struct sti_consumer *c, const struct sti_assigned *assigned, size_t count,
                        struct sti_err *err)
{
    uint64_t due = cl_due_us(c->config.timeout_ms);
    int64_t *offsets = calloc(count + 1, sizeof *offsets);
    if (offsets == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    int rc = assigned_check(assigned, count, err);
    for (size_t i = 0; rc == STI_OK && i < count; i++) {
        rc = start_offset(c, &assigned[i], due, &offsets[i], err);
    }
    pthread_mutex_lock(&c->mu);
    for (size_t i = 0; rc == STI_OK && i < count; i++) {
        struct reader *r = reader_find(c, assigned[i].topic, assigned[i].partition);
        r = r == NULL ? reader_new(c, &assigned[i]) : r;
        if (r == NULL) {
            rc = sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
        } else {
            reader_begin(r, offsets[i]);
        }
    }
    consumer_route(c);
    pthread_mutex_unlock(&c->mu);
    free(offsets);
    return rc;
}

int sti_consumer_seek(struct sti_consumer *c, const struct sti_assigned *to, struct sti_err *err)
{
    struct reader *r;
    int64_t offset;
    int rc = reader_need(c, to->topic, to->partition, &r, err);
    if (rc == STI_OK) {
        rc = start_offset(c, to, cl_due_us(c->config.timeout_ms), &offset, err);
    }
    if (rc == STI_OK) {
        pthread_mutex_lock(&c->mu);
        reader_begin(r, offset);
        consumer_route(c);
        pthread_mutex_unlock(&c->mu);
    }
    return rc;
}

int sti_consumer_unassign(struct sti_consumer *c, const char *topic, int32_t partition,
                          struct sti_err *err)
{
    struct reader *r;
    int rc = reader_need(c, topic, partition, &r, err);
    if (rc != STI_OK) {
        return rc;
    }
    pthread_mutex_lock(&c->mu);
    reader_begin(r, 0);
    r->removed = true;
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i] == r) {
            c->readers[i] = c->readers[--c->count];
        }
    }
    if (!r->backing_off) {
        free(r); /* else its alarm frees it */
    }
    consumer_receive(c);
    consumer_route(c);
    pthread_mutex_unlock(&c->mu);
    return STI_OK;
}

static int pause_set(struct sti_consumer *c, const char *topic, int32_t partition, bool paused,
                     struct sti_err *err)
{
    struct reader *r;
    int rc = reader_need(c, topic, partition, &r, err);
    if (rc == STI_OK) {
        pthread_mutex_lock(&c->mu);
        if (r->paused != paused && paused && !r->stopped) {
            /* What is ready would take room from the others: it is read again. */
            reader_begin(r, r->next_offset);
        }
        r->paused = paused;
        consumer_receive(c);
        consumer_route(c);
        pthread_mutex_unlock(&c->mu);
    }
    return rc;
}

int sti_consumer_pause(struct sti_consumer *c, const char *topic, int32_t partition,
                       struct sti_err *err)
{
    return pause_set(c, topic, partition, true, err);
}

int sti_consumer_resume(struct sti_consumer *c, const char *topic, int32_t partition,
                        struct sti_err *err)
{
    return pause_set(c, topic, partition, false, err);
}

int sti_consumer_position(struct sti_consumer *c, const char *topic, int32_t partition,
                          int64_t *offset, struct sti_err *err)
{
    struct reader *r;
    int rc = reader_need(c, topic, partition, &r, err);
    *offset = rc == STI_OK ? r->next_offset : -1;
    return rc;
}

/* ---- the object ---------------------------------------------------------------------------- */

void sti_consumer_config_init(struct sti_consumer_config *config)
{
    *config = (struct sti_consumer_config){.struct_size = sizeof *config,
                                           .fetch_bytes = 1 << 20,
                                           .prefetch_bytes = 16 << 20,
                                           .batch_bytes_max = 256 << 20,
                                           .max_wait_ms = 5000,
                                           .timeout_ms = 30000};
}

int sti_consumer_new(struct sti_consumer **out, struct sti_client *client,
                     const struct sti_consumer_config *config, const struct sti_assigned *assigned,
                     size_t count, struct sti_err *err)
{
    struct sti_consumer_config own;
    *out = NULL;
    sti_consumer_config_init(&own);
    int rc = cl_config_copy(&own, sizeof own, config, sizeof own, "consumer", err);
    if (rc != STI_OK) {
        return rc;
    }
    if (own.max_wait_ms == 0 || own.timeout_ms == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "consumer: max_wait_ms %u, timeout_ms %u: none may be 0",
                           own.max_wait_ms, own.timeout_ms);
    }
    struct sti_consumer *c = calloc(1, sizeof *c);
    struct sti_record *records = calloc(RECORDS_MAX, sizeof *records);
    if (c == NULL || records == NULL) {
        free(c);
        free(records);
        return sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    c->client = client;
    c->config = own;
    c->records = records;
    pthread_mutex_init(&c->mu, NULL);
    cl_cond_init(&c->cond);
    rc = sti_consumer_assign(c, assigned, count, err);
    if (rc != STI_OK) {
        sti_consumer_close(c);
        return rc;
    }
    *out = c;
    return STI_OK;
}

void sti_consumer_close(struct sti_consumer *c)
{
    if (c == NULL) {
        return;
    }
    pthread_mutex_lock(&c->mu);
    consumer_streams_close(c);
    for (size_t i = 0; i < c->count; i++) {
        ready_drop(c->readers[i]);
        free(c->readers[i]);
    }
    if (c->current != NULL) {
        ready_free(c->current);
    }
    pthread_mutex_unlock(&c->mu);
    sti_batch_iter_fini(&c->iter);
    free(c->records);
    free(c->readers);
    free(c->pieces);
    pthread_cond_destroy(&c->cond);
    pthread_mutex_destroy(&c->mu);
    free(c);
}
