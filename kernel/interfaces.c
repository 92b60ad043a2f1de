/* interfaces.c -- see interfaces.h for the story. */
#include "kernel/interfaces.h"

#include <inttypes.h>

#include "streamit/assignment.h"
#include "streamit/auth.h"
#include "streamit/broker.h"
#include "streamit/metadata.h"
#include "streamit/metrics.h"
#include "streamit/peer.h"
#include "streamit/replication.h"
#include "streamit/storage.h"
#include "streamit/transport.h"

enum { ID_MAX = 64 };

#define SLOT(type, slot)                                                                           \
    {                                                                                              \
#slot, offsetof(struct type, slot), 0                                                      \
    }
#define SLOT_WITH(type, slot, promise)                                                             \
    {                                                                                              \
#slot, offsetof(struct type, slot), (promise)                                              \
    }
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct krn_slot storage_slots[] = {
    SLOT(sti_storage, open),
    SLOT(sti_storage, configure),
    SLOT(sti_storage, state),
    SLOT(sti_storage, append),
    SLOT(sti_storage, read),
    SLOT_WITH(sti_storage, sync, STI_STORAGE_DURABLE),
    SLOT(sti_storage, offset_for_time),
    SLOT(sti_storage, truncate),
    SLOT(sti_storage, trim),
    SLOT(sti_storage, oldest_segment),
    SLOT(sti_storage, usage),
    SLOT(sti_storage, close),
    SLOT(sti_storage, remove),
    SLOT(sti_storage, list),
    SLOT_WITH(sti_storage, blob_put, STI_STORAGE_BLOBS),
    SLOT_WITH(sti_storage, blob_get, STI_STORAGE_BLOBS),
};

static const struct krn_slot broker_slots[] = {
    SLOT(sti_broker, produce),        SLOT(sti_broker, fetch),
    SLOT(sti_broker, fetch_cancel),   SLOT(sti_broker, list_offsets),
    SLOT(sti_broker, create_topic),   SLOT(sti_broker, alter_topic),
    SLOT(sti_broker, delete_topic),   SLOT(sti_broker, list_topics),
    SLOT(sti_broker, describe_topic), SLOT(sti_broker, find_leader),
    SLOT(sti_broker, admit),
};

static const struct krn_slot metadata_slots[] = {
    SLOT(sti_metadata, open),
    SLOT(sti_metadata, propose),
    SLOT(sti_metadata, is_leader),
    SLOT(sti_metadata, close),
    SLOT_WITH(sti_metadata, members, STI_METADATA_REPLICATED),
};

static const struct krn_slot replication_slots[] = {
    SLOT(sti_replication, open),      SLOT(sti_replication, progress),
    SLOT(sti_replication, configure), SLOT(sti_replication, in_sync),
    SLOT(sti_replication, close),
};

static const struct krn_slot peer_slots[] = {
    SLOT(sti_peer, serve), SLOT(sti_peer, withdraw), SLOT(sti_peer, respond),
    SLOT(sti_peer, dial),  SLOT(sti_peer, call),     SLOT(sti_peer, cancel),
    SLOT(sti_peer, sever), SLOT(sti_peer, hang_up),  SLOT(sti_peer, info),
};

static const struct krn_slot transport_slots[] = {SLOT(sti_transport, endpoint)};
static const struct krn_slot metrics_slots[] = {SLOT(sti_metrics, export_now)};
static const struct krn_slot assignment_slots[] = {SLOT(sti_assignment, assign)};
static const struct krn_slot auth_slots[] = {SLOT(sti_auth, authenticate),
                                             SLOT(sti_auth, authorize)};

/* A plugin that was built when an interface was younger is taken: `least` is the size that its 0.1
 * had, and slots that came later are optional. */
