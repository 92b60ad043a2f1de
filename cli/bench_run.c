/* bench_run.c -- see bench.h: the threads that make load, and how their results come together.
 *
 * All objects are made and every topic is looked up before the clock starts. A record is measured
 * when it was due behind the warm-up; the others are sent, waited for, and left out of every
 * figure. When the producers are through, consumers of an end-to-end run go on until all that was
 * acknowledged has arrived: what does not arrive is an error, not a gap in a figure.
 *
 * @thread a producer's counters belong to its thread, its ack histogram to the poll thread of its
 * client until the producer is closed; the run's own are atomic or under its lock
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench.h"
#include "load.h"

enum { LEAD_US = 20000, POLL_MS = 20, CLOCK_EVERY = 16 };

struct run;

struct producer {
    struct run *run;
    pthread_t thread;
    bool started;
    struct sti_producer *producer;
    struct sti_producer_topic *topic;
    int32_t partition;
    struct load_values values;
    uint8_t *stamped;   /* end to end: the value with the time in front */
    double rate;        /* 0: flat out */
    uint64_t offset_us; /* schedules of several producers lie between each other */
    int64_t count;      /* -1: no bound */
    uint64_t sent, measured, clock_us;
    struct histogram ack_us, late_us;
    uint64_t acked, last_ack_us; /* measured ones */
    sem_t answered;              /* one at a time */
};

struct consumer {
    struct run *run;
    pthread_t thread;
    bool started;
    struct sti_consumer *consumer;
    struct histogram delivered_us;
    uint64_t records, bytes, last_us; /* measured ones */
};

struct run {
    struct bench *bench;
    struct sti_client **clients;
    struct producer *producers;
    struct consumer *consumers;
    struct load_values values;
    int32_t partitions;
    uint64_t to_read; /* consume: records between the beginning and the end when it began */
    uint64_t started_us, measure_us, stop_us;
    uint64_t real_us; /* added to a time gives the wall clock's */
    atomic_bool stopping, produced;
    _Atomic uint64_t acked, arrived;     /* also those of the warm-up */
    uint64_t shown_records, shown_bytes; /* for the live line */
    pthread_mutex_t mu;                  /* bench->status and err */
};

static void fail(struct run *run, int rc, const struct sti_err *err)
{
    pthread_mutex_lock(&run->mu);
    if (run->bench->status == STI_OK) {
        run->bench->status = rc;
        run->bench->err = *err;
    }
    pthread_mutex_unlock(&run->mu);
    atomic_store(&run->stopping, true);
}

static bool stopping(const struct run *run)
{
    return cli_interrupted || atomic_load_explicit(&run->stopping, memory_order_relaxed);
}

static void show(struct run *run, uint64_t records)
{
    __atomic_fetch_add(&run->shown_records, records, __ATOMIC_RELAXED);
    __atomic_fetch_add(&run->shown_bytes, records * (uint64_t)run->bench->size, __ATOMIC_RELAXED);
}

/* ---- producing ----------------------------------------------------------------------------- */

/* Neighbours are often due at the same time: one look at the histogram for all of them. */
static void record_acks(struct producer *p, const struct sti_delivery *delivery, uint64_t now)
{
    for (uint32_t i = 0, next; i < delivery->count; i = next) {
        uint64_t due = (uint64_t)(uintptr_t)delivery->opaques[i];
        for (next = i + 1; next < delivery->count; next++) {
            if (delivery->opaques[next] != delivery->opaques[i]) {
                break;
            }
        }
        if (due >= p->run->measure_us) {
            histogram_add(&p->ack_us, now > due ? now - due : 0, next - i);
            p->acked += next - i;
            p->last_ack_us = now;
        }
    }
}

static void on_delivery(void *arg, const struct sti_delivery *delivery)
{
    struct producer *p = arg;
    if (delivery->status != STI_OK) {
        __atomic_fetch_add(&p->run->bench->errors, delivery->count, __ATOMIC_RELAXED);
        fail(p->run, delivery->status, delivery->err);
    } else {
        if (!p->run->bench->one_at_a_time) {
            record_acks(p, delivery, cli_now_us());
        }
        atomic_fetch_add(&p->run->acked, delivery->count);
        if (p->run->bench->kind != BENCH_END_TO_END) {
            show(p->run, delivery->count);
        }
    }
    if (p->run->bench->one_at_a_time) {
        (void)sem_post(&p->answered);
    }
}

