/* test_contract.c -- the rules of storage.h, one by one, and long random runs against a plain
 * model; compiled for every engine.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage_fixture.h"

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    fx_init(&fx, 3);
    fx_start(&fx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fx_fini(&fx);
    return 0;
}

static struct sti_storage_partition *created(const char *topic)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(state.written_end, 0);
    assert_int_equal(state.last_epoch, -1);
    return part;
}

/* ---- rules --------------------------------------------------------------------------------- */

static void test_create_and_open(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part, *other;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_E_NOT_FOUND);
    assert_null(part);
    part = created("t");
    assert_int_equal(fx_open(&fx, "t", 0, &other, &state), STI_E_IN_USE);
    assert_int_equal(fx_remove(&fx, "t"), STI_E_IN_USE);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    if (fx_durable(&fx)) {
        assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state),
                         STI_E_ALREADY_EXISTS);
        assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
        assert_int_equal(fx.api->close(part, NULL), STI_OK);
    }
    assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_E_NOT_FOUND);
    part = created("t");
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "..", STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "a/b", STI_STORAGE_CREATE, &part, &state),
                     STI_E_INVALID_ARGUMENT);
}

static void test_append_and_read(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct sti_storage_state state;
    struct fx_read read;
    assert_int_equal(fx_read(&fx, part, 0, 100, 1000, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(fx_append(&fx, part, i * 6, 3, 200, 1000 + i, 2), STI_OK);
    }
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, 600);
    assert_int_equal(state.log_start, 0);
    assert_true(state.synced_end <= state.written_end);
    assert_int_equal(state.bytes, 200 * (61 + 200));
    assert_true(state.segment_count >= 4);
    for (int64_t offset = 0; offset < 600; offset++) {
        assert_int_equal(fx_read(&fx, part, offset, 600, 700, STI_READ_MEMORY, &read), STI_OK);
        assert_in_range(read.op.bytes, 261, 700);
        assert_true(fx_read_check(&read, offset) > offset);
        fx_read_release(&read);
    }
    assert_int_equal(fx_read(&fx, part, 0, 600, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 600);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 601, 700, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(fx_read(&fx, part, -1, 700, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(fx_read(&fx, part, 600, 700, 1, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_read_bounds(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct fx_read read;
    for (int i = 0; i < 40; i++) {
        assert_int_equal(fx_append(&fx, part, i * 10, 10, 939, 5, 1), STI_OK);
    }
    /* The first batch is whole although it is larger; batches at or after the end are left out. */
    assert_int_equal(fx_read(&fx, part, 15, 400, 1, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 1000);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 15, 400, 2999, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 2000);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 0, 30, 100000, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 3000);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 0, 31, 100000, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 4000);
    fx_read_release(&read);
    assert_int_equal(fx_read(&fx, part, 30, 30, 100000, 0, &read), STI_OK);
    assert_int_equal(read.op.bytes, 0);
    /* One slice never spans two segments. */
    memset(&read, 0, sizeof read);
    assert_int_equal(fx_read(&fx, part, 0, 400, 100000, 0, &read), STI_OK);
    assert_true(read.op.slice_count >= 3);
    assert_int_equal(read.op.bytes, 40000);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_append_refusals(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct sti_storage_state state;
    assert_int_equal(fx_append(&fx, part, 5, 1, 10, 1, 1), STI_E_INVALID_ARGUMENT);
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_E_INVALID_ARGUMENT);
    assert_int_equal(fx_append(&fx, part, 1, 1, 10, 1, 0), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, 1);
    assert_int_equal(state.flags, 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_batch_larger_than_segment(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct fx_read read;
    assert_int_equal(fx_append(&fx, part, 0, 1, 100000, 1, 1), STI_OK);
    assert_int_equal(fx_append(&fx, part, 1, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx_append(&fx, part, 2, 1, 50000, 1, 3), STI_OK);
    assert_int_equal(fx_read(&fx, part, 0, 5, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 5);
    assert_int_equal(read.op.slice_count, 5);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_time(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    int64_t offset, found;
    assert_int_equal(fx.api->offset_for_time(part, 0, &offset, &found, NULL), STI_E_NOT_FOUND);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(fx_append(&fx, part, i * 4, 4, 300, 1000 + i * 10, 1), STI_OK);
    }
    for (int i = 0; i < 300; i++) {
        assert_int_equal(fx.api->offset_for_time(part, 1000 + i * 10, &offset, &found, NULL),
                         STI_OK);
        assert_int_equal(offset, i * 4);
        assert_int_equal(found, 1000 + i * 10);
        assert_int_equal(fx.api->offset_for_time(part, 1000 + i * 10 - 1, &offset, &found, NULL),
                         STI_OK);
        assert_int_equal(offset, i * 4);
    }
    assert_int_equal(fx.api->offset_for_time(part, 4000, &offset, &found, NULL), STI_E_NOT_FOUND);
    assert_int_equal(fx.api->trim(part, 402, NULL), STI_OK);
    assert_int_equal(fx.api->offset_for_time(part, 0, &offset, &found, NULL), STI_OK);
    assert_int_equal(offset, 402);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_trim(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct sti_storage_state state, before;
    struct fx_read read, held;
    int64_t end, newest;
    uint64_t bytes;
    assert_int_equal(fx.api->oldest_segment(part, &end, &bytes, &newest), STI_E_NOT_FOUND);
    assert_int_equal(fx_append(&fx, part, 0, 1, 439, 100, 200), STI_OK);
    fx.api->state(part, &before);
    assert_int_equal(fx.api->oldest_segment(part, &end, &bytes, &newest), STI_OK);
    assert_int_equal(newest, 100 + end - 1);
    assert_int_equal(bytes, end * 500);
    assert_int_equal(fx_read(&fx, part, 0, 200, 5000, STI_READ_MEMORY, &held), STI_OK);
    assert_int_equal(fx.api->trim(part, end - 1, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.segment_count, before.segment_count);
    assert_int_equal(state.log_start, end - 1);
    assert_int_equal(fx.api->trim(part, end, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.segment_count, before.segment_count - 1);
    assert_int_equal(fx_read_check(&held, 0), 10); /* what is held stays readable */
    fx_read_release(&held);
    assert_int_equal(fx_read(&fx, part, end - 1, 200, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(fx_read(&fx, part, end, 200, 1, 0, &read), STI_OK);
    fx_read_release(&read);
    assert_int_equal(fx.api->trim(part, 0, NULL), STI_OK);
    assert_int_equal(fx.api->trim(part, 201, NULL), STI_E_OFFSET_OUT_OF_RANGE);
    assert_int_equal(fx.api->trim(part, 200, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.bytes, 0);
    assert_int_equal(state.log_start, 200);
    assert_int_equal(fx_append(&fx, part, 200, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx_read(&fx, part, 200, 201, 1, 0, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 200), 201);
    fx_read_release(&read);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_truncate(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct sti_storage_state state;
    struct fx_read read, held;
    assert_int_equal(fx_append_epoch(&fx, part, 0, 2, 439, 100, 100, 3, NULL), STI_OK);
    assert_int_equal(fx_append_epoch(&fx, part, 200, 2, 439, 100, 100, 4, NULL), STI_OK);
    assert_int_equal(fx_read(&fx, part, 0, 400, 1 << 20, STI_READ_MEMORY, &held), STI_OK);
    assert_int_equal(fx.api->truncate(part, 301, NULL), STI_E_INVALID_ARGUMENT);
    assert_int_equal(fx.api->truncate(part, 210, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, 210);
    assert_true(state.synced_end <= 210);
    assert_int_equal(state.last_epoch, 4);
    assert_int_equal(state.bytes, 105 * 500);
    assert_int_equal(fx.api->truncate(part, 200, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.last_epoch, 3);
    assert_int_equal(fx_append_epoch(&fx, part, 200, 5, 77, 100, 3, 7, NULL), STI_OK);
    assert_int_equal(fx_read_check(&held, 0), 400);
    fx_read_release(&held);
    assert_int_equal(fx_read(&fx, part, 0, 215, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 215);
    fx_read_release(&read);
    assert_int_equal(fx.api->truncate(part, 0, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, 0);
    assert_int_equal(state.last_epoch, -1);
    assert_int_equal(state.bytes, 0);
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_slices_outlive_close(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct fx_read read;
    assert_int_equal(fx_append(&fx, part, 0, 1, 3000, 1, 10), STI_OK);
    assert_int_equal(fx_read(&fx, part, 0, 10, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    struct sti_slice copy = read.slices[0];
    sti_slice_ref(&copy);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    assert_int_equal(fx_read_check(&read, 0), 10);
    fx_read_release(&read);
    assert_int_equal(copy.data[16], STI_BATCH_MAGIC);
    sti_slice_release(&copy);
}

static void test_no_wait_on_the_tail(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = created("t");
    struct fx_read read;
    int64_t next = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(fx_append(&fx, part, i, 1, 400, 1, 1), STI_OK);
        assert_int_equal(
            fx_read(&fx, part, next, i + 1, 4096, STI_READ_MEMORY | STI_READ_NO_WAIT, &read),
            STI_OK);
        next = fx_read_check(&read, next);
        assert_int_equal(next, i + 1);
        fx_read_release(&read);
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static int count_ids(void *arg, const struct sti_partition_id *id)
{
    unsigned *count = arg;
    assert_int_equal(id->topic_id[3], id->topic[0]);
    (*count)++;
    return *count == 3 ? 77 : 0;
}

static void test_list(void **unused)
{
    (void)unused;
    struct sti_storage_partition *a = created("a-1"), *b = created("b");
    unsigned count = 0;
    assert_int_equal(fx.api->list(fx.self, count_ids, &count, NULL), STI_OK);
    assert_int_equal(count, 2);
    struct sti_storage_partition *c = created("c");
    count = 0;
    assert_int_equal(fx.api->list(fx.self, count_ids, &count, NULL), 77);
    assert_int_equal(fx.api->close(a, NULL), STI_OK);
    assert_int_equal(fx.api->close(b, NULL), STI_OK);
    assert_int_equal(fx.api->close(c, NULL), STI_OK);
}

static void test_sync(void **unused)
{
    (void)unused;
    if (fx.api->sync == NULL) {
        skip();
    }
    struct sti_storage_partition *part = created("t");
    struct sti_storage_state state;
    int64_t synced = -1;
    assert_int_equal(fx_sync(&fx, part, &synced), STI_OK);
    assert_int_equal(synced, 0);
    assert_int_equal(fx_append(&fx, part, 0, 1, 3000, 1, 20), STI_OK);
    assert_int_equal(fx_sync(&fx, part, &synced), STI_OK);
    assert_int_equal(synced, 20);
    fx.api->state(part, &state);
    assert_int_equal(state.synced_end, 20);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- a reader beside the writer ------------------------------------------------------------ */

struct chase {
    struct sti_storage_partition *part;
    _Atomic int64_t written;
    int64_t until;
};

static void *chase_main(void *arg)
{
    struct chase *c = arg;
    int64_t next = 0;
    struct fx_read read;
    unsigned round = 0;
    while (next < c->until) {
        int64_t end = atomic_load(&c->written);
        uint32_t flags = (round++ % 2 == 0 ? STI_READ_MEMORY : 0u);
        int rc = fx_read(&fx, c->part, next, end, 9000, flags, &read);
        assert_int_equal(rc, STI_OK);
        next = fx_read_check(&read, next);
        assert_true(next <= end);
        fx_read_release(&read);
    }
    return NULL;
}

static void test_reader_beside_writer(void **unused)
{
    (void)unused;
    enum { APPENDS = 400 };
    struct chase c = {.part = created("t"), .until = APPENDS * 6};
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, chase_main, &c), 0);
    }
    for (int i = 0; i < APPENDS; i++) {
        assert_int_equal(fx_append(&fx, c.part, i * 6, 2, 300, i, 3), STI_OK);
        atomic_store(&c.written, (i + 1) * 6);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
    }
    assert_int_equal(fx.api->close(c.part, NULL), STI_OK);
}

/* ---- random runs against a model ----------------------------------------------------------- */

enum { MODEL_BATCHES = 4096 };
struct model {
    uint64_t random;
    struct {
        int64_t base, last, timestamp;
        size_t payload;
        int32_t epoch;
    } batches[MODEL_BATCHES];
    unsigned count;
    int64_t log_start, end;
    int32_t epoch;
};

static uint32_t roll_dice(struct model *m, uint32_t below)
{
    m->random = m->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(m->random >> 33) % below;
}

static unsigned model_find(const struct model *m, int64_t offset)
{
    unsigned i = 0;
    while (i < m->count && m->batches[i].last < offset) {
        i++;
    }
    return i;
}

static void model_append(struct model *m, struct sti_storage_partition *part)
{
    uint32_t batches = 1 + roll_dice(m, 8), records = 1 + roll_dice(m, 5);
    size_t payload = roll_dice(m, 20) == 0 ? 20000 : roll_dice(m, 900);
    int64_t timestamp = 1000 + m->end + roll_dice(m, 50);
    if (m->count + batches > MODEL_BATCHES) {
        return;
    }
    m->epoch += roll_dice(m, 10) == 0 ? 1 : 0;
    assert_int_equal(
        fx_append_epoch(&fx, part, m->end, records, payload, timestamp, batches, m->epoch, NULL),
        STI_OK);
    for (uint32_t i = 0; i < batches; i++) {
        m->batches[m->count].base = m->end;
        m->batches[m->count].last = m->end + records - 1;
        m->batches[m->count].timestamp = timestamp + i;
        m->batches[m->count].payload = payload;
        m->batches[m->count++].epoch = m->epoch;
        m->end += records;
    }
}

/* What is read must be the model's bytes, and as much as the bounds allow within one segment. */
static void model_read(struct model *m, struct sti_storage_partition *part)
{
    struct fx_read read;
    int64_t offset = m->log_start + roll_dice(m, (uint32_t)(m->end - m->log_start + 1));
    int64_t end = offset + roll_dice(m, (uint32_t)(m->end - offset + 1));
    uint64_t max_bytes = 1 + roll_dice(m, 40000);
    uint32_t flags = roll_dice(m, 2) == 0 ? STI_READ_MEMORY : 0u;
    flags |= roll_dice(m, 4) == 0 ? STI_READ_NO_WAIT : 0u;
    int rc = fx_read(&fx, part, offset, end, max_bytes, flags, &read);
    if (rc == STI_E_WOULD_BLOCK && (flags & STI_READ_NO_WAIT) != 0) {
        return;
    }
    assert_int_equal(rc, STI_OK);
    size_t len, pos = 0;
    uint8_t *got = fx_read_bytes(&read, &len), *want = malloc(32768);
    unsigned i = model_find(m, offset);
    assert_true(len > 0 || offset == end);
    assert_true(len <= max_bytes || len == 61 + m->batches[i].payload);
    for (; pos < len; i++) {
        assert_true(i < m->count && m->batches[i].base < end);
        size_t n = fx_batch(want, m->batches[i].base,
                            (uint32_t)(m->batches[i].last - m->batches[i].base + 1),
                            m->batches[i].payload, m->batches[i].epoch, m->batches[i].timestamp);
        assert_true(pos + n <= len);
        assert_memory_equal(got + pos, want, n);
        pos += n;
    }
    if ((flags & STI_READ_NO_WAIT) == 0 && len > 0 && i < m->count && m->batches[i].base < end) {
        assert_true(len + 61 + m->batches[i].payload > max_bytes);
    }
    free(want);
    free(got);
    fx_read_release(&read);
}

static void model_time(struct model *m, struct sti_storage_partition *part)
{
    int64_t timestamp = 900 + roll_dice(m, (uint32_t)(m->end + 200)), offset, found;
    int rc = fx.api->offset_for_time(part, timestamp, &offset, &found, NULL);
    unsigned i = model_find(m, m->log_start);
    while (i < m->count && m->batches[i].timestamp < timestamp) {
        i++;
    }
    if (i == m->count) {
        assert_int_equal(rc, STI_E_NOT_FOUND);
        return;
    }
    assert_int_equal(rc, STI_OK);
    int64_t base = m->batches[i].base;
    assert_int_equal(offset, base < m->log_start ? m->log_start : base);
    assert_int_equal(found, m->batches[i].timestamp);
}

static void model_truncate(struct model *m, struct sti_storage_partition *part)
{
    unsigned first = model_find(m, m->log_start);
    if (first == m->count) {
        return;
    }
    unsigned i = first + roll_dice(m, m->count - first);
    int64_t offset = m->batches[i].base;
    if (offset < m->log_start) {
        return;
    }
    assert_int_equal(fx.api->truncate(part, offset, NULL), STI_OK);
    m->end = offset;
    m->count = i;
}

static void model_check(struct model *m, struct sti_storage_partition *part)
{
    struct sti_storage_state state;
    fx.api->state(part, &state);
    assert_int_equal(state.written_end, m->end);
    assert_int_equal(state.log_start, m->log_start);
    assert_int_equal(state.flags, 0);
    assert_in_range(state.synced_end, 0, m->end);
}

static struct sti_storage_partition *model_reopen(struct model *m,
                                                  struct sti_storage_partition *part)
{
    struct sti_storage_state state;
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    if (roll_dice(m, 2) == 0) {
        fx_stop(&fx);
        fx_start(&fx);
    }
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), STI_OK);
    assert_int_equal(state.written_end, m->end);
    assert_int_equal(state.log_start, m->log_start);
    assert_int_equal(state.synced_end, m->end);
    assert_int_equal(state.recovered_bytes, 0);
    return part;
}

static void check_random_run(uint64_t seed)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->random = seed;
    fx.settings.flush_policy = fx_durable(&fx) ? (int32_t)(seed % 3) : STI_FLUSH_ONROLL;
    struct sti_storage_partition *part = created("t");
    for (int step = 0; step < 400; step++) {
        uint32_t dice = roll_dice(m, 100);
        if (dice < 35) {
            model_append(m, part);
        } else if (dice < 80) {
            model_read(m, part);
        } else if (dice < 88) {
            model_time(m, part);
        } else if (dice < 92) {
            int64_t start = m->log_start + roll_dice(m, (uint32_t)(m->end - m->log_start + 1));
            start = roll_dice(m, 10) == 0 ? start : m->log_start + (start - m->log_start) / 4;
            assert_int_equal(fx.api->trim(part, start, NULL), STI_OK);
            m->log_start = start;
        } else if (dice < 96) {
            model_truncate(m, part);
        } else if (fx_durable(&fx)) {
            part = model_reopen(m, part);
        }
        model_check(m, part);
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_remove(&fx, "t"), STI_OK);
    free(m);
}

static void test_model(void **unused)
{
    (void)unused;
    const char *given = getenv("STREAMIT_SEED");
    uint64_t seed = given == NULL ? 1 : strtoull(given, NULL, 10);
    for (int i = 0; i < (given == NULL ? 12 : 1); i++, seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        check_random_run(seed);
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_create_and_open),
        CASE(test_append_and_read),
        CASE(test_read_bounds),
        CASE(test_append_refusals),
        CASE(test_batch_larger_than_segment),
        CASE(test_time),
        CASE(test_trim),
        CASE(test_truncate),
        CASE(test_slices_outlive_close),
        CASE(test_no_wait_on_the_tail),
        CASE(test_list),
        CASE(test_sync),
        CASE(test_reader_beside_writer),
        CASE(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
