/* test_engine.c -- proposals: order, groups, verdicts, full disks, failed syncs, close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"
#include "faults.h"
#include "file.h"
#include "log.h"
#include "model.h"
#include "test_host.h"

/* A proposal that can be waited for. */
struct call {
    struct sti_proposal proposal; /* first */
    uint8_t bytes[64];
    sem_t answered;
    int status, runs;
    struct sti_err err;
};

static struct fixture {
    char *dir;
    struct test_host *th;
    struct mdl_engine *engine;
    struct model model;
    struct mdl_conf conf;
} fx;

static int setup(void **state)
{
    (void)state;
    memset(&fx, 0, sizeof fx);
    fault_reset();
    fx.dir = test_dir_new("mdl-engine");
    fx.conf = (struct mdl_conf){.snapshot_log_bytes = 1 << 20,
                                .snapshot_log_commands = 100000,
                                .log_reserve_bytes = 64 * 1024,
                                .proposals_max = 1000};
    return 0;
}

static int begin_rc(struct sti_err *err)
{
    memset(&fx.model, 0, sizeof fx.model);
    fx.th = test_host_new(fx.dir, 4);
    assert_int_equal(
        mdl_engine_new(&fx.engine, test_host_for(fx.th, "metadata_local"), &fx.conf, err), STI_OK);
    return mdl_engine_open(fx.engine, &model_fsm, &fx.model, err);
}

/* Is nothing of the store there yet? */
static bool is_fresh(void)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/metadata_local", fx.dir);
    return access(path, F_OK) != 0;
}

static void await_log(const char *event)
{
    while (test_host_logged(fx.th, event) == 0) {
        (void)usleep(500);
    }
}

/* The first log is made behind the open: where there is none, wait for it. */
static void begin(void)
{
    struct sti_err err;
    bool fresh = is_fresh();
    if (begin_rc(&err) != STI_OK) {
        fail_msg("%s", err.msg);
    }
    if (fresh) {
        await_log("metadata_log_begun");
    }
}

static void end(void)
{
    if (fx.engine != NULL) {
        mdl_engine_close(fx.engine);
        mdl_engine_free(fx.engine);
        test_host_free(fx.th);
        fx.engine = NULL;
    }
}

static int teardown(void **state)
{
    (void)state;
    fault_reset();
    end();
    test_dir_remove(fx.dir);
    return 0;
}

static void on_done(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    struct call *call = (struct call *)(void *)proposal;
    call->status = status;
    call->runs++;
    if (err != NULL) {
        call->err = *err;
    }
    sem_post(&call->answered);
}

static int propose_with(struct call *call, uint32_t value, uint32_t flags)
{
    memset(call, 0, sizeof *call);
    sem_init(&call->answered, 0, 0);
    mdl_put32(call->bytes, value);
    call->proposal = (struct sti_proposal){.struct_size = sizeof(struct sti_proposal),
                                           .flags = flags,
                                           .command = call->bytes,
                                           .len = sizeof call->bytes,
                                           .done = on_done};
    return mdl_engine_propose(fx.engine, &call->proposal, &call->err);
}

static int propose(struct call *call, uint32_t value)
{
    return propose_with(call, value, 0);
}

static int await(struct call *call)
{
    while (sem_wait(&call->answered) != 0) {
    }
    assert_int_equal(call->runs, 1);
    sem_destroy(&call->answered);
    return call->status;
}

static int commit(uint32_t value)
{
    struct call call;
    int rc = propose(&call, value);
    return rc == STI_OK ? await(&call) : rc;
}

/* Commit a command that frees space. */
static int commit_freeing(uint32_t value)
{
    struct call call;
    int rc = propose_with(&call, value, STI_PROPOSAL_FREES_SPACE);
    return rc == STI_OK ? await(&call) : rc;
}

/* Bytes that are allocated for the log of that base, written or reserved. */
static uint64_t allocated(unsigned base)
{
    char path[512];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/metadata_local/log-%020u", fx.dir, base);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512u;
}

