/* fill.c -- many topics, and a record in every one of their partitions.
 *
 *     fill HOST:PORT TOPICS PARTITIONS create|write      {"seconds":S}
 *
 * Makes topics f00000, f00001, ... (create), or only writes (write) to those that are there, so
 * that no partition is closed when the node is killed next.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "raw.h"
#include "streamit/client.h"

enum { THREADS = 4, RECORD_LEN = 100 };

static const char usage[] = "fill HOST:PORT TOPICS PARTITIONS create|write";

static struct {
    struct sti_client *client;
    uint64_t topics;
    int32_t partitions;
    _Atomic uint64_t next, failed;
} fill;

static void check(int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        (void)fprintf(stderr, "error: %s: %s\n", sti_status_name(rc), err->msg);
        exit(EXIT_FAILURE);
    }
}

static void name_of(char out[32], uint64_t index)
{
    (void)snprintf(out, 32, "f%05" PRIu64, index);
}

static void *create_main(void *arg)
{
    struct sti_admin_created created;
    struct sti_err err;
    char name[32];
    uint64_t index;
    (void)arg;
    while ((index = atomic_fetch_add(&fill.next, 1)) < fill.topics) {
        name_of(name, index);
        check(
            sti_admin_create_topic(fill.client, name, fill.partitions, 1, NULL, 0, &created, &err),
            &err);
    }
    return NULL;
}

static void create_all(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        errno = pthread_create(&threads[i], NULL, create_main, NULL);
        if (errno != 0) {
            raw_die("thread");
        }
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
}

static void on_delivery(void *arg, const struct sti_delivery *delivery)
{
    (void)arg;
    if (delivery->status != STI_OK) {
        fill.failed += delivery->count;
    }
}

static void write_all(void)
{
    static const uint8_t value[RECORD_LEN];
    struct sti_producer_config config;
    struct sti_producer *producer;
    struct sti_err err;
    sti_producer_config_init(&config);
    config.acks = STI_PRODUCER_ACKS_LEADER;
    config.on_delivery = on_delivery;
    check(sti_producer_new(&producer, fill.client, &config, &err), &err);
    for (uint64_t i = 0; i < fill.topics; i++) {
        struct sti_producer_topic *topic;
        char name[32];
        name_of(name, i);
        check(sti_producer_topic_open(&topic, producer, name, &err), &err);
        for (int32_t p = 0; p < fill.partitions; p++) {
            struct sti_producer_record record = {.partition = p,
                                                 .value = value,
                                                 .value_len = sizeof value,
                                                 .timestamp_ms = STI_TIMESTAMP_NOW};
            check(sti_producer_send(topic, &record, &err), &err);
        }
    }
    check(sti_producer_flush(producer, config.timeout_ms, &err), &err);
    sti_producer_close(producer, 0);
    if (fill.failed != 0) {
        (void)fprintf(stderr, "error: %" PRIu64 " records failed\n", (uint64_t)fill.failed);
        exit(EXIT_FAILURE);
    }
}

int main(int argc, char **argv)
{
    struct sti_client_config config;
    struct sti_err err;
    bool creates = argc == 5 && strcmp(argv[4], "create") == 0;
    if (argc != 5 || (!creates && strcmp(argv[4], "write") != 0)) {
        raw_usage(usage);
    }
    sti_client_config_init(&config);
    config.servers = argv[1];
    config.client_id = "fill";
    fill.topics = raw_number(argv[2], 99999, usage);
    fill.partitions = (int32_t)raw_number(argv[3], 10000, usage);
    check(sti_client_new(&fill.client, &config, &err), &err);
    double begin = raw_now_s();
    if (creates) {
        create_all();
    }
    write_all();
    sti_client_free(fill.client);
    (void)printf("{\"seconds\":%.3f}\n", raw_now_s() - begin);
    return EXIT_SUCCESS;
}
