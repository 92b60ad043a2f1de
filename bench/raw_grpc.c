/* raw_grpc.c -- the limit of a node's start and of its memory: a gRPC server that serves nothing.
 *
 *     raw_grpc          prints {"port":N,"ready_ms":N} once it listens on loopback, and stays until
 *                       its standard input ends
 *
 * One completion queue, one thread that polls it, no method, no service: what any daemon on gRPC's
 * C core pays before it does anything. ready_ms counts from main.
 */
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#pragma GCC diagnostic pop

#include "raw.h"

static void *poll_main(void *arg)
{
    grpc_completion_queue *queue = arg;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return NULL;
        }
    }
}

int main(int argc, char **argv)
{
    double begin = raw_now_s();
    pthread_t thread;
    char byte;
    (void)argv;
    if (argc != 1) {
        raw_usage("raw_grpc");
    }
    grpc_init();
    grpc_server *server = grpc_server_create(NULL, NULL);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    grpc_server_register_completion_queue(server, queue, NULL);
    int port = grpc_server_add_http2_port(server, "127.0.0.1:0", credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0) {
        raw_die("listen");
    }
    grpc_server_start(server);
    errno = pthread_create(&thread, NULL, poll_main, queue);
    if (errno != 0) {
        raw_die("thread");
    }
    (void)printf("{\"port\":%d,\"ready_ms\":%.2f}\n", port, (raw_now_s() - begin) * 1e3);
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    grpc_server_shutdown_and_notify(server, queue, NULL);
    grpc_server_cancel_all_calls(server);
    grpc_completion_queue_shutdown(queue);
    (void)pthread_join(thread, NULL);
    grpc_server_destroy(server);
    grpc_completion_queue_destroy(queue);
    grpc_shutdown();
    return EXIT_SUCCESS;
}
