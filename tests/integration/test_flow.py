#!/usr/bin/python3
"""Who may do what, and how much: an auth plugin from a file of its own, quotas, shares, the audit log."""

import os
import re
import select
import signal
import struct
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402
import http2  # noqa: E402
import record_batch  # noqa: E402
from grpc_client import Client, grpc, pb, status_error  # noqa: E402

AUTH = os.path.join(harness.BUILD, "tests", "plugins", "auth_list.so")
LIST = """
  auth_list: {
    file = "%s";
    users: ( { token = "root-token"; principal = "User:root"; }, { token = "bob-token"; principal = "User:bob"; } );
    rights: ( { principal = "User:root"; operation = "all"; }, { principal = "User:bob"; operation = "write"; topic = "in"; } %s );
  };
"""


class Flow(harness.TestCase):
    def config(self, broker="", plugins=""):
        """etc/standalone.cfg with more in its groups."""
        text = harness.read(harness.CONFIG).decode()
        text, count = re.subn(r"(?m)^broker *[:=] *{", "broker: { " + broker, text)
        text += "" if count else "\nbroker: { " + broker + " };\n"
        text, count = re.subn(r"(?m)^plugins *[:=] *{", "plugins: { " + plugins, text)
        self.assertEqual(count, 1)
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def refused(self, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, timeout=30, **kwargs)
        name, sentence, error = status_error(caught.exception)
        return name, sentence, error

    def scrape(self, node):
        with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


class Rights(Flow):
    def test_list(self):
        broker = 'auth = "auth_list";'
        node = self.node(config=self.config(broker, LIST % (AUTH, "")))
        node.start()
        root, bob = [("authorization", "Bearer root-token")], [("authorization", "Bearer bob-token"), ("x-client-id", "b")]
        with Client(node) as client:
            for name in ("in", "out"):
                client.api.CreateTopic(pb.CreateTopicRequest(name=name, partitions=1), timeout=30, metadata=root)
            batch = record_batch.encode([b"x"])
            request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
            for name in ("in", "out", "nowhere"):
                request.partitions.add(topic=name, batch=batch)
            rows = client.api.Produce(request, timeout=30, metadata=bob).partitions
            self.assertFalse(rows[0].HasField("error"))
            self.assertEqual([r.error.code for r in rows[1:]], [pb.PERMISSION_DENIED] * 2)
            self.assertEqual(rows[1].error.message, "User:bob may not write to topic out")
            self.assertFalse(rows[1].error.retriable)
            name, sentence, _ = self.refused(client.api.DescribeTopic, pb.DescribeTopicRequest(name="in"), metadata=bob)
            self.assertEqual((name, sentence), ("PERMISSION_DENIED", "User:bob may not describe topic in"))
            self.assertEqual(list(client.api.ListTopics(pb.ListTopicsRequest(), timeout=30, metadata=bob).topics), [])
            self.assertEqual(len(client.api.ListTopics(pb.ListTopicsRequest(), timeout=30, metadata=root).topics), 2)
            name, sentence, _ = self.refused(client.api.DeleteTopic, pb.DeleteTopicRequest(name="in"),
                                             metadata=bob + [("x-trace-id", "trace-of-bob")])
            self.assertEqual((name, sentence), ("PERMISSION_DENIED", "User:bob may not delete topic in"))
            name, _, _ = self.refused(client.api.ListTopics, pb.ListTopicsRequest(), metadata=[("authorization", "Bearer nobody")])
            self.assertEqual(name, "UNAUTHENTICATED")
            stream = client.api.ProduceStream(iter([pb.ProduceStreamRequest(id=1)]), timeout=30,
                                              metadata=[("authorization", "Bearer nobody")])
            with self.assertRaises(grpc.RpcError) as caught:
                list(stream)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
            row = client.fetch("in", 0, 0)  # nobody has no rights, but is somebody
            self.assertEqual(row.error.message, "User:anonymous may not read topic in")
        line = next(entry for entry in node.logs() if entry.get("event") == "topic_change_refused")
        self.assertEqual((line["principal"], line["client_id"], line["trace_id"], line["operation"], line["topic"], line["code"]),
                         ("User:bob", "b", "trace-of-bob", "delete", "in", "PERMISSION_DENIED"))
        self.assertTrue(line["peer"].startswith("127.0.0.1:"))
        self.assertEqual([e["topic"] for e in node.logs() if e.get("event") == "topic_created"], ["in", "out"])
        # A right that is given later holds from the next call on.
        self.config(broker, LIST % (AUTH, ', { principal = "User:bob"; operation = "read"; topic = "in"; }'))
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("reloaded")
        with Client(node) as client:
            fetched = client.api.Fetch(pb.FetchRequest(partitions=[pb.FetchPartition(topic="in")]), timeout=30, metadata=bob)
            self.assertFalse(fetched.partitions[0].HasField("error"))

    def test_plugin_that_is_not_named(self):
        node = self.node(config=self.config("", LIST % (AUTH, "")))
        node.start(wait=False)
        self.assertNotEqual(node.process.wait(30), 0)
        node._ended()
        self.assertIn('set broker.auth = \\"auth_list\\"', node.log_text())