static void test_commit_and_restart(void **state)
{
    (void)state;
    uint64_t term;
    int32_t leader;
    begin();
    assert_int_equal(fx.model.leader_calls, 1);
    assert_true(mdl_engine_is_leader(fx.engine, &term, &leader));
    assert_int_equal(term, 1);
    assert_int_equal(leader, 1);
    for (uint32_t i = 1; i <= 30; i++) {
        struct call call;
        assert_int_equal(propose(&call, i), STI_OK);
        assert_int_equal(await(&call), STI_OK);
        assert_int_equal(call.proposal.index, i);
        assert_int_equal(fx.model.count, i);
    }
    end();
    begin();
    assert_int_equal(fx.model.count, 30);
    assert_int_equal(fx.model.values[29], 30);
    assert_int_equal(commit(31), STI_OK);
}

static void test_verdict_is_passed_on(void **state)
{
    (void)state;
    struct call call;
    begin();
    fx.model.verdict = STI_E_ALREADY_EXISTS;
    assert_int_equal(propose(&call, 5), STI_OK);
    assert_int_equal(await(&call), STI_E_ALREADY_EXISTS);
    assert_string_equal(call.err.msg, "the verdict");
    assert_int_equal(call.proposal.index, 1);
    end();
    begin();
    assert_int_equal(fx.model.count, 1); /* a verdict is no failure of the log */
}

static void test_refused_before_the_log(void **state)
{
    (void)state;
    struct call call;
    struct sti_err err;
    begin();
    assert_int_equal(mdl_engine_open(fx.engine, &model_fsm, &fx.model, &err), STI_E_PRECONDITION);
    call.proposal = (struct sti_proposal){.command = "x", .len = STI_METADATA_COMMAND_MAX + 1};
    assert_int_equal(mdl_engine_propose(fx.engine, &call.proposal, &err), STI_E_MESSAGE_TOO_LARGE);
    call.proposal.len = 0;
    assert_int_equal(mdl_engine_propose(fx.engine, &call.proposal, &err), STI_E_INVALID_ARGUMENT);
    mdl_engine_close(fx.engine);
    assert_int_equal(propose(&call, 1), STI_E_UNAVAILABLE);
    assert_false(mdl_engine_is_leader(fx.engine, NULL, NULL));
    mdl_engine_close(fx.engine);
}

static void test_largest_command(void **state)
{
    (void)state;
    struct call call;
    begin();
    memset(&call, 0, sizeof call);
    sem_init(&call.answered, 0, 0);
    uint8_t *bytes = calloc(1, STI_METADATA_COMMAND_MAX);
    call.proposal =
        (struct sti_proposal){.command = bytes, .len = STI_METADATA_COMMAND_MAX, .done = on_done};
    assert_int_equal(mdl_engine_propose(fx.engine, &call.proposal, NULL), STI_OK);
    assert_int_equal(await(&call), STI_OK);
    free(bytes);
    end();
    begin();
    assert_int_equal(fx.model.count, 1);
}

/* Holds the first sync until the test lets it go. */
struct gate {
    sem_t reached, open;
    bool used;
};

static void gate_wait(void *arg)
{
    struct gate *gate = arg;
    if (!gate->used) {
        gate->used = true;
        sem_post(&gate->reached);
        while (sem_wait(&gate->open) != 0) {
        }
    }
}

static void gate_close(struct gate *gate)
{
    memset(gate, 0, sizeof *gate);
    sem_init(&gate->reached, 0, 0);
    sem_init(&gate->open, 0, 0);
    fault_on_sync(gate_wait, gate);
}

static void gate_reached(struct gate *gate)
{
    while (sem_wait(&gate->reached) != 0) {
    }
}

