/* peer_suite.c -- the suite of streamit.peer, for the runner. */
#include "peer_suite.h"

static const struct cfm_case cases[] = {
#define CASE(case_name, text)                                                                      \
    {                                                                                              \
        .name = #case_name, .promise = text, .run = pee_case_##case_name                           \
    }
    CASE(call, "a call reaches its handler, and its answer the caller"),
    CASE(self, "a node may dial itself, and whoever is at an address"),
    CASE(order, "handlers of a connection begin in the order of the calls, one at a time"),
    CASE(sizes, "requests and answers of any size and in any slices come whole"),
    CASE(later, "handlers may answer later and in any order"),
    CASE(released, "each reference of a slice is dropped once, however a call ends"),
    CASE(kept, "bytes stay as long as a reference is held"),
    CASE(memory_back, "what has no owner is the caller's again when call returns"),
    CASE(threads, "calls of many threads share a connection"),
    CASE(connections, "connections do not wait for each other"),
    CASE(timeout, "a call ends after its timeout, and its late answer is dropped"),
    CASE(cancel, "a call is cancelled once, and no other"),
    CASE(hang_up, "hang_up ends what is under way, and nothing comes after"),
    CASE(sever, "a broken connection loses its calls, once, and is made anew"),
    CASE(unreachable, "a call to nobody is UNAVAILABLE, and the attempts go on"),
    CASE(restart, "a node that comes back is connected again"),
    CASE(other_cluster, "a node of another cluster is refused by name"),
    CASE(other_node, "a node that is not the one dialed is refused by name"),
    CASE(random_runs, "calls, cancels, timeouts and breaks in any order end once each"),
    CASE(no_service, "a call of a service that is not there is UNAVAILABLE"),
    CASE(withdraw, "after withdraw no handler runs, and what it had may still be answered"),
    CASE(withdraw_waits, "withdraw waits for the handler that runs"),
    CASE(names, "bad names, addresses and counts are refused"),
    CASE(too_large, "a request or answer that is too large is refused, and nothing else"),
    CASE(calls_max, "calls_max of one connection is held"),
    CASE(bytes_max, "bytes_max of one connection is held"),
    CASE(drain, "a node that ends answers what it was asked"),
    CASE(lifecycle, "it starts and stops again and again"),
#undef CASE
    {.name = "killed",
     .promise = "the death of a process fails what is under way there",
     .run = pee_case_killed,
     .caps = STI_PEER_REMOTE},
};
static const char *const cap_names[] = {"REMOTE", NULL};

const struct cfm_suite cfm_peer_suite = {.name = "peer",
                                         .iface = STI_PEER_ID,
                                         .major = STI_PEER_MAJOR,
                                         .minor_min = STI_PEER_MINOR,
                                         .cases = cases,
                                         .case_count = sizeof cases / sizeof cases[0],
                                         .cap_names = cap_names};
