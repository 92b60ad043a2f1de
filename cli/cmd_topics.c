/* cmd_topics.c -- create-topic, alter-topic, describe-topic, list-topics, delete-topic,
 * find-leader. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum {
    SETTINGS_MAX = 64,
    OPT_NAME = CLI_OPT_OWN,
    OPT_PARTITIONS,
    OPT_REPLICATION,
    OPT_CONFIG,
    OPT_TOPIC,
    OPT_PARTITION
};

struct topic_args {
    const char *name;
    int64_t partitions, replication;
    struct sti_admin_setting settings[SETTINGS_MAX];
    size_t setting_count;
};

/* `KEY=VALUE`, split in place; an alteration may leave the value empty: back to the default. */
static bool parse_setting(struct cli *cli, struct topic_args *args, char *text, bool alter)
{
    char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        (void)cli_usage(cli, "--config: expected KEY=VALUE, found \"%s\"", text);
        return false;
    }
    if (args->setting_count == SETTINGS_MAX) {
        (void)cli_usage(cli, "--config: more than %d settings", SETTINGS_MAX);
        return false;
    }
    *equals = '\0';
    args->settings[args->setting_count++] = (struct sti_admin_setting){
        .key = text, .value = alter && equals[1] == '\0' ? NULL : equals + 1};
    return true;
}

/* Options of the commands that have --name. @return -1: go on, else the exit status */
static int parse(struct cli *cli, int argc, char **argv, const struct option *options,
                 struct topic_args *args, bool alter)
{
    int status, option;
    memset(args, 0, sizeof *args);
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        bool ok = true;
        if (option == OPT_NAME) {
            args->name = optarg;
        } else if (option == OPT_PARTITIONS) {
            ok = cli_number(cli, "partitions", optarg, 1, 1000000, &args->partitions);
        } else if (option == OPT_REPLICATION) {
            ok = cli_number(cli, "replication", optarg, 1, 1000, &args->replication);
        } else if (option == OPT_CONFIG) {
            ok = parse_setting(cli, args, optarg, alter);
        }
        if (!ok) {
            return CLI_USAGE;
        }
    }
    if (option == -2) {
        return status;
    }
    if (args->name == NULL) {
        return cli_usage(cli, "--name is missing");
    }
    return cli_connect(cli) == CLI_OK ? -1 : CLI_FAILED;
}

static const struct option change_options[] = {
    CLI_GLOBAL_OPTIONS,
    {"name", required_argument, NULL, OPT_NAME},
    {"partitions", required_argument, NULL, OPT_PARTITIONS},
    {"replication", required_argument, NULL, OPT_REPLICATION},
    {"config", required_argument, NULL, OPT_CONFIG},
    {NULL, 0, NULL, 0}};
static const struct option alter_options[] = {
    CLI_GLOBAL_OPTIONS,
    {"name", required_argument, NULL, OPT_NAME},
    {"partitions", required_argument, NULL, OPT_PARTITIONS},
    {"config", required_argument, NULL, OPT_CONFIG},
    {NULL, 0, NULL, 0}};
static const struct option name_options[] = {
    CLI_GLOBAL_OPTIONS, {"name", required_argument, NULL, OPT_NAME}, {NULL, 0, NULL, 0}};

