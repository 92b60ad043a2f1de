/* test_server.c -- the server seen from a raw socket: good requests, nonsense, slow and many
 * clients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "fake_host.h"
#include "server.h"

static struct mpr_server *server;

static const struct mpr_conf conf = {.address = "127.0.0.1",
                                     .port = 0,
                                     .connections_max = 16,
                                     .connections_per_ip_max = 8,
                                     .timeout_ms = 1000};

static int setup(void **state)
{
    (void)state;
    struct sti_err err;
    fake_reset();
    if (mpr_server_start(&server, &fake.host, &conf, &err) != STI_OK) {
        print_error("%s\n", err.msg);
        return 1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mpr_server_stop(server);
    server = NULL;
    return 0;
}

static int dial(void)
{
    const struct timeval patience = {.tv_sec = 20};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(mpr_server_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return; /* the server has had enough: its answer tells */
        }
        data += n;
        len -= (size_t)n;
    }
}

/* Everything until the server closes. The caller frees. */
static char *read_all(int fd)
{
    size_t capacity = 1 << 20, len = 0;
    char *data = malloc(capacity + 1);
    assert_non_null(data);
    for (;;) {
        ssize_t n = recv(fd, data + len, capacity - len, 0);
        if (n <= 0) {
            break;
        }
        len += (size_t)n;
    }
    data[len] = '\0';
    (void)close(fd);
    return data;
}

/* Send a request and give back the whole answer. */
static char *ask(const char *request)
{
    int fd = dial();
    send_all(fd, request, strlen(request));
    return read_all(fd);
}

#define CLOSING " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static unsigned count_of(const char *text, const char *what)
{
    unsigned count = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        count++;
    }
    return count;
}

static void check_alive(void)
{
    char *answer = ask("GET /live" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 200 "));
    assert_non_null(strstr(answer, "\r\n\r\nlive\n"));
    free(answer);
}

static void test_pages(void **state)
{
    (void)state;
    char expected[64];
    snprintf(expected, sizeof expected, "127.0.0.1:%u", mpr_server_port(server));
    assert_string_equal(fake.announced, expected);
    check_alive();
    char *answer = ask("GET /metrics?x=1" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 200 "));
    assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_non_null(strstr(answer, "process_resident_memory_bytes "));
    free(answer);
    fake.state = STI_NODE_STARTING;
    answer = ask("GET /ready" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 503 "));
    assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(answer, "\"state\":\"starting\""));
    free(answer);
}

static void test_head_has_no_body(void **state)
{
    (void)state;
    char *answer = ask("HEAD /version" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 200 "));
    assert_non_null(strstr(answer, "Content-Length: "));
    assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
    free(answer);
}

static void test_404_and_405(void **state)
{
    (void)state;
    char *answer = ask("GET /nothing" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 404 "));
    assert_non_null(strstr(answer, "This server knows /metrics"));
    free(answer);
    answer = ask("DELETE /metrics" CLOSING);
    assert_non_null(strstr(answer, "HTTP/1.1 405 "));
    assert_non_null(strstr(answer, "Allow: GET, HEAD\r\n"));
    free(answer);
    answer = ask("POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc");
    assert_non_null(strstr(answer, "HTTP/1.1 405 "));
    free(answer);
    check_alive();
}

static void test_pipelined_requests(void **state)
{
    (void)state;
    char *answer = ask("GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
                       "GET /version" CLOSING);
    assert_int_equal(count_of(answer, "HTTP/1.1 200 "), 3);
    free(answer);
}

static void test_garbage_costs_the_sender_only(void **state)
{
    (void)state;
    static const char *const nonsense[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\xfc\x03\x03",
        "GET /live HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /live HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET /live HTTP/1.1\r\nHost: x\r\n\r\n\x01\x02\x03 rubbish \r\n\r\n"};
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        int fd = dial();
        send_all(fd, nonsense[i], strlen(nonsense[i]));
        (void)shutdown(fd, SHUT_WR);
        free(read_all(fd));
        check_alive();
    }
}

static void test_endless_header_is_refused(void **state)
{
    (void)state;
    size_t len = 256 * 1024;
    char *request = malloc(len);
    assert_non_null(request);
    memset(request, 'a', len);
    memcpy(request, "GET /live HTTP/1.1\r\nX: ", 23);
    int fd = dial();
    send_all(fd, request, len);
    (void)shutdown(fd, SHUT_WR);
    char *answer = read_all(fd);
    assert_null(strstr(answer, "HTTP/1.1 200 "));
    free(answer);
    free(request);
    check_alive();
}

static void test_slow_and_many_clients(void **state)
{
    (void)state;
    int slow[8];
    char byte;
    for (size_t i = 0; i < 7; i++) {
        slow[i] = dial();
        send_all(slow[i], "GET /li", 7);
    }
    check_alive(); /* the eighth from this address */
    slow[7] = dial();
    send_all(slow[7], "G", 1);
    int ninth = dial();
    assert_true(recv(ninth, &byte, 1, 0) <= 0);
    (void)close(ninth);
    for (size_t i = 0; i < 8; i++) {
        (void)close(slow[i]);
    }
}

static void test_silent_client_is_dropped(void **state)
{
    (void)state;
    int fd = dial();
    send_all(fd, "GET /live HTTP/1.1\r\n", 20);
    char *answer = read_all(fd); /* returns when the server has closed */
    assert_null(strstr(answer, "HTTP/1.1 200 "));
    free(answer);
}

static void test_port_in_use_names_the_address(void **state)
{
    (void)state;
    struct mpr_server *second;
    struct mpr_conf taken = conf;
    struct sti_err err;
    char expected[128];
    taken.port = mpr_server_port(server);
    assert_int_equal(mpr_server_start(&second, &fake.host, &taken, &err), STI_E_IN_USE);
    assert_null(second);
    snprintf(expected, sizeof expected, "cannot listen on 127.0.0.1:%u: Address already in use",
             mpr_server_port(server));
    assert_string_equal(err.msg, expected);
    taken.address = "256.1.1.1.";
    assert_int_equal(mpr_server_start(&second, &fake.host, &taken, &err), STI_E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.msg, "cannot listen on 256.1.1.1.:"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_head_has_no_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_404_and_405, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pipelined_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_garbage_costs_the_sender_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endless_header_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_and_many_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silent_client_is_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use_names_the_address, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
