/* log_text.c -- names of a partition's files, and the small text files among them.
 *
 * The texts are parsed strictly: nothing cut, added or out of range is half believed, since each
 * was written as a whole, and renamed into place when it was complete.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "batch.h"
#include "streamit/log_files.h"

enum { BASE_DIGITS = 20, CHECKSUM_LINE_LEN = 9 };

/* ---- names --------------------------------------------------------------------------------- */

void sti_log_name(char out[STI_LOG_NAME_LEN], int64_t base_offset, const char *suffix)
{
    (void)snprintf(out, STI_LOG_NAME_LEN, "%020" PRId64 "%s", base_offset, suffix);
}

bool sti_log_name_parse(const char *name, const char *suffix, int64_t *base_offset)
{
    *base_offset = 0;
    if (strspn(name, "0123456789") != BASE_DIGITS || strcmp(name + BASE_DIGITS, suffix) != 0) {
        return false;
    }
    errno = 0;
    long long value = strtoll(name, NULL, 10);
    *base_offset = errno == 0 ? value : 0;
    return errno == 0;
}

int sti_log_file_kind(const char *name, int64_t *base_offset)
{
    static const struct {
        const char *text;
        int kind;
    } suffixes[] = {{".log", STI_LOG_FILE_LOG},
                    {".index", STI_LOG_FILE_INDEX},
                    {".timeindex", STI_LOG_FILE_TIME_INDEX},
                    {".log.swap", STI_LOG_FILE_SWAP}},
      names[] = {{STI_FILE_META, STI_LOG_FILE_META},
                 {STI_FILE_RECOVERY, STI_LOG_FILE_RECOVERY},
                 {STI_FILE_LOG_START, STI_LOG_FILE_LOG_START},
                 {STI_FILE_TRUNCATION, STI_LOG_FILE_TRUNCATION},
                 {STI_FILE_EPOCHS, STI_LOG_FILE_EPOCHS},
                 {STI_FILE_DAMAGE, STI_LOG_FILE_DAMAGE}};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (sti_log_name_parse(name, suffixes[i].text, base_offset)) {
            return suffixes[i].kind;
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t len = strlen(names[i].text);
        if (strncmp(name, names[i].text, len) == 0 && name[len] == '\0') {
            return names[i].kind;
        }
        if (strncmp(name, names[i].text, len) == 0 && strcmp(name + len, ".tmp") == 0) {
            return STI_LOG_FILE_TEMPORARY;
        }
    }
    return STI_LOG_FILE_OTHER;
}

/* ---- parsing ------------------------------------------------------------------------------- */

/* Step over `word`, if the text goes on with it. */
static bool take_word(const char **text, const char *word)
{
    size_t len = strlen(word);
    if (strncmp(*text, word, len) != 0) {
        return false;
    }
    *text += len;
    return true;
}

/* Read a decimal number, and step over it and the one character that must stand behind it.
 * @return false for anything else, and for a number that is not from `min` to `max` */
static bool take_number(const char **text, char behind, int64_t min, int64_t max, int64_t *out)
{
    char *end = NULL;
    if (**text != '-' && (**text < '0' || **text > '9')) {
        return false; /* strtoll would pass over spaces and newlines */
    }
    const char *digits = **text == '-' ? *text + 1 : *text;
    if (digits[0] == '0' && (digits != *text || (digits[1] >= '0' && digits[1] <= '9'))) {
        return false; /* nobody writes -0 or 007 */
    }
    errno = 0;
    long long value = strtoll(*text, &end, 10);
    if (errno != 0 || *end != behind || value < min || value > max) {
        return false;
    }
    *text = end + 1;
    *out = value;
    return true;
}

/* The value of a lower case hexadecimal digit, or -1. */
static int hex_value(char digit)
{
    const char *digits = "0123456789abcdef";
    const char *found = digit == '\0' ? NULL : strchr(digits, digit);
    return found == NULL ? -1 : (int)(found - digits);
}

/* Read `len` bytes of two hexadecimal digits each. */
static bool take_hex(const char **text, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int high = hex_value((*text)[0]);
        int low = high < 0 ? -1 : hex_value((*text)[1]);
        if (low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
        *text += 2;
    }
    return true;
}

