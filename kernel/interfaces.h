/* interfaces.h -- what the kernel knows of each interface of the SDK: versions, required slots, and
 * which promise needs which slots.
 *
 * The kernel calls none of these functions. It knows their places, so that a half-filled vtable is
 * found when the plugin is loaded and not at the first call. An interface that is not listed is
 * one between plugins: only its header is checked.
 */
#ifndef STREAMIT_KERNEL_INTERFACES_H
#define STREAMIT_KERNEL_INTERFACES_H

#include "streamit/plugin.h"

struct krn_slot {
    const char *name;
    size_t offset;
    uint64_t caps; /* required when one of these is promised; 0: always */
};

struct krn_interface {
    const char *id;
    uint16_t major, minor; /* as the SDK of this kernel has it       */
    uint16_t minor_least;  /* that a provider must have built        */
    size_t size_least;     /* of the vtable at minor_least           */
    const struct krn_slot *slots;
    size_t slot_count;
};

/* NULL: not an interface of the SDK. */
const struct krn_interface *krn_interface_find(const char *id);
/* All of them, NULL past the end. */
const struct krn_interface *krn_interface_at(size_t index);

/* Check one vtable: header first, then size, slots, promises.
 * @return STI_OK, STI_E_ABI_MISMATCH (major, minor), STI_E_PLUGIN_REFUSED; the sentence starts with
 * the interface's id */
int krn_interface_check(const struct sti_iface *iface, struct sti_err *err);

#endif /* STREAMIT_KERNEL_INTERFACES_H */
