#!/usr/bin/python3
"""Disks and machines that fail under a running node: errors on the n-th call, exhaustion, a file system that turns read-only,
a disk that is slow.

Whatever fails, and whenever: the error that a client gets is typed and comes in time, the other partitions go on, a failed
write or sync takes its partition out of service instead of being tried again and called success, nothing that was
acknowledged is lost, and with the fault gone everything serves again. The quick run takes a few n of each call, the long one
(STREAMIT_TEST_FULL=1) every n until the call is not reached any more.
"""

import ctypes
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import faultfs  # noqa: E402
import grpc_client  # noqa: E402
import harness  # noqa: E402
import record_batch  # noqa: E402

pb = grpc_client.pb
RpcError = grpc_client.grpc.RpcError
TYPED = {pb.IO, pb.POISONED, pb.RESOURCE_EXHAUSTED, pb.NO_MEMORY, pb.UNAVAILABLE, pb.DATA_LOSS, pb.DISK_FULL}
TOPICS = {"t": "commit", "r": "onroll", "other": "commit"}
SAMPLE = 3  # values of n for each call and error in the quick run


def metric(node, name):
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    values = [float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
    assert values, f"no metric {name}"
    return sum(values)


def batch(topic, number):
    return record_batch.encode([b"%s %d " % (topic.encode(), number) + b"x" * 700])


class Case(harness.TestCase):
    """A node over a folder with some data, and the book of what it has acknowledged."""

    def setUp(self):
        super().setUp()
        self.rng = random.Random(harness.seed())
        self.layer = None
        self.addCleanup(lambda: self.layer.close() if self.layer else None)

    def base(self):
        """A folder as a killed node leaves it: logs of several segments, to be recovered."""
        node = self.node("base")
        node.start()
        self.acked = {name: {} for name in TOPICS}
        self.numbers = dict.fromkeys(TOPICS, 0)
        with grpc_client.Client(node) as client:
            for name, policy in TOPICS.items():
                client.create(name, config={"flush.policy": policy, "segment.bytes": "16384", "index.interval.bytes": "1024"})
                for _ in range(30):
                    self.assertIsNone(self.produce(client, name))
        node.kill()
        return node.data_dir

    def under_layer(self, node, **kwargs):
        if self.layer:
            self.layer.close()
        self.layer = faultfs.Layer(self.folder, node.data_dir, **kwargs)
        node.prefix = self.layer.prefix()
        return self.layer

    def produce(self, client, name, timeout=20):
        """One batch. Returns the error, None if it was acknowledged."""
        number = self.numbers[name]
        self.numbers[name] += 1
        data = batch(name, number)
        try:
            row = client.produce(name, 0, data, timeout=timeout)
        except RpcError as error:
            self.fail(f"{name}: a call without an answer: {error}")
        if row.HasField("error"):
            self.assertIn(row.error.code, TYPED, f"{name}: {row.error}")
            self.assertTrue(row.error.message, "an error says what failed")
            return row.error
        self.acked[name][row.base_offset] = data[16:]
        return None

    def verify(self, client, name):
        """Everything that was acknowledged is there, and the log takes appends."""
        end = client.end(name, 0)
        found, offset = {}, 0
        while offset < end:
            row = client.fetch(name, 0, offset, max_wait_ms=1000)
            self.assertFalse(row.HasField("error"), f"{name} at {offset}: {row.error}")
            for one in record_batch.decode_all(row.batches, records=False):
                found[one.base_offset] = True
                offset = one.next_offset
            at = 0
            while at < len(row.batches):
                length = 12 + int.from_bytes(row.batches[at + 8 : at + 12], "big")
                found[int.from_bytes(row.batches[at : at + 8], "big")] = row.batches[at + 16 : at + length]
                at += length
        for base, data in self.acked[name].items():
            self.assertEqual(found.get(base), data, f"{name}: the batch acknowledged at {base}")
        self.assertIsNone(self.produce(client, name), f"{name} takes appends")

    def verify_all(self, node):
        with grpc_client.Client(node) as client:
            for name in TOPICS:
                self.verify(client, name)
        self.assertEqual(metric(node, "streamit_partitions_offline"), 0)


@unittest.skipUnless(faultfs.available(), "no fault layer in this build")
class NthCall(Case):
    """One call fails, at every n, from the start of a node that has to recover over appends, rolls and reads to its stop."""

    CALLS = [("open", errno.EIO), ("open", errno.EMFILE), ("open", errno.ENOMEM), ("read", errno.EIO), ("write", errno.EIO),
             ("write", errno.EROFS), ("sync", errno.EIO), ("mmap", errno.ENOMEM), ("advise", errno.EFAULT), ("rename", errno.EIO),
             ("fallocate", errno.EIO), ("truncate", errno.EIO), ("unlink", errno.EIO), ("close", errno.EIO)]
    HARMLESS = [("read", errno.EINTR), ("write", errno.EINTR), ("read", faultfs.SHORT), ("write", faultfs.SHORT),
                ("fallocate", errno.EOPNOTSUPP)]
    PLACES = ["storage_mmap/t-0/*", "metadata_local/*"]

    def once(self, base, call, error, place, n):
        """Returns whether the fault was reached, and what the clients of each topic got."""
        node = self.node(f"node-{call}-{error}-{place.split('/')[0]}-{n}", ["plugins.storage_mmap.max_open_files=8"])
        shutil.copytree(base, node.data_dir)
        saved, numbers = {k: dict(v) for k, v in self.acked.items()}, dict(self.numbers)
        layer = self.under_layer(node)
        path = "" if call == "advise" else place
        rule = layer.rule(call, path=path, error=error, after=n - 1, times=1)
        errors = {name: [] for name in TOPICS}
        try:
            node.start()
        except AssertionError:
            self.assertGreater(rule.hits, 0, "a start that fails without a fault")
            self.assertIsNone(node.process and node.process.poll() is None or None, "it neither runs nor ends")
            node.process and node._ended()
            last = node.logs()[-1]
            self.assertEqual((last["event"], last["level"]), ("start_failed", "error"), last)
            self.assertIn(last["code"], ("IO", "NO_MEMORY", "RESOURCE_EXHAUSTED", "DATA_LOSS"), last)
        else:
            self.use(node, errors)
            status = node.stop()
            self.assertIn(status, (0, 1) if rule.hits else (0,), "the stop")
        hits = rule.hits
        node.prefix = []
        node.start()
        self.verify_all(node)
        node.kill()
        self.nodes.remove(node)
        shutil.rmtree(node.data_dir)
        self.acked, self.numbers = saved, numbers
        return hits > 0, errors

    def use(self, node, errors):
        with grpc_client.Client(node) as client:
            for _ in range(25):
                for name in TOPICS:
                    error = self.produce(client, name)
                    if error is not None:
                        errors[name].append(error)
            for name in TOPICS:
                for offset in (0, 12, 29):
                    row = client.fetch(name, 0, offset)
                    if row.HasField("error"):
                        self.assertIn(row.error.code, TYPED | {pb.OFFSET_OUT_OF_RANGE}, row.error)
                        errors[name].append(row.error)

    def every(self, calls, check):
        base = self.base()
        reached = 0
        for call, error in calls:
            for place in self.PLACES[:1] if call == "advise" else self.PLACES:
                for n in self.counts(base, call, error, place):
                    hit, errors = self.once(base, call, error, place, n)
                    if not hit:
                        break
                    reached += 1
                    with self.subTest(call=call, error=error, place=place, n=n):
                        check(call, place, errors)
        self.assertGreater(reached, len(calls), "faults were reached")
        print(f"{reached} faults", file=sys.stderr)

    def counts(self, base, call, error, place):
        if harness.FULL:
            return range(1, 1000)
        return sorted(self.rng.sample(range(1, 13), SAMPLE)) if place.startswith("storage") else [self.rng.randrange(1, 6)]

    def test_a_failed_call_costs_its_partition_only(self):
        def check(call, place, errors):
            if call == "advise":  # has no path: any one reader may be hit
                self.assertLessEqual(sum(map(len, errors.values())), 1)
                return
            for name in ("other", "r"):
                self.assertEqual(errors[name], [], f"{name} is not concerned")

        self.every(self.CALLS, check)

    def test_interrupted_and_short_calls_are_gone_on_with(self):
        def check(call, place, errors):
            self.assertEqual([e for all in errors.values() for e in all], [], "nobody notices")

        self.every(self.HARMLESS, check)


@unittest.skipUnless(faultfs.available(), "no fault layer in this build")
class Poison(Case):
    """A partition whose write or sync has failed."""

    def check(self, call):
        base = self.base()
        node = self.node(sets=["broker.reopen_min_ms=0"])
        shutil.copytree(base, node.data_dir)
        layer = self.under_layer(node)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertIsNone(self.produce(client, "t"))
            rule = layer.rule(call, path="storage_mmap/t-0/*.log", error=errno.EIO, times=1)
            error = self.produce(client, "t")
            self.assertIsNotNone(error, "no ack for what failed")
            self.assertEqual(error.code, pb.IO)
            self.assertEqual(rule.hits, 1)
            syncs = layer.rule("sync", path="storage_mmap/t-0/*.log")
            self.assertEqual(metric(node, "streamit_storage_poisoned_total"), 1)
            self.visible(node, "a write failed" if call == "write" else "a sync failed")
            for name in ("other", "r"):
                self.assertIsNone(self.produce(client, name), "the others go on")
            row = client.fetch("t", 0, 3)
            self.assertFalse(row.HasField("error"), "it is still read")
            self.assertEqual(syncs.seen, 0, "no sync is tried again")
        node.kill()
        node.prefix = []
        node.start()
        self.verify_all(node)

    def test_it_serves_again_by_itself_once_the_disk_does(self):
        base = self.base()
        node = self.node(sets=["broker.reopen_min_ms=20", "broker.reopen_max_ms=100"])
        shutil.copytree(base, node.data_dir)
        layer = self.under_layer(node)
        node.start()
        with grpc_client.Client(node) as client:
            self.assertIsNone(self.produce(client, "t"))
            rules = [layer.rule("write", "sync", path="storage_mmap/t-0/*.log", error=errno.EIO),
                     layer.rule("read", path="storage_mmap/t-0/*", error=errno.EIO)]
            self.assertEqual(self.produce(client, "t").code, pb.IO)
            node.wait_log("partition_offline")  # an attempt that failed
            self.assertIn(self.produce(client, "t").code, TYPED)
            self.assertIsNone(self.produce(client, "other"))
            for rule in rules:
                rule.clear()
            node.wait_log("partition_reopened")
            self.visible(node, "a partition was opened again")
            self.assertIsNone(self.produce(client, "t"))
        self.assertEqual(metric(node, "streamit_partitions_reopened_total"), 1)
        self.verify_all(node)

    def test_a_failed_sync_is_never_called_success_later(self):
        self.check("sync")

    def test_a_failed_write_poisons(self):
        self.check("write")


class Exhaustion(Case):
    def test_no_descriptors_left(self):
        node = self.node(sets=["plugins.storage_mmap.max_open_files=1024"])
        self.acked, self.numbers = {"other": {}}, {"other": 0}
        node.start()
        with grpc_client.Client(node) as client:
            client.create("many", partitions=40)
            client.create("other", config={"flush.policy": "commit"})
            self.assertIsNone(self.produce(client, "other"))
            pid = node.process.pid
            count = len(os.listdir(f"/proc/{pid}/fd"))
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (count + 12, hard))
            rows = client.produce_rows([("many", p, record_batch.encode([b"x"])) for p in range(40)])
            refused = {row.error.code for row in rows if row.HasField("error")}
            self.assertEqual(refused, {pb.RESOURCE_EXHAUSTED}, "some were refused, each for that")
            self.assertEqual(metric_or_none(node, "streamit_storage_poisoned_total"), 0, "nothing is broken")
            self.assertIsNone(self.produce(client, "other"), "open files serve on")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            self.visible(node, "no descriptors are left")
            rows = client.produce_rows([("many", p, record_batch.encode([b"y"])) for p in range(40)])
            self.assertEqual([row.error for row in rows if row.HasField("error")], [], "all serve again, without a restart")
            for partition in range(40):
                self.assertEqual(client.read("many", partition)[-1].value, b"y")

    def test_no_address_space_for_maps(self):
        node = self.node()
        node.start()
        with grpc_client.Client(node) as client:
            for number in range(4):
                client.create(f"t{number}")
                self.assertFalse(client.produce(f"t{number}", 0, [b"before"]).HasField("error"))
            pid = node.process.pid
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                size = next(int(line.split()[1]) for line in file if line.startswith("VmSize:")) * 1024
            limits = resource.prlimit(pid, resource.RLIMIT_AS)
            resource.prlimit(pid, resource.RLIMIT_AS, (size + (96 << 20), limits[1]))  # less than the map of a segment
            codes = set()
            for number in range(4):
                row = client.fetch(f"t{number}", 0, 0)
                codes.add(row.error.code if row.HasField("error") else pb.OK)
            self.assertLessEqual(codes, {pb.OK, pb.NO_MEMORY, pb.RESOURCE_EXHAUSTED}, "typed")
            self.assertFalse(client.produce("t0", 0, [b"meanwhile"]).HasField("error"), "appends need no map")
            resource.prlimit(pid, resource.RLIMIT_AS, limits)
            self.assertEqual([r.value for r in client.read("t0", 0)], [b"before", b"meanwhile"])

    @unittest.skipUnless(faultfs.available(), "no fault layer in this build")
    def test_no_maps_left(self):
        base = self.base()
        node = self.node()
        shutil.copytree(base, node.data_dir)
        layer = self.under_layer(node)
        node.start()
        with grpc_client.Client(node) as client:
            rule = layer.rule("mmap", error=errno.ENOMEM)
            for name in TOPICS:
                row = client.fetch(name, 0, 0)
                self.assertIn(row.error.code, (pb.NO_MEMORY, pb.RESOURCE_EXHAUSTED), row)
                self.assertIsNone(self.produce(client, name), "appends need no map")
            self.assertGreater(rule.hits, 0)
            rule.clear()
        self.visible(node, "no maps are left")
        self.verify_all(node)


