#!/usr/bin/python3
"""`streamit bench` against a real node: what it counts, what it refuses, and how it ends when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))

import harness  # noqa: E402


def percentile(histogram, q):
    """The bucket that a fraction of all values does not pass: what the program has to say too."""
    seen = 0
    for _, high, count in histogram["buckets"]:
        seen += count
        if seen >= q * histogram["count"]:
            return min(high, histogram["max"]) / 1000
    return 0


class Bench(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.server = self.node().start()
        self.cli(self.server, "create-topic", "--name", "t", "--partitions", "4")

    def bench(self, kind, *args, **kwargs):
        return self.cli(self.server, "bench", kind, "--topic", "t", "--json", *args, **kwargs)

    def stored(self):
        topic = self.cli(self.server, "describe-topic", "--name", "t", options=["--json"]).json
        return sum(p["high_watermark"] for p in topic["partitions"])

    def test_producers_and_consumers_count_every_record(self):
        made = self.bench("produce", "--producers", "3", "--clients", "2", "--size", "50", "--count", "10001").json
        self.assertEqual((made["records"], made["bytes"], made["errors"]), (10001, 500050, 0))
        self.assertEqual((made["settings"]["producers"], made["settings"]["acks"]), (3, "quorum"))
        self.assertEqual(self.stored(), 10001)
        read = self.bench("consume", "--consumers", "4").json
        self.assertEqual((read["records"], read["bytes"]), (10001, 500050))
        self.assertEqual(self.bench("consume", "--count", "1").json["errors"], 0)

    def test_end_to_end_receives_what_was_acknowledged_behind_the_warm_up(self):
        kept = self.path("histogram.json")
        both = self.bench("end-to-end", "--producers", "2", "--consumers", "2", "--rate", "2000", "--count", "800",
                          "--warm-up-ms", "100", "--histogram", kept).json
        self.assertEqual((both["records"], both["errors"]), (800, 0))
        self.assertEqual(self.stored(), 800 + 200)
        self.assertGreaterEqual(both["seconds"], 0.39)
        with open(kept, encoding="utf-8") as file:
            found = json.load(file)
        for name in ("ack_us", "late_us", "end_to_end_us"):
            self.assertEqual(found[name]["count"], 800)
            self.assertEqual(sum(count for _, _, count in found[name]["buckets"]), 800)
        for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999")):
            self.assertAlmostEqual(both["end_to_end_ms"][name], percentile(found["end_to_end_us"], q), places=6)

    def test_one_at_a_time_waits_for_each(self):
        one = self.bench("latency", "--one-at-a-time", "--count", "50", "--acks", "leader").json
        self.assertEqual(one["records"], 50)
        self.assertAlmostEqual(one["latency_ms"]["p50"] * 50 / 1000, one["seconds"], delta=one["seconds"])

    def test_a_stalled_node_shows_in_every_record_that_was_due(self):
        """Coordinated omission: 1,000/s over a stall of a second must give hundreds of slow records, not one."""
        process = harness.spawn([harness.CLI, "--server", self.server.server, "--json", "bench", "latency", "--topic", "t",
                                 "--rate", "1000", "--duration-s", "3"], stdout=subprocess.PIPE)
        time.sleep(1)
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        self.server.process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
        result = json.loads(out)
        self.assertEqual((process.returncode, result["records"]), (0, 3000))
        self.assertGreater(result["latency_ms"]["max"], 900)
        self.assertGreater(result["latency_ms"]["p95"], 300)  # a closed loop would have a single slow record in 2000

    def test_what_makes_no_sense_is_refused(self):
        for args, words in ((["produce", "--count", "1", "--consumers", "2"], "--consumers means nothing here"),
                            (["consume", "--rate", "5"], "--rate means nothing here"),
                            (["produce"], "--count or --duration-s is missing"),
                            (["latency", "--count", "1"], "--rate or --one-at-a-time is missing"),
                            (["latency", "--count", "1", "--one-at-a-time", "--rate", "1"], "without --rate"),
                            (["end-to-end", "--count", "1", "--size", "7"], "--size: at least 8 bytes"),
                            (["produce", "--count", "0"], "--count: expected"), (["produce", "--acks", "all"], "--acks: ")):
            with self.subTest(args=args):
                self.assertIn(words, self.bench(*args, status=2).err)
        self.assertIn("there is bench produce, bench consume, bench latency, bench end-to-end", self.cli(None, "bench", status=2).err)
        bad = self.bench("produce", "--count", "1", "--histogram", "/nowhere/at/all", status=1)
        self.assertIn("/nowhere/at/all", self.error(bad, "IO"))
        self.assertEqual((bad.out, self.stored()), ("", 0))
        self.error(self.bench("consume", status=1), "INVALID_ARGUMENT")
        self.error(self.bench("end-to-end", "--count", "1", "--consumers", "5", status=1), "INVALID_ARGUMENT")
        missing = self.cli(self.server, "bench", "produce", "--topic", "none", "--count", "1", status=1)
        self.error(missing, "UNKNOWN_TOPIC")

    def test_a_node_that_dies_ends_it_with_an_error(self):
        process = harness.spawn([harness.CLI, "--server", self.server.server, "--timeout-ms", "2000", "bench", "end-to-end",
                                 "--topic", "t", "--rate", "1000", "--duration-s", "60"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)
        time.sleep(0.5)
        self.server.kill()
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"error: ", err)

    def test_an_interrupt_waits_for_what_was_sent_and_reports(self):
        process = harness.spawn([harness.CLI, "--server", self.server.server, "--json", "bench", "produce", "--topic", "t",
                                 "--rate", "1000", "--duration-s", "60"], stdout=subprocess.PIPE)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(json.loads(out)["records"], self.stored())


if __name__ == "__main__":
    harness.main()
