/* usage.c -- what partitions hold: for whoever asks about one, and for each visit of the metrics.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_mmap.h"

/* What a partition holds in memory, and of its log. Any thread. */
static void held(struct sti_storage_partition *part, struct sti_storage_usage *usage,
                 uint32_t *segments)
{
    pthread_mutex_lock(&part->mu);
    *segments = part->seg_count;
    usage->bytes = part->bytes;
    usage->memory_bytes =
        sizeof *part + strlen(part->name) + 1 + 2 * sizeof(struct smm_job) +
        part->seg_capacity * sizeof(*part->segs) + part->seg_count * sizeof(struct smm_segment) +
        part->index.capacity * SMM_INDEX_ENTRY + part->index.time_capacity * SMM_TIME_ENTRY;
    for (uint32_t i = 0; i < part->seg_count; i++) {
        const struct smm_file *file = part->segs[i]->file;
        if (file != NULL) {
            usage->open_files += file->index_fd >= 0 ? 2 : 1;
            usage->maps += atomic_load(&file->map) != NULL ? 1 : 0;
            usage->memory_bytes += sizeof *file;
        }
    }
    pthread_mutex_unlock(&part->mu);
}

void smm_usage(struct sti_storage_partition *part, struct sti_storage_usage *out)
{
    struct sti_storage_usage usage = {.struct_size = sizeof usage};
    uint32_t segments;
    held(part, &usage, &segments);
    int fd = smm_part_dir(part);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct stat st;
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode)) {
            usage.disk_bytes += (uint64_t)st.st_blocks * 512u;
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    } else if (fd >= 0) {
        (void)close(fd);
    }
    *out = usage;
}

/* Add all partitions up, a bucket of the table at a time. */
void smm_collect(struct sti_collector *collector, const struct sti_metrics_visitor *visitor,
                 void *arg)
{
    struct smm_store *store =
        (struct smm_store *)(void *)((char *)collector - offsetof(struct smm_store, collector));
    uint64_t bytes = 0, memory = sizeof *store, segments = 0;
    (void)visitor;
    (void)arg;
    for (uint32_t i = 0; i < SMM_BUCKETS; i++) {
        pthread_mutex_lock(&store->table_mu);
        for (struct sti_storage_partition *part = store->table[i]; part != NULL;
             part = part->table_next) {
            struct sti_storage_usage usage = {.struct_size = sizeof usage};
            uint32_t count = 0;
            if (atomic_load(&part->opened)) {
                held(part, &usage, &count);
            }
            bytes += usage.bytes;
            memory += usage.memory_bytes;
            segments += count;
        }
        pthread_mutex_unlock(&store->table_mu);
    }
    sti_metric_set(store->metrics.log_bytes, bytes);
    sti_metric_set(store->metrics.memory_bytes, memory);
    sti_metric_set(store->metrics.segments, segments);
}
