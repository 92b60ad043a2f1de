/* test_log_walk.c -- along a log in memory, with windows of every size: headers, proofs, where it
 * stops holding and why, and what of it follows. */
#include "batch_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/log_files.h"

enum { BATCHES = 12, LOG_MAX = 64 * 1024 };

struct memory_log {
    uint8_t bytes[LOG_MAX];
    size_t len;
    size_t pos[BATCHES + 1]; /* of each batch; the last is the end */
    size_t asked;            /* bytes given, in sum */
    int error;
};

static struct memory_log mem;

static int mem_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    struct memory_log *log = ctx;
    *got = 0;
    if (log->error != 0) {
        return log->error;
    }
    *got = pos >= log->len ? 0 : log->len - pos < len ? (size_t)(log->len - pos) : len;
    memcpy(buf, log->bytes + pos, *got);
    log->asked += *got;
    return 0;
}

/* Twelve batches of one to three records, every codec, 10 bytes to 3 kB. */
static int setup(void **state)
{
    int64_t offset = 0;
    (void)state;
    memset(&mem, 0, sizeof mem);
    for (int i = 0; i < BATCHES; i++) {
        struct sti_batch_builder *builder;
        const uint8_t *data;
        uint8_t value[1000];
        size_t len;
        memset(value, 'a' + i, sizeof value);
        assert_int_equal(sti_batch_builder_new(&builder, i % 5, 0, NULL), STI_OK);
        for (int k = 0; k <= i % 3; k++) {
            assert_int_equal(sti_batch_builder_append(builder, 1000 + i, NULL, 0, value,
                                                      (size_t)(10 + i * 80), NULL, 0, NULL),
                             STI_OK);
        }
        assert_int_equal(sti_batch_builder_finish(builder, &data, &len, NULL), STI_OK);
        mem.pos[i] = mem.len;
        memcpy(mem.bytes + mem.len, data, len);
        sti_batch_patch(mem.bytes + mem.len, offset, len, 1);
        mem.len += len;
        offset += i % 3 + 1;
        sti_batch_builder_free(builder);
    }
    mem.pos[BATCHES] = mem.len;
    return 0;
}

static uint8_t window[LOG_MAX];

static struct sti_log_walk walk_of(size_t capacity)
{
    struct sti_log_walk walk;
    sti_log_walk_init(&walk, mem_read, &mem, window, capacity, mem.len);
    return walk;
}

static void every_batch_with_every_window(void **state)
{
    static const size_t sizes[] = {61, 62, 100, 512, 4096, LOG_MAX};
    (void)state;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct sti_log_walk walk = walk_of(sizes[k]);
        struct sti_batch_header header;
        struct sti_err err;
        uint64_t pos = 0;
        int count = 0;
        int64_t next = 0;
        int rc;
        while ((rc = sti_log_walk_header(&walk, pos, &header, &err)) == STI_OK) {
            assert_int_equal(pos, mem.pos[count]);
            assert_int_equal(header.base_offset, next);
            assert_int_equal(sti_log_walk_prove(&walk, pos, &header, &err), STI_OK);
            pos += header.total_len;
            next = sti_batch_last_offset(&header) + 1;
            count++;
        }
        assert_int_equal(rc, STI_E_END);
        assert_int_equal(count, BATCHES);
        assert_int_equal(pos, mem.len);
    }
}

/* Headers cost no more than their windows, whatever the batches hold. */
static void headers_alone_read_little(void **state)
{
    struct sti_log_walk walk = walk_of(STI_BATCH_HEADER_LEN);
    struct sti_batch_header header;
    (void)state;
    for (uint64_t pos = 0; sti_log_walk_header(&walk, pos, &header, NULL) == STI_OK;
         pos += header.total_len) {
    }
    assert_int_equal(mem.asked, BATCHES * STI_BATCH_HEADER_LEN);
}