static int run_create(struct cli *cli, int argc, char **argv)
{
    struct topic_args args;
    struct sti_admin_created created;
    struct sti_err err;
    char id[37];
    int status = parse(cli, argc, argv, change_options, &args, false);
    if (status >= 0) {
        return status;
    }
    memset(&created, 0, sizeof created);
    int rc = sti_admin_create_topic(cli->client, args.name, (int32_t)args.partitions,
                                    (int32_t)args.replication, args.settings, args.setting_count,
                                    &created, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    cli_uuid(created.topic_id, id);
    if (cli->json) {
        cli_print_json(json_pack("{s:s,s:s,s:i,s:i}", "name", args.name, "topic_id", id,
                                 "partitions", created.partitions, "replication",
                                 created.replication));
    } else {
        printf("created topic %s: %d partitions, replication %d, id %s\n", args.name,
               created.partitions, created.replication, id);
    }
    return CLI_OK;
}

static int run_alter(struct cli *cli, int argc, char **argv)
{
    struct topic_args args;
    struct sti_err err;
    int status = parse(cli, argc, argv, alter_options, &args, true);
    if (status >= 0) {
        return status;
    }
    if (args.partitions == 0 && args.setting_count == 0) {
        return cli_usage(cli, "nothing to alter: give --partitions or --config");
    }
    int rc = sti_admin_alter_topic(cli->client, args.name, (int32_t)args.partitions, args.settings,
                                   args.setting_count, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    if (cli->json) {
        cli_print_json(json_pack("{s:s}", "name", args.name));
    } else {
        printf("altered topic %s\n", args.name);
    }
    return CLI_OK;
}

static int run_delete(struct cli *cli, int argc, char **argv)
{
    struct topic_args args;
    struct sti_err err;
    int status = parse(cli, argc, argv, name_options, &args, false);
    if (status >= 0) {
        return status;
    }
    int rc = sti_admin_delete_topic(cli->client, args.name, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    if (cli->json) {
        cli_print_json(json_pack("{s:s}", "name", args.name));
    } else {
        printf("deleted topic %s\n", args.name);
    }
    return CLI_OK;
}

/* ---- looking ------------------------------------------------------------------------------- */

static int run_list(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS, {NULL, 0, NULL, 0}};
    struct sti_admin_topics *topics = NULL;
    struct sti_err err;
    int status;
    if (cli_next_option(cli, argc, argv, options, &status) == -2) {
        return status;
    }
    if (cli_connect(cli) != CLI_OK) {
        return CLI_FAILED;
    }
    int rc = sti_admin_list_topics(cli->client, &topics, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    json_t *rows = json_array();
    if (!cli->json) {
        printf("%-40s %10s %11s  %s\n", "TOPIC", "PARTITIONS", "REPLICATION", "ID");
    }
    for (size_t i = 0; i < topics->count; i++) {
        const struct sti_admin_topic *t = &topics->topics[i];
        char id[37];
        cli_uuid(t->topic_id, id);
        if (cli->json) {
            json_array_append_new(rows, json_pack("{s:s,s:s,s:i,s:i}", "name", t->name, "topic_id",
                                                  id, "partitions", t->partitions, "replication",
                                                  t->replication));
        } else {
            printf("%-40s %10d %11d  %s\n", t->name, t->partitions, t->replication, id);
        }
    }
    if (cli->json) {
        cli_print_json(json_pack("{s:O}", "topics", rows));
    }
    json_decref(rows);
    sti_admin_topics_free(topics);
    return CLI_OK;
}

static json_t *json_ints(const int32_t *values, uint32_t count)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < count; i++) {
        json_array_append_new(array, json_integer(values[i]));
    }
    return array;
}

static json_t *partition_json(const struct sti_admin_partition *p)
{
    json_t *row = json_pack(
        "{s:i,s:i,s:i,s:o,s:o,s:I,s:I,s:I,s:I,s:s}", "partition", p->partition, "leader", p->leader,
        "leader_epoch", p->leader_epoch, "replicas", json_ints(p->replicas, p->replica_count),
        "isr", json_ints(p->isr, p->isr_count), "log_start", (json_int_t)p->log_start,
        "high_watermark", (json_int_t)p->high_watermark, "log_end", (json_int_t)p->log_end, "bytes",
        (json_int_t)p->bytes, "status", sti_status_name(p->status));
    if (p->status_message != NULL) {
        json_object_set_new(row, "message", json_string(p->status_message));
    }
    return row;
}

static void describe_json(const struct sti_admin_description *d, const char *id)
{
    json_t *partitions = json_array(), *config = json_object();
    for (size_t i = 0; i < d->partition_count; i++) {
        json_array_append_new(partitions, partition_json(&d->partitions[i]));
    }
    for (size_t i = 0; i < d->config_count; i++) {
        json_object_set_new(
            config, d->config[i].key,
            json_pack("{s:s,s:s}", "value", d->config[i].value, "source", d->config[i].source));
    }
    cli_print_json(json_pack("{s:s,s:s,s:i,s:o,s:o}", "name", d->name, "topic_id", id,
                             "replication", d->replication, "partitions", partitions, "config",
                             config));
}

static void print_ints(const int32_t *values, uint32_t count, int width)
{
    char text[64] = "";
    for (uint32_t i = 0; i < count; i++) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof text - len, "%s%d", i == 0 ? "" : ",", values[i]);
    }
    printf(" %-*s", width, text);
}

static void describe_text(const struct sti_admin_description *d, const char *id)
{
    printf("topic %s  id %s  replication %d\n\n", d->name, id, d->replication);
    printf("%9s %6s %5s %-10s %-10s %14s %14s %14s %14s  %s\n", "PARTITION", "LEADER", "EPOCH",
           "REPLICAS", "ISR", "LOG-START", "HIGH-WATERMARK", "LOG-END", "BYTES", "STATUS");
    for (size_t i = 0; i < d->partition_count; i++) {
        const struct sti_admin_partition *p = &d->partitions[i];
        printf("%9d %6d %5d", p->partition, p->leader, p->leader_epoch);
        print_ints(p->replicas, p->replica_count, 10);
        print_ints(p->isr, p->isr_count, 10);
        printf(" %14lld %14lld %14lld %14llu  %s%s%s\n", (long long)p->log_start,
               (long long)p->high_watermark, (long long)p->log_end, (unsigned long long)p->bytes,
               sti_status_name(p->status), p->status_message == NULL ? "" : ": ",
               p->status_message == NULL ? "" : p->status_message);
    }
    printf("\n%-32s %-16s %s\n", "SETTING", "VALUE", "FROM");
    for (size_t i = 0; i < d->config_count; i++) {
        printf("%-32s %-16s %s\n", d->config[i].key, d->config[i].value, d->config[i].source);
    }
}

