/* runner.c -- one process a case, and the report.
 *
 * The runner itself loads no plugin and starts no thread, so that it may fork safely. What a case
 * has to tell stands on a page that both share: the outcome, the reason, and what the case was at.
 * A case that ends by a signal, with another status than its outcome says, or not in time, has
 * failed, whatever stands there.
 */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_PASSED = 0, EXIT_FAILED = 1, EXIT_REFUSED = 2, EXIT_INTERRUPTED = 130 };
enum { ANSWER_S = 30, TIMEOUT_S = 60, TIMEOUT_FULL = 10, ROUNDS_FULL = 20, POLL_MS = 100 };
enum outcome { RUNNING, FAILING, FAILED, PASSED, SKIPPED };

struct page {
    _Atomic int outcome; /* enum outcome */
    char reason[1200];
    char step[256];
    struct cfm_subject subject;
};

static struct page *page;
static pthread_mutex_t step_mu = PTHREAD_MUTEX_INITIALIZER;

/* ---- what cases call ------------------------------------------------------------------------ */

_Noreturn static void end_case(int outcome)
{
    atomic_store(&page->outcome, outcome);
    _exit(outcome == FAILED ? EXIT_FAILED : EXIT_PASSED);
}

/* Only the first speaks; the others wait until it has, so that they do not cut it short. */
static void take_word(void)
{
    int expected = RUNNING;
    if (!atomic_compare_exchange_strong(&page->outcome, &expected, FAILING)) {
        while (atomic_load(&page->outcome) == FAILING) {
            (void)usleep(1000);
        }
        _exit(EXIT_FAILED);
    }
}

_Noreturn void cfm_fail(const char *file, int line, const char *fmt, ...)
{
    const char *slash = strrchr(file, '/');
    char text[600];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    take_word();
    pthread_mutex_lock(&step_mu);
    (void)snprintf(page->reason, sizeof page->reason, "%s%s%s%s at %s:%d", text,
                   page->step[0] == '\0' ? "" : " (", page->step, page->step[0] == '\0' ? "" : ")",
                   slash == NULL ? file : slash + 1, line);
    pthread_mutex_unlock(&step_mu);
    end_case(FAILED);
}

_Noreturn void cfm_skip(const char *fmt, ...)
{
    va_list args;
    take_word();
    va_start(args, fmt);
    (void)vsnprintf(page->reason, sizeof page->reason, fmt, args);
    va_end(args);
    end_case(SKIPPED);
}

void cfm_step(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    pthread_mutex_lock(&step_mu);
    (void)vsnprintf(page->step, sizeof page->step, fmt, args);
    pthread_mutex_unlock(&step_mu);
    va_end(args);
}

void cfm_check_eq(const char *file, int line, const char *what, int64_t got, int64_t want)
{
    if (got != want) {
        cfm_fail(file, line, "%s is %" PRId64 ", expected %" PRId64, what, got, want);
    }
}

void cfm_check_status(const char *file, int line, const char *what, int got, int want)
{
    if (got != want) {
        cfm_fail(file, line, "%s is %s, expected %s", what, sti_status_name(got),
                 sti_status_name(want));
    }
}

uint32_t cfm_below(struct cfm *cfm, uint32_t below)
{
    /* splitmix64 */
    uint64_t z = (cfm->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

bool cfm_one_in(struct cfm *cfm, uint32_t n)
{
    return cfm_below(cfm, n) == 0;
}

pid_t cfm_fork(void (*run)(void *arg, int fd), void *arg, int *out)
{
    int ends[2];
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0) {
        CFM_FAIL("pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid < 0) {
        CFM_FAIL("fork: %s", strerror(errno));
    }
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(EXIT_FAILED);
        }
        (void)close(ends[0]);
        run(arg, ends[1]);
        _exit(EXIT_PASSED);
    }
    (void)close(ends[1]);
    *out = ends[0];
    return pid;
}

static int reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            CFM_FAIL("waitpid: %s", strerror(errno));
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) != EXIT_PASSED) {
        if (atomic_load(&page->outcome) != RUNNING) {
            _exit(EXIT_FAILED); /* it has said why */
        }
        CFM_FAIL("the process to be killed exited with status %d", WEXITSTATUS(status));
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
        CFM_FAIL("the process to be killed ended by %s by itself (%s)", strsignal(WTERMSIG(status)),
                 page->step);
    }
    return status;
}

void cfm_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)reap(pid);
}

