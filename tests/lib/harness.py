"""Real daemons and the real command line for the integration tests.

    class Roundtrip(harness.TestCase):
        def test_it(self):
            node = self.node()
            node.start()
            self.cli(node, "create-topic", "--name", "t")
            node.kill()

Every daemon gets a data folder and ports of its own, so tests run in parallel and beside a daemon of the user. A daemon
dies with the test, even when the test itself is killed; teardown checks that no process, port or file has stayed.

Environment: STREAMIT_BUILD (the build folder), STREAMIT_KEEP=1 (keep data folders and logs of every test),
STREAMIT_SEED (repeat the random choices of a run), STREAMIT_TEST_FULL=1 (the long versions).
"""

import atexit
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("STREAMIT_BUILD") or os.path.join(ROOT, "build"))
DAEMON = os.path.join(BUILD, "bin", "streamitd")
CLI = os.path.join(BUILD, "bin", "streamit")
# The build with fault points: this one if it was configured so, else the folder beside it that `make test` builds.
FAULT_BUILD = os.path.abspath(os.environ.get("STREAMIT_FAULT_BUILD") or BUILD + "-faults")
FAULT_DAEMON = os.path.join(FAULT_BUILD, "bin", "streamitd")
CONFIG = os.path.join(ROOT, "etc", "standalone.cfg")
FULL = os.environ.get("STREAMIT_TEST_FULL") == "1"
SANITIZED = os.path.basename(BUILD) != "build" and "san" in os.path.basename(BUILD)
READY_S = 60 if SANITIZED else 20
STOP_S = 30
CALL_S = 120

_running = {}


def _kill_all():
    for process in list(_running.values()):
        if process.poll() is None:
            process.kill()
            process.wait()


atexit.register(_kill_all)


