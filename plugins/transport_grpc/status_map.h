/* status_map.h -- public status codes as gRPC statuses and Error messages: the only such table. */
#ifndef TRANSPORT_GRPC_STATUS_MAP_H
#define TRANSPORT_GRPC_STATUS_MAP_H

#include <grpc/status.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "streamit/status.h"
#include "streamit/v1/streamit.pb-c.h"

enum { TGR_RETRY_AFTER_MS = 100 }; /* where nobody says better */

#define TGR_STATUS_NUMBER_MAX 44 /* the highest number of STI_STATUS_LIST; a test compares */

/* The gRPC status of a code (negative or positive). Codes whose outcome is unknown never become
 * UNAVAILABLE, which gRPC libraries repeat by themselves. Unknown codes become UNKNOWN. */
grpc_status_code tgr_grpc_status(int code);

/* An Error for `code`, in the arena; its message is that of `err` when it speaks of the same code,
 * else the code's text. Traits come from `err` in that case too. NULL when memory ran out. */
Streamit__V1__Error *tgr_error_new(struct tgr_arena *arena, int code, const struct sti_err *err);

/* When to try again. With THROTTLED and UNAVAILABLE an Error says it in any case: 0 leaves what it
 * has from the beginning. NULL is ignored. */
void tgr_error_retry(Streamit__V1__Error *error, uint32_t retry_after_ms);

/* Write "CODE: sentence" to out, always terminated. */
void tgr_error_text(char *out, size_t out_max, int code, const struct sti_err *err);

#endif /* TRANSPORT_GRPC_STATUS_MAP_H */
