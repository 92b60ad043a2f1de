/* text.c -- see text.h. */
#include "text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 4096 };

/* Room for `len` more bytes and the end mark. */
static bool text_room(struct mpr_text *text, size_t len)
{
    size_t need = text->len + len + 1;
    if (text->failed || need <= text->capacity) {
        return !text->failed;
    }
    size_t capacity = text->capacity == 0 ? FIRST_CAPACITY : text->capacity;
    while (capacity < need) {
        capacity *= 2;
    }
    char *data = realloc(text->data, capacity);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void mpr_text_put(struct mpr_text *text, const char *data, size_t len)
{
    if (text_room(text, len)) {
        memcpy(text->data + text->len, data, len);
        text->len += len;
        text->data[text->len] = '\0';
    }
}

void mpr_text_str(struct mpr_text *text, const char *str)
{
    mpr_text_put(text, str, strlen(str));
}

void mpr_text_join(struct mpr_text *text, const char *const *parts)
{
    for (; *parts != NULL; parts++) {
        mpr_text_str(text, *parts);
    }
}

void mpr_text_whole(struct mpr_text *text, uint64_t value)
{
    char number[24];
    (void)snprintf(number, sizeof number, "%" PRIu64, value);
    mpr_text_str(text, number);
}

void mpr_text_json(struct mpr_text *text, const char *str)
{
    if (str == NULL) {
        mpr_text_str(text, "null");
        return;
    }
    mpr_text_str(text, "\"");
    for (const char *at = str; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '"' || c == '\\') {
            mpr_text_str(text, "\\");
            mpr_text_put(text, at, 1);
        } else if (c < 0x20) {
            char escape[8];
            (void)snprintf(escape, sizeof escape, "\\u%04x", c);
            mpr_text_str(text, escape);
        } else {
            mpr_text_put(text, at, 1);
        }
    }
    mpr_text_str(text, "\"");
}

void mpr_text_number(struct mpr_text *text, double value)
{
    char number[40];
    if (isnan(value)) {
        mpr_text_str(text, "NaN");
    } else if (isinf(value)) {
        mpr_text_str(text, value > 0 ? "+Inf" : "-Inf");
    } else {
        (void)snprintf(number, sizeof number, "%.15g", value);
        if (strtod(number, NULL) < value || strtod(number, NULL) > value) {
            (void)snprintf(number, sizeof number, "%.17g", value);
        }
        mpr_text_str(text, number);
    }
}

void mpr_text_help(struct mpr_text *text, const char *str)
{
    for (const char *at = str; *at != '\0'; at++) {
        if (*at == '\\') {
            mpr_text_str(text, "\\\\");
        } else if (*at == '\n') {
            mpr_text_str(text, "\\n");
        } else {
            mpr_text_put(text, at, 1);
        }
    }
}

void mpr_text_fini(struct mpr_text *text)
{
    free(text->data);
    *text = (struct mpr_text){0};
}
