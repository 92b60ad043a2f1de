#!/usr/bin/python3
"""Clients that behave badly: each costs only itself. Meanwhile a good client goes on, and what they took comes back."""

import contextlib
import os
import random
import resource
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import http2  # noqa: E402
from grpc_client import Client, grpc, pb  # noqa: E402

SERVICE = "/streamit.v1.StreamIt/"
WAIT_S = 60
# What may stay behind: gRPC keeps some threads and buffers, and the heap the holes between them.
FILES_SLACK = 12
MEMORY_SLACK = 48 << 20
CONNECTION_SLACK = 8 << 10


def status(pid, key):
    """A row of /proc/PID/status, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        row = file.read().rpartition(")")[2].split()
    return (int(row[11]) + int(row[12])) / os.sysconf("SC_CLK_TCK")


class Hostile(harness.TestCase):
    """A node under attack, with a good client beside."""

    sets = ()
    files_max = None

    def setUp(self):
        super().setUp()
        self.host = self.node(sets=self.sets)
        if self.files_max is not None:
            self.host.prefix = ["prlimit", f"--nofile={self.files_max}"]
        self.host.start()
        self.pid = self.host.process.pid
        self.good = Client(self.host)
        self.addCleanup(self.good.close)
        self.good.create("good")
        self.good.create("big", config={"max.message.bytes": "8388608"})
        self.rounds = 0
        for _ in range(20):
            self.round()

    def round(self):
        """What a good client does: append, and read it back."""
        value = b"%d" % self.rounds
        row = self.good.produce("good", 0, [value], timeout=WAIT_S)
        self.assertFalse(row.HasField("error"), row.error)
        back = self.good.read("good", 0, row.base_offset)
        self.assertEqual(back[0].value, value)
        self.rounds += 1

    def files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        return status(self.pid, "RssAnon")

    @contextlib.contextmanager
    def attack(self, memory_most=256 << 20, memory_slack=MEMORY_SLACK):
        """The body attacks. The good client goes on all the while; memory is bounded; files and memory come back."""
        files, memory = self.files(), self.memory()
        over, failures, seen, slowest = threading.Event(), [], [memory], [0]

        def go_on():
            while not over.is_set():
                began = time.monotonic()
                try:
                    self.round()
                except Exception as error:  # noqa: BLE001 - told by the test's own thread
                    failures.append(error)
                    return
                slowest.append(time.monotonic() - began)
                seen.append(self.memory())
                over.wait(0.01)

        before = self.rounds
        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(self.rounds, before)
        self.assertIsNone(self.host.process.poll(), "the node is gone")
        print(f"{self.rounds - before} rounds beside, the slowest {max(slowest):.3f} s, {(max(seen) - memory) >> 20} MB more at "
              "the most", file=sys.stderr)
        if not harness.SANITIZED:  # a sanitizer keeps what is freed, and shadows the rest
            self.assertLess(max(seen), memory + memory_most, "memory of the node")
        self.until(lambda: self.files() <= files + FILES_SLACK, lambda: f"{files} files became {self.files()}")
        if not harness.SANITIZED:
            self.until(lambda: self.memory() <= memory + memory_slack, lambda: f"{memory} bytes became {self.memory()}")
        self.round()

    def until(self, condition, text):
        end = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), end, text())
            time.sleep(0.05)

    def parts(self, *parts):
        for part in parts:
            with self.subTest(part.__name__):
                part()

    def wires(self, count, **kwargs):
        stack = contextlib.ExitStack()
        return stack, [stack.enter_context(http2.Wire(self.host.server, **kwargs)) for _ in range(count)]


class Bytes(Hostile):
    """What is no HTTP/2, or broken HTTP/2."""

    def test_bytes(self):
        self.parts(self.no_http2, self.cut_and_lying_frames, self.bombs, self.slow, self.the_http_port)

    def no_http2(self):
        rng = random.Random(harness.seed())
        greetings = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500), b"\0" * 4096,
                     http2.PREFACE[:10], http2.PREFACE + b"\xff" * 100, http2.PREFACE + http2.PREFACE, b"*1\r\n$4\r\nPING\r\n"]
        with self.attack():
            stack, wires = self.wires(70)
            with stack:
                for i, wire in enumerate(wires):
                    wire.send(greetings[i % len(greetings)] if i < 35 else rng.randbytes(rng.randrange(1, 5000)))
                time.sleep(0.5)

    def cut_and_lying_frames(self):
        start = http2.PREFACE + http2.settings()
        headers = http2.request(SERVICE + "Fetch")
        endings = [
            http2.frame(http2.HEADERS, 4, 1, headers)[:-5],
            http2.frame(http2.HEADERS, 4, 1, headers, length=16384),
            http2.frame(http2.HEADERS, 4, 1, b"\xff" * 200),  # an index that no table has
            http2.frame(http2.HEADERS, 4, 1, b"\x00\x7f\xff\xff\xff\xff\xff\x0f"),
            http2.frame(http2.DATA, 0, 1, b"x", length=(1 << 24) - 1),
            http2.frame(http2.DATA, 0, 77, b"no such stream"),
            http2.frame(http2.SETTINGS, 0, 0, b"12345"),
            http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
            http2.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)),
            http2.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", http2.WINDOW_MOST)) * 2,
            http2.frame(http2.PUSH_PROMISE, 4, 1, headers),
            http2.frame(http2.CONTINUATION, 4, 1, headers),
            http2.frame(http2.GOAWAY, 0, 0, b"\0"),
            http2.frame(200, 255, 9, b"unknown"),
            http2.frame(http2.HEADERS, 4, 2, headers),  # an even stream
            http2.frame(http2.HEADERS, 4, 1, headers) + http2.frame(http2.DATA, 1, 1, b"\0\xff\xff\xff\xffx"),
            http2.frame(http2.HEADERS, 4, 1, headers) + http2.frame(http2.DATA, 1, 1, b"\7\0\0\0\1x"),
            http2.frame(http2.HEADERS, 4, 1, headers) + http2.frame(http2.DATA, 1, 1, http2.message(b"\x0a")),
        ]
        with self.attack():
            for reset in (False, True):
                stack, wires = self.wires(len(endings))
                with stack:
                    for wire, ending in zip(wires, endings):
                        wire.send(start + ending)
                    time.sleep(0.2)
                    for wire in wires:
                        wire.close(reset)

    def bombs(self):
        """Headers without end, headers that grow when they are read, and frames that cost more to take than to send."""
        name = b"\x40" + http2.number(5, 7) + b"bombs" + http2.number(3000, 7) + b"x" * 3000  # into the table, index 62
        ping, rows = http2.frame(http2.PING, 0, 0, b"12345678"), http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 65535))
        headers = http2.request(SERVICE + "ListTopics")
        bombs = [
            http2.frame(http2.HEADERS, 0, 1, http2.request(SERVICE + "Fetch")) +
            http2.frame(http2.CONTINUATION, 0, 1, http2.field("x" * 10, "y" * 8000)) * 500,
            http2.frame(http2.HEADERS, 4, 1, name + b"\xbe" * 13000),
            http2.frame(http2.HEADERS, 4, 1, http2.request(SERVICE + "Fetch", [(f"h{i}", "") for i in range(1500)])),
            ping * 20000, rows * 5000,
            b"".join(http2.frame(http2.PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 0, 1)) for i in range(10000)),
            b"".join(http2.frame(http2.HEADERS, 4, 2 * i + 1, headers) + http2.frame(http2.RST_STREAM, 0, 2 * i + 1, b"\0\0\0\x08")
                     for i in range(3000)),
            b"".join(http2.frame(http2.HEADERS, 4, 2 * i + 1, http2.request("/no.such/Method")) for i in range(2000)),
        ]
        with self.attack():
            stack, wires = self.wires(len(bombs), timeout=2)
            with stack:
                for wire, bomb in zip(wires, bombs):
                    wire.send(http2.PREFACE + http2.settings())
                    wire.send(bomb)
                time.sleep(0.5)

    def slow(self):
        """A byte now and then: of the preface, of a header, of a message."""
        headers = http2.frame(http2.HEADERS, 4, 1, http2.request(SERVICE + "Produce"))
        start = http2.PREFACE + http2.settings()
        with self.attack():
            stack, wires = self.wires(60)
            with stack:
                texts = [start, start + headers, start + headers + http2.frame(http2.DATA, 0, 1, http2.message(b"x" * 50, 100))]
                for wire, skip in zip(wires, [0, len(start), len(start + headers)] * 20):
                    wire.send(texts[2][:skip])
                for i in range(10):
                    for k, wire in enumerate(wires):
                        at = [0, len(start), len(start + headers)][k % 3] + i
                        wire.send(texts[2][at : at + 1])
                    time.sleep(0.05)

    def the_http_port(self):
        with self.attack(), contextlib.ExitStack() as stack:
            for i in range(30):
                wire = stack.enter_context(http2.Wire(self.host.http))
                wire.send([b"GET /metrics HT", b"\0" * 100, b"GET /" + b"a" * 100000,
                           b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nx",
                           b"GET / HTTP/1.1\r\n" + b"H: v\r\n" * 20000][i % 5])
            time.sleep(0.3)


class Calls(Hostile):
    """Calls that a library would let one make, but nobody should."""

    def test_calls(self):
        self.parts(self.answers_that_nobody_reads, self.messages_that_never_end, self.too_large, self.cancelled,
                   self.garbage_in_messages)

    def fill(self, batches):
        for _ in range(batches):
            row = self.good.produce("big", 0, [os.urandom(1 << 20)])
            self.assertFalse(row.HasField("error"), row.error)

    def fetch_request(self, max_bytes):
        request = pb.FetchRequest(max_bytes=max_bytes)
        request.partitions.add(topic="big", partition=0, offset=0)
        return request.SerializeToString()

    def answers_that_nobody_reads(self):
        """Of unary fetches and of streams: what is stored is mapped, not held."""
        self.fill(16)
        with self.attack():
            stack, wires = self.wires(8, receive_buffer=4096)
            with stack:
                for method in ("Fetch", "FetchStream"):
                    for wire in wires:
                        wire.begin(initial_window=http2.WINDOW_MOST)
                        for i in range(16):
                            stream = (1 if method == "Fetch" else 101) + 2 * i
                            wire.headers(stream, http2.request(SERVICE + method))
                            wire.data(stream, http2.message(self.fetch_request(8 << 20)), end=True)
                    time.sleep(0.7)

    def messages_that_never_end(self):
        """Declared large and sent in part, on many streams: what gRPC grants ahead of a message is bounded."""
        with self.attack():
            stack, wires = self.wires(6)
            with stack:
                for method in ("Produce", "ProduceStream", "CreateTopic"):
                    for k, wire in enumerate(wires):
                        wire.begin()
                        for i in range(8):
                            stream = {"Produce": 1, "ProduceStream": 101, "CreateTopic": 201}[method] + 2 * i
                            wire.headers(stream, http2.request(SERVICE + method))
                            declared = [1 << 20, 16 << 20, (1 << 32) - 1][k % 3]
                            wire.data(stream, http2.message(b"\x7a\xff\xff\x3f" + b"x" * 7000, declared))
                time.sleep(1)

    def too_large(self):
        """Refused by the size that is declared, before it is there; the connection goes on."""
        with self.attack(), Client(self.host) as client:
            for size, word in ((17 << 20, "MESSAGE_TOO_LARGE: a request of 178"), (40 << 20, "larger than max")):
                with self.assertRaises(grpc.RpcError) as caught:
                    client.produce("big", 0, b"x" * size)
                self.assertIn(word, caught.exception.details())
            self.assertFalse(client.produce("good", 0, [b"small"]).HasField("error"))

    def cancelled(self):
        """Long polls that are given up: by the hundred at once, and by connections that vanish."""
        request = pb.FetchRequest(max_wait_ms=120000, min_bytes=1000000)
        request.partitions.add(topic="big", partition=0, offset=0)
        with self.attack():
            with Client(self.host) as client:
                for _ in range(5):
                    calls = [client.api.Fetch.future(request, timeout=120) for _ in range(200)]
                    for call in calls:
                        call.cancel()
            stack, wires = self.wires(40)
            with stack:
                for wire in wires:
                    wire.begin()
                    for i in range(10):
                        wire.headers(2 * i + 1, http2.request(SERVICE + "Fetch"))
                        wire.data(2 * i + 1, http2.message(request.SerializeToString()), end=True)
                time.sleep(0.3)
                for i, wire in enumerate(wires):
                    wire.close(reset=i % 2 == 0)

    def garbage_in_messages(self):
        rng = random.Random(harness.seed())
        with self.attack(), Client(self.host) as client:
            for method in ("Produce", "Fetch", "ListOffsets", "CreateTopic", "AlterTopic", "DescribeTopic", "FindLeader"):
                call = client.channel.unary_unary(SERVICE + method)
                for _ in range(20):
                    try:
                        call(rng.randbytes(rng.randrange(200)), timeout=WAIT_S)
                    except grpc.RpcError as error:
                        self.assertNotIn(error.code(), (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), method)


class Connections(Hostile):
    def test_connects(self):
        """Opened and dropped as fast as one thread can."""
        with self.attack():
            for i in range(1000):
                http2.Wire(self.host.server).close(reset=i % 2 == 0)

    def test_idle(self):
        count = 10000 if harness.FULL else 300
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if harness.FULL and soft < count + 100:
            if hard != resource.RLIM_INFINITY and hard < count + 100:
                self.skipTest(f"needs {count + 100} open files")
            resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, hard))
        with self.attack(memory_most=1 << 30, memory_slack=MEMORY_SLACK + count * CONNECTION_SLACK):
            stack, wires = self.wires(count, timeout=WAIT_S)
            with stack:
                for wire in wires:
                    wire.begin()
                time.sleep(1)
                print(f"{count} idle connections: {self.memory() >> 20} MB", file=sys.stderr)


class FewFiles(Hostile):
    """No file left for one more connection: the node neither spins nor stays deaf."""

    files_max = 160

    def test_exhausted(self):
        with self.attack():
            stack = contextlib.ExitStack()
            with stack:
                for _ in range(400):
                    with contextlib.suppress(OSError):
                        stack.enter_context(http2.Wire(self.host.server, timeout=2))
                began, cpu = time.monotonic(), cpu_s(self.pid)
                time.sleep(2)
                used = (cpu_s(self.pid) - cpu) / (time.monotonic() - began)
                self.assertLess(used, 0.8, "of a core")
        with Client(self.host) as other:
            self.assertFalse(other.produce("good", 0, [b"x"]).HasField("error"))


if __name__ == "__main__":
    harness.main()
