/* auth_list.c -- an auth plugin for tests: tokens and rights stand in the configuration.
 *
 *     auth_list: { file = "..."; users: ( { token = "t1"; principal = "User:alice"; } );
 *                  rights: ( { principal = "User:alice"; operation = "write"; topic = "a"; } ); };
 *
 * A caller without a token is User:anonymous, and has the rights that the list gives it. A topic ""
 * in a right stands for all. SIGHUP changes the rights, not the users.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "streamit/auth.h"
#include "streamit/plugin.h"

struct user {
    const char *token, *principal;
};

struct right {
    const char *principal, *operation, *topic;
};

struct conf {
    struct sti_option_rows users, rights;
};

struct list {
    const struct conf *_Atomic conf; /* the kernel keeps each until destroy */
};

#define STRING(name, in, field, text)                                                              \
    static const struct sti_option name = {.struct_size = sizeof(struct sti_option),               \
                                           .type = STI_OPT_STRING,                                 \
                                           .key = #field,                                          \
                                           .offset = offsetof(struct in, field),                   \
                                           .def = "",                                              \
                                           .flags = STI_OPT_RELOADABLE,                            \
                                           .help = text}
STRING(user_token, user, token, "What the user sends.");
STRING(user_principal, user, principal, "Who that is.");
STRING(right_principal, right, principal, "Who may.");
STRING(right_operation, right, operation, "What.");
STRING(right_topic, right, topic, "Where; empty: everywhere.");
static const struct sti_option *const user_options[] = {&user_token, &user_principal, NULL};
static const struct sti_option *const right_options[] = {&right_principal, &right_operation,
                                                         &right_topic, NULL};
static const struct sti_option opt_users = {.struct_size = sizeof opt_users,
                                            .type = STI_OPT_TABLE,
                                            .key = "users",
                                            .offset = offsetof(struct conf, users),
                                            .nested = user_options,
                                            .nested_size = sizeof(struct user),
                                            .help = "Tokens."};
static const struct sti_option opt_rights = {.struct_size = sizeof opt_rights,
                                             .type = STI_OPT_TABLE,
                                             .key = "rights",
                                             .offset = offsetof(struct conf, rights),
                                             .flags = STI_OPT_RELOADABLE,
                                             .nested = right_options,
                                             .nested_size = sizeof(struct right),
                                             .help = "Who may do what."};
static const struct sti_option *const options[] = {&opt_users, &opt_rights, NULL};

static int authenticate(void *self, const struct sti_credentials *from, char *principal,
                        size_t principal_max, struct sti_err *err)
{
    const struct conf *conf = atomic_load(&((struct list *)self)->conf);
    const char *found = NULL;
    if (strcmp(from->mechanism, "none") == 0) {
        found = STI_PRINCIPAL_ANONYMOUS;
    } else if (strcmp(from->mechanism, "bearer") != 0) {
        return sti_err_set(err, STI_E_UNSUPPORTED, "only bearer tokens are taken");
    }
    for (size_t i = 0; found == NULL && i < conf->users.count; i++) {
        const struct user *user = conf->users.rows[i];
        if (strlen(user->token) == from->secret_len &&
            memcmp(user->token, from->secret, from->secret_len) == 0) {
            found = user->principal;
        }
    }
    if (found == NULL || strlen(found) >= principal_max) {
        return sti_err_set(err, STI_E_UNAUTHENTICATED, "the token is not known");
    }
    memcpy(principal, found, strlen(found) + 1);
    return STI_OK;
}

static int authorize(void *self, const struct sti_request *request, int operation, int resource,
                     const char *name, struct sti_err *err)
{
    const struct conf *conf = atomic_load(&((struct list *)self)->conf);
    for (size_t i = 0; i < conf->rights.count; i++) {
        const struct right *right = conf->rights.rows[i];
        bool all =
            strcmp(right->operation, "all") == 0 ||
            strncmp(sti_operation_name(operation), right->operation, strlen(right->operation)) == 0;
        if (resource == STI_RESOURCE_TOPIC && all &&
            strcmp(right->principal, request->principal) == 0 &&
            (right->topic[0] == '\0' || strcmp(right->topic, name) == 0)) {
            return STI_OK;
        }
    }
    return sti_err_set(err, STI_E_PERMISSION_DENIED, "no row of the list allows it");
}

static int create(const struct sti_host *host, const void *conf, void **self, struct sti_err *err)
{
    struct list *list = calloc(1, sizeof *list);
    (void)host;
    *self = list;
    if (list == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "no memory for a list");
    }
    atomic_init(&list->conf, conf);
    return STI_OK;
}

static int start(void *self, struct sti_err *err)
{
    (void)self;
    (void)err;
    return STI_OK;
}

static int reload(void *self, const void *conf, struct sti_err *err)
{
    (void)err;
    atomic_store(&((struct list *)self)->conf, conf);
    return STI_OK;
}

static int stop(void *self, uint32_t deadline_ms, struct sti_err *err)
{
    (void)deadline_ms;
    return start(self, err);
}

static void destroy(void *self)
{
    free(self);
}

static const struct sti_auth vtable = {.iface = {.struct_size = sizeof vtable,
                                                 .major = STI_AUTH_MAJOR,
                                                 .minor = STI_AUTH_MINOR,
                                                 .id = STI_AUTH_ID},
                                       .authenticate = authenticate,
                                       .authorize = authorize};
static const struct sti_iface *const provides[] = {&vtable.iface, NULL};

static const struct sti_lifecycle life = {.struct_size = sizeof life,
                                          .create = create,
                                          .start = start,
                                          .reload = reload,
                                          .stop = stop,
                                          .destroy = destroy};

extern const struct sti_plugin sti_plugin;
STI_PLUGIN_EXPORT const struct sti_plugin sti_plugin = {
    .magic = STI_PLUGIN_MAGIC,
    .struct_size = sizeof(struct sti_plugin),
    .abi_major = STI_ABI_MAJOR,
    .abi_minor = STI_ABI_MINOR,
    .name = "auth_list",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .summary = "Tokens and rights from a list; for tests.",
    .options = options,
    .conf_size = sizeof(struct conf),
    .provides = provides,
    .life = &life};
