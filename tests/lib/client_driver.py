"""libstreamit in a process of its own, by the commands of client/tests/client_driver.c."""

import os
import subprocess
import threading
import time

import harness

DRIVER = os.path.join(harness.BUILD, "tests", "client_driver")
WAIT_S = 60


class Driver:
    def __init__(self, servers, **options):
        self.process = harness.spawn([DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True)
        self.lines = []      # all that is no answer: reports, records ...
        self.answers = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.ok("client", servers, **options)

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                words = line.rstrip("\n").split(" ")
                (self.lines if words[0] in ("report", "record", "callback", "position", "topic") else self.answers).append(words)
                self.changed.notify_all()
        with self.changed:
            self.answers.append(["EOF"])
            self.changed.notify_all()

    def start(self, *words, **options):
        """Give a command, and do not wait for its answer."""
        text = " ".join([str(w) for w in words] + [f"{k}={v}" for k, v in options.items()])
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def answer(self, timeout=WAIT_S):
        end = time.monotonic() + timeout
        with self.changed:
            while not self.answers:
                assert self.changed.wait(end - time.monotonic()), f"no answer within {timeout} s; last: {self.lines[-3:]}"
            return self.answers.pop(0)

    def __call__(self, *words, **options):
        """Give a command; its answer: "ok" or the name of a code."""
        self.start(*words, **options)
        return self.answer()[0]

    def ok(self, *words, **options):
        self.start(*words, **options)
        answer = self.answer()
        assert answer[0] == "ok", f"{words}: {' '.join(answer)}"

    def of(self, kind):
        with self.changed:
            return [line[1:] for line in self.lines if line[0] == kind]

    def reports(self):
        """{sequence: (code, traits, offset)}; a second report of a record fails."""
        out = {}
        for _topic, partition, offset, code, traits, sequence, *_ in self.of("report"):
            assert int(sequence) not in out, f"two reports of {sequence}"
            out[int(sequence)] = (code, int(traits), int(offset), int(partition))
        return out

    def values(self, partition=None):
        return [" ".join(r[3:]) for r in self.of("record") if partition is None or int(r[1]) == partition]

    def wait(self, condition, what, timeout=WAIT_S):
        end = time.monotonic() + timeout
        with self.changed:
            while not condition(self):
                assert self.changed.wait(end - time.monotonic()), f"not within {timeout} s: {what}; {self.lines[-5:]}"

    def end(self):
        if self.process.poll() is None:
            self.start("end")
            self.process.stdin.close()
            status = self.process.wait(WAIT_S)
            self.reader.join(WAIT_S)
            self.process.stdout.close()
            assert status == 0, f"the driver ended with {status}"

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join(WAIT_S)
        self.process.stdin.close()
        self.process.stdout.close()
