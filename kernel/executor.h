/* executor.h -- threads, strands and timers: the only place of a node that runs work.
 *
 * Story. Work comes as tasks in the memory of whoever posts them, so posting allocates nothing and
 * cannot fail. A pool of at most `threads_max` threads takes tasks from one queue; threads are
 * started when work waits and none is idle, and then kept. A strand makes tasks run one after
 * another without a thread of its own: its first waiting task puts the strand itself on the queue,
 * whoever takes it runs what has gathered, and after a bounded number of tasks it goes back to the
 * end of the queue so that a busy strand starves nobody. A caller may enter an idle strand on its
 * own thread for one task; what was posted meanwhile then goes to the queue. Timers sit in a heap;
 * one thread sleeps until the earliest is due and posts its task.
 *
 * Invariants. A strand is on the queue, or being run, exactly when its inbox is not IDLE. A timer
 * is in the heap exactly when its position word is not zero. No lock is held while a task runs.
 *
 * Failure. Only starting the first thread can fail (at start-up, as an error). A later thread that
 * cannot be started leaves the work to those that run.
 */
#ifndef STREAMIT_KERNEL_EXECUTOR_H
#define STREAMIT_KERNEL_EXECUTOR_H

#include "streamit/plugin.h"

struct krn_executor;

/* Figures for metrics. */
struct krn_executor_stats {
    uint64_t tasks_run;    /* since the start */
    uint32_t threads;      /* running */
    uint32_t threads_idle; /* waiting for work */
    uint64_t queued;       /* tasks and strands that wait for a thread */
    uint64_t timers;       /* armed */
};

/* Measure one in PROBE_EVERY tasks that are posted to the queue, a strand with all that has
 * gathered on it counting as one: how long it waits for a thread, and how long it runs, in
 * microseconds. Before anything is posted. */
void krn_executor_measure(struct krn_executor *executor, struct sti_histogram *wait_us,
                          struct sti_histogram *run_us);

/* @param threads_max  1..1024; one thread starts at once. @return STI_OK, STI_E_NO_MEMORY,
 * STI_E_RESOURCE_EXHAUSTED */
int krn_executor_new(struct krn_executor **out, uint32_t threads_max, struct sti_err *err);
/* Run what is queued, drop armed timers, end the threads. Nothing may be posted from outside any
 * more. */
void krn_executor_free(struct krn_executor *executor);

/* As the services of the same names in struct sti_host. Any thread. */
void krn_executor_post(struct krn_executor *executor, struct sti_task *task);
void krn_strand_init(struct krn_executor *executor, struct sti_strand *strand);
void krn_strand_post(struct sti_strand *strand, struct sti_task *task);
bool krn_strand_try_run(struct sti_strand *strand, struct sti_task *task);
void krn_strand_fini(struct sti_strand *strand);
void krn_timer_arm(struct krn_executor *executor, struct sti_timer *timer, uint64_t due_us);
bool krn_timer_cancel(struct krn_executor *executor, struct sti_timer *timer);

void krn_executor_stats(struct krn_executor *executor, struct krn_executor_stats *out);
/* Microseconds of enum sti_clock. */
uint64_t krn_clock_us(int clock_id);

#endif /* STREAMIT_KERNEL_EXECUTOR_H */