void cfm_join(pid_t pid)
{
    int status = reap(pid);
    CFM_EXPECT(WIFEXITED(status), "the process was killed by somebody else");
}

/* ---- one process ---------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_dir(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t seed_of(uint64_t seed, const char *name)
{
    uint64_t hash = UINT64_C(14695981039346656037) ^ seed;
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * UINT64_C(1099511628211);
    }
    return hash;
}

static char *text_of(const char *fmt, ...) STI_PRINTF(1, 2);
static char *text_of(const char *fmt, ...)
{
    char *text;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0) {
        abort();
    }
    return text;
}

/* The child's side. What is allocated here lives as long as the process. */
static void run_case(const struct cfm_args *args, const struct cfm_suite *suite,
                     const struct cfm_case *c, const char *dir, uint64_t caps)
{
    static char *data_dir, *instance_dir;
    static struct cfm cfm;
    int log_fd = STDERR_FILENO;
    data_dir = text_of("%s/data", dir);
    instance_dir = text_of("%s/subject", data_dir);
    if (!args->log) {
        char *log = text_of("%s/log", dir);
        log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        free(log);
    }
    (void)signal(SIGPIPE, SIG_IGN);
    cfm = (struct cfm){.dir = dir,
                       .data_dir = data_dir,
                       .instance_dir = instance_dir,
                       .random = seed_of(args->seed, c->name),
                       .caps = caps,
                       .answer_s = args->timeout_s,
                       .rounds = args->full ? ROUNDS_FULL : 1};
    cfm_host_setup(args, suite, log_fd);
    c->run(&cfm);
    atomic_store(&page->outcome, PASSED);
}

/* Wait for the child, at most until `due`. @return its status, or -1: it was out of time, and has
 * been killed; -2: we were interrupted, and so has it */
static int wait_child(pid_t pid, time_t timeout_s)
{
    sigset_t set;
    struct timespec now, poll = {.tv_nsec = POLL_MS * 1000000L};
    int status, verdict = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    time_t due = now.tv_sec + timeout_s;
    for (;;) {
        pid_t got = waitpid(pid, &status, verdict == 0 ? WNOHANG : 0);
        if (got == pid) {
            return verdict == 0 ? status : verdict;
        }
        int signal = sigtimedwait(&set, NULL, &poll);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        if (signal == SIGINT || signal == SIGTERM || now.tv_sec >= due) {
            verdict = now.tv_sec >= due ? -1 : -2;
            (void)kill(pid, SIGKILL);
        }
    }
}

static pid_t fork_child(void)
{
    pid_t parent = getpid();
    (void)fflush(NULL);
    memset(page->reason, 0, sizeof page->reason);
    memset(page->step, 0, sizeof page->step);
    atomic_store(&page->outcome, RUNNING);
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(EXIT_FAILED);
        }
    }
    return pid;
}

/* Turn how the process ended into the outcome. @return false: interrupted */
static bool judge(int status, time_t timeout_s)
{
    const char *at = page->step[0] == '\0' ? "" : "; it was at: ";
    if (status == -2) {
        return false;
    }
    int outcome = atomic_load(&page->outcome);
    if (status == -1) {
        outcome = FAILED;
        (void)snprintf(page->reason, sizeof page->reason, "did not end within %lld s%s%s",
                       (long long)timeout_s, at, page->step);
    } else if (WIFSIGNALED(status)) {
        outcome = FAILED;
        (void)snprintf(page->reason, sizeof page->reason, "ended by signal %d (%s)%s%s",
                       WTERMSIG(status), strsignal(WTERMSIG(status)), at, page->step);
    } else if (outcome != FAILED && (outcome == RUNNING || WEXITSTATUS(status) != 0)) {
        (void)snprintf(page->reason, sizeof page->reason, "its process exited with status %d%s%s%s",
                       WEXITSTATUS(status), outcome == PASSED ? " after the last check" : "", at,
                       page->step);
        outcome = FAILED;
    }
    atomic_store(&page->outcome, outcome);
    return true;
}

/* ---- the report ----------------------------------------------------------------------------- */

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static const char *word_of(int outcome)
{
    return outcome == PASSED ? "PASS" : outcome == SKIPPED ? "SKIP" : "FAIL";
}

