/* calls.c -- append, read and sync: calls that are answered through `done`.
 *
 * Each is an object of its own that outlives its answer by many calls, so that a second answer, or
 * one that was not due, is seen when it comes and not as a broken heap.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

enum { KEPT_CALLS = 512 };

struct pending_bytes;

/* ---- answers -------------------------------------------------------------------------------- */

struct cs_call {
    union {
        struct sti_storage_append append;
        struct sti_storage_read read;
        struct sti_storage_sync sync;
    } op; /* first */
    struct cs_part *p;
    const char *what;
    int rc, status;
    struct sti_err err;
    _Atomic int answers;
    bool due;                   /* the call returned STI_OK */
    struct cs_pending *pending; /* of a call that is begun and ended apart */
    struct pending_bytes *bytes;
    struct cs_waiter w;
};

static struct cs_call *kept[KEPT_CALLS];
static unsigned kept_next;
static pthread_mutex_t kept_mu = PTHREAD_MUTEX_INITIALIZER;

static void call_free(struct cs_call *call)
{
    if (call != NULL) {
        CFM_EXPECT(atomic_load(&call->answers) == (call->due ? 1 : 0),
                   "%s returned %s, and `done` was called %d times", call->what,
                   sti_status_name(call->rc), atomic_load(&call->answers));
        cs_waiter_fini(&call->w);
        free(call);
    }
}

static void call_keep(struct cs_call *call)
{
    pthread_mutex_lock(&kept_mu);
    struct cs_call *old = kept[kept_next];
    kept[kept_next] = call;
    kept_next = (kept_next + 1) % KEPT_CALLS;
    pthread_mutex_unlock(&kept_mu);
    call_free(old);
}

static struct cs_call *call_new(struct cs_part *p, const char *what)
{
    struct cs_call *call = calloc(1, sizeof *call);
    CFM_CHECK(call != NULL);
    call->p = p;
    call->what = what;
    cs_waiter_init(&call->w);
    return call;
}

static void call_answered(struct cs_call *call, int status, const struct sti_err *err)
{
    if (atomic_fetch_add(&call->answers, 1) != 0) {
        CFM_FAIL("`done` of %s was called twice", call->what);
    }
    call->status = status;
    if (status != STI_OK && status != STI_E_WOULD_BLOCK) {
        CFM_EXPECT(err != NULL, "`done` of %s says %s without an error object", call->what,
                   sti_status_name(status));
    }
    if (err != NULL) {
        call->err = *err;
    }
    if (call->pending != NULL && call->pending->on_answer != NULL) {
        call->pending->on_answer(call->pending);
    }
    cs_waiter_end(&call->w);
}

/* The call was made, and returned call->rc. @return its final status */
static int call_wait(struct cs_call *call)
{
    call->due = call->rc == STI_OK;
    if (!call->due) {
        return call->rc;
    }
    CFM_EXPECT(cs_waiter_wait(&call->w), "%s returned OK, and `done` was not called within %u s",
               call->what, cs_answer_s);
    if (call->status != STI_OK && call->status != STI_E_WOULD_BLOCK) {
        CFM_EXPECT(call->err.code == call->status && call->err.msg[0] != '\0',
                   "%s ended with %s, and its error object says %s \"%s\"", call->what,
                   sti_status_name(call->status), sti_status_name(call->err.code), call->err.msg);
    }
    return call->status;
}

void cs_calls_end(void)
{
    for (unsigned i = 0; i < KEPT_CALLS; i++) {
        call_free(kept[i]);
        kept[i] = NULL;
    }
}

/* ---- append --------------------------------------------------------------------------------- */

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    call_answered((struct cs_call *)(void *)op, status, err);
}

static void append_run(void *arg)
{
    struct cs_call *call = arg;
    call->rc = call->p->cs->api->append(call->p->part, &call->op.append);
}

