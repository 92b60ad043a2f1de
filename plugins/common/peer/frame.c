/* frame.c -- see frame.h for the format. */
#include "frame.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x50495453 }; /* "STIP" */

/* ---- numbers -------------------------------------------------------------------------------- */

static void put16(uint8_t *at, uint16_t v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *at, uint32_t v)
{
    put16(at, (uint16_t)v);
    put16(at + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *at, uint64_t v)
{
    put32(at, (uint32_t)v);
    put32(at + 4, (uint32_t)(v >> 32));
}

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t get32(const uint8_t *at)
{
    return get16(at) | (uint32_t)get16(at + 2) << 16;
}

static uint64_t get64(const uint8_t *at)
{
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

/* ---- reading -------------------------------------------------------------------------------- */

void pco_cursor_init(struct pco_cursor *cursor, const struct sti_slice *slices, uint32_t count)
{
    *cursor = (struct pco_cursor){
        .slices = slices, .count = count, .left = sti_slices_len(slices, count)};
}

/* What is left of the slice that the cursor is in; moves on from one that is used up. */
static uint64_t here(struct pco_cursor *cursor)
{
    while (cursor->index < cursor->count && cursor->pos == cursor->slices[cursor->index].len) {
        cursor->index++;
        cursor->pos = 0;
    }
    return cursor->index < cursor->count ? cursor->slices[cursor->index].len - cursor->pos : 0;
}

static bool copy_out(struct pco_cursor *cursor, void *out, size_t len)
{
    uint8_t *to = out;
    if (cursor->left < len) {
        return false;
    }
    cursor->left -= len;
    while (len > 0) {
        uint64_t n = here(cursor);
        n = n < len ? n : len;
        memcpy(to, cursor->slices[cursor->index].data + cursor->pos, (size_t)n);
        cursor->pos += n;
        to += n;
        len -= (size_t)n;
    }
    return true;
}

uint32_t pco_cursor_pieces(const struct pco_cursor *cursor, uint64_t len)
{
    struct pco_cursor at = *cursor;
    uint32_t pieces = 0;
    while (len > 0) {
        uint64_t n = here(&at);
        n = n < len ? n : len;
        at.pos += n;
        len -= n;
        pieces++;
    }
    return pieces;
}

void pco_cursor_take(struct pco_cursor *cursor, uint64_t len, struct sti_slice *out)
{
    cursor->left -= len;
    while (len > 0) {
        uint64_t n = here(cursor);
        n = n < len ? n : len;
        *out = sti_slice_borrow(cursor->slices[cursor->index].data + cursor->pos, (size_t)n);
        out->owner = cursor->slices[cursor->index].owner;
        sti_slice_ref(out);
        out++;
        cursor->pos += n;
        len -= n;
    }
}

static bool is_printable(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return false;
        }
    }
    return len > 0;
}

bool pco_name_ok(const char *name)
{
    size_t len = name == NULL ? 0 : strnlen(name, STI_PEER_NAME_MAX + 1);
    return len <= STI_PEER_NAME_MAX && is_printable(name, len);
}

static int bad(struct sti_err *err, const char *what)
{
    return sti_err_set(err, STI_E_CORRUPT_BATCH, "a malformed frame: %s", what);
}

static int read_hello(struct pco_cursor *cursor, struct pco_frame *out, struct sti_err *err)
{
    uint8_t at[PCO_HELLO_BYTES];
    if (!copy_out(cursor, at, sizeof at)) {
        return bad(err, "a short hello");
    }
    if (get32(at) != MAGIC) {
        return bad(err, "a hello of another protocol");
    }
    out->hello.major = get16(at + 4);
    out->hello.minor = get16(at + 6);
    out->hello.node_id = (int32_t)get32(at + 8);
    out->hello.wanted_id = (int32_t)get32(at + 12);
    memcpy(out->hello.cluster_id, at + 16, PCO_CLUSTER_ID_MAX);
    out->hello.cluster_id[PCO_CLUSTER_ID_MAX] = '\0';
    size_t len = strlen(out->hello.cluster_id);
    return len == 0 || is_printable(out->hello.cluster_id, len) ? STI_OK
                                                                : bad(err, "its cluster id");
}

