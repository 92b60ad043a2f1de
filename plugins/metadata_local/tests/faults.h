/* faults.h -- system calls that fail when the test says so. The test programs are linked with
 * --wrap for each of them. */
#ifndef MDL_TEST_FAULTS_H
#define MDL_TEST_FAULTS_H

#include <stdbool.h>
#include <stddef.h>

enum fault_call {
    FAULT_PWRITE,
    FAULT_FDATASYNC,
    FAULT_FSYNC,
    FAULT_FALLOCATE,
    FAULT_FTRUNCATE,
    FAULT_RENAMEAT,
    FAULT_CALLS
};

/* No faults, counters at zero. */
void fault_reset(void);
/* Let the call fail with `error` from its nth run on (1: the next one), `times` times (-1: always).
 */
void fault_set(enum fault_call call, unsigned nth, int times, int error);
/* A pwrite that fails writes so many bytes first. */
void fault_partial(size_t bytes);
/* From the nth changing call of any kind on nothing reaches the disk: the process is as good as
 * dead. Of a pwrite that is the nth half the bytes are written. */
void fault_die_at(unsigned nth);
/* Changing calls since the reset. */
unsigned fault_changes(void);
unsigned fault_count(enum fault_call call);
/* Called before each fdatasync; NULL: nothing. */
void fault_on_sync(void (*hook)(void *arg), void *arg);

#endif /* MDL_TEST_FAULTS_H */
