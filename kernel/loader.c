/* loader.c -- see loader.h for the story. */
#include "kernel/loader.h"

#include <ctype.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#include "kernel/interfaces.h"
#include "kernel/option.h"

enum { HEAD_BYTES = 16, NAME_MAX_BYTES = 64, INTERFACES_MAX = 32 };

/* ---- the descriptor ------------------------------------------------------------------------ */

/* What the first 16 bytes tell, and the size. */
static int check_head(const struct sti_plugin *desc, size_t known, struct sti_err *err)
{
    if (known < HEAD_BYTES) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "symbol sti_plugin has %zu bytes, expected at least %d: not a StreamIt "
                           "plugin",
                           known, HEAD_BYTES);
    }
    if (desc->magic != STI_PLUGIN_MAGIC) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "magic 0x%08" PRIx32 ", kernel expects 0x%08" PRIx32
                           ": not a StreamIt plugin, or built for another byte order",
                           desc->magic, STI_PLUGIN_MAGIC);
    }
    if (desc->abi_major != STI_ABI_MAJOR) {
        return sti_err_set(err, STI_E_ABI_MISMATCH,
                           "plugin ABI %u.%u, kernel provides %u.%u (abi_major %u, expected %u): "
                           "%s",
                           desc->abi_major, desc->abi_minor, STI_ABI_MAJOR, STI_ABI_MINOR,
                           desc->abi_major, STI_ABI_MAJOR,
                           desc->abi_major > STI_ABI_MAJOR
                               ? "upgrade StreamIt or rebuild the plugin"
                               : "rebuild the plugin against this SDK");
    }
    if (desc->abi_minor > STI_ABI_MINOR) {
        return sti_err_set(
            err, STI_E_ABI_MISMATCH,
            "plugin ABI %u.%u, kernel provides %u.%u (needs %u.%u or later): upgrade "
            "StreamIt or rebuild the plugin (abi_minor)",
            desc->abi_major, desc->abi_minor, STI_ABI_MAJOR, STI_ABI_MINOR, desc->abi_major,
            desc->abi_minor);
    }
    if (desc->struct_size < sizeof *desc || desc->struct_size > known) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "struct_size %" PRIu32
                           ", expected at least %zu and at most the symbol's "
                           "%zu: rebuild the plugin against this SDK",
                           desc->struct_size, sizeof *desc, known);
    }
    return STI_OK;
}

static bool name_is_sound(const char *name)
{
    size_t len = name == NULL ? 0 : strnlen(name, NAME_MAX_BYTES + 1);
    bool sound = len >= 1 && len <= NAME_MAX_BYTES;
    for (size_t i = 0; sound && i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        sound = islower(c) || isdigit(c) || c == '_';
    }
    return sound;
}

static int check_identity(const struct sti_plugin *desc, bool *optional, struct sti_err *err)
{
    if ((desc->flags & ~STI_PLUGIN_FLAGS) != 0) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "flags 0x%" PRIx32
                           ", kernel knows 0x%x: upgrade StreamIt or rebuild the "
                           "plugin",
                           desc->flags, STI_PLUGIN_FLAGS);
    }
    *optional = (desc->flags & STI_PLUGIN_OPTIONAL) != 0;
    if (!name_is_sound(desc->name)) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "name '%.80s', expected 1 to %d lower-case letters, digits and '_': "
                           "rename the plugin",
                           desc->name == NULL ? "(null)" : desc->name, NAME_MAX_BYTES);
    }
    const char *const texts[] = {desc->version, desc->license, desc->summary};
    static const char *const names[] = {"version", "license", "summary"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i] == NULL || texts[i][0] == '\0') {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED, "%s is %s, expected a text: fill it in",
                               names[i], texts[i] == NULL ? "null" : "empty");
        }
    }
    return STI_OK;
}

