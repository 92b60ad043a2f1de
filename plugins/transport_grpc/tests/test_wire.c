/* The wire reader against every cut and every split, and the check that precedes protobuf-c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "arena.h"
#include "streamit/v1/streamit.pb-c.h"
#include "wire.h"

static bool varint(const uint8_t *bytes, size_t len, uint64_t *out)
{
    struct sti_slice span = sti_slice_borrow(bytes, len);
    struct tgr_reader reader;
    tgr_reader_init(&reader, &span, 1);
    return tgr_read_varint(&reader, len, out) && reader.pos == len;
}

static void test_varint(void **state)
{
    static const uint64_t values[] = {0,         1, 127, 128, 300, UINT32_MAX, (uint64_t)INT64_MAX,
                                      UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        uint8_t bytes[10];
        uint64_t out = 7;
        size_t len = tgr_varint_put(bytes, values[i]);
        assert_int_equal(len, tgr_varint_len(values[i]));
        assert_true(varint(bytes, len, &out));
        assert_int_equal(out, values[i]);
        for (size_t cut = 0; cut < len; cut++) {
            assert_false(varint(bytes, cut, &out));
        }
    }
    static const uint8_t eleven[] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1};
    static const uint8_t over[] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 2};
    uint64_t out;
    assert_false(varint(eleven, sizeof eleven, &out));
    assert_false(varint(over, sizeof over, &out));
}

static void test_keys(void **state)
{
    (void)state;
    static const uint8_t bad[][6] = {
        {0x00}, {0x0b}, {0x0c}, {0x0e}, {0x80, 0x80, 0x80, 0x80, 0x80, 0x01}};
    static const size_t lens[] = {1, 1, 1, 1, 6};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        struct sti_slice span = sti_slice_borrow(bad[i], lens[i]);
        struct tgr_reader reader;
        uint32_t number, type;
        tgr_reader_init(&reader, &span, 1);
        assert_false(tgr_read_key(&reader, lens[i], &number, &type));
    }
}

static void test_bytes_over_spans(void **state)
{
    static const char text[] = "0123456789";
    (void)state;
    for (size_t split = 0; split <= 10; split++) {
        struct sti_slice spans[3] = {sti_slice_borrow(text, split), sti_slice_borrow(text, 0),
                                     sti_slice_borrow(text + split, 10 - split)};
        struct tgr_reader reader;
        char out[10];
        tgr_reader_init(&reader, spans, 3);
        assert_true(tgr_read_bytes(&reader, 10, 3, NULL));
        assert_true(tgr_read_bytes(&reader, 10, 7, out));
        assert_memory_equal(out, "3456789", 7);
        assert_false(tgr_read_bytes(&reader, 10, 1, out));
        assert_false(tgr_read_bytes(&reader, 11, 1, out)); /* an end beyond the spans */

        struct sti_slice slices[4];
        size_t count;
        tgr_reader_init(&reader, spans, 3);
        assert_true(tgr_read_slices(&reader, 10, 10, slices, 4, &count));
        assert_int_equal(count, split == 0 || split == 10 ? 1 : 2);
        assert_int_equal(sti_slices_len(slices, count), 10);
        tgr_reader_init(&reader, spans, 3);
        assert_false(tgr_read_slices(&reader, 10, 11, slices, 4, &count));
        assert_false(tgr_read_slices(&reader, 10, UINT64_MAX, slices, 4, &count));
    }
}

