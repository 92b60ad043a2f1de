#!/usr/bin/python3
"""The benchmark's own test: its arithmetic, its limit programs with small numbers, and, with --round, one quick round."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, BENCH)

import measure  # noqa: E402
import peers  # noqa: E402
import rows  # noqa: E402
import run  # noqa: E402
import storage  # noqa: E402
import table  # noqa: E402

MIB = 1 << 20
FACTS = [("machine", "any")]
RUN = [os.path.join(BENCH, "run.py"), measure.harness.BUILD]


class Everything(dict):
    """Values of a round in which every name has the same figure, less those that are given."""

    def __init__(self, number, **given):
        super().__init__(given)
        self.number = float(number)

    def __missing__(self, key):
        return self.number

    def __contains__(self, key):
        return True


def round_figures(rounds, title):
    return [table.Figure(row, rounds) for row in rows.ROWS if row.title == title]


class Arithmetic(unittest.TestCase):
    def rounds(self, **given):
        return [Everything(n, **given) for n in (1, 5, 3)]

    def test_numbers_have_three_digits(self):
        self.assertEqual([table.number(n) for n in (0.0125, 0.125, 12.34, 123.4, 1234567)],
                         ["0.013", "0.12", "12.3", "123", "1,234,567"])
        self.assertEqual(table.shown(100.44, "%"), "100.4")

    def test_a_target_is_met_on_its_own_side(self):
        self.assertTrue(table.meets(5, (">=", 5)))
        self.assertFalse(table.meets(4.9, (">=", 5)))
        self.assertTrue(table.meets(5, ("<=", 5)))
        self.assertFalse(table.meets(5.1, ("<=", 5)))

    def test_medians_and_spread(self):
        self.assertEqual(table.median(self.rounds(), "any"), 3)
        self.assertEqual(table.spread(self.rounds(), "any"), "1.00 .. 5.00")

    def test_shares_and_ratios_are_taken_round_by_round(self):
        rounds = [Everything(n, large_sink=limit) for n, limit in ((1, 2.0), (5, 10.0), (3, 6.1))]
        (figure,) = round_figures(rounds, "produce 1 KB, of the wire")
        self.assertEqual((figure.median, figure.met), (50.0, True))
        self.assertEqual(table.lines([figure], {})[0][5:], ["raw TCP sink, MB/s", "6.10", ""])
        (figure,) = round_figures(rounds, "produce 1 KB")
        self.assertEqual(figure.cells()[3:], [">= 1,000", "MISSED, 0.00 of it"])

    def test_a_goal_that_moves_is_held_against_its_own_round(self):
        rounds = [{"one_onroll_p50": p50, "one_onroll_call": call} for p50, call in ((0.1, 0.06), (0.5, 0.46), (0.2, 0.1))]
        (figure,) = round_figures(rounds, "one at a time, onroll, p50")
        self.assertTrue(figure.met)
        self.assertEqual(figure.cells()[3], "<= null call + 0.04 = 0.14")
        rounds[0]["one_onroll_p50"] = rounds[1]["one_onroll_p50"] = 0.6
        (figure,) = round_figures(rounds, "one at a time, onroll, p50")
        self.assertEqual(figure.cells()[4], "MISSED, 1.43 of it")

    def test_what_a_round_lacks_is_left_out_and_a_peer_that_is_not_there_says_why(self):
        rounds = [{"large_mb": 2000.0, "large_roll": 4000.0}, {"other": 1.0}]
        (figure,) = round_figures(rounds, "produce 1 KB")
        self.assertEqual(figure.values, [2000.0])
        found = {line[5]: line[6:] for line in table.lines([figure], {"large_redis": "no redis-tools here"})}
        self.assertEqual(found["write and sync on roll"], ["4,000", "0.50"])
        self.assertEqual(found["Redis stream"], ["skipped: no redis-tools here", ""])

    def test_a_row_that_was_not_measured_is_no_row_that_was_met(self):
        (figure,) = round_figures([{}], "produce 100 B")
        self.assertEqual(figure.cells()[1], "not measured")
        self.assertEqual(figure.cells()[4], "NO")

    def test_the_document_has_every_row(self):
        bench = rows.Bench(".", rows.Plan(True))
        groups = [name for name, _, _ in rows.GROUPS]
        text = run.Report(self.rounds(), groups, FACTS, bench).document()
        for row in rows.ROWS:
            self.assertIn(f"| {row.title} |", text)
        for line in text.splitlines():
            self.assertEqual(line.startswith("|"), line.endswith("|"), line)

    def test_every_row_and_every_group_know_each_other(self):
        groups = {name for name, _, _ in rows.GROUPS}
        self.assertEqual({row.group for row in rows.ROWS} | {"core"}, groups)
        self.assertLessEqual({group for _, _, group in rows.CORES}, groups)

    def test_histograms_merge_as_the_program_merges_them(self):
        fast = {"count": 9980, "max": 100, "buckets": [[100, 101, 9980]]}
        slow = {"count": 20, "max": 50000, "buckets": [[100, 101, 5], [49152, 50175, 15]]}
        whole = measure.merge([fast, slow])
        self.assertEqual((whole["count"], whole["max"], whole["buckets"]), (10000, 50000, [[100, 101, 9985], [49152, 50175, 15]]))
        self.assertEqual([measure.percentile_ms(whole, q) for q in (0.5, 0.99, 0.999)], [0.101, 0.101, 50.0])

    def test_a_disk_that_is_too_small_is_refused_before(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(measure.Failure) as caught:
            measure.need_disk(folder, 1e18)
        self.assertIn("GB free", str(caught.exception))


class Storage(unittest.TestCase):
    def rounds(self):
        names = {row[1] for row in storage.ROWS} | {row[4][0] for row in storage.ROWS if row[4] is not None}
        return [dict.fromkeys(names, float(n)) for n in (1, 5, 3)]

    def test_targets_are_held_against_the_limit_of_the_same_round(self):
        rounds = self.rounds()
        for one, bare in zip(rounds, (2.0, 10.0, 6.0)):
            one["append_bare_mb"] = bare
            one["commit1_bare_us"] = one["commit1_us"] - 61
        found, missed = storage.figures(rounds)
        by_title = {row[0]: row for row in found}
        self.assertEqual(by_title["append 1 MiB batches"][4:], ["6.00", "0.50", ">= 0.85 of it", "NO"])
        self.assertEqual(by_title["commit, 1 KiB alone, median"][5:], ["+61 us", "<= it + 60 us", "NO"])
        self.assertEqual(by_title["commit, 16 waiters"][5:], ["1.00", ">= 0.80 of it", "yes"])
        self.assertIn("idle partitions: maps", missed)
        self.assertNotIn("open of 5,000 segments", missed)

    def test_a_section_replaces_its_own_and_nothing_else(self):
        first = storage.section(self.rounds(), FACTS)
        text = storage.put("# Benchmarks\n\nours\n", first)
        self.assertTrue(text.startswith("# Benchmarks\n\nours\n\n" + storage.BEGIN))
        other = "<!-- another -->\nkept\n"
        again = storage.put(text + "\n" + other, first.replace("append", "APPEND"))
        self.assertEqual(again.count(storage.BEGIN), 1)
        self.assertIn("APPEND", again)
        self.assertTrue(again.endswith("\n" + other))
        self.assertEqual(run.others_sections(again), "\n" + again[again.index(storage.BEGIN):])
        self.assertEqual(run.others_sections("# Benchmarks\n"), "")


class Limits(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = os.path.join(self.folder, "data")
        with open(self.file, "wb") as file:
            file.write(os.urandom(3 * MIB + 5))

    def test_the_wire_moves_every_byte_in_each_direction(self):
        for args in (("sink", 5 * MIB + 1, MIB), ("sink", 5 * MIB + 1, MIB, 4), ("source", 5 * MIB + 1, MIB, 4),
                     ("sendfile", 5 * MIB + 1, MIB, 4, self.file)):
            with self.subTest(args=args):
                got = measure.raw("raw_tcp", *args)
                self.assertEqual(got["bytes"], 6 * MIB)
                self.assertGreater(got["mb_per_s"], 0)
        self.assertGreater(measure.raw("raw_tcp", "sink", 1600, 16)["round_trips_per_s"], 0)
        self.assertGreater(measure.raw("raw_cpu", 100)["crc32c_mb_per_s"], 0)

    def test_files_are_written_and_none_stays(self):
        os.unlink(self.file)
        self.assertEqual(measure.raw("raw_write", self.folder, 3 * MIB)["bytes"], 3 * MIB)
        self.assertEqual(measure.raw("raw_write", self.folder, 5 * MIB, 2 * MIB)["bytes"], 5 * MIB)
        sync = measure.raw("raw_disk", "sync", self.folder, 20, 1024)
        self.assertGreaterEqual(sync["write_sync_p50_us"], sync["sync_p50_us"])
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_cold_read_reads_all_of_it_and_says_what_was_cached(self):
        got = measure.raw("raw_disk", "read", self.file, self.file)
        self.assertEqual(got["bytes"], 2 * (3 * MIB + 5))
        self.assertEqual(measure.raw("raw_disk", "drop", self.file)["bytes"], 3 * MIB + 5)

    def test_zstd_of_a_log_that_is_none_is_refused(self):
        ended = subprocess.run([os.path.join(measure.harness.BUILD, "bench", "raw_zstd"), self.file], capture_output=True, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertIn(b"position 0: no whole batch", ended.stderr)

    def test_wrong_usage_is_refused(self):
        for args in (["raw_tcp", "sink", "0", "1"], ["raw_tcp", "sink", "x", "1"], ["raw_tcp", "sink", "1"], ["raw_write", "."],
                     ["raw_tcp", "sendfile", "1", "1", "1"], ["raw_tcp", "flood", "1", "1"], ["raw_cpu", "-1"],
                     ["raw_call", "localhost:1", "t"], ["raw_disk", "read"], ["raw_disk", "sync", ".", "1"], ["raw_zstd"],
                     ["raw_nats", "1", "2", "3"], ["raw_grpc", "1"], ["fill", "localhost:1", "1", "1", "remove"]):
            ended = subprocess.run([os.path.join(measure.harness.BUILD, "bench", args[0]), *args[1:]], capture_output=True,
                                   stdin=subprocess.DEVNULL, timeout=20, check=False)
            self.assertEqual(ended.returncode, 2, args)
            self.assertIn(b"usage: ", ended.stderr)

    def test_a_missing_folder_is_named(self):
        with self.assertRaises(measure.Failure) as caught:
            measure.raw("raw_write", "/nowhere/at/all", MIB)
        self.assertIn("/nowhere/at/all", str(caught.exception))

    def test_peers_that_are_not_there_are_skipped_with_the_reason(self):
        with mock.patch.object(shutil, "which", return_value=None), self.assertRaises(measure.Skipped) as caught:
            peers.redis_server(self.folder)
        self.assertIn("redis-tools", str(caught.exception))
        with mock.patch.object(shutil, "which", return_value=None), self.assertRaises(measure.Skipped) as caught:
            with peers.nats(self.folder):
                pass
        self.assertIn("nats-server", str(caught.exception))
        with mock.patch.dict(os.environ, {"STREAMIT_KAFKA_LIB": ""}), self.assertRaises(measure.Skipped) as caught:
            peers.kafka_classes()
        self.assertIn("STREAMIT_KAFKA_LIB", str(caught.exception))

    def test_unknown_rows_are_refused(self):
        ended = subprocess.run([*RUN, "--rows", "nothing"], capture_output=True, text=True, timeout=20, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertIn("no group 'nothing'; there are core, ", ended.stderr)


class Whole(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def start(self, *args):
        return measure.harness.spawn([*RUN, "--quick", "--dir", self.folder, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     text=True)

    def left(self):
        """Programs that work in our folder."""
        out = subprocess.run(["pgrep", "-f", self.folder], capture_output=True, text=True, check=False).stdout.split()
        return [pid for pid in out if int(pid) != os.getpid()]

    def test_a_quick_round(self):
        values = os.path.join(self.folder, "values.json")
        process = self.start("--json", values)
        out, err = process.communicate(timeout=200)
        self.assertEqual(process.returncode, 0, err)
        for row in rows.ROWS:
            self.assertIn(f"\n{row.title} ", out)
        self.assertIn("no figure here means anything", out)
        with open(values, encoding="utf-8") as file:
            found = json.load(file)
        self.assertEqual([row.title for row in rows.ROWS if row.of(found["rounds"][0]) is None], [])
        limits = {limit.name for row in rows.ROWS for limit in row.limits}
        self.assertEqual([n for n in limits if n not in found["rounds"][0] and n not in found["skipped"]], [])
        self.assertEqual(os.listdir(self.folder), ["values.json"])

    def test_a_quick_round_of_the_storage_engine(self):
        with tempfile.TemporaryDirectory() as folder:
            one = storage.one_round(os.environ["STREAMIT_BUILD"], folder, (16, 16, 20), ())
            self.assertEqual(os.listdir(folder), [])
        for _, name, *_ in storage.ROWS:
            self.assertIn(name, one)
        self.assertEqual(one["idle_open_files"], 0)
        self.assertEqual(one["open_segments"], 5000)

    def test_an_interrupt_leaves_nothing(self):
        process = self.start("--rows", "latency")
        while "latency" not in process.stderr.readline():
            pass
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        self.assertEqual((os.listdir(self.folder), self.left()), ([], []))

    def test_a_node_that_dies_ends_it_with_an_error(self):
        process = self.start("--rows", "end-to-end")
        end, found = time.monotonic() + 20, []
        while not found and time.monotonic() < end:
            out = subprocess.run(["pgrep", "-f", f"end-to-end.*{self.folder}"], capture_output=True, text=True, check=False)
            nodes = subprocess.run(["pgrep", "-f", f"^{measure.harness.DAEMON}.*{self.folder}"], capture_output=True, text=True,
                                   check=False)
            found = nodes.stdout.split() if out.stdout else []
            time.sleep(0.02)
        os.kill(int(found[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn("bench: ", err)
        self.assertEqual((os.listdir(self.folder), self.left()), ([], []))


if __name__ == "__main__":
    whole = "--round" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--round"]
    unittest.main(verbosity=2, defaultTest=["Whole"] if whole else ["Arithmetic", "Storage", "Limits"])
