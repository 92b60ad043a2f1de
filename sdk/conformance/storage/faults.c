/* faults.c -- what an engine does when the system refuses: limits of this process, and bytes that
 * have changed behind its back. Only what can be done to an engine from outside, without its
 * knowledge; the file system itself is failed by other tests.
 *
 * The rule is the same everywhere: the status is typed, the log is what it was, other partitions
 * are what they were, and when the cause has gone, work goes on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cases.h"

static void fill(struct cfm *cfm, struct cs_part *p, struct cs_model *m, int batches, uint32_t most)
{
    for (int i = 0; i < batches; i++) {
        uint32_t records = 1 + cfm_below(cfm, 4);
        struct cs_batch b = {.base = m->end,
                             .records = records,
                             .len = cs_len_fit(records, 150 + cfm_below(cfm, most)),
                             .timestamp = 1000 + m->end * 3,
                             .epoch = 1};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_OK);
        cs_model_add(m, &b);
    }
}

static rlim_t set_limit(int resource, rlim_t value)
{
    struct rlimit limit;
    CFM_CHECK(getrlimit((__rlimit_resource_t)resource, &limit) == 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = value < limit.rlim_max ? value : limit.rlim_max;
    CFM_CHECK(setrlimit((__rlimit_resource_t)resource, &limit) == 0);
    return before;
}

/* Close and open again: that heals a poisoned partition. */
static struct cs_part *heal(struct cs *cs, struct cs_part *p, const char *topic)
{
    (void)cs_close(p); /* it may say what could not be synced */
    return cs_opened(cs, topic);
}

/* ---- files that may not grow ---------------------------------------------------------------- */

/* Append until it is refused. @return the refusal */
static int append_until_refused(struct cfm *cfm, struct cs_part *p, struct cs_model *m)
{
    for (int i = 0; i < 400; i++) {
        struct cs_batch batches[3];
        int64_t next = m->end;
        for (uint32_t k = 0; k < 3; k++) {
            batches[k] = (struct cs_batch){.base = next,
                                           .records = 1,
                                           .len = 1000 + cfm_below(cfm, 5000),
                                           .timestamp = 1000 + next * 3,
                                           .epoch = 1};
            next++;
        }
        int rc = cs_append(p, batches, 3, NULL);
        if (rc != STI_OK) {
            return rc;
        }
        for (uint32_t k = 0; k < 3; k++) {
            cs_model_add(m, &batches[k]);
        }
    }
    cfm_skip("appends are not refused when files may not grow");
}

/* The partition after a write was refused: readable, and poisoned exactly if the status said so. */
static void check_refused(struct cs_part *p, const struct cs_model *m, int rc)
{
    CFM_EXPECT(rc == STI_E_IO || rc == STI_E_DISK_FULL || rc == STI_E_RESOURCE_EXHAUSTED,
               "a file that may not grow is %s", sti_status_name(rc));
    bool poisoned = (cs_state(p).flags & STI_STORAGE_STATE_POISONED) != 0;
    CFM_EQ(poisoned, rc == STI_E_IO);
    CFM_EQ(atomic_load(&p->failed_count) > 0, poisoned);
    cs_model_check(m, p);
    if (poisoned) {
        struct cs_batch b = {.base = m->end, .records = 1, .len = 100};
        CFM_STATUS(cs_append(p, &b, 1, NULL), STI_E_POISONED);
    }
}

void cs_case_file_limit(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0}, n = {0};
    (void)signal(SIGXFSZ, SIG_IGN);
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 2 << 20;
    struct cs_part *p = cs_created(&cs, "t"), *other = cs_created(&cs, "u");
    fill(cfm, other, &n, 20, 2000);
    for (uint32_t round = 0; round < 4 * cfm->rounds; round++) {
        fill(cfm, p, &m, 10, 2000);
        uint64_t segment = cs_state(p).bytes;
        rlim_t before = set_limit(RLIMIT_FSIZE, segment + 20000 + cfm_below(cfm, 40000));
        int rc = append_until_refused(cfm, p, &m);
        check_refused(p, &m, rc);
        cs_model_check(&n, other);
        (void)set_limit(RLIMIT_FSIZE, before);
        if (rc == STI_E_IO) {
            p = heal(&cs, p, "t");
        }
        cs_model_check(&m, p);
        fill(cfm, p, &m, 10, 2000);
        CFM_STATUS(cs_sync(p, NULL), STI_OK);
        CFM_STATUS(cs_truncate(p, m.batches[m.count / 2].base), STI_OK);
        cs_model_truncate(&m, m.batches[m.count / 2].base);
        cs_model_check(&m, p);
        CFM_EQ(atomic_load(&other->failed_count), 0);
    }
    fill(cfm, other, &n, 20, 2000);
    cs_model_check(&n, other);
    cs_closed(p);
    cs_closed(other);
    cs_stop(&cs);
    cs_model_fini(&m);
    cs_model_fini(&n);
}

