/* copies.h -- counts what is copied in user space, by the program and its libraries alike: copies.c
 * among a test's sources takes the place of memcpy and memmove. Not with sanitizers, which have
 * those functions themselves.
 */
#ifndef STREAMIT_COPIES_H
#define STREAMIT_COPIES_H

#include <stddef.h>

enum { COPIES_LARGE = 2048 };

/* Bytes so far, of copies of COPIES_LARGE bytes and more. */
size_t copies_bytes(void);

#endif /* STREAMIT_COPIES_H */