/* The bytes of an append, each batch in two slices that meet in the middle. */
struct append_bytes {
    uint8_t *data;
    struct sti_append_batch *rows;
    struct sti_append_batch **ptrs;
    struct sti_slice *slices;
};

static void bytes_make(struct append_bytes *a, const struct cs_batch *batches, uint32_t count)
{
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += batches[i].len;
    }
    a->data = malloc(total + 1);
    a->rows = calloc(count + 1, sizeof *a->rows);
    a->ptrs = calloc(count + 1, sizeof(*a->ptrs));
    a->slices = calloc(2 * (size_t)count + 1, sizeof *a->slices);
    CFM_CHECK(a->data != NULL && a->rows != NULL && a->ptrs != NULL && a->slices != NULL);
    uint8_t *data = a->data;
    for (uint32_t i = 0; i < count; i++) {
        const struct cs_batch *b = &batches[i];
        size_t half = STI_BATCH_PATCH_LEN + (b->len - STI_BATCH_PATCH_LEN) / 2;
        cs_encode(b, data);
        a->slices[2 * i] = sti_slice_borrow(data + STI_BATCH_PATCH_LEN, half - STI_BATCH_PATCH_LEN);
        a->slices[2 * i + 1] = sti_slice_borrow(data + half, b->len - half);
        a->rows[i] = (struct sti_append_batch){.struct_size = sizeof *a->rows,
                                               .slice_count = 2,
                                               .slices = &a->slices[2 * i],
                                               .len = b->len,
                                               .base_offset = b->base,
                                               .last_offset = cs_last(b),
                                               .max_timestamp = b->timestamp,
                                               .leader_epoch = b->epoch};
        memcpy(a->rows[i].head, data, STI_BATCH_PATCH_LEN);
        a->ptrs[i] = &a->rows[i];
        data += b->len;
    }
}

int cs_append_flags(struct cs_part *p, const struct cs_batch *batches, uint32_t count,
                    uint32_t flags, struct cs_append *out)
{
    struct append_bytes bytes;
    struct cs_call *call = call_new(p, "append");
    bytes_make(&bytes, batches, count);
    call->op.append = (struct sti_storage_append){.struct_size = sizeof call->op.append,
                                                  .batch_count = count,
                                                  .batches = bytes.ptrs,
                                                  .done = append_done,
                                                  .written_end = -2,
                                                  .flags = flags};
    cs_run(p->cs, &p->strand, append_run, call);
    int rc = CS_DOCUMENTED("append", call_wait(call), STI_E_DISK_FULL, STI_E_IO, STI_E_POISONED,
                           STI_E_RESOURCE_EXHAUSTED, STI_E_INVALID_ARGUMENT,
                           STI_E_MESSAGE_TOO_LARGE, STI_E_WOULD_BLOCK);
    CFM_EXPECT(rc != STI_E_WOULD_BLOCK || (flags & STI_APPEND_NO_WAIT) != 0,
               "an append that may wait ended with WOULD_BLOCK");
    if (rc == STI_OK && count > 0) {
        CFM_EQ(call->op.append.written_end, cs_last(&batches[count - 1]) + 1);
    }
    CFM_EXPECT(rc != STI_E_DISK_FULL || call->op.append.bytes_needed > 0,
               "an append ended with DISK_FULL and does not say how many bytes it needs");
    if (out != NULL) {
        out->err = call->err;
        out->written_end = call->op.append.written_end;
        out->bytes_needed = call->op.append.bytes_needed;
    }
    /* The bytes are the caller's again: an engine that still looks at them finds others. */
    for (uint32_t i = 0, at = 0; i < count; at += batches[i++].len) {
        memset(bytes.data + at, 0xdd, batches[i].len);
    }
    free(bytes.data);
    free(bytes.rows);
    free(bytes.ptrs);
    free(bytes.slices);
    call->op.append.batches = NULL;
    call_keep(call);
    return rc;
}

