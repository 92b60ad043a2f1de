/* streamit/slice.h -- bytes that someone else owns, passed without a copy.
 *
 * A slice is a run of bytes that is in memory, in a file, or both. Storage hands out slices of its
 * segments; a transport sends them from the file (sendfile) or from memory (gRPC); the last
 * reference to drop lets the segment go. A transport hands the broker slices of its receive
 * buffers, which are borrowed until the call completes.
 *
 * Ownership. `owner == NULL`: the bytes are borrowed, valid as long as the function that takes them
 * says. Otherwise each slice handed out carries one reference on its owner, and whoever holds the
 * slice drops it once with sti_slice_release(), on any thread. Dropping is wait-free: the owner
 * only counts down, and hands unmapping, closing and unlinking to the executor. To keep a second
 * copy of a slice take another reference with sti_slice_ref().
 *
 * The layout of both structs is frozen for ever, so that plain arrays of slices may cross the ABI.
 *
 * How the others use it: a cluster follower reads slices to the end of the log and sends them on;
 * the Kafka wire sends (fd, file_pos, len) with sendfile and never touches `data`; an object store
 * hands out slices of downloaded memory with fd = -1.
 *
 * Caveats. A slice of a file may describe bytes that a disk can no longer read; memory from storage
 * has been populated before it is handed out, so that touching it does not fault, but only while
 * the reference is held. Bytes of a slice are never written through it.
 */
#ifndef STREAMIT_SLICE_H
#define STREAMIT_SLICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* First member of whatever owns bytes that outlive a call. Both functions may be called on any
 * thread, take no lock and do no I/O. `unref` may free the owner. */
struct sti_slice_owner {
    void (*ref)(struct sti_slice_owner *owner);
    void (*unref)(struct sti_slice_owner *owner);
};

struct sti_slice {
    const uint8_t *data; /* the bytes in memory, or NULL when only the file range is known      */
    uint64_t len;        /* bytes                                                               */
    struct sti_slice_owner *owner; /* holds one reference, or NULL: borrowed */
    uint64_t file_pos; /* byte position in `fd`; meaningless when fd is -1                    */
    int32_t fd;        /* the file that also holds the bytes, or -1; never closed by a holder */
    uint32_t reserved; /* 0                                                                   */
};

/* Take one more reference for a further copy of `slice`. */
static inline void sti_slice_ref(const struct sti_slice *slice)
{
    if (slice->owner != NULL) {
        slice->owner->ref(slice->owner);
    }
}

/* Drop the reference of `slice` and forget its bytes. Safe on a slice that was released or is all
 * zero. */
static inline void sti_slice_release(struct sti_slice *slice)
{
    struct sti_slice_owner *owner = slice->owner;
    slice->owner = NULL;
    slice->data = NULL;
    slice->len = 0;
    slice->fd = -1;
    if (owner != NULL) {
        owner->unref(owner);
    }
}

/* A slice of memory that the caller keeps valid. */
static inline struct sti_slice sti_slice_borrow(const void *data, size_t len)
{
    struct sti_slice slice;
    slice.data = (const uint8_t *)data;
    slice.len = len;
    slice.owner = NULL;
    slice.file_pos = 0;
    slice.fd = -1;
    slice.reserved = 0;
    return slice;
}

/* Sum of the lengths of `count` slices. */
static inline uint64_t sti_slices_len(const struct sti_slice *slices, size_t count)
{
    uint64_t len = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        len += slices[i].len;
    }
    return len;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_SLICE_H */
