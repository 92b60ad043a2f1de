/* promtext.c -- see promtext.h. */
#include "promtext.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool wrong(struct prom_text *text, const char *line, const char *what)
{
    snprintf(text->error, sizeof text->error, "%s: %.120s", what, line);
    return false;
}

static size_t name_len(const char *at)
{
    size_t len = 0;
    while (isalpha((unsigned char)at[len]) || at[len] == '_' || at[len] == ':' ||
           (len > 0 && isdigit((unsigned char)at[len]))) {
        len++;
    }
    return len;
}

/* `{a="b",c="d"}`: the length with braces, 0 when malformed. */
static size_t labels_len(const char *at)
{
    size_t i = 1;
    for (;;) {
        size_t len = name_len(at + i);
        if (len == 0 || at[i + len] != '=' || at[i + len + 1] != '"') {
            return 0;
        }
        i += len + 2;
        while (at[i] != '"') {
            if (at[i] == '\\') {
                i++;
                if (at[i] != '\\' && at[i] != '"' && at[i] != 'n') {
                    return 0;
                }
            }
            if (at[i] == '\0') {
                return 0;
            }
            i++;
        }
        i++;
        if (at[i] == '}') {
            return i + 1;
        }
        if (at[i] != ',') {
            return 0;
        }
        i++;
    }
}

static struct prom_family *family_find(struct prom_text *text, const char *name, size_t len)
{
    for (size_t i = 0; i < text->family_count; i++) {
        if (strlen(text->families[i].name) == len &&
            strncmp(text->families[i].name, name, len) == 0) {
            return &text->families[i];
        }
    }
    return NULL;
}

static bool parse_comment(struct prom_text *text, const char *line)
{
    bool help = strncmp(line, "# HELP ", 7) == 0;
    if (!help && strncmp(line, "# TYPE ", 7) != 0) {
        return wrong(text, line, "a comment that is neither HELP nor TYPE");
    }
    const char *name = line + 7;
    size_t len = name_len(name);
    if (len == 0 || len >= 128 || name[len] != ' ') {
        return wrong(text, line, "no name");
    }
    struct prom_family *family = family_find(text, name, len);
    if (family == NULL) {
        if (text->family_count == PROM_FAMILIES_MAX) {
            return wrong(text, line, "too many families");
        }
        family = &text->families[text->family_count++];
        snprintf(family->name, sizeof family->name, "%.*s", (int)len, name);
    } else if (family != &text->families[text->family_count - 1]) {
        return wrong(text, line, "a family comes back");
    }
    char *field = help ? family->help : family->type;
    if (field[0] != '\0') {
        return wrong(text, line, "HELP or TYPE twice");
    }
    if (family->type[0] != '\0') {
        return wrong(text, line, "HELP behind TYPE");
    }
    snprintf(field, help ? sizeof family->help : sizeof family->type, "%s", name + len + 1);
    for (const char *at = field; help && *at != '\0'; at++) {
        if (*at == '\\' && *++at != '\\' && *at != 'n') {
            return wrong(text, line, "an escape that is none");
        }
    }
    return true;
}

/* Does the sample belong to the present family? */
static bool belongs(const struct prom_family *family, const char *name)
{
    size_t len = strlen(family->name);
    if (strncmp(name, family->name, len) != 0) {
        return false;
    }
    const char *rest = name + len;
    if (strcmp(family->type, "histogram") == 0) {
        return strcmp(rest, "_bucket") == 0 || strcmp(rest, "_sum") == 0 ||
               strcmp(rest, "_count") == 0;
    }
    return *rest == '\0';
}

