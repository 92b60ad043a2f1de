#!/usr/bin/python3
"""Stored data is read again under a running node: damage takes its partition offline for appends, and nothing else."""

import os
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402

RECORDS = 120
BAD = 20


class Scrub(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node(
            sets=("plugins.storage_mmap.scrub_delay_ms=0", "plugins.storage_mmap.scrub_interval_ms=200")
        ).start()
        with grpc_client.Client(self.host) as client:
            client.create("t", config={"segment.bytes": "20000", "flush.policy": "commit"})
            client.create("other", config={"flush.policy": "commit"})
            for number in range(RECORDS):
                self.assertEqual(client.produce("t", 0, [b"%d" % number + b"." * 500]).base_offset, number)
            client.produce("other", 0, [b"fine"])
        self.assertGreater(len(self.host.segments("t", 0)), 2)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.host.http}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()

    def sample(self, name):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name) and "storage_memory" not in line:
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no sample of {name}")

    def passes(self, count):
        """Wait until so many more passes have ended: the first of them may be under way already."""
        until = self.sample("streamit_storage_scrub_passes_total") + count + 1
        end = time.monotonic() + 20
        while self.sample("streamit_storage_scrub_passes_total") < until:
            self.assertLess(time.monotonic(), end, "passes go on")
            time.sleep(0.05)

    def flip(self, path, pos):
        with open(path, "r+b") as file:
            file.seek(pos)
            byte = file.read(1)[0]
            file.seek(pos)
            file.write(bytes([byte ^ 0x10]))

    def damaged(self):
        """All that holds of the partition once record BAD is known to be bad."""
        status, body = self.get("/ready")
        end = time.monotonic() + 20
        while "opening_partitions" in body and time.monotonic() < end:
            time.sleep(0.02)
            status, body = self.get("/ready")
        self.assertEqual(status, 200, "the node serves")
        self.assertIn("1 partitions are offline", body)
        with grpc_client.Client(self.host) as client:
            row = client.fetch("t", 0, BAD)
            self.assertEqual(row.error.code, grpc_client.pb.DATA_LOSS)
            self.assertIn(f"offsets {BAD} to {BAD} are damaged", row.error.message)
            self.assertEqual([r.offset for r in client.read("t", 0, 0, BAD)], list(range(BAD)))
            self.assertEqual([r.offset for r in client.read("t", 0, BAD + 1)], list(range(BAD + 1, RECORDS)))
            refused = client.produce("t", 0, [b"x"])
            self.assertEqual(refused.error.code, grpc_client.pb.DATA_LOSS)
            self.assertIn(f"offsets {BAD} to {BAD}", refused.error.message)
            self.assertGreater(client.produce("other", 0, [b"y"]).base_offset, 0, "other partitions go on")

    def test_a_flipped_bit_under_a_running_node(self):
        self.passes(1)
        self.assertEqual(self.sample("streamit_storage_scrub_damaged_total"), 0)
        self.assertLess(abs(self.sample("streamit_storage_scrub_progress_timestamp_seconds") - time.time()), 10)
        path = self.host.segments("t", 0)[0]
        place = harness.read(path).index(b"%d." % BAD) + 100
        self.flip(path, place)
        line = self.host.wait_log("log_damaged")
        self.assertEqual((line["partition"], line["from_offset"], line["to_offset"]), ("t-0", BAD, BAD + 1))
        self.host.wait_log("partition_offline")
        self.passes(1)
        self.assertEqual(self.sample("streamit_storage_scrub_damaged_total"), 1, "told once")
        self.visible(self.host, "damage was found by the scrub")
        self.damaged()
        self.assertEqual(self.host.stop(), 0)
        self.host.start()
        self.damaged()
        self.assertEqual(self.host.stop(), 0)
        self.flip(path, place)
        self.host.start()
        with grpc_client.Client(self.host) as client:
            self.assertEqual([r.offset for r in client.read("t", 0)], list(range(RECORDS)))
            self.assertEqual(client.produce("t", 0, [b"x"]).base_offset, RECORDS, "the bytes are right again")

    def test_a_bad_index_is_built_anew(self):
        path = self.host.segments("t", 0)[0].replace(".log", ".index")
        self.assertGreater(os.path.getsize(path), 8)
        before = harness.read(path)
        self.flip(path, 3)
        self.host.wait_log("index_damaged")
        self.passes(1)
        self.assertEqual(harness.read(path), before)
        self.assertEqual(self.sample("streamit_storage_scrub_indexes_total"), 1)
        self.visible(self.host, "an index was damaged")
        with grpc_client.Client(self.host) as client:
            self.assertEqual(client.produce("t", 0, [b"x"]).base_offset, RECORDS, "no damage")


if __name__ == "__main__":
    harness.main()