/* What a parser returns: `next` is where it stopped, in `text`. */
static int verdict(int rc, const char *text, const char *next, size_t *pos, const char *name,
                   struct sti_err *err)
{
    if (rc == STI_OK) {
        return STI_OK;
    }
    size_t at = (size_t)(next - text);
    if (pos != NULL) {
        *pos = at;
    }
    return rc == STI_E_UNSUPPORTED
               ? sti_err_set(err, rc, "%s: a version that this release does not know", name)
               : sti_err_set(err, rc, "%s makes no sense from byte %zu on", name, at);
}

/* ---- partition.metadata -------------------------------------------------------------------- */

int sti_meta_format(char *out, size_t size, const uint8_t topic_id[16])
{
    char hex[33];
    for (unsigned i = 0; i < 16; i++) {
        (void)snprintf(hex + 2 * (size_t)i, 3, "%02x", topic_id[i]);
    }
    int n = snprintf(out, size, "version: 0\ntopic_id: %s\n", hex);
    return n > 0 && (size_t)n < size ? n : STI_E_INVALID_ARGUMENT;
}

int sti_meta_parse(const char *text, size_t len, uint8_t topic_id[16], size_t *pos,
                   struct sti_err *err)
{
    const char *next = text;
    int64_t version = 0;
    uint8_t id[16];
    int rc = STI_E_DATA_LOSS;
    if (take_word(&next, "version: ") && take_number(&next, '\n', 0, INT64_MAX, &version)) {
        rc = version != 0 ? STI_E_UNSUPPORTED : rc;
        if (version == 0 && take_word(&next, "topic_id: ") && take_hex(&next, id, sizeof id) &&
            take_word(&next, "\n") && next == text + len) {
            memcpy(topic_id, id, sizeof id);
            rc = STI_OK;
        }
    }
    return verdict(rc, text, next, pos, STI_FILE_META, err);
}

/* ---- recovery-point ------------------------------------------------------------------------ */

int sti_recovery_point_format(char *out, size_t size, const struct sti_recovery_point *point)
{
    char end[160] = "dirty";
    if (point->clean) {
        (void)snprintf(end, sizeof end,
                       "clean %" PRId64 " %" PRId64 " %" PRIu32 " %" PRId64 " %" PRId32,
                       point->written_end, point->active_base, point->active_size,
                       point->max_timestamp, point->last_epoch);
    }
    char log[64] = "";
    if (point->has_log) {
        (void)snprintf(log, sizeof log, "log %" PRId64 " %" PRIu32 "\n", point->log_start,
                       point->segment_count);
    }
    int n = snprintf(out, size, "1\n%" PRId64 " %s\n%s\n%s", point->recovery_point,
                     point->boot_id[0] != '\0' ? point->boot_id : "-", end, log);
    if (n < 0 || (size_t)n + CHECKSUM_LINE_LEN >= size) {
        return STI_E_INVALID_ARGUMENT;
    }
    return n +
           snprintf(out + n, size - (size_t)n, "%08" PRIx32 "\n", sti_crc32c(0, out, (size_t)n));
}

/* Does the text end with its own checksum? */
static bool checksum_holds(const char *text, size_t len)
{
    uint8_t stored[4];
    if (len < CHECKSUM_LINE_LEN || text[len - 1] != '\n') {
        return false;
    }
    const char *hex = text + len - CHECKSUM_LINE_LEN;
    return take_hex(&hex, stored, sizeof stored) &&
           sti_crc32c(0, text, len - CHECKSUM_LINE_LEN) == batch_load32(stored);
}

/* Step over the boot id and the end of its line. */
static bool take_boot_id(const char **text, char out[37])
{
    size_t len = strspn(*text, "0123456789abcdef-");
    if (len == 0 || len > 36 || (*text)[len] != '\n') {
        return false;
    }
    memcpy(out, *text, len);
    out[len] = '\0';
    *text += len + 1;
    return true;
}

