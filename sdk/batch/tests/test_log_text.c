/* test_log_text.c -- names and small text files of a partition: what is written is read, and what
 * is cut, added, changed or out of range is refused with the position where it stops making sense.
 */
#include "batch_test.h"

#include <stdio.h>
#include <string.h>

#include "streamit/log_files.h"

static const uint8_t topic_id[16] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                     0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

static void names_of_segments(void **state)
{
    char name[STI_LOG_NAME_LEN];
    int64_t base = -1;
    (void)state;
    sti_log_name(name, 0, ".log");
    assert_string_equal(name, "00000000000000000000.log");
    sti_log_name(name, INT64_MAX, ".timeindex");
    assert_string_equal(name, "09223372036854775807.timeindex");
    assert_true(sti_log_name_parse(name, ".timeindex", &base));
    assert_true(base == INT64_MAX);
    assert_false(sti_log_name_parse(name, ".index", &base));
    assert_false(sti_log_name_parse("09223372036854775808.log", ".log", &base));
    assert_int_equal(base, 0);
    assert_false(sti_log_name_parse("99999999999999999999.log", ".log", &base));
    assert_false(sti_log_name_parse("0000000000000000000.log", ".log", &base));
    assert_false(sti_log_name_parse("000000000000000000000.log", ".log", &base));
    assert_false(sti_log_name_parse("0000000000000000000x.log", ".log", &base));
    assert_false(sti_log_name_parse("", ".log", &base));
}

static void kinds_of_files(void **state)
{
    static const struct {
        const char *name;
        int kind;
        int64_t base;
    } cases[] = {
        {"00000000000000000042.log", STI_LOG_FILE_LOG, 42},
        {"00000000000000000042.index", STI_LOG_FILE_INDEX, 42},
        {"00000000000000000042.timeindex", STI_LOG_FILE_TIME_INDEX, 42},
        {"00000000000000000042.log.swap", STI_LOG_FILE_SWAP, 42},
        {"00000000000000000042.snapshot", STI_LOG_FILE_OTHER, 0},
        {"partition.metadata", STI_LOG_FILE_META, 0},
        {"partition.metadata.tmp", STI_LOG_FILE_TEMPORARY, 0},
        {"partition.metadata.old", STI_LOG_FILE_OTHER, 0},
        {"recovery-point", STI_LOG_FILE_RECOVERY, 0},
        {"log-start-offset", STI_LOG_FILE_LOG_START, 0},
        {"truncation", STI_LOG_FILE_TRUNCATION, 0},
        {"leader-epoch-checkpoint", STI_LOG_FILE_EPOCHS, 0},
        {"leader-epoch-checkpoint.tmp", STI_LOG_FILE_TEMPORARY, 0},
        {"damage", STI_LOG_FILE_DAMAGE, 0},
        {"notes.txt", STI_LOG_FILE_OTHER, 0},
        {"", STI_LOG_FILE_OTHER, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t base = -1;
        assert_int_equal(sti_log_file_kind(cases[i].name, &base), cases[i].kind);
        assert_int_equal(base, cases[i].base);
    }
}

static void metadata(void **state)
{
    char text[80];
    uint8_t id[16] = {0};
    size_t pos = 99;
    struct sti_err err;
    (void)state;
    int n = sti_meta_format(text, sizeof text, topic_id);
    assert_string_equal(text, "version: 0\ntopic_id: 00112233445566778899aabbccddeeff\n");
    assert_int_equal(sti_meta_parse(text, (size_t)n, id, &pos, &err), STI_OK);
    assert_memory_equal(id, topic_id, 16);
    assert_int_equal(sti_meta_format(text, (size_t)n, topic_id), STI_E_INVALID_ARGUMENT);
    /* Every cut, and one byte more. */
    for (int i = 0; i < n; i++) {
        char cut[80];
        (void)sti_meta_format(cut, sizeof cut, topic_id);
        cut[i] = '\0';
        assert_int_equal(sti_meta_parse(cut, (size_t)i, id, &pos, &err), STI_E_DATA_LOSS);
        assert_true(pos <= (size_t)i);
    }
    static const char more[] = "version: 0\ntopic_id: 00112233445566778899aabbccddeeff\n\n";
    assert_int_equal(sti_meta_parse(more, sizeof more - 1, id, &pos, &err), STI_E_DATA_LOSS);
    assert_int_equal(pos, sizeof more - 2);
    static const char newer[] = "version: 1\ntopic_uuid: x\n";
    assert_int_equal(sti_meta_parse(newer, sizeof newer - 1, id, &pos, &err), STI_E_UNSUPPORTED);
    static const char upper[] = "version: 0\ntopic_id: 00112233445566778899AABBCCDDEEFF\n";
    assert_int_equal(sti_meta_parse(upper, sizeof upper - 1, id, &pos, &err), STI_E_DATA_LOSS);
    assert_int_equal(pos, 41);
    assert_non_null(strstr(err.msg, "partition.metadata"));
}

static void recovery_points(void **state)
{
    struct sti_recovery_point point = {.recovery_point = 7, .boot_id = "0123-ab"}, got;
    char text[320];
    size_t pos;
    (void)state;
    int n = sti_recovery_point_format(text, sizeof text, &point);
    assert_true(strncmp(text, "1\n7 0123-ab\ndirty\n", 18) == 0);
    assert_int_equal(n, 18 + 9);
    assert_int_equal(sti_recovery_point_parse(text, (size_t)n, &got, &pos, NULL), STI_OK);
    assert_int_equal(got.recovery_point, 7);
    assert_false(got.clean);
    assert_string_equal(got.boot_id, "0123-ab");
    assert_int_equal(got.last_epoch, -1);

    point = (struct sti_recovery_point){.recovery_point = INT64_MAX,
                                        .clean = true,
                                        .written_end = INT64_MAX,
                                        .active_base = 12,
                                        .max_timestamp = -1,
                                        .active_size = UINT32_MAX,
                                        .last_epoch = 3};
    n = sti_recovery_point_format(text, sizeof text, &point);
    assert_non_null(strstr(text, " -\nclean 9223372036854775807 12 4294967295 -1 3\n"));
    assert_int_equal(sti_recovery_point_parse(text, (size_t)n, &got, &pos, NULL), STI_OK);
    assert_true(got.clean);
    assert_true(got.written_end == INT64_MAX && got.active_size == UINT32_MAX);
    assert_int_equal(got.active_base, 12);
    assert_int_equal(got.last_epoch, 3);
    assert_true(got.max_timestamp == -1);
    assert_string_equal(got.boot_id, "-");
    assert_false(got.has_log);
    point.has_log = true;
    point.log_start = 46;
    point.segment_count = 3;
    n = sti_recovery_point_format(text, sizeof text, &point);
    assert_non_null(strstr(text, " -1 3\nlog 46 3\n"));
    assert_int_equal(sti_recovery_point_parse(text, (size_t)n, &got, &pos, NULL), STI_OK);
    assert_true(got.has_log && got.log_start == 46 && got.segment_count == 3);
    /* Each bit of each byte, and each cut: refused, and nothing is given. */
    for (int i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            got.recovery_point = -5;
            text[i] = (char)(text[i] ^ 1 << bit);
            assert_int_equal(sti_recovery_point_parse(text, (size_t)n, &got, &pos, NULL),
                             STI_E_DATA_LOSS);
            assert_int_equal(got.recovery_point, -5);
            text[i] = (char)(text[i] ^ 1 << bit);
        }
        char saved = text[i];
        text[i] = '\0';
        assert_int_equal(sti_recovery_point_parse(text, (size_t)i, &got, &pos, NULL),
                         STI_E_DATA_LOSS);
        text[i] = saved;
    }
    assert_int_equal(sti_recovery_point_format(text, (size_t)n, &point), STI_E_INVALID_ARGUMENT);
}

