/* pages.h -- what each address of the HTTP server answers, without any HTTP library. */
#ifndef MPR_PAGES_H
#define MPR_PAGES_H

#include "streamit/plugin.h"
#include "text.h"

struct mpr_page {
    unsigned status; /* of HTTP */
    const char *content_type;
    const char *allow; /* of a 405, else NULL */
    struct mpr_text body;
};

/* Answer `method` on `path` (without query). The caller ends page->body with mpr_text_fini or takes
 * its data. A body for which memory ran out becomes a 500 with an empty body. Any thread. */
void mpr_page_make(struct mpr_page *page, const struct sti_host *host, const char *method,
                   const char *path);

#endif /* MPR_PAGES_H */
