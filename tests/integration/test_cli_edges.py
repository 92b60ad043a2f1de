#!/usr/bin/python3
"""The command line at awkward moments: closed streams, readers that leave, interrupts, terminals; its examples, completion, manual."""

import fcntl
import json
import os
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402

NOBODY = "127.0.0.1:1"


def commands(case):
    """Every command by its help."""
    names = re.findall(r"^  ([a-z][a-z-]*(?: [a-z-]+)?) {2,}", case.cli(None, "--help").out, re.M)
    return {name: case.cli(None, *name.split(), "--help").out for name in names}


class Edge(harness.TestCase):
    def shell(self, script, server="", status=0):
        """Run a line of bash with `streamit` on the path; returns standard output and error."""
        env = {**os.environ, "PATH": f"{os.path.dirname(harness.CLI)}:{os.environ['PATH']}", "STREAMIT_SERVER": server}
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=harness.CALL_S, check=False)
        self.assertEqual(done.returncode, status, f"{script}\n{done.stdout}{done.stderr}")
        return done.stdout, done.stderr

    def freeze(self, process):
        """Stop a process; the signal is not enough, its threads run on until each has noticed."""
        process.send_signal(signal.SIGSTOP)
        tasks = f"/proc/{process.pid}/task"
        until = time.monotonic() + 20
        while any(harness.read(f"{tasks}/{task}/stat").rpartition(b")")[2].split()[0] != b"T" for task in os.listdir(tasks)):
            self.assertLess(time.monotonic(), until)

    def start(self, server, *args, **kwargs):
        kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        return harness.spawn([harness.CLI, "--server", server, *args], **kwargs)

    def end(self, process, how=None):
        """Wait for its end; returns status, output, errors."""
        if how is not None:
            process.send_signal(how)
        out, err = process.communicate(timeout=harness.STOP_S)
        harness._running.pop(process.pid, None)
        return process.returncode, out, err

    def on_terminal(self, *args, columns=80, rows=24, enough=lambda seen: False):
        """Run on a terminal until `enough` or the end; returns what it wrote."""
        leader, follower = harness.terminal()
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = harness.spawn([harness.CLI, *args], stdin=subprocess.DEVNULL, stdout=follower, stderr=follower)
        os.close(follower)
        seen, until = b"", time.monotonic() + 60
        while not enough(seen):
            if not select.select([leader], [], [], 1)[0]:
                self.assertLess(time.monotonic(), until, seen)
                continue
            try:
                got = os.read(leader, 65536)
            except OSError:  # how a terminal says that nobody has it open any more
                break
            seen += got
        process.send_signal(signal.SIGINT)
        process.wait(harness.STOP_S)
        harness._running.pop(process.pid, None)
        os.close(leader)
        return seen


