/* log.h -- log lines: one JSON object a line on a file descriptor, or a readable form for people.
 *
 * Story. A line has time (RFC 3339, UTC, microseconds), level, component, event, message, and typed
 * fields; "trace_id" is one of them. The same event of the same component more than 20 times in a
 * second is thinned: the rest is counted, and the next line of that event that passes bears
 * "suppressed". Names of fields are cut at 384 bytes, strings at 1 KB, and bytes that are not UTF-8
 * are replaced.
 *
 * Failure. Writing waits at most 50 ms for room, and not at all while the last line found none; a
 * line that cannot be written is counted and forgotten. Never fatal.
 *
 * Threads. Any. One mutex, held while a line is thinned and written, never across a call of others.
 */
#ifndef STREAMIT_KERNEL_LOG_H
#define STREAMIT_KERNEL_LOG_H

#include "streamit/plugin.h"

enum krn_log_format { KRN_LOG_JSON = 0, KRN_LOG_TEXT = 1 };
enum { KRN_LOG_BURST = 20 }; /* lines of one event in one second */
enum { KRN_LOG_COMPONENTS_MAX = 32 };

/* A component with a level of its own. */
struct krn_log_component {
    char name[72];
    int level; /* enum sti_log_level */
};

struct krn_log;

/* A name and a text, for a field that is an object. */
struct krn_log_pair {
    const char *key;
    const char *value;
};

struct krn_log_stats {
    uint64_t written, dropped, suppressed;
};

/* @param fd  stays the caller's. @return NULL: out of memory */
struct krn_log *krn_log_new(int fd, int format, int level);
void krn_log_free(struct krn_log *log);
void krn_log_level_set(struct krn_log *log, int level);
/* The same, and levels of single components in place of those before. */
void krn_log_levels_set(struct krn_log *log, int level, const struct krn_log_component *rows,
                        size_t count);
bool krn_log_enabled(struct krn_log *log, const char *component, int level);
/* Replace the clock (enum sti_clock -> microseconds), for tests. */
void krn_log_clock_set(struct krn_log *log, uint64_t (*clock_us)(int clock_id));

void krn_log_write(struct krn_log *log, int level, const char *component, const char *event,
                   const char *msg, const struct sti_field *const *fields);
/* The same with one more field `key` that is an object of texts. */
void krn_log_write_object(struct krn_log *log, int level, const char *component, const char *event,
                          const char *msg, const struct sti_field *const *fields, const char *key,
                          const struct krn_log_pair *pairs, size_t pair_count);
void krn_log_stats(struct krn_log *log, struct krn_log_stats *out);

/* krn_log_event(log, STI_LOG_INFO, "ready", "all listeners accept", STI_F_INT("port", port)) */
#define krn_log_event(log, level, event, ...)                                                      \
    krn_log_write((log), (level), "kernel", (event), STI_LOG_FIRST_(__VA_ARGS__, NULL),            \
                  (const struct sti_field *const[]){STI_LOG_REST_(__VA_ARGS__, NULL)})

#endif /* STREAMIT_KERNEL_LOG_H */
