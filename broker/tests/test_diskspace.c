/* test_diskspace.c -- the ladder of a disk that fills: thresholds, levels, what each refuses. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"

/* The fake's disk is a million bytes: throttled below 100,000 free, read-only below 50,000; the
 * levels end at 112,500 and 62,500. */
enum { TOTAL = 1000000, LOOK_MS = 10 };

/* ---- health, as /ready would list it */

static struct {
    pthread_mutex_t mu;
    char low[192], full[192];
    unsigned changes;
} health = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void note_health(void *ctx, const char *condition, int level, const char *detail)
{
    (void)ctx;
    pthread_mutex_lock(&health.mu);
    char *at = strcmp(condition, "disk_low:storage_mmap") == 0    ? health.low
               : strcmp(condition, "disk_full:storage_mmap") == 0 ? health.full
                                                                  : NULL;
    if (at != NULL) {
        assert_true(level == STI_HEALTH_OK || level == STI_HEALTH_DEGRADED);
        (void)snprintf(at, sizeof health.low, "%s", level == STI_HEALTH_OK ? "" : detail);
        health.changes++;
    }
    pthread_mutex_unlock(&health.mu);
}

static void expect_health(const char *low, const char *full)
{
    pthread_mutex_lock(&health.mu);
    assert_string_equal(health.low, low);
    assert_string_equal(health.full, full);
    pthread_mutex_unlock(&health.mu);
}

static struct fixture *ladder_new(void)
{
    struct fixture *fix = fix_new();
    memset(health.low, 0, sizeof health.low);
    memset(health.full, 0, sizeof health.full);
    health.changes = 0;
    fix->host.health = note_health;
    fix->conf.disk.check_interval_ms = LOOK_MS;
    fix->conf.disk.slowdown_ms = 0;
    fix->conf.defaults.retention_ms = -1;
    FAKE_SET(fix->fs, space_total, TOTAL);
    FAKE_SET(fix->fs, space_free, TOTAL);
    return fix;
}

static int setup(void **state)
{
    struct fixture *fix = ladder_new();
    fix_start(fix);
    *state = fix;
    return 0;
}

static int setup_unstarted(void **state)
{
    *state = ladder_new();
    return 0;
}

/* So many bytes are free; wait until the broker has seen that. */
static void free_bytes(struct fixture *fix, uint64_t bytes, uint64_t level)
{
    FAKE_SET(fix->fs, space_free, bytes);
    unsigned seen = fs_get(fix->fs, &fix->fs->spaces);
    fs_wait(fix->fs, &fix->fs->spaces,
            seen + 2); /* the second begins after the first was taken in */
    assert_int_equal(test_host_metric(fix->th, "streamit_disk_level", "storage=\"storage_mmap\""),
                     level);
    assert_int_equal(
        test_host_metric(fix->th, "streamit_disk_free_bytes", "storage=\"storage_mmap\""), bytes);
}

static void level_wait(struct fixture *fix, uint64_t level)
{
    uint64_t seen = ~level;
    for (int i = 0; i < FIX_PATIENCE_S * 1000 && seen != level; i++) {
        seen = test_host_metric(fix->th, "streamit_disk_level", "storage=\"storage_mmap\"");
        (void)usleep(seen == level ? 0 : 1000);
    }
    assert_int_equal(seen, level);
}

/* One batch of a record; the call's answer. */
static struct sti_produce_row produce_one(struct fixture *fix, const char *topic, size_t value_len)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, topic, 0, 1, value_len, 1000);
    uint64_t len = sti_slices_len(p.rows[0].slices, p.rows[0].slice_count);
    produce_send(fix, &p);
    produce_wait(&p);
    struct sti_produce_row row = p.rows[0];
    assert_true(row.bytes_needed == 0 || row.bytes_needed == len);
    produce_fini(&p);
    return row;
}

/* ---- the ladder alone */

