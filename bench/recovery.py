#!/usr/bin/python3
"""What a start after kill -9 costs, beside what the same machine needs to look at the same files.

    STREAMIT_BUILD=build bench/recovery.py [--topics N] [--partitions N] [--gb N] [--segments N] [--rounds N] [--dir FOLDER]

    many       kill -9 with every partition written to and none closed: start to ready, the end of recovery, the first
               touch of partitions that are not open yet, anonymous memory of each, open files
    long       kill -9 with N GB on one partition: start to ready, bytes read (only those past the recovery point)
    segments   an orderly stop with N segments in one partition: its opening, and bytes read (none)

A figure is the median of the rounds. Its limit is measured in the same round: `raw_open` opens, lists and reads the same
folders in one thread and checks nothing. First touches are compared with a null call, FindLeader, of the same client.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import harness  # noqa: E402  (needs the path above)
import record_batch  # noqa: E402
from grpc_client import Client, pb  # noqa: E402

TOUCHES = 300
SETTLE_S = 120


def raw_open(folder, *options):
    out = subprocess.run([os.path.join(harness.BUILD, "bench", "raw_open"), folder, *options], check=True, capture_output=True)
    return json.loads(out.stdout)


def done_of(node, mark):
    """What the node said when the last partition was open."""
    end = time.monotonic() + SETTLE_S
    while time.monotonic() < end:
        for line in node.logs()[mark:]:
            if line["event"] == "recovery_done":
                return line
        time.sleep(0.005)
    raise SystemExit("recovery does not end")


def start(node):
    """Seconds from the start to the ready line, and how many lines of the log are older."""
    mark = len(node.logs())
    begin = time.monotonic()
    node.start(wait=False)
    while not node._ready.wait(0.0005):
        if node.process.poll() is not None:
            raise SystemExit(f"the node ended:\n{node.log_text()}")
    return time.monotonic() - begin, mark


def anonymous(node):
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def descriptors(node):
    """Open files below the data folder."""
    folder = f"/proc/{node.process.pid}/fd"
    links = [os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder) if os.path.exists(os.path.join(folder, fd))]
    return sum(1 for link in links if link.endswith((".log", ".index", ".timeindex")))


def row(name, values, unit, target="", limit=None, limit_name=""):
    median = statistics.median(values)
    text = f"| {name} | {median:,.3f} {unit} | {min(values):,.3f} .. {max(values):,.3f} | {target} |"
    if limit:
        ratio = statistics.median([v / l for v, l in zip(values, limit)])
        text += f" {limit_name} | {statistics.median(limit):,.3f} {unit} | {ratio:.2f} |"
    else:
        text += " | | |"
    print(text, flush=True)


def many(args, folder):
    node = harness.Node(folder, "many")
    node.start()
    empty = anonymous(node)
    batch = record_batch.encode([b"x" * 100] * 3)
    with Client(node) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.create(f"t{i:05d}", args.partitions), range(args.topics)))
        for i in range(args.topics):
            rows = client.produce_rows([(f"t{i:05d}", p, batch) for p in range(args.partitions)])
            assert not any(r.HasField("error") for r in rows)
    node.kill()
    count = args.topics * args.partitions
    got = {k: [] for k in ("ready", "over", "limit", "p50", "p99", "max", "null", "memory", "files", "bytes")}
    for number in range(args.rounds):
        rng = random.Random(number)
        got["limit"].append(raw_open(os.path.join(node.data_dir, "storage_mmap"))["seconds"] * 1000)
        seconds, mark = start(node)
        got["ready"].append(seconds * 1000)
        with Client(node) as client:
            touches, nulls = [], []
            client.api.FindLeader(pb.FindLeaderRequest(topic="t00000", partition=0))  # makes the connection
            for _ in range(TOUCHES):
                topic, partition = f"t{rng.randrange(args.topics):05d}", rng.randrange(args.partitions)
                begin = time.monotonic()
                assert client.fetch(topic, partition, 0).batches
                touches.append((time.monotonic() - begin) * 1000)
            for _ in range(TOUCHES):
                begin = time.monotonic()
                client.api.FindLeader(pb.FindLeaderRequest(topic="t00000", partition=0))
                nulls.append((time.monotonic() - begin) * 1000)
        done = done_of(node, mark)
        assert done["partitions"] == count and done["offline"] == 0, done
        touches.sort()
        got["over"].append(done["ms"])
        got["bytes"].append(done["bytes"])
        got["p50"].append(statistics.median(touches))
        got["p99"].append(touches[int(len(touches) * 0.99)])
        got["max"].append(touches[-1])
        got["null"].append(statistics.median(nulls))
        node.kill()
        _, mark = start(node)  # once more, and nobody touches anything
        done_of(node, mark)
        time.sleep(3)  # idle memory has gone back by then
        got["memory"].append((anonymous(node) - empty) / count)
        got["files"].append(descriptors(node))
        node.kill()
    row(f"start to ready, {count:,} partitions after kill -9", got["ready"], "ms", "<= 1,000", got["limit"], "bare open, list, read")
    row("all of them open", got["over"], "ms", "<= 2,000", got["limit"], "bare open, list, read")
    row("first touch, median", got["p50"], "ms", "", got["null"], "null call")
    row("first touch, 99th percentile", got["p99"], "ms", "<= 10", got["null"], "null call")
    row("first touch, longest", got["max"], "ms", "<= 10", got["null"], "null call")
    row("read by recovery", [b / 1e6 for b in got["bytes"]], "MB")
    row("anonymous memory of an idle partition", got["memory"], "bytes", "<= 2,048")
    row("open segment files", got["files"], "", "0")
    shutil.rmtree(node.data_dir)


def long(args, folder):
    node = harness.Node(folder, "long")
    node.start()
    with Client(node) as client:
        client.create("t")
    subprocess.run([harness.CLI, "--server", node.server, "produce", "--topic", "t", "--size", "1024", "--acks", "leader",
                    "--count", str(int(args.gb * 1e9 / 1024))], check=True, capture_output=True)
    node.kill()
    ready, over, limit, read = [], [], [], []
    for _ in range(args.rounds):
        seconds, mark = start(node)
        done = done_of(node, mark)
        node.kill()
        ready.append(seconds * 1000)
        over.append(done["ms"])
        read.append(done["bytes"] / 1e6)
        begin, left = time.monotonic(), int(done["bytes"])
        with open(node.segments("t", 0)[-1], "rb", buffering=0) as file:
            while left > 0 and (got := file.read(1 << 18)):
                left -= len(got)
        limit.append((time.monotonic() - begin) * 1000)
    row(f"start to ready, {args.gb} GB on one partition after kill -9", ready, "ms", "<= 1,000")
    row("it is open", over, "ms", "", limit, "bare read of those bytes")
    row("read by recovery", read, "MB", "past the recovery point")
    shutil.rmtree(node.data_dir)


def segments(args, folder):
    node = harness.Node(folder, "segments", sets=["plugins.storage_mmap.scrub_bytes_per_s=0"])
    node.start()
    batch = record_batch.encode([b"x" * 16000])
    with Client(node) as client:
        client.create("t", config={"segment.bytes": "16384"})
        for first in range(0, args.segments, 50):
            rows = client.produce_rows([("t", 0, batch)] * min(50, args.segments - first))
            assert not any(r.HasField("error") for r in rows)
    node.stop()
    count = len(node.segments("t", 0))
    over, limit, read = [], [], []
    for _ in range(args.rounds):
        limit.append(raw_open(os.path.join(node.data_dir, "storage_mmap"), "--stat")["seconds"] * 1000)
        _, mark = start(node)
        done = done_of(node, mark)
        over.append(done["ms"])
        read.append(done["bytes"])
        node.stop()
    row(f"opening of a partition with {count:,} segments", over, "ms", "<= 50", limit, "bare list and stat")
    row("bytes of the log read for it", read, "", "0")
    shutil.rmtree(node.data_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=1000)
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--segments", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="make the data folder there")
    parser.add_argument("--only", choices=["many", "long", "segments"])
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="streamit-bench-", dir=args.dir)
    print("| figure | median | lowest .. highest | target | limit, same round | its median | ratio |\n| --- | --- | --- | --- | --- | --- | --- |")
    try:
        for part in (many, long, segments):
            if args.only in (None, part.__name__):
                part(args, folder)
    finally:
        for process in list(harness._running.values()):
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
