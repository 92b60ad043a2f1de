/* fault.c -- the fault points' rules: read once from the environment, judged at each point.
 *
 * Linked by fault builds and by unit tests, never by a release. A rule counts how often it was met;
 * counters are atomic, rules are written once before the first is judged and never after.
 */
#include "streamit/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RULES_MAX = 64, NAME_MAX_LEN = 64, LINE_MAX_LEN = 160 };

enum action { ACT_KILL, ACT_SLEEP, ACT_ERRNO };

struct rule {
    char point[NAME_MAX_LEN]; /* without the '*' */
    bool prefix;
    enum action action;
    int value;       /* the errno, or milliseconds */
    uint64_t nth;    /* 0: by probability */
    bool ever_after; /* from the nth on */
    double probability;
    _Atomic uint64_t met;
};

static struct {
    pthread_once_t once;
    struct rule rules[RULES_MAX];
    size_t count;
    _Atomic uint64_t random;
    const char *log; /* of the environment, which nobody changes */
} faults = {.once = PTHREAD_ONCE_INIT};

static int (*_Atomic fault_hook)(const char *point);

static const struct {
    const char *name;
    int value;
} errnos[] = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EFBIG", EFBIG},
    {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ENOMEM", ENOMEM}, {"EROFS", EROFS},
    {"EACCES", EACCES}, {"EINTR", EINTR},
};

/* ---- reading rules ------------------------------------------------------------------------- */

static void refuse(const char *rule, const char *what)
{
    (void)fprintf(stderr, "STREAMIT_FAULT: \"%s\": %s\n", rule, what);
    _exit(2);
}

static bool take_number(const char *text, uint64_t *out, const char **end)
{
    char *behind;
    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    *out = strtoull(text, &behind, 10);
    *end = behind;
    return errno == 0;
}

static bool parse_action(struct rule *rule, const char *text)
{
    uint64_t ms;
    const char *end;
    if (strcmp(text, "kill") == 0) {
        rule->action = ACT_KILL;
        return true;
    }
    if (strncmp(text, "sleep=", 6) == 0) {
        rule->action = ACT_SLEEP;
        bool ok = take_number(text + 6, &ms, &end) && *end == '\0' && ms <= 600000;
        rule->value = ok ? (int)ms : 0;
        return ok;
    }
    rule->action = ACT_ERRNO;
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++) {
        if (strcmp(text, errnos[i].name) == 0) {
            rule->value = errnos[i].value;
            return true;
        }
    }
    return false;
}

static bool parse_when(struct rule *rule, const char *text)
{
    const char *end;
    if (*text == 'p') {
        char *behind;
        rule->nth = 0;
        rule->probability = strtod(text + 1, &behind);
        return behind != text + 1 && *behind == '\0' && rule->probability >= 0 &&
               rule->probability <= 1;
    }
    if (!take_number(text, &rule->nth, &end) || rule->nth == 0) {
        return false;
    }
    rule->ever_after = *end == '+';
    return end[rule->ever_after ? 1 : 0] == '\0';
}

static void parse_rule(const char *text)
{
    char copy[LINE_MAX_LEN];
    struct rule *rule = &faults.rules[faults.count];
    if (faults.count == RULES_MAX || strlen(text) >= sizeof copy) {
        refuse(text, "too many rules, or one too long");
    }
    memcpy(copy, text, strlen(text) + 1);
    char *colon = strchr(copy, ':');
    char *at = colon == NULL ? NULL : strchr(colon, '@');
    size_t len = colon == NULL ? 0 : (size_t)(colon - copy);
    if (len == 0 || len >= sizeof rule->point) {
        refuse(text, "not point:action[@when]");
        return; /* for those who read no further than this function */
    }
    *colon = '\0';
    if (at != NULL) {
        *at = '\0';
    }
    rule->prefix = copy[len - 1] == '*';
    memcpy(rule->point, copy, len + 1);
    if (rule->prefix) {
        rule->point[len - 1] = '\0';
    }
    rule->nth = 1;
    if (!parse_action(rule, colon + 1)) {
        refuse(text, "no such action: kill, sleep=<ms>, or the name of an errno");
    }
    if (at != NULL && !parse_when(rule, at + 1)) {
        refuse(text, "when: N, N+ or pP");
    }
    faults.count++;
}

