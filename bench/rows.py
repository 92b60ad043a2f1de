"""The rows of the table, and how each group of them is measured.

A group measures figures and their limits once, in turns, and puts both into the round's values; a row says how they are held
against each other. Groups of one round share a node with a topic for each; those that kill it, fill it or look at it empty have
a node of their own.
"""

import glob
import json
import os
import random
import shutil
import signal
import subprocess
import time

import measure
import peers
from measure import MIB, Failure, Skipped, harness, raw
from table import Limit, Row

SEGMENT = 128 * MIB  # the default of segment.bytes
SETTLE_S = 60
RECORD = ("perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g", "-o")
WINDOW = 4  # messages under way over the raw wire


class Plan:
    """How much is done; `quick` proves that everything works, and its figures mean nothing."""

    def __init__(self, quick):
        self.quick = quick
        self.small = 20_000 if quick else 5_000_000     # records of 100 B
        self.large = 4_000 if quick else 500_000        # records of 1 KB
        self.peer_small = 2_000 if quick else 500_000
        self.peer_large = 500 if quick else 100_000
        self.peer_one = 20 if quick else 500
        self.latency_s = 1 if quick else 5
        self.warm_ms = 100 if quick else 1000
        self.rate = 1_000 if quick else 20_000
        self.calls = 100 if quick else 3000
        self.one = 50 if quick else 3000
        self.idle_s = 0.5 if quick else 2
        self.many = 8_000 if quick else 600_000
        self.topics, self.partitions = (5, 4) if quick else (1000, 10)
        self.waiting = 10 if quick else 100
        self.memory = 50_000 if quick else 10_000_000   # records of 1 KB: 10 GB
        self.memory_wait_s = 1 if quick else 5
        self.disk_bytes = 2_000_000 if quick else 128_000_000
        self.cool_s = 0 if quick else 5


class Bench:
    """One run of the benchmark: the folder, the values of the current round, and what was skipped."""

    def __init__(self, folder, plan, results=None, perf=None):
        self.folder, self.plan, self.results, self.perf = folder, plan, results, perf
        self.values, self.skipped, self.histograms = {}, {}, {}
        self.number = 0
        self.node = None
        self.kept = {}  # nodes that outlive a round
        self.made = set()

    # ---- nodes

    def begin(self, number):
        self.number, self.values, self.made = number, {}, set()

    def new_node(self, name, sets=()):
        return harness.Node(self.folder, f"{name}{self.number}", sets=list(sets))

    def shared(self):
        """The node of the round."""
        if self.node is None:
            self.node = self.new_node("node").start()
        return self.node

    def drop(self, node):
        """End a node, whatever its state, and remove what it stored."""
        if node is not None:
            if node.process is not None:
                node.kill()
            shutil.rmtree(node.data_dir, ignore_errors=True)

    def finish(self):
        """Of a round: an orderly end of the shared node is part of it."""
        node, self.node = self.node, None
        try:
            if node is not None and node.process is not None and node.stop() != 0:
                raise Failure(f"the node ended badly:\n{node.log_text()}")
        finally:
            self.drop(node)

    def close(self):
        for node in [self.node, *self.kept.values()]:
            self.drop(node)

    # ---- values

    def put(self, **values):
        self.values.update({name: float(value) for name, value in values.items()})

    def optional(self, names, measured):
        """Measure a peer, or note for each name why it is not there. `measured` returns the values."""
        try:
            self.put(**measured())
        except (Skipped, Failure) as why:
            for name in names:
                self.skipped[name] = str(why).splitlines()[0][:160]

    # ---- the command line

    def topic(self, node, name, partitions=1, config=()):
        """Make a topic once in a round."""
        if (node.name, name) in self.made:
            return name
        args = [harness.CLI, "--server", node.server, "create-topic", "--name", name, "--partitions", str(partitions)]
        for item in config:
            args += ["--config", item]
        measure.run(args)
        self.made.add((node.name, name))
        return name

    def bench(self, node, name, kind, *args, limit_s=measure.RUN_S):
        """`streamit bench`, with the CPU of both sides under the name, and its profile if that is asked for."""
        command = [harness.CLI, "--server", node.server, "--json", "bench", kind, *map(str, args)]
        kept = os.path.join(self.folder, "histogram.json")
        pid, perf = node.process.pid, None
        if kind in ("latency", "end-to-end"):
            command += ["--histogram", kept]
        if self.perf is not None:
            perf = harness.spawn([*RECORD, os.path.join(self.perf, f"{name}.node.data"), "-p", str(pid)], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)
            command = [*RECORD, os.path.join(self.perf, f"{name}.client.data"), "--", *command]
        before = measure.cpu_s(pid)
        try:
            result = measure.run_json(command, limit_s)
            spent = measure.cpu_s(pid) - before
        finally:
            if perf is not None:
                perf.send_signal(signal.SIGINT)
                perf.wait(30)
                harness._running.pop(perf.pid, None)
        if result["errors"] != 0:
            raise Failure(f"{name}: {result['errors']} records failed")
        seconds = result["seconds"]
        client = result["cpu_s"]["user"] + result["cpu_s"]["system"]
        self.put(**{name + "_records": result["records_per_s"], name + "_mb": result["mb_per_s"],
                    name + "_node_cpu": spent / seconds, name + "_client_cpu": client / seconds})
        if os.path.exists(kept):
            self.keep_histograms(name, kept)
        return result

    def keep_histograms(self, name, path):
        with open(path, encoding="utf-8") as file:
            for what, histogram in json.load(file).items():
                if histogram["count"] > 0:
                    self.histograms.setdefault((name, what), []).append(histogram)
        if self.results is not None:
            shutil.move(path, os.path.join(self.results, f"{name}-{self.number}.json"))
        else:
            os.unlink(path)

    def warm_memory(self, size):
        """Let the machine have as much memory at hand as the page cache is about to take: see README.md."""
        raw("raw_write", self.folder, size)


