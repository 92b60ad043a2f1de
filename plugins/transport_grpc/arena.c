/* arena.c -- see arena.h. */
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 4000 };

struct tgr_arena_block {
    struct tgr_arena_block *next;
    size_t capacity;
    max_align_t bytes[];
};

static void *take(struct tgr_arena *arena, size_t len)
{
    const size_t align = _Alignof(max_align_t);
    if (len > SIZE_MAX / 2) {
        return NULL;
    }
    len = (len + align - 1) / align * align;
    struct tgr_arena_block *block = arena->blocks;
    if (block == NULL || block->capacity - arena->used < len) {
        size_t capacity = len > BLOCK_BYTES ? len : BLOCK_BYTES;
        block = malloc(sizeof *block + capacity);
        if (block == NULL) {
            return NULL;
        }
        block->capacity = capacity;
        block->next = arena->blocks;
        arena->blocks = block;
        arena->used = 0;
    }
    void *out = (char *)block->bytes + arena->used;
    arena->used += len;
    return out;
}

void *tgr_arena_alloc(struct tgr_arena *arena, size_t count, size_t size)
{
    size_t len;
    if (__builtin_mul_overflow(count, size, &len)) {
        return NULL;
    }
    void *out = take(arena, len);
    if (out != NULL) {
        memset(out, 0, len);
    }
    return out;
}

char *tgr_arena_strndup(struct tgr_arena *arena, const char *text, size_t len)
{
    char *out = take(arena, len + 1);
    if (out != NULL) {
        memcpy(out, text, len);
        out[len] = '\0';
    }
    return out;
}

void tgr_arena_fini(struct tgr_arena *arena)
{
    while (arena->blocks != NULL) {
        struct tgr_arena_block *block = arena->blocks;
        arena->blocks = block->next;
        free(block);
    }
    arena->used = 0;
}

static void *pb_alloc(void *arg, size_t size)
{
    return take(arg, size);
}

static void pb_free(void *arg, void *pointer)
{
    (void)arg;
    (void)pointer;
}

ProtobufCAllocator tgr_arena_allocator(struct tgr_arena *arena)
{
    return (ProtobufCAllocator){.alloc = pb_alloc, .free = pb_free, .allocator_data = arena};
}