class Quotas(Flow):
    def put(self, client, size, client_id):
        """Produce once. Returns the row's error, or None."""
        request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
        request.partitions.add(topic="t", batch=record_batch.encode([os.urandom(size)]))
        row = client.api.Produce(request, timeout=30, metadata=[("x-client-id", client_id)]).partitions[0]
        return row.error if row.HasField("error") else None

    def test_rates_and_reload(self):
        node = self.node(config=self.config('quotas: ( { client_id = "slow"; produce_bytes_per_s = 1000; } );'))
        node.start()
        with Client(node) as client:
            client.create("t")
            self.assertIsNone(self.put(client, 1000000, "slow"))  # on credit: a thousand seconds of its quota
            error = self.put(client, 10, "slow")
            self.assertEqual(error.code, pb.THROTTLED)
            self.assertTrue(500000 < error.retry_after_ms < 1000000, error)
            self.assertTrue(error.retriable)
            self.assertIsNone(self.put(client, 1000000, "fast"))
            self.assertIsNone(self.put(client, 10, "fast"))
            name = 'streamit_quota_throttled_total{quota="produce_bytes_per_s",by="client_id"}'
            self.assertEqual(self.scrape(node)[name], 1)
            self.assertEqual(self.scrape(node)["streamit_quota_entities"], 1)
            # A thousand times the rate: who waits, waits a thousandth of what is left.
            self.config('quotas: ( { client_id = "slow"; produce_bytes_per_s = "1M"; } );')
            node.process.send_signal(signal.SIGHUP)
            node.wait_log("reloaded")
            error = self.put(client, 10, "slow")
            while error is not None:
                self.assertLess(error.retry_after_ms, 2000)
                time.sleep(error.retry_after_ms / 1000)
                error = self.put(client, 10, "slow")
            self.config('quotas: ( { client_id = "a"; principal = "b"; } );')
            node.process.send_signal(signal.SIGHUP)
            self.assertIn("expected either client_id or principal", str(node.wait_log("reload_refused")))
        line = node.wait_log("quota_exceeded")
        self.assertEqual((line["quota"], line["client_id"], line["per_s"]), ("produce_bytes_per_s", "slow", 1000))

    def test_our_own_client_waits_as_told(self):
        """The command line under a quota: slower, and complete."""
        rows = 'quotas: ( { principal = "*"; produce_bytes_per_s = 200000; fetch_bytes_per_s = 400000; } ); quota_window_ms = 100;'
        node = self.node(config=self.config(rows))
        node.start()
        self.cli(node, "create-topic", "--name", "t")
        data = b"".join(b"%06d %s\n" % (i, b"x" * 90) for i in range(2000))  # 196 KB
        began = time.monotonic()
        self.cli(node, "produce", "--topic", "t", "--batch-bytes", "16384", data=data)
        self.assertGreater(time.monotonic() - began, 0.5)  # all but the last batch, less what 100 ms give, at 200 KB/s
        read = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end")
        self.assertEqual(read.out_bytes, data)

    def test_our_own_client_says_when_a_wait_is_too_long(self):
        """A byte a second: what would take days is an error within --timeout-ms, with what was told."""
        rows = 'quotas: ( { client_id = "*"; produce_bytes_per_s = 1; fetch_bytes_per_s = 1; } ); quota_window_ms = 1;'
        node = self.node(config=self.config(rows))
        node.start()
        self.cli(node, "create-topic", "--name", "t")
        data = b"x" * 100 + b"\n"
        began = time.monotonic()
        for command in (["produce", "--topic", "t"], ["consume", "--topic", "t", "--from", "beginning", "--until-end"]):
            first = self.cli(node, *command, data=data * 3 if command[0] == "produce" else None, status=None,
                             options=("--timeout-ms", "20000"))
            second = self.cli(node, *command, data=data if command[0] == "produce" else None, status=1,
                              options=("--timeout-ms", "20000"))
            self.assertIn("error: THROTTLED: ", second.err, first)
            self.assertIn("is over its quota of %s_bytes_per_s = 1" % {"p": "produce", "c": "fetch"}[command[0][0]], second.err)
        self.assertLess(time.monotonic() - began, 60)

    def test_calls(self):
        node = self.node(config=self.config('quotas: ( { client_id = "*"; requests_per_s = 1; } );'))
        node.start()
        failure = None
        with Client(node) as client:
            for _ in range(1000):
                try:
                    client.api.ListTopics(pb.ListTopicsRequest(), timeout=30, metadata=[("x-client-id", "busy")])
                except grpc.RpcError as caught:
                    failure = caught
                    break
            name, sentence, error = status_error(failure)
            self.assertEqual((name, sentence), ("THROTTLED", 'client id "busy" is over its quota of requests_per_s = 1'))
            self.assertEqual(failure.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertGreater(error.retry_after_ms, 0)
            client.api.ListTopics(pb.ListTopicsRequest(), timeout=30, metadata=[("x-client-id", "calm")])

    def test_many_ids(self):
        """Thousands of names cost the room of a hundred."""
        rows = 'quotas: ( { client_id = "*"; requests_per_s = 1000; } ); quota_entities_max = 128;'
        node = self.node(config=self.config(rows))
        node.start()
        with Client(node) as client:
            for begin in range(0, 3000, 500):
                calls = [client.api.ListTopics.future(pb.ListTopicsRequest(), timeout=60, metadata=[("x-client-id", f"c{i}")])
                         for i in range(begin, begin + 500)]
                for call in calls:
                    call.result()
        scraped = self.scrape(node)
        self.assertLessEqual(scraped["streamit_quota_entities"], 128)
        self.assertGreaterEqual(scraped["streamit_quota_evictions_total"], 3000 - 128)


class Flood(Flow):
    def test_polite_beside_a_flood(self):
        """One connection sends as fast as it can and waits for nothing; another one, call by call, is always served."""
        node = self.node(sets=["broker.inflight_bytes_max=1048576"])
        node.start()
        stop = threading.Event()
        batch = record_batch.encode([os.urandom(60000)])
        put_off = [0]

        def flood():
            with Client(node) as client:
                while not stop.is_set():
                    request = pb.ProduceRequest(acks=pb.ACKS_LEADER)
                    request.partitions.add(topic="t", batch=batch)
                    calls = [client.api.Produce.future(request, timeout=60) for _ in range(100)]
                    put_off[0] += sum(call.result().partitions[0].error.code == pb.THROTTLED for call in calls)

        with Client(node) as client:
            client.create("t")
            thread = threading.Thread(target=flood)
            thread.start()
            try:
                end = time.monotonic() + 60
                served = 0
                while served < 50 or (put_off[0] == 0 and time.monotonic() < end):
                    row = client.produce("t", 0, [b"polite"])
                    self.assertFalse(row.HasField("error"), row)
                    served += 1
            finally:
                stop.set()
                thread.join(60)
        self.assertGreater(put_off[0], 0)
        self.assertEqual(self.scrape(node)['streamit_produce_throttled_total{limit="share"}'], put_off[0])


class Slow(http2.Wire):
    """Calls whose messages come as far as the server's windows let them, and never to their end."""

    LARGE, PART = 15 << 20, 16384

    def __init__(self, node, calls):
        super().__init__(node.server)
        self.begin()
        self.room, self.initial, self.input, self.sent = 65535, 65535, b"", 0
        self.calls = {2 * i + 1: 65535 for i in range(calls)}
        for call in self.calls:
            self.headers(call, http2.request("/streamit.v1.StreamIt/Produce"))
            self.put(call, http2.message(b"", self.LARGE))

    def put(self, call, data):
        self.send(http2.frame(http2.DATA, 0, call, data))
        self.calls[call] -= len(data)
        self.room -= len(data)
        self.sent += len(data)

    def read(self):
        if not select.select([self.socket], [], [], 0.01)[0]:
            return
        self.input += self.socket.recv(1 << 20)
        while len(self.input) >= 9 and len(self.input) >= 9 + int.from_bytes(self.input[:3], "big"):
            length, kind, flags = int.from_bytes(self.input[:3], "big"), self.input[3], self.input[4]
            call, body = int.from_bytes(self.input[5:9], "big"), self.input[9 : 9 + length]
            self.input = self.input[9 + length :]
            if kind == http2.WINDOW_UPDATE and call == 0:
                self.room += int.from_bytes(body, "big")
            elif kind == http2.WINDOW_UPDATE and call in self.calls:
                self.calls[call] += int.from_bytes(body, "big")
            elif kind == http2.SETTINGS and flags == 0:
                for key, value in struct.iter_unpack(">HI", body):
                    grown, self.initial = (value - self.initial, value) if key == 4 else (0, self.initial)
                    self.calls = {c: n + grown for c, n in self.calls.items()}
                self.send(http2.frame(http2.SETTINGS, 1, 0))
            elif kind == http2.PING and flags == 0:
                self.send(http2.frame(http2.PING, 1, 0, body))
            elif kind == http2.RST_STREAM:
                self.calls.pop(call, None)

    def push(self):
        for call in list(self.calls):
            if min(self.calls[call], self.room) >= self.PART and self.sent < len(self.calls) * (self.LARGE - self.PART):
                self.put(call, b"x" * self.PART)


class Memory(Flow):
    def test_messages_on_their_way(self):
        """What has arrived of messages that never end is bounded; without that it were 600 MB."""
        limit = 64 << 20
        node = self.node(sets=[f"plugins.transport_grpc.memory_bytes_max={limit}"])
        node.start()
        with Client(node) as client, Slow(node, 40) as slow:
            client.create("t")
            most, before, end = 0, -1, time.monotonic() + 1
            while slow.calls and slow.sent < 2 * limit and time.monotonic() < end:
                slow.read()
                slow.push()
                if slow.sent > before:  # as long as the node takes more
                    before, end = slow.sent, max(end, time.monotonic() + 1)
                with open(f"/proc/{node.process.pid}/status", encoding="ascii") as file:
                    most = max(most, *(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon")))
            if not harness.SANITIZED:  # a sanitizer keeps what is freed, and shadows the rest
                self.assertLess(most, 2 * limit)
            slow.close()
            client.produce("t", 0, [b"x"], timeout=30)


if __name__ == "__main__":
    harness.main()
