/* test_crash.c -- a process is killed at every fault point, and what it leaves is opened.
 *
 * A child plays a life of a partition (fault_script.h) and dies by SIGKILL at the Nth meeting of a
 * point; the model stands in memory that it shares with its parent. Often more children follow that
 * die while they recover. Then the parent opens what is there, and compares. The set of points is
 * the one that is linked into this program: a new point is tested by existing, and one that no
 * script reaches fails the test.
 */
#include "fault_script.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "streamit/fault.h"
#include "streamit/record_batch.h"

#include "storage_mmap.h"

enum { POINTS_MAX = 256, EXIT_FAILED = 99 };

static bool in_child;
static struct model *model; /* shared with the children */
static struct fixture fx;
static uint64_t seed, first_seed;
static char *folder; /* of the run under way */

/* When this process dies, and what else its points do. */
static struct {
    const char *point; /* NULL: any */
    unsigned nth;
    bool short_writes; /* writes are cut in half, so that the rest is missing */
    const char *fails; /* a point that fails with ENOSPC at its nth meeting */
    unsigned fails_nth;
    _Atomic unsigned met, failing_met;
} death;

static struct {
    const char *names[POINTS_MAX];
    unsigned deaths[POINTS_MAX];
    unsigned count;
} points;

static int teardown(void **state)
{
    (void)state;
    if (in_child) {
        _exit(EXIT_FAILED); /* the rest of the tests is the parent's */
    }
    sti_fault_set_hook(NULL);
    if (folder != NULL) { /* say what went wrong where, and leave nothing behind */
        print_message("death %u at %s (%s), seed %llu\n", death.nth,
                      death.point == NULL ? "any point" : death.point, model->died_at,
                      (unsigned long long)first_seed);
        test_dir_remove(folder);
        folder = NULL;
    }
    return 0;
}

static char *new_folder(void)
{
    folder = test_dir_new("crash");
    return folder;
}

static void drop_folder(void)
{
    test_dir_remove(folder);
    folder = NULL;
}

static uint32_t random_below(uint32_t limit)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % limit;
}

static int hook(const char *point)
{
    if ((death.point == NULL || strcmp(point, death.point) == 0) &&
        atomic_fetch_add(&death.met, 1) + 1 == death.nth) {
        (void)snprintf(model->died_at, sizeof model->died_at, "%s", point);
        (void)kill(getpid(), SIGKILL);
        for (;;) {
            (void)pause();
        }
    }
    if (death.short_writes && strcmp(point, "segment.append.short") == 0) {
        return EINTR;
    }
    if (death.fails != NULL && strcmp(point, death.fails) == 0 &&
        atomic_fetch_add(&death.failing_met, 1) + 1 == death.fails_nth) {
        return ENOSPC;
    }
    return 0;
}

static void begin(char *dir, int32_t flush_policy)
{
    fx_init_at(&fx, dir, 2);
    fx.settings.flush_policy = flush_policy;
    fx.settings.segment_bytes = 4096;
    fx_option(&fx, "scrub_delay_ms", 1); /* always at work */
    fx_option(&fx, "scrub_interval_ms", 1);
    fx_option(&fx, "scrub_bytes_per_s", 1 << 30);
    fx_start(&fx);
}

static void note_death(void)
{
    for (unsigned i = 0; i < points.count; i++) {
        points.deaths[i] += strcmp(points.names[i], model->died_at) == 0;
    }
}

/* Run `life` in a child under `death`. @return did it die as asked? */
static bool child_dies(char *dir, int32_t flush_policy, void (*life)(struct script *s))
{
    int status;
    model->died_at[0] = '\0';
    atomic_store(&death.met, 0);
    atomic_store(&death.failing_met, 0);
    (void)fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        in_child = true;
        struct script s = {.fx = &fx,
                           .model = model,
                           .faults = death.fails != NULL,
                           .scrub = death.point != NULL && strncmp(death.point, "scrub", 5) == 0,
                           .disk_full = death.fails != NULL};
        sti_fault_set_hook(hook);
        begin(dir, flush_policy);
        life(&s);
        fx_stop(&fx);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        assert_true(model->died_at[0] != '\0');
        note_death();
        return true;
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
}

