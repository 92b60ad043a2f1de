/* copies.c -- see copies.h. */
#include "copies.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

static atomic_size_t copied;

/* Seen by the libraries too. What is written is volatile, so that no compiler makes a call of
 * memcpy of the loops. */
__attribute__((visibility("default"))) void *memcpy(void *restrict dest, const void *restrict src,
                                                    size_t n)
{
    volatile uint8_t *out = dest;
    const uint8_t *in = src;
    if (n >= COPIES_LARGE) {
        (void)atomic_fetch_add_explicit(&copied, n, memory_order_relaxed);
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = in[i];
    }
    return dest;
}

__attribute__((visibility("default"))) void *memmove(void *dest, const void *src, size_t n)
{
    volatile uint8_t *out = dest;
    const uint8_t *in = src;
    if (n >= COPIES_LARGE) {
        (void)atomic_fetch_add_explicit(&copied, n, memory_order_relaxed);
    }
    if (out <= in) {
        for (size_t i = 0; i < n; i++) {
            out[i] = in[i];
        }
    } else {
        for (size_t i = n; i > 0; i--) {
            out[i - 1] = in[i - 1];
        }
    }
    return dest;
}

size_t copies_bytes(void)
{
    return atomic_load(&copied);
}
