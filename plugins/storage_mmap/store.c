/* store.c -- one instance: its folder, the partitions that are open, and work that may outlive
 * them.
 *
 * A removal renames the partition's folder to a name that no partition can have, syncs the
 * instance's folder, and leaves the unlinking to the executor; what a crash leaves under such a
 * name is finished at the next start. Everything else that stands in the folder is left alone.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage_mmap.h"

void smm_live_add(struct smm_store *store)
{
    pthread_mutex_lock(&store->live_mu);
    store->live++;
    pthread_mutex_unlock(&store->live_mu);
}

void smm_live_drop(struct smm_store *store)
{
    pthread_mutex_lock(&store->live_mu);
    if (--store->live == 0) {
        pthread_cond_broadcast(&store->live_zero);
    }
    pthread_mutex_unlock(&store->live_mu);
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void job_run(struct sti_task *task)
{
    struct smm_job *job = (struct smm_job *)(void *)task;
    struct smm_store *store = job->store;
    int expected = SMM_JOB_POSTED;
    if (atomic_compare_exchange_strong(&job->state, &expected, SMM_JOB_RUNNING)) {
        job->fn(job); /* the job may be gone when it returns */
    } else {
        free(job);
    }
    smm_live_drop(store);
}

struct smm_job *smm_job_new(struct smm_store *store, struct sti_storage_partition *part,
                            void (*fn)(struct smm_job *job))
{
    struct smm_job *job = calloc(1, sizeof *job);
    if (job != NULL) {
        job->timer.task.run = job_run;
        job->store = store;
        job->part = part;
        job->fn = fn;
        atomic_init(&job->state, SMM_JOB_IDLE);
    }
    return job;
}

/* The job is IDLE, or RUNNING and posts itself. */
void smm_job_post(struct smm_job *job)
{
    smm_live_add(job->store);
    atomic_store(&job->state, SMM_JOB_POSTED);
    job->store->host->post(job->store->host->ctx, &job->timer.task);
}

void smm_job_arm(struct smm_job *job, uint64_t due_us)
{
    smm_live_add(job->store);
    atomic_store(&job->state, SMM_JOB_POSTED);
    job->store->host->timer_arm(job->store->host->ctx, &job->timer, due_us);
}

/* @return true: it was armed, will not run, and is IDLE again */
bool smm_job_cancel(struct smm_job *job)
{
    if (!job->store->host->timer_cancel(job->store->host->ctx, &job->timer)) {
        return false;
    }
    atomic_store(&job->state, SMM_JOB_IDLE);
    smm_live_drop(job->store);
    return true;
}

/* ---- removal ------------------------------------------------------------------------------- */

struct removal {
    struct sti_task task;
    struct smm_store *store;
    char name[96];
};

/* The folder of a partition is flat; a folder that somebody put inside stays, and so does its
 * parent. */
static void remove_folder(struct smm_store *store, const char *name)
{
    int fd = openat(store->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
            STI_CRASH_POINT("remove.between_unlinks");
        }
    }
    (void)closedir(dir);
    STI_CRASH_POINT("remove.before_rmdir");
    if (unlinkat(store->dir_fd, name, AT_REMOVEDIR) != 0) {
        sti_log(store->host, STI_LOG_WARN, "removal_unfinished",
                "a deleted partition's folder could not be removed; the next start tries again",
                STI_F_STR("folder", name), STI_F_STR("error", strerror(errno)));
    }
}

static void removal_run(struct sti_task *task)
{
    struct removal *job = (struct removal *)(void *)task;
    struct smm_store *store = job->store;
    remove_folder(store, job->name);
    free(job);
    smm_live_drop(store);
}

/* Exactly what smm_store_remove makes: 32 hex, '-', digits, '.', 16 hex, ".deleted". */
static bool is_deleted_name(const char *name)
{
    size_t i = strspn(name, "0123456789abcdef");
    if (i != 32 || name[i] != '-') {
        return false;
    }
    size_t digits = strspn(name + 33, "0123456789");
    const char *rest = name + 33 + digits;
    return digits > 0 && rest[0] == '.' && strspn(rest + 1, "0123456789abcdef") == 16 &&
           strcmp(rest + 17, SMM_DELETED_SUFFIX) == 0;
}

static void post_removal(struct smm_store *store, const char *name)
{
    struct removal *job = calloc(1, sizeof *job);
    if (job == NULL) {
        return; /* the next start finishes it */
    }
    job->task.run = removal_run;
    job->store = store;
    (void)snprintf(job->name, sizeof job->name, "%s", name);
    smm_live_add(store);
    store->host->post(store->host->ctx, &job->task);
}

