/* option.h -- option tables: what a table must look like, and how one value gets into a struct.
 *
 * The configuration file and `--set` (config.c) and the defaults all end here, so that a value is
 * judged by the same code wherever it comes from. `where` is the place as it stands in front of an
 * error: `etc/node.cfg:12: plugins.x.port` or `--set plugins.x.port`.
 *
 * Errors are STI_E_CONFIG with a sentence that says what was expected and what was found; values of
 * secret options are left out of it. Memory comes from the pool given. Main thread.
 */
#ifndef STREAMIT_KERNEL_OPTION_H
#define STREAMIT_KERNEL_OPTION_H

#include <apr_pools.h>

#include "streamit/option.h"
#include "streamit/status.h"

enum { KRN_OPTION_DEPTH_MAX = 4 }; /* tables within tables */

/* Is every row of the table sound: size, key, type, place within conf_size, default? The pool is
 * scratch. @return STI_OK, STI_E_PLUGIN_REFUSED (the sentence starts with the option's name) */
int krn_option_check_table(apr_pool_t *scratch, const struct sti_option *const *table,
                           uint64_t conf_size, struct sti_err *err);

/* Store a value given as text (a default, or the right side of --set) in conf. */
int krn_option_store_text(apr_pool_t *pool, const struct sti_option *opt, const char *where,
                          const char *text, void *conf, struct sti_err *err);
/* Store values that the file gave with a type of their own. */
int krn_option_store_int(const struct sti_option *opt, const char *where, int64_t value, void *conf,
                         struct sti_err *err);
int krn_option_store_string(apr_pool_t *pool, const struct sti_option *opt, const char *where,
                            const char *text, void *conf, struct sti_err *err);
int krn_option_store_enum(const struct sti_option *opt, const char *where, const char *word,
                          void *conf, struct sti_err *err);
void krn_option_store_bool(const struct sti_option *opt, bool value, void *conf);
int krn_option_store_strings(const struct sti_option *opt, const char *where,
                             struct sti_option_strings strings, void *conf, struct sti_err *err);
/* A number with an optional K, M or G when the unit is bytes. */
bool krn_option_parse_int(const struct sti_option *opt, const char *text, int64_t *out);

/* Every default of a table into conf; options without one stay zero. */
int krn_option_defaults(apr_pool_t *pool, const struct sti_option *const *table, const char *where,
                        void *conf, struct sti_err *err);

/* Same value in two structs of the same table? */
bool krn_option_equal(const struct sti_option *opt, const void *conf_a, const void *conf_b);
/* Take one value over from another struct of the same table; what it points to is shared. */
void krn_option_copy(const struct sti_option *opt, void *to, const void *from);

/* What a person may expect to write, for messages: "an integer", "a string", ... */
const char *krn_option_type_text(uint32_t type);

/* The word of a NULL-terminated list that `word` was probably meant to be, or NULL. */
const char *krn_option_suggest(const char *word, const char *const *words);
/* The same over the keys of a table. */
const char *krn_option_suggest_key(const char *word, const struct sti_option *const *table);

#endif /* STREAMIT_KERNEL_OPTION_H */
