/* wire.c -- see wire.h. */
#include "wire.h"

#include <string.h>

enum { DEPTH_MAX = 16 };

#define FIELD_NUMBER_MAX 0x1fffffffu

void tgr_reader_init(struct tgr_reader *reader, const struct sti_slice *spans, size_t count)
{
    *reader = (struct tgr_reader){.spans = spans, .count = count};
}

/* Make the current span one that has bytes left. */
static bool settle(struct tgr_reader *reader)
{
    while (reader->index < reader->count && reader->inner >= reader->spans[reader->index].len) {
        reader->index++;
        reader->inner = 0;
    }
    return reader->index < reader->count;
}

bool tgr_read_varint(struct tgr_reader *reader, uint64_t end, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->pos >= end || !settle(reader)) {
            return false;
        }
        uint8_t byte = reader->spans[reader->index].data[reader->inner];
        reader->inner++;
        reader->pos++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        value |= (uint64_t)(byte & 0x7fu) << shift;
        if ((byte & 0x80u) == 0) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool key_split(uint64_t key, uint32_t *number, uint32_t *type)
{
    uint64_t n = key >> 3;
    *type = (uint32_t)(key & 7u);
    *number = (uint32_t)n;
    return n >= 1 && n <= FIELD_NUMBER_MAX &&
           (*type == TGR_WIRE_VARINT || *type == TGR_WIRE_FIXED64 || *type == TGR_WIRE_BYTES ||
            *type == TGR_WIRE_FIXED32);
}

bool tgr_read_key(struct tgr_reader *reader, uint64_t end, uint32_t *number, uint32_t *type)
{
    uint64_t key;
    return tgr_read_varint(reader, end, &key) && key_split(key, number, type);
}

bool tgr_read_len(struct tgr_reader *reader, uint64_t end, uint64_t *len)
{
    return tgr_read_varint(reader, end, len) && *len <= end - reader->pos;
}

bool tgr_read_bytes(struct tgr_reader *reader, uint64_t end, uint64_t len, void *out)
{
    uint8_t *to = out;
    if (reader->pos > end || len > end - reader->pos) {
        return false;
    }
    while (len > 0) {
        if (!settle(reader)) {
            return false;
        }
        const struct sti_slice *span = &reader->spans[reader->index];
        uint64_t n = span->len - reader->inner < len ? span->len - reader->inner : len;
        if (to != NULL) {
            memcpy(to, span->data + reader->inner, (size_t)n);
            to += n;
        }
        reader->inner += n;
        reader->pos += n;
        len -= n;
    }
    return true;
}

bool tgr_read_slices(struct tgr_reader *reader, uint64_t end, uint64_t len, struct sti_slice *out,
                     size_t out_max, size_t *out_count)
{
    *out_count = 0;
    if (reader->pos > end || len > end - reader->pos) {
        return false;
    }
    while (len > 0) {
        if (!settle(reader) || *out_count == out_max) {
            return false;
        }
        const struct sti_slice *span = &reader->spans[reader->index];
        uint64_t n = span->len - reader->inner < len ? span->len - reader->inner : len;
        out[(*out_count)++] = sti_slice_borrow(span->data + reader->inner, (size_t)n);
        reader->inner += n;
        reader->pos += n;
        len -= n;
    }
    return true;
}

bool tgr_skip_field(struct tgr_reader *reader, uint64_t end, uint32_t type)
{
    uint64_t value;
    switch (type) {
    case TGR_WIRE_VARINT:
        return tgr_read_varint(reader, end, &value);
    case TGR_WIRE_FIXED64:
        return tgr_read_bytes(reader, end, 8, NULL);
    case TGR_WIRE_BYTES:
        return tgr_read_len(reader, end, &value) && tgr_read_bytes(reader, end, value, NULL);
    case TGR_WIRE_FIXED32:
        return tgr_read_bytes(reader, end, 4, NULL);
    default:
        return false;
    }
}

size_t tgr_varint_len(uint64_t value)
{
    size_t len = 1;
    while (value >= 0x80) {
        value >>= 7;
        len++;
    }
    return len;
}

