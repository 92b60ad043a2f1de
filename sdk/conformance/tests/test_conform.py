#!/usr/bin/python3
"""streamit-conform as a program: what it prints, how it ends, and what it refuses."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = os.environ["STREAMIT_BUILD"]
TOOL = os.path.join(BUILD, "bin", "streamit-conform")
PLUGINS = os.path.join(BUILD, "lib", "streamit")
MMAP = os.path.join(PLUGINS, "storage_mmap.so")
MEMORY = os.path.join(PLUGINS, "storage_memory.so")


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="streamit-conform-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)

    def conform(self, *args):
        done = subprocess.run([TOOL, *args, "--dir", self.dir], capture_output=True, text=True, timeout=250,
                              check=False)
        if "--keep" not in args:
            self.assertEqual(glob.glob(self.dir + "/streamit-conform-*"), [], "no folder is left behind")
        return done


class Reports(Case):
    def test_lines(self):
        done = self.conform(MMAP, "--seed", "5", "--case", "trim", "--case", "storage.truncate")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r"^storage_mmap \S+: seed 5$")
        self.assertEqual(lines[1:], ["PASS storage.trim", "PASS storage.truncate", "2 passed, 0 failed, 0 skipped"])

    def test_json(self):
        done = self.conform(MEMORY, "--json", "--seed", "3", "--case", "trim", "--case", "reopen")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["plugin"], report["seed"]), ("storage_memory", 3))
        self.assertEqual((report["passed"], report["failed"], report["skipped"]), (1, 0, 1))
        by_name = {case["name"]: case for case in report["cases"]}
        self.assertEqual(by_name["storage.trim"]["status"], "passed")
        self.assertEqual(by_name["storage.reopen"]["status"], "skipped")
        self.assertIn("DURABLE", by_name["storage.reopen"]["reason"])

    def test_options_reach_the_plugin(self):
        """A bound of one megabyte is too little for some cases, which shows that it was set."""
        done = self.conform(MEMORY, "--set", "bytes_max=1M", "--case", "blobs", "--case", "many_partitions")
        self.assertEqual(done.returncode, 1, done.stdout)
        failed = re.search(r"^FAIL storage.many_partitions: .*RESOURCE_EXHAUSTED.* at \w+\.c:\d+$", done.stdout, re.M)
        self.assertIsNotNone(failed, done.stdout)
        self.assertRegex(done.stdout, r"\n1 passed, 1 failed, 0 skipped\n$")
        self.assertIn("replay with --seed ", done.stderr)

    def test_fail_fast_and_keep(self):
        done = self.conform(MEMORY, "--set", "bytes_max=1M", "--case", "many_partitions", "--case", "trim",
                            "--fail-fast", "--keep")
        self.assertEqual(done.returncode, 1)
        kept = re.search(r"kept (\S+)", done.stderr)
        self.assertIsNotNone(kept, done.stderr)
        with open(os.path.join(kept.group(1), "many_partitions", "log"), encoding="utf-8") as file:
            self.assertIn("ready", file.read())
        self.assertIn("1 failed, 0 skipped", done.stdout)

    def test_list_and_help(self):
        self.assertIn("storage.truncate", self.run_plain("--list"))
        text = self.run_plain("--help")
        self.assertIn("example: streamit-conform ", text)
        for option in ("--set", "--seed", "--json", "--suite", "--case", "--full", "--list"):
            self.assertIn(option, text)

    def run_plain(self, *args):
        return subprocess.run([TOOL, *args], capture_output=True, text=True, timeout=20, check=True).stdout

    def test_interrupted(self):
        """SIGINT ends the running case, and leaves neither process nor folder."""
        with subprocess.Popen([TOOL, MMAP, "--full", "--dir", self.dir], stdout=subprocess.PIPE, text=True) as tool:
            tool.stdout.readline()
            time.sleep(0.2)
            tool.send_signal(signal.SIGINT)
            tool.stdout.read()  # to the end: nobody else holds the pipe
            self.assertEqual(tool.wait(30), 130)
        self.assertEqual(os.listdir(self.dir), [])


class Refusals(Case):
    def refused(self, *args):
        done = self.conform(*args)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_usage(self):
        self.assertIn("one plugin file", self.refused())
        self.assertIn("--set", self.refused(MMAP, "--set", "nonsense"))
        self.assertIn("--seed", self.refused(MMAP, "--seed", "x"))
        self.assertIn("no suite", self.refused(MMAP, "--suite", "transport"))
        self.assertIn("no case", self.refused(MMAP, "--case", "storage.nothing"))
        self.assertIn("--help", self.refused(MMAP, "--frobnicate"))

    def test_files(self):
        self.assertIn("No such file", self.refused(os.path.join(self.dir, "none.so")))
        junk = os.path.join(self.dir, "junk.so")
        with open(junk, "wb") as file:
            file.write(b"not a library")
        os.chmod(junk, 0o644)
        self.assertIn("cannot be loaded", self.refused(junk))
        self.assertIn("not a StreamIt plugin", self.refused(os.path.join(BUILD, "lib", "libstreamit-batch.so.0")))
        others = shutil.copy(MMAP, self.dir)
        os.chmod(others, 0o666)
        self.assertIn("chmod go-w", self.refused(others))

    def test_interfaces_and_options(self):
        self.assertIn("no interface", self.refused(os.path.join(PLUGINS, "replication_none.so")))
        self.assertIn("byts_max", self.refused(MEMORY, "--set", "byts_max=1M"))
        self.assertIn("bytes_max", self.refused(MEMORY, "--set", "bytes_max=1"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)
