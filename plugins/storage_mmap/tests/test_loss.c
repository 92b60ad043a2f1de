/* test_loss.c -- what recovery makes of a log after a loss of power, and of bytes that no checksum
 * covers: holes by flush policy, epochs by their neighbours, ends that must not come back.
 *
 * A loss of power is played by writing another boot's id into the note of the boot, and zeros where
 * bytes were not synced. What the writer must have synced by then is counted at its fault points.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_fixture.h"

#include "storage_mmap.h"

enum { BATCHES = 24, PAYLOAD = 300, LEN = PAYLOAD + 61, GROUP = 4096 };

static struct fixture fx;

static struct {
    const char *count, *fail; /* names of fault points */
    _Atomic int counted;
    int error;
} faults;

static int hook(const char *point)
{
    if (faults.count != NULL && strcmp(point, faults.count) == 0) {
        faults.counted++;
    }
    return faults.fail != NULL && strcmp(point, faults.fail) == 0 ? faults.error : 0;
}

static int setup(void **state)
{
    (void)state;
    fx_init(&fx, 3);
    fx_option(&fx, "flush_group_bytes_max", GROUP);
    fx_start(&fx);
    faults.count = faults.fail = NULL;
    faults.counted = 0;
    sti_fault_set_hook(hook);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    fx_fini(&fx);
    return 0;
}

/* Batches of two records each, with an epoch each. */
static struct sti_storage_partition *filled(const char *topic, int count, const int32_t *epochs)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    for (int i = 0; i < count; i++) {
        assert_int_equal(fx_append_epoch(&fx, part, i * 2, 2, PAYLOAD, 1000 + i, 1,
                                         epochs == NULL ? 0 : epochs[i], NULL),
                         STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK); /* from here on no file changes by itself */
    return part;
}

/* Nothing is known of what was synced: the scan begins with the first segment. */
static void unnoted(const char *topic)
{
    char path[300];
    fx_path(&fx, topic, STI_FILE_RECOVERY, path, sizeof path);
    assert_int_equal(unlink(path), 0);
}

static void patch(const char *topic, int64_t base, size_t pos, const void *bytes, size_t len)
{
    char path[300];
    size_t size;
    fx_segment_path(&fx, topic, base, ".log", path, sizeof path);
    uint8_t *log = fx_slurp(path, &size);
    assert_true(pos + len <= size);
    memcpy(log + pos, bytes, len);
    fx_spill(path, log, size);
    free(log);
}

static void zeros(const char *topic, int batch)
{
    static const uint8_t none[LEN];
    patch(topic, 0, (size_t)batch * LEN, none, LEN);
}

static void note_epochs(const char *topic, const char *text)
{
    char path[300];
    fx_path(&fx, topic, STI_FILE_EPOCHS, path, sizeof path);
    fx_spill(path, text, strlen(text));
}

static void set_epoch(const char *topic, int batch, int32_t epoch)
{
    const uint8_t bytes[4] = {(uint8_t)((uint32_t)epoch >> 24), (uint8_t)((uint32_t)epoch >> 16),
                              (uint8_t)((uint32_t)epoch >> 8), (uint8_t)epoch};
    patch(topic, 0, (size_t)batch * LEN + 12, bytes, sizeof bytes);
}