def metric_or_none(node, name):
    try:
        return metric(node, name)
    except AssertionError:
        return 0


class ReadOnly(Case):
    """A file system that turns read-only under the node, as ext4 does when its disk fails."""

    @unittest.skipUnless(faultfs.available(), "no fault layer in this build")
    def test_every_change_is_refused_and_later_not(self):
        base = self.base()
        node = self.node()
        shutil.copytree(base, node.data_dir)
        layer = self.under_layer(node)
        node.start()
        with grpc_client.Client(node) as client:
            for name in TOPICS:
                self.assertIsNone(self.produce(client, name))
            layer.rule("write", "fallocate", "truncate", "rename", "unlink", "mkdir", error=errno.EROFS)
            layer.rule("sync", error=errno.EIO)
            for name in TOPICS:
                self.assertIsNotNone(self.produce(client, name))
                self.assertFalse(client.fetch(name, 0, 3).HasField("error"), "reads go on")
            with self.assertRaises(RpcError) as caught:
                client.create("new")
            code, sentence, _ = grpc_client.status_error(caught.exception)
            self.assertIn(code, ("IO", "UNAVAILABLE"), sentence)
            self.visible(node, "the file system turned read-only")
        node.stop()
        node.prefix = []
        node.start()
        self.verify_all(node)

    @unittest.skipUnless(harness.can_mount(), "this machine does not let us mount: it needs root, and a mount namespace")
    def test_a_start_on_a_read_only_folder_says_so(self):
        base = self.base()
        libc = ctypes.CDLL(None, use_errno=True)
        self.assertEqual(libc.unshare(0x20000), 0, "a mount namespace of our own")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", base, base], check=True)
        node = self.nodes[0]
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", base], check=True)
            with self.assertRaisesRegex(AssertionError, "Read-only file system"):
                node.start()
            node._ended()
            self.assertEqual(node.logs()[-1]["code"], "IO")
            subprocess.run(["mount", "-o", "remount,bind,rw", base], check=True)
            node.start()
            self.verify_all(node)
        finally:
            if node.process is not None:
                node.kill()
            subprocess.run(["umount", base], check=True)