static void the_first_damage_is_named(void **state)
{
    struct sti_log_walk walk = walk_of(4096);
    struct sti_batch_header header;
    struct sti_err err;
    char where[64];
    uint64_t found = 0;
    (void)state;
    (void)snprintf(where, sizeof where, "position %zu: ", mem.pos[4]);
    for (size_t at = mem.pos[4] + 16; at < mem.pos[5]; at++) {
        mem.bytes[at] ^= 0x40;
        walk = walk_of(4096);
        assert_int_equal(sti_log_walk_prove(&walk, mem.pos[4], &header, &err), STI_E_DATA_LOSS);
        assert_non_null(strstr(err.msg, where));
        /* The next sound batch is the fifth. */
        assert_int_equal(sti_log_walk_find(&walk, mem.pos[4] + 1, 8, &found, &header, &err),
                         STI_OK);
        assert_int_equal(found, mem.pos[5]);
        mem.bytes[at] ^= 0x40;
    }
    /* Bytes 8 to 11 too, though the checksum does not cover them: another length, other bytes. */
    mem.bytes[mem.pos[4] + 11] ^= 1;
    walk = walk_of(4096);
    assert_int_equal(sti_log_walk_prove(&walk, mem.pos[4], &header, &err), STI_E_DATA_LOSS);
}

static void reasons(void **state)
{
    struct sti_log_walk walk = walk_of(4096);
    struct sti_batch_header header;
    struct sti_err err;
    (void)state;
    mem.bytes[16] = 1;
    assert_int_equal(sti_log_walk_header(&walk, 0, &header, &err), STI_E_DATA_LOSS);
    assert_string_equal(err.msg, "no valid batch at position 0: magic 1, expected 2");
    mem.bytes[16] = 2;
    mem.bytes[8] = 0x7f;
    walk = walk_of(4096);
    assert_int_equal(sti_log_walk_header(&walk, 0, &header, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "bytes of a batch of "));
    mem.bytes[8] = 0;
    mem.bytes[17] ^= 0xff;
    walk = walk_of(4096);
    assert_int_equal(sti_log_walk_prove(&walk, 0, &header, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "position 0: CRC "));
    assert_int_equal(sti_log_walk_header(&walk, mem.len - 10, &header, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "10 bytes of a batch header of 61"));
    assert_int_equal(sti_log_walk_header(&walk, mem.len, &header, &err), STI_E_END);
    assert_int_equal(sti_log_walk_header(&walk, UINT64_MAX, &header, &err), STI_E_END);
}

/* Cut anywhere: whole batches stand, the rest is no batch, and nothing sound follows it. */
static void every_cut_is_a_tail(void **state)
{
    size_t len = mem.len, whole = 0;
    (void)state;
    for (size_t cut = 0; cut < len; cut += 7) {
        struct sti_batch_header header;
        uint64_t pos = 0, found;
        int64_t next = 0;
        int rc;
        mem.len = cut;
        whole = mem.pos[whole + 1] <= cut ? whole + 1 : whole;
        struct sti_log_walk walk = walk_of(512);
        while ((rc = sti_log_walk_prove(&walk, pos, &header, NULL)) == STI_OK) {
            pos += header.total_len;
            next = sti_batch_last_offset(&header) + 1;
        }
        assert_int_equal(pos, mem.pos[whole]);
        assert_int_equal(rc, pos == cut ? STI_E_END : STI_E_DATA_LOSS);
        assert_int_equal(sti_log_walk_find(&walk, pos, next, &found, &header, NULL),
                         STI_E_NOT_FOUND);
    }
}

static void find_wants_an_offset_that_can_follow(void **state)
{
    struct sti_log_walk walk = walk_of(4096);
    struct sti_batch_header header;
    uint64_t found;
    (void)state;
    /* Batches from the sixth on begin at offset 12: those before are no successors of 13. */
    assert_int_equal(sti_log_walk_find(&walk, 0, 13, &found, &header, NULL), STI_OK);
    assert_int_equal(found, mem.pos[7]);
    assert_int_equal(header.base_offset, 13);
    sti_batch_patch(mem.bytes + mem.pos[BATCHES - 1], INT64_MAX / 2, mem.len - mem.pos[BATCHES - 1],
                    1);
    walk = walk_of(4096);
    assert_int_equal(sti_log_walk_find(&walk, mem.pos[BATCHES - 1], 13, &found, &header, NULL),
                     STI_E_NOT_FOUND);
}

/* A log that is all headers, each claiming everything behind it, with one sound batch near its end.
 */
enum { HOSTILE_LEN = 1 << 20 };
static uint8_t hostile[HOSTILE_LEN];
static uint64_t hostile_asked;

