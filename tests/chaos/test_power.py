#!/usr/bin/python3
"""Loss of power, over and over: nothing that was promised is lost, and the node comes back by itself.

A node runs under the fault layer, which notes every change of its folder and every sync. Clients produce, consume, create,
alter and delete. Then the power goes at some record of the journal: the model of the disk (`powerloss.py`) makes one of the
folders that may be left then, a daemon with another boot id starts on it, and the history is held against what it serves:

    commit    nothing acknowledged, and nothing that a consumer was given, is gone
    interval, onroll    what is gone was not synced yet, and lay at the end; never a hole
    always    offsets are dense, every byte served was sent, what was cut is logged, topics that were acknowledged are there
              and deleted ones are not, every partition takes appends, and no hand was needed

Then the clients go on, and the next cut comes: during recovery, in the middle of the load, after an orderly stop, or as a
kill of the process, after which nothing at all may be gone. STREAMIT_SEED=N repeats the choices (not the timing); the folder
of a failed life is kept with STREAMIT_KEEP=1, as `crash`.
"""

import copy
import os
import random
import sys
import threading
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import faultfs  # noqa: E402
import harness  # noqa: E402
import powerloss  # noqa: E402
from power_history import Checker, Clients, History, load, now, split  # noqa: E402

SEEDS = int(os.environ.get("STREAMIT_SEEDS") or (200 if harness.FULL else 15))
LIVES = 3
TOPICS = {"c": {"flush.policy": "commit"}, "q": {"flush.policy": "commit"},
          "i": {"flush.policy": "interval", "flush.interval.ms": "30"}, "r": {"flush.policy": "onroll"},
          "x": {"flush.policy": "onroll", "retention.bytes": "40000"}, "f": {"flush.policy": "onroll"}}


class Life:
    """One run of the daemon from a start to a loss of power, and what it made of the folder."""

    def __init__(self, chain, number):
        self.chain, self.number, self.rng = chain, number, chain.rng
        self.checked = None

    def start(self):
        chain, rng = self.chain, self.rng
        chain.layer = faultfs.Layer(chain.test.folder, chain.node.data_dir, journal=True, boot_id=chain.boot_id,
                                    real_sync=False, journal_bytes=256 << 20)
        if rng.random() < 0.8:
            chain.layer.rule("sync", delay_us=rng.choice([300, 1000, 4000]))
        chain.node.prefix = chain.layer.prefix()
        chain.node.start()

    def check(self):
        chain = self.chain
        clients = Clients(chain.node, chain.history)
        checker = Checker(chain.test, chain.node, clients, chain.history, chain.image, chain.floor, chain.power)
        try:
            checker.check(self.rng)
            chain.test.assertEqual(chain.offline(), 0, "partitions are offline")
        finally:
            clients.close()
        chain.lost += checker.lost
        chain.cut_bytes += checker.cut_bytes

    def make_topics(self):
        clients = Clients(self.chain.node, self.chain.history)
        for name, config in TOPICS.items():
            if clients.latest(name) is None:
                clients.create(name, 2 if name == "c" else 1, {**config, "segment.bytes": "16384"})
        clients.close()

    def run(self):
        """Returns how the life ended, and the records of its journal."""
        chain, rng = self.chain, self.rng
        self.start()
        self.check()
        self.make_topics()
        self.checked = now()
        clients, threads = load(chain.node, chain.history, rng)
        time.sleep(0.05 + rng.random() * 0.35)
        how = rng.choice(["cut", "cut", "cut", "stop", "kill"])
        if how == "stop":
            status = chain.node.stop()
            chain.test.assertEqual(status, 0, "an orderly stop")
        else:
            chain.node.kill()
        clients.ended.set()
        for thread in threads:
            thread.join(30)
            chain.test.assertFalse(thread.is_alive(), "a client that does not end")
        clients.close()
        errors = [e for e in chain.history.errors if not (how == "stop" and "UNAVAILABLE" in e or "TIMED_OUT" in e)]
        chain.test.assertEqual(errors, [], "errors under load")
        chain.history.errors = []
        return how, powerloss.read_journal(chain.layer.journal)


