#!/usr/bin/python3
"""The benchmark: a real node, a real client, and the machine's own limits, in turns.

    bench/run.sh BUILD [--rounds N] [--write] [--require] [--dir FOLDER] [--quick] [--json FILE]

A round starts a node over an empty folder, looks at it idle, and then measures each figure right after the limits that
belong to it, so that both meet the machine in the same state. A figure is the median over the rounds, with the lowest
and the highest beside it. How to read the table, and what is done about noise, stands in README.md.

Everything is bounded: rounds that would pass the time budget are left out and the table says how many were made.
Processes die with this one, the folder is removed however it ends.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import harness  # noqa: E402  (needs the path above, and STREAMIT_BUILD)

MIB = 1 << 20
SEGMENT = 128 * MIB  # the default of segment.bytes
TICKS = os.sysconf("SC_CLK_TCK")
PRIORITY = -15
RUN_S = 60  # of any one process
COOL_S = 5  # after it, memory that was freed has gone back to a host that asks for it


class Failure(Exception):
    """The benchmark cannot go on; the text says why."""


class Plan:
    """How much is done; `quick` proves that everything works, and its figures mean nothing."""

    def __init__(self, quick):
        self.small_count = 20_000 if quick else 2_000_000
        self.large_count = 4_000 if quick else 500_000
        self.idle_s = 0.2 if quick else 2
        self.cool_s = 0 if quick else COOL_S
        self.calls = 200 if quick else 3000
        self.paced = 300 if quick else 2000
        self.small_bytes = self.small_count * 100
        self.large_bytes = self.large_count * 1024


# ---- processes


def run_json(args, limit_s=RUN_S):
    """Run a program to its end. Returns the last line of its output as an object, with its CPU seconds as `cpu_s`."""
    process = harness.spawn(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    before = os.times()
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failure(f"no end within {limit_s} s: {' '.join(args)}") from None
    after = os.times()
    if process.returncode != 0:
        raise Failure(f"{' '.join(args)}: exit {process.returncode}: {err.decode(errors='replace').strip()}")
    result = json.loads(out.splitlines()[-1])
    result["cpu_s"] = after.children_user + after.children_system - before.children_user - before.children_system
    return result


def raw(name, *args):
    """One of the limit programs."""
    return run_json([os.path.join(harness.BUILD, "bench", name), *map(str, args)])


def streamit(node, *args):
    """The command line, against the node."""
    return run_json([harness.CLI, "--server", node.server, "--json", *map(str, args)])


def cpu_s(pid):
    """CPU seconds of a process so far, all threads, in nanosecond steps where the kernel has them."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9
    except OSError:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def rss_anon_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    raise Failure("/proc/PID/status has no RssAnon")


