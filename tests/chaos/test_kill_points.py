#!/usr/bin/python3
"""kill -9 at every fault point and at random moments, under load: nothing acknowledged is lost, nothing forgotten.

A cycle is two deaths. A daemon of the fault build is started with one point armed, serves a load that rolls, flushes,
trims, changes topics and snapshots metadata all the time, and dies when it comes by the point: at boot, under load, or
while it stops, wherever that is. The released daemon then starts over what is left, everything is checked
(kill_history.py), it serves for a moment, and is killed too. Then the next point.

The points are those that the build lists: a new one is killed at without a line here, and one that this load cannot
reach fails the test, unless it is named below with the reason. Points come first; what is left of the cycles is random.
"""

import collections
import os
import random
import shutil
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fault_points  # noqa: E402
import grpc_client  # noqa: E402
import harness  # noqa: E402
from kill_history import Partition, RpcError, Topics, pb, split  # noqa: E402

DEATHS = 1000 if harness.FULL else 100
REACH_S = 20 if harness.SANITIZED else 6  # a point that is not met for so long is tried again
TRIES = 6

# No call on the wire truncates a log, or can make one that lost a batch at a reboot; both are what
# plugins/storage_mmap/tests/test_crash.c kills at.
UNIT_ONLY = ("truncate.", "recover.truncation.", "recover.before_unlink")
# Topics that the configuration declares have a test of their own: test_declared.py.
UNIT_ONLY += ("declared.",)
# Points that a sound disk does not lead to: what has to fail before, and how the failure is called.
FAILS_BEFORE = {
    "segment.append.before_undo": "segment.append.after_write:ENOSPC@p0.1",
    "segment.append.undo_write": "segment.append.after_write:ENOSPC@p0.1",
    "segment.append.undo_segment": "segment.append.after_write:ENOSPC@p0.2",
    "metadata.append.before_undo": "metadata.append.before_write:ENOSPC@3",
    "metadata.append.half": "metadata.append.short:EINTR@1+",
}
TYPED = {"DISK_FULL", "THROTTLED"}  # what these failures may be called
# Met once in the life of a data folder.
FRESH = ("identity.after_mkdir", "identity.before_write", "identity.before_rename", "identity.after_rename",
         "metadata.open.after_mkdir")
# ... and once in each of its lives.
AT_BOOT = ("recover.", "metadata.tail.", "metadata.open.", "store.", "identity.")
STOPPING = ("partition.close.",)
SETS = ["broker.retention_check_interval_ms=10", "plugins.metadata_local.snapshot_log_commands=4",
        "plugins.storage_mmap.idle_close_ms=10", "plugins.storage_mmap.max_open_files=8",
        "plugins.storage_mmap.scrub_delay_ms=1", "plugins.storage_mmap.scrub_interval_ms=20"]
COMMON = {"segment.bytes": "16384", "index.interval.bytes": "64", "flush.interval.ms": "5", "retention.ms": "-1"}