/* A right checksum over a wrong text. */
static void recovery_points_signed_nonsense(void **state)
{
    static const struct {
        const char *lines;
        int rc;
    } cases[] = {
        {"2\n7 -\ndirty\n", STI_E_UNSUPPORTED},
        {"1\n7 -\ndirty\n", STI_OK},
        {"1\n-7 -\ndirty\n", STI_E_DATA_LOSS},
        {"1\n7 \ndirty\n", STI_E_DATA_LOSS},
        {"1\n7 0123456789012345678901234567890123456\ndirty\n", STI_E_DATA_LOSS},
        {"1\n7 -\nclean 1 2 3 4 5\n", STI_OK},
        {"1\n7 -\nclean 1 2 4294967296 4 5\n", STI_E_DATA_LOSS},
        {"1\n7 -\nclean 1 2 3 4\n", STI_E_DATA_LOSS},
        {"1\n7 -\nclean 1 2 3 4 5 6\n", STI_E_DATA_LOSS},
        {"1\n7 -\ndirty\nmore\n", STI_E_DATA_LOSS},
        {"1\n7 -\n", STI_E_DATA_LOSS},
        {"", STI_E_DATA_LOSS},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[128];
        struct sti_recovery_point got;
        int n = snprintf(text, sizeof text, "%s", cases[i].lines);
        uint32_t crc = sti_crc32c(0, text, (size_t)n);
        n += snprintf(text + n, sizeof text - (size_t)n, "%08x\n", crc);
        assert_int_equal(sti_recovery_point_parse(text, (size_t)n, &got, NULL, NULL), cases[i].rc);
    }
}

