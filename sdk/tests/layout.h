/* layout.h -- how a row of the layout tables becomes an assertion of the compiler, in C and in C++.
 *
 * The numbers are those of LP64 machines, the only ones that plugins are built for.
 */
#ifndef STREAMIT_LAYOUT_H
#define STREAMIT_LAYOUT_H

#include <stddef.h>

#ifdef __cplusplus
#define LAYOUT_ASSERT(condition, text) static_assert(condition, text)
#else
#define LAYOUT_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* A constant whose number crosses the ABI. */
#define LAYOUT_VALUE(name, number) LAYOUT_ASSERT((name) == (number), #name " is not " #number)

/* Bytes of a struct. */
#define LAYOUT_SIZE(type, size)                                                                    \
    LAYOUT_ASSERT(sizeof(struct type) == (size), #type " does not have " #size " bytes")

/* Where a field lies, and how many bytes it has. */
#define LAYOUT_FIELD(type, field, offset, size)                                                    \
    LAYOUT_ASSERT(offsetof(struct type, field) == (offset) &&                                      \
                      sizeof(((struct type *)0)->field) == (size),                                 \
                  #type "." #field " is not " #size " bytes at " #offset)

LAYOUT_ASSERT(sizeof(void *) == 8, "the layouts are those of a 64-bit machine");

#endif /* STREAMIT_LAYOUT_H */
