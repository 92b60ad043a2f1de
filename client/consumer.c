/* consumer.c -- reading partitions: one long poll each, answers kept ready, batches opened one at a
 * time.
 *
 *     fetch (poll thread) -> answer, in one block -> ready list -> sti_consumer_poll: check CRC,
 * decode, hand out one batch
 *
 * The next fetch of a partition begins as soon as its answer is in, unless prefetch_bytes are held
 * ready: its offset follows from the headers in the answer. Checking and decoding happen on the
 * thread that polls, so that the poll thread stays free.
 *
 * An error of a partition is put behind its ready answers and returned once; then the partition
 * rests.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* An answer with batches, or the error that ends a partition. */
struct ready {
    struct ready *next;
    struct reader *reader;
    uint8_t *data;            /* the whole message */
    const uint8_t *pos, *end; /* batches that are left */
    bool opened;              /* one of them was handed out */
    int64_t high_watermark;
    uint64_t held; /* bytes that count against prefetch */
    struct sti_err err;
};

struct reader {
    struct sti_consumer *consumer;
    struct cl_topic *topic;
    int32_t partition;
    int64_t fetch_offset;  /* of the next fetch */
    int64_t next_offset;   /* of the next record to hand out */
    int32_t fetched_epoch; /* of the last batch that was fetched, -1: none yet */
    struct cl_call call;
    struct cl_alarm retry;
    bool in_call, backing_off, stopped, idle; /* idle: waits for room */
    uint32_t failures;
    uint64_t failing_since_us;
};

struct sti_consumer {
    struct sti_client *client;
    struct sti_consumer_config config;
    pthread_mutex_t mu;
    pthread_cond_t cond; /* something is ready, or less is under way */
    struct reader *readers;
    size_t count;
    struct ready *head, *tail;
    uint64_t held;
    uint32_t under_way; /* calls and alarms */
    bool closing;
    struct ready *current; /* being handed out: poll's own */
    struct sti_batch_iter iter;
    struct sti_record *records;
    size_t record_capacity;
};

static void fetch_answered(struct cl_call *call, grpc_byte_buffer *in,
                           const struct cl_failure *failure);

static void ready_free(struct ready *r)
{
    if (r != NULL) {
        free(r->data);
        free(r);
    }
}

/* @locks consumer->mu held */
static void ready_push(struct sti_consumer *c, struct ready *r)
{
    r->next = NULL;
    if (c->tail != NULL) {
        c->tail->next = r;
    } else {
        c->head = r;
    }
    c->tail = r;
    c->held += r->held;
    pthread_cond_signal(&c->cond);
}

/* ---- fetching ------------------------------------------------------------------------------ */

/* Begin the next fetch of a partition. @locks consumer->mu held, dropped meanwhile */
static void reader_fetch(struct reader *r)
{
    struct sti_consumer *c = r->consumer;
    Streamit__V1__FetchRequest request = STREAMIT__V1__FETCH_REQUEST__INIT;
    Streamit__V1__FetchPartition row = STREAMIT__V1__FETCH_PARTITION__INIT;
    Streamit__V1__FetchPartition *rows[] = {&row};
    if (r->stopped || c->closing || r->in_call || r->backing_off) {
        return;
    }
    r->idle = c->held >= c->config.prefetch_bytes;
    if (r->idle) {
        return;
    }
    r->in_call = true;
    c->under_way++;
    row.topic = r->topic->name;
    row.partition = r->partition;
    row.offset = r->fetch_offset;
    row.max_bytes = c->config.fetch_bytes;
    if (r->fetched_epoch >= 0) {
        row.known_last_epoch_case = STREAMIT__V1__FETCH_PARTITION__KNOWN_LAST_EPOCH_LAST_EPOCH;
        row.last_epoch = r->fetched_epoch;
    }
    request.max_wait_ms = c->config.max_wait_ms;
    request.min_bytes = 1;
    request.max_bytes = c->config.fetch_bytes;
    request.n_partitions = 1;
    request.partitions = rows;
    grpc_byte_buffer *out = cl_pack(&request.base);
    pthread_mutex_unlock(&c->mu);
    uint64_t wait_us = ((uint64_t)c->config.max_wait_ms + c->config.timeout_ms) * 1000u;
    r->call.done = fetch_answered;
    cl_call_start(&r->call, cl_topic_leader(r->topic, r->partition), CL_FETCH, out,
                  cl_now_us() + wait_us);
    pthread_mutex_lock(&c->mu);
    if (c->closing && r->in_call) {
        cl_call_cancel(&r->call); /* the close came before the call could be cancelled */
    }
}

