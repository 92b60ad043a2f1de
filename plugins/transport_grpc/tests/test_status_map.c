/* No code is missing from the table, and errors carry what the status list says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <string.h>

#include "descriptors.h"
#include "status_map.h"
#include "transport.h"

#define ROW(name, number, traits, text)                                                            \
    {STI_E_##name, #name, STREAMIT__V1__ERROR_CODE__##name, (traits)},

static const struct row {
    int code;
    const char *name;
    int wire;
    uint32_t traits;
} rows[] = {STI_STATUS_LIST(ROW)};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static void test_complete(void **state)
{
    (void)state;
    assert_int_equal(ROW_COUNT, TGR_STATUS_NUMBER_MAX);
    assert_int_equal(ROW_COUNT + 1, TGR_CODES);
    assert_int_equal(tgr_grpc_status(STI_OK), GRPC_STATUS_OK);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        grpc_status_code status = tgr_grpc_status(rows[i].code);
        assert_int_equal(-rows[i].code, rows[i].wire);
        assert_int_not_equal(status, GRPC_STATUS_OK);
        assert_int_equal(status, tgr_grpc_status(-rows[i].code));
        if ((rows[i].traits & STI_TRAIT_INDEFINITE) != 0) {
            assert_int_not_equal(status, GRPC_STATUS_UNAVAILABLE);
        }
        /* Only these two mean UNKNOWN; anything else would be a hole. */
        assert_int_equal(status == GRPC_STATUS_UNKNOWN, rows[i].code == STI_E_CONNECTION_LOST ||
                                                            rows[i].code == STI_E_REPLICAS_LOST);
    }
    assert_int_equal(tgr_grpc_status(-1000), GRPC_STATUS_UNKNOWN);
    assert_int_equal(tgr_grpc_status(INT_MIN), GRPC_STATUS_UNKNOWN);
}

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        struct tgr_arena arena = {.blocks = NULL};
        Streamit__V1__Error *error = tgr_error_new(&arena, rows[i].code, NULL);
        char text[128];
        assert_non_null(error);
        assert_int_equal(error->code, rows[i].wire);
        assert_string_equal(error->message, sti_status_text(rows[i].code));
        assert_int_equal(error->retriable, (rows[i].traits & STI_TRAIT_RETRIABLE) != 0);
        assert_int_equal(error->refresh, (rows[i].traits & STI_TRAIT_REFRESH) != 0);
        assert_int_equal(error->outcome_unknown, (rows[i].traits & STI_TRAIT_INDEFINITE) != 0);
        tgr_error_text(text, sizeof text, rows[i].code, NULL);
        assert_int_equal(strncmp(text, rows[i].name, strlen(rows[i].name)), 0);
        assert_int_equal(text[strlen(rows[i].name)], ':');
        tgr_arena_fini(&arena);
    }
}

static void test_own_sentence(void **state)
{
    struct tgr_arena arena = {.blocks = NULL};
    struct sti_err err;
    char text[64];
    (void)state;
    (void)sti_err_set(&err, STI_E_UNAVAILABLE, "node 3 drains");
    err.traits |= STI_TRAIT_INDEFINITE;
    tgr_error_text(text, sizeof text, STI_E_UNAVAILABLE, &err);
    assert_string_equal(text, "UNAVAILABLE: node 3 drains");
    Streamit__V1__Error *error = tgr_error_new(&arena, STI_E_UNAVAILABLE, &err);
    assert_int_equal(error->retry_after_ms, TGR_RETRY_AFTER_MS);
    tgr_error_retry(error, 0);
    assert_int_equal(error->retry_after_ms, TGR_RETRY_AFTER_MS);
    tgr_error_retry(error, 7);
    assert_int_equal(error->retry_after_ms, 7);
    tgr_error_retry(NULL, 7);
    assert_string_equal(error->message, "node 3 drains");
    assert_true(error->outcome_unknown);
    /* An error object that speaks of something else is not quoted. */
    error = tgr_error_new(&arena, STI_E_IO, &err);
    assert_string_equal(error->message, sti_status_text(STI_E_IO));
    tgr_error_text(text, 8, STI_E_UNAVAILABLE, &err);
    assert_string_equal(text, "UNAVAIL");
    tgr_arena_fini(&arena);
}

static void count_service(void *arg, const char *name)
{
    unsigned *seen = arg;
    seen[0]++;
    seen[1] += strcmp(name, "streamit.v1.StreamIt") == 0;
    seen[1] += strcmp(name, "grpc.health.v1.Health") == 0;
    seen[1] += strcmp(name, "grpc.reflection.v1alpha.ServerReflection") == 0;
    seen[1] += strcmp(name, "grpc.reflection.v1.ServerReflection") == 0;
}

static void test_descriptors(void **state)
{
    static const char *const symbols[] = {
        "streamit.v1.StreamIt",       "streamit.v1.StreamIt.Produce",
        "streamit.v1.ProduceRequest", "streamit.v1.ProduceRequest.acks",
        "streamit.v1.ACKS_LEADER",    "streamit.v1.Acks"};
    static const char *const unknown[] = {"",
                                          "streamit.v1",
                                          "streamit.v1.",
                                          "streamit.v1.Nothing",
                                          "streamit.v1.StreamIt.Produce.more",
                                          "streamit.v2.StreamIt",
                                          "StreamIt"};
    unsigned seen[2] = {0, 0};
    struct sti_slice file, other;
    (void)state;
    tgr_descriptor_services(count_service, seen);
    assert_int_equal(seen[0], 4);
    assert_int_equal(seen[1], 4);
    assert_true(tgr_descriptor_by_name("streamit/v1/streamit.proto", &file));
    assert_false(tgr_descriptor_by_name("streamit.proto", &other));
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        assert_true(tgr_descriptor_by_symbol(symbols[i], &other));
        assert_ptr_equal(other.data, file.data);
        assert_int_equal(other.len, file.len);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        assert_false(tgr_descriptor_by_symbol(unknown[i], &other));
    }
    assert_true(
        tgr_descriptor_by_symbol("grpc.health.v1.HealthCheckResponse.ServingStatus", &other));
    assert_true(tgr_descriptor_by_symbol("grpc.health.v1.HealthCheckResponse.SERVING", &other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_own_sentence), cmocka_unit_test(test_descriptors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
