#!/usr/bin/python3
"""The contract of the daemon: options, refusals with exit status 2, signals, the lock of the data folder."""

import json
import re
import signal
import socket
import stat
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import grpc_client  # noqa: E402
import harness  # noqa: E402

PLUGINS = ["metadata_local", "metrics_prom", "replication_none", "storage_memory", "storage_mmap", "transport_grpc"]


class Options(harness.TestCase):
    def test_version(self):
        out = self.daemon("--version")
        self.assertEqual(out.status, 0, repr(out))
        self.assertRegex(out.out, r"\b\d+\.\d+\.\d+\b")

    def test_help_and_wrong_usage(self):
        self.assertIn("--config", self.daemon("--help").out)
        for args in ([], ["--config"], ["--no-such-option"], ["--config", harness.CONFIG, "surplus"]):
            out = self.daemon(*args)
            self.assertEqual(out.status, 1, args)
            self.assertIn("--help", out.err)

    def test_check_writes_nothing(self):
        data = self.path("data")
        out = self.daemon("--config", harness.CONFIG, "--set", f"node.data_dir={data}", "--check")
        self.assertEqual(out.status, 0, repr(out))
        self.assertFalse(os.path.exists(data))

    def test_check_beside_a_running_daemon(self):
        node = self.node().start()
        out = self.daemon(*node.args()[1:], "--check")
        self.assertEqual(out.status, 0, repr(out))
        self.cli(node, "list-topics")

    def test_list_plugins(self):
        text = self.daemon("--config", harness.CONFIG, "--list-plugins")
        self.assertEqual(text.status, 0, repr(text))
        out = self.daemon("--config", harness.CONFIG, "--list-plugins", "--json")
        self.assertEqual(out.status, 0, repr(out))
        rows = out.json
        names = {row["name"] for row in rows}
        for name in PLUGINS:
            self.assertIn(name, names)
            self.assertIn(name, text.out)
        for row in rows:
            self.assertLessEqual({"file", "name", "version", "abi", "interfaces"}, set(row))

    def test_a_symbol_a_plugin(self):
        """The release rule of the SDK, on what was built: nothing but sti_plugin is visible."""
        import subprocess

        folder = os.path.join(harness.BUILD, "lib", "streamit")
        for name in sorted(n for n in os.listdir(folder) if n.endswith(".so")):
            out = subprocess.run(["nm", "-D", "--defined-only", os.path.join(folder, name)], capture_output=True,
                                 text=True, check=True).stdout
            symbols = [line.split()[-1] for line in out.splitlines()]
            if not harness.SANITIZED:
                self.assertEqual(symbols, ["sti_plugin"], name)
            self.assertIn("sti_plugin", symbols)


class Refusals(harness.TestCase):
    """Exit status 2, and a message on standard error that names file, line and key."""

    def write(self, text):
        with open(harness.CONFIG, encoding="utf-8") as file:
            original = file.read()
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text(original) if callable(text) else text)
        return path

    def refused(self, path, *sets):
        args = ["--config", path, "--set", f"node.data_dir={self.path('data')}"]
        for item in sets:
            args += ["--set", item]
        out = self.daemon(*args)
        self.assertEqual(out.status, 2, repr(out))
        self.assertFalse(os.path.exists(self.path("data")), "a refusal writes nothing")
        return out.err

    def test_missing_file(self):
        self.assertIn("absent.cfg", self.refused(self.path("absent.cfg")))

    def test_syntax_error_names_file_and_line(self):
        err = self.refused(self.write('node: {\n  data_dir = "x";\n  oops\n};\n'))
        self.assertRegex(err, r"node\.cfg.{0,3}[: ].{0,10}\b[34]\b")

    def test_unknown_key_names_line_and_the_nearest(self):
        err = self.refused(self.write(lambda text: text + "\nnodes: { };\n"))
        self.assertIn("nodes", err)
        self.assertIn("node.cfg", err)

    def test_unknown_option_of_a_plugin(self):
        err = self.refused(harness.CONFIG, "plugins.transport_grpc.prot=1")
        self.assertIn("plugins.transport_grpc.prot", err)
        self.assertRegex(err, r"did you mean.*port")

    def test_wrong_type_and_out_of_range(self):
        self.assertIn("plugins.transport_grpc.port", self.refused(harness.CONFIG, "plugins.transport_grpc.port=many"))
        err = self.refused(harness.CONFIG, "plugins.transport_grpc.port=70000")
        self.assertIn("70000", err)
        self.assertIn("65535", err)

    def test_a_value_for_an_instance_itself(self):
        err = self.refused(harness.CONFIG, "plugins.transport_grpc=1")
        self.assertIn("plugins.transport_grpc.OPTION=VALUE", err)
        self.assertNotIn("unknown instance", err)

    def test_set_without_value_is_usage(self):
        self.assertEqual(self.daemon("--config", harness.CONFIG, "--set", "node.data_dir").status, 2)

    def test_a_plugin_that_is_not_there(self):
        err = self.refused(harness.CONFIG, "plugins.transport_grpc.file=no_such_plugin.so")
        self.assertIn("no_such_plugin.so", err)

    def test_a_file_that_is_no_plugin(self):
        path = self.path("broken.so")
        with open(path, "wb") as file:
            file.write(b"\x7fELF no, not really")
        self.assertIn("broken.so", self.refused(harness.CONFIG, f"plugins.transport_grpc.file={path}"))

    def test_a_plugin_that_others_may_write(self):
        import shutil

        folder = self.path("plugins")
        os.mkdir(folder, 0o755)
        path = os.path.join(folder, "transport_grpc.so")
        shutil.copy(os.path.join(harness.BUILD, "lib", "streamit", "transport_grpc.so"), path)
        os.chmod(path, 0o666)
        err = self.refused(harness.CONFIG, f"plugins.transport_grpc.file={path}")
        self.assertIn(path, err)
        self.assertRegex(err.lower(), r"writ")


