#!/usr/bin/python3
"""The examples of the guides, taken out of the pages and run: the Python client, the smallest plugin."""

import re
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402


def block(page, language):
    with open(os.path.join(harness.ROOT, "docs", "guides", page), encoding="utf-8") as file:
        return re.search(rf"^```{language}\n(.*?)^```", file.read(), re.M | re.S).group(1)


class Guides(harness.TestCase):
    def test_python_client(self):
        with open(self.path("app.py"), "w", encoding="utf-8") as file:
            file.write(block("applications.md", "python"))
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", os.path.join(harness.ROOT, "proto"),
                        f"--python_out={self.folder}", f"--grpc_python_out={self.folder}", "streamit/v1/streamit.proto"],
                       check=True)
        node = self.node().start()
        for offset in (0, 2):
            out = subprocess.run([sys.executable, "app.py", node.server], cwd=self.folder, capture_output=True, text=True,
                                 timeout=60, check=False)
            self.assertEqual(out.returncode, 0, out.stderr)
            self.assertIn(f"appended at offset {offset}", out.stdout)
            self.assertIn(f"high watermark {offset + 2}", out.stdout)
        read = self.cli(node, "consume", "--topic", "greetings", "--from", "beginning", "--until-end").out
        self.assertEqual(read, "hello\nworld\n" * 2)

    def test_the_smallest_plugin(self):
        with open(self.path("hello.c"), "w", encoding="utf-8") as file:
            file.write(block("plugins.md", "c"))
        so = self.path("hello.so")
        subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-shared", "-fPIC",
                        "-fvisibility=hidden", "-Wl,-z,defs", "-I", os.path.join(harness.ROOT, "sdk", "include"), "-o", so,
                        self.path("hello.c")], check=True)
        os.chmod(so, 0o755)
        self.assertIn("hello", self.cli(None, "plugin", "check", so).out)
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        text, count = re.subn(r"^(plugins\s*[:=]\s*\{)", lambda m: m.group(1) + f'\n  hello: {{ file = "{so}"; times = 3; }};',
                              text, flags=re.M)
        self.assertEqual(count, 1)
        with open(self.path("node.cfg"), "w", encoding="utf-8") as file:
            file.write(text)
        node = self.node(config=self.path("node.cfg")).start()
        self.assertEqual(len([line for line in node.logs() if line["event"] == "hello"]), 3)
        self.assertEqual(node.stop(), 0)


if __name__ == "__main__":
    harness.main()