class Streams(Edge):
    def test_closed_streams_are_errors_and_never_files_of_somebody_else(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        self.assertIn("error: IO: standard input: Bad file descriptor", self.shell("streamit produce --topic t <&-", node.server, 1)[1])
        self.assertIn("error: IO: standard output", self.shell("streamit list-topics >&-", node.server, 1)[1])
        self.cli(node, "produce", "--topic", "t", data=b"a\n")
        read = "consume --topic t --from beginning --until-end"
        self.assertIn("error: IO: standard output: Bad file", self.shell(f"streamit {read} >&-", node.server, 1)[1])
        self.assertEqual(self.shell(f"streamit {read} 2>&- <&-", node.server)[0], "a\n")

    def test_a_daemon_without_streams_writes_its_log_into_no_file(self):
        data = self.path("data")
        args = [harness.DAEMON, "--config", harness.CONFIG]
        for setting in (f"node.data_dir={data}", "plugins.transport_grpc.port=0", "plugins.metrics_prom.port=0"):
            args += ["--set", setting]
        process = harness.spawn(["bash", "-c", f"exec {shlex.join(args)} <&- >&- 2>&-"])
        until = time.monotonic() + harness.READY_S
        while not os.path.exists(os.path.join(data, "metadata_local", "engine")):  # written once it is ready
            self.assertLess(time.monotonic(), until)
            self.assertIsNone(process.poll())
            time.sleep(0.05)
        for fd in range(3):
            self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{fd}"), "/dev/null")
        self.assertEqual(self.end(process, signal.SIGTERM)[0], 0)
        for folder, _, names in os.walk(data):
            for name in names:
                self.assertNotIn(b'"event"', harness.read(os.path.join(folder, name)), name)

    def test_a_reader_that_has_enough_is_no_error(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        self.shell("seq 1 200000 | streamit produce --topic t", node.server)
        for line in ("consume --topic t --from beginning --until-end | head -1", "--json consume --topic t --from beginning | head -1",
                     "list-topics | true", "--json watch --interval-ms 10 | head -1"):
            _, err = self.shell(f"set -o pipefail; streamit {line}", node.server)
            self.assertNotIn("error", err.replace('"errors":0', ""), line)
        self.cli(node, "create-topic", "--name", "few")
        self.cli(node, "produce", "--topic", "few", data=b"a\nb\n")
        self.assertEqual(self.shell("streamit consume --topic few --from beginning | head -1", node.server)[0], "a\n")


class Moments(Edge):
    def test_a_record_without_answer_ends_the_command_though_no_line_follows(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        producer = self.start(node.server, "--timeout-ms", "500", "produce", "--topic", "t", stdin=subprocess.PIPE)
        producer.stdin.write(b"one\n")
        producer.stdin.flush()
        self.wait_records(node, 1)
        self.freeze(node.process)
        try:
            producer.stdin.write("zwei\n".encode())
            producer.stdin.flush()
            self.assertEqual(producer.wait(harness.STOP_S), 1)
        finally:
            node.process.send_signal(signal.SIGCONT)
        _, _, err = self.end(producer)
        self.assertRegex(err, rb"error: TIMED_OUT: t-0: ")
        summary = json.loads(err.splitlines()[-1])
        # The node may have stopped between storing the first and saying so.
        self.assertIn((summary["records"], summary["bytes"], summary["errors"]), [(1, 3, 1), (0, 0, 2)], "what was acknowledged, exactly")

    def wait_records(self, node, count):
        until = time.monotonic() + 20
        while self.cli(node, "describe-topic", "--name", "t", options=["--json"]).json["partitions"][0]["high_watermark"] < count:
            self.assertLess(time.monotonic(), until)

    def test_an_interrupt_before_anything_was_done_ends_at_once_with_a_summary(self):
        cases = [[*options, *args] for args in (["produce", "--topic", "t", "--size", "1"], ["consume", "--topic", "t"])
                 for options in ([], ["--json"])]
        started = [self.start(NOBODY, *case) for case in cases]
        time.sleep(0.7)
        for case, process in zip(cases, started):
            status, out, err = self.end(process, signal.SIGINT)
            self.assertEqual(status, 130, err)
            self.assertEqual(json.loads(out if "--json" in case else err)["records"], 0)
        for args in (["produce", "--topic", "t"], ["consume", "--topic", "t"]):
            out = self.cli(NOBODY, *args, options=["--timeout-ms", "300"], status=1)
            self.assertEqual((out.summary()["records"], out.summary()["errors"]), (0, 1))

    def test_an_interrupt_waits_for_what_is_under_way(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        producer = self.start(node.server, "--json", "produce", "--topic", "t", "--size", "1000")
        self.wait_records(node, 1)
        status, out, err = self.end(producer, signal.SIGINT)
        self.assertEqual(status, 130, err)
        summary = json.loads(out)
        self.assertEqual(summary["bytes"], 1000 * summary["records"])
        read = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--quiet").summary()
        self.assertEqual((read["records"], summary["errors"]), (summary["records"], 0), "no more and no less than was said")

    def test_a_second_interrupt_ends_at_once(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        producer = self.start(node.server, "produce", "--topic", "t", "--size", "1000", "--rate", "1000")
        self.wait_records(node, 1)
        self.freeze(node.process)
        try:
            time.sleep(0.3)
            producer.send_signal(signal.SIGINT)
            time.sleep(0.3)
            self.assertIsNone(producer.poll(), "it waits")
            self.assertEqual(self.end(producer, signal.SIGINT)[0], 130)
        finally:
            node.process.send_signal(signal.SIGCONT)

    def test_no_record_is_due_at_the_end_of_the_duration(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        done = self.cli(node, "produce", "--topic", "t", "--size", "10", "--rate", "2", "--duration-s", "1")
        self.assertEqual(done.summary()["records"], 2)


class Bytes(Edge):
    def test_any_bytes_and_keys_with_long_separators(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        lines = [b"k1=>v=>1", b"=>no key but an empty one", b"no separator", b"k2=>", b"", b"\0\xff\r=>\xfe\0", b"x" * 1000000, b"end"]
        data = b"\n".join(lines)  # no newline behind the last
        done = self.cli(node, "produce", "--topic", "t", "--key-separator", "=>", data=data)
        self.assertEqual(done.summary()["records"], len(lines))
        rows = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", options=["--json"])
        rows = rows.json_lines[:-1]
        self.assertEqual([(row.get("key"), row.get("value")) for row in rows[:5]],
                         [("k1", "v=>1"), ("", "no key but an empty one"), (None, "no separator"), ("k2", ""), (None, "")])
        self.assertEqual((rows[5]["key_base64"], rows[5]["value_base64"]), ("AP8N", "/gA="))
        out = self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--format", "%%%k\\t%v")
        expected = [b"%" + b"\t".join(line.split(b"=>", 1) if b"=>" in line else [b"", line]) for line in lines]
        self.assertEqual(out.out_bytes, b"".join(line + b"\n" for line in expected))
        self.assertEqual(out.summary()["bytes"], done.summary()["bytes"])
        self.assertEqual(done.summary()["bytes"], sum(len(b"".join(line.split(b"=>", 1))) for line in lines))

    def test_no_record_at_all(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        for data, count in ((b"", 0), (b"\n", 1), (b"\n\n", 2)):
            self.assertEqual(self.cli(node, "produce", "--topic", "t", "--no-idempotence", data=data).summary()["records"], count)


class Terminal(Edge):
    def test_progress_of_produce_is_one_line_and_gone_at_the_end(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        seen = self.on_terminal("--server", node.server, "produce", "--topic", "t", "--size", "100", "--rate", "1000", "--duration-s", "1",
                                columns=30)
        self.assertGreaterEqual(seen.count(b"\r\033[Kacknowledged "), 1)
        before, _, summary = seen.rpartition(b"\r\033[K")
        self.assertEqual(json.loads(summary)["records"], 1000)
        for line in before.split(b"\r\033[K"):
            self.assertLess(len(line), 30, "a line that wraps cannot be replaced")

    def test_watch_keeps_to_the_terminal(self):
        node = self.node().start()
        for i in range(10):
            self.cli(node, "create-topic", "--name", "topic-with-quite-a-long-name-%d" % i)
        for columns, rows in ((80, 24), (20, 7), (40, 3)):
            seen = self.on_terminal("--server", node.server, "watch", "--interval-ms", "20", columns=columns, rows=rows,
                                    enough=lambda seen: seen.count(b"\033[H\033[J") > 2)
            table = seen.split(b"\033[H\033[J")[1].decode().splitlines()
            self.assertLessEqual(max(map(len, table)), columns)
            self.assertLessEqual(len(table), max(rows, 3))
            self.assertTrue(table[0].startswith("TOPIC") and table[-1].startswith("10 topics"), table)

    def test_watch_lives_through_a_restart_and_a_topic_made_anew(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        self.cli(node, "produce", "--topic", "t", "--size", "10", "--count", "1000")
        watch = self.start(node.server, "--json", "--timeout-ms", "300", "watch", "--topic", "t", "--interval-ms", "50")
        try:
            self.assertEqual(json.loads(watch.stdout.readline())["total"]["records"], 1000)
            port = node.server.rpartition(":")[2]
            node.kill()
            self.assertRegex(watch.stderr.readline(), rb"^error: [A-Z_]+: ")
            node.sets.append(f"plugins.transport_grpc.port={port}")
            node.start()
            while json.loads(watch.stdout.readline())["total"]["records"] != 1000:
                pass
            self.cli(node, "delete-topic", "--name", "t")
            while b"UNKNOWN_TOPIC" not in watch.stderr.readline():
                pass
            self.cli(node, "create-topic", "--name", "t")
            self.cli(node, "produce", "--topic", "t", "--size", "10", "--count", "7")
            while (row := json.loads(watch.stdout.readline())["total"])["records"] != 7:
                self.assertLess(row["records_per_s"], 1000, "the old topic does not count against the new one")
        finally:
            status = self.end(watch, signal.SIGINT)[0]
        self.assertEqual(status, 130)


class Manual(Edge):
    def test_every_example_of_the_help_runs_as_written(self):
        node = self.node().start()
        help_of = commands(self)
        self.assertGreater(len(help_of), 12)
        with open(self.path("orders.txt"), "w", encoding="utf-8") as file:
            file.write("berlin:18.5\nparis:21\n")
        os.symlink(harness.BUILD, self.path("build"))
        self.cli(node, "create-topic", "--name", "t", "--partitions", "4")  # the topic of the examples of bench
        last = {}
        for name, text in help_of.items():
            self.assertEqual(text.count("\nExample:\n"), 1, name)
            example = re.search(r"\nExample:\n((?:  streamit .*\n)+)", text)
            self.assertIsNotNone(example, text)
            for line in example.group(1).splitlines():
                # What takes long, has no end or belongs to an installed node is cut short in that alone.
                line = re.sub(r"--duration-s \d+", "--count 2000", line.strip()).replace("--count 5000000", "--count 5000")
                line = line.replace("/var/lib/streamit", node.data_dir).replace("--interval-ms 2000", "--interval-ms 20 --count 1")
                if name == "delete-topic":
                    last[name] = line
                else:
                    self.shell(line, node.server)
        for line in last.values():
            self.shell(line, node.server)

    def complete(self, line, server=NOBODY):
        """What bash would offer at the end of a line."""
        script = f"""
source {shlex.quote(os.path.join(harness.ROOT, "cli", "completions", "streamit"))}
COMP_LINE={shlex.quote(line)}
read -ra COMP_WORDS <<<"${{COMP_LINE//=/ = }}"  # as bash breaks words
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_streamit
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        out, err = self.shell(script, server)
        self.assertEqual(err, "")
        return out.split()

    def test_completion_knows_every_command_and_option(self):
        help_of = commands(self)
        first = self.complete("streamit ")
        self.assertEqual({word for word in first if not word.startswith("-")}, {name.split()[0] for name in help_of})
        for name, text in help_of.items():
            self.assertIn(name.split()[0], first)
            if " " in name:
                self.assertIn(name.split()[1], self.complete(f"streamit {name.split()[0]} "))
            offered = self.complete(f"streamit {name} --")
            self.assertEqual(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - set(offered), set(), name)
        self.assertEqual(self.complete("streamit bench pro"), ["produce"])
        self.assertEqual(self.complete("streamit produce --topic watch --interval"), [], "a topic may be called like a command")

    def test_completion_of_values(self):
        self.assertEqual(self.complete("streamit produce --acks "), ["none", "leader", "quorum"])
        self.assertEqual(self.complete("streamit produce --compression z"), ["zstd"])
        self.assertEqual(self.complete("streamit consume --from b"), ["beginning"])
        self.assertEqual(self.complete("streamit consume --topic "), [], "nobody to ask: silently nothing")
        self.assertEqual(self.complete("streamit consume --count "), [])
        self.assertEqual(self.complete("streamit create-topic --config flush.policy="), ["commit", "interval", "onroll"])
        self.assertEqual(self.complete("streamit create-topic --config message.timestamp.type=L"), ["LogAppendTime"])
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "orders")
        self.cli(node, "create-topic", "--name", "audit")
        self.assertEqual(self.complete("streamit consume --topic ", node.server), ["audit", "orders"])
        self.assertEqual(self.complete("streamit describe-topic --name o", node.server), ["orders"])
        self.assertEqual(self.complete(f"streamit --server {node.server} consume --topic a"), ["audit"])
        settings = self.cli(node, "describe-topic", "--name", "orders", options=["--json"]).json["config"]
        self.assertEqual({f"{key}=" for key in settings} - set(self.complete("streamit create-topic --config ")), set())

    def test_the_manual_pages_are_the_help(self):
        for program, section in ((harness.CLI, 1), (harness.DAEMON, 8)):
            page = os.path.join(harness.BUILD, "cli", f"{os.path.basename(program)}.{section}")
            texts = commands(self) if section == 1 else {"": subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout}
            written = harness.read(page).decode().replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")
            for text in texts.values():
                self.assertIn(text.partition("\nEverywhere:")[0].strip(), written)
            if shutil.which("groff"):
                done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    harness.main()