size_t tgr_varint_put(uint8_t *out, uint64_t value)
{
    size_t len = 0;
    while (value >= 0x80) {
        out[len++] = (uint8_t)(value | 0x80u);
        value >>= 7;
    }
    out[len++] = (uint8_t)value;
    return len;
}

/* Bytes of the UTF-8 sequence at `data`, or 0 when it is not one (or a zero byte). */
static size_t utf8_step(const uint8_t *data, size_t len)
{
    uint8_t b = data[0];
    if (b < 0x80) {
        return b != 0;
    }
    size_t n = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
    if (b < 0xc2 || b > 0xf4 || len < n) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((data[i] & 0xc0u) != 0x80u) {
            return 0;
        }
    }
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((b == 0xe0 && data[1] < 0xa0) || (b == 0xed && data[1] > 0x9f) ||
        (b == 0xf0 && data[1] < 0x90) || (b == 0xf4 && data[1] > 0x8f)) {
        return 0;
    }
    return n;
}

bool tgr_text_valid(const uint8_t *data, size_t len)
{
    while (len > 0) {
        size_t n = utf8_step(data, len);
        if (n == 0) {
            return false;
        }
        data += n;
        len -= n;
    }
    return true;
}

static uint32_t wire_type_of(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return TGR_WIRE_BYTES;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return TGR_WIRE_FIXED64;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return TGR_WIRE_FIXED32;
    default:
        return TGR_WIRE_VARINT;
    }
}

struct walk {
    size_t fields_left;
    const char *why; /* set on failure */
};

static bool walk_message(struct walk *walk, const ProtobufCMessageDescriptor *type,
                         const struct sti_slice *span, unsigned depth);

static bool walk_value(struct walk *walk, const ProtobufCFieldDescriptor *field,
                       const struct sti_slice *value, unsigned depth)
{
    if (field->type == PROTOBUF_C_TYPE_STRING && !tgr_text_valid(value->data, value->len)) {
        walk->why = "a string is not UTF-8 or holds a zero byte";
        return false;
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return walk_message(walk, field->descriptor, value, depth + 1);
    }
    return true;
}

static bool walk_message(struct walk *walk, const ProtobufCMessageDescriptor *type,
                         const struct sti_slice *span, unsigned depth)
{
    struct tgr_reader reader;
    tgr_reader_init(&reader, span, 1);
    walk->why = "it is cut or malformed";
    if (depth > DEPTH_MAX) {
        walk->why = "it is nested too deeply";
        return false;
    }
    while (reader.pos < span->len) {
        uint32_t number, wire_type;
        if (!tgr_read_key(&reader, span->len, &number, &wire_type)) {
            return false;
        }
        if (walk->fields_left == 0) {
            walk->why = "it has too many fields";
            return false;
        }
        walk->fields_left--;
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(type, number);
        if (field != NULL && wire_type != wire_type_of(field) &&
            !(field->label == PROTOBUF_C_LABEL_REPEATED && wire_type == TGR_WIRE_BYTES)) {
            walk->why = "a field has another wire type";
            return false;
        }
        if (field == NULL || wire_type != TGR_WIRE_BYTES) {
            if (!tgr_skip_field(&reader, span->len, wire_type)) {
                return false;
            }
            continue;
        }
        uint64_t len;
        if (!tgr_read_len(&reader, span->len, &len)) {
            return false;
        }
        struct sti_slice value = sti_slice_borrow(span->data + reader.pos, (size_t)len);
        if (!walk_value(walk, field, &value, depth)) {
            return false;
        }
        walk->why = "it is cut or malformed";
        if (!tgr_read_bytes(&reader, span->len, len, NULL)) {
            return false;
        }
    }
    return true;
}

int tgr_wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
                   size_t fields_max, struct sti_err *err)
{
    struct walk walk = {.fields_left = fields_max};
    struct sti_slice span = sti_slice_borrow(data, len);
    if (!walk_message(&walk, type, &span, 0)) {
        return sti_err_set(err, STI_E_INVALID_ARGUMENT, "%s: %s", type->short_name, walk.why);
    }
    return STI_OK;
}
