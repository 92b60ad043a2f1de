/* text.h -- a text that grows, with the numbers and escapings that the pages need. */
#ifndef MPR_TEXT_H
#define MPR_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero: empty. A failed allocation is remembered in `failed` and makes everything after it a
 * no-op, so that only the end has to be checked. */
struct mpr_text {
    char *data; /* owned; terminated once anything was put */
    size_t len, capacity;
    bool failed;
};

void mpr_text_put(struct mpr_text *text, const char *data, size_t len);
void mpr_text_str(struct mpr_text *text, const char *str);
/* Several strings, one behind the other; ended by NULL. */
void mpr_text_join(struct mpr_text *text, const char *const *parts);
#define MPR_TEXT_JOIN(text, ...) mpr_text_join((text), (const char *const[]){__VA_ARGS__, NULL})
void mpr_text_whole(struct mpr_text *text, uint64_t value);
/* With quotes, as JSON; bytes that are no valid text of one byte are passed on as they are. NULL is
 * written as null. */
void mpr_text_json(struct mpr_text *text, const char *str);
/* As Prometheus reads it: NaN, +Inf, or the shortest of two forms that gives the same value back.
 */
void mpr_text_number(struct mpr_text *text, double value);
/* A HELP text: backslash and newline escaped. */
void mpr_text_help(struct mpr_text *text, const char *str);
void mpr_text_fini(struct mpr_text *text);

#endif /* MPR_TEXT_H */