static void expect_limits(uint64_t total, uint64_t throttle, uint64_t throttle_end, uint64_t refuse,
                          uint64_t refuse_end)
{
    struct brk_conf conf;
    struct brk_disk_limits limits;
    fix_conf_defaults(&conf);
    brk_disk_limits(&conf.disk, total, &limits);
    assert_int_equal(limits.throttle_below, throttle);
    assert_int_equal(limits.throttle_until, throttle_end);
    assert_int_equal(limits.refuse_below, refuse);
    assert_int_equal(limits.refuse_until, refuse_end);
}

static void test_limits_scale(void **state)
{
    const uint64_t mib = 1 << 20;
    struct brk_disk_limits limits;
    (void)state;
    expect_limits(1000000, 100000, 112500, 50000, 62500);
    expect_limits(64 * mib, 6710886, 7549746, 3355443, 4194303);
    expect_limits(100 * 1024 * mib, 1024 * mib, 1152 * mib, 512 * mib, 640 * mib);
    expect_limits(UINT64_MAX, 1024 * mib, 1152 * mib, 512 * mib, 640 * mib);
    expect_limits(0, 0, 0, 0, 0);
    /* A throttle below the refusal is no throttle; the refusal still has a step of its own. */
    const struct brk_disk_options upside_down = {.throttle_percent = 1,
                                                 .throttle_bytes = INT64_MAX,
                                                 .refuse_percent = 50,
                                                 .refuse_bytes = 4000};
    brk_disk_limits(&upside_down, 1000000, &limits);
    assert_int_equal(limits.throttle_below, 4000 > 10000 ? 4000 : 10000);
    const struct brk_disk_options refuse_only = {.refuse_percent = 50, .refuse_bytes = 4000};
    brk_disk_limits(&refuse_only, 1000000, &limits);
    assert_int_equal(limits.throttle_below, 4000);
    assert_int_equal(limits.refuse_below, 4000);
    assert_int_equal(limits.refuse_until, 4500);
    const struct brk_disk_options off = {.throttle_bytes = INT64_MAX, .refuse_bytes = INT64_MAX};
    brk_disk_limits(&off, 1000000, &limits);
    assert_int_equal(brk_disk_step(BRK_DISK_NORMAL, 0, &limits), BRK_DISK_NORMAL);
}

static void test_steps_do_not_flap(void **state)
{
    static const struct {
        uint64_t free;
        int level;
    } walk[] = {{100000, 0}, {99999, 1}, {112499, 1}, {112500, 0}, {99999, 1},
                {50000, 1},  {49999, 2}, {62499, 2},  {62500, 1},  {49999, 2},
                {112499, 1}, {49999, 2}, {112500, 0}, {0, 2},      {1000000, 0}};
    struct brk_conf conf;
    struct brk_disk_limits limits;
    int level = BRK_DISK_NORMAL;
    (void)state;
    fix_conf_defaults(&conf);
    brk_disk_limits(&conf.disk, TOTAL, &limits);
    for (size_t i = 0; i < sizeof walk / sizeof *walk; i++) {
        level = brk_disk_step(level, walk[i].free, &limits);
        assert_int_equal(level, walk[i].level);
    }
}

/* ---- refusing */

static void test_refuses_and_resumes(void **state)
{
    struct fixture *fix = *state;
    struct topic_call t;
    struct fetch_call f;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "gone", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    free_bytes(fix, 49999, BRK_DISK_READ_ONLY);
    unsigned appends = fs_get(fix->fs, &fix->fs->appends);

    struct sti_produce_row row = produce_one(fix, "t", 100);
    assert_int_equal(row.status, STI_E_DISK_FULL);
    assert_int_equal(row.err.traits & STI_TRAIT_RETRIABLE, 0);
    char sentence[248];
    (void)snprintf(sentence, sizeof sentence,
                   "t-0: %llu bytes are needed, 49999 are free on storage storage_mmap; writes "
                   "resume at 62500 free",
                   (unsigned long long)row.bytes_needed);
    assert_string_equal(row.err.msg, sentence);
    assert_true(row.bytes_needed > 100);
    assert_int_equal(row.retry_after_ms, 0);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends), appends);

    topic_call_init(&t, "new", 1);
    assert_int_equal(topic_call_run(fix, fix->vt->create_topic, &t), STI_E_DISK_FULL);
    assert_string_equal(t.call.err.msg,
                        "topic new: no partitions are made while the disk of storage storage_mmap "
                        "is full: 49999 bytes are free, writes resume at 62500 free");
    assert_int_equal(fix_alter(fix, "t", 2, NULL, NULL), STI_E_DISK_FULL);

    /* What frees space, and what only reads, goes on. */
    assert_int_equal(fix_alter(fix, "t", -1, "retention.bytes", "1000000"), STI_OK);
    assert_int_equal(fix_delete(fix, "gone"), STI_OK);
    fetch_init(&f, 0);
    fetch_add(&f, "t", 0, 0);
    fetch_send(fix, &f);
    fetch_wait(&f);
    assert_int_equal(f.rows[0].status, STI_OK);
    assert_true(f.rows[0].bytes > 0);
    fetch_fini(&f);

    free_bytes(fix, 62499, BRK_DISK_READ_ONLY);
    assert_int_equal(produce_one(fix, "t", 100).status, STI_E_DISK_FULL);
    free_bytes(fix, 62500, BRK_DISK_THROTTLED);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 1); /* by itself */
    assert_int_equal(fix_create(fix, "new", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_alter(fix, "t", 2, NULL, NULL), STI_OK);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
}