/* When the next record is due; waits for it. 0: no more. */
static uint64_t next_due(struct producer *p)
{
    struct run *run = p->run;
    uint64_t due;
    if (stopping(run) || (p->count >= 0 && p->measured >= (uint64_t)p->count)) {
        return 0;
    }
    if (p->rate > 0) {
        due = load_due_us(run->started_us + p->offset_us, p->sent, p->rate);
        if (due < run->stop_us) {
            load_wait(due);
            uint64_t now = cli_now_us();
            if (due >= run->measure_us) {
                histogram_record(&p->late_us, now > due ? now - due : 0);
            }
        }
    } else {
        if (run->bench->one_at_a_time || p->sent % CLOCK_EVERY == 0) {
            p->clock_us = cli_now_us();
        }
        due = p->clock_us;
    }
    return due < run->stop_us ? due : 0;
}

/* @return false when the producer is through */
static bool send_next(struct producer *p)
{
    struct bench *bench = p->run->bench;
    struct sti_err err;
    uint64_t due = next_due(p);
    if (due == 0) {
        return false;
    }
    const uint8_t *value = load_values_next(&p->values);
    if (p->stamped != NULL) {
        memcpy(p->stamped, value, p->values.size);
        memcpy(p->stamped, &due, sizeof due);
        value = p->stamped;
    }
    struct sti_producer_record record = {.partition = p->partition,
                                         .value = value,
                                         .value_len = p->values.size,
                                         .timestamp_ms = (int64_t)((due + p->run->real_us) / 1000u),
                                         .opaque = (void *)(uintptr_t)due};
    int rc = sti_producer_send(p->topic, &record, &err);
    if (rc != STI_OK) {
        __atomic_fetch_add(&bench->errors, 1, __ATOMIC_RELAXED);
        fail(p->run, rc, &err);
        return false;
    }
    p->sent++;
    p->measured += due >= p->run->measure_us;
    if (bench->one_at_a_time) {
        while (sem_wait(&p->answered) != 0) {
        }
        uint64_t now = cli_now_us();
        if (due >= p->run->measure_us && !atomic_load(&p->run->stopping)) {
            histogram_record(&p->ack_us, now - due);
            p->acked++;
            p->last_ack_us = now;
        }
    }
    return true;
}

static void *producer_main(void *arg)
{
    struct producer *p = arg;
    load_exact_sleep();
    while (send_next(p)) {
    }
    (void)sti_producer_flush(p->producer, p->run->bench->cli->timeout_ms, NULL);
    return NULL;
}

static int producer_open(struct run *run, int64_t index, struct sti_err *err)
{
    struct bench *bench = run->bench;
    struct producer *p = &run->producers[index];
    struct sti_producer_config config = bench->producer;
    p->run = run;
    p->partition = (int32_t)(index % run->partitions);
    p->values = run->values;
    p->values.pos = (size_t)index * 65521u % (1u << 20);
    p->rate = (double)bench->rate / (double)bench->producers;
    p->offset_us = bench->rate == 0 ? 0 : (uint64_t)((double)index * 1e6 / (double)bench->rate);
    p->count = bench->count < 0
                   ? -1
                   : bench->count / bench->producers + (index < bench->count % bench->producers);
    if (sem_init(&p->answered, 0, 0) != 0) {
        return sti_err_set(err, STI_E_INTERNAL, "no semaphore");
    }
    if (bench->kind == BENCH_END_TO_END) {
        p->stamped = malloc(p->values.size);
        if (p->stamped == NULL) {
            return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a record");
        }
    }
    config.on_delivery = on_delivery;
    config.arg = p;
    config.timeout_ms = bench->cli->timeout_ms;
    int rc = sti_producer_new(&p->producer, run->clients[index % bench->clients], &config, err);
    return rc != STI_OK ? rc : sti_producer_topic_open(&p->topic, p->producer, bench->topic, err);
}

/* ---- consuming ----------------------------------------------------------------------------- */

static void take(struct consumer *c, const struct sti_records *records)
{
    struct run *run = c->run;
    bool stamped = run->bench->kind == BENCH_END_TO_END;
    uint64_t now = cli_now_us(), due = run->measure_us;
    for (size_t i = 0; i < records->count; i++) {
        const struct sti_record *record = &records->records[i];
        if (stamped && record->value_len >= BENCH_STAMP_BYTES) {
            memcpy(&due, record->value, sizeof due);
        }
        if (due >= run->measure_us) {
            if (stamped) {
                histogram_record(&c->delivered_us, now > due ? now - due : 0);
            }
            c->records++;
            c->bytes += (uint64_t)record->key_len + record->value_len;
            c->last_us = now;
        }
    }
    atomic_fetch_add(&run->arrived, records->count);
    show(run, records->count);
}

static bool all_arrived(const struct run *run)
{
    uint64_t arrived = atomic_load(&run->arrived);
    if (run->bench->kind == BENCH_CONSUME) {
        return arrived >= run->to_read ||
               (run->bench->count >= 0 && arrived >= (uint64_t)run->bench->count);
    }
    return atomic_load(&run->produced) && arrived >= atomic_load(&run->acked);
}

