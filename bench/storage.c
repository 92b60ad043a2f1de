/* storage.c -- one round of figures of a storage engine, alone in a process, each beside the bare
 * loop that it cannot beat.
 *
 * The released plugin is loaded as the kernel would and called at its interface, on one thread, as
 * a partition's strand would. Turns of the engine and of the bare loop are short and alternate, so
 * that both meet the same disk and the same page cache.
 *
 *   append   1 MiB batches, onroll, 128 MiB segments: rate, and the slowest of 100 and 1000
 *   commit1  an append of 1 KiB, until it is known to be synced: median
 *   commit16 16 producers with one append of 1 KiB in flight each, combined as the broker combines
 *            what waits: appends a second; the bare loop writes 16 KiB and syncs
 *   read     a warm log as mapped slices: rate, and the bytes that the engine copied for it
 *   idle     many partitions with a record each, after idle_close_ms: files, maps, memory of each
 *   open     a partition of 5,000 segments after an orderly end: time, log bytes read
 *
 * Prints one JSON object.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "streamit/plugin.h"
#include "streamit/record_batch.h"
#include "streamit/storage.h"

#include "raw.h"
#include "test_host.h"

enum {
    MB = 1 << 20,
    SEGMENT_MB = 128,
    TURN = 8,
    SMALL = 1024,
    GROUP = 16,
    SEGMENTS = 5000,
    SEGMENT_LEN = 2000,
    CONF_MAX = 64
};

#define USAGE                                                                                      \
    "storage PLUGIN.so FOLDER APPEND_MIB COMMITS PARTITIONS [KEY=VALUE]...   (0 leaves out)"

static struct test_host *th;
static const struct sti_plugin *plugin;
static const struct sti_storage *api;
static void *self;
static int64_t conf[CONF_MAX];
static char *folder;
static uint8_t *bytes;              /* of a batch of 1 MiB, but for its head */
static const char *separator = "{"; /* before the next figure */

static void print(const char *name, double value)
{
    (void)printf("%s\"%s\": %.6g", separator, name, value);
    separator = ", ";
}

static _Noreturn void die(const char *what, const struct sti_err *err)
{
    (void)fprintf(stderr, "error: %s: %s\n", what, err == NULL ? "" : err->msg);
    exit(EXIT_FAILURE);
}

/* ---- the engine ---------------------------------------------------------------------------- */

static void option(const char *key, const char *text)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);
    value *= *end == 'K' ? 1024 : *end == 'M' ? MB : *end == 'G' ? 1024LL * MB : 1;
    for (const struct sti_option *const *o = plugin->options; *o != NULL; o++) {
        if (strcmp((*o)->key, key) == 0) {
            memcpy((char *)conf + (*o)->offset, &value, sizeof value);
            return;
        }
    }
    die(key, NULL);
}

static void engine_start(void)
{
    struct sti_err err = {0};
    if (plugin->life->create(test_host_for(th, plugin->name), conf, &self, &err) != STI_OK ||
        plugin->life->start(self, &err) != STI_OK) {
        die("start", &err);
    }
}

static void engine_stop(void)
{
    struct sti_err err = {0};
    if (plugin->life->stop(self, 20000, &err) != STI_OK) {
        die("stop", &err);
    }
    plugin->life->destroy(self);
}

