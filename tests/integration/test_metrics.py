#!/usr/bin/python3
"""What a node tells of itself: the list of metrics, slow requests, levels of logs, metrics_log, and scrapes under pressure.

    tests/integration/test_metrics.py --write      writes the table of docs/METRICS.md anew
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import faultfs  # noqa: E402
import grpc_client  # noqa: E402
import harness  # noqa: E402

DOC = os.path.join(harness.ROOT, "docs", "METRICS.md")
BEGIN, END = "<!-- table of metrics: begin -->\n", "<!-- table of metrics: end -->\n"
SERIES = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def scrape(node, path="/metrics"):
    connection = http.client.HTTPConnection(node.http, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def families(text):
    """name -> (type, label names, help)"""
    types, helps, labels = {}, {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, types[name] = line.split(" ")
        elif line.startswith("# HELP "):
            name, _, helps[name] = line[7:].partition(" ")
        elif line:
            name, rest, _ = SERIES.match(line).groups()
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            name = base if types.get(base) == "histogram" else name
            labels.setdefault(name, set()).update(k for k, _ in LABEL.findall(rest or "") if k != "le")
    return {name: (kind, sorted(labels.get(name, ())), helps.get(name, "")) for name, kind in types.items()}


def table(found):
    lines = ["| metric | type | labels | what |\n", "| --- | --- | --- | --- |\n"]
    for name in sorted(found):
        kind, labels, text = found[name]
        lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text.rstrip('.')} |\n")
    return "".join(lines)


class Case(harness.TestCase):
    def config(self, extra):
        """The standalone configuration with one more group of plugins, or other lines."""
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("plugins: {\n", "plugins: {\n" + extra, 1))
        return path

    def sample(self, node, series):
        for line in scrape(node)[1].splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no {series}")


def live_families(case):
    node = case.node(config=case.config("  metrics_log: { };\n  peer_sim: { };\n")).start()
    case.cli(node, "create-topic", "--name", "t")
    case.cli(node, "produce", "--topic", "t", data=b"x\n")
    case.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end")
    return families(scrape(node)[1])


class Doc(Case):
    def test_the_list_is_what_a_node_tells(self):
        with open(DOC, encoding="utf-8") as file:
            listed = file.read().partition(BEGIN)[2].partition(END)[0]
        self.maxDiff = None
        self.assertEqual(table(live_families(self)), listed,
                         "docs/METRICS.md: build, then run tests/integration/test_metrics.py --write")

    def test_names_follow_the_conventions(self):
        for name, (kind, labels, text) in live_families(self).items():
            self.assertTrue(text, f"{name}: no help")
            self.assertEqual(kind == "counter", name.endswith("_total"), name)
            self.assertNotRegex(name, r"_(ms|us|ns|kb|mb|microseconds|milliseconds|minutes)(_|$)", "base units")
            for label in labels:
                self.assertRegex(label, r"^[a-z][a-z_]*$", name)

    def test_what_the_guides_name_exists(self):
        """A metric that the documents tell an operator to watch is one of the list."""
        with open(DOC, encoding="utf-8") as file:
            listed = set(re.findall(r"^\| `(\w+)` \|", file.read().partition(BEGIN)[2], re.M))
        listed |= {f"{name}_{part}" for name in listed for part in ("sum", "count", "bucket")}
        for path in ("METRICS.md", "OPERATIONS.md", "DURABILITY.md", "guides/operators.md"):
            with open(os.path.join(harness.ROOT, "docs", path), encoding="utf-8") as file:
                for name in re.findall(r"\bstreamit_[a-z0-9_]+\b", file.read()):
                    if not name.endswith("_"):
                        self.assertIn(name, listed, path)


class Topics(Case):
    def test_series_are_bounded(self):
        node = self.node(sets=["broker.metrics_topics_max=3"]).start()
        with grpc_client.Client(node) as client:
            for number in range(30):
                client.create(f"topic.{number}-with_all.KINDS", partitions=2)
                client.produce(f"topic.{number}-with_all.KINDS", number % 2, [b"x"])
        text = scrape(node)[1]
        rows = re.findall(r'^streamit_topic_produced_records_total\{topic="([^"]*)"\} (\d+)$', text, re.M)
        self.assertEqual(len(rows), 4, rows)
        self.assertEqual(dict(rows)["*"], "27")
        self.assertEqual(sum(int(count) for _, count in rows), 30)
        self.assertLess(len(text), 200_000)

    def test_names_that_would_need_escaping_are_no_topics(self):
        node = self.node().start()
        with grpc_client.Client(node) as client:
            for name in ('a"b', "a\\b", "a\nb", "a{b", "a}b", "a,b", "a=b", "*", "é", ""):
                with self.assertRaises(grpc_client.grpc.RpcError):
                    client.create(name)
        for line in scrape(node)[1].splitlines():
            self.assertTrue(line.startswith("# ") or SERIES.match(line), line)

    def test_a_full_registry_is_told_and_stops_nothing(self):
        node = self.node(sets=["node.metrics_max=100"]).start()
        self.cli(node, "create-topic", "--name", "t")
        self.cli(node, "produce", "--topic", "t", data=b"x\n")
        self.assertGreater(self.sample(node, "streamit_metrics_refused_total"), 0)
        self.assertEqual(self.sample(node, "streamit_metrics_values"), 100)
        self.assertEqual(self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end").out, "x\n")


@unittest.skipUnless(faultfs.available(), "no fault layer in this build")
class SlowRequests(Case):
    STAGES = ("receive_ms", "admit_ms", "queue_ms", "append_ms", "sync_ms", "ack_ms", "answer_ms")

    def slow_node(self, limit_ms=200):
        node = self.node(sets=[f"broker.slow_request_ms={limit_ms}"])
        os.makedirs(node.data_dir)
        self.layer = faultfs.Layer(self.folder, node.data_dir)
        self.addCleanup(self.layer.close)
        node.prefix = self.layer.prefix()
        return node.start()

    def slow_line(self, node, trace):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for line in node.logs():
                if line["event"] == "slow_request" and line["trace_id"] == trace:
                    return line
            time.sleep(0.02)
        self.fail(f"no slow_request of {trace}:\n{node.log_text()}")

    def test_a_slow_sync_is_found_by_the_trace_id(self):
        node = self.slow_node()
        self.cli(node, "create-topic", "--name", "t", "--config", "flush.policy=commit")
        self.cli(node, "produce", "--topic", "t", data=b"quick\n")
        rule = self.layer.rule("sync", path="storage_mmap/t-0/*.log", delay_us=400000)
        self.cli(node, "produce", "--topic", "t", data=b"slow\n", options=["--trace-id", "req-4711"])
        rule.clear()
        line = self.slow_line(node, "req-4711")
        self.assertEqual((line["component"], line["level"], line["call"]), ("broker", "warn", "produce"))
        self.assertEqual((line["topic"], line["partition"], line["status"]), ("t", 0, "OK"))
        self.assertGreater(line["bytes"], 0)
        self.assertTrue(line["peer"] and line["listener"] and line["principal"], line)
        self.assertGreaterEqual(line["sync_ms"] + line["append_ms"], 390, line)
        self.assertAlmostEqual(sum(line[s] for s in self.STAGES), line["total_ms"], delta=5)
        self.assertEqual(self.sample(node, 'streamit_slow_requests_total{call="produce"}'), 1)

    def test_a_slow_read(self):
        node = self.slow_node()
        self.cli(node, "create-topic", "--name", "t", "--config", "segment.bytes=16384")
        self.cli(node, "produce", "--topic", "t", "--size", "1000", "--count", "100", "--batch-bytes", "4096")
        node.restart()
        rule = self.layer.rule("read", "open", path="storage_mmap/t-0/*.log", delay_us=400000, times=2)
        self.cli(node, "consume", "--topic", "t", "--from", "50", "--count", "1", options=["--trace-id", "read-1"])
        rule.clear()
        line = self.slow_line(node, "read-1")
        self.assertEqual((line["call"], line["topic"], line["partition"]), ("fetch", "t", 0))
        self.assertGreaterEqual(line["read_ms"], 390, line)
        self.assertGreaterEqual(self.sample(node, 'streamit_slow_requests_total{call="fetch"}'), 1)

    def test_waiting_for_records_is_not_slow(self):
        node = self.slow_node()
        with grpc_client.Client(node) as client:
            client.create("t")
            client.fetch("t", 0, 0, max_wait_ms=500)
        self.assertEqual(self.sample(node, 'streamit_slow_requests_total{call="fetch"}'), 0)


class Logs(Case):
    def test_levels_of_components_and_their_reload(self):
        path = self.config("")
        node = self.node(config=path, sets=["node.log_levels=[\"kernel=error\"]"])
        node.start(wait=False)  # nobody hears of ready
        end = time.monotonic() + 20
        while not os.path.exists(os.path.join(node.data_dir, "identity")) and time.monotonic() < end:
            time.sleep(0.05)
        node.stop()
        self.assertEqual([line for line in node.logs() if line["component"] == "kernel"], [])
        wrong = self.daemon("--config", path, "--set", "node.log_levels=[\"nobody=info\"]", "--check")
        self.assertEqual(wrong.status, 2)
        self.assertIn("node.log_levels: there is no component \"nobody\"", wrong.err)
        wrong = self.daemon("--config", path, "--set", "node.log_levels=[\"broker=loud\"]", "--check")
        self.assertIn("expected debug, info, warn or error, found \"loud\"", wrong.err)

    def test_a_reload_changes_levels(self):
        path = self.config("")
        node = self.node(config=path).start()
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("node: {\n", "node: {\n  log_levels = [ \"kernel=error\" ];\n"))
        node.process.send_signal(signal.SIGHUP)
        node_lines = len(node.logs())
        time.sleep(0.5)
        self.cli(node, "create-topic", "--name", "t")
        node.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        later = [line["event"] for line in node.logs()[node_lines:] if line["component"] == "kernel"]
        self.assertNotIn("reloaded", later, "a line of the kernel below the level that it was given")
        self.assertEqual(node.stop(), 0)

    def test_metrics_as_log_lines(self):
        node = self.node(config=self.config("  metrics_log: { interval_ms = 100; match = [ \"streamit_produce_*\" ]; };\n"))
        node.start()
        self.cli(node, "create-topic", "--name", "t")
        self.cli(node, "produce", "--topic", "t", "--size", "10", "--count", "100")
        self.cli(node, "produce", "--topic", "t", "--size", "10", "--count", "23")
        self.assertEqual(node.stop(), 0)
        lines = [line for line in node.logs() if line["event"] == "metrics"]
        self.assertTrue(all(line["component"] == "metrics_log" for line in lines))
        grown = [line["streamit_produce_records_total"] for line in lines if "streamit_produce_records_total" in line]
        self.assertEqual(sum(grown), 123, "what the lines say adds up")
        names = {key for line in lines for key in line} - {"time", "level", "component", "event", "message", "interval_s", "part"}
        self.assertTrue(all(name.startswith(("streamit_produce_", "suppressed")) for name in names), names)

    def test_a_log_that_cannot_be_written_stops_nothing(self):
        """A full disk, and a pipe that nobody reads any more."""
        for target in ("/dev/full", "pipe"):
            with self.subTest(target):
                data = self.path(f"data-{target.strip('/').replace('/', '-')}")
                args = [harness.DAEMON, "--config", harness.CONFIG, "--set", f"node.data_dir={data}", "--set",
                        "plugins.transport_grpc.port=0", "--set", f"plugins.metrics_prom.port={self.free_port()}"]
                if target == "pipe":
                    process = harness.spawn(args, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
                    process.stderr.close()
                else:
                    with open(target, "wb") as full:
                        process = harness.spawn(args, stderr=full, stdin=subprocess.DEVNULL)
                port = args[-1].rpartition("=")[2]
                text = self.wait_metrics(port)
                dropped = re.search(r"^streamit_log_lines_dropped_total (\d+)$", text, re.M)
                self.assertGreater(int(dropped.group(1)), 0)
                process.terminate()
                self.assertEqual(process.wait(30), 0)
                harness._running.pop(process.pid, None)

    def free_port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def wait_metrics(self, port):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
                    connection.request("GET", "/metrics")
                    return connection.getresponse().read().decode()
            except OSError:
                pass
            time.sleep(0.05)
        self.fail("no node")


class Pressure(Case):
    def test_scrapes_beside_each_other_under_load_and_at_the_stop(self):
        node = self.node(sets=["plugins.metrics_prom.connections_max=200", "plugins.metrics_prom.connections_per_ip_max=200"])
        node.start()
        self.cli(node, "create-topic", "--name", "t", "--partitions", "8")
        loader = harness.spawn([harness.CLI, "--server", node.server, "produce", "--topic", "t", "--size", "100",
                                "--duration-s", "60", "--rate", "20000"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        good, bad, stop = [], [], threading.Event()
        address = node.http

        def reader():
            while not stop.is_set():
                try:
                    connection = http.client.HTTPConnection(address, timeout=30)
                    connection.request("GET", "/metrics")
                    answer = connection.getresponse()
                    body = answer.read()
                    whole = body.endswith(b"\n") and b"process_start_time_seconds" in body
                    (good if answer.status == 200 and whole else bad).append(answer.status)
                    connection.close()
                except (OSError, http.client.HTTPException):
                    if not stopping.is_set():
                        bad.append("refused")
                    return

        stopping = threading.Event()
        threads = [threading.Thread(target=reader) for _ in range(100)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while len(good) < 120 and not bad and time.monotonic() < end:
            time.sleep(0.05)
        stopping.set()
        status = node.stop()
        stop.set()
        for thread in threads:
            thread.join(40)
        loader.kill()
        loader.wait()
        harness._running.pop(loader.pid, None)
        self.assertEqual(bad, [], "each answer is whole")
        self.assertGreaterEqual(len(good), 120)
        self.assertEqual(status, 0, node.log_text())

    def test_who_does_not_read_costs_only_itself(self):
        node = self.node(sets=["plugins.metrics_prom.timeout_ms=1000"]).start()
        host, _, port = node.http.rpartition(":")
        lazy = []
        for _ in range(20):
            connection = socket.create_connection((host, int(port)), 5)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            lazy.append(connection)
        for _ in range(5):
            self.assertEqual(scrape(node)[0], 200)
        for connection in lazy:
            connection.close()
        self.assertEqual(scrape(node, "/ready")[0], 200)

    def test_head_unknown_paths_and_methods(self):
        node = self.node().start()
        for method, path, status in (("HEAD", "/metrics", 200), ("HEAD", "/ready", 200), ("GET", "/nothing", 404),
                                     ("HEAD", "/nothing", 404), ("POST", "/metrics", 405), ("PUT", "/live", 405),
                                     ("GET", "/metrics/", 404), ("GET", "/version", 200)):
            connection = http.client.HTTPConnection(node.http, timeout=10)
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            self.assertEqual(answer.status, status, (method, path))
            self.assertEqual(len(body) == 0, method == "HEAD", (method, path))
            connection.close()
        host, _, port = node.http.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as idle:
            idle.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(idle.recv(100))
            self.assertGreaterEqual(self.sample(node, "streamit_http_connections"), 2, "this one and the scrape")
        version = json.loads(scrape(node, "/version")[1])
        self.assertEqual(set(version), {"name", "version", "commit", "abi", "node_id", "cluster_id", "uptime_seconds"})
        self.assertRegex(version["commit"], r"^([0-9a-f]{12})?$")
        self.assertGreater(version["uptime_seconds"], 0)


def write():
    class Writer(Case):
        def runTest(self):
            with open(DOC, encoding="utf-8") as file:
                text = file.read()
            head, _, rest = text.partition(BEGIN)
            tail = rest.partition(END)[2]
            with open(DOC, "w", encoding="utf-8") as file:
                file.write(head + BEGIN + table(live_families(self)) + END + tail)

    sys.exit(0 if unittest.TextTestRunner().run(Writer()).wasSuccessful() else 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    harness.main()
