#!/usr/bin/python3
"""Fault points are in the fault build, all of them, and nowhere in a release."""

import collections
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import fault_points  # noqa: E402
import harness  # noqa: E402

POINT = re.compile(r'\bSTI_(?:FAULT|CRASH_POINT)\(\s*"([^"]*)"\s*\)')
ANY_USE = re.compile(r"\bSTI_(?:FAULT|CRASH_POINT)\(\s*(?!\s*point\s*\))(.{0,60})")
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


def in_source():
    """{point: places} of everything that a node is built from."""
    found, odd = collections.defaultdict(list), []
    for folder in ("kernel", "broker", "daemon", "plugins", "sdk"):
        for here, _, names in os.walk(os.path.join(ROOT, folder)):
            if "tests" in here.split(os.sep):
                continue
            for name in (n for n in names if n.endswith((".c", ".h")) and n != "fault.h"):
                path = os.path.join(here, name)
                with open(path, encoding="utf-8") as file:
                    text = file.read()
                for match in POINT.finditer(text):
                    found[match.group(1)].append(os.path.relpath(path, ROOT))
                odd += [f"{path}: {m.group(1)}" for m in ANY_USE.finditer(text) if not m.group(1).startswith('"')]
    return found, odd


class FaultPoints(harness.TestCase):
    def test_the_fault_build_lists_every_point_of_the_source_once(self):
        source, odd = in_source()
        self.assertEqual(odd, [], "a point is named by a string, so that it can be found")
        built = [p for points in fault_points.points(harness.FAULT_BUILD).values() for p in points]
        self.assertGreater(len(built), 10)
        self.assertEqual(sorted(set(built)), sorted(source), "what is built is what is written")
        self.assertEqual([p for p in built if not NAME.fullmatch(p)], [])
        self.assertEqual({p: places for p, places in source.items() if len(places) > 1}, {}, "a name stands once")
        self.assertEqual(len(built), len(set(built)), "in one library")

    @unittest.skipIf(harness.FAULT_BUILD == harness.BUILD, "this build has fault points by intention")
    def test_a_release_has_none_of_it(self):
        names = [p.encode() for points in fault_points.points(harness.FAULT_BUILD).values() for p in points]
        paths = fault_points.files(harness.BUILD) + [harness.CLI]
        paths += [os.path.join(harness.BUILD, "lib", n) for n in os.listdir(os.path.join(harness.BUILD, "lib")) if ".so" in n]
        self.assertEqual(fault_points.points(harness.BUILD), {})
        for path in paths:
            data = harness.read(path)
            self.assertEqual([n for n in names if n in data], [], path)
            self.assertNotIn(b"STREAMIT_FAULT", data, path)
            symbols = subprocess.run(["nm", "-a", path], capture_output=True, text=True, check=True).stdout
            self.assertNotIn("sti_fault", symbols, path)

    def test_a_rule_that_is_no_rule_ends_the_daemon(self):
        done = subprocess.run([harness.FAULT_DAEMON, "--config", harness.CONFIG, "--set", f"node.data_dir={self.path('data')}"],
                              capture_output=True, text=True, env=dict(os.environ, STREAMIT_FAULT="nonsense"), check=False,
                              timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn('STREAMIT_FAULT: "nonsense"', done.stderr)


if __name__ == "__main__":
    harness.main()
