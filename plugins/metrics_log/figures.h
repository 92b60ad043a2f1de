/* figures.h -- what has changed from one visit of the metrics to the next.
 *
 * Story. Each visit makes a list of figures: counters as what they grew by, gauges as they are,
 * histograms as the growth of count and sum. A counter that did not move is left out, and so is a
 * gauge that is 0 and was. What a counter stood at is kept by name and labels until a visit no
 * longer meets it, for `series_max` of them; those beyond are left out and counted.
 *
 * A counter that is smaller than before (its topic was made anew) has begun at 0: it grew by what
 * it stands at. Histograms whose name ends with _seconds are recorded in microseconds and told in
 * seconds.
 *
 * Threads. One visit at a time, by its owner.
 */
#ifndef MLG_FIGURES_H
#define MLG_FIGURES_H

#include "streamit/plugin.h"

/* The longest name with labels; longer ones are left out, and counted. */
#define MLG_KEY_MAX 380

struct mlg_figure {
    char *key; /* name{labels} */
    double value;
};

struct mlg_known; /* what a series stood at */

struct mlg_figures {
    const char *const *match; /* names are taken that one of these patterns matches */
    size_t match_count, series_max;
    /* of the last visit */
    struct mlg_figure *list;
    size_t count, capacity;
    uint64_t left_out; /* series without a place, or without memory */
    /* between visits */
    struct mlg_known **table;
    size_t known;
    uint64_t visit;
};

/* @return STI_OK, STI_E_NO_MEMORY */
int mlg_figures_init(struct mlg_figures *figures, const char *const *match, size_t match_count,
                     size_t series_max);
void mlg_figures_fini(struct mlg_figures *figures);
/* Visit the node's metrics; the list holds until the next visit. */
void mlg_figures_visit(struct mlg_figures *figures, const struct sti_host *host);

/* Does a pattern, in which '*' stands for anything and '?' for one character, match all of text? */
bool mlg_match(const char *pattern, const char *text);

#endif /* MLG_FIGURES_H */
