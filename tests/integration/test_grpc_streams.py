#!/usr/bin/python3
"""The streams of the public gRPC API, and records that the node encodes and decodes."""

import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, grpc, pb, status_error  # noqa: E402

LIMIT_S = 60  # of a whole stream: generous, since nothing is measured


class Sender:
    """The sending side of a produce stream."""

    def __init__(self, client, **kwargs):
        self.queue = queue.Queue()
        self.number = 0
        self.answers = client.api.ProduceStream(iter(self.queue.get, None), timeout=LIMIT_S, **kwargs)

    def send(self, rows, answered=0, number=None, acks=pb.ACKS_LEADER):
        """rows: (topic, partition, batch or list of values)"""
        self.number = self.number + 1 if number is None else number
        request = pb.ProduceStreamRequest(id=self.number, acks=acks, answered=answered)
        for topic, partition, what in rows:
            part = request.partitions.add(topic=topic, partition=partition)
            if isinstance(what, bytes):
                part.batch = what
            else:
                part.records.extend(pb.Record(value=value) for value in what)
        self.queue.put(request)
        return self.number

    def close(self):
        self.queue.put(None)

    def results(self, through):
        """The results of all requests up to an id, by id."""
        out, seen = {}, 0
        while seen < through:
            response = next(self.answers)
            assert response.through >= seen
            seen = response.through
            for result in response.results:
                assert result.id not in out, "answered twice"
                out[result.id] = result.partitions
        assert seen == max(out)
        return out


def fetch_request(offsets, **kwargs):
    request = pb.FetchRequest(**kwargs)
    for topic, partition, offset in offsets:
        request.partitions.add(topic=topic, partition=partition, offset=offset)
    return request


def code(row):
    return pb.ErrorCode.Name(row.error.code) if row.HasField("error") else "OK"


def fact(record):
    return (record.key if record.HasField("key") else None, record.value if record.HasField("value") else None,
            [(h.key, h.value if h.HasField("value") else None) for h in record.headers], record.timestamp_ms)


class Streams(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)

    def gauge(self, name):
        text = urllib.request.urlopen(f"http://{self.host.http}/metrics", timeout=20).read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def wait_gauge(self, name, value):
        until = time.monotonic() + 30
        while self.gauge(name) != value:
            self.assertLess(time.monotonic(), until, f"{name} is {self.gauge(name)}, expected {value}")
            time.sleep(0.05)

    def produce_large(self, topic, count, partition=0, size=1000000):
        """Encoded by the node: the oracle is no fast encoder."""
        for _ in range(count):
            request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
            request.partitions.add(topic=topic, partition=partition, records=[pb.Record(value=os.urandom(size))])
            self.assertEqual(code(self.client.api.Produce(request, timeout=LIMIT_S).partitions[0]), "OK")

    def read_all(self, topic, partition, offset=0, **kwargs):
        """Decoded records by unary fetches until the high watermark."""
        out = []
        while True:
            row = self.client.api.Fetch(fetch_request([(topic, partition, offset)], decode=True, **kwargs),
                                        timeout=LIMIT_S).partitions[0]
            self.assertFalse(row.HasField("error"), row)
            self.assertEqual(row.batches, b"")
            out += row.records
            if row.next_offset >= row.high_watermark:
                return out
            self.assertGreater(row.next_offset, offset, "it goes on")
            offset = row.next_offset


