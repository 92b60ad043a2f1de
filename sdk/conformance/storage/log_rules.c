/* log_rules.c -- the rules of append, read, time, trim and truncate, one by one. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cases.h"

/* ---- append --------------------------------------------------------------------------------- */

void cs_case_append_and_read(struct cfm *cfm)
{
    struct cs cs;
    struct cs_read read;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_read(p, 0, 100, 1000, 0, &read), STI_OK);
    CFM_EQ(read.op.bytes, 0);
    CFM_EQ(read.op.slice_count, 0);
    for (int i = 0; i < 100; i++) {
        CFM_STATUS(cs_append_like(p, i * 6, 3, 261, 1000 + i, 2, 0), STI_OK);
    }
    struct sti_storage_state state = cs_state(p);
    CFM_EQ(state.written_end, 600);
    CFM_EQ(state.log_start, 0);
    CFM_CHECK(state.synced_end <= state.written_end);
    CFM_EQ(state.bytes, 200 * 261);
    CFM_CHECK(state.segment_count >= 4);
    for (int64_t offset = 0; offset < 600; offset++) {
        CFM_STATUS(cs_read(p, offset, 600, 700, STI_READ_MEMORY, &read), STI_OK);
        CFM_CHECK(read.op.bytes >= 261 && read.op.bytes <= 700);
        CFM_CHECK(cs_walk(&read, offset) > offset);
        cs_release(&read);
    }
    CFM_STATUS(cs_read(p, 601, 700, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(p, -1, 700, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(p, 600, 700, 1, 0, &read), STI_OK);
    CFM_EQ(read.op.bytes, 0);
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_append_spans_segments(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    struct cs_batch batches[300];
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 300; i++) {
            batches[i] = (struct cs_batch){.base = round * 600 + (int64_t)i * 2,
                                           .records = 2,
                                           .len = 100 + i % 7 * 50,
                                           .timestamp = 1000 + i,
                                           .epoch = round};
            cs_model_add(&m, &batches[i]);
        }
        CFM_STATUS(cs_append(p, batches, 300, NULL), STI_OK);
        cs_model_check(&m, p);
    }
    CFM_CHECK(cs_state(p).segment_count > 8);
    CFM_EQ(cs_state(p).last_epoch, 2);
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

void cs_case_append_no_wait(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    uint32_t done = 0;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (uint32_t i = 0; i < 400; i++) {
        struct cs_batch batch = {.base = (int64_t)i * 2,
                                 .records = 2,
                                 .len = 100 + i % 7 * 50,
                                 .timestamp = 1000 + i,
                                 .epoch = 1};
        int rc = cs_append_flags(p, &batch, 1, STI_APPEND_NO_WAIT, NULL);
        if (rc == STI_E_WOULD_BLOCK) {
            CFM_EQ(cs_state(p).written_end, batch.base);
            rc = cs_append(p, &batch, 1, NULL);
        } else {
            done++;
        }
        CFM_STATUS(rc, STI_OK);
        cs_model_add(&m, &batch);
    }
    CFM_EXPECT(done > 200, "of 400 small appends only %u were done without waiting", done);
    CFM_CHECK(cs_state(p).segment_count > 4);
    cs_model_check(&m, p);
    struct cs_batch gap = {.base = 5, .records = 1, .len = 100, .timestamp = 1};
    CFM_STATUS(cs_append_flags(p, &gap, 1, STI_APPEND_NO_WAIT, NULL), STI_E_INVALID_ARGUMENT);
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

void cs_case_append_refusals(struct cfm *cfm)
{
    struct cs cs;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    struct cs_append answer;
    struct cs_batch gap[2] = {{.base = 1, .records = 1, .len = 100, .timestamp = 1},
                              {.base = 3, .records = 1, .len = 100, .timestamp = 1}};
    struct cs_batch first = {.records = 1, .len = 100, .timestamp = 1};
    gap[0].base = 5;
    CFM_STATUS(cs_append(p, gap, 1, NULL), STI_E_INVALID_ARGUMENT);
    CFM_STATUS(cs_append(p, &first, 1, &answer), STI_OK);
    CFM_EQ(answer.written_end, 1);
    CFM_STATUS(cs_append(p, &first, 1, NULL), STI_E_INVALID_ARGUMENT);
    /* A gap inside an append: nothing of it is there afterwards. */
    gap[0].base = 1;
    CFM_STATUS(cs_append(p, gap, 2, NULL), STI_E_INVALID_ARGUMENT);
    struct sti_storage_state state = cs_state(p);
    CFM_EQ(state.written_end, 1);
    CFM_EQ(state.bytes, 100);
    CFM_EQ(state.flags, 0);
    /* And the log goes on. */
    CFM_STATUS(cs_append(p, gap, 1, NULL), STI_OK);
    CFM_STATUS(cs_append(p, NULL, 0, NULL), STI_OK);
    CFM_EQ(cs_state(p).written_end, 2);
    CFM_EQ(atomic_load(&p->failed_count), 0);
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_batch_larger_than_segment(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    struct cs_read read;
    static const uint32_t lens[] = {100061, 100, 50061, 50061, 100, 20000};
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (unsigned i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        struct cs_batch b = {.base = m.end, .records = 1 + i % 2, .len = lens[i], .timestamp = 5};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(&m, &b);
    }
    cs_model_check(&m, p);
    /* However large the first batch, it comes whole. */
    CFM_STATUS(cs_read(p, 0, m.end, 1, STI_READ_MEMORY, &read), STI_OK);
    CFM_EQ(read.op.bytes, 100061);
    cs_release(&read);
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

/* ---- read ----------------------------------------------------------------------------------- */

/* How many bytes does a read return? */
static uint64_t read_len(struct cs_part *p, int64_t offset, int64_t end, uint64_t max_bytes)
{
    struct cs_read read;
    CFM_STATUS(cs_read(p, offset, end, max_bytes, 0, &read), STI_OK);
    (void)cs_walk(&read, offset);
    uint64_t bytes = read.op.bytes;
    cs_release(&read);
    return bytes;
}

void cs_case_read_bounds(struct cfm *cfm)
{
    struct cs cs;
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 1 << 20;
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 40; i++) {
        CFM_STATUS(cs_append_like(p, i * 10, 10, 1000, 5, 1, 0), STI_OK);
    }
    /* Within a segment a read is as long as its bounds allow. The first batch is whole although it
     * is larger; a batch that begins at or after the end is left out. */
    CFM_EQ(read_len(p, 15, 400, 1), 1000);
    CFM_EQ(read_len(p, 15, 400, 1000), 1000);
    CFM_EQ(read_len(p, 15, 400, 1999), 1000);
    CFM_EQ(read_len(p, 15, 400, 2000), 2000);
    CFM_EQ(read_len(p, 15, 400, 2999), 2000);
    CFM_EQ(read_len(p, 0, 30, 100000), 3000);
    CFM_EQ(read_len(p, 0, 31, 100000), 4000);
    CFM_EQ(read_len(p, 30, 30, 100000), 0);
    CFM_EQ(read_len(p, 0, 400, 100000), 40000);
    CFM_EQ(read_len(p, 0, 100000, 100000), 40000);
    CFM_EQ(read_len(p, 399, 400, 100000), 1000);
    CFM_EQ(read_len(p, 400, 400, 100000), 0);
    for (int64_t end = 1; end <= 400; end += 7) {
        CFM_EQ(read_len(p, 0, end, 100000), (end + 9) / 10 * 1000);
    }
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_read_slices(struct cfm *cfm)
{
    struct cs cs;
    struct cs_read read;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_append_like(p, 0, 10, 1000, 5, 40, 0), STI_OK);
    /* One slice never spans two segments, so that each has one file range. */
    for (uint32_t max = 1; max <= 4; max++) {
        int64_t next = 0;
        for (int round = 0; next < 400; round++) {
            CFM_CHECK(round < 400);
            CFM_STATUS(cs_read_max(p, next, 400, 1 << 20, STI_READ_MEMORY, max, &read), STI_OK);
            for (uint32_t i = 0; i < read.op.slice_count; i++) {
                CFM_CHECK(read.slices[i].len <= 16384);
            }
            int64_t after = cs_walk(&read, next);
            CFM_CHECK(after > next);
            next = after;
            cs_release(&read);
        }
        CFM_EQ(next, 400);
    }
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_slices_outlive(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    struct cs_read reads[4];
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 4096;
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 40; i++) {
        struct cs_batch b = {.base = i, .records = 1, .len = 500, .timestamp = 10 + i};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(&m, &b);
    }
    for (int i = 0; i < 4; i++) {
        CFM_STATUS(cs_read(p, 0, 40, 1 << 20, i < 2 ? STI_READ_MEMORY : 0u, &reads[i]), STI_OK);
    }
    /* A second reference keeps the bytes when the first has gone. */
    struct sti_slice copy = reads[3].slices[0];
    sti_slice_ref(&copy);
    cs_model_check_bytes(&m, &reads[3], 0, 40, 1 << 20);
    cs_release(&reads[3]);
    CFM_STATUS(cs_trim(p, 20), STI_OK);
    cs_model_check_bytes(&m, &reads[0], 0, 40, 1 << 20);
    CFM_STATUS(cs_truncate(p, 25), STI_OK);
    for (int i = 25; i < 60; i++) {
        struct cs_batch b = {.base = i, .records = 1, .len = 500, .timestamp = 900, .epoch = 3};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
    }
    cs_settle(&cs);
    cs_model_check_bytes(&m, &reads[0], 0, 40, 1 << 20);
    cs_model_check_bytes(&m, &reads[2], 0, 40, 1 << 20);
    cs_closed(p);
    CFM_STATUS(cs_remove(&cs, "t"), STI_OK);
    cs_settle(&cs);
    cs_model_check_bytes(&m, &reads[1], 0, 40, 1 << 20);
    cs_model_check_bytes(&m, &reads[2], 0, 40, 1 << 20);
    for (int i = 0; i < 3; i++) {
        cs_release(&reads[i]);
    }
    CFM_CHECK(copy.len > 0);
    if (copy.data != NULL) {
        CFM_EQ(copy.data[16], STI_BATCH_MAGIC);
    }
    sti_slice_release(&copy);
    cs_stop(&cs);
    cs_model_fini(&m);
}

void cs_case_no_wait_tail(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    struct cs_read read;
    unsigned answered = 0;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 200; i++) {
        struct cs_batch b = {.base = i, .records = 1, .len = 461, .timestamp = 1};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(&m, &b);
        int rc = cs_read(p, i, i + 1, 4096, STI_READ_MEMORY | STI_READ_NO_WAIT, &read);
        if (rc == STI_OK) {
            cs_model_check_bytes(&m, &read, i, i + 1, 4096);
            answered++;
            cs_release(&read);
        } else {
            CFM_STATUS(rc, STI_E_WOULD_BLOCK);
        }
    }
    /* What was just written is in memory wherever bytes are kept; an engine that could never say
     * so would put every consumer at the tail on the executor. */
    CFM_EXPECT(answered > 150, "only %u of 200 reads of the newest batch were answered at once",
               answered);
    CFM_STATUS(cs_read(p, 201, 300, 1, STI_READ_NO_WAIT, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(p, 200, 300, 1, STI_READ_NO_WAIT, &read), STI_OK);
    CFM_EQ(read.op.bytes, 0);
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

/* ---- rolling -------------------------------------------------------------------------------- */

void cs_case_rolls_by_size(struct cfm *cfm)
{
    struct cs cs;
    int64_t end, newest;
    uint64_t bytes;
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 10000;
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_oldest(p, &end, &bytes, &newest), STI_E_NOT_FOUND);
    for (int i = 0; i < 100; i++) {
        CFM_STATUS(cs_append_like(p, i, 1, 999, 100 + i, 1, 0), STI_OK);
    }
    uint32_t count = cs_state(p).segment_count;
    CFM_CHECK(count >= 10 && count < 50); /* an engine may close one earlier, not later */
    int64_t start = 0;
    for (uint32_t i = 1; i < count; i++) {
        CFM_STATUS(cs_oldest(p, &end, &bytes, &newest), STI_OK);
        CFM_CHECK(end > start && bytes <= 10000);
        CFM_EQ(bytes, (end - start) * 999);
        CFM_EQ(newest, 100 + end - 1);
        CFM_STATUS(cs_trim(p, end), STI_OK);
        CFM_EQ(cs_state(p).segment_count, count - i);
        CFM_EQ(cs_state(p).bytes, (100 - end) * 999);
        start = end;
    }
    CFM_STATUS(cs_oldest(p, &end, &bytes, &newest), STI_E_NOT_FOUND);
    CFM_EQ(cs_state(p).max_timestamp, 199);
    cs_closed(p);
    cs_stop(&cs);
}

static void wait_ms(long ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&span, &span) != 0) {
    }
}

void cs_case_rolls_by_age(struct cfm *cfm)
{
    struct cs cs;
    struct timespec now;
    cs_start(&cs, cfm);
    cs.settings.segment_ms = 50;
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 3; i++) {
        (void)clock_gettime(CLOCK_REALTIME, &now);
        int64_t ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
        CFM_STATUS(cs_append_like(p, i, 1, 100, ms, 1, 0), STI_OK);
        CFM_EQ(cs_state(p).segment_count, i + 1);
        wait_ms(70);
    }
    struct sti_storage_settings settings = cs.settings;
    settings.segment_ms = 0;
    CFM_STATUS(cs_configure(p, &settings), STI_OK);
    CFM_STATUS(cs_append_like(p, 3, 1, 100, 5, 1, 0), STI_OK);
    CFM_EQ(cs_state(p).segment_count, 3);
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_configure(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    static const int64_t sizes[] = {16384, 4096, 65536, 2048, 1 << 20};
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct sti_storage_settings settings = cs.settings;
        int64_t end, newest;
        uint64_t bytes;
        settings.segment_bytes = sizes[i];
        CFM_STATUS(cs_configure(p, &settings), STI_OK);
        for (int k = 0; k < 60; k++) {
            struct cs_batch b = {.base = m.end, .records = 1, .len = 500, .timestamp = 7};
            CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
            cs_model_add(&m, &b);
        }
        cs_model_check(&m, p);
        /* Closed segments that were begun under the setting keep it. */
        CFM_STATUS(cs_trim(p, m.end - 30), STI_OK);
        m.log_start = m.end - 30;
        if (sizes[i] < 8000) {
            CFM_STATUS(cs_oldest(p, &end, &bytes, &newest), STI_OK);
            CFM_CHECK((int64_t)bytes <= sizes[i]);
        }
    }
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

/* ---- time ----------------------------------------------------------------------------------- */

void cs_case_time(struct cfm *cfm)
{
    struct cs cs;
    int64_t offset, found;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_time(p, 0, &offset, &found), STI_E_NOT_FOUND);
    for (int i = 0; i < 300; i++) {
        CFM_STATUS(cs_append_like(p, i * 4, 4, 361, 1000 + i * 10, 1, 0), STI_OK);
    }
    for (int i = 0; i < 300; i++) {
        for (int less = 0; less < 10; less += 3) {
            CFM_STATUS(cs_time(p, 1000 + i * 10 - less, &offset, &found), STI_OK);
            CFM_EQ(offset, i * 4);
            CFM_EQ(found, 1000 + i * 10);
        }
    }
    CFM_STATUS(cs_time(p, 3991, &offset, &found), STI_E_NOT_FOUND);
    /* What was trimmed is not found, and an offset below the start is not told. */
    CFM_STATUS(cs_trim(p, 402), STI_OK);
    CFM_STATUS(cs_time(p, 0, &offset, &found), STI_OK);
    CFM_EQ(offset, 402);
    CFM_EQ(found, 2000);
    CFM_STATUS(cs_truncate(p, 800), STI_OK);
    CFM_STATUS(cs_time(p, 3000, &offset, &found), STI_E_NOT_FOUND);
    CFM_STATUS(cs_time(p, 2990, &offset, &found), STI_OK);
    CFM_EQ(offset, 796);
    cs_closed(p);
    cs_stop(&cs);
}