static void close_part(struct sti_storage_partition *part)
{
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* Open a copy: how, and to which end? A damaged one must name its range, if one is expected. */
static void assert_opens(const char *topic, int status, int64_t end, int64_t damaged_from,
                         int64_t damaged_to)
{
    struct sti_storage_partition *copy;
    struct sti_storage_state state;
    struct fx_read read;
    int rc = fx_open(&fx, topic, 0, &copy, &state);
    if (rc != status || state.written_end != end) {
        fail_msg("opens with %d to %d, expected %d to %d (damage from %d)", rc,
                 (int)state.written_end, status, (int)end, (int)damaged_from);
    }
    if (status == STI_E_DATA_LOSS && damaged_from >= 0) {
        char range[64];
        snprintf(range, sizeof range, "offsets %d to %d", (int)damaged_from, (int)damaged_to - 1);
        rc = fx_read(&fx, copy, damaged_from, end, 1 << 20, 0, &read);
        if (rc != status || strstr(read.msg, range) == NULL) {
            fail_msg("read: %d, %s; expected %s", rc, read.msg, range);
        }
        fx_read_release(&read);
    } else if (status == STI_OK && end > 0) {
        assert_int_equal(fx_read(&fx, copy, 0, end, 1 << 20, STI_READ_MEMORY, &read), STI_OK);
        assert_int_equal(fx_read_check(&read, 0), end);
        fx_read_release(&read);
    }
    close_part(copy);
}

/* ---- holes --------------------------------------------------------------------------------- */

static void test_a_hole_with_weak_policies(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, NULL);
    for (int policy = STI_FLUSH_ONROLL; policy <= STI_FLUSH_INTERVAL; policy++) {
        for (int hole = 0; hole < BATCHES; hole += 5) {
            fx.settings.flush_policy = policy;
            fx_copy_folder(&fx, "t", "k");
            zeros("k", hole);
            assert_opens("k", hole == BATCHES - 1 ? STI_OK : STI_E_DATA_LOSS,
                         hole == BATCHES - 1 ? 2 * hole : 2 * BATCHES, 2 * hole, 2 * hole + 2);
            fx_copy_folder(&fx, "t", "k"); /* the same after a reboot */
            zeros("k", hole);
            fx_reboot(&fx, "k", 0);
            assert_opens("k", STI_OK, 2 * hole, 0, 0);
            assert_opens("k", STI_OK, 2 * hole, 0, 0); /* and it stays so */
        }
    }
    close_part(part);
}

/* With commit only the last group can have been unsynced: the writer sees to that. */
static void test_a_hole_with_commit(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, NULL);
    fx.settings.flush_policy = STI_FLUSH_COMMIT;
    for (int hole = 0; hole < BATCHES; hole++) {
        bool in_group = (BATCHES - hole) * LEN <= GROUP;
        fx_copy_folder(&fx, "t", "k");
        zeros("k", hole);
        fx_reboot(&fx, "k", 0);
        assert_opens("k", in_group ? STI_OK : STI_E_DATA_LOSS, in_group ? 2 * hole : 2 * BATCHES,
                     2 * hole, 2 * hole + 2);
        fx_copy_folder(&fx, "t", "k"); /* two holes: the distance is from the first */
        zeros("k", hole);
        zeros("k", BATCHES - 2);
        fx_reboot(&fx, "k", 0);
        if (in_group) {
            assert_opens("k", STI_OK, 2 * (hole < BATCHES - 2 ? hole : BATCHES - 2), 0, 0);
        } else {
            /* The first is damage; the second lies in the last group. */
            assert_opens("k", STI_E_DATA_LOSS, 2 * (BATCHES - 2), 2 * hole, 2 * hole + 2);
        }
        fx_copy_folder(&fx, "t", "k"); /* without a reboot nothing explains a hole */
        zeros("k", hole);
        assert_opens("k", hole == BATCHES - 1 ? STI_OK : STI_E_DATA_LOSS,
                     hole == BATCHES - 1 ? 2 * hole : 2 * BATCHES, 2 * hole, 2 * hole + 2);
    }
    close_part(part);
}

