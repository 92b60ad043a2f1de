#!/usr/bin/python3
"""A real Prometheus scrapes a node and answers what an operator asks; promtool finds nothing to complain about."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402

READY_S = 60
CONFIG = """
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}
scrape_configs:
  - job_name: streamit
    static_configs: [ {{ targets: [ "{target}" ] }} ]
"""


@unittest.skipUnless(shutil.which("prometheus") and shutil.which("promtool"), "no Prometheus here: tools/install-deps.sh test")
class Prometheus(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()

    def get(self, url):
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()

    def start_prometheus(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = self.path("prometheus.yml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(target=self.host.http))
        log = open(self.path("prometheus.log"), "wb")
        self.addCleanup(log.close)
        process = harness.spawn(["prometheus", f"--config.file={config}", f"--web.listen-address={self.address}",
                                 f"--storage.tsdb.path={self.path('tsdb')}", "--log.level=warn"],
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})

        def end():
            process.kill()
            process.wait()
            harness._running.pop(process.pid, None)

        self.addCleanup(end)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                self.get(f"http://{self.address}/-/ready")
                return
            except OSError:
                time.sleep(0.1)
        self.fail("Prometheus is not ready: " + harness.read(self.path("prometheus.log")).decode(errors="replace"))

    def query(self, text):
        """The value of the first series, or None."""
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": text})
        result = json.loads(self.get(url))["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def wait_query(self, text, expected):
        deadline = time.monotonic() + READY_S
        value = None
        while time.monotonic() < deadline:
            value = self.query(text)
            if value is not None and expected(value):
                return value
            time.sleep(0.2)
        self.fail(f"{text} is {value}")

    def test_it_scrapes_and_answers(self):
        self.start_prometheus()
        self.wait_query("up", lambda v: v == 1)
        self.cli(self.host, "create-topic", "--name", "t")
        for _ in range(3):
            self.cli(self.host, "produce", "--topic", "t", "--size", "100", "--count", "1000")
            time.sleep(0.55)
        self.cli(self.host, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--quiet")
        self.wait_query("sum(streamit_produce_records_total)", lambda v: v == 3000)
        self.wait_query("sum(rate(streamit_produce_records_total[30s]))", lambda v: v > 0)
        self.wait_query('streamit_topic_fetched_bytes_total{topic="t"}', lambda v: v > 300000)
        self.wait_query("histogram_quantile(0.99, sum by (le) (rate(streamit_produce_seconds_bucket[30s])))",
                        lambda v: 0 < v < 60)
        self.wait_query('histogram_quantile(0.5, rate(streamit_produce_stage_seconds_bucket{stage="append"}[30s]))',
                        lambda v: 0 <= v < 60)
        self.wait_query('sum(streamit_grpc_requests_total{code="OK"})', lambda v: v >= 4)
        self.wait_query("process_start_time_seconds", lambda v: abs(v - time.time()) < 600)
        targets = json.loads(self.get(f"http://{self.address}/api/v1/targets"))["data"]["activeTargets"]
        self.assertEqual([t["lastError"] for t in targets], [""])

    def test_every_alert_of_the_document_is_a_query(self):
        with open(os.path.join(harness.ROOT, "docs", "METRICS.md"), encoding="utf-8") as file:
            rows = file.read().partition("## What to alert on")[2].partition("\n## ")[0]
        alerts = [line.split("`")[1] for line in rows.splitlines() if line.startswith("| ") and "`" in line]
        self.assertGreater(len(alerts), 8)
        rules = {"groups": [{"name": "streamit", "rules": [
            {"alert": f"Alert{i}", "expr": expr} for i, expr in enumerate(alerts)]}]}
        path = self.path("rules.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(rules, file)  # JSON is YAML
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_promtool_finds_nothing(self):
        self.cli(self.host, "create-topic", "--name", "t", "--partitions", "3")
        self.cli(self.host, "produce", "--topic", "t", data=b"x\n")
        done = subprocess.run(["promtool", "check", "metrics"], input=self.get(f"http://{self.host.http}/metrics"),
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))


if __name__ == "__main__":
    harness.main()