static void retry_fire(struct cl_alarm *alarm, bool cancelled)
{
    struct reader *r = CL_CONTAINER_OF(alarm, struct reader, retry);
    struct sti_consumer *c = r->consumer;
    (void)cancelled;
    pthread_mutex_lock(&c->mu);
    r->backing_off = false;
    reader_fetch(r);
    c->under_way--; /* last: see fetch_answered */
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->mu);
}

/* End a partition with an error, behind what is ready. @locks consumer->mu held */
static void reader_stop(struct reader *r, const struct sti_err *err)
{
    struct ready *ready = calloc(1, sizeof *ready);
    r->stopped = true;
    if (ready != NULL) {
        ready->reader = r;
        ready->err = *err;
        ready_push(r->consumer, ready);
    }
}

/* @locks consumer->mu held */
static void reader_failed(struct reader *r, const struct cl_failure *failure)
{
    struct sti_consumer *c = r->consumer;
    uint64_t now = cl_now_us();
    if (c->closing) {
        return;
    }
    if (r->failures++ == 0) {
        r->failing_since_us = now;
    }
    if (!cl_may_retry(failure->err.traits, true) ||
        now - r->failing_since_us >= (uint64_t)c->config.timeout_ms * 1000u) {
        reader_stop(r, &failure->err);
        return;
    }
    uint64_t wait = cl_backoff_us(r->failures), asked = (uint64_t)failure->retry_after_ms * 1000u;
    r->backing_off = true;
    c->under_way++;
    cl_alarm_start(c->client, &r->retry, now + (asked > wait ? asked : wait));
}

/* Does a batch stand where it must? (Offsets are dense: no topic is compacted yet.) No checksum
 * covers its base offset: the first batch of an answer contains the offset asked for, and each
 * further one begins behind the one before.
 * @param expected  the offset asked for, or behind the batch before: `first` says which */
static bool follows(const struct sti_batch_header *header, int64_t expected, bool first)
{
    return first ? header->base_offset >= 0 && header->base_offset <= expected &&
                       sti_batch_last_offset(header) >= expected
                 : header->base_offset == expected;
}

/* Where the fetch behind these batches begins, and the epoch of the last one. Bytes that are no
 * header, and a batch out of place, end the walk: poll finds and reports them. */
static int64_t offset_after(const uint8_t *pos, const uint8_t *end, int64_t offset, int32_t *epoch)
{
    struct sti_batch_header header;
    for (bool first = true;
         pos < end && sti_batch_header_decode(pos, (size_t)(end - pos), &header, NULL) == STI_OK &&
         header.total_len <= (uint64_t)(end - pos) && follows(&header, offset, first);
         first = false) {
        offset = sti_batch_last_offset(&header) + 1;
        *epoch = header.leader_epoch;
        pos += header.total_len;
    }
    return offset;
}