/* Below the recovery point everything was synced, whatever the policy. */
static void test_no_cut_below_the_recovery_point(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", 200, NULL);
    struct sti_storage_state state;
    char path[300];
    int64_t second, newest;
    uint64_t bytes;
    assert_int_equal(fx.api->oldest_segment(part, &second, &bytes, &newest), STI_OK);
    for (int policy = STI_FLUSH_ONROLL; policy <= STI_FLUSH_COMMIT; policy++) {
        fx.settings.flush_policy = policy;
        fx_copy_folder(&fx, "t", "k");
        fx_reboot(&fx, "k", second);
        fx_segment_path(&fx, "k", second, ".log", path, sizeof path);
        assert_int_equal(unlink(path), 0);
        fx_copy_folder(&fx, "k", "l");
        fx_reboot(&fx, "l", 0);
        struct sti_storage_partition *copy;
        /* Known to be synced: damage. Not known: a gap like that is what the policy allows. */
        assert_int_equal(fx_open(&fx, "l", 0, &copy, &state),
                         policy == STI_FLUSH_COMMIT ? STI_E_DATA_LOSS : STI_OK);
        assert_int_equal(state.written_end, policy == STI_FLUSH_COMMIT ? 400 : second);
        close_part(copy);
    }
    close_part(part);
}

/* A group may end in another segment than it begins in. */
static void test_a_group_over_two_segments(void **unused)
{
    (void)unused;
    fx.settings.segment_bytes = 10 * LEN;
    struct sti_storage_partition *part = filled("t", 14, NULL); /* 10 and 4 batches */
    char path[300];
    fx.settings.flush_policy = STI_FLUSH_COMMIT;
    for (int hole = 0; hole < 10; hole++) {
        bool in_group = (14 - hole) * LEN <= GROUP;
        fx_copy_folder(&fx, "t", "k");
        zeros("k", hole);
        fx_reboot(&fx, "k", 0);
        assert_opens("k", in_group ? STI_OK : STI_E_DATA_LOSS, in_group ? 2 * hole : 28, 2 * hole,
                     2 * hole + 2);
    }
    /* The end of the first segment is gone, at a batch's end: a gap, not a bad batch. */
    for (int whole = 0; whole < 10; whole++) {
        bool in_group = 4 * LEN <= GROUP;
        fx_copy_folder(&fx, "t", "k");
        fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
        assert_int_equal(truncate(path, whole * LEN), 0);
        fx_reboot(&fx, "k", 0);
        assert_true(in_group);
        assert_opens("k", STI_OK, 2 * whole, 0, 0);
        fx_copy_folder(&fx, "t", "k");
        assert_int_equal(truncate(path, whole * LEN), 0);
        unnoted("k");
        assert_opens("k", STI_E_DATA_LOSS, 28, 2 * whole, 20);
    }
    close_part(part);
}

/* ---- the writer's part --------------------------------------------------------------------- */

static uint64_t unsynced(struct sti_storage_partition *part, uint64_t len)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    fx.api->state(part, &state);
    return (uint64_t)(state.written_end - state.synced_end) / 2 * len;
}

static _Atomic bool go;

static void wait_to_go(struct sti_task *task)
{
    (void)task;
    while (!go) {
        usleep(200);
    }
}