static void offsets(void **state)
{
    static const struct {
        const char *text;
        int rc;
        size_t pos;
    } cases[] = {
        {"0\n7\n", STI_OK, 0},
        {"0\n9223372036854775807\n", STI_OK, 0},
        {"", STI_E_DATA_LOSS, 0},
        {"0\n", STI_E_DATA_LOSS, 2},
        {"0\n9223372036854775808\n", STI_E_DATA_LOSS, 2},
        {"0\n-1\n", STI_E_DATA_LOSS, 2},
        {"0\n 7\n", STI_E_DATA_LOSS, 2},
        {"0\n7", STI_E_DATA_LOSS, 2},
        {"0\n7\n\n", STI_E_DATA_LOSS, 4},
        {"0\n07\n", STI_E_DATA_LOSS, 2},
        {"00\n7\n", STI_E_DATA_LOSS, 0},
        {"0\n-0\n", STI_E_DATA_LOSS, 2},
        {"1\n7\n", STI_E_UNSUPPORTED, 2},
        {"x\n7\n", STI_E_DATA_LOSS, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t offset = -1;
        size_t pos = 0;
        assert_int_equal(
            sti_offset_parse(cases[i].text, strlen(cases[i].text), &offset, &pos, NULL),
            cases[i].rc);
        assert_int_equal(offset >= 0, cases[i].rc == STI_OK);
        assert_int_equal(pos, cases[i].pos);
    }
    char text[40];
    assert_int_equal(sti_offset_format(text, sizeof text, 123), 6);
    assert_string_equal(text, "0\n123\n");
    assert_int_equal(sti_offset_format(text, 6, 123), STI_E_INVALID_ARGUMENT);
}

static int epochs_all(const char *text, size_t *at, struct sti_epoch_entry *last, int *count)
{
    int rc;
    *at = 0;
    *count = 0;
    while ((rc = sti_epochs_next(text, strlen(text), at, last, NULL)) == STI_OK) {
        (*count)++;
    }
    return rc;
}

/* What is formatted is parsed again, and too little room is said. */
static void epochs_formatted(void **state)
{
    static const struct sti_epoch_entry entries[] = {
        {.epoch = 0, .start_offset = 0}, {.epoch = INT32_MAX, .start_offset = INT64_MAX}};
    static const char expected[] = "0\n2\n0 0\n2147483647 9223372036854775807\n";
    struct sti_epoch_entry last;
    char text[64];
    size_t at;
    int count;
    (void)state;
    assert_int_equal(sti_epochs_format(text, sizeof text, entries, 2), strlen(expected));
    assert_string_equal(text, expected);
    assert_int_equal(epochs_all(text, &at, &last, &count), STI_E_END);
    assert_int_equal(count, 2);
    assert_true(last.start_offset == INT64_MAX);
    assert_int_equal(sti_epochs_format(text, sizeof text, NULL, 0), 4);
    assert_string_equal(text, "0\n0\n");
    for (size_t size = 0; size <= strlen(expected); size++) {
        assert_int_equal(sti_epochs_format(text, size, entries, 2), STI_E_INVALID_ARGUMENT);
    }
}

static void epochs(void **state)
{
    struct sti_epoch_entry last = {0};
    size_t at;
    int count;
    (void)state;
    assert_int_equal(epochs_all("0\n2\n1 0\n4 1000\n", &at, &last, &count), STI_E_END);
    assert_int_equal(count, 2);
    assert_int_equal(last.epoch, 4);
    assert_int_equal(last.start_offset, 1000);
    assert_int_equal(epochs_all("0\n0\n", &at, &last, &count), STI_E_END);
    assert_int_equal(count, 0);
    static const struct {
        const char *text;
        int rc, count;
        size_t at;
    } bad[] = {
        {"", STI_E_DATA_LOSS, 0, 0},
        {"1\n0\n", STI_E_UNSUPPORTED, 0, 0},
        {"0\n", STI_E_DATA_LOSS, 0, 2},
        {"0\n3\n1 0\n4 1000\n", STI_E_DATA_LOSS, 0, 2}, /* cut behind a line */
        {"0\n1\n1 0\n4 1000\n", STI_E_DATA_LOSS, 0, 2}, /* one too many */
        {"0\n2\n1 0\nx 1000\n", STI_E_DATA_LOSS, 1, 8},
        {"0\n1\n1 0", STI_E_DATA_LOSS, 0, 2},
        {"0\n1\n-1 0\n", STI_E_DATA_LOSS, 0, 4},
        {"0\n1\n2147483648 0\n", STI_E_DATA_LOSS, 0, 4},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(epochs_all(bad[i].text, &at, &last, &count), bad[i].rc);
        assert_int_equal(count, bad[i].count);
        assert_int_equal(at, bad[i].at);
    }
}

static void damage(void **state)
{
    struct sti_damage_range range = {.base_offset = 42,
                                     .from_offset = 44,
                                     .to_offset = 47,
                                     .from_pos = 93,
                                     .to_pos = 200,
                                     .crc = UINT32_MAX},
                            got;
    char text[STI_DAMAGE_FILE_MAX];
    size_t len = 0, at = 0;
    struct sti_err err;
    (void)state;
    assert_int_equal(sti_damage_put(text, sizeof text, &len, &range), STI_OK);
    assert_int_equal(sti_damage_put(text, sizeof text, &len, &range), STI_OK);
    assert_int_equal(sti_damage_put(text, sizeof text, &len, NULL), STI_OK);
    assert_int_equal(strlen(text), len);
    assert_true(strncmp(text, "0\n42 93 200 44 47 4294967295\n42 ", 32) == 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sti_damage_next(text, len, &at, &got, &err), STI_OK);
        assert_memory_equal(&got, &range, sizeof got);
    }
    assert_int_equal(sti_damage_next(text, len, &at, &got, &err), STI_E_END);
    for (size_t i = 0; i < len; i++) {
        text[i] ^= 4;
        at = 0;
        assert_int_equal(sti_damage_next(text, len, &at, &got, &err), STI_E_DATA_LOSS);
        text[i] ^= 4;
    }
    /* Right sums over wrong lines. */
    static const char *const wrong[] = {"1\n",
                                        "0\n42 93 92 44 47 1\n",
                                        "0\n42 93 200 44 44 1\n",
                                        "0\n-1 93 200 44 47 1\n",
                                        "0\n42 93 2147483648 44 47 1\n",
                                        "0\n42 93 200 44 47\n",
                                        "0\n42 93 200 44 9223372036854775808 1\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int n = snprintf(text, sizeof text, "%s", wrong[i]);
        n += snprintf(text + n, sizeof text - (size_t)n, "%08x\n", sti_crc32c(0, text, (size_t)n));
        at = 0;
        assert_int_equal(sti_damage_next(text, (size_t)n, &at, &got, &err),
                         i == 0 ? STI_E_UNSUPPORTED : STI_E_DATA_LOSS);
    }
    /* As many as there may be, of the longest kind, have room; one byte less has not. */
    range = (struct sti_damage_range){.base_offset = INT64_MAX,
                                      .from_offset = INT64_MAX - 1,
                                      .to_offset = INT64_MAX,
                                      .from_pos = STI_LOG_POS_MAX,
                                      .to_pos = STI_LOG_POS_MAX,
                                      .crc = UINT32_MAX};
    len = 0;
    for (unsigned i = 0; i < STI_DAMAGE_RANGES_MAX; i++) {
        assert_int_equal(sti_damage_put(text, sizeof text, &len, &range), STI_OK);
    }
    assert_int_equal(sti_damage_put(text, len + 9, &len, NULL), STI_E_INVALID_ARGUMENT);
    assert_int_equal(sti_damage_put(text, sizeof text, &len, NULL), STI_OK);
    at = 0;
    while (sti_damage_next(text, len, &at, &got, &err) == STI_OK) {
        assert_memory_equal(&got, &range, sizeof got);
    }
    assert_int_equal(at, len - 9);
}

