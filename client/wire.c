/* wire.c -- the two messages that carry batches, by hand, so that batches are not copied into and
 * out of protobuf objects.
 *
 * Field numbers are those of proto/streamit/v1/streamit.proto; the bytes are what any protobuf
 * library would write and read.
 */
#include "internal.h"

#include <stdlib.h>
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

/* A field of wire type 0, left out when it is zero. */
static size_t put_number(uint8_t *to, unsigned number, uint64_t value)
{
    if (value == 0) {
        return 0;
    }
    to[0] = (uint8_t)(number << 3);
    return 1 + put_varint(to + 1, value);
}

static uint64_t of_int32(int32_t value)
{
    return (uint64_t)(int64_t)value;
}

size_t cl_encode_produce_head(uint8_t to[CL_PRODUCE_HEAD_MAX], const struct cl_produce_head *head)
{
    size_t n = put_number(to, 1, head->id);
    n += put_number(to + n, 2, (uint64_t)head->acks);
    n += put_number(to + n, 3, head->timeout_ms);
    n += put_number(to + n, 4, of_int32(head->replicas_min));
    n += put_number(to + n, 5, of_int32(head->replicas_synced_min));
    return n + put_number(to + n, 6, head->answered);
}

size_t cl_encode_produce_row(uint8_t to[CL_PRODUCE_ROW_MAX], const char *topic, int32_t partition,
                             size_t batch_len)
{
    uint8_t scratch[11];
    size_t topic_len = strlen(topic), n = 0;
    size_t row = 1 + varint_len(topic_len) + topic_len +
                 put_number(scratch, 2, of_int32(partition)) + 1 + varint_len(batch_len) +
                 batch_len;
    to[n++] = 15 << 3 | 2;
    n += put_varint(to + n, row);
    to[n++] = 1 << 3 | 2;
    n += put_varint(to + n, topic_len);
    memcpy(to + n, topic, topic_len);
    n += topic_len;
    n += put_number(to + n, 2, of_int32(partition));
    to[n++] = 15 << 3 | 2;
    return n + put_varint(to + n, batch_len);
}

/* ---- reading over slices ------------------------------------------------------------------- */

struct cl_cursor cl_cursor_make(const grpc_slice *slices, size_t count)
{
    struct cl_cursor at = {.slices = slices, .count = count};
    for (size_t i = 0; i < count; i++) {
        at.left += GRPC_SLICE_LENGTH(slices[i]);
    }
    return at;
}

/* Bytes that are left in the slice of the cursor, at most `want`; steps over slices that are used
 * up. at->left > 0. */
static size_t here(struct cl_cursor *at, size_t want)
{
    while (at->pos == GRPC_SLICE_LENGTH(at->slices[at->index])) {
        at->index++;
        at->pos = 0;
    }
    size_t have = GRPC_SLICE_LENGTH(at->slices[at->index]) - at->pos;
    return have < want ? have : want;
}

bool cl_cursor_copy(struct cl_cursor *at, void *to, size_t len)
{
    uint8_t *out = to;
    if (len > at->left) {
        return false;
    }
    while (len > 0) {
        size_t n = here(at, len);
        if (out != NULL) {
            memcpy(out, GRPC_SLICE_START_PTR(at->slices[at->index]) + at->pos, n);
            out += n;
        }
        at->pos += n;
        at->left -= n;
        len -= n;
    }
    return true;
}

bool cl_cursor_skip(struct cl_cursor *at, size_t len)
{
    return cl_cursor_copy(at, NULL, len);
}

size_t cl_cursor_take(struct cl_cursor *at, size_t len, struct sti_slice *pieces)
{
    size_t count = 0;
    len = len < at->left ? len : at->left;
    while (len > 0) {
        size_t n = here(at, len);
        const uint8_t *data = GRPC_SLICE_START_PTR(at->slices[at->index]) + at->pos;
        pieces[count++] = sti_slice_borrow(data, n);
        at->pos += n;
        at->left -= n;
        len -= n;
    }
    return count;
}

static bool get_varint(struct cl_cursor *at, uint64_t *out)
{
    uint8_t byte;
    *out = 0;
    for (unsigned shift = 0; shift < 64 && cl_cursor_copy(at, &byte, 1); shift += 7) {
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return true;
        }
    }
    return false;
}

struct field {
    uint64_t number, value; /* value of wire type 0 */
    unsigned type;
    struct cl_cursor data; /* of the other types */
};

/* Take one field. @return false at malformed bytes */
static bool get_field(struct cl_cursor *at, struct field *f)
{
    uint64_t key;
    if (!get_varint(at, &key)) {
        return false;
    }
    f->number = key >> 3;
    f->type = (unsigned)(key & 7);
    f->value = 0;
    f->data.left = 0;
    if (f->type == 0) {
        return get_varint(at, &f->value);
    }
    uint64_t len = f->type == 1 ? 8 : 4;
    if (f->type == 2 && !get_varint(at, &len)) {
        return false;
    }
    if ((f->type != 1 && f->type != 2 && f->type != 5) || len > at->left) {
        return false;
    }
    f->data = *at;
    f->data.left = (size_t)len;
    return cl_cursor_skip(at, (size_t)len);
}

/* Of a row's Error. */
static bool row_error(struct cl_cursor at, struct cl_fetch_row *row)
{
    size_t len = at.left;
    uint8_t *copy = len > (1u << 20) ? NULL : malloc(len + 1);
    bool read = copy != NULL && cl_cursor_copy(&at, copy, len);
    Streamit__V1__Error *error = read ? streamit__v1__error__unpack(NULL, len, copy) : NULL;
    free(copy);
    if (error == NULL) {
        return false;
    }
    row->has_error = error->code != STREAMIT__V1__ERROR_CODE__OK;
    cl_failure_from_error(&row->failure, error);
    streamit__v1__error__free_unpacked(error, NULL);
    return true;
}

static bool decode_row(struct cl_cursor at, struct cl_fetch_row *row)
{
    struct field f;
    memset(row, 0, sizeof *row);
    while (at.left > 0) {
        if (!get_field(&at, &f)) {
            return false;
        }
        if (f.number == 1 && f.type == 2) {
            size_t len = f.data.left;
            if (len >= sizeof row->topic || !cl_cursor_copy(&f.data, row->topic, len)) {
                return false;
            }
            row->topic[len] = '\0';
        } else if (f.number == 2 && f.type == 0) {
            row->partition = (int32_t)f.value;
        } else if (f.number == 3 && f.type == 2) {
            if (!row_error(f.data, row)) {
                return false;
            }
        } else if (f.number == 4 && f.type == 0) {
            row->high_watermark = (int64_t)f.value;
        } else if (f.number == 6 && f.type == 0) {
            row->log_start = (int64_t)f.value;
        } else if (f.number == 15 && f.type == 2) {
            row->batches = f.data;
        }
    }
    return true;
}

bool cl_decode_fetch(struct cl_cursor message, void (*row)(void *arg, struct cl_fetch_row *row),
                     void *arg)
{
    struct cl_fetch_row out;
    struct field f;
    while (message.left > 0) {
        if (!get_field(&message, &f)) {
            return false;
        }
        if (f.number == 15 && f.type == 2) {
            if (!decode_row(f.data, &out)) {
                return false;
            }
            row(arg, &out);
        }
    }
    return true;
}
