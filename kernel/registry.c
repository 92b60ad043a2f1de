/* registry.c -- see registry.h for the story. */
#include "kernel/registry.h"

#include <string.h>

const struct sti_iface *krn_registry_provides(const struct krn_instance *instance,
                                              const char *iface)
{
    const struct sti_plugin *desc = instance->plugin.desc;
    for (size_t i = 0; desc != NULL && desc->provides != NULL && desc->provides[i] != NULL; i++) {
        if (strcmp(desc->provides[i]->id, iface) == 0) {
            return desc->provides[i];
        }
    }
    return NULL;
}

static bool is_serving(const struct krn_instance *instance)
{
    return krn_instance_state(instance) == KRN_STARTED;
}

static struct sti_binding binding_of(const struct krn_instance *instance,
                                     const struct sti_iface *vtable)
{
    return (struct sti_binding){.vtable = vtable,
                                .self = instance->self,
                                .name = instance->name,
                                .generation = instance->generation};
}

/* The one instance that is meant; *several when no name was given and more than one provides. */
static const struct krn_instance *find(const struct krn_registry *registry, const char *iface,
                                       const char *name, const struct krn_instance **several)
{
    const struct krn_instance *found = NULL;
    *several = NULL;
    for (size_t i = 0; i < registry->count; i++) {
        const struct krn_instance *item = registry->items[i];
        if (krn_registry_provides(item, iface) == NULL ||
            (name != NULL && strcmp(item->name, name) != 0) ||
            krn_instance_state(item) == KRN_FAILED) {
            continue;
        }
        if (found != NULL) {
            *several = item;
            return found;
        }
        found = item;
    }
    return found;
}

int krn_registry_bind(const struct krn_registry *registry, const struct krn_instance *who,
                      const char *iface, const char *instance, uint16_t major, uint16_t minor_min,
                      struct sti_binding *out, struct sti_err *err)
{
    memset(out, 0, sizeof *out);
    int state = krn_instance_state(who);
    if (state != KRN_STARTING && state != KRN_STARTED) {
        return sti_err_set(err, STI_E_PRECONDITION, "bind %s: legal from start on only", iface);
    }
    const struct krn_instance *second;
    const struct krn_instance *found = find(registry, iface, instance, &second);
    if (found == NULL) {
        return sti_err_set(err, STI_E_NOT_FOUND, "no instance%s%s%s provides %s",
                           instance == NULL ? "" : " '", instance == NULL ? "" : instance,
                           instance == NULL ? "" : "'", iface);
    }
    if (second != NULL) {
        return sti_err_set(err, STI_E_PRECONDITION,
                           "both '%s' and '%s' provide %s: name the instance that is meant",
                           found->name, second->name, iface);
    }
    const struct sti_iface *vtable = krn_registry_provides(found, iface);
    if (vtable->major != major || vtable->minor < minor_min) {
        return sti_err_set(err, STI_E_ABI_MISMATCH,
                           "'%s' provides %s %u.%u, expected %u.%u or later: rebuild the older of "
                           "the two",
                           found->name, iface, vtable->major, vtable->minor, major, minor_min);
    }
    if (!is_serving(found)) {
        return sti_err_set(err, STI_E_PRECONDITION,
                           "'%s' is not started: list %s under needs of '%s'", found->name, iface,
                           who->name);
    }
    *out = binding_of(found, vtable);
    return STI_OK;
}

void krn_registry_each(const struct krn_registry *registry, const struct krn_instance *who,
                       const char *iface,
                       void (*visit)(void *arg, const struct sti_binding *binding), void *arg)
{
    bool creating = krn_instance_state(who) == KRN_LOADED;
    for (size_t i = 0; i < registry->count; i++) {
        const struct krn_instance *item = registry->items[i];
        const struct sti_iface *vtable = krn_registry_provides(item, iface);
        bool visible = creating ? krn_instance_state(item) != KRN_FAILED : is_serving(item);
        if (vtable != NULL && visible) {
            struct sti_binding binding = binding_of(item, vtable);
            binding.self = creating ? NULL : binding.self;
            visit(arg, &binding);
        }
    }
}
