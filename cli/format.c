/* format.c -- how consume prints a record: its value, a JSON object, or a pattern. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum format_kind { FORMAT_VALUE, FORMAT_JSON, FORMAT_PATTERN };

struct cli_format {
    enum format_kind kind;
    char *pattern; /* escapes already replaced */
};

void cli_buffer_add(struct cli_buffer *buffer, const void *data, size_t len)
{
    if (buffer->capacity - buffer->len < len) {
        size_t capacity = buffer->capacity == 0 ? 1 << 16 : buffer->capacity * 2;
        while (capacity - buffer->len < len) {
            capacity *= 2;
        }
        uint8_t *grown = realloc(buffer->data, capacity);
        if (grown == NULL) {
            exit(cli_error(STI_E_NO_MEMORY, NULL));
        }
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    if (len > 0) {
        memcpy(buffer->data + buffer->len, data, len);
        buffer->len += len;
    }
}

/* Replace \n, \t and \\ in place. */
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in != '\0'; in++) {
        if (*in == '\\' && (in[1] == 'n' || in[1] == 't' || in[1] == '\\')) {
            in++;
            *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : '\\';
        } else {
            *out++ = *in;
        }
    }
    *out = '\0';
}

struct cli_format *cli_format_parse(const struct cli *cli, const char *text)
{
    struct cli_format *format = calloc(1, sizeof *format);
    if (format == NULL) {
        return NULL;
    }
    format->kind = strcmp(text, "value") == 0  ? FORMAT_VALUE
                   : strcmp(text, "json") == 0 ? FORMAT_JSON
                                               : FORMAT_PATTERN;
    format->pattern = strdup(text);
    if (format->pattern != NULL && format->kind == FORMAT_PATTERN) {
        unescape(format->pattern);
        for (const char *p = strchr(format->pattern, '%'); p != NULL; p = strchr(p + 2, '%')) {
            if (p[1] == '\0' || strchr("tpokvT%", p[1]) == NULL) {
                (void)cli_usage(cli, "--format: %%%.1s is none of %%t %%p %%o %%k %%v %%T %%%%",
                                p + 1);
                cli_format_free(format);
                return NULL;
            }
        }
        if (strchr(format->pattern, '%') == NULL) {
            (void)cli_usage(
                cli, "--format: expected value, json or a pattern with %%v, found \"%s\"", text);
            cli_format_free(format);
            return NULL;
        }
    }
    return format;
}

void cli_format_free(struct cli_format *format)
{
    if (format != NULL) {
        free(format->pattern);
        free(format);
    }
}

/* A member with text, or if the bytes are no UTF-8 one named NAME_base64. */
static void json_member(json_t *object, const char *name, const uint8_t *data, size_t len)
{
    char other[32];
    json_t *text = data == NULL ? json_null() : cli_json_text(data, len);
    if (text == NULL) {
        char *encoded = cli_base64(data, len);
        snprintf(other, sizeof other, "%s_base64", name);
        name = other;
        text = json_string(encoded == NULL ? "" : encoded);
        free(encoded);
    }
    json_object_set_new(object, name, text);
}

static json_t *json_headers(const struct sti_record *record)
{
    json_t *array = json_array();
    const uint8_t *pos = record->headers, *end = pos + record->headers_len, *value;
    const char *name;
    uint32_t name_len;
    int64_t value_len;
    while (record->header_count > 0 && pos < end &&
           sti_record_header_next(&pos, end, &name, &name_len, &value, &value_len) == STI_OK) {
        json_t *header = json_object();
        json_member(header, "name", (const uint8_t *)name, name_len);
        json_member(header, "value", value, value_len < 0 ? 0 : (size_t)value_len);
        json_array_append_new(array, header);
    }
    return array;
}

void cli_json_record(json_t *object, const struct sti_record *record)
{
    json_member(object, "key", record->key, record->key_len);
    json_member(object, "value", record->value, record->value_len);
    json_object_set_new(object, "headers", json_headers(record));
}

static int buffer_callback(const char *data, size_t len, void *arg)
{
    cli_buffer_add(arg, data, len);
    return 0;
}

static void record_json(struct cli_buffer *out, const char *topic, int32_t partition,
                        const struct sti_record *record)
{
    json_t *object =
        json_pack("{s:s,s:i,s:I,s:I}", "topic", topic, "partition", partition, "offset",
                  (json_int_t)record->offset, "timestamp", (json_int_t)record->timestamp);
    cli_json_record(object, record);
    (void)json_dump_callback(object, buffer_callback, out, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(object);
}

static void record_pattern(const char *p, struct cli_buffer *out, const char *topic,
                           int32_t partition, const struct sti_record *record)
{
    char number[32];
    while (*p != '\0') {
        size_t plain = strcspn(p, "%");
        cli_buffer_add(out, p, plain);
        p += plain;
        if (*p == '\0') {
            return;
        }
        number[0] = '\0';
        switch (p[1]) {
        case 't':
            cli_buffer_add(out, topic, strlen(topic));
            break;
        case 'p':
            snprintf(number, sizeof number, "%d", partition);
            break;
        case 'o':
            snprintf(number, sizeof number, "%lld", (long long)record->offset);
            break;
        case 'T':
            snprintf(number, sizeof number, "%lld", (long long)record->timestamp);
            break;
        case 'k':
            cli_buffer_add(out, record->key, record->key_len);
            break;
        case 'v':
            cli_buffer_add(out, record->value, record->value_len);
            break;
        default:
            cli_buffer_add(out, "%", 1);
            break;
        }
        cli_buffer_add(out, number, strlen(number));
        p += 2;
    }
}

void cli_format_record(const struct cli_format *format, struct cli_buffer *out, const char *topic,
                       int32_t partition, const struct sti_record *record)
{
    if (format->kind == FORMAT_VALUE) {
        cli_buffer_add(out, record->value, record->value_len);
    } else if (format->kind == FORMAT_JSON) {
        record_json(out, topic, partition, record);
    } else {
        record_pattern(format->pattern, out, topic, partition, record);
    }
    cli_buffer_add(out, "\n", 1);
}
