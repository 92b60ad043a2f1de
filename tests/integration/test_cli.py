#!/usr/bin/python3
"""The contract of the command line: exit statuses, error texts, JSON, summaries, help."""

import json
import re
import select
import signal
import socket
import subprocess
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402

SUMMARY = {"records", "bytes", "seconds", "records_per_s", "mb_per_s", "errors", "latency_ms"}
COMMANDS = ["create-topic", "describe-topic", "list-topics", "delete-topic", "produce", "consume"]


class WithoutServer(harness.TestCase):
    def test_help_lists_the_commands_and_each_has_an_example(self):
        listing = self.cli(None, "--help").out
        for command in COMMANDS:
            self.assertIn(command, listing)
            text = self.cli(None, command, "--help").out
            self.assertRegex(text.lower(), r"example")
            self.assertIn(f"streamit {command}", text)

    def test_help_promises_no_more_than_works(self):
        for word in re.findall(r"^  ([a-z-]+(?: [a-z]+)?) {2,}", self.cli(None, "--help").out, re.M):
            out = self.cli(None, *word.split(), "--help", status=None)
            self.assertEqual(out.status, 0, f"'{word}' stands in the help: {out!r}")

    def test_wrong_usage_is_2_and_says_what(self):
        cases = [
            ([], "streamit"),
            (["no-such-command"], "no-such-command"),
            (["create-topic"], "name"),
            (["create-topic", "--name"], "name"),
            (["create-topic", "--name", "t", "--colour", "red"], "colour"),
            (["create-topic", "--name", "t", "--partitions", "many"], "partitions"),
            (["create-topic", "--name", "t", "--config", "novalue"], "config"),
            (["produce"], "topic"),
            (["produce", "--topic", "t", "--compression", "rar"], "compression"),
            (["produce", "--topic", "t", "--acks", "all-of-them"], "acks"),
            (["consume", "--topic", "t", "--from", "yesterday"], "from"),
            (["consume", "--topic", "t", "--count", "-1"], "count"),
        ]
        for args, word in cases:
            with self.subTest(args=args):
                out = self.cli("127.0.0.1:1", *args, status=2)
                self.assertIn(word, out.err)
                self.assertEqual(out.out, "")

    def test_an_interrupt_ends_a_search_through_a_large_file_and_a_wait(self):
        os.mkdir(self.path("t-0"))
        with open(self.path("t-0", "00000000000000000000.log"), "wb") as file:
            file.truncate(1 << 42)
        for args in (["dump", "--verify", self.path("t-0")], ["--server", "localhost:1", "list-topics"]):
            process = harness.spawn([harness.CLI, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            with process.stderr:
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(20), 130, args)
                self.assertNotIn(b"unfinished", process.stderr.read(), args)

    def test_what_cannot_be_written_is_a_failure(self):
        open(self.path("00000000000000000000.log"), "wb").close()
        with open("/dev/full", "wb") as full:
            result = subprocess.run([harness.CLI, "dump", self.path("00000000000000000000.log")], stdout=full,
                                    stderr=subprocess.PIPE, check=False, timeout=harness.CALL_S)
        self.assertEqual(result.returncode, 1, result)
        self.assertIn(b"error: IO: standard output", result.stderr)

    def test_a_trace_id_that_no_header_can_bear_is_usage(self):
        for bad in ("a\nb", "\u00fc"):
            result = self.cli("localhost:1", "--trace-id", bad, "list-topics", status=2)
            self.assertIn("--trace-id", result.err)

    def test_a_pipe_is_no_plugin(self):
        os.mkfifo(self.path("pipe.so"), 0o600)
        result = self.cli(None, "plugin", "check", self.path("pipe.so"), status=1, timeout=20)
        self.assertIn("PLUGIN_REFUSED", result.err)

    def test_no_server(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % probe.getsockname()[1]
            began = time.monotonic()
            out = self.cli(address, "list-topics", options=["--timeout-ms", "500"], status=1)
            self.assertLess(time.monotonic() - began, 10)
        self.assertRegex(out.err, r"error: (UNAVAILABLE|TIMED_OUT): ")
        self.assertIn(address, out.err)

    def test_missing_file_is_named(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        out = self.cli(node, "produce", "--topic", "t", "--file", self.path("absent.txt"), status=None)
        self.assertIn(out.status, (1, 2))
        self.assertIn("absent.txt", out.err)


class WithServer(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()

    def test_topics_from_creation_to_deletion(self):
        self.cli(self.host, "create-topic", "--name", "b", "--partitions", "3")
        self.cli(self.host, "create-topic", "--name", "a", "--replication", "1")
        self.assertEqual(re.findall(r"^([ab])\b", self.cli(self.host, "list-topics").out, re.M), ["a", "b"])
        listing = self.cli(self.host, "list-topics", options=["--json"]).json
        text = json.dumps(listing)
        self.assertIn('"a"', text)
        self.assertIn('"b"', text)
        described = self.cli(self.host, "describe-topic", "--name", "b", options=["--json"]).json
        self.assertIn("partitions", json.dumps(described))
        self.assertEqual(len(find(described, "partitions")), 3)
        self.assertEqual(find(described, "partitions")[2]["partition"], 2)
        self.cli(self.host, "describe-topic", "--name", "b")
        self.error(self.cli(self.host, "create-topic", "--name", "a", status=1), "ALREADY_EXISTS")
        self.cli(self.host, "delete-topic", "--name", "a")
        self.assertIn("a", self.error(self.cli(self.host, "describe-topic", "--name", "a", status=1), "UNKNOWN_TOPIC"))
        self.error(self.cli(self.host, "delete-topic", "--name", "a", status=1), "UNKNOWN_TOPIC")
        self.host.kill()
        self.host.start()
        self.assertEqual(re.findall(r"^([ab])\b", self.cli(self.host, "list-topics").out, re.M), ["b"])

    def test_a_topic_created_anew_is_empty(self):
        self.cli(self.host, "create-topic", "--name", "t")
        self.cli(self.host, "produce", "--topic", "t", data=b"old\n")
        first = self.cli(self.host, "describe-topic", "--name", "t", options=["--json"]).json
        self.cli(self.host, "delete-topic", "--name", "t")
        self.cli(self.host, "create-topic", "--name", "t")
        second = self.cli(self.host, "describe-topic", "--name", "t", options=["--json"]).json
        self.assertNotEqual(find(first, "topic_id"), find(second, "topic_id"), "another topic, another UUID")
        self.assertEqual(self.cli(self.host, "consume", "--topic", "t", "--from", "beginning", "--until-end").out, "")
        self.cli(self.host, "produce", "--topic", "t", data=b"new\n")
        self.host.kill()
        self.host.start()
        self.assertEqual(self.cli(self.host, "consume", "--topic", "t", "--from", "beginning", "--until-end").out, "new\n")

    def test_names_are_checked(self):
        for name in ("", "a b", "ä", "x" * 250, ".", "..", "a/b"):
            with self.subTest(name=name):
                out = self.cli(self.host, "create-topic", "--name", name, status=None)
                self.assertIn(out.status, (1, 2))
                if out.status == 1:
                    self.error(out, "INVALID_ARGUMENT")
        self.cli(self.host, "create-topic", "--name", "x" * 249)

    def test_unknown_topic_and_partition(self):
        self.cli(self.host, "create-topic", "--name", "t")
        self.error(self.cli(self.host, "produce", "--topic", "nope", data=b"x\n", status=1), "UNKNOWN_TOPIC")
        self.error(self.cli(self.host, "consume", "--topic", "nope", "--until-end", status=1), "UNKNOWN_TOPIC")
        self.error(self.cli(self.host, "produce", "--topic", "t", "--partition", "7", data=b"x\n", status=1), "UNKNOWN_PARTITION")

    def test_a_record_that_is_too_large_ends_with_its_code(self):
        self.cli(self.host, "create-topic", "--name", "t", "--config", "max.message.bytes=10000")
        out = self.cli(self.host, "produce", "--topic", "t", data=b"small\n" + b"x" * 20000 + b"\n", status=1)
        self.error(out, "MESSAGE_TOO_LARGE")

    def test_summaries(self):
        self.cli(self.host, "create-topic", "--name", "t")
        for options in ([], ["--json"]):
            done = self.cli(self.host, "produce", "--topic", "t", "--size", "100", "--count", "5000", options=options)
            summary = done.json_lines[-1] if options else done.summary()
            self.assertLessEqual(SUMMARY, set(summary))
            self.assertEqual((summary["records"], summary["bytes"], summary["errors"]), (5000, 500000, 0))
            self.assertEqual(set(summary["latency_ms"]), {"p50", "p95", "p99", "p999", "max"})
            self.assertAlmostEqual(summary["records_per_s"], 5000 / summary["seconds"], delta=0.05 * summary["records_per_s"] + 1)
        done = self.cli(self.host, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--quiet")
        self.assertEqual(done.out, "")
        self.assertEqual(done.summary()["records"], 10000)
        self.assertEqual(done.summary()["bytes"], 1000000)

    def test_rate_and_duration(self):
        self.cli(self.host, "create-topic", "--name", "t")
        summary = self.cli(self.host, "produce", "--topic", "t", "--size", "10", "--rate", "500", "--duration-s", "1").summary()
        self.assertGreater(summary["records"], 350)
        self.assertLess(summary["records"], 650)

    def test_count_from_and_formats(self):
        self.cli(self.host, "create-topic", "--name", "t")
        self.cli(self.host, "produce", "--topic", "t", "--key-separator", ":", data=b"".join(b"k%d:v%d\n" % (i, i) for i in range(10)))
        read = lambda *a, **k: self.cli(self.host, "consume", "--topic", "t", *a, **k).out  # noqa: E731
        self.assertEqual(read("--from", "beginning", "--count", "2"), "v0\nv1\n")
        self.assertEqual(read("--from", "8", "--until-end"), "v8\nv9\n")
        self.assertEqual(read("--from", "8", "--count", "1", "--format", "%t %p %o %k %v"), "t 0 8 k8 v8\n")
        row = json.loads(read("--from", "3", "--count", "1", "--format", "json"))
        self.assertEqual((row["topic"], row["partition"], row["offset"], row["key"], row["value"]), ("t", 0, 3, "k3", "v3"))
        self.assertEqual(read("--from", "@0", "--count", "1"), "v0\n")
        self.assertEqual(read("--from", "end", "--until-end"), "")
        self.error(self.cli(self.host, "consume", "--topic", "t", "--from", "99", "--until-end", status=1), "OFFSET_OUT_OF_RANGE")

    def test_consume_waits_for_new_records_and_an_interrupt_is_130(self):
        self.cli(self.host, "create-topic", "--name", "t")
        reader = harness.spawn([harness.CLI, "--server", self.host.server, "consume", "--topic", "t", "--from", "beginning"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.cli(self.host, "produce", "--topic", "t", data=b"live\n")
        self.assertEqual(reader.stdout.readline(), b"live\n")
        reader.send_signal(signal.SIGINT)
        _, err = reader.communicate(timeout=20)
        self.assertEqual(reader.returncode, 130, err)

    def test_server_from_the_environment_and_a_list_of_servers(self):
        self.cli(self.host, "create-topic", "--name", "t")
        env = dict(os.environ, STREAMIT_SERVER=self.host.server)
        self.assertIn("t", self.cli(None, "list-topics", env=env).out)
        self.assertIn("t", self.cli(f"127.0.0.1:1,{self.host.server}", "list-topics").out)

    def test_watch_tells_rates_and_the_busiest_first(self):
        self.cli(self.host, "create-topic", "--name", "a-idle", "--partitions", "2")
        self.cli(self.host, "create-topic", "--name", "busy")
        producer = harness.spawn([harness.CLI, "--server", self.host.server, "produce", "--topic", "busy", "--size", "100",
                                  "--rate", "2000", "--duration-s", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(50):  # until the records flow
                ticks = self.cli(self.host, "watch", "--interval-ms", "300", "--count", "2", options=["--json"]).json_lines
                if all(tick["total"]["records_per_s"] > 0 for tick in ticks):
                    break
            self.assertEqual(len(ticks), 2)
            self.assertEqual([row["name"] for row in ticks[1]["topics"]], ["busy", "a-idle"])
            busy, idle = ticks[1]["topics"]
            self.assertGreater(busy["records_per_s"], 0)
            self.assertEqual((idle["records_per_s"], idle["bytes_per_s"], idle["partitions"], idle["offline"]), (0, 0, 2, 0))
            self.assertEqual(ticks[1]["total"]["partitions"], 3)
            text = self.cli(self.host, "watch", "--topic", "a-idle", "--interval-ms", "10", "--count", "1").out
            self.assertRegex(text, r"(?m)^TOPIC +PARTITIONS")
            self.assertNotIn("busy", text)
            self.assertNotIn("\033", text, "no terminal, no control characters")
        finally:
            producer.kill()
            producer.wait(20)
        self.error(self.cli(self.host, "watch", "--topic", "nope", "--count", "1", status=1), "UNKNOWN_TOPIC")

    def test_watch_on_a_terminal_replaces_its_table_and_ends_at_an_interrupt(self):
        self.cli(self.host, "create-topic", "--name", "t")
        leader, follower = harness.terminal()
        watch = harness.spawn([harness.CLI, "--server", self.host.server, "watch", "--interval-ms", "50"], stdin=subprocess.DEVNULL,
                              stdout=follower, stderr=subprocess.DEVNULL)
        os.close(follower)
        seen = b""
        while seen.count(b"\033[H\033[J") < 3:
            self.assertTrue(select.select([leader], [], [], 20)[0], seen)
            seen += os.read(leader, 4096)
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(20), 130)
        os.close(leader)
        self.assertIn(b"1 topic ", seen)

    def test_find_leader(self):
        self.cli(self.host, "create-topic", "--name", "t")
        out = self.cli(self.host, "find-leader", "--topic", "t", "--partition", "0", status=None)
        if out.status == 2:
            self.skipTest("find-leader is not offered yet")
        self.assertIn(self.host.server.rpartition(":")[2], out.out)
        self.error(self.cli(self.host, "find-leader", "--topic", "t", "--partition", "9", status=1), "UNKNOWN_PARTITION")

    def test_a_trace_id_appears_in_the_daemons_log_of_a_refusal_or_not_at_all(self):
        """--trace-id is accepted by every command; what the daemon logs about it carries the id."""
        self.cli(self.host, "list-topics", options=["--trace-id", "4bf92f3577b34da6a3ce929d0e0e4736"])
        for line in self.host.logs():
            if "trace_id" in line:
                self.assertEqual(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736")


class PluginCheck(harness.TestCase):
    def test_plugin_check_says_what_the_kernel_would(self):
        folder = os.path.join(harness.BUILD, "lib", "streamit")
        for name in sorted(os.listdir(folder)):
            if name.endswith(".so"):
                self.assertIn(name[:-3], self.cli(None, "plugin", "check", os.path.join(folder, name)).out)
        with open(self.path("no.so"), "wb") as file:
            file.write(b"no shared object")
        out = self.cli(None, "plugin", "check", self.path("no.so"), status=1)
        self.assertIn("no.so", out.err)


def find(document, key):
    """The value of the first such key anywhere in a JSON document."""
    if isinstance(document, dict):
        if key in document:
            return document[key]
        document = list(document.values())
    if isinstance(document, list):
        for item in document:
            got = find(item, key)
            if got is not None:
                return got
    return None


if __name__ == "__main__":
    harness.main()