/* The line that an orderly end leaves, behind its first word. */
static bool take_clean(const char **text, struct sti_recovery_point *out)
{
    int64_t size = 0, epoch = 0;
    bool ok = take_number(text, ' ', 0, INT64_MAX, &out->written_end) &&
              take_number(text, ' ', 0, INT64_MAX, &out->active_base) &&
              take_number(text, ' ', 0, UINT32_MAX, &size) &&
              take_number(text, ' ', INT64_MIN, INT64_MAX, &out->max_timestamp) &&
              take_number(text, '\n', INT32_MIN, INT32_MAX, &epoch);
    out->active_size = (uint32_t)size;
    out->last_epoch = (int32_t)epoch;
    out->clean = ok;
    return ok;
}

/* The line about the log, which texts of the first days do not have. */
static bool take_log(const char **text, struct sti_recovery_point *out)
{
    int64_t count = 0;
    if (!take_word(text, "log ")) {
        return true;
    }
    out->has_log = take_number(text, ' ', 0, INT64_MAX, &out->log_start) &&
                   take_number(text, '\n', 0, UINT32_MAX, &count);
    out->segment_count = (uint32_t)count;
    return out->has_log;
}

int sti_recovery_point_parse(const char *text, size_t len, struct sti_recovery_point *out,
                             size_t *pos, struct sti_err *err)
{
    struct sti_recovery_point got = {.last_epoch = -1, .max_timestamp = -1};
    const char *next = text;
    int64_t version = 0;
    int rc = STI_E_DATA_LOSS;
    if (!checksum_holds(text, len)) {
        next = len < CHECKSUM_LINE_LEN ? text : text + len - CHECKSUM_LINE_LEN;
    } else if (take_number(&next, '\n', 1, INT64_MAX, &version) && version != 1) {
        rc = STI_E_UNSUPPORTED;
    } else if (version == 1 && take_number(&next, ' ', 0, INT64_MAX, &got.recovery_point) &&
               take_boot_id(&next, got.boot_id) &&
               (take_word(&next, "dirty\n") ||
                (take_word(&next, "clean ") && take_clean(&next, &got))) &&
               take_log(&next, &got) && next + CHECKSUM_LINE_LEN == text + len) {
        *out = got;
        rc = STI_OK;
    }
    return verdict(rc, text, next, pos, STI_FILE_RECOVERY, err);
}

/* ---- log-start-offset, truncation, leader-epoch-checkpoint --------------------------------- */

int sti_offset_format(char *out, size_t size, int64_t offset)
{
    int n = snprintf(out, size, "0\n%" PRId64 "\n", offset);
    return n > 0 && (size_t)n < size ? n : STI_E_INVALID_ARGUMENT;
}

int sti_offset_parse(const char *text, size_t len, int64_t *offset, size_t *pos,
                     struct sti_err *err)
{
    const char *next = text;
    int64_t version = -1, value = -1;
    int rc = STI_E_DATA_LOSS;
    if (take_number(&next, '\n', 0, INT64_MAX, &version)) {
        rc = version != 0 ? STI_E_UNSUPPORTED : rc;
        if (version == 0 && take_number(&next, '\n', 0, INT64_MAX, &value) && next == text + len) {
            *offset = value;
            rc = STI_OK;
        }
    }
    return verdict(rc, text, next, pos, "the file of an offset", err);
}

int sti_epochs_format(char *out, size_t size, const struct sti_epoch_entry *entries, uint32_t count)
{
    int n = snprintf(out, size, "0\n%" PRIu32 "\n", count);
    for (uint32_t i = 0; i < count && n > 0 && (size_t)n < size; i++) {
        int line = snprintf(out + n, size - (size_t)n, "%" PRId32 " %" PRId64 "\n",
                            entries[i].epoch, entries[i].start_offset);
        n = line < 0 ? line : n + line;
    }
    return n > 0 && (size_t)n < size ? n : STI_E_INVALID_ARGUMENT;
}

