/* command.c -- commands as bytes. Each encoder fills a message on the stack and packs it. */
#include <stdlib.h>

#include "catalog.h"
#include "streamit/internal/cluster.pb-c.h"

static uint8_t *pack(const Streamit__Internal__Command *command, size_t *len)
{
    *len = streamit__internal__command__get_packed_size(command);
    uint8_t *data = malloc(*len);
    if (data != NULL) {
        (void)streamit__internal__command__pack(command, data);
    }
    return data;
}

static ProtobufCBinaryData id_bytes(const uint8_t id[16])
{
    return (ProtobufCBinaryData){.len = 16, .data = (uint8_t *)(uintptr_t)id};
}

/* Rows of a message are pointers to messages: one block holds both. */
struct setting_rows {
    Streamit__Internal__Setting **rows;
    Streamit__Internal__Setting *messages;
};

static bool settings_fill(struct setting_rows *out, const struct cat_setting *settings,
                          uint32_t count)
{
    static char empty[] = "";
    out->rows = calloc(count + 1u, sizeof(void *));
    out->messages = calloc(count + 1u, sizeof *out->messages);
    for (uint32_t i = 0; out->rows != NULL && out->messages != NULL && i < count; i++) {
        streamit__internal__setting__init(&out->messages[i]);
        out->messages[i].key = settings[i].key;
        out->messages[i].value = settings[i].value == NULL ? empty : settings[i].value;
        out->messages[i].reset = settings[i].value == NULL;
        out->rows[i] = &out->messages[i];
    }
    return out->rows != NULL && out->messages != NULL;
}

static void settings_fini(struct setting_rows *rows)
{
    free(rows->rows);
    free(rows->messages);
}

static int32_t *replicas_fill(int32_t count, int32_t leader)
{
    int32_t *replicas = calloc((size_t)count + 1u, sizeof *replicas);
    for (int32_t i = 0; replicas != NULL && i < count; i++) {
        replicas[i] = leader;
    }
    return replicas;
}

uint8_t *cat_encode_create(const struct cat_create *create, size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__CreateTopic topic = STREAMIT__INTERNAL__CREATE_TOPIC__INIT;
    struct setting_rows rows;
    uint8_t *data = NULL;
    bool ok = settings_fill(&rows, create->settings, create->setting_count);
    int32_t *replicas = replicas_fill(create->partitions, create->leader);
    if (ok && replicas != NULL) {
        topic.name = (char *)(uintptr_t)create->name;
        topic.topic_id = id_bytes(create->id);
        topic.partitions = create->partitions;
        topic.replication = create->replication;
        topic.n_settings = create->setting_count;
        topic.settings = rows.rows;
        topic.n_replicas = (size_t)create->partitions;
        topic.replicas = replicas;
        command.version = CAT_VERSION;
        command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_CREATE_TOPIC;
        command.create_topic = &topic;
        data = pack(&command, len);
    }
    free(replicas);
    settings_fini(&rows);
    return data;
}

uint8_t *cat_encode_alter(const uint8_t id[16], int32_t partitions, int32_t more, int32_t leader,
                          const struct cat_setting *settings, uint32_t count, size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__AlterTopic alter = STREAMIT__INTERNAL__ALTER_TOPIC__INIT;
    struct setting_rows rows;
    uint8_t *data = NULL;
    bool ok = settings_fill(&rows, settings, count);
    int32_t *replicas = replicas_fill(more, leader);
    if (ok && replicas != NULL) {
        alter.topic_id = id_bytes(id);
        alter.partitions = partitions;
        alter.n_settings = count;
        alter.settings = rows.rows;
        alter.n_replicas = (size_t)more;
        alter.replicas = replicas;
        command.version = CAT_VERSION;
        command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_ALTER_TOPIC;
        command.alter_topic = &alter;
        data = pack(&command, len);
    }
    free(replicas);
    settings_fini(&rows);
    return data;
}

uint8_t *cat_encode_created(const uint8_t id[16], int32_t partitions, size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__TopicCreated created = STREAMIT__INTERNAL__TOPIC_CREATED__INIT;
    created.topic_id = id_bytes(id);
    created.partitions = partitions;
    command.version = CAT_VERSION;
    command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_TOPIC_CREATED;
    command.topic_created = &created;
    return pack(&command, len);
}

uint8_t *cat_encode_delete(const uint8_t id[16], size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__DeleteTopic deletion = STREAMIT__INTERNAL__DELETE_TOPIC__INIT;
    deletion.topic_id = id_bytes(id);
    command.version = CAT_VERSION;
    command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_DELETE_TOPIC;
    command.delete_topic = &deletion;
    return pack(&command, len);
}

uint8_t *cat_encode_purged(const uint8_t id[16], size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__TopicPurged purged = STREAMIT__INTERNAL__TOPIC_PURGED__INIT;
    purged.topic_id = id_bytes(id);
    command.version = CAT_VERSION;
    command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_TOPIC_PURGED;
    command.topic_purged = &purged;
    return pack(&command, len);
}

uint8_t *cat_encode_raise(const uint8_t *const *ids, uint32_t count, int32_t leader, size_t *len)
{
    Streamit__Internal__Command command = STREAMIT__INTERNAL__COMMAND__INIT;
    Streamit__Internal__RaiseEpochs raise = STREAMIT__INTERNAL__RAISE_EPOCHS__INIT;
    uint8_t *data = NULL;
    ProtobufCBinaryData *rows = calloc(count + 1u, sizeof *rows);
    if (rows != NULL) {
        for (uint32_t i = 0; i < count; i++) {
            rows[i] = id_bytes(ids[i]);
        }
        raise.n_topic_ids = count;
        raise.topic_ids = rows;
        raise.leader = leader;
        command.version = CAT_VERSION;
        command.command_case = STREAMIT__INTERNAL__COMMAND__COMMAND_RAISE_EPOCHS;
        command.raise_epochs = &raise;
        data = pack(&command, len);
    }
    free(rows);
    return data;
}
