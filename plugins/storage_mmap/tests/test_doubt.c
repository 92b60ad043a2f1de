/* test_doubt.c -- damage that a reader comes upon is confirmed, and then takes the partition's
 * appends away, without waiting for the scrub, which is off here; what is not confirmed does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "storage_fixture.h"

#include "log_fixture.h"
#include "storage_mmap.h"

enum { BASE_OFFSET = 7, LENGTH = 10, LAST_OFFSET = 26 }; /* a byte of each */
enum { PAYLOAD = 939, LEN = PAYLOAD + 61, PER_SEGMENT = 16384 / LEN, END = 2 * PER_SEGMENT + 5 };

static struct fixture fx;
static struct sti_storage_partition *part;

/* What runs on the executor's only thread waits while this is held. */
static struct {
    struct sti_task task;
    pthread_mutex_t mu;
} gate = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void wait_for_gate(struct sti_task *task)
{
    (void)task;
    pthread_mutex_lock(&gate.mu);
    pthread_mutex_unlock(&gate.mu);
}

static void shut_gate(void)
{
    const struct sti_host *host = test_host_for(fx.th, "storage_mmap");
    pthread_mutex_lock(&gate.mu);
    gate.task.run = wait_for_gate;
    host->post(host->ctx, &gate.task);
}

static void open_gate(void)
{
    pthread_mutex_unlock(&gate.mu);
    test_host_settle(fx.th, NULL);
}

static int setup(void **state)
{
    struct sti_storage_state st;
    (void)state;
    fx_init(&fx, 1);
    fx_option(&fx, "scrub_bytes_per_s", 0);
    fx.settings.index_interval_bytes = 1 << 20; /* readers go from batch to batch */
    fx_start(&fx);
    assert_int_equal(fx_open(&fx, "t", STI_STORAGE_CREATE, &part, &st), STI_OK);
    assert_int_equal(fx_append(&fx, part, 0, 1, PAYLOAD, 1, END), STI_OK);
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sti_fault_set_hook(NULL);
    if (part != NULL) {
        assert_int_equal(fx.api->close(part, NULL), STI_OK);
    }
    part = NULL;
    fx_fini(&fx);
    return 0;
}

/* Change a byte of the batch that holds `offset`; a second time brings it back. */
static void flip(int64_t offset, unsigned at)
{
    char path[512];
    uint8_t byte;
    int64_t base = offset / PER_SEGMENT * PER_SEGMENT;
    off_t pos = (off_t)((offset - base) * LEN + at);
    fx_segment_path(&fx, "t", base, ".log", path, sizeof path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, pos), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, pos), 1);
    (void)close(fd);
}

static int read_at(int64_t offset)
{
    struct fx_read read;
    int rc = fx_read(&fx, part, offset, END, LEN, 0, &read);
    if (rc == STI_OK) {
        assert_true(fx_read_check(&read, offset) > offset);
        fx_read_release(&read);
    }
    return rc;
}

static bool is_damaged(void)
{
    struct sti_storage_state state;
    fx.api->state(part, &state);
    return (state.flags & STI_STORAGE_STATE_DAMAGED) != 0;
}

static void expect_sound(void)
{
    test_host_settle(fx.th, NULL);
    assert_false(is_damaged());
    assert_int_equal(fx.damaged_count, 0);
    struct sti_storage_state state;
    fx.api->state(part, &state);
    assert_int_equal(fx_append(&fx, part, state.written_end, 1, PAYLOAD, 1, 1), STI_OK);
}

