#!/usr/bin/python3
"""The first five minutes of README.md, as typed: the commands are taken out of the page and run.

The page's own lines run unchanged in one shell, in a folder that looks like the root of a built tree: `build` leads to
the build folder under test. They use the default ports; when those are taken by somebody else the test is skipped, and
says so.
"""

import re
import shutil
import signal
import socket
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402


class FirstFiveMinutes(harness.TestCase):
    def commands(self):
        with open(os.path.join(harness.ROOT, "README.md"), encoding="utf-8") as file:
            text = file.read()
        section = re.search(r"^## First five minutes$(.*?)^## ", text, re.M | re.S)
        self.assertIsNotNone(section, "README.md has its section")
        return "".join(re.findall(r"^```sh\n(.*?)^```", section.group(1), re.M | re.S))

    def test_as_typed(self):
        for port in (8080, 9090):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    self.skipTest(f"port {port} is taken by another program")
        script = self.commands()
        for word in ("create-topic", "produce", "consume", "kill -9", "cmp"):
            self.assertIn(word, script, f"the first five minutes show {word}")
        # A place of its own, so that data and files of the walk stay out of the tree.
        place = self.path("clone")
        os.mkdir(place)
        for name in ("etc", "README.md", "LICENSE"):
            source = os.path.join(harness.ROOT, name)
            (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, os.path.join(place, name))
        os.symlink(harness.BUILD, os.path.join(place, "build"))
        script = script.replace("make build\n", "")  # it stands under `build` already
        # Into a file, not a pipe: a daemon that the page leaves running would hold the pipe open.
        with open(self.path("walk.out"), "wb") as walk:
            process = harness.spawn(["bash", "-e", "-c", script], cwd=place, stdin=subprocess.DEVNULL, stdout=walk,
                                    stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(timeout=120)
        finally:
            # The session is ours: what the page started and did not end goes with it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            harness._running.pop(process.pid, None)
        out = harness.read(self.path("walk.out"))
        log = os.path.join(place, "streamitd.log")
        tail = harness.read(log).decode(errors="replace")[-3000:] if os.path.exists(log) else ""
        self.assertEqual(process.returncode, 0, f"{script}\n----\n{out.decode(errors='replace')}\n----\n{tail}")


if __name__ == "__main__":
    harness.main()
