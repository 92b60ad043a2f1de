"""A server that answers as a test says: one topic, whose rows fail, wait or vanish on request.

It stores like a broker does: a row that fails is not stored, and the stream then refuses later rows of the partition until
their sender has read of it. What is stored stands in `logs`, by partition, as (value, ...) in the order of the offsets.
"""

import struct
import threading
import time
from concurrent import futures

import record_batch
from grpc_client import UNLIMITED, grpc, pb, streamit_pb2_grpc


class Partition:
    def __init__(self):
        self.values = []
        self.batches = []  # (base offset, last offset, bytes with the offsets in them)


class Row:
    """What a test's `on_row` is asked about."""

    def __init__(self, stream, request, row, values):
        self.stream, self.request, self.row, self.values = stream, request, row, values
        self.partition = row.partition


class FakeServer(streamit_pb2_grpc.StreamItServicer):
    def __init__(self, partitions=1, port=0, leader=None):
        self.count = partitions
        self.logs = {}
        self.on_row = None     # (Row) -> None: store; (code, {fields of Error}): fail; "drop": never answer; "lost": store, end
        self.on_fetch = None   # (request, context, log) -> iterator of responses, instead of ours
        self.leader = leader   # (host, port, node id) of FindLeader, if it is another server
        self.node_id = 1
        self.describes = 0
        self.finds = 0
        self.requests = []     # (stream number, id, answered, partitions) as they came
        self.streams = 0
        self.under_way_most = 0
        self.answer_delay = 0.0
        self.shift = 0         # added to the ids of answers
        self.lock = threading.Condition()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
        streamit_pb2_grpc.add_StreamItServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        assert self.port, f"port {port} is taken"
        self.server.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        self.server.stop(0).wait()

    def values(self, partition=0):
        with self.lock:
            return list(self.logs.get(partition, Partition()).values)

    def DescribeTopic(self, request, context):
        self.describes += 1
        node = self.leader[2] if self.leader else self.node_id
        topic = pb.TopicDescription(name=request.name, replication=1)
        for i in range(self.count):
            topic.partitions.add(partition=i, leader=node, replicas=[node], isr=[node])
        topic.config.add(key="max.message.bytes", value="2097152")
        return pb.DescribeTopicResponse(topic=topic)

    def FindLeader(self, request, context):
        self.finds += 1
        host, port, node = self.leader or ("127.0.0.1", self.port, self.node_id)
        return pb.FindLeaderResponse(node_id=node, host=host, port=port)

    def ListOffsets(self, request, context):
        out = pb.ListOffsetsResponse()
        for row in request.partitions:
            end = len(self.values(row.partition))
            out.partitions.add(topic=row.topic, partition=row.partition, offset=0 if row.timestamp_ms == -2 else end)
        return out

    def _store(self, row):
        log = self.logs.setdefault(row.partition, Partition())
        base = len(log.values)
        values = [r.value.decode() for r in record_batch.decode_one(row.batch).records]
        log.values += values
        log.batches.append((base, base + len(values) - 1, struct.pack(">q", base) + row.batch[8:]))
        self.lock.notify_all()
        return base

    def ProduceStream(self, requests, context):
        with self.lock:
            self.streams += 1
            stream = self.streams
        failed = {}
        out, waiting = [], threading.Condition()
        state = {"end": False, "lost": False, "read": 0, "done": 0, "answered": 0}

        def read():
            try:
                for request in requests:
                    results, answer = [], True
                    if request.answered > state["answered"]:  # as a broker does
                        raise ValueError(f"answered {request.answered}, but answers went up to {state['answered']}")
                    with waiting:
                        state["read"] += 1
                        self.under_way_most = max(self.under_way_most, state["read"] - state["done"])
                    with self.lock:
                        self.requests.append((stream, request.id, request.answered, [r.partition for r in request.partitions]))
                    for row in request.partitions:
                        values = [r.value.decode() for r in record_batch.decode_one(row.batch).records]
                        result = pb.ProduceResult(topic=row.topic, partition=row.partition, base_offset=-1)
                        mark = failed.get(row.partition, 0)
                        verdict = None
                        if mark and mark < request.id and request.answered < mark:
                            verdict = (pb.PRECONDITION, {"retriable": True, "message": "an earlier batch was not appended"})
                        elif self.on_row is not None:
                            verdict = self.on_row(Row(stream, request, row, values))
                            if isinstance(verdict, tuple):
                                failed[row.partition] = max(mark, request.id)
                        if isinstance(verdict, tuple):
                            result.error.CopyFrom(pb.Error(code=verdict[0], **verdict[1]))
                        elif verdict == "drop":
                            answer = False
                        else:
                            with self.lock:
                                result.base_offset = self._store(row)
                        if verdict == "lost":
                            with waiting:
                                state["lost"] = True
                                waiting.notify_all()
                            return
                        results.append(result)
                    if self.answer_delay:
                        time.sleep(self.answer_delay)
                    if answer:
                        with waiting:
                            state["done"] += 1
                            out.append(pb.ProduceStreamResult(id=request.id + self.shift, partitions=results))
                            waiting.notify_all()
            except Exception:  # noqa: BLE001: the client went away, or the stream ended
                pass
            finally:
                with waiting:
                    state["end"] = True
                    waiting.notify_all()

        threading.Thread(target=read, daemon=True).start()
        while True:
            with waiting:
                while not out and not state["end"] and not state["lost"] and context.is_active():
                    waiting.wait(0.2)
                ready, out[:] = list(out), []
                end = state["end"] and not ready
            if state["lost"]:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            if ready:
                state["answered"] = max([state["answered"], *(r.id for r in ready)])
                yield pb.ProduceStreamResponse(through=ready[-1].id, results=ready)
            elif end or not context.is_active():
                return

    def FetchStream(self, request, context):
        if self.on_fetch is not None:
            yield from self.on_fetch(self, request, context)
            return
        at = {(r.topic, r.partition): r.offset for r in request.partitions}
        while context.is_active():
            response = pb.FetchResponse()
            with self.lock:
                for (topic, partition), offset in at.items():
                    log = self.logs.get(partition, Partition())
                    data = b"".join(b for base, last, b in log.batches if last >= offset)
                    if data:
                        at[topic, partition] = len(log.values)
                        response.partitions.add(topic=topic, partition=partition, high_watermark=len(log.values),
                                                next_offset=len(log.values), batches=data)
                if not response.partitions:
                    self.lock.wait(0.1)
                    continue
            yield response
