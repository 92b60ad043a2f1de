"""transport_grpc seen by gRPC's own Python library, with stubs generated from the .proto files.

usage: test_python.py GRPC_FAKE_BROKER PROTO_FOLDER
"""
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import unittest

import grpc
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROGRAM, PROTO = sys.argv[1], sys.argv[2]
FILES = ["streamit/v1/streamit.proto", "grpc/health/v1/health.proto",
         "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"]


def generate(folder):
    """The stubs of all files; those of package grpc would hide gRPC's own, so they move aside."""
    for name in FILES:
        moved = name.replace("grpc/", "grpcproto/")
        os.makedirs(os.path.join(folder, "proto", os.path.dirname(moved)), exist_ok=True)
        with open(os.path.join(PROTO, name), encoding="utf-8") as source:
            text = source.read()
        with open(os.path.join(folder, "proto", moved), "w", encoding="utf-8") as target:
            target.write(text)
        code = protoc.main(["protoc", "-I", os.path.join(folder, "proto"), "--python_out=" + folder,
                            "--grpc_python_out=" + folder, moved])
        assert code == 0, name
    sys.path.insert(0, folder)


TEMP = tempfile.TemporaryDirectory()
generate(TEMP.name)
from grpcproto.health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpcproto.reflection.v1 import reflection_pb2, reflection_pb2_grpc  # noqa: E402
from grpcproto.reflection.v1alpha import reflection_pb2 as alpha_pb2  # noqa: E402
from grpcproto.reflection.v1alpha import reflection_pb2_grpc as alpha_pb2_grpc  # noqa: E402
from streamit.v1 import streamit_pb2 as pb, streamit_pb2_grpc  # noqa: E402


class Server(unittest.TestCase):
    """Starts the program for each test; at the end it must stop by itself with nothing held."""

    def setUp(self):
        self.program = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.address = "127.0.0.1:" + self.program.stdout.readline().split()[1]
        self.channel = grpc.insecure_channel(self.address)
        self.api = streamit_pb2_grpc.StreamItStub(self.channel)

    def tearDown(self):
        self.channel.close()
        out, _ = self.program.communicate(timeout=30)
        self.assertEqual(out, "stopped OK, 0 slices out\n")
        self.assertEqual(self.program.returncode, 0)

    def tell(self, line):
        self.program.stdin.write(line + "\n")
        self.program.stdin.flush()
        return self.program.stdout.readline().strip()

    def produce(self, topic, batch, acks=pb.ACKS_QUORUM):
        request = pb.ProduceRequest(acks=acks)
        request.partitions.add(topic=topic, partition=0, batch=batch)
        return self.api.Produce(request, timeout=10).partitions[0]

    def failure(self, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, timeout=10, **kwargs)
        error = None
        for key, value in caught.exception.trailing_metadata() or ():
            if key == "streamit-error-bin":
                error = pb.Error.FromString(value)
        return caught.exception, error