def seed():
    """The seed of this run; printed, so that a failure can be repeated."""
    value = int(os.environ.get("STREAMIT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"STREAMIT_SEED={value}", file=sys.stderr, flush=True)
    return value


def can_mount():
    """May this machine give a test mounts of its own? Root may, but not in every container or chroot."""
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "streamit-test", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0


def read(path):
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def spawn(args, **kwargs):
    """A process that dies with this one. setpriv asks for that and becomes the program; a preexec_fn would make Python
    fork for real, which gRPC's threads in this process do not always survive."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *(str(a) for a in args)], **kwargs)
    _running[process.pid] = process
    return process


class Node:
    """One daemon: may be started, killed and started again over the same data folder."""

    def __init__(self, folder, name="node", sets=(), config=CONFIG, ports=True):
        self.name = name
        self.config = config
        self.data_dir = os.path.join(folder, name)
        self.log_file = os.path.join(folder, f"{name}.log")
        self.sets = list(sets)
        self.ports = ports
        self.prefix = []  # what stands before the daemon's own command line
        self.daemon = DAEMON
        self.process = None
        self.listeners = {}
        self.ready_event = {}
        self.starts = 0
        self._lines = []
        self._ready = threading.Event()
        self._reader = None

    def args(self):
        sets = [f"node.data_dir={self.data_dir}"]
        if self.ports:
            sets += ["plugins.transport_grpc.port=0", "plugins.metrics_prom.port=0"]
        out = [*self.prefix, self.daemon, "--config", self.config]
        for item in sets + self.sets:
            out += ["--set", item]
        return out

    def start(self, wait=True):
        assert self.process is None, "it runs already"
        self._ready.clear()
        self.listeners = {}
        self.starts += 1
        self.process = spawn(self.args(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        if wait:
            self.wait_ready()
        return self

    def _read(self, stream):
        with open(self.log_file, "ab") as copy:
            for line in stream:
                copy.write(line)
                copy.flush()
                self._lines.append(line)
                if b'"event":"ready"' in line.replace(b": ", b":"):
                    self.ready_event = json.loads(line)
                    self.listeners = dict(self.ready_event["listeners"])
                    self._ready.set()
        stream.close()

    def wait_ready(self, timeout=READY_S):
        end = time.monotonic() + timeout
        while not self._ready.wait(0.02):
            if self.process.poll() is not None:
                self._reader.join(5)
                if self._ready.is_set():
                    return
                raise AssertionError(f"{self.name} ended with {self.process.returncode} before it was ready:\n{self.log_text()}")
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} is not ready after {timeout} s:\n{self.log_text()}")

    @property
    def server(self):
        """HOST:PORT of the gRPC listener."""
        return self._address("transport_grpc")

    @property
    def http(self):
        return self._address("metrics_prom")

    def _address(self, instance):
        host, _, port = self.listeners[instance].split(",")[0].rpartition(":")
        return f"{'127.0.0.1' if host in ('', '0.0.0.0', '[::]', '*') else host}:{port}"

    def _ended(self):
        status = self.process.wait()
        self._reader.join(5)
        _running.pop(self.process.pid, None)
        self.process = None
        return 0 if self._leak_check_died() else status

    def _leak_check_died(self):
        """Did the leak check itself crash, behind an orderly end? Its tracer may, where it meets a thread of a library that is
        just ending; that says nothing of the daemon, so its lines leave the log."""
        last = [i for i, line in enumerate(self._lines) if b'"event":"stopped"' in line][-1:]
        rest = self._lines[last[0] + 1:] if last else []
        if not any(b"LeakSanitizer has encountered a fatal error" in line for line in rest):
            return False
        if not all(line.startswith((b"Tracer caught", b"==")) or not line.strip() for line in rest):
            return False
        del self._lines[last[0] + 1:]
        return True

    def kill(self):
        """kill -9: what a crash of the process is."""
        self.process.kill()
        return self._ended()

    def stop(self, timeout=STOP_S, how=signal.SIGTERM):
        """Ask it to stop. Returns the exit status."""
        self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self._ended()
            raise AssertionError(f"{self.name} did not stop within {timeout} s:\n{self.log_text()}") from None
        return self._ended()

    def restart(self):
        self.stop()
        return self.start()

    def log_text(self):
        return b"".join(self._lines[-200:]).decode(errors="replace")

    def complaints(self):
        """What a sanitizer, or an assertion that failed, has written among the log lines."""
        words = (b"Sanitizer", b"runtime error:", b"assertion failed", b"STI_ASSERT")
        return [line.decode(errors="replace") for line in self._lines if any(w in line for w in words)]

    def logs(self):
        """The log as objects. A line that is no JSON object is an error of the daemon, so it fails here."""
        return [json.loads(line) for line in list(self._lines)]

    def wait_log(self, event, timeout=20):
        """The first line with this event; fails with the log when it does not come."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in list(self._lines):
                if json.loads(line).get("event") == event:
                    return json.loads(line)
            time.sleep(0.02)
        raise AssertionError(f"no event {event!r} within {timeout} s:\n{self.log_text()}")

    def partition_dir(self, topic, partition, storage="storage_mmap"):
        return os.path.join(self.data_dir, storage, f"{topic}-{partition}")

    def segments(self, topic, partition):
        folder = self.partition_dir(topic, partition)
        return [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.endswith(".log")]


def failures():
    """The table of docs/OPERATIONS.md: failure -> its metrics, events, /ready, and the test that it names."""
    with open(os.path.join(ROOT, "docs", "OPERATIONS.md"), encoding="utf-8") as file:
        rows = [line.strip().strip("|").split(" | ") for line in file if line.startswith("| ") and "test_" in line]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def metric_sum(text, series):
    """The sum over what a scrape has of a series, `name` or `name{label="value"}`; 0 when there is nothing."""
    name, _, labels = series.rstrip("}").partition("{")
    total = 0.0
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(label in head for label in filter(None, labels.split(","))):
            total += float(value)
    return total


class Result:
    """What a run of the command line left: status, out and err as text, `json` the last line of out."""

    def __init__(self, args, status, out, err):
        self.args, self.status, self.out_bytes, self.err = args, status, out, err.decode(errors="replace")

    @property
    def out(self):
        return self.out_bytes.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.out_bytes)

    @property
    def json_lines(self):
        return [json.loads(line) for line in self.out_bytes.splitlines()]

    def summary(self):
        """The closing summary on standard error."""
        for line in reversed(self.err.replace("\r", "\n").splitlines()):
            if line.strip().startswith("{"):
                return json.loads(line)
        raise AssertionError(f"no summary in:\n{self.err}")

    def __repr__(self):
        return f"{' '.join(map(str, self.args))}: exit {self.status}\nstdout: {self.out[:2000]}\nstderr: {self.err[:4000]}"


def terminal():
    """A pair of descriptors, leader and follower; a machine without pseudo-terminals skips the test."""
    try:
        return pty.openpty()
    except OSError as e:
        raise unittest.SkipTest(f"no pseudo-terminal here: {e}") from None


class TestCase(unittest.TestCase):
    """A folder of its own for each test, and nothing left over after it."""

    maxDiff = 2000

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="streamit-test-")
        self.nodes = []
        self.addCleanup(self._clean_up)

    def _clean_up(self):
        ports, complaints = [], []
        for node in self.nodes:
            if node.process is not None:
                ports += [a.rpartition(":")[2] for all in node.listeners.values() for a in all.split(",")]
                # A sanitizer reports leaks at an orderly end only; elsewhere the quick end is good enough.
                if SANITIZED:
                    status = node.stop()
                    complaints += [f"{node.name} ended with {status}"] if status != 0 else []
                else:
                    node.kill()
        complaints += [line for node in self.nodes for line in node.complaints()]
        failed = self._failed() or bool(complaints)
        for node in self.nodes if failed else []:
            print(f"---- log of {node.name}\n{node.log_text()[-6000:]}", file=sys.stderr)
        if os.environ.get("STREAMIT_KEEP") == "1":
            print(f"kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder)
            self.assertFalse(os.path.exists(self.folder))
        self.assertEqual(complaints, [], "a daemon's own complaints")
        self.assertEqual(self._left_over(), [], "processes stayed")
        for port in ports:
            with socket.socket() as probe:
                probe.settimeout(2)
                self.assertNotEqual(probe.connect_ex(("127.0.0.1", int(port))), 0, f"port {port} still answers")

    def _failed(self):
        outcome = getattr(self, "_outcome", None)
        result = getattr(outcome, "result", None)
        broken = [test for test, _ in getattr(result, "failures", []) + getattr(result, "errors", [])]
        pending = [e for _, e in getattr(outcome, "errors", []) or [] if e]
        return self in broken or bool(pending) or not getattr(outcome, "success", True)

    def _left_over(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if self.folder.encode() in line and int(pid) != os.getpid():
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def node(self, name="node", sets=(), **kwargs):
        """A daemon that is not started yet."""
        node = Node(self.folder, name, sets, **kwargs)
        self.nodes.append(node)
        return node

    def cli(self, server, *args, data=None, status=0, timeout=CALL_S, options=(), env=None):
        """Run the command line against a node (or HOST:PORT, or None for no --server) and check its exit status."""
        address = server.server if isinstance(server, Node) else server
        command = [CLI] + (["--server", address] if address else []) + list(options) + [str(a) for a in args]
        process = spawn(command, stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        try:
            out, err = process.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.fail(f"no end within {timeout} s: {Result(command, None, out, err)}")
        finally:
            _running.pop(process.pid, None)
        result = Result(command, process.returncode, out, err)
        if status is not None:
            self.assertEqual(process.returncode, status, repr(result))
        return result

    def http_get(self, node, path):
        """Status and body, whatever the status."""
        try:
            with urllib.request.urlopen(f"http://{node.http}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def visible(self, node, failure, timeout=20):
        """The failure shows in metrics, log and /ready as its row of docs/OPERATIONS.md says."""
        metrics, events, ready, _ = failures()[failure]
        for event in re.findall(r"`(\w+)`", events):
            node.wait_log(event, timeout)
        if ready == "none":
            return
        status, condition = ready.partition(", ")[::2]
        end, wrong = time.monotonic() + timeout, []
        while True:
            text = self.http_get(node, "/metrics")[1]
            wrong = [f"{name} is {metric_sum(text, name)}" for name, zero in re.findall(r"`([^`]+)`( = 0)?", metrics)
                     if (metric_sum(text, name) > 0) == bool(zero)]
            code, body = self.http_get(node, "/ready")
            listed = [c["condition"] for c in json.loads(body)["conditions"]]
            expected = [] if condition == "nothing" else [condition.strip("`")]
            if code != int(status) or not set(expected) <= set(listed) or (not expected and listed):
                wrong.append(f"/ready is {code}, {body}")
            if not wrong:
                return
            self.assertLess(time.monotonic(), end, f"{failure}: {wrong}")
            time.sleep(0.05)

    def error(self, result, code):
        """`error: CODE: sentence` on standard error; returns the sentence."""
        lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
        self.assertTrue(lines, repr(result))
        self.assertTrue(lines[-1].startswith(f"error: {code}: "), repr(result))
        sentence = lines[-1][len(f"error: {code}: ") :]
        self.assertTrue(sentence.strip(), repr(result))
        return sentence

    def daemon(self, *args, timeout=60):
        """Run the daemon with other arguments than a node's, to its end."""
        process = spawn([DAEMON, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.fail(f"no end within {timeout} s: {Result([DAEMON, *args], None, out, err)}")
        finally:
            _running.pop(process.pid, None)
        return Result([DAEMON, *args], process.returncode, out, err)


def text_lines(rng, count, width=120):
    """`count` lines as a text file has them: words of any length, an empty line now and then, some UTF-8."""
    words = ["log", "offset", "partition", "é", "größe", "日本", "batch", "\t", "a=b", "x" * 40, "%d", '"quoted"', "\\"]
    out = []
    for _ in range(count):
        line = ""
        while rng.random() > 0.02 and len(line) < rng.randrange(1, width):
            line += rng.choice(words) + " "
        out.append(line.encode())
    return out


def main():
    if not os.access(DAEMON, os.X_OK) or not os.access(CLI, os.X_OK):
        sys.exit(f"no programs in {BUILD}/bin: make build")
    unittest.main(verbosity=2)
