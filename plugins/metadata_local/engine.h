/* engine.h -- proposals in, one sync for all that wait, applies in order, answers out.
 *
 * Story. propose puts a proposal into a ring under a short lock and, when nothing is under way,
 * posts the commit task to the strand. The task takes what has gathered (up to a bounded group),
 * appends it as one frame, syncs once, and then, command by command, applies it and answers it.
 * What arrives meanwhile forms the next group. When the log has grown past its limit the task
 * stores a snapshot before it goes on.
 *
 * Failure. A full disk refuses the group (one by one, so that a small command still passes into the
 * reserved space) and changes nothing. A failed sync, or a frame that could not be taken back,
 * breaks the engine: the group gets IO with an unknown outcome, and everything after it UNAVAILABLE
 * until a restart has read the log again. A sync is never repeated and called success.
 *
 * Threads. The store belongs to the strand from the end of open to the beginning of close; open
 * runs on the caller's thread, where nothing else of this instance runs yet. The ring and the state
 * are guarded by `mu`, which is never held over I/O or a callback.
 */
#ifndef MDL_ENGINE_H
#define MDL_ENGINE_H

#include "streamit/metadata.h"

struct mdl_engine;

/* The options of the instance. */
struct mdl_conf {
    int64_t snapshot_log_bytes;
    int64_t snapshot_log_commands;
    int64_t log_reserve_bytes;
    int64_t proposals_max;
};

/* Allocates and registers metrics; touches no file. `host` stays the caller's.
 * @return STI_OK, STI_E_NO_MEMORY */
int mdl_engine_new(struct mdl_engine **out, const struct sti_host *host,
                   const struct mdl_conf *conf, struct sti_err *err);
/* Closed engines only. */
void mdl_engine_free(struct mdl_engine *engine);

/* As the slots of struct sti_metadata. open: STI_E_PRECONDITION when it was opened before.
 * propose: STI_E_THROTTLED when proposals_max of them wait; STI_E_INVALID_ARGUMENT for an empty
 * command. close must not be called on an executor thread: it waits for the strand. */
int mdl_engine_open(struct mdl_engine *engine, const struct sti_metadata_fsm *fsm, void *fsm_ctx,
                    struct sti_err *err);
int mdl_engine_propose(struct mdl_engine *engine, struct sti_proposal *proposal,
                       struct sti_err *err);
bool mdl_engine_is_leader(struct mdl_engine *engine, uint64_t *term, int32_t *leader_id);
void mdl_engine_close(struct mdl_engine *engine);

#endif /* MDL_ENGINE_H */
