#!/usr/bin/python3
"""kill -9 under load at random moments, then the log's tail cut at random bytes: nothing acknowledged is lost.

The producers keep a history: what was sent, what was acknowledged at which offset. After each death a checker reads the
log back and holds it against the history:

    every acknowledged batch stands at its offset, byte for byte;
    every stored record was sent, once, and in the order of its producer;
    offsets are dense, and the log's end never lies below an acknowledged one (but for bytes that the test itself cut).
"""

import random
import shutil
import threading
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402
import record_batch  # noqa: E402

CYCLES = 300 if harness.FULL else 50
PARTITIONS = 2


class History:
    """What one partition's producer has sent and what was acknowledged. Touched by one thread at a time."""

    def __init__(self):
        self.sent = []  # values of all batches, in order; a batch is a list of values
        self.acked = []  # (base offset, index into sent)
        self.verified_offset = 0  # everything below was compared already ...
        self.verified_sent = 0  # ... and came from sent batches below this
        self.verified_acked = 0


class KillUnderLoad(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.histories = [History() for _ in range(PARTITIONS)]

    def load(self, node, partition, acks, seed, stop):
        """Produce until the node dies. One batch in flight; a failed call ends it, its outcome is unknown."""
        rng, history = random.Random(seed), self.histories[partition]
        with grpc_client.Client(node) as client:
            while not stop.is_set():
                number = len(history.sent)
                values = [b"%d-%d-%d-" % (partition, number, i) + b"x" * rng.randrange(400) for i in range(rng.randrange(1, 6))]
                batch = record_batch.encode(values, codec=rng.randrange(5))
                history.sent.append(values)
                try:
                    row = client.produce("t", partition, batch, acks=acks, timeout=10)
                except grpc_client.grpc.RpcError:
                    return
                if row.HasField("error"):
                    raise AssertionError(f"refused under load: {row.error}")
                history.acked.append((row.base_offset, number))

    def check(self, client, partition, cut_end=None):
        """Compare what is new since the last check. cut_end: the end that cutting the file must have left."""
        history = self.histories[partition]
        start = history.verified_offset
        end = client.end("t", partition)
        if cut_end is not None:
            self.assertEqual(end, cut_end, "recovery cuts to the last whole batch, no further")
            history.acked = [(o, n) for o, n in history.acked if o + len(history.sent[n]) <= cut_end]
        records = client.read("t", partition, start)
        self.assertEqual([r.offset for r in records], list(range(start, end)), "offsets are dense up to the end")
        by_offset = {r.offset: r.value for r in records}
        for offset, number in history.acked[history.verified_acked :]:
            got = [by_offset.get(offset + i) for i in range(len(history.sent[number]))]
            self.assertEqual(got, history.sent[number], f"the batch acknowledged at {offset} of partition {partition}")
        last = history.verified_sent - 1
        at = 0
        while at < len(records):
            number = int(records[at].value.split(b"-")[1])
            self.assertGreater(number, last, "each batch once, in the order of its producer")
            values = history.sent[number]
            self.assertEqual([r.value for r in records[at : at + len(values)]], values, "a batch is whole")
            at, last = at + len(values), number
        history.verified_offset, history.verified_sent = end, len(history.sent)
        history.verified_acked = len(history.acked)

    def kill_once(self, node, cycle):
        stop = threading.Event()
        acks = [grpc_client.pb.ACKS_LEADER, grpc_client.pb.ACKS_QUORUM]
        errors = []

        def run(partition):
            try:
                self.load(node, partition, acks[partition % 2], f"{cycle}-{partition}", stop)
            except BaseException as error:  # carried to the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=run, args=(p,)) for p in range(PARTITIONS)]
        for thread in threads:
            thread.start()
        time.sleep(self.rng.random() * 0.25)
        node.kill()
        stop.set()
        for thread in threads:
            thread.join(30)
            self.assertFalse(thread.is_alive())
        if errors:
            raise errors[0]

    def cut_tail(self, node, partition):
        """Cut the newest segment at a random byte of what this cycle wrote, or append noise. Returns the end to expect."""
        history = self.histories[partition]
        path = node.segments("t", partition)[-1]
        data = harness.read(path)
        batches, pos = [], 0
        while pos < len(data):
            try:
                batch = record_batch.decode_one(data, pos, records=False)
            except record_batch.BatchError:
                break
            batches.append((pos, batch))
            pos += batch.length
        fresh = [p for p, b in batches if b.base_offset >= history.verified_offset]
        if not fresh:
            return None
        kind = self.rng.choice(["cut", "cut", "noise", "zeros", "flip the last"])
        end_pos = pos
        if kind == "cut":
            end_pos = self.rng.randrange(fresh[0], pos)
            data = data[:end_pos]
        elif kind == "noise":
            data = data[:pos] + self.rng.randbytes(self.rng.randrange(1, 300))
        elif kind == "zeros":
            data = data[:pos] + bytes(self.rng.randrange(1, 5000))
        else:
            last_pos, last = batches[-1]
            flip = self.rng.randrange(last_pos + 16, last_pos + last.length)
            data = data[:flip] + bytes([data[flip] ^ (1 << self.rng.randrange(8))]) + data[flip + 1 : pos]
            end_pos = last_pos
        with open(path, "r+b") as file:
            file.truncate(0)
            file.write(data)
        kept = [b for p, b in batches if p + b.length <= end_pos]
        return kept[-1].next_offset if kept else int(os.path.basename(path)[:20])

    def test_nothing_acknowledged_is_lost(self):
        node = self.node()
        node.start()
        with grpc_client.Client(node) as client:
            client.create("t", partitions=PARTITIONS, config={"segment.bytes": "1048576"})
        cuts = 0
        for cycle in range(CYCLES):
            self.kill_once(node, cycle)
            cut = {}
            if cycle % 2:
                cut = {p: self.cut_tail(node, p) for p in range(PARTITIONS)}
                cuts += sum(end is not None for end in cut.values())
            node.start()
            with grpc_client.Client(node) as client:
                for partition in range(PARTITIONS):
                    self.check(client, partition, cut.get(partition))
        # Once more all of it, from the first offset, over the wire and by the oracle on the files.
        node.restart()
        with grpc_client.Client(node) as client:
            for partition, history in enumerate(self.histories):
                acked = len(history.acked)
                history.verified_offset = history.verified_sent = history.verified_acked = 0
                self.check(client, partition)
                self.assertGreater(acked, CYCLES, "the load was a load")
        self.assertGreater(cuts, CYCLES // 4)
        self.assertEqual(node.stop(), 0)
        for partition in range(PARTITIONS):
            next_offset = 0
            for segment in node.segments("t", partition):
                for batch in record_batch.decode_all(harness.read(segment)):
                    self.assertEqual(batch.base_offset, next_offset)
                    next_offset = batch.next_offset


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