/* ---- the table of open partitions ---------------------------------------------------------- */

static struct sti_storage_partition **bucket_of(struct smm_store *store, const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    }
    return &store->table[hash % SMM_BUCKETS];
}

static struct sti_storage_partition *find_open(struct smm_store *store, const char *name)
{
    struct sti_storage_partition *part = *bucket_of(store, name);
    while (part != NULL && strcmp(part->name, name) != 0) {
        part = part->table_next;
    }
    return part;
}

int smm_store_enter(struct smm_store *store, struct sti_storage_partition *part,
                    struct sti_err *err)
{
    pthread_mutex_lock(&store->table_mu);
    bool taken = find_open(store, part->name) != NULL;
    if (!taken) {
        struct sti_storage_partition **bucket = bucket_of(store, part->name);
        part->table_next = *bucket;
        *bucket = part;
    }
    pthread_mutex_unlock(&store->table_mu);
    return taken ? sti_err_set(err, STI_E_IN_USE, "%s: the partition is open already", part->name)
                 : STI_OK;
}

void smm_store_leave(struct smm_store *store, struct sti_storage_partition *part)
{
    pthread_mutex_lock(&store->table_mu);
    struct sti_storage_partition **link = bucket_of(store, part->name);
    while (*link != part) {
        link = &(*link)->table_next;
    }
    *link = part->table_next;
    pthread_mutex_unlock(&store->table_mu);
}

/* Is the folder another topic's, which has the name now? One whose metadata cannot be made out is
 * whose the name says: nobody can open it, and a deletion is how it goes.
 * @return 0: no; ENOENT: yes, or there is none; another errno: it could not be looked at */
static int belongs_to(struct smm_store *store, const char *name, const uint8_t topic_id[16])
{
    uint8_t found[16];
    int fd = openat(store->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno;
    }
    int rc = smm_meta_read(fd, found);
    (void)close(fd);
    if (rc == 0) {
        return memcmp(found, topic_id, sizeof found) == 0 ? 0 : ENOENT;
    }
    return rc == ENOENT || rc == EPROTO || rc == EPROTONOSUPPORT ? 0 : rc;
}

int smm_store_remove(void *self, const struct sti_partition_id *id, struct sti_err *err)
{
    struct smm_store *store = self;
    char name[300], gone[96];
    int rc = smm_name_format(name, sizeof name, id, err);
    if (rc != STI_OK) {
        return rc;
    }
    uint64_t salt;
    store->host->random(store->host->ctx, &salt, sizeof salt);
    int n = 0;
    for (unsigned i = 0; i < 16; i++) {
        n += snprintf(gone + n, sizeof gone - (size_t)n, "%02x", id->topic_id[i]);
    }
    (void)snprintf(gone + n, sizeof gone - (size_t)n, "-%" PRId32 ".%016" PRIx64 SMM_DELETED_SUFFIX,
                   id->partition, salt);
    int saved = 0;
    pthread_mutex_lock(&store->table_mu);
    const struct sti_storage_partition *part = find_open(store, name);
    bool open = part != NULL && memcmp(part->topic_id, id->topic_id, sizeof id->topic_id) == 0;
    if (part == NULL && (saved = belongs_to(store, name, id->topic_id)) == 0 &&
        (saved = STI_FAULT("remove.before_rename")) == 0 &&
        renameat(store->dir_fd, name, store->dir_fd, gone) != 0) {
        saved = errno;
    }
    pthread_mutex_unlock(&store->table_mu);
    if (part != NULL && !open) {
        return STI_OK; /* the name is another topic's */
    }
    if (open) {
        return sti_err_set(err, STI_E_IN_USE, "%s: the partition is still open", name);
    }
    if (saved == ENOENT) {
        return STI_OK;
    }
    if (saved == 0 && (saved = STI_FAULT("remove.after_rename")) == 0 &&
        fsync(store->dir_fd) != 0) {
        saved = errno;
    }
    if (saved != 0) {
        return sti_err_set(err, STI_E_IO, "%s: remove: %s", name, strerror(saved));
    }
    post_removal(store, gone);
    return STI_OK;
}

/* "<topic>-<digits>" with a topic of the allowed characters. */
static bool parse_name(char *name, struct sti_partition_id *id)
{
    char *dash = strrchr(name, '-');
    if (dash == NULL || dash == name || dash - name > 249 || !isdigit((unsigned char)dash[1]) ||
        (dash[1] == '0' && dash[2] != '\0')) {
        return false;
    }
    int64_t value = 0;
    for (const char *p = dash + 1; *p != '\0'; p++) {
        if (!isdigit((unsigned char)*p) || (value = value * 10 + (*p - '0')) > INT32_MAX) {
            return false;
        }
    }
    *dash = '\0';
    id->partition = (int32_t)value;
    id->topic = name;
    return true;
}

