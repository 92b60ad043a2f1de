"""Kafka record batches v2, written from the protocol's documentation alone: the oracle of the tests.

It shares no line with the C code. It builds and reads batches, has its own CRC-32C, and knows the four codecs through
Python's own bindings. Speed is no aim; strictness is: everything that the format fixes is checked while decoding.
"""

import gzip
import struct
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODEC_NAMES = ["none", "gzip", "snappy", "lz4", "zstd"]
HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_LEN = 61
assert HEADER.size == HEADER_LEN


class BatchError(Exception):
    """The bytes are not a valid record batch; the text says where and why."""


def _crc_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C (Castagnoli), bit by bit of the definition; crc32c(b"123456789") is 0xE3069283."""
    crc ^= 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def put_varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    zigzag &= (1 << 64) - 1
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def get_varint(data: bytes, pos: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        if pos >= len(data):
            raise BatchError("a varint is cut")
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), pos
        shift += 7
        if shift > 63:
            raise BatchError("a varint is longer than 10 bytes")


@dataclass
class Record:
    value: Optional[bytes] = None
    key: Optional[bytes] = None
    headers: List[Tuple[bytes, Optional[bytes]]] = field(default_factory=list)
    timestamp: int = 0
    offset: int = 0


@dataclass
class Batch:
    base_offset: int
    leader_epoch: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: List[Record]
    length: int  # bytes of the whole batch

    @property
    def codec(self) -> int:
        return self.attributes & 7

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1


def _compress(codec: int, data: bytes) -> bytes:
    if codec == NONE:
        return data
    if codec == GZIP:
        return gzip.compress(data, mtime=0)
    if codec == SNAPPY:
        import snappy

        # Framed as Kafka's Java clients do: a magic, two versions, then blocks with their length.
        block = snappy.compress(data)
        return b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(block)) + block
    if codec == LZ4:
        import lz4.frame

        return lz4.frame.compress(data)
    if codec == ZSTD:
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    raise BatchError(f"codec {codec} does not exist")


def _inflate(codec: int, data: bytes) -> bytes:
    if codec == NONE:
        return data
    if codec == GZIP:
        return gzip.decompress(data)
    if codec == SNAPPY:
        import snappy

        if not data.startswith(b"\x82SNAPPY\0"):
            return snappy.decompress(data)
        out, pos = b"", 16
        while pos < len(data):
            (size,) = struct.unpack_from(">i", data, pos)
            out += snappy.decompress(data[pos + 4 : pos + 4 + size])
            pos += 4 + size
        return out
    if codec == LZ4:
        import lz4.frame

        return lz4.frame.decompress(data)
    if codec == ZSTD:
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    raise BatchError(f"codec {codec} does not exist")


def _encode_record(record: Record, index: int, base_timestamp: int) -> bytes:
    def blob(data):
        return put_varint(-1) if data is None else put_varint(len(data)) + data

    body = b"\0" + put_varint(record.timestamp - base_timestamp) + put_varint(index)
    body += blob(record.key) + blob(record.value) + put_varint(len(record.headers))
    for name, value in record.headers:
        body += put_varint(len(name)) + name + blob(value)
    return put_varint(len(body)) + body


def encode(records, codec=NONE, base_offset=0, leader_epoch=-1, attributes=0, producer_id=-1, producer_epoch=-1,
           base_sequence=-1, **wrong) -> bytes:
    """One batch. `wrong` overrides a header field by name (record_count, last_offset_delta, magic, crc, length), to
    build the bad ones."""
    records = [r if isinstance(r, Record) else Record(value=r) for r in records]
    base_timestamp = records[0].timestamp if records else 0
    max_timestamp = max((r.timestamp for r in records), default=0)
    payload = _compress(codec, b"".join(_encode_record(r, i, base_timestamp) for i, r in enumerate(records)))
    rest = struct.pack(">hiqqqhii", wrong.get("attributes", attributes | codec),
                       wrong.get("last_offset_delta", len(records) - 1), base_timestamp, max_timestamp, producer_id,
                       producer_epoch, base_sequence, wrong.get("record_count", len(records))) + payload
    length = wrong.get("length", len(rest) + 9)
    crc = wrong.get("crc", crc32c(rest))
    return struct.pack(">qiibI", base_offset, length, leader_epoch, wrong.get("magic", 2), crc) + rest


def _decode_record(data: bytes, pos: int, base_offset: int, base_timestamp: int, index: int):
    length, pos = get_varint(data, pos)
    end = pos + length
    if length < 0 or end > len(data):
        raise BatchError(f"record {index}: length {length} leaves the batch")

    def blob(at):
        size, at = get_varint(data, at)
        if size < -1 or at + max(size, 0) > end:
            raise BatchError(f"record {index}: a field leaves the record")
        return (None, at) if size == -1 else (data[at : at + size], at + size)

    pos += 1  # attributes, unused
    timestamp_delta, pos = get_varint(data, pos)
    offset_delta, pos = get_varint(data, pos)
    key, pos = blob(pos)
    value, pos = blob(pos)
    count, pos = get_varint(data, pos)
    headers = []
    for _ in range(count):
        name, pos = blob(pos)
        header, pos = blob(pos)
        headers.append((name, header))
    if pos != end:
        raise BatchError(f"record {index}: {end - pos} bytes are left over")
    if offset_delta != index:
        raise BatchError(f"record {index}: offset delta {offset_delta}")
    return Record(value, key, headers, base_timestamp + timestamp_delta, base_offset + offset_delta), end


def decode_one(data: bytes, pos: int = 0, records: bool = True) -> Batch:
    """The batch that begins at `pos`. With records=False the payload is checked by its CRC only."""
    if len(data) - pos < HEADER_LEN:
        raise BatchError(f"position {pos}: {len(data) - pos} bytes are no batch header")
    (base_offset, length, epoch, magic, crc, attributes, last_delta, base_timestamp, max_timestamp, producer_id,
     producer_epoch, sequence, count) = HEADER.unpack_from(data, pos)
    end = pos + 12 + length
    if magic != 2:
        raise BatchError(f"position {pos}: magic {magic}")
    if length < 49 or end > len(data):
        raise BatchError(f"position {pos}: length {length} leaves the data")
    found = crc32c(data[pos + 21 : end])
    if found != crc:
        raise BatchError(f"position {pos}: CRC {found:08x}, header says {crc:08x}")
    out = []
    if records:
        body = _inflate(attributes & 7, data[pos + HEADER_LEN : end])
        at = 0
        for index in range(count):
            record, at = _decode_record(body, at, base_offset, base_timestamp, index)
            out.append(record)
        if at != len(body):
            raise BatchError(f"position {pos}: {len(body) - at} bytes after the last record")
    if last_delta != count - 1:
        raise BatchError(f"position {pos}: last offset delta {last_delta} with {count} records")
    return Batch(base_offset, epoch, attributes, last_delta, base_timestamp, max_timestamp, producer_id, producer_epoch,
                 sequence, out, 12 + length)


def decode_all(data: bytes, records: bool = True) -> List[Batch]:
    """All batches of a log file or a fetch: back to back, nothing left over, offsets without a gap."""
    pos, out = 0, []
    while pos < len(data):
        batch = decode_one(data, pos, records)
        if out and batch.base_offset != out[-1].next_offset:
            raise BatchError(f"position {pos}: base offset {batch.base_offset} after {out[-1].next_offset}")
        out.append(batch)
        pos += batch.length
    return out
