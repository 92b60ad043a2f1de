/* test_scrub.c -- stored bytes that go bad while a partition is open are found, told, and
 * remembered.
 *
 * Time is the test's: clocks and timers of the host are replaced, and move when the test says so.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_fixture.h"

#include "storage_mmap.h"

enum {
    PAYLOAD = 339,
    LEN = PAYLOAD + 61,
    PER_SEGMENT = 16384 / LEN, /* batches, of two records each */
    SEGMENTS = 4,
    BATCHES = PER_SEGMENT * SEGMENTS + 5,
    END = BATCHES * 2,
    TIMERS_MAX = 64,
    EPOCH = 5
};

static struct fixture fx;
static struct sti_storage_partition *part;

/* ---- time ---------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t mu;
    uint64_t now_us;
    struct sti_timer *armed[TIMERS_MAX];
} sim = {.mu = PTHREAD_MUTEX_INITIALIZER};

static uint64_t sim_clock(void *ctx, int clock_id)
{
    (void)ctx;
    pthread_mutex_lock(&sim.mu);
    uint64_t now = sim.now_us + (clock_id == STI_CLOCK_REALTIME ? 1700000000000000u : 0);
    pthread_mutex_unlock(&sim.mu);
    return now;
}

static void sim_arm(void *ctx, struct sti_timer *timer, uint64_t due_us)
{
    (void)ctx;
    pthread_mutex_lock(&sim.mu);
    timer->due_us = due_us;
    int i = 0;
    while (i < TIMERS_MAX - 1 && sim.armed[i] != NULL) {
        i++;
    }
    sim.armed[i] = timer;
    pthread_mutex_unlock(&sim.mu);
}

static bool sim_cancel(void *ctx, struct sti_timer *timer)
{
    bool found = false;
    (void)ctx;
    pthread_mutex_lock(&sim.mu);
    for (int i = 0; i < TIMERS_MAX; i++) {
        found = found || sim.armed[i] == timer;
        sim.armed[i] = sim.armed[i] == timer ? NULL : sim.armed[i];
    }
    pthread_mutex_unlock(&sim.mu);
    return found;
}

/* Let time pass; what becomes due runs, one after the other. */
static void advance(uint64_t us)
{
    const struct sti_host *host = test_host_for(fx.th, "storage_mmap");
    uint64_t until = sim.now_us + us;
    for (;;) {
        struct sti_timer *next = NULL;
        pthread_mutex_lock(&sim.mu);
        for (int i = 0; i < TIMERS_MAX; i++) {
            struct sti_timer *timer = sim.armed[i];
            if (timer != NULL && timer->due_us <= until &&
                (next == NULL || timer->due_us < next->due_us)) {
                next = timer;
            }
        }
        for (int i = 0; next != NULL && i < TIMERS_MAX; i++) {
            sim.armed[i] = sim.armed[i] == next ? NULL : sim.armed[i];
        }
        sim.now_us = next != NULL && next->due_us > sim.now_us ? next->due_us : sim.now_us;
        sim.now_us = next == NULL ? until : sim.now_us;
        pthread_mutex_unlock(&sim.mu);
        if (next == NULL) {
            break;
        }
        host->post(host->ctx, &next->task);
        test_host_settle(fx.th, NULL);
    }
}

/* ---- the fixture --------------------------------------------------------------------------- */

