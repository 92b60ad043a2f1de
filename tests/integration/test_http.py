#!/usr/bin/python3
"""/metrics, /live, /ready and /version over HTTP."""

import json
import re
import urllib.error
import urllib.request
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness  # noqa: E402

LINE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="(?:[^"\\]|\\.)*",?)*\})? (\+Inf|-Inf|NaN|-?[0-9.]+(e[+-]?\d+)?)$')


class Http(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.host = self.node().start()

    def get(self, path, method="GET"):
        request = urllib.request.Request(f"http://{self.host.http}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def samples(self):
        out = {}
        for line in self.get("/metrics")[2].splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                out[name] = float(value)
        return out

    def test_live_ready_version(self):
        self.assertEqual(self.get("/live")[0], 200)
        self.assertEqual(self.get("/ready")[0], 200)
        status, _, body = self.get("/version")
        self.assertEqual(status, 200)
        self.assertRegex(body, r"\d+\.\d+\.\d+")
        self.assertEqual(self.get("/no/such/path")[0], 404)
        self.assertIn(self.get("/metrics", method="DELETE")[0], (404, 405))

    def test_metrics_are_in_the_exposition_format(self):
        status, headers, body = self.get("/metrics")
        self.assertEqual(status, 200)
        self.assertIn("text/plain", headers["Content-Type"])
        types, seen = {}, set()
        for line in body.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.assertNotIn(name, types, "one TYPE a name")
                self.assertIn(kind, ("counter", "gauge", "histogram"))
                types[name] = kind
            elif line and not line.startswith("#"):
                self.assertRegex(line, LINE)
                sample = line.rpartition(" ")[0]
                self.assertNotIn(sample, seen, "each series once")
                seen.add(sample)
                base = re.sub(r"_(bucket|sum|count)$", "", sample.split("{")[0])
                self.assertTrue(base in types or sample.split("{")[0] in types, f"no TYPE for {sample}")
        self.assertTrue(all(name.startswith(("streamit_", "process_")) for name in types), sorted(types))
        for name, kind in types.items():
            if kind == "counter":
                self.assertTrue(name.endswith("_total"), name)

    def test_produce_and_consume_are_counted(self):
        before = self.samples()
        self.cli(self.host, "create-topic", "--name", "t")
        self.cli(self.host, "produce", "--topic", "t", "--size", "100", "--count", "1234")
        self.cli(self.host, "consume", "--topic", "t", "--from", "beginning", "--until-end", "--quiet")
        after = self.samples()
        grown = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)}
        self.assertIn(1234.0, grown.values(), f"no counter of the records produced: {json.dumps(grown, indent=1)}")
        for word in ("produce", "fetch"):
            self.assertTrue([k for k in grown if word in k], f"nothing named {word} moved: {sorted(grown)}")

    def test_concurrent_scrapes(self):
        import threading

        codes = []
        threads = [threading.Thread(target=lambda: codes.append(self.get("/metrics")[0])) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(codes, [200] * 20)


if __name__ == "__main__":
    harness.main()