/* @return what became of the answer; batches go to *out */
static int answer_take(struct reader *r, grpc_byte_buffer *in, struct ready **out,
                       struct cl_failure *failure)
{
    struct cl_fetch_result result;
    size_t len = 0;
    uint8_t *data = cl_gather(in, &len);
    *out = NULL;
    if (data == NULL) {
        return sti_err_set(&failure->err, STI_E_NO_MEMORY, "consumer: no memory for an answer");
    }
    if (!cl_decode_fetch(data, len, &result)) {
        free(data);
        return sti_err_set(&failure->err, STI_E_INTERNAL, "Fetch: malformed response");
    }
    if (result.has_error && result.failure.err.code != STI_OK) {
        *failure = result.failure;
        free(data);
        return failure->err.code;
    }
    struct ready *ready = result.batches_len == 0 ? NULL : calloc(1, sizeof *ready);
    if (ready == NULL) {
        free(data);
        return result.batches_len == 0
                   ? STI_OK
                   : sti_err_set(&failure->err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    ready->reader = r;
    ready->data = data;
    ready->pos = result.batches;
    ready->end = result.batches + result.batches_len;
    ready->high_watermark = result.high_watermark;
    ready->held = len;
    *out = ready;
    return STI_OK;
}

/* @thread poll thread, or whoever started the call */
static void fetch_answered(struct cl_call *call, grpc_byte_buffer *in,
                           const struct cl_failure *failure)
{
    struct reader *r = CL_CONTAINER_OF(call, struct reader, call);
    struct sti_consumer *c = r->consumer;
    struct cl_failure own = {.retry_after_ms = 0};
    struct ready *ready = NULL;
    if (in != NULL && answer_take(r, in, &ready, &own) != STI_OK) {
        failure = &own;
    }
    pthread_mutex_lock(&c->mu);
    r->in_call = false;
    if (failure != NULL) {
        reader_failed(r, failure);
    } else {
        r->failures = 0;
        if (ready != NULL) {
            int64_t after =
                offset_after(ready->pos, ready->end, r->fetch_offset, &r->fetched_epoch);
            /* No progress means bytes that cannot be read: hand them to poll, which says so, and
             * stop. */
            r->stopped = after == r->fetch_offset;
            r->fetch_offset = after;
            ready_push(c, ready);
        }
        reader_fetch(r);
    }
    /* Last: once nothing is under way a close may free everything. */
    c->under_way--;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->mu);
}

/* ---- handing out --------------------------------------------------------------------------- */

static int data_loss(const struct reader *r, int64_t offset, const struct sti_err *cause,
                     struct sti_err *err)
{
    return sti_err_set(err, STI_E_DATA_LOSS, "%s-%d: the batch at offset %lld is damaged: %.120s",
                       r->topic->name, r->partition, (long long)offset, cause->msg);
}

/* Room for more records. It follows what was decoded, not what a header says. */
static bool records_grow(struct sti_consumer *c)
{
    size_t capacity = c->record_capacity == 0 ? 1024 : c->record_capacity * 2;
    struct sti_record *grown = realloc(c->records, capacity * sizeof *grown);
    if (grown != NULL) {
        c->records = grown;
        c->record_capacity = capacity;
    }
    return grown != NULL;
}

/* Decode the next batch of an answer into c->records. @return STI_OK with *count (0: all of it lies
 * before the wanted offset) */
static int batch_open(struct sti_consumer *c, struct ready *ready, size_t *count,
                      struct sti_err *err)
{
    struct reader *r = ready->reader;
    struct sti_batch_header header;
    struct sti_err cause;
    struct sti_record record;
    size_t left = (size_t)(ready->end - ready->pos);
    *count = 0;
    int rc = sti_batch_header_decode(ready->pos, left, &header, &cause);
    if (rc == STI_E_WOULD_BLOCK || (rc == STI_OK && header.total_len > left)) {
        rc = sti_err_set(&cause, STI_E_CORRUPT_BATCH, "it is cut short");
    }
    if (rc == STI_OK) {
        struct sti_slice slice = sti_slice_borrow(ready->pos, (size_t)header.total_len);
        rc = sti_batch_check(&slice, 1, STI_CHECK_CRC, UINT64_MAX, &header, &cause);
    }
    if (rc == STI_OK && !follows(&header, r->next_offset, !ready->opened)) {
        rc = sti_err_set(&cause, STI_E_CORRUPT_BATCH, "it says that it holds %lld to %lld",
                         (long long)header.base_offset, (long long)sti_batch_last_offset(&header));
    }
    if (rc == STI_OK) {
        rc = sti_batch_iter_init(&c->iter, ready->pos, (size_t)header.total_len,
                                 (size_t)c->config.batch_bytes_max, &cause);
    }
    if (rc != STI_OK) {
        return data_loss(r, r->next_offset, &cause, err);
    }
    while ((rc = sti_batch_iter_next(&c->iter, &record, &cause)) == STI_OK) {
        if (record.offset < r->next_offset || (header.attributes & STI_BATCH_CONTROL) != 0) {
            continue;
        }
        if (*count == c->record_capacity && !records_grow(c)) {
            return sti_err_set(err, STI_E_NO_MEMORY, "consumer: no memory for %zu records", *count);
        }
        c->records[(*count)++] = record;
    }
    if (rc != STI_E_END) {
        *count = 0;
        return data_loss(r, header.base_offset, &cause, err);
    }
    ready->pos += header.total_len;
    ready->opened = true;
    r->next_offset = sti_batch_last_offset(&header) + 1;
    return STI_OK;
}

/* The answer that was being handed out is used up: its room goes to those who wait for it. */
static void current_done(struct sti_consumer *c)
{
    struct ready *r = c->current;
    c->current = NULL;
    pthread_mutex_lock(&c->mu);
    c->held -= r->held;
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i].idle) {
            reader_fetch(&c->readers[i]);
        }
    }
    pthread_mutex_unlock(&c->mu);
    ready_free(r);
}