static bool parse_sample(struct prom_text *text, const char *line)
{
    struct prom_sample *sample = &text->samples[text->sample_count];
    size_t len = name_len(line);
    if (text->sample_count == PROM_SAMPLES_MAX || len == 0 || len >= sizeof sample->name) {
        return wrong(text, line, "no name, or too many samples");
    }
    snprintf(sample->name, sizeof sample->name, "%.*s", (int)len, line);
    const char *at = line + len;
    sample->labels[0] = '\0';
    if (*at == '{') {
        size_t labels = labels_len(at);
        if (labels == 0 || labels >= sizeof sample->labels) {
            return wrong(text, line, "malformed labels");
        }
        snprintf(sample->labels, sizeof sample->labels, "%.*s", (int)labels - 2, at + 1);
        at += labels;
    }
    char *end;
    if (*at != ' ' || isspace((unsigned char)at[1]) || at[1] == '\0') {
        return wrong(text, line, "no value");
    }
    sample->value = strtod(at + 1, &end);
    if (*end != '\0') {
        return wrong(text, line, "something behind the value");
    }
    if (text->family_count == 0 ||
        !belongs(&text->families[text->family_count - 1], sample->name)) {
        return wrong(text, line, "a sample outside its family");
    }
    const struct prom_family *family = &text->families[text->family_count - 1];
    if (family->type[0] == '\0') {
        return wrong(text, line, "no TYPE before it");
    }
    if (strcmp(family->type, "counter") == 0 &&
        (sample->value < 0 || len < 6 || strcmp(sample->name + len - 6, "_total") != 0)) {
        return wrong(text, line, "a counter without _total, or negative");
    }
    for (size_t i = 0; i < text->sample_count; i++) {
        if (strcmp(text->samples[i].name, sample->name) == 0 &&
            strcmp(text->samples[i].labels, sample->labels) == 0) {
            return wrong(text, line, "a sample twice");
        }
    }
    text->sample_count++;
    return true;
}

/* The `le` of a bucket, which comes last; its labels without it into `rest`. */
static double bucket_le(const struct prom_sample *sample, char rest[256])
{
    snprintf(rest, 256, "%s", sample->labels);
    char *at = strstr(rest, "le=\"");
    if (at == NULL) {
        return (double)NAN;
    }
    double le = strtod(at + 4, NULL);
    *(at > rest ? at - 1 : at) = '\0';
    return le;
}

static bool check_buckets(struct prom_text *text)
{
    char rest[256], next_rest[256], name[128];
    for (size_t i = 0; i < text->sample_count; i++) {
        const struct prom_sample *s = &text->samples[i];
        size_t len = strlen(s->name);
        if (len < 7 || strcmp(s->name + len - 7, "_bucket") != 0) {
            continue;
        }
        double le = bucket_le(s, rest);
        if (isnan(le)) {
            return wrong(text, s->name, "a bucket without le");
        }
        if (!isinf(le)) {
            const struct prom_sample *next = s + 1;
            if (i + 1 == text->sample_count || strcmp(next->name, s->name) != 0 ||
                !(bucket_le(next, next_rest) > le) || strcmp(rest, next_rest) != 0 ||
                next->value < s->value) {
                return wrong(text, s->labels, "the bucket behind does not follow");
            }
            continue;
        }
        snprintf(name, sizeof name, "%.*s_count", (int)len - 7, s->name);
        if (!(prom_value(text, name, rest) >= s->value &&
              prom_value(text, name, rest) <= s->value)) {
            return wrong(text, s->name, "+Inf is not the count");
        }
    }
    return true;
}

bool prom_parse(struct prom_text *text, const char *data, size_t len)
{
    memset(text, 0, sizeof *text);
    if (len == 0 || data[len - 1] != '\n' || memchr(data, '\0', len) != NULL) {
        return wrong(text, "", "no line feed at the end, or a zero byte");
    }
    for (size_t at = 0; at < len;) {
        char line[1024];
        size_t line_len = (size_t)((const char *)memchr(data + at, '\n', len - at) - (data + at));
        if (line_len == 0 || line_len >= sizeof line) {
            return wrong(text, "", "an empty or endless line");
        }
        memcpy(line, data + at, line_len);
        line[line_len] = '\0';
        if (line[0] == '#' ? !parse_comment(text, line) : !parse_sample(text, line)) {
            return false;
        }
        at += line_len + 1;
    }
    return check_buckets(text);
}

double prom_value(const struct prom_text *text, const char *name, const char *labels)
{
    for (size_t i = 0; i < text->sample_count; i++) {
        if (strcmp(text->samples[i].name, name) == 0 &&
            strcmp(text->samples[i].labels, labels) == 0) {
            return text->samples[i].value;
        }
    }
    return (double)NAN;
}

const struct prom_family *prom_family_of(const struct prom_text *text, const char *name)
{
    for (size_t i = 0; i < text->family_count; i++) {
        if (strcmp(text->families[i].name, name) == 0) {
            return &text->families[i];
        }
    }
    return NULL;
}
