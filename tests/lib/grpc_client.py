"""A Python client generated from our .proto, as an application developer would make one."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile

import harness
import record_batch

_HERE = os.path.join(harness.ROOT, "tests", "integration", "proto")


def _generate():
    out = tempfile.mkdtemp(prefix="streamit-pb-")
    atexit.register(shutil.rmtree, out, True)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", os.path.join(harness.ROOT, "proto"), "-I", _HERE,
                    f"--python_out={out}", f"--grpc_python_out={out}", "streamit/v1/streamit.proto", "health.proto",
                    "reflection.proto"], check=True)
    sys.path.insert(0, out)


_generate()

# Programs are started beside gRPC's threads, and only to exec: its own handling of forks stays out of the way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402
import health_pb2 as health  # noqa: E402
import health_pb2_grpc  # noqa: E402
import reflection_pb2 as reflection  # noqa: E402
import reflection_pb2_grpc  # noqa: E402
from streamit.v1 import streamit_pb2 as pb  # noqa: E402
from streamit.v1 import streamit_pb2_grpc  # noqa: E402

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CALL_S = 30


class Client:
    """Thin: one method a call, results as protobuf messages, errors as grpc.RpcError or in the rows."""

    def __init__(self, node):
        self.channel = grpc.insecure_channel(node if isinstance(node, str) else node.server, options=UNLIMITED)
        self.api = streamit_pb2_grpc.StreamItStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def create(self, name, partitions=1, replication=1, config=None, **kwargs):
        entries = [pb.ConfigEntry(key=k, value=v) for k, v in (config or {}).items()]
        return self.api.CreateTopic(pb.CreateTopicRequest(name=name, partitions=partitions, replication=replication,
                                                          config=entries, **kwargs), timeout=CALL_S)

    def produce_rows(self, rows, acks=pb.ACKS_LEADER, timeout=CALL_S, **kwargs):
        """rows: (topic, partition, batch bytes). Returns the results of the rows."""
        request = pb.ProduceRequest(acks=acks, **kwargs)
        for topic, partition, batch in rows:
            request.partitions.add(topic=topic, partition=partition, batch=batch)
        return list(self.api.Produce(request, timeout=timeout).partitions)

    def produce(self, topic, partition, records, acks=pb.ACKS_LEADER, **kwargs):
        """Append records (bytes, Records, or one finished batch); returns the row's result."""
        batch = records if isinstance(records, bytes) else record_batch.encode(records)
        return self.produce_rows([(topic, partition, batch)], acks, **kwargs)[0]

    def fetch(self, topic, partition, offset, max_wait_ms=0, max_bytes=1 << 20, min_bytes=1, timeout=CALL_S, **kwargs):
        request = pb.FetchRequest(max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes)
        request.partitions.add(topic=topic, partition=partition, offset=offset, **kwargs)
        return self.api.Fetch(request, timeout=timeout).partitions[0]

    def read(self, topic, partition, offset=0, end=None):
        """All records from `offset` to the high watermark (or `end`), each batch checked by the oracle."""
        out = []
        while end is None or offset < end:
            row = self.fetch(topic, partition, offset)
            if row.HasField("error"):
                raise AssertionError(f"fetch {topic}-{partition}@{offset}: {row.error}")
            if not row.batches:
                if end is not None and row.high_watermark >= end:
                    raise AssertionError(f"nothing at {offset} below the high watermark {row.high_watermark}")
                break
            for batch in record_batch.decode_all(row.batches):
                out += [r for r in batch.records if r.offset >= offset]
                offset = max(offset, batch.next_offset)
        return out

    def end(self, topic, partition):
        return self.list_offset(topic, partition, -1).offset

    def list_offset(self, topic, partition, timestamp_ms):
        request = pb.ListOffsetsRequest()
        request.partitions.add(topic=topic, partition=partition, timestamp_ms=timestamp_ms)
        return self.api.ListOffsets(request, timeout=CALL_S).partitions[0]


def status_error(error):
    """The code's name, the sentence and the Error of the trailer of a failed call."""
    name, _, sentence = error.details().partition(": ")
    trailer = dict(error.trailing_metadata() or ()).get("streamit-error-bin")
    return name, sentence, pb.Error.FromString(trailer) if trailer else None