int sti_epochs_next(const char *text, size_t len, size_t *at, struct sti_epoch_entry *out,
                    struct sti_err *err)
{
    const char *next = text + *at;
    int64_t version = -1, count = -1, lines = 0, epoch, offset;
    if (*at == 0) {
        if (take_number(&next, '\n', 0, INT64_MAX, &version) && version != 0) {
            return verdict(STI_E_UNSUPPORTED, text, text, at, STI_FILE_EPOCHS, err);
        }
        const char *second = next;
        if (version != 0 || !take_number(&next, '\n', 0, INT32_MAX, &count)) {
            return verdict(STI_E_DATA_LOSS, text, second, at, STI_FILE_EPOCHS, err);
        }
        for (const char *c = next; c < text + len; c++) {
            lines += *c == '\n';
        }
        if (lines != count) { /* a file that was cut at a line's end */
            return verdict(STI_E_DATA_LOSS, text, second, at, STI_FILE_EPOCHS, err);
        }
    }
    if (next == text + len) {
        *at = len;
        return STI_E_END;
    }
    const char *line = next;
    if (!take_number(&next, ' ', 0, INT32_MAX, &epoch) ||
        !take_number(&next, '\n', 0, INT64_MAX, &offset)) {
        return verdict(STI_E_DATA_LOSS, text, line, at, STI_FILE_EPOCHS, err);
    }
    *out = (struct sti_epoch_entry){.epoch = (int32_t)epoch, .start_offset = offset};
    *at = (size_t)(next - text);
    return STI_OK;
}

/* ---- damage -------------------------------------------------------------------------------- */

int sti_damage_put(char *out, size_t size, size_t *len, const struct sti_damage_range *range)
{
    int n = 0;
    size_t at = *len;
    if (at == 0 && (n = snprintf(out, size, "0\n")) >= 0 && (size_t)n < size) {
        at = (size_t)n;
    }
    if (n < 0 || at >= size) {
        return STI_E_INVALID_ARGUMENT;
    }
    if (range != NULL) {
        n = snprintf(out + at, size - at,
                     "%" PRId64 " %" PRIu32 " %" PRIu32 " %" PRId64 " %" PRId64 " %" PRIu32 "\n",
                     range->base_offset, range->from_pos, range->to_pos, range->from_offset,
                     range->to_offset, range->crc);
    } else {
        n = snprintf(out + at, size - at, "%08" PRIx32 "\n", sti_crc32c(0, out, at));
    }
    if (n < 0 || (size_t)n >= size - at) {
        return STI_E_INVALID_ARGUMENT;
    }
    *len = at + (size_t)n;
    return STI_OK;
}

/* A line of six numbers. */
static bool take_range(const char **text, struct sti_damage_range *out)
{
    int64_t from_pos, to_pos, crc;
    if (!take_number(text, ' ', 0, INT64_MAX, &out->base_offset) ||
        !take_number(text, ' ', 0, STI_LOG_POS_MAX, &from_pos) ||
        !take_number(text, ' ', from_pos, STI_LOG_POS_MAX, &to_pos) ||
        !take_number(text, ' ', 0, INT64_MAX - 1, &out->from_offset) ||
        !take_number(text, ' ', out->from_offset + 1, INT64_MAX, &out->to_offset) ||
        !take_number(text, '\n', 0, UINT32_MAX, &crc)) {
        return false;
    }
    out->from_pos = (uint32_t)from_pos;
    out->to_pos = (uint32_t)to_pos;
    out->crc = (uint32_t)crc;
    return true;
}

int sti_damage_next(const char *text, size_t len, size_t *at, struct sti_damage_range *out,
                    struct sti_err *err)
{
    struct sti_damage_range got = {0};
    const char *next = text + *at;
    int64_t version = -1;
    if (*at == 0) {
        if (!checksum_holds(text, len)) {
            next = len < CHECKSUM_LINE_LEN ? text : text + len - CHECKSUM_LINE_LEN;
            return verdict(STI_E_DATA_LOSS, text, next, at, STI_FILE_DAMAGE, err);
        }
        if (!take_number(&next, '\n', 0, INT64_MAX, &version) || version != 0) {
            return verdict(version > 0 ? STI_E_UNSUPPORTED : STI_E_DATA_LOSS, text, text, at,
                           STI_FILE_DAMAGE, err);
        }
    }
    if (next + CHECKSUM_LINE_LEN == text + len) {
        *at = (size_t)(next - text);
        return STI_E_END;
    }
    const char *line = next;
    if (!take_range(&next, &got) || next + CHECKSUM_LINE_LEN > text + len) {
        return verdict(STI_E_DATA_LOSS, text, line, at, STI_FILE_DAMAGE, err);
    }
    *out = got;
    *at = (size_t)(next - text);
    return STI_OK;
}
