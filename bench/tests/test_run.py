#!/usr/bin/python3
"""The benchmark's own test: its arithmetic, its limit programs with small numbers, and, with --round, one quick round."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, BENCH)

import run  # noqa: E402
import storage  # noqa: E402

MIB = 1 << 20
FACTS = [("machine", "any")]


def names():
    out = [name for _, name, *_ in run.ROWS] + [limit for row in run.ROWS for _, limit, _ in row[4]]
    out += [name + side for _, name in run.CORES for side in ("_node_cpu", "_client_cpu", "_mb")]
    return out + [name for _, name, _ in run.RATES]


class Arithmetic(unittest.TestCase):
    def rounds(self):
        return [dict.fromkeys(names(), float(n)) for n in (1, 5, 3)]

    def test_numbers_have_three_digits(self):
        self.assertEqual([run.number(n) for n in (0.125, 12.34, 123.4, 1234567)], ["0.12", "12.3", "123", "1,234,567"])

    def test_a_target_is_met_on_its_own_side(self):
        self.assertTrue(run.meets(5, (">=", 5)))
        self.assertFalse(run.meets(4.9, (">=", 5)))
        self.assertTrue(run.meets(5, ("<=", 5)))
        self.assertFalse(run.meets(5.1, ("<=", 5)))
        self.assertTrue(run.meets(0, None))

    def test_medians_and_spread(self):
        self.assertEqual(run.median(self.rounds(), "anon_mb"), 3)
        self.assertEqual(run.spread(self.rounds(), "anon_mb"), "1.00 .. 5.00")

    def test_ratios_are_taken_round_by_round(self):
        rounds = self.rounds()
        for one, limit in zip(rounds, (2.0, 10.0, 6.0)):
            one["large_sink_mb"] = limit
        row = next(r for r in run.figures(rounds) if r[0] == "produce 1 KiB")
        self.assertEqual(row[5:], ["loopback TCP", "6.00", "0.50"])
        self.assertEqual(row[3:5], [">= 500", "NO"])

    def test_the_document_has_every_row(self):
        text = run.document(self.rounds(), FACTS)
        for title, *_ in run.ROWS:
            self.assertIn(f"| {title} |", text)
        for line in text.splitlines():
            self.assertEqual(line.startswith("|"), line.endswith("|"), line)


class Storage(unittest.TestCase):
    def rounds(self):
        names = {row[1] for row in storage.ROWS} | {row[4][0] for row in storage.ROWS if row[4] is not None}
        return [dict.fromkeys(names, float(n)) for n in (1, 5, 3)]

    def test_targets_are_held_against_the_limit_of_the_same_round(self):
        rounds = self.rounds()
        for one, bare in zip(rounds, (2.0, 10.0, 6.0)):
            one["append_bare_mb"] = bare
            one["commit1_bare_us"] = one["commit1_us"] - 61
        rows, missed = storage.figures(rounds)
        by_title = {row[0]: row for row in rows}
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

    def test_a_quick_round(self):
        with tempfile.TemporaryDirectory() as folder:
            one = storage.one_round(os.environ["STREAMIT_BUILD"], folder, (16, 16, 20), ())
            self.assertEqual(os.listdir(folder), [])
        for _, name, *_ in storage.ROWS:
            self.assertIn(name, one)
        self.assertEqual(one["idle_open_files"], 0)
        self.assertEqual(one["open_segments"], 5000)


class Limits(unittest.TestCase):
    def test_each_gives_its_figures(self):
        self.assertGreater(run.raw("raw_sink", 4 * MIB, MIB)["mb_per_s"], 0)
        self.assertEqual(run.raw("raw_sink", 4 * MIB + 1, MIB)["bytes"], 5 * MIB)
        self.assertGreater(run.raw("raw_cpu", 100)["crc32c_mb_per_s"], 0)

    def test_files_are_written_and_none_stays(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(run.raw("raw_write", folder, 3 * MIB)["bytes"], 3 * MIB)
            self.assertEqual(run.raw("raw_write", folder, 5 * MIB, 2 * MIB)["bytes"], 5 * MIB)
            self.assertEqual(os.listdir(folder), [])

    def test_wrong_usage_is_refused(self):
        for args in (["raw_sink", "0", "1"], ["raw_sink", "x", "1"], ["raw_sink", "1"], ["raw_write", "."],
                     ["raw_cpu", "-1"], ["raw_call", "localhost:1", "t"]):
            ended = subprocess.run([os.path.join(run.harness.BUILD, "bench", args[0]), *args[1:]], capture_output=True,
                                   timeout=20, check=False)
            self.assertEqual(ended.returncode, 2, args)
            self.assertIn(b"usage: ", ended.stderr)

    def test_a_missing_folder_is_named(self):
        with self.assertRaises(run.Failure) as caught:
            run.raw("raw_write", "/nowhere/at/all", MIB)
        self.assertIn("/nowhere/at/all", str(caught.exception))


class Whole(unittest.TestCase):
    def test_a_quick_round(self):
        with tempfile.TemporaryDirectory() as folder:
            values = os.path.join(folder, "values.json")
            ended = subprocess.run([os.path.join(BENCH, "run.sh"), run.harness.BUILD, "--quick", "--rounds", "1", "--dir",
                                    folder, "--json", values], capture_output=True, text=True, timeout=200, check=False)
            self.assertEqual(ended.returncode, 0, ended.stderr)
            for title, *_ in run.ROWS:
                self.assertIn(f"\n{title} ", ended.stdout)
            with open(values, encoding="utf-8") as file:
                found = json.load(file)["rounds"]
            self.assertEqual(len(found), 1)
            self.assertEqual([n for n in names() if not found[0].get(n, -1) >= 0], [])
            self.assertEqual(os.listdir(folder), ["values.json"])


if __name__ == "__main__":
    whole = "--round" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--round"]
    unittest.main(verbosity=2, defaultTest=["Whole"] if whole else ["Arithmetic", "Limits"])
