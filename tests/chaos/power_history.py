"""What clients of a node have done and seen, with times, and the check of it after a loss of power.

Times are CLOCK_MONOTONIC in ns, as in the journal of the fault layer. `History.cut(moment)` forgets what came after the
power was cut: it never happened. What was answered before must hold afterwards, as far as each topic's flush policy says.
"""

import os
import random
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import record_batch  # noqa: E402

pb = grpc_client.pb
RpcError = grpc_client.grpc.RpcError
PREFIX = struct.Struct(">qi")  # base offset and length: what a batch begins with
PATCHED = 16  # bytes of a batch that the broker writes


def now():
    return time.monotonic_ns()


def split(data):
    """[(base offset, next offset, bytes)] of batches back to back; what is cut at the end is left out."""
    out, pos = [], 0
    while pos + record_batch.HEADER_LEN <= len(data):
        base, length = PREFIX.unpack_from(data, pos)
        (delta,) = struct.unpack_from(">i", data, pos + 23)
        if length < 49 or pos + 12 + length > len(data):
            break
        out.append((base, base + delta + 1, data[pos : pos + 12 + length]))
        pos += 12 + length
    return out


class Partition:
    """One partition of one topic, of one incarnation (topic id)."""

    def __init__(self, topic, index):
        self.topic, self.index = topic, index
        self.sent = {}  # bytes behind the patched ones -> True
        self.acked = []  # (time, base offset, batch, was the policy `commit`?)
        self.seen = []  # the same, of what a consumer was given
        self.commit = False  # is the policy `commit` now, and has been acknowledged as such
        self.time_ms = 0
        self.checked = None  # when this run of the node was held against the history
        self.origin = None  # of a copy

    def __deepcopy__(self, memo):
        other = Partition(self.topic, self.index)
        other.sent, other.time_ms, other.commit = self.sent, self.time_ms, self.commit  # what was sent stays sent
        other.acked, other.seen, other.origin = list(self.acked), list(self.seen), self
        return other

    def follow_origin(self, moment):
        """A copy from before the run: take what the check of the run found, if that was before the moment."""
        origin = self.origin
        if origin is not None and origin.checked is not None and origin.checked < moment:
            self.acked, self.seen, self.commit = origin.acked, origin.seen, origin.commit

    def name(self):
        return f"{self.topic}-{self.index}"

    def batch(self, rng):
        """A batch that no other is like."""
        self.time_ms = max(self.time_ms, int(time.time() * 1000))
        values = [b"%s %d %d " % (self.name().encode(), len(self.sent), i) + b"x" * rng.randrange(300)
                  for i in range(rng.randrange(1, 5))]
        batch = record_batch.encode([record_batch.Record(v, timestamp=self.time_ms) for v in values])
        self.sent[batch[PATCHED:]] = True
        return batch

    def cut(self, moment):
        self.acked = [a for a in self.acked if a[0] < moment]
        self.seen = [s for s in self.seen if s[0] < moment]


class History:
    """All topics. `state` is what is known of each name, `ops` what was done since: [name, kind, begun, ended, config]."""

    def __init__(self):
        self.lock = threading.Lock()
        self.state = {}  # name -> {"id", "config", "partitions": {index: Partition}}
        self.ops = []
        self.life = []  # all operations of this run of the node
        self.errors = []

    def cut(self, moment):
        self.ops = [op for op in self.ops if op["begun"] < moment]
        for op in self.ops:
            if op["ended"] is not None and op["ended"] >= moment:
                op["ended"] = None
        for topic in self.topics():
            for part in topic["partitions"].values():
                part.cut(moment)

    def topics(self):
        """Every topic of which something is known, those of operations included."""
        known = list(self.state.values()) + [op["topic"] for op in self.ops if op["topic"] is not None]
        return {id(t): t for t in known if t is not None}.values()

    def possible(self, name):
        """The topics, or None, that may stand under a name: after what was answered, and after what was begun."""
        out = [self.state.get(name)]
        for op in (op for op in self.ops if op["name"] == name):
            done = [op["topic"]]
            out = done if op["ended"] is not None else out + done
        return out

    def names(self):
        return sorted(set(self.state) | {op["name"] for op in self.ops})


