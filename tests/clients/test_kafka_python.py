#!/usr/bin/python3
"""kafka-python (Debian's python3-kafka), a judge from outside, reads the segments that a node wrote."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import written  # noqa: E402

try:
    from kafka.record import MemoryRecords
except ImportError as missing:
    MemoryRecords = None
    WHY = str(missing)


class Segments(harness.TestCase):
    @unittest.skipIf(MemoryRecords is None, "python3-kafka is not there")
    def test_every_batch_of_every_segment(self):
        node = self.node()
        node.start()
        records = written.write(node)
        node.kill()
        for partition in range(written.PARTITIONS):
            segments = node.segments("t", partition)
            self.assertGreater(len(segments), 1)
            offset, codecs = 0, set()
            for path in segments:
                self.assertEqual(int(os.path.basename(path)[:20]), offset, "a segment is named after its first offset")
                log = MemoryRecords(harness.read(path))
                self.assertEqual(log.valid_bytes(), log.size_in_bytes(), "nothing but whole batches")
                while log.has_next():
                    batch = log.next_batch()
                    self.assertTrue(batch.validate_crc())
                    self.assertEqual(batch.base_offset, offset)
                    codecs.add(batch.compression_type)
                    for record in batch:
                        expected = records[partition][offset]
                        self.assertEqual(record.offset, offset)
                        self.assertEqual((record.key, record.value, record.timestamp),
                                         (expected.key, expected.value, expected.timestamp))
                        self.assertEqual([(name.encode(), value) for name, value in record.headers], expected.headers)
                        offset += 1
            self.assertEqual(offset, len(records[partition]))
            self.assertEqual(codecs, {0, 1, 2, 3, 4})


if __name__ == "__main__":
    if MemoryRecords is None:
        print(f"skipped: {WHY}", file=sys.stderr)
        sys.exit(77)
    harness.main()