/* Once for each crossing, not for each look. */
static void test_tells_of_crossings(void **state)
{
    struct fixture *fix = *state;
    expect_health("", "");
    free_bytes(fix, 99999, BRK_DISK_THROTTLED);
    expect_health("storage storage_mmap has 99999 bytes free; appends are slowed until 112500 are "
                  "free",
                  "");
    free_bytes(fix, 1, BRK_DISK_READ_ONLY);
    expect_health("", "storage storage_mmap has 1 bytes free; appends are refused until 62500 are "
                      "free");
    free_bytes(fix, 62499, BRK_DISK_READ_ONLY);
    free_bytes(fix, 1, BRK_DISK_READ_ONLY);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
    expect_health("", "");
    assert_int_equal(test_host_logged(fix->th, "disk_low"), 1);
    assert_int_equal(test_host_logged(fix->th, "disk_full"), 1);
    assert_int_equal(test_host_logged(fix->th, "disk_room"), 1);
    assert_int_equal(health.changes, 6);
}

/* Rows that were queued in better times are refused on the strand; storage never sees them. */
static void test_queued_rows(void **state)
{
    struct fixture *fix = *state;
    struct produce_call first, behind[3];
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    FAKE_SET(fix->fs, hold_appends, true);
    produce_init(&first, STI_ACKS_LEADER);
    produce_add(&first, "t", 0, 1, 100, 1000);
    produce_send(fix, &first);
    fs_wait(fix->fs, &fix->fs->appends_held, 1);
    for (int i = 0; i < 3; i++) {
        produce_init(&behind[i], STI_ACKS_LEADER);
        produce_add(&behind[i], "t", 0, 1, 100, 1000);
        produce_send(fix, &behind[i]);
    }
    free_bytes(fix, 0, BRK_DISK_READ_ONLY);
    FAKE_SET(fix->fs, hold_appends, false);
    assert_int_equal(fs_release_appends(fix->fs), 1);
    produce_wait(&first);
    assert_int_equal(first.rows[0].status, STI_OK); /* storage had it already */
    for (int i = 0; i < 3; i++) {
        produce_wait(&behind[i]);
        assert_int_equal(behind[i].rows[0].status, STI_E_DISK_FULL);
        assert_true(behind[i].rows[0].bytes_needed > 0);
        produce_fini(&behind[i]);
    }
    produce_fini(&first);
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends), 1);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), 1);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 1); /* a refused row takes no offset */
}