class Decoded(Streams):
    RECORDS = [pb.Record(), pb.Record(key=b"", value=b""), pb.Record(key=b"k", timestamp_ms=1700000000123),
               pb.Record(value=b"v" * 3000, timestamp_ms=1700000000122,
                         headers=[pb.Header(key="a"), pb.Header(key="", value=b""), pb.Header(key="ä", value=b"\0\xff")])]

    def produce(self, topic, records, **kwargs):
        request = pb.ProduceRequest(acks=pb.ACKS_QUORUM)
        request.partitions.add(topic=topic, records=records, **kwargs)
        return self.client.api.Produce(request, timeout=LIMIT_S).partitions[0]

    def test_round_trip_in_every_codec(self):
        self.client.create("t")
        for codec in range(5):
            before = int(time.time() * 1000)
            row = self.produce("t", self.RECORDS, compression=codec)
            self.assertEqual((code(row), row.base_offset), ("OK", codec * 4))
            got = self.read_all("t", 0, codec * 4)
            self.assertEqual([r.offset for r in got], list(range(codec * 4, codec * 4 + 4)))
            for sent, read in zip(self.RECORDS, got):
                key, value, headers, timestamp = fact(sent)
                self.assertEqual(fact(read)[:3], (key, value, headers))
                if timestamp:
                    self.assertEqual(read.timestamp_ms, timestamp)
                else:
                    self.assertTrue(before <= read.timestamp_ms <= int(time.time() * 1000))
        batches = record_batch.decode_all(self.client.fetch("t", 0, 0).batches)
        self.assertEqual([b.codec for b in batches], list(range(5)))

    def test_what_others_encoded(self):
        self.client.create("t")
        for codec in range(5):
            self.client.produce("t", 0, record_batch.encode(
                [record_batch.Record(b"%d" % i, b"k" if i % 2 else None, [(b"h", None)], 1700000000000 + i)
                 for i in range(500)], codec=codec))
        got = self.read_all("t", 0)
        self.assertEqual([r.offset for r in got], list(range(2500)))
        self.assertEqual([r.value for r in got], [b"%d" % (i % 500) for i in range(2500)])
        self.assertEqual(got[1].headers[0].key, "h")
        self.assertFalse(got[1].headers[0].HasField("value"))

    def test_limits(self):
        self.client.create("t", partitions=2)
        for partition in range(2):
            self.produce("t", [pb.Record(value=b"%03d" % i + b"x" * 1000) for i in range(300)], partition=partition)
        row = self.client.api.Fetch(fetch_request([("t", 0, 7)], decode=True, max_bytes=1), timeout=LIMIT_S).partitions[0]
        self.assertEqual(([r.offset for r in row.records], row.next_offset), ([7], 8), "one at least")
        response = self.client.api.Fetch(fetch_request([("t", 0, 5), ("t", 1, 0)], decode=True, max_bytes=50000),
                                         timeout=LIMIT_S)
        self.assertLess(response.ByteSize(), 51000)
        self.assertGreater(response.ByteSize(), 48000)
        self.assertEqual(response.partitions[0].next_offset, 5 + len(response.partitions[0].records))
        self.assertEqual(response.partitions[1].next_offset, len(response.partitions[1].records))
        for max_bytes in (1, 5000, 0):
            got = self.read_all("t", 1, 250, max_bytes=max_bytes)
            self.assertEqual([r.value[:3] for r in got], [b"%03d" % i for i in range(250, 300)])

    def test_without_max_bytes_stock_clients_can_read_it(self):
        self.client.create("t", partitions=3)
        for partition in range(3):
            self.produce("t", [pb.Record(value=bytes(1900000))], partition=partition)
            self.produce("t", [pb.Record(value=os.urandom(1000)) for _ in range(1500)], partition=partition)
        with grpc.insecure_channel(self.host.server) as channel:  # takes 4 MiB
            api = type(self.client.api)(channel)
            for decode in (False, True):
                response = api.Fetch(fetch_request([("t", p, 0) for p in range(3)], decode=decode), timeout=LIMIT_S)
                self.assertLess(response.ByteSize(), (3 << 20) + 1)

    def test_refusals(self):
        self.client.create("t", config={"max.message.bytes": "100000"})

        def refused(text, **kwargs):
            with self.assertRaises(grpc.RpcError) as caught:
                self.produce("t", **kwargs)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(text, caught.exception.details())

        refused("ProducePartition.records", records=[pb.Record()], batch=record_batch.encode([b"x"]))
        refused("ProducePartition.compression", records=[pb.Record()], compression=7)
        refused("Header.key", records=[pb.Record(headers=[pb.Header(key="a\0b")])])
        row = self.produce("t", [pb.Record(value=bytes(150000))])
        self.assertEqual(code(row), "MESSAGE_TOO_LARGE")
        self.assertIn("max.message.bytes", row.error.message)
        self.assertEqual(code(self.produce("t", [pb.Record(value=bytes(150000))], compression=pb.COMPRESSION_ZSTD)), "OK")
        rows = self.client.api.Produce(pb.ProduceRequest(partitions=[
            pb.ProducePartition(topic="t", records=[pb.Record(value=b"1")]),
            pb.ProducePartition(topic="none", records=[pb.Record(value=b"2")]),
            pb.ProducePartition(topic="t", batch=record_batch.encode([b"3"]))]), timeout=LIMIT_S).partitions
        self.assertEqual([code(r) for r in rows], ["OK", "UNKNOWN_TOPIC", "OK"])
        self.assertEqual([len(r.value) for r in self.read_all("t", 0)], [150000, 1, 1])

    def test_order_of_large_and_small(self):
        """Encoding on the executor keeps the calls of a connection in order."""
        self.client.create("t")
        calls = []
        for i in range(40):
            size = 300000 if i % 4 == 0 else 10
            request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
            request.partitions.add(topic="t", records=[pb.Record(value=b"%d " % i + os.urandom(size))])
            calls.append(self.client.api.Produce.future(request, timeout=LIMIT_S))
        self.assertEqual([code(c.result().partitions[0]) for c in calls], ["OK"] * 40)
        self.assertEqual([int(r.value.split(b" ")[0]) for r in self.read_all("t", 0)], list(range(40)))

    def test_a_batch_that_holds_no_records(self):
        """Stored as it came, since the broker looks no further than the checksum; it is named, and can be passed."""
        self.client.create("t")
        bad = bytearray(record_batch.encode([b"x" * 50]))
        bad[61:] = b"\xff" * (len(bad) - 61)
        bad[17:21] = record_batch.crc32c(bytes(bad[21:])).to_bytes(4, "big")
        for what in ([b"before"], bytes(bad), [b"behind"]):
            self.assertEqual(code(self.client.produce("t", 0, what)), "OK")
        ask = lambda offset: self.client.api.Fetch(fetch_request([("t", 0, offset)], decode=True), timeout=LIMIT_S).partitions[0]  # noqa: E731
        row = ask(0)
        self.assertEqual(([r.value for r in row.records], row.next_offset), ([b"before"], 1))
        row = ask(1)
        self.assertEqual((code(row), row.next_offset), ("CORRUPT_BATCH", 2))
        self.assertEqual([r.value for r in ask(2).records], [b"behind"])
        rows = [r for response in self.client.api.FetchStream(fetch_request([("t", 0, 0)], decode=True), timeout=LIMIT_S)
                for r in response.partitions]
        self.assertEqual([(code(r), len(r.records)) for r in rows], [("OK", 1), ("CORRUPT_BATCH", 0)])


