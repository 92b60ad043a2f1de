"""What clients of a node were told until it died, and the check of it after the next start.

A death of the process loses nothing that was written, whatever the flush policy, so the rules are plain:

    every acknowledged batch stands at its offset, byte for byte, unless retention has taken it;
    every stored batch was sent, stands once, and no batch of a burst stands before one of an earlier burst;
    offsets are dense; neither the start nor the end of a log ever goes back;
    retention leaves at least as many bytes as the topic asks for;
    topics acknowledged as created are there with their settings, topics acknowledged as deleted are not.
"""

import os
import random
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import record_batch  # noqa: E402

pb = grpc_client.pb
RpcError = grpc_client.grpc.RpcError
PATCHED = 16  # bytes of a batch that the broker writes: base offset, length, leader epoch
CALL_S = 20


def split(data):
    """[(base offset, next offset, bytes)] of batches back to back; what is torn at the end is left out."""
    out, pos = [], 0
    while pos + record_batch.HEADER_LEN <= len(data):
        base, length = struct.unpack_from(">qi", data, pos)
        if length < 49 or pos + 12 + length > len(data):
            break
        (delta,) = struct.unpack_from(">i", data, pos + 23)
        out.append((base, base + delta + 1, data[pos : pos + 12 + length]))
        pos += 12 + length
    return out


class Partition:
    """One partition. Touched by its load while that runs, by the checker in between."""

    def __init__(self, topic, index, acks=pb.ACKS_LEADER, retention_bytes=None, small=False):
        self.topic, self.index, self.acks, self.small = topic, index, acks, small
        self.retention_bytes = retention_bytes
        self.sent = {}  # bytes behind the patched ones -> number of its burst
        self.acked = []  # (base offset, next offset, bytes), not verified yet
        self.acked_end = self.acked_count = 0
        self.burst = self.number = 0
        self.start = self.end = 0  # as of the last check; what stands between them was verified
        self.last_burst = -1
        self.was_cut = False  # since the last check
        self.lengths = []  # (base offset, bytes) of what was verified and not trimmed

    @property
    def name(self):
        return f"{self.topic}-{self.index}"

    def _batch(self, rng):
        self.number += 1
        size = 40 if self.small else rng.choice([40, 200, 400, 400, 1500, 6000])
        values = [b"%s %d %d " % (self.name.encode(), self.number, i) + b"x" * rng.randrange(size)
                  for i in range(rng.randrange(1, 5))]
        batch = record_batch.encode(values, codec=record_batch.NONE)
        self.sent[batch[PATCHED:]] = self.burst
        return batch

    def produce(self, client, rng, count):
        """Send `count` batches at once, so that the broker may append them together; wait for all.
        @return the errors of rows; raises RpcError when the connection is gone."""
        self.burst += 1
        batches, calls, failure, errors = [self._batch(rng) for _ in range(count)], [], None, []
        for batch in batches:
            request = pb.ProduceRequest(acks=self.acks)
            request.partitions.add(topic=self.topic, partition=self.index, batch=batch)
            calls.append(client.api.Produce.future(request, timeout=CALL_S))
        for batch, call in zip(batches, calls):
            try:
                row = call.result().partitions[0]
            except RpcError as error:
                failure = error
                continue
            if row.HasField("error"):
                errors.append(row.error)
                continue
            (delta,) = struct.unpack_from(">i", batch, 23)
            self.acked.append((row.base_offset, row.base_offset + delta + 1, batch[PATCHED:]))
            self.acked_end = max(self.acked_end, row.base_offset + delta + 1)
            self.acked_count += 1
        if failure is not None:
            raise failure
        return errors

    def forget_from(self, offset):
        """The file was cut there: what stood behind was never acknowledged, as far as the node can know."""
        self.acked = [a for a in self.acked if a[1] <= offset]
        self.acked_end = min(self.acked_end, offset)
        self.was_cut = True

    def _read(self, client, offset):
        """Batches from `offset` to the end; retention may run beside it, then from where it left the start."""
        out, refused = [], 0
        while True:
            row = client.fetch(self.topic, self.index, offset, max_bytes=1 << 20)
            if row.HasField("error"):
                start = client.list_offset(self.topic, self.index, -2).offset
                refused += start <= offset  # storage has trimmed, and the broker is about to know
                if row.error.code != pb.OFFSET_OUT_OF_RANGE or refused > 200:
                    raise AssertionError(f"fetch {self.name} at {offset}: {row.error}")
                if start > offset:
                    out, offset = [], start
                else:
                    time.sleep(0.005)
                continue
            if not row.batches:
                return offset if not out else out[0][0], out
            out += [b for b in split(row.batches) if b[0] >= offset]
            offset = out[-1][1]

    def check(self, test, client):
        """Hold what is new since the last check against what was told."""
        start = client.list_offset(self.topic, self.index, -2).offset
        end = client.end(self.topic, self.index)
        test.assertGreaterEqual(start, self.start, f"{self.name}: the start went back")
        test.assertGreaterEqual(end, max(self.end, self.acked_end), f"{self.name}: the end went back")
        first, batches = self._read(client, max(start, self.end))
        at, by_base = first, {}
        for base, next_offset, data in batches:
            test.assertEqual(base, at, f"{self.name}: offsets are dense")
            burst = self.sent.get(data[PATCHED:])
            test.assertIsNotNone(burst, f"{self.name}: the batch at {base} was never sent, or stands twice")
            test.assertGreaterEqual(burst, self.last_burst, f"{self.name}: {base} is out of order")
            del self.sent[data[PATCHED:]]
            self.last_burst, at = burst, next_offset
            by_base[base] = data
            self.lengths.append((base, len(data)))
        test.assertEqual(at, end, f"{self.name}: the log reads to its end")
        for base, next_offset, data in self.acked:
            if base >= first:
                found = by_base.get(base, b"")[PATCHED:]
                test.assertEqual(found, data, f"{self.name}: acknowledged at {base}, first {first}, end {end}")
            else:
                test.assertLessEqual(next_offset, first, f"{self.name}: cut within the batch at {base}")
        start = max(start, first) if first > self.end else start
        if start > self.start:
            test.assertIsNotNone(self.retention_bytes, f"{self.name}: nobody asked for the start to move")
            self.lengths = [(b, n) for b, n in self.lengths if b >= start]
            left = sum(n for _, n in self.lengths)
            test.assertTrue(left >= self.retention_bytes or self.was_cut, f"{self.name}: retention has left {left} bytes")
        self.start, self.end, self.acked = start, end, []
        # What is unknown and not stored now will not be stored any more.
        self.sent, self.was_cut = {}, False


