/* streamit/request.h -- who asks, and how long they will wait: the context that every broker call
 * carries.
 *
 * A transport fills one per request and keeps it valid until the call's `done` has run.
 * Authorisation, quotas, logs and traces go by it, so a transport never decides any of them itself.
 */
#ifndef STREAMIT_REQUEST_H
#define STREAMIT_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sti_request {
    uint32_t struct_size;
    uint32_t flags;        /* 0 */
    const char *principal; /* who the auth plugin says it is, "User:alice"; "User:anonymous" without
                              authentication */
    const char *client_id; /* what the client calls itself; "" when it does not say */
    const char *peer;      /* remote address, "127.0.0.1:60838" */
    const char *listener;  /* instance name of the transport */
    const char *trace_id;  /* "" when the request has none; never made up by the broker */
    uint64_t connection;   /* unique per connection while the node runs; appends of one connection
                              keep their order */
    uint64_t received_us;  /* STI_CLOCK_MONOTONIC */
    uint64_t deadline_us;  /* STI_CLOCK_MONOTONIC; UINT64_MAX or 0: none. A call that is made after
                              it is answered with TIMED_OUT and has no effect */
    /* since broker 0.4 */
    uint32_t *retry_after_ms; /* the caller's, 0 before the call: when a broker refuses the whole
                                 call with THROTTLED or UNAVAILABLE it says here after how long to
                                 try again. NULL: nobody asks */
};

/* Does a request hold what was added after its first version? */
#define STI_REQUEST_HAS(request, field)                                                            \
    ((request)->struct_size >=                                                                     \
     offsetof(struct sti_request, field) + sizeof(((struct sti_request *)0)->field))

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_REQUEST_H */
