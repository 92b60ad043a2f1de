/* folder.c -- see fuzz.h. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

size_t fuzz_files(const uint8_t **data, size_t *len, const char *const *names,
                  struct fuzz_file files[FUZZ_FILES_MAX])
{
    size_t count = 0, known = 0;
    while (names[known] != NULL) {
        known++;
    }
    FUZZ_EXPECT(known > 0);
    while (*len >= 3 && count < FUZZ_FILES_MAX) {
        size_t which = fuzz_byte(data, len);
        size_t want = (size_t)fuzz_byte(data, len) << 8;
        want |= fuzz_byte(data, len);
        want = want < *len ? want : *len;
        struct fuzz_file *file = &files[count];
        file->name = names[which % known];
        file->len = want;
        file->bytes = malloc(want + 1);
        FUZZ_EXPECT(file->bytes != NULL);
        memcpy(file->bytes, *data, want);
        file->bytes[want] = '\0';
        *data += want;
        *len -= want;
        count++;
    }
    return count;
}

void fuzz_files_free(struct fuzz_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(files[i].bytes);
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

void fuzz_folder_remove(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fuzz_folder(const char *path, const struct fuzz_file *files, size_t count)
{
    fuzz_folder_remove(path);
    FUZZ_EXPECT(mkdir(path, 0750) == 0);
    for (size_t i = 0; i < count; i++) {
        char name[512];
        FUZZ_EXPECT((size_t)snprintf(name, sizeof name, "%s/%s", path, files[i].name) <
                    sizeof name);
        int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
        FUZZ_EXPECT(fd >= 0);
        FUZZ_EXPECT(write(fd, files[i].bytes, files[i].len) == (ssize_t)files[i].len);
        FUZZ_EXPECT(close(fd) == 0);
    }
}

static char root[128];

static void remove_root(void)
{
    fuzz_folder_remove(root);
}

const char *fuzz_root(void)
{
    if (root[0] == '\0') {
        const char *place = getenv("STREAMIT_FUZZ_DIR"); /* libFuzzer ends without atexit */
        if (place == NULL) {
            place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        }
        (void)snprintf(root, sizeof root, "%s/streamit-fuzz-XXXXXX", place);
        FUZZ_EXPECT(mkdtemp(root) != NULL);
        FUZZ_EXPECT(atexit(remove_root) == 0);
    }
    return root;
}
