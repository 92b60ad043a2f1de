#!/usr/bin/env python3
"""A disk that fills, on a small file system that the test mounts for itself.

Several producers write at full rate until they are refused. What was acknowledged must be there byte for byte, nothing
else may have changed, the refusal must have its name, and writing must go on by itself as soon as something frees space:
a deletion, retention, or somebody else who removes a file. In between the node is killed and started again, with no
byte free.

The whole program runs in a mount namespace of its own, so that no mount outlives it."""

import os
import re
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import harness  # noqa: E402

ROUNDS = 100 if harness.FULL else 8
ROUNDS_EXT4 = 100 if harness.FULL else 2
MIB = 1 << 20
LINE = 1000
PATIENCE_S = 60
# Before the write, or by the file system itself, when what was measured went to others meanwhile.
REFUSED = re.compile(r"(\d+) bytes are needed, (\d+) are free(?: on storage storage_mmap; writes resume at (\d+) free|: .*No space left)")


class DiskTest(harness.TestCase):
    """A test with a file system of its own. Every node must be given its data folder by `node_on_disk`."""

    def setUp(self):
        super().setUp()
        self.mount = self.path("disk")
        self.mounted = False
        os.mkdir(self.mount)
        self.addCleanup(self._unmount)

    def make_disk(self, kind, mib):
        if kind == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "streamit-test", self.mount], check=True)
        else:
            if not os.path.exists("/dev/loop-control"):
                self.skipTest("this machine has no loop devices to mount an ext4 image with")
            image = self.path("disk.img")
            with open(image, "wb") as file:
                file.truncate(mib * MIB)
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, self.mount], check=True)
        self.mounted = True

    def _unmount(self):
        for node in self.nodes:
            if node.process is not None:
                self.assertEqual(node.stop(), 0)
        if self.mounted:
            subprocess.run(["umount", self.mount], check=True)

    def node_on_disk(self, sets=()):
        node = self.node(sets=list(sets))
        node.data_dir = os.path.join(self.mount, "data")
        return node

    # ---- the disk

    def free(self):
        stat = os.statvfs(self.mount)
        return stat.f_bavail * stat.f_frsize

    def total(self):
        stat = os.statvfs(self.mount)
        return stat.f_blocks * stat.f_frsize

    def fill(self, name, leave=0):
        """Write to a file until only `leave` bytes are free; 0: until not one byte more can be written."""
        fd = os.open(os.path.join(self.mount, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            block = MIB
            while block > 0:
                room = self.free() - leave if leave else block
                if room <= 0:
                    break
                try:
                    os.write(fd, bytes(min(block, room)))
                except OSError:
                    block //= 16
        finally:
            os.close(fd)

    def unfill(self, name):
        os.unlink(os.path.join(self.mount, name))

    # ---- the node

    def page(self, node, path):
        with urllib.request.urlopen(f"http://{node.http}{path}", timeout=10) as answer:
            self.assertEqual(answer.status, 200)
            return answer.read().decode()

    def level(self, node):
        return int(re.search(r'^streamit_disk_level\{storage="storage_mmap"\} (\d)', self.page(node, "/metrics"), re.M).group(1))

    def until(self, what, happened, patience=PATIENCE_S):
        """Wait for something; returns the seconds that it took."""
        begun = time.monotonic()
        while not happened():
            self.assertLess(time.monotonic() - begun, patience, f"{what} does not happen")
            time.sleep(0.02)
        return time.monotonic() - begun

    def create(self, node, topic, *config):
        self.cli(node, "create-topic", "--name", topic, *[a for c in config for a in ("--config", c)])

    def consume(self, node, topic):
        return self.cli(node, "consume", "--topic", topic, "--from", "beginning", "--until-end").out_bytes

    def produce(self, node, topic, data, status=0):
        return self.cli(node, "produce", "--topic", topic, data=data, status=status)

    def assert_refused(self, result):
        """DISK_FULL, with what is needed, what is there, and from when on."""
        self.assertEqual(result.status, 1, repr(result))
        sentence = self.error(result, "DISK_FULL")
        found = REFUSED.search(sentence)
        self.assertTrue(found, sentence)
        needed = int(found[1])
        self.assertGreater(needed, 0)
        if found[3] is not None:
            self.assertLess(int(found[2]), int(found[3]))
        return needed

    def fill_up(self, node, topics, source):
        """All producers at once, each flat out from the same file, until each is refused. Returns what each was told."""
        processes = []
        for topic in topics:
            command = [harness.CLI, "--server", node.server, "produce", "--topic", topic, "--file", source]
            processes.append((command, harness.spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                                     stderr=subprocess.PIPE)))
        acked = []
        for command, process in processes:
            out, err = process.communicate(timeout=PATIENCE_S * 2)
            result = harness.Result(command, process.returncode, out, err)
            self.assert_refused(result)
            acked.append(result.summary()["records"])
        return acked

    def top_up(self, node, topic):
        """Fill the rest. What was refused gives back what was reserved for it, and the level may fall again by that."""
        chunk = b"f" * 999 + b"\n"
        self.until("the disk is full", lambda: self.level(node) == 2 or
                   (self.produce(node, topic, chunk * 50, status=None).status >= 0 and self.level(node) == 2))

    def assert_kept(self, node, topics, acked, lines):
        """Each topic holds exactly a beginning of the source, and all of it that was acknowledged."""
        ends = []
        for topic, count in zip(topics, acked):
            found = self.consume(node, topic)
            self.assertGreaterEqual(len(found) // (LINE + 1), count, topic)
            self.assertEqual(len(found) % (LINE + 1), 0, topic)
            self.assertTrue(lines.startswith(found), f"{topic}: other bytes came back")
            ends.append(len(found))
        return ends

    def source(self, mib):
        """A file of lines that no compression and no chance makes alike."""
        path = self.path("lines")
        with open(path, "wb") as file:
            while file.tell() < mib * MIB:
                file.write(os.urandom(LINE // 2).hex().encode() + b"\n")
        return path, harness.read(path)


class Rounds(DiskTest):
    """Full rate until refused, kill -9, free space, on with it."""

    def rounds(self, kind, count, mib):
        self.make_disk(kind, mib)
        path, lines = self.source(mib)
        node = self.node_on_disk(["broker.disk_slowdown_ms=200"]).start()
        self.create(node, "keep")
        kept = lines[: 200 * (LINE + 1)]
        self.produce(node, "keep", kept)
        back, resumed = [], []
        for i in range(count):
            topics = [f"r{i}-a", f"r{i}-b", f"r{i}-c"]
            self.create(node, f"r{i}-rest")
            for topic in topics:
                self.create(node, topic, *(["segment.bytes=1048576"] if topic.endswith("c") else []))
            acked = self.fill_up(node, topics, path)
            self.top_up(node, f"r{i}-rest")
            self.assertIn("disk_full:storage_mmap", self.page(node, "/ready"))
            refused = self.cli(node, "create-topic", "--name", "more", status=1)
            self.error(refused, "DISK_FULL")
            ends = self.assert_kept(node, topics, acked, lines)
            if i % 2 == 1:
                if i % 4 == 3:
                    self.fill("somebody-else")
                node.kill()
                node.start()
                self.assertEqual(self.assert_kept(node, topics, acked, lines), ends)
            if i % 4 == 3:
                self.unfill("somebody-else")
            self.assertEqual(self.consume(node, "keep"), kept)
            back.append(self.free_space(node, topics, i))
            more = lines[len(kept) : len(kept) + LINE + 1]
            # What is refused is not stored: the one that passes is there once.
            resumed.append(self.until("writing", lambda line=more: self.produce(node, "keep", line, status=None).status == 0))
            kept += more
            for topic in [*topics, f"r{i}-rest"]:
                self.cli(node, "delete-topic", "--name", topic, status=None)
        self.assertEqual(self.consume(node, "keep"), kept)
        self.assertEqual(node.starts, 1 + count // 2, "writing resumed without a restart")
        print(f"{kind}: {count} rounds; space back after {max(back):.3f} s at the most, median {sorted(back)[count // 2]:.3f} s; "
              f"writing again {max(resumed):.3f} s later at the most", file=sys.stderr)

    def free_space(self, node, topics, i):
        """By a deletion, or by retention; returns how long it took until the space is back: half of all that was held, or
        with retention, which drops the newest segments only while space is scarce, so much that writing goes on."""
        held = self.total() - self.free()
        enough = held // 2
        begun = time.monotonic()
        if i % 3 == 2:
            for topic in topics:
                self.cli(node, "alter-topic", "--name", topic, "--config", "retention.ms=1")
            enough = self.total() - self.total() // 15
        else:
            for topic in topics:
                self.cli(node, "delete-topic", "--name", topic)
        self.until("space", lambda: self.total() - self.free() < enough)
        return time.monotonic() - begun

    def test_tmpfs(self):
        self.rounds("tmpfs", ROUNDS, 24)

    def test_ext4(self):
        self.rounds("ext4", ROUNDS_EXT4, 32)


class SmallDisk(DiskTest):
    """64 MB is a disk, with the settings that a node comes with."""

    def default_node(self, kind):
        self.make_disk(kind, 64)
        path, lines = self.source(64)
        node = self.node_on_disk().start()
        self.assertLess(self.total() - self.free(), 12 * MIB, "a start takes little")
        self.create(node, "t")
        self.cli(node, "create-topic", "--name", "many", "--partitions", "8")
        self.assertLess(self.total() - self.free(), 12 * MIB, "topics take little")
        acked = self.fill_up(node, ["t"], path)
        self.assertGreater(acked[0] * LINE, 30 * MIB)
        self.assert_kept(node, ["t"], acked, lines)
        self.cli(node, "delete-topic", "--name", "t")
        self.until("space", lambda: self.level(node) == 0)
        self.create(node, "t")
        self.produce(node, "t", lines[: 1000 * (LINE + 1)])
        self.assertEqual(self.consume(node, "t"), lines[: 1000 * (LINE + 1)])
        self.assertEqual(node.stop(), 0)

    def test_tmpfs(self):
        self.default_node("tmpfs")

    @unittest.skipUnless(harness.FULL, "the long version")
    def test_ext4(self):
        self.default_node("ext4")


class SlowConsumer(DiskTest):
    """Who reads and does not go on pins what was handed to it, and nothing else."""

    def test_deletion_frees_the_rest(self):
        self.make_disk("tmpfs", 64)
        path, lines = self.source(64)
        node = self.node_on_disk(["broker.disk_slowdown_ms=200"]).start()
        self.create(node, "t", "segment.bytes=1048576")
        acked = self.fill_up(node, ["t"], path)
        command = [harness.CLI, "--server", node.server, "consume", "--topic", "t", "--from", "beginning"]
        consumer = harness.spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            first = consumer.stdout.read(LINE + 1)
            consumer.send_signal(signal.SIGSTOP)
            self.cli(node, "delete-topic", "--name", "t")
            self.until("space", lambda: self.level(node) == 0)
            self.until("space", lambda: self.total() - self.free() < acked[0] * LINE // 2)
            self.create(node, "u")
            self.produce(node, "u", lines[: LINE + 1])
            consumer.send_signal(signal.SIGCONT)
            while len(first) < MIB:  # what it had in hand is still what was stored
                piece = consumer.stdout.read(LINE + 1)
                if not piece:
                    break
                first += piece
            self.assertTrue(lines.startswith(first))
        finally:
            consumer.kill()
            consumer.wait()
            consumer.stdout.close()
        self.until("all the space", lambda: self.total() - self.free() < 8 * MIB)


class OtherWriters(DiskTest):
    """Somebody else fills the disk and makes room again."""

    def test_thresholds_both_ways(self):
        self.make_disk("tmpfs", 64)
        node = self.node_on_disk().start()
        self.create(node, "t")
        self.produce(node, "t", b"one\n")
        self.assertEqual(self.level(node), 0)
        throttle, refuse = self.total() // 10, self.total() // 20
        self.fill("other", leave=throttle - 100000)
        self.until("the throttle", lambda: self.level(node) == 1)
        self.visible(node, "the disk is low")
        self.produce(node, "t", b"two\n")  # slower, and taken
        self.fill("other", leave=refuse - 100000)
        self.until("the refusal", lambda: self.level(node) == 2)
        self.assert_refused(self.produce(node, "t", b"not this\n", status=1))
        self.visible(node, "the disk is full")
        ready = self.page(node, "/ready")
        self.assertNotIn("disk_low", ready)
        self.assertEqual(self.consume(node, "t"), b"one\ntwo\n")
        self.unfill("other")
        self.until("room", lambda: self.level(node) == 0)
        self.visible(node, "the disk has room again")
        self.produce(node, "t", b"three\n")
        self.assertEqual(self.consume(node, "t"), b"one\ntwo\nthree\n")
        events = [line["event"] for line in node.logs()]
        self.assertEqual([e for e in events if e.startswith("disk_")], ["disk_low", "disk_full", "disk_room"])

    def zero_bytes(self, kind):
        """What frees space works with no byte free: many times in a row, after a stop, and after a kill."""
        self.make_disk(kind, 64)
        node = self.node_on_disk().start()
        data = b"".join(b"%0*d\n" % (LINE, i) for i in range(300))
        topics = [f"t{i}" for i in range(16)]
        for topic in topics:
            self.create(node, topic, "segment.bytes=65536")
            self.produce(node, topic, data)
        self.fill("other")
        self.until("the refusal", lambda: self.level(node) == 2)
        for i, topic in enumerate(topics[:12]):
            if i == 4:
                self.assertEqual(node.stop(), 0)
            elif i == 8:
                node.kill()
                folder = node.partition_dir(topics[15], 0)
                for name in os.listdir(folder):
                    if name.endswith("index"):
                        os.unlink(os.path.join(folder, name))
            self.fill(f"other{i}")  # takes what the last deletion gave, before anybody else can
            self.assertLess(self.free(), 4096)
            if node.process is None:
                node.start()
                self.assertEqual(self.consume(node, topics[15]), data)
            self.cli(node, "delete-topic", "--name", topic)
            folder = node.partition_dir(topic, 0)
            self.assertFalse(os.path.exists(folder))
        self.fill("last")
        self.cli(node, "alter-topic", "--name", topics[12], "--config", "retention.bytes=65536")
        self.until("retention", lambda: len(node.segments(topics[12], 0)) <= 2)
        for topic in topics[13:]:
            self.assertEqual(self.consume(node, topic), data)
        for name in os.listdir(self.mount):
            if name != "data" and os.path.isfile(os.path.join(self.mount, name)):
                self.unfill(name)
        self.until("room", lambda: self.level(node) == 0)
        self.produce(node, topics[13], b"more\n")
        self.assertEqual(self.consume(node, topics[13]), data + b"more\n")
        poisoned = [line for line in node.logs() if line["event"] in ("partition_poisoned", "partition_offline", "metadata_broken")]
        self.assertEqual(poisoned, [])

    def test_no_byte_free_on_tmpfs(self):
        self.zero_bytes("tmpfs")

    def test_no_byte_free_on_ext4(self):
        self.zero_bytes("ext4")


def main():
    if os.environ.get("STREAMIT_TEST_MOUNTS") != "own" and not harness.can_mount():
        print("skipped: this machine does not let us mount a small file system (root, and a mount namespace)", file=sys.stderr)
        return
    if os.environ.get("STREAMIT_TEST_MOUNTS") != "own":
        os.environ["STREAMIT_TEST_MOUNTS"] = "own"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    harness.main()


if __name__ == "__main__":
    main()
