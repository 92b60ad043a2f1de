#!/usr/bin/python3
"""The public gRPC API, called by a client that was generated from the .proto, with batches of the oracle."""

import threading
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, grpc, health, pb, reflection, status_error  # noqa: E402


class Api(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)
        self.client.create("t")

    def refused(self, row, code):
        self.assertTrue(row.HasField("error"), row)
        self.assertEqual(pb.ErrorCode.Name(row.error.code), code)
        self.assertTrue(row.error.message)
        self.assertEqual(self.client.end("t", 0), 0, "a refused batch leaves nothing")

    def test_produce_and_fetch_every_codec(self):
        offset = 0
        for codec in range(5):
            records = [record_batch.Record(b"value %d" % i, None if i % 3 else b"key", [(b"h", None), (b"", b"x")],
                                           1700000000000 + i) for i in range(20)]
            row = self.client.produce("t", 0, record_batch.encode(records, codec=codec), acks=pb.ACKS_QUORUM)
            self.assertFalse(row.HasField("error"), row)
            self.assertEqual((row.topic, row.partition, row.base_offset), ("t", 0, offset))
            self.assertEqual(row.replicas, 1)
            offset += 20
        data = self.client.fetch("t", 0, 0).batches
        batches = record_batch.decode_all(data)
        self.assertEqual([b.codec for b in batches], list(range(5)))
        for batch in batches:
            for i, record in enumerate(batch.records):
                self.assertEqual(record.value, b"value %d" % i)
                self.assertEqual(record.key, None if i % 3 else b"key")
                self.assertEqual(record.headers, [(b"h", None), (b"", b"x")])
                self.assertEqual(record.timestamp, 1700000000000 + i)

    def test_the_broker_changes_bytes_0_to_15_only(self):
        sent = record_batch.encode([b"a" * 100] * 7, codec=record_batch.ZSTD)
        self.client.produce("t", 0, [b"first"])
        self.client.produce("t", 0, sent)
        got = self.client.fetch("t", 0, 1).batches
        self.assertEqual(got[16:], sent[16:])
        batch = record_batch.decode_one(got)
        self.assertEqual(batch.base_offset, 1)
        self.assertGreaterEqual(batch.leader_epoch, 0)

    def test_fetch_from_inside_a_batch_returns_the_whole_batch(self):
        self.client.produce("t", 0, [b"%d" % i for i in range(10)])
        row = self.client.fetch("t", 0, 7)
        self.assertEqual(record_batch.decode_one(row.batches).base_offset, 0)
        self.assertEqual((row.high_watermark, row.log_start), (10, 0))

    def test_limits_of_a_fetch(self):
        for i in range(10):
            self.client.produce("t", 0, [b"%d" % i + b"x" * 1000])
        self.assertEqual(len(record_batch.decode_all(self.client.fetch("t", 0, 0, max_bytes=1).batches)), 1, "the first whole")
        self.assertLess(len(record_batch.decode_all(self.client.fetch("t", 0, 0, max_bytes=5000).batches)), 5)
        self.assertEqual(len(record_batch.decode_all(self.client.fetch("t", 0, 0).batches)), 10)

    def test_rows_answer_each_by_itself(self):
        good = record_batch.encode([b"x"])
        rows = self.client.produce_rows([("t", 0, good), ("nope", 0, good), ("t", 5, good), ("t", 0, good[:-1]), ("t", 0, good)])
        codes = [pb.ErrorCode.Name(r.error.code) if r.HasField("error") else "OK" for r in rows]
        self.assertEqual(codes, ["OK", "UNKNOWN_TOPIC", "UNKNOWN_PARTITION", "CORRUPT_BATCH", "OK"])
        self.assertEqual([rows[0].base_offset, rows[4].base_offset], [0, 1])
        self.assertEqual([r.base_offset for r in rows[1:4]], [-1, -1, -1])

    def test_bad_batches(self):
        batch = record_batch.encode([b"x" * 50, b"y"])
        flipped = bytearray(batch)
        flipped[70] ^= 1
        record = record_batch.encode
        two = [b"x", b"y"]
        cases = {
            "empty": (b"", "CORRUPT_BATCH"),
            "short": (batch[:60], "CORRUPT_BATCH"),
            "cut": (batch[:-1], "CORRUPT_BATCH"),
            "left over": (batch + b"\0", "CORRUPT_BATCH"),
            "two batches": (batch + batch, "CORRUPT_BATCH"),
            "flipped bit": (bytes(flipped), "CORRUPT_BATCH"),
            "wrong CRC": (record(two, crc=1), "CORRUPT_BATCH"),
            "length too small": (record(two, length=10), "CORRUPT_BATCH"),
            "length negative": (record(two, length=-1), "CORRUPT_BATCH"),
            "no records": (record([], record_count=0, last_offset_delta=-1), None),
            "count too large": (record(two, record_count=3), None),
            "count huge": (record(two, record_count=0x7FFFFFFF, last_offset_delta=0x7FFFFFFE), None),
            "delta negative": (record(two, last_offset_delta=-5), None),
            "magic 1": (record(two, magic=1), "UNSUPPORTED"),
            "codec 7": (record(two, attributes=7), None),
            "control bit": (record(two, attributes=0x20), None),
            "base offset": (record(two, base_offset=9), "INVALID_ARGUMENT"),
            "noise": (os.urandom(500), None),
        }
        for name, (data, code) in cases.items():
            with self.subTest(name=name):
                row = self.client.produce("t", 0, data)
                self.assertTrue(row.HasField("error"), name)
                got = pb.ErrorCode.Name(row.error.code)
                self.assertIn(got, [code] if code else ["CORRUPT_BATCH", "INVALID_ARGUMENT", "UNSUPPORTED"], name)
        self.assertEqual(self.client.end("t", 0), 0)
        self.assertEqual(self.client.produce("t", 0, batch).base_offset, 0, "the connection goes on")

    def test_a_producer_id_is_refused_until_idempotence_exists(self):
        batch = record_batch.encode([b"x"], producer_id=5, producer_epoch=0, base_sequence=0)
        self.refused(self.client.produce("t", 0, batch), "UNSUPPORTED")

    def test_too_large(self):
        self.client.create("small", config={"max.message.bytes": "1024"})
        row = self.client.produce("small", 0, [b"x" * 2000])
        self.assertEqual(pb.ErrorCode.Name(row.error.code), "MESSAGE_TOO_LARGE")
        self.assertFalse(row.error.retriable)
        self.assertEqual(self.client.produce("small", 0, [b"x" * 100]).base_offset, 0)

    def test_a_floor_that_cannot_be_met_is_an_error(self):
        row = self.client.produce("t", 0, [b"x"], replicas_min=2)
        self.assertTrue(row.HasField("error"))
        self.assertIn(pb.ErrorCode.Name(row.error.code), ["NOT_ENOUGH_REPLICAS", "TIMED_OUT", "REPLICAS_LOST"])

    def test_flush_policy_commit_acknowledges_what_is_synced(self):
        self.client.create("safe", config={"flush.policy": "commit"})
        row = self.client.produce("safe", 0, [b"x"], acks=pb.ACKS_LEADER)
        self.assertFalse(row.HasField("error"), row)
        self.assertEqual(row.replicas_synced, 1)
        row = self.client.produce("safe", 0, [b"y"], acks=pb.ACKS_QUORUM, replicas_synced_min=1)
        self.assertEqual((row.base_offset, row.replicas_synced), (1, 1))

    def test_acks_none(self):
        row = self.client.produce("t", 0, [b"x"], acks=pb.ACKS_NONE)
        self.assertFalse(row.HasField("error"), row)
        end = time.monotonic() + 10
        while self.client.end("t", 0) < 1 and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(self.client.read("t", 0)[0].value, b"x")

    def test_long_poll(self):
        began = time.monotonic()
        row = self.client.fetch("t", 0, 0, max_wait_ms=300)
        waited = time.monotonic() - began
        self.assertEqual((row.batches, row.high_watermark), (b"", 0))
        self.assertGreater(waited, 0.25)
        self.assertLess(waited, 5)
        got = []
        reader = threading.Thread(target=lambda: got.append((self.client.fetch("t", 0, 0, max_wait_ms=20000), time.monotonic())))
        reader.start()
        time.sleep(0.2)
        sent = time.monotonic()
        self.client.produce("t", 0, [b"wake up"])
        reader.join(15)
        self.assertEqual(record_batch.decode_one(got[0][0].batches).records[0].value, b"wake up")
        self.assertLess(got[0][1] - sent, 2)

    def test_min_bytes(self):
        self.client.produce("t", 0, [b"small"])
        began = time.monotonic()
        row = self.client.fetch("t", 0, 0, max_wait_ms=300, min_bytes=100000)
        self.assertGreater(time.monotonic() - began, 0.25)
        self.assertTrue(row.batches, "after max_wait what is there")

    def test_a_cancelled_long_poll_leaves_nothing_behind(self):
        for _ in range(20):
            request = pb.FetchRequest(max_wait_ms=60000, min_bytes=1)
            request.partitions.add(topic="t", partition=0, offset=0)
            call = self.client.api.Fetch.future(request)
            time.sleep(0.01)
            call.cancel()
        self.client.produce("t", 0, [b"x"])
        self.assertEqual(len(self.client.read("t", 0)), 1)
        self.assertEqual(self.host.stop(), 0)

    def test_fetch_errors(self):
        self.client.produce("t", 0, [b"x"])
        for topic, partition, offset, code in [("nope", 0, 0, "UNKNOWN_TOPIC"), ("t", 3, 0, "UNKNOWN_PARTITION"),
                                               ("t", -1, 0, None), ("t", 0, 2, "OFFSET_OUT_OF_RANGE"),
                                               ("t", 0, -1, None), ("t", 0, 1 << 62, "OFFSET_OUT_OF_RANGE")]:
            with self.subTest(topic=topic, partition=partition, offset=offset):
                row = self.client.fetch(topic, partition, offset, max_wait_ms=10)
                self.assertTrue(row.HasField("error"), row)
                self.assertEqual(row.high_watermark, -1)
                if code:
                    self.assertEqual(pb.ErrorCode.Name(row.error.code), code)

    def test_list_offsets(self):
        for i in range(5):
            self.client.produce("t", 0, record_batch.encode([record_batch.Record(b"x", timestamp=1000 + 10 * i)] * 2))
        self.assertEqual(self.client.list_offset("t", 0, -1).offset, 10)
        self.assertEqual(self.client.list_offset("t", 0, -2).offset, 0)
        self.assertEqual(self.client.list_offset("t", 0, 1020).offset, 4)
        self.assertEqual(self.client.list_offset("t", 0, 1021).offset, 6)
        self.assertEqual(self.client.list_offset("t", 0, 2000).offset, -1)
        self.assertEqual(pb.ErrorCode.Name(self.client.list_offset("nope", 0, -1).error.code), "UNKNOWN_TOPIC")

    def test_topics(self):
        made = self.client.create("b", partitions=3)
        self.assertEqual((len(made.topic_id), made.partitions, made.replication), (16, 3, 1))
        names = [t.name for t in self.client.api.ListTopics(pb.ListTopicsRequest()).topics]
        self.assertEqual([n for n in names if not n.startswith("__")], ["b", "t"])
        topic = self.client.api.DescribeTopic(pb.DescribeTopicRequest(name="b")).topic
        self.assertEqual(topic.topic_id, made.topic_id)
        self.assertEqual([p.partition for p in topic.partitions], [0, 1, 2])
        self.assertEqual([(list(p.replicas), list(p.isr)) for p in topic.partitions],
                         [([p.leader], [p.leader]) for p in topic.partitions])
        self.client.api.DeleteTopic(pb.DeleteTopicRequest(name="b"))
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.api.DescribeTopic(pb.DescribeTopicRequest(name="b"))
        name, sentence, error = status_error(caught.exception)
        self.assertEqual(name, "UNKNOWN_TOPIC")
        self.assertIn("b", sentence)
        self.assertEqual(error.code, pb.UNKNOWN_TOPIC)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_call_errors_carry_code_and_trailer(self):
        for request, code in [(pb.CreateTopicRequest(name="t", partitions=1), "ALREADY_EXISTS"),
                              (pb.CreateTopicRequest(name="a b", partitions=1), "INVALID_ARGUMENT"),
                              (pb.CreateTopicRequest(name="x", partitions=-4), "INVALID_ARGUMENT"),
                              (pb.CreateTopicRequest(name="x", partitions=1, replication=3), "UNSUPPORTED")]:
            with self.subTest(code=code), self.assertRaises(grpc.RpcError) as caught:
                self.client.api.CreateTopic(request)
            name, sentence, error = status_error(caught.exception)
            self.assertEqual(name, code)
            self.assertTrue(sentence)
            self.assertEqual(pb.ErrorCode.Name(error.code), code)
            self.assertEqual(error.message, sentence)

    def test_validate_only_creates_nothing(self):
        self.client.create("maybe", validate_only=True)
        names = [t.name for t in self.client.api.ListTopics(pb.ListTopicsRequest()).topics]
        self.assertNotIn("maybe", names)

    def test_find_leader(self):
        leader = self.client.api.FindLeader(pb.FindLeaderRequest(topic="t", partition=0))
        self.assertEqual(str(leader.port), self.host.server.rpartition(":")[2])
        self.assertTrue(leader.host)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.api.FindLeader(pb.FindLeaderRequest(topic="t", partition=1))
        self.assertEqual(status_error(caught.exception)[0], "UNKNOWN_PARTITION")

    def test_topic_id_wins_over_the_name(self):
        made = self.client.create("other")
        request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
        request.partitions.add(topic="t", partition=0, topic_id=made.topic_id, batch=record_batch.encode([b"x"]))
        row = self.client.api.Produce(request).partitions[0]
        if row.HasField("error"):
            self.assertIn(pb.ErrorCode.Name(row.error.code), ["UNKNOWN_TOPIC", "INVALID_ARGUMENT"])
        self.assertEqual(self.client.end("t", 0), 0)
        request.partitions[0].topic_id = b"\x01" * 16
        row = self.client.api.Produce(request).partitions[0]
        self.assertEqual(pb.ErrorCode.Name(row.error.code), "UNKNOWN_TOPIC")

    def test_order_of_pipelined_requests(self):
        """Many calls at once on one connection to one partition: offsets in the order of sending."""
        futures = [self.client.api.Produce.future(self._one(b"%d" % i)) for i in range(200)]
        offsets = [f.result(timeout=30).partitions[0].base_offset for f in futures]
        self.assertEqual(sorted(offsets), list(range(200)))
        values = [r.value for r in self.client.read("t", 0)]
        self.assertEqual(sorted(values), sorted(b"%d" % i for i in range(200)))

    def _one(self, value):
        request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
        request.partitions.add(topic="t", partition=0, batch=record_batch.encode([value]))
        return request

    def test_malformed_messages_and_unknown_methods(self):
        call = self.client.channel.unary_unary("/streamit.v1.StreamIt/Produce")
        for noise in (b"\xff" * 20, b"\x7a\xff\xff\xff\xff\x7f", os.urandom(300)):
            with self.assertRaises(grpc.RpcError) as caught:
                call(noise, timeout=10)
            self.assertIn(caught.exception.code(), [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
        for method in ("/streamit.v1.StreamIt/NoSuch", "/no.such.Service/Call"):
            with self.assertRaises(grpc.RpcError) as caught:
                self.client.channel.unary_unary(method)(b"", timeout=10)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.api.Produce(pb.ProduceRequest(), timeout=10)
        self.assertEqual(status_error(caught.exception)[0], "INVALID_ARGUMENT")
        self.assertEqual(self.client.produce("t", 0, [b"x"]).base_offset, 0)

    def test_health(self):
        for service in ("", "streamit.v1.StreamIt"):
            self.assertEqual(self.client.health.Check(health.HealthCheckRequest(service=service), timeout=10).status, 1)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.health.Check(health.HealthCheckRequest(service="no.such"), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_reflection(self):
        ask = reflection.ServerReflectionRequest
        answers = list(self.client.reflection.ServerReflectionInfo(iter([
            ask(list_services="*"), ask(file_containing_symbol="streamit.v1.StreamIt"),
            ask(file_by_filename="streamit/v1/streamit.proto"), ask(file_containing_symbol="no.such")]), timeout=10))
        self.assertEqual(len(answers), 4)
        self.assertIn("streamit.v1.StreamIt", [s.name for s in answers[0].list_services_response.service])
        for answer in answers[1:3]:
            files = answer.file_descriptor_response.file_descriptor_proto
            self.assertIn(pb.DESCRIPTOR.serialized_pb.split(b"streamit.proto")[0], files[0][:100])
            self.assertIn(b"ProduceRequest", files[0])
        self.assertEqual(answers[3].error_response.error_code, 5)

    def test_many_connections(self):
        clients = [Client(self.host) for _ in range(30)]
        try:
            for i, client in enumerate(clients):
                self.assertEqual(client.produce("t", 0, [b"x"]).base_offset, i)
        finally:
            for client in clients:
                client.close()


if __name__ == "__main__":
    harness.main()
