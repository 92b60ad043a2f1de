"""What every benchmark here needs of the machine: processes that end, their CPU and memory, the noise of others."""

import csv
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import harness  # noqa: E402  (needs the path above, and STREAMIT_BUILD)

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
PRIORITY = -15
RUN_S = 90  # of any one process


class Failure(Exception):
    """The benchmark cannot go on; the text says why."""


class Skipped(Exception):
    """Something optional is not there; the text says what, and why that is."""


# ---- processes


def finish(process, args, limit_s=RUN_S):
    """Wait for a program's end. Returns its standard output; its failure is ours."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failure(f"no end within {limit_s} s: {' '.join(map(str, args))[:300]}") from None
    finally:
        harness._running.pop(process.pid, None)
    if process.returncode != 0:
        raise Failure(f"{' '.join(map(str, args))[:300]}: exit {process.returncode}: {err.decode(errors='replace').strip()}")
    return out


def run(args, limit_s=RUN_S):
    """Run a program to its end. Returns its standard output."""
    process = harness.spawn(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return finish(process, args, limit_s)


def run_json(args, limit_s=RUN_S):
    """The last line of a program's output, as an object."""
    return json.loads(run(args, limit_s).splitlines()[-1])


def raw(name, *args):
    """One of the limit programs."""
    return run_json([os.path.join(harness.BUILD, "bench", name), *map(str, args)])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_port(port, process, limit_s=10):
    """Seconds until something accepts on the port."""
    begin = time.monotonic()
    while time.monotonic() < begin + limit_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return time.monotonic() - begin
        if process.poll() is not None:
            raise Skipped(f"it ended with {process.returncode}")
        time.sleep(0.0005)
    raise Skipped(f"it does not listen within {limit_s} s")


def end(process):
    """Stop a program of ours, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    harness._running.pop(process.pid, None)


def csv_rows(text):
    return list(csv.DictReader(text.decode(errors="replace").splitlines()))


# ---- CPU, memory, disk


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


def anonymous_mb(pid):
    """RssAnon: memory that no file stands behind."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    raise Failure("/proc/PID/status has no RssAnon")


def idle_cpu_pct(pid, seconds):
    """Percent of one core that a process uses over a time."""
    begin, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - begin) * 100


def allocated(folder):
    """Bytes that the files of a folder take on the disk, whatever their length is."""
    total = 0
    for where, _, files in os.walk(folder):
        total += sum(os.lstat(os.path.join(where, name)).st_blocks * 512 for name in files)
    return total


def need_disk(folder, wanted):
    """Refuse before anything is written, rather than fill the disk."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise Failure(f"{folder} has {free / 1e9:.1f} GB free, and this needs {wanted / 1e9:.1f} GB: choose rows, or a folder "
                      "with --dir")


def busy_s():
    """CPU seconds that the whole machine has worked, and those that the hypervisor took."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(n) for n in file.readline().split()[1:9]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS, fields[7] / TICKS


def own_s():
    """CPU seconds of this program and all that it has waited for."""
    return sum(os.times()[:4])


def others_share(before, spent_s, elapsed_s):
    """How much of the machine others used meanwhile, and how much the hypervisor took, in percent."""
    busy, stolen = (after - first for after, first in zip(busy_s(), before))
    whole = elapsed_s * CORES / 100
    return max(0.0, busy - spent_s) / whole, stolen / whole


def go_first():
    """Take precedence over whatever else runs here. The scheduler weighs sessions first, then processes, hence both."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        if os.path.exists("/proc/self/autogroup"):
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(str(PRIORITY))
    except PermissionError:
        sys.exit("bench: --priority is for root")


# ---- what was measured, and where


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
    return [("machine", f"{CORES} cores, {field('/proc/cpuinfo', 'model name')}, {memory_gb:.0f} GB, "
                        f"{'virtual' if virtual else 'bare metal'}"),
            ("kernel", f"{platform.system()} {platform.release()}"), ("file system", file_system(folder)),
            ("commit", commit()), ("when", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))]


# ---- histograms as `streamit bench --histogram` keeps them


def merge(histograms):
    """Several as one."""
    counts = {}
    for one in histograms:
        for low, high, count in one["buckets"]:
            counts[(low, high)] = counts.get((low, high), 0) + count
    return {"count": sum(one["count"] for one in histograms), "max": max((one["max"] for one in histograms), default=0),
            "buckets": [[low, high, count] for (low, high), count in sorted(counts.items())]}


def percentile_ms(histogram, q):
    """What the fraction q of all values does not pass, at most 1/64 too high."""
    seen = 0
    for _, high, count in histogram["buckets"]:
        seen += count
        if seen >= q * histogram["count"]:
            return min(high, histogram["max"]) / 1000
    return 0.0
