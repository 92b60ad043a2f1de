/* client_driver.c -- libstreamit on a string: commands from standard input, a line of words each,
 * so that tests in any language can drive the library in a process of its own.
 *
 *     client SERVERS [KEY=N ...]           timeout_ms backoff_min_ms backoff_max_ms refresh_ms
 *     producer [KEY=N ...]                 acks linger_ms batch_bytes window_bytes window_records
 *                                          timeout_ms max_in_flight flags codec resend spread
 *     topic NAME                           the one that is sent to
 *     send COUNT PARTITION PREFIX [SIZE]   values PREFIX0, PREFIX1, ...; waits for room
 *     try COUNT PARTITION PREFIX           the same without waiting
 *     flush MS | purge WHAT | close MS
 *     threads N COUNT PARTITION            N threads send COUNT records each, values THREAD:NUMBER
 *     blocked N PARTITION MS               N threads send until they wait for room; then close
 *     consumer [KEY=N ...]                 prefetch_bytes fetch_bytes max_wait_ms timeout_ms
 *     assign|seek TOPIC PARTITION OFFSET | unassign|pause|resume|position TOPIC PARTITION
 *     poll MS | drain MS COUNT | wakeup | closec
 *     create NAME PARTITIONS | grow NAME PARTITIONS | describe NAME | await NAME MS | cancel MS |
 * end
 *
 * Every command is answered by "ok ..." or "CODE sentence". Reports come as "report TOPIC PARTITION
 * OFFSET CODE TRAITS SEQUENCE", one for each record, SEQUENCE counting the sends from 0; records as
 * "record TOPIC PARTITION OFFSET VALUE". With resend=1 a report sends one more record from within
 * the callback, once; with spread=1 a partitioner of our own takes the value's last digit.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "streamit/client.h"

static struct {
    struct sti_client *client;
    struct sti_producer *producer;
    struct sti_producer_topic *topic;
    struct sti_consumer *consumer;
    uint64_t sequence;
    uint64_t resend;
} d;

static pthread_mutex_t out_mu = PTHREAD_MUTEX_INITIALIZER;

/* A line, whole, whoever else writes one. */
#define say(...)                                                                                   \
    do {                                                                                           \
        pthread_mutex_lock(&out_mu);                                                               \
        printf(__VA_ARGS__);                                                                       \
        putchar('\n');                                                                             \
        fflush(stdout);                                                                            \
        pthread_mutex_unlock(&out_mu);                                                             \
    } while (0)

static int num(const char *word)
{
    return word == NULL ? 0 : (int)strtol(word, NULL, 10);
}

static void answer(int rc, const struct sti_err *err)
{
    if (rc == STI_OK) {
        say("ok");
    } else {
        say("%s %s", sti_status_name(rc), err->code == rc ? err->msg : "");
    }
}

/* KEY=N among the words, or `otherwise`. */
static uint64_t number(char **words, const char *key, uint64_t otherwise)
{
    for (; *words != NULL; words++) {
        size_t len = strlen(key);
        if (strncmp(*words, key, len) == 0 && (*words)[len] == '=') {
            return strtoull(*words + len + 1, NULL, 10);
        }
    }
    return otherwise;
}

static int send_one(int32_t partition, const char *value, size_t len, uint32_t flags,
                    struct sti_err *err)
{
    uint64_t sequence = __atomic_fetch_add(&d.sequence, 1, __ATOMIC_RELAXED);
    struct sti_producer_record record = {.partition = partition,
                                         .flags = flags,
                                         .value = value,
                                         .value_len = len,
                                         .timestamp_ms = STI_TIMESTAMP_NOW,
                                         .opaque = (void *)(uintptr_t)sequence};
    return sti_producer_send(d.topic, &record, err);
}