/* The same with everything else that writes. */
void cs_case_file_limit_others(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0};
    void *data;
    size_t len;
    static uint8_t big[20000];
    bool blobs = (cfm->caps & STI_STORAGE_BLOBS) != 0;
    (void)signal(SIGXFSZ, SIG_IGN);
    cs_start(&cs, cfm);
    struct cs_part *p = cs_created(&cs, "t");
    fill(cfm, p, &m, 60, 2000);
    if (blobs) {
        CFM_STATUS(cs_blob_put(p, "kept", "old", 3), STI_OK);
    }
    rlim_t before = set_limit(RLIMIT_FSIZE, 1000);
    if (blobs) {
        int rc = cs_blob_put(p, "kept", big, sizeof big);
        CFM_CHECK(rc == STI_E_IO || rc == STI_E_DISK_FULL || rc == STI_E_RESOURCE_EXHAUSTED);
        CFM_STATUS(cs_blob_get(p, "kept", &data, &len), STI_OK);
        CFM_EXPECT(len == 3 && memcmp(data, "old", 3) == 0,
                   "a blob that could not be replaced has lost its old bytes");
        free(data);
    }
    int64_t cut = m.batches[m.count - 3].base;
    int rc = cs_truncate(p, cut);
    CFM_CHECK(rc == STI_OK || rc == STI_E_IO || rc == STI_E_DISK_FULL ||
              rc == STI_E_RESOURCE_EXHAUSTED);
    if (rc == STI_OK) {
        cs_model_truncate(&m, cut);
    }
    if ((cs_state(p).flags & STI_STORAGE_STATE_POISONED) == 0) {
        cs_model_check(&m, p);
    }
    (void)set_limit(RLIMIT_FSIZE, before);
    if ((cs_state(p).flags & STI_STORAGE_STATE_POISONED) != 0) {
        /* A truncation that failed half-way may have happened when the log is read again. */
        p = heal(&cs, p, "t");
        if (p->opened.written_end == cut) {
            cs_model_truncate(&m, cut);
        }
    }
    cs_model_check(&m, p);
    fill(cfm, p, &m, 20, 2000);
    if (blobs) {
        CFM_STATUS(cs_blob_put(p, "kept", big, sizeof big), STI_OK);
    }
    p = heal(&cs, p, "t");
    cs_model_check(&m, p);
    cs_closed(p);
    cs_stop(&cs);
    cs_model_fini(&m);
}

/* ---- no descriptors ------------------------------------------------------------------------- */

enum { PLUGS = 4096 };

/* Take all descriptors but `left`. @return how many were taken; give them back with free_fds */
static unsigned take_fds(int *fds, unsigned left)
{
    unsigned count = 0;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)set_limit(RLIMIT_NOFILE, (rlim_t)fd + 256);
    for (; fd >= 0 && count < PLUGS; fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 0)) {
        fds[count++] = fd;
    }
    CFM_CHECK(count > left);
    for (; left > 0; left--) {
        (void)close(fds[--count]);
    }
    return count;
}

static void free_fds(const int *fds, unsigned count)
{
    while (count > 0) {
        (void)close(fds[--count]);
    }
}