static void report_json(const struct cfm_suite *suite, const struct cfm_case *c, bool first,
                        uint64_t ms)
{
    static const char *const words[] = {
        [FAILED] = "failed", [PASSED] = "passed", [SKIPPED] = "skipped"};
    printf("%s\n  {\"name\":\"%s.%s\",\"status\":\"%s\",\"ms\":%" PRIu64 ",\"promise\":",
           first ? "" : ",", suite->name, c->name, words[atomic_load(&page->outcome)], ms);
    print_json_text(c->promise);
    if (page->reason[0] != '\0') {
        printf(",\"reason\":");
        print_json_text(page->reason);
    }
    putchar('}');
}

static void report_text(const struct cfm_suite *suite, const struct cfm_case *c)
{
    printf("%s %s.%s%s%s\n", word_of(atomic_load(&page->outcome)), suite->name, c->name,
           page->reason[0] == '\0' ? "" : ": ", page->reason);
    (void)fflush(stdout);
}

struct tally {
    unsigned passed, failed, skipped;
    bool interrupted;
};

static void count(struct tally *tally)
{
    int outcome = atomic_load(&page->outcome);
    tally->passed += outcome == PASSED ? 1 : 0;
    tally->failed += outcome == FAILED ? 1 : 0;
    tally->skipped += outcome == SKIPPED ? 1 : 0;
}

/* ---- cases ---------------------------------------------------------------------------------- */