static void test_the_writer_keeps_within_a_group(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part;
    struct sti_task busy[3] = {{.run = wait_to_go}, {.run = wait_to_go}, {.run = wait_to_go}};
    const struct sti_host *host = test_host_for(fx.th, sti_plugin.name);
    struct sti_storage_state state;
    fx.settings.flush_policy = STI_FLUSH_COMMIT;
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &state), STI_OK);
    int64_t offset = 0;
    go = false;
    for (int i = 0; i < 3; i++) { /* no thread is left for the job that syncs */
        host->post(host->ctx, &busy[i]);
    }
    for (int i = 0; i < 60; i++) {
        uint32_t batches = 1 + (uint32_t)i % 5;
        assert_int_equal(fx_append(&fx, part, offset, 2, PAYLOAD, 1000 + i, batches), STI_OK);
        offset += 2 * batches;
        assert_true(unsynced(part, LEN) <= GROUP);
    }
    assert_true(fx.synced_count >= 60 * 3 * LEN / GROUP / 2); /* and was told of it */
    go = true;
    for (int i = 0; i < 3; i++) {
        test_host_settle(fx.th, NULL);
    }
    /* One append of several groups is synced in between, also over a roll. */
    faults.count = "segment.append.sync_group";
    assert_int_equal(fx_append(&fx, part, offset, 2, PAYLOAD, 2000, 100), STI_OK);
    assert_true(faults.counted >= 100 * LEN / GROUP);
    offset += 200;
    faults.counted = 0; /* a batch larger than a group is not taken apart */
    assert_int_equal(fx_append(&fx, part, offset, 2, 3 * GROUP, 2000, 1), STI_OK);
    assert_int_equal(faults.counted, 0);
    offset += 2;
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    /* A sync that fails there poisons, as any other. */
    faults.fail = "segment.append.sync_group";
    faults.error = EIO;
    assert_int_equal(fx_append(&fx, part, offset, 2, PAYLOAD, 2000, 100), STI_E_IO);
    assert_int_equal(fx_append(&fx, part, offset, 2, PAYLOAD, 2000, 1), STI_E_POISONED);
    faults.fail = NULL;
    assert_int_equal(fx.failed_count, 1);
    (void)fx.api->close(part, NULL);
    /* The other policies do not wait. */
    fx.settings.flush_policy = STI_FLUSH_ONROLL;
    faults.counted = 0;
    assert_int_equal(fx_open(&fx, "u", STI_STORAGE_CREATE, &part, &state), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 2, PAYLOAD, 2000, 100), STI_OK);
    assert_int_equal(faults.counted, 0);
    close_part(part);
}

/* What was cut off must not come back in the midst of what is appended behind the cut. */
static void test_a_cut_is_synced_before_an_append(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, NULL), *copy;
    struct sti_storage_state state;
    struct stat st;
    char path[300];
    fx_copy_folder(&fx, "t", "k");
    zeros("k", 5); /* sound batches of the old log behind it */
    fx_reboot(&fx, "k", 0);
    assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
    assert_int_equal(state.written_end, 10);
    fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 5 * LEN);
    faults.count = "segment.append.sync_cut";
    assert_int_equal(fx_append(&fx, copy, 10, 2, PAYLOAD, 9000, 1), STI_OK);
    assert_int_equal(faults.counted, 1);
    assert_int_equal(fx_append(&fx, copy, 12, 2, PAYLOAD, 9000, 1), STI_OK);
    assert_int_equal(faults.counted, 1); /* once */
    fx_copy_folder(&fx, "k", "l");
    close_part(copy);
    assert_opens("l", STI_OK, 14, 0, 0);
    /* Without a cut nothing is synced for it. */
    faults.counted = 0;
    fx_copy_folder(&fx, "t", "k");
    assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
    assert_int_equal(fx_append(&fx, copy, 48, 2, PAYLOAD, 9000, 1), STI_OK);
    assert_int_equal(faults.counted, 0);
    close_part(copy);
    /* If the cut cannot be made to last, nothing is written behind it. */
    fx_copy_folder(&fx, "t", "k");
    fx_segment_path(&fx, "k", 0, ".log", path, sizeof path);
    assert_int_equal(truncate(path, 5 * LEN + 7), 0);
    assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
    faults.fail = "segment.append.sync_cut";
    faults.error = EIO;
    assert_int_equal(fx_append(&fx, copy, 10, 2, PAYLOAD, 9000, 1), STI_E_IO);
    faults.fail = NULL;
    assert_int_equal(fx_append(&fx, copy, 10, 2, PAYLOAD, 9000, 1), STI_E_POISONED);
    (void)fx.api->close(copy, NULL);
    close_part(part);
}

static void wait_synced(struct sti_storage_partition *part, int64_t end)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    for (int i = 0; i < 20000; i++) {
        fx.api->state(part, &state);
        if (state.synced_end >= end) {
            break;
        }
        usleep(500);
    }
    assert_true(state.synced_end >= end);
}

/* What was not synced when the process died is synced as the policy has it, without an append. And
 * until then nobody says that it was, though the page cache has it. */
