/* test_frame.c -- frames: what is written is read again, however it is cut; what is malformed is
 * refused, and no byte behind it is touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../frame.h"

enum { BYTES_MAX = 4096, RANDOM_ROUNDS = 200000, PAYLOAD_MAX = 2000 };

static struct pco_frame call_frame(void)
{
    struct pco_frame frame = {.kind = PCO_CALL, .id = 77, .timeout_ms = 4000000000u};
    (void)snprintf(frame.service, sizeof frame.service, "%s", "replica");
    (void)snprintf(frame.method, sizeof frame.method, "%s", "fetch");
    return frame;
}

static struct pco_frame hello_frame(int status)
{
    struct pco_frame frame = {.kind = PCO_HELLO, .id = 1 << 20, .status = status};
    frame.hello = (struct pco_hello){.major = 0, .minor = 2, .node_id = 5, .wanted_id = -1};
    (void)snprintf(frame.hello.cluster_id, sizeof frame.hello.cluster_id, "%s",
                   "0123456789abcdef0123456789abcdef");
    (void)snprintf(frame.text, sizeof frame.text, "%s",
                   status == 0 ? "" : "you are of another cluster");
    return frame;
}

static struct pco_frame answer_frame(int status)
{
    struct pco_frame frame = {.kind = PCO_ANSWER, .id = UINT64_MAX, .status = status};
    (void)snprintf(frame.text, sizeof frame.text, "%s", status == 0 ? "" : "no such offset");
    return frame;
}

/* The frame's bytes, each in its own memory so that a read beyond them is found. */
static size_t flatten(const struct pco_frame *frame, const char *payload, uint8_t *out)
{
    struct sti_slice slice = sti_slice_borrow(payload, strlen(payload));
    struct pco_message *message = pco_message_new(frame, &slice, 1);
    size_t len = 0;
    assert_non_null(message);
    for (uint32_t i = 0; i < message->slice_count; i++) {
        memcpy(out + len, message->slices[i].data, (size_t)message->slices[i].len);
        len += (size_t)message->slices[i].len;
    }
    assert_int_equal(len, message->len);
    assert_int_equal(message->payload_len, strlen(payload));
    assert_int_equal(message->copied, strlen(payload));
    pco_message_free(message);
    assert_true(len >= PCO_FIXED_BYTES);
    return len < PCO_FIXED_BYTES ? PCO_FIXED_BYTES : len; /* for the analyser, too */
}

/* As one exact allocation, or cut into slices of `step` bytes. */
static uint32_t cut(const uint8_t *bytes, size_t len, size_t step, struct sti_slice *slices,
                    uint8_t **memory)
{
    uint32_t count = 0;
    *memory = malloc(len == 0 ? 1 : len);
    assert_non_null(*memory);
    memcpy(*memory, bytes, len);
    for (size_t pos = 0; pos < len; pos += step) {
        slices[count++] = sti_slice_borrow(*memory + pos, len - pos < step ? len - pos : step);
    }
    return count;
}

static int read_one(const uint8_t *bytes, size_t len, size_t step, struct pco_frame *out,
                    uint64_t *left)
{
    static struct sti_slice slices[BYTES_MAX];
    struct pco_cursor cursor;
    struct sti_err err;
    uint8_t *memory;
    uint32_t count = cut(bytes, len, step, slices, &memory);
    pco_cursor_init(&cursor, slices, count);
    int rc = pco_frame_read(&cursor, PAYLOAD_MAX, out, &err);
    if (rc == STI_OK) {
        static struct sti_slice pieces[BYTES_MAX];
        assert_true(out->payload_len <= cursor.left);
        uint32_t wanted = pco_cursor_pieces(&cursor, out->payload_len);
        pco_cursor_take(&cursor, out->payload_len, pieces);
        assert_int_equal(sti_slices_len(pieces, wanted), out->payload_len);
        uint8_t sum = 0; /* every byte is there */
        for (uint32_t i = 0; i < wanted; i++) {
            for (uint64_t j = 0; j < pieces[i].len; j++) {
                sum ^= pieces[i].data[j];
            }
        }
        (void)sum;
    } else {
        assert_int_equal(rc, STI_E_CORRUPT_BATCH);
        assert_true(err.msg[0] != '\0');
    }
    *left = cursor.left;
    free(memory);
    return rc;
}

static void frames_are_read_again(void **state)
{
    (void)state;
    struct pco_frame frames[] = {call_frame(), hello_frame(0), hello_frame(STI_E_PERMISSION_DENIED),
                                 answer_frame(0), answer_frame(STI_E_OFFSET_OUT_OF_RANGE)};
    const char *const payloads[] = {"a payload", "", "", "an answer", ""};
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        uint8_t bytes[BYTES_MAX];
        size_t len = flatten(&frames[i], payloads[i], bytes);
        for (size_t step = 1; step <= len; step++) {
            struct pco_frame got;
            uint64_t left;
            assert_int_equal(read_one(bytes, len, step, &got, &left), STI_OK);
            assert_int_equal(left, 0);
            assert_int_equal(got.kind, frames[i].kind);
            assert_true(got.id == frames[i].id);
            assert_int_equal(got.status, frames[i].status);
            assert_true(got.timeout_ms == frames[i].timeout_ms);
            assert_string_equal(got.service, frames[i].service);
            assert_string_equal(got.method, frames[i].method);
            assert_string_equal(got.text, frames[i].text);
            assert_int_equal(got.payload_len, strlen(payloads[i]));
            if (got.kind == PCO_HELLO) {
                assert_string_equal(got.hello.cluster_id, frames[i].hello.cluster_id);
                assert_int_equal(got.hello.node_id, 5);
                assert_int_equal(got.hello.wanted_id, -1);
                assert_int_equal(got.hello.minor, 2);
            }
        }
    }
}

