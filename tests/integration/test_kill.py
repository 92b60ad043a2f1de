#!/usr/bin/python3
"""What recovery makes of files that were damaged behind a node's back. Deaths under load are in tests/chaos/test_kill_points.py."""

import shutil
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402


class Damage(harness.TestCase):
    """What recovery must not repair in silence, and must not stop for."""

    def fill(self, node):
        node.start()
        with grpc_client.Client(node) as client:
            client.create("t")
            client.create("other")
            for number in range(50):
                self.assertEqual(client.produce("t", 0, [b"%d" % number + b"." * 500]).base_offset, number)
            client.produce("other", 0, [b"fine"])

    def flip(self, path, pos):
        with open(path, "r+b") as file:
            file.seek(pos)
            byte = file.read(1)[0]
            file.seek(pos)
            file.write(bytes([byte ^ 0x10]))

    def test_a_flipped_bit_before_valid_batches_is_damage_and_named(self):
        node = self.node()
        self.fill(node)
        node.kill()
        path = node.segments("t", 0)[-1]
        size = os.path.getsize(path) // 50
        self.flip(path, 20 * size + 100)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual(client.fetch("t", 0, 20).error.code, grpc_client.pb.DATA_LOSS)
            self.assertEqual(client.read("t", 0, 21)[0].offset, 21, "reads beyond the damage go on")
            self.assertTrue(client.produce("t", 0, [b"x"]).HasField("error"), "no append over damage")
            self.assertEqual(client.produce("other", 0, [b"y"]).base_offset, 1, "other partitions go on")
        out = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", status=1)
        sentence = self.error(out, "DATA_LOSS")
        self.assertRegex(sentence, r"\bt\b")
        self.assertIn("20", sentence)
        self.assertEqual(out.out_bytes, b"".join(b"%d" % n + b"." * 500 + b"\n" for n in range(20)), "all before it came out")

    def test_missing_and_damaged_indexes_are_rebuilt(self):
        node = self.node()
        self.fill(node)
        self.assertEqual(node.stop(), 0)
        folder = node.partition_dir("t", 0)
        indexes = [n for n in os.listdir(folder) if n.endswith(("index",))]
        self.assertTrue(indexes)
        os.unlink(os.path.join(folder, indexes[0]))
        for name in indexes[1:]:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(os.urandom(96))
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual(len(client.read("t", 0)), 50)
            self.assertEqual(client.read("t", 0, 33)[0].value[:3], b"33.")

    def test_foreign_files_stop_nothing_and_stay(self):
        node = self.node()
        self.fill(node)
        node.stop()
        for place in (node.data_dir, os.path.join(node.data_dir, "storage_mmap"), node.partition_dir("t", 0)):
            with open(os.path.join(place, "lost+found.txt"), "w", encoding="ascii") as file:
                file.write("mine")
        os.mkdir(os.path.join(node.data_dir, "storage_mmap", "not a partition"))
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual(len(client.read("t", 0)), 50)
        node.stop()
        self.assertTrue(os.path.isdir(os.path.join(node.data_dir, "storage_mmap", "not a partition")))
        for place in (node.data_dir, os.path.join(node.data_dir, "storage_mmap"), node.partition_dir("t", 0)):
            self.assertEqual(harness.read(os.path.join(place, "lost+found.txt")), b"mine")

    def test_a_copy_of_the_data_folder_serves_the_same(self):
        node = self.node()
        self.fill(node)
        node.stop()
        shutil.copytree(node.data_dir, self.path("copy"))
        copy = self.node("copy")
        copy.start()
        with grpc_client.Client(copy) as client:
            self.assertEqual([r.offset for r in client.read("t", 0)], list(range(50)))


if __name__ == "__main__":
    harness.main()
