/* streamit/status.h -- the one list of status codes, and the error object that carries them.
 *
 * Every function of StreamIt that can fail returns an `int`: STI_OK (0) or one of the negative
 * STI_E_* below. Where a person will read the failure, the function also fills a `struct sti_err`
 * with one sentence that names the thing. The list is written once, here. The SDK uses the negative
 * value (STI_E_UNKNOWN_TOPIC == -1), the gRPC API the positive one (enum ErrorCode), the command
 * line the bare name (UNKNOWN_TOPIC); a transport for another wire maps the codes to its own in one
 * table of its own.
 *
 * Numbers and names are stable for ever: a code is never renumbered, reused or given another
 * meaning. New codes are appended. A program that meets a code it does not know treats it as
 * INTERNAL.
 *
 * Traits say what a caller may do, so that no caller needs a list of its own:
 *
 *   RETRIABLE   the same call may succeed later, unchanged
 *
 *   REFRESH     the caller's view of the cluster is old: look up topic, leader or coordinator
 *               before the next try
 *
 *   FATAL       this producer, member or partition cannot go on; trying again cannot help
 *
 *   INDEFINITE  the outcome is unknown: the call may or may not have had its effect. A caller
 *               without idempotence must not repeat an append that ended so, because it could be
 *               stored twice.
 *
 * Only C standard headers are used here; the functions are inline, so that a plugin needs no
 * library for them.
 */
#ifndef STREAMIT_STATUS_H
#define STREAMIT_STATUS_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STI_TRAIT_RETRIABLE  0x1u
#define STI_TRAIT_REFRESH    0x2u
#define STI_TRAIT_FATAL      0x4u
#define STI_TRAIT_INDEFINITE 0x8u

/* X(name, number, traits, text). The text completes "the call failed: ...". */
/* clang-format off */
#define STI_STATUS_LIST(X) \
    X(UNKNOWN_TOPIC,          1, STI_TRAIT_REFRESH, "the topic does not exist") \
    X(UNKNOWN_PARTITION,      2, STI_TRAIT_REFRESH, "the topic has no such partition") \
    X(NOT_LEADER,             3, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "this node does not lead the partition") \
    X(OFFSET_OUT_OF_RANGE,    4, 0, "the offset lies outside the log") \
    X(CORRUPT_BATCH,          5, 0, "the record batch is malformed or its checksum is wrong") \
    X(MESSAGE_TOO_LARGE,      6, 0, "the record batch or message exceeds a size limit") \
    X(NOT_ENOUGH_REPLICAS,    7, STI_TRAIT_RETRIABLE, "fewer in-sync replicas than the topic demands; nothing was appended") \
    X(TIMED_OUT,              8, STI_TRAIT_RETRIABLE | STI_TRAIT_INDEFINITE, "no answer in time; the outcome is unknown") \
    X(THROTTLED,              9, STI_TRAIT_RETRIABLE, "the node takes no more work now; try again after the time given") \
    X(DISK_FULL,             10, 0, "the disk is too full to append") \
    X(DATA_LOSS,             11, 0, "stored data is damaged or gone") \
    X(IDEMPOTENT_REPLAY,     12, 0, "the batch was appended before; the first outcome stands") \
    X(OUT_OF_ORDER_SEQUENCE, 13, STI_TRAIT_FATAL, "the producer's sequence has a gap") \
    X(FENCED,                14, STI_TRAIT_FATAL, "a newer incarnation has taken over") \
    X(UNKNOWN_PRODUCER,      15, STI_TRAIT_FATAL, "nothing is known of the producer id") \
    X(COORDINATOR_MOVED,     16, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "another node coordinates the group") \
    X(UNKNOWN_MEMBER,        17, STI_TRAIT_REFRESH, "the group has no such member") \
    X(REBALANCE_IN_PROGRESS, 18, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "the group is rebalancing") \
    X(STALE_EPOCH,           19, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "the epoch is older than the current one") \
    X(INVALID_ARGUMENT,      20, 0, "an argument is not valid") \
    X(ALREADY_EXISTS,        21, 0, "it exists already") \
    X(NOT_FOUND,             22, 0, "there is no such thing") \
    X(RESOURCE_EXHAUSTED,    23, 0, "a limit of this node is reached") \
    X(UNSUPPORTED,           24, 0, "this is not supported here") \
    X(UNAUTHENTICATED,       25, 0, "the caller is not authenticated") \
    X(PERMISSION_DENIED,     26, 0, "the caller may not do this") \
    X(UNAVAILABLE,           27, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "the service takes no calls now; nothing was done") \
    X(CANCELLED,             28, STI_TRAIT_INDEFINITE, "the call was cancelled") \
    X(INTERNAL,              29, STI_TRAIT_INDEFINITE, "an internal error; please report it") \
    X(IO,                    30, STI_TRAIT_INDEFINITE, "reading or writing stored data failed") \
    X(POISONED,              31, 0, "the partition takes no appends until recovery has re-read its log") \
    X(UNKNOWN_EPOCH,         32, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "the epoch is newer than this node knows") \
    X(NOT_CONTROLLER,        33, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH, "another node leads the metadata quorum") \
    X(CONNECTION_LOST,       34, STI_TRAIT_RETRIABLE | STI_TRAIT_REFRESH | STI_TRAIT_INDEFINITE, "the connection broke while the call was under way; the outcome is unknown") \
    X(REPLICAS_LOST,         35, STI_TRAIT_RETRIABLE | STI_TRAIT_INDEFINITE, "appended, but the in-sync set shrank before the acknowledgement") \
    X(INVALID_TIMESTAMP,     36, 0, "a timestamp lies outside what the topic allows") \
    X(CONFIG,                37, 0, "the configuration is not valid") \
    X(PLUGIN_REFUSED,        38, 0, "a plugin does not fit") \
    X(ABI_MISMATCH,          39, 0, "a plugin was built for another ABI") \
    X(PRECONDITION,          40, 0, "the state does not allow this") \
    X(WOULD_BLOCK,           41, STI_TRAIT_RETRIABLE, "it cannot be done without waiting") \
    X(NO_MEMORY,             42, STI_TRAIT_RETRIABLE, "memory ran out; nothing was done") \
    X(IN_USE,                43, 0, "another process or owner holds it") \
    X(END,                   44, 0, "there is no further item")
