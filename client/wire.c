/* wire.c -- the two messages that carry batches, by hand, so that batches are not copied into and
 * out of protobuf objects.
 *
 * Field numbers are those of proto/streamit/v1/streamit.proto; the bytes are what any protobuf
 * library would write and read.
 */
#include "internal.h"

#include <string.h>

static size_t put_varint(uint8_t *to, uint64_t value)
{
    size_t n = 0;
    while (value >= 0x80) {
        to[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to[n++] = (uint8_t)value;
    return n;
}

static size_t varint_len(uint64_t value)
{
    uint8_t scratch[10];
    return put_varint(scratch, value);
}

size_t cl_encode_produce_head(uint8_t to[CL_PRODUCE_HEAD_MAX], int acks, uint32_t timeout_ms,
                              const char *topic, int32_t partition, size_t batch_len)
{
    size_t topic_len = strlen(topic), n = 0;
    uint64_t index = (uint64_t)(int64_t)partition;
    size_t row = 1 + varint_len(topic_len) + topic_len +
                 (partition == 0 ? 0 : 1 + varint_len(index)) + 1 + varint_len(batch_len) +
                 batch_len;
    if (acks != 0) {
        to[n++] = 1 << 3;
        n += put_varint(to + n, (uint64_t)acks);
    }
    if (timeout_ms != 0) {
        to[n++] = 2 << 3;
        n += put_varint(to + n, timeout_ms);
    }
    to[n++] = 15 << 3 | 2;
    n += put_varint(to + n, row);
    to[n++] = 1 << 3 | 2;
    n += put_varint(to + n, topic_len);
    memcpy(to + n, topic, topic_len);
    n += topic_len;
    if (partition != 0) {
        to[n++] = 2 << 3;
        n += put_varint(to + n, index);
    }
    to[n++] = 15 << 3 | 2;
    n += put_varint(to + n, batch_len);
    return n;
}

static bool get_varint(const uint8_t **pos, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && *pos < end; shift += 7) {
        uint8_t byte = *(*pos)++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return true;
        }
    }
    return false;
}

struct field {
    uint64_t number, value; /* value of wire type 0; length of wire type 2 */
    unsigned type;
    const uint8_t *data; /* wire type 2 */
};

/* Take one field. @return false at malformed bytes */
static bool get_field(const uint8_t **pos, const uint8_t *end, struct field *f)
{
    uint64_t key;
    if (!get_varint(pos, end, &key)) {
        return false;
    }
    f->number = key >> 3;
    f->type = (unsigned)(key & 7);
    f->data = NULL;
    f->value = 0;
    if (f->type == 0) {
        return get_varint(pos, end, &f->value);
    }
    uint64_t len = f->type == 1 ? 8 : 4;
    if (f->type == 2 && !get_varint(pos, end, &len)) {
        return false;
    }
    if ((f->type != 1 && f->type != 2 && f->type != 5) || len > (uint64_t)(end - *pos)) {
        return false;
    }
    f->data = *pos;
    f->value = len;
    *pos += len;
    return true;
}

static bool decode_row(const uint8_t *pos, const uint8_t *end, struct cl_fetch_result *out)
{
    struct field f;
    while (pos < end) {
        if (!get_field(&pos, end, &f)) {
            return false;
        }
        if (f.number == 3 && f.type == 2) {
            Streamit__V1__Error *error = streamit__v1__error__unpack(NULL, (size_t)f.value, f.data);
            if (error == NULL) {
                return false;
            }
            out->has_error = true;
            cl_failure_from_error(&out->failure, error);
            streamit__v1__error__free_unpacked(error, NULL);
        } else if (f.number == 4 && f.type == 0) {
            out->high_watermark = (int64_t)f.value;
        } else if (f.number == 6 && f.type == 0) {
            out->log_start = (int64_t)f.value;
        } else if (f.number == 15 && f.type == 2) {
            out->batches = f.data;
            out->batches_len = (size_t)f.value;
        }
    }
    return true;
}

bool cl_decode_fetch(const uint8_t *data, size_t len, struct cl_fetch_result *out)
{
    const uint8_t *pos = data, *end = data + len;
    struct field f;
    int rows = 0;
    memset(out, 0, sizeof *out);
    while (pos < end) {
        if (!get_field(&pos, end, &f)) {
            return false;
        }
        if (f.number == 15 && f.type == 2) {
            rows++;
            if (!decode_row(f.data, f.data + f.value, out)) {
                return false;
            }
        }
    }
    return rows == 1;
}