static int check_lifecycle(const struct sti_lifecycle *life, struct sti_err *err)
{
    if (life == NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED, "life is null, expected a lifecycle table");
    }
    if (life->struct_size < sizeof *life) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "life: struct_size %" PRIu32 ", expected at least %zu: rebuild the "
                           "plugin",
                           life->struct_size, sizeof *life);
    }
    const char *missing = life->create == NULL    ? "create"
                          : life->start == NULL   ? "start"
                          : life->stop == NULL    ? "stop"
                          : life->destroy == NULL ? "destroy"
                                                  : NULL;
    if (missing != NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "life: slot %s is null, expected a function: fill it in", missing);
    }
    return STI_OK;
}

static int check_options(apr_pool_t *scratch, const struct sti_plugin *desc, struct sti_err *err)
{
    int status = krn_option_check_table(scratch, desc->options, desc->conf_size, err);
    for (size_t i = 0; status == STI_OK && desc->options != NULL && desc->options[i] != NULL; i++) {
        if (strcmp(desc->options[i]->key, "file") == 0) {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                               "option 'file': key is the kernel's own, expected another: rename "
                               "it");
        }
    }
    return status;
}

static int check_provides(const struct sti_plugin *desc, struct sti_err *err)
{
    for (size_t i = 0; desc->provides != NULL && desc->provides[i] != NULL; i++) {
        if (i >= INTERFACES_MAX) {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED, "provides: more than %d interfaces",
                               INTERFACES_MAX);
        }
        int status = krn_interface_check(desc->provides[i], err);
        if (status != STI_OK) {
            return status;
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(desc->provides[k]->id, desc->provides[i]->id) == 0) {
                return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                                   "provides: %s stands in rows %zu and %zu: keep one",
                                   desc->provides[i]->id, k, i);
            }
        }
    }
    return STI_OK;
}

static int check_needs(const struct sti_plugin *desc, struct sti_err *err)
{
    for (size_t i = 0; desc->needs != NULL && desc->needs[i] != NULL; i++) {
        const struct sti_requirement *need = desc->needs[i];
        if (i >= INTERFACES_MAX) {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED, "needs: more than %d interfaces",
                               INTERFACES_MAX);
        }
        if (need->struct_size < sizeof *need) {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                               "needs: row %zu: struct_size %" PRIu32 ", expected at least %zu: "
                               "rebuild the plugin",
                               i, need->struct_size, sizeof *need);
        }
        if (need->iface == NULL || need->iface[0] == '\0') {
            return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                               "needs: row %zu: iface is empty, expected an interface", i);
        }
        const struct krn_interface *known = krn_interface_find(need->iface);
        if (known != NULL && (need->major != known->major || need->minor > known->minor)) {
            return sti_err_set(
                err, STI_E_ABI_MISMATCH,
                "needs %s %u.%u, kernel knows %u.%u: upgrade StreamIt or rebuild the "
                "plugin",
                need->iface, need->major, need->minor, known->major, known->minor);
        }
    }
    return STI_OK;
}

int krn_loader_check(apr_pool_t *scratch, const struct sti_plugin *desc, size_t known,
                     bool *optional, struct sti_err *err)
{
    *optional = false;
    int status = check_head(desc, known, err);
    if (status == STI_OK) {
        status = check_identity(desc, optional, err);
    }
    if (status == STI_OK) {
        status = check_lifecycle(desc->life, err);
    }
    if (status == STI_OK) {
        status = check_options(scratch, desc, err);
    }
    if (status == STI_OK) {
        status = check_provides(desc, err);
    }
    return status == STI_OK ? check_needs(desc, err) : status;
}

/* ---- the file ------------------------------------------------------------------------------ */

int krn_loader_default_dir(apr_pool_t *pool, const char **dir, struct sti_err *err)
{
    char program[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len < 0) {
        return sti_err_set(err, STI_E_IO, "cannot find the program's own folder: %s",
                           strerror(errno));
    }
    program[len] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(program, '/');
        if (slash != NULL) {
            *slash = '\0';
        }
    }
    *dir = apr_pstrcat(pool, program, "/lib/streamit", NULL);
    return STI_OK;
}