class KillPoints(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.topics = Topics()
        self.settings = {
            "onroll": {**COMMON, "flush.policy": "onroll", "retention.bytes": "262144"},
            "interval": {**COMMON, "flush.policy": "interval", "retention.bytes": "16384"},
            "commit": {**COMMON, "flush.policy": "commit", "retention.bytes": "65536"},
        }
        self.partitions = [Partition(name, index, acks, int(self.settings[name]["retention.bytes"]))
                           for name, index, acks in (("onroll", 0, pb.ACKS_LEADER), ("onroll", 1, pb.ACKS_QUORUM),
                                                     ("interval", 0, pb.ACKS_QUORUM), ("commit", 0, pb.ACKS_QUORUM))]
        self.deaths, self.armed_deaths, self.cuts = 0, collections.Counter(), 0
        self.fault_log = self.path("faults.log")

    # ---- load ---------------------------------------------------------------------------------

    def _run(self, stop, errors, allowed, work):
        """Repeat `work` until told to stop or until the node is gone. What the node refuses must have its name."""
        try:
            while not stop.is_set():
                for error in work() or []:
                    name = pb.ErrorCode.Name(error.code)
                    if name not in allowed or not error.message:
                        raise AssertionError(f"refused under load: {error}")
                    time.sleep(0.01)
        except RpcError as error:
            trailer = grpc_client.status_error(error)[2]
            if trailer is not None and pb.ErrorCode.Name(trailer.code) not in allowed:
                errors.append(AssertionError(f"refused under load: {trailer}"))
        except BaseException as error:  # carried to the test's own thread
            errors.append(error)

    def _load(self, client, allowed):
        """Threads that produce, read and change topics; the event ends them, and so does the node's end."""
        stop, errors, jobs = threading.Event(), [], []

        def producer(part, rng):
            return lambda: part.produce(client, rng, rng.choice([1, 1, 2, 4, 8]))

        def reader(rng):
            def read():
                part = rng.choice(self.partitions)
                client.fetch(part.topic, part.index, rng.randrange(part.start, max(part.end, part.start + 1)), max_bytes=4096)
                time.sleep(0.005)
            return read

        for part in self.partitions:
            jobs.append(producer(part, random.Random(self.rng.random())))
        admin = random.Random(self.rng.random())
        jobs += [reader(random.Random(self.rng.random())), lambda: self.topics.step(client, admin)]
        threads = [threading.Thread(target=self._run, args=(stop, errors, allowed, job)) for job in jobs]
        for thread in threads:
            thread.start()

        def end():
            stop.set()
            for thread in threads:
                thread.join(60)
                self.assertFalse(thread.is_alive(), "a call has no end")
            if errors:
                raise errors[0]
        return end

    # ---- deaths -------------------------------------------------------------------------------

    def _wait(self, node, seconds, ready=False):
        """Until the node is dead, or ready where that is asked for. @return is it dead?"""
        end = time.monotonic() + seconds
        while node.process.poll() is None and time.monotonic() < end:
            if ready and node._ready.is_set():
                return False
            time.sleep(0.002)
        if ready and node.process.poll() is None:
            node.wait_ready()
        return node.process.poll() is not None

    def _arm(self, node, point, nth):
        rules = [f"{point}:kill@{nth}"]
        if point in FAILS_BEFORE:
            rules.insert(0, FAILS_BEFORE[point])
        node.daemon = harness.FAULT_DAEMON
        node.prefix = ["env", "STREAMIT_FAULT=" + ";".join(rules), f"STREAMIT_FAULT_LOG={self.fault_log}",
                       f"STREAMIT_FAULT_SEED={self.rng.randrange(1 << 30)}"]
        if os.path.exists(self.fault_log):
            os.unlink(self.fault_log)

    def _died(self, node, point):
        """Collect a node that has died by itself, and make sure of what."""
        status = node._ended()
        self.assertEqual(status, -9, f"ended with {status}:\n{node.log_text()[-3000:]}")
        with open(self.fault_log, encoding="ascii") as file:
            fired = [line.split()[:2] for line in file.read().splitlines()]
        # Other threads may meet a rule that fails, too, between the note of the death and the death.
        self.assertEqual([rule for rule in fired if rule[1] == "kill"], [[point, "kill"]])
        self.deaths += 1
        self.armed_deaths[point] += 1

    def _die_at(self, node, point, nth):
        """One life with `point` armed. @return was it met?"""
        self._arm(node, point, nth)
        node.start(wait=False)
        if not self._wait(node, harness.READY_S, ready=True):
            with grpc_client.Client(node) as client:
                end = self._load(client, TYPED if point in FAILS_BEFORE else {"UNAVAILABLE"} if point.startswith(STOPPING) else set())
                if point.startswith(STOPPING):
                    time.sleep(0.05 + self.rng.random() * 0.1)
                    node.process.terminate()
                dead = self._wait(node, REACH_S)
                if not dead:
                    node.process.kill()
                    node.process.wait()
                end()
            if not dead:
                node._ended()
                self.deaths += 1
                return False
        self._died(node, point)
        return True

    def _prepare(self, node, point):
        """What a bad disk, or an operator, may have done to the folder in between."""
        stored = [p for p in self.partitions if node.segments(p.topic, p.index)]
        if not stored:
            return  # the first death came before anything was stored
        part = self.rng.choice(stored)
        if "_cut" in point or self.rng.random() < 0.2:
            with open(node.segments(part.topic, part.index)[-1], "ab") as file:
                file.write(self.rng.choice([bytes(self.rng.randrange(1, 5000)), self.rng.randbytes(self.rng.randrange(1, 300))]))
        elif self.rng.random() < 0.3:
            self._cut_tail(node, part)
        if point.startswith("index.") or self.rng.random() < 0.1:
            for part in self.partitions:
                for path in node.segments(part.topic, part.index)[:-1]:
                    index = path[: -len("log")] + "index"
                    if os.path.exists(index):
                        os.unlink(index)

    def _cut_tail(self, node, part):
        """Cut the newest segment at a random byte of what nobody has verified, or flip a bit of its last batch."""
        path = node.segments(part.topic, part.index)[-1]
        data = harness.read(path)
        places, pos = [], 0  # (begin, end, base offset, next offset) of batches
        for base, next_offset, batch in split(data):
            places.append((pos, pos + len(batch), base, next_offset))
            pos += len(batch)
        fresh = [p for p in places if p[2] >= part.end]
        if not fresh or b"clean" in harness.read(os.path.join(os.path.dirname(path), "recovery-point")):
            return  # what an orderly end has synced is damage when it is missing
        at = self.rng.randrange(fresh[0][0], pos) if self.rng.random() < 0.7 else fresh[-1][0]
        with open(path, "r+b") as file:
            if at == fresh[-1][0]:
                flip = self.rng.randrange(at + 17, pos)
                file.seek(flip)
                file.write(bytes([data[flip] ^ 1 << self.rng.randrange(8)]))
                file.truncate(pos)
            else:
                file.truncate(at)
        kept = [p for p in places if p[1] <= at]
        part.forget_from(kept[-1][3] if kept else places[0][2])
        self.cuts += 1

    def _check(self, node):
        """The released daemon over what is left: everything holds, and it serves."""
        node.daemon, node.prefix = harness.DAEMON, []
        node.start()
        with grpc_client.Client(node) as client:
            for part in self.partitions:
                part.check(self, client)
            self.topics.check(self, client, set(self.settings))
            for part in self.partitions:
                self.assertEqual(part.produce(client, self.rng, 1), [], "service is resumed")

    def _kill_at_random(self, node):
        with grpc_client.Client(node) as client:
            end = self._load(client, set())
            time.sleep(self.rng.random() * 0.08)
            node.kill()
            self.deaths += 1
            end()

    def _fresh(self, point):
        """A death while a new data folder is made: the next start makes it, and serves."""
        node = self.node(f"fresh-{point}")
        self._arm(node, point, 1)
        node.start(wait=False)
        self.assertTrue(self._wait(node, harness.READY_S), f"nobody died at {point}")
        self._died(node, point)
        node.daemon, node.prefix = harness.DAEMON, []
        node.start()
        with grpc_client.Client(node) as client:
            client.create("t")
            self.assertEqual(client.produce("t", 0, [b"x"]).base_offset, 0)
        node.kill()
        self.deaths += 1
        shutil.rmtree(node.data_dir)

    def _reach(self, node, point):
        once = point.startswith(AT_BOOT) or point in FAILS_BEFORE
        nth = 1 if once else self.rng.choice([1, 1, 2, 3, 5, 8])
        for _ in range(TRIES):
            self._prepare(node, point)
            reached = self._die_at(node, point, nth)
            self._check(node)
            if harness.FULL or self.rng.random() < 0.25:
                self._kill_at_random(node)
            else:
                node.kill()  # with nothing under way but retention and the scrub
                self.deaths += 1
            if reached:
                return
            nth = 1
        self.fail(f"the load does not reach {point}: let it, or name it in UNIT_ONLY with the test that does")

    def test_every_point_and_random_moments(self):
        points = [p for found in fault_points.points(harness.FAULT_BUILD).values() for p in found]
        self.assertGreater(len(points), 80)
        wanted = [p for p in points if not p.startswith(UNIT_ONLY)]
        self.rng.shuffle(wanted)
        node = self.node(sets=SETS)
        node.start()
        with grpc_client.Client(node) as client:
            for name, config in self.settings.items():
                client.create(name, sum(p.topic == name for p in self.partitions), config=config)
        self._kill_at_random(node)
        for point in wanted:
            if point in FRESH:
                self._fresh(point)
            else:
                self._reach(node, point)
        while self.deaths < DEATHS:
            self._reach(node, self.rng.choice([p for p in wanted if p not in FRESH]))
        self._finish(node)
        self.assertEqual([p for p in wanted if not self.armed_deaths[p]], [])
        self.assertGreater(self.cuts, 3)
        print(f"{self.deaths} deaths, {self.cuts} cut tails, {sum(self.armed_deaths.values())} at {len(self.armed_deaths)} points; acknowledged batches: "
              f"{sum(p.acked_count for p in self.partitions)}; topics made: {self.topics.number}", file=sys.stderr)

    def _finish(self, node):
        """Once more all that retention has left, an orderly end, and no folder that belongs to nobody."""
        self._check(node)
        for part in self.partitions:
            self.assertGreater(part.acked_count, DEATHS // 4, "the load was a load")
        storage = os.path.join(node.data_dir, "storage_mmap")
        expected = {f"{name}-{i}" for name, (count, _) in self.topics.there.items() for i in range(count)}
        expected |= {part.name for part in self.partitions}
        end = time.monotonic() + 20
        while set(os.listdir(storage)) != expected and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(sorted(n for n in os.listdir(storage) if os.path.isdir(os.path.join(storage, n))), sorted(expected))
        self.assertEqual(node.stop(), 0)


if __name__ == "__main__":
    harness.main()
