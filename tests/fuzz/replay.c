/* replay.c -- the corpus as an ordinary test: every file of the folders given, once. */
#include <dirent.h>
#include <string.h>

#include "fuzz.h"

static unsigned replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    FUZZ_EXPECT(file != NULL);
    enum { INPUT_MAX = 1 << 20 };
    uint8_t *data = malloc(INPUT_MAX);
    FUZZ_EXPECT(data != NULL);
    size_t len = fread(data, 1, INPUT_MAX, file);
    (void)fclose(file);
    uint8_t *exact = malloc(len + (len == 0)); /* so that a read past the end is seen */
    FUZZ_EXPECT(exact != NULL);
    memcpy(exact, data, len);
    free(data);
    fprintf(stderr, "%s\n", path); /* the last line names the input that ends the process */
    (void)LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    return 1;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (dir == NULL) {
            count += replay_file(argv[i]);
            continue;
        }
        for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
            char path[1024];
            if (entry->d_name[0] != '.') {
                FUZZ_EXPECT((size_t)snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name) <
                            sizeof path);
                count += replay_file(path);
            }
        }
        (void)closedir(dir);
    }
    fprintf(stderr, "%u inputs\n", count);
    return count > 0 ? 0 : 1;
}