static void on_delivery(void *arg, const struct sti_delivery *delivery)
{
    (void)arg;
    for (uint32_t i = 0; i < delivery->count; i++) {
        say("report %s %d %lld %s %u %llu %s", delivery->topic, delivery->partition,
            (long long)(delivery->status == STI_OK ? delivery->base_offset + i : -1),
            sti_status_name(delivery->status), delivery->err == NULL ? 0 : delivery->err->traits,
            (unsigned long long)(uintptr_t)delivery->opaques[i],
            delivery->err == NULL ? "" : delivery->err->msg);
    }
    if (d.resend == 1) {
        struct sti_err err;
        d.resend = 2;
        say("callback %s %s %s", sti_status_name(send_one(0, "again", 5, 0, &err)),
            sti_status_name(sti_producer_flush(d.producer, 1000, &err)),
            sti_status_name(sti_admin_delete_topic(d.client, "no", &err)));
    }
}

static int32_t by_last_digit(void *arg, const char *topic, const struct sti_producer_record *record,
                             int32_t count)
{
    (void)arg;
    (void)topic;
    (void)count;
    return ((const char *)record->value)[record->value_len - 1] - '0';
}

static int client_make(char **words, struct sti_err *err)
{
    struct sti_client_config config;
    sti_client_config_init(&config);
    config.servers = words[1];
    config.timeout_ms = (uint32_t)number(words, "timeout_ms", config.timeout_ms);
    config.backoff_min_ms = (uint32_t)number(words, "backoff_min_ms", config.backoff_min_ms);
    config.backoff_max_ms = (uint32_t)number(words, "backoff_max_ms", config.backoff_max_ms);
    config.metadata_refresh_ms = (uint32_t)number(words, "refresh_ms", config.metadata_refresh_ms);
    config.receive_window_bytes =
        (uint32_t)number(words, "receive_window_bytes", config.receive_window_bytes);
    return sti_client_new(&d.client, &config, err);
}

static int producer_make(char **words, struct sti_err *err)
{
    struct sti_producer_config config;
    sti_producer_config_init(&config);
    config.acks = (int)number(words, "acks", STI_PRODUCER_ACKS_LEADER);
    config.codec = (int)number(words, "codec", 0);
    config.linger_ms = (uint32_t)number(words, "linger_ms", 0);
    config.batch_bytes = (uint32_t)number(words, "batch_bytes", config.batch_bytes);
    config.window_bytes = number(words, "window_bytes", config.window_bytes);
    config.window_records = (uint32_t)number(words, "window_records", config.window_records);
    config.timeout_ms = (uint32_t)number(words, "timeout_ms", config.timeout_ms);
    config.flags = (uint32_t)number(words, "flags", config.flags);
    config.max_in_flight = (uint32_t)number(words, "max_in_flight", config.max_in_flight);
    config.partition = number(words, "spread", 0) == 1 ? by_last_digit : NULL;
    config.on_delivery = on_delivery;
    d.resend = number(words, "resend", 0);
    return sti_producer_new(&d.producer, d.client, &config, err);
}

static int consumer_make(char **words, struct sti_err *err)
{
    struct sti_consumer_config config;
    sti_consumer_config_init(&config);
    config.prefetch_bytes = number(words, "prefetch_bytes", config.prefetch_bytes);
    config.fetch_bytes = (uint32_t)number(words, "fetch_bytes", config.fetch_bytes);
    config.max_wait_ms = (uint32_t)number(words, "max_wait_ms", config.max_wait_ms);
    config.timeout_ms = (uint32_t)number(words, "timeout_ms", config.timeout_ms);
    return sti_consumer_new(&d.consumer, d.client, &config, NULL, 0, err);
}

static int send_many(char **words, uint32_t flags, struct sti_err *err)
{
    long count = num(words[1]), size = words[4] == NULL ? 0 : num(words[4]);
    char *value = calloc(1, (size_t)size + 300);
    int rc = STI_OK;
    if (value == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for values of %ld bytes", size);
    }
    for (long i = 0; rc == STI_OK && i < count; i++) {
        int len = snprintf(value, 300, "%s%ld", words[3], i);
        rc = send_one(num(words[2]), value, (size_t)(len > size ? len : size), flags, err);
    }
    free(value);
    return rc;
}

struct sender {
    pthread_t thread;
    int index, partition;
    long count;
    int rc;
};

