/* promtext.h -- a strict reader of Prometheus text 0.0.4. */
#ifndef MPR_TEST_PROMTEXT_H
#define MPR_TEST_PROMTEXT_H

#include <stdbool.h>
#include <stddef.h>

enum { PROM_SAMPLES_MAX = 512, PROM_FAMILIES_MAX = 128 };

struct prom_sample {
    char name[128], labels[256];
    double value;
};

struct prom_family {
    char name[128], type[16], help[256];
};

struct prom_text {
    struct prom_sample samples[PROM_SAMPLES_MAX];
    struct prom_family families[PROM_FAMILIES_MAX];
    size_t sample_count, family_count;
    char error[256]; /* what is wrong with which line */
};

/* Read all of it. False: text->error. Checked: names, labels, escapes, numbers, a line feed at the
 * end; one TYPE for each family, before its samples, which stand together; counters end with _total
 * and are not negative; buckets rise with `le`, end with +Inf and agree with _count. */
bool prom_parse(struct prom_text *text, const char *data, size_t len);
/* The value of a sample; NaN when there is none. labels "" for none. */
double prom_value(const struct prom_text *text, const char *name, const char *labels);
const struct prom_family *prom_family_of(const struct prom_text *text, const char *name);

#endif /* MPR_TEST_PROMTEXT_H */
