/* epochs.c -- the leader epochs of a log and where each began, noted beside the log.
 *
 * The file has the layout of Kafka's checkpoint (log_files.h). It is written before the first batch
 * of an epoch, so that it is never behind the log; it may know an epoch whose first append then
 * failed.
 *
 * @thread whoever runs the appends of the partition
 */
#include <stdlib.h>
#include <string.h>

#include "broker/internal.h"
#include "streamit/log_files.h"

enum { LINE_MIN = 4, LINE_MAX = 32 }; /* characters of an entry: "0 0\n" to two long numbers */

/* The entries of a checkpoint with one more, of an epoch that begins at the end of the log. Entries
 * that begin behind the end are left out: a loss of power has taken what they stood for. One that
 * makes no sense begins anew: it is written before the log of its epoch, and never looked at but
 * beside the log.
 * @return the entries, malloc'ed, with *count 0 when nothing has to be written; NULL: no memory */
static struct sti_epoch_entry *entries_with(const struct brk_partition *part, const char *old,
                                            size_t old_len, uint32_t *count)
{
    struct sti_epoch_entry entry, *entries = malloc((old_len / LINE_MIN + 2) * sizeof *entries);
    size_t at = 0;
    bool noted = false, dropped = false;
    int rc = STI_OK;
    *count = 0;
    while (entries != NULL && (rc = sti_epochs_next(old, old_len, &at, &entry, NULL)) == STI_OK) {
        if (entry.start_offset > part->next_offset) {
            dropped = true;
            continue;
        }
        entries[(*count)++] = entry;
        noted = entry.epoch >= part->leader_epoch;
    }
    if (entries == NULL) {
        return NULL;
    }
    if (rc != STI_E_END) {
        *count = 0;
        noted = false;
    }
    if (!noted) {
        entries[(*count)++] = (struct sti_epoch_entry){.epoch = part->leader_epoch,
                                                       .start_offset = part->next_offset};
    } else if (!dropped) {
        *count = 0;
    }
    return entries;
}

static int put(struct brk_partition *part, const struct sti_epoch_entry *entries, uint32_t count,
               struct sti_err *err)
{
    size_t size = ((size_t)count + 1) * LINE_MAX;
    char *text = malloc(size);
    int len = text == NULL ? STI_E_NO_MEMORY : sti_epochs_format(text, size, entries, count);
    int rc = len < 0 ? sti_err_set(err, STI_E_NO_MEMORY, "%s-%d: out of memory", part->topic,
                                   part->index)
                     : sti_storage_of(&part->storage)
                           ->blob_put(part->store, STI_FILE_EPOCHS, text, (size_t)len, err);
    free(text);
    return rc;
}

int brk_epoch_note(struct brk_partition *part, struct sti_err *err)
{
    const struct sti_storage *vt = sti_storage_of(&part->storage);
    void *old = NULL;
    size_t old_len = 0;
    uint32_t count = 0;
    if ((vt->iface.caps & STI_STORAGE_BLOBS) == 0 || part->stored_epoch >= part->leader_epoch) {
        return STI_OK;
    }
    int rc = vt->blob_get(part->store, STI_FILE_EPOCHS, &old, &old_len, err);
    if (rc != STI_OK && rc != STI_E_NOT_FOUND) {
        return rc;
    }
    char *before = rc == STI_OK ? strndup(old, old_len) : strdup("");
    struct sti_epoch_entry *entries =
        before == NULL ? NULL : entries_with(part, before, strlen(before), &count);
    if (entries == NULL) {
        rc = sti_err_set(err, STI_E_NO_MEMORY, "%s-%d: out of memory", part->topic, part->index);
    } else {
        rc = count == 0 ? STI_OK : put(part, entries, count, err);
    }
    if (rc == STI_OK) {
        part->stored_epoch = part->leader_epoch;
    }
    free(entries);
    free(before);
    free(old);
    return rc;
}