static void index_entries(void **state)
{
    static const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08};
    static const uint8_t times[] = {0x80, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xfe, 0xfd, 0xfc};
    uint8_t out[STI_TIME_ENTRY_LEN];
    (void)state;
    struct sti_index_entry entry = sti_index_entry_get(bytes);
    assert_int_equal(entry.rel_offset, 0x01020304);
    assert_int_equal(entry.pos, 0x05060708);
    sti_index_entry_put(out, entry.rel_offset, entry.pos);
    assert_memory_equal(out, bytes, sizeof bytes);
    struct sti_time_entry time = sti_time_entry_get(times);
    assert_true(time.timestamp == INT64_MIN + 1);
    assert_int_equal(time.rel_offset, 0xfffefdfc);
    sti_time_entry_put(out, time.timestamp, time.rel_offset);
    assert_memory_equal(out, times, sizeof times);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_segments),
        cmocka_unit_test(kinds_of_files),
        cmocka_unit_test(metadata),
        cmocka_unit_test(recovery_points),
        cmocka_unit_test(recovery_points_signed_nonsense),
        cmocka_unit_test(offsets),
        cmocka_unit_test(epochs),
        cmocka_unit_test(epochs_formatted),
        cmocka_unit_test(damage),
        cmocka_unit_test(index_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
