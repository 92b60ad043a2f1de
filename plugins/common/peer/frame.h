/* frame.h -- what peers send each other: frames over an ordered, reliable link.
 *
 * All numbers are little-endian. A message of a link is one frame or several, one behind the other.
 *
 *     0  u32  length of the frame, with this
 *     4  u8   kind: 1 hello, 2 call, 3 answer
 *     5  u8   call: length of the service's name, 1 to 63; else 0
 *     6  u8   call: length of the method's name, 1 to 63; else 0
 *     7  u8   0
 *     8  u64  call, answer: number of the call, ascending over the link
 *             hello: the largest payload that the sender takes
 *    16  u32  call: its timeout in ms; hello, answer: a status (signed)
 *    20  u32  hello, answer: length of the sentence, at most 247; call: 0
 *    24       hello: the 48 bytes below; call: service, method
 *             hello, answer: the sentence
 *             call, answer: the payload, up to the frame's end
 *
 *     0  u32  magic "STIP"            a hello opens the link in both directions; its status, in the
 *     4  u16  major of streamit.peer  answer of the side that was dialed, is 0 or a refusal
 *     6  u16  minor
 *     8  i32  node id of the sender
 *    12  i32  node id that the sender expects, -1: any
 *    16  32   cluster id of the sender, zeros behind it
 *
 * Everything that is read is taken for hostile: a frame that is not exactly so is refused, and
 * costs its sender the link.
 */
#ifndef PEER_COMMON_FRAME_H
#define PEER_COMMON_FRAME_H

#include "streamit/peer.h"

enum pco_kind { PCO_HELLO = 1, PCO_CALL = 2, PCO_ANSWER = 3 };

enum {
    PCO_FIXED_BYTES = 24,
    PCO_HELLO_BYTES = 48,
    PCO_CLUSTER_ID_MAX = 32,
    PCO_TEXT_MAX = 247,
    /* The most that stands before a payload. */
    PCO_HEAD_MAX = PCO_FIXED_BYTES + PCO_HELLO_BYTES + PCO_TEXT_MAX
};

struct pco_hello {
    uint16_t major, minor;
    int32_t node_id, wanted_id;
    char cluster_id[PCO_CLUSTER_ID_MAX + 1];
};

struct pco_frame {
    enum pco_kind kind;
    int32_t status;
    uint64_t id;
    uint32_t timeout_ms;
    char service[STI_PEER_NAME_MAX + 1], method[STI_PEER_NAME_MAX + 1];
    char text[PCO_TEXT_MAX + 1];
    struct pco_hello hello;
    uint64_t payload_len;
};

/* Where a reader stands in a message. */
struct pco_cursor {
    const struct sti_slice *slices;
    uint32_t count, index;
    uint64_t pos;  /* within slices[index] */
    uint64_t left; /* bytes of the message behind it */
};

void pco_cursor_init(struct pco_cursor *cursor, const struct sti_slice *slices, uint32_t count);
/* Read the next frame up to its payload. @return STI_OK; STI_E_CORRUPT_BATCH: err says what is
 * wrong. No more than `payload_max` is taken. */
int pco_frame_read(struct pco_cursor *cursor, uint64_t payload_max, struct pco_frame *out,
                   struct sti_err *err);
/* In how many pieces the next `len` bytes, which are there, lie. */
uint32_t pco_cursor_pieces(const struct pco_cursor *cursor, uint64_t len);
/* Pass them, as slices with a reference each where they have an owner. @param out  as many as there
 * are pieces */
void pco_cursor_take(struct pco_cursor *cursor, uint64_t len, struct sti_slice *out);

/* A frame on its way out. Reference counted, as the owner of all slices that point into it. */
struct pco_message {
    struct sti_slice_owner owner; /* first */
    _Atomic unsigned refs;
    struct pco_message *next; /* of a queue */
    uint64_t id;              /* of the call */
    uint64_t len;             /* of the frame */
    uint64_t payload_len;     /* of that */
    uint64_t copied;          /* bytes of payload that had no owner */
    uint32_t slice_count;
    struct sti_slice *slices; /* the first is the head; each with a reference */
};

/* Make a frame: bytes without an owner are copied, the others referenced. @return NULL: no memory
 */
struct pco_message *pco_message_new(const struct pco_frame *frame, const struct sti_slice *payload,
                                    uint32_t payload_count);
/* The number of a call that was not known when its frame was made. */
void pco_message_number(struct pco_message *message, uint64_t id);
/* Drop it with all references that it still has. */
void pco_message_free(struct pco_message *message);
/* Is it a name of a service or method? */
bool pco_name_ok(const char *name);

#endif /* PEER_COMMON_FRAME_H */
