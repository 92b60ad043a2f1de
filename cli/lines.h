/* lines.h -- records from a file: one a line.
 *
 * Bytes are read in large blocks and never changed; a line may hold any byte but the newline that
 * ends it. An empty line is an empty record, and a last line without newline is a record too. A
 * line longer than the limit is an error that names its number, so that a binary file given by
 * mistake cannot fill the memory. A pipe is read as bytes come: a line is handed out as soon as it
 * is whole.
 */
#ifndef STREAMIT_CLI_LINES_H
#define STREAMIT_CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/status.h"

struct lines {
    int fd;
    const char *name; /* for messages */
    uint8_t *buf;
    size_t capacity, begin, end; /* unread bytes are buf[begin..end) */
    size_t scanned;              /* of them so many hold no newline  */
    size_t line_max;
    uint64_t number; /* of the line handed out last, from 1 */
    bool eof;
};

/* Open a file, or standard input for "-". @return STI_OK, STI_E_NOT_FOUND, STI_E_PERMISSION_DENIED,
 * STI_E_IO, STI_E_NO_MEMORY */
int lines_open(struct lines *lines, const char *path, size_t line_max, struct sti_err *err);
/* Hand out the next line, borrowed until the next call.
 * @return STI_OK; STI_E_END; STI_E_WOULD_BLOCK (nothing came for a tenth of a second, or a signal:
 * ask again or stop);
 * STI_E_MESSAGE_TOO_LARGE; STI_E_IO */
int lines_next(struct lines *lines, const uint8_t **line, size_t *len, struct sti_err *err);
void lines_close(struct lines *lines);

#endif /* STREAMIT_CLI_LINES_H */
