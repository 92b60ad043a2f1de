#!/usr/bin/python3
"""Kafka's own tool for the files of a partition, kafka.tools.DumpLogSegments, judges what a node wrote. An extra: it needs
Java, and Kafka's libraries, which no Debian package has; what is not there is said, and the set is skipped.

STREAMIT_KAFKA_LIB names a folder with those libraries. Without it Maven fetches them, from where it is configured to fetch
from, into its own cache; STREAMIT_KAFKA_VERSION chooses which (3.7.1).
"""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import written  # noqa: E402

VERSION = os.environ.get("STREAMIT_KAFKA_VERSION", "3.7.1")
TOOL = "kafka.tools.DumpLogSegments"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamit</groupId><artifactId>judge</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>%s</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class KafkaTool(harness.TestCase):
    def libraries(self):
        """The class path, or the test is skipped with the reason."""
        if shutil.which("java") is None:
            self.skipTest("there is no java")
        if os.environ.get("STREAMIT_KAFKA_LIB"):
            return os.path.join(os.environ["STREAMIT_KAFKA_LIB"], "*")
        if shutil.which("mvn") is None:
            self.skipTest("STREAMIT_KAFKA_LIB is not set, and there is no mvn to fetch Kafka's libraries")
        folder = self.path("judge")
        os.mkdir(folder)
        with open(os.path.join(folder, "pom.xml"), "w", encoding="utf-8") as file:
            file.write(POM % VERSION)
        got = subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"], cwd=folder,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False)
        if got.returncode != 0:
            self.skipTest(f"mvn cannot fetch Kafka {VERSION}: {got.stdout.decode(errors='replace')[-300:]}")
        return os.path.join(folder, "lib", "*")

    def tool(self, *args):
        run = subprocess.run(["java", "-Xmx256m", "-cp", self.classes, TOOL, *args], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=120, check=False)
        text = run.stdout.decode(errors="replace")
        self.assertEqual(run.returncode, 0, text[-2000:])
        return text

    def test_segments_and_indexes(self):
        self.classes = self.libraries()
        node = self.node()
        node.start()
        records = written.write(node)
        node.stop()
        for partition in range(written.PARTITIONS):
            offsets, codecs = [], set()
            for path in node.segments("t", partition):
                text = self.tool("--deep-iteration", "--print-data-log", "--files", path)
                batches = re.findall(r"^baseOffset: .* compresscodec: (\w+) .* isvalid: (\w+)", text, re.M)
                self.assertTrue(batches)
                self.assertEqual({valid for _, valid in batches}, {"true"})
                codecs |= {codec for codec, _ in batches}
                offsets += [int(o) for o in re.findall(r"^\| offset: (\d+) ", text, re.M)]
                index = path[: -len("log")] + "index"
                if os.path.getsize(index) > 0:
                    self.assertIn("passed sanity check", self.tool("--index-sanity-check", "--files", index))
                for name in (index, path[: -len("log")] + "timeindex"):
                    if os.path.getsize(name) > 0:  # it is held against the log; what does not fit is told
                        text = self.tool("--files", name)
                        self.assertIn("offset: ", text)
                        self.assertNotRegex(text, "(?i)mismatch|non-monotonic|not found|out of order")
            self.assertEqual(offsets, list(range(len(records[partition]))))
            self.assertEqual(codecs, {"none", "gzip", "snappy", "lz4", "zstd"})


if __name__ == "__main__":
    harness.main()