static void several_frames_share_a_message(void **state)
{
    (void)state;
    struct pco_frame call = call_frame(), answer = answer_frame(0), got;
    uint8_t bytes[BYTES_MAX];
    size_t first = flatten(&call, "one", bytes);
    size_t len = first + flatten(&answer, "two", bytes + first);
    uint64_t left;
    assert_int_equal(read_one(bytes, len, 7, &got, &left), STI_OK);
    assert_int_equal(left, len - first);
}

static void what_is_cut_short_is_refused(void **state)
{
    (void)state;
    struct pco_frame frames[] = {call_frame(), hello_frame(0), answer_frame(STI_E_IO)};
    for (size_t i = 0; i < 3; i++) {
        uint8_t bytes[BYTES_MAX];
        size_t len = flatten(&frames[i], i == 0 ? "payload" : "", bytes);
        for (size_t shorter = 0; shorter < len; shorter++) {
            struct pco_frame got;
            uint64_t left;
            assert_int_equal(read_one(bytes, shorter, 5, &got, &left), STI_E_CORRUPT_BATCH);
        }
    }
}

static void refused(const struct pco_frame *frame, const char *payload, size_t at, uint8_t value)
{
    uint8_t bytes[BYTES_MAX];
    struct pco_frame got;
    uint64_t left;
    size_t len = flatten(frame, payload, bytes);
    bytes[at] = value;
    assert_int_equal(read_one(bytes, len, 1000, &got, &left), STI_E_CORRUPT_BATCH);
}

static void each_field_is_checked(void **state)
{
    (void)state;
    struct pco_frame call = call_frame(), hello = hello_frame(0), answer = answer_frame(0);
    refused(&call, "x", 0, 23); /* shorter than its fixed part */
    refused(&call, "x", 0, 30); /* ends within a name */
    refused(&call, "x", 3, 1);  /* longer than the message */
    refused(&call, "x", 4, 0);  /* no such kind */
    refused(&call, "x", 4, 9);
    refused(&call, "x", 5, 0); /* no service */
    refused(&call, "x", 5, 64);
    refused(&call, "x", 6, 0);     /* no method */
    refused(&call, "x", 7, 1);     /* must be zero */
    refused(&call, "x", 20, 1);    /* a sentence */
    refused(&call, "x", 24, '\n'); /* a name of a line feed */
    refused(&hello, "", 5, 1);
    refused(&hello, "x", 24, 'S');  /* a payload behind a hello */
    refused(&hello, "", 24, 'X');   /* another magic */
    refused(&hello, "", 40, ' ');   /* a cluster id with a space */
    refused(&answer, "x", 16, 1);   /* a status above zero */
    refused(&answer, "x", 20, 248); /* a sentence too long */
    answer.status = STI_E_IO;
    refused(&answer, "x", 24, 'n'); /* a payload behind an error */
}

static void a_large_payload_is_refused(void **state)
{
    (void)state;
    char payload[PAYLOAD_MAX + 2];
    uint8_t bytes[BYTES_MAX];
    struct pco_frame call = call_frame(), got;
    uint64_t left;
    memset(payload, 'p', sizeof payload - 1);
    payload[sizeof payload - 1] = '\0';
    size_t len = flatten(&call, payload, bytes);
    assert_int_equal(read_one(bytes, len, 1000, &got, &left), STI_E_CORRUPT_BATCH);
    payload[PAYLOAD_MAX] = '\0';
    len = flatten(&call, payload, bytes);
    assert_int_equal(read_one(bytes, len, 1000, &got, &left), STI_OK);
}

/* Whatever the other side sends, a sentence that is logged is text. */
static void a_sentence_is_made_text(void **state)
{
    (void)state;
    uint8_t bytes[BYTES_MAX];
    struct pco_frame answer = answer_frame(STI_E_IO), got;
    uint64_t left;
    size_t len = flatten(&answer, "", bytes);
    bytes[PCO_FIXED_BYTES] = 0;
    bytes[PCO_FIXED_BYTES + 1] = 0x1b;
    assert_int_equal(read_one(bytes, len, 1000, &got, &left), STI_OK);
    assert_string_equal(got.text, "?? such offset");
}

static void random_bytes_are_safe(void **state)
{
    (void)state;
    uint64_t random = 1;
    struct pco_frame frames[] = {call_frame(), hello_frame(STI_E_IO), answer_frame(0)};
    unsigned taken = 0;
    for (unsigned round = 0; round < RANDOM_ROUNDS; round++) {
        uint8_t bytes[BYTES_MAX];
        struct pco_frame got;
        uint64_t left;
        size_t len = flatten(&frames[round % 3], round % 3 == 1 ? "" : "payload", bytes);
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        unsigned changes = 1 + (unsigned)(random >> 61);
        for (unsigned i = 0; i < changes; i++) {
            random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            bytes[(random >> 40) % len] = (uint8_t)(random >> 33);
        }
        len -= (random >> 50) % 8 == 0 ? (random >> 20) % len : 0;
        taken += read_one(bytes, len, 1 + (random >> 55) % 40, &got, &left) == STI_OK ? 1 : 0;
    }
    assert_true(taken > 0 && taken < RANDOM_ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_read_again),
        cmocka_unit_test(several_frames_share_a_message),
        cmocka_unit_test(what_is_cut_short_is_refused),
        cmocka_unit_test(each_field_is_checked),
        cmocka_unit_test(a_large_payload_is_refused),
        cmocka_unit_test(a_sentence_is_made_text),
        cmocka_unit_test(random_bytes_are_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
