/* log.c -- see log.h for the story. */
#include "kernel/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "kernel/executor.h"

enum {
    SLOTS = 128,           /* events that are watched for repeats at a time */
    WINDOW_US = 1000000,   /* KRN_LOG_BURST lines of one event in this time */
    WAIT_MS = 50,          /* for room in the pipe                          */
    TEXT_BYTES_MAX = 1024, /* of one string                                 */
    KEY_BYTES_MAX = 384,   /* of one field's name                           */
    CHUNK_BYTES = 4096     /* what a pipe takes in one piece: PIPE_BUF      */
};

/* 15 digits: what a double holds of a decimal number. */
#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

struct slot {
    uint64_t key, window_start_us;
    uint32_t count;
    uint64_t suppressed;
};

struct krn_log {
    pthread_mutex_t mu;
    int fd, format;
    _Atomic int level;
    _Atomic int least;              /* of all levels: what is below needs no lock */
    _Atomic size_t component_count; /* changed under mu */
    struct krn_log_component components[KRN_LOG_COMPONENTS_MAX]; /* @locks mu */
    uint64_t (*clock_us)(int clock_id);
    struct slot slots[SLOTS];
    bool stuck; /* the last line found no room */
    bool torn;  /* ... after a part of it had gone out */
    struct krn_log_stats stats;
};

struct krn_log *krn_log_new(int fd, int format, int level)
{
    struct krn_log *log = calloc(1, sizeof *log);
    if (log != NULL) {
        pthread_mutex_init(&log->mu, NULL);
        log->fd = fd;
        log->format = format;
        log->clock_us = krn_clock_us;
        atomic_init(&log->level, level);
        atomic_init(&log->least, level);
    }
    return log;
}

void krn_log_free(struct krn_log *log)
{
    if (log != NULL) {
        pthread_mutex_destroy(&log->mu);
        free(log);
    }
}

void krn_log_level_set(struct krn_log *log, int level)
{
    krn_log_levels_set(log, level, NULL, 0);
}

void krn_log_levels_set(struct krn_log *log, int level, const struct krn_log_component *rows,
                        size_t count)
{
    int least = level;
    pthread_mutex_lock(&log->mu);
    count = count < KRN_LOG_COMPONENTS_MAX ? count : KRN_LOG_COMPONENTS_MAX;
    for (size_t i = 0; i < count; i++) {
        log->components[i] = rows[i];
        least = rows[i].level < least ? rows[i].level : least;
    }
    atomic_store_explicit(&log->component_count, count, memory_order_relaxed);
    atomic_store_explicit(&log->level, level, memory_order_relaxed);
    atomic_store_explicit(&log->least, least, memory_order_relaxed);
    pthread_mutex_unlock(&log->mu);
}

bool krn_log_enabled(struct krn_log *log, const char *component, int level)
{
    level &= ~STI_LOG_EVERY;
    if (level < atomic_load_explicit(&log->least, memory_order_relaxed)) {
        return false;
    }
    int from = atomic_load_explicit(&log->level, memory_order_relaxed);
    if (atomic_load_explicit(&log->component_count, memory_order_relaxed) > 0) {
        pthread_mutex_lock(&log->mu);
        size_t count = atomic_load_explicit(&log->component_count, memory_order_relaxed);
        for (size_t i = 0; i < count; i++) {
            if (strcmp(log->components[i].name, component) == 0) {
                from = log->components[i].level;
            }
        }
        pthread_mutex_unlock(&log->mu);
    }
    return level >= from;
}

void krn_log_clock_set(struct krn_log *log, uint64_t (*clock_us)(int clock_id))
{
    log->clock_us = clock_us;
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 sequence at p, 0 when there is none. */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    static const struct {
        unsigned char mask, lead;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t len = 1; len <= 4; len++) {
        if ((p[0] & forms[len - 1].mask) != forms[len - 1].lead) {
            continue;
        }
        uint32_t point = (uint32_t)(p[0] & (unsigned char)~forms[len - 1].mask);
        for (size_t i = 1; i < len; i++) {
            if (i >= left || (p[i] & 0xc0) != 0x80) {
                return 0;
            }
            point = point << 6 | (p[i] & 0x3fu);
        }
        bool surrogate = point >= 0xd800 && point <= 0xdfff;
        return point < forms[len - 1].least || point > 0x10ffff || surrogate ? 0 : len;
    }
    return 0;
}

