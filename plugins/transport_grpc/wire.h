/* wire.h -- reading the protobuf wire format with every length checked.
 *
 * Two readers. `struct tgr_reader` walks a message that lies scattered over spans of memory, copies
 * small fields together and hands large ones out as sub-ranges of the spans; Produce uses it, so
 * that a batch is never copied. tgr_wire_check() walks a whole message in one piece by its
 * descriptor before protobuf-c may unpack it: it bounds how much memory unpacking can take, and
 * refuses what protobuf-c accepts in silence (strings with a zero byte, invalid UTF-8).
 *
 *     field: key varint (number << 3 | type) | value
 *     type 0 varint | 1 eight bytes | 2 length varint, bytes | 5 four bytes | 3, 4 groups: refused
 *
 * Nothing here allocates, keeps state between calls or depends on gRPC.
 */
#ifndef TRANSPORT_GRPC_WIRE_H
#define TRANSPORT_GRPC_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "streamit/slice.h"
#include "streamit/status.h"

enum tgr_wire_type {
    TGR_WIRE_VARINT = 0,
    TGR_WIRE_FIXED64 = 1,
    TGR_WIRE_BYTES = 2,
    TGR_WIRE_FIXED32 = 5
};

/* A position in a scattered message. `pos` counts bytes from the start of the message; every read
 * takes the end that it must not pass, as such a count. A failed read leaves the reader anywhere;
 * the message is then dropped. */
struct tgr_reader {
    const struct sti_slice *spans;
    size_t count;   /* spans */
    size_t index;   /* subscript of the current span */
    uint64_t inner; /* bytes consumed of the current span */
    uint64_t pos;
};

void tgr_reader_init(struct tgr_reader *reader, const struct sti_slice *spans, size_t count);
bool tgr_read_varint(struct tgr_reader *reader, uint64_t end, uint64_t *out);
/* A field's key; false also for number 0, numbers over 2^29 - 1 and groups. */
bool tgr_read_key(struct tgr_reader *reader, uint64_t end, uint32_t *number, uint32_t *type);
/* The length of a TGR_WIRE_BYTES field; false when it passes `end`. */
bool tgr_read_len(struct tgr_reader *reader, uint64_t end, uint64_t *len);
/* Copy `len` bytes to `out`, or skip them when out is NULL. */
bool tgr_read_bytes(struct tgr_reader *reader, uint64_t end, uint64_t len, void *out);
/* Append the next `len` bytes as borrowed slices of the spans, at most `out_max`. */
bool tgr_read_slices(struct tgr_reader *reader, uint64_t end, uint64_t len, struct sti_slice *out,
                     size_t out_max, size_t *out_count);
/* Step over a field of any type. */
bool tgr_skip_field(struct tgr_reader *reader, uint64_t end, uint32_t type);

/* Bytes that `value` takes as a varint, 1..10. */
size_t tgr_varint_len(uint64_t value);
/* Write a varint. @return bytes written */
size_t tgr_varint_put(uint8_t *out, uint64_t value);

/* Valid UTF-8 without a zero byte? */
bool tgr_text_valid(const uint8_t *data, size_t len);

/* Is `data` a message of that type, with at most `fields_max` fields in it and its sub-messages?
 * Fields that the descriptor does not know are stepped over.
 * @return STI_OK, STI_E_INVALID_ARGUMENT with the message's name and the reason */
int tgr_wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
                   size_t fields_max, struct sti_err *err);

#endif /* TRANSPORT_GRPC_WIRE_H */
