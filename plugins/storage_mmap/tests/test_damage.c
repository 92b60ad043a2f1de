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
    GROUP = 4096,
    BATCHES = PER_SEGMENT * 2 + 20, /* two closed segments and an active one */
    END = BATCHES * RECORDS
};

enum ending { CLEAN, KILLED, REBOOTED, ENDINGS };

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    (void)setenv("TMPDIR", "/dev/shm", 0); /* nothing here is about the disk's speed */
    fx_init(&fx, 3);
    fx_option(&fx, "flush_group_bytes_max", GROUP);
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
    bool in_group = !commit || (BATCHES - bad) * LEN <= GROUP; /* may not have been synced */
    prepare(ending);
    path_of(segment, ".log", path, sizeof path);
    uint8_t *log = slurp(path, &len);
    log[(size_t)(bad - segment * PER_SEGMENT) * LEN + at] ^= mask;
    spill(path, log, len);
    free(log);
    int rc = open_k(&part, &state);
    bool scanned = ending != CLEAN && active;
    /* An epoch is part of no record, and no reader goes by it; a scan sees that it falls again. */
    if (epoch && (!scanned || where == LAST)) {
        check_around(part, BATCHES, BATCHES, BATCHES);
    } else if (!scanned) { /* nobody has read it: the reader finds it */
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, END);
        check_around(part, bad, bad + 1, BATCHES);
    } else if (where == LAST) { /* an unfinished tail, which is cut */
        assert_int_equal(rc, STI_OK);
        assert_int_equal(state.written_end, (int64_t)bad * RECORDS);
        assert_int_equal(state.truncated_bytes, LEN);
        check_around(part, bad, bad, bad);
        assert_int_equal(fx_append(&fx, part, (int64_t)bad * RECORDS, 1, 10, 1, 1), STI_OK);
    } else if (ending == REBOOTED && in_group) { /* what a loss of power leaves: cut at the hole */
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

/* Every byte of a header, some of the records, in each place of a closed and the active segment.
 * @return how many cells of the matrix were looked at */
static unsigned flips(enum ending ending, int64_t policy)
{
    struct sti_storage_partition *dirty;
    bool full = getenv("STREAMIT_TEST_FULL") != NULL;
    unsigned cells = 0;
    fx.settings.flush_policy = (int32_t)policy;
    make_both(&dirty);
    for (int segment = 0; segment < SEGMENTS; segment += full ? 1 : SEGMENTS - 1) {
        for (enum where where = FIRST; where < WHERES; where++) {
            bool every = full || (where == MIDDLE && (segment == 0) == (ending == CLEAN));
            for (size_t at = 0; at < LEN; at += at >= 61 ? 67 : every ? 1 : 5, cells++) {
                one_flip(ending, segment, where, at, (uint8_t)(1u << (at % 8)));
                if (at < 12 && every) { /* outside the checksum: more bits of it */
                    one_flip(ending, segment, where, at, 0x41);
                    one_flip(ending, segment, where, at, 0x04);
                }
            }
        }
    }
    close_k(dirty);
    return cells;
}

static void test_flips_after_an_orderly_end(void **unused)
{
    (void)unused;
    assert_true(flips(CLEAN, STI_FLUSH_ONROLL) > 100);
}

static void test_flips_after_a_kill(void **unused)
{
    (void)unused;
    assert_true(flips(KILLED, STI_FLUSH_ONROLL) > 100);
}

static void test_flips_after_a_reboot(void **unused)
{
    (void)unused;
    assert_true(flips(REBOOTED, STI_FLUSH_ONROLL) > 100);
}

static void test_flips_with_the_other_policies(void **unused)
{
    (void)unused;
    assert_true(flips(KILLED, STI_FLUSH_INTERVAL) > 100);
    teardown(NULL);
    setup(NULL);
    assert_true(flips(KILLED, STI_FLUSH_COMMIT) > 100);
    teardown(NULL);
    setup(NULL);
    assert_true(flips(REBOOTED, STI_FLUSH_COMMIT) > 100);
}

/* A segment cut off: between two batches, in the middle of one, to nothing. */
static void test_cuts(void **unused)
{
    static const int keeps[] = {0, 1, 30, 61, 200, LEN, 5 * LEN, 5 * LEN + 7, 5 * LEN + 61};
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (size_t i = 0; i < 2 * sizeof keeps / sizeof keeps[0]; i++) {
            int segment = i % 2 == 0 ? 1 : 2, whole = keeps[i / 2] / LEN;
            int first = segment * PER_SEGMENT, behind = first + batches_of(segment);
            prepare(ending);
            path_of(segment, ".log", path, sizeof path);
            assert_int_equal(truncate(path, keeps[i / 2]), 0);
            int rc = open_k(&part, &state);
            if (segment == 2 && ending != CLEAN) { /* its tail, of which nobody knows more */
                assert_int_equal(rc, STI_OK);
                assert_int_equal(state.written_end, (int64_t)(first + whole) * RECORDS);
                check_around(part, first + whole, first + whole, first + whole);
            } else { /* bytes that were synced are gone, and the end with them is known */
                assert_int_equal(rc, segment == 2 ? STI_E_DATA_LOSS : STI_OK);
                assert_int_equal(state.written_end, END);
                check_around(part, first + whole, behind, BATCHES);
            }
            close_k(part);
        }
    }
    close_k(dirty);
}