/* Who waits for a synced end: commit figures. */
static struct {
    pthread_mutex_t mu;
    pthread_cond_t moved;
    int64_t end;
} synced = {.mu = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void on_synced(void *ctx, int64_t end)
{
    (void)ctx;
    pthread_mutex_lock(&synced.mu);
    synced.end = end;
    pthread_cond_signal(&synced.moved);
    pthread_mutex_unlock(&synced.mu);
}

static int64_t wait_synced(int64_t beyond)
{
    pthread_mutex_lock(&synced.mu);
    while (synced.end <= beyond) {
        pthread_cond_wait(&synced.moved, &synced.mu);
    }
    int64_t end = synced.end;
    pthread_mutex_unlock(&synced.mu);
    return end;
}

static const struct sti_storage_events events = {.struct_size = sizeof events, .synced = on_synced};

static struct sti_storage_partition *part_open(const char *topic, int32_t index, uint32_t flags,
                                               int policy, int64_t segment_bytes,
                                               struct sti_storage_state *state)
{
    struct sti_err err = {0};
    struct sti_partition_id id = {.struct_size = sizeof id, .partition = index, .topic = topic};
    struct sti_storage_settings settings = {.struct_size = sizeof settings,
                                            .flush_policy = policy,
                                            .segment_bytes = segment_bytes,
                                            .flush_interval_ms = 1000,
                                            .index_interval_bytes = 4096};
    struct sti_storage_open args = {.struct_size = sizeof args,
                                    .flags = flags,
                                    .id = &id,
                                    .settings = &settings,
                                    .events = &events};
    struct sti_storage_partition *part = NULL;
    memcpy(id.topic_id, topic, strlen(topic) < 16 ? strlen(topic) : 16);
    if (api->open(self, &args, &part, state, &err) != STI_OK) {
        die("open", &err);
    }
    return part;
}

static void part_close(struct sti_storage_partition *part, const char *topic)
{
    struct sti_err err = {0};
    struct sti_partition_id id = {.struct_size = sizeof id, .topic = topic};
    memcpy(id.topic_id, topic, strlen(topic) < 16 ? strlen(topic) : 16);
    if (api->close(part, &err) != STI_OK || api->remove(self, &id, &err) != STI_OK) {
        die("close", &err);
    }
}

static void appended(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    (void)op;
    if (status != STI_OK) {
        die("append", err);
    }
}

/* Append `count` batches of `len` bytes without making their bytes: only the engine is timed. */
static void append(struct sti_storage_partition *part, int64_t offset, uint32_t count, size_t len)
{
    struct sti_slice slice =
        sti_slice_borrow(bytes + STI_BATCH_PATCH_LEN, len - STI_BATCH_PATCH_LEN);
    struct sti_append_batch rows[GROUP], *ptrs[GROUP];
    for (uint32_t i = 0; i < count; i++) {
        rows[i] = (struct sti_append_batch){.struct_size = sizeof *rows,
                                            .slice_count = 1,
                                            .slices = &slice,
                                            .len = len,
                                            .base_offset = offset + i,
                                            .last_offset = offset + i,
                                            .max_timestamp = 1};
        sti_batch_patch(rows[i].head, offset + i, len, 0);
        ptrs[i] = &rows[i];
    }
    struct sti_storage_append op = {
        .struct_size = sizeof op, .batch_count = count, .batches = ptrs, .done = appended};
    if (api->append(part, &op) != STI_OK) {
        die("append refused", NULL);
    }
}

/* Make `bytes` a batch of that length, but for the head that each append patches. */
static void make_batch(size_t len)
{
    memset(bytes, 0, len);
    sti_batch_patch(bytes, 0, len, 0);
    bytes[16] = STI_BATCH_MAGIC;
    bytes[34] = bytes[42] = 1;    /* timestamps */
    memset(bytes + 43, 0xff, 14); /* no producer */
    bytes[60] = 1;                /* one record */
    uint32_t crc = sti_crc32c(0, bytes + 21, len - 21);
    for (unsigned i = 0; i < 4; i++) {
        bytes[17 + i] = (uint8_t)(crc >> (24 - 8 * i));
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* A quantile, in per mille; sorts. */
static double quantile(double *times, uint64_t count, unsigned per_mille)
{
    qsort(times, count, sizeof *times, by_value);
    return times[count * per_mille / 1000 < count ? count * per_mille / 1000 : count - 1];
}

static int bare_open(void)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/bare", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0 || unlink(path) != 0) {
        raw_die(path);
    }
    return fd;
}

static void bare_write(int fd, uint64_t pos, size_t len)
{
    struct iovec iov[2] = {{bytes, STI_BATCH_PATCH_LEN},
                           {bytes + STI_BATCH_PATCH_LEN, len - STI_BATCH_PATCH_LEN}};
    if (pwritev(fd, iov, 2, (off_t)pos) != (ssize_t)len) {
        raw_die("pwritev");
    }
}

/* ---- figures ------------------------------------------------------------------------------- */

static void appends(uint64_t count)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *part = part_open(
        "append", 0, STI_STORAGE_CREATE, STI_FLUSH_ONROLL, (int64_t)SEGMENT_MB * MB, &state);
    double *ours = calloc(count, sizeof *ours), *bare = calloc(count, sizeof *bare);
    double ours_s = 0, bare_s = 0;
    int fd = bare_open();
    make_batch(MB);
    if (ours == NULL || bare == NULL) {
        raw_die("memory");
    }
    for (uint64_t i = 0; i < count; i++) {
        bool bare_turn = i / TURN % 2 == 0;
        for (int side = 0; side < 2; side++) { /* who is first changes */
            double begin = raw_now_s(), took;
            if ((side == 0) == bare_turn) {
                bare_write(fd, i * MB, MB);
                bare_s += took = raw_now_s() - begin;
                bare[i] = took;
            } else {
                append(part, (int64_t)i, 1, MB);
                ours_s += took = raw_now_s() - begin;
                ours[i] = took;
            }
        }
    }
    print("append_mb", (double)count * MB / 1e6 / ours_s);
    print("append_bare_mb", (double)count * MB / 1e6 / bare_s);
    print("append_p99_ms", quantile(ours, count, 990) * 1e3);
    print("append_bare_p99_ms", quantile(bare, count, 990) * 1e3);
    print("append_p999_ms", quantile(ours, count, 999) * 1e3);
    print("append_bare_p999_ms", quantile(bare, count, 999) * 1e3);
    (void)close(fd);
    free(ours);
    free(bare);
    part_close(part, "append");
}