static void read_environment(void)
{
    char rules[4096];
    const char *text = getenv("STREAMIT_FAULT");
    const char *seed = getenv("STREAMIT_FAULT_SEED");
    faults.log = getenv("STREAMIT_FAULT_LOG");
    atomic_init(&faults.random, (seed == NULL ? 1 : strtoull(seed, NULL, 10)) * 2 + 1);
    if (text == NULL) {
        return;
    }
    if (strlen(text) >= sizeof rules) {
        refuse("...", "longer than 4095 characters");
    }
    memcpy(rules, text, strlen(text) + 1);
    for (char *rule = rules, *next; rule != NULL; rule = next) {
        next = strchr(rule, ';');
        if (next != NULL) {
            *next++ = '\0';
        }
        if (*rule != '\0') {
            parse_rule(rule);
        }
    }
}

/* ---- judging ------------------------------------------------------------------------------- */

/* From 0 to 1, by a counter that is scattered (splitmix64): threads may share it. */
static double next_random(void)
{
    uint64_t z = atomic_fetch_add(&faults.random, UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static bool matches(const struct rule *rule, const char *point)
{
    return rule->prefix ? strncmp(point, rule->point, strlen(rule->point)) == 0
                        : strcmp(point, rule->point) == 0;
}

static bool is_due(struct rule *rule, uint64_t *met)
{
    *met = atomic_fetch_add(&rule->met, 1) + 1;
    return rule->nth == 0 ? next_random() < rule->probability
                          : *met == rule->nth || (rule->ever_after && *met > rule->nth);
}

static void note(const char *point, const struct rule *rule, uint64_t met)
{
    static const char *const names[] = {"kill", "sleep", "errno"};
    char line[LINE_MAX_LEN];
    int fd =
        faults.log == NULL ? -1 : open(faults.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd >= 0) {
        int len = snprintf(line, sizeof line, "%.64s %s %llu\n", point, names[rule->action],
                           (unsigned long long)met);
        (void)!write(fd, line, (size_t)len);
        (void)close(fd);
    }
}

static int act(const struct rule *rule)
{
    struct timespec left = {.tv_sec = rule->value / 1000, .tv_nsec = rule->value % 1000 * 1000000L};
    switch (rule->action) {
    case ACT_KILL:
        (void)kill(getpid(), SIGKILL);
        for (;;) {
            (void)pause(); /* this thread goes no further */
        }
    case ACT_SLEEP:
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
        return 0;
    default:
        return rule->value;
    }
}

int (*sti_fault_set_hook(int (*hook)(const char *point)))(const char *point)
{
    return atomic_exchange(&fault_hook, hook);
}

int sti_fault_hit(const char *point)
{
    int (*hook)(const char *) = atomic_load(&fault_hook);
    if (hook != NULL) {
        return hook(point);
    }
    int rc = 0;
    (void)pthread_once(&faults.once, read_environment);
    for (size_t i = 0; i < faults.count && rc == 0; i++) {
        struct rule *rule = &faults.rules[i];
        uint64_t met;
        if (matches(rule, point) && is_due(rule, &met)) {
            note(point, rule, met);
            rc = act(rule);
        }
    }
    return rc;
}

/* ---- the list ------------------------------------------------------------------------------ */

/* The linker makes them where a section of that name exists. */
extern const char __start_sti_fault_points[] __attribute__((weak, visibility("hidden")));
extern const char __stop_sti_fault_points[] __attribute__((weak, visibility("hidden")));

const char *sti_fault_next(const char *point)
{
    const char *at = point == NULL ? __start_sti_fault_points : point + strlen(point);
    while (at < __stop_sti_fault_points && *at == '\0') {
        at++; /* names are aligned */
    }
    return at < __stop_sti_fault_points ? at : NULL;
}
