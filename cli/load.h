/* load.h -- records that are made up, and the moment at which each is due: what `produce --size`
 * and `bench` share.
 */
#ifndef STREAMIT_CLI_LOAD_H
#define STREAMIT_CLI_LOAD_H

#include "cli.h"

/* Values of one size: windows of a pool of random bytes, at places that do not repeat soon, so that
 * no codec finds anything in them. A copy of the struct walks the same pool by itself. */
struct load_values {
    uint8_t *pool;
    size_t size, pos;
};

/* @param size  of each value, bytes
 * @return STI_OK; STI_E_NO_MEMORY. Free one, of all copies, with load_values_fini */
int load_values_init(struct load_values *values, size_t size, struct sti_err *err);
/* The next value, `size` bytes, borrowed until load_values_fini. */
const uint8_t *load_values_next(struct load_values *values);
/* Of an initialised or zeroed one. */
void load_values_fini(struct load_values *values);

/* When record `index` of a schedule is due.
 * @param rate  records a second, > 0 */
uint64_t load_due_us(uint64_t started_us, uint64_t index, double rate);
/* Sleep until `due_us`, or return at once when that is past or an interrupt has come. */
void load_wait(uint64_t due_us);
/* Wake this thread's sleeps as exactly as the machine can, not in groups. */
void load_exact_sleep(void);

#endif /* STREAMIT_CLI_LOAD_H */
