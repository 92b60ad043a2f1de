#!/usr/bin/python3
"""The large run: 1 GB of real text lines in, kill -9, and the same bytes out. With STREAMIT_TEST_FULL=1 only."""

import hashlib
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402

SIZE = 1_000_000_000


def text_files():
    for folder, names, files in os.walk("/usr/share"):
        names.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.endswith((".txt", ".h", ".py", ".md", ".html", "copyright")) and os.path.isfile(path):
                yield path


class Large(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.file = self.path("large.txt")
        digest, size = hashlib.sha256(), 0
        with open(self.file, "wb") as out:
            while size < SIZE:
                for path in list(text_files()):
                    with open(path, "rb") as source:
                        data = source.read()
                    # Lines longer than a batch may be are no lines of text.
                    lines = [line for line in data.split(b"\n")[:-1] if len(line) < 500000]
                    block = b"".join(line + b"\n" for line in lines)
                    out.write(block)
                    digest.update(block)
                    size += len(block)
                    if size >= SIZE:
                        break
                self.assertGreater(size, 0, "no text under /usr/share")
        self.digest, self.size = digest.hexdigest(), size

    def consumed(self, node, topic):
        process = harness.spawn([harness.CLI, "--server", node.server, "consume", "--topic", topic, "--from", "beginning",
                                 "--until-end"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        digest, size = hashlib.sha256(), 0
        while chunk := process.stdout.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        self.assertEqual(process.wait(60), 0)
        process.stdout.close()
        return digest.hexdigest(), size

    def test_a_gigabyte_and_each_codec(self):
        node = self.node().start()
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            with self.subTest(codec=codec):
                self.cli(node, "create-topic", "--name", codec)
                self.cli(node, "produce", "--topic", codec, "--file", self.file, "--compression", codec, timeout=900)
                node.kill()
                node.start()
                self.assertEqual(self.consumed(node, codec), (self.digest, self.size))
                self.cli(node, "delete-topic", "--name", codec)


if __name__ == "__main__":
    if not harness.FULL:
        print("skipped: STREAMIT_TEST_FULL is not set")
        sys.exit(0)
    harness.main()