int cs_append(struct cs_part *p, const struct cs_batch *batches, uint32_t count,
              struct cs_append *out)
{
    return cs_append_flags(p, batches, count, 0, out);
}

int cs_append_like(struct cs_part *p, int64_t base, uint32_t records, uint32_t len,
                   int64_t timestamp, uint32_t count, int32_t epoch)
{
    struct cs_batch *batches = calloc(count, sizeof *batches);
    CFM_CHECK(batches != NULL);
    for (uint32_t i = 0; i < count; i++) {
        batches[i] = (struct cs_batch){.base = base + (int64_t)i * records,
                                       .records = records,
                                       .len = len,
                                       .timestamp = timestamp + i,
                                       .epoch = epoch};
    }
    int rc = cs_append(p, batches, count, NULL);
    free(batches);
    return rc;
}

/* ---- read ----------------------------------------------------------------------------------- */

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    call_answered((struct cs_call *)(void *)op, status, err);
}

static void read_run(void *arg)
{
    struct cs_call *call = arg;
    call->rc = call->p->cs->api->read(call->p->part, &call->op.read);
}

static void check_slices(struct cs_part *p, const struct cs_read *read)
{
    const struct sti_storage_read *op = &read->op;
    bool memory = (op->flags & STI_READ_MEMORY) != 0;
    CFM_CHECK(op->slice_count <= op->slice_max);
    CFM_EQ(sti_slices_len(read->slices, op->slice_count), op->bytes);
    for (uint32_t i = 0; i < op->slice_count; i++) {
        const struct sti_slice *slice = &read->slices[i];
        CFM_CHECK(slice->len > 0);
        CFM_EXPECT(slice->data != NULL || (!memory && slice->fd >= 0),
                   "slice %u of a read has neither memory nor a file", i);
        CFM_EXPECT(slice->fd >= 0 || (p->cs->cfm->caps & STI_STORAGE_FILES) == 0,
                   "slice %u of a read has no file, which the plugin promises", i);
    }
}

int cs_read_max(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
                uint32_t flags, uint32_t slice_max, struct cs_read *out)
{
    struct cs_call *call = call_new(p, "read");
    memset(out, 0, sizeof *out);
    call->op.read = (struct sti_storage_read){.struct_size = sizeof call->op.read,
                                              .flags = flags,
                                              .offset = offset,
                                              .end_offset = end_offset,
                                              .max_bytes = max_bytes,
                                              .slices = out->slices,
                                              .slice_max = slice_max,
                                              .done = read_done};
    if ((flags & STI_READ_NO_WAIT) != 0) {
        read_run(call);
        CFM_EXPECT(call->rc != STI_OK || atomic_load(&call->answers) == 1,
                   "a read without waiting has no answer when it returns");
    } else {
        cs_run(p->cs, NULL, read_run, call);
    }
    int rc = CS_DOCUMENTED("read", call_wait(call), STI_E_OFFSET_OUT_OF_RANGE, STI_E_DATA_LOSS,
                           STI_E_IO, STI_E_WOULD_BLOCK, STI_E_RESOURCE_EXHAUSTED);
    CFM_EXPECT(rc != STI_E_WOULD_BLOCK || (flags & STI_READ_NO_WAIT) != 0,
               "a read that may wait ended with WOULD_BLOCK");
    out->op = call->op.read;
    out->err = call->err;
    if (rc == STI_OK) {
        check_slices(p, out);
    } else {
        CFM_EXPECT(call->rc != STI_OK || out->op.slice_count == 0,
                   "a read ended with %s and left %u slices", sti_status_name(rc),
                   out->op.slice_count);
        out->op.slice_count = 0;
    }
    call->op.read.slices = NULL;
    call_keep(call);
    return rc;
}

int cs_read(struct cs_part *p, int64_t offset, int64_t end_offset, uint64_t max_bytes,
            uint32_t flags, struct cs_read *out)
{
    return cs_read_max(p, offset, end_offset, max_bytes, flags, CS_SLICES, out);
}