static void test_waiting_proposals_share_a_sync(void **state)
{
    (void)state;
    enum { WAITING = 100 };
    static struct call first, waiting[WAITING];
    struct gate gate;
    begin();
    gate_close(&gate);
    assert_int_equal(propose(&first, 1), STI_OK);
    gate_reached(&gate);
    unsigned syncs = fault_count(FAULT_FDATASYNC);
    for (uint32_t i = 0; i < WAITING; i++) {
        assert_int_equal(propose(&waiting[i], i + 2), STI_OK);
    }
    assert_int_equal(fx.model.count, 0); /* nothing is applied before it is durable */
    sem_post(&gate.open);
    assert_int_equal(await(&first), STI_OK);
    for (uint32_t i = 0; i < WAITING; i++) {
        assert_int_equal(await(&waiting[i]), STI_OK);
        assert_int_equal(waiting[i].proposal.index, i + 2);
    }
    assert_int_equal(fault_count(FAULT_FDATASYNC), syncs + 1);
    for (uint32_t i = 0; i <= WAITING; i++) {
        assert_int_equal(fx.model.values[i], i + 1);
    }
}

static void test_too_many_wait(void **state)
{
    (void)state;
    static struct call calls[6];
    struct gate gate;
    fx.conf.proposals_max = 3;
    begin();
    gate_close(&gate);
    assert_int_equal(propose(&calls[0], 1), STI_OK);
    gate_reached(&gate);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_int_equal(propose(&calls[i], i + 1), STI_OK);
    }
    assert_int_equal(propose(&calls[4], 9), STI_E_THROTTLED);
    assert_non_null(strstr(calls[4].err.msg, "proposals_max = 3"));
    sem_post(&gate.open);
    for (uint32_t i = 0; i <= 3; i++) {
        assert_int_equal(await(&calls[i]), STI_OK);
    }
    assert_int_equal(commit(5), STI_OK);
    assert_int_equal(fx.model.count, 5);
}

static void test_close_finishes_what_waits(void **state)
{
    (void)state;
    static struct call calls[300];
    begin();
    for (uint32_t i = 0; i < 300; i++) {
        assert_int_equal(propose(&calls[i], i + 1), STI_OK);
    }
    mdl_engine_close(fx.engine);
    for (uint32_t i = 0; i < 300; i++) {
        assert_int_equal(calls[i].runs, 1);
        assert_int_equal(calls[i].status, STI_OK);
    }
    assert_int_equal(fx.model.count, 300);
}

struct proposer {
    pthread_t thread;
    unsigned failed;
};

static void *propose_many(void *arg)
{
    struct proposer *p = arg;
    for (uint32_t i = 0; i < 100; i++) {
        p->failed += commit(i) == STI_OK ? 0u : 1u;
    }
    return NULL;
}

