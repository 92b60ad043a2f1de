/* fuzz_metadata.c -- metadata_local opened over a folder of any content.
 *
 * The first byte sets: bit 0 the checksums of headers and frames are made right first. It opens,
 * with commands in order, takes one more, and finds it again; or it refuses by name.
 */
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "streamit/command_log.h"
#include "streamit/metadata.h"

extern const struct sti_plugin sti_plugin;

static const char *const names[] = {"log-00000000000000000000",
                                    "log-00000000000000000001",
                                    "log-00000000000000000002",
                                    "log-00000000000000000003",
                                    "snapshot-00000000000000000001",
                                    "snapshot-00000000000000000002",
                                    "snapshot-00000000000000000003",
                                    "log-18446744073709551615",
                                    "snapshot-00000000000000000001.tmp",
                                    "notes.txt",
                                    NULL};

static char folder[256];
static int64_t conf[64];

/* ---- a state machine that remembers how far it is ------------------------------------------ */

static uint64_t last;

static int fsm_apply(void *ctx, uint64_t index, const void *command, size_t len,
                     struct sti_err *err)
{
    uint8_t sum = 0;
    (void)ctx;
    (void)err;
    FUZZ_EXPECT(index == last + 1);
    for (size_t i = 0; i < len; i++) {
        sum = (uint8_t)(sum + ((const uint8_t *)command)[i]);
    }
    last = index;
    return sum == 1 ? STI_E_ALREADY_EXISTS : STI_OK; /* a verdict */
}

static int fsm_snapshot(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err)
{
    (void)ctx;
    return sink->write(sink->ctx, &last, sizeof last, err);
}

static int fsm_restore(void *ctx, uint64_t index, const void *data, size_t len, struct sti_err *err)
{
    (void)ctx;
    if (len > 0 && ((const uint8_t *)data)[len - 1] == 0x55) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a snapshot that this state machine refuses");
    }
    last = index;
    return STI_OK;
}

static void fsm_leadership(void *ctx, bool leader, uint64_t term)
{
    (void)ctx;
    (void)leader;
    (void)term;
}

static const struct sti_metadata_fsm fsm = {.struct_size = sizeof fsm,
                                            .apply = fsm_apply,
                                            .snapshot = fsm_snapshot,
                                            .restore = fsm_restore,
                                            .leadership = fsm_leadership};

/* ---- one life of the engine ---------------------------------------------------------------- */

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool done;
static int proposal_status;

static void proposed(struct sti_proposal *proposal, int status, const struct sti_err *err)
{
    (void)proposal;
    (void)err;
    pthread_mutex_lock(&mu);
    done = true;
    proposal_status = status;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mu);
}

static void propose(const struct sti_metadata *api, void *self)
{
    struct sti_proposal proposal = {
        .struct_size = sizeof proposal, .command = "command", .len = 7, .done = proposed};
    done = false;
    FUZZ_EXPECT(api->propose(self, &proposal, NULL) == STI_OK);
    pthread_mutex_lock(&mu);
    while (!done) {
        pthread_cond_wait(&changed, &mu);
    }
    pthread_mutex_unlock(&mu);
    FUZZ_EXPECT(proposal_status == STI_OK && proposal.index == last);
}

/* @return what open said; with `write` one more command is committed */
static int life(bool write)
{
    const struct sti_metadata *api =
        (const struct sti_metadata *)(const void *)sti_plugin.provides[0];
    struct sti_err err;
    void *self;
    last = 0;
    sti_err_clear(&err);
    FUZZ_EXPECT(sti_plugin.life->create(fuzz_world(sti_plugin.name, 0), conf, &self, &err) ==
                STI_OK);
    FUZZ_EXPECT(sti_plugin.life->start(self, &err) == STI_OK);
    int rc = api->open(self, &fsm, NULL, &err);
    FUZZ_EXPECT(rc == STI_OK || rc == STI_E_DATA_LOSS || rc == STI_E_UNSUPPORTED);
    FUZZ_EXPECT(rc == STI_OK || err.msg[0] != '\0');
    if (rc == STI_OK && write) {
        propose(api, self);
    }
    FUZZ_EXPECT(sti_plugin.life->stop(self, 5000, &err) == STI_OK);
    fuzz_settle();
    sti_plugin.life->destroy(self);
    return rc;
}

/* ---- the input ----------------------------------------------------------------------------- */

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void seal_log(struct fuzz_file *file, uint64_t base)
{
    if (file->len >= STI_COMMAND_LOG_HEADER_LEN) {
        sti_command_log_header_put(file->bytes, base);
    }
    for (size_t pos = STI_COMMAND_LOG_HEADER_LEN;
         pos < file->len && file->len - pos > STI_COMMAND_FRAME_OVERHEAD;) {
        uint8_t *frame = file->bytes + pos;
        uint32_t len = load32(frame);
        if (len <= STI_COMMAND_FRAME_OVERHEAD || len > file->len - pos) {
            return;
        }
        sti_command_frame_seal(frame, len, load32(frame + 4),
                               (uint64_t)load32(frame + 8) << 32 | load32(frame + 12));
        pos += (len + STI_COMMAND_SECTOR - 1) / STI_COMMAND_SECTOR * STI_COMMAND_SECTOR;
    }
}

static void seal_snapshot(struct fuzz_file *file, uint64_t index)
{
    if (file->len >= STI_COMMAND_SNAPSHOT_HEAD_LEN) {
        size_t payload = file->len - STI_COMMAND_SNAPSHOT_HEAD_LEN;
        const struct sti_command_snapshot head = {
            .index = index,
            .payload_len = payload,
            .payload_crc = sti_crc32c(0, file->bytes + STI_COMMAND_SNAPSHOT_HEAD_LEN, payload)};
        sti_command_snapshot_put(file->bytes, &head);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_file files[FUZZ_FILES_MAX];
    if (folder[0] == '\0') {
        fuzz_defaults(&sti_plugin, conf, sizeof conf / sizeof *conf);
        (void)snprintf(folder, sizeof folder, "%s/%s", fuzz_root(), sti_plugin.name);
    }
    uint8_t how = fuzz_byte(&data, &len);
    size_t count = fuzz_files(&data, &len, names, files);
    for (size_t i = 0; i < count && (how & 1) != 0; i++) {
        uint64_t index;
        int kind = sti_command_file_kind(files[i].name, &index);
        if (kind == 'l') {
            seal_log(&files[i], index);
        } else if (kind == 's') {
            seal_snapshot(&files[i], index);
        }
    }
    fuzz_folder(folder, files, count);
    fuzz_files_free(files, count);
    if (life(true) == STI_OK) {
        uint64_t before = last;
        FUZZ_EXPECT(life(false) == STI_OK && last == before);
    }
    fuzz_folder_remove(folder);
    return 0;
}