def busy_s():
    """CPU seconds that the whole machine has worked."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(n) for n in file.readline().split()[1:9]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS, fields[7] / TICKS


# ---- one round


class Round:
    """Everything measured once. `out` maps the name of a figure or limit to its value."""

    def __init__(self, folder, number, plan, out):
        self.folder, self.plan, self.out = folder, plan, out
        self.node = harness.Node(folder, f"node{number}")

    def put(self, **values):
        self.out.update({name: float(value) for name, value in values.items()})

    def start(self):
        begin = time.monotonic()
        check = subprocess.run([harness.DAEMON, "--config", harness.CONFIG, "--check"], capture_output=True,
                               timeout=RUN_S, check=False)
        if check.returncode != 0:
            raise Failure(f"streamitd --check: {check.stderr.decode(errors='replace').strip()}")
        self.put(check_ms=(time.monotonic() - begin) * 1e3)
        begin = time.monotonic()
        self.node.start()
        self.put(ready_ms=(time.monotonic() - begin) * 1e3, ready_self_ms=self.node.ready_event["startup_ms"])

    def idle(self):
        time.sleep(self.plan.idle_s / 2)
        pid, begin = self.node.process.pid, time.monotonic()
        before = cpu_s(pid)
        time.sleep(self.plan.idle_s)
        self.put(idle_cpu_pct=(cpu_s(pid) - before) / (time.monotonic() - begin) * 100, anon_mb=rss_anon_mb(pid))

    def timed(self, name, *args):
        """A produce or consume, with the cores that both sides kept busy."""
        pid, before = self.node.process.pid, cpu_s(self.node.process.pid)
        result = streamit(self.node, *args)
        if result["errors"] != 0:
            raise Failure(f"{name}: {result['errors']} records failed")
        seconds = result["seconds"]
        self.put(**{name + "_records": result["records_per_s"], name + "_mb": result["mb_per_s"],
                    name + "_node_cpu": (cpu_s(pid) - before) / seconds, name + "_client_cpu": result["cpu_s"] / seconds})
        return result

    def produce(self, name, topic, size, count):
        self.timed(name, "produce", "--topic", topic, "--size", size, "--count", count, "--acks", "leader")

    def consume(self, name, topic, count):
        result = self.timed(name, "consume", "--topic", topic, "--from", "beginning", "--until-end", "--quiet")
        if result["records"] != count:
            raise Failure(f"{name}: {result['records']} records came back of {count}")

    def create(self, topic):
        command = [harness.CLI, "--server", self.node.server, "create-topic", "--name", topic]
        made = subprocess.run(command, capture_output=True, timeout=RUN_S, check=False)
        if made.returncode != 0:
            raise Failure(f"create-topic: {made.stderr.decode(errors='replace').strip()}")

    def small(self):
        plan = self.plan
        self.create("small")
        raw("raw_write", self.folder, plan.small_bytes)
        self.put(small_write_mb=raw("raw_write", self.folder, plan.small_bytes, SEGMENT)["mb_per_s"],
                 small_sink_mb=raw("raw_sink", plan.small_bytes, MIB)["mb_per_s"])
        self.produce("small", "small", 100, plan.small_count)
        self.consume("small_read", "small", plan.small_count)

    def large(self):
        """First with memory that the machine has at hand, then with memory that it has not."""
        plan = self.plan
        self.create("large")
        self.create("cold")
        raw("raw_write", self.folder, plan.large_bytes)
        self.put(bare_write_mb=raw("raw_write", self.folder, plan.large_bytes)["mb_per_s"],
                 roll_write_mb=raw("raw_write", self.folder, plan.large_bytes, SEGMENT)["mb_per_s"],
                 large_sink_mb=raw("raw_sink", plan.large_bytes, MIB)["mb_per_s"])
        raw("raw_write", self.folder, plan.large_bytes)
        self.produce("large", "large", 1024, plan.large_count)
        self.consume("large_read", "large", plan.large_count)
        time.sleep(plan.cool_s)
        self.produce("cold", "cold", 1024, plan.large_count)
        time.sleep(plan.cool_s)
        self.put(cold_write_mb=raw("raw_write", self.folder, plan.large_bytes, SEGMENT)["mb_per_s"])

    def latency(self):
        plan = self.plan
        trip = raw("raw_sink", 16 * plan.calls, 16)
        call = raw("raw_call", self.node.server, "small", plan.calls)
        self.create("paced")
        paced = streamit(self.node, "produce", "--topic", "paced", "--size", 100, "--count", plan.paced, "--rate", 1000,
                         "--acks", "leader")
        self.put(trip_us=1e6 / trip["round_trips_per_s"], call_us=call["p50_us"], call_p99_us=call["p99_us"],
                 ack_p50_ms=paced["latency_ms"]["p50"], ack_p99_ms=paced["latency_ms"]["p99"])

    def core(self):
        small, large = raw("raw_cpu", 100), raw("raw_cpu", 1024)
        self.put(crc_mb=large["crc32c_mb_per_s"], memcpy_mb=large["memcpy_mb_per_s"],
                 build_small_records=small["build_records_per_s"], build_large_mb=large["build_mb_per_s"])

    def run(self):
        try:
            self.start()
            self.idle()
            self.core()
            self.small()
            self.latency()
            self.large()
            if self.node.stop() != 0:
                raise Failure(f"the node ended badly:\n{self.node.log_text()}")
        finally:
            if self.node.process is not None:
                self.node.kill()
            shutil.rmtree(self.node.data_dir, ignore_errors=True)


# ---- the table

BATCH = "batches to 1 MiB, one in flight"
DISK = "onroll, segments of 128 MiB"

# Figure, its unit, the target as (sense, value), the limits as (text, name of the limit, factor into the figure's
# unit), and under which settings it holds. The ratio is figure / limit.
ROWS = (
    ("produce 100 B", "small_records", "records/s", (">=", 1_000_000),
     (("loopback TCP", "small_sink_mb", 1e4), ("write and sync on roll", "small_write_mb", 1e4),
      ("building batches", "build_small_records", 1)), f"acks=leader, 1 producer, 1 partition, {BATCH}, {DISK}"),
    ("produce 1 KiB", "large_mb", "MB/s", (">=", 500),
     (("loopback TCP", "large_sink_mb", 1), ("write and sync on roll", "roll_write_mb", 1),
      ("bare pwritev", "bare_write_mb", 1)), "the same; the memory of the page cache is at hand"),
    ("produce 1 KiB, cold memory", "cold_mb", "MB/s", None,
     (("write and sync on roll, cold", "cold_write_mb", 1),), "the same, after the machine has given free memory back"),
    ("consume 100 B, warm", "small_read_records", "records/s", None,
     (("loopback TCP", "small_sink_mb", 1e4),), "1 consumer, 1 partition, fetches of 1 MiB, every CRC checked"),
    ("consume 1 KiB, warm", "large_read_mb", "MB/s", None, (("loopback TCP", "large_sink_mb", 1),), "the same"),
    ("ack, median", "ack_p50_ms", "ms", None, (("a null call", "call_us", 1e-3),),
     "1,000 records/s of 100 B, acks=leader, linger 0"),
    ("ack, 99th percentile", "ack_p99_ms", "ms", None, (("a null call, p99", "call_p99_us", 1e-3),), "the same"),
    ("null call", "call_us", "us", None, (("loopback TCP round trip", "trip_us", 1),), "FindLeader, one after the other"),
    ("start to ready", "ready_ms", "ms", ("<=", 50), (("streamitd --check", "check_ms", 1),),
     "empty folder, all default plugins; from fork to the ready line"),
    ("anonymous memory, idle", "anon_mb", "MB", ("<=", 15), (), "RssAnon of the empty node"),
    ("CPU, idle", "idle_cpu_pct", "% of a core", ("<=", 1), (), "the empty node"),
)
CORES = (("produce 100 B", "small"), ("produce 1 KiB", "large"), ("produce 1 KiB, cold memory", "cold"),
         ("consume 100 B, warm", "small_read"), ("consume 1 KiB, warm", "large_read"))
RATES = (("CRC-32C", "crc_mb", "MB/s"), ("memcpy", "memcpy_mb", "MB/s"), ("building batches of 100 B records",
         "build_small_records", "records/s"), ("building batches of 1 KiB records", "build_large_mb", "MB/s"))


def number(value):
    """Three significant digits, without exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def meets(value, target):
    return target is None or (value >= target[1] if target[0] == ">=" else value <= target[1])