/* The judgement over what the dead have left. */
static void check(char *dir, int32_t flush_policy, bool disk_full)
{
    struct script s = {.fx = &fx, .model = model, .disk_full = disk_full};
    begin(dir, flush_policy);
    script_check(&s);
    fx_leave(&fx);
}

/* Arm: the next child dies at the nth meeting of `point` (NULL: of any point). */
static void arm(const char *point, unsigned nth)
{
    death.point = point;
    death.nth = nth;
    death.fails = NULL;
}

/* Let one child die at the nth meeting of `point`, then up to three more while they open what it
 * has left. @return false: the point is not met so often */
static bool die_at(const char *point, unsigned nth, const char *fails, unsigned fails_nth)
{
    int32_t flush_policy = (int32_t)random_below(3);
    if (strcmp(point, "segment.append.sync_group") == 0) {
        flush_policy = STI_FLUSH_COMMIT; /* nobody else comes by there */
    }
    char *dir = new_folder();
    script_reset(model);
    arm(point, nth);
    death.short_writes = random_below(2) == 0 || strcmp(point, "segment.append.short") == 0;
    death.fails = fails;
    death.fails_nth = fails_nth;
    bool died = child_dies(dir, flush_policy, script_play);
    for (uint32_t more = random_below(4); more > 0; more--) {
        arm(NULL, 1 + random_below(60));
        (void)child_dies(dir, flush_policy, script_reopen);
    }
    check(dir, flush_policy, fails != NULL);
    drop_folder();
    return died;
}

static void at_every_point(void **state)
{
    (void)state;
    const char *text = getenv("STREAMIT_TEST_FULL");
    bool full = text != NULL && strcmp(text, "1") == 0;
    for (unsigned i = 0; i < points.count; i++) {
        for (unsigned nth = 1; die_at(points.names[i], nth, NULL, 0);
             nth += full ? 1 : 1 + nth / 4) {
        }
    }
}

/* Points that a sound disk does not lead to: what was half done is taken back. */
static void while_something_is_taken_back(void **state)
{
    (void)state;
    static const struct {
        const char *point, *fails;
        unsigned fails_max;
    } cases[] = {
        {"segment.append.before_undo", "segment.append.after_write", 12},
        {"segment.append.undo_segment", "segment.append.after_write", 12},
        {"segment.append.undo_write", "segment.append.after_write", 12},
        {"truncate.before_take_back", "truncate.after_note", 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (unsigned fails = 1; fails < cases[i].fails_max; fails++) {
            for (unsigned nth = 1; nth < 5 && die_at(cases[i].point, nth, cases[i].fails, fails);
                 nth++) {
            }
        }
    }
}

/* ---- recovery alone ------------------------------------------------------------------------ */

static void open_it(struct script *s)
{
    struct sti_storage_state state;
    if (fx_open(s->fx, "t", 0, &s->part, &state) == STI_OK) {
        (void)s->fx->api->close(s->part, NULL);
        s->part = NULL;
    }
}

static void fill(struct script *s)
{
    struct sti_storage_state state;
    assert_int_equal(fx_open(s->fx, "t", STI_STORAGE_CREATE, &s->part, &state), STI_OK);
    for (int64_t i = 0; i < 60; i++) {
        assert_int_equal(fx_append(s->fx, s->part, i * 2, 2, 300, 1000 + i, 1), STI_OK);
    }
}

static void write_at(const char *dir, const char *file, int flags, off_t pos, const void *data,
                     size_t len)
{
    char path[400];
    (void)snprintf(path, sizeof path, "%s/storage_mmap/t-0/%s", dir, file);
    int fd = open(path, O_WRONLY | flags, 0640);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, pos), len);
    close(fd);
}

/* Another boot has written the log, and lost a batch in the middle of it. */
static void make_hole(const char *dir)
{
    char text[200];
    uint8_t zeros[361] = {0};
    int n = snprintf(text, sizeof text, "1\n0 00000000-0000-0000-0000-000000000000\ndirty\n");
    n += snprintf(text + n, sizeof text - (size_t)n, "%08x\n", sti_crc32c(0, text, (size_t)n));
    write_at(dir, "recovery-point", O_TRUNC, 0, text, (size_t)n);
    write_at(dir, "00000000000000000022.log", 0, 361L * 3, zeros, sizeof zeros);
}

