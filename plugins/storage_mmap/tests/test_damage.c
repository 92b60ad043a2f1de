/* test_damage.c -- the damage matrix: every class of bytes of every file of a partition, flipped,
 * cut or deleted, in the first, a middle and the last place, after an orderly end and after a kill,
 * in the same boot and after a reboot, under each flush policy.
 *
 * What must hold is the same in all cells. Opening never fails but for the partition itself; what
 * is read is exactly what was written, at its offset, or is refused by name; nothing but the batch
 * that was damaged is refused; damage that was found refuses appends; what is cut is cut only where
 * the contract says so. Where nobody has read the log (after an orderly end) the reader itself must
 * not hand out a batch at a wrong place.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_fixture.h"

#include "storage_mmap.h"

enum {
    RECORDS = 4, /* of a batch */
    PAYLOAD = 200,
    LEN = PAYLOAD + 61,
    PER_SEGMENT = 16384 / LEN,
    SEGMENTS = 3,
    BATCHES = PER_SEGMENT * 2 + 20, /* two closed segments and an active one */
    END = BATCHES * RECORDS
};

enum ending { CLEAN, KILLED, REBOOTED, ENDINGS };

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

/* ---- files --------------------------------------------------------------------------------- */

static uint8_t *slurp(const char *path, size_t *len)
{
    int fd = open(path, O_RDONLY);
    struct stat st = {0};
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    uint8_t *data = malloc((size_t)st.st_size + 1);
    assert_non_null(data);
    assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
    close(fd);
    *len = (size_t)st.st_size;
    return data;
}

static void spill(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}

static int64_t base_of(int segment)
{
    return (int64_t)segment * PER_SEGMENT * RECORDS;
}

static int batches_of(int segment)
{
    return segment + 1 < SEGMENTS ? PER_SEGMENT : BATCHES - PER_SEGMENT * (SEGMENTS - 1);
}

static void path_of(int segment, const char *suffix, char *out, size_t len)
{
    char name[SMM_NAME_LEN];
    sti_log_name(name, base_of(segment), suffix);
    fx_path(&fx, "k", name, out, len);
}

static void clear_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* The folder of topic `from` becomes that of topic k. */
static void copy_to_k(const char *from)
{
    char path[300], other[600];
    fx_path(&fx, "k", "", path, sizeof path);
    clear_folder(path);
    (void)mkdir(path, 0755);
    fx_path(&fx, from, "", path, sizeof path);
    DIR *dir = opendir(path);
    struct dirent *entry;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, STI_FILE_META) == 0) {
            continue; /* the topic id is another one's */
        }
        size_t len;
        fx_path(&fx, from, entry->d_name, other, sizeof other);
        uint8_t *data = slurp(other, &len);
        fx_path(&fx, "k", entry->d_name, other, sizeof other);
        spill(other, data, len);
        free(data);
    }
    closedir(dir);
}

/* The recovery-point file as an earlier boot has left it. */
static void of_another_boot(void)
{
    char path[300], text[400];
    struct sti_recovery_point point;
    size_t len;
    fx_path(&fx, "k", STI_FILE_RECOVERY, path, sizeof path);
    uint8_t *data = slurp(path, &len);
    data[len] = '\0';
    assert_int_equal(sti_recovery_point_parse((char *)data, len, &point, NULL, NULL), STI_OK);
    free(data);
    memcpy(point.boot_id, "00000000-0000-0000-0000-000000000000", 37);
    int n = sti_recovery_point_format(text, sizeof text, &point);
    assert_true(n > 0);
    spill(path, text, (size_t)n);
}

/* ---- a partition, and its end -------------------------------------------------------------- */

/* Topics "clean" and "dirty": the same log, closed in order, and as it stands while it is open. */
static struct sti_storage_partition *made(const char *topic)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    assert_int_equal(fx_open(&fx, topic, STI_STORAGE_CREATE, &part, &state), STI_OK);
    for (int i = 0; i < BATCHES; i++) {
        assert_int_equal(fx_append(&fx, part, i * RECORDS, RECORDS, PAYLOAD, 1000 + i, 1), STI_OK);
    }
    assert_int_equal(fx_sync(&fx, part, NULL), STI_OK);
    fx.api->state(part, &state);
    assert_int_equal(state.segment_count, SEGMENTS);
    return part;
}

