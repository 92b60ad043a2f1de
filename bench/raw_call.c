/* raw_call.c -- the cost of a call that does next to nothing: FindLeader, one after the other.
 *
 *     raw_call HOST:PORT TOPIC COUNT     {"calls_per_s":N,"p50_us":N,"p99_us":N}
 *
 * It goes the whole way of any call: libstreamit's poll thread, gRPC, the transport, the broker's
 * catalogue, and back. What a produce costs beyond it is the produce.
 */
#include "raw.h"
#include "streamit/client.h"

enum { COUNT_MAX = 1000000, WARM_UP = 50 };

static const char usage[] = "raw_call HOST:PORT TOPIC COUNT   (COUNT at most 1000000)";

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(int rc, const struct sti_err *err)
{
    if (rc != STI_OK) {
        (void)fprintf(stderr, "error: %s: %s\n", sti_status_name(rc), err->msg);
        exit(EXIT_FAILURE);
    }
}

int main(int argc, char **argv)
{
    struct sti_client_config config;
    struct sti_client *client;
    struct sti_admin_leader leader;
    struct sti_err err;
    if (argc != 4) {
        raw_usage(usage);
    }
    size_t count = (size_t)raw_number(argv[3], COUNT_MAX, usage);
    double *took = malloc(count * sizeof *took);
    if (took == NULL) {
        raw_die("memory");
    }
    sti_client_config_init(&config);
    config.servers = argv[1];
    config.client_id = "raw_call";
    check(sti_client_new(&client, &config, &err), &err);
    for (int i = 0; i < WARM_UP; i++) {
        check(sti_admin_find_leader(client, argv[2], 0, &leader, &err), &err);
    }
    double begin = raw_now_s(), last = begin;
    for (size_t i = 0; i < count; i++) {
        check(sti_admin_find_leader(client, argv[2], 0, &leader, &err), &err);
        double now = raw_now_s();
        took[i] = (now - last) * 1e6;
        last = now;
    }
    sti_client_free(client);
    qsort(took, count, sizeof *took, by_value);
    (void)printf("{\"calls_per_s\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
                 (double)count / (last - begin), took[count / 2], took[count * 99 / 100]);
    free(took);
    return EXIT_SUCCESS;
}