class Running(harness.TestCase):
    def test_ready_names_every_listener(self):
        node = self.node().start()
        self.assertLessEqual({"transport_grpc", "metrics_prom"}, set(node.listeners))
        for address in (node.server, node.http):
            with socket.create_connection(address.rsplit(":", 1), 5):
                pass
        ready = [line for line in node.logs() if line.get("event") == "ready"]
        self.assertEqual(len(ready), 1)

    def test_every_log_line_is_an_object_with_the_fixed_fields(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        node.stop()
        for line in node.logs():
            self.assertLessEqual({"time", "level", "component", "event", "message"}, set(line), line)

    def test_term_and_int_end_with_0_and_leave_a_clean_log(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        for how in (signal.SIGTERM, signal.SIGINT):
            self.cli(node, "produce", "--topic", "t", data=b"x\n")
            self.assertEqual(node.stop(how=how), 0, node.log_text())
            node.start()
        self.assertEqual(self.cli(node, "consume", "--topic", "t", "--from", "beginning", "--until-end").out, "x\nx\n")

    def test_term_with_a_waiting_consumer_is_quick(self):
        node = self.node().start()
        self.cli(node, "create-topic", "--name", "t")
        import subprocess

        reader = harness.spawn([harness.CLI, "--server", node.server, "consume", "--topic", "t"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        began = time.monotonic()
        self.assertEqual(node.stop(), 0, node.log_text())
        self.assertLess(time.monotonic() - began, 11)
        reader.kill()
        reader.wait()

    def test_reload_goes_on_serving(self):
        node = self.node().start()
        pid = node.process.pid
        node.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "reload" not in node.log_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertIn("reload", node.log_text())
        self.cli(node, "create-topic", "--name", "t")
        self.assertEqual(node.process.pid, pid)
        self.assertEqual(node.stop(), 0)

    def test_a_reload_of_a_broken_file_changes_nothing(self):
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        node = self.node(config=path).start()
        with open(path, "w", encoding="utf-8") as file:
            file.write("node: {\n")
        node.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "reload" not in node.log_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertTrue([line for line in node.logs() if line["level"] in ("error", "warn")])
        self.cli(node, "create-topic", "--name", "t")

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("0.0.0.0", 0))
            taken.listen()
            port = taken.getsockname()[1]
            node = self.node(sets=[f"plugins.transport_grpc.port={port}"])
            node.start(wait=False)
            self.assertNotEqual(node.process.wait(20), 0)
            node._ended()
        self.assertIn(str(port), node.log_text())
        node.sets = []
        node.start()

    def test_a_second_daemon_on_the_same_data_folder(self):
        node = self.node().start()
        second = self.node("node")
        second.start(wait=False)
        self.assertNotEqual(second.process.wait(20), 0)
        second._ended()
        self.assertIn(node.data_dir, second.log_text())
        self.cli(node, "create-topic", "--name", "t")

    def test_the_data_folder_remembers_who_it_is(self):
        node = self.node(sets=["node.node_id=7"]).start()
        node.stop()
        other = self.node("node", sets=["node.node_id=8"])
        other.start(wait=False)
        self.assertNotEqual(other.process.wait(20), 0)
        other._ended()
        self.assertIn("7", other.log_text())
        self.assertIn("8", other.log_text())

    def test_an_identity_that_cannot_be_written(self):
        """It is written while the instances start: they are stopped again, and another start makes it."""
        node = self.node()
        os.makedirs(os.path.join(node.data_dir, "identity.tmp"))
        node.start(wait=False)
        self.assertEqual(node.process.wait(20), 1)
        node.kill()
        failed = node.wait_log("start_failed")
        self.assertIn(f"data folder {node.data_dir}: cannot write its file identity", failed["message"])
        self.assertNotIn("ready", [line["event"] for line in node.logs()])
        os.rmdir(os.path.join(node.data_dir, "identity.tmp"))
        node.start()
        self.cli(node, "list-topics")

    def test_a_start_tells_its_stages(self):
        node = self.node(sets=["node.log_level=debug"]).start()
        stages = node.wait_log("start_stages")
        names = ("config_us", "load_us", "create_us", "data_dir_us", "start_us", "settle_us")
        self.assertLessEqual({*names, "load_cpu_us"}, set(stages))
        self.assertLessEqual(sum(stages[name] for name in names), node.ready_event["startup_ms"] * 1000 + 1000)

    def test_the_data_folder_is_created_with_its_parents(self):
        node = self.node()
        node.data_dir = self.path("a", "b", "c")
        node.start()
        self.assertTrue(stat.S_ISDIR(os.stat(node.data_dir).st_mode))

    def test_topics_declared_in_the_config(self):
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        path = self.path("node.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + '\ntopics: ( { name = "declared"; partitions = 2; config = [ "segment.bytes=2097152" ]; } );\n')
        node = self.node(config=path).start()
        described = self.cli(node, "describe-topic", "--name", "declared", options=["--json"]).out
        self.assertIn("2097152", described)
        self.cli(node, "produce", "--topic", "declared", "--partition", "1", data=b"x\n")
        node.restart()
        self.assertEqual(self.cli(node, "consume", "--topic", "declared", "--from", "beginning", "--until-end").out, "x\n")

    def test_a_closed_standard_error_stops_nothing(self):
        import subprocess

        node = self.node()
        node.start()
        # The same, with a reader that goes away: writes to the log then fail.
        reader = self.node("quiet")
        process = harness.spawn(reader.args(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        listeners = None
        for line in process.stderr:
            found = json.loads(line)
            if found.get("event") == "ready":
                listeners = found["listeners"]
                break
        process.stderr.close()
        server = "127.0.0.1:" + listeners["transport_grpc"].rpartition(":")[2]
        self.cli(server, "create-topic", "--name", "t")
        self.cli(server, "produce", "--topic", "t", data=b"x\n")
        process.terminate()
        self.assertEqual(process.wait(20), 0)

    def test_start_is_quick_and_memory_small(self):
        if harness.SANITIZED:
            self.skipTest("a figure of the release build")
        node = self.node()
        times = []
        for _ in range(5):
            began = time.monotonic()
            node.start()
            times.append((time.monotonic() - began) * 1000)
            with open(f"/proc/{node.process.pid}/status", encoding="ascii") as file:
                anonymous = int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1))
            node.stop()
        print(f"start to ready: {sorted(times)[2]:.0f} ms; anonymous memory {anonymous} kB", file=sys.stderr)
        self.assertLess(sorted(times)[2], 500, "an order above the target is a defect, not noise")
        self.assertLess(anonymous, 60 * 1024)


class Unreachable(harness.TestCase):
    def test_bytes_that_are_no_grpc_cost_the_sender_only(self):
        node = self.node().start()
        with grpc_client.Client(node) as client:
            client.create("t")
            for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(500)):
                with socket.create_connection(node.server.rsplit(":", 1), 5) as raw:
                    raw.sendall(noise)
                    raw.settimeout(5)
                    try:
                        raw.recv(1000)
                    except OSError:
                        pass
            self.assertEqual(client.produce("t", 0, [b"x"]).base_offset, 0)


if __name__ == "__main__":
    harness.main()
