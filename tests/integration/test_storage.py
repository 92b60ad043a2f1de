#!/usr/bin/python3
"""Storage engines as an operator meets them: topics in memory, several instances, and another engine over old data."""

import os
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402
from grpc_client import pb  # noqa: E402


def config(case, name, plugins, broker=""):
    """A configuration with these lines as its plugins, beside what every node needs."""
    path = case.path(name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("node: { node_id = 1; };\nbroker: { %s };\nplugins: {\n%s\n  replication_none: { };\n"
                   "  transport_grpc: { };\n  metrics_prom: { };\n};\n" % (broker, plugins))
    return path


class Memory(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.server = self.node(sets=["plugins.storage_memory.bytes_max=4194304"])
        self.server.start()

    def restart(self, how):
        self.assertIn(how, ("stop", "kill"))
        if how == "stop":
            self.assertEqual(self.server.stop(), 0)
        else:
            self.server.kill()
        self.server.start()

    def create(self, *args, status=0):
        return self.cli(self.server, "create-topic", "--name", "m", "--config", "storage=storage_memory", *args, status=status)

    def test_policies_that_promise_more_are_refused_by_name(self):
        for policy in ("commit", "interval"):
            sentence = self.error(self.create("--config", f"flush.policy={policy}", status=1), "UNSUPPORTED")
            self.assertIn(f"flush.policy={policy}", sentence)
            self.assertIn("storage_memory", sentence)
        self.create()
        for policy in ("commit", "interval"):
            out = self.cli(self.server, "alter-topic", "--name", "m", "--config", f"flush.policy={policy}", status=1)
            self.assertIn(f"flush.policy={policy}", self.error(out, "UNSUPPORTED"))
        with grpc_client.Client(self.server) as client:
            self.assertEqual(client.produce("m", 0, [b"x"]).base_offset, 0, "it serves as before")

    def test_an_unknown_instance_is_refused_by_name(self):
        out = self.cli(self.server, "create-topic", "--name", "m", "--config", "storage=tape", status=1)
        sentence = self.error(out, "NOT_FOUND")
        self.assertIn('"tape"', sentence)
        self.assertIn("storage_memory", sentence)
        self.assertIn("storage_mmap", sentence)

    def test_the_bound_is_a_typed_refusal(self):
        self.create()
        with grpc_client.Client(self.server) as client:
            count = 0
            row = client.produce("m", 0, [b"x" * 100000])
            while not row.HasField("error"):
                count += 1
                self.assertLess(count, 100)
                row = client.produce("m", 0, [b"x" * 100000])
            self.assertEqual(row.error.code, pb.RESOURCE_EXHAUSTED)
            self.assertIn("bytes_max = 4194304 of storage storage_memory is reached", row.error.message)
            self.assertEqual([r.offset for r in client.read("m", 0)], list(range(count)), "what is there stays readable")
            out = self.cli(self.server, "produce", "--topic", "m", "--size", "100000", "--count", "100", status=1)
            self.assertIn("bytes_max = 4194304", self.error(out, "RESOURCE_EXHAUSTED"))
            self.visible(self.server, "a topic in memory is full")
            client.create("d")
            self.assertEqual(client.produce("d", 0, [b"x" * 100000]).base_offset, 0, "other storage goes on")
            # The way out that needs no restart: room comes back with a topic that is deleted.
            self.cli(self.server, "delete-topic", "--name", "m")
            self.create()
            self.assertEqual(client.produce("m", 0, [b"x" * 100000]).base_offset, 0)

    def test_after_a_restart_it_is_empty_and_the_epoch_is_raised(self):
        self.create("--partitions", "2")
        self.cli(self.server, "create-topic", "--name", "d")
        epoch = 0
        for how in ("kill", "stop", "kill"):
            with grpc_client.Client(self.server) as client:
                for topic in ("m", "d"):
                    for _ in range(20):
                        row = client.produce(topic, 0, [b"before"])
                        self.assertFalse(row.HasField("error"), row.error)
                    self.assertEqual(row.leader_epoch, epoch if topic == "m" else 0)
                end = client.end("m", 0)
            self.restart(how)
            self.assertEqual(self.server.wait_log("epochs_raised")["topics"], 1)
            epoch += 1
            described = self.cli(self.server, "describe-topic", "--name", "m", options=["--json"]).json
            self.assertEqual([p["leader_epoch"] for p in described["partitions"]], [epoch, epoch])
            with grpc_client.Client(self.server) as client:
                self.assertEqual(client.end("m", 0), 0, "it is empty")
                self.assertEqual(client.fetch("m", 0, end).error.code, pb.OFFSET_OUT_OF_RANGE)
                self.assertEqual(client.fetch("m", 0, end - 1).error.code, pb.OFFSET_OUT_OF_RANGE)
                for offset in range(end + 10):
                    self.assertEqual(client.produce("m", 0, [b"after"]).base_offset, offset)
                # The offset is there again, and names another record: who read before is told so.
                row = client.fetch("m", 0, end, last_epoch=epoch - 1)
                self.assertEqual(row.error.code, pb.OFFSET_OUT_OF_RANGE)
                self.assertIn("has begun anew", row.error.message)
                self.assertEqual(row.leader_epoch, epoch)
                self.assertEqual(client.fetch("m", 0, end, leader_epoch=epoch - 1).error.code, pb.STALE_EPOCH)
                self.assertEqual(client.fetch("m", 0, end, leader_epoch=epoch + 1).error.code, pb.UNKNOWN_EPOCH)
                self.assertFalse(client.fetch("m", 0, end, leader_epoch=epoch, last_epoch=epoch).HasField("error"))
                self.assertEqual(client.read("m", 0)[end].value, b"after")
                self.assertEqual(client.fetch("d", 0, 0, leader_epoch=0).error.code, 0, "a durable log keeps its epoch")
            out = self.cli(self.server, "consume", "--topic", "m", "--from", end + 11, "--count", "1", status=1)
            self.error(out, "OFFSET_OUT_OF_RANGE")

    def test_a_consumer_that_was_reading_is_told(self):
        """It has read to offset 50, the log begins anew and grows past 50: it must not take the new 50 for the next."""
        port = self.server.server.rpartition(":")[2]
        self.create()
        self.server.sets.append(f"plugins.transport_grpc.port={port}")
        with grpc_client.Client(self.server) as client:
            client.produce("m", 0, [b"old %d" % i for i in range(50)])
        reader = harness.spawn([harness.CLI, "--server", self.server.server, "consume", "--topic", "m", "--from", "beginning"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            seen = [reader.stdout.readline() for _ in range(50)]
            self.assertEqual(seen, [b"old %d\n" % i for i in range(50)])
            self.server.kill()
            self.server.start()
            with grpc_client.Client(self.server) as client:
                client.produce("m", 0, [b"new %d" % i for i in range(80)])
            out, err = reader.communicate(timeout=60)
        finally:
            reader.kill()
            reader.wait()
        self.assertEqual(out, b"", "not a record of the new log")
        self.assertEqual(reader.returncode, 1, err)
        self.assertIn(b"error: OFFSET_OUT_OF_RANGE: m-0: ", err)

    def test_an_empty_topic_and_a_deleted_one(self):
        self.create()
        self.cli(self.server, "delete-topic", "--name", "m")
        self.restart("kill")
        self.assertFalse([line for line in self.server.logs() if line.get("event") == "epochs_raised"])
        self.create()
        with grpc_client.Client(self.server) as client:
            self.assertEqual(client.produce("m", 0, [b"x"]).base_offset, 0)


class Instances(harness.TestCase):
    LINES = ("  storage_mmap: { };\n  cold: { file = \"storage_mmap.so\"; };\n  metadata_local: { };\n"
             "  cache: { file = \"storage_memory.so\"; bytes_max = \"1M\"; };\n"
             "  scratch: { file = \"storage_memory.so\"; };\n")

    def test_two_instances_of_one_engine_keep_their_own(self):
        node = self.node(config=config(self, "two.cfg", self.LINES)).start()
        with grpc_client.Client(node) as client:
            for storage in ("storage_mmap", "cold", "cache", "scratch"):
                client.create(f"t-{storage}", config={"storage": storage})
                self.assertEqual(client.produce(f"t-{storage}", 0, [storage.encode()]).base_offset, 0)
            self.assertTrue(os.path.isdir(node.partition_dir("t-cold", 0, "cold")))
            self.assertFalse(os.path.exists(node.partition_dir("t-cold", 0)))
            # One is full, the other is not.
            row = client.produce("t-cache", 0, [b"x" * 1500000])
            self.assertEqual(row.error.code, pb.RESOURCE_EXHAUSTED)
            self.assertIn("of storage cache", row.error.message)
            self.assertEqual(client.produce("t-scratch", 0, [b"x" * 1500000]).base_offset, 1)
        node.restart()
        with grpc_client.Client(node) as client:
            self.assertEqual([r.value for r in client.read("t-cold", 0)], [b"cold"])
            self.assertEqual([r.value for r in client.read("t-storage_mmap", 0)], [b"storage_mmap"])
            self.assertEqual(client.end("t-cache", 0), 0)
            self.assertEqual(client.end("t-scratch", 0), 0)

    def test_a_topic_stays_when_the_default_moves(self):
        node = self.node(config=config(self, "a.cfg", self.LINES)).start()
        with grpc_client.Client(node) as client:
            client.create("t")
            client.produce("t", 0, [b"here"])
        self.assertEqual(node.stop(), 0)
        node.config = config(self, "b.cfg", self.LINES, broker='storage = "scratch";')
        node.start()
        with grpc_client.Client(node) as client:
            self.assertEqual([r.value for r in client.read("t", 0)], [b"here"])
            client.create("u")
            client.produce("u", 0, [b"there"])
            self.assertFalse(os.path.exists(node.partition_dir("u", 0)))


class Stop(harness.TestCase):
    def test_everything_is_there_after_an_orderly_stop(self):
        """Each flush policy, each ack that promises something: the same bytes, and no byte of the log is read to start."""
        node = self.node().start()
        sent = {}
        with grpc_client.Client(node) as client:
            for policy in ("onroll", "interval", "commit"):
                client.create(policy, config={"flush.policy": policy, "segment.bytes": "16384"})
                sent[policy] = []
                for number in range(60):
                    acks = (pb.ACKS_LEADER, pb.ACKS_QUORUM)[number % 2]
                    records = [b"%d-%d" % (number, i) + b"." * 300 for i in range(3)]
                    row = client.produce(policy, 0, records, acks=acks)
                    self.assertEqual(row.base_offset, len(sent[policy]), row)
                    sent[policy] += records
        for _ in range(2):
            self.assertEqual(node.stop(), 0)
            node.start()
            with grpc_client.Client(node) as client:
                for policy, values in sent.items():
                    records = client.read(policy, 0)
                    self.assertEqual([r.value for r in records], values)
                    self.assertEqual([r.offset for r in records], list(range(len(values))))
            with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=20) as answer:
                lines = answer.read().decode().splitlines()
            read = [line for line in lines if line.startswith("streamit_storage_recovered_bytes_total") and "mmap" in line]
            self.assertEqual([line.split()[-1] for line in read], ["0"])


class Engine(harness.TestCase):
    """Another engine over existing data is refused by name, with the way to migrate."""

    MMAP = "  storage_mmap: { };\n"
    MEMORY = "  storage_memory: { };\n"
    METADATA = "  metadata_local: { };\n"

    def setUp(self):
        super().setUp()
        self.first = self.node(config=config(self, "first.cfg", self.MMAP + self.METADATA)).start()
        with grpc_client.Client(self.first) as client:
            client.create("t")
            client.produce("t", 0, [b"precious"])
        self.assertEqual(self.first.stop(), 0)

    def refused(self, plugins, status=2, **kwargs):
        """Start with another configuration over the same folder. Returns the sentence of the refusal."""
        self.first.config = config(self, "second.cfg", plugins, **kwargs)
        out = self.daemon(*self.first.args()[1:])
        self.assertEqual(out.status, status, repr(out))
        refusals = [line for line in out.err.splitlines() if '"event":"refused"' in line or '"event":"start_failed"' in line]
        self.assertEqual(len(refusals), 1, repr(out))
        metrics, events, _, _ = harness.failures()["another engine was configured" if status == 2 else "an engine's label was damaged"]
        self.assertIn(f"exit {out.status}", metrics)
        self.assertIn('"event":"%s"' % events.strip("`"), refusals[0])
        self.first.config = self.path("first.cfg")
        return refusals[0]

    def serves(self):
        self.first.start()
        with grpc_client.Client(self.first) as client:
            self.assertEqual([r.value for r in client.read("t", 0)], [b"precious"])
        self.assertEqual(self.first.stop(), 0)

    def test_another_storage_under_the_same_name(self):
        sentence = self.refused('  storage_mmap: { file = "storage_memory.so"; };\n' + self.METADATA)
        self.assertIn("plugins.storage_mmap loads storage_memory", sentence)
        self.assertIn("holds data of storage_mmap: load storage_mmap there", sentence)
        self.assertIn("Changing an engine", sentence)
        self.serves()

    def test_a_storage_that_is_gone(self):
        sentence = self.refused(self.MEMORY + self.METADATA, broker='storage = "storage_memory";')
        self.assertIn("storage_mmap holds data of storage_mmap, and plugins has no instance storage_mmap", sentence)
        self.assertIn("Changing an engine", sentence)
        self.serves()

    def test_another_metadata_engine(self):
        sentence = self.refused(self.MMAP + '  metadata_new: { file = "metadata_local.so"; };\n')
        self.assertIn("metadata_local holds data of metadata_local, and plugins has no instance metadata_local", sentence)
        self.serves()

    def test_a_label_that_is_damaged(self):
        path = os.path.join(self.first.data_dir, "storage_mmap", "engine")
        good = harness.read(path)
        with open(path, "wb") as file:
            file.write(good[:-3])
        sentence = self.refused(self.MMAP + self.METADATA, status=1)
        self.assertIn("storage_mmap/engine is damaged", sentence)
        self.assertIn('"code":"DATA_LOSS"', sentence)
        os.unlink(path)  # the remedy that it names
        self.serves()
        self.assertEqual(harness.read(path), good)

    def test_the_way_to_migrate(self):
        """Both engines side by side, the topics copied, the old ones deleted, the old instance dropped."""
        both = self.MMAP + self.METADATA + '  other: { file = "storage_mmap.so"; };\n'
        self.first.config = config(self, "both.cfg", both)
        self.first.start()
        self.cli(self.first, "create-topic", "--name", "t2", "--config", "storage=other")
        copy = self.cli(self.first, "consume", "--topic", "t", "--from", "beginning", "--until-end")
        self.cli(self.first, "produce", "--topic", "t2", data=copy.out_bytes)
        self.cli(self.first, "delete-topic", "--name", "t")
        self.assertEqual(self.first.stop(), 0)
        self.first.config = config(self, "last.cfg", self.METADATA + '  other: { file = "storage_mmap.so"; };\n',
                                   broker='storage = "other";')
        self.first.start()
        with grpc_client.Client(self.first) as client:
            self.assertEqual([r.value for r in client.read("t2", 0)], [b"precious"])
        with urllib.request.urlopen(f"http://{self.first.http}/ready", timeout=20) as answer:
            self.assertEqual(answer.status, 200)


if __name__ == "__main__":
    harness.main()
