#!/usr/bin/python3
"""Limits and settings: admission by bytes, topic settings, what is not offered yet and says so."""

import threading
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, grpc, pb, status_error  # noqa: E402


def config_of(client, topic):
    described = client.api.DescribeTopic(pb.DescribeTopicRequest(name=topic)).topic
    return {c.key: (c.value, c.source) for c in described.config}


class Settings(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)

    def refused(self, code, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        name, sentence, _ = status_error(caught.exception)
        self.assertEqual(name, code, sentence)
        return sentence

    def test_defaults(self):
        self.client.create("t")
        config = config_of(self.client, "t")
        for key, value in {"max.message.bytes": "2097152", "flush.policy": "onroll", "min.insync.replicas": "1"}.items():
            self.assertEqual(config[key][0], value)
            self.assertIn(config[key][1], (pb.CONFIG_DEFAULT, pb.CONFIG_NODE))

    def test_given_settings_are_stored_and_survive(self):
        given = {"segment.bytes": "1048576", "retention.ms": "3600000", "flush.policy": "interval", "flush.interval.ms": "50",
                 "max.message.bytes": "5000"}
        self.client.create("t", config=given)
        for _ in range(2):
            config = config_of(self.client, "t")
            for key, value in given.items():
                self.assertEqual(config[key], (value, pb.CONFIG_TOPIC), key)
            self.client.close()
            self.host.kill()
            self.host.start()
            self.client = Client(self.host)

    def test_wrong_settings_are_refused_by_name(self):
        for key, value in [("segment.bytes", "many"), ("segment.bytes", "-1"), ("flush.policy", "sometimes"),
                           ("cleanup.policy", "burn"), ("no.such.setting", "1"), ("max.message.bytes", "0")]:
            with self.subTest(key=key, value=value):
                sentence = self.refused("INVALID_ARGUMENT", self.client.create, "t", config={key: value})
                self.assertIn(key, sentence)
        self.assertEqual(list(self.client.api.ListTopics(pb.ListTopicsRequest()).topics), [])

    def test_alteration(self):
        self.client.create("t", config={"max.message.bytes": "2000"})
        alter = lambda **entry: self.client.api.AlterTopic(  # noqa: E731
            pb.AlterTopicRequest(name="t", config=[pb.ConfigEntry(key="max.message.bytes", **entry)]))
        self.assertTrue(self.client.produce("t", 0, [b"x" * 3000]).HasField("error"))
        alter(value="5000")
        self.assertEqual(self.client.produce("t", 0, [b"x" * 3000]).base_offset, 0)
        self.host.kill()
        self.host.start()
        with Client(self.host) as client:
            self.assertEqual(config_of(client, "t")["max.message.bytes"], ("5000", pb.CONFIG_TOPIC))
            client.api.AlterTopic(pb.AlterTopicRequest(name="t", config=[pb.ConfigEntry(key="max.message.bytes", reset=True)]))
            self.assertEqual(config_of(client, "t")["max.message.bytes"][0], "2097152")

    def test_more_partitions_but_never_fewer(self):
        self.client.create("t", partitions=2)
        self.client.api.AlterTopic(pb.AlterTopicRequest(name="t", partitions=4))
        self.assertEqual(self.client.produce("t", 3, [b"x"]).base_offset, 0)
        self.refused("INVALID_ARGUMENT", self.client.api.AlterTopic, pb.AlterTopicRequest(name="t", partitions=3))

    def test_a_storage_instance_by_name(self):
        sentence = self.refused("NOT_FOUND", self.client.create, "t", config={"storage": "storage_tape"})
        self.assertIn("storage_tape", sentence)
        self.client.create("t", config={"storage": "storage_mmap"})

    def test_replication_above_one_is_not_offered_yet(self):
        self.assertIn("replication", self.refused("UNSUPPORTED", self.client.create, "t", replication=2))
        out = self.cli(self.host, "create-topic", "--name", "t", "--replication", "3", status=1)
        self.error(out, "UNSUPPORTED")

    def test_what_is_not_offered_yet_is_refused_by_name(self):
        for key, value in [("cleanup.policy", "compact"), ("compression.type", "gzip")]:
            with self.subTest(key=key):
                sentence = self.refused("UNSUPPORTED", self.client.create, "t", config={key: value})
                self.assertIn(key, sentence)
                self.assertIn(value, sentence)


class Admission(harness.TestCase):
    """The bytes that wait to be appended are bounded; a producer past the bound is told to come back."""

    OPTION = "broker.inflight_bytes_max"

    def produce_patiently(self, client, data):
        """As a client does: come back when told. The room of an answered call may be given back just after the answer."""
        for _ in range(100):
            row = client.produce("t", 0, data)
            if not row.HasField("error") or row.error.code != pb.THROTTLED:
                return row
            time.sleep(row.error.retry_after_ms / 1000)
        self.fail("throttled 100 times with nothing else under way")

    def test_throttled_names_when_to_come_back(self):
        node = self.node(sets=[f"{self.OPTION}=1048576"]).start()
        with Client(node) as client:
            client.create("t")
            batch = record_batch.encode([b"x" * 900000])
            request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
            request.partitions.add(topic="t", partition=0, batch=batch)
            throttled, appended = [], []
            lock = threading.Lock()

            def run():
                for _ in range(20):
                    row = client.api.Produce(request, timeout=60).partitions[0]
                    with lock:
                        (throttled if row.HasField("error") else appended).append(row)

            threads = [threading.Thread(target=run) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for row in throttled:
                self.assertEqual(pb.ErrorCode.Name(row.error.code), "THROTTLED", row)
                self.assertTrue(row.error.retriable)
                self.assertFalse(row.error.outcome_unknown)
                self.assertGreater(row.error.retry_after_ms, 0)
            self.assertEqual(client.end("t", 0), len(appended), "what was throttled was not appended")
            self.assertEqual(self.produce_patiently(client, batch).base_offset, len(appended), "and it goes on by itself")
            self.assertTrue(throttled, "16 producers of 900 kB never met a bound of 1 MB")
            print(f"{len(throttled)} throttled, {len(appended)} appended", file=sys.stderr)

    def test_one_batch_above_the_bound_is_throttled_or_refused_never_stuck(self):
        node = self.node(sets=[f"{self.OPTION}=1048576"]).start()
        with Client(node) as client:
            client.create("t")
            row = client.produce("t", 0, [b"x" * 1500000])
            if row.HasField("error"):
                self.assertIn(pb.ErrorCode.Name(row.error.code), ["THROTTLED", "MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED"])
            self.assertFalse(self.produce_patiently(client, [b"x"]).HasField("error"))

    def test_the_command_line_waits_and_loses_nothing(self):
        node = self.node(sets=[f"{self.OPTION}=1048576"]).start()
        self.cli(node, "create-topic", "--name", "t", "--partitions", "4")
        done = self.cli(node, "produce", "--topic", "t", "--size", "10000", "--count", "5000").summary()
        self.assertEqual((done["records"], done["errors"]), (5000, 0))
        read = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--quiet").summary()
        self.assertEqual((read["records"], read["bytes"]), (5000, 50000000))


class Memory(harness.TestCase):
    def test_a_topic_on_storage_memory_where_it_is_loaded(self):
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        path = self.path("node.cfg")
        if "storage_memory" not in text:
            text = text.replace("plugins: {", "plugins: {\n  storage_memory: { };", 1).replace(
                "plugins = {", "plugins = {\n  storage_memory: { };", 1)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        node = self.node(config=path).start()
        with Client(node) as client:
            client.create("m", config={"storage": "storage_memory"})
            client.create("d")
            for topic in ("m", "d"):
                for i in range(100):
                    self.assertEqual(client.produce(topic, 0, [b"%d" % i] * 3).base_offset, 3 * i)
            self.assertEqual([r.value for r in client.read("m", 0)], [r.value for r in client.read("d", 0)])
            self.assertFalse(os.path.exists(node.partition_dir("m", 0)))


if __name__ == "__main__":
    harness.main()
