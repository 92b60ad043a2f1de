/* fuzz_storage.c -- storage_mmap opened over a folder of any content: it recovers, says what is
 * lost, or refuses by name; it never ends the process, hangs, or leaks.
 *
 * The first byte sets: bit 0 flush policy commit, bit 1 the checksums of the logs are made right
 * first, bit 2 that of the recovery point too, bit 3 truncate in the end, the others when work runs
 * that the engine has posted. What a partition then says of itself must hold: its ends are in
 * order, all that is not damaged can be read, a batch can be appended, and a second open finds what
 * the first left.
 */
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "streamit/log_files.h"
#include "streamit/storage.h"

extern const struct sti_plugin sti_plugin;

static const char *const names[] = {"00000000000000000000.log",
                                    "00000000000000000000.index",
                                    "00000000000000000000.timeindex",
                                    "00000000000000000010.log",
                                    "00000000000000000010.index",
                                    "00000000000000000010.timeindex",
                                    "00000000000000000020.log",
                                    "00000000000000000000.log.swap",
                                    "00000000000000000010.log.swap",
                                    STI_FILE_RECOVERY,
                                    STI_FILE_LOG_START,
                                    STI_FILE_TRUNCATION,
                                    STI_FILE_META,
                                    STI_FILE_EPOCHS,
                                    STI_FILE_DAMAGE,
                                    "09223372036854775807.log",
                                    "notes.txt",
                                    NULL};

static const struct sti_storage *api;
static void *self;
static char folder[256];

/* ---- waiting ------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    bool done;
    int status;
} answer = {.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void answered(int status)
{
    pthread_mutex_lock(&answer.mu);
    answer.done = true;
    answer.status = status;
    pthread_cond_signal(&answer.changed);
    pthread_mutex_unlock(&answer.mu);
}

/* @param rc  what the call returned. @return the status in the end */
static int await(int rc)
{
    pthread_mutex_lock(&answer.mu);
    while (rc == STI_OK && !answer.done) {
        pthread_cond_wait(&answer.changed, &answer.mu);
    }
    answer.done = false;
    int status = rc == STI_OK ? answer.status : rc;
    pthread_mutex_unlock(&answer.mu);
    return status;
}

static void read_done(struct sti_storage_read *op, int status, const struct sti_err *err)
{
    (void)op;
    (void)err;
    answered(status);
}

static void append_done(struct sti_storage_append *op, int status, const struct sti_err *err)
{
    (void)op;
    (void)err;
    answered(status);
}

static void sync_done(struct sti_storage_sync *op, int status, const struct sti_err *err)
{
    (void)op;
    (void)err;
    answered(status);
}