static void test_what_a_death_left_is_synced(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part, *copy;
    struct sti_storage_state state;
    fx.settings.segment_bytes = 10 * LEN;
    part = filled("t", 34, NULL);
    for (int policy = STI_FLUSH_ONROLL; policy <= STI_FLUSH_COMMIT; policy++) {
        fx_copy_folder(&fx, "t", "k");
        unnoted("k");
        fx.settings.flush_policy = policy;
        assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
        assert_int_equal(state.written_end, 68);
        assert_int_equal(state.synced_end, policy == STI_FLUSH_COMMIT ? 68 : 0);
        wait_synced(copy, policy == STI_FLUSH_ONROLL ? 60 : 68); /* the closed ones, or all */
        close_part(copy);
    }
    close_part(part);
}

/* ---- epochs -------------------------------------------------------------------------------- */

static const int32_t rising[BATCHES] = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2,
                                        2, 2, 2, 2, 5, 5, 5, 5, 5, 5, 5, 5};
static const char notes[] = "0\n3\n0 0\n2 16\n5 32\n";

static void test_a_flipped_epoch_is_damage(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, rising);
    for (int noted = 0; noted < 2; noted++) {
        for (int batch = 0; batch < BATCHES; batch++) {
            for (int bit = 0; bit < 32; bit += bit < 4 ? 1 : 9) {
                int32_t flipped = rising[batch] ^ (int32_t)(1u << bit);
                bool last = batch == BATCHES - 1;
                /* Without notes a rise may come early or late, and what stands at an end is all
                 * that is known of it; with notes nothing else than what was written can be. */
                bool before = batch == 0 || flipped >= rising[batch - 1];
                bool plausible = before && (last ? !noted || flipped < rising[batch]
                                                 : !noted && flipped <= rising[batch + 1] &&
                                                       (batch > 0 || flipped >= 0));
                fx_copy_folder(&fx, "t", "k");
                set_epoch("k", batch, flipped);
                if (noted) {
                    note_epochs("k", notes);
                }
                if (plausible) {
                    assert_opens("k", STI_OK, 2 * BATCHES, 0, 0);
                } else if (last) { /* nothing sound behind it: the end */
                    assert_opens("k", STI_OK, 2 * batch, 0, 0);
                } else {
                    /* 0 1 0 2: without notes it may be the one or the other. */
                    assert_opens("k", STI_E_DATA_LOSS, 2 * BATCHES, noted ? 2 * batch : -1,
                                 2 * batch + 2);
                }
            }
        }
    }
    close_part(part);
}

/* A note has no checksum: however it is damaged, it costs no sound batch. */
static void test_a_damaged_note_costs_nothing(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, rising);
    for (size_t at = 0; at < sizeof notes - 1; at++) {
        for (int bit = 0; bit < 8; bit++) {
            char text[sizeof notes];
            memcpy(text, notes, sizeof notes);
            text[at] = (char)(text[at] ^ (1 << bit));
            if (strstr(text, "2 14") != NULL || strstr(text, "5 30") != NULL) {
                continue; /* just as if the batch before had lost its epoch: nobody can tell */
            }
            fx_copy_folder(&fx, "t", "k");
            char path[300];
            fx_path(&fx, "k", STI_FILE_EPOCHS, path, sizeof path);
            fx_spill(path, text, sizeof notes - 1);
            assert_opens("k", STI_OK, 2 * BATCHES, 0, 0);
        }
    }
    static const char *const others[] = {"",
                                         "0\n0\n",
                                         "0\n1\n9 0\n",
                                         "0\n1\n0 0\n",
                                         "0\n2\n5 0\n2 16\n",
                                         "1\n1\n0 0\n",
                                         "0\n4\n0 0\n2 16\n5 32\n9 4000\n"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        fx_copy_folder(&fx, "t", "k");
        note_epochs("k", others[i]);
        assert_opens("k", STI_OK, 2 * BATCHES, 0, 0);
    }
    close_part(part);
}