static int hostile_read(void *ctx, void *buf, size_t len, uint64_t pos, size_t *got)
{
    (void)ctx;
    *got = HOSTILE_LEN - pos < len ? (size_t)(HOSTILE_LEN - pos) : len;
    memcpy(buf, hostile + pos, *got);
    hostile_asked += *got;
    return 0;
}

static void very_many_beginnings_cost_little(void **state)
{
    struct sti_log_walk walk;
    struct sti_batch_header header;
    uint64_t found = 0, seed = 5;
    size_t first_len = mem.pos[1], sound = HOSTILE_LEN - 5000;
    (void)state;
    for (size_t pos = 0; pos + STI_BATCH_HEADER_LEN <= HOSTILE_LEN; pos += STI_BATCH_HEADER_LEN) {
        memcpy(hostile + pos, golden, STI_BATCH_HEADER_LEN);
        sti_batch_patch(hostile + pos, 0, HOSTILE_LEN - pos - test_random(&seed) % 3000, 1);
        test_store32(hostile + pos + 17, (uint32_t)test_random(&seed));
    }
    memcpy(hostile + sound, mem.bytes, first_len);
    sti_log_walk_init(&walk, hostile_read, NULL, window, 4096, HOSTILE_LEN);
    hostile_asked = 0;
    assert_int_equal(sti_log_walk_find(&walk, 1, 0, &found, &header, NULL), STI_OK);
    assert_int_equal(found, sound);
    assert_int_equal(header.total_len, first_len);
    /* Proving them one by one would read nine thousand million bytes. */
    assert_true(hostile_asked < 200u * 1000 * 1000);
    /* A long sound batch in the middle of them, which only the sums can prove. */
    size_t middle = HOSTILE_LEN / 2;
    size_t long_len = HOSTILE_LEN / 4;
    memcpy(hostile + middle, golden, STI_BATCH_HEADER_LEN);
    sti_batch_patch(hostile + middle, 7, long_len, 1);
    test_seal(hostile + middle, long_len);
    sti_log_walk_init(&walk, hostile_read, NULL, window, 4096, HOSTILE_LEN);
    assert_int_equal(sti_log_walk_find(&walk, 1, 0, &found, &header, NULL), STI_OK);
    assert_int_equal(found, middle);
    assert_int_equal(header.total_len, long_len);
    assert_int_equal(sti_log_walk_prove(&walk, found, &header, NULL), STI_OK);
}

static void what_the_reader_says_is_passed_on(void **state)
{
    struct sti_log_walk walk = walk_of(4096);
    struct sti_batch_header header;
    struct sti_err err;
    const uint8_t *data;
    uint64_t found;
    (void)state;
    mem.error = EAGAIN;
    assert_int_equal(sti_log_walk_header(&walk, 0, &header, &err), STI_E_WOULD_BLOCK);
    assert_int_equal(sti_log_walk_find(&walk, 0, 0, &found, &header, &err), STI_E_WOULD_BLOCK);
    mem.error = EIO;
    assert_int_equal(sti_log_walk_prove(&walk, 0, &header, &err), STI_E_IO);
    assert_non_null(strstr(err.msg, "read at position 0: "));
    assert_int_equal(sti_log_walk_find(&walk, 0, 0, &found, &header, &err), STI_E_IO);
    mem.error = 0;
    /* The file is shorter than the caller said. */
    sti_log_walk_init(&walk, mem_read, &mem, window, 4096, mem.len + 1000);
    assert_int_equal(sti_log_walk_header(&walk, mem.len, &header, &err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "where the file ends"));
    assert_int_equal(sti_log_walk_find(&walk, mem.len, 0, &found, &header, &err), STI_E_NOT_FOUND);
    assert_int_equal(sti_log_walk_bytes(&walk, mem.len + 999, 2, &data, &err), STI_E_DATA_LOSS);
    assert_null(data);
    assert_int_equal(sti_log_walk_bytes(&walk, 0, 1000, &data, &err), STI_OK);
    assert_memory_equal(data, mem.bytes, 1000);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        CASE(every_batch_with_every_window),
        CASE(headers_alone_read_little),
        CASE(the_first_damage_is_named),
        CASE(reasons),
        CASE(every_cut_is_a_tail),
        CASE(find_wants_an_offset_that_can_follow),
        CASE(very_many_beginnings_cost_little),
        CASE(what_the_reader_says_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