def median(rounds, name):
    return statistics.median(r[name] for r in rounds)


def spread(rounds, name):
    values = [r[name] for r in rounds]
    return f"{number(min(values))} .. {number(max(values))}"


def figures(rounds):
    """The table's rows as lists of texts, one line for each limit of a figure."""
    out = []
    for title, name, unit, target, limits, _ in ROWS:
        value = median(rounds, name)
        wanted = "" if target is None else f"{target[0]} {number(target[1])}"
        met = "" if target is None else "yes" if meets(value, target) else "NO"
        cells = [title, f"{number(value)} {unit}", spread(rounds, name), wanted, met]
        for text, limit, factor in limits or (("", None, 1),):
            # Ratios are taken round by round: the machine's state cancels out of them.
            ratio = "" if limit is None else f"{statistics.median(r[name] / (r[limit] * factor) for r in rounds):.2f}"
            top = "" if limit is None else number(median(rounds, limit) * factor)
            out.append(cells + [text, top, ratio])
            cells = [""] * 5
    return out


HEAD = ["figure", "median", "lowest .. highest", "target", "met", "limit, same round", "its median", "ratio"]


def plain(rows):
    widths = [max(len(row[i]) for row in [HEAD] + rows) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [HEAD] + rows]
    return "\n".join([lines[0], "-" * max(map(len, lines))] + lines[1:])


def markdown(rows, head):
    lines = ["| " + " | ".join(row) + " |" for row in [head] + rows]
    return "\n".join([lines[0], "|" + " --- |" * len(head)] + lines[1:])


def commit():
    def git(*args):
        return subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True, check=False).stdout.strip()
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (", with local changes" if git("status", "--porcelain",
                                                                                              "-uno") else "")


def field(path, key):
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return "unknown"


def file_system(folder):
    out = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False).stdout.strip()
    return out or "unknown"


