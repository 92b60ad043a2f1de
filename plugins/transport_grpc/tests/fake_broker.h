/* fake_broker.h -- a broker in memory for the tests of a transport: no checks, no files, no
 * cluster.
 *
 * Produce appends whatever bytes a row carries as one record. Some topics exist only to provoke
 * answers: "not-leader", "disk-full", "throttled", "busy" (the call itself is refused), and "hold",
 * whose produce calls are answered by fake_broker_release(). Nothing is kept of what is produced to
 * "sink".
 */
#ifndef TRANSPORT_GRPC_FAKE_BROKER_H
#define TRANSPORT_GRPC_FAKE_BROKER_H

#include <stdbool.h>

#include "streamit/broker.h"

struct fake_broker;

struct fake_broker_facts {
    uint64_t produces, fetches, cancels; /* calls taken */
    uint64_t waiting;                    /* fetches that wait */
    uint64_t held;                       /* produce calls that wait for release */
    uint64_t no_room;                    /* callers that wait for room */
    uint64_t slices_out;                 /* fetched slices whose reference is still held */
    uint64_t disorder; /* produced numbers that were not the successor, see below */
    char client_id[64], trace_id[64], peer[64], listener[64]; /* of the last call */
    uint64_t connection, deadline_us, received_us;
};

struct fake_broker *fake_broker_new(const struct sti_host *host);
/* No call may be under way. */
void fake_broker_free(struct fake_broker *fb);
const struct sti_iface *fake_broker_iface(void);
struct fake_broker_facts fake_broker_facts(struct fake_broker *fb);
/* Answer the held produce calls. */
void fake_broker_release(struct fake_broker *fb);
/* Have room for produce calls, or none: those that ask are then told when there is again. */
void fake_broker_room(struct fake_broker *fb, bool room);
void fake_broker_topic(struct fake_broker *fb, const char *name, int32_t partitions);

#endif /* TRANSPORT_GRPC_FAKE_BROKER_H */