static int read_names(struct pco_cursor *cursor, uint8_t service_len, uint8_t method_len,
                      struct pco_frame *out, struct sti_err *err)
{
    if (service_len == 0 || service_len > STI_PEER_NAME_MAX || method_len == 0 ||
        method_len > STI_PEER_NAME_MAX) {
        return bad(err, "the length of a name");
    }
    if (!copy_out(cursor, out->service, service_len) ||
        !copy_out(cursor, out->method, method_len)) {
        return bad(err, "it ends in a name");
    }
    out->service[service_len] = '\0';
    out->method[method_len] = '\0';
    return is_printable(out->service, service_len) && is_printable(out->method, method_len)
               ? STI_OK
               : bad(err, "a name");
}

/* A sentence of the other side goes to logs and errors: what is not text becomes '?'. */
static int read_text(struct pco_cursor *cursor, uint32_t len, struct pco_frame *out,
                     struct sti_err *err)
{
    if (len > PCO_TEXT_MAX || !copy_out(cursor, out->text, len)) {
        return bad(err, "the length of its sentence");
    }
    out->text[len] = '\0';
    for (uint32_t i = 0; i < len; i++) {
        if (out->text[i] < ' ' || out->text[i] > '~') {
            out->text[i] = '?';
        }
    }
    return STI_OK;
}