/* Everything that may want a descriptor, once, on a partition. */
static bool try_all(struct cs_part *p, struct cs_model *m, struct cs_read *read)
{
    bool refused = false;
    int rc = cs_read(p, m->log_start, m->end, 1 << 20, STI_READ_MEMORY, read);
    CFM_EXPECT(rc == STI_OK || rc == STI_E_RESOURCE_EXHAUSTED,
               "a read without descriptors left ended with %s: %s", sti_status_name(rc),
               read->err.msg);
    if (rc == STI_OK) {
        cs_model_check_bytes(m, read, m->log_start, m->end, 1 << 20);
    }
    refused = refused || rc != STI_OK;
    struct cs_batch b = {.base = m->end, .records = 1, .len = 5000, .timestamp = 9, .epoch = 1};
    struct cs_append answer;
    rc = cs_append(p, &b, 1, &answer);
    CFM_EXPECT(rc == STI_OK || rc == STI_E_RESOURCE_EXHAUSTED,
               "an append without descriptors left ended with %s: %s", sti_status_name(rc),
               answer.err.msg);
    if (rc == STI_OK) {
        cs_model_add(m, &b);
    }
    CFM_EQ(cs_state(p).written_end, m->end);
    CFM_EQ(cs_state(p).flags, 0);
    return refused || rc != STI_OK;
}

void cs_case_descriptor_limit(struct cfm *cfm)
{
    enum { COUNT = 24 };
    struct cs cs;
    static struct cs_part *parts[COUNT];
    static struct cs_model models[COUNT];
    static struct cs_read reads[COUNT];
    static int plugs[PLUGS];
    unsigned refused = 0;
    cs_start(&cs, cfm);
    memset(models, 0, sizeof models);
    for (int i = 0; i < COUNT; i++) {
        CFM_STATUS(cs_open_id(&cs, "many", i, 1, STI_STORAGE_CREATE, &parts[i]), STI_OK);
        fill(cfm, parts[i], &models[i], 30, 3000);
        if (cs_durable(&cs)) {
            cs_closed(parts[i]);
        }
    }
    for (int i = 0; i < COUNT && cs_durable(&cs); i++) {
        CFM_STATUS(cs_open_id(&cs, "many", i, 1, 0, &parts[i]), STI_OK);
    }
    cs_settle(&cs);
    unsigned taken = take_fds(plugs, cfm_below(cfm, 8));
    for (int i = 0; i < COUNT; i++) {
        refused += try_all(parts[i], &models[i], &reads[i]) ? 1 : 0;
    }
    struct cs_part *fresh;
    int rc = cs_open_id(&cs, "many", COUNT, 1, STI_STORAGE_CREATE, &fresh);
    CFM_EXPECT(rc == STI_OK || rc == STI_E_RESOURCE_EXHAUSTED,
               "an open without descriptors left ended with %s", sti_status_name(rc));
    free_fds(plugs, taken);
    if (rc != STI_OK) {
        CFM_STATUS(cs_open_id(&cs, "many", COUNT, 1, STI_STORAGE_CREATE, &fresh), STI_OK);
    }
    cs_closed(fresh);
    for (int i = 0; i < COUNT; i++) {
        cs_release(&reads[i]);
        cs_model_check(&models[i], parts[i]);
        fill(cfm, parts[i], &models[i], 5, 3000);
        CFM_STATUS(cs_sync(parts[i], NULL), STI_OK);
        CFM_EQ(atomic_load(&parts[i]->failed_count), 0);
        cs_closed(parts[i]);
        cs_model_fini(&models[i]);
    }
    cs_stop(&cs);
    CFM_EXPECT(refused > 0 || (cfm->caps & STI_STORAGE_FILES) == 0,
               "%d partitions were read from files without descriptors", COUNT);
}

/* ---- damage --------------------------------------------------------------------------------- */

struct tree {
    char paths[256][256]; /* below the root */
    uint64_t sizes[256];
    unsigned count;
};

static void join(char *out, size_t len, const char *a, const char *b)
{
    CFM_CHECK(snprintf(out, len, "%s/%s", a, b) < (int)len);
}

/* All regular files with something in them. */
static void scan(struct tree *tree, const char *root, const char *below)
{
    char path[4096];
    struct dirent *entry;
    join(path, sizeof path, root, below);
    DIR *dir = opendir(path);
    CFM_EXPECT(dir != NULL, "%s: %s", path, strerror(errno));
    while ((entry = readdir(dir)) != NULL) {
        char name[256];
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        CFM_CHECK(snprintf(name, sizeof name, "%s%s%s", below, below[0] == '\0' ? "" : "/",
                           entry->d_name) < (int)sizeof name);
        join(path, sizeof path, root, name);
        CFM_CHECK(lstat(path, &st) == 0);
        if (S_ISDIR(st.st_mode)) {
            scan(tree, root, name);
        } else if (S_ISREG(st.st_mode) && st.st_size > 0) {
            CFM_CHECK(tree->count < 256);
            memcpy(tree->paths[tree->count], name, sizeof name);
            tree->sizes[tree->count++] = (uint64_t)st.st_size;
        }
    }
    (void)closedir(dir);
}

