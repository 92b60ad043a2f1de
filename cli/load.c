/* load.c -- see load.h. */
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>

#include "load.h"

/* Windows follow each other, as what a program has just made does: reading them costs no more than
 * that. A step that is prime to the pool's length moves those of the next turn against them. */
enum { POOL_BYTES = 4 << 20, POOL_STEP = 1 };

int load_values_init(struct load_values *values, size_t size, struct sti_err *err)
{
    size_t len = POOL_BYTES + size;
    *values = (struct load_values){.size = size, .pool = malloc(len)};
    if (values->pool == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for records of %zu bytes", size);
    }
    for (size_t filled = 0; filled < len;) {
        ssize_t n = getrandom(values->pool + filled, len - filled, 0);
        filled += n > 0 ? (size_t)n : 0;
    }
    return STI_OK;
}

const uint8_t *load_values_next(struct load_values *values)
{
    const uint8_t *value = values->pool + values->pos;
    values->pos = (values->pos + values->size + POOL_STEP) % POOL_BYTES;
    return value;
}

void load_values_fini(struct load_values *values)
{
    free(values->pool);
    values->pool = NULL;
}

uint64_t load_due_us(uint64_t started_us, uint64_t index, double rate)
{
    return started_us + (uint64_t)((double)index * 1e6 / rate);
}

void load_wait(uint64_t due_us)
{
    if (due_us > cli_now_us()) {
        struct timespec ts = {.tv_sec = (time_t)(due_us / 1000000u),
                              .tv_nsec = (long)(due_us % 1000000u) * 1000};
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
    }
}

void load_exact_sleep(void)
{
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}
