/* config_doc.c -- docs/CONFIGURATION.md and etc/reference.cfg, written from the option tables.
 *
 *     config_doc markdown PLUGIN_DIR             print the document
 *     config_doc reference PLUGIN_DIR            print the configuration
 *     config_doc markdown PLUGIN_DIR --check F   exit 1 and name the first line in which F differs
 *
 * Tables: the kernel's, the broker's, and those of every plugin in the folder, in the order of
 * their file names. The same plugins give the same bytes.
 */
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker_plugin.h"
#include "broker/settings.h"
#include "kernel/node.h"

struct doc {
    FILE *out;
    bool reference;
};

static bool is_bounded(const struct sti_option *opt)
{
    return opt->min != 0 || opt->max != 0;
}

static const char *type_word(uint32_t type)
{
    static const char *const words[] = {"",     "integer", "true or false", "string",
                                        "word", "strings", "groups"};
    return type <= STI_OPT_TABLE ? words[type] : "";
}

/* ---- markdown ------------------------------------------------------------------------------ */

/* A cell must hold no bar. */
static void cell(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        fprintf(out, *text == '|' ? "\\%c" : "%c", *text);
    }
}

static void limit(FILE *out, int64_t value)
{
    if (value == INT64_MAX) {
        fputs("2^63-1", out);
    } else {
        fprintf(out, "%" PRId64, value);
    }
}

static void range_cell(FILE *out, const struct sti_option *opt)
{
    if (opt->type == STI_OPT_ENUM) {
        for (size_t i = 0; opt->choices[i] != NULL; i++) {
            fprintf(out, "%s`%s`", i == 0 ? "" : ", ", opt->choices[i]);
        }
        return;
    }
    if (is_bounded(opt) && (opt->type == STI_OPT_INT || opt->max > 0)) {
        limit(out, opt->min);
        fputs(" to ", out);
        limit(out, opt->max);
        if (opt->type == STI_OPT_STRING) {
            fputs(" bytes long", out);
        }
    }
    if (opt->unit != NULL) {
        fprintf(out, "%s%s", is_bounded(opt) ? " " : "", opt->unit);
    }
}

static void markdown_row(FILE *out, const struct sti_option *opt)
{
    if (opt->type == STI_OPT_PLACE) {
        return; /* no key of the file */
    }
    fprintf(out, "| `%s` | %s | ", opt->key, type_word(opt->type));
    if ((opt->flags & STI_OPT_REQUIRED) != 0) {
        fputs("required", out);
    } else if (opt->def != NULL) {
        fputc('`', out);
        cell(out, opt->def[0] == '\0' ? "\"\"" : opt->def);
        fputc('`', out);
    } else {
        fputs("none", out);
    }
    fputs(" | ", out);
    range_cell(out, opt);
    fprintf(out, " | %s | ", (opt->flags & STI_OPT_RELOADABLE) != 0 ? "SIGHUP" : "restart");
    cell(out, opt->help);
    fputs((opt->flags & STI_OPT_ROOT) != 0 ? " Stands at the top of the file, beside the groups."
                                           : "",
          out);
    fprintf(out, "%s |\n", (opt->flags & STI_OPT_SECRET) != 0 ? " Never printed." : "");
}

static void markdown_table(FILE *out, const struct sti_option *const *table)
{
    fputs("| option | type | default | range | changes with | meaning |\n"
          "| --- | --- | --- | --- | --- | --- |\n",
          out);
    for (size_t i = 0; table[i] != NULL; i++) {
        markdown_row(out, table[i]);
    }
    fputc('\n', out);
    for (size_t i = 0; table[i] != NULL; i++) {
        if (table[i]->type == STI_OPT_TABLE) {
            fprintf(out, "Each group of `%s`:\n\n", table[i]->key);
            markdown_table(out, table[i]->nested);
        }
    }
}

static void markdown_section(FILE *out, const char *title, const char *text,
                             const struct sti_option *const *table)
{
    fprintf(out, "## %s\n\n%s\n\n", title, text);
    if (table == NULL || table[0] == NULL) {
        fputs("Takes no options.\n\n", out);
    } else {
        markdown_table(out, table);
    }
}

static void markdown_head(FILE *out)
{
    fputs(
        "# Configuration\n\n"
        "Every option of the kernel, the broker and the plugins of this repository. This file is "
        "generated from the\noption tables by `tools/config_doc.c`; a test compares the two. "
        "`etc/reference.cfg` has the same options with\ntheir defaults.\n\n"
        "The file is in libconfig's syntax: `node` and `broker` are groups, `plugins` has one "
        "group for each instance.\n`@include \"other.cfg\"` on a line of its own takes in another "
        "file, relative to the one that names it. A number of\nbytes may bear K, M or G "
        "(1024-based) and is then a string: `\"64M\"`. An unknown group or option is an error.\n\n"
        "    node: { data_dir = \"data\"; };\n"
        "    plugins: {\n"
        "      storage_mmap: { };                              # from storage_mmap.so\n"
        "      second: { file = \"transport_grpc.so\"; port = 0; };\n"
        "    };\n\n"
        "`streamitd --set PATH=VALUE` overrides one option: `--set plugins.second.port=18080`; "
        "strings of a list are separated\nby commas. Options that change with SIGHUP are "
        "read again when the daemon gets that signal; the others wait for a\nrestart, and the "
        "log says so.\n\n"
        "Each instance also takes `file`: the plugin to load, `<instance>.so` by default. A bare "
        "name is found in\n`node.plugin_dir`, an absolute path is taken as it is; neither the "
        "file nor its folder may be writable by group\nor others.\n\n",
        out);
}

