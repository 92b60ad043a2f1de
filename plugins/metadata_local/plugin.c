/* plugin.c -- metadata_local: descriptor, options, lifecycle. The work is in engine.c. */
#include "streamit/plugin.h"

#include "engine.h"

static int local_open(void *self, const struct sti_metadata_fsm *fsm, void *fsm_ctx,
                      struct sti_err *err)
{
    return mdl_engine_open(self, fsm, fsm_ctx, err);
}

static int local_propose(void *self, struct sti_proposal *proposal, struct sti_err *err)
{
    return mdl_engine_propose(self, proposal, err);
}

static bool local_is_leader(void *self, uint64_t *term, int32_t *leader_id)
{
    return mdl_engine_is_leader(self, term, leader_id);
}

static void local_close(void *self)
{
    mdl_engine_close(self);
}

static const struct sti_metadata local_metadata = {
    .iface = {.struct_size = sizeof(struct sti_metadata),
              .major = STI_METADATA_MAJOR,
              .minor = STI_METADATA_MINOR,
              .id = STI_METADATA_ID},
    .open = local_open,
    .propose = local_propose,
    .is_leader = local_is_leader,
    .close = local_close};

static int local_create(const struct sti_host *host, const void *conf, void **self,
                        struct sti_err *err)
{
    struct mdl_engine *engine;
    int rc = mdl_engine_new(&engine, host, conf, err);
    *self = engine;
    return rc;
}

/* Nothing to start: the folder is opened by whoever brings the state machine. */
static int local_start(void *self, struct sti_err *err)
{
    (void)self;
    (void)err;
    return STI_OK;
}

static int local_stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)deadline_ms;
    (void)err;
    mdl_engine_close(self);
    return STI_OK;
}

static void local_destroy(void *self)
{
    mdl_engine_free(self);
}

static const struct sti_option opt_snapshot_log_bytes = {
    .struct_size = sizeof(struct sti_option),
    .key = "snapshot_log_bytes",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mdl_conf, snapshot_log_bytes),
    .def = "1M",
    .min = 4096,
    .max = INT64_C(1) << 32,
    .unit = "bytes",
    .help = "A snapshot is stored when the command log is longer than this, or than the snapshot "
            "before it."};

static const struct sti_option opt_snapshot_log_commands = {
    .struct_size = sizeof(struct sti_option),
    .key = "snapshot_log_commands",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mdl_conf, snapshot_log_commands),
    .def = "100000",
    .min = 1,
    .max = 100000000,
    .help = "A snapshot is also stored when the command log holds this many commands."};

static const struct sti_option opt_log_reserve_bytes = {
    .struct_size = sizeof(struct sti_option),
    .key = "log_reserve_bytes",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mdl_conf, log_reserve_bytes),
    .def = "1M",
    .min = 4096,
    .max = 1 << 30,
    .unit = "bytes",
    .help = "Disk space kept allocated ahead of the command log, so that topics can be deleted on "
            "a full disk."};

static const struct sti_option opt_proposals_max = {
    .struct_size = sizeof(struct sti_option),
    .key = "proposals_max",
    .type = STI_OPT_INT,
    .offset = offsetof(struct mdl_conf, proposals_max),
    .def = "10000",
    .min = 1,
    .max = 1000000,
    .help = "Commands that may wait to be committed; further ones are refused as THROTTLED."};

static const struct sti_option *const local_options[] = {
    &opt_snapshot_log_bytes, &opt_snapshot_log_commands, &opt_log_reserve_bytes, &opt_proposals_max,
    NULL};

static const struct sti_iface *const local_provides[] = {&local_metadata.iface, NULL};

static const struct sti_lifecycle local_life = {.struct_size = sizeof(struct sti_lifecycle),
                                                .create = local_create,
                                                .start = local_start,
                                                .stop = local_stop,
                                                .destroy = local_destroy};

STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .name = "metadata_local",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Cluster metadata of a standalone node: a command log and snapshots on local disk",
    .options = local_options,
    .conf_size = sizeof(struct mdl_conf),
    .provides = local_provides,
    .life = &local_life};