/* A case asks for what the plugin does not promise: skip it by the promise's name. */
static bool skip_by_caps(const struct cfm_suite *suite, const struct cfm_case *c, uint64_t caps)
{
    uint64_t missing = c->caps & ~caps;
    if (missing == 0) {
        return false;
    }
    int n = snprintf(page->reason, sizeof page->reason, "the plugin does not promise");
    for (unsigned bit = 0; suite->cap_names[bit] != NULL; bit++) {
        if ((missing & (UINT64_C(1) << bit)) != 0) {
            n += snprintf(page->reason + n, sizeof page->reason - (size_t)n, " %s",
                          suite->cap_names[bit]);
        }
    }
    atomic_store(&page->outcome, SKIPPED);
    return true;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static bool one_case(const struct cfm_args *args, const struct cfm_suite *suite,
                     const struct cfm_case *c, const char *base, uint64_t caps)
{
    time_t timeout_s = c->timeout_s == 0 ? TIMEOUT_S : c->timeout_s;
    timeout_s = timeout_s * args->timeout_s / ANSWER_S * (args->full ? TIMEOUT_FULL : 1);
    page->reason[0] = '\0';
    if (skip_by_caps(suite, c, caps)) {
        return true;
    }
    char *dir = text_of("%s/%s", base, c->name);
    if (mkdir(dir, 0700) != 0) {
        (void)snprintf(page->reason, sizeof page->reason, "%s: %s", dir, strerror(errno));
        atomic_store(&page->outcome, FAILED);
        free(dir);
        return true;
    }
    pid_t pid = fork_child();
    if (pid == 0) {
        run_case(args, suite, c, dir, caps);
        exit(EXIT_PASSED); /* sanitizers have their last word on the way out */
    }
    bool go_on = judge(pid < 0 ? -1 : wait_child(pid, timeout_s), timeout_s);
    if (!args->keep || atomic_load(&page->outcome) != FAILED) {
        remove_dir(dir);
    }
    free(dir);
    return go_on;
}

static bool is_wanted(const struct cfm_args *args, const struct cfm_suite *suite,
                      const struct cfm_case *c)
{
    size_t len = strlen(suite->name);
    bool wanted = args->case_count == 0;
    for (size_t i = 0; i < args->case_count && !wanted; i++) {
        const char *name = args->cases[i];
        name += strncmp(name, suite->name, len) == 0 && name[len] == '.' ? len + 1 : 0;
        wanted = strcmp(name, c->name) == 0;
    }
    return wanted;
}

static void run_suite(const struct cfm_args *args, const struct cfm_suite *suite, const char *base,
                      uint64_t caps, struct tally *tally)
{
    for (size_t i = 0; i < suite->case_count && !tally->interrupted; i++) {
        const struct cfm_case *c = &suite->cases[i];
        if (!is_wanted(args, suite, c)) {
            continue;
        }
        uint64_t since = now_ms();
        if (!one_case(args, suite, c, base, caps)) {
            tally->interrupted = true;
            break;
        }
        if (args->json) {
            report_json(suite, c, tally->passed + tally->failed + tally->skipped == 0,
                        now_ms() - since);
        } else {
            report_text(suite, c);
        }
        count(tally);
        if (args->fail_fast && tally->failed > 0) {
            break;
        }
    }
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* Would the daemon take the plugin? In a process of its own, as everything that loads it. */
static int probe(const struct cfm_args *args, const char *base)
{
    pid_t pid = fork_child();
    if (pid == 0) {
        char *dir = text_of("%s/probe", base);
        if (mkdir(dir, 0700) != 0) {
            _exit(EXIT_FAILED);
        }
        cfm_host_probe(args, dir, &page->subject);
        _exit(EXIT_PASSED);
    }
    int status = pid < 0 ? -1 : wait_child(pid, TIMEOUT_S);
    if (status < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != EXIT_PASSED) {
        fprintf(stderr, "streamit-conform: %s: %s while it was loaded\n", args->file,
                status >= 0 && WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it failed");
        return EXIT_REFUSED;
    }
    if (page->subject.status != STI_OK) {
        fprintf(stderr, "streamit-conform: %s\n", page->subject.msg);
        return EXIT_REFUSED;
    }
    return EXIT_PASSED;
}

static bool caps_of(const struct cfm_suite *suite, uint64_t *caps)
{
    for (uint32_t i = 0; i < page->subject.iface_count; i++) {
        if (strcmp(page->subject.ifaces[i].id, suite->iface) == 0) {
            *caps = page->subject.ifaces[i].caps;
            return true;
        }
    }
    return false;
}

static void print_head(const struct cfm_args *args)
{
    const struct cfm_subject *subject = &page->subject;
    if (!args->json) {
        printf("%s %s: seed %" PRIu64 "%s\n", subject->name, subject->version, args->seed,
               args->full ? ", long runs" : "");
        return;
    }
    printf("{\"file\":");
    print_json_text(args->file);
    printf(",\"plugin\":");
    print_json_text(subject->name);
    printf(",\"version\":");
    print_json_text(subject->version);
    printf(",\"seed\":%" PRIu64 ",\"full\":%s,\"cases\":[", args->seed,
           args->full ? "true" : "false");
}

static int run_all(const struct cfm_args *args, const char *base)
{
    struct tally tally = {0};
    unsigned suites = 0;
    int status = probe(args, base);
    if (status != EXIT_PASSED) {
        return status;
    }
    for (size_t i = 0; cfm_suites[i] != NULL; i++) {
        uint64_t caps;
        if ((args->suite == NULL || strcmp(args->suite, cfm_suites[i]->name) == 0) &&
            caps_of(cfm_suites[i], &caps)) {
            if (suites++ == 0) {
                print_head(args);
            }
            run_suite(args, cfm_suites[i], base, caps, &tally);
        }
    }
    if (suites == 0) {
        fprintf(stderr, "streamit-conform: %s (%s): it provides no interface that %s proves\n",
                page->subject.name, args->file, args->suite == NULL ? "a suite" : args->suite);
        return EXIT_REFUSED;
    }
    if (args->json) {
        printf("\n],\"passed\":%u,\"failed\":%u,\"skipped\":%u}\n", tally.passed, tally.failed,
               tally.skipped);
    } else {
        printf("%u passed, %u failed, %u skipped\n", tally.passed, tally.failed, tally.skipped);
    }
    if (tally.failed > 0) {
        fprintf(stderr, "streamit-conform: replay with --seed %" PRIu64 "\n", args->seed);
    }
    return tally.interrupted ? EXIT_INTERRUPTED : tally.failed > 0 ? EXIT_FAILED : EXIT_PASSED;
}

int cfm_run(const struct cfm_args *args)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *base = text_of("%s/streamit-conform-XXXXXX", args->dir);
    if (page == MAP_FAILED || mkdtemp(base) == NULL) {
        fprintf(stderr, "streamit-conform: %s: %s\n", base, strerror(errno));
        free(base);
        return EXIT_REFUSED;
    }
    int status = run_all(args, base);
    if (args->keep && status == EXIT_FAILED) {
        fprintf(stderr, "streamit-conform: kept %s\n", base);
    } else {
        remove_dir(base);
    }
    free(base);
    (void)munmap(page, sizeof *page);
    return status;
}

void cfm_list(void)
{
    for (size_t i = 0; cfm_suites[i] != NULL; i++) {
        for (size_t j = 0; j < cfm_suites[i]->case_count; j++) {
            const struct cfm_case *c = &cfm_suites[i]->cases[j];
            printf("%s.%-28s %s\n", cfm_suites[i]->name, c->name, c->promise);
        }
    }
}
