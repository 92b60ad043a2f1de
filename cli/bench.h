/* bench.h -- the load that `streamit bench` makes, apart from its options and reports.
 *
 * Producers and consumers are threads, each with an object of libstreamit of its own; they share
 * one connected client or several. Every latency is open loop: it runs from the moment that a
 * record was due by its schedule, whether or not anything could take it then. Only a run one at a
 * time is a closed loop, and says so.
 */
#ifndef STREAMIT_CLI_BENCH_H
#define STREAMIT_CLI_BENCH_H

#include "cli.h"

enum bench_kind { BENCH_PRODUCE, BENCH_CONSUME, BENCH_LATENCY, BENCH_END_TO_END };

/* The least size of a record that carries the time when it was due. */
enum { BENCH_STAMP_BYTES = 8, BENCH_THREADS_MAX = 1024 };

struct bench {
    /* Set before bench_run. */
    struct cli *cli;
    enum bench_kind kind;
    const char *topic;
    int64_t producers, consumers, clients;
    int64_t size;              /* bytes of a record */
    int64_t rate;              /* records a second of all producers together; 0: flat out */
    int64_t count, duration_s; /* of all producers together, behind the warm-up; -1: no bound */
    int64_t warm_up_ms;
    bool one_at_a_time;
    struct sti_producer_config producer;
    struct sti_consumer_config consumer;

    /* Results, final when bench_run has returned. */
    uint64_t records, bytes, errors;
    double seconds;
    double user_s, system_s;       /* CPU of this process meanwhile */
    struct histogram ack_us;       /* due to acknowledged                              */
    struct histogram late_us;      /* due to handed to the library: our own lateness   */
    struct histogram delivered_us; /* due to received by a consumer                    */
    int status;                    /* first failure */
    struct sti_err err;
};

/* Run it. @return the status, which is STI_OK also after an interrupt */
int bench_run(struct bench *bench);

#endif /* STREAMIT_CLI_BENCH_H */
