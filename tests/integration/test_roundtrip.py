#!/usr/bin/python3
"""A record's way from the command line to disk and back: byte for byte, for keys, codecs and partitions."""

import collections
import random
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402

LINES = 20000


class Roundtrip(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.lines = harness.text_lines(self.rng, LINES)
        self.file = self.path("input.txt")
        with open(self.file, "wb") as file:
            file.write(b"".join(line + b"\n" for line in self.lines))
        self.host = self.node().start()

    def create(self, topic, *more):
        self.cli(self.host, "create-topic", "--name", topic, *more)

    def consume(self, topic, *more):
        return self.cli(self.host, "consume", "--topic", topic, "--from", "beginning", "--until-end", *more).out_bytes

    def test_lines_come_back_byte_for_byte_also_after_kill(self):
        self.create("t")
        done = self.cli(self.host, "produce", "--topic", "t", "--file", self.file)
        self.assertEqual(done.summary()["records"], LINES)
        self.assertEqual(done.summary()["bytes"], sum(map(len, self.lines)))
        self.assertEqual(done.summary()["errors"], 0)
        wanted = harness.read(self.file)
        self.assertEqual(self.consume("t"), wanted)
        self.host.kill()
        self.host.start()
        self.assertEqual(self.consume("t"), wanted)
        self.assertEqual(self.host.stop(), 0)
        self.host.start()
        self.assertEqual(self.consume("t"), wanted)

    def test_standard_input_with_empty_lines_and_no_last_newline(self):
        self.create("t")
        for extra in ([], ["--file", "-"]):
            self.cli(self.host, "produce", "--topic", "t", *extra, data=b"one\n\n\nfour\nlast")
        self.assertEqual(self.consume("t"), b"one\n\n\nfour\nlast\n" * 2)

    def test_empty_input_appends_nothing(self):
        self.create("t")
        done = self.cli(self.host, "produce", "--topic", "t", data=b"")
        self.assertEqual(done.summary()["records"], 0)
        self.assertEqual(self.consume("t"), b"")

    def test_lines_of_every_length_around_the_varint_steps(self):
        self.create("t")
        lines = [bytes([65 + n % 26]) * n for n in (0, 1, 62, 63, 64, 65, 127, 128, 8191, 8192, 8193, 100000, 1000000)]
        self.cli(self.host, "produce", "--topic", "t", data=b"\n".join(lines) + b"\n")
        self.assertEqual(self.consume("t").split(b"\n")[:-1], lines)

    def test_each_codec_on_the_wire_and_on_disk(self):
        for number, codec in enumerate(record_batch.CODEC_NAMES):
            with self.subTest(codec=codec):
                self.create(codec)
                self.cli(self.host, "produce", "--topic", codec, "--compression", codec, "--file", self.file)
                self.assertEqual(self.consume(codec), harness.read(self.file))
                # The files are judged by the oracle, which shares no code with them.
                data = b"".join(harness.read(s) for s in self.host.segments(codec, 0))
                batches = record_batch.decode_all(data)
                self.assertEqual({b.codec for b in batches}, {number})
                self.assertEqual([r.value for b in batches for r in b.records], self.lines)

    def test_keys(self):
        self.create("t")
        pairs = [(b"k%d" % self.rng.randrange(100), line.replace(b"=", b"_")) for line in self.lines[:2000]]
        pairs += [(b"", b"empty key"), (b"a", b"b=c=d")]
        self.cli(self.host, "produce", "--topic", "t", "--key-separator", "=",
                 data=b"".join(k + b"=" + v + b"\n" for k, v in pairs))
        self.assertEqual(self.consume("t", "--format", "%k=%v"), b"".join(k + b"=" + v + b"\n" for k, v in pairs))
        data = b"".join(harness.read(s) for s in self.host.segments("t", 0))
        self.assertEqual([(r.key, r.value) for b in record_batch.decode_all(data) for r in b.records], pairs)

    def test_six_partitions_keep_the_order_of_each(self):
        self.create("t", "--partitions", "6")
        keyed = [(b"key-%d" % self.rng.randrange(500), b"%d" % n) for n in range(LINES)]
        self.cli(self.host, "produce", "--topic", "t", "--key-separator", ":",
                 data=b"".join(k + b":" + v + b"\n" for k, v in keyed))
        partition_of, by_partition, seen = {}, collections.defaultdict(list), []
        for line in self.consume("t", "--format", "%p %o %k %v").splitlines():
            partition, offset, key, value = line.split(b" ")
            by_partition[int(partition)].append((int(offset), int(value)))
            self.assertEqual(partition_of.setdefault(key, partition), partition, "a key has one partition")
            seen.append((key, value))
        self.assertEqual(sorted(seen), sorted(keyed))
        self.assertEqual(set(by_partition), set(range(6)))
        for rows in by_partition.values():
            self.assertEqual([offset for offset, _ in rows], list(range(len(rows))), "offsets are dense")
            self.assertEqual([value for _, value in rows], sorted(value for _, value in rows), "order is kept")

    def test_keys_go_where_kafka_clients_put_them(self):
        """murmur2 of the key, sign bit off, modulo partitions: as Kafka's clients do (values from their documentation)."""
        self.create("t", "--partitions", "1000")
        known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
        self.cli(self.host, "produce", "--topic", "t", "--key-separator", ":", data=b"".join(k + b":v\n" for k in known))
        got = dict(line.split(b" ") for line in self.consume("t", "--format", "%k %p").splitlines())
        self.assertEqual(got, {k: b"%d" % ((h & 0x7FFFFFFF) % 1000) for k, h in known.items()})

    def test_one_partition_on_request_and_parallel_consumers(self):
        self.create("t", "--partitions", "3")
        for partition in range(3):
            self.cli(self.host, "produce", "--topic", "t", "--partition", partition, data=b"to %d\n" % partition)
        self.assertEqual(self.consume("t", "--partition", "1"), b"to 1\n")
        self.assertEqual(sorted(self.consume("t").splitlines()), [b"to 0", b"to 1", b"to 2"])

    def test_many_segments(self):
        self.create("t", "--config", "segment.bytes=1048576")
        self.cli(self.host, "produce", "--topic", "t", "--file", self.file, "--batch-bytes", "16384")
        self.cli(self.host, "produce", "--topic", "t", "--file", self.file, "--batch-bytes", "16384")
        segments = self.host.segments("t", 0)
        self.assertGreater(len(segments), 1)
        offset = 0
        for segment in segments:
            self.assertEqual(os.path.basename(segment), f"{offset:020d}.log")
            batches = record_batch.decode_all(harness.read(segment), records=False)
            self.assertEqual(batches[0].base_offset, offset)
            self.assertLessEqual(os.path.getsize(segment), 1048576)
            offset = batches[-1].next_offset
        self.assertEqual(offset, 2 * LINES)
        wanted = harness.read(self.file) * 2
        self.assertEqual(self.consume("t"), wanted)
        self.host.kill()
        self.host.start()
        self.assertEqual(self.consume("t"), wanted)
        half = self.cli(self.host, "consume", "--topic", "t", "--from", LINES, "--until-end").out_bytes
        self.assertEqual(half, wanted[len(wanted) // 2 :])


if __name__ == "__main__":
    harness.main()
