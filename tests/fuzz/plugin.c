/* plugin.c -- the configuration of a plugin without a kernel: its defaults. */
#include <string.h>

#include "fuzz.h"

/* "128M" as a number. */
static int64_t number(const char *text)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);
    return *end == 'K'   ? value * 1024
           : *end == 'M' ? value * 1048576
           : *end == 'G' ? value * 1073741824
                         : value;
}

void fuzz_defaults(const struct sti_plugin *plugin, int64_t *conf, size_t count)
{
    FUZZ_EXPECT(plugin->conf_size <= count * sizeof *conf);
    memset(conf, 0, count * sizeof *conf);
    for (const struct sti_option *const *o = plugin->options; o != NULL && *o != NULL; o++) {
        if ((*o)->type == STI_OPT_INT) {
            int64_t value = number((*o)->def);
            memcpy((char *)conf + (*o)->offset, &value, sizeof value);
        }
    }
}