static int check_writers(const char *what, const char *path, struct sti_err *err)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED, "%s %s: %s", what, path, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
        /* Opening a pipe would wait for a writer for ever. */
        return sti_err_set(err, STI_E_PLUGIN_REFUSED, "%s %s: neither a file nor a folder", what,
                           path);
    }
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "%s %s may be written by others (mode %04o, expected %04o): chmod go-w "
                           "it",
                           what, path, (unsigned)st.st_mode & 07777u,
                           (unsigned)st.st_mode & 07777u & ~(unsigned)(S_IWGRP | S_IWOTH));
    }
    return STI_OK;
}

static int check_rights(apr_pool_t *pool, const char *path, struct sti_err *err)
{
    const char *slash = strrchr(path, '/');
    const char *dir = slash == path ? "/" : apr_pstrndup(pool, path, (apr_size_t)(slash - path));
    int status = check_writers("file", path, err);
    return status == STI_OK ? check_writers("folder", dir, err) : status;
}

/* Map the library and prove how many bytes its descriptor has. */
static int map_library(struct krn_plugin *plugin, size_t *known, struct sti_err *err)
{
    int mode = RTLD_NOW | RTLD_LOCAL | (STREAMIT_SANITIZED ? RTLD_NODELETE : 0);
    plugin->library = dlopen(plugin->path, mode);
    if (plugin->library == NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED, "cannot be loaded: %s", dlerror());
    }
    const struct sti_plugin *desc = dlsym(plugin->library, "sti_plugin");
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    if (desc == NULL || dladdr1(desc, &info, (void **)(void *)&symbol, RTLD_DL_SYMENT) == 0 ||
        symbol == NULL) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "it exports no symbol sti_plugin: not a StreamIt plugin");
    }
    if (ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "symbol sti_plugin is not a data object: not a StreamIt plugin");
    }
    *known = symbol->st_size;
    plugin->desc = desc;
    return STI_OK;
}

static int refuse(struct krn_plugin *plugin, int status, struct sti_err *err)
{
    krn_loader_close(plugin);
    return sti_err_wrap(err, status, "%s", plugin->file);
}

int krn_loader_open(apr_pool_t *pool, const char *dir, const char *file, struct krn_plugin *out,
                    struct sti_err *err)
{
    const char *slash = strrchr(file, '/');
    *out = (struct krn_plugin){.file = slash == NULL ? file : slash + 1, .path = file};
    if (file[0] == '\0' || (slash != NULL && file[0] != '/')) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "file '%s': expected a bare name or an absolute path", file);
    }
    if (slash == NULL) {
        out->path = apr_pstrcat(pool, dir, "/", file, NULL);
    }
    size_t known = 0;
    int status = check_rights(pool, out->path, err);
    if (status == STI_OK) {
        status = map_library(out, &known, err);
    }
    if (status == STI_OK) {
        status = krn_loader_check(pool, out->desc, known, &out->optional, err);
    }
    if (status != STI_OK) {
        return refuse(out, status, err);
    }
    if ((out->desc->flags & STI_PLUGIN_RESIDENT) != 0) {
        void *again = dlopen(out->path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD | RTLD_NODELETE);
        if (again != NULL) {
            (void)dlclose(again);
        }
    }
    return STI_OK;
}

int krn_loader_builtin(apr_pool_t *pool, const struct sti_plugin *desc, struct krn_plugin *out,
                       struct sti_err *err)
{
    *out = (struct krn_plugin){.desc = desc, .file = "built in", .path = ""};
    int status = krn_loader_check(pool, desc, sizeof *desc, &out->optional, err);
    return status == STI_OK ? STI_OK : refuse(out, status, err);
}

void krn_loader_close(struct krn_plugin *plugin)
{
    plugin->desc = NULL;
    if (plugin->library != NULL) {
        (void)dlclose(plugin->library);
        plugin->library = NULL;
    }
}
