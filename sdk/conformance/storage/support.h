/* support.h -- what support.c and calls.c share beneath storage_suite.h. */
#ifndef STREAMIT_STORAGE_SUPPORT_H
#define STREAMIT_STORAGE_SUPPORT_H

#include "storage_suite.h"

extern uint32_t cs_answer_s; /* how long an answer may take */

/* One thing that is waited for, at most cs_answer_s seconds. */
struct cs_waiter {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool over;
};

void cs_waiter_init(struct cs_waiter *w);
void cs_waiter_fini(struct cs_waiter *w);
void cs_waiter_end(struct cs_waiter *w);
/* @return false: nothing came in time */
bool cs_waiter_wait(struct cs_waiter *w);

/* A status that the contract does not name for a call is a failure by itself. @return `status` */
int cs_documented(const char *what, int status, const int *list, size_t count);
#define CS_DOCUMENTED(what, status, ...)                                                           \
    cs_documented((what), (status), (const int[]){__VA_ARGS__},                                    \
                  sizeof(const int[]){__VA_ARGS__} / sizeof(int))

/* The error object of a call that returns its status must say the same. @return `status` */
int cs_agree(const char *what, int status, const struct sti_err *err);

/* Calls that were kept had the answers that were due, and no more. */
void cs_calls_end(void);

#endif /* STREAMIT_STORAGE_SUPPORT_H */