void cs_release(struct cs_read *read)
{
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        sti_slice_release(&read->slices[i]);
    }
    read->op.slice_count = 0;
}

static void read_file(const struct sti_slice *slice, uint8_t *out)
{
    for (size_t done = 0; done < slice->len;) {
        ssize_t n = pread(slice->fd, out + done, (size_t)slice->len - done,
                          (off_t)(slice->file_pos + done));
        CFM_EXPECT(n > 0, "pread of a slice's file at %" PRIu64 ": %s", slice->file_pos + done,
                   n == 0 ? "it ends there" : strerror(errno));
        done += (size_t)n;
    }
}

uint8_t *cs_bytes(const struct cs_read *read, size_t *len)
{
    uint8_t *out = malloc((size_t)read->op.bytes + 1);
    *len = 0;
    CFM_CHECK(out != NULL);
    for (uint32_t i = 0; i < read->op.slice_count; i++) {
        const struct sti_slice *slice = &read->slices[i];
        if (slice->fd >= 0) {
            read_file(slice, out + *len);
            CFM_EXPECT(slice->data == NULL ||
                           memcmp(slice->data, out + *len, (size_t)slice->len) == 0,
                       "memory and file of a slice differ");
        } else {
            memcpy(out + *len, slice->data, (size_t)slice->len);
        }
        *len += (size_t)slice->len;
    }
    return out;
}

int64_t cs_walk(const struct cs_read *read, int64_t offset)
{
    size_t len, pos = 0;
    uint8_t *data = cs_bytes(read, &len);
    int64_t next = -1;
    while (pos < len) {
        struct sti_batch_header header;
        struct sti_err err = {0};
        int rc = sti_batch_header_decode(data + pos, len - pos, &header, &err);
        CFM_EXPECT(rc == STI_OK, "what was read is no batch: %s %s", sti_status_name(rc), err.msg);
        CFM_EXPECT(header.total_len <= len - pos, "a read ends inside the batch at %" PRId64,
                   header.base_offset);
        CFM_EXPECT(sti_crc32c(0, data + pos + 21, (size_t)header.total_len - 21) == header.crc,
                   "the checksum of the batch at %" PRId64 " is wrong", header.base_offset);
        if (next < 0) {
            CFM_EXPECT(header.base_offset <= offset && sti_batch_last_offset(&header) >= offset,
                       "a read at %" PRId64 " begins with the batch at %" PRId64, offset,
                       header.base_offset);
        } else {
            CFM_EXPECT(header.base_offset == next,
                       "the batch at %" PRId64 " stands where that at %" PRId64 " is expected",
                       header.base_offset, next);
        }
        next = sti_batch_last_offset(&header) + 1;
        pos += (size_t)header.total_len;
    }
    free(data);
    return next < 0 ? offset : next;
}

/* ---- sync ----------------------------------------------------------------------------------- */

static void sync_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    call_answered((struct cs_call *)(void *)op, status, err);
}

static void sync_run(void *arg)
{
    struct cs_call *call = arg;
    call->rc = call->p->cs->api->sync(call->p->part, &call->op.sync);
}

int cs_sync(struct cs_part *p, int64_t *synced_end)
{
    struct cs_call *call = call_new(p, "sync");
    call->op.sync = (struct sti_storage_sync){
        .struct_size = sizeof call->op.sync, .done = sync_done, .synced_end = -2};
    cs_run(p->cs, NULL, sync_run, call);
    int rc = CS_DOCUMENTED("sync", call_wait(call), STI_E_IO, STI_E_POISONED, STI_E_DISK_FULL,
                           STI_E_RESOURCE_EXHAUSTED);
    if (synced_end != NULL) {
        *synced_end = call->op.sync.synced_end;
    }
    call_keep(call);
    return rc;
}

/* ---- begun here, ended there ---------------------------------------------------------------- */

