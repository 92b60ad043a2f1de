#!/usr/bin/python3
"""kill -9 over thousands of partitions that were all written to: the node is ready before they are open, whoever asks for
one is served at once, and what is wrong with one partition stays its own."""

import concurrent.futures
import json
import os
import random
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, pb  # noqa: E402

TOPICS = 1000 if harness.FULL else 40 if harness.SANITIZED else 200
PARTITIONS = 10
RECORDS = 3


def name(i):
    return f"t{i:04d}"


def value(topic, partition, i):
    return f"{topic}-{partition}-{i}".encode()


def ends_of(client, topics):
    """The end offsets of all partitions of some topics, in one call."""
    request = pb.ListOffsetsRequest()
    for topic in topics:
        for partition in range(PARTITIONS):
            request.partitions.add(topic=topic, partition=partition, timestamp_ms=-1)
    rows = client.api.ListOffsets(request, timeout=60).partitions
    return {(r.topic, r.partition): r for r in rows}


class ManyPartitions(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.host = self.node().start()
        with Client(self.host) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: client.create(name(i), PARTITIONS), range(TOPICS)))
            list(pool.map(lambda i: self.fill(client, name(i)), range(TOPICS)))
        self.deleted = name(TOPICS - 3)
        self.ends = {}  # of partitions that got more than the first records

    def test_partitions(self):
        """One set of partitions, since making it takes longest; each part begins with a death."""
        for part in (self.killed_while_they_are_opened, self.served_at_first_touch, self.stopped_before_all_are_open,
                     self.wrong_with_one):
            with self.subTest(part.__name__):
                part()

    def check_all(self, client):
        self.done()
        for first in range(0, TOPICS, 50):
            topics = [name(i) for i in range(first, min(first + 50, TOPICS))]
            for (topic, partition), row in ends_of(client, [t for t in topics if os.path.exists(self.host.partition_dir(t, 0))]).items():
                self.assertEqual((row.HasField("error"), row.offset), (False, self.ends.get((topic, partition), RECORDS)), row)

    def fill(self, client, topic):
        rows = [(topic, p, record_batch.encode([value(topic, p, i) for i in range(RECORDS)])) for p in range(PARTITIONS)]
        for row in client.produce_rows(rows):
            self.assertFalse(row.HasField("error"), row)

    def start(self):
        self.mark = len(self.host.logs())  # lines of earlier lives
        self.host.start()

    def restart_hard(self):
        self.host.kill()
        self.start()

    def check_content(self, client, topic, partition):
        got = [r.value for r in client.read(topic, partition)]
        self.assertEqual(got, [value(topic, partition, i) for i in range(RECORDS)])

    def done(self):
        """What this life said when the last partition was open, or offline."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for line in self.host.logs()[self.mark :]:
                if line["event"] == "recovery_done":
                    return line
            time.sleep(0.02)
        raise AssertionError(f"recovery does not end:\n{self.host.log_text()}")

    def killed_while_they_are_opened(self):
        for _ in range(6):
            self.restart_hard()
            time.sleep(self.rng.random() * 0.1)
        with Client(self.host) as client:
            self.check_all(client)

    def served_at_first_touch(self):
        self.restart_hard()
        with Client(self.host) as client:
            # While most are still being opened: read, ask, describe, write, create, delete.
            for _ in range(30):
                self.check_content(client, name(self.rng.randrange(TOPICS)), self.rng.randrange(PARTITIONS))
            described = client.api.DescribeTopic(pb.DescribeTopicRequest(name=name(TOPICS - 1)), timeout=30).topic
            self.assertEqual([p.log_end for p in described.partitions], [RECORDS] * PARTITIONS)
            self.assertFalse(any(p.HasField("error") for p in described.partitions))
            row = client.produce(name(TOPICS - 2), 0, [b"one more"], acks=pb.ACKS_QUORUM)
            self.assertEqual((row.HasField("error"), row.base_offset), (False, RECORDS))
            self.ends[name(TOPICS - 2), 0] = RECORDS + 1
            client.create("new", 3)
            self.assertEqual(client.produce("new", 2, [b"first"]).base_offset, 0)
            client.api.DeleteTopic(pb.DeleteTopicRequest(name=self.deleted), timeout=30)
            self.assertFalse(os.path.exists(self.host.partition_dir(self.deleted, 0)))
            self.check_all(client)
        done = self.done()
        self.assertEqual((done["partitions"], done["offline"]), (TOPICS * PARTITIONS, 0))
        with urllib.request.urlopen(f"http://{self.host.http}/ready", timeout=10) as answer:
            self.assertNotIn("opening_partitions", answer.read().decode())

    def stopped_before_all_are_open(self):
        for _ in range(2):
            self.restart_hard()
            self.assertEqual(self.host.stop(), 0, "within node.drain_timeout_ms")
            self.start()
            with Client(self.host) as client:
                self.check_content(client, name(self.rng.randrange(20)), self.rng.randrange(PARTITIONS))

    def wrong_with_one(self):
        with Client(self.host) as client:
            for _ in range(4):
                client.produce(name(3), 3, [b"more"])
        self.host.kill()
        torn = self.host.segments(name(1), 1)[-1]
        with open(torn, "ab") as file:
            file.write(harness.read(torn)[:40])
        damaged = self.host.segments(name(3), 3)[-1]
        data = bytearray(harness.read(damaged))
        data[-1] ^= 1  # of the last one, and ...
        data[len(data) // 2] ^= 1  # ... of one with sound ones before and behind
        with open(damaged, "wb") as file:
            file.write(data)
        gone = self.host.partition_dir(name(5), 5)
        os.rename(gone, gone + ".away")
        self.start()
        with Client(self.host) as client:
            self.assertEqual(client.end(name(1), 1), RECORDS)
            code = client.produce(name(3), 3, [b"x"]).error.code
            self.assertEqual(pb.ErrorCode.Name(code), "DATA_LOSS")
            code = client.produce(name(5), 5, [b"x"]).error.code
            self.assertEqual(pb.ErrorCode.Name(code), "DATA_LOSS")
            self.assertEqual(client.produce(name(5), 6, [b"x"]).base_offset, RECORDS)
            self.done()
        self.assertEqual(self.done()["offline"], 2)
        self.assertGreaterEqual(self.done()["cut_bytes"], 40)
        with urllib.request.urlopen(f"http://{self.host.http}/ready", timeout=10) as answer:
            conditions = {c["condition"]: c["detail"] for c in json.load(answer)["conditions"]}
        self.assertTrue(conditions["offline_partitions"].startswith("2 "), conditions)


if __name__ == "__main__":
    harness.main()
