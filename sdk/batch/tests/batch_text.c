/* batch_text.c -- batches as text and back, so that a program in another language can compare.
 *
 *   batch_text build CODEC < text > batch     codec by number or name
 *   batch_text read < batch > text            one batch, checked in full first
 *
 * A record is one line: TIMESTAMP KEY VALUE [NAME=VALUE]... with bytes in hexadecimal behind an x
 * ("x" alone is empty) and null as a minus. `read` puts the offset in front. Exit status 0; 1 when
 * a batch is refused, with the sentence on stderr; 2 for wrong usage or text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/record_batch.h"

#define HEADERS_MAX 64

static void die(int status, const char *what)
{
    (void)fprintf(stderr, "batch_text: %s\n", what);
    exit(status);
}

/* All of standard input, with a zero behind it. The caller frees it. */
static uint8_t *slurp(size_t *len)
{
    size_t capacity = 1u << 16;
    uint8_t *data = malloc(capacity);
    size_t n;
    *len = 0;
    while (data != NULL && (n = fread(data + *len, 1, capacity - *len - 1, stdin)) > 0) {
        *len += n;
        if (capacity - *len < 2) {
            uint8_t *grown = realloc(data, capacity * 2);
            if (grown == NULL) {
                free(data);
            }
            data = grown;
            capacity *= 2;
        }
    }
    if (data == NULL) {
        die(2, "no memory");
        return NULL;
    }
    data[*len] = 0;
    return data;
}

static unsigned nibble(char c)
{
    if (c >= '0' && c <= '9') {
        return (unsigned)(c - '0');
    }
    if (c >= 'a' && c <= 'f') {
        return (unsigned)(c - 'a') + 10u;
    }
    die(2, "a hexadecimal digit was expected");
    return 0;
}

/* Decode "-" or "xHEX" in place. Returns NULL for null. */
static uint8_t *bytes_of(char *text, size_t *len)
{
    uint8_t *out = (uint8_t *)text;
    size_t i;
    *len = 0;
    if (strcmp(text, "-") == 0) {
        return NULL;
    }
    if (text[0] != 'x' || strlen(text) % 2 == 0) {
        die(2, "bytes are - or x and pairs of hexadecimal digits");
    }
    for (i = 1; text[i] != '\0'; i += 2) {
        out[(*len)++] = (uint8_t)(nibble(text[i]) << 4 | nibble(text[i + 1]));
    }
    return out;
}

static void append_line(struct sti_batch_builder *builder, char *line)
{
    struct sti_record_header headers[HEADERS_MAX];
    struct sti_err err;
    size_t key_len, value_len, name_len, len, count = 0;
    char *rest, *word = strtok_r(line, " ", &rest);
    int64_t timestamp = word == NULL ? 0 : strtoll(word, NULL, 10);
    char *key_text = strtok_r(NULL, " ", &rest);
    char *value_text = strtok_r(NULL, " ", &rest);
    const uint8_t *key, *value;
    if (key_text == NULL || value_text == NULL) {
        die(2, "a line needs timestamp, key and value");
        return;
    }
    key = bytes_of(key_text, &key_len);
    value = bytes_of(value_text, &value_len);
    while ((word = strtok_r(NULL, " ", &rest)) != NULL) {
        char *split = strchr(word, '=');
        if (split == NULL || count == HEADERS_MAX) {
            die(2, "a header is NAME=VALUE, and there are 64 at the most");
            return;
        }
        *split = '\0';
        headers[count].name = (const char *)bytes_of(word, &name_len);
        headers[count].value = bytes_of(split + 1, &len);
        headers[count].name_len = (uint32_t)name_len;
        headers[count].value_len = (uint32_t)len;
        count++;
    }
    if (sti_batch_builder_append(builder, timestamp, key, key_len, value, value_len, headers, count,
                                 &err) != STI_OK) {
        die(1, err.msg);
    }
}

static void build(const char *codec_text)
{
    int codec = sti_codec_from_name(codec_text);
    struct sti_batch_builder *builder;
    struct sti_err err;
    const uint8_t *batch;
    size_t len;
    char *rest, *line;
    uint8_t *text = slurp(&len);
    codec = codec < 0 ? (int)strtol(codec_text, NULL, 10) : codec;
    if (sti_batch_builder_new(&builder, codec, 0, &err) != STI_OK) {
        die(1, err.msg);
    }
    for (line = strtok_r((char *)text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        append_line(builder, line);
    }
    if (sti_batch_builder_finish(builder, &batch, &len, &err) != STI_OK) {
        die(1, err.msg);
    }
    if (fwrite(batch, 1, len, stdout) != len) {
        die(2, "standard output takes no more");
    }
    sti_batch_builder_free(builder);
    free(text);
}

static void print_bytes(char before, const uint8_t *data, size_t len)
{
    size_t i;
    (void)putchar(before);
    (void)putchar(data == NULL ? '-' : 'x');
    for (i = 0; data != NULL && i < len; i++) {
        (void)printf("%02x", data[i]);
    }
}

static void print_record(const struct sti_record *record)
{
    const uint8_t *pos = record->headers, *end = pos + record->headers_len, *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    (void)printf("%" PRId64 " %" PRId64, record->offset, record->timestamp);
    print_bytes(' ', record->key, record->key_len);
    print_bytes(' ', record->value, record->value_len);
    while (sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) == STI_OK) {
        print_bytes(' ', (const uint8_t *)name, name_len);
        print_bytes('=', value, value_len < 0 ? 0 : (size_t)value_len);
    }
    (void)putchar('\n');
}

static void read_batch(void)
{
    struct sti_batch_header header;
    struct sti_batch_iter iter;
    struct sti_record record;
    struct sti_slice slice;
    struct sti_err err;
    size_t len;
    uint8_t *batch = slurp(&len);
    int rc;
    slice = sti_slice_borrow(batch, len);
    if (sti_batch_check(&slice, 1, STI_CHECK_CRC | STI_CHECK_PRODUCER | STI_CHECK_RECORDS,
                        INT32_MAX, &header, &err) != STI_OK) {
        die(1, err.msg);
    }
    memset(&iter, 0, sizeof iter);
    rc = sti_batch_iter_init(&iter, batch, len, STI_BATCH_INFLATED_MAX, &err);
    while (rc == STI_OK && (rc = sti_batch_iter_next(&iter, &record, &err)) == STI_OK) {
        print_record(&record);
    }
    if (rc != STI_E_END) {
        die(1, err.msg);
    }
    sti_batch_iter_fini(&iter);
    free(batch);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "build") == 0) {
        build(argv[2]);
    } else if (argc == 2 && strcmp(argv[1], "read") == 0) {
        read_batch();
    } else {
        die(2, "usage: batch_text build CODEC | batch_text read");
    }
    return fflush(stdout) == 0 ? 0 : 2;
}
