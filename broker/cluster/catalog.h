/* catalog.h -- the cluster state machine: which topics there are, and what was decided about them.
 *
 * Commands arrive through the metadata log, in the same order on every node, and change this state
 * deterministically: no clock, no randomness, no I/O. Every precondition is checked here, when a
 * command is applied, because the state may have moved since it was proposed. What follows from a
 * change on this node (opening partitions, deleting folders) is not done here but told to the
 * observer, which acts later.
 *
 * A topic's life:   CreateTopic -> TopicCreated -> [AlterTopic -> TopicCreated]* -> DeleteTopic ->
 * TopicPurged
 *
 * TopicCreated separates youth from damage: a partition below `created` whose storage is missing
 * has lost its data, and one above it was interrupted while being created. TopicPurged frees the
 * name: until the files of the old topic are gone no new one can meet them.
 *
 * @locks none: the owner calls apply, snapshot and restore one at a time, and readers hold the
 * owner's lock
 */
#ifndef STREAMIT_BROKER_CATALOG_H
#define STREAMIT_BROKER_CATALOG_H

#include "streamit/metadata.h"

#define CAT_VERSION 1u

struct cat_setting {
    char *key, *value;
};

struct cat_partition {
    int32_t leader, leader_epoch;
    int32_t *replicas; /* topic->replication of them */
};

struct cat_topic {
    struct cat_topic *next, *prev;
    struct cat_topic *name_next, *id_next; /* in their buckets */
    char *name;
    uint8_t id[16];
    int32_t replication;
    int32_t partition_count, created;
    bool deleted;
    uint32_t setting_count;
    struct cat_setting *settings; /* overrides only */
    struct cat_partition *partitions;
};

/* What has happened, for whoever acts on it. Called inside apply and, for each topic, after
 * restore. */
struct cat_observer {
    void (*created)(void *ctx, const struct cat_topic *topic);
    void (*altered)(void *ctx, const struct cat_topic *topic);
    void (*deleted)(void *ctx, const struct cat_topic *topic);
};

enum { CAT_BUCKETS = 1024 };

struct catalog {
    struct cat_topic *topics; /* in no order */
    struct cat_topic *by_name[CAT_BUCKETS], *by_id[CAT_BUCKETS];
    uint32_t topic_count;     /* live ones */
    uint32_t partition_count; /* of live topics */
    const struct cat_observer *observer;
    void *observer_ctx;
};

void cat_init(struct catalog *cat, const struct cat_observer *observer, void *observer_ctx);
void cat_fini(struct catalog *cat);
/* Live or deleted. NULL when there is none. */
struct cat_topic *cat_find(struct catalog *cat, const char *name);
struct cat_topic *cat_find_id(struct catalog *cat, const uint8_t id[16]);

/* Apply one encoded command. @return its verdict: STI_OK, STI_E_ALREADY_EXISTS,
 * STI_E_UNKNOWN_TOPIC, STI_E_UNAVAILABLE (the name is still being deleted), STI_E_INVALID_ARGUMENT
 * (fewer partitions than before), STI_E_UNSUPPORTED (version), STI_E_DATA_LOSS (undecodable),
 * STI_E_NO_MEMORY */
int cat_apply(struct catalog *cat, const void *command, size_t len, struct sti_err *err);
int cat_snapshot(const struct catalog *cat, const struct sti_metadata_sink *sink,
                 struct sti_err *err);
/* @return STI_OK, STI_E_DATA_LOSS, STI_E_UNSUPPORTED, STI_E_NO_MEMORY; on failure the catalogue is
 * empty */
int cat_restore(struct catalog *cat, const void *data, size_t len, struct sti_err *err);

/* ---- encoding of commands (command.c): malloc'ed bytes, the caller frees; NULL without memory
 * ---- */

struct cat_create {
    const char *name;
    const uint8_t *id;
    int32_t partitions, replication, leader;
    const struct cat_setting *settings;
    uint32_t setting_count;
};

uint8_t *cat_encode_create(const struct cat_create *create, size_t *len);
uint8_t *cat_encode_created(const uint8_t id[16], int32_t partitions, size_t *len);
/* A setting with value NULL goes back to its default. partitions 0: unchanged. */
uint8_t *cat_encode_alter(const uint8_t id[16], int32_t partitions, int32_t more, int32_t leader,
                          const struct cat_setting *settings, uint32_t count, size_t *len);
uint8_t *cat_encode_delete(const uint8_t id[16], size_t *len);
uint8_t *cat_encode_purged(const uint8_t id[16], size_t *len);
/* The leader epochs of the partitions of these topics that `leader` leads grow by one. */
uint8_t *cat_encode_raise(const uint8_t *const *ids, uint32_t count, int32_t leader, size_t *len);

#endif /* STREAMIT_BROKER_CATALOG_H */
