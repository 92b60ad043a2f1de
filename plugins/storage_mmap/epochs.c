/* epochs.c -- the leader epochs that the broker has noted beside the log, as a witness for
 * recovery.
 *
 * The file is the broker's, in Kafka's layout, and has no checksum. It is written before the first
 * batch of an epoch, so a sound one is never behind the log; it may be ahead of a log that has lost
 * its end. It is never believed against the log alone: a damaged note must not cost a sound batch.
 */
#include <stdlib.h>

#include "storage_mmap.h"

enum { EPOCHS_FILE_MAX = 16 << 20 };

/* Read the notes. Without a file, or with one that makes no sense, there are none. */
void smm_epochs_read(int dir_fd, struct smm_epochs *out)
{
    struct sti_epoch_entry entry, *grown;
    char *text;
    size_t len, at = 0;
    uint32_t capacity = 0;
    *out = (struct smm_epochs){0};
    if (smm_small_read(dir_fd, STI_FILE_EPOCHS, EPOCHS_FILE_MAX, &text, &len) != 0) {
        return;
    }
    int rc;
    while ((rc = sti_epochs_next(text, len, &at, &entry, NULL)) == STI_OK) {
        const struct sti_epoch_entry *last = out->count > 0 ? &out->rows[out->count - 1] : NULL;
        if (last != NULL &&
            (entry.epoch <= last->epoch || entry.start_offset < last->start_offset)) {
            rc = STI_E_DATA_LOSS;
            break;
        }
        if (out->count == capacity) {
            capacity = capacity == 0 ? 4 : capacity * 2;
            grown = realloc(out->rows, capacity * sizeof *grown);
            if (grown == NULL) {
                break;
            }
            out->rows = grown;
        }
        out->rows[out->count++] = entry;
    }
    free(text);
    if (rc != STI_E_END) {
        smm_epochs_free(out);
    }
}

void smm_epochs_free(struct smm_epochs *epochs)
{
    free(epochs->rows);
    *epochs = (struct smm_epochs){0};
}

/* What was noted for an offset: the entry in force there, or NULL. */
const struct sti_epoch_entry *smm_epochs_at(const struct smm_epochs *epochs, int64_t offset)
{
    uint32_t low = 0, high = epochs->count; /* those below low begin at or before the offset */
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (epochs->rows[mid].start_offset <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low == 0 ? NULL : &epochs->rows[low - 1];
}

/* Was it noted that an epoch begins at an offset? One half of the line is enough: the other may be
 * damaged. True without notes: nothing then says that it was not. */
bool smm_epochs_begins(const struct smm_epochs *epochs, int32_t epoch, int64_t offset)
{
    bool found = epochs->count == 0;
    for (uint32_t i = 0; i < epochs->count && !found; i++) {
        found = epochs->rows[i].epoch == epoch || epochs->rows[i].start_offset == offset;
    }
    return found;
}