class Clients:
    """The calls that a history is made of. A node that dies ends them; each call's outcome is then unknown."""

    def __init__(self, node, history):
        self.client, self.history = grpc_client.Client(node), history
        self.ended = threading.Event()

    def close(self):
        self.client.close()

    def _op(self, name, kind, topic):
        op = {"name": name, "kind": kind, "begun": now(), "ended": None, "topic": topic}
        with self.history.lock:
            self.history.ops.append(op)
            self.history.life.append(op)
        return op

    def latest(self, name):
        with self.history.lock:
            return self.history.possible(name)[-1]

    def create(self, name, partitions, config):
        topic = {"name": name, "id": None, "config": dict(config),
                 "partitions": {i: Partition(name, i) for i in range(partitions)}}
        for part in topic["partitions"].values():
            part.commit = config["flush.policy"] == "commit"
        op = self._op(name, "create", topic)
        topic["id"] = self.client.create(name, partitions=partitions, config=config).topic_id
        op["ended"] = now()
        return topic

    def alter(self, name, config, more=0):
        old = self.latest(name)
        partitions = dict(old["partitions"])
        for i in range(len(partitions), len(partitions) + more):
            partitions[i] = Partition(name, i)
            partitions[i].commit = old["config"]["flush.policy"] == "commit"
        policy = config.get("flush.policy", old["config"]["flush.policy"])
        for part in partitions.values() if policy != "commit" else ():
            part.commit = False
        op = self._op(name, "alter", {**old, "config": {**old["config"], **config}, "partitions": partitions})
        entries = [pb.ConfigEntry(key=k, value=v) for k, v in config.items()]
        self.client.api.AlterTopic(pb.AlterTopicRequest(name=name, partitions=len(partitions) if more else 0, config=entries),
                                   timeout=30)
        op["ended"] = now()
        for part in partitions.values():
            part.commit = policy == "commit"

    def delete(self, name):
        op = self._op(name, "delete", None)
        self.client.api.DeleteTopic(pb.DeleteTopicRequest(name=name), timeout=30)
        op["ended"] = now()

    def produce(self, part, batch, acks=pb.ACKS_QUORUM):
        """One batch, waited for."""
        row = self.client.produce(part.topic, part.index, batch, acks=acks)
        if row.HasField("error"):
            raise AssertionError(f"{part.name()}: {row.error}")
        part.acked.append((now(), row.base_offset, batch, part.commit))
        return row.base_offset

    def stream(self, part, rng, window, acks=pb.ACKS_LEADER):
        """Keep `window` batches in flight until told to end, or the end of the node."""
        room = threading.Semaphore(window)

        def done(future, batch, commit):
            moment = now()
            try:
                row = future.result().partitions[0]
                if row.HasField("error"):
                    self.history.errors.append(f"{part.name()}: {row.error}")
                else:
                    part.acked.append((moment, row.base_offset, batch, commit and part.commit))
            except RpcError:
                self.ended.set()
            room.release()

        while not self.ended.is_set():
            if not room.acquire(timeout=1):
                continue
            batch = part.batch(rng)
            request = pb.ProduceRequest(acks=acks)
            request.partitions.add(topic=part.topic, partition=part.index, batch=batch)
            future = self.client.api.Produce.future(request, timeout=20)
            future.add_done_callback(lambda f, b=batch, c=part.commit: done(f, b, c))
            if rng.random() < 0.2:
                time.sleep(rng.random() * 0.01)
        for _ in range(window):
            room.acquire(timeout=20)

    def follow(self, part, offset):
        """Consume from `offset` on until told to end, or the end of the node."""
        try:
            while not self.ended.is_set():
                commit = part.commit
                row = self.client.fetch(part.topic, part.index, offset, max_wait_ms=50)
                if row.HasField("error"):
                    return
                moment = now()
                for base, behind, batch in split(row.batches):
                    part.seen.append((moment, base, batch, commit and part.commit))
                    offset = behind
        except RpcError:
            pass

    def churn(self, rng):
        """Topics that come, change and go."""
        try:
            while not self.ended.is_set():
                name = f"d{rng.randrange(3)}"
                topic = self.latest(name)
                if topic is None:
                    topic = self.create(name, rng.randrange(1, 3), {"flush.policy": rng.choice(["commit", "onroll"]),
                                                                    "segment.bytes": "16384"})
                    part = topic["partitions"][0]
                    self.produce(part, part.batch(rng))
                elif rng.random() < 0.5:
                    self.alter(name, {"retention.ms": str(rng.randrange(10**9, 10**10))}, more=rng.randrange(2))
                else:
                    self.delete(name)
        except RpcError:
            pass

    def flip(self, rng):
        """A topic whose flush policy changes under load."""
        try:
            while not self.ended.is_set():
                time.sleep(rng.random() * 0.05)
                self.alter("f", {"flush.policy": rng.choice(["commit", "onroll", "interval"])})
        except RpcError:
            pass