/* Make c->current the next answer. @return false: nothing came in time */
static bool current_wait(struct sti_consumer *c, uint64_t due_us)
{
    pthread_mutex_lock(&c->mu);
    bool in_time = true;
    while (c->head == NULL && in_time) {
        in_time = cl_cond_wait_until(&c->cond, &c->mu, due_us);
    }
    c->current = c->head;
    if (c->head != NULL) {
        c->head = c->head->next;
        if (c->head == NULL) {
            c->tail = NULL;
        }
    }
    pthread_mutex_unlock(&c->mu);
    return c->current != NULL;
}

int sti_consumer_poll(struct sti_consumer *c, uint32_t timeout_ms, struct sti_records *out,
                      struct sti_err *err)
{
    uint64_t due = cl_now_us() + (uint64_t)timeout_ms * 1000u;
    for (;;) {
        if (c->current != NULL && c->current->pos == c->current->end) {
            current_done(c);
        }
        if (c->current == NULL && !current_wait(c, due)) {
            return STI_E_WOULD_BLOCK;
        }
        struct ready *ready = c->current;
        struct reader *r = ready->reader;
        size_t count = 0;
        int rc = ready->err.code;
        if (rc != STI_OK) {
            if (err != NULL) {
                *err = ready->err;
            }
        } else if (ready->pos < ready->end) {
            rc = batch_open(c, ready, &count, err);
        }
        if (rc == STI_OK && count == 0) {
            continue;
        }
        *out = (struct sti_records){.struct_size = sizeof *out,
                                    .partition = r->partition,
                                    .topic = r->topic->name,
                                    .records = c->records,
                                    .count = count,
                                    .high_watermark = ready->high_watermark};
        if (rc != STI_OK) {
            ready->pos = ready->end; /* nothing behind the error is handed out */
            pthread_mutex_lock(&c->mu);
            r->stopped = true;
            pthread_mutex_unlock(&c->mu);
        }
        return rc;
    }
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

static int reader_init(struct sti_consumer *c, struct reader *r, const struct sti_assigned *from,
                       uint64_t due_us, struct sti_err *err)
{
    r->consumer = c;
    r->partition = from->partition;
    r->retry.fire = retry_fire;
    r->topic = cl_topic_get(c->client, from->topic);
    if (r->topic == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    pthread_mutex_lock(&r->topic->mu);
    bool known = r->topic->known;
    pthread_mutex_unlock(&r->topic->mu);
    int rc = known ? STI_OK : cl_topic_refresh(r->topic, due_us, err);
    if (rc == STI_OK && (from->partition < 0 || from->partition >= r->topic->count)) {
        rc = sti_err_set(err, STI_E_UNKNOWN_PARTITION,
                         "topic %s has %d partitions, not a partition %d", from->topic,
                         r->topic->count, from->partition);
    }
    int64_t offset = from->offset;
    if (rc == STI_OK && from->timestamp_ms >= 0) {
        rc = sti_admin_list_offset(c->client, from->topic, from->partition, from->timestamp_ms,
                                   &offset, err);
        offset = rc == STI_OK && offset < 0 ? STI_START_END : offset;
    }
    if (rc == STI_OK && offset < 0) {
        rc = sti_admin_list_offset(
            c->client, from->topic, from->partition,
            offset == STI_START_BEGINNING ? STI_START_BEGINNING : STI_START_END, &offset, err);
    }
    r->fetch_offset = r->next_offset = offset;
    r->fetched_epoch = -1;
    return rc;
}

int sti_consumer_new(struct sti_consumer **out, struct sti_client *client,
                     const struct sti_consumer_config *config, const struct sti_assigned *assigned,
                     size_t count, struct sti_err *err)
{
    uint64_t due = cl_now_us() + (uint64_t)config->timeout_ms * 1000u;
    *out = NULL;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (assigned[i].partition == assigned[j].partition &&
                strcmp(assigned[i].topic, assigned[j].topic) == 0) {
                return sti_err_set(err, STI_E_INVALID_ARGUMENT, "consumer: %s-%d is assigned twice",
                                   assigned[i].topic, assigned[i].partition);
            }
        }
    }
    struct sti_consumer *c = count == 0 ? NULL : calloc(1, sizeof *c);
    if (c == NULL || (c->readers = calloc(count, sizeof *c->readers)) == NULL) {
        free(c);
        return count == 0
                   ? sti_err_set(err, STI_E_INVALID_ARGUMENT, "consumer: nothing is assigned")
                   : sti_err_set(err, STI_E_NO_MEMORY, "consumer: out of memory");
    }
    c->client = client;
    c->config = *config;
    c->count = count;
    pthread_mutex_init(&c->mu, NULL);
    cl_cond_init(&c->cond);
    int rc = STI_OK;
    for (size_t i = 0; rc == STI_OK && i < count; i++) {
        rc = reader_init(c, &c->readers[i], &assigned[i], due, err);
    }
    if (rc != STI_OK) {
        sti_consumer_close(c);
        return rc;
    }
    pthread_mutex_lock(&c->mu);
    for (size_t i = 0; i < count; i++) {
        reader_fetch(&c->readers[i]);
    }
    pthread_mutex_unlock(&c->mu);
    *out = c;
    return STI_OK;
}

void sti_consumer_close(struct sti_consumer *c)
{
    if (c == NULL) {
        return;
    }
    pthread_mutex_lock(&c->mu);
    c->closing = true;
    for (size_t i = 0; i < c->count; i++) {
        if (c->readers[i].in_call) {
            cl_call_cancel(&c->readers[i].call);
        }
        if (c->readers[i].backing_off) {
            cl_alarm_cancel(c->client, &c->readers[i].retry);
        }
    }
    while (c->under_way > 0) {
        pthread_cond_wait(&c->cond, &c->mu);
    }
    pthread_mutex_unlock(&c->mu);
    while (c->head != NULL) {
        struct ready *r = c->head;
        c->head = r->next;
        ready_free(r);
    }
    ready_free(c->current);
    sti_batch_iter_fini(&c->iter);
    free(c->records);
    free(c->readers);
    pthread_cond_destroy(&c->cond);
    pthread_mutex_destroy(&c->mu);
    free(c);
}