static void *consumer_main(void *arg)
{
    struct consumer *c = arg;
    struct run *run = c->run;
    struct sti_records records;
    struct sti_err err;
    uint64_t last_us = cli_now_us();
    while (!stopping(run) && !all_arrived(run)) {
        int rc = sti_consumer_poll(c->consumer, POLL_MS, &records, &err);
        if (rc == STI_OK) {
            take(c, &records);
            last_us = cli_now_us();
        } else if (rc != STI_E_WOULD_BLOCK) {
            fail(run, rc, &err);
        } else if ((run->bench->kind == BENCH_CONSUME || atomic_load(&run->produced)) &&
                   cli_now_us() > last_us + (uint64_t)run->bench->cli->timeout_ms * 1000u) {
            (void)sti_err_set(
                &err, STI_E_TIMED_OUT,
                "nothing has arrived for %u ms, with %llu "
                "records of %llu here",
                run->bench->cli->timeout_ms, (unsigned long long)atomic_load(&run->arrived),
                (unsigned long long)(run->bench->kind == BENCH_CONSUME ? run->to_read
                                                                       : atomic_load(&run->acked)));
            fail(run, STI_E_TIMED_OUT, &err);
        }
    }
    return NULL;
}

static int consumer_open(struct run *run, int64_t index, struct sti_err *err)
{
    struct bench *bench = run->bench;
    struct consumer *c = &run->consumers[index];
    struct sti_consumer_config config = bench->consumer;
    struct sti_assigned *assigned = calloc((size_t)run->partitions, sizeof *assigned);
    size_t count = 0;
    c->run = run;
    if (assigned == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    for (int32_t p = (int32_t)index; p < run->partitions; p += (int32_t)bench->consumers) {
        assigned[count++] = (struct sti_assigned){
            .topic = bench->topic,
            .partition = p,
            .offset = bench->kind == BENCH_CONSUME ? STI_START_BEGINNING : STI_START_END,
            .timestamp_ms = -1};
    }
    config.timeout_ms = bench->cli->timeout_ms;
    struct sti_client *client = run->clients[(bench->producers + index) % bench->clients];
    int rc = sti_consumer_new(&c->consumer, client, &config, assigned, count, err);
    free(assigned);
    return rc;
}

/* ---- the run ------------------------------------------------------------------------------- */

/* How many partitions there are, and for a run that only reads, how much there is to read. */
static int learn(struct run *run, struct sti_err *err)
{
    struct bench *bench = run->bench;
    struct sti_admin_description *d = NULL;
    int rc = sti_admin_describe_topic(run->clients[0], bench->topic, &d, err);
    if (rc != STI_OK) {
        return rc;
    }
    run->partitions = (int32_t)d->partition_count;
    for (size_t i = 0; i < d->partition_count; i++) {
        const struct sti_admin_partition *partition = &d->partitions[i];
        run->to_read += partition->high_watermark > partition->log_start
                            ? (uint64_t)(partition->high_watermark - partition->log_start)
                            : 0;
    }
    sti_admin_description_free(d);
    if (bench->consumers > run->partitions) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT,
                           "topic %s has %d partitions, too few for %d consumers", bench->topic,
                           run->partitions, (int)bench->consumers);
    }
    if (bench->kind == BENCH_CONSUME && run->to_read == 0) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "topic %s is empty", bench->topic);
    }
    return STI_OK;
}