/* A fast writer is noticed by its bytes, not by the clock. */
static void test_looks_by_bytes(void **state)
{
    struct fixture *fix = *state;
    fix->conf.disk.check_interval_ms = 60000;
    FAKE_SET(fix->fs, space_total, 100000000);
    FAKE_SET(fix->fs, space_free, 20000000);
    FAKE_SET(fix->fs, space_shrinks, true);
    fix_start(fix);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    struct sti_produce_row row = {.status = STI_OK};
    int taken = 0;
    while (taken < 100 && (row = produce_one(fix, "t", 1000000)).status == STI_OK) {
        taken++;
    }
    assert_int_equal(row.status, STI_E_DISK_FULL);
    assert_in_range(taken, 14, 15); /* 5,000,000 bytes are kept */
    /* An eighth of the way each time: few looks while there is room, one an append at the end. */
    assert_in_range(fs_get(fix->fs, &fix->fs->spaces), 5, 20);
    assert_int_equal(fs_check_dense(fix->fs, "t", 0), taken);
    FAKE_SET(fix->fs, space_free, 100000000);
}

/* What storage itself refuses is named with what is needed and what is there. */
static void test_storage_says_full(void **state)
{
    struct fixture *fix = *state;
    struct produce_call p;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    free_bytes(fix, 200000, BRK_DISK_NORMAL);
    FAKE_SET(fix->fs, append_status, STI_E_DISK_FULL);
    FAKE_SET(fix->fs, bytes_needed, 4711);
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "t", 0, 1, 100, 1000);
    unsigned long long len =
        (unsigned long long)sti_slices_len(p.rows[0].slices, p.rows[0].slice_count);
    produce_send(fix, &p);
    produce_wait(&p);
    char sentence[248];
    (void)snprintf(sentence, sizeof sentence,
                   "t-0: %llu bytes are needed, 200000 are free: the fake refuses", len);
    assert_int_equal(p.rows[0].status, STI_E_DISK_FULL);
    assert_string_equal(p.rows[0].err.msg, sentence);
    assert_int_equal(p.rows[0].bytes_needed, 4711);
    produce_fini(&p);
    /* Where too little is left for one of that size, it is said when one of that size will pass. */
    free_bytes(fix, 90000, BRK_DISK_THROTTLED);
    FAKE_SET(fix->fs, bytes_needed, 0);
    struct sti_produce_row large = produce_one(fix, "t", 50000);
    assert_int_equal(large.status, STI_E_DISK_FULL);
    (void)snprintf(sentence, sizeof sentence,
                   "t-0: %llu bytes are needed, 90000 are free on storage storage_mmap; writes "
                   "resume at %llu free",
                   (unsigned long long)large.bytes_needed,
                   (unsigned long long)large.bytes_needed + 50000);
    assert_string_equal(large.err.msg, sentence);
    /* And it is a reason to look. */
    FAKE_SET(fix->fs, space_free, 10);
    assert_int_equal(produce_one(fix, "t", 100).status, STI_E_DISK_FULL);
    level_wait(fix, BRK_DISK_READ_ONLY); /* the look may come after the answer */
    FAKE_SET(fix->fs, append_status, STI_OK);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 1);
}

/* Each instance has its own ladder. */
static void test_other_instances_go_on(void **state)
{
    struct fixture *fix = *state;
    struct fake_storage *other = fs_new();
    test_host_provide(fix->th, "other", &other->vtable.iface, other);
    fix_start(fix);
    assert_int_equal(fix_create(fix, "full", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "free", 1, "storage", "other"), STI_OK);
    free_bytes(fix, 10, BRK_DISK_READ_ONLY);
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, "full", 0, 1, 10, 1000);
    produce_add(&p, "free", 0, 1, 10, 1000);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_E_DISK_FULL);
    assert_int_equal(p.rows[1].status, STI_OK);
    produce_fini(&p);
    assert_int_equal(fix_create(fix, "more", 1, "storage", "other"), STI_OK);
    assert_int_equal(fix_create(fix, "none", 1, NULL, NULL), STI_E_DISK_FULL);
    assert_int_equal(test_host_metric(fix->th, "streamit_disk_level", "storage=\"other\""), 0);
    fix_stop(fix);
    assert_int_equal(other->violations, 0);
    fs_free(other);
}

/* ---- slowing */

/* The time to wait is over. */
static void wait_over(struct fixture *fix)
{
    struct broker *broker = fix->self;
    atomic_store(&broker->disks[0].next_us, 0);
}