/* The scan begins in the midst of the log, and a rise begins a segment. */
static void test_epochs_over_segments(void **unused)
{
    (void)unused;
    fx.settings.segment_bytes = 8 * LEN; /* each epoch a segment */
    struct sti_storage_partition *part = filled("t", BATCHES, rising);
    for (int i = 0; i < 2; i++) {
        fx_copy_folder(&fx, "t", "k");
        note_epochs("k", i == 0 ? notes : "0\n1\n0 0\n");
        unnoted("k");
        assert_opens("k", STI_OK, 2 * BATCHES, 0, 0);
    }
    fx_copy_folder(&fx, "t", "k");
    note_epochs("k", notes);
    const uint8_t seven[4] = {0, 0, 0, 7};
    unnoted("k");
    patch("k", 16, 7 * LEN + 12, seven, 4); /* the last of its segment: its next is in another */
    assert_opens("k", STI_E_DATA_LOSS, 2 * BATCHES, 30, 32);
    fx_copy_folder(&fx, "t", "k");
    note_epochs("k", notes);
    fx_reboot(&fx, "k", 32); /* begins with the third segment */
    const uint8_t one[4] = {0, 0, 0, 1};
    patch("k", 32, 12, one, 4);
    assert_opens("k", STI_OK, 32, 0, 0); /* cut: the policy is onroll, and it was not synced */
    close_part(part);
}

/* ---- other ---------------------------------------------------------------------------------- */

/* Records may hold what looks like a batch. The range of a damage ends where the next one begins.
 */
static void test_a_batch_in_a_record(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", BATCHES, NULL);
    uint8_t inner[161];
    fx_copy_folder(&fx, "t", "k");
    assert_int_equal(fx_batch(inner, 15, 1, 100, 0, 1), sizeof inner);
    patch("k", 0, 7 * LEN + 80, inner,
          sizeof inner); /* in the records of batch 7, whose CRC fails */
    assert_opens("k", STI_E_DATA_LOSS, 2 * BATCHES, 14, 16);
    close_part(part);
}

static struct {
    uint64_t bytes, stop_at;
} told;

static int on_recovering(void *ctx, uint64_t bytes)
{
    (void)ctx;
    told.bytes += bytes;
    return told.bytes >= told.stop_at;
}

/* Recovery tells what it reads, and may be given up at any time: the next one does the same. */
static void test_told_and_given_up(void **unused)
{
    (void)unused;
    struct sti_storage_partition *part = filled("t", 200, NULL), *copy;
    struct sti_storage_state state;
    fx.events.recovering = on_recovering;
    told.stop_at = UINT64_MAX;
    for (int round = 0; round < 6; round++) {
        fx_copy_folder(&fx, "t", "k");
        unnoted("k");
        told.bytes = 0;
        told.stop_at = (uint64_t)round * 16000u;
        int rc = fx_open(&fx, "k", 0, &copy, &state);
        if (rc == STI_OK) {
            assert_true(told.bytes < told.stop_at);
            close_part(copy);
        } else {
            assert_int_equal(rc, STI_E_CANCELLED);
            assert_null(copy);
        }
        told.bytes = 0;
        told.stop_at = UINT64_MAX;
        fx.recovered_count = 0;
        if (rc != STI_OK) {
            assert_int_equal(fx_open(&fx, "k", 0, &copy, &state), STI_OK);
            assert_int_equal(fx.recovered_count, 200);
            assert_true(told.bytes >= 200 * LEN);
            assert_int_equal(state.written_end, 400);
            close_part(copy);
        }
    }
    fx.events.recovering = NULL;
    close_part(part);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_hole_with_weak_policies),
        TEST(a_hole_with_commit),
        TEST(no_cut_below_the_recovery_point),
        TEST(a_group_over_two_segments),
        TEST(the_writer_keeps_within_a_group),
        TEST(a_cut_is_synced_before_an_append),
        TEST(what_a_death_left_is_synced),
        TEST(a_flipped_epoch_is_damage),
        TEST(a_damaged_note_costs_nothing),
        TEST(epochs_over_segments),
        TEST(a_batch_in_a_record),
        TEST(told_and_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
