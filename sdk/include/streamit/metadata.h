/* streamit/metadata.h -- interface "streamit.metadata": an ordered, durable, replicated log of
 * opaque commands.
 *
 * The broker's cluster state machine (topics, leaders, brokers) proposes commands; the metadata
 * plugin makes them durable on a majority of voters and gives them back, in the same order on every
 * node, through `apply`. It knows nothing of what they mean. A standalone node uses metadata_local,
 * whose majority is itself.
 *
 * Order. `apply` is called once for each committed command, index after index without gap, never
 * concurrently, on one executor thread at a time. The outcome of a proposal is told (`done`) after
 * its command was applied on this node. The state machine checks every precondition when a command
 * is applied, because the state may have moved between propose and apply.
 *
 * Snapshots. When the log has grown the plugin asks the state machine for a snapshot (`snapshot`,
 * between two applies), stores it, and drops the log before it. At open it restores the newest
 * sound snapshot and applies what follows. A snapshot or command that fails its checksum is never
 * applied.
 *
 * How others use it. A cluster runs Raft behind it, and leadership here means controller. An
 * etcd-backed plugin maps index to revision. The Kafka wire never sees it.
 *
 * Caveats. A proposal that fails with an INDEFINITE error may still be committed later: the state
 * machine must be able to recognise a command that it has applied before (topic ids serve for
 * that).
 */
#ifndef STREAMIT_METADATA_H
#define STREAMIT_METADATA_H

#include "streamit/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_METADATA_ID    "streamit.metadata"
#define STI_METADATA_MAJOR 0
#define STI_METADATA_MINOR 1

#define STI_METADATA_REPLICATED 0x1u /* several voters: leadership can move; needs `members` */

#define STI_METADATA_COMMAND_MAX (1u << 20) /* bytes of one command */

/* Where a snapshot is written. write returns STI_OK or an error that snapshot passes on. */
struct sti_metadata_sink {
    int (*write)(void *ctx, const void *data, size_t len, struct sti_err *err);
    void *ctx;
};

/* The state machine; the broker's. Valid until close. */
struct sti_metadata_fsm {
    uint32_t struct_size;
    uint32_t reserved;
    /* Apply one committed command. `result`, if not NULL, belongs to the proposal on the proposing
     * node and is passed through to its done. The return value is the command's verdict
     * (ALREADY_EXISTS ...), not a failure of the log. */
    int (*apply)(void *ctx, uint64_t index, const void *command, size_t len, struct sti_err *err);
    /* Write the whole state as of the last apply. */
    int (*snapshot)(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err);
    /* Replace the whole state. `data` is one contiguous snapshot. */
    int (*restore)(void *ctx, uint64_t index, const void *data, size_t len, struct sti_err *err);
    /* This node has become (or is no longer) leader of the quorum, in `term`. */
    void (*leadership)(void *ctx, bool leader, uint64_t term);
};

/* The command frees space, or says that it was freed: it may use what the plugin keeps in reserve
 * for a full disk. Others are refused with STI_E_DISK_FULL rather than let them use that up. */
#define STI_PROPOSAL_FREES_SPACE 0x1u

/* A command to commit. Caller's memory until done. */
struct sti_proposal {
    uint32_t struct_size;
    uint32_t flags;      /* STI_PROPOSAL_* */
    const void *command; /* borrowed until done */
    uint64_t len;        /* 1 .. STI_METADATA_COMMAND_MAX */
    /* status: what apply returned; or STI_E_NOT_CONTROLLER, STI_E_DISK_FULL, STI_E_UNAVAILABLE
     * (nothing done), STI_E_IO, STI_E_TIMED_OUT (INDEFINITE) */
    void (*done)(struct sti_proposal *proposal, int status, const struct sti_err *err);
    uint64_t index; /* out, when committed */
};

struct sti_metadata_member {
    uint32_t struct_size;
    int32_t node_id;
    const char *address;
    bool voter, leader;
};

struct sti_metadata {
    struct sti_iface iface; /* id STI_METADATA_ID */

    /* Restore, replay, and begin to serve. Returns when everything committed and known here has
     * been applied. Once per instance.
     * @return STI_OK; STI_E_DATA_LOSS (a snapshot or log that is damaged beyond an unfinished tail:
     * err names file and position); STI_E_IO; what restore or apply's decoder returned */
    int (*open)(void *self, const struct sti_metadata_fsm *fsm, void *fsm_ctx, struct sti_err *err);
    /* @return STI_OK: done runs exactly once; otherwise never. STI_E_MESSAGE_TOO_LARGE,
     * STI_E_UNAVAILABLE (not open) */
    int (*propose)(void *self, struct sti_proposal *proposal, struct sti_err *err);
    /* Is this node the leader, in which term, and who is (-1: unknown)? Any thread. */
    bool (*is_leader)(void *self, uint64_t *term, int32_t *leader_id);
    /* Finish what is under way; no call into the fsm after it returns. */
    void (*close)(void *self);
    /* Optional, with STI_METADATA_REPLICATED. */
    int (*members)(void *self, void (*visit)(void *arg, const struct sti_metadata_member *member),
                   void *arg);
};

/* The vtable behind a binding. */
static inline const struct sti_metadata *sti_metadata_of(const struct sti_binding *binding)
{
    return (const struct sti_metadata *)(const void *)binding->vtable;
}

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_METADATA_H */