def machine(folder):
    memory_gb = int(field("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 1e9
    virtual = "hypervisor" in field("/proc/cpuinfo", "flags").split()
    return [("machine", f"{os.cpu_count()} cores, {field('/proc/cpuinfo', 'model name')}, {memory_gb:.0f} GB, "
                        f"{'virtual' if virtual else 'bare metal'}"),
            ("kernel", f"{platform.system()} {platform.release()}"), ("file system", file_system(folder)),
            ("commit", commit()), ("when", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))]


def cores(rounds):
    """Per figure: cores busy on either side, and milliseconds of CPU for a MB, which the noise of others hardly moves."""
    out = []
    for title, name in CORES:
        row = [title]
        for side in ("_node_cpu", "_client_cpu"):
            cost = statistics.median(r[name + side] / r[name + "_mb"] for r in rounds) * 1e3
            row += [f"{median(rounds, name + side):.2f}", f"{cost:.2f}"]
        out.append(row)
    return out


def rates(rounds):
    return [[title, f"{number(median(rounds, name))} {unit}", spread(rounds, name)] for title, name, unit in RATES]


def document(rounds, facts):
    """docs/benchmarks.md."""
    settings = [[title, text] for title, _, _, _, _, text in ROWS]
    parts = ["# Benchmarks", "Written by `make build && bench/run.sh build --write`. How to read it: `bench/README.md`.",
             markdown([list(row) for row in facts], ["", ""]), markdown(figures(rounds), HEAD),
             "## Under which settings", markdown(settings, ["figure", "settings"]),
             "## Where the time goes", "Cores that each side kept busy, and its CPU for a MB of values; medians.",
             markdown(cores(rounds), ["figure", "node, cores", "node, ms/MB", "client, cores", "client, ms/MB"]),
             "## One core of this machine", markdown(rates(rounds), ["what", "median", "lowest .. highest"])]
    return "\n\n".join(parts) + "\n"


def others_sections(text):
    """What other programs have written behind ours, from the first of their marks on."""
    at = text.find("<!-- ")
    return "" if at < 0 else "\n" + text[at:]


def report(rounds, facts):
    print("\n".join(f"{name}: {text}" for name, text in facts))
    print("\n" + plain(figures(rounds)) + "\n")
    for title, name, unit, _, _, text in ROWS:
        print(f"{title} ({unit}): {text}")
    print("\ncores kept busy, and CPU for a MB")
    for title, node, node_ms, client, client_ms in cores(rounds):
        print(f"  {title}: node {node} ({node_ms} ms/MB), client {client} ({client_ms} ms/MB)")
    print("one core: " + "; ".join(f"{t} {v}" for t, v, _ in rates(rounds)))


# ---- the whole


def measure(folder, options):
    """All rounds that fit the budget."""
    plan, rounds, begin = Plan(options.quick), [], time.monotonic()
    longest = 0.0
    for turn in range(options.rounds):
        if rounds and time.monotonic() - begin + longest > options.budget_s:
            break
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
        out, started = {}, time.monotonic()
        Round(folder, turn, plan, out).run()
        rounds.append(out)
        longest = max(longest, time.monotonic() - started)
    return rounds


def others_share(before, own_s, elapsed_s):
    """How much of the machine others used meanwhile, and how much the hypervisor took, in percent."""
    busy, stolen = (after - first for after, first in zip(busy_s(), before))
    whole = elapsed_s * os.cpu_count() / 100
    return max(0.0, busy - own_s) / whole, stolen / whole


def go_first():
    """Take precedence over whatever else runs here. The scheduler weighs sessions first, then processes, hence both."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        if os.path.exists("/proc/self/autogroup"):
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(str(PRIORITY))
    except PermissionError:
        sys.exit("bench: --priority is for root")


def arguments():
    parser = argparse.ArgumentParser(description="Figures of this machine beside its limits.")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each figure (default 5)")
    parser.add_argument("--budget-s", type=float, default=210, help="begin no round that would pass it (default 210)")
    parser.add_argument("--dir", default=None, help="make the data folder here: which disk is measured")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--json", default=None, metavar="FILE", help="write every value of every round")
    parser.add_argument("--require", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--priority", action="store_true", help="on a busy machine: go before others (root)")
    parser.add_argument("--quick", action="store_true", help="prove that it works; the figures mean nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.quick and options.write:
        parser.error("--quick figures are not worth writing down")
    return options


def main():
    options = arguments()
    missing = [p for p in (harness.DAEMON, harness.CLI, os.path.join(harness.BUILD, "bench", "raw_sink"))
               if not os.access(p, os.X_OK)]
    if missing:
        sys.exit(f"bench: not built: {missing[0]}")
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda which, _: sys.exit(128 + which))
    if options.priority:
        go_first()
    folder = tempfile.mkdtemp(prefix="streamit-bench-", dir=options.dir)
    try:
        facts, before, own, begin = machine(folder), busy_s(), os.times(), time.monotonic()
        rounds = measure(folder, options)
        spent = sum(os.times()[:4]) - sum(own[:4])
        others, stolen = others_share(before, spent, time.monotonic() - begin)
        facts += [("rounds", str(len(rounds))), ("noise", f"others used {others:.0f} % of the cores meanwhile, the "
                                                          f"hypervisor took {stolen:.0f} %"
                                                          f"{'; the benchmark went first' if options.priority else ''}")]
    except (Failure, AssertionError, OSError, ValueError, KeyError) as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(rounds, facts)
    if options.json is not None:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"facts": dict(facts), "rounds": rounds}, file, indent=1)
    if options.write:
        path = os.path.join(ROOT, "docs", "benchmarks.md")
        with open(path, encoding="utf-8") as file:
            kept = others_sections(file.read())
        with open(path, "w", encoding="utf-8") as file:
            file.write(document(rounds, facts) + kept)
    missed = [title for title, name, _, target, _, _ in ROWS if not meets(median(rounds, name), target)]
    if missed and options.require:
        sys.exit("bench: missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
