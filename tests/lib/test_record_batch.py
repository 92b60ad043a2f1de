#!/usr/bin/python3
"""The oracle judged by vectors from outside: bytes that a Kafka client sent, and the check value of CRC-32C."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import record_batch as rb  # noqa: E402

# One record (key k1, value hello, header h1=v1), as librdkafka puts it on the wire.
GOLDEN = bytes.fromhex("0000000000000000" "00000045" "00000000" "02" "d7024025" "0000" "00000000" "000001a20549b234"
                       "000001a20549b234" "ffffffffffffffff" "ffff" "ffffffff" "00000001"
                       "2600000004" "6b31" "0a" "68656c6c6f" "02" "04" "6831" "04" "7631")


class Oracle(unittest.TestCase):
    def test_crc(self):
        self.assertEqual(rb.crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(rb.crc32c(bytes(32)), 0x8A9136AA)

    def test_golden_vector_both_ways(self):
        batch = rb.decode_one(GOLDEN)
        self.assertEqual(batch.records, [rb.Record(b"hello", b"k1", [(b"h1", b"v1")], 0x1A20549B234, 0)])
        self.assertEqual(rb.encode(batch.records, leader_epoch=0), GOLDEN)

    def test_codecs_both_ways(self):
        for codec in range(5):
            records = [rb.Record(b"v" * i, None, [(b"n", None)], 7 + i, i) for i in range(60)]
            self.assertEqual(rb.decode_all(rb.encode(records, codec=codec))[0].records, records)

    def test_every_flipped_bit_behind_the_crc_is_found(self):
        for pos in range(16, len(GOLDEN)):
            with self.assertRaises(rb.BatchError):
                rb.decode_one(GOLDEN[:pos] + bytes([GOLDEN[pos] ^ 1]) + GOLDEN[pos + 1 :])

    def test_every_cut_is_found(self):
        for end in range(1, len(GOLDEN)):
            with self.assertRaises(rb.BatchError):
                rb.decode_all(GOLDEN[:end])

    def test_varints(self):
        for value in (0, -1, 1, 63, 64, -64, -65, 2**31, -(2**31), 2**63 - 1, -(2**63)):
            data = rb.put_varint(value)
            self.assertEqual(rb.get_varint(data, 0), (value, len(data)))


if __name__ == "__main__":
    unittest.main(verbosity=1)