static void copy_file(const char *from, const char *to)
{
    static char buf[65536];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    ssize_t n;
    CFM_EXPECT(in >= 0 && out >= 0, "copy %s to %s: %s", from, to, strerror(errno));
    while ((n = read(in, buf, sizeof buf)) > 0) {
        CFM_CHECK(write(out, buf, (size_t)n) == n);
    }
    CFM_CHECK(n == 0);
    (void)close(in);
    (void)close(out);
}

/* Make `to` what `from` is; both are folders of folders of files at the most. */
static void copy_tree(const char *from, const char *to)
{
    char a[4096], b[4096];
    struct dirent *entry;
    struct stat st;
    (void)mkdir(to, 0750);
    DIR *dir = opendir(to);
    CFM_CHECK(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        join(b, sizeof b, to, entry->d_name);
        if (lstat(b, &st) == 0 && S_ISREG(st.st_mode)) {
            CFM_CHECK(unlink(b) == 0);
        }
    }
    (void)closedir(dir);
    dir = opendir(from);
    CFM_CHECK(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        join(a, sizeof a, from, entry->d_name);
        join(b, sizeof b, to, entry->d_name);
        CFM_CHECK(lstat(a, &st) == 0);
        if (S_ISREG(st.st_mode)) {
            copy_file(a, b);
        } else if (S_ISDIR(st.st_mode) && entry->d_name[0] != '.') {
            copy_tree(a, b);
        }
    }
    (void)closedir(dir);
}

/* Read what can be read. Sound batches in their place are the model's, byte for byte; the leader
 * epoch alone (bytes 12 to 15) no checksum covers. @return true: all of it was sound */
static bool check_damaged(const struct cs_model *m, struct cs_part *p, const char *what)
{
    bool sound = true;
    int64_t start = cs_state(p).log_start, end = cs_state(p).written_end;
    for (size_t i = cs_model_find(m, start); i < m->count && m->batches[i].base < end; i++) {
        const struct cs_batch *b = &m->batches[i];
        struct cs_read read;
        struct sti_batch_header header;
        int64_t offset = b->base < start ? start : b->base;
        size_t len;
        cfm_step("%s: read at %" PRId64, what, offset);
        int rc = cs_read(p, offset, cs_last(b) + 1, 1, STI_READ_MEMORY, &read);
        if (rc != STI_OK) {
            CFM_EXPECT(rc == STI_E_DATA_LOSS || rc == STI_E_IO,
                       "a read of a damaged log ended with %s", sti_status_name(rc));
            sound = false;
            continue;
        }
        uint8_t *got = cs_bytes(&read, &len), *want = malloc(b->len);
        CFM_CHECK(want != NULL);
        cs_encode(b, want);
        bool seems = sti_batch_header_decode(got, len, &header, NULL) == STI_OK &&
                     header.total_len <= len && header.base_offset == b->base &&
                     sti_crc32c(0, got + 21, (size_t)header.total_len - 21) == header.crc;
        if (seems) {
            memcpy(got + 12, want + 12, 4);
            CFM_EXPECT(header.total_len == b->len && memcmp(got, want, b->len) == 0,
                       "a read at %" PRId64 " returned wrong bytes under a sound checksum", offset);
        }
        sound = sound && seems;
        free(got);
        free(want);
        cs_release(&read);
    }
    return sound;
}