/* Something behind the last batch: a stranger's bytes in a closed or the active segment. */
static void test_bytes_behind(void **unused)
{
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (int segment = 0; segment < SEGMENTS; segment++) {
            prepare(ending);
            path_of(segment, ".log", path, sizeof path);
            int fd = open(path, O_WRONLY | O_APPEND);
            assert_int_equal(write(fd,
                                   "not a batch, not even nearly one, but quite long: "
                                   "more than the header of one would be",
                                   86),
                             86);
            close(fd);
            int rc = open_k(&part, &state);
            assert_int_equal(rc, STI_OK);
            assert_int_equal(state.written_end, END);
            if (segment == SEGMENTS - 1) { /* not what an orderly end has left: read, and cut */
                assert_int_equal(state.truncated_bytes, 86);
                check_around(part, BATCHES, BATCHES, BATCHES);
            } else {
                bool refused;
                int got = client_read(part, 0, (segment + 1) * PER_SEGMENT, LEN, &refused);
                assert_int_equal(got, (segment + 1) * PER_SEGMENT);
                assert_false(refused);
                got = client_read(part, (segment + 1) * PER_SEGMENT, BATCHES, LEN, &refused);
                assert_int_equal(got, BATCHES - (segment + 1) * PER_SEGMENT);
                assert_false(refused);
            }
            close_k(part);
        }
    }
    close_k(dirty);
}

/* A whole segment is gone: the first, a middle one, the last; with its indexes or without them. */
static void test_missing_segments(void **unused)
{
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (int i = 0; i < 2 * SEGMENTS; i++) {
            int segment = i / 2, first = segment * PER_SEGMENT;
            bool last = segment == SEGMENTS - 1, cut = last && ending == REBOOTED;
            prepare(ending);
            path_of(segment, ".log", path, sizeof path);
            assert_int_equal(unlink(path), 0);
            if (i % 2 == 1) {
                path_of(segment, ".index", path, sizeof path);
                assert_int_equal(unlink(path), 0);
                path_of(segment, ".timeindex", path, sizeof path);
                assert_int_equal(unlink(path), 0);
            }
            int rc = open_k(&part, &state);
            if (cut) { /* a loss of power may take what was not synced */
                assert_int_equal(rc, STI_OK);
                assert_int_equal(state.written_end, base_of(segment));
                check_around(part, first, first, first);
            } else if (last) {
                assert_int_equal(rc, STI_E_DATA_LOSS);
                assert_int_equal(state.written_end, ending == CLEAN ? END : base_of(segment) + 1);
                check_around(part, first, first, first);
            } else {
                /* After a kill a middle one that lies before the recovery point is missed by the
                 * reader who comes to it. */
                assert_int_equal(rc, segment == 1 && ending != CLEAN ? STI_OK : STI_E_DATA_LOSS);
                assert_int_equal(state.written_end, END);
                check_around(part, first, first + PER_SEGMENT, BATCHES);
            }
            if (!cut && rc != STI_OK) {
                struct fx_read read;
                assert_int_equal(
                    fx_read(&fx, part, base_of(segment), state.written_end, 1 << 20, 0, &read),
                    STI_E_DATA_LOSS);
                assert_int_equal(fx_append(&fx, part, state.written_end, 1, 10, 1, 1),
                                 STI_E_POISONED);
            }
            close_k(part);
        }
    }
    close_k(dirty);
}

/* ---- indexes ------------------------------------------------------------------------------- */

/* Each lookup by time finds the batch that it should. */
static void check_times(struct sti_storage_partition *part)
{
    for (int n = 0; n < BATCHES; n += 3) {
        int64_t offset, found;
        assert_int_equal(fx.api->offset_for_time(part, 1000 + n, &offset, &found, NULL), STI_OK);
        assert_int_equal(offset, (int64_t)n * RECORDS);
        assert_int_equal(found, 1000 + n);
    }
}

static void check_all(struct sti_storage_partition *part)
{
    int64_t end, newest;
    uint64_t bytes;
    check_around(part, BATCHES, BATCHES, BATCHES);
    check_times(part);
    /* What retention goes by. */
    assert_int_equal(fx.api->oldest_segment(part, &end, &bytes, &newest), STI_OK);
    assert_int_equal(end, base_of(1));
    assert_int_equal(newest, 1000 + PER_SEGMENT - 1);
}