class Topics:
    """Topics that come, change and go. Used by one thread at a time."""

    def __init__(self):
        self.there = {}  # name -> (partitions, retention.ms)
        self.pending = None  # (name, what it was, what it becomes); None stands for no such topic
        self.number = 0
        self.partitions = {}  # name -> Partition, with a record or two

    def _change(self, name, becomes, call):
        self.pending = (name, self.there.get(name), becomes)
        call()
        self._settle(becomes)

    def _settle(self, becomes):
        name, _, _ = self.pending
        self.pending = None
        if becomes is None:
            self.there.pop(name, None)
            self.partitions.pop(name, None)
        else:
            self.there[name] = becomes
            self.partitions.setdefault(name, Partition(name, 0, pb.ACKS_QUORUM, small=True))

    def step(self, client, rng):
        """Create and fill, change or delete one topic. @return errors of rows; raises RpcError when the connection is gone."""
        if self.pending is not None:
            self._resolve(client, {t.name for t in client.api.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S).topics})
        kind = rng.choice(["create", "create", "alter", "grow", "delete"])
        names = sorted(self.there)
        if kind == "create" and len(names) < 12 or len(names) < 3:
            self.number += 1
            name, settings = f"c{self.number}", {"segment.bytes": "16384", "retention.ms": "9000000", "retention.bytes": "-1"}
            self._change(name, (1, "9000000"), lambda: client.create(name, 1, config=settings))
            return self.partitions[name].produce(client, rng, 2)
        name = rng.choice(names)
        count, retention_ms = self.there[name]
        if kind == "alter":
            retention_ms = str(9000000 + rng.randrange(1000))
            request = pb.AlterTopicRequest(name=name, config=[pb.ConfigEntry(key="retention.ms", value=retention_ms)])
            self._change(name, (count, retention_ms), lambda: client.api.AlterTopic(request, timeout=CALL_S))
        elif kind == "grow" and count < 3:
            request = pb.AlterTopicRequest(name=name, partitions=count + 1)
            self._change(name, (count + 1, retention_ms), lambda: client.api.AlterTopic(request, timeout=CALL_S))
        else:
            self._change(name, None, lambda: client.api.DeleteTopic(pb.DeleteTopicRequest(name=name), timeout=CALL_S))
        return []

    def _look(self, client, name):
        topic = client.api.DescribeTopic(pb.DescribeTopicRequest(name=name), timeout=CALL_S).topic
        return len(topic.partitions), next(c.value for c in topic.config if c.key == "retention.ms")

    def _resolve(self, client, listed):
        """What became of the change that was under way when the node died? It is done or it is not."""
        name, was, becomes = self.pending
        found = self._look(client, name) if name in listed else None
        if found not in (was, becomes):
            raise AssertionError(f"{name} was {was}, was to be {becomes}, is {found}")
        self._settle(found)

    def check(self, test, client, also):
        """also: names of topics that are always there."""
        listed = {t.name: t.partitions for t in client.api.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S).topics}
        for name in also:
            test.assertIn(name, listed)
        if self.pending is not None:
            self._resolve(client, listed)
        test.assertEqual(sorted(set(listed) - set(also)), sorted(self.there), "the set of topics")
        for name, expected in self.there.items():
            test.assertEqual(listed[name], expected[0], name)
        for name in random.Random(len(listed)).sample(sorted(self.there), min(3, len(self.there))):
            test.assertEqual(self._look(client, name), self.there[name], name)
            self.partitions[name].check(test, client)
