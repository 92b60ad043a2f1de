#!/usr/bin/python3
"""Make the seeds of the fuzzers from real files: tests/fuzz/make_seeds.py, with a built tree.

A node writes topics in every codec over several segments, is killed and started, and its files are packed as the
fuzzers take them (fuzz.h). Seeds are named seed-*; other files of a corpus are inputs that once found something.
"""

import os
import shutil
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402
import record_batch  # noqa: E402

pb = grpc_client.pb

# In the order of `names` in fuzz_storage.c and fuzz_metadata.c.
STORAGE = ["00000000000000000000.log", "00000000000000000000.index", "00000000000000000000.timeindex",
           "00000000000000000010.log", "00000000000000000010.index", "00000000000000000010.timeindex",
           "00000000000000000020.log", "00000000000000000000.log.swap", "00000000000000000010.log.swap", "recovery-point",
           "log-start-offset", "truncation", "partition.metadata", "leader-epoch-checkpoint", "damage"]
METADATA = ["log-00000000000000000000", "log-00000000000000000001", "log-00000000000000000002",
            "log-00000000000000000003", "snapshot-00000000000000000001", "snapshot-00000000000000000002",
            "snapshot-00000000000000000003"]


def seed(corpus, name, data):
    folder = os.path.join(HERE, "corpus", corpus)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"seed-{name}"), "wb") as file:
        file.write(data)


def pack(how, files):
    """files: [(number of the name, bytes)]"""
    return bytes([how] if how is not None else []) + b"".join(struct.pack(">BH", n, len(d)) + d for n, d in files)


def summed(lines):
    return lines + f"{record_batch.crc32c(lines):08x}\n".encode()


def batches():
    for codec in range(5):
        for count in (1, 3):
            records = [record_batch.Record(b"value %d" % i * 5, None if i == 1 else b"key", [(b"h", b"v"), (b"n", None)], 1000 + i)
                       for i in range(count)]
            seed("batch", f"{record_batch.CODEC_NAMES[codec]}-{count}",
                 bytes([0b1101, 40]) + record_batch.encode(records, codec=codec))
    seed("batch", "producer", bytes([0b0111, 70]) + record_batch.encode([b"x"], producer_id=7, producer_epoch=1, base_sequence=3))


def made_log(base, end, epoch, codecs=range(5)):
    """A log, its indexes, of two records a batch."""
    log = index = times = b""
    for i, offset in enumerate(range(base, end, 2)):
        index += struct.pack(">II", offset + 1 - base, len(log)) if i % 2 else b""
        times += struct.pack(">qI", 1000 + offset, offset + 1 - base) if i % 2 else b""
        log += record_batch.encode([record_batch.Record(b"v%d" % k * 9, timestamp=1000 + offset) for k in range(2)],
                                   codec=list(codecs)[i % len(list(codecs))], base_offset=offset, leader_epoch=epoch)
    return log, index, times


def folders():
    meta = b"version: 0\ntopic_id: 00000000000000000000000000000000\n"
    first, second, third = made_log(0, 10, 1), made_log(10, 20, 1), made_log(20, 24, 2)
    whole = list(enumerate(first)) + [(3 + i, d) for i, d in enumerate(second)] + [(6, third[0]), (12, meta)]
    clean = summed(b"1\n24 -\nclean 24 20 %d 1022 2\n" % len(third[0]))
    dirty = summed(b"1\n10 -\ndirty\n")
    epochs = (13, b"0\n2\n1 0\n2 20\n")
    seed("storage", "clean", pack(6, whole + [(9, clean), epochs]))
    seed("storage", "dirty", pack(6, whole + [(9, dirty), epochs]))
    seed("storage", "commit", pack(1, whole + [(9, dirty)]))
    seed("storage", "no-indexes", pack(2, [(0, first[0]), (3, second[0]), (12, meta)]))
    seed("storage", "tail", pack(0, [(0, first[0][:-20]), (1, first[1]), (12, meta), (9, summed(b"1\n0 -\ndirty\n"))]))
    seed("storage", "hole", pack(0, [(0, first[0][:130] + bytes(60) + first[0][190:]), (12, meta)]))
    seed("storage", "rebooted", pack(4, [(0, first[0][:130] + bytes(60) + first[0][190:]), (12, meta),
                                         (9, summed(b"1\n0 00000000-0000-0000-0000-000000000000\ndirty\n"))]))
    seed("storage", "trimmed", pack(8, whole[3:] + [(10, b"0\n13\n"), (9, dirty)]))
    seed("storage", "truncation", pack(0, whole + [(11, b"0\n4\n"), (7, first[0][:200])]))
    seed("storage", "swap-alone", pack(0, whole + [(8, second[0][:100])]))
    seed("storage", "damage", pack(4, whole + [(9, clean), (14, summed(b"0\n0 0 %d 0 2 0\n" % 80))]))
    seed("storage", "gap", pack(0, [(0, first[0]), (6, third[0]), (12, meta)]))