/* One append at a time. */
static void commit_single(uint64_t count)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *part = part_open(
        "single", 0, STI_STORAGE_CREATE, STI_FLUSH_COMMIT, (int64_t)SEGMENT_MB * MB, &state);
    double *ours = calloc(count, sizeof *ours), *bare = calloc(count, sizeof *bare);
    int fd = bare_open();
    if (ours == NULL || bare == NULL) {
        raw_die("memory");
    }
    synced.end = 0;
    make_batch(SMALL);
    for (uint64_t i = 0; i < count; i++) {
        double begin = raw_now_s();
        append(part, (int64_t)i, 1, SMALL);
        (void)wait_synced((int64_t)i);
        ours[i] = raw_now_s() - begin;
        begin = raw_now_s();
        bare_write(fd, i * SMALL, SMALL);
        if (fdatasync(fd) != 0) {
            raw_die("fdatasync");
        }
        bare[i] = raw_now_s() - begin;
    }
    print("commit1_us", quantile(ours, count, 500) * 1e6);
    print("commit1_bare_us", quantile(bare, count, 500) * 1e6);
    (void)close(fd);
    free(ours);
    free(bare);
    part_close(part, "single");
}

/* 16 producers, each with one append in flight. All that are ready go into one call. */
static void commit_group(uint64_t count)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *part = part_open("group", 0, STI_STORAGE_CREATE, STI_FLUSH_COMMIT,
                                                   (int64_t)SEGMENT_MB * MB, &state);
    double ours_s = 0, bare_s = 0;
    int64_t next = 0, end = 0;
    uint64_t calls = 0;
    int fd = bare_open();
    synced.end = 0;
    for (uint64_t i = 0; i < count; i++) {
        double begin = raw_now_s();
        for (int turn = 0; turn < TURN; turn++) {
            uint32_t ready = (uint32_t)(GROUP - (next - end));
            append(part, next, ready, SMALL);
            next += ready;
            calls++;
            end = wait_synced(end);
        }
        ours_s += raw_now_s() - begin;
        begin = raw_now_s();
        for (int turn = 0; turn < TURN; turn++) {
            bare_write(fd, (i * TURN + (uint64_t)turn) * GROUP * SMALL, (size_t)GROUP * SMALL);
            if (fdatasync(fd) != 0) {
                raw_die("fdatasync");
            }
        }
        bare_s += raw_now_s() - begin;
    }
    print("commit16_per_s", (double)next / ours_s);
    print("commit16_bare_per_s", (double)(count * TURN * GROUP) / bare_s);
    print("commit16_group", (double)next / (double)calls);
    (void)close(fd);
    part_close(part, "group");
}

struct reading {
    struct sti_storage_read op;
    struct sti_slice slices[4];
    int status;
};

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    if (status != STI_OK) {
        die("read", err);
    }
    ((struct reading *)(void *)op)->status = status;
}

static uint64_t metric(const char *name)
{
    char labels[128];
    (void)snprintf(labels, sizeof labels, "storage=\"%s\"", plugin->name);
    return test_host_metric(th, name, labels);
}

static void reads(uint64_t count)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *part = part_open("read", 0, STI_STORAGE_CREATE, STI_FLUSH_ONROLL,
                                                   (int64_t)SEGMENT_MB * MB, &state);
    for (uint64_t i = 0; i < count; i++) {
        append(part, (int64_t)i, 1, MB);
    }
    double best_s = 0;
    uint64_t copied = 0, sliced = 0;
    for (int round = 0; round < 2; round++) { /* the first maps and populates */
        copied = metric("streamit_storage_read_copied_bytes_total");
        sliced = metric("streamit_storage_read_slice_bytes_total");
        double begin = raw_now_s();
        for (int64_t next = 0; next < (int64_t)count;) {
            struct reading r = {.op = {.struct_size = sizeof r.op,
                                       .flags = STI_READ_MEMORY,
                                       .offset = next,
                                       .end_offset = (int64_t)count,
                                       .max_bytes = MB,
                                       .slices = r.slices,
                                       .slice_max = 4,
                                       .done = read_done}};
            if (api->read(part, &r.op) != STI_OK || r.op.bytes == 0 || r.slices[0].data == NULL) {
                die("read refused", NULL);
            }
            next += (int64_t)(r.op.bytes / MB);
            for (uint32_t i = 0; i < r.op.slice_count; i++) {
                sti_slice_release(&r.slices[i]);
            }
        }
        best_s = raw_now_s() - begin;
        copied = metric("streamit_storage_read_copied_bytes_total") - copied;
        sliced = metric("streamit_storage_read_slice_bytes_total") - sliced;
    }
    print("read_mb", (double)sliced / 1e6 / best_s);
    print("read_copied_per_million", (double)copied * 1e6 / (double)sliced);
    part_close(part, "read");
}