static void prepare(enum ending ending)
{
    copy_to_k(ending == CLEAN ? "clean" : "dirty");
    if (ending == REBOOTED) {
        of_another_boot();
    }
}

/* ---- judging ------------------------------------------------------------------------------- */

/* Is the batch `n`, byte for byte, at `data`? */
static bool is_batch(const uint8_t *data, int n)
{
    static uint8_t expected[LEN];
    (void)fx_batch(expected, (int64_t)n * RECORDS, RECORDS, PAYLOAD, 0, 1000 + n);
    return memcmp(expected, data, LEN) == 0;
}

/* What a careful client makes of a read: it checks checksums, and that offsets follow. Returns how
 * many good batches it got from `first` on; *refused says that what came behind was refused, by
 * storage or by the client, rather than at the end. */
static int client_read(struct sti_storage_partition *part, int first, int end, uint64_t max_bytes,
                       bool *refused)
{
    int got = 0;
    *refused = false;
    while (first + got < end && !*refused) {
        struct fx_read read;
        int64_t at = (int64_t)(first + got) * RECORDS;
        int rc = fx_read(&fx, part, at, (int64_t)end * RECORDS, max_bytes, STI_READ_MEMORY, &read);
        if (rc != STI_OK) {
            assert_int_equal(rc, STI_E_DATA_LOSS);
            assert_non_null(strstr(read.msg, "k-0"));
            assert_non_null(strstr(read.msg, "position "));
            *refused = true;
            break;
        }
        size_t len, pos = 0;
        uint8_t *data = fx_read_bytes(&read, &len);
        assert_true(len > 0); /* nothing and no error would be waited for for ever */
        while (pos < len && !*refused) {
            struct sti_batch_header header;
            bool sound =
                sti_batch_header_decode(data + pos, len - pos, &header, NULL) == STI_OK &&
                header.total_len <= len - pos &&
                sti_crc32c(0, data + pos + 21, (size_t)header.total_len - 21) == header.crc &&
                header.base_offset == (int64_t)(first + got) * RECORDS;
            if (sound) { /* then it must be what was written */
                header.leader_epoch = 0;
                data[pos + 12] = data[pos + 13] = data[pos + 14] = data[pos + 15] = 0;
                assert_true(is_batch(data + pos, first + got));
                pos += (size_t)header.total_len;
                got++;
            } else {
                *refused = true;
            }
        }
        free(data);
        fx_read_release(&read);
    }
    return got;
}

/* Everything but batches from..to-1 is read exactly; none of those is handed out as good. */
static void check_around(struct sti_storage_partition *part, int from, int to, int end)
{
    static const uint64_t sizes[] = {LEN, 3 * LEN + 10, 1 << 20};
    for (size_t i = 0; i < 3; i++) {
        bool refused;
        int got = client_read(part, 0, end, sizes[i], &refused);
        assert_int_equal(got, from < end ? from : end);
        assert_int_equal(refused, from < end);
        for (int n = from; n < to && n < end; n++) {
            got = client_read(part, n, end, sizes[i], &refused);
            assert_int_equal(got, 0);
            assert_true(refused);
        }
        if (to < end) {
            got = client_read(part, to, end, sizes[i], &refused);
            assert_int_equal(got, end - to);
            assert_false(refused);
        }
        for (int n = to + 1; n < end && i == 0; n += 7) { /* from anywhere behind */
            got = client_read(part, n, n + 1, LEN, &refused);
            assert_int_equal(got, 1);
        }
    }
}

static int open_k(struct sti_storage_partition **part, struct sti_storage_state *state)
{
    *part = NULL;
    int rc = fx_open(&fx, "k", 0, part, state);
    assert_true(rc == STI_OK || rc == STI_E_DATA_LOSS);
    assert_non_null(*part);
    assert_int_equal((state->flags & STI_STORAGE_STATE_DAMAGED) != 0, rc == STI_E_DATA_LOSS);
    return rc;
}

static void close_k(struct sti_storage_partition *part)
{
    assert_int_equal(fx.api->close(part, NULL), STI_OK);
}

/* ---- the log ------------------------------------------------------------------------------- */