class Chain:
    """A folder that lives through several losses of power."""

    def __init__(self, test, seed):
        self.test, self.seed, self.rng = test, seed, random.Random(seed)
        rng = self.rng
        sets = ["plugins.metadata_local.snapshot_log_bytes=4096", f"plugins.metadata_local.snapshot_log_commands={rng.choice([3, 8, 1000])}",
                "broker.retention_check_interval_ms=20", f"plugins.storage_mmap.reserve_bytes_max={rng.choice([0, 65536, 1048576])}",
                f"plugins.storage_mmap.max_open_files={rng.choice([8, 1024])}", f"plugins.storage_mmap.idle_close_ms={rng.choice([20, 30000])}"]
        self.node = test.node(f"node{seed.rpartition('-')[2]}", sets)
        self.history = History()
        self.tree, self.image, self.floor = {}, {"now": {}, "crash": {}}, {}
        self.boot_id, self.layer = str(uuid.UUID(int=rng.getrandbits(128))), None
        self.power = True
        self.lost = self.cut_bytes = 0
        os.makedirs(self.node.data_dir)

    def offline(self):
        import urllib.request
        with urllib.request.urlopen(f"http://{self.node.http}/metrics", timeout=10) as page:
            text = page.read().decode()
        values = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("streamit_") and "partitions_offline" in line.split()[0]]
        assert values, "no metric of offline partitions"
        return values[0]

    def moment(self, life, how, records):
        """At which record does the power go?"""
        count, rng = len(records), self.rng
        if how == "kill" or how == "stop" and rng.random() < 0.7:
            return count
        early = next((r.number for r in records if r.time_ns >= life.checked), count)
        kind = rng.random()
        if kind < 0.3:
            return rng.randint(1, max(1, early))
        return rng.randint(early, count) if kind < 0.8 else count

    def live(self, number):
        life = Life(self, number)
        for topic in self.history.topics():
            for part in topic["partitions"].values():
                part.checked = None
        before = copy.deepcopy({"state": self.history.state, "ops": self.history.ops})
        how, records = life.run()
        disk, wrong = powerloss.settle(records, self.tree, self.node.data_dir)
        self.test.assertEqual(wrong, [], "the journal is not what happened: a call that the layer does not know")
        if how == "kill":
            at, self.power = len(records), False
            self.tree = disk.now()
        else:
            at, self.power = self.moment(life, how, records), True
            disk = powerloss.Disk.of(self.tree)
            disk.replay(records, 0, at)
            self.tree = disk.crash(self.rng)
            self.boot_id = str(uuid.UUID(int=self.rng.getrandbits(128)))
        time_ns = records[at].time_ns if at < len(records) else now()
        if time_ns < life.checked:
            self.history.state, self.history.ops = before["state"], before["ops"] + self.history.life
            for topic in self.history.topics():
                for part in topic["partitions"].values():
                    part.follow_origin(time_ns)
        self.history.life = []
        self.history.cut(time_ns)
        self.image, self.floor = {"now": disk.now(), "crash": self.tree}, disk.least()
        powerloss.write_tree(self.tree, self.node.data_dir)
        self.layer.close()
        self.story = f"seed {self.seed}, life {number}: {how} at record {at} of {len(records)}"

    def run(self):
        self.story = f"seed {self.seed}: the first start"
        try:
            for number in range(LIVES):
                self.live(number)
            last = Life(self, LIVES)
            last.start()
            last.check()
            self.node.kill()
            self.layer.close()
        except BaseException:
            print(f"FAILED after {self.story}", file=sys.stderr)
            powerloss.write_tree(self.tree, self.test.path("crash"))
            raise
        finally:
            if self.node.process is not None:
                self.node.kill()


@unittest.skipUnless(faultfs.available(), "no fault layer in this build")
class Power(harness.TestCase):
    def test_nothing_promised_is_lost(self):
        seed = harness.seed()
        lost = cut = 0
        for index in range(SEEDS):
            chain = Chain(self, f"{seed}-{index}")
            chain.run()
            lost, cut = lost + chain.lost, cut + chain.cut_bytes
        print(f"{SEEDS} chains of {LIVES} losses: {lost} batches without a promise lost, {cut} bytes cut", file=sys.stderr)
        self.assertGreater(lost + cut, 0, "the losses were losses")

    def synced(self, layer, part):
        """The end of what of a partition would outlast a loss of power now, and the folder that would be left at the least."""
        records = powerloss.read_journal(layer.journal)
        disk = powerloss.Disk.of({})
        disk.replay(records, 0, len(records))
        tree, end = disk.least(), 0
        for path in sorted(p for p in tree if p.startswith(f"storage_mmap/{part.name()}/") and p.endswith(".log")):
            end = max([end] + [behind for _, behind, _ in split(tree[path])])
        return end, tree

    def test_interval_is_kept_without_further_appends(self):
        rng = random.Random(harness.seed())
        node, history = self.node(), History()
        os.makedirs(node.data_dir)
        layer = faultfs.Layer(self.folder, node.data_dir, journal=True, boot_id=str(uuid.uuid4()), real_sync=False)
        self.addCleanup(layer.close)
        node.prefix = layer.prefix()
        node.start()
        clients = Clients(node, history)
        part = clients.create("i", 1, TOPICS["i"])["partitions"][0]
        for _ in range(20):
            clients.produce(part, part.batch(rng))
        acked = [(base, batch) for _, base, batch, _ in part.acked]
        deadline = time.monotonic() + 30
        end, tree = self.synced(layer, part)
        while end <= acked[-1][0] and time.monotonic() < deadline:
            time.sleep(0.02)
            end, tree = self.synced(layer, part)
        self.assertGreater(end, acked[-1][0], "the timer has synced everything")
        clients.close()
        node.kill()
        powerloss.write_tree(tree, node.data_dir)
        node.prefix = []
        node.start()
        clients = Clients(node, history)
        row = clients.client.fetch("i", 0, 0, max_bytes=1 << 20)
        self.assertEqual([(base, batch[16:]) for base, _, batch in split(row.batches)],
                         [(base, batch[16:]) for base, batch in acked])
        clients.close()


if __name__ == "__main__":
    harness.main()