static double anon_bytes(void)
{
    char line[256];
    double kb = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "RssAnon:", 8) == 0) {
            kb = strtod(line + 8, NULL);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kb * 1024;
}

static void idle(uint64_t count)
{
    struct sti_storage_partition **parts = calloc(count, sizeof(*parts));
    struct sti_storage_usage usage, sum = {0};
    if (parts == NULL) {
        raw_die("memory");
    }
    make_batch(SMALL);
    double before = anon_bytes();
    for (uint64_t i = 0; i < count; i++) {
        struct sti_storage_state state = {.struct_size = sizeof state};
        parts[i] = part_open("idle", (int32_t)i, STI_STORAGE_CREATE, STI_FLUSH_ONROLL,
                             (int64_t)SEGMENT_MB * MB, &state);
        append(parts[i], 0, 1, SMALL);
    }
    for (int i = 0; i < 400 && metric("streamit_storage_open_segments") > 0; i++) {
        (void)usleep(50000);
    }
    double grown = anon_bytes() - before;
    for (uint64_t i = 0; i < count; i++) {
        usage = (struct sti_storage_usage){.struct_size = sizeof usage};
        api->usage(parts[i], &usage);
        sum.open_files += usage.open_files;
        sum.maps += usage.maps;
        sum.memory_bytes += usage.memory_bytes;
    }
    print("idle_open_files", (double)sum.open_files);
    print("idle_maps", (double)sum.maps);
    print("idle_anon_each", grown / (double)count);
    print("idle_memory_each", (double)sum.memory_bytes / (double)count);
    for (uint64_t i = 0; i < count; i++) {
        (void)api->close(parts[i], NULL);
    }
    free(parts);
}

static void many_segments(void)
{
    struct sti_storage_state state = {.struct_size = sizeof state};
    struct sti_storage_partition *part =
        part_open("many", 0, STI_STORAGE_CREATE, STI_FLUSH_ONROLL, SEGMENT_LEN, &state);
    make_batch(SEGMENT_LEN);
    for (int64_t i = 0; i < SEGMENTS; i++) {
        append(part, i, 1, SEGMENT_LEN);
    }
    (void)api->close(part, NULL);
    double begin = raw_now_s();
    part = part_open("many", 0, 0, STI_FLUSH_ONROLL, SEGMENT_LEN, &state);
    print("open_ms", (raw_now_s() - begin) * 1e3);
    print("open_segments", state.segment_count);
    print("open_bytes", (double)state.recovered_bytes);
    (void)api->close(part, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        raw_usage(USAGE);
    }
    uint64_t counts[3];
    for (int i = 0; i < 3; i++) {
        counts[i] = strcmp(argv[3 + i], "0") == 0 ? 0 : raw_number(argv[3 + i], 1 << 20, USAGE);
    }
    void *so = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    plugin = so == NULL ? NULL : dlsym(so, "sti_plugin");
    if (plugin == NULL || plugin->conf_size > sizeof conf) {
        (void)fprintf(stderr, "error: %s: %s\n", argv[1], dlerror());
        return EXIT_FAILURE;
    }
    folder = argv[2];
    bytes = calloc(1, MB);
    th = test_host_new(folder, 4);
    for (const struct sti_option *const *o = plugin->options; *o != NULL; o++) {
        option((*o)->key, (*o)->def);
    }
    option("idle_close_ms", "1000");
    for (int i = 6; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value == NULL) {
            raw_usage(USAGE);
        }
        *value = '\0';
        option(argv[i], value + 1);
    }
    api = (const struct sti_storage *)(const void *)plugin->provides[0];
    engine_start();
    if (counts[0] > 0) {
        appends(counts[0]);
        reads(counts[0] < 256 ? counts[0] : 256);
    }
    if (counts[1] > 0) {
        commit_single(counts[1]);
        commit_group((counts[1] + TURN - 1) / TURN);
    }
    if (counts[2] > 0) {
        idle(counts[2]);
        many_segments();
    }
    engine_stop();
    test_host_free(th);
    free(bytes);
    (void)puts("}");
    return 0;
}