static int setup_real(void **state)
{
    (void)state;
    fx_init(&fx, 3);
    fx_option(&fx, "scrub_delay_ms", 0);
    fx_option(&fx, "scrub_interval_ms", 1);
    fx_option(&fx, "scrub_bytes_per_s", 1 << 30);
    fx_start(&fx);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    fx_init(&fx, 1);
    struct sti_host *host = (struct sti_host *)(uintptr_t)test_host_for(fx.th, sti_plugin.name);
    memset(sim.armed, 0, sizeof sim.armed);
    sim.now_us = 1000;
    host->clock_us = sim_clock;
    host->timer_arm = sim_arm;
    host->timer_cancel = sim_cancel;
    fx_start(&fx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    fx_fini(&fx);
    return 0;
}

static uint64_t metric(const char *name)
{
    return test_host_metric(fx.th, name, "storage=\"storage_mmap\"");
}

static uint64_t passes(void)
{
    return metric("streamit_storage_scrub_passes_total");
}

/* From here to the end of one more pass. */
static void one_pass(void)
{
    uint64_t before = passes();
    for (int i = 0; i < 200 && passes() == before; i++) {
        advance(86400000000u / 100);
    }
    assert_int_equal(passes(), before + 1);
}

static void fill(const char *topic)
{
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    for (int i = 0; i < BATCHES; i++) {
        assert_int_equal(fx_append_epoch(&fx, part, i * 2, 2, PAYLOAD, 1000 + i, 1, EPOCH, NULL),
                         STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.segment_count, SEGMENTS + 1);
    assert_int_equal(state.synced_end, END);
}

static void file_path(int segment, const char *suffix, char *out, size_t len)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, (int64_t)segment * PER_SEGMENT * 2, suffix);
    fx_path(&fx, "t", name, out, len);
}

static void flip(int segment, const char *suffix, off_t pos, uint8_t mask)
{
    char path[300];
    uint8_t byte;
    file_path(segment, suffix, path, sizeof path);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, pos), 1);
    byte ^= mask;
    assert_int_equal(pwrite(fd, &byte, 1, pos), 1);
    close(fd);
}

static void reads(int64_t from, int64_t to)
{
    struct fx_read read;
    while (from < to) {
        assert_int_equal(fx_read(&fx, part, from, to, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        from = fx_read_check(&read, from);
        fx_read_release(&read);
    }
    assert_int_equal(from, to);
}

/* Offsets from..to - 1 are damaged, everything else is read, and nothing is appended. */
static void check_damage(int64_t from, int64_t to)
{
    struct fx_read read;
    struct sti_storage_state state;
    char expect[80];
    (void)snprintf(expect, sizeof expect, "offsets %lld to %lld are damaged", (long long)from,
                   (long long)to - 1);
    fx.api->state(part, &state);
    assert_int_equal(state.flags, STI_STORAGE_STATE_DAMAGED);
    assert_int_equal(state.written_end, END);
    if (from > 0) {
        reads(0, from);
    }
    for (int64_t offset = from; offset < to; offset += 1 + (to - from) / 4) {
        assert_int_equal(fx_read(&fx, part, offset, END, 1 << 20, 0, &read), STI_E_DATA_LOSS);
        assert_non_null(strstr(read.msg, expect));
    }
    if (to < END) {
        reads(to, END);
    }
    assert_int_equal(fx_append(&fx, part, END, 1, 10, 1, 1), STI_E_POISONED);
}

static void reopen(int expect)
{
    struct sti_storage_state state;
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &state), expect);
}

static bool noted(void)
{
    char path[300];
    fx_path(&fx, "t", STI_FILE_DAMAGE, path, sizeof path);
    return access(path, F_OK) == 0;
}

/* ---- a sound log --------------------------------------------------------------------------- */

static void test_sound_data(void **state)
{
    (void)state;
    fill("t");
    uint64_t open_files = metric("streamit_storage_open_segments");
    advance(59000000);
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), 0);
    assert_int_equal(metric("streamit_storage_scrub_progress_timestamp_seconds"), 0);
    advance(2000000);
    assert_int_equal(passes(), 1);
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), BATCHES * LEN);
    assert_in_range(metric("streamit_storage_scrub_progress_timestamp_seconds"), 1700000060,
                    1700000062);
    assert_true(metric("streamit_storage_open_segments") <= open_files);
    advance(86300000000);
    assert_int_equal(passes(), 1);
    advance(200000000);
    assert_int_equal(passes(), 2);
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), 2 * BATCHES * LEN);
    assert_int_equal(metric("streamit_storage_index_rebuilds_total"), 0);
    assert_int_equal(metric("streamit_storage_scrub_differs_total"), 0);
    assert_int_equal(fx.damaged_count, 0);
    assert_int_equal(test_host_logged(fx.th, "scrub_begin"), 2);
    assert_int_equal(test_host_logged(fx.th, "scrub_end"), 2);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* Only what is synced is looked at, and nothing when it is off. */
