/* storage_fixture.h -- what the tests of both storage engines share: an instance of the plugin that
 * the test is linked with, batches made by hand, and calls that wait for their answer.
 */
#ifndef STORAGE_FIXTURE_H
#define STORAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "streamit/plugin.h"
#include "streamit/storage.h"

#include "test_host.h"

extern const struct sti_plugin sti_plugin;

struct fixture {
    struct test_host *th;
    const struct sti_storage *api;
    void *self;
    int64_t conf[16];
    char *dir;
    _Atomic int64_t synced;
    _Atomic unsigned synced_count, failed_count, recovered_count, damaged_count;
    char damage_msg[248]; /* of the last */
    struct sti_storage_events events;
    struct sti_storage_settings settings;
};

/* An instance over a new folder. Options are the plugin's defaults, set with fx_option before
 * fx_start. */
void fx_init(struct fixture *fx, uint32_t threads);
/* The same over a folder that is there and stays the caller's: then end with fx_leave, which leaves
 * no thread behind, instead of fx_fini. */
void fx_init_at(struct fixture *fx, char *dir, uint32_t threads);
void fx_leave(struct fixture *fx);
void fx_option(struct fixture *fx, const char *key, int64_t value);
void fx_start(struct fixture *fx);
void fx_stop(struct fixture *fx);
void fx_fini(struct fixture *fx);
/* True for an engine that keeps its data in files. */
bool fx_durable(const struct fixture *fx);

int fx_open(struct fixture *fx, const char *topic, uint32_t flags,
            struct sti_storage_partition **part, struct sti_storage_state *state);
int fx_remove(struct fixture *fx, const char *topic);

/* One batch of `count` records with `payload` bytes behind the header, its CRC right; the bytes
 * follow from base offset and seed. @return its length. out may be NULL */
size_t fx_batch(uint8_t *out, int64_t base_offset, uint32_t count, size_t payload, int32_t epoch,
                int64_t timestamp);
/* Append one batch (or several of the same form), and wait. */
int fx_append(struct fixture *fx, struct sti_storage_partition *part, int64_t base_offset,
              uint32_t count, size_t payload, int64_t timestamp, uint32_t batches);
int fx_append_epoch(struct fixture *fx, struct sti_storage_partition *part, int64_t base_offset,
                    uint32_t count, size_t payload, int64_t timestamp, uint32_t batches,
                    int32_t epoch, uint64_t *bytes_needed);

struct fx_read {
    struct sti_storage_read op;
    struct sti_slice slices[64];
    int status;
    bool answered;
    char msg[248];
};
/* Read and wait; fx_read_release gives the slices back. */
int fx_read(struct fixture *fx, struct sti_storage_partition *part, int64_t offset,
            int64_t end_offset, uint64_t max_bytes, uint32_t flags, struct fx_read *out);
void fx_read_release(struct fx_read *read);
/* Copy the bytes of all slices, from memory when they are in memory, else from the file. */
uint8_t *fx_read_bytes(const struct fx_read *read, size_t *len);
/* Walk what was read: whole batches, dense offsets from the one that contains `offset`, CRCs right.
 * @return the offset behind the last */
int64_t fx_read_check(const struct fx_read *read, int64_t offset);
int fx_sync(struct fixture *fx, struct sti_storage_partition *part, int64_t *synced_end);
/* Path of a file of a partition. */
void fx_path(const struct fixture *fx, const char *topic, const char *file, char *out, size_t len);

#endif /* STORAGE_FIXTURE_H */