/* ---- the input ----------------------------------------------------------------------------- */

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store32(uint8_t *p, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        p[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

/* Make the checksum of each whole batch right. */
static void seal_log(struct fuzz_file *file)
{
    size_t pos = 0;
    while (file->len - pos >= STI_BATCH_HEADER_LEN) {
        uint64_t total = 12u + (uint64_t)load32(file->bytes + pos + 8);
        if (total < STI_BATCH_HEADER_LEN || total > file->len - pos) {
            return;
        }
        store32(file->bytes + pos + 17, sti_crc32c(0, file->bytes + pos + 21, (size_t)total - 21));
        pos += (size_t)total;
    }
}

/* The last line of a text becomes its checksum. */
static void seal_text(struct fuzz_file *file)
{
    char sum[10];
    if (file->len > 9) {
        (void)snprintf(sum, sizeof sum, "%08x\n", sti_crc32c(0, file->bytes, file->len - 9));
        memcpy(file->bytes + file->len - 9, sum, 9);
    }
}

/* ---- the partition ------------------------------------------------------------------------- */

static int open_part(uint8_t how, struct sti_storage_partition **part,
                     struct sti_storage_state *state)
{
    static const struct sti_storage_events events = {.struct_size = sizeof events};
    const struct sti_storage_settings settings = {.struct_size = sizeof settings,
                                                  .flush_policy = (how & 1) != 0 ? STI_FLUSH_COMMIT
                                                                                 : STI_FLUSH_ONROLL,
                                                  .segment_bytes = 4096,
                                                  .flush_interval_ms = 1000,
                                                  .index_interval_bytes = 128};
    const struct sti_partition_id id = {.struct_size = sizeof id, .topic = "f"};
    const struct sti_storage_open args = {
        .struct_size = sizeof args, .id = &id, .settings = &settings, .events = &events};
    struct sti_err err;
    sti_err_clear(&err);
    *state = (struct sti_storage_state){.struct_size = sizeof *state};
    int rc = api->open(self, &args, part, state, &err);
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_DATA_LOSS || rc == STI_E_NOT_FOUND ||
                rc == STI_E_UNSUPPORTED);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
    return rc;
}

/* Along the batches of a slice. What lies below the recovery point is handed out unread, and a
 * reader proves it: it may hold anything. @return whether whole batches fill it */
static bool slice_batches(const struct sti_slice *slice, int64_t *next)
{
    struct sti_batch_header header;
    for (uint64_t pos = 0; pos < slice->len; pos += header.total_len) {
        if (sti_batch_header_decode(slice->data + pos, (size_t)(slice->len - pos), &header, NULL) !=
                STI_OK ||
            header.total_len > slice->len - pos || sti_batch_last_offset(&header) < *next) {
            return false;
        }
        *next = sti_batch_last_offset(&header) + 1;
    }
    return true;
}

/* Read from the start to the end, around what is damaged. */
static void read_all(struct sti_storage_partition *part, const struct sti_storage_state *state)
{
    bool damaged = (state->flags & STI_STORAGE_STATE_DAMAGED) != 0;
    for (int64_t offset = state->log_start; offset < state->written_end;) {
        struct sti_slice slices[8];
        struct sti_storage_read op = {.struct_size = sizeof op,
                                      .flags = STI_READ_MEMORY,
                                      .offset = offset,
                                      .end_offset = state->written_end,
                                      .max_bytes = 2048,
                                      .slices = slices,
                                      .slice_max = 8,
                                      .done = read_done};
        int rc = await(api->read(part, &op));
        if (rc != STI_OK) {
            /* Below the recovery point nothing is proved before it is read: damage may turn up. */
            FUZZ_EXPECT(rc == STI_E_DATA_LOSS || (damaged && rc == STI_E_OFFSET_OUT_OF_RANGE));
            return;
        }
        FUZZ_EXPECT(op.slice_count > 0 && op.bytes >= STI_BATCH_HEADER_LEN);
        int64_t next = offset;
        bool whole = true;
        for (uint32_t i = 0; i < op.slice_count; i++) {
            whole = whole && slice_batches(&slices[i], &next);
            sti_slice_release(&slices[i]);
        }
        if (!whole) {
            return;
        }
        FUZZ_EXPECT(next > offset);
        offset = next;
    }
}

/* Append one small batch behind the end. */
static int append_one(struct sti_storage_partition *part, int64_t offset)
{
    static uint8_t *bytes;
    static size_t len;
    if (bytes == NULL) {
        struct sti_batch_builder *builder;
        const uint8_t *built;
        FUZZ_EXPECT(sti_batch_builder_new(&builder, STI_CODEC_NONE, 0, NULL) == STI_OK);
        FUZZ_EXPECT(sti_batch_builder_append(builder, 7, NULL, 0, "v", 1, NULL, 0, NULL) == STI_OK);
        FUZZ_EXPECT(sti_batch_builder_finish(builder, &built, &len, NULL) == STI_OK);
        bytes = malloc(len);
        FUZZ_EXPECT(bytes != NULL);
        memcpy(bytes, built, len);
        sti_batch_builder_free(builder);
    }
    struct sti_slice slice =
        sti_slice_borrow(bytes + STI_BATCH_PATCH_LEN, len - STI_BATCH_PATCH_LEN);
    struct sti_append_batch batch = {.struct_size = sizeof batch,
                                     .slice_count = 1,
                                     .slices = &slice,
                                     .len = len,
                                     .base_offset = offset,
                                     .last_offset = offset,
                                     .max_timestamp = 7,
                                     .leader_epoch = INT32_MAX};
    struct sti_append_batch *const batches[] = {&batch};
    struct sti_storage_append op = {
        .struct_size = sizeof op, .batch_count = 1, .batches = batches, .done = append_done};
    sti_batch_patch(batch.head, offset, len, INT32_MAX);
    return await(api->append(part, &op));
}

/* Truncate what was appended. The way to the cut may lead over a batch that nobody has proved since
 * an orderly end: then nothing may have changed. With its checksum made right such a batch may even
 * prove to reach beyond the cut. */
static void take_back(struct sti_storage_partition *part, int64_t offset, bool sealed)
{
    struct sti_storage_state before = {.struct_size = sizeof before};
    struct sti_storage_state after = {.struct_size = sizeof after};
    struct sti_err err;
    api->state(part, &before);
    int rc = api->truncate(part, offset, &err);
    api->state(part, &after);
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_IO || (sealed && rc == STI_E_INVALID_ARGUMENT));
    FUZZ_EXPECT(after.written_end == (rc == STI_OK ? offset : before.written_end));
    FUZZ_EXPECT((after.flags & STI_STORAGE_STATE_POISONED) == 0);
}