/* What one death has left is recovered by another process, which dies at every point of that, too;
 * and by a third, which dies anywhere. */
static void in_recovery_at_every_point(void **state)
{
    (void)state;
    static const struct {
        const char *point;
        unsigned nth;
        bool short_writes;
    } left[] = {
        {"segment.append.write", 12, true},    /* a torn batch */
        {"segment.append.between_runs", 2, 0}, /* a segment that nobody knows of */
        {"small.before_rename", 2, false},     /* something.tmp */
        {"trim.after_start", 1, false},        /* segments below the start */
        {"truncate.before_rename", 1, false},  /* a cut that is decided */
        {"truncate.between_unlinks", 1, false}, {"truncate.after_rename", 1, false},
        {"truncate.after_rename", 3, false}, /* ... first of all after a clean end */
        {"remove.after_rename", 1, false},
    };
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        for (unsigned p = 0; p < points.count; p++) {
            bool died = true;
            for (unsigned nth = 1; nth < 8 && died; nth += 2) {
                int32_t flush_policy = (int32_t)random_below(3);
                char *dir = new_folder();
                script_reset(model);
                arm(left[i].point, left[i].nth);
                death.short_writes = left[i].short_writes;
                assert_true(child_dies(dir, flush_policy, script_play));
                arm(points.names[p], nth);
                died = child_dies(dir, flush_policy, script_reopen);
                arm(NULL, 1 + random_below(40));
                (void)child_dies(dir, flush_policy, script_reopen);
                check(dir, flush_policy, false);
                drop_folder();
            }
        }
    }
}

/* The cut that a hole asks for, over several segments, may itself be interrupted as often as it
 * likes: it never turns into damage. */
static void a_cut_after_a_reboot(void **state)
{
    (void)state;
    for (unsigned nth = 1;; nth++) {
        char *dir = new_folder();
        script_reset(model);
        begin(dir, STI_FLUSH_ONROLL);
        struct script s = {.fx = &fx, .model = model};
        fill(&s);
        (void)fx.api->close(s.part, NULL);
        fx_leave(&fx);
        make_hole(dir);
        arm(NULL, nth);
        bool died = child_dies(dir, STI_FLUSH_ONROLL, open_it);
        arm(NULL, 1 + random_below(30));
        (void)child_dies(dir, STI_FLUSH_ONROLL, open_it);
        struct sti_storage_state found;
        begin(dir, STI_FLUSH_ONROLL);
        assert_int_equal(fx_open(&fx, "t", 0, &s.part, &found), STI_OK);
        assert_int_equal(found.flags, 0);
        assert_int_equal(found.written_end, 28);
        assert_int_equal(fx_append(&fx, s.part, 28, 2, 300, 1, 1), STI_OK);
        assert_int_equal(fx.api->close(s.part, NULL), STI_OK);
        fx_leave(&fx);
        drop_folder();
        if (!died) {
            break;
        }
    }
}

static void every_point_was_met(void **state)
{
    (void)state;
    for (unsigned i = 0; i < points.count; i++) {
        if (points.deaths[i] == 0) {
            fail_msg("nobody died at %s", points.names[i]);
        }
    }
    assert_true(points.count > 50);
}

#define CASE(f) cmocka_unit_test_teardown(f, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(at_every_point),
        CASE(while_something_is_taken_back),
        CASE(in_recovery_at_every_point),
        CASE(a_cut_after_a_reboot),
        CASE(every_point_was_met),
    };
    const char *given = getenv("STREAMIT_SEED");
    seed = given != NULL ? (uint64_t)strtoull(given, NULL, 10) : (uint64_t)getpid();
    first_seed = seed;
    for (const char *p = sti_fault_next(NULL); p != NULL && points.count < POINTS_MAX;
         p = sti_fault_next(p)) {
        points.names[points.count++] = p;
    }
    model = mmap(NULL, sizeof *model, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (model == MAP_FAILED) {
        return 1;
    }
    /* A death of the process needs no disk, and is many times faster without. */
    if (access("/dev/shm", W_OK) == 0) {
        (void)setenv("TMPDIR", "/dev/shm", 0);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
