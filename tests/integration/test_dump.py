#!/usr/bin/python3
"""streamit dump: what a node wrote, told again and judged; what was damaged, named with file and position.

The real folder comes from a node, in every codec, over several segments and a kill -9. The damaged ones are made by
hand, so that every file is exactly as bad as its test says.
"""

import base64
import hashlib
import os
import random
import re
import shutil
import struct
import sys
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402
import record_batch  # noqa: E402

LOG, INDEX, TIMES = "00000000000000000000.log", "00000000000000000000.index", "00000000000000000000.timeindex"


def tree(folder):
    """Every file below a folder: content and time of change."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            found[path] = (hashlib.sha256(harness.read(path)).hexdigest(), os.stat(path).st_mtime_ns)
    return found


def flip(path, pos, mask=1):
    data = bytearray(harness.read(path))
    data[pos] ^= mask
    with open(path, "wb") as file:
        file.write(data)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def sealed(lines):
    return lines + f"{record_batch.crc32c(lines.encode()):08x}\n"


class Dumping(harness.TestCase):
    def dump(self, *args, status=0):
        return self.cli(None, "dump", *args, status=status)

    def lines(self, *args, status=0):
        return self.cli(None, "dump", *args, status=status, options=["--json"]).json_lines

    def damaged(self, path, *more):
        """Verify, and return {file: (position, sentence)} of what is damaged; empty: exit status 0."""
        result = self.dump("--verify", path, *more, status=None)
        found = {}
        for line in result.err.splitlines():
            if line.startswith("error: "):
                self.assertTrue(line.startswith("error: DATA_LOSS: "), line)
                file, _, rest = line[len("error: DATA_LOSS: ") :].partition(": position ")
                position, _, sentence = rest.partition(": ")
                self.assertNotIn(file, found, "one damage a file")
                self.assertTrue(sentence, line)
                found[file] = (int(position), sentence)
        self.assertEqual(result.status, 1 if found else 0, repr(result))
        self.warned = [line for line in result.err.splitlines() if line.startswith("warning: ")]
        return found


class Real(Dumping):
    def write_all(self, node):
        """Two partitions in every codec; returns the values of each."""
        values = [[], []]
        rng = random.Random(7)
        with grpc_client.Client(node) as client:
            client.create("t", partitions=2, config={"segment.bytes": "65536"})
            for i in range(150):
                for partition in range(2):
                    some = [b"%d-%d-" % (i, k) + rng.randbytes(rng.randrange(400)) for k in range(rng.randrange(1, 8))]
                    client.produce("t", partition, record_batch.encode(some, codec=i % 5))
                    values[partition] += some
        return values

    def check(self, node, values):
        for partition in range(2):
            folder = node.partition_dir("t", partition)
            lines = self.lines(folder, "--records", "--verify")
            batches = [line for line in lines if line["type"] == "batch"]
            oracle = []
            for path in node.segments("t", partition):
                pos = 0
                for batch in record_batch.decode_all(harness.read(path)):
                    oracle.append((path, pos, batch))
                    pos += batch.length
            self.assertEqual([(b["file"], b["position"], b["length"], b["base_offset"], b["last_offset"], b["epoch"], b["codec"],
                               b["count"], b["base_timestamp"], b["max_timestamp"], b["crc_ok"]) for b in batches],
                             [(path, pos, b.length, b.base_offset, b.next_offset - 1, b.leader_epoch,
                               record_batch.CODEC_NAMES[b.codec], len(b.records), b.base_timestamp, b.max_timestamp, True)
                              for path, pos, b in oracle])
            records = [line for line in lines if line["type"] == "record"]
            self.assertEqual([r["offset"] for r in records], list(range(len(values[partition]))))
            got = [base64.b64decode(r["value_base64"]) if "value_base64" in r else r["value"].encode() for r in records]
            self.assertEqual(got, values[partition])
            entries = [line for line in lines if line["type"] == "entry" and "position" in line]
            by_position = {(path[:-4], pos): b for path, pos, b in oracle}
            self.assertTrue(entries)
            for entry in entries:
                batch = by_position[entry["file"][: -len(".index")], entry["position"]]
                self.assertEqual(batch.next_offset - 1, entry["offset"])

    def test_what_a_node_wrote(self):
        node = self.node()
        node.start()
        values = self.write_all(node)
        self.assertEqual(self.damaged(node.data_dir), {}, "while the node runs")
        self.check(node, values)
        node.stop()
        before = tree(node.data_dir)
        self.check(node, values)
        self.assertEqual(self.damaged(node.data_dir), {})
        self.assertEqual(self.warned, [])
        lines = self.lines(node.data_dir)
        self.assertEqual(lines[-1]["type"], "summary")
        self.assertEqual((lines[-1]["partitions"], lines[-1]["records"], lines[-1]["damaged_files"]),
                         (2, sum(map(len, values)), 0))
        kinds = {os.path.basename(line["file"]): line["kind"] for line in lines if line["type"] == "file"}
        self.assertEqual(kinds["log-00000000000000000000"], "metadata log")
        self.assertEqual(kinds["identity"], "text")
        self.assertEqual(kinds["lock"], "the lock of the data folder")
        self.assertTrue([line for line in lines if line["type"] == "frame" and line["first_index"] == 1])
        self.assertEqual(tree(node.data_dir), before, "dump changes nothing")

    def test_after_kill_and_restart_epochs_agree(self):
        node = self.node()
        for cycle in range(3):
            node.start()
            with grpc_client.Client(node) as client:
                if cycle == 0:
                    client.create("t", partitions=1, config={"segment.bytes": "65536"})
                for i in range(40):
                    client.produce("t", 0, record_batch.encode([b"x" * 900] * 3, codec=i % 5))
            node.kill()
            self.assertEqual(self.damaged(node.data_dir), {}, f"after kill {cycle}")
        folder = node.partition_dir("t", 0)
        epochs = [line for line in self.lines(folder) if line["type"] == "epoch"]
        self.assertTrue(epochs)
        checkpoint = os.path.join(folder, "leader-epoch-checkpoint")
        write(checkpoint, f"0\n1\n{epochs[-1]['epoch'] + 1} 0\n")
        found = self.damaged(folder)
        self.assertEqual(found[os.path.join(folder, LOG)][0], 0)
        self.assertIn("belongs to epoch", found[os.path.join(folder, LOG)][1])

    def test_beside_a_writing_node(self):
        """Retention, rolls and appends go on meanwhile: none of it looks like damage, and nothing is disturbed."""
        node = self.node()
        node.start()
        end = time.monotonic() + (20 if harness.FULL else 3)
        with grpc_client.Client(node) as client:
            client.create("t", partitions=1, config={"segment.bytes": "65536", "retention.bytes": "200000"})
            sent = 0
            while time.monotonic() < end:
                for _ in range(20):
                    client.produce("t", 0, record_batch.encode([b"y" * 700] * 5, codec=sent % 5))
                    sent += 5
                self.assertEqual(self.damaged(node.data_dir), {})
            self.assertEqual(client.end("t", 0), sent)

    def test_the_metadata_log_and_the_kernels_texts(self):
        node = self.node()
        node.start()
        with grpc_client.Client(node) as client:
            for i in range(5):
                client.create(f"t{i}", partitions=1)
        node.stop()
        log = os.path.join(node.data_dir, "metadata_local", "log-00000000000000000000")
        frames = [line for line in self.lines(log, "--records") if line["type"] == "frame"]
        self.assertGreaterEqual(len(frames), 5)
        self.assertEqual(self.damaged(log), {})
        saved = harness.read(log)
        for pos, sentence in [(3, "command log"), (62, "checksum"), (512 + 40, "sound ones behind"),
                              (frames[-1]["position"] + 40, "checksum")]:
            flip(log, pos)
            found = self.damaged(node.data_dir)
            self.assertEqual(list(found), [log])
            self.assertEqual(found[log][0], 0 if pos < 512 else pos // 512 * 512)
            self.assertIn(sentence, found[log][1])
            write(log, saved)
        write(log, saved[: frames[-1]["position"] + 20])
        self.assertEqual(self.damaged(log), {})
        self.assertIn("an unfinished frame", self.warned[0])
        write(log, saved)
        for name in ["identity", os.path.join("storage_mmap", "engine")]:
            path = os.path.join(node.data_dir, name)
            text = harness.read(path)
            for pos in range(len(text)):
                flip(path, pos, 0x02)
                self.assertEqual(list(self.damaged(path)), [path], f"byte {pos}")
                write(path, text)


class Made(Dumping):
    """A partition of our own making: two segments, an index entry for each batch, every small file."""

    def setUp(self):
        super().setUp()
        self.dir = self.path("p-0")
        os.mkdir(self.dir)
        self.names = []
        self.starts = {}  # positions of the batches of a segment
        offset = 0
        for segment in range(2):
            base, log, index, times = offset, b"", b"", b""
            stem = f"{base:020d}"
            self.starts[segment] = []
            for i in range(10):
                batch = record_batch.encode([record_batch.Record(b"r%d" % k * 20, timestamp=1000 + 10 * segment + i)
                                             for k in range(1 + i % 3)], codec=i % 5, base_offset=offset, leader_epoch=segment)
                decoded = record_batch.decode_one(batch)
                offset = decoded.next_offset
                index += struct.pack(">II", offset - 1 - base, len(log)) if i > 0 else b""
                times += struct.pack(">qI", decoded.max_timestamp, offset - 1 - base)
                self.starts[segment].append(len(log))
                log += batch
            self.starts[segment].append(len(log))
            for suffix, data in [("log", log), ("index", index), ("timeindex", times)]:
                write(os.path.join(self.dir, f"{stem}.{suffix}"), data)
            self.names.append(stem)
        self.end = offset
        self.second = int(self.names[1])
        self.small("partition.metadata", "version: 0\ntopic_id: 00112233445566778899aabbccddeeff\n")
        self.small("leader-epoch-checkpoint", f"0\n2\n0 0\n1 {self.second}\n")
        self.small("log-start-offset", "0\n3\n")
        self.clean()

    def at(self, name):
        return os.path.join(self.dir, name)

    def small(self, name, text):
        write(self.at(name), text)

    def clean(self):
        size = os.path.getsize(self.at(f"{self.names[1]}.log"))
        self.small("recovery-point", sealed(f"1\n{self.end} -\nclean {self.end} {self.second} {size} 1019 1\n"))

    def dirty(self):
        self.small("recovery-point", sealed("1\n0 -\ndirty\n"))

    def test_it_is_sound(self):
        self.assertEqual(self.damaged(self.dir), {})
        self.assertEqual(self.warned, [])
        self.dirty()
        self.assertEqual(self.damaged(self.dir), {})
        for name in os.listdir(self.dir):
            self.assertEqual(self.damaged(self.at(name)), {}, name)

    def test_every_byte_of_a_log(self):
        """Each byte of the first segment: damage at the batch that it lies in, and of no other file."""
        path = self.at(f"{self.names[0]}.log")
        step = 1 if harness.FULL else 13
        starts = self.starts[0]
        for pos in range(0, starts[-1], step):
            flip(path, pos, 0x10)
            found = self.damaged(self.dir, "--quiet")
            batch = max(s for s in starts if s <= pos)
            self.assertEqual(list(found), [path], f"byte {pos}")
            self.assertEqual(found[path][0], batch, f"byte {pos}")
            flip(path, pos, 0x10)

    def test_the_first_damage_of_each_file(self):
        first, second = self.at(f"{self.names[0]}.log"), self.at(f"{self.names[1]}.log")
        for i in (2, 5, 8):
            flip(first, self.starts[0][i] + 30)
            flip(second, self.starts[1][i - 1] + 70)
        found = self.damaged(self.dir)
        self.assertEqual({k: v[0] for k, v in found.items()}, {first: self.starts[0][2], second: self.starts[1][1]})
        bad = [line for line in self.lines(self.dir) if line["type"] == "batch" and not line["crc_ok"]]
        self.assertEqual(len(bad), 6, "without --verify the listing says it, and the status is 0")

    def test_tails(self):
        """Cut, zeros or noise at the end: a warning if a write left it, and damage if the bytes were known to be safe."""
        path = self.at(f"{self.names[1]}.log")
        sound = harness.read(path)
        last = self.starts[1][-2]
        cuts = list(range(last + 1, len(sound), 1 if harness.FULL else 17))
        for cut in cuts:
            write(path, sound[:cut])
            self.dirty()
            self.assertEqual(self.damaged(self.dir, "--quiet"), {}, f"cut at {cut}")
            tails = [w for w in self.warned if "unfinished tail" in w]
            self.assertEqual(len(tails), 1)
            self.assertIn(f"{path}: position {last}: an unfinished tail of {cut - last} bytes", tails[0])
            self.clean_at(sound)
            found = self.damaged(self.dir, "--quiet")
            self.assertEqual({k: v[0] for k, v in found.items() if k == path}, {path: last}, "below a clean end")
        self.dirty()
        write(path, sound + bytes(3000))
        self.assertEqual(self.damaged(self.dir), {})
        self.assertIn("3000 bytes", self.warned[0])
        write(path, sound + b"noise" * 100)
        found = self.damaged(self.dir)
        self.assertEqual(found[path][0], len(sound))
        self.assertIn("nothing sound follows: recovery cuts 500 bytes off here", found[path][1])
        write(path, sound)
        flip(path, last + 80)
        found = self.damaged(self.dir)
        self.assertEqual(found[path][0], last, "a whole batch with a wrong checksum is no unfinished write")
        # Cut at a batch: nothing looks wrong but for what the recovery point knows.
        write(path, sound[:last])
        self.assertEqual(self.damaged(self.dir), {})
        self.clean_at(sound)
        self.assertIn("was synced", self.damaged(self.dir)[path][1])
        # A tail in a closed segment is none.
        write(path, sound)
        self.clean()
        first = self.at(f"{self.names[0]}.log")
        write(first, harness.read(first)[:-3])
        self.dirty()
        self.assertIn("other segments follow", self.damaged(self.dir)[first][1])

    def clean_at(self, data):
        self.small("recovery-point", sealed(f"1\n{self.end} -\nclean {self.end} {self.second} {len(data)} 1019 1\n"))

    def test_neighbours(self):
        """What no checksum covers: offsets, lengths, epochs, names, gaps."""
        first, second = self.at(f"{self.names[0]}.log"), self.at(f"{self.names[1]}.log")
        sound = harness.read(first)

        def patched(i, **fields):
            data = bytearray(sound)
            for key, (offset, fmt) in {"base": (0, ">q"), "length": (8, ">i"), "epoch": (12, ">i")}.items():
                if key in fields:
                    struct.pack_into(fmt, data, self.starts[0][i] + offset, fields[key])
            write(first, bytes(data))

        patched(3, base=100)
        self.assertEqual(self.damaged(self.dir)[first], (self.starts[0][3], "the batch begins with offset 100, expected 6"))
        patched(0, base=1)
        self.assertIn("as the file's name says", self.damaged(self.dir)[first][1])
        patched(3, epoch=1)
        self.assertIn("belongs to epoch 0", self.damaged(self.dir)[first][1])
        os.unlink(self.at("leader-epoch-checkpoint"))
        self.assertEqual(self.damaged(self.dir)[first][0], self.starts[0][4], "the epoch falls behind it")
        patched(3, length=-5)
        self.assertIn("batch length -5", self.damaged(self.dir)[first][1])
        patched(3, length=2**31 - 1)
        self.assertIn(f"bytes of a batch of {2**31 + 11}", self.damaged(self.dir)[first][1])
        write(first, sound)
        os.rename(first, self.at(f"{1:020d}.log"))
        self.assertIn("as the file's name says", self.damaged(self.dir)[self.at(f"{1:020d}.log")][1])
        os.rename(self.at(f"{1:020d}.log"), first)
        write(first, sound[: self.starts[0][8]])
        found = self.damaged(self.dir)
        self.assertEqual(found[second][0], 0)
        self.assertIn("what lay between is missing", found[second][1])
        os.unlink(second)
        write(first, sound)
        self.assertIn("was synced", self.damaged(self.dir)[first][1])

    def test_indexes(self):
        for suffix, size in (("index", 8), ("timeindex", 12)):
            path = self.at(f"{self.names[0]}.{suffix}")
            log = self.at(f"{self.names[0]}.log")
            sound = harness.read(path)
            for pos in range(0, len(sound), 1 if harness.FULL else 5):
                flip(path, pos, 0x04)
                for target in (self.dir, path):
                    found = self.damaged(target, "--quiet")
                    self.assertEqual(list(found), [path], f"{suffix} byte {pos} of {target}")
                    self.assertLessEqual(abs(found[path][0] // size - pos // size), 1, "the entry, or the one behind it")
                write(path, sound)
            write(path, sound[:-3])
            self.assertEqual(self.damaged(self.dir)[path][0], len(sound) - size)
            write(path, sound + sound[-size:])
            self.assertIn("not above", self.damaged(self.dir)[path][1])
            write(path, sound[size:])
            self.assertEqual(self.damaged(self.dir), {}, "sparse is sound")
            os.unlink(path)
            self.assertEqual(self.damaged(self.dir), {})
            self.assertIn(f"{path}: position 0: it is missing, and will be made anew", self.warned[0])
            write(path, sound)
            # Damage of the log is no damage of its index.
            flip(log, self.starts[0][4] + 50)
            self.assertEqual(list(self.damaged(self.dir)), [log])
            flip(log, self.starts[0][4] + 50)
        write(self.at(f"{self.names[0]}.timeindex"), harness.read(self.at(f"{self.names[0]}.timeindex"))[:-12])
        self.assertEqual(self.damaged(self.dir), {})
        self.assertIn("newest timestamp", self.warned[0])

    def test_small_files(self):
        for name in ["partition.metadata", "recovery-point", "leader-epoch-checkpoint", "log-start-offset"]:
            path = self.at(name)
            sound = harness.read(path)
            for cut in range(0, len(sound), 1 if harness.FULL else 5):
                write(path, sound[:cut])
                for target in (path, self.dir):
                    found = self.damaged(target, "--quiet")
                    self.assertEqual(list(found), [path], f"{name} cut at {cut}")
                    self.assertLessEqual(found[path][0], cut)
            write(path, sound + b"x")
            self.assertEqual(list(self.damaged(path)), [path])
            write(path, b"\0" * len(sound))
            self.assertEqual(list(self.damaged(path)), [path])
            write(path, b"9" * 100000)
            self.assertEqual(list(self.damaged(path)), [path])
            write(path, sound)
        self.small("leader-epoch-checkpoint", f"0\n2\n1 0\n1 {self.second}\n")
        self.assertEqual(list(self.damaged(self.at("leader-epoch-checkpoint"))), [self.at("leader-epoch-checkpoint")])
        self.small("leader-epoch-checkpoint", "1\n0\n")
        self.assertEqual(self.damaged(self.at("leader-epoch-checkpoint")), {})
        self.assertIn("version", self.warned[0])
        self.small("leader-epoch-checkpoint", f"0\n2\n0 0\n1 {self.second}\n")
        self.small("log-start-offset", "0\n999\n")
        self.assertEqual(list(self.damaged(self.dir)), [self.at("log-start-offset")])

    def test_strangers_are_listed_and_left_alone(self):
        self.small("notes.txt", "mine")
        self.small("00000000000000000000.log.swap", "half")
        self.small("recovery-point.tmp", "half")
        os.symlink("/etc/passwd", self.at("link"))
        os.mkdir(self.at("folder"))
        os.mkfifo(self.at("00000000000000000999.log"))
        lines = self.lines(self.dir)
        kinds = {os.path.basename(line["file"]): line["kind"] for line in lines if line["type"] == "file"}
        for name in ("notes.txt", "link", "folder"):
            self.assertIn("left alone", kinds[name])
        for name in ("00000000000000000000.log.swap", "recovery-point.tmp"):
            self.assertIn("unfinished", kinds[name])
        os.unlink(self.at("00000000000000000999.log"))
        self.assertEqual(self.damaged(self.dir), {})
        self.small("truncation", "0\n12\n")
        self.assertEqual(self.damaged(self.dir), {})
        self.assertIn("a truncation to offset 12 is under way", self.warned[0])

    def test_copies_under_other_names(self):
        copy = self.path("copy.log")
        shutil.copy(self.at(f"{self.names[1]}.log"), copy)
        self.assertEqual(self.damaged(copy), {})
        flip(copy, 40)
        self.assertEqual(self.damaged(copy)[copy][0], 0)
        for suffix in ("index", "timeindex"):
            copy = self.path(f"copy.{suffix}")
            shutil.copy(self.at(f"{self.names[1]}.{suffix}"), copy)
            self.assertTrue([line for line in self.lines(copy) if line["type"] == "entry"])

    def test_hostile_sizes(self):
        """A file that claims much is answered at once, in little memory."""
        path = self.at(f"{self.names[1]}.log")
        self.dirty()
        sound = harness.read(path)
        # A batch of 2 GB in a sparse file: its checksum is wrong, and nobody holds it in memory.
        with open(path, "r+b") as file:
            file.truncate(1 << 28)
            file.seek(len(sound))
            file.write(struct.pack(">qiib", self.end, (1 << 28) - len(sound) - 12, 1, 2))
        result = self.cli(None, "dump", "--verify", "--quiet", "--records", path, status=1,
                          env={**os.environ, "MALLOC_ARENA_MAX": "1"})
        self.assertIn("CRC", self.error(result, "DATA_LOSS"))
        write(path, sound)
        # Records that would be 4 GB when decompressed, and a batch whose count is a lie.
        bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
        body = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(200)) + bomb.flush()
        head = struct.pack(">hiqqqhii", 1, 0, 5, 5, -1, -1, -1, 1) + body
        batch = struct.pack(">qiibI", self.end, len(head) + 9, 1, 2, record_batch.crc32c(head)) + head
        write(path, sound + batch)
        self.assertEqual(self.damaged(self.dir), {}, "its checksum is right")
        found = self.damaged(self.dir, "--records")
        self.assertEqual(found[path][0], len(sound))
        self.assertIn("cannot be read", found[path][1])
        with open(self.at(f"{self.names[1]}.index"), "r+b") as file:
            file.truncate(1 << 30)
        self.assertEqual(list(self.damaged(self.dir, "--quiet")), [self.at(f"{self.names[1]}.index")])


class Document(Dumping):
    """The examples of docs/FORMAT.md, taken out of the page, are what it says they are."""

    def setUp(self):
        super().setUp()
        with open(os.path.join(harness.ROOT, "docs", "FORMAT.md"), encoding="utf-8") as file:
            page = file.read()
        self.page = page
        self.examples = {}
        for name, block in re.findall(r"^<!-- example: (\S+) -->\n((?:    .*\n)+)", page, re.M):
            lines = [line[4:] for line in block.splitlines()]
            if re.fullmatch(r"[0-9a-f]{4} ( [0-9a-f]{2})+", lines[0]):
                data = bytearray()
                for line in lines:
                    at, some = int(line[:4], 16), bytes.fromhex(line[4:])
                    self.assertGreaterEqual(at, len(data), name)
                    data += bytes(at - len(data)) + some
                self.examples[name] = bytes(data)
            else:
                self.examples[name] = ("\n".join(lines) + "\n").encode()
        self.dir = self.path("t-0")
        os.mkdir(self.dir)
        for name, data in self.examples.items():
            write(os.path.join(self.dir, name), data)

    def test_every_kind_of_file_has_an_example(self):
        self.assertEqual(sorted(self.examples), sorted([
            "00000000000000000042.log", "00000000000000000042.index", "00000000000000000042.timeindex", "partition.metadata",
            "recovery-point", "log-start-offset", "leader-epoch-checkpoint", "identity", "engine",
            "log-00000000000000000000", "snapshot-00000000000000000009", "damage"]))

    def test_they_hold(self):
        self.assertEqual(self.damaged(self.dir), {})
        self.assertEqual(len(self.warned), 1, "the file `damage`")
        for name in self.examples:
            self.assertEqual(self.damaged(os.path.join(self.dir, name)), {}, name)
        lines = self.lines(self.dir, "--records")
        batch, = [line for line in lines if line["type"] == "batch"]
        told = {key: batch[key] for key in ("base_offset", "last_offset", "position", "length", "epoch", "codec", "producer_id",
                                            "count", "base_timestamp", "max_timestamp", "crc_ok")}
        self.assertEqual(told, {"base_offset": 42, "last_offset": 43, "position": 0, "length": 93, "epoch": 3, "codec": "none",
                                "producer_id": -1, "count": 2, "base_timestamp": 1700000000000,
                                "max_timestamp": 1700000000005, "crc_ok": True})
        self.assertEqual([(r["offset"], r["timestamp"], r["key"], r["value"], r["headers"])
                          for r in lines if r["type"] == "record"],
                         [(42, 1700000000000, "k1", "hello", [{"name": "h1", "value": "v1"}]),
                          (43, 1700000000005, None, "world", [])])
        entries = [line for line in lines if line["type"] == "entry"]
        self.assertEqual([(e["offset"], e.get("position"), e.get("timestamp")) for e in entries],
                         [(43, 0, None), (43, None, 1700000000005)])
        bad, = [line for line in lines if line["type"] == "range"]
        self.assertEqual((bad["segment"], bad["from_position"], bad["to_position"], bad["from_offset"], bad["to_offset"], bad["crc"]),
                         (42, 93, 200, 44, 47, 305419896))
        frame, = [line for line in self.lines(os.path.join(self.dir, "log-00000000000000000000")) if line["type"] == "frame"]
        self.assertEqual((frame["position"], frame["length"], frame["first_index"], frame["commands"]), (512, 57, 1, 1))

    def test_the_table_names_every_byte_of_the_batch(self):
        """The first column of the table, one after the other, is the batch."""
        table = self.page.split("### One batch")[1].split("| bytes |")[1].split("## Segment")[0]
        data = b""
        for row in re.findall(r"^\| (`[0-9a-f].*?) \|", table, re.M):
            for some, times in re.findall(r"`([0-9a-f ]+)`(?: x (\d+))?", row):
                data += bytes.fromhex(some) * int(times or 1)
        self.assertEqual(data.hex(" "), self.examples["00000000000000000042.log"].hex(" "))


class Usage(Dumping):
    def test_refusals(self):
        self.assertIn("expected a file or a folder", self.dump(status=2).err)
        self.assertIn("unknown option --what", self.dump("--what", status=2).err)
        self.error(self.dump("/no/such/path", status=1), "NOT_FOUND")
        stranger = self.path("x.txt")
        write(stranger, "x")
        self.error(self.dump(stranger, status=1), "INVALID_ARGUMENT")
        self.error(self.dump("/dev/null", status=1), "IO")
        empty = self.path("empty")
        os.mkdir(empty)
        self.assertEqual(self.dump(empty, "--verify").out, "")
        self.assertIn("--verify", self.dump("--help").out)
        self.assertIn("dump", self.cli(None, "--help").out)


if __name__ == "__main__":
    harness.main()