class Produce(Streams):
    def test_many_under_way(self):
        self.client.create("t", partitions=4)
        sender = Sender(self.client)
        for i in range(1000):
            sender.send([("t", i % 4, record_batch.encode([b"%d" % i]) if i % 3 else [b"%d" % i])])
        sender.close()
        results = sender.results(1000)
        with self.assertRaises(StopIteration):
            next(sender.answers)
        self.assertEqual(sender.answers.code(), grpc.StatusCode.OK)
        self.assertEqual([results[i + 1][0].base_offset for i in range(1000)], [i // 4 for i in range(1000)])
        for partition in range(4):
            self.assertEqual([int(r.value) for r in self.read_all("t", partition)], list(range(partition, 1000, 4)))
        self.wait_gauge("streamit_grpc_stream_requests_in_flight", 0)

    def test_order_of_large_and_small(self):
        self.client.create("t")
        sender = Sender(self.client)
        for i in range(100):
            sender.send([("t", 0, [b"%d " % i + os.urandom(200000 if i % 5 == 0 else 10)])])
        sender.results(100)
        self.assertEqual([int(r.value.split(b" ")[0]) for r in self.read_all("t", 0)], list(range(100)))
        sender.close()

    def test_a_failure_stops_its_partition(self):
        self.client.create("t", partitions=2)
        sender = Sender(self.client)
        bad = bytearray(record_batch.encode([b"bad"]))
        bad[-1] ^= 1
        sender.send([("t", 0, [b"0"])])
        sender.send([("t", 0, bytes(bad)), ("t", 1, [b"0"])])
        for i in range(20):
            sender.send([("t", 0, [b"late"]), ("t", 1, [b"%d" % (i + 1)])])
        results = sender.results(22)
        self.assertEqual([code(r) for r in results[2]], ["CORRUPT_BATCH", "OK"])
        for i in range(3, 23):
            self.assertEqual([code(r) for r in results[i]], ["PRECONDITION", "OK"])
            self.assertTrue(results[i][0].error.retriable)
            self.assertFalse(results[i][0].error.outcome_unknown)
        sender.send([("t", 0, [b"late"])], answered=1)
        sender.send([("t", 0, [b"1"])], answered=22)
        sender.send([("t", 0, [b"2"])], answered=22)
        sender.close()
        results = sender.results(25)
        self.assertEqual([code(results[i][0]) for i in (23, 24, 25)], ["PRECONDITION", "OK", "OK"])
        self.assertEqual([r.value for r in self.read_all("t", 0)], [b"0", b"1", b"2"])
        self.assertEqual([r.value for r in self.read_all("t", 1)], [b"%d" % i for i in range(21)])

    def test_what_ends_a_stream(self):
        self.client.create("t")

        def ends(text, status=grpc.StatusCode.INVALID_ARGUMENT, **second):
            sender = Sender(self.client)
            sender.send([("t", 0, [b"x"])], number=5)
            sender.answers.initial_metadata()
            sender.send(**{"rows": [("t", 0, [b"y"])], "number": 6, **second})
            got = []
            with self.assertRaises(grpc.RpcError) as caught:
                for response in sender.answers:
                    got += [r.id for r in response.results]
            sender.close()
            self.assertEqual(got, [5], "what came before is answered, the bad one is not")
            self.assertEqual(caught.exception.code(), status)
            self.assertIn(text, caught.exception.details())
            self.assertEqual(dict(caught.exception.trailing_metadata())["x-trace-id"] != "", True)

        ends("ProduceStreamRequest.id: 5 after 5", number=5)
        ends("ProduceStreamRequest.id: 1 after 5", number=1)
        ends("ProduceStreamRequest.id: 0", number=0)
        ends("ProduceStreamRequest.answered: 7", answered=7)
        ends("ProduceStreamRequest.partitions", rows=[])
        ends("ProducePartition.topic", rows=[("a\0b", 0, [b"x"])])
        ends("ProducePartition.topic", rows=[("a" * 300, 0, [b"x"])])
        self.assertEqual(len(self.read_all("t", 0)), 7)

    def test_a_client_that_never_reads(self):
        """It is not read from either, and costs nobody else anything."""
        self.client.create("t")
        with grpc.insecure_channel(self.host.server, options=[("grpc.http2.lookahead_bytes", 65535),
                                                              ("grpc.use_local_subchannel_pool", 1)]) as channel:
            silent = threading.Event()
            call = channel.stream_stream("/streamit.v1.StreamIt/ProduceStream")(self._endless(silent), timeout=LIMIT_S)
            self.wait_gauge_at_least("streamit_grpc_stream_requests_in_flight", 64)
            self.assertLessEqual(self.gauge("streamit_grpc_stream_requests_in_flight"), 64)
            self.assertEqual(code(self.client.produce("t", 0, [b"others go on"])), "OK")
            silent.set()
            call.cancel()
        self.wait_gauge("streamit_grpc_stream_requests_in_flight", 0)

    def wait_gauge_at_least(self, name, value):
        until = time.monotonic() + 30
        while self.gauge(name) < value:
            self.assertLess(time.monotonic(), until, f"{name} is {self.gauge(name)}, expected {value} at least")
            time.sleep(0.05)

    @staticmethod
    def _endless(silent):
        number = 0
        while not silent.is_set():
            number += 1
            request = pb.ProduceStreamRequest(id=number, acks=pb.ACKS_LEADER)
            for _ in range(200):  # a long answer
                request.partitions.add(topic="no such topic, of a name that makes the answer long", partition=1, batch=b"x")
            yield request.SerializeToString()

    def test_many_streams(self):
        self.client.create("t", partitions=8)
        senders = [Sender(self.client) for _ in range(200)]
        for round_ in range(3):
            for i, sender in enumerate(senders):
                sender.send([("t", i % 8, [b"%d %d" % (i, round_)])])
        for sender in senders:
            sender.close()
        for sender in senders:
            results = sender.results(3)
            self.assertEqual([code(results[i][0]) for i in (1, 2, 3)], ["OK"] * 3)
            with self.assertRaises(StopIteration):
                next(sender.answers)
        values = [r.value for p in range(8) for r in self.read_all("t", p)]
        self.assertEqual(len(values), 600)
        for i in range(200):
            mine = [v for v in values if v.startswith(b"%d " % i)]
            self.assertEqual(mine, [b"%d %d" % (i, r) for r in range(3)])

    def test_the_node_dies(self):
        self.client.create("t", config={"flush.policy": "commit"})
        sender = Sender(self.client)
        for i in range(50):
            sender.send([("t", 0, [b"%d" % i])])
        answered = set()
        response = next(sender.answers)
        answered |= {r.id for r in response.results}
        self.host.kill()
        with self.assertRaises(grpc.RpcError) as caught:
            for response in sender.answers:
                answered |= {r.id for r in response.results}
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        sender.close()
        self.client.close()
        self.host.start()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)
        got = [int(r.value) for r in self.read_all("t", 0)]
        self.assertEqual(got, list(range(len(got))), "in order, without a hole")
        self.assertGreaterEqual(len(got), max(answered), "what was answered is there")

    def test_the_client_dies(self):
        self.client.create("t")
        program = ("import sys; sys.path[:0] = %r; from test_grpc_streams import *; c = Client(sys.argv[1]); s = Sender(c);\n"
                   "f = c.api.FetchStream(fetch_request([('t', 0, 0)]), timeout=LIMIT_S)\n"
                   "s.send([('t', 0, [b'x' * 1000])] * 50); next(s.answers); next(f); print('up', flush=True)\n"
                   "while True: s.send([('t', 0, [b'x' * 1000])] * 50)\n") % (
                       [os.path.dirname(os.path.abspath(__file__)), os.path.join(harness.ROOT, "tests", "lib")],)
        child = subprocess.Popen([sys.executable, "-c", program, self.host.server], stdout=subprocess.PIPE)
        self.assertEqual(child.stdout.readline(), b"up\n")
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        self.wait_gauge("streamit_grpc_stream_requests_in_flight", 0)
        self.wait_gauge("streamit_grpc_calls_in_flight", 0)
        self.assertEqual(code(self.client.produce("t", 0, [b"others go on"])), "OK")


class Fetch(Streams):
    def test_follow(self):
        self.client.create("t", partitions=3)
        for decode in (False, True):
            first = self.client.end("t", 1)
            stream = self.client.api.FetchStream(
                fetch_request([("t", p, first) for p in range(3)], decode=decode), timeout=LIMIT_S)
            want = {p: [b"%d %d" % (p, i) for i in range(30)] for p in range(3)}
            got = {p: [] for p in range(3)}

            def produce():
                for i in range(30):
                    for p in range(3):
                        self.client.produce("t", p, [b"%d %d" % (p, i)])

            thread = threading.Thread(target=produce)
            thread.start()
            for response in stream:
                self.assertTrue(response.partitions, "only news")
                for row in response.partitions:
                    self.assertFalse(row.HasField("error"), row)
                    values = [r.value for r in row.records] if decode else [
                        r.value for b in record_batch.decode_all(row.batches) for r in b.records]
                    self.assertTrue(values)
                    got[row.partition] += values
                    self.assertEqual(row.next_offset, first + len(got[row.partition]))
                if got == want:
                    break
            thread.join()
            self.assertEqual(got, want)
            stream.cancel()
        self.wait_gauge("streamit_grpc_calls_in_flight", 0)

    def test_messages_are_bounded_and_partitions_take_turns(self):
        self.client.create("t", partitions=2)
        for partition in range(2):
            self.produce_large("t", 20, partition, 100000)
        seen, order = [0, 0], []
        for response in self.client.api.FetchStream(fetch_request([("t", 0, 0), ("t", 1, 0)], max_bytes=250000),
                                                    timeout=LIMIT_S):
            self.assertLess(response.ByteSize(), 350000)
            for row in response.partitions:
                seen[row.partition] = row.next_offset
                order.append(row.partition)
            if seen == [20, 20]:
                break
        self.assertEqual(set(order[:2]), {0, 1}, "neither waits for the other to end")

    def test_heartbeat(self):
        self.client.create("t")
        stream = self.client.api.FetchStream(fetch_request([("t", 0, 0)], max_wait_ms=50), timeout=LIMIT_S)
        for _ in range(3):
            self.assertEqual(len(next(stream).partitions), 0)
        self.client.produce("t", 0, [b"x"])
        while not (response := next(stream)).partitions:
            pass
        self.assertEqual(response.partitions[0].next_offset, 1)
        stream.cancel()

    def test_errors_leave_one_by_one(self):
        self.client.create("t")
        self.client.produce("t", 0, [b"x"])
        stream = self.client.api.FetchStream(
            fetch_request([("none", 0, 0), ("t", 0, 0), ("t", 7, 0)]), timeout=LIMIT_S)
        rows = []
        while len(rows) < 3:
            rows += next(stream).partitions
        self.assertEqual(sorted((r.topic, r.partition, code(r)) for r in rows),
                         [("none", 0, "UNKNOWN_TOPIC"), ("t", 0, "OK"), ("t", 7, "UNKNOWN_PARTITION")])
        self.client.api.DeleteTopic(pb.DeleteTopicRequest(name="t"), timeout=LIMIT_S)
        row, = next(stream).partitions
        self.assertTrue(row.HasField("error"))
        with self.assertRaises(StopIteration):
            next(stream)
        self.assertEqual(stream.code(), grpc.StatusCode.OK)
        out_of_range = self.client.api.FetchStream(fetch_request([("none", 0, 0)]), timeout=LIMIT_S)
        self.assertEqual([len(r.partitions) for r in out_of_range], [1])

    def test_a_client_that_never_reads(self):
        """It pins one message and what gRPC has buffered, not what is written meanwhile."""
        self.client.create("t")
        self.produce_large("t", 40)
        with grpc.insecure_channel(self.host.server, options=[("grpc.http2.lookahead_bytes", 65535),
                                                              ("grpc.http2.bdp_probe", 0),
                                                              ("grpc.use_local_subchannel_pool", 1)]) as channel:
            stream = channel.unary_stream("/streamit.v1.StreamIt/FetchStream")(
                fetch_request([("t", 0, 0)]).SerializeToString(), timeout=LIMIT_S)
            stream.initial_metadata()
            time.sleep(0.3)
            self.assertLess(self.gauge("streamit_grpc_sent_messages_total"), 20)
            self.assertEqual(code(self.client.produce("t", 0, [b"others go on"])), "OK")
            stream.cancel()
        self.wait_gauge("streamit_grpc_calls_in_flight", 0)


class End(Streams):
    def test_drain(self):
        """A node that stops answers what it has read, and sends everybody away with UNAVAILABLE."""
        self.client.create("t")
        sender = Sender(self.client)
        sender.send([("t", 0, [b"x"])])
        self.assertEqual(code(sender.results(1)[1][0]), "OK")
        follow = self.client.api.FetchStream(fetch_request([("t", 0, 0)]), timeout=LIMIT_S)
        self.assertEqual(next(follow).partitions[0].next_offset, 1)
        waiting = self.client.api.Fetch.future(fetch_request([("t", 0, 1)], max_wait_ms=50000), timeout=LIMIT_S)
        self.assertEqual(self.host.stop(), 0)
        for stream in (sender.answers, follow):
            with self.assertRaises(grpc.RpcError) as caught:
                next(stream)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("shutting down", caught.exception.details())
            self.assertTrue(status_error(caught.exception)[2].retriable)
            self.assertGreater(status_error(caught.exception)[2].retry_after_ms, 0)
        self.assertIn(waiting.code(), (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE))
        sender.close()

    def test_drain_with_clients_that_do_not_read(self):
        """They are cut off when half of the time is over."""
        self.assertEqual(self.host.stop(), 0)
        self.host = self.node("impatient", sets=["node.drain_timeout_ms=4000"]).start()
        self.client.close()
        self.client = Client(self.host)
        self.addCleanup(self.client.close)
        self.client.create("t")
        self.produce_large("t", 20)
        options = [("grpc.http2.lookahead_bytes", 65535), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.host.server, options=options) as channel:
            stream = channel.unary_stream("/streamit.v1.StreamIt/FetchStream")(
                fetch_request([("t", 0, 0)]).SerializeToString(), timeout=LIMIT_S)
            stream.initial_metadata()
            self.assertEqual(self.host.stop(), 0)
            with self.assertRaises(grpc.RpcError):
                for _ in stream:
                    pass


class Attacks(Streams):
    def test_random_bytes(self):
        self.client.create("t")
        rng = random.Random(harness.seed())
        record = pb.Record(key=b"k", value=b"v" * 50, headers=[pb.Header(key="h", value=b"1")])
        produce = pb.ProduceStreamRequest(id=1, acks=1, partitions=[pb.ProducePartition(topic="t", records=[record])])
        fetch = fetch_request([("t", 0, 0)], decode=True, max_wait_ms=1)
        streams = ((self.client.channel.stream_stream("/streamit.v1.StreamIt/ProduceStream"), produce.SerializeToString(), True),
                   (self.client.channel.unary_stream("/streamit.v1.StreamIt/FetchStream"), fetch.SerializeToString(), False))
        for _ in range(200):
            for call, good, many in streams:
                bad = bytearray(good)
                for _ in range(rng.randrange(4)):
                    bad[rng.randrange(len(bad))] = rng.randrange(256)
                bad = bytes(bad[:rng.randrange(len(bad) + 1)])
                stream = call(iter([bad]) if many else bad, timeout=LIMIT_S)
                try:
                    for _ in stream:
                        if not many:
                            stream.cancel()
                except grpc.RpcError:
                    pass
                self.assertIn(stream.code(), (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED))
        self.assertEqual(code(self.client.produce("t", 0, [b"others go on"])), "OK")
        self.wait_gauge("streamit_grpc_stream_requests_in_flight", 0)
        self.wait_gauge("streamit_grpc_streams_open", 0)

    def test_a_batch_that_inflates_without_end(self):
        self.client.create("t")
        bomb = record_batch.encode([record_batch.Record(bytes(1 << 20), None, [], 1)] * 130, codec=record_batch.GZIP)
        self.assertEqual(code(self.client.produce("t", 0, bomb)), "OK")
        row = self.client.api.Fetch(fetch_request([("t", 0, 0)], decode=True), timeout=LIMIT_S).partitions[0]
        self.assertEqual((code(row), row.next_offset), ("MESSAGE_TOO_LARGE", 130))
        many = pb.ProduceRequest(partitions=[pb.ProducePartition(topic="t", records=[pb.Record()] * 2000000)])
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.api.Produce(many, timeout=LIMIT_S)
        self.assertEqual(status_error(caught.exception)[0], "MESSAGE_TOO_LARGE")

    def test_topics_come_and_go(self):
        self.client.create("t")
        sender = Sender(self.client)
        for i in range(20):
            sender.send([("t", 0, [b"%d" % i]), ("u", 0, [b"x"]), ("t", 1, [b"y"])])
        results = sender.results(20)
        self.assertEqual([code(r) for r in results[1]], ["OK", "UNKNOWN_TOPIC", "UNKNOWN_PARTITION"])
        self.assertEqual([code(r) for r in results[20]], ["OK", "PRECONDITION", "PRECONDITION"])
        self.client.create("u")
        self.client.api.AlterTopic(pb.AlterTopicRequest(name="t", partitions=2), timeout=LIMIT_S)
        sender.send([("t", 0, [b"a"]), ("u", 0, [b"x"]), ("t", 1, [b"y"])], answered=20)
        self.assertEqual([code(r) for r in sender.results(21)[21]], ["OK"] * 3)
        self.client.api.DeleteTopic(pb.DeleteTopicRequest(name="t"), timeout=LIMIT_S)
        sender.send([("t", 0, [b"a"]), ("u", 0, [b"x"])], answered=21)
        self.assertEqual([code(r) for r in sender.results(22)[22]], ["UNKNOWN_TOPIC", "OK"])
        sender.close()


class Listeners(harness.TestCase):
    """Where a node listens, and what it says of itself."""

    def listen(self, **instances):
        """A node with these listeners; returns the port of each."""
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        rows = "".join(f'\n  {name}: {{ file = "transport_grpc.so"; port = 0; {options} }};'
                       for name, options in instances.items())
        text, count = re.subn(r"^(plugins\s*[:=]\s*\{)", lambda m: m.group(1) + rows, text, flags=re.M)
        self.assertEqual(count, 1)
        with open(self.path("node.cfg"), "w", encoding="utf-8") as file:
            file.write(text)
        node = self.node(config=self.path("node.cfg")).start()
        addresses = node.wait_log("ready")["listeners"]
        return {name: int(addresses[name].rpartition(":")[2]) for name in list(instances) + ["transport_grpc"]}

    def leader(self, target, options=()):
        with grpc.insecure_channel(target, options=list(options)) as channel:
            call = channel.unary_unary("/streamit.v1.StreamIt/FindLeader", pb.FindLeaderRequest.SerializeToString,
                                       pb.FindLeaderResponse.FromString)
            response = call(pb.FindLeaderRequest(topic="t"), timeout=LIMIT_S)
            return response.host, response.port

    def test_several(self):
        ports = self.listen(inside='host = "127.0.0.1"; advertised_host = "broker.example"; advertised_port = 18080;',
                            six='host = "::1";')
        Client(f"127.0.0.1:{ports['inside']}").create("t")
        for target in (f"127.0.0.1:{ports['transport_grpc']}", f"[::1]:{ports['six']}"):
            client = Client(target)
            self.assertEqual(code(client.produce("t", 0, [b"x"])), "OK")
            client.close()
        self.assertEqual(self.leader(f"127.0.0.1:{ports['inside']}"), ("broker.example", 18080))
        self.assertEqual(self.leader(f"[::1]:{ports['six']}"), ("::1", ports["six"]))
        # On all addresses: what the client dialed, whatever that is called on its side.
        every = ports["transport_grpc"]
        self.assertEqual(self.leader(f"127.0.0.1:{every}"), ("127.0.0.1", every))
        self.assertEqual(self.leader(f"localhost:{every}"), ("localhost", every))
        for authority, expected in (("elsewhere.example:18080", ("elsewhere.example", 18080)),
                                    ("elsewhere.example", ("elsewhere.example", every)),
                                    ("[::1]:99", ("::1", 99)), ("[::1]", ("::1", every)), ("a:99999", ("a:99999", every))):
            self.assertEqual(self.leader(f"127.0.0.1:{every}", [("grpc.default_authority", authority)]), expected)

    def test_trace_ids(self):
        node = self.node().start()
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        parent = f"00-{trace}-00f067aa0ba902b7-01"

        def out(*metadata):
            with grpc.insecure_channel(node.server) as channel:
                ids = []
                for name in ("ListTopics", "Nothing", "DeleteTopic"):  # answers, is unknown, fails
                    call = channel.unary_unary(f"/streamit.v1.StreamIt/{name}").future(b"", metadata=metadata, timeout=LIMIT_S)
                    ids.append(dict(call.trailing_metadata())["x-trace-id"])
                self.assertEqual(len(set(ids)), 1 if metadata else 3)
                return ids[0]

        self.assertEqual(out(("x-trace-id", "mine 7")), "mine 7")
        self.assertEqual(out(("traceparent", parent)), trace)
        self.assertEqual(out(("traceparent", parent), ("x-trace-id", "mine")), "mine")
        self.assertEqual(out(("traceparent", parent.replace("00-", "cc-", 1) + "-later")), trace)
        made = {out()}
        for bad in (parent + "-x", "ff" + parent[2:], parent.upper(), parent[:-1], parent.replace(trace, "0" * 32),
                    parent.replace("00f067aa0ba902b7", "0" * 16), parent.replace("-", "_"), ""):
            with grpc.insecure_channel(node.server) as channel:
                call = channel.unary_unary("/streamit.v1.StreamIt/ListTopics").future(
                    b"", metadata=(("traceparent", bad),), timeout=LIMIT_S)
                made.add(dict(call.trailing_metadata())["x-trace-id"])
        self.assertEqual(len(made), 9, "each its own")
        self.assertTrue(all(re.fullmatch("[0-9a-f]{32}", m) for m in made), made)


if __name__ == "__main__":
    harness.main()