static void use(struct sti_storage_partition *part, struct sti_storage_state *state, uint8_t how)
{
    struct sti_err err;
    int64_t offset, found;
    FUZZ_EXPECT(state->log_start >= 0 && state->log_start <= state->written_end);
    FUZZ_EXPECT(state->synced_end <= state->written_end);
    read_all(part, state);
    fuzz_turn();
    static const int64_t times[] = {INT64_MIN, 0, 1000, 1700000000000, INT64_MAX};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        int rc = api->offset_for_time(part, times[i], &offset, &found, &err);
        FUZZ_EXPECT(rc == STI_OK || rc == STI_E_NOT_FOUND || rc == STI_E_DATA_LOSS);
    }
    if ((state->flags & STI_STORAGE_STATE_DAMAGED) == 0 && state->written_end < INT64_MAX - 1) {
        int rc = append_one(part, state->written_end);
        if (rc != STI_OK) { /* what the reads above ran into has been looked at meanwhile */
            FUZZ_EXPECT(rc == STI_E_POISONED);
            api->state(part, state);
            FUZZ_EXPECT((state->flags & STI_STORAGE_STATE_DAMAGED) != 0);
            return;
        }
        fuzz_turn();
        struct sti_storage_sync sync = {.struct_size = sizeof sync, .done = sync_done};
        FUZZ_EXPECT(await(api->sync(part, &sync)) == STI_OK);
        fuzz_turn();
        if ((how & 8) != 0) {
            take_back(part, state->written_end, (how & 2) != 0);
        }
    }
    fuzz_turn();
    api->state(part, state);
}

/* ---- the engine ---------------------------------------------------------------------------- */

static void start(uint8_t turns)
{
    static int64_t conf[64];
    struct sti_err err;
    const struct sti_host *host = fuzz_world(sti_plugin.name, turns);
    fuzz_defaults(&sti_plugin, conf, sizeof conf / sizeof *conf);
    FUZZ_EXPECT(sti_plugin.life->create(host, conf, &self, &err) == STI_OK);
    FUZZ_EXPECT(sti_plugin.life->start(self, &err) == STI_OK);
    api = (const struct sti_storage *)(const void *)sti_plugin.provides[0];
    (void)snprintf(folder, sizeof folder, "%s/%s/f-0", fuzz_root(), sti_plugin.name);
}

static void stop(void)
{
    struct sti_err err;
    fuzz_settle();
    FUZZ_EXPECT(sti_plugin.life->stop(self, 0, &err) == STI_OK);
    fuzz_settle();
    sti_plugin.life->destroy(self);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_file files[FUZZ_FILES_MAX];
    struct sti_storage_partition *part;
    struct sti_storage_state state, again;
    struct sti_err err;
    uint8_t how = fuzz_byte(&data, &len);
    start(how >> 4);
    size_t count = fuzz_files(&data, &len, names, files);
    for (size_t i = 0; i < count; i++) {
        int64_t base;
        int kind = sti_log_file_kind(files[i].name, &base);
        if (kind == STI_LOG_FILE_LOG && (how & 2) != 0) {
            seal_log(&files[i]);
        } else if ((kind == STI_LOG_FILE_RECOVERY || kind == STI_LOG_FILE_DAMAGE) &&
                   (how & 4) != 0) {
            seal_text(&files[i]);
        }
    }
    fuzz_folder(folder, files, count);
    fuzz_files_free(files, count);
    int rc = open_part(how, &part, &state);
    if (rc == STI_OK || rc == STI_E_DATA_LOSS) {
        use(part, &state, how);
        bool sound = (state.flags & STI_STORAGE_STATE_DAMAGED) == 0;
        FUZZ_EXPECT(api->close(part, &err) == STI_OK);
        fuzz_turn();
        rc = open_part(how, &part, &again);
        FUZZ_EXPECT(rc == STI_OK || rc == STI_E_DATA_LOSS);
        /* What a read ran into may have been found to be damage as late as during the close. */
        sound = sound && (again.flags & STI_STORAGE_STATE_DAMAGED) == 0;
        FUZZ_EXPECT(!sound || again.written_end == state.written_end);
        FUZZ_EXPECT(!sound || again.log_start == state.log_start);
        FUZZ_EXPECT(api->close(part, &err) == STI_OK);
    }
    stop();
    fuzz_folder_remove(folder);
    return 0;
}