/* Make everything. What was made stays in the run, also after an error. */
static int open_all(struct run *run, struct sti_err *err)
{
    struct bench *bench = run->bench;
    int rc = load_values_init(&run->values, (size_t)bench->size, err);
    run->clients = calloc((size_t)bench->clients, sizeof *run->clients);
    run->producers = calloc((size_t)bench->producers + 1u, sizeof *run->producers);
    run->consumers = calloc((size_t)bench->consumers + 1u, sizeof *run->consumers);
    if (rc != STI_OK || run->clients == NULL || run->producers == NULL || run->consumers == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    run->clients[0] = bench->cli->client;
    for (int64_t i = 1; i < bench->clients; i++) {
        if (cli_client_new(bench->cli, &run->clients[i]) != CLI_OK) {
            return sti_err_set(err, STI_E_INTERNAL, "client %d of %d cannot be made", (int)i + 1,
                               (int)bench->clients);
        }
    }
    rc = learn(run, err);
    for (int64_t i = 0; rc == STI_OK && i < bench->consumers; i++) {
        rc = consumer_open(run, i, err);
    }
    for (int64_t i = 0; rc == STI_OK && i < bench->producers; i++) {
        rc = producer_open(run, i, err);
    }
    return rc;
}

static void close_all(struct run *run)
{
    struct bench *bench = run->bench;
    for (int64_t i = 0; run->producers != NULL && i < bench->producers; i++) {
        sti_producer_close(run->producers[i].producer, 0);
        free(run->producers[i].stamped);
        (void)sem_destroy(&run->producers[i].answered);
    }
    for (int64_t i = 0; run->consumers != NULL && i < bench->consumers; i++) {
        sti_consumer_close(run->consumers[i].consumer);
    }
    for (int64_t i = 1; run->clients != NULL && i < bench->clients; i++) {
        sti_client_free(run->clients[i]);
    }
}

/* Start a thread for each, wait for the producers, then for the consumers. */
static void run_threads(struct run *run)
{
    struct bench *bench = run->bench;
    struct sti_err err;
    int failed = 0;
    for (int64_t i = 0; failed == 0 && i < bench->consumers; i++) {
        struct consumer *c = &run->consumers[i];
        failed = pthread_create(&c->thread, NULL, consumer_main, c);
        c->started = failed == 0;
    }
    for (int64_t i = 0; failed == 0 && i < bench->producers; i++) {
        struct producer *p = &run->producers[i];
        failed = pthread_create(&p->thread, NULL, producer_main, p);
        p->started = failed == 0;
    }
    if (failed != 0) {
        (void)sti_err_set(&err, STI_E_INTERNAL, "a thread cannot be started: %s", strerror(failed));
        fail(run, STI_E_INTERNAL, &err);
    }
    for (int64_t i = 0; i < bench->producers; i++) {
        if (run->producers[i].started) {
            (void)pthread_join(run->producers[i].thread, NULL);
        }
    }
    atomic_store(&run->produced, true);
    for (int64_t i = 0; i < bench->consumers; i++) {
        if (run->consumers[i].started) {
            (void)pthread_join(run->consumers[i].thread, NULL);
        }
    }
}

static double cpu_seconds(const struct timeval *tv)
{
    return (double)tv->tv_sec + (double)tv->tv_usec / 1e6;
}

/* Bring together what the threads have counted. Everything is closed. */
static void collect(struct run *run)
{
    struct bench *bench = run->bench;
    bool consumed = bench->consumers > 0;
    uint64_t last_us = 0;
    for (int64_t i = 0; i < bench->producers; i++) {
        const struct producer *p = &run->producers[i];
        histogram_merge(&bench->ack_us, &p->ack_us);
        histogram_merge(&bench->late_us, &p->late_us);
        if (!consumed) {
            bench->records += p->acked;
            bench->bytes += p->acked * (uint64_t)bench->size;
            last_us = p->last_ack_us > last_us ? p->last_ack_us : last_us;
        }
    }
    for (int64_t i = 0; i < bench->consumers; i++) {
        const struct consumer *c = &run->consumers[i];
        histogram_merge(&bench->delivered_us, &c->delivered_us);
        bench->records += c->records;
        bench->bytes += c->bytes;
        last_us = c->last_us > last_us ? c->last_us : last_us;
    }
    bench->seconds = last_us > run->measure_us ? (double)(last_us - run->measure_us) / 1e6 : 0;
}

int bench_run(struct bench *bench)
{
    struct run run = {.bench = bench, .mu = PTHREAD_MUTEX_INITIALIZER};
    struct rusage before, after;
    struct sti_err err;
    int rc = open_all(&run, &err);
    if (rc == STI_OK) {
        bool consumed = bench->consumers > 0;
        run.real_us = cli_real_us() - cli_now_us();
        run.started_us = cli_now_us() + (bench->rate > 0 ? LEAD_US : 0);
        run.measure_us = run.started_us + (uint64_t)bench->warm_up_ms * 1000u;
        run.stop_us = bench->duration_s < 0
                          ? UINT64_MAX
                          : run.measure_us + (uint64_t)bench->duration_s * 1000000u;
        struct cli_progress *progress = cli_progress_start(consumed ? "received" : "acknowledged",
                                                           &run.shown_records, &run.shown_bytes);
        (void)getrusage(RUSAGE_SELF, &before);
        run_threads(&run);
        (void)getrusage(RUSAGE_SELF, &after);
        cli_progress_stop(progress);
        bench->user_s = cpu_seconds(&after.ru_utime) - cpu_seconds(&before.ru_utime);
        bench->system_s = cpu_seconds(&after.ru_stime) - cpu_seconds(&before.ru_stime);
    } else {
        fail(&run, rc, &err);
    }
    close_all(&run);
    if (rc == STI_OK) {
        collect(&run);
    }
    load_values_fini(&run.values);
    free(run.clients);
    free(run.producers);
    free(run.consumers);
    return bench->status;
}