static void test_concurrent_proposals(void **state)
{
    (void)state;
    struct proposer proposers[4];
    fx.conf.snapshot_log_bytes = 20000;
    begin();
    for (int i = 0; i < 4; i++) {
        proposers[i].failed = 0;
        assert_int_equal(pthread_create(&proposers[i].thread, NULL, propose_many, &proposers[i]),
                         0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(proposers[i].thread, NULL);
        assert_int_equal(proposers[i].failed, 0);
    }
    static uint32_t values[400];
    assert_int_equal(fx.model.count, 400);
    assert_false(fx.model.gap);
    memcpy(values, fx.model.values, sizeof values);
    end();
    begin();
    assert_int_equal(fx.model.count, 400);
    assert_memory_equal(fx.model.values, values, sizeof values);
}

static void test_snapshots_come_by_themselves(void **state)
{
    (void)state;
    fx.conf.snapshot_log_commands = 10;
    begin();
    for (uint32_t i = 1; i <= 35; i++) {
        assert_int_equal(commit(i), STI_OK);
    }
    end();
    assert_int_equal(fx.model.snapshots, 3);
    char *folder = mdl_join(fx.dir, "metadata_local");
    assert_int_equal(model_files(folder, "snapshot-"), 2);
    assert_int_equal(model_files(folder, "log-"), 2);
    free(folder);
    begin();
    assert_int_equal(fx.model.count, 35);
    assert_int_equal(fx.model.restores, 1);
}

static void test_failed_snapshot_costs_nothing(void **state)
{
    (void)state;
    fx.conf.snapshot_log_commands = 5;
    begin();
    fault_set(FAULT_RENAMEAT, 1, -1, ENOSPC);
    for (uint32_t i = 1; i <= 12; i++) {
        assert_int_equal(commit(i), STI_OK);
    }
    end();
    fault_reset();
    begin();
    assert_int_equal(fx.model.count, 12);
    assert_int_equal(fx.model.restores, 0);
}

static void test_failed_sync_breaks(void **state)
{
    (void)state;
    struct call call;
    begin();
    assert_int_equal(commit(1), STI_OK);
    fault_set(FAULT_FDATASYNC, 1, 1, EIO);
    assert_int_equal(propose(&call, 2), STI_OK);
    assert_int_equal(await(&call), STI_E_IO);
    assert_true((call.err.traits & STI_TRAIT_INDEFINITE) != 0);
    assert_int_equal(fx.model.count, 1); /* not applied */
    unsigned syncs = fault_count(FAULT_FDATASYNC);
    assert_int_equal(propose(&call, 3), STI_E_UNAVAILABLE);
    assert_non_null(strstr(call.err.msg, "position 1024: syncing it"));
    assert_int_equal(fault_count(FAULT_FDATASYNC), syncs); /* and never tried again */
    end();
    begin();
    assert_true(fx.model.count == 1 || fx.model.count == 2);
    assert_int_equal(commit(9), STI_OK);
}

static void test_failed_sync_refuses_those_that_wait(void **state)
{
    (void)state;
    static struct call calls[4];
    struct gate gate;
    begin();
    gate_close(&gate);
    fault_set(FAULT_FDATASYNC, 1, 1, EIO);
    assert_int_equal(propose(&calls[0], 1), STI_OK);
    gate_reached(&gate);
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(propose(&calls[i], i + 1), STI_OK);
    }
    sem_post(&gate.open);
    assert_int_equal(await(&calls[0]), STI_E_IO);
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(await(&calls[i]), STI_E_UNAVAILABLE);
    }
    assert_int_equal(fx.model.count, 0);
    assert_int_equal(test_host_logged(fx.th, "metadata_broken"), 1);
}

static void test_full_disk_changes_nothing(void **state)
{
    (void)state;
    struct call call;
    begin();
    assert_int_equal(commit(1), STI_OK);
    fault_partial(100);
    fault_set(FAULT_PWRITE, 1, 1, ENOSPC);
    assert_int_equal(propose(&call, 2), STI_OK);
    assert_int_equal(await(&call), STI_E_DISK_FULL);
    assert_int_equal(fx.model.count, 1);
    assert_int_equal(commit(3), STI_OK);
    end();
    begin();
    assert_int_equal(fx.model.count, 2);
    assert_int_equal(fx.model.values[1], 3);
}

/* Half of the reserve is for everybody; the other half is kept for commands that free space, and a
 * refused command takes nothing of it. */
static void test_reserved_space_is_used_when_full(void **state)
{
    (void)state;
    struct call call;
    uint32_t committed = 0, all = 64 * 1024 / MDL_SECTOR;
    begin();
    fault_set(FAULT_FALLOCATE, 1, -1, ENOSPC);
    while (committed < all && commit(committed + 1) == STI_OK) {
        committed++;
    }
    assert_int_equal(committed, all / 2);
    assert_int_equal(propose(&call, 7), STI_OK);
    assert_int_equal(await(&call), STI_E_DISK_FULL);
    assert_string_equal(call.err.msg,
                        "metadata_local: the disk is full; what is left of the reserve is kept for "
                        "commands that free space");
    for (; committed < all; committed++) {
        assert_int_equal(commit_freeing(committed + 1), STI_OK);
        assert_int_equal(commit(7), STI_E_DISK_FULL);
    }
    assert_int_equal(commit_freeing(7), STI_E_DISK_FULL);
    assert_int_equal(fx.model.count, all);
    fault_reset();
    assert_int_equal(commit(committed + 1), STI_OK);
    end();
    begin();
    assert_int_equal(fx.model.count, all + 1);
    for (uint32_t i = 0; i <= all; i++) {
        assert_int_equal(fx.model.values[i], i + 1);
    }
}

