#!/usr/bin/python3
"""libstreamit against a server that fails on purpose: order, retries, timeouts, what is lost and what is not."""

import os
import random
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
from client_driver import Driver  # noqa: E402
from fake_server import FakeServer  # noqa: E402
from grpc_client import grpc, pb  # noqa: E402

INDEFINITE = 8
THROTTLED = (pb.THROTTLED, {"retriable": True, "retry_after_ms": 1, "message": "slow down"})
DISK_FULL = (pb.DISK_FULL, {"message": "the disk is full"})
NOT_LEADER = (pb.NOT_LEADER, {"retriable": True, "refresh": True, "message": "not here"})
TIMED_OUT = (pb.TIMED_OUT, {"retriable": True, "outcome_unknown": True, "message": "no acks"})


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Case(unittest.TestCase):
    def server(self, **kwargs):
        server = FakeServer(**kwargs)
        self.addCleanup(server.stop)
        return server

    def driver(self, servers, **options):
        driver = Driver(servers if isinstance(servers, str) else servers.address, **options)
        self.addCleanup(driver.kill)
        return driver

    def producer(self, servers, client=None, **options):
        driver = self.driver(servers, **(client or {}))
        driver.ok("producer", **options)
        driver.ok("topic", "t")
        return driver


class Producing(Case):
    def test_order_survives_failures(self):
        """Whatever fails, what is stored is in the order of the sends, once, and each record has one true report."""
        rng = random.Random(harness.seed())
        server = self.server(partitions=2)
        verdicts = [THROTTLED, DISK_FULL, NOT_LEADER] + [None] * 9
        server.on_row = lambda row: rng.choice(verdicts)
        driver = self.producer(server, {"backoff_min_ms": 1, "backoff_max_ms": 4}, batch_bytes=220)
        for _ in range(5):
            driver.ok("send", 200, 0, "a")
            driver.ok("send", 200, 1, "b")
        driver.ok("flush", 60000)
        reports = driver.reports()
        self.assertEqual(len(reports), 2000)
        for partition in (0, 1):
            sent = [n for n in range(2000) if n // 200 % 2 == partition]
            stored = [n for n in sent if reports[n][0] == "OK"]
            self.assertEqual({reports[n][0] for n in sent} - {"OK", "DISK_FULL"}, set())
            self.assertTrue(len(stored) < len(sent))
            name = "ab"[partition]
            self.assertEqual(server.values(partition), [f"{name}{n % 200}" for n in stored])
            self.assertEqual([reports[n][2] for n in stored], list(range(len(stored))))
        driver.end()

    def test_a_producer_may_stop_at_its_first_failure(self):
        """What is stored then is a beginning of what was sent, also with several batches under way."""
        for refusal in (DISK_FULL, (pb.CORRUPT_BATCH, {"message": "no batch"})):
            server = self.server()
            rows = []
            server.answer_delay = 0.002
            server.on_row = lambda row, rows=rows, refusal=refusal: rows.append(row) or (refusal if len(rows) == 20 else None)
            driver = self.producer(server, {"backoff_min_ms": 1, "backoff_max_ms": 4}, batch_bytes=220, flags=1)
            name = pb.ErrorCode.Name(refusal[0])
            self.assertIn(driver("send", 500, 0, "v"), ("ok", name))
            driver.ok("flush", 60000)
            reports = driver.reports()
            stored = [n for n in sorted(reports) if reports[n][0] == "OK"]
            self.assertEqual(server.values(), [f"v{n}" for n in stored])
            self.assertEqual(stored, list(range(len(stored))), "something is stored behind what is not")
            self.assertIn(name, {r[0] for r in reports.values()})
            self.assertEqual({r[0] for r in reports.values()} - {"OK", name, "CANCELLED", "PRECONDITION"}, set())
            self.assertEqual(driver("send", 1, 0, "w"), name, "it takes no more records")
            driver.end()

    def test_several_batches_travel_at_a_time(self):
        server = self.server()
        server.answer_delay = 0.02
        driver = self.producer(server, batch_bytes=220, max_in_flight=3)
        driver.ok("send", 300, 0, "v")
        driver.ok("flush", 30000)
        self.assertEqual(server.values(), [f"v{i}" for i in range(300)])
        answered = [r[1] - r[2] - 1 for r in server.requests]  # under way when it was sent
        self.assertTrue(1 <= max(answered) < 3, answered)
        driver.end()

    def test_a_lost_stream_leaves_the_outcome_open_and_goes_on(self):
        server = self.server()
        seen = []

        def lose(row):
            seen.append(row.values[0])
            return "lost" if len(seen) == 10 else None

        server.on_row = lose
        driver = self.producer(server, batch_bytes=220)
        driver.ok("send", 300, 0, "v")
        driver.ok("flush", 30000)
        reports = driver.reports()
        self.assertEqual(len(reports), 300)
        lost = [n for n, r in reports.items() if r[0] == "CONNECTION_LOST"]
        self.assertTrue(lost)
        self.assertEqual({r[0] for r in reports.values()}, {"OK", "CONNECTION_LOST"})
        self.assertTrue(all(reports[n][1] & INDEFINITE for n in lost))
        stored = [int(v[1:]) for v in server.values()]
        self.assertEqual(stored, sorted(set(stored)), "stored twice, or out of order")
        self.assertEqual([n for n in range(300) if n not in lost], [n for n in stored if n not in lost])
        self.assertTrue(set(lost) & set(stored), "the batch behind which the stream ended was stored")
        driver.end()

    def test_one_server_of_two_is_dead(self):
        server = self.server()
        driver = self.producer(f"127.0.0.1:{closed_port()},{server.address}")
        driver.ok("send", 10, 0, "v")
        driver.ok("flush", 30000)
        self.assertEqual(server.values(), [f"v{i}" for i in range(10)])
        driver.end()

    def test_a_server_that_listens_and_says_nothing(self):
        server = self.server()
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen(16)
            address = f"127.0.0.1:{mute.getsockname()[1]}"
            driver = self.producer(f"{address},{server.address}")
            driver.ok("send", 1, 0, "v")
            driver.ok("flush", 30000)
            server.leader = ("127.0.0.1", mute.getsockname()[1], 7)
            other = self.producer(server, timeout_ms=300)
            other.ok("send", 1, 0, "w")
            other.ok("flush", 30000)
            code, traits, *_ = other.reports()[0]
            self.assertIn(code, ("UNAVAILABLE", "TIMED_OUT"))
            self.assertEqual(traits & INDEFINITE, 0)
            other.end()
        self.assertEqual(server.values(), ["v0"])
        driver.end()

    def test_the_leader_moves(self):
        old, new = self.server(), self.server()
        new.node_id = 2
        driver = self.producer(old, {"backoff_min_ms": 1})
        driver.ok("send", 10, 0, "v")
        driver.ok("flush", 30000)
        old.on_row = lambda row: NOT_LEADER
        old.leader = ("127.0.0.1", new.port, 2)
        driver.ok("send", 10, 0, "w")
        driver.ok("flush", 30000)
        self.assertEqual(old.values(), [f"v{i}" for i in range(10)])
        self.assertEqual(new.values(), [f"w{i}" for i in range(10)])
        self.assertEqual({r[0] for r in driver.reports().values()}, {"OK"})
        driver.end()

    def test_the_leader_dies_and_another_takes_over(self):
        old, new = FakeServer(), self.server()
        old.leader = new.leader = ("127.0.0.1", old.port, 1)
        driver = self.producer(f"{old.address},{new.address}", {"backoff_min_ms": 1})
        driver.ok("send", 1, 0, "v")
        driver.ok("flush", 30000)
        old.stop()
        new.leader = ("127.0.0.1", new.port, 2)
        driver.ok("send", 10, 0, "w")
        driver.ok("flush", 30000)
        reports = driver.reports()
        self.assertEqual(len(reports), 11)
        lost = sum(r[0] == "CONNECTION_LOST" for r in reports.values())
        self.assertEqual(new.values(), [f"w{i}" for i in range(10)][lost:])
        driver.end()

    def test_a_server_comes_back(self):
        server = FakeServer()
        port = server.port
        driver = self.producer(server, {"backoff_min_ms": 1})
        driver.ok("send", 1, 0, "v")
        driver.ok("flush", 30000)
        server.stop()
        driver.ok("send", 20, 0, "w")
        again = self.server(port=port)
        driver.ok("flush", 30000)
        reports = driver.reports()
        lost = [n for n, r in reports.items() if r[0] == "CONNECTION_LOST"]
        self.assertEqual({r[0] for r in reports.values()} - {"OK", "CONNECTION_LOST"}, set())
        self.assertEqual(again.values(), [f"w{n - 1}" for n in range(1, 21) if n not in lost])
        driver.end()

    def test_no_answer_in_time(self):
        """What was sent is in doubt; what was not sent goes on or fails for certain."""
        server = self.server()
        server.on_row = lambda row: "drop"
        driver = self.producer(server, timeout_ms=400, batch_bytes=220, max_in_flight=2)
        driver.ok("send", 60, 0, "v")
        driver.ok("flush", 30000)
        reports = driver.reports()
        self.assertEqual({r[0] for r in reports.values()}, {"TIMED_OUT"})
        in_doubt = [n for n, r in reports.items() if r[1] & INDEFINITE]
        self.assertEqual(in_doubt, list(range(len(in_doubt))))
        self.assertTrue(0 < len(in_doubt) < 60)
        self.assertEqual(server.values(), [])
        driver.end()

    def test_a_server_that_cannot_be_reached_was_sent_nothing(self):
        server = FakeServer()
        driver = self.producer(server, timeout_ms=500)
        server.stop()
        time.sleep(0.2)
        driver.ok("send", 5, 0, "v")
        driver.ok("flush", 30000)
        codes = {(r[0], r[1] & INDEFINITE) for r in driver.reports().values()}
        self.assertLessEqual(codes, {("UNAVAILABLE", 0), ("CONNECTION_LOST", INDEFINITE)})
        driver.end()

    def test_acks_that_come_late_do_not_stop_the_others(self):
        server = self.server()
        server.on_row = lambda row: TIMED_OUT if "v7" in row.values else None
        driver = self.producer(server, batch_bytes=100)
        driver.ok("send", 30, 0, "v")
        driver.ok("flush", 30000)
        bad = [n for n, r in driver.reports().items() if r[0] == "TIMED_OUT"]
        self.assertIn(7, bad)
        self.assertLess(len(bad), 5)
        self.assertTrue(all(driver.reports()[n][1] & INDEFINITE for n in bad))
        driver.end()

    def test_purge(self):
        server = self.server()
        server.on_row = lambda row: "drop"
        driver = self.producer(server, batch_bytes=220, max_in_flight=1)
        driver.ok("send", 60, 0, "v")
        self.assertEqual(driver("flush", 200), "TIMED_OUT")
        driver.ok("purge", 1)
        driver.wait(lambda d: len(d.lines) >= 50, "reports of what was queued")
        self.assertEqual({(r[0], r[1] & INDEFINITE) for r in driver.reports().values()}, {("CANCELLED", 0)})
        driver.ok("purge", 2)
        driver.ok("flush", 30000)
        self.assertEqual({(r[0], r[1] & INDEFINITE) for r in driver.reports().values()}, {("CANCELLED", 0), ("CANCELLED", INDEFINITE)})
        server.on_row = None
        driver.ok("send", 3, 0, "w")
        driver.ok("flush", 30000)
        self.assertEqual(server.values(), ["w0", "w1", "w2"])
        driver.end()

    def test_close_fails_what_is_left(self):
        server = self.server()
        server.on_row = lambda row: "drop"
        driver = self.producer(server, batch_bytes=220)
        driver.ok("send", 300, 0, "v")
        driver.ok("close", 100)
        reports = driver.reports()
        self.assertEqual(len(reports), 300)
        self.assertEqual({r[0] for r in reports.values()}, {"CANCELLED"})
        driver.end()

    def test_close_under_sends_that_wait(self):
        server = self.server()
        server.on_row = lambda row: "drop"
        driver = self.producer(server, window_records=20, batch_bytes=100)
        driver.ok("blocked", 6, 0, 500)
        self.assertEqual(driver.of("callback"), [["CANCELLED"]] * 6)
        self.assertEqual({r[0] for r in driver.reports().values()}, {"CANCELLED"})
        self.assertEqual(len(driver.reports()), 20)
        driver.end()

    def test_a_window_for_one_record(self):
        server = self.server()
        driver = self.producer(server, window_bytes=1, batch_bytes=1)
        driver.ok("send", 20, 0, "v")
        driver.ok("flush", 30000)
        self.assertEqual(server.values(), [f"v{i}" for i in range(20)])
        self.assertEqual(len(server.requests), 20)
        driver.end()

    def test_callbacks_may_send_and_never_wait(self):
        server = self.server()
        driver = self.producer(server, resend=1)
        driver.ok("send", 1, 0, "v")
        driver.wait(lambda d: len(d.lines) >= 3, "the report of what the callback sent")
        self.assertEqual(driver.of("callback"), [["OK", "WOULD_BLOCK", "WOULD_BLOCK"]])
        self.assertEqual(server.values(), ["v0", "again"])
        driver.end()

    def test_the_window_is_bounded_in_records(self):
        server = self.server()
        server.on_row = lambda row: "drop"
        driver = self.producer(server, window_records=5)
        driver.ok("try", 5, 0, "v")
        self.assertEqual(driver("try", 1, 0, "v"), "WOULD_BLOCK")
        driver.end()

    def test_a_topic_grows(self):
        server = self.server()
        driver = self.producer(server, {"refresh_ms": 50}, spread=1)
        self.assertEqual(driver("send", 3, -1, "v"), "UNKNOWN_PARTITION")
        server.count = 3
        deadline = time.monotonic() + 30
        while driver("send", 3, -1, "v") != "ok":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        driver.ok("flush", 30000)
        self.assertEqual(server.values(2), ["v2"])
        driver.end()

    def test_keyless_records_avoid_a_partition_that_is_stuck(self):
        server = self.server(partitions=3)
        server.on_row = lambda row: "drop" if row.partition == 1 else None
        driver = self.producer(server, batch_bytes=20000, max_in_flight=1)
        for _ in range(40):
            driver.ok("send", 10, -1, "v", 1000)
            time.sleep(0.005)
        driver.wait(lambda d: len(d.lines) > 270, "two thirds of the reports, and more")
        driver.kill()

    def test_threads_share_a_producer(self):
        server = self.server()
        driver = self.producer(server, batch_bytes=1000, window_bytes=20000)
        driver.ok("threads", 8, 500, 0)
        driver.ok("flush", 30000)
        stored = [tuple(map(int, v.split(":"))) for v in server.values()]
        self.assertEqual(len(stored), 4000)
        for thread in range(8):
            self.assertEqual([n for t, n in stored if t == thread], list(range(500)))
        driver.end()

    def test_linger_gathers(self):
        server = self.server(partitions=3)
        driver = self.producer(server, linger_ms=150)
        for i in range(5):
            for p in range(3):
                driver.ok("send", 2, p, f"v{i}-")
        driver.wait(lambda d: len(d.lines) == 30, "all reports without a flush")
        self.assertLess(len(server.requests), 10)
        driver.end()

    def test_a_record_that_no_message_can_hold(self):
        """It is refused before it is sent, and the stream goes on as if it had not been there."""
        server = self.server()
        driver = self.producer(server)
        for i in range(3):
            driver.ok("send", 1, 0, f"large{i}", 3000000)
            driver.ok("send", 1, 0, f"small{i}")
            driver.ok("flush", 30000)
        self.assertEqual([driver.reports()[i][0] for i in range(6)], ["MESSAGE_TOO_LARGE", "OK"] * 3)
        self.assertEqual(server.values(), ["small00", "small10", "small20"])
        self.assertEqual(server.streams, 1)
        driver.end()

    def test_an_answer_that_makes_no_sense(self):
        server = self.server()
        server.shift = 5
        driver = self.producer(server)
        driver.ok("send", 1, 0, "v")
        driver.ok("flush", 30000)
        self.assertEqual(driver.reports()[0][0], "CONNECTION_LOST")
        driver.end()


class Consuming(Case):
    def setUp(self):
        self.fake = self.server(partitions=3)
        producer = self.producer(self.fake, batch_bytes=400)
        for p in range(3):
            producer.ok("send", 100, p, f"p{p}-")
        producer.ok("flush", 30000)
        producer.end()

    def consumer(self, client=None, **options):
        driver = self.driver(self.fake, **(client or {}))
        driver.ok("consumer", **options)
        return driver

    def test_assign_read_seek_position(self):
        driver = self.consumer()
        self.assertEqual(driver("poll", 1), "WOULD_BLOCK")
        for p in range(3):
            driver.ok("assign", "t", p, -2)
        driver.ok("drain", 10000, 300)
        for p in range(3):
            self.assertEqual(driver.values(p), [f"p{p}-{i}" for i in range(100)])
        driver.ok("position", "t", 1)
        self.assertEqual(driver.of("position"), [["100"]])
        driver.ok("seek", "t", 1, 57)
        driver.ok("drain", 10000, 43)
        self.assertEqual(driver.values(1)[100:], [f"p1-{i}" for i in range(57, 100)])
        self.assertEqual(driver("seek", "t", 4, 1), "NOT_FOUND")
        self.assertEqual(driver("assign", "t", 9, 0), "UNKNOWN_PARTITION")
        driver.ok("closec")
        driver.end()

    def test_pause_resume_unassign(self):
        driver = self.consumer()
        driver.ok("assign", "t", 0, -2)
        driver.ok("poll", 10000)
        driver.ok("pause", "t", 0)
        before = len(driver.values(0))
        self.assertEqual(driver("poll", 300), "WOULD_BLOCK")
        driver.ok("assign", "t", 1, -2)
        driver.ok("drain", 10000, 100)
        self.assertEqual((len(driver.values(0)), len(driver.values(1))), (before, 100))
        driver.ok("resume", "t", 0)
        driver.ok("drain", 10000, 100 - before)
        self.assertEqual(driver.values(0), [f"p0-{i}" for i in range(100)])
        driver.ok("unassign", "t", 0)
        self.assertEqual(driver("unassign", "t", 0), "NOT_FOUND")
        driver.end()

    def test_new_records_arrive(self):
        driver = self.consumer()
        driver.ok("assign", "t", 0, -1)
        driver.start("drain", 30000, 5)
        producer = self.producer(self.fake)
        producer.ok("send", 5, 0, "new")
        self.assertEqual(driver.answer()[0], "ok")
        self.assertEqual(driver.values(), [f"new{i}" for i in range(5)])
        producer.end()
        driver.end()

    def test_a_broken_stream_goes_on_where_it_stood(self):
        inner, broken = FakeServer.FetchStream, []

        def breaking(server, request, context):
            server.on_fetch = None
            for response in inner(server, request, context):
                for row in response.partitions:  # one batch, then the end
                    length = int.from_bytes(row.batches[8:12], "big") + 12
                    row.batches = row.batches[:length]
                server.on_fetch = breaking if len(broken) < 4 else None
                broken.append(1)
                yield response
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        self.fake.on_fetch = breaking
        driver = self.consumer({"backoff_min_ms": 1})
        driver.ok("assign", "t", 0, -2)
        driver.ok("drain", 20000, 100)
        self.assertEqual(driver.values(), [f"p0-{i}" for i in range(100)])
        self.assertGreaterEqual(len(broken), 4)
        driver.end()

    def test_errors_of_rows(self):
        def failing(server, request, context):
            response = pb.FetchResponse()
            for row in request.partitions:
                if row.partition == 0:
                    error = pb.Error(code=pb.OFFSET_OUT_OF_RANGE, message="t-0: no such offset")
                else:
                    error = pb.Error(code=pb.UNAVAILABLE, message="wait", retriable=True, retry_after_ms=1)
                    server.on_fetch = None
                response.partitions.add(topic="t", partition=row.partition, error=error, high_watermark=-1)
            yield response

        self.fake.on_fetch = failing
        driver = self.consumer()
        driver.ok("assign", "t", 0, 100000)
        self.assertEqual(driver("poll", 10000), "OFFSET_OUT_OF_RANGE")
        self.assertEqual(driver("poll", 50), "WOULD_BLOCK")
        driver.ok("assign", "t", 1, -2)
        driver.ok("drain", 10000, 100)
        driver.ok("seek", "t", 0, 98)
        driver.ok("drain", 10000, 2)
        self.assertEqual(driver.values(0), ["p0-98", "p0-99"])
        driver.end()

    def test_damage_is_told_behind_what_is_whole(self):
        base, last, batch = self.fake.logs[0].batches[3]
        self.fake.logs[0].batches[3] = (base, last, batch[:-2] + bytes([batch[-2] ^ 1]) + batch[-1:])
        driver = self.consumer()
        driver.ok("assign", "t", 0, -2)
        driver.ok("assign", "t", 1, -2)
        while (code := driver("poll", 10000)) == "ok":
            pass
        self.assertEqual(code, "DATA_LOSS")
        self.assertEqual(driver.values(0), [f"p0-{i}" for i in range(base)])
        driver.ok("drain", 10000, 100 - len(driver.values(1))) if len(driver.values(1)) < 100 else None
        self.assertEqual(driver.values(1), [f"p1-{i}" for i in range(100)])
        driver.ok("seek", "t", 0, last + 1)
        driver.ok("drain", 10000, 99 - last)
        driver.end()

    def test_prefetch_is_bounded(self):
        sent = []
        batch = self.fake.logs[0].batches[0][2]

        def flood(_server, request, context):
            base = 0
            count = self.fake.logs[0].batches[0][1] + 1
            while context.is_active() and base < 4000 * count:
                data = b""
                for _ in range(400):
                    data += base.to_bytes(8, "big") + batch[8:]
                    base += count
                sent.append(len(data))
                yield pb.FetchResponse(partitions=[pb.FetchResult(topic="t", partition=0, batches=data)])

        self.fake.on_fetch = flood
        driver = self.consumer(prefetch_bytes=300000)
        driver.ok("assign", "t", 0, 0)
        driver.ok("drain", 10000, 4000 * (self.fake.logs[0].batches[0][1] + 1))
        offsets = [int(r[2]) for r in driver.of("record")]
        self.assertEqual(offsets, list(range(len(offsets))))
        driver.end()

    def test_the_window_is_bounded(self):
        """What a server may send ahead of a program that does not poll: prefetch and window, a message on top of each."""
        sent = []
        batch = self.fake.logs[0].batches[0][2]

        def flood(_server, request, context):
            base = 0
            count = self.fake.logs[0].batches[0][1] + 1
            while context.is_active():
                data = bytearray()
                while len(data) < 100000:
                    data += base.to_bytes(8, "big") + batch[8:]
                    base += count
                sent.append(len(data))
                yield pb.FetchResponse(partitions=[pb.FetchResult(topic="t", partition=0, batches=bytes(data))])

        self.fake.on_fetch = flood
        driver = self.consumer({"receive_window_bytes": 400000}, prefetch_bytes=300000)
        driver.ok("assign", "t", 0, 0)
        before = -1
        while before != len(sent) or sum(sent) < 300000:
            before = len(sent)
            time.sleep(0.5)
        self.assertLess(sum(sent), 300000 + 400000 + 4 * max(sent))
        driver.ok("drain", 10000, 3)
        driver.end()

    def test_wakeup(self):
        driver = self.consumer()
        driver.ok("assign", "t", 0, -1)
        driver.ok("cancel", 100)
        self.assertEqual(driver("poll", 60000), "CANCELLED")
        self.assertEqual(driver("poll", 1), "WOULD_BLOCK")
        driver.end()


class Real(harness.TestCase):
    """The same against a node."""

    def setUp(self):
        super().setUp()
        self.host = self.node(sets=[f"plugins.transport_grpc.port={closed_port()}"]).start()
        self.driver = Driver(self.host.server, backoff_min_ms=5, backoff_max_ms=100)
        self.addCleanup(self.driver.kill)
        self.driver.ok("create", "t", 2)

    def read_back(self, count):
        """All records, which are at least `count`."""
        self.driver.ok("consumer")
        self.driver.ok("assign", "t", 0, -2)
        self.driver.ok("drain", 20000, count)
        while self.driver("poll", 300) == "ok":
            pass
        return [(int(r[2]), r[3]) for r in self.driver.of("record")]

    def test_a_node_is_killed_again_and_again(self):
        driver = self.driver
        driver.ok("producer", batch_bytes=2000)
        driver.ok("topic", "t")
        for _ in range(3):
            driver.start("send", 5000, 0, "v")
            driver.wait(lambda d: d.lines and d.lines[-1][4] == "OK", "the first acks")
            self.host.kill()
            self.host.start()
            self.assertEqual(driver.answer()[0], "ok")
        driver.ok("flush", 60000)
        reports = driver.reports()
        self.assertEqual(len(reports), 15000)
        self.assertEqual({r[0] for r in reports.values()} - {"OK", "CONNECTION_LOST"}, set())
        self.assertTrue(all(r[1] & INDEFINITE for r in reports.values() if r[0] != "OK"))
        lost = sum(r[0] != "OK" for r in reports.values())
        stored = dict(self.read_back(15000 - lost))
        for sequence, (code, _, offset, _) in reports.items():
            if code == "OK":
                self.assertEqual(stored[offset], f"v{sequence % 5000}")
        offsets = [reports[n][2] for n in sorted(reports) if reports[n][0] == "OK"]
        self.assertEqual(offsets, sorted(offsets))
        self.assertLessEqual(len(stored), 15000)
        driver.end()

    def test_a_node_that_stands_still(self):
        driver = self.driver
        driver.ok("producer", batch_bytes=2000, timeout_ms=2000, max_in_flight=2)
        driver.ok("topic", "t")
        driver.ok("send", 10, 0, "v")
        driver.ok("flush", 10000)
        self.host.process.send_signal(signal.SIGSTOP)
        try:
            driver.ok("send", 2000, 0, "w")
            driver.ok("flush", 20000)
        finally:
            self.host.process.send_signal(signal.SIGCONT)
        reports = driver.reports()
        done = sum(r[0] == "OK" for r in reports.values())  # a batch may have been faster than the signal
        self.assertEqual({r[0] for r in reports.values()}, {"OK", "TIMED_OUT"})
        in_doubt = [n for n, r in reports.items() if r[1] & INDEFINITE]
        self.assertTrue(0 < len(in_doubt) < 2000)
        driver.ok("describe", "t")
        driver.ok("send", 10, 0, "x")
        driver.ok("flush", 20000)
        read = self.read_back(20)
        values = [v for _, v in read]
        self.assertEqual(values[:10] + values[-10:], [f"v{i}" for i in range(10)] + [f"x{i}" for i in range(10)])
        self.assertEqual(values[10:-10], [f"w{i}" for i in range(len(values) - 20)])
        self.assertLessEqual(len(values) - 10, done + len(in_doubt))
        driver.end()

    def test_a_reader_outlives_its_node(self):
        driver = self.driver
        driver.ok("producer")
        driver.ok("topic", "t")
        driver.ok("consumer")
        driver.ok("assign", "t", 0, -2)
        for round_number in range(3):
            driver.ok("send", 100, 0, f"r{round_number}-")
            driver.ok("flush", 20000)
            driver.ok("drain", 20000, 100)
            self.host.restart()
        values = driver.values(0)
        self.assertEqual(values, [f"r{r}-{i}" for r in range(3) for i in range(100)])
        driver.end()

    @unittest.skipUnless(harness.FULL, "its timeouts are long enough for a busy machine")
    def test_a_reader_of_a_node_that_stands_still(self):
        driver = self.driver
        driver.ok("producer")
        driver.ok("topic", "t")
        driver.ok("send", 10, 0, "v")
        driver.ok("flush", 20000)
        driver.ok("consumer", max_wait_ms=100, timeout_ms=3000)
        driver.ok("assign", "t", 0, 0)
        driver.ok("drain", 20000, 10)
        self.assertEqual(driver("poll", 4000), "WOULD_BLOCK", "a quiet node is no dead one")
        self.host.process.send_signal(signal.SIGSTOP)
        try:
            self.assertEqual(driver("poll", 30000), "TIMED_OUT")
        finally:
            self.host.process.send_signal(signal.SIGCONT)
        driver.ok("seek", "t", 0, 5)
        driver.ok("drain", 20000, 5)
        driver.end()

    def test_waiting_for_a_topic(self):
        self.driver.ok("await", "t", 10000)
        self.assertEqual(self.driver("await", "later", 200), "TIMED_OUT")
        other = Driver(self.host.server)
        self.addCleanup(other.kill)
        other.start("await", "later", 30000)
        time.sleep(0.2)
        self.driver.ok("create", "later", 1)
        self.assertEqual(other.answer()[0], "ok")
        other.ok("cancel", 200)
        self.assertEqual(other("await", "never", 30000), "CANCELLED")
        other.end()
        self.driver.end()

    def test_many_small_topics(self):
        driver = self.driver
        driver.ok("producer")
        for i in range(40):
            driver.ok("create", f"many-{i}", 3)
            driver.ok("topic", f"many-{i}")
            driver.ok("send", 3, -1, "v")
        driver.ok("flush", 30000)
        reports = driver.reports()
        self.assertEqual((len(reports), {r[0] for r in reports.values()}), (120, {"OK"}))
        driver.ok("consumer")
        for i in range(40):
            for p in range(3):
                driver.ok("assign", f"many-{i}", p, 0)
        driver.ok("drain", 30000, 120)
        driver.ok("closec")
        driver.end()

    def test_names_count_in_a_message(self):
        """Many small batches of a topic with a long name are not gathered into more than a server takes."""
        host = self.node("narrow", sets=["broker.max_message_bytes=65536", "plugins.transport_grpc.max_message_bytes=65536"]).start()
        driver = Driver(host.server, timeout_ms=20000)
        self.addCleanup(driver.kill)
        driver.ok("create", "n" * 249, 500)
        driver.ok("producer", linger_ms=500)
        driver.ok("topic", "n" * 249)
        for i in range(500):
            driver.ok("send", 1, i, "v")
        driver.ok("flush", 30000)
        self.assertEqual([r[0] for r in driver.reports().values()], ["OK"] * 500)
        driver.end()


class Asking(Case):
    def test_cancel_and_timeout_of_a_server_that_does_not_answer(self):
        server = self.server()
        release = threading.Event()
        self.addCleanup(release.set)
        ask = server.DescribeTopic
        server.DescribeTopic = None
        FakeServer.DescribeTopic, kept = (lambda self, request, context: release.wait(30) and ask(request, context)), FakeServer.DescribeTopic
        self.addCleanup(setattr, FakeServer, "DescribeTopic", kept)
        server = self.server()
        driver = self.driver(server)
        driver.ok("cancel", 200)
        began = time.monotonic()
        self.assertEqual(driver("describe", "t"), "CANCELLED")
        self.assertLess(time.monotonic() - began, 15)
        driver.end()
        driver = self.driver(server, timeout_ms=300)
        self.assertEqual(driver("describe", "t"), "TIMED_OUT")
        driver.end()


if __name__ == "__main__":
    harness.main()