static void test_unsynced_and_off(void **state)
{
    struct sti_storage_state st;
    fx_stop(&fx);
    fx_option(&fx, "idle_close_ms", 86400000); /* what is idle gets synced */
    fx_start(&fx);
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, PAYLOAD, 1, 3), STI_OK);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(fx_append(&fx, part, 3, 1, PAYLOAD, 1, 2), STI_OK);
    flip(0, ".log", 3 * LEN + 100, 1);
    one_pass();
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), 3 * LEN);
    assert_int_equal(fx.damaged_count, 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(teardown(state), 0);
    fx_init(&fx, 1);
    fx_option(&fx, "scrub_bytes_per_s", 0);
    fx_option(&fx, "scrub_delay_ms", 0);
    fx_start(&fx);
    fill("t");
    test_host_settle(fx.th, NULL);
    assert_int_equal(passes(), 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* A rate is a bound, from the first step on. */
static void test_rate_is_bounded(void **state)
{
    enum { RATE = 1 << 20, PARTS = 3 };
    struct sti_storage_partition *parts[PARTS];
    (void)state;
    fx_stop(&fx);
    fx_option(&fx, "scrub_bytes_per_s", RATE);
    fx.settings.segment_bytes = 2 << 20;
    fx_start(&fx);
    for (int p = 0; p < PARTS; p++) {
        char topic[8];
        struct sti_storage_state st;
        (void)snprintf(topic, sizeof topic, "r%d", p);
        assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &parts[p], &st), STI_OK);
        for (int i = 0; i < 50; i++) {
            assert_int_equal(fx_append(&fx, parts[p], i, 1, 100000, 1, 1), STI_OK);
        }
        assert_int_equal(fx_sync(&fx, parts[p], NULL), STI_OK);
    }
    advance(59999000);
    uint64_t last = 0;
    for (int second = 1; second <= 14; second++) {
        advance(1000000);
        uint64_t bytes = metric("streamit_storage_scrub_bytes_total");
        assert_true(bytes <= (uint64_t)second * RATE + 512 * 1024);
        assert_true(bytes > last || second > 14);
        last = bytes;
    }
    one_pass();
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), PARTS * 50 * 100061);
    for (int p = 0; p < PARTS; p++) {
        assert_int_equal(fx.api->close(parts[p], NULL), STI_OK);
    }
}

static size_t resident(const char *path)
{
    struct stat st;
    unsigned char vec[64];
    int fd = open(path, O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_NONE, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, (size_t)st.st_size, vec), 0);
    for (size_t i = 0; i < ((size_t)st.st_size + page - 1) / page; i++) {
        count += vec[i] & 1u;
    }
    munmap(map, (size_t)st.st_size);
    close(fd);
    return count;
}