static void damage(struct cfm *cfm, const char *root, const struct tree *tree, char *what,
                   size_t what_len)
{
    unsigned i = cfm_below(cfm, tree->count);
    char path[4096];
    uint64_t pos = cfm_below(cfm, (uint32_t)tree->sizes[i]);
    join(path, sizeof path, root, tree->paths[i]);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CFM_EXPECT(fd >= 0, "%s: %s", path, strerror(errno));
    switch (cfm_below(cfm, 5)) {
    case 0:
        (void)snprintf(what, what_len, "%s cut to %" PRIu64 " bytes", tree->paths[i], pos);
        CFM_CHECK(ftruncate(fd, (off_t)pos) == 0);
        break;
    case 1:
        (void)snprintf(what, what_len, "%s deleted", tree->paths[i]);
        CFM_CHECK(unlink(path) == 0);
        break;
    default: {
        uint8_t byte, flip = (uint8_t)(1u << cfm_below(cfm, 8));
        CFM_CHECK(pread(fd, &byte, 1, (off_t)pos) == 1);
        byte ^= flip;
        CFM_CHECK(pwrite(fd, &byte, 1, (off_t)pos) == 1);
        (void)snprintf(what, what_len, "%s, bit 0x%02x of byte %" PRIu64 " flipped", tree->paths[i],
                       flip, pos);
    }
    }
    (void)close(fd);
}

/* One partition is damaged, the other is not. */
static void check_after_damage(struct cs *cs, const struct cs_model *m, const struct cs_model *n,
                               const char *what)
{
    struct cs_part *p, *other;
    cfm_step("opening with %s", what);
    cs_start(cs, cs->cfm);
    int rc = cs_open(cs, "t", 0, &p);
    if (rc == STI_OK || rc == STI_E_DATA_LOSS) {
        CFM_EXPECT(rc == STI_E_DATA_LOSS || p->opened.written_end == m->end,
                   "%s: the log ends at %" PRId64 " instead of %" PRId64 ", and nothing is said",
                   what, p->opened.written_end, m->end);
        bool sound = check_damaged(m, p, what);
        if (sound && rc == STI_OK && p->opened.log_start == m->log_start) {
            int64_t offset, found;
            size_t first = cs_model_find(m, m->log_start);
            for (size_t i = first; i < m->count; i += 7) {
                int64_t timestamp = m->batches[i].timestamp;
                CFM_STATUS(cs_time(p, timestamp, &offset, &found), STI_OK);
                CFM_EXPECT(found == timestamp,
                           "%s: offset_for_time(%" PRId64 ") finds %" PRId64
                           ", though the log itself is sound",
                           what, timestamp, found);
            }
        }
        (void)cs_close(p);
    } else if (rc == STI_E_NOT_FOUND) {
        /* Its mark may now read as another topic's. Nothing is made in its place. */
        rc = cs_open(cs, "t", STI_STORAGE_CREATE, &p);
        CFM_EXPECT(rc == STI_E_ALREADY_EXISTS, "%s: a partition can be made over the old one",
                   what);
    }
    other = cs_opened(cs, "u");
    cs_model_check(n, other);
    cs_closed(other);
    cs_stop(cs);
}

void cs_case_damage(struct cfm *cfm)
{
    struct cs cs;
    struct cs_model m = {0}, n = {0};
    static struct tree tree;
    char kept[4096], folder[4096], what[600];
    cs_start(&cs, cfm);
    cs.settings.segment_bytes = 8192;
    struct cs_part *p = cs_created(&cs, "t"), *other = cs_created(&cs, "u");
    fill(cfm, p, &m, 80, 1200);
    fill(cfm, other, &n, 20, 1200);
    m.log_start = cs_last(&m.batches[12]);
    CFM_STATUS(cs_trim(p, m.log_start), STI_OK);
    cs_closed(p);
    cs_closed(other);
    cs_stop(&cs);
    join(kept, sizeof kept, cfm->dir, "kept");
    copy_tree(cfm->instance_dir, kept);
    memset(&tree, 0, sizeof tree);
    struct stat st;
    join(folder, sizeof folder, cfm->instance_dir, "t-0");
    if (stat(folder, &st) != 0) {
        cfm_skip("the engine keeps no folder t-0 for the partition, so it cannot be told apart");
    }
    scan(&tree, cfm->instance_dir, "t-0");
    for (uint32_t round = 0; round < 40 * cfm->rounds; round++) {
        damage(cfm, cfm->instance_dir, &tree, what, sizeof what);
        check_after_damage(&cs, &m, &n, what);
        copy_tree(kept, cfm->instance_dir);
    }
    cs_model_fini(&m);
    cs_model_fini(&n);
}