class Checker:
    """Holds a node that has come back against a history, and makes what it finds the new history."""

    def __init__(self, test, node, clients, history, image, floor, lost_allowed):
        self.test, self.node, self.clients, self.history = test, node, clients, history
        self.image, self.floor, self.lost_allowed = image, floor, lost_allowed
        self.lost = self.cut_bytes = 0

    def check(self, rng):
        described = {}
        listed = {t.name for t in self.clients.client.api.ListTopics(pb.ListTopicsRequest(), timeout=30).topics}
        for name in self.history.names():
            options = self.history.possible(name)
            if name not in listed:
                self.test.assertIn(None, options, f"topic {name} was acknowledged, and is gone")
                described[name] = None
                continue
            found = self.clients.client.api.DescribeTopic(pb.DescribeTopicRequest(name=name), timeout=30).topic
            described[name] = self.choose(name, options, found)
        self.test.assertEqual(listed - set(self.history.names()), set(), "topics that nobody made")
        with self.history.lock:
            self.history.state = {k: v for k, v in described.items() if v is not None}
            self.history.ops = []
        for topic in self.history.state.values():
            for part in topic["partitions"].values():
                self.check_partition(part, topic["config"]["flush.policy"], topic["config"], rng)

    def choose(self, name, options, found):
        """Which of the topics that may stand there is it?"""
        config = {c.key: c.value for c in found.config}
        for topic in reversed(options):
            if topic is None or topic["id"] not in (None, found.topic_id):
                continue
            if len(found.partitions) == len(topic["partitions"]) and all(config[k] == v for k, v in topic["config"].items()):
                topic["id"] = found.topic_id
                return topic
        raise AssertionError(f"topic {name} is none of those that may be there:\n{found}\n{options}")

    def read(self, part):
        """All batches, from the first offset to the end, and both."""
        client = self.clients.client
        start, end = client.list_offset(part.topic, part.index, -2), client.list_offset(part.topic, part.index, -1)
        for row in (start, end):
            self.test.assertFalse(row.HasField("error"), f"{part.name()}: {row.error}")
        batches, offset = [], start.offset
        while offset < end.offset:
            row = client.fetch(part.topic, part.index, offset, max_wait_ms=2000)
            self.test.assertFalse(row.HasField("error"), f"{part.name()} at {offset}: {row.error}")
            got = split(row.batches)
            self.test.assertTrue(got, f"{part.name()}: nothing at {offset}, the end is {end.offset}")
            for base, behind, batch in got:
                self.test.assertLessEqual(base, offset, f"{part.name()}: a gap")
                self.test.assertGreater(behind, offset, f"{part.name()}: offsets go back")
                batches.append((base, behind, batch))
                offset = behind
        return start.offset, end.offset, batches

    def check_partition(self, part, policy, config, rng):
        log_start, end, batches = self.read(part)
        moment = now()
        where = part.name()
        seen = set()
        for base, _, batch in batches:
            body = batch[PATCHED:]
            self.test.assertTrue(body in part.sent, f"{where}: what stands at {base} was never sent: {batch[:200]}")
            self.test.assertFalse(body in seen, f"{where}: what stands at {base} stands there twice: {batch[:200]}")
            seen.add(body)
        at = {base: batch for base, _, batch in batches}
        must = [(base, batch, commit, "acknowledged") for _, base, batch, commit in part.acked]
        must += [(base, batch, True, "read") for _, base, batch, commit in part.seen if commit]
        trims = "retention.bytes" in config
        if trims:
            kept = sum(len(b) for _, _, b in batches)
            self.test.assertTrue(log_start <= self.trimmed_to(part) or kept >= int(config["retention.bytes"]),
                                 f"{where}: the log starts at {log_start} and holds {kept} bytes")
        else:
            self.test.assertEqual(log_start, 0, f"{where}: the start of the log")
        for base, batch, commit, how in must:
            if base < log_start:
                continue
            if base >= end and not commit and self.lost_allowed:
                self.lost += 1
                continue
            self.test.assertTrue(base in at, f"{where} ({policy}): the batch {how} at {base} is gone; the end is {end}")
            self.test.assertEqual(at[base][PATCHED:], batch[PATCHED:], f"{where} ({policy}): another batch than that {how} at {base}")
        floor = self.floor_of(part, log_start)
        self.test.assertGreaterEqual(end, floor, f"{where} ({policy}): synced records are gone")
        self.check_loss_is_told(part, log_start, sum(len(b) for _, _, b in batches))
        self.check_lookups(part, batches, rng)
        part.commit, part.checked = policy == "commit", moment
        part.acked = [a for a in part.acked if a[1] < end and a[3]]
        part.acked += [(moment, base, batch, part.commit) for base, _, batch in batches]
        part.seen = []
        offset = self.clients.produce(part, part.batch(rng))
        self.test.assertEqual(offset, end, f"{where}: the next offset")

    def folder(self, part):
        return f"storage_mmap/{part.name()}/"

    def trimmed_to(self, part):
        """Where the log began, as its small files said when the power went."""
        start = self.image["now"].get(self.folder(part) + "log-start-offset") or b"0\n0\n"
        point = self.image["now"].get(self.folder(part) + "recovery-point") or b""
        starts = [line.split()[1] for line in point.split(b"\n") if line.startswith(b"log ")]
        return max(int(start.split(b"\n")[1]), *map(int, starts or [0]))

    def segments(self, tree, part):
        prefix = self.folder(part)
        return [(int(p[len(prefix) : -4]), p) for p in sorted(tree) if p.startswith(prefix) and p.endswith(".log")]

    def floor_of(self, part, log_start):
        """The end of what was synced when the power went: names and bytes that last, without a gap."""
        end = 0
        for base, path in self.segments(self.floor, part):
            if base > max(end, log_start):
                break
            for first, behind, batch in split(self.floor[path]):
                if first == max(end, base) and batch[PATCHED:] in part.sent:
                    end = behind
        return end

    def check_loss_is_told(self, part, log_start, served):
        """Bytes that stood in the folder and are not served any more were cut, logged and counted."""
        stood = sum(len(self.image["crash"][path]) for base, path in self.segments(self.image["crash"], part)
                    if base >= log_start)
        if stood > served:
            told = [line for line in self.node.logs() if line.get("event") == "tail_cut" and
                    (line.get("partition") == part.name() or (line.get("topic"), line.get("partition")) == (part.topic, part.index))]
            self.test.assertTrue(told, f"{part.name()}: {stood - served} bytes were cut, and nothing was said of it")
            self.cut_bytes += stood - served

    def check_lookups(self, part, batches, rng):
        """Random places, by offset and by time: the indexes lead there, or are passed over."""
        client = self.clients.client
        for base, _, batch in rng.sample(batches, min(3, len(batches))):
            row = client.fetch(part.topic, part.index, base, max_bytes=1)
            self.test.assertEqual(split(row.batches)[0][2], batch, f"{part.name()}: read at {base}")
            (stamp,) = struct.unpack_from(">q", batch, 35)
            first = min(b for b, _, other in batches if struct.unpack_from(">q", other, 35)[0] >= stamp)
            found = client.list_offset(part.topic, part.index, stamp)
            self.test.assertEqual(found.offset, first, f"{part.name()}: the offset of time {stamp}")


def load(node, history, rng):
    """Begin everything at once. Returns the clients and their threads; `clients.ended.set()` ends them."""
    clients = Clients(node, history)
    jobs = []
    for name in ("c", "q", "i", "r", "x", "f"):
        topic = clients.latest(name)
        for part in topic["partitions"].values():
            acks = pb.ACKS_QUORUM if name == "q" else pb.ACKS_LEADER
            jobs.append((clients.stream, part, random.Random(rng.random()), rng.choice([1, 4, 16]), acks))
    for name in ("c", "q"):
        part = clients.latest(name)["partitions"][0]
        jobs.append((clients.follow, part, clients.client.end(name, 0)))
    jobs.append((clients.churn, random.Random(rng.random())))
    jobs.append((clients.flip, random.Random(rng.random())))

    def run(job):
        try:
            job[0](*job[1:])
        except RpcError:
            pass
        except BaseException as error:  # carried to the test's own thread
            history.errors.append(repr(error))

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    return clients, threads