static int run_describe(struct cli *cli, int argc, char **argv)
{
    struct topic_args args;
    struct sti_admin_description *d = NULL;
    struct sti_err err;
    char id[37];
    int status = parse(cli, argc, argv, name_options, &args, false);
    if (status >= 0) {
        return status;
    }
    int rc = sti_admin_describe_topic(cli->client, args.name, &d, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    cli_uuid(d->topic_id, id);
    if (cli->json) {
        describe_json(d, id);
    } else {
        describe_text(d, id);
    }
    sti_admin_description_free(d);
    return CLI_OK;
}

static int run_find_leader(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {CLI_GLOBAL_OPTIONS,
                                            {"topic", required_argument, NULL, OPT_TOPIC},
                                            {"partition", required_argument, NULL, OPT_PARTITION},
                                            {NULL, 0, NULL, 0}};
    struct sti_admin_leader leader;
    struct sti_err err;
    const char *topic = NULL;
    int64_t partition = -1;
    int status, option;
    while ((option = cli_next_option(cli, argc, argv, options, &status)) >= 0) {
        if (option == OPT_TOPIC) {
            topic = optarg;
        } else if (!cli_number(cli, "partition", optarg, 0, INT32_MAX, &partition)) {
            return CLI_USAGE;
        }
    }
    if (option == -2) {
        return status;
    }
    if (topic == NULL || partition < 0) {
        return cli_usage(cli, "%s is missing", topic == NULL ? "--topic" : "--partition");
    }
    if (cli_connect(cli) != CLI_OK) {
        return CLI_FAILED;
    }
    int rc = sti_admin_find_leader(cli->client, topic, (int32_t)partition, &leader, &err);
    if (rc != STI_OK) {
        return cli_error(rc, &err);
    }
    if (cli->json) {
        cli_print_json(json_pack("{s:s,s:i,s:i,s:s,s:i,s:i}", "topic", topic, "partition",
                                 (int)partition, "leader", leader.node_id, "host", leader.host,
                                 "port", leader.port, "leader_epoch", leader.leader_epoch));
    } else {
        printf("%s-%d is led by node %d at %s:%d (leader epoch %d)\n", topic, (int)partition,
               leader.node_id, leader.host, leader.port, leader.leader_epoch);
    }
    return CLI_OK;
}

/* ---- the commands -------------------------------------------------------------------------- */

#define TOPICS "Topics"

const struct cli_command cli_create_topic = {
    "create-topic", TOPICS, "make a topic",
    "  --name T            letters, digits, '.', '_', '-'; at most 249\n"
    "  --partitions N      default: the server's, 1 unless configured\n"
    "  --replication R     replicas of each partition; default: the server's, 1\n"
    "  --config K=V        a setting, repeatable: segment.bytes, segment.ms, retention.bytes,\n"
    "                      retention.ms, max.message.bytes, flush.policy=commit|interval|onroll,\n"
    "                      flush.interval.ms, storage=INSTANCE ...; describe-topic lists all\n\n"
    "Example:\n"
    "  streamit create-topic --name orders --partitions 6 --config flush.policy=commit\n",
    run_create};
const struct cli_command cli_alter_topic = {
    "alter-topic", TOPICS, "add partitions, change settings",
    "  --name T            the topic\n"
    "  --partitions N      the new total; partitions are only added\n"
    "  --config K=V        a setting, repeatable; an empty V goes back to the default\n\n"
    "Example:\n"
    "  streamit alter-topic --name orders --config retention.ms=3600000\n",
    run_alter};
const struct cli_command cli_describe_topic = {"describe-topic", TOPICS,
                                               "partitions, offsets, settings of a topic",
                                               "  --name T            the topic\n\n"
                                               "Example:\n"
                                               "  streamit --json describe-topic --name orders\n",
                                               run_describe};
const struct cli_command cli_list_topics = {"list-topics", TOPICS, "all topics",
                                            "Example:\n"
                                            "  streamit list-topics\n",
                                            run_list};
const struct cli_command cli_delete_topic = {"delete-topic", TOPICS,
                                             "delete a topic and its records for good",
                                             "  --name T            the topic\n\n"
                                             "Example:\n"
                                             "  streamit delete-topic --name orders\n",
                                             run_delete};
const struct cli_command cli_find_leader = {"find-leader", TOPICS,
                                            "which node leads a partition, and where it is reached",
                                            "  --topic T           the topic\n"
                                            "  --partition P       from 0\n\n"
                                            "Example:\n"
                                            "  streamit find-leader --topic orders --partition 0\n",
                                            run_find_leader};