# ---- throughput


def produce_small(bench):
    plan, node = bench.plan, bench.shared()
    size = plan.small * 100
    topic = bench.topic(node, "small")
    bench.warm_memory(size)
    bench.put(small_write=raw("raw_write", bench.folder, size, SEGMENT)["mb_per_s"],
              small_sink=raw("raw_tcp", "sink", size, MIB, WINDOW)["mb_per_s"], small_build=raw("raw_cpu", 100)["build_records_per_s"])
    bench.bench(node, "small", "produce", "--topic", topic, "--size", 100, "--count", plan.small, "--acks", "leader")
    bench.optional(["small_redis"], lambda: redis_rate(bench, "small_redis", plan.peer_small, 100))
    bench.optional(["small_nats"], lambda: nats_rate(bench, "small_nats", plan.peer_small, 100))
    kafka_once(bench)


def redis_rate(bench, name, count, size):
    with peers.redis(bench.folder, "everysec") as port:
        return {name: peers.redis_xadd(port, count, size, 256)[0]}


def nats_rate(bench, name, count, size):
    with peers.nats(bench.folder) as (port, _, _):
        return {name: raw("raw_nats", port, count, size, 4096)["records_per_s"]}


def kafka_once(bench):
    """It takes half a minute, so in the first round only."""
    names = ["small_kafka", "large_kafka"]

    def measured():
        with peers.kafka(bench.folder) as (classes, port):
            return {"small_kafka": peers.kafka_produce(classes, port, bench.plan.peer_small, 100),
                    "large_kafka": peers.kafka_produce(classes, port, bench.plan.peer_large, 1024)}
    if bench.number == 0:
        bench.optional(names, measured)


def ensure(bench, node, topic):
    """A topic full of records of 1 KB for the rows that read, if no row that produces has made it."""
    if (node.name, topic) not in bench.made:
        bench.topic(node, topic)
        measure.run_json([harness.CLI, "--server", node.server, "--json", "bench", "produce", "--topic", topic, "--size", "1024",
                          "--count", str(bench.plan.large), "--acks", "leader"])


