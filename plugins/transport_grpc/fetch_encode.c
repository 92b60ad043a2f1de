/* fetch_encode.c -- see fetch.h.
 *
 *     FetchResponse: { 7a | length of what follows | FetchResult }...   field 15, bytes
 *     FetchResult:   fields 1..7 | 7a | length | batches                field 15, bytes
 *
 * `batches` has the highest number of its message, so all that is ours comes before it: headers
 * lie in one block of memory, of which each run between two payloads is a slice, and payloads are
 * the memory that storage handed out. gRPC sends them in place and calls release() at the end.
 */
#include <grpc/slice.h>

#include "fetch.h"
#include "wire.h"

#define KEY_FIELD_15 0x7au

static void release(void *owner)
{
    ((struct sti_slice_owner *)owner)->unref(owner);
}

static uint64_t payload_len(const struct sti_fetch_row *row)
{
    return sti_slices_len(row->slices, row->slice_count);
}

/* Bytes of fields 1..7 and the head of `batches`. */
static uint64_t body_len(const Streamit__V1__FetchResult *result, uint64_t payload)
{
    uint64_t len = streamit__v1__fetch_result__get_packed_size(result);
    return payload == 0 ? len : len + 1 + tgr_varint_len(payload);
}

static size_t header_put(uint8_t *out, const Streamit__V1__FetchResult *result, uint64_t payload)
{
    size_t n = 0;
    out[n++] = KEY_FIELD_15;
    n += tgr_varint_put(out + n, body_len(result, payload) + payload);
    n += streamit__v1__fetch_result__pack(result, out + n);
    if (payload > 0) {
        out[n++] = KEY_FIELD_15;
        n += tgr_varint_put(out + n, payload);
    }
    return n;
}

static grpc_slice payload_take(struct sti_slice *slice)
{
    grpc_slice out;
    if (slice->owner == NULL) {
        out = grpc_slice_from_copied_buffer((const char *)slice->data, (size_t)slice->len);
    } else {
        out = grpc_slice_new_with_user_data((void *)(uintptr_t)slice->data, (size_t)slice->len,
                                            release, slice->owner);
    }
    *slice = (struct sti_slice){.fd = -1}; /* the reference is gRPC's now */
    return out;
}

grpc_byte_buffer *tgr_fetch_encode(struct tgr_arena *arena, struct sti_fetch *call,
                                   const Streamit__V1__FetchResult *results)
{
    uint64_t header_len = 0;
    size_t count = 0;
    for (uint32_t r = 0; r < call->row_count; r++) {
        uint64_t payload = payload_len(call->rows[r]);
        uint64_t body = body_len(&results[r], payload);
        header_len += 1 + tgr_varint_len(body + payload) + body;
        count += 1u + call->rows[r]->slice_count;
    }
    grpc_slice *slices = tgr_arena_alloc(arena, count, sizeof *slices);
    if (slices == NULL) {
        return NULL;
    }
    grpc_slice headers = grpc_slice_malloc((size_t)header_len);
    uint8_t *bytes = GRPC_SLICE_START_PTR(headers);
    size_t pos = 0, begin = 0, n = 0;
    for (uint32_t r = 0; r < call->row_count; r++) {
        struct sti_fetch_row *row = call->rows[r];
        pos += header_put(bytes + pos, &results[r], payload_len(row));
        if (row->slice_count == 0 && r + 1 < call->row_count) {
            continue; /* the next row's header joins this run */
        }
        slices[n++] = grpc_slice_sub(headers, begin, pos);
        begin = pos;
        for (uint32_t s = 0; s < row->slice_count; s++) {
            slices[n++] = payload_take(&row->slices[s]);
        }
        row->slice_count = 0;
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, n);
    for (size_t i = 0; i < n; i++) {
        grpc_slice_unref(slices[i]);
    }
    grpc_slice_unref(headers);
    return buffer;
}
