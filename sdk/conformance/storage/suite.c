/* suite.c -- the storage suite, as the runner takes it. */
#include "cases.h"

#define ROW(case_name, caps_, timeout, promise_)                                                   \
    {.name = #case_name,                                                                           \
     .promise = (promise_),                                                                        \
     .run = cs_case_##case_name,                                                                   \
     .caps = (caps_),                                                                              \
     .timeout_s = (timeout)},

static const struct cfm_case cases[] = {CS_CASES(ROW)};
static const char *const cap_names[] = {"DURABLE", "FILES", "BLOBS", NULL};

const struct cfm_suite cfm_storage_suite = {.name = "storage",
                                            .iface = STI_STORAGE_ID,
                                            .major = STI_STORAGE_MAJOR,
                                            .minor_min = 1,
                                            .cases = cases,
                                            .case_count = sizeof cases / sizeof cases[0],
                                            .cap_names = cap_names};
