/* fetch_encode.c -- see fetch.h.
 *
 *     FetchResponse: { 7a | length of what follows | FetchResult }...      field 15, bytes
 *     FetchResult:   fields 1..8 | 7a | length | batches                   field 15, bytes
 *              or    fields 1..8 | { 72 | length | FetchedRecord }...      field 14, repeated
 *
 * What is long has the highest number of its message, so all that is ours comes before it: headers
 * lie in one block of memory, of which each run between two payloads is a slice, and payloads are
 * the memory that storage handed out, or the block that holds decoded records. gRPC sends them in
 * place and calls release() at the end.
 */
#include <grpc/slice.h>

#include "fetch.h"
#include "wire.h"

#define KEY_FIELD_15 0x7au

static void release(void *owner)
{
    ((struct sti_slice_owner *)owner)->unref(owner);
}

static uint64_t batches_len(const struct tgr_fetch_out *out)
{
    return out->decoded ? 0 : sti_slices_len(out->row->slices, out->row->slice_count);
}

/* Bytes of the payload, which follows the header. */
static uint64_t payload_len(const struct tgr_fetch_out *out)
{
    return out->decoded ? GRPC_SLICE_LENGTH(out->records) : batches_len(out);
}

/* Bytes of fields 1..8 and the head of `batches`. */
static uint64_t body_len(const struct tgr_fetch_out *out)
{
    uint64_t len = streamit__v1__fetch_result__get_packed_size(&out->result);
    uint64_t batches = batches_len(out);
    return batches == 0 ? len : len + 1 + tgr_varint_len(batches);
}

static size_t header_put(uint8_t *bytes, const struct tgr_fetch_out *out)
{
    size_t n = 0;
    uint64_t batches = batches_len(out);
    bytes[n++] = KEY_FIELD_15;
    n += tgr_varint_put(bytes + n, body_len(out) + payload_len(out));
    n += streamit__v1__fetch_result__pack(&out->result, bytes + n);
    if (batches > 0) {
        bytes[n++] = KEY_FIELD_15;
        n += tgr_varint_put(bytes + n, batches);
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

/* Move a row's payload to `slices`. @return how many */
static size_t payloads_take(struct tgr_fetch_out *out, grpc_slice *slices)
{
    struct sti_fetch_row *row = out->row;
    size_t n = 0;
    if (out->decoded) {
        slices[n++] = out->records;
        out->records = grpc_empty_slice();
        return n;
    }
    for (uint32_t s = 0; s < row->slice_count; s++) {
        slices[n++] = payload_take(&row->slices[s]);
    }
    row->slice_count = 0;
    return n;
}

grpc_byte_buffer *tgr_fetch_encode(struct tgr_arena *arena, struct tgr_fetch_out *outs,
                                   size_t count)
{
    uint64_t header_len = 0;
    size_t slices_max = 1;
    for (size_t r = 0; r < count; r++) {
        uint64_t body = body_len(&outs[r]);
        header_len += 1 + tgr_varint_len(body + payload_len(&outs[r])) + body;
        slices_max += 2u + outs[r].row->slice_count;
    }
    grpc_slice *slices = tgr_arena_alloc(arena, slices_max, sizeof *slices);
    if (slices == NULL) {
        return NULL;
    }
    grpc_slice headers = grpc_slice_malloc((size_t)header_len);
    uint8_t *bytes = GRPC_SLICE_START_PTR(headers);
    size_t pos = 0, begin = 0, n = 0;
    for (size_t r = 0; r < count; r++) {
        pos += header_put(bytes + pos, &outs[r]);
        if (payload_len(&outs[r]) > 0 || r + 1 == count) { /* else the next header joins this run */
            slices[n++] = grpc_slice_sub(headers, begin, pos);
            begin = pos;
            n += payloads_take(&outs[r], slices + n);
        }
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, n);
    for (size_t i = 0; i < n; i++) {
        grpc_slice_unref(slices[i]);
    }
    grpc_slice_unref(headers);
    return buffer;
}
