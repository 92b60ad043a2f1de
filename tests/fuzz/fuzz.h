/* fuzz.h -- what the fuzzers share. Each is one function, fuzz_one; the same sources are linked
 * with libFuzzer, and with replay.c, which runs the kept corpus as an ordinary test.
 *
 * A failed expectation ends the process, so that the fuzzer keeps the input.
 *
 * Folders come as one input: files one after the other, each with a byte that chooses its name, two
 * bytes of length (big-endian) and so many bytes. What is cut or unknown ends the list.
 */
#ifndef STREAMIT_FUZZ_H
#define STREAMIT_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "streamit/plugin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define FUZZ_EXPECT(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A byte of the input, 0 behind its end. */
static inline uint8_t fuzz_byte(const uint8_t **data, size_t *len)
{
    if (*len == 0) {
        return 0;
    }
    --*len;
    return *(*data)++;
}

/* ---- folder.c */

struct fuzz_file {
    const char *name;
    uint8_t *bytes; /* a copy of its own: the fuzzer's checker sees every byte too far */
    size_t len;
};

enum { FUZZ_FILES_MAX = 16 };

/* Take files from the input; their names are from `names`, NULL-terminated. @return their number */
size_t fuzz_files(const uint8_t **data, size_t *len, const char *const *names,
                  struct fuzz_file files[FUZZ_FILES_MAX]);
void fuzz_files_free(struct fuzz_file *files, size_t count);
/* Make a folder with these files in it, instead of what is there. */
void fuzz_folder(const char *path, const struct fuzz_file *files, size_t count);
void fuzz_folder_remove(const char *path);
/* A new folder in memory, where there is such a file system; it goes with the process. */
const char *fuzz_root(void);

/* ---- world.c */

#define FUZZ_BOOT_ID "11111111-1111-1111-1111-111111111111"

/* A new world for an instance of that name; the one before has been left. One at a time.
 * @param turns  how work that was posted runs between the calls: 0 all of it, else some of it, by
 * chance drawn from this number, and now and then time passes to the next timer */
const struct sti_host *fuzz_world(const char *instance, uint8_t turns);
/* Between two calls: give what was posted its turn. */
void fuzz_turn(void);
/* Run all that was posted. */
void fuzz_settle(void);

/* ---- plugin.c */

/* Fill the plugin's configuration with its defaults; an array of int64_t. */
void fuzz_defaults(const struct sti_plugin *plugin, int64_t *conf, size_t count);

#endif /* STREAMIT_FUZZ_H */
