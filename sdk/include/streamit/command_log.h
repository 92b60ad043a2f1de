/* streamit/command_log.h -- the files of the embedded metadata engine: a log of commands, and
 * snapshots. Implemented by libstreamit-batch.
 *
 * `log-<20 digits>` begins with a header and goes on with frames, each at a multiple of 512 bytes.
 * A frame is what one sync made durable: one command, or several that waited together. The next
 * frame is written only after the one before it was synced, so only the last frame of the last file
 * can ever be unfinished; and no sector that holds a synced frame is written again.
 *
 *   header   0  8  "STIMDLOG"               frame    0  4  length of the frame, without padding
 *            8  4  format version (1)                4  4  count of commands
 *           12  4  header length (512)               8  8  index of the first command
 *           16  8  base: index before the first     16  4  CRC-32C of the payload
 *           24 36  zero                             20  4  CRC-32C of bytes 0-19
 *           60  4  CRC-32C of bytes 0-59            24  4  mark "STIF"
 *           64 ..  zero                             28 ..  payload: { length u32, command } x count
 *                                                   .. 1   end mark 0xA5
 *                                                   .. ..  zeros to the next multiple of 512
 *
 * Both marks come last in what they close and are not zero, so that a write that stopped early, or
 * a sector that never arrived, shows as zeros or as the end of the file. That is how an unfinished
 * tail is told from a whole frame with a flipped bit:
 *
 *   - a bad frame with a sound frame behind it is damage;
 *   - a bad frame whose last byte, or any whole sector of it, is zero or missing is a tail (of a
 *     frame without a sound header only the header is looked at);
 *   - any other bad frame is damage.
 *
 * `snapshot-<20 digits>` is the whole state after a command; under its name it is whole or damaged:
 *
 *    0  8  "STIMDSNP"                       24  8  payload length; the file ends with it
 *    8  4  format version (1)               32  4  CRC-32C of the payload
 *   12  4  header length (64)               36 24  zero
 *   16  8  index of the last command in it  60  4  CRC-32C of bytes 0-59
 *                                           64 ..  payload
 *
 * All integers are big-endian. Nothing here does I/O, allocates or keeps state.
 */
#ifndef STREAMIT_COMMAND_LOG_H
#define STREAMIT_COMMAND_LOG_H

#include "streamit/record_batch.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STI_COMMAND_SECTOR            512u
#define STI_COMMAND_LOG_HEADER_LEN    STI_COMMAND_SECTOR
#define STI_COMMAND_FRAME_HEAD_LEN    28u
#define STI_COMMAND_FRAME_OVERHEAD    29u /* head and end mark */
#define STI_COMMAND_OVERHEAD          4u  /* the length in front of each command */
#define STI_COMMAND_FRAME_LEN_MAX     (4u * 1024u * 1024u)
#define STI_COMMAND_COUNT_MAX         256u
#define STI_COMMAND_SNAPSHOT_HEAD_LEN 64u
#define STI_COMMAND_VERSION           1u

struct sti_command_frame {
    uint32_t len, count, payload_crc, reserved;
    uint64_t first; /* index of its first command */
};

enum sti_command_frame_state {
    STI_FRAME_SOUND = 0,
    STI_FRAME_NONE = 1, /* zeros, or the end of the file */
    STI_FRAME_TAIL = 2, /* a part of it never arrived */
    STI_FRAME_BAD = 3   /* it arrived, and is wrong */
};

struct sti_command_snapshot {
    uint64_t index, payload_len;
    uint32_t payload_crc, reserved;
};

STI_API void sti_command_log_header_put(uint8_t out[STI_COMMAND_LOG_HEADER_LEN], uint64_t base);
/* @param pos  where it stops making sense
 * @return STI_OK, STI_E_DATA_LOSS, STI_E_UNSUPPORTED (format version); the message says why,
 * without file or position */
STI_API int sti_command_log_header_get(const uint8_t *data, size_t len, uint64_t *base, size_t *pos,
                                       struct sti_err *err);

/* Write head and end mark around the payload, which stands at out + STI_COMMAND_FRAME_HEAD_LEN;
 * `len` is that of the frame. What stands between it and the next sector is not touched. */
STI_API void sti_command_frame_seal(uint8_t *out, uint32_t len, uint32_t count, uint64_t first);
/* Judge the beginning of a frame by its first sector, of which `got` bytes are there. SOUND: its
 * length may be relied on. @return enum sti_command_frame_state */
STI_API int sti_command_frame_head(const uint8_t *data, size_t got, struct sti_command_frame *out);
/* Judge a frame whose head is sound by its whole bytes, of which `got` are there.
 * @return enum sti_command_frame_state, never NONE */
STI_API int sti_command_frame_judge(const uint8_t *data, size_t got,
                                    const struct sti_command_frame *frame);
/* Take the next command of a sound frame. Begin with *at = 0.
 * @return STI_OK with the bytes borrowed; STI_E_END after the last; STI_E_DATA_LOSS (a command
 * exceeds its frame, or bytes are left over) */
STI_API int sti_command_next(const uint8_t *data, const struct sti_command_frame *frame,
                             uint32_t *taken, size_t *at, const uint8_t **command, size_t *len);

STI_API void sti_command_snapshot_put(uint8_t out[STI_COMMAND_SNAPSHOT_HEAD_LEN],
                                      const struct sti_command_snapshot *snapshot);
/* @return as sti_command_log_header_get */
STI_API int sti_command_snapshot_get(const uint8_t *data, size_t len,
                                     struct sti_command_snapshot *out, size_t *pos,
                                     struct sti_err *err);

/* What a file of the folder is by its name: 'l' a log, 's' a snapshot, with its index; 0: neither.
 */
STI_API int sti_command_file_kind(const char *name, uint64_t *index);

#ifdef __cplusplus
}
#endif
#endif /* STREAMIT_COMMAND_LOG_H */
