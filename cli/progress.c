/* progress.c -- a live line on a terminal: how much, how fast. A thread of its own, so that it goes
 * on while the program waits for input or for acknowledgements. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

struct cli_progress {
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t wake;
    bool stopping;
    const char *verb;
    const uint64_t *records, *bytes;
};

/* Columns that a line may take: one that wraps could not be replaced. */
static int width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

static void *progress_main(void *arg)
{
    struct cli_progress *p = arg;
    uint64_t last_records = 0, last_bytes = 0, last_us = cli_now_us();
    pthread_mutex_lock(&p->mu);
    while (!p->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 500000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&p->wake, &p->mu, &until);
        uint64_t records = __atomic_load_n(p->records, __ATOMIC_RELAXED);
        uint64_t bytes = __atomic_load_n(p->bytes, __ATOMIC_RELAXED);
        uint64_t now = cli_now_us();
        double seconds = (double)(now - last_us + 1) / 1e6;
        char line[160];
        (void)snprintf(line, sizeof line, "%s %llu records, %.1f MB; %.0f records/s, %.1f MB/s",
                       p->verb, (unsigned long long)records, (double)bytes / 1e6,
                       (double)(records - last_records) / seconds,
                       (double)(bytes - last_bytes) / 1e6 / seconds);
        fprintf(stderr, "\r\033[K%.*s", width(), line);
        fflush(stderr);
        last_records = records;
        last_bytes = bytes;
        last_us = now;
    }
    pthread_mutex_unlock(&p->mu);
    fprintf(stderr, "\r\033[K");
    return NULL;
}

struct cli_progress *cli_progress_start(const char *verb, const uint64_t *records,
                                        const uint64_t *bytes)
{
    if (!isatty(STDERR_FILENO)) {
        return NULL;
    }
    struct cli_progress *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->verb = verb;
    p->records = records;
    p->bytes = bytes;
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (pthread_create(&p->thread, NULL, progress_main, p) != 0) {
        free(p);
        return NULL;
    }
    return p;
}

void cli_progress_stop(struct cli_progress *p)
{
    if (p != NULL) {
        pthread_mutex_lock(&p->mu);
        p->stopping = true;
        pthread_cond_signal(&p->wake);
        pthread_mutex_unlock(&p->mu);
        pthread_join(p->thread, NULL);
        pthread_mutex_destroy(&p->mu);
        pthread_cond_destroy(&p->wake);
        free(p);
    }
}
