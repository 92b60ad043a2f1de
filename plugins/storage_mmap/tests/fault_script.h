/* fault_script.h -- a short life of a partition, and a model of what must be found after it.
 *
 * The script creates, appends over rolls, syncs, trims, truncates, puts blobs, closes, reopens and
 * removes. The model says, at every moment, what was answered and what is under way; it can stand
 * in memory that outlives a killed process. After a death or a failure `script_check` opens the
 * partition and holds it against the model:
 *
 *     what was acknowledged is there, byte for byte; of what was under way either all of a batch or
 *     nothing; the start is never behind one that was acknowledged; a truncation was done or was
 *     not; nothing is left lying about; and the partition takes appends again.
 */
#ifndef FAULT_SCRIPT_H
#define FAULT_SCRIPT_H

#include "storage_fixture.h"

enum { MODEL_BATCHES = 512 };
enum model_exists { MODEL_NONE, MODEL_CREATING, MODEL_THERE, MODEL_REMOVING };

struct model_batch {
    int64_t base_offset, timestamp;
    uint32_t count, payload;
    int32_t epoch;
};

struct model {
    struct model_batch batches[MODEL_BATCHES];
    uint32_t acked, attempted; /* batches below `acked` were acknowledged, those below `attempted`
                                  are under way */
    int64_t start, start_next; /* acknowledged; under way */
    int64_t start_before;      /* a full disk may bring this one back */
    int64_t cut;               /* a truncation under way, or -1 */
    int32_t epoch;
    enum model_exists exists;
    int blob, blob_next; /* numbers of its content; 0: none */
    char died_at[64];
};

/* Everything of one run. */
struct script {
    struct fixture *fx;
    struct model *model;
    struct sti_storage_partition *part;
    bool faults;    /* calls may fail: check how, reopen, and go on */
    bool disk_full; /* ... with a full disk */
    bool lasting;   /* the fault lasts until the failed call and the close behind it are over */
    bool scrub;     /* wait for it where there is something to read */
    unsigned failures;
};

void script_reset(struct model *model);
/* Play the script to its end. Without `faults` every call must succeed. */
void script_play(struct script *s);
/* Open, compare, go on: see above. The partition is closed again, in order. */
void script_check(struct script *s);
/* Open and append a little and close: a life that may end within recovery. */
void script_reopen(struct script *s);

#endif /* FAULT_SCRIPT_H */