def produce_large(bench):
    plan, node = bench.plan, bench.shared()
    size = plan.large * 1024
    topic = bench.topic(node, "large")
    bench.warm_memory(size)
    bench.put(large_write=raw("raw_write", bench.folder, size)["mb_per_s"],
              large_roll=raw("raw_write", bench.folder, size, SEGMENT)["mb_per_s"],
              large_sink=raw("raw_tcp", "sink", size, MIB, WINDOW)["mb_per_s"])
    bench.warm_memory(size)
    bench.bench(node, "large", "produce", "--topic", topic, "--size", 1024, "--count", plan.large, "--acks", "leader")
    bench.optional(["large_redis"], lambda: redis_rate(bench, "large_redis", plan.peer_large, 1024))
    bench.optional(["large_nats"], lambda: nats_rate(bench, "large_nats", plan.peer_large, 1024))


def fetch_warm(bench):
    plan, node = bench.plan, bench.shared()
    ensure(bench, node, "large")
    size = plan.large * 1024
    segment = node.segments("large", 0)[0]
    bench.put(warm_source=raw("raw_tcp", "source", size, MIB, WINDOW)["mb_per_s"],
              warm_sendfile=raw("raw_tcp", "sendfile", size, MIB, WINDOW, segment)["mb_per_s"])
    read_all(bench, node, "warm", "large")


def read_all(bench, node, name, topic):
    result = bench.bench(node, name, "consume", "--topic", topic)
    if result["records"] != bench.plan.large:
        raise Failure(f"{name}: {result['records']} records came back of {bench.plan.large}")


def fetch_cold(bench):
    """Whoever hosts this machine may cache what it has written and read. So the limit reads the files of a second topic, which
    were written beside those of the first, and the two take turns in who is written and who is read first."""
    node, names, turn = bench.shared(), ["cold", "cold_twin"], bench.number % 2
    for name in names[::-1] if turn else names:
        ensure(bench, node, name)
    if node.stop() != 0:
        raise Failure(f"the node ended badly:\n{node.log_text()}")
    files, twin = (node.segments(name, 0) for name in names)
    raw("raw_disk", "drop", *twin)

    def limit():
        bench.put(cold_disk=raw("raw_disk", "read", *twin)["mb_per_s"])
    if turn:
        limit()
    bench.put(cold_cached_pct=raw("raw_disk", "drop", *files)["cached_pct"])
    node.start()
    read_all(bench, node, "cold", names[0])
    if not turn:
        limit()


# ---- latency


def percentiles(bench, name, result, what="latency_ms"):
    bench.put(**{f"{name}_{q}": result[what][q] for q in ("p50", "p99", "p999", "max")})


def null_call(bench, node):
    topic = bench.topic(node, "null")
    call = raw("raw_call", node.server, topic, bench.plan.calls)
    bench.put(call_p50=call["p50_us"] / 1e3, call_p99=call["p99_us"] / 1e3)


