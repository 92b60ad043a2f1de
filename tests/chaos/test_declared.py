#!/usr/bin/python3
"""kill -9 at each step of a start that makes declared topics: the next start makes what is missing, once, and serves all.

Each life begins with an empty data folder, or with what the deaths before have left of one. The points are those that the
build lists and that such a start comes by; nothing here is random.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import fault_points  # noqa: E402
import grpc_client  # noqa: E402
import harness  # noqa: E402
from grpc_client import pb  # noqa: E402

TOPICS = {"first": 2, "second": 1}
# Parts of the way: what is kept, that it was made, and the deaths in between.
ON_THE_WAY = ("declared.", "topics.", "metadata.append.before_write", "metadata.append.before_sync",
              "metadata.append.after_sync", "metadata.commit.", "partition.create.")


class Declared(harness.TestCase):
    def config(self):
        with open(harness.CONFIG, encoding="utf-8") as file:
            text = file.read()
        path = self.path("node.cfg")
        groups = ", ".join(f'{{ name = "{name}"; partitions = {count}; config = [ "flush.policy=commit" ]; }}'
                           for name, count in TOPICS.items())
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{text}\ntopics: ( {groups} );\n")
        return path

    def die(self, node, point, nth):
        """One start with the point armed. @return was it met before the node was ready?"""
        node.daemon = harness.FAULT_DAEMON
        node.prefix = ["env", f"STREAMIT_FAULT={point}:kill@{nth}"]
        node.start(wait=False)
        while node.process.poll() is None and not node._ready.wait(0.005):
            pass
        met = node.process.poll() is not None and not node._ready.is_set()
        if node.process.poll() is None:
            node.process.kill()
        status = node._ended()
        self.assertEqual(status, -9, node.log_text())
        return met

    def check(self, node):
        """The released daemon makes the rest, and both topics serve, each made once."""
        node.daemon, node.prefix = harness.DAEMON, []
        node.start()
        with grpc_client.Client(node) as client:
            found = {t.name: t.partitions for t in client.api.ListTopics(pb.ListTopicsRequest()).topics}
            self.assertEqual(found, TOPICS)
            for name, count in TOPICS.items():
                for partition in range(count):
                    self.assertEqual(client.produce(name, partition, [b"x"]).base_offset, 0)
        self.assertFalse([line for line in node.logs() if line["event"] in ("topic_differs", "topic_declared_failed")])
        folders = sorted(os.listdir(os.path.join(node.data_dir, "storage_mmap")))
        self.assertEqual([f for f in folders if f.startswith(("first", "second"))], ["first-0", "first-1", "second-0"])
        node.kill()

    def test_each_step(self):
        points = [p for found in fault_points.points(harness.FAULT_BUILD).values() for p in found]
        wanted = [p for p in points if p.startswith(ON_THE_WAY)]
        self.assertGreater(len(wanted), 8)
        config, deaths, met = self.config(), 0, set()
        for point in wanted:
            for nth in (1, 2, 3) if harness.FULL else (1, 2):
                node = self.node(f"{point}-{nth}", config=config)
                if not self.die(node, point, nth):
                    continue  # fewer than that on the way
                deaths += 1
                met.add(point)
                if nth == 2:  # and again, over what is left
                    deaths += self.die(node, point, 1)
                self.check(node)
        self.assertEqual([p for p in wanted if p not in met], [])
        print(f"{deaths} deaths at {len(met)} points", file=sys.stderr)


if __name__ == "__main__":
    harness.main()