static void test_slows(void **state)
{
    struct fixture *fix = *state;
    fix->conf.disk.slowdown_ms = 60000;
    fix_start(fix);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
    free_bytes(fix, 99000, BRK_DISK_THROTTLED);

    /* One passes, whatever its size; the next one is told to wait for it. */
    assert_int_equal(produce_one(fix, "t", 200000).status, STI_OK);
    unsigned appends = fs_get(fix->fs, &fix->fs->appends);
    struct sti_produce_row row = produce_one(fix, "t", 1000);
    assert_int_equal(row.status, STI_E_THROTTLED);
    assert_true((row.err.traits & STI_TRAIT_RETRIABLE) != 0);
    assert_int_equal(row.retry_after_ms, 5000); /* at the most */
    assert_int_equal(row.bytes_needed, 0);
    assert_non_null(strstr(row.err.msg, "t-0: the disk of storage storage_mmap fills ("));
    assert_non_null(strstr(row.err.msg, " bytes free): appends are slowed"));
    assert_int_equal(fs_get(fix->fs, &fix->fs->appends), appends);
    assert_true(test_host_metric(fix->th, "streamit_disk_throttled_total",
                                 "storage=\"storage_mmap\"") >= 1);

    /* When that time is over it passes, and the less is left the longer the next one waits. */
    free_bytes(fix, 99000, BRK_DISK_THROTTLED);
    wait_over(fix);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
    uint32_t much = produce_one(fix, "t", 1000).retry_after_ms;
    free_bytes(fix, 70000, BRK_DISK_THROTTLED);
    wait_over(fix);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
    uint32_t little = produce_one(fix, "t", 1000).retry_after_ms;
    /* A batch of 1,080 bytes costs 1,080 / 49,000 of 25 s, then 1,080 / 20,000 of it. */
    assert_in_range(much, 20, 560);
    assert_true(little <= 1370);
    assert_true(little >= 20);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
    assert_int_equal(produce_one(fix, "t", 1000).status, STI_OK);
}

/* ---- retention */

static int setup_retention(void **state)
{
    struct fixture *fix = ladder_new();
    FAKE_SET(fix->fs, segment_batches, 2);
    fix->conf.retention_check_interval_ms = 86400000;
    fix_start(fix);
    *state = fix;
    return 0;
}

static void produce_at(struct fixture *fix, const char *topic, int64_t timestamp_ms)
{
    struct produce_call p;
    produce_init(&p, STI_ACKS_LEADER);
    produce_add(&p, topic, 0, 1, 10, timestamp_ms);
    produce_send(fix, &p);
    produce_wait(&p);
    assert_int_equal(p.rows[0].status, STI_OK);
    produce_fini(&p);
}

static void test_old_segments_go_first(void **state)
{
    struct fixture *fix = *state;
    int64_t now = sti_now_ms(&fix->host);
    assert_int_equal(fix_create(fix, "t", 1, "retention.ms", "3600000"), STI_OK);
    assert_int_equal(fix_create(fix, "one", 1, "retention.ms", "3600000"), STI_OK);
    assert_int_equal(fix_create(fix, "new", 1, "retention.ms", "3600000"), STI_OK);
    for (int i = 0; i < 4; i++) {
        produce_at(fix, "t", now - 7200000);
    }
    produce_at(fix, "t", now);
    produce_at(fix, "one", now - 7200000);
    produce_at(fix, "new", now);
    fix_settle(fix, "t", 0);
    assert_int_equal(test_host_metric(fix->th, "streamit_retention_segments_total", NULL), 0);
    free_bytes(fix, 99999, BRK_DISK_THROTTLED);
    /* Two old segments, and the only one of a topic whose every record is too old. */
    fix_wait_metric(fix, "streamit_retention_segments_total", 3);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 4);
    assert_int_equal(fix_partition(fix, "one", 0).log_start, 1);
    assert_int_equal(fix_partition(fix, "one", 0).log_end, 1);
    assert_int_equal(fix_partition(fix, "new", 0).log_start, 0);
}

static void test_changed_settings_act_at_once(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, "retention.ms", "-1"), STI_OK);
    for (int i = 0; i < 5; i++) {
        produce_at(fix, "t", 1000);
    }
    free_bytes(fix, 10, BRK_DISK_READ_ONLY);
    assert_int_equal(fix_alter(fix, "t", -1, "retention.ms", "1"), STI_OK);
    fix_wait_metric(fix, "streamit_retention_segments_total", 3);
    assert_int_equal(fix_partition(fix, "t", 0).log_start, 5);
}

