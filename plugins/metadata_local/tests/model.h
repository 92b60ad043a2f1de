/* model.h -- a plain state machine and file helpers for the tests of this folder. */
#ifndef MDL_TEST_MODEL_H
#define MDL_TEST_MODEL_H

#include "streamit/metadata.h"

enum { MODEL_MAX = 4096 };

/* Remembers each command's first bytes by index; its snapshot is that list. */
struct model {
    uint64_t count;             /* index of the last command applied or restored */
    uint32_t values[MODEL_MAX]; /* of command i + 1 */
    uint32_t restores, snapshots;
    int verdict; /* what apply returns */
    bool gap;    /* a command came out of order */
    int leader_calls;
};

extern const struct sti_metadata_fsm model_fsm;

/* A file's bytes, and back. @return bytes; the caller frees */
uint8_t *model_load(const char *dir, const char *name, size_t *len);
void model_store(const char *dir, const char *name, const uint8_t *data, size_t len);
/* How many files of the folder begin with `prefix`. */
unsigned model_files(const char *dir, const char *prefix);

#endif /* MDL_TEST_MODEL_H */