int smm_store_list(void *self, int (*visit)(void *arg, const struct sti_partition_id *id),
                   void *arg, struct sti_err *err)
{
    struct smm_store *store = self;
    int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int saved = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return sti_err_set(err, STI_E_IO, "list partitions: %s", strerror(saved));
    }
    int rc = STI_OK;
    struct dirent *entry;
    while (rc == STI_OK && (entry = readdir(dir)) != NULL) {
        struct sti_partition_id id = {.struct_size = sizeof id};
        int part_fd =
            openat(store->dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (part_fd < 0) {
            continue;
        }
        bool ours = smm_meta_read(part_fd, id.topic_id) == 0;
        (void)close(part_fd);
        if (ours && parse_name(entry->d_name, &id)) {
            rc = visit(arg, &id);
        }
    }
    (void)closedir(dir);
    return rc;
}

/* ---- start and stop ------------------------------------------------------------------------ */

static void finish_removals(struct smm_store *store)
{
    int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (is_deleted_name(entry->d_name)) {
            post_removal(store, entry->d_name);
        }
    }
    (void)closedir(dir);
}

static void read_boot_id(struct smm_store *store)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, store->boot_id, 36);
    if (fd >= 0) {
        (void)close(fd);
    }
    store->boot_id[n == 36 ? 36 : 0] = '\0';
}

/* The folder's own name must last before anything in it does. Due before the first partition is
 * made, and not at start: a start shall not wait for the disk when nothing was written.
 * @return 0 or an errno. @thread any; two at once do it twice */
int smm_store_settle(struct smm_store *store)
{
    if (atomic_load(&store->settled)) {
        return 0;
    }
    int parent = open(store->host->node->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = parent < 0 || fsync(parent) != 0 ? errno : 0;
    if (parent >= 0) {
        (void)close(parent);
    }
    atomic_store(&store->settled, rc == 0);
    return rc;
}

int smm_store_start(struct smm_store *store, struct sti_err *err)
{
    const struct sti_host *host = store->host;
    int parent = open(host->node->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) {
        return sti_err_set(err, STI_E_IO, "%s: %s", host->node->data_dir, strerror(errno));
    }
    int rc = STI_OK;
    if (mkdirat(parent, host->instance, 0750) != 0 && errno != EEXIST) {
        rc = sti_err_set(err, STI_E_IO, "create %s/%s: %s", host->node->data_dir, host->instance,
                         strerror(errno));
    }
    STI_CRASH_POINT("store.after_mkdir");
    if (rc == STI_OK) {
        store->dir_fd = openat(parent, host->instance, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->dir_fd < 0) {
            rc = sti_err_set(err, STI_E_IO, "%s/%s: %s", host->node->data_dir, host->instance,
                             strerror(errno));
        }
    }
    (void)close(parent);
    if (rc == STI_OK) {
        read_boot_id(store);
        rc = smm_scrub_start(store, err);
    }
    if (rc == STI_OK) {
        finish_removals(store);
    } else if (store->dir_fd >= 0) {
        (void)close(store->dir_fd);
        store->dir_fd = -1;
    }
    return rc;
}

/* All partitions have been closed by whoever opened them; wait for files and tasks to end.
 * @thread main */
int smm_store_stop(struct smm_store *store, uint32_t deadline_ms, struct sti_err *err)
{
    smm_scrub_stop(store);
    pthread_mutex_lock(&store->files_mu);
    store->stopping = true;
    if (store->sweep != NULL && smm_job_cancel(store->sweep)) {
        free(store->sweep);
        store->sweep = NULL;
    }
    pthread_mutex_unlock(&store->files_mu);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(deadline_ms / 1000u) + 1;
    int rc = 0;
    pthread_mutex_lock(&store->live_mu);
    while (store->live > 0 && rc == 0) {
        rc = pthread_cond_timedwait(&store->live_zero, &store->live_mu, &until);
    }
    uint64_t live = store->live;
    pthread_mutex_unlock(&store->live_mu);
    if (live > 0) {
        return sti_err_set(err, STI_E_TIMED_OUT, "%" PRIu64 " files or tasks are still in use",
                           live);
    }
    (void)close(store->dir_fd);
    store->dir_fd = -1;
    return STI_OK;
}
