#!/usr/bin/python3
"""The program of docs/client.md, taken out of the page: it compiles without a warning and does what it says."""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))

import harness  # noqa: E402

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]


class ClientGuide(harness.TestCase):
    def build(self):
        with open(os.path.join(harness.ROOT, "docs", "client.md"), encoding="utf-8") as file:
            program = re.search(r"^```c\n(.*?)^```", file.read(), re.M | re.S).group(1)
        with open(self.path("orders.c"), "w", encoding="utf-8") as file:
            file.write(program)
        lib = os.path.join(harness.BUILD, "lib")
        subprocess.run(["cc", *STRICT, "-I", os.path.join(harness.ROOT, "client", "include"), "-I",
                        os.path.join(harness.ROOT, "sdk", "include"), "-o", self.path("orders"), self.path("orders.c"), "-L", lib,
                        "-lstreamit", "-lstreamit-batch", f"-Wl,-rpath,{lib}"], check=True)

    def run_program(self, server):
        return subprocess.run([self.path("orders"), server], capture_output=True, text=True, timeout=60, check=False)

    def test_it_produces_and_reads_back(self):
        self.build()
        node = self.node().start()
        for run in (1, 2):
            out = self.run_program(node.server)
            self.assertEqual((out.returncode, out.stderr), (0, ""))
            read = [line for line in out.stdout.splitlines() if line.startswith("orders-0@")]
            wanted = [f"orders-0@{n} customer-{n % 10 % 3}: order {n % 10}" for n in range(run * 10)]
            self.assertEqual(read, wanted)
            stored = re.findall(r"^(\d+) records from offset", out.stdout, re.M)
            self.assertEqual(sum(map(int, stored)), 10)

    def test_a_bad_address_is_an_error(self):
        self.build()
        bad = self.run_program("nowhere:99999")
        self.assertEqual(bad.returncode, 1)
        self.assertIn("error: INVALID_ARGUMENT: ", bad.stderr)


if __name__ == "__main__":
    harness.main()
