/* grpc_fake_broker.c -- transport_grpc in front of the fake broker, for tests in other languages.
 *
 * Prints "port N" when it accepts. Standard input: a line "drain" drains, end of file stops.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_broker.h"
#include "test_host.h"
#include "transport.h"

extern const struct sti_plugin sti_plugin;

int main(void)
{
    struct tgr_conf conf = {.host = "127.0.0.1",
                            .advertised_host = "broker.example",
                            .poller_threads = 2,
                            .max_message_bytes = 4 << 20,
                            .max_concurrent_streams = 2048,
                            .calls_in_flight_max = 4096,
                            .partitions_per_call_max = 100,
                            .fetch_response_bytes_max = 1 << 20,
                            .keepalive_ms = 60000,
                            .keepalive_timeout_ms = 20000,
                            .keepalive_min_interval_ms = 10000,
                            .stream_requests_max = 64,
                            .stream_partitions_max = 100};
    struct sti_err err;
    char line[64];
    void *self;
    struct test_host *th = test_host_new("/", 2);
    struct fake_broker *fb = fake_broker_new(test_host_for(th, "broker"));
    test_host_provide(th, "broker", fake_broker_iface(), fb);
    const struct sti_lifecycle *life = sti_plugin.life;
    int rc = life->create(test_host_for(th, "transport_grpc"), &conf, &self, &err);
    if (rc == STI_OK) {
        rc = life->start(self, &err);
    }
    if (rc != STI_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("port %d\n", ((struct tgr_transport *)self)->port);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "drain\n") == 0) {
            rc = life->drain(self, 5000, &err);
            printf("drained %s\n", sti_status_name(rc));
            fflush(stdout);
        }
    }
    rc = life->stop(self, 10000, &err);
    uint64_t slices_out = fake_broker_facts(fb).slices_out;
    printf("stopped %s, %llu slices out\n", sti_status_name(rc), (unsigned long long)slices_out);
    if (rc != STI_OK) {
        return 1;
    }
    life->destroy(self);
    fake_broker_free(fb);
    test_host_free(th);
    return slices_out == 0 ? 0 : 1;
}
