/* fuzz_answer.c -- every answer that a server may give to libstreamit, taken as the client takes
 * it.
 *
 * The first byte chooses the call. What the calls hand to an application can be read to its last
 * byte and freed, or they fail with a message.
 */
#include <string.h>

#include "fuzz.h"
#include "internal.h"

static const uint8_t *answer;
static size_t answer_len;

int __wrap_cl_ask_run(struct sti_client *client, struct cl_ask *ask, struct sti_err *err);

/* The server has answered with the input. */
int __wrap_cl_ask_run(struct sti_client *client, struct cl_ask *ask, struct sti_err *err)
{
    struct cl_failure failure = {0};
    (void)client;
    int rc = ask->parse(ask, answer, answer_len, &failure);
    if (rc != STI_OK) {
        *err = failure.err;
    }
    return rc;
}

static void read_text(const char *text)
{
    FUZZ_EXPECT(text != NULL && strlen(text) <= answer_len);
}

static void created(struct sti_client *client)
{
    struct sti_admin_created out = {0};
    struct sti_err err;
    sti_err_clear(&err);
    int rc = sti_admin_create_topic(client, "t", 0, 0, NULL, 0, &out, &err);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
}

static void listed(struct sti_client *client)
{
    struct sti_admin_topics *topics;
    struct sti_err err;
    sti_err_clear(&err);
    if (sti_admin_list_topics(client, &topics, &err) != STI_OK) {
        FUZZ_EXPECT(err.msg[0] != '\0');
        return;
    }
    for (size_t i = 0; i < topics->count; i++) {
        read_text(topics->topics[i].name);
    }
    sti_admin_topics_free(topics);
}

static void described(struct sti_client *client)
{
    struct sti_admin_description *d;
    struct sti_err err;
    int64_t sum = 0;
    sti_err_clear(&err);
    if (sti_admin_describe_topic(client, "t", &d, &err) != STI_OK) {
        FUZZ_EXPECT(err.msg[0] != '\0');
        return;
    }
    read_text(d->name);
    for (size_t i = 0; i < d->partition_count; i++) {
        const struct sti_admin_partition *p = &d->partitions[i];
        for (uint32_t k = 0; k < p->replica_count; k++) {
            sum += p->replicas[k];
        }
        for (uint32_t k = 0; k < p->isr_count; k++) {
            sum += p->isr[k];
        }
        if (p->status_message != NULL) {
            read_text(p->status_message);
        }
    }
    for (size_t i = 0; i < d->config_count; i++) {
        read_text(d->config[i].key);
        read_text(d->config[i].value);
        read_text(d->config[i].source);
        read_text(d->config[i].help);
    }
    FUZZ_EXPECT(sum != INT64_MIN);
    sti_admin_description_free(d);
}

static void found(struct sti_client *client, bool leader)
{
    struct sti_admin_leader out;
    struct sti_err err;
    int64_t offset;
    sti_err_clear(&err);
    int rc = leader ? sti_admin_find_leader(client, "t", 0, &out, &err)
                    : sti_admin_list_offset(client, "t", 0, 0, &offset, &err);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
}

static void fetched_row(void *arg, struct cl_fetch_row *row)
{
    uint8_t byte;
    size_t left = row->batches.left;
    (void)arg;
    read_text(row->topic);
    FUZZ_EXPECT(!row->has_error || memchr(row->failure.err.msg, 0, sizeof row->failure.err.msg));
    FUZZ_EXPECT(left <= answer_len);
    for (; left > 0; left--) {
        FUZZ_EXPECT(cl_cursor_copy(&row->batches, &byte, 1));
    }
}

/* The answer comes in pieces, as the network cuts it. */
static void fetched(void)
{
    enum { PIECES_MAX = 64 };
    grpc_slice slices[PIECES_MAX];
    size_t piece = (size_t)fuzz_byte(&answer, &answer_len) + 1, count = 0, pos = 0;
    while (pos < answer_len && count < PIECES_MAX) {
        size_t n = answer_len - pos < piece || count == PIECES_MAX - 1 ? answer_len - pos : piece;
        slices[count++] = grpc_slice_from_static_buffer(answer + pos, n);
        pos += n;
    }
    (void)cl_decode_fetch(cl_cursor_make(slices, count), fetched_row, NULL);
}

/* A status with the details of a trailer. */
static void failed(void)
{
    struct cl_failure failure;
    uint8_t status = fuzz_byte(&answer, &answer_len) % 18;
    cl_failure_from_status(&failure, "127.0.0.1:1", (grpc_status_code)status, (const char *)answer,
                           answer_len, answer, answer_len);
    FUZZ_EXPECT(failure.err.code != STI_OK && strlen(failure.err.msg) < sizeof failure.err.msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sti_client client = {.config = {.timeout_ms = 1000}};
    uint8_t which = fuzz_byte(&data, &len) % 7;
    answer = data;
    answer_len = len;
    switch (which) {
    case 0:
        fetched();
        break;
    case 1:
        created(&client);
        break;
    case 2:
        listed(&client);
        break;
    case 3:
        described(&client);
        break;
    case 4:
    case 5:
        found(&client, which == 4);
        break;
    default:
        failed();
        break;
    }
    return 0;
}
