#!/usr/bin/python3
"""Damage to any file of a node, done while it is down: what is named, what is served all the same, and the way back.

A log of several segments is made once, for an orderly end and for a kill. Each case copies it, harms one file, and starts a
node over it. In every case

    the node starts (or says in one sentence why not, for its own files), and the other topics are fully served,
    what is read of the harmed topic is what was written, at its offset, or is refused by name,
    the first damage is named with file and position: in the log, to clients, in the body of /ready, by the command line,
    the remedy that the documents name brings service back.

The quick run takes a sample of the cases, the full one all.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import faultfs  # noqa: E402
import grpc_client  # noqa: E402
import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import pb  # noqa: E402

RECORDS = 3  # of a batch
BATCHES = 90
TOPICS = ("victim", "other", "third")
CODECS = 5


def value(topic, number, record):
    return b"%s %d %d " % (topic.encode(), number, record) + b"." * 500


def values_of(topic, first, end):
    return [value(topic, n // RECORDS, n % RECORDS) for n in range(first, end)]


class Template:
    """Data folders that a node has left, one for each way to end; made once for all cases."""

    folder = None

    @classmethod
    def make(cls, case, codec=None):
        if cls.folder is None:
            cls.folder = tempfile.mkdtemp(prefix="streamit-damage-")
            for ending in ("stopped", "killed"):
                node = case.node(f"template-{ending}")
                node.start()
                with grpc_client.Client(node) as client:
                    for topic in TOPICS:
                        client.create(topic, config={"segment.bytes": "16384", "index.interval.bytes": "1024"})
                        for number in range(BATCHES):
                            records = [value(topic, number, i) for i in range(RECORDS)]
                            batch = record_batch.encode(records, codec=number % CODECS if topic == "victim" else 0)
                            row = client.produce(topic, 0, batch)
                            assert row.base_offset == number * RECORDS, row
                if ending == "stopped":
                    case.assertEqual(node.stop(), 0)
                else:
                    time.sleep(0.3)  # closed segments are synced behind the appends: let the recovery point follow
                    node.kill()
                shutil.copytree(node.data_dir, os.path.join(cls.folder, ending))
        return cls.folder

    @classmethod
    def drop(cls):
        if cls.folder is not None:
            shutil.rmtree(cls.folder)
            cls.folder = None


def tearDownModule():
    Template.drop()


class Case(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.count = 0

    def fresh(self, ending):
        """A node that is not started yet, over a copy of what that ending has left."""
        template = os.path.join(Template.make(self), ending)
        self.count += 1
        node = self.node(f"n{self.count}")
        shutil.copytree(template, node.data_dir)
        return node

    def done(self, node):
        node.kill()
        shutil.rmtree(node.data_dir)

    def batches(self, node, segment):
        """(position, batch) of each batch of a segment's file."""
        data, out, pos = harness.read(node.segments("victim", 0)[segment]), [], 0
        while pos < len(data):
            batch = record_batch.decode_one(data, pos, records=False)
            out.append((pos, batch))
            pos += batch.length
        return out

    def flip(self, path, pos, mask=0x10):
        with open(path, "r+b") as file:
            file.seek(pos)
            byte = file.read(1)[0]
            file.seek(pos)
            file.write(bytes([byte ^ mask]))

    def get(self, node, path):
        with urllib.request.urlopen(f"http://{node.http}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()

    def settled(self, node):
        """The body of /ready once every partition is open or offline."""
        end = time.monotonic() + 20
        while True:
            status, body = self.get(node, "/ready")
            self.assertEqual(status, 200, body)
            if "opening_partitions" not in body:
                return body
            self.assertLess(time.monotonic(), end, body)
            time.sleep(0.02)

    def gauge(self, node, name):
        for line in self.get(node, "/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {name}")

    def others_are_served(self, node, client):
        for topic in TOPICS[1:]:
            self.assertEqual([r.value for r in client.read(topic, 0)], values_of(topic, 0, BATCHES * RECORDS))
            row = client.produce(topic, 0, [b"more"])
            self.assertEqual(row.base_offset, BATCHES * RECORDS, row)

    def is_whole(self, node, end=BATCHES * RECORDS):
        """The harmed topic serves everything, also appends."""
        self.assertNotIn("offline", self.settled(node))
        with grpc_client.Client(node) as client:
            self.others_are_served(node, client)
            self.assertEqual([r.value for r in client.read("victim", 0)], values_of("victim", 0, end))
            self.assertEqual(client.produce("victim", 0, [b"more"]).base_offset, end)
        out = self.cli(node, "consume", "--topic", "victim", "--from", "beginning", "--until-end")
        self.assertEqual(out.out_bytes, b"".join(v + b"\n" for v in values_of("victim", 0, end)) + b"more\n")

    def consumer_is_told(self, node, first, start=0):
        """The command line: all that lies before comes out, then DATA_LOSS with topic, partition, offset."""
        out = self.cli(node, "consume", "--topic", "victim", "--from", start or "beginning", "--until-end", status=1)
        self.assertEqual(out.out_bytes, b"".join(v + b"\n" for v in values_of("victim", start, first)), "all before it came out")
        sentence = self.error(out, "DATA_LOSS")
        self.assertIn("victim-0", sentence)
        self.assertRegex(sentence, rf"\b{first}\b")
        return sentence

    def reads_around(self, node, client, first, behind):
        end = BATCHES * RECORDS
        if behind < end:
            got = self.cli(node, "consume", "--topic", "victim", "--from", behind, "--until-end")
            self.assertEqual(got.out_bytes, b"".join(v + b"\n" for v in values_of("victim", behind, end)))
        for offset in range(first, min(behind, end), RECORDS):
            out = self.cli(node, "consume", "--topic", "victim", "--from", offset, "--until-end", status=1)
            self.assertEqual(out.out_bytes, b"")
            self.error(out, "DATA_LOSS")

    def is_damaged(self, node, first, behind, file, pos=None):
        """Named everywhere, with file and position; no appends; around it and elsewhere service goes on."""
        body = self.settled(node)
        line = node.wait_log("log_damaged")
        self.assertEqual((line["partition"], line["from_offset"]), ("victim-0", first), line)
        self.assertEqual("%020d" % line["segment"], file[:20])
        if pos is not None:
            self.assertEqual(line["position"], pos)
        offline = node.wait_log("partition_offline")
        self.assertEqual((offline["topic"], offline["code"]), ("victim", "DATA_LOSS"))
        where = f"{file[:20]}.log: position {line['position']}"
        self.assertIn(where, offline["message"])
        self.assertIn("1 partitions are offline", body)
        self.assertIn("victim-0", body)
        self.assertIn(where, body)
        self.assertEqual(self.gauge(node, "streamit_partitions_offline"), 1)
        with grpc_client.Client(node) as client:
            self.others_are_served(node, client)
            refused = client.produce("victim", 0, [b"x"])
            self.assertEqual(refused.error.code, pb.DATA_LOSS)
            self.assertIn(where, refused.error.message)
            fetched = client.fetch("victim", 0, first)
            self.assertEqual(fetched.error.code, pb.DATA_LOSS)
            self.assertIn(f"offsets {first} to ", fetched.error.message)
            self.assertIn(file[:20], fetched.error.message)
            self.consumer_is_told(node, first)
            self.reads_around(node, client, first, behind)
        out = self.cli(node, "produce", "--topic", "victim", data=b"x\n", status=1)
        self.assertIn(where, self.error(out, "DATA_LOSS"))

    def remedy_restore(self, node, path, good):
        """Stop, bring the file back from a copy, start: all of it is there again."""
        node.kill()
        with open(path, "wb") as file:
            file.write(good)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual([r.value for r in client.read("victim", 0)], values_of("victim", 0, BATCHES * RECORDS))
            self.assertEqual(client.produce("victim", 0, [b"more"]).base_offset, BATCHES * RECORDS)

    def remedy_delete(self, node):
        """Delete the topic and make it anew."""
        self.cli(node, "delete-topic", "--name", "victim")
        self.cli(node, "create-topic", "--name", "victim")
        with grpc_client.Client(node) as client:
            self.assertEqual(client.produce("victim", 0, [b"anew"]).base_offset, 0)
        self.assertNotIn("offline", self.settled(node))

    def sample(self, cases, quick):
        cases = list(cases)
        return cases if harness.FULL else self.rng.sample(cases, min(quick, len(cases)))


class Log(Case):
    def test_a_flip_in_the_active_segment_after_a_kill(self):
        """Read at the next start: damage, unless it is in the last batch, which is a tail."""
        for at in self.sample(list(range(0, 12)) + list(range(16, 62)) + [100], 5):
            node = self.fresh("killed")
            active = self.batches(node, -1)
            pos, batch = active[len(active) // 2]
            path = node.segments("victim", 0)[-1]
            good = harness.read(path)
            self.flip(path, pos + min(at, batch.length - 1), 1 << at % 8)
            with self.subTest(byte=at):
                node.start()
                self.is_damaged(node, batch.base_offset, batch.next_offset, os.path.basename(path), pos)
                self.visible(node, "damage was found at the start")
                if at % 2:
                    self.remedy_restore(node, path, good)
                else:
                    self.remedy_delete(node)
            self.done(node)

    def test_a_flip_in_the_last_batch_after_a_kill_is_a_tail(self):
        for at in self.sample(list(range(0, 12)) + list(range(16, 62)) + [100], 2):
            node = self.fresh("killed")
            pos, batch = self.batches(node, -1)[-1]
            self.flip(node.segments("victim", 0)[-1], pos + min(at, batch.length - 1), 1 << at % 8)
            with self.subTest(byte=at):
                node.start()
                self.is_whole(node, batch.base_offset)
                self.assertEqual(node.wait_log("tail_cut")["bytes"], batch.length)
                self.visible(node, "an unfinished tail was cut")
            self.done(node)

    @unittest.skipUnless(faultfs.available(), "no fault layer in this build")
    def test_a_hole_after_a_reboot_is_cut(self):
        """What lay behind it had not been synced: it is gone, and counted."""
        base = self.fresh("killed")
        node = self.node("rebooted")
        layer = faultfs.Layer(self.folder, node.data_dir, boot_id="7f000000-0000-0000-0000-000000000001")
        self.addCleanup(layer.close)
        shutil.move(base.data_dir, node.data_dir)
        pos, batch = self.batches(node, -1)[-3]
        self.flip(node.segments("victim", 0)[-1], pos + 100)
        node.prefix = layer.prefix()
        node.start()
        self.is_whole(node, batch.base_offset)
        self.visible(node, "a log was cut at a hole after a reboot")

    def test_a_reader_finds_damage(self):
        node = self.fresh("stopped")
        pos, _ = self.batches(node, 0)[5]
        self.flip(node.segments("victim", 0)[0], pos + 7)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual(client.fetch("victim", 0, 5 * RECORDS).error.code, pb.DATA_LOSS)
        self.visible(node, "damage was found by a reader")
        self.consumer_is_told(node, 5 * RECORDS)

    def test_a_flip_that_nobody_has_read(self):
        """In a closed segment, or after an orderly end: no byte is read at the start, and a consumer is told when it comes
        there, wherever in the batch the flip is, and for every codec."""
        places = [(s, w, at) for s in (0, 1, -1) for w in (0, 0.5, 1) for at in (0, 7, 8, 11, 16, 17, 21, 23, 26, 43, 57, 61, 120)]
        for segment, where, at in self.sample(places, 8):
            ending = "stopped" if segment == -1 else self.rng.choice(["stopped", "killed"])
            node = self.fresh(ending)
            batches = self.batches(node, segment)
            pos, batch = batches[int(where * (len(batches) - 1))]
            self.flip(node.segments("victim", 0)[segment], pos + min(at, batch.length - 1), 1 << self.rng.randrange(8))
            with self.subTest(segment=segment, where=where, byte=at, codec=batch.codec, ending=ending):
                node.start()
                self.assertNotIn("offline", self.settled(node))
                with grpc_client.Client(node) as client:
                    self.others_are_served(node, client)
                    self.consumer_is_told(node, batch.base_offset)
                    self.reads_around(node, client, batch.base_offset, batch.next_offset)
                    answer = client.produce("victim", 0, [b"more"])
                    for _ in range(200):
                        if answer.error.code != pb.POISONED:
                            break
                        time.sleep(0.02)  # storage knows, and the broker is being told
                        answer = client.produce("victim", 0, [b"more"])
                    if answer.error.code:  # a flip outside the checksum: storage has seen it by then, and looked again
                        self.assertEqual(answer.error.code, pb.DATA_LOSS)
                        self.assertEqual(node.wait_log("log_damaged")["from_offset"], batch.base_offset)
                        self.reads_around(node, client, batch.base_offset, batch.next_offset)
                    else:
                        self.assertEqual(answer.base_offset, BATCHES * RECORDS)
            self.done(node)

    def test_every_codec(self):
        """A flip in the records of a batch of each codec, in a segment that nobody reads at the start."""
        node = self.fresh("stopped")
        path, seen = node.segments("victim", 0)[0], set()
        for pos, batch in self.batches(node, 0):
            if batch.codec not in seen:
                seen.add(batch.codec)
                self.flip(path, pos + batch.length - 3)
        self.assertEqual(len(seen), CODECS)
        node.start()
        for number in range(CODECS):
            self.consumer_is_told(node, number * RECORDS, number * RECORDS)

    def test_cuts(self):
        for segment, ending in self.sample([(s, e) for s in (0, 1, -1) for e in ("stopped", "killed")], 4):
            node = self.fresh(ending)
            batches, path = self.batches(node, segment), node.segments("victim", 0)[segment]
            pos, batch = batches[len(batches) // 2]
            good, behind = harness.read(path), batches[-1][1].next_offset
            with open(path, "r+b") as file:
                file.truncate(pos + self.rng.choice([0, 20, 70]))
            with self.subTest(segment=segment, ending=ending):
                node.start()
                if segment == -1 and ending == "killed":
                    self.is_whole(node, batch.base_offset)
                elif segment == -1:
                    self.is_damaged(node, batch.base_offset, behind, os.path.basename(path))
                    self.remedy_restore(node, path, good)
                else:
                    self.consumer_is_told(node, batch.base_offset)
                    with grpc_client.Client(node) as client:
                        self.reads_around(node, client, batch.base_offset, behind)
                        self.others_are_served(node, client)
            self.done(node)

    def test_missing_segments(self):
        for segment, ending in self.sample([(s, e) for s in (0, 1, -1) for e in ("stopped", "killed")], 4):
            node = self.fresh(ending)
            batches, path = self.batches(node, segment), node.segments("victim", 0)[segment]
            first, behind, good = batches[0][1].base_offset, batches[-1][1].next_offset, harness.read(path)
            os.unlink(path)
            with self.subTest(segment=segment, ending=ending):
                node.start()
                if segment == 1 and ending == "killed":  # below the recovery point: found by who comes there
                    self.consumer_is_told(node, first)
                    with grpc_client.Client(node) as client:
                        self.reads_around(node, client, first, behind)
                else:
                    self.settled(node)
                    self.assertEqual(node.wait_log("log_damaged")["from_offset"], first)
                    with grpc_client.Client(node) as client:
                        self.others_are_served(node, client)
                        self.assertEqual(client.produce("victim", 0, [b"x"]).error.code, pb.DATA_LOSS)
                        self.assertEqual(client.fetch("victim", 0, first).error.code, pb.DATA_LOSS)
                        self.consumer_is_told(node, first)
                        if segment != -1:
                            self.reads_around(node, client, first, behind)
                self.remedy_restore(node, path, good)
            self.done(node)


class Beside(Case):
    """What lies beside the log: nothing of it is trusted over the log, and nothing of it can hide a record."""

    def test_indexes_and_small_files(self):
        harms = ["gone", "empty", "cut", "flipped", "zeros", "noise"]
        files = [".index", ".timeindex", "recovery-point", "leader-epoch-checkpoint"]
        for name, harm, ending in self.sample([(f, h, e) for f in files for h in harms for e in ("stopped", "killed")], 8):
            node = self.fresh(ending)
            folder = node.partition_dir("victim", 0)
            paths = [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.endswith(name)]
            for path in paths:
                self.harm(path, harm)
            with self.subTest(file=name, harm=harm, ending=ending):
                self.assertTrue(paths)
                node.start()
                self.is_whole(node)
            self.done(node)

    def harm(self, path, harm):
        data = harness.read(path)
        if harm == "gone":
            os.unlink(path)
            return
        if harm == "flipped" and data:
            at = self.rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
        data = {"empty": b"", "cut": data[: len(data) // 2], "flipped": data, "zeros": bytes(len(data)),
                "noise": self.rng.randbytes(96)}[harm]
        with open(path, "wb") as file:
            file.write(data)

    def test_leftovers(self):
        for name in self.sample(["truncation", "00000000000000000000.log.swap", "recovery-point.tmp", "lost+found.txt"], 2):
            node = self.fresh("killed")
            with open(os.path.join(node.partition_dir("victim", 0), name), "wb") as file:
                file.write(b"\xffnot ours")
            with self.subTest(file=name):
                node.start()
                self.is_whole(node)
            self.done(node)

    def test_whose_folder_it_is(self):
        """partition.metadata: gone or garbled it is written again; another topic's id is refused, and restoring it helps."""
        for harm in self.sample(["gone", "garbled", "another id"], 2):
            node = self.fresh("stopped")
            path = os.path.join(node.partition_dir("victim", 0), "partition.metadata")
            good = harness.read(path)
            if harm == "gone":
                os.unlink(path)
            elif harm == "garbled":
                self.flip(path, 2)
            else:
                at = good.index(b"id: ") + 6
                with open(path, "wb") as file:
                    file.write(good[:at] + (b"1" if good[at : at + 1] == b"0" else b"0") + good[at + 1 :])
            with self.subTest(harm=harm):
                node.start()
                if harm != "another id":
                    self.is_whole(node)
                else:
                    self.assertIn("1 partitions are offline", self.settled(node))
                    with grpc_client.Client(node) as client:
                        self.others_are_served(node, client)
                        for row in (client.fetch("victim", 0, 0), client.produce("victim", 0, [b"x"])):
                            self.assertEqual(row.error.code, pb.DATA_LOSS)
                            self.assertIn("belongs to another topic", row.error.message)
                    self.assertTrue(node.segments("victim", 0), "nothing was deleted")
                    self.remedy_restore(node, path, good)
            self.done(node)

    def test_the_whole_folder_is_gone(self):
        node = self.fresh("stopped")
        folder, aside = node.partition_dir("victim", 0), self.path("aside")
        shutil.move(folder, aside)
        node.start()
        body = self.settled(node)
        self.assertIn("victim-0: its data is gone from storage storage_mmap", body)
        self.visible(node, "a partition's folder is gone")
        with grpc_client.Client(node) as client:
            self.others_are_served(node, client)
            for row in (client.fetch("victim", 0, 0), client.produce("victim", 0, [b"x"])):
                self.assertEqual(row.error.code, pb.DATA_LOSS)
                self.assertIn("bring the folder back, or delete the topic", row.error.message)
        self.assertFalse(os.path.exists(folder), "nothing was made in its place")
        self.error(self.cli(node, "consume", "--topic", "victim", "--from", 0, "--until-end", status=1), "DATA_LOSS")
        node.kill()
        shutil.move(aside, folder)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual([r.value for r in client.read("victim", 0)], values_of("victim", 0, BATCHES * RECORDS))
        node.kill()
        shutil.rmtree(folder)
        node.start()
        self.settled(node)
        self.remedy_delete(node)


class Folders(Case):
    def test_foreign_files_stop_nothing_and_stay(self):
        node = self.fresh("stopped")
        storage = os.path.join(node.data_dir, "storage_mmap")
        places = (node.data_dir, storage, node.partition_dir("victim", 0))
        for place in places:
            with open(os.path.join(place, "lost+found.txt"), "w", encoding="ascii") as file:
                file.write("mine")
        os.mkdir(os.path.join(storage, "not a partition"))
        node.start()
        self.is_whole(node)
        self.assertEqual(node.stop(), 0)
        self.assertTrue(os.path.isdir(os.path.join(storage, "not a partition")))
        for place in places:
            self.assertEqual(harness.read(os.path.join(place, "lost+found.txt")), b"mine")

    def test_a_copy_of_the_data_folder_serves_the_same(self):
        node = self.fresh("stopped")
        shutil.copytree(node.data_dir, self.path("copy"))
        copy = self.node("copy")
        copy.start()
        self.is_whole(copy)


class NodeFiles(Case):
    """The node's own files: it says in one sentence why it does not start, and deletes nothing."""

    def tree(self, node):
        out = {}
        for folder, _, names in os.walk(node.data_dir):
            for name in names:
                path = os.path.join(folder, name)
                out[os.path.relpath(path, node.data_dir)] = harness.read(path)
        out.pop("lock", None)
        return out

    def refused(self, node, *words, status=1, failure="the metadata log was damaged"):
        before = self.tree(node)
        out = self.daemon(*node.args()[1:], timeout=harness.READY_S)
        self.assertEqual(out.status, status, repr(out))
        lines = [json.loads(line) for line in out.err.splitlines()]
        told = [line for line in lines if line.get("event") in ("start_failed", "refused")]
        self.assertEqual(len(told), 1, repr(out))
        self.assertEqual(told[0]["code"], "DATA_LOSS")
        self.assertIn(f"exit {out.status}", harness.failures()[failure][0])
        self.assertEqual(harness.failures()[failure][1], f"`{told[0]['event']}`")
        for word in words:
            self.assertIn(word, told[0]["message"])
        self.assertEqual(self.tree(node), before, "not a byte was changed, not a file deleted")

    def metadata(self, node, prefix):
        folder = os.path.join(node.data_dir, "metadata_local")
        return [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.startswith(prefix)]

    def test_the_metadata_log(self):
        node = self.fresh("stopped")
        path = self.metadata(node, "log-")[-1]
        good = harness.read(path)
        used = len(good.rstrip(b"\0"))
        self.assertGreater(used, 2000)
        # The header and every frame but the last one, behind which lies a whole frame; padding is nobody's.
        for at in self.sample([n for n in range(used - 1024) if good[n] != 0][:: 1 if harness.FULL else 7], 10):
            with self.subTest(byte=at):
                data = bytearray(good)
                data[at] ^= 0x20
                with open(path, "wb") as file:
                    file.write(data)
                self.refused(node, os.path.basename(path))
        with open(path, "wb") as file:
            file.write(good)  # the remedy
        node.start()
        self.is_whole(node)

    def test_an_unfinished_frame_of_the_metadata_log(self):
        """What a crash leaves of a command that nobody was told of: cut, logged, counted."""
        node = self.fresh("killed")
        path = self.metadata(node, "log-")[-1]
        used = len(harness.read(path).rstrip(b"\0"))
        with open(path, "r+b") as file:
            file.seek(used - 8)
            file.write(bytes(8))
        node.start()
        self.is_whole(node)
        self.visible(node, "the last frame of the metadata log was unfinished")

    def test_the_metadata_log_cut_or_gone(self):
        for harm in ("header gone", "file gone with a topic in it"):
            node = self.fresh("stopped")
            path = self.metadata(node, "log-")[-1]
            good = harness.read(path)
            with self.subTest(harm=harm):
                if harm == "header gone":
                    with open(path, "wb") as file:
                        file.write(bytes(512) + good[512:])
                    self.refused(node, os.path.basename(path))
                    with open(path, "wb") as file:
                        file.write(good)
                    node.start()
                    self.is_whole(node)
                else:
                    # Nobody can know what it held: the node starts without topics, and keeps their folders.
                    os.unlink(path)
                    node.start()
                    with grpc_client.Client(node) as client:
                        self.assertEqual(client.fetch("victim", 0, 0).error.code, pb.UNKNOWN_TOPIC)
                    self.assertTrue(node.segments("victim", 0))
                    out = self.cli(node, "create-topic", "--name", "victim", status=1)
                    self.assertIn("victim-0", self.error(out, "ALREADY_EXISTS"))
                    self.assertTrue(node.segments("victim", 0), "a new topic of that name does not take its folder")
            self.done(node)

    def test_snapshots(self):
        """The newest snapshot is damaged: the older one and its logs give the same; both: refused, and nothing is deleted."""
        node = self.node("snap", sets=["plugins.metadata_local.snapshot_log_commands=10"])
        node.start()
        with grpc_client.Client(node) as client:
            for topic in TOPICS:
                client.create(topic, config={"segment.bytes": "16384"})
                for number in range(BATCHES):
                    client.produce(topic, 0, [value(topic, number, i) for i in range(RECORDS)])
            for number in range(30):
                client.create(f"x{number}")
        self.assertEqual(node.stop(), 0)
        snapshots = self.metadata(node, "snapshot-")
        self.assertEqual(len(snapshots), 2)
        old, new = (harness.read(path) for path in snapshots)
        for at in self.sample(range(0, len(new), 29), 3):
            with self.subTest(byte=at):
                self.flip(snapshots[1], at)
                node.start()
                self.visible(node, "the newest metadata snapshot was damaged")
                with grpc_client.Client(node) as client:
                    self.assertEqual([r.value for r in client.read("victim", 0)], values_of("victim", 0, BATCHES * RECORDS))
                    self.assertEqual(client.end("x29", 0), 0)
                node.kill()
                for path in self.metadata(node, ""):
                    if os.path.basename(path).startswith("snapshot-") and path not in snapshots:
                        self.assertTrue(os.path.getsize(path))
                snapshots = self.metadata(node, "snapshot-")
                self.assertEqual(len(snapshots), 2)
                old, new = (harness.read(path) for path in snapshots)
        for path, data in zip(snapshots, (old, new)):
            with open(path, "wb") as file:
                file.write(data[:-4] + b"xxxx")
        self.refused(node, "snapshot-")
        for path, data in zip(snapshots, (old, new)):
            with open(path, "wb") as file:
                file.write(data)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual([r.value for r in client.read("victim", 0)], values_of("victim", 0, BATCHES * RECORDS))

    def test_identity(self):
        node = self.fresh("stopped")
        path = os.path.join(node.data_dir, "identity")
        good = harness.read(path)
        for at in self.sample(range(len(good)), 6):
            with self.subTest(byte=at):
                self.flip(path, at, 0x02)
                self.refused(node, "the file identity is damaged", failure="the identity was damaged")
                with open(path, "wb") as file:
                    file.write(good)
        for cut in self.sample(range(len(good)), 3):
            with self.subTest(cut=cut):
                with open(path, "wb") as file:
                    file.write(good[:cut])
                self.refused(node, "the file identity is damaged")
        os.unlink(path)  # then the folder gets a new one, and serves what it holds
        node.start()
        self.assertTrue(node.wait_log("identity_created"))
        self.is_whole(node)

    def test_lock(self):
        for harm in (b"", b"garbage\xff", None):
            node = self.fresh("killed")
            path = os.path.join(node.data_dir, "lock")
            if harm is None:
                os.unlink(path)
            else:
                with open(path, "wb") as file:
                    file.write(harm)
            with self.subTest(harm=harm):
                node.start()
                self.is_whole(node)
            self.done(node)


if __name__ == "__main__":
    harness.main()