/* A copy that is UTF-8 and of bounded length. `out` has 3 * TEXT_BYTES_MAX + 8 bytes. */
static size_t clean(const char *text, char *out)
{
    size_t left = strnlen(text, TEXT_BYTES_MAX + 1), used = 0;
    const unsigned char *p = (const unsigned char *)text;
    bool cut = left > TEXT_BYTES_MAX;
    left = cut ? TEXT_BYTES_MAX : left;
    while (left > 0) {
        size_t len = utf8_len(p, left);
        if (len == 0 && cut && left < 4 && (p[0] & 0xc0) == 0xc0) {
            break; /* the sequence that the cut has split */
        }
        memcpy(out + used, len == 0 ? (const void *)"\xef\xbf\xbd" : (const void *)p,
               len == 0 ? 3 : len);
        used += len == 0 ? 3 : len;
        p += len == 0 ? 1 : len;
        left -= len == 0 ? 1 : len;
    }
    if (cut) {
        memcpy(out + used, "...", 3);
        used += 3;
    }
    out[used] = '\0';
    return used;
}

static json_t *text_value(const char *text)
{
    char buf[3 * TEXT_BYTES_MAX + 8];
    if (text == NULL) {
        return json_null();
    }
    size_t len = clean(text, buf);
    return json_stringn_nocheck(buf, len);
}

static json_t *field_value(const struct sti_field *field)
{
    switch (field->type) {
    case STI_FIELD_STR:
        return text_value(field->value.str);
    case STI_FIELD_INT:
        return json_integer(field->value.i);
    case STI_FIELD_UINT:
        return field->value.u > INT64_MAX ? json_real((double)field->value.u)
                                          : json_integer((json_int_t)field->value.u);
    case STI_FIELD_DOUBLE:
        return isfinite(field->value.d) ? json_real(field->value.d) : json_null();
    case STI_FIELD_BOOL:
        return json_boolean(field->value.u != 0);
    default:
        return json_null();
    }
}

static const char *level_name(int level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    return names[level < STI_LOG_DEBUG ? 0 : level > STI_LOG_ERROR ? 3 : level];
}

static void time_text(uint64_t us, char *out, size_t size)
{
    time_t seconds = (time_t)(us / 1000000u);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL) {
        memset(&tm, 0, sizeof tm);
    }
    (void)snprintf(out, size, "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ", tm.tm_year + 1900,
                   tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                   (unsigned)(us % 1000000u));
}

/* A field never hides one of the line's own. */
static void set_field(json_t *line, const char *key, json_t *value)
{
    char own[KEY_BYTES_MAX + 1], name[3 * KEY_BYTES_MAX + 9]; /* "_" before the cleaned name */
    (void)snprintf(own, sizeof own, "%s", key == NULL ? "" : key);
    name[0] = '_';
    (void)clean(own, name + 1);
    bool taken = json_object_get(line, name + 1) != NULL;
    (void)json_object_set_new_nocheck(line, taken ? name : name + 1, value);
}

static json_t *build(struct krn_log *log, int level, const char *component, const char *event,
                     const char *msg, const struct sti_field *const *fields, uint64_t suppressed)
{
    char when[64];
    time_text(log->clock_us(STI_CLOCK_REALTIME), when, sizeof when);
    json_t *line = json_object();
    (void)json_object_set_new_nocheck(line, "time", json_string_nocheck(when));
    (void)json_object_set_new_nocheck(line, "level", json_string_nocheck(level_name(level)));
    (void)json_object_set_new_nocheck(line, "component", text_value(component));
    (void)json_object_set_new_nocheck(line, "event", text_value(event));
    (void)json_object_set_new_nocheck(line, "message", text_value(msg));
    for (size_t i = 0; fields != NULL && fields[i] != NULL; i++) {
        set_field(line, fields[i]->key, field_value(fields[i]));
    }
    if (suppressed > 0) {
        set_field(line, "suppressed", json_integer((json_int_t)suppressed));
    }
    return line;
}

/* `03:38:16.123456 info  storage_mmap segment_rolled: a new segment begins  topic="t" offset=5` */
static char *render_text(json_t *line)
{
    static const char *const head[] = {"time", "level", "component", "event", "message"};
    const char *part[5];
    for (size_t i = 0; i < 5; i++) {
        const char *text = json_string_value(json_object_get(line, head[i]));
        part[i] = text == NULL ? "" : text;
    }
    char *out = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&out, &size);
    if (stream == NULL) {
        return NULL;
    }
    const char *clock_part = strchr(part[0], 'T');
    fprintf(stream, "%.15s %-5s %s %s: %s", clock_part == NULL ? "" : clock_part + 1, part[1],
            part[2], part[3], part[4]);
    const char *key;
    json_t *value;
    size_t index = 0;
    json_object_foreach(line, key, value)
    {
        if (index++ < 5) {
            continue;
        }
        char *text = json_dumps(value, JSON_ENCODE_ANY | DUMP_FLAGS);
        fprintf(stream, "%s%s=%s", index == 6 ? "  " : " ", key, text == NULL ? "" : text);
        free(text);
    }
    (void)fclose(stream);
    return out;
}