def bare_sync(bench):
    sync = raw("raw_disk", "sync", bench.folder, max(20, bench.plan.calls // 10), 1024)
    bench.put(sync_p50=sync["sync_p50_us"] / 1e3, sync_p99=sync["sync_p99_us"] / 1e3)


def latency(bench):
    plan, node = bench.plan, bench.shared()
    load = ["--size", 1024, "--rate", plan.rate, "--duration-s", plan.latency_s, "--warm-up-ms", plan.warm_ms, "--acks", "leader"]
    null_call(bench, node)
    for name, config in (("onroll", ()), ("commit", ("flush.policy=commit",))):
        topic = bench.topic(node, f"paced_{name}", config=config)
        if name == "commit":
            bare_sync(bench)
        result = bench.bench(node, f"latency_{name}", "latency", "--topic", topic, *load)
        percentiles(bench, f"latency_{name}", result)
        bench.put(**{f"late_{name}_p99": result["late_ms"]["p99"], f"late_{name}_p999": result["late_ms"]["p999"]})


def one_at_a_time(bench):
    plan, node = bench.plan, bench.shared()
    for name, config in (("onroll", ()), ("commit", ("flush.policy=commit",))):
        topic = bench.topic(node, f"one_{name}", config=config)
        null_call(bench, node)
        if name == "commit":
            bare_sync(bench)
        bench.put(**{f"one_{name}_call": bench.values["call_p50"]})
        result = bench.bench(node, f"one_{name}", "latency", "--topic", topic, "--one-at-a-time", "--size", 1024, "--count", plan.one,
                             "--acks", "leader")
        percentiles(bench, f"one_{name}", result)
    trip = raw("raw_tcp", "sink", 16 * plan.calls, 16)
    bench.put(trip=1e3 / trip["round_trips_per_s"])

    def redis():
        with peers.redis(bench.folder, "always") as port:
            return {"one_redis": peers.redis_xadd(port, plan.peer_one, 1024, 1)[1]}

    def nats():
        with peers.nats(bench.folder) as (port, _, _):
            return {"one_nats": raw("raw_nats", port, plan.peer_one, 1024, 1)["p50_us"] / 1e3}
    bench.optional(["one_redis"], redis)
    bench.optional(["one_nats"], nats)


def end_to_end(bench):
    plan, node = bench.plan, bench.shared()
    null_call(bench, node)
    result = bench.bench(node, "e2e", "end-to-end", "--topic", bench.topic(node, "e2e"), "--size", 1024, "--rate", plan.rate,
                         "--duration-s", plan.latency_s, "--warm-up-ms", plan.warm_ms, "--acks", "leader")
    percentiles(bench, "e2e", result, "end_to_end_ms")
    # The node works through the warm-up too: its CPU belongs to that time as well.
    whole = result["seconds"] + plan.warm_ms / 1e3
    bench.put(e2e_cpu=bench.values["e2e_node_cpu"] * result["seconds"] / whole / measure.CORES * 100, e2e_late=result["late_ms"]["p99"])


def many(bench):
    plan, node = bench.plan, bench.shared()
    load = ["--size", 1024, "--count", plan.many, "--acks", "leader"]
    one, all_ = bench.topic(node, "pair"), bench.topic(node, "many", 64)
    bench.warm_memory(plan.many * 1024)
    bench.bench(node, "pair", "end-to-end", "--topic", one, *load)
    bench.warm_memory(plan.many * 1024)
    bench.bench(node, "many", "end-to-end", "--topic", all_, "--producers", 64, "--consumers", 64, "--window-bytes", 2 * MIB, *load)


# ---- the node itself


def empty(bench):
    """Its own start, then the same of a gRPC server without any service, and of a peer."""
    plan, node = bench.plan, bench.new_node("empty")
    if bench.perf is not None:
        command = [*RECORD, os.path.join(bench.perf, "empty.node.data"), "--", "timeout", "-s", "TERM", "1", *node.args()]
        harness.spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(30)
    try:
        begin = time.monotonic()
        node.start()
        bench.put(empty_ready=(time.monotonic() - begin) * 1e3, empty_self=node.ready_event["startup_ms"])
        time.sleep(plan.idle_s)
        bench.put(empty_idle=measure.idle_cpu_pct(node.process.pid, plan.idle_s), empty_anon=measure.anonymous_mb(node.process.pid))
    finally:
        bench.drop(node)
    begin = time.monotonic()
    process = harness.spawn([os.path.join(harness.BUILD, "bench", "raw_grpc")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        bench.put(grpc_ready=(time.monotonic() - begin) * 1e3)
        bench.put(grpc_idle=measure.idle_cpu_pct(process.pid, plan.idle_s), grpc_anon=measure.anonymous_mb(process.pid))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
        harness._running.pop(process.pid, None)

    def nats():
        with peers.nats(bench.folder) as (_, process, seconds):
            time.sleep(plan.idle_s / 2)
            return {"nats_ready": seconds * 1e3, "nats_anon": measure.anonymous_mb(process.pid),
                    "nats_idle": measure.idle_cpu_pct(process.pid, plan.idle_s)}
    bench.optional(["nats_ready", "nats_anon", "nats_idle"], nats)


def start_again(node):
    """Start a node that was killed. Returns seconds to the ready line, and milliseconds until all partitions were open."""
    mark, begin = len(node.logs()), time.monotonic()
    node.start()
    ready = time.monotonic() - begin
    while time.monotonic() < begin + SETTLE_S:
        for line in node.logs()[mark:]:
            if line["event"] == "recovery_done":
                return ready, line["ms"]
        time.sleep(0.005)
    raise Failure("recovery does not end")


def partitions(bench):
    """Killed with every partition written to, started again, looked at with consumers that wait."""
    plan = bench.plan
    node = bench.kept.get("partitions")
    if node is None:
        node = bench.kept["partitions"] = bench.new_node("partitions").start()
        raw("fill", node.server, plan.topics, plan.partitions, "create")
        measure.run([harness.CLI, "--server", node.server, "create-topic", "--name", "wide", "--partitions", str(plan.waiting)])
    else:
        raw("fill", node.server, plan.topics, plan.partitions, "write")
    node.kill()
    store = os.path.join(node.data_dir, "storage_mmap")
    bench.put(partitions_open=raw("raw_open", store)["seconds"])
    ready, recovered_ms = start_again(node)
    bench.put(partitions_ready=ready, partitions_recovered=recovered_ms / 1e3)
    time.sleep(plan.idle_s)
    bench.put(partitions_anon=measure.anonymous_mb(node.process.pid))
    readers = harness.spawn([harness.CLI, "--server", node.server, "consume", "--topic", "wide", "--parallel", plan.waiting, "--quiet"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1 + plan.idle_s)
        if readers.poll() is not None:
            raise Failure(f"the waiting consumers ended with {readers.returncode}")
        bench.put(partitions_idle=measure.idle_cpu_pct(node.process.pid, 2 * plan.idle_s))
    finally:
        measure.end(readers)


def memory(bench):
    """What stays 5 s after much was produced and read at once."""
    plan, node = bench.plan, bench.new_node("memory")
    measure.need_disk(bench.folder, plan.memory * 1040 + 2e9)
    try:
        node.start()
        bench.bench(node, "memory", "end-to-end", "--topic", bench.topic(node, "t"), "--size", 1000, "--count", plan.memory, "--acks",
                    "leader", limit_s=240)
        bench.put(memory_peak=measure.anonymous_mb(node.process.pid))
        time.sleep(plan.memory_wait_s)
        bench.put(memory_anon=measure.anonymous_mb(node.process.pid))
    finally:
        bench.drop(node)


# ---- disk use


def text_log(path, size):
    """Lines as a web server and its application write them: times, addresses, paths, numbers that repeat and that do not."""
    rng = random.Random(4)
    words = ["request", "served", "cache", "miss", "retry", "timeout", "upstream", "user", "session", "order", "payment", "accepted"]
    paths = [f"/api/v{rng.randrange(1, 4)}/{rng.choice(words)}/{rng.choice(words)}" for _ in range(200)]
    with open(path, "w", encoding="ascii") as file:
        written, at = 0, 1_700_000_000_000
        while written < size:
            at += rng.randrange(40)
            line = (f"{at // 1000}.{at % 1000:03d} {rng.choice(('INFO', 'INFO', 'INFO', 'WARN', 'ERROR'))} 10.{rng.randrange(4)}."
                    f"{rng.randrange(256)}.{rng.randrange(256)} GET {rng.choice(paths)}/{rng.randrange(1_000_000)} "
                    f"{rng.choice((200, 200, 200, 304, 404, 500))} {rng.randrange(90_000)} {rng.choice(words)} {rng.choice(words)} "
                    f"id={rng.getrandbits(64):016x} ms={rng.expovariate(0.02):.1f}\n")
            written += len(line)
            file.write(line)


def disk_use(bench):
    plan, node = bench.plan, bench.new_node("disk")
    measure.need_disk(bench.folder, plan.disk_bytes * 5 + 1e9)
    lines = os.path.join(bench.folder, "lines.txt")
    random_sizes = ((16384, "disk_16k"), (1024, "disk_1k"), (100, "disk_100"))
    text_log(lines, plan.disk_bytes // 2)
    try:
        node.start()
        bench.topic(node, "text")
        measure.run([harness.CLI, "--server", node.server, "produce", "--topic", "text", "--file", lines, "--compression", "zstd",
                     "--acks", "leader", "--linger-ms", "50"])
        for size, name in random_sizes:
            measure.run([harness.CLI, "--server", node.server, "bench", "produce", "--topic", bench.topic(node, name), "--size", str(size),
                         "--count", str(plan.disk_bytes // size), "--acks", "leader"])
        if node.stop() != 0:
            raise Failure(f"the node ended badly:\n{node.log_text()}")
        bare = raw("raw_zstd", *node.segments("text", 0))
        bench.put(disk_text=measure.allocated(node.partition_dir("text", 0)) / bare["zstd_bytes"] * 100,
                  disk_text_share=bare["zstd_bytes"] / os.path.getsize(lines) * 100, zstd_mb=bare["mb_per_s"])
        for size, name in random_sizes:
            bench.put(**{name: measure.allocated(node.partition_dir(name, 0)) / (plan.disk_bytes // size * size) * 100})
    finally:
        bench.drop(node)
        for path in glob.glob(lines):
            os.unlink(path)


def core(bench):
    one = raw("raw_cpu", 1024)
    bench.put(crc_mb=one["crc32c_mb_per_s"], memcpy_mb=one["memcpy_mb_per_s"], build_mb=one["build_mb_per_s"])


# Name, function, and in how many of the rounds it is measured (0: all).
GROUPS = (
    ("core", core, 0), ("empty", empty, 0), ("produce-100", produce_small, 0), ("produce-1k", produce_large, 0),
    ("fetch-warm", fetch_warm, 0), ("fetch-cold", fetch_cold, 0), ("latency", latency, 0), ("one-at-a-time", one_at_a_time, 0),
    ("end-to-end", end_to_end, 0), ("many", many, 0), ("partitions", partitions, 3), ("disk-use", disk_use, 1),
    ("memory", memory, 1),
)

NO_PROFILE = ("core", "partitions", "disk-use", "memory")  # what they hold is no matter of CPU


def share(figure, limit, factor=1.0):
    """A figure in percent of a limit of the same round."""
    return lambda r: r[figure] / (r[limit] * factor) * 100


ONROLL = "flush.policy=onroll, segments of 128 MiB"
ONE = f"acks=leader, 1 producer, 1 partition, batches to 1 MiB, {ONROLL}"
WIRE = f"{WINDOW} messages of 1 MiB under way"
PACED = "20,000 records/s of 1 KB, open loop: from when a record was due to its ack; acks=leader, 5 s behind 1 s of warm-up"
LATE = Limit("the load itself was late, p99", "late_onroll_p99")
REDIS, NATS, KAFKA = "Redis stream", "NATS JetStream", "Kafka"
# What stands behind the names of limits and peers.
BESIDE = (
    ("raw TCP sink, source", f"epoll server over loopback, {WIRE}, from a ring of 256 MiB"),
    ("write and sync on roll", "pwritev of 1 MiB into files of 128 MiB, reserved ahead, each synced by a second thread when full"),
    ("a null call", "FindLeader through libstreamit, one after the other"),
    (REDIS, "redis-server with appendonly, appendfsync everysec; redis-benchmark -c 1 -P 256, XADD of one field; one at a time: "
            "appendfsync always, -P 1"),
    (NATS, "nats-server with a stream in files, which syncs every 2 minutes; raw_nats over plain TCP, 4,096 acks outstanding; one "
           "at a time: 1"),
    (KAFKA, "one KRaft node with its defaults, which leave syncs to the kernel; its ProducerPerformance, acks=1, batches of "
            "1 MiB; a JVM that warms up is part of it"),
)

ROWS = (
    Row("produce-100", "produce 100 B", "records/s", "small_records", ONE, ">=", 3_000_000, None,
        (Limit("raw TCP sink", "small_sink", 1e4), Limit("write and sync on roll", "small_write", 1e4),
         Limit("building batches, one core", "small_build"), Limit(REDIS, "small_redis"), Limit(NATS, "small_nats"),
         Limit(KAFKA, "small_kafka"))),
    Row("produce-1k", "produce 1 KB", "MB/s", "large_mb", ONE + "; memory of the page cache at hand", ">=", 1000, None,
        (Limit("write and sync on roll", "large_roll"), Limit("bare pwritev", "large_write"), Limit(REDIS, "large_redis", 1024e-6),
         Limit(NATS, "large_nats", 1024e-6), Limit(KAFKA, "large_kafka", 1024e-6))),
    Row("produce-1k", "produce 1 KB, of the wire", "%", share("large_mb", "large_sink"), f"the same; the wire: {WIRE}", ">=", 50,
        "50 of the raw TCP sink", (Limit("raw TCP sink, MB/s", "large_sink"),)),
    Row("fetch-warm", "fetch 1 KB, warm", "%", share("warm_mb", "warm_source"),
        "1 consumer, 1 partition, from the page cache, every CRC checked", ">=", 80, "80 of the raw TCP source",
        (Limit("raw TCP source, MB/s", "warm_source"), Limit("bare sendfile, MB/s", "warm_sendfile"))),
    Row("fetch-warm", "fetch 1 KB, warm", "MB/s", "warm_mb", "the same"),
    Row("fetch-cold", "fetch 1 KB, cold", "%", share("cold_mb", "cold_disk"),
        "the same, node started anew, pages dropped by posix_fadvise DONTNEED and counted by mincore; the limit reads a "
        "second topic, and goes first in every other round", ">=", 85, "85 of a sequential read", (Limit("sequential read of as much, MB/s", "cold_disk"),)),
    Row("fetch-cold", "fetch 1 KB, cold", "MB/s", "cold_mb", "the same"),
    Row("latency", "latency at 20,000/s, onroll, p99", "ms", "latency_onroll_p99", PACED, "<=", 1, None,
        (LATE, Limit("a null call, p99", "call_p99"))),
    Row("latency", "latency at 20,000/s, onroll, p99.9", "ms", "latency_onroll_p999", "the same", "<=", 3, None,
        (Limit("the load itself was late, p99.9", "late_onroll_p999"),)),
    Row("latency", "latency at 20,000/s, commit, p99", "ms", "latency_commit_p99", "the same, flush.policy=commit", "<=", 3, None,
        (Limit("the load itself was late, p99", "late_commit_p99"), Limit("a bare fdatasync, p99", "sync_p99"))),
    Row("latency", "latency at 20,000/s, commit, p99.9", "ms", "latency_commit_p999", "the same", "<=", 10, None,
        (Limit("the load itself was late, p99.9", "late_commit_p999"),)),
    Row("one-at-a-time", "one at a time, onroll, p50", "ms", "one_onroll_p50",
        "1 KB, the next when the last is acknowledged, acks=leader", "<=", lambda r: r["one_onroll_call"] + 0.04,
        "null call + 0.04", (Limit("a null call, p50", "one_onroll_call"), Limit("raw TCP round trip", "trip"),
                             Limit("NATS JetStream, no sync, p50", "one_nats"))),
    Row("one-at-a-time", "one at a time, commit, p50", "ms", "one_commit_p50", "the same, flush.policy=commit", "<=",
        lambda r: r["one_commit_call"] + 0.06 + r["sync_p50"], "null call + 0.06 + fdatasync",
        (Limit("a null call, p50", "one_commit_call"), Limit("a bare fdatasync of 1 KB, p50", "sync_p50"),
         Limit("Redis stream, appendfsync always, p50", "one_redis"))),
    Row("end-to-end", "to a waiting consumer, p99", "ms", "e2e_p99",
        "20,000 records/s of 1 KB, open loop: from when a record was due to its receipt", "<=", 2, None,
        (Limit("the load itself was late, p99", "e2e_late"), Limit("a null call, p99", "call_p99"))),
    Row("end-to-end", "broker CPU at 20,000/s in and out", "% of the machine", "e2e_cpu", "the same", "<=", 20),
    Row("partitions", "10,000 partitions: ready after kill -9", "s", "partitions_ready",
        "1,000 topics, every partition written to before the kill", "<=", 1, None,
        (Limit("bare open, list and read of the files", "partitions_open"),)),
    Row("partitions", "10,000 partitions: all open again", "s", "partitions_recovered", "behind ready; a partition that is asked for "
        "goes first"),
    Row("partitions", "10,000 partitions: anonymous memory", "MB", "partitions_anon", "all open, 2 s later", "<=", 50),
    Row("partitions", "10,000 partitions: idle CPU", "% of a core", "partitions_idle", "100 consumers wait for records", "<=", 1),
    Row("empty", "empty node: start to ready", "ms", "empty_ready", "empty folder, all default plugins; from fork to the ready line",
        "<=", 20, None, (Limit("bare gRPC server", "grpc_ready"), Limit("NATS JetStream", "nats_ready"),
                         Limit("as the node itself counts", "empty_self"))),
    Row("empty", "empty node: anonymous memory", "MB", "empty_anon", "RssAnon, 2 s after ready", "<=", 8, None,
        (Limit("bare gRPC server", "grpc_anon"), Limit("NATS JetStream", "nats_anon"))),
    Row("empty", "empty node: idle CPU", "% of a core", "empty_idle", "over 2 s", "<=", 0.3, None,
        (Limit("bare gRPC server", "grpc_idle"), Limit("NATS JetStream", "nats_idle"))),
    Row("memory", "anonymous memory 5 s after 10 GB", "MB", "memory_anon", "10 GB of 1,000 B produced and read at once, flat out", "<=", 60,
        None, (Limit("right after the last record", "memory_peak"),)),
    Row("many", "64 producers, 64 consumers", "%", share("many_mb", "pair_mb"),
        "one process, 64 partitions, 1 KB, flat out, produced and read at once; window of 2 MiB each", ">=", 80, "80 of one of each",
        (Limit("one of each, MB/s", "pair_mb"),)),
    Row("disk-use", "disk use: text logs, zstd", "%", "disk_text",
        "allocated blocks, indexes included, of `zstd -3` of the same batches' records", "<=", 105, "105 of bare zstd",
        (Limit("bare zstd, % of the text", "disk_text_share"), Limit("bare zstd, MB/s", "zstd_mb"))),
    Row("disk-use", "disk use: random 16 KB", "%", "disk_16k", "allocated blocks, indexes included, of the records' bytes", "<=", 100.5,
        "100.5 of the records"),
    Row("disk-use", "disk use: random 1 KB", "%", "disk_1k", "the same", "<=", 102, "102 of the records"),
    Row("disk-use", "disk use: random 100 B", "%", "disk_100", "the same"),
)

# Throughput figures whose CPU is told apart.
CORES = (("produce 100 B", "small", "produce-100"), ("produce 1 KB", "large", "produce-1k"), ("fetch 1 KB, warm", "warm", "fetch-warm"),
         ("fetch 1 KB, cold", "cold", "fetch-cold"), ("one of each", "pair", "many"), ("64 of each", "many", "many"))
RATES = (("CRC-32C", "crc_mb", "MB/s"), ("memcpy", "memcpy_mb", "MB/s"), ("building batches of 1 KB records", "build_mb", "MB/s"))
HISTOGRAMS = (("latency_onroll", "ack_us", "latency at 20,000/s, onroll"), ("latency_commit", "ack_us", "latency at 20,000/s, commit"),
              ("e2e", "end_to_end_us", "to a waiting consumer, 20,000/s"), ("one_onroll", "ack_us", "one at a time, onroll"),
              ("one_commit", "ack_us", "one at a time, commit"))