def config():
    with open(harness.CONFIG, "rb") as file:
        seed("config", "standalone", pack(None, [(0, file.read())]))
    with open(os.path.join(harness.ROOT, "etc", "reference.cfg"), "rb") as file:
        seed("config", "reference", pack(None, [(0, file.read())]))
    text = b'@include "more.cfg"\nplugins: { x: { port = 0x10; bytes = 4294967296; tls = true; topics = ( { name = "t"; ' \
           b'partitions = 3; } ); tags = [ "a", "b" ]; password = "s\\x41"; }; };\n'
    seed("config", "include", pack(None, [(0, text), (1, b"node: { node_id = 1; };\n"),
                                          (2, b"plugins.x.port=1\nplugins.x.tags=[\"q\"]\nplugins.y.file=y.so\n")]))
    seed("config", "twice", pack(None, [(0, b"node = 1;\nnode = 2;\n/* open"), (1, b"x")]))


def files(folder, commands):
    for name in sorted(os.listdir(folder)):
        data = harness.read(os.path.join(folder, name))[:3000]
        if name.endswith(".log"):
            seed("files", f"walk-{name[:20]}", bytes([3, 60]) + data)
        elif "index" in name:
            seed("files", name, bytes([5, 0]) + data)
        else:
            seed("files", name, bytes([1 if "epoch" in name else 0, 0]) + data)
    for name in ("00000000000000000042.log", "00000000000000000042.timeindex", "recovery-point", "log-00000000000000000000"):
        seed("files", f"name-{name}", bytes([2, 0]) + name.encode())
    seed("files", "damage", bytes([1, 0]) + summed(b"0\n0 10 20 3 5 77\n10 0 99 12 19 0\n"))
    seed("files", "offset", bytes([0, 0]) + b"0\n42\n")
    for name in commands:
        data = harness.read(commands[name])
        seed("files", f"commands-{name[:8]}", bytes([4, 0]) + data[:2048])
        if name.startswith("log"):
            seed("files", "frame", bytes([4, 0]) + data[512:1024])


def requests():
    """In the order of `types` in fuzz_wire.c; then the two of Produce."""
    batch = record_batch.encode([b"v"])
    keys = [pb.FetchPartition(topic="t", partition=3, offset=70, leader_epoch=1, last_epoch=0),
            pb.FetchPartition(topic_id=bytes(16))]
    config = [pb.ConfigEntry(key="retention.ms", value="1000"), pb.ConfigEntry(key="segment.bytes", reset=True)]
    records = [pb.Record(key=b"k", value=b"value", timestamp_ms=1000, headers=[pb.Header(key="h", value=b"x"), pb.Header(key="n")]),
               pb.Record(value=b"")]
    rows = [pb.ProducePartition(topic="orders", partition=2, batch=batch),
            pb.ProducePartition(topic="o", compression=2, records=records)]
    messages = [
        pb.FetchRequest(max_wait_ms=5, min_bytes=1, max_bytes=100, read_committed=True, partitions=keys, decode=True),
        pb.ListOffsetsRequest(partitions=[pb.ListOffsetsPartition(topic="t", partition=1)]),
        pb.CreateTopicRequest(name="t", partitions=3, replication=1, config=config, timeout_ms=9, validate_only=True),
        pb.AlterTopicRequest(name="t", partitions=4, config=config),
        pb.DeleteTopicRequest(name="t"), pb.ListTopicsRequest(), pb.DescribeTopicRequest(name="t"),
        pb.FindLeaderRequest(topic="t", partition=1), grpc_client.health.HealthCheckRequest(service="streamit.v1.StreamIt"),
        grpc_client.reflection.ServerReflectionRequest(file_containing_symbol="streamit.v1.StreamIt"),
        pb.ProduceRequest(acks=1, timeout_ms=100, replicas_min=1, partitions=rows),
        pb.ProduceStreamRequest(id=7, acks=1, timeout_ms=100, answered=6, partitions=rows)]
    for i, message in enumerate(messages):
        seed("wire", type(message).__name__, bytes([i, 3]) + message.SerializeToString())


