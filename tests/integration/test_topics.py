#!/usr/bin/python3
"""Topics that a node makes by itself, settings that change while it serves, whose clock counts, and limits."""

import os
import random
import signal
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, grpc, pb, status_error  # noqa: E402


def metric(node, name, labels=""):
    with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=10) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(name + labels + " "):
                return float(line.rsplit(" ", 1)[1])
    return None


def settings(client, topic):
    described = client.api.DescribeTopic(pb.DescribeTopicRequest(name=topic)).topic
    return {c.key: (c.value, c.source) for c in described.config}


def batch(timestamp, *values):
    return record_batch.encode([record_batch.Record(value=value, timestamp=timestamp) for value in values])


class TestCase(harness.TestCase):
    def config(self, text):
        """The standalone configuration with some more at its end; the path, and the line where that begins."""
        with open(harness.CONFIG, encoding="utf-8") as file:
            original = file.read()
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(original + "\n" + text)
        return path, original.count("\n") + 2

    def until(self, what):
        end = time.monotonic() + 30
        while not what() and time.monotonic() < end:
            time.sleep(0.02)
        self.assertTrue(what())

    def refused(self, code, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        name, sentence, _ = status_error(caught.exception)
        self.assertEqual(name, code, sentence)
        return sentence


class Declared(TestCase):
    def test_made_when_missing_and_never_altered(self):
        path, _ = self.config('topics: ( { name = "a"; partitions = 6; config = [ "segment.bytes=1048576" ]; }, { name = "b"; } );\n')
        node = self.node(config=path).start()
        with Client(node) as client:  # ready only after
            self.assertEqual({t.name: t.partitions for t in client.api.ListTopics(pb.ListTopicsRequest()).topics}, {"a": 6, "b": 1})
            self.assertEqual(settings(client, "a")["segment.bytes"], ("1048576", pb.CONFIG_TOPIC))
            self.assertEqual(client.produce("a", 5, [b"x"]).base_offset, 0)
        self.config('topics: ( { name = "a"; partitions = 8; replication = 1; config = [ "segment.bytes=2097152" ]; } );\n')
        node.kill()
        node.start()
        warned = {line["setting"]: (line["is"], line["declared"]) for line in node.logs() if line["event"] == "topic_differs"}
        self.assertEqual(warned, {"partitions": ("6", "8"), "segment.bytes": ("1048576", "2097152")})
        with Client(node) as client:
            self.assertEqual(len(client.api.DescribeTopic(pb.DescribeTopicRequest(name="a")).topic.partitions), 6)
            self.assertEqual(len(client.read("a", 5)), 1)
        self.cli(node, "alter-topic", "--name", "a", "--partitions", "8", "--config", "segment.bytes=2097152")
        before = sum(line["event"] == "topic_differs" for line in node.logs())
        node.restart()
        self.assertEqual(sum(line["event"] == "topic_differs" for line in node.logs()), before)
        self.cli(node, "delete-topic", "--name", "a")
        node.restart()  # a declaration is a wish for every start
        self.assertIn("a", self.cli(node, "list-topics").out)

    def test_a_reload_waits_for_a_restart(self):
        path, _ = self.config('topics: ( { name = "a"; } );\n')
        node = self.node(config=path).start()
        self.config('\n\ntopics: ( { name = "a"; } );\n')  # elsewhere, but the same
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("reloaded")
        self.assertFalse([line for line in node.logs() if line["event"] == "reload_waits"])
        self.config('topics: ( { name = "a"; }, { name = "b"; } );\n')
        node.process.send_signal(signal.SIGHUP)
        self.assertEqual(node.wait_log("reload_waits")["option"], "topics")
        self.assertNotIn("b", self.cli(node, "list-topics").out.split())

    def test_refused_with_file_and_line(self):
        for group, *words in (('name = "a/b";', "topics[0].name", "character 2"),
                              ('name = "a"; config = [ "segment.bytes=1" ];', "topics[0]", "segment.bytes", "16384"),
                              ('name = "a"; config = [ "no.such=1" ];', "no.such"),
                              ('name = "a"; config = [ "segment.bytes" ];', "KEY=VALUE"),
                              ('name = "a"; partitions = 1001;', "broker.partitions_per_topic_max = 1000"),
                              ('name = "a"; config = [ "storage=tape" ];', "no storage instance", "this node has storage_mmap"),
                              ('name = "a"; partitions = -1;', "topics[0].partitions", "-1"),
                              ('name = "a"; partitoins = 1;', "partitoins", "did you mean"),
                              ('partitions = 1;', "missing option 'name'")):
            path, line = self.config(f"topics: ( {{ {group} }} );\n")
            with self.subTest(group=group):
                for mode in (["--check"], []):
                    out = self.daemon("--config", path, "--set", f"node.data_dir={self.path('none')}", *mode)
                    self.assertEqual(out.status, 2, repr(out))
                    self.assertIn(f"node.cfg:{line}: ", out.err)
                    for word in words:
                        self.assertIn(word, out.err)
        path, line = self.config('topics: (\n  { name = "a"; },\n  { name = "a"; }\n);\n')
        err = self.daemon("--config", path, "--check").err
        self.assertIn(f"node.cfg:{line + 2}: topics[1]", err)
        self.assertIn("declared twice", err)

    def test_a_limit_that_the_node_has_reached_already(self):
        node = self.node(sets=["broker.partitions_max=2"]).start()
        self.cli(node, "create-topic", "--name", "t", "--partitions", "2")
        node.stop()
        node.config, _ = self.config('topics: ( { name = "a"; } );\n')
        node.start(wait=False)
        self.assertEqual(node.process.wait(60), 2)
        node._ended()
        self.assertIn("broker.partitions_max = 2 (2 are there)", node.log_text())


class Instances(TestCase):
    def test_an_instance_that_is_not_there(self):
        path, line = self.config("")
        for option in ("storage", "metadata", "replication", "auth"):
            for mode in (["--check"], []):
                out = self.daemon("--config", path, "--set", f"node.data_dir={self.path('data')}", "--set", f"broker.{option}=nope", *mode)
                self.assertEqual(out.status, 2, repr(out))
                self.assertIn(f"--set broker.{option}: no instance 'nope'", out.err)
        out = self.daemon("--config", path, "--set", "broker.storage=metadata_local", "--check")
        self.assertEqual(out.status, 2, repr(out))
        self.assertIn("this node has storage_mmap", out.err)
        self.assertFalse(os.path.exists(self.path("data")))


class Altered(TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node(sets=["broker.retention_check_interval_ms=50"]).start()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)

    def alter(self, topic="t", partitions=0, validate_only=False, **config):
        entries = [pb.ConfigEntry(key=k.replace("_", "."), value=v or "", reset=v is None) for k, v in config.items()]
        return self.client.api.AlterTopic(pb.AlterTopicRequest(name=topic, partitions=partitions, config=entries, validate_only=validate_only))

    def test_open_partitions_follow(self):
        self.client.create("t", config={"retention.ms": "-1"})
        for _ in range(4):
            self.client.produce("t", 0, [b"x" * 10000])
        self.assertEqual(len(self.host.segments("t", 0)), 1)
        self.alter(segment_bytes="16384")
        for _ in range(4):
            self.client.produce("t", 0, [b"x" * 10000])
        self.assertGreater(len(self.host.segments("t", 0)), 3)
        self.alter(retention_bytes="20000")
        self.until(lambda: self.client.list_offset("t", 0, -2).offset > 0)
        self.alter(retention_bytes=None, segment_bytes=None)
        self.assertEqual(settings(self.client, "t")["segment.bytes"], ("134217728", pb.CONFIG_DEFAULT))
        self.alter(max_message_bytes="1024")
        self.assertEqual(self.client.produce("t", 0, [b"x" * 2000]).error.code, pb.MESSAGE_TOO_LARGE)
        self.alter(max_message_bytes=None, flush_policy="commit")
        self.assertEqual(self.client.produce("t", 0, [b"x" * 2000]).replicas_synced, 1)
        self.alter(min_insync_replicas="2")
        self.assertEqual(self.client.produce("t", 0, [b"x"], acks=pb.ACKS_QUORUM).error.code, pb.NOT_ENOUGH_REPLICAS)

    def test_refusals_and_trials(self):
        self.client.create("t", partitions=2)
        self.assertIn("cannot become 1", self.refused("INVALID_ARGUMENT", self.alter, partitions=1))
        self.assertIn("storage cannot be altered", self.refused("UNSUPPORTED", self.alter, storage="storage_mmap"))
        sentence = self.refused("INVALID_ARGUMENT", self.alter, segment_bytes="1")
        self.assertIn("segment.bytes", sentence)
        self.assertIn("16384 to 1073741824", sentence)
        self.alter(partitions=3, validate_only=True, retention_ms="5")
        self.assertEqual(settings(self.client, "t")["retention.ms"][1], pb.CONFIG_DEFAULT)
        self.assertIn("2 partitions", self.refused("INVALID_ARGUMENT", self.alter, partitions=1, validate_only=True))

    def test_at_full_rate(self):
        """Settings that change under producers: no append fails, none is lost."""
        self.client.create("t", partitions=2, config={"retention.ms": "-1"})
        stop, ends, errors = threading.Event(), [0, 0], []

        def produce(partition):
            with Client(self.host) as client:
                while not stop.is_set():
                    row = client.produce("t", partition, [b"x" * 500] * 20)
                    if row.HasField("error"):
                        errors.append(row.error)
                        return
                    ends[partition] = row.base_offset + 20

        threads = [threading.Thread(target=produce, args=(p,)) for p in range(2)]
        for thread in threads:
            thread.start()
        for i in range(15):
            self.alter(segment_bytes=str(16384 << i % 5), flush_policy=["onroll", "interval", "commit"][i % 3],
                       message_timestamp_type=["CreateTime", "LogAppendTime"][i % 2], partitions=2 + i)
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join(60)
        self.assertEqual(errors, [])
        for partition, end in enumerate(ends):
            self.assertGreater(end, 0)
            self.assertEqual([r.offset for r in self.client.read("t", partition)], list(range(end)))
        self.cli(None, "dump", "--verify", "--quiet", self.host.data_dir)


class Clocks(TestCase):
    def test_log_append_time(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t", "--config", "message.timestamp.type=LogAppendTime")
        with Client(node) as client:
            before = int(time.time() * 1000)
            row = client.produce("t", 0, batch(1000, b"a", b"b"))
            self.assertGreaterEqual(row.append_time_ms, before)
            self.assertLessEqual(row.append_time_ms, int(time.time() * 1000))
            self.assertEqual(client.list_offset("t", 0, before).offset, 0)  # the index goes by it
            self.assertEqual(client.list_offset("t", 0, row.append_time_ms + 1).offset, -1)
            client.produce("t", 0, batch(1000, b"c"))
        times = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--format", "json").json_lines
        self.assertEqual(len(times), 3)
        node.kill()
        node.start()  # recovery proves the checksums
        with Client(node) as client:
            self.assertEqual(len(client.read("t", 0)), 3)
        node.stop()
        self.cli(None, "dump", "--verify", "--quiet", node.data_dir)

    def test_bounds(self):
        node = self.node(sets=["broker.message_timestamp_before_max_ms=60000"]).start()
        with Client(node) as client:
            client.create("t")
            self.assertEqual(settings(client, "t")["message.timestamp.before.max.ms"], ("60000", pb.CONFIG_NODE))
            now = int(time.time() * 1000)
            for ms, ahead in ((now + 7200000, True), (now - 120000, False)):
                row = client.produce("t", 0, batch(ms, b"x"))
                self.assertEqual(row.error.code, pb.INVALID_TIMESTAMP)
                self.assertIn(str(ms), row.error.message)
                self.assertIn("after.max.ms is 3600000" if ahead else "before.max.ms is 60000", row.error.message)
            self.assertEqual(client.produce("t", 0, batch(now, b"x")).base_offset, 0)


class OnDemand(TestCase):
    def test_by_the_command_line(self):
        node = self.node(sets=["broker.auto_create_topics=true", "broker.default_partitions=3"]).start()
        self.cli(node, "produce", "--topic", "t", data=b"a\nb\n")
        self.assertIn("a\nb\n", self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end").out)
        with Client(node) as client:
            self.assertEqual(len(client.api.DescribeTopic(pb.DescribeTopicRequest(name="t")).topic.partitions), 3)
        self.error(self.cli(node, "describe-topic", "--name", "u", status=1), "UNKNOWN_TOPIC")
        self.error(self.cli(node, "produce", "--topic", "__mine", data=b"a\n", status=1), "UNKNOWN_TOPIC")
        self.assertEqual(self.cli(node, "list-topics").out.count("t"), 1)

    def test_off_by_default(self):
        node = self.node().start()
        self.error(self.cli(node, "produce", "--topic", "t", data=b"a\n", status=1), "UNKNOWN_TOPIC")

    def test_once_for_many(self):
        node = self.node(sets=["broker.auto_create_topics=true"]).start()
        done = []

        def produce():
            with Client(node) as client:
                for _ in range(500):
                    row = client.produce("t", 0, [b"x"])
                    if not row.HasField("error"):
                        done.append(row.base_offset)
                        return
                    self.assertEqual(row.error.code, pb.UNAVAILABLE)
                    self.assertGreater(row.error.retry_after_ms, 0)
                    time.sleep(row.error.retry_after_ms / 1000)

        threads = [threading.Thread(target=produce) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(sorted(done), list(range(8)))
        self.until(lambda: metric(node, "streamit_topics_auto_created_total") == 1)
        self.assertEqual(sum(line["event"] == "topic_auto_created" for line in node.logs()), 1)
        self.assertIn("127.0.0.1", node.wait_log("topic_auto_create")["peer"])


class Limits(TestCase):
    def test_each_by_its_name_and_counted(self):
        node = self.node(sets=["broker.topics_max=2", "broker.partitions_max=12", "broker.partitions_per_topic_max=10"]).start()
        with Client(node) as client:
            self.assertIn("broker.partitions_per_topic_max = 10", self.refused("RESOURCE_EXHAUSTED", client.create, "a", partitions=11))
            client.create("a", partitions=10)
            self.assertIn("broker.partitions_max = 12 (10 are there)", self.refused("RESOURCE_EXHAUSTED", client.create, "b", partitions=3))
            client.create("b", partitions=1)
            self.assertIn("broker.topics_max = 2", self.refused("RESOURCE_EXHAUSTED", client.create, "c"))
            self.assertEqual(client.produce("a", 0, [b"x" * (3 << 20)]).error.code, pb.MESSAGE_TOO_LARGE)
            client.api.DeleteTopic(pb.DeleteTopicRequest(name="a"))
            client.create("c", partitions=10)  # room again
        for limit in ("topics_max", "partitions_max", "partitions_per_topic_max", "max.message.bytes"):
            self.assertEqual(metric(node, "streamit_limit_refusals_total", f'{{limit="{limit}"}}'), 1, limit)

    def test_many_at_once_stop_at_the_limit(self):
        node = self.node(sets=["broker.topics_max=40"]).start()
        codes = []

        def create(worker):
            with Client(node) as client:
                for i in range(10):
                    try:
                        client.create(f"t-{worker}-{i}")
                        codes.append("OK")
                    except grpc.RpcError as error:
                        codes.append(status_error(error)[0])

        threads = [threading.Thread(target=create, args=(w,)) for w in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual({code: codes.count(code) for code in codes}, {"OK": 40, "RESOURCE_EXHAUSTED": 40})
        self.assertEqual(metric(node, "streamit_topics"), 40)


class Names(TestCase):
    def test_the_longest_and_the_strangest(self):
        node = self.node().start()
        longest = "n" * 249
        with Client(node) as client:
            client.create(longest, partitions=3)
            self.assertEqual(client.produce(longest, 2, [b"x"]).base_offset, 0)
            for name in ("n" * 250, "", ".", "..", "a/b", "a b", "größe", "日本", "a\n", "a\0b", "%s%n", "__consumer_offsets",
                         "__transaction_state", "../../etc", "x" * 100000):
                with self.subTest(name=name[:20]):
                    self.refused("INVALID_ARGUMENT", client.create, name)
            for name in ("-", "_", "...", "a.b", "__mine", "-1", "0", "CON"):
                client.create(name)
                self.assertEqual(client.produce(name, 0, [b"x"]).base_offset, 0, name)
        node.kill()
        node.start()
        with Client(node) as client:
            self.assertEqual(len(client.read(longest, 2)), 1)
            client.api.DeleteTopic(pb.DeleteTopicRequest(name=longest))
            client.create(longest)
            self.assertEqual(client.produce(longest, 0, [b"x"]).base_offset, 0)

    def test_deleted_under_producers(self):
        node = self.node().start()
        stop, refused, wrong = threading.Event(), set(), []

        def produce():
            with Client(node) as client:
                while not stop.is_set():
                    row = client.produce("t", 0, [b"x" * 1000] * 10)
                    if row.HasField("error"):
                        refused.add(pb.ErrorCode.Name(row.error.code))

        def run():
            try:
                produce()
            except BaseException as error:  # carried to the test's own thread
                wrong.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        with Client(node) as client:
            for _ in range(10):
                client.create("t")
                time.sleep(0.03)
                client.api.DeleteTopic(pb.DeleteTopicRequest(name="t"))
        stop.set()
        for thread in threads:
            thread.join(60)
        self.assertEqual(wrong, [])
        self.assertLessEqual(refused, {"UNKNOWN_TOPIC"})
        self.assertEqual(os.listdir(os.path.join(node.data_dir, "storage_mmap")).count("t-0"), 0)


class Storm(TestCase):
    """Creations, deletions, alterations and topics on demand, of few names by many clients: the limits hold, every
    refusal has its name, what is listed is what lies on disk, and a crash changes none of it."""

    TOPICS, PARTITIONS = 4, 30
    TYPED = {"OK", "ALREADY_EXISTS", "UNKNOWN_TOPIC", "UNKNOWN_PARTITION", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT",
             "PRECONDITION"}

    def step(self, client, rng):
        """One call. @return codes"""
        name, what = f"n{rng.randrange(6)}", rng.randrange(6)
        clock = pb.ConfigEntry(key="message.timestamp.type", value=rng.choice(["CreateTime", "LogAppendTime"]))
        calls = [lambda: client.create(name, partitions=rng.randrange(1, 9)),
                 lambda: client.api.DeleteTopic(pb.DeleteTopicRequest(name=name)),
                 lambda: client.api.AlterTopic(pb.AlterTopicRequest(name=name, partitions=rng.randrange(1, 12))),
                 lambda: client.api.AlterTopic(pb.AlterTopicRequest(name=name, config=[clock])),
                 lambda: client.api.FindLeader(pb.FindLeaderRequest(topic=name, partition=0))]
        if what == len(calls):
            rows = [client.produce(name, rng.randrange(3), [b"x" * 100]) for _ in range(5)]
            return {pb.ErrorCode.Name(row.error.code) if row.HasField("error") else "OK" for row in rows}
        try:
            calls[what]()
        except grpc.RpcError as error:
            return {status_error(error)[0]}
        return {"OK"}

    def listed(self, client):
        return {t.name: t.partitions for t in client.api.ListTopics(pb.ListTopicsRequest()).topics}

    def test_it(self):
        node = self.node(sets=["broker.auto_create_topics=true", f"broker.topics_max={self.TOPICS}",
                               f"broker.partitions_max={self.PARTITIONS}"]).start()
        seed, codes, wrong = harness.seed(), set(), []
        end = time.monotonic() + (30 if harness.FULL else 1.5)

        def run(worker):
            rng = random.Random(seed + worker)
            try:
                with Client(node) as client:
                    while time.monotonic() < end:
                        codes.update(self.step(client, rng))
            except BaseException as error:  # carried to the test's own thread
                wrong.append(error)

        threads = [threading.Thread(target=run, args=(w,)) for w in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual(wrong, [])
        self.assertLessEqual(codes, self.TYPED)
        with Client(node) as client:
            topics = self.listed(client)
        self.assertLessEqual(len(topics), self.TOPICS)
        self.assertLessEqual(sum(topics.values()), self.PARTITIONS)
        folders = sorted(f"{name}-{i}" for name, count in topics.items() for i in range(count))
        storage = os.path.join(node.data_dir, "storage_mmap")
        self.until(lambda: sorted(f for f in os.listdir(storage) if f.startswith("n")) == folders)
        node.kill()
        node.start()
        with Client(node) as client:
            self.assertEqual(self.listed(client), topics)
            for name, count in topics.items():
                for partition in range(count):
                    client.read(name, partition)
        self.assertEqual(node.stop(), 0)
        self.cli(None, "dump", "--verify", "--quiet", node.data_dir)


if __name__ == "__main__":
    harness.main()