int pco_frame_read(struct pco_cursor *cursor, uint64_t payload_max, struct pco_frame *out,
                   struct sti_err *err)
{
    uint8_t at[PCO_FIXED_BYTES];
    uint64_t all = cursor->left;
    memset(out, 0, offsetof(struct pco_frame, service));
    out->service[0] = out->method[0] = out->text[0] = '\0';
    out->payload_len = 0;
    if (!copy_out(cursor, at, sizeof at)) {
        return bad(err, "it is too short");
    }
    uint64_t len = get32(at);
    uint32_t text_len = get32(at + 20);
    if (len < PCO_FIXED_BYTES || len > all) {
        return bad(err, "its length");
    }
    out->kind = at[4];
    out->id = get64(at + 8);
    bool call = out->kind == PCO_CALL;
    if (at[7] != 0 || (!call && (at[5] != 0 || at[6] != 0)) || (call && text_len != 0)) {
        return bad(err, "a field that should be zero");
    }
    *(call ? (int32_t *)&out->timeout_ms : &out->status) = (int32_t)get32(at + 16);
    int rc = call                      ? read_names(cursor, at[5], at[6], out, err)
             : out->kind == PCO_HELLO  ? read_hello(cursor, out, err)
             : out->kind == PCO_ANSWER ? STI_OK
                                       : bad(err, "its kind");
    if (rc == STI_OK && !call) {
        rc = read_text(cursor, text_len, out, err);
    }
    if (rc != STI_OK) {
        return rc;
    }
    uint64_t used = all - cursor->left;
    if (out->status > 0 || used > len) {
        return bad(err, out->status > 0 ? "its status" : "it is shorter than what it holds");
    }
    out->payload_len = len - used;
    if (out->payload_len > payload_max ||
        (out->payload_len > 0 && (out->kind == PCO_HELLO || out->status != 0))) {
        return bad(err, "the length of its payload");
    }
    return STI_OK;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void message_ref(struct sti_slice_owner *owner)
{
    struct pco_message *message = (struct pco_message *)(void *)owner;
    (void)atomic_fetch_add_explicit(&message->refs, 1, memory_order_relaxed);
}

static void message_unref(struct sti_slice_owner *owner)
{
    struct pco_message *message = (struct pco_message *)(void *)owner;
    if (atomic_fetch_sub_explicit(&message->refs, 1, memory_order_acq_rel) == 1) {
        free(message);
    }
}

/* @return the length of what stands before the payload */
static size_t write_head(uint8_t *at, const struct pco_frame *frame)
{
    size_t text_len = frame->kind == PCO_CALL ? 0 : strnlen(frame->text, PCO_TEXT_MAX);
    size_t len = PCO_FIXED_BYTES;
    memset(at, 0, PCO_FIXED_BYTES + PCO_HELLO_BYTES);
    at[4] = (uint8_t)frame->kind;
    put64(at + 8, frame->id);
    put32(at + 16, frame->kind == PCO_CALL ? frame->timeout_ms : (uint32_t)frame->status);
    put32(at + 20, (uint32_t)text_len);
    if (frame->kind == PCO_CALL) {
        at[5] = (uint8_t)strlen(frame->service);
        at[6] = (uint8_t)strlen(frame->method);
        memcpy(at + len, frame->service, at[5]);
        memcpy(at + len + at[5], frame->method, at[6]);
        len += (size_t)at[5] + at[6];
    } else if (frame->kind == PCO_HELLO) {
        put32(at + len, MAGIC);
        put16(at + len + 4, frame->hello.major);
        put16(at + len + 6, frame->hello.minor);
        put32(at + len + 8, (uint32_t)frame->hello.node_id);
        put32(at + len + 12, (uint32_t)frame->hello.wanted_id);
        memcpy(at + len + 16, frame->hello.cluster_id, strlen(frame->hello.cluster_id));
        len += PCO_HELLO_BYTES;
    }
    memcpy(at + len, frame->text, text_len);
    return len + text_len;
}

struct pco_message *pco_message_new(const struct pco_frame *frame, const struct sti_slice *payload,
                                    uint32_t payload_count)
{
    uint8_t head[PCO_HEAD_MAX];
    size_t head_len = write_head(head, frame);
    uint64_t copied = 0, len = head_len;
    for (uint32_t i = 0; i < payload_count; i++) {
        copied += payload[i].owner == NULL ? payload[i].len : 0;
        len += payload[i].len;
    }
    put32(head, (uint32_t)len);
    size_t slices_len = ((size_t)payload_count + 1) * sizeof(struct sti_slice);
    struct pco_message *m = malloc(sizeof *m + slices_len + head_len + (size_t)copied);
    if (m == NULL) {
        return NULL;
    }
    *m = (struct pco_message){.owner = {.ref = message_ref, .unref = message_unref},
                              .id = frame->id,
                              .len = len,
                              .payload_len = len - head_len,
                              .copied = copied,
                              .slices = (struct sti_slice *)(void *)(m + 1)};
    uint8_t *at = (uint8_t *)(m + 1) + slices_len;
    atomic_init(&m->refs, 1);
    memcpy(at, head, head_len);
    m->slices[m->slice_count] = sti_slice_borrow(at, head_len);
    m->slices[m->slice_count++].owner = &m->owner;
    at += head_len;
    for (uint32_t i = 0; i < payload_count; i++) {
        struct sti_slice *slice = &m->slices[m->slice_count];
        if (payload[i].len == 0) {
            continue;
        }
        *slice = payload[i];
        if (slice->owner == NULL) {
            memcpy(at, payload[i].data, (size_t)payload[i].len);
            *slice = sti_slice_borrow(at, (size_t)payload[i].len);
            slice->owner = &m->owner;
            at += payload[i].len;
        }
        m->slice_count++;
    }
    for (uint32_t i = 0; i < m->slice_count; i++) {
        sti_slice_ref(&m->slices[i]);
    }
    return m;
}

void pco_message_number(struct pco_message *message, uint64_t id)
{
    message->id = id;
    put64((uint8_t *)(uintptr_t)message->slices[0].data + 8, id);
}

void pco_message_free(struct pco_message *message)
{
    for (uint32_t i = 0; i < message->slice_count; i++) {
        sti_slice_release(&message->slices[i]);
    }
    message_unref(&message->owner);
}
