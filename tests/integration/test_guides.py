#!/usr/bin/python3
"""The examples of the guides, taken out of the pages and run: the Python client, the smallest plugin."""

import re
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402


def block(page, language, index=0):
    with open(os.path.join(harness.ROOT, "docs", "guides", page), encoding="utf-8") as file:
        return re.findall(rf"^```{language}\n(.*?)^```", file.read(), re.M | re.S)[index]


class Guides(harness.TestCase):
    def run_commands(self, index):
        """The page's own lines, with the sources' folder for the installed one, and without installing packages."""
        script = block("applications.md", "sh", index)
        self.assertIn("PROTO=/usr/local/share/streamit/proto\n", script)
        script = script.replace("/usr/local/share/streamit/proto", os.path.join(harness.ROOT, "proto"))
        script = re.sub(r"^apt-get .*\n", "", script, flags=re.M).replace("python3", sys.executable)
        subprocess.run(["sh", "-e", "-c", script], cwd=self.folder, check=True)

    def run_block(self, index, server):
        with open(self.path("app.py"), "w", encoding="utf-8") as file:
            file.write(block("applications.md", "python", index))
        out = subprocess.run([sys.executable, "app.py", server], cwd=self.folder, capture_output=True, text=True,
                             timeout=60, check=False)
        self.assertEqual(out.returncode, 0, out.stderr)
        return out.stdout

    def test_python_clients(self):
        node = self.node().start()
        self.run_commands(0)
        for offset in (0, 2):
            self.assertEqual(self.run_block(0, node.server),
                             f"appended at offset {offset}\n{offset} b'en' b'hello'\n{offset + 1} b'' b'world'\n")
        self.run_commands(1)
        self.assertEqual(self.run_block(1, node.server), "appended at offset 4\n[b'from afar']\n")
        read = self.cli(node, "consume", "--topic", "greetings", "--from", "beginning", "--until-end").out
        self.assertEqual(read, "hello\nworld\n" * 2 + "from afar\n")
        self.assertEqual(self.run_block(2, node.server), "100 requests answered, the last record is at offset 104\n100 records read\n")

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