/* ---- thinning and writing ------------------------------------------------------------------ */

static uint64_t event_key(const char *component, const char *event)
{
    uint64_t h = 14695981039346656037u;
    for (const char *c = component; *c != '\0'; c++) {
        h = (h ^ (unsigned char)*c) * 1099511628211u;
    }
    h = (h ^ 0xffu) * 1099511628211u;
    for (const char *c = event; *c != '\0'; c++) {
        h = (h ^ (unsigned char)*c) * 1099511628211u;
    }
    return h | 1u;
}

/* May this line pass? *suppressed: how many before it did not. Two events that share a slot push
 * each other out, and then pass more often: never less.
 * @locks log->mu held */
static bool passes(struct krn_log *log, const char *component, const char *event,
                   uint64_t *suppressed)
{
    uint64_t key = event_key(component, event), now = log->clock_us(STI_CLOCK_MONOTONIC);
    struct slot *slot = &log->slots[(key >> 7) % SLOTS];
    *suppressed = 0;
    if (slot->key != key) {
        *slot = (struct slot){.key = key, .window_start_us = now};
    } else if (now - slot->window_start_us >= WINDOW_US) {
        *suppressed = slot->suppressed;
        *slot = (struct slot){.key = key, .window_start_us = now};
    }
    if (slot->count >= KRN_LOG_BURST) {
        slot->suppressed++;
        log->stats.suppressed++;
        return false;
    }
    slot->count++;
    return true;
}

/* @locks log->mu held. @return false: no room, or nobody reads any more */
static bool write_all(struct krn_log *log, const char *text, size_t len)
{
    size_t done = 0;
    while (done < len) {
        struct pollfd pfd = {.fd = log->fd, .events = POLLOUT};
        int ready = poll(&pfd, 1, log->stuck ? 0 : WAIT_MS);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        if (ready <= 0 || (pfd.revents & POLLOUT) == 0) {
            log->torn = log->torn || done > 0;
            return false;
        }
        size_t part = len - done < CHUNK_BYTES ? len - done : CHUNK_BYTES;
        ssize_t n = write(log->fd, text + done, part);
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            log->torn = log->torn || done > 0;
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* @locks log->mu held */
static void emit(struct krn_log *log, char *text)
{
    bool written = false;
    if (text != NULL) {
        size_t len = strlen(text);
        char *line = malloc(len + 2);
        if (line != NULL) {
            line[0] = '\n'; /* ends a line that was torn */
            memcpy(line + 1, text, len);
            line[len + 1] = '\n';
            size_t skip = log->torn ? 0 : 1;
            log->torn = false;
            written = write_all(log, line + skip, len + 2 - skip);
            free(line);
        }
    }
    log->stuck = !written;
    log->stats.written += written ? 1 : 0;
    log->stats.dropped += written ? 0 : 1;
}

void krn_log_write_object(struct krn_log *log, int level, const char *component, const char *event,
                          const char *msg, const struct sti_field *const *fields, const char *key,
                          const struct krn_log_pair *pairs, size_t pair_count)
{
    bool every = (level & STI_LOG_EVERY) != 0;
    level &= ~STI_LOG_EVERY;
    uint64_t suppressed = 0;
    const char *who = component == NULL ? "" : component, *what = event == NULL ? "" : event;
    if (!krn_log_enabled(log, who, level)) {
        return;
    }
    pthread_mutex_lock(&log->mu);
    bool pass = every || passes(log, who, what, &suppressed);
    pthread_mutex_unlock(&log->mu);
    if (!pass) {
        return;
    }
    json_t *line = build(log, level, who, what, msg, fields, suppressed);
    if (key != NULL) {
        json_t *object = json_object();
        for (size_t i = 0; i < pair_count; i++) {
            set_field(object, pairs[i].key, text_value(pairs[i].value));
        }
        set_field(line, key, object);
    }
    char *text = log->format == KRN_LOG_TEXT ? render_text(line) : json_dumps(line, DUMP_FLAGS);
    json_decref(line);
    pthread_mutex_lock(&log->mu);
    emit(log, text);
    pthread_mutex_unlock(&log->mu);
    free(text);
}

void krn_log_write(struct krn_log *log, int level, const char *component, const char *event,
                   const char *msg, const struct sti_field *const *fields)
{
    krn_log_write_object(log, level, component, event, msg, fields, NULL, NULL, 0);
}

void krn_log_stats(struct krn_log *log, struct krn_log_stats *out)
{
    pthread_mutex_lock(&log->mu);
    *out = log->stats;
    pthread_mutex_unlock(&log->mu);
}
