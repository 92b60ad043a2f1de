/* streamit/option.h -- typed options of a plugin, of the kernel and of the broker.
 *
 * A plugin describes its settings in a table of rows; the kernel parses the configuration file,
 * rejects unknown keys and bad values with file and line, applies defaults and `--set`, and hands
 * `create` a filled struct. The plugin never sees the file, the command line or another plugin's
 * section. docs/CONFIGURATION.md and etc/reference.cfg are generated from the same tables.
 *
 * A table is a NULL-terminated array of pointers to rows, so that a row can grow at its end without
 * breaking a plugin that was built before.
 *
 *     struct conf { int64_t port; const char *host; bool tls; int32_t mode; };
 *     static const struct sti_option opt_port = {
 *         .struct_size = sizeof(struct sti_option), .key = "port", .type = STI_OPT_INT,
 *         .offset = offsetof(struct conf, port), .def = "8080", .min = 0, .max = 65535,
 *         .help = "TCP port of the listener; 0 picks a free one." };
 *     static const struct sti_option *const options[] = {&opt_port, NULL};
 *
 * Types and the C type at `offset`:
 *
 *   STI_OPT_INT      int64_t       decimal, within [min, max]; a suffix K, M, G (powers of 1024) is
 *                                  accepted when the unit is "bytes"
 *
 *   STI_OPT_BOOL     bool
 *
 *   STI_OPT_STRING   const char *  the kernel's, valid until `destroy`; NULL when unset and without
 *                                  default; length within [min, max] when max > 0
 *
 *   STI_OPT_ENUM     int32_t       subscript of the chosen word in `choices`
 *
 *   STI_OPT_STRINGS  struct sti_option_strings   a libconfig list or array of strings
 *
 *   STI_OPT_TABLE    struct sti_option_rows      a list of groups, each described by `nested`; rows
 *                                                are structs of `nested_size` bytes
 *
 *   STI_OPT_PLACE    const char *  in a nested table: where the group stands, "node.cfg:12:
 * topics[0]", for the messages of an owner that checks more than a table can. No key of the file;
 * the kernel fills it, valid until `destroy`
 */
#ifndef STREAMIT_OPTION_H
#define STREAMIT_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sti_option_type {
    STI_OPT_INT = 1,
    STI_OPT_BOOL = 2,
    STI_OPT_STRING = 3,
    STI_OPT_ENUM = 4,
    STI_OPT_STRINGS = 5,
    STI_OPT_TABLE = 6,
    STI_OPT_PLACE = 7
};

#define STI_OPT_RELOADABLE                                                                         \
    0x1u /* SIGHUP may change it; otherwise a changed value waits for a restart, with a warning */
#define STI_OPT_REQUIRED 0x2u /* has no default and must be given */
#define STI_OPT_SECRET   0x4u /* never printed in a message or a listing */
#define STI_OPT_ROOT     0x8u /* of a built-in: stands at the top of the file, beside the groups */

struct sti_option_strings {
    size_t count;
    const char *const *items;
};

struct sti_option_rows {
    size_t count;
    const void *const *rows;
};

struct sti_option {
    uint32_t struct_size;       /* sizeof(struct sti_option) as its author built it          */
    uint32_t type;              /* enum sti_option_type                                      */
    const char *key;            /* lower-case letters, digits, '_'; unique in its table      */
    const char *def;            /* default as it would stand in the file; NULL: none         */
    int64_t min, max;           /* inclusive; both 0: unbounded                              */
    const char *unit;           /* "bytes", "ms", ...; NULL: none                            */
    const char *help;           /* one sentence with a full stop                             */
    uint32_t flags;             /* STI_OPT_*                                                 */
    uint32_t reserved;          /* 0                                                         */
    uint64_t offset;            /* of the value in the plugin's conf struct                  */
    const char *const *choices; /* STI_OPT_ENUM: NULL-terminated words                       */
    const struct sti_option *const
        *nested;          /* STI_OPT_TABLE: the rows of one group, NULL-terminated     */
    uint64_t nested_size; /* STI_OPT_TABLE: bytes of one filled group                  */
    const char *
        iface; /* STI_OPT_STRING: names an instance, which must provide this
                  interface when somebody gives it; a start without it is refused. NULL: any text */
};

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_OPTION_H */