struct begin {
    struct sti_task task; /* first */
    struct cs_call *call;
    void (*run)(void *arg);
    struct cs_waiter returned;
};

/* What a pending call needs as long as it is under way. */
struct pending_bytes {
    struct append_bytes append;
    struct sti_slice slices[CS_SLICES];
    struct begin begin;
};

static void begin_run(struct sti_task *task)
{
    struct begin *b = (struct begin *)(void *)task;
    b->run(b->call);
    cs_waiter_end(&b->returned);
}

static struct pending_bytes *pending_new(struct cs_part *p, const char *what,
                                         void (*run)(void *arg), struct cs_pending *op)
{
    struct pending_bytes *bytes = calloc(1, sizeof *bytes);
    CFM_CHECK(bytes != NULL);
    op->call = call_new(p, what);
    op->call->pending = op;
    op->call->bytes = bytes;
    bytes->begin = (struct begin){.task.run = begin_run, .call = op->call, .run = run};
    cs_waiter_init(&bytes->begin.returned);
    return bytes;
}

void cs_append_begin(struct cs_part *p, const struct cs_batch *batch, struct cs_pending *op)
{
    const struct sti_host *host = p->cs->cfm->host;
    struct pending_bytes *bytes = pending_new(p, "append", append_run, op);
    bytes_make(&bytes->append, batch, 1);
    op->call->op.append = (struct sti_storage_append){.struct_size = sizeof op->call->op.append,
                                                      .batch_count = 1,
                                                      .batches = bytes->append.ptrs,
                                                      .done = append_done};
    host->strand_post(host->ctx, &p->strand, &bytes->begin.task);
}

void cs_read_begin(struct cs_part *p, int64_t offset, int64_t end_offset, struct cs_pending *op)
{
    const struct sti_host *host = p->cs->cfm->host;
    struct pending_bytes *bytes = pending_new(p, "read", read_run, op);
    op->call->op.read = (struct sti_storage_read){.struct_size = sizeof op->call->op.read,
                                                  .flags = STI_READ_MEMORY,
                                                  .offset = offset,
                                                  .end_offset = end_offset,
                                                  .max_bytes = 1 << 20,
                                                  .slices = bytes->slices,
                                                  .slice_max = CS_SLICES,
                                                  .done = read_done};
    host->post(host->ctx, &bytes->begin.task);
}

void cs_sync_begin(struct cs_part *p, struct cs_pending *op)
{
    const struct sti_host *host = p->cs->cfm->host;
    struct pending_bytes *bytes = pending_new(p, "sync", sync_run, op);
    op->call->op.sync =
        (struct sti_storage_sync){.struct_size = sizeof op->call->op.sync, .done = sync_done};
    host->post(host->ctx, &bytes->begin.task);
}

void cs_pending_begun(const struct cs_pending *op)
{
    CFM_EXPECT(cs_waiter_wait(&op->call->bytes->begin.returned), "%s did not return within %u s",
               op->call->what, cs_answer_s);
}

bool cs_pending_answered(const struct cs_pending *op)
{
    return op->call->rc != STI_OK || atomic_load(&op->call->answers) > 0;
}

int cs_pending_end(struct cs_pending *op)
{
    struct cs_call *call = op->call;
    struct pending_bytes *bytes = call->bytes;
    cs_pending_begun(op);
    int rc = call_wait(call);
    if (strcmp(call->what, "read") == 0) {
        for (uint32_t i = 0; rc == STI_OK && i < call->op.read.slice_count; i++) {
            sti_slice_release(&bytes->slices[i]);
        }
    }
    call->pending = NULL;
    cs_waiter_fini(&bytes->begin.returned);
    free(bytes->append.data);
    free(bytes->append.rows);
    free(bytes->append.ptrs);
    free(bytes->append.slices);
    free(bytes);
    call->bytes = NULL;
    call_keep(call);
    op->call = NULL;
    return rc;
}
