/* model.c -- see model.h. */
#include "model.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

static int model_apply(void *ctx, uint64_t index, const void *command, size_t len,
                       struct sti_err *err)
{
    struct model *model = ctx;
    if (index != model->count + 1 || index > MODEL_MAX) {
        model->gap = true;
        return STI_E_INTERNAL;
    }
    model->values[index - 1] = len >= 4 ? mdl_get32(command) : 0;
    model->count = index;
    return model->verdict == STI_OK ? STI_OK : sti_err_set(err, model->verdict, "the verdict");
}

static int model_snapshot(void *ctx, const struct sti_metadata_sink *sink, struct sti_err *err)
{
    struct model *model = ctx;
    model->snapshots++;
    for (uint64_t i = 0; i < model->count; i++) {
        uint8_t bytes[4];
        mdl_put32(bytes, model->values[i]);
        int rc = sink->write(sink->ctx, bytes, sizeof bytes, err);
        if (rc != STI_OK) {
            return rc;
        }
    }
    return STI_OK;
}

static int model_restore(void *ctx, uint64_t index, const void *data, size_t len,
                         struct sti_err *err)
{
    struct model *model = ctx;
    if (len != index * 4 || index > MODEL_MAX) {
        return sti_err_set(err, STI_E_DATA_LOSS, "a snapshot of another length");
    }
    for (uint64_t i = 0; i < index; i++) {
        model->values[i] = mdl_get32((const uint8_t *)data + 4 * i);
    }
    model->count = index;
    model->restores++;
    return STI_OK;
}

static void model_leadership(void *ctx, bool leader, uint64_t term)
{
    struct model *model = ctx;
    model->leader_calls += leader && term == 1 ? 1 : 100;
}

const struct sti_metadata_fsm model_fsm = {.struct_size = sizeof(struct sti_metadata_fsm),
                                           .apply = model_apply,
                                           .snapshot = model_snapshot,
                                           .restore = model_restore,
                                           .leadership = model_leadership};

static int open_in(const char *dir, const char *name, int flags)
{
    char *path = mdl_join(dir, name);
    int fd = path == NULL ? -1 : open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0) {
        perror(name);
        abort();
    }
    free(path);
    return fd;
}

uint8_t *model_load(const char *dir, const char *name, size_t *len)
{
    struct stat st;
    int fd = open_in(dir, name, O_RDONLY);
    if (fstat(fd, &st) != 0) {
        abort();
    }
    uint8_t *data = malloc((size_t)st.st_size + 1);
    if (data == NULL || mdl_read_upto(fd, data, (size_t)st.st_size, 0, len) != 0) {
        abort();
    }
    (void)close(fd);
    return data;
}

void model_store(const char *dir, const char *name, const uint8_t *data, size_t len)
{
    int fd = open_in(dir, name, O_WRONLY | O_CREAT | O_TRUNC);
    if (write(fd, data, len) != (ssize_t)len) {
        abort();
    }
    (void)close(fd);
}

unsigned model_files(const char *dir, const char *prefix)
{
    unsigned count = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e = d == NULL ? NULL : readdir(d); e != NULL; e = readdir(d)) {
        count += strncmp(e->d_name, prefix, strlen(prefix)) == 0 ? 1u : 0u;
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    return count;
}