/* In one group: those that free space are committed, the others refused, each by itself. */
static void test_a_full_disk_parts_a_group(void **state)
{
    (void)state;
    struct call calls[40];
    begin();
    fault_set(FAULT_FALLOCATE, 1, -1, ENOSPC);
    for (uint32_t i = 0; i < 64 * 1024 / MDL_SECTOR / 2; i++) {
        assert_int_equal(commit(1), STI_OK);
    }
    size_t before = fx.model.count;
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(propose_with(&calls[i], i, i % 2 == 0 ? STI_PROPOSAL_FREES_SPACE : 0),
                         STI_OK);
    }
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(await(&calls[i]), i % 2 == 0 ? STI_OK : STI_E_DISK_FULL);
    }
    assert_int_equal(fx.model.count, before + 20);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(fx.model.values[before + i], 2 * i);
    }
}

/* A stop keeps the reserve, and a start finds it although nothing can be reserved any more; a log
 * that another one follows gives its own back. */
static void test_the_reserve_outlives_a_stop(void **state)
{
    (void)state;
    fx.conf.snapshot_log_commands = 30;
    begin();
    assert_int_equal(commit(1), STI_OK);
    end();
    assert_true(allocated(0) >= 64 * 1024);
    fault_set(FAULT_FALLOCATE, 1, -1, ENOSPC);
    begin();
    for (uint32_t i = 2; i <= 25; i++) {
        assert_int_equal(commit_freeing(i), STI_OK);
    }
    end();
    assert_true(allocated(0) >= 64 * 1024);
    fault_reset();
    begin();
    for (uint32_t i = 26; i <= 31; i++) {
        assert_int_equal(commit(i), STI_OK);
    }
    end();
    assert_int_equal(fx.model.count, 31);
    assert_true(allocated(0) < 40 * MDL_SECTOR);
    assert_true(allocated(30) >= 64 * 1024);
}

/* A real limit of the system instead of a fault: files may not grow past 128 KB. */
static void test_file_size_limit(void **state)
{
    (void)state;
    struct rlimit old, limit;
    uint32_t committed = 0;
    begin();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    limit = old;
    limit.rlim_cur = 128 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    while (committed < 1000 && commit(committed + 1) == STI_OK) {
        committed++;
    }
    int refused = commit(7);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, handler);
    assert_int_equal(refused, STI_E_DISK_FULL);
    assert_int_equal(committed, 128 * 1024 / MDL_SECTOR - 1); /* all but the header's sector */
    assert_int_equal(commit(committed + 1), STI_OK);
    end();
    begin();
    assert_int_equal(fx.model.count, committed + 1);
    for (uint32_t i = 0; i <= committed; i++) {
        assert_int_equal(fx.model.values[i], i + 1);
    }
}

static void test_group_that_does_not_fit_is_split(void **state)
{
    (void)state;
    static struct call calls[4];
    struct gate gate;
    begin();
    gate_close(&gate);
    assert_int_equal(propose(&calls[0], 1), STI_OK);
    gate_reached(&gate);
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(propose(&calls[i], i + 1), STI_OK);
    }
    fault_set(FAULT_PWRITE, 1, 2, ENOSPC); /* the group, and the first of them by itself */
    sem_post(&gate.open);
    assert_int_equal(await(&calls[0]), STI_OK);
    assert_int_equal(await(&calls[1]), STI_E_DISK_FULL);
    assert_int_equal(await(&calls[2]), STI_OK);
    assert_int_equal(await(&calls[3]), STI_OK);
    assert_int_equal(fx.model.count, 3);
    assert_int_equal(fx.model.values[1], 3);
}