/* Which batch of the segment. */
enum where { FIRST, MIDDLE, LAST, WHERES };

static int batch_at(int segment, enum where where)
{
    int count = batches_of(segment);
    return segment * PER_SEGMENT + (where == FIRST ? 0 : where == MIDDLE ? count / 2 : count - 1);
}

/* The outcome of one flipped byte in a segment, for all that may follow. */
static void one_flip(enum ending ending, int segment, enum where where, size_t at, uint8_t mask)
{
    struct sti_storage_partition *part;
    struct sti_storage_state state;
    char path[300];
    size_t len;
    int bad = batch_at(segment, where);
    bool active = segment == SEGMENTS - 1, epoch = at >= 12 && at < 16;
    bool commit = fx.settings.flush_policy == STI_FLUSH_COMMIT;
    prepare(ending);
    path_of(segment, ".log", path, sizeof path);
    uint8_t *log = slurp(path, &len);
    log[(size_t)(bad - segment * PER_SEGMENT) * LEN + at] ^= mask;
    spill(path, log, len);
    free(log);
    int rc = open_k(&part, &state);
    bool scanned = ending != CLEAN && active;
    if (epoch) { /* part of no record, and no reader goes by it */
        check_around(part, BATCHES, BATCHES, BATCHES);
    } else if (!scanned) { /* nobody has read it: the reader finds it */
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, END);
        check_around(part, bad, bad + 1, BATCHES);
    } else if (where == LAST && !commit) { /* an unfinished tail, which is cut */
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, (int64_t)bad * RECORDS);
        assert_int_equal(state.truncated_bytes, LEN);
        check_around(part, bad, bad, bad);
        assert_int_equal(fx_append(&fx, part, (int64_t)bad * RECORDS, 1, 10, 1, 1), STI_OK);
    } else if (ending == REBOOTED && !commit) { /* what a loss of power leaves: cut at the hole */
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, (int64_t)bad * RECORDS);
        assert_int_equal(state.truncated_bytes, (uint64_t)(BATCHES - bad) * LEN);
        check_around(part, bad, bad, bad);
    } else { /* damage, named; appends are refused, and to cut there is the way out */
        assert_int_equal(rc, STI_E_DATA_LOSS);
        assert_int_equal(state.written_end, END);
        check_around(part, bad, bad + 1, BATCHES);
        assert_int_equal(fx_append(&fx, part, END, 1, 10, 1, 1), STI_E_POISONED);
        assert_int_equal(fx.api->truncate(part, (int64_t)bad * RECORDS, NULL), STI_OK);
        assert_int_equal(fx_append(&fx, part, (int64_t)bad * RECORDS, 1, 10, 1, 1), STI_OK);
    }
    close_k(part);
}

static void make_both(struct sti_storage_partition **dirty)
{
    close_k(made("clean"));
    *dirty = made("dirty");
}

/* Every byte of a header, some of the records, in each place of a closed and the active segment. */
static void flips(enum ending ending)
{
    struct sti_storage_partition *dirty;
    bool full = getenv("STREAMIT_TEST_FULL") != NULL;
    make_both(&dirty);
    for (int segment = 0; segment < SEGMENTS; segment += full ? 1 : SEGMENTS - 1) {
        for (enum where where = FIRST; where < WHERES; where++) {
            bool every = full || (where == MIDDLE && (segment == 0) == (ending == CLEAN));
            for (size_t at = 0; at < LEN; at += at >= 61 ? 67 : every ? 1 : 5) {
                one_flip(ending, segment, where, at, (uint8_t)(1u << (at % 8)));
                if (at < 12 && every) { /* outside the checksum: more bits of it */
                    one_flip(ending, segment, where, at, 0x41);
                    one_flip(ending, segment, where, at, 0x04);
                }
            }
        }
    }
    close_k(dirty);
}

static void test_flips_after_an_orderly_end(void **unused)
{
    (void)unused;
    flips(CLEAN);
}

static void test_flips_after_a_kill(void **unused)
{
    (void)unused;
    flips(KILLED);
}

static void test_flips_after_a_reboot(void **unused)
{
    (void)unused;
    flips(REBOOTED);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_flips_after_an_orderly_end),
        CASE(test_flips_after_a_kill),
        CASE(test_flips_after_a_reboot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