/* One setting of a topic: the rows of SET_ROWS. */
static void setting_int(FILE *out, const char *key, const char *def, int64_t min, int64_t max,
                        const char *unit, const char *help)
{
    fprintf(out, "| `%s` | `%s` | ", key, def);
    limit(out, min);
    fputs(" to ", out);
    limit(out, max);
    fprintf(out, "%s%s | %s |\n", unit == NULL ? "" : " ", unit == NULL ? "" : unit, help);
}

static void setting_word(FILE *out, const char *key, const char *def, const char *const *words,
                         const char *help)
{
    fprintf(out, "| `%s` | `%s` | ", key, def);
    for (size_t i = 0; words != NULL && words[i] != NULL; i++) {
        fprintf(out, "%s`%s`", i == 0 ? "" : ", ", words[i]);
    }
    fprintf(out, "%s | %s |\n", words == NULL ? "an instance" : "", help);
}

static void markdown_settings(FILE *out)
{
    fputs(
        "## Settings of a topic\n\n"
        "Given when a topic is created (`--config KEY=VALUE`, or `config` of a declared one) and, "
        "but for `storage`, altered while\nit serves; a change counts from its answer on. What a "
        "topic does not set comes from the node's option of the same name\nwith underscores in "
        "`broker`, else from this table; `describe-topic` says which. A setting with one word in "
        "its range\nknows no other in this version.\n\n"
        "| setting | default | range | meaning |\n| --- | --- | --- | --- |\n",
        out);
#define INT(key, field, def, min, max, unit, help) setting_int(out, key, def, min, max, unit, help);
#define WORD(key, field, def, words, help)         setting_word(out, key, def, words, help);
#define NAME(key, field, def, help)                setting_word(out, key, def, NULL, help);
#define FIXED(key, words, word, help)                                                              \
    setting_word(out, key, word, (const char *const[]){word, NULL}, help);
    SET_ROWS(INT, WORD, NAME, FIXED)
#undef INT
#undef WORD
#undef NAME
#undef FIXED
    fputc('\n', out);
}

/* ---- reference.cfg ------------------------------------------------------------------------- */

static bool is_number(const char *text)
{
    return text[strspn(text, "-0123456789")] == '\0';
}

/* A default as it stands in a file. */
static void reference_value(FILE *out, const struct sti_option *opt)
{
    bool quoted = opt->def[0] == '"';
    if (opt->type == STI_OPT_STRINGS) {
        if (opt->def[0] == '[' || opt->def[0] == '(') {
            fputs(opt->def, out);
            return;
        }
        fputs("[ ", out);
        for (const char *from = opt->def; *from != '\0';) {
            size_t len = strcspn(from, ",");
            fprintf(out, "%s\"%.*s\"", from == opt->def ? "" : ", ", (int)len, from);
            from += len + (from[len] == ',' ? 1 : 0);
        }
        fputs(" ]", out);
        return;
    }
    bool bare = opt->type == STI_OPT_BOOL || (opt->type == STI_OPT_INT && is_number(opt->def));
    fprintf(out, bare || quoted ? "%s" : "\"%s\"", opt->def);
}

/* A list of groups as it would stand in a file, as a comment. */
static void reference_table(FILE *out, const struct sti_option *opt, const char *indent)
{
    fprintf(out, "%s# %s: ( {", indent, opt->key);
    for (size_t i = 0; opt->nested[i] != NULL; i++) {
        if (opt->nested[i]->type != STI_OPT_PLACE) {
            fprintf(out, " %s = ...;", opt->nested[i]->key);
        }
    }
    fputs(" } );\n", out);
}

static void reference_option(FILE *out, const struct sti_option *opt, const char *indent)
{
    if ((opt->flags & STI_OPT_ROOT) != 0) {
        return; /* reference_roots */
    }
    fprintf(out, "%s# %s\n", indent, opt->help);
    if (opt->type == STI_OPT_TABLE) {
        reference_table(out, opt, indent);
        return;
    }
    if (opt->def == NULL) {
        fprintf(out, "%s# %s = ...;%s\n", indent, opt->key,
                (opt->flags & STI_OPT_REQUIRED) != 0 ? "  (required)" : "");
        return;
    }
    fprintf(out, "%s%s = ", indent, opt->key);
    reference_value(out, opt);
    fputs(";\n", out);
}