static void *sender_main(void *arg)
{
    struct sender *s = arg;
    for (long i = 0; s->rc == STI_OK && i < s->count; i++) {
        char value[64];
        int len = snprintf(value, sizeof value, "%d:%ld", s->index, i);
        s->rc = send_one(s->partition, value, (size_t)len, 0, NULL);
    }
    return NULL;
}

static int send_threads(char **words, struct sti_err *err)
{
    struct sender senders[64];
    int n = num(words[1]), rc = STI_OK;
    for (int i = 0; i < n; i++) {
        senders[i] = (struct sender){
            .index = i, .count = num(words[2]), .partition = num(words[3]), .rc = STI_OK};
        pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(senders[i].thread, NULL);
        rc = senders[i].rc != STI_OK ? senders[i].rc : rc;
    }
    return rc == STI_OK ? rc : sti_err_set(err, rc, "a thread's send failed");
}

static int poll_some(uint32_t timeout_ms, long *left, struct sti_err *err)
{
    struct sti_records records;
    int rc = sti_consumer_poll(d.consumer, timeout_ms, &records, err);
    if (rc == STI_E_WOULD_BLOCK) {
        return sti_err_set(err, rc, "nothing came");
    }
    for (size_t i = 0; rc == STI_OK && i < records.count; i++) {
        const struct sti_record *r = &records.records[i];
        say("record %s %d %lld %.*s", records.topic, records.partition, (long long)r->offset,
            (int)(r->value_len > 40 ? 40 : r->value_len), (const char *)r->value);
        (*left)--;
    }
    return rc;
}

static int consume(char **words, struct sti_err *err)
{
    const char *topic = words[1];
    int32_t partition = words[1] != NULL && words[2] != NULL ? num(words[2]) : 0;
    struct sti_assigned to = {.topic = topic, .partition = partition, .timestamp_ms = -1};
    int64_t offset;
    if (words[1] != NULL && words[2] != NULL && words[3] != NULL) {
        to.offset = strtoll(words[3], NULL, 10);
    }
    if (strcmp(words[0], "assign") == 0) {
        return sti_consumer_assign(d.consumer, &to, 1, err);
    }
    if (strcmp(words[0], "seek") == 0) {
        return sti_consumer_seek(d.consumer, &to, err);
    }
    if (strcmp(words[0], "unassign") == 0) {
        return sti_consumer_unassign(d.consumer, topic, partition, err);
    }
    if (strcmp(words[0], "pause") == 0) {
        return sti_consumer_pause(d.consumer, topic, partition, err);
    }
    if (strcmp(words[0], "resume") == 0) {
        return sti_consumer_resume(d.consumer, topic, partition, err);
    }
    int rc = sti_consumer_position(d.consumer, topic, partition, &offset, err);
    if (rc == STI_OK) {
        say("position %lld", (long long)offset);
    }
    return rc;
}

static void *cancel_main(void *arg)
{
    usleep((useconds_t)(uintptr_t)arg * 1000u);
    if (d.consumer != NULL) {
        sti_consumer_wakeup(d.consumer);
    } else {
        sti_client_cancel(d.client);
    }
    return NULL;
}

static int describe(const char *name, struct sti_err *err)
{
    struct sti_admin_description *topic;
    int rc = sti_admin_describe_topic(d.client, name, &topic, err);
    if (rc == STI_OK) {
        say("topic %s %zu", topic->name, topic->partition_count);
        sti_admin_description_free(topic);
    }
    return rc;
}

static void *blocked_main(void *arg)
{
    struct sender *s = arg;
    while (s->rc == STI_OK) {
        s->rc = send_one(s->partition, "blocked", 7, 0, NULL);
    }
    return NULL;
}

