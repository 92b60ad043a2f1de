/* fixture.h -- a broker over fakes, and calls that a test makes and waits for.
 *
 * A waiting test fails after FIX_PATIENCE_S seconds instead of hanging; a passing one never waits
 * for time to pass.
 */
#ifndef STREAMIT_BROKER_TESTS_FIXTURE_H
#define STREAMIT_BROKER_TESTS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/broker_plugin.h"
#include "broker/internal.h"
#include "fakes.h"
#include "test_host.h"

enum { FIX_PATIENCE_S = 20, FIX_ROWS = 8 };

struct fixture {
    struct test_host *th;
    struct sti_host host; /* the test host's, with services that a test may replace */
    struct brk_conf conf;
    struct fake_storage *fs;
    struct fake_metadata *fm;
    struct fake_replication *fr;
    const struct sti_broker *vt;
    void *self;
    bool started, provided;
    bool lazy; /* fix_start returns while partitions are still being opened */
};

/* cmocka setup and teardown: *state is a started fixture. Teardown stops it and looks for
 * violations. */
int fix_setup(void **state);
int fix_teardown(void **state);
/* The same without starting the broker, so that knobs can be turned first. */
struct fixture *fix_new(void);
void fix_start(struct fixture *fix);
/* Stop and destroy the broker; storage and metadata stay as they are. */
void fix_stop(struct fixture *fix);
void fix_restart(struct fixture *fix);
void fix_free(struct fixture *fix);
/* The options' own defaults as the kernel would fill them. */
void fix_conf_defaults(struct brk_conf *conf);

/* A flag that a completion raises. */
struct flag {
    unsigned raised;
};
void flag_raise(struct flag *flag);
void flag_wait(struct flag *flag, unsigned at_least);
unsigned flag_get(struct flag *flag);

/* ---- topics */

struct topic_call {
    struct sti_topic_change call;
    struct sti_config_entry entries[FIX_ROWS];
    const struct sti_config_entry *rows[FIX_ROWS];
    struct sti_err err; /* of the call itself */
    struct flag done;
};
void topic_call_init(struct topic_call *t, const char *name, int32_t partitions);
void topic_call_set(struct topic_call *t, const char *key, const char *value);
typedef int fix_topic_fn(void *self, struct sti_topic_change *call, struct sti_err *err);
/* Call and wait. @return its status */
int topic_call_run(struct fixture *fix, fix_topic_fn *fn, struct topic_call *t);
void topic_call_send(struct fixture *fix, fix_topic_fn *fn, struct topic_call *t);
/* One-liners; key NULL: no setting. */
int fix_create(struct fixture *fix, const char *name, int32_t partitions, const char *key,
               const char *value);
int fix_alter(struct fixture *fix, const char *name, int32_t partitions, const char *key,
              const char *value);
int fix_delete(struct fixture *fix, const char *name);

/* ---- produce */

struct produce_call {
    struct sti_produce call;
    struct sti_produce_row rows[FIX_ROWS];
    struct sti_produce_row *row_ptrs[FIX_ROWS];
    struct sti_slice slices[FIX_ROWS];
    uint8_t *bytes[FIX_ROWS];
    struct sti_err err;
    struct flag done;
};
void produce_init(struct produce_call *p, int acks);
/* One batch of `records` records of `value_len` bytes with this timestamp. */
void produce_add(struct produce_call *p, const char *topic, int32_t partition, int records,
                 size_t value_len, int64_t timestamp_ms);
void produce_send(struct fixture *fix, struct produce_call *p);
void produce_wait(struct produce_call *p);
void produce_fini(struct produce_call *p);
/* A batch of `records` small records, acks leader; asserts success. @return its base offset */
int64_t fix_produce(struct fixture *fix, const char *topic, int32_t partition, int records);

/* ---- fetch */

struct fetch_call {
    struct sti_fetch call;
    struct sti_fetch_row rows[FIX_ROWS];
    struct sti_fetch_row *row_ptrs[FIX_ROWS];
    struct sti_err err;
    struct flag done;
};
void fetch_init(struct fetch_call *f, uint32_t max_wait_ms);
void fetch_add(struct fetch_call *f, const char *topic, int32_t partition, int64_t offset);
void fetch_send(struct fixture *fix, struct fetch_call *f);
void fetch_wait(struct fetch_call *f);
void fetch_fini(struct fetch_call *f);
/* Wait until so many fetches are parked. */
void fix_wait_parked(struct fixture *fix, uint64_t count);
/* Wait until a metric has this value. */
void fix_wait_metric(struct fixture *fix, const char *name, uint64_t value);
/* Wait until no partition is being opened or closed. */
void fix_wait_idle(struct fixture *fix);
/* The partition's own strand has run what was posted before. */
void fix_settle(struct fixture *fix, const char *topic, int32_t partition);
/* What describe says of one partition. */
struct sti_partition_info fix_partition(struct fixture *fix, const char *topic, int32_t partition);

#endif /* STREAMIT_BROKER_TESTS_FIXTURE_H */