static void reference_group(FILE *out, const char *name, const char *text,
                            const struct sti_option *const *table, const char *indent)
{
    char inner[16];
    snprintf(inner, sizeof inner, "%s  ", indent);
    fprintf(out, "%s# %s\n%s%s: {\n", indent, text, indent, name);
    for (size_t i = 0; table != NULL && table[i] != NULL; i++) {
        reference_option(out, table[i], inner);
    }
    fprintf(out, "%s};\n%s", indent, *indent == '\0' ? "\n" : "");
}

/* What stands beside the groups. */
static void reference_roots(FILE *out, const struct sti_option *const *table)
{
    for (size_t i = 0; table[i] != NULL; i++) {
        if ((table[i]->flags & STI_OPT_ROOT) != 0) {
            fprintf(out, "# %s\n", table[i]->help);
            reference_table(out, table[i], "");
            fputc('\n', out);
        }
    }
}

/* ---- both ---------------------------------------------------------------------------------- */

static void section(struct doc *doc, const char *name, const char *text,
                    const struct sti_option *const *table, bool is_plugin)
{
    char title[160];
    if (doc->reference) {
        reference_group(doc->out, name, text, table, is_plugin ? "  " : "");
        return;
    }
    snprintf(title, sizeof title, "`%s%s`", is_plugin ? "plugins." : "", name);
    markdown_section(doc->out, title, text, table);
}

static void plugin_section(void *arg, const char *file, const struct sti_plugin *desc)
{
    char name[80], text[512];
    size_t summary_len = strlen(desc->summary);
    const char *stop = summary_len > 0 && desc->summary[summary_len - 1] == '.' ? "" : ".";
    size_t stem_len = strlen(file) > 3 ? strlen(file) - 3 : 0;
    snprintf(name, sizeof name, "%.*s", (int)stem_len, file);
    snprintf(text, sizeof text, "%s%s", desc->summary, stop);
    section(arg, name, text, desc->options, true);
}

static int is_plugin_file(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);
    return len > 3 && strcmp(entry->d_name + len - 3, ".so") == 0;
}

static int byte_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int plugin_sections(struct doc *doc, const char *dir)
{
    struct dirent **names;
    int count = scandir(dir, &names, is_plugin_file, byte_order);
    int rc = count < 0 ? 1 : 0;
    if (count < 0) {
        perror(dir);
        return rc;
    }
    for (int i = 0; i < count; i++) {
        char path[PATH_MAX];
        struct sti_err err = {0};
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (rc == 0 && krn_plugin_visit(path, plugin_section, doc, &err) != STI_OK) {
            fprintf(stderr, "config_doc: %s\n", err.msg);
            rc = 1;
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

static int generate(struct doc *doc, const char *dir)
{
    if (doc->reference) {
        fputs("# Every option with its default, generated from the option tables by "
              "tools/config_doc.c.\n# What the columns of docs/CONFIGURATION.md say is said there; "
              "a node needs only few of these lines.\n\n",
              doc->out);
    } else {
        markdown_head(doc->out);
    }
    section(doc, "node", "The node and its kernel.", krn_node_options, false);
    section(doc, "broker", "Topics, partitions, produce and fetch.", sti_broker_plugin.options,
            false);
    if (!doc->reference) {
        markdown_settings(doc->out);
    } else {
        reference_roots(doc->out, sti_broker_plugin.options);
        fputs("plugins: {\n", doc->out);
    }
    int rc = plugin_sections(doc, dir);
    if (doc->reference) {
        fputs("};\n", doc->out);
    }
    return rc;
}

/* @return 0 when the file holds exactly `text` */
static int compare(const char *path, const char *text)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    unsigned line = 1;
    int c;
    const char *at = text;
    while ((c = fgetc(file)) != EOF && (unsigned char)*at == c) {
        line += c == '\n' ? 1 : 0;
        at++;
    }
    (void)fclose(file);
    if (c == EOF && *at == '\0') {
        return 0;
    }
    fprintf(stderr, "%s:%u: not what the option tables say, which is: %.*s\n", path, line,
            (int)strcspn(at, "\n"), at);
    return 1;
}

int main(int argc, char **argv)
{
    bool check = argc == 5 && strcmp(argv[3], "--check") == 0;
    if ((argc != 3 && !check) ||
        (strcmp(argv[1], "markdown") != 0 && strcmp(argv[1], "reference") != 0)) {
        fputs("usage: config_doc markdown|reference PLUGIN_DIR [--check FILE]\n", stderr);
        return 2;
    }
    char *text = NULL;
    size_t size = 0;
    struct doc doc = {.out = open_memstream(&text, &size), .reference = argv[1][0] == 'r'};
    if (doc.out == NULL) {
        perror("config_doc");
        return 1;
    }
    int rc = generate(&doc, argv[2]);
    (void)fclose(doc.out);
    size_t used = strlen(text);
    while (used > 1 && text[used - 1] == '\n' && text[used - 2] == '\n') {
        text[--used] = '\0';
    }
    if (rc == 0 && check) {
        rc = compare(argv[4], text);
    } else if (rc == 0) {
        rc = fputs(text, stdout) < 0 || fflush(stdout) != 0 ? 1 : 0;
    }
    free(text);
    return rc;
}