static void test_text(void **state)
{
    (void)state;
    static const char *const good[] = {"", "topic", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static const char *const bad[] = {"\xc0\xaf",         "\xed\xa0\x80",     "\xff",
                                      "\xf4\x90\x80\x80", "\xe2\x82",         "\x80",
                                      "\xe0\x9f\xbf",     "\xf0\x8f\xbf\xbf", "a\xc3"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(tgr_text_valid((const uint8_t *)good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(tgr_text_valid((const uint8_t *)bad[i], strlen(bad[i])));
    }
    assert_false(tgr_text_valid((const uint8_t *)"a\0b", 3));
}

static size_t sample(uint8_t *out)
{
    Streamit__V1__ConfigEntry entry = STREAMIT__V1__CONFIG_ENTRY__INIT;
    Streamit__V1__ConfigEntry *entries[] = {&entry, &entry};
    Streamit__V1__CreateTopicRequest request = STREAMIT__V1__CREATE_TOPIC_REQUEST__INIT;
    entry.key = (char *)"segment.bytes";
    entry.value = (char *)"1024";
    request.name = (char *)"orders";
    request.partitions = 3;
    request.n_config = 2;
    request.config = entries;
    return streamit__v1__create_topic_request__pack(&request, out);
}

static int check(const uint8_t *data, size_t len, size_t fields_max)
{
    struct sti_err err;
    sti_err_clear(&err);
    return tgr_wire_check(&streamit__v1__create_topic_request__descriptor, data, len, fields_max,
                          &err);
}

static void test_check(void **state)
{
    uint8_t bytes[256];
    size_t len = sample(bytes);
    (void)state;
    assert_int_equal(check(bytes, len, 8), STI_OK); /* name, partitions, 2 * (entry, key, value) */
    assert_int_equal(check(bytes, len, 7), STI_E_INVALID_ARGUMENT);
    assert_int_equal(check(bytes, 0, 1), STI_OK);
    uint8_t *name = memchr(bytes, 'o', len);
    *name = 0;
    assert_int_equal(check(bytes, len, 100), STI_E_INVALID_ARGUMENT);
    *name = 0xff;
    assert_int_equal(check(bytes, len, 100), STI_E_INVALID_ARGUMENT);
    *name = 'o';
    bytes[0] = (1 << 3) | 0; /* the name as a number */
    assert_int_equal(check(bytes, len, 100), STI_E_INVALID_ARGUMENT);
}

/* Whatever the check lets pass protobuf-c must survive, and what it refuses names the message. */
static void test_check_mutations(void **state)
{
    uint8_t bytes[256], mutated[256];
    size_t len = sample(bytes);
    uint32_t seed = 1;
    unsigned accepted = 0, refused = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        memcpy(mutated, bytes, len);
        for (int i = 0; i < 2; i++) {
            seed = seed * 1664525u + 1013904223u;
            mutated[(seed >> 8) % len] = (uint8_t)(seed >> 24);
        }
        size_t cut = (seed >> 4) % 4 == 0 ? (seed >> 12) % (len + 1) : len;
        if (check(mutated, cut, 100) != STI_OK) {
            refused++;
            continue;
        }
        struct tgr_arena arena = {.blocks = NULL};
        ProtobufCAllocator allocator = tgr_arena_allocator(&arena);
        accepted += protobuf_c_message_unpack(&streamit__v1__create_topic_request__descriptor,
                                              &allocator, cut, mutated) != NULL;
        tgr_arena_fini(&arena);
    }
    assert_true(accepted > 1000);
    assert_true(refused > 1000);
}

static void test_arena(void **state)
{
    struct tgr_arena arena = {.blocks = NULL};
    (void)state;
    for (size_t i = 1; i < 300; i++) {
        uint8_t *bytes = tgr_arena_alloc(&arena, i, 7);
        assert_non_null(bytes);
        assert_int_equal((uintptr_t)bytes % _Alignof(max_align_t), 0);
        for (size_t b = 0; b < i * 7; b++) {
            assert_int_equal(bytes[b], 0);
        }
        memset(bytes, 0xff, i * 7);
    }
    assert_null(tgr_arena_alloc(&arena, SIZE_MAX, 2));
    assert_null(tgr_arena_alloc(&arena, SIZE_MAX - 8, 1));
    assert_string_equal(tgr_arena_strndup(&arena, "abcdef", 3), "abc");
    tgr_arena_fini(&arena);
    assert_null(arena.blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_varint),
                                       cmocka_unit_test(test_keys),
                                       cmocka_unit_test(test_bytes_over_spans),
                                       cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_check),
                                       cmocka_unit_test(test_check_mutations),
                                       cmocka_unit_test(test_arena)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