static void test_page_cache_is_left_alone(void **state)
{
    char cold[300], warm[300];
    (void)state;
    fill("t");
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    struct sti_storage_state st;
    assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
    file_path(0, ".log", cold, sizeof cold);
    file_path(1, ".log", warm, sizeof warm);
    int fd = open(cold, O_RDONLY);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
    size_t cold_before = resident(cold), warm_before = resident(warm);
    assert_true(warm_before > 0);
    one_pass();
    assert_int_equal(metric("streamit_storage_scrub_bytes_total"), BATCHES * LEN);
    assert_int_equal(resident(cold), cold_before);
    assert_int_equal(resident(warm), warm_before);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- damage -------------------------------------------------------------------------------- */

/* Whatever byte of a batch is flipped, exactly that batch is found, once, and is known after a
 * restart, until the byte is put right. */
static void test_flip_every_byte_class(void **state)
{
    static const off_t bytes[] = {0,  5,  7,  8,  10, 11, 12, 15,  16,
                                  17, 20, 21, 24, 43, 60, 61, 200, LEN - 1};
    (void)state;
    fill("t");
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        int64_t batch = PER_SEGMENT + 7; /* the eighth of segment 1 */
        off_t pos = 7 * LEN + bytes[i];
        uint8_t mask = bytes[i] == 15 ? 1 : 0x41; /* an epoch that falls, one that is too new */
        fx.damaged_count = 0;
        flip(1, ".log", pos, mask);
        one_pass();
        assert_int_equal(fx.damaged_count, 1);
        assert_non_null(strstr(fx.damage_msg, ".log: position 2800"));
        check_damage(batch * 2, batch * 2 + 2);
        assert_true(noted());
        one_pass();
        assert_int_equal(fx.damaged_count, 1);
        reopen(STI_E_DATA_LOSS);
        check_damage(batch * 2, batch * 2 + 2);
        one_pass();
        assert_int_equal(fx.damaged_count, 1);
        flip(1, ".log", pos, mask);
        reopen(STI_OK);
        assert_false(noted());
        one_pass();
        assert_int_equal(fx.damaged_count, 1);
    }
    assert_int_equal(metric("streamit_storage_scrub_damaged_total"), sizeof bytes / sizeof *bytes);
    assert_int_equal(fx_append_epoch(&fx, part, END, 1, 10, 1, 1, EPOCH, NULL), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* First and last batch of a segment, the active one, two at once, and a truncation that ends it. */
static void test_damage_at_the_edges(void **state)
{
    (void)state;
    fill("t");
    flip(0, ".log", 100, 1);
    one_pass();
    assert_int_equal(fx.damaged_count, 1);
    check_damage(0, 2);
    flip(2, ".log", (PER_SEGMENT - 1) * LEN + 3, 1);
    one_pass();
    assert_int_equal(fx.damaged_count, 2);
    flip(SEGMENTS, ".log", 4 * LEN + 70, 1); /* the last batch of all */
    one_pass();
    assert_int_equal(fx.damaged_count, 3);
    struct fx_read read;
    int64_t last = 3 * PER_SEGMENT * 2 - 2;
    assert_int_equal(fx_read(&fx, part, last, END, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    assert_int_equal(fx_read(&fx, part, END - 1, END, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    reads(2, last);
    reads(last + 2, END - 2);
    assert_int_equal(fx.api->truncate(part, last, NULL), STI_OK); /* the first range stays */
    assert_int_equal(fx_append(&fx, part, last, 1, 10, 1, 1), STI_E_POISONED);
    reopen(STI_E_DATA_LOSS);
    assert_int_equal(fx.api->truncate(part, 0, NULL), STI_OK);
    assert_false(noted());
    assert_int_equal(fx_append(&fx, part, 0, 1, 10, 1, 1), STI_OK);
    one_pass();
    assert_int_equal(fx.damaged_count, 3);
    reopen(STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* What was written behind damage, before it was found, is synced by the close like everything else.
 */
static void test_close_syncs_around_damage(void **state)
{
    struct sti_storage_state st;
    (void)state;
    fx_stop(&fx);
    fx_option(&fx, "idle_close_ms", 86400000);
    fx_start(&fx);
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, PAYLOAD, 1, 3), STI_OK);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    assert_int_equal(fx_append(&fx, part, 3, 1, PAYLOAD, 1, 2), STI_OK);
    flip(0, ".log", LEN + 100, 1);
    one_pass();
    assert_int_equal(fx.damaged_count, 1);
    uint64_t syncs = metric("streamit_storage_syncs_total");
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(metric("streamit_storage_syncs_total"), syncs + 1);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_E_DATA_LOSS);
    assert_int_equal(st.written_end, 5);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* A batch whose epoch sticks out within what the log knows: it is blamed, not all that follow. */
static void test_epoch_that_sticks_out(void **state)
{
    struct sti_storage_state st;
    (void)state;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(fx_append_epoch(&fx, part, i * 2, 2, PAYLOAD, 1, 1, i < 25 ? 1 : 8, NULL),
                         STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    flip(0, ".log", 10 * LEN + 15, 1 ^ 5);
    one_pass();
    assert_int_equal(fx.damaged_count, 1);
    assert_non_null(strstr(fx.damage_msg, "offsets 20 to 21 are damaged"));
    one_pass();
    assert_int_equal(fx.damaged_count, 1);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_files_cut_or_gone(void **state)
{
    char path[300];
    (void)state;
    fill("t");
    file_path(2, ".log", path, sizeof path);
    assert_int_equal(truncate(path, (PER_SEGMENT - 2) * LEN + 10), 0);
    one_pass();
    assert_int_equal(fx.damaged_count, 1);
    int64_t next = 3 * PER_SEGMENT * 2;
    check_damage(next - 4, next);
    assert_int_equal(metric("streamit_storage_scrub_differs_total"), 0);
    file_path(1, ".log", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    one_pass();
    assert_int_equal(fx.damaged_count, 2);
    struct fx_read read;
    for (int restart = 0; restart < 2; restart++) {
        reads(0, PER_SEGMENT * 2);
        assert_int_equal(fx_read(&fx, part, PER_SEGMENT * 2, END, 1 << 20, 0, &read),
                         STI_E_DATA_LOSS);
        reads(2 * PER_SEGMENT * 2, next - 4);
        assert_int_equal(fx_read(&fx, part, next - 1, END, 1 << 20, 0, &read), STI_E_DATA_LOSS);
        reads(next, END);
        reopen(STI_E_DATA_LOSS);
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* A disk that cannot read is as bad as one that reads wrong; one that stumbles is not. */
static int no_reads(const char *point)
{
    return strcmp(point, "scrub.read") == 0 || strcmp(point, "file.pread") == 0 ? EIO : 0;
}

static int first_looks_fail(const char *point)
{
    return strcmp(point, "scrub.read") == 0 ? EIO : 0;
}

static void test_unreadable(void **state)
{
    (void)state;
    fill("t");
    sti_fault_set_hook(first_looks_fail);
    one_pass();
    assert_int_equal(fx.damaged_count, 0);
    assert_int_equal(metric("streamit_storage_scrub_differs_total"), BATCHES);
    sti_fault_set_hook(no_reads);
    one_pass();
    sti_fault_set_hook(NULL);
    assert_int_equal(fx.damaged_count, SEGMENTS + 1);
    struct fx_read read;
    assert_int_equal(fx_read(&fx, part, 0, END, 1 << 20, 0, &read), STI_E_DATA_LOSS);
    reopen(STI_OK); /* they can be read now, and hold */
    reads(0, END);
    assert_false(noted());
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

static void test_note_is_not_believed_blindly(void **state)
{
    static const char *const texts[] = {"", "0\n", "1\n0 0 400 0 2 0\n00000000\n", "nonsense",
                                        "0\n0 0 400 0 2 0\n00000000\n"};
    char path[300];
    (void)state;
    fill("t");
    fx_path(&fx, "t", STI_FILE_DAMAGE, path, sizeof path);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
        assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
        close(fd);
        reopen(STI_OK);
        assert_false(noted());
    }
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- indexes ------------------------------------------------------------------------------- */

static void test_indexes_are_built_anew(void **state)
{
    char path[300];
    (void)state;
    fill("t");
    one_pass();
    for (int kind = 0; kind < 8; kind++) {
        uint64_t before = metric("streamit_storage_scrub_indexes_total");
        file_path(1, kind % 2 == 0 ? ".index" : ".timeindex", path, sizeof path);
        if (kind < 4) {
            flip(1, kind % 2 == 0 ? ".index" : ".timeindex", kind < 2 ? 3 : 2 * 12 + 7, 0x10);
        } else if (kind < 6) {
            assert_int_equal(unlink(path), 0);
        } else {
            assert_int_equal(truncate(path, kind == 6 ? 16 : 12), 0);
        }
        one_pass();
        assert_int_equal(metric("streamit_storage_scrub_indexes_total"), before + 1);
        one_pass();
        assert_int_equal(metric("streamit_storage_scrub_indexes_total"), before + 1);
        for (int64_t offset = PER_SEGMENT * 2; offset < PER_SEGMENT * 4; offset += 2) {
            int64_t at, found;
            assert_int_equal(fx.api->offset_for_time(part, 1000 + offset / 2, &at, &found, NULL),
                             STI_OK);
            assert_int_equal(at, offset);
        }
    }
    assert_int_equal(fx.damaged_count, 0);
    assert_int_equal(fx_append_epoch(&fx, part, END, 1, 10, 1, 1, EPOCH, NULL), STI_OK);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- what goes away under the scrub -------------------------------------------------------- */

enum what { CLOSE, TRIM, TRUNCATE, REMOVE, POISON, STOP, WHAT_COUNT };

static int no_sync(const char *point)
{
    return strcmp(point, "flush.before_sync") == 0 ? EIO : 0;
}

static void do_what(enum what what)
{
    struct sti_storage_state st;
    if (what == TRIM) {
        assert_int_equal(fx.api->trim(part, 15, NULL), STI_OK);
    } else if (what == TRUNCATE) {
        assert_int_equal(fx.api->truncate(part, 5, NULL), STI_OK);
    } else if (what == POISON) {
        sti_fault_set_hook(no_sync);
        assert_int_equal(fx_append(&fx, part, 20, 1, 100, 1, 1), STI_OK);
        assert_int_equal(fx_sync(&fx, part, NULL), STI_E_IO);
        sti_fault_set_hook(NULL);
    } else {
        assert_int_equal(fx.api->close(part, NULL), STI_OK);
        if (what == REMOVE) {
            assert_int_equal(fx_remove(&fx, "t"), STI_OK);
            assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
        } else if (what == CLOSE) {
            assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
        }
    }
}

/* Slow enough that the pass is in the middle of a segment when it happens, at every place. */
static void test_partitions_that_change(void **state)
{
    (void)state;
    fx_stop(&fx);
    fx_option(&fx, "scrub_bytes_per_s", 1 << 20);
    fx.settings.segment_bytes = 500000;
    for (int what = 0; what < WHAT_COUNT; what++) {
        for (int at = 1; at <= 16; at += 3) {
            struct sti_storage_state st;
            fx_start(&fx);
            assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
            for (int i = 0; i < 20; i++) {
                assert_int_equal(fx_append(&fx, part, i, 1, 99000, 1, 1), STI_OK);
            }
            assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
            advance(60000000 + (uint64_t)at * 140000);
            uint64_t ended = passes();
            do_what((enum what)what);
            if (what == STOP) {
                fx_stop(&fx);
                fx_start(&fx);
                assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
            }
            one_pass();
            assert_int_equal(passes(), ended + 1);
            assert_int_equal(fx.damaged_count, 0);
            assert_int_equal(fx.api->close(part, NULL), what == POISON ? STI_E_IO : STI_OK);
            assert_int_equal(fx_remove(&fx, "t"), STI_OK);
            fx_stop(&fx);
        }
    }
    fx_start(&fx);
    assert_int_equal(metric("streamit_storage_open_segments"), 0);
}

/* Beside a writer that appends, rolls, trims, truncates, closes and opens, in real time. */
static void test_beside_a_writer(void **state)
{
    struct sti_storage_state st;
    int64_t end = 0;
    (void)state;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    for (int round = 0; round < 400 || (passes() < 3 && round < 20000); round++) {
        assert_int_equal(fx_append(&fx, part, end, 1, PAYLOAD, round, 9), STI_OK);
        end += 9;
        if (round % 4 == 0) {
            assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
        }
        if (round % 7 == 0) {
            assert_int_equal(fx.api->trim(part, end > 200 ? end - 200 : 0, NULL), STI_OK);
        }
        if (round % 11 == 0) {
            end -= 5;
            assert_int_equal(fx.api->truncate(part, end, NULL), STI_OK);
        }
        if (round % 50 == 0) {
            assert_int_equal(fx.api->close(part, NULL), STI_OK);
            assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK);
            assert_int_equal(st.written_end, end);
        }
    }
    assert_true(passes() >= 3);
    assert_int_equal(fx.damaged_count, 0);
    assert_int_equal(metric("streamit_storage_scrub_differs_total"), 0);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

#define CASE(f)    cmocka_unit_test_setup_teardown(f, setup, teardown)
#define CASE_RT(f) cmocka_unit_test_setup_teardown(f, setup_real, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_sound_data),
        CASE(test_unsynced_and_off),
        CASE(test_rate_is_bounded),
        CASE(test_page_cache_is_left_alone),
        CASE(test_flip_every_byte_class),
        CASE(test_damage_at_the_edges),
        CASE(test_close_syncs_around_damage),
        CASE(test_epoch_that_sticks_out),
        CASE(test_files_cut_or_gone),
        CASE(test_unreadable),
        CASE(test_note_is_not_believed_blindly),
        CASE(test_indexes_are_built_anew),
        CASE(test_partitions_that_change),
        CASE_RT(test_beside_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