enum harm { GONE, EMPTY, HALVED, SHORTER, LONGER, FLIPPED, ZEROED, NOISE, HARMS };

static void harm_file(const char *path, enum harm harm, size_t entry, size_t at)
{
    size_t len;
    uint8_t *data = slurp(path, &len);
    uint8_t *more = realloc(data, len + 3 * entry);
    assert_non_null(more);
    if (harm == GONE) {
        assert_int_equal(unlink(path), 0);
        free(more);
        return;
    }
    size_t keep = harm == EMPTY     ? 0
                  : harm == HALVED  ? len / 2 + 1
                  : harm == SHORTER ? len - entry
                  : harm == LONGER  ? len + 2 * entry
                                    : len;
    for (size_t i = 0; i < len + 3 * entry; i++) {
        if ((harm == LONGER && i >= len) || harm == NOISE) {
            more[i] = (uint8_t)(i * 151 + 7);
        } else if (harm == ZEROED) {
            more[i] = 0;
        }
    }
    if (harm == FLIPPED) {
        more[at % len] ^= (uint8_t)(1u << (at % 8));
    }
    spill(path, more, keep);
    free(more);
}

/* An index only says where to begin to look: with any of it wrong every read and lookup is right.
 */
static void test_indexes(void **unused)
{
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    bool full = getenv("STREAMIT_TEST_FULL") != NULL;
    unsigned cells = 0;
    (void)unused;
    make_both(&dirty);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (int segment = 0; segment < SEGMENTS; segment++) {
            for (int time = 0; time < 2; time++) {
                size_t entry = time == 0 ? 8 : 12, last = 0;
                for (int harm = GONE; harm < HARMS; harm++) {
                    size_t flips = harm == FLIPPED ? (full ? 400 : 3 * entry) : 1;
                    for (size_t i = 0; i < flips; i++, cells++) {
                        size_t len;
                        prepare(ending);
                        path_of(segment, time == 0 ? ".index" : ".timeindex", path, sizeof path);
                        free(slurp(path, &len));
                        if (len < 3 * entry) {
                            continue; /* the active one after a kill: they wait in memory */
                        }
                        /* First entry, one in the middle, the last. */
                        last = full             ? i
                               : i / entry == 0 ? i
                               : i / entry == 1 ? len / 2 + i
                                                : len - 1 - i % entry;
                        harm_file(path, (enum harm)harm, entry, last);
                        assert_int_equal(open_k(&part, &state), STI_OK);
                        assert_int_equal(state.written_end, END);
                        check_all(part);
                        close_k(part);
                    }
                }
            }
        }
    }
    close_k(dirty);
    assert_true(cells > 300);
}

/* ---- small files --------------------------------------------------------------------------- */

/* Every byte of each small file flipped, the file cut at every length, gone, and not ours. */
static void test_small_files(void **unused)
{
    static const char *const names[] = {STI_FILE_RECOVERY, STI_FILE_LOG_START};
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    assert_int_equal(fx.api->trim(dirty, base_of(1) + RECORDS, NULL), STI_OK);
    assert_int_equal(fx_open(&fx, "clean", 0, &part, &state), STI_OK);
    assert_int_equal(fx.api->trim(part, base_of(1) + RECORDS, NULL), STI_OK);
    close_k(part);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (int file = 0; file < 2; file++) {
            size_t len = 1;
            for (size_t i = 0; i < 2 * len + 2; i++) {
                prepare(ending);
                fx_path(&fx, "k", names[file], path, sizeof path);
                uint8_t *text = slurp(path, &len);
                if (i < len) {
                    text[i] ^= (uint8_t)(1u << (i % 7));
                    spill(path, text, len);
                } else if (i < 2 * len) {
                    spill(path, text, i - len);
                } else if (i == 2 * len) {
                    assert_int_equal(unlink(path), 0);
                } else {
                    uint8_t *noise = calloc(1, 10000);
                    assert_non_null(noise);
                    spill(path, noise, 10000);
                    free(noise);
                }
                free(text);
                assert_int_equal(open_k(&part, &state), STI_OK);
                assert_int_equal(state.written_end, END);
                assert_int_equal(state.log_start, base_of(1) + RECORDS);
                bool refused;
                int got = client_read(part, PER_SEGMENT + 1, BATCHES, 1 << 20, &refused);
                assert_int_equal(got, BATCHES - PER_SEGMENT - 1);
                struct fx_read read;
                assert_int_equal(fx_read(&fx, part, base_of(1), END, LEN, 0, &read),
                                 STI_E_OFFSET_OUT_OF_RANGE);
                close_k(part);
            }
        }
        /* Both at once are more than one fault: nothing tells the start, so the segments do. */
        prepare(ending);
        for (int file = 0; file < 2; file++) {
            fx_path(&fx, "k", names[file], path, sizeof path);
            assert_int_equal(unlink(path), 0);
        }
        unsigned said = test_host_logged(fx.th, "log_start_unknown");
        assert_int_equal(open_k(&part, &state), STI_OK);
        assert_int_equal(state.log_start, base_of(1));
        assert_int_equal(test_host_logged(fx.th, "log_start_unknown"), said + 1);
        assert_int_equal(state.written_end, END);
        close_k(part);
    }
    close_k(dirty);
}

