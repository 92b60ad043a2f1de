/* log_fixture.c -- see log_fixture.h. */
#include "log_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "streamit/log_files.h"

uint8_t *fx_slurp(const char *path, size_t *len)
{
    int fd = open(path, O_RDONLY);
    struct stat st = {0};
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    uint8_t *data = malloc((size_t)st.st_size + 1);
    assert_non_null(data);
    assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
    close(fd);
    *len = (size_t)st.st_size;
    return data;
}

void fx_spill(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}

void fx_segment_path(const struct fixture *fx, const char *topic, int64_t base, const char *suffix,
                     char *out, size_t len)
{
    char name[STI_LOG_NAME_LEN];
    sti_log_name(name, base, suffix);
    fx_path(fx, topic, name, out, len);
}

static void empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    (void)mkdir(path, 0755);
}

void fx_copy_folder(const struct fixture *fx, const char *from, const char *to)
{
    char path[300], other[600];
    struct dirent *entry;
    fx_path(fx, to, "", path, sizeof path);
    empty_folder(path);
    fx_path(fx, from, "", path, sizeof path);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, STI_FILE_META) == 0) {
            continue; /* the topic id is another one's */
        }
        size_t len;
        fx_path(fx, from, entry->d_name, other, sizeof other);
        uint8_t *data = fx_slurp(other, &len);
        fx_path(fx, to, entry->d_name, other, sizeof other);
        fx_spill(other, data, len);
        free(data);
    }
    closedir(dir);
}

void fx_reboot(const struct fixture *fx, const char *topic, int64_t recovery_point)
{
    struct sti_recovery_point point = {.recovery_point = recovery_point,
                                       .boot_id = "00000000-0000-0000-0000-000000000000"};
    char path[300], text[300];
    int len = sti_recovery_point_format(text, sizeof text, &point);
    assert_true(len > 0);
    fx_path(fx, topic, STI_FILE_RECOVERY, path, sizeof path);
    fx_spill(path, text, (size_t)len);
}
