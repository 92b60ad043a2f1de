/* subject.c -- one plugin, and with -DWRONG_... one deliberate fault each, for the refusals. */
#include "streamit/plugin.h"
#include "streamit/storage.h"

/* A faulty edition leaves out what others use. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#if defined(WRONG_NO_SYMBOL)
STI_PLUGIN_EXPORT int subject_exports_something_else(void);
int subject_exports_something_else(void)
{
    return 0;
}
#elif defined(WRONG_FUNCTION)
STI_PLUGIN_EXPORT void sti_plugin(void);
void sti_plugin(void)
{
}
#elif defined(WRONG_TINY)
#if defined(__clang__) /* unsanitized, or the symbol would take in the red zone behind it */
__attribute__((no_sanitize_address))
#endif
STI_PLUGIN_EXPORT const uint32_t sti_plugin[2] = {STI_PLUGIN_MAGIC, 8};
#else

struct conf {
    int64_t port;
    const char *host;
};

static int subject_create(const struct sti_host *host, const void *conf, void **self,
                          struct sti_err *err)
{
    (void)conf;
    (void)err;
    *self = (void *)(uintptr_t)host;
    return STI_OK;
}

static int subject_start(void *self, struct sti_err *err)
{
    (void)self;
    (void)err;
    return STI_OK;
}

static int subject_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)self;
    (void)deadline_ms;
    (void)err;
    return STI_OK;
}

static void subject_destroy(void *self)
{
    (void)self;
}

static const struct sti_lifecycle life = {
#ifdef WRONG_LIFE_SIZE
    .struct_size = 16,
#else
    .struct_size = sizeof(struct sti_lifecycle),
#endif
    .create = subject_create,
    .start = subject_start,
#ifndef WRONG_LIFE_SLOT
    .stop = subject_stop,
#endif
    .destroy = subject_destroy,
};

static const struct sti_option opt_port = {
#ifdef WRONG_OPTION_SIZE
    .struct_size = 24,
#else
    .struct_size = sizeof(struct sti_option),
#endif
#ifdef WRONG_OPTION_KEY
    .key = "Port-Number",
#elif defined(WRONG_OPTION_FILE)
    .key = "file",
#else
    .key = "port",
#endif
#ifdef WRONG_OPTION_TYPE
    .type = 42,
#else
    .type = STI_OPT_INT,
#endif
#ifdef WRONG_OPTION_OFFSET
    .offset = 64,
#else
    .offset = offsetof(struct conf, port),
#endif
#ifdef WRONG_OPTION_DEFAULT
    .def = "70000",
#else
    .def = "8080",
#endif
    .max = 65535,
    .help = "TCP port."};
static const struct sti_option opt_host = {.struct_size = sizeof(struct sti_option),
#ifdef WRONG_OPTION_TWICE
                                           .key = "port",
#else
                                           .key = "host",
#endif
                                           .type = STI_OPT_STRING,
                                           .offset = offsetof(struct conf, host),
                                           .help = "Name."};
static const struct sti_option *const options[] = {&opt_port, &opt_host, NULL};

#if defined(WRONG_STORAGE_SIZE) || defined(WRONG_STORAGE_SLOT) || defined(WRONG_STORAGE_CAPS) ||   \
    defined(WRONG_STORAGE_MAJOR) || defined(WRONG_STORAGE_MINOR) || defined(WRONG_STORAGE_OLD)
static void nothing(void)
{
}
#define ANY(slot) .slot = (__typeof__(((struct sti_storage *)0)->slot))(void *)(uintptr_t)nothing
static const struct sti_storage provided = {
    .iface = {.id = STI_STORAGE_ID,
#ifdef WRONG_STORAGE_SIZE
              .struct_size = sizeof(struct sti_iface) + sizeof(void *),
#elif defined(WRONG_STORAGE_OLD) /* as 0.1 was, and right for that */
              .struct_size = offsetof(struct sti_storage, space),
#else
              .struct_size = sizeof(struct sti_storage),
#endif
#ifdef WRONG_STORAGE_MAJOR
              .major = STI_STORAGE_MAJOR + 3,
#else
              .major = STI_STORAGE_MAJOR,
#endif
#ifdef WRONG_STORAGE_MINOR
              .minor = 0,
#elif defined(WRONG_STORAGE_OLD)
              .minor = 1,
#else
              .minor = STI_STORAGE_MINOR,
#endif
              .caps = STI_STORAGE_BLOBS},
#ifndef WRONG_STORAGE_SLOT
    ANY(append),
#endif
    ANY(open),
    ANY(configure),
    ANY(state),
    ANY(read),
    ANY(offset_for_time),
    ANY(truncate),
    ANY(trim),
    ANY(oldest_segment),
    ANY(usage),
    ANY(close),
    ANY(remove),
    ANY(list),
#ifdef WRONG_STORAGE_OLD
    ANY(blob_get),
#endif
    ANY(blob_put)};
#define FIRST &provided.iface
#else
static const struct sti_iface echo = {
#ifdef WRONG_IFACE_SIZE
    .struct_size = 8,
#else
    .struct_size = sizeof(struct sti_iface),
#endif
#ifdef WRONG_IFACE_ID
    .id = "",
#else
    .id = "test.echo",
#endif
    .major = 1,
    .minor = 2};
#define FIRST &echo
#endif
#ifdef WRONG_TWICE
static const struct sti_iface *const provides[] = {FIRST, FIRST, NULL};
#else
static const struct sti_iface *const provides[] = {FIRST, NULL};
#endif

static const struct sti_requirement need = {
#ifdef WRONG_NEED_SIZE
    .struct_size = 4,
#else
    .struct_size = sizeof(struct sti_requirement),
#endif
#ifdef WRONG_NEED_MAJOR
    .major = 7,
#endif
    .iface = STI_STORAGE_ID,
    .flags = STI_NEED_OPTIONAL};
static const struct sti_requirement *const needs[] = {&need, NULL};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
#ifdef WRONG_MAGIC
    .magic = 0x12345678u,
#else
    .magic = STI_PLUGIN_MAGIC,
#endif
#ifdef WRONG_STRUCT_SIZE
    .struct_size = 24,
#elif defined(WRONG_STRUCT_LARGE)
    .struct_size = 4096,
#else
    .struct_size = sizeof(struct sti_plugin),
#endif
#ifdef WRONG_ABI_MAJOR
    .abi_major = 3,
#else
    .abi_major = STI_ABI_MAJOR,
#endif
#ifdef WRONG_ABI_MINOR
    .abi_minor = 77,
#else
    .abi_minor = STI_ABI_MINOR,
#endif
#ifdef WRONG_FLAGS
    .flags = 0x80,
#elif defined(WRONG_IFACE_ID)
    .flags = STI_PLUGIN_OPTIONAL,
#endif
#ifdef WRONG_NAME
    .name = "Not A Name",
#else
    .name = "subject",
#endif
#ifndef WRONG_VERSION
    .version = "0.1.0",
#endif
    .license = "Apache-2.0",
    .summary = "The subject of the loader's tests",
    .options = options,
#ifdef WRONG_CONF_SIZE
    .conf_size = 0,
#else
    .conf_size = sizeof(struct conf),
#endif
    .provides = provides,
    .needs = needs,
#ifndef WRONG_LIFE
    .life = &life,
#endif
};
#endif
