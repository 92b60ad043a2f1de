"""Segments that a real node wrote, for judges from outside: every codec, headers, nulls, several segments."""

import random

import grpc_client
import record_batch

PARTITIONS = 2


def write(node):
    """Fill topic t of a running node. Returns the records of each partition, in order."""
    rng = random.Random(3)
    written = [[] for _ in range(PARTITIONS)]
    with grpc_client.Client(node) as client:
        client.create("t", partitions=PARTITIONS, config={"segment.bytes": "32768", "index.interval.bytes": "1024"})
        for i in range(120):
            for partition in range(PARTITIONS):
                records = []
                for k in range(rng.randrange(1, 6)):
                    key = None if rng.randrange(4) == 0 else b"key %d" % k
                    value = None if rng.randrange(8) == 0 else rng.randbytes(rng.randrange(300))
                    headers = [(b"name", b"value"), (b"null", None)] if rng.randrange(3) == 0 else []
                    records.append(record_batch.Record(value, key, headers, 1700000000000 + 10 * i + k))
                client.produce("t", partition, record_batch.encode(records, codec=i % 5))
                written[partition] += records
    return written