/* ---- other kinds of storage */

static void test_memory_has_no_ladder(void **state)
{
    struct fixture *fix = *state;
    fix->fs->vtable.iface.caps = STI_STORAGE_BLOBS;
    FAKE_SET(fix->fs, space_free, 1);
    fix_start(fix);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    free_bytes(fix, 0, BRK_DISK_NORMAL);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 1);
    expect_health("", "");
}

static void test_storage_of_before(void **state)
{
    struct fixture *fix = *state;
    fix->fs->vtable.iface.struct_size = offsetof(struct sti_storage, space);
    fix->fs->vtable.iface.minor = 1;
    FAKE_SET(fix->fs, space_free, 0);
    fix_start(fix);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    assert_int_equal(fs_get(fix->fs, &fix->fs->spaces), 0);
}

static void test_room_unknown(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    free_bytes(fix, 10, BRK_DISK_READ_ONLY);
    FAKE_SET(fix->fs, space_status, STI_E_IO);
    unsigned seen = fs_get(fix->fs, &fix->fs->spaces);
    fs_wait(fix->fs, &fix->fs->spaces, seen + 4);
    assert_int_equal(produce_one(fix, "t", 10).status, STI_E_DISK_FULL); /* as last known */
    assert_int_equal(test_host_logged(fix->th, "disk_not_measured"), 1);
    FAKE_SET(fix->fs, space_status, STI_OK);
    free_bytes(fix, TOTAL, BRK_DISK_NORMAL);
    assert_int_equal(test_host_logged(fix->th, "disk_measured"), 1);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
}

/* A start on a full disk knows it before the first row comes. */
static void test_start_when_full(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_produce(fix, "t", 0, 1), 0);
    fix_stop(fix);
    FAKE_SET(fix->fs, space_free, 0);
    fix->conf.disk.check_interval_ms = 60000;
    fix_start(fix);
    assert_int_equal(produce_one(fix, "t", 10).status, STI_E_DISK_FULL);
    assert_int_equal(fix_delete(fix, "t"), STI_OK);
    assert_int_equal(fix_create(fix, "t", 1, NULL, NULL), STI_E_DISK_FULL);
}

/* What is deleted is not synced first, if storage can do without; what stays is closed in order. */
static void test_deletion_keeps_nothing(void **state)
{
    struct fixture *fix = *state;
    assert_int_equal(fix_create(fix, "gone", 2, NULL, NULL), STI_OK);
    assert_int_equal(fix_create(fix, "stays", 1, NULL, NULL), STI_OK);
    assert_int_equal(fix_delete(fix, "gone"), STI_OK);
    assert_int_equal(fs_get(fix->fs, &fix->fs->discards), 2);
    fix_stop(fix);
    assert_int_equal(fs_get(fix->fs, &fix->fs->discards), 2);
    assert_int_equal(fs_get(fix->fs, &fix->fs->closes), 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, fix_teardown)
#define TEST_UNSTARTED(name)                                                                       \
    cmocka_unit_test_setup_teardown(test_##name, setup_unstarted, fix_teardown)
#define TEST_RETENTION(name)                                                                       \
    cmocka_unit_test_setup_teardown(test_##name, setup_retention, fix_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits_scale),
        cmocka_unit_test(test_steps_do_not_flap),
        TEST(refuses_and_resumes),
        TEST(tells_of_crossings),
        TEST(queued_rows),
        TEST_UNSTARTED(looks_by_bytes),
        TEST(storage_says_full),
        TEST_UNSTARTED(other_instances_go_on),
        TEST_UNSTARTED(slows),
        TEST_RETENTION(old_segments_go_first),
        TEST_RETENTION(changed_settings_act_at_once),
        TEST_UNSTARTED(memory_has_no_ladder),
        TEST_UNSTARTED(storage_of_before),
        TEST(room_unknown),
        TEST(start_when_full),
        TEST(deletion_keeps_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