void cs_case_time_disorder(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 4096;
    struct cs_part *p = cs_created(&cs, "t");
    for (int i = 0; i < 200; i++) {
        struct cs_batch b = {.base = m.end,
                             .records = 1 + cfm_below(cfm, 3),
                             .len = 150 + cfm_below(cfm, 300),
                             .timestamp = 1000 + cfm_below(cfm, 500)};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(&m, &b);
    }
    /* The first batch that is new enough, though later ones may be older. */
    for (int i = 0; i < 200; i++) {
        int64_t timestamp = 990 + cfm_below(cfm, 520), offset, found;
        int rc = cs_time(p, timestamp, &offset, &found);
        size_t k = 0;
        while (k < m.count && m.batches[k].timestamp < timestamp) {
            k++;
        }
        CFM_STATUS(rc, k == m.count ? STI_E_NOT_FOUND : STI_OK);
        if (k < m.count) {
            CFM_EQ(offset, m.batches[k].base);
            CFM_EQ(found, m.batches[k].timestamp);
        }
    }
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

/* ---- trim ----------------------------------------------------------------------------------- */

void cs_case_trim(struct cfm *cfm)
{
    struct cs cs;
    struct cs_read read, held;
    int64_t end, newest;
    uint64_t bytes;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_append_like(p, 0, 1, 500, 100, 200, 0), STI_OK);
    struct sti_storage_state before = cs_state(p);
    CFM_STATUS(cs_oldest(p, &end, &bytes, &newest), STI_OK);
    CFM_EQ(newest, 100 + end - 1);
    CFM_EQ(bytes, end * 500);
    CFM_STATUS(cs_read(p, 0, 200, 5000, STI_READ_MEMORY, &held), STI_OK);
    /* A start inside a segment keeps the segment. */
    CFM_STATUS(cs_trim(p, end - 1), STI_OK);
    CFM_EQ(cs_state(p).segment_count, before.segment_count);
    CFM_EQ(cs_state(p).log_start, end - 1);
    CFM_STATUS(cs_read(p, end - 2, 200, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(p, end - 1, 200, 1, 0, &read), STI_OK);
    CFM_EQ(cs_walk(&read, end - 1), end);
    cs_release(&read);
    CFM_STATUS(cs_trim(p, end), STI_OK);
    CFM_EQ(cs_state(p).segment_count, before.segment_count - 1);
    CFM_EQ(cs_state(p).bytes, before.bytes - bytes);
    CFM_EQ(cs_walk(&held, 0), 10); /* what is held stays readable */
    cs_release(&held);
    CFM_STATUS(cs_read(p, end - 1, 200, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_read(p, end, 200, 1, 0, &read), STI_OK);
    cs_release(&read);
    /* Backwards is nothing to do; past the end is refused. */
    CFM_STATUS(cs_trim(p, 0), STI_OK);
    CFM_EQ(cs_state(p).log_start, end);
    CFM_STATUS(cs_trim(p, 201), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_EQ(cs_state(p).log_start, end);
    CFM_STATUS(cs_trim(p, 200), STI_OK);
    CFM_EQ(cs_state(p).bytes, 0);
    CFM_EQ(cs_state(p).log_start, 200);
    CFM_EQ(cs_state(p).written_end, 200);
    CFM_STATUS(cs_append_like(p, 200, 1, 71, 1, 1, 0), STI_OK);
    CFM_STATUS(cs_read(p, 200, 201, 1, 0, &read), STI_OK);
    CFM_EQ(cs_walk(&read, 200), 201);
    cs_release(&read);
    cs_closed(p);
    cs_stop(&cs);
}

/* ---- truncate ------------------------------------------------------------------------------- */

void cs_case_truncate(struct cfm *cfm)
{
    struct cs cs;
    struct cs_read read, held;
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    CFM_STATUS(cs_append_like(p, 0, 2, 500, 100, 100, 3), STI_OK);
    CFM_STATUS(cs_append_like(p, 200, 2, 500, 100, 100, 4), STI_OK);
    CFM_STATUS(cs_read(p, 0, 400, 1 << 20, STI_READ_MEMORY, &held), STI_OK);
    CFM_STATUS(cs_truncate(p, 301), STI_E_INVALID_ARGUMENT);
    CFM_EQ(cs_state(p).written_end, 400);
    CFM_STATUS(cs_truncate(p, 400), STI_OK); /* nothing to do */
    CFM_EQ(cs_state(p).written_end, 400);
    CFM_STATUS(cs_truncate(p, 210), STI_OK);
    struct sti_storage_state state = cs_state(p);
    CFM_EQ(state.written_end, 210);
    CFM_CHECK(state.synced_end <= 210);
    CFM_EQ(state.last_epoch, 4);
    CFM_EQ(state.bytes, 105 * 500);
    CFM_STATUS(cs_truncate(p, 200), STI_OK);
    CFM_EQ(cs_state(p).last_epoch, 3);
    CFM_STATUS(cs_read(p, 201, 300, 1, 0, &read), STI_E_OFFSET_OUT_OF_RANGE);
    CFM_STATUS(cs_append_like(p, 200, 5, 138, 100, 3, 7), STI_OK);
    CFM_EQ(cs_state(p).last_epoch, 7);
    CFM_EQ(cs_walk(&held, 0), 400);
    cs_release(&held);
    CFM_STATUS(cs_read(p, 0, 215, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
    CFM_EQ(cs_walk(&read, 0), 215);
    cs_release(&read);
    CFM_STATUS(cs_truncate(p, 0), STI_OK);
    state = cs_state(p);
    CFM_EQ(state.written_end, 0);
    CFM_EQ(state.last_epoch, -1);
    CFM_EQ(state.bytes, 0);
    CFM_STATUS(cs_append_like(p, 0, 1, 71, 1, 1, 0), STI_OK);
    cs_closed(p);
    cs_stop(&cs);
}

/* ---- order on reopening --------------------------------------------------------------------- */

void cs_case_reopen(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 30; i++) {
            struct cs_batch b = {.base = m.end,
                                 .records = 1 + cfm_below(cfm, 4),
                                 .len = 200 + cfm_below(cfm, 2000),
                                 .timestamp = 1000 + m.end,
                                 .epoch = round};
            CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
            cs_model_add(&m, &b);
        }
        if (round == 2) {
            m.log_start = m.batches[m.count / 3].base + 1;
            CFM_STATUS(cs_trim(p, m.log_start), STI_OK);
        }
        if (round == 4) {
            int64_t cut = m.batches[m.count - 10].base;
            CFM_STATUS(cs_truncate(p, cut), STI_OK);
            cs_model_truncate(&m, cut);
        }
        struct sti_storage_state was = cs_state(p);
        cs_closed(p);
        if (round % 2 == 0) {
            cs_restart(&cs);
        }
        p = cs_opened(&cs, "t");
        CFM_EQ(p->opened.written_end, m.end);
        CFM_EQ(p->opened.log_start, m.log_start);
        CFM_EQ(p->opened.last_epoch, cs_model_epoch(&m));
        CFM_EQ(p->opened.bytes, was.bytes);
        CFM_EQ(p->opened.max_timestamp, was.max_timestamp);
        CFM_EQ(p->opened.truncated_bytes, 0);
        /* close has synced. */
        CFM_EQ(p->opened.synced_end, m.end);
        cs_model_check(&m, p);
    }
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}
