/* test_faults.c -- the Nth fault point fails, for N = 1, 2, ... until the script meets no more.
 *
 * Each run is a whole life of a partition (fault_script.h) in which one point fails with EIO, or
 * with ENOSPC, once or from then on. What must hold is the contract: the failure is typed, a
 * poisoned partition stays so until it is reopened, a full disk leaves the log as it was, and
 * nothing that was acknowledged is missing afterwards. No descriptor stays open; the sanitizers
 * watch the memory.
 */
#include "fault_script.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "streamit/fault.h"

static struct fixture fx;
static struct {
    unsigned nth;
    bool ever_after;
    int error;
    const char *point; /* the one that failed first */
    _Atomic unsigned met;
} armed;

static int hook(const char *point)
{
    unsigned met = atomic_fetch_add(&armed.met, 1) + 1;
    if (met == armed.nth) {
        armed.point = point;
    }
    return met == armed.nth || (armed.ever_after && met > armed.nth) ? armed.error : 0;
}

/* Say what went wrong where, and leave nothing behind. */
static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    if (fx.dir != NULL) {
        print_message("fault %u, %s, error %d%s\n", armed.nth, armed.point, armed.error,
                      armed.ever_after ? " from then on" : "");
        test_dir_remove(fx.dir);
        fx.dir = NULL;
    }
    return 0;
}

static unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;
    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

/* @return did the fault strike? */
static bool run(unsigned nth, bool ever_after, int error, int32_t flush_policy)
{
    struct model model;
    struct script s = {.fx = &fx,
                       .model = &model,
                       .faults = true,
                       .disk_full = error == ENOSPC,
                       .lasting = ever_after};
    fx_init(&fx, 2);
    fx.settings.flush_policy = flush_policy;
    fx.settings.segment_bytes = 4096;
    fx_start(&fx);
    script_reset(&model);
    armed.nth = nth;
    armed.ever_after = ever_after;
    armed.error = error;
    armed.point = "(none)";
    atomic_store(&armed.met, 0);
    sti_fault_set_hook(hook);
    script_play(&s);
    sti_fault_set_hook(NULL);
    bool struck = atomic_load(&armed.met) >= nth;
    script_check(&s);
    fx_fini(&fx);
    fx.dir = NULL;
    return struck;
}

static void every_fault_once(int error, bool ever_after, unsigned step)
{
    unsigned fds = open_fds(), runs = 0;
    for (unsigned nth = 1;; nth += step) {
        runs++;
        if (!run(nth, ever_after, error, (int32_t)(nth % 3))) {
            break;
        }
    }
    assert_true(runs * step > 100);
    assert_int_equal(open_fds(), fds);
}

static void an_error_of_the_disk(void **state)
{
    (void)state;
    every_fault_once(EIO, false, 1);
}

static void no_space_once(void **state)
{
    (void)state;
    every_fault_once(ENOSPC, false, 1);
}

static void no_space_from_then_on(void **state)
{
    (void)state;
    every_fault_once(ENOSPC, true, 3);
}

static void a_disk_that_is_gone(void **state)
{
    (void)state;
    every_fault_once(EIO, true, 3);
}

#define CASE(f) cmocka_unit_test_teardown(f, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(an_error_of_the_disk),
        CASE(no_space_once),
        CASE(no_space_from_then_on),
        CASE(a_disk_that_is_gone),
    };
    /* What is checked here needs no disk, and is many times faster without. */
    if (access("/dev/shm", W_OK) == 0) {
        (void)setenv("TMPDIR", "/dev/shm", 0);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
