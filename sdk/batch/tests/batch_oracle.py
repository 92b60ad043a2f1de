#!/usr/bin/python3
"""kafka-python as an outside judge of the record batches: it reads what we build, and we read what it builds.

    batch_oracle.py PATH_OF_BATCH_TEXT

Exit status 77 (skipped) without kafka-python; a codec that it has no module for is skipped by name.
"""

import random
import subprocess
import sys
import unittest

try:
    import kafka.codec
    from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
    from kafka.record.memory_records import MemoryRecords
except ImportError as missing:
    print(f"skipped: {missing} (Debian: python3-kafka)")
    sys.exit(77)

BATCH_TEXT = ""
BASE_MS = 1_700_000_000_000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
HAVE = {
    "none": lambda: True,
    "gzip": kafka.codec.has_gzip,
    "snappy": kafka.codec.has_snappy,
    "lz4": kafka.codec.has_lz4,
    "zstd": kafka.codec.has_zstd,
}


def random_bytes(rng, longest):
    """Null, empty, or bytes that compress a little."""
    kind = rng.randrange(6)
    if kind == 0:
        return None
    if kind == 1:
        return b""
    return (rng.randbytes(rng.randrange(8)) + b"stream" * 40)[: rng.randrange(1, longest)]


def random_records(seed, count):
    """(timestamp, key, value, [(name, value)]); the 20th value is big."""
    rng = random.Random(seed)
    records = []
    for i in range(count):
        value = rng.randbytes(300_000) if i == 19 else random_bytes(rng, 200)
        headers = [
            (rng.choice(["", "h", "trace", "größe", "名"]), random_bytes(rng, 30))
            for _ in range(rng.choice([0, 0, 0, 1, 2, 5]))
        ]
        records.append((BASE_MS + rng.randrange(-5000, 5000), random_bytes(rng, 30), value, headers))
    return records


def to_text(data):
    return "-" if data is None else "x" + data.hex()


def line(record):
    timestamp, key, value, headers = record
    words = [str(timestamp), to_text(key), to_text(value)]
    words += [f"{to_text(name.encode())}={to_text(content)}" for name, content in headers]
    return " ".join(words)


def run(*args, stdin):
    return subprocess.run([BATCH_TEXT, *args], input=stdin, capture_output=True, timeout=60, check=False)


def ours(codec, records):
    """A batch that our builder made."""
    result = run("build", codec, stdin="".join(line(r) + "\n" for r in records).encode())
    if result.returncode != 0:
        raise AssertionError(result.stderr.decode())
    return result.stdout


def theirs(codec, records):
    """A batch that kafka-python's builder made. It stores what does not shrink uncompressed."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=CODECS.index(codec), is_transactional=0,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 30)
    for offset, (timestamp, key, value, headers) in enumerate(records):
        assert builder.append(offset, timestamp, key, value, headers) is not None
    return bytes(builder.build())


class Oracle(unittest.TestCase):
    def each_codec(self):
        for codec in CODECS:
            with self.subTest(codec=codec):
                if HAVE[codec]():
                    yield codec
                else:
                    print(f"skipped: kafka-python has no module for {codec}")

    def test_it_reads_what_we_build(self):
        for codec in self.each_codec():
            for count in (1, 2, 300):
                records = random_records(count, count)
                data = ours(codec, records)
                self.assertEqual(data[22] & 7, CODECS.index(codec))
                memory = MemoryRecords(data)
                batch = memory.next_batch()
                self.assertIsInstance(batch, DefaultRecordBatch)
                self.assertTrue(batch.validate_crc())
                self.assertEqual(batch.base_offset, 0)
                self.assertEqual(batch.last_offset_delta, count - 1)
                self.assertEqual(batch.max_timestamp, max(r[0] for r in records))
                found = [(r.timestamp, r.key, r.value, r.headers) for r in batch]
                self.assertEqual(found, records)
                self.assertFalse(memory.has_next())

    def test_we_read_what_it_builds(self):
        for codec in self.each_codec():
            for count in (1, 2, 300):
                records = random_records(1000 + count, count)
                data = theirs(codec, records)
                if count == 300:
                    self.assertEqual(data[22] & 7, CODECS.index(codec))
                result = run("read", stdin=data)
                self.assertEqual(result.returncode, 0, result.stderr)
                expected = [f"{offset} {line(r)}" for offset, r in enumerate(records)]
                self.assertEqual(result.stdout.decode().splitlines(), expected)

    def test_uncompressed_batches_are_equal_byte_for_byte(self):
        """But for the leader epoch, outside the checksum: we send -1 as Java does, it sends 0."""
        for count in (1, 40, 300):
            records = random_records(2000 + count, count)
            one, other = ours("none", records), theirs("none", records)
            self.assertEqual(one[12:16], b"\xff\xff\xff\xff")
            self.assertEqual(other[12:16], b"\0\0\0\0")
            self.assertEqual(one[:12] + one[16:], other[:12] + other[16:])

    def test_batches_one_after_the_other(self):
        """As a fetch answers them: it finds each boundary, whatever the codec."""
        codecs = list(self.each_codec())
        memory = MemoryRecords(b"".join(ours(codec, random_records(7, 25)) for codec in codecs))
        for _ in codecs:
            batch = memory.next_batch()
            self.assertTrue(batch.validate_crc())
            self.assertEqual([(r.timestamp, r.key, r.value, r.headers) for r in batch], random_records(7, 25))
        self.assertFalse(memory.has_next())

    def test_we_refuse_what_is_damaged(self):
        data = bytearray(theirs("none", random_records(3, 10)))
        data[-1] ^= 1
        result = run("read", stdin=bytes(data))
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"CRC", result.stderr)


if __name__ == "__main__":
    BATCH_TEXT = sys.argv.pop(1)
    unittest.main()