/* Whose folder it is: every byte flipped, cuts, gone. Never another topic's data, never an open
 * that makes a new log over the old one. */
static void test_metadata(void **unused)
{
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    size_t len;
    unsigned opened = 0, refused = 0;
    (void)unused;
    make_both(&dirty);
    prepare(CLEAN);
    assert_int_equal(open_k(&part, &state), STI_OK); /* writes k's own */
    close_k(part);
    fx_path(&fx, "k", STI_FILE_META, path, sizeof path);
    uint8_t *good = slurp(path, &len);
    for (size_t i = 0; i < 2 * len; i++) {
        uint8_t *text = slurp(path, &len);
        memcpy(text, good, len);
        if (i < len) {
            text[i] ^= 1;
        }
        spill(path, text, i < len ? len : i - len);
        free(text);
        part = NULL;
        int rc = fx_open(&fx, "k", 0, &part, &state);
        assert_true(rc == STI_OK || rc == STI_E_NOT_FOUND || rc == STI_E_UNSUPPORTED);
        if (rc == STI_OK) {
            assert_int_equal(state.written_end, END);
            close_k(part);
            opened++;
        } else {
            assert_null(part);
            refused++;
        }
        spill(path, good, len); /* the remedy */
        assert_int_equal(open_k(&part, &state), STI_OK);
        assert_int_equal(state.written_end, END);
        close_k(part);
    }
    free(good);
    assert_true(opened > 0 &&
                refused >= 32); /* a digit of the id: another topic's, or the version */
    close_k(dirty);
}

/* What a truncation leaves that was not decided, or strangers. */
static void test_leftovers(void **unused)
{
    static const char *const names[] = {"truncation",
                                        "00000000000000000000.log.swap",
                                        "recovery-point.tmp",
                                        "00000000000000000007.log.swap",
                                        "leader-epoch-checkpoint",
                                        "stranger"};
    static const char *const texts[] = {"", "\377\1\2garbage", "0\n", "0\n12", "1\n12\n"};
    struct sti_storage_partition *dirty, *part;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    for (enum ending ending = CLEAN; ending < ENDINGS; ending++) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
                prepare(ending);
                fx_path(&fx, "k", names[i], path, sizeof path);
                spill(path, texts[k], strlen(texts[k]));
                assert_int_equal(open_k(&part, &state), STI_OK);
                assert_int_equal(state.written_end, END);
                check_around(part, BATCHES, BATCHES, BATCHES);
                assert_int_equal(fx_append(&fx, part, END, 1, 10, 1, 1), STI_OK);
                close_k(part);
            }
        }
    }
    close_k(dirty);
}

/* One that is gone, or a file where its folder should be, is that one's trouble. */
static void test_folder(void **unused)
{
    struct sti_storage_partition *dirty, *part = NULL;
    struct sti_storage_state state;
    char path[300];
    (void)unused;
    make_both(&dirty);
    assert_int_equal(fx_open(&fx, "k", 0, &part, &state), STI_E_NOT_FOUND);
    assert_null(part);
    fx_path(&fx, "k", "", path, sizeof path);
    path[strlen(path) - 1] = '\0';
    spill(path, "a file", 6);
    assert_int_not_equal(fx_open(&fx, "k", 0, &part, &state), STI_OK);
    assert_null(part);
    assert_int_equal(unlink(path), 0);
    prepare(CLEAN); /* brought back */
    assert_int_equal(open_k(&part, &state), STI_OK);
    check_all(part);
    close_k(part);
    assert_int_equal(fx_append(&fx, dirty, END, 1, 10, 1, 1), STI_OK);
    close_k(dirty);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_flips_after_an_orderly_end),
        CASE(test_flips_after_a_kill),
        CASE(test_flips_after_a_reboot),
        CASE(test_flips_with_the_other_policies),
        CASE(test_cuts),
        CASE(test_bytes_behind),
        CASE(test_missing_segments),
        CASE(test_indexes),
        CASE(test_small_files),
        CASE(test_metadata),
        CASE(test_leftovers),
        CASE(test_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