/* Close the producer under threads that wait in a send. */
static void close_blocked(char **words)
{
    struct sender senders[8];
    int n = num(words[1]);
    for (int i = 0; i < n; i++) {
        senders[i] = (struct sender){.partition = num(words[2]), .rc = STI_OK};
        pthread_create(&senders[i].thread, NULL, blocked_main, &senders[i]);
    }
    usleep((useconds_t)num(words[3]) * 1000u); /* until the window is full and all of them wait */
    sti_producer_close(d.producer, 0);
    d.producer = NULL;
    for (int i = 0; i < n; i++) {
        pthread_join(senders[i].thread, NULL);
        say("callback %s", sti_status_name(senders[i].rc));
    }
}

/* @return false: it is none of ours */
static bool produce_command(char **words, int *rc, struct sti_err *err)
{
    const char *what = words[0];
    if (strcmp(what, "producer") == 0) {
        *rc = producer_make(words, err);
    } else if (strcmp(what, "topic") == 0) {
        *rc = sti_producer_topic_open(&d.topic, d.producer, words[1], err);
    } else if (strcmp(what, "send") == 0) {
        *rc = send_many(words, 0, err);
    } else if (strcmp(what, "try") == 0) {
        *rc = send_many(words, STI_SEND_NO_WAIT, err);
    } else if (strcmp(what, "threads") == 0) {
        *rc = send_threads(words, err);
    } else if (strcmp(what, "flush") == 0) {
        *rc = sti_producer_flush(d.producer, (uint32_t)num(words[1]), err);
    } else if (strcmp(what, "purge") == 0) {
        sti_producer_purge(d.producer, (uint32_t)num(words[1]));
    } else if (strcmp(what, "blocked") == 0) {
        close_blocked(words);
    } else if (strcmp(what, "close") == 0) {
        sti_producer_close(d.producer, (uint32_t)num(words[1]));
        d.producer = NULL;
    } else {
        return false;
    }
    return true;
}

static int command(char **words, struct sti_err *err)
{
    const char *what = words[0];
    int rc = STI_OK;
    if (produce_command(words, &rc, err)) {
        return rc;
    }
    if (strcmp(what, "client") == 0) {
        rc = client_make(words, err);
    } else if (strcmp(what, "consumer") == 0) {
        rc = consumer_make(words, err);
    } else if (strcmp(what, "poll") == 0) {
        long left = 0;
        rc = poll_some((uint32_t)num(words[1]), &left, err);
    } else if (strcmp(what, "drain") == 0) {
        long left = num(words[2]);
        while (rc == STI_OK && left > 0) {
            rc = poll_some((uint32_t)num(words[1]), &left, err);
        }
    } else if (strcmp(what, "wakeup") == 0) {
        sti_consumer_wakeup(d.consumer);
    } else if (strcmp(what, "closec") == 0) {
        sti_consumer_close(d.consumer);
        d.consumer = NULL;
    } else if (strcmp(what, "create") == 0) {
        rc = sti_admin_create_topic(d.client, words[1], num(words[2]), 1, NULL, 0, NULL, err);
    } else if (strcmp(what, "grow") == 0) {
        rc = sti_admin_alter_topic(d.client, words[1], num(words[2]), NULL, 0, err);
    } else if (strcmp(what, "await") == 0) {
        rc = sti_admin_await_topic(d.client, words[1], (uint32_t)num(words[2]), err);
    } else if (strcmp(what, "describe") == 0) {
        rc = describe(words[1], err);
    } else if (strcmp(what, "cancel") == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, cancel_main, (void *)(uintptr_t)num(words[1]));
        pthread_detach(thread);
    } else {
        rc = consume(words, err);
    }
    return rc;
}

int main(void)
{
    char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *words[16] = {NULL}, *save = NULL;
        struct sti_err err = {.code = STI_OK};
        size_t count = 0;
        for (char *word = strtok_r(line, " \n", &save); word != NULL && count < 15;
             word = strtok_r(NULL, " \n", &save)) {
            words[count++] = word;
        }
        if (count == 0) {
            continue;
        }
        if (strcmp(words[0], "end") == 0) {
            break;
        }
        answer(command(words, &err), &err);
    }
    sti_producer_close(d.producer, 0);
    sti_consumer_close(d.consumer);
    sti_client_free(d.client);
    say("ok end");
    return 0;
}