#define ROW_SINCE(name, lower, least)                                                              \
    {                                                                                              \
        STI_##name##_ID, STI_##name##_MAJOR, STI_##name##_MINOR, 1, (least), lower##_slots,        \
            COUNT(lower##_slots)                                                                   \
    }
#define ROW(name, lower) ROW_SINCE(name, lower, sizeof(struct sti_##lower))

static const struct krn_interface interfaces[] = {
    ROW_SINCE(STORAGE, storage, offsetof(struct sti_storage, space)),
    ROW(BROKER, broker),
    ROW(METADATA, metadata),
    ROW(REPLICATION, replication),
    ROW(PEER, peer),
    ROW(TRANSPORT, transport),
    ROW(METRICS, metrics),
    ROW(ASSIGNMENT, assignment),
    ROW(AUTH, auth),
};

const struct krn_interface *krn_interface_at(size_t index)
{
    return index < COUNT(interfaces) ? &interfaces[index] : NULL;
}

const struct krn_interface *krn_interface_find(const char *id)
{
    for (size_t i = 0; i < COUNT(interfaces); i++) {
        if (strcmp(interfaces[i].id, id) == 0) {
            return &interfaces[i];
        }
    }
    return NULL;
}

static bool slot_is_null(const struct sti_iface *iface, size_t offset)
{
    void *slot;
    memcpy(&slot, (const char *)iface + offset, sizeof slot);
    return slot == NULL;
}

static int check_slots(const struct sti_iface *iface, const struct krn_interface *known,
                       struct sti_err *err)
{
    for (int paired = 0; paired < 2; paired++) {
        for (size_t i = 0; i < known->slot_count; i++) {
            const struct krn_slot *slot = &known->slots[i];
            bool wanted = paired == 0 ? slot->caps == 0 : (slot->caps & iface->caps) != 0;
            if (!wanted || !slot_is_null(iface, slot->offset)) {
                continue;
            }
            if (paired == 0) {
                return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                                   "%s: slot %s is null, expected a function: fill it in",
                                   iface->id, slot->name);
            }
            return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                               "%s: caps 0x%" PRIx64 " promise 0x%" PRIx64
                               ", which needs slot %s, and that is null: fill it in or withdraw "
                               "the promise",
                               iface->id, iface->caps, slot->caps, slot->name);
        }
    }
    return STI_OK;
}

int krn_interface_check(const struct sti_iface *iface, struct sti_err *err)
{
    if (iface->struct_size < sizeof *iface) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "interface: struct_size %" PRIu32 ", expected at least %zu: rebuild the "
                           "plugin",
                           iface->struct_size, sizeof *iface);
    }
    if (iface->id == NULL || iface->id[0] == '\0' || strnlen(iface->id, ID_MAX + 1) > ID_MAX) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "interface: id of 0 bytes or more than %d, expected a name such as "
                           "streamit.storage: correct the descriptor",
                           ID_MAX);
    }
    const struct krn_interface *known = krn_interface_find(iface->id);
    if (known == NULL) {
        return STI_OK;
    }
    if (iface->major != known->major) {
        return sti_err_set(
            err, STI_E_ABI_MISMATCH,
            "%s: interface %u.%u, kernel expects %u.%u (major %u): rebuild the plugin "
            "against this SDK",
            iface->id, iface->major, iface->minor, known->major, known->minor, known->major);
    }
    if (iface->minor < known->minor_least) {
        return sti_err_set(err, STI_E_ABI_MISMATCH,
                           "%s: interface %u.%u, kernel needs %u.%u or later: rebuild the plugin "
                           "against this SDK",
                           iface->id, iface->major, iface->minor, known->major, known->minor_least);
    }
    if (iface->struct_size < known->size_least) {
        return sti_err_set(err, STI_E_PLUGIN_REFUSED,
                           "%s: struct_size %" PRIu32 ", expected at least %zu: rebuild the plugin "
                           "against this SDK",
                           iface->id, iface->struct_size, known->size_least);
    }
    return check_slots(iface, known, err);
}