/* Base offset, length, last offset: of a closed segment and of the active one. */
static void test_a_reader_finds_damage(void **state)
{
    static const unsigned bytes[] = {BASE_OFFSET, LENGTH, LAST_OFFSET};
    static const int64_t offsets[] = {5, END - 3};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        for (size_t k = 0; k < sizeof offsets / sizeof *offsets; k++) {
            int64_t at = offsets[k];
            flip(at, bytes[i]);
            if (bytes[i] == LAST_OFFSET) { /* who reads from its start checks the sum */
                assert_int_equal(read_at(at + 1), STI_OK);
            } else {
                assert_int_equal(read_at(at), STI_E_DATA_LOSS);
            }
            test_host_settle(fx.th, NULL);
            assert_true(is_damaged());
            assert_int_equal(fx.damaged_count, 1);
            assert_non_null(strstr(fx.damage_msg, at == 5 ? "offsets 5 to 5" : "offsets 34 to 34"));
            assert_int_equal(fx_append(&fx, part, END, 1, PAYLOAD, 1, 1), STI_E_POISONED);
            assert_int_equal(read_at(at), STI_E_DATA_LOSS);
            assert_int_equal(read_at(at - 1), STI_OK);
            assert_int_equal(read_at(at + 1), STI_OK);
            test_host_settle(fx.th, NULL);
            assert_int_equal(fx.damaged_count, 1);
            (void)teardown(state);
            fx.damaged_count = 0;
            (void)setup(state);
        }
    }
}

/* The memory lied once: the disk has it right. */
static void test_a_second_look_may_differ(void **state)
{
    (void)state;
    shut_gate();
    flip(5, BASE_OFFSET);
    assert_int_equal(read_at(5), STI_E_DATA_LOSS);
    flip(5, BASE_OFFSET);
    open_gate();
    expect_sound();
    assert_int_equal(read_at(5), STI_OK);
}

static int no_read(const char *point)
{
    return strcmp(point, "file.pread") == 0 ? EIO : 0;
}

/* A disk that gives an error has not shown wrong bytes, neither to the reader nor afterwards. */
static void test_an_error_is_no_damage(void **state)
{
    (void)state;
    shut_gate();
    flip(5, BASE_OFFSET);
    assert_int_equal(read_at(5), STI_E_DATA_LOSS);
    sti_fault_set_hook(no_read);
    open_gate();
    assert_int_equal(read_at(3), STI_E_IO);
    test_host_settle(fx.th, NULL);
    sti_fault_set_hook(NULL);
    expect_sound();
}

/* What is cut off or trimmed meanwhile is no damage of the log any more. */
static void test_it_may_be_gone(void **state)
{
    (void)state;
    shut_gate();
    flip(END - 3, BASE_OFFSET);
    assert_int_equal(read_at(END - 3), STI_E_DATA_LOSS);
    assert_int_equal(fx.api->truncate(part, END - 4, NULL), STI_OK);
    open_gate();
    expect_sound();
    part->doubt_us = 0;
    shut_gate();
    flip(5, BASE_OFFSET);
    assert_int_equal(read_at(5), STI_E_DATA_LOSS);
    assert_int_equal(fx.api->trim(part, PER_SEGMENT, NULL), STI_OK);
    open_gate();
    expect_sound();
}

/* A close does not wait for a look that has not begun, and leaves it nothing to look at. */
static void test_a_close_comes_first(void **state)
{
    (void)state;
    shut_gate();
    flip(5, BASE_OFFSET);
    assert_int_equal(read_at(5), STI_E_DATA_LOSS);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    part = NULL;
    open_gate();
    assert_int_equal(fx.damaged_count, 0);
}

/* A segment's file that has lost all its bytes stays damage over every restart. */
static void test_an_emptied_file(void **state)
{
    char path[512];
    struct sti_storage_state st;
    (void)state;
    fx_segment_path(&fx, "t", 0, ".log", path, sizeof path);
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_OK); /* nothing is read */
    assert_int_equal(read_at(0), STI_E_DATA_LOSS);
    test_host_settle(fx.th, NULL);
    for (int i = 0; i < 2; i++) {
        assert_true(is_damaged());
        assert_int_equal(fx_append(&fx, part, END, 1, PAYLOAD, 1, 1), STI_E_POISONED);
        assert_int_equal(fx.api->close(part, NULL), STI_OK);
        assert_int_equal(fx_open(&fx, "t", 0, &part, &st), STI_E_DATA_LOSS);
    }
    assert_int_equal(read_at(PER_SEGMENT), STI_OK);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_reader_finds_damage), CASE(test_a_second_look_may_differ),
        CASE(test_an_error_is_no_damage), CASE(test_it_may_be_gone),
        CASE(test_a_close_comes_first),   CASE(test_an_emptied_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