def answers():
    """In the order of the cases in fuzz_answer.c."""
    error = pb.Error(code=3, message="a sentence", retry_after_ms=10)
    described = pb.DescribeTopicResponse(topic=pb.TopicDescription(
        name="t", topic_id=bytes(range(16)), replication=1,
        partitions=[pb.PartitionDescription(partition=0, leader=1, leader_epoch=2, replicas=[1, 2], isr=[1], error=error)],
        config=[pb.TopicConfig(key="a", value="b", source=pb.CONFIG_TOPIC, help="c")]))
    messages = [
        pb.FetchResponse(partitions=[pb.FetchResult(topic="t", high_watermark=9, batches=record_batch.encode([b"v"]),
                                                    error=error)]),
        pb.CreateTopicResponse(topic_id=bytes(range(16)), partitions=3, replication=1),
        pb.ListTopicsResponse(topics=[pb.TopicSummary(name="a", topic_id=bytes(16), partitions=1), pb.TopicSummary(name="b")]),
        described, pb.FindLeaderResponse(node_id=1, host="h", port=8080),
        pb.ListOffsetsResponse(partitions=[pb.ListOffsetsResult(topic="t", offset=5)])]
    for i, message in enumerate(messages):
        seed("answer", type(message).__name__, bytes([i]) + message.SerializeToString())
    seed("answer", "Error", bytes([6, 14]) + error.SerializeToString())


class Seeds(harness.TestCase):
    def test_make(self):
        shutil.rmtree(os.path.join(HERE, "corpus", "metadata"), ignore_errors=True)
        node = self.node()
        node.start()
        with grpc_client.Client(node) as client:
            for i in range(3):
                client.create(f"t{i}", partitions=1, config={"segment.bytes": "16384", "index.interval.bytes": "512"})
            for i in range(12):
                client.produce("t0", 0, record_batch.encode([b"v" * 60] * 3, codec=i % 5))
        node.kill()
        node.start()
        with grpc_client.Client(node) as client:
            client.produce("t0", 0, record_batch.encode([b"after"]))
        node.stop()
        folder = os.path.join(node.data_dir, "metadata_local")
        log = harness.read(os.path.join(folder, METADATA[0]))
        files(node.partition_dir("t0", 0), {n: os.path.join(folder, n) for n in os.listdir(folder) if n[:3] in ("log", "sna")})
        head = log[:512]
        frames = [log[p : p + 512] for p in range(512, len(log), 512)]
        for how in (0, 1):
            seed("metadata", f"log-{how}", pack(how, [(0, log)]))
            seed("metadata", f"tail-{how}", pack(how, [(0, log[:-300])]))
            seed("metadata", f"hole-{how}", pack(how, [(0, head + frames[0] + bytes(512) + b"".join(frames[2:]))]))
        snapshot = b"STIMDSNP" + struct.pack(">IIQQI", 1, 64, 2, 8, 0) + bytes(28) + b"snapshot"
        empty = b"STIMDLOG" + bytes(504)
        seed("metadata", "snapshot", pack(1, [(5, snapshot), (2, empty)]))
        seed("metadata", "two-snapshots", pack(1, [(4, snapshot), (1, empty), (5, snapshot), (2, empty)]))
        seed("metadata", "snapshot-bad", pack(0, [(5, snapshot), (0, log)]))
        batches()
        folders()
        requests()
        answers()
        config()


if __name__ == "__main__":
    harness.main()
