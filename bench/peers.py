"""Other logs on the same machine, in the same round: Redis streams, NATS JetStream, and Kafka where its libraries are.

All of them are optional. What is not there is Skipped with the reason, and the table prints it. Each runs on a free port of
loopback, with its files in the benchmark's own folder, and is ended and removed with it.
"""

import contextlib
import glob
import os
import random
import shutil
import string
import subprocess
import time

import measure
from measure import Skipped

KAFKA = "org.apache.kafka"


@contextlib.contextmanager
def server(args, port, env=None):
    """A peer that listens. Gives its process, and how long it took to listen."""
    process = measure.harness.spawn(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        yield process, measure.wait_port(port, process, 60 if env else 10)
    finally:
        measure.end(process)


# ---- Redis


def redis_server(folder):
    """Debian's redis-tools holds the server too, under another name; only redis-server would also start a service."""
    found = shutil.which("redis-server")
    tool = shutil.which("redis-check-rdb")
    if found is None and tool is not None:
        found = os.path.join(folder, "redis-server")
        if not os.path.exists(found):
            os.symlink(tool, found)
    if found is None or shutil.which("redis-benchmark") is None:
        raise Skipped("no redis-tools here (apt-get install redis-tools)")
    return found


@contextlib.contextmanager
def redis(folder, fsync):
    program, port = redis_server(folder), measure.free_port()
    place = os.path.join(folder, "redis")
    os.mkdir(place)
    try:
        args = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", place, "--save", "", "--appendonly", "yes",
                "--appendfsync", fsync, "--daemonize", "no"]
        with server(args, port):
            yield port
    finally:
        shutil.rmtree(place, ignore_errors=True)


def redis_xadd(port, count, size, pipeline):
    """redis-benchmark, one connection, XADD of one field. Returns records a second, and the median time in ms."""
    value = "".join(random.choices(string.ascii_letters + string.digits, k=size))
    out = measure.run(["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", "1", "-P", str(pipeline), "-n", str(count),
                       "--csv", "XADD", "s", "*", "f", value])
    row = measure.csv_rows(out)[-1]
    return float(row["rps"]), float(row["p50_latency_ms"])


# ---- NATS


@contextlib.contextmanager
def nats(folder):
    """Gives the port, the process and the seconds until it listened."""
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if program is None:
        raise Skipped("no nats-server here (apt-get install nats-server)")
    place, port = os.path.join(folder, "nats"), measure.free_port()
    os.mkdir(place)
    try:
        with server([program, "-js", "-sd", place, "-a", "127.0.0.1", "-p", str(port)], port) as (process, seconds):
            yield port, process, seconds
    finally:
        shutil.rmtree(place, ignore_errors=True)


# ---- Kafka


def kafka_classes():
    lib = os.environ.get("STREAMIT_KAFKA_LIB")
    if not lib:
        raise Skipped("STREAMIT_KAFKA_LIB names no folder with Kafka's libraries")
    if shutil.which("java") is None:
        raise Skipped("no java here")
    if not glob.glob(os.path.join(lib, "kafka-tools-*.jar")) or not glob.glob(os.path.join(lib, "kafka_2*.jar")):
        raise Skipped(f"{lib} lacks kafka_2.NN or kafka-tools")
    return os.path.join(lib, "*")


@contextlib.contextmanager
def kafka(folder):
    """One node, KRaft, its defaults otherwise. Gives the class path and the port."""
    classes, port, control = kafka_classes(), measure.free_port(), measure.free_port()
    place = os.path.join(folder, "kafka")
    os.mkdir(place)
    config = os.path.join(place, "server.properties")
    settings = {"process.roles": "broker,controller", "node.id": "1", "controller.quorum.voters": f"1@127.0.0.1:{control}",
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}",
                "controller.listener.names": "CONTROLLER", "log.dirs": os.path.join(place, "log"),
                "offsets.topic.replication.factor": "1", "num.partitions": "1"}
    with open(config, "w", encoding="ascii") as file:
        file.write("".join(f"{key}={value}\n" for key, value in settings.items()))
    try:
        java = ["java", "-Xmx1g", "-cp", classes]
        measure.run([*java, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", config])
        with server([*java, "kafka.Kafka", config], port, env=dict(os.environ, LOG_DIR=place)):
            yield classes, port
    except measure.Failure as error:
        raise Skipped(str(error)[:200]) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def kafka_produce(classes, port, count, size):
    """Kafka's own ProducerPerformance, acks=1, batches of 1 MiB. Returns records a second."""
    time.sleep(1)  # it listens before it leads
    out = measure.run(["java", "-Xmx512m", "-cp", classes, f"{KAFKA}.tools.ProducerPerformance", "--topic", f"t{size}",
                       "--num-records", str(count), "--record-size", str(size), "--throughput", "-1", "--producer-props",
                       f"bootstrap.servers=127.0.0.1:{port}", "acks=1", "batch.size=1048576", "linger.ms=5",
                       "buffer.memory=67108864", "max.request.size=2097152"])
    text = out.decode(errors="replace").strip().splitlines()[-1]
    return float(text.split("records/sec")[0].split()[-1])