@unittest.skipUnless(faultfs.available(), "no fault layer in this build")
class SlowDisk(Case):
    """A disk that takes its time: what waits is bounded, and who does not need it is not held up."""

    LIMIT = 2 << 20

    def flood(self, node, stop, codes):
        data = record_batch.encode([os.urandom(32 << 10)])
        with grpc_client.Client(node) as client:
            while not stop.is_set():
                try:
                    row = client.produce("slow", 0, data, timeout=60, timeout_ms=500)
                    codes.append(row.error.code if row.HasField("error") else pb.OK)
                except RpcError as error:
                    codes.append(pb.ErrorCode.Value(grpc_client.status_error(error)[0]))

    def test_queues_are_bounded_and_memory_topics_go_on(self):
        node = self.node(sets=[f"broker.inflight_bytes_max={self.LIMIT}", "broker.produce_timeout_ms=500",
                               "broker.slow_request_ms=200"])
        os.makedirs(node.data_dir)
        layer = self.under_layer(node)
        node.start()
        stop, codes = threading.Event(), []
        with grpc_client.Client(node) as client:
            client.create("slow", config={"flush.policy": "commit"})
            client.create("quick", config={"storage": "storage_memory"})
            rules = [layer.rule("sync", path="storage_mmap/slow-0/*", delay_us=300000),
                     layer.rule("write", path="storage_mmap/slow-0/*", delay_us=100000)]
            threads = [threading.Thread(target=self.flood, args=(node, stop, codes)) for _ in range(80)]
            for thread in threads:
                thread.start()
            try:
                most = rss = 0
                for number in range(200):
                    self.assertEqual(client.produce("quick", 0, [b"%d" % number]).base_offset, number)
                    if number % 20 == 0:
                        most = max(most, metric(node, "streamit_produce_inflight_bytes"))
                        with open(f"/proc/{node.process.pid}/status", encoding="ascii") as file:
                            rss = max(rss, next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")))
                        time.sleep(0.1)
            finally:
                stop.set()
                for rule in rules:
                    rule.clear()
                for thread in threads:
                    thread.join(60)
            self.assertGreater(rules[0].hits, 0, "the disk was slow")
            self.visible(node, "the disk is slow")
            self.assertLessEqual(most, self.LIMIT + (64 << 10), "bytes of calls that are not answered")
            self.assertLess(rss, 256 << 10, "KB of memory")
            self.assertLessEqual(set(codes), {pb.OK, pb.THROTTLED, pb.TIMED_OUT, pb.UNAVAILABLE}, "typed answers")
            self.assertIn(pb.OK, codes, "it is slow, not dead")
            self.assertFalse(client.produce("slow", 0, [b"after"]).HasField("error"), "and at full speed again")


if __name__ == "__main__":
    harness.main()