class Records(Server):
    def test_round_trip(self):
        self.api.CreateTopic(pb.CreateTopicRequest(name="t", partitions=2), timeout=10)
        batches = [os.urandom(n) for n in (1, 100, 16384, 1 << 20, 3 << 20)]
        for i, batch in enumerate(batches):
            result = self.produce("t", batch, random.choice([0, 1, 2]))
            self.assertFalse(result.HasField("error"))
            self.assertEqual(result.base_offset, i)
        for i, batch in enumerate(batches):
            request = pb.FetchRequest(max_bytes=len(batch))
            request.partitions.add(topic="t", partition=0, offset=i)
            request.partitions.add(topic="t", partition=1, offset=0)
            response = self.api.Fetch(request, timeout=10)
            self.assertTrue(response.partitions[0].batches.startswith(batch))
            self.assertEqual(response.partitions[0].high_watermark, 5)
            self.assertEqual(response.partitions[1].batches, b"")
            # What the server wrote by hand is what protobuf writes.
            self.assertEqual(pb.FetchResponse.FromString(response.SerializeToString()), response)

    def test_many_partitions(self):
        self.api.CreateTopic(pb.CreateTopicRequest(name="t", partitions=8), timeout=10)
        request = pb.ProduceRequest()
        for p in range(8):
            request.partitions.add(topic="t", partition=p, batch=bytes([p]) * (p * 1000 + 1))
        request.partitions.add(topic="none", partition=0, batch=b"x")
        results = self.api.Produce(request, timeout=10).partitions
        self.assertEqual([r.partition for r in results], [0, 1, 2, 3, 4, 5, 6, 7, 0])
        self.assertEqual([r.error.code for r in results], [0] * 8 + [pb.UNKNOWN_TOPIC])
        request = pb.FetchRequest()
        for p in reversed(range(8)):
            request.partitions.add(topic="t", partition=p)
        for p, result in zip(reversed(range(8)), self.api.Fetch(request, timeout=10).partitions):
            self.assertEqual(result.partition, p)
            self.assertEqual(result.batches, bytes([p]) * (p * 1000 + 1))
        request = pb.ProduceRequest()
        for _ in range(101):
            request.partitions.add(topic="t", batch=b"x")
        failure, error = self.failure(self.api.Produce, request)
        self.assertEqual(failure.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(error.code, pb.RESOURCE_EXHAUSTED)

    def test_who_asks(self):
        find = pb.FindLeaderRequest(topic="throttled")
        bearer = lambda text: [("authorization", text)]  # noqa: E731
        for header, principal in [(None, "User:anonymous"), ("Bearer alice", "User:alice"), ("bearer bob", "User:bob")]:
            failure, error = self.failure(self.api.FindLeader, find, metadata=header and bearer(header))
            self.assertEqual(failure.details(), "THROTTLED: %s is over its quota" % principal)
            self.assertEqual(error.retry_after_ms, 10)
        for header, code in [("Bearer bad", grpc.StatusCode.UNAUTHENTICATED), ("Basic eDp5", grpc.StatusCode.UNIMPLEMENTED)]:
            for call, request in [(self.api.FindLeader, find), (self.api.Produce, pb.ProduceRequest())]:
                failure, error = self.failure(call, request, metadata=bearer(header))
                self.assertEqual(failure.code(), code)
                self.assertEqual(error.retry_after_ms, 0)
        self.assertIn("the token of 127.0.0.1:", self.failure(self.api.FindLeader, find, metadata=bearer("Bearer bad"))[0].details())

    def test_retry_after(self):
        fetched = self.api.Fetch(pb.FetchRequest(partitions=[pb.FetchPartition(topic="throttled")]), timeout=10)
        self.assertEqual((fetched.partitions[0].error.code, fetched.partitions[0].error.retry_after_ms), (pb.THROTTLED, 8))
        listed = self.api.ListOffsets(pb.ListOffsetsRequest(partitions=[pb.ListOffsetsPartition(topic="throttled")]), timeout=10)
        self.assertEqual((listed.partitions[0].error.code, listed.partitions[0].error.retry_after_ms), (pb.THROTTLED, 9))

    def test_errors(self):
        result = self.produce("not-leader", b"x")
        self.assertEqual(result.error.code, pb.NOT_LEADER)
        self.assertEqual(result.error.leader_hint, "other.example:9999")
        self.assertTrue(result.error.retriable and result.error.refresh)
        failure, error = self.failure(self.api.DescribeTopic, pb.DescribeTopicRequest(name="no"))
        self.assertEqual(failure.code(), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(failure.details(), "UNKNOWN_TOPIC: there is no topic no")
        self.assertEqual((error.code, error.message), (pb.UNKNOWN_TOPIC, "there is no topic no"))
        failure, error = self.failure(self.channel.unary_unary("/streamit.v1.StreamIt/Nothing"), b"")
        self.assertEqual(failure.code(), grpc.StatusCode.UNIMPLEMENTED)
        failure, error = self.failure(self.api.CreateTopic, pb.CreateTopicRequest(name="a\0b"))
        self.assertEqual(failure.code(), grpc.StatusCode.INVALID_ARGUMENT)
        large = pb.ProduceRequest(partitions=[pb.ProducePartition(topic="t", batch=bytes(5 << 20))])
        failure, error = self.failure(self.api.Produce, large)
        self.assertEqual(failure.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(error.code, pb.MESSAGE_TOO_LARGE)
        self.assertIn("max_message_bytes", error.message)
        large.partitions[0].batch = bytes(14 << 20)  # gRPC's own refusal
        failure, error = self.failure(self.api.Produce, large)
        self.assertEqual((failure.code(), error), (grpc.StatusCode.RESOURCE_EXHAUSTED, None))
        self.assertEqual(self.produce("order", b"still here").base_offset, 0)

    def test_compressed(self):
        request = pb.ProduceRequest()
        request.partitions.add(topic="order", batch=b"x" * 100000)
        failure, _ = self.failure(self.api.Produce, request, compression=grpc.Compression.Gzip)
        self.assertEqual(failure.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assertEqual(self.produce("order", b"plain").base_offset, 0)

    def test_garbage(self):
        seed = random.Random(7)
        request = pb.ProduceRequest(acks=1, timeout_ms=5)
        request.partitions.add(topic="order", partition=0, batch=b"abcdefgh" * 10)
        good = request.SerializeToString()
        produce = self.channel.unary_unary("/streamit.v1.StreamIt/Produce")
        fetch = self.channel.unary_unary("/streamit.v1.StreamIt/Fetch")
        allowed = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        for _ in range(500):
            bad = bytearray(good)
            for _ in range(3):
                bad[seed.randrange(len(bad))] = seed.randrange(256)
            for call in (produce, fetch):
                try:
                    call(bytes(bad[:seed.randrange(len(bad) + 1)]), timeout=10)
                except grpc.RpcError as error:
                    self.assertIn(error.code(), allowed)
        self.assertFalse(self.produce("order", b"still here").HasField("error"))

    def test_topics(self):
        created = self.api.CreateTopic(pb.CreateTopicRequest(name="b", partitions=3), timeout=10)
        self.assertEqual((len(created.topic_id), created.partitions, created.replication), (16, 3, 1))
        names = [t.name for t in self.api.ListTopics(pb.ListTopicsRequest(), timeout=10).topics]
        self.assertIn("b", names)
        self.api.AlterTopic(pb.AlterTopicRequest(
            name="b", partitions=5, config=[pb.ConfigEntry(key="k", value="v", reset=True)]), timeout=10)
        topic = self.api.DescribeTopic(pb.DescribeTopicRequest(name="b"), timeout=10).topic
        self.assertEqual(len(topic.partitions), 5)
        self.assertEqual(topic.config[0].source, pb.CONFIG_NODE)
        request = pb.ListOffsetsRequest()
        request.partitions.add(topic="b", timestamp_ms=-1)
        request.partitions.add(topic="b", partition=9)
        result = self.api.ListOffsets(request, timeout=10).partitions
        self.assertEqual((result[0].offset, result[1].error.code), (0, pb.UNKNOWN_PARTITION))
        leader = self.api.FindLeader(pb.FindLeaderRequest(topic="b"), timeout=10)
        self.assertEqual((leader.node_id, leader.host), (1, "broker.example"))
        self.assertEqual(str(leader.port), self.address.split(":")[1])
        self.api.DeleteTopic(pb.DeleteTopicRequest(name="b"), timeout=10)


class Requests:
    """The sending side of a produce stream: an iterator that waits for more until it is closed."""

    def __init__(self):
        self.queue = queue.Queue()

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, number, topic, batch=b"x", answered=0, **kwargs):
        request = pb.ProduceStreamRequest(id=number, acks=pb.ACKS_LEADER, answered=answered)
        request.partitions.add(topic=topic, batch=batch, **kwargs)
        self.queue.put(request)

    def close(self):
        self.queue.put(None)


class Streams(Server):
    def test_produce(self):
        requests = Requests()
        stream = self.api.ProduceStream(iter(requests), timeout=20)
        for i in range(1, 201):
            requests.send(i, "order", bytes([i]) * 1000)
        requests.close()
        results, through = [], 0
        for response in stream:
            self.assertGreaterEqual(response.through, through)
            through = response.through
            results += [(r.id, r.partitions[0].base_offset) for r in response.results]
        self.assertEqual(results, [(i, i - 1) for i in range(1, 201)])
        self.assertEqual(through, 200)
        self.assertEqual(stream.code(), grpc.StatusCode.OK)

    def test_produce_errors(self):
        def fails(text, *sends):
            requests = Requests()
            stream = self.api.ProduceStream(iter(requests), timeout=20)
            for args, kwargs in sends:
                requests.send(*args, **kwargs)
            with self.assertRaises(grpc.RpcError):
                for response in stream:
                    self.assertEqual([r.id for r in response.results], [5])
            self.assertEqual(stream.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(text, stream.details())
            requests.close()

        fails("ProduceStreamRequest.id: 0", ((0, "order"), {}))
        fails("ProduceStreamRequest.id: 5 after 5", ((5, "order"), {}), ((5, "order"), {}))
        fails("ProduceStreamRequest.id: 4 after 5", ((5, "order"), {}), ((4, "order"), {}))
        fails("ProduceStreamRequest.answered: 9", ((5, "order"), {}), ((6, "order"), {"answered": 9}))
        fails("ProducePartition.topic_id", ((5, "order"), {}), ((6, "order"), {"topic_id": b"xx"}))
        self.assertFalse(self.produce("order", b"still here").HasField("error"))


class Lifecycle(Server):
    def test_drain(self):
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest())
        states = queue.Queue()

        def follow():
            try:
                for response in watch:
                    states.put(response.status)
            except grpc.RpcError as error:
                states.put(error.code())

        thread = threading.Thread(target=follow)
        thread.start()
        self.assertEqual(states.get(timeout=10), health_pb2.HealthCheckResponse.SERVING)
        waiting = [self.api.Fetch.future(
            pb.FetchRequest(max_wait_ms=30000, partitions=[pb.FetchPartition(topic="order")]))
            for _ in range(100)]
        self.assertEqual(self.produce("throttled", b"x").error.retry_after_ms, 7)
        self.assertEqual(self.tell("drain"), "drained OK")
        for call in waiting:
            self.assertIn(call.code(), (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE))
        self.assertEqual(states.get(timeout=10), health_pb2.HealthCheckResponse.NOT_SERVING)
        failure, error = self.failure(self.api.ListTopics, pb.ListTopicsRequest())
        self.assertEqual(failure.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertTrue(error.retriable)
        self.program.stdin.close()
        self.assertEqual(states.get(timeout=10), grpc.StatusCode.UNAVAILABLE)
        thread.join()
        self.program.stdin = open(os.devnull, "w", encoding="utf-8")

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ("", "streamit.v1.StreamIt"):
            response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            self.assertEqual(response.status, health_pb2.HealthCheckResponse.SERVING)
        failure, _ = self.failure(health.Check, health_pb2.HealthCheckRequest(service="other"))
        self.assertEqual(failure.code(), grpc.StatusCode.NOT_FOUND)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="other"))
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        watch.cancel()

    def test_reflection(self):
        for messages, stubs in ((reflection_pb2, reflection_pb2_grpc), (alpha_pb2, alpha_pb2_grpc)):
            request = messages.ServerReflectionRequest
            requests = [request(list_services=""),
                        request(file_containing_symbol="streamit.v1.StreamIt.Produce"),
                        request(file_by_filename="streamit/v1/streamit.proto"),
                        request(file_containing_symbol="nothing.at.all"),
                        request(all_extension_numbers_of_type="streamit.v1.Error"),
                        request()]
            stub = stubs.ServerReflectionStub(self.channel)
            answers = list(stub.ServerReflectionInfo(iter(requests), timeout=10))
            self.assertEqual(len(answers), len(requests))
            services = sorted(s.name for s in answers[0].list_services_response.service)
            self.assertEqual(services, ["grpc.health.v1.Health",
                                        "grpc.reflection.v1.ServerReflection",
                                        "grpc.reflection.v1alpha.ServerReflection",
                                        "streamit.v1.StreamIt"])
            for answer in answers[1:3]:
                data = answer.file_descriptor_response.file_descriptor_proto[0]
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                own = descriptor_pb2.FileDescriptorProto()
                pb.DESCRIPTOR.CopyToProto(own)
                self.assertEqual(file.package, "streamit.v1")
                self.assertEqual([m.name for m in file.message_type],
                                 [m.name for m in own.message_type])
            self.assertEqual([a.error_response.error_code for a in answers[3:]], [5, 5, 3])
            self.assertEqual(answers[3].original_request, requests[3])

    def test_stop_with_open_streams(self):
        def silent():
            threading.Event().wait(5)
            yield from ()

        stub = reflection_pb2_grpc.ServerReflectionStub(self.channel)
        stream = stub.ServerReflectionInfo(silent())
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        fetch = self.api.Fetch.future(
            pb.FetchRequest(max_wait_ms=30000, partitions=[pb.FetchPartition(topic="order")]))
        self.produce("throttled", b"x")
        out, _ = self.program.communicate(timeout=4)
        self.assertEqual(out, "stopped OK, 0 slices out\n")
        self.assertIn(fetch.code(), (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE))
        with self.assertRaises(grpc.RpcError):
            next(watch)
        with self.assertRaises(grpc.RpcError):
            next(stream)

    def tearDown(self):
        if self.program.poll() is None:
            super().tearDown()
        else:
            self.channel.close()
            self.assertEqual(self.program.returncode, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
