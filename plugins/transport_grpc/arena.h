/* arena.h -- memory that lives as long as one call.
 *
 * Decoded requests, broker call structs and responses under construction come from the arena of
 * their call and are freed together with it. One thread at a time uses an arena; the call's
 * hand-over from poller to broker thread orders the accesses.
 */
#ifndef TRANSPORT_GRPC_ARENA_H
#define TRANSPORT_GRPC_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct tgr_arena_block;

/* All zero is an empty arena. */
struct tgr_arena {
    struct tgr_arena_block *blocks; /* newest first */
    size_t used;                    /* bytes of the newest block */
};

/* Zeroed memory, aligned for any type; NULL when memory ran out or count * size overflows. */
void *tgr_arena_alloc(struct tgr_arena *arena, size_t count, size_t size);
/* A terminated copy of `len` bytes; NULL when memory ran out. */
char *tgr_arena_strndup(struct tgr_arena *arena, const char *text, size_t len);
void tgr_arena_fini(struct tgr_arena *arena);
/* An allocator for protobuf-c that takes from `arena` and never frees. Valid as long as the arena.
 */
ProtobufCAllocator tgr_arena_allocator(struct tgr_arena *arena);

#endif /* TRANSPORT_GRPC_ARENA_H */