/* clang-format on */

enum {
    STI_OK = 0,
#define STI_STATUS_ENUM(name, number, traits, text) STI_E_##name = -(number),
    STI_STATUS_LIST(STI_STATUS_ENUM)
#undef STI_STATUS_ENUM
};

/* The name of a code as the command line prints it ("UNKNOWN_TOPIC"); "OK" for 0, "INTERNAL" for an
 * unknown code. Accepts the negative SDK value and the positive wire value alike. Never NULL;
 * static storage. */
static inline const char *sti_status_name(int code)
{
    switch (code > 0 ? -code : code) { /* INT_MIN has no positive twin */
    case 0:
        return "OK";
#define STI_STATUS_NAME(name, number, traits, text)                                                \
    case -(number):                                                                                \
        return #name;
        STI_STATUS_LIST(STI_STATUS_NAME)
#undef STI_STATUS_NAME
    default:
        return "INTERNAL";
    }
}

/* What a code means, as a clause. Never NULL; static storage. */
static inline const char *sti_status_text(int code)
{
    switch (code > 0 ? -code : code) { /* INT_MIN has no positive twin */
    case 0:
        return "success";
#define STI_STATUS_TEXT(name, number, traits, text)                                                \
    case -(number):                                                                                \
        return text;
        STI_STATUS_LIST(STI_STATUS_TEXT)
#undef STI_STATUS_TEXT
    default:
        return "a status code that this version does not know";
    }
}

/* The STI_TRAIT_* bits of a code; 0 for STI_OK, those of INTERNAL for an unknown code. */
static inline uint32_t sti_status_traits(int code)
{
    switch (code > 0 ? -code : code) { /* INT_MIN has no positive twin */
    case 0:
        return 0;
#define STI_STATUS_TRAITS(name, number, traits, text)                                              \
    case -(number):                                                                                \
        return (traits);
        STI_STATUS_LIST(STI_STATUS_TRAITS)
#undef STI_STATUS_TRAITS
    default:
        return STI_TRAIT_INDEFINITE;
    }
}

/* The error object: caller's memory, 256 bytes, layout frozen for ever. NULL is allowed wherever a
 * function takes one. It holds no pointers, so it may be copied, stored and sent to another thread.
 */
struct sti_err {
    int32_t code;    /* STI_OK or a negative STI_E_*                              */
    uint32_t traits; /* STI_TRAIT_* of this very failure, usually those of `code` */
    char msg[248];   /* one sentence: what failed, on what; never a secret        */
};

#if defined(__GNUC__)
#define STI_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define STI_PRINTF(fmt, first)
#endif

/* Empty an error object. */
static inline void sti_err_clear(struct sti_err *err)
{
    if (err != NULL) {
        err->code = STI_OK;
        err->traits = 0;
        err->msg[0] = '\0';
    }
}

/* Fill an error object and return `code`, so that a failure reads `return sti_err_set(err,
 * STI_E_IO, ...)`. A sentence that does not fit is cut; it is always terminated. `err` may be NULL.
 */
STI_PRINTF(3, 4) static inline int sti_err_set(struct sti_err *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        err->code = code;
        err->traits = sti_status_traits(code);
        va_start(args, fmt);
        if (vsnprintf(err->msg, sizeof err->msg, fmt, args) < 0) {
            err->msg[0] = '\0';
        }
        va_end(args);
    }
    return code;
}

/* Put what *this* level was doing in front of what the level below said ("open topic t-3:
 * <cause>"), and return `code`, which is the one that the level below returned: `err` may be NULL,
 * and an object that nobody has filled takes it. */
STI_PRINTF(3, 4) static inline int sti_err_wrap(struct sti_err *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        char cause[sizeof err->msg];
        va_list args;
        int n;
        memcpy(cause, err->msg, sizeof cause);
        cause[sizeof cause - 1] = '\0';
        va_start(args, fmt);
        n = vsnprintf(err->msg, sizeof err->msg, fmt, args);
        va_end(args);
        if (n < 0) {
            err->msg[0] = '\0';
            n = 0;
        }
        if ((size_t)n + 3 < sizeof err->msg) {
            (void)snprintf(err->msg + n, sizeof err->msg - (size_t)n, ": %s", cause);
        }
        if (err->code == STI_OK) {
            err->code = code;
            err->traits = sti_status_traits(code);
        }
    }
    return code;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_STATUS_H */
