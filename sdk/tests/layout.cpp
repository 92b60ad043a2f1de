// layout.cpp -- the layouts as a C++17 compiler sees them, and the inline functions in use there:
// compiling it is the test.
#include <type_traits>

#include "layout_core.h"
#include "layout_interfaces.h"

// What crosses the ABI is plain data in C++ too.
static_assert(std::is_trivial<sti_err>::value && std::is_standard_layout<sti_err>::value,
              "sti_err");
static_assert(std::is_trivial<sti_slice>::value && std::is_standard_layout<sti_slice>::value,
              "sti_slice");
static_assert(std::is_trivial<sti_plugin>::value && std::is_standard_layout<sti_plugin>::value,
              "sti_plugin");
static_assert(std::is_trivial<sti_host>::value && std::is_standard_layout<sti_host>::value,
              "sti_host");
static_assert(std::is_trivial<sti_storage>::value && std::is_standard_layout<sti_storage>::value,
              "sti_storage");
static_assert(std::is_trivial<sti_broker>::value && std::is_standard_layout<sti_broker>::value,
              "sti_broker");

int layout_use(const sti_host *host, sti_fetch *fetch, sti_metric *metric,
               sti_histogram *histogram);

int layout_use(const sti_host *host, sti_fetch *fetch, sti_metric *metric, sti_histogram *histogram)
{
    sti_err err;
    sti_err_clear(&err);
    sti_slice slice = sti_slice_borrow("abc", 3);
    sti_slice_ref(&slice);
    sti_slice_release(&slice);
    sti_fetch_release(fetch);
    sti_metric_add(metric, 1);
    sti_metric_sub(metric, 1);
    sti_metric_set(metric, static_cast<uint64_t>(sti_now_ms(host)));
    sti_histogram_record(histogram, sti_now_us(host));
    if (!STI_HAS(host, health_visit)) {
        return sti_err_wrap(&err, sti_err_set(&err, STI_E_UNSUPPORTED, "%s", "health"), "visit");
    }
    return static_cast<int>(sti_status_traits(err.code)) + sti_status_name(0)[0] +
           sti_status_text(0)[0];
}