static void test_damage_at_open(void **state)
{
    (void)state;
    struct sti_err err;
    size_t len;
    begin();
    for (uint32_t i = 1; i <= 3; i++) {
        assert_int_equal(commit(i), STI_OK);
    }
    end();
    char *folder = mdl_join(fx.dir, "metadata_local");
    uint8_t *bytes = model_load(folder, "log-00000000000000000000", &len);
    bytes[1024 + 30] ^= 1;
    model_store(folder, "log-00000000000000000000", bytes, len);
    free(bytes);
    free(folder);
    assert_int_equal(begin_rc(&err), STI_E_DATA_LOSS);
    assert_non_null(strstr(err.msg, "log-00000000000000000000: position 1024:"));
    assert_int_equal(propose(&(struct call){0}, 1), STI_E_UNAVAILABLE);
}

/* The first log cannot be made: commands are refused until it can, and none is lost or doubled. */
static void test_first_log_is_tried_again(void **state)
{
    (void)state;
    struct sti_err err;
    fault_set(FAULT_RENAMEAT, 1, -1, ENOSPC);
    assert_int_equal(begin_rc(&err), STI_OK);
    assert_int_equal(commit(1), STI_E_DISK_FULL);
    assert_int_equal(commit(1), STI_E_DISK_FULL);
    assert_true(test_host_logged(fx.th, "metadata_log_not_begun") >= 2);
    assert_int_equal(fx.model.count, 0);
    fault_reset();
    assert_int_equal(commit(1), STI_OK);
    end();
    begin();
    assert_int_equal(fx.model.count, 1);
    assert_int_equal(fx.model.values[0], 1);
}

/* Its name may be on the disk or not: nothing is taken until a restart has looked. */
static void test_first_log_in_doubt_breaks(void **state)
{
    (void)state;
    struct sti_err err;
    fault_set(FAULT_FSYNC, 2, 1, EIO); /* the first is the folder above */
    assert_int_equal(begin_rc(&err), STI_OK);
    await_log("metadata_broken");
    assert_int_equal(commit(1), STI_E_UNAVAILABLE);
    end();
    fault_reset();
    assert_int_equal(begin_rc(&err), STI_OK);
    assert_int_equal(commit(1), STI_OK);
}

/* A stop right behind the open waits for the log. */
static void test_first_log_and_stop(void **state)
{
    (void)state;
    struct sti_err err;
    assert_int_equal(begin_rc(&err), STI_OK);
    end();
    assert_true(allocated(0) > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_commit_and_restart),
                                       TEST(test_verdict_is_passed_on),
                                       TEST(test_refused_before_the_log),
                                       TEST(test_largest_command),
                                       TEST(test_waiting_proposals_share_a_sync),
                                       TEST(test_too_many_wait),
                                       TEST(test_close_finishes_what_waits),
                                       TEST(test_concurrent_proposals),
                                       TEST(test_snapshots_come_by_themselves),
                                       TEST(test_failed_snapshot_costs_nothing),
                                       TEST(test_failed_sync_breaks),
                                       TEST(test_failed_sync_refuses_those_that_wait),
                                       TEST(test_full_disk_changes_nothing),
                                       TEST(test_reserved_space_is_used_when_full),
                                       TEST(test_a_full_disk_parts_a_group),
                                       TEST(test_the_reserve_outlives_a_stop),
                                       TEST(test_file_size_limit),
                                       TEST(test_group_that_does_not_fit_is_split),
                                       TEST(test_damage_at_open),
                                       TEST(test_first_log_is_tried_again),
                                       TEST(test_first_log_in_doubt_breaks),
                                       TEST(test_first_log_and_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
